//! FIPS mode and what the gateway is a client of: all of them offer the profile and nothing else.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::client::Curl;
use crate::support::fips::Module;
use crate::support::gateway::{ADMIN_KEY, Gateway, Setup};
use crate::support::hello::{ClientHello, Listening};
use crate::support::pki::{Ca, KeyKind, Leaf};

/// What FIPS mode offers, in its order (RFC 8446 §B.4, RFC 5289; RFC 8446 §4.2.7, §4.2.3).
const SUITES: [u16; 6] = [0x1302, 0x1301, 0xc02c, 0xc030, 0xc02b, 0xc02f];
const VERSIONS: [u16; 2] = [0x0304, 0x0303];
const GROUPS: [u16; 3] = [0x0017, 0x0018, 0x0019];
const SIGNATURES: [u16; 9] = [
    0x0403, 0x0503, 0x0603, 0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601,
];
/// What it must not, and what the twin without FIPS does.
const CHACHA20: [u16; 3] = [0x1303, 0xcca9, 0xcca8];
const X25519: u16 = 0x001d;
const ED25519: u16 = 0x0807;

/// Who connects, and what makes the gateway do it: with a peer at this address.
type Client = (&'static str, fn(&Gateway, &str));

const CLIENTS: [Client; 9] = [
    ("a request", |gateway, node| {
        route(gateway, &json!({"scheme": "https", "nodes": {node: 1}}));
        Curl::new(&gateway.http_url("/")).send();
    }),
    ("a request over HTTP/2", |gateway, node| {
        route(gateway, &json!({"scheme": "grpcs", "nodes": {node: 1}}));
        Curl::new(&gateway.http_url("/")).send();
    }),
    ("a request whose node is checked", |gateway, node| {
        let tls = json!({"verify": true, "ca_certs": [Ca::root("Origin CA").pem()]});
        route(
            gateway,
            &json!({"scheme": "https", "nodes": {node: 1}, "tls": tls}),
        );
        Curl::new(&gateway.http_url("/")).send();
    }),
    ("a health check", |gateway, node| {
        let active = json!({"type": "https", "healthy": {"interval": 1}});
        let upstream = json!({"scheme": "https", "nodes": {node: 1}, "checks": {"active": active}});
        gateway.configure("/upstreams/checked", &upstream);
    }),
    ("a probe", |gateway, node| {
        let upstream = json!({"scheme": "https", "nodes": {node: 1}, "pass_host": "node"});
        gateway.configure("/upstreams/probed", &upstream);
        let port = gateway.port("admin");
        Curl::new(&format!(
            "http://127.0.0.1:{port}/portcullis/v1/probe/upstreams/probed"
        ))
        .method("POST")
        .header(&format!("X-API-KEY: {ADMIN_KEY}"))
        .send()
        .expect_status(200);
    }),
    ("Vault's client", |gateway, node| {
        let vault = json!({"uri": format!("https://{node}"), "prefix": "kv", "token": "t"});
        refer(gateway, "vault/1", &vault);
    }),
    ("AWS's client", |gateway, node| {
        let aws = json!({"endpoint_url": format!("https://{node}"), "access_key_id": "a",
                         "secret_access_key": "b"});
        refer(gateway, "aws/1", &aws);
    }),
    ("Google's client", |gateway, node| {
        let order = Leaf {
            key: KeyKind::Rsa,
            ..Leaf::client("account")
        };
        let key = Ca::root("Google").issue(&order).key;
        let account = json!({"client_email": "e", "project_id": "p", "private_key": key,
                             "token_uri": format!("https://{node}/token")});
        refer(gateway, "gcp/1", &json!({ "auth_config": account }));
    }),
    ("Kubernetes' client", |gateway, node| {
        let kubernetes = json!({"apiserver_addr": format!("https://{node}"), "token": "t"});
        refer(gateway, "kubernetes/1", &kubernetes);
    }),
];

fn route(gateway: &Gateway, upstream: &Value) {
    gateway.configure("/routes/1", &json!({"uri": "/*", "upstream": upstream}));
}

/// Has a manager asked for a certificate.
fn refer(gateway: &Gateway, id: &str, secret: &Value) {
    gateway.configure(&format!("/secrets/{id}"), secret);
    let at = |member: &str| format!("$secret://{id}/default/web/{member}");
    let ssl = json!({"cert": at("cert"), "key": at("key"), "sni": "a.example.com"});
    gateway.configure("/ssls/referring", &ssl);
}

#[test]
fn clients_of_the_process_offer_the_profile_and_nothing_else() {
    let Some(module) = Module::copy() else { return };
    let folder = TempDir::new().unwrap();
    let ca = Ca::root("Managers").write(folder.path(), "managers");
    let file = json!(ca).to_string();
    let file = format!(
        "secrets: {{vault: {{trust_file: {file}}}, aws: {{trust_file: {file}}}, \
         gcp: {{trust_file: {file}}}, kubernetes: {{trust_file: {file}}}}}"
    );
    for (setup, is_fips) in [
        (module.setup(), true),
        (Setup::default().set("fips", "off"), false),
    ] {
        let gateway = setup.file(&file).start();
        for (client, connect) in CLIENTS {
            let peer = Listening::start();
            connect(&gateway, &peer.origin.node());
            let hello = peer.first(client);
            if is_fips {
                expect_the_profile(client, &hello);
            } else {
                // The same clients, with what FIPS mode excludes: they would be seen with it.
                let has = |list: &[u16], number| list.contains(&number);
                let suites = CHACHA20.iter().all(|suite| has(&hello.suites, *suite));
                assert!(suites, "{client}: {hello:x?}");
                assert!(has(&hello.groups, X25519), "{client}: {hello:x?}");
                assert!(has(&hello.shares, X25519), "{client}: {hello:x?}");
                assert!(has(&hello.signatures, ED25519), "{client}: {hello:x?}");
            }
        }
    }
}

#[track_caller]
fn expect_the_profile(client: &str, hello: &ClientHello) {
    // TLS_EMPTY_RENEGOTIATION_INFO_SCSV (RFC 5746 §3.3) is no suite.
    let suites: Vec<u16> = hello
        .suites
        .iter()
        .copied()
        .filter(|suite| *suite != 0x00ff)
        .collect();
    assert_eq!(suites, SUITES, "{client}: {hello:x?}");
    assert_eq!(hello.versions, VERSIONS, "{client}: {hello:x?}");
    assert_eq!(hello.groups, GROUPS, "{client}: {hello:x?}");
    assert_eq!(hello.shares, GROUPS[..1], "{client}: {hello:x?}");
    assert_eq!(hello.signatures, SIGNATURES, "{client}: {hello:x?}");
    assert!(hello.has_extended_master_secret, "{client}: {hello:x?}");
}
