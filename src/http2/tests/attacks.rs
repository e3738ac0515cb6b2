//! What a peer does to cost more than it pays, and what is like it and served.

use std::task::Poll;

use super::super::frame::{flag, kind, write};
use super::super::receive::KEPT;
use super::super::{Limits, Piece, Role};
use super::wire::{GET, LIMITS, POST, Wire, cx, ok, pieces};

const ENHANCE_YOUR_CALM: u32 = 11;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
/// A kind of frames that nobody knows (RFC 9113 §5.5).
const UNKNOWN: u8 = 0xfe;

#[test]
fn streams_that_are_begun_to_be_reset_end_the_connection() {
    let mut wire = Wire::server();
    for number in 0..9 {
        wire.get(2 * number + 1);
        wire.reset(2 * number + 1, CANCEL);
    }
    wire.expect_end(ENHANCE_YOUR_CALM);
    assert!(wire.requests.is_empty());
    // As many, and more, when each was looked at: nobody works on them any more.
    let mut wire = Wire::server();
    for number in 0..100 {
        wire.get(2 * number + 1);
        let incoming = wire.request();
        wire.reset(2 * number + 1, CANCEL);
        wire.run();
        drop(incoming);
        assert!(wire.is_quiet());
    }
}

#[test]
fn streams_that_were_reset_and_are_worked_on_count() {
    let mut wire = Wire::server();
    let mut worked_on = Vec::new();
    for number in 0..32 {
        wire.get(2 * number + 1);
        worked_on.push(wire.request());
        wire.reset(2 * number + 1, CANCEL);
        wire.run();
    }
    // Of which its client cannot know: they are no faults of its, which would end the connection.
    for number in 32..48 {
        wire.get(2 * number + 1);
        wire.expect_reset(2 * number + 1, REFUSED_STREAM);
    }
    worked_on.clear();
    wire.get(97);
    wire.request();
}

#[test]
fn streams_that_a_peer_makes_us_reset_end_the_connection() {
    // CVE-2025-8671: a window of nothing, again and again.
    let mut wire = Wire::server();
    for number in 0..9 {
        wire.get(2 * number + 1);
        wire.widen(2 * number + 1, 0);
    }
    wire.expect_end(ENHANCE_YOUR_CALM);
    let mut wire = Wire::server();
    for number in 0..8 {
        wire.get(2 * number + 1);
        wire.widen(2 * number + 1, 0);
    }
    let frames = wire.take();
    assert_eq!((frames.len(), wire.ended.is_none()), (8, true));
}

#[test]
fn faults_are_forgiven_for_streams_that_end_well() {
    for (well, ends) in [(16, false), (15, true)] {
        let mut wire = Wire::server();
        let mut stream = 1;
        for _ in 0..200 {
            wire.get(stream);
            wire.widen(stream, 0);
            wire.run();
            wire.requests.clear();
            stream += 2;
            if wire.ended.is_some() {
                break;
            }
            for _ in 0..well {
                wire.get(stream);
                assert!(wire.request().writer.answer(ok(), true));
                stream += 2;
            }
        }
        wire.take();
        assert_eq!(wire.ended.is_some(), ends, "{well}");
    }
}

#[test]
fn header_block_that_does_not_end_ends_the_connection() {
    for piece in [0, 1, 4000] {
        let mut wire = Wire::server();
        wire.frame(kind::HEADERS, flag::END_STREAM, 1, GET);
        for _ in 0..20 {
            wire.frame(kind::CONTINUATION, 0, 1, &vec![0x82; piece]);
        }
        wire.expect_end(ENHANCE_YOUR_CALM);
    }
    // Few frames, and more bytes than any list that is read.
    let mut wire = Wire::server();
    wire.frame(kind::HEADERS, flag::END_STREAM, 1, GET);
    for _ in 0..2 {
        wire.frame(kind::CONTINUATION, 0, 1, &[0x82; 16_000]);
    }
    wire.expect_end(ENHANCE_YOUR_CALM);
    // One in as many pieces as it may have.
    let mut wire = Wire::server();
    wire.frame(kind::HEADERS, flag::END_STREAM, 1, &GET[..1]);
    for at in 1..4 {
        wire.frame(kind::CONTINUATION, 0, 1, &GET[at..at + 1]);
    }
    wire.frame(kind::CONTINUATION, flag::END_HEADERS, 1, &GET[4..]);
    wire.request();
}

