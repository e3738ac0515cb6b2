//! What RFC 9113 says of streams and connections, case by case, each with its twin.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use super::super::frame::{self, MAX_STREAM, PREFACE, flag, kind};
use super::super::{By, Error, Group, Limits, Reason, Role, Trailers};
use super::wire::{GET, LIMITS, POST, Sleeper, Wire, ask, cx, ok, pieces, poll_now, send_all};

const PROTOCOL_ERROR: u32 = 1;
const STREAM_CLOSED: u32 = 5;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;

#[test]
fn what_is_odd_and_allowed_is_taken() {
    let mut wire = Wire::server();
    // Padding, a priority, a divided block, an unknown kind, an unknown setting, a reserved flag.
    wire.frame(0xee, 0xff, 7, b"whatever");
    wire.frame(kind::SETTINGS, 0, 0, &[0, 0xee, 0, 0, 0, 1]);
    wire.frame(kind::PRIORITY, 0, 9, &[0, 0, 0, 3, 1]);
    let padded = [&[2, 0, 0, 0, 3, 1][..], &POST[..2], &[0, 0]].concat();
    wire.frame(kind::HEADERS, flag::PADDED | flag::PRIORITY, 1, &padded);
    wire.frame(kind::CONTINUATION, 0, 1, &[]);
    wire.frame(kind::CONTINUATION, flag::END_HEADERS, 1, &POST[2..]);
    wire.frame(kind::DATA, flag::PADDED, 1, b"\x03abc\0\0\0");
    wire.data(1, b"", false);
    wire.frame(kind::HEADERS, 5, 1, b"\x00\x01a\x01b");
    let mut incoming = wire.request();
    let (content, trailers, error) = pieces(&mut incoming.reader);
    assert_eq!((&content[..], error.is_none()), (&b"abc"[..], true));
    assert_eq!(trailers.unwrap()["a"], "b");
    assert!(incoming.reader.is_end_stream());
    let frames = wire.take();
    assert_eq!(frames.len(), 1, "{frames:?}");
    assert_eq!(
        (frames[0].head.kind, frames[0].head.flags),
        (kind::SETTINGS, flag::ACK)
    );
}

#[test]
fn answer_goes_out_with_its_content_and_trailers() {
    let mut wire = Wire::server();
    wire.post(1);
    let mut incoming = wire.request();
    let mut head = Response::new(None);
    *head.status_mut() = StatusCode::CREATED;
    head.headers_mut()
        .insert("x-own", HeaderValue::from_static("value"));
    assert!(incoming.writer.answer(head, false));
    assert_eq!(incoming.writer.poll_room(3, &cx()), Poll::Ready(Some(3)));
    assert!(incoming.writer.send(b"abc", false));
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    assert!(incoming.writer.send_trailers(Trailers::Fields(trailers)));
    assert!(!incoming.writer.send(b"more", false));
    let frames = wire.take();
    assert_eq!(wire.fields(&frames[0]), [":status: 201", "x-own: value"]);
    assert_eq!(
        (frames[1].head.kind, &frames[1].payload[..]),
        (kind::DATA, &b"abc"[..])
    );
    assert_eq!(wire.fields(&frames[2]), ["grpc-status: 0"]);
    assert_eq!(frames[2].head.flags, flag::END_HEADERS | flag::END_STREAM);
    // An answer that is whole makes the rest of its request useless, not wrong.
    drop(incoming);
    wire.expect_reset(1, 0);
}

#[test]
fn connection_that_rests_keeps_its_streams_and_tables() {
    let mut wire = Wire::server();
    // A field that is put into the table, and then is named by its place there.
    let put = [POST, b"\x40\x03x-a\x01b"].concat();
    let named = [POST, &[0x80 | 62]].concat();
    for (stream, block) in [(1, &put), (3, &named), (5, &named), (7, &named)] {
        wire.frame(kind::HEADERS, flag::END_HEADERS, stream, block);
        let mut incoming = wire.request();
        assert_eq!(incoming.request.headers()["x-a"], "b");
        wire.conn.rest();
        wire.data(stream, b"abc", true);
        wire.run();
        let (content, _, error) = pieces(&mut incoming.reader);
        assert_eq!((&content[..], error.is_none()), (&b"abc"[..], true));
        // Written out, put into the table, and named by its place.
        let mut head = ok();
        head.headers_mut()
            .insert("x-own", HeaderValue::from_static("value"));
        assert!(incoming.writer.answer(head, true));
        drop(incoming);
        let answer = wire.one();
        assert_eq!(wire.fields(&answer), [":status: 200", "x-own: value"]);
        wire.conn.rest();
        assert_eq!(wire.conn.held(), 0);
    }
}

