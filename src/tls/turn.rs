//! How much long content a thread reads before the system is asked again who else has something, and
//! each of its connections.
//!
//! tokio asks it when all tasks that were ready had their turn, or 61 of them, however much each of
//! them moves. A few connections with long content are always ready, and all others wait meanwhile.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

/// So much takes less than a millisecond to pass on.
const BYTES: usize = 1 << 20;

thread_local! {
    static TURN: Turn = const {
        Turn {
            number: Cell::new(1),
            readers: Cell::new(0),
            before: Cell::new(0),
        }
    };
}

/// A thread's turn: what it reads between two looks at the system.
struct Turn {
    number: Cell<u64>,
    /// By how many a read was tried in it.
    readers: Cell<usize>,
    /// By how many in the one before.
    before: Cell<usize>,
}

impl Turn {
    fn begin(&self) {
        self.number.set(self.number.get().wrapping_add(1));
        self.before.set(self.readers.take());
    }

    /// How much each may read.
    fn share(&self) -> usize {
        BYTES / self.readers.get().max(self.before.get()).max(1)
    }
}

/// What a connection has read in a turn.
#[derive(Debug, Default)]
pub(super) struct Part {
    turn: u64,
    bytes: usize,
}

impl Part {
    /// So many bytes of long content were read.
    pub(super) const fn read(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Ready when more may be read: at once, or when the system was asked. Each connection reads
    /// something in each turn: none waits for others longer than that.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let may_read = TURN.try_with(|turn| {
            if self.turn != turn.number.get() {
                *self = Self {
                    turn: turn.number.get(),
                    bytes: 0,
                };
                turn.readers.set(turn.readers.get().saturating_add(1));
            }
            self.bytes == 0 || self.bytes < turn.share()
        });
        if may_read.unwrap_or(true) {
            return Poll::Ready(());
        }
        let next = Next(self.turn, cx.waker().clone());
        let next = Waker::from(Arc::new(next));
        // It is woken behind the next look at the system, whatever else is ready.
        pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&next))
    }
}

/// Begins the thread's next turn, if this one is not over, and wakes who waits for it.
struct Next(u64, Waker);

impl Wake for Next {
    fn wake(self: Arc<Self>) {
        let _ended = TURN.try_with(|turn| {
            if turn.number.get() == self.0 {
                turn.begin();
            }
        });
        self.1.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::rc::Rc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio::task::{LocalSet, spawn_local, unconstrained};

    use super::*;

    #[test]
    fn who_becomes_ready_does_not_wait_until_all_content_was_read() {
        const PIECE: usize = 48 << 10;
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let moved = Rc::new(Cell::new(0));
            let (mut ours, mut theirs) = UnixStream::pair().unwrap();
            let other = spawn_local({
                let moved = moved.clone();
                async move {
                    theirs.read_u8().await.unwrap();
                    moved.get()
                }
            });
            // It waits by now.
            tokio::task::yield_now().await;
            ours.write_u8(1).await.unwrap();
            let mut long = Vec::new();
            for _ in 0..4 {
                let moved = moved.clone();
                // Each piece that is read has the next task wake, as where content is passed on.
                long.push(spawn_local(unconstrained(async move {
                    let mut part = Part::default();
                    for _ in 0..200 {
                        poll_fn(|cx| part.poll(cx)).await;
                        part.read(PIECE);
                        moved.set(moved.get() + PIECE);
                        let mut is_woken = false;
                        poll_fn(|cx| match std::mem::replace(&mut is_woken, true) {
                            true => Poll::Ready(()),
                            false => {
                                cx.waker().wake_by_ref();
                                Poll::Pending
                            }
                        })
                        .await;
                    }
                })));
            }
            let before = other.await.unwrap();
            assert!((1..BYTES + 4 * PIECE).contains(&before), "{before}");
            // All of it is read in the end.
            for task in long {
                task.await.unwrap();
            }
            assert_eq!(moved.get(), 4 * 200 * PIECE);
        });
    }

    #[test]
    fn who_has_long_content_waits_for_none_that_has_more() {
        const PIECE: usize = 48 << 10;
        const READERS: usize = 12;
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let moved: Rc<[Cell<usize>; READERS]> = Rc::default();
            let mut long = Vec::new();
            for own in 0..READERS {
                let moved = moved.clone();
                // More is there at all times.
                long.push(spawn_local(unconstrained(async move {
                    let mut part = Part::default();
                    while moved.iter().map(Cell::get).sum::<usize>() < 64 * BYTES {
                        poll_fn(|cx| part.poll(cx)).await;
                        part.read(PIECE);
                        moved[own].set(moved[own].get() + PIECE);
                    }
                })));
            }
            for task in long {
                task.await.unwrap();
            }
            let least = moved.iter().map(Cell::get).min().unwrap();
            assert!(least * READERS > 32 * BYTES, "{moved:?}");
        });
    }
}
