//! Settling: planned changes are stored, then served, then answered.
//!
//! Called under the writer's lock. What changes lead to is known before they are stored (`plan`);
//! after the store's commit nothing can fail. So a refused write leaves no trace, and a stored one
//! is served when its writer is answered.

use std::sync::Arc;
use std::time::Instant;

use crate::control::group::{Job, Ready};
use crate::control::plan::{Group, Step};
use crate::control::prove::Proved;
use crate::control::write::{Draft, Request};
use crate::control::{Actor, Delete, Deleted, Inner, Shown, WriteError, Written, store_failed};
use crate::resource::fault::Warning;
use crate::resource::{Id, Kind, Revision};
use crate::snapshot::link::Command;
use crate::snapshot::weaken::CLIENT_GONE;
use crate::snapshot::{Snapshot, Uneven};
use crate::store::audit::{Action, Head};
use crate::store::{Committed, StoreError};

/// The warning of a route that names of different policies lead to.
const WEAKER_NAME: &str = "weaker_name";

impl Inner {
    /// What a put would do: its warnings, and nothing stored.
    ///
    /// # Errors
    /// Every one of [`Control::put`](crate::control::Control::put) but those of the store's commit.
    pub(super) fn rehearse(
        &self,
        request: &Request,
        draft: Draft,
    ) -> Result<Vec<Warning>, WriteError> {
        let (step, _) = Group::new(self)?.plan_put(request, &draft)?;
        Ok(put_warnings(&step, request, draft.warnings))
    }

    /// Settles changes in this order and answers each. Called under the writer's lock.
    pub(super) fn settle(&self, jobs: Vec<Job>) {
        if let Err(ready) = self.settle_together(jobs) {
            for one in ready {
                // One alone is never given back.
                let _answered = self.settle_together(vec![Job::Ready(one)]);
            }
        }
    }

    /// Settles changes in one transaction and one publish: references, store, snapshot, workers.
    /// One that is refused before it comes to the store leaves the others alone.
    ///
    /// # Errors
    /// The store refuses several together: they are given back, and nothing of them was stored.
    fn settle_together(&self, jobs: Vec<Job>) -> Result<(), Vec<Ready>> {
        let mut group = match Group::new(self) {
            Ok(group) => group,
            Err(error) => {
                jobs.into_iter().for_each(|job| job.refuse(error.clone()));
                return Ok(());
            }
        };
        let (mut ready, mut commits) = (Vec::new(), Vec::new());
        for job in jobs {
            if let Some((job, step, commit)) = group.plan(job) {
                ready.push((job, step));
                commits.push(commit);
            }
        }
        let (last, late) = group.finish();
        let committed = match self.store.commit_all(commits) {
            Ok(committed) => committed,
            Err(error) => {
                let ready = ready.into_iter().map(|(job, _)| job);
                // What may be there must not be tried again.
                if ready.len() > 1 && !matches!(error, StoreError::Unsure { .. }) {
                    return Err(ready.chain(late).collect());
                }
                let error = refused_by_store(error);
                ready.for_each(|job| job.refuse(error.clone()));
                refuse_late(late);
                return Ok(());
            }
        };
        if ready.is_empty() {
            refuse_late(late);
            return Ok(());
        }
        // Stored: from here on the changes are served, whatever else happens.
        for (job, step) in &mut ready {
            for (kind, id) in &step.changed {
                self.forget_references(*kind, id);
            }
            if let Ready::Put { request, draft, .. } = job {
                self.keep_references(request.kind, &request.id, &draft.values);
                // In the cache first: the first handshake that sees the snapshot finds it.
                self.keep_built(std::mem::take(&mut draft.proved));
            }
        }
        self.publish(last);
        let is_ending = |(job, _): &(Ready, Step)| match job {
            Ready::Put { draft, .. } => draft.expires.is_some(),
            Ready::Delete { .. } => false,
        };
        if ready.iter().any(is_ending) {
            self.expiry.notify_one();
        }
        for ((job, step), committed) in ready.into_iter().zip(committed) {
            for (kind, id) in &step.changed {
                self.tell_workers(&step.before, &step.after, *kind, id);
            }
            let changed = step.changed.iter().map(|(kind, id)| (*kind, id));
            self.retire(&step.before, &step.after, changed, Instant::now());
            match job {
                Ready::Put {
                    request,
                    draft,
                    reply,
                } => {
                    let written = self.written(&request, *draft, &step, &committed);
                    let _gone = reply.send(Ok(written));
                }
                Ready::Delete { delete, reply } => {
                    let _gone = reply.send(Ok(deleted(&delete, step, &committed)));
                }
            }
        }
        refuse_late(late);
        Ok(())
    }

