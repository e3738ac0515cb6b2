//! A TLS client in this process, for what curl and `openssl s_client` cannot do: stay open between
//! requests while something changes, keep a session and offer it elsewhere, vanish.
//!
//! It believes any server, whom it reached is told by [`TlsConn::peer_name`], and shows whatever
//! certificate it is told to.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::ssl::{
    self, ErrorCode, Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslSession,
    SslSessionCacheMode, SslStream, SslVerifyMode, SslVersion,
};
use openssl::x509::X509;
use portcullis::crypto::sys;
use socket2::SockRef;

use super::pki::{Pair, serial};
use super::{SOON, TlsVersion};

/// A connection in the making.
#[derive(Clone)]
pub(crate) struct TlsClient {
    port: u16,
    sni: Option<String>,
    version: Option<TlsVersion>,
    pair: Option<Pair>,
    session: Option<Session>,
    signatures: Option<&'static str>,
    knows_tickets: bool,
}

/// A TLS session as DER, to be offered as often as one likes.
pub(crate) type Session = Vec<u8>;

/// An open connection; it is dropped without close_notify.
pub(crate) struct TlsConn {
    stream: SslStream<Gate>,
    session: Arc<Mutex<Option<Session>>>,
}

/// A handshake that the server has answered and we have not.
pub(crate) struct Begun(TlsConn);

/// A socket that nothing can be read from while it is shut.
struct Gate {
    tcp: TcpStream,
    is_shut: bool,
}

/// A plain connection, for requests as no client would write them.
pub(crate) struct PlainConn(TcpStream);

/// One answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Status line and header lines, as received.
    pub(crate) head: String,
    pub(crate) body: String,
}

/// A connection that ended instead of answering.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By this TLS alert (RFC 8446 §6).
    Alert(i32),
    /// Without one.
    Closed(String),
}

impl TlsClient {
    /// A client of this port here: no name, any version, no certificate.
    pub(crate) fn new(port: u16) -> Self {
        Self {
            port,
            sni: None,
            version: None,
            pair: None,
            session: None,
            signatures: None,
            knows_tickets: true,
        }
    }

    /// Sends this server name, as it stands.
    pub(crate) fn sni(mut self, name: &str) -> Self {
        self.sni = Some(name.to_owned());
        self
    }

