//! What clients are served with, and which of them are let in.

use serde_json::{Value, json};

use super::load::{Ask, Client, Conn, Done, Kind, Load, Protocol, Window};
use super::{Admin, NAME};
use crate::support::TlsVersion;
use crate::support::gateway::{Gateway, Setup};
use crate::support::origin::{Nginx, Origin};
use crate::support::pki::{Ca, KeyKind, Leaf, Pair, Validity};
use crate::support::tls::{Answer, Ended, TlsClient};

/// Rotations of each kind.
const ROTATIONS: usize = 100;
/// What each client is served at least between two rotations, times its weight: each sort of ask is
/// among it.
const ASKS: usize = 2;

/// A gateway before a plain nginx.
struct Stage {
    gateway: Gateway,
    admin: Admin,
    _origin: Origin,
}

impl Stage {
    fn start() -> Self {
        Self::with(Setup::default())
    }

    fn with(setup: Setup) -> Self {
        let origin = Origin::nginx(&Nginx::default());
        let gateway = setup.start();
        let admin = Admin::of(&gateway);
        let upstream = json!({"nodes": {origin.node(): 1}});
        admin.put("/routes/r", &json!({"uri": "/*", "upstream": upstream}));
        Self {
            gateway,
            admin,
            _origin: origin,
        }
    }

    /// A client of each version, with its words in the list of clients.
    fn clients(&self, pair: &Pair) -> [(String, TlsClient); 2] {
        TlsVersion::ALL.map(|version| {
            let client = self.gateway.tls(NAME, version).cert(pair);
            (format!("{version:?}"), client)
        })
    }

    /// Clients of this certificate, over kept connections and over new ones.
    fn kept_and_new(&self, pair: &Pair, serials: &Serials, resumption: Resumption) -> Vec<Client> {
        let clients = self.clients(pair).into_iter();
        let clients = clients.flat_map(|(version, client)| {
            [
                Client {
                    name: format!("kept {version}"),
                    kind: Kind::Kept,
                    ask: kept(&client),
                },
                Client {
                    name: format!("new {version}"),
                    kind: Kind::New,
                    ask: new(client, serials.clone(), resumption),
                },
            ]
        });
        clients.collect()
    }

    /// Clients of a certificate that some rotations let in, one of each protocol.
    fn barred(&self, name: &str, pair: &Pair, is_let_in: fn(usize) -> bool) -> Vec<Client> {
        let clients = self.clients(pair).into_iter().zip(Protocol::ALL);
        let clients = clients.map(|((version, client), protocol)| Client {
            name: format!("{name} {protocol:?} {version}"),
            kind: Kind::Other,
            ask: barred(client, protocol, is_let_in),
        });
        clients.collect()
    }
}

#[track_caller]
fn expect_served(answer: Result<Answer, Ended>, window: &Window) -> Result<(), String> {
    match answer {
        Ok(answer) if answer.status == 200 => Ok(()),
        other => Err(format!("{other:?} in {window:?}")),
    }
}

/// Asks over connections that nothing may end, one of each protocol in turn.
fn kept(client: &TlsClient) -> Ask {
    let mut conns = Protocol::ALL
        .map(|protocol| Conn::open(client, protocol).expect("it is let in before the load begins"));
    let mut turn = 0;
    Box::new(move |turns| {
        turn += 1;
        let moment = turns.now();
        let answer = conns[turn % 2].get(NAME, "/");
        expect_served(answer, &turns.since(moment))?;
        Ok(Done::KEPT)
    })
}

/// The serials of the certificates that the rotations show in turn.
#[derive(Clone)]
struct Serials(Vec<String>);

impl Serials {
    fn may_show(&self, serial: &str, window: &Window) -> bool {
        let mut turns = window.clone();
        turns.any(|turn| self.0[turn % self.0.len()] == serial)
    }
}

/// What becomes of sessions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Resumption {
    /// All are resumed: the certificate changes, the policy never.
    Always,
    /// A session counts under its own ssl and policy only.
    Perhaps,
}

/// Connects for each ask: now by a full handshake, now by the session of the connection before, in
/// each protocol.
fn new(client: TlsClient, serials: Serials, resumption: Resumption) -> Ask {
    let mut turn = 0;
    let mut session = None;
    Box::new(move |turns| {
        turn += 1;
        let offering = match &session {
            Some(session) if turn % 2 == 0 => client.clone().session(session),
            _ => client.clone(),
        };
        let moment = turns.now();
        let opened = Conn::open(&offering, Protocol::ALL[turn / 2 % 2]);
        let window = turns.since(moment);
        let mut conn = opened.map_err(|ended| format!("refused: {ended:?} in {window:?}"))?;
        let shown = conn.peer_serial();
        // A resumed connection has the certificate of the one before.
        if !conn.is_resumed() && !serials.may_show(&shown, &window) {
            return Err(format!("was shown {shown} in {window:?}"));
        }
        if turn % 2 == 0
            && session.is_some()
            && resumption == Resumption::Always
            && !conn.is_resumed()
        {
            return Err(format!("was not resumed in {window:?}"));
        }
        let answer = conn.get(NAME, "/");
        expect_served(answer, &turns.since(moment))?;
        session = conn.session().or(session.take());
        Ok(Done::OPENED)
    })
}

