//! The request spine: authority, authorisation, route, upstream, answer. Read top to bottom.

use std::convert::Infallible;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderMap,
    HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING,
};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use crate::failure::Reason;
use crate::matching::authority::Authority;
use crate::matching::route::{self, Parameters};
use crate::net::dial::Target;
use crate::net::resolve::{self, Name};
use crate::net::sweep::{Until, millis};
use crate::plugins::proxy_rewrite::Rewritten;
use crate::proxy::authority;
use crate::proxy::authorize;
use crate::proxy::body::{ReplyBody, RequestBody, Streamed, Upload};
use crate::proxy::conn::{Conn, Signal, Tunnelled};
use crate::proxy::error::{GRPC_STATUS, Refusal};
use crate::proxy::exchange::{AnswerBody, AnswerError, Sent, Unanswered, UpstreamConn, patience};
use crate::proxy::headers;
use crate::proxy::multiplex::Turn;
use crate::proxy::outcome::Outcome;
use crate::proxy::settings::Nginx400;
use crate::proxy::tunnel::{Handover, Tunnel};
use crate::proxy::upgrade::{self, Switched};
use crate::proxy::upstream::{self, Endpoint, Seen, Turns, default_port};
use crate::proxy::variables::{RequestVariables, RouteVariables};
use crate::proxy::worker::Worker;
use crate::snapshot::{Balance, Route, Snapshot, Timeouts, Upstream, UpstreamSource};
use crate::telemetry::health::Turned;
use crate::telemetry::metrics::{HandshakeEnd, Side};

const CLOSE: HeaderValue = HeaderValue::from_static("close");
/// The trailers of gRPC, for clients of HTTP/1.1.
const GRPC_TRAILERS: HeaderValue =
    HeaderValue::from_static("grpc-status, grpc-message, grpc-status-details-bin");
/// The status of the last upstream answer, shown when it is a 5xx, as APISIX does.
const UPSTREAM_STATUS: HeaderName = HeaderName::from_static("x-apisix-upstream-status");
/// The longest answer that can be nginx's own page.
const NGINX_PAGE_BYTES: u64 = 1024;

/// Serves one request. What goes wrong is an answer and a record. A tunnel, if it becomes one, is
/// left in `handover`.
///
/// # Errors
/// None.
pub fn handle(
    worker: Rc<Worker>,
    conn: Rc<Conn>,
    req: Request<Incoming>,
    handover: Handover,
) -> impl Future<Output = Result<Response<ReplyBody>, Infallible>> {
    let in_flight = conn.begin();
    let waiting = conn.waiting();
    let patience = millis(worker.settings.body_timeout);
    let req = req.map(|body| RequestBody::new(body, &in_flight, worker.sweep.clone(), patience));
    let upload = req.body().upload();
    let is_grpc = headers::is_grpc(req.headers());
    let client = Client {
        is_grpc,
        wants_announcement: is_grpc && !conn.is_http2() && takes_trailers(req.headers()),
    };
    let waits_for_100 = req.headers().contains_key(EXPECT);
    let mut outcome = Box::new(Outcome::begin(worker.clone(), in_flight, &req));
    // Held once: the functions below borrow it, until it is sent.
    let mut req = Some(req);
    async move {
        let answer = forward(&worker, &conn, &mut req, &mut outcome).await;
        drop(waiting);
        Ok(match answer {
            Ok(answer) => deliver(answer, client, &upload, &worker, conn, outcome, &handover),
            Err(refusal) => {
                let rest = Rest {
                    body: req.map(Request::into_body),
                    is_awaited: waits_for_100 && !upload.asked_for.get(),
                    upload: &upload,
                    is_grpc: client.is_grpc,
                };
                refuse(&refusal, rest, &conn, outcome)
            }
        })
    }
}

/// What is remembered of a request's head for its answer.
#[derive(Clone, Copy)]
struct Client {
    /// It is one of gRPC.
    is_grpc: bool,
    /// It speaks HTTP/1.1, and trailers must be announced to it.
    wants_announcement: bool,
}

