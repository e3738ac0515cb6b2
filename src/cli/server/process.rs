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

/// Keeps memory from the swap space as `memory.lock` says, and tells in the log what was done.
///
/// # Errors
/// [`LockError`].
pub(super) fn lock_memory(wish: MemoryLock) -> Result<(), LockError> {
    match wish {
        MemoryLock::Off => {
            tracing::info!("memory is not locked: `memory.lock` is off");
            return Ok(());
        }
        MemoryLock::Required => memory::lock()?,
        MemoryLock::Auto => {
            if let Err(error) = memory::lock() {
                let reason = chain(&error);
                tracing::info!(
                    reason,
                    "memory is not locked; see to it that none is swapped out"
                );
                return Ok(());
            }
        }
    }
    tracing::info!("memory is locked: nothing of it is swapped out");
    Ok(())
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

/// No core dump of a process that opens keys.
pub(super) fn forbid_core_dumps() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(error = %error, "core dumps cannot be switched off");
    }
}
