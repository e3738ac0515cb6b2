//! Watching files: whoever reads one learns at once when another reading may come to something else.
//!
//! A path is walked as the kernel does. Each folder on it is watched for the one name that is looked
//! up there, links included, and the file itself for what is written to it (`inotify(7)`). So a file
//! that is written, replaced, or not there yet, a link that is swapped and a folder that is moved
//! are all seen, at any place of the path. Whoever reads watches before, and again each time: what
//! the path leads through may be something else by then.
//!
//! What the kernel cannot tell of, files that other machines may change above all, is looked at
//! every so often instead, and the log says so.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, OnceCell};
use tokio::time::{sleep, sleep_until, timeout_at};

use self::table::Table;
use self::walk::Walk;

mod table;
mod walk;

/// When what is watched is looked at all the same: a mount that comes over a folder is not told.
pub const WATCHED: Duration = Duration::from_secs(90);

/// How long nothing may have happened until a change is told: a certificate and its key come one
/// after the other.
const QUIET: Duration = Duration::from_millis(20);

/// How long a change is held back at most while others come.
const HELD: Duration = Duration::from_millis(500);

/// After which time a path is not watched any more that nobody has read again.
const FORGOTTEN: Duration = Duration::from_secs(300);

/// How often is looked for what is to be forgotten.
const SWEEP: Duration = Duration::from_secs(60);

/// Events that are taken in one go, so that their thread comes to other things.
const AT_ONCE: usize = 4096;

/// Reasons that the log remembers to have told.
const REASONS: usize = 64;

/// Why a path is not watched.
#[derive(Debug, thiserror::Error)]
enum Unwatched {
    #[error("the system has no inotify instance left ({0}); raise fs.inotify.max_user_instances")]
    NoInstance(Errno),
    #[error("the system permits no further watches; raise fs.inotify.max_user_watches")]
    Limit,
    #[error("{limit} files are watched already")]
    Many { limit: usize },
    #[error(
        "of the file system of {folder} (type {kind:#x}) it is not known that the kernel tells of \
         all changes, as of those by other machines"
    )]
    FileSystem { folder: String, kind: u64 },
    #[error("{folder}: {error}")]
    Refused { folder: String, error: Errno },
}

/// Watches paths, each under a key. Cheap to clone; [`Watcher::watch`] may be called on any thread.
#[derive(Debug)]
pub struct Watcher<K>(Arc<Shared<K>>);

impl<K> Clone for Watcher<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Shared<K> {
    /// Made when the first path is watched: a user has few of them.
    inotify: OnceLock<Result<Arc<OwnedFd>, Errno>>,
    begun: Notify,
    /// The same, for the runtime to wait for.
    ears: OnceCell<AsyncFd<Arc<OwnedFd>>>,
    /// When what is not watched is looked at.
    look: Duration,
    table: Mutex<Table<K>>,
}

impl<K: Clone + Ord> Watcher<K> {
    /// A watcher of nothing yet. What it cannot watch is looked at after `look`.
    #[must_use]
    pub fn new(look: Duration) -> Self {
        Self(Arc::new(Shared {
            inotify: OnceLock::new(),
            begun: Notify::new(),
            ears: OnceCell::new(),
            look,
            table: Mutex::default(),
        }))
    }

    /// Watches what `root` leads to, and from there on each path of `beneath` that does not lead out
    /// of it; `root` may be a file if there is none. Called before what is there is read, each time:
    /// it takes the place of what was watched under this key. Blocks.
    ///
    /// Returns after which time to look again whatever is told.
    pub fn watch(&self, key: &K, root: &Path, beneath: &[PathBuf]) -> Duration {
        match self.0.watch(key, root, beneath) {
            Ok(()) => WATCHED,
            Err(reason) => {
                self.0.tell(&reason.to_string());
                self.0.look
            }
        }
    }

