//! Health checks: nodes that are asked, nodes that requests tell of, and what is shown of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::{Value, json};

use crate::support::client::Curl;
use crate::support::gateway::{Gateway, Setup, field};
use crate::support::origin::{ClosedPort, Nginx, Origin, TcpOrigin};
use crate::support::pki::Ca;
use crate::support::raw::RawClient;
use crate::support::{SOON, TlsVersion, eventually, patiently};

/// An origin that answers `/up` with a status that can be changed, and all else with 200.
struct Patient {
    origin: TcpOrigin,
    status: Arc<AtomicU16>,
}

impl Patient {
    fn start() -> Self {
        let status = Arc::new(AtomicU16::new(200));
        let own = Arc::clone(&status);
        let origin = TcpOrigin::talking(move |head| {
            let is_check = head.contains(" /up ");
            let status = if is_check || head.contains(" /as-checked ") {
                own.load(Ordering::Acquire)
            } else {
                200
            };
            format!("HTTP/1.1 {status} Whatever\r\nContent-Length: 0\r\n\r\n").into_bytes()
        });
        Self { origin, status }
    }

    fn answer(&self, status: u16) {
        self.status.store(status, Ordering::Release);
    }

    fn count(&self, path: &str) -> usize {
        let heads = self.origin.heads();
        let is_for = |head: &&String| head.split(' ').nth(1) == Some(path);
        heads.iter().filter(is_for).count()
    }
}

/// `/v1/healthcheck` and what follows it.
#[track_caller]
fn shown(gateway: &Gateway, path: &str) -> Value {
    let url = gateway.status_url(&format!("/v1/healthcheck{path}"));
    Curl::new(&url).send().expect_status(200).json()
}

/// Waits until a node of `/upstreams/u`, by its place, has this status.
#[track_caller]
fn expect_status(gateway: &Gateway, node: usize, status: &str) -> Value {
    eventually(SOON, status, || {
        let node = shown(gateway, "/upstreams/u")["nodes"][node].clone();
        (node["status"] == status).then_some(node)
    })
}

#[track_caller]
fn metric(gateway: &Gateway, to: &str) -> u64 {
    let url = gateway.status_url("/apisix/prometheus/metrics");
    let page = Curl::new(&url).send().expect_status(200).body;
    let name = format!("portcullis_node_transitions_total{{to=\"{to}\"}} ");
    let line = page.lines().find_map(|line| line.strip_prefix(&name));
    line.expect("the metric is there")
        .parse()
        .expect("a number")
}

#[track_caller]
fn lead_to(gateway: &Gateway, upstream: &Value) {
    gateway.configure("/upstreams/u", upstream);
    gateway.configure("/routes/r", &json!({"uri": "/*", "upstream_id": "u"}));
}

#[track_caller]
fn ask(client: &mut RawClient, path: &str, count: usize) {
    for _ in 0..count {
        client.get("h", path, &[]).expect_status(200);
    }
}

/// Turns at the first sign.
fn at_once(more: &Value) -> Value {
    let mut active = json!({
        "http_path": "/up",
        // Who answers has all the time it needs.
        "timeout": 60,
        "healthy": {"interval": 1, "successes": 1},
        "unhealthy": {"interval": 1, "http_failures": 1, "tcp_failures": 1, "timeouts": 1},
    });
    for (member, value) in more.as_object().expect("members") {
        active[member] = value.clone();
    }
    active
}

