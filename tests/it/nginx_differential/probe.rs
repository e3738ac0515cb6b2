//! What clients see: one outcome in words for each way of asking, the same words for both peers.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;

use serde_json::{Value, json};

use super::peers::{Peer, Peers};
use crate::support::pki::PairFiles;
use crate::support::tls::{Answer, Ended, TlsClient};
use crate::support::{SOON, TlsVersion, program, run_to_end};

/// The outcome of a handshake or first request without an HTTP answer.
pub(super) const REFUSED: &str = "refused";

/// What a program is to ask for: `/` of `sni`, showing this pair.
pub(super) struct Ask<'a> {
    pub(super) sni: &'a str,
    pub(super) version: TlsVersion,
    pub(super) pair: Option<&'a PairFiles>,
}

pub(super) const fn version_name(version: TlsVersion) -> &'static str {
    match version {
        TlsVersion::V12 => "TLSv1.2",
        TlsVersion::V13 => "TLSv1.3",
    }
}

/// A client of this process for a peer.
pub(super) fn client(peers: &Peers, peer: Peer, version: TlsVersion) -> TlsClient {
    TlsClient::new(peers.port(peer)).tls(version)
}

/// An answer or an end in words: `200`, `400 The SSL certificate error`, `refused`.
pub(super) fn words(asked: &Result<Answer, Ended>) -> String {
    match asked {
        Ok(answer) => status_and_title(answer.status, &answer.body),
        Err(_) => REFUSED.to_owned(),
    }
}

/// The status, and what an error page says in its title.
fn status_and_title(status: u16, body: &str) -> String {
    let title = body
        .split_once("<title>")
        .and_then(|(_, rest)| rest.split_once("</title>"))
        .map_or("", |(title, _)| title.trim());
    let said = title.trim_start_matches(&status.to_string()).trim();
    format!("{status} {said}").trim().to_owned()
}

/// An answer of HTTP/1.1 as text, in words.
fn text_in_words(text: &str) -> String {
    let status = text
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.split(' ').next())
        .and_then(|status| status.parse().ok());
    status.map_or_else(
        || REFUSED.to_owned(),
        |status| status_and_title(status, text),
    )
}

