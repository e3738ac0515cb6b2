//! Which route a request takes, what it inherits, and what is answered when there is none.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::Curl;
use crate::support::gateway::{ADMIN_KEY, Gateway, Setup};
use crate::support::origin::{Nginx, Origin, TcpOrigin, seen};
use crate::support::raw::{RawClient, RawReply, request};

/// A gateway before an nginx that is told which route was taken.
struct Routed {
    origin: Origin,
    gateway: Gateway,
    client: RawClient,
}

impl Routed {
    #[track_caller]
    fn start() -> Self {
        Self::of(Gateway::start())
    }

    /// With this `proxy.router`.
    #[track_caller]
    fn with_router(router: &str) -> Self {
        Self::of(Setup::default().set("proxy.router", router).start())
    }

    #[track_caller]
    fn of(gateway: Gateway) -> Self {
        Self {
            origin: Origin::nginx(&Nginx::default()),
            client: gateway.connect(),
            gateway,
        }
    }

    /// An upstream by which the origin sees `tag` as its Host.
    fn tagged(&self, tag: &str) -> Value {
        json!({
            "pass_host": "rewrite",
            "upstream_host": tag,
            "nodes": {self.origin.node(): 1},
        })
    }

    /// Puts a route whose upstream is tagged with its id.
    #[track_caller]
    fn route(&self, id: &str, rule: Value) {
        let mut route = rule;
        route["upstream"] = self.tagged(id);
        self.gateway.configure(&format!("/routes/{id}"), &route);
    }

    #[track_caller]
    fn ask(&mut self, method: &str, host: &str, target: &str) -> RawReply {
        self.client.send(request(method, host, target, &[]));
        self.client.read_reply()
    }

    /// The tag of the route taken, else the status.
    #[track_caller]
    fn taken(&mut self, method: &str, host: &str, target: &str) -> String {
        let reply = self.ask(method, host, target);
        match reply.status {
            200 => seen(&reply.text(), "host").to_owned(),
            status => status.to_string(),
        }
    }

    #[track_caller]
    fn expect(&mut self, cases: &[(&str, &str, &str)]) {
        for (host, target, wanted) in cases {
            assert_eq!(self.taken("GET", host, target), *wanted, "{host}{target}");
        }
    }
}

#[test]
fn exact_host_goes_before_wildcards_and_these_before_routes_without_host() {
    let mut routed = Routed::start();
    routed.route("none", json!({"uri": "/*"}));
    routed.route("star", json!({"uri": "/star", "host": "*"}));
    routed.route("star-too", json!({"uri": "/star"}));
    routed.route("wide", json!({"uri": "/*", "host": "*.example.com"}));
    routed.route("deep", json!({"uri": "/*", "hosts": ["*.eu.example.com"]}));
    let hosts = ["api.example.com", "API.example.org"];
    routed.route("exact", json!({"uri": "/*", "hosts": hosts}));
    routed.expect(&[
        ("api.example.com", "/", "exact"),
        ("API.Example.com:8080", "/", "exact"),
        ("api.example.com.", "/", "exact"),
        ("api.example.org", "/", "exact"),
        ("www.example.com", "/", "wide"),
        ("a.b.example.com", "/", "wide"),
        ("a.eu.example.com", "/", "deep"),
        ("a.b.eu.example.com", "/", "deep"),
        // The apex is not below itself.
        ("eu.example.com", "/", "wide"),
        ("example.com", "/", "none"),
        ("127.0.0.1", "/", "none"),
        // Any host is still a host.
        ("example.com", "/star", "star"),
        ("127.0.0.1", "/star", "star"),
        ("api.example.com", "/star", "exact"),
    ]);
}

#[test]
fn exact_path_goes_before_prefixes_and_longer_ones_before_shorter() {
    let mut routed = Routed::start();
    routed.route("all", json!({"uri": "/*"}));
    routed.route("short", json!({"uri": "/a/*"}));
    routed.route("long", json!({"uri": "/a/b/*"}));
    routed.route("exact", json!({"uri": "/a/b/c"}));
    routed.expect(&[
        ("h", "/a/b/c", "exact"),
        ("h", "/a/b/c?x=/z", "exact"),
        ("h", "/a/b/c/", "long"),
        ("h", "/a/b/", "long"),
        ("h", "/a/b", "short"),
        ("h", "/a/", "short"),
        ("h", "/a", "all"),
        ("h", "/", "all"),
    ]);
}

