//! A connection to an upstream that carries many requests at once: HTTP/2 (RFC 9113).
//!
//! It takes streams as long as the peer's limit and the upstream's `keepalive_pool.requests` leave
//! room. Without streams it is idle and lies in its pool, as one of HTTP/1.1 does.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::Poll;
use std::time::Duration;

use http::header::HOST;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Request};
use tokio::sync::{Notify, oneshot};

use crate::http2::{self, Group, Handle, Limits, Reader, RequestHead, Role, Stock, Writer};
use crate::net::stream::Stream;
use crate::net::sweep::Sweep;
use crate::proxy::pool::{Bucket, Kept, Open};
use crate::proxy::presence::Presence;
use crate::tls::socket::Activity;
use crate::tls::stream::FaultCell;

/// What an upstream is let. On a connection it may send as much ahead for every stream, as towards
/// nginx: one that its client does not read holds up no other.
const LIMITS: Limits = Limits {
    streams: 0,
    stream_window: 256 << 10,
    connection_window: (1 << 31) - 1,
    // The largest head of an answer.
    header_list: 64 << 10,
    untouched: 0,
    // Each of them has its answer refused and costs one request.
    faults: 1024,
    remembered: 128,
};
/// How long a connection that nobody uses any more may take to end in order.
const FAREWELL: Duration = Duration::from_secs(1);

type Connection = http2::Connection<Stream>;

/// An open connection, shared by its streams.
pub struct Shared {
    conn: Handle,
    streams: Cell<u32>,
    served: Cell<u32>,
    is_tls: bool,
    /// The last Host that turned out to be an authority.
    authority: RefCell<Option<HeaderValue>>,
    /// Where its first TLS error will be found.
    pub fault: Option<FaultCell>,
    /// When it moved bytes.
    pub activity: Rc<Activity>,
    /// Whether its peer is there.
    pub presence: Presence,
    /// Where it is kept.
    pub bucket: Rc<Bucket>,
    /// A client certificate was asked for when the session was opened.
    pub asked: bool,
    /// We have a certificate to show.
    pub has_identity: bool,
    /// Dropped with it, of which its task hears.
    _in_use: oneshot::Sender<()>,
}

/// A connection that could not be opened.
pub struct NotOpened {
    /// Why; `None`, if it was ended in peace.
    pub error: Option<http2::Error>,
}

impl Shared {
    /// Says hello and waits for the peer's: its settings say how many streams it takes, and what
    /// speaks no HTTP/2, or refuses our certificate, is told before any request is lost to it.
    ///
    /// # Errors
    /// [`NotOpened`].
    pub async fn open(
        stream: Stream,
        bucket: Rc<Bucket>,
        fault: Option<FaultCell>,
        asked: bool,
        has_identity: bool,
        sweep: &Rc<Sweep>,
        stock: &Rc<Stock>,
    ) -> Result<Rc<Self>, NotOpened> {
        let activity = stream.activity().clone();
        let is_tls = matches!(stream, Stream::Tls(_));
        let conn = Connection::new(stream, Role::Client, LIMITS, stock.clone());
        let conn = settle(conn).await?;
        let handle = conn.handle();
        let presence = Presence::new(activity.clone(), handle.clone());
        let (in_use, unused) = oneshot::channel();
        let open = bucket.count_open();
        tokio::task::spawn_local(drive(conn, unused, open, sweep.clone()));
        Ok(Rc::new(Self {
            conn: handle,
            streams: Cell::new(0),
            served: Cell::new(0),
            is_tls,
            authority: RefCell::default(),
            fault,
            activity,
            presence,
            bucket,
            asked,
            has_identity,
            _in_use: in_use,
        }))
    }

    /// Whether the peer, or an error, ended it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        !self.conn.takes_streams()
    }

    /// Requests it carried.
    #[must_use]
    pub fn served(&self) -> u32 {
        self.served.get()
    }

    /// Whether it takes no request any more, or none for now: its peer is missed.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.presence.is_missed() || self.is_closed()
    }

    /// Takes one more request, if there is room; `requests` is how many it may carry in all.
    pub fn lease(self: &Rc<Self>, requests: u32) -> Option<Lease> {
        let most = self.conn.most_streams();
        if self.is_over() || self.served.get() >= requests || self.streams.get() >= most {
            return None;
        }
        if self.streams.get() == 0 {
            self.bucket.busy(Rc::downgrade(self));
        }
        self.streams.set(self.streams.get().saturating_add(1));
        self.served.set(self.served.get().saturating_add(1));
        Some(Lease(self.clone()))
    }
}

/// Moves a connection to its end. How it ended is told to each of its streams.
async fn drive(
    mut conn: Connection,
    mut unused: oneshot::Receiver<()>,
    open: Open,
    sweep: Rc<Sweep>,
) {
    let has_ended = poll_fn(|cx| match conn.poll_moved(cx) {
        Poll::Ready(_ended) => Poll::Ready(true),
        Poll::Pending => Pin::new(&mut unused).poll(cx).map(|_dropped| false),
    });
    if !has_ended.await {
        conn.leave();
        // A peer that takes nothing more would not be there for it for a long time.
        let ended = poll_fn(|cx| conn.poll_moved(cx));
        let _ended = sweep.within(sweep.after(FAREWELL), ended).await;
    }
    drop(open);
}

