//! Resumption: a session brings a client back to where it was made, and nowhere else.

use std::collections::HashSet;
use std::io::Read;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::openssl_s_client;
use crate::support::gateway::Setup;
use crate::support::pki::{Ca, Leaf, Pair, Validity};
use crate::support::site::Site;
use crate::support::tls::{Ended, Session, TlsClient, TlsConn};
use crate::support::{SOON, TlsVersion, eventually, patiently, setting};

const NAME: &str = "api.example.com";

fn client_of(ca: &Ca) -> Value {
    json!({"client": {"ca": ca.pem()}})
}

/// Asks once and keeps the session.
#[track_caller]
fn session_of(client: &TlsClient, host: &str) -> Session {
    let mut conn = client.connect().unwrap();
    assert!(!conn.is_resumed());
    assert_eq!(conn.get(host, "/x").unwrap().status, 200);
    conn.session()
}

/// A connection that serves, and whether it was resumed.
#[track_caller]
fn served(client: &TlsClient, host: &str) -> (TlsConn, bool) {
    let mut conn = client.connect().unwrap();
    assert_eq!(conn.get(host, "/x").unwrap().status, 200);
    let is_resumed = conn.is_resumed();
    (conn, is_resumed)
}

/// A gateway whose listener keeps so many sessions.
#[track_caller]
fn site_keeping(sessions: &str) -> Site {
    Site::with(Setup::default().set("https.session_cache.size", sessions))
}

/// How the client was told that it has no certificate.
fn missing(version: TlsVersion) -> Ended {
    Ended::Alert(match version {
        TlsVersion::V12 => 40,
        TlsVersion::V13 => 116,
    })
}

#[test]
fn a_session_is_resumed_at_its_name_by_any_worker() {
    for site in Site::each_way() {
        let ca = Ca::root("Client CA");
        site.put_ssl("open", "open.example.com", &json!({}));
        site.put_ssl("mtls", NAME, &client_of(&ca));
        let alice = ca.client("alice");
        for version in TlsVersion::ALL {
            for (name, client) in [
                ("open.example.com", site.client("open.example.com")),
                (NAME, site.client(NAME).cert(&alice)),
            ] {
                let client = client.tls(version);
                let session = session_of(&client, name);
                for _ in 0..6 {
                    let (_, is_resumed) = served(&client.clone().session(&session), name);
                    assert!(is_resumed, "{name} by {version:?}");
                }
            }
            // The session remembers who the client is, shown again or not.
            let session = session_of(&site.client(NAME).tls(version).cert(&alice), NAME);
            let (_, is_resumed) = served(&site.client(NAME).tls(version).session(&session), NAME);
            assert!(is_resumed);
            let version = match version {
                TlsVersion::V12 => "TLSv1.2",
                TlsVersion::V13 => "TLSv1.3",
            };
            for resumed in [false, true] {
                site.gateway.expect_record("a request of alice", |record| {
                    record["resumed"] == resumed
                        && record["tls_version"] == version
                        && record["ssl_id"] == "mtls"
                        && record["client_subject"] == "CN=alice"
                });
            }
        }
        let count = |resumed: bool| {
            site.metric(&format!(
            "portcullis_handshakes_total{{result=\"ok\",resumed=\"{resumed}\",side=\"downstream\"}}"
        ))
        };
        assert_eq!((count(false), count(true)), (6, 26));
    }
}

#[test]
fn client_that_keeps_coming_back_is_resumed_each_time_by_every_worker() {
    const RETURNS: usize = 200;
    for site in Site::each_way() {
        let ca = Ca::root("Client CA");
        site.put_ssl("mtls", NAME, &client_of(&ca));
        for version in TlsVersion::ALL {
            let client = site.client(NAME).tls(version).cert(&ca.client("alice"));
            let mut session = session_of(&client, NAME);
            let mut resumed = 0;
            for _ in 0..RETURNS {
                let (conn, is_resumed) = served(&client.clone().session(&session), NAME);
                resumed += usize::from(is_resumed);
                session = conn.newest_session().unwrap_or(session);
            }
            assert!(
                resumed * 100 >= RETURNS * 99,
                "{version:?}: {resumed} of {RETURNS}"
            );
            // A request's id begins with that of the process, which a worker's number follows.
            let workers = || -> HashSet<String> {
                let records = site.gateway.records();
                let resumed = records.iter().filter(|record| record["resumed"] == true);
                let ids = resumed.filter_map(|record| record["request_id"].as_str());
                ids.filter_map(|id| id.get(12..14).map(str::to_owned))
                    .collect()
            };
            eventually(SOON, "both workers resume", || {
                (workers().len() == 2).then_some(())
            });
        }
    }
}

