//! A worker's view of upstreams: whose turn it is, and where its connections are kept.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderValue;

use crate::matching::authority::Authority;
use crate::matching::balance::WeightedRoundRobin;
use crate::proxy::headers::text_value;
use crate::proxy::pool::{Bucket, Pool, PoolKey};
use crate::snapshot::specs;
use crate::snapshot::{Node, PassHost, Scheme, Upstream};
use crate::tls::upstream::ServerName;

/// Names per upstream whose endpoints are remembered; more start over.
const ENDPOINTS: usize = 64;

/// What a worker remembers of the upstreams it uses, by the compiled upstream's identity.
#[derive(Default)]
pub struct Upstreams {
    known: RefCell<BTreeMap<*const Upstream, Rc<Turns>>>,
}

/// One upstream's turns and endpoints.
pub struct Turns {
    // Held so that the address that is its key stays its own.
    upstream: Arc<Upstream>,
    wheel: RefCell<WeightedRoundRobin>,
    endpoints: RefCell<Vec<Rc<Endpoint>>>,
}

/// A node as one request sees it: which name it is asked for, which pool it uses.
pub struct Endpoint {
    /// Index of the node in its upstream.
    pub node: usize,
    /// `host:port`.
    pub peer: Arc<str>,
    /// The name sent and checked; `None` in the clear.
    pub name: Option<ServerName>,
    /// The Host it sees, unless that is the client's.
    pub host: Option<HeaderValue>,
    /// Its idle connections.
    pub bucket: Rc<Bucket>,
}

impl Upstreams {
    /// What is remembered of `upstream`.
    pub fn turns(&self, upstream: &Arc<Upstream>) -> Rc<Turns> {
        if let Some(turns) = self.known.borrow().get(&Arc::as_ptr(upstream)) {
            return turns.clone();
        }
        let weights: Vec<u32> = upstream.nodes.iter().map(|node| node.weight).collect();
        let turns = Rc::new(Turns {
            upstream: upstream.clone(),
            wheel: RefCell::new(WeightedRoundRobin::new(&weights)),
            endpoints: RefCell::default(),
        });
        self.known
            .borrow_mut()
            .insert(Arc::as_ptr(upstream), turns.clone());
        turns
    }

    /// Forgets upstreams that no snapshot holds any more.
    pub fn sweep(&self) {
        self.known
            .borrow_mut()
            .retain(|_, turns| Arc::strong_count(&turns.upstream) > 1);
    }
}

impl Turns {
    /// The node whose turn it is, leaving out those that were tried.
    pub fn pick(&self, tried: &[usize]) -> Option<usize> {
        self.wheel.borrow_mut().pick(|node| !tried.contains(&node))
    }

    /// The endpoint of a node for a request to `authority`.
    pub fn endpoint(
        &self,
        index: usize,
        authority: &Authority,
        pool: &Pool,
    ) -> Option<Rc<Endpoint>> {
        let upstream = &self.upstream;
        let node = upstream.nodes.get(index)?;
        let wanted = server_name(upstream, node, authority);
        {
            let endpoints = self.endpoints.borrow();
            let known = endpoints.iter().find(|endpoint| {
                endpoint.node == index
                    && match (&endpoint.name, wanted) {
                        (None, None) => true,
                        (Some(ServerName::Dns(name)), Some(wanted)) => **name == *wanted,
                        (Some(ip @ ServerName::Ip(_)), Some(wanted)) => {
                            *ip == ServerName::new(wanted)
                        }
                        _ => false,
                    }
            });
            if let Some(endpoint) = known {
                return Some(endpoint.clone());
            }
        }
        let peer: Arc<str> = format!("{}:{}", bracketed(&node.host), node.port).into();
        let name = wanted.map(ServerName::new);
        let key = PoolKey {
            peer: peer.clone(),
            trust: upstream.trust.as_ref().map(|trust| trust.fingerprint),
            name: name.clone(),
            protocol: specs::protocol(upstream.scheme),
        };
        let endpoint = Rc::new(Endpoint {
            node: index,
            peer,
            name,
            host: host_value(upstream, node),
            bucket: pool.bucket(key, upstream.keepalive),
        });
        let mut endpoints = self.endpoints.borrow_mut();
        if endpoints.len() >= ENDPOINTS {
            endpoints.clear();
        }
        endpoints.push(endpoint.clone());
        Some(endpoint)
    }
}

/// The name sent and checked in TLS: `tls.server_name`, else what `pass_host` gives.
fn server_name<'a>(
    upstream: &'a Upstream,
    node: &'a Node,
    authority: &'a Authority,
) -> Option<&'a str> {
    let trust = upstream.trust.as_ref()?;
    Some(match (&trust.server_name, &upstream.pass_host) {
        (Some(name), _) => name,
        (None, PassHost::Rewrite { name, .. }) => name,
        // The dot that makes a name absolute for DNS is no part of it (RFC 6066 §3).
        (None, PassHost::Node) => node.host.strip_suffix('.').unwrap_or(&node.host),
        (None, PassHost::Pass) => authority.host(),
    })
}

fn host_value(upstream: &Upstream, node: &Node) -> Option<HeaderValue> {
    match &upstream.pass_host {
        PassHost::Pass => None,
        PassHost::Rewrite { host, .. } => text_value(host),
        PassHost::Node if node.port == upstream.scheme.default_port() => {
            text_value(&bracketed(&node.host))
        }
        PassHost::Node => text_value(&format!("{}:{}", bracketed(&node.host), node.port)),
    }
}

/// IPv6 literals are written in brackets where a port may follow (RFC 3986 §3.2.2).
fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

/// The port a client means when it names none.
#[must_use]
pub const fn default_port(tls: bool) -> u16 {
    if tls {
        Scheme::Https.default_port()
    } else {
        Scheme::Http.default_port()
    }
}
