//! A worker's view of upstreams: whose turn it is, and where its connections are kept.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use crate::matching::authority::Authority;
use crate::matching::balance::{Member, Ring, WeightedRoundRobin, load};
use crate::net::resolve::{Name, Resolver};
use crate::proxy::headers::text_value;
use crate::proxy::pool::{Bucket, Pool, PoolKey};
use crate::snapshot::health::Sign;
use crate::snapshot::nodes::{Busy, NodeState};
use crate::snapshot::specs;
use crate::snapshot::{Balance, Node, PassHost, Scheme, Upstream, bracketed};
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
    /// What is known of each node, in the upstream's order.
    states: Vec<Arc<NodeState>>,
    /// Where each node is; `None`: it is an address itself. Held, so that names are kept up to date.
    names: Vec<Option<Name>>,
    /// The highest priority first.
    levels: Vec<Level>,
    random: Cell<u64>,
    endpoints: RefCell<Vec<Rc<Endpoint>>>,
}

/// What a pick may depend on beside the nodes.
pub struct Asked<F> {
    /// What the request is hashed by, where it is.
    pub hash: u32,
    /// The wall clock's milliseconds.
    pub now: F,
}

/// Whether nodes that are down are passed over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Health {
    Matters,
    Ignored,
}

/// What a request saw of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// An answer of this status.
    Status(u16),
    /// No connection, or one that broke before an answer.
    Broken,
    /// No answer in time.
    Late,
}

/// The nodes of one priority that take traffic: those with a weight, or the only node there is.
struct Level {
    /// Indices in the upstream, and weights, both by place in this level.
    nodes: Vec<usize>,
    weights: Vec<u32>,
    wheel: RefCell<WeightedRoundRobin>,
    /// Made when it is first asked.
    ring: OnceCell<Ring>,
}

/// A node as one request sees it: which name it is asked for, which pool it uses.
pub struct Endpoint {
    /// Index of the node in its upstream.
    pub node: usize,
    /// `host:port`.
    pub peer: Arc<str>,
    /// Which of its addresses, where its host is a name.
    pub ip: Option<IpAddr>,
    /// The name sent and checked; `None` in the clear.
    pub name: Option<ServerName>,
    /// The Host it sees, unless that is the client's.
    pub host: Option<HeaderValue>,
    /// Its idle connections.
    pub bucket: Rc<Bucket>,
}

