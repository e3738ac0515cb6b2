//! What changes between the client's message and the upstream's, and back.
//!
//! Hop-by-hop headers end here (RFC 9110 §7.6.1). Identity headers that a client sends are
//! stripped from every request, in every spelling, before any of ours is set.

use http::Request;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, Entry, HOST, HeaderMap, HeaderName,
    HeaderValue, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{self, PathAndQuery};
use smallvec::SmallVec;

use crate::failure::Reason;
use crate::http2::Group;
use crate::matching::authority::Authority;
use crate::proxy::authority::LastHost;
use crate::proxy::error::Refusal;
use crate::proxy::forwarded::X_REAL_IP;

/// Header lines that were taken out of a message.
pub type Taken = Vec<(HeaderName, HeaderValue)>;

/// What one look at a request's headers tells: most have little of what must be looked after.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look {
    /// It is one of gRPC (gRPC over HTTP/2, "Requests").
    pub is_grpc: bool,
    /// Its client waits for a word to send the body.
    pub expects: bool,
    /// It may ask to go over to another protocol.
    pub has_upgrade: bool,
    /// It went through gateways that say so.
    pub has_loop: bool,
    /// It says how its body is coded on the way.
    pub has_coding: bool,
    /// It says what type its content is.
    pub has_type: bool,
    /// It says its type more than once.
    has_types: bool,
    /// It says which transfer codings are taken, as every request of gRPC does.
    pub has_te: bool,
    /// Others of its headers end here.
    has_ending: bool,
    /// It says what only we say.
    has_ours: bool,
}

impl Look {
    /// Whether [`Forwarded`](crate::proxy::forwarded::Forwarded) may say what is to be said of it.
    #[must_use]
    pub fn may_have_forwarded(self) -> bool {
        !self.has_ours
    }

    /// Looks at a request's headers.
    #[must_use]
    pub fn at(headers: &HeaderMap) -> Self {
        let mut look = Self::default();
        for (name, value) in headers {
            let name = name.as_str();
            match name {
                "content-type" => {
                    // The first line counts.
                    look.is_grpc |= !look.has_type && is_grpc(value.as_bytes());
                    look.has_types |= look.has_type;
                    look.has_type = true;
                }
                "te" => {
                    look.has_te = true;
                    continue;
                }
                "expect" => look.expects = true,
                "upgrade" => look.has_upgrade = true,
                "cdn-loop" => look.has_loop = true,
                "transfer-encoding" => look.has_coding = true,
                _ => {}
            }
            look.has_ending |= ends_at_upstream(name);
            look.has_ours |= is_ours(name);
        }
        look
    }
}

/// Turns a client's headers into the upstream's, which speaks HTTP/2 or not, all but the forwarded
/// ones: [`forward`](crate::proxy::forwarded::forward) or
/// [`Forwarded`](crate::proxy::forwarded::Forwarded) say those. Host becomes the authority in its
/// canonical form, which `last` may have at hand.
///
/// # Errors
/// `AuthorityInvalid`, if the authority is no header value.
pub fn to_upstream(
    headers: &mut HeaderMap,
    look: Look,
    authority: &Authority,
    last: &LastHost,
    is_http2: bool,
) -> Result<Changed, Reason> {
    let mut taken = Taken::new();
    // In HTTP/2 TE is written as ours, whatever the client said.
    if look.has_ending || look.has_te && !is_http2 {
        strip(headers, ends_at_upstream, |name, line| {
            taken.push((name.clone(), line));
        });
    }
    join_cookies(headers);
    if look.has_types
        && let Some(first) = headers.remove(CONTENT_TYPE)
    {
        // Its route was found by the first line, and by no other is its body to be read.
        headers.insert(CONTENT_TYPE, first);
    }
    let canonical = || {
        let line = last.line(authority);
        let line = line.or_else(|| text_value(authority.as_str()));
        line.ok_or(Reason::AuthorityInvalid)
    };
    let host = match headers.get_mut(HOST) {
        Some(line) if line.as_bytes() == authority.as_str().as_bytes() => None,
        Some(line) => Some(std::mem::replace(line, canonical()?)),
        None => {
            headers.insert(HOST, canonical()?);
            None
        }
    };
    Ok(Changed { taken, host })
}

