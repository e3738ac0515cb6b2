//! TLS handshakes of accepted connections: bounded for the process, one step at a time.
//!
//! A step of a handshake computes for up to a millisecond. Of a thread's handshakes one computes at
//! a time, and before each step whatever else is ready on the thread is served, so that established
//! connections wait for one step at most. Few are in flight in the process, so that its cores are
//! left to others between the steps: to the client, and to an upstream on the same machine. Where an
//! established connection was served, they are offered the core as well (decision 33).

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::failure::Reason;
use crate::tls::material::Digest;
use crate::tls::peer::{Accepted, Names};
use crate::tls::server::{ListenerAcceptor, ServerContext};
use crate::tls::socket::{Activity, Socket};
use crate::tls::stream::{Step, TlsStream};

/// How long a client may keep its place without sending, all pauses of its handshake together: else a
/// byte now and then would keep it.
const PATIENCE: Duration = Duration::from_millis(2);
/// After a client that did not send in that time, so many give their places back at once if others
/// wait for them: clients that are far away, or silent, must not hold up the rest.
const HURRIED: u32 = 16;
/// The first byte of a TLS record that carries a handshake (RFC 8446 §5.1).
const RECORD_HANDSHAKE: u8 = 0x16;
/// How often a handshake may ask for its context: the snapshot may move while it is built.
const CONTEXT_TRIES: u32 = 4;

/// The places for handshakes in flight, shared by all threads.
#[derive(Clone, Debug)]
pub struct Turns {
    places: Arc<Semaphore>,
    hurried: Arc<AtomicU32>,
}

impl Turns {
    /// So many places, at least one.
    #[must_use]
    pub fn new(places: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places.max(1))),
            hurried: Arc::default(),
        }
    }

    /// Waits for a place, if `place` is none.
    async fn take(&self, place: &mut Place) {
        if place.permit.is_none() {
            // Closed by nobody.
            place.permit = self.places.clone().acquire_owned().await.ok();
        }
    }

    fn are_wanted(&self) -> bool {
        self.places.available_permits() == 0
    }

    /// Whether a handshake that waits for its client may keep its place meanwhile.
    fn may_keep(&self) -> bool {
        let hurry = |left: u32| left.checked_sub(1);
        let order = Ordering::Relaxed;
        !self.are_wanted() || self.hurried.fetch_update(order, order, hurry).is_err()
    }

    /// Waits for the client. It keeps its place for as long as it may.
    async fn wait<T>(&self, place: &mut Place, client: impl Future<Output = T>) -> T {
        tokio::pin!(client);
        if !place.patience.is_zero() && self.may_keep() {
            let since = Instant::now();
            if let Ok(came) = tokio::time::timeout(place.patience, client.as_mut()).await {
                place.patience = place.patience.saturating_sub(since.elapsed());
                return came;
            }
            place.patience = Duration::ZERO;
            if self.are_wanted() {
                self.hurried.store(HURRIED, Ordering::Relaxed);
            }
        }
        drop(place.permit.take());
        client.await
    }
}

/// One handshake's place, while it has one.
#[derive(Debug)]
struct Place {
    permit: Option<OwnedSemaphorePermit>,
    /// How long its client may yet keep it without sending.
    patience: Duration,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            permit: None,
            patience: PATIENCE,
        }
    }
}

/// The handshakes of one thread.
#[derive(Debug)]
pub struct Lane {
    turns: Turns,
    /// Whose is the next step; in the order in which they asked.
    step: Semaphore,
    /// Whether an established connection was served since the last step.
    has_served: Cell<bool>,
}

impl Lane {
    /// A thread's, with the process's places.
    #[must_use]
    pub fn new(turns: Turns) -> Self {
        Self {
            turns,
            step: Semaphore::new(1),
            has_served: Cell::new(false),
        }
    }

    /// An established connection is served on this thread: a request goes on to its upstream, or an
    /// answer back to its client.
    pub fn serves(&self) {
        self.has_served.set(true);
    }

