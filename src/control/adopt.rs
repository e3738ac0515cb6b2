//! A declared configuration in place of writes: what a file says is all that there is.
//!
//! Objects that did not change are left alone. One that is refused where a write of it would be is
//! closed: its names and matches are kept, and nothing is served there.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use zeroize::Zeroizing;

use crate::control::generations::Values;
use crate::control::plan::disputed_name;
use crate::control::settle::weaker_names;
use crate::control::start::in_parallel;
use crate::control::write::{Edit, Request, one};
use crate::control::{Actor, Finding, Flavour, Inner, WriteError, store_failed};
use crate::crypto::digest::{Sha256, sha256};
use crate::crypto::memory;
use crate::resource::ssl::Role;
use crate::resource::{Document, Id, Kind, Resource, Revision};
use crate::resource::{missing_reference, references, stamp, time, wrong_ssl_type};
use crate::secrets::custody::Opened;
use crate::secrets::desk::Outcome;
use crate::snapshot::closed::close;
use crate::snapshot::compile::Piece;
use crate::snapshot::weaken::{Step, weakened};
use crate::snapshot::{self, Snapshot};
use crate::store::audit::changed_paths;
use crate::store::file::Item;
use crate::store::{Change, Commit, Expect, Mutation, StoreError, Stored};

/// What was declared last: the digest of each object's text.
#[derive(Default)]
pub(super) struct Declared(Mutex<HashMap<(Kind, Id), Sha256>>);

/// From how many changes on a declaration is like a start: what was built to judge it is not kept.
/// What as many objects took to read and to judge is given back to the system at once.
const MANY: usize = 1000;

/// How many objects are judged before what that took is dropped.
const WAVE: usize = 1000;

/// Writes what is declared where it is read from at the next start, before it is served.
pub type Keep<'a> = &'a dyn Fn(&[Item]) -> Result<(), StoreError>;

/// How a configuration is declared.
pub struct Declaring<'a> {
    /// Who does.
    pub actor: &'a Actor,
    /// The writer knows that this makes something less strict, as in
    /// [`Put::allow_weaker`](crate::control::Put::allow_weaker).
    pub allow_weaker: bool,
    /// Where it comes from a client that was shown placeholders: keys are kept from what is served,
    /// as by a put, and the whole is written, keys in clear. `None`: it was read where it is kept.
    pub keep: Option<Keep<'a>>,
}

/// What came of a declared configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// How many objects are new, other than before or gone.
    pub changed: usize,
    /// What there is to say about those that are declared now; an error keeps something from being
    /// served.
    pub findings: Vec<Finding>,
    /// What is less strict than before.
    pub weakens: Vec<String>,
}

