//! `a6 probe upstream`, `service` and `route`: what the gateway's handshakes with nodes come to.

use std::io::Write as _;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::a6::A6;
use crate::support::gateway::Gateway;
use crate::support::origin::{ClosedPort, Nginx, Origin, TcpOrigin};
use crate::support::pki::{Ca, Leaf, Validity};
use crate::support::upstream::{NAME, checking, showing, speaking, upstream};
use crate::support::{Finished, TlsVersion};

/// A gateway that is asked to probe one upstream after the other.
struct Stage {
    gateway: Gateway,
    a6: A6,
}

impl Stage {
    fn start() -> Self {
        let gateway = Gateway::start();
        let a6 = A6::at(&gateway);
        Self { gateway, a6 }
    }

    fn probe(&self, upstream: &Value, more: &[&str]) -> Finished {
        self.gateway.configure("/upstreams/u", upstream);
        let probe = ["probe", "upstream", "u"];
        self.a6.run(&[&probe[..], more].concat())
    }

    /// Probes, and makes sure that the only node is good and its verdict says all of this.
    #[track_caller]
    fn expect_good(&self, upstream: &Value, says: &[&str]) {
        let told = self.probe(upstream, &[]).expect_success().stdout;
        assert!(told.contains(" is good: "), "{told}");
        for part in says {
            assert!(told.contains(part), "no {part} in {told}");
        }
    }

    /// Probes, and makes sure that the only node is refused for this reason, with this detail.
    #[track_caller]
    fn expect_bad(&self, upstream: &Value, reason: &str, detail: &str) -> Value {
        let told = self.probe(upstream, &["-o", "json"]);
        assert_eq!(told.status.code(), Some(1), "{told:?}");
        let told = told.json();
        let node = told["nodes"][0].clone();
        assert_eq!(node["reason"], reason, "{told}");
        let (verdict, found) = (node["verdict"].as_str(), node["detail"].as_str());
        assert!(found.unwrap().contains(detail), "{told}");
        assert!(verdict.unwrap().contains(reason), "{told}");
        assert_eq!(told["verdict"], node["verdict"]);
        node
    }
}

#[test]
fn good_node_is_told_with_chain_version_and_end() {
    let ca = Ca::root("Upstream CA");
    let origin = Origin::nginx(&Nginx::mutual(ca.server(NAME), ca.pem()));
    let stage = Stage::start();
    for version in TlsVersion::ALL {
        let mut tls = showing(&ca.client("gateway"), version);
        tls["verify"] = true.into();
        tls["ca_certs"] = json!([ca.pem()]);
        let good = upstream(&origin.node(), &tls);
        let spoken = match version {
            TlsVersion::V12 => "TLSv1.2",
            TlsVersion::V13 => "TLSv1.3",
        };
        let says = [
            &format!(
                "{} is good: CN={NAME} of CN=Upstream CA until 2",
                origin.node()
            )[..],
            "days left), verified for up.example.com",
            "it took our certificate CN=gateway",
            spoken,
        ];
        stage.expect_good(&good, &says);
        let told = stage.probe(&good, &["-o", "json"]).expect_success().json();
        let node = &told["nodes"][0];
        assert_eq!(node["version"], spoken);
        assert_eq!(
            (&node["verification"], &node["name"]),
            (&json!("verified"), &json!(NAME))
        );
        assert_eq!(node["chain"][0]["names"], json!([NAME]));
        assert!(node["chain"][0]["days_left"].as_i64().unwrap() > 0);
        assert_eq!(node["client_certificate_asked"], true);
        stage.expect_good(
            &upstream(&origin.node(), &speaking(version)),
            &["not checked, as `verify` is off", "none is configured"],
        );
    }
    // No request of a probe reaches a node.
    let said = origin.error_log();
    assert!(!said.contains("client sent no required"), "{said}");
}