#[test]
fn parts_of_a_message_are_seen_to_come_and_parts_of_other_frames_are_not() {
    // A frame, and whether a part of it says that more of the content of stream 1 is on its way.
    for (kind, flags, stream, is_coming) in [
        (kind::DATA, 0, 1, true),
        (kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, true),
        (kind::DATA, 0, 3, false),
        (kind::PING, flag::ACK, 0, false),
        (kind::SETTINGS, flag::ACK, 0, false),
        (kind::WINDOW_UPDATE, 0, 1, false),
        (kind::PRIORITY, 0, 1, false),
        (0xee, 0, 1, false),
    ] {
        let mut wire = Wire::server();
        wire.post(1);
        let incoming = wire.request();
        assert!(!incoming.reader.is_coming());
        let mut frame = Vec::new();
        frame::write(&mut frame, kind, flags, stream, &[0; 8]);
        // Of the head alone nobody knows yet what it will be.
        for (part, says) in [(&frame[..5], false), (&frame[5..10], is_coming)] {
            wire.say_bytes(part);
            wire.run();
            assert_eq!(incoming.reader.is_coming(), says, "{kind}: {part:?}");
        }
    }
    // A header block may go on in frames of its own, and no other frame comes before its end.
    let mut wire = Wire::server();
    wire.post(1);
    let incoming = wire.request();
    wire.frame(kind::HEADERS, flag::END_STREAM, 1, b"\x00\x01a");
    wire.run();
    assert!(incoming.reader.is_coming());
    wire.frame(kind::CONTINUATION, flag::END_HEADERS, 1, b"\x01b");
    wire.run();
    assert!(!incoming.reader.is_coming());
}

#[test]
fn answer_without_content_has_none_and_ends_where_its_stream_does() {
    for status in [204, 304] {
        let mut wire = Wire::client();
        let (mut reader, _writer) = wire.ask(true);
        wire.take();
        let index = if status == 204 { 0x89 } else { 0x8b };
        let length = b"\x0f\x0d\x0270";
        let head = [&[index][..], if status == 304 { length } else { b"" }].concat();
        wire.frame(kind::HEADERS, flag::END_HEADERS, 1, &head);
        wire.data(1, b"content", false);
        wire.run();
        let Poll::Ready(Ok(answer)) = reader.poll_answer(&cx()) else {
            panic!("{status} is refused");
        };
        assert_eq!(answer.status(), status);
        assert!(!reader.is_end_stream());
        // Trailers have no place behind it either.
        wire.frame(kind::HEADERS, 5, 1, b"\x00\x01a\x01b");
        wire.run();
        let (content, trailers, error) = pieces(&mut reader);
        assert!(content.is_empty() && trailers.is_none() && error.is_none());
        assert!(reader.is_end_stream());
        // Its peer ended it: nothing is left to reset.
        drop(reader);
        let frames = wire.take();
        let is_reset = |frame: &super::wire::Frame| frame.head.kind == kind::RST_STREAM;
        assert!(!frames.iter().any(is_reset), "{frames:?}");
    }
}

#[test]
fn stream_that_is_given_up_is_cancelled_and_one_that_is_over_is_not() {
    let mut wire = Wire::server();
    wire.post(1);
    drop(wire.request());
    wire.expect_reset(1, CANCEL);
    wire.get(3);
    let mut incoming = wire.request();
    assert!(incoming.writer.answer(ok(), true));
    drop(incoming);
    assert_eq!(wire.one().head.kind, kind::HEADERS);
    let mut client = Wire::client();
    let (reader, writer) = client.ask(false);
    drop(writer);
    client.take();
    drop(reader);
    client.expect_reset(1, CANCEL);
    let (mut reader, _) = client.ask(true);
    client.ok(3, true);
    client.take();
    assert!(matches!(reader.poll_answer(&cx()), Poll::Ready(Ok(_))));
    drop(reader);
    assert!(client.is_quiet());
}

