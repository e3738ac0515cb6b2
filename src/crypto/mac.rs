//! HMAC-SHA256 (RFC 2104, FIPS 198-1): the one MAC of the package.

use std::fmt;

use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use zeroize::Zeroizing;

use super::digest::{SHA256_BYTES, frame};
use super::error::CryptoError;
use super::rand;

/// A key for HMAC-SHA256, wiped when dropped; its `Debug` shows no byte of it.
///
/// # Defaults
/// [`MacKey::random`] makes 32 bytes. Any length is accepted, since keys of other systems (AWS
/// request signing, JWT) have their own.
#[derive(Clone)]
pub struct MacKey(Zeroizing<Vec<u8>>);

impl MacKey {
    /// The key with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    /// A new random key of 32 bytes.
    ///
    /// # Errors
    /// As [`rand::fill`].
    pub fn random() -> Result<Self, CryptoError> {
        let mut bytes = Zeroizing::new(vec![0_u8; SHA256_BYTES]);
        rand::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// The key's bytes, for sealing them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The MAC of `parts`, one after the other.
    ///
    /// # Errors
    /// When no active provider offers HMAC-SHA256 or it is in its error state.
    pub fn mac(&self, parts: &[&[u8]]) -> Result<[u8; SHA256_BYTES], CryptoError> {
        hmac_sha256(&self.0, parts)
    }

    /// The MAC of a list of fields, different for every different list.
    ///
    /// Framed as in [`sha256_framed`](super::digest::sha256_framed).
    ///
    /// # Errors
    /// As [`MacKey::mac`].
    pub fn mac_framed(&self, fields: &[&[u8]]) -> Result<[u8; SHA256_BYTES], CryptoError> {
        let frames: Vec<[u8; 8]> = fields.iter().map(|field| frame(field)).collect();
        let parts: Vec<&[u8]> = frames
            .iter()
            .zip(fields)
            .flat_map(|(frame, field)| [frame.as_slice(), field])
            .collect();
        self.mac(&parts)
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey(withheld)")
    }
}

/// HMAC-SHA256 of `parts`, one after the other, under the bytes `key`.
///
/// Compare MACs with [`compare::is_equal`](super::compare::is_equal), never with `==`.
///
/// # Errors
/// When no active provider offers HMAC-SHA256 or it is in its error state.
pub fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> Result<[u8; SHA256_BYTES], CryptoError> {
    // OpenSSL 3.0 refuses an empty key. HMAC pads keys with zero bytes, so this one is the same.
    let key = if key.is_empty() { &[0] } else { key };
    let key = PKey::hmac(key).map_err(CryptoError::during("load an HMAC key"))?;
    let mut signer = Signer::new(MessageDigest::sha256(), &key)
        .map_err(CryptoError::during("start an HMAC-SHA256"))?;
    for part in parts {
        signer
            .update(part)
            .map_err(CryptoError::during("add to an HMAC-SHA256"))?;
    }
    let mut mac = [0_u8; SHA256_BYTES];
    signer
        .sign(&mut mac)
        .map_err(CryptoError::during("finish an HMAC-SHA256"))?;
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn macs_are_those_of_rfc_4231() {
        // RFC 4231, sections 4.2, 4.3 and 4.7.
        let cases: [(&[u8], &[u8], &str); 3] = [
            (
                &[0x0b; 20],
                b"Hi There",
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            ),
            (
                b"Jefe",
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                &[0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
        ];
        for (key, data, expected) in cases {
            assert_eq!(hex(&hmac_sha256(key, &[data]).unwrap()), expected);
            let (head, tail) = data.split_at(5);
            assert_eq!(
                hex(&MacKey::from_bytes(key).mac(&[head, tail]).unwrap()),
                expected
            );
        }
    }

    #[test]
    fn empty_key_is_a_key() {
        let expected = "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad";
        assert_eq!(hex(&hmac_sha256(b"", &[]).unwrap()), expected);
    }

    #[test]
    fn fields_keep_their_borders_and_parts_do_not() {
        let key = MacKey::random().unwrap();
        assert_eq!(
            key.mac(&[b"ab", b"c"]).unwrap(),
            key.mac(&[b"a", b"bc"]).unwrap()
        );
        assert_ne!(
            key.mac_framed(&[b"ab", b"c"]).unwrap(),
            key.mac_framed(&[b"a", b"bc"]).unwrap()
        );
    }

    #[test]
    fn random_keys_differ() {
        let (one, other) = (MacKey::random().unwrap(), MacKey::random().unwrap());
        assert_ne!(one.mac(&[b"x"]).unwrap(), other.mac(&[b"x"]).unwrap());
    }

    #[test]
    fn debug_shows_no_key_byte() {
        assert_eq!(
            format!("{:?}", MacKey::from_bytes(b"secret")),
            "MacKey(withheld)"
        );
    }
}
