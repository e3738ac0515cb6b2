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

use http::header::{CONTENT_LENGTH, DATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response};
use http_body::Body;

use crate::failure;
use crate::http2::{self, Incoming, Limits, Reason, Role, Writer};
use crate::net::stream::Rewound;
use crate::net::sweep::{Limit, Sweep, Until, millis};
use crate::proxy::body::{ClientBody, ReplyBody};
use crate::proxy::conn::{Conn, InFlight, Phase, Signal};
use crate::proxy::connection::record_broken;
use crate::proxy::flows::{Inflow, Outflow};
use crate::proxy::interim::Interim;
use crate::proxy::request;
use crate::proxy::streams::Job;
use crate::proxy::tunnel::Handover;
use crate::proxy::worker::Worker;

/// Requests in flight per connection; nginx's `http2_max_concurrent_streams`.
const STREAMS: u32 = 128;
/// Bytes a client may send ahead on one stream, and on all of a connection.
const STREAM_WINDOW: u32 = 1 << 20;
/// See [`STREAM_WINDOW`].
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Streams that a client makes us reset (CVE-2025-8671).
const RESETS: usize = 64;
/// Streams that were reset and whose client may still send on, and so many more than [`STREAMS`] that a
/// client may begin before it knows our settings.
const REMEMBERED: usize = 1024;
/// Streams that a client resets before they are looked at (CVE-2023-44487), which is what one busy
/// moment lets come together.
const UNTOUCHED: usize = 256;
/// Heads are read that are so many times larger than what is taken, so that they are refused by name.
/// What is larger is answered by a bare 431.
const LARGE_HEADS: usize = 4;
/// How often a client that is silent is asked whether it is there, and how long it may take. So long it
/// may take over our settings, too.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// See [`PING_INTERVAL`].
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a client may take to see a GOAWAY on an idle connection.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long a client that was answered before it sent all may go on, until it is told to stop. Some,
/// as curl up to 7, take an answer for none that comes together with that word. Meanwhile its
/// stream is one of the [`STREAMS`] that it has: a client that never stops by itself would have to
/// meet as many refusals within that time for its next stream to wait.
const SENDS_ON: Duration = Duration::from_millis(500);

type Connection = http2::Connection<Rewound>;

/// What a client is let. `header_bytes` is the largest head of a request.
fn limits(header_bytes: usize) -> Limits {
    Limits {
        streams: STREAMS,
        stream_window: STREAM_WINDOW,
        connection_window: CONNECTION_WINDOW,
        header_list: header_bytes.saturating_mul(LARGE_HEADS),
        untouched: UNTOUCHED,
        faults: RESETS,
        remembered: REMEMBERED,
    }
}

