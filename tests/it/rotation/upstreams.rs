//! What the gateway shows to upstreams, and which of them it believes.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::load::{Ask, Client, Conn, Done, Kind, Load, Protocol, Window};
use super::{Admin, NAME};
use crate::support::TlsVersion;
use crate::support::gateway::{Gateway, Setup};
use crate::support::origin::{Nginx, Origin, seen};
use crate::support::pki::{Ca, Pair, Validity};
use crate::support::raw::RawClient;

/// Rotations of each kind.
const ROTATIONS: usize = 100;
/// What each client is served at least between two rotations, times its weight: each sort of ask is
/// among it.
const ASKS: usize = 1;
/// Requests that a connection to the upstream carries: a quarter of the requests open one.
const REQUESTS: u32 = 4;

/// The upstream's name, in its certificate.
const UPSTREAM: &str = "up.example.com";

/// Where what we are to the upstream is written, and so what is put to rotate it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// An upstream that routes name.
    Upstream,
    /// Services, each with its upstream in it.
    Service,
    /// An ssl that upstreams name as theirs (`client_cert_id`).
    Ssl,
}

impl Place {
    /// What is rotated through. Trust is not the ssl's, and two writes are two rotations.
    fn states(self) -> &'static [State] {
        match self {
            Self::Upstream | Self::Service => &STATES,
            Self::Ssl => IDENTITIES,
        }
    }

    fn state(self, turn: usize) -> State {
        let states = self.states();
        states[turn % states.len()]
    }

    /// The path of the object that routes name.
    fn path(self, version: TlsVersion) -> String {
        match self {
            Self::Upstream | Self::Ssl => format!("/upstreams/{}", id(version)),
            Self::Service => format!("/services/{}", id(version)),
        }
    }
}

/// A gateway before an nginx that asks it for a certificate.
struct Stage {
    gateway: Gateway,
    admin: Admin,
    origin: Origin,
    place: Place,
    /// Issued the upstream's certificate, and those of [`Stage::ours`].
    ca: Ca,
    /// Issued nothing.
    stranger: Ca,
    ours: [Pair; 2],
    /// Requests that a connection to the upstream carries.
    requests: u32,
    /// The connections to it.
    seen: Arc<Connections>,
}

/// What we are to the upstream in some rotation, and whom we believe.
#[derive(Clone, Copy)]
struct State {
    identity: usize,
    believes: bool,
    believes_stranger: bool,
}

/// Between any two neighbours the identity changes, or the trust, or both.
const STATES: [State; 5] = [
    State {
        identity: 0,
        believes: true,
        believes_stranger: false,
    },
    State {
        identity: 1,
        believes: true,
        believes_stranger: false,
    },
    State {
        identity: 0,
        believes: true,
        believes_stranger: true,
    },
    State {
        identity: 1,
        believes: false,
        believes_stranger: true,
    },
    State {
        identity: 1,
        believes: true,
        believes_stranger: true,
    },
];

/// The first of them, which differ in nothing but the identity.
const IDENTITIES: &[State] = STATES.split_at(2).0;

impl State {
    /// What a client is told: our subject as the upstream sees it, or that there is no answer.
    fn told(self) -> &'static str {
        match (self.believes, self.identity) {
            (false, _) => "502",
            (true, 0) => "CN=one",
            (true, _) => "CN=two",
        }
    }
}

impl Stage {
    /// Connections are soon used up, so that others are opened, by full handshakes and resumed.
    fn start(place: Place) -> Self {
        Self::with(Setup::default(), place, REQUESTS)
    }

    fn with(setup: Setup, place: Place, requests: u32) -> Self {
        let ca = Ca::root("CA");
        let origin = Origin::nginx(&Nginx::mutual(ca.server(UPSTREAM), ca.pem()));
        let gateway = setup.start();
        let stage = Self {
            admin: Admin::of(&gateway),
            gateway,
            origin,
            place,
            stranger: Ca::root("Stranger"),
            ours: ["one", "two"].map(|name| ca.client(name)),
            requests,
            seen: Arc::default(),
            ca,
        };
        stage.rotate(0);
        for version in TlsVersion::ALL {
            let mut route = json!({"uri": path(version)});
            match place {
                Place::Service => route["service_id"] = id(version).into(),
                Place::Upstream => route["upstream_id"] = id(version).into(),
                Place::Ssl => {
                    let upstream = stage.upstream(version, place.state(0));
                    stage.admin.put(&place.path(version), &upstream);
                    route["upstream_id"] = id(version).into();
                }
            }
            stage.admin.put(&format!("/routes/{}", id(version)), &route);
        }
        stage
    }

