//! Probes: handshakes with the nodes of an upstream as requests would make them, without a request.
//!
//! By resource alone, never to a free address. Each with a connector of its own, so that no session
//! is resumed and everything is judged anew.

mod verdict;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

use crate::control::build::{BuildError, connector};
use crate::control::{Control, Inner, discovery, on_blocking};
use crate::failure::chain;
use crate::matching::authority::{Authority, AuthorityError};
use crate::net::dial::{Dialer, Target};
use crate::net::look::Look;
use crate::net::resolve::{Answer, Name};
use crate::net::sweep::Sweep;
use crate::resource::{Id, Kind};
use crate::snapshot::{Node, PassHost, Upstream};
use crate::tls::material;
use crate::tls::upstream::{ServerName, UpstreamConnector};

pub use self::verdict::{Judged, Report};

/// The most nodes of one probe; the rest are counted.
pub const NODES: usize = 64;
/// How many of them are asked at once.
const AT_ONCE: usize = 8;
/// The longest time that TCP, and then TLS, may take, whatever the upstream's `timeout.connect`.
const LIMIT: Duration = Duration::from_secs(5);
/// How many probes may begin within [`WINDOW`].
const PROBES: usize = 20;
/// See [`PROBES`].
const WINDOW: Duration = Duration::from_secs(10);
/// How many probes go on at once; more wait.
const GOING_ON: usize = 2;

/// What is to be probed.
#[derive(Clone, Debug)]
pub struct Probe {
    /// [`Kind::Upstream`], [`Kind::Service`] or [`Kind::Route`].
    pub kind: Kind,
    /// Its id.
    pub id: Id,
    /// The host that a client would ask for; a route's own, where it has one.
    pub host: Option<String>,
}

/// Why nothing was probed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// There is no such object.
    #[error("Key not found")]
    NotFound,
    /// It leads nowhere.
    #[error("{0} has no upstream, so there is nothing to probe; give it one")]
    NoUpstream(String),
    /// The name depends on a request.
    #[error(
        "{0} is asked for the host that a client asks for (`pass_host: pass`), which is the name \
         that TLS sends and checks: say which with `?host=NAME` (`a6 probe … --host NAME`), or set \
         `tls.server_name`"
    )]
    NoHost(String),
    /// A host that is none.
    #[error("`host` is no host name: {0}")]
    BadHost(AuthorityError),
    /// Too many.
    #[error(
        "there were {PROBES} probes within {} seconds, and that is the limit; try again in {} s",
        WINDOW.as_secs(), .0.as_secs().max(1)
    )]
    TooMany(Duration),
    /// The object changed while it was looked at.
    #[error("the object was changed at this moment; probe it again")]
    Changed,
    /// Its material cannot be made ready.
    #[error("its TLS configuration cannot be made ready; the log and `portcullis check` say why")]
    NotReady,
    /// The work failed; the log has the cause.
    #[error("internal error")]
    Internal,
}

/// How often probes begin, and how many go on.
pub(super) struct Turns {
    begun: Mutex<VecDeque<Instant>>,
    going_on: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            begun: Mutex::default(),
            going_on: Arc::new(Semaphore::new(GOING_ON)),
        }
    }
}

impl Turns {
    /// Counts one that begins now, or says how long to wait.
    fn begin(&self, now: Instant) -> Result<(), Duration> {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(first) = begun.front()
            && now.duration_since(*first) >= WINDOW
        {
            begun.pop_front();
        }
        match begun.front() {
            Some(first) if begun.len() >= PROBES => {
                Err(WINDOW.saturating_sub(now.duration_since(*first)))
            }
            _ => {
                begun.push_back(now);
                Ok(())
            }
        }
    }
}

impl Control {
    /// Shakes hands with every node that an object leads to, as requests to it would.
    ///
    /// On a thread of its own: neither what it computes nor what it waits for holds up others.
    ///
    /// # Errors
    /// [`ProbeError`]; what a node did is in the report.
    pub async fn probe(&self, probe: Probe) -> Result<Report, ProbeError> {
        let turns = &self.inner.probes;
        turns.begin(Instant::now()).map_err(ProbeError::TooMany)?;
        let turn = Arc::clone(&turns.going_on).acquire_owned().await;
        let turn = turn.map_err(|_closed| ProbeError::Internal)?;
        let probed = on_blocking(&self.inner, move |inner| {
            let _turn = turn;
            Ok(inner.probe(&probe))
        });
        // What fails here is the thread, and it is in the log.
        probed.await.unwrap_or(Err(ProbeError::Internal))
    }
}

