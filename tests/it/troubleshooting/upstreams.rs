//! Between the gateway and its upstreams: the first document's table, and the recipe's 502.

use std::collections::HashSet;
use std::io::Write;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::expect_exactly;
use crate::support::TlsVersion;
use crate::support::client::Curl;
use crate::support::gateway::{Gateway, Setup, field};
use crate::support::h2_origin::H2Origin;
use crate::support::origin::{ClosedPort, Nginx, Origin, TcpOrigin, seen};
use crate::support::pki::{Ca, Leaf, Pair, Validity};
use crate::support::raw::{RawReply, request};
use crate::support::upstream::{NAME, checking, record_of, showing, speaking, upstream};

const WANTS: &str = "upstream_wants_client_cert";
const REJECTED: &str = "upstream_rejected_our_cert";

/// What records say of nginx's pages.
const NO_CERTIFICATE: &str = "nginx answered: 400 No required SSL certificate was sent";
const BAD_CERTIFICATE: &str = "nginx answered: 400 The SSL certificate error";
const PLAIN_HTTP: &str = "nginx answered: 400 The plain HTTP request was sent to HTTPS port";

/// A gateway with one service, `backend`, and one route to it for every path, `all`.
struct Stage {
    gateway: Gateway,
    count: usize,
}

impl Stage {
    fn start() -> Self {
        Self::with(Setup::default())
    }

    fn with(setup: Setup) -> Self {
        let gateway = setup.start();
        Self { gateway, count: 0 }
    }

    /// Applies the service anew, with this upstream.
    #[track_caller]
    fn apply(&self, upstream: &Value) {
        let service = json!({"upstream": upstream});
        self.gateway.configure("/services/backend", &service);
        let route = json!({"uri": "/*", "service_id": "backend"});
        self.gateway.configure("/routes/all", &route);
    }

    /// Asks over a connection of its own; the path is new, so that its record is found.
    #[track_caller]
    fn ask(&mut self) -> (RawReply, Value) {
        self.count += 1;
        let path = format!("/{}", self.count);
        let reply = self.gateway.connect().get("api.example.com", &path, &[]);
        (reply, record_of(&self.gateway, &path))
    }

    #[track_caller]
    fn expect_served(&mut self, case: &str) -> String {
        let (reply, record) = self.ask();
        assert_eq!(reply.status, 200, "{case}: {reply:?} {record}");
        assert_eq!(field(&record, "reason"), None, "{case}: {record}");
        reply.text()
    }

    /// Makes sure of status and record of the next request; `more` is what the record says besides.
    #[track_caller]
    fn expect_refused(&mut self, node: &str, reason: &str, more: &Value) {
        let (reply, record) = self.ask();
        let status = if reason == "upstream_timeout" {
            504
        } else {
            502
        };
        assert_eq!(reply.status, status, "{reason}: {reply:?} {record}");
        assert!(!reply.text().contains(node), "{reply:?}");
        let mut expected = json!({
            "kind": "request",
            "listener": "http",
            "authority": "api.example.com",
            "method": "GET",
            "path": format!("/{}", self.count),
            "status": status,
            "reason": reason,
            "blame": "upstream",
            "route_id": "all",
            "service_id": "backend",
            "upstream_id": "backend",
            "node": node,
        });
        for (member, value) in more.as_object().expect("members") {
            expected[member] = value.clone();
        }
        expect_exactly(&record, &expected);
    }
}

/// What a record says besides of an upstream that was asked for [`NAME`] over TLS.
fn named(detail: &str) -> Value {
    json!({"upstream_sni": NAME, "detail": detail})
}

/// `pair`, shown in this version.
fn to(origin: &Origin, pair: &Pair, version: TlsVersion) -> Value {
    upstream(&origin.node(), &showing(pair, version))
}

/// Who a service may come with: nobody, a stranger, one whose time is over; and the right one.
struct Callers {
    ca: Ca,
    stranger: Pair,
    expired: Pair,
    good: Pair,
}

impl Callers {
    fn new() -> Self {
        let ca = Ca::root("CA");
        Self {
            stranger: Ca::root("CA").client("gateway"),
            expired: ca.issue(&Leaf {
                validity: Validity::Expired,
                ..Leaf::client("gateway")
            }),
            good: ca.client("gateway"),
            ca,
        }
    }
}

