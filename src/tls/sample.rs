//! Certificates for unit tests, made in memory: P-256, nothing on disk, nothing that expires.

use openssl::asn1::{Asn1Integer, Asn1Object, Asn1OctetString, Asn1Time};
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{Id as KeyId, PKey, Private};
use openssl::pkey_ctx::PkeyCtx;
use openssl::x509::extension::{AuthorityKeyIdentifier, BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509CrlBuilder, X509Extension, X509Name, X509RevokedBuilder};

/// The moment at which the tests judge: 2026-01-01.
pub(crate) const NOW: i64 = 1_767_225_600;

/// A certificate with its key, both also as PEM.
pub(crate) struct Sample {
    certificate: X509,
    key: PKey<Private>,
    /// The certificate.
    pub(crate) cert: String,
    /// Its key, PKCS#8.
    pub(crate) key_pem: String,
}

/// What is made.
pub(crate) struct Wish<'a> {
    /// Common name.
    pub(crate) name: &'a str,
    /// DNS subject alternative names; none: no such extension.
    pub(crate) dns: &'a [&'a str],
    /// Seconds since the epoch.
    pub(crate) valid: (i64, i64),
}

/// A CA valid from a year before [`NOW`] on, for decades.
pub(crate) fn ca(name: &str) -> Sample {
    issue(
        &Wish {
            name,
            dns: &[],
            valid: decades(),
        },
        None,
    )
}

/// A certificate of `ca` for the given names, valid from a year before [`NOW`] on, for decades.
pub(crate) fn leaf(ca: &Sample, name: &str, dns: &[&str]) -> Sample {
    issue(
        &Wish {
            name,
            dns,
            valid: decades(),
        },
        Some(ca),
    )
}

/// As [`leaf`], with an Ed25519 key.
pub(crate) fn ed25519_leaf(ca: &Sample, name: &str, dns: &[&str]) -> Sample {
    let wish = Wish {
        name,
        dns,
        valid: decades(),
    };
    certify(&wish, PKey::generate_ed25519().unwrap(), Some(ca))
}

/// As [`leaf`], with an RSA key of 2048 bits.
pub(crate) fn rsa_leaf(ca: &Sample, name: &str, dns: &[&str]) -> Sample {
    let wish = Wish {
        name,
        dns,
        valid: decades(),
    };
    let mut ctx = PkeyCtx::new_id(KeyId::RSA).unwrap();
    ctx.keygen_init().unwrap();
    ctx.set_rsa_keygen_bits(2048).unwrap();
    certify(&wish, ctx.keygen().unwrap(), Some(ca))
}

/// A certificate as wished; self-signed, and a CA, without an issuer.
pub(crate) fn issue(wish: &Wish<'_>, issuer: Option<&Sample>) -> Sample {
    certify(wish, PKey::ec_gen("P-256").unwrap(), issuer)
}

fn certify(wish: &Wish<'_>, key: PKey<Private>, issuer: Option<&Sample>) -> Sample {
    let mut subject = X509Name::builder().unwrap();
    subject
        .append_entry_by_nid(Nid::COMMONNAME, wish.name)
        .unwrap();
    let subject = subject.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let serial = BigNum::from_u32(1).unwrap();
    builder
        .set_serial_number(&Asn1Integer::from_bn(&serial).unwrap())
        .unwrap();
    builder.set_subject_name(&subject).unwrap();
    let by = issuer.map_or(&*subject, |issuer| issuer.certificate.subject_name());
    builder.set_issuer_name(by).unwrap();
    builder
        .set_not_before(&Asn1Time::from_unix(wish.valid.0).unwrap())
        .unwrap();
    builder
        .set_not_after(&Asn1Time::from_unix(wish.valid.1).unwrap())
        .unwrap();
    builder.set_pubkey(&key).unwrap();
    if issuer.is_none() {
        builder
            .append_extension(BasicConstraints::new().critical().ca().build().unwrap())
            .unwrap();
    }
    if !wish.dns.is_empty() {
        let mut names = SubjectAlternativeName::new();
        for name in wish.dns {
            names.dns(name);
        }
        let extension = names.build(&builder.x509v3_context(None, None)).unwrap();
        builder.append_extension(extension).unwrap();
    }
    let signer = issuer.map_or(&key, |issuer| &issuer.key);
    builder.sign(signer, MessageDigest::sha256()).unwrap();
    let certificate = builder.build();
    let cert = String::from_utf8(certificate.to_pem().unwrap()).unwrap();
    let key_pem = String::from_utf8(key.private_key_to_pem_pkcs8().unwrap()).unwrap();
    Sample {
        certificate,
        key,
        cert,
        key_pem,
    }
}

/// The revocation list of `ca`, PEM: the serials on it, when it was made and by when it is to be
/// replaced.
pub(crate) fn crl(ca: &Sample, serials: &[u32], dates: (i64, i64)) -> String {
    crl_with(ca, serials, dates, &[])
}

/// The same with critical extensions: object identifier and value, DER.
pub(crate) fn crl_with(
    ca: &Sample,
    serials: &[u32],
    (made, until): (i64, i64),
    extensions: &[(&str, &[u8])],
) -> String {
    let time = |seconds| Asn1Time::from_unix(seconds).unwrap();
    let mut list = X509CrlBuilder::new().unwrap();
    list.set_issuer_name(ca.certificate.subject_name()).unwrap();
    list.set_last_update(&time(made)).unwrap();
    list.set_next_update(&time(until)).unwrap();
    for serial in serials {
        let mut revoked = X509RevokedBuilder::new().unwrap();
        let serial = BigNum::from_u32(*serial).unwrap();
        let serial = Asn1Integer::from_bn(&serial).unwrap();
        revoked.set_serial_number(&serial).unwrap();
        revoked.set_revocation_date(&time(made)).unwrap();
        list.add_revoked(revoked.build()).unwrap();
    }
    // RFC 5280 §5.2: both extensions are in every list.
    let any = X509::builder().unwrap();
    let context = any.x509v3_context(Some(&ca.certificate), None);
    let mut issuer = AuthorityKeyIdentifier::new();
    let issuer = issuer.issuer(true).build(&context).unwrap();
    list.append_extension(issuer).unwrap();
    let mut append = |oid, is_critical, der| {
        let oid = Asn1Object::from_str(oid).unwrap();
        let der = Asn1OctetString::new_from_bytes(der).unwrap();
        let extension = X509Extension::new_from_der(&oid, is_critical, &der).unwrap();
        list.append_extension(extension).unwrap();
    };
    append("2.5.29.20", false, &[2, 1, 1]);
    for (oid, der) in extensions {
        append(oid, true, der);
    }
    list.sign(&ca.key, MessageDigest::sha256()).unwrap();
    String::from_utf8(list.build().unwrap().to_pem().unwrap()).unwrap()
}

/// A year before [`NOW`], and twenty behind it: what is judged by the clock passes for that long.
fn decades() -> (i64, i64) {
    (NOW - 31_536_000, NOW + 20 * 31_536_000)
}
