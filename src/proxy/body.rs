//! Bodies on their way through: streamed frame by frame, counted, limited, never collected.

use std::cell::Cell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::failure::{Reason, chain};
use crate::http2::{self, Group, Trailers};
use crate::net::sweep::{Limit, Sweep, Until, millis};
use crate::proxy::again::{self, Part, Parts, Return};
use crate::proxy::ahead::Share;
use crate::proxy::conn::{Conn, InFlight, Waiting};
use crate::proxy::exchange::{AnswerBody, UpstreamConn};
use crate::proxy::flows::{Inflow, Outgoing, ResetReason};
use crate::proxy::headers;
use crate::proxy::multiplex::Lease;
use crate::proxy::outcome::Outcome;
use crate::proxy::presence::Heard;

/// How long a body that nobody wants is read, and the longest wait between two reads: nginx's
/// `lingering_time` and `lingering_timeout`.
pub const UNWANTED: Duration = Duration::from_secs(30);
/// See [`UNWANTED`].
pub const UNWANTED_PAUSE: Duration = Duration::from_secs(5);

/// Why a body ended early. The text goes to hyper, which closes the connection, or resets the stream.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client sent nothing more for too long.
    #[error("the client stopped sending its request")]
    ClientSilent,
    /// The client went away, or sent what is no body.
    #[error("the client's request body ended early")]
    ClientGone,
    /// The upstream's answer ended early.
    #[error("the upstream's answer ended early")]
    Upstream,
}

impl ResetReason for BodyError {
    fn reset_reason(&self) -> http2::Reason {
        match self {
            // Its request is not wanted any more (RFC 9113 §7).
            Self::ClientSilent | Self::ClientGone => http2::Reason::CANCEL,
            Self::Upstream => http2::Reason::INTERNAL_ERROR,
        }
    }
}

/// A request's body as its connection gives it.
pub enum ClientBody {
    /// In HTTP/1.1.
    Http1(Incoming),
    /// As a stream of HTTP/2.
    Http2(Inflow),
}

impl ClientBody {
    /// The next part; `None` at its end. An error says that it will not end.
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Http1(incoming) => Pin::new(incoming)
                .poll_frame(cx)
                .map_err(|_broken| BodyError::ClientGone),
            Self::Http2(flow) => flow.poll_frame(cx).map_err(|_reset| BodyError::ClientGone),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(incoming) => incoming.is_end_stream(),
            Self::Http2(flow) => flow.is_end_stream(),
        }
    }

    /// How much is to come, if that is known.
    fn left(&self) -> Option<u64> {
        match self {
            Self::Http1(incoming) => incoming.size_hint().exact(),
            Self::Http2(flow) => flow.left(),
        }
    }

    /// Whether what looks like its end is none: a client resets a stream without an error, though
    /// nothing complete was said.
    fn is_cut(&self) -> bool {
        match self {
            Self::Http1(_) => false,
            Self::Http2(flow) => !flow.is_end_stream(),
        }
    }
}

/// What is known of a request body while it is sent.
#[derive(Debug, Default)]
pub struct Upload {
    /// The client has yet to send more.
    pub waits_for_client: Cell<bool>,
    /// It ended because of the client.
    pub broken: Cell<Option<Reason>>,
    /// It was read to its end.
    pub done: Cell<bool>,
    /// Bytes that came from the client.
    pub received: Cell<u64>,
    /// When a part of it last came or, of what was at hand, went; in the clock's milliseconds.
    pub moved_at: Cell<u64>,
    /// Its request was answered: it is not sent again.
    pub answered: Cell<bool>,
    /// It was asked for: a client that waits for `100 Continue` was told to go on.
    pub asked_for: Cell<bool>,
}

/// Whether all of a body was read ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whole {
    /// All of it.
    Yes,
    /// It has none, or one that is too long.
    No,
}

