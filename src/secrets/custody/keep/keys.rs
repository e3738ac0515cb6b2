//! Which stored key goes with which certificate of a write.

use serde_json::Value;

use super::fault;
use crate::resource::fault::Fault;
use crate::resource::{Document, Id, Kind};
use crate::secrets::custody::Custody;
use crate::secrets::custody::places::{self, Nature, is_reference};
use crate::secrets::custody::seal::Place;
use crate::secrets::custody::withhold::is_placeholder;
use crate::tls::material::{CertChain, KeyPair, PrivateKey};

/// A stored key, with the certificate that is stored beside it.
struct StoredKey<'a> {
    pointer: String,
    text: &'a str,
    cert: Option<&'a str>,
}

/// All keys stored for one object.
pub(super) struct Keys<'a> {
    custody: &'a Custody,
    kind: Kind,
    id: &'a Id,
    stored: Vec<StoredKey<'a>>,
}

impl<'a> Keys<'a> {
    /// Those at the given places for certificates and keys; a place may hold an array.
    pub(super) fn of(
        custody: &'a Custody,
        kind: Kind,
        id: &'a Id,
        old: Option<&'a Document>,
        pairs: &[(&str, &str)],
    ) -> Self {
        let mut stored = Vec::new();
        let mut add = |pointer: String, key: &'a Value, cert: Option<&'a Value>| {
            if let Some(text) = key.as_str() {
                let cert = cert.and_then(Value::as_str);
                stored.push(StoredKey {
                    pointer,
                    text,
                    cert,
                });
            }
        };
        for (old, (cert, key)) in old
            .iter()
            .flat_map(|old| pairs.iter().map(move |p| (old, p)))
        {
            let cert = places::at(old, cert);
            match places::at(old, key) {
                Some(Value::Array(keys)) => {
                    for (n, value) in keys.iter().enumerate() {
                        add(format!("{key}/{n}"), value, cert.and_then(|all| all.get(n)));
                    }
                }
                Some(value) => add((*key).to_owned(), value, cert),
                None => {}
            }
        }
        Self {
            custody,
            kind,
            id,
            stored,
        }
    }

    /// Whether replies show `placeholder` for a stored key; a reference is shown as it is.
    fn is_shown_as(&self, stored: &StoredKey<'_>, placeholder: &str) -> bool {
        let place = Place {
            kind: self.kind,
            id: self.id,
            pointer: &stored.pointer,
        };
        !is_reference(stored.text)
            && self
                .custody
                .placeholder(place, Nature::PrivateKey, stored.text)
                == placeholder
    }

    /// Completes the pair of one certificate member and one key member.
    pub(super) fn keep_one(
        &self,
        new: &mut Document,
        cert: &str,
        key: &str,
    ) -> Result<Vec<String>, Fault> {
        let Some(kept) = self.choose(
            Sent {
                at: cert,
                value: places::at(new, cert),
            },
            Sent {
                at: key,
                value: places::at(new, key),
            },
        )?
        else {
            return Ok(Vec::new());
        };
        insert(new, key, Value::String(kept));
        Ok(vec![key.to_owned()])
    }

    /// Completes the pairs of an array of certificates and one of keys.
    pub(super) fn keep_each(
        &self,
        new: &mut Document,
        certs: &str,
        keys: &str,
    ) -> Result<Vec<String>, Fault> {
        let sent_certs = places::at(new, certs).and_then(Value::as_array);
        let sent_keys = places::at(new, keys);
        let pairs = match (sent_certs, sent_keys) {
            (Some(all), None) => all.len(),
            (all, Some(Value::Array(sent))) => {
                let placeholder = sent
                    .iter()
                    .position(|key| key.as_str().is_some_and(is_placeholder));
                match (placeholder, all) {
                    (None, _) => return Ok(Vec::new()),
                    (Some(n), None) => return Err(without_cert(&format!("{keys}/{n}"), certs)),
                    (Some(_), Some(all)) if all.len() != sent.len() => {
                        return Err(fault(keys, "mismatched number of certs and keys"));
                    }
                    (Some(_), Some(all)) => all.len(),
                }
            }
            (_, _) => return Ok(Vec::new()),
        };
        let (mut values, mut kept) = (Vec::with_capacity(pairs), Vec::new());
        for n in 0..pairs {
            let (cert_at, key_at) = (format!("{certs}/{n}"), format!("{keys}/{n}"));
            let key = sent_keys.and_then(|all| all.get(n));
            let chosen = self.choose(
                Sent {
                    at: &cert_at,
                    value: sent_certs.and_then(|all| all.get(n)),
                },
                Sent {
                    at: &key_at,
                    value: key,
                },
            )?;
            match (chosen, key) {
                (Some(chosen), _) => {
                    values.push(Value::String(chosen));
                    kept.push(key_at);
                }
                (None, Some(key)) => values.push(key.clone()),
                // Nothing is stored: the array stays absent, for the validation to say so.
                (None, None) => return Ok(Vec::new()),
            }
        }
        if !kept.is_empty() {
            insert(new, keys, Value::Array(values));
        }
        Ok(kept)
    }