#[test]
fn node_that_fails_its_checks_is_passed_over_until_it_passes_them() {
    let (ill, well) = (Patient::start(), Patient::start());
    let gateway = Gateway::start();
    let mut client = gateway.connect();
    let active = at_once(&json!({"host": "check.test", "req_headers": ["X-Check: yes"]}));
    lead_to(
        &gateway,
        &json!({
            "nodes": {ill.origin.node(): 1, well.origin.node(): 1},
            "checks": {"active": active},
        }),
    );
    eventually(SOON, "both are asked", || {
        (ill.count("/up") > 0 && well.count("/up") > 0).then_some(())
    });
    let head = ill.origin.heads().remove(0).to_ascii_lowercase();
    assert!(head.starts_with("get /up http/1.1\r\n"), "{head}");
    for line in ["host: check.test\r\n", "x-check: yes\r\n"] {
        assert!(head.contains(line), "{head}");
    }
    let all = shown(&gateway, "");
    assert_eq!(all[0]["name"], "/apisix/upstreams/u", "{all}");
    let port = ill.origin.port();
    let healthy = json!({
        "name": "/apisix/upstreams/u",
        "type": "http",
        "nodes": [
            {
                "ip": "127.0.0.1", "port": port, "hostname": "check.test", "status": "healthy",
                "counter": {
                    "success": 0, "http_failure": 0, "tcp_failure": 0, "timeout_failure": 0,
                },
            },
            all[0]["nodes"][1],
        ],
    });
    assert_eq!(shown(&gateway, "/upstreams/u"), healthy);
    ask(&mut client, "/both", 4);
    assert!(ill.count("/both") > 0 && well.count("/both") > 0);

    ill.answer(500);
    let node = expect_status(&gateway, 0, "unhealthy");
    assert_eq!(node["counter"]["http_failure"], 1, "{node}");
    ask(&mut client, "/one", 6);
    assert_eq!((ill.count("/one"), well.count("/one")), (0, 6));
    let line = gateway.expect_log("the node is told", |line| {
        field(line, "message") == Some("node is unhealthy: it is passed over")
    });
    assert_eq!(field(&line, "node"), Some(ill.origin.node().as_str()));
    assert_eq!(field(&line, "by"), Some("active"));
    assert_eq!(metric(&gateway, "unhealthy"), 1);

    ill.answer(302);
    expect_status(&gateway, 0, "healthy");
    ask(&mut client, "/again", 4);
    assert!(ill.count("/again") > 0, "it is used again");
    assert_eq!(metric(&gateway, "healthy"), 1);
}

#[test]
fn all_nodes_are_used_when_none_is_healthy() {
    let (one, other) = (Patient::start(), Patient::start());
    one.answer(503);
    other.answer(503);
    let gateway = Gateway::start();
    lead_to(
        &gateway,
        &json!({
            "nodes": {one.origin.node(): 1, other.origin.node(): 1},
            "checks": {"active": at_once(&json!({}))},
        }),
    );
    expect_status(&gateway, 0, "unhealthy");
    expect_status(&gateway, 1, "unhealthy");
    ask(&mut gateway.connect(), "/any", 8);
    assert!(one.count("/any") > 0 && other.count("/any") > 0);
    other.answer(200);
    expect_status(&gateway, 1, "healthy");
    ask(&mut gateway.connect(), "/one", 8);
    assert_eq!((one.count("/one"), other.count("/one")), (0, 8));
}

#[test]
fn connection_is_all_that_a_tcp_check_asks_for() {
    let open = TcpOrigin::silent();
    let closed = ClosedPort::new();
    let gateway = Gateway::start();
    lead_to(
        &gateway,
        &json!({
            "nodes": {open.node(): 1, closed.node(): 1},
            "checks": {"active": at_once(&json!({"type": "tcp"}))},
        }),
    );
    let places = |status: &str| {
        let nodes = shown(&gateway, "/upstreams/u")["nodes"].clone();
        let nodes = nodes.as_array().expect("nodes").clone();
        nodes
            .into_iter()
            .filter(|node| node["status"] == status)
            .collect::<Vec<_>>()
    };
    let down = eventually(SOON, "one is down", || places("unhealthy").pop());
    assert_eq!(down["counter"]["tcp_failure"], 1, "{down}");
    let up = places("healthy").pop().expect("the other is up");
    assert_eq!(up["port"], open.port());
    // Asked for an answer, the silent one is late.
    lead_to(
        &gateway,
        &json!({
            "nodes": {open.node(): 1},
            "checks": {"active": at_once(&json!({"timeout": 0.3}))},
        }),
    );
    let node = expect_status(&gateway, 0, "unhealthy");
    assert_eq!(node["counter"]["timeout_failure"], 1, "{node}");
}

