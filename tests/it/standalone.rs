//! Standalone mode: what a file declares is served, and what it says wrong is closed.

mod configs;

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::client::Curl;
use crate::support::gateway::{Gateway, Setup, field};
use crate::support::origin::{Nginx, Origin, TcpOrigin};
use crate::support::pki::{Ca, Pair};
use crate::support::{SOON, TlsVersion, eventually};

/// A file in the folder of a gateway to be.
struct Declared {
    setup: Setup,
    path: PathBuf,
}

impl Declared {
    fn new(name: &str) -> Self {
        let setup = Setup::default();
        let path = setup.data_path().with_file_name(name);
        let setup = setup.arg("--standalone").arg(path.to_str().unwrap());
        Self { setup, path }
    }

    fn write(&self, text: &str) {
        fs::write(&self.path, text).unwrap();
    }

    /// Writes YAML: JSON is YAML, and `#END` a comment.
    fn declare(&self, sections: &Value) {
        self.write(&format!("{sections:#}\n#END\n"));
    }

    fn start(&self) -> Gateway {
        self.setup.clone().start()
    }
}

fn status(gateway: &Gateway, path: &str) -> Option<u16> {
    Curl::new(&gateway.http_url(path)).send().status
}

fn becomes(gateway: &Gateway, path: &str, wanted: u16) {
    eventually(SOON, path, || {
        (status(gateway, path) == Some(wanted)).then_some(())
    });
}

fn ssl(id: &str, name: &str, pair: &Pair) -> Value {
    json!({"id": id, "snis": [name], "cert": pair.cert, "key": pair.key})
}

#[test]
fn file_is_served_and_read_again_when_it_changes() {
    let origin = Origin::nginx(&Nginx::default());
    let file = Declared::new("apisix.yaml");
    let node = origin.node();
    let (host, port) = node.rsplit_once(':').expect("a node has a port");
    let text = |path: &str| {
        format!(
            "upstreams:\n  - id: 1\n    type: roundrobin\n    nodes:\n      \
             \"${{{{NODE_HOST:={host}}}}}:${{{{NODE_PORT}}}}\": 1\n\
             routes:\n  - uri: {path}\n    upstream_id: 1\n#END\n"
        )
    };
    file.write(&text("/hello"));
    let gateway = file.setup.clone().env("NODE_PORT", port).start();
    assert_eq!(status(&gateway, "/hello"), Some(200));
    let routes = gateway.admin_get("/routes").expect_status(200).json();
    assert_eq!(routes["list"][0]["value"]["id"], "arr_1");

    file.write(&text("/bye"));
    becomes(&gateway, "/bye", 200);
    assert_eq!(status(&gateway, "/hello"), Some(404));

    // What was read last is served until the file is whole again.
    for (broken, reason) in [
        (text("/half").replace("#END", ""), "missing valid end flag"),
        (
            text("/x").replace("routes", "routez"),
            "`routez` is no section",
        ),
        (
            text("/x").replace("_PORT", "_PART"),
            "`NODE_PART` is not set",
        ),
        (text("/x").replace("routes:", "routes: ["), "it is not YAML"),
    ] {
        file.write(&broken);
        gateway.expect_log(reason, |line| {
            field(line, "error").is_some_and(|error| error.contains(reason))
        });
        assert_eq!(status(&gateway, "/bye"), Some(200), "{reason}");
    }
    file.write(&text("/again"));
    becomes(&gateway, "/again", 200);
    fs::remove_file(&file.path).unwrap();
    gateway.expect_log("no file", |line| {
        field(line, "error").is_some_and(|error| error.contains("could not read"))
    });
    assert_eq!(status(&gateway, "/again"), Some(200));
}

#[test]
fn what_is_checked_has_the_name_that_the_file_gives_it() {
    let origin = TcpOrigin::echoing();
    let file = Declared::new("apisix.yaml");
    let nodes = json!({origin.node(): 1});
    let upstream = json!({"id": "u", "nodes": nodes, "checks": {"active": {}}});
    file.declare(&json!({"upstreams": [upstream]}));
    let gateway = file.start();
    let url = gateway.status_url("/v1/healthcheck/upstreams/u");
    let shown = Curl::new(&url).send().expect_status(200).json();
    assert_eq!(shown["name"], "/upstreams/u");
}

