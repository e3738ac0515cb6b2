//! Idle upstream connections, kept by everything that decides trust.
//!
//! No connection is shared across identities: the key holds node, name, and the fingerprint of
//! client certificate, CA set, verification and versions. Bounded per key and per worker; over a
//! bound the one that was idle longest goes, as in nginx.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use slab::Slab;

use crate::net::sweep::millis;
use crate::proxy::exchange::UpstreamConn;
use crate::proxy::multiplex::{Busy, Shared};
use crate::snapshot::Keepalive;
use crate::tls::material::Digest;
use crate::tls::upstream::{Protocol, ServerName};

/// Everything that must be equal for a connection to be used again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// `host:port` of the node.
    pub peer: Arc<str>,
    /// Which of its addresses, where it is a name.
    pub ip: Option<IpAddr>,
    /// Fingerprint of the TLS configuration; `None` in the clear.
    pub trust: Option<Digest>,
    /// The name that was sent and checked.
    pub name: Option<ServerName>,
    /// What is spoken.
    pub protocol: Protocol,
}

/// An idle connection.
pub enum Kept {
    /// Of one request at a time.
    One(Box<UpstreamConn>),
    /// Of many.
    Many(Rc<Shared>),
}

impl Kept {
    fn is_closed(&self) -> bool {
        match self {
            Self::One(conn) => conn.is_closed(),
            Self::Many(shared) => shared.is_closed(),
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Self::One(conn) => conn.is_over(),
            Self::Many(shared) => shared.is_over(),
        }
    }

    fn served(&self) -> u32 {
        match self {
            Self::One(conn) => conn.served,
            Self::Many(shared) => shared.served(),
        }
    }

    /// The clock's milliseconds when it last moved bytes.
    fn used_at(&self) -> u64 {
        let activity = match self {
            Self::One(conn) => conn.activity(),
            Self::Many(shared) => &shared.activity,
        };
        activity.read_at().max(activity.written_at())
    }

    fn bucket(&self) -> Rc<Bucket> {
        match self {
            Self::One(conn) => conn.bucket(),
            Self::Many(shared) => shared.bucket.clone(),
        }
    }
}

/// A worker's pools.
pub struct Pool {
    buckets: RefCell<HashMap<PoolKey, Rc<Bucket>>>,
    idle: Rc<RefCell<Idle<Kept>>>,
    open: Rc<Cell<usize>>,
    limit: usize,
}

/// The idle connections of one key, used last first.
pub struct Bucket {
    // In the order they became idle: the front is older than the rest, here and among all.
    places: RefCell<VecDeque<usize>>,
    keepalive: Cell<Keepalive>,
    idle: Rc<RefCell<Idle<Kept>>>,
    many: Busy,
    open: Rc<Cell<usize>>,
    limit: usize,
}

/// A connection that is open, as long as this is held.
pub struct Open(Rc<Cell<usize>>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl Pool {
    /// Pools that keep at most `limit` idle connections together.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            buckets: RefCell::default(),
            idle: Rc::default(),
            open: Rc::default(),
            limit,
        }
    }

    /// The bucket of a key, with the limits that its upstream has now.
    pub fn bucket(&self, key: PoolKey, keepalive: Keepalive) -> Rc<Bucket> {
        let mut buckets = self.buckets.borrow_mut();
        let bucket = buckets.entry(key).or_insert_with(|| {
            Rc::new(Bucket {
                places: RefCell::default(),
                keepalive: Cell::new(keepalive),
                idle: self.idle.clone(),
                many: Busy::default(),
                open: self.open.clone(),
                limit: self.limit,
            })
        });
        bucket.keepalive.set(keepalive);
        bucket.clone()
    }

    /// Closes connections that were idle too long and forgets empty buckets nobody refers to.
    pub fn sweep(&self, now: u64) {
        self.buckets.borrow_mut().retain(|_, bucket| {
            let limit = millis(bucket.keepalive.get().idle);
            bucket.retain(|conn| !conn.is_closed() && now < conn.used_at().saturating_add(limit));
            Rc::strong_count(bucket) > 1 || !bucket.is_empty()
        });
    }

    /// Closes every idle connection.
    pub fn clear(&self) {
        for bucket in self.buckets.borrow().values() {
            bucket.retain(|_| false);
        }
    }

    /// How many connections are open, idle or not.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.open.get()
    }

    /// How many connections are idle.
    #[must_use]
    pub fn idle_count(&self) -> usize {
        self.idle.borrow().len()
    }
}

