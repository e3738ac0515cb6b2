//! Names of nodes and services: asked for by DNS, followed as they change.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::thread;

use serde_json::{Value, json};

use crate::support::client::Curl;
use crate::support::dns::NameServer;
use crate::support::gateway::{Gateway, Setup, field};
use crate::support::origin::{ClosedPort, ok, read_head};
use crate::support::{SOON, eventually};

/// An origin on every loopback address: it answers with the address that it was reached by, and
/// keeps connections. It ends with the process.
fn everywhere() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a free port");
    let port = listener
        .local_addr()
        .expect("a bound socket has one")
        .port();
    thread::spawn(move || {
        for mut conn in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let own = conn.local_addr().expect("a connection has one").ip();
                while conn.peek(&mut [0]).is_ok_and(|count| count > 0) {
                    read_head(&mut conn);
                    drop(conn.write_all(&ok(&own.to_string())));
                }
            });
        }
    });
    port
}

/// A gateway that asks this server, before this upstream.
fn before(server: &NameServer, upstream: &Value) -> Gateway {
    let gateway = Setup::default()
        .set("resolver.servers", &server.setting())
        .start();
    gateway.configure("/upstreams/u", upstream);
    gateway.configure("/routes/r", &json!({"uri": "/*", "upstream_id": "u"}));
    gateway
}

fn node(name: &str, port: u16) -> Value {
    json!({"nodes": {format!("{name}:{port}"): 1}})
}

/// The addresses that so many requests, one after the other, were answered from.
#[track_caller]
fn answers(gateway: &Gateway, count: usize) -> Vec<String> {
    let mut client = gateway.connect();
    (0..count)
        .map(|_| client.get("h", "/", &[]).expect_status(200).text())
        .collect()
}

#[track_caller]
fn seen(gateway: &Gateway, count: usize) -> BTreeSet<String> {
    answers(gateway, count).into_iter().collect()
}

fn set_of(addresses: &[&str]) -> BTreeSet<String> {
    addresses.iter().map(|it| (*it).to_owned()).collect()
}

/// Waits until a name was asked for so many times more, without a request.
#[track_caller]
fn await_questions(server: &NameServer, name: &str, more: usize) {
    let before = server.asked(name);
    eventually(SOON, "the name is asked for anew", || {
        (server.asked(name) >= before + more).then_some(())
    });
}

#[test]
fn addresses_of_a_name_take_turns_and_are_asked_for_once_in_their_time() {
    let server = NameServer::start();
    let all = ["127.0.0.2", "127.0.0.3", "127.0.0.4"];
    server.set("many.test", &all, 3600);
    let gateway = before(&server, &node("many.test", everywhere()));
    assert_eq!(seen(&gateway, 3), set_of(&all));
    // What changed meanwhile is not looked for before its time.
    server.set("many.test", &["127.0.0.9"], 3600);
    assert_eq!(seen(&gateway, 6), set_of(&all));
    assert_eq!(server.asked("many.test"), 1);
}

#[test]
fn name_is_followed_when_its_time_is_over_whether_or_not_requests_come() {
    let server = NameServer::start();
    server.set("moves.test", &["127.0.0.2"], 1);
    let gateway = before(&server, &node("moves.test", everywhere()));
    assert_eq!(seen(&gateway, 2), set_of(&["127.0.0.2"]));
    server.set("moves.test", &["127.0.0.3"], 1);
    // The second question follows the first one's answer.
    await_questions(&server, "moves.test", 2);
    // Not even a kept connection leads to where the name led.
    assert_eq!(seen(&gateway, 2), set_of(&["127.0.0.3"]));
}

