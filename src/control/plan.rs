//! Planning: what changes lead to, while nothing of them is stored.
//!
//! Called under the writer's lock. Changes of a group are planned one after the other, each as if
//! those before it had been made: the next snapshot is made, and compared with the one before.

use std::collections::HashMap;
use std::sync::Arc;

use crate::control::group::{Job, Ready};
use crate::control::write::{Draft, Edit, Request, check_precondition};
use crate::control::{Actor, Delete, Inner, Post, WriteError, store_failed};
use crate::matching::sni::SniPattern;
use crate::resource::fault::{Fault, Faults, Words};
use crate::resource::ssl::Role;
use crate::resource::{Document, Id, Kind, Resource, Revision};
use crate::resource::{missing_reference, still_used, wrong_ssl_type};
use crate::secrets::desk::Outcome;
use crate::snapshot::weaken::{self, weakened};
use crate::snapshot::{self, Snapshot};
use crate::store::audit::Origin;
use crate::store::{Change, Commit, Expect, Mutation, Stored};

/// A change that can be made.
pub(super) struct Step {
    /// The snapshot that it starts from; its revision is not published yet.
    pub(super) before: Arc<Snapshot>,
    /// The one that it leads to.
    pub(super) after: Arc<Snapshot>,
    /// The objects that it changes, the one that is meant last.
    pub(super) changed: Vec<(Kind, Id)>,
    /// What each of them makes less strict.
    pub(super) weakens: Vec<Vec<String>>,
}

/// Changes one after the other.
pub(super) struct Group<'i> {
    inner: &'i Inner,
    /// What is served once all of them are made.
    last: Arc<Snapshot>,
    /// The revision of the last of them: there is one writer.
    revision: Revision,
    /// What they change, and what it becomes; `None`: it goes.
    changed: HashMap<(Kind, Id), Option<Resource>>,
    /// Those that another change came before; it may be one of the group.
    late: Vec<Ready>,
}

impl<'i> Group<'i> {
    /// No changes yet.
    pub(super) fn new(inner: &'i Inner) -> Result<Self, WriteError> {
        Ok(Self {
            inner,
            last: inner.live.load(),
            revision: inner.store.revision().map_err(store_failed)?,
            changed: HashMap::new(),
            late: Vec::new(),
        })
    }

    /// What is to be served once all of them are made, and those that another change came before:
    /// an answer before that one is made would have them come again too early.
    pub(super) fn finish(self) -> (Snapshot, Vec<Ready>) {
        (Arc::unwrap_or_clone(self.last), self.late)
    }

    /// Plans one more. One that cannot be made changes nothing, and is answered unless it is late.
    pub(super) fn plan(&mut self, job: Job) -> Option<(Ready, Step, Commit)> {
        let job = match job {
            Job::Ready(ready) => ready,
            Job::Post {
                post,
                outcome,
                reply,
            } => {
                let drafted = self.draft_post(*post, &outcome);
                match drafted {
                    Ok((request, draft)) => Ready::Put {
                        request,
                        draft,
                        reply,
                    },
                    Err(error) => {
                        let _gone = reply.send(Err(error));
                        return None;
                    }
                }
            }
        };
        let planned = match &job {
            Ready::Put { request, draft, .. } => self.plan_put(request, draft),
            Ready::Delete { delete, .. } => self.plan_delete(delete),
        };
        match planned {
            Ok((step, commit)) => Some((job, step, commit)),
            Err(WriteError::Conflict) => {
                self.late.push(job);
                None
            }
            Err(error) => {
                job.refuse(error);
                None
            }
        }
    }

    /// Drafts a POST under the id of its turn.
    fn draft_post(
        &self,
        post: Post,
        outcome: &Outcome,
    ) -> Result<(Arc<Request>, Box<Draft>), WriteError> {
        let Post {
            kind,
            document,
            flavour,
            actor,
            if_match,
            allow_weaker,
            ttl,
        } = post;
        let request = Request {
            kind,
            id: self.next_id(kind)?,
            flavour,
            actor,
            if_match,
            allow_weaker,
            ttl,
        };
        let draft = self
            .inner
            .draft(&request, &Edit::Replace(document), outcome)?;
        Ok((Arc::new(request), Box::new(draft)))
    }

    /// The snapshot that a put leads to, and what it makes less strict.
    pub(super) fn plan_put(
        &mut self,
        request: &Request,
        draft: &Draft,
    ) -> Result<(Step, Commit), WriteError> {
        let Request { kind, id, .. } = request;
        let known = draft.known.map(|(_, modified)| modified);
        if self.find(*kind, id)?.map(|stored| stored.modified) != known {
            return Err(WriteError::Conflict);
        }
        check_references(&self.last, &draft.references)?;
        let modified = Revision(self.revision.0.saturating_add(1));
        let put = snapshot::Change::Put {
            kind: *kind,
            id: id.clone(),
            created: draft.known.map_or(modified, |(created, _)| created),
            modified,
            piece: draft.piece.clone(),
        };
        let (before, after) = (self.last.clone(), self.last.apply([put], modified));
        if *kind == Kind::Ssl {
            check_names(&after, id, &draft.document)?;
        }
        let weakens = self.weakened(&weaken::Step {
            before: &before,
            after: &after,
            kind: *kind,
            id,
            old: draft.old.as_ref(),
            new: Some(&draft.resource),
        });
        self.inner
            .check_weakenings(&weakens, request.allow_weaker)?;
        if draft.expires.is_some() {
            // Nobody will be there to be asked when it goes.
            let goes = "it is deleted by itself when its `ttl` ends".to_owned();
            self.inner.check_weakenings(&[goes], request.allow_weaker)?;
        }
        let change = Change {
            mutation: Mutation::Put {
                kind: *kind,
                id: id.clone(),
                document: draft.document.clone(),
                expires: draft.expires,
                expect: known.map_or(Expect::Absent, Expect::Revision),
            },
            changed: draft.changed.clone(),
            weakens: weakens.clone(),
        };
        let place = (*kind, id.clone());
        let becomes = Some(draft.resource.clone());
        self.changed.insert(place.clone(), becomes);
        let step = self.step(before, after, vec![place], vec![weakens]);
        Ok((step, self.commit(&request.actor, vec![change])))
    }

