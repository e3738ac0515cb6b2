//! A small PKI for trying things out: one CA, a server's and a client's certificate.
//!
//! All of them say in their subject what they are, so that none is taken for more.

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName,
    SubjectKeyIdentifier,
};
use openssl::x509::{X509, X509Builder, X509Name, X509NameBuilder};
use zeroize::Zeroizing;

/// How long everything is valid.
pub const VALID_DAYS: u32 = 30;
/// The organisation in every subject.
pub const MARK: &str = "Try-out only, not for production";

/// A certificate and its key as PEM texts.
#[derive(Debug)]
pub struct Pair {
    /// The certificate.
    pub cert: String,
    /// The key, PKCS#8, P-256.
    pub key: Zeroizing<String>,
}

/// What is needed for mutual TLS on one name.
#[derive(Debug)]
pub struct Kit {
    /// Issued the other two.
    pub ca: Pair,
    /// For the server of the names asked for.
    pub server: Pair,
    /// For one client.
    pub client: Pair,
}

/// Makes a CA, a server certificate for these DNS names (at least one) and a client certificate.
///
/// # Errors
/// OpenSSL's own: a name that is too long for a subject, for instance.
pub fn make(names: &[&str], client: &str) -> Result<Kit, ErrorStack> {
    let authority = Signer::root()?;
    let first = names.first().copied().unwrap_or("localhost");
    let server = authority.issue(first, |cert, context| {
        let mut listed = SubjectAlternativeName::new();
        for name in names {
            listed.dns(name);
        }
        let listed = listed.build(&cert.x509v3_context(Some(context), None))?;
        cert.append_extension(listed)?;
        cert.append_extension(ExtendedKeyUsage::new().server_auth().build()?)
    })?;
    let client = authority.issue(client, |cert, _| {
        cert.append_extension(ExtendedKeyUsage::new().client_auth().build()?)
    })?;
    Ok(Kit {
        ca: written(&authority.cert, &authority.key)?,
        server,
        client,
    })
}

struct Signer {
    cert: X509,
    key: PKey<Private>,
}

impl Signer {
    fn root() -> Result<Self, ErrorStack> {
        let key = PKey::ec_gen("P-256")?;
        let name = subject("Try-out CA")?;
        let mut cert = start(&name, &name, &key)?;
        cert.append_extension(BasicConstraints::new().critical().ca().build()?)?;
        let usage = KeyUsage::new()
            .critical()
            .key_cert_sign()
            .crl_sign()
            .build()?;
        cert.append_extension(usage)?;
        let own = SubjectKeyIdentifier::new().build(&cert.x509v3_context(None, None))?;
        cert.append_extension(own)?;
        cert.sign(&key, MessageDigest::sha256())?;
        Ok(Self {
            cert: cert.build(),
            key,
        })
    }

    fn issue(
        &self,
        name: &str,
        extend: impl FnOnce(&mut X509Builder, &X509) -> Result<(), ErrorStack>,
    ) -> Result<Pair, ErrorStack> {
        let key = PKey::ec_gen("P-256")?;
        let mut cert = start(&subject(name)?, self.cert.subject_name(), &key)?;
        cert.append_extension(BasicConstraints::new().critical().build()?)?;
        let usage = KeyUsage::new().critical().digital_signature().build()?;
        cert.append_extension(usage)?;
        let own = SubjectKeyIdentifier::new().build(&cert.x509v3_context(None, None))?;
        cert.append_extension(own)?;
        let issuer = AuthorityKeyIdentifier::new()
            .keyid(true)
            .build(&cert.x509v3_context(Some(&self.cert), None))?;
        cert.append_extension(issuer)?;
        extend(&mut cert, &self.cert)?;
        cert.sign(&self.key, MessageDigest::sha256())?;
        written(&cert.build(), &key)
    }
}

fn subject(common_name: &str) -> Result<X509Name, ErrorStack> {
    let mut name = X509NameBuilder::new()?;
    name.append_entry_by_nid(Nid::ORGANIZATIONNAME, MARK)?;
    name.append_entry_by_nid(Nid::COMMONNAME, common_name)?;
    Ok(name.build())
}

fn start(
    subject: &X509Name,
    issuer: &openssl::x509::X509NameRef,
    key: &PKey<Private>,
) -> Result<X509Builder, ErrorStack> {
    let mut serial = BigNum::new()?;
    serial.rand(127, MsbOption::MAYBE_ZERO, false)?;
    let serial = serial.to_asn1_integer()?;
    let (from, until) = (
        Asn1Time::days_from_now(0)?,
        Asn1Time::days_from_now(VALID_DAYS)?,
    );
    let mut cert = X509::builder()?;
    cert.set_version(2)?;
    cert.set_serial_number(&serial)?;
    cert.set_subject_name(subject)?;
    cert.set_issuer_name(issuer)?;
    cert.set_not_before(&from)?;
    cert.set_not_after(&until)?;
    cert.set_pubkey(key)?;
    Ok(cert)
}

fn written(cert: &X509, key: &PKey<Private>) -> Result<Pair, ErrorStack> {
    let utf8 = |pem: Vec<u8>| String::from_utf8_lossy(&pem).into_owned();
    Ok(Pair {
        cert: utf8(cert.to_pem()?),
        key: Zeroizing::new(utf8(key.private_key_to_pem_pkcs8()?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use openssl::stack::Stack;
    use openssl::x509::X509VerifyResult;

    use crate::crypto::sys::Purpose;
    use crate::tls::material::{self, CaBundle, KeyPair};
    use crate::tls::trust::CaStore;

    #[test]
    fn kit_verifies_for_its_purposes_and_says_what_it_is() {
        let kit = make(&["api.example.com", "*.test"], "alice").unwrap();
        let store = CaStore::new(&CaBundle::parse(&kit.ca.cert).unwrap()).unwrap();
        let none = Stack::new().unwrap();
        let server = KeyPair::parse(&kit.server.cert, &kit.server.key).unwrap();
        let client = KeyPair::parse(&kit.client.cert, &kit.client.key).unwrap();
        for (pair, purpose, is_good) in [
            (&server, Purpose::Server, true),
            (&client, Purpose::Client, true),
            (&client, Purpose::Server, false),
            (&server, Purpose::Client, false),
        ] {
            let judged = store.judge(&pair.chain.leaf, &none, purpose, 1).unwrap();
            assert_eq!(judged == X509VerifyResult::OK, is_good);
        }
        let names = material::dns_names(&server.chain.leaf);
        assert_eq!(names, ["api.example.com", "*.test"]);
        for cert in [&server.chain.leaf, &client.chain.leaf] {
            assert!(material::subject(cert).contains("not for production"));
            assert!(material::issuer(cert).contains("not for production"));
        }
    }
}
