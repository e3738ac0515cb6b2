//! What can be told of a symmetric key without showing it: for evidence.

use std::ffi::CStr;

use super::error::CryptoError;
use super::sys;

/// A cipher that this process has keys of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// What seals keys at rest ([`aead`](super::aead)).
    Aes256Gcm,
    /// What other gateways have sealed ([`cbc`](super::cbc)), with a short key.
    Aes128Cbc,
    /// The same with a long one, and what session tickets are encrypted with.
    Aes256Cbc,
}

/// A key of a cipher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CipherFacts {
    /// The cipher, by OpenSSL's name.
    pub algorithm: &'static str,
    /// Bits of the key.
    pub bits: u32,
    /// The provider that the cipher is fetched from at each use; `None` when OpenSSL does not say.
    pub provider: Option<String>,
}

impl Cipher {
    /// What can be told of each key of this cipher.
    ///
    /// # Errors
    /// When no active provider offers it.
    pub fn facts(self) -> Result<CipherFacts, CryptoError> {
        let (name, algorithm, bits): (&CStr, _, _) = match self {
            Self::Aes256Gcm => (c"AES-256-GCM", "AES-256-GCM", 256),
            Self::Aes128Cbc => (c"AES-128-CBC", "AES-128-CBC", 128),
            Self::Aes256Cbc => (c"AES-256-CBC", "AES-256-CBC", 256),
        };
        let provider = sys::cipher_provider(name).map_err(CryptoError::during("find a cipher"))?;
        Ok(CipherFacts {
            algorithm,
            bits,
            provider,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ciphers_come_from_the_provider_that_is_there() {
        // On the FIPS module the suite runs with that alone.
        let wanted = sys::random_provider().unwrap();
        for (cipher, bits) in [
            (Cipher::Aes256Gcm, 256),
            (Cipher::Aes128Cbc, 128),
            (Cipher::Aes256Cbc, 256),
        ] {
            let facts = cipher.facts().unwrap();
            assert_eq!((facts.bits, &facts.provider), (bits, &wanted));
        }
    }
}
