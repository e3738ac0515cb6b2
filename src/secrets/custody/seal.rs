//! Sealing: the form in which secret members lie in the store.
//!
//! `pc1:` key id `:` nonce `:` ciphertext and tag, the latter two in base64 (RFC 4648). AES-256-GCM;
//! the associated data bind a value to its place, so that it opens nowhere else: format, kind, id
//! and JSON pointer, each preceded by its length. References are not sealed: they are no secrets.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use zeroize::Zeroizing;

use super::Custody;
use super::places::{self, is_reference};
use super::stray::cut_strays;
use super::withhold::{UNKNOWN, is_placeholder};
use crate::crypto::aead::{self, AeadError, NONCE_BYTES, Sealed};
use crate::resource::fault::{Fault, Words};
use crate::resource::{Document, Id, Kind};

/// How a sealed value begins.
pub const MARK: &str = "pc1:";

/// What stands in the place of a kind for notes about the store itself.
const NOTE: &[u8] = b"$note";

/// A secret member that could not be sealed or opened. Never holds a value.
#[derive(Debug, thiserror::Error)]
#[error("{}{pointer}: {reason}", place(*.kind, .id))]
pub struct CustodyError {
    /// Kind of the object.
    pub kind: Kind,
    /// Its id.
    pub id: Id,
    /// JSON pointer to the member.
    pub pointer: String,
    /// What is wrong.
    #[source]
    pub reason: Reason,
}

/// Why a member could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// A value to be sealed looks sealed.
    #[error("a value must not begin with `pc1:`, the mark of sealed values; send the value itself")]
    AlreadySealed,
    /// A value to be sealed is a placeholder, which is no value.
    #[error("a placeholder cannot be stored; send the value itself")]
    Placeholder,
    /// A secret must be a text.
    #[error("a secret must be a string")]
    NotText,
    /// A sealed value has not the form of one.
    #[error("the sealed value is not whole; restore it from a backup, or write the object again")]
    Malformed,
    /// A sealed value needs another key.
    #[error("sealed with the key-encryption key {wanted}, not with {ours}; put that one back")]
    OtherKey {
        /// Id of the key it was sealed with.
        wanted: String,
        /// Id of the key at hand.
        ours: String,
    },
    /// The value does not open: altered, or moved from another place.
    #[error("the sealed value was altered, or moved here from another object or member")]
    NotAuthentic,
    /// OpenSSL failed.
    #[error("the value could not be encrypted or decrypted")]
    Cipher(#[source] AeadError),
}

/// A member of an object: what a sealed value is bound to.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) kind: Kind,
    pub(super) id: &'a Id,
    pub(super) pointer: &'a str,
}

impl Place<'_> {
    /// The fields that tell this place from every other.
    pub(super) fn fields(&self) -> [&[u8]; 3] {
        [
            self.kind.plural().as_bytes(),
            self.id.as_str().as_bytes(),
            self.pointer.as_bytes(),
        ]
    }

    fn error(&self, reason: Reason) -> CustodyError {
        let Place { kind, id, pointer } = *self;
        CustodyError {
            kind,
            id: id.clone(),
            pointer: pointer.to_owned(),
            reason,
        }
    }
}

/// What a sealed value is bound to, each part preceded by its length.
fn associated_data(fields: &[&[u8]]) -> Vec<u8> {
    let mut data = Vec::new();
    for field in std::iter::once(MARK.as_bytes()).chain(fields.iter().copied()) {
        data.extend_from_slice(&u64::try_from(field.len()).unwrap_or(u64::MAX).to_be_bytes());
        data.extend_from_slice(field);
    }
    data
}

/// How every value begins that the key with this id has sealed.
#[must_use]
pub fn mark_of(kek_id: &str) -> String {
    format!("{MARK}{kek_id}:")
}

/// Whether a text has the mark of a sealed value.
#[must_use]
pub fn is_sealed(text: &str) -> bool {
    text.starts_with(MARK)
}

/// Refuses a client's document that brings a sealed value: one is made here only.
///
/// # Errors
/// The first such member.
pub fn refuse_sealed(kind: Kind, document: &Document) -> Result<(), Fault> {
    for (pointer, _) in places::find(kind, document) {
        if places::at(document, &pointer)
            .and_then(Value::as_str)
            .is_some_and(is_sealed)
        {
            return Err(Fault {
                pointer,
                reason: Reason::AlreadySealed.to_string(),
                words: Words::Ours,
                guess: None,
            });
        }
    }
    Ok(())
}

