//! nginx is the oracle: one nginx and one gateway with the same certificates and policies get the
//! same probes, and every outcome is the same or listed in `docs/nginx-differences.md`.

mod peers;
mod probe;
mod table;

use self::peers::{Client, Mode, Peer, Peers, Server, Sessions};
use self::probe::{Ask, REFUSED, client, side_by_side, version_name, words};
use self::table::{Cell, compare};
use crate::support::TlsVersion;
use crate::support::client::Curl;
use crate::support::h2::H2Conn;
use crate::support::pki::{Ca, KeyKind, Leaf, Pair, PairFiles, Usage, Validity};
use crate::support::tls::TlsClient;

/// A cell whose outcome is the same function of each peer.
fn cell(id: String, outcome: impl Fn(Peer) -> String) -> Cell {
    Cell {
        id,
        nginx: outcome(Peer::Nginx),
        ours: outcome(Peer::Ours),
        serves_afresh: false,
    }
}

/// One name for each mode.
const fn name_of(mode: Mode) -> &'static str {
    match mode {
        Mode::Required => "required.example.com",
        Mode::Deferred => "deferred.example.com",
        Mode::Optional => "optional.example.com",
    }
}

/// Clients by the part of a cell's id that says what they show.
fn certificates(ca: &Ca) -> Vec<(&'static str, Option<Pair>)> {
    let leaf = Leaf::client("alice");
    let of_key = |key| {
        Some(ca.issue(&Leaf {
            key,
            ..leaf.clone()
        }))
    };
    let dated = |validity| {
        Some(ca.issue(&Leaf {
            validity,
            ..leaf.clone()
        }))
    };
    let used_for = |usage| {
        Some(ca.issue(&Leaf {
            usage,
            ..leaf.clone()
        }))
    };
    vec![
        ("none", None),
        ("good/p256", of_key(KeyKind::P256)),
        ("good/p384", of_key(KeyKind::P384)),
        ("good/rsa", of_key(KeyKind::Rsa)),
        ("good/no-usage", used_for(Usage::Unsaid)),
        ("bad/unknown-ca", Some(Ca::root("Other CA").issue(&leaf))),
        ("bad/namesake-ca", Some(Ca::root("Client CA").issue(&leaf))),
        ("bad/self-signed", Some(leaf.self_signed())),
        ("bad/expired", dated(Validity::Expired)),
        ("bad/not-yet-valid", dated(Validity::NotYet)),
        ("bad/for-servers", used_for(Usage::Server)),
        ("bad/weak-key", of_key(KeyKind::WeakRsa)),
        ("bad/sha1", Some(ca.issue_with_sha1(&leaf))),
    ]
}

#[test]
fn certificates_are_judged_as_by_nginx() {
    let ca = Ca::root("Client CA");
    let peers = Peers::start(|site| {
        let server = |mode| Server::new(site, name_of(mode), Some(Client::of(&ca, mode)));
        Mode::ALL.map(server).into()
    });
    let shown = certificates(&ca);
    let files: Vec<Option<PairFiles>> = shown
        .iter()
        .map(|(case, pair)| Some(peers.write(pair.as_ref()?, &case.replace('/', "-"))))
        .collect();
    let mut probes = Vec::new();
    for mode in Mode::ALL {
        for version in TlsVersion::ALL {
            for (index, (case, _)) in shown.iter().enumerate() {
                let id = format!(
                    "certificates/{}/{case}/{}",
                    mode.name(),
                    version_name(version)
                );
                probes.push((id, mode, version, index));
            }
        }
    }
    let asks: Vec<Ask<'_>> = probes
        .iter()
        .map(|(_, mode, version, index)| Ask {
            sni: name_of(*mode),
            version: *version,
            pair: files[*index].as_ref(),
        })
        .collect();

    let mut cells = Vec::new();
    for (id, mode, version, index) in &probes {
        cells.push(cell(format!("{id}/rust"), |peer| {
            let mut client = client(&peers, peer, *version).sni(name_of(*mode));
            if let Some(pair) = &shown[*index].1 {
                client = client.cert(pair);
            }
            words(&client.get(name_of(*mode), "/"))
        }));
    }
    let by_python = Peer::ALL.map(|peer| probe::by_python(&peers, peer, &asks));
    let [nginx, ours] = by_python;
    for (((id, ..), nginx), ours) in probes.iter().zip(nginx).zip(ours) {
        cells.push(Cell {
            id: format!("{id}/python"),
            nginx,
            ours,
            serves_afresh: false,
        });
    }
    // Optional is the others' mixture; a process for each probe has its price.
    let of_programs: Vec<usize> = (0..probes.len())
        .filter(|at| probes[*at].1 != Mode::Optional)
        .collect();
    cells.extend(side_by_side(&of_programs, |at| {
        cell(format!("{}/curl-h2", probes[*at].0), |peer| {
            probe::by_curl(&peers, peer, &asks[*at])
        })
    }));
    cells.extend(side_by_side(&of_programs, |at| {
        cell(format!("{}/s_client", probes[*at].0), |peer| {
            probe::by_s_client(&peers, peer, &asks[*at])
        })
    }));
    compare("certificates", &cells);
}

