//! What `fips: required` asks of keys and certificates, besides what TLS asks of them anyway.
//!
//! RSA of 2048 bits or more with a public exponent that FIPS 186-5 permits, EC on P-256, P-384 or
//! P-521, signatures with SHA-256 or
//! better; and a key that the FIPS module itself holds, since OpenSSL loads
//! some that it does not have by a legacy path.

use std::cmp::Ordering;
use std::ops::RangeInclusive;

use openssl::nid::Nid;
use openssl::pkey::{HasPublic, Id as KeyId, PKeyRef, Private};
use openssl::x509::{X509, X509Ref};

use super::{CaBundle, CertChain, PrivateKey, key_kind};
use crate::crypto::fips::{self, Mode};
use crate::crypto::sys;

/// The shortest RSA key, in bits (SP 800-131A).
const RSA_BITS: u32 = 2048;
/// How many bits the public exponent of an RSA key has, which is odd: above 2^16, below 2^256
/// (FIPS 186-5 appendix A.1.1).
const EXPONENT_BITS: RangeInclusive<i32> = 17..=256;
/// The curves of FIPS 186, by OpenSSL's names.
const CURVES: [&str; 3] = ["prime256v1", "secp384r1", "secp521r1"];
/// The digests that a certificate may be signed with.
const DIGESTS: [Nid; 3] = [Nid::SHA256, Nid::SHA384, Nid::SHA512];

/// What is not approved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{part} {flaw}")]
pub struct Unapproved {
    /// The part of the text that is meant.
    pub part: Part,
    /// What is wrong with it.
    pub flaw: Flaw,
}

/// A part of a PEM text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Part {
    /// A private key.
    #[error("the private key")]
    Key,
    /// The certificate with this number, from 1.
    #[error("certificate {0}")]
    Certificate(usize),
}

/// Why `fips: required` refuses a key or certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// Another algorithm.
    #[error(
        "has the algorithm {0}, which `fips: required` refuses; use RSA of 2048 bits or more, or \
         EC on P-256, P-384 or P-521"
    )]
    Algorithm(String),
    /// Too few bits.
    #[error("is RSA of {0} bits, which `fips: required` refuses; use 2048 bits or more")]
    Short(u32),
    /// Another public exponent.
    #[error(
        "is RSA with the public exponent {0}, which `fips: required` refuses; use 65537, as \
         `openssl genrsa` does"
    )]
    Exponent(String),
    /// Another curve.
    #[error("is EC on {0}, which `fips: required` refuses; use P-256, P-384 or P-521")]
    Curve(String),
    /// Another digest than those of SHA-2 with 256 bits or more.
    #[error(
        "is signed with {0}, which `fips: required` refuses; have it issued anew with SHA-256, \
         SHA-384 or SHA-512"
    )]
    Signature(String),
    /// A public key that OpenSSL does not have.
    #[error(
        "has a key that the FIPS module does not know; use RSA of 2048 bits or more, or EC on \
         P-256, P-384 or P-521"
    )]
    Unknown,
    /// A key that something else than the module holds.
    #[error("is not held by the FIPS module; use RSA or EC, as plain PKCS#8, PKCS#1 or SEC1")]
    Elsewhere,
}

impl Flaw {
    /// Whether a signature is at fault, rather than a key.
    #[must_use]
    pub fn is_about_a_signature(&self) -> bool {
        match self {
            Self::Signature(_) => true,
            Self::Algorithm(_)
            | Self::Short(_)
            | Self::Exponent(_)
            | Self::Curve(_)
            | Self::Unknown
            | Self::Elsewhere => false,
        }
    }
}

/// Whether this process takes only what is approved.
#[must_use]
pub fn is_required() -> bool {
    fips::mode() == Mode::Fips
}

impl CertChain {
    /// Whether `fips: required` takes every certificate of the chain.
    ///
    /// # Errors
    /// The first that it does not take.
    pub fn approve(&self) -> Result<(), Unapproved> {
        first(self.flaws())
    }