impl Inner {
    fn probe(&self, probe: &Probe) -> Result<Report, ProbeError> {
        let (kind, id) = (probe.kind, &probe.id);
        let snapshot = self.live.load();
        if !snapshot.holds(kind, id) {
            return Err(ProbeError::NotFound);
        }
        let object = format!("{kind}/{id}");
        if let Some(reason) = snapshot.closed_route(kind, id) {
            return Ok(Report::closed(object, reason));
        }
        let Some(upstream) = snapshot.reached(kind, id) else {
            return Err(ProbeError::NoUpstream(object));
        };
        if let Some(reason) = upstream.closed {
            return Ok(Report::closed(object, reason));
        }
        let host = match &probe.host {
            Some(host) => Some(host.clone()),
            None => snapshot.exact_host(kind, id),
        };
        let depends = upstream.pass_host == PassHost::Pass
            && upstream
                .trust
                .as_ref()
                .is_some_and(|trust| trust.server_name.is_none());
        if depends && host.is_none() {
            return Err(ProbeError::NoHost(object));
        }
        let upstream = match discovery::name(&self.rules.resolver, &upstream) {
            None => upstream,
            Some(name) => match found(&name)? {
                Ok(answer) => discovery::with(&upstream, &answer),
                Err(why) => return Ok(Report::unresolved(object, &why)),
            },
        };
        let probed = Probed::new(self, &upstream, host.unwrap_or_default())?;
        let looks = run(self, &probed)?;
        let now = self.now_seconds();
        let nodes = looks.into_iter();
        let nodes = nodes.map(|(node, look)| verdict::judge(&probed, &node, look, now));
        Ok(Report::new(
            object,
            &upstream,
            nodes.collect(),
            upstream.nodes.len(),
        ))
    }
}

/// What is probed, and as whom.
pub(super) struct Probed<'a> {
    upstream: &'a Upstream,
    /// The host that a client would ask for.
    host: String,
    /// `None` in the clear.
    connector: Option<UpstreamConnector>,
    /// Subject of the certificate that we show.
    shown: Option<String>,
}

impl<'a> Probed<'a> {
    fn new(inner: &Inner, upstream: &'a Upstream, host: String) -> Result<Self, ProbeError> {
        let mut probed = Self {
            upstream,
            host,
            connector: None,
            shown: None,
        };
        let Some(trust) = &upstream.trust else {
            return Ok(probed);
        };
        let not_ready = |error: BuildError| {
            if let BuildError::Gone = error {
                return ProbeError::Changed;
            }
            let (owner, error) = (&upstream.owner, chain(&error));
            tracing::error!(kind = %owner.kind, id = %owner.id, error, "no connector for a probe");
            ProbeError::NotReady
        };
        let spec = inner.upstream_spec(&upstream.owner).map_err(not_ready)?;
        let built = connector(&spec).map_err(not_ready)?;
        if built.fingerprint != trust.fingerprint {
            return Err(ProbeError::Changed);
        }
        let identity = spec.identity.as_ref();
        probed.shown = identity.map(|pair| material::subject(&pair.chain.leaf));
        probed.connector = Some(built);
        Ok(probed)
    }

    /// The name that a node is asked for; `None` in the clear.
    fn name<'n>(&'n self, node: &'n Node) -> Option<&'n str> {
        self.upstream.server_name(node, &self.host)
    }

    async fn look(&self, dialer: &Dialer, node: Node) -> (Node, Look) {
        let name = self.name(&node).map(ServerName::new);
        let target = Target {
            host: &node.host,
            port: node.port,
            ip: None,
            peer: &node.address().into(),
            object: &self.upstream.owner.to_string(),
            tls: self.connector.as_ref().zip(name.as_ref()),
        };
        let limit = self.upstream.timeouts.connect.min(LIMIT);
        let look = dialer.look(&target, limit).await;
        (node, look)
    }
}

/// Where the nodes of a service are, or why that is not known. Blocks this thread.
fn found(name: &Name) -> Result<Result<Arc<Answer>, String>, ProbeError> {
    Ok(runtime()?.block_on(async {
        match tokio::time::timeout(LIMIT, name.answer()).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_elapsed) => Err(format!("no answer within {} s", LIMIT.as_secs())),
        }
    }))
}

fn runtime() -> Result<Runtime, ProbeError> {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| {
        tracing::error!(%error, "a probe got no runtime");
        ProbeError::Internal
    })
}

/// Looks at all nodes, in their order. Blocks this thread.
fn run(inner: &Inner, probed: &Probed<'_>) -> Result<Vec<(Node, Look)>, ProbeError> {
    let runtime = runtime()?;
    let looks = LocalSet::new().block_on(&runtime, async {
        let sweep = Sweep::new();
        tokio::task::spawn_local(sweep.clone().run(|| {}));
        let dialer = Dialer::new(sweep, inner.rules.own.clone(), inner.rules.resolver.clone());
        let dialer = dialer.counting(inner.metrics.clone());
        let nodes = probed.upstream.nodes.iter().take(NODES).cloned();
        let looks = nodes.map(|node| probed.look(&dialer, node));
        futures_util::stream::iter(looks)
            .buffered(AT_ONCE)
            .collect()
            .await
    });
    Ok(looks)
}

/// The host of a query, as a client's Host would be read.
///
/// # Errors
/// [`ProbeError::BadHost`].
pub fn host(text: &str) -> Result<String, ProbeError> {
    Authority::parse(text.as_bytes())
        .map(|authority| authority.host().to_owned())
        .map_err(ProbeError::BadHost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_begin_so_often_and_no_oftener() {
        let turns = Turns::default();
        let start = Instant::now();
        let at = |ms: u64| turns.begin(start + Duration::from_millis(ms));
        for _ in 0..PROBES {
            assert_eq!(at(1000), Ok(()));
        }
        assert_eq!(at(3000), Err(Duration::from_secs(8)));
        assert_eq!(at(10_999), Err(Duration::from_millis(1)));
        assert_eq!(at(11_000), Ok(()));
    }
}
