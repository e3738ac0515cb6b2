//! What the gateway tells of itself: status pages, metrics, failures, and who speaks.

use serde_json::{Value, json};

use crate::support::client::{Curl, CurlOutcome, openssl_s_client};
use crate::support::gateway::{ADMIN_KEY, Gateway, field};
use crate::support::origin::{ClosedPort, Nginx, Origin, TcpOrigin};
use crate::support::pki::Ca;
use crate::support::raw::RawClient;
use crate::support::{SOON, eventually, fips};

fn metrics(gateway: &Gateway) -> String {
    Curl::new(&gateway.status_url("/apisix/prometheus/metrics"))
        .send()
        .expect_status(200)
        .body
}

/// A sample's value; 0 where there is none yet.
fn sample(metrics: &str, name: &str) -> u64 {
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().unwrap())
}

/// The count of a reason, whoever is blamed.
fn failures(metrics: &str, reason: &str) -> u64 {
    let label = format!("reason=\"{reason}\"}} ");
    let found = metrics.lines().find_map(|line| {
        line.strip_prefix("portcullis_failures_total{")?
            .split_once(&label)
    });
    found
        .unwrap_or_else(|| panic!("no reason {reason}"))
        .1
        .parse()
        .unwrap()
}

/// Makes something be refused; the status that is seen, where the case has one to compare.
type Provoke<'a> = Box<dyn Fn() -> Option<u16> + 'a>;

fn own(gateway: &Gateway, path: &str) -> Curl {
    let url = format!(
        "http://127.0.0.1:{}/portcullis/v1{path}",
        gateway.port("admin")
    );
    Curl::new(&url).header(&format!("X-API-KEY: {ADMIN_KEY}"))
}

