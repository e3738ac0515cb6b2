//! A change is live when its reply arrives, for every connection there is, and fails no request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::support::TlsVersion;
use crate::support::client::{Curl, shown_serial};
use crate::support::gateway::Gateway;
use crate::support::origin::{Nginx, Origin, seen};
use crate::support::pki::{Ca, KeyKind, Leaf, Pair};
use crate::support::raw::RawClient;
use crate::support::tls::TlsClient;

const NAME: &str = "api.example.com";

/// An upstream that says its name to every request.
fn named(name: &str) -> Origin {
    Origin::nginx(&Nginx {
        directives: format!("location /who {{ return 200 {name}; }}"),
        ..Nginx::default()
    })
}

fn ssl(pair: &Pair) -> Value {
    json!({"cert": pair.cert, "key": pair.key, "snis": [NAME]})
}

#[track_caller]
fn put(gateway: &Gateway, path: &str, document: &Value) {
    let outcome = gateway.admin_put(path, document);
    assert!(matches!(outcome.status, Some(200 | 201)), "{outcome:?}");
}

#[test]
fn put_is_live_when_its_reply_arrives_on_old_and_new_connections() {
    let gateway = Gateway::start();
    let origins = [named("one"), named("two")];
    let ca = Ca::root("CA");
    let upstream = |origin: &Origin| json!({"nodes": {origin.node(): 1}});
    put(&gateway, "/ssls/1", &ssl(&ca.server(NAME)));
    put(&gateway, "/upstreams/u", &upstream(&origins[1]));
    put(
        &gateway,
        "/services/s",
        &json!({"upstream": upstream(&origins[1])}),
    );
    put(
        &gateway,
        "/routes/id",
        &json!({"uri": "/who/id", "upstream_id": "u"}),
    );
    put(
        &gateway,
        "/routes/service",
        &json!({"uri": "/who/service", "service_id": "s"}),
    );
    let connect = |version: TlsVersion| RawClient::connect_tls(&gateway.tls(NAME, version));
    // Enough of them that each worker has some.
    let mut kept: Vec<RawClient> = (0..4)
        .map(|_| RawClient::connect(gateway.port("http")))
        .collect();
    kept.extend(
        TlsVersion::ALL
            .into_iter()
            .chain(TlsVersion::ALL)
            .map(connect),
    );
    for turn in 0..50 {
        let origin = &origins[turn / 3 % 2];
        // What changes is the upstream, the service around it, or the route itself.
        let path = match turn % 3 {
            0 => {
                put(&gateway, "/upstreams/u", &upstream(origin));
                "/who/id"
            }
            1 => {
                put(
                    &gateway,
                    "/services/s",
                    &json!({"upstream": upstream(origin)}),
                );
                "/who/service"
            }
            _ => {
                let route = json!({"uri": "/who/route", "upstream": upstream(origin)});
                put(&gateway, "/routes/route", &route);
                "/who/route"
            }
        };
        let mut fresh = [
            RawClient::connect(gateway.port("http")),
            connect(TlsVersion::ALL[turn % 2]),
        ];
        for client in kept.iter_mut().chain(&mut fresh) {
            let reply = client.get(NAME, path, &[]).expect_status(200);
            assert_eq!(reply.text(), ["one", "two"][turn / 3 % 2], "turn {turn}");
        }
    }
}

#[test]
fn delete_is_live_when_its_reply_arrives() {
    let gateway = Gateway::start();
    let origin = named("one");
    let ca = Ca::root("CA");
    let pair = ca.server(NAME);
    for version in TlsVersion::ALL {
        put(&gateway, "/ssls/1", &ssl(&pair));
        put(
            &gateway,
            "/routes/r",
            &json!({"uri": "/who", "upstream": {"nodes": {origin.node(): 1}}}),
        );
        let connect = || RawClient::connect_tls(&gateway.tls(NAME, version));
        let mut kept: Vec<RawClient> = (0..4).map(|_| connect()).collect();
        for client in &mut kept {
            client.get(NAME, "/who", &[]).expect_status(200);
        }
        gateway.admin_delete("/routes/r").expect_status(200);
        for client in &mut kept {
            client.get(NAME, "/who", &[]).expect_status(404);
        }
        connect().get(NAME, "/who", &[]).expect_status(404);

        gateway.admin_delete("/ssls/1").expect_status(200);
        assert_eq!(shown_serial(gateway.https_port(), NAME, version), None);
        for client in &mut kept {
            assert!(client.is_ended(), "its name is no longer served");
        }
    }
}