#[test]
fn smallest_size_of_the_table_is_said_where_settings_say_two() {
    // 0 and 4,096 (RFC 7541 §4.2); then 4,096 again, which says nothing new.
    for (first, said) in [(0, &[0x20, 0x3f, 0xe1, 0x1f][..]), (16, &[])] {
        let mut wire = Wire::server();
        let sizes = [0, 1, 0, 0, first, 0, 0, 1, 0, 0, 16, 0];
        wire.frame(kind::SETTINGS, 0, 0, &sizes);
        wire.get(1);
        assert!(wire.request().writer.answer(ok(), true));
        let frames = wire.take();
        let block = &frames.last().unwrap().payload;
        // `:status: 200` comes next.
        assert_eq!(block[..=said.len()], [said, &[0x88]].concat());
    }
}

#[test]
fn content_waits_for_both_windows() {
    let limits = Limits {
        stream_window: 1 << 20,
        ..LIMITS
    };
    let mut wire = Wire::with(Role::Server, limits);
    // A window of ten bytes for each stream.
    wire.frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 10]);
    wire.get(1);
    let mut incoming = wire.request();
    assert!(incoming.writer.answer(ok(), false));
    assert_eq!(incoming.writer.poll_room(100, &cx()), Poll::Ready(Some(10)));
    assert!(incoming.writer.send(&[b'x'; 10], false));
    assert!(incoming.writer.poll_room(100, &cx()).is_pending());
    wire.widen(1, 5);
    wire.run();
    assert_eq!(incoming.writer.poll_room(100, &cx()), Poll::Ready(Some(5)));
    // Narrowed below what is under way, it has no room before it is widened by more than that.
    wire.frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    wire.run();
    assert!(incoming.writer.poll_room(100, &cx()).is_pending());
    wire.widen(1, 5);
    wire.run();
    assert!(incoming.writer.poll_room(100, &cx()).is_pending());
    wire.widen(1, 1_000_000);
    wire.run();
    // The connection has 65,535 bytes, ten of which were sent.
    let content = Bytes::from(vec![b'y'; 70_000]);
    assert!(poll_now(send_all(&mut incoming.writer, &content, true)).is_none());
    let sent: usize = wire
        .take()
        .iter()
        .filter(|f| f.head.kind == kind::DATA)
        .map(|f| f.head.length)
        .sum();
    assert!(sent <= 65_535);
}

#[test]
fn everybody_who_waits_for_room_gets_some() {
    let mut wire = Wire::server();
    wire.widen(0, 1 << 20);
    let mut open = Vec::new();
    for number in 0..4 {
        wire.get(2 * number + 1);
        let mut incoming = wire.request();
        assert!(incoming.writer.answer(ok(), false));
        open.push((incoming, 60_000_usize));
    }
    // They send as they are let, in turn: what is written makes room for the others.
    let mut done = 0;
    for _ in 0..1000 {
        for (incoming, left) in &mut open {
            while *left > 0
                && let Poll::Ready(Some(room)) = incoming.writer.poll_room(*left, &cx())
            {
                *left -= room;
                assert!(incoming.writer.send(&vec![0; room], *left == 0));
                done += usize::from(*left == 0);
            }
        }
        wire.take();
    }
    assert_eq!(done, 4);
}