/// A request's body, from the client to the upstream.
pub struct RequestBody {
    incoming: Option<ClientBody>,
    // The connection does not serve another request before this one's body is over.
    in_flight: Option<InFlight>,
    upload: Rc<Upload>,
    sweep: Rc<Sweep>,
    patience: u64,
    limit: Option<Limit>,
    // Its place among the streams of a connection, until the last of it was sent.
    lease: Option<Rc<Lease>>,
    // What is sent first: it was sent before.
    again: VecDeque<Part>,
    // Where what was sent is kept, while it may have to be sent again.
    kept: Option<Rc<Return>>,
}

impl RequestBody {
    /// A client's body. `patience` is the longest wait between two reads, in milliseconds.
    #[must_use]
    pub fn new(
        incoming: ClientBody,
        in_flight: &InFlight,
        sweep: Rc<Sweep>,
        patience: u64,
    ) -> Self {
        let mut body = Self::empty(sweep);
        body.patience = patience;
        if !incoming.is_end_stream() {
            body.upload.done.set(false);
            body.incoming = Some(incoming);
            body.in_flight = Some(in_flight.clone());
            in_flight.conn().begin_body();
        }
        body
    }

    /// No body, for a repeated request.
    #[must_use]
    pub fn empty(sweep: Rc<Sweep>) -> Self {
        let upload = Upload {
            done: Cell::new(true),
            ..Upload::default()
        };
        Self::at_hand(Rc::new(upload), sweep)
    }

    /// A body that is known as `upload`, of which nothing is to come: it is what was read already.
    pub(super) fn at_hand(upload: Rc<Upload>, sweep: Rc<Sweep>) -> Self {
        Self {
            incoming: None,
            in_flight: None,
            upload,
            sweep,
            patience: 0,
            limit: None,
            lease: None,
            again: VecDeque::new(),
            kept: None,
        }
    }

    /// A body that is at hand.
    #[cfg(test)]
    pub(super) fn of(content: &[Bytes], sweep: Rc<Sweep>) -> Self {
        let mut body = Self::empty(sweep);
        body.upload.done.set(false);
        body.again = content.iter().cloned().map(Part::Data).collect();
        body
    }

