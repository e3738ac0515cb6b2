//! Evidence: what the report on FIPS mode says, who may read it, and what its signature is worth.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use openssl::base64;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::client::{Curl, CurlOutcome, openssl_s_client};
use crate::support::fips::Module;
use crate::support::gateway::{ADMIN_KEY, Gateway, Setup};
use crate::support::origin::{Nginx, Origin};
use crate::support::pki::{Ca, KeyKind, Leaf};
use crate::support::site::Site;
use crate::support::{Finished, SOON, TlsVersion, program, run_to_end};

#[test]
fn report_of_a_gateway_says_what_it_runs_on() {
    let Some(module) = Module::copy() else { return };
    let digest = sha256_of(&module.file("fips.so"));
    let supplied = "uses the OpenSSL FIPS provider 3.1.2, supplied by the site";
    let functional = "uses the OpenSSL FIPS provider 3.1.2, functional build";
    for (statement, record) in [
        (supplied, None),
        (functional, Some(format!("sha256: {digest}\n"))),
    ] {
        if let Some(record) = record {
            fs::write(module.file("functional-build"), record).unwrap();
        }
        let gateway = module.setup().start();
        let before = report(&gateway);
        assert_eq!(before["statement"], statement);
        assert_eq!(
            (&before["fips"], &before["gateway"]["process"]),
            (&json!("required"), &json!("serving"))
        );
        let told = &before["module"];
        assert_eq!(told["name"], "OpenSSL FIPS Provider");
        assert_eq!(told["version"], "3.1.2");
        assert_eq!(told["path"], module.file("fips.so").to_str().unwrap());
        assert_eq!(told["sha256"], digest.as_str());
        assert_eq!(
            (&told["conditional_errors"], &told["drbg_no_trunc_md"]),
            (&json!(true), &json!(true))
        );
        assert_eq!(
            (&told["state"], &told["tls1_prf_ems_check"]),
            (&json!("operational"), &json!(true))
        );
        assert_eq!(
            (
                &told["self_tests"]["count"],
                &told["self_tests"]["last_occasion"]
            ),
            (&json!(1), &json!("start"))
        );

        own(&gateway, "POST", "/fips/self-test", ADMIN_KEY).expect_status(200);
        let tests = &report(&gateway)["module"]["self_tests"];
        assert_eq!(
            (&tests["count"], &tests["last_occasion"]),
            (&json!(2), &json!("demand"))
        );
        assert_eq!(tests["last_result"], "passed");

        let openssl = &before["openssl"];
        assert_eq!(openssl["providers"], json!(["base", "fips"]));
        assert_eq!(openssl["property_query"], "fips=yes");
        assert_eq!(openssl["other_cryptographic_libraries"], json!([]));
        for library in ["libcrypto", "libssl"] {
            let path = openssl[library]["path"].as_str().unwrap();
            assert_eq!(
                openssl[library]["sha256"],
                sha256_of(Path::new(path)).as_str()
            );
        }
        let mapped = openssl["mapped"].as_array().unwrap();
        assert!(mapped.contains(&told["path"]), "{mapped:?}");
        assert_listeners(&before["tls"]["listeners"], &gateway);
        let crates = before["cryptographic_crates"].as_array().unwrap();
        let has = |name: &str| crates.iter().any(|package| package["name"] == name);
        assert!(has("openssl") && has("sha1") && !has("ring"), "{crates:?}");
        assert_eq!(
            before["configuration"]["sha256"].as_str().unwrap().len(),
            64
        );
        gateway.stop();
    }
}

