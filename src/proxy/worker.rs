//! A worker: one thread with its own runtime, listeners, connections, pools and clock.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::server::conn::http1;
use prometheus::IntGauge;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;

use crate::failure::Reason;
use crate::http2::Stock;
use crate::matching::sni::SniName;
use crate::net::dial::{Dialer, Forbidden};
use crate::net::handshake::{Lane, Turns};
use crate::net::listener;
use crate::net::resolve::Resolver;
use crate::net::sweep::{Sweep, TICK, millis};
use crate::proxy::ahead::Held;
use crate::proxy::authorize;
use crate::proxy::conn::{Conn, Signal};
use crate::proxy::connection;
use crate::proxy::date::Dates;
use crate::proxy::discovery::Discovered;
use crate::proxy::http2::Stream;
use crate::proxy::pool::Pool;
use crate::proxy::registry::Registry;
use crate::proxy::settings::Settings;
use crate::proxy::streams::Servants;
use crate::proxy::tunnel::CHUNK;
use crate::proxy::upstream::Upstreams;
use crate::snapshot::Id;
use crate::snapshot::link::{Ask, Command, WorkerLink};
use crate::snapshot::live::{Cached, Live, Local};
use crate::snapshot::{Owner, Snapshot};
use crate::telemetry::access::{AccessLog, Record};
use crate::telemetry::failures::Failures;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::negotiated::Counts;
use crate::tls::cache::Contexts;
use crate::tls::material::Digest;
use crate::tls::server::{ListenerAcceptor, ServerContext};
use crate::tls::upstream::UpstreamConnector;

/// Handshakes of one client that may wait for contexts to be built, per worker.
const BUILDS_PER_PEER: u32 = 64;
/// How many ticks pass between two sweeps of pools and upstreams.
const HOUSEKEEPING_TICKS: u64 = 10;
/// The header lines for which hyper has room without an allocation.
const HEADER_LINES: usize = 100;

/// A listening socket of a worker.
pub struct Inbound {
    /// The listener's name in records: `http` or `https`.
    pub name: &'static str,
    /// Its address.
    pub local: SocketAddr,
    /// For TLS.
    pub acceptor: Option<Arc<ListenerAcceptor>>,
    /// Its open connections.
    pub gauge: IntGauge,
}

/// What a worker is made of.
pub struct Parts {
    /// Its number, from 0.
    pub index: usize,
    /// Its settings.
    pub settings: Arc<Settings>,
    /// Where the snapshot is published.
    pub live: Arc<Live>,
    /// The shared caches of contexts.
    pub contexts: Arc<Contexts>,
    /// Its channels to and from control.
    pub link: WorkerLink,
    /// The process's places for handshakes.
    pub turns: Turns,
    /// Addresses it must not dial.
    pub forbidden: Arc<Forbidden>,
    /// The process's view of names.
    pub resolver: Resolver,
    /// Its sockets.
    pub listeners: Vec<(Inbound, StdListener)>,
    /// Where its records go.
    pub access: AccessLog,
    /// Whether records of successful requests are wanted.
    pub logs_access: bool,
    /// The ring of failures.
    pub failures: Arc<Failures>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Begins the ids of its requests; unique to the process's start.
    pub id_prefix: String,
    /// Called first on its thread.
    pub begins: fn(),
}