/// Whether a client is let in, however it is told that it is not.
fn let_in(outcome: String) -> String {
    let is_page = outcome == "400 No required SSL certificate was sent"
        || outcome == "400 The SSL certificate error";
    if is_page { REFUSED.to_owned() } else { outcome }
}

/// What one client of this process gets at `name`; where the handshake refuses, whether it does.
fn entry(peers: &Peers, peer: Peer, mode: Mode, client: &TlsClient, name: &str) -> String {
    let client = client.clone().at(peers.port(peer)).sni(name);
    let outcome = words(&client.get(name, "/"));
    match mode {
        Mode::Required => let_in(outcome),
        Mode::Deferred | Mode::Optional => outcome,
    }
}

#[test]
fn chains_are_as_deep_as_in_nginx() {
    const DEEPEST: u32 = 3;
    const NAMES: [[&str; 4]; 2] = [
        [
            "d0.example.com",
            "d1.example.com",
            "d2.example.com",
            "d3.example.com",
        ],
        [
            "r0.example.com",
            "r1.example.com",
            "r2.example.com",
            "r3.example.com",
        ],
    ];
    let root = Ca::root("Client CA");
    let modes = [Mode::Deferred, Mode::Required];
    let peers = Peers::start(|site| {
        let mut servers = Vec::new();
        for (mode, names) in modes.into_iter().zip(NAMES) {
            for (depth, name) in (0..=DEEPEST).zip(names) {
                let client = Client {
                    depth: Some(depth),
                    ..Client::of(&root, mode)
                };
                servers.push(Server::new(site, name, Some(client)));
            }
            let default = match mode {
                Mode::Required => "r.example.com",
                Mode::Deferred | Mode::Optional => "d.example.com",
            };
            servers.push(Server::new(site, default, Some(Client::of(&root, mode))));
        }
        servers
    });
    let mut cells = Vec::new();
    let mut issuer = root;
    for between in 0..=DEEPEST {
        if between > 0 {
            issuer = issuer.intermediate(&format!("Below {between}"));
        }
        let whole = issuer.client("alice");
        for (sent, pair) in [("sent", whole.clone()), ("not-sent", whole.leaf_alone())] {
            for (mode, names) in modes.into_iter().zip(NAMES) {
                let default = &names[0][..1];
                let default = format!("{default}.example.com");
                let depths = ["0", "1", "2", "3"].into_iter().zip(names);
                for (depth, name) in depths.chain([("default", &*default)]) {
                    for version in TlsVersion::ALL {
                        let id = format!(
                            "chains/{}/depth-{depth}/{between}-{sent}/{}",
                            mode.name(),
                            version_name(version)
                        );
                        let client = TlsClient::new(0).tls(version).cert(&pair);
                        cells.push(cell(id, |peer| entry(&peers, peer, mode, &client, name)));
                    }
                }
            }
        }
    }
    compare("chains", &cells);
}

