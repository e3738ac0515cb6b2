//! Failures in the process log, as nginx's error log has them: the first of a kind at once, what
//! follows as one line with its count. What happened to each request is the access record's to say.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::failure::{Blame, Reason};
use crate::telemetry::access::{Kind, Record, visible};

/// How long failures of one kind are only counted, in milliseconds.
const WINDOW_MILLIS: u64 = 10_000;
/// How many kinds are told apart at a time; those that come then are told by their reason alone.
const KINDS: usize = 256;

/// Which failures are one kind: a reason, and the upstream or ssl that it met. What a stranger can
/// choose, such as a server name, is no part of it.
type About = (Reason, Option<Box<str>>);

/// What is being counted. One for the process.
#[derive(Debug, Default)]
pub struct Notices {
    windows: Mutex<HashMap<About, Window>>,
}

/// What came of one kind since it was told last.
#[derive(Debug)]
struct Window {
    until_millis: u64,
    count: u64,
    /// The last one.
    last: Option<Facts>,
}

/// What a line says of a failure. Texts are as in the access record: escaped and cut.
#[derive(Debug, Default)]
struct Facts {
    detail: Option<String>,
    peer: String,
    sni: Option<String>,
    ssl_id: Option<String>,
    route_id: Option<String>,
    upstream_id: Option<String>,
    node: Option<String>,
    upstream_sni: Option<String>,
    request_id: Option<String>,
}

impl Notices {
    /// Tells a failure, or counts it. Takes a lock for the time of a look-up.
    pub fn push(&self, record: &Record<'_>, reason: Reason) {
        if is_told(record.kind, reason) && self.is_first(record, reason, record.at_millis) {
            Facts::of(record).tell(reason, 1);
        }
    }

    /// Tells what was counted in windows that are over.
    pub fn sweep(&self, now_millis: u64) {
        for (reason, count, last) in self.take_over(now_millis) {
            last.tell(reason, count);
        }
    }

    /// Whether it opens a window; if not it was counted.
    fn is_first(&self, record: &Record<'_>, reason: Reason, now_millis: u64) -> bool {
        let mut windows = self.windows();
        let mut about = about(record, reason);
        if windows.len() >= KINDS && !windows.contains_key(&about) {
            about.1 = None;
        }
        match windows.get_mut(&about) {
            Some(window) => {
                window.count = window.count.saturating_add(1);
                window.last = Some(Facts::of(record));
                false
            }
            None => {
                let window = Window {
                    until_millis: now_millis.saturating_add(WINDOW_MILLIS),
                    count: 0,
                    last: None,
                };
                windows.insert(about, window);
                true
            }
        }
    }

    /// What windows that are over have counted. Those that counted something go on.
    fn take_over(&self, now_millis: u64) -> Vec<(Reason, u64, Facts)> {
        let mut over = Vec::new();
        self.windows().retain(|(reason, _), window| {
            if window.until_millis > now_millis {
                return true;
            }
            let Some(last) = window.last.take() else {
                return false;
            };
            over.push((*reason, std::mem::take(&mut window.count), last));
            window.until_millis = now_millis.saturating_add(WINDOW_MILLIS);
            true
        });
        over
    }

    fn windows(&self) -> MutexGuard<'_, HashMap<About, Window>> {
        // No step under the lock leaves a window half done.
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether it is for the log: what upstreams and the gateway itself did, and of clients how TLS
/// ended. A client that asks for what is not there, or leaves, is the access record's.
fn is_told(kind: Kind, reason: Reason) -> bool {
    match reason.blame() {
        Blame::Upstream | Blame::Us => true,
        Blame::Client => {
            reason != Reason::ClientGone
                && (kind == Kind::Handshake || reason.is_client_certificate())
        }
    }
}

fn about(record: &Record<'_>, reason: Reason) -> About {
    (reason, record.upstream_id.or(record.ssl_id).map(Box::from))
}

impl Facts {
    fn of(record: &Record<'_>) -> Self {
        let owned = |text: Option<&str>| text.map(|text| visible(text.as_bytes()));
        Self {
            detail: owned(record.detail),
            peer: record.peer.to_string(),
            sni: record.sni.map(visible),
            ssl_id: owned(record.ssl_id),
            route_id: owned(record.route_id),
            upstream_id: owned(record.upstream_id),
            node: owned(record.node),
            upstream_sni: owned(record.upstream_sni),
            request_id: owned(record.request_id),
        }
    }

