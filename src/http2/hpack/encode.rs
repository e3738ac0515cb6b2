//! Header blocks, written (RFC 7541 §6).
//!
//! What is said twice is put into the table when it is said the second time: values that come once,
//! as a request's id, push nothing out of it. Where a field lies is remembered by a digest of it, so
//! that what was said before is found by one look. Strings are written as they are.

use std::collections::VecDeque;
use std::rc::Rc;

use http::{HeaderName, HeaderValue, StatusCode};

use super::super::digest::{digest, places_of};
use super::field::{is_of_connection, is_secret};
use super::group::{Group, Groups};
use super::{OVERHEAD, TABLE_BYTES, statics};

/// Places for digests: some three times as many as a table has fields.
const PLACES: usize = 256;
/// The largest field that is put into the table: a larger one would push out too much.
const LARGEST: usize = 1024;

/// What one direction of a connection said so far.
#[derive(Debug)]
pub(crate) struct Encoder {
    /// The dynamic table, the newest first.
    entries: VecDeque<Entry>,
    size: usize,
    max: usize,
    /// How many fields were ever put into the table.
    count: u32,
    /// What was said, by digest; made when something is.
    places: Vec<Place>,
    /// Those of the places that had something, while nothing is said.
    laid_by: Box<[(usize, Place)]>,
    /// Sizes of the table that the peer is to be told of: the smallest since it last was, and the last
    /// (§4.2).
    resized: Option<(usize, usize)>,
    /// What is said for the first time looks for a place from the other end than the one before it: two
    /// that are said in turn do not take each other's.
    is_turned: bool,
    groups: Groups,
    /// Another number for each state of the table.
    version: u64,
    /// Nothing was written lately that would be written otherwise when it is said again, and no secret.
    is_settled: bool,
}

#[derive(Debug)]
struct Entry {
    /// The name, and the value behind it.
    text: Box<[u8]>,
    name: usize,
}

/// Something that was said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    digest: u32,
    /// Its number among those that were put into the table, from 1 on; 0, if it was said once.
    number: u32,
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            max: TABLE_BYTES,
            count: 0,
            places: Vec::new(),
            laid_by: Box::default(),
            resized: None,
            is_turned: false,
            groups: Groups::default(),
            version: 0,
            is_settled: true,
        }
    }
}

impl Encoder {
    /// The peer's table has `max` bytes from now on; no more than [`TABLE_BYTES`] are used.
    pub(crate) fn resize(&mut self, max: usize) {
        let max = max.min(TABLE_BYTES);
        if max == self.max {
            return;
        }
        let smallest = self.resized.map_or(max, |(smallest, _)| smallest.min(max));
        self.resized = Some((smallest, max));
        self.max = max;
        self.version += 1;
        self.evict(0);
    }

    /// Begins a block.
    pub(crate) fn begin(&mut self, out: &mut Vec<u8>) {
        if !self.laid_by.is_empty() {
            self.places.resize(PLACES, Place::default());
            for (at, place) in std::mem::take(&mut self.laid_by) {
                if let Some(own) = self.places.get_mut(at) {
                    *own = place;
                }
            }
        }
        if let Some((smallest, last)) = self.resized.take() {
            integer(out, 0x20, 5, smallest);
            if last != smallest {
                integer(out, 0x20, 5, last);
            }
        }
    }

    /// Writes `:status`.
    pub(crate) fn status(&mut self, out: &mut Vec<u8>, status: StatusCode) {
        let known = match status.as_u16() {
            200 => 0,
            204 => 1,
            206 => 2,
            304 => 3,
            400 => 4,
            404 => 5,
            500 => 6,
            _ => return self.pseudo(out, ":status", statics::STATUS, status.as_str()),
        };
        integer(out, 0x80, 7, statics::STATUS + known);
    }

    /// Writes `:method`.
    pub(crate) fn method(&mut self, out: &mut Vec<u8>, method: &str) {
        match method {
            "GET" => integer(out, 0x80, 7, statics::METHOD),
            "POST" => integer(out, 0x80, 7, statics::METHOD + 1),
            _ => self.pseudo(out, ":method", statics::METHOD, method),
        }
    }

    /// Writes `:scheme`: that of TLS, or that in the clear.
    pub(crate) fn scheme(&mut self, out: &mut Vec<u8>, is_tls: bool) {
        let index = if is_tls {
            statics::SCHEME_HTTPS
        } else {
            statics::SCHEME_HTTP
        };
        integer(out, 0x80, 7, index);
    }

