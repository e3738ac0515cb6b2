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

use crate::crypto::{fips, sys};
use crate::failure::Reason;
use crate::telemetry::negotiated::Agreed;
use crate::tls::agreed;
use crate::tls::key_updates::KeyUpdates;
use crate::tls::material::{Digest, Unapproved, judge_peer};
use crate::tls::peer::{self, Accepted, Served};
use crate::tls::select::{self, Choice, Handed};
use crate::tls::server::ServerContext;
use crate::tls::socket::Socket;
use crate::tls::upstream;
use crate::tls::verdict::Fault;

/// The most content of one record (RFC 8446 §5.1).
const RECORD_BYTES: usize = 16 << 10;

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
    fault: FaultCell,
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
            fault: FaultCell::default(),
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

    /// Frees libssl's buffers of an idle connection: about 34 KB.
    pub fn free_buffers(&mut self) {
        sys::free_buffers(&mut self.inner);
    }

    /// Whether bytes wait inside libssl.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        sys::has_pending(self.ssl())
    }

    /// Whether an upstream's end is TCP's alone. The bridge takes it for a proper one, and so would
    /// let anybody on the way shorten an answer that ends with its connection (RFC 9112 §9.8). No
    /// request ends that way, and clients often leave without a word: theirs is none of ours.
    fn is_cut(&self) -> bool {
        !self.ssl().is_server() && !sys::has_received_shutdown(self.ssl())
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
        // A read that can only say "again" costs a walk through libssl.
        if !sys::has_pending(self.ssl()) {
            ready!(self.socket().poll_something(cx))?;
        }
        let before = buf.filled().len();
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
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut written = 0;
        // libssl writes one record at a time, at most (SSL_MODE_ENABLE_PARTIAL_WRITE).
        while let Some(rest) = buf.get(written..).filter(|rest| !rest.is_empty()) {
            self.inner.get_mut().announce(rest.len() > RECORD_BYTES);
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
        let shut = Pin::new(&mut self.inner).poll_shutdown(cx);
        if let Poll::Ready(Err(error)) = &shut {
            self.note_unsent(error, cx);
        }
        shut
    }
}

impl Drop for TlsStream {
    fn drop(&mut self) {
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
mod tests {
    use std::future::Future;
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::pin::pin;
    use std::thread::{self, JoinHandle};
    use std::time::{Duration, Instant};

    use openssl::ssl::{self, SslMethod, SslVerifyMode};
    use socket2::SockRef;
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::tls::context;
    use crate::tls::material::KeyPair;
    use crate::tls::policy::{Offer, TlsVersion, Versions};
    use crate::tls::sample;
    use crate::tls::socket::{Activity, Clock};
    use crate::tls::upstream::{Protocol, ServerName, UpstreamConnector, UpstreamSpec};

    /// A handshake message that there is none of (RFC 8446 §4), in a record of its own.
    const NONSENSE: [u8; 9] = [22, 3, 3, 0, 4, 24, 0, 0, 0];

    fn only(version: TlsVersion) -> Versions {
        Versions {
            min: version,
            max: version,
        }
    }

    /// A server that asks for a certificate, shakes hands over what `wrap` makes of its connection,
    /// fails, and resets the connection. It has reset it when the thread has ended.
    fn refusing<S: Read + Write>(
        version: TlsVersion,
        wrap: impl FnOnce(TcpStream) -> S + Send + 'static,
    ) -> (SocketAddr, JoinHandle<()>) {
        let ca = sample::ca("CA");
        let leaf = sample::leaf(&ca, "up.test", &["up.test"]);
        let pair = KeyPair::parse(&leaf.cert, &leaf.key_pem).unwrap();
        let mut ctx = context::base(SslMethod::tls_server(), only(version)).unwrap();
        context::install(&mut ctx, &pair).unwrap();
        ctx.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        let ctx = ctx.build();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serving = thread::spawn(move || {
            let (tcp, _) = listener.accept().unwrap();
            let own = tcp.try_clone().unwrap();
            SockRef::from(&own)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
            let mut stream = ssl::SslStream::new(Ssl::new(&ctx).unwrap(), wrap(tcp)).unwrap();
            assert!(stream.accept().is_err(), "nobody is let in");
        });
        (address, serving)
    }

    /// A connection that reads what it gets up to the first pause, if that, and then something else.
    struct Interrupted {
        tcp: TcpStream,
        reads: bool,
        then: &'static [u8],
    }

    impl Read for Interrupted {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            if std::mem::take(&mut self.reads) {
                return self.tcp.read(buf);
            }
            self.then.read(buf)
        }
    }

    impl Write for Interrupted {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.tcp.write(buf)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.tcp.flush()
        }
    }

    /// Our side of a connection to it, with no certificate to show.
    async fn open(address: SocketAddr, version: TlsVersion) -> TlsStream {
        let connector = UpstreamConnector::build(&UpstreamSpec {
            identity: None,
            trust: None,
            offer: Offer::of(only(version)),
            protocol: Protocol::Http1,
        });
        let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
        let socket = Socket::new(tcp, Activity::new(Clock::default()));
        let peer: Arc<str> = address.to_string().into();
        let name = ServerName::new("up.test");
        connector.unwrap().open(&peer, &name, socket).unwrap()
    }

