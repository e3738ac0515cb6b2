//! A request as the Admin API sees it: path and query decoded once, a bounded JSON body.
//!
//! Nothing here knows resources or keys. warp's own path and query filters are not used: their
//! rejections would answer in warp's words, and path segments must be decoded before ids are read.

use std::fmt;
use std::time::Duration;

use bytes::Buf;
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, Method, header};
use serde_json::Value;
use zeroize::Zeroizing;

use self::complaint::complaint;
use crate::resource::json;

mod complaint;

/// The largest body that is read, in bytes: 1.5 MiB. (APISIX, `admin/init.lua`.)
pub(super) const BODY_BYTES: usize = 1_572_864;

/// The same for the kinds that hold revocation lists: one of 100,000 entries has 5 MB as PEM.
const BODY_BYTES_WITH_LISTS: usize = 16 * 1024 * 1024;

/// The words of paths to objects of these kinds.
const WITH_LISTS: [&str; 2] = ["ssls", "upstreams"];

/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(60);

/// Everything of a request but its body.
#[derive(Debug)]
pub(super) struct Head {
    /// The method.
    pub(super) method: Method,
    /// The path's segments, decoded; empty ones dropped, as nginx merges slashes.
    pub(super) segments: Result<Vec<String>, PathError>,
    /// The decoded query.
    pub(super) query: Query,
    /// The header fields.
    pub(super) headers: HeaderMap,
}

/// A path with an escape that is none, or that is not UTF-8 once decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path is not valid: it has a broken percent escape, or is not UTF-8 once decoded")]
pub(super) struct PathError;

impl Head {
    /// The head of a request with this method, raw path, raw query and header fields.
    pub(super) fn new(method: Method, path: &str, query: &str, headers: HeaderMap) -> Self {
        Self {
            method,
            segments: split(path),
            query: Query::parse(query),
            headers,
        }
    }

    /// The only value of a header field; `None` where it is absent, repeated or not ASCII.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let first = values.next()?;
        if values.next().is_some() {
            None
        } else {
            first.to_str().ok()
        }
    }

    /// Whether its path is these words.
    pub(super) fn is_of(&self, words: &[&str]) -> bool {
        let own = self.segments.as_deref().unwrap_or_default();
        own.iter().map(String::as_str).eq(words.iter().copied())
    }

    /// How long its body may be, in bytes.
    pub(super) fn body_limit(&self) -> usize {
        let words = self.segments.as_deref().unwrap_or_default();
        match words.get(2) {
            Some(kind) if WITH_LISTS.contains(&kind.as_str()) => BODY_BYTES_WITH_LISTS,
            // All of them at once.
            Some(word) if word == "configs" && words.len() == 3 => BODY_BYTES_WITH_LISTS,
            _ => BODY_BYTES,
        }
    }

    /// The announced length of the body, where there is one.
    pub(super) fn content_length(&self) -> Option<usize> {
        self.header(header::CONTENT_LENGTH.as_str())?.parse().ok()
    }
}

/// Decodes a path once, then splits it: `%2F` separates as `/` does. (nginx, `$uri`.)
fn split(path: &str) -> Result<Vec<String>, PathError> {
    let decoded = decode(path.as_bytes(), Plus::Literal).ok_or(PathError)?;
    let decoded = String::from_utf8(decoded).map_err(|_not_utf8| PathError)?;
    Ok(decoded
        .split('/')
        .filter(|segment| !segment.is_empty())
        .map(str::to_owned)
        .collect())
}

/// What `+` stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plus {
    Literal,
    Space,
}

/// Percent-decodes; `None` at an escape that is none. (RFC 3986 §2.1.)
fn decode(text: &[u8], plus: Plus) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let high = hex_digit(bytes.next()?)?;
                let low = hex_digit(bytes.next()?)?;
                high << 4 | low
            }
            b'+' if plus == Plus::Space => b' ',
            other => other,
        });
    }
    Some(decoded)
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

