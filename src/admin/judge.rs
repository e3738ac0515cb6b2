//! Schemas, and documents judged without being stored: `/schema` and `/configs/validate`.
//!
//! APISIX Admin API v3. What a client asks before it writes; the writes are in `apisix`.

use std::collections::HashSet;

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::call::{self, Call};
use super::reply::{self, Answer, Refusal};
use super::request::{self, BodyError};
use super::target::NOT_OFFERED;
use crate::control::{Put, WriteError};
use crate::resource::fault::Faults;
use crate::resource::{self, Document, Id, Kind, plugins, schema, shown};
use crate::secrets::custody::Opened;
use crate::secrets::custody::stray::stray_keys;
use crate::store::file::{self, FileError};

/// The id that stands for one which a document does not have.
const UNNAMED: &str = "unnamed";

/// The JSON schema of the kind with this singular word.
pub(super) fn show_schema(word: &str) -> Result<Answer, Refusal> {
    let kind = Kind::ALL.into_iter().find(|kind| kind.singular() == word);
    let schema = kind.and_then(|kind| schema::document(kind, ""));
    schema
        .map(|schema| Answer::ok(schema.clone()))
        .ok_or_else(|| Refusal::NoSchema(word.to_owned()))
}

/// What there is to tell of every plugin, by name.
pub(super) fn plugins() -> Value {
    let all = plugins::PRIORITIES.into_iter();
    let all = all.filter_map(|(name, priority)| {
        let schema = schema::plugin(name)?;
        let about = json!({"priority": priority, "schema": schema, "version": 0.1});
        Some((name.to_owned(), about))
    });
    Value::Object(all.collect())
}

/// The schemas of all kinds, by their singular words.
pub(super) fn schemas() -> Value {
    let all = Kind::ALL.into_iter();
    let all = all.filter_map(|kind| {
        let schema = schema::document(kind, "")?;
        Some((kind.singular().to_owned(), schema.clone()))
    });
    Value::Object(all.collect())
}

/// Judges a body by the schema of its kind alone: neither PEM nor references are looked at, but that
/// a key in a member that is shown is refused as a write refuses it.
pub(super) async fn check_schema(call: &mut Call<'_>, word: &str) -> Result<Answer, Refusal> {
    let kind = kind(word)?;
    let body = call.read_body().await?.ok_or(Refusal::NoConfiguration)?;
    let name = reply::lua_type(&body);
    let Value::Object(document) = body else {
        let text = format!("wrong type: expected object, got {name}");
        return Ok(Answer::error(StatusCode::BAD_REQUEST, &text));
    };
    let document = Opened::new(kind, document);
    let strays = stray_keys(kind, &document);
    if !strays.is_empty() {
        // What it says of them would be quoted.
        return Err(WriteError::Invalid(Faults(strays)).into());
    }
    let judged = id(kind, &document)
        .and_then(|id| resource::check_schema(kind, &id, &document, call.flavour));
    Ok(match judged {
        Ok(()) => Answer::empty(StatusCode::OK),
        // Without the words that go before it in the refusal of a write.
        Err(faults) => {
            Answer::error(StatusCode::BAD_REQUEST, &faults.reason()).with_hint(faults.hint())
        }
    })
}

fn kind(word: &str) -> Result<Kind, Refusal> {
    Kind::from_plural(word).ok_or_else(|| {
        if NOT_OFFERED.contains(&word) {
            Refusal::NotOffered(word.to_owned())
        } else {
            Refusal::UnknownResource(word.to_owned())
        }
    })
}

/// A document's own id; one that is free to be any, where it has none and needs none.
fn id(kind: Kind, document: &Document) -> Result<Id, Faults> {
    let is_free = kind != Kind::Secret && !document.contains_key("id");
    resource::check_id(kind, is_free.then_some(UNNAMED), document)
}

/// Refuses a configuration for the first thing that is wrong with it, in APISIX's words.
pub(super) async fn refuse_faulty(
    call: &Call<'_>,
    sections: &Map<String, Value>,
) -> Result<(), Refusal> {
    let mut errors = Errors::default();
    for (section, value) in sections {
        check_section(call, section, value.clone(), &mut errors).await?;
        if let Some(error) = errors.0.first() {
            let text = |member: &str| error.get(member)?.as_str().map(str::to_owned);
            return Err(Refusal::Configuration {
                text: text("error").unwrap_or_else(|| "invalid configuration".to_owned()),
                hint: text(reply::HINT),
            });
        }
    }
    Ok(())
}

