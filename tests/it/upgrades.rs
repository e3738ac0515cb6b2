//! WebSocket and other upgrades: the route permits, the upstream consents, and two connections go on
//! as one.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup, field};
use crate::support::memory::{BIG, MIB, expect_room, peak, pour};
use crate::support::origin::{Nginx, Origin, TcpOrigin, ok, read_head};
use crate::support::pki::{Ca, Pair};
use crate::support::raw::{RawClient, RawReply, header, request};
use crate::support::site::Site;
use crate::support::upstream::{NAME as UPSTREAM, record_of, showing, speaking, upstream};
use crate::support::websocket::{
    ACCEPTED, BINARY, CLOSE, CONTINUATION, EchoOrigin, Frame, PING, PONG, QUESTION, TEXT, read,
    write, write_part,
};
use crate::support::{SOON, TlsVersion, eventually, patiently, setting};

const NAME: &str = "api.example.com";
/// What an upstream says that consents to [`raw_question`].
const CONSENT: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: raw\r\n\r\n";

fn plain(node: &str) -> Value {
    json!({"nodes": {node: 1}})
}

/// Puts a route that permits upgrades for all paths.
#[track_caller]
fn permit(gateway: &Gateway, upstream: &Value) {
    let route = json!({"uri": "/*", "enable_websocket": true, "upstream": upstream});
    gateway.configure("/routes/all", &route);
}

/// A gateway that permits upgrades to this upstream.
fn gateway(upstream: &Value) -> Gateway {
    let gateway = Gateway::start();
    permit(&gateway, upstream);
    gateway
}

/// Asks for WebSocket and gets it.
#[track_caller]
fn upgrade(mut client: RawClient, path: &str) -> RawClient {
    client.send(request("GET", NAME, path, &QUESTION));
    let reply = client.read_bodiless();
    assert_eq!(reply.status, 101, "{reply:?}");
    assert_eq!(reply.header("sec-websocket-accept"), Some(ACCEPTED));
    assert_eq!(reply.header("upgrade"), Some("websocket"));
    let connection = reply.header("connection").unwrap();
    assert!(connection.eq_ignore_ascii_case("upgrade"), "{reply:?}");
    client
}

/// Asks for a protocol without rules of its own.
fn raw_question(path: &str) -> String {
    request("GET", NAME, path, &["Connection: upgrade", "Upgrade: raw"])
}

#[track_caller]
fn go_raw(mut client: RawClient, path: &str) -> RawClient {
    client.send(raw_question(path));
    let reply = client.read_bodiless();
    assert_eq!(reply.status, 101, "{reply:?}");
    client
}

#[track_caller]
fn exchange(client: &mut RawClient, kind: u8, payload: &[u8]) -> Frame {
    write(client, kind, payload, true).unwrap();
    read(client).unwrap()
}

/// Talks as WebSocket clients do, to the end.
#[track_caller]
fn converse(mut client: RawClient) {
    let text = exchange(&mut client, TEXT, b"hello");
    assert_eq!((text.kind, text.payload.as_slice()), (TEXT, &b"hello"[..]));
    let big: Vec<u8> = (0..3 * MIB).map(|at| at.to_le_bytes()[1]).collect();
    let echoed = exchange(&mut client, BINARY, &big);
    assert_eq!(echoed.kind, BINARY);
    assert!(echoed.payload == big, "what comes back is what was sent");
    assert_eq!(exchange(&mut client, PING, b"p").kind, PONG);
    // In parts with a ping between (RFC 6455 §5.4), each byte by itself.
    let mut parts = Vec::new();
    write_part(&mut parts, TEXT, false, b"he", true).unwrap();
    write(&mut parts, PING, b"p", true).unwrap();
    write_part(&mut parts, CONTINUATION, true, b"llo", true).unwrap();
    for byte in parts {
        client.write_all(&[byte]).unwrap();
    }
    for (kind, is_last, payload) in [
        (TEXT, false, &b"he"[..]),
        (PONG, true, b"p"),
        (CONTINUATION, true, b"llo"),
    ] {
        let payload = payload.to_vec();
        let expected = Frame {
            kind,
            is_last,
            payload,
        };
        assert_eq!(read(&mut client).unwrap(), expected);
    }
    // An application's own code, with as long a reason as fits (§5.5, §7.4.2).
    let last = [&4999_u16.to_be_bytes()[..], &[b'x'; 123]].concat();
    let close = exchange(&mut client, CLOSE, &last);
    assert_eq!((close.kind, close.payload), (CLOSE, last));
    assert!(client.is_ended());
}