impl Custody {
    /// Seals every secret member, references excepted; the values in the clear are wiped.
    ///
    /// # Errors
    /// A member that is no text, looks sealed or is a placeholder, or OpenSSL's failure; the
    /// document is then as it was.
    pub fn seal_document(
        &self,
        kind: Kind,
        id: &Id,
        document: &mut Document,
    ) -> Result<(), CustodyError> {
        replace_each(kind, id, document, |place, text| match text {
            None => Err(Reason::NotText),
            Some(text) if is_reference(text) => Ok(None),
            Some(text) => self.seal(place, text).map(|text| Some(text.into())),
        })
    }

    /// Seals what can be of a document that is refused, and takes out whatever else is a secret or
    /// looks like a private key: nothing of it is stored in the clear.
    ///
    /// # Errors
    /// OpenSSL's failure; the document is then as it was.
    pub fn seal_refused(
        &self,
        kind: Kind,
        id: &Id,
        document: &mut Document,
    ) -> Result<(), CustodyError> {
        replace_each(kind, id, document, |place, text| match text {
            Some(text) if is_reference(text) => Ok(None),
            Some(text) => match self.seal(place, text) {
                Err(Reason::Cipher(error)) => Err(Reason::Cipher(error)),
                sealed => Ok(Some(
                    sealed.map_or_else(|_| UNKNOWN.to_owned().into(), Into::into),
                )),
            },
            None => Ok(Some(UNKNOWN.to_owned().into())),
        })?;
        cut_strays(kind, document);
        Ok(())
    }

    /// Opens every sealed member. Keep the document in an [`Opened`](super::Opened) meanwhile.
    ///
    /// Members that are not sealed are left as they are, references among them.
    ///
    /// # Errors
    /// A member that does not open; the document is then as it was.
    pub fn open_document(
        &self,
        kind: Kind,
        id: &Id,
        document: &mut Document,
    ) -> Result<(), CustodyError> {
        replace_each(kind, id, document, |place, text| {
            let sealed = text.filter(|text| is_sealed(text));
            sealed.map(|text| self.open(place, text)).transpose()
        })
    }

    /// Seals a text that belongs to an object and is none of its members; `pointer` says what it is.
    ///
    /// # Errors
    /// OpenSSL's failure.
    pub fn seal_text(
        &self,
        kind: Kind,
        id: &Id,
        pointer: &str,
        text: &str,
    ) -> Result<String, CustodyError> {
        let place = Place { kind, id, pointer };
        self.seal(place, text).map_err(|reason| place.error(reason))
    }

    /// Opens what [`Custody::seal_text`] has sealed for the same object and pointer.
    ///
    /// # Errors
    /// A text that does not open here.
    pub fn open_text(
        &self,
        kind: Kind,
        id: &Id,
        pointer: &str,
        text: &str,
    ) -> Result<Zeroizing<String>, CustodyError> {
        let place = Place { kind, id, pointer };
        self.open(place, text).map_err(|reason| place.error(reason))
    }

    fn seal(&self, place: Place<'_>, text: &str) -> Result<String, Reason> {
        if is_sealed(text) {
            return Err(Reason::AlreadySealed);
        }
        if is_placeholder(text) {
            return Err(Reason::Placeholder);
        }
        self.seal_bound(&place.fields(), text)
    }

    /// Seals a note about the store itself, for this name.
    ///
    /// # Errors
    /// OpenSSL's failure.
    pub fn seal_note(&self, name: &str, text: &str) -> Result<String, Reason> {
        self.seal_bound(&[NOTE, name.as_bytes()], text)
    }

    /// Opens what [`Custody::seal_note`] has sealed for the same name.
    ///
    /// # Errors
    /// A text that does not open here.
    pub fn open_note(&self, name: &str, text: &str) -> Result<Zeroizing<String>, Reason> {
        self.open_bound(&[NOTE, name.as_bytes()], text)
    }

    fn seal_bound(&self, fields: &[&[u8]], text: &str) -> Result<String, Reason> {
        let ring = self.0.load();
        let data = associated_data(fields);
        let sealed = aead::seal(&ring.current.key, &data, text.as_bytes())
            .map_err(Reason::Cipher)?
            .to_bytes();
        let (nonce, body) = sealed
            .split_at_checked(NONCE_BYTES)
            .ok_or(Reason::Malformed)?;
        Ok(format!(
            "{MARK}{}:{}:{}",
            ring.current.id,
            STANDARD.encode(nonce),
            STANDARD.encode(body)
        ))
    }

