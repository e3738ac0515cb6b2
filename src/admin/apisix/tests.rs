//! Requests to the resources, as clients send them, and what they are answered.

use super::*;

use crate::admin::Listener;
use crate::admin::testing::{KEY, Room, Told, pair};

mod patches;

const UPSTREAM: &str = r#"{"type":"roundrobin","nodes":{"127.0.0.1:1980":1}}"#;
const ROUTE: &str =
    r#"{"uri":"/hello","upstream":{"type":"roundrobin","nodes":{"127.0.0.1:1980":1}}}"#;

fn revision(told: &Told) -> u64 {
    told.header("etag")
        .unwrap()
        .trim_matches('"')
        .parse()
        .unwrap()
}

#[tokio::test]
async fn object_is_created_replaced_shown_and_deleted() {
    let room = Room::new();
    let path = "/apisix/admin/routes/1";
    let value = json!({
        "uri": "/hello",
        "upstream": {"type": "roundrobin", "nodes": {"127.0.0.1:1980": 1}},
        "id": "1",
    });

    let created = room.ask("PUT", path, ROUTE, 201).await;
    assert_eq!(
        created.json(),
        json!({"key": "/apisix/routes/1", "value": value})
    );
    let replaced = room.ask("PUT", path, ROUTE, 200).await;
    assert_eq!(
        replaced.json(),
        json!({"key": "/apisix/routes/1", "value": value})
    );

    let (first, second) = (revision(&created), revision(&replaced));
    assert!(first < second);
    let envelope = json!({
        "key": "/apisix/routes/1",
        "value": value,
        "createdIndex": first,
        "modifiedIndex": second,
    });
    let shown = room.ask("GET", path, "", 200).await;
    assert_eq!(shown.json().to_string(), envelope.to_string());
    let listed = room
        .ask("GET", "/apisix/admin/routes/?page=1&page_size=10", "", 200)
        .await;
    assert_eq!(listed.json(), json!({"list": [envelope], "total": 1}));

    let deleted = room.ask("DELETE", path, "", 200).await;
    assert_eq!(
        deleted.text,
        "{\"key\":\"/apisix/routes/1\",\"deleted\":\"1\"}\n"
    );
    for method in ["GET", "DELETE"] {
        let absent = room.ask(method, path, "", 404).await;
        assert_eq!(absent.text, "{\"message\":\"Key not found\"}\n");
    }
    let empty = room.ask("GET", "/apisix/admin/routes", "", 200).await;
    assert_eq!(empty.text, "{\"list\":[],\"total\":0}\n");
}

#[tokio::test]
async fn api7_lists_are_flat_and_services_say_their_type() {
    let room = Room::new();
    let listener = Listener::Https7443;
    let document =
        r#"{"name":"mtls","upstream":{"nodes":[{"host":"127.0.0.1","port":1,"weight":1}]}}"#;
    let path = "/apisix/admin/services/s?gateway_group_id=default";
    let created = room.ask_on(listener, "PUT", path, document, 201).await;
    let value = json!({
        "name": "mtls",
        "upstream": {"nodes": [{"host": "127.0.0.1", "port": 1, "weight": 1}]},
        "id": "s",
        "type": "http",
    });
    assert_eq!(created.json()["value"], value);

    let list = json!({"list": [value], "total": 1});
    let plain = "/apisix/admin/services";
    assert_eq!(
        room.ask_on(listener, "GET", plain, "", 200).await.json(),
        list
    );
    let forced = format!("{plain}?gateway_group_id=default");
    assert_eq!(room.ask("GET", &forced, "", 200).await.json(), list);
    let apisix = room.ask("GET", plain, "", 200).await.json();
    assert_eq!(apisix["list"][0]["key"], "/apisix/services/s");
    assert!(apisix["list"][0]["value"].get("type").is_none());

    let one = room
        .ask_on(listener, "GET", "/apisix/admin/services/s", "", 200)
        .await
        .json();
    assert_eq!(one["key"], "/apisix/services/s");
    assert_eq!(one["value"], value);
    assert!(one["createdIndex"].is_u64() && one["modifiedIndex"].is_u64());
}