    /// Computes a step when all that the thread had ready was served.
    async fn step<T>(&self, step: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
        // Closed by nobody.
        let _next = self.step.acquire().await.ok();
        // The runtime looks for what the sockets have before it goes on here, and serves that first.
        tokio::task::yield_now().await;
        if self.has_served.take() {
            // Whom something was sent may be on this machine, and have no core: the system lets who
            // computes go on for milliseconds. It is asked for one now, and what came of it is served.
            thread::yield_now();
            tokio::task::yield_now().await;
        }
        poll_fn(step).await
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
    lane: &Lane,
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
    match shake(&mut tls, lane, build).await {
        Ok(()) => {}
        Err((reason, detail)) => return Err(refused(tls, reason, detail)),
    }
    match tls.identify(now()) {
        Ok(accepted) => Ok(Greeting::Tls(Box::new(tls), Box::new(accepted))),
        Err(reason) => Err(refused(tls, reason, "found after the handshake".to_owned())),
    }
}

/// Steps through a handshake.
async fn shake<B, F>(tls: &mut TlsStream, lane: &Lane, build: B) -> Result<(), (Reason, String)>
where
    B: Fn(Digest, Arc<str>) -> F,
    F: Future<Output = Result<Arc<ServerContext>, Reason>>,
{
    let gone = |error: io::Error| (Reason::ClientGone, error.to_string());
    let mut tries = 0;
    let mut failed: Option<(Digest, Reason)> = None;
    let mut place = Place::default();
    loop {
        lane.turns.take(&mut place).await;
        match lane.step(|cx| Poll::Ready(tls.step_accept(cx))).await {
            Step::Done => return Ok(()),
            Step::Failed { reason, detail } => return Err((reason, detail)),
            Step::WantClient => {
                let ready = lane.turns.wait(&mut place, tls.unblocked()).await;
                ready.map_err(gone)?;
            }
            Step::WantContext { key, ssl_id } => {
                drop(place.permit.take());
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::{pending, ready};
    use std::io::Write;
    use std::os::unix::net::UnixStream as Peer;

    use tokio::net::UnixStream;
    use tokio::sync::oneshot;
    use tokio::task::LocalSet;

    use super::*;

    #[tokio::test]
    async fn between_two_steps_the_thread_serves_what_came_meanwhile() {
        let order = Rc::new(RefCell::new(Vec::new()));
        let lane = Rc::new(Lane::new(Turns::new(2)));
        let (client, served) = Peer::pair().unwrap();
        served.set_nonblocking(true).unwrap();
        let served = UnixStream::from_std(served).unwrap();
        let local = LocalSet::new();
        let request = {
            let order = order.clone();
            local.spawn_local(async move {
                served.readable().await.unwrap();
                order.borrow_mut().push("request");
                served
            })
        };
        // The request comes while the first step computes.
        let steps = ["first", "second"].map(|name| {
            let (lane, order) = (lane.clone(), order.clone());
            let mut client = client.try_clone().unwrap();
            local.spawn_local(async move {
                let step = |_: &mut Context<'_>| {
                    client.write_all(b"GET").unwrap();
                    order.borrow_mut().push(name);
                    Poll::Ready(())
                };
                lane.step(step).await;
            })
        });
        for step in steps {
            local.run_until(step).await.unwrap();
        }
        local.run_until(request).await.unwrap();
        assert_eq!(*order.borrow(), ["first", "request", "second"]);
    }

    /// What is served on a thread whose handshake computes a step: a request that is sent on, and
    /// what comes back for it at once.
    async fn served_around_a_step(is_established: bool) -> Vec<&'static str> {
        let order = Rc::new(RefCell::new(Vec::new()));
        let lane = Rc::new(Lane::new(Turns::new(1)));
        let [(mut client, request), (mut upstream, answer)] = [(); 2].map(|()| {
            let (peer, ours) = Peer::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            (peer, UnixStream::from_std(ours).unwrap())
        });
        let local = LocalSet::new();
        let forwarding = {
            let (lane, order) = (lane.clone(), order.clone());
            local.spawn_local(async move {
                request.readable().await.unwrap();
                order.borrow_mut().push("request");
                upstream.write_all(b"200").unwrap();
                if is_established {
                    lane.serves();
                }
                answer.readable().await.unwrap();
                order.borrow_mut().push("answer");
            })
        };
        let step = {
            let order = order.clone();
            local.spawn_local(async move {
                // Both tasks wait for their sockets before the request comes.
                tokio::task::yield_now().await;
                client.write_all(b"GET").unwrap();
                let step = |_: &mut Context<'_>| {
                    order.borrow_mut().push("step");
                    Poll::Ready(())
                };
                lane.step(step).await;
            })
        };
        local.run_until(step).await.unwrap();
        local.run_until(forwarding).await.unwrap();
        order.take()
    }

    #[tokio::test]
    async fn what_established_connections_are_sent_is_waited_for_once_more() {
        let order = served_around_a_step(true).await;
        assert_eq!(order, ["request", "answer", "step"]);
        let order = served_around_a_step(false).await;
        assert_eq!(order, ["request", "step", "answer"]);
    }

    async fn taken(turns: &Turns) -> Place {
        let mut place = Place::default();
        turns.take(&mut place).await;
        assert!(place.permit.is_some());
        place
    }

    #[tokio::test]
    async fn client_that_answers_keeps_its_place_and_a_silent_one_gives_it_back() {
        let turns = Turns::new(1);
        let mut place = taken(&turns).await;
        turns.wait(&mut place, ready(())).await;
        assert!(place.permit.is_some());
        let (answer, answered) = oneshot::channel();
        let silent = {
            let turns = turns.clone();
            tokio::spawn(async move {
                turns.wait(&mut place, answered).await.unwrap();
                place.permit.is_some()
            })
        };
        // There is one place: it can be had only when the silent one has given it back.
        let _other = taken(&turns).await;
        answer.send(()).unwrap();
        assert!(!silent.await.unwrap());
    }

    #[tokio::test]
    async fn after_a_silent_client_the_next_ones_make_room_at_once() {
        let turns = Turns::new(1);
        let keeps = || {
            let turns = turns.clone();
            async move {
                let mut place = taken(&turns).await;
                // Others wait: no place is free.
                let may_keep = turns.may_keep();
                if may_keep {
                    tokio::select! {
                        () = turns.wait(&mut place, pending()) => {}
                        _given_back = taken(&turns) => {}
                    }
                }
                may_keep
            }
        };
        assert!(keeps().await);
        for _ in 0..HURRIED {
            assert!(!keeps().await);
        }
        assert!(keeps().await);
        // Where nobody waits there is no hurry.
        let turns = Turns::new(2);
        turns.hurried.store(HURRIED, Ordering::Relaxed);
        let _place = taken(&turns).await;
        assert!(turns.may_keep());
    }

    #[tokio::test]
    async fn client_that_sends_a_byte_now_and_then_does_not_keep_its_place() {
        let turns = Turns::new(1);
        let mut place = taken(&turns).await;
        let mut pauses = 0;
        while place.permit.is_some() {
            turns
                .wait(&mut place, tokio::time::sleep(PATIENCE / 2))
                .await;
            pauses += 1;
            assert!(pauses < 4, "{place:?}");
        }
        // It gets on where there is a place, and has it for a step.
        turns.take(&mut place).await;
        assert!(place.permit.is_some());
        turns.wait(&mut place, ready(())).await;
        assert!(place.permit.is_none());
    }
}