#[test]
fn https_check_presents_the_certificate_of_the_gateway() {
    let ca = Ca::root("Upstream CA");
    let clients = Ca::root("Clients' CA");
    let client = clients.client("gateway");
    let origin = Origin::nginx(&Nginx::mutual(ca.server("upstream.test"), clients.pem()));
    let gateway = Gateway::start();
    for version in TlsVersion::ALL {
        let version = match version {
            TlsVersion::V12 => "TLSv1.2",
            TlsVersion::V13 => "TLSv1.3",
        };
        for (shows, name, status) in [
            (false, "upstream.test", "unhealthy"),
            (true, "upstream.test", "healthy"),
            // The check verifies as requests do.
            (true, "other.test", "unhealthy"),
        ] {
            let mut tls = json!({
                "verify": true,
                "ca_certs": [ca.pem()],
                "min_version": version,
                "max_version": version,
            });
            if shows {
                tls["client_cert"] = json!(client.cert);
                tls["client_key"] = json!(client.key);
            }
            // nginx says 400 to who shows none.
            let failing = json!({
                "interval": 1, "http_statuses": [400], "http_failures": 1, "tcp_failures": 1,
            });
            let active =
                json!({"type": "https", "healthy": {"successes": 1}, "unhealthy": failing});
            lead_to(
                &gateway,
                &json!({
                    "scheme": "https",
                    "pass_host": "rewrite",
                    "upstream_host": name,
                    "nodes": {origin.node(): 1},
                    "tls": tls,
                    "checks": {"active": active},
                }),
            );
            // What is known of the node outlives the write: each check turns it.
            expect_status(&gateway, 0, status);
        }
        gateway.admin_delete("/routes/r").expect_status(200);
        gateway.admin_delete("/upstreams/u").expect_status(200);
    }
}

#[test]
fn requests_tell_of_a_node_and_a_check_brings_it_back() {
    let (ill, well) = (Patient::start(), Patient::start());
    let gateway = Setup::default().set("workers", "1").start();
    let mut client = gateway.connect();
    let passive = json!({"unhealthy": {"http_statuses": [500], "http_failures": 2}});
    let mut upstream = json!({
        "nodes": {ill.origin.node(): 1, well.origin.node(): 1},
        "checks": {
            "active": {
                "http_path": "/alive",
                "healthy": {"interval": 3600},
                "unhealthy": {"interval": 3600},
            },
            "passive": passive,
        },
    });
    lead_to(&gateway, &upstream);
    eventually(SOON, "both are asked", || {
        (ill.count("/alive") > 0 && well.count("/alive") > 0).then_some(())
    });
    ill.answer(500);
    let mut failures = 0;
    for _ in 0..12 {
        let status = client.get("h", "/as-checked", &[]).status;
        failures += usize::from(status == 500);
    }
    assert_eq!(failures, 2, "two are enough");
    let node = expect_status(&gateway, 0, "unhealthy");
    assert_eq!(node["counter"]["http_failure"], 2, "{node}");
    gateway.expect_log("requests told", |line| {
        field(line, "by") == Some("passive")
            && field(line, "node") == Some(ill.origin.node().as_str())
    });
    // What is known of a node outlives a write of its upstream.
    upstream["retries"] = json!(1);
    upstream["checks"]["active"]["unhealthy"]["interval"] = json!(1);
    // More than there will be until it was seen on its way.
    upstream["checks"]["active"]["healthy"]["successes"] = json!(200);
    gateway.configure("/upstreams/u", &upstream);
    expect_status(&gateway, 0, "mostly_unhealthy");
    upstream["checks"]["active"]["healthy"]["successes"] = json!(3);
    gateway.configure("/upstreams/u", &upstream);
    expect_status(&gateway, 0, "healthy");
    assert_eq!(metric(&gateway, "healthy"), 1);
}