/// Whether the client said that it understands trailers (RFC 9110 §10.1.4).
fn takes_trailers(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(TE).iter();
    let mut options = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','));
    options.any(|option| option.trim().eq_ignore_ascii_case("trailers"))
}

fn deliver(
    answer: Answer,
    client: Client,
    upload: &Upload,
    worker: &Worker,
    conn: Rc<Conn>,
    mut outcome: Box<Outcome>,
    handover: &Handover,
) -> Response<ReplyBody> {
    match answer {
        Answer::Streamed(resp, upstream, patience) => {
            let (mut head, mut incoming) = resp.into_parts();
            if !conn.is_http2() && upstream.ends && !upload.done.get() {
                // Nobody is left to carry the rest of the request's body to.
                head.headers.insert(CONNECTION, CLOSE);
            }
            if client.wants_announcement {
                // hyper writes those trailers that were announced.
                head.headers.insert(TRAILER, GRPC_TRAILERS);
            }
            outcome.answered(head.status);
            outcome.is_trailers_only = head.headers.contains_key(GRPC_STATUS);
            if let Some(whole) = incoming.take_whole() {
                upstream.put_back(&worker.sweep);
                let body = ReplyBody::whole(whole.unwrap_or_default(), outcome);
                return Response::from_parts(head, body);
            }
            let body = Streamed::new(incoming, upstream, outcome, conn, &worker.sweep, patience);
            Response::from_parts(head, ReplyBody::Streamed(Box::new(body)))
        }
        Answer::Whole(mut resp) => {
            if !conn.is_http2() && !upload.done.get() {
                resp.headers_mut().insert(CONNECTION, CLOSE);
            }
            outcome.answered(resp.status());
            resp.map(|bytes| ReplyBody::whole(bytes, outcome))
        }
        Answer::Switched(resp, upstream, timeouts) => {
            outcome.answered(resp.status());
            handover.replace(Some(Tunnel::new(upstream, outcome, timeouts)));
            resp.map(|()| ReplyBody::Nothing(conn))
        }
    }
}

fn refuse(
    refusal: &Refusal,
    rest: Rest<'_>,
    conn: &Conn,
    mut outcome: Box<Outcome>,
) -> Response<ReplyBody> {
    let mut reply = if rest.is_grpc {
        refusal.reply_to_grpc(outcome.request_id())
    } else {
        refusal.reply(outcome.request_id())
    };
    if !conn.is_http2() {
        rest.settle(reply.headers_mut());
    } else if reply.headers_mut().remove(CONNECTION).is_some()
        && refusal.reason != Reason::ClientTimeout
    {
        // A body that stalls is its stream's own affair; else what `Connection: close` says in
        // HTTP/1.1 is GOAWAY in HTTP/2.
        conn.tell(Signal::Drain);
    }
    outcome.refused(refusal);
    reply.map(|bytes| ReplyBody::whole(bytes, outcome))
}

/// What is left of a body whose request is refused.
struct Rest<'a> {
    /// `None`, once it was on its way to an upstream.
    body: Option<RequestBody>,
    /// The client waits for a word to send it.
    is_awaited: bool,
    upload: &'a Upload,
    /// Its client understands gRPC.
    is_grpc: bool,
}

impl Rest<'_> {
    /// As in nginx the rest is read and thrown away, and the connection serves on. Where it cannot
    /// be, because somebody read a part of it or the client waits for a word to send it, the
    /// connection ends after the answer, which says so in `headers`.
    fn settle(self, headers: &mut HeaderMap) {
        match self.body {
            _ if self.upload.done.get() => {}
            Some(rest) if !headers.contains_key(CONNECTION) && !self.is_awaited => rest.discard(),
            _ => {
                headers.insert(CONNECTION, CLOSE);
            }
        }
    }
}