/// The record of the tunnel at this path, with its reason.
#[track_caller]
fn ended(gateway: &Gateway, path: &str) -> (Value, Option<String>) {
    let record = record_of(gateway, path);
    let reason = field(&record, "reason").map(str::to_owned);
    (record, reason)
}

/// An upstream that consents, then leaves each connection to the test.
struct Consenting {
    origin: TcpOrigin,
    tunnels: Receiver<TcpStream>,
}

impl Consenting {
    fn start() -> Self {
        Self::saying(CONSENT)
    }

    /// The same with this answer.
    fn saying(answer: &'static str) -> Self {
        let (give, tunnels) = mpsc::channel();
        let origin = TcpOrigin::serving(move |mut conn| {
            if read_head(&mut conn).ends_with("\r\n\r\n") {
                conn.write_all(answer.as_bytes()).unwrap();
                conn.set_nodelay(true).unwrap();
                drop(give.send(conn));
            }
        });
        Self { origin, tunnels }
    }

    fn upstream(&self) -> Value {
        plain(&self.origin.node())
    }

    #[track_caller]
    fn next(&self) -> TcpStream {
        let tunnel = self.tunnels.recv_timeout(SOON);
        tunnel.expect("an upgrade reaches the upstream")
    }
}

#[track_caller]
fn expect_bytes(from: &mut impl Read, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    from.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, expected);
}

#[test]
fn websocket_passes_from_every_client_to_every_upstream() {
    let ca = Ca::root("CA");
    let clear = EchoOrigin::plain();
    let secure = EchoOrigin::tls(&ca.server(UPSTREAM));
    let relay = Origin::nginx(&Nginx {
        directives: format!(
            "location /mutual {{ proxy_pass http://{}; proxy_http_version 1.1;
               proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $http_connection;
               proxy_set_header X-DN $ssl_client_s_dn; }}",
            clear.node()
        ),
        ..Nginx::mutual(ca.server(UPSTREAM), ca.pem())
    });
    let site = Site::start();
    site.put_ssl("web", NAME, &json!({"client": {"ca": ca.pem()}}));
    site.put_ssl("open", "open.example.com", &json!({}));
    let alice = ca.client("alice");
    for version in TlsVersion::ALL {
        let routes = [
            ("/clear", plain(&clear.node())),
            ("/secure", upstream(&secure.node(), &speaking(version))),
            (
                "/mutual",
                upstream(&relay.node(), &showing(&ca.client("gateway"), version)),
            ),
        ];
        for (path, upstream) in routes {
            let route = json!({"uri": path, "enable_websocket": true, "upstream": upstream});
            site.gateway.configure(&format!("/routes{path}"), &route);
            let client = site.client(NAME).tls(version).cert(&alice);
            converse(upgrade(RawClient::connect_tls(&client), path));
        }
    }
    let route = json!({"uri": "/open", "enable_websocket": true, "upstream": plain(&clear.node())});
    site.gateway.configure("/routes/open", &route);
    let mut client = site.gateway.connect();
    let question = request("GET", "open.example.com", "/open", &QUESTION);
    client.send(question);
    assert_eq!(client.read_bodiless().status, 101);
    converse(client);
    let relayed = clear.heads();
    assert!(
        relayed
            .iter()
            .any(|head| header(head, "x-dn") == Some("CN=gateway")),
        "{relayed:?}"
    );
    for head in clear.heads().iter().chain(&secure.heads()) {
        assert_eq!(header(head, "upgrade"), Some("websocket"), "{head}");
        assert_eq!(header(head, "sec-websocket-version"), Some("13"), "{head}");
    }
    let (record, reason) = ended(&site.gateway, "/mutual");
    assert_eq!((&record["status"], reason), (&json!(101), None), "{record}");
    // The frames of a conversation, masks and all; the answers have none.
    let parts = (6 + 2) + (6 + 1) + (6 + 3);
    let frames = (6 + 5) + (14 + 3 * MIB) + (6 + 1) + parts + (6 + 125);
    assert_eq!(record["bytes_in"], frames, "{record}");
    assert_eq!(record["bytes_out"], frames - 7 * 4, "{record}");
}