/// Its ticket waits for the answer to a request, for a moment.
#[test]
fn client_that_asks_nothing_gets_its_session_all_the_same() {
    for site in Site::each_way() {
        site.put_ssl("s", NAME, &json!({}));
        let client = site.client(NAME).tls(TlsVersion::V13);
        let mut conn = client.connect().unwrap();
        let patience = Some(Duration::from_millis(20));
        conn.tcp().set_read_timeout(patience).unwrap();
        let session = eventually(SOON, "a session", || {
            conn.bytes().read(&mut [0]).unwrap_err();
            conn.newest_session()
        });
        assert!(served(&client.session(&session), NAME).1);
    }
}

#[test]
fn session_that_is_pushed_out_of_the_cache_leads_to_a_full_handshake() {
    let site = site_keeping("8");
    let ca = Ca::root("Client CA");
    site.put_ssl("open", "open.example.com", &json!({}));
    site.put_ssl("mtls", NAME, &client_of(&ca));
    for version in TlsVersion::ALL {
        let alice = site.client(NAME).tls(version).cert(&ca.client("alice"));
        let nobody = site.client(NAME).tls(version);
        let session = session_of(&alice, NAME);
        assert!(served(&nobody.clone().session(&session), NAME).1);
        let others = site.client("open.example.com").tls(version);
        let made: Vec<_> = (0..10)
            .map(|_| session_of(&others, "open.example.com"))
            .collect();
        let newest = made.last().expect("sessions");
        let refused = nobody.session(&session).get(NAME, "/x").unwrap_err();
        assert_eq!(refused, missing(version));
        assert!(!served(&alice.session(&session), NAME).1, "{version:?}");
        // What is not the oldest is kept.
        assert!(served(&others.session(newest), "open.example.com").1);
    }
}

#[test]
fn gateway_that_keeps_no_sessions_resumes_none_and_serves() {
    let site = site_keeping("0");
    site.put_ssl("open", NAME, &json!({}));
    for version in TlsVersion::ALL {
        let client = site.client(NAME).tls(version);
        let mut conn = client.connect().unwrap();
        assert_eq!(conn.get(NAME, "/x").unwrap().status, 200);
        let Some(session) = conn.newest_session() else {
            continue;
        };
        assert!(!served(&client.session(&session), NAME).1, "{version:?}");
    }
}

#[test]
fn sessions_do_not_outlive_the_process() {
    for site in Site::each_way() {
        let ca = Ca::root("Client CA");
        site.put_ssl("open", "open.example.com", &json!({}));
        site.put_ssl("mtls", NAME, &client_of(&ca));
        let alice = ca.client("alice");
        let kept = TlsVersion::ALL.map(|version| {
            let open = site.client("open.example.com").tls(version);
            let mtls = site.client(NAME).tls(version).cert(&alice);
            let open = session_of(&open, "open.example.com");
            (version, open, session_of(&mtls, NAME))
        });
        let site = site.restart(|_| ());
        for (version, open, mtls) in kept {
            let client = site.client("open.example.com").tls(version).session(&open);
            assert!(!served(&client, "open.example.com").1, "{version:?}");
            let nobody = site.client(NAME).tls(version).session(&mtls);
            assert_eq!(nobody.get(NAME, "/x").unwrap_err(), missing(version));
            let client = nobody.cert(&alice);
            let session = session_of(&client, NAME);
            // The ones made since are good.
            assert!(served(&client.session(&session), NAME).1, "{version:?}");
        }
    }
}

