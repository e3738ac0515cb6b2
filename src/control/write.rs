//! A change: judged on any thread, then handed on to be settled.
//!
//! All that costs much happens here, side by side for many writers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::control::generations::{Values, references_of, told_by_reference};
use crate::control::group::{self, Job, Ready};
use crate::control::own_nodes::own_nodes;
use crate::control::prove::Proved;
use crate::control::{
    Actor, Amend, Delete, Deleted, Flavour, Inner, Post, Put, Show, WriteError, Written, millis,
    on_blocking, store_failed,
};
use crate::failure::Reason;
use crate::resource::fault::{Fault, Faults, Warning, Words};
use crate::resource::patch::Patch;
use crate::resource::service::UpstreamRef;
use crate::resource::upstream::Upstream;
use crate::resource::{Document, Id, Kind, Resource, Revision, Terms};
use crate::resource::{address_id, check_id, parse, references, stamp, time};
use crate::secrets::custody::amend::amend_keys;
use crate::secrets::custody::keep::{client_removed, keep_names};
use crate::secrets::custody::seal::refuse_sealed;
use crate::secrets::custody::stray::stray_keys;
use crate::secrets::custody::{CustodyError, Opened, Reason as CustodyReason};
use crate::secrets::desk::Outcome;
use crate::snapshot::compile::{Piece, compile};
use crate::snapshot::specs::SpecError;
use crate::store::Stored;
use crate::store::audit::changed_paths;

/// How often a change is tried again when another one came first.
const RETRIES: usize = 3;

/// What a change makes of what is stored.
pub(super) enum Edit {
    /// This takes its place, whether there is something or not.
    Replace(Opened),
    /// A part of it changes; there must be something.
    Amend(Patch),
}

/// A change of one object, whatever the verb.
pub(super) struct Request {
    pub(super) kind: Kind,
    pub(super) id: Id,
    pub(super) flavour: Flavour,
    pub(super) actor: Actor,
    pub(super) if_match: Option<Revision>,
    pub(super) allow_weaker: bool,
    /// After what time it is deleted; `None`: never.
    pub(super) ttl: Option<Duration>,
}

/// A document that is fit to be stored.
pub(super) struct Judged {
    pub(super) document: Opened,
    pub(super) resource: Resource,
    pub(super) piece: Piece,
    pub(super) proved: Proved,
    pub(super) warnings: Vec<Warning>,
    pub(super) values: Values,
}

/// What is found out about a document that is whole.
struct Examined {
    resource: Resource,
    piece: Piece,
    proved: Proved,
    warnings: Vec<Warning>,
}

