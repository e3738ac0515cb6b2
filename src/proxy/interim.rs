//! Interim answers (1xx, RFC 9110 §15.2) on their way to the client: 103 Early Hints above all.
//!
//! They are passed on as they come, for as long as the answer itself has not begun; what an upstream
//! said before it failed stays said. 100 is never among them: whoever waits for a word to send its
//! body gets that from here. 101 is no interim answer to us, see `upgrade`.
//!
//! hyper's server writes none of them. Over HTTP/1.1 they are written below it, into its stream, when
//! nothing of hyper's waits to be written: it flushes whenever it has written all, and until the answer
//! begins it writes nothing more but `100 Continue`, whole. The answer is not given to it before they
//! are written.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Response, StatusCode, Version};
use hyper::ext::ReasonPhrase;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http2::Writer;
use crate::proxy::{headers, heads};

/// The most that waits for a client of HTTP/1.1, and the largest list of fields that is passed on at
/// all, in bytes. What is beyond it is dropped.
const BYTES: usize = 16 << 10;
/// What a field counts beside its letters (RFC 9113 §6.5.2).
const FIELD: usize = 32;

/// Where the interim answers to a request go.
pub enum Interim<'a> {
    /// They end here: a client of HTTP/1.0 knows none, and not every one of HTTP/1.1.
    Nobody,
    /// To a client of HTTP/1.1.
    Http1(Rc<Lines>),
    /// To a client of HTTP/2.
    Http2(&'a Writer),
}

impl Interim<'_> {
    /// The same, where its client has this version; `over_http1` says whether one of HTTP/1.1 is told
    /// anything (`proxy.interim_answers`).
    #[must_use]
    pub fn told(self, version: Version, over_http1: bool) -> Self {
        if matches!(self, Self::Http1(_)) && (version < Version::HTTP_11 || !over_http1) {
            Self::Nobody
        } else {
            self
        }
    }

    /// Passes an interim answer on, without what is of one hop; or drops it, where it may not go on
    /// or its client is slow to take those before it.
    pub fn pass(&self, head: Response<()>) {
        let (mut head, ()) = head.into_parts();
        if head.status == StatusCode::CONTINUE {
            return;
        }
        headers::to_downstream(&mut head.headers);
        // They have no content (RFC 9110 §8.6).
        head.headers.remove(CONTENT_LENGTH);
        if size(&head.headers) > BYTES {
            return;
        }
        match self {
            Self::Nobody => {}
            Self::Http1(lines) => {
                let reason = head.extensions.get::<ReasonPhrase>();
                let reason = reason.map_or_else(
                    || head.status.canonical_reason().unwrap_or("").as_bytes(),
                    ReasonPhrase::as_bytes,
                );
                lines.add(head.status, reason, &head.headers);
            }
            Self::Http2(writer) => {
                writer.inform(head.status, &head.headers);
            }
        }
    }

    /// Waits until all that was passed on is written, so that the answer follows it.
    pub async fn passed(&self) {
        if let Self::Http1(lines) = self {
            poll_fn(|cx| lines.poll_empty(cx)).await;
        }
    }
}

/// What a list of fields counts.
fn size(headers: &HeaderMap) -> usize {
    let fields = headers.iter();
    let sizes = fields.map(|(name, value)| name.as_str().len() + value.len() + FIELD);
    sizes.sum()
}

/// Interim answers that a connection of HTTP/1.1 has yet to write.
#[derive(Debug, Default)]
pub struct Lines(RefCell<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// How many of them were written.
    written: usize,
    /// The stream was given them: nothing else is written before the last of them is. A record of TLS
    /// may be under way though no byte counts as written.
    is_begun: bool,
    waiter: Option<Waker>,
}

