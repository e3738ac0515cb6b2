//! The service resource: what several routes share.

use super::fault::Verdict;
use super::plugins::{self, Plugins};
use super::upstream::{self, Upstream};
use super::{Document, Id, Terms, members};
use crate::matching::host::HostPattern;
use crate::matching::path_prefix::PathPrefix;

/// A typed service. An empty document is one.
#[derive(Clone, Debug, Default)]
pub struct Service {
    /// `hosts`; empty: every host. Routes without hosts of their own take these.
    pub hosts: Vec<HostPattern>,
    /// `upstream_id` or `upstream`; the id wins.
    pub upstream: Option<UpstreamRef>,
    /// `enable_websocket`: its routes pass upgrades on, unless they say otherwise. Default false.
    pub upgrades: bool,
    /// `path_prefix`, and `strip_path_prefix`, default true: what stands before the paths of its
    /// routes.
    pub path_prefix: Option<PathPrefix>,
    /// `plugins`; those of a route go before them, name by name.
    pub plugins: Plugins,
}

/// Where a route or service sends its requests.
#[derive(Clone, Debug)]
pub enum UpstreamRef {
    /// `upstream`.
    Inline(Box<Upstream>),
    /// `upstream_id`.
    Id(Id),
}

/// Reads what the schema has accepted. `None` only with a fault.
pub(super) fn read(
    document: &Document,
    path_prefix: Option<PathPrefix>,
    terms: &Terms,
    verdict: &mut Verdict,
) -> Option<Service> {
    let hosts = read_hosts(members::one_or_many(document, "", "hosts"), verdict);
    let plugins = plugins::read(document, verdict);
    refuse_unsupported(document, verdict);
    let upstream = read_choice(document, &hosts, terms, verdict);
    Some(Service {
        hosts,
        upstream,
        upgrades: members::flag(document, "enable_websocket").unwrap_or(false),
        path_prefix,
        plugins,
    })
}

/// `upstream_id`, else `upstream`; both are judged, the id wins. `hosts` are those it serves.
pub(super) fn read_choice(
    document: &Document,
    hosts: &[HostPattern],
    terms: &Terms,
    verdict: &mut Verdict,
) -> Option<UpstreamRef> {
    let inline = members::object(document, "upstream")
        .and_then(|inner| upstream::read(inner, "/upstream", hosts, terms, verdict));
    let Some(id) = document.get("upstream_id").and_then(members::id) else {
        return inline.map(Box::new).map(UpstreamRef::Inline);
    };
    if inline.is_some() {
        verdict.warn(
            "upstream_shadowed",
            "/upstream",
            "upstream_id wins; take one of the two out",
        );
    }
    Some(UpstreamRef::Id(id))
}

pub(super) fn read_hosts(hosts: Vec<(String, &str)>, verdict: &mut Verdict) -> Vec<HostPattern> {
    let mut patterns = Vec::new();
    for (at, text) in hosts {
        match HostPattern::parse(text) {
            Ok(pattern) => {
                if !pattern.is_reachable() {
                    let text = "no request can have this host; hosts have no empty label, and a \
                                port only where `proxy.router` is not radixtree_host_uri";
                    verdict.warn("host_unreachable", at, text);
                }
                patterns.push(pattern);
            }
            Err(error) => verdict.refuse(at, format!("invalid host: {error}")),
        }
    }
    patterns
}