/// What [`to_upstream`] changed.
#[derive(Debug)]
pub struct Changed {
    /// What was taken out.
    pub taken: Taken,
    /// Host as it was sent, where it is written otherwise now.
    pub host: Option<HeaderValue>,
}

/// Whether `own`, a name in lower case, is `name` with some `_` for `-`.
#[must_use]
pub fn is_spelling_of(own: &str, name: &str) -> bool {
    own.len() == name.len()
        && own
            .bytes()
            .zip(name.bytes())
            .all(|(byte, wanted)| byte == wanted || (byte == b'_' && wanted == b'-'))
}

/// Takes out of a client's trailers what its headers may not have either, and what only they may have.
pub fn trailers_to_upstream(trailers: &mut HeaderMap) {
    strip(
        trailers,
        |name| {
            is_hop_by_hop(name)
                || is_of_a_head(name)
                || name == "forwarded"
                || is_ours(name)
                || is_identity(name)
        },
        |_name, _line| {},
    );
}

/// The trailers that an answer's head announced, by name, as Trailer says them (RFC 9110 §6.6.2): those
/// that may go to the client. It is an extension of an answer that has room for them.
#[derive(Clone, Debug)]
pub struct Announced(pub HeaderValue);

/// Turns an upstream's headers into ours for the client. What they announced of trailers ends here as
/// well, and is handed back for who is to be told of it.
pub fn to_downstream(headers: &mut HeaderMap) -> Option<Announced> {
    let mut lines = Vec::new();
    strip(headers, is_hop_by_hop, |name, line| {
        if name == TRAILER {
            lines.push(line);
        }
    });
    let lines = lines.iter().filter_map(|line| line.to_str().ok());
    let names = lines.flat_map(|line| line.split(',')).map(str::trim);
    let names: Vec<&str> = names
        .filter(|name| {
            let name = HeaderName::from_bytes(name.as_bytes());
            name.is_ok_and(|name| !is_no_trailer(name.as_str()))
        })
        .collect();
    if names.is_empty() {
        return None;
    }
    text_value(&names.join(", ")).map(Announced)
}

/// Whether all of an upstream's fields may go to the client: none is of one hop.
#[must_use]
pub fn passes_downstream(fields: &Group) -> bool {
    let mut fields = fields.fields();
    !fields.any(|(name, _)| is_hop_by_hop(name.as_str()))
}

/// The same for its trailers.
#[must_use]
pub fn passes_downstream_behind(fields: &Group) -> bool {
    let mut fields = fields.fields();
    !fields.any(|(name, _)| is_no_trailer(name.as_str()))
}

/// Turns an upstream's trailers into ours for the client.
pub fn trailers_to_downstream(trailers: &mut HeaderMap) {
    strip(trailers, is_no_trailer, |_name, _line| {});
}

/// Whether an upstream's trailers never have it.
fn is_no_trailer(name: &str) -> bool {
    is_hop_by_hop(name) || is_of_a_head(name)
}

/// Whether it says how a message is framed or whom it is for, which trailers may not (RFC 9110
/// §6.5.1): libraries of HTTP/2 take a length behind the content for a malformed message.
fn is_of_a_head(name: &str) -> bool {
    name == "content-length" || name == "host"
}

/// Whether a message's body is framed in one way that is understood here: by its length, or by
/// `chunked` alone (RFC 9112 §6.1, §6.3; as nginx, for messages of either side).
#[must_use]
pub fn is_plainly_framed(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else {
        return true;
    };
    codings.next().is_none()
        && coding
            .as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(b"chunked")
}

/// A header value of a text that is one by construction; `None` if it is not.
#[must_use]
pub fn text_value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok()
}

/// HTTP/2 clients may send each cookie in a line of its own; HTTP/1.1 has one line
/// (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    // Most requests repeat no name at all.
    if headers.len() == headers.keys_len() || headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let lines: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(line) = HeaderValue::from_bytes(&lines.join(&b"; "[..])) {
        headers.insert(COOKIE, line);
    }
}

