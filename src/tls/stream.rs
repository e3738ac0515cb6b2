//! The one TLS stream of both sides: the bridge `tokio_openssl` around our [`Socket`].
//!
//! It adds what the bridge leaves out: no `SSL_read` when nothing can be there, buffers freed when
//! idle, the first TLS error kept for the record, the alert that explains why a write failed, an
//! end told from a cut, and sessions that stay resumable when a connection is dropped.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, ready};

use openssl::error::ErrorStack;
use openssl::ssl::{ErrorCode, Ssl, SslRef};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_openssl::SslStream;

use crate::crypto::{fips, memory, sys};
use crate::failure::Reason;
use crate::telemetry::negotiated::Agreed;
use crate::tls::agreed;
use crate::tls::key_updates::KeyUpdates;
use crate::tls::material::{Digest, Unapproved, judge_peer};
use crate::tls::peer::{self, Accepted, Served};
use crate::tls::select::{self, Choice, Handed};
use crate::tls::server::ServerContext;
use crate::tls::socket::{RECORD, Socket};
use crate::tls::upstream;
use crate::tls::verdict::Fault;

/// What a record has besides its content, at most, in the suites that are offered (RFC 8446 §5.2,
/// RFC 5288 §3): its header, and what authenticates it.
const OVERHEAD: usize = 32;

/// What libssl's buffers take, one for each way, in bytes.
const BUFFERS: usize = 34 << 10;
/// What a connection takes besides, in bytes; see `docs/performance.md`.
const CONNECTION: usize = 20 << 10;

/// The first TLS error of a connection, readable after the stream moved into hyper.
pub type FaultCell = Rc<RefCell<Option<Fault>>>;

/// What one step of an accepted handshake came to.
#[derive(Debug)]
pub enum Step {
    /// The handshake is complete; policy is checked by [`TlsStream::identify`].
    Done,
    /// The client's next bytes are awaited.
    WantClient,
    /// The context of the name must be built; then step again.
    WantContext {
        /// Its key.
        key: Digest,
        /// The ssl to build it from.
        ssl_id: Arc<str>,
    },
    /// The handshake is over.
    Failed {
        /// Why.
        reason: Reason,
        /// OpenSSL's words.
        detail: String,
    },
}

/// A TLS connection, either side.
pub struct TlsStream {
    inner: SslStream<Socket>,
    /// Whether libssl may have buffers.
    has_buffers: bool,
    fault: FaultCell,
    /// How what was read last ends, told behind it.
    behind: Option<io::Result<()>>,
    /// A server's: where a context built for this connection is handed over.
    handed: Option<Handed>,
}

impl TlsStream {
    /// A client's stream before its handshake.
    ///
    /// # Errors
    /// OpenSSL's own: out of memory.
    pub(super) fn connecting(mut ssl: Ssl, mut socket: Socket) -> Result<Self, ErrorStack> {
        socket.limit(KeyUpdates::of(&mut ssl));
        Ok(Self {
            inner: SslStream::new(ssl, socket)?,
            has_buffers: false,
            fault: FaultCell::default(),
            behind: None,
            handed: None,
        })
    }

    /// A server's stream before its handshake.
    ///
    /// # Errors
    /// OpenSSL's own: out of memory.
    pub(super) fn accepting(ssl: Ssl, socket: Socket, handed: Handed) -> Result<Self, ErrorStack> {
        let mut stream = Self::connecting(ssl, socket)?;
        stream.handed = Some(handed);
        Ok(stream)
    }

    /// Hands over the context that [`Step::WantContext`] asked for.
    pub fn hand(&mut self, context: Arc<ServerContext>) {
        if let Some(handed) = &self.handed {
            *handed.lock().unwrap_or_else(PoisonError::into_inner) = Some(context);
        }
    }

    /// OpenSSL's view of the connection.
    #[must_use]
    pub(super) fn ssl(&self) -> &SslRef {
        self.inner.ssl()
    }

