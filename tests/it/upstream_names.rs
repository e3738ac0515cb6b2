//! Which name an upstream is asked for: sent as SNI, checked in its certificate, written as Host.
//!
//! `tls.server_name` decides, else what `pass_host` gives; a port is no part of a name, and an IP
//! is checked as an IP and never sent. The same over HTTP/1.1 and over HTTP/2, where the name is the
//! `:authority`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use crate::support::TlsVersion;
use crate::support::gateway::{Gateway, Setup, field};
use crate::support::origin::{Nginx, Origin, seen};
use crate::support::pki::{Ca, Leaf, Pair};
use crate::support::upstream::{Cases, NAME, checking, record_of, showing, upstream};

/// One way of naming an upstream; `PORT` is its port.
struct Case {
    /// Empty: the upstream does not say.
    pass_host: &'static str,
    upstream_host: Option<&'static str>,
    node: &'static str,
    /// The Host of the client's request.
    asked: &'static str,
    server_name: Option<&'static str>,
    /// The Host that the upstream sees.
    host: &'static str,
    /// The name or address that it is asked for.
    name: &'static str,
}

impl Case {
    const fn pass(asked: &'static str, host: &'static str, name: &'static str) -> Self {
        Self {
            pass_host: "pass",
            upstream_host: None,
            node: "127.0.0.1",
            asked,
            server_name: None,
            host,
            name,
        }
    }

    const fn node(node: &'static str, host: &'static str, name: &'static str) -> Self {
        Self {
            pass_host: "node",
            node,
            ..Self::pass("api.example.com", host, name)
        }
    }

    const fn rewrite(upstream_host: &'static str, host: &'static str, name: &'static str) -> Self {
        Self {
            pass_host: "rewrite",
            upstream_host: Some(upstream_host),
            ..Self::pass("api.example.com", host, name)
        }
    }

    /// At a node that is named rather than addressed.
    const fn at_localhost(mut self) -> Self {
        self.node = "localhost";
        self
    }

    /// Without `pass_host`, which then is `pass`.
    const fn unsaid(mut self) -> Self {
        self.pass_host = "";
        self
    }

    /// With `tls.server_name`, which leads to this `name`.
    const fn named(mut self, server_name: &'static str, name: &'static str) -> Self {
        self.server_name = Some(server_name);
        self.name = name;
        self
    }
}

const API: &str = "api.example.com";
const UP: &str = "up.example.com";
const TLS: &str = "tls.example.com";

const CASES: [Case; 25] = [
    Case::pass("api.example.com", "api.example.com", API),
    Case::pass("API.Example.com:9080", "api.example.com:9080", API),
    Case::pass("api.example.com.", "api.example.com", API),
    Case::pass("api.example.com", "api.example.com", API).at_localhost(),
    Case::pass("api.example.com", "api.example.com", API).unsaid(),
    Case::pass("192.0.2.1", "192.0.2.1", TLS)
        .unsaid()
        .named("tls.example.com", TLS),
    Case::pass("192.0.2.1", "192.0.2.1", "192.0.2.1"),
    Case::pass("[2001:db8::1]:9080", "[2001:db8::1]:9080", "2001:db8::1"),
    Case::pass("api.example.com", "api.example.com", TLS).named("TLS.example.com.", TLS),
    Case::pass("192.0.2.1", "192.0.2.1", TLS).named("tls.example.com", TLS),
    Case::pass("api.example.com", "api.example.com", "192.0.2.9").named("192.0.2.9", "192.0.2.9"),
    Case::node("127.0.0.1", "127.0.0.1:PORT", "127.0.0.1"),
    Case::node("localhost", "localhost:PORT", "localhost"),
    Case::node("LocalHost", "localhost:PORT", "localhost"),
    Case::node("127.0.0.1", "127.0.0.1:PORT", TLS).named("tls.example.com", TLS),
    Case::node("localhost", "localhost:PORT", TLS).named("tls.example.com", TLS),
    Case::node("localhost", "localhost:PORT", "2001:db8::9").named("[2001:db8::9]", "2001:db8::9"),
    Case::rewrite("up.example.com", "up.example.com", UP),
    Case::rewrite("up.example.com", "up.example.com", UP).at_localhost(),
    Case::rewrite("up.example.com:8443", "up.example.com:8443", UP),
    Case::rewrite("Up.Example.com", "Up.Example.com", UP),
    Case::rewrite("up.example.com.", "up.example.com.", UP),
    Case::rewrite("192.0.2.7", "192.0.2.7", "192.0.2.7"),
    Case::rewrite("[2001:db8::7]:8443", "[2001:db8::7]:8443", "2001:db8::7"),
    Case::rewrite("up.example.com", "up.example.com", TLS).named("tls.example.com", TLS),
];

