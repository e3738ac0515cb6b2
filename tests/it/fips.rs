//! FIPS mode: what must not start, what TLS must not speak, what keys and certificates must not be.

use std::net::{Ipv4Addr, TcpStream};

use openssl::pkey::PKey;
use openssl::ssl::{Ssl, SslContext, SslMethod, SslOptions, SslVerifyMode};
use openssl::symm::Cipher;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::client::Curl;
use crate::support::fips::{EX_CONFIG, Module};
use crate::support::gateway::{ADMIN_KEY, Gateway, Setup};
use crate::support::origin::{Nginx, Origin, TcpOrigin};
use crate::support::pki::{Ca, KeyKind, Leaf, Pair};
use crate::support::site::Site;
use crate::support::upstream::{NAME, upstream};
use crate::support::{SOON, TlsVersion, program, run_to_end};

/// A way of breaking a module, and what the start says of it.
type Break = (fn(&Module) -> Setup, &'static str);

#[test]
fn start_is_refused_with_its_own_reason_for_each_fault_of_the_module() {
    let faults: [Break; 15] = [
        (
            |module| {
                module.flip_a_bit();
                module.setup()
            },
            "the FIPS module failed its integrity check",
        ),
        (
            |module| {
                module.change_cnf(|text| with_another_mac(&text));
                module.setup()
            },
            "the FIPS module failed its integrity check",
        ),
        // What was built is on record: that tells the one from the other.
        (
            |module| {
                module.record();
                module.flip_a_bit();
                module.setup()
            },
            "fips.so\" was changed after it was built",
        ),
        (
            |module| {
                module.record();
                module.change_cnf(|text| with_another_mac(&text));
                module.setup()
            },
            "fipsmodule.cnf\" is not that of",
        ),
        (
            |module| {
                std::fs::remove_file(module.file("fips.so")).unwrap();
                module.setup()
            },
            "fips.so\" is missing or not readable",
        ),
        (
            |module| {
                std::fs::remove_file(module.file("fipsmodule.cnf")).unwrap();
                module.setup()
            },
            "fipsmodule.cnf\" is missing or not readable",
        ),
        (
            |module| {
                module.change_cnf(|text| format!("{text}module = other.so\n"));
                module.setup()
            },
            "which would load another file",
        ),
        (
            |module| {
                std::fs::write(module.file("fips.so"), "\x7fELF and no more").unwrap();
                module.change_cnf(|text| without(&text, "module-mac"));
                module.setup()
            },
            "as a provider; check that it is a FIPS module",
        ),
        (
            |module| {
                std::fs::write(module.file("fips.so"), "").unwrap();
                module.setup()
            },
            "fips.so\" is no shared library",
        ),
        (
            |module| {
                module.change_cnf(|text| without(&text, "module-mac"));
                module.setup()
            },
            "has no `module-mac`",
        ),
        (
            |module| module.setup().set("fips_version", "3.1.3"),
            "is version",
        ),
        (
            |module| {
                module.change_cnf(|text| text.replace("checks = 1", "checks = 0"));
                module.setup()
            },
            "without its security checks",
        ),
        (
            |module| {
                module.change_cnf(|text| text.replace("errors = 1", "errors = 0"));
                module.setup()
            },
            "sets conditional-errors to \"0\"",
        ),
        (
            |module| {
                module.change_cnf(|text| without(&text, "drbg-no-trunc-md"));
                module.setup()
            },
            "lets random generators use truncated digests",
        ),
        (
            |module| {
                module.change_cnf(|text| without(&text, "tls1-prf-ems-check"));
                module.setup()
            },
            "accepts a peer with no extended master secret (TLSv1.2)",
        ),
    ];
    for (fault, sentence) in faults {
        let Some(module) = Module::copy() else { return };
        let Err(stopped) = fault(&module).try_start() else {
            panic!("started: {sentence}");
        };
        assert_eq!(stopped.status.code(), Some(EX_CONFIG), "{stopped:?}");
        let said = stopped.words();
        assert!(said.contains("`fips: required` is not met: "), "{said}");
        assert!(said.contains(sentence), "{sentence:?} in {said}");
    }
    let Some(module) = Module::copy() else { return };
    module.setup().start();
}

#[test]
fn clients_get_the_profile_and_nothing_else_on_every_tls_port() {
    let Some(module) = Module::copy() else { return };
    // The twin without FIPS shows that these hellos are good ones.
    for (setup, is_fips) in [(module.setup(), true), (off(), false)] {
        let site = Site::with(setup);
        let rsa = site.ca.issue(&Leaf {
            key: KeyKind::Rsa,
            ..Leaf::server("rsa.example.com")
        });
        site.put_ssl_with("rsa", "rsa.example.com", &rsa, &json!({}));
        site.put_ssl("ec", "ec.example.com", &json!({}));
        let https = site.gateway.https_port();
        for (port, name, is_rsa) in [
            (https, "rsa.example.com", true),
            (https, "ec.example.com", false),
            (site.gateway.port("admin_https"), "localhost", false),
        ] {
            for version in TlsVersion::ALL {
                let is_1_2 = version == TlsVersion::V12;
                let meets = |hello: &Hello| hello.is_served(port, name, version);
                let at = format!("at {name}, {version:?}, FIPS {is_fips}");
                assert!(meets(&GOOD), "P-256 {at}");
                assert_eq!(meets(&CHACHA20), !is_fips, "ChaCha20-Poly1305 {at}");
                // TLS 1.2 binds EC certificates to the groups as well (RFC 8422 section 5.1).
                if is_rsa || !is_1_2 {
                    assert_eq!(meets(&X25519), !is_fips, "X25519 {at}");
                    assert!(!meets(&X448), "X448 {at}");
                }
                if is_1_2 {
                    assert_eq!(
                        meets(&FORGETFUL),
                        !is_fips,
                        "no extended master secret {at}"
                    );
                    assert!(!meets(&OLD), "CBC and static RSA {at}");
                }
            }
        }
    }
}

#[test]
fn upstreams_get_the_profile_and_nothing_else() {
    let Some(module) = Module::copy() else { return };
    let ca = Ca::root("Origin CA");
    let pair = ca.issue(&Leaf {
        key: KeyKind::Rsa,
        ..Leaf::server("up.example.com")
    });
    let (fips, off) = (module.setup().start(), off().start());
    let chacha_1_2 = "ECDHE-RSA-CHACHA20-POLY1305";
    let chacha_1_3 = "TLS_CHACHA20_POLY1305_SHA256";
    for (args, is_approved) in [
        (&["-tls1_3", "-groups", "P-256"][..], true),
        (&["-tls1_2", "-groups", "P-256"], true),
        (&["-tls1_3", "-groups", "X25519"], false),
        (&["-tls1_2", "-groups", "X25519"], false),
        (&["-tls1_3", "-ciphersuites", chacha_1_3], false),
        (&["-tls1_2", "-cipher", chacha_1_2], false),
    ] {
        let origin = Origin::openssl_s_server(&pair, args);
        let upstream = json!({
            "type": "roundrobin", "scheme": "https", "nodes": {origin.node(): 1},
            "pass_host": "rewrite", "upstream_host": "up.example.com",
            "tls": {"verify": true, "ca_certs": [ca.pem()]}
        });
        for (gateway, status) in [(&fips, if is_approved { 200 } else { 502 }), (&off, 200)] {
            let route = json!({"uri": "/*", "upstream": upstream});
            let written = gateway.admin_put("/routes/1", &route);
            assert!(matches!(written.status, Some(200 | 201)), "{written:?}");
            let told = Curl::new(&gateway.http_url("/")).send();
            assert_eq!(told.status, Some(status), "{args:?}: {told:?}");
        }
    }
}

#[test]
fn upstream_with_a_weak_certificate_is_refused_even_where_nothing_is_checked() {
    let Some(module) = Module::copy() else { return };
    let ca = Ca::root("Origin CA");
    let of_kind = |key| {
        let order = Leaf::server("up.example.com");
        ca.issue(&Leaf { key, ..order })
    };
    let order = Leaf::server("up.example.com");
    let (fips, off) = (module.setup().start(), off().start());
    for (pair, flaw) in [
        (of_kind(KeyKind::WeakRsa), Some("is RSA of 1024 bits")),
        (
            ca.issue_with_sha1(&order),
            Some("is signed with ecdsa-with-SHA1"),
        ),
        (of_kind(KeyKind::Rsa), None),
        (of_kind(KeyKind::P256), None),
    ] {
        for version in ["-tls1_2", "-tls1_3"] {
            let origin = Origin::openssl_s_server(&pair, &[version, "-cipher", "ALL@SECLEVEL=0"]);
            let upstream = json!({"scheme": "https", "nodes": {origin.node(): 1}});
            let status = if flaw.is_some() { 502 } else { 200 };
            for (gateway, status) in [(&off, 200), (&fips, status)] {
                let route = json!({"uri": "/*", "upstream": upstream});
                let written = gateway.admin_put("/routes/up", &route);
                assert!(matches!(written.status, Some(200 | 201)), "{written:?}");
                // Twice: the second may be a session of the first.
                for _ in 0..2 {
                    let told = Curl::new(&gateway.http_url("/")).send();
                    assert_eq!(told.status, Some(status), "{version} {flaw:?}: {told:?}");
                }
            }
        }
        if let Some(flaw) = flaw {
            fips.expect_record("the refusal and its cause", |record| {
                let text = record.to_string();
                text.contains("upstream_cert_invalid") && text.contains(flaw)
            });
        }
    }
}

#[test]
fn peer_without_extended_master_secret_is_refused_on_tls_1_2_by_name() {
    let Some(module) = Module::copy() else { return };
    let folder = TempDir::new().unwrap();
    let cnf = folder.path().join("openssl.cnf");
    let text = "openssl_conf = init\n[init]\nssl_conf = ssl\n[ssl]\nsystem_default = all\n\
                [all]\nOptions = -ExtendedMasterSecret\n";
    std::fs::write(&cnf, text).unwrap();
    let forgetful = [("OPENSSL_CONF", cnf.to_str().unwrap())];
    let ca = Ca::root("Origin CA");
    let origins = [("-tls1_2", 502), ("-tls1_3", 200)].map(|(version, status)| {
        let pair = ca.server("up.example.com");
        let origin = Origin::openssl_s_server_with(&pair, &[version], &forgetful);
        (origin, status)
    });
    for (setup, is_fips) in [(module.setup(), true), (off(), false)] {
        let site = Site::with(setup);
        site.put_ssl("a", "a.example.com", &json!({}));
        let gateway = &site.gateway;
        for version in TlsVersion::ALL {
            let mut client = program("openssl");
            let port = gateway.https_port().to_string();
            client.args(["s_client", "-connect", &format!("127.0.0.1:{port}")]);
            client.args(["-servername", "a.example.com"]);
            client.arg(if version == TlsVersion::V12 {
                "-tls1_2"
            } else {
                "-tls1_3"
            });
            client.envs(forgetful);
            let told = run_to_end(client, b"", SOON);
            let is_refused = is_fips && version == TlsVersion::V12;
            assert_eq!(told.status.success(), !is_refused, "{told:?}");
            let has_none = told.stdout.contains("Extended master secret: no");
            assert!(
                has_none || is_refused || version == TlsVersion::V13,
                "{told:?}"
            );
        }
        for (origin, status) in &origins {
            let upstream = json!({
                "type": "roundrobin", "scheme": "https", "nodes": {origin.node(): 1},
            });
            gateway.configure("/routes/up", &json!({"uri": "/up", "upstream": upstream}));
            let told = Curl::new(&gateway.http_url("/up")).send();
            let expected = if is_fips { *status } else { 200 };
            assert_eq!(told.status, Some(expected), "{told:?}");
        }
        if is_fips {
            for reason in ["client_handshake_failed", "upstream_handshake_failed"] {
                let record = gateway.expect_record(reason, |record| record["reason"] == reason);
                let detail = record["detail"].as_str().unwrap();
                assert!(
                    detail.contains("no extended master secret (RFC 7627)"),
                    "{record}"
                );
            }
        }
    }
}

/// What a write is to be refused for: where it goes, the document, the beginning of the reason.
type Refused = (&'static str, Value, &'static str);

#[test]
fn unapproved_keys_and_certificates_are_refused_with_their_member() {
    let Some(module) = Module::copy() else { return };
    let (fips, off) = (module.setup().start(), off().start());
    let ca = Ca::root("Root");
    let good = ca.server("a.example.com");
    let of_kind = |key| {
        let order = Leaf::server("a.example.com");
        ca.issue(&Leaf { key, ..order })
    };
    let (edwards, koblitz) = (of_kind(KeyKind::Ed25519), of_kind(KeyKind::Secp256k1));
    let old = ca.issue_with_sha1(&Leaf::server("a.example.com"));
    let ssl = |pair: &Pair| json!({"cert": pair.cert, "key": pair.key, "sni": "a.example.com"});
    let with = |mut document: Value, member: &str, value: Value| {
        document[member] = value;
        document
    };
    let tls = |tls: Value| json!({"scheme": "https", "nodes": {"127.0.0.1:1": 1}, "tls": tls});
    let bundle = format!("{}{}", ca.pem(), edwards.cert);
    let vault = |pair: &Pair| {
        let auth = json!({"method": "cert", "cert": pair.cert, "key": pair.key});
        json!({"uri": "https://127.0.0.1:1", "prefix": "kv", "auth": auth})
    };
    let google = |key: &str| {
        let account = json!({"client_email": "e", "project_id": "p", "private_key": key});
        json!({ "auth_config": account })
    };
    let refused: [Refused; 14] = [
        ("/ssls/1", ssl(&edwards), "cert: certificate 1 has "),
        ("/ssls/1", ssl(&koblitz), "cert: certificate 1 "),
        (
            "/ssls/1",
            ssl(&old),
            "cert: certificate 1 is signed with ecdsa-with-SHA1",
        ),
        (
            "/ssls/1",
            with(ssl(&edwards), "cert", json!("$env://CERT")),
            "key: the private key has the algorithm Ed25519",
        ),
        (
            "/ssls/1",
            with(ssl(&good), "client", json!({"ca": bundle})),
            "failed to validate client_cert: client.ca: certificate 2 has ",
        ),
        (
            "/upstreams/1",
            tls(json!({"client_cert": edwards.cert, "client_key": edwards.key})),
            "tls.client_cert: certificate 1 has ",
        ),
        (
            "/upstreams/1",
            tls(json!({"client_cert": "$env://CERT", "client_key": edwards.key})),
            "tls.client_key: the private key has the algorithm Ed25519",
        ),
        (
            "/upstreams/1",
            tls(json!({"verify": true, "ca_certs": [ca.pem(), old.cert]})),
            "failed to validate ca_certs[2]: tls.ca_certs.1: certificate 1 is signed with",
        ),
        (
            "/secrets/vault/1",
            vault(&edwards),
            "failed to handle auth.cert and auth.key: auth.cert: certificate 1 has ",
        ),
        (
            "/secrets/vault/1",
            vault(&old),
            "failed to handle auth.cert and auth.key: auth.cert: certificate 1 is signed with",
        ),
        (
            "/secrets/gcp/1",
            google(&edwards.key),
            "auth_config.private_key: the private key has the algorithm Ed25519",
        ),
        (
            "/secrets/gcp/1",
            google(&koblitz.key),
            "auth_config.private_key: the private key is EC on secp256k1",
        ),
        (
            "/upstreams/1",
            tls(json!({"ciphers": "ECDHE-ECDSA-CHACHA20-POLY1305:TLS_AES_128_GCM_SHA256"})),
            "tls.ciphers: `ECDHE-ECDSA-CHACHA20-POLY1305` is not approved, and `fips: required` \
             refuses it; choose from TLS_AES_256_GCM_SHA384, ",
        ),
        (
            "/upstreams/1",
            tls(json!({"groups": "P-256:X25519"})),
            "tls.groups: `X25519` is not approved, and `fips: required` refuses it; choose from \
             P-256, P-384, P-521",
        ),
    ];
    for (path, document, reason) in refused {
        let told = fips.admin_put(path, &document).expect_status(400).json();
        let text = told["error_msg"].as_str().unwrap();
        assert!(text.starts_with(reason), "{reason:?}: {text}");
        fips.admin_get(path).expect_status(404);
        // Without FIPS the same is accepted, and told; some of it TLS refuses everywhere.
        let told = off.admin_put(path, &document);
        let is_warned = told.head.contains("fips_would_refuse");
        assert!(told.status == Some(400) || is_warned, "{reason}: {told:?}");
    }
    for (path, document) in [
        ("/ssls/1", ssl(&good)),
        (
            "/ssls/1",
            with(ssl(&good), "client", json!({"ca": ca.pem()})),
        ),
        (
            "/upstreams/1",
            tls(json!({
                "client_cert": good.cert, "client_key": good.key,
                "verify": true, "ca_certs": [ca.pem()],
                "ciphers": "ECDHE-ECDSA-AES128-GCM-SHA256:TLS_AES_128_GCM_SHA256",
                "groups": "P-256"
            })),
        ),
        ("/secrets/vault/1", vault(&good)),
        ("/secrets/gcp/1", google(&of_kind(KeyKind::Rsa).key)),
        ("/secrets/gcp/1", google("$env://GOOGLE")),
    ] {
        for gateway in [&fips, &off] {
            let told = gateway.admin_put(path, &document);
            assert!(matches!(told.status, Some(200 | 201)), "{told:?}");
            assert!(!told.head.contains("fips_would_refuse"), "{told:?}");
        }
    }
}

#[test]
fn key_of_an_account_s_file_is_judged_when_it_is_read() {
    let Some(module) = Module::copy() else { return };
    let google = TcpOrigin::talking(|_| {
        let head = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n";
        let body = r#"{"error":"invalid_grant","error_description":"not known"}"#;
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    });
    let folder = TempDir::new().unwrap();
    let (account, made) = (folder.path().join("account"), folder.path().join("made"));
    let url = format!("http://{}", google.node());
    let root = json!([{"name": "google", "path": folder.path()}]).to_string();
    // The number is genrsa's option for the public exponent.
    for (exponent, refusal) in [("-F4", None), ("-3", Some("with the public exponent 3"))] {
        let mut genrsa = program("openssl");
        genrsa
            .args(["genrsa", exponent, "-out"])
            .arg(&made)
            .arg("2048");
        assert!(run_to_end(genrsa, b"", SOON).status.success());
        let key = std::fs::read_to_string(&made).unwrap();
        let text = json!({"client_email": "e", "project_id": "p", "private_key": key,
                          "token_uri": url, "entries_uri": url});
        std::fs::write(&account, text.to_string()).unwrap();
        for (setup, is_fips) in [(module.setup(), true), (off(), false)] {
            let setup = setup.set("secrets.file.roots", &root);
            let setup = setup.set("secrets.gcp.origins", &json!([url]).to_string());
            let gateway = setup.start();
            gateway.configure("/secrets/gcp/1", &json!({"auth_file": account}));
            let at = |member: &str| format!("$secret://gcp/1/web/{member}");
            let ssl = json!({"cert": at("cert"), "key": at("key"), "sni": "a.example.com"});
            let told = gateway.admin_put("/ssls/1", &ssl).expect_status(201);
            let expected = refusal
                .filter(|_| is_fips)
                .unwrap_or("the manager refuses: 400");
            assert!(
                told.head.contains(expected),
                "{exponent} {is_fips}: {told:?}"
            );
        }
    }
}

#[test]
fn configured_files_that_fips_refuses_are_told_without_it_and_stop_the_start_with_78() {
    let Some(module) = Module::copy() else { return };
    let folder = TempDir::new().unwrap();
    let ca = Ca::root("Admin CA");
    for (key, is_good) in [(KeyKind::Ed25519, false), (KeyKind::P256, true)] {
        let order = Leaf::server("localhost");
        let files = ca.issue(&Leaf { key, ..order }).write(folder.path(), "x");
        let (cert, key) = (files.cert.to_str().unwrap(), files.key.to_str().unwrap());
        for settings in [
            &[("admin.https.cert", cert), ("admin.https.key", key)][..],
            &[("upstream.trust_file", cert)],
            &[("secrets.vault.trust_file", cert)],
            &[("secrets.gcp.trust_file", cert)],
            &[("secrets.kubernetes.trust_file", cert)],
        ] {
            let with = |setup: Setup| {
                let settings = settings.iter();
                settings.fold(setup, |setup, (name, value)| setup.set(name, value))
            };
            let told = with(off()).run(&["check"]);
            assert!(told.status.success(), "{told:?}");
            let warning = format!("warning: {}: {cert}: certificate 1 has ", settings[0].0);
            assert_eq!(told.stdout.contains(&warning), !is_good, "{told:?}");
            match with(module.setup()).try_start() {
                Ok(_gateway) => assert!(is_good, "started: {settings:?}"),
                Err(stopped) => {
                    assert_eq!(stopped.status.code(), Some(EX_CONFIG), "{stopped:?}");
                    let logs = format!("{:?}", stopped.logs);
                    assert!(logs.contains("certificate 1 has "), "{stopped:?}");
                    assert!(!is_good, "{stopped:?}");
                }
            }
        }
    }
}

#[test]
fn keys_of_each_plain_form_serve_and_encrypted_ones_are_named() {
    let Some(module) = Module::copy() else { return };
    let site = Site::with(module.setup());
    for key in [
        KeyKind::P256,
        KeyKind::P256Sec1,
        KeyKind::Rsa,
        KeyKind::RsaPkcs1,
    ] {
        let order = Leaf::server("a.example.com");
        let pair = site.ca.issue(&Leaf { key, ..order });
        site.put_ssl_with("a", "a.example.com", &pair, &json!({}));
        for version in TlsVersion::ALL {
            let asked = site.ask("a.example.com", "/").tls(version);
            asked.send().expect_status(200);
        }
    }
    let mut pair = site.ca.server("a.example.com");
    pair.key = encrypted(&pair.key);
    let document = json!({"cert": pair.cert, "key": pair.key, "sni": "a.example.com"});
    let tls = json!({"client_cert": pair.cert, "client_key": pair.key});
    let upstream = json!({"scheme": "https", "nodes": {"127.0.0.1:1": 1}, "tls": tls});
    for (path, document, member) in [
        ("/ssls/a", document, "key"),
        ("/upstreams/a", upstream, "tls.client_key"),
    ] {
        let told = site.gateway.admin_put(path, &document);
        let told = told.expect_status(400).json();
        let text = told["error_msg"].as_str().unwrap();
        let begin = format!("{member}: the private key is encrypted, and a passphrase cannot");
        assert!(text.starts_with(&begin), "{text}");
        assert!(text.contains("`openssl pkey -in"), "{text}");
    }
}

#[test]
fn encrypted_key_of_the_admin_listener_loads_with_its_passphrase() {
    let Some(module) = Module::copy() else { return };
    let ca = Ca::root("Admin CA");
    let folder = TempDir::new().unwrap();
    let ca_file = ca.write(folder.path(), "ca");
    for (setup, is_fips) in [(module.setup(), true), (off(), false)] {
        for (kind, way, refused) in [
            (
                KeyKind::P256,
                &["pkcs8", "-topk8", "-v2", "aes-256-cbc"][..],
                None,
            ),
            (
                KeyKind::Rsa,
                &["pkcs8", "-topk8", "-v2", "aes128", "-v2prf", "hmacWithSHA1"],
                None,
            ),
            (
                KeyKind::P256,
                &["pkcs8", "-topk8", "-scrypt"],
                is_fips.then_some("with scrypt, which `fips: required` refuses"),
            ),
            (
                KeyKind::P256,
                &["pkcs8", "-topk8", "-v2", "des3"],
                Some("with des-ede3-cbc"),
            ),
            (
                KeyKind::P256,
                &["pkcs8", "-topk8", "-v1", "PBE-SHA1-3DES"],
                Some("with pbeWithSHA1And3-KeyTripleDES-CBC, which is too weak"),
            ),
            (
                KeyKind::Rsa,
                &["rsa", "-aes256", "-traditional"],
                Some("in the older form of OpenSSL (`DEK-Info`)"),
            ),
        ] {
            let order = Leaf {
                key: kind,
                ..Leaf::server("localhost")
            };
            let files = ca.issue(&order).write(folder.path(), "admin");
            let locked = folder.path().join("locked.key");
            let mut openssl = program("openssl");
            openssl
                .args(way)
                .arg("-in")
                .arg(&files.key)
                .arg("-out")
                .arg(&locked);
            openssl.args(["-passout", "pass:opens it"]);
            let made = run_to_end(openssl, b"", SOON);
            assert!(made.status.success(), "{made:?}");
            let with = |passphrase: Option<&str>| {
                let setup = setup.clone();
                let setup = setup.set("admin.https.cert", files.cert.to_str().unwrap());
                let setup = setup.set("admin.https.key", locked.to_str().unwrap());
                match passphrase {
                    None => setup.try_start(),
                    Some(text) => setup
                        .set("admin.https.key_passphrase", "$env://ADMIN_PASSPHRASE")
                        .env("ADMIN_PASSPHRASE", text)
                        .try_start(),
                }
            };
            let gateway = match (with(Some("opens it")), refused) {
                (Ok(gateway), None) => gateway,
                (Err(stopped), Some(reason)) => {
                    let said = format!("{:?}", stopped.logs);
                    let remedy = "encrypt it anew with `openssl pkcs8 -topk8 -v2 aes-256-cbc";
                    assert!(said.contains(reason) && said.contains(remedy), "{said}");
                    assert!(said.contains("locked.key"), "{said}");
                    continue;
                }
                (outcome, _) => panic!("{way:?}: {:?}", outcome.err()),
            };
            let port = gateway.port("admin_https");
            let url = format!("https://localhost:{port}/apisix/admin/routes");
            Curl::new(&url)
                .resolve("localhost", port)
                .args(&["--cacert", ca_file.to_str().unwrap()])
                .header(&format!("X-API-KEY: {ADMIN_KEY}"))
                .send()
                .expect_status(200);
            gateway.stop();
            if kind == KeyKind::Rsa {
                continue;
            }
            for (passphrase, reason) in [
                (None, "is encrypted; set `admin.https.key_passphrase`"),
                (Some("does not"), "cannot be decrypted with the passphrase"),
            ] {
                let stopped = with(passphrase).expect_err("no start");
                let said = format!("{:?}", stopped.logs);
                assert!(
                    said.contains(reason) && said.contains("locked.key"),
                    "{said}"
                );
                assert!(!said.contains("does not"), "{said}");
            }
        }
    }
}

#[test]
fn name_that_was_stored_without_fips_is_closed_with_it() {
    let Some(module) = Module::copy() else { return };
    let site = Site::with(off());
    let order = Leaf::server("old.example.com");
    let pair = site.ca.issue(&Leaf {
        key: KeyKind::Ed25519,
        ..order
    });
    site.put_ssl_with("old", "old.example.com", &pair, &json!({}));
    site.put_ssl("new", "new.example.com", &json!({}));
    let meets = |port, name| GOOD.is_served(port, name, TlsVersion::V13);
    let before = site.gateway.https_port();
    assert!(meets(before, "old.example.com") && meets(before, "new.example.com"));
    let data = site.gateway.data();
    site.gateway.stop();
    let after = module.setup().data(&data).start();
    assert!(meets(after.https_port(), "new.example.com"));
    assert!(!meets(after.https_port(), "old.example.com"));
    let text = "cert: certificate 1 has";
    after.expect_log("why it is closed", |line| line.to_string().contains(text));
}

#[test]
fn ticket_from_without_fips_mode_is_not_resumed_in_it_nor_the_other_way() {
    let Some(module) = Module::copy() else { return };
    let sharing = |setup: Setup| {
        let setup = setup.set("https.session_tickets", "on");
        let setup = setup.set("https.session_ticket_secret", "$env://TICKET_SECRET");
        Site::with(setup.env("TICKET_SECRET", "a secret of more than 32 characters"))
    };
    let (one, other) = (sharing(module.setup()), sharing(module.setup()));
    let without = sharing(off());
    let ca = Ca::root("Client CA");
    let alice = ca.client("alice");
    for site in [&one, &other, &without] {
        site.put_ssl("web", "a.example.com", &json!({"client": {"ca": ca.pem()}}));
    }
    for version in TlsVersion::ALL {
        for (from, to, is_resumed) in [
            (&one, &other, true),
            (&one, &without, false),
            (&without, &one, false),
        ] {
            let client = |site: &Site| site.client("a.example.com").tls(version).cert(&alice);
            let mut conn = client(from).connect().unwrap();
            assert_eq!(conn.get("a.example.com", "/").unwrap().status, 200);
            let mut conn = client(to).session(&conn.session()).connect().unwrap();
            assert_eq!(conn.get("a.example.com", "/").unwrap().status, 200);
            assert_eq!(conn.is_resumed(), is_resumed, "{version:?}");
        }
    }
}

#[test]
fn upstream_that_was_stored_with_a_group_that_fips_refuses_is_closed_with_it() {
    let Some(module) = Module::copy() else { return };
    let origin = Origin::nginx(&Nginx::tls(Ca::root("CA").server(NAME)));
    let before = off().start();
    for (id, group) in [("approved", "P-256"), ("not", "P-256:X25519")] {
        let document = upstream(&origin.node(), &json!({"groups": group}));
        before.configure(&format!("/upstreams/{id}"), &document);
        let route = json!({"uri": format!("/{id}"), "upstream_id": id});
        before.configure(&format!("/routes/{id}"), &route);
    }
    let status = |gateway: &Gateway, path| gateway.connect().get("a", path, &[]).status;
    assert_eq!(
        (status(&before, "/approved"), status(&before, "/not")),
        (200, 200)
    );
    let data = before.data();
    before.stop();
    let after = module.setup().data(&data).start();
    assert_eq!(
        (status(&after, "/approved"), status(&after, "/not")),
        (200, 503)
    );
    let text = "tls.groups: `X25519` is not approved";
    after.expect_log("why it is closed", |line| line.to_string().contains(text));
}

/// A gateway without FIPS, in every mode of the suite.
fn off() -> Setup {
    Setup::default().set("fips", "off")
}

/// What a client has, and nothing else.
#[derive(Clone, Copy)]
struct Hello {
    ciphers: &'static str,
    suites: &'static str,
    groups: &'static str,
    options: SslOptions,
}

const GOOD: Hello = Hello {
    ciphers: "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256",
    suites: "TLS_AES_128_GCM_SHA256",
    groups: "P-256",
    options: SslOptions::empty(),
};
const X25519: Hello = Hello {
    groups: "X25519",
    ..GOOD
};
const X448: Hello = Hello {
    groups: "X448",
    ..GOOD
};
const CHACHA20: Hello = Hello {
    ciphers: "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305",
    suites: "TLS_CHACHA20_POLY1305_SHA256",
    ..GOOD
};
const OLD: Hello = Hello {
    ciphers: "ECDHE-ECDSA-AES256-SHA384:ECDHE-RSA-AES256-SHA384:AES256-GCM-SHA384:AES128-SHA",
    ..GOOD
};
/// Without extended master secret: `SSL_OP_NO_EXTENDED_MASTER_SECRET`.
const FORGETFUL: Hello = Hello {
    options: SslOptions::from_bits_retain(1),
    ..GOOD
};

impl Hello {
    /// Whether a handshake for `name` ends well on this version.
    fn is_served(&self, port: u16, name: &str, version: TlsVersion) -> bool {
        #[expect(
            clippy::disallowed_methods,
            reason = "a client for tests; it decides nothing"
        )]
        let mut ctx = SslContext::builder(SslMethod::tls_client()).unwrap();
        ctx.set_verify(SslVerifyMode::NONE);
        ctx.set_min_proto_version(Some(version.into())).unwrap();
        ctx.set_max_proto_version(Some(version.into())).unwrap();
        ctx.set_cipher_list(self.ciphers).unwrap();
        ctx.set_ciphersuites(self.suites).unwrap();
        ctx.set_groups_list(self.groups).unwrap();
        ctx.set_options(self.options);
        let mut ssl = Ssl::new(&ctx.build()).unwrap();
        ssl.set_hostname(name).unwrap();
        let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        tcp.set_read_timeout(Some(SOON)).unwrap();
        ssl.connect(tcp).is_ok()
    }
}

/// The same key, behind a passphrase.
fn encrypted(key: &str) -> String {
    let key = PKey::private_key_from_pem(key.as_bytes()).unwrap();
    let pem = key.private_key_to_pem_pkcs8_passphrase(Cipher::aes_256_cbc(), b"passphrase");
    String::from_utf8(pem.unwrap()).unwrap()
}

/// The text without the lines that begin so.
fn without(text: &str, name: &str) -> String {
    let kept = text.lines().filter(|line| !line.starts_with(name));
    kept.map(|line| format!("{line}\n")).collect()
}

/// The text with another digit at the end of its MAC.
fn with_another_mac(text: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mac = lines.iter_mut().find(|line| line.starts_with("module-mac"));
    let mac = mac.expect("a MAC");
    let last = mac.pop().expect("a digit");
    mac.push(if last == '0' { '1' } else { '0' });
    lines.iter().map(|line| format!("{line}\n")).collect()
}
