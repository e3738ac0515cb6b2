//! Upstreams: real nginx, `openssl s_server`, and a plain TCP one in this process for faults.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use openssl::ssl::SslStream;
use socket2::{Domain, SockRef, Socket, Type};
use tempfile::TempDir;

use super::client::{Curl, openssl_s_client};
use super::pki::{Ca, Pair};
use super::raw::header;
use super::tls::{accept, accept_or_reset};
use super::{SOON, TlsVersion, eventually, program};

/// An upstream in a process of its own; it ends when this is dropped.
pub(crate) struct Origin {
    child: Child,
    port: u16,
    folder: TempDir,
}

/// How an [`Origin::nginx`] is to serve.
#[derive(Clone, Default)]
pub(crate) struct Nginx {
    /// The server's certificate; `None` is plain HTTP.
    pub(crate) tls: Option<Pair>,
    /// The CA that clients must come from, PEM; `None` asks for no certificate.
    pub(crate) client_ca: Option<String>,
    /// The one server name it serves; others get the alert `unrecognized_name`. `None`: any.
    pub(crate) only_name: Option<String>,
    /// Whether it speaks HTTP/2: alone in the clear, agreed on by ALPN over TLS.
    pub(crate) is_http2: bool,
    /// More directives of the server block, such as `ssl_verify_depth 2;`.
    pub(crate) directives: String,
    /// Directives of the http block, such as an `upstream` that those of the server block name.
    pub(crate) before: String,
    /// Further files of its folder, which directives may name.
    pub(crate) files: Vec<(String, String)>,
}

impl Origin {
    /// Starts an nginx that tells what it saw, a line each: see [`seen`].
    ///
    /// The body has `dn`, `verify`, `sni`, `protocol`, `reused`, `host`, `http_host`, `method`,
    /// `server_protocol`, `uri`,
    /// `forwarded_for`, `forwarded_proto`, `real_ip` and `connection` (nginx's serial number of it).
    ///
    /// # Panics
    /// When nginx does not start, with what it said.
    #[track_caller]
    pub(crate) fn nginx(nginx: &Nginx) -> Self {
        Self::nginx_of(|folder, port| nginx.write(folder, port))
    }

    /// Starts an nginx whose `nginx.conf`, and what it names, `write` puts into its folder.
    ///
    /// # Panics
    /// When nginx does not start, with what it said.
    #[track_caller]
    pub(crate) fn nginx_of(write: impl Fn(&Path, u16)) -> Self {
        let place = ClosedPort::new();
        let port = place.port();
        let folder = TempDir::new().expect("a folder for nginx");
        write(folder.path(), port);
        let said = folder.path().join("error.log");
        let mut child = program("nginx")
            .arg("-p")
            .arg(folder.path())
            .args(["-c", "nginx.conf", "-e", "stderr"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&said).expect("a file for what nginx says"))
            .spawn()
            .expect("nginx can be started");
        // The pid file appears once all ports are bound.
        let is_up = eventually(SOON, "nginx starts", || {
            if child
                .try_wait()
                .expect("a child can be waited for")
                .is_some()
            {
                return Some(false);
            }
            folder.path().join("nginx.pid").exists().then_some(true)
        });
        let said = || fs::read_to_string(&said).unwrap_or_default();
        assert!(is_up, "nginx ended: {}", said());
        Self {
            child,
            port,
            folder,
        }
    }

    /// Starts `openssl s_server -www` on a free port, with `args` besides.
    #[track_caller]
    pub(crate) fn openssl_s_server(pair: &Pair, args: &[&str]) -> Self {
        Self::openssl_s_server_with(pair, args, &[])
    }