/// A worker's state, shared by the tasks of its thread.
pub struct Worker {
    /// Settings.
    pub settings: Arc<Settings>,
    /// The shared caches of contexts.
    pub contexts: Arc<Contexts>,
    /// Its clock and waits.
    pub sweep: Rc<Sweep>,
    /// Its dialer.
    pub dialer: Dialer,
    /// Its idle upstream connections.
    pub pool: Pool,
    /// What it remembers of upstreams.
    pub upstreams: Upstreams,
    /// What it remembers of upstreams whose nodes are found.
    pub discovered: Discovered,
    /// Its clients' connections.
    pub registry: Rc<Registry>,
    /// Its handshakes.
    pub handshakes: Lane,
    /// Its tasks for the streams of HTTP/2.
    pub streams: Rc<Servants<Stream>>,
    /// What its connections of HTTP/2 lend each other.
    pub stock: Rc<Stock>,
    /// How many bytes of bodies it holds that were read ahead.
    pub ahead: Held,
    /// What its answers over HTTP/2 are dated with.
    pub dates: Dates,
    /// How hyper serves HTTP/1.1 connections.
    pub http: http1::Builder,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// What its handshakes with clients agreed on.
    pub agreed_downstream: Arc<Counts>,
    /// The ids of its requests.
    pub ids: RequestIds,
    /// What is read into for as long as it takes to look at it, or to write it elsewhere.
    pub chunk: RefCell<Box<[u8]>>,
    /// The snapshot that its tunnels were judged by last.
    tunnels_judged: Cell<u64>,
    snapshot: RefCell<Cached>,
    asks: mpsc::Sender<Ask>,
    access: RefCell<AccessLog>,
    logs_access: bool,
    failures: Arc<Failures>,
    drains: Cell<bool>,
    is_over: Cell<bool>,
    // What this worker's part of the gauges is: active, idle.
    shown: Cell<(i64, i64)>,
    builds: Rc<RefCell<HashMap<IpAddr, u32>>>,
}

/// A handshake that waits for a context; see [`Worker::wait_for_build`].
pub struct Building {
    builds: Rc<RefCell<HashMap<IpAddr, u32>>>,
    peer: IpAddr,
}

impl Drop for Building {
    fn drop(&mut self) {
        let mut builds = self.builds.borrow_mut();
        if let Some(waiting) = builds.get_mut(&self.peer) {
            *waiting = waiting.saturating_sub(1);
            if *waiting == 0 {
                builds.remove(&self.peer);
            }
        }
    }
}

/// Makes ids: a prefix and a count.
pub struct RequestIds {
    prefix: String,
    count: Cell<u64>,
}

impl RequestIds {
    /// The next id.
    pub fn next(&self) -> String {
        let count = self.count.get().wrapping_add(1);
        self.count.set(count);
        let mut id = String::with_capacity(self.prefix.len() + "-0123456789abcdef".len());
        id.push_str(&self.prefix);
        id.push('-');
        push_hex(&mut id, count);
        id
    }
}

/// Appends as `{number:x}` does, which takes ten times as long.
fn push_hex(text: &mut String, number: u64) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [0; 16];
    let mut left = number;
    let mut count = 0;
    for digit in digits.iter_mut().rev() {
        let value = usize::try_from(left & 0xf).unwrap_or_default();
        *digit = DIGITS.get(value).copied().unwrap_or_default();
        left >>= 4;
        count += 1;
        if left == 0 {
            break;
        }
    }
    let digits = digits.get(digits.len() - count..).unwrap_or_default();
    text.push_str(str::from_utf8(digits).unwrap_or_default());
}

/// Starts a worker on its own thread; it ends after [`Command::Drain`].
///
/// # Errors
/// The system's, when no thread can be started.
pub fn spawn(parts: Parts) -> std::io::Result<JoinHandle<std::io::Result<()>>> {
    thread::Builder::new()
        .name(format!("worker-{}", parts.index))
        .spawn(move || {
            (parts.begins)();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            LocalSet::new().block_on(&runtime, run(parts))
        })
}

