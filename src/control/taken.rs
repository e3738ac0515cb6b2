//! Stored ssls that the start took as they were accepted, examined while they are served.
//!
//! Reading a certificate and a key costs much more than everything else about an ssl, and nearly
//! always finds what the write of it found. So the start goes by what an ssl asks of clients, which
//! is judged in full, and by the text of its certificates. Its key is read before the first
//! handshake of its names, which fails where it is no good; and here, soon after the start, to close
//! the names of such an ssl and to say so.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::control::start::stored_change;
use crate::control::{Inner, on_blocking};
use crate::resource::{Id, Kind, Pairs, Resource, Revision, Terms, parse};
use crate::snapshot::Change;
use crate::snapshot::closed::close;
use crate::snapshot::compile::{Piece, compile, compile_taken};
use crate::store::Stored;
use crate::tls::material;
use crate::tls::trust::CaStore;

/// How many are examined at a time.
const BATCH: usize = 64;

/// Ids and revisions of those that are still to be examined.
#[derive(Default)]
pub(super) struct Taken(Mutex<Vec<(Id, Revision)>>);

impl Taken {
    fn add(&self, id: Id, modified: Revision) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((id, modified));
    }

    fn next(&self) -> Vec<(Id, Revision)> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = all.len().saturating_sub(BATCH);
        all.split_off(kept)
    }
}

/// Examines all of them, resting as long as it works: requests go first.
pub(super) async fn run(inner: &Arc<Inner>) {
    loop {
        let began = Instant::now();
        // What kept a batch from being examined is in the log.
        match on_blocking(inner, |inner| Ok(inner.examine_taken())).await {
            Ok(0) => return,
            Ok(_) | Err(_) => tokio::time::sleep(began.elapsed()).await,
        }
    }
}

impl Inner {
    /// What an ssl is served as without its certificates and keys having been read, to be examined
    /// later; `None` where they must be read at once. Not in FIPS mode, which may refuse what was
    /// accepted without it.
    pub(super) fn take(&self, stored: &Stored) -> Option<(Piece, Option<Arc<CaStore>>)> {
        if stored.kind != Kind::Ssl || material::is_approval_required() {
            return None;
        }
        let document = self.unseal(stored).ok()?;
        let terms = Terms {
            pairs: Pairs::Taken,
            ..Terms::load(self.now_seconds(), self.rules.trust_file.is_some())
        };
        let parsed = parse(Kind::Ssl, &stored.id, &document, &terms).ok()?;
        let Resource::Ssl(ssl) = parsed.resource else {
            return None;
        };
        let taken = compile_taken(&stored.id, &ssl, &self.ground())?;
        self.taken.add(stored.id.clone(), stored.modified);
        Some(taken)
    }

    /// Examines some of those that were taken, and says how many. What differs from what is served
    /// of one is served from now on. Blocks.
    pub(super) fn examine_taken(&self) -> usize {
        let batch = self.taken.next();
        let found: Vec<_> = batch
            .iter()
            .filter_map(|(id, modified)| self.examine_one(id, *modified))
            .collect();
        if !found.is_empty() {
            self.correct(found);
        }
        batch.len()
    }

    /// The object and what it should be served as, where that is not what it is served as.
    fn examine_one(&self, id: &Id, modified: Revision) -> Option<(Stored, Piece)> {
        let stored = match self.store.find(Kind::Ssl, id) {
            Ok(stored) => stored?,
            Err(error) => {
                tracing::error!(%id, %error, "an ssl cannot be examined");
                return None;
            }
        };
        // One that was written since was proved then.
        if stored.modified != modified {
            return None;
        }
        let piece = match self.read(&stored) {
            Ok(parsed) => {
                let compiled = compile(Kind::Ssl, id, &parsed.resource, &self.ground());
                if let Some((pointer, error)) = &compiled.trouble {
                    tracing::error!(kind = %Kind::Ssl, %id, %pointer, %error, "closed: it cannot be served");
                }
                compiled.piece
            }
            Err(error) => {
                tracing::error!(kind = %Kind::Ssl, %id, %error, "closed: what is stored cannot be read");
                close(Kind::Ssl, id, &stored.document)
            }
        };
        let snapshot = self.live.load();
        let is_served = match (&piece, snapshot.server(id)) {
            (Piece::Server(found), Some(served)) => {
                found.serving.map(|serving| serving.context)
                    == served.serving.map(|serving| serving.context)
            }
            _ => false,
        };
        (!is_served).then_some((stored, piece))
    }

    /// Publishes what was found, unless a write came meanwhile.
    fn correct(&self, mut found: Vec<(Stored, Piece)>) {
        let _writer = self.writer.blocking_lock();
        let before = self.live.load();
        found.retain(|(stored, _)| before.modified(Kind::Ssl, &stored.id) == Some(stored.modified));
        let changes: Vec<Change> = found
            .iter()
            .map(|(stored, piece)| stored_change(stored, piece.clone()))
            .collect();
        let after = self.publish(before.apply(changes, before.revision));
        for (stored, _) in &found {
            self.tell_workers(&before, &after, Kind::Ssl, &stored.id);
        }
        let changed = found.iter().map(|(stored, _)| (Kind::Ssl, &stored.id));
        self.retire(&before, &after, changed, Instant::now());
    }
}
