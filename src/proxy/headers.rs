//! What changes between the client's message and the upstream's, and back.
//!
//! Hop-by-hop headers end here (RFC 9110 §7.6.1). Identity headers that a client sends are
//! stripped from every request, in every spelling, before any of ours is set.

use std::net::{IpAddr, SocketAddr};

use http::header::{
    CONNECTION, COOKIE, Entry, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE,
};

use crate::matching::authority::Authority;

const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// Headers of one hop only, besides those that Connection names. `expect` is answered here.
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "expect",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What a request came over, for the forwarded headers.
#[derive(Debug)]
pub struct Via<'a> {
    /// The client.
    pub peer: SocketAddr,
    /// Our address it came to.
    pub local: SocketAddr,
    /// Whether it came over TLS.
    pub tls: bool,
    /// The authority it named.
    pub authority: &'a Authority,
}

/// Turns a client's headers into the upstream's.
pub fn to_upstream(headers: &mut HeaderMap, via: &Via<'_>, host: HeaderValue) {
    strip_hop_by_hop(headers);
    strip_identity(headers);
    headers.remove(FORWARDED);
    join_cookies(headers);
    let peer = ip_value(via.peer.ip());
    append_forwarded_for(headers, &peer);
    headers.insert(X_REAL_IP, peer);
    let scheme = if via.tls { "https" } else { "http" };
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    if let Some(host) = headers
        .remove(HOST)
        .or_else(|| text_value(via.authority.as_str()))
    {
        headers.insert(X_FORWARDED_HOST, host);
    }
    headers.insert(X_FORWARDED_PORT, port_value(via));
    headers.insert(HOST, host);
}

/// Turns an upstream's headers into ours for the client.
pub fn to_downstream(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
}

/// A header value of a text that is one by construction; `None` if it is not.
#[must_use]
pub fn text_value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok()
}

fn ip_value(ip: IpAddr) -> HeaderValue {
    text_value(&ip.to_canonical().to_string()).unwrap_or_else(|| HeaderValue::from_static(""))
}

fn port_value(via: &Via<'_>) -> HeaderValue {
    // The port the client meant; the one it reached us at when it named none.
    HeaderValue::from(via.authority.port().unwrap_or_else(|| via.local.port()))
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

/// HTTP/2 clients may send each cookie in a line of its own; HTTP/1.1 has one line
/// (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
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

/// Removes what concerns this hop only, and what Connection names.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|token| token.trim().parse().ok())
            // What the message cannot do without is not a client's to remove.
            .filter(|name| name != HOST && name != http::header::CONTENT_LENGTH)
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    let found: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_hop_by_hop(name))
        .cloned()
        .collect();
    for name in found {
        headers.remove(name);
    }
    debug_assert!(
        !headers.contains_key(UPGRADE),
        "an upgrade never passes unasked"
    );
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(
        name.as_bytes().first(),
        Some(b'c' | b'e' | b'k' | b'p' | b't' | b'u')
    ) && HOP_BY_HOP.contains(&name)
}

/// Removes every header by which a client could claim a certificate's identity.
fn strip_identity(headers: &mut HeaderMap) {
    let found: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_identity(name.as_str()))
        .cloned()
        .collect();
    for name in found {
        headers.remove(name);
    }
}

/// Whether a header claims a certificate's identity: `X-Forwarded-Client-Cert` (Envoy),
/// `Client-Cert` and `Client-Cert-Chain` (RFC 9440), `X-SSL-…`, `SSL-Client-…` (nginx recipes),
/// `X-Client-Cert…`, with `_` read as `-`, as many upstreams do. Names arrive in lower case.
fn is_identity(name: &str) -> bool {
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
mod tests {
    use super::*;

    fn sent(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let authority = Authority::parse(b"a.example").unwrap();
        let via = Via {
            peer: "192.0.2.7:4711".parse().unwrap(),
            local: "127.0.0.1:9443".parse().unwrap(),
            tls: true,
            authority: &authority,
        };
        to_upstream(&mut headers, &via, HeaderValue::from_static("up.example"));
        headers
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
        assert_eq!(headers["host"], "up.example");
        assert_eq!(headers["content-length"], "3");
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
        assert_eq!(headers["x-forwarded-port"], "9443");
        assert!(!headers.contains_key("forwarded"));
    }
}
