//! A store that ends with the process: for tests, and for a declarative file as the source.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::audit::{self, ChainKey, Entry, Head, Record, VerifyError};
use super::{Commit, Committed, Expiring, Filter, Loaded, Mutation, Outcome, Resealed, Selected};
use super::{Selection, Store, StoreError, Stored};
use crate::resource::{Document, Id, Kind, Revision};

/// A [`Store`] in memory.
#[derive(Debug)]
pub struct Memory(Mutex<State>);

#[derive(Debug)]
struct State {
    chain: ChainKey,
    /// What nothing that is stored may hold any more.
    retired: Option<String>,
    objects: BTreeMap<(Kind, Id), Stored>,
    revision: Revision,
    records: Vec<Record>,
    meta: BTreeMap<String, String>,
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new(chain: ChainKey) -> Self {
        Self(Mutex::new(State {
            chain,
            retired: None,
            objects: BTreeMap::new(),
            revision: Revision::default(),
            records: Vec::new(),
            meta: BTreeMap::new(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panicked had not begun to apply: that step cannot fail.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn holds(&self, text: &str) -> bool {
        let mut documents = self
            .objects
            .values()
            .map(|stored| text_of(&stored.document));
        documents.any(|document| document.contains(text))
            || self.meta.values().any(|value| value.contains(text))
    }

    fn refuse_retired(&self, text: impl Fn() -> String) -> Result<(), StoreError> {
        match &self.retired {
            Some(retired) if text().contains(retired) => Err(StoreError::KeyReplaced),
            Some(_) | None => Ok(()),
        }
    }

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

    fn list(&self, kind: Kind, asked: &Selection) -> Result<Selected, StoreError> {
        let state = self.state();
        let of_kind = state.objects.values().filter(|stored| stored.kind == kind);
        let all: Vec<&Stored> = match &asked.filter {
            None => of_kind.collect(),
            Some(Filter { members, accepts }) => of_kind
                .filter(|stored| {
                    let seen = stored.document.iter();
                    let seen = seen.filter(|(name, _)| members.contains(&name.as_str()));
                    accepts(
                        &seen
                            .map(|(name, value)| (name.clone(), value.clone()))
                            .collect(),
                    )
                })
                .collect(),
        };
        let total = all.len();
        let page = asked.cut(all, |stored| stored.created);
        Ok(Selected {
            objects: page.into_iter().cloned().collect(),
            total,
        })
    }

    fn commit_all(&self, commits: Vec<Commit>) -> Result<Vec<Committed>, StoreError> {
        let mut guard = self.state();
        let state = &mut *guard;
        let (mut head, mut revision) = (state.head(), state.revision);
        // What the batches do, seen by its later changes; applied when all of it is known to hold.
        let mut after: BTreeMap<(Kind, Id), Option<Stored>> = BTreeMap::new();
        let (mut records, mut notes) = (Vec::new(), Vec::new());
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
                let next = Revision(revision.0.saturating_add(1));
                let created = current.map_or(next, |stored| stored.created);
                let own = match &change.mutation {
                    Mutation::Put { document, .. } => {
                        state.refuse_retired(|| text_of(document))?;
                        next
                    }
                    Mutation::Delete { .. } => next,
                    Mutation::Refresh {
                        note,
                        value,
                        expect,
                        ..
                    } => {
                        state.refuse_retired(|| value.clone().unwrap_or_default())?;
                        notes.push((note.clone(), value.clone()));
                        *expect
                    }
                };
                revision = revision.max(own);
                let record = state.chain.link(
                    &head,
                    Entry {
                        origin: &origin,
                        kind,
                        id: &id,
                        action,
                        changed: change.changed,
                        weakens: change.weakens,
                        revision: own,
                    },
                )?;
                head = Head::after(&record);
                records.push(record);
                outcomes.push(Outcome {
                    action,
                    created,
                    modified: own,
                });
                let stored = match change.mutation {
                    Mutation::Put {
                        document, expires, ..
                    } => Some(Stored {
                        kind,
                        id,
                        document,
                        created,
                        modified: own,
                        expires,
                    }),
                    Mutation::Delete { .. } => None,
                    Mutation::Refresh { .. } => continue,
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
        for (name, value) in notes {
            match value {
                Some(value) => state.meta.insert(name, value),
                None => state.meta.remove(&name),
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
        let chain = self.state().chain.clone();
        audit::verify_all(self, &chain)
    }

    fn meta_find(&self, name: &str) -> Result<Option<String>, StoreError> {
        Ok(self.state().meta.get(name).cloned())
    }

    fn meta_put(&self, name: &str, value: &str) -> Result<(), StoreError> {
        let mut state = self.state();
        state.refuse_retired(|| value.to_owned())?;
        state.meta.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    fn meta_remove(&self, name: &str) -> Result<(), StoreError> {
        self.state().meta.remove(name);
        Ok(())
    }

    fn objects_with(
        &self,
        text: &str,
        after: Option<(Kind, &Id)>,
        limit: usize,
    ) -> Result<Vec<Stored>, StoreError> {
        let word = |kind: Kind, id: &Id| (kind.plural(), id.as_str().to_owned());
        let after = after.map(|(kind, id)| word(kind, id));
        let state = self.state();
        let mut found: Vec<_> = state
            .objects
            .values()
            .filter(|stored| after.as_ref() < Some(&word(stored.kind, &stored.id)))
            .filter(|stored| text_of(&stored.document).contains(text))
            .cloned()
            .collect();
        found.sort_by_key(|stored| word(stored.kind, &stored.id));
        found.truncate(limit);
        Ok(found)
    }

    fn notes_with(
        &self,
        text: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, String)>, StoreError> {
        let state = self.state();
        let notes = state.meta.iter();
        let later = notes.filter(|(name, value)| {
            after.is_none_or(|after| name.as_str() > after) && value.contains(text)
        });
        let found = later.map(|(name, value)| (name.clone(), value.clone()));
        Ok(found.take(limit).collect())
    }

    fn reseal(&self, resealed: &[Resealed]) -> Result<(), StoreError> {
        let mut state = self.state();
        for one in resealed {
            match one {
                Resealed::Object(stored) => {
                    let own = state.objects.get_mut(&(stored.kind, stored.id.clone()));
                    if let Some(own) = own.filter(|own| own.modified == stored.modified) {
                        own.document.clone_from(&stored.document);
                    }
                }
                Resealed::Note {
                    name,
                    before,
                    after,
                } => {
                    if let Some(own) = state.meta.get_mut(name).filter(|own| *own == before) {
                        own.clone_from(after);
                    }
                }
            }
        }
        Ok(())
    }

    fn change_key(
        &self,
        chain: ChainKey,
        notes: &[(&str, Option<String>)],
        retired: &str,
    ) -> Result<bool, StoreError> {
        let mut state = self.state();
        let before = state.meta.clone();
        for (name, value) in notes {
            match value {
                Some(value) => state.meta.insert((*name).to_owned(), value.clone()),
                None => state.meta.remove(*name),
            };
        }
        if state.holds(retired) || state.head().count != chain.begins_after() {
            state.meta = before;
            return Ok(false);
        }
        state.chain = chain;
        state.retired = Some(retired.to_owned());
        Ok(true)
    }
}

/// A document as text, for looking for a text in it.
fn text_of(document: &Document) -> String {
    serde_json::to_string(document).unwrap_or_default()
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
