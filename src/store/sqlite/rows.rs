//! The rows of the tables, to and from Rust.

use std::fmt;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::super::audit::{Action, Head, Mac, Origin, Record};
use super::super::{Expiring, Filter, Stored};
use crate::resource::{Document, Id, Kind, Revision};

/// The columns of `audit`, in the order of [`RawRecord`].
pub(super) const RECORD_COLUMNS: &str =
    "seq, time_ms, actor, request_id, kind, id, action, changed, weakens, revision, mac";

/// The columns of `resource`, in the order of [`RawStored`].
pub(super) const STORED_COLUMNS: &str = "kind, id, document, created, modified, expires";

/// A row of `resource`, not yet understood.
pub(super) struct RawStored {
    pub(super) kind: String,
    pub(super) id: String,
    document: String,
    created: u64,
    modified: u64,
    expires: Option<u64>,
}

impl RawStored {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            kind: row.get(0)?,
            id: row.get(1)?,
            document: row.get(2)?,
            created: unsigned(row, 3)?,
            modified: unsigned(row, 4)?,
            expires: unsigned_or_null(row, 5)?,
        })
    }

    /// `None` when it cannot have been written here.
    pub(super) fn decode(self) -> Option<Stored> {
        Some(Stored {
            kind: Kind::from_plural(&self.kind)?,
            id: self.id.parse().ok()?,
            document: serde_json::from_str(&self.document).ok()?,
            created: Revision(self.created),
            modified: Revision(self.modified),
            expires: self.expires,
        })
    }
}

/// An object that expires, as `kind, id, modified, expires`; not yet understood.
pub(super) struct RawExpiring {
    pub(super) kind: String,
    pub(super) id: String,
    modified: u64,
    expires: u64,
}

impl RawExpiring {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            kind: row.get(0)?,
            id: row.get(1)?,
            modified: unsigned(row, 2)?,
            expires: unsigned(row, 3)?,
        })
    }

    /// `None` when it cannot have been written here.
    pub(super) fn decode(self) -> Option<Expiring> {
        Some(Expiring {
            kind: Kind::from_plural(&self.kind)?,
            id: self.id.parse().ok()?,
            modified: Revision(self.modified),
            expires: self.expires,
        })
    }
}

/// An object of a kind by its id, and its age.
pub(super) struct Listed {
    /// Its id.
    pub(super) id: String,
    /// The revision that created it.
    pub(super) created: Revision,
}

/// The rows of a kind, in the order of their ids.
pub(super) fn list_rows(conn: &Connection, kind: Kind) -> rusqlite::Result<Vec<Listed>> {
    conn.prepare_cached("SELECT id, created FROM resource WHERE kind = ?1 ORDER BY id")?
        .query_map([kind.plural()], |row| {
            Ok(Listed {
                id: row.get(0)?,
                created: Revision(unsigned(row, 1)?),
            })
        })?
        .collect()
}

