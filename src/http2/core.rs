//! The state of a connection, both roles: what came changes it and what is sent changes it; it touches
//! no socket.

use std::collections::VecDeque;
use std::rc::Rc;

use http::Request;

use super::blocks::{Heads, Requests, Tails};
use super::error::{By, Error, Fault, Reason};
use super::frame::{self, FIRST_WINDOW, MAX_STREAM, MAX_WINDOW, Settings, flag, kind};
use super::hpack::{Decoder, Encoder};
use super::message::Trailers;
use super::receive::Reading;
use super::stock::Stock;
use super::stream::{Half, Streams, Waiting};
use super::window::{Credit, Window};

/// Which end of a connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It begins streams.
    Client,
    /// It answers them.
    Server,
}

/// What a peer is let.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Streams that a client may have open at a time.
    pub streams: u32,
    /// Content that may be under way on a stream, in bytes.
    pub stream_window: u32,
    /// Content that may be under way on all of them, in bytes.
    pub connection_window: u32,
    /// The largest list of header fields, in bytes (RFC 9113 §6.5.2).
    pub header_list: usize,
    /// Streams that a client resets before they are looked at (CVE-2023-44487).
    pub untouched: usize,
    /// Streams that are reset for what the peer did wrong (CVE-2025-8671); one is forgiven for every
    /// 16 that end well.
    pub faults: usize,
    /// Streams that were reset here and whose peer may not know it yet.
    pub remembered: usize,
}

/// So much waits to be written, at most, before content has to wait.
const ROOM: usize = 64 << 10;
/// So much, and nothing more is read: whoever takes no answers asks nothing further. Content alone
/// never makes it so much.
const STUFFED: usize = 2 * ROOM;
/// So many streams that end well make up for a fault.
const FORGIVING: usize = 16;
/// What a PING says by which a connection's end begins.
const LAST_PING: [u8; 8] = *b"farewell";
/// What a PING says that asks whether the peer is there.
const ASKING_PING: [u8; 8] = *b"presence";

/// How far a connection's end has come (RFC 9113 §6.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Farewell {
    /// Nobody wants it.
    None,
    /// The client was told, and asked to say that it heard.
    Announced,
    /// It heard: streams above this one are not looked at.
    Said(u32),
}

/// A PING that asks whether the peer is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    No,
    Yes,
    Answered,
}

/// What a peer's settings say, as far as it is heeded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// They came.
    pub(super) is_known: bool,
    /// The window of a new stream.
    pub(super) window: u32,
    /// How many streams at a time.
    pub(super) streams: u32,
    /// Ours were acknowledged.
    pub(super) has_acknowledged: bool,
}

/// The state of a connection.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) role: Role,
    pub(super) limits: Limits,
    pub(super) stock: Rc<Stock>,
    pub(super) decoder: Decoder,
    /// Requests' heads that a client repeats.
    pub(super) asks: Requests,
    /// Answers' heads that a server repeats, and their trailers.
    pub(super) heads: Heads,
    /// See `heads`.
    pub(super) tails: Tails,
    pub(super) encoder: Encoder,
    pub(super) reading: Reading,
    pub(super) peer: Peer,
    pub(super) streams: Streams,
    /// How many are open (RFC 9113 §5.1.2).
    pub(super) open: u32,
    /// The highest number of a peer's stream, and the next of ours.
    pub(super) highest: u32,
    pub(super) next: u32,
    /// Requests that nobody took yet.
    pub(super) requests: VecDeque<(Request<()>, usize)>,
    /// How many of them were reset.
    pub(super) untouched: usize,
    /// Streams that were reset for faults and not forgiven, and those that ended well since the last
    /// that was.
    pub(super) faults: usize,
    well: usize,
    /// Frames of content without content that came more than others.
    pub(super) empty_frames: u32,
    /// Streams that were reset here lately, and the highest of those that are not remembered any more.
    pub(super) reset: VecDeque<u32>,
    pub(super) forgotten: u32,
    /// How often a stream was refused to a peer that does not know our settings.
    pub(super) early: usize,
    /// What we may send, and the peer.
    pub(super) window: Window,
    pub(super) credit: Credit,
    /// Streams that wait for room on the connection.
    pub(super) queue: VecDeque<usize>,
    /// What is to be written, from `written` on.
    pub(super) out: Vec<u8>,
    written: usize,
    pub(super) farewell: Farewell,
    /// The peer begins no streams, or takes none, any more.
    pub(super) peer_leaves: bool,
    asked: Asked,
    /// How it ended; the rest of `out` is still written.
    pub(super) ended: Option<Error>,
    pub(super) driver: Waiting,
    /// It is being moved, so that nobody needs to be woken to do it.
    pub(super) is_moving: bool,
}

