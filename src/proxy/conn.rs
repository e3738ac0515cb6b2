//! A client's connection as its requests, its worker's sweep and commands see it.

use std::borrow::Cow;
use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

use http::Uri;

use crate::failure::Reason;
use crate::matching::authority::Authority;
use crate::matching::sni::SniName;
use crate::proxy::authority::{LastHost, Reached};
use crate::proxy::error::Refusal;
use crate::proxy::forwarded::Via;
use crate::proxy::worker::Inbound;
use crate::snapshot::{Id, Name, Snapshot};
use crate::telemetry::access::{ClientFacts, Kept, Kind, Record};
use crate::tls::peer::{Accepted, ClientCertificate, Names};
use crate::tls::server::ServerContext;
use crate::tls::socket::Activity;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Between requests.
    Idle,
    /// Between requests, buffers freed.
    Parked,
    /// A request's head is awaited or being read.
    Head,
    /// A request is being served.
    Busy,
    /// HTTP is over; bytes are carried both ways.
    Tunnel,
}

/// What a connection is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Free what an idle connection does not need.
    Park,
    /// End now.
    Close,
    /// End now: the client kept us waiting.
    TimeOut,
    /// End after the request in flight.
    Drain,
}

/// What a TLS connection is pinned to.
#[derive(Debug)]
pub struct Pinned {
    /// Ssl id, policy and trust that the chain was last judged under.
    pub context: Arc<ServerContext>,
    /// The client's certificate.
    pub client: Option<ClientCertificate>,
    /// Whether the policy is met; an error only under a deferred one.
    pub verdict: Result<(), Reason>,
    /// What OpenSSL said of the chain in the handshake, where that did not pass.
    pub fault: Option<&'static str>,
}

impl Pinned {
    /// Pins the connection to what it was judged under now.
    pub fn pin(&mut self, context: Arc<ServerContext>, verdict: Result<(), Reason>) {
        self.context = context;
        self.verdict = verdict;
        self.fault = None;
    }
}

/// What a connection's handshake agreed on.
#[derive(Debug)]
pub struct Handshake {
    /// E.g. `TLSv1.3`.
    pub version: &'static str,
    /// OpenSSL's name.
    pub cipher: &'static str,
    /// OpenSSL's name of the key exchange's group.
    pub group: Option<Cow<'static, str>>,
    /// The protocol, where the client offered some.
    pub alpn: Option<&'static str>,
    /// Whether a session was resumed.
    pub resumed: bool,
}

/// What a connection carries that went over to another protocol.
#[derive(Debug)]
pub struct Tunnelled {
    /// The name that it was asked for.
    pub authority: Rc<Authority>,
    /// The target as the client sent it.
    pub uri: Uri,
}

/// A name as one snapshot has it.
struct LastName {
    version: u64,
    host: Box<str>,
    name: Option<Arc<Name>>,
}

/// What records say of a connection's TLS.
#[derive(Debug)]
struct TlsFacts {
    /// E.g. `TLSv1.3`.
    version: &'static str,
    /// OpenSSL's name.
    cipher: &'static str,
    /// Whether a session was resumed.
    resumed: bool,
    /// The ssl that served the handshake.
    ssl_id: Arc<str>,
    /// The client's certificate in words.
    client: Option<ClientFacts>,
}

