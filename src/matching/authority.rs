//! The authority of a request: the one reading of Host or target that everything else sees.
//!
//! Comparison with the connection's name, routing and `pass_host` all take an [`Authority`], so
//! that no two of them can read the same bytes differently. Which header it comes from, and the
//! refusal of two of them, is the proxy's business.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use super::name::{NAME_BYTES_MAX, NameError, check_name, cut_dot, parse_ipv4};
use super::sni::SniName;

/// `host`, one dot, `:` and five digits.
const RAW_BYTES_MAX: usize = NAME_BYTES_MAX + 7;

/// A request's host and port in canonical spelling.
///
/// Lower case, no trailing dot, IPv6 in brackets and in RFC 5952 spelling. Two authorities are
/// equal exactly when their canonical texts are; a default port is not added or removed.
///
/// ```
/// use portcullis::matching::authority::Authority;
///
/// let authority = Authority::parse(b"Shop.Example.COM.:8443").unwrap();
/// assert_eq!(authority.as_str(), "shop.example.com:8443");
/// assert_eq!(authority.host(), "shop.example.com");
/// assert_eq!(authority.port(), Some(8443));
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Authority {
    /// Canonical `host[:port]`.
    text: Arc<str>,
    /// Bytes of `text` that are the host. Invariant: at a character boundary (all is ASCII).
    host_bytes: usize,
    port: Option<u16>,
    ip: Option<IpAddr>,
}

/// Why bytes are not an authority; the request is answered 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// No byte at all.
    #[error("the authority is empty")]
    Empty,
    /// Contains `@`: user information has no place in HTTP (RFC 9110, section 4.2.4).
    #[error("the authority contains user information")]
    Userinfo,
    /// The port is empty, zero, above 65535, no number, or starts with a zero.
    #[error("the authority's port is not a number from 1 to 65535")]
    Port,
    /// Brackets without an IPv6 address in them, or text after them that is no port.
    #[error("the authority's bracketed part is not an IPv6 address")]
    Ipv6,
    /// The host is no host name.
    #[error("the authority's host is malformed")]
    Host(#[from] NameError),
}

impl Authority {
    /// Reads a Host field value, an `:authority`, or the authority of an absolute target.
    ///
    /// Stricter than RFC 3986: of the registered-name characters only letters, digits, `-` and
    /// `_` pass; percent escapes, zone ids and future IP literals are refused, and so are numbers
    /// that only some resolvers read as an address (`127.1`). One allocation, for a bracketed
    /// IPv6 address two; clones share it.
    ///
    /// # Errors
    /// [`AuthorityError`], for the first fault found.
    pub fn parse(raw: &[u8]) -> Result<Self, AuthorityError> {
        if raw.is_empty() {
            return Err(AuthorityError::Empty);
        }
        if raw.contains(&b'@') {
            return Err(AuthorityError::Userinfo);
        }
        if raw.len() > RAW_BYTES_MAX {
            return Err(NameError::TooLong.into());
        }
        if let Some(rest) = raw.strip_prefix(b"[") {
            return Self::parse_bracketed(rest);
        }
        let (host, port_text) = match raw.iter().position(|byte| *byte == b':') {
            Some(colon) => raw.split_at(colon),
            None => (raw, b"".as_slice()),
        };
        let host = cut_dot(host);
        let port = parse_port(port_text)?;
        let ip = parse_ipv4(host);
        if ip.is_none() {
            check_name(host)?;
        }
        Ok(Self::join(host, port_text, port, ip.map(IpAddr::V4)))
    }

    fn parse_bracketed(rest: &[u8]) -> Result<Self, AuthorityError> {
        let close = rest.iter().position(|byte| *byte == b']');
        let (inside, after) = rest.split_at(close.ok_or(AuthorityError::Ipv6)?);
        let port_text = after.strip_prefix(b"]").unwrap_or(after);
        if !port_text.is_empty() && !port_text.starts_with(b":") {
            return Err(AuthorityError::Ipv6);
        }
        let address = std::str::from_utf8(inside)
            .ok()
            .and_then(|text| text.parse::<Ipv6Addr>().ok())
            .ok_or(AuthorityError::Ipv6)?;
        let port = parse_port(port_text)?;
        let host = format!("[{address}]");
        Ok(Self::join(
            host.as_bytes(),
            port_text,
            port,
            Some(IpAddr::V6(address)),
        ))
    }

