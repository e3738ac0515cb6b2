//! The last failures, for `GET /portcullis/v1/failures`: a bounded ring, and counts since start.
//! The process log hears of them too.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};

use crate::failure::Reason;
use crate::telemetry::access::{Kind, Record, visible};
use crate::telemetry::notices::Notices;
use crate::telemetry::time::rfc3339_millis;

/// How many failures are kept.
pub const KEPT_COUNT: usize = 1000;

/// One failure as it is kept. Texts are as in the access record: escaped and cut.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When, milliseconds since the epoch.
    pub at_millis: u64,
    /// Its name.
    pub reason: Reason,
    /// In a handshake or in a request.
    pub kind: Kind,
    /// The causes, outermost first. No key material.
    pub detail: Option<String>,
    /// The request's id, as the peer got it.
    pub request_id: Option<String>,
    /// The peer.
    pub peer: SocketAddr,
    /// The name in the client's hello.
    pub sni: Option<String>,
    /// The name in the request.
    pub authority: Option<String>,
    /// The path without its query.
    pub path: Option<String>,
    /// What the peer was answered.
    pub status: Option<u16>,
    /// Subject of the client's certificate.
    pub client_subject: Option<String>,
    /// Serial of the client's certificate.
    pub client_serial: Option<String>,
    /// The ssl that served the name.
    pub ssl_id: Option<String>,
    /// The route that matched.
    pub route_id: Option<String>,
    /// The upstream chosen.
    pub upstream_id: Option<String>,
    /// The node chosen.
    pub node: Option<String>,
}

/// The last [`KEPT_COUNT`] failures and a count for each reason. One for the process.
#[derive(Debug)]
pub struct Failures {
    ring: Mutex<VecDeque<Failure>>,
    counts: [AtomicU64; Reason::COUNT],
    notices: Notices,
}

impl Default for Failures {
    fn default() -> Self {
        Self {
            ring: Mutex::new(VecDeque::with_capacity(KEPT_COUNT)),
            counts: [const { AtomicU64::new(0) }; Reason::COUNT],
            notices: Notices::default(),
        }
    }
}

impl Failures {
    /// Keeps a failed record. Takes locks for the time of one move each.
    pub fn push(&self, record: &Record<'_>, reason: Reason) {
        if let Some(count) = self.counts.get(reason.index()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let failure = Failure::new(record, reason);
        let mut ring = self.ring();
        let oldest = if ring.len() == KEPT_COUNT {
            ring.pop_front()
        } else {
            None
        };
        ring.push_back(failure);
        drop(ring);
        drop(oldest);
        self.notices.push(record, reason);
    }

    /// Has the process log told of what was only counted so far; to be called now and then with
    /// the milliseconds since the epoch, and at the end with `u64::MAX`.
    pub fn sweep(&self, now_millis: u64) {
        self.notices.sweep(now_millis);
    }

    /// The newest failures first, at most `limit`, of one reason or of all.
    #[must_use]
    pub fn latest(&self, limit: usize, reason: Option<Reason>) -> Vec<Failure> {
        let ring = self.ring();
        let wanted = |failure: &&Failure| reason.is_none_or(|reason| failure.reason == reason);
        ring.iter()
            .rev()
            .filter(wanted)
            .take(limit)
            .cloned()
            .collect()
    }

    /// How often each reason occurred since start; those that did not are left out.
    #[must_use]
    pub fn counts(&self) -> Vec<(Reason, u64)> {
        let counts = self
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        Reason::ALL
            .into_iter()
            .zip(counts)
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    fn ring(&self) -> MutexGuard<'_, VecDeque<Failure>> {
        // No step under the lock leaves the ring half done.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Failure {
    fn new(record: &Record<'_>, reason: Reason) -> Self {
        let owned = |text: Option<&str>| text.map(|text| visible(text.as_bytes()));
        Self {
            at_millis: record.at_millis,
            reason,
            kind: record.kind,
            detail: owned(record.detail),
            request_id: owned(record.request_id),
            peer: record.peer,
            sni: record.sni.map(visible),
            authority: record.authority.map(visible),
            path: record.path.map(visible),
            status: record.status,
            client_subject: owned(record.client.map(|client| client.subject.as_str())),
            client_serial: owned(record.client.map(|client| client.serial.as_str())),
            ssl_id: owned(record.ssl_id),
            route_id: owned(record.route_id),
            upstream_id: owned(record.upstream_id),
            node: owned(record.node),
        }
    }

    /// The failure as a JSON object with the access record's member names; absent facts are left
    /// out.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                object.insert(name.to_owned(), value);
            }
        };
        let text = |text: &Option<String>| text.clone().map(Value::from);
        put("time", Some(rfc3339_millis(self.at_millis).into()));
        put("kind", Some(self.kind.code().into()));
        put("reason", Some(self.reason.code().into()));
        put("blame", Some(self.reason.blame().code().into()));
        put("detail", text(&self.detail));
        put("request_id", text(&self.request_id));
        put("peer", Some(self.peer.to_string().into()));
        put("sni", text(&self.sni));
        put("authority", text(&self.authority));
        put("path", text(&self.path));
        put("status", self.status.map(Value::from));
        put("client_subject", text(&self.client_subject));
        put("client_serial", text(&self.client_serial));
        put("ssl_id", text(&self.ssl_id));
        put("route_id", text(&self.route_id));
        put("upstream_id", text(&self.upstream_id));
        put("node", text(&self.node));
        Value::Object(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(at_millis: u64) -> Record<'static> {
        let peer = "192.0.2.1:5000".parse().unwrap();
        Record {
            sni: Some(b"a\nb.test"),
            ..Record::new(Kind::Handshake, at_millis, "https", peer)
        }
    }

    #[test]
    fn ring_keeps_the_newest_and_counts_all() {
        let failures = Failures::default();
        let count = u64::try_from(KEPT_COUNT).unwrap() + 5;
        for at in 0..count {
            failures.push(&record(at), Reason::SniUnknown);
        }
        let latest = failures.latest(usize::MAX, None);
        assert_eq!(latest.len(), KEPT_COUNT);
        assert_eq!(
            (latest[0].at_millis, latest[KEPT_COUNT - 1].at_millis),
            (count - 1, 5)
        );
        assert_eq!(failures.counts(), [(Reason::SniUnknown, count)]);
    }

    #[test]
    fn latest_can_be_limited_and_of_one_reason() {
        let failures = Failures::default();
        failures.push(&record(1), Reason::SniUnknown);
        failures.push(&record(2), Reason::SniMissing);
        failures.push(&record(3), Reason::SniUnknown);
        let times = |limit, reason| -> Vec<u64> {
            failures
                .latest(limit, reason)
                .iter()
                .map(|failure| failure.at_millis)
                .collect()
        };
        assert_eq!(times(9, Some(Reason::SniUnknown)), [3, 1]);
        assert_eq!(times(2, None), [3, 2]);
    }

    #[test]
    fn json_has_the_facts_and_no_control_characters() {
        let failures = Failures::default();
        failures.push(&record(1), Reason::SniUnknown);
        let json = failures.latest(1, None)[0].to_json().to_string();
        assert_eq!(
            json,
            r#"{"time":"1970-01-01T00:00:00.001Z","kind":"handshake","reason":"sni_unknown","blame":"client","peer":"192.0.2.1:5000","sni":"a\\x0ab.test"}"#
        );
    }
}
