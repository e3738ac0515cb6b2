//! The files of the data directory, and whether they are ours.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::super::StoreError;

/// The name of the file in the data directory whose lock says that it is in use.
const LOCK_NAME: &str = "lock";

/// `PRAGMA application_id` of our files: "PCLS".
const APPLICATION_ID: i64 = 0x5043_4c53;

/// How long a connection waits for another: a program that looks into the file from outside.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What leads from each schema version (`PRAGMA user_version`) to the next, 0 being an empty file.
const MIGRATIONS: [&str; 2] = [
    "
    CREATE TABLE resource (
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        document TEXT NOT NULL,
        created INTEGER NOT NULL,
        modified INTEGER NOT NULL,
        PRIMARY KEY (kind, id)
    ) STRICT;
    CREATE TABLE audit (
        seq INTEGER PRIMARY KEY,
        time_ms INTEGER NOT NULL,
        actor TEXT NOT NULL,
        request_id TEXT NOT NULL,
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        action TEXT NOT NULL,
        changed TEXT NOT NULL,
        weakens TEXT NOT NULL,
        revision INTEGER NOT NULL,
        mac BLOB NOT NULL
    ) STRICT;
    CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), revision INTEGER NOT NULL) STRICT;
    INSERT INTO head VALUES (1, 0);
",
    "
    ALTER TABLE resource ADD COLUMN expires INTEGER;
    CREATE INDEX resource_expires ON resource (expires) WHERE expires IS NOT NULL;
",
];

/// What a file of each earlier version lacks for those who only read it. SQLite looks for names in
/// `temp` first, and that is writable where the file is not.
const SHIMS: [&str; 1] =
    ["CREATE TEMP VIEW resource AS SELECT *, NULL AS expires FROM main.resource"];

/// Makes a data directory, for its owner only; one that is there stays as it is.
///
/// # Errors
/// [`StoreError::Io`].
pub fn make_directory(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| StoreError::Io {
            action: "make the data directory",
            path: path.to_owned(),
            source,
        })
}

/// Makes the database file before SQLite would, to have it for its owner only from the start.
/// SQLite gives its companion files the same mode.
pub(super) fn make_file(data_dir: &Path, path: &Path) -> Result<(), StoreError> {
    let make = || {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        if file.metadata()?.permissions().mode() & 0o077 != 0 {
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        // So that the name is on disk too.
        File::open(data_dir)?.sync_all()
    };
    make().map_err(|source| StoreError::Io {
        action: "make",
        path: path.to_owned(),
        source,
    })
}

/// Removes a database file with its companions; those that are not there are no fault.
pub(super) fn remove_files(path: &Path) -> Result<(), StoreError> {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::remove_file(&name) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(StoreError::Io {
                    action: "remove",
                    path: name.into(),
                    source,
                });
            }
        }
    }
    Ok(())
}

/// The process that has the lock of a data directory, where one has it. Takes no lock itself: a
/// gateway that starts at this moment would be refused.
#[must_use]
pub fn holder(data_dir: &Path) -> Option<u32> {
    let noted = std::fs::read_to_string(data_dir.join(LOCK_NAME)).ok()?;
    let process = noted.trim();
    // proc_locks(5): `1: FLOCK ADVISORY WRITE 1234 …`
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let is_held = locks.lines().any(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        words.get(1) == Some(&"FLOCK") && words.get(4) == Some(&process)
    });
    process.parse().ok().filter(|_| is_held)
}

/// Takes the lock of a data directory, and writes into its file who has it.
pub(super) fn lock(data_dir: &Path) -> Result<File, StoreError> {
    let path = data_dir.join(LOCK_NAME);
    let io = |action, source| StoreError::Io {
        action,
        path: path.clone(),
        source,
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|source| io("make", source))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let known = file.read_to_string(&mut holder).is_ok();
            let holder = holder.trim().parse().ok().filter(|_| known);
            return Err(StoreError::InUse {
                path: data_dir.to_owned(),
                holder,
            });
        }
        Err(TryLockError::Error(source)) => return Err(io("lock", source)),
    }
    let mut note = || {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    note().map_err(|source| io("write", source))?;
    Ok(file)
}

