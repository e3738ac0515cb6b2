//! Private keys behind a passphrase: which ways of encrypting them are taken.
//!
//! PKCS#8 with PBES2 (RFC 8018 section 6.2): AES in CBC mode under a key that PBKDF2 derives, or
//! scrypt where the FIPS module is not required. The way is read before anything is decrypted, so
//! that a weak one is refused by its name, and alike whatever providers are loaded.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openssl::asn1::Asn1Object;

use super::der::{IDENTIFIER, INTEGER, OCTETS, SEQUENCE, number, take};

/// The label of an encrypted PKCS#8 key (RFC 7468 section 11).
const BEGIN: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";
const END: &str = "-----END ENCRYPTED PRIVATE KEY-----";
/// What a key encrypted in OpenSSL's older form says of itself (RFC 1421 section 4.6.1.1).
const OLDER_FORM: &str = "Proc-Type: 4,ENCRYPTED";

/// `id-PBES2` (RFC 8018 appendix A.4).
const PBES2: &str = "1.2.840.113549.1.5.13";
/// `id-PBKDF2` (RFC 8018 appendix A.2).
const PBKDF2: &str = "1.2.840.113549.1.5.12";
/// `id-scrypt` (RFC 7914 section 7).
const SCRYPT: &str = "1.3.6.1.4.1.11591.4.11";
/// `id-hmacWithSHA1`, the default, and SHA-224 to SHA-512 (RFC 8018 appendix B.1.2).
const PRFS: [&str; 5] = [
    "1.2.840.113549.2.7",
    "1.2.840.113549.2.8",
    "1.2.840.113549.2.9",
    "1.2.840.113549.2.10",
    "1.2.840.113549.2.11",
];
/// `aes128-CBC-PAD`, `aes192-CBC-PAD` and `aes256-CBC-PAD` (RFC 8018 appendix B.2.5).
const CIPHERS: [&str; 3] = [
    "2.16.840.1.101.3.4.1.2",
    "2.16.840.1.101.3.4.1.22",
    "2.16.840.1.101.3.4.1.42",
];
/// The fewest iterations of PBKDF2 (RFC 8018 section 4.2, SP 800-132 section 5.2).
const ITERATIONS: u64 = 1000;

/// Why the way a key is encrypted is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeakEncryption {
    /// OpenSSL's older form: one round of MD5 over the passphrase.
    #[error(
        "in the older form of OpenSSL (`DEK-Info`), which hashes the passphrase once, with MD5"
    )]
    OlderForm,
    /// Not PBES2, or with another key derivation, digest or cipher than those above.
    #[error("with {0}, which is too weak or not known here")]
    Scheme(String),
    /// Too few iterations.
    #[error("with {0} iterations of PBKDF2, which are fewer than 1000")]
    Iterations(u64),
    /// scrypt, in FIPS mode.
    #[error("with scrypt, which `fips: required` refuses")]
    Scrypt,
}

/// Whether the PEM text has a private key that needs a passphrase.
pub(super) fn is_encrypted(pem: &str) -> bool {
    pem.contains(BEGIN) || pem.contains(OLDER_FORM)
}

/// Refuses an encrypted key whose encryption is weak, or in FIPS mode not approved. `None` where
/// the text is too broken to tell.
pub(super) fn judge(pem: &str, is_fips: bool) -> Option<Result<(), WeakEncryption>> {
    if pem.contains(OLDER_FORM) {
        return Some(Err(WeakEncryption::OlderForm));
    }
    Some(scheme(&der(pem)?)?.judge(is_fips))
}

/// The bytes of the encrypted block.
fn der(pem: &str) -> Option<Vec<u8>> {
    let (_, rest) = pem.split_once(BEGIN)?;
    let (body, _) = rest.split_once(END)?;
    let packed: String = body.split_ascii_whitespace().collect();
    STANDARD.decode(packed).ok()
}

/// How a key is encrypted.
#[derive(Debug, PartialEq, Eq)]
enum Scheme {
    Pbkdf2 {
        prf: String,
        iterations: u64,
        cipher: String,
    },
    Scrypt {
        cipher: String,
    },
    Other(String),
}

impl Scheme {
    fn judge(&self, is_fips: bool) -> Result<(), WeakEncryption> {
        let refuse = |id: &str| Err(WeakEncryption::Scheme(name(id)));
        match self {
            Self::Other(id) => refuse(id),
            Self::Scrypt { cipher } | Self::Pbkdf2 { cipher, .. }
                if !CIPHERS.contains(&cipher.as_str()) =>
            {
                refuse(cipher)
            }
            Self::Scrypt { .. } if is_fips => Err(WeakEncryption::Scrypt),
            Self::Scrypt { .. } => Ok(()),
            Self::Pbkdf2 { prf, .. } if !PRFS.contains(&prf.as_str()) => refuse(prf),
            Self::Pbkdf2 { iterations, .. } if *iterations < ITERATIONS => {
                Err(WeakEncryption::Iterations(*iterations))
            }
            Self::Pbkdf2 { .. } => Ok(()),
        }
    }
}

