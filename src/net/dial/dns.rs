//! Questions to name servers: a stub resolver (RFC 1034 §5.3.1), with `/etc/hosts` before it.
//!
//! The wire format is a library's, ids are drawn by whoever sets it up, and the port of each
//! question by the kernel. Nothing is kept here: that is
//! [`crate::net::resolve`]'s.

mod files;
mod message;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use self::files::{Files, Hosts};
use self::message::{Edns, Meaning, Query, Reply};

/// Draws the id of a question, which nobody may guess (RFC 5452 §9.2).
pub type DrawId = fn() -> io::Result<u16>;

/// RFC 1035 §4.2.
const PORT: u16 = 53;

/// The largest message that is asked for over UDP (the DNS flag day's, which no path cuts).
const UDP_BYTES: usize = 1232;
/// How many other names a name may stand for, one after the other.
const ALIASES: usize = 8;
/// How long a server may keep silent before the next one is asked as well.
const GIVES_WAY: Duration = Duration::from_secs(1);
/// Hosts of one SRV answer that are asked for; more are left out.
const TARGETS: usize = 64;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordKind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses (RFC 3596).
    Aaaa,
    /// Hosts and ports of a service (RFC 2782).
    Srv,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// An address.
    Address(IpAddr),
    /// A host of a service.
    Host(SrvHost),
}

/// An SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SrvHost {
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) port: u16,
    pub(super) target: String,
}

/// Where a service is served.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Lower first; 0 where the answer has none.
    pub priority: u16,
    /// Its address.
    pub ip: IpAddr,
    /// Its port, where the answer has one.
    pub port: Option<u16>,
    /// Its share among those of its priority.
    pub weight: u32,
}

/// An answer, and how long it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::net) struct Found {
    /// At least one.
    pub(in crate::net) places: Vec<Place>,
    /// `None`: the source has no time to live.
    pub(in crate::net) ttl: Option<Duration>,
}

/// A question without an answer.
#[derive(Debug, thiserror::Error)]
pub(in crate::net) enum AskError {
    /// The servers say that there is none: that is an answer.
    #[error("{0}: no such name")]
    NoSuchName(String),
    /// The same of the kind that was asked for.
    #[error("{0} has no address")]
    NoData(String),
    /// No server can be asked for it.
    #[error("{0:?} is no name that can be asked for")]
    BadName(String),
    /// One name stands for another without end.
    #[error("{0} leads from name to name and to no address")]
    Aliases(String),
    /// The last server's words, where it had any.
    #[error("the name server {server} {what}")]
    Server {
        /// Whom it was asked.
        server: SocketAddr,
        /// What was wrong.
        what: String,
    },
    /// No name server is known.
    #[error("no name server is known: set `resolver.servers`, or name one in /etc/resolv.conf")]
    NoServer,
    /// No id could be drawn.
    #[error("no random number could be had")]
    Random(#[source] io::Error),
}

impl AskError {
    /// Whether the servers say that there is nothing, rather than nothing.
    pub(in crate::net) const fn is_answer(&self) -> bool {
        matches!(self, Self::NoSuchName(_) | Self::NoData(_))
    }
}

/// Whom is asked, and how patiently.
#[derive(Clone, Copy, Debug)]
struct Settings<'s> {
    draw_id: DrawId,
    servers: &'s [SocketAddr],
    first: &'s AtomicUsize,
    timeout: Duration,
    attempts: u32,
}

/// Asks name servers.
#[derive(Debug)]
pub(in crate::net) struct Stub {
    draw_id: DrawId,
    /// Asked instead of those of `/etc/resolv.conf`; empty: those.
    servers: Vec<SocketAddr>,
    /// The place in its list of the server that answered last. It is asked first, until it fails.
    first: AtomicUsize,
    files: Files,
}

impl Stub {
    pub(in crate::net) fn new(servers: Vec<SocketAddr>, draw_id: DrawId) -> Self {
        Self {
            draw_id,
            servers,
            first: AtomicUsize::new(0),
            files: Files::default(),
        }
    }

    /// The addresses of a host: those of `/etc/hosts`, else what the servers say; IPv6 where
    /// there is no IPv4, as in APISIX.
    pub(in crate::net) async fn host(&self, host: &str) -> Result<Found, AskError> {
        let files = self.files.read().await;
        if let Some(found) = known(&files.hosts, host) {
            return Ok(found);
        }
        let settings = self.settings(&files.conf);
        let mut last = AskError::NoSuchName(host.to_owned());
        for name in files.conf.candidates(host) {
            match addresses(settings, &name).await {
                Err(error) if error.is_answer() => last = error,
                done => return done,
            }
        }
        Err(last)
    }

