//! Going over to another protocol on a connection of HTTP/1.1 (RFC 9110 §7.8), above all WebSocket.
//!
//! The client asks, the route's `enable_websocket` lets it, the upstream decides: only its 101 makes
//! a tunnel of the two connections. Everywhere else the question is left out of the request, which
//! is then an ordinary one.

use http::header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use http::{Request, Version};

use crate::net::stream::Rewound;
use crate::proxy::body::RequestBody;
use crate::proxy::pool::Open;

/// Protocols that are never asked for: their requests would pass by all that is checked of a
/// request here (h2c), or they speak of the one connection and not of what lies behind it.
const OURS: [&str; 4] = ["h2", "h2c", "http", "tls"];

/// What is left of an upstream's connection once HTTP is over: its bytes.
pub struct Switched {
    /// What came behind the 101, then the connection.
    pub io: Rewound,
    /// Counts it as open.
    pub open: Open,
}

/// The protocols that a request asks to go over to, those that may be asked for, as one value.
///
/// A request with a body asks for none: whose bytes would follow it cannot be told before all of it
/// was sent.
#[must_use]
pub fn asked(req: &Request<RequestBody>) -> Option<HeaderValue> {
    let headers = req.headers();
    if !headers.contains_key(UPGRADE)
        || req.version() != Version::HTTP_11
        || !req.body().is_empty()
        || !tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"))
    {
        return None;
    }
    let kept: Vec<&str> = tokens(headers, &UPGRADE)
        .filter(|token| !is_ours(token))
        .collect();
    if kept.is_empty() {
        return None;
    }
    HeaderValue::from_str(&kept.join(", ")).ok()
}

/// Has a request ask its upstream for these protocols, or for none.
pub fn ask(headers: &mut HeaderMap, protocols: Option<&HeaderValue>) {
    match protocols {
        Some(protocols) => {
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(UPGRADE, protocols.clone());
        }
        None => {
            headers.remove(CONNECTION);
            headers.remove(UPGRADE);
        }
    }
}

/// The protocol that a 101 goes over to, if it is one of those that were asked for.
#[must_use]
pub fn agreed(answer: &HeaderMap, asked: &HeaderValue) -> Option<HeaderValue> {
    let asked = asked.to_str().ok()?;
    let was_asked = |token: &str| {
        asked
            .split(',')
            .any(|asked| asked.trim().eq_ignore_ascii_case(token))
    };
    let mut found = tokens(answer, &UPGRADE).peekable();
    found.peek()?;
    let value = answer.get(UPGRADE)?;
    found.all(was_asked).then(|| value.clone())
}

/// The members of a list that may be given in several lines (RFC 9110 §5.6.1).
fn tokens<'h>(
    headers: &'h HeaderMap,
    name: &http::HeaderName,
) -> impl Iterator<Item = &'h str> + use<'h> {
    let lines = headers.get_all(name).into_iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

fn is_ours(token: &str) -> bool {
    let name = token.split('/').next().unwrap_or(token);
    OURS.iter().any(|ours| name.eq_ignore_ascii_case(ours))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::sweep::Sweep;

    fn question(version: Version, lines: &[(&'static str, &str)]) -> Option<String> {
        let mut req = Request::new(RequestBody::empty(Sweep::new()));
        *req.version_mut() = version;
        for (name, value) in lines {
            req.headers_mut().append(*name, value.parse().unwrap());
        }
        asked(&req).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn what_is_asked_for_is_said_by_two_headers_of_http_1_1() {
        let (v11, up) = (Version::HTTP_11, ("connection", "keep-alive, Upgrade"));
        let ws = Some("websocket".to_owned());
        assert_eq!(question(v11, &[up, ("upgrade", "websocket")]), ws);
        assert_eq!(question(v11, &[("upgrade", "websocket")]), None);
        assert_eq!(question(v11, &[up]), None);
        assert_eq!(
            question(Version::HTTP_10, &[up, ("upgrade", "websocket")]),
            None
        );
    }

    #[test]
    fn http_itself_is_never_asked_for() {
        let up = ("connection", "upgrade, HTTP2-Settings");
        for ours in ["h2c", "H2C", "h2", "HTTP/2.0", "TLS/1.2", "", " , "] {
            assert_eq!(
                question(Version::HTTP_11, &[up, ("upgrade", ours)]),
                None,
                "{ours}"
            );
        }
        let mixed = question(
            Version::HTTP_11,
            &[up, ("upgrade", "h2c, websocket"), ("upgrade", "SPDY/3.1")],
        );
        assert_eq!(mixed.as_deref(), Some("websocket, SPDY/3.1"));
    }

    #[test]
    fn only_what_was_asked_for_is_agreed_on() {
        let asked = HeaderValue::from_static("websocket, SPDY/3.1");
        let answer = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(UPGRADE, line.parse().unwrap());
            }
            agreed(&headers, &asked).is_some()
        };
        assert!(answer(&["WebSocket"]));
        assert!(answer(&["SPDY/3.1"]));
        for other in [
            &[][..],
            &[""],
            &["h2c"],
            &["websocket, h2c"],
            &["websocket", "h2c"],
        ] {
            assert!(!answer(other), "{other:?}");
        }
    }
}
