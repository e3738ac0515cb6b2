//! What frames that came mean (RFC 9113 §5, §6), but for header blocks.

use bytes::{Buf, Bytes, BytesMut};

use super::blocks::Block;
use super::core::{Core, Farewell, Role};
use super::error::{By, Error, Fault, Reason};
use super::frame::{self, HEAD_BYTES, Head, MAX_PAYLOAD, PREFACE, Settings, flag, kind};
use super::stream::{Half, Part};

/// Content from so many bytes on keeps what it was read into, up to eight times as much; shorter content
/// is copied out of it.
pub(super) const KEPT: usize = 8 << 10;
/// Frames of content without content that come more than others, at most.
const EMPTY_FRAMES: u32 = 100;

/// How far a connection is read.
#[derive(Debug)]
pub(super) struct Reading {
    awaits: Awaits,
    /// A header block of which more is to come.
    pub(super) block: Option<Block>,
    /// The stream whose message a frame is of that came in part.
    coming: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaits {
    Preface,
    Settings,
    Frames,
}

impl Reading {
    pub(super) fn new(role: Role) -> Self {
        let awaits = match role {
            Role::Client => Awaits::Settings,
            Role::Server => Awaits::Preface,
        };
        Self {
            awaits,
            block: None,
            coming: None,
        }
    }
}

pub(super) type Done = Result<(), Fault>;

impl Core {
    /// Takes what is complete of `input`, as long as what it leads to can be written.
    pub(super) fn feed(&mut self, input: &mut BytesMut) {
        if self.ended.is_none() && self.reading.awaits == Awaits::Preface {
            if !input.starts_with(PREFACE) {
                if !PREFACE.starts_with(input) {
                    self.fault(Fault::protocol("what it begins with is not HTTP/2"));
                }
                return;
            }
            input.advance(PREFACE.len());
            self.reading.awaits = Awaits::Settings;
        }
        while self.ended.is_none()
            && !self.is_stuffed()
            && let Some(head) = Head::read(input)
        {
            if head.length > MAX_PAYLOAD {
                self.fault(Fault::size("a frame that is larger than may be sent"));
                return;
            }
            let Some(payload) = input.get(HEAD_BYTES..HEAD_BYTES + head.length) else {
                return;
            };
            let done = if head.kind == kind::DATA && head.length >= KEPT {
                let frame = input.split_to(HEAD_BYTES + head.length).freeze();
                self.data_frame(head, &frame.slice(HEAD_BYTES..))
            } else {
                let done = self.frame(head, payload);
                input.advance(HEAD_BYTES + head.length);
                done
            };
            if let Err(fault) = done {
                self.fault(fault);
            }
        }
    }

    /// Notes what is not complete of what was [fed](Self::feed).
    pub(super) fn note_rest(&mut self, rest: &[u8]) {
        let block = self.reading.block.as_ref().map(|block| block.stream);
        self.reading.coming = block.or_else(|| {
            let head = Head::read(rest)?;
            let is_of_message = head.kind == kind::DATA || head.kind == kind::HEADERS;
            is_of_message.then_some(head.stream)
        });
    }

    /// Whether what came last is a part of this stream's message: of its content, or of a header block.
    /// Parts of other frames say nothing of it, nor does the beginning of a frame that does not say yet
    /// what it is.
    pub(super) fn is_coming(&self, key: usize) -> bool {
        let stream = self.streams.get(key).filter(|stream| stream.is_open);
        stream.is_some_and(|stream| self.reading.coming == Some(stream.id))
    }

    fn frame(&mut self, head: Head, payload: &[u8]) -> Done {
        if self.reading.awaits == Awaits::Settings {
            if head.kind != kind::SETTINGS || head.has(flag::ACK) {
                return Err(Fault::protocol("its settings do not come first"));
            }
            self.reading.awaits = Awaits::Frames;
        }
        if let Some(block) = &self.reading.block
            && (head.kind != kind::CONTINUATION || head.stream != block.stream)
        {
            return Err(Fault::protocol("something else within a header block"));
        }
        match head.kind {
            kind::DATA => {
                let content = frame::unpadded(head, payload)?;
                self.data(head, Part::Borrowed(content))
            }
            kind::HEADERS => self.headers(head, payload),
            kind::PRIORITY => self.priority(head, payload),
            kind::RST_STREAM => self.reset_by_peer(head, payload),
            kind::SETTINGS => self.settings(head, payload),
            kind::PUSH_PROMISE => Err(Fault::protocol("a push that nobody wants")),
            kind::PING => match payload.len() {
                _ if head.stream != 0 => Err(Fault::protocol("a PING of a stream")),
                8 if head.has(flag::ACK) => {
                    self.pong(payload);
                    Ok(())
                }
                8 => {
                    self.ping(payload);
                    Ok(())
                }
                _ => Err(Fault::size("a PING that is not of eight bytes")),
            },
            kind::GOAWAY => self.farewell_of_peer(head, payload),
            kind::WINDOW_UPDATE => self.widen(head, payload),
            kind::CONTINUATION => self.continuation(head, payload),
            // What is not known says nothing (§5.5).
            _ => Ok(()),
        }
    }

