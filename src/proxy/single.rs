//! A connection to an upstream that carries one request at a time: HTTP/1.1 (RFC 9112).
//!
//! It has no task of its own: whoever waits for an answer moves it. Only a request's body that is
//! still on its way when its answer begins is carried by a task, so that neither waits for the other.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, Write};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::task::AbortHandle;

use crate::net::stream::{Rewound, Stream};
use crate::proxy::body::{BodyError, RequestBody};
use crate::proxy::chunked::{self, ChunkError, Chunked, Piece};
use crate::proxy::heads::{self, AnswerHead, Ends, Framing, HeadError, INFORMING_HEADS};
use crate::proxy::pool::Open;
use crate::proxy::repeated::LastHead;
use crate::proxy::upgrade::Switched;

/// Room for an answer's head, and what is read at once of long content: a record of TLS, or more.
const HEAD_ROOM: usize = 4 << 10;
const RECORD: usize = 16 << 10;
const CONTENT_ROOM: usize = 64 << 10;
/// What of a body is written together with what is before it.
const GATHERED: usize = 4 << 10;
/// Content up to so long is copied out of the buffer, so that the buffer is used again.
const COPIED: usize = 8 << 10;

/// The connection.
pub struct Single(RefCell<State>);

struct State {
    /// `None`, once its bytes are another protocol's.
    stream: Option<Stream>,
    open: Option<Open>,
    /// What was read and not understood yet.
    input: BytesMut,
    /// It got more room than heads need.
    is_roomy: bool,
    /// What is to be written first, from `written` on.
    output: Vec<u8>,
    written: usize,
    /// What is to be written then: a part of a body.
    part: Bytes,
    sending: Option<Sending>,
    /// Of the request under way.
    method: Method,
    last_head: LastHead,
    /// Heads that came before its answer.
    informed: u32,
    content: Content,
    /// It cannot carry another request.
    is_over: bool,
    /// Because of an error: it does not end in order.
    is_broken: bool,
    /// Something of the request was taken by the socket.
    has_sent: bool,
    /// Why no more can be written. What comes in may still be an answer.
    unwritable: Option<io::Error>,
    /// What became of the body while its answer was read.
    broken: Option<Error>,
    /// Who reads the answer while a task carries the body.
    reader: Option<Waker>,
    carrier: Option<AbortHandle>,
}

/// A request's body on its way.
struct Sending {
    body: RequestBody,
    framing: Framing,
}

/// What of an answer's content is to come.
enum Content {
    /// Nothing.
    Done,
    /// So many bytes.
    Length(u64),
    Chunked(Chunked),
    /// What comes until the upstream ends the connection.
    UntilEnd,
}

/// Why an exchange ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket's, or TLS's.
    #[error("the connection failed")]
    Io(#[source] io::Error),
    /// The upstream ended it.
    #[error("the connection ended before the answer did")]
    Cut,
    /// What came is no answer.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// What came is no content.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// The request's body ended early.
    #[error("the request's body ended early")]
    Body(#[source] BodyError),
    /// It is longer or shorter than was said.
    #[error("the request's body is not as long as was announced")]
    Length,
}

impl Error {
    /// Whether what the upstream sent is against HTTP/1.1.
    #[must_use]
    pub fn is_violation(&self) -> bool {
        matches!(self, Self::Head(_) | Self::Chunk(_))
    }
}

/// What a connection is after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Ready for a request.
    Ready,
    /// Still sending the body of the one before.
    Sending,
    /// Of no further use.
    Over,
}

impl Single {
    /// A fresh connection.
    #[must_use]
    pub fn new(stream: Stream, open: Open) -> Rc<Self> {
        Rc::new(Self(RefCell::new(State {
            stream: Some(stream),
            open: Some(open),
            input: BytesMut::new(),
            is_roomy: false,
            output: Vec::new(),
            written: 0,
            part: Bytes::new(),
            sending: None,
            method: Method::GET,
            last_head: LastHead::default(),
            informed: 0,
            content: Content::Done,
            is_over: false,
            is_broken: false,
            has_sent: false,
            unwritable: None,
            broken: None,
            reader: None,
            carrier: None,
        })))
    }

