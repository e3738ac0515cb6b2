//! How the server is reached: TLS, its errors, and what is never shown.

use std::fs;

use serde_json::json;

use crate::support::a6::A6;
use crate::support::client::openssl_s_client;
use crate::support::gateway::{ADMIN_KEY, Gateway, Setup};
use crate::support::origin::{ClosedPort, Nginx, Origin, TcpOrigin};
use crate::support::pki::Ca;

fn https(gateway: &Gateway) -> A6 {
    A6::of(&format!(
        "https://127.0.0.1:{}",
        gateway.port("admin_https")
    ))
}

#[test]
fn certificate_of_the_admin_port_is_checked_unless_told_otherwise() {
    let gateway = Gateway::start();
    let a6 = https(&gateway);
    let refused = a6.run(&["route", "list"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("--ca-cert"), "{refused:?}");
    a6.run(&["route", "list", "--insecure"]).expect_success();

    let shown = openssl_s_client(gateway.port("admin_https"), &["-showcerts"], "");
    let from = shown.stdout.find("-----BEGIN CERTIFICATE").unwrap();
    let to = shown.stdout.find("-----END CERTIFICATE-----").unwrap();
    a6.write(
        "admin.crt",
        &format!("{}-----END CERTIFICATE-----\n", &shown.stdout[from..to]),
    );
    let trusting = ["--ca-cert", "admin.crt"];
    a6.run(&[&trusting[..], &["route", "list"]].concat())
        .expect_success();
    let server = format!("https://127.0.0.1:{}", gateway.port("admin_https"));
    a6.run(
        &[
            &[
                "context",
                "create",
                "x",
                "--server",
                &server,
                "--api-key",
                ADMIN_KEY,
            ],
            &trusting[..],
        ]
        .concat(),
    )
    .expect_success();
    a6.run(&["route", "list"]).expect_success();
    a6.env("A6_CA_CERT", "none.crt")
        .run(&["route", "list"])
        .expect_failure("failed to read none.crt: No such file or directory (os error 2)");
}

#[test]
fn both_flavours_take_the_same_commands() {
    let gateway = Gateway::start();
    let secure = https(&gateway);
    let secure = |args: &[&str], stdin: &str| secure.feed(&[args, &["--insecure"]].concat(), stdin);
    let plain = A6::at(&gateway);
    let service = json!({"id": "s", "name": "s", "upstream": {"nodes": {"127.0.0.1:1": 1}}});
    let route = json!({"id": "r", "uri": "/r", "service_id": "s"});
    secure(&["service", "create", "-f", "-"], &service.to_string()).expect_success();
    plain
        .feed(&["route", "create", "-f", "-"], &route.to_string())
        .expect_success();
    for listed in [
        plain.run(&["route", "list"]),
        secure(&["route", "list"], ""),
    ] {
        assert_eq!(listed.expect_success().json()[0]["id"], "r");
    }
    for shown in [
        plain.run(&["service", "get", "s"]),
        secure(&["service", "get", "s"], ""),
    ] {
        assert_eq!(shown.expect_success().json()["name"], "s");
    }
    let used = plain.run(&["service", "delete", "s"]);
    assert!(used.stderr.contains("still using it"), "{used:?}");
    for (group, id) in [("route", "r"), ("service", "s")] {
        secure(&[group, "delete", id], "").expect_success();
    }
}

#[test]
fn admin_port_that_asks_for_a_certificate_gets_one() {
    let ca = Ca::root("Admin CA");
    let origin = Origin::nginx(&Nginx {
        directives: "default_type application/json; \
                     location /apisix/admin/ { return 200 '{\"total\":0,\"list\":[]}'; } \
                     location /v1/healthcheck/ { return 200 '{\"nodes\":[]}'; }"
            .to_owned(),
        ..Nginx::mutual(ca.server("localhost"), ca.pem())
    });
    let a6 = A6::of(&format!("https://localhost:{}", origin.port()));
    let root = ca.write(a6.folder(), "ca").display().to_string();
    let alice = ca.client("alice").write(a6.folder(), "alice");
    let (cert, key) = (
        alice.cert.display().to_string(),
        alice.key.display().to_string(),
    );
    let a6 = a6.env("A6_CA_CERT", &root);
    let with = |args: &[&str], more: &[&str]| a6.run(&[args, more].concat());
    let list = |more: &[&str]| with(&["route", "list", "-o", "table"], more);
    let shown = list(&["--client-cert", &cert, "--client-key", &key]).expect_success();
    assert_eq!(shown.stdout, "No routes found.\n");
    fs::write(a6.folder().join("both.pem"), {
        let read = |path| fs::read_to_string(path).unwrap();
        read(&cert) + &read(&key)
    })
    .unwrap();
    list(&["--client-cert", "both.pem"]).expect_success();
    // The control API is reached with the same options.
    let control = format!("https://localhost:{}", origin.port());
    let health = [
        "upstream",
        "health",
        "u",
        "-o",
        "table",
        "--control-url",
        &control,
    ];
    let told = with(&health, &["--client-cert", "both.pem"]).expect_success();
    assert_eq!(told.stdout, "No health checks found.\n");
    let told = with(&health, &[]);
    assert!(
        told.stderr.starts_with("API error (status 400)"),
        "{told:?}"
    );
    // nginx says this by HTTP.
    assert!(list(&[]).stderr.starts_with("API error (status 400)"));
    list(&["--client-key", &key]).expect_failure("--client-key needs --client-cert");
    let other = Ca::root("Other")
        .client("mallory")
        .write(a6.folder(), "mallory");
    let wrong = list(&[
        "--client-cert",
        &cert,
        "--client-key",
        &other.key.display().to_string(),
    ]);
    assert!(
        wrong.stderr.contains("does not belong to the certificate"),
        "{wrong:?}"
    );
}

#[test]
fn server_that_is_not_there_or_not_tls_is_told_with_what_to_do() {
    let nobody = A6::of(&format!("http://{}", ClosedPort::new().node()));
    let told = nobody.run(&["ssl", "list"]);
    assert_eq!(told.status.code(), Some(1));
    assert!(told.stderr.contains("Connection refused"), "{told:?}");
    assert!(told.stderr.contains("is the server running"), "{told:?}");
    assert_eq!(told.stderr.lines().count(), 1);

    let gateway = Gateway::start();
    let told = A6::of(&format!("https://127.0.0.1:{}", gateway.port("admin"))).run(&["ssl", "ls"]);
    assert!(told.stderr.contains("use http://"), "{told:?}");
    let told =
        A6::of(&format!("http://127.0.0.1:{}", gateway.port("admin_https"))).run(&["ssl", "ls"]);
    assert!(told.stderr.contains("use https://"), "{told:?}");
}

#[test]
fn errors_are_one_line_or_json_and_never_show_a_key() {
    let gateway = Setup::default().start();
    let a6 = A6::at(&gateway);
    a6.run(&["ssl", "get", "no"])
        .expect_failure("resource not found");
    a6.run(&["ssl", "get", "no", "-o", "json"])
        .expect_failure(r#"{"error_msg":"resource not found","status":404}"#);
    a6.run(&["ssl", "list", "--api-key", "wrong"])
        .expect_failure("authentication failed: check your API key");
    a6.run(&["ssl", "list", "--page-size", "5"])
        .expect_failure("API error (status 400): page_size must be between 10 and 500");
    a6.run(&["ssl", "list", "-o", "xml"])
        .expect_failure("unsupported output format: xml");
    a6.run(&["ssl", "list", "--nope", "-o", "json"])
        .expect_failure(r#"{"error_msg":"unknown flag: --nope"}"#);

    let pair = Ca::root("CA").server("a.test");
    let other = Ca::root("CA").server("a.test");
    let mismatch = json!({"id": "x", "cert": pair.cert, "key": other.key, "snis": ["a.test"]});
    let refused = a6.feed(
        &["--verbose", "ssl", "create", "-f", "-"],
        &mismatch.to_string(),
    );
    assert!(
        refused.stderr.contains("the private key does not belong"),
        "{refused:?}"
    );
    assert!(
        refused.stderr.contains("PUT http://127.0.0.1:"),
        "{refused:?}"
    );
    let said = format!("{refused:?}");
    for line in other.key_lines() {
        assert!(!said.contains(line), "{said}");
    }
    assert!(!said.contains(ADMIN_KEY), "{said}");
}

#[test]
fn server_that_is_no_admin_api_is_never_an_empty_one() {
    let said = |answer: &'static str| {
        TcpOrigin::talking(move |_| {
            let (head, body) = answer.split_once('|').unwrap();
            let length = body.len();
            format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
        })
    };
    let missing = said("404 Not Found|<html>nginx</html>");
    let a6 = A6::of(&format!("http://{}", missing.node()));
    let told = a6.run(&["config", "dump", "-f", "backup.yaml"]);
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    assert!(told.stderr.contains("has none of the sections"), "{told:?}");
    assert!(!a6.folder().join("backup.yaml").exists());
    for verb in [
        &["route", "delete", "--all"][..],
        &["route", "export"],
        &["cert", "list"],
    ] {
        a6.run(verb).expect_failure("resource not found");
    }

    let gateway = Gateway::start();
    let url = format!("http://127.0.0.1:{}", gateway.port("admin_https"));
    A6::of(&url).run(&["config", "dump"]).expect_failure(
        "API error (status 400): The plain HTTP request was sent to HTTPS port; use https://",
    );

    let moved = said("301 Moved Permanently\r\nLocation: https://other.test/x|<html>moved</html>");
    let a6 = A6::of(&format!("http://{}", moved.node()));
    a6.run(&["route", "list"]).expect_failure(
        "API error (status 301): the server sends elsewhere, to https://other.test/x; if that \
         is right, name it as the server",
    );

    let page = said("200 OK|<html>hello</html>");
    let url = format!("http://{}", page.node());
    let told = A6::of(&url).run(&["route", "get", "x"]);
    assert!(
        told.stderr.starts_with("failed to parse response: "),
        "{told:?}"
    );
    assert!(
        told.stderr
            .trim_end()
            .ends_with(&format!("is {url} the right server?")),
        "{told:?}"
    );
}