/// "The upstream rejected the gateway's client certificate": nginx ends the handshake and says so
/// in a page of its own.
#[test]
fn nginx_that_rejects_our_certificate_is_502_until_it_is_one_it_trusts() {
    let callers = Callers::new();
    let server = callers.ca.server(NAME);
    let origin = Origin::nginx(&Nginx::mutual(server, callers.ca.pem()));
    let mut stage = Stage::start();
    for version in TlsVersion::ALL {
        for (upstream, (reason, page)) in [
            (
                upstream(&origin.node(), &speaking(version)),
                (WANTS, NO_CERTIFICATE),
            ),
            (
                to(&origin, &callers.stranger, version),
                (REJECTED, BAD_CERTIFICATE),
            ),
            (
                to(&origin, &callers.expired, version),
                (REJECTED, BAD_CERTIFICATE),
            ),
        ] {
            stage.apply(&upstream);
            // Again, so that the session nginx gave before it refused is there to be misused.
            for _ in 0..3 {
                stage.expect_refused(&origin.node(), reason, &named(page));
            }
        }
        stage.apply(&to(&origin, &callers.good, version));
        let body = stage.expect_served("trusted");
        assert_eq!(
            (seen(&body, "dn"), seen(&body, "verify")),
            ("CN=gateway", "SUCCESS")
        );
    }
    let said = origin.error_log();
    assert!(
        said.contains("client sent no required SSL certificate"),
        "{said}"
    );
    assert!(
        said.contains("client SSL certificate verify error"),
        "{said}"
    );
}

/// The same by TLS itself. With TLS 1.3 the alert comes after our side of the handshake is done.
#[test]
fn alert_about_our_certificate_is_502_until_it_is_one_the_upstream_trusts() {
    let folder = TempDir::new().unwrap();
    let callers = Callers::new();
    let trust = callers.ca.write(folder.path(), "ca");
    let trust = trust.to_str().unwrap();
    let origin = Origin::openssl_s_server(
        &callers.ca.server(NAME),
        &["-Verify", "1", "-verify_return_error", "-CAfile", trust],
    );
    let mut stage = Stage::start();
    for version in TlsVersion::ALL {
        let missing = match version {
            // TLS 1.2 has no alert of its own for this (RFC 5246 §7.4.6).
            TlsVersion::V12 => "alert handshake failure",
            TlsVersion::V13 => "alert certificate required",
        };
        for (upstream, reason, detail) in [
            (upstream(&origin.node(), &speaking(version)), WANTS, missing),
            (
                to(&origin, &callers.stranger, version),
                REJECTED,
                "alert unknown ca",
            ),
            (
                to(&origin, &callers.expired, version),
                REJECTED,
                "alert certificate expired",
            ),
        ] {
            stage.apply(&upstream);
            for _ in 0..2 {
                stage.expect_refused(&origin.node(), reason, &named(detail));
            }
        }
        stage.apply(&to(&origin, &callers.good, version));
        let body = stage.expect_served("trusted");
        assert!(body.contains("s_server"), "{body}");
    }
}

/// It would be shown the same certificate, and be sent a request that may be half done.
#[test]
fn another_node_is_not_asked_where_the_first_rejects_our_certificate() {
    let folder = TempDir::new().unwrap();
    let callers = Callers::new();
    let trust = callers.ca.write(folder.path(), "ca");
    let trust = trust.to_str().unwrap();
    let server = callers.ca.server(NAME);
    let by_page = Origin::nginx(&Nginx::mutual(server.clone(), callers.ca.pem()));
    let by_alert = Origin::openssl_s_server(
        &server,
        &["-Verify", "1", "-verify_return_error", "-CAfile", trust],
    );
    let other = Origin::nginx(&Nginx::tls(server));
    let (closed, mut stage) = (ClosedPort::new(), Stage::start());
    let node = |port: u16, priority: i64| json!({"host": "127.0.0.1", "port": port, "weight": 1, "priority": priority});
    for version in TlsVersion::ALL {
        for (first, detail) in [(&by_page, BAD_CERTIFICATE), (&by_alert, "alert unknown ca")] {
            let mut upstream = to(first, &callers.stranger, version);
            upstream["nodes"] = json!([node(first.port(), 1), node(other.port(), 0)]);
            stage.apply(&upstream);
            for _ in 0..2 {
                stage.expect_refused(&first.node(), REJECTED, &named(detail));
            }
            // A node that takes no connection is another matter.
            upstream["nodes"][0] = node(closed.port(), 1);
            stage.apply(&upstream);
            stage.expect_served(detail);
        }
    }
}

