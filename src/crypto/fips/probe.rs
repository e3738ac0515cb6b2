//! What must come from the module, and what must not be there, asked of OpenSSL itself.
//!
//! X25519 is not asked for: modules of version 3.1 offer it though it is not approved, so only
//! refused handshakes prove that it is excluded. `tls` makes those.

use std::ffi::CStr;

use openssl::error::ErrorStack;
use openssl::pkcs12::Pkcs12;

use super::PROVIDER;
use super::error::FipsError;
use crate::crypto::sys;

/// What a probe had to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The algorithm comes from the FIPS module.
    FromModule,
    /// The algorithm or format is refused.
    Refused,
}

/// One question to OpenSSL, answered as expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The algorithm, by OpenSSL's name, or the format.
    pub name: &'static str,
    /// What had to be found, and was.
    pub expected: Expected,
    /// OpenSSL's reason for a refusal; `None` for what comes from the module.
    pub reason: Option<String>,
}

/// What OpenSSL answers: the provider's name, or why there is none.
type Answer = Result<Option<String>, ErrorStack>;
/// A fetch of one kind of algorithm.
type Fetch = fn(&CStr) -> Answer;

/// What must come from the module.
const FROM_MODULE: [(&str, &CStr, Fetch); 10] = [
    ("SHA2-256", c"SHA2-256", sys::digest_provider),
    ("AES-256-GCM", c"AES-256-GCM", sys::cipher_provider),
    ("HMAC", c"HMAC", sys::mac_provider),
    ("TLS13-KDF", c"TLS13-KDF", sys::kdf_provider),
    ("TLS1-PRF", c"TLS1-PRF", sys::kdf_provider),
    ("HKDF", c"HKDF", sys::kdf_provider),
    ("KBKDF", c"KBKDF", sys::kdf_provider),
    ("RSA", c"RSA", sys::signature_provider),
    ("ECDSA", c"ECDSA", sys::signature_provider),
    ("ECDH", c"ECDH", sys::key_exchange_provider),
];
/// What must not be available, whatever the module's version.
const REFUSED: [(&str, &CStr, Fetch); 2] = [
    ("MD5", c"MD5", sys::digest_provider),
    (
        "ChaCha20-Poly1305",
        c"ChaCha20-Poly1305",
        sys::cipher_provider,
    ),
];
/// A PKCS #12 file without content, its MAC made with the empty password (RFC 7292 section 4).
const EMPTY_PKCS12: [u8; 87] = [
    0x30, 0x55, 0x02, 0x01, 0x03, 0x30, 0x11, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01,
    0x07, 0x01, 0xa0, 0x04, 0x04, 0x02, 0x30, 0x00, 0x30, 0x3d, 0x30, 0x31, 0x30, 0x0d, 0x06, 0x09,
    0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20, 0xfb, 0x39, 0x29,
    0x3e, 0xcc, 0xd8, 0x3d, 0x33, 0x06, 0xe0, 0x18, 0xe2, 0xdc, 0xe0, 0xe3, 0xb3, 0xed, 0xac, 0x66,
    0x6a, 0x24, 0xf3, 0xb1, 0x05, 0x05, 0xa6, 0x4c, 0x18, 0x99, 0xde, 0xd6, 0xaf, 0x04, 0x08, 0x70,
    0x6f, 0x72, 0x74, 0x63, 0x75, 0x6c, 0x6c,
];

/// Makes every probe for a module of `version`; the first surprise is the error.
pub(super) fn all(version: &str) -> Result<Vec<Probe>, FipsError> {
    let mut probes = Vec::new();
    for (name, c_name, fetch) in FROM_MODULE {
        probes.push(judge(name, Expected::FromModule, fetch(c_name))?);
    }
    probes.push(judge("RAND", Expected::FromModule, sys::random_provider())?);
    for (name, c_name, fetch) in REFUSED {
        probes.push(judge(name, Expected::Refused, fetch(c_name))?);
    }
    if excludes_ed25519(version) {
        let answer = sys::signature_provider(c"ED25519");
        probes.push(judge("Ed25519", Expected::Refused, answer)?);
    }
    probes.push(judge("PKCS#12", Expected::Refused, parse_pkcs12())?);
    Ok(probes)
}

