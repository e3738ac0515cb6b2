//! What peers say again, to the letter: it is as if it were read.

use std::task::Poll;

use http::{HeaderMap, Method};

use super::super::frame::{flag, kind};
use super::super::{Incoming, Piece, Trailers};
use super::wire::{Wire, cx};

const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 7;

/// A request that came, in words.
fn words(incoming: &Incoming) -> String {
    let head = &incoming.request;
    let fields = head.headers().iter();
    let fields: Vec<_> = fields
        .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
        .collect();
    format!("{} {} {}", head.method(), head.uri(), fields.join(" "))
}

#[test]
fn request_that_repeats_is_as_if_it_were_read() {
    let mut wire = Wire::server();
    // Each is a GET of `https` for h, with a path and a field.
    let blocks: [&[u8]; 5] = [
        // Both are put into the table.
        b"\x82\x87\x01\x01h\x44\x02/1\x40\x01n\x011",
        // Both are the newest of the table.
        b"\x82\x87\x01\x01h\xbf\xbe",
        b"\x82\x87\x01\x01h\x44\x02/2\x40\x01n\x012",
        // It names no field of the table.
        b"\x82\x87\x01\x01h\x04\x02/3\x00\x01n\x013",
        // Its authorization, and its path, are nobody's to remember.
        b"\x82\x87\x01\x01h\x14\x02/s\x1f\x08\x01t",
    ];
    let plan = [0, 1, 1, 1, 1, 2, 1, 1, 1, 3, 3, 3, 3, 4, 4, 4, 2, 2, 1, 1];
    let mut newest = "";
    for (id, at) in (1..).step_by(2).zip(plan) {
        wire.frame(kind::HEADERS, 5, id, blocks[at]);
        let incoming = wire.request();
        newest = match at {
            0 => "1",
            2 => "2",
            _ => newest,
        };
        let expected = match at {
            3 => "GET https://h/3 n=3".to_owned(),
            4 => "GET https://h/s authorization=t".to_owned(),
            _ => format!("GET https://h/{newest} n={newest}"),
        };
        assert_eq!(words(&incoming), expected, "{id}");
        assert!(incoming.reader.is_end_stream());
        drop(incoming);
        wire.take();
    }
    // Blocks 1, 2 and 3.
    assert_eq!(wire.conn.remembered(), [3, 0]);
}

#[test]
fn request_that_repeats_is_refused_for_what_it_comes_with() {
    let mut wire = Wire::server();
    // POST, with a length of three bytes.
    let block = b"\x83\x84\x87\x01\x01h\x0f\x0d\x013";
    let mut held = Vec::new();
    for id in (1..16).step_by(2) {
        wire.frame(kind::HEADERS, flag::END_HEADERS, id, block);
        held.push(wire.request());
        assert_eq!(held[0].request.method(), Method::POST);
    }
    assert_eq!(wire.conn.remembered(), [1, 0]);
    // There may be eight of them.
    wire.frame(kind::HEADERS, flag::END_HEADERS, 17, block);
    wire.expect_reset(17, REFUSED_STREAM);
    held.pop();
    wire.take();
    // It ends without what it says that it has.
    wire.frame(
        kind::HEADERS,
        flag::END_HEADERS | flag::END_STREAM,
        19,
        block,
    );
    wire.expect_reset(19, PROTOCOL_ERROR);
    // Its content is counted.
    wire.frame(kind::HEADERS, flag::END_HEADERS, 21, block);
    let _last = wire.request();
    wire.data(21, b"four", true);
    wire.expect_reset(21, PROTOCOL_ERROR);
}

#[test]
fn few_bytes_that_say_much_are_not_kept() {
    let mut wire = Wire::server();
    let head = b"\x82\x84\x87\x01\x01h";
    // Fields without a value of the static table, of some fifty bytes each in a list.
    let mut ids = (1..).step_by(2);
    for (count, kept) in [(64, 0), (16, 1)] {
        let block = [&head[..], &vec![0x90; count]].concat();
        for id in ids.by_ref().take(4) {
            wire.frame(kind::HEADERS, 5, id, &block);
            let incoming = wire.request();
            assert_eq!(incoming.request.headers().len(), count);
        }
        assert_eq!(wire.conn.remembered(), [kept, 0]);
    }
}

/// The trailers of one more answer, of this block, and whether they are known.
fn ended(wire: &mut Wire, block: &[u8], id: u32) -> (HeaderMap, bool) {
    let (mut reader, _) = wire.ask(true);
    wire.take();
    wire.ok(id, false);
    wire.data(id, b"content", false);
    wire.frame(kind::HEADERS, 5, id, block);
    wire.run();
    assert!(reader.poll_answer(&cx()).is_ready());
    let Poll::Ready(Some(Ok(Piece::Data(_)))) = reader.poll_piece(&cx()) else {
        panic!("content came");
    };
    assert!(!reader.is_end_stream());
    let Poll::Ready(Some(Ok(Piece::Trailers(trailers)))) = reader.poll_piece(&cx()) else {
        panic!("trailers came");
    };
    assert!(reader.is_end_stream());
    let is_known = matches!(trailers, Trailers::Known(_));
    (trailers.into(), is_known)
}

#[test]
fn trailers_that_repeat_are_as_if_they_were_read() {
    let mut wire = Wire::client();
    let blocks: [&[u8]; 4] = [
        b"\x00\x01a\x010",
        b"\x40\x01n\x011",
        b"\xbe",
        // Secrets are nobody's to remember.
        b"\x1f\x08\x01t",
    ];
    let plan = [0, 0, 0, 1, 2, 2, 2, 1, 1, 2, 2, 3, 3, 3];
    let mut known = Vec::new();
    for (id, at) in (1..).step_by(2).zip(plan) {
        let (trailers, is_known) = ended(&mut wire, blocks[at], id);
        let said: Vec<_> = trailers
            .iter()
            .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
            .collect();
        let expected = ["a=0", "n=1", "n=1", "authorization=t"][at];
        assert_eq!(said, [expected], "{id}");
        known.push(is_known);
    }
    let (yes, no) = (true, false);
    assert_eq!(known[..7], [no, no, yes, no, no, no, yes]);
    assert_eq!(known[7..], [no, yes, no, yes, no, no, no]);
    // They end a message, or are none.
    let _reader = wire.ask(true);
    wire.take();
    let id = 2 * u32::try_from(plan.len()).unwrap() + 1;
    wire.ok(id, false);
    wire.frame(kind::HEADERS, flag::END_HEADERS, id, blocks[0]);
    wire.expect_reset(id, PROTOCOL_ERROR);
}