/// An upstream's answer, ready for the client.
enum Answer {
    /// To be streamed, with the longest wait between two reads.
    Streamed(Response<AnswerBody>, UpstreamConn, u64),
    /// Read whole to be looked at.
    Whole(Response<Bytes>),
    /// The upstream goes over to another protocol; with its time-outs.
    Switched(Response<()>, Switched, Timeouts),
}

impl Answer {
    fn status(&self) -> u16 {
        match self {
            Self::Streamed(resp, ..) => resp.status().as_u16(),
            Self::Whole(resp) => resp.status().as_u16(),
            Self::Switched(resp, ..) => resp.status().as_u16(),
        }
    }
}

async fn forward(
    worker: &Rc<Worker>,
    conn: &Rc<Conn>,
    request: &mut Option<Request<RequestBody>>,
    outcome: &mut Outcome,
) -> Result<Answer, Refusal> {
    let req = request.as_mut().ok_or(Reason::Internal)?;
    if req.method() == Method::CONNECT {
        return Err(Refusal::new(
            Reason::RequestInvalid,
            "CONNECT is not served",
        ));
    }
    if !req.body().is_empty() && !headers::is_plainly_framed(req.headers()) {
        // hyper would take off `chunked` and lose the rest.
        return Err(Refusal::new(
            Reason::RequestInvalid,
            "its transfer coding is not chunked alone",
        ));
    }
    let port = default_port(conn.is_tls());
    let sni = conn.server_name(worker.settings.fallback_sni.as_ref());
    let authority = authority::read(req, &conn.last_host, sni, port)?;
    outcome.authority = Some(authority.clone());
    worker.settings.mark.check(req.headers())?;
    let mut place = find_place(worker, conn, req.headers(), &[], outcome).await?;

    // A stream of HTTP/2 has no connection that could go over.
    let protocols = upgrade::asked(req).filter(|_| !conn.is_http2());
    let taken = headers::to_upstream(req.headers_mut(), &conn.via, &authority)?;
    outcome.is_prepared = true;
    worker.settings.mark.put(req.headers_mut());
    let mut prepared = place.rewrite(req.headers_mut());
    if let Some(target) = &place.target {
        *req.uri_mut() = target.clone();
    }
    *req.version_mut() = Version::HTTP_11;
    req.extensions_mut().clear();
    loop {
        let protocols = protocols.as_ref().filter(|_| place.upgrades);
        if let Some(req) = request.as_mut() {
            upgrade::ask(req.headers_mut(), protocols);
        }
        let tries = Tries {
            worker,
            authority: &authority,
            upstream: &place.upstream,
            timeouts: place.timeouts,
            protocols,
            hash: place.hash,
            target: place.target.as_ref(),
        };
        let refusal = match tries.run(request, outcome).await {
            Ok(answer @ Answer::Switched(..)) => {
                admit_tunnel(worker, conn, &place, outcome).await?;
                return Ok(answer);
            }
            Ok(answer) => return Ok(answer),
            Err(refusal) => refusal,
        };
        let Some(req) = request.as_mut() else {
            return Err(refusal);
        };
        if !is_unready(refusal.reason) || !place.is_outdated(worker) {
            return Err(refusal);
        }
        // What it was to be sent by was replaced before it could be opened.
        if let Some(prepared) = prepared.take() {
            *req.headers_mut() = prepared;
        }
        let host = headers::text_value(authority.as_str()).ok_or(Reason::AuthorityInvalid)?;
        req.headers_mut().insert(HOST, host);
        let found = find_place(worker, conn, req.headers(), &taken, outcome);
        place = Box::pin(found).await?;
        *req.uri_mut() = place.target.as_ref().unwrap_or(&outcome.uri).clone();
        prepared = place.rewrite(req.headers_mut());
    }
}

