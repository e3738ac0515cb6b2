//! Requests that come back to the gateway: refused when they go round, passed on when they do not.

use serde_json::json;

use crate::support::client::Curl;
use crate::support::gateway::{Gateway, field};
use crate::support::origin::{TcpOrigin, ok};

fn by_host(gateway: &Gateway, id: &str, host: &str, upstream: &serde_json::Value) {
    let route = json!({"uri": "/*", "host": host, "upstream": upstream});
    gateway.configure(&format!("/routes/{id}"), &route);
}

#[test]
fn route_that_leads_to_itself_is_508_and_named() {
    let gateway = Gateway::start();
    let own = format!("127.0.0.1:{}", gateway.port("http"));
    by_host(&gateway, "round", "round.test", &json!({"nodes": {own: 1}}));
    let url = gateway.http_url("/round");
    let reply = Curl::new(&url).header("Host: round.test").send();
    assert_eq!(reply.status, Some(508), "{reply:?}");
    let record = gateway.expect_record("the loop", |line| {
        field(line, "path") == Some("/round") && field(line, "reason") == Some("loop_detected")
    });
    assert_eq!(record["status"], 508, "{record}");
    // Each pass has its record: so many, and no more.
    let passes = gateway.records();
    let passes = passes
        .iter()
        .filter(|it| field(it, "path") == Some("/round"));
    assert!(passes.count() <= 6);
}

#[test]
fn two_gateways_that_lead_to_one_another_are_found_out() {
    let (one, other) = (Gateway::start(), Gateway::start());
    for (gateway, next) in [(&one, &other), (&other, &one)] {
        let node = format!("127.0.0.1:{}", next.port("http"));
        by_host(gateway, "round", "round.test", &json!({"nodes": {node: 1}}));
    }
    let url = one.http_url("/round");
    let reply = Curl::new(&url).header("Host: round.test").send();
    assert_eq!(reply.status, Some(508), "{reply:?}");
}

#[test]
fn request_may_pass_gateways_in_a_row_and_one_gateway_twice() {
    let origin = TcpOrigin::talking(|_| ok("there"));
    let (first, second) = (Gateway::start(), Gateway::start());
    let own = format!("127.0.0.1:{}", first.port("http"));
    let again = json!({"nodes": {own: 1}, "pass_host": "rewrite", "upstream_host": "again.test"});
    by_host(&first, "own", "own.test", &again);
    let next = format!("127.0.0.1:{}", second.port("http"));
    by_host(&first, "again", "again.test", &json!({"nodes": {next: 1}}));
    by_host(
        &second,
        "last",
        "again.test",
        &json!({"nodes": {origin.node(): 1}}),
    );
    let url = first.http_url("/row");
    let reply = Curl::new(&url).header("Host: own.test").send();
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (Some(200), "there"),
        "{reply:?}"
    );
    // Each pass left its mark, and what others had left is there still.
    let head = origin.heads().pop().unwrap_or_default().to_lowercase();
    assert_eq!(head.matches("cdn-loop: portcullis-").count(), 3, "{head}");
    let reply = Curl::new(&url)
        .header("Host: own.test")
        .header("CDN-Loop: cdn.example; v=1")
        .send();
    assert_eq!(reply.status, Some(200), "{reply:?}");
    let head = origin.heads().pop().unwrap_or_default().to_lowercase();
    assert!(head.contains("cdn-loop: cdn.example; v=1"), "{head}");
}