    /// The stored key that goes with what was sent; `None` when what was sent stands as it is.
    fn choose(&self, cert: Sent<'_>, key: Sent<'_>) -> Result<Option<String>, Fault> {
        let placeholder = match key.value.map(Value::as_str) {
            None => None,
            Some(Some(text)) if is_placeholder(text) => Some(text),
            Some(_) => return Ok(None),
        };
        if placeholder.is_none() && (cert.value.is_none() || self.stored.is_empty()) {
            return Ok(None);
        }
        if cert.value.is_none() {
            return Err(without_cert(key.at, cert.at));
        }
        let Some(cert_text) = cert.value.and_then(Value::as_str) else {
            return Ok(None);
        };
        let named =
            |stored: &&StoredKey<'_>| placeholder.is_none_or(|sent| self.is_shown_as(stored, sent));
        let mut candidates = self.stored.iter().filter(named).peekable();
        if candidates.peek().is_none() {
            return Err(fault(
                key.at,
                "this placeholder names no key stored for this object; send the key itself",
            ));
        }
        let judge = Certificate::read(cert.at, cert_text)?;
        match candidates.find(|stored| judge.fits(stored)) {
            Some(stored) => Ok(Some(stored.text.to_owned())),
            None => Err(fault(key.at, judge.refusal(cert.at))),
        }
    }
}

/// A member of the new document.
#[derive(Clone, Copy)]
struct Sent<'a> {
    at: &'a str,
    value: Option<&'a Value>,
}

