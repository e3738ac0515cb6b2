//! What the references of an object stand for: resolved for a write, kept, put in their place.
//!
//! The store has the last good generation of each object, sealed; every reading of a document goes
//! by it, so that whatever is compiled, built or told of an object is of one generation.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::control::{Delete, Inner, WriteError, on_blocking};
use crate::failure::Reason;
use crate::resource::fault::{Fault, Faults, Warning};
use crate::resource::{Id, Kind, Revision, still_used};
use crate::secrets::custody::Opened;
use crate::secrets::custody::places;
use crate::secrets::desk::{Order, Outcome};
use crate::secrets::generation::Generation;
use crate::secrets::reference::{Reference, SourceKey};
use crate::secrets::settings::Bounds;
use crate::secrets::source::ReadFault;

/// What the configuration says about keeping secrets up to date (`secrets`).
#[derive(Clone, Copy, Debug)]
pub struct SecretRules {
    /// `secrets.cache_time`: when a value is read again whose manager names no time.
    pub cache_time: Duration,
    /// `secrets.max_age`: how long a value is served that its manager does not confirm.
    pub max_age: Duration,
    /// `secrets.read_timeout`: for one attempt to read.
    pub read_timeout: Duration,
    /// `secrets.write_timeout`: how long a write waits for its references at most.
    pub write_timeout: Duration,
}

impl Default for SecretRules {
    fn default() -> Self {
        Self {
            cache_time: Duration::from_secs(300),
            max_age: Duration::from_secs(7 * 24 * 3600),
            read_timeout: Duration::from_secs(3),
            write_timeout: Duration::from_secs(2),
        }
    }
}

impl SecretRules {
    /// For a write, which waits.
    pub(super) const fn while_writing(&self) -> Bounds {
        Bounds {
            attempt: self.write_timeout,
            attempts: 3,
            total: self.write_timeout,
        }
    }

    /// For a refresh, which comes again by itself.
    pub(super) const fn in_background(&self) -> Bounds {
        Bounds {
            attempt: self.read_timeout,
            attempts: 1,
            total: self.read_timeout.saturating_mul(3),
        }
    }
}

impl Inner {
    /// An order for these references, with the `secret` resources that they name. Blocks.
    pub(super) fn order(&self, references: Vec<String>, bounds: Bounds, dry_run: bool) -> Order {
        let mut managers = HashMap::new();
        for reference in references
            .iter()
            .filter_map(|text| Reference::parse(text).ok())
        {
            if let SourceKey::Secret(id) = reference.origin {
                let manager = self.manager(&id);
                managers.entry(id).or_insert(manager);
            }
        }
        Order {
            references,
            managers,
            bounds,
            dry_run,
        }
    }

    fn manager(&self, id: &Id) -> Option<(Revision, Opened)> {
        let found = self.store.find(Kind::Secret, id);
        let stored = found
            .inspect_err(|error| tracing::error!(%id, %error, "a secret cannot be read"))
            .ok()??;
        let opened = self
            .unseal(&stored)
            .inspect_err(|error| tracing::error!(%id, %error, "a secret does not open"));
        Some((stored.modified, opened.ok()?))
    }

    /// The last good generation of an object, unless its managers have not confirmed it for longer
    /// than they may.
    pub(super) fn last_generation(&self, kind: Kind, id: &Id) -> Option<Generation> {
        let generation = self.kept_generation(kind, id)?;
        let max_age = i64::try_from(self.rules.secrets.max_age.as_secs()).unwrap_or(i64::MAX);
        let age = self.now_seconds().saturating_sub(generation.confirmed_at);
        (age <= max_age).then_some(generation)
    }

    fn kept_generation(&self, kind: Kind, id: &Id) -> Option<Generation> {
        let note = self.store.meta_find(&Generation::note_name(kind, id));
        let sealed = note
            .inspect_err(|error| tracing::error!(%kind, %id, %error, "the store cannot be read"))
            .ok()??;
        Generation::open(&self.custody, kind, id, &sealed)
            .inspect_err(|error| {
                tracing::error!(%kind, %id, %error, "the last values of its references are lost");
            })
            .ok()
    }

    /// Keeps a generation as the last good one; an empty one is none.
    pub(super) fn keep_generation(&self, kind: Kind, id: &Id, generation: &Generation) {
        let name = Generation::note_name(kind, id);
        let kept = if generation.values.is_empty() {
            self.store.meta_remove(&name)
        } else {
            match generation.seal(&self.custody, kind, id) {
                Ok(sealed) => self.store.meta_put(&name, &sealed),
                Err(error) => {
                    tracing::error!(%kind, %id, %error, "values of references cannot be sealed");
                    return;
                }
            }
        };
        if let Err(error) = kept {
            tracing::error!(%kind, %id, %error, "values of references cannot be kept");
        }
    }

