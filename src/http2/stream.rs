//! Streams: what is known of each, and where it is found (RFC 9113 §5.1).

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use super::error::Error;
use super::message::{Answer, Trailers};
use super::window::{Credit, Window};

/// Parts up to so long are put together while they wait, so that many short ones take no more than
/// they have bytes.
const SHORT: usize = 1024;

/// What of a message came, or was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    /// Not its head yet.
    Head,
    /// Its head: content and trailers may follow.
    Content,
    /// All of it.
    Whole,
}

/// A stream that somebody here has a handle of.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u32,
    /// The peer's message.
    pub(super) incoming: Half,
    /// Ours.
    pub(super) outgoing: Half,
    /// Why it ended before both were whole.
    pub(super) broken: Option<Error>,
    /// It counts among those that are open.
    pub(super) is_open: bool,
    /// Who reads the peer's message, and who sends ours, are there.
    pub(super) has_reader: bool,
    /// See `has_reader`.
    pub(super) has_writer: bool,
    /// The request's answer, until it is taken.
    pub(super) answer: Option<Answer>,
    /// Answers that only inform, so far.
    pub(super) informed: u8,
    /// Those of them that were not taken.
    pub(super) informing: VecDeque<Answer>,
    /// Its answer has no content, whatever length it says: one to HEAD, a 204, a 304 (RFC 9110 §6.4.1).
    pub(super) is_bare: bool,
    pub(super) content: Content,
    /// The length that its head announced.
    pub(super) announced: Option<u64>,
    /// What of the announced length is to come.
    pub(super) left: Option<u64>,
    pub(super) trailers: Option<Trailers>,
    /// What we may send.
    pub(super) window: Window,
    /// What the peer may send.
    pub(super) credit: Credit,
    /// It waits for room on the connection, for so many bytes.
    pub(super) wants: usize,
    /// A map that the answer is put into.
    pub(super) spare: Option<HeaderMap>,
    pub(super) reader: Waiting,
    pub(super) writer: Waiting,
}

/// A task that waits for something of a stream.
#[derive(Debug, Default)]
pub(super) struct Waiting(Option<Waker>);

impl Waiting {
    /// Waits on.
    pub(super) fn pend<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        if !self
            .0
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            self.0 = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// What it waited for may be there.
    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.0.take() {
            waker.wake();
        }
    }
}

impl Stream {
    /// The place of one.
    fn vacant() -> Self {
        Self {
            id: 0,
            incoming: Half::Head,
            outgoing: Half::Head,
            broken: None,
            is_open: false,
            has_reader: false,
            has_writer: false,
            answer: None,
            informed: 0,
            informing: VecDeque::new(),
            is_bare: false,
            content: Content::default(),
            announced: None,
            left: None,
            trailers: None,
            window: Window::new(0),
            credit: Credit::new(0, 0),
            wants: 0,
            spare: None,
            reader: Waiting::default(),
            writer: Waiting::default(),
        }
    }

    /// Is over: all that it held is given up, and its place is another's. One field after the other, as
    /// a stream is too large to be moved with each message.
    fn end(&mut self) {
        let Self {
            id,
            incoming: _,
            outgoing: _,
            broken,
            is_open,
            has_reader: _,
            has_writer: _,
            answer,
            informed: _,
            informing,
            is_bare: _,
            content,
            announced: _,
            left: _,
            trailers,
            window: _,
            credit: _,
            wants: _,
            spare,
            reader,
            writer,
        } = self;
        *id = 0;
        *is_open = false;
        (*broken, *answer, *trailers, *spare) = (None, None, None, None);
        if informing.capacity() > 0 {
            *informing = VecDeque::new();
        }
        content.end();
        (reader.0, writer.0) = (None, None);
    }

