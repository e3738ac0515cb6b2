//! What an upstream and a client get to see of each other's messages.

use std::fmt::Write as _;

use http::{HeaderName, Request};
use serde_json::json;

use crate::support::TlsVersion;
use crate::support::gateway::{Gateway, Setup};
use crate::support::h2::H2Conn;
use crate::support::origin::{ClosedPort, Nginx, Origin, TcpOrigin, ok, seen};
use crate::support::pki::Ca;
use crate::support::raw::{RawClient, RawReply, header, request};

/// A gateway whose only route leads to `origin`.
#[track_caller]
fn before(node: &str) -> Gateway {
    let gateway = Gateway::start();
    gateway.configure(
        "/routes/r",
        &json!({"uri": "/*", "upstream": {"nodes": {node: 1}}}),
    );
    gateway
}

/// Header lines of a head by their lower-case names, in order.
fn names(head: &str) -> Vec<String> {
    head.lines()
        .skip(1)
        .filter_map(|line| Some(line.split_once(':')?.0.to_ascii_lowercase()))
        .collect()
}

#[test]
fn hop_by_hop_headers_end_at_the_gateway_on_the_way_up() {
    let origin = TcpOrigin::echoing();
    let gateway = before(&origin.node());
    let reply = gateway
        .connect()
        .get(
            "h",
            "/",
            &[
                "Connection: X-Mine, keep-alive ,X-Other",
                "Connection: Upgrade",
                "X-Mine: 1",
                "x-other: 1",
                "Keep-Alive: timeout=5",
                "Proxy-Connection: keep-alive",
                "Proxy-Authorization: Basic eDp5",
                "TE: trailers",
                "Trailer: X-Sum",
                "Upgrade: websocket",
                "X-Kept: 1",
                "Authorization: Bearer t",
                "Cookie: a=b",
            ],
        )
        .expect_status(200);
    let mut names = names(&reply.text());
    names.sort();
    assert_eq!(
        names,
        [
            "authorization",
            "cdn-loop",
            "cookie",
            "host",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-port",
            "x-forwarded-proto",
            "x-kept",
            "x-real-ip",
        ]
    );
}

#[test]
fn hop_by_hop_headers_end_at_the_gateway_on_the_way_down() {
    let origin = TcpOrigin::talking(|_| {
        b"HTTP/1.1 200 OK\r\nConnection: X-Mine, keep-alive\r\nX-Mine: 1\r\n\
          Keep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nProxy-Connection: keep-alive\r\n\
          Upgrade: h2c\r\nTrailer: X-Sum\r\nX-Kept: 1\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
          Content-Length: 2\r\n\r\nhi"
            .to_vec()
    });
    let gateway = before(&origin.node());
    let reply = gateway.connect().get("h", "/", &[]).expect_status(200);
    let mut names = names(&reply.head);
    names.retain(|name| name != "date");
    names.sort();
    assert_eq!(
        names,
        ["content-length", "set-cookie", "set-cookie", "x-kept"]
    );
    assert_eq!(reply.text(), "hi");
}

#[test]
fn host_and_length_are_not_a_clients_to_remove() {
    let origin = TcpOrigin::echoing();
    let gateway = before(&origin.node());
    let mut client = gateway.connect();
    client.send(
        "POST / HTTP/1.1\r\nHost: h\r\nConnection: Host, Content-Length\r\nContent-Length: 2\r\n\r\nhi",
    );
    let echo = client.read_reply().expect_status(200).text();
    assert_eq!(header(&echo, "host"), Some("h"), "{echo}");
    assert_eq!(header(&echo, "content-length"), Some("2"), "{echo}");
}

