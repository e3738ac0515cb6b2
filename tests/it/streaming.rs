//! Bodies of any size pass through in both directions, never collected; connections are kept.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use openssl::hash::{Hasher, MessageDigest};
use openssl::rand::rand_bytes;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::gateway::{Gateway, Setup, field};
use crate::support::h2::H2Conn;
use crate::support::memory::{BIG, MIB, expect_room, peak, pour};
use crate::support::origin::{Nginx, Origin, TcpOrigin, ok, read_head, seen};
use crate::support::pki::{Ca, Pair, PairFiles};
use crate::support::raw::{RawClient, request};
use crate::support::{SOON, TlsVersion, patiently, program, run_to_end};

/// A gateway that asks clients for a certificate, before an nginx that asks the gateway for one.
struct Mutual {
    gateway: Gateway,
    origin: Origin,
    /// What nginx reads from and writes to, under `down` and `up`.
    files: TempDir,
    cacert: PathBuf,
    alice: Pair,
    alice_files: PairFiles,
}

impl Mutual {
    fn start() -> Self {
        let files = TempDir::new().unwrap();
        let ca = Ca::root("CA");
        let root = files.path().display();
        let origin = Origin::nginx(&Nginx {
            directives: format!(
                "location /down/ {{ root {root}; }}
                 location /up/ {{ root {root}; dav_methods PUT; create_full_put_path on;
                                  client_max_body_size 0; }}"
            ),
            ..Nginx::mutual(ca.server("up.example.com"), ca.pem())
        });
        let gateway = Gateway::start();
        let pair = ca.server("api.example.com");
        let ssl = json!({
            "sni": "api.example.com",
            "cert": pair.cert,
            "key": pair.key,
            "client": {"ca": ca.pem()},
        });
        gateway.configure("/ssls/s", &ssl);
        let identity = ca.client("gateway");
        let alice = ca.client("alice");
        let upstream = json!({
            "scheme": "https",
            "nodes": {origin.node(): 1},
            "tls": {
                "client_cert": identity.cert,
                "client_key": identity.key,
                "verify": true,
                "ca_certs": [ca.pem()],
                "server_name": "up.example.com",
            },
        });
        gateway.configure("/routes/r", &json!({"uri": "/*", "upstream": upstream}));
        Self {
            cacert: ca.write(files.path(), "ca"),
            alice_files: alice.write(files.path(), "alice"),
            alice,
            gateway,
            origin,
            files,
        }
    }

