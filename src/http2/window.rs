//! Windows: how much content may be under way (RFC 9113 §5.2, §6.9).

use super::frame::MAX_WINDOW;

/// What may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window(i64);

impl Window {
    /// One of so many bytes.
    #[must_use]
    pub(super) fn new(bytes: u32) -> Self {
        Self(i64::from(bytes))
    }

    /// How many bytes may be sent; none, where a setting made it negative (§6.9.2).
    #[must_use]
    pub(super) fn room(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    /// Bytes are sent, no more than there is [`room`](Self::room) for.
    pub(super) fn take(&mut self, bytes: usize) {
        self.0 -= i64::try_from(bytes).unwrap_or(i64::MAX);
    }

    /// Widens it, or narrows it; false, when it would be wider than a window may be.
    #[must_use]
    pub(super) fn widen(&mut self, by: i64) -> bool {
        let wider = self.0.saturating_add(by);
        self.0 = wider;
        wider <= i64::from(MAX_WINDOW)
    }
}

/// What the peer may send, and what of it was taken since it was last told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Credit {
    left: u32,
    taken: u32,
    /// How much it may have under way.
    most: u32,
}

impl Credit {
    /// The peer may have `most` bytes under way, and knows of `known`.
    #[must_use]
    pub(super) fn new(known: u32, most: u32) -> Self {
        Self {
            left: known,
            taken: most.saturating_sub(known),
            most,
        }
    }

    /// Bytes came; false, when they are more than the peer was let.
    #[must_use]
    pub(super) fn receive(&mut self, bytes: usize) -> bool {
        let bytes = u32::try_from(bytes).ok();
        match bytes.and_then(|bytes| self.left.checked_sub(bytes)) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    /// Bytes that came were taken: by how much the peer's window is to be widened, once that is worth a
    /// frame.
    pub(super) fn take(&mut self, bytes: usize) -> Option<u32> {
        self.taken = self
            .taken
            .saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.due()
    }

    /// By how much the peer's window is to be widened: by half of what it may have, or more.
    pub(super) fn due(&mut self) -> Option<u32> {
        if self.taken == 0 || self.taken < self.most / 2 {
            return None;
        }
        let by = std::mem::take(&mut self.taken);
        self.left = self.left.saturating_add(by);
        Some(by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_may_be_negative_and_not_too_wide() {
        let mut window = Window::new(10);
        window.take(8);
        assert_eq!(window.room(), 2);
        assert!(window.widen(-5));
        assert_eq!(window.room(), 0);
        assert!(window.widen(4));
        assert_eq!(window.room(), 1);
        assert!(window.widen(i64::from(MAX_WINDOW) - 1));
        assert!(!window.widen(1));
    }

    #[test]
    fn credit_is_given_again_by_halves_and_never_exceeded() {
        let mut credit = Credit::new(100, 100);
        assert!(credit.receive(60));
        assert!(!credit.receive(41));
        assert!(credit.receive(40));
        assert_eq!(credit.take(49), None);
        assert_eq!(credit.take(1), Some(50));
        assert!(credit.receive(50));
        assert!(!credit.receive(1));
        // A peer that knows of less than it may have is told of the rest.
        let mut wide = Credit::new(100, 300);
        assert_eq!(wide.due(), Some(200));
        assert_eq!(wide.due(), None);
        assert!(wide.receive(300));
    }
}