#[test]
fn forwarded_headers_tell_what_was_observed() {
    let origin = TcpOrigin::echoing();
    let gateway = before(&origin.node());
    let pair = Ca::root("CA").server("api.example.com");
    let ssl = json!({"sni": "api.example.com", "cert": pair.cert, "key": pair.key});
    gateway.configure("/ssls/s", &ssl);
    let claims = [
        "X-Forwarded-For: 192.0.2.1",
        "X-Forwarded-For: 192.0.2.2",
        "X-Real-IP: 192.0.2.3",
        "X-Forwarded-Proto: gopher",
        "X-Forwarded-Host: evil.example.com",
        "X-Forwarded-Port: 1",
        "Forwarded: for=192.0.2.4",
    ];
    let http = gateway.port("http").to_string();
    let https = gateway.https_port().to_string();
    let plain = || gateway.connect();
    let tls = |version| RawClient::connect_tls(&gateway.tls("api.example.com", version));
    for (mut client, proto, port) in [
        (plain(), "http", &http),
        (tls(TlsVersion::V12), "https", &https),
        (tls(TlsVersion::V13), "https", &https),
    ] {
        for (host, claims, forwarded_for, port) in [
            (
                "api.example.com",
                &claims[..],
                "192.0.2.1, 192.0.2.2, 127.0.0.1",
                port.as_str(),
            ),
            ("api.example.com:8443", &[], "127.0.0.1", "8443"),
            ("API.example.com", &[], "127.0.0.1", port),
            ("API.example.com", &[], "127.0.0.1", port),
            (
                "API.example.com",
                &claims[..1],
                "192.0.2.1, 127.0.0.1",
                port,
            ),
            ("api.example.com", &[], "127.0.0.1", port),
        ] {
            let echo = client.get(host, "/", claims).expect_status(200).text();
            for (name, value) in [
                ("x-forwarded-for", Some(forwarded_for)),
                ("x-real-ip", Some("127.0.0.1")),
                ("x-forwarded-proto", Some(proto)),
                ("x-forwarded-host", Some(host)),
                ("x-forwarded-port", Some(port)),
                ("forwarded", None),
                ("host", Some(&host.to_ascii_lowercase())),
            ] {
                assert_eq!(header(&echo, name), value, "{name}: {echo}");
                let count = names(&echo).iter().filter(|one| *one == name).count();
                assert_eq!(count, usize::from(value.is_some()), "{name}: {echo}");
            }
            let names = names(&echo);
            let marks = names.iter().filter(|name| *name == "cdn-loop").count();
            assert_eq!(marks, 1, "{echo}");
        }
    }
    for version in TlsVersion::ALL {
        let mut conn = H2Conn::connect(&gateway.tls("api.example.com", version)).unwrap();
        for _ in 0..2 {
            let echo = conn.get("API.example.com", "/").unwrap().body;
            for (name, value) in [
                ("host", "api.example.com"),
                ("x-forwarded-for", "127.0.0.1"),
                ("x-forwarded-host", "api.example.com"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-port", &https),
            ] {
                assert_eq!(header(&echo, name), Some(value), "{name}: {echo}");
            }
        }
    }
}

#[test]
fn identity_a_client_claims_is_stripped_in_every_spelling() {
    let origin = TcpOrigin::echoing();
    let gateway = before(&origin.node());
    let mut client = gateway.connect();
    for claim in [
        "X-Forwarded-Client-Cert",
        "Client-Cert",
        "Client-Cert-Chain",
        "X-Client-Cert",
        "X-SSL-Client-Cert",
        "X-SSL-Client-S-DN",
        "X-SSL-Cert",
        "SSL-Client-Cert",
        "SSL-Client-Verify",
        "SSL-Client-S-DN",
    ] {
        let mixed: String = claim
            .chars()
            .enumerate()
            .map(|(at, c)| {
                if at % 2 == 0 {
                    c.to_ascii_lowercase()
                } else {
                    c.to_ascii_uppercase()
                }
            })
            .collect();
        for name in [
            claim.to_owned(),
            claim.to_ascii_lowercase(),
            claim.to_ascii_uppercase(),
            claim.replace('-', "_"),
            claim.replacen('-', "_", 1),
            mixed.replace('-', "_"),
            mixed,
        ] {
            let lines = [format!("{name}: CN=admin"), "X-Kept: 1".to_owned()];
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let echo = client.get("h", "/", &lines).expect_status(200).text();
            assert!(!echo.contains("CN=admin"), "{name}: {echo}");
            assert!(
                echo.to_ascii_lowercase().contains("x-kept: 1\r\n"),
                "{name}: {echo}"
            );
        }
    }
    // What only looks like one is the client's own.
    let alike = ["Client-Name: 1", "X-SSLess: 2", "X-Forwarded-Client: 3"];
    let echo = client.get("h", "/", &alike).expect_status(200).text();
    for line in alike {
        let line = line.to_ascii_lowercase();
        assert!(echo.to_ascii_lowercase().contains(&line), "{line}: {echo}");
    }
}

#[test]
fn host_is_read_in_one_way_or_refused() {
    let origin = TcpOrigin::echoing();
    let gateway = before(&origin.node());
    for (head, host) in [
        (
            "GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
            "api.example.com",
        ),
        (
            "GET / HTTP/1.1\r\nHost: API.Example.com:80\r\n\r\n",
            "api.example.com:80",
        ),
        (
            "GET / HTTP/1.1\r\nHost: api.example.com.\r\n\r\n",
            "api.example.com",
        ),
        ("GET / HTTP/1.1\r\nhOST:\t[::1]:9080 \r\n\r\n", "[::1]:9080"),
        (
            "GET http://api.example.com/x HTTP/1.1\r\nHost: api.example.com:80\r\n\r\n",
            "api.example.com",
        ),
        (
            "GET / HTTP/1.0\r\nHost: api.example.com\r\n\r\n",
            "api.example.com",
        ),
    ] {
        let mut client = gateway.connect();
        client.send(head);
        let echo = client.read_reply().expect_status(200).text();
        assert_eq!(header(&echo, "host"), Some(host), "{head:?}: {echo}");
        assert!(echo.starts_with("GET /"), "{head:?}: {echo}");
    }
    let answered = origin.heads().len();
    for head in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\nHost: a.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: user@a.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example:99999\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a%2eexample\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b.example\r\n\r\n",
        "GET http://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET http://a.example/ HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.0\r\nHost:\r\n\r\n",
    ] {
        let mut client = gateway.connect();
        client.send(head);
        let reply = client.read_reply();
        assert_eq!(reply.status, 400, "{head:?}: {reply:?}");
        assert!(client.is_ended(), "{head:?}");
    }
    assert_eq!(
        origin.heads().len(),
        answered,
        "a refused request is not forwarded"
    );
}

