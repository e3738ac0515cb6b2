//! Client certificates: who is let in, who is refused in the handshake, and what is said about it.

use openssl::x509::X509;
use serde_json::{Value, json};

use crate::support::client::{Curl, openssl_s_client};
use crate::support::h2::H2Conn;
use crate::support::origin::{Nginx, Origin, seen};
use crate::support::pki::{Ca, KeyKind, Leaf, Pair, PairFiles, Usage, Validity};
use crate::support::site::Site;
use crate::support::tls::{Ended, TlsClient};
use crate::support::{Finished, SOON, TlsVersion, eventually};

/// TLS alerts, RFC 8446 §6.
mod alert {
    pub(super) const HANDSHAKE_FAILURE: i32 = 40;
    pub(super) const BAD_CERTIFICATE: i32 = 42;
    pub(super) const UNSUPPORTED_CERTIFICATE: i32 = 43;
    pub(super) const CERTIFICATE_EXPIRED: i32 = 45;
    pub(super) const UNKNOWN_CA: i32 = 48;
    pub(super) const CERTIFICATE_REQUIRED: i32 = 116;
}

const NAME: &str = "api.example.com";

/// A client that is refused, with what it and the operator are told.
struct Refused {
    pair: Option<Pair>,
    reason: &'static str,
    alert: fn(TlsVersion) -> i32,
}

fn refused_clients(ca: &Ca) -> Vec<Refused> {
    let bad = |leaf: Leaf| Some(ca.issue(&leaf));
    let unknown = |pair: Pair| Refused {
        pair: Some(pair),
        reason: "client_cert_unknown_ca",
        alert: |_| alert::UNKNOWN_CA,
    };
    vec![
        Refused {
            pair: None,
            reason: "client_cert_missing",
            // TLS 1.2 has no alert of its own for this (RFC 5246 §7.4.6).
            alert: |version| match version {
                TlsVersion::V12 => alert::HANDSHAKE_FAILURE,
                TlsVersion::V13 => alert::CERTIFICATE_REQUIRED,
            },
        },
        unknown(Ca::root("Other CA").client("stranger")),
        unknown(Ca::root("Client CA").client("namesake")),
        unknown(Leaf::client("self-signed").self_signed()),
        Refused {
            pair: bad(Leaf {
                validity: Validity::Expired,
                ..Leaf::client("late")
            }),
            reason: "client_cert_expired",
            alert: |_| alert::CERTIFICATE_EXPIRED,
        },
        Refused {
            pair: bad(Leaf {
                validity: Validity::NotYet,
                ..Leaf::client("early")
            }),
            reason: "client_cert_not_yet_valid",
            alert: |_| alert::BAD_CERTIFICATE,
        },
        Refused {
            pair: bad(Leaf {
                usage: Usage::Server,
                ..Leaf::client("server")
            }),
            reason: "client_cert_invalid",
            alert: |_| alert::UNSUPPORTED_CERTIFICATE,
        },
    ]
}

/// What real programs see of one client: curl's exit code, and the alert of `openssl s_client`.
fn seen_by_programs(site: &Site, version: TlsVersion, files: Option<&PairFiles>) -> (i32, String) {
    let mut curl = site.ask(NAME, "/x").tls(version);
    if let Some(files) = files {
        curl = curl.cert(files);
    }
    let curl = curl.send();
    assert_eq!(curl.status, None, "{curl:?}");
    (curl.exit_code, alert_by_s_client(site, version, files))
}

fn alert_by_s_client(site: &Site, version: TlsVersion, files: Option<&PairFiles>) -> String {
    let flag = match version {
        TlsVersion::V12 => "-tls1_2",
        TlsVersion::V13 => "-tls1_3",
    };
    let mut args = vec![flag, "-servername", NAME];
    if let Some(files) = files {
        args.extend(["-cert", files.cert.to_str().unwrap()]);
        args.extend(["-key", files.key.to_str().unwrap()]);
    }
    let request = format!("GET /x HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n");
    let Finished { stdout, stderr, .. } =
        openssl_s_client(site.gateway.https_port(), &args, &request);
    assert!(!stdout.contains("HTTP/1.1"), "{stdout}");
    let line = stderr
        .lines()
        .find(|line| line.contains("SSL alert number"));
    let (_, number) = line
        .and_then(|line| line.rsplit_once(' '))
        .unwrap_or_else(|| panic!("no alert: {stderr}"));
    number.to_owned()
}

