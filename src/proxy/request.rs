//! The request spine: authority, authorisation, route, upstream, answer. Read top to bottom.

use std::convert::Infallible;
use std::future::Future;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version};

use crate::failure::Reason;
use crate::net::sweep::millis;
use crate::proxy::answer::Answer;
use crate::proxy::authority;
use crate::proxy::authorize::{self, has_no_path};
use crate::proxy::body::{ClientBody, ReplyBody, RequestBody, Streamed, Upload};
use crate::proxy::conn::{Conn, Signal, Tunnelled, Waiting};
use crate::proxy::error::{self, GRPC_STATUS, Refusal};
use crate::proxy::forwarded::{self, Forwarded};
use crate::proxy::headers::{self, Announced, Look};
use crate::proxy::interim::Interim;
use crate::proxy::outcome::Outcome;
use crate::proxy::place::{Place, find_place};
use crate::proxy::tries::Tries;
use crate::proxy::tunnel::{Handover, Tunnel};
use crate::proxy::upgrade;
use crate::proxy::upstream::default_port;
use crate::proxy::worker::Worker;

const CLOSE: HeaderValue = HeaderValue::from_static("close");
/// The trailers of gRPC, for clients of HTTP/1.1.
const GRPC_TRAILERS: HeaderValue =
    HeaderValue::from_static("grpc-status, grpc-message, grpc-status-details-bin");

/// What upstreams answered, told when the last of it is a 5xx or `proxy.upstream_status` says so, as
/// APISIX does.
const UPSTREAM_STATUS: HeaderName = HeaderName::from_static("x-apisix-upstream-status");

/// A request that was taken from its client, of which nothing was looked at.
pub struct Begun<'a> {
    worker: Rc<Worker>,
    conn: Rc<Conn>,
    client: Client<'a>,
    /// Held here: who looks at it borrows it, until it is sent.
    req: Option<Request<RequestBody>>,
    upload: Rc<Upload>,
    outcome: Box<Outcome>,
    waiting: Waiting,
    handover: Handover,
    /// Whether its connection was served before.
    is_established: bool,
}

/// Begins to serve one request: its connection is busy from here on. A tunnel, if it becomes one, is
/// left in `handover`; what comes before the answer goes to `interim`.
pub fn begin(
    worker: Rc<Worker>,
    conn: Rc<Conn>,
    req: Request<ClientBody>,
    handover: Handover,
    interim: Interim<'_>,
) -> Begun<'_> {
    let is_established = conn.is_established();
    if is_established {
        worker.handshakes.serves();
    }
    let in_flight = conn.begin();
    let waiting = conn.waiting();
    let patience = millis(worker.settings.body_timeout);
    let mut req =
        req.map(|body| RequestBody::new(body, &in_flight, worker.sweep.clone(), patience));
    if !conn.is_http2() {
        give_path(req.uri_mut());
    }
    let upload = req.body().upload();
    let look = Look::at(req.headers());
    // In HTTP/1.0 nothing has trailers, and in HTTP/2 nobody is asked.
    let may_take_trailers = look.has_te && req.version() == Version::HTTP_11;
    let client = Client {
        look,
        takes_trailers: may_take_trailers && takes_trailers(req.headers()),
        interim: interim.told(req.version(), worker.settings.tells_http1_more),
    };
    Begun {
        client,
        upload,
        outcome: Box::new(Outcome::begin(worker.clone(), in_flight, &req)),
        waiting,
        worker,
        conn,
        req: Some(req),
        handover,
        is_established,
    }
}

impl Begun<'_> {
    /// The answer. What goes wrong is one, and a record.
    ///
    /// # Errors
    /// None.
    #[expect(
        clippy::manual_async_fn,
        reason = "an `async fn` would have all of it twice"
    )]
    #[inline]
    pub fn answer(mut self) -> impl Future<Output = Result<Response<ReplyBody>, Infallible>> {
        async move {
            let (worker, conn, client) = (&self.worker, &self.conn, &self.client);
            let answer = forward(worker, conn, client, &mut self.req, &mut self.outcome).await;
            drop(self.waiting);
            if self.is_established {
                worker.handshakes.serves();
            }
            client.interim.passed().await;
            let upload = &self.upload;
            Ok(match answer {
                Ok(answer) => deliver(
                    answer,
                    client,
                    upload,
                    worker,
                    conn,
                    self.outcome,
                    &self.handover,
                ),
                Err(refusal) => {
                    let look = client.look;
                    let rest = Rest {
                        body: self.req.map(Request::into_body),
                        is_awaited: look.expects && !upload.asked_for.get(),
                        upload,
                        is_grpc: look.is_grpc,
                    };
                    refuse(&refusal, rest, conn, self.outcome)
                }
            })
        }
    }
}