/// Removes what Connection names, and every header whose name `ends` here; `take` gets those lines.
fn strip(
    headers: &mut HeaderMap,
    ends: impl Fn(&str) -> bool,
    mut take: impl FnMut(&HeaderName, HeaderValue),
) {
    // Of most messages it is none or one.
    let mut found: SmallVec<[HeaderName; 2]> = SmallVec::new();
    for (name, value) in headers.iter() {
        if !ends(name.as_str()) {
            continue;
        }
        if name == CONNECTION {
            found.extend(named_by(value));
        }
        found.push(name.clone());
    }
    for name in found {
        if let Entry::Occupied(entry) = headers.entry(&name) {
            let (_, lines) = entry.remove_entry_mult();
            lines.for_each(|line| take(&name, line));
        }
    }
    debug_assert!(
        !headers.contains_key(UPGRADE),
        "an upgrade never passes unasked"
    );
}

/// The headers that a line of Connection names (RFC 9110 §7.6.1).
fn named_by(connection: &HeaderValue) -> impl Iterator<Item = HeaderName> {
    let is_own = |text: &str| says_only(text.as_bytes()).is_some();
    let line = connection.to_str().unwrap_or_default();
    let line = Some(line).filter(|line| !is_own(line));
    let tokens = line.into_iter().flat_map(|line| line.split(','));
    tokens
        .map(str::trim)
        .filter(move |token| !is_own(token))
        .filter_map(|token| token.parse().ok())
        // What the message cannot do without is not a client's to remove.
        .filter(|name| name != HOST && name != CONTENT_LENGTH)
}

/// What a connection becomes behind its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Going {
    /// It goes on.
    On,
    /// It ends.
    Ends,
}

/// What Connection says where it says nothing else, which is nearly always.
#[must_use]
pub fn says_only(connection: &[u8]) -> Option<Going> {
    match connection.len() {
        10 if connection.eq_ignore_ascii_case(b"keep-alive") => Some(Going::On),
        5 if connection.eq_ignore_ascii_case(b"close") => Some(Going::Ends),
        _ => None,
    }
}

/// Whether a header says what only we say.
fn is_ours(name: &str) -> bool {
    name.starts_with("x-") && (name == X_REAL_IP || name.starts_with("x-forwarded-"))
}

/// Whether a header of a request goes no further.
fn ends_at_upstream(name: &str) -> bool {
    is_hop_by_hop(name) || name == "forwarded" || is_identity(name)
}

