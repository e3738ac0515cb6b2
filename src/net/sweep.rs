//! Coarse time: one sweep per thread instead of a timer per request.
//!
//! A worker's clock moves once per tick; every wait registers what it waits for in a list that
//! the tick walks. A limit is therefore met up to one tick late and costs no timer.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

use crate::tls::socket::{Activity, Clock};

/// How often the clock moves.
pub const TICK: Duration = Duration::from_millis(100);

/// The list of waits of one thread, and its clock.
#[derive(Debug)]
pub struct Sweep {
    started: Instant,
    clock: Clock,
    waits: RefCell<Slab<Wait>>,
}

#[derive(Debug)]
struct Wait {
    until: Until,
    expired: bool,
    waker: Option<Waker>,
}

/// What a wait is limited by; durations in milliseconds of the clock.
#[derive(Clone, Debug)]
pub enum Until {
    /// An instant of the clock.
    At(u64),
    /// So long after bytes last came in or went out, but not before `since` + `limit`.
    Idle {
        /// The connection meant.
        activity: Rc<Activity>,
        /// When the wait began.
        since: u64,
        /// How long it may be idle.
        limit: u64,
    },
}

impl Until {
    fn deadline(&self) -> u64 {
        match self {
            Self::At(at) => *at,
            Self::Idle {
                activity,
                since,
                limit,
            } => activity
                .read_at()
                .max(activity.written_at())
                .max(*since)
                .saturating_add(*limit),
        }
    }
}

impl Sweep {
    /// A sweep whose clock starts at 0.
    #[must_use]
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            started: Instant::now(),
            clock: Rc::new(Cell::new(0)),
            waits: RefCell::default(),
        })
    }

    /// The clock, for activities.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// The clock's now, in milliseconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.clock.get()
    }

    /// The instant `after` from now, for [`Until::At`].
    #[must_use]
    pub fn after(&self, after: Duration) -> Until {
        Until::At(self.now().saturating_add(millis(after)))
    }

    /// Moves the clock and wakes every wait whose limit passed.
    pub fn tick(&self) {
        self.move_to(millis(self.started.elapsed()));
    }

    /// [`tick`](Self::tick) where it is so late, in milliseconds since the start.
    pub(crate) fn move_to(&self, now: u64) {
        self.clock.set(now);
        let mut woken = Vec::new();
        for (_, wait) in self.waits.borrow_mut().iter_mut() {
            if !wait.expired && wait.until.deadline() <= now {
                wait.expired = true;
                woken.extend(wait.waker.take());
            }
        }
        // Outside the borrow: a waker may register or drop waits.
        woken.into_iter().for_each(Waker::wake);
    }

    /// Ticks for ever. One task per thread runs it.
    pub async fn run(self: Rc<Self>, mut each: impl FnMut()) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            interval.tick().await;
            self.tick();
            each();
        }
    }

    /// A future that ends when the limit has passed.
    #[must_use]
    pub fn limit(self: &Rc<Self>, until: Until) -> Limit {
        let key = self.waits.borrow_mut().insert(Wait {
            until,
            expired: false,
            waker: None,
        });
        Limit {
            sweep: self.clone(),
            key,
        }
    }

    /// Runs `work` with a limit.
    ///
    /// # Errors
    /// [`Expired`] when the limit passed first; the work is dropped.
    pub async fn within<T>(
        self: &Rc<Self>,
        until: Until,
        work: impl Future<Output = T>,
    ) -> Result<T, Expired> {
        tokio::pin!(work);
        // Work that is done at once needs no place in the list.
        let mut limit = None;
        std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Ok(done)),
            Poll::Pending => limit
                .get_or_insert_with(|| self.limit(until.clone()))
                .poll_expired(cx)
                .map(|()| Err(Expired)),
        })
        .await
    }
}

/// A limit has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the time limit has passed")]
pub struct Expired;

/// Ends when its limit has passed; see [`Sweep::limit`].
#[derive(Debug)]
pub struct Limit {
    sweep: Rc<Sweep>,
    key: usize,
}

impl Limit {
    /// Waits for something else from now on.
    pub fn reset(&self, until: Until) {
        if let Some(wait) = self.sweep.waits.borrow_mut().get_mut(self.key) {
            wait.until = until;
            wait.expired = false;
        }
    }

    /// Waits on, if `until` is yet to come, in the clock's milliseconds.
    pub fn poll_until(&self, until: u64, cx: &Context<'_>) -> Poll<()> {
        if until > self.sweep.now() {
            self.reset(Until::At(until));
        }
        self.poll_expired(cx)
    }

    /// Whether the limit has passed; else the task is woken when it does.
    pub fn poll_expired(&self, cx: &Context<'_>) -> Poll<()> {
        let mut waits = self.sweep.waits.borrow_mut();
        let Some(wait) = waits.get_mut(self.key) else {
            return Poll::Ready(());
        };
        if wait.expired {
            return Poll::Ready(());
        }
        if !wait
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            wait.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Future for Limit {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_expired(cx)
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        self.sweep.waits.borrow_mut().try_remove(self.key);
    }
}

/// A duration as the clock counts it.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
    }

    #[test]
    fn a_limit_ends_work_that_does_not_end() {
        runtime().block_on(async {
            let sweep = Sweep::new();
            let until = Until::At(0);
            let waiting = sweep.within(until, std::future::pending::<()>());
            tokio::pin!(waiting);
            assert!(futures_util::poll!(&mut waiting).is_pending());
            sweep.tick();
            assert_eq!(waiting.await, Err(Expired));
        });
    }

    #[test]
    fn work_that_ends_in_time_is_not_touched() {
        runtime().block_on(async {
            let sweep = Sweep::new();
            let until = sweep.after(Duration::from_secs(60));
            assert_eq!(sweep.within(until, async { 7 }).await, Ok(7));
            assert!(
                sweep.waits.borrow().is_empty(),
                "a finished wait leaves the list"
            );
        });
    }
}