#[test]
fn late_alert_reaches_a_request_with_a_body_as_502_too() {
    let folder = TempDir::new().unwrap();
    let callers = Callers::new();
    let trust = callers.ca.write(folder.path(), "ca");
    let origin = Origin::openssl_s_server(
        &callers.ca.server(NAME),
        &["-Verify", "1", "-CAfile", trust.to_str().unwrap()],
    );
    let stage = Stage::start();
    stage.apply(&upstream(&origin.node(), &speaking(TlsVersion::V13)));
    let mut client = stage.gateway.connect();
    client.send("POST /up HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 200000\r\n\r\n");
    client.send(vec![b'x'; 200_000]);
    assert_eq!(client.read_reply().status, 502);
    let record = record_of(&stage.gateway, "/up");
    assert_eq!(field(&record, "reason"), Some(WANTS), "{record}");
}

/// A server that closes right after its alert, while our request is unread, resets the connection.
/// Whether our write meets that reset first, or the alert is read first, is chance: so often.
#[test]
fn alert_before_a_reset_is_told_as_that_alert_however_the_request_is_sent() {
    const OFTEN: usize = 10;
    let callers = Callers::new();
    let server = callers.ca.server(NAME);
    let http1 = [(); 2].map(|()| TcpOrigin::mutual(&server, &callers.ca.pem()));
    let http1 = http1.each_ref().map(TcpOrigin::node);
    let http2 = [(); 2].map(|()| H2Origin::mutual(&server, &callers.ca.pem()));
    let http2 = http2.each_ref().map(H2Origin::node);
    let python = Origin::python(&server, &callers.ca.pem());
    let python = [python.node(), python.node()];
    let stage = Stage::start();
    for (scheme, nodes) in [("https", http1), ("https", python), ("grpcs", http2)] {
        for version in TlsVersion::ALL {
            let with = |tls: Value| {
                let mut upstream = upstream(&nodes[0], &tls);
                upstream["nodes"][&nodes[1]] = 1.into();
                upstream["scheme"] = scheme.into();
                stage.apply(&upstream);
            };
            let mut client = stage.gateway.connect();
            for (tls, reason) in [
                (speaking(version), WANTS),
                (showing(&callers.stranger, version), REJECTED),
            ] {
                with(tls);
                for count in 0..OFTEN {
                    for (method, body) in [("GET", ""), ("POST", "a body of its own")] {
                        let case = format!("{scheme}-{}-{version:?}-{reason}", nodes[0]);
                        let path = format!("/{case}-{method}-{count}");
                        let length = format!("Content-Length: {}", body.len());
                        let head = request(method, "api.example.com", &path, &[&length]);
                        client.send(head + body);
                        let reply = client.read_reply();
                        let record = record_of(&stage.gateway, &path);
                        assert_eq!(field(&record, "reason"), Some(reason), "{record}");
                        assert_eq!(reply.status, 502, "{reply:?}");
                    }
                }
            }
            with(showing(&callers.good, version));
            // A path that all of them answer by a head alone, or nearly.
            client
                .get("api.example.com", "/fail", &[])
                .expect_status(200);
        }
    }
    // Nobody else would have said otherwise.
    let url = stage.gateway.status_url("/apisix/prometheus/metrics");
    let page = Curl::new(&url).send().expect_status(200).body;
    assert!(
        page.contains("portcullis_upstream_retries_total 0\n"),
        "{page}"
    );
}

