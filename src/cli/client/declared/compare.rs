//! When an object of a file and one of the server are the same.

use std::cmp::Ordering;

use serde_json::{Map, Value};

use super::super::api::forget_times;
use crate::crypto::digest::Sha256;
use crate::resource::{Kind, is_reference};
use crate::tls::material::PrivateKey;

/// What the server shows in the place of a secret begins so.
const WITHHELD: &str = "$withheld:";
/// Followed by the digest of a private key's public part.
const WITHHELD_KEY: &str = "$withheld:sha256:";

/// Where an object of a kind has private keys; `*` stands for each element of a list.
const fn keys(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Ssl => &["/key", "/keys/*"],
        // An upstream's own `key` is what `chash` hashes.
        Kind::Upstream => &["/tls/client_key"],
        Kind::Service | Kind::Route => &["/upstream/tls/client_key"],
        Kind::Secret => &["/auth_config/private_key", "/auth/key"],
    }
}

/// Where an object of a kind has other secrets.
const fn credentials(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Secret => &[
            "/token",
            "/secret_access_key",
            "/session_token",
            "/auth/secret_id",
        ],
        Kind::Ssl | Kind::Upstream | Kind::Service | Kind::Route => &[],
    }
}

/// Whether a text stands for a secret that the server keeps to itself.
pub(super) fn is_withheld(text: &str) -> bool {
    text.starts_with(WITHHELD)
}

/// How many secrets of an object the server kept to itself.
pub(super) fn count_withheld(kind: Kind, value: &Value) -> usize {
    let mut value = value.clone();
    let mut count = 0;
    each(&mut value, keys(kind), |member| {
        count += usize::from(is_held_back(member));
    });
    each(&mut value, credentials(kind), |member| {
        count += usize::from(is_held_back(member));
    });
    count
}

fn is_held_back(member: &Value) -> bool {
    member.as_str().is_some_and(is_withheld)
}

/// An object without its secrets: what they are compared by stands in their place.
pub(super) fn redact(kind: Kind, value: &Value) -> Value {
    let mut value = value.clone();
    each(&mut value, keys(kind), |member| {
        *member = match identify(member) {
            Key::Known(name) => name.into(),
            Key::Unknown => "[withheld]".into(),
        };
    });
    each(&mut value, credentials(kind), |member| {
        if is_in_clear(member) {
            *member = "[withheld]".into();
        }
    });
    value
}

/// Whether an object has a credential as it is, which the server tells nobody again and which so
/// cannot be compared.
pub(super) fn has_credential_in_clear(kind: Kind, value: &Value) -> bool {
    let mut value = value.clone();
    let mut has = false;
    each(&mut value, credentials(kind), |member| {
        has = has || is_in_clear(member);
    });
    has
}

fn is_in_clear(credential: &Value) -> bool {
    let text = credential.as_str();
    !text.is_some_and(|text| is_reference(text) || is_withheld(text))
}

/// Calls `with` for each member at these places.
fn each(value: &mut Value, pointers: &[&str], mut with: impl FnMut(&mut Value)) {
    for pointer in pointers {
        if let Some(list) = pointer.strip_suffix("/*") {
            let list = value.pointer_mut(list).and_then(Value::as_array_mut);
            list.into_iter().flatten().for_each(&mut with);
        } else if let Some(member) = value.pointer_mut(pointer) {
            with(member);
        }
    }
}

/// Whether the server has an object as the file has it. A key is known by its digest; one of which
/// a side says nothing is the one that fits the certificate, which is compared.
pub(super) fn is_same(kind: Kind, local: &Value, remote: &Value) -> bool {
    let (mut local, mut remote) = (local.clone(), remote.clone());
    for value in [&mut local, &mut remote] {
        forget_times(value);
        if let Value::Object(members) = value {
            members.shift_remove("id");
            let is_http = members.get("type").and_then(Value::as_str) == Some("http");
            if kind == Kind::Service && is_http {
                members.shift_remove("type");
            }
        }
        level_nodes(value);
        level_numbers(value);
    }
    for pointer in keys(kind) {
        match pointer.strip_suffix("/*") {
            Some(list) => level_list(&mut local, &mut remote, list),
            None => level_key(&mut local, &mut remote, pointer),
        }
    }
    local == remote
}

/// What is known of a private key.
enum Key {
    /// Its digest or reference, in the server's form.
    Known(String),
    /// Something that only its owner can read, or nothing.
    Unknown,
}

fn identify(member: &Value) -> Key {
    let Some(text) = member.as_str() else {
        return Key::Unknown;
    };
    if is_reference(text) || text.starts_with(WITHHELD_KEY) {
        return Key::Known(text.to_owned());
    }
    PrivateKey::public_digest_of(text).map_or(Key::Unknown, |digest| {
        Key::Known(format!("{WITHHELD_KEY}{}", Sha256::from_bytes(digest)))
    })
}