#[test]
fn header_block_is_held_no_longer_than_a_list_may_be() {
    for (length, ends) in [(4096, false), (4097, true)] {
        let mut wire = Wire::server();
        wire.frame(kind::HEADERS, flag::END_STREAM, 1, GET);
        let rest = vec![0x82; length - GET.len()];
        wire.frame(kind::CONTINUATION, 0, 1, &rest);
        if ends {
            wire.expect_end(ENHANCE_YOUR_CALM);
        } else {
            assert!(wire.is_quiet());
        }
    }
}

/// A line of so many bytes, that is put into the table; its name has one.
fn line(length: usize) -> Vec<u8> {
    let mut line = vec![0x40, 1, b'a', 0x7f];
    let mut left = length - 127;
    while left >= 128 {
        line.push(u8::try_from(left & 0x7f).unwrap() | 0x80);
        left >>= 7;
    }
    line.push(u8::try_from(left).unwrap());
    line.extend(vec![b'x'; length]);
    line
}

#[test]
fn small_block_of_large_fields_is_counted_before_it_is_kept() {
    // 3,000 bytes, said again by one byte each.
    for (times, is_served, ends) in [(1, true, false), (3, false, false), (100, false, true)] {
        let mut wire = Wire::server();
        let block = [GET, &line(3000), &vec![0xbe; times - 1]].concat();
        wire.frame(kind::HEADERS, 5, 1, &block);
        let frames = wire.take();
        assert_eq!(wire.requests.len(), usize::from(is_served), "{times}");
        if ends {
            assert_eq!(frames.last().unwrap().goaway().1, ENHANCE_YOUR_CALM);
        } else if !is_served {
            // 431, and nothing of it is kept; the connection's compression goes on.
            let lines = wire.fields(&frames[0]);
            assert_eq!(lines, [":status: 431"]);
            wire.frame(kind::HEADERS, 5, 3, &[GET, &[0xbe]].concat());
            let next = wire.request();
            assert_eq!(next.request.headers()["a"].len(), 3000);
        }
    }
}

#[test]
fn large_head_with_content_to_come_is_told_to_stop() {
    let mut wire = Wire::server();
    wire.frame(kind::HEADERS, 4, 1, &[POST, &line(5000)].concat());
    let frames = wire.take();
    assert_eq!(frames.len(), 2, "{frames:?}");
    assert_eq!(
        (frames[1].head.kind, frames[1].code()),
        (kind::RST_STREAM, 0)
    );
    wire.data(1, b"on its way", true);
    assert!(wire.is_quiet());
}

#[test]
fn empty_frames_of_content_end_the_connection_and_full_ones_do_not() {
    let mut wire = Wire::server();
    wire.post(1);
    let _held = wire.request();
    for _ in 0..101 {
        wire.data(1, b"", false);
    }
    wire.expect_end(ENHANCE_YOUR_CALM);
    let mut wire = Wire::server();
    wire.post(1);
    let mut held = wire.request();
    for _ in 0..500 {
        wire.data(1, b"", false);
        wire.data(1, b"a", false);
    }
    assert!(wire.is_quiet());
    assert_eq!(pieces(&mut held.reader).0.len(), 500);
}

#[test]
fn short_parts_take_no_more_room_than_they_have_bytes() {
    let mut wire = Wire::server();
    wire.post(1);
    let mut held = wire.request();
    for _ in 0..20_000 {
        wire.data(1, b"a", false);
    }
    assert!(wire.is_quiet());
    let mut parts = 0;
    while let Poll::Ready(Some(Ok(_))) = held.reader.poll_piece(&cx()) {
        parts += 1;
    }
    assert!(parts <= 2, "{parts}");
}

#[test]
fn who_takes_no_answers_is_not_read() {
    let asking: [fn(&mut Wire, u32); 4] = [
        |wire, _| wire.frame(kind::PING, 0, 0, b"whatever"),
        |wire, _| wire.frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]),
        // Malformed: without a path.
        |wire, number| wire.frame(kind::HEADERS, 5, 2 * number + 1, &[0x82, 0x87]),
        |wire, number| {
            wire.get(2 * number + 1);
            while let Some(mut incoming) = wire.requests.pop_front() {
                incoming.writer.answer(ok(), true);
            }
        },
    ];
    for (which, say) in asking.into_iter().enumerate() {
        let limits = Limits {
            streams: 1000,
            faults: 100_000,
            ..LIMITS
        };
        let mut wire = Wire::with(Role::Server, limits);
        wire.reads = false;
        for number in 0..24_000 {
            say(&mut wire, number);
            if number % 200 == 0 {
                wire.run();
            }
        }
        wire.run();
        assert!(
            wire.conn.unwritten() < 200 << 10,
            "{which}: {}",
            wire.conn.unwritten()
        );
        assert!(wire.ended.is_none(), "{which}");
        // It is read again when it takes what was said.
        wire.reads = true;
        let frames = wire.take();
        assert!(frames.len() > 20_000, "{which}: {}", frames.len());
        assert!(wire.ended.is_none(), "{which}");
    }
}

