//! Bytes of all kinds: no panic, no growth, an end in time.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::Role;
use super::super::frame::{PREFACE, flag, kind, write};
use super::wire::{GET, POST, Wire, ok, pieces};

/// Frames that are often right, and often not.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let stream = prop_oneof![4 => 0..12_u32, 1 => any::<u32>().prop_map(|id| id & 0x7fff_ffff)];
    let payload = prop_oneof![
        3 => Just(GET.to_vec()),
        2 => Just(POST.to_vec()),
        2 => Just(vec![0x88]),
        2 => Just(vec![0, 0, 0, 8]),
        2 => Just(vec![0; 8]),
        1 => Just(vec![0, 4, 0, 0, 0xff, 0xff, 0, 1, 0, 0, 0, 0]),
        1 => Just(b"\x88\x0f\x0d\x013".to_vec()),
        1 => Just(vec![3; 3]),
        2 => vec(any::<u8>(), 0..40),
        1 => vec(any::<u8>(), 9_000..12_000),
    ];
    let flags = prop_oneof![
        3 => Just(flag::END_HEADERS),
        3 => Just(flag::END_HEADERS | flag::END_STREAM),
        2 => Just(0),
        1 => any::<u8>(),
    ];
    let kind = prop_oneof![8 => 0..10_u8, 1 => any::<u8>()];
    let one = (kind, flags, stream, payload);
    vec(one, 0..40).prop_map(|frames| {
        let mut bytes = Vec::new();
        for (kind, flags, stream, payload) in frames {
            write(&mut bytes, kind, flags, stream, &payload);
        }
        bytes
    })
}

/// Bytes with some of them changed.
fn changed(mut bytes: Vec<u8>, changes: &[(usize, u8)]) -> Vec<u8> {
    for (at, byte) in changes {
        if let Some(place) = at.checked_rem(bytes.len()).and_then(|at| bytes.get_mut(at)) {
            *place = *byte;
        }
    }
    bytes
}

/// Feeds a connection in pieces, and uses what comes of it.
fn feed(role: Role, bytes: &[u8], piece: usize, is_settled: bool) {
    let mut wire = Wire::bare(role, super::wire::LIMITS);
    if is_settled {
        if role == Role::Server {
            wire.say_bytes(PREFACE);
        }
        wire.frame(kind::SETTINGS, 0, 0, &[]);
        wire.take();
    }
    let mut asked = Vec::new();
    if role == Role::Client && is_settled {
        asked.extend((0..3).map(|number| wire.ask(number == 0)));
    }
    let mut served = Vec::new();
    for (number, piece) in bytes.chunks(piece).enumerate() {
        wire.say_bytes(piece);
        wire.run();
        if wire.ended.is_some() {
            break;
        }
        while let Some(mut incoming) = wire.requests.pop_front() {
            pieces(&mut incoming.reader);
            match number % 4 {
                0 => drop(incoming.writer.answer(ok(), true)),
                1 => drop(incoming.writer.answer(ok(), false)),
                2 => continue,
                _ => {}
            }
            served.push(incoming);
        }
        if number % 3 == 0 {
            served.truncate(2);
        }
        for (reader, _) in &mut asked {
            let _ = reader.poll_answer(&super::wire::cx());
            pieces(reader);
        }
    }
    wire.take();
    drop((served, asked));
    wire.take();
}

proptest! {
    #[test]
    fn any_bytes_are_taken_or_refused(
        bytes in vec(any::<u8>(), 0..400),
        piece in 1..200_usize,
        is_settled: bool,
    ) {
        feed(Role::Server, &bytes, piece, is_settled);
        feed(Role::Client, &bytes, piece, is_settled);
    }

    #[test]
    fn any_frames_are_taken_or_refused(
        frames in frames(),
        changes in vec((any::<usize>(), any::<u8>()), 0..4),
        piece in 1..20_000_usize,
    ) {
        let bytes = changed(frames, &changes);
        feed(Role::Server, &bytes, piece, true);
        feed(Role::Client, &bytes, piece, true);
    }
}
