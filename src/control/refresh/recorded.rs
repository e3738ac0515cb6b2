//! What a refresh leaves in the store before it is served: the values as the last good ones, and an
//! audit record of each object whose values are others than before.
//!
//! It weakens what it weakens and is not refused for that by `security.refuse_weakening`: whoever
//! keeps a secret may change it, and nobody is there to allow it. It is told and recorded.

use std::collections::BTreeMap;

use super::{Item, Ready};
use crate::control::{Actor, Inner, WriteError, store_failed};
use crate::resource::Resource;
use crate::secrets::generation::Generation;
use crate::snapshot::Snapshot;
use crate::snapshot::weaken::{Step, weakened};
use crate::store::{Change, Commit, Mutation};

/// How many references a record names as who made it.
const NAMED: usize = 4;

/// What the process log says of an object once it is recorded.
struct Line<'a> {
    item: &'a Item,
    actor: String,
    changed: String,
    weakens: String,
}

impl Inner {
    /// Keeps new generations as the last good ones and records those whose values are others, in one
    /// transaction. Called under the writer's lock, before any of it is served.
    ///
    /// # Errors
    /// [`WriteError::Internal`] and what the store says: nothing was recorded.
    pub(super) fn keep_refreshed(
        &self,
        ready: &[Ready],
        before: &Snapshot,
        after: &Snapshot,
    ) -> Result<(), WriteError> {
        let (mut commits, mut lines) = (Vec::new(), Vec::new());
        for one in ready {
            let (kind, id) = (one.item.kind, &one.item.id);
            let changed = changed(&one.item, &one.generation);
            if changed.is_empty() {
                self.keep_generation(kind, id, &one.generation);
                continue;
            }
            let weakens = self.weakened_by(one, ready, before, after);
            let actor = Actor {
                name: named(&changed),
                request_id: String::new(),
                peer: None,
            };
            let pointers: Vec<String> = changed.keys().map(|&pointer| pointer.clone()).collect();
            lines.push(Line {
                item: &one.item,
                actor: actor.name.clone(),
                changed: pointers.join(", "),
                weakens: weakens.join("; "),
            });
            let change = Change {
                mutation: self.refreshing(&one.item, &one.generation)?,
                changed: pointers,
                weakens,
            };
            commits.push(Commit {
                origin: self.origin(&actor),
                changes: vec![change],
            });
        }
        let committed = self.store.commit_all(commits).map_err(store_failed)?;
        for (line, committed) in lines.iter().zip(committed) {
            tracing::info!(
                kind = %line.item.kind,
                id = %line.item.id,
                action = "refresh",
                actor = line.actor,
                changed = line.changed,
                audit_count = committed.head.count,
                audit_mac = %committed.head.mac,
                weakens = line.weakens,
                "new values of its references are kept"
            );
        }
        Ok(())
    }

    fn refreshing(&self, item: &Item, generation: &Generation) -> Result<Mutation, WriteError> {
        let (kind, id) = (item.kind, &item.id);
        let value = if generation.values.is_empty() {
            None
        } else {
            let sealed = generation.seal(&self.custody, kind, id);
            let sealed = sealed.map_err(|error| {
                tracing::error!(%kind, %id, %error, "values of references cannot be sealed");
                WriteError::Internal
            });
            Some(sealed?)
        };
        Ok(Mutation::Refresh {
            kind,
            id: id.clone(),
            note: Generation::note_name(kind, id),
            value,
            expect: item.modified,
        })
    }

    /// What the new values of one of these make less strict.
    fn weakened_by(
        &self,
        one: &Ready,
        ready: &[Ready],
        before: &Snapshot,
        after: &Snapshot,
    ) -> Vec<String> {
        let (kind, id) = (one.item.kind, &one.item.id);
        // The store still has the values before these.
        let old = self.find_resource(kind, id);
        let step = Step {
            before,
            after,
            kind,
            id,
            old: old.as_ref(),
            new: Some(&one.resource),
        };
        weakened(&step, &|kind, id| {
            let mut others = ready.iter();
            let other = others.find(|other| (other.item.kind, &other.item.id) == (kind, id));
            match other {
                Some(other) => Some(Resource::clone(&other.resource)),
                None => self.find_resource(kind, id),
            }
        })
    }
}

/// The references whose values are others, by where they stand.
fn changed<'a>(item: &'a Item, generation: &Generation) -> BTreeMap<&'a String, &'a String> {
    let last = item.last.as_ref();
    let references = item.references.iter();
    let changed = references.filter(|(_, reference)| {
        let digest = |of: &Generation| of.values.get(*reference).map(|value| value.digest.clone());
        last.and_then(digest) != digest(generation)
    });
    changed.collect()
}

/// These references as one text, each once.
fn named(changed: &BTreeMap<&String, &String>) -> String {
    let mut references: Vec<&str> = changed.values().map(|text| text.as_str()).collect();
    references.sort_unstable();
    references.dedup();
    let more = references.len().saturating_sub(NAMED);
    references.truncate(NAMED);
    let named = references.join(", ");
    if more == 0 {
        named
    } else {
        format!("{named}, and {more} more")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_named_once_and_not_without_end() {
        let texts: Vec<String> = (0..6).map(|n| format!("$env://{n}")).collect();
        let pointers: Vec<String> = (0..8).map(|n| format!("/certs/{n}")).collect();
        let all = |count: usize| {
            let pairs = pointers.iter().zip(texts.iter().cycle());
            pairs.take(count).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(named(&all(1)), "$env://0");
        let expected = "$env://0, $env://1, $env://2, $env://3, and 2 more";
        assert_eq!(named(&all(8)), expected);
    }
}
