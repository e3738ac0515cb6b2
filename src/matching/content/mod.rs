//! What a request's content says to routes that ask for it: `post_arg_…`, `post_arg.…`, `graphql_…`.
//!
//! Reading it is the caller's: it is asked for only where a variable of a route that may fit needs it,
//! and an unread one tells so afterwards.

pub mod graphql;
pub mod json;
pub mod json_path;
pub mod multipart;

use std::borrow::Cow;
use std::cell::{Cell, OnceCell};

use self::graphql::Operation;
use self::json::{Document, Json, Kind};
use self::json_path::{Found, JsonPath};
use super::path::unescape;
use super::variable::Value;

/// The content of a request, as far as it was read.
#[derive(Debug, Clone, Copy)]
pub enum Text<'a> {
    /// Not yet.
    Unread,
    /// The request has none, or more than is read of one.
    Absent,
    /// All of it.
    Read(&'a [u8]),
}

/// A request's content, and how it is written.
#[derive(Debug)]
pub struct Content<'a> {
    text: Text<'a>,
    content_type: &'a [u8],
    is_wanted: Cell<bool>,
    json: OnceCell<Option<Document<'a>>>,
}

impl<'a> Content<'a> {
    /// Of a request with this `Content-Type`, which may be empty.
    #[must_use]
    pub fn new(text: Text<'a>, content_type: &'a [u8]) -> Self {
        Self {
            text,
            content_type,
            is_wanted: Cell::new(false),
            json: OnceCell::new(),
        }
    }

    /// Whether it was asked for, and not read: what came of that is no answer.
    pub fn is_wanted(&self) -> bool {
        self.is_wanted.get()
    }

    /// The first argument of this name in a form (`application/x-www-form-urlencoded`), decoded.
    pub fn argument(&self, name: &str) -> Option<Value<'a>> {
        let text = self.text().filter(|_| self.is_form())?;
        arguments(text, name).next().map(Value::Text)
    }

    /// What is at a place of JSON, or of a form by a name alone: there a name that stands several
    /// times is a list, and of parts (`multipart/form-data`) the last one counts. `null` is nothing.
    pub fn at(&self, path: &JsonPath) -> Option<Value<'_>> {
        if self.is_json() {
            let text = self.text()?;
            let document = self.json.get_or_init(|| Document::read(text)).as_ref()?;
            return match path.find(document.root()) {
                Found::Nothing => None,
                Found::One(value) => shown(value),
                Found::List(values) => Some(items(values.into_iter())),
            };
        }
        if self.is_form() {
            let mut found = arguments(self.text()?, path.name()?);
            let first = Value::Text(found.next()?);
            let mut rest = found.map(Value::Text).peekable();
            return Some(match rest.peek() {
                None => first,
                Some(_) => Value::Items(std::iter::once(first).chain(rest).collect()),
            });
        }
        if self.is_of(b"multipart/form-data") {
            let boundary = multipart::boundary(self.content_type)?;
            let found = multipart::part(self.text()?, &boundary, path.name()?)?;
            return Some(Value::Text(Cow::Borrowed(found)));
        }
        None
    }

    /// The GraphQL operation in it: the document, or the member `query` of JSON. A call of gRPC has
    /// none, and may not end before it is answered.
    pub fn operation(&self) -> Option<Operation> {
        const GRPC: &[u8] = b"application/grpc";
        let start = self.content_type.get(..GRPC.len());
        if start.is_some_and(|start| start.eq_ignore_ascii_case(GRPC)) {
            return None;
        }
        let text = self.text()?;
        if !self.is_json() {
            return Operation::read(text);
        }
        let document = self.json.get_or_init(|| Document::read(text)).as_ref()?;
        match document.root().member(b"query")?.kind() {
            Kind::Text(query) => Operation::read(&query),
            Kind::Null | Kind::Bool(_) | Kind::Number(_) | Kind::Array | Kind::Object => None,
        }
    }

    fn text(&self) -> Option<&'a [u8]> {
        match self.text {
            Text::Unread => {
                self.is_wanted.set(true);
                None
            }
            Text::Absent => None,
            Text::Read(text) => Some(text),
        }
    }

    fn is_json(&self) -> bool {
        self.is_of(b"application/json")
    }

    fn is_form(&self) -> bool {
        self.is_of(b"application/x-www-form-urlencoded")
    }

    /// Whether it is of this media type (RFC 9110 §8.3.1), whatever parameters follow.
    fn is_of(&self, media: &[u8]) -> bool {
        let mut parts = self.content_type.split(|byte| *byte == b';');
        let own = parts.next().unwrap_or_default();
        own.trim_ascii().eq_ignore_ascii_case(media)
    }
}

/// The arguments of this name in a form, decoded.
fn arguments<'a>(form: &'a [u8], name: &str) -> impl Iterator<Item = Cow<'a, [u8]>> {
    let pairs = form.split(|byte| *byte == b'&').map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=');
        let (key, value) = pair.split_at(at.unwrap_or(pair.len()));
        (key, value.strip_prefix(b"=").unwrap_or_default())
    });
    let of_name = pairs.filter(move |(key, _)| *unescape(key) == *name.as_bytes());
    of_name.map(|(_, value)| unescape(value))
}

