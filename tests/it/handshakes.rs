//! What a stranger's handshakes may cost: they end in time, keep nobody out, and are not repeated
//! for ever on one connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use serde_json::{Value, json};

use crate::support::gateway::Setup;
use crate::support::memory::{MIB, peak, resident};
use crate::support::pki::Ca;
use crate::support::site::Site;
use crate::support::tls::{PlainConn, open};
use crate::support::{SOON, TlsVersion, eventually, patiently, program, setting};

const NAME: &str = "api.example.com";
/// KeyUpdates that a client may send within a minute.
const KEY_UPDATES: usize = 32;
/// The beginning of a record that carries a ClientHello of 512 bytes (RFC 8446 §5.1, §4).
const HALF_A_HELLO: [u8; 9] = [0x16, 3, 1, 2, 4, 1, 0, 2, 0];

#[test]
fn client_that_does_not_finish_its_handshake_is_given_up_in_time() {
    patiently(|limit| {
        let site = Site::with(Setup::default().set("https.handshake_timeout", &setting(limit)));
        site.put_ssl("web", NAME, &json!({}));
        let count = || site.failures("handshake_timeout");
        let expect_one_since = |before: u64| {
            eventually(SOON, "it is given up", || {
                (count() == before + 1).then_some(())
            });
        };
        for sent in [&[][..], &HALF_A_HELLO] {
            let before = count();
            let mut silent = open(site.gateway.https_port());
            silent.write_all(sent).unwrap();
            expect_one_since(before);
            assert_eq!(silent.read(&mut [0; 64]).unwrap_or(0), 0, "{sent:?}");
        }
        for version in TlsVersion::ALL {
            let before = count();
            let begun = site.client(NAME).tls(version).begin();
            expect_one_since(before);
            drop(begun);
            // Whoever goes on is served, however long the connection then lasts.
            let mut conn = site.client(NAME).tls(version).connect().unwrap();
            for _ in 0..2 {
                assert_eq!(conn.get(NAME, "/x").unwrap().status, 200);
            }
        }
        let record = site
            .gateway
            .expect_record("a handshake left half", |record| {
                record["reason"] == "handshake_timeout"
            });
        assert_eq!(
            (&record["kind"], &record["blame"]),
            (&json!("handshake"), &json!("client"))
        );
    });
}

#[test]
fn memory_of_many_handshakes_at_once_is_given_back_while_the_clients_stay() {
    // Each has buffers of 34 KiB until it is idle, and what it keeps lies between them.
    const CLIENTS: usize = 640;
    let site = Site::with(Setup::default().set("https.handshake_timeout", "1m"));
    site.put_ssl("web", NAME, &json!({}));
    let client = site.client(NAME);
    let begun: Vec<_> = (0..CLIENTS).map(|_| client.begin()).collect();
    let mut conns: Vec<_> = begun.into_iter().map(|one| one.finish().unwrap()).collect();
    for conn in &mut conns {
        assert_eq!(conn.get(NAME, "/x").unwrap().status, 200);
    }
    eventually(SOON, "what they took at once is given back", || {
        (resident(&site.gateway) + 8 * MIB < peak(&site.gateway)).then_some(())
    });
    for conn in &mut conns {
        assert_eq!(conn.get(NAME, "/x").unwrap().status, 200);
    }
}

#[test]
fn clients_that_stop_in_their_handshakes_keep_nobody_out() {
    // More of them than there are places, for each worker.
    const STUCK: usize = 64;
    let setup = Setup::default().set("limits.handshakes", "1");
    let site = Site::with(setup.set("https.handshake_timeout", "1m"));
    site.put_ssl("web", NAME, &json!({}));
    for version in TlsVersion::ALL {
        let stuck: Vec<_> = (0..STUCK)
            .map(|_| site.client(NAME).tls(version).begin())
            .collect();
        let silent: Vec<_> = (0..STUCK)
            .map(|_| {
                let mut conn = open(site.gateway.https_port());
                conn.write_all(&HALF_A_HELLO).unwrap();
                conn
            })
            .collect();
        eventually(SOON, "all of them are waited for", || {
            let waiting = site.metric("portcullis_handshakes_in_flight");
            (waiting >= 2 * u64::try_from(STUCK).unwrap()).then_some(())
        });
        for _ in 0..8 {
            let served = site.client(NAME).tls(version).get(NAME, "/x").unwrap();
            assert_eq!(served.status, 200);
        }
        // They go on where they stopped.
        for begun in stuck {
            let mut conn = begun.finish().unwrap();
            assert_eq!(conn.get(NAME, "/x").unwrap().status, 200);
        }
        drop(silent);
    }
}