#[test]
fn s_client_resumes_from_its_session_file() {
    for site in Site::each_way() {
        let ca = Ca::root("Client CA");
        site.put_ssl("mtls", NAME, &client_of(&ca));
        let alice = site.write(&ca.client("alice"), "alice");
        let kept = site.folder.path().join("session.pem");
        let kept = kept.to_str().unwrap();
        for flag in ["-tls1_2", "-tls1_3"] {
            let ask = |session: &str| {
                let (cert, key) = (alice.cert.to_str().unwrap(), alice.key.to_str().unwrap());
                let args = [
                    flag,
                    "-servername",
                    NAME,
                    "-cert",
                    cert,
                    "-key",
                    key,
                    session,
                    kept,
                ];
                let request =
                    format!("GET /x HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n");
                let said = openssl_s_client(site.gateway.https_port(), &args, &request).stdout;
                assert!(said.contains("HTTP/1.1 200 OK"), "{said}");
                said
            };
            assert!(ask("-sess_out").contains("\nNew, TLSv1."));
            assert!(ask("-sess_in").contains("\nReused, TLSv1."));
        }
    }
}

#[test]
fn a_session_of_an_open_name_is_no_way_into_a_name_with_client_certificates() {
    for site in Site::each_way() {
        let ca = Ca::root("Client CA");
        site.put_ssl("open", "open.example.com", &json!({}));
        site.put_ssl("mtls", NAME, &client_of(&ca));
        let alice = ca.client("alice");
        for version in TlsVersion::ALL {
            let open = site.client("open.example.com").tls(version);
            let session = session_of(&open, "open.example.com");
            let mtls = site.client(NAME).tls(version).session(&session);
            assert_eq!(mtls.get(NAME, "/x").unwrap_err(), missing(version));
            let (_, is_resumed) = served(&mtls.cert(&alice), NAME);
            assert!(!is_resumed);
            // Where it was made it is still good.
            let (_, is_resumed) = served(&open.session(&session), "open.example.com");
            assert!(is_resumed);
        }
    }
}

#[test]
fn a_session_is_not_resumed_at_another_ssl_whatever_its_policy() {
    for site in Site::each_way() {
        let ca = Ca::root("Client CA");
        site.put_ssl("a", "a.example.com", &client_of(&ca));
        site.put_ssl("b", "b.example.com", &client_of(&ca));
        site.put_ssl("c", "c.example.com", &client_of(&Ca::root("Other CA")));
        let alice = ca.client("alice");
        for version in TlsVersion::ALL {
            let at_a = site.client("a.example.com").tls(version).cert(&alice);
            let session = session_of(&at_a, "a.example.com");
            let at_b = site.client("b.example.com").tls(version).session(&session);
            assert_eq!(
                at_b.get("b.example.com", "/x").unwrap_err(),
                missing(version)
            );
            let (_, is_resumed) = served(&at_b.cert(&alice), "b.example.com");
            assert!(!is_resumed);
            let at_c = site.client("c.example.com").tls(version).session(&session);
            assert_eq!(
                at_c.get("c.example.com", "/x").unwrap_err(),
                missing(version)
            );
            at_c.cert(&alice).get("c.example.com", "/x").unwrap_err();
        }
    }
}

#[test]
fn a_session_is_not_resumed_at_another_name_of_its_ssl() {
    for site in Site::each_way() {
        let ca = Ca::root("Client CA");
        site.put_ssl("open", "*.open.example.com", &json!({}));
        site.put_ssl("mtls", "*.example.com", &client_of(&ca));
        let alice = ca.client("alice");
        for version in TlsVersion::ALL {
            for (name, other) in [
                ("a.open.example.com", "b.open.example.com"),
                ("a.example.com", "b.example.com"),
            ] {
                let client = site.client(name).tls(version).cert(&alice);
                let session = session_of(&client, name);
                let there = site.client(other).tls(version).session(&session);
                assert!(!served(&there.cert(&alice), other).1, "{version:?}");
                // However it is spelt, the name is the same.
                for spelling in [name.to_owned(), name.to_uppercase(), format!("{name}.")] {
                    let again = site.client(&spelling).tls(version).session(&session);
                    assert!(served(&again, name).1, "{version:?} {spelling}");
                }
            }
            let client = site.client("a.example.com").tls(version).cert(&alice);
            let session = session_of(&client, "a.example.com");
            let nobody = site.client("b.example.com").tls(version).session(&session);
            let outcome = nobody.get("b.example.com", "/x");
            assert_eq!(outcome.unwrap_err(), missing(version));
        }
    }
}

