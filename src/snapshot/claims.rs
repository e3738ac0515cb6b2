//! Who has a name that several enabled ssls claim.

use std::sync::Arc;

use crate::matching::sni::SniPattern;
use crate::resource::{Id, Kind, Revision};
use crate::snapshot::{Name, Snapshot};

/// An ssl's claim to a name. The older object's counts.
#[derive(Clone)]
pub(super) struct Claim {
    /// The revision that created the ssl; unique, it decides who was first.
    pub(super) created: Revision,
    /// How the ssl would serve the name.
    pub(super) name: Arc<Name>,
}

impl Snapshot {
    /// The names that an ssl claims and another one has, with that one's id.
    #[must_use]
    pub fn lost_names(&self, id: &Id) -> Vec<(SniPattern, Id)> {
        let Some(server) = self.server(id) else {
            return Vec::new();
        };
        let lost = server.patterns.iter().filter_map(|pattern| {
            let owner = &self.names.get(pattern)?.ssl_id;
            (owner != id).then(|| (pattern.clone(), owner.clone()))
        });
        lost.collect()
    }

    /// Gives a name to an ssl, or lets it queue behind an older one.
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

    /// Gives a contested name to the oldest claim.
    fn settle(&mut self, pattern: &SniPattern, mut claims: Vec<Claim>) {
        claims.sort_by(|a, b| (a.created, &a.name.ssl_id).cmp(&(b.created, &b.name.ssl_id)));
        self.give(pattern, claims.first().map(|first| &first.name));
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
