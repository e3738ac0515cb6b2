//! GraphQL documents: what their first operation is, and which fields it asks for first.
//!
//! Executable documents only (GraphQL, October 2021, §2): operations and fragments. Names and
//! punctuation are read; whether values fit a schema is nobody's question here.

use std::collections::{HashMap, VecDeque};

/// How deep selections, values and types may lie within each other.
const DEPTH_MAX: usize = 128;

/// What a document's first operation is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Operation {
    /// `query`, `mutation` or `subscription`.
    pub kind: String,
    /// Its name; empty where it has none.
    pub name: String,
    /// The names of its fields, not their aliases, in their order. A fragment that is spread there
    /// stands by its name (APISIX), and its fields are behind all these; of one that is inline
    /// there are the fields alone.
    pub root_fields: Vec<String>,
}

/// One definition of a document.
struct Definition {
    /// `None` of a fragment.
    kind: Option<String>,
    name: String,
    selections: Vec<Selection>,
}

/// What is asked for at the root.
enum Selection {
    Field(String),
    Spread(String),
}

impl Operation {
    /// Reads a document; `None` where it is none, or has no operation.
    pub fn read(text: &[u8]) -> Option<Self> {
        let mut reader = Reader { rest: text };
        let mut definitions = Vec::new();
        reader.ignored();
        while !reader.rest.is_empty() {
            definitions.push(reader.definition()?);
        }
        let first = definitions.iter().find(|one| one.kind.is_some())?;
        Some(Self {
            kind: first.kind.clone()?,
            name: first.name.clone(),
            root_fields: names(&first.selections, &definitions),
        })
    }
}

/// The names of selections, then of those that their fragments bring, each fragment once.
fn names(selections: &[Selection], definitions: &[Definition]) -> Vec<String> {
    let fragments = definitions.iter().filter(|one| one.kind.is_none());
    let mut fragments: HashMap<&str, &[Selection]> = fragments
        .map(|one| (one.name.as_str(), one.selections.as_slice()))
        .collect();
    let mut names = Vec::new();
    let mut waiting = VecDeque::from([selections]);
    while let Some(selections) = waiting.pop_front() {
        for selection in selections {
            let (Selection::Field(name) | Selection::Spread(name)) = selection;
            names.push(name.clone());
            if let Selection::Spread(name) = selection {
                waiting.extend(fragments.remove(name.as_str()));
            }
        }
    }
    names
}