    /// Everything that `fips: required` does not take.
    #[must_use]
    pub fn flaws(&self) -> Vec<Unapproved> {
        let mut flaws = flaws(1, &self.leaf, Standing::Shown);
        for (n, certificate) in (2..).zip(&self.intermediates) {
            flaws.extend(self::flaws(n, certificate, Standing::Issuer));
        }
        flaws
    }
}

impl CaBundle {
    /// Whether `fips: required` takes every certificate of the bundle.
    ///
    /// # Errors
    /// The first that it does not take.
    pub fn approve(&self) -> Result<(), Unapproved> {
        first(self.flaws())
    }

    /// Everything that `fips: required` does not take.
    #[must_use]
    pub fn flaws(&self) -> Vec<Unapproved> {
        let all = (1..).zip(&self.certificates);
        all.flat_map(|(n, certificate)| flaws(n, certificate, Standing::Issuer))
            .collect()
    }
}

fn first(flaws: Vec<Unapproved>) -> Result<(), Unapproved> {
    flaws.into_iter().next().map_or(Ok(()), Err)
}

/// Why the certificate that a peer showed is not taken where `mode` is in force, whether or not its
/// chain is checked: the peer's key is used for the handshake all the same.
pub(in crate::tls) fn judge_peer(certificate: &X509Ref, mode: Mode) -> Option<Unapproved> {
    match mode {
        Mode::Default => None,
        Mode::Fips => flaws(1, certificate, Standing::Shown).into_iter().next(),
    }
}

/// Whether `fips: required` takes this one as an issuer.
pub(super) fn is_approved_issuer(certificate: &X509) -> bool {
    flaws(1, certificate, Standing::Issuer).is_empty()
}

impl PrivateKey {
    /// Whether `fips: required` takes the key.
    ///
    /// # Errors
    /// Why it does not.
    pub fn approve(&self) -> Result<(), Unapproved> {
        approve_key(&self.0).map_err(|flaw| Unapproved {
            part: Part::Key,
            flaw,
        })
    }
}

/// Whether the FIPS module holds the key. In FIPS mode no other may be used.
pub(super) fn is_held_by_the_module(key: &PKeyRef<Private>) -> Result<(), Unapproved> {
    if fips::key_provider(key).as_deref() == Some(fips::PROVIDER) {
        return Ok(());
    }
    Err(Unapproved {
        part: Part::Key,
        flaw: Flaw::Elsewhere,
    })
}

/// What a certificate is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Shown to peers as ours.
    Shown,
    /// Vouches for others. Nobody checks the signature that a root makes on itself.
    Issuer,
}

/// The flaws of one certificate: its key's, then its signature's.
fn flaws(number: usize, certificate: &X509Ref, standing: Standing) -> Vec<Unapproved> {
    let key = match certificate.public_key() {
        Ok(key) => approve_key(&key),
        Err(_unknown) => Err(Flaw::Unknown),
    };
    let signature = if standing == Standing::Issuer && is_self_issued(certificate) {
        Ok(())
    } else {
        approve_signature(certificate)
    };
    let flaws = [key, signature].into_iter().filter_map(Result::err);
    let part = Part::Certificate(number);
    flaws.map(|flaw| Unapproved { part, flaw }).collect()
}

fn approve_key<T: HasPublic>(key: &PKeyRef<T>) -> Result<(), Flaw> {
    match key.id() {
        KeyId::RSA | KeyId::RSA_PSS if key.bits() < RSA_BITS => Err(Flaw::Short(key.bits())),
        KeyId::RSA | KeyId::RSA_PSS => approve_exponent(key),
        KeyId::EC => match sys::group_name(key) {
            Some(curve) if CURVES.contains(&curve.as_str()) => Ok(()),
            curve => Err(Flaw::Curve(
                curve.unwrap_or_else(|| "an unnamed curve".to_owned()),
            )),
        },
        other => Err(Flaw::Algorithm(key_kind(other))),
    }
}

fn approve_exponent<T: HasPublic>(key: &PKeyRef<T>) -> Result<(), Flaw> {
    let Ok(rsa) = key.rsa() else {
        return Err(Flaw::Unknown);
    };
    let exponent = rsa.e();
    if EXPONENT_BITS.contains(&exponent.num_bits()) && exponent.is_bit_set(0) {
        return Ok(());
    }
    let shown = exponent.to_dec_str().map(|text| text.to_string());
    Err(Flaw::Exponent(shown.unwrap_or_default()))
}

