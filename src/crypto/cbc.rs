//! AES-CBC, decryption only: for what other gateways have sealed. Nothing is sealed with it here, as
//! it tells nobody whether a text was changed.

use openssl::cipher::{Cipher, CipherRef};
use openssl::cipher_ctx::CipherCtx;
use zeroize::Zeroizing;

use super::error::CryptoError;

/// Bytes of a block, and of an initialization vector.
pub const BLOCK_BYTES: usize = 16;

/// Decrypts with AES-128 (a key of 16 bytes) or AES-256 (32), and takes PKCS #7 padding off.
/// `None`: the padding is none, as with another key, or the lengths are not those of the cipher.
///
/// # Errors
/// When no active provider offers the cipher.
pub fn open(
    key: &[u8],
    iv: &[u8; BLOCK_BYTES],
    ciphertext: &[u8],
) -> Result<Option<Zeroizing<Vec<u8>>>, CryptoError> {
    let cipher: &CipherRef = match key.len() {
        16 => Cipher::aes_128_cbc(),
        32 => Cipher::aes_256_cbc(),
        _ => return Ok(None),
    };
    if ciphertext.is_empty() || !ciphertext.len().is_multiple_of(BLOCK_BYTES) {
        return Ok(None);
    }
    // A block more than is written at most, as EVP_DecryptUpdate(3) asks for.
    let room = ciphertext.len().saturating_add(BLOCK_BYTES);
    let mut plaintext = Zeroizing::new(vec![0_u8; room]);
    let mut run = || {
        let mut ctx = CipherCtx::new()?;
        ctx.decrypt_init(Some(cipher), Some(key), Some(iv))?;
        let written = ctx.cipher_update(ciphertext, Some(&mut plaintext))?;
        Ok((ctx, written))
    };
    let (mut ctx, written) = run().map_err(CryptoError::during("decrypt by AES-CBC"))?;
    let rest = plaintext.get_mut(written..).unwrap_or_default();
    // The last step only looks at the padding.
    let Ok(last) = ctx.cipher_final(rest) else {
        return Ok(None);
    };
    plaintext.truncate(written.saturating_add(last));
    Ok(Some(plaintext))
}

#[cfg(test)]
mod tests {
    use openssl::symm;

    use super::*;

    #[test]
    fn text_of_another_program_opens_with_its_key_only() {
        let iv = *b"0123456789abcdef";
        for (key, cipher) in [
            (&b"0123456789abcdef"[..], symm::Cipher::aes_128_cbc()),
            (
                &b"0123456789abcdef0123456789ABCDEF"[..],
                symm::Cipher::aes_256_cbc(),
            ),
        ] {
            for text in ["", "a key", "sixteen bytes...", &"x".repeat(5000)] {
                let sealed = symm::encrypt(cipher, key, Some(&iv), text.as_bytes()).unwrap();
                let opened = open(key, &iv, &sealed).unwrap().unwrap();
                assert_eq!(*opened, text.as_bytes());
                let other = vec![b'z'; key.len()];
                let wrong = open(&other, &iv, &sealed).unwrap();
                assert!(wrong.is_none_or(|wrong| *wrong != text.as_bytes()));
            }
        }
    }

    #[test]
    fn lengths_that_the_cipher_has_not_are_none() {
        let iv = [0; BLOCK_BYTES];
        for (key, text) in [(15, 16), (24, 16), (0, 16), (16, 0), (16, 15), (32, 33)] {
            assert!(open(&vec![0; key], &iv, &vec![0; text]).unwrap().is_none());
        }
    }
}
