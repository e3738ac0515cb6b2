//! What is wrong ends a stream, or the connection, by the code that RFC 9113 has for it; each with what
//! is like it and right.

use std::task::Poll;

use http::Method;

use super::super::frame::{MAX_STREAM, PREFACE, flag, kind};
use super::super::{By, Error, Role};
use super::wire::{GET, LIMITS, POST, Wire, ask, cx};

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const CANCEL: u32 = 8;
const COMPRESSION_ERROR: u32 = 9;

/// What a peer says, and what becomes of the connection.
type Case = (&'static str, fn(&mut Wire), u32);

#[test]
fn faults_of_clients_end_the_connection_by_their_own_codes() {
    let cases: &[Case] = &[
        (
            "data on the connection",
            |w| w.data(0, b"a", false),
            PROTOCOL_ERROR,
        ),
        (
            "data of an idle stream",
            |w| w.data(1, b"a", false),
            PROTOCOL_ERROR,
        ),
        (
            "data of a stream of ours",
            |w| w.data(2, b"a", false),
            PROTOCOL_ERROR,
        ),
        (
            "headers on the connection",
            |w| w.frame(kind::HEADERS, 5, 0, GET),
            PROTOCOL_ERROR,
        ),
        ("headers of an even stream", |w| w.get(2), PROTOCOL_ERROR),
        (
            "a lower stream",
            |w| {
                w.post(5);
                w.get(3);
            },
            STREAM_CLOSED,
        ),
        (
            "a stream of itself",
            |w| {
                let priority = [0, 0, 0, 1, 9];
                w.frame(
                    kind::HEADERS,
                    5 | flag::PRIORITY,
                    1,
                    &[&priority, GET].concat(),
                );
            },
            PROTOCOL_ERROR,
        ),
        (
            "a priority cut off",
            |w| w.frame(kind::HEADERS, 5 | flag::PRIORITY, 1, b"abc"),
            FRAME_SIZE_ERROR,
        ),
        (
            "too much padding",
            |w| w.frame(kind::HEADERS, 5 | flag::PADDED, 1, &[9, 0x82]),
            PROTOCOL_ERROR,
        ),
        (
            "no block",
            |w| w.frame(kind::HEADERS, 5, 1, &[0x80]),
            COMPRESSION_ERROR,
        ),
        (
            "priority on the connection",
            |w| w.frame(kind::PRIORITY, 0, 0, &[0; 5]),
            PROTOCOL_ERROR,
        ),
        (
            "a short priority",
            |w| w.frame(kind::PRIORITY, 0, 1, &[0; 4]),
            FRAME_SIZE_ERROR,
        ),
        ("reset on the connection", |w| w.reset(0, 8), PROTOCOL_ERROR),
        ("reset of an idle stream", |w| w.reset(1, 8), PROTOCOL_ERROR),
        (
            "a short reset",
            |w| {
                w.post(1);
                w.frame(kind::RST_STREAM, 0, 1, &[0; 3]);
            },
            FRAME_SIZE_ERROR,
        ),
        (
            "settings of a stream",
            |w| w.frame(kind::SETTINGS, 0, 1, &[]),
            PROTOCOL_ERROR,
        ),
        (
            "settings cut off",
            |w| w.frame(kind::SETTINGS, 0, 0, &[0; 5]),
            FRAME_SIZE_ERROR,
        ),
        (
            "an acknowledgement of words",
            |w| w.frame(kind::SETTINGS, flag::ACK, 0, &[0; 6]),
            FRAME_SIZE_ERROR,
        ),
        (
            "push",
            |w| w.frame(kind::PUSH_PROMISE, 4, 1, &[0; 4]),
            PROTOCOL_ERROR,
        ),
        (
            "a ping of a stream",
            |w| w.frame(kind::PING, 0, 1, &[0; 8]),
            PROTOCOL_ERROR,
        ),
        (
            "a short ping",
            |w| w.frame(kind::PING, 0, 0, &[0; 7]),
            FRAME_SIZE_ERROR,
        ),
        (
            "goaway of a stream",
            |w| w.frame(kind::GOAWAY, 0, 1, &[0; 8]),
            PROTOCOL_ERROR,
        ),
        (
            "a short goaway",
            |w| w.frame(kind::GOAWAY, 0, 0, &[0; 7]),
            FRAME_SIZE_ERROR,
        ),
        ("a window of nothing", |w| w.widen(0, 0), PROTOCOL_ERROR),
        (
            "a window of an idle stream",
            |w| w.widen(1, 1),
            PROTOCOL_ERROR,
        ),
        (
            "a short window",
            |w| w.frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3]),
            FRAME_SIZE_ERROR,
        ),
        (
            "a window too wide",
            |w| w.widen(0, MAX_STREAM),
            FLOW_CONTROL_ERROR,
        ),
        (
            "windows too wide",
            |w| {
                w.post(1);
                w.widen(1, MAX_STREAM - 65_535);
                w.frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]);
            },
            FLOW_CONTROL_ERROR,
        ),
        (
            "a continuation of nothing",
            |w| w.frame(kind::CONTINUATION, 4, 1, GET),
            PROTOCOL_ERROR,
        ),
        (
            "something within a block",
            |w| {
                w.frame(kind::HEADERS, 0, 1, GET);
                w.frame(kind::PING, 0, 0, &[0; 8]);
            },
            PROTOCOL_ERROR,
        ),
        (
            "another stream within a block",
            |w| {
                w.frame(kind::HEADERS, 0, 1, GET);
                w.frame(kind::CONTINUATION, 4, 3, &[]);
            },
            PROTOCOL_ERROR,
        ),
        (
            "long data within a block",
            |w| {
                w.post(1);
                w.frame(kind::HEADERS, 1, 1, &[]);
                w.data(1, &[0; 10_000], false);
            },
            PROTOCOL_ERROR,
        ),
        (
            "a frame too large",
            |w| w.frame(0xee, 0, 0, &[0; (16 << 10) + 1]),
            FRAME_SIZE_ERROR,
        ),
        (
            "more than the connection's window",
            |w| {
                for stream in [1, 3, 5] {
                    w.post(stream);
                    for _ in 0..8 {
                        w.data(stream, &[0; 16 << 10], false);
                    }
                }
            },
            FLOW_CONTROL_ERROR,
        ),
    ];
    for (what, say, code) in cases {
        let mut wire = Wire::server();
        say(&mut wire);
        let frames = wire.take();
        let last = frames.last().unwrap_or_else(|| panic!("{what}: nothing"));
        assert_eq!(last.head.kind, kind::GOAWAY, "{what}: {frames:?}");
        assert_eq!(last.goaway().1, *code, "{what}");
        assert!(
            matches!(&wire.ended, Some(Err(Error::GoAway(_, By::Fault, _)))),
            "{what}"
        );
    }
}

