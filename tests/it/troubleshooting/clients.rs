//! Between clients and the gateway: the recipe's table, with curl as its client.

use serde_json::{Value, json};

use super::expect_exactly;
use crate::support::client::{Curl, CurlOutcome};
use crate::support::gateway::{Gateway, Setup};
use crate::support::origin::seen;
use crate::support::pki::{Ca, Leaf, Pair, PairFiles, Validity};
use crate::support::site::Site;
use crate::support::upstream::record_of;
use crate::support::{SOON, TlsVersion, eventually};

/// The recipe's name.
const NAME: &str = "api.example.com";

/// curl's exit codes for how TLS ends.
mod exit {
    /// An alert met in the handshake.
    pub(super) const HANDSHAKE: i32 = 35;
    /// An alert met on the first read, where TLS 1.3 tells of a client's certificate.
    pub(super) const FIRST_READ: i32 = 56;
    /// The server's certificate is not trusted.
    pub(super) const UNTRUSTED: i32 = 60;
}

fn version_of(version: TlsVersion) -> &'static str {
    match version {
        TlsVersion::V12 => "TLSv1.2",
        TlsVersion::V13 => "TLSv1.3",
    }
}

/// `a6 ssl create`, with the CA for client verification.
fn put_mutual(site: &Site, ca: &str) {
    site.put_ssl("mtls-domain", NAME, &json!({"client": {"ca": ca}}));
}

fn ask(site: &Site, path: &str, version: TlsVersion, files: Option<&PairFiles>) -> CurlOutcome {
    let curl = site.ask(NAME, path).tls(version);
    match files {
        Some(files) => curl.cert(files).send(),
        None => curl.send(),
    }
}

/// How many records of this reason there are.
fn count(gateway: &Gateway, reason: &str) -> usize {
    let of_reason = |record: &&Value| record["reason"] == reason;
    gateway.records().iter().filter(of_reason).count()
}

/// Does what ends in a handshake refused for this reason, and gives the record of it.
#[track_caller]
fn refused(
    site: &Site,
    reason: &str,
    exit_code: i32,
    provoke: impl FnOnce() -> CurlOutcome,
) -> Value {
    let before = count(&site.gateway, reason);
    let outcome = provoke();
    assert_eq!(
        (outcome.status, outcome.exit_code),
        (None, exit_code),
        "{outcome:?}"
    );
    eventually(SOON, reason, || {
        let records = site.gateway.records();
        let mut of_reason = records
            .into_iter()
            .filter(|record| record["reason"] == reason);
        of_reason.nth(before)
    })
}

/// What a record of a refused handshake says; `pair` is what the client showed.
fn handshake(reason: &str, detail: Option<&str>, shown: Option<(&Pair, &str, &str)>) -> Value {
    let mut expected = json!({
        "kind": "handshake",
        "listener": "https",
        "sni": NAME,
        "reason": reason,
        "blame": "client",
        "ssl_id": "mtls-domain",
    });
    if let Some(detail) = detail {
        expected["detail"] = detail.into();
    }
    if let Some((pair, subject, issuer)) = shown {
        expected["client_subject"] = subject.into();
        expected["client_issuer"] = issuer.into();
        expected["client_serial"] = pair.serial().into();
    }
    expected
}

/// What the record of a request that was served says.
#[track_caller]
fn expect_served_record(
    site: &Site,
    path: &str,
    version: TlsVersion,
    shown: Option<(&Pair, &str, &str)>,
) {
    let record = record_of(&site.gateway, path);
    let node = record["node"].clone();
    let mut expected = handshake("", None, shown);
    let members = expected.as_object_mut().unwrap();
    members.shift_remove("reason");
    members.shift_remove("blame");
    for (member, value) in [
        ("kind", json!("request")),
        (
            "authority",
            json!(format!("{NAME}:{}", site.gateway.https_port())),
        ),
        ("method", json!("GET")),
        ("path", json!(path)),
        ("status", json!(200)),
        ("tls_version", json!(version_of(version))),
        ("resumed", json!(false)),
        ("route_id", json!("all")),
        ("upstream_id", json!("all")),
        ("node", node),
    ] {
        members.insert(member.to_owned(), value);
    }
    expect_exactly(&record, &expected);
}