    /// The snapshot that a removal leads to, with what goes along, and what it makes less strict.
    fn plan_delete(&mut self, delete: &Delete) -> Result<(Step, Commit), WriteError> {
        let Delete { kind, id, .. } = delete;
        let stored = self.find(*kind, id)?.ok_or(WriteError::NotFound)?;
        check_precondition(delete.if_match, Some(stored.modified))?;
        let before = self.last.clone();
        let mut gone = followers(&before, delete)?;
        self.inner.refuse_orphans(delete)?;
        gone.push((*kind, id.clone()));
        let count = u64::try_from(gone.len()).unwrap_or(u64::MAX);
        let revision = Revision(self.revision.0.saturating_add(count));
        let removals = gone.iter().cloned();
        let removals = removals.map(|(kind, id)| snapshot::Change::Delete { kind, id });
        let after = before.apply(removals, revision);
        let old = self.inner.read(&stored).ok().map(|parsed| parsed.resource);
        let is_meant = |gone: &(Kind, Id)| (&gone.0, &gone.1) == (kind, id);
        let weakens: Vec<_> = gone
            .iter()
            .map(|place| {
                self.weakened(&weaken::Step {
                    before: &before,
                    after: &after,
                    kind: place.0,
                    id: &place.1,
                    old: old.as_ref().filter(|_| is_meant(place)),
                    new: None,
                })
            })
            .collect();
        self.inner
            .check_weakenings(&weakens.concat(), delete.allow_weaker)?;
        let changes = gone.iter().zip(&weakens).map(|(place, weakens)| Change {
            mutation: Mutation::Delete {
                kind: place.0,
                id: place.1.clone(),
                expect: if is_meant(place) {
                    Expect::Revision(stored.modified)
                } else {
                    Expect::Any
                },
            },
            changed: vec![String::new()],
            weakens: weakens.clone(),
        });
        let commit = self.commit(&delete.actor, changes.collect());
        let places = gone.iter().cloned();
        self.changed.extend(places.map(|place| (place, None)));
        Ok((self.step(before, after, gone, weakens), commit))
    }

    /// Goes on from what a change leads to.
    fn step(
        &mut self,
        before: Arc<Snapshot>,
        after: Snapshot,
        changed: Vec<(Kind, Id)>,
        weakens: Vec<Vec<String>>,
    ) -> Step {
        let after = Arc::new(after);
        (self.last, self.revision) = (after.clone(), after.revision);
        Step {
            before,
            after,
            changed,
            weakens,
        }
    }

    fn commit(&self, actor: &Actor, changes: Vec<Change>) -> Commit {
        Commit {
            origin: self.inner.origin(actor),
            changes,
        }
    }

    /// A stored object; a conflict where a change before this one is of it.
    fn find(&self, kind: Kind, id: &Id) -> Result<Option<Stored>, WriteError> {
        if self.changed.contains_key(&(kind, id.clone())) {
            return Err(WriteError::Conflict);
        }
        self.inner.store.find(kind, id).map_err(store_failed)
    }

    /// The next revision as an id: 20 digits, which sort by age. One that is taken is passed over.
    fn next_id(&self, kind: Kind) -> Result<Id, WriteError> {
        let mut number = self.revision.0;
        loop {
            number = number.saturating_add(1);
            let Ok(id) = format!("{number:020}").parse() else {
                return Err(WriteError::Internal);
            };
            match self.find(kind, &id) {
                Ok(None) => return Ok(id),
                Ok(Some(_)) | Err(WriteError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn weakened(&self, step: &weaken::Step<'_>) -> Vec<String> {
        weakened(
            step,
            &|kind, id| match self.changed.get(&(kind, id.clone())) {
                Some(becomes) => becomes.clone(),
                None => self.inner.find_resource(kind, id),
            },
        )
    }
}

impl Inner {
    /// A stored object as a resource; `None` too when it cannot be read any more.
    pub(super) fn find_resource(&self, kind: Kind, id: &Id) -> Option<Resource> {
        let stored = self.store.find(kind, id).ok()??;
        Some(self.read(&stored).ok()?.resource)
    }

    pub(super) fn check_weakenings(
        &self,
        weakens: &[String],
        is_allowed: bool,
    ) -> Result<(), WriteError> {
        if weakens.is_empty() || is_allowed || !self.rules.refuse_weakening {
            return Ok(());
        }
        Err(WriteError::Weaker(weakens.to_vec()))
    }

    pub(super) fn origin(&self, actor: &Actor) -> Origin {
        Origin {
            time_ms: self.now_ms(),
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
        words: Words::Ours,
        guess: None,
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
