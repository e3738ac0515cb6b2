//! Routes that ask for the body: forms, JSON and GraphQL, read before the route is found and passed on
//! whole.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use http::Request;
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup, field};
use crate::support::h2::H2Conn;
use crate::support::origin::{TcpOrigin, ok, read_head_from};
use crate::support::raw::{RawClient, header};
use crate::support::{LIMIT, SOON, eventually, patiently, setting};

const FORM: &str = "Content-Type: application/x-www-form-urlencoded";
const JSON: &str = "Content-Type: application/json";
const PARTS: &str = "Content-Type: multipart/form-data; boundary=b";

/// Answers each request with the Host and the body that it had, and a line break between them.
fn mirror() -> TcpOrigin {
    TcpOrigin::serving(|conn| {
        let mut conn = BufReader::new(conn);
        while let Some((host, body)) = read_request(&mut conn) {
            let answer = [host.as_bytes(), b"\n", &body].concat();
            let answer = ok(&String::from_utf8_lossy(&answer));
            if conn.get_mut().write_all(&answer).is_err() {
                return;
            }
        }
    })
}

fn read_request(conn: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let head = read_head_from(conn);
    let host = header(&head, "host")?.to_owned();
    let mut body = Vec::new();
    if header(&head, "transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            conn.read_line(&mut line).ok()?;
            let length = u64::from_str_radix(line.trim(), 16).ok()?;
            conn.by_ref().take(length).read_to_end(&mut body).ok()?;
            conn.read_line(&mut String::new()).ok()?;
            if length == 0 {
                return Some((host, body));
            }
        }
    }
    let length = header(&head, "content-length").and_then(|length| length.parse().ok());
    let length = length.unwrap_or(0);
    let read = conn.by_ref().take(length).read_to_end(&mut body).ok()?;
    (u64::try_from(read) == Ok(length)).then_some((host, body))
}

/// Puts a route that is told by its id, which its upstream gets for a Host.
#[track_caller]
fn route(gateway: &Gateway, node: &str, id: &str, uri: &str, vars: &Value) {
    let upstream = json!({"pass_host": "rewrite", "upstream_host": id, "nodes": {node: 1}});
    let document = json!({"uri": uri, "vars": vars, "upstream": upstream});
    gateway.configure(&format!("/routes/{id}"), &document);
}

