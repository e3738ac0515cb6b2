//! A client's connection from accept to close: greeting, requests, parking, the end.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1::Parts;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use crate::failure::Reason;
use crate::http2::PREFACE;
use crate::net::handshake::{self, Greeting, Refused};
use crate::net::stream::{Linger, Rewound, Stream, answer_plainly, linger};
use crate::proxy::body::{ClientBody, UNWANTED, UNWANTED_PAUSE};
use crate::proxy::conn::{Conn, Phase, Signal, client_facts};
use crate::proxy::error::Refusal;
use crate::proxy::interim::{Interim, Interleaved, Lines};
use crate::proxy::outcome::micros;
use crate::proxy::slot::Slot;
use crate::proxy::tunnel::Handover;
use crate::proxy::unread::{self, Unread};
use crate::proxy::watched::Watched;
use crate::proxy::worker::{Inbound, Worker};
use crate::proxy::{http2, request};
use crate::snapshot::Id;
use crate::telemetry::access::{Kind, Record};
use crate::telemetry::metrics::{HandshakeEnd, Side};
use crate::tls::peer::Accepted;
use crate::tls::socket::{Activity, Socket};

/// Runs a connection to its end.
pub async fn run(worker: Rc<Worker>, inbound: Rc<Inbound>, tcp: TcpStream, peer: SocketAddr) {
    let counted = worker.registry.count(inbound.gauge.clone());
    let local = local_address(&inbound, &tcp);
    let activity = Activity::new(worker.sweep.clock());
    let (stream, accepted) = match &inbound.acceptor {
        None => (Stream::Plain(Socket::new(tcp, activity.clone())), None),
        // Boxed, as what serves: what is over takes no room in a connection that lives on.
        Some(_) => match Box::pin(greet(&worker, &inbound, tcp, activity.clone(), peer)).await {
            Some((stream, accepted)) => (stream, Some(accepted)),
            None => return,
        },
    };
    let conn = Conn::new((peer, local), &inbound, activity, accepted);
    let place = worker.registry.enter(conn.clone());
    if worker.drains() {
        // It was told of the end before it could hear.
        conn.tell(Signal::Drain);
    }
    let mut io = Rewound {
        prefix: Bytes::new(),
        stream,
    };
    if worker.settings.http2 && !conn.is_tls() && begins_with_preface(&worker, &conn, &mut io).await
    {
        conn.speaks_http2();
    }
    if conn.is_http2() {
        Box::pin(http2::serve(worker.clone(), conn.clone(), io)).await;
    } else {
        Box::pin(serve(worker.clone(), conn.clone(), io)).await;
    }
    if conn.is_flooded() {
        record_broken(&worker, &conn, Reason::ClientKeyUpdateFlood, "");
    }
    drop((place, counted));
}

/// Our address that the client reached: the system is asked where the listener takes any.
fn local_address(inbound: &Inbound, tcp: &TcpStream) -> SocketAddr {
    if inbound.local.ip().is_unspecified() {
        tcp.local_addr().unwrap_or(inbound.local)
    } else {
        inbound.local
    }
}

/// Whether a client in the clear begins with HTTP/2, by prior knowledge (RFC 9113 §3.3). What was
/// read to tell is read again; what the connection is told meanwhile, whoever serves it hears.
async fn begins_with_preface(worker: &Worker, conn: &Conn, io: &mut Rewound) -> bool {
    let mut begun = BytesMut::new();
    let begins = poll_fn(|cx| {
        if let Some(signal) = conn.heed(cx) {
            conn.tell(signal);
            return Poll::Ready(false);
        }
        loop {
            let mut chunk = worker.chunk.borrow_mut();
            let mut buf = ReadBuf::new(&mut chunk);
            let read = ready!(Pin::new(&mut io.stream).poll_read(cx, &mut buf));
            if read.is_err() || buf.filled().is_empty() {
                return Poll::Ready(false);
            }
            begun.extend_from_slice(buf.filled());
            if begun.starts_with(PREFACE) {
                return Poll::Ready(true);
            }
            if !PREFACE.starts_with(&begun) {
                return Poll::Ready(false);
            }
        }
    })
    .await;
    io.prefix = begun.freeze();
    begins
}

