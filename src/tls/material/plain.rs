//! Private keys in PKCS#8 without a passphrase (RFC 5958), which nearly all are, read the short way.
//!
//! OpenSSL 3 reads a PEM text by trying a decoder for each form of each kind of key; set up anew
//! for each text, that costs several times what is left when form and kind are known.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use zeroize::Zeroizing;

/// How every boundary begins (RFC 7468 section 2).
const BOUNDARY: &str = "-----BEGIN ";
/// The boundaries of such a key (RFC 7468 section 10).
const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";

/// The key of a text that has one such block and no other; `None` where OpenSSL must be asked what
/// the text is.
pub(super) fn read(pem: &str) -> Option<PKey<Private>> {
    let (before, rest) = pem.split_once(BEGIN)?;
    let (body, after) = rest.split_once(END)?;
    if before.contains(BOUNDARY) || body.contains('-') || after.contains(BOUNDARY) {
        return None;
    }
    let mut packed = Zeroizing::new(Vec::with_capacity(body.len()));
    packed.extend(body.bytes().filter(|byte| !byte.is_ascii_whitespace()));
    let mut der = Zeroizing::new(vec![0; packed.len()]);
    let length = STANDARD.decode_slice(&*packed, &mut der).ok()?;
    let key = PKey::private_key_from_pkcs8(der.get(..length)?);
    // What it left behind must not be taken for the error of a later call.
    key.inspect_err(|_| drop(ErrorStack::get())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::material::PrivateKey;
    use openssl::rsa::Rsa;

    fn pem(key: &PKey<Private>) -> String {
        String::from_utf8(key.private_key_to_pem_pkcs8().unwrap()).unwrap()
    }

    #[test]
    fn key_is_the_one_that_openssl_reads() {
        let keys = [
            PKey::ec_gen("P-256").unwrap(),
            PKey::ec_gen("P-384").unwrap(),
            PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap(),
        ];
        for key in keys {
            let text = pem(&key);
            for text in [
                text.clone(),
                text.replace('\n', "\r\n"),
                format!("a note\n{text}\nanother"),
            ] {
                assert!(read(&text).unwrap().public_eq(&key), "{text}");
            }
        }
    }

    #[test]
    fn what_is_not_one_such_key_is_left_to_openssl() {
        let key = PKey::ec_gen("P-256").unwrap();
        let (text, older) = (
            pem(&key),
            key.ec_key().unwrap().private_key_to_pem().unwrap(),
        );
        let older = String::from_utf8(older).unwrap();
        let cut = text.replace("\n-----END", "!\n-----END");
        let short = text.replacen(&text[30..50], "", 1);
        for text in [
            older.as_str(),
            &format!("{text}{text}"),
            &format!("{older}{text}"),
            &cut,
            &short,
            "",
            BEGIN,
        ] {
            assert!(read(text).is_none(), "{text}");
        }
        assert!(ErrorStack::get().errors().is_empty());
        assert!(PrivateKey::parse(&older).is_ok());
        assert!(PrivateKey::parse(&short).is_err());
    }
}