#[test]
fn last_addresses_are_used_on_where_servers_fail() {
    let server = NameServer::start();
    server.set("lost.test", &["127.0.0.2"], 1);
    let gateway = before(&server, &node("lost.test", everywhere()));
    seen(&gateway, 1);
    server.fail();
    await_questions(&server, "lost.test", 3);
    assert_eq!(seen(&gateway, 4), set_of(&["127.0.0.2"]));
    gateway.expect_log("it is told", |line| {
        field(line, "name") == Some("lost.test")
            && field(line, "why").is_some_and(|why| why.contains("ServerFailure"))
    });
}

#[test]
fn nobody_waits_for_a_server_that_keeps_silent() {
    let server = NameServer::start();
    server.set("still.test", &["127.0.0.2"], 1);
    let gateway = before(&server, &node("still.test", everywhere()));
    seen(&gateway, 1);
    server.fall_silent();
    await_questions(&server, "still.test", 1);
    assert_eq!(seen(&gateway, 4), set_of(&["127.0.0.2"]));
}

#[test]
fn server_that_keeps_silent_is_passed_over_until_the_one_that_answers_fails() {
    let (first, second) = (NameServer::start(), NameServer::start());
    let servers = [&first, &second].map(NameServer::address);
    let setting = json!(servers).to_string();
    let gateway = Setup::default().set("resolver.servers", &setting).start();
    let port = everywhere();
    let lead_to = |name| {
        let route = json!({"uri": "/*", "upstream": node(name, port)});
        gateway.configure("/routes/r", &route);
    };
    for (server, address) in [(&first, "127.0.0.2"), (&second, "127.0.0.3")] {
        for name in ["one.test", "two.test", "three.test"] {
            server.set(name, &[address], 3600);
        }
    }
    first.fall_silent();
    lead_to("one.test");
    assert_eq!(seen(&gateway, 1), set_of(&["127.0.0.3"]));
    assert_eq!(first.asked("one.test"), 1);
    lead_to("two.test");
    assert_eq!(seen(&gateway, 1), set_of(&["127.0.0.3"]));
    assert_eq!(first.asked("two.test"), 0, "its silence is remembered");
    first.speak();
    second.fail();
    lead_to("three.test");
    assert_eq!(seen(&gateway, 1), set_of(&["127.0.0.2"]));
}

#[test]
fn name_that_is_none_is_503_until_it_is_one_and_again_when_it_is_no_more() {
    let server = NameServer::start();
    let gateway = before(&server, &node("nobody.test", everywhere()));
    let reply = gateway.connect().get("h", "/none", &[]);
    assert_eq!(reply.status, 503, "{reply:?}");
    let record = gateway.expect_record("refused", |it| field(it, "path") == Some("/none"));
    assert_eq!(field(&record, "reason"), Some("upstream_unresolvable"));
    server.set("nobody.test", &["127.0.0.2"], 1);
    let becomes = |wanted: u16| {
        eventually(SOON, "the name is followed", || {
            let status = gateway.connect().get("h", "/", &[]).status;
            (status == wanted).then_some(())
        });
    };
    becomes(200);
    server.set("nobody.test", &[], 1);
    becomes(503);
}

#[test]
fn hosts_file_comes_first() {
    let server = NameServer::start();
    server.set("localhost", &["127.0.0.9"], 60);
    let gateway = before(&server, &node("localhost", everywhere()));
    assert_eq!(seen(&gateway, 2), set_of(&["127.0.0.1"]));
    assert_eq!(server.asked("localhost"), 0);
}

#[test]
fn aliases_are_followed() {
    let server = NameServer::start();
    server.set_alias("one.test", "two.test", 60);
    server.set_alias("two.test", "three.test", 60);
    server.set("three.test", &["127.0.0.5"], 60);
    let gateway = before(&server, &node("one.test", everywhere()));
    assert_eq!(seen(&gateway, 1), set_of(&["127.0.0.5"]));
}

#[test]
fn answer_that_is_too_long_for_udp_comes_by_tcp() {
    let server = NameServer::start();
    server.set("long.test", &["127.0.0.2"], 60);
    server.truncate();
    let gateway = before(&server, &node("long.test", everywhere()));
    assert_eq!(seen(&gateway, 1), set_of(&["127.0.0.2"]));
    assert_eq!(server.asked_by_tcp(), 1);
}

