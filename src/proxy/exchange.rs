//! The seam to upstreams: a request's head and body in, a response's head and body out.
//!
//! hyper's clients behind it, of HTTP/1.1 and of HTTP/2. The rest of the room knows
//! [`UpstreamConn::exchange`] only.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use http::header::CONNECTION;
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;

use crate::failure::{Reason, chain};
use crate::net::stream::{Rewound, Stream};
use crate::net::sweep::{Sweep, Until, millis};
use crate::proxy::body::{RequestBody, Upload};
use crate::proxy::multiplex::{self, Lease, NotOpened, Shared};
use crate::proxy::pool::{Bucket, Kept, Open};
use crate::proxy::upgrade::{self, Switched};
use crate::tls::socket::Activity;
use crate::tls::stream::FaultCell;

/// The content type of a TLS alert record (RFC 8446 §5.1).
const RECORD_ALERT: u8 = 0x15;
/// How long the rest of a body is carried after its request was answered.
const REST_OF_BODY: Duration = Duration::from_secs(30);
/// How long a failed connection's own error is waited for.
const LAST_WORD: Duration = Duration::from_secs(1);

/// A connection to an upstream that is ready for a request, or carries one.
pub struct UpstreamConn {
    wire: Wire,
    fault: Option<FaultCell>,
    activity: Rc<Activity>,
    bucket: Rc<Bucket>,
    /// A client certificate was asked for when the session was opened.
    pub asked: bool,
    has_identity: bool,
    upload: Rc<Upload>,
    /// The upstream ends it after this answer.
    pub ends: bool,
    /// Requests it carried.
    pub served: u32,
}

/// How a request is sent.
enum Wire {
    /// Over a connection of its own.
    One {
        sender: SendRequest<RequestBody>,
        driver: JoinHandle<Driven>,
        /// What is left of the connection is asked for: its request may make it one of another
        /// protocol.
        may_switch: Rc<Cell<bool>>,
    },
    /// As a stream of a connection.
    Many(Rc<Lease>),
}

/// How a connection of HTTP/1.1 ended.
enum Driven {
    /// With its HTTP.
    Over(Option<hyper::Error>),
    /// Its bytes go on.
    Switched(Switched),
}

/// How an exchange ended without a response head.
pub enum Broken {
    /// It took too long.
    Late,
    /// Because of the client's body.
    Client(Reason, hyper::Error),
    /// With the connection.
    Connection(hyper::Error),
    /// It had no request.
    NoRequest,
    /// The request's Host cannot be said in HTTP/2.
    NoAuthority,
}

impl UpstreamConn {
    /// Speaks HTTP/1.1 over a fresh connection.
    ///
    /// # Errors
    /// hyper's own; none before the first byte.
    pub async fn open(
        stream: Stream,
        bucket: Rc<Bucket>,
        has_identity: bool,
    ) -> Result<Self, hyper::Error> {
        let fault = stream.fault();
        let activity = stream.activity().clone();
        let asked = match &stream {
            Stream::Plain(_) => false,
            Stream::Tls(tls) => tls.certificate_was_asked(),
        };
        let (sender, conn) = http1::Builder::new()
            .handshake(TokioIo::new(stream))
            .await?;
        let open = bucket.count_open();
        let may_switch = Rc::<Cell<bool>>::default();
        let driver = tokio::task::spawn_local(drive(conn, open, may_switch.clone()));
        let wire = Wire::One {
            sender,
            driver,
            may_switch,
        };
        Ok(Self {
            wire,
            fault,
            activity,
            bucket,
            asked,
            has_identity,
            upload: Rc::default(),
            ends: false,
            served: 0,
        })
    }