    /// Where a service is served: what its SRV records say, else the addresses of a host of that
    /// name. (APISIX, "DNS")
    pub(in crate::net) async fn service(&self, name: &str) -> Result<Found, AskError> {
        let files = self.files.read().await;
        let settings = self.settings(&files.conf);
        for candidate in files.conf.candidates(name) {
            match ask(settings, &candidate, RecordKind::Srv).await {
                Ok((records, ttl)) => return self.targets(name, records, ttl).await,
                Err(error) if error.is_answer() => {}
                Err(error) => return Err(error),
            }
        }
        let mut found = self.host(name).await?;
        // All of them are nodes: those of one kind.
        let is_v4 = found.places.iter().any(|place| place.ip.is_ipv4());
        found.places.retain(|place| place.ip.is_ipv4() == is_v4);
        Ok(found)
    }

    /// The addresses of an SRV answer's hosts. A host that is not found is left out, unless none is.
    async fn targets(
        &self,
        name: &str,
        records: Vec<Record>,
        ttl: Duration,
    ) -> Result<Found, AskError> {
        let hosts = records.into_iter().filter_map(|record| match record {
            Record::Host(host) => Some(host),
            Record::Address(_) => None,
        });
        let mut ttl = ttl;
        let mut found: Vec<(SrvHost, Vec<IpAddr>)> = Vec::new();
        let mut last = AskError::NoData(name.to_owned());
        for host in hosts.take(TARGETS) {
            // A single dot: the service is decidedly not there (RFC 2782).
            if host.target.is_empty() {
                continue;
            }
            // A target is a whole name.
            match self.host(&format!("{}.", host.target)).await {
                Ok(answer) => {
                    ttl = answer.ttl.map_or(ttl, |own| own.min(ttl));
                    let is_v4 = answer.places.iter().any(|place| place.ip.is_ipv4());
                    let ips = answer.places.into_iter().map(|place| place.ip);
                    found.push((host, ips.filter(|ip| ip.is_ipv4() == is_v4).collect()));
                }
                Err(error) => last = error,
            }
        }
        let places = shares(&found);
        if places.is_empty() {
            return Err(last);
        }
        Ok(Found {
            places,
            ttl: Some(ttl),
        })
    }

    fn settings<'s>(&'s self, conf: &'s files::Conf) -> Settings<'s> {
        let servers = if self.servers.is_empty() {
            &conf.servers
        } else {
            &self.servers
        };
        Settings {
            draw_id: self.draw_id,
            servers,
            first: &self.first,
            timeout: conf.timeout,
            attempts: conf.attempts,
        }
    }
}

/// Places by weight: a host's is split among its addresses, and 0 counts as 1. (APISIX, "DNS")
fn shares(found: &[(SrvHost, Vec<IpAddr>)]) -> Vec<Place> {
    let counts = found.iter().map(|(_, ips)| len(ips)).filter(|it| *it > 0);
    let whole = counts.fold(1_u64, |all, count| {
        (all / gcd(all, count)).saturating_mul(count)
    });
    let mut places = Vec::new();
    for (host, ips) in found {
        let weight = u64::from(host.weight.max(1)).saturating_mul(whole) / len(ips).max(1);
        places.extend(ips.iter().map(|ip| Place {
            priority: host.priority,
            ip: *ip,
            port: Some(host.port).filter(|port| *port > 0),
            weight: u32::try_from(weight).unwrap_or(u32::MAX),
        }));
    }
    places
}

fn len(ips: &[IpAddr]) -> u64 {
    u64::try_from(ips.len()).unwrap_or(u64::MAX)
}

fn gcd(mut one: u64, mut other: u64) -> u64 {
    while other > 0 {
        (one, other) = (other, one % other);
    }
    one.max(1)
}