#[test]
fn broken_file_stops_the_start_and_a_json_one_needs_no_mark() {
    let file = Declared::new("portcullis.json");
    file.write("{\"routes\": [");
    let refused = file.setup.clone().try_start().expect_err("it is not whole");
    assert_eq!(refused.status.code(), Some(1));
    let reason = "it is not JSON";
    let is_told = |line: &Value| field(line, "message").is_some_and(|text| text.contains(reason));
    assert!(refused.logs.iter().any(is_told), "{refused:?}");
    let checked = file.setup.run(&["check"]);
    assert_eq!(checked.status.code(), Some(1), "{checked:?}");

    let route = json!({"uri": "/a", "upstream": {"nodes": {}}});
    file.write(&json!({ "routes": [route] }).to_string());
    let checked = file.setup.run(&["check"]);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    assert_eq!(status(&file.start(), "/a"), Some(503));
}

#[test]
fn single_bad_item_is_told_and_closed_and_the_others_are_served() {
    let origin = Origin::nginx(&Nginx::default());
    let ca = Ca::root("CA");
    let folder = tempfile::tempdir().unwrap();
    let root = ca.write(folder.path(), "root");
    let nodes = json!({ "nodes": { origin.node(): 1 } });
    let wide = ca.server("*.example.com");
    let mut broken = ssl("broken", "bad.example.com", &ca.server("bad.example.com"));
    broken["key"] = json!(wide.key);
    let sections = |broken: &Value, uri: Value| {
        json!({
            "ssls": [ssl("wide", "*.example.com", &wide), broken],
            "routes": [
                {"id": "all", "uri": "/*", "upstream": nodes},
                {"id": "bad", "uri": "/bad/*", "upstream": uri},
                {"id": "lost", "uri": "/lost", "service_id": "none"},
            ],
        })
    };
    let file = Declared::new("apisix.yaml");
    file.declare(&sections(&broken, json!({"nodes": 7})));
    let gateway = file.start();
    for version in TlsVersion::ALL {
        let ask =
            |name: &str, path: &str| gateway.https(name, path).cacert(&root).tls(version).send();
        ask("good.example.com", "/x").expect_status(200);
        ask("good.example.com", "/bad/x").expect_status(503);
        ask("bad.example.com", "/x").expect_refused_handshake();
    }
    assert_eq!(status(&gateway, "/lost"), Some(404));
    for id in ["broken", "bad", "lost"] {
        gateway.expect_log(id, |line| {
            field(line, "level") == Some("ERROR") && field(line, "id") == Some(id)
        });
    }
    let checked = file.setup.run(&["check"]);
    assert_eq!(checked.status.code(), Some(1), "{checked:?}");
    for told in [
        "error: ssl broken /key",
        "error: route bad /upstream/nodes",
        "error: route lost ",
    ] {
        assert!(checked.stdout.contains(told), "{told}: {}", checked.stdout);
    }
    // The key of what is closed is no more shown than another.
    for path in ["/ssls", "/ssls/broken"] {
        let shown = gateway
            .admin("GET", path)
            .header("X-Portcullis-Withheld: show")
            .send()
            .expect_status(200);
        for line in wide.key_lines() {
            assert!(!shown.body.contains(line), "{path}");
        }
    }

    // Repaired, it opens; nothing else is closed meanwhile.
    let good = ssl("broken", "bad.example.com", &ca.server("bad.example.com"));
    file.declare(&sections(&good, nodes.clone()));
    becomes(&gateway, "/bad/x", 200);
    for version in TlsVersion::ALL {
        let ask = gateway.https("bad.example.com", "/x");
        ask.cacert(&root).tls(version).send().expect_status(200);
    }
    // And what becomes bad is closed at the next reading.
    file.declare(&sections(&broken, nodes.clone()));
    gateway.expect_log("closed again", |line| {
        field(line, "message") == Some("the file is served") && line["changed"] == 1
    });
    for version in TlsVersion::ALL {
        let ask = gateway.https("bad.example.com", "/x");
        let refused = ask.cacert(&root).tls(version).send();
        refused.expect_refused_handshake();
    }
}

#[test]
fn admin_api_reads_and_does_not_write() {
    let file = Declared::new("apisix.yaml");
    let route = json!({"id": "r", "uri": "/r", "upstream": {"nodes": {}}});
    file.declare(&json!({ "routes": [route] }));
    let gateway = file.start();
    let body = json!({"uri": "/new", "upstream": {"nodes": {}}}).to_string();
    for (method, path) in [
        ("PUT", "/routes/n"),
        ("POST", "/routes"),
        ("PATCH", "/routes/r"),
        ("PATCH", "/routes/r/uri"),
        ("DELETE", "/routes/r"),
        ("PUT", "/ssls/s"),
        ("PUT", "/secrets/vault/v"),
    ] {
        let asked = gateway.admin(method, path).body(body.clone()).send();
        let refused = asked.expect_status(404).json();
        let text = refused["error_msg"].as_str().unwrap();
        assert!(text.starts_with("standalone mode: "), "{method}: {text}");
    }
    let routes = gateway.admin_get("/routes").expect_status(200).json();
    assert_eq!(
        (&routes["total"], &routes["list"][0]["value"]["uri"]),
        (&json!(1), &json!("/r"))
    );
    // Documents are judged all the same.
    let checked = gateway.admin("POST", "/schema/validate/routes").body(body);
    checked.send().expect_status(200);
}

