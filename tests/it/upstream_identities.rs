//! Several upstreams at one host and port: what one may do, no other does for it. No connection
//! and no session is shared by two that differ in what they show or what they believe.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Mutex;
use std::thread;

use serde_json::{Value, json};

use crate::support::TlsVersion;
use crate::support::gateway::{Gateway, Setup};
use crate::support::origin::{Nginx, Origin, seen};
use crate::support::pki::Ca;
use crate::support::raw::RawReply;
use crate::support::upstream::{NAME, checking, showing, speaking, upstream};

/// Clients at once, each with a connection of its own to the gateway.
const CLIENTS: usize = 4;
/// Requests of all clients together, half of them in each version of TLS.
const REQUESTS: usize = 10_000;
/// Requests per upstream connection: with this many, both kept connections and resumed sessions
/// carry thousands of them.
const PER_CONNECTION: usize = 5;

/// Puts a service per upstream, each reached by the path of its name.
fn configure(gateway: &Gateway, upstreams: &[(&str, Value)]) {
    for (id, upstream) in upstreams {
        let mut upstream = upstream.clone();
        upstream["keepalive_pool"] = json!({"size": 4, "requests": PER_CONNECTION});
        gateway.configure(&format!("/services/{id}"), &json!({"upstream": upstream}));
        let route = json!({"uri": format!("/{id}"), "service_id": id});
        gateway.configure(&format!("/routes/{id}"), &route);
    }
}

/// Sends half of [`REQUESTS`] from all clients at once, each to the next in an order that looks like none,
/// and judges each answer.
fn interleave(gateway: &Gateway, ids: &[&str], judge: impl Fn(&str, &RawReply) + Sync) {
    thread::scope(|scope| {
        for start in 0..CLIENTS {
            let judge = &judge;
            scope.spawn(move || {
                let mut client = gateway.connect();
                let mut state = u64::try_from(start).unwrap() + 1;
                for _ in 0..REQUESTS / 2 / CLIENTS {
                    // Knuth's generator: the same disorder in every run.
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    let turn = usize::try_from(state >> 33).unwrap() % ids.len();
                    let id = ids[turn];
                    let reply = client.get("api.example.com", &format!("/{id}"), &[]);
                    judge(id, &reply);
                }
            });
        }
    });
}

/// What an nginx told of its connections: who used each, and how each began.
#[derive(Default)]
struct Told {
    /// nginx's number of a connection → the services that used it.
    users: HashMap<String, HashSet<String>>,
    requests: BTreeMap<String, usize>,
    resumed: HashSet<String>,
}

impl Told {
    fn note(&mut self, id: &str, body: &str) {
        let connection = seen(body, "connection");
        let users = self.users.entry(connection.to_owned()).or_default();
        users.insert(id.to_owned());
        *self.requests.entry(id.to_owned()).or_default() += 1;
        if seen(body, "reused") == "r" {
            self.resumed.insert(connection.to_owned());
        }
    }

    /// Makes sure that no connection had two users, and that there was a chance for it.
    #[track_caller]
    fn expect_apart(&self, ids: &[&str]) {
        let shared = self.users.iter().find(|(_, users)| users.len() > 1);
        assert_eq!(shared, None, "a connection of two services");
        for id in ids {
            let requests = self.requests.get(*id).copied().unwrap_or_default();
            let own = self.users.values().filter(|users| users.contains(*id));
            let connections = own.count();
            assert!(
                connections > 10 && requests > 2 * connections,
                "{id}: {requests} {connections}"
            );
        }
        let (resumed, all) = (self.resumed.len(), self.users.len());
        assert!(resumed > all / 2 && resumed < all, "{resumed} of {all}");
    }
}

#[test]
fn two_client_certificates_to_one_node_never_mix() {
    let ca = Ca::root("CA");
    let origin = Origin::nginx(&Nginx::mutual(ca.server(NAME), ca.pem()));
    let ids = ["alice", "bob"];
    for version in TlsVersion::ALL {
        let gateway = Setup::default().set("access_log", "off").start();
        let to = |name| upstream(&origin.node(), &showing(&ca.client(name), version));
        configure(&gateway, &ids.map(|id| (id, to(id))));
        let told = Mutex::new(Told::default());
        interleave(&gateway, &ids, |id, reply| {
            assert_eq!(reply.status, 200, "{reply:?}");
            let body = reply.text();
            assert_eq!(seen(&body, "dn"), format!("CN={id}"));
            told.lock().unwrap().note(id, &body);
        });
        told.into_inner().unwrap().expect_apart(&ids);
    }
}

