//! What goes beyond the public tool: certificates, probes, explanations, traces, logs.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::apisix::Apisix;
use crate::support::a6::A6;
use crate::support::gateway::Gateway;
use crate::support::origin::{Nginx, Origin};
use crate::support::pki::{Ca, Leaf, PairFiles, Validity};
use crate::support::{Finished, SOON, eventually, fips};

/// A gateway with one name that asks for client certificates, and a route behind it.
struct Stage {
    gateway: Gateway,
    a6: A6,
    clients: Ca,
    client: PairFiles,
    _origin: Origin,
}

impl Stage {
    #[track_caller]
    fn new() -> Self {
        let gateway = Gateway::start();
        let a6 = A6::at(&gateway);
        let (servers, clients) = (Ca::root("Servers"), Ca::root("Clients"));
        let pair = servers.server("api.example.com");
        let origin = Origin::nginx(&Nginx::default());
        let ssl = json!({"id": "name", "cert": pair.cert, "key": pair.key,
            "snis": ["api.example.com"], "client": {"ca": clients.pem()}});
        let route = json!({"id": "r", "uri": "/api/*", "host": "api.example.com", "methods": ["GET"],
            "upstream": {"nodes": {origin.node(): 1}}});
        for (group, document) in [("ssl", ssl), ("route", route)] {
            a6.feed(&[group, "create", "-f", "-"], &document.to_string())
                .expect_success();
        }
        servers.write(a6.folder(), "ca");
        Self {
            client: clients.client("alice").write(a6.folder(), "client"),
            gateway,
            a6,
            clients,
            _origin: origin,
        }
    }

    fn gateway_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.gateway.https_port())
    }

    fn probe(&self, name: &str, more: &[&str]) -> Finished {
        let url = self.gateway_url();
        let args = [
            "probe",
            "listener",
            name,
            "--gateway-url",
            &url,
            "--cacert",
            "ca.crt",
        ];
        self.a6.run(&[&args[..], more].concat())
    }
}

#[test]
fn listener_is_probed_with_a_verdict_in_a_sentence() {
    let stage = Stage::new();
    let files = ["--cert", "client.crt", "--key", "client.key"];
    assert!(stage.client.cert.exists());
    let served = stage.probe("api.example.com", &files).expect_success();
    assert!(
        served
            .stdout
            .starts_with("api.example.com is served with CN=api.example.com until 2"),
        "{served:?}"
    );
    assert!(
        served
            .stdout
            .contains("verified; the client certificate is accepted."),
        "{served:?}"
    );
    stage.probe("api.example.com", &[]).expect_failure(
        "api.example.com is refused: it asks for a client certificate, and none was shown: --cert and --key.",
    );
    Ca::root("Strangers")
        .client("mallory")
        .write(stage.a6.folder(), "mallory");
    let refused = stage.probe(
        "api.example.com",
        &["--cert", "mallory.crt", "--key", "mallory.key"],
    );
    assert!(
        refused
            .stderr
            .starts_with("api.example.com is refused: the client certificate is not accepted"),
        "{refused:?}"
    );
    stage.probe("unknown.test", &files).expect_failure(
        "unknown.test is refused: no ssl has this name, or the one that has it is closed.",
    );
    let json = stage.probe("api.example.com", &["-o", "json"]);
    assert_eq!(json.status.code(), Some(1));
    assert_eq!(json.json()["reason"], "upstream_wants_client_cert");
    // A probe sends no request: what is on record are the handshakes that were refused.
    let records = stage.gateway.records();
    assert!(
        records.iter().all(|record| record["kind"] == "handshake"),
        "{records:?}"
    );
}