/// What an upstream is spoken to in, and what it calls that.
const SCHEMES: [(&str, &str); 2] = [("https", "HTTP/1.1"), ("grpcs", "HTTP/2.0")];

/// A certificate for these names and addresses.
fn covering<'a>(ca: &Ca, names: impl Iterator<Item = &'a str>) -> Pair {
    let (mut dns_names, mut addresses) = (Vec::new(), Vec::new());
    for name in names {
        match name.parse::<IpAddr>() {
            Ok(address) => addresses.push(address),
            Err(_) => dns_names.push(name.to_owned()),
        }
    }
    ca.issue(&Leaf {
        dns_names,
        addresses,
        ..Leaf::server("upstream")
    })
}

#[test]
fn name_sent_and_checked_and_host_follow_one_rule_in_every_combination() {
    let stage = Stage::start();
    let names: BTreeSet<&str> = CASES.iter().map(|case| case.name).collect();
    for name in &names {
        let others = names.iter().copied().filter(|other| other != name);
        let its_own = stage.serving(covering(&stage.ca, [*name].into_iter()));
        let all_others = stage.serving(covering(&stage.ca, others));
        for case in CASES.iter().filter(|case| case.name == *name) {
            for (scheme, protocol) in SCHEMES {
                for version in TlsVersion::ALL {
                    for (origin, verify, is_served) in [
                        (&its_own, true, true),
                        (&all_others, true, false),
                        (&its_own, false, true),
                        (&all_others, false, true),
                    ] {
                        let upstream = stage.upstream(case, origin, scheme, version, verify);
                        stage.check(case, origin, &upstream, is_served.then_some(protocol));
                    }
                }
            }
        }
    }
}

/// A gateway, and what it and its upstreams are certified by.
struct Stage {
    gateway: Gateway,
    ca: Ca,
    ours: Pair,
}

impl Stage {
    fn start() -> Self {
        let ca = Ca::root("CA");
        Self {
            gateway: Gateway::start(),
            ours: ca.client("gateway"),
            ca,
        }
    }

    /// An upstream of both protocols that asks for a certificate.
    fn serving(&self, pair: Pair) -> Origin {
        Origin::nginx(&Nginx {
            is_http2: true,
            ..Nginx::mutual(pair, self.ca.pem())
        })
    }

    fn upstream(
        &self,
        case: &Case,
        origin: &Origin,
        scheme: &str,
        version: TlsVersion,
        verify: bool,
    ) -> Value {
        let mut tls = showing(&self.ours, version);
        if verify {
            tls["verify"] = true.into();
            tls["ca_certs"] = json!([self.ca.pem()]);
        }
        if let Some(server_name) = case.server_name {
            tls["server_name"] = server_name.into();
        }
        let mut upstream = json!({
            "scheme": scheme,
            "nodes": [{"host": case.node, "port": origin.port(), "weight": 1}],
            "tls": tls,
        });
        if !case.pass_host.is_empty() {
            upstream["pass_host"] = case.pass_host.into();
        }
        if let Some(host) = case.upstream_host {
            upstream["upstream_host"] = host.into();
        }
        upstream
    }

    /// One request; `protocol` is what the upstream is to be spoken to in, where it is believed.
    #[track_caller]
    fn check(&self, case: &Case, origin: &Origin, upstream: &Value, protocol: Option<&str>) {
        let route = json!({"uri": "/*", "upstream": upstream});
        let id = self.gateway.records().len();
        self.gateway.configure("/routes/r", &route);
        let path = format!("/{id}");
        let reply = self.gateway.connect().get(case.asked, &path, &[]);
        let record = record_of(&self.gateway, &path);
        let at = format!("{upstream} {record}");
        let is_address = case.name.parse::<IpAddr>().is_ok();
        let sni = if is_address { "" } else { case.name };
        assert_eq!(field(&record, "upstream_sni").unwrap_or(""), sni, "{at}");
        let node = format!("{}:{}", case.node.to_lowercase(), origin.port());
        assert_eq!(record["node"], node, "{at}");
        let Some(protocol) = protocol else {
            let told = (reply.status, field(&record, "reason"));
            assert_eq!(told, (502, Some("upstream_name_mismatch")), "{at}");
            return;
        };
        assert_eq!(reply.status, 200, "{reply:?} {at}");
        let body = reply.text();
        assert_eq!(seen(&body, "server_protocol"), protocol, "{at}");
        assert_eq!(seen(&body, "sni"), sni, "{at}");
        let host = case.host.replace("PORT", &origin.port().to_string());
        assert_eq!(seen(&body, "http_host"), host, "{at}");
        assert_eq!(seen(&body, "dn"), "CN=gateway", "{at}");
    }
}

