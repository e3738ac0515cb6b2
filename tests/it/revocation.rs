//! Revocation lists: who is on one is refused, in new handshakes, on kept sessions and on open
//! connections; a list that is out of date or not there lets nobody in.

use serde_json::{Value, json};

use crate::support::h2::H2Conn;
use crate::support::origin::{Nginx, Origin, seen};
use crate::support::pki::{Ca, Leaf, Pair, Validity};
use crate::support::site::Site;
use crate::support::tls::Ended;
use crate::support::{SOON, TlsVersion, eventually, patiently};

const NAME: &str = "api.example.com";
/// Alerts, RFC 8446 §6.
const CERTIFICATE_REVOKED: i32 = 44;
const CERTIFICATE_EXPIRED: i32 = 45;
const UNKNOWN_CA: i32 = 48;

fn client(ca: &str, crl: &str, mode: &str) -> Value {
    json!({"client": {"ca": ca, "crl": crl, "mode": mode}})
}

/// The outcome for a client that shows this pair.
#[track_caller]
fn ask(site: &Site, version: TlsVersion, pair: &Pair) -> Result<u16, Ended> {
    let client = site.client(NAME).tls(version).cert(pair);
    client.get(NAME, "/x").map(|answer| answer.status)
}

#[track_caller]
fn expect_reason(site: &Site, reason: &str, blame: &str, subject: &str) {
    let record = site.gateway.expect_record(reason, |record| {
        record["reason"] == reason && record["client_subject"] == subject
    });
    assert_eq!(
        (&record["blame"], &record["ssl_id"]),
        (&json!(blame), &json!("mtls"))
    );
}

#[test]
fn revoked_client_is_refused_in_every_mode_and_others_are_served() {
    let site = Site::start();
    let ca = Ca::root("Client CA");
    let (alice, mallory) = (ca.client("alice"), ca.client("mallory"));
    let crl = ca.crl(&[&mallory], Validity::Now);
    for (mode, refused) in [
        ("required", Err(Ended::Alert(CERTIFICATE_REVOKED))),
        ("optional", Err(Ended::Alert(CERTIFICATE_REVOKED))),
        ("deferred", Ok(400)),
    ] {
        site.put_ssl("mtls", NAME, &client(&ca.pem(), &crl, mode));
        for version in TlsVersion::ALL {
            assert_eq!(ask(&site, version, &alice), Ok(200), "{mode} {version:?}");
            assert_eq!(ask(&site, version, &mallory), refused, "{mode} {version:?}");
        }
    }
    expect_reason(&site, "client_cert_revoked", "client", "CN=mallory");
    // Without the list nobody is.
    let told = site.put_ssl("mtls", NAME, &json!({"client": {"ca": ca.pem()}}));
    let warning = told.header("x-portcullis-warning").unwrap_or_default();
    assert!(warning.contains("`client.crl` is gone"), "{warning}");
    assert_eq!(ask(&site, TlsVersion::V13, &mallory), Ok(200));
}

#[test]
fn every_certificate_of_the_chain_is_checked() {
    let site = Site::start();
    let root = Ca::root("Client CA");
    let below = root.intermediate("Below");
    let alice = below.client("alice");
    let both = format!("{}{}", root.pem(), below.pem());
    let none = |ca: &Ca| ca.crl(&[], Validity::Now);
    for (crl, outcome) in [
        (format!("{}{}", none(&root), none(&below)), Ok(200)),
        (none(&root), Err(Ended::Alert(UNKNOWN_CA))),
        (
            format!("{}{}", root.crl_with_authority(&below), none(&below)),
            Err(Ended::Alert(CERTIFICATE_REVOKED)),
        ),
    ] {
        site.put_ssl("mtls", NAME, &client(&both, &crl, "required"));
        for version in TlsVersion::ALL {
            assert_eq!(ask(&site, version, &alice), outcome, "{version:?}");
        }
    }
    expect_reason(&site, "client_crl_missing", "us", "CN=alice");
    expect_reason(&site, "client_cert_revoked", "client", "CN=alice");
}