/// The members of a query string, decoded, in order.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Parses what follows the `?`; a broken escape stays as it is written.
    pub(super) fn parse(text: &str) -> Self {
        let part = |text: &str| {
            decode(text.as_bytes(), Plus::Space)
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .unwrap_or_else(|| text.to_owned())
        };
        Self(
            text.split('&')
                .filter(|member| !member.is_empty())
                .map(|member| {
                    let (name, value) = member.split_once('=').unwrap_or((member, ""));
                    (part(name), part(value))
                })
                .collect(),
        )
    }

    /// The first value of a member.
    pub(super) fn find(&self, name: &str) -> Option<&str> {
        self.iter()
            .find(|(member, _)| *member == name)
            .map(|(_, value)| value)
    }

    /// All members.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A value may be a key (`api_key`).
        f.debug_list()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

/// Why a body is of no use. Texts are APISIX's where it has one; none quotes the body.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// Longer than it may be.
    #[error("request size {length} is greater than the maximum size {limit} allowed")]
    TooLarge {
        /// As announced, or as far as it was read.
        length: usize,
        /// [`Head::body_limit`].
        limit: usize,
    },
    /// It did not arrive in time.
    #[error("the body did not arrive within {} seconds", BODY_TIME.as_secs())]
    Slow,
    /// The connection broke.
    #[error("the body ended early")]
    Broken(#[source] warp::Error),
    /// No body where there must be one.
    #[error("empty request body")]
    Empty,
    /// Not YAML, or a mapping with the same key twice.
    #[error("invalid yaml request body")]
    NotYaml {
        /// Where the parser stopped, where it told: its words would quote the body.
        place: Option<String>,
    },
    /// Not JSON, or an object with the same member twice.
    #[error("{text}")]
    NotJson {
        /// How many bytes the body has.
        bytes: usize,
        /// What is wrong where: in APISIX's words, where its parser stops too.
        text: String,
    },
}

/// Reads a body, chunked or not; it is wiped when it is dropped.
pub(super) async fn read_body<S, B>(
    announced: Option<usize>,
    limit: usize,
    stream: S,
) -> Result<Zeroizing<Vec<u8>>, BodyError>
where
    S: Stream<Item = Result<B, warp::Error>>,
    B: Buf,
{
    if let Some(length) = announced.filter(|length| *length > limit) {
        return Err(BodyError::TooLarge { length, limit });
    }
    match tokio::time::timeout(BODY_TIME, collect(announced, limit, stream)).await {
        Ok(body) => body,
        Err(_elapsed) => Err(BodyError::Slow),
    }
}

async fn collect<S, B>(
    announced: Option<usize>,
    limit: usize,
    stream: S,
) -> Result<Zeroizing<Vec<u8>>, BodyError>
where
    S: Stream<Item = Result<B, warp::Error>>,
    B: Buf,
{
    let mut stream = std::pin::pin!(stream);
    let mut body = Zeroizing::new(Vec::with_capacity(announced.unwrap_or(0)));
    while let Some(part) = stream.next().await {
        let mut part = part.map_err(BodyError::Broken)?;
        let length = body.len().saturating_add(part.remaining());
        if length > limit {
            return Err(BodyError::TooLarge { length, limit });
        }
        if length > body.capacity() {
            // Not grown in place, which would leave a copy of what may be a key behind.
            let mut larger = Zeroizing::new(Vec::with_capacity(length.saturating_mul(2)));
            larger.extend_from_slice(&body);
            body = larger;
        }
        while part.has_remaining() {
            let chunk = part.chunk();
            body.extend_from_slice(chunk);
            let taken = chunk.len();
            part.advance(taken);
        }
    }
    Ok(body)
}

/// The longest rest of a body that is read away, in bytes.
const REST_BYTES: usize = 64 * 1024;

/// How long that may take.
const REST_TIME: Duration = Duration::from_millis(500);

