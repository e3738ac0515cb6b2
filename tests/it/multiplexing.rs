//! Upstreams of HTTP/2 that answer early, go away, fall silent or change their minds.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use http::Request;
use serde_json::{Value, json};

use crate::support::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, OK, PING, RST_STREAM, SETTINGS, Server,
    WINDOW_UPDATE, frame, line,
};
use crate::support::gateway::field;
use crate::support::h2::{H2Conn, H2Stream};
use crate::support::memory::BIG;
use crate::support::origin::TcpOrigin;
use crate::support::raw::{RawClient, request};
use crate::support::site::Site;
use crate::support::upstream::record_of;
use crate::support::{LIMIT, SOON, eventually, patiently};

/// Where what is late is given up after [`LIMIT`], unless a test gives it longer; whoever is to answer in time
/// is asked elsewhere.
const LATE: &str = "/late";
/// The setting MAX_CONCURRENT_STREAMS (RFC 9113 §6.5.2).
const STREAMS: u8 = 3;
/// The setting INITIAL_WINDOW_SIZE.
const WINDOW: u8 = 4;

/// A gateway before an upstream that does `serve` with each connection, given its number, from 1,
/// and reads on to its end.
struct Case {
    site: Site,
    /// Its route, which has all the time that its upstream takes.
    route: Value,
    opened: Arc<AtomicUsize>,
    _origin: TcpOrigin,
}

impl Case {
    fn of(
        settings: &'static [(u8, u32)],
        serve: impl Fn(usize, &mut Server) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let opened = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&opened);
        let origin = TcpOrigin::serving(move |tcp| {
            let number = count.fetch_add(1, Ordering::AcqRel) + 1;
            // Its peer may go away at any time.
            let Ok(mut server) = Server::greet(tcp, settings) else {
                return;
            };
            if serve(number, &mut server).is_ok() {
                while server.next(GOAWAY).is_ok() {}
            }
        });
        let site = Site::start();
        let upstream = json!({
            "scheme": "grpc",
            "nodes": {origin.node(): 1},
        });
        let route = json!({"uri": "/*", "upstream": upstream});
        site.gateway.configure("/routes/all", &route);
        let case = Self {
            site,
            route,
            opened,
            _origin: origin,
        };
        case.wait_at(LATE, LIMIT);
        case
    }

    fn connect(&self) -> H2Conn {
        H2Conn::plain(self.site.gateway.port("http")).unwrap()
    }

    /// A route to the same upstream that has so long for each read.
    fn wait_at(&self, path: &str, limit: Duration) {
        let mut route = self.route.clone();
        let limit = limit.as_secs_f64();
        route["uri"] = json!(path);
        route["upstream"]["timeout"] = json!({"connect": 60, "send": limit, "read": limit});
        let id = format!("/routes{path}");
        self.site.gateway.configure(&id, &route);
    }

    /// How many connections the upstream got.
    fn opened(&self) -> usize {
        self.opened.load(Ordering::Acquire)
    }
}

/// Begins a request that is not idempotent.
fn post(conn: &mut H2Conn, whole: bool) -> H2Stream {
    post_to(conn, "/x", whole)
}

fn post_to(conn: &mut H2Conn, path: &str, whole: bool) -> H2Stream {
    let request = Request::post(format!("http://h.example{path}"));
    conn.send(request.body(()).unwrap(), whole).unwrap()
}

/// Sends one and gives the status of its answer.
#[track_caller]
fn ask(conn: &mut H2Conn) -> u16 {
    let stream = post(conn, true);
    conn.read(stream).unwrap().status
}

/// The same of one that is answered late.
#[track_caller]
fn ask_late(conn: &mut H2Conn) -> u16 {
    let stream = post_to(conn, LATE, true);
    conn.read(stream).unwrap().status
}