    /// Becomes the stream with this number, in the place of one that [ended](Self::end).
    fn begin(&mut self, number: u32, own: Window, peers: Credit) {
        let Self {
            id,
            incoming,
            outgoing,
            broken: _,
            is_open,
            has_reader,
            has_writer,
            answer: _,
            informed,
            informing: _,
            is_bare,
            content: _,
            announced,
            left,
            trailers: _,
            window,
            credit,
            wants,
            spare: _,
            reader: _,
            writer: _,
        } = self;
        (*id, *window, *credit) = (number, own, peers);
        (*incoming, *outgoing) = (Half::Head, Half::Head);
        (*is_open, *has_reader, *has_writer) = (true, true, true);
        (*informed, *is_bare) = (0, false);
        (*announced, *left, *wants) = (None, None, 0);
    }

    /// Whether all of the peer's message came and was taken.
    pub(super) fn is_read(&self) -> bool {
        self.incoming == Half::Whole && self.content.is_empty() && self.trailers.is_none()
    }
}

/// Content that came and was not taken.
#[derive(Debug, Default)]
pub(super) struct Content {
    // Mostly there is one part, or none: it alone may lie in what it was read into.
    first: Option<Bytes>,
    more: VecDeque<Bytes>,
    /// Short parts that came last.
    short: BytesMut,
    length: usize,
}

impl Content {
    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// In bytes.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Puts a part behind the others.
    pub(super) fn push(&mut self, part: Part<'_>) {
        let length = part.as_ref().len();
        if length == 0 {
            return;
        }
        let is_first = self.is_empty();
        self.length += length;
        if is_first {
            self.first = Some(part.into_bytes());
        } else if length <= SHORT {
            self.short.extend_from_slice(part.as_ref());
        } else {
            if !self.short.is_empty() {
                self.more.push_back(self.short.split().freeze());
            }
            // Who waits longer holds nothing of what else was read with it.
            self.more.push_back(Bytes::copy_from_slice(part.as_ref()));
        }
    }

    /// Gives up what is left, and the room for it.
    fn end(&mut self) {
        self.first = None;
        if self.more.capacity() > 0 {
            self.more = VecDeque::new();
        }
        if self.short.capacity() > 0 {
            self.short = BytesMut::new();
        }
        self.length = 0;
    }

    /// Takes the first part.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let part = self
            .first
            .take()
            .or_else(|| self.more.pop_front())
            .or_else(|| (!self.short.is_empty()).then(|| self.short.split().freeze()))?;
        self.length = self.length.saturating_sub(part.len());
        Some(part)
    }
}

/// A part of content as it was read.
#[derive(Debug)]
pub(super) enum Part<'a> {
    /// In what will be read into again.
    Borrowed(&'a [u8]),
    /// In what was given up for it.
    Owned(Bytes),
}

impl AsRef<[u8]> for Part<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl Part<'_> {
    fn into_bytes(self) -> Bytes {
        match self {
            Self::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
            Self::Owned(bytes) => bytes,
        }
    }
}

/// The streams of a connection. Their numbers grow, so that they lie in order.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// Those that are over have number 0, and their places are free.
    all: Vec<Stream>,
    free: Vec<usize>,
    keys: Vec<(u32, usize)>,
}

impl Streams {
    /// Where the stream with this number is.
    pub(super) fn find(&self, id: u32) -> Option<usize> {
        let at = self.keys.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        self.keys.get(at).map(|(_, key)| *key)
    }

    pub(super) fn get(&self, key: usize) -> Option<&Stream> {
        self.all.get(key).filter(|stream| stream.id != 0)
    }

    pub(super) fn get_mut(&mut self, key: usize) -> Option<&mut Stream> {
        self.all.get_mut(key).filter(|stream| stream.id != 0)
    }

    /// Begins one whose number is higher than all before, of which nothing came or was sent.
    pub(super) fn begin(&mut self, id: u32, window: Window, credit: Credit) -> usize {
        let key = self.free.pop().unwrap_or_else(|| {
            self.all.push(Stream::vacant());
            self.all.len() - 1
        });
        if let Some(stream) = self.all.get_mut(key) {
            stream.begin(id, window, credit);
        }
        self.keys.push((id, key));
        key
    }

