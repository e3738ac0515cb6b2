//! The only dialer: resolve, connect, shake hands, under one deadline.

pub(super) mod dns;

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::failure::Reason;
use crate::net::resolve::Resolver;
use crate::net::stream::Stream;
use crate::net::sweep::{Sweep, Until};
use crate::telemetry::metrics::Metrics;
use crate::tls::socket::{Activity, Socket};
use crate::tls::stream::TlsStream;
use crate::tls::upstream::{Protocol, ServerName, UpstreamConnector};

/// Towards upstreams HTTP/2 is all that is ever offered.
const NOT_HTTP2: &str = "the upstream did not agree on HTTP/2, offered by ALPN as `h2`";

/// A connection that could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct DialError {
    /// Why.
    pub reason: Reason,
    /// The system's or OpenSSL's words, for the record.
    pub detail: String,
}

/// A handshake that failed.
pub(super) struct Refused {
    /// Why.
    pub(super) error: DialError,
    /// The connection as far as it came.
    pub(super) tls: Option<Box<TlsStream>>,
}

/// What to dial.
#[derive(Debug)]
pub struct Target<'a> {
    /// Name or IP literal.
    pub host: &'a str,
    /// Port.
    pub port: u16,
    /// Which of the host's addresses; `None`: the first that takes a connection.
    pub ip: Option<IpAddr>,
    /// `host:port`, part of the key of its TLS sessions.
    pub peer: &'a Arc<str>,
    /// What its handshakes are counted as: the object that it belongs to (`upstreams/1`), or the peer.
    pub object: &'a str,
    /// How to speak TLS and whom to expect; `None`: in the clear.
    pub tls: Option<(&'a UpstreamConnector, &'a ServerName)>,
}

/// A thread's dialer.
#[derive(Debug)]
pub struct Dialer {
    pub(super) sweep: Rc<Sweep>,
    /// The process's view of names.
    pub resolver: Resolver,
    /// The gateway's own admin and status addresses: never dialled.
    forbidden: Arc<Forbidden>,
    /// Where handshakes are counted; a client program counts none.
    counted: Option<Arc<Metrics>>,
}

/// Addresses of ours that no node may be.
#[derive(Debug, Default)]
pub struct Forbidden(HashSet<SocketAddr>);

impl Forbidden {
    /// These addresses; an unspecified one means its port on every loopback address.
    #[must_use]
    pub fn new(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self(addresses.into_iter().collect())
    }

    /// Whether a node of this host and port is one of them, as far as the text shows it: an address
    /// in any spelling. A name is none, whatever it leads to.
    #[must_use]
    pub fn holds_literal(&self, host: &str, port: u16) -> bool {
        literal(host).is_some_and(|ip| self.holds(SocketAddr::new(ip, port)))
    }

    fn holds(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        self.0.iter().any(|own| {
            let own_ip = own.ip().to_canonical();
            own.port() == address.port()
                && (own_ip == ip
                    || ip.is_unspecified()
                    || (own_ip.is_unspecified() && ip.is_loopback()))
        })
    }
}

/// The address that a host is, in any spelling; `None`: it is a name.
pub(super) fn literal(host: &str) -> Option<IpAddr> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse().ok().or_else(|| loose_ipv4(bare))
}

/// An IPv4 address as the system's resolver reads it too, `127.1` and `0x7f000001`: one to four
/// numbers, decimal, octal or hexadecimal, the last one for all bytes that are left. (inet_aton(3))
fn loose_ipv4(text: &str) -> Option<IpAddr> {
    let numbers = text.split('.').map(|part| {
        let (digits, radix) = match part.strip_prefix("0x").or(part.strip_prefix("0X")) {
            Some(digits) => (digits, 16),
            None if part.len() > 1 && part.starts_with('0') => (part, 8),
            None => (part, 10),
        };
        u32::from_str_radix(digits, radix).ok()
    });
    let numbers = numbers.collect::<Option<Vec<u32>>>()?;
    let (last, first) = numbers.split_last()?;
    if first.len() > 3 {
        return None;
    }
    let mut rest = u32::MAX;
    let mut address = 0_u32;
    for byte in first {
        let byte = u8::try_from(*byte).ok()?;
        address = address << 8 | u32::from(byte);
        rest >>= 8;
    }
    if *last > rest {
        return None;
    }
    let bytes_left = 4 - u32::try_from(first.len()).ok()?;
    let high = u64::from(address) << (8 * bytes_left);
    let whole = u32::try_from(high | u64::from(*last)).ok()?;
    Some(IpAddr::V4(whole.into()))
}

