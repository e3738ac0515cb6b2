//! Nodes that are the gateway's own admin or status addresses, as far as a document shows it.
//!
//! Addresses only: a name means what the resolver says when it is dialled, and is judged then, by
//! the same rule.

use crate::net::dial::Forbidden;
use crate::resource::Resource;
use crate::resource::fault::{Fault, Words};
use crate::resource::service::UpstreamRef;
use crate::resource::upstream::Upstream;
use crate::snapshot::bracketed;

/// A fault for each node of a resource that is an address of ours, and for checks that ask one.
pub(super) fn own_nodes(resource: &Resource, own: &Forbidden) -> Vec<Fault> {
    let Some((at, upstream)) = upstream_of(resource) else {
        return Vec::new();
    };
    let nodes = ours(upstream, None, own).into_iter();
    let mut faults: Vec<Fault> = nodes
        .map(|address| Fault {
            pointer: format!("{at}/nodes"),
            reason: format!(
                "`nodes`: {address} is an admin or status address of this gateway, which no route \
                 may reach; give the address of the service"
            ),
            words: Words::Ours,
            guess: None,
        })
        .collect();
    let port = upstream.checks.as_ref().and_then(|it| it.active.port);
    if let Some(address) = port.and_then(|port| ours(upstream, Some(port), own).pop()) {
        faults.push(Fault {
            pointer: format!("{at}/checks/active/port"),
            reason: format!(
                "`checks.active.port`: {address} is an admin or status address of this gateway, \
                 which no check may ask; give a port of the service"
            ),
            words: Words::Ours,
            guess: None,
        });
    }
    faults
}

/// The nodes, or with `port` what is checked of them, that are addresses of ours.
fn ours(upstream: &Upstream, port: Option<u16>, own: &Forbidden) -> Vec<String> {
    let nodes = upstream.nodes.iter();
    let asked = nodes.map(|node| (&node.host, port.unwrap_or(node.port)));
    let ours = asked.filter(|(host, port)| own.holds_literal(host, *port));
    ours.map(|(host, port)| format!("{}:{port}", bracketed(host)))
        .collect()
}

/// The upstream that a resource is or holds, with the pointer to it.
fn upstream_of(resource: &Resource) -> Option<(&'static str, &Upstream)> {
    let held = match resource {
        Resource::Upstream(upstream) => return Some(("", upstream)),
        Resource::Service(service) => service.upstream.as_ref(),
        Resource::Route(route) => route.upstream.as_ref(),
        Resource::Ssl(_) | Resource::Secret(_) => None,
    };
    match held? {
        UpstreamRef::Inline(upstream) => Some(("/upstream", upstream)),
        UpstreamRef::Id(_) => None,
    }
}
