//! Strays: private keys in members that are none of the secret ones.
//!
//! A certificate member takes any PEM text around its certificates, and texts such as `desc` take
//! anything: a key that got in there would be stored in the clear and shown by every read. So a
//! document with such a text is refused when it is written, and a key that is stored already (by
//! an older version, or by hand) is cut out of what is shown.

use std::borrow::Cow;

use serde_json::Value;

use super::places;
use crate::resource::fault::{Fault, Words};
use crate::resource::{self, Document, Kind};

/// How a PEM boundary begins (RFC 7468 §2).
const BEGIN: &str = "-----BEGIN ";
/// How the boundary behind a block begins.
const END: &str = "-----END ";
/// How every boundary ends.
const DASHES: &str = "-----";
/// What the label of every kind of private key has in it.
const KEY: &str = "PRIVATE KEY";
/// What is shown in the place of a stray key.
const CUT: &str = "[withheld]";

/// Every private key in a member that is no secret one: the pointer to the member, and what is
/// wrong with it. Neither quotes the key.
#[must_use]
pub fn stray_keys(kind: Kind, document: &Document) -> Vec<Fault> {
    let secret = places::find(kind, document);
    let mut found = Vec::new();
    look(document, "", &mut |pointer, text| {
        if !secret.iter().any(|(place, _)| place == pointer) && has_key(text) {
            found.push(fault(kind, pointer));
        }
    });
    found.dedup();
    found
}

/// A document, or a part of one, without the private keys in members that are no secret ones.
#[must_use]
pub fn without_strays(kind: Kind, document: &Document) -> Cow<'_, Document> {
    let mut shown = Cow::Borrowed(document);
    if !stray_keys(kind, document).is_empty() {
        cut_strays(kind, shown.to_mut());
    }
    shown
}

/// Cuts every private key out of the members that are no secret ones.
pub(super) fn cut_strays(kind: Kind, document: &mut Document) {
    if stray_keys(kind, document).is_empty() {
        return;
    }
    let secret: Vec<String> = places::find(kind, document)
        .into_iter()
        .map(|(place, _)| place)
        .collect();
    cut_members(document, "", &secret);
}

fn fault(kind: Kind, pointer: &str) -> Fault {
    let member = pointer.trim_start_matches('/').replace('/', ".");
    let remedy = match (kind, pointer) {
        (Kind::Ssl, "/cert") => "put it into `key`",
        (Kind::Ssl, _) if pointer.starts_with("/certs") => "put it into `keys`",
        _ if pointer.ends_with("/tls/client_cert") => "put it into `tls.client_key`",
        _ => "take it out",
    };
    Fault {
        pointer: pointer.to_owned(),
        reason: match member.as_str() {
            "" => format!("a member's name holds a private key; {remedy}"),
            _ => format!(
                "`{}` holds a private key; {remedy}",
                resource::shown(&member)
            ),
        },
        words: Words::Ours,
        guess: None,
    }
}

/// Shows every text of an object, names of members too, with the pointer to the member it is in.
///
/// A name is shown with the pointer of its object: it may itself be what must not be repeated.
fn look(document: &Document, at: &str, see: &mut impl FnMut(&str, &str)) {
    for (name, value) in document {
        see(at, name);
        look_at(value, &pointer(at, name), see);
    }
}

fn look_at(value: &Value, at: &str, see: &mut impl FnMut(&str, &str)) {
    match value {
        Value::String(text) => see(at, text),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                look_at(item, &format!("{at}/{index}"), see);
            }
        }
        Value::Object(members) => look(members, at, see),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The pointer to a member; one whose name must not be repeated goes by the object's.
fn pointer(at: &str, name: &str) -> String {
    if has_key(name) {
        at.to_owned()
    } else {
        let name = name.replace('~', "~0").replace('/', "~1");
        format!("{at}/{name}")
    }
}

fn cut_members(members: &mut Document, at: &str, secret: &[String]) {
    if members.keys().any(|name| has_key(name)) {
        *members = std::mem::take(members)
            .into_iter()
            .map(|(name, value)| (cut(&name).into_owned(), value))
            .collect();
    }
    for (name, value) in members {
        cut_value(value, &pointer(at, name), secret);
    }
}

