//! Addresses to listen on: how they are written, and which of them get in each other's way.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// One address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenAddr {
    /// The address; port 0 lets the system choose. An IPv6 socket is to be opened v6only.
    pub addr: SocketAddr,
    /// Whether it may be left out where the machine lacks its address family: the IPv6 half of a
    /// default or of `9080`, `*:9080`, `localhost:9080`. An address written out is never left out.
    pub is_optional: bool,
}

impl ListenAddr {
    /// Whether only this machine can reach it.
    #[must_use]
    pub const fn is_loopback(self) -> bool {
        self.addr.ip().is_loopback()
    }

    /// The two halves of a default: one port on an IPv4 and on an IPv6 address.
    pub(super) fn both(v4: Ipv4Addr, v6: Ipv6Addr, port: u16) -> Vec<Self> {
        vec![
            Self {
                addr: SocketAddr::new(IpAddr::V4(v4), port),
                is_optional: false,
            },
            Self {
                addr: SocketAddr::new(IpAddr::V6(v6), port),
                is_optional: true,
            },
        ]
    }

    /// All addresses of the machine.
    pub(super) fn everywhere(port: u16) -> Vec<Self> {
        Self::both(Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED, port)
    }

    /// This machine only.
    pub(super) fn here(port: u16) -> Vec<Self> {
        Self::both(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST, port)
    }

    /// Parses `9080`, `*:9080`, `localhost:9080`, `10.0.0.1:9080` or `[::1]:9080`.
    pub(super) fn parse(text: &str) -> Option<Vec<Self>> {
        if let Some(port) = parse_port(text.strip_prefix("*:").unwrap_or(text)) {
            return Some(Self::everywhere(port));
        }
        if let Some(port) = text.strip_prefix("localhost:") {
            return parse_port(port).map(Self::here);
        }
        let addr = text.parse().ok()?;
        Some(vec![Self {
            addr,
            is_optional: false,
        }])
    }

    /// Whether both cannot be told apart by the kernel: the same port and family, and the same
    /// address or one that stands for all. `SO_REUSEPORT` would let both be opened.
    pub(super) fn overlaps(self, other: Self) -> bool {
        let (a, b) = (self.addr, other.addr);
        a.port() == b.port()
            && a.port() != 0
            && a.is_ipv4() == b.is_ipv4()
            && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.addr.fmt(f)
    }
}

fn parse_port(text: &str) -> Option<u16> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Option<String> {
        let addrs = ListenAddr::parse(text)?;
        Some(
            addrs
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" "),
        )
    }

    #[test]
    fn address_is_parsed_in_each_form() {
        for (text, expected) in [
            ("9080", "0.0.0.0:9080 [::]:9080"),
            ("*:9080", "0.0.0.0:9080 [::]:9080"),
            ("localhost:1", "127.0.0.1:1 [::1]:1"),
            ("10.0.0.1:0", "10.0.0.1:0"),
            ("[::1]:9080", "[::1]:9080"),
        ] {
            assert_eq!(shown(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "*",
            "*:",
            "+9",
            "99999",
            "example.com:80",
            "10.0.0.1",
            "::1:80",
            "[::1]",
            "localhost",
        ] {
            assert_eq!(shown(text), None, "{text}");
        }
    }

    #[test]
    fn address_that_stands_for_all_overlaps_its_own_family_only() {
        let one = |text: &str| ListenAddr::parse(text).unwrap().remove(0);
        assert!(one("0.0.0.0:1").overlaps(one("127.0.0.1:1")));
        assert!(one("127.0.0.1:1").overlaps(one("127.0.0.1:1")));
        assert!(!one("0.0.0.0:1").overlaps(one("[::]:1")));
        assert!(!one("127.0.0.2:1").overlaps(one("127.0.0.1:1")));
        assert!(!one("0.0.0.0:0").overlaps(one("0.0.0.0:0")));
    }
}