    /// Connects to this port instead.
    pub(crate) fn at(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Speaks exactly this version.
    pub(crate) fn tls(mut self, version: TlsVersion) -> Self {
        self.version = Some(version);
        self
    }

    /// Presents a client certificate.
    pub(crate) fn cert(mut self, pair: &Pair) -> Self {
        self.pair = Some(pair.clone());
        self
    }

    /// Takes these signatures of the server only, such as `RSA-PSS+SHA256:RSA+SHA256`.
    pub(crate) fn signatures(mut self, list: &'static str) -> Self {
        self.signatures = Some(list);
        self
    }

    /// Does not know session tickets, of TLS 1.2; with TLS 1.3 there is nothing else.
    pub(crate) fn without_tickets(mut self) -> Self {
        self.knows_tickets = false;
        self
    }

    /// Offers a session for resumption.
    pub(crate) fn session(mut self, session: &Session) -> Self {
        self.session = Some(session.clone());
        self
    }

    /// Shakes hands. With TLS 1.3 a refusal of our certificate comes only with the first answer.
    #[track_caller]
    pub(crate) fn connect(&self) -> Result<TlsConn, Ended> {
        self.open(false).shake()
    }

    /// Sends a ClientHello and waits until the server has chosen what to answer it with.
    #[track_caller]
    pub(crate) fn begin(&self) -> Begun {
        let mut conn = self.open(true);
        let error = conn.stream.connect().expect_err("no answer is read yet");
        assert_eq!(error.code(), ErrorCode::WANT_READ, "{error}");
        let gate = conn.stream.get_mut();
        let answered = uninterrupted(|| gate.tcp.peek(&mut [0]));
        answered.expect("the server answers");
        gate.is_shut = false;
        Begun(conn)
    }

    #[track_caller]
    fn open(&self, is_shut: bool) -> TlsConn {
        let session = Arc::default();
        let ssl = self.ssl(&session);
        let tcp = open(self.port);
        let stream = SslStream::new(ssl, Gate { tcp, is_shut }).unwrap();
        TlsConn { stream, session }
    }

    /// The port it connects to.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// A connection before its handshake; `session` will have the newest one that the server gives.
    pub(super) fn ssl(&self, session: &Arc<Mutex<Option<Session>>>) -> Ssl {
        let ctx = self.context(session);
        let mut ssl = Ssl::new(&ctx).unwrap();
        if let Some(name) = &self.sni {
            ssl.set_hostname(name).unwrap();
        }
        if let Some(der) = &self.session {
            sys::offer_session(&mut ssl, &SslSession::from_der(der).unwrap()).unwrap();
        }
        ssl
    }

    /// Shakes hands and sends one request for `host`: both must go well for an answer.
    #[track_caller]
    pub(crate) fn get(&self, host: &str, path: &str) -> Result<Answer, Ended> {
        self.connect()?.get(host, path)
    }

    fn context(&self, session: &Arc<Mutex<Option<Session>>>) -> SslContext {
        #[expect(
            clippy::disallowed_methods,
            reason = "a client for tests; it decides nothing"
        )]
        let mut ctx: SslContextBuilder = SslContext::builder(SslMethod::tls_client()).unwrap();
        ctx.set_verify(SslVerifyMode::NONE);
        // Weak keys are the server's to refuse.
        ctx.set_security_level(0);
        if let Some(list) = self.signatures {
            ctx.set_sigalgs_list(list).unwrap();
        }
        if !self.knows_tickets {
            ctx.set_options(SslOptions::NO_TICKET);
        }
        if let Some(version) = self.version {
            let version = Some(SslVersion::from(version));
            ctx.set_min_proto_version(version).unwrap();
            ctx.set_max_proto_version(version).unwrap();
        }
        if let Some(pair) = &self.pair {
            install(&mut ctx, pair);
        }
        ctx.set_session_cache_mode(SslSessionCacheMode::CLIENT);
        let kept = Arc::clone(session);
        ctx.set_new_session_callback(move |_, session| {
            *kept.lock().unwrap() = session.to_der().ok();
        });
        ctx.build()
    }
}

impl From<TlsVersion> for SslVersion {
    fn from(version: TlsVersion) -> Self {
        match version {
            TlsVersion::V12 => Self::TLS1_2,
            TlsVersion::V13 => Self::TLS1_3,
        }
    }
}

impl Begun {
    /// Ends the handshake.
    #[track_caller]
    pub(crate) fn finish(self) -> Result<TlsConn, Ended> {
        self.0.shake()
    }
}

impl Read for Gate {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.is_shut {
            true => Err(ErrorKind::WouldBlock.into()),
            false => uninterrupted(|| self.tcp.read(buf)),
        }
    }
}

/// Goes on where it left off after the process was stopped, which a wait with a time-out does not by itself
/// (signal(7)).
pub(super) fn uninterrupted<T>(mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match act() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

impl Write for Gate {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.tcp.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tcp.flush()
    }
}

impl TlsConn {
    #[track_caller]
    fn shake(mut self) -> Result<Self, Ended> {
        match self.stream.connect() {
            Ok(()) => Ok(self),
            Err(error) => Err(Ended::of(&error)),
        }
    }

    /// Sends GET as any client would and reads the answer.
    #[track_caller]
    pub(crate) fn get(&mut self, host: &str, path: &str) -> Result<Answer, Ended> {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    }

    /// Sends bytes and reads one answer.
    #[track_caller]
    pub(crate) fn ask(&mut self, request: &str) -> Result<Answer, Ended> {
        self.send(request)?;
        self.read()
    }

    /// Sends bytes.
    #[track_caller]
    pub(crate) fn send(&mut self, request: &str) -> Result<(), Ended> {
        match self.stream.write_all(request.as_bytes()) {
            Ok(()) => Ok(()),
            // What ended it may still be readable.
            Err(_) => match self.read() {
                Err(ended) => Err(ended),
                Ok(answer) => panic!("an answer before the request was sent: {answer:?}"),
            },
        }
    }