#[test]
fn a_name_that_begins_to_ask_for_certificates_forgets_its_open_sessions() {
    for site in Site::each_way() {
        let ca = Ca::root("Client CA");
        let alice = ca.client("alice");
        for version in TlsVersion::ALL {
            site.put_ssl("web", NAME, &json!({}));
            let client = site.client(NAME).tls(version);
            let client = client.clone().session(&session_of(&client, NAME));
            assert!(served(&client, NAME).1);
            site.put_ssl("web", NAME, &client_of(&ca));
            assert_eq!(client.get(NAME, "/x").unwrap_err(), missing(version));
            let (_, is_resumed) = served(&client.cert(&alice), NAME);
            assert!(!is_resumed);
        }
    }
}

#[test]
fn a_change_of_the_client_policy_ends_its_sessions() {
    for site in Site::each_way() {
        let (ca, next) = (Ca::root("Client CA"), Ca::root("Next CA"));
        let both = format!("{}{}", ca.pem(), next.pem());
        let alice = ca.client("alice");
        for version in TlsVersion::ALL {
            let client = site.client(NAME).tls(version).cert(&alice);
            for (changed, is_good) in [
                (json!({"ca": both}), true),
                (json!({"ca": ca.pem(), "depth": 2}), true),
                (json!({"ca": ca.pem(), "mode": "optional"}), true),
                (json!({"ca": ca.pem(), "mode": "deferred"}), true),
                (json!({"ca": next.pem()}), false),
            ] {
                site.put_ssl("web", NAME, &client_of(&ca));
                let session = session_of(&client, NAME);
                let again = client.clone().session(&session);
                assert!(served(&again, NAME).1);
                site.put_ssl("web", NAME, &json!({"client": changed}));
                if is_good {
                    assert!(!served(&again, NAME).1, "{changed}");
                } else {
                    assert_eq!(again.get(NAME, "/x").unwrap_err(), Ended::Alert(48));
                    let nobody = site.client(NAME).tls(version).session(&session);
                    assert_eq!(nobody.get(NAME, "/x").unwrap_err(), missing(version));
                    let bob = nobody.cert(&next.client("bob"));
                    assert!(!served(&bob, NAME).1);
                }
            }
        }
    }
}

#[test]
fn a_new_server_certificate_leaves_sessions_as_they_are() {
    for site in Site::each_way() {
        let ca = Ca::root("Client CA");
        let alice = ca.client("alice");
        for version in TlsVersion::ALL {
            site.put_ssl("web", NAME, &client_of(&ca));
            let client = site.client(NAME).tls(version).cert(&alice);
            let client = client.clone().session(&session_of(&client, NAME));
            site.put_ssl("web", NAME, &client_of(&ca));
            assert!(served(&client, NAME).1);
        }
    }
}

#[test]
fn a_certificate_that_expires_between_two_sessions_is_refused_at_the_second() {
    patiently(|limit| {
        let lasts = limit.mul_f64(2.5);
        for site in Site::each_way() {
            let ca = Ca::root("Client CA");
            site.put_ssl("mtls", NAME, &client_of(&ca));
            let brief = |name: &str| -> Pair {
                ca.issue(&Leaf {
                    validity: Validity::For(lasts),
                    ..Leaf::client(name)
                })
            };
            let clients = TlsVersion::ALL.map(|version| {
                let name = format!("{version:?}");
                let client = site.client(NAME).tls(version).cert(&brief(&name));
                let session = session_of(&client, NAME);
                let client = client.session(&session);
                assert!(served(&client, NAME).1);
                (name, client)
            });
            for (name, client) in clients {
                eventually(lasts + SOON, "the certificate expires", || {
                    client.get(NAME, "/x").err().map(drop)
                });
                let record = site
                    .gateway
                    .expect_record("an expired certificate", |record| {
                        record["reason"] == "client_cert_expired"
                            && record["client_subject"] == format!("CN={name}")
                    });
                assert_eq!(record["kind"], "handshake");
                assert_eq!(record["detail"], "found after the handshake", "{record}");
                assert_eq!(record["ssl_id"], "mtls");
            }
        }
    });
}