#[test]
fn room_of_who_gives_up_goes_to_who_waits() {
    for is_reset in [true, false] {
        let mut wire = Wire::client();
        // Windows of streams that are wider than the connection's.
        wire.frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0x10, 0, 0]);
        wire.run();
        let [(_one, first), (_other, second)] = [(); 2].map(|()| wire.ask(false));
        let (mut first, mut second) = (first.unwrap(), second.unwrap());
        assert!(first.send(&[0; 65_535], false));
        wire.take();
        assert!(first.poll_room(1000, &cx()).is_pending());
        let sleeper = Arc::<Sleeper>::default();
        let waker = Waker::from(sleeper.clone());
        let waits = second.poll_room(1000, &Context::from_waker(&waker));
        assert!(waits.is_pending());
        // The first one is let send, and does not.
        wire.widen(0, 100);
        if is_reset {
            wire.reset(1, CANCEL);
        }
        wire.run();
        let _held = is_reset.then_some(first);
        assert!(sleeper.is_awake(), "{is_reset}");
        let room = second.poll_room(1000, &cx());
        assert_eq!(room, Poll::Ready(Some(100)), "{is_reset}");
    }
}

#[test]
fn window_is_given_again_as_content_is_taken() {
    let mut wire = Wire::server();
    wire.post(1);
    for _ in 0..8 {
        wire.data(1, &[0; 16 << 10], false);
    }
    let mut incoming = wire.request();
    assert!(wire.is_quiet());
    let (content, ..) = pieces(&mut incoming.reader);
    assert_eq!(content.len(), 1 << 17);
    let frames = wire.take();
    let given = |stream| -> u32 {
        let widened = frames.iter().filter(|frame| frame.head.stream == stream);
        widened.map(|frame| frame.code()).sum()
    };
    assert_eq!((given(1), given(0)), (1 << 17, 1 << 17));
}

#[test]
fn content_that_nobody_reads_gives_the_connection_its_window_again() {
    let mut wire = Wire::server();
    for number in 0..20 {
        let stream = 2 * number + 1;
        wire.post(stream);
        for _ in 0..8 {
            wire.data(stream, &[0; 16 << 10], false);
        }
        let incoming = wire.request();
        let mut writer = incoming.writer;
        match number % 3 {
            0 => drop(incoming.reader),
            1 => writer.reset(Reason::CANCEL),
            _ => {}
        }
        drop(writer);
        wire.take();
    }
    assert!(wire.ended.is_none());
}

#[test]
fn what_came_before_a_reset_is_still_read() {
    let mut wire = Wire::server();
    wire.post(1);
    wire.data(1, b"part", false);
    let mut incoming = wire.request();
    wire.reset(1, CANCEL);
    wire.run();
    assert!(incoming.writer.poll_over(&cx()).is_ready());
    assert!(!incoming.writer.answer(ok(), true));
    let (content, _, error) = pieces(&mut incoming.reader);
    assert_eq!(content, b"part");
    assert!(matches!(
        error,
        Some(Error::Reset(Reason::CANCEL, By::Peer))
    ));
    assert!(!incoming.reader.is_end_stream());
    // What was whole is whole.
    let mut client = Wire::client();
    let (mut reader, _writer) = client.ask(false);
    client.ok(1, false);
    client.data(1, b"all", true);
    client.reset(1, 0);
    client.run();
    assert!(matches!(reader.poll_answer(&cx()), Poll::Ready(Ok(_))));
    let (content, _, error) = pieces(&mut reader);
    assert_eq!((&content[..], error.is_none()), (&b"all"[..], true));
    assert!(reader.is_end_stream());
}

#[test]
fn heads_that_only_inform_are_sent_as_long_as_they_are_taken_and_the_answer_has_not_begun() {
    let mut wire = Wire::server();
    wire.get(1);
    let mut writer = wire.request().writer;
    wire.take();
    let mut hints = HeaderMap::new();
    hints.insert("link", HeaderValue::from_static("a"));
    hints.insert("connection", HeaderValue::from_static("close"));
    assert!(writer.inform(StatusCode::EARLY_HINTS, &hints));
    let frame = wire.one();
    assert_eq!(frame.head.flags, flag::END_HEADERS);
    assert_eq!(wire.fields(&frame), [":status: 103", "link: a"]);
    // Its peer takes nothing for a while.
    let mut large = HeaderValue::try_from("x".repeat(10_000)).unwrap();
    large.set_sensitive(true);
    hints.insert("x-large", large);
    let sent = (0..1000)
        .take_while(|_| writer.inform(StatusCode::EARLY_HINTS, &hints))
        .count();
    assert!((1..100).contains(&sent), "{sent}");
    assert_eq!(wire.take().len(), sent);
    assert!(writer.inform(StatusCode::EARLY_HINTS, &hints));
    assert!(writer.answer(ok(), false));
    assert!(!writer.inform(StatusCode::EARLY_HINTS, &hints));
    wire.reset(1, CANCEL);
    assert_eq!(wire.take().len(), 2);
    assert!(!writer.inform(StatusCode::EARLY_HINTS, &hints));
}