    /// Writes `:path`.
    pub(crate) fn path(&mut self, out: &mut Vec<u8>, path: &str) {
        match path {
            "/" => integer(out, 0x80, 7, statics::PATH),
            _ => self.pseudo(out, ":path", statics::PATH, path),
        }
    }

    /// Writes `:authority`.
    pub(crate) fn authority(&mut self, out: &mut Vec<u8>, authority: &[u8]) {
        self.write(out, b":authority", Some(statics::AUTHORITY), authority);
    }

    /// Writes a header; one that is of a connection is left out (RFC 9113 §8.2.2). What is sensitive, or
    /// tells who somebody is, is in no table, where its length would tell who else said the same (§7.1).
    pub(crate) fn header(&mut self, out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
        let (text, is_sensitive) = (name.as_str().as_bytes(), value.is_sensitive());
        let value = value.as_bytes();
        let digest = digest(text, value);
        // Nothing is in the table that may not be written.
        if !is_sensitive && self.write_known(out, text, value, digest) || is_of_connection(name) {
            return;
        }
        let index = statics::index_of(name);
        if is_sensitive || is_secret(name) {
            self.is_settled = false;
            literal(out, 0x10, 4, index, text, value);
        } else {
            self.write_new(out, text, index, value, digest);
        }
    }

    /// Writes a group's fields, each as a [`header`](Self::header).
    pub(crate) fn group(&mut self, out: &mut Vec<u8>, group: &Rc<Group>) {
        if let Some(written) = self.groups.find(group, self.version) {
            out.extend_from_slice(written);
            return;
        }
        let begun = out.len();
        self.is_settled = true;
        for (name, value) in group.fields() {
            self.header(out, name, value);
        }
        if self.is_settled
            && let Some(written) = out.get(begun..)
        {
            self.groups.keep(group, self.version, written);
        }
    }

    fn pseudo(&mut self, out: &mut Vec<u8>, name: &str, index: usize, value: &str) {
        self.write(out, name.as_bytes(), Some(index), value.as_bytes());
    }

    fn write(&mut self, out: &mut Vec<u8>, name: &[u8], index: Option<usize>, value: &[u8]) {
        let digest = digest(name, value);
        if !self.write_known(out, name, value, digest) {
            self.write_new(out, name, index, value, digest);
        }
    }

    /// Writes a field of the dynamic table; whether it is there.
    fn write_known(&self, out: &mut Vec<u8>, name: &[u8], value: &[u8], digest: u32) -> bool {
        for at in places_of::<PLACES>(digest) {
            let Some(place) = self.places.get(at) else {
                return false;
            };
            if place.digest == digest
                && let Some((at, entry)) = self.entry(place.number)
                && entry.is(name, value)
            {
                integer(out, 0x80, 7, statics::COUNT + 1 + at);
                return true;
            }
        }
        false
    }

    /// Keeps the table, what was said once and what finds either until the next block begins, in little
    /// room if that is little.
    pub(crate) fn rest(&mut self) {
        self.groups = Groups::default();
        let has_something = |place: &Place| *place != Place::default();
        let count = self
            .places
            .iter()
            .filter(|place| has_something(place))
            .count();
        // One that is laid by takes twice the room of a place.
        if count == 0 || count > PLACES / 2 {
            return;
        }
        let places = std::mem::take(&mut self.places).into_iter().enumerate();
        self.laid_by = places.filter(|(_, place)| has_something(place)).collect();
    }

    /// Writes a field that is in no table; it is put there, if it was said before.
    fn write_new(
        &mut self,
        out: &mut Vec<u8>,
        name: &[u8],
        index: Option<usize>,
        value: &[u8],
        digest: u32,
    ) {
        let size = name.len() + value.len() + OVERHEAD;
        if size > LARGEST.min(self.max) {
            literal(out, 0, 4, index, name, value);
            return;
        }
        self.is_settled = false;
        if self.places.is_empty() {
            self.places.resize(PLACES, Place::default());
        }
        let was_said = |at: &usize| {
            self.places
                .get(*at)
                .is_some_and(|place| place.digest == digest)
        };
        let mut places = places_of::<PLACES>(digest);
        let known = places.into_iter().find(was_said);
        if known.is_none() && self.is_turned {
            places.reverse();
        }
        // Else one that says nothing of a field that is in the table.
        let is_free = |at: &usize| {
            let place = self.places.get(*at);
            place.is_some_and(|place| self.entry(place.number).is_none())
        };
        let free = || places.into_iter().find(is_free);
        let at = known.or_else(free).unwrap_or(places[0]);
        let mut number = 0;
        if known.is_some() {
            literal(out, 0x40, 6, index, name, value);
            number = self.insert(name, value, size);
        } else {
            self.is_turned = !self.is_turned;
            literal(out, 0, 4, index, name, value);
        }
        if let Some(place) = self.places.get_mut(at) {
            *place = Place { digest, number };
        }
    }

