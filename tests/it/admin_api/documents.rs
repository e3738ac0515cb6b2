//! What documents may look like, and that they come back as they were sent.

use serde_json::{Value, json};

use super::{Door, error_msg, ssl, upstream};
use crate::support::TlsVersion;
use crate::support::client::{Curl, shown_serial};
use crate::support::gateway::{Gateway, Setup};
use crate::support::origin::{Nginx, Origin, seen};
use crate::support::pki::Ca;

/// Sends a text and gives the text of `value` in the reply and in the GET that follows.
#[track_caller]
fn as_shown(door: Door, gateway: &Gateway, path: &str, text: &str) -> [String; 2] {
    let written = door.ask(gateway, "PUT", path).body(text).send();
    assert!(matches!(written.status, Some(200 | 201)), "{written:?}");
    let read = door.ask(gateway, "GET", path).send().expect_status(200);
    [written.body, read.body]
}

#[test]
fn numbers_members_and_their_order_come_back_as_sent() {
    let gateway = Gateway::start();
    let inner = r#""timeout":{"send":1.0,"read":6.50,"connect":0.250},"retry_timeout":1e-3,"desc":"\u00e9 / \"q\"","retries":0"#;
    let text = format!(
        r#"{{{inner},"type":"roundrobin","nodes":{{"z.test:80":1,"a.test:80":2}},"labels":{{"b":"1","a":"2"}}}}"#
    );
    let stays = text.trim_end_matches('}').replace(r"\u00e9", "é");
    for door in Door::ALL {
        for body in as_shown(door, &gateway, "/upstreams/u", &text) {
            assert!(
                body.contains(&format!("\"value\":{stays}")),
                "{body}\n{stays}"
            );
        }
        // The one liberty: an exponent shows its sign.
        let [written, read] = as_shown(
            door,
            &gateway,
            "/upstreams/e",
            r#"{"nodes":{},"retry_timeout":1e3}"#,
        );
        assert!(written.contains(r#""retry_timeout":1e+3"#), "{written}");
        assert!(read.contains(r#""retry_timeout":1e+3"#), "{read}");
    }
}

#[test]
fn nodes_come_back_in_the_form_they_were_sent_in_and_both_serve() {
    let gateway = Gateway::start();
    let origin = Origin::nginx(&Nginx::default());
    let map = json!({origin.node(): 1});
    let list = json!([{"host": "127.0.0.1", "port": origin.port(), "weight": 1}]);
    for door in Door::ALL {
        for nodes in [&map, &list] {
            let standalone = json!({"nodes": nodes});
            let shown = door.put(&gateway, "/upstreams/u", &standalone).json();
            assert_eq!(shown["value"]["nodes"].to_string(), nodes.to_string());
            let route = json!({"uri": "/by-id", "upstream_id": "u"});
            door.put(&gateway, "/routes/by-id", &route);

            let inline = json!({"uri": "/inline", "upstream": {"nodes": nodes}});
            let shown = door.put(&gateway, "/routes/inline", &inline).json();
            assert_eq!(
                shown["value"]["upstream"].to_string(),
                inline["upstream"].to_string()
            );

            let service = json!({"upstream": {"nodes": nodes}});
            let shown = door.put(&gateway, "/services/s", &service).json();
            assert_eq!(
                shown["value"]["upstream"].to_string(),
                service["upstream"].to_string()
            );
            let route = json!({"uri": "/by-service", "service_id": "s"});
            door.put(&gateway, "/routes/by-service", &route);

            for path in ["/by-id", "/inline", "/by-service"] {
                let url = gateway.http_url(path);
                let served = Curl::new(&url).send().expect_status(200);
                assert_eq!(seen(&served.body, "uri"), path);
            }
        }
    }
}

#[test]
fn paths_come_back_as_paths_and_match_as_uris() {
    let gateway = Gateway::start();
    let origin = Origin::nginx(&Nginx::default());
    for door in Door::ALL {
        let base = json!({"name": "p", "upstream": {"nodes": {origin.node(): 1}}});
        let with = |members: Value| {
            let mut document = base.clone();
            for (name, value) in members.as_object().unwrap() {
                document[name] = value.clone();
            }
            document
        };
        let shown = door
            .put(
                &gateway,
                "/routes/p",
                &with(json!({"paths": ["/a/*", "/b"]})),
            )
            .json();
        assert_eq!(shown["value"]["paths"], json!(["/a/*", "/b"]));
        assert!(shown["value"].get("uris").is_none(), "{shown}");
        for (path, status) in [("/a/x", 200), ("/b", 200), ("/c", 404)] {
            let url = gateway.http_url(path);
            Curl::new(&url).send().expect_status(status);
        }
        let both = with(json!({"paths": ["/a"], "uri": "/b"}));
        let refused = door.put(&gateway, "/routes/p", &both).expect_status(400);
        assert_eq!(
            error_msg(&refused),
            "only one of uri, uris and paths is allowed"
        );
        let broken = with(json!({"paths": [1]}));
        let refused = door.put(&gateway, "/routes/p", &broken).expect_status(400);
        assert_eq!(
            error_msg(&refused),
            "invalid configuration: property \"paths\" validation failed: failed to validate item \
             1: wrong type: expected string, got number"
        );
    }
}

#[test]
fn schema_faults_have_apisix_words_and_unknown_tls_members_a_suggestion() {
    let gateway = Gateway::start();
    let pair = Ca::root("CA").server("one.example.com");
    let with_client = |client: Value| {
        let mut document = ssl(&pair, "one.example.com");
        document["client"] = client;
        document
    };
    for (path, document, text) in [
        (
            "/routes/1",
            json!({"uri": 5, "upstream": upstream()}),
            "invalid configuration: property \"uri\" validation failed: wrong type: expected string, got number",
        ),
        (
            "/upstreams/1",
            json!({"nodes": {"a:1": 1}, "pass_host": "rewrite"}),
            "`upstream_host` can't be empty when `pass_host` is `rewrite`",
        ),
        (
            "/routes/1",
            json!({"uri": "/", "upstream": upstream(), "plugins": {"foo": {}}}),
            "unknown plugin [foo]",
        ),
        (
            "/secrets/foo/1",
            json!({"uri": "http://x"}),
            "invalid secret manager: foo",
        ),
    ] {
        let refused = gateway.admin_put(path, &document).expect_status(400);
        assert_eq!(error_msg(&refused), text, "{path}");
        gateway.admin_get(path).expect_status(404);
    }
    for (document, hint) in [
        (with_client(json!({"ca": pair.cert, "dept": 2})), "depth"),
        (
            with_client(json!({"ca": pair.cert, "skip_mtls_uri_regexp": ["^/"]})),
            "skip_mtls_uri_regex",
        ),
    ] {
        let text = error_msg(&gateway.admin_put("/ssls/1", &document).expect_status(400));
        assert!(
            text.contains("did you mean") && text.contains(hint),
            "{text}"
        );
    }
    let ttl = gateway.admin_put("/ssls/1?ttl=60", &ssl(&pair, "one.example.com"));
    assert!(error_msg(&ttl.expect_status(400)).contains("ttl is not supported"));
    gateway.admin_get("/ssls/1").expect_status(404);
    gateway
        .admin_put("/ssls/1", &ssl(&pair, "one.example.com"))
        .expect_status(201);
}

#[test]
fn recipe_s_documents_are_taken_word_for_word() {
    let gateway = Gateway::start();
    let ca = Ca::root("CA");
    let server = ca.server("api.example.com");
    let gateway_pair = ca.client("gateway");
    let tls = json!({"client_cert": gateway_pair.cert, "client_key": gateway_pair.key});
    let client = json!({"ca": ca.pem()});
    // `a6 … create` puts to the collection's path with the document's id.
    for (kind, document) in [
        (
            "ssls",
            json!({"id": "mtls-domain", "cert": server.cert, "key": server.key, "snis": ["api.example.com"], "client": client}),
        ),
        (
            "routes",
            json!({"id": "secure-api", "uri": "/api/*", "host": "api.example.com",
                "upstream": {"type": "roundrobin", "nodes": {"backend:8080": 1}}}),
        ),
        (
            "upstreams",
            json!({"id": "mtls-backend", "type": "roundrobin", "scheme": "https", "nodes": {"secure-backend:443": 1}, "tls": tls}),
        ),
        (
            "routes",
            json!({"id": "api", "uri": "/api/*", "upstream_id": "mtls-backend"}),
        ),
        (
            "secrets",
            json!({"id": "vault/mtls-certs", "uri": "https://vault.example.com/v1/secret/data/mtls"}),
        ),
    ] {
        let id = document["id"].as_str().unwrap().to_owned();
        for (path, status) in [
            (format!("/{kind}/{id}"), 201),
            (format!("/{kind}/{id}"), 200),
        ] {
            let taken = gateway
                .admin_put(&path, &document)
                .expect_status(status)
                .json();
            assert_eq!(taken["key"], format!("/apisix/{kind}/{id}"));
            assert_eq!(taken["value"]["id"], id);
        }
    }
    // Only a path that is Vault's own can stand for the missing prefix.
    let elsewhere = json!({"uri": "https://vault.example.com/secret/data/mtls"});
    let refused = gateway
        .admin_put("/secrets/vault/other", &elsewhere)
        .expect_status(400);
    assert_eq!(
        error_msg(&refused),
        "invalid configuration: property \"prefix\" is required"
    );
}

#[test]
fn rotation_without_names_keeps_them_and_without_client_takes_it_away() {
    let gateway = Gateway::start();
    let ca = Ca::root("CA");
    let folder = gateway.data();
    let alice = ca.client("alice").write(folder.path(), "alice");
    let root = ca.write(folder.path(), "root");
    let [first, second, third] = [(); 3].map(|()| ca.server("api.example.com"));
    let client = json!({"ca": ca.pem()});
    let mut document = ssl(&first, "api.example.com");
    document["client"] = client.clone();
    gateway
        .admin_put("/ssls/mtls-domain", &document)
        .expect_status(201);

    // The recipe's `a6 ssl update`.
    let rotation = json!({"cert": second.cert, "key": second.key, "client": client});
    let rotated = gateway
        .admin_put("/ssls/mtls-domain", &rotation)
        .expect_status(200);
    assert_eq!(rotated.json()["value"]["snis"], json!(["api.example.com"]));
    for version in TlsVersion::ALL {
        let ask = || {
            gateway
                .https("api.example.com", "/")
                .cacert(&root)
                .tls(version)
        };
        ask().cert(&alice).send().expect_status(404);
        ask().send().expect_refused_handshake();
    }
    let shown = shown_serial(gateway.https_port(), "api.example.com", TlsVersion::V12);
    assert_eq!(
        shown, None,
        "without a certificate TLS 1.2 does not come to an end"
    );

    let bare = json!({"cert": third.cert, "key": third.key});
    let opened = gateway
        .admin_put("/ssls/mtls-domain", &bare)
        .expect_status(200);
    assert!(opened.json()["value"].get("client").is_none());
    let warning = opened.header("x-portcullis-warning").unwrap_or_default();
    assert!(warning.starts_with("client_removed /client "), "{opened:?}");
    for version in TlsVersion::ALL {
        let shown = shown_serial(gateway.https_port(), "api.example.com", version);
        assert_eq!(shown, Some(third.serial()));
    }

    let new = gateway.admin_put("/ssls/another", &bare).expect_status(400);
    assert_eq!(
        new.json(),
        json!({
            "error_msg": "invalid configuration: then clause did not match",
            "hint": "one of these is required: \"sni\", \"snis\"",
        })
    );
}

#[test]
fn weakening_needs_a_word_where_the_configuration_asks_for_one() {
    let gateway = Setup::default()
        .set("security.refuse_weakening", "true")
        .start();
    let ca = Ca::root("CA");
    let mut document = ssl(&ca.server("api.example.com"), "api.example.com");
    document["client"] = json!({"ca": ca.pem()});
    gateway.admin_put("/ssls/1", &document).expect_status(201);
    document.as_object_mut().unwrap().shift_remove("client");
    let text = error_msg(&gateway.admin_put("/ssls/1", &document).expect_status(400));
    assert!(text.contains("X-Portcullis-Allow-Weaker: 1"), "{text}");
    let refused = gateway.admin_delete("/ssls/1").expect_status(400);
    assert!(error_msg(&refused).contains("X-Portcullis-Allow-Weaker: 1"));
    let meant = gateway
        .admin("PUT", "/ssls/1")
        .header("X-Portcullis-Allow-Weaker: 1");
    meant.body(document.to_string()).send().expect_status(200);
}

#[test]
fn upstream_without_its_certificate_any_more_is_refused_by_the_service() {
    let gateway = Gateway::start();
    let ca = Ca::root("CA");
    let origin = Origin::nginx(&Nginx::mutual(ca.server("upstream.test.local"), ca.pem()));
    let pair = ca.client("api7-gateway");
    let service = |tls: Value| {
        json!({"name": "upstream-mtls", "upstream": {
            "type": "roundrobin", "scheme": "https", "pass_host": "rewrite",
            "upstream_host": "upstream.test.local",
            "nodes": [{"host": "127.0.0.1", "port": origin.port(), "weight": 1}],
            "tls": tls,
        }})
    };
    let full = service(json!({
        "client_cert": pair.cert, "client_key": pair.key, "verify": true, "ca_certs": [ca.pem()],
    }));
    let bare = service(json!({"verify": true, "ca_certs": [ca.pem()]}));
    let path = "/services/upstream-mtls?gateway_group_id=default";
    Door::Https.put(&gateway, path, &full).expect_status(201);
    let route = json!({"name": "upstream-mtls", "service_id": "upstream-mtls", "paths": ["/*"]});
    Door::Https
        .put(
            &gateway,
            "/routes/upstream-mtls?gateway_group_id=default",
            &route,
        )
        .expect_status(201);
    let ask = || Curl::new(&gateway.http_url("/anything")).send();
    for _ in 0..2 {
        assert_eq!(
            seen(&ask().expect_status(200).body, "dn"),
            "CN=api7-gateway"
        );
        let taken = Door::Https
            .put(&gateway, path, &bare)
            .expect_status(200)
            .json();
        let tls = &taken["value"]["upstream"]["tls"];
        assert!(
            tls.get("client_cert").is_none() && tls.get("client_key").is_none(),
            "{tls}"
        );
        ask().expect_status(502);
        Door::Https.put(&gateway, path, &full).expect_status(200);
    }
}