#[test]
fn new_list_ends_the_sessions_and_connections_of_whom_it_revokes() {
    for site in Site::each_way() {
        let ca = Ca::root("Client CA");
        for version in TlsVersion::ALL {
            let (alice, mallory) = (ca.client("alice"), ca.client("mallory"));
            site.put_ssl(
                "mtls",
                NAME,
                &client(&ca.pem(), &ca.crl(&[], Validity::Now), "required"),
            );
            let open = |pair: &Pair| {
                let client = site.client(NAME).tls(version).cert(pair);
                let mut conn = client.connect().unwrap();
                assert_eq!(conn.get(NAME, "/x").unwrap().status, 200);
                let session = conn.session();
                (conn, client.session(&session))
            };
            let (mut kept, returning) = open(&alice);
            let (mut ended, refused) = open(&mallory);
            let mut second =
                H2Conn::connect(&site.client(NAME).tls(version).cert(&mallory)).unwrap();
            assert_eq!(second.get(NAME, "/x").unwrap().status, 200);
            for client in [&returning, &refused] {
                assert!(client.connect().unwrap().is_resumed(), "{version:?}");
            }

            let crl = ca.crl(&[&mallory], Validity::Now);
            site.put_ssl("mtls", NAME, &client(&ca.pem(), &crl, "required"));
            ended.expect_end();
            // A request that is on its way already is not served either.
            eventually(SOON, "its connection over HTTP/2 ends", || {
                let answer = second.get(NAME, "/x");
                assert!(
                    answer.as_ref().is_ok_and(|answer| answer.status == 421) || answer.is_err()
                );
                answer.err().map(drop)
            });
            let refusal = refused.get(NAME, "/x").unwrap_err();
            assert_eq!(refusal, Ended::Alert(CERTIFICATE_REVOKED), "{version:?}");
            assert_eq!(kept.get(NAME, "/x").unwrap().status, 200);
            // Who is not on it is judged once more, and served.
            let mut conn = returning.connect().unwrap();
            assert_eq!(conn.get(NAME, "/x").unwrap().status, 200);
            assert!(!conn.is_resumed());
        }
    }
}

#[test]
fn list_that_ends_lets_nobody_in_and_resumes_nobody() {
    patiently(|limit| {
        for site in Site::each_way() {
            let ca = Ca::root("Client CA");
            let alice = ca.client("alice");
            let crl = ca.crl(&[], Validity::For(4 * limit));
            site.put_ssl("mtls", NAME, &client(&ca.pem(), &crl, "required"));
            let returning = TlsVersion::ALL.map(|version| {
                let client = site.client(NAME).tls(version).cert(&alice);
                let mut conn = client.connect().unwrap();
                assert_eq!(conn.get(NAME, "/x").unwrap().status, 200);
                client.session(&conn.session())
            });
            for (version, client) in TlsVersion::ALL.into_iter().zip(returning) {
                eventually(4 * limit + SOON, "the list ends", || {
                    client.get(NAME, "/x").err().map(drop)
                });
                let refused = ask(&site, version, &alice).unwrap_err();
                assert_eq!(refused, Ended::Alert(CERTIFICATE_EXPIRED));
            }
            expect_reason(&site, "client_crl_stale", "us", "CN=alice");
            // The next list is all it takes.
            let next = ca.crl(&[], Validity::Now);
            site.put_ssl("mtls", NAME, &client(&ca.pem(), &next, "required"));
            assert_eq!(ask(&site, TlsVersion::V13, &alice), Ok(200));
        }
    });
}

