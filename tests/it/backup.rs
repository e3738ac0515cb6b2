//! `portcullis backup` and `portcullis restore`: what is stored as one file, and back.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::support::TlsVersion;
use crate::support::client::{Curl, shown_serial};
use crate::support::gateway::{ADMIN_KEY, Gateway, Setup};
use crate::support::pki::{Ca, Pair};

const NAME: &str = "api.example.com";
const TOKEN: &str = "canary-of-a-backup-7f3a9c51e8";

/// A gateway with a key, a credential, and the value of a reference.
fn filled(setup: &Setup, pair: &Pair, kept: &Pair) -> Gateway {
    let both = json!({"cert": kept.cert, "key": kept.key}).to_string();
    let gateway = setup.clone().env("REF", &both).start();
    let ssl = json!({"cert": pair.cert, "key": pair.key, "snis": [NAME]});
    gateway.configure("/ssls/web", &ssl);
    let ssl = json!({"cert": "$env://REF/cert", "key": "$env://REF/key", "snis": ["ref.test"]});
    gateway.configure("/ssls/ref", &ssl);
    let secret = json!({"uri": "http://127.0.0.1:1", "prefix": "p", "token": TOKEN});
    gateway.configure("/secrets/vault/1", &secret);
    gateway
}

fn put_kek(from: &Path, to: &Setup) {
    let data = to.data_path();
    fs::create_dir_all(&data).unwrap();
    fs::copy(from.join("kek"), data.join("kek")).unwrap();
}

#[test]
fn backup_of_a_gateway_that_serves_is_restored_with_its_key_and_holds_no_secret() {
    let ca = Ca::root("CA");
    let (pair, kept) = (ca.server(NAME), ca.server("ref.test"));
    let setup = Setup::default();
    let gateway = filled(&setup, &pair, &kept);
    let data = gateway.data_path();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup.db");
    let path = file.to_str().unwrap();
    let is_over = AtomicBool::new(false);
    // Written while others write.
    let told = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                gateway.configure(
                    "/routes/r",
                    &json!({"uri": "/*", "upstream": {"nodes": {}}}),
                );
            }
        });
        let told = setup.run(&["backup", path]);
        is_over.store(true, Ordering::SeqCst);
        told
    });
    assert!(told.status.success(), "{told:?}");
    let kek = fs::read_to_string(data.join("kek")).unwrap();
    let bytes = fs::read(&file).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    let raw: Vec<u8> = (0..32)
        .map(|at| u8::from_str_radix(&kek[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    assert!(
        !bytes.windows(32).any(|part| part == raw),
        "the key-encryption key"
    );
    for secret in [TOKEN, kek.trim(), pair.key_lines()[1], kept.key_lines()[1]] {
        assert!(!text.contains(secret) && !format!("{told:?}").contains(secret));
    }
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    // The key that it needs is named; a file that is there stays as it is.
    let id = text
        .split("pc1:")
        .nth(1)
        .unwrap()
        .split(':')
        .next()
        .unwrap();
    assert!(
        told.stdout.contains(id) && told.stdout.contains("not in the backup"),
        "{told:?}"
    );
    let again = setup.run(&["backup", path]);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    assert!(again.stderr.contains("is not replaced"), "{again:?}");
    assert_eq!(fs::read(&file).unwrap(), bytes);

    // Elsewhere, first without the key, then with another one: nothing is made.
    let other = Setup::default();
    let refused = other.run(&["restore", path]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains(id) && refused.stderr.contains("put it back"),
        "{refused:?}"
    );
    let there = other.data_path();
    fs::create_dir_all(&there).unwrap();
    fs::write(there.join("kek"), "ab".repeat(32)).unwrap();
    fs::set_permissions(there.join("kek"), fs::Permissions::from_mode(0o600)).unwrap();
    let refused = other.run(&["restore", path]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.stderr.contains("put that one back"), "{refused:?}");
    assert!(!there.join("portcullis.db").exists());

    put_kek(&data, &other);
    let told = other.run(&["restore", path]);
    assert!(told.status.success(), "{told:?}");
    let check = other.run(&["check"]);
    assert!(check.status.success(), "{check:?}");
    let restored = other.clone().start();
    for version in TlsVersion::ALL {
        for (name, pair) in [(NAME, &pair), ("ref.test", &kept)] {
            // Also what a reference stood for, which has no value here.
            let shown = shown_serial(restored.https_port(), name, version);
            assert_eq!(shown, Some(pair.serial()), "{name}");
        }
    }
    let url = format!(
        "http://127.0.0.1:{}/portcullis/v1/audit/verify",
        restored.port("admin")
    );
    let asked = Curl::new(&url).header(&format!("X-API-KEY: {ADMIN_KEY}"));
    assert_eq!(asked.send().expect_status(200).json()["valid"], true);
    // What is served is not replaced, running or not.
    let refused = other.run(&["restore", path]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains("is in use by another process"),
        "{refused:?}"
    );
    restored.stop();
    let refused = other.run(&["restore", path]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains("portcullis.db already"),
        "{refused:?}"
    );
}

#[test]
fn what_cannot_be_backed_up_or_restored_is_told_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    let path = file.to_str().unwrap();
    let memory = Setup::default().set("store", "memory");
    for (setup, verb, words) in [
        (&Setup::default(), "backup", "nothing to back up"),
        (&memory, "backup", "the store is memory"),
        (&memory, "restore", "the store is memory"),
        (&Setup::default(), "restore", "could not open"),
    ] {
        let refused = setup.run(&[verb, path]);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(refused.stderr.contains(words), "{refused:?}");
        assert!(!file.exists(), "{verb}");
    }
    fs::write(&file, "a text, and no database at all").unwrap();
    let refused = Setup::default().run(&["restore", path]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.stderr.contains("is damaged"), "{refused:?}");
    let standalone = Setup::default().arg("--standalone").arg("x.yaml");
    let refused = standalone.run(&["backup", path]);
    assert!(refused.stderr.contains("leave it out here"), "{refused:?}");
}