/// Gives an absolute target without a path, as `http://a.example?b`, the path `/`, as who sends it on
/// must (RFC 9112 §3.2.1).
fn give_path(uri: &mut Uri) {
    let Some(query) = uri.path_and_query().filter(|target| has_no_path(target)) else {
        return;
    };
    let Ok(target) = PathAndQuery::try_from(format!("/{}", query.as_str())) else {
        return;
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target);
    if let Ok(whole) = Uri::from_parts(parts) {
        *uri = whole;
    }
}

/// What is remembered of a request for its answer.
struct Client<'a> {
    look: Look,
    /// It speaks HTTP/1.1, and said that it understands trailers.
    takes_trailers: bool,
    /// What it is told before its answer.
    interim: Interim<'a>,
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
    client: &Client<'_>,
    upload: &Upload,
    worker: &Worker,
    conn: &Rc<Conn>,
    mut outcome: Box<Outcome>,
    handover: &Handover,
) -> Response<ReplyBody> {
    match answer {
        Answer::Streamed(_, mut upstream, patience) => {
            let (mut head, mut incoming) = upstream.take_answer().into_parts();
            outcome.answered(head.status);
            let told = outcome.upstream_status(Some(head.status));
            if (!conn.is_http2() || told.is_some())
                && let Some(group) = incoming.take_group()
            {
                group.put_into(&mut head.headers);
            }
            if !conn.is_http2() && upstream.ends && !upload.done.get() {
                // Nobody is left to carry the rest of the request's body to.
                head.headers.insert(CONNECTION, CLOSE);
            }
            if client.takes_trailers {
                // hyper writes those trailers that were announced, to who takes them.
                if client.look.is_grpc {
                    head.headers.insert(TRAILER, GRPC_TRAILERS);
                }
                if let Some(Announced(names)) = head.extensions.remove() {
                    head.headers.append(TRAILER, names);
                }
            }
            if let Some(status) = told {
                head.headers.insert(UPSTREAM_STATUS, status);
            }
            let says_status = || {
                head.headers.contains_key(&GRPC_STATUS)
                    || incoming
                        .group()
                        .is_some_and(|group| group.says(&GRPC_STATUS))
            };
            outcome.is_trailers_only = client.look.is_grpc && says_status();
            if let Some(whole) = incoming.take_whole() {
                upstream.put_back(&worker.sweep);
                let body = ReplyBody::whole(whole.unwrap_or_default(), outcome);
                return Response::from_parts(head, body);
            }
            if incoming.is_bare() {
                // The client need not wait for an end that tells it nothing.
                upstream.put_back_after(incoming, &worker.sweep, patience);
                return Response::from_parts(head, ReplyBody::whole(Bytes::new(), outcome));
            }
            let body = Streamed::new(
                incoming,
                upstream,
                outcome,
                conn.clone(),
                &worker.sweep,
                patience,
            );
            Response::from_parts(head, ReplyBody::Streamed(Box::new(body)))
        }
        Answer::Whole(mut resp) => {
            if !conn.is_http2() && !upload.done.get() {
                resp.headers_mut().insert(CONNECTION, CLOSE);
            }
            outcome.answered(resp.status());
            let status = resp.status();
            tell_upstream_status(resp.headers_mut(), &outcome, Some(status));
            resp.map(|bytes| ReplyBody::whole(bytes, outcome))
        }
        Answer::Switched(switched) => {
            let (mut resp, upstream, timeouts) = *switched;
            outcome.answered(resp.status());
            let status = resp.status();
            tell_upstream_status(resp.headers_mut(), &outcome, Some(status));
            handover.replace(Some(Tunnel::new(upstream, outcome, timeouts)));
            resp.map(|()| ReplyBody::Nothing)
        }
    }
}

