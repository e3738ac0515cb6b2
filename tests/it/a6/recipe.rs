//! The recipe "mutual TLS with a6", its commands as they are printed, here-documents and all.
//!
//! `recipe.sh` holds them under the document's headings. What it leaves to the reader is filled in:
//! PEM for the placeholders, and by `.curlrc` the address behind `api.example.com:9443`.

use std::fs;

use serde_json::json;

use crate::support::Finished;
use crate::support::a6::A6;
use crate::support::client::{Curl, openssl_s_client};
use crate::support::gateway::Gateway;
use crate::support::origin::{Nginx, Origin, seen};
use crate::support::pki::{Ca, Pair};

const RECIPE: &str = include_str!("recipe.sh");

/// How PEM takes the place of a placeholder inside a text of JSON.
#[derive(Clone, Copy)]
enum Paste {
    /// With `\n` for each line end.
    Escaped,
    /// As it is: the lines of the file.
    Lines,
}

/// A reader who follows the recipe.
struct Reader {
    a6: A6,
    gateway: Gateway,
    values: Vec<(&'static str, String)>,
    paste: Paste,
}

impl Reader {
    #[track_caller]
    fn new(paste: Paste) -> Self {
        let gateway = Gateway::start();
        let a6 = A6::at(&gateway);
        let port = gateway.https_port();
        a6.write(
            ".curlrc",
            &format!("silent\nshow-error\nnoproxy = *\nconnect-to = api.example.com:9443:127.0.0.1:{port}\n"),
        );
        Self {
            a6,
            gateway,
            values: Vec::new(),
            paste,
        }
    }

