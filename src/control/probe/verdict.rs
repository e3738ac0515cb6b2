//! What a probe found, in a sentence for each node, with the evidence.

use std::time::Duration;

use serde_json::{Value, json};

use super::{NODES, Probed};
use crate::crypto::digest::Sha256;
use crate::failure::Reason;
use crate::net::dial::DialError;
use crate::net::look::Look;
use crate::snapshot::{Node, Upstream};
use crate::telemetry::time::rfc3339_seconds;
use crate::tls::material::{self, Certificate};
use crate::tls::peer::Served;

/// What a probe found.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was probed, as in `route/r`.
    pub object: String,
    /// What holds the nodes, as in `service/s`; `None` where it is closed.
    pub upstream: Option<String>,
    /// Whether every node that was asked can be used; false where none was.
    pub is_good: bool,
    /// A sentence.
    pub verdict: String,
    /// Why it is closed, where it is.
    pub closed: Option<Reason>,
    /// The nodes that were asked, in their order.
    pub nodes: Vec<Judged>,
}

/// What was found of a node.
#[derive(Clone, Debug)]
pub struct Judged {
    /// `host:port`.
    pub node: String,
    /// Why requests to it would fail; `None` where they would not.
    pub reason: Option<Reason>,
    /// A sentence.
    pub verdict: String,
    /// OpenSSL's or the system's words on the failure.
    pub detail: Option<String>,
    /// The name that it was asked for; `None` in the clear.
    pub name: Option<String>,
    /// Version and suite that were agreed on, where a handshake came that far.
    pub agreed: Option<(&'static str, &'static str)>,
    /// Whether the certificate was checked, and what came of it.
    pub verification: &'static str,
    /// Whether it asked for a client certificate.
    pub was_asked: bool,
    /// Subject of the one that is shown where asked.
    pub shown: Option<String>,
    /// Its chain as sent, leaf first, a certificate's facts each.
    pub chain: Vec<Value>,
    /// How long it took.
    pub took: Duration,
}

impl Report {
    pub(super) fn closed(object: String, reason: Reason) -> Self {
        let verdict = format!("{object} is closed ({reason}): {}", reason.meaning());
        Self {
            object,
            upstream: None,
            is_good: false,
            verdict,
            closed: Some(reason),
            nodes: Vec::new(),
        }
    }

    /// Nobody knows its nodes, for `why`.
    pub(super) fn unresolved(object: String, why: &str) -> Self {
        let verdict = format!("{object} has no node: its `service_name` leads nowhere: {why}.");
        Self {
            object,
            upstream: None,
            is_good: false,
            verdict,
            closed: Some(Reason::UpstreamUnresolvable),
            nodes: Vec::new(),
        }
    }

    /// `all_count`: how many nodes there are.
    pub(super) fn new(
        object: String,
        upstream: &Upstream,
        nodes: Vec<Judged>,
        all_count: usize,
    ) -> Self {
        let good_count = nodes.iter().filter(|node| node.reason.is_none()).count();
        let verdict = match nodes.as_slice() {
            [] => format!("{object} has no node: its requests are answered with 503."),
            [only] if all_count == 1 => only.verdict.clone(),
            nodes => {
                let more = match all_count.saturating_sub(nodes.len()) {
                    0 => String::new(),
                    more => format!("; {more} more were not asked, as a probe asks {NODES}"),
                };
                format!(
                    "{object}: {good_count} of {} nodes are good{more}.",
                    nodes.len()
                )
            }
        };
        Self {
            object,
            upstream: Some(format!("{}/{}", upstream.owner.kind, upstream.owner.id)),
            is_good: good_count == nodes.len() && good_count > 0,
            verdict,
            closed: None,
            nodes,
        }
    }

    /// As the Admin API shows it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "good": self.is_good,
            "verdict": self.verdict,
            "object": self.object,
            "upstream": self.upstream,
            "reason": self.closed.map(Reason::code),
            "remedy": self.closed.map(Reason::remedy),
            "nodes": self.nodes.iter().map(Judged::to_json).collect::<Vec<_>>(),
        })
    }
}