    /// Connects as alice.
    #[track_caller]
    fn connect(&self, version: TlsVersion) -> RawClient {
        let client = self.gateway.tls("api.example.com", version);
        RawClient::connect_tls(&client.cert(&self.alice))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Runs curl for `path` with these arguments; gives status and HTTP version.
    #[track_caller]
    fn curl(&self, path: &str, args: &[&str], input: &Path) -> String {
        let port = self.gateway.https_port();
        let mut command = program("curl");
        command.args(["-q", "-sS", "--noproxy", "*", "--max-time", "50"]);
        command.args(["-w", "%{http_code} %{http_version}", "--cert"]);
        command
            .arg(&self.alice_files.cert)
            .arg("--key")
            .arg(&self.alice_files.key);
        command.arg("--cacert").arg(&self.cacert);
        command
            .arg("--resolve")
            .arg(format!("api.example.com:{port}:127.0.0.1"));
        command.args(args);
        if args.contains(&"-T") {
            command.arg(input);
        }
        command.arg(format!("https://api.example.com:{port}{path}"));
        let finished = run_to_end(command, b"", 6 * SOON);
        assert!(finished.status.success(), "{finished:?}");
        finished.stdout
    }
}

/// Writes a file of [`BIG`] random-looking bytes and gives its SHA-256.
fn write_big(path: &Path) -> Vec<u8> {
    let mut block = vec![0; MIB];
    rand_bytes(&mut block).unwrap();
    let mut file = File::create(path).unwrap();
    let mut hasher = Hasher::new(MessageDigest::sha256()).unwrap();
    for index in 0..BIG / MIB {
        // No two blocks are equal: one lost or doubled shows.
        block[..8].copy_from_slice(&index.to_be_bytes());
        file.write_all(&block).unwrap();
        hasher.update(&block).unwrap();
    }
    hasher.finish().unwrap().to_vec()
}

fn sha256(path: &Path) -> Vec<u8> {
    let mut hasher = Hasher::new(MessageDigest::sha256()).unwrap();
    io::copy(&mut File::open(path).unwrap(), &mut hasher).unwrap();
    hasher.finish().unwrap().to_vec()
}

#[test]
fn large_body_passes_down_through_tls_on_both_sides_in_bounded_memory() {
    let mutual = Mutual::start();
    fs::create_dir(mutual.path("down")).unwrap();
    let digest = write_big(&mutual.path("down/big"));
    fs::write(mutual.path("down/small"), "small").unwrap();
    let here = mutual.path("here");
    let to_here = here.to_str().unwrap();
    let down =
        |path: &str, protocol: &str| mutual.curl(path, &[protocol, "-o", to_here], Path::new(""));
    assert_eq!(down("/down/small", "--http1.1"), "200 1.1");
    assert_eq!(down("/down/small", "--http2"), "200 2");
    let before = peak(&mutual.gateway);
    for (protocol, said) in [("--http1.1", "200 1.1"), ("--http2", "200 2")] {
        assert_eq!(down("/down/big", protocol), said);
        assert_eq!(sha256(&here), digest, "{protocol}");
    }
    expect_room(&mutual.gateway, before);
    mutual
        .gateway
        .expect_record("all bytes are counted", |record| {
            field(record, "path") == Some("/down/big") && record["bytes_out"] == BIG
        });
}

#[test]
fn large_body_passes_up_through_tls_on_both_sides_in_bounded_memory() {
    let mutual = Mutual::start();
    let big = mutual.path("big");
    let digest = write_big(&big);
    let small = mutual.path("small");
    fs::write(&small, "small").unwrap();
    let up = |name: &str, args: &[&str], file: &Path| {
        let args: Vec<&str> = args.iter().copied().chain(["-T"]).collect();
        mutual.curl(&format!("/up/{name}"), &args, file)
    };
    assert_eq!(up("small", &["--http1.1"], &small), "201 1.1");
    assert_eq!(up("small2", &["--http2"], &small), "201 2");
    assert_eq!(fs::read(mutual.path("up/small")).unwrap(), b"small");
    let before = peak(&mutual.gateway);
    for (name, args, said) in [
        ("length", &["--http1.1"][..], "201 1.1"),
        (
            "chunks",
            &["--http1.1", "-H", "Transfer-Encoding: chunked"][..],
            "201 1.1",
        ),
        ("h2", &["--http2"][..], "201 2"),
    ] {
        assert_eq!(up(name, args, &big), said);
        assert_eq!(sha256(&mutual.path("up").join(name)), digest, "{name}");
    }
    expect_room(&mutual.gateway, before);
    mutual
        .gateway
        .expect_record("all bytes are counted", |record| {
            field(record, "path") == Some("/up/length") && record["bytes_in"] == BIG
        });
}

/// Puts a route for all paths to one plain node.
#[track_caller]
fn lead_to(gateway: &Gateway, node: &str) {
    gateway.configure(
        "/routes/r",
        &json!({"uri": "/*", "upstream": {"nodes": {node: 1}}}),
    );
}

/// Makes the gateway serve TLS for `h`.
#[track_caller]
fn serve_tls(gateway: &Gateway) {
    let pair = Ca::root("CA").server("h");
    let ssl = json!({"sni": "h", "cert": pair.cert, "key": pair.key});
    gateway.configure("/ssls/s", &ssl);
}

#[test]
fn client_that_stops_reading_holds_the_upstream_back() {
    let (stalled, stall) = mpsc::channel();
    let stalled = Mutex::new(stalled);
    let origin = TcpOrigin::serving(move |mut conn| {
        let stalled = stalled.lock().unwrap().clone();
        while read_head(&mut conn).ends_with("\r\n\r\n") {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BIG}\r\n\r\n");
            conn.write_all(head.as_bytes()).unwrap();
            pour(&conn, &stalled);
        }
    });
    let gateway = Gateway::start();
    lead_to(&gateway, &origin.node());
    serve_tls(&gateway);
    let before = peak(&gateway);
    for mut client in [
        gateway.connect(),
        RawClient::connect_tls(&gateway.tls("h", TlsVersion::V13)),
    ] {
        client.send(request("GET", "h", "/", &[]));
        let poured = stall
            .recv_timeout(2 * SOON)
            .expect("the upstream is held back");
        assert!(poured < BIG / 2, "{} MiB were taken", poured / MIB);
        // It reads on, and nothing was lost.
        let reply = client.read_reply().expect_status(200);
        assert_eq!(reply.body.len(), BIG);
    }
    expect_room(&gateway, before);
}