    /// Fills in placeholders from now on.
    fn fill(&mut self, values: &[(&'static str, &str)]) {
        let values = values.iter().map(|(name, pem)| (*name, (*pem).to_owned()));
        self.values.extend(values);
    }

    /// Runs the commands under a heading.
    #[track_caller]
    fn follow(&self, heading: &str) -> Finished {
        let mut sections = RECIPE.split("## ").filter_map(|part| part.split_once('\n'));
        let found = sections.find(|(name, _)| *name == heading);
        let (_, commands) = found.unwrap_or_else(|| panic!("no section {heading:?}"));
        let mut script = commands.to_owned();
        for (name, pem) in &self.values {
            let pem = match self.paste {
                Paste::Escaped => pem.replace('\n', "\\n"),
                Paste::Lines => pem.clone(),
            };
            script = script.replace(&format!("<{name}>"), &pem);
        }
        assert!(
            !script.contains("\"<"),
            "a placeholder of {heading:?} is not filled in"
        );
        self.a6.bash(&script)
    }

    #[track_caller]
    fn update(&self, group: &str, id: &str, change: &serde_json::Value) {
        self.a6
            .feed(&[group, "update", id, "-f", "-"], &change.to_string())
            .expect_success();
    }
}

struct Pki {
    clients: Ca,
    servers: Ca,
    server: Pair,
    upstreams: Ca,
    towards_upstream: Pair,
}

impl Pki {
    fn new() -> Self {
        let (clients, servers) = (Ca::root("Clients"), Ca::root("Servers"));
        let upstreams = Ca::root("Upstreams");
        Self {
            server: servers.server("api.example.com"),
            towards_upstream: upstreams.client("gateway"),
            clients,
            servers,
            upstreams,
        }
    }
}

#[test]
fn recipe_works_as_printed() {
    for paste in [Paste::Escaped, Paste::Lines] {
        follow_all(paste);
    }
}

#[track_caller]
fn follow_all(paste: Paste) {
    let pki = Pki::new();
    let mut reader = Reader::new(paste);
    let folder = reader.a6.folder().to_owned();
    let client = pki.clients.client("alice").write(&folder, "client");
    assert!(client.cert.ends_with("client.crt") && client.key.ends_with("client.key"));
    fs::write(folder.join("ca.crt"), pki.servers.pem()).unwrap();
    let plain = Origin::nginx(&Nginx::default());
    let mutual = Origin::nginx(&Nginx::mutual(
        pki.upstreams.server("internal"),
        pki.upstreams.pem(),
    ));

    // Part 1: clients prove who they are.
    let clients = pki.clients.pem();
    reader.fill(&[
        ("SERVER_CERTIFICATE_PEM", &pki.server.cert),
        ("SERVER_PRIVATE_KEY_PEM", &pki.server.key),
        ("CA_CERTIFICATE_PEM", &clients),
    ]);
    let created = reader.follow("Create SSL resource with CA for client verification");
    assert_eq!(
        created.expect_success().json()["snis"],
        json!(["api.example.com"])
    );
    reader
        .follow("Create a route on the protected domain")
        .expect_success();
    // The document's `backend` is wherever the reader's is.
    let here = json!({"upstream": {"nodes": {"backend:8080": null, plain.node(): 1}}});
    reader.update("route", "secure-api", &here);
    let served = reader
        .follow("Test with client certificate")
        .expect_success();
    assert_eq!(seen(&served.stdout, "uri"), "/api/health");
    let refused = reader.follow("Test without client certificate");
    let code = refused.status.code();
    assert!([Some(35), Some(56)].contains(&code), "{refused:?}");

    // Part 2: the gateway proves who it is.
    let ours = &pki.towards_upstream;
    reader.fill(&[
        ("CLIENT_CERTIFICATE_PEM", &ours.cert),
        ("CLIENT_PRIVATE_KEY_PEM", &ours.key),
    ]);
    reader
        .follow("Create upstream with TLS client certificate")
        .expect_success();
    reader
        .follow("Create route using this upstream")
        .expect_success();

    let here = json!({"nodes": {"secure-backend:443": null, mutual.node(): 1}});
    reader.update("upstream", "mtls-backend", &here);
    let url = reader.gateway.http_url("/api/part-2");
    let served = Curl::new(&url).send().expect_status(200);
    assert_eq!(seen(&served.body, "dn"), "CN=gateway");

    // Part 3: both.
    reader.fill(&[
        ("APISIX_SERVER_CERT", &pki.server.cert),
        ("APISIX_SERVER_KEY", &pki.server.key),
        ("CLIENT_CA_CERT", &clients),
        ("APISIX_CLIENT_CERT", &ours.cert),
        ("APISIX_CLIENT_KEY", &ours.key),
    ]);
    reader
        .follow("SSL for client → APISIX mTLS")
        .expect_success();
    reader
        .follow("Upstream for APISIX → backend mTLS")
        .expect_success();
    reader.follow("Route connecting both").expect_success();
    reader
        .a6
        .run(&["route", "delete", "secure-api"])
        .expect_success();
    let here = json!({"nodes": {"internal-service:443": null, mutual.node(): 1}});
    reader.update("upstream", "secure-backend", &here);
    let served = reader
        .follow("Test with client certificate")
        .expect_success();
    assert_eq!(seen(&served.stdout, "dn"), "CN=gateway");

    // Common patterns.
    let internal = pki.servers.server("internal.example.com");
    let partner = pki.servers.server("partner.example.com");
    let partners = Ca::root("Partners").pem();
    reader.fill(&[
        ("INTERNAL_CERT", &internal.cert),
        ("INTERNAL_KEY", &internal.key),
        ("INTERNAL_CA", &clients),
        ("PARTNER_CERT", &partner.cert),
        ("PARTNER_KEY", &partner.key),
        ("PARTNER_CA", &partners),
    ]);
    reader
        .follow("Multiple domains with different CAs")
        .expect_success();
    let secret = reader.follow("Using APISIX Secret for certificate management");
    let uri = secret.expect_success().json()["uri"].clone();
    assert_eq!(uri, "https://vault.example.com/v1/secret/data/mtls");
    rotate(&mut reader, &pki);
}

/// A rotation names certificate, key and CA, and keeps the names.
#[track_caller]
fn rotate(reader: &mut Reader, pki: &Pki) {
    reader
        .a6
        .run(&["ssl", "delete", "frontend-mtls"])
        .expect_success();
    let new = pki.servers.server("api.example.com");
    reader.fill(&[
        ("NEW_CERT", &new.cert),
        ("NEW_KEY", &new.key),
        ("NEW_OR_SAME_CA", &pki.clients.pem()),
    ]);
    let rotated = reader
        .follow("Certificate rotation")
        .expect_success()
        .json();
    assert_eq!(rotated["snis"], json!(["api.example.com"]));
    assert_eq!(rotated["cert"], new.cert);
    let port = reader.gateway.https_port();
    for version in ["-tls1_2", "-tls1_3"] {
        let shown = openssl_s_client(port, &["-servername", "api.example.com", version], "");
        assert!(shown.stdout.contains(new.cert.trim()), "{shown:?}");
    }
    let again = reader
        .follow("Test with client certificate")
        .expect_success();
    assert_eq!(seen(&again.stdout, "dn"), "CN=gateway");
    let refused = reader.follow("Test without client certificate");
    assert!(
        [Some(35), Some(56)].contains(&refused.status.code()),
        "{refused:?}"
    );
}

#[test]
fn half_a_pair_is_refused_and_nothing_changes() {
    let pki = Pki::new();
    let mut reader = Reader::new(Paste::Escaped);
    let clients = pki.clients.pem();
    reader.fill(&[
        ("SERVER_CERTIFICATE_PEM", &pki.server.cert),
        ("SERVER_PRIVATE_KEY_PEM", &pki.server.key),
        ("CA_CERTIFICATE_PEM", &clients),
    ]);
    let heading = "Create SSL resource with CA for client verification";
    reader.follow(heading).expect_success();
    let new = pki.servers.server("api.example.com");
    for half in [json!({"cert": new.cert}), json!({"key": new.key})] {
        let args = ["ssl", "update", "mtls-domain", "-f", "-"];
        let refused = reader.a6.feed(&args, &half.to_string());
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(refused.stderr.contains("(status 400)"), "{refused:?}");
    }
    let kept = reader.a6.run(&["ssl", "get", "mtls-domain"]).json();
    assert_eq!(kept["cert"], pki.server.cert);
    // The same certificate fits the key that is stored.
    reader.update("ssl", "mtls-domain", &json!({"cert": pki.server.cert}));
}