/// What a stored key must fit.
enum Certificate<'a> {
    /// A reference: only the key that was stored beside the same one is known to be meant.
    Reference(&'a str),
    /// A chain, and the text it was read from.
    Chain(&'a str, Box<CertChain>),
}

impl<'a> Certificate<'a> {
    fn read(at: &str, text: &'a str) -> Result<Self, Fault> {
        if is_reference(text) {
            return Ok(Self::Reference(text));
        }
        match CertChain::parse(text) {
            Ok(chain) => Ok(Self::Chain(text, Box::new(chain))),
            Err(error) => Err(fault(at, error.to_string())),
        }
    }

    fn fits(&self, stored: &StoredKey<'_>) -> bool {
        match self {
            Self::Reference(text) => stored.cert == Some(text),
            // A key that is kept elsewhere cannot be compared here.
            Self::Chain(text, _) if is_reference(stored.text) => stored.cert == Some(text),
            Self::Chain(_, chain) => PrivateKey::parse(stored.text)
                .and_then(|key| KeyPair::join(chain.as_ref().clone(), key))
                .is_ok(),
        }
    }

    fn refusal(&self, at: &str) -> String {
        match self {
            Self::Reference(_) => format!(
                "whether the stored key belongs to the reference in `{at}` cannot be known; send the key itself"
            ),
            Self::Chain(..) => format!(
                "no key stored for this object belongs to the certificate in `{at}`; send the key of that certificate"
            ),
        }
    }
}

fn without_cert(key: &str, cert: &str) -> Fault {
    fault(
        key,
        format!("a stored key is kept only together with its certificate; send `{cert}` too"),
    )
}

/// Sets a member whose parent object is there.
fn insert(document: &mut Document, pointer: &str, value: Value) {
    if let Some(present) = places::at_mut(document, pointer) {
        places::wipe_value(std::mem::replace(present, value));
        return;
    }
    let Some((parent, member)) = pointer.rsplit_once('/') else {
        return;
    };
    if parent.is_empty() {
        document.insert(member.to_owned(), value);
    } else if let Some(Value::Object(parent)) = places::at_mut(document, parent) {
        parent.insert(member.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::keep_as;
    use super::*;
    use crate::secrets::custody::samples::{custody, document, id};
    use crate::secrets::custody::withhold::Show;
    use crate::tls::sample::{self, Sample};

    const ELSEWHERE: &str = "$secret://vault/1/a/x";

    fn pairs<const N: usize>() -> [Sample; N] {
        let ca = sample::ca("ca");
        std::array::from_fn(|n| sample::leaf(&ca, &format!("pair {n}"), &[]))
    }

    /// Keeps as an ssl; gives the completed document and what was kept.
    fn keep_ssl(new: Value, old: Option<&Value>) -> Result<(Value, Vec<String>), Fault> {
        keep_as(Kind::Ssl, "1", new, old)
    }

    /// What a reply shows for the ssl.
    fn shown(ssl: &Value) -> Value {
        let mut ssl = document(ssl.clone());
        custody(1).withhold(Kind::Ssl, &id("1"), &mut ssl, Show::Placeholders);
        Value::Object(ssl)
    }

    fn placeholder(pair: &Sample) -> Value {
        shown(&json!({"key": pair.key_pem}))["key"].clone()
    }

    #[test]
    fn absent_key_or_its_placeholder_is_completed_from_the_stored_one() {
        let [one] = pairs();
        let stored = json!({"cert": one.cert, "key": one.key_pem, "sni": "a"});
        for new in [
            json!({"cert": one.cert, "sni": "b"}),
            json!({"cert": one.cert, "key": placeholder(&one), "sni": "b"}),
        ] {
            let (new, kept) = keep_ssl(new, Some(&stored)).unwrap();
            assert_eq!(new["key"], stored["key"]);
            assert_eq!(new["sni"], "b");
            assert_eq!(kept, ["/key"]);
        }
    }

    #[test]
    fn key_that_is_sent_stands() {
        let [one, two] = pairs();
        let stored = json!({"cert": one.cert, "key": one.key_pem});
        for key in [
            json!(two.key_pem),
            json!(ELSEWHERE),
            json!(""),
            json!(5),
            json!(null),
        ] {
            let sent = json!({"cert": two.cert, "key": key});
            assert_eq!(
                keep_ssl(sent.clone(), Some(&stored)).unwrap(),
                (sent, vec![])
            );
        }
    }

    #[test]
    fn stored_key_of_another_certificate_is_refused() {
        let [one, two] = pairs();
        let stored = json!({"cert": one.cert, "key": one.key_pem});
        for key in [None, Some(placeholder(&one))] {
            let mut sent = json!({"cert": two.cert});
            sent.as_object_mut()
                .unwrap()
                .extend(key.map(|key| ("key".to_owned(), key)));
            let fault = keep_ssl(sent, Some(&stored)).unwrap_err();
            assert_eq!(fault.pointer, "/key");
            assert!(
                fault.reason.contains("send the key of that certificate"),
                "{}",
                fault.reason
            );
        }
    }

    #[test]
    fn certificate_and_key_both_absent_remove_the_pair() {
        let [one] = pairs();
        let tls = json!({"client_cert": one.cert, "client_key": one.key_pem, "verify": false});
        for (kind, wrap) in [
            (Kind::Upstream, false),
            (Kind::Service, true),
            (Kind::Route, true),
        ] {
            let within = |tls: Value| match wrap {
                true => json!({"upstream": {"nodes": {}, "tls": tls}}),
                false => json!({"nodes": {}, "tls": tls}),
            };
            let stored = within(tls.clone());
            for sent in [
                within(json!({"verify": false})),
                json!({"upstream_id": "1"}),
            ] {
                let kept = keep_as(kind, "1", sent.clone(), Some(&stored)).unwrap();
                assert_eq!(kept, (sent, vec![]));
            }
            let sent = within(json!({"client_cert": one.cert, "verify": false}));
            let (new, kept) = keep_as(kind, "1", sent, Some(&stored)).unwrap();
            let pointer = if wrap {
                "/upstream/tls/client_key"
            } else {
                "/tls/client_key"
            };
            assert_eq!(kept, [pointer]);
            assert_eq!(new.pointer(pointer), Some(&json!(one.key_pem)));
        }
    }

    #[test]
    fn placeholder_without_certificate_or_without_stored_key_is_refused() {
        let [one, two] = pairs();
        let stored = json!({"cert": one.cert, "key": one.key_pem});
        let cases = [
            (
                json!({"key": placeholder(&one)}),
                Some(&stored),
                "/key",
                "send `/cert` too",
            ),
            (
                json!({"keys": [placeholder(&one)]}),
                Some(&stored),
                "/keys/0",
                "send `/certs` too",
            ),
            (
                json!({"cert": two.cert, "key": placeholder(&two)}),
                Some(&stored),
                "/key",
                "names no key stored for this object; send the key itself",
            ),
            (
                json!({"cert": one.cert, "key": placeholder(&one)}),
                None,
                "/key",
                "names no key stored for this object",
            ),
            (
                json!({"cert": one.cert, "key": "$withheld:unknown"}),
                Some(&stored),
                "/key",
                "names no key stored for this object",
            ),
            (
                json!({"certs": [one.cert, two.cert], "keys": [placeholder(&one)]}),
                Some(&stored),
                "/keys",
                "mismatched number of certs and keys",
            ),
            (
                json!({"cert": "no PEM"}),
                Some(&stored),
                "/cert",
                "failed to parse cert",
            ),
        ];
        for (sent, old, pointer, reason) in cases {
            let fault = keep_ssl(sent.clone(), old).unwrap_err();
            assert_eq!(fault.pointer, pointer, "{sent}");
            assert!(fault.reason.contains(reason), "{sent}: {}", fault.reason);
        }
    }

    #[test]
    fn first_write_is_left_to_the_validation() {
        let [one] = pairs();
        for sent in [
            json!({"cert": one.cert}),
            json!({"certs": [one.cert]}),
            json!({"cert": 5, "certs": "x", "keys": 7}),
            json!({}),
        ] {
            assert_eq!(
                keep_ssl(sent.clone(), None).unwrap(),
                (sent.clone(), vec![])
            );
            let without_keys = json!({"sni": "a"});
            assert_eq!(
                keep_ssl(sent.clone(), Some(&without_keys)).unwrap(),
                (sent, vec![])
            );
        }
    }

    /// Every selection of `0..n` in every order.
    fn selections(n: usize) -> Vec<Vec<usize>> {
        let mut all: Vec<Vec<usize>> = vec![vec![]];
        let mut start = 0;
        while start < all.len() {
            let chosen = all[start].clone();
            all.extend((0..n).filter(|i| !chosen.contains(i)).map(|i| {
                let mut longer = chosen.clone();
                longer.push(i);
                longer
            }));
            start += 1;
        }
        all
    }

    #[test]
    fn pairs_are_added_removed_and_moved_in_every_order() {
        // Pairs 0 to 2 are stored, 0 as `cert`; pair 3 is new and brings its key.
        let all: [Sample; 4] = pairs();
        let stored = json!({
            "cert": all[0].cert, "key": all[0].key_pem,
            "certs": [all[1].cert, all[2].cert], "keys": [all[1].key_pem, all[2].key_pem],
        });
        let mut count = 0;
        for order in selections(4) {
            let certs: Vec<&str> = order.iter().map(|n| all[*n].cert.as_str()).collect();
            let keys: Vec<&str> = order.iter().map(|n| all[*n].key_pem.as_str()).collect();
            let sent: Vec<Value> = order
                .iter()
                .map(|n| {
                    if *n == 3 {
                        json!(all[3].key_pem)
                    } else {
                        placeholder(&all[*n])
                    }
                })
                .collect();
            let expected: Vec<String> = order
                .iter()
                .enumerate()
                .filter(|(_, n)| **n != 3)
                .map(|(place, _)| format!("/keys/{place}"))
                .collect();

            let new = json!({"certs": certs, "keys": sent});
            let (new, kept) = keep_ssl(new, Some(&stored)).unwrap();
            assert_eq!(
                (&new["keys"], &kept),
                (&json!(keys), &expected),
                "{order:?}"
            );

            // The first of them as `cert`.
            if let (Some(cert), Some(key)) = (certs.first(), sent.first()) {
                let new = json!({"cert": cert, "key": key, "certs": certs[1..], "keys": sent[1..]});
                let (new, _) = keep_ssl(new, Some(&stored)).unwrap();
                assert_eq!(
                    (&new["key"], &new["keys"]),
                    (&json!(keys[0]), &json!(keys[1..]))
                );
            }

            // Without `keys`: all of them are stored, or it is refused.
            let result = keep_ssl(json!({"certs": certs}), Some(&stored));
            match order.iter().position(|n| *n == 3) {
                None if order.is_empty() => assert_eq!(result.unwrap().1, Vec::<String>::new()),
                None => assert_eq!(result.unwrap().0["keys"], json!(keys), "{order:?}"),
                Some(place) => assert_eq!(result.unwrap_err().pointer, format!("/keys/{place}")),
            }
            count += 1;
        }
        assert_eq!(count, 65);
    }

    #[test]
    fn swapped_placeholders_are_refused() {
        let all: [Sample; 2] = pairs();
        let certs = json!([all[0].cert, all[1].cert]);
        let stored = json!({"certs": certs, "keys": [all[0].key_pem, all[1].key_pem]});
        let (right, left) = (placeholder(&all[0]), placeholder(&all[1]));
        let swapped = json!({"certs": certs, "keys": [left, right]});
        assert_eq!(
            keep_ssl(swapped, Some(&stored)).unwrap_err().pointer,
            "/keys/0"
        );
        assert!(
            keep_ssl(
                json!({"certs": certs, "keys": [right, left]}),
                Some(&stored)
            )
            .is_ok()
        );
    }

    #[test]
    fn reading_and_writing_back_changes_nothing() {
        let all: [Sample; 3] = pairs();
        let stored = json!({
            "id": "1", "snis": ["a"], "cert": all[0].cert, "key": all[0].key_pem,
            "certs": [all[1].cert, all[2].cert], "keys": [all[1].key_pem, all[2].key_pem],
        });
        let (new, kept) = keep_ssl(shown(&stored), Some(&stored)).unwrap();
        assert_eq!(new.to_string(), stored.to_string());
        assert_eq!(kept, ["/key", "/keys/0", "/keys/1"]);

        let mut omitted = document(stored.clone());
        custody(1).withhold(Kind::Ssl, &id("1"), &mut omitted, Show::Omitted);
        let (new, kept) = keep_ssl(Value::Object(omitted), Some(&stored)).unwrap();
        assert_eq!(new, stored);
        assert_eq!(kept, ["/key", "/keys/0", "/keys/1"]);
    }

    #[test]
    fn references_are_kept_with_the_unchanged_other_half_only() {
        let [one, two] = pairs();
        let other = "$secret://vault/1/b/x";
        let cases = [
            // A key kept elsewhere, a certificate here.
            (
                json!({"cert": one.cert, "key": ELSEWHERE}),
                json!({"cert": one.cert}),
                true,
            ),
            (
                json!({"cert": one.cert, "key": ELSEWHERE}),
                json!({"cert": two.cert}),
                false,
            ),
            // A key here, a certificate kept elsewhere.
            (
                json!({"cert": ELSEWHERE, "key": one.key_pem}),
                json!({"cert": ELSEWHERE}),
                true,
            ),
            (
                json!({"cert": ELSEWHERE, "key": one.key_pem}),
                json!({"cert": other}),
                false,
            ),
            (
                json!({"cert": ELSEWHERE, "key": one.key_pem}),
                json!({"cert": ELSEWHERE, "key": placeholder(&one)}),
                true,
            ),
            // From a reference to a text, where the key is at hand.
            (
                json!({"cert": ELSEWHERE, "key": one.key_pem}),
                json!({"cert": one.cert}),
                true,
            ),
            (
                json!({"cert": ELSEWHERE, "key": one.key_pem}),
                json!({"cert": two.cert}),
                false,
            ),
        ];
        for (stored, sent, is_kept) in cases {
            match keep_ssl(sent.clone(), Some(&stored)) {
                Ok((new, _)) => assert!(is_kept && new["key"] == stored["key"], "{sent}"),
                Err(fault) => assert!(!is_kept && fault.pointer == "/key", "{sent}: {fault:?}"),
            }
        }
    }
}
