//! A peer that says frames as a test has them.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http::{HeaderMap, Method, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::super::frame::{Head, PREFACE, flag, kind, write};
use super::super::hpack::{Decoder, Field};
use super::super::{
    Answer, Connection, Error, Handle, Incoming, Limits, Piece, Reader, RequestHead, Role, Stock,
    Writer,
};

pub(super) const LIMITS: Limits = Limits {
    streams: 8,
    stream_window: 1 << 17,
    connection_window: 1 << 18,
    header_list: 4096,
    untouched: 8,
    faults: 8,
    remembered: 8,
};

/// A frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) head: Head,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// The number in a payload of four bytes, or in its last four.
    pub(super) fn code(&self) -> u32 {
        let last = self.payload.last_chunk::<4>().unwrap();
        u32::from_be_bytes(*last)
    }

    /// A GOAWAY's last stream and its code.
    pub(super) fn goaway(&self) -> (u32, u32) {
        assert_eq!(self.head.kind, kind::GOAWAY, "{self:?}");
        let number = |at: usize| u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap());
        (number(0), number(4))
    }
}

/// One of our connections, and what the test says to it as its peer. What moves is moved by hand: there
/// is no other task.
pub(super) struct Wire {
    pub(super) conn: Connection<DuplexStream>,
    pub(super) stock: Rc<Stock>,
    far: DuplexStream,
    input: Vec<u8>,
    pub(super) decoder: Decoder,
    pub(super) requests: VecDeque<Incoming>,
    pub(super) ended: Option<Result<(), Error>>,
    say: Vec<u8>,
    /// The peer takes what is written to it.
    pub(super) reads: bool,
}

