//! What the gateway adds to the Admin API, under `/portcullis/v1`.
//!
//! Failures and their catalogue, validation without storing, what is served now, how references to
//! secrets fare, the record of changes, probes, the report on FIPS mode and the module's self-test.
//! Never inside APISIX's paths, so that no client of its meets it by accident.

mod audit;
mod probe;

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::apisix;
use super::call::Call;
use super::reply::{self, Answer, Refusal};
use crate::control::evidence::EvidenceError;
use crate::control::{Put, WriteError};
use crate::crypto::fips::FipsError;
use crate::failure::Reason;
use crate::resource::fault::Faults;
use crate::resource::{self, Document, Id, Kind};
use crate::secrets::custody::Opened;
use crate::telemetry::failures::KEPT_COUNT;

/// How many failures are shown unless `limit` says otherwise.
const SHOWN_COUNT: usize = 100;

/// Answers a request whose path under `/portcullis/v1` is these words.
pub(super) async fn answer(call: &mut Call<'_>, words: &[&str]) -> Result<Answer, Refusal> {
    match (&call.head.method, words) {
        (&Method::GET, ["failures"]) => failures(call),
        (&Method::GET, ["failures", code]) => Reason::from_code(code)
            .map(|reason| Answer::ok(reason.entry()))
            .ok_or(Refusal::NoPath),
        (&Method::GET, ["snapshot"]) => Ok(Answer::ok(snapshot(call))),
        (&Method::GET, ["audit"]) => audit::list(call).await,
        (&Method::GET, ["audit", "verify"]) => audit::verify(call).await,
        (&Method::GET, ["secrets"]) => {
            let list = call.state.control.references();
            Ok(Answer::ok(json!({ "total": list.len(), "list": list })))
        }
        (&Method::GET, ["fips"]) => Ok(fips(call).await),
        (&Method::POST, ["fips", "self-test"]) => Ok(self_test(call).await),
        (&Method::POST, ["probe", word, id]) => probe::probe(call, word, id).await,
        (&Method::POST, ["validate", word]) => validate(call, word).await,
        _ => Err(Refusal::NoPath),
    }
}

/// The last failures, newest first, and how often each reason occurred since the start.
///
/// `?reason=` narrows to one, `?limit=` to so many (default 100).
fn failures(call: &Call<'_>) -> Result<Answer, Refusal> {
    let query = &call.head.query;
    let reason = match query.find("reason") {
        Some(code) => Some(Reason::from_code(code).ok_or(Refusal::NoPath)?),
        None => None,
    };
    let limit = query
        .find("limit")
        .and_then(|limit| limit.parse().ok())
        .unwrap_or(SHOWN_COUNT);
    let latest = call.state.failures.latest(limit.min(KEPT_COUNT), reason);
    let list: Vec<Value> = latest.iter().map(|failure| failure.to_json()).collect();
    let counts: BTreeMap<&str, u64> = call
        .state
        .failures
        .counts()
        .into_iter()
        .map(|(reason, count)| (reason.code(), count))
        .collect();
    Ok(Answer::ok(
        json!({ "total": list.len(), "list": list, "counts": counts }),
    ))
}

/// What is served now.
fn snapshot(call: &Call<'_>) -> Value {
    let snapshot = call.state.live.load();
    json!({
        "version": snapshot.version,
        "revision": snapshot.revision.0,
        "ready": call.state.control.is_ready(),
        "counts": {
            "names": snapshot.names.len(),
            "routes": snapshot.routes.len(),
            "services": snapshot.services.len(),
            "upstreams": snapshot.upstreams.len(),
        },
    })
}

/// The report on FIPS mode; `?sign=true` has it signed.
async fn fips(call: &Call<'_>) -> Answer {
    let is_signed = match call.head.query.find("sign") {
        None | Some("false") => false,
        Some("true" | "") => true,
        Some(_) => {
            let text = "`sign` is neither `true` nor `false`; write `?sign=true`, or leave it out";
            return Answer::error(StatusCode::BAD_REQUEST, text);
        }
    };
    let around = call.state.evidence.clone();
    match call.state.control.evidence(around, is_signed).await {
        Ok(report) => Answer::ok(report),
        Err(error @ EvidenceError::NoSigner) => {
            Answer::error(StatusCode::BAD_REQUEST, &error.to_string())
        }
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            tracing::error!(error, "no report on FIPS mode");
            Answer::error(StatusCode::SERVICE_UNAVAILABLE, &error.to_string())
        }
    }
}