    fn upstream(&self, version: TlsVersion, state: State) -> Value {
        let ours = &self.ours[state.identity];
        let mut trusted = Vec::new();
        if state.believes {
            trusted.push(self.ca.pem());
        }
        if state.believes_stranger {
            trusted.push(self.stranger.pem());
        }
        let version = match version {
            TlsVersion::V12 => "TLSv1.2",
            TlsVersion::V13 => "TLSv1.3",
        };
        let mut upstream = json!({
            "scheme": "https",
            "nodes": {self.origin.node(): 1},
            "keepalive_pool": {"requests": self.requests},
            "tls": {
                "verify": true,
                "ca_certs": trusted,
                "server_name": UPSTREAM,
                "min_version": version,
                "max_version": version,
            },
        });
        if self.place == Place::Ssl {
            upstream["tls"]["client_cert_id"] = "us".into();
        } else {
            upstream["tls"]["client_cert"] = ours.cert.clone().into();
            upstream["tls"]["client_key"] = ours.key.clone().into();
        }
        upstream
    }

    #[track_caller]
    fn rotate(&self, turn: usize) {
        let state = self.place.state(turn);
        if self.place == Place::Ssl {
            let ours = &self.ours[state.identity];
            let ssl = json!({"type": "client", "cert": ours.cert, "key": ours.key});
            return self.admin.put("/ssls/us", &ssl);
        }
        for version in TlsVersion::ALL {
            let upstream = self.upstream(version, state);
            let document = match self.place {
                Place::Service => json!({"upstream": upstream}),
                Place::Upstream | Place::Ssl => upstream,
            };
            self.admin.put(&self.place.path(version), &document);
        }
    }

    /// Kept and new connections, to each upstream.
    fn clients(&self) -> Vec<Client> {
        let (port, place) = (self.gateway.port("http"), self.place);
        let clients = TlsVersion::ALL.map(|version| {
            let mut kept = RawClient::connect(port);
            let seen = Arc::clone(&self.seen);
            let mut turn = 0;
            let ask: Ask = Box::new(move |turns| {
                turn += 1;
                let moment = turns.now();
                let is_new = turn % 4 == 0;
                let reply = if is_new {
                    RawClient::connect(port).get(NAME, path(version), &[])
                } else {
                    kept.get(NAME, path(version), &[])
                };
                let body = reply.text();
                expect_told(place, reply.status, &body, &turns.since(moment))?;
                let mut done = seen.count(&body);
                done.kept = usize::from(!is_new);
                Ok(done)
            });
            Client {
                name: format!("to {version:?}"),
                kind: Kind::Both,
                ask,
            }
        });
        clients.into()
    }

    /// A kept connection of HTTP/2 to each upstream.
    fn http2_clients(&self) -> Vec<Client> {
        let pair = self.ca.server(NAME);
        let ssl = json!({"cert": pair.cert, "key": pair.key, "snis": [NAME]});
        self.admin.put("/ssls/s", &ssl);
        let place = self.place;
        let clients = TlsVersion::ALL.map(|version| {
            let client = self.gateway.tls(NAME, version);
            let mut conn = Conn::open(&client, Protocol::Http2).expect("it is let in");
            let seen = Arc::clone(&self.seen);
            let ask: Ask = Box::new(move |turns| {
                let moment = turns.now();
                let answer = conn.get(NAME, path(version));
                let answer = answer.map_err(|ended| format!("{ended:?}"))?;
                expect_told(place, answer.status, &answer.body, &turns.since(moment))?;
                let mut done = seen.count(&answer.body);
                done += Done::KEPT;
                Ok(done)
            });
            Client {
                name: format!("kept Http2 to {version:?}"),
                kind: Kind::Both,
                ask,
            }
        });
        clients.into()
    }
}

