//! Nothing that is secret leaves the gateway: a distinctive value in every place that can hold one,
//! then everything is asked that there is to ask, and all that was said and written is searched.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;
use std::process::Command;

use portcullis::resource::Kind;
use portcullis::secrets::custody::places::secret_members;
use portcullis::telemetry::{log, panics};
use serde_json::{Value, json};
use tempfile::TempDir;
use tracing::Level;

use crate::support::a6::A6;
use crate::support::client::{Curl, CurlOutcome};
use crate::support::gateway::{ADMIN_KEY, Gateway, Setup};
use crate::support::pki::{Ca, Pair};
use crate::support::{Finished, SOON, TlsVersion, eventually, run_to_end};

const NAME: &str = "api.example.com";

/// Names what panics of the test's own process quote.
const QUOTED: &str = "PORTCULLIS_TEST_QUOTED";

/// All values that must be seen nowhere.
#[derive(Default)]
struct Canaries(Vec<(String, String)>);

impl Canaries {
    /// A credential for this place.
    fn credential(&mut self, place: &str) -> String {
        let text = format!("canary-{:02}-7f3a9c51e8", self.0.len());
        self.0.push((place.to_owned(), text.clone()));
        text
    }

    /// A private key for this place: parts of it that are in no certificate, which has the public
    /// half too: some of an EC key's scalar, or of the exponents and primes of an RSA key.
    fn key(&mut self, place: &str, pair: &Pair) -> String {
        let body = pair.key_lines();
        let parts: Vec<&str> = match body.len() {
            0..6 => vec![&body[0][48..64]],
            _ => body[9..20].iter().map(|line| &line[4..20]).collect(),
        };
        for part in parts {
            self.0.push((place.to_owned(), part.to_owned()));
        }
        pair.key.clone()
    }

    /// The places whose value is in a text.
    fn found_in(&self, text: &str) -> Vec<&str> {
        let all = self.0.iter();
        let found = all.filter(|(_, value)| text.contains(value.as_str()));
        found.map(|(place, _)| place.as_str()).collect()
    }
}

/// All that was said, with where.
#[derive(Default)]
struct Outputs(Vec<(String, String)>);

impl Outputs {
    fn add(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.0.push((place.into(), text.into()));
    }

    fn curl(&mut self, place: &str, outcome: &CurlOutcome) {
        self.add(place, format!("{outcome:?}"));
        self.add(place, outcome.body.clone());
    }

    fn run(&mut self, place: &str, finished: &Finished) {
        self.add(place, format!("{}{}", finished.stdout, finished.stderr));
    }
}