/// What of a document is not read yet. Every method goes on behind what it reads, and what is ignored
/// there; `None`: the document is none.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Byte order marks, blanks, commas and comments (§2.1).
    fn ignored(&mut self) {
        while let Some((byte, after)) = self.rest.split_first() {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b',' => self.rest = after,
                b'#' => {
                    let line = after
                        .iter()
                        .take_while(|byte| !matches!(byte, b'\r' | b'\n'));
                    self.rest = after.get(line.count()..).unwrap_or_default();
                }
                _ => match self.rest.strip_prefix(b"\xEF\xBB\xBF") {
                    Some(after) => self.rest = after,
                    None => return,
                },
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// Reads this punctuator, if it comes next.
    fn takes(&mut self, mark: &[u8]) -> bool {
        let Some(after) = self.rest.strip_prefix(mark) else {
            return false;
        };
        self.rest = after;
        self.ignored();
        true
    }

    fn expect(&mut self, mark: &[u8]) -> Option<()> {
        self.takes(mark).then_some(())
    }

    fn name(&mut self) -> Option<String> {
        let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let length = self.rest.iter().take_while(|byte| is_letter(byte)).count();
        let (name, after) = self.rest.split_at_checked(length)?;
        if name.first().is_none_or(u8::is_ascii_digit) {
            return None;
        }
        self.rest = after;
        self.ignored();
        std::str::from_utf8(name).ok().map(str::to_owned)
    }

    fn definition(&mut self) -> Option<Definition> {
        if self.peek() == Some(b'{') {
            return Some(Definition {
                kind: Some("query".to_owned()),
                name: String::new(),
                selections: self.selections(0)?,
            });
        }
        let word = self.name()?;
        let (kind, name) = match word.as_str() {
            "query" | "mutation" | "subscription" => {
                let is_named = self.peek().is_some_and(|byte| !b"({@".contains(&byte));
                let name = if is_named {
                    self.name()?
                } else {
                    String::new()
                };
                (Some(word), name)
            }
            "fragment" => {
                let name = self.name().filter(|name| name != "on")?;
                self.name().filter(|on| on == "on")?;
                self.name()?;
                (None, name)
            }
            _ => return None,
        };
        if kind.is_some() && self.takes(b"(") {
            self.variables()?;
        }
        self.directives()?;
        Some(Definition {
            kind,
            name,
            selections: self.selections(0)?,
        })
    }

    /// `$name: Type = value @directive`, up to the bracket.
    fn variables(&mut self) -> Option<()> {
        loop {
            self.expect(b"$")?;
            self.name()?;
            self.expect(b":")?;
            self.type_of(0)?;
            if self.takes(b"=") {
                self.value(0)?;
            }
            self.directives()?;
            if self.takes(b")") {
                return Some(());
            }
        }
    }

    fn type_of(&mut self, depth: usize) -> Option<()> {
        if depth == DEPTH_MAX {
            return None;
        }
        if self.takes(b"[") {
            self.type_of(depth + 1)?;
            self.expect(b"]")?;
        } else {
            self.name()?;
        }
        self.takes(b"!");
        Some(())
    }

    fn directives(&mut self) -> Option<()> {
        while self.takes(b"@") {
            self.name()?;
            self.arguments()?;
        }
        Some(())
    }

    /// `(name: value …)`, if they come next.
    fn arguments(&mut self) -> Option<()> {
        if !self.takes(b"(") {
            return Some(());
        }
        loop {
            self.name()?;
            self.expect(b":")?;
            self.value(0)?;
            if self.takes(b")") {
                return Some(());
            }
        }
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        if depth == DEPTH_MAX {
            return None;
        }
        match self.peek()? {
            b'$' => {
                self.expect(b"$")?;
                self.name().map(drop)
            }
            b'"' => self.text(),
            b'-' | b'0'..=b'9' => {
                let is_part =
                    |byte: &u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
                let length = self.rest.iter().take_while(|byte| is_part(byte)).count();
                self.rest = self.rest.get(length..)?;
                self.ignored();
                Some(())
            }
            b'[' => {
                self.expect(b"[")?;
                while !self.takes(b"]") {
                    self.value(depth + 1)?;
                }
                Some(())
            }
            b'{' => {
                self.expect(b"{")?;
                while !self.takes(b"}") {
                    self.name()?;
                    self.expect(b":")?;
                    self.value(depth + 1)?;
                }
                Some(())
            }
            _ => self.name().map(drop),
        }
    }

    /// A text, of one line or in three quotes (§2.9.4).
    fn text(&mut self) -> Option<()> {
        let block = self.rest.strip_prefix(br#"""""#);
        let is_block = block.is_some();
        let mut rest = block.or_else(|| self.rest.strip_prefix(b"\""))?;
        loop {
            let (byte, after) = rest.split_first()?;
            rest = match byte {
                b'"' if !is_block => {
                    self.rest = after;
                    break;
                }
                b'"' if let Some(after) = rest.strip_prefix(br#"""""#) => {
                    self.rest = after;
                    break;
                }
                b'\\' if is_block => rest.strip_prefix(br#"\""""#).unwrap_or(after),
                b'\\' => after.get(1..)?,
                b'\r' | b'\n' if !is_block => return None,
                _ => after,
            };
        }
        self.ignored();
        Some(())
    }

    /// A selection set, one selection at least. Inline fragments bring theirs.
    fn selections(&mut self, depth: usize) -> Option<Vec<Selection>> {
        if depth == DEPTH_MAX {
            return None;
        }
        self.expect(b"{")?;
        let mut selections = Vec::new();
        loop {
            if self.takes(b"...") {
                let name = match self.peek()? {
                    b'{' | b'@' => None,
                    _ => Some(self.name()?),
                };
                match name {
                    Some(name) if name != "on" => {
                        self.directives()?;
                        selections.push(Selection::Spread(name));
                    }
                    on => {
                        if on.is_some() {
                            self.name()?;
                        }
                        self.directives()?;
                        selections.extend(self.selections(depth + 1)?);
                    }
                }
            } else {
                selections.push(Selection::Field(self.field(depth)?));
            }
            if self.takes(b"}") {
                return Some(selections);
            }
        }
    }

    /// A field, its alias before it and all that is asked of it behind.
    fn field(&mut self, depth: usize) -> Option<String> {
        let mut name = self.name()?;
        if self.takes(b":") {
            name = self.name()?;
        }
        self.arguments()?;
        self.directives()?;
        if self.peek() == Some(b'{') {
            self.selections(depth + 1)?;
        }
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn read(text: &str) -> (String, String, String) {
        let Some(read) = Operation::read(text.as_bytes()) else {
            panic!("not read: {text}");
        };
        (read.kind, read.name, read.root_fields.join(" "))
    }

    #[test]
    fn first_operation_is_told_by_kind_name_and_fields() {
        for (text, kind, name, fields) in [
            ("{ owner { name } }", "query", "", "owner"),
            (
                "query { repo { stars } owner { name } }",
                "query",
                "",
                "repo owner",
            ),
            ("query repo { owner { name } }", "query", "repo", "owner"),
            (
                "mutation repo($ep: Episode!, $review: [ReviewInput!]! = {a: [1, -2.5e3]} @x) {\n\
                 \tcreateReview(episode: $ep, review: $review) { stars commentary }\n}",
                "mutation",
                "repo",
                "createReview",
            ),
            ("subscription s @live { a }", "subscription", "s", "a"),
            ("query @x(y: \"} query\") { a }", "query", "", "a"),
            (
                "{ short: long(a: {b: ENUM, c: null}) @include(if: true), b }",
                "query",
                "",
                "long b",
            ),
            ("# query x { y }\nquery z { a #}\n }", "query", "z", "a"),
            ("{ a(t: \"\"\"\n \"} \\\"\"\" \"\"\") }", "query", "", "a"),
            ("{ a(t: \"\") b(t: \"\\\"}\") }", "query", "", "a b"),
            ("query a { x } mutation b { y }", "query", "a", "x"),
            (
                "{ query { a } on mutation: fragment }",
                "query",
                "",
                "query on fragment",
            ),
            ("\u{feff}{a}", "query", "", "a"),
            (
                "mutation\u{feff}x \u{feff}{ a\u{feff} b }\u{feff}",
                "mutation",
                "x",
                "a b",
            ),
        ] {
            let wanted = (kind.to_owned(), name.to_owned(), fields.to_owned());
            assert_eq!(read(text), wanted, "{text}");
        }
    }

    #[test]
    fn fields_of_fragments_are_not_hidden_by_them() {
        for (text, fields) in [
            ("{ ... on Query { secret { a } } b }", "secret b"),
            ("{ ... { secret } ... @skip(if: $no) { c } }", "secret c"),
            ("{ ...F } fragment F on Query { secret }", "F secret"),
            (
                "fragment F on Query @x { secret ...G } query q { ...F ...F }",
                "F F secret G",
            ),
            (
                "{ ...F } fragment F on Q { a ...G } fragment G on Q { b ...F }",
                "F a G b F",
            ),
        ] {
            assert_eq!(read(text).2, fields, "{text}");
        }
    }

    #[test]
    fn what_is_no_executable_document_is_not_read() {
        for text in [
            "",
            " ",
            "AA",
            "{",
            "{}",
            "{ a",
            "{ a }}",
            "query",
            "query {",
            "query q",
            "{ a( }",
            "{ a() }",
            "{ a(b) }",
            "{ a(b:) }",
            "{ a: }",
            "query ($a) { b }",
            "query () { b }",
            "{ a(t: \"\n\") }",
            "{ a(t: \"\"\"x) }",
            "type A { b: C }",
            "fragment F on Query { a }",
            "fragment on on Q { a }",
            "fragment F Query { a } { b }",
            "{ ... }",
            "{ a } x",
            "{ 1a }",
            "{ a.b }",
            "query 1 { a }",
        ] {
            assert_eq!(Operation::read(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn chain_of_fragments_is_followed_however_long() {
        let link = |index: usize| format!("fragment F{index} on Q {{ ...F{} }}", index + 1);
        let chain: String = (0..20_000).map(link).collect();
        let text = format!("{{ ...F0 }} {chain} fragment F20000 on Q {{ secret }}");
        let read = Operation::read(text.as_bytes()).unwrap();
        assert_eq!(read.root_fields.last().unwrap(), "secret");
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |open: &str, inner: &str, close: &str, depth: usize| {
            format!("{}{inner}{}", open.repeat(depth), close.repeat(depth))
        };
        assert!(Operation::read(nested("{a", "", "}", 100).as_bytes()).is_some());
        for text in [
            nested("{a", "", "}", 200),
            format!("{{ a(b: {}) }}", nested("[", "", "]", 200)),
            format!("query ($a: {}) {{ b }}", nested("[", "A", "]", 200)),
            "{a".repeat(1 << 19),
        ] {
            assert_eq!(Operation::read(text.as_bytes()), None);
        }
    }

    proptest! {
        #[test]
        fn any_text_has_an_answer(text in r##"(query |fragment |on |[a{}()\[\]:$@!"#,.\n\\]|\.\.\.|""")*"##) {
            let _read = Operation::read(text.as_bytes());
        }
    }
}