/// Whether a record is of a refused handshake for this reason and, if any, this client.
fn is_refusal(record: &Value, refused: &Refused) -> bool {
    let subject = refused.pair.as_ref().map(|pair| {
        let name = leaf_of(pair)
            .subject_name()
            .entries()
            .next()
            .unwrap()
            .data()
            .to_string();
        format!("CN={}", name.unwrap())
    });
    record["kind"] == "handshake"
        && record["reason"] == refused.reason
        && record["client_subject"].as_str() == subject.as_deref()
}

fn leaf_of(pair: &Pair) -> X509 {
    X509::from_pem(pair.cert.as_bytes()).unwrap()
}

#[test]
fn good_certificates_are_served_and_all_others_refused_in_the_handshake() {
    let site = Site::start();
    let ca = Ca::root("Client CA");
    site.put_ssl("mtls", NAME, &json!({"client": {"ca": ca.pem()}}));
    let good = [
        ca.client("alice"),
        ca.issue(&Leaf {
            usage: Usage::Unsaid,
            ..Leaf::client("plain")
        }),
        ca.issue(&Leaf {
            key: KeyKind::Rsa,
            ..Leaf::client("rsa")
        }),
    ];
    for (index, pair) in good.iter().enumerate() {
        let files = site.write(pair, &format!("good-{index}"));
        for version in TlsVersion::ALL {
            let served = site.ask(NAME, "/x").tls(version).cert(&files).send();
            assert_eq!(seen(&served.expect_status(200).body, "uri"), "/x");
        }
    }
    assert_eq!(site.failures("client_cert_missing"), 0);

    let all = refused_clients(&ca);
    for (index, refused) in all.iter().enumerate() {
        let files = refused.pair.as_ref();
        let files = files.map(|pair| site.write(pair, &format!("bad-{index}")));
        for version in TlsVersion::ALL {
            // With TLS 1.3 a client learns of it with its first read (RFC 8446 §4.4.2.4).
            let exit_code = match (version, refused.reason) {
                // curl takes this alert for a verdict of its own.
                (TlsVersion::V12, "client_cert_expired") => 60,
                (TlsVersion::V12, _) => 35,
                (TlsVersion::V13, _) => 56,
            };
            assert_eq!(
                seen_by_programs(&site, version, files.as_ref()),
                (exit_code, (refused.alert)(version).to_string()),
                "{} by {version:?}",
                refused.reason
            );
        }
    }

    for refused in &all {
        let records = eventually(SOON, refused.reason, || {
            let mut records = site.gateway.records();
            records.retain(|record| is_refusal(record, refused));
            (records.len() == 4).then_some(records)
        });
        for record in records {
            assert_eq!(record["sni"], NAME, "{record}");
            assert_eq!(record["ssl_id"], "mtls", "{record}");
            assert_eq!(record["blame"], "client", "{record}");
            assert!(
                record["peer"].as_str().unwrap().starts_with("127.0.0.1:"),
                "{record}"
            );
            let serial = refused.pair.as_ref().map(|pair| {
                let serial = leaf_of(pair).serial_number().to_bn().unwrap();
                serial.to_hex_str().unwrap().to_string()
            });
            assert_eq!(
                record["client_serial"].as_str(),
                serial.as_deref(),
                "{record}"
            );
            let issuer = refused.pair.as_ref().map(|pair| {
                let leaf = leaf_of(pair);
                let name = leaf.issuer_name().entries().next().unwrap();
                format!("CN={}", name.data().to_string().unwrap())
            });
            assert_eq!(
                record["client_issuer"].as_str(),
                issuer.as_deref(),
                "{record}"
            );
        }
    }
    for (reason, count) in [
        ("client_cert_missing", 4),
        ("client_cert_unknown_ca", 12),
        ("client_cert_expired", 4),
        ("client_cert_not_yet_valid", 4),
        ("client_cert_invalid", 4),
    ] {
        assert_eq!(site.failures(reason), count, "{reason}");
    }
}