#[test]
fn route_is_traced_through_tls() {
    let stage = Stage::new();
    let url = stage.gateway_url();
    let control = stage.gateway.status_url("");
    let trace = |more: &[&str]| {
        let args = [
            "debug",
            "trace",
            "r",
            "--gateway-url",
            &url,
            "--control-url",
            &control,
        ];
        stage.a6.run(&[&args[..], more].concat())
    };
    let good = [
        "--cacert",
        "ca.crt",
        "--cert",
        "client.crt",
        "--key",
        "client.key",
    ];
    let report = trace(&good).expect_success().json();
    assert_eq!(report["response"]["status"], 200);
    assert_eq!(report["route"]["id"], "r");
    assert_eq!(report["request"]["method"], "GET");
    assert_eq!(report["request"]["headers"]["Host"], "api.example.com");
    assert_eq!(report["tls"]["version"], "TLSv1.3");
    assert_eq!(report["tls"]["verification"], "verified");
    assert_eq!(
        report["tls"]["certificate"]["subject"],
        "CN=api.example.com"
    );
    let table =
        trace(&[&good[..], &["-o", "table", "--path", "/nowhere"]].concat()).expect_success();
    assert!(
        table.stdout.contains("Status:    404 Not Found"),
        "{table:?}"
    );
    assert!(table.stdout.contains("Trust:     verified"), "{table:?}");

    let identity = ["--cert", "client.crt", "--key", "client.key"];
    let distrusted = trace(&identity);
    assert_eq!(distrusted.status.code(), Some(1));
    let told = &distrusted.stderr;
    assert!(
        told.starts_with(
            "failed to send test request to gateway: its certificate CN=api.example.com of "
        ) && told.contains("nothing was sent; name its CA with --cacert"),
        "{distrusted:?}"
    );
    assert_eq!((told.lines().count(), distrusted.stdout.len()), (1, 0));
    let as_json = trace(&[&identity[..], &["-o", "json"]].concat());
    let error: Value = serde_json::from_str(&as_json.stderr).unwrap();
    assert_eq!(error["error_msg"], told.trim_end());
    trace(&["--cert", "client.crt", "--key", "client.key", "--insecure"]).expect_success();
    let refused = trace(&["--cacert", "ca.crt"]);
    assert!(
        refused
            .stderr
            .starts_with("failed to send test request to gateway: "),
        "{refused:?}"
    );
    assert!(
        refused
            .stderr
            .trim_end()
            .ends_with("it asks for a certificate: --cert and --key"),
        "{refused:?}"
    );
    let missing = stage
        .a6
        .run(&["debug", "trace", "no", "--gateway-url", &url]);
    missing.expect_failure("resource not found");
}

#[test]
fn last_failure_is_explained_with_its_evidence() {
    let stage = Stage::new();
    let none = stage
        .a6
        .run(&["explain", "--last", "sni_unknown"])
        .expect_success();
    assert_eq!(none.stdout, "No failure since the gateway started.\n");
    stage.probe("unknown.test", &[]);
    let told = stage.a6.run(&["explain", "--last"]).expect_success();
    assert!(
        told.stdout.starts_with("sni_unknown (blame: client)\n"),
        "{told:?}"
    );
    assert!(
        told.stdout.contains("Remedy: ") && told.stdout.contains("\n  sni: unknown.test"),
        "{told:?}"
    );
    stage.probe("api.example.com", &[]);
    let json = stage
        .a6
        .run(&["explain", "--last", "client_cert_missing", "-o", "json"])
        .json();
    assert_eq!(json["evidence"]["sni"], "api.example.com");
    assert!(
        stage
            .a6
            .run(&["explain", "--last", "sni_unknwon"])
            .stderr
            .contains("did you mean")
    );
    Apisix::start()
        .a6()
        .run(&["explain", "--last"])
        .expect_failure("this server has no GET /portcullis/v1/failures, which this command asks");
}

