//! The audit chain: what was changed, by whom, in a form in which tampering shows.
//!
//! Each record carries a MAC over itself and the MAC before it, keyed from the key-encryption key,
//! so that nobody with the file alone can alter, insert or drop a record unseen. Cutting off the
//! end or putting back an old file does not break the chain; it shows by the [`Head`]s in the
//! process log. A record never holds a value, only where values changed.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::{Zeroize, Zeroizing};

use super::{Store, StoreError};
use crate::crypto::compare::is_equal;
use crate::crypto::error::CryptoError;
use crate::crypto::mac::MacKey;
use crate::resource::{Document, Id, Kind, Revision};

/// The label under which the chain's key is derived from the key-encryption key.
pub const CHAIN_LABEL: &str = "portcullis audit chain v1";

/// The most changed paths in one record; above, the top-level members are named instead.
const MAX_PATHS: usize = 100;

/// What precedes the first record.
const NOTHING: Mac = Mac([0; 32]);

/// Who made a commit, when, in which request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// When, in milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
    /// Name of the admin key, or subject of the client certificate; of a refresh, the references
    /// whose values are others.
    pub actor: String,
    /// Id of the request.
    pub request_id: String,
}

/// What was done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It was not there before.
    Create,
    /// It was replaced.
    Update,
    /// It was removed.
    Delete,
    /// Other values are served in the place of its references; the object itself is as it was.
    Refresh,
}

impl Action {
    /// The word in records, e.g. `create`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Refresh => "refresh",
        }
    }

    /// The action with this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Create, Self::Update, Self::Delete, Self::Refresh]
            .into_iter()
            .find(|a| a.as_str() == word)
    }
}

/// One accepted change to one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// 1 for the first record, without gaps.
    pub seq: u64,
    /// Who, when, in which request.
    pub origin: Origin,
    /// Kind of the object.
    pub kind: Kind,
    /// Its id.
    pub id: Id,
    /// What was done.
    pub action: Action,
    /// JSON pointers (RFC 6901) to what differs; the empty pointer means all of it.
    pub changed: Vec<String>,
    /// What became less strict, a phrase each.
    pub weakens: Vec<String>,
    /// The revision that the change got; of a refresh, that of the object it left as it was.
    pub revision: Revision,
    /// Over the MAC of the record before and everything above.
    pub mac: Mac,
}

/// The MAC of a record; shown as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 32]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mac({self})")
    }
}

/// Length and last MAC of a chain: who has noted it notices later that records were cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// How many records there are, which is the sequence number of the last.
    pub count: u64,
    /// The last record's MAC; zeros when there is none.
    pub mac: Mac,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            count: 0,
            mac: NOTHING,
        }
    }
}

/// A chain that is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit chain is broken at record {seq}: it was altered, or a record before it is gone")]
pub struct Broken {
    /// The first record that does not follow from those before it.
    pub seq: u64,
}

/// Why a chain could not be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It was verified, and it is broken.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// MACs could not be computed.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    /// The records could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The key of the chain, and those of its parts before the key-encryption key was replaced.
#[derive(Clone, Debug)]
pub struct ChainKey {
    key: MacKey,
    /// In the order of the records.
    past: Vec<Past>,
}

/// A part of the chain that was made under another key. Whoever has that key cannot alter the part:
/// its end is written down, sealed with the key after it.
#[derive(Clone, Debug)]
struct Past {
    /// The sequence number of its last record.
    until: u64,
    /// That record's MAC.
    mac: Mac,
    key: MacKey,
}

/// As a [`Past`] is written down.
#[derive(Serialize, Deserialize)]
struct PastText {
    until: u64,
    mac: [u8; 32],
    key: Vec<u8>,
}

impl Drop for PastText {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// What is written down about a chain's parts cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what is kept of the audit chain's former keys cannot be read")]
pub struct PastError;

impl ChainKey {
    /// The chain's key: `key` is derived from the key-encryption key under [`CHAIN_LABEL`].
    #[must_use]
    pub const fn new(key: MacKey) -> Self {
        Self {
            key,
            past: Vec::new(),
        }
    }

    /// The key of a chain whose parts before were written down by [`ChainKey::past`].
    ///
    /// # Errors
    /// [`PastError`]: that text is none.
    pub fn with_past(key: MacKey, text: &str) -> Result<Self, PastError> {
        let past: Vec<PastText> = serde_json::from_str(text).map_err(|_may_quote_it| PastError)?;
        let past = past.iter().map(|past| Past {
            until: past.until,
            mac: Mac(past.mac),
            key: MacKey::from_bytes(&past.key),
        });
        Ok(Self {
            key,
            past: past.collect(),
        })
    }