    pub(super) fn open(&self, place: Place<'_>, text: &str) -> Result<Zeroizing<String>, Reason> {
        self.open_bound(&place.fields(), text)
    }

    fn open_bound(&self, fields: &[&[u8]], text: &str) -> Result<Zeroizing<String>, Reason> {
        let mut parts = text.strip_prefix(MARK).ok_or(Reason::Malformed)?.split(':');
        let (Some(kek_id), Some(nonce), Some(body), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Reason::Malformed);
        };
        let ring = self.0.load();
        let key = ring.find(kek_id).ok_or_else(|| Reason::OtherKey {
            wanted: kek_id.to_owned(),
            ours: ring.current.id.clone(),
        })?;
        let decode = |part: &str| STANDARD.decode(part).map_err(|_where| Reason::Malformed);
        let nonce = decode(nonce)?;
        if nonce.len() != NONCE_BYTES {
            return Err(Reason::Malformed);
        }
        let sealed = Sealed::parse(&[nonce, decode(body)?].concat())
            .map_err(|_too_short| Reason::Malformed)?;
        let opened = match aead::open(key, &associated_data(fields), &sealed) {
            Ok(opened) => opened,
            Err(AeadError::NotAuthentic) => return Err(Reason::NotAuthentic),
            Err(error) => return Err(Reason::Cipher(error)),
        };
        // Sealed from a text, so it is one.
        std::str::from_utf8(&opened)
            .map(places::copy)
            .map_err(|_not_utf8| Reason::Malformed)
    }
}