impl Core {
    /// A new connection. What it says first is ready to be written.
    pub(super) fn new(role: Role, limits: Limits, stock: Rc<Stock>) -> Self {
        let mut out = Vec::with_capacity(128);
        if role == Role::Client {
            out.extend_from_slice(frame::PREFACE);
        }
        let settings = Settings {
            table: None,
            least_table: None,
            push: (role == Role::Client).then_some(false),
            streams: (role == Role::Server).then_some(limits.streams),
            window: Some(limits.stream_window),
            list: u32::try_from(limits.header_list).ok(),
        };
        settings.write(&mut out);
        let mut credit = Credit::new(FIRST_WINDOW, limits.connection_window);
        if let Some(by) = credit.due() {
            frame::write(&mut out, kind::WINDOW_UPDATE, 0, 0, &by.to_be_bytes());
        }
        Self {
            role,
            limits,
            stock,
            decoder: Decoder::default(),
            asks: Requests::default(),
            heads: Heads::default(),
            tails: Tails::default(),
            encoder: Encoder::default(),
            reading: Reading::new(role),
            peer: Peer {
                is_known: false,
                window: FIRST_WINDOW,
                streams: u32::MAX,
                has_acknowledged: false,
            },
            streams: Streams::default(),
            open: 0,
            highest: 0,
            next: 1,
            requests: VecDeque::new(),
            untouched: 0,
            faults: 0,
            well: 0,
            empty_frames: 0,
            reset: VecDeque::new(),
            forgotten: 0,
            early: 0,
            window: Window::new(FIRST_WINDOW),
            credit,
            queue: VecDeque::new(),
            out,
            written: 0,
            farewell: Farewell::None,
            peer_leaves: false,
            asked: Asked::No,
            ended: None,
            driver: Waiting::default(),
            is_moving: false,
        }
    }

    // --- What is written ----------------------------------------------------------------------

    /// What is to be written.
    pub(super) fn unwritten(&self) -> &[u8] {
        self.out.get(self.written..).unwrap_or_default()
    }

    /// So much of it was written. Who waited for room may have some.
    pub(super) fn wrote(&mut self, count: usize) {
        self.written += count;
        // A peer that takes content slowly may never take all that waits: what was written is cut off
        // now and then. What is left is moved then, which is no more than was written since.
        let left = self.unwritten().len();
        if left == 0 || self.written >= left.max(ROOM) {
            self.out.drain(..self.written.min(self.out.len()));
            self.written = 0;
        }
        if self.out.is_empty() {
            // What long content needed is not held by an idle connection.
            if self.streams.is_empty() && self.out.capacity() > ROOM / 16 {
                self.out = Vec::new();
            }
        }
        if !self.queue.is_empty() && self.unwritten().len() <= ROOM / 2 {
            self.admit();
        }
    }

    /// Gives up what an idle connection does not need: room, and what only makes the next heads cheaper
    /// to read and to write.
    pub(super) fn rest(&mut self) {
        if self.out.is_empty() {
            self.out = Vec::new();
        }
        if self.streams.is_empty() {
            self.streams = Streams::default();
        }
        if self.requests.is_empty() {
            self.requests = VecDeque::new();
        }
        // What was under way to them came long ago.
        self.forgotten = self
            .reset
            .iter()
            .fold(self.forgotten, |most, id| most.max(*id));
        self.reset = VecDeque::new();
        self.asks = Requests::default();
        self.heads = Heads::default();
        self.tails = Tails::default();
        self.decoder.rest();
        self.encoder.rest();
    }

    /// How much content may be put behind what is to be written.
    pub(super) fn room(&self) -> usize {
        let room = ROOM.saturating_sub(self.unwritten().len());
        room.min(self.window.room())
    }

    /// Whether nothing is to be read before more was written.
    pub(super) fn is_stuffed(&self) -> bool {
        self.unwritten().len() >= STUFFED
    }

    /// Something is to be written: whoever moves the connection hears it.
    pub(super) fn stir(&mut self) {
        if !self.is_moving {
            self.driver.wake();
        }
    }