/// What services and routes can ask for and this version does not do.
pub(super) fn refuse_unsupported(document: &Document, verdict: &mut Verdict) {
    for member in ["script", "script_id", "filter_func", "plugin_config_id"] {
        if document.contains_key(member) {
            verdict.refuse_unsupported(format!("/{member}"), member);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::resource::sample::{TERMS, accepted, judge, refusal, warnings};
    use crate::resource::{Flavour, Kind, Resource};
    use crate::tls::sample;

    fn read(body: &Value) -> Service {
        let Resource::Service(service) = accepted(Kind::Service, body).resource else {
            panic!("of another kind")
        };
        service
    }

    #[test]
    fn an_empty_document_is_a_service() {
        let service = read(&json!({}));
        assert!(service.hosts.is_empty() && service.upstream.is_none() && !service.upgrades);
        assert!(!read(&json!({"plugins": {}, "enable_websocket": false})).upgrades);
        assert!(read(&json!({"enable_websocket": true})).upgrades);
    }

    #[test]
    fn the_upstream_id_wins_and_both_are_judged() {
        let inline = json!({"nodes": {"a:1": 1}});
        assert!(matches!(
            read(&json!({"upstream": inline})).upstream,
            Some(UpstreamRef::Inline(_))
        ));
        let both = json!({"upstream": inline, "upstream_id": 7});
        assert!(matches!(read(&both).upstream, Some(UpstreamRef::Id(id)) if id.as_str() == "7"));
        assert_eq!(warnings(Kind::Service, &both), ["upstream_shadowed"]);
        let bad = json!({"upstream": {"nodes": {"a:0": 1}}, "upstream_id": 7});
        let faults = judge(Kind::Service, &bad, &TERMS).unwrap_err().0;
        assert_eq!(
            (faults[0].pointer.as_str(), faults.len()),
            ("/upstream/nodes/a:0", 1)
        );
    }

    #[test]
    fn hosts_that_are_listed_say_which_name_an_upstream_must_have() {
        let upstream = json!({
            "scheme": "https", "nodes": {},
            "tls": {"verify": true, "ca_certs": [sample::ca("ca").cert]}
        });
        let open = json!({"upstream": upstream});
        assert_eq!(
            warnings(Kind::Service, &open),
            ["upstream_name_from_client"]
        );
        let listed = json!({"hosts": ["a.com"], "upstream": upstream});
        assert!(warnings(Kind::Service, &listed).is_empty());
    }

    #[test]
    fn refusals_have_apisix_s_text() {
        for (body, text) in [
            (json!({"plugins": {"foo": {}}}), "unknown plugin [foo]"),
            (
                json!({"enable_websocket": 1}),
                "invalid configuration: property \"enable_websocket\" validation failed: wrong type: \
                 expected boolean, got number",
            ),
            (
                json!({"script": "0123456789"}),
                "script is not supported by this version",
            ),
            (
                json!({"upstream": {"nodes": {}, "foo": 1}}),
                "invalid configuration: property \"upstream\" validation failed: additional \
                 properties forbidden, found foo",
            ),
            (
                json!({"hosts": ["a.com", "a.com"]}),
                "invalid configuration: property \"hosts\" validation failed: expected unique \
                 items but items 1 and 2 are equal",
            ),
            (
                json!({"hosts": ["a.*.com"]}),
                "invalid configuration: property \"hosts\" validation failed: failed to validate \
                 item 1: failed to match pattern \
                 \"^\\\\*$|^\\\\*?[0-9a-zA-Z-._\\\\[\\\\]:]+$\" with \"a.*.com\"",
            ),
            (
                json!({"strip_path_prefix": true}),
                "invalid configuration: additional properties forbidden, found strip_path_prefix",
            ),
        ] {
            assert_eq!(refusal(Kind::Service, &body), text);
        }
        assert_eq!(read(&json!({"hosts": ["a.com", "*.b.com"]})).hosts.len(), 2);
    }

    #[test]
    fn api7_s_members_are_taken_in_its_flavour_only() {
        let api7 = Terms {
            flavour: Flavour::Api7,
            ..TERMS
        };
        for body in [
            json!({"name": "s", "type": "http", "strip_path_prefix": true, "status": 1}),
            json!({"name": "s", "service_id": "1"}),
            json!({"path_prefix": "/a", "strip_path_prefix": false}),
            json!({}),
        ] {
            judge(Kind::Service, &body, &api7).unwrap();
        }
        for (body, text) in [
            (
                json!({"type": "stream"}),
                "service type stream is not supported by this version",
            ),
            (
                json!({"path_prefix": "a"}),
                "invalid path_prefix: it must begin with /",
            ),
            (
                json!({"path_prefix": 1}),
                "property \"path_prefix\" validation failed: wrong type: expected string",
            ),
            (
                json!({"path_prefix": "/".repeat(4097)}),
                "property \"path_prefix\" validation failed: string too long, expected at most \
                 4096, got 4097",
            ),
            (
                json!({"path_prefix": "/a", "strip_path_prefix": 1}),
                "property \"strip_path_prefix\" validation failed: wrong type: expected boolean",
            ),
            (
                json!({"status": 0}),
                "a service with status 0 is not supported by this version",
            ),
            (
                json!({"service_id": "2"}),
                "service_id is not the id of this resource",
            ),
            (
                json!({"type": 1}),
                "property \"type\" validation failed: matches none of the enum values",
            ),
        ] {
            assert_eq!(
                judge(Kind::Service, &body, &api7).unwrap_err().to_string(),
                text
            );
            judge(Kind::Service, &body, &TERMS).unwrap_err();
        }
    }
}
