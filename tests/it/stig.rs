//! `portcullis check --profile stig`: each point passes, and fails for its own reason alone.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::Finished;
use crate::support::fips::Module;
use crate::support::gateway::Setup;
use crate::support::pki::{KeyKind, Leaf, Validity};
use crate::support::site::Site;

/// What does not depend on the machine that the tests run on.
const OURS: [&str; 10] = [
    "tls-version",
    "fips-algorithms",
    "verify-depth",
    "approved-cas",
    "revocation",
    "key-file-mode",
    "key-size",
    "signature-digest",
    "chain",
    "session-limits",
];

/// A gateway whose admin listener has a certificate of the site, and the CAs that the site approves.
struct Audited {
    site: Site,
    setup: Setup,
    approved: PathBuf,
}

impl Audited {
    fn with(setup: Setup) -> Self {
        // The CA is the site's, which is there before its admin certificate can be.
        let site = Site::with(setup.clone());
        let admin = site.write(&site.ca.server("localhost"), "admin");
        fs::set_permissions(&admin.key, Permissions::from_mode(0o600)).unwrap();
        let approved = site.ca.write(site.folder.path(), "approved");
        let setup = setup
            .data(&site.gateway.data())
            .set("admin.https.cert", admin.cert.to_str().unwrap())
            .set("admin.https.key", admin.key.to_str().unwrap());
        Self {
            site,
            setup,
            approved,
        }
    }

    fn check(&self, setup: &Setup, more: &[&str]) -> Finished {
        let approved = self.approved.to_str().unwrap();
        let verb = ["check", "--profile", "stig", "--approved-cas", approved];
        setup.run(&[&verb, more].concat())
    }

    /// The points that are ours, by id, with this change of the setup.
    fn points(&self, change: impl FnOnce(Setup) -> Setup) -> BTreeMap<String, Value> {
        let told = self.check(&change(self.setup.clone()), &["--json"]);
        points(&told)
    }

    /// Which of them fail.
    fn failing(&self, change: impl FnOnce(Setup) -> Setup) -> Vec<String> {
        let points = self.points(change).into_iter();
        let failing = points.filter(|(_, point)| point["outcome"] == "fail");
        failing.map(|(id, _)| id).collect()
    }
}

fn points(told: &Finished) -> BTreeMap<String, Value> {
    let report: Value = serde_json::from_str(&told.stdout).unwrap_or_else(|_| panic!("{told:?}"));
    let all = report["points"].as_array().unwrap();
    let is_bad = all.iter().any(|point| point["outcome"] == "fail");
    assert_eq!(told.status.success(), !is_bad, "{report:#}");
    assert_eq!(all.len(), 12);
    for point in all {
        let (outcome, remedy) = (point["outcome"].as_str().unwrap(), &point["remedy"]);
        assert!(["pass", "fail", "not_applicable"].contains(&outcome));
        assert_eq!(remedy.is_string(), outcome == "fail", "{point}");
        let looked_at = point["looked_at"].as_array().unwrap();
        assert!(!looked_at.is_empty(), "{point}");
    }
    let all = all
        .iter()
        .map(|point| (point["id"].as_str().unwrap().to_owned(), point.clone()));
    all.filter(|(id, _)| OURS.contains(&id.as_str())).collect()
}

#[test]
fn point_of_the_configuration_fails_for_its_own_reason_alone() {
    let Some(module) = Module::copy() else { return };
    let audited = Audited::with(module.setup());
    audited
        .site
        .put_ssl("plain", "plain.example.com", &json!({}));
    let as_it_is = audited.points(|setup| setup);
    for id in OURS {
        // Nobody is asked for a certificate.
        let is_about_clients = ["verify-depth", "approved-cas", "revocation"].contains(&id);
        let outcome = if is_about_clients {
            "not_applicable"
        } else {
            "pass"
        };
        assert_eq!(as_it_is[id]["outcome"], outcome, "{}", as_it_is[id]);
    }
    assert_eq!(
        audited.failing(|setup| setup.set("fips", "off")),
        ["fips-algorithms"]
    );
    let long = audited.points(|setup| setup.set("limits.idle_timeout", "1h"));
    assert_eq!(long["session-limits"]["outcome"], "fail");
    assert_eq!(
        long["session-limits"]["found"],
        json!(["limits.idle_timeout: 3600s, at most 900s"])
    );
    let trusting = audited.failing(|setup| setup.set("upstream.trust_file", "system"));
    assert_eq!(trusting, ["approved-cas"]);

    let key = audited.site.folder.path().join("admin.key");
    fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
    let open = audited.points(|setup| setup);
    let found = format!("{}: mode 0640", key.display());
    assert_eq!(open["key-file-mode"]["found"], json!([found]));
    fs::set_permissions(&key, Permissions::from_mode(0o400)).unwrap();
    assert_eq!(audited.failing(|setup| setup), Vec::<String>::new());

    // Without the site's CAs what depends on them is not shown, so it does not pass.
    let told = audited
        .setup
        .run(&["check", "--profile", "stig", "-o", "json"]);
    let untold = points(&told);
    assert_eq!(untold["chain"]["outcome"], "fail");
    let remedy = untold["chain"]["remedy"].as_str().unwrap();
    assert!(remedy.contains("--approved-cas"), "{remedy}");
}

