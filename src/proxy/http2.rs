//! A client's HTTP/2 connection: many requests at once, ended by GOAWAY (RFC 9113 §6.8).
//!
//! One task moves the connection, and each stream has a task for its request and its answer. A stream
//! whose client takes nothing more of its answer is reset by its own time-out, whatever the other
//! streams do.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use h2::server::{self, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, DATE};
use http::{HeaderValue, Method, Request, Response};
use http_body::Body;

use crate::net::stream::Rewound;
use crate::net::sweep::{Limit, Sweep, Until, millis};
use crate::proxy::body::{ClientBody, ReplyBody};
use crate::proxy::conn::{Conn, InFlight, Signal};
use crate::proxy::flows::{Inflow, Outflow};
use crate::proxy::request;
use crate::proxy::streams::Job;
use crate::proxy::tunnel::Handover;
use crate::proxy::worker::Worker;

/// Requests in flight per connection; nginx's `http2_max_concurrent_streams`.
const STREAMS: u32 = 128;
/// Bytes a client may send ahead on one stream, and on all of a connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Response bytes of one stream that wait for the client's window.
const SEND_BUFFER: usize = 256 << 10;
/// Streams that a client resets before they are accepted (CVE-2023-44487), and that it makes us
/// reset.
const RESETS: usize = 64;
/// Heads are read that are so many times larger than what is taken, so that they are refused by name.
/// h2 answers to larger ones by a bare 431.
const LARGE_HEADS: usize = 4;
/// How often a client that is silent is asked whether it is there, and how long it may take.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a client may take to see a GOAWAY on an idle connection.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long a client that was answered before it sent all may go on, until it is told to stop. Some,
/// as curl up to 7, take an answer for none that comes together with that word. Meanwhile its
/// stream is one of the [`STREAMS`] that it has: a client that never stops by itself would have to
/// meet as many refusals within that time for its next stream to wait.
const SENDS_ON: Duration = Duration::from_millis(500);

type Connection = server::Connection<Rewound, Bytes>;

