//! Who may call the Admin API: addresses, certificates with a role, and how often keys are guessed.

use std::time::Instant;

use serde_json::json;

use crate::support::client::{Curl, CurlOutcome};
use crate::support::gateway::{ADMIN_KEY, Gateway, Setup, field};
use crate::support::pki::{Ca, Leaf, PairFiles, Validity};
use crate::support::tls::{Ended, TlsClient};
use crate::support::{SOON, TlsVersion, eventually, patiently};

const ROUTES: &str = "/apisix/admin/routes";

/// A request without a key.
fn ask(gateway: &Gateway, listener: &str, path: &str) -> Curl {
    let port = gateway.port(listener);
    let scheme = if listener == "admin" { "http" } else { "https" };
    Curl::new(&format!("{scheme}://127.0.0.1:{port}{path}")).args(&["-k"])
}

fn with_key(curl: Curl, key: &str) -> Curl {
    curl.header(&format!("X-API-KEY: {key}"))
}

#[track_caller]
fn described(outcome: &CurlOutcome) -> String {
    let body = outcome.json();
    let text = body["description"].as_str();
    text.unwrap_or_else(|| panic!("{outcome:?}")).to_owned()
}

#[test]
fn caller_outside_the_networks_is_403_whatever_it_brings() {
    for (listener, key) in [
        ("admin", "admin.allow_admin"),
        ("admin_https", "admin.https.allow_admin"),
    ] {
        let gateway = Setup::default()
            .set(key, "[127.0.0.2, 192.0.2.0/24, '2001:db8::/32']")
            .start();
        for path in [ROUTES, "/apisix/admin", "/portcullis/v1/audit", "/nowhere"] {
            let refused = with_key(ask(&gateway, listener, path), ADMIN_KEY).send();
            let refused = refused.expect_status(403).json();
            let text = format!(
                "requests from 127.0.0.1 are not accepted here: that is in no network of `{key}`"
            );
            assert_eq!(refused, json!({ "error_msg": text }), "{path}");
        }
        let probe = ask(&gateway, listener, "/apisix/admin").args(&["-I"]);
        probe.send().expect_status(403);
        let inside = ask(&gateway, listener, ROUTES).args(&["--interface", "127.0.0.2"]);
        with_key(inside, ADMIN_KEY).send().expect_status(200);
        let inside = ask(&gateway, listener, ROUTES).args(&["--interface", "127.0.0.2"]);
        inside.send().expect_status(401);
        // Each listener has its own networks.
        let other = if listener == "admin" {
            "admin_https"
        } else {
            "admin"
        };
        let other = with_key(ask(&gateway, other, ROUTES), ADMIN_KEY);
        other.send().expect_status(200);
    }
}

#[test]
fn certificate_with_a_role_needs_no_key_and_can_do_what_the_role_can() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::root("Administrators");
    let root = ca.write(folder.path(), "root");
    let roles = "[{subject: 'CN=alice', role: admin}, \
                  {san: 'dns:ci.example.com', role: viewer}, \
                  {subject: 'CN=bob,OU=admins', role: admin}]";
    let gateway = Setup::default()
        .set("admin.https.client_ca", &root.display().to_string())
        .set("admin.https.client_roles", roles)
        .start();
    let write = |name: &str, leaf: &Leaf| ca.issue(leaf).write(folder.path(), name);
    let alice = write("alice", &Leaf::client("alice"));
    let bob = write("bob", &Leaf::client("bob"));
    let viewer = write(
        "ci",
        &Leaf {
            dns_names: vec!["ci.example.com".to_owned()],
            ..Leaf::client("alice's job")
        },
    );
    let upstream = json!({"nodes": {"127.0.0.1:1": 1}}).to_string();
    for version in TlsVersion::ALL {
        let get = |pair: &PairFiles| ask(&gateway, "admin_https", ROUTES).cert(pair).tls(version);
        let put = |pair: &PairFiles| {
            let asked = ask(&gateway, "admin_https", "/apisix/admin/upstreams/u");
            let asked = asked.method("PUT").body(upstream.clone());
            asked.cert(pair).tls(version)
        };
        get(&alice).send().expect_status(200);
        let written = put(&alice).send().status;
        assert!(matches!(written, Some(200 | 201)), "{written:?}");
        get(&viewer).send().expect_status(200);
        let refused = put(&viewer).send().expect_status(401);
        assert_eq!(described(&refused), "invalid method for role viewer");
        // One without a role needs a key, as does one that lacks a part of the claim.
        let refused = get(&bob).send().expect_status(401);
        assert_eq!(described(&refused), "missing apikey");
        with_key(get(&bob), ADMIN_KEY).send().expect_status(200);
        // A key that is given counts, and is not made up for by the certificate.
        with_key(put(&viewer), ADMIN_KEY).send().expect_status(200);
        let refused = with_key(get(&alice), "wrong").send().expect_status(401);
        assert_eq!(described(&refused), "wrong apikey");
        // The names are believed from this CA only, and while they last.
        let mallory = Ca::root("Administrators").client("alice");
        let mallory = mallory.write(folder.path(), "mallory");
        get(&mallory).send().expect_refused_handshake();
        let late = Leaf {
            validity: Validity::Expired,
            ..Leaf::client("alice")
        };
        // curl takes this alert for a fault that it found itself.
        let refused = get(&write("late", &late)).send();
        let is_refused = [35, 56, 60].contains(&refused.exit_code);
        assert!(refused.status.is_none() && is_refused, "{refused:?}");
        ask(&gateway, "admin_https", ROUTES)
            .tls(version)
            .send()
            .expect_refused_handshake();
    }
    // The other listener asks for none, so that none counts.
    let plain = ask(&gateway, "admin", ROUTES).cert(&alice);
    plain.send().expect_status(401);
    let change = gateway.expect_log("the change", |line| {
        field(line, "message") == Some("resource changed")
            && field(line, "action") == Some("create")
    });
    assert_eq!(field(&change, "actor"), Some("CN=alice"));
}