    /// Puts checked parts together. Both texts are ASCII and together at most `RAW_BYTES_MAX`.
    fn join(host: &[u8], port_text: &[u8], port: Option<u16>, ip: Option<IpAddr>) -> Self {
        let mut line = [0_u8; RAW_BYTES_MAX];
        let bytes = host.iter().chain(port_text);
        for (slot, byte) in line.iter_mut().zip(bytes) {
            *slot = byte.to_ascii_lowercase();
        }
        debug_assert!(host.len() + port_text.len() <= RAW_BYTES_MAX);
        let (text, _) = line.split_at(RAW_BYTES_MAX.min(host.len() + port_text.len()));
        Self {
            text: Arc::from(String::from_utf8_lossy(text).as_ref()),
            host_bytes: host.len(),
            port,
            ip,
        }
    }

    /// The host: lower case, no trailing dot, IPv6 in brackets. What routes and names compare.
    pub fn host(&self) -> &str {
        self.text.get(..self.host_bytes).unwrap_or(&self.text)
    }

    /// The port as sent; `None` when the request left it to the scheme.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The host as an address, when it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.ip
    }

    /// The canonical `host[:port]`, fit for a Host header.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// True when both name the same host and port, an absent port counting as `default_port`.
    ///
    /// For an absolute target against its Host (RFC 9112, section 3.2.2).
    pub fn same_ignoring_default_port(&self, other: &Self, default_port: u16) -> bool {
        self.host() == other.host()
            && self.port.unwrap_or(default_port) == other.port.unwrap_or(default_port)
    }
}