    /// Puts what was built and proved into the cache.
    pub(super) fn keep_built(&self, Proved { context, connector }: Proved) {
        if let Some(context) = context {
            self.contexts.keep_server(context);
        }
        if let Some(connector) = connector {
            self.contexts.keep_upstream(connector);
        }
    }

    /// Logs a put that was made, and says what its writer is told.
    fn written(
        &self,
        request: &Request,
        draft: Draft,
        step: &Step,
        committed: &Committed,
    ) -> Written {
        let Request {
            kind, id, actor, ..
        } = request;
        if *kind == Kind::Ssl {
            self.log_lost_names(&step.after, id);
        }
        let warnings = put_warnings(step, request, draft.warnings);
        let modified = step.after.revision;
        let action = match draft.known {
            None => Action::Create,
            Some(_) => Action::Update,
        };
        let (head, weakens) = (&committed.head, step.weakens.concat());
        log_change(
            actor, *kind, id, action, modified, head, &warnings, &weakens,
        );
        let shown = Shown {
            kind: *kind,
            id: id.clone(),
            document: draft.shown,
            created: draft.known.map_or(modified, |(created, _)| created),
            modified,
            expires: draft.expires,
        };
        Written {
            created: action == Action::Create,
            shown,
            warnings,
        }
    }

    /// Publishes a snapshot and counts what it holds.
    pub(super) fn publish(&self, snapshot: Snapshot) -> Arc<Snapshot> {
        let published = self.live.publish(snapshot);
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let version = i64::try_from(published.version).unwrap_or(i64::MAX);
        self.metrics.snapshot_version.set(version);
        self.metrics
            .names_closed
            .set(gauge(published.tally().names_closed));
        self.metrics
            .upstream_not_verified
            .set(gauge(published.tally().upstreams_not_verified));
        for kind in Kind::ALL {
            self.metrics
                .set_resources(kind.plural(), published.tally().objects(kind));
        }
        published
    }

    /// Has the workers look at the connections that a change of an ssl concerns.
    pub(super) fn tell_workers(&self, before: &Snapshot, after: &Snapshot, kind: Kind, id: &Id) {
        if kind != Kind::Ssl {
            return;
        }
        let (old, new) = (before.server(id), after.server(id));
        if old.is_some() && new.is_none() {
            self.command(&Command::Close(id.clone()));
        }
        let mut concerned = Vec::new();
        if let (Some(old), Some(new)) = (old, new)
            && (old.policy.digest != new.policy.digest
                || old.serving.is_ok() != new.serving.is_ok()
                || old.patterns != new.patterns)
        {
            concerned.push(id.clone());
        }
        // Whoever served a name before that this ssl serves now.
        for pattern in new.into_iter().flat_map(|new| &new.patterns) {
            let holder = before.holder(pattern);
            if let Some(holder) = holder
                && holder.ssl_id != *id
                && !concerned.contains(&holder.ssl_id)
            {
                concerned.push(holder.ssl_id.clone());
            }
        }
        if !concerned.is_empty() {
            self.command(&Command::Judge(concerned.into()));
        }
    }
}

/// Has those try again that another change came before.
fn refuse_late(late: Vec<Ready>) {
    let late = late.into_iter();
    late.for_each(|job| job.refuse(WriteError::Conflict));
}

/// Logs a removal that was made, and says what its writer is told.
fn deleted(delete: &Delete, step: Step, committed: &Committed) -> Deleted {
    let (actor, head, action) = (&delete.actor, &committed.head, Action::Delete);
    let revision = step.after.revision;
    for ((kind, id), weakens) in step.changed.iter().zip(&step.weakens) {
        log_change(actor, *kind, id, action, revision, head, &[], weakens);
    }
    let warnings = with_weakenings(Vec::new(), &step.weakens.concat());
    let mut cascaded = step.changed;
    cascaded.pop();
    Deleted { cascaded, warnings }
}

