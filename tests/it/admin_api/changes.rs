//! POST and PATCH: ids that the gateway makes, changes of a part, JSON Patch, keys that stay.

use std::thread;

use serde_json::{Value, json};

use super::{Door, error_msg, ssl, upstream};
use crate::support::TlsVersion;
use crate::support::client::{Curl, CurlOutcome, shown_serial};
use crate::support::gateway::Gateway;
use crate::support::origin::{Nginx, Origin, seen};
use crate::support::pki::{Ca, Leaf};

const NAME: &str = "api.example.com";

fn send(door: Door, gateway: &Gateway, method: &str, path: &str, body: &Value) -> CurlOutcome {
    door.ask(gateway, method, path)
        .body(body.to_string())
        .send()
}

#[test]
fn posted_objects_of_each_kind_get_ids_that_sort_by_age_and_are_served() {
    let ca = Ca::root("CA");
    let origin = Origin::nginx(&Nginx::default());
    for door in Door::ALL {
        let gateway = Gateway::start();
        let server = ca.server(NAME);
        let mut last = String::new();
        let mut post = |kind: &str, document: &Value| {
            let made = send(door, &gateway, "POST", &format!("/{kind}"), document);
            let body = made.expect_status(201).json();
            let id = body["value"]["id"].as_str().unwrap().to_owned();
            assert_eq!(body["key"], format!("/apisix/{kind}/{id}"));
            assert!(id.len() == 20 && id.bytes().all(|byte| byte.is_ascii_digit()));
            assert!(id > last, "{id} after {last}");
            last.clone_from(&id);
            let shown = door.ask(&gateway, "GET", &format!("/{kind}/{id}")).send();
            assert_eq!(shown.expect_status(200).json()["value"]["id"], id);
            id
        };
        post("ssls", &ssl(&server, NAME));
        let upstream = post("upstreams", &json!({"nodes": {origin.node(): 1}}));
        let service = post("services", &json!({"upstream_id": upstream}));
        post("routes", &json!({"uri": "/made", "service_id": service}));
        let served = Curl::new(&gateway.http_url("/made")).send();
        assert_eq!(seen(&served.expect_status(200).body, "uri"), "/made");
        for version in TlsVersion::ALL {
            let shown = shown_serial(gateway.https_port(), NAME, version);
            assert_eq!(shown, Some(server.serial()));
        }
    }
}

#[test]
fn ids_and_secrets_are_not_posted() {
    let gateway = Gateway::start();
    for door in Door::ALL {
        let mut with_id = upstream();
        with_id["id"] = json!("u");
        for (path, document) in [("/upstreams/u", &upstream()), ("/upstreams", &with_id)] {
            let refused = send(door, &gateway, "POST", path, document).expect_status(400);
            assert_eq!(error_msg(&refused), "wrong upstream id, do not need it");
        }
        for path in ["/secrets", "/secrets/vault", "/secrets/vault/1"] {
            let refused = send(door, &gateway, "POST", path, &json!({})).expect_status(405);
            assert_eq!(
                error_msg(&refused),
                "not supported `POST` method for secret"
            );
        }
        assert_eq!(gateway.admin_get("/upstreams").json()["total"], 0);
        send(door, &gateway, "POST", "/upstreams", &upstream()).expect_status(201);
        let list = gateway.admin_get("/upstreams").json();
        let id = list["list"][0]["value"]["id"].as_str().unwrap();
        gateway
            .admin_delete(&format!("/upstreams/{id}"))
            .expect_status(200);
    }
}