impl Dialer {
    /// A dialer for this thread.
    #[must_use]
    pub fn new(sweep: Rc<Sweep>, forbidden: Arc<Forbidden>, resolver: Resolver) -> Self {
        Self {
            resolver,
            sweep,
            forbidden,
            counted: None,
        }
    }

    /// The same dialer; what its handshakes agree on is counted here.
    #[must_use]
    pub fn counting(self, metrics: Arc<Metrics>) -> Self {
        Self {
            counted: Some(metrics),
            ..self
        }
    }

    /// The instant `after` from now, for [`Dialer::dial`].
    #[must_use]
    pub fn after(&self, after: Duration) -> Until {
        self.sweep.after(after)
    }

    /// Opens a connection before `until`.
    ///
    /// # Errors
    /// [`DialError`], with the reason as the record shall name it.
    pub async fn dial(&self, target: &Target<'_>, until: Until) -> Result<Stream, DialError> {
        match self.sweep.within(until, Box::pin(self.open(target))).await {
            Ok(opened) => opened,
            Err(expired) => Err(failed(Reason::UpstreamTimeout, &expired)),
        }
    }

    pub(super) async fn open(&self, target: &Target<'_>) -> Result<Stream, DialError> {
        let socket = self.connect(target).await?;
        let shaken = self.shake(target, socket).await;
        shaken.map_err(|refused| refused.error)
    }

    /// Shakes hands over a connection, where the target is reached by TLS.
    pub(super) async fn shake(
        &self,
        target: &Target<'_>,
        socket: Socket,
    ) -> Result<Stream, Refused> {
        let Some((connector, name)) = target.tls else {
            return Ok(Stream::Plain(socket));
        };
        let mut tls = match connector.open(target.peer, name, socket) {
            Ok(tls) => Box::new(tls),
            Err(error) => {
                let error = failed(Reason::UpstreamHandshakeFailed, &error);
                return Err(Refused { error, tls: None });
            }
        };
        let shaken = tls.connect().await;
        if let (Ok(()), Some(metrics)) = (&shaken, &self.counted) {
            metrics.negotiated.called(target.object, &tls.agreed());
        }
        let error = match shaken {
            Ok(()) if connector.protocol == Protocol::Http2 && !tls.is_http2() => {
                failed(Reason::UpstreamHandshakeFailed, &NOT_HTTP2)
            }
            Ok(()) => match tls.unapproved_peer() {
                None => return Ok(Stream::Tls(tls)),
                Some(flaw) => {
                    connector.forget(target.peer, name);
                    failed(Reason::UpstreamCertInvalid, &flaw)
                }
            },
            Err(fault) => {
                // What was offered may be what was refused.
                connector.forget(target.peer, name);
                let asked = tls.certificate_was_asked();
                let reason = fault.upstream_reason(asked, connector.has_identity);
                if fault.is_about_alpn() {
                    failed(reason, &format!("{NOT_HTTP2}: {fault}"))
                } else {
                    failed(
                        reason,
                        &format!("{fault}{}", about_name(reason, name, &tls)),
                    )
                }
            }
        };
        let tls = Some(tls);
        Err(Refused { error, tls })
    }

    /// Refuses a host that is written as an address of ours and that others would dial for us.
    ///
    /// # Errors
    /// [`DialError`].
    pub(super) fn check_literal(&self, host: &str, port: u16) -> Result<(), DialError> {
        if self.forbidden.holds_literal(host, port) {
            return Err(own_address(&format_args!("{host}:{port}")));
        }
        Ok(())
    }

