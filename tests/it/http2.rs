//! HTTP/2 towards clients: agreed on by ALPN, under the same rules per request.

use std::io::Write;

use serde_json::json;

use crate::support::TlsVersion;
use crate::support::gateway::{Setup, field};
use crate::support::h2::H2Conn;
use crate::support::origin::{TcpOrigin, ok, read_head};
use crate::support::pki::Ca;
use crate::support::site::Site;

const NAME: &str = "api.example.com";

#[test]
fn http2_and_http1_are_agreed_on_by_alpn() {
    let site = Site::start();
    site.put_ssl("open", NAME, &json!({}));
    for version in TlsVersion::ALL {
        let second = site
            .ask(NAME, "/x")
            .http2()
            .tls(version)
            .send()
            .expect_status(200);
        assert!(second.head.starts_with("HTTP/2 200"), "{second:?}");
        let first = site.ask(NAME, "/x").tls(version).send().expect_status(200);
        assert!(first.head.starts_with("HTTP/1.1 200"), "{first:?}");
    }
}

#[test]
fn client_certificate_is_asked_for_over_http2_too() {
    let site = Site::start();
    let ca = Ca::root("Clients");
    site.put_ssl("mtls", NAME, &json!({"client": {"ca": ca.pem()}}));
    let pair = site.write(&ca.client("alice"), "alice");
    for version in TlsVersion::ALL {
        site.ask(NAME, "/x")
            .http2()
            .tls(version)
            .send()
            .expect_refused_handshake();
        let with = site.ask(NAME, "/x").http2().tls(version).cert(&pair).send();
        assert!(with.expect_status(200).head.starts_with("HTTP/2"));
    }
}

#[test]
fn authority_of_another_policy_is_misdirected_over_http2() {
    let site = Site::start();
    let ca = Ca::root("Clients");
    site.put_ssl("mtls", NAME, &json!({"client": {"ca": ca.pem()}}));
    site.put_ssl("open", "open.example.com", &json!({}));
    let ask = || site.ask("open.example.com", "/x").http2();
    let refused = ask()
        .header(&format!("Host: {NAME}"))
        .send()
        .expect_status(421);
    assert!(refused.head.starts_with("HTTP/2 421"), "{refused:?}");
    ask().send().expect_status(200);
}

#[test]
fn large_bodies_pass_over_http2() {
    let site = Site::start();
    site.put_ssl("open", NAME, &json!({}));
    // As much as nginx takes, and more than one frame.
    let body = vec![b'x'; 1 << 20];
    let ask = site.ask(NAME, "/x").http2().body(body);
    ask.send().expect_status(200);
}

/// More than a client that reads nothing lets through.
const BIG: usize = 8 << 20;

/// A site whose streams may stall for a moment only, before an upstream that answers `/big` by many
/// bytes and everything else at once, without its body.
fn impatient() -> (Site, TcpOrigin) {
    let origin = TcpOrigin::serving(|mut conn| {
        loop {
            let head = read_head(&mut conn);
            if !head.ends_with("\r\n\r\n") {
                return;
            }
            let answer = match head.split(' ').nth(1) {
                Some("/big") => ok(&"x".repeat(BIG)),
                Some("/up") => continue,
                _ => ok("small"),
            };
            if conn.write_all(&answer).is_err() {
                return;
            }
        }
    });
    let site = Site::with(Setup::default().set("limits.body_timeout", "300ms"));
    site.put_ssl("open", NAME, &json!({}));
    let upstream = json!({"nodes": {origin.node(): 1}});
    let route = json!({"uri": "/*", "upstream": upstream});
    site.gateway.configure("/routes/all", &route);
    (site, origin)
}

#[test]
fn stream_that_is_not_read_is_reset_by_itself() {
    let (site, _origin) = impatient();
    for version in TlsVersion::ALL {
        let client = site.client(NAME).tls(version);
        let mut conn = H2Conn::connect(&client).unwrap();
        let stuck = conn.begin("GET", NAME, "/big", true).unwrap();
        let (head, mut body) = conn.read_head(stuck.into_answer()).unwrap();
        assert_eq!(head.status, 200);
        // Its window is never opened again.
        let end = conn.drive(async {
            loop {
                match body.data().await {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => break error,
                    None => panic!("all of it came"),
                }
            }
        });
        assert!(end.is_reset(), "{end}");
        assert_eq!(end.reason(), Some(h2::Reason::CANCEL));
        // The connection serves on, and who reads gets all.
        assert_eq!(conn.get(NAME, "/small").unwrap().body, "small");
        assert_eq!(conn.get(NAME, "/big").unwrap().body.len(), BIG);
    }
    site.gateway.expect_record("the cause", |record| {
        field(record, "path") == Some("/big") && field(record, "reason") == Some("client_timeout")
    });
}

#[test]
fn stream_whose_body_stalls_ends_by_itself() {
    let (site, _origin) = impatient();
    for version in TlsVersion::ALL {
        let client = site.client(NAME).tls(version);
        let mut conn = H2Conn::connect(&client).unwrap();
        let mut stuck = conn.begin("POST", NAME, "/up", false).unwrap();
        stuck.upload.send_data("a part".into(), false).unwrap();
        assert_eq!(conn.read(stuck).unwrap().status, 408);
        assert_eq!(conn.get(NAME, "/small").unwrap().body, "small");
    }
    site.gateway.expect_record("the cause", |record| {
        field(record, "path") == Some("/up") && field(record, "reason") == Some("client_timeout")
    });
}
