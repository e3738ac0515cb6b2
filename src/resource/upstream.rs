//! The upstream resource: nodes, how to reach them, how to trust them.

use std::sync::Arc;
use std::time::Duration;

use super::checks::{self, Checks};
use super::fault::Verdict;
use super::ssl::{Pair, Text};
use super::{Document, Id, Terms, balance, members, nodes, texts, trust};
use crate::matching::authority::Authority;
use crate::matching::balance::HashKey;
use crate::matching::host::HostPattern;
use crate::tls::policy::Offer;

/// The one `discovery_type` that is served.
const DNS: &str = "dns";

/// A typed upstream, stand-alone or inline in a service or route.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// `scheme`.
    pub scheme: Scheme,
    /// `nodes`, in the order given. May be empty: requests then answer 503.
    pub nodes: Vec<Node>,
    /// `service_name`, of which the nodes are found instead.
    pub discovery: Option<Discovery>,
    /// `type`.
    pub balance: Balance,
    /// `pass_host` with `upstream_host`.
    pub pass_host: PassHost,
    /// `timeout`, default 60 s each.
    pub timeouts: Timeouts,
    /// `keepalive_pool`.
    pub keepalive: Keepalive,
    /// `retries`; absent: one try per further node.
    pub retries: Option<u32>,
    /// `retry_timeout` for all tries together; `None`: no limit.
    pub retry_timeout: Option<Duration>,
    /// `tls`.
    pub tls: Option<UpstreamTls>,
    /// `checks`.
    pub checks: Option<Checks>,
}

/// Whose turn it is among an upstream's nodes (`type`).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Balance {
    /// `roundrobin`: in turns, interleaved by weight.
    #[default]
    RoundRobin,
    /// `least_conn`: the node with the fewest requests in flight for its weight.
    LeastBusy,
    /// `ewma`: the one that answers sooner, of two drawn at random.
    Quicker,
    /// `chash`: the same for the same key, which `hash_on` and `key` name.
    Hash(Arc<HashKey>),
}

/// A service whose nodes DNS knows (`discovery_type: dns`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// The name that is asked for: SRV, then A, then AAAA.
    pub name: String,
    /// The port of all nodes; `None`: that of the SRV records, else the scheme's.
    pub port: Option<u16>,
}

/// How an upstream is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// HTTP/1.1 in the clear.
    Http,
    /// HTTP/1.1 over TLS.
    Https,
    /// HTTP/2 in the clear, known beforehand (RFC 9113 §3.3).
    Grpc,
    /// HTTP/2 over TLS, agreed on by ALPN.
    Grpcs,
}

impl Scheme {
    /// The port of a node that names none.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http | Self::Grpc => 80,
            Self::Https | Self::Grpcs => 443,
        }
    }

    /// Whether TLS is spoken.
    #[must_use]
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Grpcs)
    }

    /// Whether HTTP/2 is spoken.
    #[must_use]
    pub const fn is_http2(self) -> bool {
        matches!(self, Self::Grpc | Self::Grpcs)
    }
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Name or IP literal (IPv6 without brackets), as configured, lower case.
    pub host: String,
    /// Port, the scheme's default filled in.
    pub port: u16,
    /// Share of requests; 0 = none while another node exists.
    pub weight: u32,
    /// Higher first.
    pub priority: i64,
}

/// Which Host an upstream sees, and so which name is sent and checked in TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PassHost {
    /// The client's.
    Pass,
    /// The node's as configured.
    Node,
    /// `upstream_host`.
    Rewrite {
        /// The Host, as written.
        host: String,
        /// Its name: lower case, no trailing dot, no port; IPv6 in brackets.
        name: String,
    },
}

/// Time-outs towards an upstream, each > 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For resolving, connecting and the TLS handshake together.
    pub connect: Duration,
    /// Between two writes.
    pub send: Duration,
    /// Between two reads.
    pub read: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let default = Duration::from_secs(60);
        Self {
            connect: default,
            send: default,
            read: default,
        }
    }
}

/// How many idle connections are kept per worker and node, how long, for how many requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Idle connections kept, default 320.
    pub size: usize,
    /// Idle time, default 60 s.
    pub idle: Duration,
    /// Requests per connection, default 1000.
    pub requests: u32,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self {
            size: 320,
            idle: Duration::from_secs(60),
            requests: 1000,
        }
    }
}

