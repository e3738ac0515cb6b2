//! The real binary, started on free ports with a data folder of its own.
//!
//! Where it listens is learned from its log, one line per listener; every log line and access record
//! is kept for assertions.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::client::{Curl, CurlOutcome};
use super::raw::RawClient;
use super::tls::TlsClient;
use super::{Finished, SOON, TlsVersion, eventually, fips, run_to_end};

/// The key to the Admin API of every gateway started here.
pub(crate) const ADMIN_KEY: &str = "a-key-for-tests-only";

/// The listeners by the names their log lines carry, and the config keys that place them.
const LISTENERS: [(&str, &str); 5] = [
    ("http", "http.listen"),
    ("https", "https.listen"),
    ("admin", "admin.listen"),
    ("admin_https", "admin.https.listen"),
    ("status", "status.listen"),
];

/// A running gateway; it is killed when this is dropped.
pub(crate) struct Gateway {
    child: Child,
    listeners: BTreeMap<String, SocketAddr>,
    logs: Lines,
    records: Lines,
    data: Arc<TempDir>,
}

/// How a [`Gateway`] is to be started.
#[derive(Clone)]
pub(crate) struct Setup {
    file: String,
    settings: BTreeMap<String, String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    wrapper: Vec<String>,
    data: Arc<TempDir>,
}

/// A gateway that is over.
#[derive(Debug)]
pub(crate) struct Stopped {
    pub(crate) status: ExitStatus,
    /// Its log, oldest first.
    pub(crate) logs: Vec<Value>,
    /// Its access records, oldest first.
    pub(crate) records: Vec<Value>,
}

impl Stopped {
    /// All that was said before the log began.
    pub(crate) fn words(&self) -> String {
        let lines = self.logs.iter().filter_map(Value::as_str);
        lines.collect::<Vec<_>>().join("\n")
    }
}

impl Default for Setup {
    fn default() -> Self {
        let mut settings = BTreeMap::from([
            ("log.format".to_owned(), "json".to_owned()),
            ("workers".to_owned(), "2".to_owned()),
        ]);
        for (_, key) in LISTENERS {
            settings.insert(key.to_owned(), r#"["127.0.0.1:0"]"#.to_owned());
        }
        if let Some(dir) = fips::everywhere() {
            let dir = dir.to_str().expect("a path of text").to_owned();
            settings.insert("fips".to_owned(), "required".to_owned());
            settings.insert("fips_module_dir".to_owned(), dir);
        }
        Self {
            file: String::new(),
            wrapper: Vec::new(),
            settings,
            arguments: Vec::new(),
            environment: vec![("PORTCULLIS_ADMIN_KEY".to_owned(), ADMIN_KEY.to_owned())],
            data: Arc::new(TempDir::new().expect("a data folder")),
        }
    }
}

impl Setup {
    /// The text of the configuration file; empty unless said otherwise.
    pub(crate) fn file(mut self, text: &str) -> Self {
        text.clone_into(&mut self.file);
        self
    }

    /// Sets one config key, a YAML value; replaces the default for tests.
    pub(crate) fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Adds an argument, such as `--standalone`.
    pub(crate) fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Sets an environment variable.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Takes an environment variable away again, such as `PORTCULLIS_ADMIN_KEY`.
    pub(crate) fn without_env(mut self, name: &str) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self
    }