    /// Reads one answer.
    #[track_caller]
    pub(crate) fn read(&mut self) -> Result<Answer, Ended> {
        read_answer(&mut self.stream)
    }

    /// Waits until the peer has closed.
    #[track_caller]
    pub(crate) fn expect_end(&mut self) {
        match self.read() {
            Err(Ended::Closed(_)) => {}
            other => panic!("expected an end, got {other:?}"),
        }
    }

    /// Sends close_notify.
    pub(crate) fn say_goodbye(&mut self) {
        self.stream.shutdown().expect("close_notify can be sent");
    }

    /// Whether an earlier session was resumed.
    pub(crate) fn is_resumed(&self) -> bool {
        self.stream.ssl().session_reused()
    }

    /// The newest session the server gave; with TLS 1.3 there is none before the first answer.
    #[track_caller]
    pub(crate) fn session(&self) -> Session {
        self.newest_session().expect("the server gave a session")
    }

    /// The same, where there may be none: with TLS 1.2 a resumed session goes on as it is.
    pub(crate) fn newest_session(&self) -> Option<Session> {
        self.session.lock().unwrap().clone()
    }

    /// The serial of the certificate that the server showed; resumed, of the one it had shown.
    #[track_caller]
    pub(crate) fn peer_serial(&self) -> String {
        let cert = self.stream.ssl().peer_certificate();
        serial(&cert.expect("a server has one"))
    }

    /// The common name of the certificate that the server showed.
    #[track_caller]
    pub(crate) fn peer_name(&self) -> String {
        let cert = self
            .stream
            .ssl()
            .peer_certificate()
            .expect("a server has one");
        let mut names = cert.subject_name().entries_by_nid(Nid::COMMONNAME);
        let name = names.next().expect("it has a common name");
        name.data().to_string().unwrap()
    }

    /// What goes over it, for [`RawClient`](super::raw::RawClient).
    pub(crate) fn bytes(&mut self) -> &mut (impl Read + Write + use<>) {
        &mut self.stream
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.stream.get_ref().tcp
    }

    /// Breaks the connection off by a reset, as when a machine dies.
    pub(crate) fn vanish(self) {
        let tcp = &self.stream.get_ref().tcp;
        SockRef::from(tcp).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

impl PlainConn {
    #[track_caller]
    pub(crate) fn open(port: u16) -> Self {
        Self(open(port))
    }

    /// Sends bytes and reads one answer.
    #[track_caller]
    pub(crate) fn ask(&mut self, request: &[u8]) -> Result<Answer, Ended> {
        self.0
            .write_all(request)
            .map_err(|error| Ended::of_io(&error))?;
        read_answer(&mut self.0)
    }

    /// Waits until the peer has closed.
    #[track_caller]
    pub(crate) fn expect_end(&mut self) {
        match read_answer(&mut self.0) {
            Err(Ended::Closed(_)) => {}
            other => panic!("expected an end, got {other:?}"),
        }
    }

    /// Sends bytes, ends its side, and reads all that comes.
    #[track_caller]
    pub(crate) fn exchange(mut self, bytes: &[u8]) -> Vec<u8> {
        self.0.write_all(bytes).unwrap();
        self.0.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        self.0.read_to_end(&mut all).unwrap();
        all
    }
}

impl Answer {
    /// The first value of a header, names compared without case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl Ended {
    pub(super) fn of(error: &ssl::Error) -> Self {
        let errors = error.ssl_error().map(|stack| stack.errors());
        let alert = errors.into_iter().flatten().find_map(|error| {
            let code = error.reason_code();
            // `SSL_get_error(3)`: a peer's alert is reported as 1000 and its number.
            (1000..1256).contains(&code).then_some(code - 1000)
        });
        alert.map_or_else(|| Self::Closed(error.to_string()), Self::Alert)
    }

    #[track_caller]
    pub(super) fn of_io(error: &io::Error) -> Self {
        let in_time = !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        assert!(in_time, "nothing came within {SOON:?}: {error}");
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(error) => Self::of(error),
            None => Self::Closed(error.to_string()),
        }
    }
}

impl fmt::Debug for TlsConn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsConn")
    }
}