/// "SSL handshake failure (client side): client cert not signed by the CA in `client.ca`".
#[test]
fn client_certificate_of_another_ca_is_refused_until_its_ca_is_the_one_listed() {
    let site = Site::start();
    let (ca, other) = (Ca::root("Client CA"), Ca::root("Other CA"));
    let (alice, mallory) = (ca.client("alice"), other.client("mallory"));
    let alone = Leaf::client("self-signed").self_signed();
    let alice_files = site.write(&alice, "alice");
    for version in TlsVersion::ALL {
        let exit_code = match version {
            TlsVersion::V12 => exit::HANDSHAKE,
            TlsVersion::V13 => exit::FIRST_READ,
        };
        put_mutual(&site, &ca.pem());
        for (pair, subject, issuer, stem, flaw) in [
            (
                &mallory,
                "CN=mallory",
                "CN=Other CA",
                "mallory",
                "unable to get local issuer certificate",
            ),
            (
                &alone,
                "CN=self-signed",
                "CN=self-signed",
                "alone",
                "self-signed certificate",
            ),
        ] {
            let files = site.write(pair, stem);
            let record = refused(&site, "client_cert_unknown_ca", exit_code, || {
                let outcome = ask(&site, "/x", version, Some(&files));
                assert!(outcome.stderr.contains("alert unknown ca"), "{outcome:?}");
                outcome
            });
            let shown = Some((pair, subject, issuer));
            let detail = format!("certificate verify failed: {flaw}");
            let detail = Some(detail.as_str());
            expect_exactly(&record, &handshake("client_cert_unknown_ca", detail, shown));
        }
        let path = format!("/alice-{version:?}");
        ask(&site, &path, version, Some(&alice_files)).expect_status(200);
        expect_served_record(
            &site,
            &path,
            version,
            Some((&alice, "CN=alice", "CN=Client CA")),
        );

        // The fix: the right CA. A self-signed certificate is its own.
        for (ca, pair, subject, issuer, stem) in [
            (
                other.pem(),
                &mallory,
                "CN=mallory",
                "CN=Other CA",
                "mallory",
            ),
            (
                alone.cert.clone(),
                &alone,
                "CN=self-signed",
                "CN=self-signed",
                "alone",
            ),
        ] {
            put_mutual(&site, &ca);
            let path = format!("/{stem}-{version:?}");
            let files = site.write(pair, stem);
            ask(&site, &path, version, Some(&files)).expect_status(200);
            expect_served_record(&site, &path, version, Some((pair, subject, issuer)));
            // Its record is awaited, or the next one would be taken for it.
            refused(&site, "client_cert_unknown_ca", exit_code, || {
                ask(&site, "/x", version, Some(&alice_files))
            });
        }
    }
}

/// "no required SSL certificate: client didn't send a certificate". Configure it to (`--cert`).
#[test]
fn client_without_a_certificate_is_told_so_until_it_presents_one() {
    let site = Site::start();
    let ca = Ca::root("Client CA");
    let alice = ca.client("alice");
    let files = site.write(&alice, "alice");
    for version in TlsVersion::ALL {
        let (exit_code, said) = match version {
            // TLS 1.2 has no alert of its own for this (RFC 5246 §7.4.6).
            TlsVersion::V12 => (exit::HANDSHAKE, "alert handshake failure"),
            TlsVersion::V13 => (exit::FIRST_READ, "alert certificate required"),
        };
        put_mutual(&site, &ca.pem());
        let record = refused(&site, "client_cert_missing", exit_code, || {
            let outcome = ask(&site, "/x", version, None);
            assert!(outcome.stderr.contains(said), "{outcome:?}");
            outcome
        });
        let detail = Some("peer did not return a certificate");
        expect_exactly(&record, &handshake("client_cert_missing", detail, None));
        let path = format!("/with-{version:?}");
        ask(&site, &path, version, Some(&files)).expect_status(200);
        expect_served_record(
            &site,
            &path,
            version,
            Some((&alice, "CN=alice", "CN=Client CA")),
        );

        // The words of the table are nginx's, for a handshake that goes on to a request.
        let deferred = json!({"client": {"ca": ca.pem(), "mode": "deferred"}});
        site.put_ssl("mtls-domain", NAME, &deferred);
        let path = format!("/deferred-{version:?}");
        let told = ask(&site, &path, version, None).expect_status(400);
        assert!(
            told.body.contains("No required SSL certificate was sent"),
            "{told:?}"
        );
        let mut expected = handshake("client_cert_missing", None, None);
        for (member, value) in [
            ("kind", json!("request")),
            (
                "authority",
                json!(format!("{NAME}:{}", site.gateway.https_port())),
            ),
            ("method", json!("GET")),
            ("path", json!(path)),
            ("status", json!(400)),
            ("tls_version", json!(version_of(version))),
            ("resumed", json!(false)),
        ] {
            expected[member] = value;
        }
        expect_exactly(&record_of(&site.gateway, &path), &expected);
        ask(&site, "/x", version, Some(&files)).expect_status(200);
    }
}

