//! `/portcullis/v1/audit`: who changed what, and whether the record of it is whole.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::super::call::Call;
use super::super::reply::{Answer, Refusal};
use super::super::request::Query;
use crate::control::WriteError;
use crate::control::audit::{AuditPage, AuditQuery, PAGE_RECORDS};
use crate::resource::{Id, Kind, shown};
use crate::store::audit::{Action, Record, VerifyError};
use crate::telemetry::time::{parse_seconds, rfc3339_millis};

/// How many records are shown unless `limit` says otherwise.
const SHOWN_COUNT: usize = 100;
/// Members of a query that are read before it comes here.
const READ_BEFORE: [&str; 2] = ["gateway_group_id", "api_key"];

/// A page of records, newest first; `next` is `before` of the one after it.
pub(super) async fn list(call: &Call<'_>) -> Result<Answer, Refusal> {
    let query = match parse(&call.head.query) {
        Ok(query) => query,
        Err(sentence) => return Ok(Answer::error(StatusCode::BAD_REQUEST, &sentence)),
    };
    let AuditPage {
        records,
        total,
        next,
    } = call.state.control.audit(query).await?;
    let list: Vec<Value> = records.iter().map(to_json).collect();
    Ok(Answer::ok(
        json!({ "total": total, "list": list, "next": next }),
    ))
}

/// Whether the chain of all records is whole, and its head, which the process log has as well.
pub(super) async fn verify(call: &Call<'_>) -> Result<Answer, Refusal> {
    let verdict = match call.state.control.verify_audit().await? {
        Ok(head) => json!({
            "valid": true,
            "audit_count": head.count,
            "audit_mac": head.mac.to_string(),
            "verdict": format!(
                "all {} records follow from each other; records cut off at the end, or an older \
                 file put back, show by `audit_count` and `audit_mac` of the process log",
                head.count
            ),
        }),
        Err(VerifyError::Broken(broken)) => {
            tracing::error!(seq = broken.seq, "the audit chain is broken");
            json!({ "valid": false, "broken_at": broken.seq, "verdict": broken.to_string() })
        }
        Err(VerifyError::Store(error)) => {
            return Err(Refusal::Write(WriteError::Store(Arc::new(error))));
        }
        Err(VerifyError::Crypto(error)) => {
            let error: &dyn std::error::Error = &error;
            tracing::error!(error, "the audit chain was not verified");
            return Err(Refusal::Internal);
        }
    };
    Ok(Answer::ok(verdict))
}

fn to_json(record: &Record) -> Value {
    json!({
        "seq": record.seq,
        "time": rfc3339_millis(record.origin.time_ms),
        "actor": record.origin.actor,
        "action": record.action.as_str(),
        "kind": record.kind.singular(),
        "id": record.id.as_str(),
        "changed": record.changed,
        "weakens": record.weakens,
        "revision": record.revision.0,
        "request_id": record.origin.request_id,
        "mac": record.mac.to_string(),
    })
}

/// Reads a query. A member that is unknown is refused: with a filter that is misspelt, everything
/// would pass for what was asked for.
fn parse(query: &Query) -> Result<AuditQuery, String> {
    let mut parsed = AuditQuery {
        limit: SHOWN_COUNT,
        ..AuditQuery::default()
    };
    for (name, text) in query.iter() {
        let wrong = |must: &str| format!("invalid argument {name}: {must}");
        match name {
            "limit" => {
                let limit = text.parse().ok();
                let limit = limit.filter(|limit| (1..=PAGE_RECORDS).contains(limit));
                parsed.limit = limit
                    .ok_or_else(|| wrong(&format!("it must be between 1 and {PAGE_RECORDS}")))?;
            }
            "before" => {
                let before = text.parse().ok().filter(|before| *before > 0);
                parsed.before = Some(before.ok_or_else(|| {
                    wrong("it must be a sequence number, such as `next` of the page before")
                })?);
            }
            "kind" => {
                let kind = Kind::ALL
                    .into_iter()
                    .find(|kind| [kind.singular(), kind.plural()].contains(&text));
                let words = "it must be ssl, upstream, service, route or secret";
                parsed.kind = Some(kind.ok_or_else(|| wrong(words))?);
            }
            "id" => {
                let id = text.parse::<Id>();
                parsed.id = Some(id.map_err(|_not_an_id| wrong("there is no such id"))?);
            }
            "actor" => parsed.actor = Some(text.to_owned()),
            "action" => {
                let action = Action::parse(text);
                parsed.action = Some(
                    action.ok_or_else(|| wrong("it must be create, update, delete or refresh"))?,
                );
            }
            "since" => parsed.since_ms = Some(time(text).ok_or_else(|| wrong(TIME))?),
            "until" => parsed.until_ms = Some(time(text).ok_or_else(|| wrong(TIME))?),
            "weakens" => {
                parsed.weakens = match text {
                    "true" | "" => true,
                    "false" => false,
                    _ => return Err(wrong("it must be true or false")),
                }
            }
            _ if READ_BEFORE.contains(&name) => {}
            _ => {
                return Err(format!(
                    "unknown argument {}; there are limit, before, kind, id, actor, action, \
                     since, until and weakens",
                    shown(name)
                ));
            }
        }
    }
    Ok(parsed)
}

