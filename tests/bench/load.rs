//! A load generator that presents client certificates, which wrk, h2load and ab cannot.
//!
//! `load --target 127.0.0.1:9443 --name bench.test --ca ca.crt --cert client.crt --key client.key
//! --connections 16 --requests 10000`: keep-alive HTTP/1.1, one request at a time per connection;
//! `--new` opens a connection per request, without resumption, `--resume` with it: each but the first
//! of a client must be resumed. Without `--ca` it speaks in the clear. `--http2` speaks HTTP/2 instead,
//! `--grpc` sends a unary call of gRPC over it, `--streams` so many requests at a time over each of its
//! connections. `--leaf` shows the client's own certificate alone, not its CA's besides. `--path` asks for
//! something else than `/bench`; `{}` in it stands for numbers below `--spread`, in no order, over HTTP/1.1.
//! `--upload` sends so many bytes, `--groups` offers these key-exchange groups instead of OpenSSL's own.
//! `--think` waits so many milliseconds before each request, `--rate` begins so many requests a second,
//! `--storm` has so many more clients open connections as fast as they can meanwhile. `--hold` keeps the
//! connections, one request each, until its standard input ends. `--reopen` counts kept connections that
//! were closed between two requests, and opens others; else that is an error. `--shown` names a file that
//! gets a line for each connection: when it was begun, in microseconds since 1970, and the serial number of
//! the certificate that it was shown, in hexadecimal. Bounded in count (`--requests`) and time (`--seconds`,
//! 60 by default). Prints one JSON object: requests, errors, seconds, latencies in microseconds, connections
//! of the storm, and kept connections that were closed.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a tool of the bench: its own contexts, its result on standard output"
)]

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use openssl::ssl::{
    SslConnector, SslFiletype, SslMethod, SslMode, SslSession, SslSessionCacheMode, SslVersion,
};
use portcullis::crypto::{memory, sys};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio_openssl::SslStream;

type Failure = Box<dyn Error>;

/// Both kinds of connection as one.
trait Wire: AsyncRead + AsyncWrite + Unpin {
    /// Its session may be resumed, though it ends without a word.
    fn leave(&mut self) {}
}

impl Wire for TcpStream {}

impl Wire for SslStream<TcpStream> {
    fn leave(&mut self) {
        sys::mark_shut_down(self);
    }
}

/// A connection that is kept for the next request.
enum Kept {
    One(Box<dyn Wire>),
    Many(SendRequest<Bytes>),
    /// An answer said that its connection ends with it.
    Ended,
}

impl Kept {
    /// Whether the other side was seen to have ended it: nothing but an end comes when nobody asks.
    fn has_ended(&mut self) -> bool {
        match self {
            Self::One(stream) => {
                let mut cx = Context::from_waker(Waker::noop());
                let mut byte = [0];
                let read = Pin::new(stream).poll_read(&mut cx, &mut ReadBuf::new(&mut byte));
                read.is_ready()
            }
            Self::Many(_) => false,
            Self::Ended => true,
        }
    }
}

struct Plan {
    target: SocketAddr,
    name: String,
    path: String,
    tls: Option<SslConnector>,
    /// Where sessions to resume are kept; used once each.
    sessions: Option<Sessions>,
    connections: u64,
    /// The numbers below this stand for `{}` in the path.
    spread: u64,
    /// Requests at a time over a connection of HTTP/2.
    streams: u64,
    requests: u64,
    seconds: u64,
    think: Duration,
    /// Requests a second; 0 is as fast as they are answered.
    rate: u64,
    storm: u64,
    upload: usize,
    is_http2: bool,
    is_grpc: bool,
    is_new_each: bool,
    holds: bool,
    reopens: bool,
    /// Where certificates that were shown are written to.
    shown: Option<RefCell<BufWriter<File>>>,
}

type Sessions = Arc<Mutex<Vec<SslSession>>>;

#[derive(Default)]
struct Tally {
    taken: Cell<u64>,
    errors: Cell<u64>,
    first_error: RefCell<Option<String>>,
    micros: RefCell<Vec<u64>>,
    stormed: Cell<u64>,
    closed: Cell<u64>,
}

