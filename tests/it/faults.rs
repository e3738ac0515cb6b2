//! Peers that break off, keep silent or contradict themselves, on either side.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::openssl_s_client;
use crate::support::frames::HELLO;
use crate::support::gateway::{Gateway, Setup, field};
use crate::support::origin::{ClosedPort, TcpOrigin, ok, read_head};
use crate::support::pki::Ca;
use crate::support::raw::{RawClient, header, request};
use crate::support::tls::reset;
use crate::support::{SOON, TlsVersion, eventually, patiently, setting};

/// So many of [`pause`] are longer than the limit they are of.
const PAUSES: usize = 40;
/// What takes no longer than this was ended by a limit of the test, not by a default of a minute.
const PROMPT: Duration = Duration::from_secs(40);

/// Well within a limit.
fn pause(limit: Duration) -> Duration {
    limit.mul_f64(1.1) / PAUSES as u32
}

/// Puts a route for all paths to an upstream.
#[track_caller]
fn lead_to(gateway: &Gateway, upstream: &Value) {
    gateway.configure("/routes/r", &json!({"uri": "/*", "upstream": upstream}));
}

#[track_caller]
fn expect_reason(gateway: &Gateway, path: &str, reason: &str) -> Value {
    let record = gateway.expect_record(path, |record| field(record, "path") == Some(path));
    assert_eq!(field(&record, "reason"), Some(reason), "{record}");
    record
}

/// A gateway where this may take so long.
fn limited(what: &str, limit: Duration) -> Gateway {
    Setup::default().set(what, &setting(limit)).start()
}

/// A gateway with one worker, so that requests meet the connections that earlier ones left.
fn one_worker() -> Gateway {
    Setup::default().set("workers", "1").start()
}

/// Writes a byte at a time, so that each limit between two bytes is met.
fn drip(client: &mut RawClient, text: &str, limit: Duration) {
    for byte in text.bytes() {
        client.send([byte]);
        thread::park_timeout(pause(limit));
    }
}

/// The same, until the gateway answers or ends the connection: whether it did before all was written.
fn is_cut_while_it_drips(client: &mut RawClient, text: &str, limit: Duration) -> bool {
    text.bytes().any(|byte| {
        client.send([byte]);
        client.read_some_within(pause(limit))
    })
}

/// An origin that answers the first request of a connection and breaks off at the second, or in what
/// it says to it.
struct Fickle {
    origin: TcpOrigin,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Fickle {
    fn start(begun: &'static str) -> Self {
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&heads);
        let origin = TcpOrigin::serving(move |mut conn| {
            let note = |head| seen.lock().expect("no holder panics").push(head);
            note(read_head(&mut conn));
            if conn.write_all(&ok("served")).is_ok() {
                let head = read_head(&mut conn);
                if !head.is_empty() {
                    note(head);
                    drop(conn.write_all(begun.as_bytes()));
                }
            }
        });
        Self { origin, heads }
    }

    /// How often a request for this path arrived.
    fn count(&self, path: &str) -> usize {
        let heads = self.heads.lock().expect("no holder panics");
        let is_for = |head: &&String| head.split(' ').nth(1) == Some(path);
        heads.iter().filter(is_for).count()
    }
}

#[test]
fn request_lost_on_a_kept_connection_is_repeated_only_where_that_is_safe() {
    let fickle = Fickle::start("");
    let gateway = one_worker();
    lead_to(&gateway, &json!({"nodes": {fickle.origin.node(): 1}}));
    let mut client = gateway.connect();
    let mut ask = |method: &str, path: &str, body: Option<&str>| {
        // Leaves a connection in the pool that breaks off at its next request.
        client.get("h", "/warm", &[]).expect_status(200);
        let length = body.map(|body| format!("Content-Length: {}", body.len()));
        let lines: Vec<&str> = length.iter().map(String::as_str).collect();
        client.send(request(method, "h", path, &lines) + body.unwrap_or_default());
        client.read_reply().status
    };
    for (method, path, body, status, count) in [
        ("GET", "/get", None, 200, 2),
        ("DELETE", "/delete", None, 200, 2),
        ("PUT", "/put-nothing", Some(""), 200, 2),
        ("POST", "/post", Some("once"), 502, 1),
        ("POST", "/post-nothing", Some(""), 502, 1),
        ("PATCH", "/patch", Some("once"), 502, 1),
        ("PUT", "/put", Some("twice"), 200, 2),
    ] {
        assert_eq!(ask(method, path, body), status, "{method} {path}");
        assert_eq!(fickle.count(path), count, "{method} {path}");
        if status == 502 {
            expect_reason(&gateway, path, "upstream_reset");
        }
    }
}

#[test]
fn kept_connection_on_which_an_answer_began_was_not_over() {
    for (begun, status, count) in [
        ("", 200, 2),
        ("HTTP/1.1 103 Early Hints\r\n\r\n", 502, 1),
        ("HTTP/1.1 200 OK\r\nContent-Le", 502, 1),
    ] {
        let fickle = Fickle::start(begun);
        let gateway = one_worker();
        lead_to(&gateway, &json!({"nodes": {fickle.origin.node(): 1}}));
        let mut client = gateway.connect();
        client.get("h", "/warm", &[]).expect_status(200);
        assert_eq!(client.get("h", "/get", &[]).status, status, "{begun}");
        assert_eq!(fickle.count("/get"), count, "{begun}");
    }
}

