//! `type` of an upstream, with `hash_on` and `key`: whose turn it is among its nodes.

use super::fault::Verdict;
use super::upstream::Balance;
use super::{Document, members, texts};
use crate::matching::balance::HashKey;
use crate::matching::variable::{Fact, Variable};

/// What APISIX permits as `key` with `hash_on: vars`.
const VARIABLES: &str = "^((uri|server_name|server_addr|request_uri|remote_port|remote_addr|\
                         query_string|host|hostname|mqtt_client_id)|arg_[0-9a-zA-z_-]+)$";
/// The same with `hash_on: header` and `hash_on: cookie`.
const NAMES: &str = "^[a-zA-Z0-9-_]+$";

/// Reads `type`, and what goes with it.
pub(super) fn read(document: &Document, base: &str, verdict: &mut Verdict) -> Balance {
    let balance = match members::text(document, "type") {
        None | Some("roundrobin") => Balance::RoundRobin,
        Some("least_conn") => Balance::LeastBusy,
        Some("ewma") => Balance::Quicker,
        Some("chash") => {
            return read_key(document, base, verdict)
                .map(|key| Balance::Hash(key.into()))
                .unwrap_or_default();
        }
        Some(other) => {
            let reason = format!(
                "type {} is no way of balancing; write roundrobin, chash, least_conn or ewma",
                texts::shown(other)
            );
            verdict.refuse(format!("{base}/type"), reason);
            Balance::default()
        }
    };
    let kind = members::text(document, "type").unwrap_or("roundrobin");
    for member in ["hash_on", "key"] {
        if document.contains_key(member) {
            let text = format!("{member} has no effect with type {}", texts::shown(kind));
            verdict.warn_unused(format!("{base}/{member}"), text);
        }
    }
    balance
}

fn read_key(document: &Document, base: &str, verdict: &mut Verdict) -> Option<HashKey> {
    let at = format!("{base}/key");
    let hash_on = members::text(document, "hash_on").unwrap_or("vars");
    if hash_on == "consumer" {
        let text = "requests have no consumer here: they are hashed by the client's address; write \
                    hash_on vars with another key if that is not meant";
        verdict.warn("hash_key_absent", format!("{base}/hash_on"), text);
        return Some(HashKey::Client);
    }
    let Some(key) = members::text(document, "key") else {
        verdict.refuse_as_apisix(at, "missing key");
        return None;
    };
    let refuse = |pattern: &str, verdict: &mut Verdict| {
        let shown = texts::shown(key);
        let reason = format!("failed to match pattern \"{pattern}\" with \"{shown}\"");
        verdict.refuse_shape(at.clone(), reason);
        None
    };
    let is_name = |key: &str| {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        !key.is_empty() && key.bytes().all(is_part)
    };
    match hash_on {
        "header" if is_name(key) => {
            let name = key.to_ascii_lowercase().replace('_', "-");
            Some(HashKey::Variable(Variable::Header(name.into())))
        }
        "cookie" if is_name(key) => Some(HashKey::Variable(Variable::Cookie(key.into()))),
        "header" | "cookie" => refuse(NAMES, verdict),
        "vars_combinations" => {
            let key = HashKey::combination(key);
            let unknown: Vec<&str> = key.unknown().collect();
            if !unknown.is_empty() {
                let text = format!("nobody knows these variables: {}", texts::listed(&unknown));
                verdict.warn("hash_key_absent", at, text);
            }
            Some(key)
        }
        _ => match key {
            // The host that the client asked for: no server block has another name here.
            "server_name" => Some(HashKey::Variable(Variable::Fact(Fact::Host))),
            "mqtt_client_id" => {
                let text =
                    "requests have no mqtt_client_id: they are hashed by the client's address";
                verdict.warn("hash_key_absent", at, text);
                Some(HashKey::Client)
            }
            "uri" | "server_addr" | "request_uri" | "remote_port" | "remote_addr"
            | "query_string" | "host" | "hostname" => Variable::parse(key).map(HashKey::Variable),
            _ if key.strip_prefix("arg_").is_some_and(is_name) => {
                Variable::parse(key).map(HashKey::Variable)
            }
            _ => refuse(VARIABLES, verdict),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::resource::Kind;
    use crate::resource::sample::{refusal, warnings};
    use crate::resource::upstream::tests::read;

    fn hashed(hash_on: Option<&str>, key: Option<&str>) -> Value {
        let mut body = json!({"nodes": {}, "type": "chash"});
        for (member, value) in [("hash_on", hash_on), ("key", key)] {
            if let Some(value) = value {
                body[member] = json!(value);
            }
        }
        body
    }

    #[test]
    fn types_are_read_and_what_is_none_is_refused() {
        for (kind, balance) in [
            ("roundrobin", Balance::RoundRobin),
            ("least_conn", Balance::LeastBusy),
            ("ewma", Balance::Quicker),
        ] {
            assert_eq!(read(&json!({"nodes": {}, "type": kind})).balance, balance);
        }
        assert_eq!(read(&json!({"nodes": {}})).balance, Balance::RoundRobin);
        assert_eq!(
            refusal(Kind::Upstream, &json!({"nodes": {}, "type": "foo"})),
            "type foo is no way of balancing; write roundrobin, chash, least_conn or ewma"
        );
    }

    #[test]
    fn keys_are_read_by_what_they_are_of() {
        let variable = |name: &str| HashKey::Variable(Variable::parse(name).unwrap());
        for (hash_on, key, read_as) in [
            (None, Some("remote_addr"), variable("remote_addr")),
            (Some("vars"), Some("arg_a-b"), variable("arg_a-b")),
            (Some("vars"), Some("server_name"), variable("host")),
            (Some("header"), Some("X-Id"), variable("http_x_id")),
            (Some("header"), Some("X_Id"), variable("http_x_id")),
            (Some("cookie"), Some("Sid"), variable("cookie_Sid")),
            (
                Some("vars_combinations"),
                Some("$uri$arg_a"),
                HashKey::combination("$uri$arg_a"),
            ),
            (Some("consumer"), None, HashKey::Client),
        ] {
            let balance = read(&hashed(hash_on, key)).balance;
            assert_eq!(
                balance,
                Balance::Hash(read_as.into()),
                "{hash_on:?} {key:?}"
            );
        }
    }

    #[test]
    fn keys_that_are_none_are_refused_with_apisix_s_text() {
        let pattern = |pattern: &str, key: &str| {
            format!("invalid configuration: failed to match pattern \"{pattern}\" with \"{key}\"")
        };
        for (hash_on, key, text) in [
            (None, None, "missing key".to_owned()),
            (Some("header"), None, "missing key".to_owned()),
            (None, Some("urj"), pattern(VARIABLES, "urj")),
            (Some("vars"), Some("arg_"), pattern(VARIABLES, "arg_")),
            (Some("vars"), Some("http_x"), pattern(VARIABLES, "http_x")),
            (Some("header"), Some("X Id"), pattern(NAMES, "X Id")),
            (Some("cookie"), Some(""), pattern(NAMES, "")),
        ] {
            assert_eq!(refusal(Kind::Upstream, &hashed(hash_on, key)), text);
        }
        let told = |hash_on, key| warnings(Kind::Upstream, &hashed(Some(hash_on), Some(key)));
        assert_eq!(told("vars_combinations", "$urj"), ["hash_key_absent"]);
        assert_eq!(told("consumer", "x"), ["hash_key_absent"]);
        assert!(told("vars", "uri").is_empty());
    }
}
