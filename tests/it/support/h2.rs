//! An HTTP/2 client in this process, asked from outside of any runtime: it keeps its connection,
//! and does on single streams what curl cannot be made to do.

use std::fmt;
use std::future::poll_fn;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::Request;
use openssl::ssl::Ssl;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_openssl::SslStream;

use super::pki::serial;
use super::tls::{Answer, Ended, Session, TlsClient};
use super::{SOON, eventually};

/// The protocol's name in ALPN's wire form (RFC 7301 §3.1).
const ALPN: &[u8] = b"\x02h2";

/// An open connection; it is dropped without a farewell.
pub(crate) struct H2Conn {
    // Dropped first: it ends the task that drives the connection.
    runtime: Runtime,
    sender: SendRequest<Bytes>,
    session: Arc<Mutex<Option<Session>>>,
    is_resumed: bool,
    serial: String,
}

/// One request under way.
pub(crate) struct H2Stream {
    pub(crate) answer: ResponseFuture,
    /// Its body, as far as it was not sent yet.
    pub(crate) upload: SendStream<Bytes>,
}

impl H2Conn {
    /// Shakes hands as `client` would and says hello. With TLS 1.3 a refusal of our certificate
    /// comes only with the first answer.
    #[track_caller]
    pub(crate) fn connect(client: &TlsClient) -> Result<Self, Ended> {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let session = Arc::default();
        let mut ssl = client.ssl(&session);
        ssl.set_alpn_protos(ALPN).unwrap();
        let opened = runtime.block_on(async { in_time(open(ssl, client.port())).await });
        let (stream, is_resumed, serial) = opened?;
        let begun = begin(&runtime, stream);
        let sender = begun.map_err(|error| ended(&error))?;
        Ok(Self {
            runtime,
            sender,
            session,
            is_resumed,
            serial,
        })
    }

    /// Says hello in the clear, by prior knowledge.
    #[track_caller]
    pub(crate) fn plain(port: u16) -> Result<Self, Ended> {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let stream = runtime
            .block_on(async { in_time(TcpStream::connect((Ipv4Addr::LOCALHOST, port))).await });
        let stream = stream.expect("the port listens");
        stream.set_nodelay(true).unwrap();
        let sender = begin(&runtime, stream).map_err(|error| ended(&error))?;
        Ok(Self {
            runtime,
            sender,
            session: Arc::default(),
            is_resumed: false,
            serial: String::new(),
        })
    }

    /// Sends GET as any client would and reads the answer.
    #[track_caller]
    pub(crate) fn get(&mut self, host: &str, path: &str) -> Result<Answer, Ended> {
        let stream = self.begin("GET", host, path, true)?;
        self.read(stream)
    }

    /// Sends a request's head; its body follows, unless it is `whole`.
    #[track_caller]
    pub(crate) fn begin(
        &mut self,
        method: &str,
        host: &str,
        path: &str,
        whole: bool,
    ) -> Result<H2Stream, Ended> {
        let uri = format!("https://{host}{path}");
        let request = Request::builder().method(method).uri(uri).body(()).unwrap();
        self.send(request, whole)
    }

    /// The same of a head with headers of its own.
    #[track_caller]
    pub(crate) fn send(&mut self, request: Request<()>, whole: bool) -> Result<H2Stream, Ended> {
        let sender = self.sender.clone();
        let ready = self
            .runtime
            .block_on(async { in_time(sender.ready()).await });
        self.sender = ready.map_err(|error| ended(&error))?;
        let sent = self.sender.send_request(request, whole);
        let (answer, upload) = sent.map_err(|error| ended(&error))?;
        Ok(H2Stream { answer, upload })
    }

    /// Reads an answer to its end.
    #[track_caller]
    pub(crate) fn read(&mut self, stream: H2Stream) -> Result<Answer, Ended> {
        let (mut answer, mut body) = self.read_head(stream.answer)?;
        let read = self.runtime.block_on(async {
            let mut bytes = Vec::new();
            while let Some(data) = in_time(body.data()).await {
                let data = data?;
                bytes.extend_from_slice(&data);
                body.flow_control().release_capacity(data.len())?;
            }
            Ok::<_, h2::Error>(bytes)
        });
        let bytes = read.map_err(|error| ended(&error))?;
        answer.body = String::from_utf8_lossy(&bytes).into_owned();
        Ok(answer)
    }