/// The greeting on a TLS listener; what fails is recorded and over.
async fn greet(
    worker: &Rc<Worker>,
    inbound: &Inbound,
    tcp: TcpStream,
    activity: Rc<Activity>,
    peer: SocketAddr,
) -> Option<(Stream, Accepted)> {
    let acceptor = inbound.acceptor.as_ref()?;
    let build = async |key, ssl_id: Arc<str>| {
        let id = ssl_id.parse::<Id>().map_err(|_invalid| Reason::Internal)?;
        let _waits = worker.wait_for_build(peer.ip())?;
        worker.server_context(&key, &id).await
    };
    let began = Instant::now();
    worker.metrics.handshakes_in_flight.inc();
    let deadline = worker.sweep.after(worker.settings.handshake_timeout);
    let greeting = Box::pin(handshake::greet(
        acceptor,
        tcp,
        activity,
        &worker.handshakes,
        build,
    ));
    let greeted = worker.sweep.within(deadline, greeting).await;
    let took = micros(began);
    worker.metrics.handshakes_in_flight.dec();
    let refused = match greeted {
        Ok(Ok(Greeting::Tls(stream, accepted))) => {
            let end = if accepted.resumed {
                HandshakeEnd::Resumed
            } else {
                HandshakeEnd::Full
            };
            worker.metrics.handshake(Side::Downstream, end);
            worker.agreed_downstream.add(&stream.agreed());
            return Some((Stream::Tls(stream), *accepted));
        }
        Ok(Ok(Greeting::Plain(socket))) => {
            answer_plain(worker, socket).await;
            Refused::unread(Reason::ClientPlaintextOnTls, String::new())
        }
        Ok(Err(refused)) => refused,
        Err(expired) => Refused::unread(Reason::HandshakeTimeout, expired.to_string()),
    };
    record_refused(worker, inbound, peer, &refused, took);
    if let Some(stream) = refused.stream {
        linger(stream.socket(), &worker.sweep, Linger::SHORT).await;
    }
    None
}

/// nginx's page for plain HTTP on a TLS port.
async fn answer_plain(worker: &Worker, socket: Socket) {
    let refusal = Refusal::from(Reason::ClientPlaintextOnTls);
    let text = unread::as_text(worker, refusal.reply(&worker.ids.next()));
    let patience = worker.settings.handshake_timeout;
    answer_plainly(socket, &text, &worker.sweep, patience).await;
}

fn record_refused(
    worker: &Worker,
    inbound: &Inbound,
    peer: SocketAddr,
    refused: &Refused,
    took: u64,
) {
    worker
        .metrics
        .handshake(Side::Downstream, HandshakeEnd::Failed);
    let client = refused.shown.as_ref().map(client_facts);
    let mut record = Record::new(Kind::Handshake, worker.epoch_millis(), inbound.name, peer);
    record.sni = refused.sni.as_deref().map(str::as_bytes);
    record.reason = Some(refused.reason);
    record.detail = Some(refused.detail.as_str()).filter(|detail| !detail.is_empty());
    record.client = client.as_ref();
    record.ssl_id = refused.ssl_id.as_deref();
    record.duration_us = took;
    worker.record(&record);
}

/// Why the serving of requests paused or ended.
enum Pause {
    Told(Signal),
    /// The client left.
    Gone,
    Ended(Result<(), hyper::Error>),
    /// A head cannot be read, of which its client was told nothing.
    Unread(hyper::Error),
}

/// Serves an HTTP/1.1 connection's requests; between them it may be parked.
async fn serve(worker: Rc<Worker>, conn: Rc<Conn>, mut io: Rewound) {
    let handover = Handover::default();
    loop {
        // Boxed: hyper's part is large, and a parked connection has none.
        let serving = Box::pin(serve_until_pause(&worker, &conn, io, &handover));
        let (pause, served) = serving.await;
        let Some(rest) = served else { return };
        io = rest;
        let tunnel = handover.take();
        match pause {
            Pause::Ended(Ok(())) if let Some(tunnel) = tunnel => {
                Box::pin(tunnel.carry(&worker, &conn, &mut io)).await;
                // Who may know that it ended in order was told.
                let socket = io.stream.socket();
                return Box::pin(linger(socket, &worker.sweep, Linger::SHORT)).await;
            }
            Pause::Told(Signal::Park) => {
                conn.enter(Phase::Parked);
                if io.prefix.is_empty() && park(&conn, &mut io.stream).await == Parked::Over {
                    return Box::pin(close(&worker, &conn, io)).await;
                }
                // Something of a request is there, or will be in time.
                conn.enter(Phase::Head);
            }
            Pause::Told(Signal::Close | Signal::Drain) => {
                return Box::pin(close(&worker, &conn, io)).await;
            }
            Pause::Told(Signal::TimeOut) => return,
            Pause::Gone => return Box::pin(break_off(&worker, &io)).await,
            Pause::Unread(error) => match unread::judge(&io.prefix, &error, &worker.settings) {
                Unread::Again(head) => io.prefix = head,
                Unread::Refused(refusal) => {
                    Box::pin(unread::answer(&worker, &conn, &mut io, &refusal)).await;
                    return Box::pin(close(&worker, &conn, io)).await;
                }
            },
            Pause::Ended(result) => {
                if result.as_ref().is_err_and(hyper::Error::is_user) {
                    return Box::pin(break_off(&worker, &io)).await;
                }
                if let Err(error) = result
                    && error.is_parse()
                {
                    // hyper has told its client: an answer before it was not all written yet.
                    let judged = unread::judge(&io.prefix, &error, &worker.settings);
                    let Refusal { reason, detail, .. } = judged.refusal(&error);
                    record_broken(&worker, &conn, reason, &detail);
                }
                return Box::pin(close(&worker, &conn, io)).await;
            }
        }
    }
}

