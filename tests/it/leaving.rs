//! A client that leaves while its request is served is noticed, whatever it asked and over whatever it
//! came; one that sends its next requests meanwhile is not taken for gone.

use std::io::{Read, Write, copy, sink};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use serde_json::json;
use socket2::SockRef;

use crate::support::gateway::{Gateway, field};
use crate::support::origin::{TcpOrigin, ok, read_head};
use crate::support::pki::Ca;
use crate::support::raw::{RawClient, request};
use crate::support::{SOON, TlsVersion};

const NAME: &str = "api.example.com";
/// Long enough for what was sent to arrive.
const PAUSE: Duration = Duration::from_millis(100);

/// What [`answering_with`] tells of a connection that ended.
const ENDED: &str = "ended";

/// A gateway in front of `origin`, with a certificate.
fn before(origin: &TcpOrigin) -> Gateway {
    let gateway = Gateway::start();
    let upstream = json!({"nodes": {origin.node(): 1}});
    gateway.configure("/routes/r", &json!({"uri": "/*", "upstream": upstream}));
    let pair = Ca::root("CA").server(NAME);
    let ssl = json!({"sni": NAME, "cert": pair.cert, "key": pair.key});
    gateway.configure("/ssls/s", &ssl);
    gateway
}

/// Clients over each kind of connection.
fn clients(gateway: &Gateway) -> Vec<(String, RawClient)> {
    let mut clients = vec![("plain".to_owned(), gateway.connect())];
    clients.extend(TlsVersion::ALL.map(|version| {
        let client = RawClient::connect_tls(&gateway.tls(NAME, version));
        (format!("{version:?}"), client)
    }));
    clients
}

/// An upstream that says this and no more. Every head is told when it came, and that it ended once its
/// connection did.
fn answering_with(answer: &'static [u8]) -> (TcpOrigin, mpsc::Receiver<String>) {
    let (told, heard) = mpsc::channel();
    let told = Mutex::new(told);
    let origin = TcpOrigin::serving(move |mut conn| {
        let tell = |word: &str| drop(told.lock().expect("no holder panics").send(word.to_owned()));
        tell(&read_head(&mut conn));
        drop(conn.write_all(answer));
        drop(copy(&mut conn, &mut sink()));
        tell(ENDED);
    });
    (origin, heard)
}

#[track_caller]
fn expect_gone(gateway: &Gateway, path: &str) {
    let record = gateway.expect_record(path, |record| field(record, "path") == Some(path));
    assert_eq!(field(&record, "reason"), Some("client_gone"), "{record}");
}

#[test]
fn client_that_leaves_before_its_answer_is_noticed_whatever_it_asked() {
    let (origin, heard) = answering_with(b"");
    let gateway = before(&origin);
    let asked: [(&str, &[&str], &str); 4] = [
        ("GET", &[], ""),
        // A part of a request is behind it, which will never be whole.
        ("OPTIONS", &[], "GET /half HTTP"),
        ("POST", &["Content-Length: 5"], "hello"),
        (
            "PUT",
            &["Transfer-Encoding: chunked"],
            "5\r\nhello\r\n0\r\n\r\n",
        ),
    ];
    for (method, lines, body) in asked {
        for vanishes in [false, true] {
            for (over, mut client) in clients(&gateway) {
                let path = format!("/{method}/{over}/{vanishes}");
                let head = request(method, NAME, &path, lines);
                client.send(format!("{head}{body}"));
                // The request is on its way before its client leaves.
                let seen = heard.recv_timeout(SOON);
                let seen = seen.unwrap_or_else(|_| panic!("{path} does not arrive"));
                assert!(seen.starts_with(&format!("{method} {path} ")), "{seen}");
                match vanishes {
                    true => client.vanish(),
                    false => drop(client),
                }
                assert_eq!(
                    heard.recv_timeout(SOON).as_deref(),
                    Ok(ENDED),
                    "{path} goes on"
                );
                expect_gone(&gateway, &path);
            }
        }
    }
}