    /// One is over.
    pub(super) fn end(&mut self, key: usize) {
        let Some(stream) = self.get_mut(key) else {
            return;
        };
        let id = stream.id;
        stream.end();
        self.free.push(key);
        if let Ok(at) = self.keys.binary_search_by_key(&id, |(id, _)| *id) {
            self.keys.remove(at);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Where each of them is, in the order of their numbers.
    pub(super) fn keys(&self) -> Vec<usize> {
        self.keys.iter().map(|(_, key)| *key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_in_order_and_short_ones_together() {
        let mut content = Content::default();
        assert!(content.is_empty());
        let long = vec![b'x'; 2000];
        for part in [&b"a"[..], b"", b"b", b"c", &long, b"d", b"e"] {
            content.push(Part::Borrowed(part));
        }
        assert_eq!(content.len(), 2005);
        let parts: Vec<Bytes> = std::iter::from_fn(|| content.pop()).collect();
        assert_eq!(parts, [&b"a"[..], b"bc", &long, b"de"]);
        assert!(content.is_empty());
        content.push(Part::Owned(Bytes::from_static(b"f")));
        assert_eq!(content.pop().unwrap(), "f");
    }

    #[test]
    fn parts_that_wait_hold_nothing_of_what_they_were_read_into() {
        let read = Bytes::from(vec![b'x'; 64 << 10]);
        let mut content = Content::default();
        for at in [0, 1, 2] {
            content.push(Part::Owned(read.slice(at * 8192..(at + 1) * 8192)));
        }
        // The first one does: mostly it is taken at once.
        assert!(!read.is_unique());
        assert_eq!(content.pop().unwrap().len(), 8192);
        assert!(read.is_unique());
        assert_eq!(content.len(), 2 * 8192);
    }

    #[test]
    fn streams_are_found_by_their_numbers() {
        let mut streams = Streams::default();
        let begin =
            |streams: &mut Streams, id| streams.begin(id, Window::new(1), Credit::new(1, 1));
        let keys = [1, 3, 9].map(|id| begin(&mut streams, id));
        assert_eq!(streams.find(3), Some(keys[1]));
        assert_eq!(streams.find(5), None);
        streams.end(keys[1]);
        assert!(streams.get(keys[1]).is_none() && streams.get_mut(keys[1]).is_none());
        assert_eq!((streams.find(3), streams.find(9)), (None, Some(keys[2])));
        assert_eq!(streams.keys(), [keys[0], keys[2]]);
        // Once over, it is over.
        streams.end(keys[1]);
        assert_eq!((begin(&mut streams, 11), streams.len()), (keys[1], 3));
        assert_ne!(begin(&mut streams, 13), keys[1]);
        assert_eq!((streams.find(3), streams.find(11)), (None, Some(keys[1])));
    }

    #[test]
    fn stream_finds_nothing_of_the_one_before_it() {
        let mut streams = Streams::default();
        let (window, credit) = (Window::new(7), Credit::new(5, 9));
        let key = streams.begin(1, window, credit);
        let fresh = format!("{:?}", streams.get(key).unwrap());
        let stream = streams.get_mut(key).unwrap();
        (stream.incoming, stream.outgoing) = (Half::Whole, Half::Content);
        stream.broken = Some(Error::Over);
        (stream.is_open, stream.has_reader, stream.has_writer) = (false, false, false);
        stream.answer = Some(Answer::new(None));
        (stream.informed, stream.is_bare, stream.wants) = (3, true, 4);
        stream.informing.push_back(Answer::new(None));
        for part in [&b"first"[..], b"short", &[0; 2 * SHORT]] {
            stream.content.push(Part::Borrowed(part));
        }
        (stream.announced, stream.left) = (Some(1), Some(1));
        stream.trailers = Some(Trailers::Fields(HeaderMap::new()));
        (stream.window, stream.credit) = (Window::new(1), Credit::new(1, 1));
        stream.spare = Some(HeaderMap::new());
        let cx = Context::from_waker(Waker::noop());
        let _: (Poll<()>, Poll<()>) = (stream.reader.pend(&cx), stream.writer.pend(&cx));
        streams.end(key);
        assert_eq!(streams.begin(3, window, credit), key);
        let again = format!("{:?}", streams.get(key).unwrap());
        assert_eq!(again, fresh.replace("id: 1,", "id: 3,"));
    }
}
