//! What of HTTP a gateway hands on as it is, and what ends here.

use std::io::{Read, Write};
use std::sync::{Mutex, mpsc};

use serde_json::json;

use crate::support::SOON;
use crate::support::frames::{
    BAD_REQUEST, END_HEADERS, END_STREAM, HEADERS, HELLO, OK, frame, read_frame,
};
use crate::support::gateway::{Gateway, field};
use crate::support::h2::H2Conn;
use crate::support::origin::{TcpOrigin, ok, read_head};
use crate::support::raw::request;

fn before(origin: &TcpOrigin) -> Gateway {
    let gateway = Gateway::start();
    let upstream = json!({"nodes": {origin.node(): 1}});
    gateway.configure("/routes/r", &json!({"uri": "/*", "upstream": upstream}));
    gateway
}

#[test]
fn compressed_content_is_left_alone() {
    // Not even valid: nobody looks into it.
    const CONTENT: &[u8] = b"\x1f\x8b\x08\x00not really\x00\xff";
    let origin = TcpOrigin::talking(|head| {
        let takes = head.to_ascii_lowercase().contains("accept-encoding: gzip");
        let coding = if takes {
            "Content-Encoding: gzip\r\n"
        } else {
            ""
        };
        let mut answer = format!(
            "HTTP/1.1 200 OK\r\n{coding}Vary: Accept-Encoding\r\nETag: \"e-gzip\"\r\n\
             Content-Length: {}\r\n\r\n",
            CONTENT.len()
        )
        .into_bytes();
        answer.extend(CONTENT);
        answer
    });
    let gateway = before(&origin);
    let mut client = gateway.connect();
    for (lines, coding) in [
        (&["Accept-Encoding: gzip, br"][..], Some("gzip")),
        (&[], None),
    ] {
        let reply = client.get("h", "/", lines).expect_status(200);
        assert_eq!(reply.header("content-encoding"), coding, "{reply:?}");
        assert_eq!(reply.header("vary"), Some("Accept-Encoding"));
        assert_eq!(reply.header("etag"), Some("\"e-gzip\""));
        assert_eq!(reply.body, CONTENT);
    }
}

#[test]
fn trailers_of_an_answer_leave_body_and_connection_as_they_are() {
    let origin = TcpOrigin::talking(|head| {
        let trailer = match head.split(' ').nth(1) {
            Some("/trailer") => "X-Sum: 1\r\nContent-Length: 9\r\n",
            _ => "",
        };
        let start = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n";
        format!("{start}5\r\nhello\r\n0\r\n{trailer}\r\n").into_bytes()
    });
    let gateway = before(&origin);
    let mut client = gateway.connect();
    for target in ["/trailer", "/none", "/trailer", "/none"] {
        let reply = client.get("h", target, &["TE: trailers"]);
        let reply = reply.expect_status(200);
        assert_eq!(reply.text(), "hello", "{target}");
        assert!(reply.is_whole, "{target}");
    }
}

/// As in nginx: no upstream of HTTP/1.1 said that it understands them (RFC 9110 §6.5.1), and what a
/// node takes for a header was checked by nobody. gRPC's go on, see `grpc`.
#[test]
fn trailers_of_a_request_end_before_upstreams_of_http1() {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let origin = TcpOrigin::serving(move |mut conn| {
        loop {
            let head = read_head(&mut conn);
            if head.is_empty() {
                return;
            }
            let mut body = Vec::new();
            let mut byte = [0];
            while !body.ends_with(b"\r\n\r\n") && matches!(conn.read(&mut byte), Ok(1)) {
                body.push(byte[0]);
            }
            tell.lock().unwrap().send((head, body)).unwrap();
            conn.write_all(&ok("served")).unwrap();
        }
    });
    let gateway = before(&origin);
    let expect_no_trailers = || {
        let (head, body) = told.recv_timeout(SOON).expect("the origin got it");
        let head = head.to_ascii_lowercase();
        assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
        assert!(!head.contains("trailer"), "{head}");
        assert_eq!(String::from_utf8_lossy(&body), "5\r\nhello\r\n0\r\n\r\n");
    };
    let mut client = gateway.connect();
    let lines = [
        "Transfer-Encoding: chunked",
        "Trailer: X-Sum",
        "TE: trailers",
    ];
    for trailers in ["X-Sum: 7\r\nX-Real-IP: 192.0.2.1\r\n", ""] {
        client.send(request("POST", "h", "/", &lines));
        client.send(format!("5\r\nhello\r\n0\r\n{trailers}\r\n"));
        client.read_reply().expect_status(200);
        expect_no_trailers();
    }
    let mut client = H2Conn::plain(gateway.port("http")).unwrap();
    let mut stream = client.begin("POST", "h", "/", false).unwrap();
    stream.upload.send_data("hello".into(), false).unwrap();
    let trailers = http::HeaderMap::from_iter([(
        http::HeaderName::from_static("x-sum"),
        http::HeaderValue::from_static("7"),
    )]);
    stream.upload.send_trailers(trailers).unwrap();
    assert_eq!(client.read(stream).unwrap().status, 200);
    expect_no_trailers();
}

/// A length beside it is against HTTP/2, and clients reset the stream.
#[test]
fn answer_without_content_has_no_length_for_clients_of_http2() {
    let origin =
        TcpOrigin::talking(|_| b"HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n".to_vec());
    let gateway = before(&origin);
    let mut client = H2Conn::plain(gateway.port("http")).unwrap();
    let stream = client.begin("GET", "h", "/", true).unwrap();
    let answer = client.read(stream).unwrap();
    assert_eq!(answer.status, 204);
    assert!(!answer.head.contains("content-length"), "{}", answer.head);
}

#[test]
fn upstream_that_only_informs_is_not_listened_to_for_ever() {
    let origin = TcpOrigin::serving(|mut conn| {
        read_head(&mut conn);
        while conn.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").is_ok() {}
    });
    let gateway = before(&origin);
    let mut client = gateway.connect();
    client.send(request("GET", "h", "/", &[]));
    let reply = client.read_reply();
    assert_eq!(reply.status, 502, "{reply:?}");
    gateway.expect_record("refused by its reason", |record| {
        field(record, "reason") == Some("upstream_protocol_error")
    });
}

#[test]
fn target_without_a_path_gets_the_root_or_is_refused() {
    let origin = TcpOrigin::echoing();
    let gateway = before(&origin);
    let mut client = gateway.connect();
    client.send("GET http://h?a=/b HTTP/1.1\r\nHost: h\r\n\r\n");
    let head = client.read_reply().expect_status(200).text();
    assert!(head.starts_with("GET /?a=/b HTTP/1.1\r\n"), "{head}");
    // GET, `:path` as it stands, http, h (RFC 7541 §6.1, §6.2.2).
    let mut client = gateway.connect();
    client.send(HELLO);
    for (stream, path, status) in [(1, b"\x04\x04/?a=", OK), (3, b"\x04\x04?a=b", BAD_REQUEST)] {
        let head = [&b"\x82"[..], path, b"\x86\x01\x01h"].concat();
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, &head));
        let answer = loop {
            let frame = read_frame(&mut client).unwrap();
            if frame.kind == HEADERS {
                break frame;
            }
        };
        assert_eq!((answer.stream, answer.payload[0]), (stream, status));
    }
}