    /// Writes a frame.
    pub(super) fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        frame::write(&mut self.out, kind, flags, stream, payload);
        self.stir();
    }

    /// Wakes as many of those who wait for room on the connection as have some.
    pub(super) fn admit(&mut self) {
        let mut room = self.room();
        while room > 0
            && let Some(key) = self.queue.pop_front()
        {
            if let Some(stream) = self.streams.get_mut(key)
                && stream.wants > 0
            {
                room = room.saturating_sub(stream.wants);
                stream.wants = 0;
                stream.writer.wake();
            }
        }
    }

    // --- How streams end ----------------------------------------------------------------------

    /// A message became whole: the stream is closed, if the other one is too.
    pub(super) fn ended_half(&mut self, key: usize) {
        if let Some(stream) = self.streams.get_mut(key)
            && stream.incoming == Half::Whole
            && stream.outgoing == Half::Whole
        {
            self.close(key);
            self.forgive();
        }
    }

    /// A stream ended well. A peer that carries the requests of many, one of them malformed now and then,
    /// is none that attacks.
    fn forgive(&mut self) {
        if self.faults > 0 {
            self.well += 1;
            if self.well >= FORGIVING {
                self.well = 0;
                self.faults -= 1;
            }
        }
    }

    /// A stream counts no more among those that are open.
    fn close(&mut self, key: usize) {
        if let Some(stream) = self.streams.get_mut(key)
            && std::mem::take(&mut stream.is_open)
        {
            self.open = self.open.saturating_sub(1);
            // Who answered it may wait for the rest of its request.
            stream.writer.wake();
            if self.open == 0 && self.is_leaving() {
                self.stir();
            }
        }
    }

    /// A stream ends before its time; who has a handle of it hears why.
    pub(super) fn break_off(&mut self, key: usize, error: Error) {
        self.close(key);
        if let Some(stream) = self.streams.get_mut(key) {
            stream.broken.get_or_insert(error);
            stream.reader.wake();
            stream.writer.wake();
            stream.wants = 0;
            // Room that it was let have, and did not take, is for who waits.
            self.admit();
        }
    }

    /// Resets a stream; nothing, if it is closed.
    pub(super) fn reset(&mut self, key: usize, reason: Reason, by: By) {
        let Some(stream) = self.streams.get(key).filter(|stream| stream.is_open) else {
            return;
        };
        let id = stream.id;
        self.say_reset(id, reason);
        self.break_off(key, Error::Reset(reason, by));
    }

    /// Writes RST_STREAM. What is still under way to the stream will be passed over.
    pub(super) fn say_reset(&mut self, id: u32, reason: Reason) {
        self.write(kind::RST_STREAM, 0, id, &reason.code().to_be_bytes());
        if self.reset.len() >= self.limits.remembered {
            let oldest = self.reset.pop_front();
            self.forgotten = self.forgotten.max(oldest.unwrap_or(0));
        }
        self.reset.push_back(id);
    }

    /// Nobody reads what comes on a stream any more.
    pub(super) fn drop_reader(&mut self, key: usize) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        stream.has_reader = false;
        let content = std::mem::take(&mut stream.content);
        let trailers = stream.trailers.take();
        let trailers = trailers.and_then(|trailers| match trailers {
            Trailers::Fields(map) => Some(map),
            Trailers::Known(_) => None,
        });
        let answer = stream.answer.take();
        let maps = [trailers, answer.map(|answer| answer.into_parts().0.headers)];
        let is_over = !stream.has_writer;
        for map in maps.into_iter().flatten() {
            self.stock.give_map(map);
        }
        self.give_back(content.len());
        if is_over {
            self.forget(key);
        }
    }

    /// Nobody sends on a stream any more.
    pub(super) fn drop_writer(&mut self, key: usize) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        stream.has_writer = false;
        stream.wants = 0;
        // As in `break_off`.
        self.admit();
        if self
            .streams
            .get(key)
            .is_some_and(|stream| !stream.has_reader)
        {
            self.forget(key);
        }
    }

    /// Nobody has a handle of a stream any more: it is reset, if it is not over.
    pub(super) fn forget(&mut self, key: usize) {
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        // An answer that is whole makes what is left of its request useless, not wrong (§8.1).
        let is_answered = self.role == Role::Server && stream.outgoing == Half::Whole;
        let reason = if is_answered {
            Reason::NO_ERROR
        } else {
            Reason::CANCEL
        };
        self.reset(key, reason, By::Us);
        self.queue.retain(|waiting| *waiting != key);
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if let Some(map) = stream.spare.take() {
            self.stock.give_map(map);
        }
        let content = stream.content.len();
        self.streams.end(key);
        self.give_back(content);
    }

    /// Content that came was taken, or is not wanted: the connection has room for as much again.
    pub(super) fn give_back(&mut self, bytes: usize) {
        if bytes > 0
            && let Some(by) = self.credit.take(bytes)
        {
            self.write(kind::WINDOW_UPDATE, 0, 0, &by.to_be_bytes());
        }
    }

    // --- How connections end ------------------------------------------------------------------

    /// The peer did wrong.
    pub(super) fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::Stream(id, reason) => {
                self.faults += 1;
                if self.faults > self.limits.faults {
                    return self
                        .fault(Fault::flood("too many streams were reset for their faults"));
                }
                let key = self.streams.find(id);
                let is_open = |key: &usize| self.streams.get(*key).is_some_and(|one| one.is_open);
                match key.filter(is_open) {
                    Some(key) => self.reset(key, reason, By::Fault),
                    None => self.say_reset(id, reason),
                }
            }
            Fault::Unwanted(id, reason) => self.say_reset(id, reason),
            Fault::Connection(reason, detail) => {
                self.go_away(reason, By::Fault, detail);
            }
        }
    }

    /// Ends the connection at once; the peer is told why.
    pub(super) fn go_away(&mut self, reason: Reason, by: By, detail: &'static str) {
        if self.ended.is_none() {
            // What was said to be the last stream is not raised (§6.8).
            let last = match self.farewell {
                Farewell::Said(last) => last.min(self.highest),
                Farewell::None | Farewell::Announced => self.highest,
            };
            self.say_goaway(last, reason, detail);
            self.end(&Error::GoAway(reason, by, detail));
        }
    }

    /// Ends the connection and all its streams.
    pub(super) fn end(&mut self, error: &Error) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(error.clone());
        for key in self.streams.keys() {
            if self.streams.get(key).is_some_and(|stream| stream.is_open) {
                self.break_off(key, error.clone());
            }
        }
        self.stir();
    }

    fn say_goaway(&mut self, last: u32, reason: Reason, detail: &str) {
        let numbers = [last.to_be_bytes(), reason.code().to_be_bytes()].concat();
        let payload = [&numbers, detail.as_bytes()].concat();
        self.write(kind::GOAWAY, 0, 0, &payload);
    }

    /// Ends the connection in order. A client is told that it is to begin no more streams, and those
    /// that are under way are answered; a server is told when all are over.
    pub(super) fn leave(&mut self) {
        if self.ended.is_some() || self.farewell != Farewell::None {
            return;
        }
        match self.role {
            Role::Server => {
                self.farewell = Farewell::Announced;
                self.say_goaway(MAX_STREAM, Reason::NO_ERROR, "");
                self.write(kind::PING, 0, 0, &LAST_PING);
            }
            Role::Client => {
                self.farewell = Farewell::Said(0);
                self.say_goaway(0, Reason::NO_ERROR, "");
            }
        }
    }

    /// Whether it ends when its streams have.
    fn is_leaving(&self) -> bool {
        matches!(self.farewell, Farewell::Said(_)) || self.peer_leaves
    }

    /// Whether it has ended in order: nothing more comes, and all was written.
    pub(super) fn is_over(&self) -> bool {
        self.is_leaving() && self.open == 0 && self.requests.is_empty()
    }

    /// Whether a stream may be begun here.
    pub(super) fn takes_streams(&self) -> bool {
        self.ended.is_none()
            && !self.peer_leaves
            && self.farewell == Farewell::None
            && self.next <= MAX_STREAM
    }

    // --- Pings --------------------------------------------------------------------------------

    /// Asks the peer whether it is there; false, if it was asked and did not answer yet.
    pub(super) fn ask(&mut self) -> bool {
        if self.asked == Asked::Yes || self.ended.is_some() {
            return false;
        }
        self.asked = Asked::Yes;
        self.write(kind::PING, 0, 0, &ASKING_PING);
        true
    }

    /// Whether the peer answered since it was asked.
    pub(super) fn has_answered(&self) -> bool {
        self.asked == Asked::Answered
    }

    /// An answer to a PING came.
    pub(super) fn pong(&mut self, words: &[u8]) {
        if words == ASKING_PING && self.asked == Asked::Yes {
            self.asked = Asked::Answered;
        } else if words == LAST_PING && self.farewell == Farewell::Announced {
            self.farewell = Farewell::Said(self.highest);
            self.say_goaway(self.highest, Reason::NO_ERROR, "");
        }
    }

    /// A PING came.
    pub(super) fn ping(&mut self, words: &[u8]) {
        self.write(kind::PING, flag::ACK, 0, words);
    }

    /// Begins a stream, as the settings of both have it; where it is.
    pub(super) fn new_stream(&mut self, id: u32) -> usize {
        let credit = Credit::new(self.limits.stream_window, self.limits.stream_window);
        let window = Window::new(self.peer.window.min(MAX_WINDOW));
        self.streams.begin(id, window, credit)
    }
}