fn level_key(local: &mut Value, remote: &mut Value, pointer: &str) {
    let key = |value: &Value| value.pointer(pointer).map_or(Key::Unknown, identify);
    let (ours, theirs) = (key(local), key(remote));
    match (ours, theirs) {
        (Key::Known(ours), Key::Known(theirs)) => {
            set(local, pointer, Value::from(ours));
            set(remote, pointer, Value::from(theirs));
        }
        _ => {
            cut(local, pointer);
            cut(remote, pointer);
        }
    }
}

/// Lists of keys: known one by one, or not at all.
fn level_list(local: &mut Value, remote: &mut Value, pointer: &str) {
    let keys = |value: &Value| -> Option<Vec<Value>> {
        let list = value.pointer(pointer)?.as_array()?;
        let known = list.iter().map(|member| match identify(member) {
            Key::Known(name) => Some(Value::from(name)),
            Key::Unknown => None,
        });
        known.collect()
    };
    match (keys(local), keys(remote)) {
        (Some(ours), Some(theirs)) => {
            set(local, pointer, ours.into());
            set(remote, pointer, theirs.into());
        }
        _ => {
            cut(local, pointer);
            cut(remote, pointer);
        }
    }
}

fn set(value: &mut Value, pointer: &str, new: Value) {
    if let Some(member) = value.pointer_mut(pointer) {
        *member = new;
    }
}

fn cut(value: &mut Value, pointer: &str) {
    let Some((parent, name)) = pointer.rsplit_once('/') else {
        return;
    };
    if let Some(Value::Object(parent)) = value.pointer_mut(parent) {
        parent.shift_remove(name);
    }
}

