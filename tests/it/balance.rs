//! Which node a request goes to.

use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup, field};
use crate::support::origin::{ClosedPort, Nginx, Origin, TcpOrigin, ok};
use crate::support::raw::{RawClient, request};
use crate::support::{SOON, eventually, patiently};

/// Every `type`.
const TYPES: [&str; 4] = ["roundrobin", "chash", "least_conn", "ewma"];

/// A gateway with one worker, so that turns are one after the other.
fn one_worker() -> Gateway {
    Setup::default().set("workers", "1").start()
}

/// Puts the upstream that the route leads to.
#[track_caller]
fn lead_to(gateway: &Gateway, upstream: &Value) {
    gateway.configure("/upstreams/u", upstream);
    gateway.configure("/routes/r", &json!({"uri": "/*", "upstream_id": "u"}));
}

#[track_caller]
fn ask(client: &mut RawClient, count: usize) {
    for turn in 0..count {
        client.get("h", &format!("/{turn}"), &[]).expect_status(200);
    }
}

fn node(origin: &TcpOrigin, weight: u32, priority: i64) -> Value {
    json!({"host": "127.0.0.1", "port": origin.port(), "weight": weight, "priority": priority})
}

#[test]
fn lower_priority_is_used_only_when_all_nodes_above_were_tried() {
    let (high, low) = (TcpOrigin::echoing(), TcpOrigin::echoing());
    let gateway = one_worker();
    let mut client = gateway.connect();
    lead_to(
        &gateway,
        &json!({"nodes": [node(&low, 100, -1), node(&high, 1, 0)]}),
    );
    ask(&mut client, 6);
    assert_eq!((high.heads().len(), low.heads().len()), (6, 0));

    let gone = ClosedPort::new();
    let gone = gone.node();
    let port = gone.rsplit(':').next().unwrap().parse::<u16>().unwrap();
    let closed = |priority: i64| json!({"host": "127.0.0.1", "port": port, "weight": 1, "priority": priority});
    let nodes = [closed(10), node(&high, 1, 5), node(&low, 1, 0)];
    lead_to(&gateway, &json!({"nodes": nodes}));
    ask(&mut client, 6);
    assert_eq!((high.heads().len(), low.heads().len()), (12, 0));
    // Without a further try the level below is not reached.
    lead_to(&gateway, &json!({"nodes": nodes, "retries": 0}));
    assert_eq!(client.get("h", "/", &[]).status, 502);
}

#[test]
fn weight_zero_takes_no_traffic_unless_the_node_is_the_only_one() {
    let (some, none) = (TcpOrigin::echoing(), TcpOrigin::echoing());
    let gateway = one_worker();
    let mut client = gateway.connect();
    for kind in TYPES {
        let before = some.heads().len();
        lead_to(
            &gateway,
            &json!({"type": kind, "key": "uri", "nodes": [node(&none, 0, 9), node(&some, 1, 0)]}),
        );
        ask(&mut client, 4);
        assert_eq!(some.heads().len() - before, 4, "{kind}");
        assert_eq!(none.heads().len(), 0, "{kind}");
        let nothing = json!([node(&none, 0, 0), node(&some, 0, 0)]);
        lead_to(
            &gateway,
            &json!({"type": kind, "key": "uri", "nodes": nothing}),
        );
        assert_eq!(client.get("h", "/", &[]).status, 502, "{kind}");
    }
    gateway.expect_record("its reason", |record| {
        field(record, "reason") == Some("no_weight")
    });
    for kind in TYPES {
        let before = none.heads().len();
        lead_to(
            &gateway,
            &json!({"type": kind, "key": "uri", "nodes": [node(&none, 0, 0)]}),
        );
        ask(&mut client, 2);
        assert_eq!(none.heads().len() - before, 2, "{kind}");
    }
}

/// An origin that answers `/held` only when told to.
fn holding() -> (TcpOrigin, mpsc::Sender<()>) {
    let (release, released) = mpsc::channel();
    let released = Mutex::new(released);
    let origin = TcpOrigin::talking(move |head| {
        if head.starts_with("GET /held ") {
            let released = released.lock().expect("no holder panics");
            let _told = released.recv();
        }
        ok("served")
    });
    (origin, release)
}