impl Judged {
    fn to_json(&self) -> Value {
        json!({
            "node": self.node,
            "good": self.reason.is_none(),
            "verdict": self.verdict,
            "reason": self.reason.map(Reason::code),
            "remedy": self.reason.map(Reason::remedy),
            "detail": self.detail,
            "name": self.name,
            "version": self.agreed.map(|(version, _)| version),
            "cipher": self.agreed.map(|(_, cipher)| cipher),
            "verification": self.verification,
            "client_certificate_asked": self.was_asked,
            "client_certificate": self.shown,
            "chain": self.chain,
            "took_ms": u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

/// Judges what was seen of a node. `now` is in seconds since the epoch.
pub(super) fn judge(probed: &Probed<'_>, node: &Node, look: Look, now: i64) -> Judged {
    let Look {
        outcome,
        served,
        was_asked,
        took,
    } = look;
    let address = node.address();
    let name = probed.name(node).map(str::to_owned);
    let verdict = match &outcome {
        Ok(()) => good(
            probed,
            &address,
            name.as_deref(),
            served.as_ref(),
            was_asked,
            now,
        ),
        Err(error) => bad(&address, name.as_deref(), error, served.as_ref(), now),
    };
    let is_checked = probed.connector.as_ref().map(|it| it.verify);
    let error = outcome.err();
    let reason = error.as_ref().map(|error| error.reason);
    let verification = match (is_checked, reason) {
        (None, _) => "in the clear",
        (Some(false), _) => "not checked",
        (Some(true), Some(reason)) if reason.is_distrust() => "failed",
        (Some(true), _) if served.is_none() => "not come to",
        (Some(true), _) => "verified",
    };
    let agreed = served
        .as_ref()
        .map(|served| (served.version, served.cipher));
    let chain = served.iter().flat_map(|served| &served.chain);
    Judged {
        node: address,
        reason,
        verdict,
        detail: error.map(|error| error.detail),
        name,
        agreed,
        verification,
        was_asked,
        shown: probed.shown.clone(),
        chain: chain.map(|certificate| facts(certificate, now)).collect(),
        took,
    }
}

fn good(
    probed: &Probed<'_>,
    address: &str,
    name: Option<&str>,
    served: Option<&Served>,
    was_asked: bool,
    now: i64,
) -> String {
    let (Some(connector), Some(name)) = (&probed.connector, name) else {
        return format!(
            "{address} takes connections; the scheme is without TLS, so nothing is encrypted and \
             nobody is checked."
        );
    };
    let who = served.and_then(|served| served.chain.first());
    let who = who.map_or_else(|| "nobody".to_owned(), |leaf| identity(leaf, now));
    let checked = if connector.verify {
        format!("verified for {name}")
    } else {
        "not checked, as `verify` is off".to_owned()
    };
    let client = match (was_asked, &probed.shown) {
        (true, Some(shown)) => format!("it took our certificate {shown}"),
        (true, None) => "it asks for a client certificate and none is configured, which some \
                         servers, nginx among them, refuse only when a request comes"
            .to_owned(),
        (false, Some(shown)) => {
            format!("it asks for no client certificate, so {shown} is not shown")
        }
        (false, None) => "it asks for no client certificate".to_owned(),
    };
    let (version, cipher) = served.map_or(("", ""), |served| (served.version, served.cipher));
    format!("{address} is good: {who}, {checked}; {client}; {version}, {cipher}.")
}

fn bad(
    address: &str,
    name: Option<&str>,
    error: &DialError,
    served: Option<&Served>,
    now: i64,
) -> String {
    let DialError { reason, detail } = error;
    let seen = served.and_then(|served| served.chain.first());
    let seen = seen.map(|leaf| format!(" It shows {}.", identity(leaf, now)));
    let asked = name.map(|name| format!(" for {name}")).unwrap_or_default();
    format!(
        "{address} cannot be used{asked} ({reason}): {detail}.{} {}",
        seen.unwrap_or_default(),
        reason.remedy()
    )
}

/// A server in a few words.
fn identity(leaf: &Certificate, now: i64) -> String {
    let (_, until) = material::validity(leaf).unwrap_or_default();
    let day = rfc3339_seconds(until);
    let left = match days_left(until, now) {
        days if days < 0 => "which has passed".to_owned(),
        1 => "1 day left".to_owned(),
        days => format!("{days} days left"),
    };
    format!(
        "{} of {} until {} ({left})",
        material::subject(leaf),
        material::issuer(leaf),
        day.split('T').next().unwrap_or_default()
    )
}

/// A certificate's facts.
fn facts(certificate: &Certificate, now: i64) -> Value {
    let (from, until) = material::validity(certificate).unwrap_or_default();
    let digest = material::fingerprint(certificate).map(Sha256::from_bytes);
    json!({
        "subject": material::subject(certificate),
        "issuer": material::issuer(certificate),
        "serial": material::serial(certificate),
        "not_before": rfc3339_seconds(from),
        "not_after": rfc3339_seconds(until),
        "days_left": days_left(until, now),
        "names": material::dns_names(certificate),
        "sha256": digest.map(|it| it.to_string()).unwrap_or_default(),
    })
}

/// Whole days until an end; negative where it has passed.
const fn days_left(until: i64, now: i64) -> i64 {
    until.saturating_sub(now).div_euclid(86_400)
}