/// The documents that hold a canary in each of their secret members.
fn documents(ca: &Ca, canaries: &mut Canaries) -> Vec<(Kind, String, Value)> {
    let mut key = |place: &str, pair: &Pair| canaries.key(place, pair);
    let (one, two) = (
        ca.server(NAME),
        ca.issue(&crate::support::pki::Leaf {
            key: crate::support::pki::KeyKind::Rsa,
            ..crate::support::pki::Leaf::server(NAME)
        }),
    );
    let ours = [
        ca.client("one"),
        ca.client("two"),
        ca.client("three"),
        ca.client("four"),
    ];
    let tls = |pair: &Pair, key: String| {
        json!({"scheme": "https", "nodes": {"127.0.0.1:1": 1},
               "tls": {"client_cert": pair.cert, "client_key": key}})
    };
    let ssl = json!({
        "cert": one.cert, "key": key("ssl key", &one),
        "certs": [two.cert], "keys": [key("ssl keys", &two)], "snis": [NAME]
    });
    let upstream = tls(&ours[0], key("upstream client_key", &ours[0]));
    let service = json!({"upstream": tls(&ours[1], key("service client_key", &ours[1]))});
    let route = json!({"uri": "/r", "upstream": tls(&ours[2], key("route client_key", &ours[2]))});
    let login = key("vault auth.key", &ours[3]);
    let google = key("gcp private_key", &two);
    let mut credential = |place: &str| canaries.credential(place);
    vec![
        (Kind::Ssl, "ssls/1".to_owned(), ssl),
        (Kind::Upstream, "upstreams/1".to_owned(), upstream),
        (Kind::Service, "services/1".to_owned(), service),
        (Kind::Route, "routes/1".to_owned(), route),
        (
            Kind::Secret,
            "secrets/vault/1".to_owned(),
            json!({"uri": "http://127.0.0.1:1", "prefix": "p", "token": credential("vault token")}),
        ),
        (
            Kind::Secret,
            "secrets/vault/2".to_owned(),
            json!({"uri": "http://127.0.0.1:1", "prefix": "p", "auth": {
                "method": "approle", "role_id": "r", "secret_id": credential("vault secret_id")}}),
        ),
        (
            Kind::Secret,
            "secrets/vault/3".to_owned(),
            json!({"uri": "http://127.0.0.1:1", "prefix": "p", "auth": {
                "method": "cert", "cert": ours[3].cert, "key": login}}),
        ),
        (
            Kind::Secret,
            "secrets/aws/1".to_owned(),
            json!({"endpoint_url": "http://127.0.0.1:1", "access_key_id": "a",
                   "secret_access_key": credential("aws secret_access_key"),
                   "session_token": credential("aws session_token")}),
        ),
        (
            Kind::Secret,
            "secrets/gcp/1".to_owned(),
            json!({"auth_config": {"client_email": "e", "project_id": "p", "private_key": google,
                   "token_uri": "http://127.0.0.1:1", "entries_uri": "http://127.0.0.1:1"}}),
        ),
        (
            Kind::Secret,
            "secrets/kubernetes/1".to_owned(),
            json!({"apiserver_addr": "http://127.0.0.1:1", "token": credential("kubernetes token")}),
        ),
    ]
}

/// Whether a document has a member at a pointer whose `*` stands for an element.
fn has(document: &Value, pointer: &str) -> bool {
    document.pointer(&pointer.replace('*', "0")).is_some()
}

/// A request to any path of an admin listener.
fn ask(gateway: &Gateway, listener: &str, method: &str, path: &str, body: &str) -> CurlOutcome {
    let scheme = if listener == "admin" { "http" } else { "https" };
    let url = format!("{scheme}://127.0.0.1:{}{path}", gateway.port(listener));
    let request = Curl::new(&url)
        .args(&["-k"])
        .method(method)
        .header(&format!("X-API-KEY: {ADMIN_KEY}"))
        .header("X-Portcullis-Withheld: show");
    match body {
        "" => request.send(),
        body => request.body(body.to_owned()).send(),
    }
}

/// Writes that are refused, with canaries wherever a writer might put one by mistake.
fn mistakes(documents: &[(Kind, String, Value)], said: &mut Outputs, gateway: &Gateway) {
    for (_, path, document) in documents {
        let text = document.to_string();
        let path = format!("/apisix/admin/{path}");
        for listener in ["admin", "admin_https"] {
            let mut send = |method: &str, what: &str, body: String| {
                let outcome = ask(gateway, listener, method, &path, &body);
                said.curl(&format!("{method} {path}, {what}"), &outcome);
            };
            send("PUT", "cut off", text[..text.len() - 3].to_owned());
            send("PUT", "no object", format!("[{text}]"));
            let mut unknown = document.clone();
            unknown["credential"] = document.clone();
            send("PUT", "an unknown member", unknown.to_string());
            // Private keys are known wherever they stand; a token in a description is one.
            if text.contains("PRIVATE KEY") {
                let mut described = document.clone();
                described["desc"] = json!(text);
                send("PUT", "all of it as its description", described.to_string());
            }
            send(
                "PATCH",
                "members of another type",
                json!({"key": {"a": text}, "token": [text],
                "cert": text, "tls": {"client_key": {"a": text}}, "auth": text})
                .to_string(),
            );
        }
        let kind = path.split('/').nth(3).unwrap();
        for judge in [
            format!("/portcullis/v1/validate/{kind}"),
            format!("/apisix/admin/schema/validate/{kind}"),
            "/apisix/admin/configs/validate".to_owned(),
        ] {
            for body in [text.clone(), text.replace(':', ";")] {
                said.curl(&judge, &ask(gateway, "admin", "POST", &judge, &body));
            }
        }
    }
}

