//! A client's HTTP/2 connection: many requests at once, ended by GOAWAY (RFC 9113 §6.8).
//!
//! A stream whose client takes nothing more of its answer is reset by its own time-out, whatever the
//! other streams do. hyper waits for the client's window inside the task that it makes of each
//! stream; so the task is what the limit is on.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::net::stream::Rewound;
use crate::net::sweep::{Limit, Sweep, Until, millis};
use crate::proxy::conn::{Conn, Signal};
use crate::proxy::request;
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
/// How often a client that is silent is asked whether it is there, and how long it may take.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a client may take to see a GOAWAY on an idle connection.
const FAREWELL: Duration = Duration::from_secs(1);

/// Runs the tasks of a connection's streams on the worker's own thread, each within its limit.
#[derive(Clone)]
pub struct Streams {
    conn: Rc<Conn>,
    sweep: Rc<Sweep>,
    /// How long a client may take nothing of an answer.
    patience: u64,
}

impl<F: Future<Output = ()> + 'static> Executor<F> for Streams {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(Limited {
            task: Some(Box::pin(task)),
            flow: Rc::default(),
            limit: None,
            of: self.clone(),
        });
    }
}

/// How an answer flows to its client.
#[derive(Debug, Default)]
pub struct Flow {
    /// Since when a part of it waits for the client's window, in the clock's milliseconds.
    handed_at: Cell<Option<u64>>,
    is_timed_out: Cell<bool>,
}

impl Flow {
    /// A part was handed over, to be sent.
    pub fn hand(&self, now: u64) {
        self.handed_at.set(Some(now));
    }

    /// More is asked for: what was handed over has been taken.
    pub fn take(&self) {
        self.handed_at.set(None);
    }

    /// Whether the client took too long.
    #[must_use]
    pub fn is_timed_out(&self) -> bool {
        self.is_timed_out.get()
    }
}

/// A stream: hyper's task, and the limit on it. Dropped before its answer's end, it is reset.
struct Limited<F> {
    task: Option<Pin<Box<F>>>,
    flow: Rc<Flow>,
    /// The limit on what was handed over at that moment.
    limit: Option<(u64, Limit)>,
    of: Streams,
}

impl<F: Future<Output = ()>> Future for Limited<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(task) = &mut this.task else {
            return Poll::Ready(());
        };
        let conn = &this.of.conn;
        if conn
            .within(&this.flow, || task.as_mut().poll(cx))
            .is_ready()
        {
            conn.within(&this.flow, || this.task = None);
            return Poll::Ready(());
        }
        let Some(since) = this.flow.handed_at.get() else {
            this.limit = None;
            return Poll::Pending;
        };
        let is_known = this.limit.as_ref().is_some_and(|(at, _)| *at == since);
        if !is_known {
            let until = Until::At(since.saturating_add(this.of.patience));
            this.limit = Some((since, this.of.sweep.limit(until)));
        }
        let limit = this.limit.as_ref();
        if limit.is_none_or(|(_, limit)| limit.poll_expired(cx).is_pending()) {
            return Poll::Pending;
        }
        this.flow.is_timed_out.set(true);
        conn.within(&this.flow, || this.task = None);
        Poll::Ready(())
    }
}

/// How hyper serves HTTP/2 here. `header_bytes` is the largest head of a request.
fn builder(header_bytes: usize, streams: Streams) -> http2::Builder<Streams> {
    let mut http = http2::Builder::new(streams);
    http.timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(RESETS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    http
}

/// Serves a connection's requests to its end.
pub async fn serve(worker: Rc<Worker>, conn: Rc<Conn>, io: Rewound) {
    let service = {
        let (worker, conn) = (worker.clone(), conn.clone());
        // A stream never becomes a tunnel.
        let nobody = Handover::default();
        service_fn(move |req| request::handle(worker.clone(), conn.clone(), req, nobody.clone()))
    };
    let streams = Streams {
        conn: conn.clone(),
        sweep: worker.sweep.clone(),
        patience: millis(worker.settings.body_timeout),
    };
    let http =
        builder(worker.settings.header_bytes, streams).serve_connection(TokioIo::new(io), service);
    tokio::pin!(http);
    let ended = poll_fn(|cx| {
        match conn.heed(cx) {
            Some(Signal::Close) if conn.is_idle() => {
                http.as_mut().graceful_shutdown();
                return Poll::Ready(false);
            }
            Some(Signal::Drain | Signal::Close) => http.as_mut().graceful_shutdown(),
            Some(Signal::TimeOut) => return Poll::Ready(true),
            Some(Signal::Park) | None => {}
        }
        http.as_mut().poll(cx).map(|_ended| true)
    })
    .await;
    if !ended {
        let _ = worker
            .sweep
            .within(worker.sweep.after(FAREWELL), http)
            .await;
    }
}