fn main() -> ExitCode {
    // What is measured is the gateway's work, and nothing here is secret.
    memory::spare_this_thread();
    match read_plan().and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn read_plan() -> Result<Plan, Failure> {
    let mut given: HashMap<String, String> = HashMap::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let Some(name) = arg.strip_prefix("--") else {
            return Err(format!("what is {arg}?").into());
        };
        // `--bench` is what `cargo bench` adds.
        let value = match name {
            "new" | "resume" | "http2" | "grpc" | "hold" | "leaf" | "reopen" | "bench" => {
                String::new()
            }
            "ca" | "cert" | "connections" | "groups" | "key" | "name" | "path" | "rate"
            | "requests" | "seconds" | "shown" | "spread" | "storm" | "streams" | "target"
            | "think" | "upload" => args.next().ok_or(format!("--{name} needs a value"))?,
            // An older build would measure another work under the name of this one.
            _ => return Err(format!("what is --{name}?").into()),
        };
        given.insert(name.to_owned(), value);
    }
    let number = |name: &str, default: u64| -> Result<u64, Failure> {
        given
            .get(name)
            .map_or(Ok(default), |text| text.parse())
            .map_err(|error| format!("--{name}: {error}").into())
    };
    let text = |name: &str| given.get(name).ok_or(format!("--{name} is missing"));
    let has = |name: &str| given.contains_key(name);
    let is_http2 = has("http2") || has("grpc");
    let sessions = has("resume").then(Sessions::default);
    let tls = match given.get("ca") {
        None => None,
        Some(ca) => {
            let mut tls = SslConnector::builder(SslMethod::tls_client())?;
            tls.set_ca_file(ca)?;
            tls.set_certificate_chain_file(text("cert")?)?;
            tls.set_private_key_file(text("key")?, SslFiletype::PEM)?;
            // One version and one suite for all peers, whatever each would prefer.
            tls.set_min_proto_version(Some(SslVersion::TLS1_3))?;
            tls.set_ciphersuites("TLS_AES_128_GCM_SHA256")?;
            if has("leaf") {
                // Else libssl looks for the rest of the chain among what the client trusts.
                tls.set_mode(SslMode::NO_AUTO_CHAIN);
            }
            if let Some(groups) = given.get("groups") {
                tls.set_groups_list(groups)?;
            }
            if is_http2 {
                tls.set_alpn_protos(b"\x02h2")?;
            }
            if let Some(sessions) = sessions.clone() {
                let mode = SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL;
                tls.set_session_cache_mode(mode);
                tls.set_new_session_callback(move |_, session| {
                    let mut sessions = sessions.lock().unwrap_or_else(PoisonError::into_inner);
                    sessions.push(session);
                });
            }
            Some(tls.build())
        }
    };
    Ok(Plan {
        target: text("target")?.parse()?,
        name: text("name")?.clone(),
        path: given
            .get("path")
            .map_or("/bench", String::as_str)
            .to_owned(),
        tls,
        connections: number("connections", 16)?.max(1),
        spread: number("spread", 1)?.max(1),
        streams: number("streams", 1)?.max(1),
        requests: number("requests", 1000)?,
        seconds: number("seconds", 60)?,
        think: Duration::from_millis(number("think", 0)?),
        rate: number("rate", 0)?,
        storm: number("storm", 0)?,
        upload: usize::try_from(number("upload", 0)?)?,
        is_new_each: has("new") || has("resume"),
        holds: has("hold"),
        reopens: has("reopen"),
        shown: match given.get("shown") {
            Some(file) => Some(RefCell::new(BufWriter::new(File::create(file)?))),
            None => None,
        },
        is_grpc: has("grpc"),
        is_http2,
        sessions,
    })
}

