//! Answers over TLS that end with their connection: whole after a close_notify, cut off without
//! one (RFC 9112 §9.8).

use std::io::Write;
use std::net::Shutdown;

use serde_json::{Value, json};

use crate::support::TlsVersion;
use crate::support::client::openssl_s_client;
use crate::support::gateway::{Gateway, Setup, field};
use crate::support::origin::{TcpOrigin, read_head_from};
use crate::support::pki::{Ca, Pair};
use crate::support::raw::RawClient;

const NAME: &str = "api.example.com";

/// How an upstream ends its connection after its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// close_notify, then TCP's own end.
    Said,
    /// TCP's end alone, which anybody on the way can make up.
    Cut,
}

/// Answers each connection's one request with `answer` as it stands.
fn ending(pair: &Pair, answer: &str, end: End) -> TcpOrigin {
    let answer = answer.to_owned();
    TcpOrigin::serving_tls(pair, move |mut conn| {
        read_head_from(&mut conn);
        drop(conn.write_all(answer.as_bytes()));
        if end == End::Said {
            drop(conn.shutdown());
        }
        let tcp = conn.get_mut();
        drop(tcp.shutdown(Shutdown::Write));
        drop(std::io::copy(tcp, &mut std::io::sink()));
    })
}

fn lead_to(gateway: &Gateway, origin: &TcpOrigin, version: TlsVersion) {
    let version = match version {
        TlsVersion::V12 => "TLSv1.2",
        TlsVersion::V13 => "TLSv1.3",
    };
    let upstream = json!({
        "scheme": "https",
        "nodes": {origin.node(): 1},
        "tls": {"min_version": version, "max_version": version},
    });
    gateway.configure("/routes/r", &json!({"uri": "/*", "upstream": upstream}));
}

fn record_of(gateway: &Gateway, path: &str) -> Value {
    gateway.expect_record(path, |record| field(record, "path") == Some(path))
}

/// A gateway that serves [`NAME`] over TLS, and the upstreams' certificate.
fn start() -> (Gateway, Pair) {
    let gateway = Setup::default().start();
    let ca = Ca::root("CA");
    let pair = ca.server(NAME);
    let ssl = json!({"sni": NAME, "cert": pair.cert, "key": pair.key});
    gateway.configure("/ssls/s", &ssl);
    (gateway, ca.server("up.example.com"))
}

#[test]
fn answer_without_length_is_whole_only_after_close_notify() {
    let (gateway, pair) = start();
    for version in TlsVersion::ALL {
        for (end, body) in [(End::Said, "hello"), (End::Said, ""), (End::Cut, "hello")] {
            let origin = ending(&pair, &format!("HTTP/1.1 200 OK\r\n\r\n{body}"), end);
            lead_to(&gateway, &origin, version);
            let tls = gateway.tls(NAME, version);
            for (wire, mut client) in [
                ("plain", gateway.connect()),
                ("tls", RawClient::connect_tls(&tls)),
            ] {
                let path = format!("/{wire}-{version:?}-{end:?}-{body}");
                let reply = client.get(NAME, &path, &[]);
                assert_eq!(reply.status, 200, "{path}: {reply:?}");
                assert_eq!(reply.is_whole, end == End::Said, "{path}: {reply:?}");
                let record = record_of(&gateway, &path);
                assert_eq!(record["status"], 200, "{record}");
                if end == End::Said {
                    assert_eq!(reply.text(), body, "{path}");
                    assert_eq!(field(&record, "reason"), None, "{record}");
                    continue;
                }
                assert!(b"hello".starts_with(&reply.body[..]), "{path}: {reply:?}");
                assert!(client.is_ended(), "{path}");
                assert_eq!(field(&record, "reason"), Some("upstream_reset"), "{record}");
                let detail = field(&record, "detail").unwrap_or_default();
                assert!(detail.starts_with("in the body: "), "{record}");
                assert!(
                    detail.ends_with(": closed without close_notify"),
                    "{record}"
                );
            }
        }
    }
}

#[test]
fn cut_answer_reaches_clients_of_http_1_0_and_of_http_2_as_cut() {
    let (gateway, pair) = start();
    for version in TlsVersion::ALL {
        for end in [End::Said, End::Cut] {
            let origin = ending(&pair, "HTTP/1.1 200 OK\r\n\r\nhello", end);
            lead_to(&gateway, &origin, version);
            // Told neither length nor chunks, this client has close_notify alone to go by.
            let request = format!("GET / HTTP/1.0\r\nHost: {NAME}\r\n\r\n");
            let args = ["-servername", NAME, "-quiet"];
            let first = openssl_s_client(gateway.https_port(), &args, &request);
            assert!(first.stdout.ends_with("\r\n\r\nhello"), "{first:?}");
            let is_cut = first.stderr.contains("unexpected eof");
            assert_eq!(is_cut, end == End::Cut, "{version:?} {end:?}: {first:?}");

            let second = gateway.https(NAME, "/").args(&["-k"]).http2().send();
            assert_eq!(second.status, Some(200), "{second:?}");
            // curl: 92 for a stream that was reset.
            let exit_code = if end == End::Said { 0 } else { 92 };
            assert_eq!(
                second.exit_code, exit_code,
                "{version:?} {end:?}: {second:?}"
            );
        }
    }
}

/// Where the head says how long the answer is, its end needs no other word.
#[test]
fn answer_with_a_length_or_chunks_needs_no_close_notify() {
    let (gateway, pair) = start();
    for version in TlsVersion::ALL {
        for rest in [
            "Content-Length: 5\r\n\r\nhello",
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ] {
            let origin = ending(&pair, &format!("HTTP/1.1 200 OK\r\n{rest}"), End::Cut);
            lead_to(&gateway, &origin, version);
            let mut client = gateway.connect();
            // The second request meets what the first one left.
            for _ in 0..2 {
                let reply = client.get(NAME, "/", &[]).expect_status(200);
                assert_eq!(reply.text(), "hello");
            }
        }
    }
}