#[test]
fn point_of_a_stored_object_names_the_object() {
    let audited = Audited::with(Setup::default().set("fips", "off"));
    let site = &audited.site;
    let fails = |id: &str, others: &[&str], wanted: &str| {
        let points = audited.points(|setup| setup);
        let found = &points[id]["found"];
        assert_eq!(points[id]["outcome"], "fail", "{}", points[id]);
        assert!(found.to_string().contains(wanted), "{wanted:?}: {found}");
        for (other, point) in &points {
            if point["outcome"] == "fail" {
                let known = ["fips-algorithms", id];
                let is_known = known.contains(&other.as_str()) || others.contains(&other.as_str());
                assert!(is_known, "beside {id}: {point}");
            }
        }
    };
    let edwards = site.ca.issue(&Leaf {
        key: KeyKind::Ed25519,
        ..Leaf::server("a.example.com")
    });
    site.put_ssl_with("a", "a.example.com", &edwards, &json!({}));
    fails(
        "key-size",
        &[],
        "ssls/a key: certificate 1 has the algorithm Ed25519",
    );

    // Its intermediate is not sent along.
    let mut pair = site.ca.intermediate("Between").server("a.example.com");
    let whole = pair.clone();
    let end = "-----END CERTIFICATE-----\n";
    let leaf = pair.cert.find(end).unwrap() + end.len();
    pair.cert.truncate(leaf);
    site.put_ssl_with("a", "a.example.com", &pair, &json!({}));
    fails("chain", &[], "ssls/a key: unable to get");
    site.put_ssl_with("a", "a.example.com", &whole, &json!({}));

    let client = |depth: u32, ca: &str| json!({"client": {"ca": ca, "depth": depth}});
    site.put_ssl("a", "a.example.com", &client(1, &site.ca.pem()));
    fails("revocation", &[], "ssls/a: there is no client.crl");
    let listed = json!({"client": {
        "ca": site.ca.pem(), "crl": site.ca.crl(&[], Validity::Now),
    }});
    site.put_ssl("a", "a.example.com", &listed);
    let points = audited.points(|setup| setup);
    assert_eq!(points["revocation"]["outcome"], "pass");
    assert_eq!(points["revocation"]["found"], json!(["ssls/a: client.crl"]));
    let points = audited.points(|setup| setup);
    assert_eq!(
        points["verify-depth"]["found"],
        json!(["ssls/a: 1 intermediates at most"])
    );
    assert_eq!(points["approved-cas"]["outcome"], "pass");
    site.put_ssl("a", "a.example.com", &client(11, &site.ca.pem()));
    fails("verify-depth", &["revocation"], "ssls/a: 11 intermediates");
    let stranger = crate::support::pki::Ca::root("Stranger");
    site.put_ssl("a", "a.example.com", &client(1, &stranger.pem()));
    fails(
        "approved-cas",
        &["revocation"],
        "ssls/a client.ca: CN=Stranger",
    );
    site.put_ssl("a", "a.example.com", &json!({}));

    let upstream = |tls: Value| {
        let nodes = json!({"127.0.0.1:1": 1});
        let document = json!({"scheme": "https", "nodes": nodes, "tls": tls});
        site.gateway.configure("/upstreams/u", &document);
    };
    upstream(json!({"verify": false}));
    fails("approved-cas", &[], "upstreams/u: tls.verify is not true");
    let old = site.ca.issue_with_sha1(&Leaf::server("old.example.com"));
    upstream(json!({"verify": true, "ca_certs": [site.ca.pem(), old.cert]}));
    let wanted = "upstreams/u tls.ca_certs: certificate 2 is signed with ecdsa-with-SHA1";
    fails("signature-digest", &["approved-cas"], wanted);
}

