//! Mutual TLS towards upstreams: what is shown, what is checked, what is named when it fails.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::json;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::support::gateway::{ADMIN_KEY, Gateway, Setup, field};
use crate::support::origin::{ClosedPort, Nginx, Origin, TcpOrigin, seen};
use crate::support::pki::{Ca, KeyKind, Leaf, Pair, Usage, Validity};
use crate::support::upstream::{Cases, NAME, checking, record_of, showing, speaking, upstream};
use crate::support::{SOON, TlsVersion, eventually, patiently, program, run_to_end};

/// Runs a script as an operator types it, in `folder`.
#[track_caller]
fn type_in(folder: &Path, script: &str) -> String {
    let mut command = program("bash");
    command
        .args(["-euo", "pipefail", "-c", script])
        .current_dir(folder);
    let finished = run_to_end(command, b"", 3 * SOON);
    assert!(finished.status.success(), "{script}: {finished:?}");
    finished.stdout
}

#[test]
fn the_documents_flow_works_as_typed_and_without_its_client_certificate_gets_502() {
    let folder = TempDir::new().unwrap();
    let root = env!("CARGO_MANIFEST_DIR");
    type_in(folder.path(), &format!("{root}/certs/make-demo pki"));
    let pki = folder.path().join("pki");
    let read = |name: &str| fs::read_to_string(pki.join(name)).unwrap();
    let tls = Pair {
        cert: read("upstream.crt"),
        key: read("upstream.key"),
    };
    let origin = Origin::nginx(&Nginx {
        directives: r#"
            server_name upstream.test.local;
            location /anything {
                return 200 "upstream-mtls-ok client=$ssl_client_s_dn\n";
                add_header Content-Type text/plain;
            }"#
        .to_owned(),
        ..Nginx::mutual(tls, read("ca.crt"))
    });
    let gateway = Gateway::start();
    let typed = |script: &str| {
        let script = script
            .replace("{group_id}", "default")
            .replace("${API_KEY}", ADMIN_KEY)
            .replace(":7443", &format!(":{}", gateway.port("admin_https")))
            .replace(":9080", &format!(":{}", gateway.port("http")))
            .replace("192.0.2.10", "127.0.0.1")
            .replace("8443", &origin.port().to_string())
            .replace("curl ", "curl -sS ");
        type_in(&pki, &script)
    };
    let with_certificate = r#"
CLIENT_CRT=$(awk 1 ORS='\\n' client.crt)
CLIENT_KEY=$(awk 1 ORS='\\n' client.key)
CA_CRT=$(awk 1 ORS='\\n' ca.crt)

curl -k "https://localhost:7443/apisix/admin/services/upstream-mtls?gateway_group_id={group_id}" -X PUT \
-H "X-API-KEY: ${API_KEY}" \
-H "Content-Type: application/json" \
-d "{
\"name\": \"upstream-mtls\",
\"upstream\": {
\"type\": \"roundrobin\",
\"scheme\": \"https\",
\"pass_host\": \"rewrite\",
\"upstream_host\": \"upstream.test.local\",
\"nodes\": [
{ \"host\": \"192.0.2.10\", \"port\": 8443, \"weight\": 1 }
],
\"tls\": {
\"client_cert\": \"${CLIENT_CRT}\",
\"client_key\": \"${CLIENT_KEY}\",
\"verify\": true,
\"ca_certs\": [\"${CA_CRT}\"]
}
}
}"
"#;
    let route = r#"