#[test]
fn upstream_that_stops_reading_holds_the_client_back() {
    let (go, going) = mpsc::channel();
    let going = Mutex::new(going);
    let origin = TcpOrigin::serving(move |mut conn| {
        read_head(&mut conn);
        going.lock().unwrap().recv().unwrap();
        let body = (&mut conn).take(BIG.try_into().unwrap());
        let count = io::copy(&mut { body }, &mut io::sink()).unwrap();
        drop(conn.write_all(&ok(&count.to_string())));
    });
    let gateway = Gateway::start();
    lead_to(&gateway, &origin.node());
    let before = peak(&gateway);
    let mut conn = TcpStream::connect((Ipv4Addr::LOCALHOST, gateway.port("http"))).unwrap();
    let length = format!("Content-Length: {BIG}");
    conn.write_all(request("POST", "h", "/", &[&length]).as_bytes())
        .unwrap();
    let (stalled, stall) = mpsc::channel();
    let pouring = {
        let conn = conn.try_clone().unwrap();
        thread::spawn(move || pour(&conn, &stalled))
    };
    let poured = stall
        .recv_timeout(2 * SOON)
        .expect("the client is held back");
    assert!(poured < BIG / 2, "{} MiB were taken", poured / MIB);
    go.send(()).unwrap();
    pouring.join().unwrap();
    conn.set_read_timeout(Some(SOON)).unwrap();
    let head = read_head(&mut conn);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut body = vec![0; BIG.to_string().len()];
    conn.read_exact(&mut body).unwrap();
    assert_eq!(body, BIG.to_string().as_bytes());
    expect_room(&gateway, before);
}

#[test]
fn client_that_never_reads_on_is_cut_off() {
    let (told, ended) = mpsc::channel();
    let told = Mutex::new(told);
    let origin = TcpOrigin::serving(move |mut conn| {
        let head = read_head(&mut conn);
        let length = format!("HTTP/1.1 200 OK\r\nContent-Length: {BIG}\r\n\r\n");
        conn.write_all(length.as_bytes()).unwrap();
        pour(&conn, &mpsc::channel().0);
        drop(told.lock().unwrap().send(head));
    });
    let gateway = Setup::default().set("limits.body_timeout", "300ms").start();
    lead_to(&gateway, &origin.node());
    let mut client = gateway.connect();
    client.send(request("GET", "h", "/stuck", &[]));
    let head = ended.recv_timeout(SOON).expect("the upstream is let go");
    assert!(head.starts_with("GET /stuck "), "{head}");
    let record = gateway.expect_record("its cause", |record| {
        field(record, "path") == Some("/stuck")
    });
    assert_eq!(field(&record, "reason"), Some("client_timeout"), "{record}");
    let reply = client.read_reply();
    assert!(!reply.is_whole);
    // The request is all that there is to tell of.
    let records = gateway.stop().records;
    assert_eq!(records.len(), 1, "{records:#?}");
}