/// What needs no server: `/etc/hosts`, and `localhost`, which is always this machine (RFC 6761
/// §6.3). IPv4 first: the rest is for where that takes no connection.
fn known(hosts: &Hosts, host: &str) -> Option<Found> {
    let name = host.strip_suffix('.').unwrap_or(host);
    let mut ips = hosts.find(name).to_vec();
    if ips.is_empty() && (name == "localhost" || name.ends_with(".localhost")) {
        ips = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    (!ips.is_empty()).then(|| Found {
        places: plain(&ips),
        ttl: None,
    })
}

/// Addresses without ports or weights.
pub(in crate::net) fn plain(ips: &[IpAddr]) -> Vec<Place> {
    let place = |ip: &IpAddr| Place {
        priority: 0,
        ip: *ip,
        port: None,
        weight: 1,
    };
    ips.iter().map(place).collect()
}

async fn addresses(settings: Settings<'_>, name: &str) -> Result<Found, AskError> {
    let (records, ttl) = match ask(settings, name, RecordKind::A).await {
        Err(AskError::NoData(_)) => ask(settings, name, RecordKind::Aaaa).await?,
        done => done?,
    };
    let ips: Vec<IpAddr> = records
        .into_iter()
        .filter_map(|record| match record {
            Record::Address(ip) => Some(ip),
            Record::Host(_) => None,
        })
        .collect();
    Ok(Found {
        places: plain(&ips),
        ttl: Some(ttl),
    })
}

/// The records of a name, at least one, by whatever name it stands for.
async fn ask(
    settings: Settings<'_>,
    name: &str,
    kind: RecordKind,
) -> Result<(Vec<Record>, Duration), AskError> {
    // Nobody needs to be asked (RFC 6761 §6.4).
    if name == "invalid" || name.ends_with(".invalid") {
        return Err(AskError::NoSuchName(name.to_owned()));
    }
    let mut asked = name.to_owned();
    let mut least = Duration::MAX;
    for _ in 0..ALIASES {
        match ask_servers(settings, &asked, kind).await? {
            Meaning::Records(records, ttl) => return Ok((records, ttl.min(least))),
            Meaning::Alias(other, ttl) => {
                asked = other;
                least = ttl.min(least);
            }
            Meaning::NoData => return Err(AskError::NoData(name.to_owned())),
            Meaning::NoSuchName => return Err(AskError::NoSuchName(name.to_owned())),
        }
    }
    Err(AskError::Aliases(name.to_owned()))
}

/// Asks the servers, and all of them so many times, until one answers.
async fn ask_servers(
    settings: Settings<'_>,
    name: &str,
    kind: RecordKind,
) -> Result<Meaning, AskError> {
    let mut last = AskError::NoServer;
    for _ in 0..settings.attempts {
        match ask_once(settings, name, kind).await {
            Err(error @ AskError::Server { .. }) => last = error,
            done => return done,
        }
    }
    Err(last)
}

/// Asks one server after the other until one answers: at first the one that answered last. Those that
/// keep silent may answer still while the next ones are asked.
async fn ask_once(
    settings: Settings<'_>,
    name: &str,
    kind: RecordKind,
) -> Result<Meaning, AskError> {
    let mut last = AskError::NoServer;
    let count = settings.servers.len();
    let first = settings.first.load(Ordering::Relaxed);
    let in_turn = settings.servers.iter().enumerate().cycle();
    let first = first.checked_rem(count).unwrap_or_default();
    let mut others = in_turn.skip(first).take(count).peekable();
    let mut asked = FuturesUnordered::new();
    loop {
        if let Some((place, server)) = others.next() {
            asked.push(async move {
                let exchange = ask_server(settings.draw_id, *server, name, kind);
                let done = timeout(settings.timeout, exchange).await;
                (place, *server, done)
            });
        }
        let heard = if others.peek().is_some() {
            match timeout(GIVES_WAY, asked.next()).await {
                Ok(heard) => heard,
                Err(_silent) => continue,
            }
        } else {
            asked.next().await
        };
        let Some((place, server, done)) = heard else {
            return Err(last);
        };
        let what = match done {
            Ok(Ok(meaning)) => {
                settings.first.store(place, Ordering::Relaxed);
                return Ok(meaning);
            }
            Ok(Err(ServerFault::Ours(error))) => return Err(error),
            Ok(Err(ServerFault::Its(what))) => what,
            Err(_elapsed) => format!("did not answer within {:?}", settings.timeout),
        };
        last = AskError::Server { server, what };
    }
}

/// Why a server gave no answer.
enum ServerFault {
    /// It cannot be asked at all.
    Ours(AskError),
    /// Another server may do better.
    Its(String),
}

impl From<io::Error> for ServerFault {
    fn from(error: io::Error) -> Self {
        Self::Its(format!("cannot be asked: {error}"))
    }
}

async fn ask_server(
    draw_id: DrawId,
    server: SocketAddr,
    name: &str,
    kind: RecordKind,
) -> Result<Meaning, ServerFault> {
    let mut edns = Edns::Offered;
    loop {
        let id = draw_id().map_err(|error| ServerFault::Ours(AskError::Random(error)))?;
        let query = Query::new(id, name, kind, edns)
            .ok_or_else(|| ServerFault::Ours(AskError::BadName(name.to_owned())))?;
        let mut reply = ask_udp(server, &query).await?;
        if reply == Reply::Truncated {
            reply = ask_tcp(server, &query).await?;
        }
        match reply {
            Reply::Answer(meaning) => return Ok(meaning),
            // It knows none of what is newer than RFC 1035.
            Reply::Malformed if edns == Edns::Offered => edns = Edns::Absent,
            Reply::Malformed => {
                return Err(ServerFault::Its(
                    "does not understand the question".to_owned(),
                ));
            }
            Reply::Refusal(code) => return Err(ServerFault::Its(format!("answered {code}"))),
            Reply::Truncated | Reply::Stray => {
                return Err(ServerFault::Its("answered what cannot be read".to_owned()));
            }
        }
    }
}

async fn ask_udp(server: SocketAddr, query: &Query) -> io::Result<Reply> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // Nobody else's packets are received from here on.
    socket.connect(server).await?;
    socket.send(query.bytes()).await?;
    let mut bytes = [0; UDP_BYTES];
    loop {
        let count = socket.recv(&mut bytes).await?;
        let reply = query.read(bytes.get(..count).unwrap_or_default());
        // A guess that misses is no answer, and does not stop the right one.
        if reply != Reply::Stray {
            return Ok(reply);
        }
    }
}