#[test]
fn certificate_and_key_type_rotate_under_load() {
    let stage = Stage::start();
    let ca = Ca::root("CA");
    let kinds = [KeyKind::Rsa, KeyKind::P256, KeyKind::Rsa, KeyKind::P256];
    let pairs = kinds.map(|key| {
        let order = Leaf::server(NAME);
        ca.issue(&Leaf { key, ..order })
    });
    let serials = Serials(pairs.iter().map(Pair::serial).collect());
    let ssl = |turn: usize| {
        let pair = &pairs[turn % pairs.len()];
        json!({"cert": pair.cert, "key": pair.key, "client": {"ca": ca.pem()}})
    };
    let mut first = ssl(0);
    first["snis"] = json!([NAME]);
    stage.admin.put("/ssls/s", &first);
    let clients = stage.kept_and_new(&ca.client("alice"), &serials, Resumption::Always);
    let load = Load::start(clients);
    // As the document does it: certificate, key and client, no names.
    load.rotate_under_load(ROTATIONS, ASKS, |turn| {
        stage.admin.put("/ssls/s", &ssl(turn));
    });
    load.end("certificates and key types");
}

/// Asks as a client that some rotations let in and others do not, over a kept connection and over
/// new ones in turn.
fn barred(client: TlsClient, protocol: Protocol, is_let_in: fn(usize) -> bool) -> Ask {
    // The connection, and the moment up to which it was certainly let in.
    let mut kept: Option<(Conn, usize)> = None;
    let judge = move |answer: Result<Answer, Ended>, window: Window| match &answer {
        Ok(answer) if answer.status == 200 => {
            let may = window.clone().any(is_let_in);
            if may {
                Ok(true)
            } else {
                Err(format!("was served in {window:?}"))
            }
        }
        _ if window.clone().all(is_let_in) => Err(format!("{answer:?} in {window:?}")),
        Ok(answer) if answer.status == 421 => Ok(false),
        Ok(answer) => Err(format!("{answer:?}")),
        Err(_) => Ok(false),
    };
    let mut session = None;
    Box::new(move |turns| {
        let mut done = Done::NEITHER;
        let moment = turns.now();
        if let Some((mut conn, safe)) = kept.take() {
            let answer = conn.get(NAME, "/");
            // What ended it may have happened while nothing was asked.
            let since = if answer.is_ok() { moment } else { safe };
            if judge(answer, turns.since(since))? {
                kept = Some((conn, moment));
                done += Done::KEPT;
            }
        }
        let moment = turns.now();
        let offering = session
            .as_ref()
            .map_or(client.clone(), |session| client.clone().session(session));
        let mut conn = match Conn::open(&offering, protocol) {
            Ok(conn) => conn,
            Err(ended) => return judge(Err(ended), turns.since(moment)).map(|_| done),
        };
        let answer = conn.get(NAME, "/");
        if judge(answer, turns.since(moment))? {
            session = conn.session().or(session.take());
            kept.get_or_insert((conn, moment));
            done += Done::OPENED;
        }
        Ok(done)
    })
}

#[test]
fn client_ca_rotates_under_load_by_a_superset_then_a_removal() {
    let stage = Stage::start();
    let [a, b, always] = ["A", "B", "Always"].map(Ca::root);
    let lets_a_in = |turn: usize| turn % 4 != 2;
    let lets_b_in = |turn: usize| !turn.is_multiple_of(4);
    let pair = always.server(NAME);
    let serials = Serials(vec![pair.serial()]);
    let ssl = |turn: usize| {
        let mut bundle = always.pem();
        for (ca, is_in) in [(&a, lets_a_in(turn)), (&b, lets_b_in(turn))] {
            if is_in {
                bundle.push_str(&ca.pem());
            }
        }
        json!({"cert": pair.cert, "key": pair.key, "snis": [NAME], "client": {"ca": bundle}})
    };
    stage.admin.put("/ssls/s", &ssl(0));
    let mut clients = stage.kept_and_new(&always.client("always"), &serials, Resumption::Perhaps);
    clients.extend(stage.barred("a", &a.client("a"), lets_a_in));
    clients.extend(stage.barred("b", &b.client("b"), lets_b_in));
    let load = Load::start(clients);
    load.rotate_under_load(ROTATIONS, ASKS, |turn| {
        stage.admin.put("/ssls/s", &ssl(turn));
    });
    load.end("client CAs");
}

