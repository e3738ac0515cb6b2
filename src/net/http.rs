//! A small HTTP/1.1 client for services that are asked, not proxied: one origin, kept
//! connections, bounded answers. Knows no redirects and no cookies; a proxy on the way is a
//! [`tunnel`](crate::net::tunnel).
//!
//! Everything lives on one thread: a client is used inside a `LocalSet`, and its sweep must run.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;

use crate::failure::Reason;
use crate::net::dial::{DialError, Dialer, Target};
use crate::net::stream::Stream;
use crate::net::sweep::{Expired, Sweep};
use crate::net::tunnel::Proxy;
use crate::tls::stream::FaultCell;
use crate::tls::upstream::{ServerName, UpstreamConnector};

/// How many idle connections are kept.
const IDLE_COUNT: usize = 16;

/// Scheme, host and port, with the path that everything asked for is below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// `https`.
    pub is_tls: bool,
    /// Name or IP literal, without brackets.
    pub host: String,
    /// Port; 80 or 443 where none was written.
    pub port: u16,
    /// The path without its last `/`; empty for the root.
    pub path: String,
}

/// A text that is no origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// No URL at all, or a relative one.
    #[error("it is not a URL such as http://127.0.0.1:9180")]
    NotAUrl,
    /// Neither `http` nor `https`.
    #[error("its scheme is neither http nor https")]
    Scheme,
    /// `user:password@`: a password in a URL ends up in histories and logs.
    #[error("it has a user name, which belongs in no URL")]
    UserInfo,
    /// `?query`.
    #[error("it has a query")]
    Query,
}

impl Origin {
    /// Reads an absolute URL.
    ///
    /// # Errors
    /// [`OriginError`].
    pub fn parse(text: &str) -> Result<Self, OriginError> {
        let uri: Uri = text.parse().map_err(|_invalid| OriginError::NotAUrl)?;
        let authority = uri.authority().ok_or(OriginError::NotAUrl)?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) => return Err(OriginError::Scheme),
            None => return Err(OriginError::NotAUrl),
        };
        if authority.as_str().contains('@') {
            return Err(OriginError::UserInfo);
        }
        if uri.query().is_some() {
            return Err(OriginError::Query);
        }
        let host = authority.host();
        let has_port = authority.as_str() != host;
        if host.is_empty() || (has_port && authority.port_u16().is_none()) {
            return Err(OriginError::NotAUrl);
        }
        Ok(Self {
            is_tls,
            host: host.trim_matches(['[', ']']).to_owned(),
            port: authority
                .port_u16()
                .unwrap_or(if is_tls { 443 } else { 80 }),
            path: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// `host:port` as a `Host` header has it: without the scheme's own port.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = self.bracketed();
        match (self.is_tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    /// What to dial for it; `peer` is its own.
    pub(super) fn target<'a>(&'a self, peer: &'a Arc<str>, tls: Option<&'a Tls>) -> Target<'a> {
        Target {
            host: &self.host,
            port: self.port,
            ip: None,
            peer,
            object: peer,
            tls: tls.map(|tls| (&tls.connector, &tls.name)),
        }
    }

    /// `host:port`, whatever the port.
    pub(super) fn peer(&self) -> Arc<str> {
        format!("{}:{}", self.bracketed(), self.port).into()
    }

    fn bracketed(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

/// How a client speaks TLS, and whom it expects.
#[derive(Debug)]
pub struct Tls {
    /// Certificate, trust and versions.
    pub connector: UpstreamConnector,
    /// The name sent and, where the connector verifies, checked.
    pub name: ServerName,
}

/// What a client waits and reads at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the first packet to the end of the TLS handshake.
    pub connect: Duration,
    /// From the request to the answer's last byte.
    pub answer: Duration,
    /// The answer's body, in bytes.
    pub body_bytes: usize,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// What came of watching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// The answer began to say something.
    Said,
    /// The answer ended without a word.
    Ended,
    /// A status other than success.
    Refused(StatusCode),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The connection could not be opened.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// TLS ended the connection after its handshake: how TLS 1.3 refuses a certificate of ours.
    #[error("{detail}")]
    Refused {
        /// Why.
        reason: Reason,
        /// OpenSSL's words.
        detail: String,
    },
    /// What came is not HTTP, or it ended early.
    #[error("the answer is not to be had")]
    Http(#[from] hyper::Error),
    /// The body did not come whole.
    #[error("the answer ended early")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The body is longer than [`Limits::body_bytes`].
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    /// It did not come in time.
    #[error("no answer within {} seconds", .0.as_secs())]
    Slow(Duration),
    /// A path or header field that cannot be sent.
    #[error("the request cannot be written")]
    Request(#[from] http::Error),
}

impl HttpError {
    /// The catalogue's name for it, where there is one.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Dial(error) => Some(error.reason),
            Self::Refused { reason, .. } => Some(*reason),
            Self::Slow(_) => Some(Reason::UpstreamTimeout),
            Self::Http(_) | Self::Body(_) | Self::TooLong(_) | Self::Request(_) => None,
        }
    }
}

/// The status of the answer to one request, over a connection that is then closed. The answer's
/// body is not read. The request has its `Host`.
///
/// # Errors
/// [`HttpError::Refused`] and [`HttpError::Http`].
pub async fn ask_status(
    stream: Stream,
    mut request: Request<Bytes>,
) -> Result<StatusCode, HttpError> {
    let fault = stream.fault();
    let asked = match &stream {
        Stream::Plain(_) => false,
        Stream::Tls(tls) => tls.certificate_was_asked(),
    };
    let close = HeaderValue::from_static("close");
    request.headers_mut().insert(header::CONNECTION, close);
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = sender.send_request(request.map(Full::new));
    tokio::pin!(answer, driver);
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer,
        // What came before the end is there still.
        ended = &mut driver => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(error),
        },
    };
    answer.map(|answer| answer.status()).map_err(|error| {
        let fault = fault.as_ref().and_then(|fault| fault.borrow().clone());
        match fault {
            Some(fault) => HttpError::Refused {
                reason: fault.upstream_reason(asked, true),
                detail: fault.to_string(),
            },
            None => HttpError::Http(error),
        }
    })
}

