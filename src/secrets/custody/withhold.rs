//! Withholding: what a reply shows in the place of a secret.
//!
//! A private key shows as `$withheld:sha256:` and the digest of its public part, so that it can be
//! compared with a certificate. Any other secret shows as `$withheld:` and an id of its value. The
//! id is no digest of the value alone, which could be guessed offline for a short password, but the
//! start of an HMAC under a key derived from the key-encryption key: as good as random to whoever
//! has not that key, and the same in every reply and after a restart, without being stored. It
//! covers the place too, so that equal secrets of two objects do not show as equal.
//!
//! A list has thousands of keys, and reading one takes OpenSSL a millisecond: the text of nearly
//! every key says what names it, and what names a sealed key is remembered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::Custody;
use super::kek::hex;
use super::places::{self, Nature, is_reference};
use super::seal::{Place, is_sealed};
use super::stray::cut_strays;
use crate::crypto::digest::{Sha256, sha256_framed};
use crate::resource::{Document, Id, Kind};
use crate::tls::material::{self, PrivateKey};

/// How a placeholder begins.
pub const MARK: &str = "$withheld:";

/// What stands for a secret of which nothing can be said, because it does not open.
pub(super) const UNKNOWN: &str = "$withheld:unknown";

/// How many bytes of the MAC are in a placeholder.
const ID_BYTES: usize = 16;

/// How many keys are remembered, in about 10 MB.
const REMEMBERED: usize = 65_536;

/// The digests of public parts by the digest of the sealed key and its place. A key that is written
/// is sealed anew, and so another one.
#[derive(Clone, Debug, Default)]
pub(super) struct NamedKeys(Arc<Mutex<HashMap<Sha256, material::Digest>>>);

impl NamedKeys {
    fn find(&self, sealed: &Sha256) -> Option<material::Digest> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(sealed).copied()
    }

    fn remember(&self, sealed: Sha256, digest: material::Digest) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(sealed, digest);
    }
}

/// Which placeholders a reply has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// GET and list: an ssl has neither `key` nor `keys`, as in APISIX; other secrets have theirs.
    Omitted,
    /// Replies to writes, and reads that ask for it (`X-Portcullis-Withheld: show`).
    Placeholders,
}

/// Whether a text is a placeholder.
#[must_use]
pub fn is_placeholder(text: &str) -> bool {
    text.starts_with(MARK)
}

impl Custody {
    /// Takes every secret out of a document; references stay. It may be sealed or opened. A private
    /// key where none belongs is cut out too.
    ///
    /// Never fails: where nothing else can be said, the placeholder is `$withheld:unknown`.
    pub fn withhold(&self, kind: Kind, id: &Id, document: &mut Document, show: Show) {
        if kind == Kind::Ssl && show == Show::Omitted {
            for member in ["key", "keys"] {
                // Not `remove`, which would change the order of the others.
                document
                    .shift_remove(member)
                    .into_iter()
                    .for_each(places::wipe_value);
            }
        }
        cut_strays(kind, document);
        for (pointer, nature) in places::find(kind, document) {
            let place = Place {
                kind,
                id,
                pointer: &pointer,
            };
            let shown = match places::at(document, &pointer) {
                Some(Value::String(text)) if is_reference(text) => continue,
                Some(value) => self.placeholder_of(place, nature, value),
                None => continue,
            };
            places::replace(document, &pointer, shown);
        }
    }

    fn placeholder_of(&self, place: Place<'_>, nature: Nature, value: &Value) -> String {
        match value {
            Value::String(text) if is_sealed(text) => {
                self.placeholder_of_sealed(place, nature, text)
            }
            Value::String(text) => self.placeholder(place, nature, text),
            // Never stored; nothing of it may be seen all the same.
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Array(_)
            | Value::Object(_) => UNKNOWN.to_owned(),
        }
    }