fn approve_signature(certificate: &X509Ref) -> Result<(), Flaw> {
    match sys::signature_digest(certificate) {
        Some(digest) if DIGESTS.contains(&digest) => Ok(()),
        _ => {
            let algorithm = certificate.signature_algorithm().object();
            Err(Flaw::Signature(algorithm.to_string()))
        }
    }
}

fn is_self_issued(certificate: &X509Ref) -> bool {
    let (subject, issuer) = (certificate.subject_name(), certificate.issuer_name());
    matches!(subject.try_cmp(issuer), Ok(Ordering::Equal))
}

#[cfg(test)]
mod tests {
    use openssl::asn1::{Asn1Integer, Asn1Time};
    use openssl::bn::BigNum;
    use openssl::hash::MessageDigest;
    use openssl::pkey::PKey;
    use openssl::rsa::Rsa;
    use openssl::x509::X509Name;

    use super::*;

    fn name(text: &str) -> X509Name {
        let mut name = X509Name::builder().unwrap();
        name.append_entry_by_nid(Nid::COMMONNAME, text).unwrap();
        name.build()
    }

    /// A certificate of `key`, signed with it; `issuer` may be another's name.
    fn certificate(key: &PKey<Private>, digest: MessageDigest, issuer: &str) -> X509 {
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        let serial = Asn1Integer::from_bn(&BigNum::from_u32(1).unwrap()).unwrap();
        builder.set_serial_number(&serial).unwrap();
        builder.set_subject_name(&name("subject")).unwrap();
        builder.set_issuer_name(&name(issuer)).unwrap();
        let (from, until) = (Asn1Time::from_unix(0), Asn1Time::from_unix(1));
        builder.set_not_before(&from.unwrap()).unwrap();
        builder.set_not_after(&until.unwrap()).unwrap();
        builder.set_pubkey(key).unwrap();
        builder.sign(key, digest).unwrap();
        builder.build()
    }

    fn chain(leaf: X509) -> CertChain {
        CertChain {
            leaf,
            intermediates: Vec::new(),
        }
    }

    fn flaw_of(key: &PKey<Private>, digest: MessageDigest) -> Option<String> {
        let judged = chain(certificate(key, digest, "issuer")).approve();
        judged.err().map(|refusal| refusal.flaw.to_string())
    }

