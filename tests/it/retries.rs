//! Upstream faults by method and body: the status that each gives, and how often it is sent.

use std::io::{Read, Write, copy, sink};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::gateway::Gateway;
use crate::support::origin::{ClosedPort, TcpOrigin, ok, read_head, read_head_from, say_last};
use crate::support::pki::Ca;
use crate::support::raw::{RawReply, header, request};
use crate::support::tls::reset;
use crate::support::{SOON, eventually, patiently};

/// Between two bytes of a slow upstream: well within its time-out.
const PAUSE: Duration = Duration::from_millis(10);

/// The most that is kept of a body, to be sent again.
const KEPT: usize = 64 << 10;

/// What is sent: method, bytes of body, and whether it may be repeated once it was sent.
const REQUESTS: [(&str, usize, bool); 10] = [
    ("GET", 0, true),
    ("HEAD", 0, true),
    ("OPTIONS", 0, true),
    ("DELETE", 0, true),
    ("PUT", 0, true),
    ("PUT", 4, true),
    ("DELETE", KEPT, true),
    ("POST", 0, false),
    ("POST", 4, false),
    ("PATCH", 4, false),
];

/// For an upstream that says nothing more. Others get all the time they need: theirs must not pass on a
/// busy machine.
const PATIENCE: Duration = Duration::from_secs(3);

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
    origin: TcpOrigin,
    heads: Arc<Mutex<Vec<String>>>,
    /// The cases whose clients have the beginning of their answer.
    begun: Arc<Mutex<Vec<String>>>,
}

impl Faulty {
    /// Reads a request's head, then does this.
    fn reading(act: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> Self {
        Self::of(move |conn, _| act(conn))
    }

    /// Says this to each request, and resets its connection once the client has the beginning of it: a
    /// reset overtakes what the gateway has not read.
    fn resetting_behind(text: &'static str) -> Self {
        Self::of(move |conn, has_begun| {
            say(conn, text);
            eventually(SOON, "its client has the head", || {
                has_begun().then_some(())
            });
            reset(&*conn);
        })
    }

    fn of(act: impl Fn(&mut TcpStream, &dyn Fn() -> bool) + Send + Sync + 'static) -> Self {
        let (heads, begun) = (Arc::default(), Arc::default());
        let (seen, told) = (Arc::clone(&heads), Arc::clone(&begun));
        let origin = TcpOrigin::serving(move |mut conn| {
            let head = read_head(&mut conn);
            if head.is_empty() {
                return;
            }
            let case = header(&head, "x-case").unwrap_or_default().to_owned();
            locked(&seen).push(head);
            act(&mut conn, &|| locked(&told).contains(&case));
        });
        Self {
            origin,
            heads,
            begun,
        }
    }

    /// How often it got the request of this case.
    fn count(&self, case: &str) -> usize {
        let is_of_it = |head: &&String| header(head, "x-case") == Some(case);
        locked(&self.heads).iter().filter(is_of_it).count()
    }
}

fn locked(list: &Mutex<Vec<String>>) -> MutexGuard<'_, Vec<String>> {
    list.lock().expect("no holder panics")
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
            Faulty::reading(|conn| reset(&*conn)),
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
                say_last(conn, b"HTTP/1.1 200 OK\r\nContent-Le");
            }),
            End::Unsure(502),
        ),
        (
            "resets-mid-header",
            Faulty::reading(|conn| {
                say(conn, "HTTP/1.1 200 OK\r\nContent-Le");
                thread::park_timeout(PAUSE);
                reset(&*conn);
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
                say_last(conn, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
            }),
            End::Answered(200, false),
        ),
        (
            "resets-mid-body",
            // With the request's body unread, too.
            Faulty::resetting_behind("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"),
            End::Answered(200, false),
        ),
        (
            "half-closes-after-answer",
            Faulty::reading(|conn| {
                say_last(conn, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow");
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
                say_last(conn, b"HTTP/1.1 500 Sorry\r\nContent-Length: 4\r\n\r\noops");
            }),
            End::Answered(500, true),
        ),
        (
            "is-no-http",
            Faulty::reading(|conn| {
                say_last(conn, b"SSH-2.0-OpenSSH_9.2\r\n");
            }),
            End::Answered(502, true),
        ),
    ]
}

/// Asks the route at `/{name}` once, over a connection of its own; `begun` is called when the answer's
/// head is there.
fn ask(
    gateway: &Gateway,
    name: &str,
    (method, body): (&str, usize),
    case: &str,
    begun: impl FnOnce(),
) -> RawReply {
    let mut client = gateway.connect();
    let (case, length) = (format!("X-Case: {case}"), format!("Content-Length: {body}"));
    let lines: &[&str] = match method {
        "GET" | "HEAD" | "OPTIONS" => &[&case],
        _ => &[&case, &length],
    };
    client.send(request(method, "h", &format!("/{name}"), lines) + &"x".repeat(body));
    let reply = client.read_bodiless();
    begun();
    match method {
        "HEAD" => reply,
        _ => client.read_rest(reply),
    }
}