async fn run(parts: Parts) -> std::io::Result<()> {
    let sweep = Sweep::new();
    let mut http = http1::Builder::new();
    http.half_close(true)
        .header_read_timeout(None)
        // Of heads that are not all here, and of those that came at once.
        .max_buf_size(parts.settings.header_bytes)
        .max_header_size(parts.settings.header_bytes);
    if parts.settings.header_lines != HEADER_LINES {
        http.max_headers(parts.settings.header_lines);
    }
    let worker = Rc::new(Worker {
        contexts: parts.contexts,
        dialer: Dialer::new(sweep.clone(), parts.forbidden, parts.resolver)
            .counting(parts.metrics.clone()),
        pool: Pool::new(parts.settings.pooled),
        upstreams: Upstreams::default(),
        discovered: Discovered::default(),
        registry: Rc::default(),
        handshakes: Lane::new(parts.turns),
        streams: Rc::default(),
        stock: Stock::new(),
        ahead: Held::default(),
        dates: Dates::default(),
        http,
        agreed_downstream: parts.metrics.negotiated.counts("https"),
        metrics: parts.metrics,
        ids: RequestIds {
            prefix: parts.id_prefix,
            count: Cell::new(0),
        },
        chunk: RefCell::new(vec![0; CHUNK].into()),
        tunnels_judged: Cell::default(),
        snapshot: RefCell::new(Cached::new(parts.live)),
        asks: parts.link.asks,
        access: RefCell::new(parts.access),
        logs_access: parts.logs_access,
        failures: parts.failures,
        drains: Cell::new(false),
        is_over: Cell::new(false),
        shown: Cell::default(),
        builds: Rc::default(),
        settings: parts.settings,
        sweep,
    });
    let (stop, stopped) = watch::channel(false);
    for (inbound, socket) in parts.listeners {
        let listener = TcpListener::from_std(socket)?;
        let accepting = accept(worker.clone(), Rc::new(inbound), listener, stopped.clone());
        tokio::task::spawn_local(accepting);
    }
    let each = {
        let worker = worker.clone();
        let mut ticks = 0_u64;
        move || {
            ticks = ticks.wrapping_add(1);
            // Without its clock a worker has no limits any more.
            let kept = catch_unwind(AssertUnwindSafe(|| keep_house(&worker, ticks)));
            if kept.is_err() {
                tracing::error!("housekeeping panicked; it goes on with the next tick");
            }
        }
    };
    tokio::task::spawn_local(worker.sweep.clone().run(each));
    let mut commands = parts.link.commands;
    while let Some(command) = commands.recv().await {
        match command {
            Command::Judge(ssls) => judge(&worker, &ssls, Unclaimed::GoesOn),
            Command::Close(ssl) => judge(&worker, &[ssl], Unclaimed::Ends),
            Command::Halt => {
                let _ = stop.send(true);
            }
            Command::Drain => break,
        }
    }
    drain(&worker, &stop).await;
    Ok(())
}

/// What every tick does.
fn keep_house(worker: &Rc<Worker>, ticks: u64) {
    worker.registry.sweep(worker.sweep.now(), &worker.settings);
    judge_tunnels(worker);
    worker.access.borrow_mut().flush();
    worker.show_upstream_connections();
    if ticks.is_multiple_of(HOUSEKEEPING_TICKS) {
        worker.pool.sweep(worker.sweep.now());
        // First: what it holds, the other holds too.
        worker.discovered.sweep();
        worker.upstreams.sweep();
        worker.failures.sweep(worker.epoch_millis());
    }
}

/// Accepts connections on one socket until the worker stops.
async fn accept(
    worker: Rc<Worker>,
    inbound: Rc<Inbound>,
    listener: TcpListener,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        // A full worker leaves connections to the kernel's queue.
        while worker.registry.len() >= worker.settings.connections && !*stopped.borrow() {
            tokio::time::sleep(TICK).await;
        }
        let (tcp, peer) = tokio::select! {
            accepted = listener::accept(&listener) => accepted,
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        tokio::task::spawn_local(connection::run(worker.clone(), inbound.clone(), tcp, peer));
    }
}

/// What becomes of a connection for a name that nobody serves any more.
#[derive(Clone, Copy, Debug)]
enum Unclaimed {
    GoesOn,
    Ends,
}

/// Whether a connection may go on.
enum Verdict {
    Passes,
    /// Its client is not let in any more.
    Refused,
    /// Its name is nobody's.
    Unclaimed,
}