/// A change with everything done that needs no lock.
pub(super) struct Draft {
    /// What is stored, sealed.
    pub(super) document: Document,
    /// What the reply shows.
    pub(super) shown: Document,
    /// The object as it was stored: its revisions.
    pub(super) known: Option<(Revision, Revision)>,
    /// The object as it was; `None` too when it cannot be read any more.
    pub(super) old: Option<Resource>,
    pub(super) resource: Resource,
    pub(super) piece: Piece,
    pub(super) proved: Proved,
    pub(super) changed: Vec<String>,
    pub(super) warnings: Vec<Warning>,
    pub(super) references: Vec<(Kind, Id, &'static str)>,
    /// What its references to secrets stand for.
    pub(super) values: Values,
    /// When it expires, in milliseconds since the epoch.
    pub(super) expires: Option<u64>,
}

/// Creates or replaces an object.
pub(super) async fn put(inner: &Arc<Inner>, put: Put) -> Result<Written, WriteError> {
    let (request, edit) = split(put);
    write(inner, Arc::new(request), Arc::new(edit)).await
}

/// Creates an object under an id of its own, which it gets when its turn comes.
pub(super) async fn post(inner: &Arc<Inner>, post: Post) -> Result<Written, WriteError> {
    let Post { kind, document, .. } = &post;
    let edit = Arc::new(Edit::Replace(document.clone()));
    let outcome = resolve(inner, *kind, None, &edit, false).await?;
    let post = Box::new(post);
    group::settle(inner, |reply| Job::Post {
        post,
        outcome,
        reply,
    })
    .await
}

/// Changes a part of an object.
pub(super) async fn amend(inner: &Arc<Inner>, amend: Amend) -> Result<Written, WriteError> {
    let Amend {
        kind,
        id,
        patch,
        flavour,
        actor,
        if_match,
        allow_weaker,
        ttl,
    } = amend;
    let request = Request {
        kind,
        id,
        flavour,
        actor,
        if_match,
        allow_weaker,
        ttl,
    };
    write(inner, Arc::new(request), Arc::new(Edit::Amend(patch))).await
}

/// Does all of a put but the storing: the warnings that it would give.
pub(super) async fn validate(inner: &Arc<Inner>, put: Put) -> Result<Vec<Warning>, WriteError> {
    let (request, edit) = split(put);
    let edit = Arc::new(edit);
    let outcome = resolve(inner, request.kind, Some(&request.id), &edit, true).await?;
    let work = move |inner: &Inner| {
        let draft = inner.draft(&request, &edit, &outcome)?;
        inner.rehearse(&request, draft)
    };
    in_turn(inner, work).await
}

/// Does what a put does before it takes the lock, without asking for secrets: the document's own
/// warnings.
pub(super) async fn judge(inner: &Arc<Inner>, put: Put) -> Result<Vec<Warning>, WriteError> {
    let (request, edit) = split(put);
    in_turn(inner, move |inner| {
        let outcome = Outcome::new();
        let draft = inner.draft(&request, &edit, &outcome);
        draft.map(|draft| draft.warnings)
    })
    .await
}

fn split(put: Put) -> (Request, Edit) {
    let Put {
        kind,
        id,
        document,
        flavour,
        actor,
        if_match,
        allow_weaker,
        ttl,
    } = put;
    let request = Request {
        kind,
        id,
        flavour,
        actor,
        if_match,
        allow_weaker,
        ttl,
    };
    (request, Edit::Replace(document))
}

/// Judges on a blocking thread, as many at once as there are cores.
async fn in_turn<T: Send + 'static>(
    inner: &Arc<Inner>,
    work: impl FnOnce(&Inner) -> Result<T, WriteError> + Send + 'static,
) -> Result<T, WriteError> {
    // Never closed. It goes with the work, which goes on when nobody waits for it any more.
    let turn = inner.drafts.clone().acquire_owned().await;
    on_blocking(inner, move |inner| {
        let done = work(inner);
        drop(turn);
        done
    })
    .await
}

/// Makes one change, again from the start when another one came first.
///
/// Many writers judge side by side; the last try holds the lock from its start, so that no writer
/// of this process is starved by the others.
async fn write(
    inner: &Arc<Inner>,
    request: Arc<Request>,
    edit: Arc<Edit>,
) -> Result<Written, WriteError> {
    let mut outcome = Arc::default();
    for tries_left in (0..=RETRIES).rev() {
        if tries_left > 0 {
            let (kind, id) = (request.kind, &request.id);
            outcome = Arc::new(resolve(inner, kind, Some(id), &edit, false).await?);
        }
        let early = match tries_left {
            0 => Some(inner.writer.clone().lock_owned().await),
            _ => None,
        };
        let draft = draft(inner, &request, &edit, &outcome).await?;
        let (request, draft) = (request.clone(), Box::new(draft));
        let job = |reply| {
            Job::Ready(Ready::Put {
                request,
                draft,
                reply,
            })
        };
        let written = match early {
            Some(guard) => group::settle_alone(inner, guard, job).await,
            None => group::settle(inner, job).await,
        };
        match written {
            Err(WriteError::Conflict) => {}
            written => return written,
        }
    }
    Err(WriteError::Conflict)
}

