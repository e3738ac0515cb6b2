//! The route resource: a rule from request to upstream.

use std::sync::Arc;

use ipnet::IpNet;

use super::fault::Verdict;
use super::plugins::{self, Plugins};
use super::service::{self, UpstreamRef};
use super::upstream::{self, Timeouts};
use super::{Document, Flavour, Id, Occasion, Terms, members, texts, vars};
use crate::matching::host::HostPattern;
use crate::matching::path_pattern::PathPattern;
use crate::matching::vars::Expression;

/// A typed route.
#[derive(Clone, Debug)]
pub struct Route {
    /// `host`/`hosts`; empty: the service's, else every host.
    pub hosts: Vec<HostPattern>,
    /// `uri`/`uris`/`paths`; none where no request can have them.
    pub paths: Vec<PathPattern>,
    /// `methods`, upper case; empty: all.
    pub methods: Vec<String>,
    /// `remote_addr`/`remote_addrs`; empty: all.
    pub remote_addrs: Vec<IpNet>,
    /// `vars`; `None` where it asks nothing.
    pub vars: Option<Arc<Expression>>,
    /// `plugins`.
    pub plugins: Plugins,
    /// `priority`, default 0; higher first among equal paths.
    pub priority: i64,
    /// `service_id`.
    pub service: Option<Id>,
    /// `upstream_id` or `upstream`; replaces the service's.
    pub upstream: Option<UpstreamRef>,
    /// `timeout`; replaces the upstream's.
    pub timeouts: Option<Timeouts>,
    /// `enable_websocket`: whether upgrades pass; absent: as the service says.
    pub upgrades: Option<bool>,
    /// `status` is not 0.
    pub enabled: bool,
}

/// Refuses two spellings of one member, before the schema does in words that say less.
pub(super) fn refuse_doubles(document: &Document, verdict: &mut Verdict) {
    for (one, many) in [("host", "hosts"), ("remote_addr", "remote_addrs")] {
        if document.contains_key(one) && document.contains_key(many) {
            verdict.refuse_as_apisix(
                format!("/{many}"),
                format!("only one of {one} or {many} is allowed"),
            );
        }
    }
}

/// Reads what the schema has accepted. `None` only with a fault.
pub(super) fn read(document: &Document, terms: &Terms, verdict: &mut Verdict) -> Option<Route> {
    let paths = read_paths(document, terms, verdict);
    let hosts = service::read_hosts(members::one_or_many(document, "host", "hosts"), verdict);
    let remote_addrs = read_addrs(document, verdict);
    let vars = document
        .get("vars")
        .and_then(|vars| vars::read(vars, verdict));
    let plugins = plugins::read(document, verdict);
    service::refuse_unsupported(document, verdict);
    upstream::warn_of_unknown_timeouts(document, "", verdict);
    let methods = members::texts(document, "methods");
    for (index, method) in methods.filter(|(_, method)| ["CONNECT", "TRACE"].contains(method)) {
        let text = format!(
            "{method} has no effect: such requests are refused before a route is looked for"
        );
        verdict.warn_unused(format!("/methods/{index}"), text);
    }
    let priority = match document.get("priority") {
        None => 0,
        Some(value) => members::integer(value).unwrap_or_else(|| {
            verdict.refuse("/priority", "priority is not a 64-bit integer");
            0
        }),
    };
    Some(Route {
        upstream: service::read_choice(document, &hosts, terms, verdict),
        hosts,
        paths,
        methods: members::texts(document, "methods")
            .map(|(_, text)| text.to_owned())
            .collect(),
        remote_addrs,
        vars: vars.map(Arc::new),
        plugins,
        priority,
        service: document.get("service_id").and_then(members::id),
        timeouts: members::object(document, "timeout").map(upstream::read_timeouts),
        upgrades: members::flag(document, "enable_websocket"),
        enabled: members::is_enabled(document),
    })
}

/// The paths that requests can have. APISIX takes any text, and routes nothing by one that does not
/// begin with a slash; API7, which may put a prefix before it, refuses it.
fn read_paths(document: &Document, terms: &Terms, verdict: &mut Verdict) -> Vec<PathPattern> {
    let mut paths = Vec::new();
    let is_api7 = terms.flavour == Flavour::Api7 && terms.occasion == Occasion::Write;
    for (at, text) in members::one_or_many(document, "uri", "uris") {
        match PathPattern::parse(text) {
            Ok(_) if !text.starts_with(['/', '*']) => {
                let reason = format!("no request has the path {}", texts::shown(text));
                if is_api7 {
                    verdict.refuse(at, format!("{reason}: it must begin with /"));
                } else {
                    let text = format!("{reason}: nothing is routed by it; put a / before it");
                    verdict.warn_unused(at, text);
                }
            }
            Ok(path) => paths.push(path),
            Err(error) => verdict.refuse(at, format!("invalid path: {error}")),
        }
    }
    paths
}