#[test]
fn weaker_file_is_refused_where_that_is_asked_for() {
    let ca = Ca::root("CA");
    let folder = tempfile::tempdir().unwrap();
    let root = ca.write(folder.path(), "root");
    let pair = ca.server("api.example.com");
    let strict = |is_strict: bool| {
        let mut ssl = ssl("s", "api.example.com", &pair);
        if is_strict {
            ssl["client"] = json!({ "ca": ca.pem() });
        }
        json!({ "ssls": [ssl] })
    };
    let mut file = Declared::new("apisix.yaml");
    file.setup = file.setup.set("security.refuse_weakening", "true");
    file.declare(&strict(true));
    let gateway = file.start();
    file.declare(&strict(false));
    gateway.expect_log("weaker", |line| {
        field(line, "error").is_some_and(|error| error.contains("makes something less strict"))
    });
    for version in TlsVersion::ALL {
        let ask = gateway.https("api.example.com", "/x");
        ask.cacert(&root)
            .tls(version)
            .send()
            .expect_refused_handshake();
    }
    // A start compares with nothing.
    drop(gateway);
    let gateway = file.start();
    let ask = gateway.https("api.example.com", "/x");
    ask.cacert(&root).send().expect_status(404);
}

#[test]
fn declared_references_are_resolved_and_keep_their_values_when_the_file_changes() {
    let ca = Ca::root("root");
    let folder = tempfile::tempdir().unwrap();
    let root = ca.write(folder.path(), "root");
    let pair = ca.server("ref.example.com");
    let file = Declared::new("apisix.yaml");
    let sections = |uri: &str, key: &str| {
        json!({
            "ssls": [{"id": "s", "snis": ["ref.example.com"], "cert": "$env://TLS_CERT", "key": key}],
            "routes": [{"id": "r", "uri": uri, "upstream": {"nodes": {}}}],
        })
    };
    file.declare(&sections("/a", "$env://TLS_KEY"));
    let setup = file.setup.clone().env("TLS_CERT", &pair.cert);
    let gateway = setup.env("TLS_KEY", &pair.key).start();
    let ask = |version, path: &str| {
        let ask = gateway.https("ref.example.com", path).cacert(&root);
        ask.tls(version).send()
    };
    for version in TlsVersion::ALL {
        eventually(SOON, "the reference is resolved", || {
            (ask(version, "/a").status == Some(503)).then_some(())
        });
    }
    file.declare(&sections("/b", "$env://TLS_KEY"));
    becomes(&gateway, "/b", 503);
    file.declare(&sections("/c", "$env://NOBODY"));
    becomes(&gateway, "/c", 503);
    for version in TlsVersion::ALL {
        ask(version, "/c").expect_refused_handshake();
    }
}

#[test]
fn reports_speak_of_what_the_file_declares() {
    let file = Declared::new("apisix.yaml");
    let ca = Ca::root("Root");
    let (good, other) = (ca.server("a.example.com"), ca.server("b.example.com"));
    let bad = Pair {
        key: other.key.clone(),
        ..good.clone()
    };
    file.declare(&json!({"ssls": [
        ssl("good", "a.example.com", &good), ssl("bad", "b.example.com", &bad),
    ]}));
    let json_of = |verb: &[&str]| -> Value {
        let told = file.setup.run(verb);
        serde_json::from_str(&told.stdout).unwrap_or_else(|_| panic!("{told:?}"))
    };
    let report = json_of(&["fips", "--json"]);
    let objects: Vec<_> = report["keys"].as_array().unwrap().iter().collect();
    let has = |id: &str| objects.iter().any(|key| key["object"] == id);
    assert!(has("ssls/good") && !has("ssls/bad"), "{report:#}");

    let points = json_of(&["check", "--profile", "stig", "--json"])["points"].clone();
    let found = |id: &str| {
        let mut points = points.as_array().unwrap().iter();
        points.find(|point| point["id"] == id).unwrap()["found"].to_string()
    };
    assert!(
        found("key-size").contains("ssls/bad: closed: "),
        "{points:#}"
    );
    assert!(!found("key-size").contains("ssls/good"), "{points:#}");
    assert!(found("audit").contains("--standalone"), "{points:#}");
    assert!(found("key-file-mode").contains("apisix.yaml"), "{points:#}");
}
