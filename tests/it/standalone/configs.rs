//! `/apisix/admin/configs`: the whole that a file declares, read and put through the Admin API.

use super::*;
use crate::support::client::CurlOutcome;
use crate::support::gateway::ADMIN_KEY;

fn ask(gateway: &Gateway, method: &str) -> Curl {
    gateway.admin(method, "/configs")
}

fn put(gateway: &Gateway, digest: &str, sections: &Value) -> CurlOutcome {
    ask(gateway, "PUT")
        .header(&format!("X-Digest: {digest}"))
        .header("Content-Type: application/json")
        .body(sections.to_string())
        .send()
}

fn put_yaml(gateway: &Gateway, digest: &str, text: &str) -> CurlOutcome {
    ask(gateway, "PUT")
        .header(&format!("X-Digest: {digest}"))
        .header("Content-Type: application/yaml")
        .body(text)
        .send()
}

fn shown(gateway: &Gateway) -> Value {
    ask(gateway, "GET").send().expect_status(200).json()
}

/// The versions of routes and of consumers, which this gateway does not even have.
fn versions(gateway: &Gateway) -> (Value, Value) {
    let shown = shown(gateway);
    let of = |section: &str| shown[format!("{section}_conf_version")].clone();
    (of("routes"), of("consumers"))
}

#[track_caller]
fn refusal(outcome: CurlOutcome, status: u16) -> String {
    let body = outcome.expect_status(status).json();
    body["error_msg"].as_str().unwrap().to_owned()
}

fn route(id: &str, uri: &str) -> Value {
    json!({"id": id, "uri": uri, "upstream": {"nodes": {}, "type": "roundrobin"}})
}

#[test]
fn configuration_is_put_read_and_served_as_by_apisix() {
    for (name, text) in [("apisix.yaml", "{}\n#END\n"), ("apisix.json", "{}")] {
        let file = Declared::new(name);
        file.write(text);
        let gateway = file.start();
        assert_eq!(versions(&gateway), (json!(0), json!(0)));
        let head = ask(&gateway, "HEAD")
            .args(&["-I"])
            .send()
            .expect_status(200);
        assert_eq!(
            (head.header("x-digest"), head.header("x-last-modified")),
            (None, None)
        );

        let first = json!({"routes": [route("r1", "/r1")]});
        let accepted = put(&gateway, "one", &first).expect_status(202);
        assert_eq!(
            (accepted.body.as_str(), accepted.header("x-digest")),
            ("", Some("one"))
        );
        assert_eq!(status(&gateway, "/r1"), Some(503));
        let read = shown(&gateway);
        assert_eq!(read["routes"], first["routes"]);
        assert_eq!((&read["X-Digest"], read.get("ssls")), (&json!("one"), None));
        assert_eq!(versions(&gateway), (json!(1), json!(1)));
        let head = ask(&gateway, "HEAD")
            .args(&["-I"])
            .send()
            .expect_status(200);
        assert_eq!(head.header("x-digest"), Some("one"));
        let time: i64 = head.header("x-last-modified").unwrap().parse().unwrap();
        assert!(time > 1_700_000_000);
        let yaml = ask(&gateway, "GET")
            .header("Accept: application/yaml")
            .send();
        let yaml = yaml.expect_status(200);
        assert_eq!(yaml.header("content-type"), Some("application/yaml"));
        assert!(yaml.body.contains("routes:\n- id: r1\n"), "{}", yaml.body);
        assert!(!yaml.body.starts_with("---") && !yaml.body.ends_with("..."));

        // The same digest means the same configuration, whatever is sent with it.
        put(&gateway, "one", &json!({})).expect_status(204);
        assert_eq!(status(&gateway, "/r1"), Some(503));
        let second = "routes:\n- id: r2\n  uri: /r2\n  modifiedIndex: 9\n  upstream: {nodes: {}}\n";
        put_yaml(&gateway, "two", second).expect_status(202);
        assert_eq!(
            (status(&gateway, "/r1"), status(&gateway, "/r2")),
            (Some(404), Some(503))
        );
        assert_eq!(shown(&gateway)["routes"][0]["modifiedIndex"], 9);
        put(&gateway, "three", &json!({})).expect_status(202);
        assert_eq!(status(&gateway, "/r2"), Some(404));
        for (digest, version, others) in [("four", 15, 4), ("five", 17, 5)] {
            let text = format!("routes_conf_version: {version}");
            put_yaml(&gateway, digest, &text).expect_status(202);
            assert_eq!(versions(&gateway), (json!(version), json!(others)));
        }
        // An item whose index stays is left as it is, whatever else it says.
        for (digest, index, uri, served, unknown) in [
            ("index 1", 1, "/r4", "/r4", "/r5"),
            ("index 1 again", 1, "/r5", "/r4", "/r5"),
            ("index 2", 2, "/r5", "/r5", "/r4"),
        ] {
            let mut item = route("r4", uri);
            item["modifiedIndex"] = json!(index);
            put(&gateway, digest, &json!({"routes": [item]})).expect_status(202);
            assert_eq!(status(&gateway, served), Some(503), "{digest}");
            assert_eq!(status(&gateway, unknown), Some(404), "{digest}");
            assert_eq!(shown(&gateway)["routes"][0]["uri"], served, "{digest}");
        }
        // So is a section whose version stays.
        let all = json!({"routes": [route("r3", "/r3")], "services": [{"id": "s"}]});
        put(&gateway, "six", &all).expect_status(202);
        let stays = json!({"routes": [], "routes_conf_version": 21});
        put(&gateway, "seven", &stays).expect_status(202);
        assert_eq!(status(&gateway, "/r3"), Some(503));
        assert_eq!(shown(&gateway).get("services"), None);

        // The next start has what was put.
        let before = shown(&gateway);
        gateway.stop();
        let again = file.start();
        assert_eq!(shown(&again), before);
        assert_eq!(status(&again, "/r3"), Some(503));
        put(&again, "seven", &json!({})).expect_status(204);
    }
}