#[test]
fn node_without_weight_stands_in_when_no_other_is_healthy() {
    let (spare, gone) = (TcpOrigin::echoing(), ClosedPort::new());
    let gateway = Setup::default().set("workers", "1").start();
    let mut client = gateway.connect();
    for kind in ["roundrobin", "chash", "least_conn", "ewma"] {
        lead_to(
            &gateway,
            &json!({
                "type": kind,
                "key": "uri",
                "retries": 0,
                "nodes": {spare.node(): 0, gone.node(): 1},
                "checks": {
                    "active": {
                        "type": "tcp",
                        "healthy": {"interval": 3600},
                        "unhealthy": {"interval": 3600, "tcp_failures": 9},
                    },
                    "passive": {"unhealthy": {"tcp_failures": 2}},
                },
            }),
        );
        // As long as the other is taken for healthy it has all requests.
        let statuses = [(); 6].map(|()| client.get("h", "/", &[]).status);
        assert!(
            statuses[0] == 502 && statuses.ends_with(&[200; 4]),
            "{kind}: {statuses:?}"
        );
        gateway.admin_delete("/routes/r").expect_status(200);
        gateway.admin_delete("/upstreams/u").expect_status(200);
    }
}

#[test]
fn connections_that_break_and_answers_that_are_late_tell_of_a_node() {
    patiently(|limit| {
        for (node, counter) in [
            (TcpOrigin::closing(), "tcp_failure"),
            (TcpOrigin::silent(), "timeout_failure"),
        ] {
            let well = TcpOrigin::echoing();
            // A check that succeeded between the failure and the look at it would clear its count.
            let undecided = TcpOrigin::silent();
            let gateway = Setup::default().set("workers", "1").start();
            let mut client = gateway.connect();
            lead_to(
                &gateway,
                &json!({
                    "nodes": {node.node(): 1, well.node(): 1},
                    "timeout": {"connect": 60, "send": 60, "read": limit.as_secs_f64()},
                    "checks": {
                        "active": {
                            "port": undecided.port(),
                            "timeout": 3600,
                            "healthy": {"interval": 3600},
                            "unhealthy": {"interval": 3600},
                        },
                        "passive": {"unhealthy": {"tcp_failures": 1, "timeouts": 1}},
                    },
                }),
            );
            ask(&mut client, "/", 4);
            let nodes = shown(&gateway, "/upstreams/u")["nodes"].clone();
            let nodes = nodes.as_array().expect("nodes");
            // Both are asked at one address, which is told once.
            assert_eq!(nodes.len(), 1, "{nodes:?}");
            let is_down = |it: &&Value| it["status"] == "unhealthy";
            let down: Vec<_> = nodes.iter().filter(is_down).collect();
            assert_eq!(down.len(), 1, "{nodes:?}");
            assert_eq!(down[0]["counter"][counter], 1, "{nodes:?}");
            gateway.expect_log("the node that turned", |line| {
                field(line, "message") == Some("node is unhealthy: it is passed over")
                    && field(line, "node") == Some(&node.node())
            });
        }
    });
}

