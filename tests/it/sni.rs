//! Server names: which ssl a ClientHello means, and what is refused before a certificate is shown.

use serde_json::{Value, json};

use crate::support::client::{Curl, openssl_s_client};
use crate::support::gateway::Setup;
use crate::support::origin::{Nginx, Origin, seen};
use crate::support::pki::{Ca, Leaf, Pair};
use crate::support::site::Site;
use crate::support::tls::{Ended, PlainConn};
use crate::support::{SOON, TlsVersion, eventually};

/// Alerts, RFC 8446 §6 and RFC 6066 §3.
const PROTOCOL_VERSION: i32 = 70;
const UNRECOGNIZED_NAME: i32 = 112;
const UNKNOWN_CA: i32 = 48;

/// A certificate that says which ssl it belongs to, for any name.
fn marked(site: &Site, mark: &str) -> Pair {
    site.ca.issue(&Leaf {
        common_name: mark.to_owned(),
        dns_names: vec!["*.example.com".to_owned(), "example.com".to_owned()],
        ..Leaf::server(mark)
    })
}

/// PUT of an ssl for `name` whose certificate says `id`.
fn put_marked(site: &Site, id: &str, name: &str, more: &Value) {
    site.put_ssl_with(id, name, &marked(site, id), more);
}

/// Which ssl's certificate is shown to a client that sends `name`, and that it serves.
fn shown(site: &Site, name: &str, version: TlsVersion) -> Result<String, Ended> {
    let mut conn = site.client(name).tls(version).connect()?;
    // A Host that no ssl claims: the server name alone decides here.
    let served = conn.get("nobody.invalid", "/x")?;
    assert_eq!(served.status, 200, "{served:?}");
    Ok(conn.peer_name())
}

fn refused_as_unrecognized<T: std::fmt::Debug>(what: Result<T, Ended>) {
    assert_eq!(what.unwrap_err(), Ended::Alert(UNRECOGNIZED_NAME));
}

#[test]
fn a_name_is_found_exactly_then_by_wildcard_then_by_catch_all() {
    let site = Site::start();
    put_marked(&site, "exact", "api.example.com", &json!({}));
    put_marked(&site, "wildcard", "*.example.com", &json!({}));
    let names = [
        ("api.example.com", "exact"),
        ("API.Example.COM", "exact"),
        ("api.example.com.", "exact"),
        ("x.example.com", "wildcard"),
        ("X.EXAMPLE.com.", "wildcard"),
    ];
    let others = [
        "example.com",
        "y.x.example.com",
        "x.api.example.com",
        "xexample.com",
        "other.test",
        "localhost",
    ];
    for version in TlsVersion::ALL {
        for (name, ssl) in names {
            assert_eq!(shown(&site, name, version).unwrap(), ssl, "{name}");
        }
        for name in others {
            refused_as_unrecognized(shown(&site, name, version));
        }
    }
    let record = site.gateway.expect_record("an unknown name", |record| {
        record["sni"] == "y.x.example.com" && record["reason"] == "sni_unknown"
    });
    assert_eq!(record["kind"], "handshake");
    assert_eq!(site.failures("sni_unknown"), 12);

    put_marked(&site, "all", "*", &json!({}));
    for version in TlsVersion::ALL {
        for (name, ssl) in names {
            assert_eq!(shown(&site, name, version).unwrap(), ssl, "{name}");
        }
        for name in others {
            assert_eq!(shown(&site, name, version).unwrap(), "all", "{name}");
        }
    }
}

#[test]
fn s_client_is_told_that_a_name_is_not_recognized() {
    let site = Site::start();
    site.put_ssl("web", "api.example.com", &json!({}));
    for flag in ["-tls1_2", "-tls1_3"] {
        let ask = |name: &str| {
            let request = "GET /x HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n";
            let args = [flag, "-servername", name];
            openssl_s_client(site.gateway.https_port(), &args, request)
        };
        assert!(ask("API.example.com.").stdout.contains("HTTP/1.1 200 OK"));
        let refused = ask("www.example.com");
        assert!(
            refused.stderr.contains("SSL alert number 112"),
            "{refused:?}"
        );
        assert!(
            refused.stdout.contains("no peer certificate available"),
            "{refused:?}"
        );
    }
}