    /// A document with the last good values in the place of its references.
    pub(super) fn fill(&self, kind: Kind, id: &Id, document: &Opened) -> Option<Opened> {
        if places::references(kind, document).is_empty() {
            return None;
        }
        Some(self.last_generation(kind, id)?.fill(document))
    }

    /// The generation that an outcome makes of the last one: what was not read keeps its last good
    /// value, unless its manager is not configured any more.
    pub(super) fn next_generation(
        &self,
        references: &BTreeMap<String, String>,
        outcome: &Outcome,
        last: Option<&Generation>,
    ) -> Generation {
        let mut values = BTreeMap::new();
        let mut is_confirmed = true;
        for reference in references.values() {
            let kept = || last.and_then(|last| last.values.get(reference)).cloned();
            let value = match outcome.get(reference) {
                Some(Ok(value)) => Some(value.clone()),
                Some(Err(ReadFault::NoManager(_))) => None,
                Some(Err(_)) | None => {
                    is_confirmed = false;
                    kept()
                }
            };
            if let Some(value) = value {
                values.insert(reference.clone(), value);
            }
        }
        let confirmed_at = match last {
            Some(last) if !is_confirmed => last.confirmed_at,
            Some(_) | None => self.now_seconds(),
        };
        Generation {
            confirmed_at,
            values,
        }
    }
}

/// What a write makes of the references of its object.
#[derive(Debug, Default)]
pub(super) struct Values {
    /// References by the pointer to the member that they stand in.
    pub(super) references: BTreeMap<String, String>,
    /// What they stand for.
    pub(super) generation: Generation,
}

impl Inner {
    /// Resolves the references of documents that are to be written, in bounded time.
    pub(super) async fn resolve(
        self: &Arc<Self>,
        references: impl FnOnce(&Self) -> Vec<String> + Send + 'static,
        dry_run: bool,
    ) -> Result<Outcome, WriteError> {
        let Some(desk) = &self.desk else {
            return Ok(Outcome::new());
        };
        let order = on_blocking(self, move |inner| {
            let bounds = inner.rules.secrets.while_writing();
            Ok(inner.order(references(inner), bounds, dry_run))
        });
        let order = order.await?;
        if order.references.is_empty() {
            return Ok(Outcome::new());
        }
        Ok(desk.resolve(order).await)
    }

    /// What its writer is told of references that were not resolved.
    pub(super) fn unresolved(values: &Values, outcome: &Outcome) -> Vec<Warning> {
        let mut warnings = Vec::new();
        for (pointer, reference) in &values.references {
            let fault = match outcome.get(reference) {
                Some(Ok(_)) => continue,
                Some(Err(fault)) => Some(fault),
                None => None,
            };
            let is_kept = values.generation.values.contains_key(reference);
            let effect = if is_kept {
                "its last good value stays in force"
            } else {
                "until it is, what needs it is closed"
            };
            let why = fault.map_or_else(String::new, |fault| format!(" ({fault})"));
            warnings.push(Warning {
                code: fault
                    .map_or(Reason::SecretUnresolved, ReadFault::reason)
                    .code(),
                pointer: pointer.clone(),
                text: format!("{reference} is not resolved{why}; {effect}"),
            });
        }
        warnings
    }

    /// Keeps what a written object's references stand for, and has them looked at. Called under the
    /// writer's lock, after the commit.
    pub(super) fn keep_references(&self, kind: Kind, id: &Id, values: &Values) {
        if !values.references.is_empty() {
            self.keep_generation(kind, id, &values.generation);
        }
        self.tracker
            .touch(kind, id, &values.references, &values.generation);
        if kind == Kind::Secret {
            self.tracker.touch_users(id);
        }
    }

    /// The same for an object that is gone.
    pub(super) fn forget_references(&self, kind: Kind, id: &Id) {
        self.keep_references(kind, id, &Values::default());
    }

    /// Refuses to remove a manager that something refers to, unless it is forced: what refers to it
    /// would be closed.
    ///
    /// # Errors
    /// [`WriteError::StillUsed`].
    pub(super) fn refuse_orphans(&self, delete: &Delete) -> Result<(), WriteError> {
        if delete.kind != Kind::Secret || delete.force {
            return Ok(());
        }
        match self.tracker.user_of(&delete.id) {
            None => Ok(()),
            Some((by, by_id)) => Err(WriteError::StillUsed {
                text: still_used(Kind::Secret, by, &by_id),
            }),
        }
    }
}

/// The faults of values, told at the members that refer to them.
pub(super) fn told_by_reference(faults: Faults, values: &Values) -> Faults {
    let faults = faults.0.into_iter().map(|fault| {
        let reference = values.references.get(&fault.pointer);
        let reason = match reference {
            Some(reference) => format!("the value of {reference}: {}", fault.reason),
            None => fault.reason,
        };
        Fault { reason, ..fault }
    });
    Faults(faults.collect())
}

/// References by the pointer to the member that they stand in.
pub(super) fn references_of(kind: Kind, document: &Opened) -> BTreeMap<String, String> {
    places::references(kind, document).into_iter().collect()
}
