//! HTTP/2 towards clients: agreed on by ALPN, under the same rules per request.

use serde_json::json;

use crate::support::TlsVersion;
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
