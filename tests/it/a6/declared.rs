//! `a6 config`: what a file declares and what a server has, compared and made the same.

use std::fs;

use serde_json::{Value, json};

use super::apisix::Apisix;
use crate::support::a6::A6;
use crate::support::gateway::Gateway;
use crate::support::pki::{Ca, KeyKind, Leaf, Pair};

/// The file of the recipe "mutual TLS with a6", its placeholders filled in.
struct Recipe {
    text: String,
    server: Pair,
    client: Pair,
}

impl Recipe {
    fn new() -> Self {
        let ca = Ca::root("CA");
        let rsa = |leaf| Leaf {
            key: KeyKind::RsaPkcs1,
            ..leaf
        };
        let server = ca.issue(&rsa(Leaf::server("api.example.com")));
        let client = ca.issue(&rsa(Leaf::client("gateway")));
        let mut text = include_str!("recipe.yaml").to_owned();
        for (placeholder, pem) in [
            ("<server certificate>", &server.cert),
            ("<server private key>", &server.key),
            ("<CA certificate for client verification>", &ca.pem()),
            ("<client certificate for upstream>", &client.cert),
            ("<client private key for upstream>", &client.key),
        ] {
            let indent = text
                .lines()
                .find(|line| line.contains(placeholder))
                .unwrap();
            let indent = " ".repeat(indent.len() - indent.trim_start().len());
            let body: Vec<String> = pem
                .lines()
                .filter(|line| !line.starts_with("-----"))
                .map(|line| format!("{indent}{line}"))
                .collect();
            text = text.replace(&format!("{indent}{placeholder}"), &body.join("\n"));
        }
        Self {
            text,
            server,
            client,
        }
    }
}

const DONE_NOTHING: &str = "\
Sync completed:
upstreams: created=0 updated=0 deleted=0
services: created=0 updated=0 deleted=0
ssl: created=0 updated=0 deleted=0
secrets: created=0 updated=0 deleted=0
routes: created=0 updated=0 deleted=0
";

#[test]
fn file_of_the_recipe_is_synced_dumped_and_found_equal() {
    let gateway = Gateway::start();
    let recipe = Recipe::new();
    let plain = A6::at(&gateway);
    let https = format!("https://127.0.0.1:{}", gateway.port("admin_https"));
    plain.write("config.yaml", &recipe.text);
    let valid = plain
        .run(&["config", "validate", "-f", "config.yaml"])
        .expect_success();
    assert_eq!(valid.stdout, "Config is valid\n");
    let missing = plain.run(&["config", "diff", "-f", "config.yaml"]);
    assert_eq!(
        (missing.status.code(), missing.stderr.as_str()),
        (Some(1), "")
    );
    assert_eq!(
        missing.stdout,
        "Differences found:\n\
         upstreams: create=1 update=0 delete=0 unchanged=0\n  CREATE secure-backend\n\
         services: create=0 update=0 delete=0 unchanged=0\n\
         ssl: create=1 update=0 delete=0 unchanged=0\n  CREATE api-mtls\n\
         secrets: create=0 update=0 delete=0 unchanged=0\n\
         routes: create=1 update=0 delete=0 unchanged=0\n  CREATE mtls-api\n"
    );
    let dry = plain
        .run(&["config", "sync", "-f", "config.yaml", "--dry-run"])
        .expect_success();
    assert_eq!(dry.stdout, missing.stdout);
    let synced = plain
        .feed(&["config", "sync", "-f", "-"], &recipe.text)
        .expect_success();
    assert!(
        synced
            .stdout
            .starts_with("Sync completed:\nupstreams: created=1 updated=0"),
        "{synced:?}"
    );
    for server in [&["--verbose"][..], &["--insecure", "--server", &https]] {
        let a6 = |args: &[&str]| plain.run(&[server, args].concat());
        let same = a6(&["config", "diff", "-f", "config.yaml"]).expect_success();
        assert_eq!(same.stdout, "No differences found.\n");
        assert_eq!(
            a6(&["config", "sync", "-f", "config.yaml"]).stdout,
            DONE_NOTHING
        );
        a6(&["config", "dump", "-f", "dump.yaml"]).expect_success();
        let dump = fs::read_to_string(plain.folder().join("dump.yaml")).unwrap();
        assert!(dump.starts_with("version: \"1\"\nroutes:\n  - "), "{dump}");
        assert!(
            dump.contains("\nssls:\n") && dump.contains("$withheld:sha256:"),
            "{dump}"
        );
        for line in [recipe.server.key_lines(), recipe.client.key_lines()].concat() {
            assert!(!dump.contains(line), "{dump}");
        }
        a6(&["config", "diff", "-f", "dump.yaml"]).expect_success();
        assert_eq!(
            a6(&["config", "sync", "-f", "dump.yaml"]).stdout,
            DONE_NOTHING
        );
        let json = a6(&["config", "dump", "-o", "json"])
            .expect_success()
            .json();
        assert_eq!(json["routes"][0]["upstream_id"], "secure-backend");
    }
    let compat = plain
        .run(&["config", "dump", "--compat"])
        .expect_success()
        .stdout;
    assert!(
        compat.contains("\nssl:\n") && !compat.contains("\nssls:\n"),
        "{compat}"
    );
}

