//! The configuration as an operator gives it: file, environment, command line, and `check`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use rusqlite::Connection;
use serde_json::json;

use crate::support::client::{Curl, shown_serial};
use crate::support::gateway::{ADMIN_KEY, Gateway, Setup, field};
use crate::support::pki::Ca;
use crate::support::{Finished, SOON, TlsVersion, program, run_to_end};

/// The value that `check --print` shows for a key.
#[track_caller]
fn effective<'text>(check: &'text Finished, key: &str) -> &'text str {
    let found = check
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
    found.unwrap_or_else(|| panic!("no {key} in {check:?}"))
}

/// Checks that a setting is refused by `check` and by `serve`, with these words and code 1.
#[track_caller]
fn assert_refused(setup: &Setup, words: &[&str]) {
    let check = setup.run(&["check"]);
    assert_eq!(check.status.code(), Some(1), "{check:?}");
    let refused = setup.clone().try_start().expect_err("it is refused");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let log: Vec<String> = refused
        .logs
        .iter()
        .map(|line| {
            line.as_str()
                .map_or_else(|| line.to_string(), str::to_owned)
        })
        .collect();
    for text in [check.stdout, log.join("\n")] {
        for word in words {
            assert!(text.contains(word), "no {word:?} in {text:?}");
        }
    }
}

#[test]
fn empty_file_has_every_default() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("empty.yaml");
    fs::write(&file, "").unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command
        .args(["check", "--print", "--config"])
        .arg(&file)
        .current_dir(folder.path());
    for name in ["PORTCULLIS_ADMIN_KEY", "PORTCULLIS_SET", "STATE_DIRECTORY"] {
        command.env_remove(name);
    }
    let check = run_to_end(command, b"", SOON);
    assert_eq!(check.status.code(), Some(0), "{check:?}");
    assert_eq!(check.stdout.lines().last(), Some("ok"));
    for (key, value) in [
        ("http.listen", "0.0.0.0:9080, [::]:9080"),
        ("http.http2", "on"),
        ("https.listen", "0.0.0.0:9443, [::]:9443"),
        ("admin.listen", "127.0.0.1:9180, [::1]:9180"),
        ("admin.https.listen", "127.0.0.1:7443, [::1]:7443"),
        ("admin.https.flavour", "api7"),
        ("status.listen", "127.0.0.1:9091"),
        ("store", "sqlite"),
        ("fips", "off"),
    ] {
        assert_eq!(effective(&check, key), value, "{key}");
    }
    assert!(effective(&check, "data_dir").ends_with("portcullis-data"));
    // Looking makes nothing.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn later_word_wins_file_then_environment_then_command_line() {
    let file = "shutdown_timeout: 3s\nlimits:\n  idle_timeout: 3s\n  body_timeout: 3s\n";
    let setup = Setup::default()
        .file(file)
        .env(
            "PORTCULLIS_SET",
            "limits.idle_timeout=4s\n# a remark\n\nlimits.body_timeout=4s\n",
        )
        .set("limits.body_timeout", "5s");
    let check = setup.run(&["check", "--print"]);
    assert!(check.status.success(), "{check:?}");
    assert_eq!(effective(&check, "shutdown_timeout"), "3s");
    assert_eq!(effective(&check, "limits.idle_timeout"), "4s");
    assert_eq!(effective(&check, "limits.body_timeout"), "5s");
}

#[test]
fn set_reaches_the_running_gateway() {
    let gateway = Setup::default()
        .set("workers", "1")
        .env("PORTCULLIS_SET", "admin.https.flavour=apisix")
        .start();
    let line = gateway.expect_log("the start", |line| {
        field(line, "message") == Some("portcullis starts")
    });
    assert_eq!(
        line["fields"]["workers"]
            .as_u64()
            .or(line["workers"].as_u64()),
        Some(1),
        "{line}"
    );
    gateway
        .admin_put("/services/s", &json!({}))
        .expect_status(201);
    let list = gateway
        .admin_https("GET", "/services")
        .send()
        .expect_status(200)
        .json();
    assert_eq!(list["list"][0]["key"], "/apisix/services/s");
}

