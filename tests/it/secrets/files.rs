//! Values in files and in the environment.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;
use tempfile::TempDir;

use super::{NAME, expect_state, setup, status};
use crate::support::client::{Curl, shown_serial};
use crate::support::gateway::{ADMIN_KEY, Gateway, Setup, field};
use crate::support::origin::{Nginx, Origin};
use crate::support::pki::{Ca, Pair};
use crate::support::site::Site;
use crate::support::{SOON, SetAtEnd, TlsVersion, eventually};

/// What sets the root `certs` to this folder.
fn root(folder: &Path) -> String {
    format!("[{{name: certs, path: {}}}]", folder.display())
}

/// A setup whose root `certs` is this folder.
fn rooted(folder: &TempDir) -> Setup {
    setup().set("secrets.file.roots", &root(folder.path()))
}

/// Puts a pair into a volume as Kubernetes does: a folder beside the others, then one swap.
fn swap(volume: &Path, generation: usize, pair: &Pair) {
    let name = format!("..{generation}");
    let folder = volume.join(&name);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("tls.crt"), &pair.cert).unwrap();
    fs::write(folder.join("tls.key"), &pair.key).unwrap();
    symlink(&name, volume.join("..new")).unwrap();
    fs::rename(volume.join("..new"), volume.join("..data")).unwrap();
    for file in ["tls.crt", "tls.key"] {
        let _there = symlink(format!("..data/{file}"), volume.join(file));
    }
}

fn referring() -> serde_json::Value {
    json!({
        "cert": "$secret://file/certs/web/tls.crt",
        "key": "$secret://file/certs/web/tls.key",
        "snis": [NAME]
    })
}

#[track_caller]
fn expect_serial(gateway: &Gateway, pair: Option<&Pair>) {
    let serial = pair.map(Pair::serial);
    for version in TlsVersion::ALL {
        eventually(SOON, "the certificate is shown", || {
            (shown_serial(gateway.https_port(), NAME, version) == serial).then_some(())
        });
    }
}

#[test]
fn pair_of_a_volume_is_served_at_once_and_followed_when_it_is_swapped() {
    let (folder, ca) = (TempDir::new().unwrap(), Ca::root("CA"));
    let (old, new) = (ca.server(NAME), ca.server(NAME));
    swap(&folder.path().join("web"), 1, &old);
    let site = Site::with(rooted(&folder));
    let written = site.gateway.admin_put("/ssls/web", &referring());
    let written = written.expect_status(201);
    assert_eq!(written.header("x-portcullis-warning"), None, "{written:?}");
    assert_eq!(written.json()["value"]["key"], referring()["key"]);
    let told = status(&site.gateway, "ssls", "web", "/key").unwrap();
    assert_eq!(told["state"], "ok", "the reply is not ahead of it");
    for version in TlsVersion::ALL {
        let shown = shown_serial(site.gateway.https_port(), NAME, version);
        assert_eq!(shown, Some(old.serial()));
    }
    let mut kept = site.client(NAME).connect().unwrap();
    let before = expect_state(&site.gateway, "ssls", "web", "/key", "ok");
    swap(&folder.path().join("web"), 2, &new);
    expect_serial(&site.gateway, Some(&new));
    // What was open stays open: a new certificate asks nothing else of clients.
    assert_eq!(kept.get(NAME, "/").unwrap().status, 200);
    let row = eventually(SOON, "the digest is another one", || {
        status(&site.gateway, "ssls", "web", "/key").filter(|row| row["digest"] != before["digest"])
    });
    assert_eq!(row["manager"], "file/certs");
    assert!(row["next_refresh_seconds"].is_u64() && row["age_seconds"].is_u64());
    assert_eq!(row["last_error"], json!(null));
    let page = row.to_string();
    assert!(!page.contains("PRIVATE KEY") && !page.contains(new.key_lines()[1]));
    eventually(SOON, "metrics count references", || {
        (site.metric("portcullis_secret_references{state=\"ok\"}") == 2).then_some(())
    });
    assert!(site.metric("portcullis_secret_reads_total{manager=\"file\",result=\"ok\"}") > 0);
    let page = Curl::new(&site.gateway.status_url("/apisix/prometheus/metrics")).send();
    let age = "portcullis_secret_age_seconds{manager=\"file/certs\"} ";
    assert!(page.body.contains(age), "{page:?}");
    // Nothing is left of references that are gone.
    site.gateway.admin_delete("/ssls/web").expect_status(200);
    eventually(SOON, "the references are gone", || {
        status(&site.gateway, "ssls", "web", "/key")
            .is_none()
            .then_some(())
    });
}