fn read_addrs(document: &Document, verdict: &mut Verdict) -> Vec<IpNet> {
    let mut addrs = Vec::new();
    for (at, text) in members::one_or_many(document, "remote_addr", "remote_addrs") {
        match vars::network(text) {
            Some(addr) => addrs.push(addr),
            None => verdict.refuse(at, format!("invalid ip address: {}", texts::shown(text))),
        }
    }
    addrs
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::resource::sample::{TERMS, accepted, judge, refusal, warnings};
    use crate::resource::{Kind, Resource};

    fn read(body: &Value) -> Route {
        let Resource::Route(route) = accepted(Kind::Route, body).resource else {
            panic!("of another kind")
        };
        *route
    }

    #[test]
    fn a_full_route_is_read_whole() {
        let route = read(&json!({
            "id": "1", "name": "r", "uris": ["/a", "/b/*"], "hosts": ["a.com", "*.b.com"],
            "remote_addrs": ["10.0.0.1", "10.1.2.3/8", "::1", "fe80::1/10"],
            "methods": ["GET", "PURGE"], "priority": -3, "vars": [], "plugins": {},
            "service_id": 5, "upstream": {"nodes": {"a:1": 1}}, "enable_websocket": false,
            "timeout": {"connect": 1, "send": 2, "read": 3}, "status": 0, "create_time": 1
        }));
        assert_eq!((route.paths.len(), route.hosts.len()), (2, 2));
        let addrs: Vec<String> = route.remote_addrs.iter().map(ToString::to_string).collect();
        assert_eq!(addrs, ["10.0.0.1/32", "10.0.0.0/8", "::1/128", "fe80::/10"]);
        assert_eq!(route.methods, ["GET", "PURGE"]);
        assert_eq!((route.priority, route.enabled), (-3, false));
        assert_eq!(route.service.unwrap().as_str(), "5");
        assert!(matches!(route.upstream, Some(UpstreamRef::Inline(_))));
        assert_eq!(route.timeouts.unwrap().send.as_secs(), 2);
        assert!(route.vars.is_none(), "it asks nothing");
        assert_eq!(route.upgrades, Some(false));
        let plain = read(&json!({"uri": "/a", "plugins": {}}));
        assert!(plain.enabled && plain.upstream.is_none() && plain.timeouts.is_none());
        assert_eq!(plain.upgrades, None);
    }

    #[test]
    fn refusals_have_apisix_s_text() {
        let up = json!({"nodes": {}});
        let required = "invalid configuration: object matches none of the required: \
                        [\"plugins\",\"uri\"] or [\"upstream\",\"uri\"] or \
                        [\"upstream_id\",\"uri\"] or [\"service_id\",\"uri\"] or \
                        [\"plugins\",\"uris\"] or [\"upstream\",\"uris\"] or \
                        [\"upstream_id\",\"uris\"] or [\"service_id\",\"uris\"] or \
                        [\"script\",\"uri\"] or [\"script\",\"uris\"]";
        for (body, text) in [
            (json!({"uri": "/a"}), required),
            (
                json!({"upstream": up}),
                "invalid configuration: allOf 1 failed: value should match only one schema, but \
                 matches none",
            ),
            (
                json!({"uri": "/a", "uris": ["/b"], "upstream": up}),
                "invalid configuration: allOf 1 failed: value should match only one schema, but \
                 matches both schemas 1 and 2",
            ),
            (
                json!({"uri": "/a", "host": "a", "hosts": ["b"], "upstream": up}),
                "only one of host or hosts is allowed",
            ),
            (
                json!({"uri": "/a", "remote_addr": "::1", "remote_addrs": ["::1"], "upstream": up}),
                "only one of remote_addr or remote_addrs is allowed",
            ),
            (
                json!({"uri": "/a", "remote_addr": "10.0.0.256", "upstream": up}),
                "invalid configuration: property \"remote_addr\" validation failed: object \
                 matches none of the required",
            ),
            (
                json!({"uri": "/a", "methods": ["get"], "upstream": up}),
                "invalid configuration: property \"methods\" validation failed: failed to \
                 validate item 1: matches none of the enum values",
            ),
            (
                json!({"uri": "", "upstream": up}),
                "invalid configuration: property \"uri\" validation failed: string too short, \
                 expected at least 1, got 0",
            ),
            (
                json!({"uri": 1, "upstream": up}),
                "invalid configuration: property \"uri\" validation failed: wrong type: expected \
                 string, got number",
            ),
            (
                json!({"uri": "/a", "upstream": up, "foo": 1}),
                "invalid configuration: additional properties forbidden, found foo",
            ),
            (
                json!({"uri": "/a", "script": "0123456789", "plugins": {}}),
                "invalid configuration: value wasn't supposed to match schema",
            ),
            (
                json!({"uri": "/a", "upstream": {"nodes": {}, "pass_host": "rewrite"}}),
                "`upstream_host` can't be empty when `pass_host` is `rewrite`",
            ),
            (
                json!({"uri": "/a", "upstream": up, "vars": [["arg_a", "===", "1"]]}),
                "failed to validate the 'vars' expression: invalid operator '==='",
            ),
            (
                json!({"uri": "/a", "plugins": {"key-auth": {}}}),
                "unknown plugin [key-auth]",
            ),
        ] {
            assert_eq!(refusal(Kind::Route, &body), text, "{body}");
        }
    }

    #[test]
    fn what_can_never_match_is_refused_or_told() {
        for (path, matches) in [
            ("/a", true),
            ("*", true),
            ("a", false),
            ("http://x/", false),
        ] {
            let body = json!({"uri": path, "service_id": "1"});
            let parsed = accepted(Kind::Route, &body);
            assert_eq!(parsed.warnings.is_empty(), matches, "{path}");
            let api7 = Terms {
                flavour: Flavour::Api7,
                ..TERMS
            };
            assert_eq!(judge(Kind::Route, &body, &api7).is_ok(), matches, "{path}");
        }
        let body = json!({"uris": ["/a", "b"], "service_id": "1"});
        assert_eq!(warnings(Kind::Route, &body), ["member_unused"]);
        assert_eq!(read(&body).paths.len(), 1);
        let body = json!({"uri": "/a", "service_id": "1", "methods": ["GET", "CONNECT", "TRACE"]});
        assert_eq!(warnings(Kind::Route, &body), ["member_unused"; 2]);
    }

    #[test]
    fn what_is_not_served_yet_is_refused() {
        for (member, value) in [
            ("filter_func", json!("function(vars) return true end")),
            ("script_id", json!("1")),
            ("plugin_config_id", json!("1")),
        ] {
            let mut body = json!({"uri": "/a", "service_id": "1"});
            accepted(Kind::Route, &body);
            body[member] = value;
            let text = format!("{member} is not supported by this version");
            assert_eq!(refusal(Kind::Route, &body), text);
        }
        let script = json!({"uri": "/a", "script": "0123456789"});
        assert_eq!(
            refusal(Kind::Route, &script),
            "script is not supported by this version"
        );
    }

    #[test]
    fn paths_is_another_name_of_uris() {
        let api7 = Terms {
            flavour: Flavour::Api7,
            ..TERMS
        };
        for terms in [&TERMS, &api7] {
            let good = json!({"service_id": "s", "paths": ["/*"]});
            judge(Kind::Route, &good, terms).unwrap();
            for (body, pointer, text) in [
                (
                    json!({"service_id": "s", "paths": ["/*"], "uri": "/a"}),
                    "/paths",
                    "only one of uri, uris and paths is allowed",
                ),
                (
                    json!({"service_id": "s", "paths": ["/a", ""]}),
                    "/paths/1",
                    "property \"paths\" validation failed: failed to validate item 2: string too \
                     short, expected at least 1, got 0",
                ),
            ] {
                let faults = judge(Kind::Route, &body, terms).unwrap_err();
                assert_eq!(faults.to_string(), text);
                assert_eq!(faults.0[0].pointer, pointer);
            }
        }
    }

    #[test]
    fn adc_s_own_id_is_taken_when_it_is_that() {
        let api7 = Terms {
            flavour: Flavour::Api7,
            ..TERMS
        };
        let body = |id: &str| json!({"service_id": "s", "paths": ["/*"], "route_id": id});
        judge(Kind::Route, &body("1"), &api7).unwrap();
        let text = judge(Kind::Route, &body("2"), &api7)
            .unwrap_err()
            .to_string();
        assert_eq!(text, "route_id is not the id of this resource");
        judge(Kind::Route, &body("1"), &TERMS).unwrap_err();
    }
}
