//! Upstream faults by method and body: the status that each gives, and how often it is sent.

use std::io::{Write, copy, sink};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use socket2::SockRef;

use crate::support::gateway::Gateway;
use crate::support::origin::{ClosedPort, TcpOrigin, ok, read_head, read_head_from};
use crate::support::pki::Ca;
use crate::support::raw::{RawReply, request};

/// Between two bytes of a slow upstream: well within its time-out.
const PAUSE: Duration = Duration::from_millis(10);

/// What is sent: method, body, and whether it may be repeated once it was sent. A body is on its way
/// and gone, whatever the method.
const REQUESTS: [(&str, &str, bool); 9] = [
    ("GET", "", true),
    ("HEAD", "", true),
    ("OPTIONS", "", true),
    ("DELETE", "", true),
    ("PUT", "", true),
    ("PUT", "body", false),
    ("POST", "", false),
    ("POST", "body", false),
    ("PATCH", "body", false),
];

/// What becomes of a request that meets a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It was sent: another node gets it if it may be repeated, else this status.
    Unsure(u16),
    /// The answer of the node is passed on, whole or not.
    Answered(u16, bool),
}

/// A node with a fault, and the requests that it read.
struct Faulty {
    node: String,
    heads: Arc<Mutex<usize>>,
    _origin: Option<TcpOrigin>,
}