#[test]
fn change_is_served_long_before_anything_is_looked_at() {
    let (folder, ca) = (TempDir::new().unwrap(), Ca::root("CA"));
    let web = folder.path().join("web");
    swap(&web, 1, &ca.server(NAME));
    // Nothing is read again by itself for most of a minute.
    let roots = root(folder.path());
    let gateway = Setup::default().set("secrets.file.roots", &roots).start();
    gateway.configure("/ssls/web", &referring());
    for generation in 2..8 {
        let pair = ca.server(NAME);
        swap(&web, generation, &pair);
        expect_serial(&gateway, Some(&pair));
    }
    // The whole folder is another one, of plain files.
    let pair = ca.server(NAME);
    let other = folder.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("tls.crt"), &pair.cert).unwrap();
    fs::write(other.join("tls.key"), &pair.key).unwrap();
    fs::rename(&web, folder.path().join("away")).unwrap();
    fs::rename(&other, &web).unwrap();
    expect_serial(&gateway, Some(&pair));
    // And written where they lie, one after the other.
    let pair = ca.server(NAME);
    fs::write(web.join("tls.crt"), &pair.cert).unwrap();
    fs::write(web.join("tls.key"), &pair.key).unwrap();
    expect_serial(&gateway, Some(&pair));
    let row = status(&gateway, "ssls", "web", "/key").unwrap();
    assert!(row["next_refresh_seconds"].as_u64().unwrap() > 30, "{row}");
}

#[test]
fn file_that_cannot_be_watched_is_looked_at_and_the_log_says_so() {
    let gateway = Setup::default()
        .set("secrets.file.roots", &root(Path::new("/proc/sys/kernel")))
        .start();
    let pair = Ca::root("CA").server(NAME);
    let mut ssl = json!({"cert": pair.cert, "key": "$secret://file/certs/none", "snis": [NAME]});
    gateway.admin_put("/ssls/web", &ssl).expect_status(201);
    let line = gateway.expect_log("that it is looked at", |line| {
        field(line, "message").is_some_and(|text| text.contains("it is looked at every 2 s"))
    });
    let reason = field(&line, "reason").unwrap();
    assert!(reason.contains("the file system of /proc "), "{reason}");
    // It is read as any other is.
    ssl["key"] = json!("$secret://file/certs/ostype");
    let refused = gateway.admin_put("/ssls/web", &ssl).expect_status(400);
    assert!(
        refused.body.contains("$secret://file/certs/ostype"),
        "{refused:?}"
    );
}

#[test]
fn value_that_does_not_work_keeps_the_last_good_one_until_it_does() {
    let (folder, ca) = (TempDir::new().unwrap(), Ca::root("CA"));
    let (old, new) = (ca.server(NAME), ca.server(NAME));
    let web = folder.path().join("web");
    fs::create_dir(&web).unwrap();
    fs::write(web.join("tls.crt"), &old.cert).unwrap();
    fs::write(web.join("tls.key"), &old.key).unwrap();
    let site = Site::with(rooted(&folder));
    site.gateway
        .admin_put("/ssls/web", &referring())
        .expect_status(201);
    expect_state(&site.gateway, "ssls", "web", "/cert", "ok");
    for broken in [new.cert.as_str(), "no certificate"] {
        fs::write(web.join("tls.crt"), broken).unwrap();
        let row = expect_state(&site.gateway, "ssls", "web", "/cert", "invalid");
        assert_eq!(row["reason"], "secret_invalid");
        expect_serial(&site.gateway, Some(&old));
        // A write of the same is taken, and told.
        let taken = site.gateway.admin_put("/ssls/web", &referring());
        let taken = taken.expect_status(200);
        let warning = taken.header("x-portcullis-warning").unwrap_or_default();
        assert!(warning.starts_with("secret_invalid "), "{taken:?}");
        expect_serial(&site.gateway, Some(&old));
        fs::write(web.join("tls.crt"), &old.cert).unwrap();
        expect_state(&site.gateway, "ssls", "web", "/cert", "ok");
    }
    let counted = "portcullis_failures_total{blame=\"us\",reason=\"secret_invalid\"}";
    assert!(site.metric(counted) > 0);
    // A write of a reference whose value does not work is refused, and what was served stays.
    fs::write(web.join("other.key"), &new.key).unwrap();
    let mut other = referring();
    other["key"] = json!("$secret://file/certs/web/other.key");
    let refused = site.gateway.admin_put("/ssls/web", &other);
    let refused = refused.expect_status(400);
    assert!(
        refused
            .body
            .contains("the value of $secret://file/certs/web/"),
        "{refused:?}"
    );
    assert!(!refused.body.contains(new.key_lines()[1]));
    expect_serial(&site.gateway, Some(&old));
    fs::write(web.join("tls.crt"), &new.cert).unwrap();
    site.gateway
        .admin_put("/ssls/web", &other)
        .expect_status(200);
    expect_serial(&site.gateway, Some(&new));
}