/// Whether a tunnel may begin: the policy may have changed since its request was let in. From here
/// on it is judged with every change.
async fn admit_tunnel(
    worker: &Worker,
    conn: &Conn,
    place: &Place,
    outcome: &Outcome,
) -> Result<(), Refusal> {
    let authority = outcome.authority.clone().ok_or(Reason::Internal)?;
    conn.tunnel(Some(Tunnelled {
        authority: authority.clone(),
        uri: outcome.uri.clone(),
    }));
    if !place.is_outdated(worker) {
        return Ok(());
    }
    let admitted = Box::pin(authorize::admit(worker, conn, &outcome.uri, &authority)).await;
    if admitted.is_err() {
        conn.tunnel(None);
    }
    admitted.map(drop)
}

/// Where a request goes, as of one snapshot.
struct Place {
    version: u64,
    upstream: Arc<Upstream>,
    timeouts: Timeouts,
    /// Another protocol may be asked for.
    upgrades: bool,
    /// What the request is hashed by, where its upstream asks for it.
    hash: u32,
    /// The target that the upstream gets, where it is not the client's.
    target: Option<Uri>,
    /// What its route does to the headers that the upstream gets.
    rewritten: Option<Rewritten>,
}

impl Place {
    /// Rewrites the upstream's headers. Returns them as they were, where that is otherwise.
    fn rewrite(&mut self, headers: &mut HeaderMap) -> Option<HeaderMap> {
        let rewritten = self.rewritten.take()?;
        let prepared = headers.clone();
        rewritten.apply(headers);
        Some(prepared)
    }

    fn is_outdated(&self, worker: &Worker) -> bool {
        worker.snapshot().version != self.version
    }
}

/// Authorises a request and finds where it goes, all of it by the same snapshot.
async fn find_place(
    worker: &Worker,
    conn: &Conn,
    headers: &HeaderMap,
    taken: &[(HeaderName, HeaderValue)],
    outcome: &mut Outcome,
) -> Result<Place, Refusal> {
    let authority = outcome.authority.clone().ok_or(Reason::Internal)?;
    let uri = &outcome.uri;
    let raw_path = uri.path();
    let (snapshot, path) = authorize::admit(worker, conn, uri, &authority).await?;
    let variables = RequestVariables {
        worker,
        snapshot: &snapshot,
        outcome,
        headers,
        taken,
        path: &path,
    };
    let (route, rewritten) = find_route(&variables)?;
    let upstream = find_upstream(&snapshot, &route);
    let hash = match upstream.as_ref().map(|upstream| &upstream.balance) {
        Ok(Balance::Hash(key)) => key.hash(&RouteVariables {
            request: &variables,
            parameters: &Parameters::NONE,
        }),
        Ok(Balance::RoundRobin | Balance::LeastBusy | Balance::Quicker) | Err(_) => 0,
    };
    let stripped = route
        .path_prefix
        .as_ref()
        .and_then(|prefix| prefix.strip(raw_path, &path));
    let target = match stripped {
        Some(path) => Some(with_path(uri, &path)?),
        None => origin_form(uri),
    };
    outcome.route = Some(route.clone());
    let mut upstream = upstream?;
    outcome.upstream = Some(upstream.clone());
    if let Some(discovery) = upstream.discovery.clone() {
        let found = worker.discovered.find(worker, &upstream, &discovery);
        let found = Box::pin(found).await?;
        upstream = found;
        outcome.upstream = Some(upstream.clone());
    }
    Ok(Place {
        version: snapshot.version,
        timeouts: route.timeouts.unwrap_or(upstream.timeouts),
        // HTTP/2 has no upgrade (RFC 9113 §8.6).
        upgrades: !upstream.scheme.is_http2() && passes_upgrades(&snapshot, &route),
        upstream,
        hash,
        target,
        rewritten,
    })
}

/// Whether what a connection is opened with could not be had.
fn is_unready(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::UpstreamNotReady | Reason::ContextUnavailable
    )
}