#[test]
fn an_authority_that_expires_between_two_sessions_takes_its_clients_along() {
    patiently(|limit| {
        let lasts = limit.mul_f64(2.5);
        for site in Site::each_way() {
            let ca = Ca::root("Client CA");
            site.put_ssl("mtls", NAME, &client_of(&ca));
            let brief = ca.dated_intermediate("Below", Validity::For(lasts));
            let lasting = ca.intermediate("Below");
            // Of each the session alone comes back, with what the client sent when it was made.
            let returning = |version, pair: &Pair| {
                let client = site.client(NAME).tls(version);
                let session = session_of(&client.clone().cert(pair), NAME);
                client.session(&session)
            };
            let clients = TlsVersion::ALL.map(|version| {
                let ended = returning(version, &brief.client("mallory"));
                assert!(served(&ended, NAME).1);
                (ended, returning(version, &lasting.client("alice")))
            });
            for (ended, kept) in clients {
                eventually(lasts + SOON, "the authority expires", || {
                    ended.get(NAME, "/x").err().map(drop)
                });
                assert!(served(&kept, NAME).1);
            }
            let record = site.gateway.expect_record("an expired chain", |record| {
                record["client_subject"] == "CN=mallory" && record["kind"] == "handshake"
            });
            assert_eq!(record["detail"], "found after the handshake", "{record}");
        }
    });
}

#[test]
fn a_connection_that_breaks_off_leaves_its_session_resumable() {
    for site in Site::each_way() {
        let ca = Ca::root("Client CA");
        site.put_ssl("mtls", NAME, &client_of(&ca));
        let alice = ca.client("alice");
        for version in TlsVersion::ALL {
            let client = site.client(NAME).tls(version).cert(&alice);
            let (conn, _) = served(&client, NAME);
            let session = conn.session();
            conn.vanish();
            site.wait_until_empty();
            let client = client.session(&session);
            let (mut conn, is_resumed) = served(&client, NAME);
            assert!(is_resumed, "{version:?}");
            // Once more, in the middle of a request.
            conn.send("POST /x HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 9\r\n\r\nhalf")
                .unwrap();
            conn.vanish();
            site.wait_until_empty();
            assert!(served(&client, NAME).1, "{version:?}");
        }
    }
}

#[test]
fn a_connection_that_the_gateway_gives_up_leaves_its_session_resumable() {
    patiently(|limit| {
        let setup = || Setup::default().set("limits.header_timeout", &setting(limit));
        for site in Site::each_way_with(setup) {
            let ca = Ca::root("Client CA");
            site.put_ssl("mtls", NAME, &client_of(&ca));
            let alice = ca.client("alice");
            for version in TlsVersion::ALL {
                let client = site.client(NAME).tls(version).cert(&alice);
                let (mut conn, _) = served(&client, NAME);
                let session = conn.session();
                conn.send("GET /x HTTP/1.1\r\nHost: api.exa").unwrap();
                conn.expect_end();
                site.wait_until_empty();
                assert!(served(&client.session(&session), NAME).1, "{version:?}");
            }
            site.gateway
                .expect_record("a client that is too slow", |record| {
                    record["reason"] == "client_timeout"
                });
        }
    });
}

/// A gateway whose tickets are under keys of this secret, with the data of another one.
#[track_caller]
fn sharing(secret: &str) -> Setup {
    Setup::default()
        .set("https.session_tickets", "on")
        .set("https.session_ticket_secret", "$env://TICKET_SECRET")
        .env("TICKET_SECRET", secret)
}