#[test]
fn bundles_are_trusted_as_by_nginx() {
    let [a, b, stranger] = ["CA A", "CA B", "CA C"].map(Ca::root);
    let anew = Ca::root("CA A");
    let below = a.intermediate("Below A");
    let bundles = [
        ("one", a.pem()),
        ("two", format!("{}{}", a.pem(), b.pem())),
        ("namesakes", format!("{}{}", a.pem(), anew.pem())),
        ("intermediate-only", below.pem()),
        ("with-root", format!("{}{}", below.pem(), a.pem())),
    ];
    const NAMES: [[&str; 2]; 5] = [
        ["d0.example.com", "r0.example.com"],
        ["d1.example.com", "r1.example.com"],
        ["d2.example.com", "r2.example.com"],
        ["d3.example.com", "r3.example.com"],
        ["d4.example.com", "r4.example.com"],
    ];
    let modes = [Mode::Deferred, Mode::Required];
    let peers = Peers::start(|site| {
        let mut servers = Vec::new();
        for ((_, ca), names) in bundles.iter().zip(NAMES) {
            for (mode, name) in modes.into_iter().zip(names) {
                let client = Client {
                    ca: ca.clone(),
                    crl: None,
                    depth: None,
                    mode,
                };
                servers.push(Server::new(site, name, Some(client)));
            }
        }
        servers
    });
    let through = below.client("alice");
    let clients = [
        ("of-a", a.client("alice")),
        ("of-b", b.client("alice")),
        ("of-a-anew", anew.client("alice")),
        ("of-a-stranger", stranger.client("alice")),
        ("below-a", through.clone()),
        ("below-a-leaf-alone", through.leaf_alone()),
    ];
    let mut cells = Vec::new();
    for ((bundle, _), names) in bundles.iter().zip(NAMES) {
        for (mode, name) in modes.into_iter().zip(names) {
            for (case, pair) in &clients {
                for version in TlsVersion::ALL {
                    let version_name = version_name(version);
                    let id = format!("bundles/{}/{bundle}/{case}/{version_name}", mode.name());
                    let client = TlsClient::new(0).tls(version).cert(pair);
                    cells.push(cell(id, |peer| entry(&peers, peer, mode, &client, name)));
                }
            }
        }
    }
    compare("bundles", &cells);
}

#[test]
fn revocation_lists_are_checked_as_by_nginx() {
    let root = Ca::root("Client CA");
    let below = root.intermediate("Below");
    let [bad, good] = ["mallory", "alice"].map(|name| root.client(name));
    let [bad_below, good_below] = ["mallory", "alice"].map(|name| below.client(name));
    let ca = format!("{}{}", below.pem(), root.pem());
    let of_root = root.crl(&[&bad], Validity::Now);
    let of_below = below.crl(&[&bad_below], Validity::Now);
    let lists = [
        ("both", format!("{of_root}{of_below}")),
        ("root-only", of_root),
        ("below-only", of_below.clone()),
        (
            "authority-revoked",
            format!("{}{of_below}", root.crl_with_authority(&below)),
        ),
    ];
    const NAMES: [[&str; 2]; 4] = [
        ["d0.example.com", "r0.example.com"],
        ["d1.example.com", "r1.example.com"],
        ["d2.example.com", "r2.example.com"],
        ["d3.example.com", "r3.example.com"],
    ];
    let modes = [Mode::Deferred, Mode::Required];
    let peers = Peers::start(|site| {
        let mut servers = Vec::new();
        for ((_, crl), names) in lists.iter().zip(NAMES) {
            for (mode, name) in modes.into_iter().zip(names) {
                let client = Client {
                    ca: ca.clone(),
                    crl: Some(crl.clone()),
                    depth: None,
                    mode,
                };
                servers.push(Server::new(site, name, Some(client)));
            }
        }
        servers
    });
    let clients = [
        ("good", good),
        ("revoked", bad),
        ("good-below", good_below),
        ("revoked-below", bad_below),
        ("stranger", Ca::root("Other CA").client("alice")),
    ];
    let mut cells = Vec::new();
    for ((list, _), names) in lists.iter().zip(NAMES) {
        for (mode, name) in modes.into_iter().zip(names) {
            for (case, pair) in &clients {
                for version in TlsVersion::ALL {
                    let version_name = version_name(version);
                    let id = format!("revocation/{}/{list}/{case}/{version_name}", mode.name());
                    let client = TlsClient::new(0).tls(version).cert(pair);
                    cells.push(cell(id, |peer| entry(&peers, peer, mode, &client, name)));
                }
            }
        }
    }
    compare("revocation", &cells);
}

