//! What an upstream is told of the client behind a request: whom the gateway saw, and by which way.

use std::net::SocketAddr;
use std::rc::Rc;

use http::header::{Entry, HOST, HeaderMap, HeaderName, HeaderValue};

use crate::failure::Reason;
use crate::http2::Group;
use crate::matching::authority::Authority;
use crate::proxy::headers::{Changed, text_value};
use crate::proxy::heads;
use crate::proxy::loops::{CDN_LOOP, Mark};

pub(super) const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// What a connection's requests came over, for the forwarded headers: formatted once, sent with each.
#[derive(Debug)]
pub struct Via {
    peer: HeaderValue,
    scheme: HeaderValue,
    port: HeaderValue,
}

impl Via {
    /// `peer` is the client, `local` our address it came to.
    #[must_use]
    pub fn new(peer: SocketAddr, local: SocketAddr, tls: bool) -> Self {
        let peer = text_value(&peer.ip().to_canonical().to_string());
        Self {
            peer: peer.unwrap_or_else(|| HeaderValue::from_static("")),
            scheme: HeaderValue::from_static(if tls { "https" } else { "http" }),
            port: HeaderValue::from(local.port()),
        }
    }

    /// The port the client meant; the one it reached us at when it named none.
    fn port(&self, authority: &Authority) -> HeaderValue {
        let port = authority.port().map(HeaderValue::from);
        port.unwrap_or_else(|| self.port.clone())
    }
}

/// Puts the forwarded headers into an upstream's, and the mark of this gateway. Their Host is what
/// [`to_upstream`](crate::proxy::headers::to_upstream) made of it.
///
/// # Errors
/// `AuthorityInvalid`, if there is none.
pub fn forward(
    headers: &mut HeaderMap,
    via: &Via,
    authority: &Authority,
    changed: &Changed,
    mark: &Mark,
) -> Result<(), Reason> {
    append_forwarded_for(headers, &via.peer);
    headers.insert(X_REAL_IP, via.peer.clone());
    headers.insert(X_FORWARDED_PROTO, via.scheme.clone());
    headers.insert(X_FORWARDED_PORT, via.port(authority));
    let host = changed.host.as_ref().or_else(|| headers.get(HOST));
    let host = host.cloned().ok_or(Reason::AuthorityInvalid)?;
    headers.insert(X_FORWARDED_HOST, host);
    mark.put(headers);
    Ok(())
}

/// What [`forward`] says of a request whose client said nothing of the kind: it is the same for every
/// such request of a connection to one name, and is written behind a request's own headers.
#[derive(Clone, Debug)]
pub enum Forwarded {
    /// As lines of HTTP/1.1.
    Lines(Rc<[u8]>),
    /// As fields of HTTP/2.
    Group(Rc<Group>),
}

impl Forwarded {
    /// What is said of a request for `authority`, whose client writes it as `host`. `None`, if that is
    /// no header value.
    #[must_use]
    pub fn new(
        is_http2: bool,
        via: &Via,
        authority: &Authority,
        host: &[u8],
        mark: &Mark,
    ) -> Option<Self> {
        let fields = [
            (X_FORWARDED_FOR, via.peer.clone()),
            (X_REAL_IP, via.peer.clone()),
            (X_FORWARDED_PROTO, via.scheme.clone()),
            (X_FORWARDED_PORT, via.port(authority)),
            (X_FORWARDED_HOST, HeaderValue::from_bytes(host).ok()?),
            (CDN_LOOP, mark.value().clone()),
        ];
        if is_http2 {
            return Some(Self::Group(Group::new(fields)));
        }
        let mut lines = Vec::with_capacity(256);
        for (name, value) in fields {
            heads::write_line(&mut lines, name.as_str().as_bytes(), value.as_bytes());
        }
        Some(Self::Lines(lines.into()))
    }

    /// Whether it is fields of HTTP/2.
    #[must_use]
    pub fn is_http2(&self) -> bool {
        matches!(self, Self::Group(_))
    }
}

/// What [`to_upstream`](crate::proxy::headers::to_upstream) makes of a header that we observe and do not believe; `None` for others.
/// `name` is in lower case with `-`.
#[must_use]
pub fn observed(name: &str, via: &Via, authority: &Authority) -> Option<HeaderValue> {
    match name {
        "x-real-ip" => Some(via.peer.clone()),
        "x-forwarded-proto" => Some(via.scheme.clone()),
        "x-forwarded-host" => text_value(authority.as_str()),
        "x-forwarded-port" => Some(via.port(authority)),
        _ => None,
    }
}

/// A header line as the client sent it: where they are the upstream's by now, without what
/// [`to_upstream`](crate::proxy::headers::to_upstream) appended.
#[must_use]
pub fn as_sent<'v>(name: &str, line: &'v [u8], via: &Via, is_prepared: bool) -> &'v [u8] {
    if !is_prepared || name != X_FORWARDED_FOR {
        return line;
    }
    let sent = line.strip_suffix(via.peer.as_bytes()).unwrap_or(line);
    sent.strip_suffix(b", ").unwrap_or(sent)
}

fn append_forwarded_for(headers: &mut HeaderMap, peer: &HeaderValue) {
    match headers.entry(X_FORWARDED_FOR) {
        Entry::Vacant(entry) => {
            entry.insert(peer.clone());
        }
        Entry::Occupied(mut entry) => {
            let mut all = Vec::with_capacity(64);
            for value in entry.iter() {
                all.extend_from_slice(value.as_bytes());
                all.extend_from_slice(b", ");
            }
            all.extend_from_slice(peer.as_bytes());
            if let Ok(value) = HeaderValue::from_bytes(&all) {
                entry.insert(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::headers::tests::{sent, sent_to, via};

    #[test]
    fn lines_and_fields_say_what_the_headers_say_where_the_client_said_nothing_of_the_kind() {
        for host in ["a.example", "A.example:8443"] {
            let authority = Authority::parse(host.as_bytes()).unwrap();
            let mut headers = sent_to(&authority, &[("host", host)]);
            headers.remove(HOST);
            let mark = Mark::new("0a1b").unwrap();
            for is_http2 in [false, true] {
                let host = host.as_bytes();
                let said = Forwarded::new(is_http2, &via(), &authority, host, &mark).unwrap();
                let said = match &said {
                    Forwarded::Lines(lines) => {
                        heads::read_trailers(&[lines, &b"\r\n"[..]].concat()).unwrap()
                    }
                    Forwarded::Group(group) => {
                        let fields = group.fields();
                        fields
                            .map(|(name, line)| (name.clone(), line.clone()))
                            .collect()
                    }
                };
                assert_eq!(said, headers, "{authority:?}");
            }
        }
    }

    #[test]
    fn forwarded_headers_say_what_was_observed() {
        let headers = sent(&[
            ("host", "A.example"),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-for", "203.0.113.10"),
            ("x-forwarded-proto", "gopher"),
            ("x-real-ip", "203.0.113.9"),
            ("forwarded", "for=203.0.113.9"),
        ]);
        assert_eq!(
            headers["x-forwarded-for"],
            "203.0.113.9, 203.0.113.10, 192.0.2.7"
        );
        assert_eq!(headers.get_all("x-forwarded-for").iter().count(), 1);
        assert_eq!(headers["x-real-ip"], "192.0.2.7");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-forwarded-host"], "A.example");
        assert_eq!(headers["host"], "a.example");
        assert_eq!(headers["x-forwarded-port"], "9443");
        assert!(!headers.contains_key("forwarded"));
    }
}