/// "The upstream rejects the connection with an SSL alert, visible in the gateway error log": on
/// standard error, whatever becomes of the records.
#[test]
fn alert_of_an_upstream_is_in_the_log_without_access_records_too() {
    let callers = Callers::new();
    let server = callers.ca.server(NAME);
    let origin = TcpOrigin::mutual(&server, &callers.ca.pem());
    let node = origin.node();
    let stage = Stage::with(Setup::default().set("access_log", "off"));
    let ask = |status| {
        let reply = stage.gateway.connect().get("api.example.com", "/", &[]);
        reply.expect_status(status);
    };
    stage.apply(&upstream(&node, &speaking(TlsVersion::V13)));
    ask(502);
    let told = stage
        .gateway
        .expect_log("the alert", |line| field(line, "reason") == Some(WANTS));
    assert_eq!(told["count"], 1, "{told}");
    for (member, value) in [
        ("level", "WARN"),
        ("detail", "tlsv13 alert certificate required"),
        ("route_id", "all"),
        ("upstream_id", "backend"),
        ("node", node.as_str()),
        ("upstream_sni", NAME),
    ] {
        assert_eq!(field(&told, member), Some(value), "{told}");
    }
    let remedy = field(&told, "remedy").unwrap_or_default();
    assert!(remedy.contains("`tls.client_cert`"), "{told}");

    // What follows soon is one line with its count; what is served is none.
    for _ in 0..3 {
        ask(502);
    }
    let showing = showing(&callers.good, TlsVersion::V13);
    stage.apply(&upstream(&node, &showing));
    ask(200);
    let stopped = stage.gateway.stop();
    let of_it = |line: &&Value| field(line, "reason") == Some(WANTS);
    let lines: Vec<_> = stopped.logs.iter().filter(of_it).collect();
    let all: u64 = lines.iter().filter_map(|line| line["count"].as_u64()).sum();
    assert!(all == 4 && lines.len() < 4, "{lines:#?}");
    assert!(stopped.records.is_empty(), "{:?}", stopped.records);
}

/// The document's experiment: "remove `tls.client_cert` and `tls.client_key` and re-apply".
#[test]
fn service_without_its_client_certificate_is_502_at_once_whatever_the_pool_holds() {
    let callers = Callers::new();
    let server = callers.ca.server(NAME);
    let origin = Origin::nginx(&Nginx::mutual(server, callers.ca.pem()));
    let mut stage = Stage::start();
    for version in TlsVersion::ALL {
        let with = to(&origin, &callers.good, version);
        let mut without = with.clone();
        for member in ["client_cert", "client_key"] {
            without["tls"].as_object_mut().unwrap().shift_remove(member);
        }
        for _ in 0..2 {
            stage.apply(&with);
            // Clients of both workers, at once, so that the pools hold several connections.
            let mut clients: Vec<_> = (0..6).map(|_| stage.gateway.connect()).collect();
            for _ in 0..3 {
                for client in &mut clients {
                    client.send("GET /warm HTTP/1.1\r\nHost: api.example.com\r\n\r\n");
                }
                for client in &mut clients {
                    let body = client.read_reply().expect_status(200).text();
                    assert_eq!(seen(&body, "dn"), "CN=gateway");
                }
            }
            stage.apply(&without);
            for client in &mut clients {
                let reply = client.get("api.example.com", "/cold", &[]);
                assert_eq!(reply.status, 502, "{reply:?}");
            }
            for _ in 0..4 {
                stage.expect_refused(&origin.node(), WANTS, &named(NO_CERTIFICATE));
            }
        }
        stage.apply(&with);
        stage.expect_served("applied again");
    }
}

/// nginx checks certificates request by request, so that its page may come over a connection that
/// has served others, or in a session that was resumed: there it asks for none again.
#[test]
fn nginxs_400_is_recognised_on_kept_connections_and_in_resumed_sessions() {
    let callers = Callers::new();
    let origin = Origin::nginx(&Nginx {
        directives: "ssl_verify_client optional_no_ca;
            location /none { return 496; }
            location /bad { return 495; }"
            .to_owned(),
        ..Nginx::tls(callers.ca.server(NAME))
    });
    let mut stage = Stage::with(Setup::default().set("workers", "1"));
    for version in TlsVersion::ALL {
        for (tls, place, reason) in [
            (speaking(version), "/none", WANTS),
            (showing(&callers.stranger, version), "/bad", REJECTED),
        ] {
            for (requests, is_resumed) in [(1000, false), (1, true)] {
                let mut upstream = upstream(&origin.node(), &tls);
                upstream["keepalive_pool"] = json!({"requests": requests});
                stage.apply(&upstream);
                let warm: Vec<String> = (0..3).map(|_| stage.expect_served("warm")).collect();
                let connections: HashSet<&str> =
                    warm.iter().map(|body| seen(body, "connection")).collect();
                assert_eq!(connections.len() > 1, is_resumed, "{warm:?}");
                assert_eq!(seen(&warm[2], "reused") == "r", is_resumed, "{warm:?}");

                let path = format!("{place}-{version:?}-{is_resumed}");
                let reply = stage.gateway.connect().get("h", &path, &[]);
                let record = record_of(&stage.gateway, &path);
                assert_eq!(reply.status, 502, "{path}: {reply:?} {record}");
                assert_eq!(field(&record, "reason"), Some(reason), "{record}");
                // Only that session and that connection are given up.
                stage.expect_served("after it");
            }
        }
    }
}

