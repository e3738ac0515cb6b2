//! HTTP/2 towards clients: agreed on by ALPN, under the same rules per request.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::Curl;
use crate::support::frames::{
    BAD_REQUEST, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, HELLO, OK, PING,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, line, read_frame,
};
use crate::support::gateway::{Setup, field};
use crate::support::h2::{H2Conn, H2Stream};
use crate::support::h2_origin::H2Origin;
use crate::support::origin::{TcpOrigin, ok, read_head, seen};
use crate::support::pki::Ca;
use crate::support::raw::RawClient;
use crate::support::site::Site;
use crate::support::upstream::record_of;
use crate::support::{SOON, TlsVersion, eventually, patiently, setting};

const NAME: &str = "api.example.com";

#[test]
fn http2_and_http1_are_agreed_on_by_alpn() {
    let site = Site::start();
    site.put_ssl("open", NAME, &json!({}));
    for version in TlsVersion::ALL {
        let second = site
            .ask(NAME, "/x")
            .http2()
            .tls(version)
            .send()
            .expect_status(200);
        assert!(second.head.starts_with("HTTP/2 200"), "{second:?}");
        let first = site.ask(NAME, "/x").tls(version).send().expect_status(200);
        assert!(first.head.starts_with("HTTP/1.1 200"), "{first:?}");
    }
}

#[test]
fn answer_to_head_has_no_content_over_http2() {
    let site = Site::start();
    site.put_ssl("open", NAME, &json!({}));
    site.gateway.configure(
        "/routes/all",
        &json!({"uri": "/only", "upstream": {"nodes": {"127.0.0.1:1": 1}}}),
    );
    for version in TlsVersion::ALL {
        let mut conn = H2Conn::connect(&site.client(NAME).tls(version)).unwrap();
        let page = conn.get(NAME, "/none").unwrap();
        assert_eq!((page.status, page.body.is_empty()), (404, false));
        let asked = conn.begin("HEAD", NAME, "/none", true).unwrap();
        let head = conn.read(asked).unwrap();
        assert_eq!((head.status, &head.body[..]), (404, ""));
        let length = format!("content-length: {}", page.body.len());
        assert!(head.head.contains(&length), "{head:?}");
        assert!(head.head.contains("date: "), "{head:?}");
    }
}

#[test]
fn client_certificate_is_asked_for_over_http2_too() {
    let site = Site::start();
    let ca = Ca::root("Clients");
    site.put_ssl("mtls", NAME, &json!({"client": {"ca": ca.pem()}}));
    let pair = site.write(&ca.client("alice"), "alice");
    for version in TlsVersion::ALL {
        site.ask(NAME, "/x")
            .http2()
            .tls(version)
            .send()
            .expect_refused_handshake();
        let with = site.ask(NAME, "/x").http2().tls(version).cert(&pair).send();
        assert!(with.expect_status(200).head.starts_with("HTTP/2"));
    }
}

#[test]
fn authority_of_another_policy_is_misdirected_over_http2() {
    let site = Site::start();
    let ca = Ca::root("Clients");
    site.put_ssl("mtls", NAME, &json!({"client": {"ca": ca.pem()}}));
    site.put_ssl("open", "open.example.com", &json!({}));
    let ask = || site.ask("open.example.com", "/x").http2();
    let refused = ask()
        .header(&format!("Host: {NAME}"))
        .send()
        .expect_status(421);
    assert!(refused.head.starts_with("HTTP/2 421"), "{refused:?}");
    ask().send().expect_status(200);
}

#[test]
fn large_bodies_pass_over_http2() {
    let site = Site::start();
    site.put_ssl("open", NAME, &json!({}));
    // As much as nginx takes, and more than one frame.
    let body = vec![b'x'; 1 << 20];
    let ask = site.ask(NAME, "/x").http2().body(body);
    ask.send().expect_status(200);
}

/// More than a client that reads nothing lets through.
const BIG: usize = 8 << 20;

