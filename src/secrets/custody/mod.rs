//! Custody: private keys and credentials in documents.
//!
//! | module | what it does |
//! |---|---|
//! | [`places`] | says which members of a document are secrets |
//! | [`kek`] | is the key-encryption key |
//! | [`obtain`] | finds it at start, or makes the first one |
//! | [`rotation`] | has the next one beside it, and puts that in its place |
//! | [`seal`] | encrypts these members for the store, and decrypts them |
//! | [`keyring`] | opens keys that APISIX has sealed |
//! | [`withhold`] | puts placeholders in their place for replies |
//! | [`keep`] | puts stored values in the place of placeholders in a write |
//! | [`amend`] | says what a change of a part means for keys it does not speak of |
//! | [`stray`] | finds private keys where none belongs |
//!
//! A write goes: client's document → [`keep`](Custody::keep) → validation →
//! [`seal_document`](Custody::seal_document) → store. A reply goes: stored document →
//! [`withhold`](Custody::withhold). A compile goes: stored document →
//! [`open_document`](Custody::open_document) in an [`Opened`].

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::crypto::aead;
use crate::crypto::error::CryptoError;
use crate::crypto::mac::MacKey;
use crate::resource::{Document, Kind};

pub mod amend;
pub mod keep;
pub mod kek;
pub mod keyring;
pub mod obtain;
pub mod places;
pub mod rotation;
pub mod seal;
pub mod stray;
pub mod withhold;

pub use keep::KeptNames;
pub use kek::{Kek, KekError, KekFacts, KeptIn};
pub use obtain::ObtainError;
pub use seal::{CustodyError, Reason};
pub use withhold::Show;

/// The label under which the key for placeholders is derived from the key-encryption key.
const PLACEHOLDER_LABEL: &str = "portcullis placeholder v1";

/// What seals, opens, withholds and keeps: the key-encryption key at work.
///
/// Cheap to clone, safe to share: all clones go over to another key together. Its `Debug` shows no
/// key.
#[derive(Clone, Debug)]
pub struct Custody(Arc<ArcSwap<Ring>>);

/// The keys in use.
#[derive(Clone, Debug)]
struct Ring {
    /// Seals, and opens what it sealed.
    current: SealKey,
    /// Only opens: what is not yet sealed with the current one.
    older: Option<SealKey>,
    placeholders: MacKey,
    named: withhold::NamedKeys,
}

/// A key with its name.
#[derive(Clone, Debug)]
struct SealKey {
    key: aead::Key,
    id: String,
    kept_in: KeptIn,
}

impl Ring {
    fn new(kek: &Kek, older: Option<SealKey>) -> Result<Self, CryptoError> {
        Ok(Self {
            current: SealKey::of(kek),
            older: older.filter(|older| older.id != kek.id()),
            placeholders: kek.derive_mac_key(PLACEHOLDER_LABEL)?,
            named: withhold::NamedKeys::default(),
        })
    }

    /// The key with this id.
    fn find(&self, id: &str) -> Option<&aead::Key> {
        let all = [Some(&self.current), self.older.as_ref()];
        let mut known = all.into_iter().flatten();
        known.find(|own| own.id == id).map(|own| &own.key)
    }
}

impl SealKey {
    fn of(kek: &Kek) -> Self {
        Self {
            key: kek.key().clone(),
            id: kek.id().to_owned(),
            kept_in: KeptIn::Memory,
        }
    }
}

impl Custody {
    /// Custody under this key, which nobody keeps until [`Custody::locate`] says who does.
    ///
    /// # Errors
    /// When OpenSSL cannot derive a key.
    pub fn new(kek: &Kek) -> Result<Self, CryptoError> {
        let ring = Ring::new(kek, None)?;
        Ok(Self(Arc::new(ArcSwap::from_pointee(ring))))
    }

    /// Goes over to another key: what is sealed from here on is sealed with that one, and what the
    /// one before has sealed still opens, until [`Custody::forget_older`].
    ///
    /// # Errors
    /// When OpenSSL cannot derive a key; all is as it was then.
    pub fn go_over(&self, kek: &Kek) -> Result<(), CryptoError> {
        let before = self.0.load();
        if before.current.id != kek.id() {
            let next = Ring::new(kek, Some(before.current.clone()))?;
            self.0.store(Arc::new(next));
        }
        Ok(())
    }

    /// Notes where the key with this id is kept.
    pub fn locate(&self, id: &str, kept_in: &KeptIn) {
        let mut ring = Ring::clone(&self.0.load());
        let all = [Some(&mut ring.current), ring.older.as_mut()];
        for key in all.into_iter().flatten().filter(|key| key.id == id) {
            key.kept_in.clone_from(kept_in);
        }
        self.0.store(Arc::new(ring));
    }

    /// What can be told of the keys at work, the one that seals first.
    #[must_use]
    pub fn facts(&self) -> Vec<KekFacts> {
        let ring = self.0.load();
        let all = [Some(&ring.current), ring.older.as_ref()];
        let all = all.into_iter().flatten().map(|key| KekFacts {
            id: key.id.clone(),
            kept_in: key.kept_in.clone(),
            is_current: key.id == ring.current.id,
        });
        all.collect()
    }