/// Each listener is there, with the profile where it speaks TLS.
#[track_caller]
fn assert_listeners(told: &Value, gateway: &Gateway) {
    for (name, is_tls) in [
        ("http", false),
        ("https", true),
        ("admin", false),
        ("admin_https", true),
        ("status", false),
    ] {
        let address = format!("127.0.0.1:{}", gateway.port(name));
        let all = told.as_array().unwrap();
        let found = all.iter().find(|listener| listener["name"] == name);
        let found = found.unwrap_or_else(|| panic!("{name} in {told}"));
        assert_eq!(found["address"], address.as_str());
        let permits = &found["permits"];
        if is_tls {
            assert_eq!(permits["groups"], json!(["P-256", "P-384", "P-521"]));
            let suites = permits["suites"].as_array().unwrap();
            assert!(
                suites
                    .iter()
                    .all(|suite| suite.as_str().unwrap().contains("GCM")),
                "{suites:?}"
            );
            let signatures = permits["signature_algorithms"].as_array().unwrap();
            assert!(
                signatures.contains(&json!("RSA-PSS+SHA256")),
                "{signatures:?}"
            );
        } else {
            assert_eq!(*permits, Value::Null);
        }
    }
}

#[test]
fn report_counts_what_was_really_negotiated_and_names_every_key() {
    let Some(module) = Module::copy() else { return };
    for (setup, provider, first_group) in [
        (module.setup(), "fips", "P-256"),
        (Setup::default().set("fips", "off"), "default", "X25519"),
    ] {
        // Whom secret managers must come from is known before the gateway is.
        let managers = Ca::root("Managers");
        let folder = TempDir::new().unwrap();
        let trusted = managers.write(folder.path(), "managers");
        let setup = setup.set("secrets.vault.trust_file", trusted.to_str().unwrap());
        let site = Site::with(setup);
        let gateway = &site.gateway;
        let rsa = site.ca.issue(&Leaf {
            key: KeyKind::Rsa,
            ..Leaf::server("rsa.example.com")
        });
        site.put_ssl_with("rsa", "rsa.example.com", &rsa, &json!({}));
        let client = json!({"client": {"ca": site.ca.pem()}, "ssl_protocols": ["TLSv1.3"]});
        site.put_ssl("ec", "ec.example.com", &client);
        let origin = Origin::nginx(&Nginx::mutual(
            site.ca.server("up.example.com"),
            site.ca.pem(),
        ));
        let identity = site.ca.client("gateway");
        let upstream = json!({
            "type": "roundrobin", "scheme": "https", "nodes": {origin.node(): 1},
            "pass_host": "rewrite", "upstream_host": "up.example.com",
            "tls": {
                "client_cert": identity.cert, "client_key": identity.key,
                "ciphers": "ECDHE-RSA-AES256-GCM-SHA384:TLS_AES_128_GCM_SHA256",
                "groups": "P-384:P-256",
            }
        });
        gateway.configure("/routes/up", &json!({"uri": "/up", "upstream": upstream}));

        let me = site.write(&site.ca.client("me"), "me");
        for _ in 0..2 {
            let asked = site.ask("ec.example.com", "/").cert(&me);
            asked.tls(TlsVersion::V13).send().expect_status(200);
        }
        site.ask("rsa.example.com", "/up")
            .tls(TlsVersion::V12)
            .send()
            .expect_status(200);
        let again = [
            "-tls1_2",
            "-servername",
            "rsa.example.com",
            "-groups",
            "P-256",
            "-reconnect",
        ];
        let request = "GET / HTTP/1.1\r\nHost: rsa.example.com\r\nConnection: close\r\n\r\n";
        openssl_s_client(gateway.https_port(), &again, request);
        gateway
            .admin_https("GET", "/routes")
            .send()
            .expect_status(200);

        // A probe's handshake is one as well, and so is one with a secret manager.
        own(gateway, "POST", "/probe/routes/up", ADMIN_KEY).expect_status(200);
        let manager = Leaf {
            addresses: vec![Ipv4Addr::LOCALHOST.into()],
            ..Leaf::server("vault.example.com")
        };
        let manager = Origin::openssl_s_server(&managers.issue(&manager), &["-tls1_3"]);
        let vault = json!({"uri": format!("https://{}", manager.node()), "prefix": "kv",
                           "token": "no token"});
        gateway.configure("/secrets/vault/1", &vault);
        let referring = json!({"cert": "$secret://vault/1/web/cert", "snis": ["x.example.com"],
                               "key": "$secret://vault/1/web/key"});
        gateway.configure("/ssls/referring", &referring);

        let report = report(gateway);
        let places = &report["negotiated"]["places"];
        let count = |place: &str, list: &str, wanted: &Value| -> u64 {
            let places = places.as_array().unwrap();
            let rows = places.iter().filter(|row| row["place"] == place);
            let rows = rows.flat_map(|row| row[list].as_array().unwrap());
            let is_it = |row: &&Value| {
                wanted
                    .as_object()
                    .unwrap()
                    .iter()
                    .all(|(name, value)| row[name] == *value)
            };
            rows.filter(is_it)
                .map(|row| row["count"].as_u64().unwrap())
                .sum()
        };
        let handshakes = |place, wanted| count(place, "handshakes", &wanted);
        let on_1_3 = json!({"version": "TLSv1.3", "group": first_group, "resumed": false});
        assert_eq!(handshakes("https", on_1_3), 2, "{places:#}");
        let by_curl = json!({"version": "TLSv1.2", "group": first_group, "resumed": false});
        assert!(handshakes("https", by_curl) >= 1, "{places:#}");
        // Six by s_client; when it drops a connection the gateway may drop the session.
        let full = handshakes("https", json!({"version": "TLSv1.2", "resumed": false}));
        let resumed = json!({"version": "TLSv1.2", "group": "none", "resumed": true});
        let resumed = handshakes("https", resumed);
        assert!(resumed >= 1 && full + resumed == 7, "{places:#}");
        assert_eq!(
            handshakes("https", json!({"suite": "other"})),
            0,
            "{places:#}"
        );
        assert_eq!(
            handshakes("routes/up", json!({"version": "TLSv1.3"})),
            2,
            "{places:#}"
        );
        assert_eq!(handshakes("admin_https", json!({})), 1, "{places:#}");
        assert!(handshakes(&manager.node(), json!({})) >= 1, "{places:#}");
        let signed = |place, by, algorithm| {
            count(
                place,
                "signatures",
                &json!({"by": by, "algorithm": algorithm}),
            )
        };
        assert_eq!(signed("https", "peer", "ECDSA+SHA256"), 2, "{places:#}");
        assert_eq!(signed("https", "gateway", "ECDSA+SHA256"), 2, "{places:#}");
        assert_eq!(
            signed("https", "gateway", "RSA-PSS+SHA256"),
            full,
            "{places:#}"
        );
        assert_eq!(
            signed("routes/up", "gateway", "ECDSA+SHA256"),
            2,
            "{places:#}"
        );

        let keys = report["keys"].as_array().unwrap();
        for (object, member, algorithm, bits, curve) in [
            ("admin.https", "", "EC", 256, json!("prime256v1")),
            ("ssls/rsa", "key", "RSA", 2048, Value::Null),
            ("ssls/ec", "key", "EC", 256, json!("prime256v1")),
            (
                "routes/up",
                "tls.client_key",
                "EC",
                256,
                json!("prime256v1"),
            ),
        ] {
            let key = keys.iter().find(|key| key["object"] == object);
            let key = key.unwrap_or_else(|| panic!("{object}: {keys:#?}"));
            assert_eq!(
                (&key["member"], &key["algorithm"]),
                (&json!(member), &json!(algorithm))
            );
            assert_eq!((&key["bits"], &key["curve"]), (&json!(bits), &curve));
            assert_eq!(key["provider"], provider, "{object}");
            let signature = key["certificate"]["signature_algorithm"].as_str().unwrap();
            assert!(signature.ends_with("SHA256"), "{signature}");
        }
        let text = report.to_string();
        assert!(identity.key_lines().iter().all(|line| !text.contains(line)));
        let names = report["tls"]["names"].as_array().unwrap();
        let ec = names
            .iter()
            .find(|name| name["object"] == "ssls/ec")
            .unwrap();
        assert_eq!(ec["versions"], json!(["TLSv1.3"]));
        assert_eq!(ec["client_certificate"], "required");
        let upstreams = &report["tls"]["upstreams"];
        assert_eq!(
            (&upstreams[0]["object"], &upstreams[0]["verify"]),
            (&json!("routes/up"), &json!(false))
        );
        assert_eq!(
            (&upstreams[0]["suites"], &upstreams[0]["groups"]),
            (
                &json!(["TLS_AES_128_GCM_SHA256", "ECDHE-RSA-AES256-GCM-SHA384"]),
                &json!(["P-384", "P-256"])
            )
        );
    }
}