    /// A client's fault is no warning: strangers make them at will.
    fn tell(&self, reason: Reason, count: u64) {
        macro_rules! tell {
            ($level:ident, $what:literal) => {
                tracing::$level!(
                    reason = reason.code(),
                    count,
                    detail = self.detail,
                    peer = self.peer,
                    sni = self.sni,
                    ssl_id = self.ssl_id,
                    route_id = self.route_id,
                    upstream_id = self.upstream_id,
                    node = self.node,
                    upstream_sni = self.upstream_sni,
                    request_id = self.request_id,
                    remedy = reason.remedy_in_short(),
                    $what
                )
            };
        }
        match reason.blame() {
            Blame::Client => tell!(info, "a client's TLS failed"),
            Blame::Upstream => tell!(warn, "an upstream failed"),
            Blame::Us => tell!(warn, "a request or handshake failed here"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(upstream: &'static str) -> Record<'static> {
        let peer = "192.0.2.1:5000".parse().unwrap();
        Record {
            upstream_id: Some(upstream),
            detail: Some("why"),
            ..Record::new(Kind::Request, 0, "http", peer)
        }
    }

    #[test]
    fn the_first_of_a_kind_is_told_and_the_rest_counted_for_a_window() {
        let notices = Notices::default();
        let reason = Reason::UpstreamCaUnknown;
        assert!(notices.is_first(&record("a"), reason, 0));
        assert!(!notices.is_first(&record("a"), reason, 1));
        assert!(!notices.is_first(&record("a"), reason, 2));
        // Another upstream, another reason: other kinds.
        assert!(notices.is_first(&record("b"), reason, 2));
        assert!(notices.is_first(&record("a"), Reason::UpstreamReset, 2));
        assert!(notices.take_over(WINDOW_MILLIS - 1).is_empty());

        let over = notices.take_over(WINDOW_MILLIS + 2);
        let counts: Vec<_> = over
            .iter()
            .map(|(reason, count, _)| (*reason, *count))
            .collect();
        assert_eq!(counts, [(reason, 2)]);
        assert_eq!(over[0].2.detail.as_deref(), Some("why"));
        // What counted something goes on counting; what did not is new when it comes again.
        assert!(!notices.is_first(&record("a"), reason, WINDOW_MILLIS + 3));
        assert!(notices.is_first(&record("b"), reason, WINDOW_MILLIS + 3));
    }

    #[test]
    fn kinds_that_are_told_apart_are_bounded() {
        let notices = Notices::default();
        let names: Vec<String> = (0..2 * KINDS).map(|number| number.to_string()).collect();
        let mut told = 0;
        for name in &names {
            let peer = "192.0.2.1:5000".parse().unwrap();
            let record = Record {
                ssl_id: Some(name),
                ..Record::new(Kind::Handshake, 0, "https", peer)
            };
            told += usize::from(notices.is_first(&record, Reason::ClientCertExpired, 0));
        }
        assert_eq!(told, KINDS + 1);
        assert_eq!(notices.windows().len(), KINDS + 1);
    }

    #[test]
    fn what_clients_do_is_told_where_it_is_about_tls() {
        for (kind, reason, is_it) in [
            (Kind::Handshake, Reason::SniUnknown, true),
            (Kind::Handshake, Reason::ClientGone, false),
            (Kind::Request, Reason::ClientCertMissing, true),
            (Kind::Request, Reason::RouteNotFound, false),
            (Kind::Request, Reason::UpstreamRefused, true),
            (Kind::Request, Reason::UpstreamNotReady, true),
        ] {
            assert_eq!(is_told(kind, reason), is_it, "{reason}");
        }
    }
}
