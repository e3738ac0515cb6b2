//! Upstreams of the schemes `grpc` and `grpcs`: HTTP/2, many streams over one connection, trailers.

use std::io::{Read, Write};

use h2::RecvStream;
use http::{HeaderMap, Request};
use serde_json::{Value, json};

use crate::support::TlsVersion;
use crate::support::frames::{END_HEADERS, END_STREAM, HEADERS, OK, Server, line};
use crate::support::gateway::field;
use crate::support::h2::H2Conn;
use crate::support::h2_origin::{H2Origin, LARGE, MEETING};
use crate::support::origin::{ClosedPort, Nginx, Origin, TcpOrigin, seen};
use crate::support::pki::Ca;
use crate::support::site::Site;
use crate::support::tls::{Answer, open};
use crate::support::upstream::{Cases, NAME, checking, record_of, showing, speaking, upstream};

const API: &str = "api.example.com";

/// A `grpcs` upstream of this node.
fn grpcs(node: &str, tls: &Value) -> Value {
    let mut upstream = upstream(node, tls);
    upstream["scheme"] = "grpcs".into();
    upstream
}

fn grpc(node: &str) -> Value {
    json!({"scheme": "grpc", "nodes": {node: 1}})
}

/// A site that sends everything to this upstream.
fn site(upstream: &Value) -> Site {
    let site = Site::start();
    site.put_ssl("open", API, &json!({}));
    route(&site, upstream);
    site
}

fn route(site: &Site, upstream: &Value) {
    let route = json!({"uri": "/*", "upstream": upstream});
    site.gateway.configure("/routes/all", &route);
}

fn connect(site: &Site, version: TlsVersion) -> H2Conn {
    H2Conn::connect(&site.client(API).tls(version)).unwrap()
}