async fn draft(
    inner: &Arc<Inner>,
    request: &Arc<Request>,
    edit: &Arc<Edit>,
    outcome: &Arc<Outcome>,
) -> Result<Draft, WriteError> {
    let (request, edit, outcome) = (request.clone(), edit.clone(), outcome.clone());
    in_turn(inner, move |inner| inner.draft(&request, &edit, &outcome)).await
}

/// Asks for what a change's document refers to, before any lock is taken. A document with faults
/// has no references here; the draft tells them.
async fn resolve(
    inner: &Arc<Inner>,
    kind: Kind,
    id: Option<&Id>,
    edit: &Arc<Edit>,
    dry_run: bool,
) -> Result<Outcome, WriteError> {
    let (id, edit) = (id.cloned(), edit.clone());
    let references = move |inner: &Inner| {
        let found = match &*edit {
            Edit::Replace(sent) => references_of(kind, sent),
            Edit::Amend(patch) => {
                let stored = id.and_then(|id| inner.store.find(kind, &id).ok()?);
                let amended = stored.and_then(|stored| inner.amended(stored, patch).ok());
                amended.map_or_else(BTreeMap::new, |new| references_of(kind, &new))
            }
        };
        let mut references: Vec<String> = found.into_values().collect();
        references.sort_unstable();
        references.dedup();
        references
    };
    inner.resolve(references, dry_run).await
}

/// Removes an object.
pub(super) async fn delete(inner: &Arc<Inner>, delete: Delete) -> Result<Deleted, WriteError> {
    let delete = Arc::new(delete);
    for _ in 0..=RETRIES {
        let delete = delete.clone();
        let job = |reply| Job::Ready(Ready::Delete { delete, reply });
        match group::settle(inner, job).await {
            Err(WriteError::Conflict) => {}
            deleted => return deleted,
        }
    }
    Err(WriteError::Conflict)
}

impl Inner {
    pub(super) fn draft(
        &self,
        request: &Request,
        edit: &Edit,
        outcome: &Outcome,
    ) -> Result<Draft, WriteError> {
        let Request { kind, id, .. } = request;
        let stored = self.store.find(*kind, id).map_err(store_failed)?;
        let known = stored
            .as_ref()
            .map(|stored| (stored.created, stored.modified));
        check_precondition(request.if_match, known.map(|(_, modified)| modified))?;
        let old = stored
            .as_ref()
            .and_then(|stored| self.unseal_or_log(stored));
        let new = match edit {
            Edit::Replace(sent) => sent.clone(),
            Edit::Amend(patch) => self.amended(stored.ok_or(WriteError::NotFound)?, patch)?,
        };
        let Judged {
            mut document,
            resource,
            piece,
            proved,
            warnings,
            values,
        } = self.judge(request, edit, new, old.as_ref(), outcome)?;
        let now = self.now_seconds();
        let (created, updated) = match edit {
            Edit::Replace(_) => (
                old.as_deref().and_then(|old| time(old, "create_time")),
                None,
            ),
            Edit::Amend(patch) => (
                time(&document, "create_time"),
                time(&document, "update_time").filter(|_| patch.sets("update_time")),
            ),
        };
        stamp(
            &mut document,
            id,
            created.unwrap_or(now),
            updated.unwrap_or(now),
        );
        let mut changed = changed_paths(old.as_deref(), Some(&document));
        changed.retain(|path| path != "/update_time");
        let mut shown = document.clone();
        self.custody
            .withhold(*kind, id, &mut shown, Show::Placeholders);
        self.custody
            .seal_document(*kind, id, &mut document)
            .map_err(unsealable)?;
        let old = old.and_then(|old| self.parse_known(*kind, id, &old).ok());
        Ok(Draft {
            document: document.into_document(),
            shown: shown.into_document(),
            known,
            old: old.map(|parsed| parsed.resource),
            references: references(&resource),
            resource,
            piece,
            proved,
            changed,
            warnings,
            values,
            expires: request
                .ttl
                .map(|ttl| millis(self.now().saturating_add(ttl))),
        })
    }