    // --- Content ------------------------------------------------------------------------------

    /// Long content, whose buffer is given up for it.
    fn data_frame(&mut self, head: Head, payload: &Bytes) -> Done {
        if self.reading.awaits != Awaits::Frames || self.reading.block.is_some() {
            return self.frame(head, payload);
        }
        let content = frame::unpadded(head, payload)?;
        self.data(head, Part::Owned(payload.slice_ref(content)))
    }

    fn data(&mut self, head: Head, content: Part<'_>) -> Done {
        let id = head.stream;
        if id == 0 || self.is_idle(id) {
            return Err(Fault::protocol("content of no stream"));
        }
        let length = content.as_ref().len();
        let is_end = head.has(flag::END_STREAM);
        if length > 0 {
            self.empty_frames = self.empty_frames.saturating_sub(1);
        } else if !is_end {
            self.empty_frames += 1;
            if self.empty_frames > EMPTY_FRAMES {
                return Err(Fault::flood("too many frames without content"));
            }
        }
        // Padding counts (§6.9.1), and makes room at once.
        if !self.credit.receive(head.length) {
            let detail = "more content than the connection's window lets";
            return Err(Fault::Connection(Reason::FLOW_CONTROL_ERROR, detail));
        }
        let Some(key) = self.streams.find(id) else {
            self.give_back(head.length);
            return self.late(id);
        };
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(());
        };
        if let Some(error) = &stream.broken {
            let is_ours = !matches!(error, Error::Reset(_, By::Peer)) || self.reset.contains(&id);
            self.give_back(head.length);
            return late_on(id, is_ours);
        }
        if stream.incoming != Half::Content {
            let reason = match stream.incoming {
                Half::Head => Reason::PROTOCOL_ERROR,
                Half::Content | Half::Whole => Reason::STREAM_CLOSED,
            };
            self.give_back(head.length);
            return Err(Fault::Stream(id, reason));
        }
        if !stream.credit.receive(head.length) {
            self.give_back(head.length);
            return Err(Fault::Stream(id, Reason::FLOW_CONTROL_ERROR));
        }
        if let Some(left) = stream.left {
            let left = u64::try_from(length)
                .ok()
                .and_then(|count| left.checked_sub(count));
            if left.is_none() || is_end && left != Some(0) {
                self.give_back(head.length);
                return Err(Fault::Stream(id, Reason::PROTOCOL_ERROR));
            }
            stream.left = left;
        }
        let padding = head.length.saturating_sub(length);
        let mut unwanted = padding;
        // What comes of an answer that has none is thrown away, as by nginx.
        if stream.has_reader && !stream.is_bare {
            stream.content.push(content);
        } else {
            unwanted = head.length;
        }
        if is_end {
            stream.incoming = Half::Whole;
        } else if padding > 0
            && let Some(by) = stream.credit.take(padding)
        {
            self.write(kind::WINDOW_UPDATE, 0, id, &by.to_be_bytes());
        }
        self.give_back(unwanted);
        self.heard(key, is_end);
        Ok(())
    }

