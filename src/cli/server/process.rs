//! What a process asks of the system about itself.

use crate::config::MemoryLock;
use crate::crypto::memory::{self, NotLocked};
use crate::failure::chain;

/// `memory.lock: required` is not met.
#[derive(Debug, thiserror::Error)]
#[error(
    "`memory.lock: required` is not met; permit it (in the unit: LimitMEMLOCK=infinity), or write \
     `memory.lock: auto`, with swap switched off or MemorySwapMax=0"
)]
pub(super) struct LockError(#[from] NotLocked);

/// What was done about the swap space.
#[derive(Debug)]
pub(super) enum Kept {
    Locked,
    /// `memory.lock: auto`, and it is not permitted.
    NotLocked(NotLocked),
    /// `memory.lock: off`.
    Off,
}

/// Keeps memory from the swap space as `memory.lock` says.
///
/// # Errors
/// [`LockError`].
pub(super) fn lock_memory(wish: MemoryLock) -> Result<Kept, LockError> {
    match wish {
        MemoryLock::Off => Ok(Kept::Off),
        MemoryLock::Required => Ok(memory::lock().map(|()| Kept::Locked)?),
        MemoryLock::Auto => Ok(memory::lock().map_or_else(Kept::NotLocked, |()| Kept::Locked)),
    }
}

impl Kept {
    /// Tells it in the log.
    pub(super) fn tell(&self) {
        match self {
            Self::Locked => tracing::info!("memory is locked: nothing of it is swapped out"),
            Self::NotLocked(error) => {
                let reason = chain(error);
                tracing::info!(
                    reason,
                    "memory is not locked; see to it that none is swapped out"
                );
            }
            Self::Off => tracing::info!("memory is not locked: `memory.lock` is off"),
        }
    }
}

/// As many descriptors as the system permits.
pub(super) fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, files) {
        tracing::warn!(error = %error, "the limit of open files stays as it is");
    }
}