/// The same, with what it says in hand.
type BoxedCase = (&'static str, Box<dyn Fn(&mut Wire)>, u32);

#[test]
fn faults_of_streams_reset_them_and_the_connection_serves_on() {
    let malformed = |lines: &[u8]| {
        let lines = lines.to_vec();
        move |w: &mut Wire| w.frame(kind::HEADERS, 5, 1, &lines)
    };
    let cases: Vec<BoxedCase> = vec![
        (
            "no path",
            Box::new(malformed(&[0x82, 0x87])),
            PROTOCOL_ERROR,
        ),
        (
            "no method",
            Box::new(malformed(&[0x84, 0x87])),
            PROTOCOL_ERROR,
        ),
        (
            "upper case",
            Box::new(malformed(&[GET, b"\x00\x01A\x01b"].concat())),
            PROTOCOL_ERROR,
        ),
        (
            "connection",
            Box::new(malformed(&[GET, b"\x00\x0aconnection\x01b"].concat())),
            PROTOCOL_ERROR,
        ),
        (
            "a status",
            Box::new(malformed(&[GET, &[0x88]].concat())),
            PROTOCOL_ERROR,
        ),
        (
            "a late field",
            Box::new(malformed(
                &[&[0x82, 0x84], &b"\x00\x01a\x01b"[..], &[0x87]].concat(),
            )),
            PROTOCOL_ERROR,
        ),
        (
            "content that is none",
            Box::new(malformed(&[GET, b"\x0f\x0d\x015"].concat())),
            PROTOCOL_ERROR,
        ),
        (
            "more than was said",
            Box::new(|w| {
                w.frame(kind::HEADERS, 4, 1, &[POST, b"\x0f\x0d\x012"].concat());
                w.data(1, b"abc", false);
            }),
            PROTOCOL_ERROR,
        ),
        (
            "less than was said",
            Box::new(|w| {
                w.frame(kind::HEADERS, 4, 1, &[POST, b"\x0f\x0d\x012"].concat());
                w.data(1, b"a", true);
            }),
            PROTOCOL_ERROR,
        ),
        (
            "less, and trailers",
            Box::new(|w| {
                w.frame(kind::HEADERS, 4, 1, &[POST, b"\x0f\x0d\x012"].concat());
                w.frame(kind::HEADERS, 5, 1, b"\x00\x01a\x01b");
            }),
            PROTOCOL_ERROR,
        ),
        (
            "trailers that do not end",
            Box::new(|w| {
                w.post(1);
                w.frame(kind::HEADERS, 4, 1, b"\x00\x01a\x01b");
            }),
            PROTOCOL_ERROR,
        ),
        (
            "trailers with a path",
            Box::new(|w| {
                w.post(1);
                w.frame(kind::HEADERS, 5, 1, &[0x84]);
            }),
            PROTOCOL_ERROR,
        ),
        (
            "data behind the end",
            Box::new(|w| {
                w.get(1);
                w.data(1, b"a", false);
            }),
            STREAM_CLOSED,
        ),
        (
            "headers behind the end",
            Box::new(|w| {
                w.get(1);
                w.frame(kind::HEADERS, 5, 1, &[]);
            }),
            STREAM_CLOSED,
        ),
        (
            "a window of nothing",
            Box::new(|w| {
                w.post(1);
                w.widen(1, 0);
            }),
            PROTOCOL_ERROR,
        ),
        (
            "a window too wide",
            Box::new(|w| {
                w.post(1);
                w.widen(1, MAX_STREAM);
            }),
            FLOW_CONTROL_ERROR,
        ),
        (
            "a short priority",
            Box::new(|w| {
                w.post(1);
                w.frame(kind::PRIORITY, 0, 1, &[0; 4]);
            }),
            FRAME_SIZE_ERROR,
        ),
        (
            "more than the stream's window",
            Box::new(|w| {
                w.post(1);
                for _ in 0..9 {
                    w.data(1, &[0; 16 << 10], false);
                }
            }),
            FLOW_CONTROL_ERROR,
        ),
        (
            "data behind a reset",
            Box::new(|w| {
                w.post(1);
                w.reset(1, CANCEL);
                w.data(1, b"a", true);
            }),
            STREAM_CLOSED,
        ),
    ];
    for (what, say, code) in cases {
        let mut wire = Wire::server();
        say(&mut wire);
        let frames = wire.take();
        let last = frames.last().unwrap_or_else(|| panic!("{what}: nothing"));
        assert_eq!(
            (last.head.kind, last.head.stream),
            (kind::RST_STREAM, 1),
            "{what}: {frames:?}"
        );
        assert_eq!(last.code(), code, "{what}");
        // What is still under way to it is passed over, and the next stream is served.
        wire.data(1, b"late", true);
        wire.requests.clear();
        wire.get(3);
        let next = wire.request();
        assert_eq!(next.request.method(), Method::GET, "{what}");
    }
}

#[test]
fn first_comes_the_preface_and_then_settings() {
    for (say, is_right) in [
        (PREFACE.to_vec(), true),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), false),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX".to_vec(), false),
    ] {
        let mut wire = Wire::bare(Role::Server, LIMITS);
        for byte in &say {
            wire.say_bytes(&[*byte]);
            wire.run();
        }
        assert_eq!(wire.ended.is_none(), is_right, "{say:?}");
    }
    for role in [Role::Server, Role::Client] {
        for kind in [kind::PING, kind::SETTINGS] {
            let mut wire = Wire::bare(role, LIMITS);
            if role == Role::Server {
                wire.say_bytes(PREFACE);
            }
            let flags = if kind == kind::PING { 0 } else { flag::ACK };
            wire.frame(
                kind,
                flags,
                0,
                &[0; 8][..if kind == kind::PING { 8 } else { 0 }],
            );
            wire.expect_end(PROTOCOL_ERROR);
        }
        let mut wire = Wire::with(role, LIMITS);
        assert!(wire.conn.is_settled() && wire.conn.is_acknowledged());
        assert!(wire.is_quiet());
    }
}

