//! What outlives the process: everything acknowledged, sealed, for its owner only.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::{Curl, shown_serial};
use crate::support::gateway::{ADMIN_KEY, Gateway, Setup, Stopped, field};
use crate::support::origin::{Nginx, Origin, seen};
use crate::support::pki::{Ca, Pair};
use crate::support::{SOON, TlsVersion};

const KINDS: [&str; 5] = ["ssls", "upstreams", "services", "routes", "secrets"];

/// Every object of every kind, with times and indexes.
fn everything(gateway: &Gateway) -> BTreeMap<&'static str, Value> {
    let list = |kind: &str| {
        let path = format!("/{kind}");
        let request = gateway
            .admin("GET", &path)
            .header("X-Portcullis-Withheld: show");
        request.send().expect_status(200).json()
    };
    KINDS.into_iter().map(|kind| (kind, list(kind))).collect()
}

fn text(stopped: &Stopped) -> String {
    let lines = stopped.logs.iter().chain(&stopped.records);
    lines.map(|line| format!("{line}\n")).collect()
}

/// The log's words for why it ended.
fn reason(stopped: &Stopped) -> String {
    let errors = stopped.logs.iter().filter(|line| line["level"] == "ERROR");
    errors
        .filter_map(|line| field(line, "message"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn restart_brings_everything_back() {
    let gateway = Gateway::start();
    let ca = Ca::root("CA");
    let origin = Origin::nginx(&Nginx::mutual(ca.server("up.example.com"), ca.pem()));
    let (server, ours) = (ca.server("api.example.com"), ca.client("gateway"));
    let folder = gateway.data();
    let root = ca.write(folder.path(), "root");
    let alice = ca.client("alice").write(folder.path(), "alice");
    for (path, document) in [
        (
            "/ssls/s",
            json!({"cert": server.cert, "key": server.key, "snis": ["api.example.com"], "client": {"ca": ca.pem()}}),
        ),
        (
            "/upstreams/u",
            json!({"scheme": "https", "nodes": {origin.node(): 1}, "retry_timeout": 1.0, "tls": {
                "client_cert": ours.cert, "client_key": ours.key, "verify": true,
                "ca_certs": [ca.pem()], "server_name": "up.example.com",
            }}),
        ),
        ("/services/v", json!({"upstream_id": "u"})),
        (
            "/routes/r",
            json!({"uri": "/api/*", "host": "api.example.com", "service_id": "v"}),
        ),
        ("/routes/gone", json!({"uri": "/gone", "service_id": "v"})),
        (
            "/secrets/vault/x",
            json!({"uri": "http://127.0.0.1:8200", "prefix": "kv", "token": "s.canary"}),
        ),
        ("/services/v", json!({"upstream_id": "u", "name": "again"})),
    ] {
        let taken = gateway.admin_put(path, &document);
        assert!(matches!(taken.status, Some(200 | 201)), "{taken:?}");
    }
    gateway.admin_delete("/routes/gone").expect_status(200);
    let assert_serves = |gateway: &Gateway| {
        for version in TlsVersion::ALL {
            let ask = |path: &str| {
                gateway
                    .https("api.example.com", path)
                    .cacert(&root)
                    .tls(version)
            };
            let served = ask("/api/x").cert(&alice).send().expect_status(200);
            assert_eq!(seen(&served.body, "dn"), "CN=gateway");
            ask("/gone").cert(&alice).send().expect_status(404);
            ask("/api/x").send().expect_refused_handshake();
        }
    };
    assert_serves(&gateway);
    let before = everything(&gateway);
    assert_eq!(before["routes"]["total"], 1);
    assert!(
        before["services"]["list"][0]["createdIndex"].as_u64()
            < before["services"]["list"][0]["modifiedIndex"].as_u64()
    );
    let stopped = gateway.stop();
    assert!(stopped.status.success(), "{stopped:?}");

    let again = Setup::default().data(&folder).start();
    assert_eq!(everything(&again), before);
    assert_serves(&again);
    // The sequence of indexes goes on.
    let last = KINDS
        .iter()
        .flat_map(|kind| before[kind]["list"].as_array().unwrap());
    let last = last
        .map(|item| item["modifiedIndex"].as_u64().unwrap())
        .max()
        .unwrap();
    again
        .admin_put("/services/w", &json!({}))
        .expect_status(201);
    let next = again.admin_get("/services/w").json()["createdIndex"]
        .as_u64()
        .unwrap();
    assert!(next > last, "{next} {last}");
}

/// How often the gateway is killed, and about how many writes there are before each time. `KILLS` and
/// `KILL_WRITES` in the environment ask for more: 50 and 200 make 10,000 writes.
fn kills() -> (u32, u32) {
    let number = |name, default| {
        let text = std::env::var(name).ok();
        text.map_or(default, |text| text.parse().expect("a number"))
    };
    (number("KILLS", 6), number("KILL_WRITES", 60))
}

/// Puts a route over a connection that is kept; the status, or `None` when the gateway is gone.
fn put_route(stream: &mut TcpStream, id: &str, document: &str) -> Option<u16> {
    send_route(stream, id, document)?;
    let head = read_head(stream)?;
    head.split(' ').nth(1)?.parse().ok()
}

/// Sends the write of a route; `None` when the gateway is gone.
fn send_route(stream: &mut TcpStream, id: &str, document: &str) -> Option<()> {
    let request = format!(
        "PUT /apisix/admin/routes/{id} HTTP/1.1\r\nHost: x\r\nX-API-KEY: {ADMIN_KEY}\r\n\
         Content-Length: {}\r\n\r\n{document}",
        document.len()
    );
    stream.write_all(request.as_bytes()).ok()
}

/// Reads an answer; its head, or `None` when the gateway is gone.
fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut read = Vec::new();
    loop {
        let mut part = [0; 4096];
        let count = stream.read(&mut part).ok().filter(|count| *count > 0)?;
        read.extend_from_slice(&part[..count]);
        let text = String::from_utf8_lossy(&read).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let lines = head.lines();
            let mut length = lines.filter_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.next().expect("a length").parse().expect("a number");
            if body.len() >= length {
                return Some(head.to_owned());
            }
        }
    }
}

/// Writes of one thread until the gateway is gone: what each acknowledged one said.
fn write_until_the_end(
    address: (&str, u16),
    thread: u32,
    first: usize,
    told: &mpsc::Sender<(String, usize)>,
) {
    let Ok(mut stream) = TcpStream::connect(address) else {
        return;
    };
    stream.set_read_timeout(Some(SOON)).expect("a time-out");
    for number in first.. {
        // One object that changes and one that is new, in turn.
        let id = match number % 2 {
            0 => format!("own-{thread}"),
            _ => format!("new-{thread}-{number}"),
        };
        let document =
            json!({"uri": format!("/{id}"), "desc": number.to_string(), "upstream": {"nodes": {}}});
        match put_route(&mut stream, &id, &document.to_string()) {
            Some(200 | 201) => told.send((id, number)).expect("somebody counts"),
            None => return,
            Some(status) => panic!("{id}: {status}"),
        }
    }
}

#[test]
fn kill_at_any_moment_loses_no_acknowledged_write() {
    let (kills, writes) = kills();
    let setup = Setup::default();
    let mut gateway = setup.clone().start();
    let mut acknowledged = BTreeMap::new();
    let mut count = 0;
    for round in 0..kills {
        let port = gateway.port("admin");
        let (told, acknowledgements) = mpsc::channel();
        let writers: Vec<_> = (0..8)
            .map(|thread| {
                let (told, first) = (told.clone(), 1_000_000 * (round as usize + 1));
                thread::spawn(move || {
                    write_until_the_end(("127.0.0.1", port), thread, first, &told);
                })
            })
            .collect();
        drop(told);
        let wanted = writes / 2 + random(writes);
        for _ in 0..wanted {
            let (id, number) = acknowledgements.recv_timeout(SOON).expect("writes go on");
            acknowledged.insert(id, number);
            count += 1;
        }
        // Somewhere between two acknowledgements.
        let moment = Instant::now() + Duration::from_micros(random(3000).into());
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        gateway.kill();
        for writer in writers {
            writer.join().expect("the writer met its end");
        }
        for (id, number) in acknowledgements {
            acknowledged.insert(id, number);
            count += 1;
        }

        gateway = setup.clone().start();
        let routes = gateway.admin_get("/routes").expect_status(200).json();
        let stored: BTreeMap<&str, usize> = routes["list"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| &item["value"])
            .map(|value| {
                (
                    value["id"].as_str().unwrap(),
                    value["desc"].as_str().unwrap().parse().unwrap(),
                )
            })
            .collect();
        for (id, number) in &acknowledged {
            // The writes on their way when the end came may have been made, or not.
            let found = stored
                .get(id.as_str())
                .unwrap_or_else(|| panic!("{id} is lost"));
            assert!(found >= number, "{id}: {found} is older than {number}");
        }
        // Served as well: a route without nodes is 503, a missing one would be 404.
        let (id, _) = acknowledged.last_key_value().unwrap();
        Curl::new(&gateway.http_url(&format!("/{id}")))
            .send()
            .expect_status(503);
    }
    eprintln!("{kills} kills, {count} acknowledged writes, none lost");
}

#[test]
fn writers_that_all_come_at_once_leave_exactly_what_was_acknowledged() {
    const WRITERS: usize = 300;
    let setup = Setup::default();
    let gateway = setup.clone().start();
    let port = gateway.port("admin");
    // All are connected before the first writes.
    let mut writers: Vec<_> = (0..WRITERS)
        .map(|_| TcpStream::connect(("127.0.0.1", port)).expect("the listener has room"))
        .collect();
    let id = |writer: usize, turn: usize| match turn {
        0 => format!("own-{writer}"),
        _ => format!("shared-{}", writer % 10),
    };
    let mut acknowledged = BTreeMap::new();
    for turn in 0..2 {
        for (writer, stream) in writers.iter_mut().enumerate() {
            let id = id(writer, turn);
            let document = json!({"uri": format!("/{id}"), "desc": writer.to_string(), "upstream": {"nodes": {}}});
            send_route(stream, &id, &document.to_string()).expect("the connection is open");
        }
        for (writer, stream) in writers.iter_mut().enumerate() {
            let head = read_head(stream).expect("every writer is answered");
            assert!(
                head.starts_with("HTTP/1.1 201") || head.starts_with("HTTP/1.1 200"),
                "{head}"
            );
            let revision = head.split("etag: \"").nth(1).expect("an ETag");
            let revision = revision.split('"').next().expect("its end");
            let revision: u64 = revision.parse().expect("a number");
            let last = acknowledged.entry(id(writer, turn)).or_default();
            *last = (revision, writer.to_string()).max(std::mem::take(last));
        }
    }
    drop(writers);
    gateway.kill();
    let gateway = setup.start();
    let routes = gateway.admin_get("/routes").expect_status(200).json();
    let items = routes["list"].as_array().unwrap().iter();
    let text = |item: &Value, name: &str| item["value"][name].as_str().unwrap().to_owned();
    let stored: BTreeMap<String, (u64, String)> = items
        .map(|item| {
            let revision = item["modifiedIndex"].as_u64().unwrap();
            (text(item, "id"), (revision, text(item, "desc")))
        })
        .collect();
    assert_eq!(stored, acknowledged);
    assert_eq!(stored.len(), WRITERS + 10);
}

/// A number below `limit`: the standard library's hasher has a random seed.
fn random(limit: u32) -> u32 {
    let number = RandomState::new().build_hasher().finish() % u64::from(limit);
    u32::try_from(number).expect("a small number")
}

#[test]
fn second_process_on_the_same_data_is_refused() {
    let setup = Setup::default();
    let first = setup.clone().start();
    let refused = setup.clone().try_start().expect_err("the data is taken");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let sentence = reason(&refused);
    assert!(
        sentence.contains("in use by another process (pid "),
        "{sentence}"
    );
    assert!(
        sentence.contains(&first.process_id().to_string()),
        "{sentence}"
    );
    assert!(
        sentence.contains(first.data_path().to_str().unwrap()),
        "{sentence}"
    );
    first.admin_get("/routes").expect_status(200);
    first.stop();
    setup.start().admin_get("/routes").expect_status(200);
}

/// A stopped gateway's data with a sealed key in it, and the pair.
fn sealed_data() -> (Setup, PathBuf, Pair) {
    let setup = Setup::default();
    let gateway = setup.clone().start();
    let pair = Ca::root("CA").server("api.example.com");
    let document = json!({"cert": pair.cert, "key": pair.key, "snis": ["api.example.com"]});
    gateway.admin_put("/ssls/1", &document).expect_status(201);
    let data = gateway.data_path();
    gateway.stop();
    (setup, data, pair)
}

#[test]
fn start_without_the_right_key_encryption_key_is_refused_and_makes_none() {
    let (setup, data, pair) = sealed_data();
    let path = data.join("kek");
    let kept = fs::read(&path).unwrap();
    let other = data.parent().unwrap().join("other-kek");
    let write = |path: &Path, text: &[u8], mode: u32| {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    write(&other, "ab".repeat(32).as_bytes(), 0o600);
    let refusal = |setup: &Setup, words: &str| {
        let refused = setup.clone().try_start().expect_err(words);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        let sentence = reason(&refused);
        assert!(sentence.contains(words), "{sentence}");
        let check = setup.run(&["check"]);
        assert_eq!(check.status.code(), Some(1), "{check:?}");
        assert!(check.stdout.contains(words), "{check:?}");
    };

    fs::remove_file(&path).unwrap();
    refusal(&setup, "the store was written with a key-encryption key");
    assert!(!path.exists(), "a new key was made");

    write(&path, "cd".repeat(32).as_bytes(), 0o600);
    refusal(&setup, "is not the one the store was written with");
    let configured = setup.clone().set("kek", &other.display().to_string());
    refusal(&configured, "is not the one the store was written with");
    write(&path, b"not a key", 0o600);
    refusal(&setup, "kek");
    write(&path, &kept, 0o644);
    refusal(&setup, "can be read by others than its owner (mode 0644)");

    // The twin: the right key, here or where `kek` says.
    write(&path, &kept, 0o600);
    let moved = data.parent().unwrap().join("moved-kek");
    for (setup, from) in [
        (setup.clone(), &path),
        (
            setup.clone().set("kek", &moved.display().to_string()),
            &moved,
        ),
    ] {
        if from != &path {
            fs::rename(&path, from).unwrap();
        }
        let gateway = setup.start();
        for version in TlsVersion::ALL {
            let shown = shown_serial(gateway.https_port(), "api.example.com", version);
            assert_eq!(shown, Some(pair.serial()));
        }
        gateway.stop();
    }
}

/// Every file under a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.push(path);
        }
    }
    all
}