    fn placeholder_of_sealed(&self, place: Place<'_>, nature: Nature, sealed: &str) -> String {
        let ring = self.0.load();
        let [kind, id, pointer] = place.fields();
        // The place is authenticated with the text, and so is part of what is remembered.
        let name = match nature {
            Nature::PrivateKey => sha256_framed(&[kind, id, pointer, sealed.as_bytes()]).ok(),
            Nature::Credential => None,
        };
        if let Some(digest) = name.and_then(|name| ring.named.find(&name)) {
            return named(&digest);
        }
        let Ok(opened) = self.open(place, sealed) else {
            return UNKNOWN.to_owned();
        };
        // What is no private key is not read as one: that takes as long.
        if let Some(name) = name
            && let Some(digest) = PrivateKey::public_digest_of(&opened)
        {
            ring.named.remember(name, digest);
            return named(&digest);
        }
        self.placeholder(place, nature, &opened)
    }

    /// The placeholder of a secret in the clear.
    pub(super) fn placeholder(&self, place: Place<'_>, nature: Nature, text: &str) -> String {
        let digest = match nature {
            Nature::PrivateKey => PrivateKey::public_digest_of(text),
            Nature::Credential => None,
        };
        if let Some(digest) = digest {
            return named(&digest);
        }
        let [kind, id, pointer] = place.fields();
        match self
            .0
            .load()
            .placeholders
            .mac_framed(&[kind, id, pointer, text.as_bytes()])
        {
            Ok(mac) => format!("{MARK}{}", hex(mac.get(..ID_BYTES).unwrap_or(&mac))),
            Err(_openssl) => UNKNOWN.to_owned(),
        }
    }
}