#[test]
fn heads_that_only_inform_come_before_the_answer() {
    let mut wire = Wire::client();
    let (mut reader, _) = wire.ask(true);
    wire.take();
    // 103, in four bytes.
    let informing = b"\x08\x03103\x00\x04link\x01a";
    wire.frame(kind::HEADERS, flag::END_HEADERS, 1, informing);
    wire.frame(kind::HEADERS, flag::END_HEADERS, 1, b"\x08\x03100");
    wire.ok(1, true);
    wire.run();
    for (status, link) in [(103, Some("a")), (100, None), (200, None)] {
        let Poll::Ready(Ok(head)) = reader.poll_answer(&cx()) else {
            panic!("it came");
        };
        let found = head.headers().get("link").and_then(|it| it.to_str().ok());
        assert_eq!((head.status().as_u16(), found), (status, link));
    }
    for (fields, flags) in [(&b"\x08\x03103"[..], 5), (b"\x08\x03101", 4)] {
        let mut wire = Wire::client();
        let (mut reader, _) = wire.ask(true);
        wire.take();
        wire.frame(kind::HEADERS, flags, 1, fields);
        wire.expect_reset(1, PROTOCOL_ERROR);
        assert!(
            matches!(reader.poll_answer(&cx()), Poll::Ready(Err(error)) if error.is_violation())
        );
    }
}

/// The answer to one more request, of this block: its map, and its group.
fn answered(wire: &mut Wire, block: &[u8], id: u32) -> (HeaderMap, Option<Rc<Group>>) {
    let (mut reader, _) = wire.ask(true);
    wire.take();
    wire.frame(kind::HEADERS, 5, id, block);
    wire.run();
    let Poll::Ready(Ok(answer)) = reader.poll_answer(&cx()) else {
        panic!("it came");
    };
    let (head, group) = answer.into_parts();
    assert_eq!(head.status, StatusCode::OK);
    (head.headers, group)
}

#[test]
fn answer_that_repeats_shares_its_fields_with_those_before() {
    let mut wire = Wire::client();
    // 200, a literal, and the newest field of the table, which the first block puts there; it says the
    // same whatever is there.
    let blocks: [&[u8]; 4] = [
        b"\x88\x40\x01n\x011",
        b"\x88\x00\x01a\x01b\xbe",
        b"\x88\x40\x01n\x012",
        // Secrets are nobody's to remember.
        b"\x88\x0f\x28\x01s\x1f\x08\x01t",
    ];
    let plan = [0, 1, 1, 1, 1, 2, 1, 1, 1, 3, 3, 3, 2, 2, 2, 1];
    let mut shared = Vec::new();
    for (id, at) in (1..).step_by(2).zip(plan) {
        let (mut headers, group) = answered(&mut wire, blocks[at], id);
        assert_eq!(group.is_some(), headers.is_empty());
        if let Some(group) = &group {
            group.put_into(&mut headers);
        }
        let said: Vec<_> = headers
            .values()
            .map(|value| value.to_str().unwrap())
            .collect();
        let newest = if id < 11 { "1" } else { "2" };
        match at {
            0 | 2 => assert_eq!(said, [newest]),
            1 => assert_eq!(said, ["b", newest]),
            _ => assert_eq!(said, ["s", "t"]),
        }
        shared.push(group.is_some());
    }
    let (yes, no) = (true, false);
    assert_eq!(shared[..6], [no, no, no, yes, yes, no]);
    assert_eq!(shared[6..12], [no, yes, yes, no, no, no]);
    // It was written too seldom to be kept at once.
    assert_eq!(shared[14..], [yes, no]);
}

