//! The nodes of an upstream: both forms, ports, IPv6 addresses, repetitions.

use std::collections::HashMap;
use std::net::Ipv6Addr;

use serde_json::Value;

use super::fault::Verdict;
use super::upstream::{Discovery, Node, Scheme};
use super::{Document, members, texts};

/// What a node in a list may have. (APISIX, "upstream.nodes".)
const NODE_MEMBERS: [&str; 5] = ["host", "port", "weight", "priority", "metadata"];

/// What APISIX says to an IPv6 address without brackets.
const UNBRACKETED: &str = "IPv6 address must be enclosed with '[' and ']'";

/// The longest name that DNS has, in characters. (RFC 1035 section 2.3.4.)
const NAME_BYTES: usize = 253;

/// `nodes`, a map or a list, in the order given.
pub(super) fn read(
    document: &Document,
    base: &str,
    scheme: Scheme,
    verdict: &mut Verdict,
) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    let mut places: HashMap<(String, u16), usize> = HashMap::new();
    let mut doubles: Vec<(String, String)> = Vec::new();
    let mut strange: Vec<(String, String)> = Vec::new();
    let mut add = |at: String, node: Node| {
        let place = *places
            .entry((node.host.clone(), node.port))
            .or_insert(nodes.len());
        let Some(first) = nodes.get_mut(place) else {
            nodes.push(node);
            return;
        };
        first.weight = first.weight.saturating_add(node.weight);
        doubles.push((at, format!("{}:{}", node.host, node.port)));
    };
    match document.get("nodes") {
        Some(Value::Object(map)) => {
            for (address, weight) in map {
                let at = texts::join(&format!("{base}/nodes"), address);
                if let Some(node) = read_map_node(address, weight, &at, scheme, verdict) {
                    add(at, node);
                }
            }
        }
        Some(Value::Array(list)) => {
            for (index, entry) in list.iter().enumerate() {
                let at = format!("{base}/nodes/{index}");
                let node = entry.as_object();
                let members = node.into_iter().flat_map(|node| node.keys());
                let unknown = members.filter(|member| !NODE_MEMBERS.contains(&member.as_str()));
                strange.extend(unknown.map(|member| (texts::join(&at, member), member.clone())));
                if let Some(node) = node.and_then(|it| read_list_node(it, &at, scheme, verdict)) {
                    add(at, node);
                }
            }
        }
        _ => {}
    }
    let names = |found: &[(String, String)]| {
        let all: Vec<&str> = found.iter().map(|(_, name)| name.as_str()).collect();
        texts::listed(&all)
    };
    if let Some((at, _)) = doubles.first() {
        let text = format!(
            "listed more than once: {}; weights are added",
            names(&doubles)
        );
        verdict.warn("duplicate_node", at, text);
    }
    if let Some((at, _)) = strange.first() {
        let text = format!("nobody reads these members of nodes: {}", names(&strange));
        verdict.warn_unused(at, text);
    }
    nodes
}

/// `service_name`, a name with or without a port.
pub(super) fn read_service(
    document: &Document,
    base: &str,
    verdict: &mut Verdict,
) -> Option<Discovery> {
    let service = members::text(document, "service_name")?;
    let at = format!("{base}/service_name");
    let (name, port) = match split_port(service) {
        Ok(parts) => parts,
        Err(reason) => {
            verdict.refuse_shape(at, reason);
            return None;
        }
    };
    Some(Discovery {
        port: match port {
            None => None,
            Some(text) => Some(read_port(text, &at, verdict)?),
        },
        name: read_host(name, &at, verdict)?,
    })
}

/// `"host:port": weight`.
fn read_map_node(
    address: &str,
    weight: &Value,
    at: &str,
    scheme: Scheme,
    verdict: &mut Verdict,
) -> Option<Node> {
    let (host, port) = split_address(address, at, scheme, verdict)?;
    let host = read_host(host, at, verdict)?;
    Some(Node {
        host,
        port,
        weight: read_weight(weight, at, verdict)?,
        priority: 0,
    })
}

/// A host with the port behind it, or else the scheme's.
fn split_address<'a>(
    address: &'a str,
    at: &str,
    scheme: Scheme,
    verdict: &mut Verdict,
) -> Option<(&'a str, u16)> {
    match split_port(address) {
        Ok((host, None)) => Some((host, scheme.default_port())),
        Ok((host, Some(text))) => Some((host, read_port(text, at, verdict)?)),
        Err(reason) => {
            verdict.refuse_shape(at, reason);
            None
        }
    }
}

