//! Comparing secrets so that the time taken tells nothing about where they differ.

use super::digest::sha256;
use super::error::CryptoError;

/// Whether two byte strings are equal, in time that does not depend on where they differ.
///
/// Compares the SHA-256 digests of both by `CRYPTO_memcmp(3)`, so that strings of different length
/// take the same path as strings of equal length.
///
/// # Errors
/// When the digest cannot be computed; the caller treats that as unequal and reports it.
pub fn is_equal(left: &[u8], right: &[u8]) -> Result<bool, CryptoError> {
    let (left, right) = (sha256(&[left])?, sha256(&[right])?);
    Ok(openssl::memcmp::eq(left.as_bytes(), right.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_are_equal() {
        for text in [
            b"".as_slice(),
            b"a",
            b"a longer one than one block of the digest is, 64 bytes",
        ] {
            assert!(is_equal(text, text.to_vec().as_slice()).unwrap());
        }
    }

    #[test]
    fn different_strings_are_not_equal() {
        let pairs: [(&[u8], &[u8]); 5] = [
            (b"a", b"b"),
            (b"", b"a"),
            (b"a", b"aa"),
            (b"a", b"a\0"),
            (b"abc", b"abd"),
        ];
        for (left, right) in pairs {
            assert!(!is_equal(left, right).unwrap(), "{left:?} {right:?}");
            assert!(!is_equal(right, left).unwrap(), "{right:?} {left:?}");
        }
    }
}