#[test]
fn answers_without_content_may_say_a_length() {
    for (method, block, is_right) in [
        (Method::HEAD, &b"\x88\x0f\x0d\x015"[..], true),
        (Method::GET, b"\x8b\x0f\x0d\x015", true),
        (Method::GET, b"\x89\x0f\x0d\x015", true),
        (Method::GET, b"\x88\x0f\x0d\x015", false),
        (Method::GET, b"\x88\x0f\x0d\x010", true),
    ] {
        let mut wire = Wire::client();
        let (mut reader, _) = ask(&wire.conn.handle(), &method, true).unwrap();
        wire.take();
        wire.frame(kind::HEADERS, 5, 1, block);
        wire.run();
        let answer = reader.poll_answer(&cx());
        assert_eq!(
            matches!(answer, Poll::Ready(Ok(_))),
            is_right,
            "{method} {block:?}"
        );
    }
}

#[test]
fn client_counts_its_streams_and_heeds_the_servers_limit() {
    let mut wire = Wire::bare(Role::Client, LIMITS);
    let handle = wire.conn.handle();
    wire.run();
    assert_eq!(handle.most_streams(), 0);
    wire.frame(kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 7]);
    wire.run();
    assert_eq!(handle.most_streams(), 7);
    wire.frame(kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 0]);
    wire.run();
    assert_eq!(handle.most_streams(), 0);
    let numbers: Vec<u32> = {
        let open = [(); 3].map(|()| wire.ask(true));
        let frames = wire.take();
        drop(open);
        let heads = frames
            .iter()
            .filter(|frame| frame.head.kind == kind::HEADERS);
        heads.map(|frame| frame.head.stream).collect()
    };
    assert_eq!(numbers, [1, 3, 5]);
}

#[test]
fn numbers_of_streams_come_to_an_end() {
    let mut wire = Wire::client();
    wire.conn.skip_to(MAX_STREAM - 2);
    let (_one, _) = wire.ask(true);
    assert!(wire.conn.handle().takes_streams());
    let (_last, _) = wire.ask(true);
    assert!(!wire.conn.handle().takes_streams());
    assert!(ask(&wire.conn.handle(), &Method::GET, true).is_err());
    let frames = wire.take();
    assert_eq!(frames.last().unwrap().head.stream, MAX_STREAM);
}

#[test]
fn one_stream_more_than_is_let_is_refused() {
    let mut wire = Wire::server();
    let mut open = Vec::new();
    for number in 0..8 {
        wire.post(2 * number + 1);
        open.push(wire.request());
    }
    wire.get(17);
    wire.expect_reset(17, REFUSED_STREAM);
    // One that ends makes room.
    open.pop();
    wire.expect_reset(15, CANCEL);
    wire.get(19);
    wire.request();
}

#[test]
fn streams_that_are_too_many_are_a_fault_of_who_can_know_it() {
    for is_known in [false, true] {
        let mut wire = Wire::bare(Role::Server, LIMITS);
        wire.say_bytes(PREFACE);
        wire.frame(kind::SETTINGS, 0, 0, &[]);
        if is_known {
            wire.frame(kind::SETTINGS, flag::ACK, 0, &[]);
        }
        wire.take();
        let mut open = Vec::new();
        for number in 0..8 {
            wire.post(2 * number + 1);
            open.push(wire.request());
        }
        for number in 8..17 {
            wire.get(2 * number + 1);
        }
        if is_known {
            let frames = wire.take();
            let (last, rest) = frames.split_last().unwrap();
            assert_eq!((last.goaway().1, rest.len()), (ENHANCE_YOUR_CALM, 8));
            continue;
        }
        let refused = wire.take();
        let told = refused
            .iter()
            .map(|frame| (frame.head.stream, frame.code()));
        assert!(told.eq((8..17).map(|number| (2 * number + 1, REFUSED_STREAM))));
        assert!(wire.ended.is_none());
        // It may not go on like that for ever.
        let mut flooded = Wire::bare(Role::Server, LIMITS);
        flooded.say_bytes(PREFACE);
        flooded.frame(kind::SETTINGS, 0, 0, &[]);
        for number in 0..8 {
            flooded.post(2 * number + 1);
            open.push(flooded.request());
        }
        for number in 8..25 {
            flooded.get(2 * number + 1);
        }
        flooded.expect_end(ENHANCE_YOUR_CALM);
        open.clear();
        wire.frame(kind::SETTINGS, flag::ACK, 0, &[]);
        wire.get(35);
        wire.request();
    }
}

