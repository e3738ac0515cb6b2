//! The embedded store: one SQLite file in the data directory.
//!
//! WAL with `synchronous=FULL`: a commit has reached the disk when it returns. One connection
//! writes, another reads beside it. A lock on the directory keeps a second process away; the files
//! are for their owner only.
//!
//! Opening has two steps, because the key of the audit chain is found only once it is known what
//! the file holds: [`Database`], then [`Database::into_store`].

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{
    Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params,
};

use self::files::{
    connect, failed, identify, lock, make_file, prepare, remove_files, shim, unconfirmed,
};
pub use self::files::{holder, make_directory};
use self::rows::{
    RECORD_COLUMNS, RawExpiring, RawRecord, RawStored, STORED_COLUMNS, filter_rows, limit_number,
    list_rows, number, read_head, read_revision, read_revisions, write_record,
};
use super::audit::{self, ChainKey, Entry, Head, Origin, Record, VerifyError};
use super::{Change, Commit, Committed, Expiring, Loaded, Mutation, Outcome, Resealed, Selected};
use super::{Selection, Store, StoreError, Stored};
use crate::resource::{Id, Kind, Revision};

pub mod copy;
mod files;
mod rows;

/// The name of the database file in the data directory.
pub const FILE_NAME: &str = "portcullis.db";

/// An open database, before its audit key is known.
#[derive(Debug)]
pub struct Database {
    path: PathBuf,
    reader: Mutex<Connection>,
    writer: Option<Writer>,
}

#[derive(Debug)]
struct Writer {
    conn: Mutex<Connection>,
    /// Held, not used: the lock ends with the file handle.
    _lock: File,
}

