//! An upstream in this process that speaks HTTP/2 and nothing else, as servers of gRPC do.

use std::net;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use openssl::ssl::{Ssl, SslContext, SslContextBuilder, SslMethod, select_next_proto};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio_openssl::SslStream;

use super::origin::TcpOrigin;
use super::pki::Pair;
use super::tls::{demanding, install, reset};
use super::{SOON, eventually};

/// Requests for `/meet` that wait for each other.
pub(crate) const MEETING: usize = 20;

/// More than a head from a client may have.
pub(crate) const LARGE: usize = 60_000;

/// The upstream. What it answers goes by the path:
///
/// - `/meet` answers once [`MEETING`] requests are there, `/pair` once two are;
/// - `/hang` never answers; its end is noted;
/// - `/goaway` is the last request of its connection;
/// - `/busy` is refused the first time;
/// - `/fail` is answered by a head alone, of status 5;
/// - `/large` is answered with [`LARGE`] bytes of metadata;
/// - all others get their body back as it comes, and trailers.
pub(crate) struct H2Origin {
    tcp: TcpOrigin,
    state: Arc<State>,
}

struct State {
    connections: AtomicUsize,
    refused: AtomicUsize,
    meeting: Barrier,
    pair: Barrier,
    notes: Mutex<Vec<String>>,
}

impl H2Origin {
    /// In the clear, with this many streams per connection.
    pub(crate) fn plain(streams: u32) -> Self {
        Self::serving(None, streams)
    }

    /// Over TLS, with `h2` agreed on by ALPN.
    pub(crate) fn tls(pair: &Pair) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "a server for tests; it decides nothing"
        )]
        let mut ctx = SslContext::builder(SslMethod::tls_server()).unwrap();
        install(&mut ctx, pair);
        Self::over(ctx)
    }

    /// The same, for clients with a certificate of `ca` (PEM). Others are told so by an alert, and
    /// what they sent meets a reset.
    pub(crate) fn mutual(pair: &Pair, ca: &str) -> Self {
        Self::over(demanding(pair, ca))
    }

    fn over(mut ctx: SslContextBuilder) -> Self {
        ctx.set_alpn_select_callback(|_, offered| {
            select_next_proto(b"\x02h2", offered).ok_or(openssl::ssl::AlpnError::ALERT_FATAL)
        });
        Self::serving(Some(ctx.build()), 100)
    }

    fn serving(ctx: Option<SslContext>, streams: u32) -> Self {
        let state = Arc::new(State {
            connections: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            meeting: Barrier::new(MEETING),
            pair: Barrier::new(2),
            notes: Mutex::default(),
        });
        let of_all = Arc::clone(&state);
        let tcp = TcpOrigin::serving(move |tcp| {
            let state = Arc::clone(&of_all);
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().unwrap();
            runtime.block_on(serve(tcp, ctx.clone(), streams, state));
        });
        Self { tcp, state }
    }

    /// `127.0.0.1:port`, as a node's name in the map form of `nodes`.
    pub(crate) fn node(&self) -> String {
        self.tcp.node()
    }

    /// How many connections it got that spoke HTTP/2.
    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Acquire)
    }

    /// Waits until it noted this.
    #[track_caller]
    pub(crate) fn expect_note(&self, note: &str) {
        eventually(SOON, note, || {
            let notes = self.state.notes.lock().unwrap();
            notes.iter().any(|noted| noted == note).then_some(())
        });
    }
}

async fn serve(tcp: net::TcpStream, ctx: Option<SslContext>, streams: u32, state: Arc<State>) {
    tcp.set_nonblocking(true).unwrap();
    let tcp = TcpStream::from_std(tcp).unwrap();
    let Some(ctx) = ctx else {
        return talk(tcp, streams, &state).await;
    };
    let mut stream = SslStream::new(Ssl::new(&ctx).unwrap(), tcp).unwrap();
    if Pin::new(&mut stream).accept().await.is_ok() {
        talk(stream, streams, &state).await;
    } else {
        reset(stream.get_ref());
    }
}

async fn talk(stream: impl AsyncRead + AsyncWrite + Unpin, streams: u32, state: &Arc<State>) {
    let mut hello = Builder::new();
    hello.max_concurrent_streams(streams);
    let Ok(mut conn) = hello.handshake::<_, Bytes>(stream).await else {
        return;
    };
    let number = state.connections.fetch_add(1, Ordering::AcqRel) + 1;
    while let Some(Ok((request, respond))) = conn.accept().await {
        if request.uri().path() == "/goaway" {
            conn.graceful_shutdown();
        }
        let state = Arc::clone(state);
        tokio::spawn(async move {
            // A client may go away at any time.
            drop(answer(request, respond, number, &state).await);
        });
    }
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    number: usize,
    state: &State,
) -> Result<(), h2::Error> {
    let (head, mut body) = request.into_parts();
    let path = head.uri.path();
    match path {
        "/meet" => {
            state.meeting.wait().await;
        }
        "/pair" => {
            state.pair.wait().await;
        }
        "/busy" if state.refused.fetch_add(1, Ordering::AcqRel) == 0 => {
            respond.send_reset(Reason::REFUSED_STREAM);
            return Ok(());
        }
        // Refused when more was sent than is kept for a second time.
        "/busy/late" => {
            let mut count = 0;
            while count < 100_000 {
                let data = body.data().await.unwrap()?;
                body.flow_control().release_capacity(data.len())?;
                count += data.len();
            }
            respond.send_reset(Reason::REFUSED_STREAM);
            return Ok(());
        }
        "/cut" => {
            let head = Response::new(());
            let mut out = respond.send_response(head, false)?;
            out.send_data(body.data().await.unwrap()?, false)?;
            // The client has read it before it sends more.
            body.data().await.unwrap()?;
            out.send_reset(Reason::CANCEL);
            return Ok(());
        }
        "/hang" => {
            state.notes.lock().unwrap().push("hangs".to_owned());
            let ended = std::future::poll_fn(|cx| respond.poll_reset(cx)).await?;
            let note = format!("reset by {ended:?}");
            state.notes.lock().unwrap().push(note);
            return Ok(());
        }
        _ => {}
    }
    let mut reply = Response::builder()
        .header("content-type", "application/grpc")
        .header("x-connection", number)
        .header("x-authority", head.uri.authority().unwrap().as_str())
        .header("x-scheme", head.uri.scheme_str().unwrap());
    if let Some(te) = head.headers.get("te") {
        reply = reply.header("x-te", te);
    }
    if path == "/large" {
        reply = reply.header("x-large", "x".repeat(LARGE));
    }
    if path == "/fail" {
        let reply = reply.header("grpc-status", "5").body(()).unwrap();
        respond.send_response(reply, true)?;
        return Ok(());
    }
    let mut out = respond.send_response(reply.body(()).unwrap(), false)?;
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        out.send_data(data, false)?;
    }
    let sent = body.trailers().await?.unwrap_or_default();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    trailers.insert("grpc-message", "well".parse().unwrap());
    let names: Vec<&str> = sent.keys().map(|name| name.as_str()).collect();
    trailers.insert("x-sent-trailers", names.join(",").parse().unwrap());
    out.send_trailers(trailers)
}