/// Replaces each secret member by what `change` makes of its text (`None`: it is no text); `None`
/// leaves it. An error leaves the whole document as it was.
fn replace_each(
    kind: Kind,
    id: &Id,
    document: &mut Document,
    change: impl Fn(Place<'_>, Option<&str>) -> Result<Option<Zeroizing<String>>, Reason>,
) -> Result<(), CustodyError> {
    let mut changed = Vec::new();
    for (pointer, _) in places::find(kind, document) {
        let place = Place {
            kind,
            id,
            pointer: &pointer,
        };
        let text = places::at(document, &pointer).and_then(Value::as_str);
        if let Some(text) = change(place, text).map_err(|reason| place.error(reason))? {
            changed.push((pointer, text));
        }
    }
    for (pointer, mut text) in changed {
        // The text moves into the document; nothing of it stays here.
        places::replace(document, &pointer, std::mem::take(&mut *text));
    }
    Ok(())
}

fn place(kind: Kind, id: &Id) -> String {
    format!("{kind} {id}")
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use serde_json::json;

    use super::super::samples::{CANARY, custody, document, id};
    use super::*;

    #[test]
    fn nothing_of_a_refused_document_stays_in_the_clear() {
        let custody = custody(1);
        let odd = json!({"cert": "c", "key": CANARY, "keys": [5, "pc1:x", CANARY]});
        let mut document = document(odd);
        let ssl = id("1");
        let whole = custody.seal_document(Kind::Ssl, &ssl, &mut document);
        assert!(whole.is_err(), "not all of it can be sealed");
        custody
            .seal_refused(Kind::Ssl, &ssl, &mut document)
            .unwrap();
        let text = serde_json::to_string(&document).unwrap();
        assert!(!text.contains(CANARY), "{text}");
        assert_eq!(document["keys"][0], UNKNOWN);
        assert_eq!(document["keys"][1], UNKNOWN);
        // What could be sealed is there when it is put right.
        custody
            .open_document(Kind::Ssl, &ssl, &mut document)
            .unwrap();
        assert_eq!(document["key"], CANARY);
        assert_eq!(document["keys"][2], CANARY);
    }

    /// A document of each kind with its secrets.
    fn all() -> Vec<(Kind, Id, Document)> {
        let tls = json!({"client_cert": "c", "client_key": CANARY});
        [
            (
                Kind::Ssl,
                "1",
                json!({"cert": "c", "key": CANARY, "keys": [CANARY, CANARY]}),
            ),
            (Kind::Upstream, "1", json!({"nodes": {}, "tls": tls})),
            (
                Kind::Service,
                "1",
                json!({"name": "n", "upstream": {"tls": tls}}),
            ),
            (
                Kind::Route,
                "1",
                json!({"uri": "/", "upstream": {"tls": tls}}),
            ),
            (
                Kind::Secret,
                "vault/1",
                json!({"uri": "u", "token": CANARY}),
            ),
            (
                Kind::Secret,
                "aws/1",
                json!({"secret_access_key": CANARY, "session_token": CANARY}),
            ),
            (
                Kind::Secret,
                "gcp/1",
                json!({"auth_config": {"private_key": CANARY}}),
            ),
        ]
        .into_iter()
        .map(|(kind, name, value)| (kind, id(name), document(value)))
        .collect()
    }

    fn key_of(text: &str) -> Document {
        document(json!({"cert": "c", "key": text}))
    }

    #[test]
    fn sealed_document_shows_no_secret_and_opens_again() {
        let custody = custody(1);
        for (kind, id, original) in all() {
            let mut sealed = original.clone();
            custody.seal_document(kind, &id, &mut sealed).unwrap();
            let text = serde_json::to_string(&sealed).unwrap();
            assert!(!text.contains(CANARY), "{text}");
            for (pointer, _) in places::find(kind, &sealed) {
                let value = places::at(&sealed, &pointer).unwrap().as_str().unwrap();
                assert!(
                    value.starts_with(&format!("pc1:{}:", custody.kek_id())),
                    "{value}"
                );
                assert_eq!(value.split(':').count(), 4, "{value}");
            }
            custody.open_document(kind, &id, &mut sealed).unwrap();
            let (opened, original) = (json!(sealed).to_string(), json!(original).to_string());
            assert_eq!(opened, original);
        }
    }

    #[test]
    fn text_beside_a_document_opens_for_its_object_only() {
        let custody = custody(1);
        let (a, b, at) = (id("a"), id("b"), "/references");
        let sealed = custody.seal_text(Kind::Ssl, &a, at, CANARY).unwrap();
        assert!(!sealed.contains(CANARY));
        let opened = custody.open_text(Kind::Ssl, &a, at, &sealed).unwrap();
        assert_eq!(*opened, CANARY);
        for (kind, id, at) in [
            (Kind::Ssl, &b, at),
            (Kind::Upstream, &a, at),
            (Kind::Ssl, &a, "/key"),
        ] {
            custody.open_text(kind, id, at, &sealed).unwrap_err();
        }
    }

    #[test]
    fn same_value_is_sealed_differently_each_time() {
        let seal = || {
            let mut ssl = key_of("k");
            custody(1)
                .seal_document(Kind::Ssl, &id("1"), &mut ssl)
                .unwrap();
            ssl
        };
        assert_ne!(seal(), seal());
    }

    #[test]
    fn references_stay_as_they_are() {
        let custody = custody(1);
        for reference in ["$secret://vault/1/a/key", "$env://KEY", "$ENV://KEY"] {
            let mut ssl = key_of(reference);
            custody
                .seal_document(Kind::Ssl, &id("1"), &mut ssl)
                .unwrap();
            assert_eq!(ssl, key_of(reference));
            custody
                .open_document(Kind::Ssl, &id("1"), &mut ssl)
                .unwrap();
            assert_eq!(ssl, key_of(reference));
        }
    }

    #[test]
    fn value_opens_in_no_other_place() {
        let custody = custody(1);
        let mut ssl = document(json!({"key": "a", "keys": ["b", "c"]}));
        custody
            .seal_document(Kind::Ssl, &id("1"), &mut ssl)
            .unwrap();
        let open = |kind, name: &str, mut document: Document| {
            custody
                .open_document(kind, &id(name), &mut document)
                .map_err(|error| error.reason)
        };
        assert!(open(Kind::Ssl, "1", ssl.clone()).is_ok());
        assert!(matches!(
            open(Kind::Ssl, "2", ssl.clone()),
            Err(Reason::NotAuthentic)
        ));

        let mut swapped = ssl.clone();
        swapped["keys"].as_array_mut().unwrap().swap(0, 1);
        assert!(matches!(
            open(Kind::Ssl, "1", swapped),
            Err(Reason::NotAuthentic)
        ));

        let moved = document(json!({"tls": {"client_key": ssl["key"]}}));
        assert!(matches!(
            open(Kind::Upstream, "1", moved),
            Err(Reason::NotAuthentic)
        ));

        let inline = |key: &Value| document(json!({"upstream": {"tls": {"client_key": key}}}));
        let mut service = inline(&json!("k"));
        custody
            .seal_document(Kind::Service, &id("1"), &mut service)
            .unwrap();
        let key = service["upstream"]["tls"]["client_key"].clone();
        assert!(open(Kind::Service, "1", inline(&key)).is_ok());
        assert!(matches!(
            open(Kind::Route, "1", inline(&key)),
            Err(Reason::NotAuthentic)
        ));
    }

    #[test]
    fn another_key_is_named_and_does_not_open() {
        let (one, other) = (custody(1), custody(2));
        let mut ssl = key_of(CANARY);
        one.seal_document(Kind::Ssl, &id("1"), &mut ssl).unwrap();
        let sealed = ssl.clone();
        let error = other
            .open_document(Kind::Ssl, &id("1"), &mut ssl)
            .unwrap_err();
        assert_eq!(ssl, sealed);
        let text = error.to_string();
        assert!(
            text.starts_with("ssl 1/key: sealed with the key-encryption key"),
            "{text}"
        );
        assert!(
            text.contains(&one.kek_id()) && text.contains(&other.kek_id()),
            "{text}"
        );

        // The id alone is no proof either.
        let relabelled = sealed["key"]
            .as_str()
            .unwrap()
            .replace(&one.kek_id(), &other.kek_id());
        let mut ssl = key_of(&relabelled);
        let error = other
            .open_document(Kind::Ssl, &id("1"), &mut ssl)
            .unwrap_err();
        assert!(matches!(error.reason, Reason::NotAuthentic));
        assert!(
            one.open_document(Kind::Ssl, &id("1"), &mut sealed.clone())
                .is_ok()
        );
    }

    #[test]
    fn broken_values_are_told_from_altered_ones() {
        let custody = custody(1);
        let mut ssl = key_of("k");
        custody
            .seal_document(Kind::Ssl, &id("1"), &mut ssl)
            .unwrap();
        let sealed = ssl["key"].as_str().unwrap().to_owned();
        let parts: Vec<&str> = sealed.split(':').collect();
        let with = |nonce: &str, body: &str| format!("pc1:{}:{nonce}:{body}", parts[1]);
        for broken in [
            "pc1:".to_owned(),
            with("", parts[3]),
            with(parts[2], ""),
            with(parts[2], "!!!"),
            format!("{sealed}:"),
            with(&parts[2][..12], parts[3]),
        ] {
            let error = custody
                .open_document(Kind::Ssl, &id("1"), &mut key_of(&broken))
                .unwrap_err();
            assert!(error.to_string().contains("not whole"), "{broken}: {error}");
        }
        let altered = with("AAAAAAAAAAAAAAAA", parts[3]);
        let error = custody
            .open_document(Kind::Ssl, &id("1"), &mut key_of(&altered))
            .unwrap_err();
        assert!(matches!(error.reason, Reason::NotAuthentic));
    }

    #[test]
    fn clients_cannot_bring_sealed_values() {
        let custody = custody(1);
        let mut ssl = key_of("k");
        custody
            .seal_document(Kind::Ssl, &id("1"), &mut ssl)
            .unwrap();
        let fault = refuse_sealed(Kind::Ssl, &ssl).unwrap_err();
        assert_eq!(fault.pointer, "/key");
        assert!(
            fault.reason.contains("send the value itself"),
            "{}",
            fault.reason
        );
        let error = custody
            .seal_document(Kind::Ssl, &id("1"), &mut ssl)
            .unwrap_err();
        assert!(matches!(error.reason, Reason::AlreadySealed));
        assert!(refuse_sealed(Kind::Ssl, &key_of("k")).is_ok());
        let elsewhere = document(json!({"key": "k", "desc": "pc1:not a secret"}));
        assert!(refuse_sealed(Kind::Ssl, &elsewhere).is_ok());
    }

    #[test]
    fn what_cannot_be_sealed_leaves_the_document_and_quotes_nothing() {
        let custody = custody(1);
        for keys in [
            json!([CANARY, 5]),
            json!([CANARY, "$withheld:sha256:00"]),
            json!([CANARY, "pc1:x"]),
            json!({"a": CANARY}),
            json!(5),
        ] {
            let mut ssl = document(json!({"key": CANARY, "keys": keys}));
            let before = ssl.clone();
            let error = custody
                .seal_document(Kind::Ssl, &id("1"), &mut ssl)
                .unwrap_err();
            assert_eq!(ssl, before);
            let shown = format!("{error} {error:?} {:?}", error.source());
            assert!(!shown.contains(CANARY), "{shown}");
        }
    }
}