#[test]
fn keys_of_each_kind_are_served_as_by_nginx() {
    const RSA: &str = "RSA-PSS+SHA256:RSA+SHA256:RSA-PSS+SHA384:RSA+SHA384";
    const EC256: &str = "ECDSA+SHA256";
    const EC384: &str = "ECDSA+SHA384";
    const BOTH: &str = "ECDSA+SHA256:ECDSA+SHA384:RSA-PSS+SHA256:RSA+SHA256";
    let kinds = [
        ("rsa", "rsa.example.com", vec![KeyKind::Rsa]),
        ("p256", "p256.example.com", vec![KeyKind::P256]),
        ("p384", "p384.example.com", vec![KeyKind::P384]),
        (
            "p256-rsa",
            "p256-rsa.example.com",
            vec![KeyKind::P256, KeyKind::Rsa],
        ),
        (
            "rsa-p384",
            "rsa-p384.example.com",
            vec![KeyKind::Rsa, KeyKind::P384],
        ),
    ];
    let peers = Peers::start(|site| {
        let servers = kinds.iter().map(|(_, name, keys)| {
            let pair = |key: &KeyKind| {
                site.issue(&Leaf {
                    key: *key,
                    common_name: format!("{} of {name}", key.algorithm()),
                    ..Leaf::server(name)
                })
            };
            Server {
                names: vec![*name],
                pairs: keys.iter().map(pair).collect(),
                client: None,
            }
        });
        servers.collect()
    });
    let mut cells = Vec::new();
    for (kind, name, _) in &kinds {
        for (takes, list) in [
            ("rsa", RSA),
            ("p256", EC256),
            ("p384", EC384),
            ("both", BOTH),
        ] {
            for version in TlsVersion::ALL {
                let id = format!("keys/{kind}/taken-{takes}/{}", version_name(version));
                cells.push(cell(id, |peer| {
                    let client = client(&peers, peer, version).sni(name).signatures(list);
                    served_from(&client, name)
                }));
            }
        }
    }
    compare("keys", &cells);
}

/// The outcome, with the common name of the certificate that was shown.
fn served_from(client: &TlsClient, host: &str) -> String {
    match client.connect() {
        Err(_) => REFUSED.to_owned(),
        Ok(mut conn) => {
            let from = conn.peer_name();
            format!("{} from {from}", words(&conn.get(host, "/")))
        }
    }
}

#[test]
fn names_lead_where_they_lead_in_nginx() {
    let marked = |site: &Ca, name: &'static str| {
        let leaf = Leaf {
            common_name: name.to_owned(),
            ..Leaf::server(name)
        };
        Server {
            names: vec![name],
            pairs: vec![site.issue(&leaf)],
            client: None,
        }
    };
    let peers = Peers::start(|site| {
        let names = ["api.example.com", "*.example.com", "in.any.example.com"];
        names.map(|name| marked(site, name)).into()
    });
    let mut cells = Vec::new();
    for (case, sni, host) in [
        ("exact", Some("api.example.com"), "api.example.com"),
        ("wildcard", Some("web.example.com"), "web.example.com"),
        ("upper-case", Some("API.Example.COM"), "api.example.com"),
        (
            "upper-case-wildcard",
            Some("WEB.example.com"),
            "web.example.com",
        ),
        ("trailing-dot", Some("api.example.com."), "api.example.com"),
        (
            "trailing-dot-wildcard",
            Some("web.example.com."),
            "web.example.com",
        ),
        ("two-labels", Some("a.b.example.com"), "a.b.example.com"),
        (
            "two-labels-exact",
            Some("in.any.example.com"),
            "in.any.example.com",
        ),
        ("apex-of-wildcard", Some("example.com"), "example.com"),
        ("unknown", Some("api.example.org"), "api.example.org"),
        ("address", Some("127.0.0.1"), "127.0.0.1"),
        ("absent", None, "api.example.com"),
    ] {
        for version in TlsVersion::ALL {
            let id = format!("names/{case}/{}", version_name(version));
            cells.push(cell(id, |peer| {
                let mut client = client(&peers, peer, version);
                if let Some(sni) = sni {
                    client = client.sni(sni);
                }
                served_from(&client, host)
            }));
        }
    }
    compare("names", &cells);
}