impl Database {
    /// Opens the database of a data directory, makes both where they are missing, and keeps every
    /// other process away until dropped.
    ///
    /// A directory made here has mode 0700; the mode of an existing one is left alone. The files
    /// have mode 0600.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while another process has it; [`StoreError::Newer`],
    /// [`StoreError::Foreign`] and [`StoreError::Damaged`] for a file that cannot be used;
    /// [`StoreError::Io`].
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        make_directory(data_dir)?;
        let lock = lock(data_dir)?;
        Self::open_locked(data_dir, lock)
    }

    /// Opens the database of a data directory as [`Database::open`] does, and leaves nothing of what
    /// it held: for what is read from elsewhere at each start.
    ///
    /// # Errors
    /// As [`Database::open`].
    pub fn open_empty(data_dir: &Path) -> Result<Self, StoreError> {
        make_directory(data_dir)?;
        let lock = lock(data_dir)?;
        remove_files(&data_dir.join(FILE_NAME))?;
        Self::open_locked(data_dir, lock)
    }

    fn open_locked(data_dir: &Path, lock: File) -> Result<Self, StoreError> {
        let path = data_dir.join(FILE_NAME);
        make_file(data_dir, &path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut writer = connect(&path, flags)?;
        let version = identify(&path, &writer)?;
        prepare(&mut writer, version).map_err(failed(&path, "prepare"))?;
        let reader = connect(
            &path,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        let writer = Some(Writer {
            conn: Mutex::new(writer),
            _lock: lock,
        });
        Ok(Self {
            path,
            reader: Mutex::new(reader),
            writer,
        })
    }

    /// Opens the database of a data directory to look at it, also while another process has it.
    ///
    /// Nothing is made; `None` when there is no database. Commits get [`StoreError::ReadOnly`].
    ///
    /// # Errors
    /// As [`Database::open`], but never [`StoreError::InUse`].
    pub fn open_to_read(data_dir: &Path) -> Result<Option<Self>, StoreError> {
        Self::open_file(&data_dir.join(FILE_NAME))
    }

    /// The same for a file of any name.
    fn open_file(path: &Path) -> Result<Option<Self>, StoreError> {
        match std::fs::metadata(path) {
            // A file without content was made by a process that has not come further.
            Ok(found) if found.len() == 0 => return Ok(None),
            Ok(_) => {}
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(StoreError::Io {
                    action: "look at",
                    path: path.to_owned(),
                    source,
                });
            }
        }
        let reader = connect(
            path,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        match identify(path, &reader)? {
            0 => Ok(None),
            found => {
                shim(&reader, found).map_err(failed(path, "read"))?;
                Ok(Some(Self {
                    path: path.to_owned(),
                    reader: Mutex::new(reader),
                    writer: None,
                }))
            }
        }
    }

    /// The store, with the key for its audit records.
    #[must_use]
    pub const fn into_store(self, chain: ChainKey) -> Sqlite {
        Sqlite {
            database: self,
            keys: Mutex::new(Keys {
                chain,
                retired: None,
            }),
        }
    }

    /// Whether any document holds `text` as it stands, such as the mark of sealed values.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn contains_text(&self, text: &str) -> Result<bool, StoreError> {
        self.read(|conn| {
            conn.query_row(
                "SELECT EXISTS (SELECT 1 FROM resource WHERE instr(document, ?1) > 0)",
                [text],
                |row| row.get(0),
            )
        })
    }

    /// As [`Store::meta_find`].
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn meta_find(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.read(|conn| {
            conn.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| {
                row.get(0)
            })
            .optional()
        })
    }

    /// As [`Store::meta_put`].
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn meta_put(&self, name: &str, value: &str) -> Result<(), StoreError> {
        let writer = self.writer()?;
        self.put_note(&writer, name, value)
    }

    fn put_note(&self, conn: &Connection, name: &str, value: &str) -> Result<(), StoreError> {
        conn.execute(
            "INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)",
            [name, value],
        )
        .map_err(failed(&self.path, "write"))?;
        Ok(())
    }

    fn remove_note(&self, conn: &Connection, name: &str) -> Result<(), StoreError> {
        conn.execute("DELETE FROM meta WHERE name = ?1", [name])
            .map_err(failed(&self.path, "write"))?;
        Ok(())
    }

    /// Replaces one thing that is as it was read.
    fn reseal(&self, transaction: &Transaction<'_>, one: &Resealed) -> Result<(), StoreError> {
        let done = match one {
            Resealed::Object(stored) => {
                let (kind, id) = (stored.kind, &stored.id);
                let document = serde_json::to_string(&stored.document);
                let document = document.map_err(|source| StoreError::Encode {
                    kind,
                    id: id.clone(),
                    source,
                })?;
                transaction.execute(
                    "UPDATE resource SET document = ?1
                     WHERE kind = ?2 AND id = ?3 AND modified = ?4",
                    params![
                        document,
                        kind.plural(),
                        id.as_str(),
                        number(stored.modified.0)
                    ],
                )
            }
            Resealed::Note {
                name,
                before,
                after,
            } => transaction.execute(
                "UPDATE meta SET value = ?1 WHERE name = ?2 AND value = ?3",
                [after, name, before],
            ),
        };
        done.map(drop).map_err(failed(&self.path, "write"))
    }

    /// As [`Store::meta_remove`].
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn meta_remove(&self, name: &str) -> Result<(), StoreError> {
        let writer = self.writer()?;
        self.remove_note(&writer, name)
    }

    fn writer(&self) -> Result<MutexGuard<'_, Connection>, StoreError> {
        let writer = self.writer.as_ref().ok_or(StoreError::ReadOnly)?;
        // A transaction that a panic interrupted was rolled back when it was dropped.
        Ok(writer.conn.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn read<T>(
        &self,
        query: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        // One transaction, so that all queries see one state.
        reader
            .transaction()
            .and_then(|transaction| query(&transaction))
            .map_err(failed(&self.path, "read"))
    }

    fn damaged(&self, detail: String) -> StoreError {
        StoreError::Damaged {
            path: self.path.clone(),
            detail,
            source: None,
        }
    }

    fn decode(&self, raw: RawStored) -> Result<Stored, StoreError> {
        let name = format!("{}/{}", raw.kind, raw.id);
        raw.decode()
            .ok_or_else(|| self.damaged(format!("object {name} cannot be read")))
    }

    fn decode_record(&self, raw: RawRecord) -> Result<Record, StoreError> {
        let seq = raw.seq;
        raw.decode()
            .ok_or_else(|| self.damaged(format!("audit record {seq} cannot be read")))
    }

    fn records(&self, query: &str, numbers: (i64, i64)) -> Result<Vec<Record>, StoreError> {
        let rows = self.read(|conn| {
            conn.prepare_cached(query)?
                .query_map(numbers, RawRecord::read)?
                .collect()
        });
        let rows: Vec<RawRecord> = rows?;
        rows.into_iter()
            .map(|row| self.decode_record(row))
            .collect()
    }
}