#[test]
fn depth_counts_the_intermediates_between_client_and_ca() {
    let site = Site::start();
    let root = Ca::root("Client CA");
    let first = root.intermediate("First below");
    let second = first.intermediate("Second below");
    let clients = [
        root.client("none-between"),
        first.client("one-between"),
        second.client("two-between"),
    ];
    let names = ["d0.example.com", "d1.example.com", "d2.example.com"];
    for (depth, name) in names.iter().enumerate() {
        let client = json!({"ca": root.pem(), "depth": depth});
        site.put_ssl(name, name, &json!({"client": client}));
    }
    let client = json!({"ca": root.pem()});
    site.put_ssl("default", "default.example.com", &json!({"client": client}));
    let get = |name: &str, pair: &Pair, version| {
        let client = site.client(name).tls(version).cert(pair);
        client.get(name, "/x").map(|answer| answer.status)
    };
    for version in TlsVersion::ALL {
        for (depth, name) in names.iter().enumerate() {
            for (between, pair) in clients.iter().enumerate() {
                let expected = match between <= depth {
                    true => Ok(200),
                    false => Err(Ended::Alert(alert::UNKNOWN_CA)),
                };
                assert_eq!(
                    get(name, pair, version),
                    expected,
                    "{between} between, depth {depth}, {version:?}"
                );
            }
        }
        assert_eq!(get("default.example.com", &clients[1], version), Ok(200));
        get("default.example.com", &clients[2], version).unwrap_err();
    }
    site.gateway.expect_record("a chain too deep", |record| {
        record["reason"] == "client_chain_too_deep"
            && record["client_subject"] == "CN=two-between"
            && record["ssl_id"] == "default"
    });
}

#[test]
fn an_intermediate_must_be_sent_by_the_client() {
    let site = Site::start();
    let root = Ca::root("Client CA");
    site.put_ssl("mtls", NAME, &json!({"client": {"ca": root.pem()}}));
    let whole = root.intermediate("Below").client("alice");
    let leaf_alone = Pair {
        cert: String::from_utf8(leaf_of(&whole).to_pem().unwrap()).unwrap(),
        key: whole.key.clone(),
    };
    for version in TlsVersion::ALL {
        let client = site.client(NAME).tls(version);
        let served = client.clone().cert(&whole).get(NAME, "/x").unwrap();
        assert_eq!(served.status, 200);
        let refused = client.cert(&leaf_alone).get(NAME, "/x");
        assert_eq!(refused.unwrap_err(), Ended::Alert(alert::UNKNOWN_CA));
    }
}

#[test]
fn every_ca_of_a_bundle_counts() {
    let site = Site::start();
    // The third is the first anew: same name, another key.
    let listed = ["Client CA", "Partner CA", "Client CA"].map(Ca::root);
    let bundle: String = listed.iter().map(Ca::pem).collect();
    site.put_ssl("mtls", NAME, &json!({"client": {"ca": bundle}}));
    for version in TlsVersion::ALL {
        let client = site.client(NAME).tls(version);
        for ca in &listed {
            let served = client.clone().cert(&ca.client("alice")).get(NAME, "/x");
            assert_eq!(served.unwrap().status, 200);
        }
        let unlisted = Ca::root("Partner CA").client("mallory");
        let refused = client.cert(&unlisted).get(NAME, "/x");
        assert_eq!(refused.unwrap_err(), Ended::Alert(alert::UNKNOWN_CA));
    }
}

