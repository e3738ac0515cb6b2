//! Keys and credentials through the Admin API: shown as placeholders, kept, never taken sealed.

use openssl::hash::{MessageDigest, hash};
use openssl::x509::X509;
use serde_json::{Value, json};

use crate::support::TlsVersion;
use crate::support::client::{Curl, CurlOutcome, shown_serial};
use crate::support::gateway::{Gateway, Setup};
use crate::support::origin::{Nginx, Origin, seen};
use crate::support::pki::{Ca, KeyKind, Leaf, Pair};

const NAME: &str = "api.example.com";

/// What stands for a pair's key: the digest of its public part.
fn placeholder(pair: &Pair) -> String {
    let cert = X509::from_pem(pair.cert.as_bytes()).unwrap();
    let public = cert.public_key().unwrap().public_key_to_der().unwrap();
    let digest = hash(MessageDigest::sha256(), &public).unwrap();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("$withheld:sha256:{hex}")
}

fn show(gateway: &Gateway, path: &str) -> Value {
    let request = gateway
        .admin("GET", path)
        .header("X-Portcullis-Withheld: show");
    request.send().expect_status(200).json()["value"].clone()
}

#[track_caller]
fn error_msg(outcome: &CurlOutcome) -> String {
    outcome.json()["error_msg"]
        .as_str()
        .expect("an error_msg")
        .to_owned()
}

/// What a client puts back after reading: the value without what only the gateway sets.
fn editable(mut value: Value) -> Value {
    for member in ["create_time", "update_time"] {
        value.as_object_mut().unwrap().shift_remove(member);
    }
    value
}

#[test]
fn keys_show_as_the_digest_of_their_public_part() {
    let gateway = Gateway::start();
    let ca = Ca::root("CA");
    let (server, ours) = (ca.server(NAME), ca.client("ours"));
    let rsa = ca.issue(&Leaf {
        key: KeyKind::Rsa,
        ..Leaf::server(NAME)
    });
    let ssl = json!({"cert": server.cert, "key": server.key, "certs": [rsa.cert], "keys": [rsa.key], "snis": [NAME]});
    let written = gateway.admin_put("/ssls/1", &ssl).expect_status(201).json()["value"].clone();
    let with = show(&gateway, "/ssls/1");
    for value in [&written, &with] {
        assert_eq!(value["key"], placeholder(&server));
        assert_eq!(value["keys"], json!([placeholder(&rsa)]));
    }
    // Reads and lists leave an ssl's keys out, as APISIX does.
    let one = gateway.admin_get("/ssls/1").json()["value"].clone();
    let list = gateway.admin_get("/ssls").json()["list"][0]["value"].clone();
    for value in [one, list] {
        assert!(
            value.get("key").is_none() && value.get("keys").is_none(),
            "{value}"
        );
        assert_eq!(value["cert"], server.cert);
    }

    let upstream = json!({"scheme": "https", "nodes": {"127.0.0.1:1": 1},
        "tls": {"client_cert": ours.cert, "client_key": ours.key}});
    for (path, document, at) in [
        ("/upstreams/1", upstream.clone(), "/tls/client_key"),
        (
            "/services/1",
            json!({"upstream": upstream}),
            "/upstream/tls/client_key",
        ),
        (
            "/routes/1",
            json!({"uri": "/", "upstream": upstream}),
            "/upstream/tls/client_key",
        ),
    ] {
        let written = gateway.admin_put(path, &document).expect_status(201).json()["value"].clone();
        let read = gateway.admin_get(path).json()["value"].clone();
        for value in [written, read, show(&gateway, path)] {
            assert_eq!(value.pointer(at), Some(&json!(placeholder(&ours))));
        }
    }
}