/// Reads `EncryptedPrivateKeyInfo` (RFC 5958 section 3) as far as its algorithm.
fn scheme(der: &[u8]) -> Option<Scheme> {
    let (info, _) = take(der, SEQUENCE)?;
    let (algorithm, _) = take(info, SEQUENCE)?;
    let (id, parameters) = algorithm_of(algorithm)?;
    if id != PBES2 {
        return Some(Scheme::Other(id));
    }
    // PBES2-params: keyDerivationFunc, encryptionScheme.
    let (parameters, _) = take(parameters, SEQUENCE)?;
    let (derivation, rest) = take(parameters, SEQUENCE)?;
    let (encryption, _) = take(rest, SEQUENCE)?;
    let (cipher, _) = algorithm_of(encryption)?;
    let (derivation, parameters) = algorithm_of(derivation)?;
    match derivation.as_str() {
        SCRYPT => Some(Scheme::Scrypt { cipher }),
        PBKDF2 => {
            let (prf, iterations) = pbkdf2(parameters)?;
            Some(Scheme::Pbkdf2 {
                prf,
                iterations,
                cipher,
            })
        }
        _ => Some(Scheme::Other(derivation)),
    }
}

/// `PBKDF2-params`: salt, iterationCount, keyLength OPTIONAL, prf DEFAULT hmacWithSHA1.
fn pbkdf2(parameters: &[u8]) -> Option<(String, u64)> {
    let (parameters, _) = take(parameters, SEQUENCE)?;
    let (_salt, rest) = take(parameters, OCTETS)?;
    let (iterations, rest) = take(rest, INTEGER)?;
    let rest = take(rest, INTEGER).map_or(rest, |(_length, rest)| rest);
    let prf = if rest.is_empty() {
        PRFS.first().map(|id| (*id).to_owned())?
    } else {
        algorithm_of(take(rest, SEQUENCE)?.0)?.0
    };
    Some((prf, number(iterations)))
}

/// `AlgorithmIdentifier`: its object identifier in dotted form, and the bytes of its parameters.
fn algorithm_of(content: &[u8]) -> Option<(String, &[u8])> {
    let (id, parameters) = take(content, IDENTIFIER)?;
    Some((dotted(id)?, parameters))
}

/// An object identifier in dotted form (X.690 section 8.19).
fn dotted(content: &[u8]) -> Option<String> {
    let mut arcs = Vec::new();
    let mut arc = 0_u64;
    for byte in content {
        arc = arc.checked_mul(128)?.checked_add(u64::from(byte & 0x7f))?;
        if byte & 0x80 == 0 {
            arcs.push(arc);
            arc = 0;
        }
    }
    let (both, rest) = arcs.split_first()?;
    let first = (both / 40).min(2);
    let mut text = format!("{first}.{}", both - 40 * first);
    for arc in rest {
        // Writing to a `String` cannot fail.
        let _ = write!(text, ".{arc}");
    }
    Some(text)
}