#[test]
fn keys_of_each_kind_and_form_serve() {
    let site = Site::start();
    for kind in [
        KeyKind::P256,
        KeyKind::P256Sec1,
        KeyKind::Rsa,
        KeyKind::RsaPkcs1,
    ] {
        let pair = site.ca.issue(&Leaf {
            key: kind,
            ..Leaf::server(NAME)
        });
        site.put_ssl_with("web", NAME, &pair, &json!({}));
        for version in TlsVersion::ALL {
            // curl checks the certificate, and with it that the key is in use.
            site.ask(NAME, "/x").tls(version).send().expect_status(200);
        }
        let mut other = pair.clone();
        other.key = site.ca.server(NAME).key;
        let document = json!({"cert": other.cert, "key": other.key, "snis": [NAME]});
        let refused = site.gateway.admin_put("/ssls/web", &document);
        refused.expect_status(400);
    }
}

#[test]
fn rsa_and_p256_certificates_serve_side_by_side_each_with_its_chain() {
    let site = Site::start();
    let issue = |issuer: &str, key| {
        site.ca.intermediate(issuer).issue(&Leaf {
            key,
            ..Leaf::server(NAME)
        })
    };
    let (ec, rsa) = (
        issue("EC below", KeyKind::P256),
        issue("RSA below", KeyKind::Rsa),
    );
    site.put_ssl_with(
        "web",
        NAME,
        &ec,
        &json!({"certs": [rsa.cert], "keys": [rsa.key]}),
    );
    let trusted = site.ca.write(site.folder.path(), "trusted");
    for flag in ["-tls1_2", "-tls1_3"] {
        for (algorithms, shown, issuer) in [
            ("RSA-PSS+SHA256:RSA+SHA256", "RSA-PSS", "RSA below"),
            ("ECDSA+SHA256", "ECDSA", "EC below"),
        ] {
            let port = site.gateway.https_port();
            let trust = trusted.to_str().unwrap();
            let args = [
                flag,
                "-servername",
                NAME,
                "-sigalgs",
                algorithms,
                "-CAfile",
                trust,
                "-verify_return_error",
            ];
            let request = format!("GET /x HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n");
            let said = openssl_s_client(port, &args, &request);
            assert!(
                said.stdout.contains("HTTP/1.1 200 OK"),
                "{flag} {algorithms}: {said:?}"
            );
            let line = format!("Peer signature type: {shown}");
            assert!(said.stdout.contains(&line), "{flag}: {}", said.stdout);
            let line = format!("1 s:CN = {issuer}");
            assert!(said.stdout.contains(&line), "{flag}: {}", said.stdout);
        }
    }
}

/// The lines of nginx's error page apart from its footer.
fn page(body: &str) -> Vec<&str> {
    body.lines()
        .take_while(|line| !line.starts_with("<hr>"))
        .collect()
}

#[test]
fn optional_mode_lets_pass_who_shows_nothing_and_no_bad_certificate() {
    let site = Site::start();
    let ca = Ca::root("Client CA");
    let client = json!({"ca": ca.pem(), "mode": "optional"});
    site.put_ssl("mtls", NAME, &json!({"client": client}));
    for version in TlsVersion::ALL {
        let client = site.client(NAME).tls(version);
        assert_eq!(client.get(NAME, "/x").unwrap().status, 200);
        let good = client.clone().cert(&ca.client("alice"));
        assert_eq!(good.get(NAME, "/x").unwrap().status, 200);
        let bad = client.cert(&Ca::root("Other CA").client("mallory"));
        let refused = bad.get(NAME, "/x").unwrap_err();
        assert_eq!(refused, Ended::Alert(alert::UNKNOWN_CA));
    }
    let served = |subject: Option<&str>| {
        site.gateway.expect_record("a served request", |record| {
            record["status"] == 200 && record["client_subject"].as_str() == subject
        });
    };
    served(None);
    served(Some("CN=alice"));
}