#[test]
fn another_key_is_a_difference_and_is_never_shown() {
    let gateway = Gateway::start();
    let a6 = A6::at(&gateway);
    let ca = Ca::root("CA");
    let (old, new) = (ca.server("a.test"), ca.server("a.test"));
    let config = |pair: &Pair| {
        let ssl = json!({"id": "a", "cert": pair.cert, "key": pair.key, "snis": ["a.test"]});
        json!({"version": "1", "ssls": [ssl], "secrets": [{"id": "vault/a",
            "uri": "https://vault.test", "prefix": "kv/a", "token": "s.hush"}]})
        .to_string()
    };
    a6.feed(&["config", "sync", "-f", "-"], &config(&old))
        .expect_success();
    let told = a6.feed(&["config", "diff", "-f", "-", "-o", "json"], &config(&new));
    assert_eq!(told.status.code(), Some(1));
    let diff = told.json();
    assert_eq!(diff["ssl"]["update"][0]["key"], "a");
    // What the server has of a token cannot be compared with one in the clear.
    assert_eq!(diff["secrets"]["update"][0]["key"], "vault/a");
    for line in [old.key_lines(), new.key_lines(), vec!["s.hush"]].concat() {
        assert!(!told.stdout.contains(line), "{told:?}");
    }
    a6.feed(&["config", "sync", "-f", "-"], &config(&new))
        .expect_success();
    assert_eq!(a6.run(&["ssl", "get", "a"]).json()["cert"], new.cert);
}

#[test]
fn nothing_of_an_object_is_dropped() {
    let apisix = Apisix::start();
    let a6 = apisix.a6();
    let config = json!({"version": 1, "services": [{"id": "s", "upstream": {
        "nodes": [{"host": "a", "port": 1, "weight": 1}], "tls": {"client_cert": "$env://C",
        "client_key": "$env://K", "verify": true}}, "plugins": {"x": {"y": [1.50, null]}},
        "new_in_2030": {"deep": true}}]});
    a6.feed(&["config", "sync", "-f", "-"], &config.to_string())
        .expect_success();
    let stored = apisix.stored("services/s").unwrap();
    for (name, value) in config["services"][0].as_object().unwrap() {
        assert_eq!(&stored[name], value);
    }
    a6.run(&["config", "dump", "-f", "dump.yaml"])
        .expect_success();
    a6.run(&["config", "diff", "-f", "dump.yaml"])
        .expect_success();
    a6.feed(&["config", "diff", "-f", "-"], &config.to_string())
        .expect_success();
}

/// Objects that refer to each other, both kinds of changes on the way from `before` to `after`.
fn chained(ids: &[&str], uri: &str) -> Value {
    let all = |make: &dyn Fn(&str) -> Value| ids.iter().map(|id| make(id)).collect::<Value>();
    json!({
        "version": "1",
        "routes": all(&|id| json!({"id": id, "uri": uri, "host": format!("{id}.test"), "service_id": id})),
        "services": all(&|id| json!({"id": id, "upstream_id": id})),
        "upstreams": all(&|id| json!({"id": id, "nodes": {"127.0.0.1:1": 1}})),
    })
}

#[test]
fn references_are_there_before_who_refers_and_go_after() {
    let gateway = Gateway::start();
    let a6 = A6::at(&gateway);
    let sync = |config: &Value| a6.feed(&["config", "sync", "-f", "-"], &config.to_string());
    sync(&chained(&["a", "b"], "/x")).expect_success();
    let done = sync(&chained(&["b", "c"], "/y")).expect_success();
    assert_eq!(
        done.stdout,
        "Sync completed:\n\
         upstreams: created=1 updated=0 deleted=1\n\
         services: created=1 updated=0 deleted=1\n\
         ssl: created=0 updated=0 deleted=0\n\
         secrets: created=0 updated=0 deleted=0\n\
         routes: created=1 updated=1 deleted=1\n"
    );
    let kept = a6.feed(
        &["config", "sync", "-f", "-", "--delete=false"],
        &json!({"version": "1"}).to_string(),
    );
    assert_eq!(kept.expect_success().stdout, DONE_NOTHING);
    assert_eq!(
        a6.run(&["route", "list"]).json().as_array().unwrap().len(),
        2
    );
}

#[test]
fn sync_that_was_interrupted_is_finished_by_the_next() {
    let (before, after) = (chained(&["a", "b"], "/x"), chained(&["b", "c"], "/y"));
    let reads = 5;
    for step in 0..30 {
        let apisix = Apisix::start();
        let a6 = apisix.a6();
        let sync = |config: &Value| a6.feed(&["config", "sync", "-f", "-"], &config.to_string());
        sync(&before).expect_success();
        apisix.fail_after(Some(step));
        let broken = sync(&after);
        apisix.fail_after(None);
        if broken.status.success() {
            assert_eq!(step, reads + 7, "three created, one updated, three deleted");
            return;
        }
        assert!(broken.stderr.contains("etcd is away"), "{broken:?}");
        assert_eq!(
            broken.stderr.contains("done so far"),
            step >= reads,
            "{broken:?}"
        );
        sync(&after).expect_success();
        let same = a6.feed(&["config", "diff", "-f", "-"], &after.to_string());
        assert_eq!(same.expect_success().stdout, "No differences found.\n");
    }
    panic!("the sync has no end");
}

