//! Header blocks, read (RFC 7541 §3).

use std::collections::VecDeque;
use std::rc::Rc;

use super::super::repeated::Repeated;
use super::field::{Field, Name, is_secret};
use super::{OVERHEAD, TABLE_BYTES, huffman, statics};

/// What is no header block: the connection's compression is lost (RFC 7541 §2.2, RFC 9113 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoBlock;

/// What one direction of a connection said so far.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// The dynamic table, the newest first, with what each field counts.
    entries: VecDeque<(Field, usize)>,
    size: usize,
    /// What the peer set it to; never more than [`TABLE_BYTES`].
    max: usize,
    /// Another number for each state of the table.
    version: u64,
    last: Last,
    /// A string, read out of Huffman's code.
    text: Vec<u8>,
    /// Literals that the peer writes out again and again: nginx looks for nothing in its table, and
    /// writes its answers' fields out in Huffman's code each time.
    literals: Repeated<(Field, usize), 32, 96>,
}

/// What is known of the block that was read last.
#[derive(Debug, Default)]
struct Last {
    /// The table's, before it.
    version: u64,
    /// It names no field of the dynamic table, whose size it does not change.
    is_standing: bool,
    /// Fields that it put there.
    inserted: usize,
    /// It has a field that is in no table, whoever passes it on (RFC 7541 §6.2.3).
    is_secret: bool,
}

/// What a block does that comes again.
#[derive(Debug)]
pub(crate) enum Effect {
    /// It says the same as long as the table has this version, and leaves it as it is.
    OfTable(u64),
    /// It says the same whatever the table has, and puts these fields there.
    Inserts(Rc<[(Field, usize)]>),
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            max: TABLE_BYTES,
            version: 0,
            last: Last::default(),
            text: Vec::new(),
            literals: Repeated::default(),
        }
    }
}

impl Decoder {
    /// What the block that was read last does when it comes again; `None`, if it may say something else
    /// then, or is to be forgotten.
    pub(crate) fn effect(&self) -> Option<Effect> {
        let last = &self.last;
        if last.is_secret {
            return None;
        }
        if !last.is_standing {
            return (last.version == self.version).then_some(Effect::OfTable(last.version));
        }
        let inserted = self.entries.iter().take(last.inserted).rev();
        let inserted: Rc<[_]> = inserted.cloned().collect();
        // One that the table has no room for is not there.
        (inserted.len() == last.inserted).then_some(Effect::Inserts(inserted))
    }

    /// A block comes again that had this effect: whether it says what it said, as if it were read.
    pub(crate) fn repeat(&mut self, effect: &Effect) -> bool {
        match effect {
            Effect::OfTable(version) => *version == self.version,
            Effect::Inserts(fields) => {
                for (field, size) in &**fields {
                    self.insert(field.clone(), *size);
                }
                true
            }
        }
    }

    /// Keeps nothing but the table.
    pub(crate) fn rest(&mut self) {
        self.text = Vec::new();
        self.literals = Repeated::default();
    }

    /// Reads a whole block. `take` is given its fields in order, each with what it counts in a list.
    ///
    /// # Errors
    /// [`NoBlock`].
    pub(crate) fn decode(
        &mut self,
        mut block: &[u8],
        mut take: impl FnMut(Field, usize),
    ) -> Result<(), NoBlock> {
        // A table changes its size before a block's first field (§4.2).
        let mut has_begun = false;
        self.last = Last {
            version: self.version,
            is_standing: true,
            inserted: 0,
            is_secret: false,
        };
        while let Some(&first) = block.first() {
            if first & 0x80 != 0 {
                let index = integer(&mut block, 7)?;
                self.last.is_standing &= index <= statics::COUNT;
                let (field, size) = self.field(index)?;
                take(field.clone(), size);
            } else if first & 0x40 != 0 {
                let (field, size) = self.literal(&mut block, 6, false)?;
                take(field.clone(), size);
                self.insert(field, size);
                self.last.inserted += 1;
            } else if first & 0x20 != 0 {
                let max = integer(&mut block, 5)?;
                if has_begun || max > TABLE_BYTES {
                    return Err(NoBlock);
                }
                self.max = max;
                self.version += 1;
                self.last.is_standing = false;
                self.evict(0);
                continue;
            } else {
                let is_sensitive = first & 0x10 != 0;
                self.last.is_secret |= is_sensitive;
                let (field, size) = self.literal(&mut block, 4, is_sensitive)?;
                take(field, size);
            }
            has_begun = true;
        }
        // What a long string needed is not held by an idle connection.
        if self.text.capacity() > TABLE_BYTES {
            self.text = Vec::new();
        }
        Ok(())
    }