#[test]
fn address_that_takes_no_connection_gives_way_to_the_next() {
    let server = NameServer::start();
    let listener = TcpListener::bind("127.0.0.3:0").expect("a free port");
    let port = listener
        .local_addr()
        .expect("a bound socket has one")
        .port();
    thread::spawn(move || {
        for mut conn in listener.incoming().map_while(Result::ok) {
            read_head(&mut conn);
            drop(
                conn.write_all(
                    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
                ),
            );
        }
    });
    server.set("half.test", &["127.0.0.2", "127.0.0.3"], 60);
    let gateway = before(&server, &node("half.test", port));
    // A POST too: nothing of it was sent.
    for method in ["GET", "POST", "POST", "GET"] {
        let url = gateway.http_url("/");
        let reply = Curl::new(&url).method(method).send();
        assert_eq!(reply.status, Some(200), "{method} {reply:?}");
    }
}

#[test]
fn name_of_our_own_admin_address_is_not_dialled() {
    let server = NameServer::start();
    server.set("admin.test", &["127.0.0.1"], 60);
    let gateway = Setup::default()
        .set("resolver.servers", &server.setting())
        .start();
    let upstream = node("admin.test", gateway.port("admin"));
    gateway.configure("/routes/r", &json!({"uri": "/*", "upstream": upstream}));
    let reply = gateway.connect().get("h", "/self", &[]);
    assert!(reply.status >= 500, "{reply:?}");
    let record = gateway.expect_record("refused", |it| field(it, "path") == Some("/self"));
    assert_eq!(field(&record, "reason"), Some("upstream_is_self"));
}

#[test]
fn nodes_of_a_service_are_found_and_followed() {
    let server = NameServer::start();
    let port = everywhere();
    server.set("shop.test", &["127.0.0.2", "127.0.0.3"], 1);
    let service = json!({"discovery_type": "dns", "service_name": format!("shop.test:{port}")});
    let gateway = before(&server, &service);
    assert_eq!(seen(&gateway, 4), set_of(&["127.0.0.2", "127.0.0.3"]));
    server.set("shop.test", &["127.0.0.4"], 1);
    await_questions(&server, "shop.test", 2);
    assert_eq!(seen(&gateway, 4), set_of(&["127.0.0.4"]));
    server.set("shop.test", &[], 1);
    eventually(SOON, "it has no nodes", || {
        let status = gateway.connect().get("h", "/", &[]).status;
        (status == 503).then_some(())
    });
}

#[test]
fn srv_records_give_ports_shares_and_priorities() {
    let server = NameServer::start();
    let port = everywhere();
    for (name, address) in [
        ("a.shop.test", "127.0.0.2"),
        ("b.shop.test", "127.0.0.3"),
        ("c.shop.test", "127.0.0.4"),
    ] {
        server.set(name, &[address], 60);
    }
    let hosts = [
        (10, 3, port, "a.shop.test"),
        (10, 1, port, "b.shop.test"),
        (20, 9, port, "c.shop.test"),
    ];
    server.set_service("_http._tcp.shop.test", &hosts, 60);
    let service = json!({"discovery_type": "dns", "service_name": "_http._tcp.shop.test"});
    let gateway = before(&server, &service);
    let answers = answers(&gateway, 8);
    let count = |wanted: &str| answers.iter().filter(|it| *it == wanted).count();
    assert_eq!(
        (count("127.0.0.2"), count("127.0.0.3")),
        (6, 2),
        "{answers:?}"
    );
}

