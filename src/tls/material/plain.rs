//! PEM texts without anything out of the ordinary, read the short way.
//!
//! OpenSSL 3 reads a private key by trying a decoder for each form of each kind of key; set up anew
//! for each text, that costs several times what is left when form and kind are known, and even then
//! most of it is the setting up: what was set up for a kind is used again. And to tell
//! a chain from another no certificate has to be understood.

use std::ffi::CStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use zeroize::Zeroizing;

use super::der::{IDENTIFIER, INTEGER, SEQUENCE, take};
use super::{Digest, sha256};
use crate::crypto::sys::KeyReader;

/// How every boundary begins (RFC 7468 section 2).
const BOUNDARY: &str = "-----BEGIN ";
/// The boundaries of a certificate (RFC 7468 section 5).
const BEGIN_CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
const END_CERTIFICATE: &str = "-----END CERTIFICATE-----";
/// The label of a PKCS#8 key without a passphrase, as nearly all are (RFC 7468 section 10).
const KEY: &str = "PRIVATE KEY";

/// How many readers of a kind are kept: as many as read at once, as a rule.
const READERS: usize = 16;

/// The kinds that nearly all keys are of.
static KINDS: [Kind; 2] = [
    // id-ecPublicKey, RFC 5480 section 2.1.1.
    Kind::new(c"EC", b"\x2a\x86\x48\xce\x3d\x02\x01"),
    // rsaEncryption, RFC 8017 appendix A.1.
    Kind::new(c"RSA", b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01"),
];

/// A kind of keys with those who read them.
struct Kind {
    /// OpenSSL's name.
    name: &'static CStr,
    /// What identifies its algorithm.
    identifier: &'static [u8],
    readers: Mutex<Vec<KeyReader>>,
}

impl Kind {
    const fn new(name: &'static CStr, identifier: &'static [u8]) -> Self {
        Self {
            name,
            identifier,
            readers: Mutex::new(Vec::new()),
        }
    }

    /// Reads a PKCS#8 key.
    fn read(&self, der: &[u8]) -> Result<PKey<Private>, ErrorStack> {
        let kept = self.readers().pop();
        let reader = kept.map_or_else(|| KeyReader::new(self.name), Ok)?;
        let (key, reader) = reader.read(der)?;
        let mut readers = self.readers();
        if readers.len() < READERS {
            readers.push(reader);
        }
        Ok(key)
    }

    fn readers(&self) -> MutexGuard<'_, Vec<KeyReader>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The key of a text that has one PKCS#8 block and no other; `None` where OpenSSL must be asked
/// what the text is.
pub(super) fn read(pem: &str) -> Option<PKey<Private>> {
    let (label, der) = only_block(pem)?;
    if label != KEY {
        return None;
    }
    // What an attempt left behind must not be taken for the error of a later call.
    let forget = |_: &ErrorStack| drop(ErrorStack::get());
    let identifier = identifier(&der);
    let mut kinds = KINDS.iter();
    let kind = kinds.find(|kind| identifier == Some(kind.identifier));
    let key = kind.and_then(|kind| kind.read(&der).inspect_err(forget).ok());
    key.or_else(|| {
        let key = PKey::private_key_from_pkcs8(&der);
        key.inspect_err(forget).ok()
    })
}

/// What identifies the algorithm of a PKCS#8 key (RFC 5958 section 2).
fn identifier(der: &[u8]) -> Option<&[u8]> {
    let (key, _) = take(der, SEQUENCE)?;
    let (_version, rest) = take(key, INTEGER)?;
    let (algorithm, _) = take(rest, SEQUENCE)?;
    take(algorithm, IDENTIFIER).map(|(identifier, _)| identifier)
}

/// Label and bytes of the only block of a text.
pub(super) fn only_block(pem: &str) -> Option<(&str, Zeroizing<Vec<u8>>)> {
    let (_before, rest) = pem.split_once(BOUNDARY)?;
    let (label, rest) = rest.split_once("-----")?;
    let (body, rest) = rest.split_once("-----END ")?;
    let after = rest.strip_prefix(label)?.strip_prefix("-----")?;
    let is_only = !body.contains(BOUNDARY) && !after.contains(BOUNDARY);
    is_only.then(|| Some((label, decode(body)?)))?
}

/// The bytes of a text's first block, if that is a certificate.
pub(super) fn first_certificate(pem: &str) -> Option<Zeroizing<Vec<u8>>> {
    let (before, rest) = pem.split_once(BEGIN_CERTIFICATE)?;
    let (body, _after) = rest.split_once(END_CERTIFICATE)?;
    (!before.contains(BOUNDARY)).then(|| decode(body))?
}

/// The digest of a text's chain; `None` where a block of it is no certificate.
pub(super) fn digest_of_certificates(pem: &str) -> Option<Digest> {
    let mut digests = Vec::new();
    let (mut before, mut rest) = pem.split_once(BEGIN_CERTIFICATE)?;
    loop {
        let (body, after) = rest.split_once(END_CERTIFICATE)?;
        if before.contains(BOUNDARY) {
            return None;
        }
        digests.extend_from_slice(&sha256(&decode(body)?).ok()?);
        match after.split_once(BEGIN_CERTIFICATE) {
            Some(split) => (before, rest) = split,
            None if after.contains(BOUNDARY) => return None,
            None => return sha256(&digests).ok(),
        }
    }
}

/// The bytes of a block, which are wiped when dropped: they may be a key's.
fn decode(body: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut packed = Zeroizing::new(Vec::with_capacity(body.len()));
    packed.extend(body.bytes().filter(|byte| !byte.is_ascii_whitespace()));
    let mut der = Zeroizing::new(vec![0; packed.len()]);
    let length = STANDARD.decode_slice(&*packed, &mut der).ok()?;
    der.truncate(length);
    Some(der)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::material::{CertChain, PrivateKey};
    use crate::tls::sample;
    use openssl::pkey::Id as KeyId;
    use openssl::pkey_ctx::PkeyCtx;

    fn pem(key: &PKey<Private>) -> String {
        String::from_utf8(key.private_key_to_pem_pkcs8().unwrap()).unwrap()
    }

    #[test]
    fn key_is_the_one_that_openssl_reads() {
        let mut rsa = PkeyCtx::new_id(KeyId::RSA).unwrap();
        rsa.keygen_init().unwrap();
        rsa.set_rsa_keygen_bits(2048).unwrap();
        let keys = [
            PKey::ec_gen("P-256").unwrap(),
            PKey::ec_gen("P-384").unwrap(),
            rsa.keygen().unwrap(),
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
    fn a_reader_is_used_for_one_key_after_the_other_and_not_after_a_broken_one() {
        let key = |curve| PKey::ec_gen(curve).unwrap();
        let ec = &KINDS[0];
        for curve in ["P-256", "P-521", "P-256"] {
            let (one, other) = (key(curve), key(curve));
            let der = one.private_key_to_pkcs8().unwrap();
            assert_eq!(identifier(&der), Some(ec.identifier));
            assert!(ec.read(&der).unwrap().public_eq(&one));
            assert!(ec.read(&der[..der.len() - 1]).is_err());
            assert!(ec.read(&[der.as_slice(), &[0]].concat()).is_err());
            let der = other.private_key_to_pkcs8().unwrap();
            let read = ec.read(&der).unwrap();
            assert!(read.public_eq(&other) && !read.public_eq(&one));
            assert_eq!(read.private_key_to_pkcs8().unwrap(), der);
        }
        assert!(ErrorStack::get().errors().is_empty());
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
            "-----BEGIN PRIVATE KEY-----",
        ] {
            assert!(read(text).is_none(), "{text}");
        }
        assert!(ErrorStack::get().errors().is_empty());
        assert!(PrivateKey::parse(&older).is_ok());
        assert!(PrivateKey::parse(&short).is_err());
    }

    #[test]
    fn digest_of_a_text_is_that_of_its_chain() {
        let ca = sample::ca("ca");
        let leaf = sample::leaf(&ca, "leaf", &["a.example"]);
        for text in [
            leaf.cert.clone(),
            format!("a note\n{}between\n{}behind", leaf.cert, ca.cert),
            leaf.cert.replace('\n', "\r\n"),
        ] {
            let chain = CertChain::parse(&text).unwrap();
            assert_eq!(CertChain::digest_of(&text), Some(chain.digest().unwrap()));
        }
    }

    #[test]
    fn text_with_anything_else_has_no_digest() {
        let ca = sample::ca("ca");
        let (cert, key) = (&ca.cert, &ca.key_pem);
        let trusted = cert.replace("CERTIFICATE", "TRUSTED CERTIFICATE");
        for text in [
            String::new(),
            "text".to_owned(),
            cert.replace("-----END", "!-----END"),
            format!("{cert}{key}"),
            format!("{key}{cert}"),
            format!("{cert}{key}{cert}"),
            format!("{cert}{trusted}"),
            format!("{cert}{BEGIN_CERTIFICATE}"),
        ] {
            assert_eq!(CertChain::digest_of(&text), None, "{text}");
        }
    }
}
