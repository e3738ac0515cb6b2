//! The key-encryption key: its forms, its name, what follows from it.

use std::fmt;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use crate::crypto::aead::{self, KEY_BYTES};
use crate::crypto::compare::is_equal;
use crate::crypto::digest::sha256;
use crate::crypto::error::CryptoError;
use crate::crypto::mac::MacKey;

/// Under which name the store keeps the check value.
pub const CHECK_NAME: &str = "kek_check";

/// The label under which the check value's key is derived.
const CHECK_LABEL: &str = "portcullis kek check v1";

/// What is digested before the key's bytes to name it.
const ID_LABEL: &[u8] = b"portcullis kek id";

/// A key-encryption key: 32 bytes, wiped when dropped; its `Debug` shows its id only.
#[derive(Clone)]
pub struct Kek {
    key: aead::Key,
    id: String,
}

impl Kek {
    /// The key with these 32 bytes.
    ///
    /// # Errors
    /// [`KekError::NotAKey`] for another length.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KekError> {
        Self::of(aead::Key::from_bytes(bytes).map_err(|_length| KekError::NotAKey)?)
    }

    /// A new random key.
    ///
    /// # Errors
    /// When OpenSSL has no random bytes.
    pub fn random() -> Result<Self, KekError> {
        Self::of(aead::Key::random()?)
    }

    /// Reads a key as it is written in a file: 32 raw bytes, 64 hex digits, or the base64 form of
    /// 32 bytes (RFC 4648, either alphabet); blanks around the latter two are ignored.
    ///
    /// # Errors
    /// [`KekError::NotAKey`]; [`KekError::Text`] for 32 bytes that somebody typed.
    pub fn parse(content: &[u8]) -> Result<Self, KekError> {
        if content.len() == KEY_BYTES {
            // 32 random bytes are never all printable; a password has not 256 bits.
            if content.iter().all(u8::is_ascii_graphic) {
                return Err(KekError::Text);
            }
            return Self::from_bytes(content);
        }
        let text = content.trim_ascii();
        let bytes = parse_hex(text).or_else(|| {
            let mut decoded = [&STANDARD, &URL_SAFE, &URL_SAFE_NO_PAD]
                .into_iter()
                .filter_map(|form| form.decode(text).ok().map(Zeroizing::new));
            decoded.next()
        });
        Self::from_bytes(&bytes.ok_or(KekError::NotAKey)?)
    }

    /// 16 hex digits that name the key and tell nothing about it; sealed values carry them.
    ///
    /// The first 8 bytes of SHA-256("portcullis kek id" ‖ key).
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A MAC key that follows from this key and `label`, for example that of the audit chain.
    ///
    /// # Errors
    /// When OpenSSL cannot derive it.
    pub fn derive_mac_key(&self, label: &str) -> Result<MacKey, CryptoError> {
        self.key.derive_mac_key(label)
    }

    /// What the store keeps, under [`CHECK_NAME`], to recognise the key: its id and a MAC.
    ///
    /// # Errors
    /// When OpenSSL cannot compute it.
    pub fn check_value(&self) -> Result<String, CryptoError> {
        let mac = self
            .derive_mac_key(CHECK_LABEL)?
            .mac(&[self.id.as_bytes()])?;
        Ok(format!("{}:{}", self.id, hex(&mac)))
    }

    pub(super) const fn key(&self) -> &aead::Key {
        &self.key
    }

    fn of(key: aead::Key) -> Result<Self, KekError> {
        let digest = sha256(&[ID_LABEL, key.expose()])?;
        let id = digest.as_bytes().first_chunk::<8>().map(|start| hex(start));
        Ok(Self {
            key,
            id: id.unwrap_or_default(),
        })
    }

    /// Whether this is the key that `check` was made with.
    pub(super) fn fits(&self, check: &str) -> Result<bool, CryptoError> {
        is_equal(self.check_value()?.as_bytes(), check.as_bytes())
    }
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kek({})", self.id)
    }
}

/// Where a key is kept. `Display` is for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptIn {
    /// Nowhere: it was drawn at random and ends with the process.
    Memory,
    /// The configuration's `kek` has it, or leads to it.
    Configuration,
    /// This file.
    File(PathBuf),
}

