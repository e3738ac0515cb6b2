//! Which members of a document are secrets, and nothing about what is done with them.
//!
//! The one list: sealing, withholding, keeping and wiping all go by it.

use serde_json::Value;
use zeroize::{Zeroize, Zeroizing};

use crate::resource::{Document, Kind};

/// What a secret member holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nature {
    /// A private key in PEM.
    PrivateKey,
    /// A token or password.
    Credential,
}

/// The secret members of a kind; `*` stands for each element of an array.
const fn members(kind: Kind) -> &'static [(&'static str, Nature)] {
    match kind {
        Kind::Ssl => &[
            ("/key", Nature::PrivateKey),
            ("/keys/*", Nature::PrivateKey),
        ],
        Kind::Upstream => &[("/tls/client_key", Nature::PrivateKey)],
        Kind::Service | Kind::Route => &[("/upstream/tls/client_key", Nature::PrivateKey)],
        Kind::Secret => &[
            ("/token", Nature::Credential),
            ("/auth/secret_id", Nature::Credential),
            ("/auth/key", Nature::PrivateKey),
            ("/secret_access_key", Nature::Credential),
            ("/session_token", Nature::Credential),
            ("/auth_config/private_key", Nature::PrivateKey),
        ],
    }
}

/// JSON pointers to the members of a kind that are secret; `*` stands for each element of an array.
pub fn secret_members(kind: Kind) -> impl Iterator<Item = &'static str> {
    members(kind).iter().map(|(pointer, _)| *pointer)
}

/// JSON pointers to the secret members that `document` has, in a fixed order.
///
/// Where an array is expected and something else is found, that is the member: what it holds is
/// treated as secret too.
pub(super) fn find(kind: Kind, document: &Document) -> Vec<(String, Nature)> {
    let mut found = Vec::new();
    for (pointer, nature) in members(kind) {
        let (pointer, each) = match pointer.strip_suffix("/*") {
            Some(array) => (array, true),
            None => (*pointer, false),
        };
        match at(document, pointer) {
            Some(Value::Array(elements)) if each => {
                let elements = (0..elements.len()).map(|n| (format!("{pointer}/{n}"), *nature));
                found.extend(elements);
            }
            Some(_) => found.push((pointer.to_owned(), *nature)),
            None => {}
        }
    }
    found
}

/// The members of a kind that may be a reference; `*` stands for each element of an array.
///
/// In a secret resource a reference is a credential, which its manager reads for itself.
const fn referring(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Ssl => &[
            "/cert",
            "/key",
            "/certs/*",
            "/keys/*",
            "/client/ca",
            "/client/crl",
        ],
        Kind::Upstream => &[
            "/tls/client_cert",
            "/tls/client_key",
            "/tls/ca_certs/*",
            "/tls/crl",
        ],
        Kind::Service | Kind::Route => &[
            "/upstream/tls/client_cert",
            "/upstream/tls/client_key",
            "/upstream/tls/ca_certs/*",
            "/upstream/tls/crl",
        ],
        Kind::Secret => &[],
    }
}

/// JSON pointers to the members whose values are kept elsewhere, each with its reference.
#[must_use]
pub fn references(kind: Kind, document: &Document) -> Vec<(String, String)> {
    let mut pointers = Vec::new();
    for pointer in referring(kind) {
        match pointer.strip_suffix("/*") {
            None => pointers.push((*pointer).to_owned()),
            Some(array) => {
                let count = at(document, array)
                    .and_then(Value::as_array)
                    .map_or(0, Vec::len);
                pointers.extend((0..count).map(|n| format!("{array}/{n}")));
            }
        }
    }
    let pointers = pointers.into_iter();
    pointers
        .filter_map(|pointer| {
            let text = at(document, &pointer)?.as_str()?;
            is_reference(text).then(|| (pointer.clone(), text.to_owned()))
        })
        .collect()
}

/// The value at a JSON pointer without escapes, as all those of this room are.
pub(super) fn at<'a>(document: &'a Document, pointer: &str) -> Option<&'a Value> {
    let (member, rest) = split(pointer)?;
    document.get(member)?.pointer(rest)
}