#[test]
fn connection_that_ended_while_idle_is_not_used() {
    let origin = TcpOrigin::answering(ok("served"));
    let gateway = one_worker();
    lead_to(&gateway, &json!({"nodes": {origin.node(): 1}}));
    let mut client = gateway.connect();
    for _ in 0..20 {
        client.get("h", "/", &[]).expect_status(200);
    }
    assert_eq!(origin.heads().len(), 20);
}

#[test]
fn upstream_that_breaks_off_in_its_body_leaves_an_answer_that_is_not_whole() {
    let gateway = Gateway::start();
    let pair = Ca::root("CA").server("h");
    let ssl = json!({"sni": "h", "cert": pair.cert, "key": pair.key});
    gateway.configure("/ssls/s", &ssl);
    for (case, answer, resets) in [
        ("short", "Content-Length: 10\r\n\r\nhello", false),
        ("reset", "Content-Length: 10\r\n\r\nhello", true),
        (
            "cut-chunk",
            "Transfer-Encoding: chunked\r\n\r\na\r\nhello",
            false,
        ),
        (
            "no-last-chunk",
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            false,
        ),
        (
            "bad-chunk",
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
            false,
        ),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{answer}");
        let (has_begun, begun) = mpsc::channel();
        let begun = Mutex::new(begun);
        let origin = TcpOrigin::serving(move |mut conn| {
            read_head(&mut conn);
            drop(conn.write_all(answer.as_bytes()));
            if resets {
                // A reset overtakes what was sent; the gateway is to have read that.
                let _ = begun.lock().expect("no holder panics").recv();
                reset(&conn);
            }
        });
        lead_to(&gateway, &json!({"nodes": {origin.node(): 1}}));
        for (wire, mut client) in [
            ("plain", gateway.connect()),
            (
                "tls",
                RawClient::connect_tls(&gateway.tls("h", TlsVersion::V13)),
            ),
        ] {
            let path = format!("/{wire}-{case}");
            client.send(request("GET", "h", &path, &[]));
            let head = client.read_bodiless();
            has_begun.send(()).expect("the origin is there");
            let reply = client.read_rest(head);
            assert_eq!(
                (reply.status, reply.is_whole),
                (200, false),
                "{path}: {reply:?}"
            );
            assert!(b"hello".starts_with(&reply.body[..]), "{path}: {reply:?}");
            assert!(client.is_ended(), "{path}");
            let record = expect_reason(&gateway, &path, "upstream_reset");
            assert_eq!(record["status"], 200, "{record}");
        }
    }
    let whole = TcpOrigin::answering(ok("hello"));
    lead_to(&gateway, &json!({"nodes": {whole.node(): 1}}));
    gateway.connect().get("h", "/", &[]).expect_status(200);
}

/// Without a length only TLS can tell the end from a break (RFC 9112 §8).
#[test]
fn broken_answer_without_length_ends_without_close_notify() {
    let gateway = Gateway::start();
    let pair = Ca::root("CA").server("h");
    let ssl = json!({"sni": "h", "cert": pair.cert, "key": pair.key});
    gateway.configure("/ssls/s", &ssl);
    for version in ["-tls1_2", "-tls1_3"] {
        for (rest, is_whole) in [("", false), ("0\r\n\r\n", true)] {
            let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
            let origin = TcpOrigin::answering(format!("{chunks}{rest}"));
            lead_to(&gateway, &json!({"nodes": {origin.node(): 1}}));
            let request = "GET / HTTP/1.0\r\nHost: h\r\n\r\n";
            let args = ["-servername", "h", "-quiet", version];
            let finished = openssl_s_client(gateway.https_port(), &args, request);
            assert!(finished.stdout.ends_with("\r\n\r\nhello"), "{finished:?}");
            let is_broken = finished.stderr.contains("unexpected eof");
            assert_eq!(!is_broken, is_whole, "{finished:?}");
        }
    }
}

#[test]
fn answer_that_ends_with_its_connection_is_whole() {
    let origin = TcpOrigin::answering("HTTP/1.1 200 OK\r\n\r\nhello");
    let gateway = Gateway::start();
    lead_to(&gateway, &json!({"nodes": {origin.node(): 1}}));
    let mut client = gateway.connect();
    for _ in 0..2 {
        let reply = client.get("h", "/", &[]).expect_status(200);
        assert_eq!(reply.text(), "hello");
    }
}