pub(super) fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let open = || {
        let conn = Connection::open_with_flags(path, flags)?;
        conn.busy_timeout(BUSY_TIMEOUT)?;
        Ok(conn)
    };
    open().map_err(failed(path, "open"))
}

/// The schema version of a file that is ours; 0 for one without content.
pub(super) fn identify(path: &Path, conn: &Connection) -> Result<i64, StoreError> {
    let ask = |query| conn.query_row(query, [], |row| row.get::<_, i64>(0));
    let facts = || {
        Ok((
            ask("PRAGMA application_id")?,
            ask("PRAGMA user_version")?,
            ask("SELECT count(*) FROM sqlite_schema")?,
        ))
    };
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    match facts().map_err(failed(path, "read"))? {
        (0, 0, 0) => Ok(0),
        (APPLICATION_ID, found, _) if found > known => Err(StoreError::Newer {
            path: path.to_owned(),
            found,
            known,
        }),
        (APPLICATION_ID, found, _) if found > 0 => Ok(found),
        _ => Err(StoreError::Foreign {
            path: path.to_owned(),
        }),
    }
}

/// Lets a connection that only reads see a file of schema version `found` as one of the newest.
pub(super) fn shim(conn: &Connection, found: i64) -> rusqlite::Result<()> {
    let older = (1_i64..).zip(SHIMS);
    older
        .filter(|(version, _)| *version >= found)
        .try_for_each(|(_, shim)| conn.execute_batch(shim))
}