/// Judges every document of a configuration, `{"routes": […], "ssls": […], …}` as JSON or YAML. What
/// they refer to may be in it, so that it is not looked for.
pub(super) async fn check_configuration(call: &mut Call<'_>) -> Result<Answer, Refusal> {
    let mut errors = Errors::default();
    for (section, value) in read_configuration(call).await? {
        check_section(call, &section, value, &mut errors).await?;
    }
    if errors.0.is_empty() {
        return Ok(Answer::ok(json!({})));
    }
    Ok(Answer::json(
        StatusCode::BAD_REQUEST,
        json!({ "error_msg": "Configuration validation failed", "errors": errors.0 }),
    ))
}

/// Reads a configuration as a whole, JSON or YAML.
///
/// One that cannot be read is refused in the words of APISIX's `admin/standalone.lua`, which says
/// nothing of the body beside them.
pub(super) async fn read_configuration(call: &mut Call<'_>) -> Result<Map<String, Value>, Refusal> {
    let media = call.head.header("content-type").unwrap_or_default();
    let is_yaml = media.starts_with("application/yaml");
    let body = call.read_bytes().await?;
    let parsed = call::compute(move || {
        let parse = if is_yaml {
            request::parse_yaml
        } else {
            request::parse_body
        };
        Ok(parse(&body)?)
    });
    let error = match parsed.await {
        Ok(Some(Value::Object(sections))) => return Ok(sections),
        Ok(Some(other)) if is_yaml && !other.is_array() => BodyError::NotYaml { place: None },
        Ok(Some(other)) => return Err(Refusal::NotAnObject(reply::lua_type(&other))),
        Ok(None) => BodyError::Empty,
        Err(Refusal::Body(error)) => error,
        Err(other) => return Err(other),
    };
    let text = format!("invalid request body: {error}");
    let hint = match error {
        BodyError::NotYaml { place } => place,
        BodyError::NotJson { .. } | BodyError::Empty => None,
        error @ (BodyError::TooLarge { .. } | BodyError::Slow | BodyError::Broken(_)) => {
            return Err(error.into());
        }
    };
    Err(Refusal::Configuration { text, hint })
}

async fn check_section(
    call: &Call<'_>,
    section: &str,
    value: Value,
    errors: &mut Errors,
) -> Result<(), Refusal> {
    if let Some(kind_word) = file::versioned(section) {
        if !value.is_number() {
            let error = format!("{section} must be a number");
            errors.of_section(kind_word, &error);
        }
        return Ok(());
    }
    let items = match value {
        Value::Array(items) => items,
        Value::Object(members) if members.is_empty() => Vec::new(),
        Value::Null => Vec::new(),
        other @ (Value::Object(_) | Value::Bool(_) | Value::Number(_) | Value::String(_)) => {
            let name = reply::lua_type(&other);
            let error = format!("wrong type: expected array, got {name}");
            errors.of_section(section, &error);
            return Ok(());
        }
    };
    let kind = match kind(section) {
        Ok(kind) => kind,
        // Nothing asked for, nothing missed.
        Err(_) if items.is_empty() && file::NOT_OFFERED.contains(&section) => return Ok(()),
        Err(_) if items.is_empty() => {
            let error = FileError::NoSuchSection(section.to_owned());
            errors.of_section(section, &error.to_string());
            return Ok(());
        }
        Err(refusal) => {
            errors.of_section(section, &refusal.to_string());
            return Ok(());
        }
    };
    let mut ids = HashSet::new();
    for (index, item) in items.into_iter().enumerate() {
        let own = item
            .get("id")
            .map(|id| match (id.as_str(), resource::integer(id)) {
                (Some(text), _) => text.to_owned(),
                (None, Some(number)) => number.to_string(),
                (None, None) => id.to_string(),
            });
        let judged = match (kind, own.as_deref()) {
            (Kind::Secret, None) => Err(no_secret_id("nil")),
            (Kind::Secret, Some(own)) if !own.contains('/') => Err(no_secret_id(own)),
            (Kind::Ssl | Kind::Upstream | Kind::Service | Kind::Route | Kind::Secret, _) => {
                check_item(call, kind, item).await?
            }
        };
        if let Err((text, hint)) = judged {
            let error = format!("invalid {section} at index {index}, err: {text}");
            errors.of_item(kind, own.as_deref(), index, &error, hint);
        }
        if let Some(own) = own
            && !ids.insert(own.clone())
        {
            let error = format!("found duplicate id {} in {section}", shown(&own));
            errors.of_item(kind, Some(&own), index, &error, None);
        }
    }
    Ok(())
}