#[test]
fn last_good_values_survive_a_restart_and_are_used_for_a_bounded_time() {
    let (folder, ca) = (TempDir::new().unwrap(), Ca::root("CA"));
    let (old, new) = (ca.server(NAME), ca.server(NAME));
    let volume = folder.path().join("web");
    swap(&volume, 1, &old);
    let gateway = rooted(&folder).start();
    gateway.configure("/ssls/web", &referring());
    expect_serial(&gateway, Some(&old));
    let data = gateway.data();
    gateway.stop();
    let away = folder.path().join("away");
    fs::rename(&volume, &away).unwrap();
    // Nothing of the key lies in the open.
    let stored = fs::read(data.path().join("data/portcullis.db")).or_else(|_| {
        let found = walk(data.path());
        Ok::<_, std::io::Error>(found)
    });
    let stored = String::from_utf8_lossy(&stored.unwrap()).into_owned();
    assert!(!stored.contains(old.key_lines()[1]));

    let gateway = rooted(&folder).data(&data).start();
    expect_serial(&gateway, Some(&old));
    let row = expect_state(&gateway, "ssls", "web", "/key", "stale");
    assert_eq!(row["reason"], "secret_unresolved");
    assert!(
        row["last_error"]
            .as_str()
            .unwrap()
            .contains("nothing there")
    );
    gateway.stop();

    // Too old to be served: the name is closed, and opens by itself.
    let short = || rooted(&folder).data(&data).set("secrets.max_age", "1s");
    let gateway = short().start();
    expect_state(&gateway, "ssls", "web", "/key", "unresolved");
    expect_serial(&gateway, None);
    fs::rename(&away, &volume).unwrap();
    swap(&volume, 2, &new);
    expect_serial(&gateway, Some(&new));
    expect_state(&gateway, "ssls", "web", "/key", "ok");
    // And while it runs.
    fs::rename(&volume, &away).unwrap();
    expect_serial(&gateway, None);
    fs::rename(&away, &volume).unwrap();
    expect_serial(&gateway, Some(&new));
}

/// All bytes of all files of a folder.
fn walk(folder: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(walk(&path));
        } else {
            all.extend(fs::read(&path).unwrap_or_default());
        }
    }
    all
}

#[test]
fn environment_is_read_but_for_what_is_the_gateways_own() {
    let pair = Ca::root("CA").server(NAME);
    let both = json!({"cert": pair.cert, "key": pair.key}).to_string();
    let gateway = setup().env("WEB", &both).start();
    let ssl = json!({"cert": "$env://WEB/cert", "key": "$ENV://WEB/key", "snis": [NAME]});
    gateway.configure("/ssls/web", &ssl);
    expect_serial(&gateway, Some(&pair));
    let other = Ca::root("CA").server("x.test");
    for own in ["PORTCULLIS_ADMIN_KEY", "VAULT_TOKEN", "OPENSSL_CONF"] {
        let ssl = json!({"cert": other.cert, "key": format!("$env://{own}"), "snis": ["x.test"]});
        let taken = gateway.admin_put("/ssls/own", &ssl);
        let warning = taken.header("x-portcullis-warning").unwrap_or_default();
        assert!(warning.contains("the gateway itself reads"), "{taken:?}");
        assert!(!format!("{taken:?}").contains(ADMIN_KEY));
        let closed = shown_serial(gateway.https_port(), "x.test", TlsVersion::V13);
        assert_eq!(closed, None);
    }
}

