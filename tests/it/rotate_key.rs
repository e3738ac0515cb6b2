//! `portcullis rotate-key`: everything stored is sealed with another key, whatever happens meanwhile.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

use crate::support::client::{Curl, shown_serial};
use crate::support::gateway::{ADMIN_KEY, Gateway, Setup, field};
use crate::support::pki::{Ca, Pair};
use crate::support::{SOON, SetAtEnd, TlsVersion, eventually};

const NAME: &str = "api.example.com";

/// Objects whose credentials are sealed, besides the ssl.
const COUNT: usize = 200;

/// A gateway with an ssl and many credentials.
fn filled(setup: Setup) -> (Gateway, Pair) {
    let gateway = setup.start();
    let pair = Ca::root("CA").server(NAME);
    gateway.configure(
        "/ssls/web",
        &json!({"cert": pair.cert, "key": pair.key, "snis": [NAME]}),
    );
    for index in 0..COUNT {
        let secret = json!({"uri": "http://v", "prefix": "p", "token": format!("canary-{index}")});
        gateway.configure(&format!("/secrets/vault/{index}"), &secret);
    }
    (gateway, pair)
}

/// How much in a store is sealed with the key of this id.
fn sealed_with(data: &Path, id: &str) -> usize {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let database = Connection::open_with_flags(data.join("portcullis.db"), flags).unwrap();
    let query = "SELECT count(*) FROM (SELECT document AS text FROM resource
                 UNION ALL SELECT value FROM meta) WHERE instr(text, ?1) > 0";
    let mark = format!("pc1:{id}:");
    let count: i64 = database.query_row(query, [mark], |row| row.get(0)).unwrap();
    usize::try_from(count).unwrap()
}

/// A note of the store.
fn note(data: &Path, name: &str) -> Option<String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let database = Connection::open_with_flags(data.join("portcullis.db"), flags).unwrap();
    let query = "SELECT value FROM meta WHERE name = ?1";
    database.query_row(query, [name], |row| row.get(0)).ok()
}

/// Has everything that is sealed anew in a store take its time, or no longer: where a process that is
/// killed finds itself must not depend on how fast the machine is.
fn hold_up(data: &Path, is_slow: bool) {
    let database = Connection::open(data.join("portcullis.db")).unwrap();
    database.busy_timeout(SOON).unwrap();
    let statement = if is_slow {
        "CREATE TRIGGER slow BEFORE UPDATE ON resource BEGIN
             SELECT count(*) FROM (
                 WITH RECURSIVE steps (step) AS (
                     SELECT 1 UNION ALL SELECT step + 1 FROM steps WHERE step < 6000)
                 SELECT step FROM steps);
         END"
    } else {
        "DROP TRIGGER slow"
    };
    database.execute_batch(statement).unwrap();
}

