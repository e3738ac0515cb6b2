//! One place per connection for the future of its request.
//!
//! hyper's HTTP/1 connection gives its transport back only if the service's futures may be moved.
//! Ours may not; a box for each request would do, at the price of a large allocation each. As a
//! connection serves one request at a time, one box serves them all.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// The place. Its clones are the same place.
pub struct Slot<F>(Rc<RefCell<Pin<Box<Option<F>>>>>);

impl<F> Slot<F> {
    /// An empty place.
    #[must_use]
    pub fn new() -> Self {
        Self(Rc::new(RefCell::new(Box::pin(None))))
    }

    /// Puts the future that `make` makes into the place, which is empty: the one before has ended and
    /// was dropped. It is made there, and not moved.
    pub fn fill(&self, make: impl FnOnce() -> F) -> Filled<F> {
        let mut place = self.0.borrow_mut();
        debug_assert!(place.is_none(), "a connection serves one request at a time");
        place.as_mut().set(Some(make()));
        Filled(self.0.clone())
    }
}

impl<F> Default for Slot<F> {
    fn default() -> Self {
        Self::new()
    }
}

/// The future in a [`Slot`]: it may be moved. Dropped, it empties the slot.
pub struct Filled<F>(Rc<RefCell<Pin<Box<Option<F>>>>>);

impl<F: Future> Future for Filled<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut place = self.0.borrow_mut();
        match place.as_mut().as_pin_mut() {
            Some(future) => future.poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<F> Drop for Filled<F> {
    fn drop(&mut self) {
        self.0.borrow_mut().as_mut().set(None);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_place_serves_one_future_after_the_other() {
        let slot = Slot::new();
        assert_eq!(slot.fill(|| ready(1)).now_or_never(), Some(1));
        assert_eq!(slot.fill(|| ready(2)).now_or_never(), Some(2));
    }

    #[test]
    fn a_future_that_is_given_up_is_dropped_at_once() {
        let held = Rc::new(());
        let slot = Slot::new();
        let filled = slot.fill(|| {
            let held = held.clone();
            async move {
                pending::<()>().await;
                drop(held);
            }
        });
        assert_eq!(Rc::strong_count(&held), 2);
        drop(filled);
        assert_eq!(Rc::strong_count(&held), 1);
    }
}