/// A key-encryption key, as a file has it.
const KEK: &str = "5f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";

#[test]
fn keys_that_the_gateway_has_for_itself_are_reported_and_none_is_shown() {
    let Some(module) = Module::copy() else { return };
    let folder = TempDir::new().unwrap();
    let order = Leaf {
        key: KeyKind::Rsa,
        ..Leaf::client("reports")
    };
    let signer = Ca::root("Auditor").issue(&order);
    let report_key = signer.write(folder.path(), "reports").key;
    let account = Ca::root("Google").issue(&order);
    let kek = folder.path().join("kek-for-reports");
    fs::write(&kek, KEK).unwrap();
    fs::set_permissions(&kek, fs::Permissions::from_mode(0o600)).unwrap();
    for (setup, provider) in [
        (module.setup(), "fips"),
        (Setup::default().set("fips", "off"), "default"),
    ] {
        let bare = setup.clone().start();
        let rows = report(&bare)["keys"].as_array().unwrap().clone();
        let objects: Vec<_> = rows.iter().map(|row| &row["object"]).collect();
        assert_eq!(objects, ["admin.https", "kek"]);
        let made = bare.data_path().join("kek");
        assert_eq!(rows[1]["from"], made.to_str().unwrap());
        bare.stop();

        let setup = setup
            .set("fips_report_key", report_key.to_str().unwrap())
            .set("kek", kek.to_str().unwrap())
            .set("https.session_tickets", "on")
            .set("data_encryption.keyring", "[$env://RING, $env://LONG]")
            .env("RING", "a-ring-of-sixtee")
            .env("LONG", "a-ring-of-thirty-two-bytes-in-it")
            .data(&Arc::new(TempDir::new().unwrap()));
        let gateway = setup.clone().start();
        let google = json!({"auth_config": {"client_email": "e", "project_id": "p",
                                            "private_key": account.key}});
        gateway.configure("/secrets/gcp/1", &google);
        let told = report(&gateway);
        let keys = told["keys"].as_array().unwrap();
        let find = |object: &str, algorithm: &str| {
            let is_it = |key: &&Value| key["object"] == object && key["algorithm"] == algorithm;
            let found = keys.iter().find(is_it);
            found.unwrap_or_else(|| panic!("{object} {algorithm}: {keys:#?}"))
        };
        for (object, algorithm, bits, from) in [
            ("fips_report_key", "RSA", 2048, report_key.to_str().unwrap()),
            ("kek", "AES-256-GCM", 256, kek.to_str().unwrap()),
            (
                "https.session_tickets",
                "AES-256-CBC",
                256,
                "drawn by the process that serves",
            ),
            (
                "data_encryption.keyring",
                "AES-128-CBC",
                128,
                "the configuration",
            ),
            (
                "data_encryption.keyring",
                "AES-256-CBC",
                256,
                "the configuration",
            ),
        ] {
            let key = find(object, algorithm);
            assert_eq!((&key["bits"], &key["from"]), (&json!(bits), &json!(from)));
            assert_eq!(key["provider"], provider, "{object}");
            assert_eq!(key["certificate"], Value::Null);
            assert!(!key["purpose"].as_str().unwrap().is_empty());
        }
        let of_manager = find("secrets/gcp/1", "RSA");
        assert_eq!(of_manager["member"], "auth_config.private_key");
        assert_eq!(of_manager["provider"], provider);
        let mut pkey = program("openssl");
        pkey.args(["pkey", "-pubout", "-outform", "DER", "-out"]);
        let public = folder.path().join("public.der");
        pkey.arg(&public).arg("-in").arg(&report_key);
        assert!(run_to_end(pkey, b"", SOON).status.success());
        assert_eq!(
            find("fips_report_key", "RSA")["public_key_sha256"],
            sha256_of(&public).as_str()
        );
        let id = find("kek", "AES-256-GCM")["key_id"].as_str().unwrap();

        // Beside the gateway that serves, as a page.
        let page = setup.run(&["fips"]).stdout;
        let lines = [
            format!("AES-256-GCM 256 bits, provider {provider}; id {id}; seals the private keys"),
            format!("RSA 2048 bits, provider {provider}; signs reports like this one; from "),
        ];
        for (name, wanted) in ["kek:", "fips_report_key:"].iter().zip(lines) {
            let line = page.lines().find(|line| line.starts_with(name));
            assert!(
                line.is_some_and(|line| line.contains(&wanted)),
                "{wanted}\n{page}"
            );
        }
        for text in [told.to_string(), page] {
            let secrets = [KEK, "a-ring-of"].into_iter();
            let lines = signer.key_lines().into_iter().chain(account.key_lines());
            assert!(secrets.chain(lines).all(|secret| !text.contains(secret)));
            assert!(!text.contains(&KEK[..16]));
        }
    }
}

