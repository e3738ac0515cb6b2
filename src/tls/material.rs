//! Parsed key material: certificate chains, private keys, CA bundles.
//!
//! Parsing is the check: a value of these types was read whole and is consistent. Where the PEM
//! came from (a document, a file, a secret manager) is not known here.

mod approval;
mod bundles;
mod der;
mod encrypted;
mod facts;
mod plain;
mod public_part;
mod revocation;

use std::fmt;
use std::net::IpAddr;

use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{Id as KeyId, PKey, Private};
use openssl::x509::{X509, X509Ref, X509VerifyResult};

use crate::crypto::sign::{SignError, SigningKey};

/// A certificate, for the rooms that do not name OpenSSL's crate.
pub use openssl::x509::X509Ref as Certificate;

pub(in crate::tls) use self::approval::judge_peer;
pub use self::approval::{Flaw, Part, Unapproved, is_required as is_approval_required};
pub use self::encrypted::WeakEncryption;
pub use self::facts::{CertificateFacts, KeyFacts};
pub use self::revocation::{CrlDates, CrlError, Crls};

/// SHA-256 of something that identifies material: 32 bytes.
pub type Digest = [u8; 32];

/// Why material was refused. None of the texts quotes the material.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    /// The text holds no certificate that OpenSSL can read.
    #[error("failed to parse cert: PEM_read_bio_X509_AUX() failed")]
    Certificate(#[source] ErrorStack),
    /// The text holds no private key that OpenSSL can read.
    #[error("failed to parse key: PEM_read_bio_PrivateKey() failed")]
    Key(#[source] ErrorStack),
    /// The key needs a passphrase, which a resource has no place for.
    #[error(
        "the private key is encrypted, and a passphrase cannot be given here; decrypt it with \
         `openssl pkey -in encrypted.key -out plain.key` (it is sealed when it is stored)"
    )]
    Encrypted,
    /// The key is encrypted in a way that is not taken.
    #[error(
        "the private key is encrypted {0}; encrypt it anew with `openssl pkcs8 -topk8 -v2 \
         aes-256-cbc -v2prf hmacWithSHA256`"
    )]
    WeakEncryption(#[source] WeakEncryption),
    /// The passphrase does not open the key.
    #[error("the private key cannot be decrypted with the passphrase that is given for it")]
    Passphrase(#[source] ErrorStack),
    /// FIPS mode does not take it.
    #[error(transparent)]
    Unapproved(#[from] Unapproved),
    /// The key is not the one the leaf certificate was issued for.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
    /// A key type that TLS in this process cannot use.
    #[error("unsupported key type {0}; use RSA (2048 bits or more) or EC P-256, P-384 or P-521")]
    KeyType(String),
    /// A key too short for security level 2 (`SSL_CTX_set_security_level(3)`).
    #[error("{kind} key of {bits} bits is too short; security level 2 asks for at least {least}")]
    TooShort {
        /// Algorithm name, e.g. `RSA`.
        kind: &'static str,
        /// Size found, in bits.
        bits: u32,
        /// Size asked for, in bits.
        least: u32,
    },
    /// OpenSSL failed at something that does not depend on the input.
    #[error("OpenSSL failed")]
    OpenSsl(#[from] ErrorStack),
}

impl MaterialError {
    /// Whether only `fips: required` refuses it.
    #[must_use]
    pub fn is_about_approval(&self) -> bool {
        match self {
            Self::Unapproved(_) | Self::WeakEncryption(WeakEncryption::Scrypt) => true,
            Self::WeakEncryption(_)
            | Self::Certificate(_)
            | Self::Key(_)
            | Self::Encrypted
            | Self::Passphrase(_)
            | Self::Mismatch
            | Self::KeyType(_)
            | Self::TooShort { .. }
            | Self::OpenSsl(_) => false,
        }
    }

    /// Whether a certificate is at fault, rather than a key.
    #[must_use]
    pub fn is_about_a_certificate(&self) -> bool {
        match self {
            Self::Certificate(_) => true,
            Self::Unapproved(Unapproved { part, .. }) => *part != Part::Key,
            Self::Key(_)
            | Self::Encrypted
            | Self::WeakEncryption(_)
            | Self::Passphrase(_)
            | Self::Mismatch
            | Self::KeyType(_)
            | Self::TooShort { .. }
            | Self::OpenSsl(_) => false,
        }
    }
}

/// A certificate and the intermediates to send with it, leaf first.
#[derive(Clone)]
pub struct CertChain {
    /// The certificate of this name or identity.
    pub leaf: X509,
    /// What follows it in the PEM text, in that order; may be empty.
    pub intermediates: Vec<X509>,
}

impl CertChain {
    /// Reads all certificates of a PEM text, leaf first. Text around the blocks is ignored.
    ///
    /// # Errors
    /// [`MaterialError::Certificate`] when a block cannot be read or there is none; in FIPS mode
    /// [`MaterialError::Unapproved`].
    pub fn parse(pem: &str) -> Result<Self, MaterialError> {
        let mut all = parse_certificates(pem)?.into_iter();
        let Some(leaf) = all.next() else {
            return Err(MaterialError::Certificate(ErrorStack::get()));
        };
        let chain = Self {
            leaf,
            intermediates: all.collect(),
        };
        if approval::is_required() {
            chain.approve()?;
        }
        Ok(chain)
    }

    /// The digest that the chain of a PEM text would have, without its certificates being read:
    /// `None` where there is anything else in the text, or no certificate.
    #[must_use]
    pub fn digest_of(pem: &str) -> Option<Digest> {
        plain::digest_of_certificates(pem)
    }

    /// SHA-256 of the leaf's DER, as `openssl x509 -fingerprint -sha256` prints it.
    ///
    /// # Errors
    /// OpenSSL's own.
    pub fn fingerprint(&self) -> Result<Digest, ErrorStack> {
        fingerprint(&self.leaf)
    }

    /// SHA-256 over the whole chain, leaf first.
    ///
    /// # Errors
    /// OpenSSL's own.
    pub fn digest(&self) -> Result<Digest, ErrorStack> {
        let certificates = std::iter::once(&self.leaf).chain(&self.intermediates);
        digest_certificates(certificates.map(|certificate| &**certificate))
    }
}

impl fmt::Debug for CertChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CertChain({} + {})",
            subject(&self.leaf),
            self.intermediates.len()
        )
    }
}

