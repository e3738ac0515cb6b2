//! Values in a real OpenBao.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use super::{NAME, expect_state, setup, status};
use crate::support::bao::Bao;
use crate::support::client::{Curl, shown_serial};
use crate::support::gateway::{Gateway, Setup};
use crate::support::origin::{Nginx, Origin, TcpOrigin, read_head_from};
use crate::support::pki::{Ca, Pair};
use crate::support::{SOON, SetAtEnd, TlsVersion, eventually};

/// A setup that knows whom this OpenBao's certificate comes from.
fn trusting(bao: &Bao) -> Setup {
    let ca = bao.ca_file().display().to_string();
    setup().set("secrets.vault.trust_file", &ca)
}

/// The manager with this token, values below `mtls`.
fn manager(bao: &Bao, token: &str) -> Value {
    json!({"uri": bao.url(), "prefix": "secret/mtls", "kv_version": "kv-v2", "token": token})
}

fn members(pair: &Pair, ca: &Ca) -> Value {
    json!({"cert": pair.cert, "key": pair.key, "ca": ca.pem()})
}

/// The first document's service, with every PEM replaced by a reference.
fn service(origin: &Origin) -> Value {
    json!({
        "name": "upstream-mtls",
        "upstream": {
            "type": "roundrobin", "scheme": "https", "pass_host": "rewrite",
            "upstream_host": "upstream.test.local",
            "nodes": {origin.node(): 1},
            "tls": {
                "client_cert": "$secret://vault/1/up/cert",
                "client_key": "$secret://vault/1/up/key",
                "verify": true,
                "ca_certs": ["$secret://vault/1/up/ca"]
            }
        }
    })
}

#[track_caller]
fn expect_serial(gateway: &Gateway, pair: Option<&Pair>) {
    let serial = pair.map(Pair::serial);
    for version in TlsVersion::ALL {
        eventually(SOON, "the certificate is shown", || {
            (shown_serial(gateway.https_port(), NAME, version) == serial).then_some(())
        });
    }
}

#[test]
fn first_document_by_reference_is_rotated_and_outlives_its_manager_without_a_failed_request() {
    let mut bao = Bao::start();
    let ca = Ca::root("CA");
    let ours = |number: usize| ca.client(&format!("gateway-{number}-"));
    bao.write("mtls/up", &members(&ours(0), &ca));
    let origin = Origin::nginx(&Nginx::mutual(ca.server("upstream.test.local"), ca.pem()));
    let gateway = trusting(&bao).start();
    gateway.configure("/secrets/vault/1", &manager(&bao, &bao.token("1h")));
    let taken = gateway.admin_put("/services/upstream-mtls", &service(&origin));
    let taken = taken.expect_status(201);
    assert_eq!(taken.header("x-portcullis-warning"), None, "{taken:?}");
    gateway.configure(
        "/routes/upstream-mtls",
        &json!({"service_id": "upstream-mtls", "uri": "/*"}),
    );
    let url = gateway.http_url("/anything");
    let seen = || Curl::new(&url).send().expect_status(200).body;
    assert!(seen().contains("gateway-0-"));
    let (is_over, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let _over = SetAtEnd(&is_over);
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    seen();
                    asked.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let at = "/upstream/tls/client_key";
        for number in 1..6 {
            bao.write("mtls/up", &members(&ours(number), &ca));
            let name = format!("gateway-{number}-");
            eventually(SOON, "the upstream sees it", || {
                seen().contains(&name).then_some(())
            });
        }
        // Killed: what was read last stays in force.
        bao.kill();
        expect_state(&gateway, "services", "upstream-mtls", at, "stale");
        assert!(seen().contains("gateway-5-"));
        // Back, but sealed.
        bao.start_again();
        eventually(SOON, "it is told that it is sealed", || {
            let row = status(&gateway, "services", "upstream-mtls", at)?;
            row["last_error"].as_str()?.contains("sealed").then_some(())
        });
        assert!(seen().contains("gateway-5-"));
        bao.unseal();
        expect_state(&gateway, "services", "upstream-mtls", at, "ok");
        bao.write("mtls/up", &members(&ours(6), &ca));
        eventually(SOON, "the upstream sees it", || {
            seen().contains("gateway-6-").then_some(())
        });
        // Sealed, and refused: the same.
        bao.seal();
        expect_state(&gateway, "services", "upstream-mtls", at, "stale");
        bao.unseal();
        expect_state(&gateway, "services", "upstream-mtls", at, "ok");
        bao.must("DELETE", "sys/policies/acl/reader", &Value::Null);
        eventually(SOON, "it is told that it is refused", || {
            let row = status(&gateway, "services", "upstream-mtls", at)?;
            row["last_error"]
                .as_str()?
                .contains("permission denied")
                .then_some(())
        });
        assert!(seen().contains("gateway-6-"));
        bao.allow_reading();
        expect_state(&gateway, "services", "upstream-mtls", at, "ok");
        eventually(SOON, "requests were served all the while", || {
            (asked.load(Ordering::SeqCst) > 10).then_some(())
        });
    });
}