#[test]
fn certificate_that_is_not_trusted_is_told_and_shown() {
    let (ca, other) = (Ca::root("Upstream CA"), Ca::root("Other CA"));
    let pair = ca.server(NAME);
    let origin = Origin::nginx(&Nginx::tls(pair.clone()));
    let expired = ca.issue(&Leaf {
        validity: Validity::Expired,
        ..Leaf::server(NAME)
    });
    let expired = Origin::nginx(&Nginx::tls(expired));
    let stage = Stage::start();
    for version in TlsVersion::ALL {
        let unknown = upstream(&origin.node(), &checking(&other.pem(), version));
        let node = stage.expect_bad(&unknown, "upstream_ca_unknown", "local issuer certificate");
        assert_eq!(node["chain"][0]["issuer"], "CN=Upstream CA");
        assert_eq!(node["verification"], "failed");
        let mut listed = upstream(&origin.node(), &checking(&ca.pem(), version));
        listed["tls"]["crl"] = ca.crl(&[&pair], Validity::Now).into();
        let node = stage.expect_bad(&listed, "upstream_cert_revoked", "revoked");
        assert_eq!(node["verification"], "failed");
        listed["tls"]["crl"] = ca.crl(&[], Validity::Now).into();
        stage.expect_good(&listed, &["is good", "verified for up.example.com"]);
        let mut mismatch = upstream(&origin.node(), &checking(&ca.pem(), version));
        mismatch["upstream_host"] = "other.example.com".into();
        let node = stage.expect_bad(&mismatch, "upstream_name_mismatch", "hostname mismatch");
        assert_eq!(node["chain"][0]["names"], json!([NAME]));
        assert_eq!(node["name"], "other.example.com");
        let past = upstream(&expired.node(), &checking(&ca.pem(), version));
        let node = stage.expect_bad(&past, "upstream_cert_expired", "has expired");
        assert!(node["chain"][0]["days_left"].as_i64().unwrap() < 0);
        stage.expect_good(
            &upstream(&origin.node(), &checking(&ca.pem(), version)),
            &[],
        );
    }
}

/// With TLS 1.3 the alert comes after our side of the handshake is done.
#[test]
fn refusal_of_our_certificate_is_told_in_both_versions() {
    let folder = TempDir::new().unwrap();
    let (ca, strangers) = (Ca::root("Upstream CA"), Ca::root("Strangers"));
    let trust = ca.write(folder.path(), "ca");
    let origin = Origin::openssl_s_server(
        &ca.server(NAME),
        &[
            "-Verify",
            "1",
            "-verify_return_error",
            "-CAfile",
            trust.to_str().unwrap(),
        ],
    );
    let stage = Stage::start();
    for version in TlsVersion::ALL {
        let with = |tls: Value| upstream(&origin.node(), &tls);
        let node = stage.expect_bad(
            &with(showing(&strangers.client("gateway"), version)),
            "upstream_rejected_our_cert",
            "alert unknown ca",
        );
        assert_eq!(node["client_certificate"], "CN=gateway");
        assert_eq!(node["chain"][0]["subject"], format!("CN={NAME}"));
        let missing = match version {
            TlsVersion::V12 => "alert handshake failure",
            TlsVersion::V13 => "alert certificate required",
        };
        stage.expect_bad(
            &with(speaking(version)),
            "upstream_wants_client_cert",
            missing,
        );
        stage.expect_good(
            &with(showing(&ca.client("gateway"), version)),
            &["it took our certificate CN=gateway"],
        );
    }
}

#[test]
fn node_that_does_not_speak_tls_or_at_all_is_told() {
    let plain = Origin::nginx(&Nginx::default());
    let greeting = TcpOrigin::serving(|mut conn| {
        drop(conn.write_all(b"220 mail.example.com ESMTP\r\n"));
        drop(std::io::copy(&mut conn, &mut std::io::sink()));
    });
    let (silent, closed) = (TcpOrigin::silent(), ClosedPort::new());
    let stage = Stage::start();
    for version in TlsVersion::ALL {
        for (node, reason, detail) in [
            (
                plain.node(),
                "upstream_speaks_plaintext",
                "wrong version number",
            ),
            (
                greeting.node(),
                "upstream_speaks_plaintext",
                "wrong version number",
            ),
            (closed.node(), "upstream_refused", "Connection refused"),
            (
                silent.node(),
                "upstream_timeout",
                "the TLS handshake did not end within 300 ms",
            ),
        ] {
            let mut upstream = upstream(&node, &speaking(version));
            // Who says something has all the time it needs.
            let limit = if node == silent.node() { 0.3 } else { 60.0 };
            upstream["timeout"] = json!({"connect": limit, "send": 60, "read": 60});
            stage.expect_bad(&upstream, reason, detail);
        }
    }
    let http = json!({"nodes": {plain.node(): 1}});
    let told = stage.probe(&http, &[]).expect_success().stdout;
    assert!(
        told.contains("takes connections; the scheme is without TLS"),
        "{told}"
    );
    let told = stage.probe(&json!({"nodes": {closed.node(): 1}}), &[]);
    assert!(told.stderr.contains("upstream_refused"), "{told:?}");
}

