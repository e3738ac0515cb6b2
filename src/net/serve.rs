//! Serves a hyper service on a listener: the admin and status planes. One accept loop, one drain.

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::failure::Reason;
use crate::net::handshake::{self, Greeting, Lane, Turns};
use crate::net::listener;
use crate::net::stream::{Linger, Stream, answer_plainly, linger};
use crate::net::sweep::{Sweep, Until, millis};
use crate::telemetry::negotiated::Counts;
use crate::tls::peer::Accepted;
use crate::tls::server::ListenerAcceptor;
use crate::tls::socket::{Activity, Socket};

/// How long an administrator's client may take for a handshake, and for a request's head.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a client may take nothing of an answer.
const STALL: Duration = Duration::from_secs(30);
/// Connections of one listener, and of one client on it: a thousand writers at once have room, and
/// what one stranger holds must not keep the others out.
const CONNECTIONS: usize = 2_048;
const CONNECTIONS_PER_PEER: usize = 128;
/// The longest head of a request, in bytes; a connection that sends one holds no more memory.
const HEAD_BYTES: usize = 64 * 1024;
/// How long connections in flight may go on once draining.
const DRAIN: Duration = Duration::from_secs(5);

/// How a listener speaks TLS.
#[derive(Clone)]
pub struct Tls {
    /// What accepts.
    pub acceptor: Arc<ListenerAcceptor>,
    /// The places for its handshakes.
    pub turns: Turns,
    /// What they agreed on.
    pub agreed: Arc<Counts>,
    /// The whole answer to a client that speaks plain HTTP here.
    pub to_plain_http: Bytes,
}