    fn rsa(bits: u32) -> PKey<Private> {
        rsa_of(bits, 65537)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a test's key, of kinds that the module does not make"
    )]
    fn rsa_of(bits: u32, exponent: u32) -> PKey<Private> {
        let exponent = BigNum::from_u32(exponent).unwrap();
        PKey::from_rsa(Rsa::generate_with_e(bits, &exponent).unwrap()).unwrap()
    }

    #[test]
    fn keys_and_signatures_are_approved_or_named() {
        let sha256 = MessageDigest::sha256();
        for curve in ["P-256", "P-384", "P-521"] {
            let key = PKey::ec_gen(curve).unwrap();
            assert_eq!(flaw_of(&key, sha256), None, "{curve}");
            assert_eq!(PrivateKey(key).approve(), Ok(()), "{curve}");
        }
        let (good, short) = (rsa(2048), rsa(1024));
        for digest in [sha256, MessageDigest::sha384(), MessageDigest::sha512()] {
            assert_eq!(flaw_of(&good, digest), None);
        }
        let ed25519 = PKey::generate_ed25519().unwrap();
        let (three, fermat) = (rsa_of(2048, 3), rsa_of(2048, 257));
        for (key, digest, flaw) in [
            (&short, sha256, "is RSA of 1024 bits"),
            (&three, sha256, "is RSA with the public exponent 3,"),
            (&fermat, sha256, "is RSA with the public exponent 257,"),
            (
                &good,
                MessageDigest::sha224(),
                "is signed with sha224WithRSA",
            ),
            (&good, MessageDigest::sha1(), "is signed with sha1WithRSA"),
            (&good, MessageDigest::md5(), "is signed with md5WithRSA"),
            (
                &PKey::ec_gen("secp256k1").unwrap(),
                sha256,
                "is EC on secp256k1",
            ),
            (
                &PKey::ec_gen("brainpoolP256r1").unwrap(),
                sha256,
                "is EC on brainpoolP256r1",
            ),
            (&ed25519, MessageDigest::null(), "has the algorithm Ed25519"),
        ] {
            let found = flaw_of(key, digest).unwrap();
            assert!(found.starts_with(flaw), "{found}");
        }
        let refusal = PrivateKey(ed25519).approve().unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "the private key has the algorithm Ed25519, which `fips: required` refuses; use RSA \
             of 2048 bits or more, or EC on P-256, P-384 or P-521"
        );

        // Not the first alone.
        let (short, good) = (rsa(1024), rsa(2048));
        let leaf = certificate(&short, MessageDigest::sha1(), "issuer");
        let above = certificate(&good, MessageDigest::md5(), "root");
        let chain = CertChain {
            leaf,
            intermediates: vec![above],
        };
        let found = chain.flaws();
        let parts: Vec<_> = found.iter().map(|unapproved| unapproved.part).collect();
        let [one, two] = [1, 2].map(Part::Certificate);
        assert_eq!(parts, [one, one, two]);
        assert_eq!(found[0].flaw, Flaw::Short(1024));
        assert!(!found[0].flaw.is_about_a_signature());
        assert!(found[1].flaw.is_about_a_signature() && found[2].flaw.is_about_a_signature());
        assert_eq!(chain.approve().unwrap_err(), found[0]);
    }

    #[test]
    fn signature_of_a_root_on_itself_counts_only_where_it_is_shown() {
        let key = rsa(2048);
        let root = certificate(&key, MessageDigest::sha1(), "subject");
        let below = certificate(&key, MessageDigest::sha1(), "issuer");
        CaBundle::of(vec![root.clone()]).unwrap().approve().unwrap();
        let bundle = CaBundle::of(vec![root.clone(), below]).unwrap();
        assert_eq!(bundle.approve().unwrap_err().part, Part::Certificate(2));
        chain(root).approve().unwrap_err();
    }

    #[test]
    fn key_that_openssl_does_not_have_is_named() {
        let good = certificate(
            &PKey::ec_gen("P-256").unwrap(),
            MessageDigest::sha256(),
            "x",
        );
        let mut der = good.to_der().unwrap();
        // id-ecPublicKey (RFC 5480 section 2.1.1) becomes an algorithm that nobody has.
        let known = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
        let at = der.windows(known.len()).position(|window| window == known);
        der[at.unwrap() + known.len() - 1] = 0x7f;
        let strange = X509::from_der(&der).unwrap();
        let refusal = chain(strange.clone()).approve().unwrap_err();
        assert_eq!(refusal.flaw, Flaw::Unknown);
        let as_issuer = CaBundle::of(vec![good, strange]).unwrap().approve();
        let refusal = as_issuer.unwrap_err();
        assert_eq!(
            (refusal.part, refusal.flaw),
            (Part::Certificate(2), Flaw::Unknown)
        );
    }

    #[test]
    fn certificate_of_a_peer_is_judged_in_fips_mode_alone() {
        let sha256 = MessageDigest::sha256();
        let good = certificate(&PKey::ec_gen("P-256").unwrap(), sha256, "issuer");
        let weak = certificate(&rsa(2048), MessageDigest::sha224(), "issuer");
        assert_eq!(judge_peer(&good, Mode::Fips), None);
        assert_eq!(judge_peer(&weak, Mode::Default), None);
        let told = judge_peer(&weak, Mode::Fips).unwrap();
        assert!(told.flaw.is_about_a_signature(), "{told}");
    }

    #[test]
    fn key_of_default_mode_is_not_the_module_s() {
        let key = PKey::ec_gen("P-256").unwrap();
        assert!(!is_required());
        assert_eq!(
            is_held_by_the_module(&key).unwrap_err().flaw,
            Flaw::Elsewhere
        );
    }
}
