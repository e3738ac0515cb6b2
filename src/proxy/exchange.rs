//! The seam to upstreams: a request's head and body in, a response's head and body out.
//!
//! hyper's HTTP/1 client behind it. The rest of the room knows [`UpstreamConn::exchange`] only.

use std::rc::Rc;
use std::time::Duration;

use http::header::CONNECTION;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;

use crate::failure::Reason;
use crate::net::stream::Stream;
use crate::net::sweep::{Sweep, Until, millis};
use crate::proxy::body::{RequestBody, Upload};
use crate::proxy::pool::Bucket;
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
    sender: SendRequest<RequestBody>,
    driver: JoinHandle<Option<hyper::Error>>,
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
        let driver = tokio::task::spawn_local(async move {
            let ended = conn.await;
            drop(open);
            ended.err()
        });
        Ok(Self {
            sender,
            driver,
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

    /// Whether the upstream, or an error, ended it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// The clock's milliseconds when it last moved bytes.
    #[must_use]
    pub fn used_at(&self) -> u64 {
        self.activity.read_at().max(self.activity.written_at())
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
        let until = Until::At(sweep.now().saturating_add(patience));
        match sweep.within(until, self.sender.ready()).await {
            Ok(ready) => ready.map_err(Broken::Connection)?,
            Err(_expired) => return Err(Broken::Late),
        }
        let sent = match request.take() {
            Some(req) => {
                self.upload = req.body().upload();
                self.sender.try_send_request(req)
            }
            None => return Err(Broken::NoRequest),
        };
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
                    return Ok(resp);
                }
                Ok(Err(mut failure)) => {
                    let unsent = failure.take_message();
                    let error = failure.into_error();
                    if let Some(reason) = self.upload.broken.get() {
                        return Err(Broken::Client(reason, error));
                    }
                    *request = unsent;
                    return Err(Broken::Connection(error));
                }
                Err(_expired) if self.upload.waits_for_client.get() => {}
                Err(_expired) => return Err(Broken::Late),
            }
        }
    }

    /// Returns the connection to its pool, or closes it when it served its share.
    ///
    /// A request may be answered before its body was sent. The rest is still carried, for a while:
    /// so both connections stay in step and serve on.
    pub fn put_back(mut self, sweep: &Rc<Sweep>) {
        let bucket = self.bucket.clone();
        if self.upload.done.get() {
            bucket.put(self);
            return;
        }
        let sweep = sweep.clone();
        tokio::task::spawn_local(async move {
            let rest = sweep
                .within(sweep.after(REST_OF_BODY), self.sender.ready())
                .await;
            if let Ok(Ok(())) = rest {
                bucket.put(self);
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
            Broken::Connection(error) => error,
        };
        let Self {
            sender,
            driver,
            fault,
            activity,
            asked,
            has_identity,
            ..
        } = self;
        drop(sender);
        let own = sweep.within(sweep.after(LAST_WORD), driver).await;
        let own = own.ok().and_then(Result::ok).flatten();
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
        } else if error.is_parse() {
            Reason::UpstreamProtocolError
        } else {
            Reason::UpstreamReset
        };
        (reason, chain(error))
    }
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

/// An error with its causes.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// A time-out as [`UpstreamConn::exchange`] takes it.
#[must_use]
pub fn patience(duration: Duration) -> u64 {
    millis(duration).max(1)
}