    /// Under which keys something may have changed, once it has been quiet for a moment; nothing
    /// where nothing did for so long. For one caller, on a thread of a runtime.
    ///
    /// Cancel safety: what a dropped call has heard is lost.
    pub async fn changed(&self, longest: Duration) -> BTreeSet<K> {
        let until = tokio::time::Instant::now() + longest;
        self.0.table().forget(Instant::now());
        if self.0.inotify.get().is_none()
            && timeout_at(until, self.0.begun.notified()).await.is_err()
        {
            return BTreeSet::new();
        }
        let Some(ears) = self.0.ears().await else {
            sleep_until(until).await;
            return BTreeSet::new();
        };
        let mut heard = BTreeSet::new();
        while heard.is_empty() {
            match timeout_at(until, ears.readable()).await {
                Err(_elapsed) => return heard,
                Ok(Err(error)) => {
                    self.0.tell(&error.to_string());
                    sleep_until(until).await;
                    return heard;
                }
                Ok(Ok(mut ready)) => {
                    if self.0.hear(&mut heard) {
                        ready.clear_ready();
                    }
                }
            }
            // Also where it was nothing that is watched: folders may be busy.
            sleep(QUIET).await;
        }
        let held = Instant::now();
        let mut more = BTreeSet::new();
        while self.0.hear(&mut more) && !more.is_empty() && held.elapsed() < HELD {
            heard.append(&mut more);
            sleep(QUIET).await;
        }
        heard.append(&mut more);
        heard
    }
}

impl<K> Shared<K> {
    fn table(&self) -> MutexGuard<'_, Table<K>> {
        // Each change of it is whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Ord> Shared<K> {
    fn watch(&self, key: &K, root: &Path, beneath: &[PathBuf]) -> Result<(), Unwatched> {
        let inotify = self.inotify.get_or_init(|| {
            inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map(Arc::new)
        });
        self.begun.notify_one();
        let inotify = inotify
            .as_ref()
            .map_err(|error| Unwatched::NoInstance(*error))?;
        let ear = self.table().begin(inotify, key)?;
        let mut walk = Walk::new(inotify, &self.table, ear);
        let walked = walk.all(root, beneath);
        let places = walk.into_places();
        let mut table = self.table();
        if walked.is_ok() {
            table.keep(ear, places);
        } else {
            table.give_up(ear, &places);
        }
        walked
    }

    async fn ears(&self) -> Option<&AsyncFd<Arc<OwnedFd>>> {
        let inotify = self.inotify.get()?.as_ref().ok()?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, because a descriptor may be closed meanwhile: not this one"
        )]
        let ears = self
            .ears
            .get_or_try_init(|| async { AsyncFd::new(Arc::clone(inotify)) });
        ears.await
            .inspect_err(|error| self.tell(&error.to_string()))
            .ok()
    }

    /// Takes what happened; whether that was all of it.
    fn hear(&self, heard: &mut BTreeSet<K>) -> bool {
        let Some(Ok(inotify)) = self.inotify.get() else {
            return true;
        };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(inotify, &mut buffer);
        let mut table = self.table();
        for taken in 0_usize.. {
            // What was taken from the kernel is in the reader alone.
            if taken >= AT_ONCE && reader.is_buffer_empty() {
                break;
            }
            match reader.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {
                    heard.extend(table.keys());
                }
                Ok(event) => {
                    let name = event
                        .file_name()
                        .map(|name| OsStr::from_bytes(name.to_bytes()));
                    heard.extend(table.concerned(event.wd(), name));
                    if event.events().contains(ReadFlags::IGNORED) {
                        table.lose(event.wd());
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(error) => {
                    // What was missed is not known.
                    heard.extend(table.keys());
                    drop(table);
                    self.tell(&error.to_string());
                    return true;
                }
            }
        }
        false
    }

    /// Tells once that something is not watched.
    fn tell(&self, reason: &str) {
        if self.table().is_news(reason) {
            let seconds = self.look.as_secs();
            tracing::warn!(
                reason,
                "a file is not watched: it is looked at every {seconds} s"
            );
        }
    }
}

#[cfg(test)]
mod tests;