#[test]
fn upgrade_passes_only_where_route_or_service_says_so() {
    let origin = EchoOrigin::plain();
    let gateway = Gateway::start();
    let service = json!({"enable_websocket": true, "upstream": plain(&origin.node())});
    gateway.configure("/services/yes", &service);
    gateway.configure("/services/no", &json!({"upstream": plain(&origin.node())}));
    for (name, route, status) in [
        ("service", json!({"service_id": "yes"}), 101),
        (
            "overruled",
            json!({"service_id": "yes", "enable_websocket": false}),
            426,
        ),
        ("silent", json!({"service_id": "no"}), 426),
        (
            "route",
            json!({"service_id": "no", "enable_websocket": true}),
            101,
        ),
    ] {
        let path = format!("/{name}");
        let mut route = route;
        route["uri"] = path.clone().into();
        gateway.configure(&format!("/routes/{name}"), &route);
        let mut client = gateway.connect();
        client.send(request("GET", NAME, &path, &QUESTION));
        let reply = client.read_bodiless();
        assert_eq!(reply.status, status, "{name}: {reply:?}");
    }
    for head in origin.heads() {
        let asks = head.contains("/service") || head.contains("/route");
        assert_eq!(header(&head, "upgrade").is_some(), asks, "{head}");
        assert_eq!(header(&head, "connection").is_some(), asks, "{head}");
    }
}

#[test]
fn upstream_that_declines_answers_an_ordinary_request() {
    // Without its key a question is declined.
    let origin = EchoOrigin::plain();
    let gateway = gateway(&plain(&origin.node()));
    let mut client = gateway.connect();
    for _ in 0..2 {
        let reply = client.get(NAME, "/x", &QUESTION[..3]).expect_status(426);
        assert_eq!(reply.text(), "ask\n");
        assert_eq!(reply.header("upgrade"), None);
    }
    // The same connections, of both sides.
    drop(upgrade(client, "/x"));
    assert_eq!(origin.heads().len(), 3);
}

#[test]
fn only_what_was_asked_for_is_gone_over_to() {
    let origin = TcpOrigin::talking(|head| {
        let asked = header(head, "upgrade").unwrap_or("nothing");
        let target = head.split(' ').nth(1).unwrap_or_default();
        match target.strip_prefix("/101/") {
            Some("silent") => b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec(),
            Some(to) => format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {to}\r\n\r\n"
            )
            .into_bytes(),
            None => ok(asked),
        }
    });
    let gateway = gateway(&plain(&origin.node()));
    let ask = |path: &str, lines: &[&str]| gateway.connect().get(NAME, path, lines);
    let up = "Connection: upgrade";
    // HTTP's own would carry requests that nobody checks.
    for (lines, passed) in [
        (&[up, "Upgrade: h2c"][..], "nothing"),
        (&[up, "Upgrade: HTTP/2.0, TLS/1.2"], "nothing"),
        (&["Upgrade: websocket"], "nothing"),
        (&[up], "nothing"),
        (&[up, "Upgrade: websocket, h2c"], "websocket"),
        (&[up, "Upgrade: raw/1, other"], "raw/1, other"),
    ] {
        let reply = ask("/asked", lines).expect_status(200);
        assert_eq!(reply.text(), passed, "{lines:?}");
    }
    let mut client = gateway.connect();
    client.send(format!(
        "GET /asked HTTP/1.0\r\nHost: {NAME}\r\n{up}\r\nUpgrade: websocket\r\n\r\n"
    ));
    assert_eq!(client.read_reply().text(), "nothing");
    let mut client = gateway.connect();
    client.send(format!(
        "POST /asked HTTP/1.1\r\nHost: {NAME}\r\n{up}\r\nUpgrade: raw\r\nContent-Length: 1\r\n\r\nx"
    ));
    assert_eq!(client.read_reply().text(), "nothing");
    let question = [up, "Upgrade: raw, other"];
    for agreed in ["/101/raw", "/101/Other"] {
        assert_eq!(upgraded(&gateway, agreed, &question).status, 101);
    }
    for (path, lines) in [
        ("/101/h2c", &question[..]),
        ("/101/raw,h2c", &question),
        ("/101/silent", &question),
        ("/101/raw", &[]),
    ] {
        let reply = ask(path, lines);
        assert_eq!(reply.status, 502, "{path}: {reply:?}");
    }
    let refused = |record: &Value| field(record, "reason") == Some("upstream_protocol_error");
    eventually(SOON, "each refusal is recorded", || {
        let records = gateway.records();
        (records.iter().filter(|record| refused(record)).count() == 4).then_some(())
    });
}