    /// Speaks HTTP/2 over a fresh connection, and takes its first stream.
    ///
    /// # Errors
    /// Why it cannot be used, with the detail for the record; nothing of a request was sent.
    pub async fn open_many(
        stream: Stream,
        bucket: Rc<Bucket>,
        has_identity: bool,
    ) -> Result<Self, (Reason, String)> {
        let fault = stream.fault();
        let activity = stream.activity().clone();
        let asked = match &stream {
            Stream::Plain(_) => false,
            Stream::Tls(tls) => tls.certificate_was_asked(),
        };
        let requests = bucket.requests();
        let opened = Shared::open(stream, bucket, fault.clone(), asked, has_identity).await;
        let lease = opened.map(|shared| shared.lease(requests));
        let error = match lease {
            Ok(Some(lease)) => return Ok(Self::of(lease)),
            Ok(None) => {
                let detail = "it takes no stream of HTTP/2".to_owned();
                return Err((Reason::UpstreamProtocolError, detail));
            }
            Err(NotOpened { error }) => error,
        };
        if let Some(fault) = fault.as_ref().and_then(|fault| fault.borrow().clone()) {
            let reason = fault.upstream_reason(asked, has_identity);
            return Err((reason, fault.to_string()));
        }
        if fault.is_none() && activity.first_byte() == Some(RECORD_ALERT) {
            let detail = "it answered HTTP/2 with a TLS alert".to_owned();
            return Err((Reason::UpstreamExpectsTls, detail));
        }
        Err(match error {
            Some(error) if is_violation(&error) => (
                Reason::UpstreamProtocolError,
                format!("it does not speak HTTP/2: {}", chain(&error)),
            ),
            Some(error) => (Reason::UpstreamReset, chain(&error)),
            None => (
                Reason::UpstreamReset,
                "it ended the connection before its HTTP/2 settings".to_owned(),
            ),
        })
    }

    /// A stream of a connection.
    #[must_use]
    pub fn of(lease: Lease) -> Self {
        let shared = lease.shared().clone();
        Self {
            fault: shared.fault.clone(),
            activity: shared.activity.clone(),
            bucket: shared.bucket.clone(),
            asked: shared.asked,
            has_identity: shared.has_identity,
            upload: Rc::default(),
            ends: false,
            served: shared.served(),
            wire: Wire::Many(Rc::new(lease)),
        }
    }

