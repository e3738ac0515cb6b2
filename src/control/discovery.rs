//! Upstreams whose nodes are found, as checks and probes see them.

use std::sync::Arc;

use crate::net::resolve::{Answer, Name, Resolver};
use crate::snapshot::Upstream;
use crate::snapshot::discovery::FoundNode;

/// The name that an upstream's nodes are found by; `None`: they are written.
pub(super) fn name(resolver: &Resolver, upstream: &Upstream) -> Option<Name> {
    let discovery = upstream.discovery.as_ref()?;
    Some(resolver.service(&discovery.name))
}

/// The upstream with its nodes, as far as they are known.
pub(super) fn now(name: Option<&Name>, upstream: Arc<Upstream>) -> Arc<Upstream> {
    match name.and_then(Name::now) {
        Some(answer) => with(&upstream, &answer),
        None => upstream,
    }
}

/// The upstream with the nodes of an answer.
pub(super) fn with(upstream: &Upstream, answer: &Answer) -> Arc<Upstream> {
    let found = answer.places().iter().map(|place| FoundNode {
        ip: place.ip,
        port: place.port,
        weight: place.weight,
        priority: place.priority,
    });
    Arc::new(upstream.with_found(found))
}