#[test]
fn patch_of_each_kind_merges_and_is_live_when_its_reply_arrives() {
    let ca = Ca::root("CA");
    let origins = ["one", "two"].map(|name| {
        Origin::nginx(&Nginx {
            directives: format!("location ~ . {{ return 200 {name}; }}"),
            ..Nginx::default()
        })
    });
    let nodes = |index: usize| json!({origins[index].node(): 1});
    let served_by = |gateway: &Gateway, path: &str| {
        let served = Curl::new(&gateway.http_url(path)).send().expect_status(200);
        served.body
    };
    for door in Door::ALL {
        let gateway = Gateway::start();
        for (path, document) in [
            ("/ssls/1", ssl(&ca.server(NAME), NAME)),
            ("/upstreams/1", json!({"nodes": nodes(0), "desc": "d"})),
            ("/services/1", json!({"upstream": {"nodes": nodes(0)}})),
            ("/routes/u", json!({"uri": "/u", "upstream_id": "1"})),
            ("/routes/s", json!({"uri": "/s", "service_id": "1"})),
            (
                "/routes/i",
                json!({"uri": "/i", "upstream": {"nodes": nodes(0)}}),
            ),
            (
                "/secrets/vault/1",
                json!({"uri": "http://127.0.0.1:8200", "prefix": "kv", "token": "canary"}),
            ),
        ] {
            gateway.admin_put(path, &document).expect_status(201);
        }
        // `null` takes the old node out.
        let moved = json!({origins[0].node(): null, origins[1].node(): 1});
        for (path, patch, asked) in [
            ("/upstreams/1", json!({"nodes": moved}), "/u"),
            ("/services/1", json!({"upstream": {"nodes": moved}}), "/s"),
            ("/routes/i", json!({"upstream": {"nodes": moved}}), "/i"),
        ] {
            assert_eq!(served_by(&gateway, asked), "one");
            let changed = send(door, &gateway, "PATCH", path, &patch).expect_status(200);
            assert_eq!(served_by(&gateway, asked), "two");
            assert_eq!(changed.json()["key"], format!("/apisix{path}"));
            let shown = door.ask(&gateway, "GET", path).send().expect_status(200);
            assert_eq!(shown.json()["value"], changed.json()["value"], "{path}");
        }
        assert_eq!(
            gateway.admin_get("/upstreams/1").json()["value"]["desc"],
            "d"
        );
        // One node behind a sub-path.
        for (path, asked) in [
            ("/upstreams/1/nodes", "/u"),
            ("/services/1/upstream/nodes", "/s"),
            ("/routes/i/upstream/nodes", "/i"),
        ] {
            send(door, &gateway, "PATCH", path, &nodes(0)).expect_status(200);
            assert_eq!(served_by(&gateway, asked), "one");
        }
        send(door, &gateway, "PATCH", "/routes/i/uri", &json!("/j")).expect_status(200);
        served_by(&gateway, "/j");
        Curl::new(&gateway.http_url("/i")).send().expect_status(404);

        let other = json!({"snis": ["b.example.com"]});
        send(door, &gateway, "PATCH", "/ssls/1", &other).expect_status(200);
        for version in TlsVersion::ALL {
            let port = gateway.https_port();
            assert_eq!(shown_serial(port, NAME, version), None);
            assert!(shown_serial(port, "b.example.com", version).is_some());
        }
        let secret = send(
            door,
            &gateway,
            "PATCH",
            "/secrets/vault/1",
            &json!({"prefix": "q"}),
        );
        let value = secret.expect_status(200).json()["value"].clone();
        assert_eq!(
            (&value["prefix"], &value["id"]),
            (&json!("q"), &json!("vault/1"))
        );
        let stopped = gateway.stop();
        assert!(!format!("{stopped:?}").contains("canary"));
    }
}

