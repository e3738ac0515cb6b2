//! Which names lead to a route, and whether one of them asks less of clients than another.
//!
//! A route is found by host, a policy by name, and the two need not agree: a route without hosts
//! answers for every name, and `*.a.com` stands for any depth in a route but for one label in an
//! ssl. Nothing is wrong with either; together they may let in whom the other keeps out.

use imbl::OrdSet;

use crate::matching::host::HostPattern;
use crate::matching::sni::SniPattern;
use crate::resource::{Id, Kind};
use crate::snapshot::{Name, Snapshot};
use crate::tls::policy::ClientAuth;

/// How what no ssl claims is called.
const UNCLAIMED: &str = "a name that no ssl claims";

/// Names that lead to one place and do not ask the same of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uneven {
    /// A name that requires a client certificate.
    pub strict: String,
    /// One that does not.
    pub loose: String,
}

/// The names of ssls, `*` apart, written backwards: those that end alike are neighbours.
#[derive(Clone, Default)]
pub(super) struct NamesByEnd {
    strict: OrdSet<Vec<u8>>,
    loose: OrdSet<Vec<u8>>,
}

impl NamesByEnd {
    /// Notes who has a name now.
    pub(super) fn set(&mut self, pattern: &SniPattern, holder: Option<&Name>) {
        if *pattern == SniPattern::CatchAll {
            return;
        }
        let key = backwards(&pattern.to_string());
        self.strict.remove(&key);
        self.loose.remove(&key);
        match holder {
            Some(name) if is_strict(name) => drop(self.strict.insert(key)),
            Some(_) => drop(self.loose.insert(key)),
            None => {}
        }
    }
}

/// The first name that ends in `suffix`.
fn ending(names: &OrdSet<Vec<u8>>, suffix: &str) -> Option<String> {
    let start = backwards(suffix);
    let found = names.range(start.clone()..).next()?;
    let is_below = found.starts_with(&start);
    is_below.then(|| String::from_utf8_lossy(&backwards_bytes(found)).into_owned())
}

fn backwards(text: &str) -> Vec<u8> {
    backwards_bytes(text.as_bytes())
}

fn backwards_bytes(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().rev().copied().collect()
}

/// Whether no request gets by without a certificate, but for the paths that are exempt by pattern.
fn is_strict(name: &Name) -> bool {
    match name.policy.mode {
        ClientAuth::Required | ClientAuth::Deferred => true,
        ClientAuth::Optional | ClientAuth::Off => false,
    }
}

impl Snapshot {
    /// Two names of these hosts, one of which requires a client certificate while the other does
    /// not; `None` where all ask alike. No host means every host.
    ///
    /// Costs a few look-ups per host, however many names and routes there are.
    #[must_use]
    pub fn uneven(&self, hosts: &[HostPattern]) -> Option<Uneven> {
        let every = [HostPattern::Any];
        let hosts = if hosts.is_empty() { &every } else { hosts };
        let (mut strict, mut loose) = (None, None);
        for host in hosts.iter().filter(|host| host.is_reachable()) {
            let (more, less) = self.extremes(host);
            (strict, loose) = (strict.or(more), loose.or(less));
            if let (Some(strict), Some(loose)) = (&strict, &loose) {
                return Some(Uneven {
                    strict: strict.clone(),
                    loose: loose.clone(),
                });
            }
        }
        None
    }

    /// The same of the hosts that lead to a route, or that a service gives to its routes.
    #[must_use]
    pub fn uneven_at(&self, kind: Kind, id: &Id) -> Option<Uneven> {
        match kind {
            Kind::Route => {
                let piece = self.route_piece(id).filter(|piece| piece.enabled)?;
                self.uneven(&self.hosts_of(piece))
            }
            Kind::Service => {
                let piece = self.service_piece(id)?;
                // Without hosts it is for its routes to say.
                (!piece.hosts.is_empty()).then(|| self.uneven(&piece.hosts))?
            }
            Kind::Ssl | Kind::Upstream | Kind::Secret => None,
        }
    }

    /// The first name of an ssl that requires certificates whose routes are also reached by a name
    /// that requires none, because they have no hosts or a wildcard.
    #[must_use]
    pub fn circumvented(&self, id: &Id) -> Option<Uneven> {
        self.server(id)?.patterns.iter().find_map(|pattern| {
            let name = self.names.get(pattern)?;
            if name.ssl_id != *id || !is_strict(name) {
                return None;
            }
            let strict = pattern.to_string();
            let loose = self
                .routes
                .suffixes_over(strict.trim_start_matches('*'))
                .find_map(|suffix| self.loose_below(suffix))?;
            Some(Uneven { strict, loose })
        })
    }

    /// A name of this host that is strict, and one that is not.
    fn extremes(&self, host: &HostPattern) -> (Option<String>, Option<String>) {
        match host {
            HostPattern::Exact(host) => {
                let is_strict = self.names.find(host).is_some_and(|name| is_strict(name));
                let host = host.to_string();
                if is_strict {
                    (Some(host), None)
                } else {
                    (None, Some(host))
                }
            }
            HostPattern::Suffix(suffix) => (self.strict_below(suffix), self.loose_below(suffix)),
            HostPattern::Any => (self.strict_below(""), self.loose_below("")),
        }
    }

    fn strict_below(&self, suffix: &str) -> Option<String> {
        let catch_all = self.names.get(&SniPattern::CatchAll);
        ending(&self.index.ends.strict, suffix)
            .or_else(|| self.half_covered(suffix, true))
            .or_else(|| {
                catch_all
                    .filter(|name| is_strict(name))
                    .map(|_| "*".to_owned())
            })
    }