    /// The keys of the parts before, to be sealed.
    ///
    /// # Errors
    /// [`PastError`]: it cannot be written.
    pub fn past(&self) -> Result<Zeroizing<String>, PastError> {
        let past = self.past.iter().map(|past| PastText {
            until: past.until,
            mac: past.mac.0,
            key: past.key.expose().to_vec(),
        });
        let text = serde_json::to_string(&past.collect::<Vec<_>>());
        text.map(Zeroizing::new).map_err(|_unwritable| PastError)
    }

    /// The key of this chain when it goes on under another one after `head`.
    #[must_use]
    pub fn continued(&self, head: &Head, key: MacKey) -> Self {
        let mut past = self.past.clone();
        past.push(Past {
            until: head.count,
            mac: head.mac,
            key: self.key.clone(),
        });
        Self { key, past }
    }

    /// Where this chain goes on under its present key: what [`ChainKey::continued`] was given.
    pub(super) fn begins_after(&self) -> u64 {
        self.past.last().map_or(0, |past| past.until)
    }

    /// How many keys the chain has had.
    pub(super) fn parts(&self) -> usize {
        self.past.len().saturating_add(1)
    }

    /// The key of the record with this number.
    fn key_of(&self, seq: u64) -> &MacKey {
        let part = self.past.iter().find(|past| seq <= past.until);
        part.map_or(&self.key, |past| &past.key)
    }

    /// Whether a MAC is not the one written down for the end of a part.
    fn is_unlike(&self, seq: u64, mac: &Mac) -> bool {
        let mut ends = self.past.iter().filter(|past| past.until == seq);
        ends.any(|past| past.mac != *mac)
    }

    /// The record that follows `head`.
    pub(super) fn link(&self, head: &Head, entry: Entry<'_>) -> Result<Record, CryptoError> {
        let Entry {
            origin,
            kind,
            id,
            action,
            changed,
            weakens,
            revision,
        } = entry;
        let seq = head.count.saturating_add(1);
        let mut record = Record {
            seq,
            origin: origin.clone(),
            kind,
            id: id.clone(),
            action,
            changed,
            weakens,
            revision,
            mac: NOTHING,
        };
        record.mac = self.mac(&head.mac, &record)?;
        Ok(record)
    }

    /// The MAC that `record` must have after one with the MAC `previous`.
    fn mac(&self, previous: &Mac, record: &Record) -> Result<Mac, CryptoError> {
        // Framed, so that no two records give the same bytes; lists carry their length first.
        let numbers = [record.seq, record.origin.time_ms, record.revision.0].map(u64::to_be_bytes);
        let lengths = [&record.changed, &record.weakens].map(|list| list.len().to_string());
        let mut fields: Vec<&[u8]> = vec![&previous.0];
        fields.extend(numbers.iter().map(<[u8; 8]>::as_slice));
        fields.extend([
            record.origin.actor.as_bytes(),
            record.origin.request_id.as_bytes(),
            record.kind.plural().as_bytes(),
            record.id.as_str().as_bytes(),
            record.action.as_str().as_bytes(),
        ]);
        fields.extend(lengths.iter().map(String::as_bytes));
        fields.extend(
            record
                .changed
                .iter()
                .chain(&record.weakens)
                .map(String::as_bytes),
        );
        self.key_of(record.seq).mac_framed(&fields).map(Mac)
    }
}

/// What a record is made of, before it has its place in the chain.
pub(super) struct Entry<'a> {
    pub(super) origin: &'a Origin,
    pub(super) kind: Kind,
    pub(super) id: &'a Id,
    pub(super) action: Action,
    pub(super) changed: Vec<String>,
    pub(super) weakens: Vec<String>,
    pub(super) revision: Revision,
}

impl Head {
    /// The head once `record` follows.
    #[must_use]
    pub const fn after(record: &Record) -> Self {
        Self {
            count: record.seq,
            mac: record.mac,
        }
    }

    /// The head after `record`, if it follows from this one.
    ///
    /// # Errors
    /// [`VerifyError::Broken`] when it does not.
    pub fn verify(&self, record: &Record, key: &ChainKey) -> Result<Self, VerifyError> {
        let broken = Broken { seq: record.seq };
        if Some(record.seq) != self.count.checked_add(1) {
            return Err(broken.into());
        }
        let expected = key.mac(&self.mac, record)?;
        if !is_equal(&expected.0, &record.mac.0)? || key.is_unlike(record.seq, &record.mac) {
            return Err(broken.into());
        }
        Ok(Self::after(record))
    }
}