/// `{"host", "port", "weight", "priority"}`.
fn read_list_node(
    node: &Document,
    at: &str,
    scheme: Scheme,
    verdict: &mut Verdict,
) -> Option<Node> {
    let host_at = format!("{at}/host");
    let host = members::text(node, "host")?;
    let (host, port) = match node.get("port") {
        Some(port) => {
            let port = members::integer(port).and_then(|port| u16::try_from(port).ok())?;
            (host, port)
        }
        // APISIX takes a port that stands in the host, too.
        None => split_address(host, &host_at, scheme, verdict)?,
    };
    let host = read_host(host, &host_at, verdict)?;
    let priority = match node.get("priority") {
        None => 0,
        Some(value) => members::integer(value).unwrap_or_else(|| {
            verdict.refuse(format!("{at}/priority"), "priority is not a 64-bit integer");
            0
        }),
    };
    Some(Node {
        host,
        port,
        weight: read_weight(node.get("weight")?, &format!("{at}/weight"), verdict)?,
        priority,
    })
}

/// What stands behind a host's colon.
fn read_port(text: &str, at: &str, verdict: &mut Verdict) -> Option<u16> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Some(port),
        _ => {
            verdict.refuse_as_apisix(at, format!("invalid port {}", texts::shown(text)));
            None
        }
    }
}

/// A node's share; one that is too large is not cut, which would change the others' shares.
fn read_weight(weight: &Value, at: &str, verdict: &mut Verdict) -> Option<u32> {
    let exact = members::integer(weight).and_then(|weight| u32::try_from(weight).ok());
    if exact.is_none() {
        verdict.refuse(at, format!("a weight is at most {}", u32::MAX));
    }
    exact
}

/// Splits `host`, `host:port`, `[v6]` and `[v6]:port`; brackets stay on the host.
fn split_port(address: &str) -> Result<(&str, Option<&str>), &'static str> {
    if address.starts_with('[') {
        let Some((inner, rest)) = address.split_once(']') else {
            return Err(UNBRACKETED);
        };
        let host = address.get(..inner.len() + 1).unwrap_or_default();
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(UNBRACKETED),
        };
    }
    match address.split_once(':') {
        None => Ok((address, None)),
        Some((_, port)) if port.contains(':') => Err(UNBRACKETED),
        Some((host, port)) => Ok((host, Some(port))),
    }
}