fn run(plan: Plan) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let limit = Duration::from_secs(plan.seconds);
    let tally = Rc::new(Tally::default());
    let plan = Rc::new(plan);
    let is_over = Arc::new(AtomicBool::new(false));
    let storm = (plan.storm > 0).then(|| {
        let is_over = is_over.clone();
        thread::spawn(move || storm(&is_over).map_err(|error| error.to_string()))
    });
    let began = Instant::now();
    let in_time = LocalSet::new().block_on(&runtime, async {
        let clients: Vec<_> = (0..plan.connections)
            .map(|_| tokio::task::spawn_local(clients(plan.clone(), tally.clone())))
            .collect();
        let all = async {
            let mut kept = Vec::new();
            for client in clients {
                // A panic here is a defect of this tool and shows by itself.
                kept.extend(client.await.unwrap_or_default());
            }
            kept
        };
        let kept = tokio::time::timeout(limit, all).await;
        let took = began.elapsed();
        is_over.store(true, Ordering::Release);
        match storm.map(thread::JoinHandle::join) {
            Some(Ok(Ok(stormed))) => tally.stormed.set(stormed),
            Some(Ok(Err(error))) => tally.fail(&error.into()),
            // A panic there is a defect of this tool and shows by itself.
            Some(Err(_)) | None => {}
        }
        report(&tally, took);
        if plan.holds {
            // Whoever started us ends it; nothing is read for that.
            let _ = tokio::task::spawn_blocking(|| std::io::stdin().lines().count()).await;
        }
        kept.is_ok()
    });
    if let Some(shown) = &plan.shown {
        shown.borrow_mut().flush()?;
    }
    match (&*tally.first_error.borrow(), in_time) {
        (Some(error), _) => Err(format!("first error: {error}").into()),
        (None, false) => Err(format!("not done after {} s", plan.seconds).into()),
        (None, true) => Ok(()),
    }
}

fn report(tally: &Tally, took: Duration) {
    let mut micros = tally.micros.borrow_mut();
    micros.sort_unstable();
    let at = |percent: usize| {
        let index = micros.len().saturating_sub(1) * percent / 100;
        micros.get(index).copied().unwrap_or_default()
    };
    println!(
        "{{\"requests\":{},\"errors\":{},\"seconds\":{:.3},\"p50_us\":{},\"p99_us\":{},\"stormed\":{},\"closed\":{}}}",
        micros.len(),
        tally.errors.get(),
        took.as_secs_f64(),
        at(50),
        at(99),
        tally.stormed.get(),
        tally.closed.get()
    );
}

/// A connection of HTTP/2 and those who share it; else one client.
async fn clients(plan: Rc<Plan>, tally: Rc<Tally>) -> Option<Kept> {
    if plan.streams == 1 || !plan.is_http2 || plan.is_new_each {
        return client(plan, tally, None).await;
    }
    let sender = match connect(&plan).await {
        Ok(Kept::Many(sender)) => sender,
        Ok(kept @ (Kept::One(_) | Kept::Ended)) => return Some(kept),
        Err(error) => {
            tally.fail(&error);
            return None;
        }
    };
    let sharing: Vec<_> = (0..plan.streams)
        .map(|_| {
            let kept = Some(Kept::Many(sender.clone()));
            tokio::task::spawn_local(client(plan.clone(), tally.clone(), kept))
        })
        .collect();
    for client in sharing {
        let _ended = client.await;
    }
    Some(Kept::Many(sender))
}

/// One client: takes requests from the common count until none is left; one that holds takes one.
async fn client(plan: Rc<Plan>, tally: Rc<Tally>, mut kept: Option<Kept>) -> Option<Kept> {
    let mut answer = Vec::with_capacity(4096);
    let started = tokio::time::Instant::now();
    while let Some(number) = tally.take(&plan) {
        if !plan.think.is_zero() {
            tokio::time::sleep(plan.think).await;
        }
        if let Some(micros) = (number * 1_000_000).checked_div(plan.rate) {
            tokio::time::sleep_until(started + Duration::from_micros(micros)).await;
        }
        if plan.reopens && kept.as_mut().is_some_and(Kept::has_ended) {
            tally.closed.set(tally.closed.get() + 1);
            kept = None;
        }
        let head = head(&plan, number);
        let began = Instant::now();
        match one(&plan, kept.take(), head.as_bytes(), &mut answer).await {
            Ok(stream) => {
                kept = (!plan.is_new_each).then_some(stream);
                let micros = u64::try_from(began.elapsed().as_micros());
                tally.micros.borrow_mut().push(micros.unwrap_or(u64::MAX));
            }
            Err(error) => tally.fail(&error),
        }
        if plan.holds {
            break;
        }
    }
    kept
}

