//! A load generator that presents client certificates, which wrk, h2load and ab cannot.
//!
//! `load --target 127.0.0.1:9443 --name bench.test --ca ca.crt --cert client.crt --key client.key
//! --connections 16 --requests 10000`: keep-alive HTTP/1.1, one request at a time per connection;
//! `--new` opens a connection per request, without resumption. Without `--ca` it speaks in the
//! clear. `--path` asks for something else than `/bench`, `--groups` offers these key-exchange groups
//! instead of OpenSSL's own. Bounded in count (`--requests`) and time (`--seconds`, 60 by default). Prints one JSON
//! object: requests, errors, seconds, and latencies in microseconds.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a tool of the bench: its own contexts, its result on standard output"
)]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use openssl::ssl::{SslConnector, SslFiletype, SslMethod, SslVersion};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio_openssl::SslStream;

type Failure = Box<dyn Error>;

/// Both kinds of connection as one.
trait Bytes: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Bytes for T {}

struct Plan {
    target: SocketAddr,
    name: String,
    path: String,
    tls: Option<SslConnector>,
    connections: u64,
    requests: u64,
    seconds: u64,
    is_new_each: bool,
}

#[derive(Default)]
struct Tally {
    left: Cell<u64>,
    errors: Cell<u64>,
    first_error: RefCell<Option<String>>,
    micros: RefCell<Vec<u64>>,
}

fn main() -> ExitCode {
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
            "new" | "bench" => String::new(),
            _ => args.next().ok_or(format!("--{name} needs a value"))?,
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
            if let Some(groups) = given.get("groups") {
                tls.set_groups_list(groups)?;
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
        requests: number("requests", 1000)?,
        seconds: number("seconds", 60)?,
        is_new_each: given.contains_key("new"),
    })
}

fn run(plan: Plan) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let limit = Duration::from_secs(plan.seconds);
    let tally = Rc::new(Tally::default());
    tally.left.set(plan.requests);
    let plan = Rc::new(plan);
    let began = Instant::now();
    let in_time = LocalSet::new().block_on(&runtime, async {
        let clients: Vec<_> = (0..plan.connections)
            .map(|_| tokio::task::spawn_local(client(plan.clone(), tally.clone())))
            .collect();
        let all = async {
            for client in clients {
                // A panic here is a defect of this tool and shows by itself.
                let _ = client.await;
            }
        };
        tokio::time::timeout(limit, all).await.is_ok()
    });
    report(&tally, began.elapsed());
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
        "{{\"requests\":{},\"errors\":{},\"seconds\":{:.3},\"p50_us\":{},\"p99_us\":{}}}",
        micros.len(),
        tally.errors.get(),
        took.as_secs_f64(),
        at(50),
        at(99)
    );
}

/// One client: takes requests from the common count until none is left.
async fn client(plan: Rc<Plan>, tally: Rc<Tally>) {
    let head = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: load/1\r\nAccept: */*\r\n\r\n",
        plan.path, plan.name
    );
    let mut kept = None;
    let mut answer = Vec::with_capacity(4096);
    while tally.take() {
        let began = Instant::now();
        match one(&plan, kept.take(), head.as_bytes(), &mut answer).await {
            Ok(stream) => {
                kept = (!plan.is_new_each).then_some(stream);
                let micros = u64::try_from(began.elapsed().as_micros());
                tally.micros.borrow_mut().push(micros.unwrap_or(u64::MAX));
            }
            Err(error) => tally.fail(&error),
        }
    }
}

impl Tally {
    fn take(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
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
    kept: Option<Box<dyn Bytes>>,
    head: &[u8],
    answer: &mut Vec<u8>,
) -> Result<Box<dyn Bytes>, Failure> {
    let mut stream = match kept {
        Some(stream) => stream,
        None => connect(plan).await?,
    };
    stream.write_all(head).await?;
    read_answer(&mut *stream, answer).await?;
    Ok(stream)
}

async fn connect(plan: &Plan) -> Result<Box<dyn Bytes>, Failure> {
    let tcp = TcpStream::connect(plan.target).await?;
    tcp.set_nodelay(true)?;
    let Some(tls) = &plan.tls else {
        return Ok(Box::new(tcp));
    };
    let ssl = tls.configure()?.into_ssl(&plan.name)?;
    let mut stream = SslStream::new(ssl, tcp)?;
    Pin::new(&mut stream).connect().await?;
    Ok(Box::new(stream))
}

/// Reads an answer with a Content-Length and checks that it is a 200; its body is let go.
async fn read_answer(stream: &mut dyn Bytes, answer: &mut Vec<u8>) -> Result<(), Failure> {
    answer.clear();
    let mut missing = loop {
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
        let length = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .ok_or("an answer without Content-Length")?;
        let whole = end + 4 + length.1.trim().parse::<usize>()?;
        break whole.saturating_sub(answer.len());
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
    Ok(())
}

const BROKEN_OFF: &str = "the connection ended before the answer did";