/// "Certificate expired: TLS cert past validity date": the client's.
#[test]
fn expired_client_certificate_is_refused_until_the_client_has_a_new_one() {
    let site = Site::start();
    let ca = Ca::root("Client CA");
    put_mutual(&site, &ca.pem());
    let expired = ca.issue(&Leaf {
        validity: Validity::Expired,
        ..Leaf::client("alice")
    });
    let old = site.write(&expired, "old");
    let new = site.write(&ca.client("alice"), "new");
    for version in TlsVersion::ALL {
        let exit_code = match version {
            // curl takes this alert for a verdict of its own.
            TlsVersion::V12 => exit::UNTRUSTED,
            TlsVersion::V13 => exit::FIRST_READ,
        };
        let record = refused(&site, "client_cert_expired", exit_code, || {
            ask(&site, "/x", version, Some(&old))
        });
        let shown = Some((&expired, "CN=alice", "CN=Client CA"));
        let detail = Some("certificate verify failed: certificate has expired");
        expect_exactly(&record, &handshake("client_cert_expired", detail, shown));
        ask(&site, "/x", version, Some(&new)).expect_status(200);
    }
}

/// "Rotate certificate with `a6 ssl update`": the gateway's own, with certificate, key and client
/// alone, as the recipe rotates it.
#[test]
fn expired_server_certificate_is_told_when_written_and_good_again_after_its_rotation() {
    let site = Site::start();
    let ca = Ca::root("Client CA");
    let client = json!({"client": {"ca": ca.pem()}});
    let files = site.write(&ca.client("alice"), "alice");
    let dated = |validity| {
        site.ca.issue(&Leaf {
            validity,
            ..Leaf::server(NAME)
        })
    };
    for version in TlsVersion::ALL {
        let expired = dated(Validity::Expired);
        let written = site.put_ssl_with("mtls-domain", NAME, &expired, &client);
        assert!(written.head.contains("certificate_expired"), "{written:?}");
        let record = refused(&site, "client_handshake_failed", exit::UNTRUSTED, || {
            let outcome = ask(&site, "/x", version, Some(&files));
            assert!(
                outcome.stderr.contains("certificate has expired"),
                "{outcome:?}"
            );
            outcome
        });
        let detail = Some("alert certificate expired");
        expect_exactly(&record, &handshake("client_handshake_failed", detail, None));

        let new = dated(Validity::Now);
        let rotation = json!({"cert": new.cert, "key": new.key, "client": {"ca": ca.pem()}});
        let rotated = site.gateway.admin_put("/ssls/mtls-domain", &rotation);
        assert!(
            !rotated
                .expect_status(200)
                .head
                .contains("certificate_expired")
        );
        ask(&site, "/x", version, Some(&files)).expect_status(200);
    }
}

