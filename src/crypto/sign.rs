//! Signatures with SHA-256, ECDSA or RSA (PKCS #1 v1.5), for evidence that leaves the process.
//!
//! Made so that `openssl dgst -sha256 -verify` checks them. TLS signatures are not made here.

use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::{Id, PKey, Private, Public};
use openssl::sign::{Signer, Verifier};
use openssl::x509::X509;

use super::error::CryptoError;
use super::fips::{self, Mode};

/// The smallest RSA key that signs, in bits (FIPS 186-5 section 5.1).
const MIN_RSA_BITS: u32 = 2048;

/// A private key that signs.
pub struct SigningKey(PKey<Private>);

/// A public key that checks signatures.
pub struct VerifyingKey(PKey<Public>);

/// Why a key or a signature could not be used.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The text is no PEM of the wanted kind, or it is encrypted.
    #[error("this is no PEM with an unencrypted {wanted}")]
    NotPem {
        /// What was expected.
        wanted: &'static str,
        /// OpenSSL's reason; `None` when the PEM's label already tells.
        #[source]
        source: Option<ErrorStack>,
    },
    /// Neither EC nor RSA.
    #[error("only EC and RSA keys sign")]
    Algorithm,
    /// An RSA key that is too short.
    #[error("an RSA key of {0} bits is too short to sign: 2048 is the least")]
    TooShort(u32),
    /// In FIPS mode, a key that the module does not hold.
    #[error("the key is not held by the FIPS module")]
    NotFips,
    /// OpenSSL refused the operation itself.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

impl SigningKey {
    /// Reads a private key: PKCS #8, SEC 1 or PKCS #1, PEM, not encrypted.
    ///
    /// # Errors
    /// [`SignError::NotPem`] and what [`SigningKey::new`] refuses.
    pub fn parse_pem(pem: &[u8]) -> Result<Self, SignError> {
        // The callback answers for encrypted keys; without it OpenSSL would ask at the terminal.
        let key = PKey::private_key_from_pem_callback(pem, |_| Ok(0)).map_err(|source| {
            SignError::NotPem {
                wanted: "private key",
                source: Some(source),
            }
        })?;
        Self::new(key)
    }

    /// Takes a private key that was already read.
    ///
    /// # Errors
    /// [`SignError::Algorithm`], [`SignError::TooShort`], [`SignError::NotFips`].
    pub fn new(key: PKey<Private>) -> Result<Self, SignError> {
        let provider = fips::key_provider(&key);
        check_key(key.id(), key.bits(), provider.as_deref(), fips::mode())?;
        Ok(Self(key))
    }

    /// The signature over `message`: DER for ECDSA, as long as the key for RSA.
    ///
    /// # Errors
    /// [`SignError::Crypto`] when the key's provider refuses.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let run = || Signer::new(MessageDigest::sha256(), &self.0)?.sign_oneshot_to_vec(message);
        Ok(run().map_err(CryptoError::during("sign"))?)
    }

    /// What its signatures are: `ECDSA-SHA256`, or `RSA-SHA256` (PKCS #1 v1.5).
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        if self.0.id() == Id::EC {
            "ECDSA-SHA256"
        } else {
            "RSA-SHA256"
        }
    }

    /// The public half, as DER (SubjectPublicKeyInfo).
    ///
    /// # Errors
    /// [`SignError::Crypto`] when it cannot be encoded.
    pub fn public_der(&self) -> Result<Vec<u8>, SignError> {
        Ok(self
            .0
            .public_key_to_der()
            .map_err(CryptoError::during("encode a public key"))?)
    }

    /// The public half, as PEM (SubjectPublicKeyInfo).
    ///
    /// # Errors
    /// [`SignError::Crypto`] when it cannot be encoded.
    pub fn public_pem(&self) -> Result<Vec<u8>, SignError> {
        Ok(self
            .0
            .public_key_to_pem()
            .map_err(CryptoError::during("encode a public key"))?)
    }
}

impl VerifyingKey {
    /// Reads a public key or a certificate, PEM; of the certificate only its key is used.
    ///
    /// # Errors
    /// [`SignError::NotPem`] and what [`VerifyingKey::new`] refuses.
    pub fn parse_pem(pem: &[u8]) -> Result<Self, SignError> {
        let wanted = "public key or certificate";
        // OpenSSL would ask for the passphrase of an encrypted private key at the terminal.
        if contains(pem, b"PRIVATE KEY-----") {
            return Err(SignError::NotPem {
                wanted,
                source: None,
            });
        }
        let key = if contains(pem, b"BEGIN CERTIFICATE-----") {
            X509::from_pem(pem).and_then(|certificate| certificate.public_key())
        } else {
            PKey::public_key_from_pem(pem)
        };
        let key = key.map_err(|source| SignError::NotPem {
            wanted,
            source: Some(source),
        })?;
        Self::new(key)
    }

    /// Takes a public key that was already read.
    ///
    /// # Errors
    /// [`SignError::Algorithm`], [`SignError::TooShort`], [`SignError::NotFips`].
    pub fn new(key: PKey<Public>) -> Result<Self, SignError> {
        let provider = fips::key_provider(&key);
        check_key(key.id(), key.bits(), provider.as_deref(), fips::mode())?;
        Ok(Self(key))
    }

