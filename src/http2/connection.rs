//! A connection with its socket, and what moves the one by the other.

use std::cell::RefCell;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use http::Request;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::core::{Core, Limits, Role};
use super::error::{By, Error, Reason};
use super::handle::{Reader, Writer};
use super::message::RequestHead;
use super::stock::{READ_BYTES, Stock};

/// How often a connection is read before others have their turn.
const READS: usize = 8;

/// A connection. It moves when it is polled, and ends when it is dropped.
#[derive(Debug)]
pub struct Connection<T> {
    io: T,
    core: Rc<RefCell<Core>>,
    stock: Rc<Stock>,
    /// What was read of what is not complete yet.
    rest: Vec<u8>,
    /// The peer says nothing more.
    has_ended: bool,
    is_unflushed: bool,
}

/// A connection's streams, as who begins them has them.
#[derive(Clone, Debug)]
pub struct Handle(Rc<RefCell<Core>>);

/// A request that came, with both sides of its stream.
#[derive(Debug)]
pub struct Incoming {
    /// Its head.
    pub request: Request<()>,
    /// Its content.
    pub reader: Reader,
    /// Its answer.
    pub writer: Writer,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection<T> {
    /// A connection over `io`, which nothing was written to.
    #[must_use]
    pub fn new(io: T, role: Role, limits: Limits, stock: Rc<Stock>) -> Self {
        let core = Core::new(role, limits, stock.clone());
        Self {
            io,
            core: Rc::new(RefCell::new(core)),
            stock,
            rest: Vec::new(),
            is_unflushed: false,
            has_ended: false,
        }
    }

    /// What begins streams, and asks for the peer.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(self.core.clone())
    }

    /// Whether the peer's settings came.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.core.borrow().peer.is_known
    }

    /// What its peer did wrong, for which it ends or ended; it is known before the end is said.
    #[must_use]
    pub fn violation(&self) -> Option<Error> {
        let ended = self.core.borrow().ended.clone();
        ended.filter(Error::is_violation)
    }

    /// Whether the peer acknowledged our settings.
    #[must_use]
    pub fn is_acknowledged(&self) -> bool {
        self.core.borrow().peer.has_acknowledged
    }

    /// Asks the peer whether it is there; false, if it was asked and did not answer yet.
    #[must_use]
    pub fn ask(&self) -> bool {
        self.core.borrow_mut().ask()
    }

    /// Whether the peer answered since it was last asked.
    #[must_use]
    pub fn has_answered(&self) -> bool {
        self.core.borrow().has_answered()
    }

    /// Ends it in order: no stream is begun any more, and those that are under way come to their end.
    pub fn leave(&self) {
        self.core.borrow_mut().leave();
    }

    /// Ends it at once, with its streams; the peer is told why.
    pub fn abort(&self, reason: Reason) {
        self.core.borrow_mut().go_away(reason, By::Us, "");
    }

    /// Gives up what it needs no more while it is idle, as long as it is; what it runs over may do the
    /// same.
    pub fn rest(&mut self) -> &mut T {
        self.core.borrow_mut().rest();
        &mut self.io
    }

    /// Moves a server's connection to its end; what clients ask meanwhile is given to `begin`.
    ///
    /// # Errors
    /// How it ended, if not in order.
    pub fn poll_served(
        &mut self,
        cx: &mut Context<'_>,
        mut begin: impl FnMut(Incoming),
    ) -> Poll<Result<(), Error>> {
        let moved = self.poll_moved(cx);
        loop {
            let taken = self.core.borrow_mut().take_request();
            let Some((request, key)) = taken else {
                return moved;
            };
            begin(Incoming {
                request,
                reader: Reader::new(self.core.clone(), key),
                writer: Writer::new(self.core.clone(), key),
            });
        }
    }

    /// Moves it to its end.
    ///
    /// # Errors
    /// How it ended, if not in order.
    pub fn poll_moved(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        {
            let mut core = self.core.borrow_mut();
            let _: Poll<()> = core.driver.pend(cx);
            core.is_moving = true;
        }
        let moved = self.poll_both(cx);
        self.core.borrow_mut().is_moving = false;
        moved
    }

    fn poll_both(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            let read = self.read(cx);
            let written = self.poll_write(cx);
            let mut core = self.core.borrow_mut();
            if let Poll::Ready(Err(error)) = written {
                core.end(&error.into());
            }
            if self.has_ended && read != Read::Held {
                let end = cut(core.open > 0);
                core.end(&end);
            }
            if core.ended.is_some() || core.is_over() {
                break;
            }
            match read {
                Read::Held if core.is_stuffed() => return Poll::Pending,
                Read::Held => {}
                Read::More => {
                    // It is others' turn.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Read::Nothing => return Poll::Pending,
            }
        }
        self.poll_end(cx)
    }

    /// What was said last arrives before the end does.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let ended = self.core.borrow().ended.clone();
        let ended = match ended {
            None | Some(Error::Over | Error::GoAway(_, By::Us, _)) => Ok(()),
            Some(error) => Err(error),
        };
        if !matches!(ended, Err(Error::Io(_))) && ready!(self.poll_write(cx)).is_ok() {
            let _closed = ready!(Pin::new(&mut self.io).poll_shutdown(cx));
        }
        Poll::Ready(ended)
    }

    /// Reads what is there, and takes it.
    fn read(&mut self, cx: &mut Context<'_>) -> Read {
        let mut room = self.stock.take_room();
        room.extend_from_slice(&self.rest);
        let read = self.read_into(&mut room, cx);
        self.core.borrow_mut().note_rest(&room);
        // What is not complete waits in a place of its own.
        if room.is_empty() && self.rest.capacity() > 0 {
            self.rest = Vec::new();
        } else if !room.is_empty() {
            self.rest.clear();
            self.rest.extend_from_slice(&room);
        }
        self.stock.give_room(room);
        read
    }

    fn read_into(&mut self, room: &mut BytesMut, cx: &mut Context<'_>) -> Read {
        for _ in 0..READS {
            if !room.is_empty() {
                self.core.borrow_mut().feed(room);
            }
            let core = self.core.borrow();
            if core.ended.is_some() {
                return Read::Nothing;
            }
            if core.is_stuffed() {
                return Read::Held;
            }
            drop(core);
            if self.has_ended {
                return Read::Nothing;
            }
            make_room(room);
            match pin!(self.io.read_buf(room)).poll(cx) {
                Poll::Pending => return Read::Nothing,
                Poll::Ready(Ok(0)) => self.has_ended = true,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => {
                    self.core.borrow_mut().end(&error.into());
                    return Read::Nothing;
                }
            }
        }
        self.core.borrow_mut().feed(room);
        if self.core.borrow().is_stuffed() {
            Read::Held
        } else {
            Read::More
        }
    }

    /// Writes what is to be written.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let core = &mut *self.core.borrow_mut();
        while !core.unwritten().is_empty() {
            let written = Pin::new(&mut self.io).poll_write(cx, core.unwritten());
            match ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => core.wrote(count),
            }
            self.is_unflushed = true;
        }
        if self.is_unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.is_unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// Has half of what is read at once fit at least. What was read may be held by others, each with all