#[test]
fn deferred_mode_answers_with_the_pages_of_nginx() {
    let site = Site::start();
    let ca = Ca::root("Client CA");
    let client = json!({"ca": ca.pem(), "mode": "deferred"});
    site.put_ssl("mtls", NAME, &json!({"client": client}));
    let nginx = Origin::nginx(&Nginx::mutual(site.ca.server(NAME), ca.pem()));
    let alice = ca.client("alice");
    let mallory = Ca::root("Other CA").client("mallory");
    for version in TlsVersion::ALL {
        let ask = |port, pair: Option<&Pair>| {
            let mut client = TlsClient::new(port).sni(NAME).tls(version);
            if let Some(pair) = pair {
                client = client.cert(pair);
            }
            client.connect().unwrap()
        };
        for pair in [None, Some(&mallory)] {
            let theirs = ask(nginx.port(), pair).get(NAME, "/x").unwrap();
            let mut conn = ask(site.gateway.https_port(), pair);
            let ours = conn.get(NAME, "/x").unwrap();
            assert_eq!((ours.status, theirs.status), (400, 400));
            assert_eq!(page(&ours.body), page(&theirs.body));
            assert_eq!(ours.header("connection"), Some("close"));
            conn.expect_end();
        }
        let mut conn = ask(site.gateway.https_port(), Some(&alice));
        assert_eq!(conn.get(NAME, "/x").unwrap().status, 200);
    }
    for (reason, subject) in [
        ("client_cert_missing", None),
        ("client_cert_unknown_ca", Some("CN=mallory")),
    ] {
        let record = site.gateway.expect_record(reason, |record| {
            record["reason"] == reason && record["client_subject"].as_str() == subject
        });
        assert_eq!(
            (&record["kind"], &record["status"]),
            (&json!("request"), &json!(400))
        );
        assert_eq!(record["ssl_id"], "mtls");
    }
}

#[test]
fn skip_patterns_let_pass_paths_that_can_be_read_in_one_way_only() {
    let site = Site::start();
    let ca = Ca::root("Client CA");
    let client = json!({"ca": ca.pem(), "skip_mtls_uri_regex": ["^/public/", "/open$"]});
    site.put_ssl("mtls", NAME, &json!({"client": client}));
    let mallory = Ca::root("Other CA").client("mallory");
    let alice = ca.client("alice");
    let ask = |pair: Option<&Pair>, path: &str| {
        let mut client = site.client(NAME);
        if let Some(pair) = pair {
            client = client.cert(pair);
        }
        let answer = client.get(NAME, path).unwrap();
        // Nothing that was refused came through.
        assert_eq!(
            answer.body.contains("uri="),
            answer.status == 200,
            "{answer:?}"
        );
        answer.status
    };
    for (path, status) in [
        ("/public/x", 200),
        ("/public/", 200),
        ("/public/x?y=/../z", 200),
        ("/x/open", 200),
        ("/public/%c3%a9", 200),
        ("/public", 400),
        ("/private", 400),
        ("/private/public/", 400),
        ("/private?/open", 400),
        ("/private?x=/public/", 400),
        // Matches as normalised, not as sent.
        ("/%70ublic/x", 400),
    ] {
        assert_eq!(ask(None, path), status, "{path}");
        assert_eq!(ask(Some(&mallory), path), status, "{path}");
        assert_eq!(ask(Some(&alice), path), 200, "{path}");
    }
    let tricks = [
        "/public/../private",
        "/public/./x",
        "/public/..",
        "/public/%2e%2e/private",
        "/public/%2E./private",
        "/public/x%2fy",
        "/public/%2Fprivate",
        "/public/x%5cy",
        "/public\\..\\private",
        "/public//x",
        "//public/x",
        "/public/..;/private",
        "/public/%252e%252e/private",
        "/public/%zz",
        "/public/%",
        "/public/%00",
    ];
    for path in tricks {
        assert_eq!(ask(None, path), 400, "{path}");
        assert_eq!(ask(Some(&mallory), path), 400, "{path}");
        // Nor does a good certificate make such a path fit for this name.
        assert_eq!(ask(Some(&alice), path), 400, "{path}");
        site.gateway.expect_record(path, |record| {
            let logged = path.replace('\\', "\\x5c");
            record["path"] == json!(logged) && record["reason"] == "path_invalid"
        });
    }

    // The same name without such patterns takes the paths that can be read at all.
    site.put_ssl("mtls", NAME, &json!({"client": {"ca": ca.pem()}}));
    for path in &tricks[..13] {
        assert_eq!(ask(Some(&alice), path), 200, "{path}");
    }
}