/// A site whose streams may stall for so long only, before an upstream that answers `/big` by many
/// bytes and everything else at once, without its body.
fn impatient(limit: Duration) -> (Site, TcpOrigin) {
    let origin = TcpOrigin::serving(|mut conn| {
        loop {
            let head = read_head(&mut conn);
            if !head.ends_with("\r\n\r\n") {
                return;
            }
            let answer = match head.split(' ').nth(1) {
                Some("/big") => ok(&"x".repeat(BIG)),
                Some("/up") => continue,
                _ => ok("small"),
            };
            if conn.write_all(&answer).is_err() {
                return;
            }
        }
    });
    let site = Site::with(Setup::default().set("limits.body_timeout", &setting(limit)));
    site.put_ssl("open", NAME, &json!({}));
    let upstream = json!({"nodes": {origin.node(): 1}});
    let route = json!({"uri": "/*", "upstream": upstream});
    site.gateway.configure("/routes/all", &route);
    (site, origin)
}

#[test]
fn stream_that_is_not_read_is_reset_by_itself() {
    patiently(|limit| {
        let (site, _origin) = impatient(limit);
        for version in TlsVersion::ALL {
            let client = site.client(NAME).tls(version);
            let mut conn = H2Conn::connect(&client).unwrap();
            let stuck = conn.begin("GET", NAME, "/big", true).unwrap();
            let (head, mut body) = conn.read_head(stuck.into_answer()).unwrap();
            assert_eq!(head.status, 200);
            // Its window is never opened again.
            let end = conn.drive(async {
                loop {
                    match body.data().await {
                        Some(Ok(_)) => {}
                        Some(Err(error)) => break error,
                        None => panic!("all of it came"),
                    }
                }
            });
            assert!(end.is_reset(), "{end}");
            assert_eq!(end.reason(), Some(h2::Reason::CANCEL));
            // The connection serves on, and who reads gets all.
            assert_eq!(conn.get(NAME, "/small").unwrap().body, "small");
            assert_eq!(conn.get(NAME, "/big").unwrap().body.len(), BIG);
        }
        site.gateway.expect_record("the cause", |record| {
            field(record, "path") == Some("/big")
                && field(record, "reason") == Some("client_timeout")
        });
    });
}

#[test]
fn answer_that_its_client_has_no_window_for_is_no_idle_connection() {
    patiently(|limit| {
        let origin = TcpOrigin::talking(|_| ok("more than ten"));
        let site = Site::with(Setup::default().set("limits.idle_timeout", &setting(limit)));
        let route = json!({"uri": "/*", "upstream": {"nodes": {origin.node(): 1}}});
        site.gateway.configure("/routes/all", &route);
        let mut slow = site.gateway.connect();
        // INITIAL_WINDOW_SIZE.
        let window = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 10]);
        let get = frame(HEADERS, END_HEADERS | END_STREAM, 1, GET);
        slow.send([HELLO, &window, &get].concat());
        assert_eq!(next_of(&mut slow, 1).unwrap().kind, HEADERS);
        assert_eq!(next_of(&mut slow, 1).unwrap().payload, b"more than ");
        // A connection that came later, and says nothing once it was answered, is idle, and ends.
        let mut idle = site.gateway.connect();
        idle.send([HELLO, &get].concat());
        while read_frame(&mut idle).is_ok() {}
        slow.send(frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 10]));
        assert_eq!(next_of(&mut slow, 1).unwrap().payload, b"ten");
    });
}

#[test]
fn stream_whose_body_stalls_ends_by_itself() {
    patiently(|limit| {
        let (site, _origin) = impatient(limit);
        for version in TlsVersion::ALL {
            let client = site.client(NAME).tls(version);
            let mut conn = H2Conn::connect(&client).unwrap();
            let mut stuck = conn.begin("POST", NAME, "/up", false).unwrap();
            stuck.upload.send_data("a part".into(), false).unwrap();
            assert_eq!(conn.read(stuck).unwrap().status, 408);
            assert_eq!(conn.get(NAME, "/small").unwrap().body, "small");
        }
        site.gateway.expect_record("the cause", |record| {
            field(record, "path") == Some("/up")
                && field(record, "reason") == Some("client_timeout")
        });
    });
}

