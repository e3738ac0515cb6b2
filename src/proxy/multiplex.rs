//! A connection to an upstream that carries many requests at once: HTTP/2 (RFC 9113).
//!
//! It takes streams as long as the peer's limit and the upstream's `keepalive_pool.requests` leave
//! room. Without streams it is idle and lies in its pool, as one of HTTP/1.1 does.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use h2::client::{self, ResponseFuture, SendRequest};
use http::header::{HOST, TE};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Request, Uri, Version};
use tokio::sync::{Notify, oneshot};

use crate::net::stream::Stream;
use crate::net::sweep::Sweep;
use crate::proxy::pool::{Bucket, Kept, Open};
use crate::proxy::presence::Presence;
use crate::tls::socket::Activity;
use crate::tls::stream::FaultCell;

/// Bytes an upstream may send ahead on one stream. On a connection it may send so much for every
/// stream, as towards nginx: one that its client does not read holds up no other.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// The largest head of an answer.
const HEAD_BYTES: u32 = 64 << 10;
/// What says how a connection of HTTP/1.1 goes on, and no message of HTTP/2 may have (RFC 9113
/// §8.2.2): framing, and what a rewrite set.
const CONNECTION_FIELDS: [&str; 5] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
];
/// Request bytes of one stream that wait for the upstream's window.
const SEND_BUFFER: usize = 256 << 10;
/// How long a connection that nobody uses any more may take to end in order.
const FAREWELL: Duration = Duration::from_secs(1);

type Connection = client::Connection<Stream, Bytes>;

/// An open connection, shared by its streams.
pub struct Shared {
    sender: RefCell<SendRequest<Bytes>>,
    streams: Cell<usize>,
    served: Cell<u32>,
    scheme: Scheme,
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
    pub error: Option<h2::Error>,
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
    ) -> Result<Rc<Self>, NotOpened> {
        let activity = stream.activity().clone();
        let scheme = match &stream {
            Stream::Plain(_) => Scheme::HTTP,
            Stream::Tls(_) => Scheme::HTTPS,
        };
        let (sender, conn) = client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEAD_BYTES)
            .max_send_buffer_size(SEND_BUFFER)
            .enable_push(false)
            // None before its settings came: that is how their arrival is seen.
            .initial_max_send_streams(0)
            .handshake(stream)
            .await
            .map_err(|error| NotOpened { error: Some(error) })?;
        let mut conn = settle(conn, &sender).await?;
        let presence = Presence::new(activity.clone(), conn.ping_pong());
        let (in_use, unused) = oneshot::channel();
        let open = bucket.count_open();
        tokio::task::spawn_local(drive(conn, unused, open, sweep.clone()));
        Ok(Rc::new(Self {
            sender: RefCell::new(sender),
            streams: Cell::new(0),
            served: Cell::new(0),
            scheme,
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
        let mut cx = Context::from_waker(Waker::noop());
        let ready = self.sender.borrow_mut().poll_ready(&mut cx);
        matches!(ready, Poll::Ready(Err(_)))
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
        let most = self.sender.borrow().current_max_send_streams();
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
    let has_ended = poll_fn(|cx| match Pin::new(&mut conn).poll(cx) {
        Poll::Ready(_ended) => Poll::Ready(true),
        Poll::Pending => Pin::new(&mut unused).poll(cx).map(|_dropped| false),
    });
    if !has_ended.await {
        // A peer that takes nothing more would not be there for it for a long time.
        let _ended = sweep.within(sweep.after(FAREWELL), conn).await;
    }
    drop(open);
}

/// Waits for the peer's settings.
async fn settle(
    mut conn: Connection,
    sender: &SendRequest<Bytes>,
) -> Result<Connection, NotOpened> {
    let ended = poll_fn(|cx| match Pin::new(&mut conn).poll(cx) {
        Poll::Ready(ended) => Poll::Ready(Some(ended)),
        Poll::Pending if sender.current_max_send_streams() > 0 => Poll::Ready(None),
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

    /// Sends a request's head; it is all of the request, if it `is_whole`.
    ///
    /// # Errors
    /// The connection takes no request any more, or the head is none of HTTP/2: nothing was sent.
    pub fn send(
        &self,
        head: Request<()>,
        is_whole: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        // One of its own: the common one would refuse a request while the one before is queued.
        let mut sender = self.0.sender.borrow().clone();
        sender.send_request(head, is_whole)
    }

    /// Turns a request into one of HTTP/2: `:scheme` and `:authority` instead of Host, no framing,
    /// `te: trailers` because they are passed on (RFC 9113 §8.2.2, §8.3.1).
    ///
    /// # Errors
    /// The Host is no `:authority`; the request is then as it was.
    pub fn address<B>(&self, req: &mut Request<B>) -> Result<(), http::Error> {
        let host = req
            .headers()
            .get(HOST)
            .map_or(&b""[..], HeaderValue::as_bytes);
        let scheme = &self.0.scheme;
        let uri = req.uri();
        let is_said = uri.scheme() == Some(scheme)
            && uri
                .authority()
                .is_some_and(|said| said.as_str().as_bytes() == host);
        if !is_said {
            let target = uri.path_and_query().cloned();
            let uri = Uri::builder()
                .scheme(scheme.clone())
                .authority(host)
                .path_and_query(target.unwrap_or_else(|| PathAndQuery::from_static("/")))
                .build()?;
            *req.uri_mut() = uri;
        }
        let headers = req.headers_mut();
        headers.remove(HOST);
        for name in CONNECTION_FIELDS {
            headers.remove(name);
        }
        headers.insert(TE, HeaderValue::from_static("trailers"));
        *req.version_mut() = Version::HTTP_2;
        Ok(())
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