#[test]
fn chunks_pass_both_ways_as_they_come() {
    let origin = TcpOrigin::serving(|mut conn| {
        let head = read_head(&mut conn);
        assert!(
            head.to_ascii_lowercase()
                .contains("transfer-encoding: chunked"),
            "{head}"
        );
        conn.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .unwrap();
        // Every chunk is sent back before the next one is read.
        let mut chunk = [0; 10];
        while conn.read_exact(&mut chunk[..5]).is_ok() && chunk[0] != b'0' {
            conn.read_exact(&mut chunk[5..]).unwrap();
            conn.write_all(&chunk).unwrap();
        }
        drop(conn.write_all(b"0\r\n\r\n"));
    });
    let gateway = Gateway::start();
    lead_to(&gateway, &origin.node());
    serve_tls(&gateway);
    let over_tls = |version| RawClient::connect_tls(&gateway.tls("h", version));
    for mut client in [
        gateway.connect(),
        over_tls(TlsVersion::V12),
        over_tls(TlsVersion::V13),
    ] {
        client.send(request("POST", "h", "/", &["Transfer-Encoding: chunked"]));
        client.send("5\r\none..\r\n");
        let reply = client.read_bodiless();
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(
            reply.header("transfer-encoding"),
            Some("chunked"),
            "{reply:?}"
        );
        assert_eq!(client.read_text(10), "5\r\none..\r\n");
        client.send("5\r\ntwo..\r\n");
        assert_eq!(client.read_text(10), "5\r\ntwo..\r\n");
        client.send("0\r\n\r\n");
        assert_eq!(client.read_text(5), "0\r\n\r\n");
    }
}

#[test]
fn body_of_nothing_and_of_one_byte_pass_in_both_framings() {
    let origin = TcpOrigin::talking(|head| {
        match head.split(' ').nth(1) {
        Some("/length/0") => b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(),
        Some("/chunks/0") => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
        Some("/chunks/1") => {
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x=y\r\na\r\n0\r\nX-Sum: 1\r\n\r\n"
                .to_vec()
        }
        _ => ok("a"),
    }
    });
    let gateway = Gateway::start();
    lead_to(&gateway, &origin.node());
    let mut client = gateway.connect();
    for (target, body) in [
        ("/length/0", ""),
        ("/chunks/0", ""),
        ("/length/1", "a"),
        ("/chunks/1", "a"),
    ] {
        let reply = client.get("h", target, &[]).expect_status(200);
        assert_eq!(reply.text(), body, "{target}");
    }
}

#[test]
fn requests_of_one_connection_share_one_upstream_connection() {
    let mutual = Mutual::start();
    for version in TlsVersion::ALL {
        let mut client = mutual.connect(version);
        let mut connections: Vec<String> = (0..200)
            .map(|_| {
                let reply = client.get("api.example.com", "/", &[]).expect_status(200);
                seen(&reply.text(), "connection").to_owned()
            })
            .collect();
        connections.dedup();
        assert_eq!(connections.len(), 1, "{connections:?}");
    }
    assert_eq!(mutual.origin.error_log().matches("[error]").count(), 0);
}

#[test]
fn answer_with_trailers_is_whole_and_its_connection_is_kept() {
    let opened = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&opened);
    let origin = TcpOrigin::serving(move |mut conn| {
        count.fetch_add(1, Ordering::AcqRel);
        while !read_head(&mut conn).is_empty() {
            let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            let content = "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n";
            drop(conn.write_all(format!("{answer}{content}").as_bytes()));
        }
    });
    let gateway = Gateway::start();
    lead_to(&gateway, &origin.node());
    let mut client = gateway.connect();
    for number in 0..3 {
        let path = format!("/{number}");
        let reply = client.get("a", &path, &[]).expect_status(200);
        assert_eq!(reply.text(), "hello");
        let record = gateway.expect_record(&path, |record| field(record, "path") == Some(&path));
        assert_eq!(field(&record, "reason"), None, "{record}");
    }
    assert_eq!(opened.load(Ordering::Acquire), 1);
}