#[test]
fn least_conn_avoids_the_node_that_is_busy_and_remembers_it_over_a_write() {
    let (slow, release) = holding();
    let quick = TcpOrigin::echoing();
    let gateway = Setup::default().set("workers", "2").start();
    let mut upstream = json!({"type": "least_conn", "nodes": [node(&slow, 1, 0)]});
    lead_to(&gateway, &upstream);
    let mut held = gateway.connect();
    held.send(request("GET", "h", "/held", &[]));
    eventually(SOON, "the request is held", || {
        (slow.heads().len() == 1).then_some(())
    });

    upstream["nodes"] = json!([node(&slow, 1, 0), node(&quick, 1, 0)]);
    lead_to(&gateway, &upstream);
    for _ in 0..8 {
        // A connection each: whichever worker takes it knows of the other's.
        ask(&mut gateway.connect(), 1);
    }
    assert_eq!((slow.heads().len(), quick.heads().len()), (1, 8));
    // Three in flight for a weight of four are fewer than one for a weight of one.
    upstream["nodes"] = json!([node(&slow, 4, 0), node(&quick, 1, 0)]);
    lead_to(&gateway, &upstream);
    ask(&mut gateway.connect(), 3);
    assert_eq!((slow.heads().len(), quick.heads().len()), (4, 8));

    release.send(()).expect("the origin waits");
    held.read_reply().expect_status(200);
    upstream["nodes"] = json!([node(&slow, 1, 0), node(&quick, 1, 0)]);
    lead_to(&gateway, &upstream);
    // What was in flight is not any more: both take turns again.
    eventually(SOON, "the slow node takes requests again", || {
        let before = slow.heads().len();
        ask(&mut gateway.connect(), 4);
        (slow.heads().len() > before).then_some(())
    });
}

#[test]
fn ewma_prefers_the_node_that_answers_sooner() {
    patiently(|limit| {
        let slow = TcpOrigin::talking(move |_| {
            thread::park_timeout(limit / 4);
            ok("slow")
        });
        let quick = TcpOrigin::echoing();
        let gateway = one_worker();
        lead_to(
            &gateway,
            &json!({"type": "ewma", "nodes": [node(&slow, 1, 0), node(&quick, 1, 0)]}),
        );
        ask(&mut gateway.connect(), 40);
        let (slow, quick) = (slow.heads().len(), quick.heads().len());
        assert!(slow <= 4 && slow + quick == 40, "{slow} {quick}");
    });
}

#[test]
fn node_that_was_tried_is_not_tried_again_whatever_the_type() {
    let count = Arc::new(Mutex::new(0));
    let closing = || {
        let count = Arc::clone(&count);
        TcpOrigin::serving(move |conn| {
            *count.lock().expect("no holder panics") += 1;
            drop(conn);
        })
    };
    let (first, second, third) = (closing(), closing(), closing());
    let gateway = one_worker();
    let mut client = gateway.connect();
    for kind in TYPES {
        for (retries, tries) in [(None, 3), (Some(1), 2), (Some(9), 3)] {
            let mut upstream = json!({
                "type": kind,
                "key": "uri",
                "nodes": [node(&first, 1, 0), node(&second, 1, 0), node(&third, 1, -1)],
            });
            if let Some(retries) = retries {
                upstream["retries"] = json!(retries);
            }
            lead_to(&gateway, &upstream);
            assert_eq!(client.get("h", "/", &[]).status, 502);
            let tried = std::mem::take(&mut *count.lock().expect("no holder panics"));
            assert_eq!(tried, tries, "{kind} {retries:?}");
        }
    }
}

#[test]
fn type_that_is_none_is_refused_and_what_was_served_goes_on() {
    let origin = TcpOrigin::echoing();
    let gateway = Gateway::start();
    lead_to(&gateway, &json!({"nodes": [node(&origin, 1, 0)]}));
    let refused = gateway.admin_put(
        "/upstreams/u",
        &json!({"type": "leastconn", "nodes": [node(&origin, 1, 0)]}),
    );
    let text = refused.expect_status(400).json()["error_msg"].clone();
    assert_eq!(
        text,
        "type leastconn is no way of balancing; write roundrobin, chash, least_conn or ewma"
    );
    ask(&mut gateway.connect(), 1);
}