    /// The socket below.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        self.inner.get_ref()
    }

    /// Where the first TLS error will be found.
    #[must_use]
    pub fn fault(&self) -> FaultCell {
        self.fault.clone()
    }

    /// Runs the server's handshake as far as the bytes at hand allow. Cancel safe.
    pub fn step_accept(&mut self, cx: &mut Context<'_>) -> Step {
        // Session tickets go with the answer to the first request, which most clients send at once:
        // to send them by themselves would wake the client for nothing.
        let ends = sys::is_between_flights(self.ssl());
        self.inner.get_mut().announce(ends);
        self.has_buffers = true;
        let stepped = Pin::new(&mut self.inner).poll_accept(cx);
        self.inner.get_mut().announce(false);
        if ends && matches!(stepped, Poll::Ready(Err(_))) {
            self.socket().push();
        }
        match stepped {
            Poll::Ready(Ok(())) => Step::Done,
            Poll::Pending => Step::WantClient,
            Poll::Ready(Err(error)) => {
                let chosen = select::selected(self.ssl()).map(|selected| &selected.choice);
                match (error.code(), chosen) {
                    (ErrorCode::WANT_CLIENT_HELLO_CB, Some(Choice::Wait { key, ssl_id })) => {
                        Step::WantContext {
                            key: *key,
                            ssl_id: ssl_id.clone(),
                        }
                    }
                    (_, Some(Choice::Refuse(reason))) => Step::Failed {
                        reason: *reason,
                        detail: String::new(),
                    },
                    _ => {
                        let fault = Fault::of(&error, self.ssl());
                        let (reason, detail) = (fault.client_reason(), fault.to_string());
                        self.fault.replace(Some(fault));
                        Step::Failed { reason, detail }
                    }
                }
            }
        }
    }

    /// Ready when a handshake that stopped can go on: when the peer took what we sent, else when it
    /// sent something or closed.
    ///
    /// # Errors
    /// The socket's.
    pub async fn unblocked(&self) -> io::Result<()> {
        let socket = self.socket();
        if socket.activity().is_blocked() {
            socket.tcp().writable().await
        } else {
            socket.tcp().readable().await
        }
    }

    /// Reads who the client is and checks the policy of its name; see [`peer`].
    ///
    /// # Errors
    /// Why the connection must be closed.
    pub fn identify(&self, now: i64) -> Result<Accepted, Reason> {
        peer::identify(self.ssl(), now)
    }

    /// The server name of the ClientHello, as sent; for records of failed handshakes.
    #[must_use]
    pub fn sni(&self) -> Option<String> {
        let name = select::selected(self.ssl())?.sni.as_deref()?;
        Some(String::from_utf8_lossy(name).into_owned())
    }

    /// The ssl whose name was chosen, if one was; for records of failed handshakes.
    #[must_use]
    pub fn chosen_ssl(&self) -> Option<Arc<str>> {
        match &select::selected(self.ssl())?.choice {
            Choice::Serve(context) => Some(context.ssl_id.clone()),
            Choice::Wait { ssl_id, .. } => Some(ssl_id.clone()),
            Choice::Refuse(_) => None,
        }
    }

    /// What the client showed, also when it was refused; for records of failed handshakes.
    #[must_use]
    pub fn shown(&self) -> Option<peer::Names> {
        let refused = || select::selected(self.ssl())?.refused().cloned();
        let leaf = self.ssl().peer_certificate().or_else(refused)?;
        Some(peer::Names::of(&leaf))
    }

    /// Runs the client's handshake. Cancel safe: dropping it drops the attempt.
    ///
    /// # Errors
    /// The TLS error. With TLS 1.3 an upstream refuses our certificate only after this returned.
    pub async fn connect(&mut self) -> Result<(), Fault> {
        self.has_buffers = true;
        poll_fn(|cx| {
            let connected = ready!(Pin::new(&mut self.inner).poll_connect(cx));
            Poll::Ready(connected.map_err(|error| {
                let mut fault = Fault::of(&error, self.ssl());
                if fault.is_gone() {
                    fault = self.last_word(cx).unwrap_or(fault);
                }
                self.fault.replace(Some(fault.clone()));
                fault
            }))
        })
        .await
    }

    /// The alert of a peer that ended the connection with what we sent unread: it comes before the
    /// reset that our write meets (RFC 9293 §3.10.7.4). Nothing else of what the peer said is lost.
    fn last_word(&mut self, cx: &mut Context<'_>) -> Option<Fault> {
        self.inner.get_mut().hear_out(true);
        let heard = Pin::new(&mut self.inner).poll_peek(cx, &mut [0]);
        self.inner.get_mut().hear_out(false);
        match heard {
            Poll::Ready(Err(error)) => {
                Some(Fault::of(&error, self.ssl())).filter(|fault| fault.alert().is_some())
            }
            Poll::Ready(Ok(_)) | Poll::Pending => None,
        }
    }

    /// Why FIPS mode does not take the certificate that the peer of a finished handshake showed. Where
    /// the chain is checked OpenSSL has refused most of it; where it is not, nobody else looks.
    #[must_use]
    pub fn unapproved_peer(&self) -> Option<Unapproved> {
        let certificate = self.ssl().peer_certificate()?;
        judge_peer(&certificate, fips::mode())
    }

    /// Whether the upstream asked for our certificate, now or when the session was opened.
    #[must_use]
    pub fn certificate_was_asked(&self) -> bool {
        upstream::certificate_was_asked(self.ssl())
    }

    /// What the server showed in a client's handshake.
    #[must_use]
    pub fn served(&self) -> Served {
        Served::of(self.ssl())
    }

    /// Whether the upstream agreed on HTTP/2 by ALPN.
    #[must_use]
    pub fn is_http2(&self) -> bool {
        self.ssl().selected_alpn_protocol() == Some(b"h2")
    }

    /// Whether the session was resumed.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.ssl().session_reused()
    }

    /// What the handshake, which is complete, agreed on.
    #[must_use]
    pub fn agreed(&self) -> Agreed {
        agreed::agreed(self.ssl())
    }

    /// Frees libssl's buffers of an idle connection.
    pub fn free_buffers(&mut self) {
        if self.has_buffers && sys::free_buffers(&mut self.inner) {
            self.has_buffers = false;
            memory::note_freed_pieces(BUFFERS);
        }
    }

    /// Whether bytes wait inside libssl, or for it.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        self.behind.is_some() || sys::has_pending(self.ssl()) || self.socket().has_ahead()
    }

    /// Whether an upstream's end is TCP's alone. The bridge takes it for a proper one, and so would
    /// let anybody on the way shorten an answer that ends with its connection (RFC 9112 §9.8). No
    /// request ends that way, and clients often leave without a word: theirs is none of ours.
    fn is_cut(&self) -> bool {
        !self.ssl().is_server() && !sys::has_received_shutdown(self.ssl())
    }

    /// Reads what a record holds, or the rest of it.
    fn poll_record(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        self.has_buffers = true;
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        match &read {
            Poll::Ready(Err(error)) => self.note(error),
            Poll::Ready(Ok(())) if buf.filled().len() == before && buf.remaining() > 0 => {
                if self.is_cut() {
                    return Poll::Ready(Err(cut()));
                }
            }
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        read
    }

    /// Reads what came with a record: in libssl's room, and ahead.
    fn read_along(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) {
        self.inner.get_mut().read_ahead_only();
        while buf.remaining() > 0 && self.has_pending() {
            let before = buf.filled().len();
            match self.poll_record(cx, buf) {
                Poll::Ready(Ok(())) if buf.filled().len() > before => {}
                Poll::Ready(end) => {
                    self.behind = Some(end);
                    break;
                }
                Poll::Pending => break,
            }
        }
    }

    fn note(&self, error: &io::Error) {
        let mut fault = self.fault.borrow_mut();
        if fault.is_none() {
            *fault = Fault::of_io(error, self.ssl());
        }
    }

    /// Something could not be sent.
    fn note_unsent(&mut self, error: &io::Error, cx: &mut Context<'_>) {
        self.note(error);
        if self.fault.borrow().is_none() {
            let fault = self.last_word(cx);
            self.fault.replace(fault);
        }
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "closed without close_notify")
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(end) = self.behind.take() {
            return Poll::Ready(end);
        }
        // A read that can only say "again" costs a walk through libssl.
        if !self.has_pending() {
            ready!(self.socket().poll_something(cx))?;
        }
        // Room for whole records, the first of which libssl reads by itself.
        let records = (buf.remaining() / RECORD).saturating_sub(1);
        if records == 0 {
            return self.poll_record(cx, buf);
        }
        let before = buf.filled().len();
        self.inner
            .get_mut()
            .read_beyond(records * (RECORD + OVERHEAD));
        let read = self.poll_record(cx, buf);
        if matches!(read, Poll::Ready(Ok(()))) && buf.filled().len() > before {
            self.read_along(cx, buf);
        }
        self.inner.get_mut().read_on();
        read
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut written = 0;
        self.has_buffers = true;
        // libssl writes one record at a time, at most (SSL_MODE_ENABLE_PARTIAL_WRITE).
        while let Some(rest) = buf.get(written..).filter(|rest| !rest.is_empty()) {
            self.inner.get_mut().announce(rest.len() > RECORD);
            match Pin::new(&mut self.inner).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => break,
                Poll::Ready(Ok(count)) => written += count,
                Poll::Ready(Err(error)) => {
                    self.note_unsent(&error, cx);
                    return Poll::Ready(Err(error));
                }
                // What libssl could not write of the rest is what the next call begins with.
                Poll::Pending if written > 0 => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    /// A client that left is told nothing, as with nginx: its system would answer with a reset. Who
    /// said goodbye (RFC 8446 §6.1) and has not closed its side yet is answered.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ssl().is_server() && self.socket().has_left() {
            return Poll::Ready(Ok(()));
        }
        self.has_buffers = true;
        let shut = Pin::new(&mut self.inner).poll_shutdown(cx);
        if let Poll::Ready(Err(error)) = &shut {
            self.note_unsent(error, cx);
        }
        shut
    }
}

impl Drop for TlsStream {
    fn drop(&mut self) {
        memory::note_freed_pieces(CONNECTION + if self.has_buffers { BUFFERS } else { 0 });
        // libssl throws a session away when its connection is freed without close_notify. Only a
        // connection that met a TLS error deserves that.
        if self.fault.borrow().is_none() && self.inner.ssl().is_init_finished() {
            sys::mark_shut_down(&mut self.inner);
        }
    }
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