/// Nodes in both forms become lists in one order.
fn level_nodes(value: &mut Value) {
    for pointer in ["/nodes", "/upstream/nodes"] {
        let Some(nodes) = value.pointer_mut(pointer) else {
            continue;
        };
        let mut list = match nodes {
            Value::Object(map) => map
                .iter()
                .map(|(name, weight)| node(name, weight))
                .collect(),
            Value::Array(list) => list.iter().map(level_node).collect::<Vec<_>>(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => continue,
        };
        list.sort_by(by_text);
        *nodes = list.into();
    }
}

fn by_text(a: &Value, b: &Value) -> Ordering {
    a.to_string().cmp(&b.to_string())
}

/// `"host:port": weight` as an element of a list.
fn node(name: &str, weight: &Value) -> Value {
    let split = name.rsplit_once(':').and_then(|(host, port)| {
        let port: u16 = port.parse().ok()?;
        Some((host, Some(port)))
    });
    let (host, port) = split.unwrap_or((name, None));
    let mut members = Map::new();
    members.insert("host".to_owned(), host.into());
    members.extend(port.map(|port| ("port".to_owned(), port.into())));
    members.insert("weight".to_owned(), weight.clone());
    Value::Object(members)
}

/// An element of a list with its members in one order and without what is the default.
fn level_node(node: &Value) -> Value {
    let Some(members) = node.as_object() else {
        return node.clone();
    };
    let mut levelled = Map::new();
    for name in ["host", "port", "weight"] {
        if let Some(value) = members.get(name) {
            levelled.insert(name.to_owned(), value.clone());
        }
    }
    for (name, value) in members {
        let is_default = name == "priority" && value.as_i64() == Some(0);
        if !levelled.contains_key(name) && !is_default {
            levelled.insert(name.clone(), value.clone());
        }
    }
    Value::Object(levelled)
}

/// Numbers are compared by value: `1` and `1.0` are one.
fn level_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let whole = number
                .as_f64()
                .filter(|it| it.fract() == 0.0 && it.abs() < 9_007_199_254_740_992.0);
            if number.as_i64().is_none()
                && let Some(whole) = whole
                && let Ok(whole) = format!("{whole:.0}").parse::<i64>()
            {
                *value = whole.into();
            }
        }
        Value::Array(list) => list.iter_mut().for_each(level_numbers),
        Value::Object(members) => members.values_mut().for_each(level_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    use crate::tls::sample;

    #[test]
    fn what_means_the_same_is_the_same() {
        for (local, remote) in [
            (
                json!({"id": "1", "nodes": {"b:2": 1, "a:1": 2}}),
                json!({"id": "1", "create_time": 5, "nodes": [
                    {"weight": 2, "port": 1, "host": "a"},
                    {"host": "b", "port": 2, "weight": 1, "priority": 0}]}),
            ),
            (json!({"a": 1, "b": 2}), json!({"b": 2.0, "a": 1})),
            (
                json!({"upstream": {"nodes": {"[::1]:80": 1}}}),
                json!({"upstream": {"nodes": [{"host": "[::1]", "port": 80, "weight": 1}]}}),
            ),
        ] {
            assert!(is_same(Kind::Route, &local, &remote), "{local} {remote}");
        }
        for (local, remote) in [
            (json!({"nodes": {"a:1": 1}}), json!({"nodes": {"a:1": 2}})),
            (json!({"nodes": {"a:1": 1}}), json!({"nodes": {"a:2": 1}})),
            (json!({"nodes": {"a:1": 1}}), json!({})),
            (json!({"a": "1"}), json!({"a": 1})),
            (json!({"a": 1.5}), json!({"a": 1})),
            (json!({"hosts": ["a", "b"]}), json!({"hosts": ["b", "a"]})),
        ] {
            assert!(!is_same(Kind::Route, &local, &remote), "{local} {remote}");
        }
        let (plain, api7) = (json!({"name": "s"}), json!({"name": "s", "type": "http"}));
        assert!(is_same(Kind::Service, &plain, &api7));
        assert!(!is_same(Kind::Upstream, &plain, &api7));
    }

    #[test]
    fn keys_are_compared_by_digest() {
        let ca = sample::ca("ca");
        let (one, other) = (sample::leaf(&ca, "a", &[]), sample::leaf(&ca, "b", &[]));
        let shown = |sample: &sample::Sample| redact(Kind::Ssl, &json!({"key": sample.key_pem}));
        assert!(
            shown(&one)["key"]
                .as_str()
                .unwrap()
                .starts_with(WITHHELD_KEY)
        );
        let local = json!({"cert": "C", "key": one.key_pem, "keys": [other.key_pem]});
        let with = |sample: &sample::Sample| json!({"cert": "C", "key": shown(sample)["key"], "keys": [shown(&other)["key"]]});
        assert!(is_same(Kind::Ssl, &local, &with(&one)));
        assert!(!is_same(Kind::Ssl, &local, &with(&other)));
        // Apache APISIX says nothing of keys, so that the certificates decide.
        assert!(is_same(Kind::Ssl, &local, &json!({"cert": "C"})));
        assert!(!is_same(Kind::Ssl, &local, &json!({"cert": "D"})));
        let tls = json!({"tls": {"client_cert": "C", "client_key": one.key_pem}});
        let stored = json!({"tls": {"client_cert": "C", "client_key": "AES+base64"}});
        assert!(is_same(Kind::Upstream, &tls, &stored));
    }

    #[test]
    fn key_that_a_hash_goes_by_is_no_private_key() {
        let hashed = |key: &str| json!({"type": "chash", "key": key, "nodes": {"a:1": 1}});
        let (one, other) = (hashed("remote_addr"), hashed("arg_user"));
        assert!(!is_same(Kind::Upstream, &one, &other));
        assert!(is_same(Kind::Upstream, &one, &one));
        assert_eq!(redact(Kind::Upstream, &one), one);
    }

    #[test]
    fn nothing_secret_is_left_after_redaction() {
        let pem = sample::ca("ca").key_pem;
        let tls = json!({"client_key": pem});
        let referring = json!({"client_key": "$env://K"});
        let mut all = Vec::new();
        for (kind, value) in [
            (Kind::Ssl, json!({"key": pem, "keys": [pem, "garbage"]})),
            (Kind::Upstream, json!({"tls": tls})),
            (Kind::Service, json!({"upstream": {"tls": tls}})),
            (Kind::Route, json!({"upstream": {"tls": referring}})),
            (
                Kind::Secret,
                json!({"token": "s.1", "session_token": "$withheld:00", "uri": "u",
                    "secret_access_key": "s.2", "auth": {"secret_id": "s.3", "key": pem},
                    "auth_config": {"private_key": pem}}),
            ),
        ] {
            all.push(redact(kind, &value));
        }
        let text = Value::from(all.clone()).to_string();
        for secret in ["PRIVATE", "garbage", "s.1", "s.2", "s.3"] {
            assert!(!text.contains(secret), "{text}");
        }
        assert_eq!(all[3]["upstream"]["tls"]["client_key"], "$env://K");
        assert_eq!(all[4]["session_token"], "$withheld:00");
        assert_eq!(all[4]["uri"], "u");
        assert_eq!(count_withheld(Kind::Ssl, &all[0]), 2);
        assert_eq!(count_withheld(Kind::Secret, &all[4]), 3);
    }

    #[test]
    fn credential_is_in_clear_unless_it_is_a_reference_or_withheld() {
        for (value, is_in_clear) in [
            (json!({"token": "s.1"}), true),
            (json!({"auth": {"secret_id": "s.1"}}), true),
            (json!({"token": "$env://TOKEN"}), false),
            (json!({"token": "$withheld:00"}), false),
            (json!({"uri": "u"}), false),
        ] {
            let has = has_credential_in_clear(Kind::Secret, &value);
            assert_eq!(has, is_in_clear, "{value}");
        }
    }
}