/// A [`Store`] in an SQLite file.
#[derive(Debug)]
pub struct Sqlite {
    database: Database,
    keys: Mutex<Keys>,
}

/// What changes when the key-encryption key is replaced. Read and written under the writer's lock.
#[derive(Clone, Debug)]
struct Keys {
    chain: ChainKey,
    /// What nothing that is stored may hold any more.
    retired: Option<String>,
}

impl Keys {
    fn refuse_retired(&self, text: &str) -> Result<(), StoreError> {
        match &self.retired {
            Some(retired) if text.contains(retired) => Err(StoreError::KeyReplaced),
            Some(_) | None => Ok(()),
        }
    }
}

impl Sqlite {
    fn keys(&self) -> Keys {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.clone()
    }

    /// Applies one change inside `transaction`, as the mutation number `revision` if it gets one.
    fn apply(
        &self,
        transaction: &Transaction<'_>,
        keys: &Keys,
        origin: &Origin,
        change: Change,
        revision: Revision,
        head: &mut Head,
    ) -> Result<Outcome, StoreError> {
        let Change {
            mutation,
            changed,
            weakens,
        } = change;
        let (kind, id) = (mutation.kind(), mutation.id().clone());
        let current =
            read_revisions(transaction, kind, &id).map_err(failed(&self.database.path, "read"))?;
        let action = mutation.judge(current.map(|(_, modified)| modified))?;
        let created = current.map_or(revision, |(created, _)| created);
        let revision = match (action, current) {
            (audit::Action::Refresh, Some((_, modified))) => modified,
            (_, _) => revision,
        };
        let entry = Entry {
            origin,
            kind,
            id: &id,
            action,
            changed,
            weakens,
            revision,
        };
        let record = keys.chain.link(head, entry)?;
        match &mutation {
            Mutation::Put {
                document, expires, ..
            } => {
                let document =
                    serde_json::to_string(document).map_err(|source| StoreError::Encode {
                        kind,
                        id: id.clone(),
                        source,
                    })?;
                keys.refuse_retired(&document)?;
                transaction
                    .prepare_cached(
                        "INSERT OR REPLACE INTO resource
                             (kind, id, document, created, modified, expires)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    )
                    .and_then(|mut put| {
                        put.execute(params![
                            kind.plural(),
                            id.as_str(),
                            document,
                            number(created.0),
                            number(revision.0),
                            expires.map(number)
                        ])
                    })
            }
            Mutation::Delete { .. } => transaction
                .prepare_cached("DELETE FROM resource WHERE kind = ?1 AND id = ?2")
                .and_then(|mut delete| delete.execute([kind.plural(), id.as_str()])),
            Mutation::Refresh { note, value, .. } => {
                self.note(transaction, keys, note, value.as_deref())?;
                Ok(1)
            }
        }
        .and_then(|_| write_record(transaction, &record))
        .map_err(failed(&self.database.path, "write"))?;
        *head = Head::after(&record);
        Ok(Outcome {
            action,
            created,
            modified: revision,
        })
    }
}

impl Sqlite {
    /// Writes or removes a note inside a transaction.
    fn note(
        &self,
        conn: &Connection,
        keys: &Keys,
        name: &str,
        value: Option<&str>,
    ) -> Result<(), StoreError> {
        match value {
            Some(value) => {
                keys.refuse_retired(value)?;
                self.database.put_note(conn, name, value)
            }
            None => self.database.remove_note(conn, name),
        }
    }
}

impl Store for Sqlite {
    fn load(&self) -> Result<Loaded, StoreError> {
        let (objects, last) = self.database.read(|conn| {
            let objects: Vec<Result<Stored, StoreError>> = conn
                .prepare_cached(&format!("SELECT {STORED_COLUMNS} FROM resource"))?
                .query_map([], |row| {
                    RawStored::read(row).map(|raw| self.database.decode(raw))
                })?
                .collect::<Result<_, _>>()?;
            Ok((objects, read_revision(conn)?))
        })?;
        let mut objects = objects.into_iter().collect::<Result<Vec<_>, _>>()?;
        objects.sort_unstable_by(|a, b| (a.kind, &a.id).cmp(&(b.kind, &b.id)));
        Ok(Loaded {
            objects,
            revision: last,
        })
    }