fn is_grpc(content_type: &[u8]) -> bool {
    let rest = content_type.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// Checks the size of a head as HTTP/2 counts it: each name and value, and 32 for each field (RFC 9113
/// §6.5.2). In HTTP/1.1 hyper does.
///
/// # Errors
/// It is larger than `limit`.
pub fn check_size<B>(req: &Request<B>, limit: usize) -> Result<(), Refusal> {
    const OF_FIELD: usize = 32;
    let uri = req.uri();
    let pseudo = [
        (":method", req.method().as_str()),
        (":scheme", uri.scheme_str().unwrap_or_default()),
        (
            ":authority",
            uri.authority().map_or("", uri::Authority::as_str),
        ),
        (
            ":path",
            uri.path_and_query().map_or("", PathAndQuery::as_str),
        ),
    ];
    let pseudo = pseudo.iter().map(|(name, value)| name.len() + value.len());
    let fields = req.headers().iter();
    let fields = fields.map(|(name, value)| name.as_str().len() + value.len());
    let size: usize = pseudo.chain(fields).map(|size| size + OF_FIELD).sum();
    if size <= limit {
        return Ok(());
    }
    Err(Refusal::new(
        Reason::RequestHeadTooLarge,
        format!("its head has {size} bytes, more than {limit}"),
    ))
}

/// Whether a header is of one hop only, besides those that Connection names. `expect` is answered
/// here.
#[must_use]
pub fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "expect"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Whether a header claims a certificate's identity: `X-Forwarded-Client-Cert` (Envoy),
/// `Client-Cert` and `Client-Cert-Chain` (RFC 9440), `X-SSL-…`, `SSL-Client-…` (nginx recipes),
/// `X-Client-Cert…`, with `_` read as `-`, as many upstreams do. Names arrive in lower case.
#[must_use]
pub fn is_identity(name: &str) -> bool {
    if !matches!(name.as_bytes().first(), Some(b'c' | b's' | b'x')) {
        return false;
    }
    // Another spelling of what we set below would stand beside it.
    if name.contains('_') {
        let dashed = name.replace('_', "-");
        if dashed == "x-real-ip" || dashed.starts_with("x-forwarded-") {
            return true;
        }
    }
    let starts = |prefix: &str| {
        name.len() >= prefix.len()
            && name
                .bytes()
                .zip(prefix.bytes())
                .all(|(byte, wanted)| byte == wanted || (byte == b'_' && wanted == b'-'))
    };
    [
        "x-forwarded-client-cert",
        "client-cert",
        "x-ssl-",
        "ssl-client-",
        "x-client-cert",
    ]
    .into_iter()
    .any(starts)
}

#[cfg(test)]
pub(super) mod tests {
    use http::header::TE;

    use super::*;
    use crate::proxy::forwarded::{Via, forward};
    use crate::proxy::loops::Mark;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }

    pub(in crate::proxy) fn via() -> Via {
        Via::new(
            "192.0.2.7:4711".parse().unwrap(),
            "127.0.0.1:9443".parse().unwrap(),
            true,
        )
    }

    pub(in crate::proxy) fn sent(lines: &[(&str, &str)]) -> HeaderMap {
        sent_to(&Authority::parse(b"a.example").unwrap(), lines)
    }

    pub(in crate::proxy) fn sent_to(authority: &Authority, lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = map(lines);
        let mark = Mark::new("0a1b").unwrap();
        let look = Look::at(&headers);
        let changed =
            to_upstream(&mut headers, look, authority, &LastHost::default(), false).unwrap();
        forward(&mut headers, &via(), authority, &changed, &mark).unwrap();
        headers
    }

    #[test]
    fn what_a_client_says_in_our_place_is_replaced_there() {
        for name in ["x-forwarded-for", "x-real-ip", "x-forwarded-proto"] {
            assert!(
                !Look::at(&map(&[(name, "1")])).may_have_forwarded(),
                "{name}"
            );
        }
        for name in ["x-request-id", "cdn-loop", "x-forwarded", "forwarded"] {
            assert!(
                Look::at(&map(&[(name, "1")])).may_have_forwarded(),
                "{name}"
            );
        }
    }

    #[test]
    fn first_content_type_tells_a_request_of_grpc() {
        let types = |types: &[&'static str]| {
            let lines: Vec<_> = types.iter().map(|it| ("content-type", *it)).collect();
            Look::at(&map(&lines)).is_grpc
        };
        for is in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc;x",
        ] {
            assert!(types(&[is]) && !types(&["text/plain", is]), "{is}");
        }
        for other in ["application/grpc-web", "text/plain", ""] {
            assert!(!types(&[other]), "{other}");
        }
    }

    #[test]
    fn what_connection_says_of_the_connection_alone_names_no_header() {
        assert_eq!(says_only(b"Keep-Alive"), Some(Going::On));
        assert_eq!(says_only(b"CLOSE"), Some(Going::Ends));
        for other in [&b"close, x"[..], b"", b"upgrade", b"close ", b"keepXalive"] {
            assert_eq!(says_only(other), None, "{other:?}");
        }
        for line in ["close, x-a", "x-a, keep-alive", "x-a"] {
            let headers = sent(&[("connection", line), ("x-a", "1"), ("close", "1")]);
            assert!(
                !headers.contains_key("x-a") && headers.contains_key("close"),
                "{line}"
            );
        }
    }

    #[test]
    fn identity_headers_are_stripped_in_every_spelling() {
        for name in [
            "X-Forwarded-Client-Cert",
            "x_forwarded_client_cert",
            "Client-Cert",
            "Client_Cert",
            "Client-Cert-Chain",
            "X-SSL-Client-S-DN",
            "X_SSL_Client_Verify",
            "SSL-Client-Verify",
            "ssl_client_s_dn",
            "X-Client-Cert",
            "X_Real_IP",
            "X_Forwarded_For",
        ] {
            assert!(!sent(&[(name, "forged")]).contains_key(name), "{name}");
        }
        for name in ["X-Request-Id", "Client-Id", "X-Sslx", "Cookie"] {
            assert!(sent(&[(name, "kept")]).contains_key(name), "{name}");
        }
    }

    #[test]
    fn hop_by_hop_headers_end_here() {
        let headers = sent(&[
            ("connection", "keep-alive, X-Hop"),
            ("x-hop", "1"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("expect", "100-continue"),
            ("transfer-encoding", "chunked"),
            ("x-end", "1"),
        ]);
        for name in [
            "connection",
            "x-hop",
            "te",
            "upgrade",
            "expect",
            "transfer-encoding",
        ] {
            assert!(!headers.contains_key(name), "{name}");
        }
        assert!(headers.contains_key("x-end"));
    }

    #[test]
    fn te_alone_is_left_where_it_is_not_written() {
        let authority = Authority::parse(b"a.example").unwrap();
        for (lines, is_http2, is_left) in [
            (&[("te", "trailers")][..], true, true),
            (&[("te", "trailers")], false, false),
            (&[("te", "trailers"), ("trailer", "x")], true, false),
        ] {
            let mut headers = map(lines);
            let look = Look::at(&headers);
            let changed = to_upstream(
                &mut headers,
                look,
                &authority,
                &LastHost::default(),
                is_http2,
            )
            .unwrap();
            assert_eq!(headers.contains_key(TE), is_left, "{lines:?}");
            let taken = changed.taken.iter().any(|(name, _)| name == TE);
            assert_eq!(taken, !is_left, "{lines:?}");
        }
    }

    #[test]
    fn trailers_have_nothing_that_only_a_head_may_say() {
        for turn in [trailers_to_upstream, trailers_to_downstream] {
            let mut trailers = HeaderMap::new();
            for name in ["content-length", "host", "te", "grpc-status"] {
                trailers.insert(name, HeaderValue::from_static("1"));
            }
            turn(&mut trailers);
            let left: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
            assert_eq!(left, ["grpc-status"]);
        }
        for (name, passes) in [
            ("content-length", false),
            ("te", false),
            ("grpc-status", true),
        ] {
            let fields = [("a", "b"), (name, "1")];
            let fields =
                fields.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            assert_eq!(passes_downstream_behind(&Group::new(fields)), passes);
        }
    }

    #[test]
    fn a_body_is_framed_by_its_length_or_by_chunked_alone() {
        let framed = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(TRANSFER_ENCODING, line.parse().unwrap());
            }
            is_plainly_framed(&headers)
        };
        assert!(framed(&[]));
        assert!(framed(&["chunked"]));
        assert!(framed(&["Chunked "]));
        for other in ["gzip, chunked", "chunked, chunked", "gzip", "", "identity"] {
            assert!(!framed(&[other]), "{other:?}");
        }
        assert!(!framed(&["chunked", "chunked"]));
    }

    #[test]
    fn first_content_type_is_the_one_that_is_sent() {
        let headers = sent(&[
            ("content-type", "text/plain"),
            ("content-type", "application/json"),
        ]);
        let types: Vec<_> = headers.get_all(CONTENT_TYPE).iter().collect();
        assert_eq!(types, ["text/plain"]);
    }

    #[test]
    fn cookies_of_several_lines_become_one() {
        let headers = sent(&[("cookie", "a=1"), ("cookie", "b=2")]);
        assert_eq!(headers.get_all("cookie").iter().count(), 1);
        assert_eq!(headers["cookie"], "a=1; b=2");
    }

    #[test]
    fn connection_cannot_remove_what_the_message_needs() {
        let headers = sent(&[
            ("connection", "host, content-length"),
            ("host", "a.example"),
            ("content-length", "3"),
        ]);
        assert_eq!(headers["host"], "a.example");
        assert_eq!(headers["content-length"], "3");
    }
}
