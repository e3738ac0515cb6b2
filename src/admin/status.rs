//! The status pages: metrics, liveness, readiness, and what `a6` asks of APISIX's control API.
//!
//! No key is asked for, so nothing here names a resource, a peer or an address.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::json;
use warp::Filter;
use warp::reply::Response;

use super::reply::{Answer, Refusal};
use super::request::Head;
use crate::control::Control;
use crate::telemetry::metrics::Metrics;

/// Content type of Prometheus' text format.
const METRICS_MEDIA: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the status pages show.
pub struct Status {
    /// Whether what is stored is served.
    pub control: Control,
    /// The process's metrics.
    pub metrics: Arc<Metrics>,
}

/// The status pages as a filter that answers every request.
pub fn status(
    state: Arc<Status>,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static {
    super::request_head().map(move |head: Head| state.answer(&head).into_response())
}

impl Status {
    fn answer(&self, head: &Head) -> Answer {
        let segments = head.segments.as_deref().unwrap_or_default();
        let words: Vec<&str> = segments.iter().map(String::as_str).collect();
        if !matches!(head.method, Method::GET | Method::HEAD) {
            return Refusal::NoPath.into_answer();
        }
        match words.as_slice() {
            ["status"] => Answer::ok(json!({ "status": "ok" })),
            ["status", "ready"] => self.ready(),
            ["apisix", "prometheus", "metrics"] => self.metrics(),
            // There are no active health checks to show.
            ["v1", "healthcheck"] => Answer::ok(json!([])),
            ["v1", "schema"] => {
                Answer::ok(json!({ "main": {}, "plugins": {}, "stream_plugins": {} }))
            }
            _ => Refusal::NoPath.into_answer(),
        }
    }

    /// 503 until everything stored was compiled and published, and once the FIPS module failed.
    fn ready(&self) -> Answer {
        if self.control.is_ready() {
            return Answer::ok(json!({ "status": "ok" }));
        }
        let error = if self.control.is_operational() {
            "the configuration is not served yet"
        } else {
            "the FIPS module is in its error state"
        };
        let body = json!({ "status": "error", "error": error });
        Answer::json(StatusCode::SERVICE_UNAVAILABLE, body)
    }

    fn metrics(&self) -> Answer {
        match self.metrics.render() {
            Ok(text) => Answer::text(StatusCode::OK, METRICS_MEDIA, text),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "status: no metrics");
                Refusal::Internal.into_answer()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use super::super::testing::{control, tell};
    use crate::failure::Reason;

    async fn ask(state: &Arc<Status>, method: &str, path: &str) -> (u16, String) {
        let request = http::Request::builder().method(method).uri(path);
        let told = tell(status(Arc::clone(state)), request, "").await;
        (told.status, told.text)
    }

    fn state() -> Arc<Status> {
        Arc::new(Status {
            control: control(&Arc::default()),
            metrics: Arc::new(Metrics::new().unwrap()),
        })
    }

    #[tokio::test]
    async fn pages_are_shown_without_a_key() {
        let state = state();
        for (path, body) in [
            ("/status", "{\"status\":\"ok\"}\n"),
            ("/status/ready", "{\"status\":\"ok\"}\n"),
            ("/v1/healthcheck", "[]\n"),
            (
                "/v1/schema",
                "{\"main\":{},\"plugins\":{},\"stream_plugins\":{}}\n",
            ),
        ] {
            assert_eq!(
                ask(&state, "GET", path).await,
                (200, body.to_owned()),
                "{path}"
            );
        }
    }

    #[tokio::test]
    async fn metrics_are_in_prometheus_text() {
        let state = state();
        state.metrics.failure(Reason::SniUnknown);
        let (status, text) = ask(&state, "GET", "/apisix/prometheus/metrics").await;
        assert_eq!(status, 200);
        assert!(text.contains("reason=\"sni_unknown\"} 1\n"), "{text}");
    }

    #[tokio::test]
    async fn anything_else_is_404() {
        let state = state();
        for (method, path) in [
            ("GET", "/"),
            ("POST", "/status"),
            ("GET", "/apisix/admin/routes"),
            ("GET", "/%zz"),
        ] {
            assert_eq!(ask(&state, method, path).await.0, 404, "{method} {path}");
        }
    }
}
