//! Changes that are ready, settled in groups: one transaction and one publish for all that wait.
//!
//! Whoever has a change ready puts it in the queue and has it led: under the writer's lock all that
//! wait are settled together, each as if those before it had been made. One that is refused leaves
//! the others alone; where the store refuses the group, each of it is tried by itself.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedMutexGuard, oneshot};

use crate::control::write::{Draft, Request};
use crate::control::{Delete, Deleted, Inner, Post, WriteError, Written, on_blocking};
use crate::secrets::desk::Outcome;

/// How many changes are settled at once.
const GROUP: usize = 256;

/// A change that waits to be settled.
pub(super) enum Job {
    /// Everything was done that needs no lock.
    Ready(Ready),
    /// Creates under the id that its turn gives it. Its seals cover the id: it is drafted then.
    Post {
        /// What is asked.
        post: Box<Post>,
        /// What its references to secrets stand for.
        outcome: Outcome,
        /// Who waits.
        reply: Reply<Written>,
    },
}

/// A change with everything done that needs no lock.
pub(super) enum Ready {
    /// Creates or replaces.
    Put {
        /// What is asked.
        request: Arc<Request>,
        /// What came of it so far.
        draft: Box<Draft>,
        /// Who waits.
        reply: Reply<Written>,
    },
    /// Removes.
    Delete {
        /// What is asked.
        delete: Arc<Delete>,
        /// Who waits.
        reply: Reply<Deleted>,
    },
}

/// Where an answer goes; nobody may be there any more.
pub(super) type Reply<T> = oneshot::Sender<Result<T, WriteError>>;

impl Job {
    /// Answers that it is not made.
    pub(super) fn refuse(self, error: WriteError) {
        match self {
            Self::Ready(ready) => ready.refuse(error),
            Self::Post { reply, .. } => {
                let _gone = reply.send(Err(error));
            }
        }
    }
}

impl Ready {
    /// Answers that it is not made.
    pub(super) fn refuse(self, error: WriteError) {
        match self {
            Self::Put { reply, .. } => {
                let _gone = reply.send(Err(error));
            }
            Self::Delete { reply, .. } => {
                let _gone = reply.send(Err(error));
            }
        }
    }
}

/// Changes that wait for their turn.
#[derive(Default)]
pub(super) struct Queue(Mutex<VecDeque<Job>>);

impl Queue {
    fn push(&self, job: Job) {
        let mut jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.push_back(job);
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Those whose turn it is.
    fn take(&self) -> Vec<Job> {
        let mut jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = jobs.len().min(GROUP);
        jobs.drain(..count).collect()
    }
}

/// Settles a change together with others that wait. It is made even if nobody waits for the answer
/// any more.
///
/// # Errors
/// Why it was not made; `Conflict` where another change of the object came first.
pub(super) async fn settle<T>(
    inner: &Arc<Inner>,
    job: impl FnOnce(Reply<T>) -> Job,
) -> Result<T, WriteError> {
    let (reply, answer) = oneshot::channel();
    inner.queue.push(job(reply));
    // As many lead as there are changes, so that none is left behind; most find the queue empty.
    tokio::spawn(lead(inner.clone()));
    answer_of(answer).await
}

/// Settles a change by itself under the writer's lock, which was taken before it was drafted.
///
/// # Errors
/// As [`settle`].
pub(super) async fn settle_alone<T>(
    inner: &Arc<Inner>,
    guard: OwnedMutexGuard<()>,
    job: impl FnOnce(Reply<T>) -> Job,
) -> Result<T, WriteError> {
    let (reply, answer) = oneshot::channel();
    run(inner, guard, vec![job(reply)]).await;
    answer_of(answer).await
}

async fn answer_of<T>(answer: oneshot::Receiver<Result<T, WriteError>>) -> Result<T, WriteError> {
    // Without one the group did not finish; the log says why.
    answer.await.unwrap_or(Err(WriteError::Internal))
}

async fn lead(inner: Arc<Inner>) {
    let guard = inner.writer.clone().lock_owned().await;
    let jobs = inner.queue.take();
    if !jobs.is_empty() {
        run(&inner, guard, jobs).await;
    }
}

async fn run(inner: &Arc<Inner>, guard: OwnedMutexGuard<()>, jobs: Vec<Job>) {
    let settled = on_blocking(inner, move |inner| {
        inner.settle(jobs);
        drop(guard);
        Ok(())
    });
    // Whoever waits for an answer is told, and the log.
    let _told = settled.await;
}