/// What an object points to, and the member that says so.
type Reference = (Kind, Id, &'static str);

/// A declared object that is new or changed, judged.
struct Judgement {
    kind: Kind,
    id: Id,
    digest: Sha256,
    /// In clear; `None`: as it was declared.
    document: Option<Opened>,
    /// What it says; `None` where it is refused, or nothing was there to compare it with.
    resource: Option<Resource>,
    is_refused: bool,
    references: Vec<Reference>,
    piece: Piece,
    values: Values,
    findings: Vec<Finding>,
}

impl Inner {
    /// Makes what is declared all that there is: one commit, one publish. Blocks, for the writer's
    /// lock too.
    ///
    /// # Errors
    /// [`WriteError::Weaker`] with `security.refuse_weakening`, where something is served already;
    /// [`WriteError::Store`] and [`WriteError::Internal`]. What was served is served still.
    pub(super) fn adopt(
        &self,
        items: Vec<Item>,
        declaring: &Declaring<'_>,
    ) -> Result<Adopted, WriteError> {
        let known = self
            .declared
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len();
        let is_much = items.len().max(known) >= MANY;
        let adopted = self.adopt_all(items, declaring);
        if is_much {
            // Taken or refused, what is declared was there in clear, and as objects what is new of it:
            // much more than what is kept.
            memory::give_back_freed_pieces();
        }
        adopted
    }

    fn adopt_all(
        &self,
        items: Vec<Item>,
        declaring: &Declaring<'_>,
    ) -> Result<Adopted, WriteError> {
        let Declaring {
            actor,
            allow_weaker,
            keep,
        } = declaring;
        let _writer = self.writer.blocking_lock();
        let mut known = self
            .declared
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // What is there is known without reading all of it again.
        let revision = self.store.revision().map_err(store_failed)?;
        let before = self.live.load();
        let find = |kind, id: &Id| self.store.find(kind, id).map_err(store_failed);
        let is_first = known.is_empty();
        let has_before = before.places().next().is_some();
        let mut declared = HashSet::with_capacity(items.len());
        let mut fresh = Vec::new();
        let mut old = HashMap::new();
        let mut kept = Kept(Vec::new());
        for item in items {
            let place = (item.kind, item.id.clone());
            let is_there = before.modified(item.kind, &item.id).is_some();
            let (item, digest) = match keep {
                None => opened(item)?,
                Some(_) => {
                    let item = self.keep_declared(item)?;
                    kept.0.push(item.clone());
                    opened(item)?
                }
            };
            if !(is_there && known.get(&place) == Some(&digest)) {
                if is_there {
                    let was = find(item.kind, &item.id)?;
                    old.extend(was.map(|was| (place.clone(), was)));
                }
                fresh.push((item, digest));
            }
            declared.insert(place);
        }
        let gone = before.places().filter(|place| !declared.contains(place));
        let gone = gone.filter_map(|(kind, id)| find(*kind, id).transpose());
        let gone = gone.collect::<Result<Vec<Stored>, _>>()?;
        let mut judged = Vec::with_capacity(fresh.len());
        let is_kept = fresh.len() < MANY;
        let mut fresh = fresh.into_iter();
        loop {
            let wave: Vec<_> = fresh.by_ref().take(WAVE).collect();
            if wave.is_empty() {
                break;
            }
            let parts = in_parallel(&wave, |(item, digest)| {
                self.judge_declared(item, *digest, is_kept)
            });
            let parts = parts.into_iter().collect::<Result<Vec<_>, _>>();
            let parts = parts.map_err(|_unfinished| WriteError::Internal)?;
            for (mut judgement, (item, _)) in parts.into_iter().flatten().zip(wave) {
                // A copy, made where it was judged, has gone: most are what was declared.
                judgement.document.get_or_insert(item.document);
                if !has_before {
                    // Nothing gets weaker than nothing: what it says has no use any more, and is much.
                    judgement.resource = None;
                }
                judged.push(judgement);
            }
        }
        let plan = self.plan_declared(&judged, &old, &gone, before, revision);
        if !is_first {
            self.check_weakenings(&plan.weakens.concat(), *allow_weaker)?;
        }
        let changes = self.changes(&mut judged, &old, &gone, &plan.weakens)?;
        let commit = Commit {
            origin: self.origin(actor),
            changes,
        };
        if let Some(keep) = keep {
            keep(&kept.0).map_err(store_failed)?;
            drop(kept);
        }
        self.store.commit_all(vec![commit]).map_err(store_failed)?;
        let mut adopted = Adopted {
            changed: plan.places.len(),
            findings: Vec::new(),
            weakens: plan.weakens.concat(),
        };
        for judgement in judged {
            let Judgement {
                kind,
                id,
                digest,
                references,
                values,
                findings,
                ..
            } = judgement;
            self.keep_references(kind, &id, &values);
            adopted.findings.extend(findings);
            let met = meet(&plan.after, kind, &id, references);
            adopted.findings.extend(met);
            known.insert((kind, id), digest);
        }
        for stored in &gone {
            self.forget_references(stored.kind, &stored.id);
            known.remove(&(stored.kind, stored.id.clone()));
        }
        let before = plan.before;
        let after = self.publish(plan.after);
        for (kind, id) in &plan.places {
            self.tell_workers(&before, &after, *kind, id);
        }
        let places = plan.places.iter().map(|(kind, id)| (*kind, id));
        self.retire(&before, &after, places, Instant::now());
        Ok(adopted)
    }

    /// A declared item with the keys that its client was shown placeholders of, or not at all.
    fn keep_declared(&self, item: Item) -> Result<Item, WriteError> {
        let Item {
            kind,
            id,
            document,
            modified_index,
        } = item;
        let mut document = Opened::new(kind, document);
        let old = self.store.find(kind, &id).map_err(store_failed)?;
        let old = old.and_then(|old| self.unseal(&old).ok());
        let keep = self.custody.keep(kind, &id, &mut document, old.as_deref());
        keep.map_err(one)?;
        Ok(Item {
            kind,
            id,
            document: document.into_document(),
            modified_index,
        })
    }

    /// A declared object as a write of it would be judged, or closed; what was built for it is kept
    /// for use where `is_kept`.
    fn judge_declared(&self, item: &Declaration, digest: Sha256, is_kept: bool) -> Judgement {
        let Declaration { kind, id, document } = item;
        let request = Request {
            kind: *kind,
            id: id.clone(),
            flavour: Flavour::Apisix.wide_enough_for(*kind, document),
            // Who declares it is in the audit record; judging asks nobody.
            actor: Actor {
                name: String::new(),
                request_id: String::new(),
                peer: None,
            },
            if_match: None,
            allow_weaker: false,
            ttl: None,
        };
        let edit = Edit::Replace(document.clone());
        let finding = |is_error, pointer: &str, text: &str| Finding {
            kind: *kind,
            id: id.clone(),
            is_error,
            pointer: pointer.to_owned(),
            text: text.to_owned(),
        };
        let closed = |findings| Judgement {
            kind: *kind,
            id: id.clone(),
            digest,
            document: None,
            resource: None,
            is_refused: true,
            references: Vec::new(),
            piece: close(*kind, id, document),
            values: Values::default(),
            findings,
        };
        // Nothing is asked for here: what the last generation does not have is resolved at once after
        // the publish, and closed until then.
        match self.judge(&request, &edit, document.clone(), None, &Outcome::new()) {
            Ok(judged) => {
                // Here, not behind the commit, where all of it would be there at once. What is not
                // served in the end is nobody's, and makes room for others.
                if is_kept {
                    self.keep_built(judged.proved);
                }
                let warnings = judged.warnings.iter();
                let told = warnings.map(|warning| finding(false, &warning.pointer, &warning.text));
                Judgement {
                    findings: told.collect(),
                    document: (*judged.document != **document).then_some(judged.document),
                    references: references(&judged.resource),
                    resource: Some(judged.resource),
                    is_refused: false,
                    piece: judged.piece,
                    values: judged.values,
                    ..closed(Vec::new())
                }
            }
            Err(WriteError::Invalid(faults)) => {
                let faults = faults.0.iter();
                let told = faults.map(|fault| finding(true, &fault.pointer, &fault.told()));
                closed(told.collect())
            }
            Err(error) => closed(vec![finding(true, "", &error.to_string())]),
        }
    }

    /// What the changes lead to, and what each makes less strict.
    fn plan_declared(
        &self,
        judged: &[Judgement],
        old: &HashMap<(Kind, Id), Stored>,
        gone: &[Stored],
        before: Arc<Snapshot>,
        revision: Revision,
    ) -> Plan {
        let has_before = before.places().next().is_some();
        let mut last = revision.0;
        let mut next = || {
            last = last.saturating_add(1);
            Revision(last)
        };
        let puts: Vec<_> = judged
            .iter()
            .map(|judgement| {
                let modified = next();
                let (kind, id) = (judgement.kind, judgement.id.clone());
                let stored = old.get(&(kind, id.clone()));
                snapshot::Change::Put {
                    kind,
                    id,
                    created: stored.map_or(modified, |stored| stored.created),
                    modified,
                    piece: judgement.piece.clone(),
                }
            })
            .collect();
        let removals = gone.iter().map(|stored| {
            let _counted = next();
            snapshot::Change::Delete {
                kind: stored.kind,
                id: stored.id.clone(),
            }
        });
        let changes: Vec<_> = puts.into_iter().chain(removals).collect();
        let after = before.apply(changes, Revision(last));
        let becomes: HashMap<_, _> = judged
            .iter()
            .map(|judgement| ((judgement.kind, &judgement.id), &judgement.resource))
            .collect();
        let places: Vec<_> = judged
            .iter()
            .map(|judgement| (judgement.kind, judgement.id.clone()))
            .chain(gone.iter().map(|stored| (stored.kind, stored.id.clone())))
            .collect();
        let find = |kind, id: &Id| match becomes.get(&(kind, id)) {
            Some(resource) => Option::clone(resource),
            None => self.find_resource(kind, id),
        };
        let weakens = places
            .iter()
            .map(|(kind, id)| {
                if !has_before {
                    return Vec::new();
                }
                let was = self.find_resource(*kind, id);
                let new = becomes.get(&(*kind, id)).and_then(|new| new.as_ref());
                let step = Step {
                    before: &before,
                    after: &after,
                    kind: *kind,
                    id,
                    old: was.as_ref(),
                    new,
                };
                weakened(&step, &find)
            })
            .collect();
        Plan {
            before,
            after,
            places,
            weakens,
        }
    }

    /// The same changes for the store, keys sealed; takes the documents out.
    fn changes(
        &self,
        judged: &mut [Judgement],
        old: &HashMap<(Kind, Id), Stored>,
        gone: &[Stored],
        weakens: &[Vec<String>],
    ) -> Result<Vec<Change>, WriteError> {
        let now = self.now_seconds();
        let puts = judged.iter_mut().map(|judgement| {
            let (kind, id) = (judgement.kind, judgement.id.clone());
            let stored = old.get(&(kind, id.clone()));
            let was = stored.and_then(|stored| self.unseal(stored).ok());
            let document = judgement.document.take();
            let mut document = document.unwrap_or_else(|| Opened::new(kind, Document::new()));
            let created = was.as_deref().and_then(|was| time(was, "create_time"));
            stamp(&mut document, &id, created.unwrap_or(now), now);
            let changed = changed_paths(was.as_deref(), Some(&document));
            // What is refused is closed; what is a secret of it is not written in the clear either.
            let sealed = if judgement.is_refused {
                self.custody.seal_refused(kind, &id, &mut document)
            } else {
                self.custody.seal_document(kind, &id, &mut document)
            };
            if let Err(error) = sealed {
                tracing::error!(%kind, %id, %error, "could not be sealed");
                return Err(WriteError::Internal);
            }
            let mutation = Mutation::Put {
                kind,
                id,
                document: document.into_document(),
                expires: None,
                expect: Expect::Any,
            };
            Ok((mutation, changed))
        });
        let removals = gone.iter().map(|stored| {
            let mutation = Mutation::Delete {
                kind: stored.kind,
                id: stored.id.clone(),
                expect: Expect::Any,
            };
            Ok((mutation, vec![String::new()]))
        });
        puts.chain(removals)
            .zip(weakens)
            .map(|(made, weakens)| {
                let (mutation, changed) = made?;
                Ok(Change {
                    mutation,
                    changed,
                    weakens: weakens.clone(),
                })
            })
            .collect()
    }
}

/// Items with their keys in clear, which are wiped with them.
struct Kept(Vec<Item>);

impl Drop for Kept {
    fn drop(&mut self) {
        for item in self.0.drain(..) {
            drop(Opened::new(item.kind, item.document));
        }
    }
}

struct Plan {
    before: Arc<Snapshot>,
    after: Snapshot,
    places: Vec<(Kind, Id)>,
    weakens: Vec<Vec<String>>,
}

/// A declared object whose keys are wiped with it.
struct Declaration {
    kind: Kind,
    id: Id,
    document: Opened,
}

fn opened(item: Item) -> Result<(Declaration, Sha256), WriteError> {
    let Item {
        kind, id, document, ..
    } = item;
    let document = Opened::new(kind, document);
    let digest = digest(&document).ok_or(WriteError::Internal)?;
    Ok((Declaration { kind, id, document }, digest))
}

fn digest(document: &Document) -> Option<Sha256> {
    let text = Zeroizing::new(serde_json::to_vec(document).ok()?);
    sha256(&[&text]).ok()
}

/// How an object meets the others: what it points to in vain, who disputes its names, and by which
/// names it is reached on easier terms.
fn meet(snapshot: &Snapshot, kind: Kind, id: &Id, references: Vec<Reference>) -> Vec<Finding> {
    let finding = |is_error, pointer: &str, text: String| Finding {
        kind,
        id: id.clone(),
        is_error,
        pointer: pointer.to_owned(),
        text,
    };
    let missing = references.into_iter().filter_map(|(to, to_id, at)| {
        let fault = if snapshot.modified(to, &to_id).is_none() {
            missing_reference(to, &to_id, at)
        } else if to == Kind::Ssl && snapshot.ssl_role(&to_id) != Some(Role::Client) {
            wrong_ssl_type(&to_id, at)
        } else {
            return None;
        };
        Some(finding(true, &fault.pointer, fault.reason))
    });
    let disputed = match kind {
        Kind::Ssl => snapshot.disputed_names(id),
        Kind::Upstream | Kind::Service | Kind::Route | Kind::Secret => Vec::new(),
    };
    let disputed = disputed
        .into_iter()
        .map(|(pattern, other)| finding(true, "/snis", disputed_name(&pattern, &other)));
    let warnings = weaker_names(snapshot, kind, id).into_iter();
    let warnings = warnings.map(|warning| finding(false, &warning.pointer, warning.text));
    missing.chain(disputed).chain(warnings).collect()
}