#[test]
fn request_that_a_goaway_left_unseen_is_sent_again() {
    let case = Case::of(&[], |number, server| {
        let seen = server.next(HEADERS)?.stream;
        server.answer(seen)?;
        if number == 2 {
            return server
                .next(HEADERS)
                .and_then(|more| server.answer(more.stream));
        }
        server.next(HEADERS)?;
        // NO_ERROR: what came after the first stream was not looked at.
        let last = [&seen.to_be_bytes()[..], &[0; 4]].concat();
        server.send(GOAWAY, 0, 0, &last)
    });
    let mut conn = case.connect();
    assert_eq!(ask(&mut conn), 200);
    let mut halved = post(&mut conn, false);
    halved.upload.send_data("one".into(), false).unwrap();
    let mut upload = halved.upload;
    let (answer, _) = conn.read_head(halved.answer).unwrap();
    assert_eq!((answer.status, case.opened()), (200, 2));
    upload.send_data("two".into(), true).unwrap();
    assert_eq!(ask(&mut conn), 200);
}

#[test]
fn answer_that_an_upstream_repeats_says_the_same_to_all_clients() {
    const BLOCKS: [&[u8]; 3] = [
        // 200, a date and a field of its own, which its table takes.
        b"\x88\x61\x04then\x40\x05x-own\x01a",
        // One of one hop.
        b"\x88\x0f\x21\x01p\x00\x05x-own\x01b",
        // A secret.
        b"\x88\x0f\x28\x03c=d\x00\x05x-own\x01c",
    ];
    // Each worker of the gateway may have a connection of its own.
    let count = AtomicUsize::new(0);
    let case = Case::of(&[], move |_, server| {
        loop {
            let asked = server.next(HEADERS)?;
            let block = BLOCKS[count.fetch_add(1, Ordering::AcqRel) / 10];
            server.send(HEADERS, END_HEADERS | END_STREAM, asked.stream, block)?;
        }
    });
    let mut conn = case.connect();
    let mut http1 = RawClient::connect(case.site.gateway.port("http"));
    for number in 0..BLOCKS.len() * 10 {
        let head = if number % 2 == 0 {
            let stream = post(&mut conn, true);
            conn.read(stream).unwrap().head
        } else {
            http1.get("h.example", "/x", &[]).head
        };
        let head = head.to_ascii_lowercase();
        let lines = |name: &str| head.lines().filter(|line| line.starts_with(name)).count();
        assert_eq!((lines("date:"), lines("x-own:")), (1, 1), "{head}");
        let own = ["x-own: a", "x-own: b", "x-own: c"][number / 10];
        assert_eq!(lines(own), 1, "{own}: {head}");
        assert_eq!(lines("date: then") == 1, number / 10 == 0, "{head}");
        assert_eq!(lines("set-cookie: c=d") == 1, number / 10 == 2, "{head}");
        assert_eq!(lines("proxy-authenticate"), 0, "{head}");
    }
}

#[test]
fn upstream_that_lets_no_stream_begin_yet_is_waited_for() {
    let case = Case::of(&[(STREAMS, 0)], |_, server| {
        // The gateway's own, and its word that it read these.
        server.next(SETTINGS)?;
        server.next(SETTINGS)?;
        server.set(&[(STREAMS, 5)])?;
        let asked = server.next(HEADERS)?;
        server.answer(asked.stream)
    });
    let mut conn = case.connect();
    assert_eq!((ask(&mut conn), case.opened()), (200, 1));
}

#[test]
fn client_that_gives_an_answer_up_ends_the_request_that_its_upstream_does_not_take() {
    let (told, heard) = mpsc::channel();
    let told = Mutex::new(told);
    let case = Case::of(&[(WINDOW, 0)], move |_, server| {
        let stream = server.next(HEADERS)?.stream;
        server.send(HEADERS, END_HEADERS, stream, &[OK])?;
        let reset = server.next(RST_STREAM)?;
        told.lock().unwrap().send(reset.payload).unwrap();
        Ok(())
    });
    let mut conn = case.connect();
    let mut stream = post(&mut conn, false);
    stream
        .upload
        .send_data(vec![0; 100_000].into(), false)
        .unwrap();
    let mut upload = stream.upload;
    let (answer, _body) = conn.read_head(stream.answer).unwrap();
    assert_eq!(answer.status, 200);
    upload.send_reset(h2::Reason::CANCEL);
    let reset = eventually(SOON, "its upstream is told", || {
        conn.drive(tokio::task::yield_now());
        heard.try_recv().ok()
    });
    // CANCEL (RFC 9113 §7).
    assert_eq!(reset, [0, 0, 0, 8]);
}

