//! The immutable state that workers serve from: types, compile, closed names, publish.
//!
//! Documents in, snapshot out: no sockets, files, clock or async here. A snapshot holds ids,
//! policies and digests, never PEM; what a handshake needs beyond that is in
//! [`crate::tls::cache::Contexts`] or built on first use.

mod apply;
pub mod choose;
mod claims;
pub mod closed;
pub mod compile;
pub mod discovery;
pub mod health;
pub mod link;
pub mod live;
pub mod nodes;
mod reach;
pub mod specs;
mod view;
pub mod weaken;

pub use apply::{Change, Tally};
pub use reach::Uneven;
// What a snapshot shows of resources: the data plane sees them through here only.
pub use crate::resource::checks::{Checks, Unhealthy};
pub use crate::resource::plugins::Rewrite;
pub use crate::resource::upstream::{Balance, Keepalive, Node, PassHost, Scheme, Timeouts};
pub use crate::resource::{Id, Kind, Revision};

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::failure::Reason;
use crate::matching::host::HostPattern;
use crate::matching::path_prefix::PathPrefix;
use crate::matching::patterns::PathRegexes;
use crate::matching::route::{RouteTable, Router};
use crate::matching::sni::NameTable;
use crate::matching::vars::Expression;
use crate::tls::material::Digest;
use crate::tls::policy::{ClientPolicy, Versions};

/// Everything a worker needs to serve, as of one revision.
///
/// Invariant: immutable once published; a change makes another that shares all it did not touch.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// Raised by one per publish; a worker compares it before each request.
    pub version: u64,
    /// The store's revision that this was compiled from.
    pub revision: Revision,
    /// Name → who serves it.
    pub names: NameTable<Arc<Name>>,
    /// Host and path → route.
    pub routes: RouteTable<Arc<Route>>,
    /// Services by id.
    pub services: imbl::HashMap<Id, Arc<Service>>,
    /// Upstreams by id.
    pub upstreams: imbl::HashMap<Id, Arc<Upstream>>,
    /// Every object as it was put, and who points to whom.
    index: apply::Index,
}

impl Snapshot {
    /// Nothing yet, with routes in this order.
    #[must_use]
    pub fn new(router: Router) -> Self {
        Self {
            routes: RouteTable::new(router),
            ..Self::default()
        }
    }
}

/// An enabled server ssl, as all of its names see it.
#[derive(Debug)]
pub struct Name {
    /// The ssl's id.
    pub ssl_id: Id,
    /// The ssl's revision.
    pub revision: Revision,
    /// What is asked of clients. Known also when closed, so that a closed name never gets weaker.
    pub policy: Arc<ClientPolicy>,
    /// Paths whose requests need no certificate under a deferred policy.
    pub skip: PathRegexes,
    /// How it is served, or why it is closed.
    pub serving: Result<Serving, Reason>,
}

/// What a handshake for a name needs to be started.
#[derive(Clone, Copy, Debug)]
pub struct Serving {
    /// Key of its context in [`crate::tls::cache::Contexts`].
    pub context: Digest,
    /// Permitted versions.
    pub versions: Versions,
}

/// A rule from request to upstream.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its id.
    pub id: Id,
    /// Its revision.
    pub revision: Revision,
    /// Methods served; empty: all.
    pub methods: Vec<http::Method>,
    /// Peers served; empty: all.
    pub remote_addrs: Vec<IpNet>,
    /// What its requests' variables must be like; `None`: anything.
    pub vars: Option<Arc<Expression>>,
    /// What its service puts before its paths.
    pub path_prefix: Option<Arc<PathPrefix>>,
    /// What of its requests an upstream gets otherwise.
    pub rewrite: Option<Arc<Rewrite>>,
    /// Its service.
    pub service: Option<Id>,
    /// Its own upstream, which replaces the service's.
    pub upstream: Option<UpstreamSource>,
    /// Its own time-outs, which replace the upstream's.
    pub timeouts: Option<Timeouts>,
    /// Whether upgrades (WebSocket) pass; `None`: as its service says, else not.
    pub upgrades: Option<bool>,
    /// Why it is closed: it keeps its match and answers 503, or 404 when its service is missing.
    pub closed: Option<Reason>,
}