/// Clients that open connections as long as others are measured, and how many they opened. They have a
/// thread of their own: what they compute is nobody's wait who is measured.
fn storm(is_over: &AtomicBool) -> Result<u64, Failure> {
    memory::spare_this_thread();
    let plan = read_plan()?;
    let head = head(&plan, 0);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let clients = (0..plan.storm).map(|_| async {
            let mut answer = Vec::with_capacity(4096);
            let mut stormed = 0_u64;
            while !is_over.load(Ordering::Acquire) {
                one(&plan, None, head.as_bytes(), &mut answer).await?;
                stormed += 1;
            }
            Ok::<_, Failure>(stormed)
        });
        let stormed = futures_util::future::try_join_all(clients).await?;
        Ok(stormed.iter().sum())
    })
}

fn head(plan: &Plan, number: u64) -> String {
    let (method, length) = match plan.upload {
        0 => ("GET", String::new()),
        bytes => ("POST", format!("Content-Length: {bytes}\r\n")),
    };
    let path = path(plan, number);
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: load/1\r\nAccept: */*\r\n{length}\r\n",
        plan.name
    )
}

/// What this request asks for. Numbers in the place of `{}` come in no order, each once before one comes
/// again where `--spread` has no factor in common with the step.
fn path(plan: &Plan, number: u64) -> Cow<'_, str> {
    if plan.spread == 1 {
        return Cow::Borrowed(&plan.path);
    }
    let scattered = number.wrapping_mul(7919) % plan.spread;
    Cow::Owned(plan.path.replace("{}", &scattered.to_string()))
}

impl Tally {
    /// The number of the next request, where there is one.
    fn take(&self, plan: &Plan) -> Option<u64> {
        let number = self.taken.get();
        self.taken.set(number + 1);
        (number < plan.requests).then_some(number)
    }

    fn fail(&self, error: &Failure) {
        self.errors.set(self.errors.get() + 1);
        let mut first = self.first_error.borrow_mut();
        first.get_or_insert_with(|| error.to_string());
    }
}

/// One request, over `kept` or a new connection, which is handed back.
async fn one(
    plan: &Plan,
    kept: Option<Kept>,
    head: &[u8],
    answer: &mut Vec<u8>,
) -> Result<Kept, Failure> {
    let kept = match kept {
        Some(kept) => kept,
        None => connect(plan).await?,
    };
    match kept {
        Kept::One(mut stream) => {
            stream.write_all(head).await?;
            let part = vec![0; plan.upload.min(PART)];
            let mut left = plan.upload;
            while left > 0 {
                let part = part.get(..left.min(PART)).unwrap_or_default();
                stream.write_all(part).await?;
                left -= part.len();
            }
            let is_last = read_answer(&mut *stream, answer).await?;
            if plan.is_new_each {
                stream.leave();
            }
            Ok(if is_last {
                Kept::Ended
            } else {
                Kept::One(stream)
            })
        }
        Kept::Many(sender) => Ok(Kept::Many(one_of_many(plan, sender).await?)),
        Kept::Ended => Err(BROKEN_OFF.into()),
    }
}

/// How much of a body is sent at once.
const PART: usize = 64 << 10;

/// One request as a stream.
async fn one_of_many(
    plan: &Plan,
    sender: SendRequest<Bytes>,
) -> Result<SendRequest<Bytes>, Failure> {
    let mut sender = sender.ready().await?;
    let scheme = if plan.tls.is_some() { "https" } else { "http" };
    let uri = format!("{scheme}://{}{}", plan.name, plan.path);
    let mut req = Request::builder().uri(uri).header("user-agent", "load/1");
    // A message of five bytes, with gRPC's prefix.
    let message = Bytes::from_static(b"\0\0\0\0\x05hello");
    let content = if plan.is_grpc {
        let headers = req.header("content-type", "application/grpc");
        req = headers.header("te", "trailers").method("POST");
        vec![message]
    } else if plan.upload > 0 {
        req = req.header("content-length", plan.upload).method("POST");
        let part = Bytes::from(vec![0; PART]);
        let mut content = vec![part.clone(); plan.upload / PART];
        content.extend(
            [part.slice(..plan.upload % PART)]
                .into_iter()
                .filter(|rest| !rest.is_empty()),
        );
        content
    } else {
        Vec::new()
    };
    let (answer, mut stream) = sender.send_request(req.body(())?, content.is_empty())?;
    let last = content.len().saturating_sub(1);
    for (place, mut part) in content.into_iter().enumerate() {
        while !part.is_empty() {
            stream.reserve_capacity(part.len());
            let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
            let room = room.ok_or(BROKEN_OFF)??;
            let now = part.split_to(room.min(part.len()));
            stream.send_data(now, place == last && part.is_empty())?;
        }
    }
    let (head, mut body) = answer.await?.into_parts();
    if head.status != 200 {
        return Err(format!("{} {:?}", head.status, head.headers).into());
    }
    while let Some(data) = body.data().await {
        let count = data?.len();
        body.flow_control().release_capacity(count)?;
    }
    if plan.is_grpc {
        let trailers = body.trailers().await?.unwrap_or(head.headers);
        if trailers
            .get("grpc-status")
            .is_none_or(|status| status != "0")
        {
            return Err(format!("gRPC says {trailers:?}").into());
        }
    }
    Ok(sender)
}

async fn connect(plan: &Plan) -> Result<Kept, Failure> {
    let begun = SystemTime::now();
    let tcp = TcpStream::connect(plan.target).await?;
    tcp.set_nodelay(true)?;
    let stream: Box<dyn Wire> = match &plan.tls {
        None => Box::new(tcp),
        Some(tls) => {
            let mut ssl = tls.configure()?.into_ssl(&plan.name)?;
            let known = plan.sessions.as_ref();
            let known =
                known.and_then(|known| known.lock().unwrap_or_else(PoisonError::into_inner).pop());
            if let Some(session) = &known {
                sys::offer_session(&mut ssl, session)?;
            }
            let mut stream = SslStream::new(ssl, tcp)?;
            Pin::new(&mut stream).connect().await?;
            if known.is_some() && !stream.ssl().session_reused() {
                return Err("a session was not resumed".into());
            }
            if let Some(shown) = &plan.shown {
                let cert = stream.ssl().peer_certificate();
                let serial = cert.ok_or("no certificate")?.serial_number().to_bn()?;
                let begun = begun.duration_since(UNIX_EPOCH)?.as_micros();
                writeln!(shown.borrow_mut(), "{begun} {}", serial.to_hex_str()?)?;
            }
            Box::new(stream)
        }
    };
    if !plan.is_http2 {
        return Ok(Kept::One(stream));
    }
    let (sender, conn) = h2::client::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(16 << 20)
        .handshake(stream)
        .await?;
    tokio::task::spawn_local(conn);
    Ok(Kept::Many(sender))
}

/// Reads an answer with a Content-Length and checks that it is a 200; its body is let go. Says whether
/// the connection ends with it.
async fn read_answer(stream: &mut dyn Wire, answer: &mut Vec<u8>) -> Result<bool, Failure> {
    answer.clear();
    let (mut missing, is_last) = loop {
        if stream.read_buf(answer).await? == 0 {
            return Err(BROKEN_OFF.into());
        }
        let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
            continue;
        };
        let head = std::str::from_utf8(answer.get(..end).unwrap_or_default())?;
        if !head.starts_with("HTTP/1.1 200 ") {
            return Err(head.lines().next().unwrap_or_default().into());
        }
        let field = |wanted: &str| {
            head.lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
                .map(|(_, value)| value.trim())
        };
        let length = field("content-length").ok_or("an answer without Content-Length")?;
        let whole = end + 4 + length.parse::<usize>()?;
        let is_last = field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        break (whole.saturating_sub(answer.len()), is_last);
    };
    if missing > 0 {
        // As much as a record of TLS holds, several times.
        answer.reserve(1 << 17);
    }
    while missing > 0 {
        answer.clear();
        match stream.read_buf(answer).await? {
            0 => return Err(BROKEN_OFF.into()),
            count => missing = missing.saturating_sub(count),
        }
    }
    Ok(is_last)
}

const BROKEN_OFF: &str = "the connection ended before the answer did";