/// The head of the answer to this question.
#[track_caller]
fn upgraded(gateway: &Gateway, path: &str, lines: &[&str]) -> RawReply {
    let mut client = gateway.connect();
    client.send(request("GET", NAME, path, lines));
    client.read_bodiless()
}

#[test]
fn bytes_that_come_early_are_not_lost() {
    let origin = Consenting::saying(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: raw\r\n\r\nfirst",
    );
    let gateway = gateway(&origin.upstream());
    let mut client = gateway.connect();
    client.send(raw_question("/early") + "early");
    assert_eq!(client.read_bodiless().status, 101);
    let mut tunnel = origin.next();
    expect_bytes(&mut tunnel, b"early");
    expect_bytes(&mut client, b"first");
}

#[test]
fn side_that_ends_leaves_the_other_its_say() {
    let ca = Ca::root("CA");
    let origin = Consenting::start();
    let site = Site::start();
    site.put_ssl("web", NAME, &json!({}));
    permit(&site.gateway, &origin.upstream());
    for (number, version) in TlsVersion::ALL.into_iter().enumerate() {
        let connect = || {
            [
                site.gateway.connect(),
                RawClient::connect_tls(&site.client(NAME).tls(version)),
            ]
        };
        for (at, client) in connect().into_iter().enumerate() {
            let path = format!("/client/{number}/{at}");
            let mut client = go_raw(client, &path);
            let mut tunnel = origin.next();
            client.send("last word");
            client.end_writing();
            let mut heard = String::new();
            tunnel.read_to_string(&mut heard).unwrap();
            assert_eq!(heard, "last word");
            tunnel.write_all(b"and mine").unwrap();
            drop(tunnel);
            let mut heard = String::new();
            client.read_to_string(&mut heard).unwrap();
            assert_eq!(heard, "and mine");
            let (record, reason) = ended(&site.gateway, &path);
            assert_eq!(reason, None, "{record}");
            assert_eq!(
                (&record["bytes_in"], &record["bytes_out"]),
                (&json!(9), &json!(8))
            );
        }
        for (at, client) in connect().into_iter().enumerate() {
            let path = format!("/upstream/{number}/{at}");
            let mut client = go_raw(client, &path);
            let mut tunnel = origin.next();
            tunnel.write_all(b"last word").unwrap();
            tunnel.shutdown(Shutdown::Write).unwrap();
            let mut heard = String::new();
            client.read_to_string(&mut heard).unwrap();
            assert_eq!(heard, "last word");
            client.send("and mine");
            client.end_writing();
            let mut heard = String::new();
            tunnel.read_to_string(&mut heard).unwrap();
            assert_eq!(heard, "and mine");
            let (record, reason) = ended(&site.gateway, &path);
            assert_eq!(reason, None, "{record}");
        }
    }
    drop(ca);
}

