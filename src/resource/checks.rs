//! The `checks` of an upstream: how its nodes are asked, and what requests say of them. (APISIX,
//! "Health Check")

use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};
use http::uri::PathAndQuery;

use super::fault::Verdict;
use super::upstream::{Scheme, UpstreamTls};
use super::{Document, members, texts};

/// How the health of an upstream's nodes is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checks {
    /// `active`: nodes are asked.
    pub active: Active,
    /// `passive`: requests tell.
    pub passive: Option<Passive>,
}

/// `checks.active`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Active {
    /// `type`, default http.
    pub kind: CheckKind,
    /// `timeout` of a check, default 1 s.
    pub timeout: Duration,
    /// `concurrency`: checks of the upstream at a time, default 10.
    pub concurrency: u32,
    /// `host`: the Host sent, and the name in TLS.
    pub host: Option<String>,
    /// `port`, instead of the node's.
    pub port: Option<u16>,
    /// `http_method`, default GET.
    pub method: http::Method,
    /// `http_path`, default `/`.
    pub path: PathAndQuery,
    /// `http_req_body`.
    pub body: String,
    /// `req_headers`, each `Name: value`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// `healthy`: what makes a node that is down come back.
    pub healthy: Healthy,
    /// `healthy.interval` between checks of a node that is up, default 1 s.
    pub healthy_interval: Duration,
    /// `unhealthy`: what takes a node out.
    pub unhealthy: Unhealthy,
    /// `unhealthy.interval` between checks of a node that is down, default 1 s.
    pub unhealthy_interval: Duration,
}

/// How a node is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// By a request of HTTP/1.1 in the clear.
    Http,
    /// By a request of HTTP/1.1 over TLS, as the upstream's requests are sent.
    Https,
    /// By a connection.
    Tcp,
}

impl CheckKind {
    /// As documents have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Tcp => "tcp",
        }
    }
}

/// `checks.passive`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passive {
    /// `healthy`.
    pub healthy: Healthy,
    /// `unhealthy`.
    pub unhealthy: Unhealthy,
}

/// What counts as a success, and how many are enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Healthy {
    /// `http_statuses`.
    pub statuses: Vec<u16>,
    /// `successes`; 0: none are counted.
    pub successes: u8,
}

/// What counts as a failure, and how many are too many; 0: none are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unhealthy {
    /// `http_statuses`.
    pub statuses: Vec<u16>,
    /// `http_failures`: answers with one of `statuses`.
    pub http_failures: u8,
    /// `tcp_failures`: connections that were refused or broke, TLS included.
    pub tcp_failures: u8,
    /// `timeouts`.
    pub timeouts: u8,
}

/// Reads `checks` at `base`, which the schema has accepted.
pub(super) fn read(
    checks: &Document,
    base: &str,
    scheme: Scheme,
    tls: Option<&UpstreamTls>,
    verdict: &mut Verdict,
) -> Option<Checks> {
    let active = members::object(checks, "active")?;
    let active = read_active(active, &format!("{base}/active"), scheme, tls, verdict)?;
    let passive = members::object(checks, "passive").map(read_passive);
    Some(Checks { active, passive })
}

fn read_active(
    active: &Document,
    base: &str,
    scheme: Scheme,
    tls: Option<&UpstreamTls>,
    verdict: &mut Verdict,
) -> Option<Active> {
    let kind = read_kind(active, base, scheme, tls, verdict);
    let at = |member: &str| format!("{base}/{member}");
    let timeout = active.get("timeout").map(members::seconds);
    let timeout = timeout.unwrap_or(Some(Duration::from_secs(1)));
    if timeout.is_none_or(|timeout| timeout.is_zero()) {
        verdict.refuse(at("timeout"), "the timeout of a check is above 0 seconds");
    }
    let concurrency = active.get("concurrency").map(members::count);
    let concurrency = concurrency.unwrap_or(Some(10)).filter(|count| *count > 0);
    if concurrency.is_none() {
        verdict.refuse(at("concurrency"), "the concurrency of checks is at least 1");
    }
    let text = |member: &str| members::text(active, member);
    let method = http::Method::from_bytes(text("http_method").unwrap_or("GET").as_bytes());
    if method.is_err() {
        verdict.refuse(at("http_method"), "http_method is no method of HTTP");
    }
    let path = text("http_path").unwrap_or("/");
    let is_rooted = path.starts_with('/');
    let path = path.parse::<PathAndQuery>().ok().filter(|_| is_rooted);
    if path.is_none() {
        let reason = "http_path is no path; write one that begins with `/`";
        verdict.refuse(at("http_path"), reason);
    }
    let headers = read_headers(active, base, verdict);
    let inner = |member: &str| members::object(active, member);
    let interval = |member: &str| {
        let seconds = inner(member).and_then(|inner| inner.get("interval"));
        let seconds = seconds.and_then(members::seconds);
        seconds.unwrap_or(Duration::from_secs(1))
    };
    Some(Active {
        kind,
        timeout: timeout?,
        concurrency: concurrency?,
        host: text("host").map(str::to_owned),
        port: active
            .get("port")
            .and_then(members::integer)
            .and_then(|port| u16::try_from(port).ok()),
        method: method.ok()?,
        path: path?,
        body: text("http_req_body").unwrap_or_default().to_owned(),
        headers,
        healthy: Healthy {
            statuses: statuses(inner("healthy"), &[200, 302]),
            successes: counter(inner("healthy"), "successes", 2),
        },
        healthy_interval: interval("healthy"),
        unhealthy: Unhealthy {
            statuses: statuses(
                inner("unhealthy"),
                &[429, 404, 500, 501, 502, 503, 504, 505],
            ),
            http_failures: counter(inner("unhealthy"), "http_failures", 5),
            tcp_failures: counter(inner("unhealthy"), "tcp_failures", 2),
            timeouts: counter(inner("unhealthy"), "timeouts", 3),
        },
        unhealthy_interval: interval("unhealthy"),
    })
}

