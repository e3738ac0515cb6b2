//! What OpenSSL offers this process in default mode: the default provider, less what nothing here
//! uses.
//!
//! For each certificate that a peer shows OpenSSL 3.0 goes through all algorithms and all forms of
//! keys that there are (`OSSL_DECODER_CTX_new_for_pkey(3)`): a fifth of a handshake (decision record
//! 31). With later OpenSSLs the default provider is there whole; in FIPS mode the module decides.

use std::ffi::CStr;
use std::sync::OnceLock;

use openssl::error::ErrorStack;
use openssl::lib_ctx::LibCtxRef;
use openssl::provider::Provider;

use super::sys::{self, Offered};

/// OpenSSL 3.1, as `OPENSSL_version_num(3)` has it. Of later ones 3.5 keeps decoders by itself, and
/// its random generators look for their ciphers under the provider's name in the provider's own
/// library context, where there is none of ours.
const LATER: i64 = 0x3010_0000;

/// The ciphers of TLS, of what is sealed here or by APISIX, and of encrypted private keys
/// (`tls::material`).
const CIPHERS: [&[u8]; 6] = [
    b"AES-128-GCM",
    b"AES-256-GCM",
    b"ChaCha20-Poly1305",
    b"AES-128-CBC",
    b"AES-192-CBC",
    b"AES-256-CBC",
];
/// Kinds of keys that no certificate has, and those of MACs and key derivations, which are not made of
/// keys here. What a CA may have signed with stays, however old: a chain that was taken must not be
/// refused.
const NO_KEYS: [&[u8]; 8] = [
    b"DH",
    b"DHX",
    b"SIPHASH",
    b"POLY1305",
    b"CMAC",
    b"HKDF",
    b"TLS1-PRF",
    b"SCRYPT",
];
/// Kinds of keys that are made for a handshake and never read.
const NEVER_READ: [&[u8]; 2] = [b"X25519", b"X448"];
/// A kind of keys that clients' CAs alone may have: none is ever read with its private part.
const PUBLIC_ONLY: &[u8] = b"DSA";
/// Microsoft's forms of keys, which are not PEM, and second names of forms that have another.
const NO_FORMS: [&[u8]; 4] = [
    b"input=msblob",
    b"input=pvk",
    b"structure=rsa",
    b"structure=ec",
];
/// The form of a certificate's key (RFC 5280 §4.1).
const PUBLIC_FORM: &[u8] = b"structure=SubjectPublicKeyInfo";

/// Has the default library context of OpenSSL 3.0 offer that and no more. Before anything was asked
/// of it.
///
/// # Errors
/// OpenSSL's own.
pub(super) fn begin() -> Result<(), ErrorStack> {
    static LOADED: OnceLock<Provider> = OnceLock::new();
    if openssl::version::number() >= LATER {
        return Ok(());
    }
    let provider = load(None)?;
    // Never unloaded: keys and contexts of the whole process live in it.
    LOADED.get_or_init(|| provider);
    Ok(())
}

fn load(library: Option<&LibCtxRef>) -> Result<Provider, ErrorStack> {
    sys::load_part(library, keeps)
}

fn keeps(offered: Offered, names: &CStr, properties: &CStr) -> bool {
    // Other names of the same algorithm follow.
    let name = names.to_bytes().split(|byte| *byte == b':').next();
    let name = name.unwrap_or_default();
    let is_one_of = |list: &[&[u8]]| list.iter().any(|one| one.eq_ignore_ascii_case(name));
    let properties = properties.to_bytes().split(|byte| *byte == b',');
    match offered {
        Offered::Cipher => is_one_of(&CIPHERS),
        Offered::Keys => !is_one_of(&NO_KEYS),
        Offered::Decoder => {
            let has = |form| properties.clone().any(|property| property == form);
            let is_read = !is_one_of(&[PUBLIC_ONLY]) || has(PUBLIC_FORM);
            is_read
                && !is_one_of(&NO_KEYS)
                && !is_one_of(&NEVER_READ)
                && !NO_FORMS.into_iter().any(has)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use openssl::cipher::Cipher;
    use openssl::lib_ctx::LibCtx;
    use openssl::md::Md;

    use super::*;

    #[test]
    fn what_is_used_is_offered_and_nothing_else_of_its_kind() {
        let (all, some) = (LibCtx::new().unwrap(), LibCtx::new().unwrap());
        let _providers = (
            Provider::load(Some(&all), "default").unwrap(),
            load(Some(&some)).unwrap(),
        );
        let has = |library: &LibCtx, name| Cipher::fetch(Some(library), name, None).is_ok();
        for cipher in CIPHERS {
            let name = std::str::from_utf8(cipher).unwrap();
            assert!(has(&all, name) && has(&some, name), "{name}");
        }
        for name in ["CAMELLIA-256-CBC", "AES-256-OFB", "AES-128-ECB"] {
            assert!(has(&all, name) && !has(&some, name), "{name}");
        }
        // Of other kinds all is there.
        for name in ["SHA2-256", "SHA1", "SHA3-256", "BLAKE2B-512"] {
            assert!(Md::fetch(Some(&some), name, None).is_ok(), "{name}");
        }
    }

    #[test]
    fn keys_are_left_out_by_their_kind_and_by_their_form() {
        let keys = |names: &CStr| keeps(Offered::Keys, names, c"provider=default");
        assert!(keys(c"EC:id-ecPublicKey:1.2.840.10045.2.1") && keys(c"RSA") && keys(c"ED448"));
        assert!(keys(c"DSA:dsaEncryption:1.2.840.10040.4.1") && keys(c"SM2"));
        assert!(keys(c"X25519") && keys(c"HMAC") && !keys(c"HKDF"));
        assert!(!keys(c"DHX:X9.42 DH:dhpublicnumber:1.2.840.10046.2.1") && !keys(c"dh"));
        let form = |names: &CStr, properties: &CStr| keeps(Offered::Decoder, names, properties);
        let der = |names: &CStr, structure: &str| {
            let properties = format!("provider=default,fips=yes,input=der,structure={structure}");
            form(names, &CString::new(properties).unwrap())
        };
        for structure in ["PrivateKeyInfo", "SubjectPublicKeyInfo", "type-specific"] {
            for name in [c"RSA:rsaEncryption", c"EC", c"ED25519"] {
                assert!(der(name, structure), "{name:?} {structure}");
            }
            for name in [c"DH", c"X25519:1.3.101.110", c"X448"] {
                assert!(!der(name, structure), "{name:?} {structure}");
            }
            let is_public = structure == "SubjectPublicKeyInfo";
            assert_eq!(der(c"DSA:dsaEncryption", structure), is_public);
            // A private one is refused by its name.
            assert!(der(c"SM2", structure));
        }
        assert!(!der(c"RSA", "rsa") && !der(c"EC", "ec"));
        assert!(!form(c"RSA", c"provider=default,fips=yes,input=msblob"));
        assert!(!form(c"RSA", c"provider=default,fips=yes,input=pvk"));
        assert!(form(c"DER", c"provider=default,input=pem"));
    }
}