/// The rows of a kind that a filter accepts, in the order of their ids; or the id of one whose
/// document cannot be read.
pub(super) fn filter_rows(
    conn: &Connection,
    kind: Kind,
    filter: &Filter,
) -> rusqlite::Result<Result<Vec<Listed>, String>> {
    let mut query = conn
        .prepare_cached("SELECT id, created, document FROM resource WHERE kind = ?1 ORDER BY id")?;
    let mut rows = query.query([kind.plural()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let Ok(seen) = read_members(row.get_ref(2)?.as_str()?, filter.members) else {
            return Ok(Err(row.get(0)?));
        };
        if (filter.accepts)(&seen) {
            found.push(Listed {
                id: row.get(0)?,
                created: Revision(unsigned(row, 1)?),
            });
        }
    }
    Ok(Ok(found))
}

/// These members of a document; the others are passed over without being kept.
fn read_members(text: &str, members: &[&str]) -> serde_json::Result<Document> {
    let mut document = serde_json::Deserializer::from_str(text);
    let seen = Members(members).deserialize(&mut document)?;
    document.end()?;
    Ok(seen)
}

struct Members<'a>(&'a [&'a str]);

impl<'de> DeserializeSeed<'de> for Members<'_> {
    type Value = Document;

    fn deserialize<D: Deserializer<'de>>(self, document: D) -> Result<Document, D::Error> {
        document.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members<'_> {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a document")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Document, A::Error> {
        let mut seen = Document::new();
        while let Some(name) = members.next_key::<String>()? {
            if self.0.contains(&name.as_str()) {
                seen.insert(name, members.next_value()?);
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(seen)
    }
}

/// A row of `audit`, not yet understood.
pub(super) struct RawRecord {
    pub(super) seq: u64,
    time_ms: u64,
    actor: String,
    request_id: String,
    kind: String,
    id: String,
    action: String,
    changed: String,
    weakens: String,
    revision: u64,
    mac: [u8; 32],
}

impl RawRecord {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: unsigned(row, 0)?,
            time_ms: unsigned(row, 1)?,
            actor: row.get(2)?,
            request_id: row.get(3)?,
            kind: row.get(4)?,
            id: row.get(5)?,
            action: row.get(6)?,
            changed: row.get(7)?,
            weakens: row.get(8)?,
            revision: unsigned(row, 9)?,
            mac: row.get(10)?,
        })
    }

    /// `None` when it cannot have been written here.
    pub(super) fn decode(self) -> Option<Record> {
        Some(Record {
            seq: self.seq,
            origin: Origin {
                time_ms: self.time_ms,
                actor: self.actor,
                request_id: self.request_id,
            },
            kind: Kind::from_plural(&self.kind)?,
            id: self.id.parse().ok()?,
            action: Action::parse(&self.action)?,
            changed: serde_json::from_str(&self.changed).ok()?,
            weakens: serde_json::from_str(&self.weakens).ok()?,
            revision: Revision(self.revision),
            mac: Mac(self.mac),
        })
    }
}

pub(super) fn write_record(
    transaction: &Transaction<'_>,
    record: &Record,
) -> rusqlite::Result<usize> {
    let json = |list: &[String]| serde_json::Value::from(list.to_vec()).to_string();
    transaction
        .prepare_cached(&format!(
            "INSERT INTO audit ({RECORD_COLUMNS})
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
        ))?
        .execute(params![
            number(record.seq),
            number(record.origin.time_ms),
            record.origin.actor,
            record.origin.request_id,
            record.kind.plural(),
            record.id.as_str(),
            record.action.as_str(),
            json(&record.changed),
            json(&record.weakens),
            number(record.revision.0),
            record.mac.0,
        ])
}

/// The revisions that created and last changed an object.
pub(super) fn read_revisions(
    conn: &Connection,
    kind: Kind,
    id: &Id,
) -> rusqlite::Result<Option<(Revision, Revision)>> {
    conn.prepare_cached("SELECT created, modified FROM resource WHERE kind = ?1 AND id = ?2")?
        .query_row([kind.plural(), id.as_str()], |row| {
            Ok((Revision(unsigned(row, 0)?), Revision(unsigned(row, 1)?)))
        })
        .optional()
}

pub(super) fn read_revision(conn: &Connection) -> rusqlite::Result<Revision> {
    conn.prepare_cached("SELECT revision FROM head")?
        .query_row([], |row| unsigned(row, 0))
        .map(Revision)
}

pub(super) fn read_head(conn: &Connection) -> rusqlite::Result<Head> {
    let last = conn
        .prepare_cached("SELECT seq, mac FROM audit ORDER BY seq DESC LIMIT 1")?
        .query_row([], |row| {
            Ok(Head {
                count: unsigned(row, 0)?,
                mac: Mac(row.get(1)?),
            })
        })
        .optional()?;
    Ok(last.unwrap_or_default())
}

/// SQLite's integers are signed; no revision, sequence number or time comes near the border.
pub(super) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn limit_number(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// A column that holds no negative number.
fn unsigned(row: &Row<'_>, index: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(index)?;
    u64::try_from(value).map_err(|_negative| rusqlite::Error::IntegralValueOutOfRange(index, value))
}

/// A column that holds a number that is not negative, or nothing.
fn unsigned_or_null(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<u64>> {
    let value: Option<i64> = row.get(index)?;
    match value {
        None => Ok(None),
        Some(_) => unsigned(row, index).map(Some),
    }
}