#[test]
fn keys_beneath_roots_and_logins_of_managers_are_looked_at_too() {
    let roots = tempfile::TempDir::new().unwrap();
    let root = format!("[{{name: certs, path: {}}}]", roots.path().display());
    let setup = Setup::default().set("fips", "off");
    let audited = Audited::with(setup.set("secrets.file.roots", &root));
    let site = &audited.site;
    let finds = |id: &str, change: &dyn Fn(Setup) -> Setup| {
        let points = audited.points(change);
        (
            points[id]["outcome"].clone(),
            points[id]["found"].to_string(),
        )
    };
    let as_it_is: &dyn Fn(Setup) -> Setup = &|setup| setup;

    let pair = site.ca.server("a.example.com").write(roots.path(), "a");
    let text = |path: &std::path::Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let refer = |path| format!("$secret://file/certs/{}", text(path));
    let referring = json!({
        "cert": refer(&pair.cert), "key": refer(&pair.key), "snis": ["a.example.com"],
    });
    for (mode, outcome) in [(0o644, "fail"), (0o600, "pass")] {
        fs::set_permissions(&pair.key, Permissions::from_mode(mode)).unwrap();
        site.gateway.configure("/ssls/a", &referring);
        let (found, told) = finds("key-file-mode", as_it_is);
        assert_eq!(found, outcome, "{told}");
        assert!(told.contains(pair.key.to_str().unwrap()), "{told}");
    }

    // A file with an admin key, and one with a token, hold secrets as well.
    let token = roots.path().join("token");
    fs::write(&token, "a token of many letters, for nobody").unwrap();
    let named = token.to_str().unwrap();
    let key = format!("[{{name: a, key: '@{named}', role: admin}}]");
    for (mode, outcome) in [(0o644, "fail"), (0o600, "pass")] {
        fs::set_permissions(&token, Permissions::from_mode(mode)).unwrap();
        for (member, value) in [
            ("secrets.vault.token_file", named),
            ("admin.keys", key.as_str()),
        ] {
            let (found, told) = finds("key-file-mode", &|setup| setup.set(member, value));
            assert_eq!(found, outcome, "{member}: {told}");
        }
    }

    let vault = |pair: &crate::support::pki::Pair| {
        let auth = json!({"method": "cert", "cert": pair.cert, "key": pair.key});
        let secret = json!({"uri": "https://127.0.0.1:1", "prefix": "kv", "auth": auth});
        site.gateway.configure("/secrets/vault/1", &secret);
    };
    let chosen = site.folder.path().join("vault-ca.pem");
    fs::write(&chosen, site.ca.pem()).unwrap();
    let trusting: &dyn Fn(Setup) -> Setup =
        &|setup| setup.set("secrets.vault.trust_file", chosen.to_str().unwrap());
    let named = "secrets/vault/1: secrets.vault.trust_file: `system`";
    for (change, outcome) in [(as_it_is, "fail"), (trusting, "pass")] {
        vault(&site.ca.client("gateway"));
        let (found, told) = finds("approved-cas", change);
        assert_eq!(
            (&found, told.contains(named)),
            (&json!(outcome), outcome == "fail"),
            "{told}"
        );
        for id in ["key-size", "signature-digest", "chain"] {
            let (found, told) = finds(id, change);
            assert_eq!(found, "pass", "{told}");
            assert!(told.contains("secrets/vault/1 auth.key"), "{told}");
        }
    }
    vault(&site.ca.issue(&Leaf {
        key: KeyKind::Ed25519,
        ..Leaf::client("gateway")
    }));
    let (found, told) = finds("key-size", trusting);
    assert_eq!(found, "fail");
    assert!(
        told.contains("secrets/vault/1 auth.key: certificate 1 has"),
        "{told}"
    );
    vault(&crate::support::pki::Ca::root("Stranger").client("gateway"));
    let (found, told) = finds("chain", trusting);
    assert_eq!(found, "fail");
    assert!(told.contains("secrets/vault/1 auth.key: "), "{told}");
}

#[test]
fn account_is_that_of_the_process_that_serves() {
    let gateway = Setup::default().set("fips", "off").start();
    let setup = Setup::default().set("fips", "off").data(&gateway.data());
    let process = gateway.process_id();
    let looked_at = || {
        let told = setup.run(&["check", "--profile", "stig", "--json"]);
        let report: Value = serde_json::from_str(&told.stdout).unwrap();
        let mut points = report["points"].as_array().unwrap().clone();
        points.retain(|point| point["id"] == "service-account");
        points[0]["looked_at"].to_string()
    };
    let serving = looked_at();
    assert!(
        serving.contains(&format!("process {process}, which serves")),
        "{serving}"
    );
    gateway.stop();
    let stopped = looked_at();
    assert!(stopped.contains("since no gateway runs there"), "{stopped}");
}

#[test]
fn page_says_where_it_looked_and_what_to_do() {
    let gateway = Setup::default().set("fips", "off").start();
    let setup = Setup::default().set("fips", "off").data(&gateway.data());
    let told = setup.run(&["check", "--profile", "stig"]);
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    for line in [
        "pass           tls-version: TLS 1.2 or newer everywhere",
        "fail           fips-algorithms: FIPS-approved algorithms only",
        "               looked at: the module itself",
        "               remedy: set `fips: required`, `fips_module_dir` and `fips_version`; \
         see fips/README.md",
        "not_applicable revocation: revoked client certificates are refused, by OCSP or CRL",
    ] {
        assert!(
            told.stdout.lines().any(|found| found == line),
            "{line}\n{}",
            told.stdout
        );
    }
    let last = told.stdout.lines().last().unwrap();
    assert!(last.starts_with("12 points: "), "{last}");
    let missing = setup.run(&[
        "check",
        "--profile",
        "stig",
        "--approved-cas",
        "/no/such/file",
    ]);
    assert!(
        missing
            .stderr
            .contains("--approved-cas: /no/such/file cannot be read"),
        "{missing:?}"
    );
}