#[test]
fn unknown_key_is_refused_with_the_nearest_wherever_it_is_written() {
    for (setup, words) in [
        (
            Setup::default().set("http.lisen", "1"),
            ["--set", "http.lisen", "did you mean `listen`"],
        ),
        (
            Setup::default().file("htpps: {listen: []}\n"),
            ["portcullis.yaml", "htpps", "did you mean `https`"],
        ),
        (
            Setup::default().env("PORTCULLIS_SET", "limits.contexst=5"),
            [
                "PORTCULLIS_SET",
                "limits.contexst",
                "did you mean `contexts`",
            ],
        ),
    ] {
        assert_refused(&setup, &words);
    }
    let twin = Setup::default()
        .file("limits: {contexts: 5}\n")
        .run(&["check"]);
    assert!(twin.status.success(), "{twin:?}");
}

#[test]
fn values_that_cannot_be_are_refused_and_all_are_named_at_once() {
    let setup = Setup::default()
        .file("workers: many\nshutdown_timeout: soon\nstore: etcd\n")
        .set("https.session_tickets", "maybe")
        .set("limits.header_bytes", "1");
    // The tests' own setting of `workers` would win.
    let setup = setup.set("workers", "many");
    assert_refused(
        &setup,
        &[
            "workers: ",
            "shutdown_timeout: ",
            "store: ",
            "https.session_tickets: ",
            "limits.header_bytes: ",
        ],
    );
    assert_refused(
        &Setup::default().file("workers: [\n"),
        &["portcullis.yaml: ", "not YAML"],
    );
}

