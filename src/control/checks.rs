//! Active checks of nodes: every node of an upstream with `checks` is asked, from control's thread.
//!
//! A set of checks per upstream, set up anew when the upstream is written and ended when it goes.
//! What is known of a node outlives both, in its [`NodeState`].

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{Request, StatusCode, Version};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::control::{Inner, build, discovery};
use crate::failure::Reason;
use crate::net::dial::{Dialer, Target};
use crate::net::http::{HttpError, ask_status};
use crate::net::resolve::{Answer, Name};
use crate::net::stream::Stream;
use crate::net::sweep::Sweep;
use crate::resource::Revision;
use crate::resource::checks::{CheckKind, Checks};
use crate::snapshot::health::{Sign, Vitals};
use crate::snapshot::nodes::NodeState;
use crate::snapshot::{Node, Owner, PassHost, Upstream, bracketed};
use crate::telemetry::health::Turned;
use crate::tls::material::Digest;
use crate::tls::upstream::ServerName;

/// How often a new snapshot is looked for.
const POLL: Duration = Duration::from_millis(100);
/// The shortest interval between two checks of a node.
const STEP: Duration = Duration::from_secs(1);

/// An upstream with checks, as an operator sees it.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The resource that holds it.
    pub owner: Owner,
    /// How its nodes are asked.
    pub kind: CheckKind,
    /// Its nodes, in the order given.
    pub nodes: Vec<CheckedNode>,
}

/// A node of a [`Checked`].
#[derive(Clone, Debug)]
pub struct CheckedNode {
    /// As configured.
    pub host: String,
    /// The port that is asked.
    pub port: u16,
    /// The name it is asked by, where `checks.active.host` says one.
    pub name: Option<String>,
    /// What is known of it.
    pub vitals: Vitals,
}

impl Inner {
    /// Every upstream with checks, and what is known of its nodes.
    pub(super) fn checked(&self) -> Vec<Checked> {
        let snapshot = self.live.load();
        let checked = snapshot.checked();
        let mut checked: Vec<_> = checked
            .filter_map(|upstream| {
                let name = discovery::name(&self.rules.resolver, &upstream);
                let upstream = discovery::now(name.as_ref(), upstream);
                let checks = upstream.checks.as_ref()?;
                let nodes = upstream.nodes.iter();
                let nodes = nodes.map(|node| CheckedNode {
                    host: node.host.clone(),
                    port: checks.active.port.unwrap_or(node.port),
                    name: checks.active.host.clone(),
                    vitals: upstream.states.of(&node.host, node.port).health.vitals(),
                });
                Some(Checked {
                    owner: upstream.owner.clone(),
                    kind: checks.active.kind,
                    nodes: once_each(nodes),
                })
            })
            .collect();
        checked.sort_by(|one, other| {
            let key = |checked: &Checked| (checked.owner.kind.plural(), checked.owner.id.clone());
            key(one).cmp(&key(other))
        });
        checked
    }
}

/// Nodes that are asked at one address, by `checks.active.port`, are told once, as in APISIX: as the
/// first of them that is down, if one is.
fn once_each(nodes: impl Iterator<Item = CheckedNode>) -> Vec<CheckedNode> {
    let mut places: HashMap<(String, u16), usize> = HashMap::new();
    let mut told: Vec<CheckedNode> = Vec::new();
    for node in nodes {
        let place = *places
            .entry((node.host.clone(), node.port))
            .or_insert(told.len());
        match told.get_mut(place) {
            None => told.push(node),
            Some(known) if !known.vitals.is_down && node.vitals.is_down => *known = node,
            Some(_) => {}
        }
    }
    told
}

/// What a set of checks was made of: another one is made when this is another.
#[derive(PartialEq, Eq)]
struct Made {
    revision: Revision,
    trust: Option<Digest>,
}

impl Made {
    fn of(upstream: &Upstream) -> Self {
        Self {
            revision: upstream.revision,
            trust: upstream.trust.as_ref().map(|trust| trust.fingerprint),
        }
    }
}

/// A running set of checks.
struct Running {
    made: Made,
    /// Where its nodes are found, with the answer that it was made of.
    found: Option<(Name, Option<Arc<Answer>>)>,
    _checks: JoinSet<()>,
}

impl Running {
    /// Whether its nodes are those that are found now.
    fn is_current(&self) -> bool {
        self.found.as_ref().is_none_or(|(name, answer)| {
            let now = name.now().as_ref().map(Arc::as_ptr);
            now == answer.as_ref().map(Arc::as_ptr)
        })
    }
}