#[test]
fn recipes_bare_form_takes_the_operators_token_to_listed_origins_only() {
    let bao = Bao::start();
    let ca = Ca::root("CA");
    let pair = ca.server(NAME);
    bao.write("mtls", &members(&pair, &ca));
    let token = bao.token("1h");
    let gateway = trusting(&bao)
        .set("secrets.vault.origins", &format!("[{:?}]", bao.url()))
        .env("VAULT_TOKEN", &token)
        .start();
    let uri = format!("{}/v1/secret/data/mtls", bao.url());
    let secret = json!({"id": "vault/mtls-certs", "uri": uri});
    gateway.configure("/secrets/vault/mtls-certs", &secret);
    let ssl = json!({
        "cert": "$secret://vault/mtls-certs/cert",
        "key": "$secret://vault/mtls-certs/key",
        "snis": [NAME],
        "client": {"ca": "$secret://vault/mtls-certs/ca"}
    });
    gateway.configure("/ssls/web", &ssl);
    for version in TlsVersion::ALL {
        let client = gateway.tls(NAME, version);
        assert!(client.get(NAME, "/").is_err(), "without a certificate");
        let answer = client.cert(&ca.client("ours")).get(NAME, "/").unwrap();
        assert_eq!(answer.status, 404);
    }
    // Whoever may write a secret does not learn the token by its address.
    let trap = TcpListener::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let elsewhere = format!("http://{}/v1/secret/data/mtls", trap.local_addr().unwrap());
    gateway.configure("/secrets/vault/trap", &json!({"uri": elsewhere}));
    let caught = ca.server("x.test").cert;
    let caught = json!({"cert": caught, "key": "$secret://vault/trap/key", "snis": ["x.test"]});
    let taken = gateway.admin_put("/ssls/trap", &caught).expect_status(201);
    let warning = taken.header("x-portcullis-warning").unwrap_or_default();
    assert!(
        warning.starts_with("secret_origin_not_trusted "),
        "{taken:?}"
    );
    eventually(SOON, "it is told why", || {
        let row = status(&gateway, "ssls", "trap", "/key")?;
        (row["state"] == "unresolved" && row["reason"] == "secret_origin_not_trusted").then_some(())
    });
    let tried = trap.accept().map(|_| ()).unwrap_err();
    assert_eq!(tried.kind(), std::io::ErrorKind::WouldBlock, "nobody came");
    // A manager that is in use is not removed by accident.
    let refused = gateway.admin_delete("/secrets/vault/mtls-certs");
    let refused = refused.expect_status(400);
    assert!(
        refused.body.contains("ssl [web] is still using it now"),
        "{refused:?}"
    );
    gateway
        .admin_delete("/secrets/vault/mtls-certs?force=true")
        .expect_status(200);
    expect_state(&gateway, "ssls", "web", "/key", "unresolved");
    expect_serial(&gateway, None);
    gateway.configure("/secrets/vault/mtls-certs", &secret);
    expect_state(&gateway, "ssls", "web", "/key", "ok");
    for version in TlsVersion::ALL {
        let client = gateway.tls(NAME, version).cert(&ca.client("ours"));
        eventually(SOON, "the name is served again", || {
            client
                .get(NAME, "/")
                .ok()
                .filter(|answer| answer.status == 404)
        });
    }
    let said: Vec<String> = gateway.logs().iter().map(Value::to_string).collect();
    let said = said.join("\n");
    assert!(!said.contains(&token) && !said.contains(pair.key_lines()[1]));
}

