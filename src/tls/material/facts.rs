//! What can be told of a certificate and its key without showing them: for evidence.

use openssl::error::ErrorStack;

use super::{
    CertChain, Digest, KeyPair, PrivateKey, issuer, key_kind, serial, sha256, subject, validity,
};
use crate::crypto::fips;
use crate::crypto::sys;

/// A private key, told without showing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFacts {
    /// `RSA`, `RSA-PSS`, `EC`, `Ed25519` or `Ed448`.
    pub algorithm: String,
    /// Its size.
    pub bits: u32,
    /// An EC key's curve, by OpenSSL's name.
    pub curve: Option<String>,
    /// The provider that holds it; `None` when none does.
    pub provider: Option<String>,
    /// SHA-256 of its public part (DER SubjectPublicKeyInfo).
    pub public_sha256: Digest,
}

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Subject, RFC 2253.
    pub subject: String,
    /// Issuer, RFC 2253.
    pub issuer: String,
    /// Serial number, upper-case hex.
    pub serial: String,
    /// SHA-256 of its DER.
    pub sha256: Digest,
    /// The algorithm it is signed with, by OpenSSL's name.
    pub signature: String,
    /// Seconds since the epoch, from and until.
    pub validity: (i64, i64),
}

impl PrivateKey {
    /// What can be told of it.
    ///
    /// # Errors
    /// OpenSSL's own.
    pub fn facts(&self) -> Result<KeyFacts, ErrorStack> {
        Ok(KeyFacts {
            algorithm: key_kind(self.0.id()),
            bits: self.0.bits(),
            curve: sys::group_name(&self.0),
            provider: fips::key_provider(&self.0),
            public_sha256: self.public_digest()?,
        })
    }
}

impl CertChain {
    /// What can be told of the leaf.
    ///
    /// # Errors
    /// OpenSSL's own.
    pub fn facts(&self) -> Result<CertificateFacts, ErrorStack> {
        Ok(CertificateFacts {
            subject: subject(&self.leaf),
            issuer: issuer(&self.leaf),
            serial: serial(&self.leaf),
            sha256: sha256(&self.leaf.to_der()?)?,
            signature: self.leaf.signature_algorithm().object().to_string(),
            validity: validity(&self.leaf)?,
        })
    }
}

impl KeyPair {
    /// What can be told of both.
    ///
    /// # Errors
    /// OpenSSL's own.
    pub fn facts(&self) -> Result<(KeyFacts, CertificateFacts), ErrorStack> {
        Ok((self.key.facts()?, self.chain.facts()?))
    }
}