impl Faulty {
    /// Reads a request's head, then does this.
    fn reading(act: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> Self {
        let heads = Arc::<Mutex<usize>>::default();
        let seen = Arc::clone(&heads);
        let origin = TcpOrigin::serving(move |mut conn| {
            if !read_head(&mut conn).is_empty() {
                *seen.lock().expect("no holder panics") += 1;
                act(&mut conn);
            }
        });
        Self {
            node: origin.node(),
            heads,
            _origin: Some(origin),
        }
    }

    fn count(&self) -> usize {
        std::mem::take(&mut self.heads.lock().expect("no holder panics"))
    }
}

fn reset(conn: &TcpStream) {
    SockRef::from(conn)
        .set_linger(Some(Duration::ZERO))
        .expect("a socket takes its options");
}

/// Sends no more and reads on.
fn half_close(conn: &mut TcpStream) {
    drop(conn.shutdown(Shutdown::Write));
    drop(copy(conn, &mut sink()));
}

fn say(conn: &mut TcpStream, text: &str) {
    drop(conn.write_all(text.as_bytes()));
}

fn faults() -> Vec<(&'static str, Faulty, End)> {
    let stall = |text: &'static str| {
        Faulty::reading(move |conn| {
            say(conn, text);
            drop(copy(conn, &mut sink()));
        })
    };
    vec![
        (
            "closes-before-answer",
            Faulty::reading(|_| {}),
            End::Unsure(502),
        ),
        (
            "resets-before-answer",
            Faulty::reading(|conn| reset(conn)),
            End::Unsure(502),
        ),
        (
            "half-closes-before-answer",
            Faulty::reading(half_close),
            End::Unsure(502),
        ),
        (
            "closes-mid-header",
            Faulty::reading(|conn| {
                say(conn, "HTTP/1.1 200 OK\r\nContent-Le");
                half_close(conn);
            }),
            End::Unsure(502),
        ),
        (
            "resets-mid-header",
            Faulty::reading(|conn| {
                say(conn, "HTTP/1.1 200 OK\r\nContent-Le");
                thread::park_timeout(PAUSE);
                reset(conn);
            }),
            End::Unsure(502),
        ),
        ("never-answers", stall(""), End::Unsure(504)),
        (
            "stalls-mid-header",
            stall("HTTP/1.1 200 OK\r\nContent-Le"),
            End::Unsure(504),
        ),
        (
            "stalls-mid-body",
            stall("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"),
            End::Answered(200, false),
        ),
        (
            "closes-mid-body",
            Faulty::reading(|conn| {
                say(conn, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
                half_close(conn);
            }),
            End::Answered(200, false),
        ),
        (
            "half-closes-after-answer",
            Faulty::reading(|conn| {
                say(conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow");
                half_close(conn);
            }),
            End::Answered(200, true),
        ),
        (
            "one-byte-at-a-time",
            Faulty::reading(|conn| {
                // Of no use for another request: to HEAD, too, it has content, which comes late.
                for byte in b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nslow"
                {
                    thread::park_timeout(PAUSE);
                    drop(conn.write_all(&[*byte]));
                }
                half_close(conn);
            }),
            End::Answered(200, true),
        ),
        (
            "says-500",
            Faulty::reading(|conn| {
                say(conn, "HTTP/1.1 500 Sorry\r\nContent-Length: 4\r\n\r\noops");
                half_close(conn);
            }),
            End::Answered(500, true),
        ),
        (
            "is-no-http",
            Faulty::reading(|conn| {
                say(conn, "SSH-2.0-OpenSSH_9.2\r\n");
                half_close(conn);
            }),
            End::Answered(502, true),
        ),
    ]
}

/// Asks the route at `/{name}` once, over a connection of its own.
fn ask(gateway: &Gateway, name: &str, method: &str, body: &str) -> RawReply {
    let mut client = gateway.connect();
    let length = format!("Content-Length: {}", body.len());
    let lines: &[&str] = match method {
        "GET" | "HEAD" | "OPTIONS" => &[],
        _ => &[&length],
    };
    client.send(request(method, "h", &format!("/{name}"), lines) + body);
    match method {
        "HEAD" => client.read_bodiless(),
        _ => client.read_reply(),
    }
}

/// An upstream with the faulty node first, and the good one, if any, behind it.
fn upstream(faulty: &str, good: Option<&str>) -> Value {
    let node = |address: &str, priority: i64| {
        let (host, port) = address.rsplit_once(':').expect("host:port");
        let port: u16 = port.parse().expect("a port");
        json!({"host": host, "port": port, "weight": 1, "priority": priority})
    };
    let nodes = [Some(node(faulty, 1)), good.map(|good| node(good, 0))];
    json!({
        "nodes": nodes.into_iter().flatten().collect::<Vec<_>>(),
        "timeout": {"connect": 5, "send": 0.3, "read": 0.3},
    })
}

#[test]
fn fault_gives_its_status_and_no_request_is_sent_again_that_must_not_be() {
    let gateway = Gateway::start();
    let good = TcpOrigin::talking(|_| ok("good"));
    let faults = faults();
    for (name, faulty, _) in &faults {
        for (suffix, good) in [("alone", None), ("two", Some(good.node()))] {
            let upstream = upstream(&faulty.node, good.as_deref());
            let uri = format!("/{name}-{suffix}");
            let id = format!("/routes/{name}-{suffix}");
            gateway.configure(&id, &json!({"uri": uri, "upstream": upstream}));
        }
    }
    thread::scope(|scope| {
        for (name, faulty, end) in &faults {
            let gateway = &gateway;
            scope.spawn(move || {
                for (method, body, repeats) in REQUESTS {
                    let case = format!("{name}: {method} {body:?}");
                    let (alone, two) = match *end {
                        End::Unsure(status) => (status, if repeats { 200 } else { status }),
                        End::Answered(status, _) => (status, status),
                    };
                    // An answer to HEAD has no body to break off in.
                    let is_whole = method == "HEAD" || !matches!(end, End::Answered(_, false));
                    for (suffix, status) in [("alone", alone), ("two", two)] {
                        let reply = ask(gateway, &format!("{name}-{suffix}"), method, body);
                        let is_good = reply.text() == "good";
                        assert_eq!(
                            (reply.status, reply.is_whole),
                            (status, is_whole),
                            "{case} {suffix}: {reply:?}"
                        );
                        let goes_on = suffix == "two" && two == 200 && alone != 200;
                        assert_eq!(
                            is_good || method == "HEAD",
                            goes_on || method == "HEAD",
                            "{case}"
                        );
                        assert_eq!(faulty.count(), 1, "{case} {suffix}: sent once");
                    }
                }
            });
        }
    });
}

#[test]
fn node_that_takes_no_connection_costs_no_request() {
    let gateway = Gateway::start();
    let good = TcpOrigin::talking(|_| ok("good"));
    let pair = Ca::root("CA").server("h");
    let good_tls = TcpOrigin::serving_tls(&pair, |mut stream| {
        read_head_from(&mut stream);
        drop(stream.write_all(&ok("good")));
        drop(stream.shutdown());
    });
    let closed = ClosedPort::new();
    // Over TLS a node that resets connections is met before anything of a request is sent.
    let resetting = TcpOrigin::serving(|conn| reset(&conn));
    for (name, node, good, scheme) in [
        ("refuses", closed.node(), good.node(), "http"),
        (
            "resets-at-accept",
            resetting.node(),
            good_tls.node(),
            "https",
        ),
    ] {
        for (suffix, good, status) in [("alone", None, 502), ("two", Some(&*good), 200)] {
            let mut upstream = upstream(&node, good);
            upstream["scheme"] = json!(scheme);
            let route = json!({"uri": format!("/{name}-{suffix}"), "upstream": upstream});
            gateway.configure(&format!("/routes/{name}-{suffix}"), &route);
            for (method, body, _) in REQUESTS {
                let reply = ask(&gateway, &format!("{name}-{suffix}"), method, body);
                assert_eq!(reply.status, status, "{name} {suffix}: {method} {body:?}");
            }
        }
    }
}

/// In the clear a connection that is reset at once may have taken the request with it.
#[test]
fn reset_at_accept_is_502_or_the_other_node_and_never_twice() {
    let gateway = Gateway::start();
    let good = TcpOrigin::talking(|_| ok("good"));
    let resetting = TcpOrigin::serving(|conn| reset(&conn));
    let upstream = upstream(&resetting.node(), Some(&good.node()));
    gateway.configure("/routes/r", &json!({"uri": "/*", "upstream": upstream}));
    for (method, body, repeats) in REQUESTS {
        let before = good.heads().len();
        let reply = ask(&gateway, "x", method, body);
        let expected: &[u16] = if repeats { &[200] } else { &[200, 502] };
        assert!(
            expected.contains(&reply.status),
            "{method} {body:?}: {reply:?}"
        );
        let sent = good.heads().len() - before;
        assert_eq!(sent, usize::from(reply.status == 200), "{method} {body:?}");
    }
}
