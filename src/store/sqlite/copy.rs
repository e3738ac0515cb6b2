//! A copy of the whole database in one file, while another process may be writing: what a backup is.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use rustix::fs::{AtFlags, CWD, RenameFlags, linkat, renameat_with, unlink};
use rustix::io::Errno;

use super::files::{failed, lock, make_directory};
use super::rows::{read_head, read_revision};
use super::{Database, FILE_NAME};
use crate::resource::Revision;
use crate::store::StoreError;

/// What a database holds, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Objects.
    pub objects: u64,
    /// The revision of the last change.
    pub revision: Revision,
    /// Audit records.
    pub records: u64,
}

impl Database {
    /// Opens a copy to look at it.
    ///
    /// # Errors
    /// As [`Database::open_to_read`]; [`StoreError::Io`] where there is no such file, and
    /// [`StoreError::Damaged`] for one that is not whole.
    pub fn open_copy(path: &Path) -> Result<Self, StoreError> {
        let damaged = |detail: String| StoreError::Damaged {
            path: path.to_owned(),
            detail,
            source: None,
        };
        let database = Self::open_file(path)?.ok_or_else(|| {
            if path.exists() {
                damaged("it is empty".to_owned())
            } else {
                io_error("open", path)(io::ErrorKind::NotFound.into())
            }
        })?;
        let reader = database
            .reader
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let verdict: String = reader
            .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
            .map_err(failed(path, "read"))?;
        drop(reader);
        if verdict != "ok" {
            return Err(damaged("it is not a whole SQLite database".to_owned()));
        }
        Ok(database)
    }

    /// What there is in it.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn summary(&self) -> Result<Summary, StoreError> {
        self.read(|conn| {
            let objects = "SELECT count(*) FROM resource";
            let objects: i64 = conn.query_row(objects, [], |row| row.get(0))?;
            Ok(Summary {
                objects: u64::try_from(objects).unwrap_or_default(),
                revision: read_revision(conn)?,
                records: read_head(conn)?.count,
            })
        })
    }

    /// Writes all of it into a new file with mode 0600, as it is at one moment. It is on disk, whole
    /// and looked through when it has its name; a file of that name is never replaced.
    ///
    /// # Errors
    /// [`StoreError::Io`], where something has that name above all; [`StoreError::Full`];
    /// [`StoreError::Damaged`]. Nothing is left behind then.
    pub fn copy(&self, to: &Path) -> Result<Summary, StoreError> {
        let draft = draft_of(to);
        let written = self.write_draft(&draft).and_then(|summary| {
            give_name(&draft, to).map_err(|error| io_error("make", to)(error.into()))?;
            settle_folder(to)?;
            Ok(summary)
        });
        if written.is_err() {
            // It may never have been there.
            let _removed = std::fs::remove_file(&draft);
        }
        written
    }

    fn write_draft(&self, draft: &Path) -> Result<Summary, StoreError> {
        let name = draft
            .to_str()
            .ok_or_else(|| io_error("write", draft)(io::Error::other("the path is not UTF-8")))?;
        // SQLite takes a file without content, and it is for its owner only from the start.
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(draft)
            .map_err(io_error("make", draft))?;
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        // One read of all, which leaves out what was deleted. (SQLite, "VACUUM INTO")
        reader
            .execute("VACUUM INTO ?1", [name])
            .map_err(failed(draft, "write"))?;
        drop(reader);
        file.sync_all().map_err(io_error("write", draft))?;
        Self::open_copy(draft)?.summary()
    }
}

/// Puts a copy into the place of the database in a data directory that has none. The directory is
/// made where it is missing, and no gateway can start in it meanwhile.
///
/// # Errors
/// [`StoreError::Occupied`] where there is a database, or what is left of one;
/// [`StoreError::InUse`]; and those of [`Database::copy`].
pub fn restore(copy: &Database, data_dir: &Path) -> Result<Summary, StoreError> {
    make_directory(data_dir)?;
    let _lock = lock(data_dir)?;
    let path = data_dir.join(FILE_NAME);
    for suffix in ["", "-wal", "-journal"] {
        let path = data_dir.join(format!("{FILE_NAME}{suffix}"));
        if path.symlink_metadata().is_ok() {
            return Err(StoreError::Occupied { path });
        }
    }
    copy.copy(&path)
}

/// Gives a file its name, if nothing has it.
fn give_name(draft: &Path, to: &Path) -> Result<(), Errno> {
    match renameat_with(CWD, draft, CWD, to, RenameFlags::NOREPLACE) {
        // NFS, and some file systems of user space, cannot; a link replaces nothing either.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            linkat(CWD, draft, CWD, to, AtFlags::empty())?;
            unlink(draft)
        }
        named => named,
    }
}