/// A stream that is reset was looked at, and its connection is no dead one: that is its try.
#[test]
fn request_whose_stream_is_reset_costs_a_try_over_a_kept_connection_too() {
    let reset = Arc::<AtomicUsize>::default();
    let resets = Arc::<AtomicBool>::default();
    let (count, is_on) = (Arc::clone(&reset), Arc::clone(&resets));
    let case = Case::of(&[], move |_, server| {
        loop {
            let stream = server.next(HEADERS)?.stream;
            if is_on.load(Ordering::Acquire) {
                count.fetch_add(1, Ordering::AcqRel);
                // INTERNAL_ERROR.
                server.send(RST_STREAM, 0, stream, &2_u32.to_be_bytes())?;
            } else {
                server.answer(stream)?;
            }
        }
    });
    let mut conn = case.connect();
    for (retries, tries) in [(0, 1), (2, 3)] {
        let mut route = case.route.clone();
        route["upstream"]["retries"] = json!(retries);
        case.site.gateway.configure("/routes/all", &route);
        resets.store(false, Ordering::Release);
        assert_eq!(ask(&mut conn), 200, "its connection is kept");
        resets.store(true, Ordering::Release);
        let request = Request::get("http://h.example/x").body(()).unwrap();
        let stream = conn.send(request, true).unwrap();
        assert_eq!(conn.read(stream).unwrap().status, 502);
        assert_eq!(reset.swap(0, Ordering::AcqRel), tries, "{retries} retries");
    }
    assert_eq!(case.opened(), 1, "its connection serves on");
}

#[test]
fn connection_of_which_one_stream_is_late_serves_the_others() {
    let case = Case::of(&[], |_, server| {
        let first = server.next(HEADERS)?.stream;
        server.answer(first)?;
        server.next(HEADERS)?;
        server.send(PING, 0, 0, &[0; 8])?;
        let third = server.next(HEADERS)?.stream;
        server.answer(third)
    });
    let mut conn = case.connect();
    assert_eq!((ask(&mut conn), case.opened()), (200, 1));
    assert_eq!((ask_late(&mut conn), case.opened()), (504, 1));
    assert_eq!((ask(&mut conn), case.opened()), (200, 1));
}

/// To HEAD, and as a 204 or 304 (RFC 9110 §6.4.1), whatever their upstream says. nginx serves them so.
#[test]
fn answers_that_have_no_content_come_without_any() {
    // The heads, and whether content comes behind them.
    let answers = [
        (0x88, true),
        (0x88, false),
        (0x89, true),
        (0x8b, true),
        (0x8b, false),
    ];
    for http1 in [false, true] {
        let count = AtomicUsize::new(0);
        let (tell, told) = mpsc::channel();
        let told = Mutex::new(told);
        let case = Case::of(&[], move |_, server| {
            loop {
                let frame = server.any()?;
                if frame.kind == RST_STREAM {
                    return Err(io::Error::other("what came to its end is reset"));
                }
                if frame.kind != HEADERS {
                    continue;
                }
                let stream = frame.stream;
                let (status, has_content) = answers[count.fetch_add(1, Ordering::AcqRel)];
                // An announced length is that of what GET would get, or would have got.
                let length = if status == 0x89 {
                    vec![]
                } else {
                    line("content-length", "70000")
                };
                let head = [vec![status], length].concat();
                server.send(HEADERS, END_HEADERS, stream, &head)?;
                if has_content {
                    server.send(DATA, 0, stream, &[b'x'; 9000])?;
                }
                // Its client need not wait for that.
                let _is_answered = told.lock().unwrap().recv();
                server.send(DATA, END_STREAM, stream, &[])?;
            }
        });
        let mut conn = case.connect();
        let mut client = RawClient::connect(case.site.gateway.port("http"));
        for (number, (head, _)) in answers.into_iter().enumerate() {
            let path = format!("/x{number}");
            let (method, status) = match head {
                0x88 => ("HEAD", 200),
                0x89 => ("GET", 204),
                _ => ("GET", 304),
            };
            if http1 {
                client.send(request(method, "h.example", &path, &[]));
                client.read_bodiless().expect_status(status);
            } else {
                let stream = conn.begin(method, "h.example", &path, true).unwrap();
                let answer = conn.read(stream).unwrap();
                assert_eq!((answer.status, answer.body.as_str()), (status, ""));
            }
            let record = record_of(&case.site.gateway, &path);
            assert_eq!(
                (field(&record, "reason"), &record["status"]),
                (None, &json!(status))
            );
            tell.send(()).unwrap();
        }
        assert_eq!(case.opened(), 1);
    }
}