#[test]
fn no_secret_is_in_any_file_log_record_or_reply() {
    let setup = Setup::default()
        .set("log.level", "trace")
        .set("admin.keys", "[{name: op, key: $env://OTHER_KEY}]")
        .env("OTHER_KEY", "canary-of-an-admin-key");
    let gateway = setup.clone().start();
    let ca = Ca::root("CA");
    let folder = gateway.data();
    let (server, ours, wrong) = (
        ca.server("api.example.com"),
        ca.client("ours"),
        ca.server("x"),
    );
    let origin = Origin::nginx(&Nginx::mutual(ca.server("up.example.com"), ca.pem()));
    let mut canaries = vec!["canary-of-a-token", "canary-of-an-admin-key", ADMIN_KEY];
    for pair in [&server, &ours, &wrong] {
        canaries.extend(pair.key_lines());
    }
    let mut said = String::new();
    let mut send = |method: &str, path: &str, document: &str| {
        for request in [
            gateway.admin(method, path),
            gateway.admin_https(method, path),
        ] {
            let request = request.header("X-Portcullis-Withheld: show");
            let outcome = if document.is_empty() {
                request
            } else {
                request.body(document)
            }
            .send();
            said.push_str(&outcome.head);
            said.push_str(&outcome.body);
        }
    };
    let ssl = json!({"cert": server.cert, "key": server.key, "snis": ["api.example.com"],
        "certs": [server.cert], "keys": [server.key]});
    let tls = json!({"client_cert": ours.cert, "client_key": ours.key});
    let upstream = json!({"scheme": "https", "nodes": {origin.node(): 1}, "tls": tls});
    let vault =
        json!({"uri": "http://127.0.0.1:8200", "prefix": "kv", "token": "canary-of-a-token"});
    for (path, document) in [
        ("/ssls/1", ssl.to_string()),
        ("/upstreams/1", upstream.to_string()),
        ("/services/1", json!({"upstream": upstream}).to_string()),
        ("/routes/1", json!({"uri": "/*", "upstream": upstream}).to_string()),
        ("/secrets/vault/1", vault.to_string()),
        // And each way to be refused with a key in hand.
        ("/ssls/2", json!({"cert": server.cert, "key": wrong.key, "snis": ["x"]}).to_string()),
        ("/ssls/2", json!({"cert": wrong.key, "key": wrong.key, "snis": ["x"]}).to_string()),
        ("/ssls/2", json!({"cert": wrong.cert, "key": wrong.key, "snis": [wrong.key]}).to_string()),
        ("/ssls/2", json!({"cert": wrong.cert, "key": [wrong.key], "snis": ["x"]}).to_string()),
        ("/ssls/2", json!({"cert": wrong.cert, "kye": wrong.key, "snis": ["x"], "client": {"ca": wrong.key}}).to_string()),
        ("/ssls/2", ssl.to_string().replace("\"snis\"", "snis")),
        ("/routes/2", json!({"uri": wrong.key, "upstream": {"nodes": {wrong.key.clone(): 1}}}).to_string()),
        ("/secrets/vault/2", json!({"token": "canary-of-a-token"}).to_string()),
        ("/secrets/vault/2", json!({"uri": "no url", "prefix": "p", "token": 5}).to_string()),
    ] {
        send("PUT", path, &document);
        let kind = path.rsplit_once('/').unwrap().0;
        send("GET", kind, "");
        send("GET", path, "");
    }
    let query = gateway.http_url("/x?token=canary-of-a-token");
    Curl::new(&query)
        .header("Authorization: canary-of-a-token")
        .send()
        .expect_status(200);

    let in_files = |when: &str| {
        for path in files(&folder.path().join("data")) {
            let bytes = fs::read(&path).unwrap();
            let content = String::from_utf8_lossy(&bytes);
            for canary in &canaries {
                assert!(
                    !content.contains(canary),
                    "{when}: {canary} in {}",
                    path.display()
                );
            }
        }
    };
    in_files("running");
    let killed = gateway.kill();
    in_files("killed");
    let stopped = setup.start().stop();
    in_files("stopped");
    let check = Setup::default().data(&folder).run(&["check", "--print"]);
    for (name, content) in [
        ("replies", &said),
        ("its log and records", &text(&killed)),
        ("the next start's", &text(&stopped)),
        ("check", &format!("{check:?}")),
    ] {
        for canary in &canaries {
            let line = content.lines().find(|line| line.contains(canary));
            assert_eq!(line, None, "{canary} in {name}");
        }
    }
    // They were there to be found.
    assert!(said.contains("$withheld:") && text(&killed).contains("resource changed"));
}