/// Where the report says that the keys at work come from, each after its id.
fn reported_keys(gateway: &Gateway) -> Vec<(String, String)> {
    let url = format!(
        "http://127.0.0.1:{}/portcullis/v1/fips",
        gateway.port("admin")
    );
    let asked = Curl::new(&url).header(&format!("X-API-KEY: {ADMIN_KEY}"));
    let report = asked.send().expect_status(200).json();
    let keys = report["keys"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    keys.filter(|key| key["object"] == "kek")
        .map(|key| (text(&key["key_id"]), text(&key["from"])))
        .collect()
}

/// The id of the key that a store is under.
fn key_id(data: &Path) -> String {
    let check = note(data, "kek_check").unwrap();
    check.split(':').next().unwrap().to_owned()
}

#[track_caller]
fn expect_served(gateway: &Gateway, pair: &Pair) {
    for version in TlsVersion::ALL {
        let shown = shown_serial(gateway.https_port(), NAME, version);
        assert_eq!(shown, Some(pair.serial()));
    }
    let url = format!(
        "http://127.0.0.1:{}/portcullis/v1/audit/verify",
        gateway.port("admin")
    );
    let verified = Curl::new(&url)
        .header(&format!("X-API-KEY: {ADMIN_KEY}"))
        .send()
        .expect_status(200)
        .json();
    assert_eq!(verified["valid"], true, "{verified}");
    for index in [0, COUNT - 1] {
        let path = format!("/secrets/vault/{index}");
        let shown = gateway.admin_get(&path).expect_status(200).json();
        let token = shown["value"]["token"].as_str().unwrap();
        assert!(token.starts_with("$withheld:") && token != "$withheld:unknown");
    }
}

#[test]
fn key_is_replaced_while_requests_and_writes_go_on_and_the_former_is_refused() {
    let setup = Setup::default();
    let (gateway, pair) = filled(setup.clone());
    gateway.configure(
        "/routes/r",
        &json!({"uri": "/*", "plugins": {}, "upstream": {
        "nodes": {"127.0.0.1:1": 1}}}),
    );
    let data = gateway.data_path();
    let former = key_id(&data);
    let kek = fs::read(data.join("kek")).unwrap();
    let (is_over, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let told = std::thread::scope(|scope| {
        let _over = SetAtEnd(&is_over);
        scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                let client = gateway.tls(NAME, TlsVersion::V13);
                assert_eq!(client.get(NAME, "/").unwrap().status, 502);
                asked.fetch_add(1, Ordering::SeqCst);
            }
        });
        scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                let index = asked.load(Ordering::SeqCst) % COUNT;
                let token = format!("canary-{index}");
                let secret = json!({"uri": "http://v", "prefix": "q", "token": token});
                let path = format!("/secrets/vault/{index}");
                let status = gateway.admin_put(&path, &secret).status;
                // One that was judged before the end and stored after it is sent again.
                assert!(matches!(status, Some(200 | 503)), "{status:?}");
            }
        });
        eventually(SOON, "they go on", || {
            (asked.load(Ordering::SeqCst) > 0).then_some(())
        });
        let before = asked.load(Ordering::SeqCst);
        let told = setup.run(&["rotate-key"]);
        eventually(SOON, "they went on", || {
            (asked.load(Ordering::SeqCst) > before).then_some(())
        });
        told
    });
    assert!(told.status.success(), "{told:?}");
    let present = key_id(&data);
    assert_ne!(present, former);
    assert!(
        told.stdout.contains(&present) && told.stdout.contains(&former),
        "{told:?}"
    );
    assert_eq!(sealed_with(&data, &former), 0);
    assert!(sealed_with(&data, &present) > COUNT);
    assert_eq!(fs::read(data.join("kek.old")).unwrap(), kek);
    assert!(!data.join("kek.next").exists());
    let mode = fs::metadata(data.join("kek")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    expect_served(&gateway, &pair);
    let file = |name: &str| data.join(name).to_str().unwrap().to_owned();
    let at_work = [
        (present.clone(), file("kek")),
        (former.clone(), file("kek.old")),
    ];
    // The former one opens what was read before, for a while.
    let told = reported_keys(&gateway);
    assert!(
        !told.is_empty() && at_work.starts_with(&told),
        "{told:?}, not {at_work:?}"
    );
    gateway.configure("/secrets/vault/new", &json!({"uri": "http://v/v1/x"}));
    gateway.stop();
    let check = setup.run(&["check"]);
    assert!(check.status.success(), "{check:?}");
    expect_served(&setup.clone().start(), &pair);

    // The former key is worth nothing any more.
    fs::copy(data.join("kek.old"), data.join("kek")).unwrap();
    let refused = setup.clone().try_start().unwrap_err();
    let words = format!("{refused:?}");
    assert!(
        words.contains(&former) && words.contains("is not the one the store"),
        "{words}"
    );
    let refused = setup.run(&["rotate-key"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.stderr.contains(&present), "{refused:?}");
}

#[test]
fn gateway_that_is_killed_in_the_middle_serves_and_finishes_when_it_comes_back() {
    let setup = Setup::default();
    let (mut gateway, pair) = filled(setup.clone());
    let data = gateway.data_path();
    let mut seen = Vec::new();
    for seed in 1..=6_u8 {
        let former = key_id(&data);
        let all = sealed_with(&data, &former);
        // Each time a little later.
        let wanted = all - all * usize::from(seed - 1) / 6;
        hold_up(&data, true);
        let next = data.join("kek.next");
        fs::write(
            data.join("draft"),
            format!("{}\n", format!("{seed:02x}").repeat(32)),
        )
        .unwrap();
        let owner = fs::Permissions::from_mode(0o600);
        fs::set_permissions(data.join("draft"), owner).unwrap();
        fs::rename(data.join("draft"), &next).unwrap();
        // Held up, it takes seconds, and many of them where others work, too.
        eventually(6 * SOON, "it has come so far", || {
            let left = sealed_with(&data, &former);
            let is_begun = note(&data, "kek_next").is_some() || key_id(&data) != former;
            (is_begun && left <= wanted).then_some(())
        });
        gateway.kill();
        seen.push((
            all,
            sealed_with(&data, &former),
            note(&data, "kek_next").is_some(),
        ));
        hold_up(&data, false);
        gateway = setup.clone().start();
        expect_served(&gateway, &pair);
        eventually(6 * SOON, "it is finished", || {
            let is_done = key_id(&data) != former && note(&data, "kek_next").is_none();
            (is_done && !next.exists()).then_some(())
        });
        assert_eq!(sealed_with(&data, &former), 0, "{seen:?}");
        expect_served(&gateway, &pair);
    }
    let is_in_the_middle =
        |&(all, left, is_under_way): &(usize, usize, bool)| is_under_way && left > 0 && left < all;
    assert!(seen.iter().any(is_in_the_middle), "{seen:?}");
    let said = gateway
        .logs()
        .iter()
        .map(Value::to_string)
        .collect::<String>();
    assert!(!said.contains(&"06".repeat(16)), "the key is in the log");
}

#[test]
fn gateway_that_does_not_run_needs_none_and_a_key_of_ones_own_is_taken() {
    let setup = Setup::default();
    let (gateway, pair) = filled(setup.clone());
    let data = gateway.data_path();
    gateway.stop();
    let former = key_id(&data);
    let file = data.join("mine");
    fs::write(&file, "ab".repeat(32)).unwrap();
    let to = ["rotate-key", "--to", file.to_str().unwrap()];
    let exposed = fs::Permissions::from_mode(0o640);
    fs::set_permissions(&file, exposed).unwrap();
    let refused = setup.run(&to);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.stderr.contains("chmod 600"), "{refused:?}");
    assert!(!data.join("kek.next").exists());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let told = setup.run(&to);
    assert!(told.status.success(), "{told:?}");
    assert!(!format!("{told:?}").contains("abababab"));
    assert_eq!(sealed_with(&data, &former), 0);
    assert_eq!(
        fs::read_to_string(data.join("kek")).unwrap().trim(),
        "ab".repeat(32)
    );
    expect_served(&setup.clone().start(), &pair);
    // The same again is no rotation.
    let refused = setup.run(&to);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.stderr.contains("is the key in use"), "{refused:?}");
}