/// Serves a connection's requests to its end.
pub async fn serve(worker: Rc<Worker>, conn: Rc<Conn>, io: Rewound) {
    let limits = limits(worker.settings.header_bytes);
    let mut http = Connection::new(io, Role::Server, limits, worker.stock.clone());
    let mut pings = Pings::new(&worker.sweep, &conn);
    // A stream never becomes a tunnel.
    let nobody = Handover::default();
    // Since when it was idle when its client was told of the end, and how long that may take.
    let mut farewell: Option<(u64, Limit)> = None;
    poll_fn(|cx| {
        match conn.heed(cx) {
            Some(signal @ (Signal::Close | Signal::Drain)) => {
                http.leave();
                // A client that said nothing yet is told in vain.
                let is_idle = signal == Signal::Close && conn.is_idle();
                if is_idle || !http.is_settled() {
                    let until = worker.sweep.after(FAREWELL);
                    farewell.get_or_insert_with(|| (conn.since(), worker.sweep.limit(until)));
                }
            }
            Some(Signal::TimeOut) => return Poll::Ready(()),
            Some(Signal::Park) if conn.phase() == Phase::Idle => conn.enter(Phase::Parked),
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
        pings.poll(cx, &http);
        let served = http.poll_served(cx, |incoming| {
            worker.streams.serve(Stream {
                worker: worker.clone(),
                in_flight: conn.begin(),
                incoming,
                nobody: nobody.clone(),
            });
        });
        // Each time that something else than a request comes, too.
        if conn.phase() == Phase::Parked {
            http.rest().stream.free_buffers();
        }
        // Its requests hear of it when they are polled next.
        if let Some(violation) = http.violation()
            && conn.end_by_violation()
        {
            let name = failure::Reason::Http2Violation;
            record_broken(&worker, &conn, name, &violation.to_string());
        }
        served.map(|_ended| ())
    })
    .await;
}

/// Asks a silent client whether it is there.
struct Pings {
    sweep: Rc<Sweep>,
    conn: Rc<Conn>,
    /// When to look again.
    limit: Limit,
    is_asked: bool,
}

impl Pings {
    fn new(sweep: &Rc<Sweep>, conn: &Rc<Conn>) -> Self {
        Self {
            sweep: sweep.clone(),
            conn: conn.clone(),
            limit: sweep.limit(sweep.after(PING_INTERVAL)),
            is_asked: false,
        }
    }

    fn poll(&mut self, cx: &Context<'_>, http: &Connection) {
        if self.is_asked && http.has_answered() {
            self.is_asked = false;
            self.limit.reset(self.sweep.after(PING_INTERVAL));
        }
        while self.limit.poll_expired(cx).is_ready() {
            let look_at = self.conn.heard_at().saturating_add(millis(PING_INTERVAL));
            let now = self.sweep.now();
            let until = if self.is_asked || !http.is_acknowledged() {
                let reason = if http.is_acknowledged() {
                    Reason::NO_ERROR
                } else {
                    Reason::SETTINGS_TIMEOUT
                };
                http.abort(reason);
                Until::At(u64::MAX)
            } else if look_at > now {
                Until::At(look_at)
            } else {
                self.is_asked = http.ask();
                self.sweep.after(PING_TIMEOUT)
            };
            self.limit.reset(until);
        }
    }
}

/// A stream under way.
pub struct Stream {
    worker: Rc<Worker>,
    // The connection is busy from now on, not only when its task looks at the request.
    in_flight: InFlight,
    incoming: Incoming,
    nobody: Handover,
}

impl Job for Stream {
    async fn serve(self) {
        let Self {
            worker,
            in_flight,
            incoming,
            nobody,
        } = self;
        let Incoming {
            request,
            reader,
            writer,
        } = incoming;
        let is_head = request.method() == Method::HEAD;
        let answer = {
            let body = ClientBody::Http2(Inflow::new(reader, None));
            let req = request.map(|()| body);
            let conn = in_flight.conn().clone();
            let mut answering = pin!(
                request::begin(worker.clone(), conn, req, nobody, Interim::Http2(&writer)).answer()
            );
            drop(in_flight);
            poll_fn(|cx| match answering.as_mut().poll(cx) {
                Poll::Ready(Ok(answer)) => Poll::Ready(Some(answer)),
                // Dropped unanswered when the client wants no answer any more.
                Poll::Pending => writer.poll_over(cx).map(|()| None),
            })
            .await
        };
        let Some(answer) = answer else { return };
        if let Some(stream) = answer_by(writer, answer, is_head, &worker).await
            && stream.leaves_rest()
        {
            // Given up, it is reset without an error (RFC 9113 §8.1).
            let ended = poll_fn(|cx| stream.poll_over(cx));
            let sweep = &worker.sweep;
            let _sends_on = sweep.within(sweep.after(SENDS_ON), ended).await;
        }
    }
}

/// Sends an answer; gives back its stream, if it was answered.
async fn answer_by(
    mut stream: Writer,
    answer: Response<ReplyBody>,
    is_head: bool,
    worker: &Worker,
) -> Option<Writer> {
    let sweep = &worker.sweep;
    // How long its client may take nothing of it.
    let patience = millis(worker.settings.body_timeout);
    let (mut head, mut body) = answer.into_parts();
    let group = body.take_group();
    let says = |headers: &HeaderMap, name: &HeaderName| {
        headers.contains_key(name) || group.as_ref().is_some_and(|group| group.says(name))
    };
    if !body.is_end_stream()
        && let Some(length) = body.size_hint().exact()
        && !says(&head.headers, &CONTENT_LENGTH)
    {
        head.headers
            .insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    if !says(&head.headers, &DATE)
        && let Some(now) = worker.dates.at(SystemTime::now())
    {
        head.headers.insert(DATE, now);
    }
    // The answer to HEAD has no content (RFC 9110 §9.3.2); an upstream's has none to begin with.
    let is_whole = body.is_end_stream() || is_head && matches!(body, ReplyBody::Whole(..));
    if !stream.answer(Response::from_parts(head, group), is_whole) {
        return None;
    }
    if is_whole {
        return Some(stream);
    }
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