#[test]
fn identity_and_trust_towards_an_upstream_follow_their_files_and_fail_no_request() {
    let (folder, ca) = (TempDir::new().unwrap(), Ca::root("CA"));
    let volume = folder.path().join("up");
    let write = |generation: usize| {
        let ours = ca.client(&format!("gateway-{generation}"));
        swap(&volume, generation, &ours);
    };
    write(1);
    fs::write(folder.path().join("ca.crt"), ca.pem()).unwrap();
    let origin = Origin::nginx(&Nginx::mutual(ca.server("up.example.com"), ca.pem()));
    let gateway = rooted(&folder).start();
    let service = json!({"upstream": {
        "scheme": "https", "pass_host": "rewrite", "upstream_host": "up.example.com",
        "nodes": {origin.node(): 1},
        "tls": {
            "client_cert": "$secret://file/certs/up/tls.crt",
            "client_key": "$secret://file/certs/up/tls.key",
            "verify": true, "ca_certs": ["$secret://file/certs/ca.crt"]
        }
    }});
    gateway.configure("/services/s", &service);
    gateway.configure("/routes/r", &json!({"uri": "/*", "service_id": "s"}));
    let url = gateway.http_url("/");
    let (is_over, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let _over = SetAtEnd(&is_over);
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    Curl::new(&url).send().expect_status(200);
                    asked.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for generation in 2..6 {
            write(generation);
            let before = asked.load(Ordering::SeqCst);
            eventually(SOON, "the upstream sees the new certificate", || {
                let seen = Curl::new(&url).send().expect_status(200).body;
                let is_new = seen.contains(&format!("gateway-{generation}"));
                // The others are served meanwhile.
                (is_new && asked.load(Ordering::SeqCst) > before).then_some(())
            });
        }
    });
}

#[test]
fn refreshed_values_are_recorded_with_what_they_weaken() {
    let folder = TempDir::new().unwrap();
    let (ours, others) = (Ca::root("Ours"), Ca::root("Others"));
    let pair = ours.server(NAME);
    let file = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    file("tls.crt", &pair.cert);
    file("tls.key", &pair.key);
    file("ca.crt", &ours.pem());
    let gateway = rooted(&folder)
        .set("security.refuse_weakening", "true")
        .start();
    let ssl = json!({
        "cert": "$secret://file/certs/tls.crt", "key": "$secret://file/certs/tls.key",
        "snis": [NAME], "client": {"ca": "$secret://file/certs/ca.crt"}
    });
    gateway.admin_put("/ssls/web", &ssl).expect_status(201);
    let modified = || {
        let shown = gateway.admin_get("/ssls/web").expect_status(200).json();
        shown["modifiedIndex"].clone()
    };
    let written = modified();
    let port = gateway.port("admin");
    let audit = |path: &str| {
        Curl::new(&format!(
            "http://127.0.0.1:{port}/portcullis/v1/audit{path}"
        ))
        .header(&format!("X-API-KEY: {ADMIN_KEY}"))
        .send()
        .expect_status(200)
        .json()
    };
    assert_eq!(audit("?action=refresh")["list"], json!([]));
    let recorded = |query: &str, count: usize| {
        eventually(SOON, "it is recorded", || {
            let list = audit(query)["list"].as_array().unwrap().clone();
            (list.len() == count).then(|| list[0].clone())
        })
    };
    // Another certificate and key: one record, of both.
    let new = ours.server(NAME);
    swap_files(&folder, &new);
    let record = recorded("?action=refresh", 1);
    assert_eq!(
        (&record["kind"], &record["id"]),
        (&json!("ssl"), &json!("web"))
    );
    assert_eq!(record["changed"], json!(["/cert", "/key"]));
    let references = "$secret://file/certs/tls.crt, $secret://file/certs/tls.key";
    assert_eq!(record["actor"], references);
    assert_eq!(record["weakens"], json!([]));
    // A further CA: less strict, as a write would say, and nobody there to be refused.
    file("ca.crt", &format!("{}{}", ours.pem(), others.pem()));
    let record = recorded("?weakens=true", 1);
    assert_eq!(record["action"], "refresh");
    assert_eq!(record["actor"], "$secret://file/certs/ca.crt");
    assert_eq!(record["changed"], json!(["/client/ca"]));
    let phrase = record["weakens"][0].as_str().unwrap();
    assert!(phrase.contains("further CAs"), "{record}");
    let stranger = others.client("stranger");
    for version in TlsVersion::ALL {
        let client = gateway.tls(NAME, version).cert(&stranger);
        let answered = || client.get(NAME, "/").ok().map(|answer| answer.status);
        let status = eventually(SOON, "whom it trusts is let in", answered);
        assert_eq!(status, 404);
    }
    // And back: stricter again.
    file("ca.crt", &ours.pem());
    let record = recorded("?action=refresh", 3);
    assert_eq!(record["weakens"], json!([]));
    // The object is as it was written, and the chain whole.
    assert_eq!(modified(), written);
    let verdict = audit("/verify");
    assert_eq!(verdict["audit_count"], 4, "{verdict}");
}

/// Puts a pair into two files; what is looked at in between does not fit, and is not taken.
fn swap_files(folder: &TempDir, pair: &Pair) {
    for (name, text) in [("tls.crt", &pair.cert), ("tls.key", &pair.key)] {
        fs::write(folder.path().join(name), text).unwrap();
    }
}