    /// Starts the gateway by a program that becomes it, such as `prlimit`.
    pub(crate) fn under(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Uses the data of an earlier gateway.
    pub(crate) fn data(mut self, data: &Arc<TempDir>) -> Self {
        self.data = Arc::clone(data);
        self
    }

    /// Starts the gateway and waits until it is ready.
    ///
    /// # Panics
    /// When it ends instead, or is not ready in time; the message has its log.
    #[track_caller]
    pub(crate) fn start(self) -> Gateway {
        match self.try_start() {
            Ok(gateway) => gateway,
            Err(stopped) => panic!("the gateway did not start: {stopped:#?}"),
        }
    }

    /// Starts the gateway and waits until it is ready, or ends.
    ///
    /// # Errors
    /// What it left when it ended before it was ready.
    #[track_caller]
    pub(crate) fn try_start(self) -> Result<Gateway, Stopped> {
        let wanted: Vec<&str> = LISTENERS
            .iter()
            .filter(|(_, key)| self.settings[*key] != "[]")
            .map(|(name, _)| *name)
            .collect();
        let mut child = self
            .command(&["serve"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the gateway's binary can be started");
        let logs = Lines::read(child.stderr.take().expect("stderr is piped"));
        let records = Lines::read(child.stdout.take().expect("stdout is piped"));
        let mut gateway = Gateway {
            child,
            listeners: BTreeMap::new(),
            logs,
            records,
            data: self.data,
        };
        for name in wanted {
            let found = gateway.logs.wait_for(2 * SOON, |line| {
                field(line, "message") == Some("listening") && field(line, "listener") == Some(name)
            });
            let Some(line) = found else {
                return Err(gateway.give_up(&format!("no word of listener {name}")));
            };
            let address = field(&line, "address").expect("a listening line has its address");
            let address = address.parse().expect("an address is host:port");
            gateway.listeners.insert(name.to_owned(), address);
        }
        match gateway.wait_until_ready() {
            None => Ok(gateway),
            Some(status) => Err(gateway.leave(status)),
        }
    }

    /// The `data_dir` to be.
    pub(crate) fn data_path(&self) -> PathBuf {
        data_path(&self.data)
    }

    /// Runs another verb, such as `["check", "--print"]`, to its end, with the same settings.
    #[track_caller]
    pub(crate) fn run(&self, verb: &[&str]) -> Finished {
        run_to_end(self.command(verb), b"", 2 * SOON)
    }

    fn command(&self, verb: &[&str]) -> Command {
        let own = env!("CARGO_BIN_EXE_portcullis");
        let mut command = match self.wrapper.split_first() {
            Some((wrapper, rest)) => {
                let mut command = Command::new(wrapper);
                command.args(rest).arg(own);
                command
            }
            None => Command::new(own),
        };
        // Nothing of this machine's own configuration is to show.
        let config = self.data.path().join("portcullis.yaml");
        fs::write(&config, &self.file).expect("the folder takes a file");
        command.args(verb).args(&self.arguments);
        command.arg("--config").arg(config);
        let data = data_path(&self.data);
        command
            .arg("--set")
            .arg(format!("data_dir={}", data.display()));
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"PORTCULLIS_") {
                command.env_remove(name);
            }
        }
        for (key, value) in &self.settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        command
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.data.path());
        command
    }
}

impl Gateway {
    /// A gateway with the defaults for tests: every listener on a free port, two workers.
    #[track_caller]
    pub(crate) fn start() -> Self {
        Setup::default().start()
    }

    #[track_caller]
    pub(crate) fn port(&self, listener: &str) -> u16 {
        match self.listeners.get(listener) {
            Some(address) => address.port(),
            None => panic!("listener {listener} was not asked for"),
        }
    }