/// nginx's `client_body_timeout` is between two reads, however little they bring.
#[test]
fn body_may_come_in_parts_of_frames_but_not_stop_within_one() {
    patiently(|limit| {
        let content = frame(DATA, END_STREAM, 1, &[b'x'; 16]);
        // One after the other they take longer than the limit.
        let pause = limit / 20;
        let origin = TcpOrigin::serving(|mut conn| {
            read_head(&mut conn);
            if conn.read_exact(&mut [0; 16]).is_ok() {
                drop(conn.write_all(&ok("whole")));
            }
        });
        let site = Site::with(Setup::default().set("limits.body_timeout", &setting(limit)));
        let route = json!({"uri": "/*", "upstream": {"nodes": {origin.node(): 1}}});
        site.gateway.configure("/routes/all", &route);
        let mut client = site.gateway.connect();
        client.send(HELLO);
        let head = [POST, &line("content-length", "16")].concat();
        client.send(frame(HEADERS, END_HEADERS, 1, &head));
        for byte in content {
            client.send([byte]);
            thread::sleep(pause);
        }
        let answer = next_of(&mut client, 1).unwrap();
        assert_eq!((answer.kind, answer.payload[0]), (HEADERS, OK));

        client.send(frame(HEADERS, END_HEADERS, 3, &head));
        client.send(&frame(DATA, END_STREAM, 3, &[b'x'; 16])[..20]);
        assert_eq!(next_of(&mut client, 3).unwrap().kind, HEADERS);
        site.gateway.expect_record("the cause", |record| {
            record["status"] == 408 && field(record, "reason") == Some("client_timeout")
        });
    });
}

#[test]
fn http2_in_the_clear_is_spoken_by_prior_knowledge_alone() {
    let site = Site::start();
    let ask = |args: &[&str]| Curl::new(&site.gateway.http_url("/x")).args(args).send();
    let known = ask(&["--http2-prior-knowledge"]).expect_status(200);
    assert!(known.head.starts_with("HTTP/2 200"), "{known:?}");
    // An upgrade is not heeded, as in nginx.
    let asked = ask(&["--http2"]).expect_status(200);
    assert!(asked.head.starts_with("HTTP/1.1 200"), "{asked:?}");
    assert!(ask(&[]).expect_status(200).head.starts_with("HTTP/1.1 200"));

    let without = Site::with(Setup::default().set("http.http2", "off"));
    let url = without.gateway.http_url("/x");
    let refused = Curl::new(&url).args(&["--http2-prior-knowledge"]).send();
    assert_ne!(refused.status, Some(200), "{refused:?}");
    Curl::new(&url).send().expect_status(200);
}

#[test]
fn http2_in_the_clear_has_the_rules_of_the_plain_port() {
    let site = Site::start();
    let ca = Ca::root("Clients");
    site.put_ssl("mtls", NAME, &json!({"client": {"ca": ca.pem()}}));
    let mut conn = H2Conn::plain(site.gateway.port("http")).unwrap();
    assert_eq!(conn.get("open.example.com", "/open").unwrap().status, 200);
    let refused = conn.get(NAME, "/mtls").unwrap();
    assert_eq!(refused.status, 421, "{refused:?}");
    let record = record_of(&site.gateway, "/mtls");
    assert_eq!(field(&record, "reason"), Some("authority_policy_mismatch"));
    assert_eq!(field(&record, "listener"), Some("http"), "{record}");
    let record = record_of(&site.gateway, "/open");
    assert_eq!(field(&record, "forwarded_proto"), None, "{record}");
}

#[test]
fn preface_may_come_in_pieces_but_not_for_ever() {
    patiently(|limit| {
        let site = Site::with(Setup::default().set("limits.header_timeout", &setting(limit)));
        // GET http://h/ (RFC 7541 §6.1, §6.2.2).
        let get = [0, 0, 6, 1, 5, 0, 0, 0, 1, 0x82, 0x84, 0x86, 0x01, 1, b'h'];
        let mut client = site.gateway.connect();
        for byte in HELLO.iter().chain(&get) {
            client.send([*byte]);
        }
        // Its settings, an acknowledgement, and the answer's head.
        let mut kinds = Vec::new();
        while !kinds.contains(&HEADERS) {
            kinds.push(read_frame(&mut client).unwrap().kind);
        }
        // What only begins like it is HTTP/1.1, all of it.
        let mut client = site.gateway.connect();
        client.send("P");
        client.send("RI");
        let rest = "VATE /x HTTP/1.1\r\nHost: h\r\n\r\n";
        client.send(rest);
        let reply = client.read_reply().expect_status(200);
        assert_eq!(seen(&reply.text(), "method"), "PRIVATE");
        let mut silent = site.gateway.connect();
        silent.send(&HELLO[..10]);
        assert!(silent.is_ended());
        site.gateway.expect_record("who kept us waiting", |record| {
            field(record, "reason") == Some("client_timeout")
        });
    });
}