/// A private key. It has no `Display`, and `Debug` names algorithm and size only.
#[derive(Clone)]
pub struct PrivateKey(PKey<Private>);

impl PrivateKey {
    /// Reads a PEM private key: PKCS#8, PKCS#1 or SEC1, not encrypted.
    ///
    /// # Errors
    /// [`MaterialError::Encrypted`], [`MaterialError::Key`] when it cannot be read,
    /// [`MaterialError::KeyType`] and [`MaterialError::TooShort`]; in FIPS mode
    /// [`MaterialError::Unapproved`].
    pub fn parse(pem: &str) -> Result<Self, MaterialError> {
        if Self::is_encrypted(pem) {
            return Err(MaterialError::Encrypted);
        }
        if let Some(key) = plain::read(pem) {
            return Self::judge(key);
        }
        // The callback gives no passphrase; without it OpenSSL would prompt on the terminal.
        let key = PKey::private_key_from_pem_callback(trim(pem).as_bytes(), |_| Ok(0))
            .map_err(MaterialError::Key)?;
        Self::judge(key)
    }

    /// Reads a PEM private key behind a passphrase: PKCS#8 with PBES2. One that is not encrypted
    /// is read as by [`PrivateKey::parse`].
    ///
    /// # Errors
    /// [`MaterialError::WeakEncryption`], [`MaterialError::Passphrase`], and those of
    /// [`PrivateKey::parse`].
    pub fn parse_encrypted(pem: &str, passphrase: &str) -> Result<Self, MaterialError> {
        if !Self::is_encrypted(pem) {
            return Self::parse(pem);
        }
        match encrypted::judge(pem, approval::is_required()) {
            Some(judged) => judged.map_err(MaterialError::WeakEncryption)?,
            None => return Err(MaterialError::Key(ErrorStack::get())),
        }
        let passphrase = passphrase.as_bytes();
        let key = PKey::private_key_from_pem_callback(trim(pem).as_bytes(), |buffer| {
            // OpenSSL takes a longer passphrase than it has room for as a refusal.
            if let Some(room) = buffer.get_mut(..passphrase.len()) {
                room.copy_from_slice(passphrase);
            }
            Ok(passphrase.len())
        })
        .map_err(MaterialError::Passphrase)?;
        Self::judge(key)
    }

