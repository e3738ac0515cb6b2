//! The seam to upstreams: a request's head and body in, a response's head and body out.
//!
//! Behind it are our own HTTP/1.1 and HTTP/2. The rest of the room knows
//! [`UpstreamConn::exchange`] only.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;

use crate::failure::{Reason, chain};
use crate::http2::{self, Group, Stock};
use crate::net::stream::Stream;
use crate::net::sweep::{Sweep, Until, millis};
use crate::proxy::body::RequestBody;
use crate::proxy::flows::{Inflow, Outflow, RestOfBody};
use crate::proxy::forwarded::Forwarded;
use crate::proxy::headers;
use crate::proxy::heads;
use crate::proxy::interim::Interim;
use crate::proxy::multiplex::{Lease, NotOpened, Shared, Unsent};
use crate::proxy::pool::{Bucket, Kept};
use crate::proxy::presence::{Heard, Vigil};
use crate::proxy::single::{self, Rest, Single};
use crate::proxy::upgrade::Switched;
use crate::tls::socket::Activity;
use crate::tls::stream::FaultCell;

/// The content type of a TLS alert record (RFC 8446 §5.1).
const RECORD_ALERT: u8 = 0x15;
/// How long the rest of a body is carried after its request was answered.
const REST_OF_BODY: Duration = Duration::from_secs(30);

/// A connection to an upstream that is ready for a request, or carries one. Boxed wherever it goes: it
/// is passed on from hand to hand with the answer that came over it.
pub struct UpstreamConn {
    /// The answer whose head came, until it is taken.
    answer: Option<Response<AnswerBody>>,
    wire: Wire,
    fault: Option<FaultCell>,
    activity: Rc<Activity>,
    bucket: Rc<Bucket>,
    /// A client certificate was asked for when the session was opened.
    pub asked: bool,
    has_identity: bool,
    /// The upstream ends it after this answer.
    pub ends: bool,
    /// Requests it carried.
    pub served: u32,
    /// What is sent of a stream's request beside its answer.
    rest: Option<RestOfBody>,
}

/// How a request is sent.
enum Wire {
    /// Over a connection of its own.
    One(Rc<Single>),
    /// As a stream of a connection.
    Many(Rc<Lease>),
}

/// How a request is sent, and what becomes of all before its answer.
#[derive(Clone, Copy)]
pub struct Terms<'a> {
    /// The host that a stream is for, where it is not the one that its headers say.
    pub host: Option<&'a HeaderValue>,
    /// Headers that are sent beside the request's own, as its version writes them.
    pub forwarded: Option<&'a Forwarded>,
    /// The longest time without a byte in either direction, in milliseconds; waiting for the client's
    /// body does not count.
    pub patience: u64,
    /// Where interim answers go.
    pub interim: &'a Interim<'a>,
}

/// An exchange that ended without a response head.
pub struct Unanswered {
    /// Why: the connection is of no further use; [`UpstreamConn::explain`] has words for it.
    pub why: Broken,
    /// What of the request reached the upstream.
    pub sent: Sent,
    /// Something of an answer came: a part of its head, or a head that only informs.
    pub is_begun: bool,
    /// The headers of a request that was taken and may be sent once more; of a stream alone.
    pub headers: Option<HeaderMap>,
}

/// What of a request reached the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Not a byte.
    Nothing,
    /// Perhaps all of it.
    Something,
}

/// How an exchange ended without a response head.
pub enum Broken {
    /// It took too long.
    Late,
    /// Because of the client's body; with the detail for the record.
    Client(Reason, String),
    /// With the connection.
    One(single::Error),
    /// With the stream, or its connection.
    Many(http2::Error),
    /// It had no request.
    NoRequest,
    /// Some of the request's headers are written for another version.
    OtherVersion,
    /// The request's Host cannot be said in HTTP/2.
    NoAuthority,
}