#[test]
fn settings_say_what_a_client_may_do_and_one_stream_more_is_refused() {
    let origin = TcpOrigin::silent();
    let site = Site::start();
    let upstream = json!({"nodes": {origin.node(): 1}});
    let route = json!({"uri": "/*", "upstream": upstream});
    site.gateway.configure("/routes/all", &route);
    let mut client = site.gateway.connect();
    client.send(HELLO);
    let settings = read_frame(&mut client).unwrap();
    assert_eq!((settings.kind, settings.stream), (SETTINGS, 0));
    let settings: Vec<(u8, u32)> = settings
        .payload
        .chunks(6)
        .map(|one| (one[1], u32::from_be_bytes([one[2], one[3], one[4], one[5]])))
        .collect();
    // MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE (RFC 9113 §6.5.2).
    for setting in [(3, 128), (4, 1 << 20)] {
        assert!(settings.contains(&setting), "{settings:?}");
    }
    // GET http://h/ on stream 1, 3, 5 …: nothing answers, so that all stay open.
    for number in 0..129_u32 {
        let stream = (2 * number + 1).to_be_bytes();
        let head = [&[0, 0, 6, 1, 5][..], &stream].concat();
        client.send([&head[..], &[0x82, 0x84, 0x86, 0x01, 1, b'h']].concat());
    }
    let refused = loop {
        let frame = read_frame(&mut client).unwrap();
        if frame.kind == RST_STREAM {
            break frame;
        }
        assert_ne!(frame.kind, GOAWAY, "{:?}", frame.payload);
    };
    // REFUSED_STREAM (RFC 9113 §7).
    assert_eq!(
        (refused.stream, &refused.payload[..]),
        (257, &[0, 0, 0, 7][..])
    );
}

/// A site whose one name asks for certificates of `ca`, before an upstream that reads bodies whole.
fn mutual(ca: &Ca) -> (Site, TcpOrigin) {
    let site = Site::start();
    let origin = TcpOrigin::echoing();
    let upstream = json!({"nodes": {origin.node(): 1}});
    let route = json!({"uri": "/*", "upstream": upstream});
    site.gateway.configure("/routes/all", &route);
    site.put_ssl("mtls", NAME, &json!({"client": {"ca": ca.pem()}}));
    (site, origin)
}

/// Begins a request of which the second half of the body is still to come; its upstream has it.
fn half(conn: &mut H2Conn, origin: &TcpOrigin) -> H2Stream {
    let request = http::Request::post(format!("https://{NAME}/up"))
        .header("content-length", "4")
        .body(())
        .unwrap();
    let mut stream = conn.send(request, false).unwrap();
    stream.upload.send_data("ha".into(), false).unwrap();
    eventually(SOON, "the request is under way", || {
        conn.drive(tokio::task::yield_now());
        let heads = origin.heads();
        heads
            .iter()
            .any(|head| head.starts_with("POST "))
            .then_some(())
    });
    stream
}

#[test]
fn connection_that_may_not_go_on_is_told_so_by_goaway() {
    let (ca, other) = (Ca::root("Clients"), Ca::root("Others"));
    let alice = ca.client("alice");
    for version in TlsVersion::ALL {
        let (site, origin) = mutual(&ca);
        let client = site.client(NAME).tls(version).cert(&alice);
        let open = || {
            let mut conn = H2Conn::connect(&client).unwrap();
            assert_eq!(conn.get(NAME, "/first").unwrap().status, 200);
            conn
        };
        let (mut idle, mut busy) = (open(), open());
        let mut begun = half(&mut busy, &origin);
        // Who is let in on is not told anything.
        let both = json!({"client": {"ca": ca.pem() + &other.pem()}});
        site.put_ssl("mtls", NAME, &both);
        assert_eq!(idle.get(NAME, "/still").unwrap().status, 200);

        site.put_ssl("mtls", NAME, &json!({"client": {"ca": other.pem()}}));
        assert_eq!(idle.expect_goaway(), h2::Reason::NO_ERROR);
        // What was admitted comes to its end; what follows does not.
        begun.upload.send_data("lf".into(), true).unwrap();
        assert_eq!(busy.read(begun).unwrap().status, 200);
        assert_eq!(busy.get(NAME, "/next").unwrap().status, 421);
        assert_eq!(busy.expect_goaway(), h2::Reason::NO_ERROR);
    }
}