/// Verifies a whole chain, from its first record on, and gives its head.
///
/// A long chain can be verified piece by piece with [`Head::verify`].
///
/// # Errors
/// [`VerifyError::Broken`] names the first record that does not follow from those before it.
pub fn verify(records: &[Record], key: &ChainKey) -> Result<Head, VerifyError> {
    records
        .iter()
        .try_fold(Head::default(), |head, record| head.verify(record, key))
}

/// Verifies the whole chain of a store, a piece at a time, and gives its head.
///
/// # Errors
/// As [`verify`], and when the store cannot be read.
pub(super) fn verify_all(store: &dyn Store, key: &ChainKey) -> Result<Head, VerifyError> {
    const PIECE: usize = 1000;
    let mut head = Head::default();
    loop {
        let records = store.audit_from(head.count.saturating_add(1), PIECE)?;
        head = records
            .iter()
            .try_fold(head, |head, record| head.verify(record, key))?;
        if records.len() < PIECE {
            // Records of a part whose end is written down were cut off.
            if head.count < key.begins_after() {
                let seq = head.count.saturating_add(1);
                return Err(Broken { seq }.into());
            }
            return Ok(head);
        }
    }
}

/// JSON pointers to what differs between two states of an object, without any value.
///
/// A created or deleted object gives the empty pointer, which means the whole document. Objects are
/// compared member by member, arrays of equal length element by element; an array whose length
/// changed is named itself. The order of members is no difference. Both documents should have their
/// keys open: a sealed value differs each time it is sealed.
///
/// Beyond 100 pointers only the top-level members are named.
#[must_use]
pub fn changed_paths(old: Option<&Document>, new: Option<&Document>) -> Vec<String> {
    let (old, new) = match (old, new) {
        (None, None) => return Vec::new(),
        (None, Some(_)) | (Some(_), None) => return vec![String::new()],
        (Some(old), Some(new)) => (old, new),
    };
    let mut paths = Vec::new();
    compare_members(old, new, &mut String::new(), &mut paths);
    if paths.len() > MAX_PATHS {
        let tops: BTreeSet<&str> = paths
            .iter()
            .map(|path| {
                path.match_indices('/')
                    .nth(1)
                    .map_or(path.as_str(), |(end, _)| path.get(..end).unwrap_or(path))
            })
            .collect();
        paths = tops.into_iter().map(str::to_owned).collect();
    }
    paths
}

fn compare_members(old: &Document, new: &Document, at: &mut String, paths: &mut Vec<String>) {
    let added = new.keys().filter(|name| !old.contains_key(*name));
    for name in old.keys().chain(added) {
        let before = at.len();
        at.push('/');
        at.push_str(&name.replace('~', "~0").replace('/', "~1"));
        match (old.get(name), new.get(name)) {
            (Some(old), Some(new)) => compare_values(old, new, at, paths),
            _ => paths.push(at.clone()),
        }
        at.truncate(before);
    }
}

