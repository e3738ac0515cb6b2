//! Interim answers (1xx): what upstreams say before they answer reaches the client before the answer.

use std::io::Write;
use std::net::TcpStream;
use std::sync::{Mutex, mpsc};

use serde_json::json;

use crate::support::client::Curl;
use crate::support::frames::{
    END_HEADERS, END_STREAM, HEADERS, HELLO, OK, Server, frame, read_frame,
};
use crate::support::gateway::{Gateway, Setup};
use crate::support::origin::{TcpOrigin, ok, read_head};
use crate::support::raw::{RawClient, request};
use crate::support::site::Site;
use crate::support::{SOON, TlsVersion};

/// Early hints (RFC 8297), with what is of one hop.
const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\
                     Connection: x-hop\r\nX-Hop: 1\r\nContent-Length: 3\r\n\r\n";

/// The same as fields of HTTP/2: `:status`, `link` and `content-length` (RFC 7541 §6.2.2).
const HINTS_BLOCK: &[u8] = b"\x08\x03103\x00\x04link\x15</a.css>; rel=preload\x0f\x0d\x013";

fn hinting() -> TcpOrigin {
    TcpOrigin::talking(|head| [HINTS.as_bytes(), &ok(head)].concat())
}

/// An upstream of HTTP/2 that gives hints before each answer.
fn hinting_by_streams() -> TcpOrigin {
    TcpOrigin::serving(|tcp| {
        let Ok(mut server) = Server::greet(tcp, &[]) else {
            return;
        };
        while let Ok(request) = server.next(HEADERS) {
            let stream = request.stream;
            if server
                .send(HEADERS, END_HEADERS, stream, HINTS_BLOCK)
                .is_err()
                || server.answer(stream).is_err()
            {
                return;
            }
        }
    })
}

/// A gateway that tells clients of HTTP/1.1 as well.
fn telling_all() -> Setup {
    Setup::default().set("proxy.interim_answers", "all")
}

fn before(origin: &TcpOrigin) -> Gateway {
    let gateway = telling_all().start();
    let upstream = json!({"nodes": {origin.node(): 1}});
    let route = json!({"uri": "/*", "enable_websocket": true, "upstream": upstream});
    gateway.configure("/routes/r", &route);
    gateway
}

/// Reads hints, and that they have what they should have.
#[track_caller]
fn expect_hints(client: &mut RawClient) {
    let reply = client.read_bodiless();
    assert!(
        reply.head.starts_with("HTTP/1.1 103 Early Hints\r\n"),
        "{reply:?}"
    );
    assert_eq!(reply.header("link"), Some("</a.css>; rel=preload"));
    for name in ["connection", "x-hop", "content-length"] {
        assert_eq!(reply.header(name), None, "{name}: {reply:?}");
    }
}

#[test]
fn curl_is_given_early_hints_whatever_it_and_the_upstream_speak() {
    let (one, many) = (hinting(), hinting_by_streams());
    let site = Site::with(telling_all());
    site.put_ssl("h", "h.example", &json!({}))
        .expect_status(201);
    for (path, scheme, origin) in [("/one", "http", &one), ("/many", "grpc", &many)] {
        let upstream = json!({"scheme": scheme, "nodes": {origin.node(): 1}});
        let route = json!({"uri": path, "upstream": upstream});
        site.gateway.configure(&format!("/routes{path}"), &route);
    }
    for path in ["/one", "/many"] {
        for version in ["--http1.1", "--http2"] {
            let told = site.ask("h.example", path).args(&[version]).send();
            assert_eq!(told.status, Some(200), "{path} {version}: {told:?}");
            let (hints, answer) = told.heads.split_once("\r\n\r\n").unwrap();
            let (status, lines) = hints.split_once("\r\n").unwrap();
            assert!(
                status.split(' ').nth(1) == Some("103"),
                "{path} {version}: {told:?}"
            );
            assert_eq!(lines, "link: </a.css>; rel=preload", "{path} {version}");
            assert!(!answer.contains("link"), "{path} {version}: {told:?}");
        }
    }
}

