//! A stream as its user holds it: who reads the peer's message, and who sends ours.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::core::Core;
use super::error::{Error, Reason};
use super::message::{Answer, Trailers};
use super::stream::{Half, Stream};

/// Who reads what comes on a stream. Dropped, what still comes is thrown away; with its [`Writer`], the
/// stream is reset, if it is not over.
#[derive(Debug)]
pub struct Reader {
    core: Rc<RefCell<Core>>,
    key: usize,
}

/// Who sends on a stream. Dropped, what was begun is not ended; with its [`Reader`], the stream is
/// reset, if it is not over.
#[derive(Debug)]
pub struct Writer {
    core: Rc<RefCell<Core>>,
    key: usize,
}

/// A part of a message behind its head.
#[derive(Debug)]
pub enum Piece {
    /// Of its content.
    Data(Bytes),
    /// Its end.
    Trailers(Trailers),
}

impl Reader {
    pub(super) fn new(core: Rc<RefCell<Core>>, key: usize) -> Self {
        Self { core, key }
    }

    /// Lends a map, which is emptied, for the answer's fields.
    pub fn lend(&mut self, mut map: HeaderMap) {
        map.clear();
        if let Some(stream) = self.core.borrow_mut().streams.get_mut(self.key) {
            stream.spare = Some(map);
        }
    }

    /// The next head of the answer to a request that was sent: those that only inform come before
    /// the last one (RFC 9110 §15.2).
    ///
    /// # Errors
    /// Why there will be none.
    pub fn poll_answer(&mut self, cx: &Context<'_>) -> Poll<Result<Answer, Error>> {
        let mut core = self.core.borrow_mut();
        let Some(stream) = core.streams.get_mut(self.key) else {
            return Poll::Ready(Err(Error::Over));
        };
        let head = stream.informing.pop_front();
        if let Some(head) = head.or_else(|| stream.answer.take()) {
            return Poll::Ready(Ok(head));
        }
        match &stream.broken {
            Some(error) => Poll::Ready(Err(error.clone())),
            None => stream.reader.pend(cx),
        }
    }

    /// The next part of the message; `None` at its end. What came makes room for as much again when it
    /// is taken. What came before the stream was reset is still given.
    pub fn poll_piece(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Piece, Error>>> {
        let mut core = self.core.borrow_mut();
        let part = ready!(core.poll_content(self.key, cx));
        Poll::Ready(match part {
            Some(Ok(part)) => Some(Ok(Piece::Data(part))),
            Some(Err(error)) => Some(Err(error)),
            None => core
                .streams
                .get_mut(self.key)
                .and_then(|stream| stream.trailers.take())
                .map(|trailers| Ok(Piece::Trailers(trailers))),
        })
    }

    /// The length of the content as the head that came announced it, in bytes.
    #[must_use]
    pub fn announced(&self) -> Option<u64> {
        let core = self.core.borrow();
        core.streams.get(self.key)?.announced
    }

    /// Whether the peer is in the midst of saying something of it: what was read last of the connection
    /// is a part of a frame of its content, or of a header block.
    #[must_use]
    pub fn is_coming(&self) -> bool {
        self.core.borrow().is_coming(self.key)
    }

    /// Whether its head came and says all, though its end has not come: an answer to HEAD, a 204, a 304.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        let core = self.core.borrow();
        let stream = core.streams.get(self.key);
        stream.is_some_and(|stream| stream.is_bare && stream.incoming == Half::Content)
    }

    /// Whether all of the message came and was taken.
    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        let core = self.core.borrow();
        core.streams.get(self.key).is_none_or(Stream::is_read)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.core.borrow_mut().drop_reader(self.key);
    }
}

impl Writer {
    pub(super) fn new(core: Rc<RefCell<Core>>, key: usize) -> Self {
        Self { core, key }
    }

    /// Sends a head that only informs, before the one of the answer. False, if it cannot come before it
    /// any more, or if the peer is slow to take what was sent: then it is dropped.
    pub fn inform(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        self.core.borrow_mut().inform(self.key, status, headers)
    }

    /// Sends the head of an answer, its group of fields before those of its map; it is all of the
    /// answer, if it `is_whole`. The map serves another message then. What fields say of a connection
    /// is left out. False, if the stream is over.
    pub fn answer(&mut self, head: Answer, is_whole: bool) -> bool {
        let mut core = self.core.borrow_mut();
        let (head, group) = head.into_parts();
        let fields = (group.as_ref(), &head.headers);
        let is_sent = core.answer_with(self.key, head.status, fields, is_whole);
        core.stock.give_map(head.headers);
        is_sent
    }

    /// How much content may be sent now, of `wanted`; `None`, when none ever will.
    pub fn poll_room(&mut self, wanted: usize, cx: &Context<'_>) -> Poll<Option<usize>> {
        self.core.borrow_mut().poll_room(self.key, wanted, cx)
    }

    /// Sends content, no more than there is [room](Self::poll_room) for. False, if the stream is over.
    pub fn send(&mut self, content: &[u8], is_end: bool) -> bool {
        self.core.borrow_mut().send(self.key, content, is_end)
    }

    /// Ends the message by trailers; a map of theirs serves another message then. False, if the stream
    /// is over.
    pub fn send_trailers(&mut self, trailers: Trailers) -> bool {
        let mut core = self.core.borrow_mut();
        let is_sent = core.send_trailers(self.key, &trailers);
        if let Trailers::Fields(map) = trailers {
            core.stock.give_map(map);
        }
        is_sent
    }

    /// Resets the stream; nothing, if it is over.
    pub fn reset(&mut self, reason: Reason) {
        self.core.borrow_mut().reset_by_user(self.key, reason);
    }

    /// Whether more of the peer's message is to come, and its [`Reader`] is dropped.
    #[must_use]
    pub fn leaves_rest(&self) -> bool {
        self.core.borrow().leaves_rest(self.key)
    }

    /// Ready when the stream is over: both messages are whole, it was reset, or its connection ended.
    pub fn poll_over(&self, cx: &Context<'_>) -> Poll<()> {
        self.core.borrow_mut().poll_over(self.key, cx)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.core.borrow_mut().drop_writer(self.key);
    }
}
