//! What is left of a document that cannot be read as its kind: its names and matches, closed.
//!
//! A document that was stored once and is refused now (a newer version, FIPS rules, an edited
//! file) must not vanish: look-up would go on to a wildcard or another route. So whatever can be
//! read of what it claims keeps being claimed, and nothing is served there.

use std::sync::Arc;

use serde_json::Value;

use crate::failure::Reason;
use crate::matching::host::HostPattern;
use crate::matching::path_pattern::PathPattern;
use crate::matching::path_prefix::PathPrefix;
use crate::matching::sni::SniPattern;
use crate::resource::ssl::Role;
use crate::resource::upstream::{Keepalive, PassHost, Scheme, Timeouts};
use crate::resource::{Document, Id, Kind, Revision};
use crate::snapshot::compile::{
    Piece, RoutePiece, ServerPiece, ServicePiece, UpstreamPiece, unmeetable_policy,
};
use crate::snapshot::{Owner, Route, Upstream};

/// The closed piece of a document that cannot be read as its kind.
#[must_use]
pub fn close(kind: Kind, id: &Id, document: &Document) -> Piece {
    let enabled = document.get("status").and_then(Value::as_i64) != Some(0);
    match kind {
        Kind::Ssl => close_ssl(document, enabled),
        Kind::Upstream => Piece::Upstream(close_upstream(id)),
        Kind::Service => {
            let closed = Some(Reason::RouteClosed);
            Piece::Service(ServicePiece {
                hosts: hosts(document),
                path_prefix: path_prefix(document),
                rewrite: None,
                upstream: None,
                upgrades: false,
                closed,
            })
        }
        Kind::Route => Piece::Route(close_route(id, document, enabled)),
        Kind::Secret => Piece::Secret,
    }
}

fn close_ssl(document: &Document, enabled: bool) -> Piece {
    let is_client = document.get("type").and_then(Value::as_str) == Some("client");
    if !enabled {
        return Piece::Idle(if is_client {
            Role::Client
        } else {
            Role::Server
        });
    }
    if is_client {
        return Piece::Identity(Err(Reason::UpstreamNotReady));
    }
    // A name that cannot be read is one that no client sends.
    let (patterns, _) = read_all(document, &["sni", "snis"], SniPattern::parse);
    let policy = Arc::new(unmeetable_policy());
    Piece::Server(ServerPiece {
        patterns,
        policy,
        serving: Err(Reason::NameClosed),
    })
}

fn close_upstream(id: &Id) -> UpstreamPiece {
    let upstream = Upstream {
        owner: Owner {
            kind: Kind::Upstream,
            id: id.clone(),
        },
        revision: Revision::default(),
        scheme: Scheme::Http,
        nodes: Vec::new(),
        discovery: None,
        states: Default::default(),
        balance: Default::default(),
        pass_host: PassHost::Pass,
        timeouts: Timeouts::default(),
        keepalive: Keepalive::default(),
        retries: 0,
        retry_timeout: None,
        checks: None,
        trust: None,
        closed: Some(Reason::UpstreamNotReady),
    };
    UpstreamPiece {
        upstream: Arc::new(upstream),
        borrowed: None,
    }
}

fn close_route(id: &Id, document: &Document, enabled: bool) -> RoutePiece {
    let service = document.get("service_id").and_then(|id| match id {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    });
    let route = Route {
        id: id.clone(),
        revision: Revision::default(),
        // Without the conditions that could not be read: closed for all whom it may concern.
        methods: Vec::new(),
        remote_addrs: Vec::new(),
        vars: None,
        path_prefix: None,
        rewrite: None,
        service,
        upstream: None,
        timeouts: None,
        upgrades: None,
        closed: Some(Reason::RouteClosed),
    };
    RoutePiece {
        hosts: hosts(document),
        paths: paths(document),
        priority: document
            .get("priority")
            .and_then(Value::as_i64)
            .unwrap_or(0),
        enabled,
        route: Arc::new(route),
        upstream: None,
    }
}

/// The prefix of a service, if it can be read.
fn path_prefix(document: &Document) -> Option<Arc<PathPrefix>> {
    let text = document.get("path_prefix").and_then(Value::as_str)?;
    PathPrefix::parse(text, true).ok().flatten().map(Arc::new)
}

/// The hosts that can be read; every host too, when there are others: each could be meant.
fn hosts(document: &Document) -> Vec<HostPattern> {
    let (mut hosts, is_whole) = read_all(document, &["host", "hosts"], HostPattern::parse);
    if !is_whole {
        hosts.push(HostPattern::Any);
    }
    hosts
}