#[test]
fn faults_of_servers_end_the_connection_or_the_stream() {
    let cases: &[Case] = &[
        (
            "a push",
            |w| w.frame(kind::PUSH_PROMISE, 4, 1, &[0, 0, 0, 2, 0x82]),
            PROTOCOL_ERROR,
        ),
        (
            "an answer nobody asked for",
            |w| w.ok(3, true),
            PROTOCOL_ERROR,
        ),
        ("a stream of its own", |w| w.ok(2, true), PROTOCOL_ERROR),
        (
            "a wish to be pushed to",
            |w| w.frame(kind::SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 1]),
            PROTOCOL_ERROR,
        ),
        (
            "no block",
            |w| w.frame(kind::HEADERS, 4, 1, &[0xff]),
            COMPRESSION_ERROR,
        ),
    ];
    for (what, say, code) in cases {
        let mut wire = Wire::client();
        let (mut reader, _writer) = wire.ask(false);
        wire.take();
        say(&mut wire);
        let frames = wire.take();
        assert_eq!(frames.last().unwrap().goaway().1, *code, "{what}");
        assert!(
            matches!(reader.poll_answer(&cx()), Poll::Ready(Err(_))),
            "{what}"
        );
        assert!(
            ask(&wire.conn.handle(), &Method::GET, true).is_err(),
            "{what}"
        );
    }
    let cases: &[Case] = &[
        (
            "no status",
            |w| w.frame(kind::HEADERS, 4, 1, b"\x00\x01a\x01b"),
            PROTOCOL_ERROR,
        ),
        (
            "a path",
            |w| w.frame(kind::HEADERS, 4, 1, &[0x88, 0x84]),
            PROTOCOL_ERROR,
        ),
        (
            "content before a head",
            |w| w.data(1, b"a", false),
            PROTOCOL_ERROR,
        ),
        (
            "content behind the end",
            |w| {
                w.ok(1, true);
                w.data(1, b"a", false);
            },
            STREAM_CLOSED,
        ),
        (
            "a head that is too large",
            |w| {
                let line = [&b"\x00\x01a\x7f\xa1\x1f"[..], &[b'x'; 4128]].concat();
                w.frame(kind::HEADERS, 4, 1, &[&[0x88], &line[..]].concat());
            },
            PROTOCOL_ERROR,
        ),
    ];
    for (what, say, code) in cases {
        let mut wire = Wire::client();
        let (_reader, _writer) = wire.ask(false);
        wire.take();
        say(&mut wire);
        let frame = wire.one();
        assert_eq!(
            (frame.head.kind, frame.head.stream, frame.code()),
            (kind::RST_STREAM, 1, *code),
            "{what}"
        );
        // Another stream is answered.
        let (mut reader, _) = wire.ask(true);
        wire.ok(3, true);
        wire.run();
        assert!(
            matches!(reader.poll_answer(&cx()), Poll::Ready(Ok(_))),
            "{what}"
        );
    }
}