/// An nginx that tells, in a header, which of its upstreams it would ask.
fn hashing_nginx(nodes: &[(&TcpOrigin, u32)]) -> Origin {
    let places = nodes
        .iter()
        .map(|(origin, weight)| format!("server {} weight={weight};\n", origin.node()));
    let places: String = places.collect();
    Origin::nginx(&Nginx {
        before: format!("upstream hashed {{ hash $arg_key consistent;\n{places} }}"),
        directives: "location = /hashed { proxy_pass http://hashed; }".to_owned(),
        ..Nginx::default()
    })
}

#[test]
fn chash_sends_a_key_where_nginx_sends_it() {
    let origins: Vec<TcpOrigin> = ["first", "second", "third"]
        .into_iter()
        .map(|name| TcpOrigin::talking(move |_| ok(name)))
        .collect();
    let weights = [3, 1, 2];
    let nodes: Vec<_> = origins.iter().zip(weights).collect();
    let nginx = hashing_nginx(&nodes);
    let gateway = Gateway::start();
    let nodes: Vec<Value> = nodes
        .iter()
        .map(|(origin, weight)| node(origin, *weight, 0))
        .collect();
    lead_to(
        &gateway,
        &json!({"type": "chash", "key": "arg_key", "nodes": nodes}),
    );
    let (mut ours, mut theirs) = (gateway.connect(), RawClient::connect(nginx.port()));
    let mut seen = std::collections::BTreeSet::new();
    for key in 0..60 {
        let target = format!("/hashed?key=k{key}");
        let wanted = theirs.get("h", &target, &[]).expect_status(200).text();
        let found = ours.get("h", &target, &[]).expect_status(200).text();
        assert_eq!(found, wanted, "{target}");
        seen.insert(found);
    }
    assert_eq!(seen.len(), 3, "all nodes have a share");
}

#[test]
fn chash_hashes_by_what_it_is_told_and_falls_back_on_the_client() {
    let origins: Vec<TcpOrigin> = (0..4)
        .map(|index: usize| TcpOrigin::talking(move |_| ok(&index.to_string())))
        .collect();
    let nodes: Vec<Value> = origins.iter().map(|origin| node(origin, 1, 0)).collect();
    let gateway = Gateway::start();
    let upstream = |members: Value| {
        let mut upstream = json!({"type": "chash", "nodes": nodes});
        for (member, value) in members.as_object().expect("members") {
            upstream[member] = value.clone();
        }
        upstream
    };
    // How many nodes answer when what is hashed varies, and when something else does.
    let places = |target: &dyn Fn(usize) -> String, line: &dyn Fn(usize) -> String| {
        let mut client = gateway.connect();
        let mut seen = std::collections::BTreeSet::new();
        for turn in 0..24 {
            let reply = client.get("h", &target(turn), &[&line(turn)]);
            seen.insert(reply.expect_status(200).text());
        }
        seen.len()
    };
    let fixed = |_| "/x".to_owned();
    let plain = |_| "X-Other: 1".to_owned();
    for (members, target, line) in [
        (
            json!({"key": "uri"}),
            (&|turn| format!("/{turn}")) as &dyn Fn(usize) -> String,
            &plain as &dyn Fn(usize) -> String,
        ),
        (
            json!({"hash_on": "header", "key": "X-Id"}),
            &fixed,
            &|turn| format!("X-Id: {turn}"),
        ),
        (
            json!({"hash_on": "cookie", "key": "sid"}),
            &fixed,
            &|turn| format!("Cookie: a=b; sid={turn}"),
        ),
        (
            json!({"hash_on": "vars_combinations", "key": "$host$arg_a"}),
            &|turn| format!("/x?a={turn}"),
            &plain,
        ),
    ] {
        lead_to(&gateway, &upstream(members.clone()));
        assert!(places(target, line) > 1, "{members}");
        // Without what it is hashed by, a request goes by its client's address.
        let constant = |_| "/x".to_owned();
        assert_eq!(
            places(&constant, &|turn| format!("X-Other: {turn}")),
            1,
            "{members}"
        );
    }
    lead_to(&gateway, &upstream(json!({"hash_on": "consumer"})));
    assert_eq!(places(&|turn| format!("/{turn}"), &plain), 1);

    let refused = gateway.admin_put("/upstreams/u", &upstream(json!({"hash_on": "header"})));
    let refused = refused.expect_status(400).json();
    assert_eq!(
        refused,
        json!({"error_msg": "missing key", "hint": "at /key"})
    );
}