#[test]
fn client_that_leaves_within_its_answer_is_noticed() {
    let (origin, heard) = answering_with(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbegun");
    let gateway = before(&origin);
    for (over, mut client) in clients(&gateway) {
        let path = format!("/{over}");
        client.send(request("GET", NAME, &path, &[]));
        assert_eq!(client.read_bodiless().status, 200, "{over}");
        assert_eq!(client.read_text(5), "begun");
        drop(client);
        heard.recv_timeout(SOON).expect("its head came");
        let end = heard.recv_timeout(SOON);
        assert_eq!(end.as_deref(), Ok(ENDED), "its upstream is left, too");
        expect_gone(&gateway, &path);
    }
}

#[test]
fn client_that_leaves_after_an_upload_that_outlasted_the_begin_of_its_answer_is_noticed() {
    let (origin, heard) = answering_with(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbegun");
    let gateway = before(&origin);
    let uploads = [
        ("Content-Length: 5", ["hel", "lo"]),
        ("Transfer-Encoding: chunked", ["3\r\nhel\r\n", "0\r\n\r\n"]),
    ];
    for (line, [begin, end]) in uploads {
        for (over, mut client) in clients(&gateway) {
            let path = format!("/{over}/{}", begin.len());
            let head = request("POST", NAME, &path, &[line]);
            client.send(format!("{head}{begin}"));
            assert_eq!(client.read_bodiless().status, 200, "{path}");
            assert_eq!(client.read_text(5), "begun");
            client.send(end);
            thread::park_timeout(PAUSE);
            drop(client);
            heard.recv_timeout(SOON).expect("its head came");
            assert_eq!(
                heard.recv_timeout(SOON).as_deref(),
                Ok(ENDED),
                "{path} goes on"
            );
            expect_gone(&gateway, &path);
        }
    }
}

#[test]
fn requests_that_are_sent_ahead_are_served_in_their_order() {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let origin = TcpOrigin::serving(move |mut conn| {
        loop {
            let head = read_head(&mut conn);
            let Some(path) = head.split(' ').nth(1) else {
                return;
            };
            drop(tell.lock().expect("no holder panics").send(path.to_owned()));
            if path.starts_with("/held") {
                thread::park_timeout(PAUSE);
            }
            drop(conn.write_all(&ok(path)));
        }
    });
    let gateway = before(&origin);
    for (over, mut client) in clients(&gateway) {
        let get = |path: &str| request("GET", NAME, path, &[]);
        // Together with the first one; while it is served; in pieces; more than is read at once.
        client.send([get("/held/1"), get("/2")].concat());
        assert_eq!(told.recv_timeout(SOON).as_deref(), Ok("/held/1"), "{over}");
        let third = get("/3");
        let (begin, end) = third.split_at(20);
        client.send(begin);
        thread::park_timeout(PAUSE / 4);
        let many: String = (4..300).map(|number| get(&format!("/{number}"))).collect();
        client.send([end, &many].concat());
        assert_eq!(client.read_reply().expect_status(200).text(), "/held/1");
        for number in 2..300 {
            let path = format!("/{number}");
            assert_eq!(client.read_reply().expect_status(200).text(), path);
            assert_eq!(told.recv_timeout(SOON), Ok(path), "{over}");
        }
    }
}

#[test]
fn client_that_sends_ahead_and_then_no_more_has_all_but_the_last_answered() {
    let (tell, told) = mpsc::channel();
    let (leave, left) = mpsc::channel();
    let (tell, left) = (Mutex::new(tell), Mutex::new(left));
    let origin = TcpOrigin::serving(move |mut conn| {
        loop {
            let head = read_head(&mut conn);
            let Some(path) = head.split(' ').nth(1) else {
                return;
            };
            drop(tell.lock().expect("no holder panics").send(path.to_owned()));
            if path.starts_with("/last") {
                // Until the gateway gives it up.
                drop(copy(&mut conn, &mut sink()));
                return;
            }
            if path == "/1" {
                let _ = left.lock().expect("no holder panics").recv();
            }
            // Its client's end is there.
            thread::park_timeout(PAUSE);
            drop(conn.write_all(&ok(path)));
        }
    });
    let gateway = before(&origin);
    for (over, mut client) in clients(&gateway) {
        let last = format!("/last/{over}");
        let all = ["/1", "/2", &last].map(|path| request("GET", NAME, path, &[]));
        client.send(all.concat());
        client.end_writing();
        leave.send(()).expect("the origin is there");
        for path in ["/1", "/2"] {
            assert_eq!(client.read_reply().expect_status(200).text(), path);
        }
        assert!(client.is_ended(), "{over}");
        for path in ["/1", "/2"] {
            assert_eq!(told.recv_timeout(SOON).as_deref(), Ok(path), "{over}");
        }
        // Nothing is done for who left before.
        expect_gone(&gateway, &last);
        assert_eq!(told.try_recv().ok(), None, "{over}");
    }
}

#[test]
fn client_that_left_behind_its_answer_is_told_nothing() {
    let origin = TcpOrigin::talking(|_| ok("answer"));
    let gateway = before(&origin);
    for version in TlsVersion::ALL {
        let mut client = RawClient::connect_tls(&gateway.tls(NAME, version));
        let reply = client.get(NAME, "/", &[]);
        assert_eq!(reply.expect_status(200).text(), "answer");
        // Its farewell and the end of its side come together.
        let corked = SockRef::from(&client.socket()).set_tcp_cork(true);
        corked.expect("a socket takes its options");
        client.end_writing();
        let mut rest = Vec::new();
        let ended = client.socket().read_to_end(&mut rest);
        assert_eq!(ended.expect("an end"), 0, "{version:?}: {rest:?}");
        // Where the gateway ends it, it says so.
        let mut client = RawClient::connect_tls(&gateway.tls(NAME, version));
        let reply = client.get(NAME, "/", &["Connection: close"]);
        assert_eq!(reply.expect_status(200).text(), "answer");
        client.socket().read_to_end(&mut rest).expect("an end");
        assert!(!rest.is_empty(), "{version:?}");
    }
}
