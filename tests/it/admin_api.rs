//! The Admin API as real clients meet it: both listeners, both flavours, every envelope.
//!
//! Keys and placeholders are `custody`'s, what a change does to requests is `hot_reload`'s.

mod changes;
mod documents;
mod envelopes;
mod expiry;
mod fuzz;
mod judging;
mod material;

use serde_json::{Value, json};

use crate::support::client::{Curl, CurlOutcome};
use crate::support::gateway::{ADMIN_KEY, Gateway, Setup, field};
use crate::support::pki::{Ca, Pair};
use crate::support::{SOON, program, run_to_end};

/// Where the Admin API is asked; each has a flavour of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    /// `admin.listen`: APISIX's.
    Plain,
    /// `admin.https.listen`: API7's.
    Https,
}

impl Door {
    const ALL: [Self; 2] = [Self::Plain, Self::Https];

    /// A request with the key.
    fn ask(self, gateway: &Gateway, method: &str, path: &str) -> Curl {
        match self {
            Self::Plain => gateway.admin(method, path),
            Self::Https => gateway.admin_https(method, path),
        }
    }

    /// A request without one; `path` begins with `/`.
    fn ask_bare(self, gateway: &Gateway, path: &str) -> Curl {
        match self {
            Self::Plain => Curl::new(&format!("http://127.0.0.1:{}{path}", gateway.port("admin"))),
            Self::Https => Curl::new(&format!(
                "https://127.0.0.1:{}{path}",
                gateway.port("admin_https")
            ))
            .args(&["-k"]),
        }
    }

    fn put(self, gateway: &Gateway, path: &str, document: &Value) -> CurlOutcome {
        self.ask(gateway, "PUT", path)
            .body(document.to_string())
            .send()
    }
}

/// An ssl for `name` without demands on clients.
fn ssl(pair: &Pair, name: &str) -> Value {
    json!({"cert": pair.cert, "key": pair.key, "snis": [name]})
}

fn upstream() -> Value {
    json!({"type": "roundrobin", "nodes": {"127.0.0.1:1980": 1}})
}

#[track_caller]
fn error_msg(outcome: &CurlOutcome) -> String {
    let body = outcome.json();
    let text = body["error_msg"].as_str();
    text.unwrap_or_else(|| panic!("no error_msg in {outcome:?}"))
        .to_owned()
}

#[test]
fn without_a_good_key_every_path_is_401_on_both_listeners() {
    let gateway = Gateway::start();
    for door in Door::ALL {
        for path in [
            "/apisix/admin/routes",
            "/apisix/admin/routs",
            "/apisix/admin/routes/1?gateway_group_id=none",
            "/api/version",
            "/portcullis/v1/failures",
            "/nowhere",
        ] {
            for (headers, description) in [
                (&[][..], "missing apikey"),
                (&["X-API-KEY;"][..], "missing apikey"),
                (&["X-API-KEY: not-the-key"][..], "wrong apikey"),
                (
                    &["Authorization: Bearer a-key-for-tests-only"][..],
                    "missing apikey",
                ),
            ] {
                let request = door.ask_bare(&gateway, path);
                let request = headers
                    .iter()
                    .fold(request, |request, header| request.header(header));
                let outcome = request.send().expect_status(401);
                let expected =
                    json!({"error_msg": "failed to check token", "description": description});
                assert_eq!(outcome.json(), expected, "{door:?} {path} {headers:?}");
                assert_eq!(outcome.header("x-api-version"), None);
            }
        }
        // nginx folds the two spellings of the header, so APISIX's clients use both.
        for header in ["X-API-KEY", "x_api_key"] {
            door.ask_bare(&gateway, "/apisix/admin/routes")
                .header(&format!("{header}: {ADMIN_KEY}"))
                .send()
                .expect_status(200);
        }
        let probe = door.ask_bare(&gateway, "/apisix/admin").args(&["-I"]);
        probe.send().expect_status(200);
    }
    let stopped = gateway.stop();
    assert!(!format!("{stopped:?}").contains("not-the-key"));
}