/// Asks by Python's ssl, all in one process.
#[track_caller]
pub(super) fn by_python(peers: &Peers, peer: Peer, asks: &[Ask<'_>]) -> Vec<String> {
    let probes = asks.iter().map(|ask| {
        json!({
            "port": peers.port(peer), "sni": ask.sni, "version": version_name(ask.version),
            "cert": ask.pair.map(|pair| &pair.cert), "key": ask.pair.map(|pair| &pair.key),
        })
    });
    let probes: Value = probes.collect();
    let mut python = program("python3");
    python.args(["-c", include_str!("probe.py")]);
    let said = run_to_end(python, probes.to_string().as_bytes(), 6 * SOON);
    assert!(said.status.success(), "{said:?}");
    let answers: Vec<String> = serde_json::from_str(&said.stdout).unwrap();
    answers.iter().map(|answer| text_in_words(answer)).collect()
}

/// Asks by curl over HTTP/2.
#[track_caller]
pub(super) fn by_curl(peers: &Peers, peer: Peer, ask: &Ask<'_>) -> String {
    let (sni, port) = (ask.sni, peers.port(peer));
    by_curl_for(peers, peer, ask, &format!("{sni}:{port}"))
}

/// The same for another authority than the one it connects for.
#[track_caller]
pub(super) fn by_curl_for(peers: &Peers, peer: Peer, ask: &Ask<'_>, authority: &str) -> String {
    let (sni, port) = (ask.sni, peers.port(peer));
    let mut curl = program("curl");
    curl.args([
        "-q",
        "-ksS",
        "--noproxy",
        "*",
        "--max-time",
        "20",
        "--http2",
    ]);
    curl.args(["-w", "\n%{http_version} %{http_code}"]);
    curl.args(match ask.version {
        TlsVersion::V12 => &["--tlsv1.2", "--tls-max", "1.2"][..],
        TlsVersion::V13 => &["--tlsv1.3"],
    });
    curl.args(["--resolve", &format!("{sni}:{port}:127.0.0.1")]);
    curl.args(["-H", &format!("Host: {authority}")]);
    if let Some(pair) = ask.pair {
        curl.arg("--cert").arg(&pair.cert);
        curl.arg("--key").arg(&pair.key);
    }
    curl.arg(format!("https://{sni}:{port}/"));
    curl.env("OPENSSL_CONF", peers.weak_keys_allowed());
    let said = run_to_end(curl, b"", 3 * SOON);
    let (body, last) = said.stdout.rsplit_once('\n').unwrap();
    match last.split_once(' ').unwrap() {
        ("2", status) => status_and_title(status.parse().unwrap(), body),
        // 35: the handshake failed; 16, 55, 56, 92: it was refused after its end; 60: curl takes
        // the alert certificate_expired for a verdict of its own.
        _ if matches!(said.status.code(), Some(16 | 35 | 55 | 56 | 60 | 92)) => REFUSED.to_owned(),
        _ => panic!("curl: {said:?}"),
    }
}

/// Asks by `openssl s_client`.
#[track_caller]
pub(super) fn by_s_client(peers: &Peers, peer: Peer, ask: &Ask<'_>) -> String {
    let mut s_client = s_client(peers, peer, ask);
    s_client.args(["-quiet", "-ign_eof"]);
    let said = run_to_end(s_client, request(ask.sni).as_bytes(), 2 * SOON);
    let outcome = text_in_words(&said.stdout);
    let told = said.stderr.contains("SSL alert number") || outcome != REFUSED;
    assert!(told, "no answer and no alert: {said:?}");
    outcome
}

fn request(host: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

fn s_client(peers: &Peers, peer: Peer, ask: &Ask<'_>) -> std::process::Command {
    let mut s_client = program("openssl");
    s_client.args(["s_client", "-servername", ask.sni, "-connect"]);
    s_client.arg(format!("127.0.0.1:{}", peers.port(peer)));
    s_client.arg(match ask.version {
        TlsVersion::V12 => "-tls1_2",
        TlsVersion::V13 => "-tls1_3",
    });
    if let Some(pair) = ask.pair {
        s_client.arg("-cert").arg(&pair.cert);
        s_client.arg("-cert_chain").arg(&pair.cert);
        s_client.arg("-key").arg(&pair.key);
    }
    s_client.env("OPENSSL_CONF", peers.weak_keys_allowed());
    s_client
}

/// Asks for a renegotiation on TLS 1.2 and then for a page.
#[track_caller]
pub(super) fn renegotiating(peers: &Peers, peer: Peer, sni: &str) -> String {
    let ask = Ask {
        sni,
        version: TlsVersion::V12,
        pair: None,
    };
    let mut child = s_client(peers, peer, &ask)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let (lines, said) = mpsc::channel();
    let follow = |pipe: Box<dyn Read + Send>| {
        let lines = lines.clone();
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                drop(lines.send(line));
            }
        })
    };
    let readers = [
        follow(Box::new(child.stdout.take().unwrap())),
        follow(Box::new(child.stderr.take().unwrap())),
    ];
    drop(lines);
    let mut all = String::new();
    let mut await_line = |start: &str| loop {
        let line = said.recv_timeout(SOON).expect("s_client says more");
        all.push_str(&line);
        all.push('\n');
        if line.starts_with(start) {
            return;
        }
    };
    await_line("    Verify return code");
    stdin.write_all(b"R\n").unwrap();
    await_line("RENEGOTIATING");
    // One that was refused has ended.
    drop(stdin.write_all(request(sni).as_bytes()));
    let _ended = child.wait();
    for reader in readers {
        reader.join().unwrap();
    }
    all.extend(said.iter().map(|line| line + "\n"));
    let outcome = all.find("HTTP/1.1 ").map(|at| text_in_words(&all[at..]));
    outcome.unwrap_or_else(|| {
        assert!(all.contains("no renegotiation"), "{all}");
        "no renegotiation".to_owned()
    })
}

/// What each of `jobs` gives, a few at a time, in their order.
pub(super) fn side_by_side<J: Sync, T: Send>(jobs: &[J], run: impl Fn(&J) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(index) else {
                        break;
                    };
                    let outcome = run(job);
                    done.lock().unwrap().push((index, outcome));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}