/// RFC 1035 §4.2.2: each message has its length before it.
async fn ask_tcp(server: SocketAddr, query: &Query) -> io::Result<Reply> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.bytes().len()).map_err(io::Error::other)?;
    let mut message = length.to_be_bytes().to_vec();
    message.extend(query.bytes());
    stream.write_all(&message).await?;
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; length.into()];
    stream.read_exact(&mut bytes).await?;
    Ok(query.read(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(priority: u16, weight: u16, port: u16) -> SrvHost {
        SrvHost {
            priority,
            weight,
            port,
            target: "h.test".to_owned(),
        }
    }

    fn ip(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    #[test]
    fn weights_of_a_service_are_split_as_apisix_splits_them() {
        // APISIX's own example: 60 for one address, 20 for two.
        let found = [
            (host(10, 60, 1980), vec![ip(1)]),
            (host(20, 20, 1981), vec![ip(2), ip(3)]),
        ];
        let shown: Vec<_> = shares(&found)
            .into_iter()
            .map(|it| (it.priority, it.ip, it.port, it.weight))
            .collect();
        assert_eq!(
            shown,
            [
                (10, ip(1), Some(1980), 120),
                (20, ip(2), Some(1981), 20),
                (20, ip(3), Some(1981), 20),
            ]
        );
        // A weight of 0 has a small chance; a port of 0 is the scheme's.
        let zero = shares(&[(host(0, 0, 0), vec![ip(1)])]);
        assert_eq!((zero[0].weight, zero[0].port), (1, None));
        assert!(shares(&[]).is_empty());
    }

    #[test]
    fn this_machine_is_known_without_a_server() {
        let hosts = Hosts::parse(b"127.0.0.9 box.test\n");
        for (name, first) in [
            ("localhost", Some(Ipv4Addr::LOCALHOST.into())),
            ("a.localhost.", Some(Ipv4Addr::LOCALHOST.into())),
            ("box.test", Some("127.0.0.9".parse().unwrap())),
            ("other.test", None),
        ] {
            let found = known(&hosts, name).map(|found| found.places[0].ip);
            assert_eq!(found, first, "{name}");
        }
    }

    #[tokio::test]
    async fn without_a_server_the_error_says_what_to_set() {
        let settings = Settings {
            draw_id: || Ok(7),
            servers: &[],
            first: &AtomicUsize::new(0),
            timeout: Duration::from_secs(1),
            attempts: 2,
        };
        let told = ask(settings, "a.test", RecordKind::A).await.unwrap_err();
        assert!(told.to_string().contains("`resolver.servers`"), "{told}");
        assert!(!told.is_answer());
        let told = ask(settings, "a.invalid", RecordKind::A).await;
        assert!(told.unwrap_err().is_answer(), "nobody needs to be asked");
    }

    #[tokio::test]
    async fn server_that_is_slow_is_heard_while_the_next_one_is_asked() {
        let socket = async || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (slow, dead) = (socket().await, socket().await);
        let settings = Settings {
            draw_id: || Ok(7),
            servers: &[&slow, &dead].map(|it| it.local_addr().unwrap()),
            first: &AtomicUsize::new(0),
            // The slow one has until the next is asked, and as long as this test takes for its turns.
            timeout: Duration::from_secs(60),
            attempts: 1,
        };
        let answer = async {
            let (mut query, mut other) = ([0; 512], [0; 512]);
            let (_, from) = slow.recv_from(&mut query).await.unwrap();
            dead.recv_from(&mut other).await.unwrap();
            // The header, the question as it came, an address for a minute.
            let header = [0, 7, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
            let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1];
            let reply = [&header, &query[12..24], &record].concat();
            slow.send_to(&reply, from).await.unwrap();
        };
        let (found, ()) = tokio::join!(ask(settings, "a.test", RecordKind::A), answer);
        assert_eq!(found.unwrap().0, [Record::Address(ip(1))]);
        assert_eq!(settings.first.load(Ordering::Relaxed), 0, "none is faster");
    }
}
