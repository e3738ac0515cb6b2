//! What `sslscan` finds at the ports that speak TLS, in both modes: the profile and nothing else; and
//! what it does not try, a renegotiation that the client asks for.
//!
//! The scanner brings hellos of its own, made byte by byte where OpenSSL would not make them.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;

use serde_json::json;

use crate::support::fips::Module;
use crate::support::gateway::Setup;
use crate::support::origin::Origin;
use crate::support::pki::{Ca, KeyKind, Leaf};
use crate::support::site::Site;
use crate::support::{SOON, program, run_to_end};

/// What a scan found; each set in the scanner's own names.
#[derive(Debug, PartialEq, Eq)]
struct Findings {
    /// Those that are spoken, such as `tls1.2`.
    protocols: BTreeSet<String>,
    ciphers: BTreeSet<String>,
    /// With the version, such as `TLSv1.3 x25519`.
    groups: BTreeSet<String>,
}

/// Scans a port as a client that asks for `name`.
#[track_caller]
fn scan(port: u16, name: &str) -> Findings {
    let mut sslscan = program("sslscan");
    sslscan.args(["--no-colour", "--xml=-", "--no-heartbleed", "--ipv4"]);
    sslscan.arg(format!("--sni-name={name}"));
    sslscan.arg(format!("127.0.0.1:{port}"));
    let told = run_to_end(sslscan, b"", 6 * SOON);
    assert!(told.status.success(), "{told:?}");
    let elements = |kind: &str| {
        let begin = format!("<{kind} ");
        let lines = told.stdout.lines().map(str::trim);
        let found = lines.filter(|line| line.starts_with(&begin));
        found.map(str::to_owned).collect::<Vec<_>>()
    };
    let protocols = elements("protocol");
    assert_eq!(protocols.len(), 6, "a scan that was whole: {told:?}");
    let spoken = protocols
        .iter()
        .filter(|element| attribute(element, "enabled") == "1");
    let with_version = |element: &String| {
        let name = attribute(element, "name");
        let name = name.split(' ').next().unwrap_or_default();
        format!("{} {name}", attribute(element, "sslversion"))
    };
    Findings {
        protocols: spoken
            .map(|element| attribute(element, "type").to_owned() + attribute(element, "version"))
            .collect(),
        ciphers: elements("cipher")
            .iter()
            .map(|element| attribute(element, "cipher").to_owned())
            .collect(),
        groups: elements("group").iter().map(with_version).collect(),
    }
}

/// The value of an XML element's attribute; empty without it.
fn attribute<'element>(element: &'element str, name: &str) -> &'element str {
    let begin = format!(" {name}=\"");
    let value = element.split(&begin).nth(1);
    value
        .and_then(|value| value.split('"').next())
        .unwrap_or("")
}

/// Whether a client of TLS 1.2 gets a second handshake on its connection (TLS 1.3 has none).
#[track_caller]
fn renegotiates(port: u16, name: &str) -> bool {
    let mut client = program("openssl")
        .args(["s_client", "-tls1_2", "-servername", name, "-connect"])
        .arg(format!("127.0.0.1:{port}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl can be started");
    // s_client's letter for it; its input stays open until there is an answer.
    let mut stdin = client.stdin.take().expect("stdin is piped");
    stdin.write_all(b"R\n").expect("s_client takes a command");
    let stderr = client.stderr.take().expect("stderr is piped");
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            drop(tell.send(line));
        }
    });
    let mut has_asked = false;
    let outcome = loop {
        let line = told.recv_timeout(SOON).expect("an answer");
        if line == "RENEGOTIATING" {
            has_asked = true;
        } else if line.contains("no renegotiation") {
            break false;
        } else if has_asked && line.starts_with("depth=0") {
            break true;
        }
    };
    drop(client.kill());
    drop(client.wait());
    outcome
}

fn set<'name>(names: impl IntoIterator<Item = &'name str>) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

/// What is to be found of a name with such a key.
fn profile(key: KeyKind, is_fips: bool) -> Findings {
    let is_rsa = key == KeyKind::Rsa;
    let mut ciphers = set(["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384"]);
    let mut algorithms = vec!["AES128-GCM-SHA256", "AES256-GCM-SHA384"];
    let mut groups = vec!["secp256r1", "secp384r1", "secp521r1"];
    if !is_fips {
        ciphers.insert("TLS_CHACHA20_POLY1305_SHA256".to_owned());
        algorithms.push("CHACHA20-POLY1305");
        groups.push("x25519");
    }
    let signed = if is_rsa { "RSA" } else { "ECDSA" };
    let of_1_2 = algorithms.iter();
    ciphers.extend(of_1_2.map(|algorithm| format!("ECDHE-{signed}-{algorithm}")));
    // TLS 1.2 binds EC certificates to the groups as well (RFC 8422 section 5.1): the scanner offers
    // one at a time.
    let is_offered = |group: &&&str| is_rsa || **group == "secp256r1";
    let in_1_2 = groups.iter().filter(is_offered);
    let in_1_2 = in_1_2.map(|group| format!("TLSv1.2 {group}"));
    let in_1_3 = groups.iter().map(|group| format!("TLSv1.3 {group}"));
    Findings {
        protocols: set(["tls1.2", "tls1.3"]),
        ciphers,
        groups: in_1_2.chain(in_1_3).collect(),
    }
}

/// Finds no more and no less than the profile at each port.
#[track_caller]
fn expect_profile(setup: Setup, is_fips: bool) {
    let site = Site::with(setup);
    let rsa = site.ca.issue(&Leaf {
        key: KeyKind::Rsa,
        ..Leaf::server("rsa.example.com")
    });
    site.put_ssl_with("rsa", "rsa.example.com", &rsa, &json!({}));
    site.put_ssl("ec", "ec.example.com", &json!({}));
    let https = site.gateway.https_port();
    for (port, name, key) in [
        (https, "rsa.example.com", KeyKind::Rsa),
        (https, "ec.example.com", KeyKind::P256),
        (site.gateway.port("admin_https"), "localhost", KeyKind::P256),
    ] {
        assert_eq!(scan(port, name), profile(key, is_fips), "{name}");
        assert!(!renegotiates(port, name), "{name}");
    }
}

#[test]
fn scanner_finds_the_profile_and_nothing_else_at_every_port() {
    expect_profile(Setup::default().set("fips", "off"), false);
}

#[test]
fn scanner_finds_the_fips_profile_and_nothing_else_at_every_port() {
    let Some(module) = Module::copy() else { return };
    expect_profile(module.setup(), true);
}

/// The twin: what the gateway does not have is found where it is.
#[test]
fn scanner_finds_what_another_server_has_besides() {
    let pair = Ca::root("CA").issue(&Leaf {
        key: KeyKind::Rsa,
        ..Leaf::server("other.example.com")
    });
    let origin = Origin::openssl_s_server(&pair, &["-client_renegotiation"]);
    let found = scan(origin.port(), "other.example.com");
    let profile = profile(KeyKind::Rsa, false);
    assert!(found.ciphers.is_superset(&profile.ciphers), "{found:?}");
    assert!(found.ciphers.contains("AES128-SHA"), "{found:?}");
    assert!(found.groups.contains("TLSv1.3 x448"), "{found:?}");
    assert!(renegotiates(origin.port(), "other.example.com"));
}
