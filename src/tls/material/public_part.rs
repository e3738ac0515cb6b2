//! The public part of a key or a certificate, cut out of its text.
//!
//! A key is named by the digest of its public part, which lies in nearly every text as it is. To
//! have OpenSSL 3 make a key of the text takes most of a millisecond ([`plain`] says why), and to
//! have it write the public part of one a tenth; thousands are named to show a list.
//!
//! Known here are RSA, and EC on the curves that TLS uses, in the forms that OpenSSL itself writes:
//! what it would write is put together. Everything else is left to it.

use super::der::{BITS, IDENTIFIER, INTEGER, NULL, OCTETS, SEQUENCE, element, take};
use super::plain;

/// The content of the object identifier `rsaEncryption` (RFC 8017 appendix C).
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// That of `id-ecPublicKey` (RFC 5480 section 2.1.1).
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// Those of `secp256r1`, `secp384r1` and `secp521r1` (RFC 5480 section 2.1.1.1), each with how many
/// bytes a coordinate has.
const CURVES: [(&[u8], usize); 3] = [
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07], 32),
    (&[0x2b, 0x81, 0x04, 0x00, 0x22], 48),
    (&[0x2b, 0x81, 0x04, 0x00, 0x23], 66),
];
/// The bytes of the shortest RSA modulus that is taken.
const LEAST_RSA_BYTES: usize = 2048 / 8;

/// `[0]` and `[1]`, constructed (X.690 section 8.14).
const ZERO: u8 = 0xa0;
const ONE: u8 = 0xa1;
/// What an uncompressed point begins with (SEC 1 section 2.3.3).
const UNCOMPRESSED: u8 = 0x04;

/// The `SubjectPublicKeyInfo` that belongs to the private key of a text with one block; `None` where
/// OpenSSL must be asked what the text is.
pub(super) fn of_key(pem: &str) -> Option<Vec<u8>> {
    let (label, der) = plain::only_block(pem)?;
    let (version, rest) = versioned(&der)?;
    match (label, version) {
        ("PRIVATE KEY", [0]) => of_private_key_info(rest),
        ("RSA PRIVATE KEY", [0]) => of_rsa_private_key(rest),
        ("EC PRIVATE KEY", [1]) => of_ec_private_key(rest, None),
        _ => None,
    }
}

/// The `SubjectPublicKeyInfo` of the first certificate of a text; `None` where OpenSSL must be asked.
pub(super) fn of_certificate(pem: &str) -> Option<Vec<u8>> {
    let der = plain::first_certificate(pem)?;
    let (certificate, _) = take(&der, SEQUENCE)?;
    let (signed, _) = take(certificate, SEQUENCE)?;
    let mut rest = take(signed, ZERO).map_or(signed, |(_version, rest)| rest);
    // serialNumber, signature, issuer, validity, subject (RFC 5280 section 4.1).
    for tag in [INTEGER, SEQUENCE, SEQUENCE, SEQUENCE, SEQUENCE] {
        rest = take(rest, tag)?.1;
    }
    let (info, _extensions) = take(rest, SEQUENCE)?;
    let (algorithm, rest) = take(info, SEQUENCE)?;
    let public = only(rest, BITS)?.strip_prefix(&[0])?;
    match Algorithm::read(algorithm)? {
        Algorithm::Rsa => {
            let (modulus, rest) = natural(only(public, SEQUENCE)?)?;
            let (exponent, rest) = natural(rest)?;
            rest.is_empty().then(|| rsa_info(modulus, exponent))?
        }
        Algorithm::Ec(curve) => curve.info(public),
    }
}

/// `PrivateKeyInfo` (RFC 5208 section 5) without attributes, behind its version.
fn of_private_key_info(rest: &[u8]) -> Option<Vec<u8>> {
    let (algorithm, rest) = take(rest, SEQUENCE)?;
    let (version, rest) = versioned(only(rest, OCTETS)?)?;
    match (Algorithm::read(algorithm)?, version) {
        (Algorithm::Rsa, [0]) => of_rsa_private_key(rest),
        (Algorithm::Ec(curve), [1]) => of_ec_private_key(rest, Some(curve)),
        (Algorithm::Rsa | Algorithm::Ec(_), _) => None,
    }
}

/// `RSAPrivateKey` (RFC 8017 appendix A.1.2) of two primes, behind its version.
fn of_rsa_private_key(rest: &[u8]) -> Option<Vec<u8>> {
    let (modulus, rest) = natural(rest)?;
    let (exponent, mut rest) = natural(rest)?;
    // privateExponent, prime1, prime2, exponent1, exponent2, coefficient.
    for _ in 0..6 {
        rest = natural(rest)?.1;
    }
    rest.is_empty().then(|| rsa_info(modulus, exponent))?
}