#[test]
fn host_goes_before_path() {
    let mut routed = Routed::start();
    routed.route("exact-path", json!({"uri": "/a"}));
    routed.route("host", json!({"uri": "/*", "host": "api.example.com"}));
    routed.expect(&[
        ("api.example.com", "/a", "host"),
        ("else.example.com", "/a", "exact-path"),
    ]);
}

#[test]
fn radixtree_uri_looks_at_paths_first_and_at_hosts_with_their_port() {
    let mut routed = Routed::with_router("radixtree_uri");
    routed.route("exact-path", json!({"uri": "/a"}));
    routed.route("host", json!({"uri": "/*", "host": "api.example.com"}));
    let host_and_path = json!({"uri": "/b", "host": "*.example.com", "priority": 1});
    routed.route("host-and-path", host_and_path);
    let port = json!({"uri": "/b", "host": "api.example.com:9080", "priority": 2});
    routed.route("port", port);
    routed.route("text", json!({"uri": "/text/:id"}));
    routed.expect(&[
        ("api.example.com", "/a", "exact-path"),
        ("api.example.com", "/x", "host"),
        ("api.example.com", "/b", "host-and-path"),
        ("api.example.com:9080", "/b", "port"),
        ("api.example.org", "/b", "404"),
        ("h", "/text/:id", "text"),
        ("h", "/text/7", "404"),
    ]);
    // The first router has no route for this port, and says so when it is written.
    let other = Routed::start();
    let route = json!({
        "uri": "/b", "host": "api.example.com:9080", "upstream": other.tagged("port"),
    });
    let put = other.gateway.admin_put("/routes/port", &route);
    let warning = put.header("x-portcullis-warning").unwrap_or_default();
    assert!(warning.starts_with("host_unreachable "), "{put:?}");
}

#[test]
fn paths_are_read_for_routes_as_the_options_of_apisix_say() {
    let start = |option: &str| {
        let setup = Setup::default().set(option, "true");
        let routed = Routed::of(
            setup
                .set("proxy.router", "radixtree_uri_with_parameter")
                .start(),
        );
        routed.route("exact", json!({"uri": "/a/b"}));
        routed.route("parameter", json!({"uri": "/v/:id/list"}));
        let vars = json!([["uri", "==", "/u/x"]]);
        routed.route("variable", json!({"uri": "/u/*", "vars": vars}));
        routed
    };
    start("proxy.delete_uri_tail_slash").expect(&[
        ("h", "/a/b/", "exact"),
        ("h", "/u/x/", "variable"),
        ("h", "/a/b;x", "404"),
        ("h", "/v/a%2Fb/list", "404"),
    ]);
    let mut servlet = start("proxy.normalize_uri_like_servlet");
    servlet.expect(&[
        ("h", "/a;x=1/b;y", "exact"),
        ("h", "/u/x;y", "variable"),
        ("h", "/a/b/", "404"),
        ("h", "/c/..;/a/b", "400"),
    ]);
    let reply = servlet.ask("GET", "h", "/a;x=1/b?q=;");
    assert_eq!(seen(&reply.text(), "uri"), "/a;x=1/b?q=;");
    start("proxy.match_uri_encoded_slash").expect(&[
        ("h", "/v/a%2Fb/list", "parameter"),
        ("h", "/v/a%2fb/%6cist", "parameter"),
        ("h", "/a%2Fb", "404"),
        ("h", "/a/b", "exact"),
        ("h", "/u%2Fx", "404"),
        ("h", "/x%2Fy/../../a/b", "exact"),
    ]);
}

#[test]
fn paths_have_parameters_where_the_router_says_so() {
    let mut routed = Routed::with_router("radixtree_uri_with_parameter");
    routed.route("me", json!({"uri": "/users/me"}));
    routed.route("one", json!({"uri": "/users/:id"}));
    let vars = json!([["uri_param_id", "~~", "^[0-9]+$"]]);
    routed.route(
        "number",
        json!({"uri": "/users/:id", "priority": 1, "vars": vars}),
    );
    routed.route("post", json!({"uri": "/users/:id/posts/:post"}));
    let vars = json!([["uri_param_rest", "==", "a/b c"]]);
    routed.route("rest", json!({"uri": "/files/*rest", "vars": vars}));
    routed.expect(&[
        ("h", "/users/me", "me"),
        ("h", "/users/you", "one"),
        ("h", "/users/7", "number"),
        ("h", "/users/%37", "number"),
        ("h", "/users/7/posts/8", "post"),
        ("h", "/users/7/posts", "404"),
        ("h", "/users/", "404"),
        ("h", "/files/a/b%20c", "rest"),
        ("h", "/files/a", "404"),
    ]);
}

