//! The process's memory: wiped when it is given back, kept from the swap space and from core dumps.
//!
//! Containers that zeroize hold what is known to be secret. All the rest that a secret goes through,
//! buffers of HTTP, parsed JSON, texts that grew and moved, is wiped by the allocator when it is
//! given back, on every thread but those that are told to be spared.
//!
//! All of it is locked, rather than an arena for keys alone: decision record 20.

use std::cell::Cell;
use std::io;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::mm::{MlockAllFlags, mlockall, munlockall};
use rustix::process::{DumpableBehavior, Resource, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};

use super::sys;
pub use super::sys::WipingAllocator;

thread_local! {
    static IS_SPARED: Cell<bool> = const { Cell::new(false) };
}

static IS_LOCKED: AtomicBool = AtomicBool::new(false);
/// What was freed in pieces, in bytes since the start.
static FREED: AtomicU64 = AtomicU64::new(0);
/// One at a time: what one unlocks another must not lock meanwhile.
static GIVES_BACK: Mutex<()> = Mutex::new(());

/// From so many bytes on it is worth to look for what was freed.
const MUCH: u64 = 16 << 20;
/// As long as more than this part of it was freed since one of the last `QUIET` looks, more is to come.
const FEW: u64 = 100;
const QUIET: u32 = 6;
/// With each look this part of it is forgotten, or as much as was freed meanwhile where that is less: a
/// larger part than `FEW`'s, so that what is freed all the time does not look like the end of much.
const FORGOTTEN: u64 = 32;
/// So many looks are passed over after what was freed was given back.
const RESTS: u32 = 240;

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

/// Notes that some `bytes` were freed in pieces: between them is what is in use still, so that the
/// allocator has them to use again, and the system does not.
pub fn note_freed_pieces(bytes: usize) {
    FREED.fetch_add(u64::try_from(bytes).unwrap_or_default(), Ordering::Relaxed);
}

/// Tells when what was freed in pieces is worth giving back: when it is much, and no more comes. What
/// is freed all the time is used again all the time.
#[derive(Debug, Default)]
pub struct Slack {
    /// What was freed and is not forgotten: what comes at one rate all the time makes no more of it.
    freed: u64,
    seen: u64,
    /// At so many looks in a row little more was freed.
    quiet: u32,
    rests: u32,
}

impl Slack {
    /// Whether [`give_back_freed_pieces`] is due. To be asked again and again, by one alone.
    pub fn is_due(&mut self) -> bool {
        self.judge(FREED.load(Ordering::Relaxed))
    }

    fn judge(&mut self, freed: u64) -> bool {
        let recent = freed.saturating_sub(mem::replace(&mut self.seen, freed));
        self.freed += recent - recent.min(self.freed / FORGOTTEN);
        let is_quiet = recent <= self.freed / FEW;
        self.quiet = if is_quiet {
            self.quiet.saturating_add(1)
        } else {
            0
        };
        if self.rests > 0 {
            self.rests -= 1;
            return false;
        }
        if self.freed < MUCH || self.quiet < QUIET {
            return false;
        }
        self.freed = 0;
        self.rests = RESTS;
        true
    }
}

/// Gives back to the system what was freed in small pieces, as a revocation list is.
pub fn give_back_freed_pieces() {
    let _alone = GIVES_BACK.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// Whether it is due at one of so many looks at which no more was freed: at the last one.
    fn is_due_after(slack: &mut Slack, freed: u64, looks: u32) -> bool {
        assert!((1..looks).all(|_| !slack.judge(freed)));
        slack.judge(freed)
    }

    #[test]
    fn what_is_freed_is_due_when_it_is_much_and_no_more_comes() {
        let mut slack = Slack::default();
        assert!(
            !is_due_after(&mut slack, MUCH - 1, 10 * QUIET),
            "it is little"
        );
        // A little more comes, as it always may.
        let freed = 2 * MUCH;
        assert!(!is_due_after(&mut slack, freed, QUIET));
        assert!(slack.judge(freed + MUCH / FEW));
        // Then it rests.
        let freed = 6 * MUCH;
        assert!(is_due_after(&mut slack, freed, RESTS + 1));
        assert!(!is_due_after(&mut slack, freed, 2 * RESTS));
    }

    #[test]
    fn what_is_freed_all_the_time_is_never_due_until_that_ends() {
        const EACH: u64 = MUCH / 8;
        let mut slack = Slack::default();
        let mut freed = 0;
        for look in 0..20 * RESTS {
            // Not as much at each look, and sometimes nothing for a while.
            let part = u64::from(look % 7 < 3);
            freed += EACH * part * 2;
            assert!(!slack.judge(freed), "{look}");
        }
        assert!((0..=QUIET).any(|_| slack.judge(freed)));
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
