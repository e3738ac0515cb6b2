//! Peers that break the rules of HTTP/2 (RFC 9113): who does is refused, alone, and nothing of it is
//! passed on.

use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use crate::support::frames::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, HELLO, OK, PING, RST_STREAM, SETTINGS, Server,
    WINDOW_UPDATE, frame, line, read_frame,
};
use crate::support::gateway::{Gateway, field};
use crate::support::origin::TcpOrigin;
use crate::support::raw::RawClient;

const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 8;
const WHOLE: u8 = END_HEADERS | END_STREAM;

fn block(lines: &[(&str, &str)]) -> Vec<u8> {
    lines
        .iter()
        .flat_map(|(name, value)| line(name, value))
        .collect()
}

/// What an upstream sends in place of the answer to a request on this stream.
fn no_answers(stream: u32) -> Vec<(&'static str, Vec<u8>)> {
    let status = (":status", "200");
    let heads: [(&'static str, &[(&str, &str)]); 17] = [
        ("no status", &[("x-a", "1")]),
        ("two", &[status, (":status", "204")]),
        ("status of no number", &[(":status", "abc")]),
        ("status too small", &[(":status", "99")]),
        ("status too long", &[(":status", "2000")]),
        ("status of another protocol", &[(":status", "101")]),
        ("unknown pseudo-header", &[status, (":x", "1")]),
        ("pseudo-header behind a field", &[("x-a", "1"), status]),
        ("name in upper case", &[status, ("X-A", "1")]),
        ("name with a space", &[status, ("x a", "1")]),
        ("name of two lines", &[status, ("x-a\r\nx-evil", "1")]),
        ("value of two lines", &[status, ("x-a", "1\r\nx-evil: 1")]),
        ("value with NUL", &[status, ("x-a", "1\0")]),
        ("field of a connection", &[status, ("connection", "close")]),
        ("coding", &[status, ("transfer-encoding", "chunked")]),
        ("length of no number", &[status, ("content-length", "x")]),
        ("information that ends", &[(":status", "103")]),
    ];
    let mut rows: Vec<(&'static str, Vec<u8>)> = heads
        .iter()
        .map(|(what, lines)| (*what, frame(HEADERS, WHOLE, stream, &block(lines))))
        .collect();
    rows.extend([
        ("content first", frame(DATA, 0, stream, b"x")),
        ("content of no stream", frame(DATA, 0, 0, b"x")),
        ("stream of a server", frame(HEADERS, WHOLE, 2, &[OK])),
        (
            "stream that nobody opened",
            frame(HEADERS, WHOLE, stream + 20, &[OK]),
        ),
        (
            "push",
            frame(PUSH_PROMISE, END_HEADERS, stream, &[0, 0, 0, 2, 0x82]),
        ),
        ("frame too long", frame(DATA, 0, stream, &[0; 16_385])),
        ("no header block", frame(HEADERS, WHOLE, stream, &[0xff; 6])),
        (
            "padding beyond the end",
            frame(HEADERS, WHOLE | PADDED, stream, &[255, OK]),
        ),
        (
            "continuation of nothing",
            frame(CONTINUATION, END_HEADERS, stream, &[OK]),
        ),
        ("window of nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        (
            "stream's window of nothing",
            frame(WINDOW_UPDATE, 0, stream, &[0; 4]),
        ),
        ("settings cut short", frame(SETTINGS, 0, 0, &[0; 5])),
        ("ping cut short", frame(PING, 0, 0, &[0; 7])),
        ("farewell cut short", frame(GOAWAY, 0, 0, &[0; 3])),
        (
            "head cut by a ping",
            [frame(HEADERS, 0, stream, &[OK]), frame(PING, 0, 0, &[0; 8])].concat(),
        ),
    ]);
    rows
}

#[test]
fn upstream_that_breaks_the_rules_is_a_502_and_the_next_request_is_served() {
    let row = Arc::<AtomicUsize>::default();
    let current = Arc::clone(&row);
    let origin = TcpOrigin::serving(move |tcp| {
        let mut writer = tcp.try_clone().unwrap();
        // Its peer goes away when it has seen enough.
        let Ok(mut server) = Server::greet(tcp, &[]) else {
            return;
        };
        while let Ok(request) = server.next(HEADERS) {
            let rows = no_answers(request.stream);
            drop(match rows.get(current.load(Ordering::Acquire)) {
                Some((_, bytes)) => writer.write_all(bytes),
                None => server.answer(request.stream),
            });
        }
    });
    let gateway = Gateway::start();
    let upstream = json!({"scheme": "grpc", "nodes": {origin.node(): 1}});
    gateway.configure("/routes/r", &json!({"uri": "/*", "upstream": upstream}));
    let mut client = gateway.connect();
    for (number, (what, _)) in no_answers(1).iter().enumerate() {
        row.store(number, Ordering::Release);
        let reply = client.get("h", "/", &[]);
        assert_eq!(reply.status, 502, "{what}: {reply:?}");
        assert_eq!(reply.header("x-evil"), None, "{what}");
        row.store(usize::MAX, Ordering::Release);
        let reply = client.get("h", "/", &[]);
        assert_eq!(reply.status, 200, "after {what}: {reply:?}");
    }
}

/// A head for `/` of `h` (RFC 7541 §6.1, §6.2.2).
const GET: &[u8] = b"\x82\x84\x86\x01\x01h";
/// The same with POST.
const POST: &[u8] = b"\x83\x84\x86\x01\x01h";

/// What a client sends that ends its connection.
fn offences() -> Vec<(&'static str, Vec<u8>)> {
    let get = || frame(HEADERS, WHOLE, 1, GET);
    let post = || frame(HEADERS, END_HEADERS, 1, POST);
    vec![
        ("content of no stream", frame(DATA, 0, 0, b"x")),
        ("content of an idle stream", frame(DATA, 0, 1, b"x")),
        (
            "reset of an idle stream",
            frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
        ),
        (
            "window of an idle stream",
            frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
        ),
        (
            "continuation of nothing",
            frame(CONTINUATION, END_HEADERS, 1, GET),
        ),
        ("stream of a server", frame(HEADERS, WHOLE, 2, GET)),
        (
            "earlier stream",
            [frame(HEADERS, WHOLE, 5, GET), frame(HEADERS, WHOLE, 3, GET)].concat(),
        ),
        (
            "head cut by another",
            [frame(HEADERS, 0, 1, GET), get()].concat(),
        ),
        (
            "head cut by an unknown frame",
            [frame(HEADERS, 0, 1, GET), frame(0xfa, 0, 1, b"x")].concat(),
        ),
        ("no header block", frame(HEADERS, WHOLE, 1, &[0xff; 6])),
        (
            "padding beyond the end",
            [post(), frame(DATA, PADDED, 1, &[9, 0])].concat(),
        ),
        (
            "frame too long",
            [post(), frame(DATA, 0, 1, &[0; 1 << 20])].concat(),
        ),
        (
            "windows that overflow",
            frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
        ),
        ("window of nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("settings of a stream", frame(SETTINGS, 0, 1, &[])),
        ("settings cut short", frame(SETTINGS, 0, 0, &[0; 3])),
        (
            "settings out of bounds",
            frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0]),
        ),
        (
            "acknowledgement with content",
            frame(SETTINGS, 1, 0, &[0; 6]),
        ),
        ("ping of a stream", frame(PING, 0, 1, &[0; 8])),
        ("ping cut short", frame(PING, 0, 0, &[0; 6])),
        ("farewell of a stream", frame(GOAWAY, 0, 1, &[0; 8])),
        (
            "push",
            [
                post(),
                frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82]),
            ]
            .concat(),
        ),
        (
            "head without end",
            [
                frame(HEADERS, 0, 1, GET),
                frame(CONTINUATION, 0, 1, &[]).repeat(100_000),
            ]
            .concat(),
        ),
        (
            "resets without end",
            (0..2_000)
                .flat_map(|number| {
                    let stream = 2 * number + 1;
                    let head = frame(HEADERS, WHOLE, stream, GET);
                    [head, frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
                })
                .collect(),
        ),
    ]
}

