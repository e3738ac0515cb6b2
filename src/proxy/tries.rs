//! The tries of a request: which node is asked, over which connection, how often, how long.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Uri};
use smallvec::SmallVec;

use crate::failure::Reason;
use crate::matching::authority::Authority;
use crate::net::dial::Target;
use crate::net::resolve::{self, Name};
use crate::proxy::answer::Answer;
use crate::proxy::body::RequestBody;
use crate::proxy::error::Refusal;
use crate::proxy::exchange::{Sent, Terms, Unanswered, UpstreamConn, patience};
use crate::proxy::forwarded::Forwarded;
use crate::proxy::interim::Interim;
use crate::proxy::multiplex::Turn;
use crate::proxy::outcome::Outcome;
use crate::proxy::upstream::{self, Endpoint, Seen, Turns};
use crate::proxy::worker::Worker;
use crate::snapshot::{Timeouts, Upstream};
use crate::telemetry::health::Turned;
use crate::telemetry::metrics::{HandshakeEnd, Side};

/// The nodes that were tried.
type Tried = SmallVec<[usize; 4]>;

/// The tries of one request.
pub(super) struct Tries<'a> {
    pub(super) worker: &'a Rc<Worker>,
    pub(super) authority: &'a Authority,
    pub(super) upstream: &'a Arc<Upstream>,
    pub(super) timeouts: Timeouts,
    /// What the upstream may go over to.
    pub(super) protocols: Option<&'a HeaderValue>,
    pub(super) hash: u32,
    /// The target, where it is not the client's.
    pub(super) target: Option<&'a Uri>,
    /// What its head has beside its headers.
    pub(super) forwarded: Option<&'a Forwarded>,
    /// Who is told what comes before an answer.
    pub(super) interim: &'a Interim<'a>,
}