fn cut_value(value: &mut Value, at: &str, secret: &[String]) {
    if secret.iter().any(|place| place == at) {
        return;
    }
    match value {
        Value::String(text) if has_key(text) => {
            let shown = cut(text).into_owned();
            places::wipe_value(std::mem::replace(value, Value::String(shown)));
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                cut_value(item, &format!("{at}/{index}"), secret);
            }
        }
        Value::Object(members) => cut_members(members, at, secret),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Whether a text has a boundary of a private key, or half of one.
fn has_key(text: &str) -> bool {
    boundary(text, BEGIN).is_some() || boundary(text, END).is_some()
}

/// The first boundary of a private key that begins like this: where it starts and where it ends.
fn boundary(text: &str, begin: &str) -> Option<(usize, usize)> {
    text.match_indices(begin).find_map(|(start, _)| {
        let label_at = start + begin.len();
        let rest = text.get(label_at..)?;
        let length = rest.find(DASHES)?;
        let is_key = rest.get(..length)?.contains(KEY);
        is_key.then_some((start, label_at + length + DASHES.len()))
    })
}

/// The text without its private keys. A block without a beginning or an end goes as far as the
/// text does.
fn cut(text: &str) -> Cow<'_, str> {
    let mut rest = text;
    let mut shown = String::new();
    loop {
        let (begin, end) = (boundary(rest, BEGIN), boundary(rest, END));
        let from = match (begin, end) {
            (None, None) => break,
            (Some((begin, _)), Some((end, _))) if begin < end => begin,
            (Some((begin, _)), None) => begin,
            (_, Some(_)) => 0,
        };
        shown.push_str(rest.get(..from).unwrap_or_default());
        shown.push_str(CUT);
        rest = end.and_then(|(_, end)| rest.get(end..)).unwrap_or_default();
    }
    if shown.is_empty() {
        return Cow::Borrowed(text);
    }
    shown.push_str(rest);
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::samples::{CANARY, document};
    use super::*;

    fn block(label: &str) -> String {
        format!("-----BEGIN {label}-----\n{CANARY}\n-----END {label}-----\n")
    }

    #[test]
    fn every_kind_of_private_key_is_found_and_nothing_else() {
        for label in [
            "PRIVATE KEY",
            "RSA PRIVATE KEY",
            "EC PRIVATE KEY",
            "ENCRYPTED PRIVATE KEY",
            "OPENSSH PRIVATE KEY",
            "PGP PRIVATE KEY BLOCK",
        ] {
            let block = block(label);
            assert!(has_key(&block), "{label}");
            assert!(has_key(&block.replace('\n', "\\n")), "{label}");
            assert!(has_key(block.split_at(8).1), "{label} without a beginning");
        }
        for label in ["CERTIFICATE", "PUBLIC KEY", "X509 CRL"] {
            assert!(!has_key(&block(label)), "{label}");
        }
        assert!(!has_key("how to make a PRIVATE KEY"));
    }

    #[test]
    fn secret_members_may_hold_keys_and_no_others() {
        let key = block("PRIVATE KEY");
        let good = document(json!({"key": key, "keys": [key], "cert": block("CERTIFICATE")}));
        assert_eq!(stray_keys(Kind::Ssl, &good), []);
        let tls = json!({"client_key": key});
        let route = document(json!({"upstream": {"tls": tls}}));
        assert_eq!(stray_keys(Kind::Route, &route), []);
        for (kind, value, pointer, remedy) in [
            (Kind::Ssl, json!({"cert": key}), "/cert", "`key`"),
            (
                Kind::Ssl,
                json!({"certs": ["x", key]}),
                "/certs/1",
                "`keys`",
            ),
            (
                Kind::Ssl,
                json!({"client": {"ca": key}}),
                "/client/ca",
                "out",
            ),
            (Kind::Route, json!({"key": key}), "/key", "out"),
            (
                Kind::Upstream,
                json!({"tls": {"client_cert": key}}),
                "/tls/client_cert",
                "`tls.client_key`",
            ),
            (Kind::Route, json!({"labels": {&key: 1}}), "/labels", "out"),
            (Kind::Route, json!({&key: 1}), "", "out"),
            (Kind::Secret, json!({"x": [{"y": key}]}), "/x/0/y", "out"),
        ] {
            let found = stray_keys(kind, &document(value));
            assert_eq!(found.len(), 1, "{pointer}");
            assert_eq!(found[0].pointer, pointer);
            assert!(found[0].reason.contains("holds a private key"));
            assert!(found[0].reason.contains(remedy), "{}", found[0].reason);
            assert!(!format!("{found:?}").contains(CANARY));
        }
    }

    #[test]
    fn what_is_cut_leaves_the_rest() {
        let (key, cert) = (block("EC PRIVATE KEY"), block("CERTIFICATE"));
        let cert = cert.replace(CANARY, "public");
        for (text, shown) in [
            (
                format!("{cert}{key}{cert}"),
                format!("{cert}[withheld]\n{cert}"),
            ),
            (format!("{key}{key}"), "[withheld][withheld]\n".to_owned()),
            (format!("a{}", &key[..40]), "a[withheld]".to_owned()),
            (key[9..].to_owned(), "[withheld]\n".to_owned()),
            (cert.clone(), cert.clone()),
        ] {
            let shown_now = cut(&text).replace("[withheld]\n[withheld]", "[withheld][withheld]");
            assert_eq!(shown_now, shown, "{text}");
        }
        let mut stored = document(json!({
            "cert": format!("{cert}{key}"), "key": key, "labels": {&key: [key]}, "desc": "d"
        }));
        cut_strays(Kind::Ssl, &mut stored);
        assert_eq!(stored["key"], json!(key), "that is withheld elsewhere");
        stored.shift_remove("key");
        let shown = serde_json::to_string(&stored).unwrap();
        assert!(!shown.contains(CANARY), "{shown}");
        assert!(
            shown.contains("public") && shown.contains("\"d\""),
            "{shown}"
        );
    }
}
