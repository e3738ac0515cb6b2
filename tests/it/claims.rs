//! Names that several enabled ssls claim: who serves them, and what is asked of their clients.

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::support::TlsVersion;
use crate::support::client::Curl;
use crate::support::gateway::{Setup, field};
use crate::support::pki::{Ca, Pair};
use crate::support::site::Site;
use crate::support::tls::Ended;

const NAME: &str = "api.example.com";

/// The alert, RFC 6066 §3.
const UNRECOGNIZED_NAME: i32 = 112;

fn client_of(ca: &Ca) -> Value {
    json!({"client": {"ca": ca.pem()}})
}

/// Policies that differ from [`client_of`] this CA, each in another way.
fn other_policies(ca: &Ca, next: &Ca) -> [Value; 6] {
    [
        json!({}),
        json!({"client": {"ca": next.pem()}}),
        json!({"client": {"ca": format!("{}{}", ca.pem(), next.pem())}}),
        json!({"client": {"ca": ca.pem(), "depth": 2}}),
        json!({"client": {"ca": ca.pem(), "mode": "optional"}}),
        json!({"client": {"ca": ca.pem(), "skip_mtls_uri_regex": ["^/open"]}}),
    ]
}

/// Whether a client is served at [`NAME`], without a certificate and with this one.
#[track_caller]
fn expect_checked(site: &Site, alice: &Pair) {
    for version in TlsVersion::ALL {
        let client = || site.client(NAME).tls(version);
        let without = client().get(NAME, "/x");
        assert!(matches!(without, Err(Ended::Alert(_))), "{without:?}");
        assert_eq!(client().cert(alice).get(NAME, "/x").unwrap().status, 200);
    }
}

#[test]
fn a_second_ssl_that_asks_otherwise_of_a_name_s_clients_is_refused() {
    let site = Site::start();
    let (ca, next) = (Ca::root("Client CA"), Ca::root("Next CA"));
    let alice = ca.client("alice");
    site.put_ssl("first", NAME, &client_of(&ca));
    let pair = site.ca.server(NAME);
    let document = |more: &Value| {
        let mut document = json!({"cert": pair.cert, "key": pair.key});
        let members = more.as_object().unwrap().clone();
        document.as_object_mut().unwrap().extend(members);
        document
    };
    for (member, names) in [
        ("sni", json!(NAME)),
        ("snis", json!(["b.example.com", NAME])),
    ] {
        for other in other_policies(&ca, &next) {
            let mut second = document(&other);
            second[member] = names.clone();
            let refused = site.gateway.admin_put("/ssls/second", &second);
            let told = refused.expect_status(400).json()["error_msg"].to_string();
            for word in [NAME, "`client`", "ssl first", &format!("`{member}`")] {
                assert!(told.contains(word), "{word}: {told}");
            }
            site.gateway.admin_get("/ssls/second").expect_status(404);
        }
    }
    expect_checked(&site, &alice);

    // What claims nothing is in nobody's way, until it is to claim.
    site.put_ssl("second", NAME, &json!({"status": 0}));
    let enable = |client: Value| {
        let body = json!({"status": 1, "client": client}).to_string();
        let patch = site.gateway.admin("PATCH", "/ssls/second");
        patch.body(body).send()
    };
    enable(json!({"ca": next.pem()})).expect_status(400);
    enable(json!({"ca": ca.pem()})).expect_status(200);
    // Neither changes its policy while the other has the name too.
    for id in ["first", "second"] {
        let body = json!({"client": null}).to_string();
        let patch = site.gateway.admin("PATCH", &format!("/ssls/{id}"));
        patch.body(body).send().expect_status(400);
    }
    expect_checked(&site, &alice);
}

#[test]
fn an_ssl_is_replaced_by_another_one_with_the_same_policy() {
    let site = Site::start();
    let ca = Ca::root("Client CA");
    let alice = ca.client("alice");
    let asks = client_of(&ca);
    site.put_ssl("first", NAME, &asks);
    let pair = site.ca.server(NAME);
    let second =
        json!({"cert": pair.cert, "key": pair.key, "snis": [NAME], "client": asks["client"]});
    let written = site.gateway.admin_put("/ssls/second", &second);
    let head = written.expect_status(201).head.to_ascii_lowercase();
    assert!(head.contains("name_taken"), "{head}");
    expect_checked(&site, &alice);
    site.gateway.admin_delete("/ssls/first").expect_status(200);
    expect_checked(&site, &alice);
    // It is the only one now: what it asks may change.
    site.put_ssl("second", NAME, &json!({}));
    let open = site.client(NAME).get(NAME, "/x").unwrap();
    assert_eq!(open.status, 200);
}

#[test]
fn a_stored_name_of_two_policies_is_closed_and_told() {
    let site = Site::start();
    let ca = Ca::root("Client CA");
    let alice = ca.client("alice");
    site.put_ssl("loose", "b.example.com", &json!({}));
    site.put_ssl("strict", NAME, &client_of(&ca));
    // As an earlier version accepted it.
    let site = site.restart(|data| {
        let store = Connection::open(data.join("portcullis.db")).unwrap();
        let changed = store.execute(
            "UPDATE resource SET document = replace(document, 'b.example.com', ?1) WHERE id = 'loose'",
            [NAME],
        );
        assert_eq!(changed.unwrap(), 1);
    });
    let data = site.gateway.data();
    for version in TlsVersion::ALL {
        let client = || site.client(NAME).tls(version);
        for client in [client(), client().cert(&alice)] {
            let refused = client.connect().unwrap_err();
            assert_eq!(refused, Ended::Alert(UNRECOGNIZED_NAME));
        }
    }
    let plain = Curl::new(&site.gateway.http_url("/x"));
    plain
        .header(&format!("Host: {NAME}"))
        .send()
        .expect_status(421);
    for id in ["loose", "strict"] {
        site.gateway.expect_log("an error for each", |line| {
            line["level"] == "ERROR"
                && field(line, "ssl") == Some(id)
                && field(line, "name") == Some(NAME)
        });
    }
    assert_eq!(site.metric("portcullis_names_closed"), 1);
    let checked = Setup::default().data(&data).run(&["check"]);
    assert_eq!(checked.status.code(), Some(1), "{checked:?}");
    for (id, other) in [("loose", "strict"), ("strict", "loose")] {
        let mut lines = checked.stdout.lines();
        let is_told = |line: &str| {
            line.starts_with(&format!("error: ssl {id} ")) && line.contains(&format!("ssl {other}"))
        };
        assert!(lines.any(is_told), "{checked:?}");
    }

    // Given up by the one, it is the other's, with all that this one asks.
    site.gateway.admin_delete("/ssls/loose").expect_status(200);
    expect_checked(&site, &alice);
    let checked = Setup::default().data(&data).run(&["check"]);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
}