#[test]
fn plain_admin_api_never_leaves_the_machine_and_https_not_without_a_certificate() {
    for listen in [
        r#"["0.0.0.0:0"]"#,
        r#"["127.0.0.1:0", "[::]:0"]"#,
        r#"["192.0.2.1:0"]"#,
    ] {
        let setup = Setup::default().set("admin.listen", listen);
        assert_refused(
            &setup,
            &[
                "admin.listen: ",
                "the plain Admin API never leaves this one",
            ],
        );
    }
    let open = Setup::default().set("admin.https.listen", r#"["0.0.0.0:0"]"#);
    assert_refused(
        &open,
        &[
            "admin.https.listen: ",
            "`admin.https.cert`",
            "`admin.https.client_ca`",
        ],
    );

    let folder = tempfile::TempDir::new().unwrap();
    let ca = Ca::root("CA");
    let root = ca.write(folder.path(), "root");
    let files = ca.server("admin.example.com").write(folder.path(), "admin");
    let with_cert = open
        .clone()
        .set("admin.https.cert", &files.cert.display().to_string())
        .set("admin.https.key", &files.key.display().to_string())
        .start();
    let port = with_cert.port("admin_https");
    let ask = |port: u16| {
        let url = format!("https://admin.example.com:{port}/apisix/admin/routes");
        Curl::new(&url)
            .resolve("admin.example.com", port)
            .header(&format!("X-API-KEY: {ADMIN_KEY}"))
    };
    ask(port).cacert(&root).send().expect_status(200);

    with_cert.stop();

    // With a CA for its clients, which then have to show a certificate and a key.
    let guarded = open
        .set("admin.https.client_ca", &root.display().to_string())
        .start();
    let port = guarded.port("admin_https");
    let alice = ca.client("alice").write(folder.path(), "alice");
    let mallory = Ca::root("CA")
        .client("alice")
        .write(folder.path(), "mallory");
    for version in TlsVersion::ALL {
        let ask = || ask(port).args(&["-k"]).tls(version);
        ask().cert(&alice).send().expect_status(200);
        ask().send().expect_refused_handshake();
        ask().cert(&mallory).send().expect_refused_handshake();
    }
}

#[test]
fn key_itself_is_refused_on_the_command_line_and_not_repeated() {
    let setup = Setup::default().set("admin.keys", "[{name: op, key: canary-of-a-key}]");
    assert_refused(
        &setup,
        &[
            "--set: admin.keys.0.key: ",
            "never written on a command line",
        ],
    );
    let shown = format!(
        "{:?}{:?}",
        setup.run(&["check", "--print"]),
        setup.try_start().map(|_| ())
    );
    assert!(!shown.contains("canary"), "{shown}");

    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("key");
    fs::write(&file, "of-a-file\n").unwrap();
    let mut sha256sum = program("sha256sum");
    sha256sum.arg("-");
    let digest = run_to_end(sha256sum, b"of-a-digest", SOON).stdout;
    let digest = digest.split(' ').next().unwrap();
    let keys = format!(
        "[{{name: a, key: '@{}'}}, {{name: b, key: $env://KEY}}, {{name: c, key: 'sha256:{digest}'}}]",
        file.display()
    );
    let gateway = Setup::default()
        .set("admin.keys", &keys)
        .env("KEY", "of-the-environment")
        .start();
    for (key, status) in [
        ("of-a-file", 200),
        ("of-the-environment", 200),
        ("of-a-digest", 200),
        (digest, 401),
        ("$env://KEY", 401),
    ] {
        let url = format!(
            "http://127.0.0.1:{}/apisix/admin/routes",
            gateway.port("admin")
        );
        Curl::new(&url)
            .header(&format!("X-API-KEY: {key}"))
            .send()
            .expect_status(status);
    }
}

#[test]
fn address_that_another_gateway_has_is_refused_by_name() {
    let first = Gateway::start();
    for (listener, key) in [
        ("http", "http.listen"),
        ("https", "https.listen"),
        ("admin", "admin.listen"),
        ("admin_https", "admin.https.listen"),
        ("status", "status.listen"),
    ] {
        let address = format!("127.0.0.1:{}", first.port(listener));
        let second = Setup::default().set(key, &format!("[\"{address}\"]"));
        let refused = second.try_start().expect_err("the address is taken");
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        let words = format!("cannot listen on {address}: ");
        let is_said = refused
            .logs
            .iter()
            .filter_map(|line| field(line, "message"))
            .any(|text| text.starts_with(&words));
        assert!(is_said, "{refused:#?}");
    }
    first.admin_get("/routes").expect_status(200);
    // The same address for two listeners of one gateway is seen before anything is opened.
    let address = r#"["127.0.0.1:65001"]"#;
    let twice = Setup::default()
        .set("http.listen", address)
        .set("https.listen", address);
    assert_refused(
        &twice,
        &["127.0.0.1:65001 is already taken by 127.0.0.1:65001 of `http.listen`"],
    );
}

#[test]
fn listener_that_is_switched_off_is_not_opened() {
    let on = Gateway::start();
    assert!(on.listening_ports().contains(&on.port("http")));
    let gateway = Setup::default().set("http.listen", "[]").start();
    let is_open = |line: &serde_json::Value| field(line, "listener") == Some("http");
    assert!(!gateway.logs().iter().any(is_open));
    // The kernel says the same: whatever listens is another listener.
    let ports: BTreeSet<u16> = ["https", "admin", "admin_https", "status"]
        .map(|listener| gateway.port(listener))
        .into();
    assert_eq!(gateway.listening_ports(), ports);
    assert_eq!(
        shown_serial(gateway.https_port(), "x.example.com", TlsVersion::V13),
        None
    );
}

#[test]
fn check_judges_what_is_stored_beside_a_running_gateway_or_alone() {
    let setup = Setup::default();
    let gateway = setup.clone().start();
    let ca = Ca::root("CA");
    let (kept, broken) = (
        ca.server("kept.example.com"),
        ca.server("broken.example.com"),
    );
    let wildcard = ca.server("*.example.com");
    for (id, pair, name) in [
        ("kept", &kept, "kept.example.com"),
        ("broken", &broken, "broken.example.com"),
        ("wide", &wildcard, "*.example.com"),
    ] {
        let document = json!({"cert": pair.cert, "key": pair.key, "snis": [name]});
        gateway
            .admin_put(&format!("/ssls/{id}"), &document)
            .expect_status(201);
    }
    let good = setup.run(&["check"]);
    assert_eq!(
        (good.status.code(), good.stdout.lines().last()),
        (Some(0), Some("ok")),
        "{good:?}"
    );

    // Unwise is said and no error.
    let unverified = json!({"scheme": "https", "nodes": {"127.0.0.1:1": 1}});
    gateway
        .admin_put("/upstreams/blind", &unverified)
        .expect_status(201);
    let unwise = setup.run(&["check"]);
    assert_eq!(
        (unwise.status.code(), unwise.stdout.lines().last()),
        (Some(0), Some("ok")),
        "{unwise:?}"
    );
    assert!(
        unwise.stdout.contains("warning: upstream blind /tls"),
        "{unwise:?}"
    );
    let database = gateway.data_path().join("portcullis.db");
    gateway.stop();

    let database = Connection::open(database).unwrap();
    let changed = database
        .execute(
            "UPDATE resource SET document = replace(document, 'BEGIN CERTIFICATE', 'BEGIN CERTIFICAT') WHERE id = 'broken'",
            [],
        )
        .unwrap();
    assert_eq!(changed, 1);
    drop(database);
    let bad = setup.run(&["check"]);
    assert_eq!(bad.status.code(), Some(1), "{bad:?}");
    let errors: Vec<&str> = bad
        .stdout
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    assert_eq!(errors.len(), 1, "{bad:?}");
    assert!(
        errors[0].starts_with("error: ssl broken /cert: failed to parse cert"),
        "{bad:?}"
    );

    // It starts all the same: the broken name is closed, and the wildcard does not open it.
    let gateway = setup.start();
    for version in TlsVersion::ALL {
        let shown = |name: &str| shown_serial(gateway.https_port(), name, version);
        assert_eq!(shown("kept.example.com"), Some(kept.serial()));
        assert_eq!(shown("other.example.com"), Some(wildcard.serial()));
        assert_eq!(shown("broken.example.com"), None);
    }
    let metrics = Curl::new(&gateway.status_url("/apisix/prometheus/metrics"))
        .send()
        .body;
    assert!(metrics.contains("portcullis_names_closed 1\n"), "{metrics}");
    // Written anew, it opens.
    let document = json!({"cert": broken.cert, "key": broken.key, "snis": ["broken.example.com"]});
    gateway
        .admin_put("/ssls/broken", &document)
        .expect_status(200);
    for version in TlsVersion::ALL {
        assert_eq!(
            shown_serial(gateway.https_port(), "broken.example.com", version),
            Some(broken.serial())
        );
    }
}

#[test]
fn file_that_the_start_would_miss_is_missed_by_check_before_anything_is_stored() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (kek, absent) = (path("kek"), path("absent"));
    fs::write(&kek, "ab".repeat(32)).unwrap();
    fs::set_permissions(&kek, fs::Permissions::from_mode(0o600)).unwrap();
    let ca = Ca::root("CA");
    let trusted = ca.write(folder.path(), "ca").display().to_string();
    let pair = ca.server("localhost").write(folder.path(), "admin");
    let admin_key = pair.key.display().to_string();
    for (key, bad, good) in [
        ("kek", &absent, &kek),
        ("upstream.trust_file", &absent, &trusted),
        ("admin.https.client_ca", &absent, &trusted),
        ("fips_report_key", &absent, &admin_key),
    ] {
        let setup = Setup::default().set(key, bad);
        assert_refused(&setup, &[&absent]);
        let setup = Setup::default().set(key, good);
        let check = setup.run(&["check"]);
        assert_eq!(check.status.code(), Some(0), "{key}: {check:?}");
        assert!(!setup.data_path().exists(), "looking makes nothing");
    }
    let setup = |key: &str| {
        let setup = Setup::default().set("admin.https.cert", &pair.cert.display().to_string());
        setup.set("admin.https.key", key)
    };
    assert_refused(&setup(&absent), &[&absent]);
    let check = setup(&admin_key).run(&["check"]);
    assert_eq!(check.status.code(), Some(0), "{check:?}");

    // The key that the first start made, when others can read it.
    let setup = Setup::default().without_env("PORTCULLIS_ADMIN_KEY");
    let made = setup.data_path().join("admin.key");
    setup.clone().start().stop();
    assert_eq!(setup.run(&["check"]).status.code(), Some(0));
    fs::set_permissions(&made, fs::Permissions::from_mode(0o644)).unwrap();
    assert_refused(&setup, &["admin.key can be read by others"]);
}
