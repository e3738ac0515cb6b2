//! What TLS handshakes agreed on, counted since the start.
//!
//! Each thread that a listener's clients shake hands with has counters of its own, so that counting
//! is one addition to a number that no other thread writes. Whom the gateway calls is counted by
//! object, looked up when a connection was opened. Names come from tables: what is not in them is counted as
//! `other`, never dropped.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

/// Version and suite, OpenSSL's names.
const SUITES: [(&str, &str); 9] = [
    ("TLSv1.3", "TLS_AES_256_GCM_SHA384"),
    ("TLSv1.3", "TLS_AES_128_GCM_SHA256"),
    ("TLSv1.3", "TLS_CHACHA20_POLY1305_SHA256"),
    ("TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384"),
    ("TLSv1.2", "ECDHE-RSA-AES256-GCM-SHA384"),
    ("TLSv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256"),
    ("TLSv1.2", "ECDHE-RSA-AES128-GCM-SHA256"),
    ("TLSv1.2", "ECDHE-ECDSA-CHACHA20-POLY1305"),
    ("TLSv1.2", "ECDHE-RSA-CHACHA20-POLY1305"),
];
/// Groups of the key exchange; the first where there was none (a session of TLS 1.2 resumed).
const GROUPS: [&str; 5] = [NO_GROUP, "P-256", "P-384", "P-521", "X25519"];
const NO_GROUP: &str = "none";
/// Signature algorithms, as lists of them are written (`SSL_CTX_set1_sigalgs_list(3)`).
const SIGNATURES: [&str; 10] = [
    "ECDSA+SHA256",
    "ECDSA+SHA384",
    "ECDSA+SHA512",
    "RSA-PSS+SHA256",
    "RSA-PSS+SHA384",
    "RSA-PSS+SHA512",
    "RSA+SHA256",
    "RSA+SHA384",
    "RSA+SHA512",
    "ed25519",
];
/// What is in no table.
const OTHER: &str = "other";
const SUITE_COUNT: usize = SUITES.len() + 1;
const GROUP_COUNT: usize = GROUPS.len() + 1;
const SIGNATURE_COUNT: usize = SIGNATURES.len() + 1;

/// What one handshake agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// OpenSSL's name of the suite, which implies the version.
    pub suite: &'static str,
    /// The group of the key exchange; `None` where there was none.
    pub group: Option<&'static str>,
    /// What we signed with; `None` where we did not sign.
    pub ours: Option<&'static str>,
    /// What the peer signed with; `None` where it did not sign.
    pub theirs: Option<&'static str>,
    /// Whether a session was resumed.
    pub is_resumed: bool,
}

/// The most objects that have counters of their own, a kilobyte each; further ones share one.
const OBJECTS: usize = 1000;
/// The place of objects beyond those.
const REST: &str = "others";

/// Counters for one place: those of one thread for a listener, or those of an object that is called.
#[derive(Debug)]
pub struct Counts {
    place: String,
    exchanges: [[[AtomicU64; 2]; GROUP_COUNT]; SUITE_COUNT],
    signatures: [[AtomicU64; SIGNATURE_COUNT]; 2],
}

impl Counts {
    fn new(place: &str) -> Self {
        Self {
            place: place.to_owned(),
            exchanges: Default::default(),
            signatures: Default::default(),
        }
    }