#[test]
fn revocation_lists_rotate_under_load() {
    // What a client keeps of its session is no way around the list either.
    let stage = Stage::with(Setup::default().set("https.session_tickets", "on"));
    let ca = Ca::root("CA");
    let [a, b] = ["a", "b"].map(|name| ca.client(name));
    let lets_a_in = |turn: usize| turn % 4 != 2;
    let lets_b_in = |turn: usize| !turn.is_multiple_of(4);
    let pair = ca.server(NAME);
    let serials = Serials(vec![pair.serial()]);
    let ssl = |turn: usize| {
        let revoked = [(&a, lets_a_in(turn)), (&b, lets_b_in(turn))];
        let revoked = revoked.into_iter().filter(|(_, is_in)| !is_in);
        let revoked: Vec<&Pair> = revoked.map(|(pair, _)| pair).collect();
        let client = json!({"ca": ca.pem(), "crl": ca.crl(&revoked, Validity::Now)});
        json!({"cert": pair.cert, "key": pair.key, "snis": [NAME], "client": client})
    };
    stage.admin.put("/ssls/s", &ssl(0));
    let mut clients = stage.kept_and_new(&ca.client("always"), &serials, Resumption::Perhaps);
    clients.extend(stage.barred("a", &a, lets_a_in));
    clients.extend(stage.barred("b", &b, lets_b_in));
    let load = Load::start(clients);
    load.rotate_under_load(ROTATIONS, ASKS, |turn| {
        stage.admin.put("/ssls/s", &ssl(turn));
    });
    load.end("revocation lists");
}

#[test]
fn certificate_rotates_under_load_by_a_second_ssl_and_a_delete() {
    // Nothing that was built stays: most handshakes ask for what may be gone when it is built.
    let stage = Stage::with(Setup::default().set("limits.contexts", "1"));
    let ca = Ca::root("CA");
    let pairs = [(); 3].map(|()| ca.server(NAME));
    let serials = Serials(pairs.iter().map(Pair::serial).collect());
    let ssl = |turn: usize| {
        let pair = &pairs[turn % pairs.len()];
        json!({"cert": pair.cert, "key": pair.key, "snis": [NAME], "client": {"ca": ca.pem()}})
    };
    stage.admin.put("/ssls/s0", &ssl(0));
    let clients = stage.kept_and_new(&ca.client("alice"), &serials, Resumption::Perhaps);
    let load = Load::start(clients);
    load.expect_served(ASKS);
    for _ in 0..ROTATIONS / 4 {
        load.rotate(|turn| {
            // The older one serves the name while both are there.
            stage.admin.put(&format!("/ssls/s{turn}"), &ssl(turn));
            stage.admin.delete(&format!("/ssls/s{}", turn - 1));
        });
        load.expect_served(ASKS);
    }
    load.end("a second ssl and a delete");
}

#[test]
fn broken_certificate_key_or_ca_is_refused_under_load_and_the_old_one_serves_on() {
    let stage = Stage::start();
    let ca = Ca::root("CA");
    let (good, other) = (ca.server(NAME), ca.server(NAME));
    let serials = Serials(vec![good.serial()]);
    let expired = Ca::dated("Old CA", Validity::Expired).pem();
    let garbage = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n".repeat(4);
    let ssl = |cert: &str, key: &str, ca: &str| -> Value {
        json!({"cert": cert, "key": key, "snis": [NAME], "client": {"ca": ca}})
    };
    stage
        .admin
        .put("/ssls/s", &ssl(&good.cert, &good.key, &ca.pem()));
    let clients = stage.kept_and_new(&ca.client("alice"), &serials, Resumption::Always);
    let load = Load::start(clients);
    for _ in 0..3 {
        for (document, text) in [
            (ssl(&garbage, &good.key, &ca.pem()), "at /cert; "),
            (ssl(&good.cert, &garbage, &ca.pem()), "at /key; "),
            (ssl(&good.cert, &other.key, &ca.pem()), "(at /key)"),
            (ssl(&other.cert, &good.key, &ca.pem()), "(at /key)"),
            (ssl(&good.cert, &good.key, &expired), "(at /client/ca)"),
            (ssl(&good.cert, &good.key, &garbage), "at /client/ca; "),
        ] {
            load.refuse(|| stage.admin.expect_refused("/ssls/s", &document, text));
            load.expect_served(ASKS);
        }
    }
    load.end("refused certificates");
}
