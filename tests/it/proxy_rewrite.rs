//! `proxy-rewrite`: headers that the gateway writes for an upstream, from what it knows itself.

use serde_json::{Value, json};

use crate::support::TlsVersion;
use crate::support::gateway::{Gateway, Setup, field};
use crate::support::h2::H2Conn;
use crate::support::origin::TcpOrigin;
use crate::support::pki::Ca;
use crate::support::raw::header;
use crate::support::site::Site;

const NAME: &str = "api.example.com";

/// Puts a route to an origin, with a `proxy-rewrite` of these headers.
#[track_caller]
fn rewrite(gateway: &Gateway, origin: &TcpOrigin, headers: &Value) {
    let route = json!({
        "uri": "/*",
        "plugins": {"proxy-rewrite": {"headers": headers}},
        "upstream": {"nodes": {origin.node(): 1}},
    });
    gateway.configure("/routes/r", &route);
}

#[test]
fn certificate_is_told_to_the_upstream_and_a_claimed_one_is_not() {
    let site = Site::start();
    let ca = Ca::root("Client CA");
    let client = json!({"ca": ca.pem(), "mode": "optional"});
    site.put_ssl("mtls", NAME, &json!({"client": client}));
    site.gateway.admin_delete("/routes/all").expect_status(200);
    let origin = TcpOrigin::echoing();
    let headers = json!({"set": {
        "X-SSL-Client-Verify": "$ssl_client_verify",
        "X-SSL-Client-S-DN": "$ssl_client_s_dn",
        "X-User": "<${ssl_client_serial}>",
        "X-Cert": "$ssl_client_escaped_cert",
        "Client-Cert": "$ssl_client_s_dn",
    }});
    rewrite(&site.gateway, &origin, &headers);
    let pair = ca.client("alice");
    let files = site.write(&pair, "alice");
    for version in TlsVersion::ALL {
        let ask = |certified: bool| {
            let mut curl = site.ask(NAME, "/").tls(version);
            for line in [
                "X-SSL-Client-S-DN: CN=root",
                "x_ssl_client_s_dn: CN=root",
                "Client-Cert: x",
                "X_User: root",
            ] {
                curl = curl.header(line);
            }
            if certified {
                curl = curl.cert(&files);
            }
            curl.send().expect_status(200).body
        };
        let told = ask(true);
        assert_eq!(header(&told, "x-ssl-client-verify"), Some("SUCCESS"));
        assert_eq!(header(&told, "x-ssl-client-s-dn"), Some("CN=alice"));
        assert_eq!(header(&told, "client-cert"), Some("CN=alice"));
        let serial = format!("<{}>", pair.serial());
        assert_eq!(header(&told, "x-user"), Some(&*serial));
        let cert = header(&told, "x-cert").unwrap();
        assert!(
            cert.starts_with("-----BEGIN%20CERTIFICATE-----%0A"),
            "{cert}"
        );
        assert_eq!(header(&told, "x_user"), None);
        let silent = ask(false);
        assert_eq!(header(&silent, "x-ssl-client-verify"), Some("NONE"));
        for absent in [
            "x-ssl-client-s-dn",
            "x_ssl_client_s_dn",
            "client-cert",
            "x-cert",
        ] {
            assert_eq!(header(&silent, absent), None, "{absent}");
        }
        assert_eq!(header(&silent, "x-user"), Some("<>"));
    }
}

#[test]
fn headers_are_added_set_and_removed_for_every_request() {
    let router = "radixtree_uri_with_parameter";
    let gateway = Setup::default().set("proxy.router", router).start();
    let origin = TcpOrigin::echoing();
    let headers = json!({
        "add": {"X-Add": "new"},
        "set": {"X-Set": "$request_method $arg_a", "X-None": "$arg_none"},
        "remove": ["X-Gone"],
    });
    let route = json!({
        "uri": "/users/:id",
        "plugins": {"proxy-rewrite": {"headers": headers}},
        "upstream": {"nodes": {origin.node(): 1}},
    });
    gateway.configure("/routes/r", &route);
    let mut client = gateway.connect();
    let lines = [
        "X-Add: old",
        "X-Set: old",
        "X-None: old",
        "X-Gone: old",
        "X-Kept: old",
    ];
    // Twice over one connection: nothing of the first is left at the second.
    for value in ["7", "8"] {
        let reply = client.get("h", &format!("/users/1?a={value}"), &lines);
        let text = reply.expect_status(200).text();
        assert_eq!(header(&text, "x-set"), Some(&*format!("GET {value}")));
        assert_eq!(header(&text, "x-kept"), Some("old"));
        assert_eq!(text.matches("x-add: ").count(), 2, "{text}");
        for absent in ["x-none", "x-gone"] {
            assert_eq!(header(&text, absent), None, "{absent}");
        }
    }
    let older = json!({"X-User": "$uri_param_id"});
    let mut route = route;
    route["plugins"]["proxy-rewrite"]["headers"] = older;
    gateway.configure("/routes/r", &route);
    let text = client.get("h", "/users/42", &[]).expect_status(200).text();
    assert_eq!(header(&text, "x-user"), Some("42"));
}