curl -k "https://localhost:7443/apisix/admin/routes/upstream-mtls?gateway_group_id={group_id}" -X PUT \
-H "X-API-KEY: ${API_KEY}" \
-H "Content-Type: application/json" \
-d '{
"name": "upstream-mtls",
"service_id": "upstream-mtls",
"paths": ["/*"]
}'
"#;
    let request = r#"curl -i "http://127.0.0.1:9080/anything""#;
    // The document's "remove tls.client_cert and tls.client_key and re-apply".
    let without_certificate: String = with_certificate
        .lines()
        .filter(|line| !line.starts_with(r#"\"client_"#))
        .map(|line| format!("{line}\n"))
        .collect();

    typed(with_certificate);
    typed(route);
    let expect_served = || {
        let said = typed(request);
        assert!(said.starts_with("HTTP/1.1 200 OK\r\n"), "{said}");
        let answer = "upstream-mtls-ok client=CN=api7-gateway\n";
        assert!(said.ends_with(answer), "{said}");
    };
    // Often enough that each worker has connections and sessions to keep.
    for _ in 0..6 {
        expect_served();
    }

    typed(&without_certificate);
    for _ in 0..4 {
        let said = typed(request);
        assert!(said.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{said}");
        assert!(!said.contains("upstream-mtls-ok"), "{said}");
    }
    gateway.expect_record("a refusal with its cause", |record| {
        field(record, "reason") == Some("upstream_wants_client_cert")
            && record["status"] == 502
            && field(record, "service_id") == Some("upstream-mtls")
            && field(record, "route_id") == Some("upstream-mtls")
    });

    typed(with_certificate);
    expect_served();
}

#[test]
fn client_certificate_in_each_form_is_shown_to_the_upstream() {
    let root = Ca::root("Client CA");
    let below = root.intermediate("Below");
    let server = Ca::root("Server CA").server(NAME);
    let origin = Origin::nginx(&Nginx {
        directives: "ssl_verify_depth 2;".to_owned(),
        ..Nginx::mutual(server, root.pem())
    });
    let mut cases = Cases::start();
    for version in TlsVersion::ALL {
        for key in [
            KeyKind::P256,
            KeyKind::P256Sec1,
            KeyKind::Rsa,
            KeyKind::RsaPkcs1,
        ] {
            let order = Leaf {
                key,
                ..Leaf::client("gateway")
            };
            for (case, pair) in [
                ("below the root", root.issue(&order)),
                ("with its intermediate", below.issue(&order)),
            ] {
                let body =
                    cases.expect_served(case, &upstream(&origin.node(), &showing(&pair, version)));
                assert_eq!(seen(&body, "dn"), "CN=gateway");
                assert_eq!(seen(&body, "verify"), "SUCCESS");
            }
        }
    }
}

#[test]
fn certificate_of_an_ssl_of_type_client_is_shown_and_follows_its_rotation() {
    let ca = Ca::root("CA");
    let origin = Origin::nginx(&Nginx::mutual(ca.server(NAME), ca.pem()));
    let gateway = Gateway::start();
    let rotate = |name: &str| {
        let pair = ca.client(name);
        let ssl = json!({"type": "client", "cert": pair.cert, "key": pair.key});
        gateway.configure("/ssls/identity", &ssl);
    };
    rotate("first");
    let tls = json!({"client_cert_id": "identity"});
    let route = json!({"uri": "/*", "upstream": upstream(&origin.node(), &tls)});
    gateway.configure("/routes/r", &route);
    let mut client = gateway.connect();
    for name in ["first", "second"] {
        rotate(name);
        for _ in 0..3 {
            let reply = client.get("api.example.com", "/", &[]).expect_status(200);
            assert_eq!(seen(&reply.text(), "dn"), format!("CN={name}"));
        }
    }
}

#[test]
fn upstreams_own_400_is_passed_on_and_nginx_ones_too_where_the_config_says_so() {
    let ca = Ca::root("CA");
    // Asks for a certificate, and answers 400 for reasons of its own.
    let picky = Origin::nginx(&Nginx {
        directives: "ssl_verify_client optional_no_ca; location /case- { return 400; }".to_owned(),
        ..Nginx::tls(ca.server(NAME))
    });
    let mut cases = Cases::start();
    let good = showing(&ca.client("gateway"), TlsVersion::V13);
    let (reply, path) = cases.ask(&upstream(&picky.node(), &good));
    assert_eq!(reply.status, 400, "{reply:?}");
    assert!(reply.text().contains("nginx"), "{reply:?}");
    let record = record_of(&cases.gateway, &path);
    assert_eq!(field(&record, "reason"), None, "{record}");

    let mutual = Origin::nginx(&Nginx::mutual(ca.server(NAME), ca.pem()));
    let mut passing = Cases::of(Setup::default().set("proxy.nginx_400", "pass").start());
    let (reply, _) = passing.ask(&upstream(&mutual.node(), &speaking(TlsVersion::V13)));
    assert_eq!(reply.status, 400);
    let title = "400 No required SSL certificate was sent";
    assert!(reply.text().contains(title), "{reply:?}");
}

#[test]
fn verification_decides_by_ca_name_and_validity_and_is_off_unless_asked_for() {
    let ca = Ca::root("Upstream CA");
    let below = ca.intermediate("Below");
    let other = Ca::root("Other CA");
    let dated = |validity| {
        ca.issue(&Leaf {
            validity,
            ..Leaf::server(NAME)
        })
    };
    let common_name_only = ca.issue(&Leaf {
        dns_names: Vec::new(),
        usage: Usage::Unsaid,
        ..Leaf::server(NAME)
    });
    let common_name_beside_a_san = ca.issue(&Leaf {
        common_name: NAME.to_owned(),
        ..Leaf::server("else.example.com")
    });
    let common_name_beside_a_uri = ca.issue(&Leaf {
        dns_names: Vec::new(),
        uris: vec!["spiffe://example.com/up".to_owned()],
        ..Leaf::server(NAME)
    });
    let wildcard = ca.server("*.example.com");
    let partial_wildcard = ca.server("u*.example.com");
    let for_clients = ca.issue(&Leaf {
        usage: Usage::Client,
        ..Leaf::server(NAME)
    });
    let unknown = Some("upstream_ca_unknown");
    let mismatch = Some("upstream_name_mismatch");
    let mut cases = Cases::start();
    for (case, server, reason) in [
        ("its CA", ca.server(NAME), None),
        ("its CA, an intermediate between", below.server(NAME), None),
        ("a wildcard", wildcard, None),
        ("its common name, no other", common_name_only, None),
        ("another CA", other.server(NAME), unknown),
        (
            "another CA of the same name",
            Ca::root("Upstream CA").server(NAME),
            unknown,
        ),
        ("self-signed", Leaf::server(NAME).self_signed(), unknown),
        (
            "expired",
            dated(Validity::Expired),
            Some("upstream_cert_expired"),
        ),
        (
            "not yet valid",
            dated(Validity::NotYet),
            Some("upstream_cert_not_yet_valid"),
        ),
        ("another name", ca.server("else.example.com"), mismatch),
        (
            "another name in the SAN",
            common_name_beside_a_san,
            mismatch,
        ),
        (
            "its common name beside a URI",
            common_name_beside_a_uri,
            mismatch,
        ),
        ("a partial wildcard", partial_wildcard, mismatch),
        (
            "a client's certificate",
            for_clients,
            Some("upstream_cert_invalid"),
        ),
    ] {
        let origin = Origin::nginx(&Nginx::tls(server));
        for version in TlsVersion::ALL {
            let checked = upstream(&origin.node(), &checking(&ca.pem(), version));
            match reason {
                None => drop(cases.expect_served(case, &checked)),
                Some(reason) => cases.expect_refused(case, &checked, 502, reason),
            }
            for verify in [Some(false), None] {
                let mut tls = speaking(version);
                if let Some(verify) = verify {
                    tls["verify"] = verify.into();
                }
                cases.expect_served(case, &upstream(&origin.node(), &tls));
            }
        }
    }
}

#[test]
fn every_ca_of_ca_certs_counts() {
    let (first, second, third) = (Ca::root("1"), Ca::root("2"), Ca::root("3"));
    let mut cases = Cases::start();
    let bundle = format!("{}{}", first.pem(), second.pem());
    let tls = json!({"verify": true, "ca_certs": [bundle, third.pem()]});
    for ca in [&first, &second, &third] {
        let origin = Origin::nginx(&Nginx::tls(ca.server(NAME)));
        cases.expect_served("listed", &upstream(&origin.node(), &tls));
    }
    let origin = Origin::nginx(&Nginx::tls(Ca::root("4").server(NAME)));
    let unlisted = upstream(&origin.node(), &tls);
    cases.expect_refused("unlisted", &unlisted, 502, "upstream_ca_unknown");
}

#[test]
fn node_that_cannot_be_reached_is_named_by_how_it_fails() {
    let closed = ClosedPort::new();
    let full = FullListener::new();
    let silent = TcpOrigin::silent();
    let mut cases = Cases::start();
    for scheme in ["http", "https"] {
        let to = |node: &str| json!({"scheme": scheme, "nodes": {node: 1}});
        cases.expect_refused("refused", &to(&closed.node()), 502, "upstream_refused");
        let nowhere = to("nowhere.invalid:80");
        cases.expect_refused("unresolvable", &nowhere, 503, "upstream_unresolvable");
        let (mut queued, late) = (to(&full.node()), "upstream_timeout");
        queued["timeout"] = json!({"connect": 0.3, "send": 5, "read": 5});
        cases.expect_refused("connects too late", &queued, 504, late);
    }
    let mute = json!({
        "scheme": "https",
        "nodes": {silent.node(): 1},
        "timeout": {"connect": 0.3, "send": 5, "read": 5},
    });
    cases.expect_refused("shakes no hands", &mute, 504, "upstream_timeout");
}

/// A listening port whose queue is full, so that connecting to it takes for ever.
struct FullListener {
    socket: Socket,
    _waiting: Vec<TcpStream>,
}

impl FullListener {
    fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket
            .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
            .unwrap();
        socket.listen(1).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        // Less than until a SYN is sent again.
        let wait = Duration::from_millis(900);
        let fill = || TcpStream::connect_timeout(&address, wait).ok();
        Self {
            _waiting: std::iter::from_fn(fill).take(64).collect(),
            socket,
        }
    }

    fn node(&self) -> String {
        self.socket
            .local_addr()
            .unwrap()
            .as_socket()
            .unwrap()
            .to_string()
    }
}

#[test]
fn gateways_own_admin_and_status_addresses_are_no_nodes() {
    let mut cases = Cases::start();
    for listener in ["admin", "admin_https", "status"] {
        let port = cases.gateway.port(listener);
        let scheme = if listener == "admin_https" {
            "https"
        } else {
            "http"
        };
        // What a name means is known only when it is dialled.
        let node = json!([{"host": "localhost", "port": port, "weight": 1}]);
        let upstream = json!({"scheme": scheme, "nodes": node});
        cases.expect_refused("localhost", &upstream, 502, "upstream_is_self");
        for host in [
            "127.0.0.1",
            "0.0.0.0",
            "127.1",
            "0x7f.0.0.1",
            "[::]",
            "[::ffff:127.0.0.1]",
        ] {
            let origin = json!({"host": "127.0.0.1", "port": 1, "weight": 1});
            let node = json!({"host": host, "port": port, "weight": 0});
            let upstream = json!({"scheme": scheme, "nodes": [origin, node]});
            let inline = json!({"uri": "/own", "upstream": upstream});
            for (path, document) in [
                ("/upstreams/own", &upstream),
                ("/services/own", &json!({"upstream": upstream})),
                ("/routes/own", &inline),
            ] {
                let refused = cases.gateway.admin_put(path, document).expect_status(400);
                let told = refused.json()["error_msg"].to_string();
                for word in ["`nodes`", host, &port.to_string(), "of this gateway"] {
                    assert!(told.contains(word), "{path} {word}: {told}");
                }
                cases.gateway.admin_get(path).expect_status(404);
            }
        }
    }
    let origin = Origin::nginx(&Nginx::default());
    cases.expect_served("another port here", &json!({"nodes": {origin.node(): 1}}));
}

#[test]
fn upstream_is_offered_the_ciphers_and_groups_that_its_tls_chooses() {
    let ca = Ca::root("CA");
    let origin = Origin::nginx(&Nginx::tls(ca.server(NAME)));
    // It takes one cipher of each version, another one than is chosen below.
    let narrow = Origin::nginx(&Nginx {
        directives: "ssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256;
            ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;"
            .to_owned(),
        ..Nginx::tls(ca.server(NAME))
    });
    let mut cases = Cases::start();
    for (version, chosen, common) in [
        (
            TlsVersion::V12,
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            "ECDHE-ECDSA-AES128-GCM-SHA256",
        ),
        (
            TlsVersion::V13,
            "TLS_AES_256_GCM_SHA384",
            "TLS_AES_128_GCM_SHA256",
        ),
    ] {
        let offering = |ciphers: &str, group: &str| {
            let mut tls = checking(&ca.pem(), version);
            tls["ciphers"] = ciphers.into();
            tls["groups"] = group.into();
            tls
        };
        for group in ["secp384r1", "secp521r1"] {
            // With TLS 1.2 the curve of the upstream's certificate must be among them.
            let tls = offering(chosen, &format!("{group}:P-256"));
            let body = cases.expect_served(chosen, &upstream(&origin.node(), &tls));
            assert_eq!(
                (seen(&body, "cipher"), seen(&body, "curve")),
                (chosen, group)
            );
        }
        let refused = upstream(&narrow.node(), &offering(chosen, "P-384:P-256"));
        cases.expect_refused(chosen, &refused, 502, "upstream_no_shared_cipher");
        let both = format!("{chosen}:{common}");
        let body = cases.expect_served(
            &both,
            &upstream(&narrow.node(), &offering(&both, "P-384:P-256")),
        );
        assert_eq!(seen(&body, "cipher"), common);
    }
    // What both versions have stands in one list.
    let list = "ECDHE-ECDSA-AES256-GCM-SHA384:TLS_AES_128_GCM_SHA256";
    let body = cases.expect_served("both", &upstream(&origin.node(), &json!({"ciphers": list})));
    assert_eq!(seen(&body, "cipher"), "TLS_AES_128_GCM_SHA256");
}

#[test]
fn session_of_an_upstream_is_resumed_by_the_next_connection() {
    let ca = Ca::root("CA");
    let origin = Origin::nginx(&Nginx::mutual(ca.server(NAME), ca.pem()));
    let gateway = Gateway::start();
    for version in TlsVersion::ALL {
        let mut tls = showing(&ca.client("gateway"), version);
        tls["verify"] = true.into();
        tls["ca_certs"] = json!([ca.pem()]);
        let mut upstream = upstream(&origin.node(), &tls);
        upstream["keepalive_pool"] = json!({"requests": 1});
        gateway.configure("/routes/r", &json!({"uri": "/*", "upstream": upstream}));
        let mut client = gateway.connect();
        let mut seen_reused = Vec::new();
        for _ in 0..4 {
            let reply = client.get("api.example.com", "/", &[]).expect_status(200);
            assert_eq!(seen(&reply.text(), "dn"), "CN=gateway");
            seen_reused.push(seen(&reply.text(), "reused") == "r");
        }
        assert_eq!(seen_reused, [false, true, true, true], "{version:?}");
    }
}

#[test]
fn upstream_whose_certificate_ends_is_refused_though_it_would_resume() {
    patiently(|limit| {
        let ca = Ca::root("CA");
        let brief = ca.issue(&Leaf {
            validity: Validity::For(3 * limit),
            ..Leaf::server(NAME)
        });
        let origin = Origin::nginx(&Nginx::tls(brief));
        let gateway = Gateway::start();
        for (path, version) in ["/v12", "/v13"].into_iter().zip(TlsVersion::ALL) {
            let mut upstream = upstream(&origin.node(), &checking(&ca.pem(), version));
            upstream["keepalive_pool"] = json!({"requests": 1});
            gateway.configure(
                &format!("/routes{path}"),
                &json!({"uri": path, "upstream": upstream}),
            );
            let mut client = gateway.connect();
            for is_resumed in [false, true] {
                let reply = client.get("api.example.com", path, &[]).expect_status(200);
                assert_eq!(seen(&reply.text(), "reused") == "r", is_resumed);
            }
        }
        for path in ["/v12", "/v13"] {
            eventually(3 * limit + SOON, "the certificate ends", || {
                let reply = gateway.connect().get("api.example.com", path, &[]);
                (reply.status == 502).then_some(())
            });
            gateway.expect_record("an upstream's expired certificate", |record| {
                field(record, "path") == Some(path)
                    && field(record, "reason") == Some("upstream_cert_expired")
            });
        }
    });
}

#[test]
fn new_connections_to_a_warm_upstream_resume_its_sessions() {
    const CLIENTS: usize = 4;
    const EACH: usize = 100;
    let ca = Ca::root("CA");
    let origin = Origin::nginx(&Nginx::mutual(ca.server(NAME), ca.pem()));
    for version in TlsVersion::ALL {
        let gateway = Gateway::start();
        let mut tls = checking(&ca.pem(), version);
        for (member, value) in showing(&ca.client("gateway"), version).as_object().unwrap() {
            tls[member] = value.clone();
        }
        let mut upstream = upstream(&origin.node(), &tls);
        // Each request opens a connection.
        upstream["keepalive_pool"] = json!({"requests": 1});
        gateway.configure("/routes/r", &json!({"uri": "/*", "upstream": upstream}));
        let ask_all = |each: usize| -> usize {
            thread::scope(|scope| {
                let ask = || {
                    let mut client = gateway.connect();
                    let ask = |_: &usize| {
                        let reply = client.get("api.example.com", "/", &[]).expect_status(200);
                        seen(&reply.text(), "reused") == "r"
                    };
                    (0..each).filter(ask).count()
                };
                let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(ask)).collect();
                clients
                    .into_iter()
                    .map(|client| client.join().unwrap())
                    .sum()
            })
        };
        ask_all(5);
        let (resumed, all) = (ask_all(EACH), CLIENTS * EACH);
        assert!(resumed * 100 >= all * 99, "{version:?}: {resumed} of {all}");
    }
}