#[test]
fn hints_are_there_while_the_answer_is_not() {
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let origin = TcpOrigin::serving(move |mut conn: TcpStream| {
        while read_head(&mut conn).ends_with("\r\n\r\n") {
            if conn.write_all(HINTS.as_bytes()).is_err() || held.lock().unwrap().recv().is_err() {
                return;
            }
            drop(conn.write_all(&ok("answer")));
        }
    });
    let site = Site::with(telling_all());
    let upstream = json!({"nodes": {origin.node(): 1}});
    site.gateway
        .configure("/routes/r", &json!({"uri": "/x", "upstream": upstream}));
    site.put_ssl("h", "h.example", &json!({}))
        .expect_status(201);
    let tls = |version| RawClient::connect_tls(&site.client("h.example").tls(version));
    for mut client in [
        site.gateway.connect(),
        tls(TlsVersion::V12),
        tls(TlsVersion::V13),
    ] {
        for _ in 0..2 {
            client.send(request("GET", "h.example", "/x", &[]));
            expect_hints(&mut client);
            release.send(()).unwrap();
            let reply = client.read_reply().expect_status(200);
            assert_eq!(reply.text(), "answer");
        }
    }
    let mut client = site.gateway.connect();
    client.send(HELLO);
    // GET, `/x`, http, h.example (RFC 7541 §6.1, §6.2.2).
    let head = b"\x82\x04\x02/x\x86\x01\x09h.example";
    client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, head));
    let mut next = || loop {
        let frame = read_frame(&mut client).unwrap();
        if frame.kind == HEADERS {
            return frame.payload;
        }
    };
    let hints = next();
    assert_ne!(hints[0], OK, "{hints:?}");
    release.send(()).unwrap();
    assert_eq!(next()[0], OK);
}

#[test]
fn client_of_http_1_0_is_given_the_answer_alone() {
    let origin = hinting();
    let gateway = before(&origin);
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n");
    client.read_reply().expect_status(200);
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    expect_hints(&mut client);
    client.read_reply().expect_status(200);
}

#[test]
fn clients_of_http_1_1_are_told_nothing_unless_that_is_said() {
    let origin = hinting();
    let gateway = Gateway::start();
    let upstream = json!({"nodes": {origin.node(): 1}});
    gateway.configure("/routes/r", &json!({"uri": "/*", "upstream": upstream}));
    gateway.connect().get("h", "/", &[]).expect_status(200);
    let url = gateway.http_url("/");
    let told = Curl::new(&url).args(&["--http2-prior-knowledge"]).send();
    assert!(told.heads.starts_with("HTTP/2 103"), "{told:?}");
    assert_eq!(told.status, Some(200));
}

/// More than the kernel holds for a client that does not read.
const LONG: usize = 8 << 20;

#[test]
fn pipelined_requests_of_a_slow_client_each_have_their_own_hints_and_answer() {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let origin = TcpOrigin::talking(move |head| {
        let target = head.split(' ').nth(1).unwrap_or_default();
        tell.lock().unwrap().send(()).unwrap();
        let mut answer = Vec::new();
        for number in 0..3 {
            let hints = format!("HTTP/1.1 103 Early Hints\r\nLink: <{target}/{number}>\r\n\r\n");
            answer.extend_from_slice(hints.as_bytes());
        }
        answer.extend_from_slice(&ok(&format!("{target}{}", "x".repeat(LONG))));
        answer
    });
    let gateway = before(&origin);
    let mut client = gateway.connect();
    let requests = ["/a", "/b", "/c"].map(|target| request("GET", "h", target, &[]));
    client.send(requests.concat());
    // The first answer is under way, and stuck.
    told.recv_timeout(SOON).unwrap();
    for target in ["/a", "/b", "/c"] {
        for number in 0..3 {
            let hints = client.read_bodiless();
            assert_eq!(hints.status, 103, "{hints:?}");
            let link = format!("<{target}/{number}>");
            assert_eq!(hints.header("link"), Some(&link[..]));
        }
        let reply = client.read_reply().expect_status(200);
        assert_eq!(reply.body.len(), target.len() + LONG);
        assert!(reply.body.starts_with(target.as_bytes()));
    }
}