pub(super) fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// Somebody who waits, and whether they were woken.
#[derive(Default)]
pub(super) struct Sleeper(AtomicBool);

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Sleeper {
    pub(super) fn is_awake(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wire {
    /// One to which nothing was said.
    pub(super) fn bare(role: Role, limits: Limits) -> Self {
        let (near, far) = duplex(1 << 16);
        let stock = Stock::new();
        Self {
            conn: Connection::new(near, role, limits, stock.clone()),
            stock,
            far,
            input: Vec::new(),
            decoder: Decoder::default(),
            requests: VecDeque::new(),
            ended: None,
            say: Vec::new(),
            reads: true,
        }
    }

    /// One to which what comes first was said; what it said first was taken.
    pub(super) fn with(role: Role, limits: Limits) -> Self {
        let mut wire = Self::bare(role, limits);
        if role == Role::Server {
            wire.say_bytes(PREFACE);
        }
        wire.frame(kind::SETTINGS, 0, 0, &[]);
        wire.frame(kind::SETTINGS, flag::ACK, 0, &[]);
        let frames = wire.take();
        let kinds: Vec<u8> = frames.iter().map(|frame| frame.head.kind).collect();
        assert_eq!(kinds, [kind::SETTINGS, kind::WINDOW_UPDATE, kind::SETTINGS]);
        wire
    }

    pub(super) fn server() -> Self {
        Self::with(Role::Server, LIMITS)
    }

    pub(super) fn client() -> Self {
        Self::with(Role::Client, LIMITS)
    }

    pub(super) fn say_bytes(&mut self, bytes: &[u8]) {
        self.say.extend_from_slice(bytes);
    }

    pub(super) fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        write(&mut self.say, kind, flags, stream, payload);
    }

    /// GET /, in fields of the static table alone.
    pub(super) fn get(&mut self, stream: u32) {
        self.frame(
            kind::HEADERS,
            flag::END_HEADERS | flag::END_STREAM,
            stream,
            GET,
        );
    }

    /// POST /, with content to come.
    pub(super) fn post(&mut self, stream: u32) {
        self.frame(kind::HEADERS, flag::END_HEADERS, stream, POST);
    }

    pub(super) fn data(&mut self, stream: u32, content: &[u8], is_end: bool) {
        let end = if is_end { flag::END_STREAM } else { 0 };
        self.frame(kind::DATA, end, stream, content);
    }

    /// A server's `200`, with more to come or not.
    pub(super) fn ok(&mut self, stream: u32, is_end: bool) {
        let end = if is_end { flag::END_STREAM } else { 0 };
        self.frame(kind::HEADERS, flag::END_HEADERS | end, stream, &[0x88]);
    }

    pub(super) fn reset(&mut self, stream: u32, code: u32) {
        self.frame(kind::RST_STREAM, 0, stream, &code.to_be_bytes());
    }

    pub(super) fn goaway(&mut self, last: u32, code: u32) {
        let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
        self.frame(kind::GOAWAY, 0, 0, &payload);
    }

    pub(super) fn widen(&mut self, stream: u32, by: u32) {
        self.frame(kind::WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    }

    /// Moves everything until nothing moves any more.
    pub(super) fn run(&mut self) {
        for _ in 0..100_000 {
            let mut has_moved = false;
            if !self.say.is_empty() {
                let count = poll_now(self.far.write(&self.say)).and_then(Result::ok);
                if let Some(count) = count.filter(|count| *count > 0) {
                    self.say.drain(..count);
                    has_moved = true;
                } else if self.ended.is_some() {
                    self.say.clear();
                }
            }
            if self.ended.is_none() {
                let requests = &mut self.requests;
                let polled = self
                    .conn
                    .poll_served(&mut cx(), |one| requests.push_back(one));
                if let Poll::Ready(ended) = polled {
                    self.ended = Some(ended);
                }
            }
            if self.reads {
                let before = self.input.len();
                while let Some(Ok(count)) = poll_now(self.far.read_buf(&mut self.input)) {
                    if count == 0 {
                        break;
                    }
                }
                has_moved |= self.input.len() > before;
            }
            if !has_moved {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    /// Says what is to be said, and moves the connection as often as it asks for it: whether it ends.
    pub(super) fn ends_by_itself(&mut self) -> bool {
        assert!(matches!(
            poll_now(self.far.write_all(&self.say)),
            Some(Ok(()))
        ));
        self.say.clear();
        loop {
            let sleeper = Arc::<Sleeper>::default();
            let waker = Waker::from(sleeper.clone());
            let mut cx = Context::from_waker(&waker);
            let requests = &mut self.requests;
            let moved = self
                .conn
                .poll_served(&mut cx, |one| requests.push_back(one));
            if moved.is_ready() || !sleeper.is_awake() {
                return moved.is_ready();
            }
        }
    }

    /// Moves the connection once, and takes so many bytes of what it wrote.
    pub(super) fn take_slowly(&mut self, bytes: u64) -> usize {
        let moved = self.conn.poll_moved(&mut cx());
        assert!(moved.is_pending(), "{moved:?}");
        let mut sink = Vec::new();
        let mut part = (&mut self.far).take(bytes);
        poll_now(part.read_to_end(&mut sink));
        sink.len()
    }

    /// What was written, when nothing moves any more.
    pub(super) fn take(&mut self) -> Vec<Frame> {
        self.run();
        let mut rest = &self.input[..];
        rest = rest.strip_prefix(PREFACE).unwrap_or(rest);
        let mut frames = Vec::new();
        while let Some(head) = Head::read(rest)
            && let Some(payload) = rest.get(9..9 + head.length)
        {
            let payload = payload.to_vec();
            rest = &rest[9 + head.length..];
            frames.push(Frame { head, payload });
        }
        self.input = rest.to_vec();
        frames
    }

    /// The one frame that was written.
    pub(super) fn one(&mut self) -> Frame {
        let mut frames = self.take();
        assert_eq!(frames.len(), 1, "{frames:?}");
        frames.remove(0)
    }

    /// Nothing was written, and the connection goes on.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.take().is_empty() && self.ended.is_none()
    }

    /// Expects that the stream is reset by this code, and the connection goes on.
    pub(super) fn expect_reset(&mut self, stream: u32, code: u32) {
        let frame = self.one();
        assert_eq!(
            (frame.head.kind, frame.head.stream, frame.code()),
            (kind::RST_STREAM, stream, code),
            "{frame:?}"
        );
        assert!(self.ended.is_none());
    }

    /// Expects that the connection ends by this code.
    pub(super) fn expect_end(&mut self, code: u32) {
        let frames = self.take();
        let last = frames.last().expect("a GOAWAY");
        assert_eq!(last.goaway().1, code, "{frames:?}");
        let ended = self.ended.as_ref().expect("it ended");
        let error = ended.as_ref().expect_err("for a fault");
        assert!(error.is_violation(), "{error}");
    }

    /// The fields of a block, in words.
    pub(super) fn fields(&mut self, frame: &Frame) -> Vec<String> {
        assert_eq!(frame.head.kind, kind::HEADERS, "{frame:?}");
        let mut lines = Vec::new();
        let take = |field: Field, _| {
            let line = match &field {
                Field::Status(status) => Some(format!(":status: {}", status.as_str())),
                Field::Header(name, value) => Some(format!("{name}: {}", value.to_str().unwrap())),
                Field::Authority(_)
                | Field::Method(_)
                | Field::Path(_)
                | Field::Scheme(_)
                | Field::Malformed(_) => None,
            };
            lines.push(line.unwrap_or_else(|| format!("{field:?}")));
        };
        self.decoder.decode(&frame.payload, take).unwrap();
        lines
    }

    /// The next request.
    pub(super) fn request(&mut self) -> Incoming {
        self.run();
        self.requests.pop_front().expect("a request")
    }

    /// Begins a stream as a client.
    pub(super) fn ask(&mut self, is_whole: bool) -> (Reader, Option<Writer>) {
        ask(&self.conn.handle(), &Method::GET, is_whole).unwrap()
    }
}

pub(super) const GET: &[u8] = &[0x82, 0x84, 0x87, 0x01, 1, b'h'];
pub(super) const POST: &[u8] = &[0x83, 0x84, 0x87, 0x01, 1, b'h'];

pub(super) fn ask(
    handle: &Handle,
    method: &Method,
    is_whole: bool,
) -> Result<(Reader, Option<Writer>), Error> {
    let head = RequestHead {
        method,
        is_tls: true,
        authority: b"up.test",
        path: "/path",
        headers: &HeaderMap::new(),
        group: None,
    };
    handle.send(head, is_whole)
}

pub(super) fn poll_now<T>(future: impl Future<Output = T>) -> Option<T> {
    match std::pin::pin!(future).poll(&mut cx()) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

/// What of a message is there.
pub(super) fn pieces(reader: &mut Reader) -> (Vec<u8>, Option<HeaderMap>, Option<Error>) {
    let mut content = Vec::new();
    loop {
        match reader.poll_piece(&cx()) {
            Poll::Ready(Some(Ok(Piece::Data(part)))) => content.extend_from_slice(&part),
            Poll::Ready(Some(Ok(Piece::Trailers(map)))) => {
                return (content, Some(map.into()), None);
            }
            Poll::Ready(Some(Err(error))) => return (content, None, Some(error)),
            Poll::Ready(None) | Poll::Pending => return (content, None, None),
        }
    }
}

/// The next piece of a message.
pub(super) async fn next(reader: &mut Reader) -> Option<Result<Piece, Error>> {
    poll_fn(|cx| reader.poll_piece(cx)).await
}

/// Sends all of a content, as there is room.
pub(super) async fn send_all(writer: &mut Writer, content: &Bytes, is_end: bool) -> bool {
    let mut at = 0;
    while at < content.len() {
        let left = content.len() - at;
        let Some(room) = poll_fn(|cx| writer.poll_room(left, cx)).await else {
            return false;
        };
        let is_last = is_end && room == left;
        if !writer.send(&content[at..at + room], is_last) {
            return false;
        }
        at += room;
    }
    !(content.is_empty() && is_end) || writer.send(&[], true)
}

pub(super) fn ok() -> Answer {
    Response::new(None)
}
