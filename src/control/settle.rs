//! Settling: what a change leads to is known before it is stored, and served once it is.
//!
//! Called under the writer's lock. The next snapshot is made, and compared with the one before,
//! while nothing is stored yet; after the store's commit nothing can fail. So a refused write
//! leaves no trace, and a stored one is served when its writer is answered.

use std::sync::Arc;
use std::time::Instant;

use crate::control::prove::Proved;
use crate::control::write::{Draft, Request, check_precondition};
use crate::control::{Actor, Delete, Deleted, Inner, Shown, WriteError, Written};
use crate::matching::sni::SniPattern;
use crate::resource::fault::{Fault, Faults, Warning};
use crate::resource::ssl::Role;
use crate::resource::{Document, Id, Kind, Resource, Revision};
use crate::resource::{missing_reference, still_used, wrong_ssl_type};
use crate::snapshot::compile::Piece;
use crate::snapshot::link::Command;
use crate::snapshot::weaken::{CLIENT_GONE, Step, weakened};
use crate::snapshot::{self, Snapshot, Uneven};
use crate::store::audit::{Action, Head, Origin};
use crate::store::{Change, Commit, Expect, Mutation, StoreError};

/// The warning of a route that names of different policies lead to.
const WEAKER_NAME: &str = "weaker_name";

/// What a put leads to.
struct Plan {
    before: Arc<Snapshot>,
    after: Snapshot,
    created: Revision,
    modified: Revision,
    weakens: Vec<String>,
}

impl Plan {
    fn apply(&self, request: &Request, piece: Piece) -> Snapshot {
        let change = snapshot::Change::Put {
            kind: request.kind,
            id: request.id.clone(),
            created: self.created,
            modified: self.modified,
            piece,
        };
        self.before.apply([change], self.modified)
    }

    /// All that the writer should know.
    fn warnings(&self, request: &Request, own: Vec<Warning>) -> Vec<Warning> {
        let mut warnings = with_weakenings(own, &self.weakens);
        if request.kind == Kind::Ssl {
            warnings.extend(lost_names(&self.after, &request.id));
        }
        warnings.extend(weaker_names(&self.after, request.kind, &request.id));
        warnings
    }
}

impl Inner {
    /// What a put would do: its warnings, and nothing stored.
    ///
    /// # Errors
    /// As [`Inner::commit`], but for those of the store's commit.
    pub(super) fn rehearse(
        &self,
        request: &Request,
        draft: Draft,
    ) -> Result<Vec<Warning>, WriteError> {
        let plan = self.plan(request, &draft)?;
        Ok(plan.warnings(request, draft.warnings))
    }

    /// Settles a change: references, store, snapshot, workers. Called under the writer's lock.
    ///
    /// # Errors
    /// Every one of [`Control::put`](crate::control::Control::put). After the store's commit there
    /// is none.
    pub(super) fn commit(&self, request: &Request, draft: Draft) -> Result<Written, WriteError> {
        let Request {
            kind, id, actor, ..
        } = request;
        let mut plan = self.plan(request, &draft)?;
        let expect = draft
            .known
            .map_or(Expect::Absent, |(_, modified)| Expect::Revision(modified));
        let change = Change {
            mutation: Mutation::Put {
                kind: *kind,
                id: id.clone(),
                document: draft.document,
                expect,
            },
            changed: draft.changed,
            weakens: plan.weakens.clone(),
        };
        let commit = Commit {
            origin: self.origin(actor),
            changes: vec![change],
        };
        let committed = self.store.commit(commit).map_err(refused_by_store)?;
        // Stored: from here on the change is served, whatever else happens.
        if let Some(outcome) = committed.outcomes.first()
            && (outcome.created, outcome.modified) != (plan.created, plan.modified)
        {
            (plan.created, plan.modified) = (outcome.created, outcome.modified);
            plan.after = plan.apply(request, draft.piece);
        }
        // In the cache first: the first handshake that sees the snapshot finds it.
        let Proved { context, connector } = draft.proved;
        context
            .into_iter()
            .for_each(|context| self.contexts.keep_server(context));
        connector
            .into_iter()
            .for_each(|made| self.contexts.keep_upstream(made));
        let warnings = plan.warnings(request, draft.warnings);
        let Plan {
            before,
            after,
            created,
            modified,
            weakens,
        } = plan;
        let after = self.publish(after);
        self.tell_workers(&before, &after, *kind, id);
        self.retire(&before, &after, [(*kind, id)], Instant::now());
        if *kind == Kind::Ssl {
            self.log_lost_names(&after, id);
        }
        let action = match draft.known {
            None => Action::Create,
            Some(_) => Action::Update,
        };
        let head = &committed.head;
        log_change(
            actor, *kind, id, action, modified, head, &warnings, &weakens,
        );
        let shown = Shown {
            kind: *kind,
            id: id.clone(),
            document: draft.shown,
            created,
            modified,
        };
        Ok(Written {
            created: action == Action::Create,
            shown,
            warnings,
        })
    }