#[test]
fn client_that_breaks_the_rules_is_cut_off_alone() {
    let gateway = Gateway::start();
    let origin = TcpOrigin::echoing();
    let upstream = json!({"nodes": {origin.node(): 1}});
    gateway.configure("/routes/r", &json!({"uri": "/*", "upstream": upstream}));
    let mut other = gateway.connect();
    for (what, bytes) in offences() {
        let mut client = gateway.connect();
        client.send(HELLO);
        client.send(&bytes);
        let code = farewell(&mut client, what);
        assert!(code.is_none_or(|code| code != 0), "{what}: {code:?}");
        other.get("h", "/", &[]).expect_status(200);
    }
    let mut client = gateway.connect();
    client.send(HELLO);
    client.send([frame(HEADERS, WHOLE, 1, GET), frame(0xfa, 0, 9, b"x")].concat());
    while read_frame(&mut client).unwrap().kind != HEADERS {}
    gateway.expect_record("of HTTP/2", |record| {
        field(record, "path") == Some("/") && field(record, "reason").is_none()
    });
}

/// Reads to the connection's end, which must come; the error that GOAWAY names, if one did.
fn farewell(client: &mut RawClient, what: &str) -> Option<u32> {
    let mut code = None;
    loop {
        match read_frame(client) {
            Ok(frame) if frame.kind == GOAWAY => {
                code = frame.payload[4..8].try_into().ok().map(u32::from_be_bytes);
            }
            Ok(_) => {}
            Err(error) => {
                let is_open = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                assert!(!is_open, "{what} leaves the connection open");
                return code;
            }
        }
    }
}
