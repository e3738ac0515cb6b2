//! JSON as it stands in a body: an index of where its values are, in place of copies of them.

use std::borrow::Cow;

/// How deep arrays and objects may lie within each other.
const DEPTH_MAX: usize = 128;

/// A text that is JSON as a whole (RFC 8259).
#[derive(Debug)]
pub struct Document<'a> {
    text: &'a [u8],
    /// Every value in the order of the text, a member's name before its value. Invariant: the first
    /// is the whole, and what they say of the text is so.
    nodes: Vec<Node>,
}

/// Where a value is.
#[derive(Debug, Clone, Copy)]
struct Node {
    /// Its first byte.
    start: u32,
    /// The node that follows it and all that is in it.
    next: u32,
}

/// A value of a document.
#[derive(Debug, Clone, Copy)]
pub struct Json<'a> {
    document: &'a Document<'a>,
    at: usize,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as it is written.
    Number(&'a [u8]),
    /// A text, its escapes read.
    Text(Cow<'a, [u8]>),
    /// A list.
    Array,
    /// Members by their names.
    Object,
}

impl<'a> Document<'a> {
    /// Reads a text.
    ///
    /// `None` where it is no JSON, has values more than 128 deep, or is 4 GiB long.
    pub fn read(text: &'a [u8]) -> Option<Self> {
        u32::try_from(text.len()).ok()?;
        let mut reader = Reader {
            text,
            at: 0,
            nodes: Vec::new(),
        };
        reader.skip(b"\xEF\xBB\xBF");
        reader.blanks();
        reader.value(0)?;
        reader.blanks();
        let nodes = reader.nodes;
        (reader.at == text.len()).then_some(Self { text, nodes })
    }

    /// The whole of it.
    pub fn root(&self) -> Json<'_> {
        Json {
            document: self,
            at: 0,
        }
    }
}

impl<'a> Json<'a> {
    /// What it is.
    pub fn kind(&self) -> Kind<'a> {
        let text = self.text();
        match text.first() {
            Some(b'"') => Kind::Text(text_at(text)),
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b't') => Kind::Bool(true),
            Some(b'f') => Kind::Bool(false),
            Some(b'n') | None => Kind::Null,
            Some(_) => {
                let length = text.iter().take_while(|byte| is_of_number(**byte));
                Kind::Number(text.get(..length.count()).unwrap_or_default())
            }
        }
    }

    /// The member of this name; the last, if an object has several, as most readers take it.
    pub fn member(&self, name: &[u8]) -> Option<Self> {
        let of_name = self.members().filter(|(own, _)| **own == *name);
        of_name.last().map(|(_, value)| value)
    }

    /// The members of an object, with their names, as they stand; of anything else there are none.
    pub fn members(&self) -> impl Iterator<Item = (Cow<'a, [u8]>, Self)> + use<'a> {
        let mut parts = self.parts(b'{');
        std::iter::from_fn(move || Some((text_at(parts.next()?.text()), parts.next()?)))
    }

    /// The items of an array; of anything else there are none.
    pub fn items(&self) -> impl Iterator<Item = Self> + use<'a> {
        self.parts(b'[')
    }

    /// The nodes within, if it begins so.
    fn parts(&self, bracket: u8) -> impl Iterator<Item = Self> + use<'a> {
        let (document, own) = (self.document, self.at);
        let end = match self.text().first() == Some(&bracket) {
            true => self.next(),
            false => own,
        };
        let first = Self {
            document,
            at: own.saturating_add(1),
        };
        let parts = std::iter::successors(Some(first), |part| {
            let at = part.next();
            Some(Self { at, ..*part })
        });
        parts.take_while(move |part| part.at < end)
    }

    fn next(&self) -> usize {
        let node = self.document.nodes.get(self.at);
        node.map_or(usize::MAX, |node| index(node.next))
    }

    /// The document from it on.
    fn text(&self) -> &'a [u8] {
        let node = self.document.nodes.get(self.at);
        let rest = node.and_then(|node| self.document.text.get(index(node.start)..));
        rest.unwrap_or_default()
    }
}

fn index(position: u32) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

/// Goes once through a text, and notes where its values are. `None`: it is no JSON.
struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
}