impl Tries<'_> {
    /// Tries nodes in turn until one answers, within the upstream's retries.
    pub(super) async fn run(
        &self,
        req: &mut Option<Request<RequestBody>>,
        outcome: &mut Outcome,
    ) -> Result<Answer, Refusal> {
        // By the system's clock: the worker's is a tenth of a second behind, which is a try more or less.
        let deadline = self.upstream.retry_timeout;
        let deadline = deadline.and_then(|limit| Instant::now().checked_add(limit));
        let resolver = &self.worker.dialer.resolver;
        let turns = self.worker.upstreams.turns(self.upstream, resolver);
        let mut tried = Tried::new();
        let mut last: Option<Refusal> = None;
        let mut is_cut_short = false;
        for attempt in 0..=self.upstream.retries {
            if attempt > 0 && deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                is_cut_short = true;
                break;
            }
            let Some(node) = self.next(&turns, &mut tried) else {
                is_cut_short = true;
                break;
            };
            // A try before this one is over.
            outcome.busy = turns.begin(node);
            let began = turns.measures().then(Instant::now);
            if attempt > 0 {
                self.worker.metrics.upstream_retries.inc();
            }
            let more = attempt < self.upstream.retries;
            match self.at_node(&turns, node, req, outcome, more).await {
                Ok(answer) => {
                    self.observe(&turns, node, Seen::Status(answer.status()));
                    if let Some(began) = began {
                        let now = self.worker.epoch_millis();
                        turns.answered(node, began.elapsed(), now);
                    }
                    return Ok(answer);
                }
                Err(TryError { refusal, .. }) => {
                    if let Some(seen) = seen(refusal.reason) {
                        self.observe(&turns, node, seen);
                    }
                    outcome.failed_try(&refusal);
                    let is_over = req.is_none() || !may_go_elsewhere(refusal.reason);
                    last = Some(refusal);
                    if is_over {
                        break;
                    }
                }
            }
        }
        Err(match last {
            None if self.upstream.nodes.is_empty() => Reason::NoNode.into(),
            None => Reason::NoWeight.into(),
            // Tries were left, and none could be made. (APISIX: its balancer's 502.)
            Some(late) if is_cut_short && late.reason == Reason::UpstreamTimeout => {
                Refusal::new(Reason::UpstreamRetriesOver, late.detail)
            }
            Some(refusal) => refusal,
        })
    }

    /// What a try tells of its node's health.
    fn observe(&self, turns: &Turns, node: usize, seen: Seen) {
        if let Some(is_up) = turns.observe(node, seen)
            && let Some(node) = self.upstream.nodes.get(node)
        {
            let (owner, address) = (&self.upstream.owner, node.address());
            let turned = Turned {
                kind: owner.kind.singular(),
                id: owner.id.as_str(),
                node: &address,
                by: "passive",
                is_up,
            };
            turned.tell(&self.worker.metrics);
        }
    }

    fn next(&self, turns: &Turns, tried: &mut Tried) -> Option<usize> {
        // A single node may be tried again.
        if self.upstream.nodes.len() == 1 {
            tried.clear();
        }
        let index = turns.pick(
            tried,
            &upstream::Asked {
                hash: self.hash,
                now: || self.worker.epoch_millis(),
            },
        )?;
        tried.push(index);
        Some(index)
    }

    /// One try at one node; whether there may be `more`. Where its name has several addresses and one
    /// takes no connection, the next one is asked.
    async fn at_node(
        &self,
        turns: &Turns,
        node: usize,
        req: &mut Option<Request<RequestBody>>,
        outcome: &mut Outcome,
        more: bool,
    ) -> Result<Answer, TryError> {
        let name = turns.name(node);
        let answer = match name {
            None => None,
            Some(name) => match name.now() {
                Some(answer) => Some(answer),
                None => {
                    let resolved = Box::pin(self.resolve(name)).await;
                    if resolved.is_err() {
                        let pool = &self.worker.pool;
                        outcome.endpoint = turns.endpoint(node, None, self.authority, pool);
                    }
                    Some(resolved?)
                }
            },
        };
        let mut ips = answer.as_ref().map(|answer| answer.in_turn());
        let mut last = Reason::NoNode.into();
        loop {
            let ip = ips.as_mut().map(Iterator::next);
            let endpoint = match ip {
                Some(None) => None,
                None | Some(Some(_)) => {
                    turns.endpoint(node, ip.flatten(), self.authority, &self.worker.pool)
                }
            };
            let Some(endpoint) = endpoint else {
                return Err(TryError::unsent(last));
            };
            outcome.endpoint = Some(endpoint.clone());
            match self.once(&endpoint, req, outcome, more).await {
                Err(TryError { refusal, sent, .. })
                    if sent == Sent::Nothing && ip.is_some() && takes_no_connection(&refusal) =>
                {
                    last = refusal;
                }
                done => return done,
            }
        }
    }

    /// Where a name leads, in the time that a connection may take.
    async fn resolve(&self, name: &Name) -> Result<Arc<resolve::Answer>, TryError> {
        let sweep = &self.worker.sweep;
        let until = sweep.after(self.timeouts.connect);
        let refusal = match sweep.within(until, Box::pin(name.answer())).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => Refusal::new(Reason::UpstreamUnresolvable, error.to_string()),
            Err(_expired) => Refusal::new(
                Reason::UpstreamTimeout,
                "its name was not resolved within `timeout.connect`",
            ),
        };
        Err(TryError::unsent(refusal))
    }

    /// One try at one node. A kept connection that turns out to be dead costs no try.
    async fn once(
        &self,
        endpoint: &Rc<Endpoint>,
        req: &mut Option<Request<RequestBody>>,
        outcome: &mut Outcome,
        more: bool,
    ) -> Result<Answer, TryError> {
        // Over HTTP/2 it is said beside the headers.
        if let (Some(host), Some(req), false) = (
            &endpoint.host,
            req.as_mut(),
            self.upstream.scheme.is_http2(),
        ) {
            req.headers_mut().insert(HOST, host.clone());
        }
        // What one dead connection may have swallowed is repeated once, over a fresh one.
        let mut only_fresh = false;
        loop {
            let waiting = if only_fresh {
                None
            } else {
                endpoint.bucket.take()
            };
            let (upstream, kept) = match waiting {
                Some(upstream) => (upstream, true),
                // Boxed, as all that is rare: it would make each request's future large.
                None => match Box::pin(self.open(endpoint)).await {
                    Ok(opened) => opened,
                    Err(refusal) => return Err(TryError::unsent(refusal)),
                },
            };
            let more = more || kept;
            match self.send(upstream, endpoint, req, outcome, more).await {
                Err(TryError {
                    refusal,
                    sent,
                    is_dead,
                }) if kept
                    && req.is_some()
                    && may_go_elsewhere(refusal.reason)
                    && (sent == Sent::Nothing || is_dead) =>
                {
                    only_fresh = sent == Sent::Something;
                }
                done => return done,
            }
        }
    }

    /// A connection to a node: a fresh one, or a place on one that another request opened, and
    /// whether it is that.
    async fn open(&self, endpoint: &Endpoint) -> Result<(Box<UpstreamConn>, bool), Refusal> {
        if !self.upstream.scheme.is_http2() {
            return Ok((self.connect(endpoint).await?, false));
        }
        let bucket = &endpoint.bucket;
        let until = self.worker.sweep.after(self.timeouts.connect);
        loop {
            let opening = match bucket.many().turn(bucket) {
                Turn::Ours(opener) => {
                    let opened = self.connect(endpoint).await;
                    if opened.is_err() {
                        opener.fail();
                    }
                    return Ok((opened?, false));
                }
                Turn::Others(opening) => opening,
            };
            match self
                .worker
                .sweep
                .within(until.clone(), opening.ended())
                .await
            {
                Ok(has_failed) if has_failed => {
                    return Ok((self.connect(endpoint).await?, false));
                }
                Ok(_) => {}
                Err(expired) => {
                    return Err(Refusal::new(Reason::UpstreamTimeout, expired.to_string()));
                }
            }
            if let Some(upstream) = bucket.take() {
                return Ok((upstream, true));
            }
        }
    }

    /// Opens a connection to a node.
    async fn connect(&self, endpoint: &Endpoint) -> Result<Box<UpstreamConn>, Refusal> {
        let Some(node) = self.upstream.nodes.get(endpoint.node) else {
            return Err(Reason::NoNode.into());
        };
        let connector = match &self.upstream.trust {
            Some(trust) => Some(
                self.worker
                    .connector(&trust.fingerprint, &self.upstream.owner)
                    .await?,
            ),
            None => None,
        };
        let tls = connector.as_deref().zip(endpoint.name.as_ref());
        let target = Target {
            host: &node.host,
            port: node.port,
            ip: endpoint.ip,
            peer: &endpoint.peer,
            object: &self.upstream.owner.to_string(),
            tls,
        };
        let until = self.worker.sweep.after(self.timeouts.connect);
        let dialled = self.worker.dialer.dial(&target, until.clone()).await;
        if tls.is_some() {
            let end = match &dialled {
                Ok(stream) if stream.is_resumed() => HandshakeEnd::Resumed,
                Ok(_) => HandshakeEnd::Full,
                Err(_) => HandshakeEnd::Failed,
            };
            self.worker.metrics.handshake(Side::Upstream, end);
        }
        let stream = dialled.map_err(|error| Refusal::new(error.reason, error.detail))?;
        let has_identity = connector.is_some_and(|connector| connector.has_identity);
        if self.upstream.scheme.is_http2() {
            let (bucket, sweep) = (endpoint.bucket.clone(), &self.worker.sweep);
            let stock = &self.worker.stock;
            let opening = UpstreamConn::open_many(stream, bucket, has_identity, sweep, stock);
            return match sweep.within(until, opening).await {
                Ok(opened) => opened.map_err(|(reason, detail)| Refusal::new(reason, detail)),
                Err(_expired) => Err(Refusal::new(
                    Reason::UpstreamTimeout,
                    "its HTTP/2 settings did not come in time",
                )),
            };
        }
        let bucket = endpoint.bucket.clone();
        Ok(UpstreamConn::open(stream, bucket, has_identity))
    }

    /// Sends the request over a connection and reads the answer's head. Where there is none and
    /// the request may be sent again, and there may be `more` tries, it is back in `req`.
    async fn send(
        &self,
        mut upstream: Box<UpstreamConn>,
        endpoint: &Endpoint,
        req: &mut Option<Request<RequestBody>>,
        outcome: &mut Outcome,
        more: bool,
    ) -> Result<Answer, TryError> {
        let has_body = req.as_ref().is_some_and(|req| !req.body().is_empty());
        // Over HTTP/1.1 what has no body stays here, to be repeated.
        let is_many = self.upstream.scheme.is_http2();
        let stays = !is_many && !has_body;
        let repeats = more && is_idempotent(&outcome.method);
        // Over HTTP/2 an upstream may refuse what it did not look at, whatever method and body.
        let copies = !stays && (repeats || more && is_many);
        // A stream gives the headers back that it was begun with.
        let copy = req.as_ref().filter(|_| copies && !is_many);
        let copy = copy.map(|req| lines_of(req.headers()));
        let kept = req.as_mut().filter(|_| copies && has_body);
        let kept = kept.map(|req| req.body_mut().keep());
        let patience = patience(if has_body {
            self.timeouts.send.max(self.timeouts.read)
        } else {
            self.timeouts.read
        });
        outcome.upstream_started = Some(Instant::now());
        let sweep = &self.worker.sweep;
        let terms = Terms {
            host: endpoint.host.as_ref(),
            forwarded: self.forwarded,
            patience,
            interim: self.interim,
        };
        let unanswered = match upstream.exchange(req, terms, sweep).await {
            Ok(status) => {
                // What was answered is not sent again.
                *req = None;
                let answer = self.answer(upstream, status, endpoint, patience).await;
                return answer.map_err(|refusal| TryError {
                    refusal,
                    sent: Sent::Something,
                    is_dead: false,
                });
            }
            Err(unanswered) => unanswered,
        };
        let Unanswered {
            why,
            sent,
            is_begun,
            headers,
        } = unanswered;
        let may_repeat = repeats || why.is_refused();
        // What was sent of its body comes back when its connection is given up.
        let (reason, detail) = upstream.explain(&why);
        if sent == Sent::Something && !may_repeat {
            *req = None;
        } else if req.is_none()
            && copies
            && let Some(headers) = headers.or_else(|| copy.map(map_of))
        {
            let body = match kept {
                None => Some(RequestBody::empty(self.worker.sweep.clone())),
                Some(kept) => Box::pin(kept.wait(&self.worker.sweep)).await,
            };
            *req = body.map(|body| self.repeat(outcome, headers, body));
        }
        // Where an answer began, the request had come.
        let is_dead = reason == Reason::UpstreamReset && !is_begun && !why.is_of_one_stream();
        Err(TryError {
            refusal: Refusal::new(reason, detail),
            sent,
            is_dead,
        })
    }

    /// The request once more.
    fn repeat(
        &self,
        outcome: &Outcome,
        headers: HeaderMap,
        body: RequestBody,
    ) -> Request<RequestBody> {
        let mut req = Request::new(body);
        *req.method_mut() = outcome.method.clone();
        *req.uri_mut() = self.target.unwrap_or(&outcome.uri).clone();
        *req.headers_mut() = headers;
        req
    }
}

