//! AES-256-GCM (NIST SP 800-38D) for secrets at rest.
//!
//! The nonce is 96 random bits that the cipher's provider makes itself during the encryption: the
//! only way of using GCM that a FIPS module approves. What is bound by the associated data, and how
//! a sealed value is written down, is the caller's business.

use std::fmt;

use openssl::cipher::Cipher;
use openssl::cipher_ctx::CipherCtx;
use zeroize::Zeroizing;

use super::error::CryptoError;
use super::mac::MacKey;
use super::{rand, sys};

/// How many bytes a key has.
pub const KEY_BYTES: usize = 32;
/// How many bytes a nonce has.
pub const NONCE_BYTES: usize = 12;
/// How many bytes the authentication tag has.
pub const TAG_BYTES: usize = 16;
/// The longest text that is sealed or opened, in bytes.
pub const MAX_TEXT_BYTES: usize = 64 * 1024 * 1024;

/// A key of AES-256-GCM, wiped when dropped; its `Debug` shows no byte of it.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; KEY_BYTES]>);

/// A sealed text: nonce, ciphertext and tag, none of them secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    nonce: [u8; NONCE_BYTES],
    /// The ciphertext, as long as the plaintext, followed by the tag.
    body: Vec<u8>,
}

/// Why a text was not sealed or not opened.
#[derive(Debug, thiserror::Error)]
pub enum AeadError {
    /// Another key, other associated data, or changed bytes: which of them cannot be told.
    #[error("the sealed value does not fit this key and place, or it was changed")]
    NotAuthentic,
    /// The bytes are too few to hold a nonce and a tag.
    #[error("a sealed value has at least 28 bytes")]
    TooShort,
    /// The text is longer than [`MAX_TEXT_BYTES`].
    #[error("a text to seal or open has at most 64 MiB")]
    TooLong,
    /// A key that is not [`KEY_BYTES`] long.
    #[error("a key of AES-256 has 32 bytes, not {0}")]
    KeyLength(usize),
    /// OpenSSL refused the operation itself.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

impl Key {
    /// The key with these bytes.
    ///
    /// # Errors
    /// [`AeadError::KeyLength`] unless they are [`KEY_BYTES`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AeadError> {
        let mut key = Zeroizing::new([0_u8; KEY_BYTES]);
        if bytes.len() != key.len() {
            return Err(AeadError::KeyLength(bytes.len()));
        }
        key.copy_from_slice(bytes);
        Ok(Self(key))
    }

    /// A new random key.
    ///
    /// # Errors
    /// As [`rand::fill`].
    pub fn random() -> Result<Self, CryptoError> {
        let mut key = Zeroizing::new([0_u8; KEY_BYTES]);
        rand::fill(key.as_mut_slice())?;
        Ok(Self(key))
    }

    /// The key's bytes, to write them to where keys are kept; nowhere else.
    #[must_use]
    pub fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// A MAC key that follows from this key and `label` and tells nothing about either.
    ///
    /// The key derivation of NIST SP 800-108r1 section 4.1 (counter mode, HMAC-SHA256, one round,
    /// no context).
    ///
    /// # Errors
    /// As [`MacKey::mac`].
    pub fn derive_mac_key(&self, label: &str) -> Result<MacKey, CryptoError> {
        /// The round, as 32 bits.
        const COUNTER: [u8; 4] = 1_u32.to_be_bytes();
        /// The border after the label, and the length of the result in bits, as 32 bits.
        const TAIL: [u8; 5] = [0, 0, 0, 1, 0];
        let derived =
            MacKey::from_bytes(self.expose()).mac(&[&COUNTER, label.as_bytes(), &TAIL])?;
        Ok(MacKey::from_bytes(Zeroizing::new(derived).as_slice()))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(withheld)")
    }
}

impl Sealed {
    /// The stored form: nonce, ciphertext, tag, one after the other.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [self.nonce.as_slice(), &self.body].concat()
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`AeadError::TooShort`].
    pub fn parse(bytes: &[u8]) -> Result<Self, AeadError> {
        let (nonce, body) = bytes.split_first_chunk().ok_or(AeadError::TooShort)?;
        if body.len() < TAG_BYTES {
            return Err(AeadError::TooShort);
        }
        Ok(Self {
            nonce: *nonce,
            body: body.to_vec(),
        })
    }
}

