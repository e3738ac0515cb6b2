//! Statuses and bodies of each verb, for each kind, in both flavours; lists; references.

use serde_json::{Value, json};

use super::{Door, error_msg, ssl, upstream};
use crate::support::gateway::Gateway;
use crate::support::pki::Ca;

/// One document of each kind, with the path it is put to and its id.
fn one_of_each(ca: &Ca) -> [(&'static str, &'static str, Value); 5] {
    [
        (
            "ssls",
            "s.1",
            ssl(&ca.server("one.example.com"), "one.example.com"),
        ),
        ("upstreams", "u-1", upstream()),
        (
            "services",
            "v_1",
            json!({"name": "v", "upstream": {
                "nodes": [{"host": "127.0.0.1", "port": 1980, "weight": 1}],
                "type": "roundrobin",
            }}),
        ),
        (
            "routes",
            "1",
            json!({"uri": "/one", "desc": "d", "upstream": upstream()}),
        ),
        (
            "secrets",
            "vault/1",
            json!({"uri": "http://127.0.0.1:8200", "prefix": "kv/apisix", "token": "s.canary"}),
        ),
    ]
}

/// Checks a shown value against what was sent: the same members in the same order, then id and
/// times, and nothing else. Secrets are compared elsewhere.
#[track_caller]
fn assert_shows(shown: &Value, sent: &Value, id: &str, is_typed: bool) {
    let mut shown = shown.as_object().unwrap().clone();
    if is_typed {
        assert_eq!(shown.shift_remove("type").unwrap(), "http");
    }
    let names: Vec<&String> = shown.keys().collect();
    assert!(
        names.ends_with(&[&"id".into(), &"create_time".into(), &"update_time".into()]),
        "{names:?}"
    );
    assert_eq!(shown.shift_remove("id").unwrap(), id);
    for time in ["create_time", "update_time"] {
        let time = shown.shift_remove(time).unwrap();
        assert!(
            time.as_u64().is_some_and(|time| time > 1_700_000_000),
            "{time}"
        );
    }
    let mut sent = sent.as_object().unwrap().clone();
    for secret in ["key", "token"] {
        match shown.get(secret) {
            Some(value) => assert!(value.as_str().unwrap().starts_with("$withheld:"), "{value}"),
            None => drop(sent.shift_remove(secret)),
        }
        if let (Some(shown), Some(sent)) = (shown.get(secret), sent.get_mut(secret)) {
            sent.clone_from(shown);
        }
    }
    // As text, which has the order too.
    assert_eq!(
        Value::Object(shown).to_string(),
        Value::Object(sent).to_string()
    );
}

#[test]
fn each_kind_is_created_replaced_shown_listed_and_deleted_in_both_flavours() {
    let ca = Ca::root("CA");
    for door in Door::ALL {
        let gateway = Gateway::start();
        for (kind, id, sent) in one_of_each(&ca) {
            let path = format!("/{kind}/{id}");
            let key = format!("/apisix/{kind}/{id}");
            let is_typed = door == Door::Https && kind == "services";

            let empty = door
                .ask(&gateway, "GET", &format!("/{kind}"))
                .send()
                .expect_status(200);
            assert_eq!(empty.body, "{\"list\":[],\"total\":0}\n");

            for status in [201, 200] {
                let written = door.put(&gateway, &path, &sent).expect_status(status);
                let body = written.json();
                let members: Vec<&String> = body.as_object().unwrap().keys().collect();
                assert_eq!(members[..2], ["key", "value"], "no indexes: {members:?}");
                assert!(
                    members.len() == 2 || members[2..] == ["warning_msg"],
                    "{members:?}"
                );
                assert_eq!(body["key"], key);
                assert_shows(&body["value"], &sent, id, is_typed);
                assert_eq!(written.header("content-type"), Some("application/json"));
                assert_eq!(written.header("x-api-version"), Some("v3"));
                assert!(
                    written.body.ends_with("}\n") && !written.body.contains("} "),
                    "{}",
                    written.body
                );
            }

            let one = door
                .ask(&gateway, "GET", &path)
                .send()
                .expect_status(200)
                .json();
            let members: Vec<&String> = one.as_object().unwrap().keys().collect();
            assert_eq!(members, ["key", "value", "createdIndex", "modifiedIndex"]);
            assert_eq!(one["key"], key);
            assert_shows(&one["value"], &sent, id, is_typed);
            let index = |name: &str| one[name].as_u64().unwrap();
            assert!(index("createdIndex") < index("modifiedIndex"), "{one}");

            let list = door
                .ask(&gateway, "GET", &format!("/{kind}"))
                .send()
                .expect_status(200)
                .json();
            let item = match door {
                Door::Plain => one.clone(),
                Door::Https => one["value"].clone(),
            };
            assert_eq!(list, json!({"list": [item], "total": 1}));

            let gone = door
                .ask(&gateway, "DELETE", &path)
                .send()
                .expect_status(200);
            assert_eq!(
                gone.body,
                format!("{{\"key\":\"{key}\",\"deleted\":\"1\"}}\n")
            );
            for method in ["GET", "DELETE"] {
                let absent = door.ask(&gateway, method, &path).send().expect_status(404);
                assert_eq!(absent.body, "{\"message\":\"Key not found\"}\n");
            }
        }
    }
}