    /// The same, with these environment variables.
    #[track_caller]
    pub(crate) fn openssl_s_server_with(
        pair: &Pair,
        args: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let folder = TempDir::new().expect("a folder for s_server");
        let files = pair.write(folder.path(), "server");
        let mut child = program("openssl")
            .args(["s_server", "-www", "-accept", "127.0.0.1:0", "-cert"])
            .arg(&files.cert)
            .arg("-cert_chain")
            .arg(&files.cert)
            .arg("-key")
            .arg(&files.key)
            .args(args)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl can be started");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (found, port) = mpsc::channel();
        // Reads on to the end, so that s_server never waits for its output to be taken.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(address) = line.strip_prefix("ACCEPT ") {
                    drop(found.send(address.trim().parse::<SocketAddr>()));
                }
            }
        });
        let address = port.recv_timeout(SOON);
        let mut origin = Self {
            child,
            port: 0,
            folder,
        };
        origin.port = address
            .expect("s_server says where it listens")
            .expect("an address")
            .port();
        origin
    }

    /// Starts Python's own HTTP server over TLS, for clients with a certificate of `ca` (PEM). It
    /// answers with the subject it saw.
    #[track_caller]
    pub(crate) fn python(pair: &Pair, ca: &str) -> Self {
        let folder = TempDir::new().expect("a folder for Python");
        let files = pair.write(folder.path(), "server");
        let trust = folder.path().join("ca.crt");
        fs::write(&trust, ca).expect("a folder takes files");
        let mut child = program("python3")
            .args(["-c", include_str!("mutual_server.py")])
            .args([&files.cert, &files.key, &trust])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 can be started");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (found, port) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            if BufReader::new(stdout).read_line(&mut line).is_ok() {
                drop(found.send(line.trim().parse()));
            }
        });
        let mut origin = Self {
            child,
            port: 0,
            folder,
        };
        let port = port.recv_timeout(SOON);
        origin.port = port.expect("it says where it listens").expect("a port");
        origin
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:port`, as a node's name in the map form of `nodes`.
    pub(crate) fn node(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What nginx wrote to its error log.
    pub(crate) fn error_log(&self) -> String {
        fs::read_to_string(self.folder.path().join("error.log")).unwrap_or_default()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Nginx {
    /// A server with this certificate that demands a client certificate from this CA.
    pub(crate) fn mutual(tls: Pair, client_ca: String) -> Self {
        Self {
            tls: Some(tls),
            client_ca: Some(client_ca),
            ..Self::default()
        }
    }

    /// A server with this certificate that asks clients for nothing.
    pub(crate) fn tls(tls: Pair) -> Self {
        Self {
            tls: Some(tls),
            ..Self::default()
        }
    }

    fn write(&self, folder: &Path, port: u16) {
        let mut server = String::new();
        if let Some(pair) = &self.tls {
            pair.write(folder, "server");
            server.push_str("ssl_certificate server.crt;\nssl_certificate_key server.key;\n");
            server.push_str("ssl_protocols TLSv1.2 TLSv1.3;\n");
        }
        if let Some(ca) = &self.client_ca {
            fs::write(folder.join("client-ca.crt"), ca).expect("nginx's folder takes files");
            server.push_str("ssl_client_certificate client-ca.crt;\nssl_verify_client on;\n");
        }
        for (name, text) in &self.files {
            fs::write(folder.join(name), text).expect("nginx's folder takes files");
        }
        server.push_str(&self.directives);
        let ssl = if self.tls.is_some() { " ssl" } else { "" };
        let http2 = if self.is_http2 { " http2" } else { "" };
        let mut others = self.before.clone();
        if let Some(name) = &self.only_name {
            server.push_str(&format!("server_name {name};\n"));
            others = format!(
                "{others} server {{ listen 127.0.0.1:{port} ssl default_server; ssl_reject_handshake on;
                  ssl_protocols TLSv1.2 TLSv1.3; }}"
            );
        }
        // One process, so that ending it leaves no workers behind.
        let config = format!(
            r#"daemon off;
master_process off;
pid nginx.pid;
error_log stderr info;
events {{}}
http {{
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  {others}
  server {{
    listen 127.0.0.1:{port}{ssl}{http2};
    {server}
    location / {{
      default_type text/plain;
      return 200 "dn=$ssl_client_s_dn
verify=$ssl_client_verify
sni=$ssl_server_name
protocol=$ssl_protocol
cipher=$ssl_cipher
curve=$ssl_curve
reused=$ssl_session_reused
host=$host
http_host=$http_host
method=$request_method
server_protocol=$server_protocol
uri=$request_uri
forwarded_for=$http_x_forwarded_for
forwarded_proto=$http_x_forwarded_proto
real_ip=$http_x_real_ip
connection=$connection
";
    }}
  }}
}}
"#
        );
        fs::write(folder.join("nginx.conf"), config).expect("nginx's folder takes files");
    }
}

/// One line of what an nginx told it saw; empty when it saw nothing of the kind.
#[track_caller]
pub(crate) fn seen<'body>(body: &'body str, what: &str) -> &'body str {
    body.lines()
        .find_map(|line| line.strip_prefix(what)?.strip_prefix('='))
        .unwrap_or_else(|| panic!("no {what} in {body:?}"))
}

/// An upstream in this process that does to a connection whatever a test wants done.
pub(crate) struct TcpOrigin {
    address: SocketAddr,
    is_stopped: Arc<AtomicBool>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl TcpOrigin {
    /// Calls `serve` with each connection, on a thread of its own.
    pub(crate) fn serving(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::with_heads(Arc::default(), serve)
    }

    /// Shakes hands as a server of this certificate first; a connection that fails there is over.
    pub(crate) fn serving_tls(
        pair: &Pair,
        serve: impl Fn(SslStream<TcpStream>) + Send + Sync + 'static,
    ) -> Self {
        let pair = pair.clone();
        Self::serving(move |conn| {
            if let Some(stream) = accept(conn, &pair) {
                serve(stream);
            }
        })
    }

    /// The same for clients with a certificate of `ca` (PEM), each request of which is answered with
    /// its own head; others meet an alert and a reset.
    pub(crate) fn mutual(pair: &Pair, ca: &str) -> Self {
        let (pair, ca) = (pair.clone(), ca.to_owned());
        Self::serving(move |conn| {
            let Some(mut stream) = accept_or_reset(conn, &pair, &ca) else {
                return;
            };
            loop {
                let head = read_head_from(&mut stream);
                let length = header(&head, "content-length").and_then(|l| l.parse().ok());
                let mut body = vec![0; length.unwrap_or(0)];
                if !head.ends_with("\r\n\r\n")
                    || stream.read_exact(&mut body).is_err()
                    || stream.write_all(&ok(&head)).is_err()
                {
                    return;
                }
            }
        })
    }

    /// Reads one request head per connection, answers with `answer` as it stands, and closes.
    pub(crate) fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&heads);
        Self::with_heads(heads, move |mut conn| {
            let head = read_head(&mut conn);
            seen.lock().expect("no holder panics").push(head);
            say_last(&mut conn, &answer);
        })
    }

    /// Keeps connections: answers each request by what `answer` makes of its head, as it stands.
    ///
    /// A body with a length is read and thrown away before the answer.
    pub(crate) fn talking(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&heads);
        Self::with_heads(heads, move |mut conn| {
            loop {
                let head = read_head(&mut conn);
                if !head.ends_with("\r\n\r\n") {
                    return;
                }
                let length = header(&head, "content-length").and_then(|l| l.parse().ok());
                let body = (&mut conn).take(length.unwrap_or(0));
                seen.lock().expect("no holder panics").push(head.clone());
                let read = std::io::copy(&mut { body }, &mut std::io::sink());
                if read.is_err() || conn.write_all(&answer(&head)).is_err() {
                    return;
                }
            }
        })
    }

    /// Answers each request with its own head, as the body of a 200.
    pub(crate) fn echoing() -> Self {
        Self::talking(ok)
    }

    /// Takes connections and closes them at once; the client may see an end or a reset.
    pub(crate) fn closing() -> Self {
        Self::serving(drop)
    }

    /// Takes connections, reads, and never says a word.
    pub(crate) fn silent() -> Self {
        Self::serving(|mut conn| {
            drop(std::io::copy(&mut conn, &mut std::io::sink()));
        })
    }

    fn with_heads(
        heads: Arc<Mutex<Vec<String>>>,
        serve: impl Fn(TcpStream) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let is_stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&is_stopped);
        let serve = Arc::new(serve);
        thread::spawn(move || {
            for conn in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                let serve = Arc::clone(&serve);
                thread::spawn(move || serve(conn));
            }
        });
        Self {
            address,
            is_stopped,
            heads,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// `127.0.0.1:port`, as a node's name in the map form of `nodes`.
    pub(crate) fn node(&self) -> String {
        self.address.to_string()
    }

    /// The request heads that an [`answering`](Self::answering) origin got, oldest first.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("no holder panics").clone()
    }
}

impl Drop for TcpOrigin {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Release);
        drop(TcpStream::connect(self.address)); // wakes the accept
    }
}

/// A port that is taken and refuses connections, unless who is told of it listens there: nobody else is
/// given it.
pub(crate) struct ClosedPort(Socket);

impl ClosedPort {
    pub(crate) fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        // As servers set it: they may bind the same port as well, and the kernel picks it for none.
        let shared = socket.set_reuse_address(true);
        shared.expect("a socket takes its options");
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        socket.bind(&free.into()).expect("a free port");
        Self(socket)
    }

    /// `127.0.0.1:port`, as a node's name in the map form of `nodes`.
    pub(crate) fn node(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    pub(crate) fn port(&self) -> u16 {
        let address = self.0.local_addr().expect("a bound socket has an address");
        address.as_socket().expect("an IP socket").port()
    }
}

/// A 200 with this body, as it goes over the wire.
pub(crate) fn ok(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// Says it and ends in one: the end comes with its last bytes, so that nobody takes the connection for
/// one to keep. What comes is read on: closing with input unread would reset the connection, and could
/// take with it what was said.
pub(crate) fn say_last(conn: &mut TcpStream, text: &[u8]) {
    SockRef::from(&*conn)
        .set_tcp_cork(true)
        .expect("a socket takes its options");
    drop(conn.write_all(text));
    drop(conn.shutdown(Shutdown::Write));
    drop(std::io::copy(conn, &mut std::io::sink()));
}

/// Reads up to and with the empty line that ends a request's head, or what came until it stopped coming.
pub(crate) fn read_head(conn: &mut TcpStream) -> String {
    drop(conn.set_read_timeout(Some(Duration::from_secs(10))));
    read_head_from(conn)
}

/// [`read_head`] of a stream that sees to its own time-outs.
pub(crate) fn read_head_from(conn: &mut impl Read) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && conn.read_exact(&mut byte).is_ok() {
        head.extend_from_slice(&byte);
    }
    String::from_utf8_lossy(&head).into_owned()
}

#[test]
fn mutual_nginx_serves_who_has_a_certificate_and_refuses_who_has_none() {
    let folder = TempDir::new().unwrap();
    let ca = Ca::root("Test CA");
    let root = ca.write(folder.path(), "ca");
    let alice = ca.client("alice").write(folder.path(), "alice");
    let origin = Origin::nginx(&Nginx::mutual(ca.server("up.example.com"), ca.pem()));
    let ask = || {
        let url = format!("https://up.example.com:{}/x", origin.port());
        Curl::new(&url)
            .resolve("up.example.com", origin.port())
            .cacert(&root)
    };
    for version in TlsVersion::ALL {
        let served = ask().tls(version).cert(&alice).send().expect_status(200);
        assert_eq!(seen(&served.body, "dn"), "CN=alice");
        assert_eq!(seen(&served.body, "sni"), "up.example.com");
        assert_eq!(served.header("content-type"), Some("text/plain"));
        // nginx ends the handshake and refuses by HTTP.
        ask().tls(version).send().expect_status(400);
    }
}

#[test]
fn openssl_server_refuses_in_the_handshake_on_both_versions() {
    let folder = TempDir::new().unwrap();
    let ca = Ca::root("Test CA");
    let root = ca.write(folder.path(), "ca");
    let alice = ca.client("alice").write(folder.path(), "alice");
    let trust = root.to_str().unwrap();
    let origin = Origin::openssl_s_server(
        &ca.server("up.example.com"),
        &["-Verify", "1", "-verify_return_error", "-CAfile", trust],
    );
    let ask = || {
        let url = format!("https://up.example.com:{}/", origin.port());
        Curl::new(&url)
            .resolve("up.example.com", origin.port())
            .cacert(&root)
    };
    for version in TlsVersion::ALL {
        ask().tls(version).cert(&alice).send().expect_status(200);
        ask().tls(version).send().expect_refused_handshake();
    }
    let request = "GET / HTTP/1.0\r\n\r\n";
    let cert = alice.cert.to_str().unwrap();
    let key = alice.key.to_str().unwrap();
    let said = openssl_s_client(
        origin.port(),
        &["-tls1_2", "-cert", cert, "-key", key],
        request,
    );
    assert!(said.stdout.contains("200 ok"), "{said:?}");
}

#[test]
fn plain_origins_answer_close_or_keep_silent() {
    let answering = TcpOrigin::answering("HTTP/1.1 204 No Content\r\n\r\n");
    let ask = |origin: &TcpOrigin| Curl::new(&format!("http://{}/x", origin.node()));
    ask(&answering)
        .header("X-Probe: 1")
        .send()
        .expect_status(204);
    assert!(answering.heads()[0].contains("X-Probe: 1"));
    let closed = ask(&TcpOrigin::closing()).send();
    assert!([52, 56].contains(&closed.exit_code), "{closed:?}");
    assert_eq!(
        ask(&TcpOrigin::silent())
            .args(&["--max-time", "0.2"])
            .send()
            .exit_code,
        28
    );
}