fn compare_values(old: &Value, new: &Value, at: &mut String, paths: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => compare_members(old, new, at, paths),
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                let before = at.len();
                at.push_str(&format!("/{index}"));
                compare_values(old, new, at, paths);
                at.truncate(before);
            }
        }
        (old, new) if old == new => {}
        _ => paths.push(at.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document(value: Value) -> Document {
        serde_json::from_value(value).unwrap()
    }

    fn key(seed: u8) -> ChainKey {
        ChainKey::new(MacKey::from_bytes(&[seed; 32]))
    }

    fn chain(key: &ChainKey, count: u64) -> Vec<Record> {
        let mut head = Head::default();
        (1..=count)
            .map(|n| {
                let origin = Origin {
                    time_ms: 1000 + n,
                    actor: "ops".to_owned(),
                    request_id: format!("r{n}"),
                };
                let id: Id = format!("id{n}").parse().unwrap();
                let record = key
                    .link(
                        &head,
                        Entry {
                            origin: &origin,
                            kind: Kind::Route,
                            id: &id,
                            action: Action::Create,
                            changed: vec![String::new()],
                            weakens: vec!["verify".to_owned()],
                            revision: Revision(n),
                        },
                    )
                    .unwrap();
                head = Head::after(&record);
                record
            })
            .collect()
    }

    fn broken_at(records: &[Record], key: &ChainKey) -> Option<u64> {
        match verify(records, key) {
            Ok(_) => None,
            Err(VerifyError::Broken(Broken { seq })) => Some(seq),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn changed_paths_name_places_and_no_values() {
        let old = json!({"a": 1, "b": {"c": [1, 2], "d": "s"}, "gone": true, "a/b~": 1});
        let cases = [
            (old.clone(), vec![]),
            (
                json!({"a/b~": 1, "gone": true, "b": {"d": "s", "c": [1, 2]}, "a": 1}),
                vec![],
            ),
            (
                json!({"a": 2, "b": {"c": [1, 2], "d": "s"}, "gone": true, "a/b~": 1}),
                vec!["/a"],
            ),
            (
                json!({"a": 1, "b": {"c": [1, 3], "d": "t"}, "a/b~": 2, "new": 1}),
                vec!["/b/c/1", "/b/d", "/gone", "/a~1b~0", "/new"],
            ),
            (
                json!({"a": 1, "b": {"c": [1], "d": "s"}, "gone": true, "a/b~": 1}),
                vec!["/b/c"],
            ),
            (json!({"a": 1, "b": 1, "gone": true, "a/b~": 1}), vec!["/b"]),
        ];
        let old = document(old);
        for (new, expected) in cases {
            assert_eq!(changed_paths(Some(&old), Some(&document(new))), expected);
        }
    }

    #[test]
    fn created_and_deleted_objects_change_as_a_whole() {
        let one = document(json!({"a": 1}));
        assert_eq!(changed_paths(None, Some(&one)), [""]);
        assert_eq!(changed_paths(Some(&one), None), [""]);
        assert!(changed_paths(None, None).is_empty());
    }

    #[test]
    fn very_many_changes_are_named_by_member() {
        let nodes = |weight: u32| {
            let all: Document = (0..200)
                .map(|n| (format!("h{n}:1"), json!(weight)))
                .collect();
            document(json!({"nodes": all, "name": "same", "desc": weight}))
        };
        assert_eq!(
            changed_paths(Some(&nodes(1)), Some(&nodes(2))),
            ["/desc", "/nodes"]
        );
    }

    #[test]
    fn untouched_chain_verifies() {
        let key = key(1);
        let records = chain(&key, 5);
        let head = verify(&records, &key).unwrap();
        assert_eq!(
            head,
            Head {
                count: 5,
                mac: records[4].mac
            }
        );
        assert_eq!(verify(&[], &key).unwrap(), Head::default());
    }

    #[test]
    fn every_altered_field_breaks_the_chain_at_its_record() {
        let key = key(1);
        let alterations: [fn(&mut Record); 12] = [
            |r| r.origin.time_ms += 1,
            |r| r.origin.actor.push('x'),
            |r| r.origin.request_id.clear(),
            |r| r.kind = Kind::Ssl,
            |r| r.id = "other".parse().unwrap(),
            |r| r.action = Action::Delete,
            |r| r.changed.push("/x".to_owned()),
            |r| r.weakens.clear(),
            |r| {
                // The same texts, split otherwise between the two lists.
                let phrase = r.weakens.remove(0);
                r.changed.push(phrase);
            },
            |r| r.revision.0 += 1,
            |r| r.mac.0[31] ^= 1,
            |r| r.seq += 1,
        ];
        for (number, alter) in alterations.into_iter().enumerate() {
            let mut records = chain(&key, 4);
            alter(&mut records[1]);
            let expected = records[1].seq;
            assert_eq!(
                broken_at(&records, &key),
                Some(expected),
                "alteration {number}"
            );
        }
    }

    #[test]
    fn dropped_swapped_and_foreign_records_break_the_chain() {
        let key = key(1);
        let whole = chain(&key, 4);
        let mut dropped = whole.clone();
        dropped.remove(1);
        assert_eq!(broken_at(&dropped, &key), Some(3));
        let mut swapped = whole.clone();
        swapped.swap(1, 2);
        assert_eq!(broken_at(&swapped, &key), Some(3));
        assert_eq!(broken_at(&whole[1..], &key), Some(2));
        assert_eq!(broken_at(&whole, &self::key(2)), Some(1));
        assert_eq!(broken_at(&whole, &key), None);
    }

    #[test]
    fn cut_off_end_shows_by_the_head_only() {
        let key = key(1);
        let whole = chain(&key, 4);
        let noted = verify(&whole, &key).unwrap();
        let cut = verify(&whole[..3], &key).unwrap();
        assert_ne!(cut, noted);
    }
}