#[test]
fn configuration_with_a_fault_is_refused_whole_and_nothing_changes() {
    let file = Declared::new("apisix.yaml");
    file.declare(&json!({"routes": [route("r", "/r")], "routes_conf_version": 100}));
    let gateway = file.start();
    let text = fs::read_to_string(&file.path).unwrap();
    let missing = ask(&gateway, "PUT").body("{}").send();
    assert_eq!(refusal(missing, 400), "missing digest header");
    for (body, reason) in [
        ("", "invalid request body: empty request body"),
        ("{abcd", "invalid request body: "),
        (
            "{\"routes_conf_version\": -1}",
            "routes_conf_version must be greater than or equal to (100)",
        ),
        (
            "{\"routes_conf_version\": 99}",
            "routes_conf_version must be greater than or equal to (100)",
        ),
        (
            "{\"routes_conf_version\": \"adc\"}",
            "routes_conf_version must be a number",
        ),
        (
            "{\"routes\": [{\"id\": \"r1\", \"uri\": 123, \"upstream\": {\"nodes\": {}}}]}",
            "invalid routes at index 0, err: invalid configuration: property \"uri\" validation failed: \
             wrong type: expected string, got number",
        ),
        (
            "{\"services\": [{\"id\": 1}, {\"id\": \"1\"}]}",
            "found duplicate id 1 in services",
        ),
        (
            "{\"consumers\": [{\"username\": \"x\"}]}",
            "consumers are not available in this gateway",
        ),
        ("{\"ssl\": []}", "`ssl` is no section"),
        (
            "{\"routes\": [{\"id\": 1, \"uri\": \"/${{HOME}}\"}]}",
            "`${{` stands for a variable",
        ),
    ] {
        let told = refusal(put_text(&gateway, body), 400);
        assert!(told.starts_with(reason), "{body}: {told}");
    }
    assert_eq!(status(&gateway, "/r"), Some(503));
    assert_eq!(fs::read_to_string(&file.path).unwrap(), text);
    // Neither does one that cannot be kept.
    let draft = file.path.with_file_name("apisix.yaml.new");
    fs::create_dir_all(draft.join("in the way")).unwrap();
    let good = json!({"routes": [route("n", "/n")]});
    let told = refusal(put(&gateway, "d", &good), 503);
    assert_eq!(told, "the store failed; nothing was changed");
    assert_eq!(
        (status(&gateway, "/r"), status(&gateway, "/n")),
        (Some(503), Some(404))
    );
    fs::remove_dir_all(&draft).unwrap();
    put(&gateway, "d", &good).expect_status(202);
    assert_eq!(
        (status(&gateway, "/r"), status(&gateway, "/n")),
        (Some(404), Some(503))
    );
}