#[test]
fn upstream_that_is_no_http_server_is_502() {
    let gateway = Gateway::start();
    for (case, answer) in [
        ("banner", "SSH-2.0-OpenSSH_9.2\r\n"),
        ("status", "HTTP/1.1 two hundred\r\n\r\n"),
        ("header", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n"),
        (
            "lengths",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        ),
        ("length", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
        (
            "both",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
        ),
        (
            "coding",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
        ),
    ] {
        let origin = TcpOrigin::answering(answer);
        lead_to(&gateway, &json!({"nodes": {origin.node(): 1}}));
        let path = format!("/{case}");
        let reply = gateway.connect().get("h", &path, &[]);
        assert_eq!(reply.status, 502, "{case}: {reply:?}");
        expect_reason(&gateway, &path, "upstream_protocol_error");
    }
    let closing = TcpOrigin::closing();
    lead_to(&gateway, &json!({"nodes": {closing.node(): 1}}));
    let reply = gateway.connect().get("h", "/closing", &[]);
    assert_eq!(reply.status, 502, "{reply:?}");
    expect_reason(&gateway, "/closing", "upstream_reset");
}

/// For upstreams that say nothing: nothing has to keep to it.
const SHORT: Duration = Duration::from_millis(300);

/// An upstream of this node that must say something within `limit`.
fn impatient(node: &str, limit: Duration) -> Value {
    let limit = limit.as_secs_f64();
    json!({
        "nodes": {node: 1},
        "timeout": {"connect": 60, "send": limit, "read": limit},
    })
}

#[test]
fn silent_upstream_is_504_and_a_slow_one_is_served() {
    let gateway = Gateway::start();
    let silent = TcpOrigin::silent();
    lead_to(&gateway, &impatient(&silent.node(), SHORT));
    let mut client = gateway.connect();
    for (method, path, body) in [("GET", "/get", ""), ("POST", "/post", "hello")] {
        let started = Instant::now();
        let length = format!("Content-Length: {}", body.len());
        client.send(request(method, "h", path, &[&length]) + body);
        let reply = client.read_reply().expect_status(504);
        assert!(reply.text().contains("504 Gateway Time-out"), "{reply:?}");
        assert!(started.elapsed() < PROMPT, "{:?}", started.elapsed());
        expect_reason(&gateway, path, "upstream_timeout");
    }
    patiently(|limit| {
        let slow = TcpOrigin::serving(move |mut conn| {
            read_head(&mut conn);
            let answer = ok("slow");
            assert!(answer.len() >= PAUSES, "it takes longer than the limit");
            for byte in answer {
                thread::park_timeout(pause(limit));
                drop(conn.write_all(&[byte]));
            }
        });
        lead_to(&gateway, &impatient(&slow.node(), limit));
        let reply = gateway.connect().get("h", "/slow", &[]).expect_status(200);
        assert_eq!(reply.text(), "slow");
    });
}

#[test]
fn upstream_that_falls_silent_in_its_body_is_not_waited_for() {
    patiently(|limit| {
        let gateway = Gateway::start();
        let origin = TcpOrigin::serving(|mut conn| {
            read_head(&mut conn);
            drop(conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"));
            drop(io::copy(&mut conn, &mut io::sink()));
        });
        lead_to(&gateway, &impatient(&origin.node(), limit));
        let started = Instant::now();
        let mut client = gateway.connect();
        let reply = client.get("h", "/x", &[]);
        assert_eq!((reply.status, reply.is_whole), (200, false), "{reply:?}");
        assert!(started.elapsed() < PROMPT, "{:?}", started.elapsed());
        expect_reason(&gateway, "/x", "upstream_timeout");
    });
}

#[test]
fn clients_body_may_be_slow_but_not_silent() {
    patiently(|limit| {
        let origin = TcpOrigin::echoing();
        let gateway = limited("limits.body_timeout", limit);
        // A read limit that the client's body outlasts: waiting for the client is not the upstream's fault.
        lead_to(&gateway, &impatient(&origin.node(), limit));
        let head = |path: &str| {
            let length = format!("Content-Length: {PAUSES}");
            request("POST", "h", path, &[&length])
        };

        let mut client = gateway.connect();
        client.send(head("/slow"));
        drip(&mut client, &"x".repeat(PAUSES), limit);
        client.read_reply().expect_status(200);

        let started = Instant::now();
        let mut client = gateway.connect();
        client.send(head("/silent"));
        client.send("123");
        let reply = client.read_reply();
        assert_eq!(reply.status, 408, "{reply:?}");
        assert!(client.is_ended());
        assert!(started.elapsed() < PROMPT, "{:?}", started.elapsed());
        expect_reason(&gateway, "/silent", "client_timeout");
        assert!(
            origin.heads().len() <= 2,
            "what was cut off is not repeated"
        );
    });
}

#[test]
fn client_that_drips_its_head_or_says_nothing_is_cut_off() {
    patiently(|limit| {
        let origin = TcpOrigin::echoing();
        let gateway = limited("limits.header_timeout", limit);
        lead_to(&gateway, &json!({"nodes": {origin.node(): 1}}));
        let pair = Ca::root("CA").server("h");
        let ssl = json!({"sni": "h", "cert": pair.cert, "key": pair.key});
        gateway.configure("/ssls/s", &ssl);
        let connect: [&dyn Fn() -> RawClient; 2] = [&|| gateway.connect(), &|| {
            RawClient::connect_tls(&gateway.tls("h", TlsVersion::V13))
        }];
        for connect in connect {
            let started = Instant::now();
            let mut silent = connect();
            assert!(silent.is_ended());

            let mut dripping = connect();
            // Longer than the limit, and cut while it comes.
            let head = format!("GET /{}", "x".repeat(2 * PAUSES));
            assert!(is_cut_while_it_drips(&mut dripping, &head, limit));
            assert!(dripping.is_ended());

            let mut second = connect();
            second.get("h", "/first", &[]).expect_status(200);
            let head = format!("GET /second{}", "x".repeat(2 * PAUSES));
            assert!(is_cut_while_it_drips(&mut second, &head, limit));
            assert!(second.is_ended());
            assert!(started.elapsed() < PROMPT, "{:?}", started.elapsed());

            let mut prompt = connect();
            prompt.send("GET / HTTP/1.1\r\n");
            thread::park_timeout(pause(limit));
            prompt.send("Host: h\r\n\r\n");
            prompt.read_reply().expect_status(200);
        }
        gateway.expect_record("a cut is recorded", |record| {
            field(record, "reason") == Some("client_timeout")
        });
        assert!(origin.heads().iter().all(|head| !head.contains("second")));
    });
}

#[test]
fn connection_without_a_next_request_is_closed_after_the_idle_time() {
    patiently(|limit| {
        let origin = TcpOrigin::echoing();
        let gateway = limited("limits.idle_timeout", limit);
        lead_to(&gateway, &json!({"nodes": {origin.node(): 1}}));
        let mut client = gateway.connect();
        for _ in 0..PAUSES {
            client.get("h", "/", &[]).expect_status(200);
            thread::park_timeout(pause(limit));
        }
        let started = Instant::now();
        assert!(client.is_ended());
        assert!(started.elapsed() < PROMPT, "{:?}", started.elapsed());
        let complaints = gateway.records();
        let complaint = complaints
            .iter()
            .find(|record| record.get("reason").is_some());
        assert_eq!(complaint, None, "an idle client did nothing wrong");
    });
}

#[test]
fn client_that_leaves_takes_the_upstreams_connection_with_it() {
    let (told, heard) = mpsc::channel();
    let told = Mutex::new(told);
    let origin = TcpOrigin::serving(move |mut conn| {
        let tell = |word: String| drop(told.lock().expect("no holder panics").send(word));
        tell(read_head(&mut conn));
        drop(io::copy(&mut conn, &mut io::sink()));
        tell("ended".to_owned());
    });
    let gateway = Gateway::start();
    lead_to(&gateway, &json!({"nodes": {origin.node(): 1}}));
    let mut client = gateway.connect();
    client.send(request("GET", "h", "/left", &[]));
    // The request is on its way before its client leaves.
    let head = heard.recv_timeout(SOON).expect("it reaches the upstream");
    assert!(head.starts_with("GET /left "), "{head}");
    drop(client);
    let end = heard.recv_timeout(SOON);
    assert_eq!(
        end.as_deref(),
        Ok("ended"),
        "the upstream's connection ends"
    );
    expect_reason(&gateway, "/left", "client_gone");
}

#[test]
fn node_that_refuses_is_passed_over() {
    let working = TcpOrigin::echoing();
    let closed = ClosedPort::new();
    let gone = closed.node();
    let gateway = one_worker();
    let nodes = |retries: Option<u32>| {
        let mut upstream = json!({"nodes": {gone.as_str(): 1, working.node(): 1}});
        if let Some(retries) = retries {
            upstream["retries"] = retries.into();
        }
        upstream
    };
    let mut client = gateway.connect();
    let mut statuses = |count: usize| {
        let mut statuses: Vec<u16> = (0..count)
            .map(|turn| {
                // Never sent to the first node, so it may go to the second one whatever it is.
                let head = request("POST", "h", &format!("/{turn}"), &["Content-Length: 2"]);
                client.send(format!("{head}hi"));
                client.read_reply().status
            })
            .collect();
        statuses.sort_unstable();
        statuses
    };
    lead_to(&gateway, &nodes(None));
    assert_eq!(statuses(6), [200; 6]);
    lead_to(&gateway, &nodes(Some(1)));
    assert_eq!(statuses(6), [200; 6]);
    lead_to(&gateway, &nodes(Some(0)));
    assert_eq!(statuses(6), [200, 200, 200, 502, 502, 502]);
    lead_to(
        &gateway,
        &json!({"nodes": {gone.as_str(): 1}, "retries": 3}),
    );
    assert_eq!(client.get("h", "/gone", &[]).status, 502);
    expect_reason(&gateway, "/gone", "upstream_refused");
}

#[test]
fn host_follows_the_node_where_it_is_the_nodes() {
    let working = TcpOrigin::echoing();
    let closed = ClosedPort::new();
    let gateway = one_worker();
    let node = |host: &str, port: u16, priority: i64| json!({"host": host, "port": port, "weight": 1, "priority": priority});
    let mut client = gateway.connect();
    for (pass_host, host) in [
        ("node", format!("localhost:{}", working.port())),
        ("pass", "h".to_owned()),
    ] {
        lead_to(
            &gateway,
            &json!({
                "pass_host": pass_host,
                "nodes": [node("127.0.0.1", closed.port(), 1), node("localhost", working.port(), 0)],
            }),
        );
        let echo = client.get("h", "/", &[]).expect_status(200).text();
        assert_eq!(header(&echo, "host"), Some(&*host), "{echo}");
    }
}

#[test]
fn request_goes_to_another_node_only_until_one_has_answered() {
    let failing = |status: &'static str| {
        TcpOrigin::talking(move |_| {
            format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").into_bytes()
        })
    };
    let (first, second) = (failing("500 Sorry"), failing("503 Sorry"));
    let gateway = one_worker();
    lead_to(
        &gateway,
        &json!({"nodes": {first.node(): 1, second.node(): 1}}),
    );
    let mut client = gateway.connect();
    for _ in 0..4 {
        assert!(client.get("h", "/", &[]).status >= 500);
    }
    assert_eq!((first.heads().len(), second.heads().len()), (2, 2));
}

#[test]
fn silent_node_is_passed_over_for_what_may_be_repeated_within_retry_timeout() {
    let count = Arc::new(Mutex::new(0));
    let silent = || {
        let count = Arc::clone(&count);
        TcpOrigin::serving(move |mut conn| {
            if !read_head(&mut conn).is_empty() {
                *count.lock().expect("no holder panics") += 1;
            }
            drop(io::copy(&mut conn, &mut io::sink()));
        })
    };
    let (first, second) = (silent(), silent());
    let gateway = one_worker();
    let mut client = gateway.connect();
    for (method, retries, retry_timeout, tries, status) in [
        ("GET", 1, 0.0, 2, 504),
        ("GET", 1, 0.1, 1, 502),
        ("GET", 2, 0.0, 2, 502),
        ("POST", 1, 0.1, 1, 504),
    ] {
        let mut upstream = impatient(&first.node(), SHORT);
        upstream["nodes"] = json!({first.node(): 1, second.node(): 1});
        upstream["retries"] = retries.into();
        upstream["retry_timeout"] = retry_timeout.into();
        lead_to(&gateway, &upstream);
        client.send(request(method, "h", "/", &["Content-Length: 0"]));
        client.read_reply().expect_status(status);
        // Who was given up may read what it was sent only then; one too many is met by the next case.
        let case = format!("{method} {retries} {retry_timeout}: {tries} tries");
        let mut counted = 0;
        eventually(SOON, &case, || {
            counted += std::mem::take(&mut *count.lock().expect("no holder panics"));
            assert!(counted <= tries, "{case}");
            (counted == tries).then_some(())
        });
    }
    gateway.expect_record("told as such", |record| {
        field(record, "reason") == Some("upstream_retries_over")
    });
}

#[test]
fn request_that_could_be_read_in_two_ways_is_refused() {
    let origin = TcpOrigin::echoing();
    let gateway = Gateway::start();
    lead_to(&gateway, &json!({"nodes": {origin.node(): 1}}));
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    for lines in [
        "Content-Length: 0\r\nContent-Length: 5",
        "Content-Length: 0, 5",
        "Content-Length: 5 5",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 0x5",
        "Content-Length: 99999999999999999999",
        "Content-Length : 5",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding:\u{b}chunked",
        "X-Folded: a\r\n Transfer-Encoding: chunked",
        "X-Nul: a\0b",
        "X-Return: a\rContent-Length: 5",
        ": empty",
        "no colon",
    ] {
        let mut client = gateway.connect();
        client.send(format!(
            "POST /first HTTP/1.1\r\nHost: h\r\n{lines}\r\n\r\n{smuggled}"
        ));
        let reply = client.read_reply();
        assert_eq!(reply.status, 400, "{lines:?}: {reply:?}");
        assert!(client.is_ended(), "{lines:?}");
    }
    for line in [
        "POST /first HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.10\r\nHost: h\r\n\r\n",
        "GET / HTTP/0.9\r\nHost: h\r\n\r\n",
        "GET /\u{1} HTTP/1.1\r\nHost: h\r\n\r\n",
        "G(T / HTTP/1.1\r\nHost: h\r\n\r\n",
    ] {
        let mut client = gateway.connect();
        client.send(line);
        let reply = client.read_reply();
        assert_eq!(reply.status, 400, "{line:?}: {reply:?}");
        assert!(client.is_ended(), "{line:?}");
    }
    assert_eq!(
        origin.heads(),
        [""; 0],
        "nothing of it reaches the upstream"
    );
    gateway.expect_record("refused by its reason", |record| {
        field(record, "reason") == Some("request_invalid")
    });
    let mut client = gateway.connect();
    client.send("POST /first HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello");
    client.read_reply().expect_status(200);
}

#[test]
fn methods_that_no_gateway_serves_are_refused_as_by_nginx() {
    let gateway = Gateway::start();
    let origin = TcpOrigin::echoing();
    lead_to(&gateway, &json!({"nodes": {origin.node(): 1}}));
    for (method, target) in [("TRACE", "/"), ("CONNECT", "h:443"), ("CONNECT", "/")] {
        let mut client = gateway.connect();
        client.send(format!("{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let reply = client.read_reply();
        assert_eq!(reply.status, 405, "{method} {target}: {reply:?}");
        let allowed = reply.header("allow").unwrap();
        assert!(allowed.contains("GET, ") && !allowed.contains(method));
        assert!(client.is_ended(), "{method} {target}");
    }
    assert_eq!(origin.heads(), [""; 0], "nothing reaches the upstream");
    gateway.expect_record("refused by its reason", |record| {
        field(record, "reason") == Some("method_refused")
    });
    for method in ["OPTIONS", "PURGE"] {
        let mut client = gateway.connect();
        client.send(format!("{method} / HTTP/1.1\r\nHost: h\r\n\r\n"));
        client.read_reply().expect_status(200);
    }
}

/// RFC 9112 §6.3 leaves the choice: it is read as chunks and ends the connection.
#[test]
fn length_beside_chunks_counts_for_nothing_and_is_not_forwarded() {
    let gateway = Gateway::start();
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let origin = TcpOrigin::serving(move |mut conn| {
        let head = read_head(&mut conn);
        let mut body = [0; 15];
        drop(conn.read_exact(&mut body));
        drop(conn.write_all(&ok("served")));
        drop(tell.lock().expect("no holder panics").send((head, body)));
    });
    lead_to(&gateway, &json!({"nodes": {origin.node(): 1}}));
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    for lines in [
        "Content-Length: 60\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 60",
    ] {
        let mut client = gateway.connect();
        let body = format!("5\r\nhello\r\n0\r\n\r\n{smuggled}");
        client.send(format!(
            "POST /first HTTP/1.1\r\nHost: h\r\n{lines}\r\n\r\n{body}"
        ));
        client.read_reply().expect_status(200);
        assert!(client.is_ended(), "{lines:?}");
        let (head, body) = told.recv_timeout(SOON).expect("the origin got it");
        let head = head.to_ascii_lowercase();
        assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
        assert!(!head.contains("content-length"), "{head}");
        assert_eq!(&body, b"5\r\nhello\r\n0\r\n\r\n");
    }
    assert!(told.try_recv().is_err(), "the rest is no request");
}

#[test]
fn chunks_that_are_none_break_the_request_off() {
    let gateway = Gateway::start();
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let origin = TcpOrigin::serving(move |mut conn| {
        read_head(&mut conn);
        let mut body = Vec::new();
        drop(conn.read_to_end(&mut body));
        drop(tell.lock().expect("no holder panics").send(body));
    });
    lead_to(&gateway, &json!({"nodes": {origin.node(): 1}}));
    for (case, body) in [
        ("size", "xyz\r\nhello\r\n0\r\n\r\n"),
        ("sign", "+5\r\nhello\r\n0\r\n\r\n"),
        ("huge", "fffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
        ("end", "5\r\nhelloXX0\r\n\r\n"),
    ] {
        let path = format!("/{case}");
        let mut client = gateway.connect();
        client.send(request("POST", "h", &path, &["Transfer-Encoding: chunked"]));
        client.send(body);
        let reply = client.read_reply();
        assert_eq!(reply.status, 400, "{case}: {reply:?}");
        assert!(client.is_ended(), "{case}");
        let forwarded = told.recv_timeout(SOON).expect("its connection ends");
        assert!(!forwarded.ends_with(b"0\r\n\r\n"), "{case}: {forwarded:?}");
    }
}

#[test]
fn head_beyond_the_limit_is_refused() {
    let origin = TcpOrigin::echoing();
    let gateway = Setup::default().set("limits.header_bytes", "8192").start();
    lead_to(&gateway, &json!({"nodes": {origin.node(): 1}}));
    let big = format!("X-Big: {}", "x".repeat(6000));
    let mut client = gateway.connect();
    client.get("h", "/", &[&big]).expect_status(200);
    let bigger = format!("X-Big: {}", "x".repeat(9000));
    let reply = client.get("h", "/", &[&bigger]);
    assert_eq!(reply.status, 431, "{reply:?}");
    assert!(client.is_ended());
    assert_eq!(origin.heads().len(), 1);
    let record = gateway.expect_record("refused by its reason", |record| {
        field(record, "reason") == Some("request_head_too_large")
    });
    let detail = "its head has more than 8192 bytes";
    assert_eq!(field(&record, "detail"), Some(detail));
    // The client has the id that the record has.
    assert_eq!(record["status"], 431, "{record}");
    let id = field(&record, "request_id");
    assert_eq!(reply.header("x-portcullis-request-id"), id, "{record}");
    assert_eq!(reply.header("connection"), Some("close"), "{reply:?}");
    assert!(reply.header("date").is_some(), "{reply:?}");
    assert_eq!(record["bytes_out"], reply.text().len(), "{record}");
}

#[test]
fn line_beyond_the_limit_is_told_as_that_as_in_nginx() {
    let origin = TcpOrigin::echoing();
    let gateway = Setup::default().set("limits.header_bytes", "8192").start();
    lead_to(&gateway, &json!({"nodes": {origin.node(): 1}}));
    let long = "x".repeat(9000);
    for (line, status) in [
        (format!("GET /{} HTTP/1.1\r\n", &long[..6000]), 200),
        (format!("GET /{long} HTTP/1.1\r\n"), 414),
        (format!("GET /{long}{long}"), 414),
        (format!("{long} / HTTP/1.1\r\n"), 414),
        (format!("GET / HTTP/1.1\r\nX-Big: {long}\r\n"), 431),
    ] {
        for piece in [line.len(), 1000] {
            let mut client = gateway.connect();
            for piece in line.as_bytes().chunks(piece) {
                client.send(piece);
            }
            client.send("Host: h\r\n\r\n");
            let reply = client.read_reply().expect_status(status);
            assert_eq!(client.is_ended(), status != 200, "{}", line.len());
            let words = reply.text().contains("414 Request-URI Too Large");
            assert_eq!(words, status == 414, "{reply:?}");
        }
    }
    assert_eq!(origin.heads().len(), 2);
    let record = gateway.expect_record("refused by its reason", |record| {
        field(record, "reason") == Some("request_line_too_long")
    });
    let detail = "its request line has 8192 bytes or more";
    assert_eq!(field(&record, "detail"), Some(detail));
}

#[test]
fn versions_of_http_are_read_as_by_nginx() {
    let origin = TcpOrigin::echoing();
    let gateway = Gateway::start();
    lead_to(&gateway, &json!({"nodes": {origin.node(): 1}}));
    let pair = Ca::root("CA").server("h");
    let ssl = json!({"sni": "h", "cert": pair.cert, "key": pair.key});
    gateway.configure("/ssls/s", &ssl);
    for mut client in [
        gateway.connect(),
        RawClient::connect_tls(&gateway.tls("h", TlsVersion::V13)),
    ] {
        // Behind an answer, with a body, in pieces, and with the next request sent ahead.
        client.get("h", "/first", &[]).expect_status(200);
        let later = "POST /later HTTP/1.2\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello";
        client.send(format!("{later}{}", request("GET", "h", "/ahead", &[])));
        for path in ["/later", "/ahead"] {
            let echo = client.read_reply().expect_status(200).text();
            assert!(echo.contains(&format!(" {path} HTTP/1.1\r\n")), "{echo}");
        }
        client.send("GET /pieces HTTP/1.9\r\nHo");
        client.send("st: h\r\n\r\n");
        client.read_reply().expect_status(200);
        client.send("GET /refused HTTP/2.0\r\nHost: h\r\n\r\n");
        let reply = client.read_reply().expect_status(505);
        assert!(reply.text().contains("505 HTTP Version Not Supported"));
        assert!(client.is_ended());
    }
    let heads = origin.heads();
    assert_eq!(heads.len(), 8, "{heads:?}");
    gateway.expect_record("refused by its reason", |record| {
        field(record, "reason") == Some("http_version_refused")
    });
}

/// HTTP/2 is chosen before anything else is said; later it is a version like any other that is not
/// spoken (RFC 9113 §3.4).
#[test]
fn preface_of_http2_where_http_1_is_spoken_is_told_so() {
    let origin = TcpOrigin::echoing();
    let gateway = Gateway::start();
    lead_to(&gateway, &json!({"nodes": {origin.node(): 1}}));
    let pair = Ca::root("CA").server("h");
    let ssl = json!({"sni": "h", "cert": pair.cert, "key": pair.key});
    gateway.configure("/ssls/s", &ssl);
    let tls = gateway.tls("h", TlsVersion::V13);
    // In one piece, and cut where its second half still looks like a head's end.
    for pieces in [&[HELLO][..], &[&HELLO[..17], &HELLO[17..]]] {
        let mut served = gateway.connect();
        served.get("h", "/", &[]).expect_status(200);
        for mut client in [served, RawClient::connect_tls(&tls)] {
            for piece in pieces {
                client.send(piece);
            }
            let reply = client.read_reply().expect_status(505);
            assert!(client.is_ended());
            let id = reply.header("x-portcullis-request-id");
            let record =
                gateway.expect_record("the refusal", |record| field(record, "request_id") == id);
            assert_eq!(record["status"], 505, "{record}");
            assert_eq!(field(&record, "reason"), Some("http_version_refused"));
        }
    }
}

/// The answer is out before its request is: what is wrong with the next head is told all the same.
#[test]
fn head_that_cannot_be_read_behind_an_early_answer_gets_its_page() {
    let gateway = Gateway::start();
    for (bad, status) in [
        ("GET / HTTP/1.1\r\nHost h\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
    ] {
        for is_apart in [true, false] {
            let mut client = gateway.connect();
            client.send(request("POST", "h", "/none", &["Content-Length: 5"]));
            client.read_reply().expect_status(404);
            client.send("hello");
            if is_apart {
                // It is served, and so the body before it was read.
                client.get("h", "/", &[]).expect_status(404);
                client.send(request("POST", "h", "/none", &["Content-Length: 5"]));
                client.read_reply().expect_status(404);
                client.send("he");
                client.send(format!("llo{bad}"));
            } else {
                client.send(bad);
            }
            let reply = client.read_reply().expect_status(status);
            assert!(client.is_ended(), "{bad:?}");
            let id = reply.header("x-portcullis-request-id");
            assert!(id.is_some(), "{reply:?}");
            let record =
                gateway.expect_record("the refusal", |record| field(record, "request_id") == id);
            assert_eq!(record["status"], status, "{record}");
        }
    }
}

/// What follows a head that is refused is its body, or nothing: never a request.
#[test]
fn nothing_behind_a_head_that_cannot_be_read_is_served() {
    let origin = TcpOrigin::echoing();
    let gateway = Gateway::start();
    lead_to(&gateway, &json!({"nodes": {origin.node(): 1}}));
    for bad in [
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        "GET http://[bad/ HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.10\r\nHost: h\r\n\r\n",
    ] {
        for version in ["HTTP/1.1", "HTTP/1.2", "HTTP/3.0"] {
            let behind = format!("GET /smuggled {version}\r\nHost: h\r\n\r\n");
            for ahead in ["", "GET /ahead HTTP/1.1\r\nHost: h\r\n\r\n"] {
                let mut client = gateway.connect();
                client.send(format!("{ahead}{bad}{behind}"));
                if !ahead.is_empty() {
                    client.read_reply().expect_status(200);
                }
                client.read_reply().expect_status(400);
                assert!(client.is_ended(), "{bad} {version}");
            }
        }
    }
    let heads = origin.heads();
    assert!(heads.iter().all(|head| head.starts_with("GET /ahead ")));
    assert_eq!(heads.len(), 21, "{heads:?}");
}

/// A client of HTTP/1.0 need not say a host: it means where it came to.
#[test]
fn request_of_http_1_0_without_a_host_is_served_where_one_for_its_address_is() {
    let origin = TcpOrigin::echoing();
    let gateway = Gateway::start();
    let upstream = json!({"nodes": {origin.node(): 1}});
    let named = json!({"uri": "/*", "host": "h", "upstream": upstream});
    gateway.configure("/routes/named", &named);
    let ask = |line: &str, lines: &str| {
        let mut client = gateway.connect();
        client.send(format!("GET {line}\r\n{lines}\r\n"));
        client.read_reply()
    };
    let ours = format!("127.0.0.1:{}", gateway.port("http"));
    // A route with another host is none for it.
    assert_eq!(ask("/ HTTP/1.0", "").status, 404);
    lead_to(&gateway, &upstream);
    let echo = ask("/ HTTP/1.0", "").expect_status(200).text();
    assert_eq!(header(&echo, "host"), Some(&*ours), "{echo}");
    for (line, lines) in [
        ("/ HTTP/1.1", ""),
        ("/ HTTP/1.0", "Host:\r\n"),
        ("/ HTTP/1.0", "Host: h\r\nHost: h\r\n"),
        ("http://h/ HTTP/1.1", ""),
    ] {
        assert_eq!(ask(line, lines).status, 400, "{line} {lines}");
    }
    // Whoever is to show a certificate is no less so for saying nothing.
    let ca = Ca::root("CA");
    let pair = ca.server("h");
    let all = json!({"sni": "*", "cert": pair.cert, "key": pair.key, "client": {"ca": ca.pem()}});
    gateway.configure("/ssls/all", &all);
    for lines in ["", &format!("Host: {ours}\r\n")] {
        assert_eq!(ask("/ HTTP/1.0", lines).status, 421, "{lines}");
    }
    let open = json!({"sni": "h", "cert": pair.cert, "key": pair.key});
    gateway.configure("/ssls/open", &open);
    for version in TlsVersion::ALL {
        let tls = gateway.tls("h", version);
        let mut client = RawClient::connect_tls(&tls);
        client.send("GET / HTTP/1.0\r\n\r\n");
        let echo = client.read_reply().expect_status(200).text();
        assert_eq!(header(&echo, "host"), Some("h"), "{echo}");
        let alice = tls.sni("other").cert(&ca.client("alice"));
        let mut client = RawClient::connect_tls(&alice);
        client.send("GET / HTTP/1.0\r\n\r\n");
        let echo = client.read_reply().expect_status(200).text();
        assert_eq!(header(&echo, "host"), Some("other"), "{echo}");
    }
}

#[test]
fn empty_port_of_a_host_is_none() {
    let origin = TcpOrigin::echoing();
    let gateway = Gateway::start();
    let upstream = json!({"nodes": {origin.node(): 1}});
    let named = json!({"uri": "/*", "host": "h", "upstream": upstream});
    gateway.configure("/routes/named", &named);
    let mut client = gateway.connect();
    for target in ["/", "http://h:/"] {
        let echo = client.get("h:", target, &[]).expect_status(200).text();
        assert_eq!(header(&echo, "host"), Some("h"), "{echo}");
    }
    for host in [":", "h:80:", "h::"] {
        let reply = gateway.connect().get(host, "/", &[]);
        assert_eq!(reply.status, 400, "{host}: {reply:?}");
    }
}

#[test]
fn largest_head_is_the_same_in_one_piece_and_in_many() {
    let origin = TcpOrigin::echoing();
    let gateway = Gateway::start();
    lead_to(&gateway, &json!({"nodes": {origin.node(): 1}}));
    let head = |length: usize| {
        let shortest = request("GET", "h", "/", &["X-Big: "]).len();
        let line = format!("X-Big: {}", "x".repeat(length - shortest));
        request("GET", "h", "/", &[&line])
    };
    for (length, status) in [(32_768, 200), (32_769, 431), (40_000, 431)] {
        let head = head(length);
        assert_eq!(head.len(), length);
        for piece in [length, 5000] {
            let mut client = gateway.connect();
            for piece in head.as_bytes().chunks(piece) {
                client.send(piece);
            }
            assert_eq!(client.read_reply().status, status, "{length} by {piece}");
        }
    }
}

#[test]
fn head_of_too_many_lines_is_told_as_that_and_not_as_too_large() {
    let origin = TcpOrigin::echoing();
    for (gateway, most) in [
        (Gateway::start(), 100),
        (
            Setup::default().set("limits.header_lines", "150").start(),
            150,
        ),
    ] {
        lead_to(&gateway, &json!({"nodes": {origin.node(): 1}}));
        // Host is one of them.
        let mut client = gateway.connect();
        client
            .get("h", "/", &vec!["X-Line: 1"; most - 1])
            .expect_status(200);
        client
            .get("h", "/", &vec!["X-Line: 1"; most])
            .expect_status(431);
        assert!(client.is_ended());
        let record = gateway.expect_record("refused by its reason", |record| {
            field(record, "reason") == Some("request_head_too_large")
        });
        let detail = format!("its head has more than {most} header lines");
        assert_eq!(field(&record, "detail"), Some(&*detail));
    }
}

#[test]
fn target_that_is_too_long_is_told_as_that() {
    let origin = TcpOrigin::echoing();
    let gateway = Setup::default()
        .set("limits.header_bytes", "200000")
        .start();
    lead_to(&gateway, &json!({"nodes": {origin.node(): 1}}));
    let mut client = gateway.connect();
    let target = |length: usize| format!("/{}", "x".repeat(length - 1));
    client.get("h", &target(65_000), &[]).expect_status(200);
    client.get("h", &target(66_000), &[]).expect_status(414);
    let record = gateway.expect_record("refused by its reason", |record| {
        field(record, "reason") == Some("request_line_too_long")
    });
    let detail = "its target has more than 65534 bytes";
    assert_eq!(field(&record, "detail"), Some(detail));
}

#[test]
fn answer_before_the_body_is_complete_reaches_the_client() {
    let origin = TcpOrigin::answering(
        "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nno\n",
    );
    let gateway = Gateway::start();
    lead_to(&gateway, &json!({"nodes": {origin.node(): 1}}));
    let mut client = gateway.connect();
    client.send(request("POST", "h", "/up", &["Content-Length: 1000000"]));
    client.send(vec![b'x'; 1000]);
    let reply = client.read_reply().expect_status(413);
    assert_eq!(reply.text(), "no\n");
}