/// The first route in order that also fits method, peer and variables, and what it does to headers.
fn find_route(request: &RequestVariables<'_>) -> Result<(Arc<Route>, Option<Rewritten>), Refusal> {
    let outcome = request.outcome;
    let authority = outcome.authority.as_ref().ok_or(Reason::Internal)?;
    let peer = outcome.conn().peer.ip().to_canonical();
    let mut rewritten = None;
    let fits = |route: &Arc<Route>, parameters: &Parameters<'_>| {
        let variables = RouteVariables {
            request,
            parameters,
        };
        let is_meant = (route.methods.is_empty() || route.methods.contains(&outcome.method))
            && (route.remote_addrs.is_empty()
                || route.remote_addrs.iter().any(|net| net.contains(&peer)))
            && route
                .vars
                .as_ref()
                .is_none_or(|vars| vars.holds(&variables));
        if is_meant {
            let rewrite = route.headers.as_ref();
            rewritten = rewrite.map(|rewrite| Rewritten::of(rewrite, &variables));
        }
        is_meant
    };
    let asked = route::Request {
        host: authority.host(),
        authority: authority.as_str(),
        path: request.path,
    };
    let routes = &request.snapshot.routes;
    let route = routes.find_for(&asked, fits).ok_or(Reason::RouteNotFound)?;
    match route.closed {
        Some(Reason::ServiceMissing) => {
            let service = route.service.as_ref().map(ToString::to_string);
            Err(Refusal::new(
                Reason::ServiceMissing,
                service.unwrap_or_default(),
            ))
        }
        Some(reason) => Err(Refusal::new(
            Reason::RouteClosed,
            format!("{}: {}", route.id, reason.code()),
        )),
        None => Ok((route.clone(), rewritten)),
    }
}

/// The route's own upstream, else its service's (APISIX §4.2).
fn find_upstream(snapshot: &Snapshot, route: &Route) -> Result<Arc<Upstream>, Refusal> {
    let source = match (&route.upstream, &route.service) {
        (Some(source), _) => source,
        (None, Some(id)) => {
            let service = snapshot
                .services
                .get(id)
                .ok_or_else(|| Refusal::new(Reason::ServiceMissing, id.to_string()))?;
            service.upstream.as_ref().ok_or(Reason::NoUpstream)?
        }
        (None, None) => return Err(Reason::NoUpstream.into()),
    };
    let upstream = match source {
        UpstreamSource::Inline(upstream) => upstream,
        UpstreamSource::Id(id) => snapshot
            .upstreams
            .get(id)
            .ok_or_else(|| Refusal::new(Reason::UpstreamMissing, id.to_string()))?,
    };
    match upstream.closed {
        Some(reason) => Err(Refusal::new(
            reason,
            format!("{} {}", upstream.owner.kind, upstream.owner.id),
        )),
        None => Ok(upstream.clone()),
    }
}

/// Whether upgrades pass: as the route says, else as its service does (APISIX §4.2).
fn passes_upgrades(snapshot: &Snapshot, route: &Route) -> bool {
    let service = route.service.as_ref();
    let service = service.and_then(|id| snapshot.services.get(id));
    route
        .upgrades
        .unwrap_or_else(|| service.is_some_and(|service| service.upgrades))
}

/// The request target for an upstream, where it is not the client's: path and query as sent.
fn origin_form(uri: &Uri) -> Option<Uri> {
    uri.authority()?;
    let target = uri
        .path_and_query()
        .cloned()
        .unwrap_or_else(|| PathAndQuery::from_static("/"));
    Some(Uri::from(target))
}

/// Another path with the query as sent.
fn with_path(uri: &Uri, path: &str) -> Result<Uri, Refusal> {
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}").parse::<PathAndQuery>(),
        None => path.parse(),
    };
    target
        .map(Uri::from)
        .map_err(|error| Refusal::new(Reason::PathInvalid, error.to_string()))
}

/// The tries of one request.
struct Tries<'a> {
    worker: &'a Rc<Worker>,
    authority: &'a Authority,
    upstream: &'a Arc<Upstream>,
    timeouts: Timeouts,
    /// What the upstream may go over to.
    protocols: Option<&'a HeaderValue>,
    hash: u32,
    /// The target, where it is not the client's.
    target: Option<&'a Uri>,
}