#[test]
fn connection_of_a_deleted_ssl_is_told_so_by_goaway() {
    let ca = Ca::root("Clients");
    let alice = ca.client("alice");
    for version in TlsVersion::ALL {
        let (site, _origin) = mutual(&ca);
        let mut conn = H2Conn::connect(&site.client(NAME).tls(version).cert(&alice)).unwrap();
        assert_eq!(conn.get(NAME, "/first").unwrap().status, 200);
        site.gateway.admin_delete("/ssls/mtls").expect_status(200);
        assert_eq!(conn.expect_goaway(), h2::Reason::NO_ERROR);
    }
}

#[test]
fn gateway_that_ends_says_goaway_and_answers_what_is_under_way() {
    let ca = Ca::root("Clients");
    let alice = ca.client("alice");
    for version in TlsVersion::ALL {
        let (site, origin) = mutual(&ca);
        let mut conn = H2Conn::connect(&site.client(NAME).tls(version).cert(&alice)).unwrap();
        assert_eq!(conn.get(NAME, "/first").unwrap().status, 200);
        let mut begun = half(&mut conn, &origin);
        site.gateway.ask_to_stop();
        assert_eq!(conn.expect_goaway(), h2::Reason::NO_ERROR);
        begun.upload.send_data("lf".into(), true).unwrap();
        assert_eq!(conn.read(begun).unwrap().status, 200);
    }
}

#[test]
fn grpc_passes_in_the_clear_from_end_to_end() {
    let origin = H2Origin::plain(100);
    let site = Site::start();
    let upstream = json!({"scheme": "grpc", "nodes": {origin.node(): 1}});
    site.gateway
        .configure("/routes/all", &json!({"uri": "/*", "upstream": upstream}));
    let mut conn = H2Conn::plain(site.gateway.port("http")).unwrap();
    let call = http::Request::post("http://api.example.com/unary")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let mut stream = conn.send(call, false).unwrap();
    stream.upload.send_data("hello".into(), true).unwrap();
    let (_, mut body) = conn.read_head(stream.into_answer()).unwrap();
    let (data, trailers) = conn.drive(async {
        let data = body.data().await.unwrap().unwrap();
        (data, body.trailers().await.unwrap().unwrap())
    });
    assert_eq!(&data[..], b"hello");
    assert_eq!(trailers["grpc-status"], "0");
}

#[test]
fn body_that_its_client_cancels_is_not_passed_on_as_whole() {
    let (told, heard) = mpsc::channel();
    let told = Mutex::new(told);
    let origin = TcpOrigin::serving(move |mut conn| {
        read_head(&mut conn);
        let mut body = Vec::new();
        let mut byte = [0];
        while !body.ends_with(b"part\r\n") && matches!(conn.read(&mut byte), Ok(1)) {
            body.push(byte[0]);
        }
        told.lock().unwrap().send(body).unwrap();
        let mut rest = Vec::new();
        drop(conn.read_to_end(&mut rest));
        told.lock().unwrap().send(rest).unwrap();
    });
    let site = Site::start();
    site.put_ssl("open", NAME, &json!({}));
    let route = json!({"uri": "/x", "upstream": {"nodes": {origin.node(): 1}}});
    site.gateway.configure("/routes/x", &route);
    for version in TlsVersion::ALL {
        let mut conn = H2Conn::connect(&site.client(NAME).tls(version)).unwrap();
        let mut stream = conn.begin("POST", NAME, "/x", false).unwrap();
        stream.upload.send_data("part".into(), false).unwrap();
        conn.drive(async { tokio::task::yield_now().await });
        assert_eq!(heard.recv_timeout(SOON).unwrap(), b"4\r\npart\r\n");
        stream.upload.send_reset(h2::Reason::CANCEL);
        // The reset is sent before what follows it.
        conn.get(NAME, "/after").unwrap();
        // No chunk that says "this was all".
        assert_eq!(heard.recv_timeout(SOON).unwrap(), b"");
    }
}

/// GET http://h/ (RFC 7541 §6.1, §6.2.2).
const GET: &[u8] = b"\x82\x84\x86\x01\x01h";
/// POST, likewise.
const POST: &[u8] = b"\x83\x84\x86\x01\x01h";

/// The next frame of a stream; an error at the connection's end.
fn next_of(client: &mut RawClient, stream: u32) -> io::Result<Frame> {
    loop {
        let frame = read_frame(client)?;
        if frame.stream == stream {
            return Ok(frame);
        }
    }
}