    /// Waits until the server has ended, and its reset has reached our system; of which tokio hears
    /// nothing.
    fn reset(serving: JoinHandle<()>, tcp: &TcpStream) {
        serving.join().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        // A connection that was reset has no peer (getpeername(2)).
        while tcp.peer_addr().is_ok() {
            assert!(Instant::now() < deadline, "no reset came");
            thread::yield_now();
        }
    }

    /// Another handle to a connection.
    fn handle(stream: &TlsStream) -> TcpStream {
        let fd = stream.socket().tcp().as_fd();
        fd.try_clone_to_owned().unwrap().into()
    }

    /// Runs a future on a runtime that does nothing else, and not even that while it computes.
    fn alone<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        runtime.block_on(tokio::task::unconstrained(future))
    }

    #[test]
    fn write_that_meets_a_reset_tells_the_alert_before_it() {
        alone(async {
            let (address, serving) = refusing(TlsVersion::V1_3, |tcp| tcp);
            let mut stream = open(address, TlsVersion::V1_3).await;
            stream.connect().await.unwrap();
            reset(serving, &handle(&stream));
            let request = b"GET / HTTP/1.1\r\n\r\n";
            let sent = poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, request)).await;
            sent.unwrap_err();
            let fault = stream.fault.borrow().clone().expect("a fault");
            assert_eq!(fault.alert(), Some(116), "{fault}");
            let reason = fault.upstream_reason(stream.certificate_was_asked(), false);
            assert_eq!(reason, Reason::UpstreamWantsClientCert);
        });
    }

    #[test]
    fn farewell_that_meets_a_reset_tells_the_alert_before_it() {
        alone(async {
            let (address, serving) = refusing(TlsVersion::V1_3, |tcp| tcp);
            let mut stream = open(address, TlsVersion::V1_3).await;
            stream.connect().await.unwrap();
            reset(serving, &handle(&stream));
            let sent = poll_fn(|cx| Pin::new(&mut stream).poll_shutdown(cx)).await;
            sent.unwrap_err();
            let fault = stream.fault.borrow().clone().expect("a fault");
            assert_eq!(fault.alert(), Some(116), "{fault}");
        });
    }

    #[test]
    fn handshake_that_meets_a_reset_tells_the_alert_before_it() {
        for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
            alone(async {
                let wrap = |tcp| Interrupted {
                    tcp,
                    reads: true,
                    then: &NONSENSE,
                };
                let (address, serving) = refusing(version, wrap);
                let mut stream = open(address, version).await;
                let tcp = handle(&stream);
                {
                    let mut connecting = pin!(stream.connect());
                    let begun = poll_fn(|cx| Poll::Ready(connecting.as_mut().poll(cx))).await;
                    assert!(begun.is_pending(), "it waits for the server");
                    reset(serving, &tcp);
                    let fault = connecting.await.unwrap_err();
                    assert_eq!(fault.alert(), Some(10), "{version:?}: {fault}");
                }
                let fault = stream.fault.borrow().clone().expect("a fault");
                assert_eq!(fault.alert(), Some(10), "{version:?}: {fault}");
            });
        }
    }

    /// A server that tells how much it read until the end.
    fn reading() -> (SocketAddr, JoinHandle<usize>) {
        let ca = sample::ca("CA");
        let leaf = sample::leaf(&ca, "up.test", &["up.test"]);
        let pair = KeyPair::parse(&leaf.cert, &leaf.key_pem).unwrap();
        let mut ctx = context::base(SslMethod::tls_server(), only(TlsVersion::V1_3)).unwrap();
        context::install(&mut ctx, &pair).unwrap();
        let ctx = ctx.build();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let reading = thread::spawn(move || {
            let (tcp, _) = listener.accept().unwrap();
            let mut stream = ssl::SslStream::new(Ssl::new(&ctx).unwrap(), tcp).unwrap();
            stream.accept().unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            let expected = (0_u8..=250).cycle();
            assert!(all.iter().copied().eq(expected.take(all.len())));
            all.len()
        });
        (address, reading)
    }

    #[test]
    fn content_of_several_records_is_written_at_once_and_in_order() {
        alone(async {
            let (address, reading) = reading();
            let mut stream = open(address, TlsVersion::V1_3).await;
            stream.connect().await.unwrap();
            // More than sockets hold: the server takes it meanwhile.
            let content: Vec<u8> = (0_u8..=250).cycle().take(8 << 20).collect();
            let (first, rest) = content.split_at(3 * RECORD_BYTES + 5);
            let written = poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, first)).await;
            assert_eq!(written.unwrap(), first.len());
            stream.write_all(rest).await.unwrap();
            stream.shutdown().await.unwrap();
            assert_eq!(reading.join().unwrap(), content.len());
        });
    }

    #[test]
    fn reset_without_an_alert_is_no_word_of_tls() {
        alone(async {
            let wrap = |tcp: TcpStream| {
                // A reset that came sooner would be one of the call that connects.
                tcp.peek(&mut [0]).unwrap();
                Interrupted {
                    tcp,
                    reads: false,
                    then: &[],
                }
            };
            let (address, serving) = refusing(TlsVersion::V1_3, wrap);
            let mut stream = open(address, TlsVersion::V1_3).await;
            let fault = stream.connect().await.unwrap_err();
            serving.join().unwrap();
            assert!(fault.is_gone(), "{fault}");
            assert_eq!(fault.upstream_reason(false, false), Reason::UpstreamReset);
        });
    }
}