    /// The ports its process listens on, as the kernel tells them.
    #[track_caller]
    pub(crate) fn listening_ports(&self) -> BTreeSet<u16> {
        let proc = format!("/proc/{}", self.process_id());
        let sockets: HashSet<String> = fs::read_dir(format!("{proc}/fd"))
            .unwrap()
            .filter_map(|fd| {
                let target = fs::read_link(fd.ok()?.path()).ok()?;
                let inode = target.to_str()?.strip_prefix("socket:[")?;
                Some(inode.trim_end_matches(']').to_owned())
            })
            .collect();
        let table = fs::read_to_string(format!("{proc}/net/tcp")).unwrap();
        // Local address, state (0A listens) and inode: proc_pid_net(5).
        let listening = table.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (address, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
            let port = address.rsplit_once(':')?.1;
            (*state == "0A" && sockets.contains(*inode))
                .then(|| u16::from_str_radix(port, 16).unwrap())
        });
        listening.collect()
    }

    #[track_caller]
    pub(crate) fn https_port(&self) -> u16 {
        self.port("https")
    }

    /// `http://127.0.0.1:port` of the data plane, and `path`.
    #[track_caller]
    pub(crate) fn http_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port("http"))
    }

    /// A request to `https://host:port/path`, resolved to this gateway.
    #[track_caller]
    pub(crate) fn https(&self, host: &str, path: &str) -> Curl {
        let port = self.https_port();
        Curl::new(&format!("https://{host}:{port}{path}")).resolve(host, port)
    }

    /// `http://127.0.0.1:port` of the status listener, and `path`.
    #[track_caller]
    pub(crate) fn status_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port("status"))
    }

    /// A request to the plain Admin API with the key; `path` is what follows `/apisix/admin`.
    #[track_caller]
    pub(crate) fn admin(&self, method: &str, path: &str) -> Curl {
        let url = format!("http://127.0.0.1:{}/apisix/admin{path}", self.port("admin"));
        Curl::new(&url)
            .method(method)
            .header(&format!("X-API-KEY: {ADMIN_KEY}"))
    }

    /// The same on the HTTPS listener, whose certificate is not looked at.
    #[track_caller]
    pub(crate) fn admin_https(&self, method: &str, path: &str) -> Curl {
        let port = self.port("admin_https");
        Curl::new(&format!("https://127.0.0.1:{port}/apisix/admin{path}"))
            .args(&["-k"])
            .method(method)
            .header(&format!("X-API-KEY: {ADMIN_KEY}"))
    }

    /// PUT of a document, as `("/routes/1", json!({…}))`.
    #[track_caller]
    pub(crate) fn admin_put(&self, path: &str, document: &Value) -> CurlOutcome {
        self.admin("PUT", path)
            .header("Content-Type: application/json")
            .body(document.to_string())
            .send()
    }

    /// PUT of a document that must be taken.
    #[track_caller]
    pub(crate) fn configure(&self, path: &str, document: &Value) {
        let outcome = self.admin_put(path, document);
        assert!(
            matches!(outcome.status, Some(200 | 201)),
            "{path}: {outcome:?}"
        );
    }

    /// A connection to the plain data plane.
    #[track_caller]
    pub(crate) fn connect(&self) -> RawClient {
        RawClient::connect(self.port("http"))
    }

    /// A TLS client of the data plane that names `sni`.
    #[track_caller]
    pub(crate) fn tls(&self, sni: &str, version: TlsVersion) -> TlsClient {
        TlsClient::new(self.https_port()).sni(sni).tls(version)
    }

    #[track_caller]
    pub(crate) fn admin_get(&self, path: &str) -> CurlOutcome {
        self.admin("GET", path).send()
    }

    #[track_caller]
    pub(crate) fn admin_delete(&self, path: &str) -> CurlOutcome {
        self.admin("DELETE", path).send()
    }

    /// The first log line, from the start on, that `is_it` accepts; waits for it.
    #[track_caller]
    pub(crate) fn expect_log(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let found = self.logs.wait_for(SOON, is_it);
        found.unwrap_or_else(|| panic!("no log line: {what}; there are {:#?}", self.logs.all()))
    }

    /// The first access record, from the start on, that `is_it` accepts; waits for it.
    #[track_caller]
    pub(crate) fn expect_record(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let found = self.records.wait_for(SOON, is_it);
        found.unwrap_or_else(|| panic!("no record: {what}; there are {:#?}", self.records.all()))
    }

    /// The log so far, oldest first.
    pub(crate) fn logs(&self) -> Vec<Value> {
        self.logs.all()
    }

    /// The access records so far, oldest first.
    pub(crate) fn records(&self) -> Vec<Value> {
        self.records.all()
    }

    /// The folder of its data, for a gateway to come; it lives as long as anyone holds it.
    pub(crate) fn data(&self) -> Arc<TempDir> {
        Arc::clone(&self.data)
    }

    /// Its `data_dir`.
    pub(crate) fn data_path(&self) -> PathBuf {
        data_path(&self.data)
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Asks for a stop by SIGTERM and does not wait.
    pub(crate) fn ask_to_stop(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends a signal and does not wait.
    pub(crate) fn signal(&self, signal: Signal) {
        let id = Pid::from_child(&self.child);
        kill_process(id, signal).expect("the gateway takes a signal");
    }

    /// Stops by SIGTERM and waits for the end.
    #[track_caller]
    pub(crate) fn stop(mut self) -> Stopped {
        if self.try_status().is_none() {
            self.ask_to_stop();
        }
        self.wait()
    }

    /// Ends it by SIGKILL, between any two of its instructions.
    #[track_caller]
    pub(crate) fn kill(self) -> Stopped {
        self.signal(Signal::KILL);
        self.wait()
    }

    /// Waits for its end, which something else brings about.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Stopped {
        let status = eventually(3 * SOON, "the gateway stops", || self.try_status());
        self.leave(status)
    }

    fn try_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Its exit status when it ends instead of becoming ready.
    #[track_caller]
    fn wait_until_ready(&mut self) -> Option<ExitStatus> {
        let url = self.status_url("/status/ready");
        eventually(2 * SOON, "the gateway is ready", || {
            let is_ready = Curl::new(&url).send().status == Some(200);
            let status = self.try_status();
            (is_ready || status.is_some()).then_some(status)
        })
    }

    /// For a gateway whose log ended before it listened everywhere.
    #[track_caller]
    fn give_up(mut self, why: &str) -> Stopped {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(status) = self.try_status() {
                return self.leave(status);
            }
            assert!(
                Instant::now() < deadline,
                "{why}, yet it runs: {:#?}",
                self.logs.all()
            );
            thread::park_timeout(Duration::from_millis(20));
        }
    }

    fn leave(&self, status: ExitStatus) -> Stopped {
        self.logs.wait_for_end(SOON);
        self.records.wait_for_end(SOON);
        Stopped {
            status,
            logs: self.logs.all(),
            records: self.records.all(),
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if thread::panicking() {
            let logs = self.logs.all();
            for line in logs.iter().rev().take(40).rev() {
                eprintln!("gateway: {line}");
            }
        }
    }
}