    fn field(&self, index: usize) -> Result<(&Field, usize), NoBlock> {
        if let Some(at) = index.checked_sub(statics::COUNT + 1) {
            let entry = self.entries.get(at).ok_or(NoBlock)?;
            return Ok((&entry.0, entry.1));
        }
        statics::field(index).ok_or(NoBlock)
    }

    /// A field that is written out, but for its name perhaps.
    fn literal(
        &mut self,
        block: &mut &[u8],
        prefix: u32,
        is_sensitive: bool,
    ) -> Result<(Field, usize), NoBlock> {
        let Some((written, rest)) = standing(block, prefix)? else {
            self.last.is_standing = false;
            return self.read(block, prefix, is_sensitive);
        };
        *block = rest;
        if is_sensitive {
            return self.read(&mut { written }, prefix, true);
        }
        if let Some((field, size)) = self.literals.find(written) {
            return Ok((field.clone(), *size));
        }
        let (field, size) = self.read(&mut { written }, prefix, false)?;
        self.literals.keep(written, || {
            let is_kept = match &field {
                Field::Header(name, _) => !is_secret(name),
                Field::Malformed(_) => false,
                Field::Authority(_)
                | Field::Method(_)
                | Field::Path(_)
                | Field::Scheme(_)
                | Field::Status(_) => true,
            };
            is_kept.then(|| (field.clone(), size))
        });
        Ok((field, size))
    }

    /// Reads a literal.
    fn read(
        &mut self,
        block: &mut &[u8],
        prefix: u32,
        is_sensitive: bool,
    ) -> Result<(Field, usize), NoBlock> {
        let index = integer(block, prefix)?;
        let mut text = std::mem::take(&mut self.text);
        let name = if index == 0 {
            Name::read(string(block, &mut text)?)
        } else {
            match statics::name(index) {
                Some(name) => name.clone(),
                None => self.field(index)?.0.name(),
            }
        };
        let value = string(block, &mut text)?;
        let size = name.size() + value.len() + OVERHEAD;
        let field = Field::read(&name, value, is_sensitive);
        self.text = text;
        Ok((field, size))
    }

    fn insert(&mut self, field: Field, size: usize) {
        self.version += 1;
        self.evict(size);
        // One that is larger than the table leaves it empty (§4.4).
        if size <= self.max {
            self.size += size;
            self.entries.push_front((field, size));
        }
    }

    /// Makes room for so many bytes.
    fn evict(&mut self, room: usize) {
        while self.size.saturating_add(room) > self.max
            && let Some((_, size)) = self.entries.pop_back()
        {
            self.size -= size;
        }
    }
}

/// Takes an integer whose first byte has `prefix` bits of it (§5.1).
fn integer(block: &mut &[u8], prefix: u32) -> Result<usize, NoBlock> {
    let (&first, mut rest) = block.split_first().ok_or(NoBlock)?;
    let mask = u8::MAX >> (8 - prefix);
    let mut value = u32::from(first & mask);
    if first & mask == mask {
        let mut shift = 0;
        loop {
            let (&byte, more) = rest.split_first().ok_or(NoBlock)?;
            rest = more;
            // Four bytes more than the first say all that is ever meant.
            if shift > 21 {
                return Err(NoBlock);
            }
            value += u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
        }
    }
    *block = rest;
    usize::try_from(value).map_err(|_too_large| NoBlock)
}

/// The first part of a block, and the rest.
type Split<'b> = (&'b [u8], &'b [u8]);