#[test]
fn both_listeners_show_one_store_each_in_its_flavour() {
    let gateway = Gateway::start();
    Door::Plain
        .put(&gateway, "/services/s", &json!({"name": "s"}))
        .expect_status(201);
    let flat = |door: Door, path: &str| {
        let list = door
            .ask(&gateway, "GET", path)
            .send()
            .expect_status(200)
            .json();
        assert_eq!(list["total"], 1);
        let item = list["list"][0].clone();
        assert_eq!(
            item["type"].is_string(),
            item.get("key").is_none(),
            "{item}"
        );
        item.get("key").is_none()
    };
    assert!(!flat(Door::Plain, "/services"));
    assert!(flat(Door::Https, "/services"));
    // A gateway group is API7's word, whoever is asked.
    assert!(flat(Door::Plain, "/services?gateway_group_id=default"));
    let created = Door::Plain
        .put(&gateway, "/services/s", &json!({"name": "s"}))
        .expect_status(200);
    assert!(created.json()["value"].get("type").is_none());
}

#[test]
fn indexes_come_from_one_growing_sequence() {
    let gateway = Gateway::start();
    let mut last = 0;
    let mut created = 0;
    for (path, is_new) in [
        ("/upstreams/a", true),
        ("/routes/b", true),
        ("/upstreams/a", false),
    ] {
        let document = match path {
            "/upstreams/a" => upstream(),
            _ => json!({"uri": "/b", "upstream": upstream()}),
        };
        gateway
            .admin_put(path, &document)
            .expect_status(if is_new { 201 } else { 200 });
        let one = gateway.admin_get(path).expect_status(200).json();
        let modified = one["modifiedIndex"].as_u64().unwrap();
        assert!(modified > last, "{one}");
        last = modified;
        if path == "/upstreams/a" {
            let found = one["createdIndex"].as_u64().unwrap();
            assert!(
                is_new == (found == modified) && (is_new || found == created),
                "{one}"
            );
            created = found;
        }
    }
}

#[test]
fn ids_of_path_and_body_must_agree() {
    let gateway = Gateway::start();
    let with_id = |id: Value| {
        let mut document = upstream();
        document["id"] = id;
        document
    };
    for (path, document, status) in [
        ("/upstreams/7", with_id(json!(7)), 201),
        ("/upstreams/7", with_id(json!("7")), 200),
        ("/upstreams", with_id(json!("8")), 201),
        ("/upstreams", with_id(json!(9)), 201),
        ("/upstreams/7", with_id(json!(8)), 400),
        ("/upstreams/7", with_id(json!("x")), 400),
    ] {
        let outcome = gateway.admin_put(path, &document).expect_status(status);
        if status == 400 {
            assert_eq!(error_msg(&outcome), "wrong upstream id");
        } else {
            let id = document["id"]
                .as_str()
                .map_or_else(|| document["id"].to_string(), str::to_owned);
            assert_eq!(outcome.json()["key"], format!("/apisix/upstreams/{id}"));
            // A path has no numbers; a body alone keeps its own.
            let shown = if path == "/upstreams" {
                document["id"].clone()
            } else {
                json!(id)
            };
            assert_eq!(outcome.json()["value"]["id"], shown);
        }
    }
    let forbidden = json!({"uri": "/", "upstream": upstream(), "create_time": 1});
    let outcome = gateway
        .admin_put("/routes/1", &forbidden)
        .expect_status(400);
    assert_eq!(
        error_msg(&outcome),
        "the property is forbidden:  create_time"
    );
    gateway.admin_get("/routes/1").expect_status(404);
}

