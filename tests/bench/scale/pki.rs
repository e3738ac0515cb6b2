//! P-256 certificates, made in tens of microseconds each.

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Name, X509NameBuilder};

use crate::Failure;

/// A CA with its key.
pub(crate) struct Authority {
    cert: X509,
    key: PKey<Private>,
    /// Its certificate.
    pub(crate) pem: String,
}

/// A certificate with its key.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Authority {
    /// A new one.
    pub(crate) fn new() -> Result<Self, Failure> {
        let key = PKey::ec_gen("P-256")?;
        let name = subject("Bench CA")?;
        let cert = certificate(&name, &name, &key, &key, |builder| {
            builder.append_extension(BasicConstraints::new().critical().ca().build()?)
        })?;
        let pem = String::from_utf8(cert.to_pem()?)?;
        Ok(Self { cert, key, pem })
    }

    /// A certificate for a DNS name, with a key of its own.
    pub(crate) fn issue(&self, name: &str) -> Result<Pair, Failure> {
        let key = PKey::ec_gen("P-256")?;
        let own = subject(name)?;
        let cert = certificate(&own, self.cert.subject_name(), &key, &self.key, |builder| {
            let names = SubjectAlternativeName::new()
                .dns(name)
                .build(&builder.x509v3_context(Some(&self.cert), None))?;
            builder.append_extension(names)
        })?;
        Ok(Pair {
            cert: String::from_utf8(cert.to_pem()?)?,
            key: String::from_utf8(key.private_key_to_pem_pkcs8()?)?,
        })
    }
}

fn subject(name: &str) -> Result<X509Name, Failure> {
    let mut subject = X509NameBuilder::new()?;
    subject.append_entry_by_nid(Nid::COMMONNAME, name)?;
    Ok(subject.build())
}

fn certificate(
    subject: &X509Name,
    issuer: &openssl::x509::X509NameRef,
    key: &PKey<Private>,
    signer: &PKey<Private>,
    extend: impl FnOnce(&mut openssl::x509::X509Builder) -> Result<(), openssl::error::ErrorStack>,
) -> Result<X509, Failure> {
    let mut serial = BigNum::new()?;
    serial.rand(127, MsbOption::MAYBE_ZERO, false)?;
    let serial = serial.to_asn1_integer()?;
    let (from, until) = (Asn1Time::days_from_now(0)?, Asn1Time::days_from_now(30)?);
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    builder.set_serial_number(&serial)?;
    builder.set_subject_name(subject)?;
    builder.set_issuer_name(issuer)?;
    builder.set_not_before(&from)?;
    builder.set_not_after(&until)?;
    builder.set_pubkey(key)?;
    extend(&mut builder)?;
    builder.sign(signer, MessageDigest::sha256())?;
    Ok(builder.build())
}