/// `ECPrivateKey` (RFC 5915 section 3) with its public key, behind its version. The curve is said
/// in it, or before it, or alike in both.
fn of_ec_private_key<'a>(rest: &'a [u8], before: Option<Curve<'a>>) -> Option<Vec<u8>> {
    let (scalar, rest) = take(rest, OCTETS)?;
    let (curve, rest) = match take(rest, ZERO) {
        Some((parameters, rest)) => (Curve::read(parameters)?, rest),
        None => (before?, rest),
    };
    let point = only(only(rest, ONE)?, BITS)?.strip_prefix(&[0])?;
    let is_whole = scalar.len() == curve.bytes && before.is_none_or(|before| before == curve);
    is_whole.then(|| curve.info(point))?
}

/// What kind of key there is.
enum Algorithm<'a> {
    Rsa,
    Ec(Curve<'a>),
}

impl<'a> Algorithm<'a> {
    fn read(content: &'a [u8]) -> Option<Self> {
        match take(content, IDENTIFIER)? {
            (RSA, [NULL, 0]) => Some(Self::Rsa),
            (EC, parameters) => Curve::read(parameters).map(Self::Ec),
            _ => None,
        }
    }
}

/// A curve.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Curve<'a> {
    /// The content of its object identifier.
    id: &'a [u8],
    /// How many bytes a coordinate has.
    bytes: usize,
}

impl<'a> Curve<'a> {
    /// One that is given by name.
    fn read(parameters: &'a [u8]) -> Option<Self> {
        let id = only(parameters, IDENTIFIER)?;
        let (_, bytes) = CURVES.into_iter().find(|(known, _)| *known == id)?;
        Some(Self { id, bytes })
    }

    /// The public key that this point of it is.
    fn info(self, point: &[u8]) -> Option<Vec<u8>> {
        let is_plain = point.first() == Some(&UNCOMPRESSED) && point.len() == 1 + 2 * self.bytes;
        is_plain.then(|| info(EC, &element(IDENTIFIER, &[self.id]), point))
    }
}

/// The RSA public key of these numbers, if it is long enough.
fn rsa_info(modulus: &[u8], exponent: &[u8]) -> Option<Vec<u8>> {
    let [modulus_part, exponent_part] = [modulus, exponent].map(|it| element(INTEGER, &[it]));
    let digits = modulus.strip_prefix(&[0]).unwrap_or(modulus);
    let is_long = match digits.first() {
        Some(first) => {
            digits.len() > LEAST_RSA_BYTES || (digits.len() == LEAST_RSA_BYTES && *first >= 0x80)
        }
        None => false,
    };
    let numbers = element(SEQUENCE, &[&modulus_part, &exponent_part]);
    is_long.then(|| info(RSA, &[NULL, 0], &numbers))
}

/// `SubjectPublicKeyInfo` (RFC 5280 section 4.1).
fn info(algorithm: &[u8], parameters: &[u8], key: &[u8]) -> Vec<u8> {
    let id = element(IDENTIFIER, &[algorithm]);
    let algorithm = element(SEQUENCE, &[&id, parameters]);
    element(SEQUENCE, &[&algorithm, &element(BITS, &[&[0], key])])
}

/// The content of the only element that there is.
fn only(der: &[u8], tag: u8) -> Option<&[u8]> {
    let (content, rest) = take(der, tag)?;
    rest.is_empty().then_some(content)
}

/// The version that the only element, a sequence, begins with, and what follows it there.
fn versioned(der: &[u8]) -> Option<(&[u8], &[u8])> {
    take(only(der, SEQUENCE)?, INTEGER)
}