/// "SNI mismatch: domain doesn't match `snis` list". Add the domain to the `snis` array.
#[test]
fn domain_that_no_ssl_names_is_refused_until_it_is_in_snis() {
    let site = Site::start();
    let pair = site.ca.issue(&Leaf {
        dns_names: vec![NAME.to_owned(), "www.example.com".to_owned()],
        ..Leaf::server(NAME)
    });
    for version in TlsVersion::ALL {
        site.put_ssl_with("web", "www.example.com", &pair, &json!({}));
        let record = refused(&site, "sni_unknown", exit::HANDSHAKE, || {
            let outcome = ask(&site, "/x", version, None);
            assert!(outcome.stderr.contains("unrecognized name"), "{outcome:?}");
            outcome
        });
        let mut expected = handshake("sni_unknown", None, None);
        expected.as_object_mut().unwrap().shift_remove("ssl_id");
        expect_exactly(&record, &expected);

        let names = json!({"snis": ["www.example.com", NAME]});
        site.put_ssl_with("web", NAME, &pair, &names);
        ask(&site, "/x", version, None).expect_status(200);
    }
}

/// "unable to verify: self-signed cert without proper CA trust". Use `--cacert`.
#[test]
fn client_that_does_not_trust_us_leaves_with_an_alert_until_it_has_the_ca() {
    let site = Site::start();
    let alone = Leaf::server(NAME).self_signed();
    let trusted = site.write(&alone, "alone").cert;
    site.put_ssl_with("mtls-domain", NAME, &alone, &json!({}));
    for version in TlsVersion::ALL {
        let curl = || site.gateway.https(NAME, "/x").tls(version);
        let record = refused(&site, "client_handshake_failed", exit::UNTRUSTED, || {
            curl().send()
        });
        let detail = Some("alert unknown ca");
        expect_exactly(&record, &handshake("client_handshake_failed", detail, None));
        curl().cacert(&trusted).send().expect_status(200);
    }
}

/// "Mixed HTTP/HTTPS: route accessible on both ports". It is not, unless the config says so; and
/// the table's own fix, no plain listener at all, is a setting.
#[test]
fn route_of_a_name_with_client_certificates_is_not_reachable_in_the_clear() {
    let ca = Ca::root("Client CA");
    let alice = ca.client("alice");
    for (names, status) in [("refuse", 421), ("allow", 200)] {
        let site = Site::with(Setup::default().set("http.client_auth_names", names));
        put_mutual(&site, &ca.pem());
        let files = site.write(&alice, "alice");
        for version in TlsVersion::ALL {
            let path = format!("/{version:?}");
            let plain = Curl::new(&site.gateway.http_url(&path)).header(&format!("Host: {NAME}"));
            let plain = plain.send().expect_status(status);
            assert_eq!(plain.body.contains("uri="), status == 200, "{plain:?}");
            if status == 421 {
                let mut expected = handshake("authority_policy_mismatch", None, None);
                let members = expected.as_object_mut().unwrap();
                members.shift_remove("sni");
                members.shift_remove("ssl_id");
                for (member, value) in [
                    ("kind", json!("request")),
                    ("listener", json!("http")),
                    ("authority", json!(NAME)),
                    ("method", json!("GET")),
                    ("path", json!(path)),
                    ("status", json!(421)),
                    (
                        "detail",
                        json!(
                            "mtls-domain asks for client certificates, the request came in the clear"
                        ),
                    ),
                ] {
                    members.insert(member.to_owned(), value);
                }
                let record = record_of(&site.gateway, &path);
                expect_exactly(&record, &expected);
            }
            let path = format!("/tls-{version:?}");
            let served = ask(&site, &path, version, Some(&files)).expect_status(200);
            assert_eq!(seen(&served.body, "uri"), path);
        }
    }
    let site = Site::with(Setup::default().set("http.listen", "[]"));
    put_mutual(&site, &ca.pem());
    let files = site.write(&alice, "alice");
    let is_open = |record: &Value| record["listener"] == "http" && record["message"] == "listening";
    assert!(!site.gateway.logs().iter().any(is_open));
    for version in TlsVersion::ALL {
        ask(&site, "/x", version, Some(&files)).expect_status(200);
    }
}