#[test]
fn priority_decides_among_routes_on_one_path_only() {
    let mut routed = Routed::start();
    routed.route("low", json!({"uri": "/a/*", "priority": -1}));
    routed.route("zero", json!({"uri": "/a/*"}));
    routed.route("high", json!({"uri": "/a/*", "priority": 10}));
    routed.route("wide", json!({"uri": "/*", "priority": 1000}));
    routed.route("exact", json!({"uri": "/a/exact", "priority": -1000}));
    routed.expect(&[
        ("h", "/a/x", "high"),
        ("h", "/a/exact", "exact"),
        ("h", "/b", "wide"),
    ]);
    routed
        .gateway
        .admin_delete("/routes/high")
        .expect_status(200);
    routed.expect(&[("h", "/a/x", "zero")]);
}

#[test]
fn route_that_does_not_fit_otherwise_leaves_the_request_to_the_next() {
    let mut routed = Routed::start();
    routed.route("all", json!({"uri": "/*"}));
    routed.route("writes", json!({"uri": "/a/b", "methods": ["PUT", "POST"]}));
    routed.route("prefix-gets", json!({"uri": "/a/*", "methods": ["GET"]}));
    let elsewhere =
        json!({"uri": "/a/b", "host": "api.example.com", "remote_addr": "192.0.2.0/24"});
    routed.route("elsewhere", elsewhere);
    let here = json!({"uri": "/here", "remote_addrs": ["192.0.2.1", "127.0.0.0/8"]});
    routed.route("here", here);
    routed.route("any-method", json!({"uri": "/any", "methods": []}));
    for (method, target, wanted) in [
        ("POST", "/a/b", "writes"),
        ("PUT", "/a/b", "writes"),
        ("GET", "/a/b", "prefix-gets"),
        ("DELETE", "/a/b", "all"),
        ("GET", "/here", "here"),
        ("GET", "/any", "any-method"),
        ("PURGE", "/any", "any-method"),
    ] {
        let taken = routed.taken(method, "api.example.com", target);
        assert_eq!(taken, wanted, "{method} {target}");
    }
}

#[test]
fn uri_uris_and_paths_name_what_a_route_covers() {
    let mut routed = Routed::start();
    routed.route("one", json!({"uri": "/one"}));
    routed.route("several", json!({"uris": ["/two", "/three/*"]}));
    let mut document = json!({"paths": ["/four", "/five/*"]});
    document["upstream"] = routed.tagged("api7");
    let port = routed.gateway.port("admin_https");
    let url = format!("https://localhost:{port}/apisix/admin/routes/api7?gateway_group_id=default");
    let put = Curl::new(&url).args(&["-k"]).method("PUT");
    put.header(&format!("X-API-KEY: {ADMIN_KEY}"))
        .body(document.to_string())
        .send()
        .expect_status(201);
    routed.expect(&[
        ("h", "/one", "one"),
        ("h", "/two", "several"),
        ("h", "/three/x", "several"),
        ("h", "/four", "api7"),
        ("h", "/five/x", "api7"),
        ("h", "/six", "404"),
    ]);
}