/// Has connections of these ssls judged by what serves their names now: those that do not pass are
/// ended. Busy ones are judged with their next request.
fn judge(worker: &Rc<Worker>, ssls: &[Id], unclaimed: Unclaimed) {
    for conn in worker
        .registry
        .matching(|conn| ssls.iter().any(|ssl| conn.is_pinned_to(ssl)))
    {
        let worker = worker.clone();
        tokio::task::spawn_local(async move { judge_one(&worker, &conn, unclaimed).await });
    }
}

async fn judge_one(worker: &Worker, conn: &Conn, unclaimed: Unclaimed) {
    loop {
        let snapshot = worker.snapshot();
        match (verdict(worker, conn, &snapshot).await, unclaimed) {
            (Verdict::Passes, _) | (Verdict::Unclaimed, Unclaimed::GoesOn) => {}
            // Judged by what was replaced meanwhile: its successor has the say.
            _ if worker.snapshot().version != snapshot.version => continue,
            (Verdict::Unclaimed, Unclaimed::Ends) => conn.tell(Signal::Drain),
            // A busy one gets 421 for its next request.
            (Verdict::Refused, _) if conn.is_idle() => conn.tell(Signal::Close),
            (Verdict::Refused, _) => {}
        }
        return;
    }
}

/// Has tunnels judged anew whenever another snapshot is served: no request of theirs will be. Their
/// client must still be let in for the name and path that they were opened for.
fn judge_tunnels(worker: &Rc<Worker>) {
    let version = worker.snapshot().version;
    if worker.tunnels_judged.replace(version) == version {
        return;
    }
    let tunnels = worker.registry.matching(|conn| conn.tunnelled().is_some());
    if tunnels.is_empty() {
        return;
    }
    let worker = worker.clone();
    tokio::task::spawn_local(async move {
        for conn in tunnels {
            let Some(of) = conn.tunnelled() else { continue };
            if let Err(refusal) = authorize::admit(&worker, &conn, &of.uri, &of.authority).await {
                conn.revoke(refusal);
            }
        }
    });
}

/// What becomes of a connection by the name it came for, as this snapshot has it.
async fn verdict(worker: &Worker, conn: &Conn, snapshot: &Snapshot) -> Verdict {
    let Some(pinned) = &conn.pinned else {
        return Verdict::Passes;
    };
    // Without a name the fallback stood for it; a trailing dot is no part of one.
    let sent = conn.server_name(worker.settings.fallback_sni.as_ref());
    let meant = sent.and_then(|sent| SniName::parse(sent.as_bytes()).ok());
    let Some(name) = meant.and_then(|meant| snapshot.names.find(meant.as_str())) else {
        return Verdict::Unclaimed;
    };
    let (same_policy, same_ssl) = {
        let context = &pinned.borrow().context;
        (
            context.policy.digest == name.policy.digest,
            *context.ssl_id == *name.ssl_id.as_str(),
        )
    };
    let passes = name.serving.is_ok()
        && (same_policy
            || !name.policy.asks()
            || same_ssl && authorize::rejudge(worker, conn, name).await.is_ok());
    if passes {
        Verdict::Passes
    } else {
        Verdict::Refused
    }
}

/// Stops accepting, lets requests in flight end, closes the rest.
async fn drain(worker: &Rc<Worker>, stop: &watch::Sender<bool>) {
    worker.drains.set(true);
    let _ = stop.send(true);
    for conn in worker.registry.matching(|_| true) {
        conn.tell(Signal::Drain);
    }
    let until = worker
        .sweep
        .now()
        .saturating_add(millis(worker.settings.drain));
    while !worker.registry.is_empty() && worker.sweep.now() < until {
        tokio::time::sleep(TICK / 10).await;
    }
    worker.is_over.set(true);
    worker.pool.clear();
    worker.failures.sweep(u64::MAX);
    worker.access.borrow_mut().flush();
}

