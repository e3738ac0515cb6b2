//! Certificates and keys that are refused: the member is named, nothing is stored, and what was
//! served is served still.

use serde_json::{Value, json};

use super::{Door, error_msg, ssl};
use crate::support::TlsVersion;
use crate::support::client::shown_serial;
use crate::support::gateway::{ADMIN_KEY, Gateway};
use crate::support::pki::{Ca, KeyKind, Leaf, Pair, Validity};

const NAME: &str = "api.example.com";

/// The pointers of all faults that `/portcullis/v1/validate` finds.
#[track_caller]
fn pointers(gateway: &Gateway, document: &Value) -> Vec<String> {
    let outcome = Door::Plain
        .ask_bare(gateway, "/portcullis/v1/validate/ssls")
        .header(&format!("X-API-KEY: {ADMIN_KEY}"))
        .body(document.to_string())
        .send()
        .expect_status(400);
    let body = outcome.json();
    let faults = body["faults"].as_array().unwrap();
    faults
        .iter()
        .map(|fault| fault["pointer"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn bad_certificate_or_key_is_refused_by_name_and_the_old_pair_serves_on() {
    let gateway = Gateway::start();
    let ca = Ca::root("CA");
    let (good, other) = (ca.server(NAME), ca.server(NAME));
    let rsa = ca.issue(&Leaf {
        key: KeyKind::Rsa,
        ..Leaf::server(NAME)
    });
    let garbled_ca = json!({"cert": good.cert, "key": good.key, "snis": [NAME], "client": {"ca": "no certificate".repeat(20)}});
    gateway
        .admin_put("/ssls/1", &ssl(&good, NAME))
        .expect_status(201);
    let before = gateway.admin_get("/ssls/1").json();
    let garbage = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n".repeat(4);
    let pair = |cert: &str, key: &str| Pair {
        cert: cert.to_owned(),
        key: key.to_owned(),
    };
    let mismatch = "the private key does not belong to the certificate";
    for (document, pointer, text) in [
        (
            ssl(&pair(&garbage, &good.key), NAME),
            "/cert",
            "failed to parse cert: PEM_read_bio_X509_AUX() failed",
        ),
        (
            ssl(&pair(&good.cert, &garbage), NAME),
            "/key",
            "failed to parse key: PEM_read_bio_PrivateKey() failed",
        ),
        (ssl(&pair(&good.cert, &other.key), NAME), "/key", mismatch),
        (ssl(&pair(&good.cert, &rsa.key), NAME), "/key", mismatch),
        (
            ssl(&pair(&good.key, &good.cert), NAME),
            "/cert",
            "`cert` holds a private key; put it into `key`",
        ),
        (
            garbled_ca,
            "/client/ca",
            "failed to validate client_cert: failed to parse cert: PEM_read_bio_X509_AUX() failed",
        ),
        (
            json!({"cert": good.cert, "key": good.key, "snis": [NAME], "certs": [rsa.cert], "keys": [other.key]}),
            "/keys/0",
            "failed to handle cert-key pair[1]: the private key does not belong to the certificate",
        ),
        (
            json!({"cert": good.cert, "key": good.key, "snis": [NAME], "certs": [rsa.cert], "keys": []}),
            "/keys",
            "mismatched number of certs and keys",
        ),
    ] {
        for door in Door::ALL {
            let refused = door.put(&gateway, "/ssls/1", &document).expect_status(400);
            let found = error_msg(&refused);
            assert!(found.starts_with(text), "{found}\n{text}");
            let told = refused.json();
            let hint = told["hint"].as_str();
            // Words of APISIX's stand alone; ours name the member.
            assert!(hint.is_none() || found == text, "{found}");
            let said = format!("{found} ({}", hint.unwrap_or_default());
            assert!(
                said.contains(&format!("(at {pointer}"))
                    || text.contains(pointer.trim_start_matches('/')),
                "{said}"
            );
            for pair in [&good, &other, &rsa] {
                assert!(
                    pair.key_lines()
                        .iter()
                        .all(|line| !refused.body.contains(line))
                );
            }
            door.put(&gateway, "/ssls/new", &document)
                .expect_status(400);
        }
        assert_eq!(
            pointers(&gateway, &document).first().map(String::as_str),
            Some(pointer)
        );
        assert_eq!(gateway.admin_get("/ssls/1").json(), before);
        gateway.admin_get("/ssls/new").expect_status(404);
        for version in TlsVersion::ALL {
            assert_eq!(
                shown_serial(gateway.https_port(), NAME, version),
                Some(good.serial())
            );
        }
    }
    gateway
        .admin_put("/ssls/1", &ssl(&rsa, NAME))
        .expect_status(200);
    for version in TlsVersion::ALL {
        assert_eq!(
            shown_serial(gateway.https_port(), NAME, version),
            Some(rsa.serial())
        );
    }
}

#[test]
fn keys_are_taken_in_each_pem_form_and_with_windows_line_ends() {
    let gateway = Gateway::start();
    let ca = Ca::root("CA");
    for (kind, crlf) in [
        (KeyKind::P256, false),
        (KeyKind::P256Sec1, false),
        (KeyKind::Rsa, true),
        (KeyKind::RsaPkcs1, false),
    ] {
        let mut pair = ca.issue(&Leaf {
            key: kind,
            ..Leaf::server(NAME)
        });
        let serial = pair.serial();
        if crlf {
            pair.cert = pair.cert.replace('\n', "\r\n");
            pair.key = pair.key.replace('\n', "\r\n");
        }
        let taken = gateway.admin_put("/ssls/1", &ssl(&pair, NAME));
        assert!(matches!(taken.status, Some(200 | 201)), "{taken:?}");
        for version in TlsVersion::ALL {
            assert_eq!(
                shown_serial(gateway.https_port(), NAME, version),
                Some(serial.clone())
            );
        }
    }
}

#[test]
fn upstream_s_bad_material_is_refused_and_its_good_twin_taken() {
    let gateway = Gateway::start();
    let ca = Ca::root("CA");
    let (pair, other) = (ca.client("a"), ca.client("b"));
    let with = |tls: Value| json!({"scheme": "https", "nodes": {"127.0.0.1:1": 1}, "tls": tls});
    let good = with(
        json!({"client_cert": pair.cert, "client_key": pair.key, "verify": true, "ca_certs": [ca.pem()]}),
    );
    for tls in [
        json!({"client_cert": pair.cert, "client_key": other.key}),
        json!({"client_cert": pair.cert}),
        json!({"client_key": pair.key}),
        json!({"verify": true}),
        json!({"verify": true, "ca_certs": []}),
        json!({"verify": true, "ca_certs": ["x".repeat(200)]}),
    ] {
        for (path, document) in [
            ("/upstreams/u", with(tls.clone())),
            ("/services/s", json!({"upstream": with(tls.clone())})),
            (
                "/routes/r",
                json!({"uri": "/", "upstream": with(tls.clone())}),
            ),
        ] {
            gateway.admin_put(path, &document).expect_status(400);
            gateway.admin_get(path).expect_status(404);
        }
    }
    gateway.admin_put("/upstreams/u", &good).expect_status(201);
    gateway
        .admin_put("/services/s", &json!({"upstream": good}))
        .expect_status(201);
    gateway
        .admin_put("/routes/r", &json!({"uri": "/", "upstream": good}))
        .expect_status(201);
}

#[test]
fn expired_leaf_is_taken_with_a_warning_and_an_expired_ca_is_not() {
    let gateway = Gateway::start();
    let ca = Ca::root("CA");
    let expired = ca.issue(&Leaf {
        validity: Validity::Expired,
        ..Leaf::server(NAME)
    });
    let warning = |pair: &Pair| {
        let taken = gateway.admin_put("/ssls/1", &ssl(pair, NAME));
        assert!(matches!(taken.status, Some(200 | 201)), "{taken:?}");
        taken.header("x-portcullis-warning").map(str::to_owned)
    };
    let text = warning(&expired).expect("a warning");
    assert!(text.starts_with("certificate_expired /cert "), "{text}");
    assert_eq!(warning(&ca.server(NAME)), None);

    let mut document = ssl(&ca.server(NAME), NAME);
    document["client"] = json!({"ca": expired.cert});
    let refused = gateway.admin_put("/ssls/1", &document).expect_status(400);
    assert!(error_msg(&refused).contains("expired on"), "{refused:?}");
}