#[test]
fn connect_is_refused_over_http2_too() {
    let site = Site::start();
    let mut conn = H2Conn::plain(site.gateway.port("http")).unwrap();
    let connect = http::Request::connect("h.example:443").body(()).unwrap();
    let stream = conn.send(connect, false).unwrap();
    assert_eq!(conn.read(stream).unwrap().status, 405);
}

#[test]
fn pings_of_clients_are_answered_one_for_one() {
    let site = Site::start();
    let mut client = site.gateway.connect();
    client.send(HELLO);
    // As many as come at once, each with its own words.
    let pings = 10_000_u64;
    let mut writing = client.socket();
    let writer = thread::spawn(move || {
        for number in 0..pings {
            let ping = frame(PING, 0, 0, &number.to_be_bytes());
            writing.write_all(&ping).expect("its peer reads on");
        }
    });
    let mut answered = 0;
    while answered < pings {
        let answer = read_frame(&mut client).unwrap();
        if answer.kind == PING {
            assert_eq!(answer.payload, answered.to_be_bytes());
            answered += 1;
        }
    }
    writer.join().unwrap();
    client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, GET));
    assert_eq!(next_of(&mut client, 1).unwrap().kind, HEADERS);
}

#[test]
fn client_that_sends_pings_and_takes_no_answer_is_given_up() {
    let site = Site::with(Setup::default().set("limits.body_timeout", "300ms"));
    let mut client = site.gateway.connect();
    client.send([HELLO, &frame(HEADERS, END_HEADERS | END_STREAM, 1, GET)].concat());
    assert_eq!(next_of(&mut client, 1).unwrap().kind, HEADERS);
    // Until the gateway reads no more, and then to its end.
    let pings = frame(PING, 0, 0, &[0; 8]).repeat(4096);
    let mut writing = client.socket();
    let sent = eventually(SOON, "the connection ends", || {
        writing.write_all(&pings).err().map(|error| error.kind())
    });
    assert!(
        matches!(sent, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
        "{sent}"
    );
}

#[test]
fn request_that_crosses_a_farewell_is_answered() {
    patiently(|limit| {
        let (release, held) = mpsc::channel();
        let (held, asked) = (Mutex::new(held), AtomicUsize::new(0));
        let origin = TcpOrigin::talking(move |_| {
            // The second request is answered when the test has it so.
            if asked.fetch_add(1, Ordering::AcqRel) == 1 {
                held.lock().unwrap().recv().unwrap();
            }
            ok("well")
        });
        let site = Site::with(Setup::default().set("limits.idle_timeout", &setting(limit)));
        let route = json!({"uri": "/*", "upstream": {"nodes": {origin.node(): 1}}});
        site.gateway.configure("/routes/all", &route);
        let connect = || {
            let mut client = site.gateway.connect();
            client.send([HELLO, &frame(HEADERS, END_HEADERS | END_STREAM, 1, GET)].concat());
            while read_frame(&mut client).unwrap().kind != GOAWAY {}
            client
        };
        let mut late = connect();
        late.send(frame(HEADERS, END_HEADERS | END_STREAM, 3, GET));
        eventually(SOON, "it is under way", || {
            (origin.heads().len() == 2).then_some(())
        });
        // A connection that says nothing more after its GOAWAY came later, and ended.
        let mut silent = connect();
        while read_frame(&mut silent).is_ok() {}
        release.send(()).unwrap();
        assert_eq!(next_of(&mut late, 3).unwrap().kind, HEADERS);
    });
}

#[test]
fn refused_request_of_http2_ends_its_stream_alone() {
    let site = Site::start();
    let mut client = site.gateway.connect();
    client.send(HELLO);
    // `:method` and `:authority` as literals, `/` and http (RFC 7541 §6.1, §6.2.2).
    let trace = &b"\x02\x05TRACE\x84\x86\x01\x01h"[..];
    let connect = b"\x02\x07CONNECT\x01\x05h:443";
    let nowhere = b"\x82\x84\x86\x01\x03a..";
    let get = b"\x82\x84\x86\x01\x01h";
    let mut stream = 1;
    for (head, status) in [
        (trace, &b"405"[..]),
        (get, &[OK]),
        (connect, b"405"),
        (nowhere, &[BAD_REQUEST]),
        (get, &[OK]),
    ] {
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, head));
        let answer = loop {
            let frame = read_frame(&mut client).expect("the connection goes on");
            assert_ne!(frame.kind, GOAWAY, "{head:?}");
            if frame.kind == HEADERS {
                break frame;
            }
        };
        assert_eq!(answer.stream, stream);
        let found = answer.payload.windows(status.len());
        assert!(
            found.clone().any(|found| found == status),
            "{head:?} {:?}",
            answer.payload
        );
        stream += 2;
    }
}