#[test]
fn key_counts_in_the_header_only_unless_other_places_are_named() {
    let gateway = Gateway::start();
    let elsewhere = Setup::default()
        .set("admin.key_sources", "[header, query, cookie]")
        .start();
    for door in Door::ALL {
        let query = format!("/apisix/admin/routes?api_key={ADMIN_KEY}");
        let cookie = format!("Cookie: x_api_key={ADMIN_KEY}");
        let routes = "/apisix/admin/routes";
        for (gateway, status) in [(&gateway, 401), (&elsewhere, 200)] {
            door.ask_bare(gateway, &query).send().expect_status(status);
            let with_cookie = door.ask_bare(gateway, routes).header(&cookie);
            with_cookie.send().expect_status(status);
        }
        door.ask(&elsewhere, "GET", "/routes")
            .send()
            .expect_status(200);
    }
}

#[test]
fn viewer_reads_and_does_not_write() {
    let gateway = Setup::default()
        .set(
            "admin.keys",
            "[{name: eve, key: $env://VIEWER_KEY, role: viewer}, {name: op, key: $env://OTHER_KEY}]",
        )
        .env("VIEWER_KEY", "for-reading")
        .env("OTHER_KEY", "for-writing")
        .start();
    for door in Door::ALL {
        let path = "/apisix/admin/upstreams/u";
        let ask = |key: &str, method: &str| {
            let request = door.ask_bare(&gateway, path).method(method);
            let request = request.header(&format!("X-API-KEY: {key}"));
            if method == "PUT" {
                request.body(upstream().to_string()).send()
            } else {
                request.send()
            }
        };
        for method in ["PUT", "DELETE", "POST", "PATCH"] {
            let outcome = ask("for-reading", method).expect_status(401);
            assert_eq!(
                outcome.json()["description"],
                "invalid method for role viewer"
            );
        }
        ask("for-reading", "GET").expect_status(404);
        ask("for-writing", "PUT").expect_status(201);
        ask("for-reading", "GET").expect_status(200);
        ask("for-writing", "DELETE").expect_status(200);
    }
    let change = gateway.expect_log("the change", |line| {
        field(line, "message") == Some("resource changed")
    });
    assert_eq!(field(&change, "actor"), Some("op"));
}

#[test]
fn made_certificate_of_the_https_listener_can_be_trusted_by_file() {
    let gateway = Gateway::start();
    let file = gateway.data_path().join("admin-https.crt");
    for host in ["localhost", "127.0.0.1"] {
        let port = gateway.port("admin_https");
        let ask = || {
            Curl::new(&format!("https://{host}:{port}/apisix/admin/routes"))
                .args(&["-4"])
                .header(&format!("X-API-KEY: {ADMIN_KEY}"))
        };
        ask().cacert(&file).send().expect_status(200);
        let stranger = Ca::root("Stranger").write(gateway.data_path().as_path(), "stranger");
        assert_eq!(ask().cacert(&stranger).send().exit_code, 60);
    }
    let mut openssl = program("openssl");
    openssl
        .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
        .arg(&file);
    let told = run_to_end(openssl, b"", SOON).stdout;
    let fingerprint = told
        .trim()
        .rsplit('=')
        .next()
        .unwrap()
        .replace(':', "")
        .to_lowercase();
    let line = gateway.expect_log("the certificate's digest", |line| {
        field(line, "message") == Some("the admin listener's certificate")
    });
    assert_eq!(field(&line, "sha256"), Some(fingerprint.as_str()));
    // It is made once.
    let data = gateway.data();
    let before = std::fs::read(&file).unwrap();
    gateway.stop();
    let again = Setup::default().data(&data).start();
    assert_eq!(std::fs::read(&file).unwrap(), before);
    again
        .admin_https("GET", "/routes")
        .send()
        .expect_status(200);
}

#[test]
fn unknown_gateway_group_is_404_and_default_is_served() {
    let gateway = Gateway::start();
    for door in Door::ALL {
        for (method, path) in [
            ("GET", "/routes"),
            ("GET", "/routes/1"),
            ("PUT", "/upstreams/1"),
            ("DELETE", "/services/1"),
        ] {
            let path = format!("{path}?gateway_group_id=other");
            let outcome = door
                .ask(&gateway, method, &path)
                .body(upstream().to_string())
                .send();
            let text = error_msg(&outcome.expect_status(404));
            assert!(
                text.contains("gateway group \"other\" does not exist"),
                "{text}"
            );
        }
        let path = "/upstreams/1?gateway_group_id=default";
        door.put(&gateway, path, &upstream()).expect_status(201);
        door.ask(&gateway, "GET", path).send().expect_status(200);
        door.ask(&gateway, "DELETE", path).send().expect_status(200);
    }
}