    /// The snapshot that a put leads to, and what it makes less strict.
    fn plan(&self, request: &Request, draft: &Draft) -> Result<Plan, WriteError> {
        let before = self.live.load();
        check_references(&before, &draft.references)?;
        let modified = self.next_revision()?;
        let mut plan = Plan {
            after: Snapshot::default(),
            before,
            created: draft.known.map_or(modified, |(created, _)| created),
            modified,
            weakens: Vec::new(),
        };
        plan.after = plan.apply(request, draft.piece.clone());
        if request.kind == Kind::Ssl {
            check_names(&plan.after, &request.id, &draft.document)?;
        }
        let step = Step {
            before: &plan.before,
            after: &plan.after,
            kind: request.kind,
            id: &request.id,
            old: draft.old.as_ref(),
            new: Some(&draft.resource),
        };
        plan.weakens = weakened(&step, &|kind, id| self.find_resource(kind, id));
        self.check_weakenings(&plan.weakens, request.allow_weaker)?;
        Ok(plan)
    }

    /// The revision of the next change: there is one writer.
    fn next_revision(&self) -> Result<Revision, WriteError> {
        let last = self.store.revision().map_err(WriteError::Store)?;
        Ok(Revision(last.0.saturating_add(1)))
    }

    /// A stored object as a resource; `None` too when it cannot be read any more.
    fn find_resource(&self, kind: Kind, id: &Id) -> Option<Resource> {
        let stored = self.store.find(kind, id).ok()??;
        Some(self.read(&stored).ok()?.resource)
    }