/// Shakes hands with a client of this connection, as a server of this certificate that asks for
/// none; `None` when that fails.
pub(crate) fn accept(tcp: TcpStream, pair: &Pair) -> Option<SslStream<TcpStream>> {
    #[expect(
        clippy::disallowed_methods,
        reason = "a server for tests; it decides nothing"
    )]
    let mut ctx = SslContext::builder(SslMethod::tls_server()).unwrap();
    install(&mut ctx, pair);
    let mut stream = SslStream::new(Ssl::new(&ctx.build()).unwrap(), tcp).unwrap();
    stream.accept().ok()?;
    Some(stream)
}

/// The same as a server that asks for a certificate of `ca` (PEM). Who shows none is told so by an
/// alert, and what it sent meets a reset: so servers end that close with input unread.
pub(crate) fn accept_or_reset(
    tcp: TcpStream,
    pair: &Pair,
    ca: &str,
) -> Option<SslStream<TcpStream>> {
    let ctx = demanding(pair, ca);
    let mut stream = SslStream::new(Ssl::new(&ctx.build()).unwrap(), tcp).unwrap();
    if stream.accept().is_ok() {
        return Some(stream);
    }
    reset(stream.get_ref());
    None
}

/// The context of a server of this certificate that asks for one of `ca` (PEM).
pub(super) fn demanding(pair: &Pair, ca: &str) -> SslContextBuilder {
    #[expect(
        clippy::disallowed_methods,
        reason = "a server for tests; it decides nothing"
    )]
    let mut ctx = SslContext::builder(SslMethod::tls_server()).unwrap();
    install(&mut ctx, pair);
    let ca = X509::from_pem(ca.as_bytes()).unwrap();
    ctx.cert_store_mut().add_cert(ca).unwrap();
    ctx.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    ctx
}

/// Has the connection reset when it is closed, whatever of it is unread.
pub(crate) fn reset<'socket, S>(tcp: &'socket S)
where
    SockRef<'socket>: From<&'socket S>,
{
    SockRef::from(tcp).set_linger(Some(Duration::ZERO)).unwrap();
}

pub(super) fn install(ctx: &mut SslContextBuilder, pair: &Pair) {
    let mut chain = X509::stack_from_pem(pair.cert.as_bytes())
        .unwrap()
        .into_iter();
    ctx.set_certificate(&chain.next().unwrap()).unwrap();
    chain.for_each(|above| ctx.add_extra_chain_cert(above).unwrap());
    let key = PKey::private_key_from_pem(pair.key.as_bytes()).unwrap();
    ctx.set_private_key(&key).unwrap();
}

/// Opens a connection on which no read or write waits for ever.
#[track_caller]
pub(crate) fn open(port: u16) -> TcpStream {
    let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the port listens");
    tcp.set_read_timeout(Some(SOON)).unwrap();
    tcp.set_write_timeout(Some(SOON)).unwrap();
    tcp
}

/// Reads a head and a body of known length, or chunked; what follows stays unread.
#[track_caller]
fn read_answer(from: &mut impl Read) -> Result<Answer, Ended> {
    let head = read_until(from, b"\r\n\r\n")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let mut answer = Answer {
        status: status.unwrap_or_else(|| panic!("no status line: {head:?}")),
        head,
        body: String::new(),
    };
    if answer.header("transfer-encoding").is_some() {
        loop {
            let size = read_until(from, b"\r\n")?;
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            answer.body.push_str(&read_exactly(from, size)?);
            read_exactly(from, 2)?;
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = answer.header("content-length") {
        answer.body = read_exactly(from, length.parse().unwrap())?;
    }
    Ok(answer)
}

#[track_caller]
fn read_until(from: &mut impl Read, end: &[u8]) -> Result<String, Ended> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end) {
        bytes.extend_from_slice(read_exactly(from, 1)?.as_bytes());
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[track_caller]
fn read_exactly(from: &mut impl Read, count: usize) -> Result<String, Ended> {
    let mut bytes = vec![0; count];
    match from.read_exact(&mut bytes) {
        Ok(()) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => Err(Ended::of_io(&error)),
    }
}