/// Whether the connection can go on after a request that was answered before its body was read: a
/// short rest is read away. Else the answer has to say that it ends. (RFC 9112 §9.3, §9.6)
pub(super) async fn is_done<S, B>(head: &Head, mut stream: S) -> bool
where
    S: Stream<Item = Result<B, warp::Error>> + Unpin,
    B: Buf,
{
    // Whoever waits for a 100 is not asked for what nobody wants. (RFC 9110 §10.1.1)
    let waits = head.headers.contains_key(header::EXPECT);
    let is_long = head.content_length().is_some_and(|all| all > REST_BYTES);
    if waits || is_long {
        return false;
    }
    let rest = async {
        let mut length = 0_usize;
        while let Some(part) = stream.next().await {
            let Ok(part) = part else {
                return false;
            };
            length = length.saturating_add(part.remaining());
            if length > REST_BYTES {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(REST_TIME, rest).await == Ok(true)
}

/// Parses a body as JSON, whatever its content type; `None` when there is none.
///
/// An object with the same member twice is refused: which of the two counts would be a guess.
pub(super) fn parse_body(body: &[u8]) -> Result<Option<Value>, BodyError> {
    if body.is_empty() {
        return Ok(None);
    }
    let not_json = |error: serde_json::Error| BodyError::NotJson {
        bytes: body.len(),
        text: complaint(body).unwrap_or_else(|| error.to_string()),
    };
    json::parse(body).map(Some).map_err(not_json)
}

/// Parses a body as YAML; `None` when there is none.
///
/// A mapping with the same key twice is refused, as in [`parse_body`].
pub(super) fn parse_yaml(body: &[u8]) -> Result<Option<Value>, BodyError> {
    if body.is_empty() {
        return Ok(None);
    }
    let not_yaml = |error: serde_yaml_ng::Error| {
        let place = error.location();
        let place = place.map(|at| format!("at line {} column {}", at.line(), at.column()));
        BodyError::NotYaml { place }
    };
    let _: json::Distinct = serde_yaml_ng::from_slice(body).map_err(not_yaml)?;
    serde_yaml_ng::from_slice(body).map(Some).map_err(not_yaml)
}

#[cfg(test)]
mod tests {
    use super::*;

    use bytes::Bytes;

    fn segments(path: &str) -> Option<Vec<String>> {
        split(path).ok()
    }

    #[test]
    fn path_is_decoded_once_and_slashes_are_merged() {
        for (path, expected) in [
            (
                "/apisix/admin/routes/1",
                vec!["apisix", "admin", "routes", "1"],
            ),
            ("/apisix/admin/routes/", vec!["apisix", "admin", "routes"]),
            ("//apisix//admin", vec!["apisix", "admin"]),
            ("/a%2Eb", vec!["a.b"]),
            ("/secrets/vault%2f1", vec!["secrets", "vault", "1"]),
            ("/a%252fb", vec!["a%2fb"]),
            ("/a+b", vec!["a+b"]),
            ("/", vec![]),
            ("*", vec!["*"]),
        ] {
            assert_eq!(segments(path).unwrap(), expected, "{path}");
        }
    }

    #[test]
    fn path_with_a_broken_escape_is_refused() {
        for path in ["/%", "/%2", "/%zz", "/a%+1", "/%ff", "/%c3%28"] {
            assert_eq!(split(path), Err(PathError), "{path}");
        }
    }

    #[test]
    fn query_gives_the_first_value_decoded() {
        let query = Query::parse("force=true&name=a%2Bb+c&empty&force=false&x=%zz&=v");
        assert_eq!(query.find("force"), Some("true"));
        assert_eq!(query.find("name"), Some("a+b c"));
        assert_eq!(query.find("empty"), Some(""));
        assert_eq!(query.find("x"), Some("%zz"));
        assert_eq!(query.find("absent"), None);
    }

    #[test]
    fn query_shows_no_value() {
        let shown = format!("{:?}", Query::parse("api_key=hunter2"));
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    async fn read(announced: Option<usize>, parts: Vec<Vec<u8>>) -> Result<usize, BodyError> {
        let parts = parts.into_iter().map(|part| Ok(Bytes::from(part)));
        read_body(announced, BODY_BYTES, futures_util::stream::iter(parts))
            .await
            .map(|body| body.len())
    }

    #[test]
    fn objects_that_hold_revocation_lists_may_be_larger() {
        let limit =
            |path: &str| Head::new(Method::PUT, path, "", HeaderMap::default()).body_limit();
        for (path, is_larger) in [
            ("/apisix/admin/ssls/1", true),
            ("/apisix/admin/upstreams", true),
            ("/apisix/admin/routes/ssls", false),
            ("/apisix/admin/routes/1", false),
            ("/apisix/admin/configs/validate", false),
            ("/apisix/admin/configs", true),
            ("/%zz", false),
        ] {
            assert_eq!(limit(path) > BODY_BYTES, is_larger, "{path}");
        }
    }

    #[tokio::test]
    async fn body_of_the_largest_size_is_read() {
        let body = vec![b'1'; BODY_BYTES];
        assert_eq!(
            read(Some(BODY_BYTES), vec![body.clone()]).await.unwrap(),
            BODY_BYTES
        );
        assert_eq!(read(None, vec![body]).await.unwrap(), BODY_BYTES);
    }

    #[tokio::test]
    async fn body_one_byte_larger_is_refused_announced_or_not() {
        let text = "request size 1572865 is greater than the maximum size 1572864 allowed";
        let announced = read(Some(BODY_BYTES + 1), Vec::new()).await.unwrap_err();
        assert_eq!(announced.to_string(), text);
        let chunked = read(None, vec![vec![b'1'; BODY_BYTES], vec![b'1']])
            .await
            .unwrap_err();
        assert_eq!(chunked.to_string(), text);
    }

    #[tokio::test]
    async fn short_rest_of_a_body_is_read_away_and_a_long_one_is_not() {
        let done = async |length: Option<usize>, expect: bool, parts: Vec<Vec<u8>>, ends: bool| {
            let mut headers = HeaderMap::new();
            if let Some(length) = length {
                headers.insert(header::CONTENT_LENGTH, length.into());
            }
            if expect {
                headers.insert(header::EXPECT, "100-continue".parse().unwrap());
            }
            let head = Head::new(Method::PUT, "/", "", headers);
            let parts = parts.into_iter().map(|part| Ok(Bytes::from(part)));
            let parts = futures_util::stream::iter(parts);
            if ends {
                is_done(&head, parts).await
            } else {
                is_done(&head, parts.chain(futures_util::stream::pending())).await
            }
        };
        let short = || vec![vec![b'1'; REST_BYTES]];
        let long = || vec![vec![b'1'; REST_BYTES], vec![b'1']];
        assert!(done(None, false, Vec::new(), true).await);
        assert!(done(Some(REST_BYTES), false, short(), true).await);
        assert!(done(None, false, short(), true).await);
        assert!(!done(Some(REST_BYTES + 1), false, Vec::new(), true).await);
        assert!(!done(None, false, long(), true).await);
        assert!(!done(Some(2), false, vec![vec![b'{']], false).await, "slow");
        assert!(!done(Some(2), true, vec![b"{}".to_vec()], true).await);
    }

    #[test]
    fn json_keeps_order_and_numbers() {
        let text = r#"{"b":1.50,"a":[1e2,18446744073709551616,null,true,"x"],"c":{"b":-1}}"#;
        let value = parse_body(text.as_bytes()).unwrap().unwrap();
        assert_eq!(value.to_string(), text.replace("1e2", "1e+2"));
    }

    #[test]
    fn member_given_twice_is_refused_at_any_depth() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"[{"x":{"client":{},"cl\u0069ent":null}}]"#,
        ] {
            let error = parse_body(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("duplicate member \""), "{error}");
        }
        assert!(parse_body(br#"{"a":{"a":1},"b":[{"a":1},{"a":2}]}"#).is_ok());
    }

    #[test]
    fn member_that_would_be_read_as_a_number_is_refused() {
        for text in [
            r#"{"$serde_json::private::Number":"12"}"#,
            r#"{"$serde_json\u003a:private::Number":"12"}"#,
            r#"{"a":[{"$serde_json::private::Number":12}]}"#,
            r#"{"$serde_json::private::Number":{}}"#,
            r#"{"a":1,"$serde_json::private::Number":"\u0031"}"#,
        ] {
            assert!(parse_body(text.as_bytes()).is_err(), "{text}");
        }
        for text in [r#"{"a":[1,1.5,-1e99,0]}"#, r#"{"$serde_json":"12"}"#, "12"] {
            assert!(parse_body(text.as_bytes()).is_ok(), "{text}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused_without_quoting_it() {
        for text in [
            "{",
            "SECRET",
            "{\"a\":SECRET}",
            "\"SECRET",
            "{}SECRET",
            "\u{feff}{}",
            " ",
        ] {
            let error = parse_body(text.as_bytes()).unwrap_err();
            assert!(!error.to_string().contains("SECRET"), "{error}");
        }
        assert!(parse_body(b"").unwrap().is_none());
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert!(parse_body(deep(100).as_bytes()).is_ok());
        assert!(parse_body(deep(100_000).as_bytes()).is_err());
    }
}