/// Asks one origin.
pub struct Client {
    origin: Origin,
    peer: Arc<str>,
    tls: Option<Tls>,
    limits: Limits,
    sweep: Rc<Sweep>,
    dialer: Dialer,
    proxy: Option<Arc<Proxy>>,
    idle: RefCell<Vec<Conn>>,
}

struct Conn {
    sender: SendRequest<Full<Bytes>>,
    fault: Option<FaultCell>,
    /// The server asked for a certificate in the handshake.
    asked: bool,
    /// We had one to show.
    has_identity: bool,
}

impl Client {
    /// A client that has no connection yet. `tls` is used where the origin is `https`.
    #[must_use]
    pub fn new(
        origin: Origin,
        tls: Option<Tls>,
        limits: Limits,
        sweep: Rc<Sweep>,
        dialer: Dialer,
    ) -> Self {
        Self {
            peer: origin.peer(),
            tls: tls.filter(|_| origin.is_tls),
            origin,
            limits,
            sweep,
            dialer,
            proxy: None,
            idle: RefCell::default(),
        }
    }

    /// The same client, by way of a proxy where that leads to its origin. [`Limits::connect`] counts
    /// the way to the proxy too.
    #[must_use]
    pub fn by_way_of(self, proxy: Option<Arc<Proxy>>) -> Self {
        let proxy = proxy.filter(|proxy| proxy.leads_to(&self.origin));
        Self { proxy, ..self }
    }

    /// Whom it asks.
    #[must_use]
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Opens a connection, handshake included.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn connect(&self) -> Result<Stream, DialError> {
        let target = self.origin.target(&self.peer, self.tls.as_ref());
        let until = self.sweep.after(self.limits.connect);
        match &self.proxy {
            Some(proxy) => proxy.dial(&self.dialer, &target, until).await,
            None => self.dialer.dial(&target, until).await,
        }
    }