    /// Removes an object, with what goes along. Called under the writer's lock.
    ///
    /// # Errors
    /// Every one of [`Control::delete`](crate::control::Control::delete). After the store's commit
    /// there is none.
    pub(super) fn remove(&self, delete: &Delete) -> Result<Deleted, WriteError> {
        let Delete {
            kind, id, actor, ..
        } = delete;
        let stored = self.store.find(*kind, id).map_err(WriteError::Store)?;
        let Some(stored) = stored else {
            return Err(WriteError::NotFound);
        };
        check_precondition(delete.if_match, Some(stored.modified))?;
        let before = self.live.load();
        let cascaded = followers(&before, delete)?;
        let gone: Vec<_> = cascaded
            .iter()
            .cloned()
            .chain([(*kind, id.clone())])
            .collect();
        let removals = gone.iter().cloned();
        let removals = removals.map(|(kind, id)| snapshot::Change::Delete { kind, id });
        let mut after = before.apply(removals, self.next_revision()?);
        let old = self.read(&stored).ok().map(|parsed| parsed.resource);
        let weakens: Vec<Vec<String>> = gone
            .iter()
            .map(|(gone_kind, gone_id)| {
                let step = Step {
                    before: &before,
                    after: &after,
                    kind: *gone_kind,
                    id: gone_id,
                    old: old.as_ref().filter(|_| (gone_kind, gone_id) == (kind, id)),
                    new: None,
                };
                weakened(&step, &|kind, id| self.find_resource(kind, id))
            })
            .collect();
        let all = weakens.concat();
        self.check_weakenings(&all, delete.allow_weaker)?;
        let changes = gone
            .iter()
            .zip(&weakens)
            .map(|((gone_kind, gone_id), weakens)| Change {
                mutation: Mutation::Delete {
                    kind: *gone_kind,
                    id: gone_id.clone(),
                    expect: if (gone_kind, gone_id) == (kind, id) {
                        Expect::Revision(stored.modified)
                    } else {
                        Expect::Any
                    },
                },
                changed: vec![String::new()],
                weakens: weakens.clone(),
            });
        let commit = Commit {
            origin: self.origin(actor),
            changes: changes.collect(),
        };
        let committed = self.store.commit(commit).map_err(refused_by_store)?;
        // Stored: from here on nothing serves it any more, whatever else happens.
        if let Some(outcome) = committed.outcomes.last() {
            after.revision = outcome.modified;
        }
        let after = self.publish(after);
        for (kind, id) in &gone {
            self.tell_workers(&before, &after, *kind, id);
        }
        let changed = gone.iter().map(|(kind, id)| (*kind, id));
        self.retire(&before, &after, changed, Instant::now());
        let warnings = with_weakenings(Vec::new(), &all);
        let (head, action) = (&committed.head, Action::Delete);
        for ((kind, id), weakens) in gone.iter().zip(&weakens) {
            log_change(actor, *kind, id, action, after.revision, head, &[], weakens);
        }
        Ok(Deleted { cascaded, warnings })
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
    fn tell_workers(&self, before: &Snapshot, after: &Snapshot, kind: Kind, id: &Id) {
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

    fn check_weakenings(&self, weakens: &[String], is_allowed: bool) -> Result<(), WriteError> {
        if weakens.is_empty() || is_allowed || !self.rules.refuse_weakening {
            return Ok(());
        }
        Err(WriteError::Weaker(weakens.to_vec()))
    }

    fn origin(&self, actor: &Actor) -> Origin {
        Origin {
            time_ms: u64::try_from(self.now().as_millis()).unwrap_or(u64::MAX),
            actor: actor.name.clone(),
            request_id: actor.request_id.clone(),
        }
    }
}

/// What goes along with a removal; none, unless it cascades.
fn followers(before: &Snapshot, delete: &Delete) -> Result<Vec<(Kind, Id)>, WriteError> {
    let Delete { kind, id, .. } = delete;
    // An ssl goes without complaint: what borrowed its certificate is closed.
    if *kind == Kind::Ssl {
        return Ok(Vec::new());
    }
    let mut users = before.users(*kind, id);
    if delete.cascade && *kind == Kind::Service {
        return Ok(users);
    }
    // APISIX looks at routes first.
    users.sort_by_key(|(kind, _)| *kind != Kind::Route);
    match users.first() {
        Some((by, by_id)) if !delete.force => Err(WriteError::StillUsed {
            text: still_used(*kind, *by, by_id),
        }),
        _ => Ok(Vec::new()),
    }
}

/// Whether everything that is pointed to is there, and is what it must be.
fn check_references(
    snapshot: &Snapshot,
    references: &[(Kind, Id, &'static str)],
) -> Result<(), WriteError> {
    let faults = references.iter().filter_map(|(kind, id, at)| {
        if snapshot.modified(*kind, id).is_none() {
            return Some(missing_reference(*kind, id, at));
        }
        let is_wrong = *kind == Kind::Ssl && snapshot.ssl_role(id) != Some(Role::Client);
        is_wrong.then(|| wrong_ssl_type(id, at))
    });
    let faults: Vec<_> = faults.collect();
    if faults.is_empty() {
        Ok(())
    } else {
        Err(WriteError::Invalid(Faults(faults)))
    }
}

/// Whether no other ssl claims a name of this one and asks otherwise of clients.
fn check_names(snapshot: &Snapshot, id: &Id, document: &Document) -> Result<(), WriteError> {
    let disputed = snapshot.disputed_names(id);
    if disputed.is_empty() {
        return Ok(());
    }
    let member = names_member(document);
    let faults = disputed.iter().map(|(pattern, other)| Fault {
        pointer: format!("/{member}"),
        reason: format!("`{member}`: {}", disputed_name(pattern, other)),
        schema: false,
    });
    Err(WriteError::Invalid(Faults(faults.collect())))
}

/// The member that holds an ssl's names.
pub(super) fn names_member(document: &Document) -> &'static str {
    if document.contains_key("snis") {
        "snis"
    } else {
        "sni"
    }
}

/// What is wrong with a name that two ssls claim and ask for otherwise.
pub(super) fn disputed_name(pattern: &SniPattern, other: &Id) -> String {
    format!(
        "{pattern} is claimed by ssl {other} too, whose `client` is another one or cannot be read, \
         and only one can be in force; give both the same `client`, or take the name out of one of \
         them: with `status` 0 an ssl claims nothing"
    )
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
        | StoreError::Newer { .. }
        | StoreError::Foreign { .. }
        | StoreError::Damaged { .. }
        | StoreError::Full { .. }
        | StoreError::Unsure { .. }
        | StoreError::ReadOnly
        | StoreError::Io { .. }
        | StoreError::Sqlite { .. }
        | StoreError::Audit(_)
        | StoreError::Encode { .. } => WriteError::Store(error),
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