/// What several routes share.
#[derive(Debug)]
pub struct Service {
    /// Its id.
    pub id: Id,
    /// Hosts that its routes without hosts take.
    pub hosts: Vec<HostPattern>,
    /// Where its routes go.
    pub upstream: Option<UpstreamSource>,
    /// Whether upgrades pass where a route says nothing.
    pub upgrades: bool,
}

/// Where requests go.
#[derive(Clone, Debug)]
pub enum UpstreamSource {
    /// An upstream written inside the route or service.
    Inline(Arc<Upstream>),
    /// A stand-alone upstream, looked up per request.
    Id(Id),
}

/// The resource a piece of a snapshot was compiled from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Its kind.
    pub kind: Kind,
    /// Its id.
    pub id: Id,
}

/// As reports name it, such as `upstreams/1`.
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.plural(), self.id)
    }
}

/// Nodes, how to reach them and how to trust them.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// The resource that holds it.
    pub owner: Owner,
    /// That resource's revision.
    pub revision: Revision,
    /// How it is spoken to.
    pub scheme: Scheme,
    /// In the order given; may be empty.
    pub nodes: Vec<Node>,
    /// Where they are found instead; then there are none here.
    pub discovery: Option<Arc<discovery::Discovery>>,
    /// What is known of them.
    pub states: nodes::NodeStates,
    /// Whose turn it is.
    pub balance: Balance,
    /// Which Host it sees.
    pub pass_host: PassHost,
    /// Default time-outs.
    pub timeouts: Timeouts,
    /// Limits of kept connections.
    pub keepalive: Keepalive,
    /// Tries after the first; the default filled in (nodes − 1).
    pub retries: u32,
    /// Limit for all tries together.
    pub retry_timeout: Option<Duration>,
    /// How the health of its nodes is known; `None`: all count as healthy.
    pub checks: Option<Arc<Checks>>,
    /// How it is trusted; `None` exactly when the scheme is not TLS.
    pub trust: Option<Trust>,
    /// Why it is closed: requests answer 503.
    pub closed: Option<Reason>,
}

/// How an upstream is trusted and what we show it.
#[derive(Clone, Debug)]
pub struct Trust {
    /// Everything that decides trust: client certificate, verify, CA set, what is offered. Key of its
    /// connector in [`crate::tls::cache::Contexts`], part of every pool key.
    pub fingerprint: Digest,
    /// Whether the server's chain and name are checked.
    pub verify: bool,
    /// The name to send and check instead of the one `pass_host` gives.
    pub server_name: Option<String>,
}

impl Upstream {
    /// The name that a node is asked for in TLS, sent and checked: `tls.server_name`, else what
    /// `pass_host` gives of a request to `host`. `None` in the clear.
    #[must_use]
    pub fn server_name<'a>(&'a self, node: &'a Node, host: &'a str) -> Option<&'a str> {
        let trust = self.trust.as_ref()?;
        Some(match (&trust.server_name, &self.pass_host) {
            (Some(name), _) => name,
            (None, PassHost::Rewrite { name, .. }) => name,
            // The dot that makes a name absolute for DNS is no part of it (RFC 6066 §3).
            (None, PassHost::Node) => node.host.strip_suffix('.').unwrap_or(&node.host),
            (None, PassHost::Pass) => host,
        })
    }
}

impl Node {
    /// `host:port`, an IPv6 address in brackets, as they are written where a port may follow
    /// (RFC 3986 §3.2.2).
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", bracketed(&self.host), self.port)
    }
}

/// A host as it is written where a port may follow.
#[must_use]
pub fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}