/// A name in a certificate that looks like an address is none.
#[test]
fn address_is_checked_as_an_address_only() {
    let ca = Ca::root("CA");
    let with_ip = ca.issue(&Leaf {
        dns_names: Vec::new(),
        addresses: vec![Ipv4Addr::LOCALHOST.into()],
        ..Leaf::server("by address")
    });
    let ip_as_name = ca.issue(&Leaf {
        dns_names: vec!["127.0.0.1".to_owned()],
        ..Leaf::server("127.0.0.1")
    });
    let ip_as_common_name = ca.issue(&Leaf {
        dns_names: Vec::new(),
        ..Leaf::server("127.0.0.1")
    });
    let mut cases = Cases::start();
    for (pair, is_served) in [
        (with_ip, true),
        (ip_as_name, false),
        (ip_as_common_name, false),
        (ca.server(NAME), false),
    ] {
        let origin = Origin::nginx(&Nginx::tls(pair));
        for version in TlsVersion::ALL {
            let mut upstream = upstream(&origin.node(), &checking(&ca.pem(), version));
            upstream["pass_host"] = "node".into();
            if is_served {
                let body = cases.expect_served("by address", &upstream);
                assert_eq!(seen(&body, "sni"), "");
            } else {
                let reason = "upstream_name_mismatch";
                cases.expect_refused("by address", &upstream, 502, reason);
            }
        }
    }
}

/// The signatures of a chain that is known are not computed again; its names are looked at.
#[test]
fn name_is_checked_of_a_known_chain_too() {
    let ca = Ca::root("CA");
    let pair = ca.issue(&Leaf {
        dns_names: Vec::new(),
        addresses: vec![Ipv4Addr::LOCALHOST.into()],
        ..Leaf::server(NAME)
    });
    // What is known is known to a worker.
    let mut cases = Cases::of(Setup::default().set("workers", "1").start());
    let origin = Origin::nginx(&Nginx::tls(pair));
    for version in TlsVersion::ALL {
        let mut by_address = upstream(&origin.node(), &checking(&ca.pem(), version));
        by_address["pass_host"] = "node".into();
        let mut by_name = by_address.clone();
        by_name["tls"]["server_name"] = NAME.into();
        for _ in 0..2 {
            cases.expect_served("by address", &by_address);
            cases.expect_refused("by name", &by_name, 502, "upstream_name_mismatch");
        }
    }
}

#[test]
fn address_of_ipv6_is_dialled_and_checked_as_one() {
    let ca = Ca::root("CA");
    let at = |address: Ipv6Addr| {
        ca.issue(&Leaf {
            dns_names: Vec::new(),
            addresses: vec![address.into()],
            ..Leaf::server("by address")
        })
    };
    let mut cases = Cases::start();
    for (address, is_served) in [
        (Ipv6Addr::LOCALHOST, true),
        (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), false),
    ] {
        let origin = Origin::openssl_s_server(&at(address), &["-accept", "[::1]:0"]);
        for version in TlsVersion::ALL {
            let node = format!("[::1]:{}", origin.port());
            let mut upstream = upstream(&node, &checking(&ca.pem(), version));
            upstream["pass_host"] = "node".into();
            if is_served {
                cases.expect_served(&node, &upstream);
            } else {
                cases.expect_refused(&node, &upstream, 502, "upstream_name_mismatch");
            }
        }
    }
}

/// The dot that makes a name absolute is for DNS alone (RFC 6066 §3).
#[test]
fn dot_at_the_end_of_a_nodes_name_is_not_sent() {
    let mut cases = Cases::start();
    let upstream = json!({
        "scheme": "https",
        "pass_host": "node",
        "nodes": {"nowhere.invalid.:8443": 1},
    });
    let (reply, path) = cases.ask(&upstream);
    assert_eq!(reply.status, 503, "{reply:?}");
    let record = record_of(&cases.gateway, &path);
    assert_eq!(record["node"], "nowhere.invalid.:8443", "{record}");
    assert_eq!(record["upstream_sni"], "nowhere.invalid", "{record}");
}