/// The placeholder of a private key.
fn named(digest: &material::Digest) -> String {
    format!("{MARK}sha256:{}", hex(digest))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::samples::{CANARY, custody, document, id};
    use super::*;
    use crate::tls::sample;

    fn withheld(kind: Kind, name: &str, value: Value, show: Show) -> Value {
        let mut document = document(value);
        custody(1).withhold(kind, &id(name), &mut document, show);
        Value::Object(document)
    }

    fn digest(key: &str) -> String {
        format!(
            "$withheld:sha256:{}",
            hex(&PrivateKey::parse(key).unwrap().public_digest().unwrap())
        )
    }

    #[test]
    fn read_of_an_ssl_has_no_keys_and_keeps_its_order() {
        let ssl = json!({"cert": "c", "key": CANARY, "snis": ["a"], "keys": [CANARY], "id": "1"});
        let shown = withheld(Kind::Ssl, "1", ssl, Show::Omitted);
        assert_eq!(shown.to_string(), r#"{"cert":"c","snis":["a"],"id":"1"}"#);
    }

    #[test]
    fn private_keys_show_the_digest_of_their_public_part() {
        let ca = sample::ca("ca");
        let (one, other) = (sample::leaf(&ca, "a", &[]), sample::leaf(&ca, "b", &[]));
        let ssl = json!({"cert": "c", "key": one.key_pem, "keys": [other.key_pem]});
        let shown = withheld(Kind::Ssl, "1", ssl, Show::Placeholders);
        assert_eq!(shown["key"], digest(&one.key_pem));
        assert_eq!(shown["keys"], json!([digest(&other.key_pem)]));
        assert_eq!(digest(&one.key_pem).len(), "$withheld:sha256:".len() + 64);

        let tls = json!({"client_cert": "c", "client_key": one.key_pem});
        for show in [Show::Omitted, Show::Placeholders] {
            let shown = withheld(Kind::Upstream, "1", json!({"tls": tls}), show);
            assert_eq!(shown["tls"]["client_key"], digest(&one.key_pem));
            for kind in [Kind::Service, Kind::Route] {
                let shown = withheld(kind, "1", json!({"upstream": {"tls": tls}}), show);
                assert_eq!(shown["upstream"]["tls"]["client_key"], digest(&one.key_pem));
            }
        }
        let gcp = json!({"auth_config": {"client_email": "e", "private_key": one.key_pem}});
        let shown = withheld(Kind::Secret, "gcp/1", gcp, Show::Omitted);
        assert_eq!(shown["auth_config"]["private_key"], digest(&one.key_pem));
        assert_eq!(shown["auth_config"]["client_email"], "e");
    }

    #[test]
    fn credentials_show_a_stable_id_that_only_this_key_gives() {
        let vault = |name: &str, token: &str| {
            let shown = withheld(Kind::Secret, name, json!({"token": token}), Show::Omitted);
            shown["token"].as_str().unwrap().to_owned()
        };
        let shown = vault("vault/1", "1234");
        assert_eq!(shown.len(), "$withheld:".len() + 32);
        assert_eq!(shown, vault("vault/1", "1234"));
        assert_ne!(shown, vault("vault/1", "1235"));
        assert_ne!(shown, vault("vault/2", "1234"));
        let mut under_another_key = document(json!({"token": "1234"}));
        custody(2).withhold(
            Kind::Secret,
            &id("vault/1"),
            &mut under_another_key,
            Show::Omitted,
        );
        assert_ne!(under_another_key["token"], json!(shown));
    }

    #[test]
    fn sealed_key_is_remembered_at_its_place_only() {
        let custody = custody(1);
        let ca = sample::ca("ca");
        let mut sealed = document(json!({"key": ca.key_pem}));
        custody
            .seal_document(Kind::Ssl, &id("1"), &mut sealed)
            .unwrap();
        let show = |name: &str| {
            let mut document = sealed.clone();
            custody.withhold(Kind::Ssl, &id(name), &mut document, Show::Placeholders);
            document["key"].as_str().unwrap().to_owned()
        };
        let expected = digest(&ca.key_pem);
        for _ in 0..2 {
            assert_eq!(show("1"), expected);
            assert_eq!(show("2"), UNKNOWN);
        }
        assert_eq!(custody.0.load().named.0.lock().unwrap().len(), 1);
    }

    #[test]
    fn what_is_remembered_has_an_end() {
        let named = NamedKeys::default();
        for number in 0..=REMEMBERED {
            let name = sha256_framed(&[&number.to_be_bytes()]).unwrap();
            named.remember(name, [0; 32]);
            assert_eq!(named.find(&name), Some([0; 32]));
        }
        assert_eq!(named.0.lock().unwrap().len(), 1);
    }

    #[test]
    fn sealed_and_opened_documents_show_the_same() {
        let custody = custody(1);
        let ca = sample::ca("ca");
        let original = document(json!({"key": ca.key_pem, "keys": ["not a key"]}));
        let mut sealed = original.clone();
        custody
            .seal_document(Kind::Ssl, &id("1"), &mut sealed)
            .unwrap();
        let show = |mut document: Document| {
            custody.withhold(Kind::Ssl, &id("1"), &mut document, Show::Placeholders);
            document
        };
        assert_eq!(show(sealed), show(original));
    }

    #[test]
    fn nothing_of_a_secret_is_ever_shown() {
        for keys in [
            json!(CANARY),
            json!([CANARY, 5]),
            json!({"a": CANARY}),
            json!([[CANARY]]),
        ] {
            let ssl = json!({"key": format!("pc1:{CANARY}"), "keys": keys});
            let shown = withheld(Kind::Ssl, "1", ssl, Show::Placeholders).to_string();
            assert!(!shown.contains(CANARY), "{shown}");
        }
        let tokens = json!({"token": CANARY, "secret_access_key": CANARY, "session_token": CANARY,
            "auth_config": {"private_key": CANARY}});
        let shown = withheld(Kind::Secret, "vault/1", tokens, Show::Placeholders).to_string();
        assert!(!shown.contains(CANARY), "{shown}");
        assert_eq!(shown.matches("$withheld:").count(), 4, "{shown}");
    }

    #[test]
    fn references_and_what_is_no_secret_are_shown() {
        let tls = json!({"client_cert": "c", "client_key": "$secret://vault/1/a/key"});
        let upstream = json!({"nodes": {"a:1": 1.0}, "tls": tls});
        let shown = withheld(Kind::Upstream, "1", upstream.clone(), Show::Omitted);
        assert_eq!(shown.to_string(), upstream.to_string());
        let vault = json!({"uri": "u", "prefix": "p", "token": "$ENV://TOKEN"});
        assert_eq!(
            withheld(Kind::Secret, "vault/1", vault.clone(), Show::Omitted),
            vault
        );
    }
}
