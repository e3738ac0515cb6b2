//! Who has a name that several enabled ssls claim.
//!
//! The oldest, where all ask the same of clients: an object may be replaced by another one. Where
//! they do not, whoever served the name would leave another's check unmade; it is closed. Writes
//! that would lead there are refused, so that only what was stored by other means comes to it.

use std::sync::Arc;

use crate::failure::Reason;
use crate::matching::patterns::PathRegexes;
use crate::matching::sni::SniPattern;
use crate::resource::{Id, Kind, Revision};
use crate::snapshot::compile::unmeetable_policy;
use crate::snapshot::{Name, Snapshot};

/// An ssl's claim to a name.
#[derive(Clone)]
pub(super) struct Claim {
    /// The revision that created the ssl; unique, it decides who was first.
    pub(super) created: Revision,
    /// How the ssl would serve the name.
    pub(super) name: Arc<Name>,
}

impl Claim {
    /// Whether both ask the same of clients. What a policy that cannot be read asks is not known,
    /// and differs from all that can.
    fn asks_like(&self, other: &Self) -> bool {
        self.name.policy.digest == other.name.policy.digest
    }
}

/// Whether not all of these ask the same of clients.
fn are_disputed(claims: &[Claim]) -> bool {
    let mut claims = claims.iter();
    let first = claims.next();
    first.is_some_and(|first| claims.any(|claim| !claim.asks_like(first)))
}

/// Whether this is what closes the name, which no claim does by itself.
fn are_closed_by_dispute(claims: &[Claim]) -> bool {
    are_disputed(claims) && claims.iter().all(|claim| claim.name.serving.is_ok())
}

/// A name as it is while its claims are disputed: nobody meets what it asks.
fn closed(first: &Name) -> Name {
    Name {
        ssl_id: first.ssl_id.clone(),
        revision: first.revision,
        policy: Arc::new(unmeetable_policy()),
        skip: PathRegexes::default(),
        serving: Err(Reason::NameClosed),
    }
}

impl Snapshot {
    /// The names that an ssl claims and another one has, which asks the same, with that one's id.
    #[must_use]
    pub fn lost_names(&self, id: &Id) -> Vec<(SniPattern, Id)> {
        self.contested(id, |claims, _own| {
            let owner = claims.first().filter(|_| !are_disputed(claims))?;
            (owner.name.ssl_id != *id).then(|| owner.name.ssl_id.clone())
        })
    }

    /// The names of an ssl that are closed because another one claims them too and asks otherwise
    /// of clients, with that one's id.
    #[must_use]
    pub fn disputed_names(&self, id: &Id) -> Vec<(SniPattern, Id)> {
        self.contested(id, |claims, own| {
            let other = claims.iter().find(|claim| !claim.asks_like(own))?;
            Some(other.name.ssl_id.clone())
        })
    }

    /// What there is to say about the names of an ssl that others claim too: of all claims to a
    /// name, the oldest first, and its own.
    fn contested<T>(
        &self,
        id: &Id,
        say: impl Fn(&[Claim], &Claim) -> Option<T>,
    ) -> Vec<(SniPattern, T)> {
        let patterns = self.server(id).map(|server| server.patterns.as_slice());
        let said = patterns.unwrap_or_default().iter().filter_map(|pattern| {
            let claims = self.index.contested.get(pattern)?;
            let own = claims.iter().find(|claim| claim.name.ssl_id == *id)?;
            Some((pattern.clone(), say(claims, own)?))
        });
        said.collect()
    }

    /// Gives a name to an ssl, or lets it queue behind an older one, or closes the name.
    pub(super) fn claim(&mut self, pattern: &SniPattern, claim: &Claim) {
        let Some(holder) = self.names.get(pattern).cloned() else {
            self.give(pattern, Some(&claim.name));
            return;
        };
        let mut claims: Vec<Claim> = match self.index.contested.get(pattern) {
            Some(claims) => claims.to_vec(),
            None => {
                let created = self.created(Kind::Ssl, &holder.ssl_id);
                vec![Claim {
                    created: created.unwrap_or_default(),
                    name: holder,
                }]
            }
        };
        claims.retain(|other| other.name.ssl_id != claim.name.ssl_id);
        claims.push(claim.clone());
        self.settle(pattern, claims);
    }

    /// Takes a name from an ssl; the next in the queue has it then.
    pub(super) fn release(&mut self, pattern: &SniPattern, id: &Id) {
        match self.index.contested.get(pattern) {
            Some(claims) => {
                let mut claims = claims.to_vec();
                claims.retain(|claim| claim.name.ssl_id != *id);
                self.settle(pattern, claims);
            }
            None if self
                .names
                .get(pattern)
                .is_some_and(|name| name.ssl_id == *id) =>
            {
                self.give(pattern, None);
            }
            None => {}
        }
    }

    /// Gives a contested name to the oldest claim, or to nobody while it is disputed.
    fn settle(&mut self, pattern: &SniPattern, mut claims: Vec<Claim>) {
        claims.sort_by(|a, b| (a.created, &a.name.ssl_id).cmp(&(b.created, &b.name.ssl_id)));
        let holder = claims.first().map(|first| {
            if are_disputed(&claims) {
                Arc::new(closed(&first.name))
            } else {
                first.name.clone()
            }
        });
        self.give(pattern, holder.as_ref());
        let before = self.index.contested.get(pattern);
        let was_closed = before.is_some_and(|claims| are_closed_by_dispute(claims));
        let is_closed = are_closed_by_dispute(&claims);
        self.index.tally.count_closed(was_closed, is_closed);
        if claims.len() > 1 {
            self.index.contested.insert(pattern.clone(), claims.into());
        } else {
            self.index.contested.remove(pattern);
        }
    }