/// Brings a file from schema version `found` to the newest.
pub(super) fn prepare(conn: &mut Connection, found: i64) -> rusqlite::Result<()> {
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for (version, migration) in (1_i64..)
        .zip(MIGRATIONS)
        .filter(|(version, _)| *version > found)
    {
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", version)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.commit()
}

/// An adapter for `map_err`: what SQLite's answer means, with the file and what was tried.
pub(super) fn failed(path: &Path, action: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |source| {
        let (path, code) = (path.to_owned(), source.sqlite_error_code());
        let is = |wanted| code == Some(wanted);
        if let rusqlite::Error::IntegralValueOutOfRange(..) = source {
            let detail = "it holds a negative number where none can be".to_owned();
            StoreError::Damaged {
                path,
                detail,
                source: Some(source),
            }
        } else if is(ErrorCode::DatabaseCorrupt) || is(ErrorCode::NotADatabase) {
            let detail = "it is not a whole SQLite database".to_owned();
            StoreError::Damaged {
                path,
                detail,
                source: Some(source),
            }
        } else if is(ErrorCode::DiskFull) {
            StoreError::Full { path, source }
        } else {
            StoreError::Sqlite {
                action,
                path,
                source,
            }
        }
    }
}

/// The error of a commit that failed: its last frame may be in the log without having been synced,
/// and is applied then by the next start (SQLite, "Write-Ahead Logging").
pub(super) fn unconfirmed(path: &Path) -> impl Fn(rusqlite::Error) -> StoreError {
    move |source| match source.sqlite_error_code() {
        // The last frame did not fit.
        Some(ErrorCode::DiskFull) => failed(path, "write")(source),
        _ => StoreError::Unsure {
            path: path.to_owned(),
            source,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use tempfile::TempDir;

    use super::super::super::contract::{chain_key, commit, named, put};
    use super::super::super::{Expect, Store};
    use super::super::{Database, FILE_NAME};
    use super::*;
    use crate::resource::Kind;

    fn outside(dir: &TempDir) -> Connection {
        Connection::open(dir.path().join(FILE_NAME)).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn files_are_for_their_owner_only() {
        let base = TempDir::new().unwrap();
        let dir = base.path().join("a/data");
        let store = Database::open(&dir).unwrap().into_store(chain_key());
        commit(&store, vec![put(Kind::Route, "1", named("x"), Expect::Any)]).unwrap();
        assert_eq!(mode(&dir), 0o700);
        let mut names = Vec::new();
        for entry in dir.read_dir().unwrap() {
            let entry = entry.unwrap();
            assert_eq!(mode(&entry.path()), 0o600, "{:?}", entry.path());
            names.push(entry.file_name().into_string().unwrap());
        }
        assert!(names.contains(&format!("{FILE_NAME}-wal")), "{names:?}");
    }

    #[test]
    fn file_that_others_can_read_is_closed_to_them() {
        let dir = TempDir::new().unwrap();
        drop(Database::open(dir.path()).unwrap());
        let path = dir.path().join(FILE_NAME);
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        drop(Database::open(dir.path()).unwrap());
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn second_opening_is_refused_until_the_first_ends() {
        let dir = TempDir::new().unwrap();
        let first = Database::open(dir.path()).unwrap();
        let refusal = Database::open(dir.path()).unwrap_err();
        let pid = std::process::id();
        assert!(matches!(refusal, StoreError::InUse { holder: Some(found), .. } if found == pid));
        assert!(
            refusal
                .to_string()
                .contains("in use by another process (pid "),
            "{refusal}"
        );
        drop(first);
        assert!(Database::open(dir.path()).is_ok());
    }

    #[test]
    fn damaged_file_is_refused_and_left_as_it_is() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join(FILE_NAME);
        let content = vec![0x5a; 8192];
        std::fs::write(&path, &content).unwrap();
        let refusal = Database::open(dir.path()).unwrap_err();
        assert!(refusal.to_string().contains("is damaged"), "{refusal}");
        assert!(refusal.source().is_some());
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }

    #[test]
    fn database_of_another_program_is_refused() {
        let dir = TempDir::new().unwrap();
        outside(&dir)
            .execute_batch("CREATE TABLE t (a); PRAGMA user_version = 1")
            .unwrap();
        assert!(matches!(
            Database::open(dir.path()),
            Err(StoreError::Foreign { .. })
        ));
        assert!(matches!(
            Database::open_to_read(dir.path()),
            Err(StoreError::Foreign { .. })
        ));
    }

    #[test]
    fn later_schema_is_refused() {
        let dir = TempDir::new().unwrap();
        drop(Database::open(dir.path()).unwrap());
        outside(&dir)
            .pragma_update(None, "user_version", 99)
            .unwrap();
        let refusal = Database::open(dir.path()).unwrap_err();
        assert!(
            matches!(
                refusal,
                StoreError::Newer {
                    found: 99,
                    known: 2,
                    ..
                }
            ),
            "{refusal}"
        );
        outside(&dir)
            .pragma_update(None, "user_version", 2)
            .unwrap();
        assert!(Database::open(dir.path()).is_ok());
    }

    #[test]
    fn file_of_an_earlier_version_is_read_as_it_is_and_brought_up_to_be_written() {
        let dir = TempDir::new().unwrap();
        let earlier = outside(&dir);
        earlier.execute_batch(MIGRATIONS[0]).unwrap();
        earlier
            .execute_batch(
                "PRAGMA user_version = 1;
                 INSERT INTO resource VALUES ('routes', '1', '{}', 1, 2)",
            )
            .unwrap();
        earlier
            .pragma_update(None, "application_id", APPLICATION_ID)
            .unwrap();
        drop(earlier);
        let look = || {
            let reader = Database::open_to_read(dir.path()).unwrap().unwrap();
            let reader = reader.into_store(chain_key());
            let found = reader.find(Kind::Route, &"1".parse().unwrap()).unwrap();
            assert_eq!(reader.expiring(9).unwrap(), []);
            (reader.load().unwrap().objects, found)
        };
        let (before, found) = look();
        assert_eq!((before.len(), before[0].expires), (1, None));
        assert_eq!(found.as_ref(), before.first());
        let writer = Database::open(dir.path()).unwrap().into_store(chain_key());
        commit(
            &writer,
            vec![put(Kind::Route, "2", named("x"), Expect::Any)],
        )
        .unwrap();
        drop(writer);
        let (after, _) = look();
        assert_eq!(after[0], before[0]);
        assert_eq!(after.len(), 2);
    }

    #[test]
    fn commits_are_synchronous() {
        let dir = TempDir::new().unwrap();
        let database = Database::open(dir.path()).unwrap();
        let writer = database.writer().unwrap();
        let ask = |name| -> String {
            writer
                .pragma_query_value(None, name, |row| {
                    row.get::<_, rusqlite::types::Value>(0)
                        .map(|value| format!("{value:?}"))
                })
                .unwrap()
        };
        assert_eq!(
            (ask("journal_mode"), ask("synchronous")),
            ("Text(\"wal\")".to_owned(), "Integer(2)".to_owned())
        );
    }
}