#[test]
fn what_cannot_be_rotated_is_told_with_the_remedy() {
    for (setup, words) in [
        (Setup::default(), "the first start makes it"),
        (
            Setup::default().set("store", "memory"),
            "the store is memory",
        ),
    ] {
        let refused = setup.run(&["rotate-key"]);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(refused.stderr.contains(words), "{refused:?}");
    }
    let setup = Setup::default();
    setup.clone().start().stop();
    let data = setup.data_path();
    for (content, words) in [
        (None, "there is no file"),
        (
            Some("a-password-of-32-characters-!!!!"),
            "are no key-encryption key",
        ),
        (Some("short"), "is 32 random bytes"),
    ] {
        let file = data.join("to");
        if let Some(content) = content {
            fs::write(&file, content).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let refused = setup.run(&["rotate-key", "--to", file.to_str().unwrap()]);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(refused.stderr.contains(words), "{refused:?}");
        assert!(!refused.stderr.contains("password-of-32"), "{refused:?}");
        assert!(!data.join("kek.next").exists());
    }
    let told = setup.run(&["rotate-key"]);
    assert!(told.status.success(), "{told:?}");
}

#[test]
fn key_that_the_environment_gives_is_replaced_and_its_successor_waits_for_its_keeper() {
    let kek = |value: &str| {
        Setup::default()
            .set("kek", "$env://MY_KEK")
            .env("MY_KEK", value)
    };
    let former = "11".repeat(32);
    let setup = kek(&former);
    let (gateway, pair) = filled(setup.clone());
    let data = gateway.data_path();
    let told = setup.run(&["rotate-key"]);
    assert!(told.status.success(), "{told:?}");
    assert!(told.stdout.contains("put it where `kek` of"), "{told:?}");
    let beside = data.join("kek.next").to_str().unwrap().to_owned();
    let at_work = reported_keys(&gateway);
    let places: Vec<_> = at_work.iter().map(|(_, from)| from.as_str()).collect();
    assert_eq!(places, [beside.as_str(), "`kek` of the configuration"]);
    let next = fs::read_to_string(data.join("kek.next")).unwrap();
    expect_served(&gateway, &pair);
    let folder = gateway.data();
    gateway.stop();
    // A restart before that still serves, and says so.
    let gateway = setup.start();
    expect_served(&gateway, &pair);
    gateway.expect_log("where the key is", |line| {
        field(line, "message").is_some_and(|text| text.contains("put it where `kek` of"))
    });
    gateway.stop();
    fs::remove_file(data.join("kek.next")).unwrap();
    kek(&former).data(&folder).try_start().unwrap_err();
    expect_served(&kek(next.trim()).data(&folder).start(), &pair);
}