/// A client's connection as its requests, its worker's sweep and commands see it.
pub struct Conn {
    /// The client.
    pub peer: SocketAddr,
    /// Our address that it reached.
    pub local: SocketAddr,
    /// What its requests say of it to upstreams.
    pub via: Via,
    /// The listener's name in records.
    pub listener: &'static str,
    /// What it is pinned to; `None` in the clear.
    pub pinned: Option<RefCell<Pinned>>,
    /// The server name as sent.
    pub sni: Option<Box<str>>,
    /// The last Host line.
    pub last_host: LastHost,
    /// The name of its last request.
    last_name: RefCell<Option<LastName>>,
    /// Requests that wait for their upstream, not for the client.
    waits: Cell<u32>,
    is_http2: Cell<bool>,
    is_established: Cell<bool>,
    in_flight: Cell<u32>,
    /// When an answer last moved, in the clock's milliseconds.
    progressed_at: Cell<u64>,
    tunnelled: RefCell<Option<Rc<Tunnelled>>>,
    /// Why its tunnel may not go on.
    revoked: RefCell<Option<Refusal>>,
    /// The body of its last request has not come to its end; over HTTP/1.1 alone.
    is_uploading: Cell<bool>,
    /// A request's body was given up before its end: hyper alone knows where the next one begins.
    leftover: Cell<bool>,
    /// The last request's answer is not over; over HTTP/1.1 alone.
    is_answering: Cell<bool>,
    /// What its handshake agreed on; `None` in the clear.
    pub handshake: Option<Handshake>,
    facts: OnceCell<Box<TlsFacts>>,
    kept: Kept,
    activity: Rc<Activity>,
    phase: Cell<Phase>,
    since: Cell<u64>,
    read_before: Cell<u64>,
    signal: Cell<Option<Signal>>,
    is_timed_out: Cell<bool>,
    /// Its client broke the rules of HTTP/2.
    is_violated: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Conn {
    pub(super) fn new(
        (peer, local): (SocketAddr, SocketAddr),
        inbound: &Inbound,
        activity: Rc<Activity>,
        mut accepted: Option<Accepted>,
    ) -> Rc<Self> {
        let handshake = accepted.as_mut().map(|accepted| Handshake {
            version: accepted.version,
            cipher: accepted.cipher,
            group: accepted.group.take(),
            alpn: accepted.alpn,
            resumed: accepted.resumed,
        });
        let via = Via::new(peer, inbound.local, accepted.is_some());
        let is_http2 = accepted.as_ref().is_some_and(|accepted| accepted.is_http2);
        let mut sni = None;
        let pinned = accepted.map(|accepted| {
            sni = accepted.sni;
            RefCell::new(Pinned {
                context: accepted.context,
                client: accepted.client,
                verdict: accepted.verdict,
                fault: accepted.fault,
            })
        });
        Rc::new(Self {
            peer,
            local,
            via,
            listener: inbound.name,
            pinned,
            sni,
            last_host: LastHost::default(),
            last_name: RefCell::default(),
            waits: Cell::new(0),
            progressed_at: Cell::new(activity.now()),
            tunnelled: RefCell::default(),
            revoked: RefCell::default(),
            is_uploading: Cell::new(false),
            leftover: Cell::new(false),
            is_answering: Cell::new(false),
            is_http2: Cell::new(is_http2),
            is_established: Cell::new(false),
            in_flight: Cell::new(0),
            handshake,
            facts: OnceCell::new(),
            kept: Kept::default(),
            phase: Cell::new(Phase::Head),
            since: Cell::new(activity.now()),
            read_before: Cell::new(0),
            activity,
            signal: Cell::new(None),
            is_timed_out: Cell::new(false),
            is_violated: Cell::new(false),
            waker: RefCell::new(None),
        })
    }

    /// Whether it is TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.pinned.is_some()
    }

    /// Whether HTTP/2 is spoken: several requests at once.
    #[must_use]
    pub fn is_http2(&self) -> bool {
        self.is_http2.get()
    }