impl Bucket {
    /// Counts a connection that was opened for it.
    #[must_use]
    pub fn count_open(&self) -> Open {
        self.open.set(self.open.get().saturating_add(1));
        Open(self.open.clone())
    }

    /// A place on a connection that carries others, else the connection used last that is still
    /// open.
    pub fn take(&self) -> Option<Box<UpstreamConn>> {
        let requests = self.keepalive.get().requests;
        if let Some(lease) = self.many.join(requests) {
            return Some(UpstreamConn::of(lease));
        }
        loop {
            let place = self.places.borrow_mut().pop_back()?;
            let conn = self.idle.borrow_mut().remove(place);
            match conn {
                Some(Kept::One(conn)) if !conn.is_closed() => return Some(conn),
                Some(Kept::Many(shared)) => {
                    if let Some(lease) = shared.lease(requests) {
                        return Some(UpstreamConn::of(lease));
                    }
                }
                Some(Kept::One(_)) | None => {}
            }
        }
    }

    /// Keeps a connection, or closes it: when it ended or served its share. Where there are enough,
    /// here or in all, it takes the place of the one that was idle longest.
    pub fn put(&self, conn: Kept) {
        let keepalive = self.keepalive.get();
        if conn.is_over()
            || conn.served() >= keepalive.requests
            || keepalive.size == 0
            || self.limit == 0
        {
            return;
        }
        while self.len() >= keepalive.size {
            self.close_oldest();
        }
        while self.idle.borrow().len() >= self.limit {
            let oldest = self.idle.borrow().oldest().map(Kept::bucket);
            let Some(bucket) = oldest else { return };
            bucket.close_oldest();
        }
        let place = self.idle.borrow_mut().push(conn);
        self.places.borrow_mut().push_back(place);
    }

    /// Those of its connections that carry streams.
    #[must_use]
    pub fn many(&self) -> &Busy {
        &self.many
    }

    /// How many requests a connection of it may carry.
    #[must_use]
    pub fn requests(&self) -> u32 {
        self.keepalive.get().requests
    }

    /// A connection carries streams from now on.
    pub fn busy(&self, shared: Weak<Shared>) {
        self.many.add(shared);
    }

    /// A connection carries no stream any more.
    pub fn rest(&self, shared: &Rc<Shared>) {
        self.many.remove(shared);
    }

    fn close_oldest(&self) {
        let place = self.places.borrow_mut().pop_front();
        // Dropped outside the borrows.
        let _closed = place.and_then(|place| self.idle.borrow_mut().remove(place));
    }

    /// How many connections are idle here.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.borrow().len()
    }

    /// Whether none is idle here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.borrow().is_empty()
    }

    fn retain(&self, keep: impl Fn(&Kept) -> bool) {
        let mut closed = Vec::new();
        self.places.borrow_mut().retain(|place| {
            let mut idle = self.idle.borrow_mut();
            let keeps = idle.find(*place).is_some_and(&keep);
            if !keeps {
                closed.extend(idle.remove(*place));
            }
            keeps
        });
        // Dropped outside the borrows.
        drop(closed);
    }
}

/// What is idle, in the order it became so; adding, removing and finding the oldest are O(1).
struct Idle<T> {
    entries: Slab<Entry<T>>,
    oldest: Option<usize>,
    newest: Option<usize>,
}

struct Entry<T> {
    value: T,
    older: Option<usize>,
    newer: Option<usize>,
}

impl<T> Default for Idle<T> {
    fn default() -> Self {
        Self {
            entries: Slab::new(),
            oldest: None,
            newest: None,
        }
    }
}

