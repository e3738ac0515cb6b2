//! What the connections of one thread lend each other: room to read into, and header maps.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::BytesMut;
use http::HeaderMap;

/// What is read at once, at most: four records of TLS. Content that was read so and waits keeps it.
pub(super) const READ_BYTES: usize = 64 << 10;
/// How many header maps are kept for the next messages, and how large they may be, in fields.
const MAPS: usize = 64;
const MAP_FIELDS: usize = 128;

/// The stock of one thread. Connections that have nothing half read hold no room of their own.
#[derive(Debug, Default)]
pub struct Stock {
    room: RefCell<BytesMut>,
    maps: RefCell<Vec<HeaderMap>>,
}

impl Stock {
    /// An empty stock.
    #[must_use]
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// Room to read into, to be given back.
    pub(super) fn take_room(&self) -> BytesMut {
        self.room.take()
    }

    /// Gives room back, without what is in it.
    pub(super) fn give_room(&self, mut room: BytesMut) {
        room.clear();
        self.room.replace(room);
    }

    /// An empty map.
    #[must_use]
    pub fn take_map(&self) -> HeaderMap {
        self.maps.borrow_mut().pop().unwrap_or_default()
    }

    /// Gives a map back, without what is in it.
    pub fn give_map(&self, mut map: HeaderMap) {
        let capacity = map.capacity();
        if capacity == 0 || capacity > MAP_FIELDS {
            return;
        }
        map.clear();
        let mut maps = self.maps.borrow_mut();
        if maps.len() < MAPS {
            maps.push(map);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header};

    use super::*;

    #[test]
    fn maps_come_back_empty_and_large_ones_do_not() {
        let stock = Stock::new();
        let mut map = HeaderMap::with_capacity(8);
        map.insert(header::TE, HeaderValue::from_static("trailers"));
        let capacity = map.capacity();
        stock.give_map(map);
        let map = stock.take_map();
        assert_eq!((map.len(), map.capacity()), (0, capacity));
        stock.give_map(HeaderMap::with_capacity(1000));
        assert_eq!(stock.take_map().capacity(), 0);
    }
}