    /// Gives a name to this holder, or to nobody.
    fn give(&mut self, pattern: &SniPattern, holder: Option<&Arc<Name>>) {
        self.index.ends.set(pattern, holder.map(Arc::as_ref));
        match holder {
            Some(name) => self.names.insert(pattern, name.clone()),
            None => self.names.remove(pattern),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::compile::{Piece, ServerPiece};
    use crate::snapshot::{Change, Serving};
    use crate::tls::policy::{ClientAuth, ClientPolicy, Versions};

    fn id(text: &str) -> Id {
        text.parse().unwrap()
    }

    fn name(text: &str) -> SniPattern {
        SniPattern::parse(text).unwrap()
    }

    /// An ssl that asks for certificates of a CA, or for none.
    fn put(own: &str, created: u64, names: &[&str], ca: Option<u8>) -> Change {
        let policy = match ca {
            Some(ca) => ClientPolicy::new(ClientAuth::Required, 1, [ca; 32], Vec::new()).unwrap(),
            None => ClientPolicy::off(),
        };
        let piece = ServerPiece {
            patterns: names.iter().map(|text| name(text)).collect(),
            policy: Arc::new(policy),
            serving: Ok(Serving {
                context: [1; 32],
                versions: Versions::default(),
            }),
        };
        Change::Put {
            kind: Kind::Ssl,
            id: id(own),
            created: Revision(created),
            modified: Revision(created),
            piece: Piece::Server(piece),
        }
    }

    fn delete(own: &str) -> Change {
        Change::Delete {
            kind: Kind::Ssl,
            id: id(own),
        }
    }

    fn apply(changes: impl IntoIterator<Item = Change>) -> Snapshot {
        Snapshot::default().apply(changes, Revision(99))
    }

    /// Who serves a name; `None` where it is closed or nobody's.
    fn server<'s>(snapshot: &'s Snapshot, name: &str) -> Option<&'s str> {
        let found = snapshot.names.find(name)?;
        found.serving.ok().map(|_| found.ssl_id.as_str())
    }

    #[test]
    fn of_two_claims_the_older_object_has_the_name_whatever_the_order() {
        for ca in [None, Some(1)] {
            let old = || put("old", 1, &["a.com", "b.com"], ca);
            let new = || put("new", 2, &["a.com", "c.com"], ca);
            for changes in [[old(), new()], [new(), old()]] {
                let snapshot = apply(changes);
                assert_eq!(server(&snapshot, "a.com"), Some("old"));
                assert_eq!(server(&snapshot, "c.com"), Some("new"));
                let lost = snapshot.lost_names(&id("new"));
                assert_eq!(lost, [(name("a.com"), id("old"))]);
                assert!(snapshot.lost_names(&id("old")).is_empty());
                assert!(snapshot.disputed_names(&id("new")).is_empty());
                let without = snapshot.apply([delete("old")], Revision(100));
                assert_eq!(server(&without, "a.com"), Some("new"));
                assert_eq!(server(&without, "b.com"), None);
                assert!(without.lost_names(&id("new")).is_empty());
            }
        }
    }

    #[test]
    fn a_name_whose_claims_ask_otherwise_is_closed_until_they_agree() {
        for (old, new) in [(Some(1), None), (None, Some(1)), (Some(1), Some(2))] {
            let snapshot = apply([
                put("wide", 1, &["*.com", "*"], None),
                put("old", 2, &["a.com", "b.com"], old),
                put("new", 3, &["a.com", "c.com"], new),
            ]);
            let found = snapshot.names.find("a.com").unwrap();
            assert_eq!(found.serving.err(), Some(Reason::NameClosed));
            assert!(found.policy.asks() && found.skip.is_empty());
            for (open, ssl) in [("b.com", "old"), ("c.com", "new"), ("d.com", "wide")] {
                assert_eq!(server(&snapshot, open), Some(ssl));
            }
            for (own, other) in [("old", "new"), ("new", "old")] {
                let disputed = snapshot.disputed_names(&id(own));
                assert_eq!(disputed, [(name("a.com"), id(other))]);
                assert!(snapshot.lost_names(&id(own)).is_empty(), "nobody has it");
            }
            assert_eq!(snapshot.tally().names_closed, 1);
            let agreed = [put("new", 3, &["a.com", "c.com"], old)];
            for (changes, has) in [
                (agreed, "old"),
                ([delete("new")], "old"),
                ([delete("old")], "new"),
                ([put("old", 2, &["b.com"], old)], "new"),
            ] {
                let after = snapshot.apply(changes, Revision(100));
                assert_eq!(server(&after, "a.com"), Some(has));
                assert_eq!(after.tally().names_closed, 0);
                assert!(after.disputed_names(&id(has)).is_empty());
            }
        }
    }

    #[test]
    fn one_of_many_claims_that_asks_otherwise_closes_the_name() {
        let snapshot = apply([
            put("1", 1, &["a.com"], Some(1)),
            put("2", 2, &["a.com"], Some(1)),
            put("3", 3, &["a.com"], None),
        ]);
        assert_eq!(server(&snapshot, "a.com"), None);
        for (own, other) in [("1", "3"), ("2", "3"), ("3", "1")] {
            let disputed = snapshot.disputed_names(&id(own));
            assert_eq!(disputed, [(name("a.com"), id(other))], "{own}");
        }
        assert_eq!(snapshot.tally().names_closed, 1);
        let still = snapshot.apply([delete("1")], Revision(100));
        assert_eq!(server(&still, "a.com"), None);
        let agreed = snapshot.apply([delete("3")], Revision(100));
        assert_eq!(server(&agreed, "a.com"), Some("1"));
        assert_eq!(agreed.lost_names(&id("2")), [(name("a.com"), id("1"))]);
    }
}