#[test]
fn data_is_for_its_owner_only() {
    let setup = Setup::default().without_env("PORTCULLIS_ADMIN_KEY");
    let gateway = setup.start();
    let data = gateway.data_path();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    let mut names = Vec::new();
    for path in files(&data) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        // A certificate is no secret.
        if !name.ends_with(".crt") {
            assert_eq!(mode(&path), 0o600, "{name}");
        }
        names.push(name);
    }
    for name in ["admin.key", "admin-https.key", "kek"] {
        assert!(names.iter().any(|found| found == name), "{names:?}");
    }
}

#[test]
fn first_start_makes_an_admin_key_once_and_never_prints_it() {
    let setup = Setup::default().without_env("PORTCULLIS_ADMIN_KEY");
    let gateway = setup.clone().start();
    let key = fs::read_to_string(gateway.data_path().join("admin.key")).unwrap();
    let ask = |gateway: &Gateway, key: &str| {
        let url = format!(
            "http://127.0.0.1:{}/apisix/admin/routes",
            gateway.port("admin")
        );
        Curl::new(&url).header(&format!("X-API-KEY: {key}")).send()
    };
    ask(&gateway, key.trim()).expect_status(200);
    ask(&gateway, "").expect_status(401);
    ask(&gateway, ADMIN_KEY).expect_status(401);
    let check = setup.run(&["check"]);
    assert!(
        check.status.success() && check.stdout.contains("admin.key holds the admin key"),
        "{check:?}"
    );
    let stopped = gateway.stop();
    assert!(text(&stopped).contains("admin.key") && !text(&stopped).contains(key.trim()));
    let again = setup.start();
    assert_eq!(
        fs::read_to_string(again.data_path().join("admin.key")).unwrap(),
        key
    );
    ask(&again, key.trim()).expect_status(200);
}

#[test]
fn memory_store_forgets_and_says_so() {
    let setup = Setup::default().set("store", "memory");
    let gateway = setup.clone().start();
    gateway
        .admin_put("/services/s", &json!({}))
        .expect_status(201);
    gateway.expect_log("the warning", |line| {
        field(line, "message")
            .is_some_and(|text| text.contains("everything is gone with the process"))
    });
    gateway.stop();
    setup.start().admin_get("/services/s").expect_status(404);
}