#[test]
fn farewell_of_a_server_takes_two_steps() {
    let mut wire = Wire::server();
    wire.get(1);
    let mut first = wire.request();
    wire.conn.leave();
    wire.conn.leave();
    let frames = wire.take();
    assert_eq!(frames.len(), 2, "{frames:?}");
    assert_eq!(frames[0].goaway(), (MAX_STREAM, 0));
    assert_eq!(frames[1].head.kind, kind::PING);
    // What crossed it is served, until the client says that it heard.
    wire.get(3);
    let mut second = wire.request();
    wire.frame(kind::PING, flag::ACK, 0, &frames[1].payload);
    assert_eq!(wire.one().goaway(), (3, 0));
    wire.get(5);
    wire.data(5, b"a", true);
    assert!(wire.is_quiet() && wire.requests.is_empty());
    assert!(first.writer.answer(ok(), true));
    assert_eq!(wire.one().head.stream, 1);
    assert!(wire.ended.is_none());
    assert!(second.writer.answer(ok(), true));
    assert_eq!(wire.one().head.stream, 3);
    assert!(matches!(wire.ended, Some(Ok(()))));
}

#[test]
fn farewell_of_a_server_is_not_taken_back_by_an_error() {
    let mut wire = Wire::server();
    wire.get(1);
    let _held = wire.request();
    wire.conn.leave();
    let frames = wire.take();
    wire.frame(kind::PING, flag::ACK, 0, &frames[1].payload);
    assert_eq!(wire.one().goaway(), (1, 0));
    // One that crossed it is not looked at, whatever becomes of the connection.
    wire.get(3);
    wire.frame(kind::PING, 0, 3, b"whatever");
    assert_eq!(wire.one().goaway(), (1, PROTOCOL_ERROR));
}

#[test]
fn connection_ends_with_a_request_that_was_reset_before_it_was_looked_at() {
    for leaves in [true, false] {
        let mut wire = Wire::server();
        wire.get(1);
        wire.reset(1, CANCEL);
        if leaves {
            wire.goaway(0, 0);
        }
        assert_eq!(wire.ends_by_itself(), leaves);
    }
}

#[test]
fn farewell_of_a_client_ends_the_connection_with_its_streams() {
    let mut wire = Wire::server();
    wire.get(1);
    let mut incoming = wire.request();
    wire.goaway(0, 0);
    assert!(wire.is_quiet());
    assert!(incoming.writer.answer(ok(), true));
    wire.one();
    assert!(matches!(wire.ended, Some(Ok(()))));

    let mut wire = Wire::client();
    let (mut reader, _) = wire.ask(true);
    wire.take();
    wire.conn.leave();
    assert_eq!(wire.one().goaway(), (0, 0));
    assert!(ask(&wire.conn.handle(), &Method::GET, true).is_err());
    wire.ok(1, true);
    wire.run();
    assert!(matches!(reader.poll_answer(&cx()), Poll::Ready(Ok(_))));
    assert!(matches!(wire.ended, Some(Ok(()))));
}

#[test]
fn farewell_of_a_server_refuses_what_it_did_not_look_at() {
    let mut wire = Wire::client();
    let (mut first, _) = wire.ask(true);
    let (mut second, _) = wire.ask(true);
    wire.take();
    wire.goaway(1, 2);
    wire.run();
    let Poll::Ready(Err(error)) = second.poll_answer(&cx()) else {
        panic!("it was not looked at");
    };
    assert!(error.is_refusal() && error.reason() == Some(Reason::INTERNAL_ERROR));
    assert!(first.poll_answer(&cx()).is_pending());
    assert!(!wire.conn.handle().takes_streams());
    wire.ok(1, true);
    wire.run();
    assert!(matches!(first.poll_answer(&cx()), Poll::Ready(Ok(_))));
    assert!(matches!(wire.ended, Some(Ok(()))));
}

