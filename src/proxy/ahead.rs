//! What a worker holds of bodies that were read to find their requests' routes: each has a share of the
//! room for them all, from its first part on until the last of it was passed on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};

/// How many of the longest bodies that are read ahead a worker holds at a time.
const HELD: usize = 64;

/// How many bytes a worker holds of bodies that were read ahead.
///
/// It is the worker's alone, and shared only because [`Bytes`] may go to other threads.
#[derive(Clone, Debug, Default)]
pub struct Held(Arc<AtomicUsize>);

/// A body's share of what its worker holds; given back when dropped.
#[derive(Debug)]
pub struct Share {
    held: Held,
    most: usize,
    own: usize,
}

impl Share {
    /// None yet, where each body may have `longest` bytes.
    #[must_use]
    pub fn new(held: &Held, longest: usize) -> Self {
        Self {
            held: held.clone(),
            most: longest.saturating_mul(HELD),
            own: 0,
        }
    }

    /// Makes it so many bytes larger; false, if there is no room for them.
    #[must_use]
    pub fn take(&mut self, bytes: usize) -> bool {
        let held = self.held.0.load(Ordering::Relaxed).saturating_add(bytes);
        if held > self.most {
            return false;
        }
        self.held.0.store(held, Ordering::Relaxed);
        self.own = self.own.saturating_add(bytes);
        true
    }

    /// What was read, which has its share for as long as any part of it is held.
    #[must_use]
    pub fn over(self, read: BytesMut) -> Bytes {
        Bytes::from_owner(Shared { read, _share: self })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let held = self.held.0.load(Ordering::Relaxed);
        let left = held.saturating_sub(self.own);
        self.held.0.store(left, Ordering::Relaxed);
    }
}

struct Shared {
    read: BytesMut,
    _share: Share,
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_for_all_together_and_comes_back_with_the_last_part() {
        let held = Held::default();
        let mut most = Share::new(&held, 10);
        assert!(most.take(HELD * 10 - 1));
        let mut other = Share::new(&held, 10);
        assert!(!other.take(2));
        assert!(other.take(1) && !other.take(1));
        drop(most);
        let mut bytes = other.over(BytesMut::from("ab"));
        let first = bytes.split_to(1);
        drop(bytes);
        assert_eq!((&first[..], held.0.load(Ordering::Relaxed)), (&b"a"[..], 1));
        drop(first);
        assert_eq!(held.0.load(Ordering::Relaxed), 0);
    }
}