#[test]
fn service_of_lower_priority_is_used_where_the_first_is_down() {
    let server = NameServer::start();
    let (down, up) = (ClosedPort::new(), everywhere());
    server.set("a.shop.test", &["127.0.0.1"], 60);
    server.set("b.shop.test", &["127.0.0.4"], 60);
    let hosts = [
        (10, 1, down.port(), "a.shop.test"),
        (20, 1, up, "b.shop.test"),
    ];
    server.set_service("spare.shop.test", &hosts, 60);
    let service = json!({"discovery_type": "dns", "service_name": "spare.shop.test"});
    let gateway = before(&server, &service);
    assert_eq!(seen(&gateway, 3), set_of(&["127.0.0.4"]));
}

#[test]
fn health_of_found_nodes_is_checked_and_follows_them() {
    let server = NameServer::start();
    let port = everywhere();
    server.set("fit.test", &["127.0.0.2", "127.0.0.3"], 1);
    let service = json!({
        "discovery_type": "dns",
        "service_name": format!("fit.test:{port}"),
        "checks": {"active": {"http_path": "/", "healthy": {"interval": 1}}},
    });
    let gateway = before(&server, &service);
    seen(&gateway, 1);
    let shown = || -> BTreeSet<String> {
        let url = gateway.status_url("/v1/healthcheck/upstreams/u");
        let shown = Curl::new(&url).send().expect_status(200).json();
        let nodes = shown["nodes"].as_array().cloned().unwrap_or_default();
        let hosts = nodes.iter().filter_map(|node| node["ip"].as_str());
        hosts.map(str::to_owned).collect()
    };
    eventually(SOON, "both are checked", || {
        (shown() == set_of(&["127.0.0.2", "127.0.0.3"])).then_some(())
    });
    server.set("fit.test", &["127.0.0.4"], 1);
    eventually(SOON, "the new one is checked", || {
        (shown() == set_of(&["127.0.0.4"])).then_some(())
    });
}

#[test]
fn node_whose_name_leads_nowhere_fails_its_checks() {
    let server = NameServer::start();
    let port = everywhere();
    server.set("up.test", &["127.0.0.2"], 1);
    let upstream = json!({
        "nodes": {format!("up.test:{port}"): 1},
        "checks": {"active": {
            "http_path": "/",
            "healthy": {"interval": 1, "successes": 1},
            "unhealthy": {"interval": 1, "tcp_failures": 1},
        }},
    });
    let gateway = before(&server, &upstream);
    seen(&gateway, 1);
    let becomes = |wanted: &str| {
        eventually(SOON, wanted, || {
            let url = gateway.status_url("/v1/healthcheck/upstreams/u");
            let shown = Curl::new(&url).send().expect_status(200).json();
            (shown["nodes"][0]["status"] == wanted).then_some(())
        });
    };
    becomes("healthy");
    server.set("up.test", &[], 1);
    becomes("unhealthy");
    server.set("up.test", &["127.0.0.3"], 1);
    becomes("healthy");
}

#[test]
fn probe_looks_at_the_nodes_that_are_found() {
    let server = NameServer::start();
    let port = everywhere();
    server.set("seen.test", &["127.0.0.2", "127.0.0.3"], 60);
    let service = json!({"discovery_type": "dns", "service_name": format!("seen.test:{port}")});
    let gateway = before(&server, &service);
    let probe = |id: &str| {
        let url = format!(
            "http://127.0.0.1:{}/portcullis/v1/probe/upstreams/{id}",
            gateway.port("admin")
        );
        let key = format!("X-API-KEY: {}", crate::support::gateway::ADMIN_KEY);
        Curl::new(&url).method("POST").header(&key).send()
    };
    let report = probe("u").expect_status(200).json();
    assert_eq!(report["good"], true, "{report}");
    assert_eq!(
        report["nodes"].as_array().map(Vec::len),
        Some(2),
        "{report}"
    );
    let none = json!({"discovery_type": "dns", "service_name": "none.test"});
    gateway.configure("/upstreams/none", &none);
    let report = probe("none").expect_status(200).json();
    assert_eq!(report["reason"], "upstream_unresolvable", "{report}");
}