    /// The field that was put into the table as the `number`th, and where it lies.
    fn entry(&self, number: u32) -> Option<(usize, &Entry)> {
        if number == 0 {
            return None;
        }
        let at = usize::try_from(self.count.wrapping_sub(number)).ok()?;
        self.entries.get(at).map(|entry| (at, entry))
    }

    fn insert(&mut self, name: &[u8], value: &[u8], size: usize) -> u32 {
        self.evict(size);
        self.version += 1;
        self.size += size;
        let entry = Entry {
            text: [name, value].concat().into_boxed_slice(),
            name: name.len(),
        };
        self.entries.push_front(entry);
        self.count = self.count.wrapping_add(1);
        if self.count == 0 {
            // Numbers begin anew: nothing that was said is found by an old one.
            self.places.clear();
            self.places.resize(PLACES, Place::default());
            self.count = 1;
            return 0;
        }
        self.count
    }

    /// Makes room for so many bytes.
    fn evict(&mut self, room: usize) {
        while self.size.saturating_add(room) > self.max
            && let Some(entry) = self.entries.pop_back()
        {
            self.size -= entry.text.len() + OVERHEAD;
        }
    }
}

impl Entry {
    fn is(&self, name: &[u8], value: &[u8]) -> bool {
        self.text
            .split_at_checked(self.name)
            .is_some_and(|own| own == (name, value))
    }
}

/// Writes a field out, its name by an index where there is one (§6.2).
fn literal(
    out: &mut Vec<u8>,
    kind: u8,
    prefix: u32,
    index: Option<usize>,
    name: &[u8],
    value: &[u8],
) {
    out.reserve(name.len() + value.len() + 8);
    integer(out, kind, prefix, index.unwrap_or(0));
    if index.is_none() {
        string(out, name);
    }
    string(out, value);
}

