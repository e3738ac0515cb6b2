//! `/portcullis/v1/probe/{kinds}/{id}`: handshakes with the nodes that an object leads to.

use http::StatusCode;
use http::header::{HeaderValue, RETRY_AFTER};

use super::super::call::Call;
use super::super::reply::{Answer, Refusal};
use crate::control::probe::{Probe, ProbeError, host};
use crate::resource::Kind;

/// Probes an object. `?host=` is the host that a client would ask for.
pub(super) async fn probe(call: &Call<'_>, word: &str, id: &str) -> Result<Answer, Refusal> {
    let kind = match Kind::from_plural(word) {
        Some(kind @ (Kind::Upstream | Kind::Service | Kind::Route)) => kind,
        Some(Kind::Ssl | Kind::Secret) | None => return Err(Refusal::NoPath),
    };
    let id = id.parse().map_err(|_not_an_id| Refusal::NoObject)?;
    let probed = match call.head.query.find("host").map(host).transpose() {
        Ok(host) => call.state.control.probe(Probe { kind, id, host }).await,
        Err(error) => Err(error),
    };
    let error = match probed {
        Ok(report) => {
            let (caller, request_id) = (&call.actor.name, &call.actor.request_id);
            tracing::info!(
                caller,
                request_id,
                object = report.object,
                good = report.is_good,
                "admin: probed"
            );
            return Ok(Answer::ok(report.to_json()));
        }
        Err(error) => error,
    };
    let text = error.to_string();
    Ok(match error {
        ProbeError::NotFound => return Err(Refusal::NoObject),
        ProbeError::Internal => return Err(Refusal::Internal),
        ProbeError::NoUpstream(_) | ProbeError::NoHost(_) | ProbeError::BadHost(_) => {
            Answer::error(StatusCode::BAD_REQUEST, &text)
        }
        ProbeError::Changed | ProbeError::NotReady => {
            Answer::error(StatusCode::SERVICE_UNAVAILABLE, &text)
        }
        ProbeError::TooMany(wait) => {
            let mut answer = Answer::error(StatusCode::TOO_MANY_REQUESTS, &text);
            let seconds = HeaderValue::from(wait.as_secs().max(1));
            answer.headers.insert(RETRY_AFTER, seconds);
            answer
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::Listener;
    use super::super::super::testing::{Room, VIEWER};

    const PROBE: &str = "/portcullis/v1/probe";

    /// A room with a route without nodes, and one that passes the client's host on over TLS.
    async fn room() -> Room {
        let room = Room::new();
        let empty = json!({"uri": "/e", "upstream": {"nodes": {}}});
        let pass = json!({"uri": "/p", "upstream": {"scheme": "https", "nodes": {"127.0.0.1:1": 1},
            "timeout": {"connect": 1, "send": 1, "read": 1}}});
        for (id, route) in [("e", empty), ("p", pass)] {
            let path = format!("/apisix/admin/routes/{id}");
            room.ask("PUT", &path, &route.to_string(), 201).await;
        }
        room
    }

    #[tokio::test]
    async fn what_cannot_be_probed_is_refused_in_a_sentence() {
        let room = room().await;
        for (path, status, says) in [
            ("routes/none", 404, "Key not found"),
            ("routes/a%20b", 404, "Key not found"),
            ("ssls/x", 404, "not found"),
            ("127.0.0.1:1/x", 404, "not found"),
            ("routes/p", 400, "`?host=NAME`"),
            ("routes/p?host=a%00b", 400, "`host` is no host name"),
        ] {
            let told = room
                .ask("POST", &format!("{PROBE}/{path}"), "", status)
                .await;
            assert!(told.text.contains(says), "{path}: {}", told.text);
        }
        let told = room
            .ask("POST", &format!("{PROBE}/routes/e"), "", 200)
            .await;
        let told = told.json();
        assert_eq!(told["good"], false);
        assert_eq!(
            told["verdict"],
            "route/e has no node: its requests are answered with 503."
        );
        let key = [("x-api-key", VIEWER)];
        let path = format!("{PROBE}/routes/e");
        let told = room
            .ask_with(Listener::Http9180, "POST", &path, &key, "")
            .await;
        assert_eq!(told.status, 401);
    }

    #[tokio::test]
    async fn too_many_probes_are_refused_until_later() {
        let room = room().await;
        let path = format!("{PROBE}/routes/e");
        for _ in 0..20 {
            room.ask("POST", &path, "", 200).await;
        }
        let told = room.ask("POST", &path, "", 429).await;
        assert!(told.text.contains("try again in"), "{}", told.text);
        let wait: u64 = told.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=10).contains(&wait));
    }
}