impl fmt::Display for KeptIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("drawn for this process"),
            Self::Configuration => f.write_str("`kek` of the configuration"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A key at work, told without showing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KekFacts {
    /// [`Kek::id`].
    pub id: String,
    /// Where it is kept.
    pub kept_in: KeptIn,
    /// Whether it seals; the other one only opens what is not yet sealed anew.
    pub is_current: bool,
}

/// Why a text is no key. Sentences are for the operator.
#[derive(Debug, thiserror::Error)]
pub enum KekError {
    /// The content is no key.
    #[error(
        "a key-encryption key is 32 random bytes: raw, as 64 hex digits or in base64; \
         `openssl rand -hex 32` makes one"
    )]
    NotAKey,
    /// 32 printable characters: a password, or a key of half the length in hex.
    #[error(
        "32 printable characters are no key-encryption key: 32 random bytes are needed, raw, as \
         64 hex digits or in base64; `openssl rand -hex 32` makes one"
    )]
    Text,
    /// OpenSSL failed.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

/// Bytes as hex digits. What is returned was never moved by growing.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    let mut text = String::with_capacity(bytes.len() * 2 + 1);
    for byte in bytes {
        text.extend(
            [byte >> 4, byte & 15]
                .iter()
                .filter_map(|d| DIGITS.get(usize::from(*d))),
        );
    }
    text
}

/// The bytes written as 64 hex digits.
fn parse_hex(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    if text.len() != KEY_BYTES * 2 {
        return None;
    }
    let digit = |byte: &u8| {
        char::from(*byte)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_BYTES));
    for pair in text.chunks_exact(2) {
        let [high, low] = pair else { return None };
        bytes.push(digit(high)? << 4 | digit(low)?);
    }
    Some(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The bytes of a key.
    pub(crate) const BYTES: [u8; 32] = *b"\x00\x01\xff456789abcdefghijklmnopqrstuv\n";

    #[test]
    fn every_form_gives_the_same_key() {
        let raw = Kek::from_bytes(&BYTES).unwrap();
        let hex = hex(&BYTES);
        let forms = [
            BYTES.to_vec(),
            hex.clone().into_bytes(),
            hex.to_uppercase().into_bytes(),
            format!(" {hex}\r\n").into_bytes(),
            STANDARD.encode(BYTES).into_bytes(),
            format!("{}\n", STANDARD.encode(BYTES)).into_bytes(),
            URL_SAFE.encode(BYTES).into_bytes(),
            URL_SAFE_NO_PAD.encode(BYTES).into_bytes(),
        ];
        for form in forms {
            let kek = Kek::parse(&form).unwrap();
            assert_eq!(kek.key.expose(), raw.key.expose());
            assert_eq!(kek.id(), raw.id());
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let hex = hex(&BYTES);
        let short = STANDARD.encode(&BYTES[..31]);
        for content in [
            "",
            "x",
            &hex[1..],
            &format!("{hex}0"),
            &hex.replace('f', "g"),
            &short,
        ] {
            assert!(
                matches!(Kek::parse(content.as_bytes()), Err(KekError::NotAKey)),
                "{content}"
            );
        }
        for content in ["qeddd145sfvddff3edd1c9f0985e76a2", &hex[..32]] {
            assert!(
                matches!(Kek::parse(content.as_bytes()), Err(KekError::Text)),
                "{content}"
            );
        }
    }

    #[test]
    fn id_and_check_value_tell_keys_apart_and_show_none() {
        let (one, other) = (Kek::from_bytes(&BYTES).unwrap(), Kek::random().unwrap());
        assert_eq!(one.id().len(), 16);
        assert_ne!(one.id(), other.id());
        let check = one.check_value().unwrap();
        assert!(one.fits(&check).unwrap());
        assert!(!other.fits(&check).unwrap());
        assert!(!one.fits("").unwrap());
        assert!(!check.contains(&hex(&BYTES)[..16]));
        assert_eq!(format!("{one:?}"), format!("Kek({})", one.id()));
    }
}
