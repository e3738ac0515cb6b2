//! Two connections that go on as one, byte for byte, after both went over to another protocol.
//!
//! Each direction reads only what the other side takes, so that a slow peer holds its counterpart
//! back; a side that ends is told to the other, which may go on. A tunnel that rests holds no buffer.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::failure::{Reason, chain};
use crate::net::stream::Rewound;
use crate::net::sweep::{Until, millis};
use crate::proxy::conn::{Conn, Phase, Signal};
use crate::proxy::outcome::Outcome;
use crate::proxy::upgrade::Switched;
use crate::proxy::worker::Worker;
use crate::snapshot::Timeouts;

/// Bytes that are read at once: a record of TLS is no larger (RFC 8446 §5.1).
pub const CHUNK: usize = 16 << 10;
/// Reads of one direction before the other tunnels of the worker have their turn.
const ROUNDS: usize = 16;
/// Without a byte for so long it gives libssl's buffers back, in milliseconds.
const REST: u64 = 1000;

/// Where a request's task leaves the tunnel for the task of its connection.
pub type Handover = Rc<RefCell<Option<Tunnel>>>;

/// A tunnel whose upstream has gone over.
pub struct Tunnel {
    upstream: Switched,
    outcome: Box<Outcome>,
    timeouts: Timeouts,
    is_over: bool,
}

impl Tunnel {
    /// A tunnel that `outcome` tells of. `timeouts` are the upstream's: nothing moves in either
    /// direction for `read`, or the upstream takes nothing for `send`, and it is over, as in nginx.
    #[must_use]
    pub fn new(upstream: Switched, outcome: Box<Outcome>, timeouts: Timeouts) -> Self {
        Self {
            upstream,
            outcome,
            timeouts,
            is_over: false,
        }
    }

    /// Carries bytes between `client` and the upstream until both have ended, or one is broken.
    pub async fn carry(mut self, worker: &Worker, conn: &Conn, client: &mut Rewound) {
        conn.enter(Phase::Tunnel);
        let limits = Limits {
            idle: millis(self.timeouts.read),
            upstream: millis(self.timeouts.send),
            client: millis(worker.settings.body_timeout),
        };
        let ended = self.run(worker, conn, client, limits).await;
        self.is_over = true;
        if let Err((reason, detail)) = ended {
            self.outcome.fail(reason, detail);
        }
    }

    async fn run(
        &mut self,
        worker: &Worker,
        conn: &Conn,
        client: &mut Rewound,
        limits: Limits,
    ) -> Result<(), (Reason, String)> {
        let Self {
            upstream: Switched { io: upstream, .. },
            outcome,
            ..
        } = self;
        let now = worker.sweep.now();
        let (mut up, mut down) = (Flow::new(now), Flow::new(now));
        let mut rests = false;
        let mut armed = now.saturating_add(REST);
        let alarm = worker.sweep.limit(Until::At(armed));
        poll_fn(|cx| {
            if let Some(end) = told(conn, cx) {
                return Poll::Ready(Err(end));
            }
            let now = worker.sweep.now();
            let moved = up.moved.saturating_add(down.moved);
            {
                let mut chunk = worker.chunk.borrow_mut();
                let polled = up.poll(cx, client, upstream, &mut chunk, now);
                outcome.received(up.take_count());
                if let Err(broken) = polled {
                    return Poll::Ready(broken.client_to_upstream(&down));
                }
                let polled = down.poll(cx, upstream, client, &mut chunk, now);
                outcome.sent(down.take_count());
                if let Err(broken) = polled {
                    return Poll::Ready(broken.upstream_to_client(&up));
                }
            }
            if up.is_over() && down.is_over() {
                return Poll::Ready(Ok(()));
            }
            rests &= moved == up.moved.saturating_add(down.moved);
            loop {
                let due = match limits.due(&up, &down, now) {
                    Ok(due) => due,
                    Err(end) => return Poll::Ready(Err(end)),
                };
                let quiet = up.moved_at.max(down.moved_at).saturating_add(REST);
                if !rests && quiet <= now {
                    rests = true;
                    client.stream.free_buffers();
                    upstream.stream.free_buffers();
                }
                let next = if rests { due } else { due.min(quiet) };
                let has_rung = alarm.poll_expired(cx).is_ready();
                if has_rung || next < armed {
                    armed = next;
                    alarm.reset(Until::At(next));
                }
                if !has_rung {
                    return Poll::Pending;
                }
            }
        })
        .await
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if !self.is_over {
            if let Some((reason, detail)) = self.outcome.conn().revoked() {
                self.outcome.fail(reason, detail);
            }
            self.outcome.cut("the tunnel was cut");
        }
    }
}

/// Why the tunnel is to end, if its connection was told so. The end of the process waits for it.
fn told(conn: &Conn, cx: &Context<'_>) -> Option<(Reason, String)> {
    match conn.heed(cx)? {
        Signal::TimeOut => Some((Reason::ClientTimeout, String::new())),
        Signal::Close => conn.revoked(),
        Signal::Drain | Signal::Park => None,
    }
}

/// How long what may last, in milliseconds.
#[derive(Clone, Copy)]
struct Limits {
    /// Nothing moves.
    idle: u64,
    /// The upstream takes nothing.
    upstream: u64,
    /// The client takes nothing.
    client: u64,
}