/// The `tls` member of an upstream.
#[derive(Clone, Debug, Default)]
pub struct UpstreamTls {
    /// What we show: `client_cert` + `client_key`, or another ssl's by id.
    pub identity: Identity,
    /// `verify`: the server's chain and name are checked.
    pub verify: bool,
    /// `ca_certs`: trusted issuers, each text one or more certificates.
    pub ca_certs: Vec<Text>,
    /// `crl`: PEM of the revocation lists that the server's whole chain is held against.
    pub crl: Option<Text>,
    /// `server_name`: the name to send and check instead of the one `pass_host` gives.
    pub server_name: Option<String>,
    /// `min_version`, `max_version`, `ciphers`, `groups`, or the default.
    pub offer: Offer,
}

/// The client certificate shown to an upstream.
#[derive(Clone, Debug, Default)]
pub enum Identity {
    /// None.
    #[default]
    None,
    /// A certificate with its key.
    Inline(Box<Pair>),
    /// The ssl of type client with this id (`client_cert_id`).
    Ssl(Id),
}

/// Reads what the schema has accepted, at `base` in its document. `None` only with a fault.
///
/// `hosts` are those that the service or route around it serves; none when it stands alone.
pub(super) fn read(
    document: &Document,
    base: &str,
    hosts: &[HostPattern],
    terms: &Terms,
    verdict: &mut Verdict,
) -> Option<Upstream> {
    refuse_unsupported(document, base, verdict);
    warn_of_unused(document, base, verdict);
    let scheme = read_scheme(document, base, verdict);
    let nodes = nodes::read(document, base, scheme, verdict);
    let discovery = nodes::read_service(document, base, verdict);
    let balance = balance::read(document, base, verdict);
    let pass_host = read_pass_host(document, base, verdict);
    let tls = members::object(document, "tls")
        .map(|tls| trust::read(tls, &format!("{base}/tls"), terms, verdict));
    trust::warn(scheme, &pass_host, tls.as_ref(), hosts, base, verdict);
    let checks = members::object(document, "checks").and_then(|checks| {
        let at = format!("{base}/checks");
        checks::read(checks, &at, scheme, tls.as_ref(), verdict)
    });
    Some(Upstream {
        scheme,
        nodes,
        discovery,
        balance,
        pass_host,
        timeouts: members::object(document, "timeout")
            .map(read_timeouts)
            .unwrap_or_default(),
        keepalive: members::object(document, "keepalive_pool")
            .map(read_keepalive)
            .unwrap_or_default(),
        retries: document.get("retries").and_then(members::count),
        retry_timeout: document
            .get("retry_timeout")
            .and_then(members::seconds)
            .filter(|limit| !limit.is_zero()),
        tls,
        checks,
    })
}

/// `timeout`: connect, send and read, in seconds.
pub(super) fn read_timeouts(timeout: &Document) -> Timeouts {
    let default = Timeouts::default();
    let read = |member: &str| timeout.get(member).and_then(members::seconds);
    Timeouts {
        connect: read("connect").unwrap_or(default.connect),
        send: read("send").unwrap_or(default.send),
        read: read("read").unwrap_or(default.read),
    }
}

fn read_keepalive(pool: &Document) -> Keepalive {
    let default = Keepalive::default();
    let count = |member: &str| pool.get(member).and_then(members::count);
    Keepalive {
        size: count("size")
            .and_then(|size| usize::try_from(size).ok())
            .unwrap_or(default.size),
        idle: pool
            .get("idle_timeout")
            .and_then(members::seconds)
            .unwrap_or(default.idle),
        requests: count("requests").unwrap_or(default.requests),
    }
}

/// What an upstream can ask for and this version does not do.
fn refuse_unsupported(document: &Document, base: &str, verdict: &mut Verdict) {
    let found = members::text(document, "discovery_type");
    match found {
        Some(DNS) => {}
        Some(other) => {
            let what = format!("discovery_type {}", texts::shown(other));
            verdict.refuse_unsupported(format!("{base}/discovery_type"), &what);
        }
        None if document.contains_key("discovery_args") => {
            verdict.refuse_unsupported(format!("{base}/discovery_args"), "discovery_args");
        }
        None => {}
    }
}

/// What APISIX accepts here too, and nothing reads.
fn warn_of_unused(document: &Document, base: &str, verdict: &mut Verdict) {
    let is_rewritten = members::text(document, "pass_host") == Some("rewrite");
    if document.contains_key("upstream_host") && !is_rewritten {
        let text = "upstream_host has no effect unless pass_host is rewrite";
        verdict.warn_unused(format!("{base}/upstream_host"), text);
    }
    if members::text(document, "discovery_type") == Some(DNS) {
        let text = "discovery_args has no effect where discovery_type is dns";
        if document.contains_key("discovery_args") {
            verdict.warn_unused(format!("{base}/discovery_args"), text);
        }
    }
    let pool = ["size", "idle_timeout", "requests"];
    warn_of_unknown(document, base, "keepalive_pool", &pool, verdict);
    warn_of_unknown_timeouts(document, base, verdict);
}