/// Everything that can be read.
fn readings(documents: &[(Kind, String, Value)], said: &mut Outputs, gateway: &Gateway) {
    let mut paths: Vec<String> = ["ssls", "upstreams", "services", "routes", "secrets"]
        .map(|kind| format!("/apisix/admin/{kind}"))
        .to_vec();
    paths.extend(
        documents
            .iter()
            .map(|(_, path, _)| format!("/apisix/admin/{path}")),
    );
    for own in [
        "failures",
        "snapshot",
        "audit",
        "audit/verify",
        "secrets",
        "fips",
    ] {
        paths.push(format!("/portcullis/v1/{own}"));
    }
    for path in &paths {
        for listener in ["admin", "admin_https"] {
            said.curl(path, &ask(gateway, listener, "GET", path, ""));
        }
    }
    for (kind, id) in [
        ("upstream", "1"),
        ("service", "1"),
        ("route", "1"),
        ("secret", "vault/1"),
    ] {
        let path = format!("/portcullis/v1/probe/{kind}/{id}");
        said.curl(&path, &ask(gateway, "admin", "POST", &path, ""));
    }
    for path in [
        "/status",
        "/status/ready",
        "/apisix/prometheus/metrics",
        "/v1/healthcheck",
        "/v1/schema",
    ] {
        said.curl(path, &Curl::new(&gateway.status_url(path)).send());
    }
}

/// Every verb of the command line that reads or compares.
fn verbs(
    said: &mut Outputs,
    gateway: &Gateway,
    setup: &Setup,
    documents: &[(Kind, String, Value)],
) {
    let a6 = A6::at(gateway);
    for verb in [
        &["ssl", "list"][..],
        &["ssl", "get", "1"],
        &["upstream", "get", "1", "-o", "yaml"],
        &["service", "list", "-o", "json"],
        &["route", "list", "-o", "table"],
        &["secret", "list"],
        &["secret", "get", "vault/1"],
        &["secret", "status"],
        &["config", "dump"],
        &["config", "dump", "-f", "all.yaml"],
        &["config", "diff", "-f", "all.yaml"],
        &["config", "sync", "-f", "all.yaml", "--dry-run"],
        &["config", "validate", "-f", "all.yaml"],
        &["audit", "list"],
        &["audit", "verify"],
        &["cert", "expiring", "--days", "9999"],
        &["explain", "--last"],
        &["probe", "route", "1"],
        &["fips"],
        &[
            "debug",
            "trace",
            "1",
            "--gateway-url",
            &gateway.http_url(""),
        ],
        &["--verbose", "ssl", "get", "1"],
    ] {
        said.run(&format!("a6 {}", verb.join(" ")), &a6.run(verb));
    }
    for (kind, path, document) in documents {
        let text = format!("{}\n", &document.to_string()[1..]);
        let verb = [kind.singular(), "create", "-f", "-"];
        said.run(
            &format!("a6 create of broken {path}"),
            &a6.feed(&verb, &text),
        );
    }
    let dumped = fs::read_to_string(a6.folder().join("all.yaml")).unwrap_or_default();
    said.add("the dump", dumped);
    for verb in [
        &["check"][..],
        &["check", "--print"],
        &["check", "--profile", "stig"],
        &["fips"],
    ] {
        said.run(&format!("portcullis {}", verb.join(" ")), &setup.run(verb));
    }
}

/// Every file below a folder.
fn files(folder: &Path, said: &mut Outputs) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, said);
        } else if let Ok(bytes) = fs::read(&path) {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            said.add(format!("the file {}", path.display()), text);
        }
    }
}

