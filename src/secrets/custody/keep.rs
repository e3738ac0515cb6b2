//! Keeping: what a write leaves out because no reply shows it.
//!
//! Reads withhold keys, so that a client which reads, edits and writes back has none to send. A
//! stored key is put into the new document only where its certificate is present and the key is
//! absent or a placeholder, only from the same object, and only when it belongs to the certificate.
//! Certificate and key both absent means that the pair is to go. A stored credential of a secret is
//! kept for its placeholder only, and only while it goes to the same place as before.

use serde_json::Value;

use self::keys::Keys;
use super::amend::pairs;
use super::seal::Place;
use super::withhold::is_placeholder;
use super::{Custody, places};
use crate::resource::fault::{Fault, Warning, Words};
use crate::resource::{Document, Id, Kind};

mod keys;

/// The members of a secret that say where a credential is sent, or whether that is checked.
const ENDPOINTS: [&str; 12] = [
    "/uri",
    "/auth/method",
    "/auth/mount",
    "/endpoint_url",
    "/region",
    "/apiserver_addr",
    "/endpoint",
    "/kubernetes_host",
    "/kubernetes_port",
    "/auth_config/token_uri",
    "/auth_config/entries_uri",
    "/ssl_verify",
];

/// What [`keep_names`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptNames {
    /// JSON pointers to the members taken over.
    pub kept: Vec<String>,
    /// What the writer should know.
    pub warnings: Vec<Warning>,
}

/// Keeps the names of an ssl that is written again without any, so that a rotation sends only what
/// it changes. `client` is never taken over: its absence removes it, with a warning.
///
/// Other kinds, and ssls of type client, which have no names, are left alone.
pub fn keep_names(kind: Kind, new: &mut Document, old: Option<&Document>) -> KeptNames {
    let mut result = KeptNames::default();
    result.warnings.extend(client_removed(kind, new, old));
    let (Kind::Ssl, Some(old)) = (kind, old) else {
        return result;
    };
    let is_client = new.get("type").and_then(Value::as_str) == Some("client");
    if !is_client && !new.contains_key("sni") && !new.contains_key("snis") {
        for member in ["sni", "snis"] {
            if let Some(names) = old.get(member) {
                new.insert(member.to_owned(), names.clone());
                result.kept.push(format!("/{member}"));
            }
        }
    }
    result
}

/// The warning that the names of an ssl no longer ask for client certificates.
#[must_use]
pub fn client_removed(kind: Kind, new: &Document, old: Option<&Document>) -> Option<Warning> {
    let is_removed =
        kind == Kind::Ssl && old?.contains_key("client") && !new.contains_key("client");
    is_removed.then(|| Warning {
        code: "client_removed",
        pointer: "/client".to_owned(),
        text: "clients of these names are no longer asked for a certificate: the document has \
               no `client`, which the one before had; send `client` again if that was not meant"
            .to_owned(),
    })
}

impl Custody {
    /// Completes a client's document from the stored one of the same object, both in the clear, and
    /// gives the JSON pointers to what was kept.
    ///
    /// What is missing for other reasons is left missing, for the validation to say so.
    ///
    /// # Errors
    /// A placeholder that names nothing stored here, a stored key that does not belong to the
    /// certificate, a certificate that cannot be read, or a credential that would go elsewhere.
    /// `new` may have been changed in part.
    pub fn keep(
        &self,
        kind: Kind,
        id: &Id,
        new: &mut Document,
        old: Option<&Document>,
    ) -> Result<Vec<String>, Fault> {
        match kind {
            Kind::Ssl => {
                let stored = Keys::of(self, kind, id, old, pairs(kind));
                let mut kept = stored.keep_one(new, "/cert", "/key")?;
                kept.append(&mut stored.keep_each(new, "/certs", "/keys")?);
                Ok(kept)
            }
            Kind::Upstream => {
                let (cert, key) = ("/tls/client_cert", "/tls/client_key");
                Keys::of(self, kind, id, old, pairs(kind)).keep_one(new, cert, key)
            }
            Kind::Service | Kind::Route => {
                let (cert, key) = ("/upstream/tls/client_cert", "/upstream/tls/client_key");
                Keys::of(self, kind, id, old, pairs(kind)).keep_one(new, cert, key)
            }
            Kind::Secret => self.keep_credentials(id, new, old),
        }
    }

    fn keep_credentials(
        &self,
        id: &Id,
        new: &mut Document,
        old: Option<&Document>,
    ) -> Result<Vec<String>, Fault> {
        let mut kept = Vec::new();
        for (pointer, nature) in places::find(Kind::Secret, new) {
            let sent = places::at(new, &pointer).and_then(Value::as_str);
            let Some(sent) = sent.filter(|text| is_placeholder(text)) else {
                continue;
            };
            let place = Place {
                kind: Kind::Secret,
                id,
                pointer: &pointer,
            };
            let stored = old
                .and_then(|old| places::at(old, &pointer)?.as_str())
                .filter(|text| self.placeholder(place, nature, text) == sent);
            let Some((stored, old)) = stored.zip(old) else {
                return Err(fault(
                    &pointer,
                    "this placeholder names no value stored for this secret; send the value itself",
                ));
            };
            let moved = |at: &&str| places::at(old, at) != places::at(new, at);
            if let Some(endpoint) = ENDPOINTS.iter().find(|at| moved(at)) {
                let member = endpoint.trim_start_matches('/').replace('/', ".");
                return Err(fault(
                    &pointer,
                    format!(
                        "the stored value is not kept, because `{member}` changed and it would go elsewhere; send the value itself"
                    ),
                ));
            }
            let stored = stored.to_owned();
            places::replace(new, &pointer, stored);
            kept.push(pointer);
        }
        Ok(kept)
    }
}