/// Members of `timeout` that nothing reads.
pub(super) fn warn_of_unknown_timeouts(document: &Document, base: &str, verdict: &mut Verdict) {
    warn_of_unknown(
        document,
        base,
        "timeout",
        &["connect", "send", "read"],
        verdict,
    );
}

fn warn_of_unknown(
    document: &Document,
    base: &str,
    member: &str,
    known: &[&str],
    verdict: &mut Verdict,
) {
    let inner = members::object(document, member).into_iter();
    let unknown = inner.flat_map(|inner| inner.keys().map(String::as_str));
    let unknown: Vec<&str> = unknown.filter(|name| !known.contains(name)).collect();
    if let Some(first) = unknown.first() {
        let text = format!(
            "nobody reads these members of {member}: {}",
            texts::listed(&unknown)
        );
        verdict.warn_unused(texts::join(&format!("{base}/{member}"), first), text);
    }
}

fn read_scheme(document: &Document, base: &str, verdict: &mut Verdict) -> Scheme {
    match members::text(document, "scheme") {
        None | Some("http") => Scheme::Http,
        Some("https") => Scheme::Https,
        Some("grpc") => Scheme::Grpc,
        Some("grpcs") => Scheme::Grpcs,
        Some(other) => {
            let what = format!("scheme {}", texts::shown(other));
            verdict.refuse_unsupported(format!("{base}/scheme"), &what);
            Scheme::Http
        }
    }
}

