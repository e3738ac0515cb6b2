//! The one place a snapshot is published to, and where workers read it.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use crate::snapshot::Snapshot;

/// The current snapshot, shared by control and all workers.
#[derive(Default)]
pub struct Live {
    version: AtomicU64,
    current: ArcSwap<Snapshot>,
}

impl Live {
    /// The current snapshot.
    #[must_use]
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The current snapshot's version, to compare with a cached one's.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Replaces the current snapshot in one step. Called by `control` only.
    ///
    /// Sets the snapshot's version to one more than the current one's and returns it.
    pub fn publish(&self, mut snapshot: Snapshot) -> Arc<Snapshot> {
        snapshot.version = self.current.load().version.saturating_add(1);
        let version = snapshot.version;
        let snapshot = Arc::new(snapshot);
        self.current.store(snapshot.clone());
        self.version.store(version, Ordering::Release);
        snapshot
    }
}

/// A thread's handle to a snapshot, counted per thread: a request takes one without touching the
/// count that all cores share.
pub type Local = Rc<Arc<Snapshot>>;

/// A worker's view: the `Arc` it last loaded, renewed when the version moved.
pub struct Cached {
    live: Arc<Live>,
    snapshot: Local,
}

impl Cached {
    /// A view of `live`.
    #[must_use]
    pub fn new(live: Arc<Live>) -> Self {
        let snapshot = Rc::new(live.load());
        Self { live, snapshot }
    }

    /// The current snapshot; one atomic load when nothing changed.
    pub fn current(&mut self) -> Local {
        if self.live.version() != self.snapshot.version {
            self.snapshot = Rc::new(self.live.load());
        }
        self.snapshot.clone()
    }
}