    /// Everything about a document that can be judged without the other objects.
    pub(super) fn judge(
        &self,
        request: &Request,
        edit: &Edit,
        mut new: Opened,
        old: Option<&Opened>,
        outcome: &Outcome,
    ) -> Result<Judged, WriteError> {
        let (kind, id) = (request.kind, &request.id);
        refuse_sealed(kind, &new).map_err(one)?;
        self.rules.keyring.open(kind, &mut new).map_err(one)?;
        refuse_strays(kind, &new)?;
        let old = old.map(|old| &**old);
        self.custody.keep(kind, id, &mut new, old).map_err(one)?;
        let (kept, flavour) = match edit {
            Edit::Replace(_) => (keep_names(kind, &mut new, old).warnings, request.flavour),
            // It said what is to go; and it was stored in either spelling.
            Edit::Amend(_) => (
                client_removed(kind, &new, old).into_iter().collect(),
                old.map_or(request.flavour, |old| {
                    request.flavour.wide_enough_for(kind, old)
                }),
            ),
        };
        let last = self.last_generation(kind, id);
        let references = references_of(kind, &new);
        let generation = self.next_generation(&references, outcome, last.as_ref());
        let mut values = Values {
            references,
            generation,
        };
        let whole = values.generation.fill(&new);
        let (examined, invalid) = match self.examine(request, flavour, &whole) {
            Err(WriteError::Invalid(faults)) if !values.references.is_empty() => {
                // Faults of its own are its writer's.
                self.examine(request, flavour, &new)?;
                let faults = told_by_reference(faults, &values);
                let last = last.filter(|last| last.covers(values.references.values()));
                let Some(last) = last else {
                    return Err(WriteError::Invalid(faults));
                };
                let examined = self.examine(request, flavour, &last.fill(&new))?;
                values.generation = last;
                (examined, Some(faults))
            }
            examined => (examined?, None),
        };
        let Examined {
            resource,
            piece,
            proved,
            mut warnings,
        } = examined;
        warnings.extend(kept);
        warnings.extend(Self::unresolved(&values, outcome));
        warnings.extend(
            invalid
                .into_iter()
                .flat_map(|faults| faults.0)
                .map(|fault| Warning {
                    code: Reason::SecretInvalid.code(),
                    pointer: fault.pointer,
                    text: format!("{}; the last good values stay in force", fault.reason),
                }),
        );
        Ok(Judged {
            document: new,
            resource,
            piece,
            proved,
            warnings,
            values,
        })
    }

    /// Everything about a document whose references stand for what they can.
    fn examine(
        &self,
        request: &Request,
        flavour: Flavour,
        document: &Opened,
    ) -> Result<Examined, WriteError> {
        let (kind, id) = (request.kind, &request.id);
        let has_trust_file = self.rules.trust_file.is_some();
        let terms = Terms::write(flavour, self.now_seconds(), has_trust_file);
        let parsed = parse(kind, id, document, &terms)?;
        let ours = own_nodes(&parsed.resource, &self.rules.own);
        if !ours.is_empty() {
            return Err(WriteError::Invalid(Faults(ours)));
        }
        if self.rules.require_upstream_verify
            && let Some(pointer) = unverified(&parsed.resource)
        {
            return Err(one(Fault {
                pointer: pointer.to_owned(),
                reason: "`tls.verify` must be true: security.require_upstream_verify is set".into(),
                words: Words::Ours,
                guess: None,
            }));
        }
        let (piece, proved) = self.compile_proved(kind, id, &parsed.resource)?;
        Ok(Examined {
            resource: parsed.resource,
            piece,
            proved,
            warnings: parsed.warnings,
        })
    }

