//! Idle upstream connections, kept by everything that decides trust.
//!
//! No connection is shared across identities: the key holds node, name, and the fingerprint of
//! client certificate, CA set, verification and versions. Bounded per key and per worker.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::net::sweep::millis;
use crate::proxy::exchange::UpstreamConn;
use crate::snapshot::Keepalive;
use crate::tls::material::Digest;
use crate::tls::upstream::ServerName;

/// Everything that must be equal for a connection to be used again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// `host:port` of the node.
    pub peer: Arc<str>,
    /// Fingerprint of the TLS configuration; `None` in the clear.
    pub trust: Option<Digest>,
    /// The name that was sent and checked.
    pub name: Option<ServerName>,
}

/// A worker's pools.
#[derive(Default)]
pub struct Pool {
    buckets: RefCell<HashMap<PoolKey, Rc<Bucket>>>,
    total: Rc<Total>,
}

/// Idle connections over all buckets, and how many there may be.
#[derive(Debug, Default)]
struct Total {
    idle: Cell<usize>,
    limit: usize,
}

/// The idle connections of one key, used last first.
pub struct Bucket {
    idle: RefCell<Vec<UpstreamConn>>,
    keepalive: Cell<Keepalive>,
    total: Rc<Total>,
}

impl Pool {
    /// Pools that keep at most `limit` idle connections together.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let total = Rc::new(Total {
            idle: Cell::new(0),
            limit,
        });
        Self {
            buckets: RefCell::default(),
            total,
        }
    }

    /// The bucket of a key, with the limits that its upstream has now.
    pub fn bucket(&self, key: PoolKey, keepalive: Keepalive) -> Rc<Bucket> {
        let mut buckets = self.buckets.borrow_mut();
        let bucket = buckets.entry(key).or_insert_with(|| {
            Rc::new(Bucket {
                idle: RefCell::default(),
                keepalive: Cell::new(keepalive),
                total: self.total.clone(),
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
            Rc::strong_count(bucket) > 1 || !bucket.idle.borrow().is_empty()
        });
    }

    /// Closes every idle connection.
    pub fn clear(&self) {
        for bucket in self.buckets.borrow().values() {
            bucket.retain(|_| false);
        }
    }

    /// How many connections are idle.
    #[must_use]
    pub fn idle_count(&self) -> usize {
        self.total.idle.get()
    }
}

impl Bucket {
    /// The connection used last that is still open.
    pub fn take(&self) -> Option<UpstreamConn> {
        loop {
            let conn = self.idle.borrow_mut().pop()?;
            self.total.idle.set(self.total.idle.get().saturating_sub(1));
            if !conn.is_closed() {
                return Some(conn);
            }
        }
    }

    /// Keeps a connection, or closes it: when it ended, served its share, or there are enough.
    pub fn put(&self, conn: UpstreamConn) {
        let keepalive = self.keepalive.get();
        let mut idle = self.idle.borrow_mut();
        if conn.is_closed()
            || conn.served >= keepalive.requests
            || idle.len() >= keepalive.size
            || self.total.idle.get() >= self.total.limit
        {
            return;
        }
        self.total.idle.set(self.total.idle.get().saturating_add(1));
        idle.push(conn);
    }

    /// How many connections are idle here.
    #[must_use]
    pub fn len(&self) -> usize {
        self.idle.borrow().len()
    }

    /// Whether none is idle here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.idle.borrow().is_empty()
    }

    fn retain(&self, keep: impl Fn(&UpstreamConn) -> bool) {
        let mut idle = self.idle.borrow_mut();
        let before = idle.len();
        idle.retain(keep);
        let gone = before.saturating_sub(idle.len());
        self.total
            .idle
            .set(self.total.idle.get().saturating_sub(gone));
    }
}
