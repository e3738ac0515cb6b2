//! Trailers of answers for clients of HTTP/1.1: who says `TE: trailers` gets those that the upstream
//! announced (RFC 9110 §6.5), and nobody else sees anything of them.

use serde_json::json;

use crate::support::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, OK, Server, line};
use crate::support::gateway::Gateway;
use crate::support::origin::TcpOrigin;
use crate::support::raw::{RawReply, header, request};

const TAKES: &str = "TE: trailers";

fn before(scheme: &str, origin: &TcpOrigin) -> Gateway {
    let gateway = Gateway::start();
    let upstream = json!({"scheme": scheme, "nodes": {origin.node(): 1}});
    let route = json!({"uri": "/*", "enable_websocket": true, "upstream": upstream});
    gateway.configure("/routes/r", &route);
    gateway
}

/// Announces trailers, and sends one more than it announced.
fn summing() -> TcpOrigin {
    TcpOrigin::talking(|_| {
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\
          Trailer: X-Sum,Content-Length, Keep-Alive,, no name\r\nTrailer: X-More\r\n\r\n\
          5\r\nhello\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\nX-Sum: 3\r\nX-Unsaid: 4\r\n\
          Content-Length: 9\r\nKeep-Alive: timeout=5\r\n\r\n"
            .to_vec()
    })
}

/// The same over HTTP/2, with `more` in the head.
fn summing_by_streams(more: &[(&'static str, &'static str)]) -> TcpOrigin {
    let mut head = vec![OK];
    let announced = [("trailer", "x-sum, content-length"), ("trailer", "x-more")];
    for (name, value) in announced.iter().chain(more) {
        head.extend(line(name, value));
    }
    let fields = [
        ("x-sum", "1"),
        ("x-more", "2"),
        ("x-sum", "3"),
        ("x-unsaid", "4"),
    ];
    let trailers = fields.map(|(name, value)| line(name, value)).concat();
    TcpOrigin::serving(move |tcp| {
        let Ok(mut server) = Server::greet(tcp, &[]) else {
            return;
        };
        while let Ok(request) = server.next(HEADERS) {
            let stream = request.stream;
            let end = END_HEADERS | END_STREAM;
            if server.send(HEADERS, END_HEADERS, stream, &head).is_err()
                || server.send(DATA, 0, stream, b"hello").is_err()
                || server.send(HEADERS, end, stream, &trailers).is_err()
            {
                return;
            }
        }
    })
}

#[track_caller]
fn expect_none(reply: &RawReply, case: &str) {
    assert_eq!(reply.header("trailer"), None, "{case}: {reply:?}");
    assert_eq!(reply.trailers, "", "{case}: {reply:?}");
}

#[test]
fn clients_of_http1_that_take_trailers_get_those_that_were_announced() {
    for (scheme, origin) in [("http", summing()), ("grpc", summing_by_streams(&[]))] {
        let gateway = before(scheme, &origin);
        let mut client = gateway.connect();
        // Over and over: a head that comes again to the letter says the same.
        for takes in [true, false, false, true, true, true, false] {
            let lines: &[&str] = if takes { &[TAKES] } else { &[] };
            let reply = client.get("h", "/", lines).expect_status(200);
            assert_eq!(reply.text(), "hello", "{scheme}");
            assert_eq!(reply.header("transfer-encoding"), Some("chunked"));
            if takes {
                let announced = reply.header("trailer").map(str::to_ascii_lowercase);
                assert_eq!(announced.as_deref(), Some("x-sum, x-more"), "{reply:?}");
                let mut lines: Vec<_> = reply.trailers.lines().collect();
                // Of one name they are in their order.
                lines.sort_by_key(|line| line.split(':').next());
                assert_eq!(lines, ["x-more: 2", "x-sum: 1", "x-sum: 3"], "{scheme}");
            } else {
                expect_none(&reply, scheme);
            }
        }
        for other in ["TE: gzip", "TE: trailers;q=1", "TE:", "X-TE: trailers"] {
            let reply = client.get("h", "/", &[other]).expect_status(200);
            expect_none(&reply, other);
        }
        let listed = client.get("h", "/", &["TE: gzip;q=0.5, Trailers"]);
        assert!(listed.trailers.contains("x-sum: 1\r\n"), "{listed:?}");
    }
}

#[test]
fn clients_of_http1_0_get_no_trailers() {
    for (scheme, origin) in [("http", summing()), ("grpc", summing_by_streams(&[]))] {
        let gateway = before(scheme, &origin);
        let mut client = gateway.connect();
        client.send("GET / HTTP/1.0\r\nHost: h\r\nTE: trailers\r\nConnection: TE\r\n\r\n");
        let reply = client.read_reply().expect_status(200);
        assert_eq!(reply.text(), "hello", "{reply:?}");
        expect_none(&reply, scheme);
        // Nor is its upstream told that it takes some.
        for head in origin.heads() {
            assert_eq!(header(&head, "te"), None, "{head}");
        }
    }
}

#[test]
fn answers_that_have_no_chunks_announce_no_trailers() {
    let origin = TcpOrigin::talking(|head| {
        let announced = "Trailer: X-Sum\r\n";
        let length = "Content-Length: 5\r\n";
        let coding = "Transfer-Encoding: chunked\r\n";
        match head.split(' ').nth(1) {
            Some("/204") => format!("HTTP/1.1 204 No Content\r\n{announced}\r\n"),
            Some("/304") => format!("HTTP/1.1 304 Not Modified\r\n{announced}\r\n"),
            Some("/head") => format!("HTTP/1.1 200 OK\r\n{coding}{announced}\r\n"),
            Some("/length") => format!("HTTP/1.1 200 OK\r\n{length}{announced}\r\nhello"),
            // What it announces is of this hop alone.
            _ => format!(
                "HTTP/1.1 200 OK\r\n{coding}Trailer: TE, Host\r\n\r\n5\r\nhello\r\n0\r\nTE: a\r\n\r\n"
            ),
        }
        .into_bytes()
    });
    let gateway = before("http", &origin);
    let mut client = gateway.connect();
    for (method, target) in [("GET", "/204"), ("GET", "/304"), ("HEAD", "/head")] {
        client.send(request(method, "h", target, &[TAKES]));
        expect_none(&client.read_bodiless(), target);
    }
    for target in ["/length", "/hop"] {
        let reply = client.get("h", target, &[TAKES]).expect_status(200);
        assert_eq!(reply.text(), "hello");
        expect_none(&reply, target);
    }
    let origin = summing_by_streams(&[("content-length", "5")]);
    let gateway = before("grpc", &origin);
    let reply = gateway.connect().get("h", "/", &[TAKES]);
    let reply = reply.expect_status(200);
    assert_eq!(reply.header("content-length"), Some("5"), "{reply:?}");
    expect_none(&reply, "a stream with a length");
}