#[test]
fn request_line_is_forwarded_as_sent() {
    let origin = TcpOrigin::echoing();
    let gateway = before(&origin.node());
    let mut client = gateway.connect();
    for target in [
        "/",
        "/?",
        "/a?b=c&d=%20+%2B&e",
        "/a%2Fb/%7Euser/%C3%A4?q=%C3%A4",
        "/a;p=1,2/b'(c)*!$&+,=:@",
        "/a//b/./c/../d",
        "/a?x=http://h/y?z[]={}|\\^",
    ] {
        let echo = client.get("h", target, &[]).expect_status(200).text();
        let line = format!("GET {target} HTTP/1.1\r\n");
        assert!(echo.starts_with(&line), "{target}: {echo}");
    }
    for method in ["DELETE", "PATCH", "PROPFIND", "OPTIONS"] {
        client.send(request(method, "h", "/x", &[]));
        let echo = client.read_reply().expect_status(200).text();
        assert!(
            echo.starts_with(&format!("{method} /x HTTP/1.1\r\n")),
            "{echo}"
        );
    }
}

#[test]
fn client_of_http_1_0_is_answered_in_its_own_terms() {
    let chunked = TcpOrigin::talking(|_| {
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
            .to_vec()
    });
    let gateway = before(&chunked.node());
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.0\r\nHost: h\r\n\r\n");
    let reply = client.read_reply().expect_status(200);
    assert_eq!(reply.header("transfer-encoding"), None, "{reply:?}");
    assert_eq!(reply.text(), "hello world");
    assert!(client.is_ended());
    // The twin of HTTP/1.1 may go on.
    let mut client = gateway.connect();
    for _ in 0..2 {
        let reply = client.get("h", "/", &[]).expect_status(200);
        assert_eq!(reply.text(), "hello world");
    }
    assert!(chunked.heads()[0].starts_with("GET / HTTP/1.1\r\n"));
}