#[test]
fn record_names_upstream_node_and_name_whether_it_went_well_or_not() {
    let ca = Ca::root("CA");
    let origin = Origin::nginx(&Nginx::mutual(ca.server(NAME), ca.pem()));
    let gateway = Gateway::start();
    let configure = |ca_certs: String| {
        let mut tls = showing(&ca.client("gateway"), TlsVersion::V13);
        tls["verify"] = true.into();
        tls["ca_certs"] = json!([ca_certs]);
        gateway.configure("/upstreams/backend", &upstream(&origin.node(), &tls));
    };
    configure(ca.pem());
    let service = json!({"upstream_id": "backend"});
    gateway.configure("/services/orders", &service);
    gateway.configure("/routes/all", &json!({"uri": "/*", "service_id": "orders"}));
    let mut client = gateway.connect();
    let mut ask = |path: &str| {
        let status = client.get("api.example.com", path, &[]).status;
        let record = record_of(&gateway, path);
        assert_eq!(record["status"], status, "{record}");
        for (name, value) in [
            ("kind", "request"),
            ("listener", "http"),
            ("authority", "api.example.com"),
            ("method", "GET"),
            ("route_id", "all"),
            ("service_id", "orders"),
            ("upstream_id", "backend"),
            ("node", &origin.node()),
            ("upstream_sni", NAME),
        ] {
            assert_eq!(field(&record, name), Some(value), "{name}: {record}");
        }
        (status, record)
    };
    let (status, record) = ask("/good");
    assert_eq!((status, field(&record, "reason")), (200, None), "{record}");
    configure(Ca::root("Other").pem());
    let (status, record) = ask("/bad");
    assert_eq!(status, 502);
    assert_eq!(field(&record, "reason"), Some("upstream_ca_unknown"));
    assert_eq!(field(&record, "blame"), Some("upstream"));
    let detail = field(&record, "detail").unwrap_or_default();
    assert!(detail.contains("certificate verify failed"), "{record}");
}