/// What is wrong with a document, with a hint.
type Wrong = (String, Option<String>);

/// What is wrong with a secret whose id has no manager, in APISIX's words.
fn no_secret_id(id: &str) -> Wrong {
    let hint = "the id of a secret has its manager before it, such as vault/NAME";
    (
        format!("invalid secret id: {}", shown(id)),
        Some(hint.to_owned()),
    )
}

/// The first thing that is wrong with a document; an error only where it could not be judged.
async fn check_item(
    call: &Call<'_>,
    kind: Kind,
    item: Value,
) -> Result<Result<(), Wrong>, Refusal> {
    let name = reply::lua_type(&item);
    let Value::Object(mut document) = item else {
        let text = format!("invalid configuration: wrong type: expected object, got {name}");
        return Ok(Err((text, None)));
    };
    let index = document.shift_remove(file::MODIFIED_INDEX);
    let document = Opened::new(kind, document);
    if let Some(index) = index.filter(|index| !index.is_u64()) {
        let text = format!(
            "invalid configuration: property \"modifiedIndex\" validation failed: wrong type: expected \
             integer, got {}",
            reply::lua_type(&index)
        );
        return Ok(Err((text, None)));
    }
    let id = match id(kind, &document).and_then(|id| resource::refuse_times(&document).map(|()| id))
    {
        Ok(id) => id,
        Err(faults) => return Ok(Err((faults.message(), faults.hint()))),
    };
    let judged = call.state.control.judge(Put {
        kind,
        id,
        document,
        flavour: call.flavour,
        actor: call.actor.clone(),
        if_match: None,
        allow_weaker: true,
        ttl: None,
    });
    match judged.await {
        Ok(_warnings) => Ok(Ok(())),
        Err(WriteError::Invalid(faults)) => Ok(Err((faults.message(), faults.hint()))),
        Err(error) => Err(error.into()),
    }
}

/// What is wrong with a configuration, in its order.
#[derive(Default)]
struct Errors(Vec<Value>);

impl Errors {
    fn of_section(&mut self, section: &str, error: &str) {
        self.0
            .push(json!({ "resource_type": shown(section), "error": error }));
    }