fn read_kind(
    active: &Document,
    base: &str,
    scheme: Scheme,
    tls: Option<&UpstreamTls>,
    verdict: &mut Verdict,
) -> CheckKind {
    let kind = match members::text(active, "type") {
        Some("https") => CheckKind::Https,
        Some("tcp") => CheckKind::Tcp,
        _ => CheckKind::Http,
    };
    // Beside the port of its calls a node may have one of HTTP/1.1. Over TLS the upstream's own offer
    // of HTTP/2 would be made there too.
    let asks_elsewhere = kind == CheckKind::Http && active.contains_key("port");
    if scheme.is_http2() && kind != CheckKind::Tcp && !asks_elsewhere {
        let reason = format!(
            "checks of type {} speak HTTP/1.1, which a node of scheme grpc or grpcs does not; write \
             type tcp, or type http and the `port` where it does",
            kind.name()
        );
        verdict.refuse(format!("{base}/type"), reason);
    } else if kind == CheckKind::Https && !scheme.is_tls() {
        let reason = "checks of type https are made as the upstream's requests are, and those are \
                      not over TLS; write scheme https, or type http or tcp";
        verdict.refuse(format!("{base}/type"), reason);
    }
    let verify = members::flag(active, "https_verify_certificate");
    let at = format!("{base}/https_verify_certificate");
    match (verify, tls.is_some_and(|tls| tls.verify)) {
        (Some(_), _) if kind != CheckKind::Https => {
            verdict.warn_unused(at, "https_verify_certificate has no effect on other checks");
        }
        (Some(true), false) => {
            let reason = "https_verify_certificate needs tls.verify, whose trust it uses; write \
                          both, or leave it out";
            verdict.refuse(at, reason);
        }
        (Some(false), true) => {
            let text = "checks verify the certificate as requests do, because of tls.verify";
            verdict.warn("check_verifies", at, text);
        }
        _ => {}
    }
    kind
}

/// `req_headers`, as `Name: value`. What frames a message is not the writer's.
fn read_headers(
    active: &Document,
    base: &str,
    verdict: &mut Verdict,
) -> Vec<(HeaderName, HeaderValue)> {
    let framing = [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
    ];
    let mut headers = Vec::new();
    for (index, line) in members::texts(active, "req_headers") {
        let parts = line.split_once(':');
        let read = parts.and_then(|(name, value)| {
            let name = name.trim().parse::<HeaderName>().ok()?;
            let value = value.trim().parse::<HeaderValue>().ok()?;
            (!framing.contains(&name)).then_some((name, value))
        });
        match read {
            Some(read) => headers.push(read),
            None => {
                let reason = format!(
                    "req_headers: {} is no header that a check can send; write `Name: value`",
                    texts::shown(line)
                );
                verdict.refuse(format!("{base}/req_headers/{index}"), reason);
            }
        }
    }
    headers
}

fn read_passive(passive: &Document) -> Passive {
    let inner = |member: &str| members::object(passive, member);
    let successes: Vec<u16> = (200..=208).chain([226]).chain(300..=308).collect();
    Passive {
        healthy: Healthy {
            statuses: statuses(inner("healthy"), &successes),
            successes: counter(inner("healthy"), "successes", 5),
        },
        unhealthy: Unhealthy {
            statuses: statuses(inner("unhealthy"), &[429, 500, 503]),
            http_failures: counter(inner("unhealthy"), "http_failures", 5),
            tcp_failures: counter(inner("unhealthy"), "tcp_failures", 2),
            timeouts: counter(inner("unhealthy"), "timeouts", 7),
        },
    }
}

fn statuses(inner: Option<&Document>, default: &[u16]) -> Vec<u16> {
    let given = inner.and_then(|inner| inner.get("http_statuses")?.as_array());
    let Some(given) = given else {
        return default.to_vec();
    };
    let given = given.iter().filter_map(members::integer);
    given
        .filter_map(|status| u16::try_from(status).ok())
        .collect()
}

