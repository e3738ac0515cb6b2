//! The certificate the admin listener shows until the operator gives it one.

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};

/// How long it is valid: it is known by its fingerprint, not by its dates.
const VALID_DAYS: u32 = 3650;

/// A self-signed certificate and its key as PEM texts.
#[derive(Debug)]
pub struct SelfSigned {
    /// The certificate.
    pub cert: String,
    /// The key, PKCS#8; P-256 unless another was certified.
    pub key: zeroize::Zeroizing<String>,
}

/// Makes a server certificate for `localhost` and the loopback addresses.
///
/// # Errors
/// OpenSSL's own.
pub fn make() -> Result<SelfSigned, ErrorStack> {
    // Not `EcKey::generate`, which is libcrypto's own and passes the providers by.
    certify(&PKey::ec_gen("P-256")?)
}

/// Makes that certificate for a key that is there.
///
/// # Errors
/// OpenSSL's own.
pub(super) fn certify(key: &PKey<Private>) -> Result<SelfSigned, ErrorStack> {
    let mut name = X509NameBuilder::new()?;
    name.append_entry_by_nid(Nid::COMMONNAME, "Portcullis Admin API")?;
    let name = name.build();
    let mut serial = BigNum::new()?;
    serial.rand(127, MsbOption::MAYBE_ZERO, false)?;
    let mut cert = X509::builder()?;
    cert.set_version(2)?;
    let serial = serial.to_asn1_integer()?;
    cert.set_serial_number(&serial)?;
    cert.set_subject_name(&name)?;
    cert.set_issuer_name(&name)?;
    let (start, end) = (
        Asn1Time::days_from_now(0)?,
        Asn1Time::days_from_now(VALID_DAYS)?,
    );
    cert.set_not_before(&start)?;
    cert.set_not_after(&end)?;
    cert.set_pubkey(key)?;
    cert.append_extension(BasicConstraints::new().critical().build()?)?;
    cert.append_extension(ExtendedKeyUsage::new().server_auth().build()?)?;
    let names = SubjectAlternativeName::new()
        .dns("localhost")
        .ip("127.0.0.1")
        .ip("::1")
        .build(&cert.x509v3_context(None, None))?;
    cert.append_extension(names)?;
    cert.sign(key, MessageDigest::sha256())?;
    let utf8 = |pem: Vec<u8>| String::from_utf8_lossy(&pem).into_owned();
    Ok(SelfSigned {
        cert: utf8(cert.build().to_pem()?),
        key: zeroize::Zeroizing::new(utf8(key.private_key_to_pem_pkcs8()?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::material::KeyPair;

    #[test]
    fn what_is_made_is_a_pair_for_localhost() {
        let made = make().unwrap();
        let pair = KeyPair::parse(&made.cert, &made.key).unwrap();
        assert_eq!(
            crate::tls::material::dns_names(&pair.chain.leaf),
            ["localhost"]
        );
    }
}