    fn revision(&self) -> Result<Revision, StoreError> {
        self.database.read(|conn| read_revision(conn))
    }

    fn find(&self, kind: Kind, id: &Id) -> Result<Option<Stored>, StoreError> {
        let row = self.database.read(|conn| {
            conn.prepare_cached(&format!(
                "SELECT {STORED_COLUMNS} FROM resource WHERE kind = ?1 AND id = ?2"
            ))?
            .query_row([kind.plural(), id.as_str()], RawStored::read)
            .optional()
        })?;
        row.map(|row| self.database.decode(row)).transpose()
    }

    fn list(&self, kind: Kind, asked: &Selection) -> Result<Selected, StoreError> {
        // Ids first, then what lies under those of them that are shown.
        let selected = self.database.read(|conn| {
            let all = match &asked.filter {
                None => list_rows(conn, kind)?,
                Some(filter) => match filter_rows(conn, kind, filter)? {
                    Ok(all) => all,
                    Err(id) => return Ok(Err(id)),
                },
            };
            let total = all.len();
            let mut find = conn.prepare_cached(&format!(
                "SELECT {STORED_COLUMNS} FROM resource WHERE kind = ?1 AND id = ?2"
            ))?;
            let page = asked.cut(all, |row| row.created).into_iter();
            let page = page.map(|row| find.query_row([kind.plural(), &row.id], RawStored::read));
            Ok(Ok((page.collect::<Result<Vec<_>, _>>()?, total)))
        })?;
        let (page, total) = selected.map_err(|id| {
            self.database
                .damaged(format!("object {}/{id} cannot be read", kind.plural()))
        })?;
        let page = page.into_iter().map(|raw| self.database.decode(raw));
        Ok(Selected {
            objects: page.collect::<Result<_, _>>()?,
            total,
        })
    }

