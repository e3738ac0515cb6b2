//! API7's management paths that clients probe, under `/api`.
//!
//! ADC and a7 ask for a version, for the gateway groups and for schemas before they do anything.
//! There is one group, `default`. What API7 adds to `/apisix/admin` is in `apisix`.

use http::Method;
use serde_json::{Value, json};

use super::call::Call;
use super::reply::{Answer, Refusal};

/// The API7 version whose Admin API is spoken: the first that ADC knows to validate.
const VERSION: &str = "3.9.12";
/// Id and name of the one gateway group.
const GROUP: &str = "default";

/// Answers a request whose path under `/api` is these words.
pub(super) fn answer(call: &Call<'_>, words: &[&str]) -> Result<Answer, Refusal> {
    let is_get = call.head.method == Method::GET;
    match words {
        ["version"] if is_get => Ok(Answer::ok(json!({ "value": VERSION }))),
        ["gateway_groups"] if is_get => Ok(Answer::ok(groups(call))),
        ["gateway_groups", GROUP] if is_get => Ok(Answer::ok(json!({ "value": group() }))),
        ["gateway_groups", other] if is_get => Err(Refusal::UnknownGroup((*other).to_owned())),
        ["schema", "core"] if is_get => Ok(Answer::ok(json!({ "value": {} }))),
        _ => Err(Refusal::NoPath),
    }
}

fn group() -> Value {
    json!({ "id": GROUP, "name": GROUP, "type": "api7_gateway" })
}

/// The groups whose name fits `name` and `search`: ADC takes the first.
fn groups(call: &Call<'_>) -> Value {
    let query = &call.head.query;
    let is_named = query
        .find("name")
        .is_none_or(|name| name.is_empty() || name == GROUP);
    let is_found = query.find("search").is_none_or(|part| GROUP.contains(part));
    let list: Vec<Value> = (is_named && is_found).then(group).into_iter().collect();
    json!({ "total": list.len(), "list": list })
}

#[cfg(test)]
mod tests {
    use super::*;

    use super::super::testing::Room;

    #[tokio::test]
    async fn probes_of_adc_are_answered() {
        let room = Room::new();
        let group = json!({"id": "default", "name": "default", "type": "api7_gateway"});
        let found = json!({"total": 1, "list": [group]});
        let none = json!({"total": 0, "list": []});
        for (path, expected) in [
            ("/api/version", json!({"value": "3.9.12"})),
            ("/api/schema/core", json!({"value": {}})),
            ("/api/gateway_groups", found.clone()),
            ("/api/gateway_groups?search=default&name=default", found),
            ("/api/gateway_groups?search=prod&name=prod", none),
            ("/api/gateway_groups/default", json!({ "value": group })),
        ] {
            assert_eq!(
                room.ask("GET", path, "", 200).await.json(),
                expected,
                "{path}"
            );
        }
    }

    #[tokio::test]
    async fn other_paths_and_methods_are_404() {
        let room = Room::new();
        for (method, path) in [
            ("GET", "/api"),
            ("GET", "/api/users"),
            ("GET", "/api/gateway_groups/other"),
            ("PUT", "/api/gateway_groups/default"),
        ] {
            room.ask(method, path, "", 404).await;
        }
    }
}