/// An upstream with the faulty node first, and the good one, if any, behind it. It waits for either as
/// long as `patience` says.
fn upstream(faulty: &str, good: Option<&str>, patience: Duration) -> Value {
    let node = |address: &str, priority: i64| {
        let (host, port) = address.rsplit_once(':').expect("host:port");
        let port: u16 = port.parse().expect("a port");
        json!({"host": host, "port": port, "weight": 1, "priority": priority})
    };
    let nodes = [Some(node(faulty, 1)), good.map(|good| node(good, 0))];
    json!({
        "nodes": nodes.into_iter().flatten().collect::<Vec<_>>(),
        "timeout": {
            "connect": 5,
            "send": patience.as_secs_f64(),
            "read": patience.as_secs_f64(),
        },
    })
}

#[test]
fn fault_gives_its_status_and_no_request_is_sent_again_that_must_not_be() {
    let gateway = Gateway::start();
    let good = TcpOrigin::talking(|_| ok("good"));
    let faults = faults();
    for (name, faulty, _) in &faults {
        let is_silent = name.starts_with("stalls") || *name == "never-answers";
        let patience = if is_silent { PATIENCE } else { SOON };
        for (suffix, good, retries) in [
            ("alone", None, None),
            ("again", None, Some(1)),
            ("two", Some(good.node()), None),
            ("once", Some(good.node()), Some(0)),
        ] {
            let mut upstream = upstream(&faulty.origin.node(), good.as_deref(), patience);
            if let Some(retries) = retries {
                upstream["retries"] = json!(retries);
            }
            let uri = format!("/{name}-{suffix}");
            let id = format!("/routes/{name}-{suffix}");
            gateway.configure(&id, &json!({"uri": uri, "upstream": upstream}));
        }
    }
    thread::scope(|scope| {
        for ((name, faulty, end), (method, body, repeats)) in faults
            .iter()
            .flat_map(|fault| REQUESTS.map(|request| (fault, request)))
        {
            let gateway = &gateway;
            scope.spawn(move || {
                let (alone, two) = match *end {
                    End::Unsure(status) => (status, if repeats { 200 } else { status }),
                    End::Answered(status, _) => (status, status),
                };
                let goes_on = repeats && matches!(end, End::Unsure(_));
                // An answer to HEAD has no body to break off in.
                let is_whole = method == "HEAD" || !matches!(end, End::Answered(_, false));
                for (suffix, status, tries) in [
                    ("alone", alone, 1),
                    ("again", alone, 1 + usize::from(goes_on)),
                    ("two", two, 1),
                    ("once", alone, 1),
                ] {
                    if matches!(suffix, "again" | "once") && method != "GET" && body != 4 {
                        continue;
                    }
                    let case = format!("{name}: {method} {body} {suffix}");
                    let path = format!("{name}-{suffix}");
                    let reply = ask(gateway, &path, (method, body), &case, || {
                        locked(&faulty.begun).push(case.clone());
                    });
                    let is_good = reply.text() == "good";
                    assert_eq!(
                        (reply.status, reply.is_whole),
                        (status, is_whole),
                        "{case}: {reply:?}"
                    );
                    assert_eq!(
                        is_good || method == "HEAD",
                        suffix == "two" && goes_on || method == "HEAD",
                        "{case}"
                    );
                    // One that was given up for its silence may read what it was sent only now.
                    eventually(SOON, &case, || {
                        let count = faulty.count(&case);
                        assert!(count <= tries, "{case}: {count} tries");
                        (count == tries).then_some(())
                    });
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
        loop {
            let head = read_head_from(&mut stream);
            let length = header(&head, "content-length").and_then(|length| length.parse().ok());
            let mut body = (&mut stream).take(length.unwrap_or(0));
            if head.is_empty()
                || copy(&mut body, &mut sink()).is_err()
                || stream.write_all(&ok("good")).is_err()
            {
                return;
            }
        }
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
            let mut upstream = upstream(&node, good, SOON);
            upstream["scheme"] = json!(scheme);
            let route = json!({"uri": format!("/{name}-{suffix}"), "upstream": upstream});
            gateway.configure(&format!("/routes/{name}-{suffix}"), &route);
            for (method, body, _) in REQUESTS {
                let path = format!("{name}-{suffix}");
                let reply = ask(&gateway, &path, (method, body), "", || ());
                assert_eq!(reply.status, status, "{name} {suffix}: {method} {body}");
            }
        }
    }
}

/// Whatever of it had come when the first node broke off, the second one gets all of it.
#[test]
fn body_that_is_sent_again_is_the_same_body() {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    // It has heard the beginning of the body when it breaks off.
    let first = TcpOrigin::serving(move |mut conn| {
        read_head(&mut conn);
        let mut begin = [0; 8];
        drop(conn.read_exact(&mut begin));
        let _ = tell.lock().expect("no holder panics").send(());
    });
    let second = TcpOrigin::serving(|mut conn| {
        let head = read_head(&mut conn);
        let mut body = Vec::new();
        let mut byte = [0];
        let ends: &[u8] = if head.to_ascii_lowercase().contains("chunked") {
            b"0\r\n\r\n"
        } else {
            b"last"
        };
        while !body.ends_with(ends) && matches!(conn.read(&mut byte), Ok(1)) {
            body.push(byte[0]);
        }
        say_last(&mut conn, &ok(&String::from_utf8_lossy(&body)));
    });
    let gateway = Gateway::start();
    let upstream = upstream(&first.node(), Some(&second.node()), SOON);
    gateway.configure("/routes/r", &json!({"uri": "/*", "upstream": upstream}));
    for (line, begin, rest, expected) in [
        (
            "Content-Length: 12",
            "beginand",
            "last",
            &["beginandlast"][..],
        ),
        // In one part, should the rest have come before the second node was sent to.
        (
            "Transfer-Encoding: chunked",
            "8\r\nbeginand\r\n",
            "4\r\nlast\r\n0\r\n\r\n",
            &["8\r\nbeginand\r\n4\r\nlast\r\n0\r\n\r\n", "beginandlast"],
        ),
    ] {
        for waits in [true, false] {
            let mut client = gateway.connect();
            client.send(request("PUT", "h", "/x", &[line]) + begin);
            if waits {
                told.recv_timeout(SOON).expect("the first node got it");
            }
            client.send(rest);
            let reply = client.read_reply().expect_status(200);
            assert!(expected.contains(&&*reply.text()), "{line}: {reply:?}");
            if !waits {
                told.recv_timeout(SOON).expect("the first node got it");
            }
        }
    }
}

#[test]
fn body_that_is_too_long_to_be_kept_is_not_sent_again() {
    let first = TcpOrigin::serving(|mut conn| {
        read_head(&mut conn);
        drop(conn.read_exact(&mut [0; KEPT + 1]));
    });
    let second = TcpOrigin::talking(|_| ok("good"));
    let gateway = Gateway::start();
    let upstream = upstream(&first.node(), Some(&second.node()), SOON);
    gateway.configure("/routes/r", &json!({"uri": "/*", "upstream": upstream}));
    let reply = ask(&gateway, "x", ("PUT", KEPT + 1), "", || ());
    assert_eq!(reply.status, 502, "{reply:?}");
    assert_eq!(second.heads(), [""; 0]);
}

/// In the clear a connection that is reset at once may have taken the request with it.
#[test]
fn reset_at_accept_is_502_or_the_other_node_and_never_twice() {
    let gateway = Gateway::start();
    let good = TcpOrigin::talking(|_| ok("good"));
    let resetting = TcpOrigin::serving(|conn| reset(&conn));
    let upstream = upstream(&resetting.node(), Some(&good.node()), SOON);
    gateway.configure("/routes/r", &json!({"uri": "/*", "upstream": upstream}));
    for (method, body, repeats) in REQUESTS {
        let before = good.heads().len();
        let reply = ask(&gateway, "x", (method, body), "", || ());
        let expected: &[u16] = if repeats { &[200] } else { &[200, 502] };
        assert!(
            expected.contains(&reply.status),
            "{method} {body}: {reply:?}"
        );
        let sent = good.heads().len() - before;
        assert_eq!(sent, usize::from(reply.status == 200), "{method} {body}");
    }
}

/// As APISIX counts, to the millisecond and not to the tenth of a second.
#[test]
fn no_try_begins_once_the_time_for_retries_is_over() {
    patiently(|limit| {
        let time = limit / 2;
        let count = Arc::new(Mutex::new(0));
        // The first try of a request is over at once, which leaves all of the time for the next; the second
        // one ends just when the time does.
        let slow = || {
            let count = Arc::clone(&count);
            TcpOrigin::serving(move |mut conn| {
                read_head(&mut conn);
                let tries = {
                    let mut count = count.lock().unwrap();
                    *count += 1;
                    *count
                };
                if tries > 1 {
                    thread::sleep(time);
                }
            })
        };
        let nodes = [slow(), slow(), slow()];
        let gateway = Gateway::start();
        let nodes: serde_json::Map<_, _> =
            nodes.iter().map(|node| (node.node(), json!(1))).collect();
        let upstream = json!({"nodes": nodes, "retries": 10, "retry_timeout": time.as_secs_f64()});
        gateway.configure("/routes/r", &json!({"uri": "/*", "upstream": upstream}));
        let mut client = gateway.connect();
        for _ in 0..5 {
            client.get("h", "/", &[]).expect_status(502);
            assert_eq!(std::mem::take(&mut *count.lock().unwrap()), 2);
        }
    });
}