/// A call as clients of gRPC make it.
fn call(path: &str) -> Request<()> {
    Request::post(format!("https://{API}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

/// Sends a call with this message and reads its answer to the end.
#[track_caller]
fn ask(conn: &mut H2Conn, path: &str, message: &'static str) -> (Answer, HeaderMap) {
    let mut stream = conn.send(call(path), false).unwrap();
    stream.upload.send_data(message.into(), true).unwrap();
    let (mut answer, mut body) = conn.read_head(stream.into_answer()).unwrap();
    answer.body = next(conn, &mut body).unwrap_or_default();
    let trailers = conn.drive(async { body.trailers().await.unwrap() });
    (answer, trailers.unwrap_or_default())
}

fn next(conn: &H2Conn, body: &mut RecvStream) -> Option<String> {
    conn.drive(async {
        let data = body.data().await?.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        Some(String::from_utf8(data.to_vec()).unwrap())
    })
}

#[test]
fn nginx_is_spoken_to_in_http2_in_the_clear_and_over_tls() {
    let ca = Ca::root("Upstream CA");
    let mut cases = Cases::start();
    let plain = Origin::nginx(&Nginx {
        is_http2: true,
        ..Nginx::default()
    });
    let body = cases.expect_served("in the clear", &grpc(&plain.node()));
    assert_eq!(seen(&body, "server_protocol"), "HTTP/2.0");
    assert_eq!(seen(&body, "http_host"), API);
    let tls = Origin::nginx(&Nginx {
        is_http2: true,
        ..Nginx::tls(ca.server(NAME))
    });
    for version in TlsVersion::ALL {
        let body = cases.expect_served("tls", &grpcs(&tls.node(), &checking(&ca.pem(), version)));
        assert_eq!(seen(&body, "server_protocol"), "HTTP/2.0");
        assert_eq!(seen(&body, "sni"), NAME);
        // The same node over HTTP/1.1: neither connection nor session is shared.
        let body = cases.expect_served(
            "https",
            &upstream(&tls.node(), &checking(&ca.pem(), version)),
        );
        assert_eq!(seen(&body, "server_protocol"), "HTTP/1.1");
        assert_eq!(seen(&body, "reused"), ".");
        let stranger = Ca::root("Another CA");
        let refused = grpcs(&tls.node(), &checking(&stranger.pem(), version));
        cases.expect_refused("wrong CA", &refused, 502, "upstream_ca_unknown");
    }
}

#[test]
fn identity_is_shown_to_grpcs_upstreams() {
    let ca = Ca::root("Clients");
    let mut nginx = Nginx::mutual(ca.server(NAME), ca.pem());
    nginx.is_http2 = true;
    let origin = Origin::nginx(&nginx);
    let mut cases = Cases::start();
    for version in TlsVersion::ALL {
        let shown = grpcs(&origin.node(), &showing(&ca.client("gateway"), version));
        assert_eq!(
            seen(&cases.expect_served("shown", &shown), "dn"),
            "CN=gateway"
        );
        let none = grpcs(&origin.node(), &speaking(version));
        cases.expect_refused("none", &none, 502, "upstream_wants_client_cert");
    }
}

#[test]
fn upstream_that_speaks_no_http2_is_refused_by_name() {
    let ca = Ca::root("Upstream CA");
    let tls = Origin::nginx(&Nginx::tls(ca.server(NAME)));
    let plain = TcpOrigin::answering("HTTP/1.1 400 Bad Request\r\n\r\n");
    // The alert unexpected_message.
    let alert = TcpOrigin::answering([21, 3, 3, 0, 2, 2, 10]);
    let server = Origin::openssl_s_server(&ca.server(NAME), &[]);
    let mut cases = Cases::start();
    for version in TlsVersion::ALL {
        let over_tls = grpcs(&tls.node(), &speaking(version));
        // One refuses by an alert, the other goes on without.
        cases.expect_refused("no h2", &over_tls, 502, "upstream_handshake_failed");
        let over_tls = grpcs(&server.node(), &speaking(version));
        cases.expect_refused("no ALPN", &over_tls, 502, "upstream_handshake_failed");
        cases.expect_served("its twin", &upstream(&tls.node(), &speaking(version)));
    }
    let records = cases.gateway.records();
    let details = records.iter().filter_map(|record| field(record, "detail"));
    let named = details.filter(|detail| detail.contains("did not agree on HTTP/2"));
    assert_eq!(named.count(), 4, "{records:?}");
    cases.expect_refused(
        "HTTP/1.1",
        &grpc(&plain.node()),
        502,
        "upstream_protocol_error",
    );
    cases.expect_refused("TLS", &grpc(&alert.node()), 502, "upstream_expects_tls");
}

#[test]
fn messages_and_trailers_pass_both_ways_as_they_come() {
    let ca = Ca::root("Upstream CA");
    let origin = H2Origin::tls(&ca.server(NAME));
    for version in TlsVersion::ALL {
        let site = site(&grpcs(&origin.node(), &checking(&ca.pem(), version)));
        let mut conn = connect(&site, version);
        // Over and over: heads and trailers that come again to the letter say the same.
        for _ in 0..5 {
            let (answer, trailers) = ask(&mut conn, "/unary", "hello");
            assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
            assert_eq!(answer.header("x-te"), Some("trailers"));
            assert_eq!(answer.header("x-scheme"), Some("https"));
            assert_eq!(answer.header("x-authority"), Some(NAME));
            assert_eq!(trailers.len(), 3, "{trailers:?}");
            assert_eq!(trailers["grpc-status"], "0");
            assert_eq!(trailers["grpc-message"], "well");
        }

        let mut stream = conn.send(call("/both"), false).unwrap();
        stream.upload.send_data("one".into(), false).unwrap();
        let mut upload = stream.upload;
        let (_, mut body) = conn.read_head(stream.answer).unwrap();
        assert_eq!(next(&conn, &mut body).as_deref(), Some("one"));
        // Only now: each side streams on its own.
        upload.send_data("two".into(), false).unwrap();
        assert_eq!(next(&conn, &mut body).as_deref(), Some("two"));
        let mut sent = HeaderMap::new();
        sent.insert("x-checksum", "1".parse().unwrap());
        sent.insert("x-client-cert", "forged".parse().unwrap());
        sent.insert("x-real-ip", "203.0.113.9".parse().unwrap());
        upload.send_trailers(sent).unwrap();
        assert_eq!(next(&conn, &mut body), None);
        let trailers = conn.drive(async { body.trailers().await.unwrap().unwrap() });
        assert_eq!(trailers["x-sent-trailers"], "x-checksum");

        let (failed, _) = ask(&mut conn, "/fail", "");
        assert_eq!(failed.header("grpc-status"), Some("5"));
    }
}

/// Servers of gRPC say such messages, and nginx takes fields like these from both sides.
#[test]
fn white_space_around_fields_is_no_part_of_them() {
    let origin = TcpOrigin::serving(|tcp| {
        let Ok(mut server) = Server::greet(tcp, &[]) else {
            return;
        };
        let head = [vec![OK], line("x-said", "\twell ")].concat();
        let end = [
            line("grpc-status", "5"),
            line("grpc-message", " not found "),
        ]
        .concat();
        while let Ok(request) = server.next(HEADERS) {
            let stream = request.stream;
            drop(server.send(HEADERS, END_HEADERS, stream, &head));
            drop(server.send(HEADERS, END_HEADERS | END_STREAM, stream, &end));
        }
    });
    let site = site(&grpc(&origin.node()));
    let echo = TcpOrigin::echoing();
    let echoing = json!({"uri": "/echo", "upstream": {"nodes": {echo.node(): 1}}});
    site.gateway.configure("/routes/echo", &echoing);
    let mut conn = connect(&site, TlsVersion::V13);
    // Over and over: blocks that come again to the letter say the same.
    for _ in 0..3 {
        let (answer, trailers) = ask(&mut conn, "/x", "hello");
        assert_eq!(
            (answer.status, answer.header("x-said")),
            (200, Some("well"))
        );
        assert_eq!(trailers["grpc-status"], "5");
        assert_eq!(trailers["grpc-message"], "not found");
        let request = Request::get(format!("https://{API}/echo"))
            .header("x-asked", " well\t ")
            .body(())
            .unwrap();
        let sent = conn.send(request, true).unwrap();
        let seen = conn.read(sent).unwrap();
        assert_eq!(seen.status, 200);
        assert!(seen.body.contains("x-asked: well\r\n"), "{}", seen.body);
    }
}

#[test]
fn many_streams_share_one_connection() {
    let origin = H2Origin::plain(100);
    let site = site(&grpc(&origin.node()));
    let mut conn = connect(&site, TlsVersion::V13);
    let mut streams = Vec::new();
    for _ in 0..MEETING {
        streams.push(conn.send(call("/meet"), true).unwrap());
    }
    for stream in streams {
        assert_eq!(conn.read(stream).unwrap().header("x-connection"), Some("1"));
    }
    assert_eq!(
        ask(&mut conn, "/x", "later").0.header("x-connection"),
        Some("1")
    );
    assert_eq!(origin.connections(), 1);
}

#[test]
fn peers_limit_of_streams_is_kept() {
    let origin = H2Origin::plain(1);
    let site = site(&grpc(&origin.node()));
    let mut conn = connect(&site, TlsVersion::V13);
    // They wait for each other: on one connection they would for ever.
    let streams = [(); 2].map(|()| conn.send(call("/pair"), true).unwrap());
    for stream in streams {
        assert_eq!(conn.read(stream).unwrap().status, 200);
    }
    assert_eq!(origin.connections(), 2);
}

#[test]
fn connection_that_was_told_to_go_away_takes_no_further_request() {
    let origin = H2Origin::plain(100);
    let site = site(&grpc(&origin.node()));
    let mut conn = connect(&site, TlsVersion::V13);
    let mut open = conn.send(call("/both"), false).unwrap();
    open.upload.send_data("one".into(), false).unwrap();
    let mut upload = open.upload;
    let (_, mut body) = conn.read_head(open.answer).unwrap();
    assert_eq!(next(&conn, &mut body).as_deref(), Some("one"));
    let last = ask(&mut conn, "/goaway", "x").0;
    assert_eq!(last.header("x-connection"), Some("1"));
    // With a body, which must not be lost.
    let further = ask(&mut conn, "/x", "further").0;
    assert_eq!(further.body, "further");
    assert_eq!(further.header("x-connection"), Some("2"));
    // What was under way goes on.
    upload.send_data("two".into(), true).unwrap();
    assert_eq!(next(&conn, &mut body).as_deref(), Some("two"));
}

#[test]
fn connection_carries_no_more_requests_than_its_pool_says() {
    let origin = H2Origin::plain(100);
    let mut upstream = grpc(&origin.node());
    upstream["keepalive_pool"] = json!({"requests": 2});
    let site = site(&upstream);
    let mut conn = connect(&site, TlsVersion::V13);
    for number in ["1", "1", "2", "2", "3"] {
        let answer = ask(&mut conn, "/x", "x").0;
        assert_eq!(answer.header("x-connection"), Some(number));
    }
}

#[test]
fn stream_that_the_client_gives_up_is_reset_and_no_other() {
    let origin = H2Origin::plain(100);
    let site = site(&grpc(&origin.node()));
    let mut conn = connect(&site, TlsVersion::V13);
    let mut kept = conn.send(call("/both"), false).unwrap();
    kept.upload.send_data("one".into(), false).unwrap();
    let mut upload = kept.upload;
    let (_, mut body) = conn.read_head(kept.answer).unwrap();
    assert_eq!(next(&conn, &mut body).as_deref(), Some("one"));
    let mut given_up = conn.send(call("/hang"), true).unwrap();
    conn.drive(async { tokio::task::yield_now().await });
    origin.expect_note("hangs");
    given_up.upload.send_reset(h2::Reason::CANCEL);
    assert!(conn.read(given_up).is_err());
    upload.send_data("two".into(), true).unwrap();
    assert_eq!(next(&conn, &mut body).as_deref(), Some("two"));
    origin.expect_note("reset by CANCEL");
    assert_eq!(origin.connections(), 1);
}

#[test]
fn stream_that_was_refused_is_sent_again() {
    let origin = H2Origin::plain(100);
    let site = site(&grpc(&origin.node()));
    let mut conn = connect(&site, TlsVersion::V13);
    // A kept connection, as HTTP/1.1 has it.
    assert_eq!(ask(&mut conn, "/x", "x").0.status, 200);
    let stream = conn.send(call("/busy"), true).unwrap();
    assert_eq!(
        conn.read(stream).unwrap().header("content-type"),
        Some("application/grpc")
    );
}

#[test]
fn message_that_was_refused_unseen_is_sent_again() {
    for part in ["", "one"] {
        let origin = H2Origin::plain(100);
        let site = site(&grpc(&origin.node()));
        let mut conn = connect(&site, TlsVersion::V13);
        assert_eq!(ask(&mut conn, "/x", "x").0.status, 200);
        let mut stream = conn.send(call("/busy"), false).unwrap();
        if !part.is_empty() {
            stream.upload.send_data(part.into(), false).unwrap();
        }
        let mut upload = stream.upload;
        // Its second try is answered; then the rest of the message comes.
        let (answer, mut body) = conn.read_head(stream.answer).unwrap();
        assert_eq!(answer.status, 200);
        upload.send_data("two".into(), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", "1".parse().unwrap());
        upload.send_trailers(trailers).unwrap();
        let mut heard = String::new();
        while let Some(more) = next(&conn, &mut body) {
            heard.push_str(&more);
        }
        assert_eq!(heard, format!("{part}two"));
        let trailers = conn.drive(async { body.trailers().await.unwrap().unwrap() });
        assert_eq!(trailers["x-sent-trailers"], "x-checksum");
    }
}

#[test]
fn long_message_that_was_refused_is_told_as_unavailable() {
    let origin = H2Origin::plain(100);
    let site = site(&grpc(&origin.node()));
    let mut conn = connect(&site, TlsVersion::V13);
    assert_eq!(ask(&mut conn, "/x", "x").0.status, 200);
    let mut stream = conn.send(call("/busy/late"), false).unwrap();
    stream
        .upload
        .send_data(vec![0; 200_000].into(), true)
        .unwrap();
    let (answer, _) = conn.read_head(stream.into_answer()).unwrap();
    assert_eq!(answer.header("grpc-status"), Some("14"), "{answer:?}");
}

#[test]
fn call_that_its_client_gives_up_halfway_is_cancelled() {
    for version in TlsVersion::ALL {
        let origin = H2Origin::plain(100);
        let site = site(&grpc(&origin.node()));
        let mut conn = connect(&site, version);
        let mut stream = conn.send(call("/hang"), false).unwrap();
        stream.upload.send_data("one".into(), false).unwrap();
        conn.drive(async { tokio::task::yield_now().await });
        origin.expect_note("hangs");
        stream.upload.send_reset(h2::Reason::CANCEL);
        // The reset is sent before what follows it.
        conn.get(API, "/after").unwrap();
        origin.expect_note("reset by CANCEL");
    }
}

#[test]
fn answer_whose_stream_is_cancelled_is_not_whole() {
    let origin = H2Origin::plain(100);
    let site = site(&grpc(&origin.node()));
    let mut conn = connect(&site, TlsVersion::V13);
    let mut stream = conn.send(call("/cut"), false).unwrap();
    stream.upload.send_data("one".into(), false).unwrap();
    let mut upload = stream.upload;
    let (_, mut body) = conn.read_head(stream.answer).unwrap();
    assert_eq!(next(&conn, &mut body).as_deref(), Some("one"));
    upload.send_data("go on".into(), true).unwrap();
    let rest = conn.drive(async { body.data().await });
    assert!(matches!(rest, Some(Err(_))), "{rest:?}");
    let record = record_of(&site.gateway, "/cut");
    assert_eq!(field(&record, "reason"), Some("upstream_reset"), "{record}");
}

#[test]
fn clients_of_http1_get_trailers_if_they_ask_for_them() {
    let origin = H2Origin::plain(100);
    let site = site(&grpc(&origin.node()));
    let ask = |more: &str| {
        let port = site.gateway.port("http");
        let request = format!(
            "POST /x HTTP/1.1\r\nHost: {API}\r\nContent-Type: application/grpc\r\n\
             Content-Length: 5\r\nConnection: close\r\n{more}\r\nhello"
        );
        let mut conn = open(port);
        conn.write_all(request.as_bytes()).unwrap();
        let mut read = String::new();
        conn.read_to_string(&mut read).unwrap();
        read.to_ascii_lowercase()
    };
    let with = ask("TE: trailers\r\n");
    assert!(
        with.contains("hello") && with.contains("grpc-status: 0\r\n"),
        "{with}"
    );
    let without = ask("");
    assert!(without.starts_with("http/1.1 200"), "{without}");
    assert!(
        without.contains("hello") && !without.contains("grpc-status"),
        "{without}"
    );
}

#[test]
fn refusals_of_grpc_calls_are_told_as_grpc_tells_them() {
    let closed = ClosedPort::new();
    let site = site(&grpc(&closed.node()));
    for version in TlsVersion::ALL {
        let mut conn = connect(&site, version);
        let (answer, _) = ask(&mut conn, "/x", "x");
        assert_eq!((answer.status, answer.body.as_str()), (200, ""));
        assert_eq!(answer.header("grpc-status"), Some("14"));
        let message = answer.header("grpc-message").unwrap();
        assert!(
            message.starts_with("502 Bad Gateway, request "),
            "{message}"
        );
        assert_eq!(conn.get(API, "/x").unwrap().status, 502);
    }
    let record = site.gateway.expect_record("the cause", |record| {
        field(record, "reason") == Some("upstream_refused")
    });
    assert_eq!(record["status"], 502);
    site.gateway.admin_delete("/routes/all").expect_status(200);
    let mut conn = connect(&site, TlsVersion::V13);
    assert_eq!(
        ask(&mut conn, "/x", "x").0.header("grpc-status"),
        Some("12")
    );
}

#[test]
fn metadata_that_is_too_large_is_told_as_exhausted() {
    let origin = H2Origin::plain(100);
    let site = site(&grpc(&origin.node()));
    for version in TlsVersion::ALL {
        let mut conn = connect(&site, version);
        let mut send = |mut request: Request<()>, length: usize| {
            let value = "x".repeat(length).parse().unwrap();
            request.headers_mut().insert("x-large", value);
            let stream = conn.send(request, true).unwrap();
            conn.read(stream).unwrap()
        };
        let taken = send(call("/x"), LARGE / 2);
        assert_eq!((taken.status, taken.header("grpc-status")), (200, None));
        let refused = send(call("/x"), LARGE);
        assert_eq!(refused.header("grpc-status"), Some("8"), "{refused:?}");
        assert_eq!((refused.status, &refused.body[..]), (200, ""));
        let get = Request::get(format!("https://{API}/x")).body(()).unwrap();
        let refused = send(get, LARGE);
        assert_eq!(refused.status, 431, "{refused:?}");
        assert!(refused.body.contains("431 Request Header Fields Too Large"));
        // An answer's may be as large.
        let large = send(call("/large"), 1);
        assert_eq!(large.header("x-large").map(str::len), Some(LARGE));
    }
    let record = record_of(&site.gateway, "/x");
    assert_eq!(record["status"], 200);
    site.gateway.expect_record("the cause", |record| {
        field(record, "reason") == Some("request_head_too_large")
            && field(record, "detail").is_some_and(|detail| detail.ends_with("more than 32768"))
    });
}