#[test]
fn credentials_show_an_id_that_a_restart_does_not_change() {
    let setup = Setup::default();
    let gateway = setup.clone().start();
    let gcp = ca_key();
    for (id, document, at) in [
        (
            "vault/1",
            json!({"uri": "http://v", "prefix": "p", "token": "s.canary"}),
            "/token",
        ),
        (
            "vault/2",
            json!({"uri": "http://v", "prefix": "p", "token": "s.canary"}),
            "/token",
        ),
        (
            "aws/1",
            json!({"access_key_id": "a", "secret_access_key": "s.canary", "session_token": "t.canary"}),
            "/secret_access_key",
        ),
        (
            "gcp/1",
            json!({"auth_config": {"client_email": "e", "project_id": "p", "private_key": gcp}}),
            "/auth_config/private_key",
        ),
    ] {
        let path = format!("/secrets/{id}");
        let written = gateway.admin_put(&path, &document).expect_status(201);
        assert!(!written.body.contains("canary"), "{written:?}");
        let shown = written.json()["value"].pointer(at).unwrap().clone();
        assert!(shown.as_str().unwrap().starts_with("$withheld:"), "{shown}");
        for read in [
            gateway.admin_get(&path).json()["value"].clone(),
            show(&gateway, &path),
        ] {
            assert_eq!(read.pointer(at), Some(&shown));
        }
    }
    let token = |gateway: &Gateway, id: &str| {
        show(gateway, &format!("/secrets/vault/{id}"))["token"].clone()
    };
    // Equal secrets of two objects do not show as equal.
    assert_ne!(token(&gateway, "1"), token(&gateway, "2"));
    let before = token(&gateway, "1");
    gateway.stop();
    assert_eq!(token(&setup.start(), "1"), before);
}

fn ca_key() -> String {
    Ca::root("CA").server(NAME).key
}

#[test]
fn references_are_shown_as_they_are() {
    let gateway = Gateway::start();
    let pair = Ca::root("CA").server(NAME);
    let ssl = json!({"cert": pair.cert, "key": "$secret://vault/1/a/key", "snis": [NAME]});
    let taken = gateway.admin_put("/ssls/1", &ssl).expect_status(201);
    assert_eq!(taken.json()["value"]["key"], "$secret://vault/1/a/key");
    let warning = taken.header("x-portcullis-warning").unwrap_or_default();
    assert!(warning.starts_with("secret_unresolved "), "{taken:?}");
    assert_eq!(show(&gateway, "/ssls/1")["key"], "$secret://vault/1/a/key");
    // Its name is closed, and not served by what else there is.
    let all = Ca::root("CA").server("*");
    let catch_all = json!({"cert": all.cert, "key": all.key, "snis": ["*"]});
    gateway
        .admin_put("/ssls/all", &catch_all)
        .expect_status(201);
    for version in TlsVersion::ALL {
        assert_eq!(shown_serial(gateway.https_port(), NAME, version), None);
        assert_eq!(
            shown_serial(gateway.https_port(), "x.test", version),
            Some(all.serial())
        );
    }
}

#[test]
fn what_was_read_can_be_edited_and_put_back_with_its_key_kept() {
    let gateway = Gateway::start();
    let ca = Ca::root("CA");
    let origin = Origin::nginx(&Nginx::mutual(ca.server("up.example.com"), ca.pem()));
    let (server, ours) = (ca.server(NAME), ca.client("ours"));
    let ssl = json!({"cert": server.cert, "key": server.key, "snis": [NAME]});
    gateway.admin_put("/ssls/1", &ssl).expect_status(201);
    let upstream = json!({"scheme": "https", "nodes": {origin.node(): 1},
        "tls": {"client_cert": ours.cert, "client_key": ours.key}});
    for (path, document) in [
        ("/upstreams/1", upstream.clone()),
        ("/services/1", json!({"upstream": upstream})),
        (
            "/routes/by-id",
            json!({"uri": "/by-id", "upstream_id": "1"}),
        ),
        (
            "/routes/by-service",
            json!({"uri": "/by-service", "service_id": "1"}),
        ),
        (
            "/routes/inline",
            json!({"uri": "/inline", "upstream": upstream}),
        ),
    ] {
        gateway.admin_put(path, &document).expect_status(201);
    }
    for path in ["/ssls/1", "/upstreams/1", "/services/1", "/routes/inline"] {
        let plain = gateway.admin_get(path).json()["value"].clone();
        for read in [plain, show(&gateway, path)] {
            let mut edited = editable(read);
            edited["labels"] = json!({"edited": "yes"});
            let kept = gateway.admin_put(path, &edited).expect_status(200);
            assert_eq!(kept.json()["value"]["labels"]["edited"], "yes");
        }
    }
    assert_eq!(show(&gateway, "/ssls/1")["key"], placeholder(&server));
    for version in TlsVersion::ALL {
        assert_eq!(
            shown_serial(gateway.https_port(), NAME, version),
            Some(server.serial())
        );
    }
    for path in ["/by-id", "/by-service", "/inline"] {
        let served = Curl::new(&gateway.http_url(path)).send().expect_status(200);
        assert_eq!(seen(&served.body, "dn"), "CN=ours", "{path}");
    }
}