#[test]
fn side_that_breaks_off_is_named() {
    let origin = Consenting::start();
    let gateway = gateway(&origin.upstream());
    let client = go_raw(gateway.connect(), "/client");
    let mut tunnel = origin.next();
    client.vanish();
    // The upstream is let go as well.
    let end = tunnel.read(&mut [0]);
    assert!(
        matches!(end, Ok(0))
            || end.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
    );
    let (record, reason) = ended(&gateway, "/client");
    assert_eq!(reason.as_deref(), Some("client_gone"), "{record}");

    let mut client = go_raw(gateway.connect(), "/upstream");
    let tunnel = origin.next();
    let linger = socket2::SockRef::from(&tunnel).set_linger(Some(Duration::ZERO));
    linger.unwrap();
    drop(tunnel);
    assert!(client.is_ended());
    let (record, reason) = ended(&gateway, "/upstream");
    assert_eq!(reason.as_deref(), Some("upstream_reset"), "{record}");
    assert_eq!(record["status"], 101, "{record}");
}

#[test]
fn side_that_stops_reading_holds_the_other_back_in_bounded_memory() {
    let origin = Consenting::start();
    let site = Site::start();
    site.put_ssl("web", NAME, &json!({}));
    permit(&site.gateway, &origin.upstream());
    let before = peak(&site.gateway);
    // Up, and down to a client in the clear and over TLS.
    let client = go_raw(site.gateway.connect(), "/up");
    let tunnel = origin.next();
    flood(&client.socket(), tunnel);
    for client in [
        site.gateway.connect(),
        RawClient::connect_tls(&site.client(NAME)),
    ] {
        let client = go_raw(client, "/down");
        flood(&origin.next(), client);
    }
    expect_room(&site.gateway, before);
}

/// Pours until nobody takes more, then has it read: nothing is lost.
#[track_caller]
fn flood(from: &TcpStream, to: impl Read) {
    let (stalled, stall) = mpsc::channel();
    let pouring = {
        let from = from.try_clone().unwrap();
        thread::spawn(move || pour(&from, &stalled))
    };
    let poured = stall.recv_timeout(2 * SOON).expect("it is held back");
    assert!(poured < BIG / 2, "{} MiB were taken", poured / MIB);
    let all = to.take(BIG as u64);
    let count = io::copy(&mut { all }, &mut io::sink()).unwrap();
    assert_eq!(count, BIG as u64);
    pouring.join().unwrap();
}

#[test]
fn both_directions_stream_at_once() {
    let origin = TcpOrigin::serving(|mut conn| {
        read_head(&mut conn);
        conn.write_all(CONSENT.as_bytes()).unwrap();
        // As it comes.
        drop(io::copy(&mut conn.try_clone().unwrap(), &mut conn));
    });
    let gateway = gateway(&plain(&origin.node()));
    let before = peak(&gateway);
    let mut client = go_raw(gateway.connect(), "/both");
    let socket = client.socket();
    let pouring = thread::spawn(move || {
        pour(&socket, &mpsc::channel().0);
        socket.shutdown(Shutdown::Write).unwrap();
    });
    let count = io::copy(&mut client, &mut io::sink()).unwrap();
    assert_eq!(count, BIG as u64);
    pouring.join().unwrap();
    expect_room(&gateway, before);
    let (record, reason) = ended(&gateway, "/both");
    assert_eq!(
        (&record["bytes_in"], &record["bytes_out"]),
        (&json!(BIG), &json!(BIG))
    );
    assert_eq!(reason, None, "{record}");
}

#[test]
fn tunnel_in_which_nothing_moves_ends_with_the_read_time_out() {
    patiently(|limit| {
        let origin = Consenting::start();
        let mut upstream = origin.upstream();
        upstream["timeout"] = json!({"connect": 60, "send": 60, "read": limit.as_secs_f64()});
        let gateway = gateway(&upstream);
        let mut used = go_raw(gateway.connect(), "/used");
        let mut other_end = origin.next();
        let mut idle = go_raw(gateway.connect(), "/idle");
        let mut idle_end = origin.next();
        // Either direction keeps a tunnel open, for longer than the later one that is idle.
        let began = Instant::now();
        let mut turns = 0;
        while !idle.read_some_within(Duration::from_millis(100)) {
            assert!(began.elapsed() < 2 * SOON, "it goes on");
            if turns % 2 == 0 {
                used.send("x");
                expect_bytes(&mut other_end, b"x");
            } else {
                other_end.write_all(b"y").unwrap();
                expect_bytes(&mut used, b"y");
            }
            turns += 1;
        }
        assert!(turns > 1, "{turns}");
        assert!(idle.is_ended());
        assert!(matches!(idle_end.read(&mut [0]), Ok(0)));
        let (record, reason) = ended(&gateway, "/idle");
        assert_eq!(reason.as_deref(), Some("tunnel_idle"), "{record}");
        used.send("last");
        expect_bytes(&mut other_end, b"last");
        // A limit on requests is none on tunnels, and neither is one on idle connections.
        assert!(
            gateway
                .records()
                .iter()
                .all(|record| field(record, "path") != Some("/used"))
        );
    });
}