#[test]
fn service_gives_hosts_and_upstream_unless_the_route_has_its_own() {
    let mut routed = Routed::start();
    let service = json!({"hosts": ["shop.example.com"], "upstream": routed.tagged("service")});
    routed.gateway.configure("/services/s", &service);
    let inheriting = json!({"uri": "/inherits", "service_id": "s"});
    routed.gateway.configure("/routes/inherits", &inheriting);
    routed.route("own-upstream", json!({"uri": "/own", "service_id": "s"}));
    let own_hosts = json!({"uri": "/hosts", "hosts": ["own.example.com"], "service_id": "s"});
    routed.gateway.configure("/routes/own-hosts", &own_hosts);
    routed
        .gateway
        .configure("/upstreams/u", &routed.tagged("upstream"));
    let by_id = json!({"uri": "/by-id", "service_id": "s", "upstream_id": "u"});
    routed.gateway.configure("/routes/by-id", &by_id);
    routed.expect(&[
        ("shop.example.com", "/inherits", "service"),
        ("own.example.com", "/inherits", "404"),
        ("shop.example.com", "/own", "own-upstream"),
        ("own.example.com", "/hosts", "service"),
        ("shop.example.com", "/hosts", "404"),
        ("shop.example.com", "/by-id", "upstream"),
    ]);
    // A changed service changes what is inherited.
    let service = json!({"hosts": ["store.example.com"], "upstream": routed.tagged("changed")});
    routed.gateway.configure("/services/s", &service);
    routed.expect(&[
        ("store.example.com", "/inherits", "changed"),
        ("shop.example.com", "/inherits", "404"),
        ("store.example.com", "/own", "own-upstream"),
        ("own.example.com", "/hosts", "changed"),
    ]);
}

#[test]
fn upstream_id_goes_before_an_upstream_of_the_same_object() {
    let mut routed = Routed::start();
    let by_id = routed.tagged("by-id");
    routed.gateway.configure("/upstreams/u", &by_id);
    let both = json!({"upstream_id": "u", "upstream": routed.tagged("inline")});
    routed.gateway.configure("/services/both", &both);
    for (id, mut route) in [
        ("of-route", both),
        ("of-service", json!({"service_id": "both"})),
    ] {
        route["uri"] = format!("/{id}").into();
        routed.gateway.configure(&format!("/routes/{id}"), &route);
        routed.expect(&[("h", &format!("/{id}"), "by-id")]);
    }
}

#[test]
fn timeout_of_a_route_goes_before_its_upstreams() {
    let routed = Routed::start();
    let silent = TcpOrigin::silent();
    let patient = json!({"nodes": {silent.node(): 1}});
    let impatient =
        json!({"nodes": {silent.node(): 1}, "timeout": {"connect": 5, "send": 0.3, "read": 0.3}});
    routed.gateway.configure("/upstreams/patient", &patient);
    routed.gateway.configure("/upstreams/impatient", &impatient);
    let short = json!({"connect": 5, "send": 0.3, "read": 0.3});
    let long = json!({"connect": 5, "send": 60, "read": 60});
    for (id, upstream, timeout, is_late) in [
        ("shorter", "patient", Some(&short), true),
        ("longer", "impatient", Some(&long), false),
        ("none", "impatient", None, true),
    ] {
        let mut route = json!({"uri": format!("/{id}"), "upstream_id": upstream});
        if let Some(timeout) = timeout {
            route["timeout"] = timeout.clone();
        }
        routed.gateway.configure(&format!("/routes/{id}"), &route);
        let mut client = routed.gateway.connect();
        client.send(request("GET", "h", &format!("/{id}"), &[]));
        if is_late {
            client.read_reply().expect_status(504);
        } else {
            // Well beyond the upstream's own.
            assert!(!client.read_some_within(Duration::from_millis(900)));
        }
    }
}