#[test]
fn manager_that_is_down_at_first_costs_a_write_a_bounded_time_and_heals() {
    let mut bao = Bao::start();
    let pair = Ca::root("CA").server(NAME);
    bao.write("mtls/web", &json!({"cert": pair.cert, "key": pair.key}));
    let token = bao.token("1h");
    bao.kill();
    let gateway = trusting(&bao).start();
    gateway.configure("/secrets/vault/1", &manager(&bao, &token));
    let ssl = json!({
        "cert": "$secret://vault/1/web/cert", "key": "$secret://vault/1/web/key", "snis": [NAME]
    });
    let taken = gateway.admin_put("/ssls/web", &ssl).expect_status(201);
    let warning = taken.header("x-portcullis-warning").unwrap_or_default();
    assert!(warning.starts_with("secret_unresolved "), "{taken:?}");
    expect_serial(&gateway, None);
    bao.start_again();
    bao.unseal();
    expect_state(&gateway, "ssls", "web", "/key", "ok");
    expect_serial(&gateway, Some(&pair));
}

#[test]
fn manager_that_says_nothing_holds_nobody_up_and_heals() {
    let pair = Ca::root("CA").server(NAME);
    let value = json!({"data": {"cert": pair.cert, "key": pair.key}}).to_string();
    let is_slow = Arc::new(AtomicBool::new(true));
    let slow = Arc::clone(&is_slow);
    // Takes every request, and answers none while it is slow: for longer than anybody waits.
    let manager = TcpOrigin::serving(move |mut tcp| {
        let head = read_head_from(&mut tcp);
        while slow.load(Ordering::SeqCst) {
            let mut byte = [0];
            match tcp.read(&mut byte) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        let body = if head.contains("/v1/kv/web ") {
            value.as_str()
        } else {
            "{}"
        };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", body.len());
        let _gone = tcp.write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes());
    });
    let gateway = setup()
        .set("secrets.read_timeout", "2s")
        .set("secrets.write_timeout", "1s")
        .start();
    let uri = format!("http://{}", manager.node());
    let secret = json!({"uri": uri, "prefix": "kv", "token": "t"});
    gateway.configure("/secrets/vault/slow", &secret);
    let ssl = json!({
        "cert": "$secret://vault/slow/web/cert", "key": "$secret://vault/slow/web/key",
        "snis": [NAME]
    });
    let begun = Instant::now();
    let taken = gateway.admin_put("/ssls/web", &ssl).expect_status(201);
    let warning = taken.header("x-portcullis-warning").unwrap_or_default();
    assert!(warning.starts_with("secret_unresolved "), "{taken:?}");
    assert!(warning.contains("did not answer within"), "{taken:?}");
    assert!(begun.elapsed() < SOON, "a write waits for a second");
    let row = expect_state(&gateway, "ssls", "web", "/key", "unresolved");
    assert_eq!(row["digest"], Value::Null, "{row}");
    expect_serial(&gateway, None);
    // What needs nothing of it is not closed, and its write waits for nothing.
    let other = Ca::root("CA").server("x.test");
    let ssl = json!({"cert": other.cert, "key": other.key, "snis": ["x.test"]});
    gateway.configure("/ssls/other", &ssl);
    let shown = shown_serial(gateway.https_port(), "x.test", TlsVersion::V13);
    assert_eq!(shown, Some(other.serial()));
    is_slow.store(false, Ordering::SeqCst);
    expect_state(&gateway, "ssls", "web", "/key", "ok");
    expect_serial(&gateway, Some(&pair));
}

