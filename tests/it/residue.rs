//! What a gateway's memory holds of secrets that went through it: nothing, once the work is done; and
//! whether it can be swapped out.
//!
//! It is read as a debugger would read it. A process that is not dumpable shows its memory to root
//! alone, so that for everybody else there is nothing to search: that is checked in its place.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;

use serde_json::json;

use crate::support::bao::Bao;
use crate::support::client::shown_serial;
use crate::support::gateway::{Gateway, Setup, field};
use crate::support::pki::{Ca, Pair};
use crate::support::{SOON, TlsVersion, eventually};

const NAME: &str = "api.example.com";

/// How often each of these is in what a process may write to; `None`: nobody but root may look.
fn count(gateway: &Gateway, texts: &[&str]) -> Option<Vec<usize>> {
    let at = |name: &str| format!("/proc/{}/{name}", gateway.process_id());
    let (maps, memory) = match (fs::read_to_string(at("maps")), File::open(at("mem"))) {
        (Ok(maps), Ok(memory)) => (maps, memory),
        (maps, memory) => {
            let denied = [maps.err(), memory.err()].into_iter().flatten();
            let mut denied = denied.map(|error| error.kind());
            assert!(denied.all(|kind| kind == ErrorKind::PermissionDenied));
            return None;
        }
    };
    let mut counts = vec![0; texts.len()];
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        if !rights.starts_with("rw") {
            continue;
        }
        let (first, end) = range.split_once('-').unwrap();
        let [first, end] = [first, end].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut bytes = vec![0; (end - first) as usize];
        // A mapping that is gone meanwhile, or a guard page, has nothing.
        if memory.read_exact_at(&mut bytes, first).is_err() {
            continue;
        }
        for (count, text) in counts.iter_mut().zip(texts) {
            *count += occurrences(&bytes, text.as_bytes());
        }
    }
    Some(counts)
}

fn occurrences(bytes: &[u8], text: &[u8]) -> usize {
    let (first, rest) = text.split_first().unwrap();
    let starts = bytes.iter().enumerate().filter(|(_, byte)| *byte == first);
    starts
        .filter(|(at, _)| bytes[at + 1..].starts_with(rest))
        .count()
}

/// Waits until none of these is there, while `there` is.
#[track_caller]
fn expect_gone(gateway: &Gateway, there: &str, gone: &[&str]) {
    let texts: Vec<&str> = [there].into_iter().chain(gone.iter().copied()).collect();
    let mut last = Vec::new();
    eventually(SOON, "no secret is left in memory", || {
        last = count(gateway, &texts).unwrap_or_else(|| vec![1]);
        assert!(last[0] > 0, "the search finds what is there");
        let is_clean = last[1..].iter().all(|count| *count == 0);
        if !is_clean {
            eprintln!("in memory: {:?}", &last[1..]);
        }
        is_clean.then_some(())
    });
}

/// Some of a key's text that is in no certificate.
fn part(pair: &Pair) -> &str {
    &pair.key_lines()[0][48..64]
}

#[test]
fn keys_and_tokens_of_writes_do_not_stay_in_memory() {
    let ca = Ca::root("CA");
    let gateway = Setup::default().start();
    let [plain, sealed, refused, ours] = [NAME, "b.example.com", "c.example.com", "d.example.com"]
        .map(|name| (name, ca.server(name)));
    let ssl =
        |(name, pair): &(&str, Pair)| json!({"cert": pair.cert, "key": pair.key, "snis": [name]});
    gateway.configure("/ssls/plain", &ssl(&plain));
    gateway
        .admin_https("PUT", "/ssls/sealed")
        .body(ssl(&sealed).to_string())
        .send()
        .expect_status(201);
    let mut wrong = ssl(&refused);
    wrong["snis"] = json!("not a list");
    gateway
        .admin_put("/ssls/refused", &wrong)
        .expect_status(400);
    gateway.configure(
        "/upstreams/1",
        &json!({"scheme": "https", "nodes": {"127.0.0.1:1": 1},
                "tls": {"client_cert": ours.1.cert, "client_key": ours.1.key}}),
    );
    let token = "a-token-that-is-kept-nowhere-but-in-the-store";
    let secret = json!({"uri": "http://127.0.0.1:1", "prefix": "p", "token": token});
    gateway.configure("/secrets/vault/1", &secret);
    // Read again, changed, and shown.
    gateway
        .admin("PATCH", "/ssls/plain")
        .body(json!({"labels": {"a": "b"}}).to_string())
        .send()
        .expect_status(200);
    for path in ["/ssls", "/secrets/vault/1", "/upstreams/1"] {
        gateway.admin_get(path).expect_status(200);
    }
    for version in TlsVersion::ALL {
        let shown = shown_serial(gateway.https_port(), NAME, version);
        assert_eq!(shown, Some(plain.1.serial()));
    }
    let keys = [&plain, &sealed, &refused, &ours].map(|(_, pair)| part(pair));
    expect_gone(&gateway, "sealed", &[keys.as_slice(), &[token]].concat());
}