#[test]
fn each_request_of_a_connection_is_judged_by_its_own_path() {
    let site = Site::start();
    let ca = Ca::root("Client CA");
    let client = json!({"ca": ca.pem(), "skip_mtls_uri_regex": ["^/public/"]});
    site.put_ssl("mtls", NAME, &json!({"client": client}));
    let (alice, mallory) = (ca.client("alice"), Ca::root("Other CA").client("mallory"));
    for version in TlsVersion::ALL {
        for (pair, refusal) in [
            (None, "No required SSL certificate was sent"),
            (Some(&mallory), "The SSL certificate error"),
        ] {
            let mut client = site.client(NAME).tls(version);
            if let Some(pair) = pair {
                client = client.cert(pair);
            }
            let mut conn = client.connect().unwrap();
            let mut second = H2Conn::connect(&client).unwrap();
            for _ in 0..3 {
                assert_eq!(conn.get(NAME, "/public/x").unwrap().status, 200);
                assert_eq!(second.get(NAME, "/public/x").unwrap().status, 200);
            }
            for path in ["/private", "/public/../private", "/public/%2e%2e/private"] {
                let mut conn = client.connect().unwrap();
                assert_eq!(conn.get(NAME, "/public/x").unwrap().status, 200);
                let mut second = H2Conn::connect(&client).unwrap();
                assert_eq!(second.get(NAME, "/public/x").unwrap().status, 200);
                for refused in [conn.get(NAME, path), second.get(NAME, path)] {
                    let refused = refused.unwrap();
                    assert_eq!(refused.status, 400, "{path}: {refused:?}");
                    let is_told = refused.body.contains(refusal);
                    assert_eq!(is_told, path == "/private", "{path}: {refused:?}");
                }
            }
            let refused = conn.get(NAME, "/private").unwrap();
            let over_http2 = second.get(NAME, "/private").unwrap();
            assert_eq!((refused.status, over_http2.status), (400, 400));
            assert_eq!(page(&refused.body), page(&over_http2.body));
        }
        // Whoever has a certificate has all of them, over one connection.
        let client = site.client(NAME).tls(version).cert(&alice);
        let mut conn = client.connect().unwrap();
        let mut second = H2Conn::connect(&client).unwrap();
        for path in ["/public/x", "/private", "/public/x", "/private"] {
            assert_eq!(conn.get(NAME, path).unwrap().status, 200, "{path}");
            assert_eq!(second.get(NAME, path).unwrap().status, 200, "{path}");
        }
    }
}

#[test]
fn intermediate_without_its_root_lets_nobody_in_as_in_nginx() {
    let site = Site::start();
    let root = Ca::root("Client Root");
    let below = root.intermediate("Below");
    let alice = below.client("alice");
    let files = site.write(&alice, "alice");
    let both = format!("{}{}", below.pem(), root.pem());
    for (ca, is_let_in) in [(below.pem(), false), (both, true)] {
        let written = site.put_ssl("web", NAME, &json!({"client": {"ca": ca}}));
        let told = written.header("x-portcullis-warning").unwrap_or_default();
        let is_told = told.starts_with("client_ca_without_root /client/ca ");
        assert_eq!(is_told, !is_let_in, "{written:?}");
        let nginx = Origin::nginx(&Nginx::mutual(site.ca.server(NAME), ca));
        for version in TlsVersion::ALL {
            let url = format!("https://{NAME}:{}/", nginx.port());
            let asked = Curl::new(&url)
                .resolve(NAME, nginx.port())
                .args(&["-k"])
                .tls(version)
                .cert(&files)
                .send();
            asked.expect_status(if is_let_in { 200 } else { 400 });
            let answer = site.client(NAME).tls(version).cert(&alice).get(NAME, "/");
            assert_eq!(answer.is_ok(), is_let_in, "{version:?} {answer:?}");
        }
    }
}
