//! A TCP socket that remembers when it was used and whether anything can be left to read.

use std::cell::Cell;
use std::io::{self, IoSliceMut, Read};
use std::net;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::tls::ahead::Ahead;
use crate::tls::key_updates::KeyUpdates;
use crate::tls::turn;

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
    flooded: Cell<bool>,
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
            flooded: Cell::new(false),
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

    /// Whether the connection was given up because its peer sent too many KeyUpdates.
    #[must_use]
    pub fn is_flooded(&self) -> bool {
        self.flooded.get()
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

/// The most content of one record of TLS (RFC 8446 §5.1).
pub(super) const RECORD: usize = 16 << 10;
/// Who reads so much at once reads long content: libssl asks for the rest of a record, or for one.
const LONG: usize = 8 << 10;

/// Where what is read over TLS may come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Source {
    /// From the system, as much as libssl asks for.
    #[default]
    System,
    /// From the system, and so many bytes more.
    Beyond(usize),
    /// From what came ahead.
    Ahead,
}

/// A TCP stream with its activity.
#[derive(Debug)]
pub struct Socket {
    tcp: TcpStream,
    /// The last read took all there was: the next one would only say "again".
    drained: bool,
    /// The last read filled much room.
    was_long: bool,
    /// A read came to the end of what the peer has to say.
    has_ended: bool,
    source: Source,
    /// What came beyond what libssl asked for.
    ahead: Ahead,
    /// What it read of long content, in the turn of its thread.
    part: turn::Part,
    /// The peer takes no more; see [`Socket::hear_out`].
    takes_no_more: bool,
    /// What is written next is not all; see [`Socket::announce`].
    more_follows: bool,
    /// Whether there was nothing to read when it was last looked for behind a write.
    waited: Cell<bool>,
    activity: Rc<Activity>,
    /// What comes in over TLS that has a limit.
    key_updates: Option<KeyUpdates>,
}

impl Socket {
    /// Wraps a connected stream.
    #[must_use]
    pub fn new(tcp: TcpStream, activity: Rc<Activity>) -> Self {
        Self {
            tcp,
            drained: false,
            was_long: false,
            has_ended: false,
            source: Source::System,
            ahead: Ahead::default(),
            part: turn::Part::default(),
            takes_no_more: false,
            more_follows: false,
            waited: Cell::new(false),
            activity,
            key_updates: None,
        }
    }

    /// For as long as it is `on`, what is written goes nowhere, as the peer takes no more, and what
    /// it said before is read from the system itself: resets come in order, so that all of it is
    /// there when a write fails, while tokio hears of it only in the runtime's next turn.
    pub(super) fn hear_out(&mut self, on: bool) {
        self.takes_no_more = on;
    }

    /// Whether more is written at once behind what is written next. The system may then wait for it
    /// and send both together (`MSG_MORE`, tcp(7)): a packet for each record of TLS wakes the peer as
    /// often, which costs more than to encrypt it. What was announced and does not come delays the
    /// last bytes by 200 ms at most.
    pub(super) fn announce(&mut self, more_follows: bool) {
        self.more_follows = more_follows;
    }