#[test]
fn client_that_breaks_the_rules_of_http2_is_recorded() {
    const BIG: usize = 32 << 20;
    for reads in [true, false] {
        let site = Site::start();
        // Nobody answers there before the request's connection ends, but where it asks for much.
        let (release, held) = mpsc::channel::<()>();
        let held = Mutex::new(held);
        let origin = TcpOrigin::talking(move |head| {
            if head.starts_with("GET /big") {
                return ok(&"x".repeat(BIG));
            }
            held.lock().unwrap().recv().ok();
            ok("late")
        });
        let route = json!({"uri": "/*", "upstream": {"nodes": {origin.node(): 1}}});
        site.gateway.configure("/routes/all", &route);
        let mut client = site.gateway.connect();
        client.send([HELLO, &frame(HEADERS, END_HEADERS | END_STREAM, 1, GET)].concat());
        let mut requests = 1;
        if !reads {
            // What waits to be written then is more than its connection takes, the end included.
            let room = u32::try_from(BIG).unwrap().to_be_bytes();
            client.send(frame(SETTINGS, 0, 0, &[&[0, 4][..], &room].concat()));
            client.send(frame(WINDOW_UPDATE, 0, 0, &room));
            let big = b"\x82\x04\x04/big\x86\x01\x01h";
            client.send(frame(HEADERS, END_HEADERS | END_STREAM, 3, big));
            requests = 2;
        }
        eventually(SOON, "they are under way", || {
            (origin.heads().len() == requests).then_some(())
        });
        assert!(site.gateway.records().is_empty());
        // Content of no stream (RFC 9113 §6.1).
        client.send(frame(DATA, 0, 0, b"x"));
        while reads && read_frame(&mut client).unwrap().kind != GOAWAY {}
        let told = eventually(SOON, "all is recorded", || {
            let records = site.gateway.records();
            (records.len() > requests).then_some(records)
        });
        for record in &told {
            let named = (&record["reason"], &record["blame"]);
            assert_eq!(named, (&json!("http2_violation"), &json!("client")));
        }
        let is_of_connection = |record: &&Value| record["path"].is_null();
        let of_connection: Vec<_> = told.iter().filter(is_of_connection).collect();
        assert_eq!((of_connection.len(), told.len()), (1, requests + 1));
        let detail = of_connection[0]["detail"].as_str().unwrap();
        assert!(detail.contains("content of no stream"), "{detail}");
        drop(release);
    }
}

#[test]
fn many_uploads_that_are_answered_early_end_in_order() {
    const AT_ONCE: u32 = 100;
    let origin = TcpOrigin::serving(|mut conn| {
        read_head(&mut conn);
        let refused = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        conn.write_all(refused).ok();
        io::copy(&mut conn, &mut io::sink()).ok();
    });
    let site = Site::start();
    let route = json!({"uri": "/*", "upstream": {"nodes": {origin.node(): 1}}});
    site.gateway.configure("/routes/all", &route);
    let mut client = site.gateway.connect();
    let room = (1_u32 << 24).to_be_bytes();
    client.send([HELLO, &frame(WINDOW_UPDATE, 0, 0, &room)].concat());
    // Each is answered at its head, and sends all of its content all the same.
    for round in 0..8 {
        let streams = (0..AT_ONCE).map(|number| 2 * (AT_ONCE * round + number) + 1);
        let begun = streams.clone().flat_map(|stream| {
            let head = frame(HEADERS, END_HEADERS, stream, POST);
            [head, frame(DATA, 0, stream, b"some")].concat()
        });
        client.send(begun.collect::<Vec<u8>>());
        let mut answered = 0;
        while answered < AT_ONCE {
            let frame = read_frame(&mut client).expect("the connection goes on");
            let is_refused = [GOAWAY, RST_STREAM].contains(&frame.kind);
            assert!(!is_refused, "{round}: {:?}", frame.payload);
            answered += u32::from(frame.kind == HEADERS);
        }
        let ended = streams.flat_map(|stream| frame(DATA, END_STREAM, stream, b"the rest"));
        client.send(ended.collect::<Vec<u8>>());
    }
}