const TIME: &str = "it must be a date or time of UTC, such as 2026-04-14 or 2026-04-14T12:00:00Z";

/// Milliseconds since the epoch.
fn time(text: &str) -> Option<u64> {
    u64::try_from(parse_seconds(text)?).ok()?.checked_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    use super::super::super::testing::Room;

    const AUDIT: &str = "/portcullis/v1/audit";
    const ROUTE: &str = r#"{"uri":"/x","upstream":{"nodes":{"127.0.0.1:80":1}}}"#;

    /// A room with 25 routes, every second one deleted again.
    async fn room() -> Room {
        let room = Room::new();
        for number in 0..25 {
            let path = format!("/apisix/admin/routes/{number}");
            room.ask("PUT", &path, ROUTE, 201).await;
            if number % 2 == 0 {
                room.ask("DELETE", &path, "", 200).await;
            }
        }
        room
    }

    async fn listed(room: &Room, query: &str) -> (Vec<u64>, Option<u64>) {
        let told = room.ask("GET", &format!("{AUDIT}?{query}"), "", 200).await;
        let told = told.json();
        assert_eq!(told["total"], 38);
        let list = told["list"].as_array().unwrap();
        let numbers = list.iter().map(|record| record["seq"].as_u64().unwrap());
        (numbers.collect(), told["next"].as_u64())
    }

    #[tokio::test]
    async fn pages_lead_from_the_newest_record_to_the_first() {
        let room = room().await;
        let mut all = Vec::new();
        let mut query = "limit=7".to_owned();
        let mut pages = 0;
        loop {
            let (numbers, next) = listed(&room, &query).await;
            all.extend(numbers);
            pages += 1;
            let Some(next) = next else { break };
            query = format!("limit=7&before={next}");
        }
        assert_eq!(all, (1..=38).rev().collect::<Vec<_>>());
        assert_eq!(pages, 6);
        // A page that ends with the first record is the last.
        assert_eq!(listed(&room, "limit=19&before=20").await.1, None);
        assert_eq!(listed(&room, "before=1").await, (vec![], None));
    }

    #[tokio::test]
    async fn records_are_narrowed_and_say_who_did_what() {
        let room = room().await;
        for (query, count) in [
            ("", 38),
            ("action=delete", 13),
            ("kind=route&action=create", 25),
            ("kind=ssls", 0),
            ("id=4", 2),
            ("id=4&action=update", 0),
            ("actor=admin", 38),
            ("actor=viewer", 0),
            ("since=2020-01-01", 38),
            ("until=2020-01-01T00:00:00Z", 0),
            ("weakens=true", 0),
            ("weakens=false&gateway_group_id=default", 38),
        ] {
            assert_eq!(listed(&room, query).await.0.len(), count, "{query}");
        }
        let told = room.ask("GET", &format!("{AUDIT}?id=4"), "", 200).await;
        let list = told.json()["list"].clone();
        assert_eq!(
            (&list[0]["action"], &list[1]["action"]),
            (&json!("delete"), &json!("create"))
        );
        assert_eq!(list[0]["actor"], "admin");
        assert_eq!(
            (&list[0]["kind"], &list[0]["id"]),
            (&json!("route"), &json!("4"))
        );
        assert!(list[0]["time"].as_str().unwrap().ends_with('Z'));
        assert_eq!(list[0]["mac"].as_str().unwrap().len(), 64);
    }

    #[tokio::test]
    async fn argument_that_cannot_be_meant_is_refused_by_name() {
        let room = Room::new();
        for (query, says) in [
            ("limit=0", "limit: it must be between 1 and 1000"),
            ("limit=1001", "limit: it must be between 1 and 1000"),
            ("before=x", "before: it must be a sequence number"),
            ("kind=consumer", "kind: it must be ssl, upstream"),
            ("id=a%20b", "id: there is no such id"),
            (
                "action=put",
                "action: it must be create, update, delete or refresh",
            ),
            ("since=yesterday", "since: it must be a date or time of UTC"),
            ("weakens=maybe", "weakens: it must be true or false"),
            ("weaken=true", "unknown argument weaken; there are limit"),
        ] {
            let told = room.ask("GET", &format!("{AUDIT}?{query}"), "", 400).await;
            let text = told.json()["error_msg"].as_str().unwrap().to_owned();
            assert!(text.contains(says), "{query}: {text}");
        }
    }

    #[tokio::test]
    async fn chain_of_all_records_is_verified() {
        let room = room().await;
        let told = room.ask("GET", &format!("{AUDIT}/verify"), "", 200).await;
        let told = told.json();
        assert_eq!(
            (&told["valid"], &told["audit_count"]),
            (&json!(true), &json!(38))
        );
        assert_eq!(told["audit_mac"].as_str().unwrap().len(), 64);
    }
}