#[test]
fn pool_keeps_what_keepalive_pool_allows() {
    patiently(|limit| {
        let (told, ended) = mpsc::channel();
        let told = Mutex::new(told);
        let origin = TcpOrigin::serving(move |mut conn| {
            let mut served = 0;
            while read_head(&mut conn).ends_with("\r\n\r\n") {
                served += 1;
                drop(conn.write_all(&ok("x")));
            }
            told.lock().unwrap().send(served).ok();
        });
        let gateway = Setup::default().set("workers", "1").start();
        let configure = |pool: Value| {
            let upstream = json!({"nodes": {origin.node(): 1}, "keepalive_pool": pool});
            gateway.configure("/routes/r", &json!({"uri": "/*", "upstream": upstream}));
        };
        let mut client = gateway.connect();
        configure(json!({"requests": 3}));
        for _ in 0..6 {
            client.get("h", "/", &[]).expect_status(200);
        }
        for _ in 0..2 {
            assert_eq!(ended.recv_timeout(SOON), Ok(3));
        }
        // An idle connection ends by itself.
        configure(json!({"idle_timeout": limit.as_secs_f64()}));
        for _ in 0..4 {
            client.get("h", "/", &[]).expect_status(200);
        }
        assert_eq!(ended.recv_timeout(SOON), Ok(4));
    });
}

#[test]
fn parked_connection_serves_its_next_request() {
    let mutual = Mutual::start();
    let plain = TcpOrigin::echoing();
    let open = Gateway::start();
    lead_to(&open, &plain.node());
    for mut client in [
        open.connect(),
        mutual.connect(TlsVersion::V12),
        mutual.connect(TlsVersion::V13),
    ] {
        client.get("api.example.com", "/0", &[]).expect_status(200);
        for turn in 1..=3 {
            idle(Duration::from_millis(350));
            let target = format!("/{turn}");
            // The first bytes wake it; the rest comes later.
            let text = request("GET", "api.example.com", &target, &[]);
            let (first, rest) = text.split_at(turn);
            client.send(first);
            idle(Duration::from_millis(50));
            client.send(rest);
            let reply = client.read_reply().expect_status(200);
            assert!(reply.text().contains(&target), "{reply:?}");
        }
        // Two at once, out of the park.
        idle(Duration::from_millis(350));
        let text = request("GET", "api.example.com", "/pipelined", &[]);
        client.send(format!("{text}{text}"));
        for _ in 0..2 {
            client.read_reply().expect_status(200);
        }
    }
}

#[test]
fn parked_connection_of_http2_serves_its_next_requests() {
    let mutual = Mutual::start();
    fs::create_dir(mutual.path("down")).unwrap();
    fs::write(mutual.path("down/page"), "a page").unwrap();
    for version in TlsVersion::ALL {
        let client = mutual.gateway.tls("api.example.com", version);
        let mut conn = H2Conn::connect(&client.cert(&mutual.alice)).unwrap();
        for _ in 0..3 {
            let page = conn.get("api.example.com", "/down/page").unwrap();
            assert_eq!((page.status, &page.body[..]), (200, "a page"));
            // Two at once, out of the park.
            let begin =
                |conn: &mut H2Conn| conn.begin("GET", "api.example.com", "/down/page", true);
            let both = [begin(&mut conn).unwrap(), begin(&mut conn).unwrap()];
            for stream in both {
                assert_eq!(conn.read(stream).unwrap().body, "a page");
            }
            idle(Duration::from_millis(350));
        }
    }
}

/// Lets time pass in which nothing is sent: what the gateway does with idle connections is tested.
fn idle(time: Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        thread::park_timeout(left);
    }
}