    /// Whether the text has a key that needs a passphrase.
    #[must_use]
    pub fn is_encrypted(pem: &str) -> bool {
        encrypted::is_encrypted(pem)
    }

    /// What `fips: required` refuses of how a key is encrypted, where it is.
    #[must_use]
    pub fn unapproved_encryption(pem: &str) -> Option<WeakEncryption> {
        if !Self::is_encrypted(pem) {
            return None;
        }
        encrypted::judge(pem, true)?.err()
    }

    fn judge(key: PKey<Private>) -> Result<Self, MaterialError> {
        judge_key(&key)?;
        let key = Self(key);
        if approval::is_required() {
            key.approve()?;
            approval::is_held_by_the_module(&key.0)?;
        }
        Ok(key)
    }

    /// The key, for the contexts of this room.
    #[must_use]
    pub fn as_pkey(&self) -> &PKey<Private> {
        &self.0
    }

    /// The same key, for signing what is not TLS.
    ///
    /// # Errors
    /// [`SignError`], when it does not sign with SHA-256.
    pub fn signing_key(&self) -> Result<SigningKey, SignError> {
        SigningKey::new(self.0.clone())
    }

    /// SHA-256 of the public part (DER SubjectPublicKeyInfo): names a key without showing it.
    ///
    /// # Errors
    /// OpenSSL's own.
    pub fn public_digest(&self) -> Result<Digest, ErrorStack> {
        sha256(&self.0.public_key_to_der()?)
    }

    /// [`PrivateKey::public_digest`] of the key of a PEM text; where that has the public part as it
    /// is, the key is not read. `None` where it cannot be.
    #[must_use]
    pub fn public_digest_of(pem: &str) -> Option<Digest> {
        if let Some(public) = public_part::of_key(pem) {
            return sha256(&public).ok();
        }
        Self::parse(pem).ok()?.public_digest().ok()
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({} {})", key_kind(self.0.id()), self.0.bits())
    }
}

/// A chain with the private key of its leaf.
#[derive(Clone, Debug)]
pub struct KeyPair {
    /// Leaf and intermediates.
    pub chain: CertChain,
    /// The leaf's key.
    pub key: PrivateKey,
}

impl KeyPair {
    /// Reads chain and key and checks that they belong together.
    ///
    /// # Errors
    /// Any [`MaterialError`]; [`MaterialError::Mismatch`] when the key is another's.
    pub fn parse(cert_pem: &str, key_pem: &str) -> Result<Self, MaterialError> {
        Self::join(CertChain::parse(cert_pem)?, PrivateKey::parse(key_pem)?)
    }

    /// Joins a chain and a key that were read one by one.
    ///
    /// # Errors
    /// [`MaterialError::Mismatch`] when the key is another's.
    pub fn join(chain: CertChain, key: PrivateKey) -> Result<Self, MaterialError> {
        let public = chain.leaf.public_key()?;
        if !key.0.public_eq(&public) {
            return Err(MaterialError::Mismatch);
        }
        Ok(Self { chain, key })
    }

    /// Whether both texts are in the form that OpenSSL writes and have the same public key, which
    /// can be told without reading the key. `false` says nothing; in FIPS mode, where there is
    /// more to judge, it is all that is said.
    #[must_use]
    pub fn is_plainly_one(cert_pem: &str, key_pem: &str) -> bool {
        let public = public_part::of_key(key_pem);
        !approval::is_required()
            && public.is_some()
            && public == public_part::of_certificate(cert_pem)
    }