/// For HTTP/1.0 without Host, where the connection's SNI stands in.
impl From<&SniName> for Authority {
    fn from(name: &SniName) -> Self {
        Self {
            text: Arc::from(name.as_str()),
            host_bytes: name.as_str().len(),
            port: None,
            ip: None,
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({})", self.text)
    }
}

/// Reads `""` or `:port`. A leading zero is refused: one port has one spelling.
fn parse_port(text: &[u8]) -> Result<Option<u16>, AuthorityError> {
    let Some(digits) = text.strip_prefix(b":") else {
        return Ok(None);
    };
    let plain = digits.iter().all(u8::is_ascii_digit) && !digits.starts_with(b"0");
    std::str::from_utf8(digits)
        .ok()
        .filter(|_| plain)
        .and_then(|digits| digits.parse().ok())
        .map(Some)
        .ok_or(AuthorityError::Port)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Authority, AuthorityError> {
        Authority::parse(text.as_bytes())
    }

    #[test]
    fn parts_of_an_authority_are_canonical() {
        let v6 = |text: &str| Some(IpAddr::V6(text.parse().unwrap()));
        let v4 = |text: &str| Some(IpAddr::V4(text.parse().unwrap()));
        for (raw, text, host, port, ip) in [
            ("a.com", "a.com", "a.com", None, None),
            ("A.COM.", "a.com", "a.com", None, None),
            ("a.com:80", "a.com:80", "a.com", Some(80), None),
            ("a.com.:80", "a.com:80", "a.com", Some(80), None),
            ("x_y-z:65535", "x_y-z:65535", "x_y-z", Some(65535), None),
            ("10.0.0.1", "10.0.0.1", "10.0.0.1", None, v4("10.0.0.1")),
            (
                "10.0.0.1.:9",
                "10.0.0.1:9",
                "10.0.0.1",
                Some(9),
                v4("10.0.0.1"),
            ),
            ("[::1]", "[::1]", "[::1]", None, v6("::1")),
            ("[0:0::1]:443", "[::1]:443", "[::1]", Some(443), v6("::1")),
            ("[FE80::A]", "[fe80::a]", "[fe80::a]", None, v6("fe80::a")),
        ] {
            let authority = parse(raw).unwrap();
            assert_eq!(authority.as_str(), text, "{raw}");
            assert_eq!(authority.host(), host, "{raw}");
            assert_eq!(authority.port(), port, "{raw}");
            assert_eq!(authority.ip(), ip, "{raw}");
        }
    }

    #[test]
    fn malformed_authorities_are_refused_with_their_reason() {
        for (raw, error) in [
            ("", AuthorityError::Empty),
            ("user@a.com", AuthorityError::Userinfo),
            ("@", AuthorityError::Userinfo),
            ("a.com:", AuthorityError::Port),
            ("a.com:0", AuthorityError::Port),
            ("a.com:080", AuthorityError::Port),
            ("a.com:65536", AuthorityError::Port),
            ("a.com:+80", AuthorityError::Port),
            ("a.com:80:80", AuthorityError::Port),
            ("a.com:8o", AuthorityError::Port),
            ("[::1", AuthorityError::Ipv6),
            ("[]", AuthorityError::Ipv6),
            ("[::1]x", AuthorityError::Ipv6),
            ("[::1].", AuthorityError::Ipv6),
            ("[::1%25eth0]", AuthorityError::Ipv6),
            ("[v1.x]", AuthorityError::Ipv6),
            ("[1.2.3.4]", AuthorityError::Ipv6),
            ("[::1]:", AuthorityError::Port),
            (":80", NameError::Empty.into()),
            ("::1", AuthorityError::Port),
            (".", NameError::Empty.into()),
            ("a.com..", NameError::EmptyLabel.into()),
            ("a..com", NameError::EmptyLabel.into()),
            ("a com", NameError::Character(b' ').into()),
            (" a.com", NameError::Character(b' ').into()),
            ("a\0.com", NameError::Character(0).into()),
            ("a%2ecom", NameError::Character(b'%').into()),
            ("a.com/", NameError::Character(b'/').into()),
            ("a,b", NameError::Character(b',').into()),
            ("a]", NameError::Character(b']').into()),
            ("é.com", NameError::Character(0xc3).into()),
            ("127.1", NameError::EndsInNumber.into()),
            ("256.0.0.1", NameError::EndsInNumber.into()),
            ("010.0.0.1", NameError::EndsInNumber.into()),
        ] {
            assert_eq!(parse(raw), Err(error), "{raw:?}");
        }
    }

    #[test]
    fn the_longest_name_passes_and_one_byte_more_does_not() {
        let longest = format!("{}b", "a.".repeat(126));
        assert_eq!(longest.len(), NAME_BYTES_MAX);
        let authority = parse(&format!("{longest}.:65535")).unwrap();
        assert_eq!(authority.as_str(), format!("{longest}:65535"));
        assert_eq!(
            parse(&format!("{longest}b")),
            Err(NameError::TooLong.into())
        );
        assert_eq!(parse(&"a".repeat(10_000)), Err(NameError::TooLong.into()));
    }

    #[test]
    fn default_ports_are_ignored_only_where_asked() {
        let same = |a, b, port| {
            parse(a)
                .unwrap()
                .same_ignoring_default_port(&parse(b).unwrap(), port)
        };
        assert!(same("a.com", "A.com.:443", 443));
        assert!(same("a.com:443", "a.com:443", 80));
        assert!(same("a.com", "a.com", 80));
        assert!(!same("a.com", "a.com:443", 80));
        assert!(!same("a.com:80", "a.com:443", 443));
        assert!(!same("a.com", "b.com", 443));
        assert_ne!(parse("a.com").unwrap(), parse("a.com:443").unwrap());
    }

    #[test]
    fn an_sni_name_gives_the_authority_it_spells() {
        let name = SniName::parse(b"A.example").unwrap();
        assert_eq!(Authority::from(&name), parse("a.example").unwrap());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(raw: Vec<u8>) {
            let _ = Authority::parse(&raw);
        }

        #[test]
        fn parsing_the_canonical_text_changes_nothing(
            raw in r"[a-zA-Z0-9._:\[\]@% -]{0,40}|([a-zA-Z0-9_-]{1,8}\.){0,4}[a-z0-9]{1,6}\.?(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,20}\](:[0-9]{1,5})?"
        ) {
            if let Ok(authority) = parse(&raw) {
                let again = parse(authority.as_str()).unwrap();
                prop_assert_eq!(again.host(), authority.host());
                prop_assert_eq!(again.ip(), authority.ip());
                prop_assert_eq!(again, authority);
            }
        }

        #[test]
        fn spellings_of_one_name_are_equal(
            name in r"([a-z0-9_-]{1,8}\.){0,3}[a-z]{1,6}",
            flips: u64,
            dot: bool,
            port in proptest::option::of(1_u16..),
        ) {
            let tail = port.map(|port| format!(":{port}")).unwrap_or_default();
            let flip = |(at, letter): (usize, char)| match flips >> (at % 64) & 1 {
                1 => letter.to_ascii_uppercase(),
                _ => letter,
            };
            let other: String = name.chars().enumerate().map(flip).collect();
            let other = format!("{other}{}{tail}", if dot { "." } else { "" });
            prop_assert_eq!(parse(&format!("{name}{tail}")).unwrap(), parse(&other).unwrap());
        }
    }
}