/// "The upstream's server certificate is not trusted by the configured `tls.ca_certs`": add the CA,
/// or set `verify` to false to confirm that this is the cause.
#[test]
fn certificate_of_an_unknown_ca_is_502_until_the_ca_is_listed_or_verify_is_off() {
    let (ca, other) = (Ca::root("Upstream CA"), Ca::root("Other CA"));
    let origin = Origin::nginx(&Nginx::tls(ca.server(NAME)));
    let self_signed = Leaf::server(NAME).self_signed();
    let alone = Origin::openssl_s_server(&self_signed, &[]);
    let mut stage = Stage::start();
    for version in TlsVersion::ALL {
        for (origin, fix, detail) in [
            (
                &origin,
                ca.pem(),
                "certificate verify failed: unable to get local issuer certificate",
            ),
            (
                &alone,
                self_signed.cert.clone(),
                "certificate verify failed: self-signed certificate",
            ),
        ] {
            let checked = |ca: &str| upstream(&origin.node(), &checking(ca, version));
            let wrong = checked(&other.pem());
            let mut off = wrong.clone();
            off["tls"]["verify"] = false.into();
            let mut both = wrong.clone();
            both["tls"]["ca_certs"] = json!([other.pem(), fix]);
            for (case, fixed) in [("its CA", &checked(&fix)), ("both", &both), ("off", &off)] {
                stage.apply(&wrong);
                for _ in 0..2 {
                    let node = origin.node();
                    stage.expect_refused(&node, "upstream_ca_unknown", &named(detail));
                }
                stage.apply(fixed);
                stage.expect_served(case);
            }
        }
    }
    // What was refused was refused before a byte of a request was sent.
    assert!(
        !origin.error_log().contains("client sent"),
        "{}",
        origin.error_log()
    );
}

#[test]
fn expired_certificate_of_an_upstream_is_502_until_it_is_renewed() {
    let ca = Ca::root("Upstream CA");
    let dated = |validity| {
        Origin::nginx(&Nginx::tls(ca.issue(&Leaf {
            validity,
            ..Leaf::server(NAME)
        })))
    };
    let (expired, early, good) = (
        dated(Validity::Expired),
        dated(Validity::NotYet),
        dated(Validity::Now),
    );
    let mut stage = Stage::start();
    for version in TlsVersion::ALL {
        let to = |origin: &Origin| upstream(&origin.node(), &checking(&ca.pem(), version));
        for (origin, reason, detail) in [
            (
                &expired,
                "upstream_cert_expired",
                "certificate verify failed: certificate has expired",
            ),
            (
                &early,
                "upstream_cert_not_yet_valid",
                "certificate verify failed: certificate is not yet valid",
            ),
        ] {
            stage.apply(&to(origin));
            stage.expect_refused(&origin.node(), reason, &named(detail));
        }
        stage.apply(&to(&good));
        stage.expect_served("renewed");
    }
}