/// The name under which a file is written until it is whole.
fn draft_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    PathBuf::from(name)
}

fn settle_folder(path: &Path) -> Result<(), StoreError> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let folder = folder.unwrap_or_else(|| Path::new("."));
    let settled = File::open(folder).and_then(|folder| folder.sync_all());
    settled.map_err(io_error("write", folder))
}

fn io_error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tempfile::TempDir;

    use super::super::super::contract::{chain_key, commit, named, put};
    use super::super::super::{Expect, Store};
    use super::*;
    use crate::resource::Kind;

    /// A data directory with so many routes, whose store is open.
    fn filled(count: usize) -> (TempDir, super::super::Sqlite) {
        let dir = TempDir::new().unwrap();
        let store = Database::open(dir.path()).unwrap().into_store(chain_key());
        for number in 0..count {
            let id = number.to_string();
            commit(&store, vec![put(Kind::Route, &id, named("x"), Expect::Any)]).unwrap();
        }
        (dir, store)
    }

    fn copied(dir: &TempDir, to: &Path) -> Result<Summary, StoreError> {
        Database::open_to_read(dir.path())
            .unwrap()
            .unwrap()
            .copy(to)
    }

    #[test]
    fn copy_beside_a_writer_is_whole_and_for_its_owner_only() {
        let (dir, store) = filled(3);
        let to = dir.path().join("copy");
        let told = copied(&dir, &to).unwrap();
        assert_eq!((told.objects, told.revision.0, told.records), (3, 3, 3));
        assert_eq!(to.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        commit(&store, vec![put(Kind::Route, "9", named("y"), Expect::Any)]).unwrap();
        assert_eq!(Database::open_copy(&to).unwrap().summary().unwrap(), told);
        // It is never replaced, and nothing is left beside it.
        let before = std::fs::read(&to).unwrap();
        let refused = copied(&dir, &to).unwrap_err();
        assert!(matches!(refused, StoreError::Io { .. }), "{refused:?}");
        assert_eq!(std::fs::read(&to).unwrap(), before);
        let names = std::fs::read_dir(dir.path()).unwrap();
        let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        assert!(
            !names
                .iter()
                .any(|name| name.to_str().unwrap().contains("partial")),
            "{names:?}"
        );
        copied(&dir, &dir.path().join("none/copy")).unwrap_err();
    }

    #[test]
    fn copy_is_restored_where_nothing_is_and_goes_on() {
        let (dir, store) = filled(2);
        let to = dir.path().join("copy");
        copied(&dir, &to).unwrap();
        let (base, copy) = (TempDir::new().unwrap(), Database::open_copy(&to).unwrap());
        let other = base.path().join("data");
        let told = restore(&copy, &other).unwrap();
        assert_eq!(told.objects, 2);
        let restored = Database::open(&other).unwrap().into_store(chain_key());
        restored.audit_verify().unwrap();
        commit(
            &restored,
            vec![put(Kind::Route, "9", named("y"), Expect::Any)],
        )
        .unwrap();
        assert_eq!(restored.audit_verify().unwrap().count, 3);
        assert!(matches!(
            restore(&copy, &other),
            Err(StoreError::InUse { .. })
        ));
        drop(restored);
        assert!(matches!(
            restore(&copy, &other),
            Err(StoreError::Occupied { .. })
        ));
        // What is left of a database would be read into the restored one.
        std::fs::rename(other.join(FILE_NAME), base.path().join("away")).unwrap();
        std::fs::write(other.join(format!("{FILE_NAME}-wal")), "x").unwrap();
        assert!(matches!(
            restore(&copy, &other),
            Err(StoreError::Occupied { .. })
        ));
        drop(store);
    }

    #[test]
    fn what_is_no_whole_copy_is_refused() {
        let (dir, _store) = filled(50);
        let to = dir.path().join("copy");
        copied(&dir, &to).unwrap();
        let whole = std::fs::read(&to).unwrap();
        let refused = |bytes: &[u8]| {
            let path = dir.path().join("other");
            std::fs::write(&path, bytes).unwrap();
            Database::open_copy(&path)
                .expect_err("it is refused")
                .to_string()
        };
        assert!(refused(&whole[..whole.len() / 2]).contains("is damaged"));
        assert!(
            refused(b"no database, but long enough to be looked at as one").contains("damaged")
        );
        assert!(refused(b"").contains("it is empty"));
        let mut altered = whole.clone();
        let at = altered.len() / 2;
        altered[at..at + 512].fill(0xaa);
        assert!(refused(&altered).contains("is damaged"));
        let missing = Database::open_copy(&dir.path().join("none")).unwrap_err();
        assert!(matches!(missing, StoreError::Io { .. }), "{missing:?}");
    }
}
