//! What is served no more: its context, with the key in it, does not stay in the cache.
//!
//! Not at once: a request that began under the former snapshot may still have to connect, and what
//! was replaced in the store cannot be built again for it.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::control::Inner;
use crate::resource::{Id, Kind};
use crate::snapshot::Snapshot;
use crate::tls::material::Digest;

/// How long a request under a former snapshot can need what that one had.
const KEPT_FOR: Duration = Duration::from_secs(120);

/// Keys of contexts and connectors that some object used and does not use any more.
#[derive(Debug, Default)]
pub(super) struct Retired(Mutex<Vec<(Instant, Digest)>>);

impl Retired {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }
}

impl Inner {
    /// Notes what these objects used before a change and do not use after it.
    pub(super) fn retire<'a>(
        &self,
        before: &Snapshot,
        after: &Snapshot,
        changed: impl IntoIterator<Item = (Kind, &'a Id)>,
        now: Instant,
    ) {
        for (kind, id) in changed {
            let still = after.keys_of(kind, id);
            let gone = before.keys_of(kind, id).into_iter();
            let gone = gone.filter(|key| !still.contains(key));
            let mut retired = self
                .retired
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            retired.extend(gone.map(|key| (now, key)));
        }
    }

    /// Takes out of the cache what was retired long enough ago, unless another object uses it.
    pub(super) fn forget_retired(&self, now: Instant) {
        let due: HashSet<Digest> = {
            let mut retired = self
                .retired
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let is_due = |at: Instant| now.saturating_duration_since(at) >= KEPT_FOR;
            let due = retired.extract_if(.., |(at, _)| is_due(*at));
            due.map(|(_, key)| key).collect()
        };
        if due.is_empty() {
            return;
        }
        // A key that comes into use just now is built again on first use.
        for key in self.live.load().unused(due) {
            self.contexts.forget(&key);
        }
    }
}