impl Upstreams {
    /// What is remembered of `upstream`.
    pub fn turns(&self, upstream: &Arc<Upstream>, resolver: &Resolver) -> Rc<Turns> {
        if let Some(turns) = self.known.borrow().get(&Arc::as_ptr(upstream)) {
            return turns.clone();
        }
        let states = upstream.nodes.iter();
        let states = states.map(|node| upstream.states.of(&node.host, node.port));
        let names = upstream.nodes.iter();
        let names = names.map(|node| resolver.host(&node.host));
        let turns = Rc::new(Turns {
            upstream: upstream.clone(),
            states: states.collect(),
            names: names.collect(),
            levels: levels(&upstream.nodes),
            random: Cell::new(RandomState::new().hash_one(0)),
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

/// Nodes by priority, the highest first.
fn levels(nodes: &[Node]) -> Vec<Level> {
    let mut levels: BTreeMap<i64, (Vec<usize>, Vec<u32>)> = BTreeMap::new();
    for (index, node) in nodes.iter().enumerate() {
        if node.weight > 0 || nodes.len() == 1 {
            let (indices, weights) = levels.entry(node.priority).or_default();
            indices.push(index);
            weights.push(node.weight.max(1));
        }
    }
    let levels = levels.into_values().rev();
    levels
        .map(|(nodes, weights)| Level {
            nodes,
            wheel: RefCell::new(WeightedRoundRobin::new(&weights)),
            weights,
            ring: OnceCell::new(),
        })
        .collect()
}

impl Level {
    fn ring(&self, nodes: &[Node]) -> Ring {
        let hosts: Vec<String> = nodes.iter().map(|node| bracketed(&node.host)).collect();
        let own = self.nodes.iter().zip(&self.weights);
        let members = own.filter_map(|(node, weight)| {
            Some(Member {
                host: hosts.get(*node)?,
                port: nodes.get(*node)?.port,
                weight: *weight,
            })
        });
        Ring::new(&members.collect::<Vec<_>>())
    }

    fn pick(
        &self,
        turns: &Turns,
        tried: &[usize],
        heeds: Health,
        asked: &Asked<impl Fn() -> u64>,
    ) -> Option<usize> {
        let node = |place: usize| self.nodes.get(place).copied();
        let state = |place: usize| node(place).and_then(|node| turns.states.get(node));
        let usable = |place: usize| {
            node(place).is_some_and(|node| !tried.contains(&node) && turns.is_up(node, heeds))
        };
        let place = match &turns.upstream.balance {
            Balance::RoundRobin => self.wheel.borrow_mut().pick(usable),
            Balance::LeastBusy => {
                let in_flight = |place| state(place).map_or(0, |state| state.in_flight());
                let least = load::least_busy(&self.weights, in_flight, usable);
                // Equals take turns, as in nginx.
                let is_least = |place: usize| least.binary_search(&place).is_ok();
                self.wheel.borrow_mut().pick(is_least)
            }
            Balance::Quicker => {
                let now = (asked.now)();
                let latency = |place| {
                    let known = state(place).map(|state| state.latency(now));
                    known.unwrap_or_default()
                };
                load::quicker(&self.weights, latency, usable, turns.draw())
            }
            Balance::Hash(_) => {
                let ring = self.ring.get_or_init(|| self.ring(&turns.upstream.nodes));
                ring.find(asked.hash, usable)
            }
        };
        place.and_then(node)
    }
}

impl Turns {
    /// The node whose turn it is, leaving out those that were tried; one of a lower priority when
    /// all above it were.
    pub fn pick(&self, tried: &[usize], asked: &Asked<impl Fn() -> u64>) -> Option<usize> {
        let heeds = self.health();
        if heeds == Health::Ignored
            && let Some(only) = self.only_healthy()
            && !tried.contains(&only)
        {
            return Some(only);
        }
        let mut levels = self.levels.iter();
        levels.find_map(|level| level.pick(self, tried, heeds, asked))
    }

    /// The one node that is healthy, where no other is: it is used whatever its weight, as a single
    /// node is. (APISIX, `roundrobin`)
    fn only_healthy(&self) -> Option<usize> {
        self.upstream.checks.as_ref()?;
        let mut healthy = (0..self.states.len()).filter(|node| self.is_up(*node, Health::Matters));
        let only = healthy.next()?;
        healthy.next().is_none().then_some(only)
    }

    /// Where no node that has a weight is healthy, all are used. (APISIX, "Health Check")
    fn health(&self) -> Health {
        let mut nodes = self.levels.iter().flat_map(|level| &level.nodes);
        let has_healthy = |node: &usize| self.is_up(*node, Health::Matters);
        if self.upstream.checks.is_some() && nodes.any(has_healthy) {
            Health::Matters
        } else {
            Health::Ignored
        }
    }

    fn is_up(&self, node: usize, health: Health) -> bool {
        health == Health::Ignored
            || self
                .states
                .get(node)
                .is_some_and(|state| state.health.is_up())
    }

    /// Counts what a request saw of a node, where that is asked for (`checks.passive`). `Some(is_up)`
    /// if it turned the node.
    pub fn observe(&self, node: usize, seen: Seen) -> Option<bool> {
        let passive = self.upstream.checks.as_ref()?.passive.as_ref()?;
        let (sign, limit) = match seen {
            Seen::Status(status) if passive.healthy.statuses.contains(&status) => {
                (Sign::Success, passive.healthy.successes)
            }
            Seen::Status(status) if passive.unhealthy.statuses.contains(&status) => {
                (Sign::HttpFailure, passive.unhealthy.http_failures)
            }
            Seen::Status(_) => return None,
            Seen::Broken => (Sign::TcpFailure, passive.unhealthy.tcp_failures),
            Seen::Late => (Sign::Timeout, passive.unhealthy.timeouts),
        };
        self.states.get(node)?.health.report(sign, limit)
    }

    /// Counts a request to a node for as long as what is returned is held, where it matters.
    pub fn begin(&self, index: usize) -> Option<Busy> {
        let counts = self.upstream.balance == Balance::LeastBusy;
        let state = self.states.get(index).filter(|_| counts)?;
        Some(state.begin())
    }

    /// Whether it matters how long a node takes to answer.
    pub fn measures(&self) -> bool {
        self.upstream.balance == Balance::Quicker
    }

    /// The head of a node's answer came, `took` after the node was turned to.
    pub fn answered(&self, index: usize, took: Duration, now: u64) {
        if let Some(state) = self.states.get(index) {
            state.answered(took, now);
        }
    }

    /// A number for spreading, not for secrets (splitmix64).
    fn draw(&self) -> u64 {
        let seed = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(seed);
        let mixed = (seed ^ seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// The name of a node, unless it is an address itself.
    pub fn name(&self, index: usize) -> Option<&Name> {
        self.names.get(index)?.as_ref()
    }

    /// The endpoint of a node, at one of its addresses, for a request to `authority`.
    pub fn endpoint(
        &self,
        index: usize,
        ip: Option<IpAddr>,
        authority: &Authority,
        pool: &Pool,
    ) -> Option<Rc<Endpoint>> {
        let upstream = &self.upstream;
        let node = upstream.nodes.get(index)?;
        let wanted = upstream.server_name(node, authority.host());
        {
            let endpoints = self.endpoints.borrow();
            let known = endpoints.iter().find(|endpoint| {
                endpoint.node == index
                    && endpoint.ip == ip
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
        let peer: Arc<str> = node.address().into();
        let name = wanted.map(ServerName::new);
        let key = PoolKey {
            peer: peer.clone(),
            ip,
            trust: upstream.trust.as_ref().map(|trust| trust.fingerprint),
            name: name.clone(),
            protocol: specs::protocol(upstream.scheme),
        };
        let endpoint = Rc::new(Endpoint {
            node: index,
            peer,
            ip,
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

fn host_value(upstream: &Upstream, node: &Node) -> Option<HeaderValue> {
    match &upstream.pass_host {
        PassHost::Pass => None,
        PassHost::Rewrite { host, .. } => text_value(host),
        PassHost::Node if node.port == upstream.scheme.default_port() => {
            text_value(&bracketed(&node.host))
        }
        PassHost::Node => text_value(&node.address()),
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