    /// SHA-256 over the chain: the key is determined by the leaf.
    ///
    /// # Errors
    /// OpenSSL's own.
    pub fn digest(&self) -> Result<Digest, ErrorStack> {
        self.chain.digest()
    }
}

/// Certificates that are trusted as issuers. Every one of a bundle counts.
#[derive(Clone)]
pub struct CaBundle {
    /// At least one, in the order of the text.
    pub certificates: Vec<X509>,
    /// SHA-256 over all of them, in order.
    pub digest: Digest,
}

impl CaBundle {
    /// Reads all certificates of a PEM text.
    ///
    /// # Errors
    /// [`MaterialError::Certificate`] when a block cannot be read or there is none; in FIPS mode
    /// [`MaterialError::Unapproved`].
    pub fn parse(pem: &str) -> Result<Self, MaterialError> {
        bundles::read(pem, || Self::parse_all([pem]))
    }

    /// Reads a list that others keep, such as the operating system's. In FIPS mode what is not
    /// approved is left out; says how many that were.
    ///
    /// # Errors
    /// [`MaterialError::Certificate`] when a block cannot be read; [`MaterialError::Unapproved`]
    /// when none is left.
    pub fn parse_public_list(pem: &str) -> Result<(Self, usize), MaterialError> {
        let all = Self::of(parse_certificates(pem)?)?;
        if !approval::is_required() {
            return Ok((all, 0));
        }
        let mut certificates = all.certificates.clone();
        certificates.retain(approval::is_approved_issuer);
        if certificates.is_empty() {
            all.approve()?;
        }
        let left_out = all.certificates.len() - certificates.len();
        Ok((Self::of(certificates)?, left_out))
    }

    /// Reads several PEM texts as one bundle, in order.
    ///
    /// # Errors
    /// [`MaterialError::Certificate`] when one of them holds none that can be read; in FIPS mode
    /// [`MaterialError::Unapproved`].
    pub fn parse_all<'a>(pems: impl IntoIterator<Item = &'a str>) -> Result<Self, MaterialError> {
        let mut certificates = Vec::new();
        for pem in pems {
            certificates.append(&mut parse_certificates(pem)?);
        }
        let bundle = Self::of(certificates)?;
        if approval::is_required() {
            bundle.approve()?;
        }
        Ok(bundle)
    }

    /// Whether a root is among them: without one no chain leads anywhere, because intermediates
    /// are not trusted by themselves (`X509_VERIFY_PARAM_set_flags(3)`, no partial chains).
    #[must_use]
    pub fn has_root(&self) -> bool {
        let mut all = self.certificates.iter();
        all.any(|certificate| certificate.issued(certificate) == X509VerifyResult::OK)
    }

    /// The bundle of certificates that were read; at least one.
    ///
    /// # Errors
    /// [`MaterialError::Certificate`] when there is none.
    pub(super) fn of(certificates: Vec<X509>) -> Result<Self, MaterialError> {
        if certificates.is_empty() {
            return Err(MaterialError::Certificate(ErrorStack::get()));
        }
        let digest = digest_certificates(certificates.iter().map(|certificate| &**certificate))?;
        Ok(Self {
            certificates,
            digest,
        })
    }
}

impl fmt::Debug for CaBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.certificates.iter().map(|ca| subject(ca)))
            .finish()
    }
}

/// SHA-256 of a certificate's DER, as `openssl x509 -fingerprint -sha256` prints it.
///
/// # Errors
/// OpenSSL's own.
pub fn fingerprint(certificate: &X509Ref) -> Result<Digest, ErrorStack> {
    sha256(&certificate.to_der()?)
}

/// The subject of a certificate in RFC 2253 form, as nginx's `$ssl_client_s_dn` shows it.
#[must_use]
pub fn subject(certificate: &X509Ref) -> String {
    crate::crypto::sys::name_rfc2253(certificate.subject_name())
}

