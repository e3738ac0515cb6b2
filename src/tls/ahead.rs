//! What came from a socket beyond what libssl asked for.
//!
//! libssl reads into room for one record of TLS (RFC 8446 §5.1). Where more has come, each such read
//! costs a walk through the system and, over TCP, an acknowledgement of its own. So a read of long
//! content is given more room behind libssl's, and what falls there is handed on by the reads that
//! follow at once.

use std::cell::Cell;

/// Room beyond libssl's: three records of content, and a little of what they are wrapped in.
const ROOM: usize = 3 * (16 << 10) + 1024;

thread_local! {
    /// Room that nobody uses: one is enough for all connections of a thread, as none keeps it.
    static ROOM_OF_ALL: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// What came ahead, if anything did. It holds no memory as long as it is empty.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    room: Option<Box<[u8]>>,
    from: usize,
    to: usize,
}

impl Ahead {
    /// Whether nothing is there.
    pub(super) const fn is_empty(&self) -> bool {
        self.from == self.to
    }

    /// Room for up to `count` bytes, while it is empty; what is read is told by [`fill`](Self::fill).
    pub(super) fn room(&mut self, count: usize) -> &mut [u8] {
        let room = self.room.get_or_insert_with(|| {
            let spare = ROOM_OF_ALL.try_with(Cell::take).ok().flatten();
            spare.unwrap_or_else(|| vec![0; ROOM].into())
        });
        let count = count.min(room.len());
        room.get_mut(..count).unwrap_or_default()
    }

    /// So many bytes are there, from the beginning of its room on.
    pub(super) fn fill(&mut self, count: usize) {
        (self.from, self.to) = (0, count);
        self.spare();
    }

    /// Hands on as much as fits `into`; how much that is.
    pub(super) fn hand_on(&mut self, into: &mut [u8]) -> usize {
        let there = self.left();
        let count = there.len().min(into.len());
        if let (Some(into), Some(there)) = (into.get_mut(..count), there.get(..count)) {
            into.copy_from_slice(there);
        }
        self.from += count;
        self.spare();
        count
    }

    /// Keeps what was not handed on in a place of its own, which has no more room than that.
    pub(super) fn settle(&mut self) {
        if self.is_empty() || self.room.as_ref().is_none_or(|room| room.len() < ROOM) {
            return;
        }
        let left: Box<[u8]> = self.left().into();
        let to = left.len();
        let room = self.room.replace(left);
        (self.from, self.to) = (0, to);
        give(room);
    }

    /// How much memory it has.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.room.as_ref().map_or(0, |room| room.len())
    }

    fn left(&self) -> &[u8] {
        let room = self.room.as_deref().unwrap_or_default();
        room.get(self.from..self.to).unwrap_or_default()
    }

    /// Gives up the room of what is empty.
    fn spare(&mut self) {
        if self.is_empty() {
            give(self.room.take());
        }
    }
}

fn give(room: Option<Box<[u8]>>) {
    if let Some(room) = room
        && room.len() == ROOM
    {
        // A thread that ends keeps none.
        let _ = ROOM_OF_ALL.try_with(|of_all| of_all.set(Some(room)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_is_handed_on_in_order_and_its_room_used_again() {
        let mut ahead = Ahead::default();
        assert!(ahead.is_empty());
        assert_eq!(ahead.hand_on(&mut [0; 8]), 0);
        ahead.room(5).copy_from_slice(b"ahead");
        ahead.fill(5);
        let at = ahead.left().as_ptr();
        let mut into = [0; 3];
        assert_eq!((ahead.hand_on(&mut into), &into), (3, b"ahe"));
        assert!(!ahead.is_empty());
        // What waits longer lies elsewhere.
        ahead.settle();
        assert_eq!((ahead.held(), ahead.left()), (2, &b"ad"[..]));
        let mut other = Ahead::default();
        assert_eq!(other.room(ROOM).as_ptr(), at);
        other.fill(0);
        assert_eq!((ahead.hand_on(&mut into), &into), (2, b"ade"));
        assert!(ahead.is_empty() && ahead.held() == 0);
        let room = ahead.room(usize::MAX);
        assert_eq!((room.len(), room.as_ptr().cast()), (ROOM, at));
        ahead.fill(0);
        assert_eq!(ahead.held(), 0);
    }
}
