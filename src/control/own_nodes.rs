//! Nodes that are the gateway's own admin or status addresses, as far as a document shows it.
//!
//! Addresses only: a name means what the resolver says when it is dialled, and is judged then, by
//! the same rule.

use crate::net::dial::Forbidden;
use crate::resource::Resource;
use crate::resource::fault::Fault;
use crate::resource::service::UpstreamRef;
use crate::resource::upstream::Upstream;

/// A fault for each node of a resource that is an address of ours.
pub(super) fn own_nodes(resource: &Resource, own: &Forbidden) -> Vec<Fault> {
    let Some((at, upstream)) = nodes_of(resource) else {
        return Vec::new();
    };
    let nodes = upstream.nodes.iter();
    let ours = nodes.filter(|node| own.holds_literal(&node.host, node.port));
    let faults = ours.map(|node| {
        let host = match node.host.contains(':') {
            true => format!("[{}]", node.host),
            false => node.host.clone(),
        };
        Fault {
            pointer: at.to_owned(),
            reason: format!(
                "`nodes`: {host}:{} is an admin or status address of this gateway, which no route \
                 may reach; give the address of the service",
                node.port
            ),
            schema: false,
        }
    });
    faults.collect()
}

/// The upstream that a resource is or holds, with the pointer to its nodes.
fn nodes_of(resource: &Resource) -> Option<(&'static str, &Upstream)> {
    let held = match resource {
        Resource::Upstream(upstream) => return Some(("/nodes", upstream)),
        Resource::Service(service) => service.upstream.as_ref(),
        Resource::Route(route) => route.upstream.as_ref(),
        Resource::Ssl(_) | Resource::Secret(_) => None,
    };
    match held? {
        UpstreamRef::Inline(upstream) => Some(("/upstream/nodes", upstream)),
        UpstreamRef::Id(_) => None,
    }
}