#[test]
fn peer_that_takes_nothing_is_cut_off() {
    let origin = Consenting::start();
    let mut upstream = origin.upstream();
    upstream["timeout"] = json!({"connect": 60, "send": 0.6, "read": 60});
    let gateway = Setup::default().set("limits.body_timeout", "600ms").start();
    permit(&gateway, &upstream);
    let client = go_raw(gateway.connect(), "/up");
    let tunnel = origin.next();
    pour(&client.socket(), &mpsc::channel().0);
    let (record, reason) = ended(&gateway, "/up");
    assert_eq!(reason.as_deref(), Some("upstream_timeout"), "{record}");
    drop(tunnel);
    let client = go_raw(gateway.connect(), "/down");
    pour(&origin.next(), &mpsc::channel().0);
    let (record, reason) = ended(&gateway, "/down");
    assert_eq!(reason.as_deref(), Some("client_timeout"), "{record}");
    drop(client);
}

#[test]
fn tunnel_outlives_the_limits_of_requests_and_connections() {
    patiently(|limit| {
        let origin = Consenting::start();
        let gateway = Setup::default()
            .set("limits.body_timeout", &setting(limit))
            .set("limits.idle_timeout", &setting(limit))
            .set("limits.header_timeout", &setting(limit))
            .start();
        permit(&gateway, &origin.upstream());
        let mut client = go_raw(gateway.connect(), "/long");
        let mut tunnel = origin.next();
        // One that is held to the limit shows that it has passed.
        assert!(gateway.connect().is_ended());
        client.send("up");
        expect_bytes(&mut tunnel, b"up");
        tunnel.write_all(b"down").unwrap();
        expect_bytes(&mut client, b"down");
    });
}

#[test]
fn tunnel_goes_on_while_the_gateway_ends_and_not_for_ever() {
    let origin = Consenting::start();
    for (timeout, is_ended_by_us) in [("30s", false), ("300ms", true)] {
        let gateway = Setup::default().set("shutdown_timeout", timeout).start();
        permit(&gateway, &origin.upstream());
        let mut client = go_raw(gateway.connect(), "/tunnel");
        let mut tunnel = origin.next();
        gateway.ask_to_stop();
        gateway.expect_log("the end begins", |line| {
            field(line, "message").is_some_and(|text| text.contains("drain"))
        });
        if !is_ended_by_us {
            client.send("still");
            expect_bytes(&mut tunnel, b"still");
            drop(tunnel);
            assert!(client.is_ended());
            client.end_writing();
        }
        let stopped = gateway.wait();
        assert_eq!(stopped.status.code(), Some(0), "{stopped:?}");
        let of_it = |record: &&Value| field(record, "path") == Some("/tunnel");
        let record = stopped.records.iter().find(of_it).expect("its record");
        assert_eq!(record["status"], 101, "{record}");
        let reason = is_ended_by_us.then_some("shut_down");
        assert_eq!(field(record, "reason"), reason, "{record}");
    }
}