impl Tries<'_> {
    /// Tries nodes in turn until one answers, within the upstream's retries.
    async fn run(
        &self,
        req: &mut Option<Request<RequestBody>>,
        outcome: &mut Outcome,
    ) -> Result<Answer, Refusal> {
        let started = self.worker.sweep.now();
        let resolver = &self.worker.dialer.resolver;
        let turns = self.worker.upstreams.turns(self.upstream, resolver);
        let mut tried: Vec<usize> = Vec::new();
        let mut last: Option<Refusal> = None;
        for attempt in 0..=self.upstream.retries {
            if attempt > 0 && self.retry_time_is_over(started) {
                break;
            }
            let Some(node) = self.next(&turns, &mut tried) else {
                break;
            };
            // A try before this one is over.
            outcome.busy = turns.begin(node);
            let began = turns.measures().then(Instant::now);
            if attempt > 0 {
                self.worker.metrics.upstream_retries.inc();
            }
            match self.at_node(&turns, node, req, outcome).await {
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
                    let is_over = req.is_none() || !may_go_elsewhere(refusal.reason);
                    last = Some(refusal);
                    if is_over {
                        break;
                    }
                }
            }
        }
        Err(last.unwrap_or_else(|| Reason::NoNode.into()))
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

    fn retry_time_is_over(&self, started: u64) -> bool {
        self.upstream
            .retry_timeout
            .is_some_and(|limit| self.worker.sweep.now().saturating_sub(started) >= millis(limit))
    }

    fn next(&self, turns: &Turns, tried: &mut Vec<usize>) -> Option<usize> {
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

    /// One try at one node. Where its name has several addresses and one takes no connection, the
    /// next one is asked.
    async fn at_node(
        &self,
        turns: &Turns,
        node: usize,
        req: &mut Option<Request<RequestBody>>,
        outcome: &mut Outcome,
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
                return Err(TryError {
                    refusal: last,
                    sent: Sent::Nothing,
                });
            };
            outcome.endpoint = Some(endpoint.clone());
            match self.once(&endpoint, req, outcome).await {
                Err(TryError { refusal, sent })
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
        Err(TryError {
            refusal,
            sent: Sent::Nothing,
        })
    }

    /// One try at one node. A kept connection that turns out to be dead costs no try.
    async fn once(
        &self,
        endpoint: &Rc<Endpoint>,
        req: &mut Option<Request<RequestBody>>,
        outcome: &mut Outcome,
    ) -> Result<Answer, TryError> {
        if let (Some(host), Some(req)) = (&endpoint.host, req.as_mut()) {
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
                    Err(refusal) => {
                        let sent = Sent::Nothing;
                        return Err(TryError { refusal, sent });
                    }
                },
            };
            match self.send(upstream, endpoint, req, outcome, kept).await {
                Err(TryError { refusal, sent })
                    if kept
                        && req.is_some()
                        && may_go_elsewhere(refusal.reason)
                        && (sent == Sent::Nothing || refusal.reason == Reason::UpstreamReset) =>
                {
                    only_fresh = sent == Sent::Something;
                }
                done => return done,
            }
        }
    }

    /// A connection to a node: a fresh one, or a place on one that another request opened, and
    /// whether it is that.
    async fn open(&self, endpoint: &Endpoint) -> Result<(UpstreamConn, bool), Refusal> {
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
    async fn connect(&self, endpoint: &Endpoint) -> Result<UpstreamConn, Refusal> {
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
            let opening = UpstreamConn::open_many(stream, endpoint.bucket.clone(), has_identity);
            return match self.worker.sweep.within(until, opening).await {
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
    /// the request may be sent again, it is back in `req`.
    async fn send(
        &self,
        mut upstream: UpstreamConn,
        endpoint: &Endpoint,
        req: &mut Option<Request<RequestBody>>,
        outcome: &mut Outcome,
        kept: bool,
    ) -> Result<Answer, TryError> {
        let more = kept || self.upstream.nodes.len() > 1;
        let has_body = req.as_ref().is_some_and(|req| !req.body().is_empty());
        // Over HTTP/1.1 what has no body stays here, to be repeated.
        let is_many = self.upstream.scheme.is_http2();
        let repeats = more && !has_body && is_idempotent(&outcome.method);
        // Over HTTP/2 an upstream may refuse what it did not look at, whatever method and body.
        let refuses = more && is_many;
        let copy = req.as_ref().filter(|_| refuses);
        let copy = copy.map(|req| req.headers().clone());
        let kept = req.as_mut().filter(|_| refuses && has_body);
        let kept = kept.map(|req| req.body_mut().keep());
        let patience = patience(if has_body {
            self.timeouts.send.max(self.timeouts.read)
        } else {
            self.timeouts.read
        });
        outcome.upstream_started = Some(Instant::now());
        let unanswered = match upstream.exchange(req, &self.worker.sweep, patience).await {
            Ok(resp) => {
                // What was answered is not sent again.
                *req = None;
                let answer = self.answer(upstream, endpoint, resp, patience).await;
                return answer.map_err(|refusal| TryError {
                    refusal,
                    sent: Sent::Something,
                });
            }
            Err(unanswered) => unanswered,
        };
        let Unanswered { why, sent } = unanswered;
        if sent == Sent::Something && is_many {
            let body = match &kept {
                None if is_idempotent(&outcome.method) || why.is_refused() => {
                    Some(RequestBody::empty(self.worker.sweep.clone()))
                }
                Some(kept) if why.is_refused() => Box::pin(kept.wait(&self.worker.sweep)).await,
                None | Some(_) => None,
            };
            *req = copy
                .zip(body)
                .map(|(headers, body)| self.repeat(outcome, headers, body));
        } else if sent == Sent::Something && !repeats {
            *req = None;
        }
        let (reason, detail) = upstream.explain(&why);
        let refusal = Refusal::new(reason, detail);
        Err(TryError { refusal, sent })
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

    /// Looks at an answer's head: what nginx says instead of a TLS alert is named here.
    async fn answer(
        &self,
        upstream: UpstreamConn,
        endpoint: &Endpoint,
        mut resp: Response<AnswerBody>,
        patience: u64,
    ) -> Result<Answer, Refusal> {
        if resp.status() == StatusCode::SWITCHING_PROTOCOLS {
            return self.switch(upstream, resp);
        }
        if !headers::is_plainly_framed(resp.headers())
            || resp.headers().contains_key(TRANSFER_ENCODING)
                && resp.headers().contains_key(CONTENT_LENGTH)
        {
            return Err(Refusal::new(
                Reason::UpstreamProtocolError,
                "its answer has a transfer coding that is not chunked alone, or a length beside it",
            ));
        }
        let suspect = self.worker.settings.nginx_400 == Nginx400::Refuse
            && may_be_nginx_400(&resp, self.upstream.trust.is_none() || upstream.asked);
        headers::to_downstream(resp.headers_mut());
        if resp.status().is_server_error()
            && let Some(status) = headers::text_value(resp.status().as_str())
        {
            resp.headers_mut().insert(UPSTREAM_STATUS, status);
        }
        if !suspect {
            return Ok(Answer::Streamed(resp, upstream, patience));
        }
        let (head, incoming) = resp.into_parts();
        let bytes = Box::pin(self.collect_page(incoming, patience)).await?;
        match nginx_verdict(&bytes, self.upstream.trust.is_some()) {
            None => Ok(Answer::Whole(Response::from_parts(head, bytes))),
            Some((reason, title)) => {
                if let (Some(trust), Some(name)) = (&self.upstream.trust, &endpoint.name)
                    && let Some(connector) = self.worker.contexts.upstream(&trust.fingerprint)
                {
                    connector.forget(&endpoint.peer, name);
                }
                Err(Refusal::new(reason, format!("nginx answered: {title}")))
            }
        }
    }

    /// The upstream's consent to another protocol, if that is one it was asked for.
    fn switch(
        &self,
        upstream: UpstreamConn,
        mut resp: Response<AnswerBody>,
    ) -> Result<Answer, Refusal> {
        let agreed = self.protocols;
        let agreed = agreed.and_then(|asked| upgrade::agreed(resp.headers(), asked));
        let Some(agreed) = agreed else {
            return Err(Refusal::new(
                Reason::UpstreamProtocolError,
                "its 101 is for a protocol that it was not asked for",
            ));
        };
        let Some(switched) = upstream.into_switched() else {
            return Err(Refusal::new(
                Reason::UpstreamReset,
                "it ended the connection with its 101",
            ));
        };
        headers::to_downstream(resp.headers_mut());
        upgrade::ask(resp.headers_mut(), Some(&agreed));
        let resp = resp.map(drop);
        Ok(Answer::Switched(resp, switched, self.timeouts))
    }

    /// Reads an answer of at most [`NGINX_PAGE_BYTES`], which its head announced.
    async fn collect_page(&self, incoming: AnswerBody, patience: u64) -> Result<Bytes, Refusal> {
        let sweep = &self.worker.sweep;
        let until = Until::At(sweep.now().saturating_add(patience));
        let mut incoming = incoming;
        let read = async {
            let mut page = BytesMut::new();
            while let Some(frame) = incoming.frame().await {
                if let Ok(data) = frame?.into_data() {
                    page.extend_from_slice(&data);
                }
            }
            Ok::<_, AnswerError>(page.freeze())
        };
        match sweep.within(until, read).await {
            Ok(Ok(page)) => Ok(page),
            Ok(Err(error)) => Err(Refusal::new(Reason::UpstreamReset, error.to_string())),
            Err(_) => Err(Reason::UpstreamTimeout.into()),
        }
    }
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
}

/// RFC 9110 §9.2.2.
fn is_idempotent(method: &Method) -> bool {
    [
        Method::GET,
        Method::HEAD,
        Method::PUT,
        Method::DELETE,
        Method::OPTIONS,
        Method::TRACE,
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

/// Whether an answer can be nginx's own page for a TLS problem: 400, closing, HTML, short, plain.
fn may_be_nginx_400(resp: &Response<AnswerBody>, suspicious: bool) -> bool {
    let is = |name: HeaderName, wanted: &str| {
        resp.headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.to_ascii_lowercase().starts_with(wanted))
    };
    suspicious
        && resp.status() == StatusCode::BAD_REQUEST
        // In HTTP/2 no header says so (RFC 9113 §8.2.2).
        && (resp.version() == Version::HTTP_2 || is(CONNECTION, "close"))
        && is(CONTENT_TYPE, "text/html")
        && !resp.headers().contains_key(CONTENT_ENCODING)
        // HEAD has no page to tell by, and is passed on.
        && resp.body().size_hint().exact().is_some_and(|len| (1..=NGINX_PAGE_BYTES).contains(&len))
}

/// Which of nginx's pages it is (`ngx_http_special_response.c`: 494 to 497), if one, and its title.
fn nginx_verdict(page: &[u8], tls: bool) -> Option<(Reason, &'static str)> {
    let page = std::str::from_utf8(page).ok()?;
    let mut pages = NGINX_PAGES.iter();
    let (_, reason, title) = pages.find(|(of_tls, _, title)| {
        *of_tls == tls && page.contains(&format!("<title>{title}</title>"))
    })?;
    Some((*reason, title))
}

/// nginx's pages for TLS: whether they come over TLS, what they mean, their titles.
const NGINX_PAGES: [(bool, Reason, &str); 3] = [
    (
        true,
        Reason::UpstreamWantsClientCert,
        "400 No required SSL certificate was sent",
    ),
    (
        true,
        Reason::UpstreamRejectedOurCert,
        "400 The SSL certificate error",
    ),
    (
        false,
        Reason::UpstreamExpectsTls,
        "400 The plain HTTP request was sent to HTTPS port",
    ),
];