/// The `data_dir` in a gateway's folder; its empty configuration file is beside it.
fn data_path(folder: &TempDir) -> PathBuf {
    folder.path().join("data")
}

/// A member of a log line, wherever the format puts it.
pub(crate) fn field<'line>(line: &'line Value, name: &str) -> Option<&'line str> {
    line.get(name)
        .or_else(|| line.get("fields")?.get(name))?
        .as_str()
}

/// Lines that a child writes, as they come; one that is not JSON is kept as a string.
#[derive(Clone)]
struct Lines {
    shared: Arc<(Mutex<Written>, Condvar)>,
}

#[derive(Default)]
struct Written {
    lines: Vec<Value>,
    is_over: bool,
}

impl Lines {
    fn read(pipe: impl Read + Send + 'static) -> Self {
        let lines = Self {
            shared: Arc::default(),
        };
        let writer = lines.clone();
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                writer.change(|written| written.lines.push(value));
            }
            writer.change(|written| written.is_over = true);
        });
        lines
    }

    fn change(&self, change: impl FnOnce(&mut Written)) {
        let (written, changed) = &*self.shared;
        change(&mut written.lock().expect("no holder panics"));
        changed.notify_all();
    }

    fn all(&self) -> Vec<Value> {
        self.shared
            .0
            .lock()
            .expect("no holder panics")
            .lines
            .clone()
    }

    /// The first line that `is_it` accepts; `None` when the child's output ended or time ran out.
    fn wait_for(&self, within: Duration, is_it: impl Fn(&Value) -> bool) -> Option<Value> {
        let (written, changed) = &*self.shared;
        let written = written.lock().expect("no holder panics");
        let (written, _) = changed
            .wait_timeout_while(written, within, |written| {
                !written.is_over && !written.lines.iter().any(&is_it)
            })
            .expect("no holder panics");
        written.lines.iter().find(|line| is_it(line)).cloned()
    }

    fn wait_for_end(&self, within: Duration) {
        let (written, changed) = &*self.shared;
        let written = written.lock().expect("no holder panics");
        drop(changed.wait_timeout_while(written, within, |written| !written.is_over));
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway")
            .field("listeners", &self.listeners)
            .finish_non_exhaustive()
    }
}
