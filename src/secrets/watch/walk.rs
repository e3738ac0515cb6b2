//! The way of a path through folders and links, watched step by step: first the folder for the next
//! name, then that name is looked up, so that nothing is missed in between.

use std::collections::{HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::inotify::{self, WatchFlags};
use rustix::fs::{CWD, FileType, FsWord, Mode, OFlags, fstat, fstatfs, open, openat, readlinkat};
use rustix::io::Errno;

use super::Unwatched;
use super::table::{Ear, Place, Table};

/// What happens to the names of a folder.
const FOLDER: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::ONLYDIR);

/// What happens to a file, under whatever name; single writes too, as not every writer closes it.
const FILE: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB);

/// Links that a path may lead through, as for the kernel. (`path_resolution(7)`)
const LINKS: usize = 40;

/// File systems that only this machine writes to, so that its kernel sees every change.
/// (`statfs(2)`)
const LOCAL: [FsWord; 12] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0x0102_1994, // tmpfs, as volumes of Kubernetes' secrets are
    0x8584_58f6, // ramfs
    0x794c_7630, // overlayfs
    0x2fc1_2fc1, // zfs
    0xf2f5_2010, // f2fs
    0xca45_1a4e, // bcachefs
    0x3153_464a, // jfs
    0x7371_7368, // squashfs
    0xe0f5_e1e2, // erofs
];

/// A walk for one key.
pub(super) struct Walk<'a, K> {
    inotify: &'a Arc<OwnedFd>,
    table: &'a Mutex<Table<K>>,
    ear: Ear,
    places: HashSet<Place>,
    /// The folders from the root of all on.
    stack: Vec<OwnedFd>,
    links: usize,
}

/// Where links may lead.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Links {
    Anywhere,
    /// Not above the folder with this index.
    Below(usize),
}

impl<'a, K> Walk<'a, K> {
    pub(super) fn new(inotify: &'a Arc<OwnedFd>, table: &'a Mutex<Table<K>>, ear: Ear) -> Self {
        Self {
            inotify,
            table,
            ear,
            places: HashSet::new(),
            stack: Vec::new(),
            links: 0,
        }
    }

    /// What was noted on the way.
    pub(super) fn into_places(self) -> HashSet<Place> {
        self.places
    }

    /// Walks to the root, and from there on all that is beneath it.
    pub(super) fn all(&mut self, root: &Path, beneath: &[PathBuf]) -> Result<(), Unwatched> {
        let refused = |folder: &Path, error| Unwatched::Refused {
            folder: folder.display().to_string(),
            error,
        };
        let absolute = std::path::absolute(root)
            .map_err(|error| refused(root, Errno::from_io_error(&error).unwrap_or(Errno::INVAL)))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = open("/", flags, Mode::empty()).map_err(|error| refused(root, error))?;
        self.stack = vec![top];
        if !self.follow(&absolute, Links::Anywhere)? {
            return Ok(());
        }
        let base = self.stack.len();
        for path in beneath {
            self.stack.truncate(base);
            self.links = 0;
            self.follow(path, Links::Below(base))?;
        }
        Ok(())
    }

    /// Walks on from the folder at hand. Whether it came to a folder, which is at hand then: the way
    /// may end at a file, at what does not exist, or where nobody may go.
    fn follow(&mut self, path: &Path, links: Links) -> Result<bool, Unwatched> {
        let mut steps: VecDeque<OsString> = names(path).collect();
        while let Some(name) = steps.pop_front() {
            if name == ".." {
                match links {
                    Links::Below(base) if self.stack.len() <= base => return Ok(false),
                    Links::Anywhere if self.stack.len() <= 1 => {}
                    Links::Anywhere | Links::Below(_) => drop(self.stack.pop()),
                }
                continue;
            }
            let Some(folder) = self.stack.last() else {
                return Ok(false);
            };
            let place = self.note(folder, &name, FOLDER)?;
            self.places.insert(place);
            let refused = |at: &OwnedFd, error| Unwatched::Refused {
                folder: shown(at),
                error,
            };
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let found = match openat(folder, &name, flags, Mode::empty()) {
                Ok(found) => found,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => return Ok(false),
                Err(error) => return Err(refused(folder, error)),
            };
            let stat = fstat(&found).map_err(|error| refused(&found, error))?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind == FileType::Directory {
                self.stack.push(found);
            } else if kind == FileType::Symlink {
                let target = readlinkat(&found, "", Vec::new());
                let target = target.map_err(|error| refused(&found, error))?;
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                self.links = self.links.saturating_add(1);
                if self.links > LINKS || (target.is_absolute() && links != Links::Anywhere) {
                    return Ok(false);
                }
                if target.is_absolute() {
                    self.stack.truncate(1);
                }
                let mut ahead: VecDeque<OsString> = names(&target).collect();
                ahead.append(&mut steps);
                steps = ahead;
            } else {
                if kind == FileType::RegularFile && steps.is_empty() {
                    let place = self.note(&found, OsStr::new(""), FILE)?;
                    self.places.insert(place);
                }
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Watches a folder for a name, or a file.
    fn note(&self, at: &OwnedFd, name: &OsStr, flags: WatchFlags) -> Result<Place, Unwatched> {
        let refused = |error| Unwatched::Refused {
            folder: shown(at),
            error,
        };
        // Before anything is locked: one of another machine may take its time.
        let kind = fstatfs(at).map_err(refused)?.f_type;
        if !LOCAL.contains(&kind) {
            return Err(Unwatched::FileSystem {
                folder: shown(at),
                kind: u64::try_from(kind).unwrap_or_default(),
            });
        }
        // What is open, and not what has its path by now.
        let link = format!("/proc/self/fd/{}", at.as_raw_fd());
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let watch = inotify::add_watch(self.inotify, &*link, flags);
        let watch = watch.map_err(|error| match error {
            Errno::NOSPC => Unwatched::Limit,
            error => refused(error),
        })?;
        let place = (watch, name.to_owned());
        table.note(&place, self.ear);
        Ok(place)
    }
}

/// The names of a path, with `..`.
fn names(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

/// The path of what is open, for a log line.
fn shown(at: &OwnedFd) -> String {
    let link = format!("/proc/self/fd/{}", at.as_raw_fd());
    let path = readlinkat(CWD, &*link, Vec::new());
    path.map_or_else(
        |_unknown| "a folder".to_owned(),
        |path| path.to_string_lossy().into_owned(),
    )
}