#[test]
fn client_that_does_not_speak_tls_starts_no_handshake() {
    let site = Site::start();
    site.put_ssl("web", NAME, &json!({}));
    let handshakes = || {
        let full =
            "portcullis_handshakes_total{result=\"ok\",resumed=\"false\",side=\"downstream\"}";
        (
            site.metric(full),
            site.metric("portcullis_tls_context_builds_total"),
        )
    };
    let before = handshakes();
    for greeting in [
        "GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
        "\r\n\r\n",
        "SSH-2.0-x\r\n",
    ] {
        let answer = PlainConn::open(site.gateway.https_port()).exchange(greeting.as_bytes());
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(
            answer.contains("The plain HTTP request was sent to HTTPS port"),
            "{answer}"
        );
    }
    site.gateway.expect_record("plain HTTP", |record| {
        record["reason"] == "client_plaintext_on_tls"
    });
    assert_eq!(handshakes(), before);
    assert_eq!(site.client(NAME).get(NAME, "/x").unwrap().status, 200);
    assert_eq!(handshakes().0, before.0 + 1);
}

/// `openssl s_client`, whose letters make it send KeyUpdates.
struct SClient {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl SClient {
    #[track_caller]
    fn start(site: &Site) -> Self {
        let mut child = program("openssl")
            .args([
                "s_client",
                "-tls1_3",
                "-quiet",
                "-no_ign_eof",
                "-servername",
                NAME,
                "-connect",
            ])
            .arg(format!("127.0.0.1:{}", site.gateway.https_port()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("openssl can be started");
        let (tell, lines) = mpsc::channel();
        let both: [Box<dyn Read + Send>; 2] = [
            Box::new(child.stdout.take().expect("stdout is piped")),
            Box::new(child.stderr.take().expect("stderr is piped")),
        ];
        for output in both {
            let tell = tell.clone();
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    drop(tell.send(line));
                }
            });
        }
        let stdin = child.stdin.take().expect("stdin is piped");
        Self {
            child,
            stdin,
            lines,
        }
    }

    /// Types a text, and waits for a line of this beginning; false when the connection is over.
    #[track_caller]
    fn type_in(&mut self, text: &str, until: &str) -> bool {
        if self.stdin.write_all(text.as_bytes()).is_err() {
            return false;
        }
        loop {
            match self.lines.recv_timeout(SOON) {
                Ok(line) if line.starts_with(until) => return true,
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return false,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("no {until:?} within {SOON:?}"),
            }
        }
    }
}

impl Drop for SClient {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn client_that_has_keys_changed_again_and_again_is_cut_off() {
    let site = Site::start();
    let ca = Ca::root("Client CA");
    site.put_ssl(
        "web",
        NAME,
        &json!({"client": {"ca": ca.pem(), "mode": "optional"}}),
    );
    let mut client = SClient::start(&site);
    // With each of the two KeyUpdates, one of which asks for ours.
    let request = format!("GET /x HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
    assert!(client.type_in(&request, "HTTP/1.1 200"));
    for count in 0..KEY_UPDATES {
        let letter = if count % 2 == 0 { "K\n" } else { "k\n" };
        assert!(client.type_in(letter, "KEYUPDATE"), "{count}");
    }
    assert!(client.type_in(&request, "HTTP/1.1 200"));
    let flood = |record: &Value| record["reason"] == "client_key_update_flood";
    assert!(!site.gateway.records().iter().any(flood));
    let more = (0..KEY_UPDATES).all(|_| client.type_in("K\n", "KEYUPDATE"));
    assert!(!(more && client.type_in(&request, "HTTP/1.1 200")));
    let record = site.gateway.expect_record("a flood of KeyUpdates", flood);
    assert_eq!(
        (&record["blame"], &record["sni"]),
        (&json!("client"), &json!(NAME))
    );
    // The others are served.
    let served = site.client(NAME).tls(TlsVersion::V13).get(NAME, "/x");
    assert_eq!(served.unwrap().status, 200);
}