#[test]
fn content_alone_does_not_keep_a_peer_from_being_read() {
    let mut wire = Wire::server();
    wire.widen(0, 1 << 24);
    wire.frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0x7f, 0xff, 0xff]);
    wire.take();
    wire.reads = false;
    wire.get(1);
    let mut first = wire.request();
    assert!(first.writer.answer(ok(), false));
    for _ in 0..1000 {
        if let Poll::Ready(Some(room)) = first.writer.poll_room(1 << 20, &cx()) {
            assert!(first.writer.send(&vec![0; room], false));
        }
        wire.run();
    }
    wire.get(3);
    wire.request();
    assert!(wire.conn.unwritten() <= 65 << 10);
}

#[test]
fn streams_that_are_given_up_wait_for_no_room() {
    let mut wire = Wire::server();
    // Windows of streams that are wider than the connection's, which is used up.
    wire.frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0x10, 0, 0]);
    wire.get(1);
    let mut first = wire.request();
    assert!(first.writer.answer(ok(), false));
    assert!(first.writer.send(&[0; 65_535], false));
    assert!(first.writer.poll_room(1000, &cx()).is_pending());
    for number in 1..100 {
        wire.get(2 * number + 1);
        let mut incoming = wire.request();
        assert!(incoming.writer.answer(ok(), false));
        assert!(incoming.writer.poll_room(1000, &cx()).is_pending());
        assert_eq!(wire.conn.waiting(), 2);
        wire.reset(2 * number + 1, CANCEL);
        wire.run();
    }
    assert_eq!(wire.conn.waiting(), 1);
}

#[test]
fn who_takes_content_slowly_costs_no_more_memory_the_more_it_takes() {
    let mut wire = Wire::server();
    wire.widen(0, 1 << 30);
    wire.frame(kind::SETTINGS, 0, 0, &[0, 4, 0x7f, 0, 0, 0]);
    wire.get(1);
    let mut incoming = wire.request();
    assert!(incoming.writer.answer(ok(), false));
    let mut taken = 0;
    while taken < 10 << 20 {
        if let Poll::Ready(Some(room)) = incoming.writer.poll_room(1 << 20, &cx()) {
            assert!(incoming.writer.send(&vec![0; room], false));
        }
        // Never all of what waits.
        taken += wire.take_slowly(20_000);
        assert!(wire.conn.held() <= 320 << 10, "{}", wire.conn.held());
    }
    assert!(wire.conn.unwritten() > 0);
}

#[test]
fn window_that_is_opened_by_single_bytes_is_served() {
    let mut wire = Wire::server();
    wire.frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    wire.get(1);
    let mut incoming = wire.request();
    wire.take();
    assert!(incoming.writer.answer(ok(), false));
    for _ in 0..1000 {
        wire.widen(1, 1);
        wire.run();
        assert_eq!(incoming.writer.poll_room(5000, &cx()), Poll::Ready(Some(1)));
        assert!(incoming.writer.send(b"x", false));
    }
    let frames = wire.take();
    assert_eq!(
        frames
            .iter()
            .filter(|frame| frame.head.kind == kind::DATA)
            .count(),
        1000
    );
}

#[test]
fn answers_that_only_inform_come_to_an_end() {
    let limits = Limits {
        faults: 1000,
        ..LIMITS
    };
    let mut wire = Wire::with(Role::Client, limits);
    let (mut reader, _) = wire.ask(true);
    wire.take();
    for _ in 0..100 {
        wire.frame(kind::HEADERS, flag::END_HEADERS, 1, b"\x08\x03103");
    }
    assert!(wire.is_quiet());
    // Of those that nobody takes only a few are kept.
    for _ in 0..8 {
        assert!(matches!(reader.poll_answer(&cx()), Poll::Ready(Ok(_))));
    }
    assert!(reader.poll_answer(&cx()).is_pending());
    wire.frame(kind::HEADERS, flag::END_HEADERS, 1, b"\x08\x03103");
    wire.expect_reset(1, ENHANCE_YOUR_CALM);
}