/// nginx's `grpc_read_timeout` is between two reads, however little they bring.
#[test]
fn answer_may_come_in_parts_of_frames_which_are_no_other_ones() {
    patiently(|limit| {
        const LONG: usize = 10_000;
        // So many of them are longer than the limit.
        const PAUSES: u32 = 40;
        let pause = limit.mul_f64(1.2) / PAUSES;
        let (tell, told) = mpsc::channel();
        let told = Mutex::new(told);
        let case = Case::of(&[], move |_, server| {
            let slow = server.next(HEADERS)?.stream;
            let mut drip = |bytes: &[u8]| {
                for byte in bytes {
                    server.write(&[*byte])?;
                    thread::sleep(pause);
                }
                io::Result::Ok(())
            };
            let head = [vec![OK], line("x-long", "a value of some length")].concat();
            let head = frame(HEADERS, END_HEADERS, slow, &head);
            assert!(
                head.len() >= PAUSES as usize,
                "it takes longer than the limit"
            );
            drip(&head)?;
            let content = frame(DATA, END_STREAM, slow, &[b'x'; LONG]);
            let (parts, rest) = content.split_at(PAUSES as usize);
            drip(parts)?;
            // Somebody else is late meanwhile.
            let told = told.lock().unwrap();
            let mut rest = rest.iter();
            while told.try_recv() == Err(mpsc::TryRecvError::Empty) {
                drip(&[*rest.next().unwrap()])?;
            }
            server.write(rest.as_slice())?;
            server.next(HEADERS)?;
            let last = server.next(HEADERS)?.stream;
            server.send(HEADERS, END_HEADERS, last, &[OK])?;
            server.write(&frame(DATA, END_STREAM, last, b"xx")[..10])
        });
        let mut conn = case.connect();
        case.wait_at(LATE, limit);
        let slow = post_to(&mut conn, LATE, true);
        let (answer, mut content) = conn.read_head(slow.into_answer()).unwrap();
        assert_eq!(answer.header("x-long"), Some("a value of some length"));
        assert_eq!((ask_late(&mut conn), case.opened()), (504, 1));
        tell.send(()).unwrap();
        let mut length = 0;
        while let Some(part) = conn.drive(content.data()) {
            length += part.unwrap().len();
        }
        assert_eq!(length, LONG);
        // One that stops within a frame is late.
        let stuck = post_to(&mut conn, LATE, true);
        let (answer, mut content) = conn.read_head(stuck.into_answer()).unwrap();
        assert_eq!(answer.status, 200);
        assert!(conn.drive(content.data()).unwrap().is_err());
        case.site.gateway.expect_record("the cause", |record| {
            record["status"] == 200 && field(record, "reason") == Some("upstream_timeout")
        });
    });
}