/// "The upstream certificate's CN/SAN does not match the SNI sent by the gateway": whoever of the
/// two sides minds. Set `pass_host: rewrite` and `upstream_host`.
#[test]
fn name_that_is_not_the_upstreams_is_502_until_upstream_host_is_set() {
    let ca = Ca::root("Upstream CA");
    let server = ca.server(NAME);
    let folder = TempDir::new().unwrap();
    let files = server.write(folder.path(), "second");
    let (cert, key) = (files.cert.to_str().unwrap(), files.key.to_str().unwrap());
    let indifferent = Origin::nginx(&Nginx::tls(server.clone()));
    let strict_nginx = Origin::nginx(&Nginx {
        only_name: Some(NAME.to_owned()),
        ..Nginx::tls(server.clone())
    });
    let strict_openssl = Origin::openssl_s_server(
        &server,
        &[
            "-servername",
            NAME,
            "-servername_fatal",
            "-cert2",
            cert,
            "-key2",
            key,
        ],
    );
    let mismatch = (
        "upstream_name_mismatch",
        "certificate verify failed: hostname mismatch; asked for api.example.com, the certificate \
         is for up.example.com",
    );
    let refused = (
        "upstream_sni_refused",
        "unrecognized name; sent api.example.com",
    );
    let mut stage = Stage::start();
    for version in TlsVersion::ALL {
        let unchecked = speaking(version);
        let checked = checking(&ca.pem(), version);
        for (origin, tls, (reason, detail)) in [
            (&indifferent, &checked, mismatch),
            (&strict_nginx, &checked, refused),
            (&strict_nginx, &unchecked, refused),
            (&strict_openssl, &unchecked, refused),
        ] {
            // The default sends and checks the name that the client asked for.
            let mut upstream = upstream(&origin.node(), tls);
            upstream["pass_host"] = "pass".into();
            let members = upstream.as_object_mut().unwrap();
            members.shift_remove("upstream_host");
            stage.apply(&upstream);
            let more = json!({"upstream_sni": "api.example.com", "detail": detail});
            stage.expect_refused(&origin.node(), reason, &more);

            // An address is checked as one, and none is sent as a server name.
            upstream["pass_host"] = "node".into();
            stage.apply(&upstream);
            let detail = if reason == "upstream_name_mismatch" {
                "certificate verify failed: IP address mismatch; asked for 127.0.0.1, the \
                 certificate is for up.example.com"
            } else {
                "unrecognized name; no server name was sent, as 127.0.0.1 is an address"
            };
            if !std::ptr::eq(origin, &strict_openssl) {
                stage.expect_refused(&origin.node(), reason, &json!({"detail": detail}));
            }

            upstream["pass_host"] = "rewrite".into();
            upstream["upstream_host"] = NAME.into();
            stage.apply(&upstream);
            stage.expect_served(reason);
        }
    }
}

/// "Connection refused or plaintext error": the scheme does not fit the port, or nothing listens.
#[test]
fn scheme_that_does_not_fit_the_port_is_502_until_it_does() {
    let ca = Ca::root("CA");
    let server = ca.server(NAME);
    let over_tls = Origin::nginx(&Nginx::tls(server.clone()));
    let mutual = Origin::nginx(&Nginx::mutual(server.clone(), ca.pem()));
    let openssl = Origin::openssl_s_server(&server, &[]);
    let alerting = TcpOrigin::answering(b"\x15\x03\x01\x00\x02\x02\x0a");
    let plain = Origin::nginx(&Nginx::default());
    let greeting = TcpOrigin::serving(|mut conn| {
        drop(conn.write_all(b"220 mail.example.com ESMTP\r\n"));
        drop(std::io::copy(&mut conn, &mut std::io::sink()));
    });
    let closed = ClosedPort::new();
    let nobody = format!("{}: Connection refused (os error 111)", closed.node());
    let mut stage = Stage::start();
    let http = |node: &str| json!({"scheme": "http", "nodes": {node: 1}});
    for (node, reason, detail) in [
        (over_tls.node(), "upstream_expects_tls", PLAIN_HTTP),
        (mutual.node(), "upstream_expects_tls", PLAIN_HTTP),
        (
            alerting.node(),
            "upstream_expects_tls",
            "its answer is not HTTP/1.1: invalid HTTP version",
        ),
        // OpenSSL's own server leaves without a word: nothing tells it from a crash.
        (
            openssl.node(),
            "upstream_reset",
            "the connection ended before the answer did",
        ),
        (closed.node(), "upstream_refused", nobody.as_str()),
    ] {
        stage.apply(&http(&node));
        stage.expect_refused(&node, reason, &json!({"detail": detail}));
    }
    stage.apply(&http(&plain.node()));
    stage.expect_served("http to plain");
    for version in TlsVersion::ALL {
        let https = |node: &str| upstream(node, &speaking(version));
        for (node, reason, detail) in [
            (
                plain.node(),
                "upstream_speaks_plaintext",
                "wrong version number",
            ),
            (
                greeting.node(),
                "upstream_speaks_plaintext",
                "wrong version number",
            ),
            (closed.node(), "upstream_refused", nobody.as_str()),
        ] {
            stage.apply(&https(&node));
            stage.expect_refused(&node, reason, &named(detail));
        }
        for node in [over_tls.node(), openssl.node()] {
            stage.apply(&https(&node));
            stage.expect_served("https to TLS");
        }
    }
}