/// A number above zero in its shortest form (X.690 section 8.3.2), and what follows it.
fn natural(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (content, rest) = take(der, INTEGER)?;
    let is_shortest = match content {
        [0, next, ..] => *next >= 0x80,
        [first, ..] => (1..0x80).contains(first),
        [] => false,
    };
    is_shortest.then_some((content, rest))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use openssl::bn::BigNumContext;
    use openssl::ec::{EcGroup, PointConversionForm};
    use openssl::nid::Nid;
    use openssl::pkey::{Id as KeyId, PKey, Private};
    use openssl::pkey_ctx::PkeyCtx;

    use super::super::{CertChain, PrivateKey};
    use super::*;
    use crate::tls::sample;

    fn rsa_of(bits: u32) -> PKey<Private> {
        let mut ctx = PkeyCtx::new_id(KeyId::RSA).unwrap();
        ctx.keygen_init().unwrap();
        ctx.set_rsa_keygen_bits(bits).unwrap();
        ctx.keygen().unwrap()
    }

    fn text(pem: Vec<u8>) -> String {
        String::from_utf8(pem).unwrap()
    }

    fn pkcs8(key: &PKey<Private>) -> String {
        text(key.private_key_to_pem_pkcs8().unwrap())
    }

    /// The older form of the kind of key.
    fn older(key: &PKey<Private>) -> String {
        text(match key.id() {
            KeyId::RSA => key.rsa().unwrap().private_key_to_pem().unwrap(),
            _ => key.ec_key().unwrap().private_key_to_pem().unwrap(),
        })
    }

    /// A key whose public part is shorter than usual.
    fn compressed() -> String {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::ec_gen("P-256").unwrap().ec_key().unwrap();
        let mut context = BigNumContext::new().unwrap();
        let form = PointConversionForm::COMPRESSED;
        let point = key.public_key().to_bytes(&group, form, &mut context);
        let scalar = key.private_key().to_vec_padded(32).unwrap();
        let number = |it: u8| element(INTEGER, &[&[it]]);
        let public = element(ONE, &[&element(BITS, &[&[0], &point.unwrap()])]);
        let inner = element(
            SEQUENCE,
            &[&number(1), &element(OCTETS, &[&scalar]), &public],
        );
        let ids = [EC, CURVES[0].0].map(|id| element(IDENTIFIER, &[id]));
        let algorithm = element(SEQUENCE, &[&ids[0], &ids[1]]);
        let pem = pem_of(&element(
            SEQUENCE,
            &[&number(0), &algorithm, &element(OCTETS, &[&inner])],
        ));
        PrivateKey::parse(&pem).unwrap();
        pem
    }

    fn keys() -> Vec<PKey<Private>> {
        let mut keys = vec![rsa_of(2048), rsa_of(3072)];
        for curve in ["P-256", "P-384", "P-521"] {
            keys.push(PKey::ec_gen(curve).unwrap());
        }
        keys
    }

    #[test]
    fn public_part_is_the_one_that_openssl_writes() {
        for key in keys() {
            let expected = key.public_key_to_der().unwrap();
            for text in [
                pkcs8(&key),
                older(&key),
                pkcs8(&key).replace('\n', "\r\n"),
                format!("a note\n{}another", older(&key)),
            ] {
                assert_eq!(of_key(&text).as_ref(), Some(&expected), "{text}");
            }
        }
    }

    #[test]
    fn public_part_of_a_certificate_is_that_of_its_key() {
        let ca = sample::ca("ca");
        let leaf = sample::leaf(&ca, "a", &["a"]);
        let key = of_key(&leaf.key_pem).unwrap();
        for text in [
            leaf.cert.clone(),
            format!("a note\n{}{}", leaf.cert, ca.cert),
        ] {
            assert_eq!(of_certificate(&text).as_ref(), Some(&key), "{text}");
            let chain = CertChain::parse(&text).unwrap();
            let public = chain.leaf.public_key().unwrap().public_key_to_der();
            assert_eq!(public.unwrap(), key, "{text}");
        }
        assert_ne!(of_certificate(&ca.cert), Some(key));
        let rsa = sample::rsa_leaf(&ca, "a", &["a"]);
        assert!(of_key(&rsa.key_pem).is_some());
        assert_eq!(of_certificate(&rsa.cert), of_key(&rsa.key_pem));
    }

    #[test]
    fn kinds_of_keys_that_are_not_usual_are_left_to_openssl() {
        for key in [
            PKey::ec_gen("secp256k1").unwrap(),
            PKey::generate_ed25519().unwrap(),
            rsa_of(1024),
        ] {
            assert_eq!(of_key(&pkcs8(&key)), None);
        }
        let ed25519 = sample::ed25519_leaf(&sample::ca("ca"), "a", &["a"]);
        assert_eq!(of_certificate(&ed25519.cert), None);
    }

    #[test]
    fn what_is_not_in_the_usual_form_is_left_to_openssl() {
        let key = PKey::ec_gen("P-256").unwrap();
        let cases = [
            compressed(),
            format!("{}{}", pkcs8(&key), pkcs8(&key)),
            pkcs8(&key).replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"),
            pkcs8(&key).replace("PRIVATE KEY", "EC PRIVATE KEY"),
            older(&key).replace("EC PRIVATE KEY", "PRIVATE KEY"),
            older(&key).replace("EC PRIVATE KEY", "RSA PRIVATE KEY"),
            String::new(),
        ];
        for text in cases {
            assert_eq!(of_key(&text), None, "{text}");
        }
    }

    #[test]
    fn changed_key_has_the_public_part_that_openssl_finds_in_it() {
        let keys = [PKey::ec_gen("P-256").unwrap(), rsa_of(2048)];
        for key in keys {
            let original = key.public_key_to_der().unwrap();
            let der = key.private_key_to_pkcs8().unwrap();
            for at in 0..der.len().min(140) {
                let mut changed = der.clone();
                changed[at] ^= 1;
                let pem = pem_of(&changed);
                let (Some(found), read) = (of_key(&pem), PrivateKey::parse(&pem)) else {
                    continue;
                };
                match read {
                    Ok(read) => assert_eq!(read.0.public_key_to_der().unwrap(), found, "{at}"),
                    // A point that is not on the curve.
                    Err(error) => assert_ne!(found, original, "{at}: {error}"),
                }
            }
            for end in 0..der.len() {
                assert_eq!(of_key(&pem_of(&der[..end])), None, "{end}");
            }
        }
    }

    fn pem_of(der: &[u8]) -> String {
        let body = STANDARD.encode(der);
        format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
    }
}