/// All that the writer of a put should know.
fn put_warnings(step: &Step, request: &Request, own: Vec<Warning>) -> Vec<Warning> {
    let mut warnings = with_weakenings(own, &step.weakens.concat());
    if request.kind == Kind::Ssl {
        warnings.extend(lost_names(&step.after, &request.id));
    }
    warnings.extend(weaker_names(&step.after, request.kind, &request.id));
    warnings
}

fn with_weakenings(mut warnings: Vec<Warning>, weakens: &[String]) -> Vec<Warning> {
    let is_told = warnings
        .iter()
        .any(|warning| warning.code == "client_removed");
    let phrases = weakens
        .iter()
        .filter(|phrase| !(is_told && phrase.ends_with(CLIENT_GONE)));
    let new: Vec<_> = phrases
        .map(|phrase| Warning {
            code: "weakens",
            pointer: String::new(),
            text: format!("less strict than before: {phrase}"),
        })
        .collect();
    warnings.extend(new);
    warnings
}

fn lost_names(snapshot: &Snapshot, id: &Id) -> Vec<Warning> {
    let lost = snapshot.lost_names(id).into_iter();
    lost.map(|(pattern, winner)| Warning {
        code: "name_taken",
        pointer: "/snis".to_owned(),
        text: format!("{pattern} is served by the older ssl {winner}; take it out of one of them"),
    })
    .collect()
}

/// By which names what leads somewhere asks less of clients than by others.
pub(super) fn weaker_names(snapshot: &Snapshot, kind: Kind, id: &Id) -> Vec<Warning> {
    let own = snapshot.uneven_at(kind, id).map(|Uneven { strict, loose }| Warning {
        code: WEAKER_NAME,
        pointer: "/hosts".to_owned(),
        text: format!(
            "{strict} requires a client certificate, but {loose} leads here too and requires none; \
             list hosts that ask alike"
        ),
    });
    let others = match kind {
        Kind::Ssl => snapshot.circumvented(id),
        Kind::Route | Kind::Service | Kind::Upstream | Kind::Secret => None,
    };
    let others = others.map(|Uneven { strict, loose }| Warning {
        code: WEAKER_NAME,
        pointer: "/snis".to_owned(),
        text: format!(
            "routes of {strict} can be reached without a client certificate, by {loose}: they have \
             no hosts or a wildcard; `portcullis check` lists them"
        ),
    });
    own.into_iter().chain(others).collect()
}

fn refused_by_store(error: StoreError) -> WriteError {
    match error {
        StoreError::Conflict { .. } | StoreError::Absent { .. } => WriteError::Conflict,
        StoreError::InUse { .. }
        | StoreError::Occupied { .. }
        | StoreError::Newer { .. }
        | StoreError::Foreign { .. }
        | StoreError::Damaged { .. }
        | StoreError::Full { .. }
        | StoreError::Unsure { .. }
        | StoreError::KeyReplaced
        | StoreError::ReadOnly
        | StoreError::Io { .. }
        | StoreError::Sqlite { .. }
        | StoreError::Audit(_)
        | StoreError::Encode { .. } => store_failed(error),
    }
}

#[expect(clippy::too_many_arguments, reason = "the fields of one line")]
fn log_change(
    actor: &Actor,
    kind: Kind,
    id: &Id,
    action: Action,
    revision: Revision,
    head: &Head,
    warnings: &[Warning],
    weakens: &[String],
) {
    let codes: Vec<_> = warnings.iter().map(|warning| warning.code).collect();
    tracing::info!(
        %kind,
        %id,
        action = action.as_str(),
        revision = revision.0,
        actor = %actor.name,
        request_id = %actor.request_id,
        peer = actor.peer.map(tracing::field::display),
        audit_count = head.count,
        audit_mac = %head.mac,
        warnings = codes.join(","),
        weakens = weakens.join("; "),
        "resource changed"
    );
}