    /// Whether there is nothing to send, so that the request can be repeated.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.incoming.is_none() && self.again.is_empty()
    }

    /// Reads it ahead, to find its request's route by it: all of it, if it is no longer than `limit`
    /// bytes; of a longer one no more is read than tells so. What was read is sent first, and has a
    /// `share` of what its worker holds until it was; it is [`first`](Self::first). The client has
    /// `patience` between two parts, as ever.
    ///
    /// # Errors
    /// Why it did not come, with the client to blame; [`Reason::ReadAheadOverload`].
    pub async fn read_ahead(&mut self, limit: usize, mut share: Share) -> Result<Whole, Reason> {
        let length = self.size_hint().exact().map(usize::try_from);
        let length = length.map(|length| length.unwrap_or(usize::MAX));
        if self.is_empty() || length.is_some_and(|length| length > limit) {
            return Ok(Whole::No);
        }
        // Grows as it comes: who only announces much has no room for it.
        let mut read = BytesMut::new();
        let mut trailers = None;
        let is_whole = loop {
            match self.frame().await {
                None => break true,
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        // The rest of the part that is too much is what any body has at hand.
                        let room = limit.saturating_add(1).saturating_sub(read.len());
                        if !share.take(data.len().min(room)) {
                            return Err(Reason::ReadAheadOverload);
                        }
                        read.extend_from_slice(&data);
                    }
                    Err(frame) => trailers = frame.into_trailers().ok(),
                },
                Some(Err(_)) => {
                    return Err(self.upload.broken.get().unwrap_or(Reason::ClientGone));
                }
            }
            if read.len() > limit {
                break false;
            }
        };
        if let Some(trailers) = trailers {
            self.again.push_front(Part::Trailers(trailers));
        }
        if !read.is_empty() {
            self.again.push_front(Part::Data(share.over(read)));
        }
        Ok(if is_whole { Whole::Yes } else { Whole::No })
    }

    /// What is at hand of it and sent first.
    #[must_use]
    pub fn first(&self) -> &[u8] {
        match self.again.front() {
            Some(Part::Data(data)) => data,
            Some(Part::Trailers(_)) | None => b"",
        }
    }

    /// Keeps what is sent of it, as long as that is little and no answer came. Given up before, it is
    /// put into what this returns, to be sent again.
    pub fn keep(&mut self) -> Rc<Return> {
        let way = Rc::new(Return::of(self.upload.clone()));
        self.kept = Some(way.clone());
        way
    }

    /// A part is sent: it is kept, if it may have to be sent again.
    fn passes(&mut self, frame: &Frame<Bytes>) {
        let Some(way) = &self.kept else {
            return;
        };
        if self.upload.answered.get() || !way.keep(Part::of(frame)) {
            way.give_up();
            self.kept = None;
        }
    }

    /// What was not sent of it.
    fn rest(&mut self) -> Self {
        Self {
            incoming: self.incoming.take(),
            in_flight: self.in_flight.take(),
            upload: self.upload.clone(),
            sweep: self.sweep.clone(),
            patience: self.patience,
            limit: None,
            lease: None,
            again: std::mem::take(&mut self.again),
            kept: None,
        }
    }

    /// The same body with these parts before it.
    pub(super) fn behind(mut self, parts: Parts) -> Self {
        for part in parts.into_iter().rev() {
            self.again.push_front(part);
        }
        self
    }

    /// Keeps a stream's place as long as it is sent.
    pub fn hold(&mut self, lease: Rc<Lease>) {
        self.lease = Some(lease);
    }

    /// What is known of it from outside, while hyper holds it.
    #[must_use]
    pub fn upload(&self) -> Rc<Upload> {
        self.upload.clone()
    }

    /// Reads what is left of it and throws it away, for a while: the client can take an answer that
    /// came early, and its connection serves on. Given up, the connection ends after the answer.
    pub fn discard(mut self) {
        let sweep = self.sweep.clone();
        (self.patience, self.limit) = (millis(UNWANTED_PAUSE), None);
        tokio::task::spawn_local(async move {
            let rest = async { while let Some(Ok(_)) = self.frame().await {} };
            let _given_up = sweep.within(sweep.after(UNWANTED), rest).await;
        });
    }

    /// Read to its end.
    fn finish(&mut self) {
        self.incoming = None;
        if let Some(in_flight) = self.in_flight.take() {
            in_flight.conn().end_body();
        }
        self.limit = None;
        self.upload.waits_for_client.set(false);
        self.upload.done.set(true);
    }

    fn wait(&mut self, cx: &Context<'_>) -> Poll<()> {
        self.upload.waits_for_client.set(true);
        let until = Until::At(self.sweep.now().saturating_add(self.patience));
        let limit = self.limit.get_or_insert_with(|| self.sweep.limit(until));
        ready!(limit.poll_expired(cx));
        match (&self.incoming, &self.in_flight) {
            (Some(ClientBody::Http2(flow)), Some(in_flight)) if flow.is_coming() => {
                let until = in_flight.conn().heard_at().saturating_add(self.patience);
                limit.poll_until(until, cx)
            }
            _ => Poll::Ready(()),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.upload.asked_for.set(true);
        if let Some(part) = again::next(&mut self.again) {
            self.upload.moved_at.set(self.sweep.now());
            let frame = part.into_frame();
            self.passes(&frame);
            return Poll::Ready(Some(Ok(frame)));
        }
        let Some(incoming) = &mut self.incoming else {
            return Poll::Ready(None);
        };
        match incoming.poll_frame(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                self.upload.waits_for_client.set(false);
                self.upload.moved_at.set(self.sweep.now());
                self.limit = None;
                if let Some(trailers) = frame.trailers_mut() {
                    headers::trailers_to_upstream(trailers);
                }
                if let Some(data) = frame.data_ref() {
                    let count = u64::try_from(data.len()).unwrap_or(u64::MAX);
                    let received = self.upload.received.get().saturating_add(count);
                    self.upload.received.set(received);
                }
                self.passes(&frame);
                if self
                    .incoming
                    .as_ref()
                    .is_some_and(ClientBody::is_end_stream)
                {
                    self.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.upload.broken.set(Some(Reason::ClientGone));
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) if self.incoming.as_ref().is_some_and(ClientBody::is_cut) => {
                self.upload.broken.set(Some(Reason::ClientGone));
                Poll::Ready(Some(Err(BodyError::ClientGone)))
            }
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
            Poll::Pending => self.wait(cx).map(|()| {
                self.upload.broken.set(Some(Reason::ClientTimeout));
                Some(Err(BodyError::ClientSilent))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.again.is_empty() && self.incoming.as_ref().is_none_or(ClientBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        if let Some(Part::Trailers(_)) = self.again.back() {
            // HTTP/1.1 has trailers behind chunks only.
            return SizeHint::default();
        }
        let rest = self.incoming.as_ref().map_or(Some(0), ClientBody::left);
        let again: usize = self.again.iter().map(Part::len).sum();
        let again = u64::try_from(again).unwrap_or(u64::MAX);
        match rest {
            Some(rest) => SizeHint::with_exact(rest.saturating_add(again)),
            None => SizeHint::default(),
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(way) = self.kept.take() {
            if self.upload.answered.get() || self.upload.broken.get().is_some() {
                way.give_up();
            } else {
                let rest = (!self.is_empty()).then(|| self.rest());
                way.put(rest);
            }
        }
        if let Some(in_flight) = &self.in_flight {
            in_flight.conn().leave_body();
        }
    }
}

/// A response's body, to the client.
pub enum ReplyBody {
    /// Ours, short, whole.
    Whole(Option<Bytes>, Box<Outcome>),
    /// The upstream's.
    Streamed(Box<Streamed>),
    /// None: what follows the head is no HTTP.
    Nothing,
}

impl ReplyBody {
    /// A body that is at hand.
    #[must_use]
    pub fn whole(bytes: Bytes, mut outcome: Box<Outcome>) -> Self {
        outcome.bytes_out = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Self::Whole((!bytes.is_empty()).then_some(bytes), outcome)
    }

    /// Takes fields that its head has beside its headers.
    pub fn take_group(&mut self) -> Option<Rc<Group>> {
        match self {
            Self::Streamed(body) => body.incoming.take_group(),
            Self::Whole(..) | Self::Nothing => None,
        }
    }

    /// Its client took nothing of it for too long.
    pub fn expire(&mut self) {
        let outcome = match self {
            Self::Whole(_, outcome) => outcome,
            Self::Streamed(body) => &mut body.outcome,
            Self::Nothing => return,
        };
        outcome.fail(Reason::ClientTimeout, WHILE_SENT.to_owned());
    }
}

impl Outgoing for RequestBody {}

impl Outgoing for ReplyBody {
    fn take_ending(&mut self) -> Option<Rc<Group>> {
        match self {
            Self::Streamed(body) => body.incoming.take_ending(),
            Self::Whole(..) | Self::Nothing => None,
        }
    }
}

/// When a request ends whose client does not take its answer.
const WHILE_SENT: &str = "while the answer was sent";

/// An upstream's body, with the connection that goes back to its pool at the end.
pub struct Streamed {
    incoming: AnswerBody,
    upstream: Option<Box<UpstreamConn>>,
    outcome: Box<Outcome>,
    conn: Rc<Conn>,
    sweep: Rc<Sweep>,
    limit: Option<Limit>,
    patience: u64,
    /// Since its upstream is waited for; and what had been heard of it then.
    waiting: Option<(Waiting, Option<Heard>)>,
    /// Its head, or its trailers, said that nothing follows.
    has_closed: bool,
    /// How it broke off; told when what came before is on its way.
    broken: Option<BodyError>,
}

impl Streamed {
    /// The body of an answer that arrived over `upstream`. `patience` is the longest wait between
    /// two reads, in milliseconds.
    #[must_use]
    pub fn new(
        incoming: AnswerBody,
        upstream: Box<UpstreamConn>,
        outcome: Box<Outcome>,
        conn: Rc<Conn>,
        sweep: &Rc<Sweep>,
        patience: u64,
    ) -> Self {
        let has_closed = outcome.is_trailers_only;
        let mut body = Self {
            incoming,
            upstream: Some(upstream),
            outcome,
            conn,
            sweep: sweep.clone(),
            limit: None,
            patience,
            waiting: None,
            has_closed,
            broken: None,
        };
        if body.incoming.is_end_stream() {
            body.finish();
        }
        body
    }

    /// Whether what looks like its end is none: a stream that its upstream resets without an error.
    /// One that is complete may be reset as well, to stop what is still sent to it (RFC 9113 §8.1).
    fn is_cut(&self) -> bool {
        self.upstream
            .as_ref()
            .is_some_and(|upstream| upstream.is_stream())
            && !self.has_closed
            && !self.incoming.is_end_stream()
            && self.incoming.size_hint().exact() != Some(0)
    }

    /// The answer is complete: its connection serves again.
    fn finish(&mut self) {
        self.waiting = None;
        if let Some(upstream) = self.upstream.take() {
            upstream.put_back(&self.sweep);
        }
    }

    fn fail(&mut self, reason: Reason, detail: String) -> BodyError {
        self.outcome.fail(reason, detail);
        self.upstream = None;
        self.incoming = AnswerBody::Whole(None);
        BodyError::Upstream
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                self.waiting = None;
                self.conn.progress();
                if let Some(trailers) = frame.trailers_mut() {
                    headers::trailers_to_downstream(trailers);
                    self.has_closed = true;
                }
                if let Some(data) = frame.data_ref() {
                    let count = u64::try_from(data.len()).unwrap_or(u64::MAX);
                    self.outcome.bytes_out = self.outcome.bytes_out.saturating_add(count);
                }
                if self.incoming.is_end_stream() {
                    self.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) if self.is_cut() => {
                let detail = "in the body: its stream was cancelled".to_owned();
                let error = self.fail(Reason::UpstreamReset, detail);
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) => {
                self.finish();
                // Over HTTP/2 they are taken from here.
                let ending = if self.conn.is_http2() {
                    None
                } else {
                    self.incoming.take_ending()
                };
                Poll::Ready(ending.map(|group| Ok(Frame::trailers(Trailers::Known(group).into()))))
            }
            Poll::Ready(Some(Err(error))) => {
                let detail = format!("in the body: {}", chain(&error));
                // A reset, or hyper, throws away what is not written yet, up to the answer's head.
                self.broken = Some(self.fail(Reason::UpstreamReset, detail));
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => {
                let until = Until::At(self.conn.now().saturating_add(self.patience));
                if self.waiting.is_none() {
                    let heard = self.upstream.as_ref().and_then(|upstream| upstream.heard());
                    self.waiting = Some((self.conn.waiting(), heard));
                    if let Some(limit) = &self.limit {
                        limit.reset(until.clone());
                    }
                }
                let limit = self.limit.get_or_insert_with(|| self.sweep.limit(until));
                ready!(limit.poll_expired(cx));
                if let Some(upstream) = &self.upstream {
                    if self.incoming.is_coming() {
                        let came_at = upstream.activity().read_at();
                        ready!(limit.poll_until(came_at.saturating_add(self.patience), cx));
                    }
                    if let Some((_, Some(heard))) = &self.waiting {
                        upstream.miss(*heard);
                    }
                }
                let error = self.fail(Reason::UpstreamTimeout, "in the body".to_owned());
                Poll::Ready(Some(Err(error)))
            }
        }
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        if self.upstream.is_some() {
            // Neither complete nor failed: the client went away, or took nothing more.
            self.outcome.cut(WHILE_SENT);
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Whole(bytes, _) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Streamed(body) => body.poll(cx),
            Self::Nothing => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes, _) => bytes.is_none(),
            Self::Streamed(body) => body.incoming.is_end_stream() && body.broken.is_none(),
            Self::Nothing => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes, _) => {
                let count = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(count).unwrap_or(u64::MAX))
            }
            Self::Streamed(body) => body.incoming.size_hint(),
            Self::Nothing => SizeHint::with_exact(0),
        }
    }
}