    /// Counts a handshake that succeeded.
    pub fn add(&self, agreed: &Agreed) {
        let suite = position(SUITES.iter().map(|(_, suite)| *suite), agreed.suite);
        let group = position(GROUPS.into_iter(), agreed.group.unwrap_or(NO_GROUP));
        let cell = self.exchanges.get(suite).and_then(|row| row.get(group));
        if let Some(cell) = cell.and_then(|cell| cell.get(usize::from(agreed.is_resumed))) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
        for (counters, name) in self.signatures.iter().zip([agreed.ours, agreed.theirs]) {
            let index = name.map(|name| position(SIGNATURES.into_iter(), name));
            if let Some(counter) = index.and_then(|index| counters.get(index)) {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Where a name stands in its table; after the last where it is in none.
fn position(mut table: impl ExactSizeIterator<Item = &'static str>, name: &str) -> usize {
    let len = table.len();
    table.position(|known| known == name).unwrap_or(len)
}

/// All counters.
#[derive(Debug, Default)]
pub struct Negotiated {
    /// Of each thread for each listener.
    listeners: Mutex<Vec<Arc<Counts>>>,
    /// Of each object that is called; at most [`OBJECTS`] and [`REST`].
    objects: Mutex<BTreeMap<String, Arc<Counts>>>,
}

impl Negotiated {
    /// Counters for one more thread of a listener; taken once, before its first handshake.
    #[must_use]
    pub fn counts(&self, place: &'static str) -> Arc<Counts> {
        let counts = Arc::new(Counts::new(place));
        let mut all = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.push(counts.clone());
        counts
    }

    /// Counts a handshake with a server: of an upstream (`upstreams/1`), or of a secret manager
    /// (its host and port).
    pub fn called(&self, object: &str, agreed: &Agreed) {
        let mut all = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let object = if all.contains_key(object) || all.len() < OBJECTS {
            object
        } else {
            REST
        };
        let counts = match all.get(object) {
            Some(counts) => Arc::clone(counts),
            None => {
                let new = all.entry(object.to_owned());
                Arc::clone(new.or_insert_with(|| Arc::new(Counts::new(object))))
            }
        };
        drop(all);
        counts.add(agreed);
    }

    /// All that was counted, listeners in the order in which they were named, then objects: per place
    /// `handshakes`, each combination that occurred with its count, and `signatures`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut all = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(objects.values().cloned());
        drop(objects);
        let mut places: Vec<&str> = Vec::new();
        for counts in &all {
            if !places.contains(&counts.place.as_str()) {
                places.push(&counts.place);
            }
        }
        let shown = places.into_iter().map(|place| {
            let of_place = || all.iter().filter(move |counts| counts.place == place);
            json!({
                "place": place,
                "handshakes": exchanges(&of_place),
                "signatures": signatures(&of_place),
            })
        });
        shown.collect()
    }
}

fn exchanges<'a, I: Iterator<Item = &'a Arc<Counts>>>(all: &impl Fn() -> I) -> Vec<Value> {
    let suites = SUITES.into_iter().chain([(OTHER, OTHER)]);
    let mut rows = Vec::new();
    for (at_suite, (version, suite)) in suites.enumerate() {
        for (at_group, group) in GROUPS.into_iter().chain([OTHER]).enumerate() {
            for (at_resumed, is_resumed) in [false, true].into_iter().enumerate() {
                let count = sum(all().filter_map(|counts| {
                    let row = counts.exchanges.get(at_suite)?;
                    row.get(at_group)?.get(at_resumed)
                }));
                if count > 0 {
                    rows.push(json!({
                        "version": version, "suite": suite, "group": group,
                        "resumed": is_resumed, "count": count,
                    }));
                }
            }
        }
    }
    rows
}

fn signatures<'a, I: Iterator<Item = &'a Arc<Counts>>>(all: &impl Fn() -> I) -> Vec<Value> {
    let mut rows = Vec::new();
    for (at_side, by) in ["gateway", "peer"].into_iter().enumerate() {
        for (at, algorithm) in SIGNATURES.into_iter().chain([OTHER]).enumerate() {
            let count = sum(all().filter_map(|counts| counts.signatures.get(at_side)?.get(at)));
            if count > 0 {
                rows.push(json!({ "by": by, "algorithm": algorithm, "count": count }));
            }
        }
    }
    rows
}

fn sum<'a>(counters: impl Iterator<Item = &'a AtomicU64>) -> u64 {
    counters
        .map(|counter| counter.load(Ordering::Relaxed))
        .fold(0, u64::saturating_add)
}

/// Whether a suite, group or signature algorithm has a counter of its own.
#[must_use]
pub fn is_known(name: &str) -> bool {
    SUITES.iter().any(|(_, suite)| *suite == name)
        || GROUPS.contains(&name)
        || SIGNATURES.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGREED: Agreed = Agreed {
        suite: "TLS_AES_256_GCM_SHA384",
        group: Some("P-256"),
        ours: Some("ECDSA+SHA256"),
        theirs: None,
        is_resumed: false,
    };

    #[test]
    fn handshakes_of_all_threads_are_summed_by_place() {
        let negotiated = Negotiated::default();
        let (one, other) = (negotiated.counts("https"), negotiated.counts("https"));
        one.add(&AGREED);
        other.add(&AGREED);
        let mutual = Agreed {
            theirs: Some("RSA-PSS+SHA256"),
            ..AGREED
        };
        other.add(&mutual);
        let resumed = Agreed {
            suite: "ECDHE-RSA-AES128-GCM-SHA256",
            group: None,
            ours: None,
            theirs: None,
            is_resumed: true,
        };
        negotiated.called("upstreams/1", &resumed);
        let expected = json!([
            {
                "place": "https",
                "handshakes": [{
                    "version": "TLSv1.3", "suite": "TLS_AES_256_GCM_SHA384",
                    "group": "P-256", "resumed": false, "count": 3,
                }],
                "signatures": [
                    {"by": "gateway", "algorithm": "ECDSA+SHA256", "count": 3},
                    {"by": "peer", "algorithm": "RSA-PSS+SHA256", "count": 1},
                ],
            },
            {
                "place": "upstreams/1",
                "handshakes": [{
                    "version": "TLSv1.2", "suite": "ECDHE-RSA-AES128-GCM-SHA256",
                    "group": "none", "resumed": true, "count": 1,
                }],
                "signatures": [],
            },
        ]);
        assert_eq!(negotiated.to_json(), expected);
    }

    #[test]
    fn objects_beyond_the_bound_share_a_place() {
        let negotiated = Negotiated::default();
        for turn in 0..2 {
            for number in 0..OBJECTS + 2 {
                negotiated.called(&format!("upstreams/{number:04}"), &AGREED);
            }
            let told = negotiated.to_json();
            let places = told.as_array().unwrap();
            assert_eq!(places.len(), OBJECTS + 1);
            let count = |place: &str| {
                let found = places.iter().find(|row| row["place"] == place).unwrap();
                found["handshakes"][0]["count"].as_u64().unwrap()
            };
            assert_eq!(
                (count("upstreams/0000"), count(REST)),
                (turn + 1, 2 * (turn + 1))
            );
        }
    }

    #[test]
    fn what_has_no_name_here_is_counted_as_other() {
        let negotiated = Negotiated::default();
        negotiated.counts("https").add(&Agreed {
            suite: "AES128-SHA",
            group: Some("a new one"),
            ours: Some("a new one"),
            ..AGREED
        });
        let told = negotiated.to_json();
        let row = &told[0]["handshakes"][0];
        assert_eq!(
            (&row["suite"], &row["group"]),
            (&json!("other"), &json!("other"))
        );
        assert_eq!(told[0]["signatures"][0]["algorithm"], "other");
    }
}