#[test]
fn hosts_that_differ_from_the_server_name_are_answered_as_by_nginx() {
    let [ca, other] = ["Client CA", "Other CA"].map(Ca::root);
    let alice = ca.client("alice");
    let peers = Peers::start(|site| {
        let of = |ca: &Ca| Some(Client::of(ca, Mode::Required));
        vec![
            Server::new(site, "open.example.com", None),
            Server::new(site, "mtls.example.com", of(&ca)),
            Server::new(site, "twin.example.com", of(&ca)),
            Server::new(site, "other.example.com", of(&other)),
            Server::new(site, "*.any.example.com", of(&ca)),
        ]
    });
    let files = peers.write(&alice, "alice");
    let names = [
        ("open", "open.example.com"),
        ("mtls", "mtls.example.com"),
        ("twin", "twin.example.com"),
        ("a-of-wildcard", "a.any.example.com"),
        ("b-of-wildcard", "b.any.example.com"),
    ];
    let elsewhere = [
        ("other", "other.example.com"),
        ("unknown", "api.example.org"),
    ];
    let kind = |from: &str, to: &str| {
        let alike = ["mtls", "twin", "a-of-wildcard", "b-of-wildcard"];
        match from != to && alike.contains(&from) && alike.contains(&to) {
            true => "equal-policy",
            false => "any-policy",
        }
    };
    let connect = |peer, version, name: &str| {
        let client = client(&peers, peer, version).sni(name).cert(&alice);
        client.connect().unwrap()
    };
    let mut cells = Vec::new();
    for (from, sni) in names {
        for (to, host) in names.into_iter().chain(elsewhere) {
            for version in TlsVersion::ALL {
                let afresh = client(&peers, Peer::Nginx, version).sni(host).cert(&alice);
                let serves_afresh = words(&afresh.get(host, "/")) == "200";
                let end = format!("{from}-to-{to}/{}", version_name(version));
                let kind = kind(from, to);
                let first = |peer| words(&connect(peer, version, sni).get(host, "/"));
                let later = |peer| {
                    let mut conn = connect(peer, version, sni);
                    assert_eq!(words(&conn.get(sni, "/")), "200");
                    words(&conn.get(host, "/"))
                };
                let later_h2 = |peer| {
                    let client = client(&peers, peer, version).sni(sni).cert(&alice);
                    let mut conn = H2Conn::connect(&client).unwrap();
                    assert_eq!(words(&conn.get(sni, "/")), "200");
                    words(&conn.get(host, "/"))
                };
                for cell in [
                    cell(format!("hosts/{kind}/first/{end}"), first),
                    cell(format!("hosts/{kind}/later/{end}"), later),
                    cell(format!("hosts/{kind}/later-h2/{end}"), later_h2),
                ] {
                    cells.push(Cell {
                        serves_afresh,
                        ..cell
                    });
                }
            }
        }
    }
    for (from, sni) in names {
        for (to, host) in names.into_iter().chain(elsewhere) {
            let id = format!("hosts/{}/h2/{from}-to-{to}/TLSv1.3", kind(from, to));
            let ask = Ask {
                sni,
                version: TlsVersion::V13,
                pair: Some(&files),
            };
            let afresh = client(&peers, Peer::Nginx, TlsVersion::V13)
                .sni(host)
                .cert(&alice);
            cells.push(Cell {
                serves_afresh: words(&afresh.get(host, "/")) == "200",
                ..cell(id, |peer| probe::by_curl_for(&peers, peer, &ask, host))
            });
        }
    }
    compare("hosts", &cells);
}