#[test]
fn hints_that_a_client_does_not_take_are_dropped_and_its_answer_is_not() {
    let origin = TcpOrigin::talking(|_| {
        // Each is more than may go on.
        let large = format!(
            "HTTP/1.1 103 Early Hints\r\nX: {}\r\n\r\n",
            "y".repeat(20_000)
        );
        let fits = format!(
            "HTTP/1.1 103 Early Hints\r\nX: {}\r\n\r\n",
            "y".repeat(10_000)
        );
        [
            large.repeat(10),
            fits.repeat(80),
            String::from_utf8(ok("answer")).unwrap(),
        ]
        .concat()
        .into_bytes()
    });
    let gateway = before(&origin);
    let mut client = gateway.connect();
    client.send(request("GET", "h", "/", &[]));
    let mut hints = 0;
    let answer = loop {
        let head = client.read_bodiless();
        if head.status != 103 {
            break head;
        }
        assert_eq!(head.header("x").map(str::len), Some(10_000));
        hints += 1;
    };
    assert_eq!(answer.status, 200);
    assert!((1..=80).contains(&hints), "{hints}");
    assert_eq!(client.read_text(6), "answer");
}

#[test]
fn word_to_go_on_is_given_by_the_gateway_alone() {
    let origin = TcpOrigin::talking(|head| {
        let more = ["HTTP/1.1 100 Continue\r\n\r\n", HINTS].concat();
        [more.as_bytes(), &ok(head)].concat()
    });
    let gateway = before(&origin);
    let mut client = gateway.connect();
    let lines = ["Expect: 100-continue", "Content-Length: 5"];
    client.send(request("POST", "h", "/", &lines));
    let reply = client.read_bodiless();
    assert_eq!(reply.status, 100, "{reply:?}");
    client.send("hello");
    expect_hints(&mut client);
    client.read_reply().expect_status(200);
    // Nobody asked for it here.
    client.send(request("GET", "h", "/", &[]));
    expect_hints(&mut client);
    client.read_reply().expect_status(200);
}

#[test]
fn hints_come_before_what_an_upstream_goes_over_to() {
    let origin = TcpOrigin::serving(|mut conn| {
        read_head(&mut conn);
        let switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                         Upgrade: websocket\r\n\r\nover";
        drop(conn.write_all([HINTS, switching].concat().as_bytes()));
        drop(std::io::copy(&mut conn, &mut std::io::sink()));
    });
    let gateway = before(&origin);
    let mut client = gateway.connect();
    let lines = ["Connection: Upgrade", "Upgrade: websocket"];
    client.send(request("GET", "h", "/", &lines));
    expect_hints(&mut client);
    let reply = client.read_bodiless();
    assert_eq!(reply.status, 101, "{reply:?}");
    assert_eq!(client.read_text(4), "over");
}

#[test]
fn hints_of_an_upstream_that_fails_stay_said() {
    let failing = TcpOrigin::serving(|mut conn| {
        read_head(&mut conn);
        drop(conn.write_all(HINTS.as_bytes()));
    });
    let other = TcpOrigin::answering(ok("other"));
    let gateway = telling_all().start();
    for (uri, nodes, status) in [
        (
            "/alone",
            json!([{"host": "127.0.0.1", "port": failing.port(), "weight": 1}]),
            502,
        ),
        (
            "/two",
            json!([
                {"host": "127.0.0.1", "port": failing.port(), "weight": 1, "priority": 1},
                {"host": "127.0.0.1", "port": other.port(), "weight": 1, "priority": 0},
            ]),
            200,
        ),
    ] {
        let route = json!({"uri": uri, "upstream": {"nodes": nodes}});
        gateway.configure(&format!("/routes{uri}"), &route);
        let mut client = gateway.connect();
        client.send(request("GET", "h", uri, &[]));
        expect_hints(&mut client);
        assert_eq!(client.read_reply().status, status, "{uri}");
    }
}