/// Serves until `stop` turns true, then lets requests in flight end. Runs in a `LocalSet`.
///
/// `service` makes the service of one connection from the client's address and, over TLS, what its
/// handshake came to.
///
/// # Errors
/// The system's, when the socket cannot be taken into the runtime.
pub async fn serve<S, B>(
    socket: StdListener,
    tls: Option<Tls>,
    service: impl Fn(SocketAddr, Option<&Accepted>) -> S + 'static,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + 'static,
    S::Future: 'static,
    B: Body + 'static,
    B::Data: 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let listener = TcpListener::from_std(socket)?;
    let service = Rc::new(service);
    let sweep = Sweep::new();
    tokio::task::spawn_local(sweep.clone().run(|| {}));
    let crowd = Rc::new(Crowd::default());
    let tls = tls.map(|tls| {
        let lane = Lane::new(tls.turns.clone());
        Rc::new((tls, lane))
    });
    let graceful = Rc::new(hyper_util::server::graceful::GracefulShutdown::new());
    loop {
        let (tcp, peer) = tokio::select! {
            accepted = listener::accept(&listener) => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (service, tls) = (service.clone(), tls.clone());
        let Some(place) = crowd.admit(peer.ip()) else {
            tracing::warn!(%peer, "too many connections to an admin or status listener");
            continue;
        };
        let watcher = graceful.watcher();
        let activity = Activity::new(sweep.clock());
        let sweep = sweep.clone();
        let stalled = activity.clone();
        tokio::task::spawn_local(async move {
            let greeted = greet(tcp, peer, tls, activity.clone(), &sweep).await;
            let Some((stream, accepted)) = greeted else {
                return;
            };
            let service = service(peer, accepted.as_deref());
            drop(accepted);
            let conn = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .max_buf_size(HEAD_BYTES)
                .serve_connection(TokioIo::new(stream), service);
            let served = watcher.watch(conn);
            tokio::pin!(served);
            loop {
                let (activity, since) = (activity.clone(), sweep.now());
                let until = Until::Idle {
                    activity,
                    since,
                    limit: millis(STALL),
                };
                match sweep.within(until, served.as_mut()).await {
                    Ok(Ok(())) => break,
                    Ok(Err(error)) => {
                        tracing::debug!(error = %error, "an admin connection ended early");
                        break;
                    }
                    Err(_) if stalled.is_blocked() => break,
                    Err(_) => {}
                }
            }
            drop(place);
        });
    }
    drop(listener);
    if let Ok(graceful) = Rc::try_unwrap(graceful) {
        let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
    }
    Ok(())
}

/// Who is connected to one listener.
#[derive(Debug, Default)]
struct Crowd {
    by_peer: RefCell<HashMap<IpAddr, usize>>,
}

/// A connection's place in the crowd; leaves it when dropped.
struct Place {
    crowd: Rc<Crowd>,
    peer: IpAddr,
}

impl Crowd {
    /// A place for a connection of this client, if there is one.
    fn admit(self: &Rc<Self>, peer: IpAddr) -> Option<Place> {
        let mut by_peer = self.by_peer.borrow_mut();
        let all: usize = by_peer.values().sum();
        let own = by_peer.get(&peer).copied().unwrap_or_default();
        // On loopback all clients look alike.
        let limit = if peer.is_loopback() {
            CONNECTIONS
        } else {
            CONNECTIONS_PER_PEER
        };
        if all >= CONNECTIONS || own >= limit {
            return None;
        }
        by_peer.insert(peer, own + 1);
        Some(Place {
            crowd: self.clone(),
            peer,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_peer = self.crowd.by_peer.borrow_mut();
        if let Some(own) = by_peer.get_mut(&self.peer) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                by_peer.remove(&self.peer);
            }
        }
    }
}

async fn greet(
    tcp: tokio::net::TcpStream,
    peer: SocketAddr,
    tls: Option<Rc<(Tls, Lane)>>,
    activity: Rc<Activity>,
    sweep: &Rc<Sweep>,
) -> Option<(Stream, Option<Box<Accepted>>)> {
    let Some((tls, lane)) = tls.as_deref() else {
        return Some((Stream::Plain(Socket::new(tcp, activity)), None));
    };
    let no_build = |_, _| std::future::ready(Err(Reason::ContextUnavailable));
    let failed = |reason: Reason, detail: &str| {
        let reason = reason.code();
        tracing::info!(reason, detail, %peer, "an admin handshake failed");
    };
    let greeting = handshake::greet(&tls.acceptor, tcp, activity, lane, no_build);
    match with_patience(greeting).await? {
        Ok(Greeting::Tls(stream, accepted)) => {
            tls.agreed.add(&stream.agreed());
            Some((Stream::Tls(stream), Some(accepted)))
        }
        Ok(Greeting::Plain(socket)) => {
            failed(Reason::ClientPlaintextOnTls, "");
            answer_plainly(socket, &tls.to_plain_http, sweep, PATIENCE).await;
            None
        }
        Err(refused) => {
            failed(refused.reason, &refused.detail);
            if let Some(stream) = refused.stream {
                // Its alert would be lost behind what the client sent and nobody reads.
                linger(stream.socket(), sweep, Linger::SHORT).await;
            }
            None
        }
    }
}

async fn with_patience<T>(work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(PATIENCE, Box::pin(work)).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_does_not_keep_the_others_out() {
        let crowd = Rc::new(Crowd::default());
        let (greedy, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let mut held: Vec<_> = std::iter::from_fn(|| crowd.admit(greedy)).collect();
        assert_eq!(held.len(), CONNECTIONS_PER_PEER);
        assert!(crowd.admit(other).is_some());
        held.pop();
        assert!(
            crowd.admit(greedy).is_some(),
            "a place that was left is free again"
        );
    }

    #[test]
    fn a_thousand_writers_on_loopback_have_room() {
        let crowd = Rc::new(Crowd::default());
        let writers: Option<Vec<_>> = (0..1000)
            .map(|_| crowd.admit("127.0.0.1".parse().unwrap()))
            .collect();
        assert!(writers.is_some());
    }
}