impl Worker {
    /// The current snapshot.
    pub fn snapshot(&self) -> Local {
        self.snapshot.borrow_mut().current()
    }

    /// Whether it is ending.
    #[must_use]
    pub fn drains(&self) -> bool {
        self.drains.get()
    }

    /// Whether what is still under way is being cut off.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over.get()
    }

    /// Takes a place among the handshakes of one client that wait for a context to be built.
    ///
    /// # Errors
    /// `HandshakeOverload`, when that client has enough of them.
    pub fn wait_for_build(&self, peer: IpAddr) -> Result<Building, Reason> {
        let mut builds = self.builds.borrow_mut();
        let waiting = builds.entry(peer).or_default();
        if *waiting >= BUILDS_PER_PEER {
            return Err(Reason::HandshakeOverload);
        }
        *waiting += 1;
        Ok(Building {
            builds: self.builds.clone(),
            peer,
        })
    }

    /// Whether records of successful requests are wanted.
    #[must_use]
    pub fn logs_access(&self) -> bool {
        self.logs_access
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub fn epoch_millis(&self) -> u64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// Writes a record; a failure is counted and kept as well.
    pub fn record(&self, record: &Record<'_>) {
        if let Some(reason) = record.reason {
            self.metrics.failure(reason);
            self.failures.push(record, reason);
        }
        self.access.borrow_mut().write(record);
    }

    /// Brings the gauges of upstream connections up to date. They are the process's: each worker
    /// adds what changed.
    fn show_upstream_connections(&self) {
        let idle = self.pool.idle_count();
        let active = self.pool.open_count().saturating_sub(idle);
        let now = [active, idle].map(|count| i64::try_from(count).unwrap_or(i64::MAX));
        let [active, idle] = now;
        let (shown_active, shown_idle) = self.shown.replace((active, idle));
        self.metrics.upstream_active.add(active - shown_active);
        self.metrics.upstream_idle.add(idle - shown_idle);
    }

    /// The context of a name, built by control when it is not in the cache.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn server_context(
        &self,
        key: &Digest,
        ssl: &Id,
    ) -> Result<Arc<ServerContext>, Reason> {
        if let Some(context) = self.contexts.server(key) {
            return Ok(context);
        }
        let (key, ssl) = (*key, ssl.clone());
        self.ask(Reason::HandshakeOverload, |reply| Ask::Server {
            key,
            ssl,
            reply,
        })
        .await
    }

    /// The connector of an upstream, built by control when it is not in the cache.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn connector(
        &self,
        key: &Digest,
        owner: &Owner,
    ) -> Result<Arc<UpstreamConnector>, Reason> {
        if let Some(connector) = self.contexts.upstream(key) {
            return Ok(connector);
        }
        let wanted = (*key, owner.clone());
        let ask = |reply| Ask::Upstream {
            key: wanted.0,
            owner: wanted.1,
            reply,
        };
        let connector = self.ask(Reason::UpstreamNotReady, ask).await?;
        // What is opened with it is pooled under `key`: one of another trust must not be.
        if connector.fingerprint == *key {
            Ok(connector)
        } else {
            Err(Reason::UpstreamNotReady)
        }
    }

    /// Asks control; `full` when it has too much to do.
    async fn ask<T>(
        &self,
        full: Reason,
        ask: impl FnOnce(oneshot::Sender<Result<T, Reason>>) -> Ask,
    ) -> Result<T, Reason> {
        let (reply, answer) = oneshot::channel();
        self.asks.try_send(ask(reply)).map_err(|_full| full)?;
        answer.await.map_err(|_gone| Reason::ContextUnavailable)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    proptest! {
        #[test]
        fn hexadecimal_of_ours_is_the_library_s(number in any::<u64>(), shift in 0_u32..64) {
            for number in [number >> shift, 0] {
                let mut text = String::new();
                push_hex(&mut text, number);
                prop_assert_eq!(text, format!("{number:x}"));
            }
        }
    }
}