    fn of_item(
        &mut self,
        kind: Kind,
        id: Option<&str>,
        index: usize,
        error: &str,
        hint: Option<String>,
    ) {
        let mut told = reply::object([("resource_type", kind.plural().into())]);
        if let Some(id) = id {
            told.insert("resource_id".to_owned(), shown(id).into());
        }
        told.insert("index".to_owned(), index.into());
        told.insert("error".to_owned(), error.into());
        if let Some(hint) = hint {
            told.insert(reply::HINT.to_owned(), hint.into());
        }
        self.0.push(Value::Object(told));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::admin::Listener;
    use crate::admin::testing::{KEY, Room, Told, pair};

    const CHECK: &str = "/apisix/admin/configs/validate";

    #[tokio::test]
    async fn schema_of_each_kind_is_shown_by_its_singular_word() {
        let room = Room::new();
        for word in ["route", "service", "upstream", "ssl"] {
            let path = format!("/apisix/admin/schema/{word}");
            let told = room.ask("GET", &path, "", 200).await.text;
            let schema: Value = serde_json::from_str(&told).unwrap();
            assert_eq!(schema["type"], "object");
            assert_eq!(schema["properties"]["create_time"]["type"], "integer");
            room.ask("PUT", &path, "{}", 404).await;
        }
        for word in ["routes", "secret", "nothing"] {
            let path = format!("/apisix/admin/schema/{word}");
            let told = room.ask("GET", &path, "", 400).await.json();
            assert_eq!(told["error_msg"], format!("not found schema: {word}"));
        }
        for word in ["plugins/a/b", ""] {
            let path = format!("/apisix/admin/schema/{word}");
            let told = room.ask("GET", &path, "", 404).await.json();
            assert_eq!(told["error_msg"], "not found", "{word}");
        }
    }

    #[tokio::test]
    async fn body_is_judged_by_its_schema_alone_and_stored_nowhere() {
        let room = Room::new();
        let junk = "x".repeat(128);
        let vault = json!({"id": "vault/1", "uri": "http://v", "prefix": "p", "token": "t"});
        for (word, body) in [
            ("routes", json!({"uri": "/a", "upstream_id": "none"})),
            ("upstreams", json!({"nodes": {}})),
            ("services", json!({"upstream_id": 7})),
            ("ssls", json!({"cert": junk, "key": junk, "sni": "a"})),
            ("secrets", vault),
        ] {
            let path = format!("/apisix/admin/schema/validate/{word}");
            let told = room.ask("POST", &path, &body.to_string(), 200).await;
            assert_eq!(told.text, "", "{word}");
            let list = room
                .ask("GET", &format!("/apisix/admin/{word}"), "", 200)
                .await;
            assert_eq!(list.json()["total"], 0);
        }
        for (word, body, text) in [
            (
                "routes",
                r#"{"uri":1980,"upstream":{"nodes":{}}}"#,
                "property \"uri\" validation failed: wrong type: expected string, got number",
            ),
            (
                "routes",
                r#"{"id":"a b","uri":"/","upstream_id":"1"}"#,
                "property \"id\" validation failed: object matches none of the required",
            ),
            ("upstreams", "[]", "wrong type: expected object, got table"),
            ("ssls", "", "missing configurations"),
            ("secrets", "{}", "missing secret id"),
            (
                "secrets",
                r#"{"id":"foo/1"}"#,
                "invalid secret manager: foo",
            ),
            (
                "consumers",
                "{}",
                "consumers are not available in this gateway; nothing was stored",
            ),
        ] {
            let path = format!("/apisix/admin/schema/validate/{word}");
            let told = room.ask("POST", &path, body, 400).await.json();
            assert_eq!(told["error_msg"], text, "{word} {body}");
        }
        let path = "/apisix/admin/schema/validate/route";
        let told = room.ask("POST", path, "{}", 404).await.json();
        assert_eq!(told["error_msg"], "Unsupported resource type: route");
    }

    #[tokio::test]
    async fn stray_key_is_refused_as_a_write_refuses_it_and_is_not_quoted() {
        let room = Room::new();
        let (cert, key) = pair();
        let line = key.lines().nth(1).unwrap();
        let bad = json!({"cert": cert, "key": key, "snis": [key]});
        let good = json!({"cert": cert, "key": key, "snis": ["a.test"]});
        let path = "/apisix/admin/schema/validate/ssls";
        let told = room.ask("POST", path, &bad.to_string(), 400).await;
        let stored = room
            .ask("PUT", "/apisix/admin/ssls/1", &bad.to_string(), 400)
            .await;
        assert_eq!(told.text, stored.text);
        assert!(!told.text.contains(line), "{}", told.text);
        room.ask("POST", path, &good.to_string(), 200).await;
    }

    #[tokio::test]
    async fn members_of_api7_are_judged_in_its_flavour() {
        let room = Room::new();
        let path = "/apisix/admin/schema/validate/services";
        let body = r#"{"type":"http"}"#;
        room.ask("POST", path, body, 400).await;
        let listener = Listener::Https7443;
        room.ask_on(listener, "POST", path, body, 200).await;
    }

    async fn check(room: &Room, media: &str, body: &str) -> Told {
        let headers = [("x-api-key", KEY), ("content-type", media)];
        room.ask_with(Listener::Http9180, "POST", CHECK, &headers, body)
            .await
    }

    #[tokio::test]
    async fn configuration_is_judged_whole_as_json_and_as_yaml() {
        let room = Room::new();
        let (cert, key) = pair();
        let good = json!({
            "routes": [{"id": "r", "uri": "/a", "service_id": "s"}, {"uri": "/b", "upstream_id": 1}],
            "services": [{"id": "s", "upstream_id": "u"}],
            "upstreams": [{"id": "u", "nodes": {}, "tls": {"client_cert_id": "c"}}],
            "ssls": [{"id": "c", "type": "client", "cert": cert, "key": key}],
            "secrets": [], "consumers": [], "global_rules": {}, "routes_conf_version": 3,
            "plugins": [], "protos_conf_version": 1,
        });
        let yaml = "routes:\n- id: r\n  uri: /a\n  service_id: s\n  priority: 5\n\
                    services:\n- {id: s, upstream_id: u}\n\
                    upstreams:\n- {id: u, nodes: {}, retry_timeout: 1.5}\nssls: []\n";
        for (media, text) in [
            ("application/json", good.to_string()),
            ("application/x-www-form-urlencoded", good.to_string()),
            ("application/yaml; charset=utf-8", yaml.to_owned()),
        ] {
            let told = check(&room, media, &text).await;
            assert_eq!((told.status, told.text.as_str()), (200, "{}\n"), "{media}");
        }
        let bad = json!({
            "routes": [
                {"id": "r", "uri": 1, "upstream": {"nodes": {}}},
                {"id": "r", "uri": "/a", "upstream": {"nodes": {}}},
                7,
                {"id": 5, "uri": "/a", "plugins": {"none": {}}},
                {"id": 1, "uri": "/a", "upstream": {"nodes": {}}},
                {"id": 1.0, "uri": "/a", "upstream": {"nodes": {}}},
            ],
            "ssls": [{"cert": cert, "key": pair().1, "sni": "a.test"}],
            "secrets": [{"uri": "http://v"}],
            "upstreams": "x",
            "consumers": [{"username": "x"}],
            "routez": [],
            "foo_conf_version": 3,
            "ssls_conf_version": "3",
        });
        let told = check(&room, "application/json", &bad.to_string()).await;
        assert_eq!(told.status, 400);
        let body = told.json();
        assert_eq!(body["error_msg"], "Configuration validation failed");
        let item = |kind: &str, id: Option<&str>, index: usize, text: &str| {
            let mut told = json!({"resource_type": kind});
            if let Some(id) = id {
                told["resource_id"] = json!(id);
            }
            told["index"] = json!(index);
            told["error"] = json!(text);
            told
        };
        let with_hint = |mut told: Value, hint: &str| {
            told["hint"] = json!(hint);
            told
        };
        let prefix = "invalid routes at index";
        let mut errors = body["errors"].as_array().unwrap().clone();
        let mismatch = errors.remove(5);
        assert_eq!(
            (&mismatch["resource_type"], &mismatch["index"]),
            (&json!("ssls"), &json!(0))
        );
        assert!(!told.text.contains(key.lines().nth(1).unwrap()));
        let expected = [
            item(
                "routes",
                Some("r"),
                0,
                &format!(
                    "{prefix} 0, err: invalid configuration: property \"uri\" validation failed: wrong type: expected string, got number"
                ),
            ),
            item("routes", Some("r"), 1, "found duplicate id r in routes"),
            item(
                "routes",
                None,
                2,
                &format!(
                    "{prefix} 2, err: invalid configuration: wrong type: expected object, got number"
                ),
            ),
            item(
                "routes",
                Some("5"),
                3,
                &format!("{prefix} 3, err: unknown plugin [none]"),
            ),
            item("routes", Some("1"), 5, "found duplicate id 1 in routes"),
            with_hint(
                item(
                    "secrets",
                    None,
                    0,
                    "invalid secrets at index 0, err: invalid secret id: nil",
                ),
                "the id of a secret has its manager before it, such as vault/NAME",
            ),
            json!({"resource_type": "upstreams", "error": "wrong type: expected array, got string"}),
            json!({"resource_type": "consumers", "error": "consumers are not available in this gateway; nothing was stored"}),
            json!({"resource_type": "routez", "error": "`routez` is no section; write ssls, upstreams, services, routes or secrets"}),
            json!({"resource_type": "foo_conf_version", "error": "wrong type: expected array, got number"}),
            json!({"resource_type": "ssls", "error": "ssls_conf_version must be a number"}),
        ];
        assert_eq!(errors, expected);
        let list = room.ask("GET", "/apisix/admin/routes", "", 200).await;
        assert_eq!(list.json()["total"], 0);
    }

    #[tokio::test]
    async fn configuration_that_cannot_be_read_is_refused_without_being_quoted() {
        let room = Room::new();
        for (media, body, text) in [
            (
                "application/json",
                "",
                "invalid request body: empty request body",
            ),
            (
                "application/yaml",
                "",
                "invalid request body: empty request body",
            ),
            (
                "application/json",
                "{\"CANARY\"",
                "invalid request body: Expected colon but found T_END at character 10",
            ),
            (
                "application/yaml",
                "a: &CANARY [CANARY",
                "invalid request body: invalid yaml request body",
            ),
            (
                "application/yaml",
                "CANARY",
                "invalid request body: invalid yaml request body",
            ),
            (
                "application/yaml",
                "CANARY: 1\nCANARY: 2\n",
                "invalid request body: invalid yaml request body",
            ),
            (
                "application/yaml",
                "routes: .inf\n",
                "invalid request body: invalid yaml request body",
            ),
            (
                "application/json",
                "[]",
                "invalid configuration: wrong type: expected object, got table",
            ),
        ] {
            let told = check(&room, media, body).await;
            assert_eq!(told.status, 400);
            assert_eq!(told.json()["req_body"], Value::Null, "{body}");
            let told = told.json()["error_msg"].as_str().unwrap().to_owned();
            assert_eq!(told, text);
            assert!(!told.contains("CANARY"), "{told}");
        }
        room.ask("GET", CHECK, "", 404).await;
    }
}