    fn commit_all(&self, commits: Vec<Commit>) -> Result<Vec<Committed>, StoreError> {
        let path = &self.database.path;
        let mut writer = self.database.writer()?;
        let transaction = writer
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed(path, "begin to write"))?;
        let keys = self.keys();
        let mut head = read_head(&transaction).map_err(failed(path, "read"))?;
        let before = read_revision(&transaction).map_err(failed(path, "read"))?;
        let mut last = before;
        let mut done = Vec::with_capacity(commits.len());
        for Commit { origin, changes } in commits {
            let mut outcomes = Vec::with_capacity(changes.len());
            for change in changes {
                let next = Revision(last.0.saturating_add(1));
                let outcome = self.apply(&transaction, &keys, &origin, change, next, &mut head)?;
                last = last.max(outcome.modified);
                outcomes.push(outcome);
            }
            done.push(Committed { outcomes, head });
        }
        if done.iter().all(|done| done.outcomes.is_empty()) {
            return Ok(done);
        }
        if last != before {
            transaction
                .execute("UPDATE head SET revision = ?1", [number(last.0)])
                .map_err(failed(path, "write"))?;
        }
        transaction.commit().map_err(unconfirmed(path))?;
        Ok(done)
    }

    fn expiring(&self, limit: usize) -> Result<Vec<Expiring>, StoreError> {
        let rows = self.database.read(|conn| {
            conn.prepare_cached(
                "SELECT kind, id, modified, expires FROM resource
                 WHERE expires IS NOT NULL ORDER BY expires LIMIT ?1",
            )?
            .query_map([limit_number(limit)], RawExpiring::read)?
            .collect::<Result<Vec<_>, _>>()
        })?;
        let decode = |raw: RawExpiring| {
            let name = format!("{}/{}", raw.kind, raw.id);
            raw.decode().ok_or_else(|| {
                let detail = format!("object {name} cannot be read");
                self.database.damaged(detail)
            })
        };
        rows.into_iter().map(decode).collect()
    }

    fn audit_tail(&self, limit: usize) -> Result<Vec<Record>, StoreError> {
        let query = format!(
            "SELECT {RECORD_COLUMNS} FROM audit WHERE seq >= ?1 ORDER BY seq DESC LIMIT ?2"
        );
        let mut records = self.database.records(&query, (0, limit_number(limit)))?;
        records.reverse();
        Ok(records)
    }

    fn audit_from(&self, first: u64, limit: usize) -> Result<Vec<Record>, StoreError> {
        let query =
            format!("SELECT {RECORD_COLUMNS} FROM audit WHERE seq >= ?1 ORDER BY seq LIMIT ?2");
        self.database
            .records(&query, (number(first), limit_number(limit)))
    }

    fn audit_head(&self) -> Result<Head, StoreError> {
        self.database.read(|conn| read_head(conn))
    }

    fn audit_verify(&self) -> Result<Head, VerifyError> {
        let chain = self.keys().chain;
        let verdict = audit::verify_all(self, &chain);
        let now = self.keys().chain;
        // The key was replaced meanwhile: what came after is under that one.
        if verdict.is_err() && now.parts() != chain.parts() {
            return audit::verify_all(self, &now);
        }
        verdict
    }

    fn meta_find(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.database.meta_find(name)
    }

    fn meta_put(&self, name: &str, value: &str) -> Result<(), StoreError> {
        let writer = self.database.writer()?;
        self.keys().refuse_retired(value)?;
        self.database.put_note(&writer, name, value)
    }

    fn meta_remove(&self, name: &str) -> Result<(), StoreError> {
        self.database.meta_remove(name)
    }

    fn objects_with(
        &self,
        text: &str,
        after: Option<(Kind, &Id)>,
        limit: usize,
    ) -> Result<Vec<Stored>, StoreError> {
        let (kind, id) = after.map_or(("", ""), |(kind, id)| (kind.plural(), id.as_str()));
        let rows: Vec<RawStored> = self.database.read(|conn| {
            conn.prepare_cached(&format!(
                "SELECT {STORED_COLUMNS} FROM resource
                 WHERE (kind, id) > (?1, ?2) AND instr(document, ?3) > 0
                 ORDER BY kind, id LIMIT ?4"
            ))?
            .query_map(
                params![kind, id, text, limit_number(limit)],
                RawStored::read,
            )?
            .collect()
        })?;
        let rows = rows.into_iter();
        rows.map(|row| self.database.decode(row)).collect()
    }

    fn notes_with(
        &self,
        text: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, String)>, StoreError> {
        self.database.read(|conn| {
            conn.prepare_cached(
                "SELECT name, value FROM meta WHERE name > ?1 AND instr(value, ?2) > 0
                 ORDER BY name LIMIT ?3",
            )?
            .query_map(
                params![after.unwrap_or_default(), text, limit_number(limit)],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?
            .collect()
        })
    }

    fn reseal(&self, resealed: &[Resealed]) -> Result<(), StoreError> {
        let path = &self.database.path;
        let mut writer = self.database.writer()?;
        let transaction = writer
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed(path, "begin to write"))?;
        for one in resealed {
            self.database.reseal(&transaction, one)?;
        }
        transaction.commit().map_err(unconfirmed(path))
    }

    fn change_key(
        &self,
        chain: ChainKey,
        notes: &[(&str, Option<String>)],
        retired: &str,
    ) -> Result<bool, StoreError> {
        let path = &self.database.path;
        let mut writer = self.database.writer()?;
        let transaction = writer
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed(path, "begin to write"))?;
        for (name, value) in notes {
            match value {
                Some(value) => self.database.put_note(&transaction, name, value)?,
                None => self.database.remove_note(&transaction, name)?,
            }
        }
        let holds: bool = transaction
            .query_row(
                "SELECT EXISTS (SELECT 1 FROM resource WHERE instr(document, ?1) > 0)
                 OR EXISTS (SELECT 1 FROM meta WHERE instr(value, ?1) > 0)",
                [retired],
                |row| row.get(0),
            )
            .map_err(failed(path, "read"))?;
        let head = read_head(&transaction).map_err(failed(path, "read"))?;
        if holds || head.count != chain.begins_after() {
            return Ok(false);
        }
        transaction.commit().map_err(unconfirmed(path))?;
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = Keys {
            chain,
            retired: Some(retired.to_owned()),
        };
        // Pages that were overwritten hold what the former key opens, until they are used again.
        let cleaned = writer.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)");
        if let Err(error) = cleaned {
            tracing::warn!(%error, "what the former key has sealed may be left in the files");
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tempfile::TempDir;

    use super::super::contract::{self, chain_key, commit, id, named, put};
    use super::super::{Expect, Filter, audit};
    use super::*;
    use crate::resource::Document;

    fn open(dir: &TempDir) -> Sqlite {
        Database::open(dir.path()).unwrap().into_store(chain_key())
    }

    fn outside(dir: &TempDir) -> Connection {
        Connection::open(dir.path().join(FILE_NAME)).unwrap()
    }

    #[test]
    fn sqlite_keeps_the_contract() {
        let dirs = std::cell::RefCell::new(Vec::new());
        contract::suite(|chain| {
            let dir = TempDir::new().unwrap();
            let store = Database::open(dir.path()).unwrap().into_store(chain);
            dirs.borrow_mut().push(dir);
            Box::new(store)
        });
    }

    #[test]
    fn opening_empty_leaves_nothing_and_waits_for_nobody() {
        let dir = TempDir::new().unwrap();
        let before = open(&dir);
        commit(
            &before,
            vec![put(Kind::Route, "1", named("old"), Expect::Any)],
        )
        .unwrap();
        // Not under another process's feet.
        let refused = Database::open_empty(dir.path()).map(|_| ());
        assert!(
            matches!(refused, Err(StoreError::InUse { .. })),
            "{refused:?}"
        );
        assert_eq!(before.load().unwrap().objects.len(), 1);
        drop(before);
        let after = Database::open_empty(dir.path()).unwrap();
        let after = after.into_store(chain_key());
        assert_eq!(after.load().unwrap().objects.len(), 0);
        assert_eq!(after.revision().unwrap(), Revision::default());
    }

    #[test]
    fn reopening_brings_everything_back() {
        let dir = TempDir::new().unwrap();
        let text = r#"{"z":1.0,"a":1e3,"big":123456789012345678901234567890}"#;
        let document: Document = serde_json::from_str(text).unwrap();
        let before = open(&dir);
        commit(
            &before,
            vec![put(Kind::Route, "1", document.clone(), Expect::Any)],
        )
        .unwrap();
        commit(
            &before,
            vec![put(Kind::Secret, "vault/1", named("s"), Expect::Any)],
        )
        .unwrap();
        let gone = Mutation::Delete {
            kind: Kind::Secret,
            id: id("vault/1"),
            expect: Expect::Any,
        };
        commit(&before, vec![gone]).unwrap();
        before.meta_put("note", "kept").unwrap();
        let (records, head) = (before.audit_tail(9).unwrap(), before.audit_head().unwrap());
        drop(before);

        let after = open(&dir);
        let loaded = after.load().unwrap();
        assert_eq!(loaded.revision, Revision(3));
        assert_eq!(loaded.objects.len(), 1);
        assert_eq!(
            serde_json::to_string(&loaded.objects[0].document).unwrap(),
            serde_json::to_string(&document).unwrap()
        );
        assert_eq!(after.audit_tail(9).unwrap(), records);
        assert_eq!(after.audit_head().unwrap(), head);
        assert_eq!(after.meta_find("note").unwrap().as_deref(), Some("kept"));
        let next = commit(&after, vec![put(Kind::Route, "2", named("n"), Expect::Any)]).unwrap();
        assert_eq!(
            (next.outcomes[0].modified, next.head.count),
            (Revision(4), 4)
        );
        assert!(audit::verify(&after.audit_tail(9).unwrap(), &chain_key()).is_ok());
    }

    #[test]
    fn reader_looks_beside_the_writer_and_never_writes() {
        let dir = TempDir::new().unwrap();
        assert!(Database::open_to_read(dir.path()).unwrap().is_none());
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
        let writer = open(&dir);
        commit(
            &writer,
            vec![put(Kind::Route, "1", named("x"), Expect::Any)],
        )
        .unwrap();
        let reader = Database::open_to_read(dir.path())
            .unwrap()
            .unwrap()
            .into_store(chain_key());
        assert_eq!(
            reader.load().unwrap().objects,
            writer.load().unwrap().objects
        );
        let refusal = commit(
            &reader,
            vec![put(Kind::Route, "2", named("x"), Expect::Any)],
        );
        assert!(matches!(refusal, Err(StoreError::ReadOnly)));
        assert!(matches!(
            reader.meta_put("a", "b"),
            Err(StoreError::ReadOnly)
        ));
        assert!(
            commit(
                &writer,
                vec![put(Kind::Route, "2", named("x"), Expect::Any)]
            )
            .is_ok()
        );
        assert_eq!(reader.revision().unwrap(), Revision(2));
    }

    #[test]
    fn object_that_cannot_be_read_is_named() {
        let dir = TempDir::new().unwrap();
        let store = open(&dir);
        let both = vec![
            put(Kind::Route, "good", named("x"), Expect::Any),
            put(Kind::Route, "bad", named("x"), Expect::Any),
        ];
        commit(&store, both).unwrap();
        outside(&dir)
            .execute("UPDATE resource SET document = '{' WHERE id = 'bad'", [])
            .unwrap();
        let refusal = store.load().unwrap_err();
        assert!(
            refusal
                .to_string()
                .contains("object routes/bad cannot be read"),
            "{refusal}"
        );
        assert!(store.find(Kind::Route, &id("bad")).is_err());
        assert!(store.find(Kind::Route, &id("good")).unwrap().is_some());
    }

    #[test]
    fn list_reads_no_more_of_others_than_it_takes_to_leave_them_out() {
        let dir = TempDir::new().unwrap();
        let store = open(&dir);
        let all = ["a", "b", "c"].map(|name| put(Kind::Route, name, named(name), Expect::Any));
        commit(&store, all.into()).unwrap();
        let spoil = |document: &str| {
            outside(&dir)
                .execute(
                    "UPDATE resource SET document = ?1 WHERE id = 'b'",
                    [document],
                )
                .unwrap();
        };
        let page = |skipped, filter: Option<&'static str>| {
            let asked = Selection {
                filter: filter.map(|name| Filter {
                    members: &["name"],
                    accepts: Box::new(move |seen| seen.get("name").is_some_and(|own| own == name)),
                }),
                skipped,
                limit: Some(1),
                ..Selection::default()
            };
            store.list(Kind::Route, &asked).map(|page| {
                let ids = page.objects.iter().map(|stored| stored.id.to_string());
                (ids.collect::<Vec<_>>(), page.total)
            })
        };
        // No document at all: only a page that has it fails, and a filter, which must look.
        spoil("{");
        assert_eq!(page(0, None).unwrap(), (vec!["a".to_owned()], 3));
        assert_eq!(page(2, None).unwrap(), (vec!["c".to_owned()], 3));
        assert!(page(1, None).is_err());
        let refusal = page(0, Some("a")).unwrap_err();
        assert!(
            refusal
                .to_string()
                .contains("object routes/b cannot be read"),
            "{refusal}"
        );
        // Half a surrogate pair, where no filter looks: it is passed over unread.
        spoil(r#"{"name": "b", "more": {"text": "\ud800"}}"#);
        assert_eq!(page(0, Some("a")).unwrap(), (vec!["a".to_owned()], 1));
        assert!(page(1, None).is_err());
    }

    #[test]
    fn record_altered_in_the_file_breaks_the_chain() {
        let dir = TempDir::new().unwrap();
        let store = open(&dir);
        for name in ["a", "b", "c"] {
            commit(
                &store,
                vec![put(Kind::Route, name, named("x"), Expect::Any)],
            )
            .unwrap();
        }
        assert!(store.audit_verify().is_ok());
        outside(&dir)
            .execute("UPDATE audit SET actor = 'nobody' WHERE seq = 2", [])
            .unwrap();
        let broken = store.audit_verify().unwrap_err();
        assert_eq!(broken.to_string(), audit::Broken { seq: 2 }.to_string());
        outside(&dir)
            .execute("DELETE FROM audit WHERE seq = 2", [])
            .unwrap();
        let broken = store.audit_verify().unwrap_err();
        assert_eq!(broken.to_string(), audit::Broken { seq: 3 }.to_string());
    }

    #[test]
    fn text_in_documents_is_found() {
        let dir = TempDir::new().unwrap();
        let store = open(&dir);
        assert!(!store.database.contains_text("\"pc1:").unwrap());
        let sealed = Document::from_iter([("key".to_owned(), json!("pc1:abc"))]);
        commit(&store, vec![put(Kind::Ssl, "1", sealed, Expect::Any)]).unwrap();
        assert!(store.database.contains_text("\"pc1:").unwrap());
        assert!(!store.database.contains_text("\"pc2:").unwrap());
    }
}