/// Checks nodes for as long as control runs. On a `LocalSet`.
pub(super) async fn run(inner: &Arc<Inner>) {
    let sweep = Sweep::new();
    let mut own = JoinSet::new();
    own.spawn_local(sweep.clone().run(|| {}));
    let dialer = Dialer::new(sweep, inner.rules.own.clone(), inner.rules.resolver.clone());
    let dialer = Rc::new(dialer.counting(inner.metrics.clone()));
    let mut running: HashMap<Owner, Running> = HashMap::new();
    let mut seen = None;
    loop {
        let is_current = running.values().all(Running::is_current);
        if !is_current || seen != Some(inner.live.version()) {
            let snapshot = inner.live.load();
            seen = Some(snapshot.version);
            let mut next = HashMap::new();
            for upstream in snapshot.checked() {
                let made = Made::of(&upstream);
                let known = running.remove(&upstream.owner);
                let set = match known {
                    Some(set) if set.made == made && set.is_current() => set,
                    _ => set_up(inner, &dialer, &upstream, made),
                };
                next.insert(upstream.owner.clone(), set);
            }
            // What is left was replaced or is gone: dropping a set ends it. The new sets hold the
            // nodes' states by now.
            running = next;
        }
        sleep(POLL).await;
    }
}

/// One node's checks.
struct NodeCheck {
    inner: Arc<Inner>,
    dialer: Rc<Dialer>,
    upstream: Arc<Upstream>,
    checks: Arc<Checks>,
    node: Node,
    state: Arc<NodeState>,
    /// The node's address and the port asked.
    peer: Arc<str>,
    /// Checks of the upstream that may run at once.
    places: Rc<Semaphore>,
}

fn set_up(
    inner: &Arc<Inner>,
    dialer: &Rc<Dialer>,
    upstream: &Arc<Upstream>,
    made: Made,
) -> Running {
    let name = discovery::name(&inner.rules.resolver, upstream);
    let answer = name.as_ref().and_then(Name::now);
    let found = answer.as_ref();
    let upstream = found.map_or_else(
        || upstream.clone(),
        |answer| discovery::with(upstream, answer),
    );
    Running {
        made,
        found: name.map(|name| (name, answer)),
        _checks: start(inner, dialer, &upstream),
    }
}

fn start(inner: &Arc<Inner>, dialer: &Rc<Dialer>, upstream: &Arc<Upstream>) -> JoinSet<()> {
    let mut set = JoinSet::new();
    let Some(checks) = &upstream.checks else {
        return set;
    };
    let places = usize::try_from(checks.active.concurrency).unwrap_or(Semaphore::MAX_PERMITS);
    let places = Rc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)));
    for node in &upstream.nodes {
        let port = checks.active.port.unwrap_or(node.port);
        let check = NodeCheck {
            inner: inner.clone(),
            dialer: dialer.clone(),
            upstream: upstream.clone(),
            checks: checks.clone(),
            node: node.clone(),
            state: upstream.states.of(&node.host, node.port),
            peer: format!("{}:{port}", bracketed(&node.host)).into(),
            places: places.clone(),
        };
        set.spawn_local(check.run());
    }
    set
}

impl NodeCheck {
    async fn run(self) {
        loop {
            if let Ok(_place) = self.places.acquire().await
                && let Some(sign) = self.ask().await
            {
                self.report(sign);
            }
            self.pause().await;
        }
    }

    /// Waits for the next check. A request may turn the node meanwhile, and the other interval
    /// counts from then on; both are whole seconds.
    async fn pause(&self) {
        let active = &self.checks.active;
        let mut waited = Duration::ZERO;
        loop {
            sleep(STEP).await;
            waited += STEP;
            let interval = if self.state.health.is_up() {
                active.healthy_interval
            } else {
                active.unhealthy_interval
            };
            if waited >= interval {
                return;
            }
        }
    }

    fn report(&self, sign: Sign) {
        let active = &self.checks.active;
        let limit = match sign {
            Sign::Success => active.healthy.successes,
            Sign::HttpFailure => active.unhealthy.http_failures,
            Sign::TcpFailure => active.unhealthy.tcp_failures,
            Sign::Timeout => active.unhealthy.timeouts,
        };
        if let Some(is_up) = self.state.health.report(sign, limit) {
            let turned = Turned {
                kind: self.upstream.owner.kind.singular(),
                id: self.upstream.owner.id.as_str(),
                node: &self.peer,
                by: "active",
                is_up,
            };
            turned.tell(&self.inner.metrics);
        }
    }