#[tokio::test]
async fn service_in_use_is_deleted_with_its_routes_by_api7_only() {
    let room = Room::new();
    room.ask("PUT", "/apisix/admin/services/s", "{}", 201).await;
    room.ask(
        "PUT",
        "/apisix/admin/routes/r",
        r#"{"uri":"/","service_id":"s"}"#,
        201,
    )
    .await;
    let refused = room
        .ask("DELETE", "/apisix/admin/services/s", "", 400)
        .await;
    let text = "can not delete this service directly, route [r] is still using it now";
    assert_eq!(refused.json(), json!({ "error_msg": text }));
    room.ask_on(
        Listener::Https7443,
        "DELETE",
        "/apisix/admin/services/s",
        "",
        200,
    )
    .await;
}

#[tokio::test]
async fn id_comes_from_the_path_or_the_body_and_must_agree() {
    let room = Room::new();
    let with_id = UPSTREAM.replacen('{', r#"{"id":"u1","#, 1);
    let created = room
        .ask("PUT", "/apisix/admin/upstreams", &with_id, 201)
        .await;
    assert_eq!(created.json()["key"], "/apisix/upstreams/u1");
    room.ask("PUT", "/apisix/admin/upstreams/u1", &with_id, 200)
        .await;
    let with_number = UPSTREAM.replacen('{', r#"{"id":7,"#, 1);
    for (method, path, body, id) in [
        ("PUT", "upstreams", with_number.as_str(), json!(7)),
        ("PUT", "upstreams/7", with_number.as_str(), json!("7")),
        ("PUT", "upstreams", with_number.as_str(), json!(7)),
        ("PATCH", "upstreams/7", "{}", json!("7")),
    ] {
        let path = format!("/apisix/admin/{path}");
        let headers = [("x-api-key", KEY)];
        let told = room.ask_with(Listener::Http9180, method, &path, &headers, body);
        assert_eq!(told.await.json()["value"]["id"], id, "{method} {path}");
    }
    for (method, path, body, text) in [
        (
            "PUT",
            "/apisix/admin/upstreams/u2",
            with_id.as_str(),
            "wrong upstream id",
        ),
        (
            "PUT",
            "/apisix/admin/upstreams",
            UPSTREAM,
            "missing upstream id",
        ),
        (
            "DELETE",
            "/apisix/admin/upstreams",
            "",
            "missing upstream id",
        ),
        (
            "PUT",
            "/apisix/admin/secrets/vault",
            "{}",
            "missing secret id",
        ),
        (
            "PUT",
            "/apisix/admin/upstreams/a%20b",
            UPSTREAM,
            "invalid configuration: property \"id\" validation failed: object matches none of \
             the required",
        ),
    ] {
        let told = room.ask(method, path, body, 400).await;
        assert_eq!(told.json()["error_msg"], text, "{method} {path}");
    }
}

#[tokio::test]
async fn what_apisix_s_words_leave_open_is_told_beside_them() {
    let room = Room::new();
    let route = "/apisix/admin/routes/1";
    let hash = r#"{"nodes":{},"type":"chash"}"#;
    for (path, body, text, hint) in [
        (
            "/apisix/admin/upstreams/1",
            hash,
            "missing key",
            Some("at /key"),
        ),
        (
            "/apisix/admin/upstreams/a%20b",
            UPSTREAM,
            "invalid configuration: property \"id\" validation failed: object matches none of \
             the required",
            Some(
                "an id is 1 to 64 letters, digits, hyphens, dots and underscores, or an integer \
                 from 1",
            ),
        ),
        (
            route,
            r#"{"upstream":{"nodes":{}}}"#,
            "invalid configuration: allOf 1 failed: value should match only one schema, but \
             matches none",
            Some("one of these is required: \"uri\", \"uris\""),
        ),
        (
            route,
            r#"{"uri":"/","desc":null}"#,
            "invalid configuration: property \"desc\" validation failed: wrong type: expected \
             string, got userdata",
            Some("userdata is null: leave the member out"),
        ),
        (
            route,
            r#"{"uri":"/","upstream":{"nodes":{}},"nmae":"x"}"#,
            "invalid configuration: additional properties forbidden, found nmae",
            Some("found nmae, did you mean \"name\"?"),
        ),
        (
            route,
            r#"{"uri":"/","upstream":{"nodes":{}},"x":1}"#,
            "invalid configuration: additional properties forbidden, found x",
            None,
        ),
        // Not in APISIX's words: all is in one sentence.
        (
            route,
            r#"{"uri":"/","upstream":{"scheme":"https","nodes":{},"tls":{"verify":true}}}"#,
            "tls.verify is true and no CA is known: set tls.ca_certs, or upstream.trust_file in \
             the config",
            None,
        ),
    ] {
        let told = room.ask("PUT", path, body, 400).await.json();
        let mut whole = json!({ "error_msg": text });
        if let Some(hint) = hint {
            whole["hint"] = hint.into();
        }
        assert_eq!(told, whole, "{path} {body}");
    }
    let body = r#"{"upstreams":[{"id":"u","nodes":{},"type":"chash"}]}"#;
    let path = "/apisix/admin/configs/validate";
    let told = room.ask("POST", path, body, 400).await.json();
    let first = &told["errors"][0];
    assert_eq!(
        first["error"],
        "invalid upstreams at index 0, err: missing key"
    );
    assert_eq!(first["hint"], "at /key");
    let path = "/apisix/admin/schema/validate/ssls";
    let told = room.ask("POST", path, "{}", 400).await.json();
    assert_eq!(told["error_msg"], "then clause did not match");
    assert!(told["hint"].is_string(), "{told}");
    let path = "/portcullis/v1/validate/upstreams";
    let told = room.ask("POST", path, hash, 400).await.json();
    assert_eq!(
        (&told["error_msg"], &told["hint"]),
        (&json!("missing key"), &json!("at /key"))
    );
}

#[tokio::test]
async fn secrets_have_their_manager_in_the_id() {
    let room = Room::new();
    let document = r#"{"uri":"https://127.0.0.1:8200","prefix":"kv/apisix","token":"$env://T"}"#;
    for path in [
        "/apisix/admin/secrets/vault/1",
        "/apisix/admin/secret_providers/vault/2",
    ] {
        let told = room.ask("PUT", path, document, 201).await.json();
        let id = path.rsplit_once('/').unwrap().1;
        assert_eq!(told["key"], format!("/apisix/secrets/vault/{id}"));
        assert_eq!(told["value"]["id"], format!("vault/{id}"));
        room.ask("GET", path, "", 200).await;
    }
    for path in ["/apisix/admin/secrets", "/apisix/admin/secrets/aws"] {
        assert_eq!(room.ask("GET", path, "", 200).await.json()["total"], 2);
    }
    let post = room
        .ask("POST", "/apisix/admin/secrets/vault/3", document, 405)
        .await;
    assert_eq!(
        post.json(),
        json!({"error_msg": "not supported `POST` method for secret"})
    );
    room.ask("DELETE", "/apisix/admin/secrets/vault/1", "", 200)
        .await;
}

#[tokio::test]
async fn body_is_json_whatever_the_content_type_says() {
    let room = Room::new();
    let headers = [
        ("x-api-key", KEY),
        ("content-type", "application/x-www-form-urlencoded"),
    ];
    let path = "/apisix/admin/upstreams/1";
    let told = room
        .ask_with(Listener::Http9180, "PUT", path, &headers, UPSTREAM)
        .await;
    assert_eq!(told.status, 201);
}

#[tokio::test]
async fn unusable_bodies_are_refused_and_not_repeated() {
    let room = Room::new();
    let large = format!("{{\"desc\":\"{}\"}}", "x".repeat(1_572_864));
    let told = room.ask("PUT", "/apisix/admin/routes/1", &large, 400).await;
    let text = "request size 1572875 is greater than the maximum size 1572864 allowed";
    assert!(told.text.contains(text), "{}", told.text);
    for (body, text) in [
        ("", "missing configurations"),
        (
            "CANARY",
            "invalid request body: Expected value but found invalid token at character 1",
        ),
        (
            "{\"key\":\"CANARY",
            "invalid request body: Expected value but found unexpected end of string",
        ),
        (
            "{\"client\":1,\"client\":2}",
            "invalid request body: duplicate member \\\"client\\\"",
        ),
        (
            "[\"CANARY\"]",
            "invalid configuration: wrong type: expected object, got table",
        ),
        (
            "null",
            "invalid configuration: wrong type: expected object, got userdata",
        ),
    ] {
        let told = room.ask("PUT", "/apisix/admin/ssls/1", body, 400).await;
        assert!(told.text.contains(text), "{}", told.text);
        assert!(!told.text.contains("CANARY"), "{}", told.text);
    }
}

#[tokio::test]
async fn ttl_that_is_no_time_to_come_is_refused_never_ignored() {
    let room = Room::new();
    let path = "/apisix/admin/upstreams/1";
    for (ttl, text) in [
        ("ten", "invalid argument ttl: should be a number"),
        ("", "invalid argument ttl: should be a number"),
        ("0", "should be between 0.001 and 9000000000 seconds"),
        ("-1", "should be between"),
        ("nan", "should be between"),
        ("inf", "should be between"),
        ("9000000001", "should be between"),
    ] {
        let asked = format!("{path}?ttl={ttl}");
        let told = room.ask("PUT", &asked, UPSTREAM, 400).await;
        assert!(told.text.contains(text), "{}", told.text);
    }
    room.ask("GET", path, "", 404).await;
    let (cert, key) = pair();
    let ssl = json!({"cert": cert, "key": key, "snis": ["api.test"]}).to_string();
    let asked = "/apisix/admin/ssls/1?ttl=10";
    let told = room.ask("PUT", asked, &ssl, 400).await;
    assert!(
        told.text.contains("not supported for ssls"),
        "{}",
        told.text
    );
    room.ask("PUT", "/apisix/admin/ssls/1", &ssl, 201).await;
}

#[tokio::test]
async fn ttl_is_shown_in_a_header_until_a_write_takes_it_back() {
    let room = Room::new();
    let path = "/apisix/admin/upstreams/1";
    let end = |told: &Told| told.header("x-portcullis-expires").map(str::to_owned);
    let asked = format!("{path}?ttl=3600.5");
    let told = room.ask("PUT", &asked, UPSTREAM, 201).await;
    let document: Value = serde_json::from_str(&told.text).unwrap();
    let created = document["value"]["create_time"].as_u64().unwrap();
    let expires = end(&told).unwrap();
    let seconds: u64 = expires.parse().unwrap();
    assert!(
        (created + 3600..=created + 3603).contains(&seconds),
        "{seconds}"
    );
    assert_eq!(end(&room.ask("GET", path, "", 200).await), Some(expires));
    let told = room.ask("PATCH", path, "{\"desc\":\"d\"}", 200).await;
    assert_eq!(end(&told), None);
    assert_eq!(end(&room.ask("GET", path, "", 200).await), None);
    let posted = room.ask("POST", "/apisix/admin/upstreams?ttl=9", UPSTREAM, 201);
    assert!(end(&posted.await).is_some());
    let told = room.ask("PATCH", &format!("{path}?ttl=9"), "{}", 200).await;
    assert!(end(&told).is_some());
}

#[tokio::test]
async fn if_match_guards_a_write() {
    let room = Room::new();
    let path = "/apisix/admin/upstreams/1";
    let etag = room
        .ask("PUT", path, UPSTREAM, 201)
        .await
        .header("etag")
        .unwrap()
        .to_owned();
    let put = async |tag: &str| {
        let headers = [("x-api-key", KEY), ("if-match", tag)];
        room.ask_with(Listener::Http9180, "PUT", path, &headers, UPSTREAM)
            .await
            .status
    };
    assert_eq!(put(&etag).await, 200);
    assert_eq!(put(&etag).await, 412);
    assert_eq!(put("*").await, 400);
}

#[tokio::test]
async fn write_with_if_none_match_is_refused_and_changes_nothing() {
    let room = Room::new();
    let path = "/apisix/admin/upstreams/1";
    let ask = async |method: &str, body: &str| {
        let headers = [("x-api-key", KEY), ("if-none-match", "*")];
        let told = room.ask_with(Listener::Http9180, method, path, &headers, body);
        told.await.status
    };
    assert_eq!(ask("PUT", UPSTREAM).await, 400);
    room.ask("GET", path, "", 404).await;
    room.ask("PUT", path, UPSTREAM, 201).await;
    for (method, body) in [("PUT", UPSTREAM), ("PATCH", "{}"), ("DELETE", "")] {
        assert_eq!(ask(method, body).await, 400, "{method}");
    }
    assert_eq!(ask("GET", "").await, 200);
}

#[tokio::test]
async fn warnings_are_beside_the_value_never_in_it() {
    let room = Room::new();
    let document = UPSTREAM.replacen('{', r#"{"scheme":"https","#, 1);
    let told = room
        .ask("PUT", "/apisix/admin/upstreams/1", &document, 201)
        .await;
    let warning = told.header("x-portcullis-warning").unwrap();
    assert!(warning.starts_with("upstream_not_verified "), "{warning}");
    let members: Vec<String> = told.json().as_object().unwrap().keys().cloned().collect();
    assert_eq!(members, ["key", "value"]);
    assert!(!told.text.contains("upstream_not_verified"));

    let path = "/apisix/admin/upstreams/1";
    let told = room
        .ask_on(Listener::Https7443, "PUT", path, &document, 200)
        .await
        .json();
    assert!(told["warning_msg"].is_string(), "{told}");
}

#[tokio::test]
async fn paths_that_lead_nowhere_are_404() {
    let room = Room::new();
    for (method, path, status, text) in [
        (
            "GET",
            "/apisix/admin/routs",
            404,
            "Unsupported resource type: routs",
        ),
        (
            "GET",
            "/apisix/admin/ssl",
            404,
            "Unsupported resource type: ssl",
        ),
        ("PUT", "/apisix/admin/schema/route", 404, "not found"),
        ("PUT", "/apisix/admin/configs", 404, "not found"),
        ("GET", "/apisix/admin", 404, "not found"),
        ("GET", "/elsewhere", 404, "not found"),
        ("PUT", "/apisix/admin/routes/1/uri", 404, "not found"),
        ("GET", "/apisix/admin/routes/1/uri", 404, "not found"),
    ] {
        let told = room.ask(method, path, "", status).await;
        assert!(told.text.contains(text), "{method} {path}: {}", told.text);
    }
}

#[tokio::test]
async fn resources_not_offered_are_empty_to_read_and_refused_to_write() {
    let room = Room::new();
    for word in [
        "consumers",
        "global_rules",
        "plugin_configs",
        "consumer_groups",
        "protos",
    ] {
        let path = format!("/apisix/admin/{word}");
        let told = room.ask("GET", &path, "", 200).await;
        assert_eq!(told.json(), json!({"list": [], "total": 0}));
        room.ask("GET", &format!("{path}/1"), "", 404).await;
        for method in ["PUT", "POST", "PATCH", "DELETE"] {
            let told = room.ask(method, &format!("{path}/1"), "{}", 400).await;
            assert!(told.text.contains("nothing was stored"), "{}", told.text);
        }
    }
    assert_eq!(
        room.ask("GET", "/apisix/admin/plugins/list", "", 200)
            .await
            .text,
        "[\"proxy-rewrite\"]\n"
    );
    let streams = room
        .ask("GET", "/apisix/admin/stream_routes", "", 400)
        .await
        .json();
    assert_eq!(
        streams["error_msg"],
        "stream mode is disabled, can not add stream routes"
    );
    let metadata = "/apisix/admin/plugin_metadata";
    let api7 = room
        .ask_on(Listener::Https7443, "GET", metadata, "", 200)
        .await
        .json();
    assert_eq!(api7["value"], json!({}));
}

#[tokio::test]
async fn service_has_no_further_upstreams() {
    let room = Room::new();
    room.ask("PUT", "/apisix/admin/services/s", "{}", 201).await;
    let path = "/apisix/admin/services/s/upstreams";
    let told = room.ask_on(Listener::Https7443, "GET", path, "", 200).await;
    assert_eq!(told.json(), json!({"list": [], "total": 0}));
    room.ask("GET", "/apisix/admin/services/absent/upstreams", "", 404)
        .await;
    room.ask("PUT", &format!("{path}/u"), UPSTREAM, 400).await;
}

/// One canary in every kind of field that is withheld, and what no reply may contain.
fn canaries() -> (Vec<(&'static str, Value)>, Vec<String>) {
    let (cert, key) = pair();
    let body = key.lines().nth(1).unwrap().to_owned();
    let ssl = json!({"cert": cert, "key": key, "snis": ["api.test"]});
    let more = json!({
        "cert": cert, "key": key, "certs": [cert], "keys": [key], "snis": ["api.test"],
    });
    let upstream = json!({
        "scheme": "https",
        "nodes": {"127.0.0.1:1980": 1},
        "tls": {"client_cert": cert, "client_key": key},
    });
    let vault = json!({
        "uri": "https://127.0.0.1:8200", "prefix": "kv/apisix", "token": "canary-token",
    });
    let objects = vec![
        ("ssls/1", ssl),
        ("ssls/2", more),
        ("upstreams/1", upstream.clone()),
        ("services/1", json!({ "upstream": upstream })),
        ("routes/1", json!({ "uri": "/", "upstream": upstream })),
        ("secrets/vault/1", vault),
    ];
    (objects, vec![body, "canary-token".to_owned()])
}

#[tokio::test]
async fn no_reply_has_a_key_and_what_was_shown_can_be_put_back() {
    let room = Room::new();
    let (objects, canaries) = canaries();
    let quiet = |told: &Told| {
        for canary in &canaries {
            assert!(!told.text.contains(canary), "{}", told.text);
        }
    };
    for (path, document) in objects {
        let path = format!("/apisix/admin/{path}");
        let listener = Listener::Http9180;
        quiet(&room.ask("PUT", &path, &document.to_string(), 201).await);
        quiet(&room.ask("GET", &path, "", 200).await);
        quiet(&room.ask("GET", path.trim_end_matches("/1"), "", 200).await);

        let headers = [("x-api-key", KEY), ("x-portcullis-withheld", "show")];
        let shown = room.ask_with(listener, "GET", &path, &headers, "").await;
        quiet(&shown);
        assert!(shown.text.contains("$withheld:"), "{}", shown.text);
        let back = shown.json()["value"].to_string();
        quiet(&room.ask("PUT", &path, &back, 200).await);

        let mut bad = document.clone();
        // Of the wrong type in a secret, unknown elsewhere.
        bad["prefix"] = json!(7);
        quiet(&room.ask("PUT", &path, &bad.to_string(), 400).await);
        quiet(&room.ask("PUT", &path, &bad.to_string()[1..], 400).await);
    }
}

#[tokio::test]
async fn ssl_is_read_without_its_keys_unless_asked() {
    let room = Room::new();
    let (cert, key) = pair();
    let document = json!({"cert": cert, "key": key, "sni": "api.test"}).to_string();
    let path = "/apisix/admin/ssls/1";
    let put = room.ask("PUT", path, &document, 201).await.json();
    let placeholder = put["value"]["key"].as_str().unwrap();
    assert!(
        placeholder.starts_with("$withheld:sha256:"),
        "{placeholder}"
    );
    let read = room.ask("GET", path, "", 200).await.json();
    assert!(read["value"].get("key").is_none());
    assert_eq!(read["value"]["cert"], cert);
}

#[tokio::test]
async fn calls_of_the_published_pages_are_accepted() {
    let room = Room::new();
    let (cert, key) = pair();
    // "Upstream mTLS" of API7 Gateway.
    let service = json!({
        "name": "upstream-mtls",
        "upstream": {
            "type": "roundrobin",
            "scheme": "https",
            "pass_host": "rewrite",
            "upstream_host": "upstream.test.local",
            "nodes": [{"host": "192.0.2.10", "port": 8443, "weight": 1}],
            "tls": {"client_cert": cert, "client_key": key, "verify": true, "ca_certs": [cert]},
        },
    });
    let route = json!({"name": "upstream-mtls", "service_id": "upstream-mtls", "paths": ["/*"]});
    for (word, document) in [("services", service), ("routes", route)] {
        let path = format!("/apisix/admin/{word}/upstream-mtls?gateway_group_id=default");
        let told = room
            .ask_on(
                Listener::Https7443,
                "PUT",
                &path,
                &document.to_string(),
                201,
            )
            .await;
        assert_eq!(told.json()["value"]["name"], "upstream-mtls");
    }
    // "a6-recipe-mtls".
    let ssl = json!({
        "id": "mtls-domain",
        "cert": cert,
        "key": key,
        "snis": ["api.example.com"],
        "client": {"ca": cert},
    });
    let upstream = json!({
        "id": "mtls-backend",
        "type": "roundrobin",
        "scheme": "https",
        "nodes": {"secure-backend:443": 1},
        "tls": {"client_cert": cert, "client_key": key},
    });
    let route = json!({"id": "api", "uri": "/api/*", "upstream_id": "mtls-backend"});
    let secret = json!({
        "id": "vault/mtls-certs",
        "uri": "https://vault.example.com/v1/secret/data/mtls",
    });
    for (path, document) in [
        ("ssls/mtls-domain", ssl),
        ("upstreams/mtls-backend", upstream),
        ("routes/api", route),
        ("secrets/vault/mtls-certs", secret),
    ] {
        let path = format!("/apisix/admin/{path}");
        room.ask("PUT", &path, &document.to_string(), 201).await;
    }
    // Rotation without names, as the recipe has it.
    let (cert, key) = pair();
    let rotation = json!({"cert": cert, "key": key, "client": {"ca": cert}}).to_string();
    let told = room
        .ask("PUT", "/apisix/admin/ssls/mtls-domain", &rotation, 200)
        .await;
    assert_eq!(told.json()["value"]["snis"], json!(["api.example.com"]));
}