    /// Opens a connection to the first address that takes one.
    pub(super) async fn connect(&self, target: &Target<'_>) -> Result<Socket, DialError> {
        let addresses = match target.ip {
            Some(ip) => vec![ip],
            None => {
                let resolved = self.resolver.resolve(target.host).await;
                resolved.map_err(|error| failed(Reason::UpstreamUnresolvable, &error))?
            }
        };
        let mut last = None;
        for ip in addresses {
            let address = SocketAddr::new(ip, target.port);
            if self.forbidden.holds(address) {
                return Err(own_address(&address));
            }
            match TcpStream::connect(address).await {
                Ok(tcp) => {
                    let _ = tcp.set_nodelay(true);
                    return Ok(Socket::new(tcp, Activity::new(self.sweep.clock())));
                }
                Err(error) => last = Some((address, error)),
            }
        }
        let (reason, detail) = match last {
            Some((address, error)) => {
                let reason = connect_reason(&error);
                (reason, format!("{address}: {error}"))
            }
            None => (Reason::UpstreamUnresolvable, "no address".to_owned()),
        };
        Err(DialError { reason, detail })
    }
}

fn own_address(address: &dyn std::fmt::Display) -> DialError {
    let detail = format!("{address} is an admin or status address of this gateway");
    DialError {
        reason: Reason::UpstreamIsSelf,
        detail,
    }
}

/// What a failure that is about the name says besides OpenSSL's words.
fn about_name(reason: Reason, name: &ServerName, tls: &TlsStream) -> String {
    match (reason, name) {
        (Reason::UpstreamNameMismatch, name) => {
            let is_for = tls.served().is_for();
            format!("; asked for {name}, the certificate is for {is_for}")
        }
        (Reason::UpstreamSniRefused, ServerName::Ip(ip)) => {
            format!("; no server name was sent, as {ip} is an address")
        }
        (Reason::UpstreamSniRefused, ServerName::Dns(name)) => format!("; sent {name}"),
        _ => String::new(),
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the system's list of errors is open"
)]
fn connect_reason(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Reason::UpstreamRefused,
        io::ErrorKind::TimedOut => Reason::UpstreamTimeout,
        io::ErrorKind::ConnectionReset => Reason::UpstreamReset,
        _ => Reason::UpstreamUnreachable,
    }
}

pub(super) fn failed(reason: Reason, error: &dyn std::fmt::Display) -> DialError {
    DialError {
        reason,
        detail: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_recognised_in_every_spelling() {
        let own = Forbidden::new([
            "127.0.0.1:9180".parse().unwrap(),
            "[::1]:7443".parse().unwrap(),
        ]);
        for address in [
            "127.0.0.1:9180",
            "[::ffff:127.0.0.1]:9180",
            "[::ffff:0.0.0.0]:9180",
            "0.0.0.0:9180",
            "[::]:9180",
            "[::1]:7443",
        ] {
            assert!(own.holds(address.parse().unwrap()), "{address}");
        }
        for address in ["127.0.0.1:9181", "127.0.0.2:9180", "192.0.2.1:7443"] {
            assert!(!own.holds(address.parse().unwrap()), "{address}");
        }
        let everywhere = Forbidden::new(["0.0.0.0:9091".parse().unwrap()]);
        for address in ["127.0.0.3:9091", "[::1]:9091", "[::ffff:127.0.0.3]:9091"] {
            assert!(everywhere.holds(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn addresses_are_read_as_the_resolver_reads_them() {
        let own = Forbidden::new(["127.0.0.1:9180".parse().unwrap()]);
        for host in [
            "127.0.0.1",
            "::ffff:127.0.0.1",
            "127.1",
            "127.0.1",
            "0177.0.0.1",
            "0x7F.0x0.0.1",
            "0x7f000001",
            "2130706433",
            "0",
        ] {
            assert!(own.holds_literal(host, 9180), "{host}");
            assert!(!own.holds_literal(host, 9181), "{host}");
        }
        for host in [
            "",
            ".",
            "127.0.0.1.",
            "127.0.0.2",
            "127.256",
            "127.0.0.256",
            "127.0.0.0.1",
            "256.0.0.1",
            "0x",
            "4294967296",
            "08",
            "localhost",
            "127.1.example.com",
        ] {
            assert!(!own.holds_literal(host, 9180), "{host}");
        }
    }
}