/// The literal that `block` begins with, if its name is not one of the dynamic table, and the rest.
fn standing(block: &[u8], prefix: u32) -> Result<Option<Split<'_>>, NoBlock> {
    let mut rest = block;
    let index = integer(&mut rest, prefix)?;
    if index > statics::COUNT {
        return Ok(None);
    }
    if index == 0 {
        pass_string(&mut rest)?;
    }
    pass_string(&mut rest)?;
    let written = block.len().saturating_sub(rest.len());
    Ok(block.split_at_checked(written))
}

/// Takes a string as it is written.
fn pass_string<'b>(block: &mut &'b [u8]) -> Result<&'b [u8], NoBlock> {
    let length = integer(block, 7)?;
    let (string, rest) = block.split_at_checked(length).ok_or(NoBlock)?;
    *block = rest;
    Ok(string)
}

/// Takes a string (§5.2); `text` is room for one that is in Huffman's code.
fn string<'t, 'b: 't>(block: &mut &'b [u8], text: &'t mut Vec<u8>) -> Result<&'t [u8], NoBlock> {
    let is_coded = block.first().is_some_and(|first| first & 0x80 != 0);
    let string = pass_string(block)?;
    if !is_coded {
        return Ok(string);
    }
    text.clear();
    huffman::decode(string, text).map_err(|huffman::NoCode| NoBlock)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;

    /// The fields of a block, in words, and what each counts.
    fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, usize)>, NoBlock> {
        let mut fields = Vec::new();
        decoder.decode(block, |field, size| {
            let text = match field {
                Field::Authority(authority) => format!(":authority: {authority}"),
                Field::Method(method) => format!(":method: {method}"),
                Field::Path(path) => format!(":path: {path}"),
                Field::Scheme(scheme) => format!(":scheme: {scheme}"),
                Field::Status(status) => format!(":status: {}", status.as_str()),
                Field::Header(name, value) => format!("{name}: {}", value.to_str().unwrap()),
                Field::Malformed(name) => format!("malformed {name:?}"),
            };
            fields.push((text, size));
        })?;
        Ok(fields)
    }

    fn texts(decoder: &mut Decoder, block: &[u8]) -> Vec<String> {
        let fields = read(decoder, block).unwrap();
        fields.into_iter().map(|(text, _)| text).collect()
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let pairs = digits.chunks(2);
        pairs
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    #[test]
    fn requests_of_the_standard_are_read() {
        // RFC 7541, Appendix C.4.
        let mut decoder = Decoder::default();
        let common = [
            ":method: GET",
            ":scheme: http",
            ":path: /",
            ":authority: www.example.com",
        ];
        let first = bytes("828684418cf1e3c2e5f23a6ba0ab90f4ff");
        assert_eq!(texts(&mut decoder, &first), common);
        assert_eq!(decoder.size, 57);
        let second = bytes("828684be5886a8eb10649cbf");
        let mut said = common.to_vec();
        said.push("cache-control: no-cache");
        assert_eq!(texts(&mut decoder, &second), said);
        assert_eq!(decoder.size, 110);
        let third = bytes("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf");
        let said = [
            ":method: GET",
            ":scheme: https",
            ":path: /index.html",
            ":authority: www.example.com",
            "custom-key: custom-value",
        ];
        assert_eq!(texts(&mut decoder, &third), said);
        assert_eq!(decoder.size, 164);
    }

    #[test]
    fn table_forgets_what_it_has_no_room_for() {
        // RFC 7541, Appendix C.6: a table of 256 bytes.
        let mut decoder = Decoder::default();
        assert_eq!(texts(&mut decoder, &bytes("3fe101")), [""; 0]);
        assert_eq!(decoder.max, 256);
        let first = bytes(
            "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad17\
             1863c78f0b97c8e9ae82ae43d3",
        );
        let said = [
            ":status: 302",
            "cache-control: private",
            "date: Mon, 21 Oct 2013 20:13:21 GMT",
            "location: https://www.example.com",
        ];
        assert_eq!(texts(&mut decoder, &first), said);
        assert_eq!(decoder.size, 222);
        let second = bytes("4883640effc1c0bf");
        assert_eq!(texts(&mut decoder, &second)[0], ":status: 307");
        assert_eq!((decoder.size, decoder.entries.len()), (222, 4));
        // All of it goes when the table has no room at all, and nothing is remembered then.
        read(&mut decoder, &[0x20]).unwrap();
        assert_eq!((decoder.size, decoder.entries.len()), (0, 0));
        read(&mut decoder, b"\x40\x01a\x01b").unwrap();
        assert_eq!(decoder.entries.len(), 0);
        assert_eq!(read(&mut decoder, &[0xbe]), Err(NoBlock));
    }

    #[test]
    fn field_counts_its_name_its_value_and_some_more() {
        let mut decoder = Decoder::default();
        // A malformed name that is referred to counts as it was written.
        let block = b"\x82\x40\x03X-Y\x02ab\x7e\x01c";
        let fields = read(&mut decoder, block).unwrap();
        let sizes: Vec<usize> = fields.iter().map(|(_, size)| *size).collect();
        assert_eq!(sizes, [42, 37, 36]);
        assert_eq!(decoder.size, 73);
        // So does white space that is no part of a value.
        let fields = read(&mut decoder, b"\x40\x01a\x03 b ").unwrap();
        assert_eq!((fields[0].1, decoder.size), (36, 109));
    }

    #[test]
    fn what_a_long_string_needed_is_not_held() {
        // 8,192 letters in 5,120 bytes of Huffman's code.
        let head = [0x00, 0x01, b'x', 0xff, 0x81, 0x27];
        let block = [&head[..], &[0x18, 0xc6, 0x31, 0x8c, 0x63].repeat(1024)].concat();
        let mut decoder = Decoder::default();
        let text = format!("x: {}", "a".repeat(8192));
        assert_eq!(texts(&mut decoder, &block), [text]);
        assert_eq!(decoder.text.capacity(), 0);
        // A short one's room serves the next.
        assert_eq!(texts(&mut decoder, b"\x00\x01x\x81\x1f"), ["x: a"]);
        assert!(decoder.text.capacity() > 0);
    }

    #[test]
    fn literals_that_repeat_are_read_once_and_say_the_same() {
        let mut decoder = Decoder::default();
        // A name of the static table, one that is written out, and one of the dynamic table, whose
        // literal says something else when the table has changed.
        let block = b"\x0f\x10\x02ab\x00\x02x-\x01a\x0f\x2f\x01b";
        let mut said = Vec::new();
        for name in [b"x-1", b"x-2", b"x-3", b"x-4"] {
            let insert = [b"\x40\x03", &name[..], b"\x01c"].concat();
            read(&mut decoder, &insert).unwrap();
            said.push(texts(&mut decoder, block));
        }
        for (at, lines) in (1..).zip(&said) {
            assert_eq!(lines.len(), 3);
            assert_eq!(lines[..2], said[0][..2]);
            assert_eq!(lines[2], format!("x-{at}: b"));
        }
        // What is kept of them is what was written out.
        assert_eq!(decoder.literals.kept(), 2);
        // Secrets, and what makes a message malformed, are read each time.
        for _ in 0..3 {
            read(&mut decoder, b"\x0f\x08\x01a\x0f\x28\x01b\x00\x01X\x01c").unwrap();
        }
        assert_eq!(decoder.literals.kept(), 2);
        // Cut off, each is none.
        for end in [1, 2, 4] {
            assert_eq!(read(&mut decoder, &block[..end]), Err(NoBlock));
        }
    }

    #[test]
    fn block_that_is_repeated_does_what_it_did() {
        // Fields of the static table, literals that the table takes, and one that it does not.
        let standing = b"\x88\x76\x01n\x40\x01a\x01b\x00\x01c\x01d";
        let others: [&[u8]; 4] = [b"\xbe", b"\x7e\x01e", b"\x40\x01f\x01g", b"\x20\x3f\x41"];
        let (mut reads, mut repeats) = (Decoder::default(), Decoder::default());
        read(&mut reads, standing).unwrap();
        let said = texts(&mut repeats, standing);
        let effect = repeats.effect().unwrap();
        for other in others {
            assert_eq!(texts(&mut reads, standing), said);
            assert!(repeats.repeat(&effect));
            for decoder in [&mut reads, &mut repeats] {
                read(decoder, other).unwrap();
            }
            assert_eq!(
                format!("{:?}", reads.entries),
                format!("{:?}", repeats.entries)
            );
            assert_eq!(reads.size, repeats.size);
        }
        // One that names a field of the table says the same until that changes.
        let mut decoder = Decoder::default();
        read(&mut decoder, b"\x40\x01a\x01b").unwrap();
        read(&mut decoder, b"\xbe").unwrap();
        let effect = decoder.effect().unwrap();
        read(&mut decoder, b"\x82").unwrap();
        assert!(decoder.repeat(&effect));
        for change in [&b"\x40\x01a\x01c"[..], b"\x20"] {
            read(&mut decoder, change).unwrap();
            assert!(!decoder.repeat(&effect));
        }
        // One that changes it by what it has, or its size, or has no room there, has none.
        let mut decoder = Decoder::default();
        read(&mut decoder, b"\x40\x01a\x01b").unwrap();
        let long = [&b"\x40\x01a\x7f\xa1\x1f"[..], &[b'a'; 4128]].concat();
        // So has one with a field that is never to be indexed.
        for block in [&b"\x7e\x01c"[..], b"\x3f\xe1\x1f", &long, b"\x14\x02/s"] {
            read(&mut decoder, block).unwrap();
            assert!(decoder.effect().is_none(), "{block:x?}");
        }
    }

    #[test]
    fn field_that_is_never_to_be_indexed_is_sensitive_and_not_remembered() {
        let mut decoder = Decoder::default();
        let mut values = Vec::new();
        decoder
            .decode(b"\x1f\x08\x01a\x0f\x08\x01a", |field, _| {
                if let Field::Header(name, value) = field {
                    assert_eq!(name, header::AUTHORIZATION);
                    values.push(value.is_sensitive());
                }
            })
            .unwrap();
        assert_eq!(values, [true, false]);
        assert_eq!(decoder.size, 0);
    }

    #[test]
    fn what_is_no_block_is_refused_and_what_is_like_it_is_read() {
        let no: [&[u8]; 12] = [
            // Index 0, one that is not there, one that is not all there, one that never ends.
            &[0x80],
            &[0xbe],
            &[0xff],
            &[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0x0f],
            // A name that is not there, a string that ends early, a code that is none.
            &[0x7f, 0x00, 0x01, b'a'],
            b"\x00\x02a",
            b"\x00\x01a",
            b"\x00\x01a\x81\xff",
            // A table that is larger than ours, or changes within a block.
            &[0x3f, 0xe2, 0x1f],
            &[0x82, 0x20],
            &[0x82, 0x3f, 0xe1, 0x1f],
        ];
        for block in no {
            assert_eq!(
                read(&mut Decoder::default(), block),
                Err(NoBlock),
                "{block:x?}"
            );
        }
        let yes: [&[u8]; 5] = [
            &[],
            &[0x82],
            b"\x00\x01a\x01b",
            &[0x20, 0x3f, 0xe1, 0x1f, 0x82],
            // 61, with bytes that say nothing more.
            &[0x0f, 0x80 | 0x2e, 0x80, 0x00, 0x00],
        ];
        for block in yes {
            assert!(read(&mut Decoder::default(), block).is_ok(), "{block:x?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_block_is_read_or_refused_and_the_table_stays_small(blocks: Vec<Vec<u8>>) {
            let mut decoder = Decoder::default();
            for block in blocks {
                let _ = decoder.decode(&block, |_, _| {});
                let sizes: usize = decoder.entries.iter().map(|(_, size)| size).sum();
                assert_eq!(sizes, decoder.size);
                assert!(decoder.size <= decoder.max && decoder.max <= TABLE_BYTES);
            }
        }
    }
}