#[test]
fn a_client_without_a_name_is_served_as_the_fallback_or_not_at_all() {
    let setup = Setup::default().set("https.fallback_sni", "main.example.com");
    for (site, has_fallback) in [(Site::start(), false), (Site::with(setup), true)] {
        let ca = Ca::root("Client CA");
        let client = json!({"client": {"ca": ca.pem()}});
        put_marked(&site, "main", "main.example.com", &client);
        put_marked(&site, "all", "*", &json!({}));
        let alice = ca.client("alice");
        for version in TlsVersion::ALL {
            let nameless = site.nameless_client().tls(version);
            let named = site.client("main.example.com").tls(version).cert(&alice);
            assert_eq!(named.get("main.example.com", "/x").unwrap().status, 200);
            let with_cert = nameless.clone().cert(&alice);
            let without_cert = nameless.get("main.example.com", "/x").unwrap_err();
            if has_fallback {
                let mut conn = with_cert.connect().unwrap();
                assert_eq!(conn.get("main.example.com", "/x").unwrap().status, 200);
                assert_eq!(conn.peer_name(), "main");
                // What the fallback asks of clients is asked of these as well.
                assert_ne!(without_cert, Ended::Alert(UNRECOGNIZED_NAME));
                // A name that was sent and is nobody's is not the fallback's.
                assert_eq!(shown(&site, "other.test", version).unwrap(), "all");
            } else {
                refused_as_unrecognized(with_cert.connect());
                assert_eq!(without_cert, Ended::Alert(UNRECOGNIZED_NAME));
            }
        }
        let reason = if has_fallback {
            "client_cert_missing"
        } else {
            "sni_missing"
        };
        site.gateway
            .expect_record(reason, |record| record["reason"] == reason);
    }
}

#[test]
fn an_address_or_a_malformed_name_is_refused_even_where_all_names_are_served() {
    let setup = Setup::default().set("https.fallback_sni", "main.example.com");
    let site = Site::with(setup);
    put_marked(&site, "all", "*", &json!({}));
    let long = format!("{}.example.com", "a".repeat(64));
    for version in TlsVersion::ALL {
        assert_eq!(shown(&site, "main.example.com", version).unwrap(), "all");
        for name in [
            "127.0.0.1",
            "::1",
            "[::1]",
            "a b.example.com",
            "a..example.com",
            "*.example.com",
            "api.example.com:443",
            ".",
            "b\u{fc}cher.example",
            &long,
        ] {
            refused_as_unrecognized(shown(&site, name, version));
            site.gateway.expect_record(name, |record| {
                record["reason"] == "sni_malformed" && record["sni"].as_str() == Some(name)
            });
        }
    }
}

/// A ClientHello of TLS 1.2 with these entries in its server_name extension (RFC 5246 §7.4.1.2).
fn client_hello(names: &[&str]) -> Vec<u8> {
    fn with_length(bytes: &[u8]) -> Vec<u8> {
        let mut all = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
        all.extend_from_slice(bytes);
        all
    }
    fn extension(number: u16, data: &[u8]) -> Vec<u8> {
        [number.to_be_bytes().to_vec(), with_length(data)].concat()
    }
    let entries: Vec<u8> = names
        .iter()
        .flat_map(|name| [vec![0], with_length(name.as_bytes())].concat())
        .collect();
    let extensions = [
        extension(0, &with_length(&entries)),
        // supported_groups: P-256; signature_algorithms: ECDSA with P-256 and SHA-256.
        extension(10, &with_length(&[0, 23])),
        extension(13, &with_length(&[4, 3])),
    ];
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.push(0); // no session
    body.extend_from_slice(&with_length(&[0xc0, 0x2b])); // ECDHE-ECDSA-AES128-GCM-SHA256
    body.extend_from_slice(&[1, 0]); // no compression
    body.extend_from_slice(&with_length(&extensions.concat()));
    let mut handshake = vec![1, 0];
    handshake.extend_from_slice(&with_length(&body));
    [vec![22, 3, 1], with_length(&handshake)].concat()
}

#[test]
fn a_hello_with_two_names_is_refused() {
    let site = Site::start();
    put_marked(&site, "one", "one.example.com", &json!({}));
    put_marked(&site, "two", "two.example.com", &json!({}));
    let answer = |names: &[&str]| {
        let conn = PlainConn::open(site.gateway.https_port());
        conn.exchange(&client_hello(names))
    };
    // A handshake record that begins with a ServerHello, or one fatal alert.
    let greeted = answer(&["one.example.com"]);
    assert_eq!((&greeted[..3], greeted[5]), (&[22, 3, 3][..], 2));
    for names in [
        ["one.example.com", "two.example.com"],
        ["one.example.com", "one.example.com"],
    ] {
        assert_eq!(answer(&names), [21, 3, 3, 0, 2, 2, 112]);
    }
    site.gateway.expect_record("a doubled name", |record| {
        record["reason"] == "sni_malformed" && record.get("sni").is_none()
    });
}