/// The issuer of a certificate in RFC 2253 form, as nginx's `$ssl_client_i_dn` shows it.
#[must_use]
pub fn issuer(certificate: &X509Ref) -> String {
    crate::crypto::sys::name_rfc2253(certificate.issuer_name())
}

/// The serial number of a certificate as upper-case hex, as nginx's `$ssl_client_serial`.
#[must_use]
pub fn serial(certificate: &X509Ref) -> String {
    certificate
        .serial_number()
        .to_bn()
        .and_then(|number| number.to_hex_str().map(|hex| hex.to_string()))
        .map(|hex| if hex == "0" { "00".to_owned() } else { hex })
        .unwrap_or_default()
}

/// From when until when a certificate is valid, as seconds since the epoch.
///
/// # Errors
/// OpenSSL's own.
pub fn validity(certificate: &X509Ref) -> Result<(i64, i64), ErrorStack> {
    Ok((
        epoch_seconds(certificate.not_before())?,
        epoch_seconds(certificate.not_after())?,
    ))
}

fn epoch_seconds(time: &Asn1TimeRef) -> Result<i64, ErrorStack> {
    let diff = Asn1Time::from_unix(0)?.diff(time)?;
    Ok(i64::from(diff.days) * 86_400 + i64::from(diff.secs))
}

/// The DNS names a certificate was issued for, wildcards as written.
///
/// The common names count only when there is no subject alternative name at all (RFC 6125 §6.4.4,
/// OpenSSL's `X509_check_host(3)`).
#[must_use]
pub fn dns_names(certificate: &X509Ref) -> Vec<String> {
    if let Some(names) = certificate.subject_alt_names() {
        return names
            .iter()
            .filter_map(|name| name.dnsname())
            .map(str::to_owned)
            .collect();
    }
    certificate
        .subject_name()
        .entries_by_nid(Nid::COMMONNAME)
        .filter_map(|entry| entry.data().to_string().ok())
        .collect()
}

/// All that a certificate was issued for: its [`dns_names`], then its addresses.
#[must_use]
pub fn names(certificate: &X509Ref) -> Vec<String> {
    let mut names = dns_names(certificate);
    let others = certificate.subject_alt_names();
    let bytes = others.iter().flatten().filter_map(|name| name.ipaddress());
    names.extend(bytes.filter_map(|bytes| {
        let ip = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
        let ip = ip.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
        ip.ok().map(|ip| ip.to_string())
    }));
    names
}

/// Whether `key` may be used for TLS here.
fn judge_key(key: &PKey<Private>) -> Result<(), MaterialError> {
    match key.id() {
        KeyId::RSA if key.bits() < 2048 => Err(MaterialError::TooShort {
            kind: "RSA",
            bits: key.bits(),
            least: 2048,
        }),
        KeyId::EC if key.bits() < 224 => Err(MaterialError::TooShort {
            kind: "EC",
            bits: key.bits(),
            least: 224,
        }),
        // RSA-PSS keys have signature algorithms of their own, `rsa_pss_pss_*`, which no profile has.
        KeyId::RSA | KeyId::EC | KeyId::ED25519 | KeyId::ED448 => Ok(()),
        other => Err(MaterialError::KeyType(key_kind(other))),
    }
}

fn key_kind(id: KeyId) -> String {
    match id {
        KeyId::RSA => "RSA".to_owned(),
        KeyId::RSA_PSS => "RSA-PSS".to_owned(),
        KeyId::EC => "EC".to_owned(),
        KeyId::ED25519 => "Ed25519".to_owned(),
        KeyId::ED448 => "Ed448".to_owned(),
        other => format!("number {}", other.as_raw()),
    }
}

fn parse_certificates(pem: &str) -> Result<Vec<X509>, MaterialError> {
    let all = X509::stack_from_pem(trim(pem).as_bytes()).map_err(MaterialError::Certificate)?;
    if all.is_empty() {
        return Err(MaterialError::Certificate(ErrorStack::get()));
    }
    Ok(all)
}

/// Cuts blanks and a byte-order mark before the first block: pasted PEM often has them.
fn trim(pem: &str) -> &str {
    pem.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n'])
}