#[test]
fn no_secret_is_in_anything_that_is_said_or_written() {
    let ca = Ca::root("CA");
    let mut canaries = Canaries::default();
    let documents = documents(&ca, &mut canaries);
    // Every secret member there is has a canary.
    for kind in Kind::ALL {
        for pointer in secret_members(kind) {
            let mut own = documents.iter().filter(|(own, ..)| *own == kind);
            assert!(
                own.any(|(_, _, document)| has(document, pointer)),
                "{kind} {pointer}"
            );
        }
    }
    let referred = ca.server("ref.example.com");
    let key = canaries.key("a value of a reference", &referred);
    let referred = json!({"cert": referred.cert, "key": key}).to_string();
    let vault_token = canaries.credential("VAULT_TOKEN");
    let aws_key = canaries.credential("AWS_SECRET_ACCESS_KEY");
    let kek = format!("{:02x}", 0xc5).repeat(32);
    canaries
        .0
        .push(("the key-encryption key".to_owned(), kek.clone()));
    canaries
        .0
        .push(("the admin key".to_owned(), ADMIN_KEY.to_owned()));
    let mut said = Outputs::default();
    // The tests learn a gateway's ports from what it says at `info`.
    for level in ["trace", "info"] {
        let setup = Setup::default()
            .set("log.level", level)
            .set("kek", "$env://MY_KEK")
            .set("secrets.cache_time", "1s")
            .env("MY_KEK", &kek)
            .env("REF", &referred)
            .env("VAULT_TOKEN", &vault_token)
            .env("AWS_ACCESS_KEY_ID", "a")
            .env("AWS_SECRET_ACCESS_KEY", &aws_key);
        let gateway = setup.clone().start();
        mistakes(&documents, &mut said, &gateway);
        for (_, path, document) in &documents {
            let written = gateway.admin_put(&format!("/{path}"), document);
            said.curl(path, &written.expect_status(201));
        }
        let reference = json!({"cert": "$env://REF/cert", "key": "$env://REF/key",
                               "snis": ["ref.example.com"]});
        said.curl(
            "a reference",
            &gateway
                .admin_put("/ssls/ref", &reference)
                .expect_status(201),
        );
        gateway.configure(
            "/ssls/away",
            &json!({"cert": "$secret://vault/1/a/cert",
            "key": "$secret://kubernetes/1/a/b/key", "snis": ["away.example.com"]}),
        );
        let opened = || ask(&gateway, "admin", "GET", "/portcullis/v1/secrets", "").body;
        eventually(SOON, "references were tried", || {
            opened().contains("last_error").then_some(())
        });
        for version in TlsVersion::ALL {
            let client = gateway.tls(NAME, version);
            said.add("an answer", format!("{:?}", client.get(NAME, "/r")));
        }
        readings(&documents, &mut said, &gateway);
        verbs(&mut said, &gateway, &setup, &documents);
        mistakes(&documents, &mut said, &gateway);
        said.run("portcullis rotate-key", &setup.run(&["rotate-key"]));
        // It is searched with the other files.
        let backup = gateway.data_path().join("backup");
        let backup = setup.run(&["backup", backup.to_str().unwrap()]);
        assert!(backup.status.success(), "{backup:?}");
        said.run("portcullis backup", &backup);
        readings(&documents, &mut said, &gateway);
        files(&gateway.data_path(), &mut said);
        for (_, path, _) in documents.iter().rev() {
            said.curl(path, &gateway.admin_delete(&format!("/{path}?force=true")));
        }
        let data = gateway.data();
        let stopped = gateway.stop();
        for line in stopped.logs.iter().chain(&stopped.records) {
            said.add(format!("the log at {level}"), line.to_string());
        }
        files(&data.path().join("data"), &mut said);
    }
    assert!(said.0.len() > 500, "{} outputs", said.0.len());
    // The search finds what is there.
    let sent: Vec<String> = documents
        .iter()
        .map(|(_, _, document)| document.to_string())
        .collect();
    assert!(!canaries.found_in(&sent.join("\n")).is_empty());
    expect_no_hits(&canaries, &said);
}

#[track_caller]
fn expect_no_hits(canaries: &Canaries, said: &Outputs) {
    let found = |(at, text): &(String, String)| {
        let found = canaries.found_in(text).into_iter();
        let found = found.map(|what| format!("{what} in {at}"));
        found.collect::<Vec<_>>()
    };
    let hits: Vec<String> = said.0.iter().flat_map(found).collect();
    assert!(hits.is_empty(), "{hits:#?}");
}