#[test]
fn status_pages_need_no_key_and_are_nowhere_else() {
    let gateway = Gateway::start();
    for (path, body) in [
        ("/status", "{\"status\":\"ok\"}\n"),
        ("/status/ready", "{\"status\":\"ok\"}\n"),
        ("/v1/healthcheck", "{}\n"),
    ] {
        let page = Curl::new(&gateway.status_url(path))
            .send()
            .expect_status(200);
        assert_eq!(page.body, body);
        assert_eq!(page.header("content-type"), Some("application/json"));
        Curl::new(&gateway.status_url(path))
            .method("POST")
            .send()
            .expect_status(404);
        Curl::new(&gateway.http_url(path)).send().expect_status(404);
        let admin = format!("http://127.0.0.1:{}{path}", gateway.port("admin"));
        Curl::new(&admin).send().expect_status(401);
    }
    let page = Curl::new(&gateway.status_url("/apisix/prometheus/metrics"))
        .send()
        .expect_status(200);
    assert_eq!(
        page.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    for path in ["/", "/apisix/admin/routes", "/portcullis/v1/failures"] {
        Curl::new(&gateway.status_url(path))
            .send()
            .expect_status(404);
    }
}

#[test]
fn every_refusal_is_counted_recorded_and_listed_by_its_name() {
    let gateway = Gateway::start();
    let ca = Ca::root("CA");
    let folder = gateway.data();
    let root = ca.write(folder.path(), "root");
    let mallory = Ca::root("CA")
        .client("mallory")
        .write(folder.path(), "mallory");
    let alice = ca.client("alice").write(folder.path(), "alice");
    let server = ca.server("api.example.com");
    let tls = Origin::nginx(&Nginx::tls(ca.server("up.example.com")));
    let plain = Origin::nginx(&Nginx::default());
    let closed = ClosedPort::new();
    let broken = TcpOrigin::answering("not HTTP at all\r\n\r\n");
    let (silent, closing) = (TcpOrigin::silent(), TcpOrigin::closing());
    let ssl = json!({"cert": server.cert, "key": server.key, "snis": ["api.example.com"], "client": {"ca": ca.pem()}});
    gateway.admin_put("/ssls/api", &ssl).expect_status(201);
    let verify =
        |name: &str, ca: &Ca| json!({"verify": true, "ca_certs": [ca.pem()], "server_name": name});
    let stranger = Ca::root("Stranger");
    for (id, upstream) in [
        ("ok", json!({"nodes": {plain.node(): 1}})),
        ("empty", json!({"nodes": {}})),
        ("refused", json!({"nodes": {closed.node(): 1}})),
        ("unresolvable", json!({"nodes": {"none.invalid:1": 1}})),
        (
            "timeout",
            json!({"nodes": {silent.node(): 1}, "timeout": {"connect": 1, "send": 1, "read": 0.2}}),
        ),
        ("reset", json!({"nodes": {closing.node(): 1}})),
        ("protocol", json!({"nodes": {broken.node(): 1}})),
        ("expects-tls", json!({"nodes": {tls.node(): 1}})),
        (
            "plaintext",
            json!({"scheme": "https", "nodes": {plain.node(): 1}}),
        ),
        (
            "unknown-ca",
            json!({"scheme": "https", "nodes": {tls.node(): 1}, "tls": verify("up.example.com", &stranger)}),
        ),
        (
            "mismatch",
            json!({"scheme": "https", "nodes": {tls.node(): 1}, "tls": verify("other.example.com", &ca)}),
        ),
    ] {
        let route = json!({"uri": format!("/{id}"), "upstream": upstream});
        gateway
            .admin_put(&format!("/routes/{id}"), &route)
            .expect_status(201);
    }
    let http = |path: &str| Curl::new(&gateway.http_url(path));
    let api = || gateway.https("api.example.com", "/ok").cacert(&root);
    let https_port = gateway.https_port();
    let cases: Vec<(&str, Option<u16>, Provoke<'_>)> = vec![
        (
            "route_not_found",
            Some(404),
            Box::new(|| http("/nowhere").send().status),
        ),
        (
            "no_node",
            Some(503),
            Box::new(|| http("/empty").send().status),
        ),
        (
            "upstream_refused",
            Some(502),
            Box::new(|| http("/refused").send().status),
        ),
        (
            "upstream_unresolvable",
            Some(503),
            Box::new(|| http("/unresolvable").send().status),
        ),
        (
            "upstream_timeout",
            Some(504),
            Box::new(|| http("/timeout").send().status),
        ),
        (
            "upstream_reset",
            Some(502),
            Box::new(|| http("/reset").send().status),
        ),
        (
            "upstream_protocol_error",
            Some(502),
            Box::new(|| http("/protocol").send().status),
        ),
        (
            "upstream_expects_tls",
            Some(502),
            Box::new(|| http("/expects-tls").send().status),
        ),
        (
            "upstream_speaks_plaintext",
            Some(502),
            Box::new(|| http("/plaintext").send().status),
        ),
        (
            "upstream_ca_unknown",
            Some(502),
            Box::new(|| http("/unknown-ca").send().status),
        ),
        (
            "upstream_name_mismatch",
            Some(502),
            Box::new(|| http("/mismatch").send().status),
        ),
        (
            "authority_policy_mismatch",
            Some(421),
            Box::new(|| http("/ok").header("Host: api.example.com").send().status),
        ),
        (
            "sni_unknown",
            None,
            Box::new(|| {
                gateway
                    .https("x.example.com", "/")
                    .args(&["-k"])
                    .send()
                    .status
            }),
        ),
        (
            "client_cert_missing",
            None,
            Box::new(|| api().send().status),
        ),
        (
            "client_cert_unknown_ca",
            None,
            Box::new(|| api().cert(&mallory).send().status),
        ),
        (
            "sni_missing",
            None,
            Box::new(|| {
                openssl_s_client(https_port, &["-noservername"], "");
                None
            }),
        ),
        (
            "client_plaintext_on_tls",
            None,
            Box::new(|| {
                let status = Curl::new(&format!("http://127.0.0.1:{https_port}/"))
                    .send()
                    .status;
                assert_eq!(status, Some(400));
                None
            }),
        ),
        (
            "request_invalid",
            None,
            Box::new(|| {
                let mut client = RawClient::connect(gateway.port("http"));
                client.send("GET / HTTP/1.1\r\nHost: a\r\nBad Header: x\r\n\r\n");
                client.read_reply().expect_status(400);
                None
            }),
        ),
        (
            "authority_invalid",
            None,
            Box::new(|| {
                let mut client = RawClient::connect(gateway.port("http"));
                client.send("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
                client.read_reply().expect_status(400);
                None
            }),
        ),
    ];
    let first = metrics(&gateway);
    for (reason, status, provoke) in &cases {
        let before = metrics(&gateway);
        assert_eq!(provoke(), *status, "{reason}");
        let is_counted = |metrics: &str| failures(metrics, reason) == failures(&before, reason) + 1;
        let after = eventually(SOON, reason, || {
            Some(metrics(&gateway)).filter(|text| is_counted(text))
        });
        let all = |text: &str| {
            cases
                .iter()
                .map(|(reason, ..)| failures(text, reason))
                .sum::<u64>()
        };
        assert_eq!(
            all(&after),
            all(&before) + 1,
            "{reason} counts once, and nothing else with it"
        );
        gateway.expect_record(reason, |record| {
            let is_status = status.is_none_or(|status| record["status"] == status);
            record["reason"] == *reason && is_status
        });
        let listed = own(&gateway, &format!("/failures?reason={reason}"))
            .send()
            .expect_status(200)
            .json();
        assert_eq!(listed["total"], 1, "{listed}");
        assert_eq!(listed["list"][0]["reason"], *reason);
        assert_eq!(listed["counts"][reason], 1, "{listed}");
        let entry = own(&gateway, &format!("/failures/{reason}"))
            .send()
            .expect_status(200)
            .json();
        assert!(
            entry["remedy"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{entry}"
        );
    }
    let newest = own(&gateway, "/failures?limit=2")
        .send()
        .expect_status(200)
        .json();
    let reasons = |list: &Value| -> Vec<String> {
        let list = list["list"].as_array().unwrap();
        list.iter()
            .map(|failure| failure["reason"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(reasons(&newest), ["authority_invalid", "request_invalid"]);
    own(&gateway, "/failures?reason=none_such")
        .send()
        .expect_status(404);

    // What goes well is no failure.
    let before = metrics(&gateway);
    http("/ok").send().expect_status(200);
    api().cert(&alice).send().expect_status(200);
    eventually(SOON, "two requests are counted", || {
        let counted = |text: &str| sample(text, "portcullis_requests_total{code=\"200\"}");
        let after = metrics(&gateway);
        (counted(&after) == counted(&before) + 2).then_some(())
    });
    let last = metrics(&gateway);
    let total = |text: &str| {
        cases
            .iter()
            .map(|(reason, ..)| failures(text, reason))
            .sum::<u64>()
    };
    assert_eq!(
        total(&last),
        total(&first) + u64::try_from(cases.len()).unwrap()
    );
}

#[test]
fn requests_handshakes_and_writes_are_counted() {
    let gateway = Gateway::start();
    let ca = Ca::root("CA");
    let folder = gateway.data();
    let root = ca.write(folder.path(), "root");
    let origin = Origin::nginx(&Nginx::tls(ca.server("up.example.com")));
    let server = ca.server("api.example.com");
    let ssl = json!({"cert": server.cert, "key": server.key, "snis": ["api.example.com"]});
    gateway.admin_put("/ssls/1", &ssl).expect_status(201);
    let route = json!({"uri": "/ok", "upstream": {"scheme": "https", "nodes": {origin.node(): 1}}});
    gateway.admin_put("/routes/1", &route).expect_status(201);
    gateway
        .admin_put("/routes/2", &json!({"uri": 1}))
        .expect_status(400);
    let ask = |path: &str| gateway.https("api.example.com", path).cacert(&root).send();
    for _ in 0..3 {
        ask("/ok").expect_status(200);
    }
    ask("/nowhere").expect_status(404);
    gateway
        .https("x.example.com", "/")
        .cacert(&root)
        .send()
        .expect_refused_handshake();
    let wanted = [
        ("portcullis_requests_total{code=\"200\"}", 3),
        ("portcullis_requests_total{code=\"404\"}", 1),
        (
            "portcullis_handshakes_total{result=\"ok\",resumed=\"false\",side=\"downstream\"}",
            4,
        ),
        (
            "portcullis_handshakes_total{result=\"failed\",resumed=\"false\",side=\"downstream\"}",
            1,
        ),
        (
            "portcullis_writes_total{kind=\"ssls\",outcome=\"accepted\"}",
            1,
        ),
        (
            "portcullis_writes_total{kind=\"routes\",outcome=\"accepted\"}",
            1,
        ),
        (
            "portcullis_writes_total{kind=\"routes\",outcome=\"refused\"}",
            1,
        ),
        ("portcullis_resources{kind=\"routes\"}", 1),
        ("portcullis_upstream_not_verified", 1),
        ("portcullis_fips", u64::from(fips::everywhere().is_some())),
    ];
    let found = |text: &str| wanted.map(|(name, _)| (name, sample(text, name)));
    let mut last = String::new();
    let deadline = std::time::Instant::now() + SOON;
    while found(&last) != wanted && std::time::Instant::now() < deadline {
        last = metrics(&gateway);
    }
    assert_eq!(found(&last), wanted);
    let upstream = sample(
        &last,
        "portcullis_handshakes_total{result=\"ok\",resumed=\"false\",side=\"upstream\"}",
    );
    assert!(
        (1..=2).contains(&upstream),
        "a connection for each worker at most: {upstream}"
    );
}

#[test]
fn failures_need_a_key_and_name_the_request() {
    let gateway = Gateway::start();
    let answer = Curl::new(&gateway.http_url("/nowhere?token=canary"))
        .send()
        .expect_status(404);
    let id = answer.header("x-portcullis-request-id").unwrap().to_owned();
    gateway.expect_record("the request", |record| record["request_id"] == *id);
    for port in ["admin", "admin_https"] {
        let scheme = if port == "admin" { "http" } else { "https" };
        let url = format!(
            "{scheme}://127.0.0.1:{}/portcullis/v1/failures",
            gateway.port(port)
        );
        let ask = |headers: &[&str]| -> CurlOutcome {
            let request = Curl::new(&url).args(&["-k"]);
            headers
                .iter()
                .fold(request, |request, header| request.header(header))
                .send()
        };
        ask(&[]).expect_status(401);
        ask(&["X-API-KEY: wrong"]).expect_status(401);
        let told = ask(&[&format!("X-API-KEY: {ADMIN_KEY}")]).expect_status(200);
        assert!(!told.body.contains("canary"), "{told:?}");
        let list = told.json()["list"].clone();
        assert_eq!(list.as_array().unwrap().len(), 1);
        assert_eq!(list[0]["reason"], "route_not_found");
        assert_eq!(list[0]["request_id"], id);
        assert_eq!(list[0]["path"], "/nowhere");
        assert_eq!(list[0]["status"], 404);
    }
}

#[test]
fn each_plane_says_who_speaks() {
    let gateway = Gateway::start();
    let version = env!("CARGO_PKG_VERSION");
    for answer in [
        gateway.admin_get("/routes").expect_status(200),
        gateway.admin_get("/routes/absent").expect_status(404),
        gateway
            .admin_put("/routes/1", &json!({}))
            .expect_status(400),
        gateway
            .admin_https("GET", "/routes")
            .send()
            .expect_status(200),
        Curl::new(&format!(
            "http://127.0.0.1:{}/apisix/admin/routes",
            gateway.port("admin")
        ))
        .send()
        .expect_status(401),
    ] {
        assert_eq!(answer.header("server"), Some("APISIX/3.18.0"), "{answer:?}");
        assert_eq!(
            answer.header("x-portcullis-version"),
            Some(version),
            "{answer:?}"
        );
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    let own = Curl::new(&gateway.http_url("/nowhere"))
        .send()
        .expect_status(404);
    assert_eq!(own.header("server"), Some("Portcullis"));
    assert_eq!(own.header("x-portcullis-version"), None);
    let line = gateway.expect_log("the start", |line| {
        field(line, "message") == Some("portcullis starts")
    });
    assert_eq!(field(&line, "version"), Some(version));
}

#[test]
fn upstream_connections_and_bytes_of_bodies_are_counted() {
    let origin = TcpOrigin::echoing();
    let gateway = Gateway::start();
    gateway.configure(
        "/routes/r",
        &json!({"uri": "/*", "upstream": {"nodes": {origin.node(): 1}}}),
    );
    let state = |text: &str, state: &str| {
        sample(
            text,
            &format!("portcullis_upstream_connections{{state=\"{state}\"}}"),
        )
    };
    assert_eq!(state(&metrics(&gateway), "idle"), 0);
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe");
    eventually(SOON, "a request under way is an active connection", || {
        let text = metrics(&gateway);
        (state(&text, "active") == 1 && state(&text, "idle") == 0).then_some(())
    });
    client.send("llo");
    let reply = client.read_reply().expect_status(200);
    let sent = u64::try_from(reply.text().len()).unwrap();
    eventually(SOON, "an answered one leaves it idle", || {
        let text = metrics(&gateway);
        (state(&text, "active") == 0 && state(&text, "idle") == 1).then_some(())
    });
    let text = metrics(&gateway);
    assert_eq!(sample(&text, "portcullis_request_body_bytes_total"), 5);
    assert_eq!(sample(&text, "portcullis_response_body_bytes_total"), sent);
}