    /// Sends what waits behind an announcement after all.
    pub(super) fn push(&self) {
        // Each time that it is set (tcp(7)); a connection without it is none of ours any more.
        let _ = self.tcp.set_nodelay(true);
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if !self.more_follows {
            return Pin::new(&mut self.tcp).poll_write(cx, buf);
        }
        loop {
            ready!(self.tcp.poll_write_ready(cx))?;
            let send = || {
                SockRef::from(&self.tcp).send_with_flags(buf, libc::MSG_MORE | libc::MSG_NOSIGNAL)
            };
            match self.tcp.try_io(Interest::WRITABLE, send) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }

    /// The next read of TLS may bring `count` bytes more than it asks for, which are kept for those
    /// behind it.
    pub(super) fn read_beyond(&mut self, count: usize) {
        self.source = Source::Beyond(count);
    }

    /// Reads of TLS bring nothing but what came ahead. Nobody is woken for more.
    pub(super) fn read_ahead_only(&mut self) {
        self.source = Source::Ahead;
    }

    /// Reads of TLS bring what they ask for, and what came ahead keeps no room but its own.
    pub(super) fn read_on(&mut self) {
        self.source = Source::System;
        self.ahead.settle();
    }

    /// Whether a read yields something that is here already.
    pub(super) fn has_ahead(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// How much memory what came ahead has.
    #[cfg(test)]
    pub(super) fn held_ahead(&self) -> usize {
        self.ahead.held()
    }

    /// Reads into `buf` and, what is beyond it, ahead.
    fn poll_read_beyond(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        more: usize,
    ) -> Poll<io::Result<()>> {
        ready!(self.part.poll(cx));
        loop {
            let Poll::Ready(ready) = self.tcp.poll_read_ready(cx) else {
                self.drained = true;
                self.waited.set(true);
                return Poll::Pending;
            };
            ready?;
            let (own, beyond) = (buf.initialize_unfilled(), self.ahead.room(more));
            let (first, room) = (own.len(), own.len() + beyond.len());
            let mut count = 0;
            let read = self.tcp.try_io(Interest::READABLE, || {
                let rooms = &mut [IoSliceMut::new(own), IoSliceMut::new(beyond)];
                count = (&*SockRef::from(&self.tcp)).read_vectored(rooms)?;
                // As tokio takes a short read by itself: nothing is left.
                if count > 0 && count < room {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(())
            });
            self.ahead.fill(count.saturating_sub(first));
            match read {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Poll::Ready(Err(error));
                }
                Err(_again) if count == 0 => continue,
                Ok(()) | Err(_) => {}
            }
            self.drained = count > 0 && count < room;
            self.has_ended = count == 0 && room > 0;
            self.was_long = count >= first;
            self.part.read(count);
            buf.advance(count.min(first));
            self.activity.read(count, buf.filled());
            return Poll::Ready(Ok(()));
        }
    }

    /// The first byte the peer said, where a write failed before any was read: it tells what the
    /// peer speaks.
    fn note_first_byte(&self) {
        let own = self.tcp.as_fd().try_clone_to_owned();
        let mut first = [0];
        if self.activity.first_byte().is_none()
            && let Ok(Ok(1)) = own.map(|own| net::TcpStream::from(own).peek(&mut first))
        {
            self.activity.first_byte.set(first.first().copied());
        }
    }

    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Err(_))) {
            self.note_first_byte();
        }
        self.waited.set(false);
        self.activity.wrote(&written);
        written
    }

    /// Whether the peer ended its side when all that was written was on its way to it, and nothing
    /// that it sent before was left: it left, where it may be that another peer, which ended its side
    /// with its request, still reads.
    pub(super) fn has_left(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.waited.get()
            && matches!(
                pin!(self.tcp.ready(Interest::READABLE)).poll(&mut cx),
                Poll::Ready(Ok(ready)) if ready.is_read_closed()
            )
    }

    /// Reads no more once there are too many of these. Where libssl is reading, it ends with that.
    pub(super) fn limit(&mut self, key_updates: KeyUpdates) {
        self.key_updates = Some(key_updates);
    }

    fn is_flooded(&self) -> bool {
        if self.activity.is_flooded() {
            return true;
        }
        let updates = self.key_updates.as_ref();
        let is_flooded = updates.is_some_and(|updates| updates.are_too_many(self.activity.now()));
        if is_flooded {
            self.activity.flooded.set(true);
        }
        is_flooded
    }

    /// Whether a read came to the end of what the peer has to say.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.has_ended
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

    /// Whether a read can yield something, as far as the system has told.
    #[must_use]
    pub fn may_have_something(&self) -> bool {
        // Nothing is read, and what is ready stays so.
        self.has_ahead() || !self.drained || self.tcp.try_io(Interest::READABLE, || Ok(())).is_ok()
    }

    /// Ready when a read can yield something; at once unless the last read took all there was.
    ///
    /// # Errors
    /// The socket's.
    pub fn poll_something(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.drained || self.has_ahead() {
            return Poll::Ready(Ok(()));
        }
        let ready = self.tcp.poll_read_ready(cx);
        if ready.is_pending() {
            self.waited.set(true);
        }
        ready
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.takes_no_more && self.is_flooded() {
            let error = io::Error::new(io::ErrorKind::ConnectionAborted, "too many KeyUpdates");
            return Poll::Ready(Err(error));
        }
        if self.has_ahead() {
            let count = self.ahead.hand_on(buf.initialize_unfilled());
            buf.advance(count);
            return Poll::Ready(Ok(()));
        }
        if self.takes_no_more {
            let own = SockRef::from(&self.tcp);
            return match (&*own).read(buf.initialize_unfilled()) {
                Ok(count) => {
                    buf.advance(count);
                    Poll::Ready(Ok(()))
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            };
        }
        let (room, before) = (buf.remaining(), buf.filled().len());
        match self.source {
            Source::Ahead => return Poll::Pending,
            Source::Beyond(more) if self.was_long => return self.poll_read_beyond(cx, buf, more),
            Source::Beyond(_) | Source::System => {}
        }
        // tokio clears readiness on a short read by itself: on Linux a short read of an
        // edge-triggered socket means that nothing is left.
        match Pin::new(&mut self.tcp).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                let count = room - buf.remaining();
                self.drained = count > 0 && count < room;
                self.has_ended = count == 0 && room > 0;
                self.was_long = count == room && room >= LONG;
                let bytes = buf.filled().get(before..).unwrap_or_default();
                self.activity.read(count, bytes);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                self.drained = true;
                self.waited.set(true);
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
        if self.takes_no_more {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = self.poll_send(cx, buf);
        self.wrote(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write;
    use std::time::{Duration, Instant};

    use super::*;

    /// What is known of a peer's first byte after a write that met its reset.
    async fn first_byte_of(said: &[u8]) -> Option<u8> {
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let tcp = TcpStream::connect(address).await.unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        peer.write_all(said).unwrap();
        let at_once = Some(Duration::ZERO);
        SockRef::from(&peer).set_linger(at_once).unwrap();
        drop(peer);
        let deadline = Instant::now() + Duration::from_secs(10);
        // A connection that was reset has no peer (getpeername(2)).
        while tcp.peer_addr().is_ok() {
            assert!(Instant::now() < deadline, "no reset came");
            std::thread::yield_now();
        }
        let mut socket = Socket::new(tcp, Activity::new(Clock::default()));
        let sent = poll_fn(|cx| Pin::new(&mut socket).poll_write(cx, b"GET")).await;
        sent.unwrap_err();
        socket.activity().first_byte()
    }

    #[tokio::test]
    async fn write_that_meets_a_reset_tells_what_the_peer_speaks() {
        assert_eq!(first_byte_of(&[0x15, 3, 3, 0, 2, 2, 10]).await, Some(0x15));
        assert_eq!(first_byte_of(b"HTTP").await, Some(b'H'));
        assert_eq!(first_byte_of(b"").await, None);
    }

    #[tokio::test]
    async fn peer_left_if_it_ended_when_it_had_all_that_was_written() {
        for ends_before in [true, false] {
            let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let tcp = TcpStream::connect(address).await.unwrap();
            let (peer, _) = listener.accept().unwrap();
            let end = || peer.shutdown(net::Shutdown::Write).unwrap();
            let mut socket = Socket::new(tcp, Activity::new(Clock::default()));
            if ends_before {
                end();
                socket.tcp().readable().await.unwrap();
            }
            let sent = poll_fn(|cx| Pin::new(&mut socket).poll_write(cx, b"answer")).await;
            assert_eq!(sent.unwrap(), 6);
            if !ends_before {
                let begun = poll_fn(|cx| Poll::Ready(socket.read_byte(cx).is_pending())).await;
                assert!(begun, "there is nothing to read");
                assert!(!socket.has_left());
                end();
            }
            let end = poll_fn(|cx| socket.read_byte(cx)).await;
            assert_eq!(end.unwrap(), 0);
            assert_eq!(socket.has_left(), !ends_before);
        }
    }

    impl Socket {
        fn read_byte(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
            let mut byte = [0];
            let mut buf = ReadBuf::new(&mut byte);
            ready!(Pin::new(self).poll_read(cx, &mut buf))?;
            Poll::Ready(Ok(buf.filled().len()))
        }
    }
}