#[test]
fn plugin_of_a_route_goes_before_that_of_its_service() {
    let gateway = Gateway::start();
    let origin = TcpOrigin::echoing();
    let plugin = |value: &str| json!({"proxy-rewrite": {"headers": {"set": {"X-Of": value}}}});
    let service =
        |value: &str| json!({"plugins": plugin(value), "upstream": {"nodes": {origin.node(): 1}}});
    gateway.configure("/services/s", &service("service"));
    for (id, plugins) in [("own", plugin("route")), ("inherits", json!({}))] {
        let route = json!({"uri": format!("/{id}"), "service_id": "s", "plugins": plugins});
        gateway.configure(&format!("/routes/{id}"), &route);
    }
    let of = |target: &str| {
        let reply = gateway.connect().get("h", target, &[]).expect_status(200);
        header(&reply.text(), "x-of").unwrap_or_default().to_owned()
    };
    assert_eq!((&*of("/own"), &*of("/inherits")), ("route", "service"));
    gateway.configure("/services/s", &service("changed"));
    assert_eq!((&*of("/own"), &*of("/inherits")), ("route", "changed"));
}

#[test]
fn target_is_rewritten_and_the_query_stays() {
    let gateway = Setup::default()
        .set("proxy.router", "radixtree_uri_with_parameter")
        .start();
    let origin = TcpOrigin::echoing();
    let upstream = json!({"nodes": {origin.node(): 1}});
    let service = json!({
        "name": "s", "path_prefix": "/api", "upstream": upstream,
        "plugins": {"proxy-rewrite": {"uri": "/all$uri"}},
    });
    let reply = gateway.admin_put("/services/s?gateway_group_id=default", &service);
    assert!(matches!(reply.status, Some(200 | 201)), "{reply:?}");
    for (id, uri, service, target) in [
        ("whole", "/whole", None, json!("/hello")),
        (
            "users",
            "/users/:id",
            None,
            json!("/v2/$uri_param_id?by=$arg_by"),
        ),
        ("own", "/own", Some("s"), json!("/other")),
        ("inherits", "/inherits", Some("s"), Value::Null),
    ] {
        let mut route = json!({"uri": uri});
        match service {
            Some(id) => route["service_id"] = json!(id),
            None => route["upstream"] = upstream.clone(),
        }
        if !target.is_null() {
            route["plugins"] = json!({"proxy-rewrite": {"uri": target}});
        }
        gateway.configure(&format!("/routes/{id}"), &route);
    }
    let mut first = gateway.connect();
    let mut second = H2Conn::plain(gateway.port("http")).unwrap();
    for (asked, target) in [
        ("/whole", "/hello"),
        ("/whole?a=%20&b", "/hello?a=%20&b"),
        ("/users/7%3Fa=b", "/v2/7%3Fa=b?by="),
        ("/users/7?by=me", "/v2/7?by=me&by=me"),
        ("/api/own?a", "/other?a"),
        ("/api/inherits", "/all/api/inherits"),
    ] {
        let line = format!("GET {target} HTTP/1.1\r\n");
        let text = first.get("h", asked, &[]).expect_status(200).text();
        assert!(text.starts_with(&line), "{asked}: {text}");
        let answer = second.get("h", asked).unwrap();
        assert!(answer.body.starts_with(&line), "{asked}: {}", answer.body);
    }
    gateway.expect_record("the client's own target", |record| {
        field(record, "path") == Some("/whole")
    });
}

#[test]
fn rewrite_that_cannot_be_done_is_refused_and_the_old_one_stays() {
    let gateway = Gateway::start();
    let origin = TcpOrigin::echoing();
    rewrite(&gateway, &origin, &json!({"set": {"X-Of": "old"}}));
    for (config, part) in [
        (
            json!({"headers": {"X-A": "$ssl_client_sdn"}}),
            "did you mean ssl_client_s_dn?",
        ),
        (json!({"headers": {"set": {"Host": "a"}}}), "pass_host"),
        (
            json!({"regex_uri": ["^/a", "/b"]}),
            "proxy-rewrite.regex_uri is not supported by this version",
        ),
    ] {
        let route = json!({
            "uri": "/*", "plugins": {"proxy-rewrite": config},
            "upstream": {"nodes": {origin.node(): 1}},
        });
        let refused = gateway.admin_put("/routes/r", &route).expect_status(400);
        assert!(refused.body.contains(part), "{refused:?}");
        let text = gateway
            .connect()
            .get("h", "/", &[])
            .expect_status(200)
            .text();
        assert_eq!(header(&text, "x-of"), Some("old"));
    }
}
