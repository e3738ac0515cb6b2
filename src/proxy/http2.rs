//! A client's HTTP/2 connection: many requests at once, ended by GOAWAY (RFC 9113 §6.8).

use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::net::stream::Stream;
use crate::proxy::conn::{Conn, Signal};
use crate::proxy::request;
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

/// Runs hyper's tasks on the worker's own thread.
#[derive(Clone, Copy, Debug)]
pub struct OnThisThread;

impl<F: Future<Output = ()> + 'static> Executor<F> for OnThisThread {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

/// How hyper serves HTTP/2 here. `header_bytes` is the largest head of a request.
#[must_use]
pub fn builder(header_bytes: usize) -> http2::Builder<OnThisThread> {
    let mut http = http2::Builder::new(OnThisThread);
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
pub async fn serve(worker: Rc<Worker>, conn: Rc<Conn>, stream: Stream) {
    let service = {
        let (worker, conn) = (worker.clone(), conn.clone());
        service_fn(move |req| request::handle(worker.clone(), conn.clone(), req))
    };
    let http = worker.http2.serve_connection(TokioIo::new(stream), service);
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