/// RFC 9110 §6.2: the version that is said is the gateway's own.
#[test]
fn answer_of_http_1_0_is_passed_on_in_http_1_1() {
    for framing in ["", "Content-Length: 11\r\n"] {
        let origin = TcpOrigin::answering(format!("HTTP/1.0 200 OK\r\n{framing}\r\nhello world"));
        let gateway = before(&origin.node());
        let mut client = gateway.connect();
        // Over one connection, though the upstream ends its own with each.
        for _ in 0..2 {
            let reply = client.get("h", "/", &[]).expect_status(200);
            assert!(reply.head.starts_with("HTTP/1.1 200 "), "{reply:?}");
            assert_eq!(
                (reply.text().as_str(), reply.is_whole),
                ("hello world", true)
            );
        }
        client.send("GET / HTTP/1.0\r\nHost: h\r\n\r\n");
        let reply = client.read_reply().expect_status(200);
        assert!(reply.head.starts_with("HTTP/1.0 200 "), "{reply:?}");
        assert_eq!(reply.text(), "hello world");
        assert!(client.is_ended());
    }
}

/// RFC 9110 §6.5.1. What clients of HTTP/2 use takes a length there for a malformed answer.
#[test]
fn length_in_trailers_is_not_passed_on() {
    let origin = TcpOrigin::talking(|_| {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n";
        format!("{head}X-Checksum: 1\r\nContent-Length: 5\r\n\r\n").into_bytes()
    });
    let gateway = before(&origin.node());
    let mut conn = H2Conn::plain(gateway.port("http")).unwrap();
    let request = Request::get("http://h.example/").body(()).unwrap();
    let stream = conn.send(request, true).unwrap();
    let (answer, mut body) = conn.read_head(stream.into_answer()).unwrap();
    assert_eq!(answer.status, 200);
    let trailers = conn.drive(async {
        while let Some(data) = body.data().await {
            assert_eq!(data.unwrap(), "hello");
        }
        body.trailers().await.unwrap().unwrap()
    });
    let names: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
    assert_eq!(names, ["x-checksum"]);
}

#[test]
fn answers_without_a_body_leave_the_connection_in_step() {
    let origin = TcpOrigin::talking(|head| match head.split(' ').nth(1) {
        Some("/204") => b"HTTP/1.1 204 No Content\r\nX-N: 204\r\n\r\n".to_vec(),
        // It contradicts itself, and the second never comes.
        Some("/204-of-7") => b"HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n".to_vec(),
        Some("/304") => {
            b"HTTP/1.1 304 Not Modified\r\nETag: \"e\"\r\nContent-Length: 7\r\n\r\n".to_vec()
        }
        Some("/head") => b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n".to_vec(),
        _ => ok("body"),
    });
    let gateway = before(&origin.node());
    let mut client = gateway.connect();
    let mut ask = |method: &str, target: &str| -> RawReply {
        client.send(request(method, "h", target, &[]));
        let reply = client.read_bodiless();
        // In step: the next answer begins right after this head.
        client.get("h", "/body", &[]).expect_status(200);
        reply
    };
    let head = ask("HEAD", "/head").expect_status(200);
    assert_eq!(head.header("content-length"), Some("1234"));
    let empty = ask("GET", "/204").expect_status(204);
    assert_eq!(empty.header("x-n"), Some("204"));
    assert_eq!(empty.header("content-length"), None);
    let empty = ask("GET", "/204-of-7").expect_status(204);
    assert_eq!(empty.header("content-length"), None);
    let same = ask("GET", "/304").expect_status(304);
    assert_eq!(same.header("etag"), Some("\"e\""));
    // Our own answers to HEAD have no body either.
    gateway.admin_delete("/routes/r").expect_status(200);
    let mut client = gateway.connect();
    for _ in 0..2 {
        client.send(request("HEAD", "h", "/", &[]));
        client.read_bodiless().expect_status(404);
    }
}

#[test]
fn expectation_is_met_here_and_not_forwarded() {
    let origin = TcpOrigin::echoing();
    let gateway = before(&origin.node());
    let mut client = gateway.connect();
    for _ in 0..2 {
        client.send(request(
            "POST",
            "h",
            "/",
            &["Content-Length: 5", "Expect: 100-continue"],
        ));
        client.read_bodiless().expect_status(100);
        client.send("hello");
        let echo = client.read_reply().expect_status(200).text();
        assert_eq!(header(&echo, "expect"), None, "{echo}");
        assert_eq!(header(&echo, "content-length"), Some("5"), "{echo}");
    }
}