    /// Begins a request, whose head has `lines` beside its headers. Without a body it stays where it
    /// is, to be repeated.
    pub fn begin(&self, request: &mut Option<Request<RequestBody>>, lines: &[u8]) {
        let state = &mut *self.0.borrow_mut();
        let Some(req) = request else { return };
        let framing = match req.body().size_hint().exact() {
            _ if req.body().is_empty() => Framing::Nothing,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        state.method.clone_from(req.method());
        heads::write_request(&mut state.output, req, lines, framing);
        state.has_sent = false;
        state.informed = 0;
        if framing != Framing::Nothing {
            let body = request.take().map(Request::into_body);
            state.sending = body.map(|body| Sending { body, framing });
        }
    }

    /// Whether something of the request under way was sent.
    #[must_use]
    pub fn has_sent(&self) -> bool {
        self.0.borrow().has_sent
    }

    /// Whether something of an answer came before its head was read: a part of it, or a head that
    /// only informs.
    #[must_use]
    pub fn has_heard(&self) -> bool {
        let state = self.0.borrow();
        state.informed > 0 || !state.input.is_empty()
    }

    /// Sends the request and reads the next head of its answer: those that only inform come before
    /// the last one (RFC 9110 §15.2). `request_headers` are given up to the last one's, if the request
    /// is still there: it is not to be sent again then.
    pub fn poll_answer(
        &self,
        cx: &mut Context<'_>,
        request_headers: Option<&mut HeaderMap>,
    ) -> Poll<Result<Response<()>, Error>> {
        let state = &mut *self.0.borrow_mut();
        let answer = ready!(state.poll_answer(cx, request_headers));
        if answer.is_err() {
            state.give_up();
        }
        Poll::Ready(answer)
    }

    /// The content of the answer whose head was read, if all of it is here; it is then over.
    pub fn take_content(&self) -> Option<Bytes> {
        let state = &mut *self.0.borrow_mut();
        match state.content {
            Content::Done => Some(Bytes::new()),
            Content::Length(length) => {
                let length = usize::try_from(length).ok()?;
                let content = state.input.get(..length)?;
                let content = if length <= COPIED {
                    let content = Bytes::copy_from_slice(content);
                    state.input.advance(length);
                    content
                } else {
                    state.input.split_to(length).freeze()
                };
                state.content = Content::Done;
                Some(content)
            }
            Content::Chunked(_) | Content::UntilEnd => None,
        }
    }

    /// The next part of the answer's content; `None` at its end.
    pub fn poll_content(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let state = &mut *self.0.borrow_mut();
        let part = ready!(state.poll_content(cx));
        if matches!(part, Some(Err(_))) {
            state.give_up();
        }
        Poll::Ready(part)
    }

    /// Whether no more content comes.
    #[must_use]
    pub fn is_end_of_content(&self) -> bool {
        matches!(self.0.borrow().content, Content::Done)
    }

    /// How much content is to come, if that is known.
    #[must_use]
    pub fn content_length(&self) -> Option<u64> {
        match self.0.borrow().content {
            Content::Done => Some(0),
            Content::Length(left) => Some(left),
            Content::Chunked(_) | Content::UntilEnd => None,
        }
    }

    /// Whether it carries no request after this one.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.borrow().is_over
    }

    /// Whether an idle connection was ended, or said what nobody asked for. What TLS has to say of
    /// itself is heard.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        let state = &mut *self.0.borrow_mut();
        let stream = state.stream.as_ref();
        let mut cx = Context::from_waker(Waker::noop());
        state.is_over |= !state.input.is_empty()
            || stream.is_none_or(Stream::may_have_something)
                && state.poll_fill(&mut cx, 1).is_ready();
        state.is_over
    }

    /// Has the rest of the request's body carried by a task of its own.
    pub fn carry(self: &Rc<Self>) {
        if !self.0.borrow().is_sending() {
            return;
        }
        let conn = Rc::downgrade(self);
        let carrier = tokio::task::spawn_local(poll_fn(move |cx| match conn.upgrade() {
            Some(conn) => conn.poll_sent(cx),
            None => Poll::Ready(()),
        }));
        self.0.borrow_mut().carrier = Some(carrier.abort_handle());
    }

    /// Ready when the request's body was sent, or cannot be.
    pub fn poll_sent(&self, cx: &mut Context<'_>) -> Poll<()> {
        let state = &mut *self.0.borrow_mut();
        if let Err(error) = ready!(state.poll_send(cx)) {
            state.give_up();
            state.broken = Some(error);
            if let Some(reader) = state.reader.take() {
                reader.wake();
            }
        }
        Poll::Ready(())
    }

    /// The answer is over: what is left of the connection. Who is told [`Rest::Sending`] carries the
    /// rest of the body from here on, by [`poll_sent`](Self::poll_sent).
    pub fn rest(&self) -> Rest {
        let state = &mut *self.0.borrow_mut();
        if let Some(carrier) = state.carrier.take() {
            carrier.abort();
        }
        // Bytes behind an answer belong to no request.
        let is_done = matches!(state.content, Content::Done) && state.input.is_empty();
        if state.is_over || !is_done {
            state.is_over = true;
            return Rest::Over;
        }
        if state.is_sending() {
            return Rest::Sending;
        }
        // What long content needed is not held by an idle connection.
        if std::mem::take(&mut state.is_roomy) {
            state.input = BytesMut::new();
        }
        state.output.shrink_to(2 * HEAD_ROOM);
        Rest::Ready
    }

    /// Its bytes, after a 101.
    pub fn take_switched(&self) -> Option<Switched> {
        let state = &mut *self.0.borrow_mut();
        state.is_over = true;
        let stream = state.stream.take()?;
        let prefix = std::mem::take(&mut state.input).freeze();
        let io = Rewound { prefix, stream };
        Some(Switched {
            io,
            open: state.open.take()?,
        })
    }
}