impl Lines {
    fn add(&self, status: StatusCode, reason: &[u8], headers: &HeaderMap) {
        let waiting = &mut *self.0.borrow_mut();
        let begin = waiting.bytes.len();
        let out = &mut waiting.bytes;
        for part in [
            b"HTTP/1.1 ",
            status.as_str().as_bytes(),
            b" ",
            reason,
            b"\r\n",
        ] {
            out.extend_from_slice(part);
        }
        for (name, value) in headers {
            heads::write_line(out, name.as_str().as_bytes(), value.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        if out.len() > BYTES {
            out.truncate(begin);
        }
    }

    fn poll_empty(&self, cx: &Context<'_>) -> Poll<()> {
        let waiting = &mut *self.0.borrow_mut();
        if waiting.bytes.is_empty() {
            return Poll::Ready(());
        }
        waiting.waiter = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// A client's connection of HTTP/1.1 as hyper has it: interim answers are written between what hyper
/// writes, and never within.
pub struct Interleaved<S> {
    /// The connection.
    pub io: S,
    /// What is to be written between.
    pub lines: Rc<Lines>,
}

impl<S: AsyncWrite + Unpin> Interleaved<S> {
    /// Writes them all.
    fn poll_lines(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let waiting = &mut *self.lines.0.borrow_mut();
        if waiting.bytes.is_empty() {
            return Poll::Ready(Ok(()));
        }
        waiting.is_begun = true;
        while let Some(rest) = waiting.bytes.get(waiting.written..)
            && !rest.is_empty()
        {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            waiting.written += count;
        }
        if let Some(waiter) = std::mem::take(waiting).waiter {
            waiter.wake();
        }
        Poll::Ready(Ok(()))
    }

    /// Writes the rest of what was begun.
    fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lines.0.borrow().is_begun {
            self.poll_lines(cx)
        } else {
            Poll::Ready(Ok(()))
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Interleaved<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Interleaved<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_begun(cx))?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_begun(cx))?;
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    // hyper flushes when it has written all it has.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_lines(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::task::Waker;
    use std::time::Duration;

    use http::HeaderValue;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use super::*;
    use crate::net::stream::Stream;
    use crate::tls::socket::{Activity, Clock, Socket};

    const LONG: Duration = Duration::from_secs(20);

    /// A client's connection, and what the client reads of it.
    async fn connection() -> (Interleaved<Stream>, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(connecting, listener.accept());
        let (tcp, _) = accepted.unwrap();
        let io = Interleaved {
            io: Stream::Plain(Socket::new(tcp, Activity::new(Clock::default()))),
            lines: Rc::default(),
        };
        (io, client.unwrap())
    }

    fn hints(link: &str) -> Response<()> {
        let mut head = Response::new(());
        *head.status_mut() = StatusCode::EARLY_HINTS;
        for (name, value) in [
            ("link", link),
            ("content-length", "3"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
        ] {
            head.headers_mut().append(name, value.parse().unwrap());
        }
        head
    }

    const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n";

    async fn read(client: &mut TcpStream, length: usize) -> String {
        let mut read = vec![0; length];
        client.read_exact(&mut read).await.unwrap();
        String::from_utf8(read).unwrap()
    }

    #[tokio::test]
    async fn they_wait_until_all_that_hyper_has_is_written() {
        let (mut io, mut client) = connection().await;
        let interim = Interim::Http1(io.lines.clone());
        interim.pass(hints("a"));
        poll_fn(|cx| Pin::new(&mut io).poll_write(cx, b"tail "))
            .await
            .unwrap();
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(io.lines.poll_empty(cx).is_pending());
        poll_fn(|cx| Pin::new(&mut io).poll_flush(cx))
            .await
            .unwrap();
        assert!(io.lines.poll_empty(cx).is_ready());
        assert_eq!(
            read(&mut client, 5 + HINTS.len()).await,
            format!("tail {HINTS}")
        );
    }

    #[tokio::test]
    async fn what_was_begun_is_written_to_its_end_before_anything_else() {
        let (mut io, mut client) = connection().await;
        let cx = &mut Context::from_waker(Waker::noop());
        // The client takes nothing until the kernel has no room.
        let mut filled = 0;
        while let Poll::Ready(written) = Pin::new(&mut io).poll_write(cx, &[b'x'; 4096]) {
            filled += written.unwrap();
        }
        Interim::Http1(io.lines.clone()).pass(hints("a"));
        assert!(Pin::new(&mut io).poll_flush(cx).is_pending());
        assert!(Pin::new(&mut io).poll_write(cx, b"answer").is_pending());
        assert!(io.lines.poll_empty(cx).is_pending());
        let length = filled + HINTS.len() + 6;
        let writing = async {
            let mut answer = &b"answer"[..];
            while !answer.is_empty() {
                let count = poll_fn(|cx| Pin::new(&mut io).poll_write(cx, answer)).await;
                answer = &answer[count.unwrap()..];
            }
        };
        let both = async { tokio::join!(read(&mut client, length), writing) };
        let (all, ()) = timeout(LONG, both).await.expect("all of it comes");
        assert_eq!(all[filled..], format!("{HINTS}answer"));
        assert!(io.lines.poll_empty(cx).is_ready());
    }

    #[test]
    fn what_goes_on_is_bounded_and_is_never_a_100() {
        let lines = Rc::<Lines>::default();
        let interim = Interim::Http1(lines.clone());
        let waiting = || lines.0.borrow().bytes.len();
        let mut head = hints("a");
        *head.status_mut() = StatusCode::CONTINUE;
        interim.pass(head);
        assert_eq!(waiting(), 0);
        let mut large = hints("a");
        let value = HeaderValue::try_from("y".repeat(BYTES)).unwrap();
        large.headers_mut().insert("x-large", value);
        interim.pass(large);
        assert_eq!(waiting(), 0);
        interim.pass(hints("a"));
        assert_eq!(waiting(), HINTS.len());
        for _ in 0..BYTES {
            interim.pass(hints("a"));
        }
        // As many as there is room for, whole.
        assert_eq!(waiting(), BYTES / HINTS.len() * HINTS.len());
        assert_eq!(&lines.0.borrow().bytes[..HINTS.len()], HINTS.as_bytes());
    }

    #[test]
    fn clients_of_http_1_0_are_told_nothing_nor_those_of_http_1_1_where_that_is_said() {
        for (version, over_http1, length) in [
            (Version::HTTP_10, true, 0),
            (Version::HTTP_11, true, HINTS.len()),
            (Version::HTTP_11, false, 0),
        ] {
            let lines = Rc::<Lines>::default();
            let interim = Interim::Http1(lines.clone()).told(version, over_http1);
            interim.pass(hints("a"));
            assert_eq!(lines.0.borrow().bytes.len(), length);
        }
    }
}