/// A request's headers while they may have to be sent again, which is rare: in a list, as a copy of the
/// map is dearer to make, and large enough for malloc to take its slow path.
type Lines = Vec<(HeaderName, HeaderValue)>;

fn lines_of(headers: &HeaderMap) -> Lines {
    let mut lines = Lines::with_capacity(headers.len());
    lines.extend(
        headers
            .iter()
            .map(|(name, line)| (name.clone(), line.clone())),
    );
    lines
}

fn map_of(lines: Lines) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, line) in lines {
        headers.append(name, line);
    }
    headers
}

/// Whether nobody was there to speak to.
fn takes_no_connection(refusal: &Refusal) -> bool {
    matches!(
        refusal.reason,
        Reason::UpstreamRefused | Reason::UpstreamUnreachable
    )
}

/// A try that gave no answer.
struct TryError {
    refusal: Refusal,
    sent: Sent,
    /// Its connection ended, and perhaps before the request came.
    is_dead: bool,
}

impl TryError {
    fn unsent(refusal: Refusal) -> Self {
        Self {
            refusal,
            sent: Sent::Nothing,
            is_dead: false,
        }
    }
}

/// RFC 9110 §9.2.2.
fn is_idempotent(method: &Method) -> bool {
    [
        Method::GET,
        Method::HEAD,
        Method::PUT,
        Method::DELETE,
        Method::OPTIONS,
    ]
    .contains(method)
}