#[test]
fn report_is_read_with_a_key_alone_a_viewer_s_will_do() {
    let keys = "admin: {keys: [{name: v, key: a-viewer-s-key-for-tests, role: viewer}]}";
    let gateway = Setup::default().file(keys).start();
    let ask = |method, path, key| own(&gateway, method, path, key);
    ask("GET", "/fips", "a-viewer-s-key-for-tests").expect_status(200);
    ask("GET", "/fips", "another").expect_status(401);
    ask("POST", "/fips/self-test", "a-viewer-s-key-for-tests").expect_status(401);
}

#[test]
fn report_of_a_name_that_cannot_be_served_says_why() {
    let Some(module) = Module::copy() else { return };
    let site = Site::with(Setup::default().set("fips", "off"));
    let pair = site.ca.issue(&Leaf {
        key: KeyKind::Ed25519,
        ..Leaf::server("old.example.com")
    });
    site.put_ssl_with("old", "old.example.com", &pair, &json!({}));
    let data = site.gateway.data();
    site.gateway.stop();
    let setup = module.setup().data(&data);
    let told = setup.run(&["fips", "--json"]);
    assert!(told.status.success(), "{told:?}");
    let report: Value = serde_json::from_str(&told.stdout).unwrap();
    let state = report["tls"]["names"][0]["state"].as_str().unwrap();
    assert!(
        state.starts_with("closed: ") && state.contains("certificate 1 has"),
        "{state}"
    );
    assert_eq!(report["negotiated"], Value::Null);
    assert_eq!(report["gateway"]["process"], "started for this report");
}