impl Reader<'_> {
    fn rest(&self) -> &[u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Goes on behind these bytes, if they come next.
    fn skip(&mut self, bytes: &[u8]) -> bool {
        let is_next = self.rest().starts_with(bytes);
        if is_next {
            self.at += bytes.len();
        }
        is_next
    }

    fn blanks(&mut self) {
        let rest = self.rest().iter();
        let blanks = rest.take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'));
        self.at += blanks.count();
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        let own = self.nodes.len();
        let start = u32::try_from(self.at).ok()?;
        self.nodes.push(Node { start, next: 0 });
        match self.peek()? {
            b'"' => self.quoted()?,
            b't' => self.skip(b"true").then_some(())?,
            b'f' => self.skip(b"false").then_some(())?,
            b'n' => self.skip(b"null").then_some(())?,
            b'-' | b'0'..=b'9' => self.number()?,
            b'[' if depth < DEPTH_MAX => self.list(b']', |own| own.value(depth + 1))?,
            b'{' if depth < DEPTH_MAX => self.list(b'}', |own| {
                own.name()?;
                own.value(depth + 1)
            })?,
            _ => return None,
        }
        self.close(own)
    }

    /// All nodes from this one on are in it.
    fn close(&mut self, node: usize) -> Option<()> {
        let next = u32::try_from(self.nodes.len()).ok()?;
        self.nodes.get_mut(node)?.next = next;
        Some(())
    }

    /// A member's name, up to its value.
    fn name(&mut self) -> Option<()> {
        let own = self.nodes.len();
        let start = u32::try_from(self.at).ok()?;
        self.nodes.push(Node { start, next: 0 });
        self.quoted()?;
        self.close(own)?;
        self.blanks();
        self.skip(b":").then_some(())?;
        self.blanks();
        Some(())
    }

    /// Parts between commas, from one bracket to the other.
    fn list(&mut self, end: u8, part: impl Fn(&mut Self) -> Option<()>) -> Option<()> {
        self.at += 1;
        self.blanks();
        if self.skip(&[end]) {
            return Some(());
        }
        loop {
            part(self)?;
            self.blanks();
            if self.skip(&[end]) {
                return Some(());
            }
            self.skip(b",").then_some(())?;
            self.blanks();
        }
    }

    fn quoted(&mut self) -> Option<()> {
        self.skip(b"\"").then_some(())?;
        loop {
            let mut rest = self.rest().iter();
            self.at += rest.position(|byte| matches!(byte, b'"' | b'\\' | ..b' '))?;
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                b'\\' => self.escape()?,
                _ => return None,
            }
        }
    }

    fn escape(&mut self) -> Option<()> {
        let length = match self.text.get(self.at.checked_add(1)?)? {
            b'u' => {
                let digits = self.rest().get(2..6)?;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(6)?
            }
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 2,
            _ => return None,
        };
        self.at += length;
        Some(())
    }

    fn number(&mut self) -> Option<()> {
        self.skip(b"-");
        if !self.skip(b"0") {
            self.digits()?;
        }
        if self.skip(b".") {
            self.digits()?;
        }
        if self.skip(b"e") || self.skip(b"E") {
            let _sign = self.skip(b"+") || self.skip(b"-");
            self.digits()?;
        }
        Some(())
    }

    /// One digit at least.
    fn digits(&mut self) -> Option<()> {
        let rest = self.rest().iter();
        let count = rest.take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        (count > 0).then_some(())
    }
}

fn is_of_number(byte: u8) -> bool {
    matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')
}

/// The text in quotes at the start of what is well formed.
fn text_at(quoted: &[u8]) -> Cow<'_, [u8]> {
    let rest = quoted.get(1..).unwrap_or_default();
    let plain = rest.iter().take_while(|byte| !matches!(byte, b'"' | b'\\'));
    let (plain, mut rest) = rest.split_at_checked(plain.count()).unwrap_or_default();
    if rest.first() != Some(&b'\\') {
        return Cow::Borrowed(plain);
    }
    let mut read = plain.to_vec();
    while let Some((byte, after)) = rest.split_first().filter(|(byte, _)| **byte != b'"') {
        rest = after;
        if *byte != b'\\' {
            read.push(*byte);
            continue;
        }
        let Some((escape, after)) = rest.split_first() else {
            break;
        };
        rest = after;
        match escape {
            b'u' => {
                let (letter, after) = letter_of(after);
                read.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                rest = after;
            }
            b'b' => read.push(8),
            b'f' => read.push(12),
            b'n' => read.push(b'\n'),
            b'r' => read.push(b'\r'),
            b't' => read.push(b'\t'),
            itself => read.push(*itself),
        }
    }
    Cow::Owned(read)
}