#[test]
fn connection_whose_peer_answers_pings_serves_on_after_a_late_stream() {
    patiently(|limit| {
        let case = Case::of(&[], |_, server| {
            loop {
                let first = server.next(HEADERS)?.stream;
                server.answer(first)?;
                server.next(HEADERS)?;
                let ping = server.next(PING)?;
                server.send(PING, ACK, 0, &ping.payload)?;
            }
        });
        let mut conn = case.connect();
        case.wait_at(LATE, limit);
        for _ in 0..3 {
            assert_eq!((ask(&mut conn), case.opened()), (200, 1));
            let began = Instant::now();
            assert_eq!((ask_late(&mut conn), case.opened()), (504, 1));
            // All of its time, which the look at the peer does not shorten.
            assert!(began.elapsed() > limit.mul_f64(0.8));
        }
    });
}

#[test]
fn connection_whose_peer_fell_silent_gets_no_further_request() {
    let (release, held) = mpsc::channel();
    let held = Mutex::new(held);
    let case = Case::of(&[], move |number, server| {
        let first = server.next(HEADERS)?.stream;
        server.answer(first)?;
        if number > 1 {
            return Ok(());
        }
        let waiting = server.next(HEADERS)?.stream;
        server.next(HEADERS)?;
        // No PING is answered.
        held.lock().unwrap().recv().unwrap();
        server.answer(waiting)
    });
    let mut conn = case.connect();
    // What it says as a connection begins comes before its answer.
    assert_eq!((ask(&mut conn), case.opened()), (200, 1));
    let waiting = conn.begin("GET", "h.example", "/patient", true).unwrap();
    assert_eq!((ask_late(&mut conn), case.opened()), (504, 1));
    assert_eq!((ask(&mut conn), case.opened()), (200, 2));
    // Who can wait for longer does.
    release.send(()).unwrap();
    assert_eq!(conn.read(waiting).unwrap().status, 200);
}

#[test]
fn silent_peer_is_asked_though_each_client_gives_up_early() {
    patiently(|limit| {
        let (tell, asked) = mpsc::channel();
        let tell = Mutex::new(tell);
        let case = Case::of(&[], move |number, server| {
            let first = server.next(HEADERS)?.stream;
            server.answer(first)?;
            if number > 1 {
                return Ok(());
            }
            server.next(PING)?;
            tell.lock().unwrap().send(()).unwrap();
            Ok(())
        });
        case.wait_at("/x", 2 * limit);
        let mut conn = case.connect();
        assert_eq!((ask(&mut conn), case.opened()), (200, 1));
        // Each waits far less than half of its limit, after which it would have the peer asked itself.
        eventually(limit + SOON, "a PING", || {
            let answer = post(&mut conn, true).into_answer();
            let given_up = async { tokio::time::timeout(limit / 10, answer).await };
            assert!(conn.drive(given_up).is_err());
            asked.try_recv().ok()
        });
    });
}

#[test]
fn connection_whose_peer_fell_silent_in_an_answer_gets_no_further_request() {
    patiently(|limit| {
        let case = Case::of(&[], |number, server| {
            let first = server.next(HEADERS)?.stream;
            if number > 1 {
                return server.answer(first);
            }
            server.send(HEADERS, END_HEADERS, first, &[OK])
        });
        let mut conn = case.connect();
        case.wait_at(LATE, limit);
        let broken = post_to(&mut conn, LATE, true);
        assert!(conn.read(broken).is_err());
        assert_eq!((ask(&mut conn), case.opened()), (200, 2));
    });
}

#[test]
fn connection_that_nobody_uses_ends_though_its_peer_takes_nothing() {
    patiently(|limit| {
        let (release, held) = mpsc::channel::<()>();
        let held = Mutex::new(held);
        // More than the kernel holds, and no word is read of it.
        let case = Case::of(&[(WINDOW, (1 << 31) - 1)], move |_, server| {
            server.send(WINDOW_UPDATE, 0, 0, &0x7000_0000_u32.to_be_bytes())?;
            server.next(HEADERS)?;
            let _released = held.lock().unwrap().recv();
            Ok(())
        });
        let mut conn = case.connect();
        // Until then as much must have come as there is room for.
        case.wait_at(LATE, limit);
        let stream = post_to(&mut conn, LATE, false);
        let mut upload = stream.upload;
        upload.send_data(vec![0; BIG].into(), true).unwrap();
        let (answer, _) = conn.read_head(stream.answer).unwrap();
        assert_eq!((answer.status, case.opened()), (504, 1));
        eventually(SOON, "it is closed", || {
            let open = |state: &str| {
                let name = format!("portcullis_upstream_connections{{state=\"{state}\"}}");
                case.site.metric(&name)
            };
            (open("active") + open("idle") == 0).then_some(())
        });
        drop(release);
    });
}