/// Encrypts `plaintext` under `key` and binds it to `aad`, the associated data.
///
/// Random nonces allow 2^32 texts per key (SP 800-38D section 8.3).
///
/// # Errors
/// [`AeadError::TooLong`]; [`AeadError::Crypto`] when no active provider offers the cipher.
pub fn seal(key: &Key, aad: &[u8], plaintext: &[u8]) -> Result<Sealed, AeadError> {
    check_length(aad)?;
    check_length(plaintext)?;
    let mut sealed = Sealed {
        nonce: [0; NONCE_BYTES],
        body: vec![0; plaintext.len() + TAG_BYTES],
    };
    let (ciphertext, tag) = sealed.body.split_at_mut(plaintext.len());
    let mut run = || {
        let mut ctx = CipherCtx::new()?;
        ctx.encrypt_init(Some(Cipher::aes_256_gcm()), Some(key.expose()), None)?;
        ctx.cipher_update(aad, None)?;
        ctx.cipher_update(plaintext, Some(ciphertext))?;
        ctx.cipher_final(&mut [])?;
        ctx.tag(tag)?;
        sys::cipher_iv(&ctx, &mut sealed.nonce)
    };
    run().map_err(CryptoError::during("encrypt by AES-256-GCM"))?;
    Ok(sealed)
}