/// The paths that can be read; every path too, when there are others or none.
fn paths(document: &Document) -> Vec<PathPattern> {
    let members = ["uri", "uris", "paths"];
    let (mut paths, is_whole) = read_all(document, &members, PathPattern::parse);
    if !is_whole || paths.is_empty() {
        paths.extend(PathPattern::parse("*"));
    }
    paths
}

/// What can be read of these members, each a text or a list of texts, and whether that is all.
fn read_all<T: PartialEq, E>(
    document: &Document,
    members: &[&str],
    parse: impl Fn(&str) -> Result<T, E>,
) -> (Vec<T>, bool) {
    let (mut read, mut is_whole) = (Vec::new(), true);
    for value in members.iter().filter_map(|member| document.get(*member)) {
        let items = value
            .as_array()
            .map_or(std::slice::from_ref(value), Vec::as_slice);
        is_whole &= !items.is_empty();
        for item in items {
            match item.as_str().map(&parse) {
                Some(Ok(one)) if read.contains(&one) => {}
                Some(Ok(one)) => read.push(one),
                Some(Err(_)) | None => is_whole = false,
            }
        }
    }
    (read, is_whole)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::snapshot::{Change, Snapshot};

    fn id(text: &str) -> Id {
        text.parse().unwrap()
    }

    /// What is closed at a host and path, when this document is all there is.
    fn closed(kind: Kind, document: &Value, host: &str, path: &str) -> Option<Reason> {
        let document = document.as_object().unwrap();
        let put = |kind, own: &str, document: &Document, revision| Change::Put {
            kind,
            id: id(own),
            created: Revision(revision),
            modified: Revision(revision),
            piece: close(kind, &id(own), document),
        };
        let mut changes = vec![put(kind, "1", document, 1)];
        if kind == Kind::Service {
            let mut route = put(Kind::Route, "r", &Document::new(), 2);
            if let Change::Put {
                piece: Piece::Route(piece),
                ..
            } = &mut route
            {
                let route = Arc::make_mut(&mut piece.route);
                (route.service, route.closed) = (Some(id("1")), None);
            }
            changes.push(route);
        }
        let snapshot = Snapshot::default().apply(changes, Revision(2));
        let found = snapshot.routes.find(host, path.as_bytes(), |_| true)?;
        found.closed
    }

    #[test]
    fn what_can_be_read_is_all_that_is_closed() {
        let route = json!({"hosts": ["a.com"], "uri": "/a"});
        assert_eq!(
            closed(Kind::Route, &route, "a.com", "/a"),
            Some(Reason::RouteClosed)
        );
        for (host, path) in [("b.com", "/a"), ("a.com", "/b")] {
            assert_eq!(
                closed(Kind::Route, &route, host, path),
                None,
                "{host}{path}"
            );
        }
        let service = json!({"hosts": ["a.com"]});
        assert_eq!(
            closed(Kind::Service, &service, "a.com", "/"),
            Some(Reason::RouteClosed)
        );
        assert_eq!(closed(Kind::Service, &service, "b.com", "/"), None);
    }

    #[test]
    fn what_cannot_be_read_may_mean_everything() {
        for route in [
            json!({"hosts": ["a.com", 7], "uri": "/a"}),
            json!({"hosts": ["a.com", "a.*.b"], "uri": "/a"}),
            json!({"host": {"x": 1}, "uri": "/a"}),
            json!({"hosts": [], "uri": "/a"}),
        ] {
            for host in ["a.com", "b.com", ""] {
                let found = closed(Kind::Route, &route, host, "/a");
                assert_eq!(found, Some(Reason::RouteClosed), "{route} {host}");
            }
            assert_eq!(closed(Kind::Route, &route, "a.com", "/b"), None, "{route}");
            let service = closed(Kind::Service, &route, "b.com", "/b");
            assert_eq!(service, Some(Reason::RouteClosed), "{route}");
        }
        for route in [
            json!({"host": "a.com", "uris": ["/a", 7]}),
            json!({"host": "a.com", "uris": ["/a", ""]}),
            json!({"host": "a.com"}),
        ] {
            for path in ["/a", "/b", "*"] {
                let found = closed(Kind::Route, &route, "a.com", path);
                assert_eq!(found, Some(Reason::RouteClosed), "{route} {path}");
            }
            assert_eq!(closed(Kind::Route, &route, "b.com", "/a"), None, "{route}");
        }
    }
}