/// Whether a module of this version refuses Ed25519: 3.1 does, 3.0 does not, 3.4 approves it.
fn excludes_ed25519(version: &str) -> bool {
    version.starts_with("3.1.")
}

/// Parses a PKCS #12 file, which needs a key derivation that no FIPS module offers.
fn parse_pkcs12() -> Answer {
    Pkcs12::from_der(&EMPTY_PKCS12)?
        .parse2("")
        .map(|_parsed| None)
}

fn judge(name: &'static str, expected: Expected, answer: Answer) -> Result<Probe, FipsError> {
    let reason = match (expected, answer) {
        (Expected::FromModule, Ok(Some(provider))) if provider == PROVIDER => None,
        (Expected::FromModule, Ok(provider)) => {
            let provider = provider.unwrap_or_default();
            return Err(FipsError::NotFromModule { name, provider });
        }
        (Expected::FromModule, Err(source)) => {
            return Err(FipsError::Unavailable { name, source });
        }
        (Expected::Refused, Err(reason)) => Some(first_reason(&reason)),
        (Expected::Refused, Ok(provider)) => {
            let provider = provider.unwrap_or_default();
            return Err(FipsError::NotExcluded { name, provider });
        }
    };
    Ok(Probe {
        name,
        expected,
        reason,
    })
}

/// The first entry of OpenSSL's error queue, which is the innermost, in words.
fn first_reason(stack: &ErrorStack) -> String {
    let Some(error) = stack.errors().first() else {
        return String::from("refused without a reason");
    };
    let reason = error.reason().unwrap_or("refused");
    match error.data() {
        Some(data) => format!("{reason}: {data}"),
        None => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(provider: &str) -> Answer {
        Ok(Some(provider.to_owned()))
    }

    fn unsupported() -> Answer {
        Err(sys::digest_provider(c"NO-SUCH-DIGEST").unwrap_err())
    }

    #[test]
    fn needed_algorithm_must_come_from_the_module() {
        let wanted = Expected::FromModule;
        assert!(judge("HKDF", wanted, from("fips")).is_ok());
        let elsewhere = judge("HKDF", wanted, from("default")).unwrap_err();
        assert!(matches!(
            elsewhere,
            FipsError::NotFromModule { name: "HKDF", .. }
        ));
        assert!(matches!(
            judge("HKDF", wanted, Ok(None)),
            Err(FipsError::NotFromModule { .. })
        ));
        let absent = judge("HKDF", wanted, unsupported()).unwrap_err();
        assert!(matches!(
            absent,
            FipsError::Unavailable { name: "HKDF", .. }
        ));
    }

    #[test]
    fn excluded_algorithm_must_not_come_from_anywhere() {
        let refused = judge("MD5", Expected::Refused, unsupported()).unwrap();
        assert!(
            refused
                .reason
                .is_some_and(|reason| reason.contains("unsupported"))
        );
        for provider in ["fips", "default"] {
            let offered = judge("MD5", Expected::Refused, from(provider)).unwrap_err();
            assert!(matches!(
                offered,
                FipsError::NotExcluded { name: "MD5", .. }
            ));
        }
    }

    #[test]
    fn default_provider_answers_every_probe_otherwise() {
        for (name, c_name, fetch) in FROM_MODULE.into_iter().chain(REFUSED) {
            assert_eq!(fetch(c_name).unwrap().as_deref(), Some("default"), "{name}");
        }
        assert_eq!(sys::random_provider().unwrap().as_deref(), Some("default"));
        assert!(sys::signature_provider(c"ED25519").is_ok());
        assert!(parse_pkcs12().is_ok());
        assert!(matches!(all("3.1.2"), Err(FipsError::NotFromModule { .. })));
    }

    #[test]
    fn ed25519_is_excluded_by_the_versions_that_do_not_approve_it() {
        assert!(excludes_ed25519("3.1.2"));
        for version in ["3.0.9", "3.5.4", "3.10.0"] {
            assert!(!excludes_ed25519(version), "{version}");
        }
    }
}