#[test]
fn upstreams_server_is_passed_on_and_its_status_told_when_it_failed() {
    let origin = TcpOrigin::talking(|head| {
        let status = head.split(' ').nth(1).unwrap_or("/")[1..].to_owned();
        let mut answer = format!("HTTP/1.1 {status} Whatever\r\n");
        write!(answer, "Server: its-own/1\r\nContent-Length: 2\r\n\r\nhi").unwrap();
        answer.into_bytes()
    });
    let gateway = before(&origin.node());
    let mut client = gateway.connect();
    for (status, told) in [
        (200, None),
        (404, None),
        (499, None),
        (500, Some("500")),
        (503, Some("503")),
        (599, Some("599")),
    ] {
        let reply = client.get("h", &format!("/{status}"), &[]);
        let reply = reply.expect_status(status);
        assert_eq!(reply.header("server"), Some("its-own/1"));
        assert_eq!(reply.header("x-apisix-upstream-status"), told, "{reply:?}");
        assert_eq!(reply.text(), "hi");
    }
    let own = gateway.connect().get("h h", "/", &[]);
    assert_eq!(own.header("server"), Some("Portcullis"), "{own:?}");
}

#[test]
fn status_of_each_try_is_told_when_the_last_one_failed() {
    let gateway = Gateway::start();
    let all = Setup::default().set("proxy.upstream_status", "always");
    let telling = all.start();
    let closed = [ClosedPort::new(), ClosedPort::new()];
    let answering = |status: &str| {
        let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n");
        TcpOrigin::talking(move |_| answer.clone().into_bytes())
    };
    let (well, failing, silent) = (answering("200"), answering("500"), TcpOrigin::silent());
    let [first, second] = closed.each_ref().map(ClosedPort::port);
    let mut clients = [gateway.connect(), telling.connect()];
    for (ports, status, told, told_always) in [
        (&[first][..], 502, Some("502"), Some("502")),
        (&[first, second], 502, Some("502, 502"), Some("502, 502")),
        (
            &[first, failing.port()],
            500,
            Some("502, 500"),
            Some("502, 500"),
        ),
        (&[first, well.port()], 200, None, Some("502, 200")),
        (&[well.port()], 200, None, Some("200")),
        (&[silent.port()], 504, Some("504"), Some("504")),
        (
            &[silent.port(), second],
            502,
            Some("504, 502"),
            Some("504, 502"),
        ),
        (&[], 503, None, None),
    ] {
        let nodes = ports.iter().zip(0_i64..);
        let nodes: Vec<_> = nodes
            .map(|(port, below)| {
                json!({"host": "127.0.0.1", "port": port, "weight": 1, "priority": -below})
            })
            .collect();
        // Who says something has all the time it needs.
        let limit = if ports.contains(&silent.port()) {
            0.3
        } else {
            60.0
        };
        let timeout = json!({"connect": 60, "send": limit, "read": limit});
        let upstream = json!({"nodes": nodes, "timeout": timeout});
        let route = json!({"uri": "/*", "upstream": upstream});
        gateway.configure("/routes/r", &route);
        telling.configure("/routes/r", &route);
        for (client, told) in clients.iter_mut().zip([told, told_always]) {
            let reply = client.get("h", "/", &[]).expect_status(status);
            assert_eq!(reply.header("x-apisix-upstream-status"), told, "{reply:?}");
        }
    }
}

#[test]
fn nginx_sees_the_same_as_our_own_origins() {
    let origin = Origin::nginx(&Nginx::default());
    let gateway = before(&origin.node());
    let claims = ["X-Forwarded-For: 192.0.2.1", "Connection: close"];
    let reply = gateway.connect().get("api.example.com", "/x?y", &claims);
    let body = reply.expect_status(200).text();
    for (what, value) in [
        ("host", "api.example.com"),
        ("uri", "/x?y"),
        ("forwarded_for", "192.0.2.1, 127.0.0.1"),
        ("forwarded_proto", "http"),
        ("real_ip", "127.0.0.1"),
    ] {
        assert_eq!(seen(&body, what), value, "{body}");
    }
}
