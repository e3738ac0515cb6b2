//! Custody: private keys and credentials in documents.
//!
//! | module | what it does |
//! |---|---|
//! | [`places`] | says which members of a document are secrets |
//! | [`kek`] | is the key-encryption key |
//! | [`obtain`] | finds it at start, or makes the first one |
//! | [`seal`] | encrypts these members for the store, and decrypts them |
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

use crate::crypto::aead;
use crate::crypto::error::CryptoError;
use crate::crypto::mac::MacKey;
use crate::resource::{Document, Kind};

pub mod amend;
pub mod keep;
pub mod kek;
pub mod obtain;
pub mod places;
pub mod seal;
pub mod stray;
pub mod withhold;

pub use keep::KeptNames;
pub use kek::{Kek, KekError};
pub use obtain::ObtainError;
pub use seal::{CustodyError, Reason};
pub use withhold::Show;

/// The label under which the key for placeholders is derived from the key-encryption key.
const PLACEHOLDER_LABEL: &str = "portcullis placeholder v1";

/// What seals, opens, withholds and keeps: the key-encryption key at work.
///
/// Cheap to clone, safe to share; its `Debug` shows no key.
#[derive(Clone, Debug)]
pub struct Custody {
    key: aead::Key,
    kek_id: String,
    placeholders: MacKey,
}

impl Custody {
    /// Custody under this key.
    ///
    /// # Errors
    /// When OpenSSL cannot derive a key.
    pub fn new(kek: &Kek) -> Result<Self, CryptoError> {
        Ok(Self {
            key: kek.key().clone(),
            kek_id: kek.id().to_owned(),
            placeholders: kek.derive_mac_key(PLACEHOLDER_LABEL)?,
        })
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

    use super::samples::{CANARY, custody, document};
    use super::*;

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