#[test]
fn tunnel_ends_when_its_client_is_not_let_in_any_more() {
    let origin = Consenting::start();
    let site = Site::start();
    permit(&site.gateway, &origin.upstream());
    let (ca, next) = (Ca::root("Client CA"), Ca::root("Next CA"));
    let asks = |cas: &[&Ca]| {
        let bundle: String = cas.iter().map(|ca| ca.pem()).collect();
        json!({"client": {"ca": bundle}})
    };
    for version in TlsVersion::ALL {
        site.put_ssl("web", NAME, &asks(&[&ca, &next]));
        let open = |pair: &Pair, path: &str| {
            let client = site.client(NAME).tls(version).cert(pair);
            go_raw(RawClient::connect_tls(&client), path)
        };
        let path = format!("/{version:?}");
        let mut gone = open(&ca.client("alice"), &path);
        let mut gone_end = origin.next();
        let mut stays = open(&next.client("bob"), "/stays");
        let mut stays_end = origin.next();
        site.put_ssl("web", NAME, &asks(&[&next]));
        assert!(gone.is_ended());
        assert!(matches!(gone_end.read(&mut [0]), Ok(0)));
        let (record, reason) = ended(&site.gateway, &path);
        assert_eq!(reason.as_deref(), Some("client_policy_changed"), "{record}");
        stays.send("still");
        expect_bytes(&mut stays_end, b"still");
        site.gateway.admin_delete("/ssls/web").expect_status(200);
        stays.send("here");
        expect_bytes(&mut stays_end, b"here");
    }
    // In the clear, for a name that begins to ask; and for one that does not.
    let mut gone = go_raw(site.gateway.connect(), "/clear");
    drop(origin.next());
    assert!(gone.is_ended());
    let mut gone = go_raw(site.gateway.connect(), "/begins");
    let mut gone_end = origin.next();
    let mut stays = site.gateway.connect();
    stays.send(raw_question("/other").replace(NAME, "other.example.com"));
    assert_eq!(stays.read_bodiless().status, 101);
    let mut stays_end = origin.next();
    site.put_ssl("web", NAME, &asks(&[&ca]));
    assert!(gone.is_ended());
    assert!(matches!(gone_end.read(&mut [0]), Ok(0)));
    let (record, reason) = ended(&site.gateway, "/begins");
    assert_eq!(
        reason.as_deref(),
        Some("authority_policy_mismatch"),
        "{record}"
    );
    stays.send("still");
    expect_bytes(&mut stays_end, b"still");
}

#[test]
fn policy_that_changes_before_the_consent_is_heeded() {
    let (arrive, arrived) = mpsc::channel();
    let (go_on, may_go_on): (Sender<()>, _) = mpsc::channel();
    let may_go_on = Arc::new(Mutex::new(may_go_on));
    let origin = TcpOrigin::serving(move |mut conn| {
        read_head(&mut conn);
        arrive.send(()).unwrap();
        may_go_on.lock().unwrap().recv_timeout(SOON).unwrap();
        drop(conn.write_all(CONSENT.as_bytes()));
        drop(conn.read(&mut [0]));
    });
    let site = Site::start();
    permit(&site.gateway, &plain(&origin.node()));
    let (ca, next) = (Ca::root("Client CA"), Ca::root("Next CA"));
    for version in TlsVersion::ALL {
        for (allowed, status) in [(&next, 421), (&ca, 101)] {
            site.put_ssl("web", NAME, &json!({"client": {"ca": ca.pem()}}));
            let client = site.client(NAME).tls(version).cert(&ca.client("alice"));
            let mut client = RawClient::connect_tls(&client);
            client.send(raw_question("/x"));
            arrived.recv_timeout(SOON).unwrap();
            let client_ca = json!({"client": {"ca": allowed.pem(), "depth": 2}});
            site.put_ssl("web", NAME, &client_ca);
            go_on.send(()).unwrap();
            let reply = client.read_bodiless();
            assert_eq!(reply.status, status, "{reply:?}");
        }
    }
}

#[test]
fn upgrade_to_an_upstream_of_http2_is_an_ordinary_request() {
    let ca = Ca::root("CA");
    let nginx = Origin::nginx(&Nginx {
        is_http2: true,
        ..Nginx::tls(ca.server(UPSTREAM))
    });
    let mut grpcs = upstream(&nginx.node(), &speaking(TlsVersion::V13));
    grpcs["scheme"] = "grpcs".into();
    let gateway = gateway(&grpcs);
    gateway
        .connect()
        .get(NAME, "/x", &QUESTION)
        .expect_status(200);
}