fn counter(inner: Option<&Document>, member: &str, default: u8) -> u8 {
    let given = inner.and_then(|inner| inner.get(member));
    let given = given.and_then(members::count);
    given.map_or(default, |count| u8::try_from(count).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::resource::Kind;
    use crate::resource::sample::{refusal, warnings};
    use crate::resource::upstream::tests::read;

    fn with(active: &Value) -> Value {
        json!({"nodes": {}, "checks": {"active": active}})
    }

    #[test]
    fn defaults_are_apisix_s() {
        let checks = read(&with(&json!({}))).checks.unwrap();
        assert_eq!(checks.passive, None);
        let active = checks.active;
        assert_eq!(active.kind, CheckKind::Http);
        assert_eq!(active.timeout, Duration::from_secs(1));
        assert_eq!((active.concurrency, active.port), (10, None));
        assert_eq!(
            (active.method, active.path.as_str()),
            (http::Method::GET, "/")
        );
        assert_eq!(active.healthy.statuses, [200, 302]);
        assert_eq!(active.healthy.successes, 2);
        assert_eq!(active.unhealthy.statuses.len(), 8);
        let limits = |unhealthy: &Unhealthy| {
            (
                unhealthy.http_failures,
                unhealthy.tcp_failures,
                unhealthy.timeouts,
            )
        };
        assert_eq!(limits(&active.unhealthy), (5, 2, 3));
        let body = json!({"nodes": {}, "checks": {"active": {}, "passive": {}}});
        let passive = read(&body).checks.unwrap().passive.unwrap();
        assert_eq!(passive.healthy.statuses.len(), 19);
        assert_eq!(passive.unhealthy.statuses, [429, 500, 503]);
        assert_eq!(limits(&passive.unhealthy), (5, 2, 7));
    }

    #[test]
    fn members_are_read() {
        let active = read(&with(&json!({
            "timeout": 0.5, "concurrency": 2, "host": "a.test", "port": 99,
            "http_method": "HEAD", "http_path": "/up?x=1", "http_req_body": "b",
            "req_headers": ["X-A: b", "Host:c.test"],
            "healthy": {"interval": 3, "http_statuses": [204], "successes": 9},
            "unhealthy": {"interval": 4, "http_failures": 1, "tcp_failures": 1, "timeouts": 1},
        })));
        let active = active.checks.unwrap().active;
        assert_eq!(active.timeout, Duration::from_millis(500));
        assert_eq!((active.concurrency, active.port), (2, Some(99)));
        assert_eq!(active.path.as_str(), "/up?x=1");
        assert_eq!(active.headers.len(), 2);
        assert_eq!(active.healthy.statuses, [204]);
        assert_eq!(active.healthy_interval, Duration::from_secs(3));
        assert_eq!(active.unhealthy_interval, Duration::from_secs(4));
        assert_eq!(active.unhealthy.timeouts, 1);
    }

    #[test]
    fn what_cannot_be_checked_is_refused() {
        for (active, text) in [
            (
                json!({"timeout": 0}),
                "the timeout of a check is above 0 seconds",
            ),
            (
                json!({"timeout": -1}),
                "the timeout of a check is above 0 seconds",
            ),
            (
                json!({"concurrency": 0}),
                "the concurrency of checks is at least 1",
            ),
            (
                json!({"http_method": "G T"}),
                "http_method is no method of HTTP",
            ),
            (
                json!({"http_path": "up"}),
                "http_path is no path; write one that begins with `/`",
            ),
            (
                json!({"req_headers": ["X-A"]}),
                "req_headers: X-A is no header that a check can send; write `Name: value`",
            ),
            (
                json!({"req_headers": ["Content-Length: 3"]}),
                "req_headers: Content-Length: 3 is no header that a check can send; write \
                 `Name: value`",
            ),
            (
                json!({"type": "https"}),
                "checks of type https are made as the upstream's requests are, and those are not \
                 over TLS; write scheme https, or type http or tcp",
            ),
        ] {
            assert_eq!(refusal(Kind::Upstream, &with(&active)), text, "{active}");
        }
        let mut grpc = with(&json!({}));
        grpc["scheme"] = json!("grpc");
        let refused = "which a node of scheme grpc or grpcs does not; write type tcp, or type http \
                       and the `port` where it does";
        assert!(refusal(Kind::Upstream, &grpc).ends_with(refused));
        for (scheme, active, is_taken) in [
            ("grpc", json!({"type": "tcp"}), true),
            ("grpc", json!({"port": 99}), true),
            ("grpcs", json!({"type": "http", "port": 99}), true),
            ("grpcs", json!({"type": "https", "port": 99}), false),
        ] {
            let mut upstream = with(&active);
            upstream["scheme"] = json!(scheme);
            if is_taken {
                read(&upstream);
            } else {
                assert!(refusal(Kind::Upstream, &upstream).ends_with(refused));
            }
        }
        let mut https = with(&json!({"type": "https", "https_verify_certificate": true}));
        https["scheme"] = json!("https");
        assert!(refusal(Kind::Upstream, &https).starts_with("https_verify_certificate needs"));
        https["checks"]["active"]["https_verify_certificate"] = json!(false);
        assert_eq!(warnings(Kind::Upstream, &https), ["upstream_not_verified"]);
    }
}