/// A node's host: a name, an IPv4 address, or an IPv6 address in brackets.
fn read_host(host: &str, at: &str, verdict: &mut Verdict) -> Option<String> {
    if let Some(inner) = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        && let Ok(address) = inner.parse::<Ipv6Addr>()
    {
        return Some(address.to_string());
    }
    if host.contains(':') {
        verdict.refuse_shape(at, UNBRACKETED);
        return None;
    }
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if host.is_empty() || !host.bytes().all(is_part) {
        verdict.refuse(at, format!("invalid node host {}", texts::shown(host)));
        return None;
    }
    if host.len() > NAME_BYTES {
        let text = format!(
            "{} is longer than a name can be in DNS, {NAME_BYTES} characters: it has no address",
            texts::shown(host)
        );
        verdict.warn("node_unresolvable", at, text);
    }
    Some(host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resource::Kind;
    use crate::resource::sample::{TERMS, judge, refusal, warnings};
    use crate::resource::upstream::tests::read;

    fn nodes(body: &Value) -> Vec<(String, u16, u32)> {
        let nodes = read(body).nodes.into_iter();
        nodes
            .map(|node| (node.host, node.port, node.weight))
            .collect()
    }

    #[test]
    fn services_are_read_with_and_without_a_port() {
        let body = |name: &str| json!({"service_name": name, "discovery_type": "dns"});
        for (text, name, port) in [
            ("a.test", "a.test", None),
            ("_Http._tcp.a.test:8080", "_http._tcp.a.test", Some(8080)),
            ("[2001:DB8::1]:9", "2001:db8::1", Some(9)),
        ] {
            let discovery = read(&body(text)).discovery.unwrap();
            assert_eq!((&*discovery.name, discovery.port), (name, port), "{text}");
        }
        for (text, reason) in [
            ("a.test:0", "invalid port"),
            ("a.test:http", "invalid port"),
            ("a b", "invalid node host"),
            (":80", "invalid node host"),
            ("::1", "IPv6 address must be enclosed"),
        ] {
            let told = refusal(Kind::Upstream, &body(text));
            assert!(told.contains(reason), "{text}: {told}");
        }
    }

    #[test]
    fn nodes_are_read_in_both_forms() {
        for (body, expected) in [
            (json!({"nodes": {}}), vec![]),
            (json!({"nodes": []}), vec![]),
            (
                json!({"nodes": {"b.com:8080": 2, "A.com": 0, "[::1]:9": 1, "[::1]": 1}}),
                vec![
                    ("b.com", 8080, 2),
                    ("a.com", 80, 0),
                    ("::1", 9, 1),
                    ("::1", 80, 1),
                ],
            ),
            (
                json!({"scheme": "https", "nodes": [{"host": "a", "weight": 1.0}]}),
                vec![("a", 443, 1)],
            ),
            (
                json!({"nodes": [
                    {"host": "a:1980", "weight": 1}, {"host": "[::1]:9", "weight": 1}
                ]}),
                vec![("a", 1980, 1), ("::1", 9, 1)],
            ),
            (
                json!({"nodes": [
                    {"host": "[2001:DB8::1]", "port": 8, "weight": 1, "priority": 3},
                    {"host": "10.0.0.1", "port": 8, "weight": 1, "priority": 3, "metadata": {}, "x": 1}
                ]}),
                vec![("2001:db8::1", 8, 1), ("10.0.0.1", 8, 1)],
            ),
            (
                json!({"nodes": {"a:1": u32::MAX}}),
                vec![("a", 1, u32::MAX)],
            ),
        ] {
            let expected: Vec<_> = expected
                .into_iter()
                .map(|(host, port, weight)| (host.to_owned(), port, weight))
                .collect();
            assert_eq!(nodes(&body), expected, "{body}");
        }
    }

    #[test]
    fn bad_nodes_are_refused_with_apisix_s_text() {
        let v6 = "invalid configuration: IPv6 address must be enclosed with '[' and ']'";
        let none = "invalid configuration: property \"nodes\" validation failed: object matches \
                    none of the required";
        for (nodes, text) in [
            (json!({"a:65536": 1}), "invalid port 65536"),
            (
                json!({"a:1": 4_294_967_296_u64}),
                "a weight is at most 4294967295",
            ),
            (
                json!([{"host": "a", "weight": 4_294_967_296_u64}]),
                "a weight is at most 4294967295",
            ),
            (json!({"a:0": 1}), "invalid port 0"),
            (json!({"a:": 1}), "invalid port "),
            (json!({"a:+1": 1}), "invalid port +1"),
            (json!({"::1": 1}), v6),
            (json!({"[::1": 1}), v6),
            (json!({"[::1]80": 1}), v6),
            (json!([{"host": "::1", "weight": 1}]), v6),
            (json!([{"host": "a:80", "port": 80, "weight": 1}]), v6),
            (
                json!([{"host": "a:65536", "weight": 1}]),
                "invalid port 65536",
            ),
            (
                json!([{"host": "*.a.com", "weight": 1}]),
                "invalid node host *.a.com",
            ),
            (json!({"a b:1": 1}), "invalid node host a b"),
            (json!({"": 1}), "invalid node host "),
            (json!({":80": 1}), "invalid node host "),
            (json!({"a:1": -1}), none),
            (json!([{"host": "a"}]), none),
            (json!([{"host": "a", "port": 65536, "weight": 1}]), none),
            (json!("a:1"), none),
        ] {
            assert_eq!(
                refusal(Kind::Upstream, &json!({"nodes": nodes})),
                text,
                "{nodes}"
            );
        }
        let faults = judge(Kind::Upstream, &json!({"nodes": [{"host": "a"}]}), &TERMS).unwrap_err();
        assert_eq!(faults.0[1].pointer, "/nodes/0/weight");
    }

    #[test]
    fn name_that_is_too_long_is_taken_with_a_warning() {
        for (length, told) in [(253, vec![]), (254, vec!["node_unresolvable"])] {
            let body = json!({"nodes": [{"host": "a".repeat(length), "weight": 1}]});
            assert_eq!(warnings(Kind::Upstream, &body), told, "{length}");
        }
    }

    #[test]
    fn equal_nodes_are_one() {
        let body = json!({"nodes": [
            {"host": "a", "port": 80, "weight": 1},
            {"host": "A", "weight": 2}
        ]});
        assert_eq!(nodes(&body), [("a".to_owned(), 80, 3)]);
        assert_eq!(warnings(Kind::Upstream, &body), ["duplicate_node"]);
        let many: Vec<_> = (0..40)
            .map(|n| json!({"host": "a", "weight": n, "wieght": n}))
            .collect();
        let body = json!({ "nodes": many });
        let told = warnings(Kind::Upstream, &body);
        assert_eq!(told, ["duplicate_node", "member_unused"]);
    }
}
