//! The process's memory: wiped when it is given back, kept from the swap space and from core dumps.
//!
//! Containers that zeroize hold what is known to be secret. All the rest that a secret goes through,
//! buffers of HTTP, parsed JSON, texts that grew and moved, is wiped by the allocator when it is
//! given back, on every thread but those that are told to be spared.
//!
//! All of it is locked, rather than an arena for keys alone: decision record 20.

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mm::{MlockAllFlags, mlockall, munlockall};
use rustix::process::{DumpableBehavior, Resource, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};

use super::sys;
pub use super::sys::WipingAllocator;

thread_local! {
    static IS_SPARED: Cell<bool> = const { Cell::new(false) };
}

static IS_LOCKED: AtomicBool = AtomicBool::new(false);

/// Spares this thread from now on: nothing secret of the gateway's goes through memory that it gives
/// back, and it is in a hurry. For workers, which carry clients' bytes.
pub fn spare_this_thread() {
    IS_SPARED.set(true);
}

/// Whether this thread wipes what it gives back.
pub(super) fn wipes() -> bool {
    // A thread that ends wipes.
    !IS_SPARED.try_with(Cell::get).unwrap_or(false)
}

/// Why memory is not locked.
#[derive(Debug, thiserror::Error)]
pub enum NotLocked {
    /// What may be locked is bounded, and a process that meets the bound gets no memory any more.
    #[error("no more than {0} bytes may be locked (RLIMIT_MEMLOCK), and CAP_IPC_LOCK is missing")]
    Bounded(u64),
    /// The system does not do it.
    #[error("the system refuses it")]
    Refused(#[source] io::Error),
}

/// Keeps all memory of this process, as it is used, from the swap space. (`mlockall(2)`)
///
/// # Errors
/// [`NotLocked`]: nothing is locked.
pub fn lock() -> Result<(), NotLocked> {
    let mut limit = getrlimit(Resource::Memlock);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        // What counts is what is permitted afterwards.
        let _unchanged = setrlimit(Resource::Memlock, limit);
    }
    let is_capable =
        capabilities(None).is_ok_and(|own| own.effective.contains(CapabilitySet::IPC_LOCK));
    if let Some(bytes) = getrlimit(Resource::Memlock).current
        && !is_capable
    {
        return Err(NotLocked::Bounded(bytes));
    }
    lock_pages().map_err(NotLocked::Refused)?;
    IS_LOCKED.store(true, Ordering::Release);
    Ok(())
}

/// Sees to it that nothing of this process is in a core dump, and that nobody but root reads its
/// memory. (`PR_SET_DUMPABLE(2const)`)
///
/// # Errors
/// The system's.
pub fn forbid_core_dumps() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(Into::into)
}

/// Whether [`lock`] has done it.
#[must_use]
pub fn is_locked() -> bool {
    IS_LOCKED.load(Ordering::Acquire)
}

/// As they are touched: stacks and buffers that are reserved and never used take no memory.
fn lock_pages() -> io::Result<()> {
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    mlockall(flags).map_err(Into::into)
}

/// Gives back to the system what was freed in small pieces, as a revocation list is.
pub fn give_back_freed_pieces() {
    if !is_locked() {
        return sys::give_back_freed_pieces();
    }
    // The system takes no locked page back (`madvise(2)`, `MADV_DONTNEED`). What could be swapped out
    // in this moment is what was not wiped: it is a moment, and rare.
    let unlocked = munlockall();
    sys::give_back_freed_pieces();
    if let Err(error) = unlocked
        .map_err(io::Error::from)
        .and_then(|()| lock_pages())
    {
        IS_LOCKED.store(false, Ordering::Release);
        tracing::error!(%error, "memory is not locked any more");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much of this process's memory is there, in bytes.
    fn resident_bytes() -> usize {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: usize = pages.split(' ').nth(1).unwrap().parse().unwrap();
        pages * rustix::param::page_size()
    }

    #[test]
    fn what_is_locked_is_given_back_and_locked_again() {
        const MEBIBYTE: usize = 1 << 20;
        match lock() {
            Ok(()) => assert!(is_locked()),
            // Where it is not permitted, giving back is what it was.
            Err(NotLocked::Bounded(_) | NotLocked::Refused(_)) => assert!(!is_locked()),
        }
        let was_locked = is_locked();
        let pieces: Vec<_> = (0..64 * 1024).map(|_| vec![1_u8; 1024]).collect();
        let kept: Vec<_> = pieces.into_iter().step_by(1024).collect();
        let before = resident_bytes();
        give_back_freed_pieces();
        let after = resident_bytes();
        assert!(
            after + 32 * MEBIBYTE < before,
            "{before} bytes, then {after}"
        );
        assert_eq!((kept.len(), is_locked()), (64, was_locked));
        munlockall().unwrap();
        IS_LOCKED.store(false, Ordering::Release);
    }

    #[test]
    fn process_is_in_no_core_dump() {
        forbid_core_dumps().unwrap();
        let behavior = rustix::process::dumpable_behavior().unwrap();
        assert_eq!(behavior, DumpableBehavior::NotDumpable);
    }

    #[test]
    fn threads_wipe_unless_they_are_spared() {
        assert!(wipes());
        let spared = std::thread::spawn(|| {
            spare_this_thread();
            wipes()
        });
        assert!(!spared.join().unwrap());
        assert!(wipes());
    }
}