/// What a failed try says of its node's health; `None` where the cause is not the node's: our
/// certificate, the client, what this gateway has not ready.
fn seen(reason: Reason) -> Option<Seen> {
    if reason == Reason::UpstreamTimeout {
        return Some(Seen::Late);
    }
    // A name that leads nowhere is the resolver's.
    let is_the_node_s = reason == Reason::UpstreamProtocolError
        || reason != Reason::UpstreamUnresolvable && may_go_elsewhere(reason);
    is_the_node_s.then_some(Seen::Broken)
}

/// Whether another node may do better. Where our certificate or the request is the cause, all
/// would answer alike.
fn may_go_elsewhere(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::UpstreamRefused
            | Reason::UpstreamUnreachable
            | Reason::UpstreamReset
            | Reason::UpstreamUnresolvable
            | Reason::UpstreamTimeout
            | Reason::UpstreamCaUnknown
            | Reason::UpstreamNameMismatch
            | Reason::UpstreamCertExpired
            | Reason::UpstreamCertNotYetValid
            | Reason::UpstreamCertInvalid
            | Reason::UpstreamCertRevoked
            | Reason::UpstreamCrlStale
            | Reason::UpstreamCrlMissing
            | Reason::UpstreamHandshakeFailed
            | Reason::UpstreamSpeaksPlaintext
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_that_is_sent_again_has_every_line_of_each_name_in_its_order() {
        let mut headers = HeaderMap::new();
        for (name, line) in [
            ("accept", "a"),
            ("x-one", "1"),
            ("accept", "b"),
            ("accept", "c"),
        ] {
            headers.append(name, HeaderValue::from_static(line));
        }
        let again = map_of(lines_of(&headers));
        assert_eq!(again, headers);
        let lines: Vec<_> = again.get_all("accept").iter().collect();
        assert_eq!(lines, ["a", "b", "c"]);
    }
}
