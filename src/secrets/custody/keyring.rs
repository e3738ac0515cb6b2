//! Private keys as APISIX seals them (`data_encryption.keyring` there): taken when a client sends
//! them, as in a dump of its etcd, and never written.
//!
//! AES-CBC with a key that is its own initialization vector, PKCS #7 padding, base64. APISIX seals
//! what begins with `---` only, so that a value which opens to anything else was sealed with another
//! key. (APISIX, `apisix/ssl.lua`)

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use zeroize::Zeroizing;

use super::places::{self, Nature, is_reference};
use super::seal::is_sealed;
use super::withhold::is_placeholder;
use crate::crypto::cbc::{self, BLOCK_BYTES};
use crate::resource::fault::{Fault, NOT_DECRYPTED, Words};
use crate::resource::{Document, Kind};

/// How every private key in PEM begins.
const PEM: &[u8] = b"---";

/// The keys of an APISIX, the first tried first. `Debug` shows how many there are.
#[derive(Clone, Default)]
pub struct Keyring(Arc<[Zeroizing<Vec<u8>>]>);

impl Keyring {
    /// A keyring of these keys, of 16 or 32 bytes each; others open nothing.
    #[must_use]
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        let keys = keys.into_iter().map(|key| key.as_bytes().to_vec());
        Self(keys.map(Zeroizing::new).collect())
    }

    /// Puts private keys in the place of what APISIX has sealed.
    ///
    /// # Errors
    /// A member that looks sealed and does not open with any of the keys; the document is then as it
    /// was but for the members before.
    pub fn open(&self, kind: Kind, document: &mut Document) -> Result<(), Fault> {
        if kind == Kind::Secret || self.0.is_empty() {
            return Ok(());
        }
        for (pointer, nature) in places::find(kind, document) {
            let text = places::at(document, &pointer).and_then(Value::as_str);
            let sealed = text
                .filter(|_| nature == Nature::PrivateKey)
                .and_then(bytes_of);
            let Some(sealed) = sealed else {
                continue;
            };
            match self.find(&sealed) {
                Some(mut text) => {
                    places::replace(document, &pointer, std::mem::take(&mut *text));
                }
                None => return Err(refusal(pointer)),
            }
        }
        Ok(())
    }

    fn find(&self, sealed: &[u8]) -> Option<Zeroizing<String>> {
        self.0.iter().find_map(|key| {
            let iv = key.first_chunk::<BLOCK_BYTES>()?;
            let opened = cbc::open(key, iv, sealed);
            let opened = opened
                .inspect_err(|error| tracing::error!(%error, "a key of APISIX's is not opened"))
                .ok()??;
            let text = std::str::from_utf8(&opened).ok()?;
            (opened.starts_with(PEM)).then(|| places::copy(text))
        })
    }
}

fn refusal(pointer: String) -> Fault {
    Fault {
        pointer,
        reason: NOT_DECRYPTED.to_owned(),
        words: Words::Apisix,
        guess: None,
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({} withheld)", self.0.len())
    }
}

/// The bytes of a text that may be sealed by APISIX: base64 of whole blocks.
fn bytes_of(text: &str) -> Option<Vec<u8>> {
    if is_reference(text) || is_placeholder(text) || is_sealed(text) {
        return None;
    }
    let bytes = STANDARD.decode(text).ok()?;
    let is_whole = !bytes.is_empty() && bytes.len().is_multiple_of(BLOCK_BYTES);
    is_whole.then_some(bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::samples::document;
    use super::*;

    /// `-----BEGIN CANARY-----`, sealed as APISIX does with `0123456789abcdef`:
    /// `openssl enc -aes-128-cbc -K … -iv … -base64 -A` with the key's bytes for both.
    const SEALED: &str = "GyM9BTTPFDfwEDeAGWzs1V58IvYQumE8cW1W8wF0PXs=";

    /// The same with `0123456789abcdef0123456789ABCDEF` and its first 16 bytes.
    const SEALED_256: &str = "BaPmaHnfZHT5/zgUnFzfjT+8I2g+5EaGpuUbNVJVbu8=";

    const CLEAR: &str = "-----BEGIN CANARY-----";

    fn keyring(keys: &[&str]) -> Keyring {
        Keyring::new(keys.iter().copied())
    }

    fn open(keys: &[&str], kind: Kind, value: Value) -> Result<Value, Fault> {
        let mut document = document(value);
        keyring(keys).open(kind, &mut document)?;
        Ok(Value::Object(document))
    }

    const ONE: &str = "0123456789abcdef";
    const TWO: &str = "0123456789abcdef0123456789ABCDEF";

    #[test]
    fn keys_of_every_place_are_opened_by_whichever_key_fits() {
        let keys = ["zzzzzzzzzzzzzzzz", TWO, ONE];
        let ssl = json!({"cert": "c", "key": SEALED, "keys": [SEALED_256, CLEAR, "$env://K"]});
        let opened = open(&keys, Kind::Ssl, ssl).unwrap();
        let expected = json!({"cert": "c", "key": CLEAR, "keys": [CLEAR, CLEAR, "$env://K"]});
        assert_eq!(opened, expected);
        let tls = json!({"tls": {"client_cert": "c", "client_key": SEALED}});
        let opened = open(&keys, Kind::Upstream, tls.clone()).unwrap();
        assert_eq!(opened["tls"]["client_key"], CLEAR);
        for kind in [Kind::Service, Kind::Route] {
            let opened = open(&keys, kind, json!({"upstream": tls})).unwrap();
            assert_eq!(opened["upstream"]["tls"]["client_key"], CLEAR);
        }
    }

    #[test]
    fn what_no_key_opens_is_refused_by_its_place_and_not_quoted() {
        let ssl = json!({"cert": "c", "keys": [CLEAR, SEALED]});
        let fault = open(&["zzzzzzzzzzzzzzzz"], Kind::Ssl, ssl.clone()).unwrap_err();
        assert_eq!(fault.pointer, "/keys/1");
        assert_eq!(fault.reason, NOT_DECRYPTED);
        assert_eq!(fault.words, Words::Apisix);
        // Without a keyring it is a text that is no key, as any other.
        assert_eq!(open(&[], Kind::Ssl, ssl.clone()).unwrap(), ssl);
    }

    #[test]
    fn what_is_not_sealed_by_apisix_is_left_alone() {
        for text in [
            CLEAR,
            "",
            "no base64 at all!",
            "c2hvcnQ=",
            "pc1:0011223344556677:AAAA:BBBB",
            "$withheld:sha256:00",
            "$secret://vault/1/a/b",
        ] {
            let ssl = json!({"cert": "c", "key": text});
            assert_eq!(open(&[ONE], Kind::Ssl, ssl.clone()).unwrap(), ssl);
        }
        let token = json!({"uri": "u", "token": SEALED});
        let opened = open(&[ONE], Kind::Secret, token.clone()).unwrap();
        assert_eq!(opened, token, "APISIX seals no credentials of secrets");
        assert_eq!(format!("{:?}", keyring(&[ONE])), "Keyring(1 withheld)");
    }
}