impl<T> Idle<T> {
    fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds what became idle now; gives its place.
    fn push(&mut self, value: T) -> usize {
        let place = self.entries.insert(Entry {
            value,
            older: self.newest,
            newer: None,
        });
        match self.newest.and_then(|newest| self.entries.get_mut(newest)) {
            Some(before) => before.newer = Some(place),
            None => self.oldest = Some(place),
        }
        self.newest = Some(place);
        place
    }

    fn find(&self, place: usize) -> Option<&T> {
        self.entries.get(place).map(|entry| &entry.value)
    }

    fn oldest(&self) -> Option<&T> {
        self.oldest.and_then(|place| self.find(place))
    }

    fn remove(&mut self, place: usize) -> Option<T> {
        let Entry {
            value,
            older,
            newer,
        } = self.entries.try_remove(place)?;
        match older.and_then(|older| self.entries.get_mut(older)) {
            Some(before) => before.newer = newer,
            None => self.oldest = newer,
        }
        match newer.and_then(|newer| self.entries.get_mut(newer)) {
            Some(after) => after.older = older,
            None => self.newest = older,
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::net::Ipv4Addr;
    use std::time::Duration;

    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::LocalSet;

    use super::*;
    use crate::net::stream::Stream;
    use crate::net::sweep::Sweep;
    use crate::tls::socket::{Activity, Socket};

    fn bucket(pool: &Pool, peer: &str, size: usize) -> Rc<Bucket> {
        let key = PoolKey {
            peer: peer.into(),
            ip: None,
            trust: None,
            name: None,
            protocol: Protocol::Http1,
        };
        let keepalive = Keepalive {
            size,
            idle: Duration::from_secs(60),
            requests: 10,
        };
        pool.bucket(key, keepalive)
    }

    #[test]
    fn who_was_idle_longest_makes_room_for_who_comes() {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let (address, clock) = (listener.local_addr().unwrap(), Sweep::new().clock());
            let open = async |bucket: &Rc<Bucket>| {
                let tcp = TcpStream::connect(address).await.unwrap();
                let stream = Stream::Plain(Socket::new(tcp, Activity::new(clock.clone())));
                Kept::One(UpstreamConn::open(stream, bucket.clone(), false))
            };
            let pool = Pool::new(3);
            let (a, b) = (bucket(&pool, "a:1", 2), bucket(&pool, "b:1", 3));
            for (bucket, lens) in [
                (&a, (1, 0)),
                (&a, (2, 0)),
                // Over the bucket's own limit.
                (&a, (2, 0)),
                (&b, (2, 1)),
                // Over the limit of all: the oldest is another's.
                (&b, (1, 2)),
                (&b, (0, 3)),
                (&b, (0, 3)),
            ] {
                bucket.put(open(bucket).await);
                assert_eq!((a.len(), b.len()), lens);
                assert_eq!(pool.idle_count(), lens.0 + lens.1);
            }
            assert!(b.take().is_some());
            a.put(open(&a).await);
            assert_eq!((a.len(), b.len()), (1, 2));
            pool.clear();
            assert_eq!(pool.idle_count(), 0);
        });
    }

    proptest! {
        #[test]
        fn idle_keeps_the_order_of_arrival_whatever_leaves(steps in proptest::collection::vec(0_usize..6, 0..60)) {
            let (mut idle, mut model) = (Idle::default(), Vec::new());
            for (number, step) in steps.into_iter().enumerate() {
                // Half of the steps add; the others take one out, the first, the last or between.
                if step < 3 || model.is_empty() {
                    model.push((idle.push(number), number));
                } else {
                    let (place, value) = model.remove((step - 3) * (model.len() - 1) / 2);
                    prop_assert_eq!(idle.remove(place), Some(value));
                }
                prop_assert_eq!(idle.len(), model.len());
                prop_assert_eq!(idle.oldest(), model.first().map(|(_, value)| value));
            }
        }
    }
}
