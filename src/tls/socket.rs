//! A TCP socket that remembers when it was used and whether anything can be left to read.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A coarse clock: milliseconds since its start, set by one sweep per thread.
pub type Clock = Rc<Cell<u64>>;

/// When a connection last moved bytes, and how many.
#[derive(Debug, Default)]
pub struct Activity {
    clock: Clock,
    read_at: Cell<u64>,
    written_at: Cell<u64>,
    read_bytes: Cell<u64>,
    written_bytes: Cell<u64>,
    first_byte: Cell<Option<u8>>,
    blocked: Cell<bool>,
}

impl Activity {
    /// An activity that reads `clock`; both instants are now.
    #[must_use]
    pub fn new(clock: Clock) -> Rc<Self> {
        let now = clock.get();
        Rc::new(Self {
            clock,
            read_at: Cell::new(now),
            written_at: Cell::new(now),
            read_bytes: Cell::new(0),
            written_bytes: Cell::new(0),
            first_byte: Cell::new(None),
            blocked: Cell::new(false),
        })
    }

    /// The clock's now, in milliseconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.clock.get()
    }

    /// When bytes last came in, in the clock's milliseconds.
    #[must_use]
    pub fn read_at(&self) -> u64 {
        self.read_at.get()
    }

    /// When bytes last went out, in the clock's milliseconds.
    #[must_use]
    pub fn written_at(&self) -> u64 {
        self.written_at.get()
    }

    /// Bytes on the wire that came in since the connection was opened.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.get()
    }

    /// Bytes on the wire that went out since the connection was opened.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes.get()
    }

    /// The first byte that ever came in: tells a TLS alert from HTTP.
    #[must_use]
    pub fn first_byte(&self) -> Option<u8> {
        self.first_byte.get()
    }

    /// Whether the last write found the peer's window full: bytes wait above the socket.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.blocked.get()
    }

    fn read(&self, count: usize, bytes: &[u8]) {
        if self.read_bytes.get() == 0 {
            self.first_byte.set(bytes.first().copied());
        }
        self.read_at.set(self.clock.get());
        self.read_bytes
            .set(self.read_bytes.get().saturating_add(as_u64(count)));
    }

    fn wrote(&self, written: &Poll<io::Result<usize>>) {
        self.blocked.set(written.is_pending());
        let Poll::Ready(Ok(count)) = *written else {
            return;
        };
        self.written_at.set(self.clock.get());
        self.written_bytes
            .set(self.written_bytes.get().saturating_add(as_u64(count)));
    }
}

fn as_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// A TCP stream with its activity.
#[derive(Debug)]
pub struct Socket {
    tcp: TcpStream,
    /// The last read took all there was: the next one would only say "again".
    drained: bool,
    activity: Rc<Activity>,
}

impl Socket {
    /// Wraps a connected stream.
    #[must_use]
    pub fn new(tcp: TcpStream, activity: Rc<Activity>) -> Self {
        Self {
            tcp,
            drained: false,
            activity,
        }
    }

    /// The stream below.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// When it was used.
    #[must_use]
    pub fn activity(&self) -> &Rc<Activity> {
        &self.activity
    }

    /// Ready when a read can yield something; at once unless the last read took all there was.
    pub(super) fn poll_something(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.drained {
            self.tcp.poll_read_ready(cx)
        } else {
            Poll::Ready(Ok(()))
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (room, before) = (buf.remaining(), buf.filled().len());
        // tokio clears readiness on a short read by itself: on Linux a short read of an
        // edge-triggered socket means that nothing is left.
        match Pin::new(&mut self.tcp).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                let count = room - buf.remaining();
                self.drained = count > 0 && count < room;
                let bytes = buf.filled().get(before..).unwrap_or_default();
                self.activity.read(count, bytes);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                self.drained = true;
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, buf);
        self.activity.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs);
        self.activity.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