fn string(out: &mut Vec<u8>, text: &[u8]) {
    integer(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

/// Writes an integer into the lower `prefix` bits of a byte and those that follow it (§5.1).
fn integer(out: &mut Vec<u8>, upper: u8, prefix: u32, value: usize) {
    let most = u8::MAX >> (8 - prefix);
    if let Ok(short) = u8::try_from(value)
        && short < most
    {
        out.push(upper | short);
        return;
    }
    out.push(upper | most);
    let mut left = value.saturating_sub(usize::from(most));
    loop {
        let byte = u8::try_from(left & 0x7f).unwrap_or_default();
        left >>= 7;
        if left == 0 {
            out.push(byte);
            return;
        }
        out.push(byte | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Decoder, Field};
    use super::*;

    fn line(text: &str) -> (HeaderName, HeaderValue) {
        let (name, value) = text.split_once(": ").unwrap();
        (name.parse().unwrap(), value.parse().unwrap())
    }

    fn block(encoder: &mut Encoder, lines: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        encoder.begin(&mut out);
        for (name, value) in lines.iter().map(|text| line(text)) {
            encoder.header(&mut out, &name, &value);
        }
        out
    }

    fn read(decoder: &mut Decoder, block: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        let take = |field: Field, _| {
            let Field::Header(name, value) = field else {
                panic!("{field:?}")
            };
            lines.push(format!("{name}: {}", value.to_str().unwrap()));
        };
        decoder.decode(block, take).unwrap();
        lines
    }

    #[test]
    fn what_is_said_a_third_time_takes_a_byte() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let lines = ["content-type: application/grpc", "x-own: value"];
        let mut sizes = Vec::new();
        for _ in 0..4 {
            let block = block(&mut encoder, &lines);
            sizes.push(block.len());
            assert_eq!(read(&mut decoder, &block), lines);
        }
        assert_eq!(sizes[2..], [2, 2]);
        assert!(sizes[0] > 20 && sizes[1] > 20);
    }

    #[test]
    fn two_that_would_have_one_place_get_two() {
        let lines: Vec<String> = (0..2000).map(|number| format!("x-a: {number}")).collect();
        let place = |text: &str| {
            let (name, value) = line(text);
            places_of::<PLACES>(digest(name.as_str().as_bytes(), value.as_bytes()))[0]
        };
        let first = place(&lines[0]);
        let alike: Vec<&str> = lines.iter().map(String::as_str).collect();
        let alike: Vec<&str> = alike
            .into_iter()
            .filter(|text| place(text) == first)
            .collect();
        for other in &alike[1..] {
            let mut encoder = Encoder::default();
            for _ in 0..4 {
                block(&mut encoder, &[alike[0], other]);
            }
            assert_eq!(block(&mut encoder, &[alike[0], other]).len(), 2, "{other}");
        }
    }

    #[test]
    fn what_is_said_once_pushes_nothing_out() {
        let mut encoder = Encoder::default();
        for _ in 0..2 {
            block(&mut encoder, &["x-kept: value"]);
        }
        for number in 0..10_000 {
            block(&mut encoder, &[&format!("x-request-id: {number}")]);
        }
        assert_eq!(block(&mut encoder, &["x-kept: value"]).len(), 1);
        assert_eq!(encoder.entries.len(), 1);
    }

    #[test]
    fn what_was_said_before_a_rest_is_known_after_it() {
        let (mut steady, mut resting) = (Encoder::default(), Encoder::default());
        let mut decoder = Decoder::default();
        resting.rest();
        for number in 0..40 {
            let lines = [
                String::from("x-kept: value"),
                format!("x-request-id: {number}"),
                format!("x-often: {}", number % 7),
            ];
            let lines = lines.each_ref().map(String::as_str);
            let written = block(&mut resting, &lines);
            assert_eq!(written, block(&mut steady, &lines));
            assert_eq!(read(&mut decoder, &written), lines);
            // Twice: what lies by stays there.
            for _ in 0..2 {
                resting.rest();
                assert!(
                    resting.places.capacity() == 0 && resting.laid_by.len() <= 3 * (number + 1)
                );
            }
        }
    }

    #[test]
    fn what_is_laid_by_takes_no_more_room_than_its_places() {
        let mut encoder = Encoder::default();
        for number in 0..1000 {
            block(&mut encoder, &[&format!("x-request-id: {number}")]);
            encoder.rest();
            let laid_by = size_of_val(&*encoder.laid_by);
            let places = encoder.places.capacity() * size_of::<Place>();
            assert!(laid_by + places <= PLACES * size_of::<Place>(), "{number}");
        }
    }

    #[test]
    fn what_is_secret_is_in_no_table() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let lines = [
            "authorization: a",
            "cookie: b",
            "set-cookie: c",
            "proxy-authorization: d",
        ];
        for _ in 0..3 {
            let block = block(&mut encoder, &lines);
            // Each is written out, with the word that nobody may index it.
            assert_eq!(block[0] & 0xf0, 0x10);
            assert_eq!(read(&mut decoder, &block), lines);
        }
        let (name, mut value) = line("x-key: secret");
        value.set_sensitive(true);
        for _ in 0..3 {
            let mut out = Vec::new();
            encoder.header(&mut out, &name, &value);
            assert_eq!(out[0], 0x10);
        }
        assert_eq!(encoder.size, 0);
        for _ in 0..3 {
            block(&mut encoder, &["x-key: secret"]);
        }
        assert!(encoder.size > 0);
    }

    /// Writes a group and says what is read of it; and how long it was.
    fn said(
        encoder: &mut Encoder,
        decoder: &mut Decoder,
        group: &Rc<Group>,
    ) -> (usize, Vec<String>) {
        let mut out = Vec::new();
        encoder.begin(&mut out);
        encoder.group(&mut out, group);
        (out.len(), read(decoder, &out))
    }

    #[test]
    fn group_is_remembered_as_long_as_the_table_stays_as_it_is() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let lines = ["x-one: 1", "x-two: 2", "connection: close"];
        let group = Group::new(lines.map(line));
        for length in [18, 18, 2, 2] {
            let (long, heard) = said(&mut encoder, &mut decoder, &group);
            assert_eq!(
                (long, &heard[..]),
                (length, &[lines[0], lines[1]].map(String::from)[..])
            );
        }
        assert!(encoder.groups.find(&group, encoder.version).is_some());
        // Others with the same words are others.
        let twin = Group::new(lines.map(line));
        assert!(encoder.groups.find(&twin, encoder.version).is_none());
        assert_eq!(said(&mut encoder, &mut decoder, &twin).0, 2);
        // Something else comes into the table, and then all of it goes.
        for _ in 0..2 {
            let block = block(&mut encoder, &["x-other: 3"]);
            read(&mut decoder, &block);
        }
        assert!(encoder.groups.find(&group, encoder.version).is_none());
        let (_, heard) = said(&mut encoder, &mut decoder, &group);
        assert_eq!(heard, [lines[0], lines[1]]);
        encoder.resize(0);
        assert!(encoder.groups.find(&group, encoder.version).is_none());
        let (_, heard) = said(&mut encoder, &mut decoder, &group);
        assert_eq!(heard, [lines[0], lines[1]]);
    }

    #[test]
    fn group_of_a_table_that_is_no_more_is_not_held() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let groups: Vec<_> = (0..200)
            .map(|number| Group::new([line(&format!("x-own: {number}"))]))
            .collect();
        for group in &groups {
            for _ in 0..3 {
                said(&mut encoder, &mut decoder, group);
            }
            let held = groups.iter().filter(|group| Rc::strong_count(group) > 1);
            assert_eq!(held.count(), 1);
        }
        // Those of one table are held together.
        for group in &groups[190..] {
            said(&mut encoder, &mut decoder, group);
        }
        let mut held = |group| encoder.groups.find(group, encoder.version).is_some();
        assert!(groups.iter().filter(|group| held(group)).count() > 1);
    }

    #[test]
    fn group_with_a_secret_is_not_remembered() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let (name, mut value) = line("x-key: secret");
        value.set_sensitive(true);
        for fields in [vec![(name, value)], vec![line("cookie: a")]] {
            let group = Group::new(fields);
            for _ in 0..4 {
                said(&mut encoder, &mut decoder, &group);
                assert!(encoder.groups.find(&group, encoder.version).is_none());
            }
        }
    }

    #[test]
    fn peer_is_told_of_the_sizes_that_its_table_had() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let lines = ["x-own: value"];
        for _ in 0..3 {
            let block = block(&mut encoder, &lines);
            read(&mut decoder, &block);
        }
        encoder.resize(0);
        encoder.resize(100);
        encoder.resize(1 << 20);
        for length in [4 + 13, 1, 1] {
            let block = block(&mut encoder, &lines);
            assert_eq!(block.len(), length, "{block:x?}");
            assert_eq!(read(&mut decoder, &block), lines);
        }
        // A peer without a table.
        encoder.resize(0);
        for _ in 0..4 {
            let block = block(&mut encoder, &lines);
            assert_eq!(read(&mut decoder, &block), lines);
        }
        assert_eq!(encoder.entries.len(), 0);
    }

    #[test]
    fn integers_of_all_lengths_are_written() {
        let mut out = Vec::new();
        // RFC 7541, Appendix C.1.
        integer(&mut out, 0, 5, 10);
        integer(&mut out, 0, 5, 1337);
        integer(&mut out, 0, 8, 42);
        integer(&mut out, 0x20, 5, 31);
        assert_eq!(out, [10, 31, 154, 10, 42, 0x3f, 0]);
    }

    proptest::proptest! {
        /// Whatever is said in whatever order, the other side hears the same, and both tables are of
        /// one size.
        #[test]
        fn what_is_written_is_read(
            blocks in proptest::collection::vec(
                (proptest::collection::vec((0..12_u32, 0..40_usize), 0..12), 0..20_usize),
                0..80,
            )
        ) {
            let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
            for (fields, resize) in blocks {
                if resize < 4 {
                    encoder.resize(resize * 90);
                } else if resize == 4 {
                    encoder.resize(5000);
                }
                let lines: Vec<String> = fields
                    .iter()
                    .map(|(name, value)| format!("x-{name}: {}", "v".repeat(*value * 2)))
                    .filter(|line| !line.ends_with(' '))
                    .collect();
                let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
                let block = block(&mut encoder, &lines);
                assert_eq!(read(&mut decoder, &block), lines);
                assert!(encoder.size <= encoder.max);
            }
        }
    }
}