/// Waits for the peer's settings, and until they let a stream be begun.
async fn settle(mut conn: Connection) -> Result<Connection, NotOpened> {
    let handle = conn.handle();
    let ended = poll_fn(|cx| match conn.poll_moved(cx) {
        Poll::Ready(ended) => Poll::Ready(Some(ended)),
        Poll::Pending if handle.most_streams() > 0 => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    match ended.await {
        None => Ok(conn),
        Some(ended) => Err(NotOpened { error: ended.err() }),
    }
}

/// A request's place on a connection; given back when dropped, by the request and by its body.
pub struct Lease(Rc<Shared>);

impl Lease {
    /// The connection.
    #[must_use]
    pub fn shared(&self) -> &Rc<Shared> {
        &self.0
    }

    /// Sends a request's head; it is all of the request, if it `is_whole`, and has no content to be
    /// written then. `:authority` is `host`, or else its Host (RFC 9113 §8.3.1); what it says of a
    /// connection is left out, whoever set it. A `group` of fields comes behind its headers.
    ///
    /// # Errors
    /// [`Unsent`]: nothing was sent.
    pub fn send<B>(
        &self,
        req: &Request<B>,
        host: Option<&HeaderValue>,
        group: Option<&Rc<Group>>,
        is_whole: bool,
    ) -> Result<(Reader, Option<Writer>), Unsent> {
        let host = host.or_else(|| req.headers().get(HOST));
        let host = host.ok_or(Unsent::NoAuthority)?;
        let mut known = self.0.authority.borrow_mut();
        if known.as_ref() != Some(host) {
            Authority::try_from(host.as_bytes()).map_err(|_none| Unsent::NoAuthority)?;
            *known = Some(host.clone());
        }
        let path = req.uri().path_and_query().map_or("/", PathAndQuery::as_str);
        let head = RequestHead {
            method: req.method(),
            is_tls: self.0.is_tls,
            authority: host.as_bytes(),
            path,
            headers: req.headers(),
            group,
        };
        Ok(self.0.conn.send(head, is_whole)?)
    }
}

/// Why a request was not sent.
#[derive(Debug)]
pub enum Unsent {
    /// Its Host is no `:authority`.
    NoAuthority,
    /// The connection takes none any more.
    Over(http2::Error),
}

impl From<http2::Error> for Unsent {
    fn from(error: http2::Error) -> Self {
        Self::Over(error)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let left = self.0.streams.get().saturating_sub(1);
        self.0.streams.set(left);
        if left == 0 {
            self.0.bucket.rest(&self.0);
            self.0.bucket.put(Kept::Many(self.0.clone()));
        }
    }
}

/// Connections of a pool that carry streams, and the one that is being opened.
#[derive(Default)]
pub struct Busy {
    carrying: RefCell<Vec<Weak<Shared>>>,
    opening: RefCell<Option<Rc<Opening>>>,
}

/// A connection on its way: others wait for it instead of opening one each.
#[derive(Default)]
pub struct Opening {
    ended: Notify,
    has_failed: Cell<bool>,
}

/// Who opens a connection.
pub enum Turn {
    /// We do; what became of it is told by the handle.
    Ours(Opener),
    /// Another request does.
    Others(Rc<Opening>),
}

/// The right to open a connection, until it is dropped.
pub struct Opener {
    bucket: Rc<Bucket>,
    opening: Rc<Opening>,
}

impl Opener {
    /// It could not be opened.
    pub fn fail(&self) {
        self.opening.has_failed.set(true);
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        self.bucket.many().opening.take();
        self.opening.ended.notify_waiters();
    }
}

impl Opening {
    /// Waits for its end; says whether it failed.
    pub async fn ended(&self) -> bool {
        // It ends only while we wait: who got it has not yielded since.
        self.ended.notified().await;
        self.has_failed.get()
    }
}

impl Busy {
    /// A place on a connection that carries others.
    pub fn join(&self, requests: u32) -> Option<Lease> {
        // Each of them carries streams, so that a lease changes nothing here.
        let carrying = self.carrying.borrow();
        let mut shared = carrying.iter().filter_map(Weak::upgrade);
        shared.find_map(|shared| shared.lease(requests))
    }

    /// A connection got its first stream.
    pub fn add(&self, shared: Weak<Shared>) {
        self.carrying.borrow_mut().push(shared);
    }

    /// A connection lost its last stream.
    pub fn remove(&self, shared: &Rc<Shared>) {
        self.carrying
            .borrow_mut()
            .retain(|other| !std::ptr::eq(other.as_ptr(), Rc::as_ptr(shared)));
    }

    /// Whose turn it is to open one for `bucket`, whose part this is.
    pub fn turn(&self, bucket: &Rc<Bucket>) -> Turn {
        let mut opening = self.opening.borrow_mut();
        if let Some(opening) = &*opening {
            return Turn::Others(opening.clone());
        }
        let ours = Rc::<Opening>::default();
        *opening = Some(ours.clone());
        Turn::Ours(Opener {
            bucket: bucket.clone(),
            opening: ours,
        })
    }
}
