//! What the system says of names: `/etc/hosts` and `/etc/resolv.conf`, read anew when they may
//! have changed.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use resolv_conf::ScopedIp;

use super::PORT;

const HOSTS: &str = "/etc/hosts";
const CONF: &str = "/etc/resolv.conf";
/// How long what was read counts.
const FRESH: Duration = Duration::from_secs(5);
/// What resolv.conf(5) bounds them to.
const MOST_SECONDS: u32 = 30;
const MOST_ATTEMPTS: u32 = 5;
const MOST_DOTS: u32 = 15;

/// Both files, as they were read last.
#[derive(Debug, Default)]
pub(super) struct Files(Mutex<Kept>);

/// What they say.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) hosts: Hosts,
    pub(super) conf: Conf,
}

type Kept = Option<(Instant, Arc<Contents>)>;

impl Files {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What they say now. A file that cannot be read says nothing.
    pub(super) async fn read(&self) -> Arc<Contents> {
        let kept = self.kept().clone();
        if let Some((at, contents)) = &kept
            && at.elapsed() < FRESH
        {
            return contents.clone();
        }
        let read = tokio::task::spawn_blocking(|| {
            Arc::new(Contents {
                hosts: Hosts::parse(&contents_of(HOSTS)),
                conf: Conf::parse(&contents_of(CONF)),
            })
        });
        match (read.await, kept) {
            (Ok(contents), _) => {
                *self.kept() = Some((Instant::now(), contents.clone()));
                contents
            }
            (Err(_), Some((_, contents))) => contents,
            (Err(_), None) => Arc::new(Contents {
                hosts: Hosts::default(),
                conf: Conf::parse(b""),
            }),
        }
    }
}

fn contents_of(path: &str) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            tracing::warn!(path, %error, "it cannot be read, and says nothing");
        }
        Vec::new()
    })
}

/// `/etc/hosts`: lower-case name → addresses, IPv4 first. (hosts(5))
#[derive(Debug, Default)]
pub(super) struct Hosts(HashMap<String, Vec<IpAddr>>);

impl Hosts {
    pub(super) fn parse(text: &[u8]) -> Self {
        let mut hosts: HashMap<String, Vec<IpAddr>> = HashMap::new();
        for line in String::from_utf8_lossy(text).lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            let Some(Ok(ip)) = words.next().map(str::parse::<IpAddr>) else {
                continue;
            };
            for name in words {
                let ips = hosts.entry(name.to_ascii_lowercase()).or_default();
                if !ips.contains(&ip) {
                    ips.push(ip);
                }
            }
        }
        for ips in hosts.values_mut() {
            ips.sort_by_key(IpAddr::is_ipv6);
        }
        Self(hosts)
    }

    /// The addresses of a lower-case name without a last dot; none where it is not there.
    pub(super) fn find(&self, name: &str) -> &[IpAddr] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }
}

/// `/etc/resolv.conf`. (resolv.conf(5))
#[derive(Debug)]
pub(super) struct Conf {
    /// Whom to ask; this machine where none is named.
    pub(super) servers: Vec<SocketAddr>,
    /// How long for one answer.
    pub(super) timeout: Duration,
    /// How often all of them.
    pub(super) attempts: u32,
    search: Vec<String>,
    dots: u32,
}

impl Conf {
    pub(super) fn parse(text: &[u8]) -> Self {
        let (conf, faults) = resolv_conf::Config::parse_with_errors(text);
        for fault in faults {
            tracing::debug!(%fault, "a line of {CONF} is passed over");
        }
        let servers = conf.get_nameservers_or_local();
        Self {
            servers: servers.iter().filter_map(address).collect(),
            timeout: Duration::from_secs(conf.timeout.clamp(1, MOST_SECONDS).into()),
            attempts: conf.attempts.clamp(1, MOST_ATTEMPTS),
            search: conf.get_last_search_or_domain().cloned().collect(),
            dots: conf.ndots.min(MOST_DOTS),
        }
    }

    /// The whole names that a host may be short for, in the order to ask. One that ends with a dot
    /// is whole.
    pub(super) fn candidates(&self, host: &str) -> Vec<String> {
        if let Some(whole) = host.strip_suffix('.') {
            return vec![whole.to_owned()];
        }
        let dots = host.bytes().filter(|byte| *byte == b'.').count();
        let is_whole_first = u32::try_from(dots).is_ok_and(|dots| dots >= self.dots);
        let search = self.search.iter().map(|it| it.trim_matches('.'));
        let search = search.filter(|domain| !domain.is_empty());
        let mut names: Vec<String> = search.map(|domain| format!("{host}.{domain}")).collect();
        let at = if is_whole_first { 0 } else { names.len() };
        names.insert(at, host.to_owned());
        names
    }
}

/// A server's address. `None`: it has a scope by name, which only the system can number.
fn address(server: &ScopedIp) -> Option<SocketAddr> {
    match server {
        ScopedIp::V6(ip, Some(scope)) => {
            let scope = scope.parse().ok()?;
            Some(SocketAddrV6::new(*ip, PORT, 0, scope).into())
        }
        ScopedIp::V4(_) | ScopedIp::V6(_, None) => Some(SocketAddr::new(server.into(), PORT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_the_system_reads_them() {
        let hosts = Hosts::parse(
            b"# comment\n::1 localhost ip6-localhost\n127.0.0.1\tLocalhost # me\n\
              10.0.0.1 a.test A\n10.0.0.2 a.test\nnonsense x\n10.0.0.1 a.test\n",
        );
        for (name, ips) in [
            ("localhost", &["127.0.0.1", "::1"][..]),
            ("a.test", &["10.0.0.1", "10.0.0.2"]),
            ("a", &["10.0.0.1"]),
            ("x", &[]),
        ] {
            let ips: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
            assert_eq!(hosts.find(name), ips, "{name}");
        }
    }

    #[test]
    fn resolv_conf_says_whom_to_ask_and_what_short_names_mean() {
        let conf = Conf::parse(
            b"nameserver 192.0.2.1\nnameserver 2001:db8::1\nnameserver fe80::1%2\n\
              nameserver fe80::1%eth0\nsearch ns.svc.test svc.test\n\
              options ndots:2 timeout:3 attempts:9\nnonsense\n",
        );
        let shown: Vec<String> = conf.servers.iter().map(ToString::to_string).collect();
        let servers = ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%2]:53"];
        assert_eq!(shown, servers);
        assert_eq!((conf.timeout, conf.attempts), (Duration::from_secs(3), 5));
        for (host, names) in [
            ("a", &["a.ns.svc.test", "a.svc.test", "a"][..]),
            ("a.b", &["a.b.ns.svc.test", "a.b.svc.test", "a.b"]),
            ("a.b.c", &["a.b.c", "a.b.c.ns.svc.test", "a.b.c.svc.test"]),
            ("a.", &["a"]),
        ] {
            assert_eq!(conf.candidates(host), names, "{host}");
        }
        let none = Conf::parse(b"");
        assert_eq!(none.candidates("a.b"), ["a.b"]);
        assert!(none.servers.iter().all(|server| server.ip().is_loopback()));
        assert!(!none.servers.is_empty());
    }
}
