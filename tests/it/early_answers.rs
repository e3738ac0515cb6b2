//! Answers that come before the request's body has arrived reach a client that is still sending it,
//! as from nginx: the rest is read, and the connection serves on or ends in order.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

use serde_json::json;

use crate::support::TlsVersion;
use crate::support::gateway::{Gateway, field};
use crate::support::h2::H2Conn;
use crate::support::origin::{ClosedPort, Nginx, Origin, TcpOrigin};
use crate::support::pki::Ca;
use crate::support::raw::{RawClient, request};
use crate::support::site::Site;
use crate::support::tls::open;

const NAME: &str = "api.example.com";
/// More than the kernel holds for two connections.
const BODY: usize = 16 << 20;

/// Sends a head and the whole of a body, and only then reads: what comes, up to `until`.
fn send_all_then_read(port: u16, target: &str, until: &str) -> String {
    let mut conn = open(port);
    let length = format!("Content-Length: {BODY}");
    let head = request("POST", NAME, target, &[&length]);
    conn.write_all(head.as_bytes()).unwrap();
    pour(&mut conn);
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(until.as_bytes()) && conn.read(&mut byte).unwrap() == 1 {
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

/// Writes [`BODY`] bytes: none of them may be met by a reset.
#[track_caller]
fn pour(conn: &mut TcpStream) {
    let block = vec![b'x'; 64 << 10];
    for _ in 0..BODY / block.len() {
        conn.write_all(&block).expect("the peer reads on");
    }
}

#[test]
fn refused_request_leaves_its_connection_in_use_as_in_nginx() {
    let origin = Origin::nginx(&Nginx {
        directives: "client_max_body_size 0; location = /none { return 404; }".to_owned(),
        ..Nginx::default()
    });
    let gateway = Gateway::start();
    gateway.configure(
        "/routes/r",
        &json!({"uri": "/there", "upstream": {"nodes": {origin.node(): 1}}}),
    );
    for port in [origin.port(), gateway.port("http")] {
        let mut client = RawClient::connect(port);
        for _ in 0..2 {
            let length = format!("Content-Length: {BODY}");
            client.send(request("POST", NAME, "/none", &[&length]));
            // The answer is there before the body.
            let reply = client.read_reply().expect_status(404);
            assert_ne!(reply.header("connection"), Some("close"), "{reply:?}");
            client.send(vec![b'x'; BODY]);
        }
        client.get(NAME, "/there", &[]).expect_status(200);
        // And it waits for a client that reads only then.
        let answer = send_all_then_read(port, "/none", "\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    }
}

#[test]
fn refused_request_leaves_its_connection_in_use_over_tls() {
    let gateway = Gateway::start();
    let pair = Ca::root("CA").server(NAME);
    let ssl = json!({"sni": NAME, "cert": pair.cert, "key": pair.key});
    gateway.configure("/ssls/s", &ssl);
    for version in TlsVersion::ALL {
        let mut client = RawClient::connect_tls(&gateway.tls(NAME, version));
        for _ in 0..2 {
            client.send(request("POST", NAME, "/", &["Transfer-Encoding: chunked"]));
            client.read_reply().expect_status(404);
            let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000)).repeat(64);
            client.send(chunk + "0\r\n\r\n");
        }
        client.get(NAME, "/", &[]).expect_status(404);
    }
}

#[test]
fn node_that_is_down_leaves_the_clients_connection_in_use() {
    let gateway = Gateway::start();
    let down = ClosedPort::new();
    gateway.configure(
        "/routes/r",
        &json!({"uri": "/*", "upstream": {"nodes": {down.node(): 1}}}),
    );
    let mut client = gateway.connect();
    for _ in 0..2 {
        let length = format!("Content-Length: {BODY}");
        client.send(request("POST", NAME, "/", &[&length]));
        let reply = client.read_reply().expect_status(502);
        assert_eq!(reply.header("connection"), None, "{reply:?}");
        client.send(vec![b'x'; BODY]);
    }
}

#[test]
fn connection_that_must_end_says_so_and_hears_the_client_out() {
    let gateway = Gateway::start();
    let origin = TcpOrigin::answering(
        "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nno\n",
    );
    gateway.configure(
        "/routes/r",
        &json!({"uri": "/full", "upstream": {"nodes": {origin.node(): 1}}}),
    );
    let pair = Ca::root("CA");
    let server = pair.server("mtls.example.com");
    let ssl = json!({"sni": "mtls.example.com", "cert": server.cert, "key": server.key, "client": {"ca": pair.pem()}});
    gateway.configure("/ssls/s", &ssl);
    for (target, status) in [("/full", "413"), ("http://mtls.example.com/", "421")] {
        let mut conn = open(gateway.port("http"));
        let host = if status == "421" {
            "mtls.example.com"
        } else {
            NAME
        };
        let length = format!("Content-Length: {BODY}");
        let head = request("POST", host, target, &[&length]);
        conn.write_all(head.as_bytes()).unwrap();
        let mut writing = conn.try_clone().unwrap();
        let writer = thread::spawn(move || pour(&mut writing));
        let mut answer = String::new();
        conn.read_to_string(&mut answer).unwrap();
        writer.join().expect("no byte was met by a reset");
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(
            answer
                .to_ascii_lowercase()
                .contains("connection: close\r\n"),
            "{answer}"
        );
    }
}

#[test]
fn client_that_waits_for_100_is_refused_without_it() {
    let gateway = Gateway::start();
    let mut client = gateway.connect();
    client.send(request(
        "POST",
        NAME,
        "/none",
        &["Content-Length: 1000", "Expect: 100-continue"],
    ));
    let reply = client.read_reply().expect_status(404);
    assert_eq!(reply.header("connection"), Some("close"), "{reply:?}");
    assert!(client.is_ended());
    gateway.expect_record("its reason", |record| {
        field(record, "reason") == Some("route_not_found")
    });
}

#[test]
fn client_of_http2_that_still_sends_gets_its_answer_and_is_told_to_stop() {
    let origin = TcpOrigin::answering(
        "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nno\n",
    );
    let site = Site::start();
    site.put_ssl("s", NAME, &json!({}));
    let route = json!({"uri": "/full", "upstream": {"nodes": {origin.node(): 1}}});
    site.gateway.configure("/routes/all", &route);
    for version in TlsVersion::ALL {
        let mut conn = H2Conn::connect(&site.client(NAME).tls(version)).unwrap();
        // As many as would end the connection, were each counted against its client.
        let begun: Vec<_> = (0..64)
            .map(|turn| {
                let (path, status) = [("/none", 404), ("/full", 413)][turn % 2];
                let mut stream = conn.begin("POST", NAME, path, false).unwrap();
                let part = vec![b'x'; 60_000];
                stream.upload.send_data(part.into(), false).unwrap();
                (stream, status)
            })
            .collect();
        for (stream, status) in begun {
            let mut upload = stream.upload;
            let (answer, mut body) = conn.read_head(stream.answer).unwrap();
            assert_eq!(answer.status, status);
            let page = conn.drive(async { body.data().await.unwrap().unwrap() });
            assert!(page.len() >= 3, "{answer:?}");
            let told = conn.drive(async { poll_fn(|cx| upload.poll_reset(cx)).await });
            // RFC 9113 §8.1.
            assert_eq!(told.unwrap(), h2::Reason::NO_ERROR, "{answer:?}");
        }
        assert_eq!(conn.get(NAME, "/none").unwrap().status, 404);
    }
}

#[test]
fn curl_sees_the_early_answer_over_http2() {
    let site = Site::start();
    site.put_ssl("s", NAME, &json!({}));
    let route = json!({"uri": "/there", "upstream": {"nodes": {"127.0.0.1:1": 1}}});
    site.gateway.configure("/routes/all", &route);
    for version in TlsVersion::ALL {
        let ask = site.ask(NAME, "/none").http2().tls(version);
        let reply = ask.body(vec![b'x'; BODY]).send().expect_status(404);
        assert!(reply.body.contains("404 Route Not Found"), "{reply:?}");
    }
}