/// A value of JSON as routes see it; `null` is nothing.
fn shown(json: Json<'_>) -> Option<Value<'_>> {
    let kind = json.kind();
    if kind == Kind::Array {
        return Some(items(json.items()));
    }
    alone(kind)
}

fn items<'a>(list: impl Iterator<Item = Json<'a>>) -> Value<'a> {
    Value::Items(list.filter_map(|item| alone(item.kind())).collect())
}

/// The same of a value that is, or stands in, no list.
fn alone(kind: Kind<'_>) -> Option<Value<'_>> {
    match kind {
        Kind::Null => None,
        Kind::Bool(is) => Some(Value::Bool(is)),
        Kind::Number(written) => {
            let number = std::str::from_utf8(written).ok()?.parse().ok();
            number.map(Value::Number)
        }
        Kind::Text(text) => Some(Value::Text(text)),
        Kind::Array | Kind::Object => Some(Value::Structure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(value: Option<Value<'_>>) -> Vec<String> {
        let shown = |value: Value<'_>| {
            if let Value::Text(text) = &value {
                return String::from_utf8_lossy(text).into_owned();
            }
            format!("{value:?}")
        };
        match value {
            None => Vec::new(),
            Some(Value::Items(items)) => items.iter().cloned().map(shown).collect(),
            Some(value) => vec![shown(value)],
        }
    }

    #[track_caller]
    fn at(content_type: &str, text: &str, path: &str) -> Vec<String> {
        let content = Content::new(Text::Read(text.as_bytes()), content_type.as_bytes());
        let found = texts(content.at(&JsonPath::parse(path).unwrap()));
        assert!(!content.is_wanted());
        found
    }

    const FORM: &str = "application/x-www-form-urlencoded";

    #[test]
    fn place_is_looked_up_as_the_content_type_says() {
        let json = r#"{"a": "x", "n": 7, "t": true, "z": null, "o": {"b": [1, null, [2], "y"]}}"#;
        let parts = "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nx\r\n--b--";
        for (content_type, text, path, wanted) in [
            ("application/json", json, "a", &["x"][..]),
            (
                "Application/JSON; charset=utf-8",
                json,
                "n",
                &["Number(7.0)"],
            ),
            ("application/json", json, "t", &["Bool(true)"]),
            ("application/json", json, "z", &[]),
            ("application/json", json, "o", &["Structure"]),
            (
                "application/json",
                json,
                "o.b",
                &["Number(1.0)", "Structure", "y"],
            ),
            ("application/json", json, "o.b[3]", &["y"]),
            ("application/json", "{", "a", &[]),
            ("text/json", json, "a", &[]),
            ("", json, "a", &[]),
            (FORM, "a=x+y&b=1&%61=z&c", "a", &["x y", "z"]),
            (FORM, "a=x+y&b=1&%61=z&c", "b", &["1"]),
            (FORM, "a=x+y&b=1&%61=z&c", "c", &[""]),
            (FORM, "a.b=1", "a.b", &[]),
            ("multipart/form-data; boundary=b", parts, "a", &["x"]),
            ("multipart/form-data", parts, "a", &[]),
        ] {
            assert_eq!(
                at(content_type, text, path),
                wanted,
                "{content_type} {text} {path}"
            );
        }
    }

    #[test]
    fn first_argument_of_a_form_counts_and_of_nothing_else() {
        let text = Text::Read(b"b=1&a=x&a=y");
        let form = Content::new(text, b"application/x-www-form-urlencoded;charset=utf-8");
        assert_eq!(texts(form.argument("a")), ["x"]);
        assert_eq!(texts(form.argument("c")), [""; 0]);
        let other = Content::new(text, b"text/plain");
        assert_eq!(texts(other.argument("a")), [""; 0]);
    }

    #[test]
    fn operation_is_the_document_or_a_member_of_json() {
        let read = |content_type: &str, text: &str| {
            let content = Content::new(Text::Read(text.as_bytes()), content_type.as_bytes());
            content.operation().map(|operation| operation.name)
        };
        let document = "query q { a }";
        let json = r#"{"operationName": null, "query": "query j { a }"}"#;
        assert_eq!(read("", document).as_deref(), Some("q"));
        assert_eq!(read("application/graphql", document).as_deref(), Some("q"));
        assert_eq!(read("application/json", json).as_deref(), Some("j"));
        assert_eq!(read("application/json", document), None);
        assert_eq!(read("application/json", "[]"), None);
        assert_eq!(read("application/graphql", json), None);
    }

    #[test]
    fn content_is_wanted_where_its_type_can_answer() {
        let path = JsonPath::parse("a").unwrap();
        for (content_type, is_wanted) in [
            ("application/json", true),
            (FORM, true),
            ("multipart/form-data; boundary=b", true),
            ("text/plain", false),
            ("", false),
        ] {
            let content = Content::new(Text::Unread, content_type.as_bytes());
            assert!(content.at(&path).is_none());
            assert_eq!(content.is_wanted(), is_wanted, "{content_type}");
            let absent = Content::new(Text::Absent, content_type.as_bytes());
            assert!(
                absent.at(&path).is_none() && !absent.is_wanted(),
                "{content_type}"
            );
        }
        for (content_type, is_wanted) in [
            ("", true),
            ("application/graphql", true),
            ("application/grpc", false),
            ("Application/gRPC+proto", false),
        ] {
            let content = Content::new(Text::Unread, content_type.as_bytes());
            assert!(content.operation().is_none());
            assert_eq!(content.is_wanted(), is_wanted, "{content_type}");
        }
    }
}