#[test]
fn padding_gives_its_window_again() {
    let mut wire = Wire::server();
    wire.post(1);
    let mut held = wire.request();
    // Far more than both windows, nothing of it content.
    let padded = [&[255][..], &[0; 255]].concat();
    for number in 0..4000 {
        wire.frame(kind::DATA, flag::PADDED, 1, &padded);
        wire.data(1, b"a", false);
        if number % 50 == 0 {
            wire.run();
        }
    }
    wire.take();
    assert!(wire.ended.is_none(), "{:?}", wire.ended);
    assert_eq!(pieces(&mut held.reader).0.len(), 4000);
}

#[test]
fn content_of_streams_that_are_over_gives_the_connection_its_window_again() {
    let mut wire = Wire::server();
    wire.post(1);
    drop(wire.request());
    wire.expect_reset(1, CANCEL);
    for _ in 0..100 {
        wire.data(1, &[0; 16 << 10], false);
        wire.run();
    }
    let frames = wire.take();
    assert!(wire.ended.is_none());
    assert!(
        frames
            .iter()
            .all(|frame| frame.head.kind == kind::WINDOW_UPDATE),
        "{frames:?}"
    );
}

#[test]
fn content_of_streams_that_their_client_reset_is_answered_once() {
    let mut wire = Wire::server();
    let mut worked_on = Vec::new();
    for stream in [1, 3, 5] {
        wire.post(stream);
        worked_on.push(wire.request());
        wire.reset(stream, CANCEL);
        for _ in 0..50 {
            wire.data(stream, &[0; 16 << 10], false);
            wire.run();
        }
    }
    let frames = wire.take();
    let resets = frames
        .iter()
        .filter(|frame| frame.head.kind == kind::RST_STREAM);
    let resets: Vec<_> = resets
        .map(|frame| (frame.head.stream, frame.code()))
        .collect();
    // STREAM_CLOSED.
    assert_eq!(resets, [(1, 5), (3, 5), (5, 5)]);
    assert!(wire.ended.is_none());
}

#[test]
fn content_of_more_streams_than_are_remembered_is_no_fault() {
    // A client that is told to stop sending, often, while much of what it sends is under way.
    let mut wire = Wire::server();
    let streams: Vec<u32> = (0..40).map(|number| 2 * number + 1).collect();
    for stream in &streams {
        wire.post(*stream);
        drop(wire.request());
        wire.expect_reset(*stream, CANCEL);
    }
    for stream in &streams {
        wire.data(*stream, b"late", false);
    }
    let frames = wire.take();
    let of = |wanted: u8| frames.iter().filter(move |frame| frame.head.kind == wanted);
    let resets: Vec<_> = of(kind::RST_STREAM)
        .map(|frame| (frame.head.stream, frame.code()))
        .collect();
    // STREAM_CLOSED, where it was forgotten that they were told.
    let told: Vec<_> = streams.iter().map(|stream| (*stream, 5)).collect();
    assert_eq!(resets, told);
    assert_eq!(of(kind::GOAWAY).count(), 0);
    assert!(wire.ended.is_none());
    wire.get(81);
    wire.request();
}

#[test]
fn content_that_waits_where_it_was_read_holds_at_most_eight_times_as_much() {
    // By itself, and behind what came in part, which is brought along where there is no room for more.
    for cut in [0, 47 << 10] {
        let mut wire = Wire::server();
        let mut held = 0;
        for stream in [1, 3, 5, 7] {
            let mut before = Vec::new();
            if cut > 0 {
                (0..3).for_each(|_| write(&mut before, UNKNOWN, 0, 0, &[0; 16 << 10]));
            }
            let (first, rest) = before.split_at(cut);
            wire.say_bytes(first);
            wire.run();
            wire.say_bytes(rest);
            wire.post(stream);
            // The shortest that is not copied, beside others.
            wire.data(stream, &[0; KEPT], false);
            let mut incoming = wire.request();
            let Poll::Ready(Some(Ok(Piece::Data(part)))) = incoming.reader.poll_piece(&cx()) else {
                panic!("no content");
            };
            assert_eq!(part.len(), KEPT);
            // What is read next lies elsewhere: it alone holds what it was read into.
            drop(wire.stock.take_room());
            let part = part.try_into_mut().expect("nobody else holds it");
            held = held.max(part.capacity());
        }
        assert!((KEPT..=8 * KEPT).contains(&held), "{cut}: {held}");
    }
}