    /// Whether the upstream, or an error, ended it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        match &self.wire {
            Wire::One { sender, .. } => sender.is_closed(),
            Wire::Many(lease) => lease.shared().is_closed(),
        }
    }

    /// Whether it is a stream of HTTP/2.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        matches!(self.wire, Wire::Many(_))
    }

    /// When it moved bytes.
    #[must_use]
    pub fn activity(&self) -> &Rc<Activity> {
        &self.activity
    }

    /// Where it is kept while it is idle.
    #[must_use]
    pub fn bucket(&self) -> Rc<Bucket> {
        self.bucket.clone()
    }

    /// Takes a request, sends it and waits for the response's head. A request of which no byte was
    /// sent is put back.
    ///
    /// `patience`: the longest time without a byte in either direction, in milliseconds; waiting
    /// for the client's body does not count.
    ///
    /// # Errors
    /// [`Broken`]: the connection is of no further use; [`UpstreamConn::explain`] says why.
    pub async fn exchange(
        &mut self,
        request: &mut Option<Request<RequestBody>>,
        sweep: &Rc<Sweep>,
        patience: u64,
    ) -> Result<Response<Incoming>, Broken> {
        self.served = self.served.saturating_add(1);
        let (sender, may_switch) = match &mut self.wire {
            Wire::One {
                sender, may_switch, ..
            } => (sender, may_switch),
            Wire::Many(lease) => {
                let lease = lease.clone();
                return self.exchange_many(&lease, request, sweep, patience).await;
            }
        };
        let until = Until::At(sweep.now().saturating_add(patience));
        match sweep.within(until, sender.ready()).await {
            Ok(ready) => ready.map_err(Broken::Connection)?,
            Err(_expired) => return Err(Broken::Late),
        }
        let Some(mut req) = request.take() else {
            return Err(Broken::NoRequest);
        };
        multiplex::frame(&mut req);
        may_switch.set(upgrade::is_asked(req.headers()));
        self.upload = req.body().upload();
        let sent = sender.try_send_request(req);
        tokio::pin!(sent);
        loop {
            let until = Until::Idle {
                activity: self.activity.clone(),
                since: sweep.now(),
                limit: patience,
            };
            match sweep.within(until, sent.as_mut()).await {
                Ok(Ok(resp)) => {
                    self.ends = is_last(&resp);
                    if resp.status() != StatusCode::SWITCHING_PROTOCOLS {
                        may_switch.set(false);
                    }
                    return Ok(resp);
                }
                Ok(Err(failure)) => return Err(self.failed(failure, request)),
                Err(_expired) if self.upload.waits_for_client.get() => {}
                Err(_expired) => return Err(Broken::Late),
            }
        }
    }

    /// [`exchange`](Self::exchange) as a stream. What other streams move says nothing of this one:
    /// it is late when neither its answer began nor its body moved.
    async fn exchange_many(
        &mut self,
        lease: &Rc<Lease>,
        request: &mut Option<Request<RequestBody>>,
        sweep: &Rc<Sweep>,
        patience: u64,
    ) -> Result<Response<Incoming>, Broken> {
        let Some(mut req) = request.take() else {
            return Err(Broken::NoRequest);
        };
        if lease.address(&mut req).is_err() {
            *request = Some(req);
            return Err(Broken::NoAuthority);
        }
        req.body_mut().hold(lease.clone());
        self.upload = req.body().upload();
        let mut sender = lease.sender();
        let sent = sender.try_send_request(req);
        drop(sender);
        tokio::pin!(sent);
        let mut until = sweep.now().saturating_add(patience);
        loop {
            match sweep.within(Until::At(until), sent.as_mut()).await {
                Ok(Ok(resp)) => {
                    self.upload.answered.set(true);
                    return Ok(resp);
                }
                Ok(Err(failure)) => {
                    let broken = self.failed(failure, request);
                    if let Some(req) = request {
                        multiplex::unaddress(req);
                        req.body_mut().release();
                    }
                    return Err(broken);
                }
                Err(_expired) => {
                    let from = if self.upload.waits_for_client.get() {
                        sweep.now()
                    } else {
                        self.upload.moved_at.get()
                    };
                    until = from.saturating_add(patience);
                    if until <= sweep.now() {
                        return Err(Broken::Late);
                    }
                }
            }
        }
    }

    /// What became of a request that got no answer; it is back in `request`, if it was not sent.
    fn failed(
        &self,
        mut failure: TrySendError<Request<RequestBody>>,
        request: &mut Option<Request<RequestBody>>,
    ) -> Broken {
        let unsent = failure.take_message();
        let error = failure.into_error();
        if let Some(reason) = self.upload.broken.get() {
            return Broken::Client(reason, error);
        }
        *request = unsent;
        Broken::Connection(error)
    }

    /// What is left of the connection after a 101 that its request asked for.
    pub async fn into_switched(self) -> Option<Switched> {
        let Wire::One { driver, .. } = self.wire else {
            return None;
        };
        match driver.await {
            Ok(Driven::Switched(switched)) => Some(switched),
            Ok(Driven::Over(_)) | Err(_) => None,
        }
    }

    /// Returns the connection to its pool, or closes it when it served its share.
    ///
    /// A request may be answered before its body was sent. The rest is still carried, for a while:
    /// so both connections stay in step and serve on.
    pub fn put_back(mut self, sweep: &Rc<Sweep>) {
        let bucket = self.bucket.clone();
        if matches!(self.wire, Wire::Many(_)) {
            // Its place is given back with the last of request and answer.
            return;
        }
        if self.upload.done.get() {
            bucket.put(Kept::One(self));
            return;
        }
        let sweep = sweep.clone();
        tokio::task::spawn_local(async move {
            let Wire::One { sender, .. } = &mut self.wire else {
                return;
            };
            let rest = sweep
                .within(sweep.after(REST_OF_BODY), sender.ready())
                .await;
            if let Ok(Ok(())) = rest {
                bucket.put(Kept::One(self));
            }
        });
    }

    /// Names what ended an exchange, with the detail for the record. hyper often says only that it
    /// was cancelled, while the TLS stream and the connection's own task know why.
    pub async fn explain(self, broken: Broken, sweep: &Rc<Sweep>) -> (Reason, String) {
        let error = match broken {
            Broken::Late => return (Reason::UpstreamTimeout, "no answer in time".to_owned()),
            Broken::Client(reason, error) => return (reason, error.to_string()),
            Broken::NoRequest => {
                return (Reason::Internal, "there is no request to send".to_owned());
            }
            Broken::NoAuthority => {
                let detail = "its host is no authority of HTTP/2".to_owned();
                return (Reason::AuthorityInvalid, detail);
            }
            Broken::Connection(error) => error,
        };
        let Self {
            wire,
            fault,
            activity,
            asked,
            has_identity,
            ..
        } = self;
        let own = match wire {
            Wire::One { sender, driver, .. } => {
                drop(sender);
                match sweep.within(sweep.after(LAST_WORD), driver).await {
                    Ok(Ok(Driven::Over(own))) => own,
                    Ok(Ok(Driven::Switched(_)) | Err(_)) | Err(_) => None,
                }
            }
            // A stream's error has its connection's.
            Wire::Many(_) => None,
        };
        if let Some(fault) = fault.as_ref().and_then(|fault| fault.borrow().clone()) {
            return (
                fault.upstream_reason(asked, has_identity),
                fault.to_string(),
            );
        }
        let error = own.as_ref().unwrap_or(&error);
        let alert = fault.is_none() && activity.first_byte() == Some(RECORD_ALERT);
        let reason = if alert {
            Reason::UpstreamExpectsTls
        } else if error.is_parse() || is_violation(error) {
            Reason::UpstreamProtocolError
        } else {
            Reason::UpstreamReset
        };
        (reason, chain(error))
    }
}