#[test]
fn body_that_is_no_json_object_is_refused_without_being_quoted() {
    let gateway = Gateway::start();
    for door in Door::ALL {
        let send = |body: &str| door.ask(&gateway, "PUT", "/routes/1").body(body).send();
        for body in [
            "{\"uri\":",
            "canary-of-a-key",
            "{\"key\":canary-of-a-key}",
            "{} x",
        ] {
            let outcome = send(body).expect_status(400);
            let text = error_msg(&outcome);
            assert!(text.starts_with("invalid request body: "), "{text}");
            assert_eq!(
                outcome.json()["req_body"],
                format!("[withheld, {} bytes]", body.len())
            );
            assert!(!outcome.body.contains("canary"), "{}", outcome.body);
        }
        for (body, text) in [
            ("", "missing configurations"),
            (
                "[]",
                "invalid configuration: wrong type: expected object, got table",
            ),
            (
                "\"x\"",
                "invalid configuration: wrong type: expected object, got string",
            ),
        ] {
            assert_eq!(error_msg(&send(body).expect_status(400)), text);
        }
        let large = format!("{{\"uri\":\"/\",\"desc\":\"{}\"}}", "x".repeat(1_572_864));
        let text = error_msg(&send(&large).expect_status(400));
        assert_eq!(
            text,
            format!(
                "invalid request body: request size {} is greater than the maximum size 1572864 allowed",
                large.len()
            )
        );
        door.ask(&gateway, "GET", "/routes/1")
            .send()
            .expect_status(404);
        // curl calls what it sends a form.
        let good = json!({"uri": "/", "upstream": upstream()}).to_string();
        send(&good).expect_status(201);
        door.ask(&gateway, "DELETE", "/routes/1")
            .send()
            .expect_status(200);
    }
    let stopped = gateway.stop();
    assert!(!format!("{stopped:?}").contains("canary"));
}

#[test]
fn references_must_exist_and_hold_what_they_name() {
    let gateway = Gateway::start();
    let route = |member: &str| json!({"uri": "/r", member: "x"});
    for (path, document, text) in [
        (
            "/routes/1",
            route("upstream_id"),
            "failed to fetch upstream info by upstream id [x], response code: 404",
        ),
        (
            "/routes/1",
            route("service_id"),
            "failed to fetch service info by service id [x], response code: 404",
        ),
        (
            "/services/1",
            json!({"upstream_id": "x"}),
            "failed to fetch upstream info by upstream id [x], response code: 404",
        ),
        (
            "/upstreams/1",
            json!({"scheme": "https", "nodes": {"127.0.0.1:1": 1}, "tls": {"client_cert_id": "x"}}),
            "failed to fetch ssl info by ssl id [x], response code: 404",
        ),
    ] {
        let outcome = gateway.admin_put(path, &document).expect_status(400);
        assert_eq!(error_msg(&outcome), text);
        let is_named = ["upstream_id", "service_id"].map(|member| document.get(member));
        let hint = is_named
            .iter()
            .all(Option::is_none)
            .then_some("at /tls/client_cert_id");
        assert_eq!(outcome.json()["hint"].as_str(), hint);
        gateway.admin_get(path).expect_status(404);
    }
    gateway
        .admin_put("/upstreams/x", &upstream())
        .expect_status(201);
    gateway
        .admin_put("/services/x", &json!({"upstream_id": "x"}))
        .expect_status(201);
    gateway
        .admin_put("/routes/1", &route("service_id"))
        .expect_status(201);

    for (path, text) in [
        (
            "/upstreams/x",
            "can not delete this upstream, service [x] is still using it now",
        ),
        (
            "/services/x",
            "can not delete this service directly, route [1] is still using it now",
        ),
    ] {
        for force in ["", "?force=false", "?force=1"] {
            let refused = gateway
                .admin_delete(&format!("{path}{force}"))
                .expect_status(400);
            assert_eq!(error_msg(&refused), text);
        }
        gateway.admin_get(path).expect_status(200);
    }
    gateway
        .admin_delete("/upstreams/x?force=true")
        .expect_status(200);
    gateway.admin_get("/upstreams/x").expect_status(404);
    gateway.admin_delete("/routes/1").expect_status(200);
    gateway.admin_delete("/services/x").expect_status(200);
}

#[test]
fn api7_deletes_a_service_with_its_routes_and_apisix_refuses() {
    let gateway = Gateway::start();
    let fill = || {
        gateway.admin_put("/services/s", &json!({"upstream": upstream()}));
        for id in ["a", "b"] {
            let route = json!({"uri": format!("/{id}"), "service_id": "s"});
            gateway
                .admin_put(&format!("/routes/{id}"), &route)
                .expect_status(201);
        }
        gateway.admin_put("/routes/c", &json!({"uri": "/c", "upstream": upstream()}));
    };
    fill();
    gateway.admin_delete("/services/s").expect_status(400);
    assert_eq!(gateway.admin_get("/routes").json()["total"], 3);
    for door in [Door::Https, Door::Plain] {
        let group = if door == Door::Plain {
            "?gateway_group_id=default"
        } else {
            ""
        };
        door.ask(&gateway, "DELETE", &format!("/services/s{group}"))
            .send()
            .expect_status(200);
        assert_eq!(gateway.admin_get("/services").json()["total"], 0);
        let left = gateway.admin_get("/routes").json();
        assert_eq!(
            (&left["total"], &left["list"][0]["value"]["id"]),
            (&json!(1), &json!("c"))
        );
        fill();
    }
}