#[test]
fn certificates_are_listed_with_their_days_and_what_they_break() {
    let stage = Stage::new();
    let old = Leaf {
        validity: Validity::Expired,
        ..Leaf::server("old.test")
    };
    let pair = stage.clients.issue(&old);
    let upstream = json!({"id": "u", "nodes": {"a:1": 1}, "scheme": "https",
        "tls": {"client_cert": pair.cert, "client_key": pair.key}});
    stage
        .a6
        .feed(&["upstream", "create", "-f", "-"], &upstream.to_string())
        .expect_success();
    let route = r#"{"id":"via","uri":"/via","upstream_id":"u"}"#;
    stage
        .a6
        .feed(&["route", "create", "-f", "-"], route)
        .expect_success();
    let list = stage.a6.run(&["cert", "list"]).expect_success().json();
    let rows: Vec<(&str, &str, i64)> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let text = |name: &str| row[name].as_str().unwrap();
            (
                text("resource"),
                text("member"),
                row["days_left"].as_i64().unwrap(),
            )
        })
        .collect();
    assert_eq!((rows[0].0, rows[0].1), ("upstream/u", "tls.client_cert"));
    assert!(rows[0].2 < 0, "{list}");
    // Which of the others ends first is a matter of the second in which they were made.
    let mut others = [rows[1], rows[2]].map(|(resource, member, _)| (resource, member));
    others.sort_unstable();
    assert_eq!(others, [("ssl/name", "cert"), ("ssl/name", "client.ca")]);
    let table = stage.a6.run(&["cert", "ls", "-o", "table"]).stdout;
    assert!(
        table.starts_with("RESOURCE     MEMBER            SUBJECT"),
        "{table}"
    );

    let ending = |args: &[&str]| {
        stage
            .a6
            .run(&[&["cert", "expiring", "-o", "table"], args].concat())
    };
    let soon = ending(&["--days", "7"]).expect_success().stdout;
    assert!(
        soon.contains("upstream/u tls.client_cert (CN=old.test) ended on"),
        "{soon}"
    );
    assert!(
        soon.contains("the upstream refuses the gateway: 502 on route via"),
        "{soon}"
    );
    assert_eq!(soon.lines().count(), 1);
    let later = ending(&["--days", "60"]).expect_success().stdout;
    assert!(later.contains("clients refuse api.example.com"), "{later}");
    assert!(
        later.contains("clients of this CA are refused at api.example.com"),
        "{later}"
    );
    let none = ending(&["--before", "2000-01-01"]).expect_success().stdout;
    assert_eq!(none, "No certificate ends before 2000-01-01.\n");
    ending(&["--before", "soon"]).expect_failure("\"soon\" is no date; write it as YYYY-MM-DD");
}

#[test]
fn certificate_of_a_file_or_a_server_is_inspected() {
    let stage = Stage::new();
    let inspect = |args: &[&str]| stage.a6.run(&[&["cert", "inspect"], args].concat());
    let file = inspect(&["client.crt"]).expect_success().stdout;
    assert!(
        file.contains("Subject:  CN=alice\n") && file.contains("days left"),
        "{file}"
    );
    let key = inspect(&["client.key"]).expect_success().stdout;
    assert!(
        key.starts_with("Key:      PrivateKey(EC 256)\nPublic:   "),
        "{key}"
    );
    let address = format!("127.0.0.1:{}", stage.gateway.https_port());
    let served = inspect(&[
        &address,
        "--sni",
        "api.example.com",
        "--cacert",
        "ca.crt",
        "-o",
        "json",
    ])
    .expect_success()
    .json();
    assert_eq!(served["verification"], "verified");
    assert_eq!(
        served["certificates"][0]["names"],
        json!(["api.example.com"])
    );
    let distrusted = inspect(&[&address, "--sni", "api.example.com"])
        .expect_success()
        .stdout;
    assert!(
        distrusted.contains("Trust:    not trusted: "),
        "{distrusted}"
    );
    inspect(&["no.pem"]).expect_failure("\"no.pem\" is neither a file here nor host:port");
    let shown = inspect(&["ca.crt", "-o", "json"]).json();
    assert_eq!(shown["certificates"].as_array().unwrap().len(), 1);
}