/// Decrypts what [`seal`] made under the same key and with the same associated data.
///
/// # Errors
/// [`AeadError::NotAuthentic`] for another key, other associated data or changed bytes;
/// [`AeadError::TooLong`]; [`AeadError::Crypto`] when no active provider offers the cipher.
pub fn open(key: &Key, aad: &[u8], sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, AeadError> {
    let Some((ciphertext, tag)) = sealed.body.split_last_chunk::<TAG_BYTES>() else {
        return Err(AeadError::TooShort);
    };
    check_length(aad)?;
    check_length(ciphertext)?;
    let mut plaintext = Zeroizing::new(vec![0_u8; ciphertext.len()]);
    let mut run = || {
        let mut ctx = CipherCtx::new()?;
        ctx.decrypt_init(
            Some(Cipher::aes_256_gcm()),
            Some(key.expose()),
            Some(&sealed.nonce),
        )?;
        ctx.cipher_update(aad, None)?;
        ctx.cipher_update(ciphertext, Some(&mut plaintext))?;
        ctx.set_tag(tag)?;
        Ok(ctx)
    };
    let mut ctx = run().map_err(CryptoError::during("decrypt by AES-256-GCM"))?;
    // The last step only compares the tags.
    if ctx.cipher_final(&mut []).is_err() {
        return Err(AeadError::NotAuthentic);
    }
    Ok(plaintext)
}

/// Keeps lengths within what OpenSSL's C integers and GCM allow.
fn check_length(text: &[u8]) -> Result<(), AeadError> {
    if text.len() > MAX_TEXT_BYTES {
        Err(AeadError::TooLong)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AAD: &[u8] = b"ssl/1/key";
    const TEXT: &[u8] = b"a private key";

    fn is_not_authentic(result: &Result<Zeroizing<Vec<u8>>, AeadError>) -> bool {
        matches!(result, Err(AeadError::NotAuthentic))
    }

    #[test]
    fn sealed_text_opens_with_same_key_and_data() {
        let key = Key::random().unwrap();
        for text in [TEXT, b"", &[7_u8; 5000]] {
            for aad in [AAD, b""] {
                let sealed = seal(&key, aad, text).unwrap();
                assert_eq!(sealed.to_bytes().len(), text.len() + 28);
                assert_eq!(open(&key, aad, &sealed).unwrap().as_slice(), text);
            }
        }
    }

    #[test]
    fn stored_form_parses_back() {
        let key = Key::random().unwrap();
        let sealed = seal(&key, AAD, TEXT).unwrap();
        assert_eq!(Sealed::parse(&sealed.to_bytes()).unwrap(), sealed);
    }

    #[test]
    fn key_that_is_stored_and_read_again_opens() {
        let key = Key::random().unwrap();
        let sealed = seal(&key, AAD, TEXT).unwrap();
        let again = Key::from_bytes(key.expose()).unwrap();
        assert_eq!(open(&again, AAD, &sealed).unwrap().as_slice(), TEXT);
    }

    #[test]
    fn vector_of_the_gcm_specification_opens() {
        // McGrew and Viega, "The Galois/Counter Mode of Operation", test case 14.
        let stored: Vec<u8> = [
            [0; NONCE_BYTES].as_slice(),
            &[
                0xce, 0xa7, 0x40, 0x3d, 0x4d, 0x60, 0x6b, 0x6e, 0x07, 0x4e, 0xc5, 0xd3, 0xba, 0xf3,
                0x9d, 0x18,
            ],
            &[
                0xd0, 0xd1, 0xc8, 0xa7, 0x99, 0x99, 0x6b, 0xf0, 0x26, 0x5b, 0x98, 0xb5, 0xd4, 0x8a,
                0xb9, 0x19,
            ],
        ]
        .concat();
        let key = Key::from_bytes(&[0; KEY_BYTES]).unwrap();
        let text = open(&key, b"", &Sealed::parse(&stored).unwrap()).unwrap();
        assert_eq!(text.as_slice(), [0; 16]);
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let key = Key::random().unwrap();
        let stored = seal(&key, AAD, TEXT).unwrap().to_bytes();
        for i in 0..stored.len() {
            let mut changed = stored.clone();
            changed[i] ^= 1;
            assert!(
                is_not_authentic(&open(&key, AAD, &Sealed::parse(&changed).unwrap())),
                "{i}"
            );
        }
        assert!(open(&key, AAD, &Sealed::parse(&stored).unwrap()).is_ok());
    }

    #[test]
    fn shortened_text_is_noticed() {
        let key = Key::random().unwrap();
        let stored = seal(&key, AAD, TEXT).unwrap().to_bytes();
        let shorter = &stored[..stored.len() - 1];
        assert!(is_not_authentic(&open(
            &key,
            AAD,
            &Sealed::parse(shorter).unwrap()
        )));
        assert!(matches!(
            Sealed::parse(&stored[..27]),
            Err(AeadError::TooShort)
        ));
    }

    #[test]
    fn value_moved_to_another_place_does_not_open() {
        let key = Key::random().unwrap();
        let sealed = seal(&key, AAD, TEXT).unwrap();
        for aad in [b"ssl/2/key".as_slice(), b"", b"ssl/1/key "] {
            assert!(is_not_authentic(&open(&key, aad, &sealed)), "{aad:?}");
        }
    }

    #[test]
    fn another_key_does_not_open() {
        let sealed = seal(&Key::random().unwrap(), AAD, TEXT).unwrap();
        assert!(is_not_authentic(&open(
            &Key::random().unwrap(),
            AAD,
            &sealed
        )));
    }

    #[test]
    fn same_text_is_sealed_differently_each_time() {
        let key = Key::random().unwrap();
        let (one, other) = (
            seal(&key, AAD, TEXT).unwrap(),
            seal(&key, AAD, TEXT).unwrap(),
        );
        assert_ne!(one.nonce, other.nonce);
        assert_ne!(one.body, other.body);
    }

    #[test]
    fn key_of_another_length_is_refused() {
        for length in [0, 16, 31, 33] {
            let refusal = Key::from_bytes(&vec![0; length]).unwrap_err();
            assert!(matches!(refusal, AeadError::KeyLength(n) if n == length));
        }
        assert!(Key::from_bytes(&[0; 32]).is_ok());
    }

    #[test]
    fn derived_keys_depend_on_key_and_label() {
        let (key, other) = (Key::random().unwrap(), Key::random().unwrap());
        let mac = |key: &Key, label| key.derive_mac_key(label).unwrap().mac(&[b"x"]).unwrap();
        assert_eq!(mac(&key, "audit"), mac(&key, "audit"));
        assert_ne!(mac(&key, "audit"), mac(&key, "cursor"));
        assert_ne!(mac(&key, "audit"), mac(&other, "audit"));
    }

    #[test]
    fn debug_shows_no_key_byte() {
        assert_eq!(format!("{:?}", Key::random().unwrap()), "Key(withheld)");
    }
}