    /// Whether the answer to a request that came over it is over.
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.is_established.get()
    }

    /// It turns out to speak HTTP/2.
    pub fn speaks_http2(&self) {
        self.is_http2.set(true);
    }

    /// The server name of its handshake as sent, else `fallback`; `None` in the clear.
    #[must_use]
    pub fn server_name<'a>(&'a self, fallback: Option<&'a SniName>) -> Option<&'a str> {
        self.pinned.as_ref()?;
        self.sni.as_deref().or(fallback.map(SniName::as_str))
    }

    /// What it stands for where a request names no host.
    #[must_use]
    pub fn reached<'a>(&'a self, fallback: Option<&'a SniName>) -> Option<Reached<'a>> {
        match self.pinned {
            Some(_) => self.server_name(fallback).map(Reached::Name),
            None => Some(Reached::Address(self.local)),
        }
    }

    /// The name that `host` leads to in `snapshot`, if one does. Looked up once for as long as both
    /// stay: clients ask for the same one again.
    pub fn name_in(&self, snapshot: &Snapshot, host: &str) -> Option<Arc<Name>> {
        let mut last = self.last_name.borrow_mut();
        if let Some(last) = &*last
            && last.version == snapshot.version
            && *last.host == *host
        {
            return last.name.clone();
        }
        let name = snapshot.names.find(host).cloned();
        *last = Some(LastName {
            version: snapshot.version,
            host: host.into(),
            name: name.clone(),
        });
        name
    }

    /// Whether it is pinned to this ssl.
    #[must_use]
    pub fn is_pinned_to(&self, ssl: &Id) -> bool {
        self.pinned
            .as_ref()
            .is_some_and(|pinned| *pinned.borrow().context.ssl_id == *ssl.as_str())
    }

    /// The clock's now, in milliseconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.activity.now()
    }

    /// When its client last said something, in the clock's milliseconds.
    #[must_use]
    pub fn heard_at(&self) -> u64 {
        self.activity.read_at()
    }

    /// What it is doing.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Whether no request is in flight.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !matches!(self.phase.get(), Phase::Busy | Phase::Tunnel)
    }

    /// What it carries as a tunnel, from the upstream's consent on.
    #[must_use]
    pub fn tunnelled(&self) -> Option<Rc<Tunnelled>> {
        self.tunnelled.borrow().clone()
    }

    /// It becomes a tunnel, or does not after all.
    pub fn tunnel(&self, of: Option<Tunnelled>) {
        self.tunnelled.replace(of.map(Rc::new));
    }

    /// Its client is not let in any more: the tunnel ends.
    pub fn revoke(&self, refusal: Refusal) {
        self.revoked.replace(Some(refusal));
        self.tell(Signal::Close);
    }

    /// Why its tunnel may not go on, with the detail for the record.
    #[must_use]
    pub fn revoked(&self) -> Option<(Reason, String)> {
        let revoked = self.revoked.borrow();
        let refusal = revoked.as_ref()?;
        Some((refusal.reason, refusal.detail.clone()))
    }

    /// Since when, in the clock's milliseconds.
    #[must_use]
    pub fn since(&self) -> u64 {
        self.since.get()
    }

    /// A request begins. It ends when every handle is gone: its answer was sent, and its body was
    /// read to the end or given up.
    pub fn begin(self: &Rc<Self>) -> InFlight {
        self.enter(Phase::Busy);
        self.is_uploading.set(false);
        self.is_answering.set(true);
        self.progress();
        self.share()
    }

    fn share(self: &Rc<Self>) -> InFlight {
        self.in_flight.set(self.in_flight.get().saturating_add(1));
        InFlight(self.clone())
    }

    /// A request waits for its upstream, until the handle is dropped.
    pub fn waiting(self: &Rc<Self>) -> Waiting {
        self.waits.set(self.waits.get().saturating_add(1));
        Waiting(self.clone())
    }

    /// An answer moved.
    pub fn progress(&self) {
        self.progressed_at.set(self.activity.now());
    }

    /// The request under way has a body, which is to be read to its end.
    pub fn begin_body(&self) {
        self.is_uploading.set(true);
    }

    /// It was read to its end, maybe by another task: the connection's own looks after its client from
    /// here on. In HTTP/2 it does so all the time.
    pub fn end_body(&self) {
        self.is_uploading.set(false);
        if !self.is_http2.get()
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }

    /// Whether a request is served that came to its end: the client has no more to say.
    #[must_use]
    pub fn awaits_answer(&self) -> bool {
        self.phase.get() == Phase::Busy && !self.is_uploading.get()
    }

    /// A request's body was given up before its end.
    pub fn leave_body(&self) {
        self.leftover.set(true);
    }

    /// Whether a body was given up before its end: the client may still be sending it.
    #[must_use]
    pub fn has_leftover(&self) -> bool {
        self.leftover.get()
    }

    /// The answer to the last request is over, or there will be none.
    pub fn end_answer(&self) {
        self.is_answering.set(false);
        self.is_established.set(true);
    }

    /// Whether the last request's answer is being made or sent. One that came early may be over before
    /// its request is.
    #[must_use]
    pub fn is_answering(&self) -> bool {
        self.is_answering.get()
    }

    /// Whether it may be parked: what hyper knows of it beyond its buffer is nothing.
    #[must_use]
    pub fn may_park(&self) -> bool {
        (self.is_http2.get() || !self.leftover.get()) && !self.is_blocked()
    }

    /// Whether nothing is under way: no request, no answer that the client has yet to take.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.in_flight.get() == 0 && !self.is_blocked()
    }

    /// Goes over to another phase.
    pub fn enter(&self, phase: Phase) {
        // Parking does not make an idle connection younger.
        if !(self.phase.get() == Phase::Idle && phase == Phase::Parked) {
            self.since.set(self.activity.now());
        }
        self.phase.set(phase);
        if phase == Phase::Idle {
            self.read_before.set(self.activity.read_bytes());
        }
    }

    /// Whether bytes came since it became idle: the next request has begun.
    #[must_use]
    pub fn began_to_read(&self) -> bool {
        self.activity.read_bytes() != self.read_before.get()
    }

    /// Whether it was given up because the client sent too many KeyUpdates.
    #[must_use]
    pub fn is_flooded(&self) -> bool {
        self.activity.is_flooded()
    }

    /// Whether an answer waits for the client to take it.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.activity.is_blocked()
    }

    /// Whether a client takes nothing of its answers for `limit`, and gives nothing of its bodies.
    #[must_use]
    pub fn stalls(&self, now: u64, limit: u64) -> bool {
        if self.is_http2.get() {
            // Its streams have limits of their own; what is left is a client that takes nothing.
            return self.is_blocked() && now.saturating_sub(self.activity.written_at()) > limit;
        }
        let moved = self
            .activity
            .written_at()
            .max(self.activity.read_at())
            .max(self.progressed_at.get());
        self.waits.get() == 0 && now.saturating_sub(moved) > limit
    }

    /// Tells the connection's task something.
    pub fn tell(&self, signal: Signal) {
        // A request to end is not taken back by one to park.
        if signal == Signal::Park && self.signal.get().is_some() {
            return;
        }
        self.signal.set(Some(signal));
        if signal == Signal::TimeOut {
            self.is_timed_out.set(true);
        }
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// It ends because its client broke the rules of HTTP/2; its requests end for that. Whether that is news.
    pub fn end_by_violation(&self) -> bool {
        !self.is_violated.replace(true)
    }

    /// Why a request of it ends unfinished: it was cut off by us, or by the client.
    #[must_use]
    pub fn end_reason(&self) -> Reason {
        if self.is_timed_out.get() {
            Reason::ClientTimeout
        } else if self.is_violated.get() {
            Reason::Http2Violation
        } else {
            Reason::ClientGone
        }
    }

    pub(super) fn heed(&self, cx: &Context<'_>) -> Option<Signal> {
        let mut waker = self.waker.borrow_mut();
        if !waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            *waker = Some(cx.waker().clone());
        }
        self.signal.take()
    }

    /// A record that says what there is to say of the connection.
    #[must_use]
    pub fn record(&self, at_millis: u64) -> Record<'_> {
        let mut record = Record::new(Kind::Request, at_millis, self.listener, self.peer);
        record.kept = Some(&self.kept);
        record.sni = self.sni.as_deref().map(str::as_bytes);
        if let Some(tls) = self.tls_facts() {
            record.tls_version = Some(tls.version);
            record.cipher = Some(tls.cipher);
            record.resumed = Some(tls.resumed);
            record.client = tls.client.as_ref();
            record.ssl_id = Some(&tls.ssl_id);
        }
        record
    }

    /// Made on first use.
    fn tls_facts(&self) -> Option<&TlsFacts> {
        let pinned = self.pinned.as_ref()?;
        let handshake = self.handshake.as_ref()?;
        let facts = self.facts.get_or_init(|| {
            let pinned = pinned.borrow();
            let client = pinned.client.as_ref();
            Box::new(TlsFacts {
                version: handshake.version,
                cipher: handshake.cipher,
                resumed: handshake.resumed,
                ssl_id: pinned.context.ssl_id.clone(),
                client: client.map(|client| client_facts(client.names())),
            })
        });
        Some(facts)
    }
}