#[test]
fn page_has_what_an_auditor_asks_for_first() {
    let Some(module) = Module::copy() else { return };
    let site = Site::with(module.setup());
    site.put_ssl("ec", "ec.example.com", &json!({}));
    let data = site.gateway.data();
    // Beside the gateway that serves.
    let told = module.setup().data(&data).run(&["fips"]);
    assert!(told.status.success(), "{told:?}");
    for (name, value) in [
        (
            "statement:",
            "uses the OpenSSL FIPS provider 3.1.2, supplied by the site",
        ),
        ("sha256:", &sha256_of(&module.file("fips.so"))),
        ("property query:", "fips=yes"),
        ("providers:", "base, fips"),
        ("other crypto libraries:", "none"),
        ("MD5:", "refused"),
        (
            "X25519 only (TLSv1.3):",
            "refused by the upstream connector: ",
        ),
        (
            "ssls/ec key:",
            "EC 256 bits on prime256v1, provider fips; CN=ec.example.com",
        ),
        (
            "ssls/ec:",
            "ec.example.com, TLSv1.2, TLSv1.3, client certificate not asked for, served",
        ),
        ("handshakes:", "not known: this process does not serve"),
    ] {
        let mut lines = told.stdout.lines();
        let is_it = |line: &str| {
            let rest = line.strip_prefix(name).map(str::trim_start);
            rest.is_some_and(|rest| rest.starts_with(value))
        };
        assert!(lines.any(is_it), "{name} {value}\n{}", told.stdout);
    }
    // Without FIPS there is a page too; that it is off is what a script learns.
    let off = Setup::default().set("fips", "off").run(&["fips"]);
    assert_eq!(off.status.code(), Some(1), "{off:?}");
    assert!(
        off.stdout.contains("does not use a FIPS provider"),
        "{off:?}"
    );
}