    /// Asks once. `None`: the answer says neither, or the question could not be put for a reason
    /// of ours.
    async fn ask(&self) -> Option<Sign> {
        let active = &self.checks.active;
        match timeout(active.timeout, Box::pin(self.exchange())).await {
            Err(_elapsed) => Some(Sign::Timeout),
            Ok(Ok(None)) => Some(Sign::Success),
            Ok(Ok(Some(status))) if active.healthy.statuses.contains(&status.as_u16()) => {
                Some(Sign::Success)
            }
            Ok(Ok(Some(status))) if active.unhealthy.statuses.contains(&status.as_u16()) => {
                Some(Sign::HttpFailure)
            }
            Ok(Ok(Some(_other))) => None,
            Ok(Err(CheckError::Ours(reason))) => {
                tracing::debug!(node = %self.peer, %reason, "a check could not be made");
                None
            }
            Ok(Err(CheckError::Node(error))) => {
                tracing::debug!(node = %self.peer, %error, "a check failed");
                if error.reason() == Some(Reason::UpstreamTimeout) {
                    Some(Sign::Timeout)
                } else {
                    Some(Sign::TcpFailure)
                }
            }
        }
    }

    /// The status of the answer; `None` where a connection is all that is asked for.
    async fn exchange(&self) -> Result<Option<StatusCode>, CheckError> {
        let stream = self.open().await?;
        if self.checks.active.kind == CheckKind::Tcp {
            return Ok(None);
        }
        let request = self.request().ok_or(CheckError::Ours(Reason::Internal))?;
        let status = ask_status(stream, request).await;
        status.map(Some).map_err(CheckError::Node)
    }

    async fn open(&self) -> Result<Stream, CheckError> {
        let active = &self.checks.active;
        let connector = match &self.upstream.trust {
            Some(trust) if active.kind == CheckKind::Https => {
                let owner = &self.upstream.owner;
                let built = build::kept_connector(&self.inner, &trust.fingerprint, owner);
                let connector = built.await.map_err(CheckError::Ours)?;
                let name = self.server_name();
                let name = trust.server_name.as_deref().unwrap_or(name);
                Some((connector, ServerName::new(name)))
            }
            _ => None,
        };
        let tls = connector
            .as_ref()
            .map(|(connector, name)| (&**connector, name));
        let target = Target {
            host: &self.node.host,
            port: active.port.unwrap_or(self.node.port),
            ip: None,
            peer: &self.peer,
            object: &self.upstream.owner.to_string(),
            tls,
        };
        let until = self.dialer.after(active.timeout);
        let dialled = self.dialer.dial(&target, until).await;
        dialled.map_err(|error| CheckError::Node(error.into()))
    }

    /// The name sent and checked, unless `tls.server_name` has one.
    fn server_name(&self) -> &str {
        let named = self.checks.active.host.as_deref();
        match &self.upstream.pass_host {
            PassHost::Rewrite { name, .. } => named.unwrap_or(name),
            PassHost::Node | PassHost::Pass => {
                let name = named.unwrap_or(&self.node.host);
                // The dot that makes a name absolute for DNS is no part of it (RFC 6066 §3).
                name.strip_suffix('.').unwrap_or(name)
            }
        }
    }

    fn request(&self) -> Option<Request<Bytes>> {
        let active = &self.checks.active;
        let mut request = Request::new(Bytes::from(active.body.clone()));
        *request.method_mut() = active.method.clone();
        *request.uri_mut() = active.path.clone().into();
        *request.version_mut() = Version::HTTP_11;
        let host = match (&self.upstream.pass_host, &active.host) {
            (PassHost::Rewrite { host, .. }, None) => host.as_str(),
            (_, Some(host)) => host.as_str(),
            (PassHost::Node | PassHost::Pass, None) => &self.peer,
        };
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::try_from(host).ok()?);
        for (name, value) in &active.headers {
            if name == HOST {
                headers.insert(name, value.clone());
            } else {
                headers.append(name, value.clone());
            }
        }
        Some(request)
    }
}

/// Why a check has no answer.
enum CheckError {
    /// What it is made with could not be had.
    Ours(Reason),
    /// The node failed it.
    Node(HttpError),
}