/// that it was read into: so that is no larger than it must be.
fn make_room(room: &mut BytesMut) {
    let wanted = READ_BYTES / 2;
    if room.capacity() - room.len() >= wanted || room.try_reclaim(wanted) {
        return;
    }
    let mut larger = BytesMut::with_capacity(READ_BYTES.max(room.len() + wanted));
    larger.extend_from_slice(room);
    *room = larger;
}

/// How reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    /// There is nothing more for now, or ever.
    Nothing,
    /// There may be more.
    More,
    /// What is to be written is to be written first.
    Held,
}

/// How a connection ends that its peer ended.
fn cut(has_streams: bool) -> Error {
    if has_streams {
        let words = "the connection ended before its streams did";
        io::Error::new(io::ErrorKind::BrokenPipe, words).into()
    } else {
        Error::Over
    }
}

impl<T> Drop for Connection<T> {
    fn drop(&mut self) {
        let core = &mut *self.core.borrow_mut();
        let end = cut(core.open > 0);
        core.end(&end);
    }
}

impl Handle {
    /// Begins a stream; the request is its head alone, if it `is_whole`, and has no content to be
    /// written then.
    ///
    /// # Errors
    /// The connection takes no stream any more; nothing was sent.
    pub fn send(
        &self,
        head: RequestHead<'_>,
        is_whole: bool,
    ) -> Result<(Reader, Option<Writer>), Error> {
        let key = self.0.borrow_mut().begin(head, is_whole)?;
        let writer = (!is_whole).then(|| Writer::new(self.0.clone(), key));
        Ok((Reader::new(self.0.clone(), key), writer))
    }

    /// Whether it takes streams: neither side is about to end it.
    #[must_use]
    pub fn takes_streams(&self) -> bool {
        self.0.borrow().takes_streams()
    }

    /// How many streams the peer takes at a time; none, before its settings came.
    #[must_use]
    pub fn most_streams(&self) -> u32 {
        self.0.borrow().most_streams()
    }

    /// Asks the peer whether it is there; false, if it was asked and did not answer yet.
    #[must_use]
    pub fn ask(&self) -> bool {
        self.0.borrow_mut().ask()
    }
}

#[cfg(test)]
impl<T> Connection<T> {
    /// The next stream that is begun here has this number.
    pub(super) fn skip_to(&self, next: u32) {
        self.core.borrow_mut().next = next;
    }

    /// How many requests and trailers that came are kept, as they came again.
    pub(super) fn remembered(&self) -> [usize; 2] {
        let core = self.core.borrow();
        [core.asks.kept(), core.tails.kept()]
    }

    /// How many bytes wait to be written.
    pub(super) fn unwritten(&self) -> usize {
        self.core.borrow().unwritten().len()
    }

    /// How many wait for room on the connection.
    pub(super) fn waiting(&self) -> usize {
        self.core.borrow().queue.len()
    }

    /// How much memory is held for what waits to be written, in bytes.
    pub(super) fn held(&self) -> usize {
        self.core.borrow().out.capacity()
    }
}