/// Has the FIPS module test itself now.
async fn self_test(call: &Call<'_>) -> Answer {
    match call.state.control.self_test().await {
        Ok(()) => Answer::ok(json!({ "self_test": "passed" })),
        Err(error @ FipsError::NotStarted) => {
            Answer::error(StatusCode::BAD_REQUEST, &error.to_string())
        }
        Err(error) => Answer::error(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    }
}

/// All that a PUT of the body would be refused or warned for. Nothing is stored.
async fn validate(call: &mut Call<'_>, word: &str) -> Result<Answer, Refusal> {
    let kind = Kind::from_plural(word)
        .or_else(|| Kind::ALL.into_iter().find(|kind| kind.singular() == word))
        .ok_or_else(|| Refusal::UnknownResource(word.to_owned()))?;
    let body = call.read_body().await?.ok_or(Refusal::NoConfiguration)?;
    let document = Opened::new(kind, apisix::object(body)?);
    let id = match id(kind, call.head.query.find("id"), &document) {
        Ok(id) => id,
        Err(faults) => return Ok(faulty(&faults)),
    };
    match call
        .state
        .control
        .validate(Put {
            kind,
            id,
            document,
            flavour: call.flavour,
            actor: call.actor.clone(),
            if_match: None,
            allow_weaker: call.allows_weaker(),
            ttl: None,
        })
        .await
    {
        Ok(warnings) => Ok(Answer::ok(json!({
            "valid": true,
            "warnings": reply::warnings_json(&warnings),
        }))),
        Err(WriteError::Invalid(faults)) => Ok(faulty(&faults)),
        Err(error) => Err(error.into()),
    }
}

/// The id of `?id=` or of the document; one that is free to be any, where there is none.
fn id(kind: Kind, given: Option<&str>, document: &Document) -> Result<Id, Faults> {
    let given = match (given, kind) {
        (None, Kind::Ssl | Kind::Upstream | Kind::Service | Kind::Route)
            if !document.contains_key("id") =>
        {
            Some("unnamed")
        }
        (given, _) => given,
    };
    resource::check_envelope(kind, given, document)
}

fn faulty(faults: &Faults) -> Answer {
    let list: Vec<Value> = faults
        .0
        .iter()
        .map(|fault| json!({ "pointer": fault.pointer, "reason": fault.told() }))
        .collect();
    let error_msg = faults.message();
    let told = json!({ "valid": false, "error_msg": error_msg, "faults": list });
    Answer::json(StatusCode::BAD_REQUEST, told).with_hint(faults.hint())
}

#[cfg(test)]
mod tests {
    use super::*;

    use super::super::testing::Room;
    use crate::telemetry::access;

    #[tokio::test]
    async fn failures_are_listed_counted_and_narrowed() {
        let room = Room::new();
        let peer = "192.0.2.1:5000".parse().unwrap();
        let record = access::Record::new(access::Kind::Handshake, 1, "https", peer);
        for reason in [Reason::SniUnknown, Reason::SniMissing, Reason::SniUnknown] {
            room.0.failures.push(&record, reason);
        }
        let all = room
            .ask("GET", "/portcullis/v1/failures", "", 200)
            .await
            .json();
        assert_eq!(all["total"], 3);
        assert_eq!(all["counts"], json!({"sni_missing": 1, "sni_unknown": 2}));
        assert_eq!(all["list"][0]["reason"], "sni_unknown");
        for (query, total) in [("reason=sni_missing", 1), ("limit=2", 2)] {
            let path = format!("/portcullis/v1/failures?{query}");
            assert_eq!(
                room.ask("GET", &path, "", 200).await.json()["total"],
                total,
                "{query}"
            );
        }
        room.ask("GET", "/portcullis/v1/failures?reason=none_such", "", 404)
            .await;
    }

    #[tokio::test]
    async fn catalogue_entry_has_meaning_and_remedy() {
        let room = Room::new();
        for reason in Reason::ALL {
            let path = format!("/portcullis/v1/failures/{reason}");
            let told = room.ask("GET", &path, "", 200).await.json();
            assert_eq!(told["reason"], reason.code());
            assert_eq!(told["remedy"], reason.remedy());
        }
        room.ask("GET", "/portcullis/v1/failures/none_such", "", 404)
            .await;
    }

    #[tokio::test]
    async fn validation_names_every_fault_and_stores_nothing() {
        let room = Room::new();
        let bad = r#"{"uri":1,"bad":true}"#;
        for word in ["routes", "route"] {
            let path = format!("/portcullis/v1/validate/{word}");
            let told = room.ask("POST", &path, bad, 400).await.json();
            assert_eq!(told["valid"], false);
            assert!(
                told["error_msg"]
                    .as_str()
                    .unwrap()
                    .starts_with("invalid configuration: ")
            );
            let faults = told["faults"].as_array().unwrap();
            assert!(faults.len() >= 2, "{told}");
            assert!(faults.iter().all(|fault| fault["pointer"].is_string()));
            let good = r#"{"uri":"/x","upstream":{"nodes":{"127.0.0.1:80":1}}}"#;
            let told = room.ask("POST", &path, good, 200).await.json();
            assert_eq!(told["valid"], true);
        }
        assert_eq!(
            room.ask("GET", "/apisix/admin/routes", "", 200)
                .await
                .json()["total"],
            0
        );
        room.ask("POST", "/portcullis/v1/validate/nothing", "{}", 404)
            .await;
        let told = room
            .ask("POST", "/portcullis/v1/validate/secrets", "{}", 400)
            .await
            .json();
        assert_eq!(told["error_msg"], "missing secret id");
    }

    #[tokio::test]
    async fn report_is_for_viewers_too_and_signed_only_with_a_key() {
        let room = Room::new();
        let report = room.ask("GET", "/portcullis/v1/fips", "", 200).await.json();
        assert_eq!(report["fips"], "off");
        let told = room
            .ask("GET", "/portcullis/v1/fips?sign=true", "", 400)
            .await;
        let text = told.json()["error_msg"].to_string();
        assert!(text.contains("set `fips_report_key`"), "{text}");
        room.ask("GET", "/portcullis/v1/fips?sign=perhaps", "", 400)
            .await;
    }

    #[tokio::test]
    async fn self_test_needs_a_module() {
        let path = "/portcullis/v1/fips/self-test";
        let told = Room::new().ask("POST", path, "", 400).await.json();
        let text = told["error_msg"].as_str().unwrap();
        assert!(
            text.starts_with("there is no FIPS module to test"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn snapshot_is_described() {
        let told = Room::new()
            .ask("GET", "/portcullis/v1/snapshot", "", 200)
            .await
            .json();
        assert!(told["version"].is_u64() && told["revision"].is_u64());
        let counts = json!({"names": 0, "routes": 0, "services": 0, "upstreams": 0});
        assert_eq!(told["counts"], counts);
    }
}