    fn loose_below(&self, suffix: &str) -> Option<String> {
        let found =
            ending(&self.index.ends.loose, suffix).or_else(|| self.half_covered(suffix, false));
        // Below every suffix there are names that no ssl lists: they are for `*`, or nobody's.
        let rest = || match self.names.get(&SniPattern::CatchAll) {
            Some(name) if is_strict(name) => None,
            Some(_) => Some("*".to_owned()),
            None => Some(UNCLAIMED.to_owned()),
        };
        found.or_else(rest)
    }

    /// The wildcard that stands for some names of a suffix that begins within a label: `*.a.com`
    /// for `*x.a.com`.
    fn half_covered(&self, suffix: &str, wanted: bool) -> Option<String> {
        let (label, parent) = suffix.split_once('.')?;
        if label.is_empty() {
            return None;
        }
        let pattern = SniPattern::parse(&format!("*.{parent}")).ok()?;
        let name = self.names.get(&pattern)?;
        (is_strict(name) == wanted).then(|| pattern.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::resource::Revision;
    use crate::snapshot::Change;
    use crate::snapshot::compile::{Piece, ServerPiece};
    use crate::tls::policy::ClientPolicy;

    /// A snapshot of ssls, each with a name and what it asks of clients.
    fn snapshot(ssls: &[(&str, ClientAuth)]) -> Snapshot {
        let puts = ssls.iter().enumerate().map(|(index, (name, mode))| {
            let revision = Revision(u64::try_from(index).unwrap() + 1);
            let policy = ClientPolicy::new(*mode, 1, [7; 32], Vec::new()).unwrap();
            Change::Put {
                kind: Kind::Ssl,
                id: index.to_string().parse().unwrap(),
                created: revision,
                modified: revision,
                piece: Piece::Server(ServerPiece {
                    patterns: vec![SniPattern::parse(name).unwrap()],
                    policy: Arc::new(policy),
                    serving: Err(crate::failure::Reason::NameClosed),
                }),
            }
        });
        Snapshot::default().apply(puts, Revision(9))
    }

    fn told(snapshot: &Snapshot, hosts: &[&str]) -> Option<(String, String)> {
        let hosts: Vec<_> = hosts
            .iter()
            .map(|host| HostPattern::parse(host).unwrap())
            .collect();
        let uneven = snapshot.uneven(&hosts)?;
        Some((uneven.strict, uneven.loose))
    }

    #[test]
    fn hosts_of_which_some_ask_less_are_told() {
        use ClientAuth::{Deferred, Off, Optional, Required};
        let unclaimed = UNCLAIMED;
        let w = &[
            ("*.w.test", Required),
            ("open.test", Off),
            ("b.test", Deferred),
        ][..];
        let all = &[("*", Required), ("api.test", Required)][..];
        let all_but = &[("*", Required), ("x.open.test", Off)][..];
        let none = &[("a.test", Off), ("b.test", Optional)][..];
        let loose_all = &[("*", Off), ("a.test", Required)][..];
        for (ssls, hosts, uneven) in [
            (w, &[][..], Some(("b.test", "open.test"))),
            (w, &["*"], Some(("b.test", "open.test"))),
            // A route's wildcard reaches deeper labels than an ssl's.
            (w, &["*.w.test"], Some(("*.w.test", unclaimed))),
            (w, &["*x.w.test"], Some(("*.w.test", unclaimed))),
            (w, &["*.x.w.test"], None),
            (w, &["x.w.test"], None),
            (w, &["x.y.w.test"], None),
            (w, &["x.w.test", "b.test"], None),
            // No request can carry the second.
            (w, &["x.w.test", "open.test:80"], None),
            (
                w,
                &["x.w.test", "open.test"],
                Some(("x.w.test", "open.test")),
            ),
            (
                w,
                &["nobody.test", "b.test"],
                Some(("b.test", "nobody.test")),
            ),
            (w, &["*.open.test"], None),
            (all, &[], None),
            (all, &["*.test", "other"], None),
            (all_but, &[], Some(("*", "x.open.test"))),
            (all_but, &["*.test"], Some(("*", "x.open.test"))),
            (all_but, &["*.api.test"], None),
            (none, &[], None),
            (none, &["*.test", "a.test"], None),
            (loose_all, &["*.test"], Some(("a.test", "*"))),
        ] {
            let uneven = uneven.map(|(a, b)| (a.to_owned(), b.to_owned()));
            assert_eq!(told(&snapshot(ssls), hosts), uneven, "{ssls:?} {hosts:?}");
        }
    }

    #[test]
    fn a_name_that_changes_hands_is_judged_by_its_holder() {
        let strict_first = [
            ("a.test", ClientAuth::Required),
            ("a.test", ClientAuth::Off),
        ];
        let snapshot = snapshot(&strict_first);
        assert_eq!(
            told(&snapshot, &["*.test"]),
            Some(("a.test".into(), UNCLAIMED.into()))
        );
        let delete = |id: &str| Change::Delete {
            kind: Kind::Ssl,
            id: id.parse().unwrap(),
        };
        let without = snapshot.apply([delete("0")], Revision(10));
        assert_eq!(told(&without, &["*.test"]), None);
        let neither = without.apply([delete("1")], Revision(11));
        assert_eq!(told(&neither, &["*.test"]), None);
        assert!(neither.index.ends.loose.is_empty() && neither.index.ends.strict.is_empty());
    }
}