#[test]
fn kept_key_must_belong_to_the_certificate_and_to_the_object() {
    let gateway = Gateway::start();
    let ca = Ca::root("CA");
    let (one, two) = (ca.server(NAME), ca.server("two.example.com"));
    let rsa = ca.issue(&Leaf {
        key: KeyKind::Rsa,
        ..Leaf::server(NAME)
    });
    gateway.admin_put(
        "/ssls/1",
        &json!({"cert": one.cert, "key": one.key, "snis": [NAME]}),
    );
    gateway.admin_put(
        "/ssls/2",
        &json!({"cert": two.cert, "key": two.key, "snis": ["two.example.com"]}),
    );
    let put = |document: Value| gateway.admin_put("/ssls/1", &document);
    for (document, words) in [
        (
            json!({"cert": two.cert}),
            "no key stored for this object belongs to the certificate in `/cert`",
        ),
        (
            json!({"cert": two.cert, "key": placeholder(&one)}),
            "belongs to the certificate",
        ),
        (
            json!({"cert": two.cert, "key": placeholder(&two)}),
            "names no key stored for this object",
        ),
        (
            json!({"cert": one.cert, "key": "$withheld:sha256:00"}),
            "names no key stored for this object",
        ),
        (json!({"key": placeholder(&one)}), "send `/cert` too"),
    ] {
        let refused = put(document).expect_status(400);
        assert!(error_msg(&refused).contains(words), "{refused:?}");
    }
    let stranger = json!({"cert": one.cert, "key": placeholder(&one), "snis": [NAME]});
    gateway.admin_put("/ssls/new", &stranger).expect_status(400);
    // Kept, whatever the order, beside one that is sent.
    put(
        json!({"cert": one.cert, "key": placeholder(&one), "certs": [rsa.cert], "keys": [rsa.key]}),
    )
    .expect_status(200);
    put(json!({"cert": rsa.cert, "certs": [one.cert], "keys": [placeholder(&one)]}))
        .expect_status(200);
    put(json!({"cert": rsa.cert})).expect_status(200);
    // The other one is forgotten with that.
    put(json!({"cert": one.cert})).expect_status(400);
    for version in TlsVersion::ALL {
        assert_eq!(
            shown_serial(gateway.https_port(), NAME, version),
            Some(rsa.serial())
        );
        assert_eq!(
            shown_serial(gateway.https_port(), "two.example.com", version),
            Some(two.serial())
        );
    }
}

#[test]
fn credential_is_kept_only_while_it_goes_to_the_same_place() {
    let gateway = Gateway::start();
    let vault = json!({"uri": "http://127.0.0.1:8200", "prefix": "kv", "token": "s.canary"});
    gateway
        .admin_put("/secrets/vault/1", &vault)
        .expect_status(201);
    let mut edited = editable(show(&gateway, "/secrets/vault/1"));
    let token = edited["token"].clone();
    edited["prefix"] = json!("kv2");
    let kept = gateway
        .admin_put("/secrets/vault/1", &edited)
        .expect_status(200);
    assert_eq!(
        (
            &kept.json()["value"]["prefix"],
            &kept.json()["value"]["token"]
        ),
        (&json!("kv2"), &token)
    );

    edited["uri"] = json!("http://evil.test");
    let moved = gateway
        .admin_put("/secrets/vault/1", &edited)
        .expect_status(400);
    assert!(error_msg(&moved).contains("`uri` changed"), "{moved:?}");
    let mut copied = edited.clone();
    copied["id"] = json!("vault/2");
    gateway
        .admin_put("/secrets/vault/2", &copied)
        .expect_status(400);
    gateway.admin_get("/secrets/vault/2").expect_status(404);
    edited["token"] = json!("s.sent-again");
    gateway
        .admin_put("/secrets/vault/1", &edited)
        .expect_status(200);
}