#[test]
fn role_ends_with_its_certificate_on_an_open_connection_too() {
    patiently(|limit| {
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::root("Administrators");
        let root = ca.write(folder.path(), "root");
        let gateway = Setup::default()
            .set("admin.https.client_ca", &root.display().to_string())
            .set(
                "admin.https.client_roles",
                "[{subject: 'CN=alice', role: admin}]",
            )
            .start();
        let short = Leaf {
            validity: Validity::For(2 * limit),
            ..Leaf::client("alice")
        };
        for version in TlsVersion::ALL {
            let client = TlsClient::new(gateway.port("admin_https")).tls(version);
            let mut connection = client.cert(&ca.issue(&short)).connect().unwrap();
            let mut ask = || connection.get("localhost", ROUTES).unwrap();
            assert_eq!(ask().status, 200);
            let last = eventually(2 * limit + SOON, "the certificate is over", || {
                Some(ask()).filter(|answer| answer.status != 200)
            });
            assert_eq!(last.status, 401);
            assert!(last.body.contains("client certificate expired"), "{last:?}");
        }
    });
}

#[test]
fn guessed_keys_are_429_and_no_right_one_is_locked_out_of_loopback() {
    let gateway = Gateway::start();
    let asked = |key: &str| with_key(ask(&gateway, "admin_https", ROUTES), key).send();
    let began = Instant::now();
    // A program that repeats its mistake is told the same each time.
    for _ in 0..30 {
        asked("stale").expect_status(401);
    }
    let statuses: Vec<_> = (0..30)
        .map(|guess| asked(&format!("guess-{guess}")))
        .collect();
    let refused: Vec<_> = statuses
        .iter()
        .skip_while(|outcome| outcome.status == Some(401))
        .collect();
    // Each six seconds earn another guess.
    let earned = usize::try_from(began.elapsed().as_secs() / 6).unwrap();
    let least = 10_usize.saturating_sub(earned);
    assert!((least..=11).contains(&refused.len()), "{}", refused.len());
    for outcome in refused {
        assert!(matches!(outcome.status, Some(429 | 401)), "{outcome:?}");
    }
    let mut more = 0;
    let last = eventually(SOON, "no guess is left", || {
        more += 1;
        let told = asked(&format!("one-more-{more}"));
        (told.status == Some(429)).then_some(told)
    });
    let wait: u64 = last.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=7).contains(&wait), "{wait}");
    let text = last.json()["error_msg"].as_str().unwrap().to_owned();
    assert_eq!(
        text,
        format!("too many wrong keys from this address, try again in {wait} s")
    );
    asked(ADMIN_KEY).expect_status(200);
    ask(&gateway, "admin_https", ROUTES)
        .send()
        .expect_status(401);
    let stopped = gateway.stop();
    let log = format!("{stopped:?}");
    assert!(log.contains("many wrong admin keys") && !log.contains("guess-7"));
}

/// Its alert comes before the connection ends, whatever else it sent.
#[test]
fn client_that_is_refused_in_the_handshake_is_told_so_while_it_writes() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::root("Administrators");
    let root = ca.write(folder.path(), "root");
    let gateway = Setup::default()
        .set("admin.https.client_ca", &root.display().to_string())
        .start();
    let mallory = Ca::root("Administrators").client("alice");
    let head = "PUT /apisix/admin/routes/r HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n";
    let request = format!("{head}{}", "x".repeat(60_000));
    for (pair, alert) in [(Some(mallory), 48), (None, 116)] {
        for _ in 0..8 {
            let mut client = TlsClient::new(gateway.port("admin_https")).tls(TlsVersion::V13);
            if let Some(pair) = &pair {
                client = client.cert(pair);
            }
            let refused = client.connect().and_then(|mut conn| conn.ask(&request));
            assert_eq!(refused.unwrap_err(), Ended::Alert(alert));
        }
    }
}