/// The letter that stands behind `\u`, and what follows. Half of a pair alone is no letter: U+FFFD.
fn letter_of(text: &[u8]) -> (char, &[u8]) {
    let unit = |text: &[u8]| {
        let digits = std::str::from_utf8(text.get(..4)?).ok()?;
        u16::from_str_radix(digits, 16).ok()
    };
    let after = text.get(4..).unwrap_or_default();
    let Some(first) = unit(text) else {
        return (char::REPLACEMENT_CHARACTER, after);
    };
    let second = after.strip_prefix(b"\\u").and_then(unit);
    let units = std::iter::once(first).chain(second);
    match char::decode_utf16(units).next() {
        Some(Ok(letter)) if letter.len_utf16() == 2 => (letter, after.get(6..).unwrap_or_default()),
        Some(Ok(letter)) => (letter, after),
        Some(Err(_)) | None => (char::REPLACEMENT_CHARACTER, after),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn built(json: &Json<'_>) -> Value {
        match json.kind() {
            Kind::Null => Value::Null,
            Kind::Bool(is) => is.into(),
            Kind::Number(written) => serde_json::from_slice(written).unwrap(),
            Kind::Text(text) => String::from_utf8_lossy(&text).into_owned().into(),
            Kind::Array => json.items().map(|item| built(&item)).collect(),
            Kind::Object => {
                let members = json.members();
                let members = members.map(|(name, value)| {
                    (String::from_utf8_lossy(&name).into_owned(), built(&value))
                });
                members.collect::<serde_json::Map<_, _>>().into()
            }
        }
    }

    #[test]
    fn text_that_is_no_json_is_refused() {
        for text in [
            "",
            " ",
            "{",
            "[",
            "[1,]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "[1 2]",
            "01",
            "1.",
            ".5",
            "-",
            "+1",
            "1e",
            "\"a",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\n\"",
            "tru",
            "nulL",
            "1 1",
            "[1]]",
            "{\"a\":1}x",
            "NaN",
        ] {
            assert!(Document::read(text.as_bytes()).is_none(), "{text}");
            assert!(serde_json::from_str::<Value>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn last_member_of_a_name_counts() {
        let text = br#"{"a": 1, "\u0061": {"b": [true]}, "c": 2}"#;
        let document = Document::read(text).unwrap();
        let json = document.root();
        let inner = json.member(b"a").unwrap();
        assert_eq!(inner.kind(), Kind::Object);
        let list = inner.member(b"b").unwrap();
        assert_eq!(list.items().next().unwrap().kind(), Kind::Bool(true));
        assert!(json.member(b"d").is_none());
        assert!(list.member(b"a").is_none());
        assert!(json.items().next().is_none());
    }

    #[test]
    fn escapes_are_read_and_half_a_pair_is_no_letter() {
        for (text, wanted) in [
            (r#""a\"\\\/\b\f\n\r\t""#, "a\"\\/\u{8}\u{c}\n\r\t"),
            (r#""\u00fc\ud83d\ude00""#, "ü😀"),
            (r#""\ud83dx""#, "\u{fffd}x"),
            (r#""\ud83d\u0041""#, "\u{fffd}A"),
            (r#""\ude00""#, "\u{fffd}"),
        ] {
            let document = Document::read(text.as_bytes()).unwrap();
            let wanted = Kind::Text(wanted.as_bytes().into());
            assert_eq!(document.root().kind(), wanted, "{text}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(Document::read(nested(DEPTH_MAX).as_bytes()).is_some());
        assert!(Document::read(nested(DEPTH_MAX + 1).as_bytes()).is_none());
        assert!(Document::read("[".repeat(1 << 20).as_bytes()).is_none());
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(".{0,4}", inner, 0..6).prop_map(|members| members
                    .into_iter()
                    .collect::<serde_json::Map<_, _>>()
                    .into()),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value in value(), is_pretty: bool) {
            let text = match is_pretty {
                true => serde_json::to_string_pretty(&value),
                false => serde_json::to_string(&value),
            };
            let text = text.unwrap();
            let document = Document::read(text.as_bytes());
            prop_assert_eq!(document.map(|document| built(&document.root())), Some(value));
        }

        #[test]
        fn readers_agree_on_what_is_json(
            text in r#"([\[\]{}:, ]|"[a\\nu0]*"|-?[0-9]{1,2}|[.eE+]|true|null){0,12}"#,
        ) {
            let ours = Document::read(text.as_bytes());
            prop_assert_eq!(ours.is_some(), serde_json::from_str::<Value>(&text).is_ok() || has_half(&text));
        }

        #[test]
        fn any_bytes_have_an_answer(text in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(document) = Document::read(&text) {
                visit(&document.root());
            }
        }
    }

    /// Halves of pairs are refused by serde alone.
    fn has_half(text: &str) -> bool {
        text.contains("\\ud")
    }

    fn visit(json: &Json<'_>) {
        let _kind = json.kind();
        json.items().for_each(|item| visit(&item));
        json.members().for_each(|(_, value)| visit(&value));
    }
}