#[test]
fn tryout_certificates_work_as_printed_and_are_never_written_over() {
    let gateway = Gateway::start();
    let a6 = A6::at(&gateway);
    let port = gateway.https_port();
    let made = a6
        .run(&["init-mtls", "mtls", "--name", "api.example.com"])
        .expect_success();
    assert!(
        made.stdout.contains("For trying things out only"),
        "{made:?}"
    );
    let mode = fs::metadata(a6.folder().join("mtls/server.key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let (_, commands) = made.stdout.split_once("\n\n").unwrap();
    let commands = commands.replace(":9443", &format!(":{port}"));
    a6.write(
        ".curlrc",
        "silent\nshow-error\nnoproxy = *\nfail-with-body\n",
    );
    let ran = a6.bash(&commands);
    // The gateway has no route: the handshake is what was to be shown.
    assert_eq!(ran.status.code(), Some(22), "{ran:?}");
    assert!(ran.stderr.contains("404"), "{ran:?}");
    let told = a6.run(&["init-mtls", "mtls"]);
    told.expect_failure(
        "mtls/ca.crt: is there already; nothing was written (--force writes over it)",
    );
    a6.run(&["init-mtls", "mtls", "--force"]).expect_success();
    let subject = a6.run(&["cert", "inspect", "mtls/client.crt"]).stdout;
    assert!(subject.contains("not for production"), "{subject}");
}

#[test]
fn log_is_shown_and_followed() {
    let a6 = A6::new();
    a6.write("log", "one\n{\"kind\":\"request\"}\ntwo\n");
    let logs = |args: &[&str]| a6.run(&[&["debug", "logs"], args].concat());
    assert_eq!(
        logs(&["--file", "log", "-n", "1"]).expect_success().stdout,
        "two\n"
    );
    assert_eq!(
        logs(&["--file", "log", "-t", "error"])
            .expect_success()
            .stdout,
        "one\ntwo\n"
    );
    assert!(logs(&[]).stderr.starts_with("no log file named"));
    let log = a6.folder().join("log");
    a6.write("gateway.yaml", &format!("access_log: {}\n", log.display()));
    let configured = ["--config", "gateway.yaml"];
    assert_eq!(logs(&configured).expect_success().stdout.lines().count(), 3);
    let of_kind = |kind: &'static str| logs(&[&configured[..], &["-t", kind]].concat());
    let records = of_kind("access").expect_success().stdout;
    assert_eq!(records, "{\"kind\":\"request\"}\n");
    let refused = of_kind("error").stderr;
    assert!(refused.starts_with("no log file named"), "{refused}");
    a6.write("gateway.yaml", "acces_log: log\n");
    let refused = logs(&configured).stderr;
    assert!(
        refused.contains("configuration cannot be read"),
        "{refused}"
    );
    assert!(
        logs(&["--file", "no"])
            .stderr
            .starts_with("failed to read no: ")
    );

    let mut child = Command::new(env!("CARGO_BIN_EXE_a6"))
        .args(["debug", "logs", "-f", "-n", "1", "--file"])
        .arg(a6.folder().join("log"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "two");
    a6.write("log", "fresh\n");
    assert_eq!(lines.next().unwrap().unwrap(), "fresh");
    child.kill().unwrap();
    eventually(SOON, "it ends", || child.try_wait().unwrap());
}

#[test]
fn report_on_fips_mode_is_shown() {
    let gateway = Gateway::start();
    let a6 = A6::at(&gateway);
    let json = a6.run(&["fips", "-o", "json"]).expect_success().json();
    let mode = if fips::everywhere().is_some() {
        "required"
    } else {
        "off"
    };
    assert_eq!(json["fips"], mode);
    let text = a6.run(&["fips"]).expect_success().stdout;
    assert!(
        text.lines().any(|line| line == format!("fips: {mode}")),
        "{text}"
    );
    let unsigned = a6.run(&["fips", "--sign"]);
    assert!(
        unsigned.stderr.starts_with("API error (status 400): "),
        "{unsigned:?}"
    );
}

#[test]
fn state_of_references_is_told() {
    let gateway = Gateway::start();
    let a6 = A6::at(&gateway);
    let status = ["secret", "status", "-o", "table"];
    let none = a6.run(&status).expect_success().stdout;
    assert!(none.contains("No references found."), "{none}");
    let pair = Ca::root("CA").server("a.test");
    let ssl = json!({"cert": pair.cert, "key": "$env://NOBODY", "snis": ["a.test"]});
    gateway.configure("/ssls/1", &ssl);
    let table = a6.run(&status).expect_success().stdout;
    let heading = table.lines().next().unwrap_or_default();
    assert!(
        heading.starts_with("KIND") && heading.contains("STATE"),
        "{table}"
    );
    for word in ["ssls", "/key", "$env://NOBODY", "unresolved"] {
        assert!(table.contains(word), "no {word} in {table}");
    }
}

#[test]
fn what_this_server_has_no_endpoint_for_is_named() {
    let apisix = Apisix::start();
    let a6 = apisix.a6();
    a6.feed(&["route", "create", "-f", "-"], r#"{"id":"r","uri":"/a"}"#)
        .expect_success();
    for (args, endpoint) in [
        (&["audit", "list"][..], "GET /portcullis/v1/audit"),
        (&["audit", "verify"], "GET /portcullis/v1/audit/verify"),
        (&["secret", "status"], "GET /portcullis/v1/secrets"),
        (&["fips"], "GET /portcullis/v1/fips"),
        (&["secret", "status"], "GET /portcullis/v1/secrets"),
        (
            &["probe", "route", "r"],
            "POST /portcullis/v1/probe/routes/r",
        ),
    ] {
        a6.run(args).expect_failure(&format!(
            "this server has no {endpoint}, which this command asks"
        ));
    }
    a6.run(&["probe", "route", "other"])
        .expect_failure("resource not found");
}