    /// Reads an answer's head; the body may be left where it is.
    #[track_caller]
    pub(crate) fn read_head(
        &mut self,
        answer: ResponseFuture,
    ) -> Result<(Answer, RecvStream), Ended> {
        let head = self.runtime.block_on(async { in_time(answer).await });
        let (head, body) = head.map_err(|error| ended(&error))?.into_parts();
        let mut text = format!("HTTP/2 {}\r\n", head.status.as_u16());
        for (name, value) in &head.headers {
            text.push_str(&format!(
                "{name}: {}\r\n",
                String::from_utf8_lossy(value.as_bytes())
            ));
        }
        let answer = Answer {
            status: head.status.as_u16(),
            head: text,
            body: String::new(),
        };
        Ok((answer, body))
    }

    /// Waits for the server's GOAWAY and gives its reason (RFC 9113 §6.8).
    #[track_caller]
    pub(crate) fn expect_goaway(&mut self) -> Reason {
        let (runtime, sender) = (&self.runtime, &mut self.sender);
        let error = eventually(SOON, "a GOAWAY", || {
            runtime.block_on(async {
                // The task that reads has a turn first.
                tokio::task::yield_now().await;
                let ready = poll_fn(|cx| Poll::Ready(sender.poll_ready(cx))).await;
                match ready {
                    Poll::Ready(Err(error)) => Some(error),
                    Poll::Ready(Ok(())) | Poll::Pending => None,
                }
            })
        });
        assert!(error.is_go_away() && error.is_remote(), "{error}");
        error.reason().expect("a GOAWAY has one")
    }

    /// Runs `work` while the connection goes on.
    pub(crate) fn drive<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(in_time(work))
    }

    /// Whether an earlier session was resumed.
    pub(crate) fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    /// The newest session the server gave; with TLS 1.3 there is none before the first answer.
    pub(crate) fn newest_session(&self) -> Option<Session> {
        self.session.lock().unwrap().clone()
    }

    /// The serial of the certificate that the server showed; resumed, of the one it had shown.
    pub(crate) fn peer_serial(&self) -> String {
        self.serial.clone()
    }
}

impl H2Stream {
    /// What the answer comes by.
    pub(crate) fn into_answer(self) -> ResponseFuture {
        self.answer
    }
}

fn begin<S>(runtime: &Runtime, stream: S) -> Result<SendRequest<Bytes>, h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // One stream that is not read leaves the others their share.
    let mut hello = h2::client::Builder::new();
    hello.initial_connection_window_size(1 << 20);
    let begun = runtime.block_on(async { in_time(hello.handshake(stream)).await });
    let (sender, conn) = begun?;
    runtime.spawn(conn);
    Ok(sender)
}

async fn open(ssl: Ssl, port: u16) -> Result<(SslStream<TcpStream>, bool, String), Ended> {
    let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
    let tcp = tcp.expect("the port listens");
    tcp.set_nodelay(true).unwrap();
    let mut stream = SslStream::new(ssl, tcp).unwrap();
    let shaken = Pin::new(&mut stream).connect().await;
    shaken.map_err(|error| Ended::of(&error))?;
    let ssl = stream.ssl();
    assert_eq!(ssl.selected_alpn_protocol(), Some(&b"h2"[..]));
    let shown = serial(&ssl.peer_certificate().expect("a server has one"));
    let is_resumed = ssl.session_reused();
    Ok((stream, is_resumed, shown))
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    let within: Duration = SOON;
    timeout(within, work)
        .await
        .unwrap_or_else(|_| panic!("nothing came within {within:?}"))
}

fn ended(error: &h2::Error) -> Ended {
    match error.get_io() {
        Some(io) => Ended::of_io(io),
        None => Ended::Closed(error.to_string()),
    }
}

impl fmt::Debug for H2Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("H2Conn")
    }
}