#[test]
fn every_login_gets_a_token_and_replaces_it_when_it_ends() {
    let bao = Bao::start();
    let ca = Ca::root("CA");
    let pair = ca.server(NAME);
    bao.write("mtls/web", &json!({"cert": pair.cert, "key": pair.key}));
    bao.allow_reading();
    for method in ["approle", "cert"] {
        bao.must(
            "POST",
            &format!("sys/auth/{method}"),
            &json!({"type": method}),
        );
    }
    // Tokens that end for good while the test waits.
    let role = json!({"token_policies": "reader", "token_ttl": "2s", "token_max_ttl": "4s"});
    bao.must("POST", "auth/approle/role/gateway", &role);
    let told = bao.must("GET", "auth/approle/role/gateway/role-id", &Value::Null);
    let role_id = told.json()["data"]["role_id"].clone();
    let told = bao.must("POST", "auth/approle/role/gateway/secret-id", &json!({}));
    let secret_id = told.json()["data"]["secret_id"].clone();
    let ours = ca.client("gateway");
    let trusted = json!({
        "certificate": ca.pem(), "allowed_common_names": "gateway", "token_policies": "reader",
        "token_ttl": "2s", "token_max_ttl": "4s"
    });
    bao.must("POST", "auth/cert/certs/gateway", &trusted);
    let gateway = trusting(&bao).start();
    for (id, auth) in [
        (
            "approle",
            json!({"method": "approle", "role_id": role_id, "secret_id": secret_id}),
        ),
        (
            "cert",
            json!({"method": "cert", "name": "gateway", "cert": ours.cert, "key": ours.key}),
        ),
    ] {
        let mut secret = json!({
            "uri": bao.url(), "prefix": "secret/mtls", "kv_version": "kv-v2"
        });
        secret["auth"] = auth;
        let shown = gateway.admin_put(&format!("/secrets/vault/{id}"), &secret);
        let shown = shown.expect_status(201).body;
        assert!(!shown.contains(secret_id.as_str().unwrap()), "{shown}");
        assert!(!shown.contains(ours.key_lines()[1]), "{shown}");
        let reference = |member: &str| format!("$secret://vault/{id}/web/{member}");
        let ssl = json!({"cert": reference("cert"), "key": reference("key"),
                         "snis": [format!("{id}.test")]});
        let taken = gateway.admin_put(&format!("/ssls/{id}"), &ssl);
        let taken = taken.expect_status(201);
        assert!(!taken.head.contains("secret_"), "{taken:?}");
    }
    // Longer than any token lives; a new value is still seen.
    let until = Instant::now() + std::time::Duration::from_secs(6);
    eventually(2 * SOON, "tokens have ended", || {
        (Instant::now() > until).then_some(())
    });
    let new = ca.server(NAME);
    bao.write("mtls/web", &json!({"cert": new.cert, "key": new.key}));
    for id in ["approle", "cert"] {
        let name = format!("{id}.test");
        eventually(SOON, "the new certificate is shown", || {
            let shown = shown_serial(gateway.https_port(), &name, TlsVersion::V13);
            (shown == Some(new.serial())).then_some(())
        });
        expect_state(&gateway, "ssls", id, "/key", "ok");
    }
}

#[test]
fn certificate_of_the_managers_own_pki_is_issued_and_replaced_in_time() {
    let bao = Bao::start();
    bao.must("POST", "sys/mounts/pki", &json!({"type": "pki"}));
    let root = json!({"common_name": "Bao root", "ttl": "1h", "key_type": "ec", "key_bits": 256});
    bao.must("POST", "pki/root/generate/internal", &root);
    let role = json!({
        "allowed_domains": "example.com", "allow_subdomains": true, "max_ttl": "1h",
        "key_type": "ec", "key_bits": 256
    });
    bao.must("POST", "pki/roles/web", &role);
    let gateway = trusting(&bao).start();
    let secret = json!({
        "uri": bao.url(), "prefix": "pki", "token": bao.token("1h"),
        "issue": {"role": "web", "cn": NAME, "ttl": "12s"}
    });
    gateway.configure("/secrets/vault/pki", &secret);
    let ssl = json!({
        "cert": "$secret://vault/pki/certificate", "key": "$secret://vault/pki/private_key",
        "snis": [NAME]
    });
    let taken = gateway.admin_put("/ssls/web", &ssl).expect_status(201);
    assert_eq!(taken.header("x-portcullis-warning"), None, "{taken:?}");
    let shown = || shown_serial(gateway.https_port(), NAME, TlsVersion::V13);
    let first = shown().expect("it is served");
    let second = eventually(2 * SOON, "another certificate is issued in time", || {
        shown().filter(|serial| *serial != first)
    });
    assert_ne!(first, second);
}