    /// What serves a resource, once OpenSSL took its material. A reference without a value is no
    /// fault here: its writer is told by reference.
    pub(super) fn compile_proved(
        &self,
        kind: Kind,
        id: &Id,
        resource: &Resource,
    ) -> Result<(Piece, Proved), WriteError> {
        let compiled = compile(kind, id, resource, &self.ground());
        match compiled.trouble {
            None | Some((_, SpecError::Unresolved { .. })) => {}
            Some((pointer, error)) => {
                return Err(one(Fault {
                    pointer,
                    reason: error.to_string(),
                    words: Words::Ours,
                    guess: None,
                }));
            }
        }
        let proved = self.prove(kind, resource, compiled.build)?;
        Ok((compiled.piece, proved))
    }

    /// A stored document after a change of a part of it, with placeholders for its keys.
    fn amended(&self, stored: Stored, patch: &Patch) -> Result<Opened, WriteError> {
        let before = self.show(stored, Show::Placeholders);
        let mut after = Opened::new(before.kind, before.document.clone());
        patch.apply(&mut after)?;
        let id = check_id(before.kind, Some(before.id.as_str()), &after)?;
        address_id(&mut after, &id);
        amend_keys(before.kind, &before.document, &mut after).map_err(one)?;
        Ok(after)
    }

    /// The old document in the clear. One that does not open can be replaced, not kept from.
    fn unseal_or_log(&self, stored: &Stored) -> Option<Opened> {
        self.unseal(stored)
            .inspect_err(|error| {
                let (kind, id) = (stored.kind, &stored.id);
                tracing::error!(%kind, %id, %error, "what is stored does not open");
            })
            .ok()
    }
}

/// Refuses a key in a member that is shown.
fn refuse_strays(kind: Kind, document: &Opened) -> Result<(), WriteError> {
    let faults = stray_keys(kind, document);
    if faults.is_empty() {
        return Ok(());
    }
    Err(WriteError::Invalid(Faults(faults)))
}

pub(super) fn check_precondition(
    wanted: Option<Revision>,
    current: Option<Revision>,
) -> Result<(), WriteError> {
    match wanted {
        Some(_) if wanted != current => Err(WriteError::PreconditionFailed),
        _ => Ok(()),
    }
}

/// The pointer to `verify` of an upstream over TLS that is not verified.
fn unverified(resource: &Resource) -> Option<&'static str> {
    let is_unverified = |upstream: &Upstream| {
        upstream.scheme.is_tls() && !upstream.tls.as_ref().is_some_and(|tls| tls.verify)
    };
    let of_source = |source: &Option<UpstreamRef>| match source {
        Some(UpstreamRef::Inline(upstream)) if is_unverified(upstream) => {
            Some("/upstream/tls/verify")
        }
        _ => None,
    };
    match resource {
        Resource::Upstream(upstream) => is_unverified(upstream).then_some("/tls/verify"),
        Resource::Service(service) => of_source(&service.upstream),
        Resource::Route(route) => of_source(&route.upstream),
        Resource::Ssl(_) | Resource::Secret(_) => None,
    }
}

pub(super) fn one(fault: Fault) -> WriteError {
    WriteError::Invalid(Faults(vec![fault]))
}

/// A document that cannot be sealed: a value that is none is its writer's fault.
fn unsealable(error: CustodyError) -> WriteError {
    match error.reason {
        CustodyReason::AlreadySealed | CustodyReason::Placeholder | CustodyReason::NotText => {
            let reason = error.reason.to_string();
            one(Fault {
                pointer: error.pointer,
                reason,
                words: Words::Ours,
                guess: None,
            })
        }
        CustodyReason::Malformed
        | CustodyReason::OtherKey { .. }
        | CustodyReason::NotAuthentic
        | CustodyReason::Cipher(_) => {
            tracing::error!(kind = %error.kind, id = %error.id, %error, "could not be sealed");
            WriteError::Internal
        }
    }
}