#[test]
fn file_with_a_fault_sends_nothing() {
    let apisix = Apisix::start();
    let a6 = apisix.a6();
    let config = "version: 2\nssl:\n  - id: x y\n    snis: [a]\nrouts: []\n";
    for verb in ["validate", "diff", "sync"] {
        let refused = a6.feed(&["config", verb, "-f", "-"], config);
        refused.expect_failure(
            "config validation failed:\n\
             - version must be \"1\"\n\
             - unknown section \"routs\"; did you mean routes?\n\
             - ssl[0]: invalid id \"x y\"",
        );
    }
    assert_eq!(apisix.requests(), Vec::<String>::new());
}

#[test]
fn deletion_of_much_is_asked_for_and_refused_where_nobody_answers() {
    let apisix = Apisix::start();
    let a6 = apisix.a6();
    let ids: Vec<String> = (0..12).map(|n| format!("u{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let few = json!({"version": "1", "upstreams": [{"id": "u0", "nodes": {}}]}).to_string();
    let restore = || {
        let many = chained(&ids, "/x").to_string();
        a6.feed(&["config", "sync", "-f", "-"], &many)
            .expect_success();
    };
    restore();
    let refused = a6.feed(&["config", "sync", "-f", "-"], &few);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        refused
            .stderr
            .starts_with("nothing was changed: this would delete 35 of the 36"),
        "{refused:?}"
    );
    assert!(refused.stderr.contains("--yes"), "{refused:?}");
    a6.write("few.json", &few);
    let asked = a6
        .on_terminal("config sync -f few.json", "n\n")
        .expect_success();
    assert!(
        asked.stdout.contains("Delete 35 of the 36 objects"),
        "{asked:?}"
    );
    assert!(asked.stdout.contains("Aborted."), "{asked:?}");
    assert!(apisix.stored("upstreams/u7").is_some());
    a6.on_terminal("config sync -f few.json", "y\n")
        .expect_success();
    assert!(apisix.stored("upstreams/u7").is_none());
    restore();
    a6.run(&["config", "sync", "-f", "few.json", "--yes"])
        .expect_success();
    assert!(apisix.stored("upstreams/u7").is_none());
}

#[test]
fn many_objects_take_few_requests_and_connections() {
    let apisix = Apisix::start();
    let a6 = apisix.a6();
    let upstreams: Vec<Value> = (0..1200)
        .map(|n| json!({"id": format!("u{n:04}"), "nodes": {"a:1": 1}}))
        .collect();
    let config = json!({"version": "1", "upstreams": upstreams}).to_string();
    a6.write("config.json", &config);
    let synced = a6
        .on_terminal("config sync -f config.json", "")
        .expect_success();
    assert!(synced.stdout.contains("created=1200"), "{synced:?}");
    assert!(synced.stdout.contains("] 1200/1200"), "a bar is shown");
    assert!(apisix.connections() <= 8, "{}", apisix.connections());
    apisix.requests();
    let same = a6
        .run(&["config", "diff", "-f", "config.json"])
        .expect_success();
    assert_eq!(same.stdout, "No differences found.\n");
    let of_upstreams = || {
        let requests = apisix.requests();
        requests
            .iter()
            .filter(|it| it.contains("/upstreams"))
            .count()
    };
    assert_eq!(of_upstreams(), 1, "all at once");
    apisix.page_by_itself(20);
    a6.run(&["config", "diff", "-f", "config.json"])
        .expect_success();
    assert_eq!(of_upstreams(), 4, "20 of 1200, and three pages of 500");
    let dump = a6
        .run(&["config", "dump", "-o", "json"])
        .expect_success()
        .json();
    assert_eq!(dump["upstreams"].as_array().unwrap().len(), 1200);
}

#[test]
fn warnings_of_a_sync_name_their_object() {
    let gateway = Gateway::start();
    let a6 = A6::at(&gateway);
    let ca = Ca::root("CA");
    let upstream = |id: &str| {
        json!({"id": id, "scheme": "https", "nodes": {"a:1": 1},
            "tls": {"verify": true, "ca_certs": [ca.pem()]}})
    };
    let file = json!({"version": "1", "upstreams": [upstream("u"), upstream("v")]});
    let told = a6
        .feed(&["config", "sync", "-f", "-"], &file.to_string())
        .expect_success();
    for id in ["u", "v"] {
        let warning = format!("warning: upstream {id}: upstream_name_from_client /pass_host ");
        assert!(told.stderr.contains(&warning), "{told:?}");
    }
}