    /// Sends a request and reads its answer. The request's URI is a path below the origin's, with
    /// its query; `Host` is set where it is missing.
    ///
    /// A kept connection that the server closed meanwhile is replaced by a fresh one, once, if
    /// nothing of the request was sent.
    ///
    /// # Errors
    /// [`HttpError`]; an answer of any status is none.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Answer, HttpError> {
        let mut request = self.prepare(request)?;
        let kept = self.take();
        if let Some(conn) = kept {
            match self.answer(conn, request).await {
                Err((_, Some(unsent))) => request = unsent,
                Err((error, None)) => return Err(error),
                Ok(answer) => return Ok(answer),
            }
        }
        let conn = self.open().await?;
        self.answer(conn, request).await.map_err(|(error, _)| error)
    }

    /// Sends a request over a connection of its own, and waits until its answer says something, as
    /// a watch of Kubernetes does, or ends. Nothing of what is said is kept.
    ///
    /// Cancel safe: the connection is closed.
    ///
    /// # Errors
    /// [`HttpError`]; after `lasts` without a word [`HttpError::Slow`].
    pub async fn watch(
        &self,
        request: Request<Bytes>,
        lasts: Duration,
    ) -> Result<Watched, HttpError> {
        let request = self.prepare(request)?;
        let mut conn = self.open().await?;
        let exchange = async {
            let sent = conn.sender.try_send_request(request).await;
            let response = sent.map_err(|error| conn.explain(error.into_error()))?;
            if !response.status().is_success() {
                return Ok(Watched::Refused(response.status()));
            }
            let mut body = response.into_body();
            while let Some(frame) = body.frame().await {
                if frame?.data_ref().is_some_and(|data| !data.is_empty()) {
                    return Ok(Watched::Said);
                }
            }
            Ok(Watched::Ended)
        };
        let until = self.sweep.after(lasts);
        let watched = self.sweep.within(until, Box::pin(exchange)).await;
        watched.unwrap_or(Err(HttpError::Slow(lasts)))
    }

    /// Sends a request over a connection of [`Client::connect`].
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn send_over(
        &self,
        stream: Stream,
        request: Request<Bytes>,
    ) -> Result<Answer, HttpError> {
        let request = self.prepare(request)?;
        let conn = self.start(stream).await?;
        self.answer(conn, request).await.map_err(|(error, _)| error)
    }

    fn prepare(&self, request: Request<Bytes>) -> Result<Request<Full<Bytes>>, HttpError> {
        let (mut head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let path = format!("{}{path}", self.origin.path);
        head.uri = path.parse().map_err(http::Error::from)?;
        if !head.headers.contains_key(header::HOST) {
            let host = HeaderValue::try_from(self.origin.authority()).map_err(http::Error::from)?;
            head.headers.insert(header::HOST, host);
        }
        Ok(Request::from_parts(head, Full::new(body)))
    }

    /// A kept connection that is still open, newest first.
    fn take(&self) -> Option<Conn> {
        let mut idle = self.idle.borrow_mut();
        while let Some(conn) = idle.pop() {
            if !conn.sender.is_closed() {
                return Some(conn);
            }
        }
        None
    }

    async fn open(&self) -> Result<Conn, HttpError> {
        self.start(self.connect().await?).await
    }

    async fn start(&self, stream: Stream) -> Result<Conn, HttpError> {
        let fault = stream.fault();
        let asked = match &stream {
            Stream::Plain(_) => false,
            Stream::Tls(tls) => tls.certificate_was_asked(),
        };
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::task::spawn_local(async move {
            // Its error reaches the request that it fails.
            let _ = driver.await;
        });
        Ok(Conn {
            sender,
            fault,
            asked,
            has_identity: self
                .tls
                .as_ref()
                .is_some_and(|tls| tls.connector.has_identity),
        })
    }

    /// The answer, or why there is none with the request if nothing of it was sent.
    async fn answer(
        &self,
        mut conn: Conn,
        request: Request<Full<Bytes>>,
    ) -> Result<Answer, (HttpError, Option<Request<Full<Bytes>>>)> {
        let exchange = async {
            let response = match conn.sender.try_send_request(request).await {
                Ok(response) => response,
                Err(mut error) => {
                    let unsent = error.take_message();
                    return Err((conn.explain(error.into_error()), unsent));
                }
            };
            let (head, body) = response.into_parts();
            let most = self.limits.body_bytes;
            let body = Limited::new(body, most).collect().await;
            let body = body.map_err(|error| {
                let is_too_long = error.downcast_ref::<LengthLimitError>().is_some();
                let error = if is_too_long {
                    HttpError::TooLong(most)
                } else {
                    HttpError::Body(error)
                };
                (error, None)
            })?;
            let answer = Answer {
                status: head.status,
                headers: head.headers,
                body: body.to_bytes(),
            };
            Ok((answer, conn))
        };
        let until = self.sweep.after(self.limits.answer);
        let (answer, conn) = match self.sweep.within(until, Box::pin(exchange)).await {
            Ok(done) => done?,
            Err(Expired) => return Err((HttpError::Slow(self.limits.answer), None)),
        };
        self.keep(conn).await;
        Ok(answer)
    }

    /// Keeps a connection that can carry another request.
    async fn keep(&self, mut conn: Conn) {
        // Ends at once: the answer was read, so the connection is ready or closed.
        if conn.sender.ready().await.is_err() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() < IDLE_COUNT {
            idle.push(conn);
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

impl Conn {
    /// The TLS error behind an HTTP error, if there is one.
    fn explain(&self, error: hyper::Error) -> HttpError {
        let fault = self.fault.as_ref().and_then(|fault| fault.borrow().clone());
        match fault {
            Some(fault) => HttpError::Refused {
                reason: fault.upstream_reason(self.asked, self.has_identity),
                detail: fault.to_string(),
            },
            None => HttpError::Http(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::net::dial::Forbidden;
    use crate::net::resolve::Resolver;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpSocket};
    use tokio::task::LocalSet;

    const LIMITS: Limits = Limits {
        connect: Duration::from_secs(5),
        answer: Duration::from_secs(5),
        body_bytes: 64,
    };

    /// Serves each connection the answers of one list, closes it, and counts connections.
    async fn serve(listener: TcpListener, answers: Vec<Vec<&'static str>>) -> usize {
        let mut count = 0;
        for answers in answers {
            let (mut tcp, _) = listener.accept().await.unwrap();
            count += 1;
            for answer in answers {
                let mut seen = Vec::new();
                while !seen.ends_with(b"\r\n\r\n") {
                    seen.push(tcp.read_u8().await.unwrap());
                }
                tcp.write_all(answer.as_bytes()).await.unwrap();
            }
        }
        count
    }

    impl Client {
        fn has_open(&self) -> bool {
            let idle = self.idle.borrow();
            idle.iter().any(|conn| !conn.sender.is_closed())
        }
    }

    async fn with_client<T>(
        answers: Vec<Vec<&'static str>>,
        limits: Limits,
        ask: impl AsyncFnOnce(Client) -> T,
    ) -> (T, usize) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/base/", listener.local_addr().unwrap());
        let work = async {
            let server = tokio::task::spawn_local(serve(listener, answers));
            let sweep = Sweep::new();
            let ticking = tokio::task::spawn_local(sweep.clone().run(|| {}));
            let dialer = Dialer::new(
                sweep.clone(),
                Arc::new(Forbidden::default()),
                Resolver::system(),
            );
            let origin = Origin::parse(&url).unwrap();
            let told = ask(Client::new(origin, None, limits, sweep, dialer)).await;
            ticking.abort();
            (told, server.await.unwrap())
        };
        LocalSet::new().run_until(work).await
    }

    /// Asks where none of [`serve`] is.
    async fn alone(url: &str, limits: Limits) -> Result<Answer, HttpError> {
        let sweep = Sweep::new();
        let ticking = tokio::task::spawn_local(sweep.clone().run(|| {}));
        let dialer = Dialer::new(
            sweep.clone(),
            Arc::new(Forbidden::default()),
            Resolver::system(),
        );
        let client = Client::new(Origin::parse(url).unwrap(), None, limits, sweep, dialer);
        let told = client.send(get("/")).await;
        ticking.abort();
        told
    }

    fn get(path: &str) -> Request<Bytes> {
        Request::get(path).body(Bytes::new()).unwrap()
    }

    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    #[test]
    fn origins_are_read_and_what_is_none_is_refused() {
        let origin = |text| Origin::parse(text).map(|origin| (origin.to_string(), origin.port));
        for (text, shown, port) in [
            ("http://a.test", "http://a.test", 80),
            ("https://a.test/x/", "https://a.test/x", 443),
            ("http://127.0.0.1:9180/", "http://127.0.0.1:9180", 9180),
            ("https://[::1]:7443", "https://[::1]:7443", 7443),
        ] {
            assert_eq!(origin(text), Ok((shown.to_owned(), port)), "{text}");
        }
        for (text, error) in [
            ("", OriginError::NotAUrl),
            ("127.0.0.1:9180", OriginError::NotAUrl),
            ("/x", OriginError::NotAUrl),
            ("http://", OriginError::NotAUrl),
            ("http://a:99999", OriginError::NotAUrl),
            ("ftp://a", OriginError::Scheme),
            ("http://user:word@a", OriginError::UserInfo),
            ("http://a/?x=1", OriginError::Query),
        ] {
            assert_eq!(origin(text), Err(error), "{text}");
        }
    }

    #[tokio::test]
    async fn connection_is_kept_and_replaced_once_the_server_closed_it() {
        let answers = vec![vec![OK, OK], vec![OK]];
        let (told, connections) = with_client(answers, LIMITS, async |client| {
            let mut told = Vec::new();
            for _ in 0..3 {
                let answer = client.send(get("/x?y=1")).await.unwrap();
                told.push((answer.status.as_u16(), answer.body));
                // What is sent before the server's end was seen may be lost.
                while told.len() == 2 && client.has_open() {
                    tokio::task::yield_now().await;
                }
            }
            told
        })
        .await;
        assert_eq!(told, vec![(200, Bytes::from_static(b"ok")); 3]);
        assert_eq!(connections, 2);
    }

    #[tokio::test]
    async fn answer_of_more_bytes_than_allowed_is_refused() {
        let least = Limits {
            body_bytes: 1,
            ..LIMITS
        };
        let ask = async |client: Client| client.send(get("/")).await;
        let (told, _) = with_client(vec![vec![OK]], least, ask).await;
        assert!(matches!(told, Err(HttpError::TooLong(1))), "{told:?}");
        let enough = Limits {
            body_bytes: 2,
            ..LIMITS
        };
        with_client(vec![vec![OK]], enough, ask).await.0.unwrap();
    }

    #[tokio::test]
    async fn answer_that_does_not_come_is_slow_and_one_that_is_none_is_told() {
        let short = Limits {
            answer: Duration::from_millis(50),
            ..LIMITS
        };
        let ask = async |client: Client| client.send(get("/")).await;
        // Connected by the kernel, and answered by nobody.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let told = LocalSet::new().run_until(alone(&url, short)).await;
        assert!(matches!(told, Err(HttpError::Slow(_))), "{told:?}");
        let (told, _) = with_client(vec![vec!["no HTTP\r\n\r\n"]], LIMITS, ask).await;
        assert!(matches!(told, Err(HttpError::Http(_))), "{told:?}");
    }

    #[tokio::test]
    async fn nobody_there_is_told_by_the_dialer() {
        // Nobody else is given the port while it is bound.
        let taken = TcpSocket::new_v4().unwrap();
        taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let url = format!("http://{}", taken.local_addr().unwrap());
        let told = LocalSet::new().run_until(alone(&url, LIMITS)).await;
        let reason = told.unwrap_err().reason();
        assert_eq!(reason, Some(Reason::UpstreamRefused));
    }
}
