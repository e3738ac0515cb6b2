//! Random bytes and identifiers, from OpenSSL's generator alone.
//!
//! In FIPS mode that generator is the module's CTR-DRBG.

use std::fmt::Write;

use super::error::CryptoError;

/// Fills `bytes` with random bytes, fit for keys.
///
/// `RAND_priv_bytes(3)`: a generator of its own, so that public values tell nothing about keys.
///
/// # Errors
/// When the generator is not seeded or its provider is in its error state; `bytes` is then not
/// to be used.
pub fn fill(bytes: &mut [u8]) -> Result<(), CryptoError> {
    openssl::rand::rand_priv_bytes(bytes).map_err(CryptoError::during("make random bytes"))
}

/// `N` random bytes, fit for keys.
///
/// # Errors
/// As [`fill`].
pub fn array<const N: usize>() -> Result<[u8; N], CryptoError> {
    let mut bytes = [0_u8; N];
    fill(&mut bytes)?;
    Ok(bytes)
}

/// A random identifier: `byte_count` bytes as lower-case hex, so twice as many characters.
///
/// Identifiers are public, so they come from the public generator (`RAND_bytes(3)`).
///
/// # Errors
/// As [`fill`].
pub fn hex_id(byte_count: usize) -> Result<String, CryptoError> {
    let mut bytes = vec![0_u8; byte_count];
    openssl::rand::rand_bytes(&mut bytes).map_err(CryptoError::during("make random bytes"))?;
    let mut id = String::with_capacity(byte_count.saturating_mul(2));
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(id, "{byte:02x}");
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_differ() {
        assert_ne!(array::<32>().unwrap(), array::<32>().unwrap());
    }

    #[test]
    fn filling_nothing_succeeds() {
        fill(&mut []).unwrap();
    }

    #[test]
    fn identifier_has_two_hex_digits_per_byte() {
        let id = hex_id(16).unwrap();
        assert_eq!(id.len(), 32);
        assert!(
            id.bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)),
            "{id}"
        );
        assert_ne!(id, hex_id(16).unwrap());
    }
}