#[test]
fn list_that_is_of_no_use_is_refused_and_the_former_stays() {
    let site = Site::start();
    let ca = Ca::root("Client CA");
    let mallory = ca.client("mallory");
    let good = client(&ca.pem(), &ca.crl(&[&mallory], Validity::Now), "required");
    site.put_ssl("mtls", NAME, &good);
    for (crl, text) in [
        (
            Ca::root("Other CA").crl(&[], Validity::Now),
            "signed by none of the CAs",
        ),
        (
            ca.crl(&[], Validity::Expired),
            "put the CA's present list there",
        ),
        (ca.crl(&[], Validity::NotYet), "not valid before"),
        (ca.pem(), "not a block of CERTIFICATE"),
        ("no list ".repeat(20), "give PEM"),
    ] {
        let changed = json!({"client": {"ca": ca.pem(), "crl": crl}});
        let refused = site.gateway.admin("PATCH", "/ssls/mtls");
        let refused = refused.body(changed.to_string()).send().expect_status(400);
        assert!(refused.body.contains("client.crl: "), "{refused:?}");
        assert!(refused.body.contains(text), "{refused:?}");
        let outcome = ask(&site, TlsVersion::V13, &mallory);
        assert_eq!(outcome, Err(Ended::Alert(CERTIFICATE_REVOKED)));
    }
}

#[test]
fn lists_are_in_force_again_after_a_restart() {
    let site = Site::start();
    let ca = Ca::root("Client CA");
    let (alice, mallory) = (ca.client("alice"), ca.client("mallory"));
    let crl = ca.crl(&[&mallory], Validity::Now);
    site.put_ssl("mtls", NAME, &client(&ca.pem(), &crl, "required"));
    let site = site.restart(|_| ());
    for version in TlsVersion::ALL {
        assert_eq!(ask(&site, version, &alice), Ok(200));
        let refused = ask(&site, version, &mallory);
        assert_eq!(refused, Err(Ended::Alert(CERTIFICATE_REVOKED)));
    }
}

#[test]
fn upstream_that_is_revoked_is_not_used_any_more() {
    patiently(|limit| {
        let site = Site::start();
        let ca = Ca::root("Upstream CA");
        let pair = ca.issue(&Leaf::server("up.example.com"));
        let origin = Origin::nginx(&Nginx::tls(pair.clone()));
        // This one keeps sessions, and no connection.
        let closing = Origin::nginx(&Nginx {
            directives: "keepalive_timeout 0;".to_owned(),
            ..Nginx::tls(pair.clone())
        });
        let route_to = |origin: &Origin, crl: Option<String>| {
            let mut tls = json!({
                "verify": true, "ca_certs": [ca.pem()], "server_name": "up.example.com",
            });
            if let Some(crl) = crl {
                tls["crl"] = json!(crl);
            }
            let upstream = json!({"scheme": "https", "nodes": {origin.node(): 1}, "tls": tls});
            let document = json!({"uri": "/*", "upstream": upstream});
            site.gateway.configure("/routes/all", &document);
        };
        let route = |crl| route_to(&origin, crl);
        let mut conn = site.gateway.connect();
        let mut ask = || conn.get("any.example.com", "/", &[]);
        route(None);
        ask().expect_status(200);
        route(Some(ca.crl(&[], Validity::Now)));
        ask().expect_status(200);
        // The connection that is kept was opened when it was none yet.
        route(Some(ca.crl(&[&pair], Validity::Now)));
        ask().expect_status(502);
        let reason = |reason: &str| {
            site.gateway
                .expect_record(reason, |record| record["reason"] == reason);
        };
        reason("upstream_cert_revoked");
        // A session is resumed without a look at the certificate: not once the list has ended.
        let brief = ca.crl(&[], Validity::For(2 * limit));
        route_to(&closing, Some(brief));
        for reused in [".", "r"] {
            assert_eq!(seen(&ask().expect_status(200).text(), "reused"), reused);
        }
        eventually(2 * limit + SOON, "the list ends", || {
            (ask().status == 502).then_some(())
        });
        reason("upstream_crl_stale");
        route(Some(ca.crl(&[], Validity::Now)));
        ask().expect_status(200);
    });
}