#[test]
fn connection_that_breaks_off_takes_its_streams_with_it() {
    let mut wire = Wire::client();
    let (mut reader, writer) = wire.ask(false);
    wire.take();
    drop(wire);
    let Poll::Ready(Err(error)) = reader.poll_answer(&cx()) else {
        panic!("it is gone");
    };
    assert!(matches!(error, Error::Io(_)) && !error.is_violation() && !error.is_refusal());
    let mut writer = writer.unwrap();
    assert!(writer.poll_over(&cx()).is_ready());
    assert!(!writer.send(b"a", true));
    assert_eq!(writer.poll_room(1, &cx()), Poll::Ready(None));
}

#[test]
fn pings_are_answered_and_asked_one_at_a_time() {
    let mut wire = Wire::server();
    wire.frame(kind::PING, 0, 0, b"whatever");
    let pong = wire.one();
    assert_eq!(
        (pong.head.kind, pong.head.flags, &pong.payload[..]),
        (kind::PING, flag::ACK, &b"whatever"[..])
    );
    assert!(wire.conn.ask());
    assert!(!wire.conn.ask() && !wire.conn.has_answered());
    let ping = wire.one();
    // The answer to what nobody asked says nothing.
    wire.frame(kind::PING, flag::ACK, 0, b"whatever");
    wire.run();
    assert!(!wire.conn.has_answered());
    wire.frame(kind::PING, flag::ACK, 0, &ping.payload);
    wire.run();
    assert!(wire.conn.has_answered() && wire.conn.ask());
}

#[test]
fn abort_says_why_and_ends_at_once() {
    let mut wire = Wire::server();
    wire.get(1);
    let mut incoming = wire.request();
    wire.conn.abort(Reason::SETTINGS_TIMEOUT);
    assert_eq!(wire.one().goaway(), (1, 4));
    assert!(matches!(wire.ended, Some(Ok(()))));
    assert!(!incoming.writer.answer(ok(), true));
}

#[test]
fn maps_of_messages_serve_others() {
    let mut wire = Wire::server();
    let block = [GET, b"\x00\x01a\x01b"].concat();
    wire.frame(kind::HEADERS, 5, 1, &block);
    let mut incoming = wire.request();
    let mut answer = Response::new(None);
    std::mem::swap(answer.headers_mut(), incoming.request.headers_mut());
    let capacity = answer.headers().capacity();
    assert!(capacity > 0);
    assert!(incoming.writer.answer(answer, true));
    assert_eq!(wire.stock.take_map().capacity(), capacity);
}

#[test]
fn who_waits_for_the_rest_of_a_request_hears_of_its_end() {
    let mut wire = Wire::server();
    wire.post(1);
    let incoming = wire.request();
    let (reader, mut writer) = (incoming.reader, incoming.writer);
    drop(reader);
    assert!(writer.answer(ok(), true));
    assert!(writer.leaves_rest());
    let sleeper = Arc::<Sleeper>::default();
    let waker = Waker::from(sleeper.clone());
    assert!(writer.poll_over(&Context::from_waker(&waker)).is_pending());
    wire.data(1, b"rest", false);
    wire.run();
    assert!(!sleeper.is_awake());
    wire.data(1, b"end", true);
    wire.run();
    assert!(sleeper.is_awake());
    assert!(writer.poll_over(&cx()).is_ready());
}

#[test]
fn trailers_of_a_stream_that_was_forgotten_end_nothing() {
    let mut wire = Wire::server();
    for number in 0..20 {
        wire.post(2 * number + 1);
        drop(wire.request());
        wire.expect_reset(2 * number + 1, CANCEL);
    }
    wire.frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, b"");
    wire.expect_reset(1, STREAM_CLOSED);
    // One that ended in order has none (§5.1).
    wire.get(41);
    assert!(wire.request().writer.answer(ok(), true));
    wire.take();
    wire.frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 41, b"");
    wire.expect_end(STREAM_CLOSED);
}