#[test]
fn signature_holds_for_the_report_and_for_no_other() {
    let Some(module) = Module::copy() else { return };
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    for kind in [KeyKind::P256, KeyKind::Rsa] {
        let signer = Ca::root("Auditor").issue(&Leaf {
            key: kind,
            ..Leaf::client("reports")
        });
        let files = signer.write(folder.path(), "reports");
        let locked = at("locked.key");
        openssl(
            &[
                "pkcs8",
                "-topk8",
                "-v2",
                "aes-256-cbc",
                "-passout",
                "pass:opens it",
            ],
            &files.key,
            &locked,
        );
        openssl(&["pkey", "-pubout"], &files.key, &at("public.pem"));
        let setup = module.setup();
        let setup = setup.set("fips_report_key", locked.to_str().unwrap());
        let setup = setup.set("fips_report_key_passphrase", "$env://REPORTS");
        let setup = setup.env("REPORTS", "opens it");
        let gateway = setup.clone().start();
        let of_gateway = own(&gateway, "GET", "/fips?sign=true", ADMIN_KEY).expect_status(200);
        let of_verb = setup.run(&["fips", "--sign"]);
        assert!(of_verb.status.success(), "{of_verb:?}");
        for text in [of_gateway.body, of_verb.stdout] {
            fs::write(at("report.json"), &text).unwrap();
            // An auditor's machine has no FIPS module.
            let verify = |key: &str| {
                let (report, key) = (at("report.json"), at(key));
                let verb = [
                    "fips",
                    "verify",
                    report.to_str().unwrap(),
                    "--key",
                    key.to_str().unwrap(),
                ];
                Setup::default().set("fips", "off").run(&verb)
            };
            for key in ["public.pem", "reports.crt"] {
                let told = verify(key);
                assert!(told.status.success(), "{told:?}");
                assert!(
                    told.stdout.starts_with("good signature: report of "),
                    "{told:?}"
                );
            }
            assert_openssl_agrees(&text, folder.path());
            let changed = text.replace("\"TLSv1.3\"", "\"TLSv1.1\"");
            assert_ne!(changed, text);
            fs::write(at("report.json"), &changed).unwrap();
            let told = verify("public.pem");
            assert_eq!(told.status.code(), Some(1), "{told:?}");
            assert!(
                told.stderr
                    .contains("the signature is not this key's over this report"),
                "{told:?}"
            );
            // Readers differ over which of two members counts, so neither may be there unsigned.
            let doubled = text.replacen('{', "{\"statement\":\"FIPS validated\",", 1);
            for forged in [doubled, format!("{text}{{}}")] {
                fs::write(at("report.json"), &forged).unwrap();
                let told = verify("public.pem");
                assert_eq!(told.status.code(), Some(1), "{told:?}");
                assert!(
                    told.stderr.contains("is no report: it is not one JSON"),
                    "{told:?}"
                );
            }
            fs::write(at("report.json"), &text).unwrap();
            let other = Ca::root("Another").client("reports");
            fs::write(at("other.crt"), &other.cert).unwrap();
            assert_eq!(verify("other.crt").status.code(), Some(1));
        }
    }
    let unsigned = module.setup().run(&["fips", "--sign"]);
    assert_eq!(unsigned.status.code(), Some(1));
    assert!(
        unsigned.stderr.contains("set `fips_report_key`"),
        "{unsigned:?}"
    );
}

