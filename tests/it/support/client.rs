//! Clients: real `curl`, and `openssl s_client` for what curl hides.

use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::Command;

use openssl::error::ErrorStack;
use openssl::ssl::{Ssl, SslContext, SslMethod, SslStream, SslVersion};
use serde_json::Value;
use tempfile::TempDir;

use super::pki::{PairFiles, serial};
use super::{Finished, SOON, TlsVersion, program, run_to_end};

/// One request by `curl`, in the making.
pub(crate) struct Curl {
    command: Command,
    body: Vec<u8>,
    scratch: TempDir,
}

/// What came of a [`Curl`].
#[derive(Debug)]
pub(crate) struct CurlOutcome {
    /// The last answer's status; `None` when there was no HTTP answer.
    pub(crate) status: Option<u16>,
    /// The last answer's head, as received.
    pub(crate) head: String,
    /// All heads that came, the last one behind those that only inform.
    pub(crate) heads: String,
    pub(crate) body: String,
    /// curl's own: 0 fine, 7 refused, 35 handshake failed, 56 alert met on the first read, 60 not trusted.
    pub(crate) exit_code: i32,
    pub(crate) stderr: String,
}

impl Curl {
    pub(crate) fn new(url: &str) -> Self {
        let scratch = TempDir::new().expect("a folder for curl's output");
        let mut command = program("curl");
        command.args(["-q", "-sS", "--noproxy", "*", "--max-time", "20"]);
        // Where HTTP/2 is meant, a test says so.
        command.arg("--http1.1");
        command.args(["-w", "%{http_code}"]);
        command.arg("-o").arg(scratch.path().join("body"));
        command.arg("-D").arg(scratch.path().join("head"));
        command.arg(url);
        Self {
            command,
            body: Vec::new(),
            scratch,
        }
    }

    /// Any other of curl's arguments.
    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    /// Speaks HTTP/2 where ALPN allows it.
    pub(crate) fn http2(self) -> Self {
        self.args(&["--http2"])
    }

    pub(crate) fn method(self, method: &str) -> Self {
        self.args(&["-X", method])
    }

    pub(crate) fn header(self, header: &str) -> Self {
        self.args(&["-H", header])
    }

    /// Sends `body` as it is; the method becomes POST unless named.
    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self.args(&["--data-binary", "@-"])
    }

    /// Resolves `host:port` to this machine.
    pub(crate) fn resolve(self, host: &str, port: u16) -> Self {
        self.args(&["--resolve", &format!("{host}:{port}:127.0.0.1")])
    }

    /// Presents a client certificate.
    pub(crate) fn cert(mut self, pair: &PairFiles) -> Self {
        self.command
            .arg("--cert")
            .arg(&pair.cert)
            .arg("--key")
            .arg(&pair.key);
        self
    }

    /// Trusts this CA alone.
    pub(crate) fn cacert(mut self, path: &Path) -> Self {
        self.command.arg("--cacert").arg(path);
        self
    }

    /// Speaks exactly this version.
    pub(crate) fn tls(self, version: TlsVersion) -> Self {
        match version {
            TlsVersion::V12 => self.args(&["--tlsv1.2", "--tls-max", "1.2"]),
            TlsVersion::V13 => self.args(&["--tlsv1.3"]),
        }
    }

    /// Sends the request.
    #[track_caller]
    pub(crate) fn send(self) -> CurlOutcome {
        let finished = run_to_end(self.command, &self.body, 3 * SOON);
        let read = |name: &str| {
            let bytes = std::fs::read(self.scratch.path().join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let heads = read("head");
        let head = heads
            .trim_end()
            .rsplit("\r\n\r\n")
            .next()
            .unwrap_or_default()
            .to_owned();
        CurlOutcome {
            status: finished.stdout.parse().ok().filter(|status| *status != 0),
            head,
            heads,
            body: read("body"),
            exit_code: finished.status.code().unwrap_or(-1),
            stderr: finished.stderr,
        }
    }
}

impl CurlOutcome {
    /// The first value of a header, names compared without case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The same outcome, after making sure of its status.
    #[track_caller]
    pub(crate) fn expect_status(self, status: u16) -> Self {
        assert_eq!(self.status, Some(status), "{self:?}");
        self
    }

    /// The same outcome, after making sure that TLS refused us: no HTTP answer, but an alert.
    #[track_caller]
    pub(crate) fn expect_refused_handshake(self) -> Self {
        let is_refused = self.status.is_none() && [35, 55, 56].contains(&self.exit_code);
        assert!(is_refused, "{self:?}");
        self
    }
}

/// The serial of the certificate that a port here shows for this name, in a handshake of its own;
/// `None` where the handshake is refused.
#[track_caller]
pub(crate) fn shown_serial(port: u16, sni: &str, version: TlsVersion) -> Option<String> {
    let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("something listens");
    for set in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
        set(&tcp, Some(SOON)).expect("a socket takes its options");
    }
    let ssl = handshaker(sni, version).expect("OpenSSL takes the test's settings");
    let mut stream = SslStream::new(ssl, tcp).expect("a TLS client");
    stream.connect().ok()?;
    let cert = stream.ssl().peer_certificate()?;
    Some(serial(&cert))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test's client, which knows no policy"
)]
fn handshaker(sni: &str, version: TlsVersion) -> Result<Ssl, ErrorStack> {
    let mut context = SslContext::builder(SslMethod::tls_client())?;
    let version = match version {
        TlsVersion::V12 => SslVersion::TLS1_2,
        TlsVersion::V13 => SslVersion::TLS1_3,
    };
    context.set_min_proto_version(Some(version))?;
    context.set_max_proto_version(Some(version))?;
    let mut ssl = Ssl::new(&context.build())?;
    ssl.set_hostname(sni)?;
    Ok(ssl)
}

/// Runs `openssl s_client` against a port here, sends `request`, and waits for the peer to close.
///
/// `args` are s_client's own, such as `-servername`, `-cert`, `-tls1_2`, `-sess_out`.
#[track_caller]
pub(crate) fn openssl_s_client(port: u16, args: &[&str], request: &str) -> Finished {
    let mut command = program("openssl");
    command.args([
        "s_client",
        "-connect",
        &format!("127.0.0.1:{port}"),
        "-ign_eof",
    ]);
    command.args(args);
    run_to_end(command, request.as_bytes(), 2 * SOON)
}
