//! A stand-in for a manager's HTTP API, for the tests of what asks it: written after the API's
//! document, not the real thing.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::LocalSet;

use super::ground::{Ground, samples};
use super::settings::Settings;

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// `METHOD path`.
    pub(super) line: String,
    /// By their names in lower case.
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: String,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    #[track_caller]
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// What is answered.
pub(super) enum Reply {
    /// A status with JSON.
    Json(u16, Value),
    /// A status with a text.
    Text(u16, String),
    /// A redirection there.
    Elsewhere(String),
    /// Nothing at all.
    Silence,
    /// A status 200 at once, and this text when it is said that it is time.
    Later(Rc<Notify>, String),
}

/// A running stand-in, and what it saw.
pub(super) struct StandIn {
    pub(super) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl StandIn {
    /// Answers every request by this, a connection each. Runs in a `LocalSet`.
    pub(super) async fn start(answers: impl Fn(&Seen) -> Reply + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (kept, answers) = (seen.clone(), Rc::new(answers));
        tokio::task::spawn_local(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (kept, answers) = (kept.clone(), answers.clone());
                tokio::task::spawn_local(async move { serve(tcp, &*answers, &kept).await });
            }
        });
        Self { url, seen }
    }

    /// What it saw so far.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve(
    mut tcp: tokio::net::TcpStream,
    answers: &dyn Fn(&Seen) -> Reply,
    kept: &Mutex<Vec<Seen>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = tcp.read_u8().await else {
            return;
        };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    let headers: BTreeMap<_, _> = fields
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers
        .get("content-length")
        .map_or(0, |text| text.parse().unwrap());
    let mut body = vec![0; length];
    tcp.read_exact(&mut body).await.unwrap();
    let mut words = head.split(' ');
    let seen = Seen {
        line: format!("{} {}", words.next().unwrap(), words.next().unwrap()),
        headers,
        body: String::from_utf8(body).unwrap(),
    };
    let reply = answers(&seen);
    kept.lock().unwrap().push(seen);
    let (status, field, body) = match reply {
        Reply::Json(status, value) => (status, String::new(), value.to_string()),
        Reply::Text(status, text) => (status, String::new(), text),
        Reply::Elsewhere(url) => (307, format!("Location: {url}\r\n"), String::new()),
        Reply::Silence => std::future::pending().await,
        Reply::Later(time, text) => {
            let head = "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n";
            let _ = tcp.write_all(head.as_bytes()).await;
            time.notified().await;
            let chunk = match text.len() {
                0 => String::new(),
                length => format!("{length:x}\r\n{text}\r\n"),
            };
            let _ = tcp.write_all(format!("{chunk}0\r\n\r\n").as_bytes()).await;
            return;
        }
    };
    let reply = format!(
        "HTTP/1.1 {status} X\r\n{field}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    // Whoever has read enough is gone.
    let _ = tcp.write_all(reply.as_bytes()).await;
}

/// Runs what lives on one thread.
pub(super) async fn local<T>(work: impl Future<Output = T>) -> T {
    LocalSet::new().run_until(work).await
}

/// A ground that does not wait long.
pub(super) fn impatient(settings: Settings) -> Rc<Ground> {
    let mut ground = samples::ground(settings);
    Rc::get_mut(&mut ground).unwrap().bounds.attempt = Duration::from_millis(100);
    ground
}