#[test]
fn gateways_with_one_secret_resume_each_others_sessions_under_the_same_policy() {
    let secret = "a secret of more than 32 characters";
    let (ca, next) = (Ca::root("Client CA"), Ca::root("Next CA"));
    let both = format!("{}{}", ca.pem(), next.pem());
    let alice = ca.client("alice");
    let [here, there, stranger] = [secret, secret, "another secret, of 32 characters"]
        .map(|secret| Site::with(sharing(secret)));
    for version in TlsVersion::ALL {
        let mut session = None;
        for (site, client, is_resumed) in [
            (&here, json!({"ca": ca.pem()}), false),
            (&here, json!({"ca": ca.pem()}), true),
            (&there, json!({"ca": ca.pem()}), true),
            (&stranger, json!({"ca": ca.pem()}), false),
            (&there, json!({"ca": both}), false),
            (
                &there,
                json!({"ca": ca.pem(), "crl": ca.crl(&[], Validity::Now)}),
                false,
            ),
        ] {
            site.put_ssl("mtls", NAME, &json!({"client": client}));
            let mut visitor = site.client(NAME).tls(version).cert(&alice);
            if let Some(session) = &session {
                // Who the client is comes out of the ticket, or it must say.
                let nobody = site.client(NAME).tls(version).session(session);
                let outcome = nobody.get(NAME, "/x").map(|answer| answer.status);
                let expected = if is_resumed {
                    Ok(200)
                } else {
                    Err(missing(version))
                };
                assert_eq!(outcome, expected, "{client}");
                visitor = visitor.session(session);
            }
            let (conn, was_resumed) = served(&visitor, NAME);
            assert_eq!(was_resumed, is_resumed, "{version:?} {client}");
            session = session.or_else(|| Some(conn.session()));
        }
    }
    // It outlives the process, as the secret does.
    let sessions = TlsVersion::ALL.map(|version| {
        let client = here.client(NAME).tls(version).cert(&alice);
        (version, session_of(&client, NAME))
    });
    let here = here.restart(|_| ());
    for (version, session) in sessions {
        let client = here.client(NAME).tls(version).session(&session);
        assert!(served(&client, NAME).1, "{version:?}");
    }
}

#[test]
fn keys_of_tickets_change_in_time_and_no_client_notices() {
    let setup = Setup::default()
        .set("https.session_tickets", "on")
        .set("https.session_cache.timeout", "4s");
    let site = Site::with(setup);
    let ca = Ca::root("Client CA");
    site.put_ssl("mtls", NAME, &client_of(&ca));
    let changes = || site.metric("portcullis_session_ticket_keys_total");
    let alice = ca.client("alice");
    let [mut old, mut new] = TlsVersion::ALL.map(|version| {
        let client = site.client(NAME).tls(version).cert(&alice);
        let session = session_of(&client, NAME);
        client.session(&session)
    });
    let (first, since) = ([old.clone(), new.clone()], changes());
    let mut anew = 0;
    eventually(2 * SOON, "the key changes twice", || {
        // With TLS 1.3 each visit brings the next ticket, with TLS 1.2 a key that changed.
        for (client, may_end) in [(&mut old, true), (&mut new, false)] {
            let (conn, is_resumed) = served(client, NAME);
            assert!(is_resumed || may_end);
            anew += usize::from(!is_resumed);
            if let Some(newest) = conn.newest_session() {
                *client = client.clone().session(&newest);
            }
        }
        (changes() >= since + 2).then_some(())
    });
    // A session of TLS 1.2 lives no longer for being used.
    assert!(anew <= 3, "{anew}");
    for client in first {
        assert!(!served(&client, NAME).1, "a ticket of long ago");
    }
}

#[test]
fn client_without_tickets_is_resumed_from_the_cache_all_the_same() {
    for site in Site::each_way() {
        site.put_ssl("web", NAME, &json!({}));
        for version in TlsVersion::ALL {
            let client = site.client(NAME).tls(version).without_tickets();
            let client = client.clone().session(&session_of(&client, NAME));
            assert!(served(&client, NAME).1, "{version:?}");
        }
    }
}

#[test]
fn resumed_connection_is_judged_anew_by_all_that_its_client_once_sent() {
    for site in Site::each_way() {
        let (root, next) = (Ca::root("Client CA"), Ca::root("Next CA"));
        let alice = root.intermediate("Below").client("alice");
        for version in TlsVersion::ALL {
            site.put_ssl("mtls", NAME, &client_of(&root));
            let client = site.client(NAME).tls(version).cert(&alice);
            let session = session_of(&client, NAME);
            let returning = site.client(NAME).tls(version).session(&session);
            let (mut conn, is_resumed) = served(&returning, NAME);
            assert!(is_resumed);
            // Judged under another policy, its chain is complete.
            let both = json!({"client": {"ca": format!("{}{}", root.pem(), next.pem())}});
            site.put_ssl("mtls", NAME, &both);
            assert_eq!(conn.get(NAME, "/x").unwrap().status, 200, "{version:?}");
            // And it is judged.
            site.put_ssl("mtls", NAME, &client_of(&next));
            conn.expect_end();
        }
    }
}
