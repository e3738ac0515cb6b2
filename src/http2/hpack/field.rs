//! Fields as header blocks have them, read once (RFC 9113 §8.2, §8.3).
//!
//! A table keeps fields as they are used: the value that a connection says a hundred times is looked
//! at when it is said first, and counted up from then on.

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};

/// A field's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// `:authority`.
    Authority,
    /// `:method`.
    Method,
    /// `:path`.
    Path,
    /// `:scheme`.
    Scheme,
    /// `:status`.
    Status,
    /// A header's.
    Header(HeaderName),
    /// None that a message may have: it is not in lower case, is a pseudo-header field that is not
    /// known here, or says how a connection goes on. Its length counts all the same.
    Malformed(usize),
}

/// A field.
#[derive(Clone, Debug)]
pub(crate) enum Field {
    /// `:authority`.
    Authority(Authority),
    /// `:method`.
    Method(Method),
    /// `:path`.
    Path(PathAndQuery),
    /// `:scheme`.
    Scheme(Scheme),
    /// `:status`.
    Status(StatusCode),
    /// A header.
    Header(HeaderName, HeaderValue),
    /// One that makes any message malformed, by its name or its value.
    Malformed(Name),
}

impl Name {
    /// Reads a name.
    #[must_use]
    pub(crate) fn read(name: &[u8]) -> Self {
        match name {
            b":authority" => Self::Authority,
            b":method" => Self::Method,
            b":path" => Self::Path,
            b":scheme" => Self::Scheme,
            b":status" => Self::Status,
            name => match HeaderName::from_lowercase(name) {
                Ok(name) if !is_of_connection(&name) => Self::Header(name),
                Ok(_) | Err(_) => Self::Malformed(name.len()),
            },
        }
    }

    /// How many bytes it has.
    #[must_use]
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Authority => ":authority".len(),
            Self::Method | Self::Scheme | Self::Status => ":method".len(),
            Self::Path => ":path".len(),
            Self::Header(name) => name.as_str().len(),
            Self::Malformed(size) => *size,
        }
    }
}

impl Field {
    /// Reads a value. One that `is_sensitive` is never put into a table by whoever passes it on
    /// (RFC 7541 §7.1.3).
    #[must_use]
    pub(crate) fn read(name: &Name, value: &[u8], is_sensitive: bool) -> Self {
        let read = match name {
            Name::Authority => Authority::try_from(value).ok().map(Self::Authority),
            Name::Method => Method::from_bytes(value).ok().map(Self::Method),
            Name::Path if value.is_empty() => None,
            Name::Path => PathAndQuery::try_from(value).ok().map(Self::Path),
            Name::Scheme => Scheme::try_from(value).ok().map(Self::Scheme),
            Name::Status => StatusCode::from_bytes(value).ok().map(Self::Status),
            Name::Header(name) => {
                let value = without_margins(value);
                let value = HeaderValue::from_bytes(value).ok();
                let value = value.filter(|value| may_be_said(name, value));
                value.map(|mut value| {
                    value.set_sensitive(is_sensitive);
                    Self::Header(name.clone(), value)
                })
            }
            Name::Malformed(_) => None,
        };
        read.unwrap_or_else(|| Self::Malformed(name.clone()))
    }

    /// Its name.
    #[must_use]
    pub(crate) fn name(&self) -> Name {
        match self {
            Self::Authority(_) => Name::Authority,
            Self::Method(_) => Name::Method,
            Self::Path(_) => Name::Path,
            Self::Scheme(_) => Name::Scheme,
            Self::Status(_) => Name::Status,
            Self::Header(name, _) => Name::Header(name.clone()),
            Self::Malformed(name) => name.clone(),
        }
    }
}

/// Whether a header says how a connection of HTTP/1.1 goes on: no message of HTTP/2 has it (RFC 9113
/// §8.2.2).
#[must_use]
pub(crate) fn is_of_connection(name: &HeaderName) -> bool {
    *name == header::CONNECTION
        || *name == header::TRANSFER_ENCODING
        || *name == header::UPGRADE
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

/// Whether a header tells who somebody is: it is in no table (RFC 7541 §7.1.3).
#[must_use]
pub(crate) fn is_secret(name: &HeaderName) -> bool {
    *name == header::AUTHORIZATION
        || *name == header::COOKIE
        || *name == header::SET_COOKIE
        || *name == header::PROXY_AUTHORIZATION
}

/// A value without the white space around it, which is no part of it (RFC 9110 §5.5). RFC 9113 §8.2.1
/// has such a message refused, and gRPC has its metadata stripped: its servers do say a `grpc-message`
/// that ends in a space. nginx takes it from both sides.
fn without_margins(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Whether a header may have this value (RFC 9113 §8.2.2).
fn may_be_said(name: &HeaderName, value: &HeaderValue) -> bool {
    *name != header::TE || value.as_bytes().eq_ignore_ascii_case(b"trailers")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, value: &str) -> Field {
        Field::read(&Name::read(name.as_bytes()), value.as_bytes(), false)
    }

    #[test]
    fn what_no_message_may_have_is_malformed_and_what_is_like_it_is_not() {
        for (name, value) in [
            ("X-Upper", "a"),
            ("", "a"),
            ("a b", "a"),
            (":protocol", "websocket"),
            (":unknown", "a"),
            ("connection", "close"),
            ("keep-alive", "5"),
            ("proxy-connection", "close"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("te", "gzip"),
            ("a", "b\nc"),
            ("a", "b\0c"),
            ("a", "b\r"),
            ("a", " \n"),
            ("te", " gzip"),
            (":path", ""),
            (":path", "/a b"),
            (":status", "20"),
            (":status", "abc"),
            (":method", "G T"),
            (":method", ""),
            (":scheme", "a b"),
            (":authority", ""),
            (":authority", "a b"),
        ] {
            let field = read(name, value);
            assert!(matches!(field, Field::Malformed(_)), "{name}: {value}");
            assert_eq!(field.name(), Name::read(name.as_bytes()));
            assert_eq!(field.name().size(), name.len());
        }
        for (name, value) in [
            ("x-lower", "a"),
            ("te", "trailers"),
            ("connections", "close"),
            ("a", "b c"),
            ("a", ""),
            (":path", "/a?b"),
            (":path", "*"),
            (":status", "200"),
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "a:1"),
        ] {
            let field = read(name, value);
            assert!(!matches!(field, Field::Malformed(_)), "{name}: {value}");
            assert_eq!(field.name(), Name::read(name.as_bytes()));
            assert_eq!(field.name().size(), name.len());
        }
    }

    #[test]
    fn white_space_around_a_value_is_no_part_of_it() {
        for (value, read_as) in [
            (" b", "b"),
            ("b\t", "b"),
            (" \t b  c\t \t", "b  c"),
            (" ", ""),
            ("\t \t", ""),
            ("b", "b"),
        ] {
            let Field::Header(_, value) = read("a", value) else {
                panic!("{value:?} is refused");
            };
            assert_eq!(value, read_as);
        }
        assert!(matches!(read("te", "trailers "), Field::Header(..)));
        // In a request's own line there is none.
        assert!(matches!(read(":path", "/a "), Field::Malformed(_)));
    }

    #[test]
    fn value_that_is_sensitive_stays_so() {
        for is_sensitive in [false, true] {
            let name = Name::read(b"x-key");
            let read = Field::read(&name, b"secret", is_sensitive);
            let Field::Header(_, value) = read else {
                panic!("{read:?}")
            };
            assert_eq!(value.is_sensitive(), is_sensitive);
        }
    }
}
