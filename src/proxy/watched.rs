//! A client's connection as hyper reads HTTP/1.1 from it, and as we watch it while hyper does not.
//!
//! A client that leaves while its request is served must be noticed. hyper would read on to that end,
//! into a buffer of 8 KiB that it allocates each time, as the request's head lies in the one before.
//! Told that clients may end their side ([`half_close`]) it does not read then, and we do: into memory
//! that all connections of a worker share. What comes is kept for hyper.
//!
//! hyper does not look for an end behind requests that it has read already, and so it must have none
//! that we do not know of: heads are handed to it one at a time. What it reads of a body may have a
//! head behind it, whose client we take for gone when it ends its side, as nginx does.
//!
//! Of a head that it cannot read hyper says a bare status. That is the one thing it writes while nothing
//! is answered, and it goes nowhere: see [`unread`](crate::proxy::unread).
//!
//! [`half_close`]: hyper::server::conn::http1::Builder::half_close

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::LazyLock;
use std::task::{Context, Poll, ready};

use memchr::memmem::Finder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::stream::Rewound;
use crate::proxy::conn::Conn;
use crate::proxy::worker::Worker;

/// How far hyper is with a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It has none, and has written all that it had.
    Nothing,
    /// Its answer is being made.
    Asked,
    /// It has the answer's head, and the body until that is over.
    Answered,
}

/// The connection. Its clones are the same one.
#[derive(Clone)]
pub(super) struct Watched(Rc<Inner>);

struct Inner {
    io: RefCell<Rewound>,
    worker: Rc<Worker>,
    conn: Rc<Conn>,
    is_gone: Cell<bool>,
    /// Its request looked after it by itself.
    was_looked_after: Cell<bool>,
    /// Something of an answer may have to be written yet.
    answering: Cell<Stage>,
    /// What hyper said of a head that it cannot read was held back.
    holds_back: Cell<bool>,
}

impl Watched {
    /// Nothing of a request was read from `io` but its `prefix`.
    pub(super) fn new(io: Rewound, worker: Rc<Worker>, conn: Rc<Conn>) -> Self {
        Self(Rc::new(Inner {
            io: RefCell::new(io),
            worker,
            conn,
            is_gone: Cell::new(false),
            was_looked_after: Cell::new(false),
            answering: Cell::new(Stage::Nothing),
            holds_back: Cell::new(false),
        }))
    }

    /// Whether its client is yet to be told that its head cannot be read.
    pub(super) fn holds_back(&self) -> bool {
        self.0.holds_back.get()
    }

    /// Whether nothing is being answered.
    pub(super) fn is_unasked(&self) -> bool {
        self.0.answering.get() == Stage::Nothing
    }

    /// The stream, once this is the last clone.
    pub(super) fn into_inner(self) -> Option<Rewound> {
        Rc::into_inner(self.0).map(|inner| inner.io.into_inner())
    }

    /// Ready when a client left that waits for its answer. Not before all of its request was read; and
    /// not behind a request that it sent already: who sends all it has and ends its side is answered.
    pub(super) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.is_gone.get() {
            return Poll::Ready(());
        }
        if self.0.was_looked_after.take() || !self.0.conn.awaits_answer() {
            return Poll::Pending;
        }
        ready!(self.0.poll_gone(cx));
        self.0.is_gone.set(true);
        Poll::Ready(())
    }

    /// What `answering` answers, which nothing is done for if its client left before it was begun.
    pub(super) fn answer<F>(&self, answering: F) -> Answering<F> {
        self.0.answering.set(Stage::Asked);
        Answering {
            watched: self.clone(),
            answering,
            is_begun: false,
        }
    }
}

impl Inner {
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let io = &mut *self.io.borrow_mut();
        while END_OF_HEAD.find(&io.prefix).is_none()
            && io.prefix.len() < self.worker.settings.header_bytes
        {
            // An error is read as well.
            let _ = ready!(io.stream.poll_something(cx));
            let mut chunk = self.worker.chunk.borrow_mut();
            let mut buf = ReadBuf::new(&mut chunk);
            match ready!(Pin::new(&mut io.stream).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {
                    io.prefix = [&io.prefix, buf.filled()].concat().into();
                }
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }
}

/// An answer that is begun only for a client that is there.
pub(super) struct Answering<F> {
    watched: Watched,
    answering: F,
    is_begun: bool,
}

impl<F: Future + Unpin> Future for Answering<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if !self.is_begun {
            if self.watched.poll_gone(cx).is_ready() {
                // Who polls the connection ends it.
                return Poll::Pending;
            }
            self.is_begun = true;
            let inner = &self.watched.0;
            inner.was_looked_after.set(inner.conn.awaits_answer());
        }
        let answer = ready!(Pin::new(&mut self.answering).poll(cx));
        self.watched.0.answering.set(Stage::Answered);
        Poll::Ready(answer)
    }
}

/// The end of a head's last line, and the empty line behind it.
static END_OF_HEAD: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\n\r\n"));

/// Where the first head in some bytes ends, if something follows it.
fn end_of_first(bytes: &[u8]) -> Option<usize> {
    let end = END_OF_HEAD.find(bytes)?.saturating_add(3);
    (end < bytes.len()).then_some(end)
}

impl AsyncRead for Watched {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let io = &mut *self.0.io.borrow_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut *io).poll_read(cx, buf))?;
        if self.0.conn.is_idle()
            && let Some(end) = end_of_first(buf.filled().get(before..).unwrap_or_default())
        {
            let end = before.saturating_add(end);
            io.rewind(buf.filled().get(end..).unwrap_or_default());
            buf.set_filled(end);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.0.answering.get() == Stage::Nothing {
            self.0.holds_back.set(true);
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut *self.0.io.borrow_mut()).poll_write(cx, buf)
    }

    // hyper flushes when it has written all it has.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut *self.0.io.borrow_mut()).poll_flush(cx))?;
        if self.0.answering.get() == Stage::Answered && !self.0.conn.is_answering() {
            self.0.answering.set(Stage::Nothing);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.io.borrow_mut()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_told_from_what_follows_them() {
        for (bytes, first) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", None),
            ("GET / HTTP/1.1\r\nHost: a\r\n", None),
            ("GET / HTTP/1.1\r\n\r\nG", Some(18)),
            ("GET / HTTP/1.1\n\r\nGET / HTTP/1.1\r\n\r\n", Some(17)),
            // HTTP/2 begins like one.
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(18)),
            ("", None),
        ] {
            assert_eq!(end_of_first(bytes.as_bytes()), first, "{bytes:?}");
        }
    }
}