#[test]
fn clients_of_one_domain_s_ca_are_refused_at_another_domain() {
    let site = Site::start();
    let domains = ["internal.example.com", "partner.example.com"];
    let cas = ["Internal CA", "Partner CA"].map(Ca::root);
    for (domain, ca) in domains.iter().zip(&cas) {
        site.put_ssl(domain, domain, &json!({"client": {"ca": ca.pem()}}));
    }
    let files = [("own", &cas[0]), ("foreign", &cas[1])]
        .map(|(stem, ca)| site.write(&ca.client("client"), stem));
    for version in TlsVersion::ALL {
        for (index, domain) in domains.iter().enumerate() {
            let ask = |ca: usize| site.ask(domain, "/x").tls(version).cert(&files[ca]).send();
            let served = ask(index).expect_status(200);
            assert_eq!(seen(&served.body, "host"), *domain);
            ask(1 - index).expect_refused_handshake();
            let client = site.client(domain).tls(version);
            let refused = client
                .cert(&cas[1 - index].client("client"))
                .get(domain, "/x");
            assert_eq!(refused.unwrap_err(), Ended::Alert(UNKNOWN_CA));
        }
    }
    for (domain, issuer) in [
        (domains[0], "CN=Partner CA"),
        (domains[1], "CN=Internal CA"),
    ] {
        site.gateway.expect_record(domain, |record| {
            record["reason"] == "client_cert_unknown_ca"
                && record["sni"] == domain
                && record["client_issuer"] == issuer
        });
    }
}

#[test]
fn a_closed_name_is_served_by_nobody() {
    let setup = Setup::default().set("https.fallback_sni", "shut.example.com");
    let site = Site::with(setup);
    put_marked(&site, "all", "*", &json!({}));
    put_marked(&site, "wildcard", "*.example.com", &json!({}));
    let reference = |name: &str| json!(format!("$secret://vault/1/web/{name}"));
    let pair = site.ca.server("shut.example.com");
    let shut = [
        json!({"cert": reference("cert"), "key": reference("key")}),
        json!({"cert": pair.cert, "key": reference("key")}),
        json!({"cert": pair.cert, "key": pair.key, "client": {"ca": reference("ca")}}),
    ];
    for (index, mut document) in shut.into_iter().enumerate() {
        document["snis"] = json!(["shut.example.com", "*.shut.test"]);
        let id = format!("/ssls/shut-{index}");
        let written = site.gateway.admin_put(&id, &document).expect_status(201);
        let warnings = written.head.to_ascii_lowercase();
        assert!(warnings.contains("secret_unresolved"), "{written:?}");
        for version in TlsVersion::ALL {
            for name in ["shut.example.com", "x.shut.test"] {
                refused_as_unrecognized(shown(&site, name, version));
            }
            // The fallback is closed as well.
            refused_as_unrecognized(site.nameless_client().tls(version).connect());
            for (name, ssl) in [
                ("open.example.com", "wildcard"),
                ("shut.test", "all"),
                ("y.x.shut.test", "all"),
            ] {
                assert_eq!(shown(&site, name, version).unwrap(), ssl);
            }
            // No request gets there by another name's connection, nor in the clear.
            let mut conn = site
                .client("open.example.com")
                .tls(version)
                .connect()
                .unwrap();
            assert_eq!(conn.get("open.example.com", "/x").unwrap().status, 200);
            assert_eq!(conn.get("shut.example.com", "/x").unwrap().status, 421);
        }
        let plain = || Curl::new(&site.gateway.http_url("/x"));
        plain()
            .header("Host: x.shut.test")
            .send()
            .expect_status(421);
        plain().header("Host: shut.test").send().expect_status(200);
        for kind in ["handshake", "request"] {
            let record = site.gateway.expect_record(kind, |record| {
                record["kind"] == kind && record["reason"] == "name_closed"
            });
            assert_eq!(record["blame"], "us");
        }
        site.gateway.admin_delete(&id).expect_status(200);
        let free = shown(&site, "shut.example.com", TlsVersion::V13).unwrap();
        assert_eq!(free, "wildcard");
    }
}

#[test]
fn a_disabled_ssl_is_as_absent() {
    let site = Site::start();
    put_marked(&site, "own", "api.example.com", &json!({}));
    for version in TlsVersion::ALL {
        assert_eq!(shown(&site, "api.example.com", version).unwrap(), "own");
    }
    put_marked(&site, "own", "api.example.com", &json!({"status": 0}));
    for version in TlsVersion::ALL {
        refused_as_unrecognized(shown(&site, "api.example.com", version));
    }
    put_marked(&site, "wildcard", "*.example.com", &json!({}));
    for version in TlsVersion::ALL {
        assert_eq!(
            shown(&site, "api.example.com", version).unwrap(),
            "wildcard"
        );
    }
    put_marked(&site, "own", "api.example.com", &json!({"status": 1}));
    for version in TlsVersion::ALL {
        assert_eq!(shown(&site, "api.example.com", version).unwrap(), "own");
    }
}