/// Clients that ask on and on until they are told to stop; each panics at the first failure.
struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    clients: Vec<thread::JoinHandle<()>>,
}

impl Load {
    /// One client for each of these; it is given its turn's number.
    fn start(clients: Vec<Box<dyn FnMut(usize) + Send>>) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let asked = Arc::<AtomicUsize>::default();
        let clients = clients
            .into_iter()
            .map(|mut ask| {
                let (stop, asked) = (Arc::clone(&stop), Arc::clone(&asked));
                thread::spawn(move || {
                    for turn in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        ask(turn);
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        Self {
            stop,
            asked,
            clients,
        }
    }

    /// Whether there were so many requests that changes met some of them under way.
    fn is_enough(&self) -> bool {
        self.asked.load(Ordering::Relaxed) > 100
            || self.clients.iter().any(thread::JoinHandle::is_finished)
    }

    /// Waits for the clients.
    #[track_caller]
    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("no request failed");
        }
    }
}

#[test]
fn certificate_rotates_under_load_without_a_failed_request_or_an_old_certificate() {
    let gateway = Gateway::start();
    let origin = named("one");
    let ca = Ca::root("CA");
    let of_kind = |key| {
        ca.issue(&Leaf {
            key,
            ..Leaf::server(NAME)
        })
    };
    let pairs = [KeyKind::Rsa, KeyKind::P256, KeyKind::Rsa, KeyKind::P256].map(of_kind);
    put(&gateway, "/ssls/1", &ssl(&pairs[3]));
    put(
        &gateway,
        "/routes/r",
        &json!({"uri": "/who", "upstream": {"nodes": {origin.node(): 1}}}),
    );
    let port = gateway.https_port();
    let connect = move |version| {
        let client = TlsClient::new(port).sni(NAME).tls(version);
        RawClient::connect_tls(&client)
    };
    let mut kept = TlsVersion::ALL.map(&connect);
    let load = Load::start(vec![
        Box::new(move |turn| {
            let reply = kept[turn % 2].get(NAME, "/who", &[]).expect_status(200);
            assert_eq!(reply.text(), "one");
        }),
        Box::new(move |turn| {
            let mut fresh = connect(TlsVersion::ALL[turn % 2]);
            fresh
                .get(NAME, "/who", &["Connection: close"])
                .expect_status(200);
        }),
    ]);
    for turn in (0..).take_while(|turn| *turn < 50 || !load.is_enough()) {
        let pair = &pairs[turn % 4];
        let rotation = json!({"cert": pair.cert, "key": pair.key});
        gateway.admin_put("/ssls/1", &rotation).expect_status(200);
        for version in TlsVersion::ALL {
            let shown = shown_serial(port, NAME, version);
            assert_eq!(shown, Some(pair.serial()), "turn {turn}, {version:?}");
        }
    }
    load.end();
}

#[test]
fn upstream_client_certificate_rotates_under_load_without_a_failed_request() {
    let gateway = Gateway::start();
    let ca = Ca::root("CA");
    let origin = Origin::nginx(&Nginx::mutual(ca.server("up.example.com"), ca.pem()));
    let names = ["one", "two"];
    let pairs = names.map(|name| ca.client(name));
    let upstream = |pair: &Pair| {
        json!({"scheme": "https", "nodes": {origin.node(): 1}, "tls": {
            "client_cert": pair.cert, "client_key": pair.key, "verify": true,
            "ca_certs": [ca.pem()], "server_name": "up.example.com",
        }})
    };
    put(&gateway, "/upstreams/u", &upstream(&pairs[1]));
    put(
        &gateway,
        "/routes/r",
        &json!({"uri": "/*", "upstream_id": "u"}),
    );
    let port = gateway.port("http");
    let mut kept = RawClient::connect(port);
    let load = Load::start(vec![
        Box::new(move |_| {
            kept.get(NAME, "/", &[]).expect_status(200);
        }),
        Box::new(move |_| {
            let mut fresh = RawClient::connect(port);
            fresh.get(NAME, "/", &[]).expect_status(200);
        }),
    ]);
    let mut watcher = RawClient::connect(port);
    for turn in (0..).take_while(|turn| *turn < 40 || !load.is_enough()) {
        put(&gateway, "/upstreams/u", &upstream(&pairs[turn % 2]));
        for client in [&mut watcher, &mut RawClient::connect(port)] {
            let reply = client.get(NAME, "/", &[]).expect_status(200);
            assert_eq!(
                seen(&reply.text(), "dn"),
                format!("CN={}", names[turn % 2]),
                "turn {turn}"
            );
        }
    }
    load.end();
}

#[test]
fn concurrent_puts_are_all_acknowledged_and_the_last_one_stands() {
    let gateway = Gateway::start();
    let origins = [named("one"), named("two")];
    let route = |writer: usize, number: usize| {
        let node = origins[(writer + number) % 2].node();
        json!({"uri": "/who", "desc": format!("{writer}/{number}"), "upstream": {"nodes": {node: 1}}})
    };
    let own = |writer: usize, number: usize| json!({"uri": format!("/own/{writer}"), "desc": number.to_string(), "upstream": {"nodes": {}}});
    let (writers, rounds) = (5, 8);
    thread::scope(|scope| {
        for writer in 0..writers {
            let gateway = &gateway;
            scope.spawn(move || {
                for number in 0..rounds {
                    // Everyone's object, with nothing said about its revision, and one's own.
                    put(gateway, "/routes/shared", &route(writer, number));
                    put(
                        gateway,
                        &format!("/routes/own-{writer}"),
                        &own(writer, number),
                    );
                }
            });
        }
    });
    for writer in 0..writers {
        let one = gateway
            .admin_get(&format!("/routes/own-{writer}"))
            .expect_status(200)
            .json();
        assert_eq!(one["value"]["desc"], (rounds - 1).to_string());
        Curl::new(&gateway.http_url(&format!("/own/{writer}")))
            .send()
            .expect_status(503);
    }
    let shared = gateway
        .admin_get("/routes/shared")
        .expect_status(200)
        .json();
    let said = shared["value"]["desc"].as_str().unwrap();
    let (writer, number) = said.split_once('/').unwrap();
    let (writer, number) = (
        writer.parse::<usize>().unwrap(),
        number.parse::<usize>().unwrap(),
    );
    assert_eq!(number, rounds - 1, "the last write of one of them");
    let sent = route(writer, number);
    assert_eq!(shared["value"]["upstream"], sent["upstream"]);
    let served = Curl::new(&gateway.http_url("/who"))
        .send()
        .expect_status(200);
    assert_eq!(served.body, ["one", "two"][(writer + number) % 2]);
    // As many revisions as acknowledged writes: none was lost, none made twice.
    let list = gateway.admin_get("/routes").json();
    let items = list["list"].as_array().unwrap();
    let last = items
        .iter()
        .map(|item| item["modifiedIndex"].as_u64().unwrap())
        .max();
    assert_eq!(last, u64::try_from(2 * writers * rounds).ok());
}

#[test]
fn broken_put_leaves_old_and_new_connections_as_they_were() {
    let gateway = Gateway::start();
    let origin = named("one");
    put(
        &gateway,
        "/routes/r",
        &json!({"uri": "/who", "upstream": {"nodes": {origin.node(): 1}}}),
    );
    let mut kept = RawClient::connect(gateway.port("http"));
    for document in [
        json!({"uri": "/who", "upstream": {"nodes": {origin.node(): -1}}}),
        json!({"uri": "/who", "upstream_id": "absent"}),
        json!({"uri": "/who", "upstream": {"nodes": {origin.node(): 1}, "type": "none such"}}),
    ] {
        gateway.admin_put("/routes/r", &document).expect_status(400);
        for client in [&mut kept, &mut RawClient::connect(gateway.port("http"))] {
            assert_eq!(
                client.get(NAME, "/who", &[]).expect_status(200).text(),
                "one"
            );
        }
    }
}