/// OpenSSL's name of an object identifier; itself where there is none.
fn name(dotted: &str) -> String {
    Asn1Object::from_str(dotted).map_or_else(|_| dotted.to_owned(), |object| object.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An element of DER.
    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82], &length[..], content].concat()
    }

    /// An `AlgorithmIdentifier` of an object identifier's content and the parameters.
    fn algorithm(dotted: &str, parameters: &[u8]) -> Vec<u8> {
        let object = Asn1Object::from_str(dotted).unwrap();
        let id = element(IDENTIFIER, object.as_slice());
        element(SEQUENCE, &[&id, parameters].concat())
    }

    fn pbkdf2_with(iterations: &[u8], prf: Option<&str>) -> Vec<u8> {
        let salt = element(OCTETS, &[7; 8]);
        let count = element(INTEGER, iterations);
        let length = element(INTEGER, &[32]);
        let prf = prf.map(|prf| algorithm(prf, &[5, 0])).unwrap_or_default();
        let parameters = element(SEQUENCE, &[salt, count, length, prf].concat());
        algorithm(PBKDF2, &parameters)
    }

    fn pbes2(derivation: &[u8], cipher: &str) -> Vec<u8> {
        let iv = element(OCTETS, &[7; 16]);
        let parameters = [derivation, &algorithm(cipher, &iv)].concat();
        algorithm(PBES2, &element(SEQUENCE, &parameters))
    }

    fn pem(algorithm: &[u8]) -> String {
        let info = [algorithm, &element(OCTETS, &[0; 48])].concat();
        let body = STANDARD.encode(element(SEQUENCE, &info));
        format!("{BEGIN}\n{body}\n{END}\n")
    }

    fn judged(algorithm: &[u8]) -> [Option<Result<(), WeakEncryption>>; 2] {
        let pem = pem(algorithm);
        [judge(&pem, false), judge(&pem, true)]
    }

    #[test]
    fn pbes2_with_aes_and_pbkdf2_is_taken() {
        let thousand = [0x03, 0xe8];
        let every_prf = PRFS.iter().map(|prf| pbkdf2_with(&thousand, Some(prf)));
        for derivation in every_prf.chain([pbkdf2_with(&thousand, None)]) {
            for cipher in CIPHERS {
                let algorithm = pbes2(&derivation, cipher);
                assert_eq!(judged(&algorithm), [Some(Ok(())), Some(Ok(()))]);
            }
        }
    }

    #[test]
    fn weak_encryption_is_refused_by_name_in_every_mode() {
        let enough = pbkdf2_with(&[0x08, 0x00], Some(PRFS[2]));
        for (algorithm, named) in [
            (
                algorithm("1.2.840.113549.1.5.3", &[]),
                "with pbeWithMD5AndDES-CBC,",
            ),
            (
                algorithm("1.2.840.113549.1.12.1.3", &[]),
                "with pbeWithSHA1And3-KeyTripleDES-CBC,",
            ),
            (
                algorithm("1.2.840.113549.1.12.1.6", &[]),
                "with pbeWithSHA1And40BitRC2-CBC,",
            ),
            (pbes2(&enough, "1.2.840.113549.3.7"), "with des-ede3-cbc,"),
            (pbes2(&enough, "1.2.840.113549.3.2"), "with rc2-cbc,"),
            (
                pbes2(
                    &pbkdf2_with(&[0x08, 0x00], Some("1.2.840.113549.2.6")),
                    CIPHERS[0],
                ),
                "with hmacWithMD5,",
            ),
            (
                pbes2(&pbkdf2_with(&[0x03, 0xe7], None), CIPHERS[0]),
                "with 999 iterations of PBKDF2",
            ),
            (algorithm("1.2.3.4", &[]), "with 1.2.3.4,"),
        ] {
            for outcome in judged(&algorithm) {
                let refusal = outcome.unwrap().unwrap_err().to_string();
                assert!(refusal.starts_with(named), "{named:?}: {refusal}");
            }
        }
        let older = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n";
        assert_eq!(judge(older, false), Some(Err(WeakEncryption::OlderForm)));
    }

    #[test]
    fn scrypt_is_refused_where_the_module_is_required() {
        let algorithm = pbes2(&algorithm(SCRYPT, &[]), CIPHERS[2]);
        let refusal = Some(Err(WeakEncryption::Scrypt));
        assert_eq!(judged(&algorithm), [Some(Ok(())), refusal]);
    }

    #[test]
    fn broken_text_is_no_scheme() {
        let whole = pem(&pbes2(&pbkdf2_with(&[0x08, 0x00], None), CIPHERS[0]));
        let der = der(&whole).unwrap();
        // Every cut within the algorithm; what is encrypted after it is not looked at.
        for end in 0..der.len() - 52 {
            assert_eq!(scheme(&der[..end]), None, "{end}");
        }
        assert!(scheme(&der).is_some());
        for broken in [
            BEGIN.to_owned(),
            format!("{BEGIN}*{END}"),
            format!("{BEGIN}{END}"),
        ] {
            assert_eq!(judge(&broken, false), None, "{broken}");
        }
    }

    #[test]
    fn lengths_and_numbers_of_any_size_are_read_without_a_panic() {
        assert_eq!(take(&[SEQUENCE, 0x80], SEQUENCE), None);
        assert_eq!(take(&[SEQUENCE, 0x85, 1, 1, 1, 1, 1], SEQUENCE), None);
        assert_eq!(
            take(&[SEQUENCE, 0x84, 0xff, 0xff, 0xff, 0xff], SEQUENCE),
            None
        );
        assert_eq!(
            take(&[OCTETS, 0x81, 1, 9, 8], OCTETS),
            Some((&[9][..], &[8][..]))
        );
        assert_eq!(number(&[0, 0, 1, 0]), 256);
        assert_eq!(number(&[1; 9]), u64::MAX);
        assert_eq!(dotted(&[0x2a, 0x86, 0x48]).as_deref(), Some("1.2.840"));
        assert_eq!(dotted(&[0xff; 20]), None);
        assert_eq!(dotted(&[]), None);
    }
}