#[test]
fn prefix_of_a_service_stands_before_its_routes_paths_and_is_taken_off_again() {
    let mut routed = Routed::start();
    let put = |routed: &Routed, id: &str, more: Value| {
        let mut service = json!({"name": id, "upstream": routed.tagged(id)});
        for (member, value) in more.as_object().unwrap() {
            service[member] = value.clone();
        }
        let path = format!("/services/{id}?gateway_group_id=default");
        let put = routed.gateway.admin_https("PUT", &path);
        put.body(service.to_string()).send()
    };
    let configure = |routed: &Routed, id: &str, more: Value| {
        let reply = put(routed, id, more);
        assert!(matches!(reply.status, Some(200 | 201)), "{reply:?}");
    };
    configure(&routed, "stripped", json!({"path_prefix": "/shop/v1"}));
    configure(
        &routed,
        "kept",
        json!({"path_prefix": "/raw/", "strip_path_prefix": false}),
    );
    for (id, service, uris) in [
        ("a", "stripped", json!(["/items/*", "/"])),
        ("b", "kept", json!(["/*"])),
    ] {
        let route = json!({"uris": uris, "service_id": service});
        routed.gateway.configure(&format!("/routes/{id}"), &route);
    }
    for (target, tag, sent) in [
        (
            "/shop/v1/items/7?q=/shop/v1",
            "stripped",
            "/items/7?q=/shop/v1",
        ),
        ("/shop/v1/items/a%2Fb", "stripped", "/items/a%2Fb"),
        ("/shop/x/../v1/items/a%20b?q", "stripped", "/items/a%20b?q"),
        ("/shop/v1//items/", "stripped", "/items/"),
        ("/shop/v1/", "stripped", "/"),
        ("/raw/items/7", "kept", "/raw/items/7"),
    ] {
        let reply = routed.ask("GET", "h", target).expect_status(200);
        assert_eq!(seen(&reply.text(), "host"), tag, "{target}");
        assert_eq!(seen(&reply.text(), "uri"), sent, "{target}");
    }
    routed.expect(&[
        ("h", "/items/7", "404"),
        ("h", "/shop/v1", "404"),
        ("h", "/shop/v10/items/7", "404"),
    ]);
    // A changed service changes what its routes are found by.
    configure(&routed, "stripped", json!({"path_prefix": "/shop/v2"}));
    routed.expect(&[
        ("h", "/shop/v2/items/7", "stripped"),
        ("h", "/shop/v1/items/7", "404"),
    ]);
    let refused = put(&routed, "stripped", json!({"path_prefix": "/shop/*"})).expect_status(400);
    assert!(refused.body.contains("invalid path_prefix"), "{refused:?}");
    routed.expect(&[("h", "/shop/v2/items/7", "stripped")]);
    configure(&routed, "stripped", json!({}));
    routed.expect(&[("h", "/items/7", "stripped")]);
}

#[test]
fn route_with_status_0_does_not_exist() {
    let mut routed = Routed::start();
    routed.route("all", json!({"uri": "/*"}));
    routed.route("a", json!({"uri": "/a", "status": 0}));
    routed.expect(&[("h", "/a", "all")]);
    routed.route("a", json!({"uri": "/a", "status": 1}));
    routed.expect(&[("h", "/a", "a")]);
}

#[test]
fn request_without_a_route_gets_exactly_apisix_404() {
    let mut routed = Routed::start();
    routed.route("a", json!({"uri": "/a"}));
    let reply = routed.ask("GET", "h", "/b").expect_status(404);
    assert_eq!(reply.text(), "{\"error_msg\":\"404 Route Not Found\"}\n");
    assert_eq!(reply.header("server"), Some("Portcullis"));
    routed.expect(&[("h", "/a", "a")]);
}

#[test]
fn what_a_route_needs_and_does_not_find_is_told_by_its_status() {
    let mut routed = Routed::start();
    let configure = |path: &str, document: Value| routed.gateway.configure(path, &document);
    configure("/services/gone", json!({"upstream": routed.tagged("x")}));
    configure("/upstreams/gone", routed.tagged("x"));
    configure("/services/empty", json!({}));
    for (id, needs) in [
        ("service", json!({"service_id": "gone"})),
        ("upstream", json!({"upstream_id": "gone"})),
        ("neither", json!({"service_id": "empty"})),
        ("plugins", json!({"plugins": {}})),
        ("no-nodes", json!({"upstream": {"nodes": {}}})),
        ("no-node-list", json!({"upstream": {"nodes": []}})),
    ] {
        let mut route = needs;
        route["uri"] = format!("/{id}").into();
        configure(&format!("/routes/{id}"), route);
    }
    for path in ["/services/gone?force=true", "/upstreams/gone?force=true"] {
        routed.gateway.admin_delete(path).expect_status(200);
    }
    for (target, status, title) in [
        ("/service", 404, "404 Not Found"),
        ("/upstream", 502, "502 Bad Gateway"),
        ("/neither", 503, "503 Service Temporarily Unavailable"),
        ("/plugins", 503, "503 Service Temporarily Unavailable"),
        ("/no-nodes", 503, "503 Service Temporarily Unavailable"),
        ("/no-node-list", 503, "503 Service Temporarily Unavailable"),
    ] {
        let reply = routed.ask("GET", "h", target);
        assert_eq!(reply.status, status, "{target}: {reply:?}");
        assert!(reply.text().contains(title), "{target}: {reply:?}");
        let content_type = reply.header("content-type").unwrap_or_default();
        assert!(content_type.starts_with("text/html"), "{target}: {reply:?}");
    }
}