fn read_pass_host(document: &Document, base: &str, verdict: &mut Verdict) -> PassHost {
    match members::text(document, "pass_host") {
        Some("node") => PassHost::Node,
        Some("rewrite") => {
            let host = members::text(document, "upstream_host").unwrap_or_default();
            let at = format!("{base}/upstream_host");
            let mut name = String::new();
            if host.is_empty() {
                let reason = "`upstream_host` can't be empty when `pass_host` is `rewrite`";
                verdict.refuse_as_apisix(at, reason);
            } else {
                match Authority::parse(host.as_bytes()) {
                    Ok(authority) => authority.host().clone_into(&mut name),
                    Err(error) => verdict.refuse(at, format!("invalid upstream_host: {error}")),
                }
            }
            PassHost::Rewrite {
                host: host.to_owned(),
                name,
            }
        }
        _ => PassHost::Pass,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::resource::sample::{TERMS, accepted, judge, refusal};
    use crate::resource::{Kind, Resource};

    pub(in crate::resource) fn read_as(body: &Value, terms: &Terms) -> Upstream {
        let Resource::Upstream(upstream) = judge(Kind::Upstream, body, terms).unwrap().resource
        else {
            panic!("of another kind")
        };
        *upstream
    }

    pub(in crate::resource) fn read(body: &Value) -> Upstream {
        read_as(body, &TERMS)
    }

    #[test]
    fn what_is_not_served_yet_is_refused() {
        for (member, value, what) in [
            ("scheme", json!("tls"), "scheme tls"),
            ("scheme", json!("kafka"), "scheme kafka"),
            ("discovery_args", json!({}), "discovery_args"),
        ] {
            let mut body = json!({"nodes": {}});
            body[member] = value;
            let text = format!("{what} is not supported by this version");
            assert_eq!(refusal(Kind::Upstream, &body), text);
        }
        let found = json!({"service_name": "x", "discovery_type": "consul"});
        let text = "discovery_type consul is not supported by this version";
        assert_eq!(refusal(Kind::Upstream, &found), text);
        accepted(
            Kind::Upstream,
            &json!({"nodes": {}, "type": "roundrobin", "scheme": "http", "hash_on": "vars"}),
        );
    }

    #[test]
    fn what_the_schema_refuses_has_apisix_s_text() {
        let none = "invalid configuration: value should match only one schema, but matches none";
        let both = "invalid configuration: value should match only one schema, but matches both \
                    schemas 1 and 2";
        for (body, text) in [
            (json!({}), none),
            (json!({"service_name": "a"}), none),
            (
                json!({"nodes": {}, "service_name": "a", "discovery_type": "dns"}),
                both,
            ),
            (
                json!({"nodes": {}, "status": 1}),
                "invalid configuration: additional properties forbidden, found status",
            ),
            (
                json!({"nodes": {}, "scheme": "gopher"}),
                "invalid configuration: property \"scheme\" validation failed: matches none of \
                 the enum values",
            ),
            (
                json!({"nodes": {}, "timeout": {"connect": 0, "send": 1, "read": 1}}),
                "invalid configuration: property \"timeout\" validation failed: property \
                 \"connect\" validation failed: expected 0 to be greater than 0",
            ),
            (
                json!({"nodes": {}, "timeout": {"connect": 1, "send": 1}}),
                "invalid configuration: property \"timeout\" validation failed: property \
                 \"read\" is required",
            ),
            (
                json!({"nodes": {}, "retries": -1}),
                "invalid configuration: property \"retries\" validation failed: expected -1 to be \
                 at least 0",
            ),
            (
                json!({"nodes": {}, "keepalive_pool": {"size": 0}}),
                "invalid configuration: property \"keepalive_pool\" validation failed: property \
                 \"size\" validation failed: expected 0 to be at least 1",
            ),
            (
                json!({"nodes": {}, "pass_host": "rewrite"}),
                "`upstream_host` can't be empty when `pass_host` is `rewrite`",
            ),
            (
                json!({"nodes": {}, "checks": {}}),
                "invalid configuration: property \"checks\" validation failed: object matches \
                 none of the required: [\"active\"] or [\"active\",\"passive\"]",
            ),
        ] {
            assert_eq!(refusal(Kind::Upstream, &body), text, "{body}");
        }
    }

    #[test]
    fn what_nothing_reads_is_told() {
        for (members, count) in [
            (json!({}), 0),
            (json!({"hash_on": "header", "key": "x"}), 2),
            (json!({"upstream_host": "a.com"}), 1),
            (json!({"upstream_host": "a.com", "pass_host": "rewrite"}), 0),
            (json!({"keepalive_pool": {"sise": 1, "requets": 2}}), 1),
            (
                json!({"timeout": {"connect": 1, "send": 1, "read": 1, "raed": 1}}),
                1,
            ),
        ] {
            let mut body = json!({"nodes": {}});
            let members = members.as_object().unwrap().clone();
            body.as_object_mut().unwrap().extend(members);
            let told = accepted(Kind::Upstream, &body).warnings;
            assert!(told.iter().all(|told| told.code == "member_unused"));
            assert_eq!(told.len(), count, "{body}");
        }
    }

    #[test]
    fn numbers_and_names_are_read() {
        let upstream = read(&json!({
            "nodes": {"a:1": 1},
            "pass_host": "rewrite",
            "upstream_host": "up.test:8443",
            "retries": 2,
            "retry_timeout": 1.5,
            "timeout": {"connect": 0.5, "send": 2, "read": 3},
            "keepalive_pool": {"size": 4, "idle_timeout": 5, "requests": 6}
        }));
        assert_eq!(upstream.retries, Some(2));
        assert_eq!(upstream.retry_timeout, Some(Duration::from_millis(1500)));
        assert_eq!(upstream.timeouts.connect, Duration::from_millis(500));
        assert_eq!(upstream.timeouts.read, Duration::from_secs(3));
        let keepalive = Keepalive {
            size: 4,
            idle: Duration::from_secs(5),
            requests: 6,
        };
        assert_eq!(upstream.keepalive, keepalive);
        let plain = read(&json!({"nodes": {}, "retry_timeout": 0, "pass_host": "node"}));
        assert_eq!((plain.retries, plain.retry_timeout), (None, None));
        assert_eq!(
            (plain.pass_host, plain.scheme),
            (PassHost::Node, Scheme::Http)
        );
        assert_eq!((plain.timeouts, plain.keepalive), Default::default());
        let star = json!({"nodes": {}, "pass_host": "rewrite", "upstream_host": "*.a.com"});
        assert!(refusal(Kind::Upstream, &star).starts_with("invalid upstream_host: "));
    }

    #[test]
    fn the_name_of_upstream_host_has_no_port_no_dot_and_no_capital() {
        for (host, name) in [
            ("up.test", "up.test"),
            ("Up.Test:8443", "up.test"),
            ("up.test.", "up.test"),
            ("up.test.:8443", "up.test"),
            ("192.0.2.1:8443", "192.0.2.1"),
            ("[2001:DB8::1]:8443", "[2001:db8::1]"),
            ("[::1]", "[::1]"),
        ] {
            let body = json!({"nodes": {}, "pass_host": "rewrite", "upstream_host": host});
            let rewrite = PassHost::Rewrite {
                host: host.to_owned(),
                name: name.to_owned(),
            };
            assert_eq!(read(&body).pass_host, rewrite);
        }
    }
}