#[test]
fn words_and_methods_that_do_not_exist_are_refused_as_by_apisix() {
    let gateway = Gateway::start();
    for (method, path, status, text) in [
        ("GET", "/routs", 404, "Unsupported resource type: routs"),
        ("PUT", "/ssl/1", 404, "Unsupported resource type: ssl"),
        ("PUT", "/schema/route", 404, "not found"),
        ("PUT", "/routes", 400, "missing route id"),
        ("DELETE", "/routes", 400, "missing route id"),
        ("DELETE", "/ssls", 400, "missing ssl id"),
        (
            "POST",
            "/secrets/vault/1",
            405,
            "not supported `POST` method for secret",
        ),
        (
            "PUT",
            "/stream_routes/1",
            400,
            "stream mode is disabled, can not add stream routes",
        ),
    ] {
        let outcome = gateway.admin(method, path).body("{}").send();
        assert_eq!(
            error_msg(&outcome.expect_status(status)),
            text,
            "{method} {path}"
        );
    }
    // What clients probe before anything else.
    for collection in [
        "consumers",
        "global_rules",
        "plugin_configs",
        "protos",
        "consumer_groups",
    ] {
        let outcome = gateway
            .admin_get(&format!("/{collection}"))
            .expect_status(200);
        assert_eq!(outcome.json(), json!({"list": [], "total": 0}));
        let write = gateway.admin_put(&format!("/{collection}/1"), &json!({"username": "x"}));
        write.expect_status(400);
    }
    assert_eq!(
        gateway.admin_get("/plugins/list").expect_status(200).json(),
        json!(["proxy-rewrite"])
    );
    let all = gateway.admin_get("/plugins?all=true").expect_status(200);
    let about = &all.json()["proxy-rewrite"];
    assert_eq!(about["priority"], 1008);
    let schema = gateway
        .admin_get("/plugins/proxy-rewrite")
        .expect_status(200);
    assert_eq!(about["schema"], schema.json());
    for (older, newer) in [
        ("/schema/plugins/proxy-rewrite?subsystem=http", &schema),
        ("/schema/plugins?all=true", &all),
    ] {
        let told = gateway.admin_get(older).expect_status(200);
        assert_eq!(told.json(), newer.json(), "{older}");
    }
    let reloaded = gateway.admin("PUT", "/plugins/reload").send();
    assert_eq!(reloaded.expect_status(200).body, "done");
    assert_eq!(schema.json()["minProperties"], 1);
    for method in ["GET", "POST", "DELETE", "PATCH"] {
        let refused = gateway.admin(method, "/plugins/reload").send();
        let text =
            format!("please use PUT method to reload the plugins, {method} method is not allowed.");
        assert_eq!(error_msg(&refused.expect_status(405)), text);
    }
    for (subsystem, names) in [("http", json!(["proxy-rewrite"])), ("stream", json!([]))] {
        let told = gateway.admin_get(&format!("/plugins/list?subsystem={subsystem}"));
        assert_eq!(told.expect_status(200).json(), names);
    }
    let told = gateway
        .admin_get("/plugins/list?subsystem=tcp")
        .expect_status(400);
    assert_eq!(told.body, "invalid subsystem passed");
    assert_eq!(told.header("content-type"), Some("text/plain"));
    let streams = gateway.admin_get("/plugins?all=true&subsystem=stream");
    assert_eq!(streams.expect_status(200).json(), json!({}));
    for (path, status, text) in [
        (
            "/plugins/limit-count",
            404,
            "plugin not found in subsystem http",
        ),
        (
            "/plugins/proxy-rewrite?subsystem=stream",
            404,
            "plugin not found in subsystem stream",
        ),
        ("/plugins", 404, "plugin not found in subsystem http"),
        (
            "/schema/plugins/limit-count",
            404,
            "plugin not found in subsystem http",
        ),
        ("/plugins/a?subsystem=x", 400, "unsupported subsystem: x"),
    ] {
        let told = gateway.admin_get(path).expect_status(status);
        assert_eq!(error_msg(&told), text, "{path}");
    }
    assert_eq!(
        gateway.admin_get("/routes/").expect_status(200).json()["total"],
        0
    );
}
