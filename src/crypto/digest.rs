//! SHA-256: the one digest of the package.
//!
//! Computed by `openssl::hash`, that is by the active provider; `openssl::sha` would bypass it.

use std::fmt;
use std::str::FromStr;

use openssl::hash::{Hasher, MessageDigest};

use super::error::CryptoError;

/// How many bytes a SHA-256 digest has.
pub const SHA256_BYTES: usize = 32;

/// A SHA-256 digest; shown and parsed as 64 hex digits, lower-case when shown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256([u8; SHA256_BYTES]);

/// A text that is not 64 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 digest is written as 64 hex digits")]
pub struct NotADigest;

/// The digest of `parts`, one after the other.
///
/// `["ab", "c"]` and `["a", "bc"]` give the same digest: use [`sha256_framed`] for fields.
///
/// # Errors
/// When no active provider offers SHA-256 or it is in its error state.
pub fn sha256(parts: &[&[u8]]) -> Result<Sha256, CryptoError> {
    let mut hasher = start()?;
    for part in parts {
        add(&mut hasher, part)?;
    }
    finish(hasher)
}

/// The digest of a list of fields, different for every different list.
///
/// Each field is preceded by its length in bytes, as eight bytes, most significant first.
///
/// # Errors
/// As [`sha256`].
pub fn sha256_framed(fields: &[&[u8]]) -> Result<Sha256, CryptoError> {
    let mut hasher = start()?;
    for field in fields {
        add(&mut hasher, &frame(field))?;
        add(&mut hasher, field)?;
    }
    finish(hasher)
}

/// The length prefix of one field.
pub(super) fn frame(field: &[u8]) -> [u8; 8] {
    // A slice is at most isize::MAX bytes long, so the fallback is never taken.
    u64::try_from(field.len()).unwrap_or(u64::MAX).to_be_bytes()
}

fn start() -> Result<Hasher, CryptoError> {
    Hasher::new(MessageDigest::sha256()).map_err(CryptoError::during("start a SHA-256 digest"))
}

fn add(hasher: &mut Hasher, bytes: &[u8]) -> Result<(), CryptoError> {
    hasher
        .update(bytes)
        .map_err(CryptoError::during("add to a SHA-256 digest"))
}

fn finish(mut hasher: Hasher) -> Result<Sha256, CryptoError> {
    let digest = hasher
        .finish()
        .map_err(CryptoError::during("finish a SHA-256 digest"))?;
    let mut bytes = [0_u8; SHA256_BYTES];
    bytes.copy_from_slice(&digest);
    Ok(Sha256(bytes))
}

impl Sha256 {
    /// The digest with these bytes, for example one that was stored.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; SHA256_BYTES]) -> Self {
        Self(bytes)
    }

    /// The digest's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; SHA256_BYTES] {
        &self.0
    }
}

impl AsRef<[u8]> for Sha256 {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256({self})")
    }
}

impl FromStr for Sha256 {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let mut digits = text
            .chars()
            .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()));
        let mut bytes = [0_u8; SHA256_BYTES];
        for byte in &mut bytes {
            let high = digits.next().flatten().ok_or(NotADigest)?;
            let low = digits.next().flatten().ok_or(NotADigest)?;
            *byte = high << 4 | low;
        }
        if digits.next().is_some() {
            Err(NotADigest)
        } else {
            Ok(Self(bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-2, appendix B.1: the digest of "abc".
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn digest_of_abc_is_that_of_the_standard() {
        assert_eq!(sha256(&[b"abc"]).unwrap().to_string(), ABC);
    }

    #[test]
    fn digest_of_nothing_is_that_of_the_empty_string() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256(&[]).unwrap().to_string(), empty);
        assert_eq!(sha256(&[b"", b""]).unwrap().to_string(), empty);
    }

    #[test]
    fn parts_are_joined_without_a_border() {
        assert_eq!(sha256(&[b"ab", b"c"]).unwrap(), sha256(&[b"abc"]).unwrap());
    }

    #[test]
    fn fields_keep_their_borders() {
        let lists: [&[&[u8]]; 5] = [
            &[b"ab", b"c"],
            &[b"a", b"bc"],
            &[b"abc"],
            &[b"abc", b""],
            &[],
        ];
        for (i, left) in lists.iter().enumerate() {
            for (j, right) in lists.iter().enumerate() {
                let same = sha256_framed(left).unwrap() == sha256_framed(right).unwrap();
                assert_eq!(same, i == j, "{left:?} and {right:?}");
            }
        }
    }

    #[test]
    fn shown_digest_parses_back() {
        let digest = sha256(&[b"abc"]).unwrap();
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(ABC.to_uppercase().parse(), Ok(digest));
    }

    #[test]
    fn text_that_is_no_digest_does_not_parse() {
        let long = format!("{ABC}0");
        let foreign = ABC.replace('b', "é");
        for text in [
            "",
            "ba78",
            &ABC[1..],
            &long,
            &foreign,
            &ABC.replace('b', "g"),
        ] {
            assert_eq!(text.parse::<Sha256>(), Err(NotADigest), "{text:?}");
        }
    }
}
