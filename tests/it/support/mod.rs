//! What integration tests start and ask: certificates, the gateway, its upstreams, its clients.
//!
//! All of it is real: the gateway's binary, `nginx`, `openssl`, `curl`. Ports are free ones, every
//! wait has a deadline, and what a value started ends when it is dropped.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) mod a6;
pub(crate) mod bao;
pub(crate) mod client;
pub(crate) mod dns;
pub(crate) mod fips;
pub(crate) mod forward_proxy;
pub(crate) mod frames;
pub(crate) mod gateway;
pub(crate) mod h2;
pub(crate) mod h2_origin;
pub(crate) mod hello;
pub(crate) mod memory;
pub(crate) mod origin;
pub(crate) mod pki;
pub(crate) mod raw;
pub(crate) mod site;
pub(crate) mod tls;
pub(crate) mod upstream;
pub(crate) mod websocket;

/// How long anything that should happen at once may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// A limit to be set where a test waits for what comes when it is over, and nothing else has to keep to it.
/// The gateway looks at its clock ten times a second.
pub(crate) const LIMIT: Duration = Duration::from_secs(2);

/// One that is longer than anybody on a busy machine waits for a turn, and shorter than [`SOON`] by more than
/// the gateway takes to see that it is over.
const LONG_LIMIT: Duration = Duration::from_secs(6);

/// Runs a test about a limit that something else has to keep to, such as a peer that is slow and yet in
/// time: with [`LIMIT`], and where that fails, which may be for want of a turn, all of it once more with a
/// limit that is long enough. What is always wrong fails with either; of what is not, the first failure is
/// told among the output of the tests, which have passed.
///
/// # Panics
/// When the test does so the second time.
pub(crate) fn patiently(test: impl Fn(Duration)) {
    if catch_unwind(AssertUnwindSafe(|| test(LIMIT))).is_err() {
        let name = thread::current().name().unwrap_or_default().to_owned();
        // Not by `eprintln!`, which is kept from view where the test passes.
        writeln!(io::stderr(), "{name}: once more, with {LONG_LIMIT:?}").ok();
        test(LONG_LIMIT);
    }
}

/// A limit as a setting has it.
pub(crate) fn setting(limit: Duration) -> String {
    format!("{}ms", limit.as_millis())
}

/// The two protocol versions in use; a refusal is tested on each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TlsVersion {
    V12,
    V13,
}

impl TlsVersion {
    pub(crate) const ALL: [Self; 2] = [Self::V12, Self::V13];
}

/// Asks again and again until `ask` gives a value.
///
/// # Panics
/// When `within` has passed; the message names `what` was awaited.
#[track_caller]
pub(crate) fn eventually<T>(within: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = ask() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        thread::park_timeout(Duration::from_millis(20));
    }
}

/// What a program that ran to its end left behind.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Tells threads that a test is over, also when it fails: a scope waits for all of its threads.
pub(crate) struct SetAtEnd<'a>(pub(crate) &'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Runs a program to its end, `stdin` first.
///
/// # Panics
/// When it cannot be started, or has not ended after `within` (it is then killed).
#[track_caller]
pub(crate) fn run_to_end(mut command: Command, stdin: &[u8], within: Duration) -> Finished {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut pipe = child.stdin.take().expect("stdin is piped");
    let stdin = stdin.to_vec();
    // A program that ends without reading its input breaks the pipe; its exit code tells why.
    let writer = thread::spawn(move || drop(pipe.write_all(&stdin)));
    let stdout = read_in_background(child.stdout.take().expect("stdout is piped"));
    let stderr = read_in_background(child.stderr.take().expect("stderr is piped"));
    let deadline = Instant::now() + within;
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break status;
        }
        if Instant::now() >= deadline {
            drop(child.kill());
            drop(child.wait());
            panic!("{command:?} did not end within {within:?}");
        }
        thread::park_timeout(Duration::from_millis(5));
    };
    writer.join().expect("the writer does not panic");
    Finished {
        status,
        stdout: stdout.join().expect("the reader does not panic"),
        stderr: stderr.join().expect("the reader does not panic"),
    }
}

fn read_in_background(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        drop(pipe.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A program by name, also from where Debian keeps `nginx`, which is not on every user's path.
pub(crate) fn program(name: impl AsRef<OsStr>) -> Command {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(name.as_ref()))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("{:?} is not installed: run `make install`", name.as_ref()));
    Command::new(found)
}
