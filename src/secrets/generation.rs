//! A generation: the values of all references of one resource, as they were accepted together.
//!
//! It is what a resource is served with. The last good one is kept sealed beside the document, so
//! that a restart serves what was served before, whatever the managers do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::custody::places::{references, substitute};
use super::custody::{Custody, CustodyError, Opened};
use super::desk::Value;
use super::source::ReadFault;
use crate::resource::{Id, Kind};

/// What a sealed generation is bound to, beside its object.
const POINTER: &str = "/$generation";

/// The values of a resource's references. `Debug` shows none of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    /// When all of it was last what the managers have, in seconds since the epoch.
    pub confirmed_at: i64,
    /// By reference as written.
    pub values: BTreeMap<String, Value>,
}

/// As it lies in the store, before it is sealed.
#[derive(Serialize, Deserialize)]
struct Record {
    confirmed_at: i64,
    values: BTreeMap<String, Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    text: String,
    version: Option<String>,
}

impl Drop for Record {
    fn drop(&mut self) {
        for entry in self.values.values_mut() {
            entry.text.zeroize();
        }
    }
}

/// Why a generation cannot be kept, or one that was kept cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// It does not seal or open.
    #[error(transparent)]
    Custody(#[from] CustodyError),
    /// It is not what was written.
    #[error("what is kept of the resource's secrets cannot be read")]
    Malformed,
    /// OpenSSL gives no digest.
    #[error(transparent)]
    Value(#[from] ReadFault),
}

impl Generation {
    /// The name of the note in the store that keeps an object's generation.
    #[must_use]
    pub fn note_name(kind: Kind, id: &Id) -> String {
        format!("generation/{}/{id}", kind.plural())
    }

    /// The object whose generation a note of this name keeps.
    #[must_use]
    pub fn object_of_note(name: &str) -> Option<(Kind, Id)> {
        let (kind, id) = name.strip_prefix("generation/")?.split_once('/')?;
        Some((Kind::from_plural(kind)?, id.parse().ok()?))
    }

    /// The document with values in the place of the references that this has values for.
    #[must_use]
    pub fn fill(&self, document: &Opened) -> Opened {
        let mut filled = document.clone();
        for (pointer, reference) in references(document.kind(), document) {
            if let Some(value) = self.values.get(&reference) {
                substitute(&mut filled, &pointer, &value.text);
            }
        }
        filled
    }

    /// Whether it has a value for each of these references.
    pub fn covers<'a>(&self, references: impl IntoIterator<Item = &'a String>) -> bool {
        let mut references = references.into_iter();
        references.all(|reference| self.values.contains_key(reference))
    }

    /// Whether both stand for the same values, whenever they were confirmed.
    #[must_use]
    pub fn agrees_with(&self, other: &Self) -> bool {
        self.values.len() == other.values.len()
            && self.values.iter().all(|(reference, value)| {
                let other = other.values.get(reference);
                other.is_some_and(|other| other.digest == value.digest)
            })
    }

    /// This sealed, for the store.
    ///
    /// # Errors
    /// OpenSSL's failure.
    pub fn seal(&self, custody: &Custody, kind: Kind, id: &Id) -> Result<String, GenerationError> {
        let values = self.values.iter().map(|(reference, value)| {
            let entry = Entry {
                text: value.text.to_string(),
                version: value.version.clone(),
            };
            (reference.clone(), entry)
        });
        let record = Record {
            confirmed_at: self.confirmed_at,
            values: values.collect(),
        };
        let text = serde_json::to_string(&record).map_err(|_error| GenerationError::Malformed)?;
        let text = Zeroizing::new(text);
        Ok(custody.seal_text(kind, id, POINTER, &text)?)
    }

    /// What [`Generation::seal`] made.
    ///
    /// # Errors
    /// It does not open here, or is damaged.
    pub fn open(
        custody: &Custody,
        kind: Kind,
        id: &Id,
        sealed: &str,
    ) -> Result<Self, GenerationError> {
        let text = custody.open_text(kind, id, POINTER, sealed)?;
        // The parser's own words may quote a value.
        let mut record: Record =
            serde_json::from_str(&text).map_err(|_error| GenerationError::Malformed)?;
        let mut values = BTreeMap::new();
        for (reference, entry) in std::mem::take(&mut record.values) {
            let mut value = Value::new(Zeroizing::new(entry.text))?;
            value.version = entry.version;
            values.insert(reference, value);
        }
        Ok(Self {
            confirmed_at: record.confirmed_at,
            values,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::custody::samples::{CANARY, custody, document, id};
    use super::*;

    fn generation(pairs: &[(&str, &str)]) -> Generation {
        let values = pairs.iter().map(|(reference, text)| {
            let value = Value::new(Zeroizing::new((*text).to_owned())).unwrap();
            ((*reference).to_owned(), value)
        });
        Generation {
            confirmed_at: 7,
            values: values.collect(),
        }
    }

    #[test]
    fn values_stand_where_references_stood() {
        let ssl = json!({"cert": "$env://C", "key": "$env://K", "desc": "$env://C"});
        let ssl = Opened::new(Kind::Ssl, document(ssl));
        let some = generation(&[("$env://C", "the cert")]);
        let filled = some.fill(&ssl).into_document();
        let expected = json!({"cert": "the cert", "key": "$env://K", "desc": "$env://C"});
        assert_eq!(json!(filled), expected);
        let both = ["$env://C".to_owned(), "$env://K".to_owned()];
        assert!(!some.covers(&both) && some.covers(&both[..1]));
    }

    #[test]
    fn kept_generation_is_sealed_and_opens_again() {
        let (custody, own) = (custody(1), id("1"));
        let all = generation(&[("$env://C", CANARY)]);
        let sealed = all.seal(&custody, Kind::Ssl, &own).unwrap();
        assert!(sealed.starts_with("pc1:") && !sealed.contains(CANARY));
        let opened = Generation::open(&custody, Kind::Ssl, &own, &sealed).unwrap();
        assert_eq!(opened, all);
        assert!(opened.agrees_with(&all));
        Generation::open(&custody, Kind::Ssl, &id("2"), &sealed).unwrap_err();
        let shown = format!("{all:?}");
        assert!(!shown.contains(CANARY), "{shown}");
    }

    #[test]
    fn generations_agree_by_value() {
        let a = generation(&[("$env://C", "1")]);
        assert!(a.agrees_with(&generation(&[("$env://C", "1")])));
        for other in [
            generation(&[("$env://C", "2")]),
            generation(&[("$env://D", "1")]),
            generation(&[]),
        ] {
            assert!(!a.agrees_with(&other), "{other:?}");
        }
    }
}
