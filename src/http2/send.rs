//! What is sent on streams (RFC 9113 §5.2, §8.1).

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};

use super::core::{Core, Role};
use super::error::{By, Error, Reason};
use super::frame::{self, MAX_PAYLOAD, flag, kind};
use super::message::{AnswerFields, BlockWriter, RequestHead, Trailers};
use super::stream::Half;

impl Core {
    fn block_writer(&mut self) -> BlockWriter<'_> {
        BlockWriter {
            encoder: &mut self.encoder,
            out: &mut self.out,
        }
    }

    /// Begins a stream; the answer's head will be put into `spare`, an empty map.
    ///
    /// # Errors
    /// The connection takes no stream any more.
    pub(super) fn begin(&mut self, head: RequestHead<'_>, is_whole: bool) -> Result<usize, Error> {
        if !self.takes_streams() {
            return Err(self.ended.clone().unwrap_or(Error::Over));
        }
        let id = self.next;
        self.next = id.saturating_add(2);
        let key = self.new_stream(id);
        if let Some(stream) = self.streams.get_mut(key) {
            stream.is_bare = *head.method == Method::HEAD;
            stream.outgoing = if is_whole { Half::Whole } else { Half::Content };
            stream.has_writer = !is_whole;
        }
        self.block_writer().request(id, head, is_whole);
        self.open += 1;
        self.stir();
        Ok(key)
    }

    /// Sends a head that only informs. False, if it was dropped: the answer has begun, or too much
    /// waits to be written.
    pub(super) fn inform(&mut self, key: usize, status: StatusCode, headers: &HeaderMap) -> bool {
        let stream = self.streams.get(key);
        let stream = stream.filter(|stream| stream.is_open && stream.outgoing == Half::Head);
        let Some(id) = stream.map(|stream| stream.id) else {
            return false;
        };
        if self.is_stuffed() {
            return false;
        }
        self.block_writer()
            .response(id, status, (None, headers), false);
        self.stir();
        true
    }

    /// Sends an answer's head. False, if the stream is over.
    pub(super) fn answer_with(
        &mut self,
        key: usize,
        status: StatusCode,
        fields: AnswerFields<'_>,
        is_whole: bool,
    ) -> bool {
        let Some(stream) = self.streams.get_mut(key) else {
            return false;
        };
        if !stream.is_open || stream.outgoing != Half::Head {
            return false;
        }
        stream.outgoing = if is_whole { Half::Whole } else { Half::Content };
        let id = stream.id;
        self.block_writer().response(id, status, fields, is_whole);
        self.stir();
        if is_whole {
            self.ended_half(key);
        }
        true
    }

    /// How much content may be sent on a stream now, of `wanted`; `None`, when none ever will.
    pub(super) fn poll_room(
        &mut self,
        key: usize,
        wanted: usize,
        cx: &Context<'_>,
    ) -> Poll<Option<usize>> {
        let common = self.room();
        let Some(stream) = self.streams.get_mut(key) else {
            return Poll::Ready(None);
        };
        if !stream.is_open || stream.outgoing != Half::Content {
            return Poll::Ready(None);
        }
        let own = stream.window.room().min(wanted);
        let room = own.min(common);
        if room > 0 {
            return Poll::Ready(Some(room));
        }
        if own > 0 && std::mem::replace(&mut stream.wants, own) == 0 {
            self.queue.push_back(key);
        }
        stream.writer.pend(cx)
    }

    /// Sends content, no more than there is [room](Self::poll_room) for. False, if the stream is over.
    pub(super) fn send(&mut self, key: usize, content: &[u8], is_end: bool) -> bool {
        let Some(stream) = self.streams.get_mut(key) else {
            return false;
        };
        if !stream.is_open || stream.outgoing != Half::Content {
            return false;
        }
        let id = stream.id;
        stream.window.take(content.len());
        stream.wants = 0;
        if is_end {
            stream.outgoing = Half::Whole;
        }
        self.window.take(content.len());
        let end = if is_end { flag::END_STREAM } else { 0 };
        let mut rest = content;
        while let Some((piece, more)) = rest
            .split_at_checked(MAX_PAYLOAD)
            .filter(|(_, more)| !more.is_empty())
        {
            frame::write(&mut self.out, kind::DATA, 0, id, piece);
            rest = more;
        }
        if is_end || !rest.is_empty() {
            frame::write(&mut self.out, kind::DATA, end, id, rest);
        }
        self.stir();
        if is_end {
            self.ended_half(key);
        }
        true
    }

    /// Ends a message by trailers. False, if the stream is over.
    pub(super) fn send_trailers(&mut self, key: usize, trailers: &Trailers) -> bool {
        let Some(stream) = self.streams.get_mut(key) else {
            return false;
        };
        if !stream.is_open || stream.outgoing != Half::Content {
            return false;
        }
        stream.outgoing = Half::Whole;
        let id = stream.id;
        self.block_writer().trailers(id, trailers);
        self.stir();
        self.ended_half(key);
        true
    }

    /// Ready when the stream is over, before its time or not; until then the task is woken for that, too.
    pub(super) fn poll_over(&mut self, key: usize, cx: &Context<'_>) -> Poll<()> {
        match self.streams.get_mut(key) {
            Some(stream) if stream.is_open => stream.writer.pend(cx),
            Some(_) | None => Poll::Ready(()),
        }
    }

    /// Whether more of the peer's message is to come, and nobody reads it.
    pub(super) fn leaves_rest(&self, key: usize) -> bool {
        let stream = self.streams.get(key);
        stream.is_some_and(|stream| !stream.has_reader && stream.incoming != Half::Whole)
    }

    // --- What was received, as its reader takes it --------------------------------------------

    /// The next part of content that came; `None` at its end. What came is taken first, whatever
    /// became of the stream since.
    pub(super) fn poll_content(
        &mut self,
        key: usize,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Bytes, Error>>> {
        let Some(stream) = self.streams.get_mut(key) else {
            return Poll::Ready(None);
        };
        let Some(part) = stream.content.pop() else {
            return match (&stream.broken, stream.incoming) {
                (_, Half::Whole) => Poll::Ready(None),
                (Some(error), _) => Poll::Ready(Some(Err(error.clone()))),
                (None, _) => stream.reader.pend(cx),
            };
        };
        let id = stream.id;
        if stream.is_open
            && stream.incoming == Half::Content
            && let Some(by) = stream.credit.take(part.len())
        {
            self.write(kind::WINDOW_UPDATE, 0, id, &by.to_be_bytes());
        }
        self.give_back(part.len());
        Poll::Ready(Some(Ok(part)))
    }

    /// The next request that nobody looked at, unless its client reset it.
    pub(super) fn take_request(&mut self) -> Option<(Request<()>, usize)> {
        while let Some((request, key)) = self.requests.pop_front() {
            let is_broken = |key| {
                self.streams
                    .get(key)
                    .is_none_or(|stream| stream.broken.is_some())
            };
            if !is_broken(key) {
                return Some((request, key));
            }
            self.untouched = self.untouched.saturating_sub(1);
            self.stock.give_map(request.into_parts().0.headers);
            self.forget(key);
            // Nothing else may be left to wait for.
            if self.is_over() {
                self.stir();
            }
        }
        None
    }

    /// Resets a stream as its user asks for.
    pub(super) fn reset_by_user(&mut self, key: usize, reason: Reason) {
        self.reset(key, reason, By::Us);
    }

    /// How many streams may be open at a time.
    pub(super) fn most_streams(&self) -> u32 {
        match self.role {
            Role::Client if self.peer.is_known => self.peer.streams,
            Role::Client => 0,
            Role::Server => self.limits.streams,
        }
    }
}
