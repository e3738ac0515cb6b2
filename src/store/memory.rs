//! A store that ends with the process: for tests, and for a declarative file as the source.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::audit::{self, ChainKey, Entry, Head, Record, VerifyError};
use super::{Commit, Committed, Expiring, Loaded, Mutation, Outcome, Store, StoreError, Stored};
use crate::resource::{Id, Kind, Revision};

/// A [`Store`] in memory.
#[derive(Debug)]
pub struct Memory {
    chain: ChainKey,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<(Kind, Id), Stored>,
    revision: Revision,
    records: Vec<Record>,
    meta: BTreeMap<String, String>,
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new(chain: ChainKey) -> Self {
        Self {
            chain,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panicked had not begun to apply: that step cannot fail.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn head(&self) -> Head {
        self.records.last().map_or_else(Head::default, Head::after)
    }
}

impl Store for Memory {
    fn load(&self) -> Result<Loaded, StoreError> {
        let state = self.state();
        Ok(Loaded {
            objects: state.objects.values().cloned().collect(),
            revision: state.revision,
        })
    }

    fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.state().revision)
    }

    fn find(&self, kind: Kind, id: &Id) -> Result<Option<Stored>, StoreError> {
        Ok(self.state().objects.get(&(kind, id.clone())).cloned())
    }

    fn list(&self, kind: Kind) -> Result<Vec<Stored>, StoreError> {
        let state = self.state();
        Ok(state
            .objects
            .values()
            .filter(|stored| stored.kind == kind)
            .cloned()
            .collect())
    }

    fn commit_all(&self, commits: Vec<Commit>) -> Result<Vec<Committed>, StoreError> {
        let mut guard = self.state();
        let state = &mut *guard;
        let (mut head, mut revision) = (state.head(), state.revision);
        // What the batches do, seen by its later changes; applied when all of it is known to hold.
        let mut after: BTreeMap<(Kind, Id), Option<Stored>> = BTreeMap::new();
        let mut records = Vec::new();
        let mut done = Vec::with_capacity(commits.len());
        for Commit { origin, changes } in commits {
            let mut outcomes = Vec::with_capacity(changes.len());
            for change in changes {
                let (kind, id) = (change.mutation.kind(), change.mutation.id().clone());
                let place = (kind, id.clone());
                let current = match after.get(&place) {
                    Some(stored) => stored.as_ref(),
                    None => state.objects.get(&place),
                };
                let action = change
                    .mutation
                    .judge(current.map(|stored| stored.modified))?;
                revision.0 += 1;
                let created = current.map_or(revision, |stored| stored.created);
                let record = self.chain.link(
                    &head,
                    Entry {
                        origin: &origin,
                        kind,
                        id: &id,
                        action,
                        changed: change.changed,
                        weakens: change.weakens,
                        revision,
                    },
                )?;
                head = Head::after(&record);
                records.push(record);
                outcomes.push(Outcome {
                    action,
                    created,
                    modified: revision,
                });
                let stored = match change.mutation {
                    Mutation::Put {
                        document, expires, ..
                    } => Some(Stored {
                        kind,
                        id,
                        document,
                        created,
                        modified: revision,
                        expires,
                    }),
                    Mutation::Delete { .. } => None,
                };
                after.insert(place, stored);
            }
            done.push(Committed { outcomes, head });
        }
        for (place, stored) in after {
            match stored {
                Some(stored) => state.objects.insert(place, stored),
                None => state.objects.remove(&place),
            };
        }
        state.revision = revision;
        state.records.append(&mut records);
        Ok(done)
    }

    fn expiring(&self, limit: usize) -> Result<Vec<Expiring>, StoreError> {
        let state = self.state();
        let mut all: Vec<_> = state
            .objects
            .values()
            .filter_map(|stored| {
                Some(Expiring {
                    kind: stored.kind,
                    id: stored.id.clone(),
                    modified: stored.modified,
                    expires: stored.expires?,
                })
            })
            .collect();
        all.sort_by_key(|expiring| expiring.expires);
        all.truncate(limit);
        Ok(all)
    }

    fn audit_tail(&self, limit: usize) -> Result<Vec<Record>, StoreError> {
        let state = self.state();
        let skipped = state.records.len().saturating_sub(limit);
        Ok(state.records.iter().skip(skipped).cloned().collect())
    }

    fn audit_from(&self, first: u64, limit: usize) -> Result<Vec<Record>, StoreError> {
        let state = self.state();
        let asked = state.records.iter().filter(|record| record.seq >= first);
        Ok(asked.take(limit).cloned().collect())
    }

    fn audit_head(&self) -> Result<Head, StoreError> {
        Ok(self.state().head())
    }

    fn audit_verify(&self) -> Result<Head, VerifyError> {
        audit::verify_all(self, &self.chain)
    }

    fn meta_find(&self, name: &str) -> Result<Option<String>, StoreError> {
        Ok(self.state().meta.get(name).cloned())
    }

    fn meta_put(&self, name: &str, value: &str) -> Result<(), StoreError> {
        self.state().meta.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    fn meta_remove(&self, name: &str) -> Result<(), StoreError> {
        self.state().meta.remove(name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract;
    use super::*;

    #[test]
    fn memory_keeps_the_contract() {
        contract::suite(|chain| Box::new(Memory::new(chain)));
    }
}