#[test]
fn checks_end_with_their_upstream_and_those_inside_routes_and_services_are_made() {
    let (gone, stays) = (Patient::start(), Patient::start());
    let gateway = Gateway::start();
    let upstream = |origin: &TcpOrigin| json!({"nodes": {origin.node(): 1}, "checks": {"active": at_once(&json!({}))}});
    gateway.configure("/services/s", &json!({"upstream": upstream(&stays.origin)}));
    let route = json!({"uri": "/r", "upstream": upstream(&gone.origin)});
    gateway.configure("/routes/r", &route);
    gateway.configure("/routes/plain", &json!({"uri": "/p", "service_id": "s"}));
    eventually(SOON, "both are asked", || {
        (gone.count("/up") > 1 && stays.count("/up") > 1).then_some(())
    });
    let names = |all: &Value| {
        let all = all.as_array().expect("a list").clone();
        all.into_iter()
            .map(|it| it["name"].clone())
            .collect::<Vec<_>>()
    };
    let all = shown(&gateway, "");
    assert_eq!(names(&all), ["/apisix/routes/r", "/apisix/services/s"]);
    assert_eq!(shown(&gateway, "/routes/r"), all[0]);
    let url = gateway.status_url("/v1/healthcheck/routes/plain");
    let none = Curl::new(&url).send().expect_status(404).json();
    assert_eq!(none["error_msg"], "no checker for routes[plain]");

    gateway.admin_delete("/routes/r").expect_status(200);
    assert_eq!(names(&shown(&gateway, "")), ["/apisix/services/s"]);
    let (before, others) = (gone.count("/up"), stays.count("/up"));
    eventually(SOON, "the other is asked on", || {
        (stays.count("/up") > others + 2).then_some(())
    });
    // One may have been on its way.
    assert!(gone.count("/up") <= before + 1);
}

#[test]
fn page_for_people_has_a_row_for_each_node() {
    let (gone, stays) = (ClosedPort::new(), Patient::start());
    let gateway = Gateway::start();
    let page = |path: &str| {
        let url = gateway.status_url(&format!("/v1/healthcheck{path}"));
        let page = Curl::new(&url).header("Accept: text/html,*/*;q=0.8").send();
        let page = page.expect_status(200);
        assert_eq!(page.header("content-type"), Some("text/html"));
        page.body
    };
    assert_eq!(page("").matches("<td>").count(), 0);
    lead_to(
        &gateway,
        &json!({
            "nodes": {gone.node(): 1, stays.origin.node(): 1},
            "checks": {"active": at_once(&json!({}))},
        }),
    );
    let node = expect_status(&gateway, 0, "unhealthy");
    // It is asked by no other name than its own.
    assert_eq!(node.get("hostname"), None, "{node}");
    for page in [page(""), page("/upstreams/u")] {
        assert_eq!(page.matches("<td>").count(), 18, "{page}");
        for (index, node, status) in [
            (1, gone.node(), "unhealthy"),
            (2, stays.origin.node(), "healthy"),
        ] {
            let row = format!(
                "<td>{index}</td><td>/apisix/upstreams/u</td><td>http</td><td>{node}</td><td>{status}</td>"
            );
            assert!(page.contains(&row), "{row} in {page}");
        }
    }
}

#[test]
fn checks_that_cannot_be_made_are_refused() {
    let gateway = Gateway::start();
    let origin = TcpOrigin::echoing();
    let with = |checks: Value| json!({"nodes": {origin.node(): 1}, "checks": checks});
    for (checks, text) in [
        (
            json!({"passive": {}}),
            "invalid configuration: property \"checks\" validation failed: object matches none of \
             the required: [\"active\"] or [\"active\",\"passive\"]",
        ),
        (
            json!({"active": {"http_path": "no-slash"}}),
            "http_path is no path; write one that begins with `/`",
        ),
    ] {
        let outcome = gateway.admin_put("/upstreams/u", &with(checks));
        let outcome = outcome.expect_status(400).json();
        assert_eq!(outcome["error_msg"], text);
    }
    gateway.configure("/upstreams/u", &with(json!({"active": {}, "passive": {}})));
}

#[test]
fn check_of_our_own_admin_port_is_refused_as_a_node_is() {
    let gateway = Gateway::start();
    let origin = TcpOrigin::closing();
    let checks = |port: u16| {
        json!({
            "nodes": {origin.node(): 1},
            "checks": {"active": {"port": port}},
        })
    };
    let refused = gateway.admin_put("/upstreams/u", &checks(gateway.port("admin")));
    assert_eq!(refused.status, Some(400), "{refused:?}");
    assert!(refused.body.contains("checks.active.port"), "{refused:?}");
    gateway.configure("/upstreams/u", &checks(origin.port()));
}