/// `openssl dgst` checks the signature too, over the bytes that decision 9 names.
#[track_caller]
fn assert_openssl_agrees(report: &str, folder: &Path) {
    let mut report: Value = serde_json::from_str(report).unwrap();
    let members = report.as_object_mut().unwrap();
    let signature = members.shift_remove("signature").unwrap();
    let value = base64::decode_block(signature["value"].as_str().unwrap()).unwrap();
    let (payload, detached) = (folder.join("payload"), folder.join("signature"));
    fs::write(&payload, report.to_string()).unwrap();
    fs::write(&detached, value).unwrap();
    let mut dgst = program("openssl");
    dgst.args(["dgst", "-sha256", "-verify"])
        .arg(folder.join("public.pem"));
    dgst.arg("-signature").arg(detached).arg(payload);
    let told = run_to_end(dgst, b"", SOON);
    assert!(told.stdout.contains("Verified OK"), "{told:?}");
}

#[test]
fn key_that_cannot_sign_reports_stops_the_start() {
    let folder = TempDir::new().unwrap();
    let ca = Ca::root("Auditor");
    let good = ca.client("good").write(folder.path(), "good");
    let order = Leaf {
        key: KeyKind::Ed25519,
        ..Leaf::client("reports")
    };
    let edwards = ca.issue(&order).write(folder.path(), "edwards");
    let with = |key: &Path| {
        let setup = Setup::default().set("fips", "off");
        setup
            .set("fips_report_key", key.to_str().unwrap())
            .try_start()
    };
    with(&good.key).map(drop).unwrap();
    for (key, reason) in [
        (edwards.key.as_path(), "only EC and RSA keys sign"),
        (&folder.path().join("none.key"), "none.key: No such file"),
        (&good.cert, "failed to parse key"),
    ] {
        let stopped = with(key).expect_err("no start");
        let said = format!("{:?}", stopped.logs);
        assert!(said.contains(reason), "{reason}: {said}");
    }
}

/// A request to what the gateway adds to the Admin API.
#[track_caller]
fn own(gateway: &Gateway, method: &str, path: &str, key: &str) -> CurlOutcome {
    let port = gateway.port("admin");
    Curl::new(&format!("http://127.0.0.1:{port}/portcullis/v1{path}"))
        .method(method)
        .header(&format!("X-API-KEY: {key}"))
        .send()
}

#[track_caller]
fn report(gateway: &Gateway) -> Value {
    own(gateway, "GET", "/fips", ADMIN_KEY)
        .expect_status(200)
        .json()
}

#[track_caller]
fn openssl(args: &[&str], from: &Path, to: &Path) -> Finished {
    let mut openssl = program("openssl");
    openssl.args(args).arg("-in").arg(from).arg("-out").arg(to);
    let made = run_to_end(openssl, b"", SOON);
    assert!(made.status.success(), "{made:?}");
    made
}

#[track_caller]
fn sha256_of(path: &Path) -> String {
    let mut sum = program("sha256sum");
    sum.arg(path);
    let told = run_to_end(sum, b"", SOON);
    let digest = told.stdout.split_ascii_whitespace().next();
    digest.expect("a digest").to_owned()
}