#[test]
fn no_secret_of_a_declared_file_is_said() {
    let ca = Ca::root("CA");
    let mut canaries = Canaries::default();
    let documents = documents(&ca, &mut canaries);
    let mut sections = json!({});
    for (_, path, document) in &documents {
        let (section, id) = path.split_once('/').unwrap();
        let mut item = document.clone();
        item["id"] = json!(id);
        if sections[section].is_null() {
            sections[section] = json!([]);
        }
        sections[section].as_array_mut().unwrap().push(item);
    }
    // A key where none belongs: what has it is refused, and kept as what closes its names.
    let lost = ca.client("lost");
    let stray =
        json!({"id": "stray", "nodes": {"127.0.0.1:1": 1}, "desc": canaries.key("desc", &lost)});
    sections["upstreams"].as_array_mut().unwrap().push(stray);
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("all.json");
    fs::write(&file, sections.to_string()).unwrap();
    let setup = Setup::default()
        .set("log.level", "trace")
        .arg("--standalone")
        .arg(file.to_str().unwrap());
    let gateway = setup.clone().start();
    let mut said = Outputs::default();
    let configs = "/apisix/admin/configs";
    for listener in ["admin", "admin_https"] {
        let shown = ask(&gateway, listener, "GET", configs, "");
        assert!(shown.body.contains("$withheld:"), "{shown:?}");
        said.curl(configs, &shown);
        let whole = sections.to_string();
        for body in [
            &whole,
            &whole[..whole.len() - 1],
            &whole.replace("snis", "sins"),
        ] {
            said.curl(configs, &ask(&gateway, listener, "PUT", configs, body));
        }
    }
    for body in [
        sections.to_string().replace("snis", "sins"),
        format!("[{sections}]"),
    ] {
        let put = gateway.admin("PUT", "/configs").header("X-Digest: 1");
        said.curl(configs, &put.body(body).send().expect_status(400));
    }
    readings(&documents, &mut said, &gateway);
    said.run("portcullis check", &setup.run(&["check", "--print"]));
    // A file that is wrong while it is served.
    fs::write(&file, sections.to_string().replace("snis", "sins")).unwrap();
    gateway.expect_log("the file is refused", |line| {
        line["level"] == "ERROR" || line["level"] == "WARN"
    });
    files(&gateway.data_path(), &mut said);
    let stopped = gateway.stop();
    for line in stopped.logs.iter().chain(&stopped.records) {
        said.add("the log", line.to_string());
    }
    expect_no_hits(&canaries, &said);
}

#[test]
fn panics_tell_where_and_not_what() {
    if let Ok(value) = std::env::var(QUOTED) {
        return panic_about(&value);
    }
    let value = "canary-of-a-panic-7f3a9c51e8";
    let run = |level: &str| {
        let own = std::env::current_exe().unwrap();
        let mut command = Command::new(own);
        command
            .args([
                "--exact",
                "canary::panics_tell_where_and_not_what",
                "--nocapture",
            ])
            .env(QUOTED, value)
            .env("PORTCULLIS_TEST_LOGS", level)
            .env("RUST_BACKTRACE", "1");
        run_to_end(command, b"", 3 * SOON)
    };
    for logs in ["none", "trace"] {
        let finished = run(logs);
        let said = format!("{}{}", finished.stdout, finished.stderr);
        assert!(!said.contains(value), "{said}");
        assert!(said.matches("canary.rs:").count() >= 3, "{said}");
        assert_eq!(said.matches("words are withheld").count(), 3, "{said}");
    }
}

/// Panics in ways that quote a value: outright, by an error, and by a text that is cut.
fn panic_about(value: &str) {
    panics::install();
    if std::env::var("PORTCULLIS_TEST_LOGS").as_deref() == Ok("trace") {
        log::start(Level::TRACE, log::Format::Json).unwrap();
    }
    let _told = catch_unwind(|| panic!("{value}"));
    // What serde expected and what it found.
    let _told = catch_unwind(|| serde_json::from_value::<u8>(json!(value)).unwrap());
    let _told = catch_unwind(|| format!("é{value}")[1..].len());
}