    /// Whether `signature` is this key's over `message`; bytes that are no signature are not.
    ///
    /// # Errors
    /// [`SignError::Crypto`] when the key's provider refuses to start.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<bool, SignError> {
        let mut verifier = Verifier::new(MessageDigest::sha256(), &self.0)
            .map_err(CryptoError::during("start checking a signature"))?;
        // An error here speaks of the signature's own encoding.
        Ok(verifier.verify_oneshot(signature, message).unwrap_or(false))
    }
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}

fn check_key(
    algorithm: Id,
    bits: u32,
    provider: Option<&str>,
    mode: Mode,
) -> Result<(), SignError> {
    if algorithm != Id::EC && algorithm != Id::RSA {
        return Err(SignError::Algorithm);
    }
    if algorithm == Id::RSA && bits < MIN_RSA_BITS {
        return Err(SignError::TooShort(bits));
    }
    if mode == Mode::Fips && provider != Some(fips::PROVIDER) {
        return Err(SignError::NotFips);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use openssl::asn1::Asn1Time;
    use openssl::rsa::Rsa;

    use super::*;

    fn ec() -> PKey<Private> {
        PKey::ec_gen("P-256").unwrap()
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a test's key, of sizes that the module does not make"
    )]
    fn rsa(bits: u32) -> PKey<Private> {
        PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap()
    }

    fn pair(key: &PKey<Private>) -> (SigningKey, VerifyingKey) {
        let pem = key.private_key_to_pem_pkcs8().unwrap();
        let signing = SigningKey::parse_pem(&pem).unwrap();
        let verifying = VerifyingKey::parse_pem(&signing.public_pem().unwrap()).unwrap();
        (signing, verifying)
    }

    #[test]
    fn signature_is_valid_for_its_message_and_key_only() {
        for make in [ec, || rsa(2048)] {
            let (signing, verifying) = pair(&make());
            let signature = signing.sign(b"evidence").unwrap();
            assert!(verifying.verify(b"evidence", &signature).unwrap());
            assert!(!verifying.verify(b"evidence!", &signature).unwrap());
            let (_, another) = pair(&make());
            assert!(!another.verify(b"evidence", &signature).unwrap());
        }
    }

    #[test]
    fn certificate_stands_for_its_public_key() {
        let key = ec();
        let mut certificate = X509::builder().unwrap();
        certificate.set_pubkey(&key).unwrap();
        certificate
            .set_not_before(&Asn1Time::days_from_now(0).unwrap())
            .unwrap();
        certificate
            .set_not_after(&Asn1Time::days_from_now(1).unwrap())
            .unwrap();
        certificate.sign(&key, MessageDigest::sha256()).unwrap();
        let pem = certificate.build().to_pem().unwrap();
        let signature = SigningKey::new(key).unwrap().sign(b"evidence").unwrap();
        let verifying = VerifyingKey::parse_pem(&pem).unwrap();
        assert!(verifying.verify(b"evidence", &signature).unwrap());
    }

    #[test]
    fn bytes_that_are_no_signature_are_not_valid() {
        let (signing, verifying) = pair(&ec());
        let signature = signing.sign(b"evidence").unwrap();
        for bytes in [b"".as_slice(), b"x", &signature[1..], &[0xff; 300]] {
            assert!(!verifying.verify(b"evidence", bytes).unwrap(), "{bytes:?}");
        }
    }

    #[test]
    fn short_rsa_key_is_refused() {
        assert!(matches!(
            SigningKey::new(rsa(1024)),
            Err(SignError::TooShort(1024))
        ));
    }

    #[test]
    fn key_outside_the_module_signs_in_default_mode_alone() {
        let check = |provider, mode| check_key(Id::EC, 256, provider, mode);
        for provider in [Some("default"), None] {
            check(provider, Mode::Default).unwrap();
            let refusal = check(provider, Mode::Fips).unwrap_err();
            assert!(matches!(refusal, SignError::NotFips), "{refusal}");
        }
        check(Some("fips"), Mode::Fips).unwrap();
        let short = check_key(Id::RSA, 2047, Some("fips"), Mode::Fips).unwrap_err();
        assert!(matches!(short, SignError::TooShort(2047)), "{short}");
    }

    #[test]
    fn key_that_does_not_sign_with_sha256_is_refused() {
        let refused = SigningKey::new(PKey::generate_ed25519().unwrap());
        assert!(matches!(refused, Err(SignError::Algorithm)));
    }

    #[test]
    fn text_that_is_no_key_is_refused() {
        let encrypted = ec()
            .private_key_to_pem_pkcs8_passphrase(openssl::symm::Cipher::aes_256_cbc(), b"pass")
            .unwrap();
        for pem in [b"".as_slice(), b"-----BEGIN PRIVATE KEY-----", &encrypted] {
            assert!(matches!(
                SigningKey::parse_pem(pem),
                Err(SignError::NotPem { .. })
            ));
            assert!(matches!(
                VerifyingKey::parse_pem(pem),
                Err(SignError::NotPem { .. })
            ));
        }
    }
}
