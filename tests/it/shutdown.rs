//! The end of the process: what is in flight is finished, nothing new is taken, within a bound.

use std::io::Write;
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::support::gateway::{Gateway, Setup, field};
use crate::support::origin::{TcpOrigin, read_head};
use crate::support::pki::Ca;
use crate::support::raw::{RawClient, request};
use crate::support::{SOON, TlsVersion, eventually};

const NAME: &str = "api.example.com";

/// An upstream that answers half, and the rest when it is told to.
struct HalfWay {
    origin: TcpOrigin,
    /// A word for each request that has come.
    arrived: Receiver<()>,
    /// A word for each that may be finished.
    go_on: Sender<()>,
}

fn half_way() -> HalfWay {
    let (arrive, arrived) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel();
    let may_go_on = Arc::new(Mutex::new(may_go_on));
    let arrive = Mutex::new(arrive);
    let origin = TcpOrigin::serving(move |mut conn| {
        read_head(&mut conn);
        drop(conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst"));
        let _ = arrive.lock().unwrap().send(());
        let _ = may_go_on.lock().unwrap().recv_timeout(2 * SOON);
        drop(conn.write_all(b" half"));
        drop(conn.shutdown(Shutdown::Write));
    });
    HalfWay {
        origin,
        arrived,
        go_on,
    }
}

/// A gateway with one name and one route to a node.
fn gateway(setup: Setup, ca: &Ca, node: &str) -> Gateway {
    let gateway = setup.start();
    let pair = ca.server(NAME);
    let ssl = json!({"cert": pair.cert, "key": pair.key, "snis": [NAME]});
    gateway.admin_put("/ssls/1", &ssl).expect_status(201);
    let route = json!({"uri": "/*", "upstream": {"nodes": {node: 1}}});
    gateway.admin_put("/routes/1", &route).expect_status(201);
    gateway
}

/// A kept connection to each data listener.
fn connect(gateway: &Gateway) -> Vec<RawClient> {
    let mut all = vec![RawClient::connect(gateway.port("http"))];
    all.extend(TlsVersion::ALL.map(|version| RawClient::connect_tls(&gateway.tls(NAME, version))));
    all
}

#[track_caller]
fn wait_until_it_drains(gateway: &Gateway) {
    gateway.expect_log("draining", |line| {
        field(line, "message").is_some_and(|text| text.starts_with("draining: "))
    });
    // Somebody else may have been given the ports since.
    eventually(SOON, "new connections are refused", || {
        let ports = gateway.listening_ports();
        let is_open = |listener| ports.contains(&gateway.port(listener));
        (!is_open("http") && !is_open("https")).then_some(())
    });
}

#[test]
fn request_in_flight_is_finished_and_nothing_new_is_taken() {
    for signal in [Signal::TERM, Signal::INT] {
        let ca = Ca::root("CA");
        let upstream = half_way();
        let gateway = gateway(Setup::default(), &ca, &upstream.origin.node());
        let mut clients = connect(&gateway);
        for client in &mut clients {
            client.send(request("GET", NAME, "/slow", &[]));
            upstream
                .arrived
                .recv_timeout(SOON)
                .expect("the request arrives");
        }
        // By HTTP/2 where it is served; curl's output comes when it ends.
        let curl = gateway.https(NAME, "/slow").args(&["-k"]);
        let curl = thread::spawn(move || curl.send());
        upstream
            .arrived
            .recv_timeout(SOON)
            .expect("curl's request arrives");
        gateway.signal(signal);
        wait_until_it_drains(&gateway);
        for _ in 0..=clients.len() {
            upstream.go_on.send(()).unwrap();
        }
        let outcome = curl.join().unwrap().expect_status(200);
        assert_eq!(outcome.body, "first half");
        for client in &mut clients {
            let reply = client.read_reply().expect_status(200);
            assert_eq!(reply.text(), "first half");
            assert!(client.is_ended());
        }
        let stopped = gateway.wait();
        assert_eq!(stopped.status.code(), Some(0), "{stopped:?}");
        let whole = stopped
            .records
            .iter()
            .filter(|record| record["path"] == "/slow" && record["status"] == 200);
        assert_eq!(whole.count(), clients.len() + 1, "{:?}", stopped.records);
        let is_end = |line: &serde_json::Value| field(line, "message") == Some("portcullis ends");
        assert!(stopped.logs.iter().any(is_end));
    }
}

#[test]
fn idle_and_silent_connections_do_not_hold_it_up() {
    let ca = Ca::root("CA");
    let origin = TcpOrigin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let gateway = gateway(Setup::default(), &ca, &origin.node());
    let mut kept = connect(&gateway);
    for client in &mut kept {
        client.get(NAME, "/", &[]).expect_status(200);
    }
    // Has shaken hands, and asks nothing.
    kept.extend(connect(&gateway));
    // Has not even shaken hands, or has begun a request.
    let silent = TcpStream::connect((Ipv4Addr::LOCALHOST, gateway.https_port())).unwrap();
    let mut half = RawClient::connect(gateway.port("http"));
    half.send("GET / HTTP/1.1\r\nHost: api");
    let mut admin = RawClient::connect(gateway.port("admin"));
    admin
        .get("localhost", "/apisix/admin/routes", &[])
        .expect_status(401);

    let began = Instant::now();
    gateway.ask_to_stop();
    for client in &mut kept {
        assert!(client.is_ended());
    }
    let stopped = gateway.wait();
    assert_eq!(stopped.status.code(), Some(0), "{stopped:?}");
    // The bound is 30 s.
    assert!(
        began.elapsed() < Duration::from_secs(12),
        "{:?}",
        began.elapsed()
    );
    drop((silent, half, admin));
}

#[test]
fn stuck_request_is_cut_off_when_the_time_is_up() {
    let ca = Ca::root("CA");
    let upstream = half_way();
    let setup = Setup::default().set("shutdown_timeout", "300ms");
    let gateway = gateway(setup, &ca, &upstream.origin.node());
    let mut clients = connect(&gateway);
    for client in &mut clients {
        client.send(request("GET", NAME, "/stuck", &[]));
        upstream
            .arrived
            .recv_timeout(SOON)
            .expect("the request arrives");
    }
    let began = Instant::now();
    gateway.ask_to_stop();
    let stopped = gateway.wait();
    assert_eq!(stopped.status.code(), Some(0), "{stopped:?}");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    let is_told = |record: &&serde_json::Value| {
        record["path"] == "/stuck" && field(record, "reason") == Some("shut_down")
    };
    let told = stopped.records.iter().filter(is_told).count();
    assert_eq!(told, clients.len(), "{:?}", stopped.records);
    for client in &mut clients {
        assert!(!client.read_reply().is_whole);
    }
}