fn fault(pointer: &str, reason: impl Into<String>) -> Fault {
    Fault {
        pointer: pointer.to_owned(),
        reason: reason.into(),
        words: Words::Ours,
        guess: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::samples::{CANARY, custody, document, id};
    use super::super::withhold::Show;
    use super::*;

    /// The completed document and what was kept.
    pub(super) fn keep_as(
        kind: Kind,
        name: &str,
        new: Value,
        old: Option<&Value>,
    ) -> Result<(Value, Vec<String>), Fault> {
        let mut new = document(new);
        let old = old.cloned().map(document);
        let kept = custody(1).keep(kind, &id(name), &mut new, old.as_ref())?;
        Ok((Value::Object(new), kept))
    }

    #[test]
    fn credentials_are_kept_for_their_placeholder_only() {
        let stored = json!({"uri": "https://v", "prefix": "p", "token": CANARY});
        let mut shown = document(stored.clone());
        custody(1).withhold(Kind::Secret, &id("vault/1"), &mut shown, Show::Omitted);
        let keep = |name: &str, new: Value| keep_as(Kind::Secret, name, new, Some(&stored));

        let mut renamed = shown.clone();
        renamed["prefix"] = json!("q");
        let (new, kept) = keep("vault/1", Value::Object(renamed)).unwrap();
        assert_eq!(
            new,
            json!({"uri": "https://v", "prefix": "q", "token": CANARY})
        );
        assert_eq!(kept, ["/token"]);

        let without = json!({"uri": "https://v", "prefix": "p"});
        assert_eq!(keep("vault/1", without.clone()).unwrap(), (without, vec![]));
        let sent = json!({"uri": "https://w", "prefix": "p", "token": "new"});
        assert_eq!(keep("vault/1", sent.clone()).unwrap(), (sent, vec![]));

        let mut moved = shown.clone();
        moved["uri"] = json!("https://evil");
        let fault = keep("vault/1", Value::Object(moved)).unwrap_err();
        assert_eq!(fault.pointer, "/token");
        assert!(fault.reason.contains("`uri` changed"), "{}", fault.reason);

        let another = keep("vault/2", Value::Object(shown)).unwrap_err();
        assert!(
            another.reason.contains("names no value stored"),
            "{}",
            another.reason
        );
        assert!(!format!("{fault:?}{another:?}").contains(CANARY));
    }

    #[test]
    fn every_change_of_where_a_credential_goes_is_noticed() {
        let stored = json!({
            "uri": "u", "endpoint_url": "e", "region": "r", "apiserver_addr": "a",
            "endpoint": "p", "kubernetes_host": "h", "kubernetes_port": "443",
            "auth": {"method": "approle", "mount": "m"},
            "ssl_verify": true, "auth_config": {"token_uri": "t", "entries_uri": "n"}, "token": "x",
        });
        let mut shown = document(stored.clone());
        custody(1).withhold(Kind::Secret, &id("vault/1"), &mut shown, Show::Omitted);
        for pointer in ENDPOINTS {
            let mut changed = shown.clone();
            places::replace(&mut changed, pointer, "elsewhere".to_owned());
            assert_ne!(changed, shown);
            let changed = Value::Object(changed);
            assert!(
                keep_as(Kind::Secret, "vault/1", changed, Some(&stored)).is_err(),
                "{pointer}"
            );
        }
        let same = Value::Object(shown);
        assert_eq!(
            keep_as(Kind::Secret, "vault/1", same, Some(&stored))
                .unwrap()
                .0,
            stored
        );
    }

    #[test]
    fn names_are_kept_and_client_is_not() {
        let keep = |new: Value, old: Value| {
            let (mut new, old) = (document(new), document(old));
            let kept = keep_names(Kind::Ssl, &mut new, Some(&old));
            (Value::Object(new), kept)
        };
        let client = json!({"ca": "c"});
        let stored = json!({"cert": "c", "snis": ["a", "b"], "client": client});

        let (new, kept) = keep(json!({"cert": "d", "client": client}), stored.clone());
        assert_eq!(new["snis"], stored["snis"]);
        assert_eq!(
            (kept.kept, kept.warnings),
            (vec!["/snis".to_owned()], vec![])
        );

        let (new, kept) = keep(json!({"cert": "d", "sni": "x"}), stored.clone());
        assert_eq!(new, json!({"cert": "d", "sni": "x"}));
        assert!(kept.kept.is_empty());
        let codes: Vec<_> = kept
            .warnings
            .iter()
            .map(|w| (w.code, w.pointer.as_str()))
            .collect();
        assert_eq!(codes, [("client_removed", "/client")]);

        let (new, kept) = keep(json!({"cert": "d"}), json!({"sni": "a"}));
        assert_eq!(new, json!({"cert": "d", "sni": "a"}));
        assert!(kept.warnings.is_empty());

        let (new, kept) = keep(json!({"type": "client", "cert": "d"}), json!({"sni": "a"}));
        assert_eq!(
            (new, kept),
            (json!({"type": "client", "cert": "d"}), KeptNames::default())
        );
    }

    #[test]
    fn names_of_new_objects_and_other_kinds_are_left_alone() {
        let mut new = document(json!({"cert": "c"}));
        assert_eq!(keep_names(Kind::Ssl, &mut new, None), KeptNames::default());
        let old = document(json!({"sni": "a", "client": {}}));
        assert_eq!(
            keep_names(Kind::Route, &mut new, Some(&old)),
            KeptNames::default()
        );
        assert_eq!(new, document(json!({"cert": "c"})));
    }
}