/// What records say of a certificate.
pub(super) fn client_facts(names: &Names) -> ClientFacts {
    ClientFacts::new(
        names.subject.clone(),
        names.issuer.clone(),
        names.serial.clone(),
        names.not_after,
    )
}

/// A request under way, as those see it that carry a part of it.
pub struct InFlight(Rc<Conn>);

impl Clone for InFlight {
    fn clone(&self) -> Self {
        self.0.share()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let left = self.0.in_flight.get().saturating_sub(1);
        self.0.in_flight.set(left);
        if left == 0 {
            self.0.enter(Phase::Idle);
        }
    }
}

impl InFlight {
    /// The connection it is on.
    #[must_use]
    pub fn conn(&self) -> &Rc<Conn> {
        &self.0
    }
}

/// A request that waits for its upstream; see [`Conn::waiting`].
pub struct Waiting(Rc<Conn>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waits.set(self.0.waits.get().saturating_sub(1));
        self.0.progress();
    }
}

#[cfg(test)]
mod tests {
    use prometheus::IntGauge;

    use super::*;
    use crate::tls::socket::Clock;

    #[test]
    fn connection_is_established_when_a_request_over_it_is_over() {
        let local = SocketAddr::from(([127, 0, 0, 1], 80));
        let inbound = Inbound {
            name: "http",
            local,
            acceptor: None,
            gauge: IntGauge::new("open", "connections").unwrap(),
        };
        let activity = Activity::new(Clock::default());
        let conn = Conn::new((local, local), &inbound, activity, None);
        // As HTTP/2 has them: several come before one is over, and a stream's handle is not its request's.
        let requests = [(); 2].map(|()| conn.begin());
        drop(conn.begin());
        assert!(!conn.is_established());
        conn.end_answer();
        assert!(conn.is_established());
        drop(requests);
        assert!(conn.is_established() && conn.is_idle());
    }
}