    /// The id of the key that seals.
    #[cfg(test)]
    fn kek_id(&self) -> String {
        self.0.load().current.id.clone()
    }

    /// Forgets the key before this one: what it has sealed does not open any more.
    pub fn forget_older(&self) {
        let mut ring = Ring::clone(&self.0.load());
        ring.older = None;
        self.0.store(Arc::new(ring));
    }
}

/// A document whose secrets are in the clear: they are wiped when it is dropped, and its `Debug`
/// shows no value.
#[derive(Clone, PartialEq)]
pub struct Opened {
    kind: Kind,
    document: Document,
}

impl Opened {
    /// A guard for a document of this kind.
    #[must_use]
    pub const fn new(kind: Kind, document: Document) -> Self {
        Self { kind, document }
    }

    /// The kind of the resource.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The document without its guard, for one that has been sealed or withheld.
    #[must_use]
    pub fn into_document(mut self) -> Document {
        std::mem::take(&mut self.document)
    }
}

impl Deref for Opened {
    type Target = Document;

    fn deref(&self) -> &Document {
        &self.document
    }
}

impl DerefMut for Opened {
    fn deref_mut(&mut self) -> &mut Document {
        &mut self.document
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        places::wipe(self.kind, &mut self.document);
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members: Vec<&String> = self.document.keys().collect();
        write!(f, "Opened({} with {members:?})", self.kind)
    }
}

#[cfg(test)]
pub(super) mod samples {
    //! What the tests of this room share.

    use super::{Custody, Kek};
    use crate::resource::{Document, Id};

    /// A text that must never be seen outside.
    pub(crate) const CANARY: &str = "canary-4c1f9e-plaintext";

    /// Custody under a key made of this byte.
    pub(crate) fn custody(seed: u8) -> Custody {
        Custody::new(&Kek::from_bytes(&[seed; 32]).unwrap()).unwrap()
    }

    /// A document.
    pub(crate) fn document(value: serde_json::Value) -> Document {
        serde_json::from_value(value).unwrap()
    }

    /// An id.
    pub(crate) fn id(text: &str) -> Id {
        text.parse().unwrap()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::samples::{self, CANARY, custody, document, id};
    use super::*;

    #[test]
    fn both_keys_open_while_one_is_left_for_the_other() {
        let custody = custody(1);
        let clone = custody.clone();
        let seal = |custody: &Custody| custody.seal_text(Kind::Ssl, &id("1"), "/x", CANARY);
        let open = |custody: &Custody, text: &str| {
            let opened = custody.open_text(Kind::Ssl, &id("1"), "/x", text);
            opened.is_ok_and(|text| *text == *CANARY)
        };
        let old = seal(&custody).unwrap();
        let next = Kek::from_bytes(&[2; 32]).unwrap();
        let first = Kek::from_bytes(&[1; 32]).unwrap();
        assert_eq!(custody.facts()[0].kept_in, KeptIn::Memory);
        let file = KeptIn::File("kek".into());
        clone.locate(first.id(), &file);
        clone.go_over(&next).unwrap();
        clone.go_over(&next).unwrap();
        let new = seal(&custody).unwrap();
        assert!(new.starts_with(&format!("pc1:{}:", next.id())), "{new}");
        assert!(open(&clone, &old) && open(&custody, &old) && open(&clone, &new));
        clone.locate(next.id(), &KeptIn::Configuration);
        let facts = |id: &str, kept_in: KeptIn, is_current| KekFacts {
            id: id.to_owned(),
            kept_in,
            is_current,
        };
        let current = facts(next.id(), KeptIn::Configuration, true);
        let former = facts(first.id(), file, false);
        assert_eq!(custody.facts(), [current.clone(), former]);
        custody.forget_older();
        assert_eq!(custody.facts(), [current]);
        assert!(open(&clone, &new) && !open(&clone, &old) && !open(&custody, &old));
        assert!(!open(&samples::custody(1), &new));
        let shown = format!("{clone:?}");
        assert_eq!(shown.matches("withheld").count(), 2, "{shown}");
    }

    #[test]
    fn debug_shows_no_value_and_no_key() {
        let secret = document(json!({"uri": "u", "token": CANARY}));
        let shown = format!("{:?}", Opened::new(Kind::Secret, secret));
        assert_eq!(shown, r#"Opened(secret with ["uri", "token"])"#);
        let shown = format!("{:?}", custody(0x41));
        assert!(
            !shown.contains("AAAA") && !shown.contains("65, 65"),
            "{shown}"
        );
        assert_eq!(shown.matches("withheld").count(), 2, "{shown}");
    }

    #[test]
    fn guard_gives_its_document_whole() {
        let secret = document(json!({"uri": "u", "token": "t"}));
        assert_eq!(
            Opened::new(Kind::Secret, secret.clone()).into_document(),
            secret
        );
    }
}
