//! The status pages: metrics, liveness, readiness, and what `a6` asks of APISIX's control API.
//!
//! No key is asked for, so nothing here names a peer or an address of ours, nor, but for those
//! whose nodes are checked, a resource.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use warp::Filter;
use warp::reply::Response;

use super::health::{self, Naming};
use super::judge;
use super::reply::{Answer, Refusal};
use super::request::Head;
use crate::control::{Checked, Control};
use crate::resource::{Kind, shown};
use crate::telemetry::metrics::Metrics;

/// Content type of Prometheus' text format.
const METRICS_MEDIA: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the status pages show.
pub struct Status {
    /// Whether what is stored is served.
    pub control: Control,
    /// The process's metrics.
    pub metrics: Arc<Metrics>,
    /// How objects are named.
    pub naming: Naming,
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
            ["v1", "healthcheck"] => self.health(head),
            ["v1", "healthcheck", kind] => Answer::json(
                StatusCode::NOT_FOUND,
                told(&format!("missing src id for src type {}", shown(kind))),
            ),
            ["v1", "healthcheck", kind, id] => self.health_of(kind, id, head),
            ["v1", "schema"] => Answer::ok(json!({
                "main": judge::schemas(),
                "plugins": judge::plugins(),
                "stream_plugins": {},
            })),
            _ => Refusal::NoPath.into_answer(),
        }
    }

    /// Every upstream with checks.
    fn health(&self, head: &Head) -> Answer {
        health::every(&self.control.checked(), self.naming, &head.headers)
    }

    /// The same of one object: an upstream, or a route or service that holds one.
    fn health_of(&self, word: &str, id: &str, head: &Head) -> Answer {
        let kind = Kind::from_plural(word);
        let kind = kind.filter(|kind| matches!(kind, Kind::Route | Kind::Service | Kind::Upstream));
        let Some(kind) = kind else {
            let text = format!("invalid src type {}", shown(word));
            return Answer::json(StatusCode::BAD_REQUEST, told(&text));
        };
        let checked = self.control.checked();
        let is_meant = |it: &&Checked| it.owner.kind == kind && it.owner.id.as_str() == id;
        if let Some(checked) = checked.iter().find(is_meant) {
            return health::one(checked, self.naming, &head.headers);
        }
        let is_there = id.parse().is_ok_and(|id| self.control.holds(kind, &id));
        let text = match is_there {
            true => format!("no checker for {word}[{}]", shown(id)),
            false => format!("{word}[{}] not found", shown(id)),
        };
        Answer::json(StatusCode::NOT_FOUND, told(&text))
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

fn told(text: &str) -> Value {
    json!({ "error_msg": text })
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
            naming: Naming::Stored,
        })
    }

    #[tokio::test]
    async fn pages_are_shown_without_a_key() {
        let state = state();
        for (path, body) in [
            ("/status", "{\"status\":\"ok\"}\n"),
            ("/status/ready", "{\"status\":\"ok\"}\n"),
            ("/v1/healthcheck", "{}\n"),
        ] {
            assert_eq!(
                ask(&state, "GET", path).await,
                (200, body.to_owned()),
                "{path}"
            );
        }
    }

    #[tokio::test]
    async fn schemas_tell_which_plugin_goes_first() {
        let (status, text) = ask(&state(), "GET", "/v1/schema").await;
        let shown: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(status, 200);
        assert_eq!(shown["plugins"]["proxy-rewrite"]["priority"], 1008);
        assert_eq!(
            shown["plugins"]["proxy-rewrite"]["schema"]["type"],
            "object"
        );
        for kind in ["route", "service", "ssl", "upstream"] {
            assert_eq!(shown["main"][kind]["type"], "object", "{kind}");
        }
        assert_eq!(shown["stream_plugins"], json!({}));
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
    async fn health_of_what_is_not_checked_is_told_as_apisix_tells_it() {
        let state = state();
        for (path, status, text) in [
            (
                "/v1/healthcheck/upstreams",
                404,
                "missing src id for src type upstreams",
            ),
            ("/v1/healthcheck/upstreams/1", 404, "upstreams[1] not found"),
            ("/v1/healthcheck/ssls/1", 400, "invalid src type ssls"),
        ] {
            let body = format!("{{\"error_msg\":\"{text}\"}}\n");
            assert_eq!(ask(&state, "GET", path).await, (status, body), "{path}");
        }
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