    /// Who reads a stream's message hears that there is more of it; it may be the end.
    pub(super) fn heard(&mut self, key: usize, is_end: bool) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.reader.wake();
        }
        if is_end {
            self.ended_half(key);
        }
    }

    /// Something came for a stream that nobody has a handle of.
    pub(super) fn late(&self, id: u32) -> Done {
        late_on(id, self.is_passed_over(id))
    }

    /// Whether what comes for a stream that is over is passed over: it was reset here and its peer may
    /// not know it yet (§5.4.2), or it was begun after the farewell.
    pub(super) fn is_passed_over(&self, id: u32) -> bool {
        let is_after_farewell =
            self.role == Role::Server && matches!(self.farewell, Farewell::Said(last) if id > last);
        is_after_farewell || self.reset.contains(&id)
    }

    /// Whether nobody began this stream yet (§5.1.1).
    pub(super) fn is_idle(&self, id: u32) -> bool {
        let is_clients = id % 2 == 1;
        match self.role {
            Role::Client => !is_clients || id >= self.next,
            Role::Server => !is_clients || id > self.highest,
        }
    }

    // --- The rest -----------------------------------------------------------------------------

    fn priority(&mut self, head: Head, payload: &[u8]) -> Done {
        let id = head.stream;
        if id == 0 {
            return Err(Fault::protocol("a priority of no stream"));
        }
        let reason = if payload.len() != 5 {
            Reason::FRAME_SIZE_ERROR
        } else if depends_on(payload) == Some(id) {
            Reason::PROTOCOL_ERROR
        } else {
            return Ok(());
        };
        // A stream that nobody began cannot be reset.
        Err(if self.streams.find(id).is_some() {
            Fault::Stream(id, reason)
        } else {
            Fault::Connection(reason, "a priority that is none")
        })
    }

    fn reset_by_peer(&mut self, head: Head, payload: &[u8]) -> Done {
        let code =
            frame::number(payload).ok_or(Fault::size("a reset that is not of four bytes"))?;
        let id = head.stream;
        if id == 0 || self.is_idle(id) {
            return Err(Fault::protocol("a reset of no stream"));
        }
        let Some(key) = self.streams.find(id) else {
            return Ok(());
        };
        if !self.streams.get(key).is_some_and(|stream| stream.is_open) {
            return Ok(());
        }
        self.break_off(key, Error::Reset(Reason::from(code), By::Peer));
        if self.requests.iter().any(|(_, waiting)| *waiting == key) {
            self.untouched += 1;
            if self.untouched > self.limits.untouched {
                return Err(Fault::flood("too many streams are begun to be reset"));
            }
        }
        Ok(())
    }

    fn settings(&mut self, head: Head, payload: &[u8]) -> Done {
        if head.stream != 0 {
            return Err(Fault::protocol("settings of a stream"));
        }
        if head.has(flag::ACK) {
            self.peer.has_acknowledged = true;
            return if payload.is_empty() {
                Ok(())
            } else {
                Err(Fault::size("an acknowledgement that says something"))
            };
        }
        let settings = Settings::read(payload)?;
        if self.role == Role::Client && settings.push == Some(true) {
            return Err(Fault::protocol("a server that wants to be pushed to"));
        }
        if let Some(window) = settings.window {
            let by = i64::from(window) - i64::from(self.peer.window);
            self.peer.window = window;
            self.widen_all(by)?;
        }
        if let Some(streams) = settings.streams {
            self.peer.streams = streams;
        }
        for table in [settings.least_table, settings.table].into_iter().flatten() {
            self.encoder
                .resize(usize::try_from(table).unwrap_or(usize::MAX));
        }
        self.peer.is_known = true;
        self.write(kind::SETTINGS, flag::ACK, 0, &[]);
        Ok(())
    }

    /// Every stream's window changes with the first one's width (§6.9.2).
    fn widen_all(&mut self, by: i64) -> Done {
        if by == 0 {
            return Ok(());
        }
        for key in self.streams.keys() {
            let Some(stream) = self.streams.get_mut(key) else {
                continue;
            };
            if !stream.window.widen(by) {
                let detail = "a window that is too wide";
                return Err(Fault::Connection(Reason::FLOW_CONTROL_ERROR, detail));
            }
            stream.writer.wake();
        }
        Ok(())
    }

    fn farewell_of_peer(&mut self, head: Head, payload: &[u8]) -> Done {
        if head.stream != 0 {
            return Err(Fault::protocol("a GOAWAY of a stream"));
        }
        let number = |at: usize| payload.get(at..at + 4).and_then(frame::number);
        let (Some(last), Some(code)) = (number(0), number(4)) else {
            return Err(Fault::size("a GOAWAY that is cut off"));
        };
        self.peer_leaves = true;
        if self.role == Role::Server {
            return Ok(());
        }
        let last = last & frame::MAX_STREAM;
        for key in self.streams.keys() {
            if self
                .streams
                .get(key)
                .is_some_and(|stream| stream.is_open && stream.id > last)
            {
                self.break_off(key, Error::GoAway(Reason::from(code), By::Peer, ""));
            }
        }
        Ok(())
    }

    fn widen(&mut self, head: Head, payload: &[u8]) -> Done {
        let by = frame::number(payload).ok_or(Fault::size("a width that is not of four bytes"))?;
        let by = by & frame::MAX_WINDOW;
        let id = head.stream;
        if id == 0 {
            if by == 0 {
                return Err(Fault::protocol("a window that is widened by nothing"));
            }
            if !self.window.widen(i64::from(by)) {
                let detail = "a window that is too wide";
                return Err(Fault::Connection(Reason::FLOW_CONTROL_ERROR, detail));
            }
            self.admit();
            return Ok(());
        }
        if self.is_idle(id) {
            return Err(Fault::protocol("a window of no stream"));
        }
        let stream = self
            .streams
            .find(id)
            .and_then(|key| self.streams.get_mut(key));
        let Some(stream) = stream.filter(|stream| stream.is_open) else {
            return Ok(());
        };
        if by == 0 {
            return Err(Fault::Stream(id, Reason::PROTOCOL_ERROR));
        }
        if !stream.window.widen(i64::from(by)) {
            return Err(Fault::Stream(id, Reason::FLOW_CONTROL_ERROR));
        }
        stream.writer.wake();
        Ok(())
    }
}

pub(super) fn late_on(id: u32, is_passed_over: bool) -> Done {
    if is_passed_over {
        Ok(())
    } else {
        Err(Fault::Unwanted(id, Reason::STREAM_CLOSED))
    }
}

/// The stream that a priority makes its own depend on. Nobody heeds it, but it may not be itself (RFC
/// 7540 §5.3.1).
pub(super) fn depends_on(priority: &[u8]) -> Option<u32> {
    let dependency = priority.get(..4).and_then(frame::number)?;
    Some(dependency & frame::MAX_STREAM)
}
