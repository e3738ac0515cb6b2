//! Amending: what a change of a part means for the keys that it does not speak of.
//!
//! Such a change is made on the document as a reply to a write shows it, with placeholders for the
//! keys; [`keep`](super::Custody::keep) then puts the stored values back. So it has the rules of a
//! client that reads, edits and writes: a key follows its certificate, and a credential does not
//! follow a new address. What is special about a part is here.

use serde_json::Value;

use super::places;
use super::withhold::is_placeholder;
use crate::resource::fault::{Fault, Words};
use crate::resource::{Document, Kind};

/// Where a kind has certificates and the keys that belong to them.
pub(super) const fn pairs(kind: Kind) -> &'static [(&'static str, &'static str)] {
    match kind {
        Kind::Ssl => &[("/cert", "/key"), ("/certs", "/keys")],
        Kind::Upstream => &[("/tls/client_cert", "/tls/client_key")],
        Kind::Service | Kind::Route => &[("/upstream/tls/client_cert", "/upstream/tls/client_key")],
        Kind::Secret => &[],
    }
}

/// Judges what a change made of the keys of a document, both as they are shown.
///
/// Where `certs` changed and `keys` did not, the keys are left out, so that each is found by its
/// certificate and not by its place.
///
/// # Errors
/// A key was taken out and its certificate left: keeping would bring it back unasked.
pub fn amend_keys(kind: Kind, before: &Document, after: &mut Document) -> Result<(), Fault> {
    for (cert, key) in pairs(kind) {
        let had_key = places::at(before, key);
        let is_removed = had_key.is_some() && places::at(after, key).is_none();
        if is_removed && places::at(after, cert).is_some() {
            let member = cert.trim_start_matches('/').replace('/', ".");
            return Err(Fault {
                pointer: (*key).to_owned(),
                reason: format!(
                    "a key is not removed from its certificate: remove `{member}` too, or send another key"
                ),
                words: Words::Ours,
                guess: None,
            });
        }
        let is_followed = had_key.is_some_and(|keys| {
            let keys = keys.as_array().map(Vec::as_slice).unwrap_or_default();
            !keys.is_empty() && keys.iter().all(is_shown)
        });
        if is_followed
            && places::at(before, cert) != places::at(after, cert)
            && had_key == places::at(after, key)
            && places::at(after, cert).is_some()
        {
            after.shift_remove(key.trim_start_matches('/'));
        }
    }
    Ok(())
}

fn is_shown(key: &Value) -> bool {
    key.as_str().is_some_and(is_placeholder)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::samples::document;
    use super::*;

    fn amended(kind: Kind, before: &Value, after: Value) -> Result<Value, Fault> {
        let mut after = document(after);
        amend_keys(kind, &document(before.clone()), &mut after)?;
        Ok(Value::Object(after))
    }

    #[test]
    fn key_goes_with_its_certificate_only() {
        let tls = |members: Value| json!({ "tls": members });
        let both = tls(json!({"client_cert": "c", "client_key": "$withheld:1"}));
        for after in [tls(json!({})), json!({}), both.clone()] {
            assert_eq!(
                amended(Kind::Upstream, &both, after.clone()).unwrap(),
                after
            );
        }
        let alone = tls(json!({"client_cert": "c"}));
        let fault = amended(Kind::Upstream, &both, alone.clone()).unwrap_err();
        assert_eq!(fault.pointer, "/tls/client_key");
        assert_eq!(
            fault.reason,
            "a key is not removed from its certificate: remove `tls.client_cert` too, or send \
             another key"
        );
        for kind in [Kind::Service, Kind::Route] {
            let around = |value: &Value| json!({ "upstream": value });
            amended(kind, &around(&both), around(&alone)).unwrap_err();
        }
        let ssl = json!({"cert": "c", "key": "$withheld:1"});
        amended(Kind::Ssl, &ssl, json!({"cert": "c"})).unwrap_err();
        // A certificate that comes now has no key to lose.
        amended(Kind::Ssl, &json!({}), json!({"cert": "c"})).unwrap();
    }

    #[test]
    fn several_keys_are_found_by_their_certificates() {
        let before = json!({"certs": ["a", "b"], "keys": ["$withheld:a", "$withheld:b"]});
        let moved = json!({"certs": ["b"], "keys": ["$withheld:a", "$withheld:b"]});
        assert_eq!(
            amended(Kind::Ssl, &before, moved).unwrap(),
            json!({"certs": ["b"]})
        );
        for stays in [
            before.clone(),
            json!({"certs": ["b"], "keys": ["$withheld:b"]}),
            json!({"keys": ["$withheld:a", "$withheld:b"]}),
        ] {
            assert_eq!(amended(Kind::Ssl, &before, stays.clone()).unwrap(), stays);
        }
        // A reference stands for what nobody here can compare.
        let elsewhere = json!({"certs": ["a"], "keys": ["$secret://vault/1/a/x"]});
        let other = json!({"certs": ["b"], "keys": ["$secret://vault/1/a/x"]});
        assert_eq!(
            amended(Kind::Ssl, &elsewhere, other.clone()).unwrap(),
            other
        );
    }
}