/// How HTTP/2 is served here. `header_bytes` is the largest head of a request.
fn builder(header_bytes: usize) -> server::Builder {
    let read_bytes = header_bytes.saturating_mul(LARGE_HEADS);
    let mut http = server::Builder::new();
    http.max_concurrent_streams(STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(read_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESETS)
        // Each of them may be told to stop while its client sends on.
        .max_concurrent_reset_streams(usize::try_from(STREAMS).unwrap_or(usize::MAX))
        .max_local_error_reset_streams(Some(RESETS));
    http
}

/// Serves a connection's requests to its end.
pub async fn serve(worker: Rc<Worker>, conn: Rc<Conn>, io: Rewound) {
    let Some(mut http) = Box::pin(greet(&worker, &conn, io)).await else {
        return;
    };
    let mut pings = Pings::new(&mut http, &worker.sweep, &conn);
    // A stream never becomes a tunnel.
    let nobody = Handover::default();
    let begin = |req, respond| {
        worker.streams.serve(Stream {
            worker: worker.clone(),
            in_flight: conn.begin(),
            req,
            respond,
            nobody: nobody.clone(),
        });
    };
    // Since when it was idle when its client was told of the end, and how long that may take.
    let mut farewell: Option<(u64, Limit)> = None;
    poll_fn(|cx| {
        match conn.heed(cx) {
            Some(Signal::Close) if conn.is_idle() => {
                http.graceful_shutdown();
                let until = worker.sweep.after(FAREWELL);
                farewell.get_or_insert_with(|| (conn.since(), worker.sweep.limit(until)));
            }
            Some(Signal::Drain | Signal::Close) => http.graceful_shutdown(),
            Some(Signal::TimeOut) => return Poll::Ready(()),
            Some(Signal::Park) | None => {}
        }
        if let Some((since, limit)) = &farewell
            && limit.poll_expired(cx).is_ready()
        {
            if conn.is_idle() && conn.since() == *since {
                return Poll::Ready(());
            }
            // What was on its way when the client was told is answered like any other.
            farewell = None;
        }
        pings.poll(cx, &mut http);
        loop {
            match ready!(http.poll_accept(cx)) {
                Some(Ok((req, respond))) => begin(req, respond),
                Some(Err(_)) | None => return Poll::Ready(()),
            }
        }
    })
    .await;
}

/// Waits for the client's preface. What the connection is told meanwhile is heard after that; for
/// who is to end a connection without requests it may take as long as a farewell.
async fn greet(worker: &Worker, conn: &Conn, io: Rewound) -> Option<Connection> {
    let mut greeting = pin!(builder(worker.settings.header_bytes).handshake(io));
    let mut told = None;
    let mut limit: Option<Limit> = None;
    let greeted = poll_fn(|cx| {
        match conn.heed(cx) {
            Some(Signal::TimeOut) => return Poll::Ready(None),
            Some(signal @ (Signal::Drain | Signal::Close)) => {
                told = Some(signal);
                limit.get_or_insert_with(|| worker.sweep.limit(worker.sweep.after(FAREWELL)));
            }
            Some(Signal::Park) | None => {}
        }
        if let Poll::Ready(greeted) = greeting.as_mut().poll(cx) {
            return Poll::Ready(greeted.ok());
        }
        match &limit {
            Some(limit) => limit.poll_expired(cx).map(|()| None),
            None => Poll::Pending,
        }
    })
    .await;
    if let Some(signal) = told {
        conn.tell(signal);
    }
    greeted
}

/// Asks a silent client whether it is there.
struct Pings {
    /// The connection's; given out once.
    pings: Option<PingPong>,
    sweep: Rc<Sweep>,
    conn: Rc<Conn>,
    /// When to look again.
    limit: Limit,
    is_asked: bool,
}

impl Pings {
    fn new(http: &mut Connection, sweep: &Rc<Sweep>, conn: &Rc<Conn>) -> Self {
        Self {
            pings: http.ping_pong(),
            sweep: sweep.clone(),
            conn: conn.clone(),
            limit: sweep.limit(sweep.after(PING_INTERVAL)),
            is_asked: false,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, http: &mut Connection) {
        while self.limit.poll_expired(cx).is_ready() {
            let look_at = self.conn.heard_at().saturating_add(millis(PING_INTERVAL));
            let now = self.sweep.now();
            let until = if self.is_asked {
                http.abrupt_shutdown(Reason::NO_ERROR);
                Until::At(u64::MAX)
            } else if look_at > now {
                Until::At(look_at)
            } else {
                let pings = self.pings.as_mut();
                self.is_asked = pings.is_some_and(|pings| pings.send_ping(Ping::opaque()).is_ok());
                self.sweep.after(PING_TIMEOUT)
            };
            self.limit.reset(until);
        }
        if self.is_asked
            && let Some(pings) = &mut self.pings
            && pings.poll_pong(cx).is_ready()
        {
            self.is_asked = false;
            self.limit.reset(self.sweep.after(PING_INTERVAL));
        }
    }
}

/// A stream under way.
pub struct Stream {
    worker: Rc<Worker>,
    // The connection is busy from now on, not only when its task looks at the request.
    in_flight: InFlight,
    req: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    nobody: Handover,
}

impl Job for Stream {
    async fn serve(self) {
        let Self {
            worker,
            in_flight,
            req,
            mut respond,
            nobody,
        } = self;
        let is_head = req.method() == Method::HEAD;
        let mut leaves_rest = None;
        let answer = {
            let (head, stream) = req.into_parts();
            let mut flow = Inflow::new(stream, &head.headers);
            if !flow.is_end_stream() {
                leaves_rest = Some(flow.leaves_rest());
            }
            let body = ClientBody::Http2(flow);
            let req = Request::from_parts(head, body);
            let conn = in_flight.conn().clone();
            let mut answering = pin!(request::handle(worker.clone(), conn, req, nobody));
            drop(in_flight);
            poll_fn(|cx| match answering.as_mut().poll(cx) {
                Poll::Ready(Ok(answer)) => Poll::Ready(Some(answer)),
                // Dropped unanswered when the client wants no answer any more.
                Poll::Pending => respond.poll_reset(cx).map(|_gone| None),
            })
            .await
        };
        let Some(answer) = answer else { return };
        if let Some(mut stream) = answer_by(respond, answer, is_head, &worker).await
            && leaves_rest.is_some_and(|leaves_rest| leaves_rest.get())
        {
            // Given up, it is reset without an error (RFC 9113 §8.1).
            let ended = poll_fn(|cx| stream.poll_reset(cx));
            let sweep = &worker.sweep;
            let _sends_on = sweep.within(sweep.after(SENDS_ON), ended).await;
        }
    }
}

/// Sends an answer; gives back its stream, if it was answered.
async fn answer_by(
    mut respond: SendResponse<Bytes>,
    answer: Response<ReplyBody>,
    is_head: bool,
    worker: &Worker,
) -> Option<SendStream<Bytes>> {
    let sweep = &worker.sweep;
    // How long its client may take nothing of it.
    let patience = millis(worker.settings.body_timeout);
    let (mut head, body) = answer.into_parts();
    if !body.is_end_stream()
        && let Some(length) = body.size_hint().exact()
        && !head.headers.contains_key(CONTENT_LENGTH)
    {
        head.headers
            .insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    if !head.headers.contains_key(DATE)
        && let Some(now) = worker.dates.at(SystemTime::now())
    {
        head.headers.insert(DATE, now);
    }
    // The answer to HEAD has no content (RFC 9110 §9.3.2); an upstream's has none to begin with.
    let is_whole = body.is_end_stream() || is_head && matches!(body, ReplyBody::Whole(..));
    let stream = match respond.send_response(Response::from_parts(head, ()), is_whole) {
        Ok(stream) if is_whole => return Some(stream),
        Ok(stream) => stream,
        Err(_no_answer_of_http2) => {
            respond.send_reset(Reason::INTERNAL_ERROR);
            return None;
        }
    };
    let mut flow = Outflow::new(body, stream);
    // On what waited when so many parts had been taken.
    let mut limit: Option<(u64, Limit)> = None;
    poll_fn(|cx| {
        if flow.poll_sent(cx).is_ready() {
            return Poll::Ready(());
        }
        let Some(taken) = flow.waits_for_peer() else {
            limit = None;
            return Poll::Pending;
        };
        let known = limit.take().filter(|(at, _)| *at == taken);
        let (_, limit) = limit.insert(known.unwrap_or_else(|| {
            let until = Until::At(sweep.now().saturating_add(patience));
            (taken, sweep.limit(until))
        }));
        ready!(limit.poll_expired(cx));
        flow.body().expire();
        flow.cancel();
        Poll::Ready(())
    })
    .await;
    Some(flow.into_stream())
}
