//! Expiry: what was written with a `ttl` is deleted when that ends, as an etcd lease ends in APISIX.
//!
//! When is stored with the object, so that a restart changes nothing. It is deleted whoever refers
//! to it: these then answer as for what is missing. Time is the system's, whose jumps are noticed
//! within a second.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use crate::control::{Actor, Delete, Inner, WriteError, on_blocking, store_failed, write};
use crate::resource::Kind;
use crate::store::{Change, Commit, Expect, Expiring, Mutation, StoreError};

/// Who deletes, in the audit record and the log.
const ACTOR: &str = "ttl";

/// The longest pause while there is something that expires.
const PAUSE: Duration = Duration::from_secs(1);

/// How much is deleted at once.
const AT_ONCE: usize = 256;

fn actor() -> Actor {
    Actor {
        name: ACTOR.to_owned(),
        request_id: String::new(),
        peer: None,
    }
}

/// Deletes what expires, until the runtime ends.
pub(super) async fn run(inner: &Arc<Inner>) {
    loop {
        let pause = match delete_due(inner).await {
            Ok(next) => next.map(|next| next.min(PAUSE)),
            Err(error) => {
                tracing::error!(%error, "what expired could not be deleted; it is tried again");
                Some(PAUSE)
            }
        };
        let told = inner.expiry.notified();
        match pause {
            Some(pause) => drop(tokio::time::timeout(pause, told).await),
            None => told.await,
        }
    }
}

/// Deletes what is due: how long until the next one is, if there is one.
pub(super) async fn delete_due(inner: &Arc<Inner>) -> Result<Option<Duration>, WriteError> {
    let (due, rest) = on_blocking(inner, |inner| inner.due().map_err(store_failed)).await?;
    for expiring in &due {
        inner.tell_users(expiring);
    }
    let is_all = due.len() < AT_ONCE;
    let deletions = due.into_iter().map(|expiring| {
        let Expiring {
            kind, id, modified, ..
        } = expiring;
        let delete = Delete {
            kind,
            id,
            actor: actor(),
            force: true,
            cascade: false,
            if_match: Some(modified),
            allow_weaker: true,
        };
        write::delete(inner, delete)
    });
    for deleted in join_all(deletions).await {
        match deleted {
            // It was written again, or deleted, in between.
            Ok(_) | Err(WriteError::PreconditionFailed | WriteError::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    if !is_all {
        return Ok(Some(Duration::ZERO));
    }
    let now = inner.now_ms();
    Ok(rest.map(|at| Duration::from_millis(at.saturating_sub(now))))
}

impl Inner {
    /// What expired, and when the next one after it does.
    fn due(&self) -> Result<(Vec<Expiring>, Option<u64>), StoreError> {
        let now = self.now_ms();
        let mut due = self.store.expiring(AT_ONCE)?;
        let count = due.partition_point(|expiring| expiring.expires <= now);
        let rest = due.get(count).map(|expiring| expiring.expires);
        due.truncate(count);
        Ok((due, rest))
    }

    /// Says who is left without what expires.
    fn tell_users(&self, expiring: &Expiring) {
        let Expiring { kind, id, .. } = expiring;
        let user = match kind {
            Kind::Secret => self.tracker.user_of(id),
            Kind::Upstream | Kind::Service | Kind::Route | Kind::Ssl => {
                self.live.load().users(*kind, id).into_iter().next()
            }
        };
        if let Some((by, by_id)) = user {
            tracing::warn!(
                %kind, %id, used_by = %format_args!("{by} [{by_id}]"),
                "expired while it is used: requests that need it are refused"
            );
        }
    }

    /// Deletes what expired while nobody was there to do it, before any of it is served.
    pub(super) fn delete_overdue(&self) -> Result<(), StoreError> {
        loop {
            let (due, _) = self.due()?;
            if due.is_empty() {
                return Ok(());
            }
            let changes = due.iter().map(|expiring| Change {
                mutation: Mutation::Delete {
                    kind: expiring.kind,
                    id: expiring.id.clone(),
                    expect: Expect::Any,
                },
                changed: vec![String::new()],
                weakens: Vec::new(),
            });
            let commit = Commit {
                origin: self.origin(&actor()),
                changes: changes.collect(),
            };
            self.store.commit_all(vec![commit])?;
            for Expiring { kind, id, .. } in due {
                self.forget_references(kind, &id);
                tracing::info!(%kind, %id, actor = ACTOR, "expired while the gateway was not running");
            }
        }
    }
}