#[test]
fn sessions_are_resumed_where_nginx_resumes_them() {
    let cells: Vec<Cell> = Sessions::ALL.into_iter().flat_map(resumptions).collect();
    compare("sessions", &cells);
}

/// One cell for each pair of names, version, and showing the certificate again or not.
fn resumptions(sessions: Sessions) -> Vec<Cell> {
    let [ca, other] = ["Client CA", "Other CA"].map(Ca::root);
    let alice = ca.client("alice");
    let peers = Peers::keeping(sessions, |site| {
        let of = |ca: &Ca| Some(Client::of(ca, Mode::Deferred));
        vec![
            Server::new(site, "open.example.com", None),
            Server::new(site, "wide.example.com", None),
            Server::new(site, "mtls.example.com", of(&ca)),
            Server::new(site, "twin.example.com", of(&ca)),
            Server::new(site, "other.example.com", of(&other)),
            Server::new(site, "*.any.example.com", of(&ca)),
        ]
    });
    let names = [
        ("open", "open.example.com"),
        ("wide", "wide.example.com"),
        ("mtls", "mtls.example.com"),
        ("twin", "twin.example.com"),
        ("other", "other.example.com"),
        ("a-of-wildcard", "a.any.example.com"),
        ("b-of-wildcard", "b.any.example.com"),
    ];
    let kind = |from: &str, to: &str, shows: &str| match (from, to, shows) {
        _ if from == to => "same-name",
        (_, "open" | "wide", _) => "open-name",
        (_, "other", "shown") => "other-ca",
        _ => "mtls-name",
    };
    let mut cells = Vec::new();
    for (from, first) in [names[0], names[2], names[5]] {
        for (to, second) in names {
            for version in TlsVersion::ALL {
                for (shows, pair) in [("shown", Some(&alice)), ("not-shown", None)] {
                    let (kind, version_name) = (kind(from, to, shows), version_name(version));
                    let way = sessions.name();
                    let id = format!("sessions/{kind}/{shows}/{version_name}/{way}/{from}-to-{to}");
                    let cell = cell(id, |peer| {
                        let client = client(&peers, peer, version);
                        let mut conn = client.clone().sni(first).cert(&alice).connect().unwrap();
                        assert_eq!(words(&conn.get(first, "/")), "200");
                        let mut again = client.sni(second).session(&conn.session());
                        if let Some(pair) = pair {
                            again = again.cert(pair);
                        }
                        let Ok(mut conn) = again.connect() else {
                            return REFUSED.to_owned();
                        };
                        let how = if conn.is_resumed() { "resumed" } else { "full" };
                        format!("{} {how}", words(&conn.get(second, "/")))
                    });
                    // A session that is resumed remembers who showed what when it was made.
                    let mut afresh = client(&peers, Peer::Nginx, version).sni(second);
                    if pair.is_some() || cell.ours.ends_with("resumed") {
                        afresh = afresh.cert(&alice);
                    }
                    cells.push(Cell {
                        serves_afresh: words(&afresh.get(second, "/")) == "200",
                        ..cell
                    });
                }
            }
        }
    }
    cells
}

#[test]
fn what_is_no_proper_tls_is_answered_as_by_nginx() {
    let peers = Peers::start(|site| vec![Server::new(site, "api.example.com", None)]);
    let mut cells = vec![cell("protocol/renegotiation/TLSv1.2".to_owned(), |peer| {
        probe::renegotiating(&peers, peer, "api.example.com")
    })];
    for (case, version) in [("http1.0", "--http1.0"), ("http1.1", "--http1.1")] {
        cells.push(cell(format!("protocol/plain/{case}"), |peer| {
            let port = peers.port(peer);
            let curl = Curl::new(&format!("http://api.example.com:{port}/"));
            let curl = curl.resolve("api.example.com", port).args(&[version]);
            let answer = curl.send();
            let title = answer.body.split("<title>").nth(1);
            let title = title.and_then(|rest| rest.split("</title>").next());
            title.unwrap_or("no page").to_owned()
        }));
    }
    compare("protocol", &cells);
}