#[test]
fn values_of_references_do_not_stay_in_memory() {
    let (bao, ca) = (Bao::start(), Ca::root("CA"));
    let gateway = Setup::default()
        .set("secrets.cache_time", "1s")
        .set("secrets.vault.trust_file", bao.ca_file().to_str().unwrap())
        .start();
    let old = ca.server(NAME);
    let write = |pair: &Pair| bao.write("web", &json!({"cert": pair.cert, "key": pair.key}));
    write(&old);
    let manager = json!({"uri": bao.url(), "prefix": "secret", "kv_version": "kv-v2",
                         "token": bao.token("1h")});
    gateway.configure("/secrets/vault/1", &manager);
    let ssl = json!({"cert": "$secret://vault/1/web/cert", "key": "$secret://vault/1/web/key",
                     "snis": [NAME]});
    gateway.configure("/ssls/web", &ssl);
    let new = ca.server(NAME);
    write(&new);
    eventually(SOON, "the new one is served", || {
        let shown = shown_serial(gateway.https_port(), NAME, TlsVersion::V13);
        (shown == Some(new.serial())).then_some(())
    });
    expect_gone(&gateway, "vault/1/web", &[part(&old), part(&new)]);
}

/// What a line of `/proc/PID/status` says.
fn status(process: &str, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.unwrap().trim().to_owned()
}

/// Whether what these tests start may lock its memory: CAP_IPC_LOCK, or no bound.
fn may_lock() -> bool {
    let capabilities = u64::from_str_radix(&status("self", "CapEff"), 16).unwrap();
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let mut limits = limits.lines();
    let limit = limits.find(|line| line.starts_with("Max locked memory"));
    let hard = limit.unwrap().split_whitespace().nth(4);
    capabilities >> 14 & 1 == 1 || hard == Some("unlimited")
}

#[track_caller]
fn expect_locked(gateway: &Gateway, is_locked: bool, words: &str) {
    let said = gateway.expect_log("what was done about memory", |line| {
        field(line, "message").is_some_and(|text| text.starts_with("memory is "))
    });
    assert!(said.to_string().contains(words), "{said}");
    let locked = status(&gateway.process_id().to_string(), "VmLck");
    assert_eq!(locked != "0 kB", is_locked, "{locked}");
}

#[test]
fn memory_is_locked_where_that_is_permitted_and_wanted() {
    if may_lock() {
        let required = Setup::default().set("memory.lock", "required").start();
        expect_locked(&required, true, "memory is locked");
    }
    expect_locked(&Gateway::start(), may_lock(), "memory is");
    let off = Setup::default().set("memory.lock", "off").start();
    expect_locked(&off, false, "`memory.lock` is off");
}

/// The same, run by who may lock no more than 64 KiB.
fn unable_to_lock(setup: &Setup) -> Setup {
    let bound = ["prlimit", "--memlock=65536:65536"];
    let uncapable = ["setpriv", "--bounding-set=-ipc_lock"];
    let is_root = rustix::process::geteuid().is_root();
    let wrapper = if is_root {
        [&bound[..], &uncapable[..]].concat()
    } else {
        bound.to_vec()
    };
    setup.clone().under(&wrapper)
}

#[test]
fn memory_that_may_not_be_locked_is_told_or_refused() {
    let setup = unable_to_lock(&Setup::default());
    let gateway = setup.clone().start();
    expect_locked(&gateway, false, "no more than 65536 bytes may be locked");
    drop(gateway);
    let refused = setup.set("memory.lock", "required").try_start();
    let refused = refused.expect_err("it does not start");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let said = format!("{:?}", refused.logs);
    assert!(said.contains("LimitMEMLOCK=infinity"), "{said}");
    assert!(said.contains("CAP_IPC_LOCK is missing"), "{said}");
}

#[test]
fn every_verb_that_opens_keys_locks_its_memory_first() {
    let setup = Setup::default();
    setup.clone().start().stop();
    let bounded = unable_to_lock(&setup);
    for verb in [
        &["rotate-key"][..],
        &["check"],
        &["check", "--profile", "stig"],
        &["fips"],
    ] {
        let refused = bounded.clone().set("memory.lock", "required").run(verb);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        let said = format!("{}{}", refused.stdout, refused.stderr);
        assert!(
            said.contains("`memory.lock: required` is not met"),
            "{verb:?}: {said}"
        );
        let ran = bounded.run(verb);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(!said.contains("memory.lock: required"), "{verb:?}: {said}");
    }
    let data = setup.data_path();
    assert!(
        data.join("kek.old").exists(),
        "the last one was carried out"
    );
}
