//! Contexts and connectors for workers: built on first use when they are not in the cache.
//!
//! One build per key and object at a time, at most one per core, a bounded number of askers
//! waiting. The document is read from the store, which may be ahead of the asker's snapshot: a
//! newer context is an answer, because the connection pins the policy that the context has; a
//! connector of another trust is none, because the asker pools what it opens under the trust that
//! it asked for. Whatever the answer, it is never ahead of the published snapshot: an asker for
//! whom there is nothing finds there what took its place.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::{self, JoinSet};
use tokio::time::{MissedTickBehavior, interval};

use crate::control::Inner;
use crate::crypto::memory;
use crate::failure::Reason;
use crate::resource::ssl::Role;
use crate::resource::{Id, Kind, Resource};
use crate::snapshot::compile::{Build, compile};
use crate::snapshot::link::Ask;
use crate::snapshot::{Owner, specs};
use crate::tls::material::{Digest, KeyPair};
use crate::tls::server::ServerContext;
use crate::tls::upstream::{UpstreamConnector, UpstreamSpec};

/// How often contexts that nothing uses any more are looked for.
const SWEEP: Duration = Duration::from_secs(15);
/// How often it is asked whether freed memory is worth giving back.
const LOOK: Duration = Duration::from_millis(250);

/// How many askers may wait at once, all keys together. More are refused at once.
const WAITING: usize = 4096;

/// What is built: the key asked for, and what it is to be built from. Two objects may have the
/// same key, and only one of them still lead to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Job {
    Server(Digest, Id),
    Upstream(Digest, Owner),
}

impl Job {
    /// Whether this is what was asked for, and not what replaced it.
    fn is_met_by(&self, built: &Built) -> bool {
        match (self, built) {
            (Self::Server(key, _), Built::Server(context)) => context.key == *key,
            (Self::Upstream(key, _), Built::Upstream(connector)) => connector.fingerprint == *key,
            (Self::Server(..), Built::Upstream(_)) | (Self::Upstream(..), Built::Server(_)) => {
                false
            }
        }
    }
}

/// What came out.
#[derive(Clone)]
enum Built {
    Server(Arc<ServerContext>),
    Upstream(Arc<UpstreamConnector>),
}

/// Who waits for it.
enum Reply {
    Server(oneshot::Sender<Result<Arc<ServerContext>, Reason>>),
    Upstream(oneshot::Sender<Result<Arc<UpstreamConnector>, Reason>>),
}

