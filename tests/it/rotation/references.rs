//! Both documents with every PEM replaced by a reference, rotated in a real OpenBao.

use serde_json::json;

use super::load::{Ask, Client, Done, Kind, Load, Window};
use super::{Admin, NAME};
use crate::support::bao::Bao;
use crate::support::client::{Curl, shown_serial};
use crate::support::gateway::{Gateway, Setup};
use crate::support::origin::{Nginx, Origin};
use crate::support::pki::{Ca, Pair};
use crate::support::raw::RawClient;
use crate::support::tls::TlsClient;
use crate::support::{SOON, TlsVersion, eventually};

/// Rotations in the suite: each waits until the gateway has looked.
const ROTATIONS: usize = 3;
/// By the clock one in so many of the others: a manager is asked once a second.
const SELDOM: usize = 10;
/// What each client is served at least between two rotations, times its weight.
const ASKS: usize = 2;

/// What the manager has in turn: our identities towards the upstream, and the certificates that
/// clients are shown.
struct Issues {
    ours: Vec<Pair>,
    shown: Vec<Pair>,
}

impl Issues {
    fn new(ca: &Ca) -> Self {
        Self {
            ours: (0..4).map(|n| ca.client(&our_name(n))).collect(),
            shown: (0..4).map(|_| ca.server(NAME)).collect(),
        }
    }

    fn write(&self, turn: usize, bao: &Bao, ca: &Ca) {
        let (ours, shown) = (&self.ours[turn % 4], &self.shown[turn % 4]);
        let members = json!({
            "client_cert": ours.cert, "client_key": ours.key,
            "cert": shown.cert, "key": shown.key, "ca": ca.pem(),
        });
        bao.write("mtls/web", &members);
    }
}

fn our_name(turn: usize) -> String {
    format!("gateway-{}-", turn % 4)
}

/// The documents, whose every PEM is a member of one secret.
fn configure(gateway: &Gateway, bao: &Bao, origin: &Origin) {
    let admin = Admin::of(gateway);
    let manager = json!({"uri": bao.url(), "prefix": "secret/mtls", "kv_version": "kv-v2",
                         "token": bao.token("1h")});
    admin.put("/secrets/vault/1", &manager);
    let value = |member: &str| format!("$secret://vault/1/web/{member}");
    let service = json!({
        "name": "upstream-mtls",
        "upstream": {
            "type": "roundrobin", "scheme": "https", "pass_host": "rewrite",
            "upstream_host": "upstream.test.local", "nodes": {origin.node(): 1},
            "tls": {"client_cert": value("client_cert"), "client_key": value("client_key"),
                    "verify": true, "ca_certs": [value("ca")]}
        }
    });
    admin.put("/services/upstream-mtls", &service);
    let route = json!({"service_id": "upstream-mtls", "uri": "/*", "hosts": [NAME, "plain.test"]});
    admin.put("/routes/upstream-mtls", &route);
    let ssl = json!({"cert": value("cert"), "key": value("key"), "snis": [NAME],
                     "client": {"ca": value("ca")}});
    admin.put("/ssls/web", &ssl);
}

/// What the upstream says of us must be of a rotation that was in force.
fn expect_ours(status: u16, body: &str, window: &Window) -> Result<(), String> {
    let mut turns = window.clone();
    let is_known = turns.any(|turn| body.contains(&our_name(turn)));
    if status == 200 && is_known {
        Ok(())
    } else {
        Err(format!("{status} {body:?} in {window:?}"))
    }
}

/// Asks over one connection that nothing may end.
fn kept(gateway: &Gateway) -> Ask {
    let mut conn = RawClient::connect(gateway.port("http"));
    Box::new(move |turns| {
        let moment = turns.now();
        conn.send("GET /anything HTTP/1.1\r\nHost: plain.test\r\n\r\n");
        let reply = conn.read_reply();
        expect_ours(reply.status, &reply.text(), &turns.since(moment))?;
        Ok(Done::KEPT)
    })
}

/// Opens a connection each time, and is shown the certificate of a rotation that was in force.
fn new(client: TlsClient, serials: Vec<String>) -> Ask {
    Box::new(move |turns| {
        let moment = turns.now();
        let mut conn = client.connect().map_err(|ended| format!("{ended:?}"))?;
        let answer = conn
            .get(NAME, "/anything")
            .map_err(|ended| format!("{ended:?}"))?;
        let window = turns.since(moment);
        let mut shown = window.clone();
        if !shown.any(|turn| serials[turn % 4] == conn.peer_serial()) {
            return Err(format!("another certificate in {window:?}"));
        }
        expect_ours(answer.status, &answer.body, &window)?;
        Ok(Done::OPENED)
    })
}

#[test]
fn values_of_a_manager_rotate_under_load() {
    let (bao, ca) = (Bao::start(), Ca::root("CA"));
    let issues = Issues::new(&ca);
    issues.write(0, &bao, &ca);
    let origin = Origin::nginx(&Nginx::mutual(ca.server("upstream.test.local"), ca.pem()));
    let gateway = Setup::default()
        .set("secrets.cache_time", "1s")
        // Its manager has all the time it needs to answer.
        .set("secrets.read_timeout", "10s")
        .set("secrets.write_timeout", "15s")
        .set("secrets.vault.trust_file", bao.ca_file().to_str().unwrap())
        .start();
    configure(&gateway, &bao, &origin);
    let seen = || {
        let asked = Curl::new(&gateway.http_url("/anything"))
            .header("Host: plain.test")
            .send();
        asked.expect_status(200).body
    };
    assert!(seen().contains(&our_name(0)));
    let serials: Vec<String> = issues.shown.iter().map(Pair::serial).collect();
    let client = ca.client("client");
    let mut clients = vec![Client {
        name: "kept".to_owned(),
        kind: Kind::Kept,
        ask: kept(&gateway),
    }];
    clients.extend(TlsVersion::ALL.map(|version| Client {
        name: format!("new {version:?}"),
        kind: Kind::New,
        ask: new(gateway.tls(NAME, version).cert(&client), serials.clone()),
    }));
    let load = Load::start(clients).seldom(SELDOM);
    load.rotate_under_load(ROTATIONS, ASKS, |turn| {
        issues.write(turn, &bao, &ca);
        eventually(SOON, "all of the new values is in force", || {
            let shown = shown_serial(gateway.https_port(), NAME, TlsVersion::V13);
            let is_shown = shown.as_ref() == Some(&serials[turn % 4]);
            (is_shown && seen().contains(&our_name(turn))).then_some(())
        });
    });
    load.end("values of a manager");
}