fn tell_upstream_status(headers: &mut HeaderMap, outcome: &Outcome, answered: Option<StatusCode>) {
    if let Some(status) = outcome.upstream_status(answered) {
        headers.insert(UPSTREAM_STATUS, status);
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
        && !error::ends_stream_alone(refusal.reason)
    {
        // What `Connection: close` says in HTTP/1.1 is GOAWAY in HTTP/2.
        conn.tell(Signal::Drain);
    }
    tell_upstream_status(reply.headers_mut(), &outcome, None);
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

async fn forward(
    worker: &Rc<Worker>,
    conn: &Rc<Conn>,
    client: &Client<'_>,
    request: &mut Option<Request<RequestBody>>,
    outcome: &mut Outcome,
) -> Result<Answer, Refusal> {
    let look = client.look;
    let req = request.as_mut().ok_or(Reason::Internal)?;
    if [Method::CONNECT, Method::TRACE].contains(req.method()) {
        return Err(Refusal::new(Reason::MethodRefused, req.method().as_str()));
    }
    if conn.is_http2() {
        headers::check_size(req, worker.settings.header_bytes)?;
    }
    if look.has_coding && !req.body().is_empty() && !headers::is_plainly_framed(req.headers()) {
        // hyper would take off `chunked` and lose the rest.
        return Err(Refusal::new(
            Reason::RequestInvalid,
            "its transfer coding is not chunked alone",
        ));
    }
    let port = default_port(conn.is_tls());
    let reached = conn.reached(worker.settings.fallback_sni.as_ref());
    let authority = authority::read(req, &conn.last_host, reached, port)?;
    outcome.authority = Some(authority.clone());
    let mark = &worker.settings.mark;
    if look.has_loop {
        mark.check(req.headers())?;
    }
    let mut place = find_place(worker, conn, req, look, &[], outcome).await?;

    // A stream of HTTP/2 has no connection that could go over.
    let asks_for_more = look.has_upgrade && !conn.is_http2();
    let protocols = asks_for_more.then(|| upgrade::asked(req)).flatten();
    let is_http2 = place.upstream.scheme.is_http2();
    let mut changed = headers::to_upstream(
        req.headers_mut(),
        look,
        &authority,
        &conn.last_host,
        is_http2,
    )?;
    outcome.is_prepared = true;
    let mut forwarded = None;
    if look.may_have_forwarded() && place.takes_forwarded(is_http2) {
        let say = |host: &[u8]| Forwarded::new(is_http2, &conn.via, &authority, host, mark);
        forwarded = conn.last_host.forwarded(&authority, is_http2, say);
    }
    if forwarded.is_none() {
        forwarded::forward(req.headers_mut(), &conn.via, &authority, &changed, mark)?;
    }
    let mut prepared = place.rewrite(req.headers_mut());
    if let Some(target) = &place.target {
        *req.uri_mut() = Uri::clone(target);
    }
    *req.version_mut() = Version::HTTP_11;
    req.extensions_mut().clear();
    let mut asks = false;
    loop {
        let protocols = protocols.as_ref().filter(|_| place.upgrades);
        // Whoever asked already may not at another place.
        if (asks || protocols.is_some())
            && let Some(req) = request.as_mut()
        {
            upgrade::ask(req.headers_mut(), protocols);
            asks = protocols.is_some();
        }
        let tries = Tries {
            worker,
            authority: &authority,
            upstream: &place.upstream,
            timeouts: place.timeouts,
            protocols,
            hash: place.hash,
            target: place.target.as_deref(),
            forwarded: forwarded.as_ref(),
            interim: &client.interim,
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
        let found = find_place(worker, conn, req, look, &changed.taken, outcome);
        place = Box::pin(found).await?;
        if !place.upstream.scheme.is_http2()
            && let Some(line) = req.headers_mut().remove(TE)
        {
            changed.taken.push((TE, line));
        }
        let said = forwarded.as_ref().map(Forwarded::is_http2);
        if said.is_some_and(|is_http2| !place.takes_forwarded(is_http2)) {
            forwarded = None;
            forwarded::forward(req.headers_mut(), &conn.via, &authority, &changed, mark)?;
        }
        *req.uri_mut() = place.target.as_deref().unwrap_or(&outcome.uri).clone();
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

/// Whether what a connection is opened with could not be had.
fn is_unready(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::UpstreamNotReady | Reason::ContextUnavailable
    )
}