/// As [`at`], to change the value.
pub(super) fn at_mut<'a>(document: &'a mut Document, pointer: &str) -> Option<&'a mut Value> {
    let (member, rest) = split(pointer)?;
    document.get_mut(member)?.pointer_mut(rest)
}

/// The first member's name, and the pointer from there on.
fn split(pointer: &str) -> Option<(&str, &str)> {
    let path = pointer.strip_prefix('/')?;
    Some(path.split_at(path.find('/').unwrap_or(path.len())))
}

/// Puts `text` at a pointer whose parent is there, and wipes what was there before.
pub(super) fn replace(document: &mut Document, pointer: &str, text: String) {
    if let Some(value) = at_mut(document, pointer) {
        wipe_value(std::mem::replace(value, Value::String(text)));
    }
}

/// Puts the value of a reference in its place.
pub fn substitute(document: &mut Document, pointer: &str, value: &str) {
    replace(document, pointer, value.to_owned());
}

/// Wipes every secret member of a document; afterwards they are empty texts.
pub fn wipe(kind: Kind, document: &mut Document) {
    for (pointer, _) in find(kind, document) {
        replace(document, &pointer, String::new());
    }
}

/// Wipes all texts of a value.
pub(super) fn wipe_value(value: Value) {
    match value {
        Value::String(mut text) => text.zeroize(),
        Value::Array(elements) => elements.into_iter().for_each(wipe_value),
        Value::Object(members) => members.into_iter().for_each(|(_, value)| wipe_value(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A copy of a secret text.
pub(super) fn copy(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.to_owned())
}

/// Whether a text stands for a value kept elsewhere: `$secret://…`, or `$env://…` in any case.
#[must_use]
pub fn is_reference(text: &str) -> bool {
    let env = |prefix: &str| prefix.eq_ignore_ascii_case("$env://");
    text.starts_with("$secret://") || text.get(.."$env://".len()).is_some_and(env)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::samples::document;
    use super::*;

    fn pointers(kind: Kind, value: Value) -> Vec<String> {
        find(kind, &document(value))
            .into_iter()
            .map(|(pointer, _)| pointer)
            .collect()
    }

    #[test]
    fn every_secret_member_is_found_and_no_other() {
        let tls = json!({"tls": {"client_cert": "c", "client_key": "k", "verify": true}});
        let cases = [
            (
                Kind::Ssl,
                json!({"cert": "c", "key": "k", "certs": ["c"], "keys": ["k", "k"], "sni": "a"}),
                vec!["/key", "/keys/0", "/keys/1"],
            ),
            (Kind::Ssl, json!({"keys": "not an array"}), vec!["/keys"]),
            (Kind::Ssl, json!({"cert": "c", "keys": []}), vec![]),
            (Kind::Upstream, tls.clone(), vec!["/tls/client_key"]),
            (Kind::Upstream, json!({"tls": "text", "nodes": []}), vec![]),
            (
                Kind::Service,
                json!({"upstream": tls.clone()}),
                vec!["/upstream/tls/client_key"],
            ),
            (
                Kind::Route,
                json!({"upstream": tls}),
                vec!["/upstream/tls/client_key"],
            ),
            (Kind::Route, json!({"upstream_id": "1"}), vec![]),
            (
                Kind::Secret,
                json!({"uri": "u", "prefix": "p", "token": "t"}),
                vec!["/token"],
            ),
            (
                Kind::Secret,
                json!({"uri": "u", "auth": {"role_id": "r", "secret_id": "s", "cert": "c", "key": "k"}}),
                vec!["/auth/secret_id", "/auth/key"],
            ),
            (
                Kind::Secret,
                json!({"access_key_id": "a", "secret_access_key": "s", "session_token": "t"}),
                vec!["/secret_access_key", "/session_token"],
            ),
            (
                Kind::Secret,
                json!({"auth_config": {"client_email": "e", "private_key": "k"}}),
                vec!["/auth_config/private_key"],
            ),
        ];
        for (kind, value, expected) in cases {
            assert_eq!(pointers(kind, value.clone()), expected, "{kind} {value}");
        }
    }

    /// What the schema takes as it takes credentials, and says who somebody is, not what proves it.
    const IDENTITIES: [&str; 3] = ["/access_key_id", "/auth/cert", "/auth/role_id"];

    /// Pointers to what a schema calls a private key or a credential.
    fn called_secret(schema: &Value, at: &str, found: &mut Vec<String>) {
        match schema["$ref"].as_str() {
            Some("common.json#/private_key" | "common.json#/credential") => {
                found.push(at.to_owned());
            }
            Some("upstream.json") => {
                let upstream = include_str!("../../resource/schema/upstream.json");
                called_secret(&serde_json::from_str(upstream).unwrap(), at, found);
            }
            Some(_) | None => {}
        }
        for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
            called_secret(schema, &format!("{at}/{name}"), found);
        }
        if schema["items"].is_object() {
            called_secret(&schema["items"], &format!("{at}/*"), found);
        }
    }

    #[test]
    fn whatever_the_schema_calls_a_key_or_credential_is_a_secret() {
        let mut count = 0;
        for (kind, text) in [
            (Kind::Ssl, include_str!("../../resource/schema/ssl.json")),
            (
                Kind::Upstream,
                include_str!("../../resource/schema/upstream.json"),
            ),
            (
                Kind::Service,
                include_str!("../../resource/schema/service.json"),
            ),
            (
                Kind::Route,
                include_str!("../../resource/schema/route.json"),
            ),
            (
                Kind::Secret,
                include_str!("../../resource/schema/secret.json"),
            ),
        ] {
            let schema: Value = serde_json::from_str(text).unwrap();
            let mut found = Vec::new();
            called_secret(&schema, "", &mut found);
            // Secrets have a schema for each manager.
            for manager in ["vault", "aws", "gcp", "kubernetes"] {
                called_secret(&schema[manager], "", &mut found);
            }
            found.retain(|pointer| !IDENTITIES.contains(&pointer.as_str()));
            for pointer in found {
                let mut known = secret_members(kind);
                assert!(known.any(|known| known == pointer), "{kind} {pointer}");
                count += 1;
            }
        }
        assert_eq!(count, 12, "every place that is known is in a schema, too");
    }

    #[test]
    fn references_are_found_where_they_are_permitted_and_nowhere_else() {
        let tls = json!({"client_cert": "$env://A", "client_key": "k",
                         "ca_certs": ["c", "$secret://vault/1/a/b"], "crl": "$env://R",
                         "server_name": "$env://N"});
        let cases = [
            (
                Kind::Ssl,
                json!({"cert": "$env://C", "key": "k", "keys": ["k", "$env://K"],
                       "client": {"ca": "$env://CA", "crl": "$env://R"}, "desc": "$env://D", "snis": ["$env://S"]}),
                vec!["/cert", "/keys/1", "/client/ca", "/client/crl"],
            ),
            (
                Kind::Upstream,
                json!({"tls": tls.clone()}),
                vec!["/tls/client_cert", "/tls/ca_certs/1", "/tls/crl"],
            ),
            (
                Kind::Service,
                json!({"upstream": {"tls": tls}}),
                vec![
                    "/upstream/tls/client_cert",
                    "/upstream/tls/ca_certs/1",
                    "/upstream/tls/crl",
                ],
            ),
            (Kind::Secret, json!({"token": "$env://T"}), vec![]),
        ];
        for (kind, value, expected) in cases {
            let found = references(kind, &document(value));
            let pointers: Vec<&str> = found.iter().map(|(pointer, _)| pointer.as_str()).collect();
            assert_eq!(pointers, expected, "{kind}");
        }
    }

    #[test]
    fn wiping_leaves_the_rest() {
        let mut ssl = document(json!({"cert": "c", "key": "k", "keys": ["a", "b"], "sni": "s"}));
        wipe(Kind::Ssl, &mut ssl);
        let left = document(json!({"cert": "c", "key": "", "keys": ["", ""], "sni": "s"}));
        assert_eq!(ssl, left);
    }

    #[test]
    fn references_are_told_from_values() {
        for reference in [
            "$secret://vault/1/a/b",
            "$env://NAME",
            "$ENV://NAME/key",
            "$eNv://",
        ] {
            assert!(is_reference(reference), "{reference}");
        }
        for value in [
            "$SECRET://vault/1/a/b",
            "$env:/",
            "",
            "x$env://A",
            "-----BEGIN",
            "$énv://",
        ] {
            assert!(!is_reference(value), "{value}");
        }
    }
}