/// nginx's numbers of the connections that it answered over.
#[derive(Default)]
struct Connections(Mutex<HashSet<String>>);

impl Connections {
    /// One opened where this answer is the first over its connection.
    fn count(&self, body: &str) -> Done {
        let is_answer = body.contains("connection=");
        let mut known = self.0.lock().unwrap();
        if is_answer && known.insert(seen(body, "connection").to_owned()) {
            Done::OPENED
        } else {
            Done::NEITHER
        }
    }
}

fn id(version: TlsVersion) -> &'static str {
    match version {
        TlsVersion::V12 => "v12",
        TlsVersion::V13 => "v13",
    }
}

fn path(version: TlsVersion) -> &'static str {
    match version {
        TlsVersion::V12 => "/v12",
        TlsVersion::V13 => "/v13",
    }
}

fn expect_told(place: Place, status: u16, body: &str, window: &Window) -> Result<(), String> {
    let told = match status {
        200 => seen(body, "dn").to_owned(),
        status => status.to_string(),
    };
    let is_right = window.clone().any(|turn| place.state(turn).told() == told);
    if is_right {
        Ok(())
    } else {
        Err(format!("{told} in {window:?}"))
    }
}

/// Four of five rotations change the identity, and as many the trust, where both are rotated.
fn rotate_under_load(place: Place, what: &str) {
    let stage = Stage::start(place);
    let mut clients = stage.clients();
    clients.extend(stage.http2_clients());
    let load = Load::start(clients);
    load.rotate_under_load(ROTATIONS * 5 / 4, ASKS, |turn| stage.rotate(turn));
    load.end(what);
}

#[test]
fn identity_and_trust_towards_upstreams_rotate_under_load() {
    rotate_under_load(Place::Upstream, "identity and trust towards upstreams");
}

#[test]
fn identity_and_trust_in_services_rotate_under_load() {
    rotate_under_load(Place::Service, "identity and trust in services");
}

#[test]
fn identity_of_an_ssl_that_upstreams_name_rotates_under_load() {
    rotate_under_load(Place::Ssl, "an ssl that upstreams name");
}

#[test]
fn rotation_fails_no_request_while_nothing_that_was_built_stays() {
    // What one upstream needs pushes out what the other does, and each request needs it.
    let stage = Stage::with(
        Setup::default().set("limits.contexts", "1"),
        Place::Upstream,
        1,
    );
    let clients = (0..4).flat_map(|_| stage.clients());
    let clients = clients.map(|client| Client {
        kind: Kind::Other,
        ..client
    });
    let load = Load::with_share(20, clients.collect());
    load.expect_served(1);
    for _ in 0..ROTATIONS / 2 {
        load.rotate(|turn| stage.rotate(turn));
        load.expect_served(1);
    }
    load.end("with one context");
}

#[test]
fn broken_identity_or_trust_is_refused_under_load_and_the_old_one_serves_on() {
    let stage = Stage::start(Place::Upstream);
    let good = stage.upstream(TlsVersion::V13, stage.place.state(0));
    let expired = Ca::dated("Old CA", Validity::Expired).pem();
    let garbage = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n".repeat(4);
    let with = |member: &str, value: Value| {
        let mut broken = good.clone();
        broken["tls"][member] = value;
        broken
    };
    let broken = [
        (with("client_cert", json!(garbage)), "at /tls/client_cert; "),
        (with("client_key", json!(garbage)), "at /tls/client_key; "),
        (
            with("client_key", json!(stage.ours[1].key)),
            "(at /tls/client_key)",
        ),
        (
            with("client_cert", json!(stage.ours[1].cert)),
            "(at /tls/client_key)",
        ),
        (with("ca_certs", json!([expired])), "ca_certs[1]"),
        (with("ca_certs", json!([garbage])), "ca_certs[1]"),
    ];
    let load = Load::start(stage.clients());
    for _ in 0..3 {
        for (document, text) in &broken {
            load.refuse(|| stage.admin.expect_refused("/upstreams/v13", document, text));
            load.expect_served(ASKS);
        }
    }
    load.end("refused identities");
}