fn put_text(gateway: &Gateway, body: &str) -> CurlOutcome {
    let asked = ask(gateway, "PUT").header("X-Digest: d");
    asked
        .header("Content-Type: application/json")
        .body(body)
        .send()
}

#[test]
fn keys_are_kept_from_what_is_served_and_shown_nowhere() {
    let ca = Ca::root("CA");
    let folder = tempfile::tempdir().unwrap();
    let root = ca.write(folder.path(), "root");
    let pair = ca.server("api.example.com");
    let file = Declared::new("apisix.yaml");
    file.write("#END");
    let setup = file.setup.clone().set(
        "admin.keys",
        "[{name: eve, key: $env://VIEWER_KEY, role: viewer}, {name: op, key: $env://OTHER_KEY}]",
    );
    let setup = setup
        .env("VIEWER_KEY", "for-reading")
        .env("OTHER_KEY", "for-writing");
    let gateway = setup.start();
    let sections = json!({ "ssls": [ssl("s", "api.example.com", &pair)] });
    put(&gateway, "one", &sections).expect_status(202);
    let is_served = || {
        for version in TlsVersion::ALL {
            let ask = gateway.https("api.example.com", "/x").cacert(&root);
            ask.tls(version).send().expect_status(404);
        }
    };
    is_served();
    let mut read = shown(&gateway);
    let key = read["ssls"][0]["key"].as_str().unwrap();
    assert!(key.starts_with("$withheld:sha256:"), "{key}");
    // What is read can be put back, with a change beside it.
    for member in ["ssls_conf_version", "routes_conf_version"] {
        read.as_object_mut().unwrap().shift_remove(member);
    }
    read["ssls"][0]["labels"] = json!({"a": "b"});
    put(&gateway, "two", &read).expect_status(202);
    is_served();
    let declared = fs::read_to_string(&file.path).unwrap();
    assert!(declared.contains(pair.key_lines()[0]) && declared.contains("\"a\": \"b\""));
    // A placeholder of another key is not taken for this one.
    let other = ca.server("api.example.com");
    read["ssls"][0]["cert"] = json!(other.cert);
    refusal(put(&gateway, "three", &read), 400);
    is_served();
    for method in ["GET", "HEAD", "PUT"] {
        let url = format!(
            "http://127.0.0.1:{}/apisix/admin/configs",
            gateway.port("admin")
        );
        let asked = Curl::new(&url).header("X-API-KEY: for-reading");
        let asked = match method {
            "HEAD" => asked.args(&["-I"]),
            _ => asked.method(method),
        };
        let told = asked.header("X-Digest: x").send();
        assert_eq!(
            told.status,
            Some(if method == "PUT" { 401 } else { 200 }),
            "{method}"
        );
        assert!(!told.body.contains(pair.key_lines()[0]));
    }
    let stopped = format!("{:?}", gateway.stop());
    assert!(!stopped.contains(pair.key_lines()[0]) && !stopped.contains(ADMIN_KEY));
}

#[test]
fn without_a_file_there_is_no_configuration_as_a_whole() {
    let gateway = Gateway::start();
    for method in ["GET", "PUT"] {
        let told = ask(&gateway, method)
            .header("X-Digest: x")
            .body("{}")
            .send();
        assert_eq!(refusal(told, 404), "not found");
    }
    ask(&gateway, "HEAD")
        .args(&["-I"])
        .send()
        .expect_status(404);
}