/// An answer's content.
pub enum AnswerBody {
    /// All of it.
    Whole(Option<Bytes>),
    /// What comes over a connection of its own.
    One(Rc<Single>),
    /// What comes as a stream of a connection.
    Many(Inflow),
}

/// How an answer's content ended early.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// On a connection of its own.
    #[error(transparent)]
    One(#[from] single::Error),
    /// As a stream of a connection.
    #[error(transparent)]
    Many(#[from] http2::Error),
}

impl AnswerBody {
    /// Fields that its answer's head has beside its headers.
    #[must_use]
    pub fn group(&self) -> Option<&Rc<Group>> {
        match self {
            Self::Many(flow) => flow.group(),
            Self::Whole(_) | Self::One(_) => None,
        }
    }

    /// Takes them: whoever does sees to it that they are said.
    pub fn take_group(&mut self) -> Option<Rc<Group>> {
        match self {
            Self::Many(flow) => flow.take_group(),
            Self::Whole(_) | Self::One(_) => None,
        }
    }

    /// Takes trailers that came with its end and that no frame has.
    pub fn take_ending(&mut self) -> Option<Rc<Group>> {
        match self {
            Self::Many(flow) => flow.take_ending(),
            Self::Whole(_) | Self::One(_) => None,
        }
    }

    /// Whether a part of something came that is passed on once it is complete: a frame of HTTP/2.
    #[must_use]
    pub fn is_coming(&self) -> bool {
        matches!(self, Self::Many(flow) if flow.is_coming())
    }

    /// Whether nothing of it is passed on any more, though its end has not come: an answer without
    /// content over HTTP/2.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        matches!(self, Self::Many(flow) if flow.is_bare())
    }

    /// The content, if all of it is here.
    pub fn take_whole(&mut self) -> Option<Option<Bytes>> {
        match self {
            Self::Whole(content) => Some(content.take()),
            Self::One(_) | Self::Many(_) => None,
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let this = self.get_mut();
        match this {
            Self::Whole(content) => Poll::Ready(content.take().map(|data| Ok(Frame::data(data)))),
            Self::One(conn) => {
                let polled = conn.poll_content(cx).map_err(AnswerError::from);
                if conn.is_end_of_content() {
                    // What it carries from here on is another's.
                    *this = Self::Whole(None);
                }
                polled
            }
            Self::Many(flow) => flow.poll_frame(cx).map_err(AnswerError::from),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(content) => content.is_none(),
            Self::One(conn) => conn.is_end_of_content(),
            Self::Many(flow) => flow.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let length = match self {
            Self::Whole(content) => {
                let count = content.as_ref().map_or(0, Bytes::len);
                Some(u64::try_from(count).unwrap_or(u64::MAX))
            }
            Self::One(conn) => conn.content_length(),
            Self::Many(flow) => flow.left(),
        };
        length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl UpstreamConn {
    /// Speaks HTTP/1.1 over a fresh connection.
    #[must_use]
    pub fn open(stream: Stream, bucket: Rc<Bucket>, has_identity: bool) -> Box<Self> {
        let fault = stream.fault();
        let activity = stream.activity().clone();
        let asked = match &stream {
            Stream::Plain(_) => false,
            Stream::Tls(tls) => tls.certificate_was_asked(),
        };
        Box::new(Self {
            answer: None,
            wire: Wire::One(Single::new(stream, bucket.count_open())),
            fault,
            activity,
            bucket,
            asked,
            has_identity,
            ends: false,
            served: 0,
            rest: None,
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
        sweep: &Rc<Sweep>,
        stock: &Rc<Stock>,
    ) -> Result<Box<Self>, (Reason, String)> {
        let fault = stream.fault();
        let activity = stream.activity().clone();
        let asked = match &stream {
            Stream::Plain(_) => false,
            Stream::Tls(tls) => tls.certificate_was_asked(),
        };
        let requests = bucket.requests();
        let opening = Shared::open(
            stream,
            bucket,
            fault.clone(),
            asked,
            has_identity,
            sweep,
            stock,
        );
        let lease = opening.await.map(|shared| shared.lease(requests));
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
            Some(error) if error.is_violation() => (
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
    pub fn of(lease: Lease) -> Box<Self> {
        let shared = lease.shared().clone();
        Box::new(Self {
            answer: None,
            fault: shared.fault.clone(),
            activity: shared.activity.clone(),
            bucket: shared.bucket.clone(),
            asked: shared.asked,
            has_identity: shared.has_identity,
            ends: false,
            served: shared.served(),
            rest: None,
            wire: Wire::Many(Rc::new(lease)),
        })
    }

    /// Whether the upstream, or an error, ended it. Of an idle one.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        match &self.wire {
            Wire::One(conn) => conn.is_closed(),
            Wire::Many(lease) => lease.shared().is_closed(),
        }
    }

    /// Whether it carries no further request, by what is known without a look at it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        match &self.wire {
            Wire::One(conn) => conn.is_over(),
            Wire::Many(lease) => lease.shared().is_over(),
        }
    }

    /// Whether it is a stream of HTTP/2.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        matches!(self.wire, Wire::Many(_))
    }

    /// What was heard of its peer, where other requests wait for that as well.
    #[must_use]
    pub fn heard(&self) -> Option<Heard> {
        match &self.wire {
            Wire::One(_) => None,
            Wire::Many(lease) => Some(lease.shared().presence.heard()),
        }
    }

    /// Its answer did not go on in time, after what was `heard` when it last did.
    pub fn miss(&self, heard: Heard) {
        if let Wire::Many(lease) = &self.wire {
            lease.shared().presence.miss(heard);
        }
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

    /// The answer that came, if it was not taken.
    #[must_use]
    pub fn answer(&self) -> Option<&Response<AnswerBody>> {
        self.answer.as_ref()
    }

    /// Takes the answer that came. Where there is none it is an empty 500.
    pub fn take_answer(&mut self) -> Response<AnswerBody> {
        self.answer.take().unwrap_or_else(|| {
            let mut none = Response::new(AnswerBody::Whole(None));
            *none.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            none
        })
    }

    /// Takes a request, sends it and waits for the response's head: its status is told, the
    /// [`answer`](Self::answer) stays here until it is taken. Only that of a 101 has headers of one hop.
    /// What a 200 repeats to the letter is not in its map: it lies with its content, as a
    /// [`group`](AnswerBody::group).
    ///
    /// Over HTTP/1.1 a request without a body is not even taken; any other is gone.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn exchange(
        &mut self,
        request: &mut Option<Request<RequestBody>>,
        terms: Terms<'_>,
        sweep: &Rc<Sweep>,
    ) -> Result<StatusCode, Unanswered> {
        self.served = self.served.saturating_add(1);
        match (&self.wire, terms.forwarded) {
            (Wire::One(conn), None | Some(Forwarded::Lines(_))) => {
                let lines = match terms.forwarded {
                    Some(Forwarded::Lines(lines)) => &**lines,
                    Some(Forwarded::Group(_)) | None => &[],
                };
                let conn = conn.clone();
                let answer = self.exchange_one(&conn, request, lines, terms, sweep);
                answer.await.map_err(|why| Unanswered {
                    why,
                    sent: if conn.has_sent() {
                        Sent::Something
                    } else {
                        Sent::Nothing
                    },
                    is_begun: conn.has_heard(),
                    headers: None,
                })
            }
            (Wire::Many(lease), None | Some(Forwarded::Group(_))) => {
                let group = match terms.forwarded {
                    Some(Forwarded::Group(group)) => Some(group),
                    Some(Forwarded::Lines(_)) | None => None,
                };
                let lease = lease.clone();
                let answer = self.exchange_many(&lease, request, group, terms, sweep);
                answer.await
            }
            (Wire::One(_), Some(Forwarded::Group(_)))
            | (Wire::Many(_), Some(Forwarded::Lines(_))) => Err(Unanswered {
                why: Broken::OtherVersion,
                sent: Sent::Nothing,
                is_begun: false,
                headers: None,
            }),
        }
    }

    /// [`exchange`](Self::exchange) over a connection of its own.
    async fn exchange_one(
        &mut self,
        conn: &Rc<Single>,
        request: &mut Option<Request<RequestBody>>,
        lines: &[u8],
        terms: Terms<'_>,
        sweep: &Rc<Sweep>,
    ) -> Result<StatusCode, Broken> {
        let Some(req) = request else {
            return Err(Broken::NoRequest);
        };
        let upload = req.body().upload();
        conn.begin(request, lines);
        loop {
            let until = Until::Idle {
                activity: self.activity.clone(),
                since: sweep.now(),
                limit: terms.patience,
            };
            let answer = poll_fn(|cx| {
                let headers = request.as_mut().map(Request::headers_mut);
                conn.poll_answer(cx, headers)
            });
            match sweep.within(until, answer).await {
                Ok(Ok(resp)) if !heads::is_final(resp.status()) => terms.interim.pass(resp),
                Ok(Ok(resp)) => {
                    upload.answered.set(true);
                    self.ends = conn.is_over();
                    let content = match conn.take_content() {
                        Some(content) => {
                            AnswerBody::Whole(Some(content).filter(|all| !all.is_empty()))
                        }
                        None => AnswerBody::One(conn.clone()),
                    };
                    // Nothing waits for a body that the client may take its time with.
                    conn.carry();
                    let status = resp.status();
                    self.answer = Some(resp.map(|()| content));
                    return Ok(status);
                }
                Ok(Err(error)) => {
                    if error.is_violation() {
                        // What was answered, however badly, is not sent again.
                        *request = None;
                    }
                    return Err(match upload.broken.get() {
                        Some(reason) => Broken::Client(reason, chain(&error)),
                        None => Broken::One(error),
                    });
                }
                Err(_expired) if upload.waits_for_client.get() => {}
                Err(_expired) => return Err(Broken::Late),
            }
        }
    }

    /// [`exchange`](Self::exchange) as a stream. What other streams move says nothing of this one:
    /// it is late when nothing came of its answer, not even a part of a frame, and its body did not move.
    async fn exchange_many(
        &mut self,
        lease: &Rc<Lease>,
        request: &mut Option<Request<RequestBody>>,
        group: Option<&Rc<Group>>,
        terms: Terms<'_>,
        sweep: &Rc<Sweep>,
    ) -> Result<StatusCode, Unanswered> {
        let patience = terms.patience;
        let unsent = |why| Unanswered {
            why,
            sent: Sent::Nothing,
            is_begun: false,
            headers: None,
        };
        let Some(req) = request else {
            return Err(unsent(Broken::NoRequest));
        };
        announce_length(req);
        let is_whole = req.body().is_end_stream();
        let sent = lease.send(req, terms.host, group, is_whole);
        let (mut reader, writer) = sent.map_err(|error| {
            unsent(match error {
                Unsent::NoAuthority => Broken::NoAuthority,
                Unsent::Over(error) => Broken::Many(error),
            })
        })?;
        let Some(req) = request.take() else {
            return Err(unsent(Broken::NoRequest));
        };
        let (head, mut body) = req.into_parts();
        let upload = body.upload();
        let mut sending = writer.map(|writer| {
            body.hold(lease.clone());
            Outflow::new(body, writer)
        });
        let presence = &lease.shared().presence;
        let sent_at = sweep.now();
        let mut vigil = Vigil::begin(presence, sent_at, patience);
        let mut until = sent_at.saturating_add(patience);
        // When the peer took something last, and how much it had taken then.
        let (mut taken_at, mut taken) = (sent_at, None);
        let mut is_begun = false;
        let why = loop {
            let answer = poll_fn(|cx| {
                if let Some(flow) = &mut sending {
                    if flow.poll_sent(cx).is_ready() {
                        sending = None;
                        taken_at = sweep.now();
                    } else if let Some(count) = flow.waits_for_peer()
                        && taken.replace(count) != Some(count)
                    {
                        taken_at = sweep.now();
                    }
                }
                reader.poll_answer(cx)
            });
            let next = until.min(vigil.next_at());
            match sweep.within(Until::At(next), answer).await {
                Ok(Ok(resp)) if resp.status().is_informational() => {
                    // It is not late that tells what it is at.
                    taken_at = sweep.now();
                    until = taken_at.saturating_add(patience);
                    is_begun = true;
                    // What repeats is kept of answers alone: there is no group.
                    terms.interim.pass(resp.map(|_group| ()));
                }
                Ok(Ok(resp)) => {
                    upload.answered.set(true);
                    presence.answered();
                    reader.lend(head.headers);
                    // What is still sent does not wait for who reads the answer.
                    self.rest = sending.map(|flow| flow.send_rest(sweep.clone(), REST_OF_BODY));
                    let (mut answer, group) = resp.into_parts();
                    // What is looked at more closely later is in the map.
                    let passes = |group: &Rc<Group>| {
                        answer.status == StatusCode::OK && headers::passes_downstream(group)
                    };
                    let flow = match group {
                        Some(group) if passes(&group) => Inflow::new(reader, Some(group)),
                        group => {
                            if let Some(group) = group {
                                group.put_into(&mut answer.headers);
                            }
                            let announced = headers::to_downstream(&mut answer.headers);
                            let flow = Inflow::new(reader, None);
                            // Behind content of a known length HTTP/1.1 has none.
                            if let Some(announced) = announced.filter(|_| flow.left().is_none()) {
                                answer.extensions.insert(announced);
                            }
                            flow
                        }
                    };
                    let status = answer.status;
                    self.answer = Some(Response::from_parts(answer, AnswerBody::Many(flow)));
                    return Ok(status);
                }
                Ok(Err(error)) => {
                    break match upload.broken.get() {
                        Some(reason) => Broken::Client(reason, error.to_string()),
                        None => Broken::Many(error),
                    };
                }
                Err(_expired) => {
                    vigil.look(sweep.now());
                    let came_at = if reader.is_coming() {
                        self.activity.read_at()
                    } else {
                        0
                    };
                    let from = if upload.waits_for_client.get() {
                        sweep.now()
                    } else {
                        upload.moved_at.get().max(taken_at).max(came_at)
                    };
                    until = from.saturating_add(patience);
                    if until <= sweep.now() {
                        vigil.give_up();
                        break Broken::Late;
                    }
                }
            }
        };
        Err(Unanswered {
            why,
            sent: Sent::Something,
            is_begun,
            headers: Some(head.headers),
        })
    }

    /// What is left of the connection after a 101 that its request asked for.
    #[must_use]
    pub fn into_switched(self: Box<Self>) -> Option<Switched> {
        match &self.wire {
            Wire::One(conn) => conn.take_switched(),
            Wire::Many(_) => None,
        }
    }

    /// [Puts it back](Self::put_back) when the end of an answer came of which nothing is passed on any
    /// more. Without an end for `patience` milliseconds the stream is reset.
    pub fn put_back_after(
        self: Box<Self>,
        mut answer: AnswerBody,
        sweep: &Rc<Sweep>,
        patience: u64,
    ) {
        let sweep = sweep.clone();
        tokio::task::spawn_local(async move {
            let until = Until::At(sweep.now().saturating_add(patience));
            let end = async { while let Some(Ok(_)) = answer.frame().await {} };
            if sweep.within(until, end).await.is_ok() {
                self.put_back(&sweep);
            }
        });
    }

    /// Returns the connection to its pool, or closes it when it served its share.
    ///
    /// A request may be answered before its body was sent. The rest is still carried, for a while:
    /// so both connections stay in step and serve on.
    pub fn put_back(mut self: Box<Self>, sweep: &Rc<Sweep>) {
        if let Some(rest) = self.rest.take() {
            rest.finish();
        }
        // A stream's place is given back with the last of request and answer.
        let Wire::One(conn) = &self.wire else { return };
        let bucket = self.bucket.clone();
        match conn.rest() {
            Rest::Over => {}
            Rest::Ready => bucket.put(Kept::One(self)),
            Rest::Sending => {
                let (conn, sweep) = (conn.clone(), sweep.clone());
                tokio::task::spawn_local(async move {
                    let sent = poll_fn(|cx| conn.poll_sent(cx));
                    let sent = sweep.within(sweep.after(REST_OF_BODY), sent).await;
                    if sent.is_ok() && conn.rest() == Rest::Ready {
                        bucket.put(Kept::One(self));
                    }
                });
            }
        }
    }

    /// Names what ended an exchange, with the detail for the record. The TLS stream often knows
    /// better why than who read from it.
    #[must_use]
    pub fn explain(self: Box<Self>, broken: &Broken) -> (Reason, String) {
        let (detail, is_violation) = match broken {
            Broken::Late => return (Reason::UpstreamTimeout, "no answer in time".to_owned()),
            Broken::Client(reason, detail) => return (*reason, detail.clone()),
            Broken::NoRequest => {
                return (Reason::Internal, "there is no request to send".to_owned());
            }
            Broken::OtherVersion => {
                let detail = "some of its headers are written for another version".to_owned();
                return (Reason::Internal, detail);
            }
            Broken::NoAuthority => {
                let detail = "its host is no authority of HTTP/2".to_owned();
                return (Reason::AuthorityInvalid, detail);
            }
            Broken::One(error) => (chain(error), error.is_violation()),
            Broken::Many(error) => (chain(error), error.is_violation()),
        };
        let fault = self.fault.as_ref();
        if let Some(fault) = fault.and_then(|fault| fault.borrow().clone()) {
            let reason = fault.upstream_reason(self.asked, self.has_identity);
            return (reason, fault.to_string());
        }
        let alert = fault.is_none() && self.activity.first_byte() == Some(RECORD_ALERT);
        let reason = if alert {
            Reason::UpstreamExpectsTls
        } else if is_violation {
            Reason::UpstreamProtocolError
        } else {
            Reason::UpstreamReset
        };
        (reason, detail)
    }
}

impl Broken {
    /// Whether the upstream says that it did nothing with the request. A stream that it did look at
    /// hears of no GOAWAY.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        match self {
            Self::Many(error) => error.is_refusal(),
            Self::Late
            | Self::Client(..)
            | Self::One(_)
            | Self::NoRequest
            | Self::OtherVersion
            | Self::NoAuthority => false,
        }
    }

    /// Whether the upstream ended this one stream, having looked at it: its connection goes on.
    #[must_use]
    pub fn is_of_one_stream(&self) -> bool {
        matches!(self, Self::Many(http2::Error::Reset(..))) && !self.is_refused()
    }
}

/// Says how long a body is, where that is known and nobody said it: that there is none, where one is
/// to be expected (RFC 9110 §8.6).
fn announce_length(req: &mut Request<RequestBody>) {
    let Some(length) = req.body().size_hint().exact() else {
        return;
    };
    let expects = ![Method::GET, Method::HEAD, Method::DELETE].contains(req.method());
    if (length > 0 || expects) && !req.headers().contains_key(CONTENT_LENGTH) {
        req.headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}

/// A time-out as [`UpstreamConn::exchange`] takes it.
#[must_use]
pub fn patience(duration: Duration) -> u64 {
    millis(duration).max(1)
}

#[cfg(test)]
mod tests;