impl Limits {
    /// When the first of them is met, unless it was.
    fn due(&self, up: &Flow, down: &Flow, now: u64) -> Result<u64, (Reason, String)> {
        let idle = up.moved_at.max(down.moved_at).saturating_add(self.idle);
        let waits = |flow: &Flow, limit: u64| {
            let since = flow.blocked_at.unwrap_or(u64::MAX);
            since.saturating_add(limit)
        };
        let (upstream, client) = (waits(up, self.upstream), waits(down, self.client));
        if upstream <= now {
            let detail = "it took nothing for timeout.send".to_owned();
            return Err((Reason::UpstreamTimeout, detail));
        }
        if client <= now {
            let detail = "it took nothing for limits.body_timeout".to_owned();
            return Err((Reason::ClientTimeout, detail));
        }
        if idle <= now {
            return Err((Reason::TunnelIdle, String::new()));
        }
        Ok(idle.min(upstream).min(client))
    }
}

/// One direction.
struct Flow {
    /// What was read and is not written yet.
    rest: Bytes,
    stage: Stage,
    /// Bytes that were written, in all.
    moved: u64,
    /// Of them, those that nobody asked for yet.
    count: u64,
    moved_at: u64,
    /// Since when nothing of `rest` is taken.
    blocked_at: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    /// Its source has ended.
    Ending,
    /// Its sink was told.
    Over,
}

/// Which end of a direction failed.
enum Broken {
    Source(io::Error),
    Sink(io::Error),
}

impl Flow {
    fn new(now: u64) -> Self {
        Self {
            rest: Bytes::new(),
            stage: Stage::Open,
            moved: 0,
            count: 0,
            moved_at: now,
            blocked_at: None,
        }
    }

    fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Whether its source has said that it sends no more.
    fn has_ended(&self) -> bool {
        self.stage != Stage::Open
    }

    fn take_count(&mut self) -> u64 {
        std::mem::take(&mut self.count)
    }

    /// Carries what there is. The task is woken when there is more, or more is taken.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Rewound,
        to: &mut Rewound,
        chunk: &mut [u8],
        now: u64,
    ) -> Result<(), Broken> {
        for _ in 0..ROUNDS {
            if !self.write_rest(cx, to, now)? {
                return Ok(());
            }
            match self.stage {
                Stage::Over => return Ok(()),
                Stage::Ending => {
                    if let Poll::Ready(told) = Pin::new(&mut *to).poll_shutdown(cx) {
                        self.stage = Stage::Over;
                        told.map_err(Broken::Sink)?;
                    }
                    return Ok(());
                }
                Stage::Open => {}
            }
            let mut buf = ReadBuf::new(chunk);
            match Pin::new(&mut *from).poll_read(cx, &mut buf) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(error)) => return Err(Broken::Source(error)),
                Poll::Ready(Ok(())) => {}
            }
            self.moved_at = now;
            if buf.filled().is_empty() {
                self.stage = Stage::Ending;
                continue;
            }
            self.write(cx, to, buf.filled(), now)?;
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Writes what was read; keeps what is not taken at once.
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Rewound,
        mut bytes: &[u8],
        now: u64,
    ) -> Result<(), Broken> {
        while !bytes.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, bytes) {
                Poll::Ready(written) => {
                    let count = self.wrote(written, now)?;
                    bytes = bytes.get(count..).unwrap_or_default();
                }
                Poll::Pending => {
                    self.blocked_at = Some(now);
                    self.rest = Bytes::copy_from_slice(bytes);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Whether all that was kept is written.
    fn write_rest(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Rewound,
        now: u64,
    ) -> Result<bool, Broken> {
        while !self.rest.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, &self.rest) {
                Poll::Ready(written) => {
                    let count = self.wrote(written, now)?;
                    drop(self.rest.split_to(count.min(self.rest.len())));
                    self.blocked_at = (!self.rest.is_empty()).then_some(now);
                }
                Poll::Pending => return Ok(false),
            }
        }
        Ok(true)
    }

    fn wrote(&mut self, written: io::Result<usize>, now: u64) -> Result<usize, Broken> {
        let count = written.map_err(Broken::Sink)?;
        if count == 0 {
            return Err(Broken::Sink(io::ErrorKind::WriteZero.into()));
        }
        let bytes = u64::try_from(count).unwrap_or(u64::MAX);
        self.moved = self.moved.saturating_add(bytes);
        self.count = self.count.saturating_add(bytes);
        self.moved_at = now;
        Ok(count)
    }
}

impl Broken {
    /// What it means on the way up. `down` is the other direction: a peer that has said its last
    /// word may close without hearing ours.
    fn client_to_upstream(self, down: &Flow) -> Result<(), (Reason, String)> {
        match self {
            Self::Source(_) if down.is_over() => Ok(()),
            Self::Sink(_) if down.has_ended() => Ok(()),
            Self::Source(error) => broke(Reason::ClientGone, &error),
            Self::Sink(error) => broke(Reason::UpstreamReset, &error),
        }
    }

    /// What it means on the way down.
    fn upstream_to_client(self, up: &Flow) -> Result<(), (Reason, String)> {
        match self {
            Self::Source(error) => broke(Reason::UpstreamReset, &error),
            Self::Sink(_) if up.has_ended() => Ok(()),
            Self::Sink(error) => broke(Reason::ClientGone, &error),
        }
    }
}

fn broke(reason: Reason, error: &io::Error) -> Result<(), (Reason, String)> {
    Err((reason, format!("in the tunnel: {}", chain(error))))
}
