//! How much long content a thread reads before the system is asked again who else has something.
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
    static READ: Cell<usize> = const { Cell::new(0) };
}

/// So many bytes of long content were read.
pub(super) fn read(bytes: usize) {
    let _ended = READ.try_with(|read| read.set(read.get().saturating_add(bytes)));
}

/// Ready when more may be read: at once, or when the system was asked.
pub(super) fn poll(cx: &mut Context<'_>) -> Poll<()> {
    if READ.try_with(Cell::get).unwrap_or_default() < BYTES {
        return Poll::Ready(());
    }
    let next = Waker::from(Arc::new(Next(cx.waker().clone())));
    // It is woken behind the next look at the system, whatever else is ready.
    pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&next))
}

/// Begins the thread's next turn, and wakes who waits for it.
struct Next(Waker);

impl Wake for Next {
    fn wake(self: Arc<Self>) {
        let _ended = READ.try_with(|read| read.set(0));
        self.0.wake_by_ref();
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
                    for _ in 0..200 {
                        poll_fn(poll).await;
                        read(PIECE);
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
            assert!((1..BYTES + PIECE).contains(&before), "{before}");
            // All of it is read in the end.
            for task in long {
                task.await.unwrap();
            }
            assert_eq!(moved.get(), 4 * 200 * PIECE);
        });
    }
}
