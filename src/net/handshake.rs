//! TLS handshakes of accepted connections: bounded for the process, one step at a time.
//!
//! A step of a handshake computes for up to a millisecond. At most cores + 1 are in flight in the
//! process, each yields before it computes, and a client that keeps us waiting gives its place
//! back, so that established connections do not starve in a storm.

use std::future::{Future, poll_fn};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::failure::Reason;
use crate::tls::material::Digest;
use crate::tls::peer::{Accepted, Names};
use crate::tls::server::{ListenerAcceptor, ServerContext};
use crate::tls::socket::{Activity, Socket};
use crate::tls::stream::{Step, TlsStream};

/// How long a client may keep its place without sending, while nobody else waits for one.
const PATIENCE: Duration = Duration::from_millis(5);
/// The first byte of a TLS record that carries a handshake (RFC 8446 §5.1).
const RECORD_HANDSHAKE: u8 = 0x16;
/// How often a handshake may ask for its context: the snapshot may move while it is built.
const CONTEXT_TRIES: u32 = 4;

/// The places for handshakes in flight, shared by all threads.
#[derive(Clone, Debug)]
pub struct Turns(Arc<Semaphore>);

impl Turns {
    /// So many places.
    #[must_use]
    pub fn new(places: usize) -> Self {
        Self(Arc::new(Semaphore::new(places.max(1))))
    }

    fn are_wanted(&self) -> bool {
        self.0.available_permits() == 0
    }

    async fn take(&self) -> Option<OwnedSemaphorePermit> {
        self.0.clone().acquire_owned().await.ok()
    }
}

/// A handshake that did not end well.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub reason: Reason,
    /// OpenSSL's words, for the record.
    pub detail: String,
    /// The server name as sent.
    pub sni: Option<String>,
    /// The ssl that was chosen.
    pub ssl_id: Option<Arc<str>>,
    /// Who the client says it is, where a certificate was read.
    pub shown: Option<Names>,
    /// The connection, so that its alert can be let through before it is closed.
    pub stream: Option<Box<TlsStream>>,
}

/// How an accepted connection begins.
#[derive(Debug)]
pub enum Greeting {
    /// TLS, complete and within its name's policy (or deferring it).
    Tls(Box<TlsStream>, Box<Accepted>),
    /// The client does not speak TLS; nothing was read.
    Plain(Socket),
}

/// Greets a client on a TLS listener: peeks, shakes hands, identifies.
///
/// `build` is asked for the name's context when it is not in the cache.
///
/// # Errors
/// [`Refused`]. A client that closes before its first byte is `ClientGone`.
pub async fn greet<B, F>(
    acceptor: &ListenerAcceptor,
    tcp: TcpStream,
    activity: Rc<Activity>,
    turns: &Turns,
    build: B,
) -> Result<Greeting, Refused>
where
    B: Fn(Digest, Arc<str>) -> F,
    F: Future<Output = Result<Arc<ServerContext>, Reason>>,
{
    let mut first = [0];
    match tcp.peek(&mut first).await {
        Ok(1) if first == [RECORD_HANDSHAKE] => {}
        Ok(1) => return Ok(Greeting::Plain(Socket::new(tcp, activity))),
        Ok(_) => return Err(Refused::unread(Reason::ClientGone, String::new())),
        Err(error) => return Err(Refused::unread(Reason::ClientGone, error.to_string())),
    }
    let mut tls = match acceptor.open(Socket::new(tcp, activity)) {
        Ok(tls) => tls,
        Err(error) => return Err(Refused::unread(Reason::Internal, error.to_string())),
    };
    match shake(&mut tls, turns, build).await {
        Ok(()) => {}
        Err((reason, detail)) => return Err(refused(tls, reason, detail)),
    }
    match tls.identify(now()) {
        Ok(accepted) => Ok(Greeting::Tls(Box::new(tls), Box::new(accepted))),
        Err(reason) => Err(refused(tls, reason, "found after the handshake".to_owned())),
    }
}

/// Steps through a handshake, taking a turn for each computation.
async fn shake<B, F>(tls: &mut TlsStream, turns: &Turns, build: B) -> Result<(), (Reason, String)>
where
    B: Fn(Digest, Arc<str>) -> F,
    F: Future<Output = Result<Arc<ServerContext>, Reason>>,
{
    let gone = |error: io::Error| (Reason::ClientGone, error.to_string());
    let mut tries = 0;
    let mut failed: Option<(Digest, Reason)> = None;
    let mut turn = None;
    loop {
        if turn.is_none() {
            turn = turns.take().await;
        }
        // Lets the I/O driver be polled: connections that are established go first.
        tokio::task::yield_now().await;
        match poll_fn(|cx| Poll::Ready(tls.step_accept(cx))).await {
            Step::Done => return Ok(()),
            Step::Failed { reason, detail } => return Err((reason, detail)),
            Step::WantClient => {
                let wait = tls.unblocked();
                tokio::pin!(wait);
                let at_once = async {
                    if turns.are_wanted() {
                        return None;
                    }
                    tokio::time::timeout(PATIENCE, wait.as_mut()).await.ok()
                };
                let ready = at_once.await;
                let ready = match ready {
                    Some(ready) => ready,
                    None => {
                        drop(turn.take());
                        wait.await
                    }
                };
                ready.map_err(gone)?;
            }
            Step::WantContext { key, ssl_id } => {
                drop(turn.take());
                tries += 1;
                if tries > CONTEXT_TRIES {
                    let detail = "its context was replaced again and again".to_owned();
                    return Err((Reason::ContextUnavailable, detail));
                }
                if let Some((_, reason)) = failed.filter(|(failed, _)| *failed == key) {
                    return Err((reason, String::new()));
                }
                match build(key, ssl_id).await {
                    Ok(context) => tls.hand(context),
                    // What it was to be built from may be gone because another took its place.
                    Err(reason) => failed = Some((key, reason)),
                }
            }
        }
    }
}

impl Refused {
    /// A refusal before anything was read of who is meant.
    #[must_use]
    pub fn unread(reason: Reason, detail: String) -> Self {
        Self {
            reason,
            detail,
            sni: None,
            ssl_id: None,
            shown: None,
            stream: None,
        }
    }
}

fn refused(tls: TlsStream, reason: Reason, detail: String) -> Refused {
    let (sni, ssl_id, shown) = (tls.sni(), tls.chosen_ssl(), tls.shown());
    Refused {
        reason,
        detail,
        sni,
        ssl_id,
        shown,
        stream: Some(Box::new(tls)),
    }
}

/// Epoch seconds.
fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or_default()
}
