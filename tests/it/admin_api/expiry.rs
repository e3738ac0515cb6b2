//! `ttl`: what is deleted by itself, by the real binary's clock.

use super::*;
use crate::support::{eventually, patiently};

/// When it expires, as a reply tells it.
fn end(outcome: &CurlOutcome) -> Option<&str> {
    outcome.header("x-portcullis-expires")
}

fn is_gone(gateway: &Gateway, path: &str) {
    eventually(2 * SOON, "it expires", || {
        (gateway.admin_get(path).status == Some(404)).then_some(())
    });
}

#[test]
fn object_with_a_ttl_is_served_until_it_ends_and_deleted_with_a_record() {
    patiently(|limit| {
        let gateway = Gateway::start();
        let ask = |path: &str| Curl::new(&gateway.http_url(path)).send().status;
        let ttl = |path: &str| format!("{path}?ttl={}", limit.mul_f64(1.5).as_secs_f64());
        for (path, document) in [
            (ttl("/upstreams/short"), upstream()),
            (ttl("/upstreams/kept"), upstream()),
            (
                ttl("/routes/short"),
                json!({"uri": "/short", "upstream": {"nodes": {}}}),
            ),
            (
                "/routes/user".to_owned(),
                json!({"uri": "/user", "upstream_id": "short"}),
            ),
            (ttl("/services/short"), json!({})),
        ] {
            let put = gateway.admin_put(&path, &document).expect_status(201);
            assert_eq!(end(&put).is_some(), path.contains("ttl"), "{path}");
        }
        assert_eq!(ask("/short"), Some(503));
        let cleared = gateway.admin("PATCH", "/upstreams/kept").body("{}").send();
        assert_eq!(end(&cleared.expect_status(200)), None);
        for path in ["/upstreams/short", "/routes/short", "/services/short"] {
            is_gone(&gateway, path);
        }
        let missing = gateway.admin_get("/routes/short").json();
        assert_eq!(missing, json!({"message": "Key not found"}));
        // Those that refer to it stay, and lack it.
        assert_eq!((ask("/short"), ask("/user")), (Some(404), Some(502)));
        gateway.admin_get("/upstreams/kept").expect_status(200);
        gateway.expect_log("who is left without it", |line| {
            field(line, "used_by") == Some("route [user]") && field(line, "id") == Some("short")
        });
        let url = format!(
            "http://127.0.0.1:{}/portcullis/v1/audit",
            gateway.port("admin")
        );
        let audit = Curl::new(&url)
            .header(&format!("X-API-KEY: {ADMIN_KEY}"))
            .send()
            .expect_status(200)
            .json();
        let records = audit["list"].as_array().unwrap();
        let by_ttl = records.iter().filter(|record| record["actor"] == "ttl");
        let mut deleted: Vec<_> = by_ttl
            .map(|record| (record["action"].as_str(), record["kind"].as_str()))
            .collect();
        deleted.sort_unstable();
        let kinds = ["route", "service", "upstream"];
        assert_eq!(
            deleted,
            kinds.map(|kind| (Some("delete"), Some(kind))),
            "{audit}"
        );
    });
}

#[test]
fn ttl_goes_on_while_the_gateway_does_not_run() {
    patiently(|limit| {
        let gateway = Gateway::start();
        let put = |path: &str| gateway.admin_put(path, &upstream()).expect_status(201);
        let long = put("/upstreams/long?ttl=3600");
        let lasts = limit.mul_f64(2.5);
        let late = put(&format!("/upstreams/late?ttl={}", lasts.as_secs_f64()));
        let ends: u64 = end(&late).unwrap().parse().unwrap();
        let data = gateway.data();
        gateway.stop();
        eventually(lasts + SOON, "the end", || {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            (now.unwrap().as_secs() > ends).then_some(())
        });
        let last = Setup::default().data(&data).start();
        last.admin_get("/upstreams/late").expect_status(404);
        last.expect_log("it was late", |line| {
            field(line, "id") == Some("late") && field(line, "actor") == Some("ttl")
        });
        let shown = last.admin_get("/upstreams/long").expect_status(200);
        assert_eq!(end(&shown), end(&long));
    });
}

#[test]
fn ttl_is_refused_where_nothing_may_vanish_or_it_is_no_time() {
    let gateway = Gateway::start();
    let pair = Ca::root("CA").server("api.example.com");
    let document = ssl(&pair, "api.example.com");
    let refused = gateway.admin_put("/ssls/s?ttl=60", &document);
    let text = error_msg(&refused.expect_status(400));
    assert!(text.contains("ttl is not supported for ssls"), "{text}");
    gateway.admin_put("/ssls/s", &document).expect_status(201);
    for (ttl, text) in [
        ("soon", "invalid argument ttl: should be a number"),
        (
            "0",
            "invalid argument ttl: should be between 0.001 and 9000000000 seconds",
        ),
    ] {
        let refused = gateway.admin_put(&format!("/upstreams/u?ttl={ttl}"), &upstream());
        assert_eq!(error_msg(&refused.expect_status(400)), text);
    }
    gateway.admin_get("/upstreams/u").expect_status(404);
}