/// Serves requests until something else is to be done. What was read too far is in the stream again,
/// which is nobody else's by then.
async fn serve_until_pause(
    worker: &Rc<Worker>,
    conn: &Rc<Conn>,
    io: Rewound,
    handover: &Handover,
) -> (Pause, Option<Rewound>) {
    let slot = Slot::new();
    let lines = Rc::<Lines>::default();
    let watched = Watched::new(io, worker.clone(), conn.clone());
    let io = Interleaved {
        io: watched.clone(),
        lines: lines.clone(),
    };
    let service = service_fn(|req: Request<Incoming>| {
        watched.answer(slot.fill(|| {
            request::begin(
                worker.clone(),
                conn.clone(),
                req.map(ClientBody::Http1),
                handover.clone(),
                Interim::Http1(lines.clone()),
            )
            .answer()
        }))
    });
    let mut http = worker.http.serve_connection(TokioIo::new(io), service);
    let pause = poll_fn(|cx| {
        // hyper first: what a dropped body means for the connection, it finds when polled.
        if let Poll::Ready(ended) = http.poll_without_shutdown(cx) {
            return Poll::Ready(match ended {
                Err(error) if error.is_parse() && watched.holds_back() => Pause::Unread(error),
                // Of what begins as HTTP/2 hyper says nothing.
                Err(error) if error.is_parse_version_h2() && watched.is_unasked() => {
                    Pause::Unread(error)
                }
                ended => Pause::Ended(ended),
            });
        }
        match conn.heed(cx) {
            Some(Signal::Park) if conn.phase() != Phase::Idle || !conn.may_park() => {}
            Some(Signal::Close) if conn.revoked().is_some() => {
                return Poll::Ready(Pause::Told(Signal::Close));
            }
            Some(Signal::Drain | Signal::Close) if !conn.is_quiet() => {
                Pin::new(&mut http).graceful_shutdown();
                cx.waker().wake_by_ref();
            }
            Some(signal) => return Poll::Ready(Pause::Told(signal)),
            None => {}
        }
        watched.poll_gone(cx).map(|()| Pause::Gone)
    })
    .await;
    // A request under way tells of its end itself, when it is dropped.
    if matches!(pause, Pause::Told(Signal::TimeOut)) && conn.is_idle() {
        record_broken(worker, conn, Reason::ClientTimeout, "");
    }
    let Parts { io, read_buf, .. } = http.into_parts();
    drop(io);
    let mut rest = watched.into_inner();
    if let Some(io) = &mut rest {
        io.rewind(&read_buf);
    }
    (pause, rest)
}

#[derive(PartialEq, Eq)]
enum Parked {
    Readable,
    Over,
}

async fn park(conn: &Conn, stream: &mut Stream) -> Parked {
    let readable = stream.park();
    tokio::pin!(readable);
    poll_fn(|cx| match conn.heed(cx) {
        Some(Signal::Close | Signal::TimeOut | Signal::Drain) => Poll::Ready(Parked::Over),
        Some(Signal::Park) | None => readable.as_mut().poll(cx).map(|ready| match ready {
            Ok(()) => Parked::Readable,
            Err(_) => Parked::Over,
        }),
    })
    .await
}

/// What a client gets that is still sending a body: nginx's lingering close.
const SENDING: Linger = Linger {
    time: UNWANTED,
    pause: UNWANTED_PAUSE,
    bytes: usize::MAX,
};

/// Ends a connection in order: close_notify, then what is on its way arrives.
async fn close(worker: &Worker, conn: &Conn, mut io: Rewound) {
    let until = worker.sweep.after(worker.settings.handshake_timeout);
    let _ = worker.sweep.within(until, io.stream.shutdown()).await;
    let how = if conn.has_leftover() {
        SENDING
    } else {
        Linger::SHORT
    };
    linger(io.stream.socket(), &worker.sweep, how).await;
}

/// Ends a connection within an answer. A client that was told no length knows it by the missing
/// close_notify alone (RFC 9112 §9.8).
async fn break_off(worker: &Worker, io: &Rewound) {
    linger(io.stream.socket(), &worker.sweep, Linger::SHORT).await;
}

/// A connection that ended before a request was complete.
pub(super) fn record_broken(worker: &Worker, conn: &Conn, reason: Reason, detail: &str) {
    let mut record = conn.record(worker.epoch_millis());
    record.reason = Some(reason);
    record.detail = Some(detail).filter(|detail| !detail.is_empty());
    worker.record(&record);
}