#[test]
fn lists_are_paged_and_filtered() {
    let gateway = Gateway::start();
    for number in (1..=12).rev() {
        let document = json!({"uri": format!("/p{number}"), "name": format!("n{number}"), "upstream": upstream()});
        gateway
            .admin_put(&format!("/routes/{number}"), &document)
            .expect_status(201);
    }
    let ids = |query: &str| -> Vec<String> {
        let list = gateway
            .admin_get(&format!("/routes?{query}"))
            .expect_status(200)
            .json();
        let items = list["list"].as_array().unwrap();
        items
            .iter()
            .map(|item| item["value"]["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        ids("page=1&page_size=10"),
        ["12", "11", "10", "9", "8", "7", "6", "5", "4", "3"]
    );
    assert_eq!(ids("page=2&page_size=10"), ["2", "1"]);
    assert_eq!(ids("name=n1").len(), 4);
    assert_eq!(ids("uri=/p2$"), ["2"]);
    for size in ["9", "501"] {
        let refused = gateway
            .admin_get(&format!("/routes?page=1&page_size={size}"))
            .expect_status(400);
        assert_eq!(refused.body, "page_size must be between 10 and 500");
    }
}

#[test]
fn lists_are_narrowed_by_labels_references_and_api7_s_own_words() {
    let gateway = Gateway::start();
    gateway
        .admin_put("/upstreams/2", &upstream())
        .expect_status(201);
    for service in ["1", "2"] {
        gateway
            .admin_put(
                &format!("/services/{service}"),
                &json!({"upstream_id": "2"}),
            )
            .expect_status(201);
    }
    for (id, members) in [
        (
            "a",
            json!({"name": "Alpha", "service_id": "1", "labels": {"team": "x"}}),
        ),
        (
            "b",
            json!({"name": "beta", "service_id": 1, "upstream_id": "2"}),
        ),
        (
            "c",
            json!({"service_id": "2", "labels": {"team": "y", "x": "1"}}),
        ),
    ] {
        let mut document = members;
        document["uris"] = json!([format!("/{id}"), format!("/more/{id}")]);
        gateway
            .admin_put(&format!("/routes/{id}"), &document)
            .expect_status(201);
    }
    let ids = |door: Door, query: &str| -> String {
        let list = door
            .ask(&gateway, "GET", &format!("/routes?{query}"))
            .send()
            .expect_status(200)
            .json();
        let items = list["list"].as_array().unwrap().clone();
        assert_eq!(list["total"], items.len(), "{query}");
        let id = |item: &Value| {
            let value = item.get("value").unwrap_or(item);
            value["id"].as_str().unwrap().to_owned()
        };
        items.iter().map(id).collect()
    };
    for (query, expected) in [
        ("label=team", "ac"),
        ("label=x", "c"),
        ("uri=more/b", "b"),
        ("filter=service_id%3D1", "ab"),
        ("filter=service_id%3D1%26upstream_id%3D2", "b"),
        ("filter=other%3D1", "abc"),
        ("name=^A.*a%24", "a"),
    ] {
        assert_eq!(ids(Door::Plain, query), expected, "{query}");
        assert_eq!(ids(Door::Https, query), expected, "{query}");
    }
    for (query, expected) in [
        ("service_id=2", "c"),
        ("search=ALPH", "a"),
        ("labels%5Bteam%5D=y", "c"),
        ("page=1&page_size=3", "cba"),
        ("page=1&page_size=3&direction=asc", "abc"),
    ] {
        assert_eq!(ids(Door::Https, query), expected, "{query}");
    }
    let refused = gateway.admin_get("/routes?name=%28").expect_status(400);
    assert!(error_msg(&refused).contains("not a regular expression"));
}

#[test]
fn if_match_guards_a_write() {
    let gateway = Gateway::start();
    gateway
        .admin_put("/upstreams/u", &upstream())
        .expect_status(201);
    let tag = gateway
        .admin_get("/upstreams/u")
        .header("etag")
        .unwrap()
        .to_owned();
    let put = |tag: &str| {
        let request = gateway
            .admin("PUT", "/upstreams/u")
            .header(&format!("If-Match: {tag}"));
        request.body(upstream().to_string()).send()
    };
    put(&tag).expect_status(200);
    put(&tag).expect_status(412);
    let stale = gateway
        .admin("DELETE", "/upstreams/u")
        .header(&format!("If-Match: {tag}"));
    stale.send().expect_status(412);
    put("soon").expect_status(400);
    gateway.admin_get("/upstreams/u").expect_status(200);
}