/// Why nothing came out; told to the process log.
#[derive(Debug, thiserror::Error)]
pub(super) enum BuildError {
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    #[error(transparent)]
    Unreadable(#[from] crate::control::documents::Unreadable),
    #[error(transparent)]
    Spec(#[from] specs::SpecError),
    #[error("OpenSSL refused the material")]
    OpenSsl(#[source] crate::tls::material::MaterialError),
    #[error("there is nothing to build from: the object is gone, switched off or of another kind")]
    Gone,
    #[error("the object was changed: what was asked for is trusted no more")]
    Changed,
}

/// The connector with this fingerprint, built where it is not in the cache.
pub(super) async fn kept_connector(
    inner: &Arc<Inner>,
    key: &Digest,
    owner: &Owner,
) -> Result<Arc<UpstreamConnector>, Reason> {
    if let Some(connector) = inner.contexts.upstream(key) {
        return Ok(connector);
    }
    let job = Job::Upstream(*key, owner.clone());
    let inner = inner.clone();
    let built = task::spawn_blocking(move || inner.build(&job)).await;
    match built.unwrap_or(Err(Reason::Internal))? {
        Built::Upstream(connector) => Ok(connector),
        Built::Server(_) => Err(Reason::Internal),
    }
}

/// Serves asks until every worker has dropped its end.
pub(super) async fn serve(inner: &Arc<Inner>, mut asks: mpsc::Receiver<Ask>) {
    let limit = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut desk = Desk::default();
    let mut running = JoinSet::new();
    let mut is_open = true;
    let mut sweeps = interval(SWEEP);
    let mut looks = interval(LOOK);
    // Looks that were late are not made up for: nothing is freed between them.
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut slack = memory::Slack::default();
    while is_open || !running.is_empty() {
        tokio::select! {
            ask = asks.recv(), if is_open => match ask {
                Some(ask) => desk.admit(ask),
                None => is_open = false,
            },
            _ = sweeps.tick() => {
                if !inner.retired.is_empty() {
                    let inner = inner.clone();
                    let _detached = task::spawn_blocking(move || inner.forget_retired(Instant::now()));
                }
            }
            _ = looks.tick() => {
                if slack.is_due() {
                    let _detached = task::spawn_blocking(memory::give_back_freed_pieces);
                }
            }
            Some(done) = running.join_next_with_id() => match done {
                Ok((task, result)) => desk.answer(task, &result),
                Err(error) => {
                    tracing::error!(%error, "a build did not finish");
                    desk.answer(error.id(), &Err(Reason::Internal));
                }
            },
        }
        while running.len() < limit
            && let Some(job) = desk.queue.pop_front()
        {
            let (inner, own) = (inner.clone(), job.clone());
            let task = running.spawn_blocking(move || inner.build(&own));
            desk.running.insert(task.id(), job);
        }
    }
}

/// Who waits for what.
#[derive(Default)]
struct Desk {
    waiting: HashMap<Job, Vec<Reply>>,
    waiting_count: usize,
    queue: VecDeque<Job>,
    running: HashMap<task::Id, Job>,
}

impl Desk {
    fn admit(&mut self, ask: Ask) {
        let (job, reply) = match ask {
            Ask::Server { key, ssl, reply } => (Job::Server(key, ssl), Reply::Server(reply)),
            Ask::Upstream { key, owner, reply } => {
                (Job::Upstream(key, owner), Reply::Upstream(reply))
            }
        };
        if self.waiting_count >= WAITING {
            reply.send(&Err(Reason::ContextUnavailable));
            return;
        }
        self.waiting_count += 1;
        let queue = &mut self.queue;
        let replies = self.waiting.entry(job.clone()).or_insert_with(|| {
            queue.push_back(job);
            Vec::new()
        });
        replies.push(reply);
    }

    fn answer(&mut self, task: task::Id, result: &Result<Built, Reason>) {
        let job = self.running.remove(&task);
        let replies = job
            .and_then(|job| self.waiting.remove(&job))
            .unwrap_or_default();
        self.waiting_count = self.waiting_count.saturating_sub(replies.len());
        for reply in replies {
            reply.send(result);
        }
    }
}

impl Reply {
    /// Answers; an asker that is gone needs no answer.
    fn send(self, result: &Result<Built, Reason>) {
        let refused = result
            .as_ref()
            .err()
            .copied()
            .unwrap_or(Reason::ContextUnavailable);
        match (self, result) {
            (Self::Server(reply), Ok(Built::Server(context))) => {
                let _gone = reply.send(Ok(context.clone()));
            }
            (Self::Server(reply), _) => {
                let _gone = reply.send(Err(refused));
            }
            (Self::Upstream(reply), Ok(Built::Upstream(connector))) => {
                let _gone = reply.send(Ok(connector.clone()));
            }
            (Self::Upstream(reply), _) => {
                let _gone = reply.send(Err(refused));
            }
        }
    }
}

impl Inner {
    fn build(&self, job: &Job) -> Result<Built, Reason> {
        let (kind, id) = match job {
            Job::Server(_, id) => (Kind::Ssl, id),
            Job::Upstream(_, owner) => (owner.kind, &owner.id),
        };
        let built = match job {
            Job::Server(key, id) => match self.contexts.server(key) {
                Some(context) => Ok(Built::Server(context)),
                None => self.build_server(id).map(Built::Server),
            },
            Job::Upstream(key, owner) => match self.contexts.upstream(key) {
                Some(connector) => Ok(Built::Upstream(connector)),
                None => self.build_upstream(key, owner).map(Built::Upstream),
            },
        };
        if !built.as_ref().is_ok_and(|built| job.is_met_by(built)) {
            // What the store has and the snapshot has not is published before the writer lets go.
            drop(self.writer.blocking_lock());
        }
        built.map_err(|error| {
            if let BuildError::Changed = error {
                tracing::info!(%kind, %id, %error, "a TLS context was asked for too late");
                return Reason::UpstreamNotReady;
            }
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(%kind, %id, %error, cause, "a TLS context could not be built");
            Reason::ContextUnavailable
        })
    }

    fn build_server(&self, id: &Id) -> Result<Arc<ServerContext>, BuildError> {
        let Some(Build::Server(spec)) = self.compile_stored(Kind::Ssl, id)? else {
            return Err(BuildError::Gone);
        };
        let context = ServerContext::build(spec);
        let context = Arc::new(context.map_err(|error| BuildError::OpenSsl(error.into()))?);
        self.contexts.keep_server(context.clone());
        self.metrics.context_builds.inc();
        Ok(context)
    }

    fn build_upstream(
        &self,
        wanted: &Digest,
        owner: &Owner,
    ) -> Result<Arc<UpstreamConnector>, BuildError> {
        let connector = Arc::new(connector(&self.upstream_spec(owner)?)?);
        self.contexts.keep_upstream(connector.clone());
        self.metrics.context_builds.inc();
        if connector.fingerprint != *wanted {
            return Err(BuildError::Changed);
        }
        Ok(connector)
    }

    /// What the connector of a stored upstream is built from.
    pub(super) fn upstream_spec(&self, owner: &Owner) -> Result<UpstreamSpec, BuildError> {
        let build = self.compile_stored(owner.kind, &owner.id)?;
        let Some(Build::Upstream { mut spec, borrowed }) = build else {
            return Err(BuildError::Gone);
        };
        if let Some(ssl) = borrowed {
            let lender = self
                .store
                .find(Kind::Ssl, &ssl)?
                .ok_or(specs::SpecError::NoIdentity)?;
            spec.identity = Some(lent_by(&self.read(&lender)?.resource)?);
        }
        Ok(spec)
    }

    fn compile_stored(&self, kind: Kind, id: &Id) -> Result<Option<Build>, BuildError> {
        let stored = self.store.find(kind, id)?.ok_or(BuildError::Gone)?;
        let compiled = compile(kind, id, &self.read(&stored)?.resource, &self.ground());
        match compiled.trouble {
            Some((_, error)) => Err(error.into()),
            None => Ok(compiled.build),
        }
    }
}

/// A connector that knows no sessions yet.
pub(super) fn connector(spec: &UpstreamSpec) -> Result<UpstreamConnector, BuildError> {
    UpstreamConnector::build(spec).map_err(|error| BuildError::OpenSsl(error.into()))
}

/// What an ssl lends to upstreams.
pub(super) fn lent_by(resource: &Resource) -> Result<KeyPair, specs::SpecError> {
    match resource {
        Resource::Ssl(ssl) if ssl.enabled && ssl.role == Role::Client => specs::identity(ssl),
        Resource::Ssl(_)
        | Resource::Upstream(_)
        | Resource::Service(_)
        | Resource::Route(_)
        | Resource::Secret(_) => Err(specs::SpecError::NoIdentity),
    }
}