#[test]
fn change_takes_effect_on_kept_connections() {
    let mut routed = Routed::start();
    routed.route("old", json!({"uri": "/*"}));
    let mut others: Vec<RawClient> = (0..8).map(|_| routed.gateway.connect()).collect();
    let mut expect = |wanted: &str, status: u16| {
        for client in &mut others {
            let reply = client.get("h", "/", &[]).expect_status(status);
            assert!(reply.text().contains(wanted), "{reply:?}");
        }
    };
    expect("host=old", 200);
    routed.route("new", json!({"uri": "/", "priority": 1}));
    expect("host=new", 200);
    for id in ["new", "old"] {
        let path = format!("/routes/{id}");
        routed.gateway.admin_delete(&path).expect_status(200);
    }
    expect("404 Route Not Found", 404);
    routed.route("again", json!({"uri": "/*"}));
    expect("host=again", 200);
    assert_eq!(routed.taken("GET", "h", "/"), "again");
}

#[test]
fn nodes_are_taken_in_turn_by_their_weights() {
    let origins: Vec<Origin> = (0..3)
        .map(|index| {
            Origin::nginx(&Nginx {
                directives: format!("location /who {{ return 200 {index}; }}"),
                ..Nginx::default()
            })
        })
        .collect();
    // Each worker counts turns on its own.
    let gateway = Setup::default().set("workers", "1").start();
    let map = json!({origins[0].node(): 3, origins[1].node(): 1, origins[2].node(): 0});
    let list: Vec<Value> = [3, 1, 0]
        .iter()
        .zip(&origins)
        .map(|(weight, origin)| {
            json!({"host": "127.0.0.1", "port": origin.port(), "weight": weight})
        })
        .collect();
    let mut client = gateway.connect();
    for nodes in [map, list.into()] {
        let route = json!({"uri": "/*", "upstream": {"type": "roundrobin", "nodes": nodes}});
        gateway.configure("/routes/r", &route);
        let who: Vec<String> = (0..40)
            .map(|_| client.get("h", "/who", &[]).expect_status(200).text())
            .collect();
        let mut counts = BTreeMap::new();
        for one in &who {
            *counts.entry(one.as_str()).or_insert(0) += 1;
        }
        assert_eq!(counts, BTreeMap::from([("0", 30), ("1", 10)]));
        // Interleaved: in any four in a row the light node has its one turn.
        for turns in who.windows(4) {
            assert_eq!(turns.iter().filter(|one| *one == "1").count(), 1, "{who:?}");
        }
    }
}

#[test]
fn single_node_is_used_whatever_its_weight() {
    let routed = Routed::start();
    let route = json!({"uri": "/*", "upstream": {"nodes": {routed.origin.node(): 0}}});
    routed.gateway.configure("/routes/r", &route);
    routed
        .gateway
        .connect()
        .get("h", "/", &[])
        .expect_status(200);
}

#[test]
fn path_is_matched_normalised_and_forwarded_as_sent() {
    let mut routed = Routed::start();
    routed.route("admin", json!({"uri": "/admin/*"}));
    routed.route("public", json!({"uri": "/public/*"}));
    for (target, wanted) in [
        ("/public/x", "public"),
        ("/%70ublic/%78", "public"),
        ("//public///x", "public"),
        ("/./public/./x", "public"),
        ("/admin/../public/x", "public"),
        ("/public/../admin/x", "admin"),
        ("/public/%2e%2e/admin/x", "admin"),
        ("/public/..%2Fadmin/x", "admin"),
        ("/public/%2E./admin/x?next=/../public", "admin"),
        ("/public/x;v=1?a=%20&b=../../admin", "public"),
    ] {
        let reply = routed.ask("GET", "h", target).expect_status(200);
        assert_eq!(seen(&reply.text(), "host"), wanted, "{target}");
        assert_eq!(seen(&reply.text(), "uri"), target);
    }
    for target in ["/..", "/public/../../admin/x", "/public/%zz", "/public/%00"] {
        let reply = routed.ask("GET", "h", target);
        assert_eq!(reply.status, 400, "{target}: {reply:?}");
    }
    // Decoded once, not twice.
    routed.expect(&[("h", "/public/%252e%252e/admin/x", "public")]);
}