#[test]
fn plain_http_on_the_tls_port_gets_the_page_of_nginx() {
    let site = Site::start();
    site.put_ssl("web", "api.example.com", &json!({}));
    let nginx = Origin::nginx(&Nginx::tls(site.ca.server("api.example.com")));
    let ask = |port: u16| {
        let url = format!("http://127.0.0.1:{port}/x");
        Curl::new(&url).send().expect_status(400)
    };
    let (ours, theirs) = (ask(site.gateway.https_port()), ask(nginx.port()));
    let page = |body: &str| -> Vec<String> {
        let lines = body.lines().take_while(|line| !line.starts_with("<hr>"));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(page(&ours.body), page(&theirs.body));
    assert!(
        ours.body
            .contains("The plain HTTP request was sent to HTTPS port")
    );
    assert_eq!(ours.header("connection"), Some("close"));
    let record = site.gateway.expect_record("plain on TLS", |record| {
        record["reason"] == "client_plaintext_on_tls"
    });
    assert_eq!(record["listener"], "https");
    // The Admin API's has it too.
    let at_admin = ask(site.gateway.port("admin_https"));
    assert_eq!(page(&at_admin.body), page(&theirs.body));
    assert_eq!(at_admin.header("connection"), Some("close"));
    let told = site.gateway.expect_log("plain on admin's TLS", |line| {
        line["reason"] == "client_plaintext_on_tls"
            && line["message"] == "an admin handshake failed"
    });
    assert!(
        told["peer"]
            .as_str()
            .is_some_and(|peer| peer.starts_with("127.0.0.1:"))
    );
    let over_tls = site.gateway.admin_https("GET", "/ssls/web");
    over_tls.send().expect_status(200);
    // Bytes that are neither are not answered for ever.
    let answer = PlainConn::open(site.gateway.https_port()).exchange(b"\x00\x01\x02\r\n\r\n");
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{answer:?}");
}

#[test]
fn tls_older_than_1_2_is_refused() {
    let site = Site::start();
    site.put_ssl("web", "api.example.com", &json!({}));
    let ask = |flag: &str| {
        let request = "GET /x HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n";
        let cipher = ["-cipher", "ALL:@SECLEVEL=0"];
        let args = [flag, "-servername", "api.example.com", cipher[0], cipher[1]];
        openssl_s_client(site.gateway.https_port(), &args, request)
    };
    for flag in ["-tls1", "-tls1_1"] {
        let refused = ask(flag);
        let alert = format!("SSL alert number {PROTOCOL_VERSION}");
        assert!(refused.stderr.contains(&alert), "{flag}: {refused:?}");
    }
    for flag in ["-tls1_2", "-tls1_3"] {
        let served = ask(flag);
        assert!(
            served.stdout.contains("HTTP/1.1 200 OK"),
            "{flag}: {served:?}"
        );
    }
    eventually(SOON, "both are counted", || {
        (site.failures("client_tls_version") == 2).then_some(())
    });
}

#[test]
fn each_name_has_its_own_protocol_versions() {
    let site = Site::start();
    let protocols = |list: &[&str]| json!({"ssl_protocols": list});
    put_marked(&site, "both", "both.example.com", &json!({}));
    put_marked(&site, "old", "old.example.com", &protocols(&["TLSv1.2"]));
    put_marked(&site, "new", "new.example.com", &protocols(&["TLSv1.3"]));
    for (name, version, is_served) in [
        ("both", TlsVersion::V12, true),
        ("both", TlsVersion::V13, true),
        ("old", TlsVersion::V12, true),
        ("old", TlsVersion::V13, false),
        ("new", TlsVersion::V12, false),
        ("new", TlsVersion::V13, true),
    ] {
        let expected = match is_served {
            true => Ok(name.to_owned()),
            false => Err(Ended::Alert(PROTOCOL_VERSION)),
        };
        let found = shown(&site, &format!("{name}.example.com"), version);
        assert_eq!(found, expected, "{name} by {version:?}");
    }
    // A client of both versions gets the one that the name has.
    for name in ["old", "new", "both"] {
        let name = format!("{name}.example.com");
        assert_eq!(site.client(&name).get(&name, "/x").unwrap().status, 200);
    }
    site.gateway.expect_record("a version refused", |record| {
        record["reason"] == "client_tls_version" && record["ssl_id"] == "new"
    });
}