/// What tells a list of certificates from all others.
///
/// # Errors
/// OpenSSL's own, from hashing.
pub(super) fn digest_certificates<'a>(
    certificates: impl IntoIterator<Item = &'a X509Ref>,
) -> Result<Digest, ErrorStack> {
    let mut all = Vec::new();
    for certificate in certificates {
        all.extend_from_slice(&certificate.digest(MessageDigest::sha256())?);
    }
    sha256(&all)
}

pub(super) fn sha256(bytes: &[u8]) -> Result<Digest, ErrorStack> {
    let digest = openssl::hash::hash(MessageDigest::sha256(), bytes)?;
    let mut out = [0; 32];
    out.copy_from_slice(&digest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use openssl::pkey_ctx::PkeyCtx;
    use openssl::symm::Cipher;

    use super::*;

    fn text(pem: Vec<u8>) -> String {
        String::from_utf8(pem).unwrap()
    }

    fn key() -> PKey<Private> {
        PKey::ec_gen("P-256").unwrap()
    }

    fn encrypted(key: &PKey<Private>, passphrase: &str) -> String {
        let cipher = Cipher::aes_256_cbc();
        let pem = key.private_key_to_pem_pkcs8_passphrase(cipher, passphrase.as_bytes());
        text(pem.unwrap())
    }

    #[test]
    fn rsa_key_for_pss_alone_is_refused_since_tls_here_cannot_use_it() {
        let made = |id| {
            let mut ctx = PkeyCtx::new_id(id).unwrap();
            ctx.keygen_init().unwrap();
            ctx.set_rsa_keygen_bits(2048).unwrap();
            text(ctx.keygen().unwrap().private_key_to_pem_pkcs8().unwrap())
        };
        PrivateKey::parse(&made(KeyId::RSA)).unwrap();
        let refused = PrivateKey::parse(&made(KeyId::RSA_PSS)).unwrap_err();
        let said = refused.to_string();
        assert!(
            said.starts_with("unsupported key type RSA-PSS; use RSA"),
            "{said}"
        );
    }

    #[test]
    fn encrypted_key_is_told_from_a_broken_one() {
        let key = key();
        let older =
            "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00";
        for pem in [encrypted(&key, "pass"), older.to_owned()] {
            let refusal = PrivateKey::parse(&pem).unwrap_err();
            assert!(matches!(refusal, MaterialError::Encrypted), "{refusal}");
        }
        let plain = text(key.private_key_to_pem_pkcs8().unwrap());
        PrivateKey::parse(&plain).unwrap();
        let broken = plain.replacen("MI", "", 1);
        let refusal = PrivateKey::parse(&broken).unwrap_err();
        assert!(matches!(refusal, MaterialError::Key(_)), "{refusal}");
    }

    #[test]
    fn encrypted_key_is_read_with_its_passphrase_alone() {
        let key = key();
        let longest = "p".repeat(1024);
        for passphrase in ["pass", &longest] {
            let pem = encrypted(&key, passphrase);
            let read = PrivateKey::parse_encrypted(&pem, passphrase).unwrap();
            assert!(read.0.public_eq(&key));
            for wrong in ["", "other", &"p".repeat(1025)] {
                let refusal = PrivateKey::parse_encrypted(&pem, wrong).unwrap_err();
                assert!(matches!(refusal, MaterialError::Passphrase(_)), "{refusal}");
            }
        }
        let plain = text(key.private_key_to_pem_pkcs8().unwrap());
        PrivateKey::parse_encrypted(&plain, "pass").unwrap();
    }

    #[test]
    fn encrypted_key_that_is_cut_short_is_refused_as_broken() {
        let pem = encrypted(&key(), "pass");
        for end in [40, 60, 120] {
            let cut = format!("{}\n-----END ENCRYPTED PRIVATE KEY-----\n", &pem[..end]);
            let refusal = PrivateKey::parse_encrypted(&cut, "pass").unwrap_err();
            assert!(matches!(refusal, MaterialError::Key(_)), "{refusal}");
        }
    }
}