fn post(target: &str, lines: &[&str], body: &[u8]) -> Vec<u8> {
    let mut head = format!("POST {target} HTTP/1.1\r\nHost: h\r\n");
    for line in lines {
        head.push_str(line);
        head.push_str("\r\n");
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    [head.as_bytes(), body].concat()
}

/// The route that a request took, else its status; the body must have come whole.
#[track_caller]
fn taken(client: &mut RawClient, body: &[u8]) -> String {
    let reply = client.read_reply();
    if reply.status != 200 {
        return reply.status.to_string();
    }
    let text = reply.text();
    let (host, seen) = text.split_once('\n').expect("two parts");
    assert_eq!(seen.as_bytes(), body, "{host}");
    host.to_owned()
}

#[test]
fn route_is_found_by_a_form_or_json_and_the_body_is_passed_on_whole() {
    let (origin, gateway) = (mirror(), Gateway::start());
    for (id, vars) in [
        ("form", json!([["post_arg_name", "==", "x y"]])),
        ("named", json!([["post_arg.model", "==", "gpt-4"]])),
        ("nested", json!([["post_arg.model.version", "==", 4]])),
        ("flag", json!([["post_arg.stream", "==", true]])),
        (
            "listed",
            json!([["post_arg.messages[*].content[*].type", "has", "image_url"]]),
        ),
    ] {
        route(&gateway, &origin.node(), id, "/*", &vars);
    }
    let mut client = gateway.connect();
    let parts = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\ngpt-4\r\n--b--\r\n";
    let messages = r#"{"messages": [{"content": [{"type": "text"}, {"type": "image_url"}]}]}"#;
    for (content_type, body, wanted) in [
        (FORM, "name=x+y", "form"),
        (FORM, "a=1&%6eame=x%20y&name=z", "form"),
        (FORM, "name=z&name=x+y", "404"),
        (FORM, "model=gpt-4", "named"),
        (JSON, r#"{"model": "gpt-4"}"#, "named"),
        (JSON, r#"{"model": {"version": 4}}"#, "nested"),
        (JSON, r#"{"model": {"version": "4.0"}}"#, "nested"),
        (JSON, r#"{"model": {"version": "5"}}"#, "404"),
        (JSON, r#"{"stream": true}"#, "flag"),
        (JSON, r#"{"stream": "true"}"#, "404"),
        (JSON, messages, "listed"),
        (JSON, r#"{"model": "gpt-4""#, "404"),
        (JSON, r#"{"name": "x y"}"#, "404"),
        (JSON, "", "404"),
        ("Content-Type: text/plain", r#"{"model": "gpt-4"}"#, "404"),
        (PARTS, parts, "named"),
        ("Accept: */*", "model=gpt-4", "404"),
    ] {
        client.send(post("/", &[content_type], body.as_bytes()));
        assert_eq!(
            taken(&mut client, body.as_bytes()),
            wanted,
            "{content_type} {body}"
        );
    }
}

#[test]
fn route_is_found_by_a_graphql_operation() {
    let (origin, gateway) = (mirror(), Gateway::start());
    for (id, vars) in [
        (
            "anonymous",
            json!([["graphql_operation", "query"], ["graphql_name", ""]]),
        ),
        (
            "repo",
            json!([["graphql_operation", "mutation"], ["graphql_name", "repo"]]),
        ),
        ("owner", json!([["graphql_root_fields", "has", "owner"]])),
    ] {
        let uri = if id == "owner" { "/fields" } else { "/graphql" };
        route(&gateway, &origin.node(), id, uri, &vars);
    }
    let mut client = gateway.connect();
    let mutation = "mutation repo($ep: Episode!) {\n  createReview(episode: $ep) { stars }\n}";
    let json = r#"{"query": "query { owner { name } }"}"#;
    for (target, content_type, body, wanted) in [
        (
            "/graphql",
            "Accept: */*",
            "query {\n owner { name }\n}",
            "anonymous",
        ),
        (
            "/graphql",
            "Content-Type: application/graphql",
            mutation,
            "repo",
        ),
        ("/graphql", JSON, json, "anonymous"),
        ("/graphql", JSON, "{ a }", "404"),
        (
            "/graphql",
            "Accept: */*",
            "query repo { owner { name } }",
            "404",
        ),
        ("/graphql", "Accept: */*", "AA", "404"),
        ("/graphql", "Accept: */*", "", "404"),
        (
            "/fields",
            "Accept: */*",
            "{ repo { stars } alias: owner { name } }",
            "owner",
        ),
        (
            "/fields",
            "Accept: */*",
            "{ ...F } fragment F on Query { owner }",
            "owner",
        ),
        ("/fields", "Accept: */*", "{ repo { owner } }", "404"),
    ] {
        client.send(post(target, &[content_type], body.as_bytes()));
        assert_eq!(
            taken(&mut client, body.as_bytes()),
            wanted,
            "{target} {body}"
        );
    }
    for (target, wanted) in [
        ("/graphql?query=%7B+owner%20%7B+name+%7D+%7D", "anonymous"),
        ("/graphql?query=AA", "404"),
        ("/graphql", "404"),
    ] {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert_eq!(taken(&mut client, b""), wanted, "{target}");
    }
}

/// A gateway that reads at most 1000 bytes to find a route, `json` by its body or `all`.
fn bounded(node: &str) -> Gateway {
    let setup = Setup::default();
    let gateway = setup.set("limits.routed_body_bytes", "1000").start();
    route(&gateway, node, "all", "/*", &json!([]));
    let vars = json!([["post_arg.model", "==", "m"]]);
    route(&gateway, node, "json", "/ask", &vars);
    gateway
}

/// A document of so many bytes.
fn sized(length: usize) -> Vec<u8> {
    let (open, close) = (r#"{"model": "m", "pad": ""#, "\"}");
    let pad = "x".repeat(length - open.len() - close.len());
    format!("{open}{pad}{close}").into_bytes()
}

#[test]
fn longer_body_is_not_looked_at_and_passed_on_all_the_same() {
    let origin = mirror();
    let gateway = bounded(&origin.node());
    let mut client = gateway.connect();
    for (length, wanted) in [
        (1000, "json"),
        (1001, "all"),
        (3_000_000, "all"),
        (30, "json"),
    ] {
        let body = sized(length);
        client.send(post("/ask", &[JSON], &body));
        assert_eq!(taken(&mut client, &body), wanted, "{length}");
        // Chunks, whose sum is not known before.
        let mut sent = format!(
            "POST /ask HTTP/1.1\r\nHost: h\r\n{JSON}\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        let text = String::from_utf8(body.clone()).expect("ASCII");
        let (first, rest) = text.split_at(7);
        for part in [first, rest] {
            sent.push_str(&format!("{:x}\r\n{part}\r\n", part.len()));
        }
        client.send(sent + "0\r\n\r\n");
        assert_eq!(taken(&mut client, &body), wanted, "{length}, in chunks");
    }
}

#[test]
fn client_that_waits_for_100_is_told_to_go_on_and_takes_its_time() {
    let origin = mirror();
    let gateway = bounded(&origin.node());
    let mut client = gateway.connect();
    for length in [30, 2000] {
        let body = sized(length);
        let request = post("/ask", &[JSON, "Expect: 100-continue"], &body);
        let (head, _) = request.split_at(request.len() - body.len());
        client.send(head);
        client.read_bodiless().expect_status(100);
        for part in body.chunks(10) {
            client.send(part);
        }
        let wanted = if length == 30 { "json" } else { "all" };
        assert_eq!(taken(&mut client, &body), wanted);
    }
}

#[test]
fn streams_of_http2_are_routed_by_their_bodies() {
    let origin = mirror();
    let gateway = bounded(&origin.node());
    let mut client = H2Conn::plain(gateway.port("http")).expect("it speaks HTTP/2");
    for (length, wanted) in [(30, "json"), (1000, "json"), (1001, "all"), (60_000, "all")] {
        let body = sized(length);
        let request = Request::post("http://h/ask").header("content-type", "application/json");
        let mut stream = client.send(request.body(()).unwrap(), false).unwrap();
        for part in body.chunks(7000) {
            stream
                .upload
                .send_data(part.to_vec().into(), false)
                .unwrap();
        }
        stream.upload.send_data(Vec::new().into(), true).unwrap();
        let answer = client.read(stream).unwrap();
        let text = String::from_utf8(body).unwrap();
        assert_eq!(answer.body, format!("{wanted}\n{text}"), "{length}");
    }
}

#[test]
fn body_is_not_waited_for_where_no_route_that_may_fit_asks_for_it() {
    let origin = TcpOrigin::echoing();
    let gateway = bounded(&origin.node());
    // It asks for another method, and for an argument before the body.
    let document = json!({
        "uri": "/ask", "methods": ["PUT"], "vars": [["graphql_name", "x"]],
        "upstream": {"nodes": {origin.node(): 1}},
    });
    gateway.configure("/routes/put", &document);
    let vars = json!([["arg_a", "1"], ["post_arg_a", "1"]]);
    route(&gateway, &origin.node(), "later", "/later", &vars);
    let requests = [
        ("/elsewhere", JSON),
        ("/ask", "Content-Type: text/plain"),
        ("/later", FORM),
    ];
    for (count, (target, content_type)) in (1..).zip(requests) {
        let mut client = gateway.connect();
        let request = post(target, &[content_type], b"a=1");
        let (head, body) = request.split_at(request.len() - 3);
        client.send(head);
        eventually(SOON, "its head is at the upstream", || {
            (origin.heads().len() == count).then_some(())
        });
        client.send(body);
        client.read_reply().expect_status(200);
    }
}

#[test]
fn what_was_read_is_sent_again_to_the_next_node() {
    let tries = AtomicUsize::new(0);
    let origin = TcpOrigin::serving(move |conn| {
        let mut conn = BufReader::new(conn);
        let Some((_, body)) = read_request(&mut conn) else {
            return;
        };
        if tries.fetch_add(1, Ordering::AcqRel) > 0 {
            let text = String::from_utf8_lossy(&body).into_owned();
            drop(conn.get_mut().write_all(&ok(&text)));
        }
    });
    let gateway = Gateway::start();
    let upstream = json!({"nodes": {origin.node(): 1}, "retries": 1});
    let vars = json!([["post_arg.model", "==", "m"]]);
    let document = json!({"uri": "/*", "vars": vars, "upstream": upstream});
    gateway.configure("/routes/r", &document);
    let body = sized(60_000);
    let request = String::from_utf8(post("/", &[JSON], &body)).expect("ASCII");
    let mut client = gateway.connect();
    client.send(request.replacen("POST", "PUT", 1));
    let reply = client.read_reply().expect_status(200);
    assert_eq!(reply.text().as_bytes(), body);
}

#[test]
fn bodies_that_are_held_are_bounded_all_together() {
    let origin = mirror();
    let setup = Setup::default().set("workers", "1");
    let gateway = setup.set("limits.routed_body_bytes", "1000").start();
    let vars = json!([["post_arg.model", "==", "m"]]);
    route(&gateway, &origin.node(), "json", "/*", &vars);
    let request = post("/ask", &[JSON], &sized(1000));
    let (most, last) = request.split_at(request.len() - 1);
    // There is room for all of them but one, whichever is read last.
    let mut clients: Vec<RawClient> = (0..65).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        client.send(most);
    }
    gateway.expect_record("its reason", |record| {
        field(record, "reason") == Some("read_ahead_overload")
    });
    // Who has room goes on, and gives it back.
    let answered = clients.iter_mut().map(|client| {
        client.send(last);
        client.read_reply().status
    });
    let (good, refused): (Vec<u16>, _) = answered.partition(|status| *status == 200);
    assert_eq!((good.len(), refused), (64, vec![503]));
    eventually(SOON, "room", || {
        let mut client = gateway.connect();
        client.send(&request);
        (client.read_reply().status == 200).then_some(())
    });
}

#[test]
fn body_that_was_passed_on_takes_no_room_of_others() {
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let waiting = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&waiting);
    let origin = TcpOrigin::serving(move |conn| {
        let mut conn = BufReader::new(conn);
        while let Some((_, body)) = read_request(&mut conn) {
            if body.len() == 1000 {
                count.fetch_add(1, Ordering::AcqRel);
                let _released = held.lock().unwrap().recv();
            }
            drop(conn.get_mut().write_all(&ok("answer")));
        }
    });
    let setup = Setup::default().set("workers", "1");
    let gateway = setup.set("limits.routed_body_bytes", "1000").start();
    let vars = json!([["post_arg.model", "==", "m"]]);
    route(&gateway, &origin.node(), "json", "/*", &vars);
    // As many as there is room for, all of them unanswered.
    let mut asking: Vec<RawClient> = (0..64).map(|_| gateway.connect()).collect();
    for client in &mut asking {
        client.send(post("/ask", &[JSON], &sized(1000)));
    }
    eventually(SOON, "all are at the upstream", || {
        (waiting.load(Ordering::Acquire) == 64).then_some(())
    });
    let mut client = gateway.connect();
    client.send(post("/ask", &[JSON], &sized(999)));
    client.read_reply().expect_status(200);
    drop(release);
    for client in &mut asking {
        client.read_reply().expect_status(200);
    }
}

#[test]
fn body_that_drips_is_given_up() {
    patiently(|limit| {
        let origin = mirror();
        let gateway = Setup::default()
            .set("limits.body_timeout", &setting(limit))
            .start();
        let vars = json!([["post_arg.model", "==", "m"]]);
        route(&gateway, &origin.node(), "json", "/ask", &vars);
        let request = post("/ask", &[JSON], &sized(100));
        let (head, body) = request.split_at(request.len() - 100);
        let mut client = gateway.connect();
        client.send(head);
        // Never as long as the limit between two of them, and longer than that all in all.
        let pause = limit / 10;
        let answered = body[..50].iter().any(|byte| {
            client.send([*byte]);
            client.read_some_within(pause)
        });
        assert!(answered);
        client.read_reply().expect_status(408);
        let record = gateway.expect_record("its reason", |record| {
            field(record, "reason") == Some("client_timeout")
        });
        let detail = "the body that its route asks for was not there within limits.body_timeout";
        assert_eq!(field(&record, "detail"), Some(detail));
        // Without a route that asks for it, it may go on as long as it likes.
        route(&gateway, &origin.node(), "all", "/*", &json!([]));
        let mut client = gateway.connect();
        client.send(post("/", &[JSON], &sized(100)).split_at(head.len() - 3).0);
        let (_, body) = request.split_at(request.len() - 100);
        let answered = body[..15].iter().any(|byte| {
            client.send([*byte]);
            client.read_some_within(pause)
        });
        assert!(!answered);
        client.send(&body[15..]);
        client.read_reply().expect_status(200);
    });
}

#[test]
fn client_that_does_not_send_its_body_is_given_up() {
    let before = |setup: Setup| {
        let gateway = setup.start();
        let vars = json!([["post_arg_a", "1"]]);
        route(&gateway, "127.0.0.1:1", "r", "/*", &vars);
        gateway
    };
    let gateway = before(Setup::default().set("limits.body_timeout", &setting(LIMIT)));
    let request = post("/", &[FORM], b"a=1");
    let mut client = gateway.connect();
    client.send(&request[..request.len() - 1]);
    let reply = client.read_reply().expect_status(408);
    assert_eq!(reply.header("connection"), Some("close"));
    // Who leaves in time is no one who is late. A reset takes with it what was not read yet: this one waits
    // until its head was.
    let gateway = before(Setup::default());
    let mut leaving = gateway.connect();
    let asking = post("/", &[FORM, "Expect: 100-continue"], b"a=1");
    leaving.send(&asking[..asking.len() - 3]);
    assert_eq!(leaving.read_bodiless().status, 100);
    leaving.send("a=");
    leaving.vanish();
    gateway.expect_record("the client is gone", |record| {
        field(record, "reason") == Some("client_gone")
    });
}