impl State {
    fn give_up(&mut self) {
        self.is_over = true;
        self.is_broken = true;
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        mut request_headers: Option<&mut HeaderMap>,
    ) -> Poll<Result<Response<()>, Error>> {
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            return Poll::Ready(Err(error));
        }
        // What comes where nothing was asked is no answer.
        if !self.has_sent
            && let Some(error) = self.unwritable.take()
        {
            return Poll::Ready(Err(Error::Io(error)));
        }
        loop {
            if !self.input.is_empty()
                && let Some(head) = self.last_head.read_answer(
                    &mut self.input,
                    &self.method,
                    request_headers.as_deref_mut(),
                )?
            {
                if heads::is_final(head.resp.status()) {
                    return Poll::Ready(Ok(self.answered(head)));
                }
                self.informed = self.informed.saturating_add(1);
                if self.informed > INFORMING_HEADS {
                    return Poll::Ready(Err(HeadError::Informing.into()));
                }
                return Poll::Ready(Ok(head.resp));
            }
            match ready!(self.poll_fill(cx, HEAD_ROOM)) {
                Ok(count) if count > 0 => {}
                // What kept us from writing is why it ended.
                ended => {
                    let error = self.unwritable.take().map_or_else(
                        || ended.map_or_else(Error::Io, |_end| Error::Cut),
                        Error::Io,
                    );
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    fn answered(&mut self, head: AnswerHead) -> Response<()> {
        self.content = match head.ends {
            Ends::Length(0) => Content::Done,
            Ends::Length(length) => Content::Length(length),
            Ends::Chunked => Content::Chunked(Chunked::default()),
            Ends::Connection => Content::UntilEnd,
        };
        self.is_over |= head.is_last || head.resp.status() == StatusCode::SWITCHING_PROTOCOLS;
        head.resp
    }

    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            if let Some(piece) = self.next_piece()? {
                return Poll::Ready(match piece {
                    Piece::Data(data) => Some(Ok(Frame::data(data))),
                    Piece::Trailers(trailers) => Some(Ok(Frame::trailers(trailers))),
                    Piece::End => None,
                });
            }
            if let Some(error) = self.broken.take() {
                return Poll::Ready(Some(Err(error)));
            }
            let room = self.room();
            match self.poll_fill(cx, room) {
                Poll::Ready(Ok(0)) if matches!(self.content, Content::UntilEnd) => {
                    self.content = Content::Done;
                    return Poll::Ready(None);
                }
                Poll::Ready(Ok(0)) => return Poll::Ready(Some(Err(Error::Cut))),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(Error::Io(error)))),
                Poll::Pending => {
                    if self.is_sending() {
                        self.reader = Some(cx.waker().clone());
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// What of the content can be told from what was read.
    fn next_piece(&mut self) -> Result<Option<Piece>, Error> {
        let piece = match &mut self.content {
            Content::Done => Some(Piece::End),
            Content::Chunked(chunked) => chunked.read(&mut self.input)?,
            Content::Length(_) | Content::UntilEnd if self.input.is_empty() => None,
            Content::Length(left) => {
                let (data, rest) = chunked::split(&mut self.input, *left);
                *left = rest;
                if rest == 0 {
                    self.content = Content::Done;
                }
                Some(Piece::Data(data))
            }
            Content::UntilEnd => Some(Piece::Data(self.input.split().freeze())),
        };
        // Nothing follows trailers, and who gets them asks no more.
        if matches!(piece, Some(Piece::End | Piece::Trailers(_))) {
            self.content = Content::Done;
        }
        Ok(piece)
    }

    /// How much is worth reading at once.
    fn room(&self) -> usize {
        match self.content {
            Content::Length(left) => usize::try_from(left).unwrap_or(CONTENT_ROOM),
            Content::Done | Content::Chunked(_) | Content::UntilEnd => CONTENT_ROOM,
        }
        .clamp(HEAD_ROOM, CONTENT_ROOM)
    }

    /// Reads what is there, into room for `room` bytes or for a record of TLS.
    fn poll_fill(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<usize>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Ok(0));
        };
        let spare = self.input.capacity() - self.input.len();
        if spare < room.min(RECORD) {
            self.is_roomy |= room > HEAD_ROOM;
            self.input.reserve(room.max(HEAD_ROOM));
        }
        pin!(stream.read_buf(&mut self.input)).poll(cx)
    }

    fn is_sending(&self) -> bool {
        self.sending.is_some() || !self.part.is_empty() || self.written < self.output.len()
    }

    /// Sends as much of the request as can be. What cannot be written is no error yet: the answer
    /// may be there.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while self.is_sending() {
            let gathered = self.poll_gather(cx)?;
            if self.written == self.output.len() && self.part.is_empty() {
                ready!(gathered);
                continue;
            }
            if let Err(error) = ready!(self.poll_write(cx)) {
                self.unwritable = Some(error);
                self.give_up();
                (self.sending, self.part, self.written) = (None, Bytes::new(), 0);
                self.output.clear();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Puts as much of the body as is at hand behind what is to be written. Ready when something
    /// was.
    fn poll_gather(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let mut has_gathered = false;
        while let Some(sending) = &mut self.sending
            && self.part.is_empty()
            && self.output.len() - self.written < GATHERED
        {
            match Pin::new(&mut sending.body).poll_frame(cx) {
                Poll::Pending if has_gathered => break,
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        sending.frame(data, &mut self.output, &mut self.part)?;
                    }
                    if sending.body.is_end_stream() {
                        sending.end(&mut self.output)?;
                        self.sending = None;
                    }
                }
                Poll::Ready(None) => {
                    sending.end(&mut self.output)?;
                    self.sending = None;
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(Error::Body(error))),
            }
            has_gathered = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes something of what is to be written.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let head = self.output.get(self.written..).unwrap_or_default();
        let is_part = head.is_empty();
        let bytes = if is_part { &self.part[..] } else { head };
        let count = ready!(Pin::new(stream).poll_write(cx, bytes))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.has_sent = true;
        if is_part {
            self.part.advance(count);
            if self.part.is_empty() {
                // Even of nothing it would hold the buffer, as long as the connection is idle.
                self.part = Bytes::new();
            }
        } else {
            self.written += count;
            if self.written == self.output.len() {
                self.output.clear();
                self.written = 0;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Sending {
    /// Frames a part of the body.
    fn frame(&mut self, data: Bytes, output: &mut Vec<u8>, part: &mut Bytes) -> Result<(), Error> {
        match &mut self.framing {
            // An empty chunk would be the last one.
            _ if data.is_empty() => {}
            Framing::Nothing => return Err(Error::Length),
            Framing::Length(left) => {
                let count = u64::try_from(data.len()).map_err(|_too_long| Error::Length)?;
                *left = left.checked_sub(count).ok_or(Error::Length)?;
                if data.len() <= GATHERED {
                    output.extend_from_slice(&data);
                } else {
                    *part = data;
                }
            }
            Framing::Chunked => {
                // Writing into memory does not fail.
                let _ = write!(output, "{:x}\r\n", data.len());
                output.extend_from_slice(&data);
                output.extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }

    /// Ends the body. Its trailers are not passed on: no upstream was told of them, and one that
    /// takes them for headers would believe what was checked by nobody (RFC 9110 §6.5.1).
    fn end(&mut self, output: &mut Vec<u8>) -> Result<(), Error> {
        match self.framing {
            Framing::Nothing | Framing::Length(0) => Ok(()),
            Framing::Length(_) => Err(Error::Length),
            Framing::Chunked => {
                output.extend_from_slice(b"0\r\n\r\n");
                Ok(())
            }
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if let Some(carrier) = self.carrier.take() {
            carrier.abort();
        }
        // A request that was broken off does not end in order.
        if self.is_sending() || self.is_broken {
            return;
        }
        if let Some(mut stream) = self.stream.take() {
            // What cannot be said at once is not waited for.
            let mut cx = Context::from_waker(Waker::noop());
            let _ = Pin::new(&mut stream).poll_shutdown(&mut cx);
        }
    }
}

#[cfg(test)]
mod tests;
