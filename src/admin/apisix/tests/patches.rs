//! POST and PATCH, as clients send them, and what they are answered.

use serde_json::{Value, json};

use super::{KEY, Listener, ROUTE, Room, UPSTREAM, pair, revision};

const PATH: &str = "/apisix/admin/routes/1";

async fn room_with_a_route() -> Room {
    let room = Room::new();
    room.ask("PUT", PATH, ROUTE, 201).await;
    room
}

#[tokio::test]
async fn posted_object_gets_an_id_and_stays_under_it() {
    let room = room_with_a_route().await;
    for listener in [Listener::Http9180, Listener::Https7443] {
        let path = "/apisix/admin/upstreams";
        let told = room.ask_on(listener, "POST", path, UPSTREAM, 201).await;
        let id = format!("{:020}", revision(&told));
        let mut value: Value = serde_json::from_str(UPSTREAM).unwrap();
        value["id"] = json!(id);
        let envelope = json!({"key": format!("/apisix/upstreams/{id}"), "value": value});
        assert_eq!(told.json().to_string(), envelope.to_string());
        let shown = room.ask("GET", &format!("{path}/{id}"), "", 200).await;
        assert_eq!(shown.json()["value"], value);
    }
}

#[tokio::test]
async fn post_with_an_id_or_with_nothing_is_refused() {
    let room = Room::new();
    let with_id = UPSTREAM.replacen('{', r#"{"id":"u1","#, 1);
    let with_time = UPSTREAM.replacen('{', r#"{"create_time":1,"#, 1);
    let no_id = "wrong upstream id, do not need it";
    for (path, body, text) in [
        ("upstreams/1", UPSTREAM, no_id),
        ("upstreams/1/nodes", UPSTREAM, no_id),
        ("upstreams", with_id.as_str(), no_id),
        (
            "upstreams",
            with_time.as_str(),
            "the property is forbidden:  create_time",
        ),
        ("upstreams", "", "missing configurations"),
        (
            "upstreams",
            "[]",
            "invalid configuration: wrong type: expected object, got table",
        ),
        (
            "upstreams?ttl=x",
            UPSTREAM,
            "invalid argument ttl: should be a number",
        ),
    ] {
        let path = format!("/apisix/admin/{path}");
        let told = room.ask("POST", &path, body, 400).await;
        assert_eq!(told.json()["error_msg"], text, "{path} {body}");
    }
    let list = room.ask("GET", "/apisix/admin/upstreams", "", 200).await;
    assert_eq!(list.json()["total"], 0);
}

#[tokio::test]
async fn merge_changes_what_it_names_and_nothing_else() {
    let room = room_with_a_route().await;
    for (path, body, pointer, expected) in [
        (PATH, r#"{"desc":"d"}"#, "/desc", json!("d")),
        (
            "/apisix/admin/routes/1/",
            r#"{"upstream":{"nodes":{"127.0.0.1:1981":2}}}"#,
            "/upstream/nodes",
            json!({"127.0.0.1:1980": 1, "127.0.0.1:1981": 2}),
        ),
        (
            PATH,
            r#"{"upstream":{"nodes":{"127.0.0.1:1980":null}}}"#,
            "/upstream/nodes",
            json!({"127.0.0.1:1981": 2}),
        ),
        (PATH, r#"{"methods":["GET"]}"#, "/methods", json!(["GET"])),
        (
            PATH,
            r#"{"methods":["PUT","POST"],"desc":null}"#,
            "/methods",
            json!(["PUT", "POST"]),
        ),
        (PATH, r#"{"id":1}"#, "/id", json!("1")),
    ] {
        let told = room.ask("PATCH", path, body, 200).await;
        let json = told.json();
        let members: Vec<&String> = json.as_object().unwrap().keys().collect();
        assert_eq!(members, ["key", "value"]);
        assert_eq!(json["key"], "/apisix/routes/1");
        assert_eq!(json["value"].pointer(pointer), Some(&expected), "{body}");
        let shown = room.ask("GET", PATH, "", 200).await;
        assert_eq!(shown.json()["value"], json["value"]);
        assert_eq!(revision(&shown), revision(&told));
    }
    let value = room.ask("GET", PATH, "", 200).await.json()["value"].clone();
    assert_eq!(value["uri"], "/hello");
    assert!(value.get("desc").is_none());
}

#[tokio::test]
async fn sub_path_replaces_one_node() {
    let room = room_with_a_route().await;
    for (sub_path, body, pointer, expected) in [
        (
            "upstream/nodes",
            r#"{"127.0.0.1:1981":1}"#,
            "/upstream/nodes",
            json!({"127.0.0.1:1981": 1}),
        ),
        ("uri", r#""/other""#, "/uri", json!("/other")),
        ("priority", "7", "/priority", json!(7)),
        (
            "upstream/timeout/",
            r#"{"connect":1,"send":1,"read":1}"#,
            "/upstream/timeout/read",
            json!(1),
        ),
        ("labels/team", r#""x""#, "/labels", json!({"team": "x"})),
    ] {
        let told = room
            .ask("PATCH", &format!("{PATH}/{sub_path}"), body, 200)
            .await;
        assert_eq!(
            told.json()["value"].pointer(pointer),
            Some(&expected),
            "{sub_path}"
        );
    }
}

#[tokio::test]
async fn patches_that_say_nothing_or_lead_nowhere_are_refused() {
    let room = room_with_a_route().await;
    let before = room.ask("GET", PATH, "", 200).await.text;
    for (path, body, text) in [
        ("routes", "{}", "missing route id"),
        ("secrets", "{}", "no secret id"),
        ("secrets/vault", "{}", "no secret id"),
        ("routes/1", "", "missing new configuration"),
        ("routes/1/uri", "", "missing new configuration"),
        ("routes/1", "\"x\"", "invalid configuration"),
        ("routes/1", "null", "invalid configuration"),
        ("routes/1", "[{\"op\":\"remove\"}]", "invalid configuration"),
        ("routes/1", r#"{"id":"2"}"#, "wrong route id"),
        ("routes/1/id", "\"2\"", "wrong route id"),
        ("routes/1/uri/x", "1", "invalid sub-path: /uri"),
        (
            "routes/1",
            r#"{"uri":null}"#,
            "invalid configuration: allOf 1 failed: value should match only one schema, but \
             matches none",
        ),
        (
            "routes/1/desc",
            "null",
            "invalid configuration: property \"desc\" validation failed: wrong type: expected \
             string, got userdata",
        ),
        (
            "routes/1",
            r#"{"foo":1}"#,
            "invalid configuration: additional properties forbidden, found foo",
        ),
        (
            "routes/1?ttl=x",
            "{}",
            "invalid argument ttl: should be a number",
        ),
    ] {
        let path = format!("/apisix/admin/{path}");
        let told = room.ask("PATCH", &path, body, 400).await;
        assert_eq!(told.json()["error_msg"], text, "{path} {body}");
    }
    for path in ["routes/2", "routes/a%20b", "secrets/vault/1", "ssls/1/key"] {
        let path = format!("/apisix/admin/{path}");
        let told = room.ask("PATCH", &path, "{}", 404).await;
        assert_eq!(told.text, "{\"message\":\"Key not found\"}\n");
    }
    assert_eq!(room.ask("GET", PATH, "", 200).await.text, before);
}

#[tokio::test]
async fn json_patch_is_api7_s() {
    let room = room_with_a_route().await;
    let list = json!([
        {"op": "test", "path": "/uri", "value": "/hello"},
        {"op": "add", "path": "/desc", "value": "d"},
        {"op": "replace", "path": "/upstream/nodes/127.0.0.1:1980", "value": 5},
    ]);
    let ask = async |body: &Value, status| {
        let listener = Listener::Https7443;
        room.ask_on(listener, "PATCH", PATH, &body.to_string(), status)
            .await
    };
    let value = ask(&list, 200).await.json()["value"].clone();
    assert_eq!(
        (&value["desc"], &value["uri"]),
        (&json!("d"), &json!("/hello"))
    );
    assert_eq!(value["upstream"]["nodes"], json!({"127.0.0.1:1980": 5}));
    for (list, status, text) in [
        (
            json!([{"op": "test", "path": "/uri", "value": "/x"}]),
            409,
            "JSON Patch does not apply: operation 0: the value at /uri is another",
        ),
        (
            json!([{"op": "remove", "path": "/desc"}, {"op": "remove", "path": "/none"}]),
            409,
            "JSON Patch does not apply: operation 1: there is nothing at /none",
        ),
        (
            json!([{"op": "set", "path": "/desc"}]),
            400,
            "invalid JSON Patch: operation 0: `op` is none of add, remove, replace, move, copy \
             and test",
        ),
        (
            json!([{"op": "remove", "path": "/uri"}]),
            400,
            "invalid configuration: allOf 1 failed: value should match only one schema, but \
             matches none",
        ),
    ] {
        let told = ask(&list, status).await;
        assert_eq!(told.json()["error_msg"], text, "{list}");
    }
    // A merge is understood too, and a node behind a sub-path may be an array.
    assert_eq!(
        ask(&json!({"desc": "e"}), 200).await.json()["value"]["desc"],
        "e"
    );
    let path = format!("{PATH}/methods?gateway_group_id=default");
    let told = room.ask("PATCH", &path, r#"["GET"]"#, 200).await;
    assert_eq!(told.json()["value"]["methods"], json!(["GET"]));
}

#[tokio::test]
async fn if_match_guards_a_patch() {
    let room = room_with_a_route().await;
    let tag = room.ask("GET", PATH, "", 200).await;
    let tag = tag.header("etag").unwrap().to_owned();
    let patch = async |tag: &str| {
        let headers = [("x-api-key", KEY), ("if-match", tag)];
        room.ask_with(
            Listener::Http9180,
            "PATCH",
            PATH,
            &headers,
            r#"{"desc":"d"}"#,
        )
        .await
        .status
    };
    assert_eq!(patch(&tag).await, 200);
    assert_eq!(patch(&tag).await, 412);
}

#[tokio::test]
async fn no_reply_to_a_patch_has_a_key() {
    let room = Room::new();
    let ((cert, key), path) = (pair(), "/apisix/admin/ssls/1");
    let ssl = json!({"cert": cert, "key": key, "sni": "api.test"}).to_string();
    room.ask("PUT", path, &ssl, 201).await;
    let canary = key.lines().nth(1).unwrap();
    let placeholder = room.ask("PATCH", path, "{}", 200).await.json()["value"]["key"].clone();
    for (sub_path, body, status) in [
        ("", json!({"desc": "x"}), 200),
        ("", json!({"cert": cert, "key": key}), 200),
        ("", json!({"key": placeholder}), 200),
        ("/key", json!(key), 200),
        ("/desc", json!(key), 400),
        ("/cert", json!(pair().0), 400),
        ("/key", json!(pair().1), 400),
        ("", json!({"key": format!("x{key}")}), 400),
    ] {
        let path = format!("{path}{sub_path}");
        let told = room.ask("PATCH", &path, &body.to_string(), status).await;
        assert!(!told.text.contains(canary), "{}", told.text);
        if status == 200 {
            assert_eq!(told.json()["value"]["key"], placeholder);
        }
    }
}