#[test]
fn several_nodes_have_a_verdict_each() {
    let ca = Ca::root("Upstream CA");
    let origin = Origin::nginx(&Nginx::tls(ca.server(NAME)));
    let closed = ClosedPort::new();
    let stage = Stage::start();
    let mut both = upstream(&origin.node(), &checking(&ca.pem(), TlsVersion::V13));
    both["nodes"] = json!([
        {"host": "127.0.0.1", "port": origin.port(), "weight": 1},
        {"host": "127.0.0.1", "port": closed.port(), "weight": 0},
    ]);
    let told = stage.probe(&both, &[]);
    assert_eq!(told.status.code(), Some(1));
    let lines: Vec<&str> = told.stderr.lines().collect();
    assert_eq!(lines[0], "upstream/u: 1 of 2 nodes are good.", "{told:?}");
    assert!(
        lines[1].starts_with(&format!("- {} is good: ", origin.node())),
        "{told:?}"
    );
    assert!(lines[2].contains("cannot be used for up.example.com (upstream_refused)"));
}

#[test]
fn route_and_service_are_probed_with_what_their_requests_would_use() {
    let ca = Ca::root("Upstream CA");
    let origin = Origin::nginx(&Nginx {
        only_name: Some(NAME.to_owned()),
        ..Nginx::tls(ca.server(NAME))
    });
    let stage = Stage::start();
    let configure = |path: &str, value: Value| stage.gateway.configure(path, &value);
    let mut passing = upstream(&origin.node(), &checking(&ca.pem(), TlsVersion::V13));
    passing["pass_host"] = "pass".into();
    passing
        .as_object_mut()
        .unwrap()
        .shift_remove("upstream_host");
    configure("/services/s", json!({"upstream": passing}));
    configure("/routes/any", json!({"uri": "/a", "service_id": "s"}));
    configure(
        "/routes/own",
        json!({"uri": "/b", "service_id": "s", "host": NAME}),
    );
    configure(
        "/routes/other",
        json!({"uri": "/c", "service_id": "s", "host": "x.test"}),
    );

    let probe = |args: &[&str]| stage.a6.run(&[&["probe"], args].concat());
    probe(&["route", "own"]).expect_success();
    let refused = probe(&["route", "other"]);
    assert!(
        refused.stderr.contains("(upstream_sni_refused)"),
        "{refused:?}"
    );
    for target in [["route", "any"], ["service", "s"]] {
        let told = probe(&target);
        let sentence = format!(
            "API error (status 400): {}/{} is asked for the host that a client asks for",
            target[0], target[1]
        );
        assert!(told.stderr.starts_with(&sentence), "{told:?}");
        let named = [&target[..], &["--host", NAME]].concat();
        let told = probe(&named).expect_success().stdout;
        assert!(told.contains("verified for up.example.com"), "{told}");
    }
    let node = format!("127.0.0.1:{}", stage.gateway.port("status"));
    // What a document shows is refused when it is written; what a name leads to is when it is dialled.
    configure(
        "/upstreams/self",
        json!({"nodes": {node.replace("127.0.0.1", "localhost"): 1}}),
    );
    let told = probe(&["upstream", "self"]);
    assert!(told.stderr.contains("(upstream_is_self)"), "{told:?}");
    probe(&["upstream", "none"]).expect_failure("resource not found");
    probe(&["upstream"]).expect_failure("accepts 1 arg(s), received 0");
}
