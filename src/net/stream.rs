//! A connection's bytes, in the clear or over TLS, as hyper reads and writes them.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::net::sweep::Sweep;
use crate::tls::socket::{Activity, Socket};
use crate::tls::stream::{FaultCell, TlsStream};

/// How long a connection that we end is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linger {
    /// All in all.
    pub time: Duration,
    /// The longest wait for the next bytes.
    pub pause: Duration,
    /// How many bytes.
    pub bytes: usize,
}

impl Linger {
    /// For a peer that has probably sent all it wanted to.
    pub const SHORT: Self = Self {
        time: Duration::from_secs(1),
        pause: Duration::from_secs(1),
        bytes: 256 * 1024,
    };
}

/// A connection, either side, with or without TLS.
///
/// It takes no several buffers at once: hyper then puts a head and its content into one, which makes one
/// record of both, and costs less than a list of buffers where content is short.
#[derive(Debug)]
pub enum Stream {
    /// In the clear.
    Plain(Socket),
    /// Over TLS. Boxed: hyper moves the stream several times.
    Tls(Box<TlsStream>),
}

impl Stream {
    /// When it was used.
    #[must_use]
    pub fn activity(&self) -> &Rc<Activity> {
        self.socket().activity()
    }

    /// The socket below.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.socket(),
        }
    }

    /// Where the first TLS error will be found; `None` in the clear.
    #[must_use]
    pub fn fault(&self) -> Option<FaultCell> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => Some(tls.fault()),
        }
    }

    /// Whether its TLS session was resumed.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(tls) => tls.is_resumed(),
        }
    }

    /// Whether a read can yield something, an end as well, as far as the system has told: a look that
    /// costs less than a read and waits for nothing.
    #[must_use]
    pub fn may_have_something(&self) -> bool {
        let is_pending = matches!(self, Self::Tls(tls) if tls.has_pending());
        is_pending || self.socket().may_have_something()
    }

    /// Ready when a read can yield something, an end as well: a look that costs less than a read.
    ///
    /// # Errors
    /// The socket's.
    pub fn poll_something(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self, Self::Tls(tls) if tls.has_pending()) {
            return Poll::Ready(Ok(()));
        }
        self.socket().poll_something(cx)
    }

    /// Gives up what an idle connection does not need and waits for the peer's next bytes.
    ///
    /// # Errors
    /// The socket's.
    pub async fn park(&mut self) -> io::Result<()> {
        if let Self::Tls(tls) = self
            && tls.has_pending()
        {
            return Ok(());
        }
        self.free_buffers();
        self.socket().tcp().readable().await
    }

    /// Gives up what an idle connection does not need; what is in use stays.
    pub fn free_buffers(&mut self) {
        if let Self::Tls(tls) = self {
            tls.free_buffers();
        }
    }
}

/// Ends a connection so that what was written arrives: says that no more comes, then reads what the
/// peer still sends for a while. Closing with unread bytes would reset the connection and could
/// destroy an alert or an answer on its way (RFC 9112 §9.6).
pub async fn linger(socket: &Socket, sweep: &Rc<Sweep>, linger: Linger) {
    let tcp = socket.tcp();
    if socket.has_ended() || matches!(tcp.try_read(&mut [0]), Ok(0)) {
        // The peer says no more: what was written arrives, and the close tells the end.
        return;
    }
    if SockRef::from(tcp)
        .shutdown(std::net::Shutdown::Write)
        .is_err()
    {
        return;
    }
    let pause = sweep.limit(sweep.after(linger.pause));
    let drain = async {
        let mut waste = [0; 4096];
        let mut left = linger.bytes;
        while tcp.readable().await.is_ok() {
            match tcp.try_read(&mut waste) {
                Ok(0) => return,
                Ok(count) if count >= left => return,
                Ok(count) => {
                    left -= count;
                    pause.reset(sweep.after(linger.pause));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    let drain = Box::pin(async {
        tokio::pin!(drain);
        poll_fn(|cx| match drain.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => pause.poll_expired(cx),
        })
        .await;
    });
    let _ = sweep.within(sweep.after(linger.time), drain).await;
}

/// Answers, with bytes as they stand, a client that speaks plain HTTP where nothing but TLS is
/// served, and ends the connection so that the answer arrives. All but that end takes `patience`.
pub async fn answer_plainly(
    mut socket: Socket,
    answer: &[u8],
    sweep: &Rc<Sweep>,
    patience: Duration,
) {
    let answering = async {
        // What was sent is read first: closing with unread bytes would reset the connection.
        let mut head = [0; 1024];
        let _ = socket.read(&mut head).await;
        let _ = socket.write_all(answer).await;
    };
    let _ = sweep.within(sweep.after(patience), answering).await;
    linger(&socket, sweep, Linger::SHORT).await;
}

/// A stream with bytes that were read from it before.
#[derive(Debug)]
pub struct Rewound {
    /// Read first.
    pub prefix: Bytes,
    /// Read then.
    pub stream: Stream,
}

impl Rewound {
    /// Has what was read too far be read again, before what else was. The buffer it was read into is
    /// not kept: an empty piece would keep all of it, 8 KiB of hyper's, for as long as the connection
    /// is idle.
    pub fn rewind(&mut self, read: &[u8]) {
        self.prefix = [read, &self.prefix].concat().into();
    }
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = self.prefix.len().min(buf.remaining());
        let first = self.prefix.split_to(count);
        buf.put_slice(&first);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use bytes::BytesMut;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::tls::socket::Clock;

    #[tokio::test]
    async fn what_was_read_too_far_is_read_again_and_its_buffer_is_not_kept() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(connecting, listener.accept());
        let (mut client, (tcp, _)) = (client.unwrap(), accepted.unwrap());
        client.write_all(b"behind").await.unwrap();
        let mut io = Rewound {
            prefix: Bytes::new(),
            stream: Stream::Plain(Socket::new(tcp, Activity::new(Clock::default()))),
        };
        for rest in ["", "GET"] {
            let mut buffer = BytesMut::with_capacity(8192);
            buffer.extend_from_slice(b"before ");
            buffer.extend_from_slice(rest.as_bytes());
            io.rewind(&buffer[7..]);
            assert_eq!(io.prefix, rest);
            // What is held alone is not copied: its capacity is that of the buffer.
            io.prefix = match io.prefix.try_into_mut() {
                Ok(held) => {
                    assert_eq!(held.capacity(), rest.len());
                    held.freeze()
                }
                Err(shared) => shared,
            };
        }
        let mut read = [0; 9];
        io.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"GETbehind");
    }
}