/// Streams of one connection are no closer to each other than requests that follow one another.
#[test]
fn client_certificates_never_mix_where_some_are_spoken_to_in_http2() {
    let ca = Ca::root("CA");
    let origin = Origin::nginx(&Nginx {
        is_http2: true,
        ..Nginx::mutual(ca.server(NAME), ca.pem())
    });
    let ids = ["alice", "bob", "alice-2", "bob-2"];
    for version in TlsVersion::ALL {
        let gateway = Setup::default().set("access_log", "off").start();
        let (alice, bob) = (ca.client("alice"), ca.client("bob"));
        let to = |id: &str| {
            let pair = if id.starts_with("alice") {
                &alice
            } else {
                &bob
            };
            let mut upstream = upstream(&origin.node(), &showing(pair, version));
            if id.ends_with("-2") {
                upstream["scheme"] = "grpcs".into();
            }
            upstream
        };
        configure(&gateway, &ids.map(|id| (id, to(id))));
        let told = Mutex::new(Told::default());
        interleave(&gateway, &ids, |id, reply| {
            assert_eq!(reply.status, 200, "{reply:?}");
            let body = reply.text();
            let name = id.trim_end_matches("-2");
            assert_eq!(seen(&body, "dn"), format!("CN={name}"));
            let protocol = if name == id { "HTTP/1.1" } else { "HTTP/2.0" };
            assert_eq!(seen(&body, "server_protocol"), protocol);
            told.lock().unwrap().note(id, &body);
        });
        told.into_inner().unwrap().expect_apart(&ids);
    }
}

#[test]
fn what_is_believed_of_one_node_never_mixes_either() {
    let ca = Ca::root("CA");
    let origin = Origin::nginx(&Nginx::mutual(ca.server(NAME), ca.pem()));
    let node = origin.node();
    for version in TlsVersion::ALL {
        let gateway = Setup::default().set("access_log", "off").start();
        let alice = showing(&ca.client("alice"), version);
        let with = |more: Value| {
            let mut tls = alice.clone();
            for (member, value) in more.as_object().unwrap() {
                tls[member] = value.clone();
            }
            upstream(&node, &tls)
        };
        let bundle = format!("{}{}", ca.pem(), Ca::root("Another").pem());
        let mut misnamed = with(checking(&ca.pem(), version));
        misnamed["upstream_host"] = "else.example.com".into();
        configure(
            &gateway,
            &[
                ("unchecked", with(json!({}))),
                ("checked", with(checking(&ca.pem(), version))),
                ("checked-by-two", with(checking(&bundle, version))),
                ("narrow", with(json!({"groups": "P-384:P-256"}))),
                ("nobody", upstream(&node, &speaking(version))),
                ("wrong-ca", with(checking(&Ca::root("CA").pem(), version))),
                ("wrong-name", misnamed),
            ],
        );
        let served = ["unchecked", "checked", "checked-by-two", "narrow"];
        let refused = ["nobody", "wrong-ca", "wrong-name"];
        let told = Mutex::new(Told::default());
        // The refused are a tenth: each of theirs is a full handshake.
        let often = served.repeat(9);
        interleave(
            &gateway,
            &[&often[..], &refused[..]].concat(),
            |id, reply| {
                if refused.contains(&id) {
                    assert_eq!(reply.status, 502, "{id}: {reply:?}");
                    return;
                }
                assert_eq!(reply.status, 200, "{id}: {reply:?}");
                let body = reply.text();
                assert_eq!(seen(&body, "dn"), "CN=alice");
                assert_eq!(
                    seen(&body, "curve") == "secp384r1",
                    id == "narrow",
                    "{body}"
                );
                told.lock().unwrap().note(id, &body);
            },
        );
        told.into_inner().unwrap().expect_apart(&served);
    }
}
