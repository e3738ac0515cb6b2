//! The tasks that serve the streams of clients' HTTP/2 connections.
//!
//! A task that has served a stream waits for the next one, of whatever connection of its worker. A
//! task for each stream would be made, moved and freed with each: with all that a request needs, a
//! few thousand bytes.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// How many tasks of a worker wait for streams; who ends when so many do is no more.
const WAITING: usize = 64;

/// What a task is given to serve.
pub trait Job: 'static {
    /// Serves it to its end.
    fn serve(self) -> impl Future<Output = ()>;
}

/// A worker's tasks that wait for streams.
pub struct Servants<J> {
    waiting: RefCell<Vec<Rc<Servant<J>>>>,
}

struct Servant<J> {
    job: RefCell<Option<J>>,
    waker: RefCell<Option<Waker>>,
}

impl<J> Default for Servants<J> {
    fn default() -> Self {
        Self {
            waiting: RefCell::default(),
        }
    }
}

impl<J: Job> Servants<J> {
    /// Has a job served by a task, on this thread.
    pub fn serve(self: &Rc<Self>, job: J) {
        let waiting = self.waiting.borrow_mut().pop();
        match waiting {
            Some(servant) => servant.give(job),
            None => self.engage(job),
        }
    }

    /// One task more, with its first job.
    fn engage(self: &Rc<Self>, job: J) {
        let servant = Rc::new(Servant {
            job: RefCell::new(Some(job)),
            waker: RefCell::default(),
        });
        let all = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            loop {
                let job = poll_fn(|cx| servant.poll_job(cx)).await;
                job.serve().await;
                let Some(all) = all.upgrade() else { return };
                let mut waiting = all.waiting.borrow_mut();
                if waiting.len() >= WAITING {
                    return;
                }
                waiting.push(servant.clone());
            }
        });
    }
}

impl<J> Servant<J> {
    fn give(&self, job: J) {
        self.job.replace(Some(job));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll_job(&self, cx: &Context<'_>) -> Poll<J> {
        match self.job.take() {
            Some(job) => Poll::Ready(job),
            None => {
                self.waker.replace(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::sync::Semaphore;
    use tokio::task::LocalSet;

    use super::*;

    /// Counts how many are under way, and ends when it is let.
    struct Visit {
        under_way: Rc<Cell<usize>>,
        gate: Rc<Semaphore>,
    }

    impl Job for Visit {
        async fn serve(self) {
            self.under_way.set(self.under_way.get() + 1);
            self.gate.acquire().await.unwrap().forget();
            self.under_way.set(self.under_way.get() - 1);
        }
    }

    async fn until(mut is_true: impl FnMut() -> bool) {
        while !is_true() {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn jobs_run_at_once_and_few_tasks_wait_for_more() {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let servants = Rc::<Servants<Visit>>::default();
            let (under_way, gate) = (Rc::<Cell<usize>>::default(), Rc::new(Semaphore::new(0)));
            let visit = || {
                servants.serve(Visit {
                    under_way: under_way.clone(),
                    gate: gate.clone(),
                });
            };
            let waiting = || servants.waiting.borrow().len();
            // One task serves one after the other.
            for _ in 0..3 {
                visit();
                until(|| under_way.get() == 1).await;
                gate.add_permits(1);
                until(|| under_way.get() == 0 && waiting() == 1).await;
            }
            // None waits for another, however many there are.
            let many = WAITING + 10;
            (0..many).for_each(|_| visit());
            until(|| under_way.get() == many).await;
            assert_eq!(waiting(), 0);
            gate.add_permits(many);
            until(|| under_way.get() == 0 && waiting() == WAITING).await;
        });
    }
}