#[test]
fn sealed_value_is_never_taken_from_a_client() {
    let gateway = Gateway::start();
    let ca = Ca::root("CA");
    let pair = ca.server(NAME);
    let sealed = format!("pc1:{}", "x".repeat(200));
    let upstream = |key: &str| json!({"scheme": "https", "nodes": {"127.0.0.1:1": 1}, "tls": {"client_cert": pair.cert, "client_key": key}});
    let documents = |key: &str, token: &str| {
        [
            (
                "/ssls/1",
                json!({"cert": pair.cert, "key": key, "snis": [NAME]}),
            ),
            (
                "/ssls/2",
                json!({"cert": pair.cert, "key": pair.key, "certs": [pair.cert], "keys": [key], "snis": ["b.test"]}),
            ),
            ("/upstreams/1", upstream(key)),
            ("/services/1", json!({"upstream": upstream(key)})),
            ("/routes/1", json!({"uri": "/", "upstream": upstream(key)})),
            (
                "/secrets/vault/1",
                json!({"uri": "http://v", "prefix": "p", "token": token}),
            ),
            (
                "/secrets/aws/1",
                json!({"access_key_id": "a", "secret_access_key": token}),
            ),
        ]
    };
    for (path, document) in documents(&sealed, &sealed) {
        let refused = gateway.admin_put(path, &document).expect_status(400);
        assert!(
            error_msg(&refused).contains("must not begin with `pc1:`"),
            "{path} {refused:?}"
        );
        assert!(!refused.body.contains("xxxx"), "{refused:?}");
        gateway.admin_get(path).expect_status(404);
    }
    for (path, document) in documents(&pair.key, "s.plain") {
        gateway.admin_put(path, &document).expect_status(201);
    }
}

#[test]
fn keys_that_apisix_has_sealed_are_taken_with_its_keyring_only() {
    const RING: &str = "0123456789abcdef";
    let pair = Ca::root("CA").server(NAME);
    let ring = RING.as_bytes();
    let cipher = openssl::symm::Cipher::aes_128_cbc();
    let sealed = openssl::symm::encrypt(cipher, ring, Some(ring), pair.key.as_bytes()).unwrap();
    let sealed = openssl::base64::encode_block(&sealed);
    let ssl = json!({"cert": pair.cert, "key": sealed, "snis": [NAME]});
    let with = |ring: &str| {
        Setup::default()
            .set("data_encryption.keyring", "[$env://RING]")
            .env("RING", ring)
    };
    let gateway = with(RING).start();
    let written = gateway.admin_put("/ssls/1", &ssl).expect_status(201);
    assert_eq!(written.json()["value"]["key"], placeholder(&pair));
    for version in TlsVersion::ALL {
        let shown = shown_serial(gateway.https_port(), NAME, version);
        assert_eq!(shown, Some(pair.serial()));
    }
    for (setup, words) in [
        (
            with("another-key-16-b"),
            "failed to decrypt previous encrypted key",
        ),
        (Setup::default(), "failed to decrypt previous encrypted key"),
    ] {
        let refused = setup.start().admin_put("/ssls/1", &ssl).expect_status(400);
        assert_eq!(error_msg(&refused), words);
        let hint = refused.json()["hint"].to_string();
        assert!(
            hint.starts_with("\"at /key; send the key as PEM")
                && hint.contains("`data_encryption.keyring`"),
            "{hint}"
        );
        assert!(!refused.body.contains(&sealed), "{refused:?}");
    }
    let refused = with("edd1c9f0985e76a2").try_start().unwrap_err().words();
    assert!(refused.contains("publishes as its default"), "{refused}");
}