/// Runs a connection to its end, which it says to the upstream; unless its bytes are asked for.
async fn drive(
    mut conn: http1::Connection<TokioIo<Stream>, RequestBody>,
    open: Open,
    may_switch: Rc<Cell<bool>>,
) -> Driven {
    if let Err(error) = poll_fn(|cx| conn.poll_without_shutdown(cx)).await {
        return Driven::Over(Some(error));
    }
    let left = conn.into_parts();
    let mut stream = left.io.into_inner();
    if may_switch.get() {
        let prefix = left.read_buf;
        let io = Rewound { prefix, stream };
        return Driven::Switched(Switched { io, open });
    }
    // Where the upstream was first, there is nobody left to say it to.
    let _ = stream.shutdown().await;
    Driven::Over(None)
}

impl Broken {
    /// Whether the upstream says that it did nothing with the request (RFC 9113 §8.7).
    #[must_use]
    pub fn is_refused(&self) -> bool {
        match self {
            Self::Connection(error) => http2_cause(error)
                .is_some_and(|cause| cause.reason() == Some(h2::Reason::REFUSED_STREAM)),
            Self::Late | Self::Client(..) | Self::NoRequest | Self::NoAuthority => false,
        }
    }
}

/// Whether what the upstream sent is against HTTP/2.
fn is_violation(error: &hyper::Error) -> bool {
    http2_cause(error).is_some_and(h2::Error::is_library)
}

fn http2_cause(error: &hyper::Error) -> Option<&h2::Error> {
    std::error::Error::source(error)?.downcast_ref()
}

/// Whether a connection ends with this answer (RFC 9112 §9.3).
fn is_last(resp: &Response<Incoming>) -> bool {
    let options = resp.headers().get_all(CONNECTION).iter();
    let mut options = options
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','));
    resp.version() == Version::HTTP_10
        || options.any(|option| option.trim().eq_ignore_ascii_case("close"))
}

/// A time-out as [`UpstreamConn::exchange`] takes it.
#[must_use]
pub fn patience(duration: Duration) -> u64 {
    millis(duration).max(1)
}
