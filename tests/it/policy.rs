//! Authorisation: what an open connection may carry, for which names, while policies change.

use std::io::Write;
use std::sync::{Mutex, mpsc};

use serde_json::{Value, json};

use crate::support::client::{Curl, CurlOutcome};
use crate::support::gateway::Setup;
use crate::support::origin::{TcpOrigin, read_head, seen};
use crate::support::pki::{Ca, Leaf, Pair};
use crate::support::site::Site;
use crate::support::tls::{Answer, Ended, PlainConn, TlsConn};
use crate::support::{SOON, TlsVersion};

const NAME: &str = "api.example.com";

fn client_of(ca: &Ca) -> Value {
    json!({"client": {"ca": ca.pem()}})
}

/// A connection of this client to [`NAME`] that has served once.
#[track_caller]
fn served_once(site: &Site, version: TlsVersion, pair: Option<&Pair>) -> TlsConn {
    let mut client = site.client(NAME).tls(version);
    if let Some(pair) = pair {
        client = client.cert(pair);
    }
    let mut conn = client.connect().unwrap();
    serve(&mut conn, NAME);
    conn
}

/// One more request, which must be served.
#[track_caller]
fn serve(conn: &mut TlsConn, host: &str) {
    let answer = conn.get(host, "/x").unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// An upstream at `/slow` that says when a request has arrived, and answers when it is told to.
struct Slow {
    _origin: TcpOrigin,
    arrived: mpsc::Receiver<()>,
    answer: mpsc::Sender<()>,
}

impl Slow {
    fn at(site: &Site) -> Self {
        let (arrive, arrived) = mpsc::channel();
        let (answer, wait) = mpsc::channel();
        let wait = Mutex::new(wait);
        let origin = TcpOrigin::serving(move |mut conn| {
            read_head(&mut conn);
            arrive.send(()).unwrap();
            if wait.lock().unwrap().recv_timeout(SOON).is_ok() {
                let answer =
                    b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ndone";
                conn.write_all(answer).unwrap();
            }
        });
        let upstream = json!({"type": "roundrobin", "nodes": {origin.node(): 1}});
        let route = json!({"uri": "/slow", "priority": 1, "upstream": upstream});
        let written = site.gateway.admin_put("/routes/slow", &route);
        assert!(matches!(written.status, Some(200 | 201)), "{written:?}");
        Self {
            _origin: origin,
            arrived,
            answer,
        }
    }

    /// Has `conn` wait for an answer while `meanwhile` happens.
    #[track_caller]
    fn during(&self, conn: &mut TlsConn, meanwhile: impl FnOnce()) -> Result<Answer, Ended> {
        conn.send(&format!("GET /slow HTTP/1.1\r\nHost: {NAME}\r\n\r\n"))?;
        self.arrived
            .recv_timeout(SOON)
            .expect("the request arrives");
        meanwhile();
        self.answer.send(()).unwrap();
        conn.read()
    }
}

#[test]
fn a_connection_whose_certificate_passes_the_new_policy_goes_on() {
    let site = Site::start();
    let (ca, next) = (Ca::root("Client CA"), Ca::root("Next CA"));
    let both = format!("{}{}", ca.pem(), next.pem());
    let alice = ca.intermediate("Below").client("alice");
    for version in TlsVersion::ALL {
        site.put_ssl("web", NAME, &client_of(&ca));
        let mut conn = served_once(&site, version, Some(&alice));
        for client in [
            json!({"ca": both}),
            json!({"ca": both, "depth": 3}),
            json!({"ca": ca.pem(), "mode": "deferred"}),
            json!({"ca": ca.pem(), "mode": "optional"}),
            json!({"ca": ca.pem()}),
        ] {
            site.put_ssl("web", NAME, &json!({"client": client}));
            serve(&mut conn, NAME);
        }
        site.put_ssl("web", NAME, &json!({}));
        serve(&mut conn, NAME);
    }
}

#[test]
fn an_idle_connection_whose_certificate_does_not_pass_any_more_is_closed() {
    let site = Site::start();
    let (ca, next) = (Ca::root("Client CA"), Ca::root("Next CA"));
    let alice = ca.intermediate("Below").client("alice");
    for version in TlsVersion::ALL {
        for changed in [
            json!({"ca": next.pem()}),
            json!({"ca": ca.pem(), "depth": 0}),
            json!({"ca": next.pem(), "mode": "optional"}),
        ] {
            site.put_ssl("web", NAME, &client_of(&ca));
            let mut conn = served_once(&site, version, Some(&alice));
            site.put_ssl("web", NAME, &json!({"client": changed}));
            conn.expect_end();
            site.wait_until_empty();
        }
        // A name that asked for nothing begins to ask.
        site.put_ssl("web", NAME, &json!({}));
        let mut conn = served_once(&site, version, None);
        site.put_ssl("web", NAME, &client_of(&ca));
        conn.expect_end();
    }
}

#[test]
fn an_idle_connection_is_judged_by_its_name_however_that_was_sent() {
    let site = Site::with(Setup::default().set("https.fallback_sni", NAME));
    let (ca, next) = (Ca::root("Client CA"), Ca::root("Next CA"));
    let both = json!({"client": {"ca": format!("{}{}", ca.pem(), next.pem())}});
    let alice = ca.client("alice");
    for version in TlsVersion::ALL {
        for client in [
            site.client("API.Example.COM"),
            site.client("api.example.com."),
            // The fallback's.
            site.nameless_client(),
        ] {
            site.put_ssl("web", NAME, &client_of(&ca));
            let mut conn = client.tls(version).cert(&alice).connect().unwrap();
            serve(&mut conn, NAME);
            site.put_ssl("web", NAME, &both);
            serve(&mut conn, NAME);
            site.put_ssl("web", NAME, &client_of(&next));
            conn.expect_end();
        }
    }
}

#[test]
fn a_request_after_one_that_outlived_the_policy_is_misdirected() {
    let site = Site::start();
    let (ca, next) = (Ca::root("Client CA"), Ca::root("Next CA"));
    let both = format!("{}{}", ca.pem(), next.pem());
    let alice = ca.client("alice");
    let slow = Slow::at(&site);
    for version in TlsVersion::ALL {
        site.put_ssl("web", NAME, &client_of(&ca));
        let mut conn = served_once(&site, version, Some(&alice));
        let still_good = || drop(site.put_ssl("web", NAME, &json!({"client": {"ca": both}})));
        let served = slow.during(&mut conn, still_good).unwrap();
        assert_eq!((served.status, served.body.as_str()), (200, "done"));
        serve(&mut conn, NAME);

        let replaced = || drop(site.put_ssl("web", NAME, &client_of(&next)));
        let served = slow.during(&mut conn, replaced).unwrap();
        assert_eq!((served.status, served.body.as_str()), (200, "done"));
        let refused = conn.get(NAME, "/x").unwrap();
        assert_eq!(refused.status, 421, "{refused:?}");
        assert_eq!(refused.header("connection"), Some("close"));
        conn.expect_end();
    }
    let record = site
        .gateway
        .expect_record("a request misdirected", |record| {
            record["reason"] == "client_policy_changed"
        });
    assert_eq!(record["status"], 421);
    assert_eq!(record["client_subject"], "CN=alice");
    assert_eq!(site.failures("client_policy_changed"), 2);
}

#[test]
fn a_request_on_its_way_while_the_policy_changes_is_misdirected() {
    let site = Site::start();
    let (ca, next) = (Ca::root("Client CA"), Ca::root("Next CA"));
    let both = format!("{}{}", ca.pem(), next.pem());
    let alice = ca.client("alice");
    for version in TlsVersion::ALL {
        // The change finds no connection yet: the handshake that began before it ends after it.
        let across = |changed: &Value, pair: Option<&Pair>| {
            let mut client = site.client(NAME).tls(version);
            if let Some(pair) = pair {
                client = client.cert(pair);
            }
            let begun = client.begin();
            site.put_ssl("web", NAME, changed);
            let mut conn = begun.finish().unwrap();
            let answer = conn.get(NAME, "/x").unwrap();
            (conn, answer)
        };
        for (before, changed, pair) in [
            (
                client_of(&ca),
                json!({"client": {"ca": both}}),
                Some(&alice),
            ),
            (client_of(&ca), json!({}), Some(&alice)),
        ] {
            site.put_ssl("web", NAME, &before);
            let (mut conn, answer) = across(&changed, pair);
            assert_eq!(answer.status, 200, "{answer:?}");
            serve(&mut conn, NAME);
        }
        for (before, changed, pair) in [
            (client_of(&ca), client_of(&next), Some(&alice)),
            (json!({}), client_of(&ca), None),
            // Nobody asked for the certificate that this client has.
            (json!({}), client_of(&ca), Some(&alice)),
        ] {
            site.put_ssl("web", NAME, &before);
            let (mut conn, answer) = across(&changed, pair);
            assert_eq!(answer.status, 421, "{answer:?}");
            assert_eq!(answer.header("connection"), Some("close"));
            conn.expect_end();
        }
    }
    let record = site
        .gateway
        .expect_record("a request misdirected", |record| {
            record["reason"] == "client_policy_changed" && record["client_subject"] == "CN=alice"
        });
    assert_eq!(record["status"], 421);
    assert_eq!(site.failures("client_policy_changed"), 6);
}

#[test]
fn a_host_of_another_policy_is_misdirected_on_an_open_connection() {
    let site = Site::start();
    let (ca, other) = (Ca::root("Client CA"), Ca::root("Other CA"));
    let bundle = json!({"client": {"ca": ca.pem(), "depth": 2}});
    site.put_ssl("web", NAME, &client_of(&ca));
    site.put_ssl("equal", "equal.example.com", &client_of(&ca));
    site.put_ssl("other", "other.example.com", &client_of(&other));
    site.put_ssl("deeper", "*.deeper.example.com", &bundle);
    site.put_ssl("open", "open.example.com", &json!({}));
    let alice = ca.client("alice");
    let files = site.write(&alice, "alice");
    let refused = [
        "other.example.com",
        "OTHER.example.com.:443",
        "x.deeper.example.com",
    ];
    for version in TlsVersion::ALL {
        let mut conn = served_once(&site, version, Some(&alice));
        for host in [
            "API.example.com",
            "api.example.com.",
            "api.example.com:9443",
            // Equal demands, whatever the object.
            "equal.example.com",
            // Nothing is asked there.
            "open.example.com",
            "nobody.example.com",
            "127.0.0.1",
            "[::1]:443",
        ] {
            serve(&mut conn, host);
        }
        for host in refused {
            let mut conn = served_once(&site, version, Some(&alice));
            let answer = conn.get(host, "/x").unwrap();
            assert_eq!(answer.status, 421, "{host}: {answer:?}");
            assert!(
                answer.body.contains("421 Misdirected Request"),
                "{answer:?}"
            );
        }
        // HTTP/2 says the name as `:authority`; curl sends it for a Host of ours.
        for (host, status) in [("equal.example.com", 200), ("other.example.com", 421)] {
            let curl = site.ask(NAME, "/x").http2().tls(version).cert(&files);
            let answer = curl.header(&format!("Host: {host}")).send();
            assert!(answer.head.starts_with("HTTP/2 "), "{answer:?}");
            answer.expect_status(status);
        }
        // A connection of an open name may carry nothing for a name that asks.
        for host in [NAME, "other.example.com"] {
            let client = site.client("open.example.com").tls(version);
            assert_eq!(client.get("open.example.com", "/x").unwrap().status, 200);
            let answer = client.clone().cert(&alice).get(host, "/x").unwrap();
            assert_eq!(answer.status, 421, "{host}");
        }
    }
    let record = site
        .gateway
        .expect_record("a Host of another policy", |record| {
            record["reason"] == "authority_policy_mismatch"
                && record["sni"] == NAME
                && record["authority"] == "other.example.com"
        });
    assert_eq!(record["client_subject"], "CN=alice");
    assert_eq!(record["status"], 421);
}

#[test]
fn idle_connections_of_a_name_that_another_ssl_takes_over_are_closed() {
    let site = Site::start();
    let (ca, next) = (Ca::root("Client CA"), Ca::root("Next CA"));
    let alice = ca.client("alice");
    let pair = site.ca.server("*.example.com");
    site.put_ssl_with("wildcard", "*.example.com", &pair, &client_of(&ca));
    let slow = Slow::at(&site);
    for version in TlsVersion::ALL {
        let client = site.client("other.example.com").tls(version).cert(&alice);
        let mut other = client.connect().unwrap();
        // What asks the same, or nothing, takes nobody's connection away.
        let mut idle = served_once(&site, version, Some(&alice));
        site.put_ssl("exact", NAME, &client_of(&ca));
        serve(&mut idle, NAME);
        site.gateway.admin_delete("/ssls/exact").expect_status(200);
        site.put_ssl("exact", NAME, &json!({}));
        serve(&mut idle, NAME);
        site.gateway.admin_delete("/ssls/exact").expect_status(200);

        let mut busy = served_once(&site, version, Some(&alice));
        let taken_over = || drop(site.put_ssl("exact", NAME, &client_of(&next)));
        let served = slow.during(&mut busy, taken_over).unwrap();
        assert_eq!(served.status, 200, "{served:?}");
        assert_eq!(busy.get(NAME, "/x").unwrap().status, 421);
        idle.expect_end();
        serve(&mut other, "other.example.com");
        assert_eq!(other.get(NAME, "/x").unwrap().status, 421);
        site.gateway.admin_delete("/ssls/exact").expect_status(200);
        served_once(&site, version, Some(&alice));
    }
}

#[test]
fn idle_connections_of_a_name_that_is_closed_are_closed() {
    let site = Site::start();
    let ca = Ca::root("Client CA");
    let alice = ca.client("alice");
    let reference = "$secret://vault/1/web/key";
    for version in TlsVersion::ALL {
        for client in [client_of(&ca), json!({})] {
            let pair = site.ca.server(NAME);
            site.put_ssl_with("web", NAME, &pair, &client);
            let mut conn = served_once(&site, version, Some(&alice));
            let mut shut = client;
            shut["key"] = json!(reference);
            site.put_ssl_with("web", NAME, &pair, &shut);
            conn.expect_end();
        }
    }
}

#[test]
fn the_plain_port_is_no_way_to_a_name_that_asks_for_certificates() {
    for (names, status) in [("refuse", 421), ("redirect", 308), ("allow", 200)] {
        let site = Site::with(Setup::default().set("http.client_auth_names", names));
        let ca = Ca::root("Client CA");
        site.put_ssl("web", NAME, &client_of(&ca));
        site.put_ssl("open", "open.example.com", &json!({}));
        let ask = |host: &str| {
            let url = site.gateway.http_url("/x?y=1");
            Curl::new(&url).header(&format!("Host: {host}")).send()
        };
        for host in ["open.example.com", "nobody.example.com"] {
            ask(host).expect_status(200);
        }
        let answer = ask("API.example.com.:9080").expect_status(status);
        let location = answer.header("location");
        if names == "redirect" {
            let port = site.gateway.https_port();
            let there = format!("https://api.example.com:{port}/x?y=1");
            assert_eq!(location, Some(there.as_str()));
        } else {
            assert_eq!(location, None);
        }
        if names == "allow" {
            assert_eq!(seen(&answer.body, "uri"), "/x?y=1");
        } else {
            assert!(!answer.body.contains("uri="), "{answer:?}");
            let record = site
                .gateway
                .expect_record("a request in the clear", |record| {
                    record["reason"] == "authority_policy_mismatch"
                });
            assert_eq!(record["listener"], "http");
        }
    }
}

#[test]
fn a_route_that_a_weaker_name_leads_to_is_told_when_written_and_by_check() {
    let site = Site::start();
    let ca = Ca::root("Client CA");
    let told = |outcome: &CurlOutcome| outcome.head.contains("weaker_name");
    assert!(!told(&site.put_ssl("open", "open.test", &json!({}))));
    // The site's own route has no hosts.
    assert!(told(&site.put_ssl("w", "*.w.test", &client_of(&ca))));
    let put = |id: &str, body: &Value| {
        let mut body = body.clone();
        body["uri"] = "/*".into();
        body["upstream_id"] = "u".into();
        site.gateway.admin_put(&format!("/routes/{id}"), &body)
    };
    let own = site.gateway.admin_get("/routes/all").json();
    let upstream = &own["value"]["upstream"];
    site.gateway.configure("/upstreams/u", upstream);
    site.gateway.admin_delete("/routes/all").expect_status(200);
    for (hosts, is_told) in [
        (json!(["x.w.test"]), false),
        (json!(["x.w.test", "y.w.test"]), false),
        (json!(["open.test", "*.else.test"]), false),
        (json!(["x.w.test", "open.test"]), true),
        // Any depth for a route, one label for an ssl.
        (json!(["*.w.test"]), true),
        (json!(["*"]), true),
    ] {
        let written = put("r", &json!({"hosts": hosts}));
        assert_eq!(told(&written), is_told, "{hosts}: {written:?}");
    }
    let written = put("r", &json!({"hosts": ["*.w.test"]}));
    let text =
        "*.w.test requires a client certificate, but a name that no ssl claims leads here too";
    assert!(written.head.contains(text), "{written:?}");
    for version in TlsVersion::ALL {
        let open = site.client("open.test").tls(version);
        assert_eq!(open.get("x.w.test", "/x").unwrap().status, 421);
        assert_eq!(
            open.get("x.y.w.test", "/x").unwrap().status,
            200,
            "as was told"
        );
    }

    // Hosts that a route has from its service are told at the service.
    let service = json!({"hosts": ["x.w.test", "open.test"], "upstream_id": "u"});
    let written = site.gateway.admin_put("/services/s", &service);
    assert!(told(&written.expect_status(201)));
    let from_service = json!({"uri": "/s", "service_id": "s"});
    assert!(told(&site.gateway.admin_put("/routes/s", &from_service)));
    // An ssl is told when it is written after the route.
    assert!(told(&site.put_ssl("w", "*.w.test", &client_of(&ca))));

    let check = Setup::default().data(&site.gateway.data()).run(&["check"]);
    for object in [
        "route r /hosts",
        "route s /hosts",
        "service s /hosts",
        "ssl w /snis",
    ] {
        let line = |line: &str| line.starts_with(&format!("warning: {object}: "));
        assert!(check.stdout.lines().any(line), "{object}: {check:?}");
    }
    let good = put("r", &json!({"hosts": ["x.w.test"]}));
    assert!(!told(&good.expect_status(200)));
    assert!(!told(&site.put_ssl("w", "*.w.test", &client_of(&ca))));
}

#[test]
fn a_rotation_keeps_connections_and_shows_new_ones_the_new_certificate() {
    let site = Site::start();
    let ca = Ca::root("Client CA");
    let alice = ca.client("alice");
    let named = |name: &str| {
        site.ca.issue(&Leaf {
            common_name: name.to_owned(),
            ..Leaf::server(NAME)
        })
    };
    for version in TlsVersion::ALL {
        site.put_ssl_with("web", NAME, &named("old"), &client_of(&ca));
        let mut conn = served_once(&site, version, Some(&alice));
        assert_eq!(conn.peer_name(), "old");
        // As the recipe rotates: certificate, key and CA, no names.
        let new = named("new");
        let rotation = json!({"cert": new.cert, "key": new.key, "client": {"ca": ca.pem()}});
        let rotated = site.gateway.admin_put("/ssls/web", &rotation);
        rotated.expect_status(200);
        let fresh = served_once(&site, version, Some(&alice));
        assert_eq!(fresh.peer_name(), "new");
        for _ in 0..3 {
            serve(&mut conn, NAME);
        }
        site.client(NAME).tls(version).get(NAME, "/x").unwrap_err();
    }
}

#[test]
fn an_ssl_that_is_deleted_or_disabled_takes_its_connections_along() {
    let site = Site::start();
    let slow = Slow::at(&site);
    let ca = Ca::root("Client CA");
    let alice = ca.client("alice");
    site.put_ssl("other", "other.example.com", &client_of(&ca));
    let delete = || drop(site.gateway.admin_delete("/ssls/web").expect_status(200));
    let disabled = json!({"client": {"ca": ca.pem()}, "status": 0});
    let disable = || drop(site.put_ssl("web", NAME, &disabled));
    let ways: [&dyn Fn(); 2] = [&delete, &disable];
    for version in TlsVersion::ALL {
        for end in ways {
            site.put_ssl("web", NAME, &client_of(&ca));
            let client = site.client("other.example.com").tls(version).cert(&alice);
            let mut other = client.connect().unwrap();
            serve(&mut other, "other.example.com");
            let mut idle = served_once(&site, version, Some(&alice));
            let mut busy = served_once(&site, version, Some(&alice));
            let served = slow.during(&mut busy, end).unwrap();
            assert_eq!((served.status, served.body.as_str()), (200, "done"));
            busy.expect_end();
            idle.expect_end();
            serve(&mut other, "other.example.com");
        }
    }
}

#[test]
fn a_request_without_one_clear_authority_is_refused_and_ends_the_connection() {
    let site = Site::with(Setup::default().set("https.fallback_sni", NAME));
    site.put_ssl("web", NAME, &json!({}));
    let refused = [
        format!("GET /x HTTP/1.1\r\nHost: {NAME}\r\nHost: {NAME}\r\n\r\n"),
        format!("GET /x HTTP/1.1\r\nHost: {NAME}\r\nhost: other.example.com\r\n\r\n"),
        "GET /x HTTP/1.1\r\nHost:\r\n\r\n".to_owned(),
        "GET /x HTTP/1.1\r\n\r\n".to_owned(),
        format!("GET https://other.example.com/x HTTP/1.1\r\nHost: {NAME}\r\n\r\n"),
        format!("GET https://{NAME}:444/x HTTP/1.1\r\nHost: {NAME}\r\n\r\n"),
        format!("GET https://{NAME}/x HTTP/1.1\r\n\r\n"),
        format!("GET https://user@{NAME}/x HTTP/1.1\r\nHost: {NAME}\r\n\r\n"),
        format!("GET /x HTTP/1.1\r\nHost: user@{NAME}\r\n\r\n"),
        format!("GET /x HTTP/1.1\r\nHost: {NAME}/y\r\n\r\n"),
        "GET /x HTTP/1.1\r\nHost: api%2eexample.com\r\n\r\n".to_owned(),
        "GET /x HTTP/1.1\r\nHost: api.example.com other\r\n\r\n".to_owned(),
        "GET /x HTTP/1.1\r\nHost: b\u{fc}cher.example\r\n\r\n".to_owned(),
        "GET /x HTTP/1.1\r\nHost: api.example.com:99999\r\n\r\n".to_owned(),
        "GET /x HTTP/1.1\r\nHost: api.example.com, other\r\n\r\n".to_owned(),
        "GET /x HTTP/1.1\r\nHost: [::1\r\n\r\n".to_owned(),
    ];
    for (index, request) in refused.iter().enumerate() {
        // A second request behind it must not be served.
        let both = format!("{request}GET /y HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
        let version = TlsVersion::ALL[index % 2];
        let mut tls = served_once(&site, version, None);
        let answer = tls.ask(&both).unwrap();
        assert_eq!(answer.status, 400, "{request}: {answer:?}");
        assert_eq!(answer.header("connection"), Some("close"), "{request}");
        tls.expect_end();
        let mut plain = PlainConn::open(site.gateway.port("http"));
        let answer = plain
            .ask(both.replace("https://", "http://").as_bytes())
            .unwrap();
        assert_eq!(answer.status, 400, "{request}: {answer:?}");
        plain.expect_end();
    }
    let served = [
        format!("GET /x HTTP/1.1\r\nHost: {NAME}\r\n\r\n"),
        format!("GET https://{NAME}/x HTTP/1.1\r\nHost: {NAME}\r\n\r\n"),
        format!("GET https://{NAME}:443/x HTTP/1.1\r\nHost: API.example.com.\r\n\r\n"),
    ];
    for version in TlsVersion::ALL {
        let mut conn = served_once(&site, version, None);
        for request in &served {
            assert_eq!(conn.ask(request).unwrap().status, 200, "{request}");
        }
        // HTTP/1.0 without Host means the name that TLS was opened for.
        let nameless = site.nameless_client().tls(version).connect().unwrap();
        for mut conn in [conn, nameless] {
            let answer = conn.ask("GET /x HTTP/1.0\r\n\r\n").unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(seen(&answer.body, "http_host"), NAME);
        }
    }
    // In the clear there is none, whatever clients without a server name are served as: it means our
    // address.
    let port = site.gateway.port("http");
    let answer = PlainConn::open(port).ask(b"GET /x HTTP/1.0\r\n\r\n");
    let answer = answer.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let address = format!("127.0.0.1:{port}");
    assert_eq!(seen(&answer.body, "http_host"), address);
    site.gateway.expect_record("no clear authority", |record| {
        record["reason"] == "authority_invalid" && record["status"] == 400
    });
}

#[test]
fn the_target_of_an_absolute_form_decides_who_is_asked() {
    let site = Site::start();
    let (ca, other) = (Ca::root("Client CA"), Ca::root("Other CA"));
    site.put_ssl("web", NAME, &client_of(&ca));
    site.put_ssl("other", "other.example.com", &client_of(&other));
    let alice = ca.client("alice");
    for version in TlsVersion::ALL {
        let ask = |target: &str, host: &str| {
            let mut conn = served_once(&site, version, Some(&alice));
            let request = format!("GET https://{target}/x HTTP/1.1\r\nHost: {host}\r\n\r\n");
            conn.ask(&request).unwrap().status
        };
        assert_eq!(ask(NAME, NAME), 200);
        assert_eq!(ask("other.example.com", "other.example.com"), 421);
        assert_eq!(ask("other.example.com", NAME), 400);
        assert_eq!(ask(NAME, "other.example.com"), 400);
    }
}