#[test]
fn connection_that_takes_no_more_streams_is_left_alone() {
    let case = Case::of(&[], |_, server| {
        let first = server.next(HEADERS)?.stream;
        server.set(&[(STREAMS, 0)])?;
        server.answer(first)
    });
    let mut conn = case.connect();
    assert_eq!((ask(&mut conn), case.opened()), (200, 1));
    assert_eq!((ask(&mut conn), case.opened()), (200, 2));
}

#[test]
fn answer_that_is_complete_before_its_request_is_passed_on_whole() {
    let case = Case::of(&[], |_, server| {
        let stream = server.next(HEADERS)?.stream;
        // Early hints, twice (RFC 8297).
        for _ in 0..2 {
            server.send(HEADERS, END_HEADERS, stream, b"\x08\x03103")?;
        }
        server.send(HEADERS, END_HEADERS, stream, &[OK])?;
        server.send(DATA, END_STREAM, stream, b"well")?;
        // NO_ERROR (RFC 9113 §8.1).
        server.send(RST_STREAM, 0, stream, &[0; 4])
    });
    let mut conn = case.connect();
    let mut stream = post(&mut conn, false);
    stream.upload.send_data("one".into(), false).unwrap();
    let answer = conn.read(stream).unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, "well"));
}

#[test]
fn kept_connection_that_ends_behind_hints_was_not_over() {
    for (hints, status, opened) in [(false, 200, 2), (true, 502, 1)] {
        let case = Case::of(&[], move |number, server| {
            let first = server.next(HEADERS)?.stream;
            server.answer(first)?;
            if number == 1 {
                let second = server.next(HEADERS)?.stream;
                if hints {
                    server.send(HEADERS, END_HEADERS, second, b"\x08\x03103")?;
                }
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            Ok(())
        });
        let mut client = case.site.gateway.connect();
        client.get("h.example", "/x", &[]).expect_status(200);
        let reply = client.get("h.example", "/x", &[]);
        assert_eq!((reply.status, case.opened()), (status, opened), "{hints}");
    }
}

#[test]
fn length_that_is_said_twice_is_passed_on_once() {
    // `content-length: 2` (RFC 7541 §6.2.2).
    let length = b"\x0f\x0d\x012";
    let head = [&[OK][..], length, length].concat();
    let case = Case::of(&[], move |_, server| {
        loop {
            let stream = server.next(HEADERS)?.stream;
            server.send(HEADERS, END_HEADERS, stream, &head)?;
            server.send(DATA, END_STREAM, stream, b"hi")?;
        }
    });
    let reply = case.site.gateway.connect().get("h.example", "/x", &[]);
    assert_eq!((reply.status, &reply.text()[..]), (200, "hi"));
    let mut conn = case.connect();
    let stream = post(&mut conn, true);
    let answer = conn.read(stream).unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, "hi"));
    assert_eq!(answer.head.matches("content-length").count(), 1);
}

#[test]
fn fields_of_a_connection_that_a_rewrite_sets_are_left_out() {
    let case = Case::of(&[], |_, server| {
        loop {
            let stream = server.next(HEADERS)?.stream;
            server.answer(stream)?;
        }
    });
    let set = json!({"Keep-Alive": "timeout=5", "Proxy-Connection": "keep-alive"});
    let mut route = case.route.clone();
    route["plugins"] = json!({"proxy-rewrite": {"headers": {"set": set}}});
    case.site.gateway.configure("/routes/all", &route);
    let mut conn = case.connect();
    // Over a fresh connection, and over a kept one.
    for _ in 0..2 {
        assert_eq!((ask(&mut conn), case.opened()), (200, 1));
    }
}