#[test]
fn refused_patches_change_nothing() {
    let gateway = Gateway::start();
    let route = json!({"uri": "/r", "upstream": upstream()});
    gateway.admin_put("/routes/1", &route).expect_status(201);
    let before = gateway.admin_get("/routes/1").body;
    for door in Door::ALL {
        for (path, body, text) in [
            ("/routes", "{}", "missing route id"),
            ("/secrets/vault", "{}", "no secret id"),
            ("/routes/1", "", "missing new configuration"),
            ("/routes/1", "5", "invalid configuration"),
            ("/routes/1", r#"{"id":"2"}"#, "wrong route id"),
            ("/routes/1/uri/x", "1", "invalid sub-path: /uri"),
            (
                "/routes/1",
                r#"{"uri":1}"#,
                "invalid configuration: property \"uri\" validation failed: wrong type: expected \
                 string, got number",
            ),
        ] {
            let refused = door.ask(&gateway, "PATCH", path).body(body).send();
            let told = error_msg(&refused.expect_status(400));
            assert_eq!(told, text, "{path} {body}");
        }
        let absent = send(door, &gateway, "PATCH", "/routes/2", &json!({}));
        assert_eq!(
            absent.expect_status(404).body,
            "{\"message\":\"Key not found\"}\n"
        );
        assert_eq!(gateway.admin_get("/routes/1").body, before);
    }
    send(
        Door::Plain,
        &gateway,
        "PATCH",
        "/routes/1",
        &json!({"desc": "d"}),
    )
    .expect_status(200);
}

#[test]
fn json_patch_applies_whole_or_not_at_all_and_is_api7_s_alone() {
    let gateway = Gateway::start();
    let route = json!({"uri": "/r", "upstream": upstream(), "desc": "one"});
    gateway.admin_put("/routes/1", &route).expect_status(201);
    let patch = |expected: &str, next: &str| {
        json!([
            {"op": "replace", "path": "/desc", "value": next},
            {"op": "add", "path": "/labels", "value": {"a": "b"}},
            {"op": "test", "path": "/desc", "value": next},
            {"op": "remove", "path": "/labels"},
            {"op": "test", "path": "/uri", "value": expected},
        ])
    };
    let ask = |door: Door, path: &str, body: &Value| send(door, &gateway, "PATCH", path, body);
    let desc = || gateway.admin_get("/routes/1").json()["value"]["desc"].clone();

    let refused = ask(Door::Https, "/routes/1", &patch("/other", "two")).expect_status(409);
    let text = "JSON Patch does not apply: operation 4: the value at /uri is another";
    assert_eq!(
        (error_msg(&refused), desc()),
        (text.to_owned(), json!("one"))
    );
    let done = ask(Door::Https, "/routes/1", &patch("/r", "two")).expect_status(200);
    assert_eq!(done.json()["value"]["desc"], "two");
    assert!(done.json()["value"].get("labels").is_none());

    let refused = ask(Door::Plain, "/routes/1", &patch("/r", "three")).expect_status(400);
    assert_eq!(error_msg(&refused), "invalid configuration");
    let in_group = "/routes/1?gateway_group_id=default";
    ask(Door::Plain, in_group, &patch("/r", "three")).expect_status(200);
    assert_eq!(desc(), "three");
}

#[test]
fn many_patches_at_once_are_all_there_and_a_stale_one_is_told() {
    let gateway = Gateway::start();
    let route = json!({"uri": "/r", "upstream": upstream(), "labels": {"first": "1"}});
    gateway.admin_put("/routes/1", &route).expect_status(201);
    let tag = gateway.admin_get("/routes/1");
    let tag = tag.header("etag").unwrap().to_owned();
    let (writers, rounds) = (5, 6);
    thread::scope(|scope| {
        for writer in 0..writers {
            let gateway = &gateway;
            scope.spawn(move || {
                for round in 0..rounds {
                    let label = json!({"labels": {format!("w{writer}-{round}"): "x"}});
                    let door = Door::ALL[round % 2];
                    send(door, gateway, "PATCH", "/routes/1", &label).expect_status(200);
                }
            });
        }
    });
    let labels = gateway.admin_get("/routes/1").json()["value"]["labels"].clone();
    assert_eq!(labels.as_object().unwrap().len(), 1 + writers * rounds);

    let guarded = |tag: &str| {
        let request = gateway.admin("PATCH", "/routes/1");
        let request = request.header(&format!("If-Match: {tag}"));
        request.body(r#"{"desc":"guarded"}"#).send()
    };
    guarded(&tag).expect_status(412);
    let tag = gateway.admin_get("/routes/1");
    guarded(tag.header("etag").unwrap()).expect_status(200);
}

#[test]
fn certificate_rotates_by_patch_and_by_put_with_its_names_kept() {
    let gateway = Gateway::start();
    let ca = Ca::root("CA");
    let clients = Ca::root("Clients");
    let folder = gateway.data();
    let alice = clients.client("alice");
    let files = alice.write(folder.path(), "alice");
    let trust = ca.write(folder.path(), "ca");
    let origin = Origin::nginx(&Nginx::default());
    let route = json!({"uri": "/*", "upstream": {"nodes": {origin.node(): 1}}});
    gateway.admin_put("/routes/1", &route).expect_status(201);
    let first = ca.server(NAME);
    let mut document = ssl(&first, NAME);
    document["client"] = json!({"ca": clients.pem(), "depth": 2});
    gateway
        .admin_put("/ssls/mtls-domain", &document)
        .expect_status(201);
    for (turn, (door, method)) in [
        (Door::Plain, "PATCH"),
        (Door::Https, "PATCH"),
        (Door::Plain, "PUT"),
        (Door::Https, "PUT"),
    ]
    .into_iter()
    .enumerate()
    {
        let common_name = format!("turn {turn}");
        let next = ca.issue(&Leaf {
            common_name: common_name.clone(),
            ..Leaf::server(NAME)
        });
        // The body of the recipe: certificate, key and client, no names.
        let rotation = json!({"cert": next.cert, "key": next.key, "client": {"ca": clients.pem()}});
        let done = send(door, &gateway, method, "/ssls/mtls-domain", &rotation).expect_status(200);
        for version in TlsVersion::ALL {
            let client = gateway.tls(NAME, version).cert(&alice);
            let shown = client.connect().unwrap().peer_name();
            assert_eq!(shown, common_name, "{door:?} {method}");
            let ask = || gateway.https(NAME, "/").cacert(&trust).tls(version);
            ask().cert(&files).send().expect_status(200);
            ask().send().expect_refused_handshake();
        }
        let value = done.json()["value"].clone();
        assert_eq!(value["snis"], json!([NAME]));
        // A merge leaves what it does not name, a put takes what it is given.
        let depth = if method == "PATCH" {
            json!(2)
        } else {
            Value::Null
        };
        assert_eq!(value["client"]["depth"], depth);
        assert!(!done.body.contains(next.key_lines()[0]));
    }
}

#[test]
fn patched_certificate_needs_its_key_and_patched_key_its_certificate() {
    let gateway = Gateway::start();
    let ca = Ca::root("CA");
    let (one, two) = (ca.server(NAME), ca.server(NAME));
    gateway
        .admin_put("/ssls/1", &ssl(&one, NAME))
        .expect_status(201);
    let patch = |body: &Value| send(Door::Plain, &gateway, "PATCH", "/ssls/1", body);
    for (body, words) in [
        (
            json!({"cert": two.cert}),
            "no key stored for this object belongs to the certificate in `/cert`",
        ),
        (
            json!({"key": two.key}),
            "does not belong to the certificate",
        ),
        (
            json!({"key": null}),
            "a key is not removed from its certificate",
        ),
    ] {
        let refused = patch(&body).expect_status(400);
        assert!(error_msg(&refused).contains(words), "{refused:?}");
        for line in two.key_lines() {
            assert!(!refused.body.contains(line));
        }
        for version in TlsVersion::ALL {
            let shown = shown_serial(gateway.https_port(), NAME, version);
            assert_eq!(shown, Some(one.serial()));
        }
    }
    // The key stays, whether nothing, the certificate or the placeholder is said of it.
    let placeholder = patch(&json!({"labels": {"a": "b"}})).expect_status(200);
    let placeholder = placeholder.json()["value"]["key"].clone();
    patch(&json!({"cert": one.cert})).expect_status(200);
    patch(&json!({"key": placeholder})).expect_status(200);
    patch(&json!({"cert": two.cert, "key": two.key})).expect_status(200);
    for version in TlsVersion::ALL {
        let shown = shown_serial(gateway.https_port(), NAME, version);
        assert_eq!(shown, Some(two.serial()));
    }
}

#[test]
fn upstream_s_pair_is_removed_together_and_its_credential_stays_at_home() {
    let gateway = Gateway::start();
    let ca = Ca::root("CA");
    let origin = Origin::nginx(&Nginx::mutual(ca.server("up.example.com"), ca.pem()));
    let ours = ca.client("ours");
    let tls = json!({"client_cert": ours.cert, "client_key": ours.key});
    let upstream = json!({"scheme": "https", "nodes": {origin.node(): 1}, "tls": tls});
    gateway
        .admin_put("/upstreams/u", &upstream)
        .expect_status(201);
    gateway
        .admin_put("/routes/1", &json!({"uri": "/*", "upstream_id": "u"}))
        .expect_status(201);
    let patch = |path: &str, body: &Value| send(Door::Plain, &gateway, "PATCH", path, body);
    let ask = || Curl::new(&gateway.http_url("/")).send();

    patch("/upstreams/u", &json!({"desc": "d"})).expect_status(200);
    assert_eq!(seen(&ask().expect_status(200).body, "dn"), "CN=ours");
    let half = json!({"tls": {"client_key": null}});
    patch("/upstreams/u", &half).expect_status(400);
    ask().expect_status(200);
    let both = json!({"tls": {"client_cert": null, "client_key": null}});
    patch("/upstreams/u", &both).expect_status(200);
    ask().expect_status(502);
    patch("/upstreams/u/tls", &tls).expect_status(200);
    ask().expect_status(200);

    let vault = json!({"uri": "http://127.0.0.1:8200", "prefix": "kv", "token": "s.canary"});
    gateway
        .admin_put("/secrets/vault/1", &vault)
        .expect_status(201);
    let moved = json!({"uri": "http://evil.test"});
    let refused = patch("/secrets/vault/1", &moved).expect_status(400);
    assert!(error_msg(&refused).contains("`uri` changed"), "{refused:?}");
    let with_token = json!({"uri": "http://127.0.0.1:8201", "token": "s.other"});
    patch("/secrets/vault/1", &with_token).expect_status(200);
}
