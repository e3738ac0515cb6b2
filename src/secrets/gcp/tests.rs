//! The login and Secret Manager as their documents describe them, played by a stand-in that checks
//! each signature against the account's certificate.

use std::cell::Cell;
use std::collections::BTreeMap;

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use tempfile::TempDir;

use super::super::contract::{self, Known, find};
use super::super::custody::samples::document;
use super::super::ground::samples::ground;
use super::super::settings::{Reach, Settings};
use super::super::standin::{Reply, Seen, StandIn, impatient, local};
use super::*;
use crate::crypto::sign::VerifyingKey;
use crate::net::http::Origin;
use crate::resource::Kind;
use crate::tls::sample;

const EMAIL: &str = "gateway@shop.iam.gserviceaccount.com";

/// A service account: its certificate and its key.
fn pair() -> (String, String) {
    let leaf = sample::rsa_leaf(&sample::ca("ca"), "account", &[]);
    (leaf.cert, leaf.key_pem)
}

/// The claims of an assertion that is signed by this certificate's key.
fn claims(assertion: &str, cert: &str) -> Option<Value> {
    let (text, signature) = assertion.rsplit_once('.')?;
    let (head, claims) = text.split_once('.')?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
    let head: Value = serde_json::from_slice(&decode(head)).unwrap();
    assert_eq!(head, json!({"alg": "RS256", "typ": "JWT"}));
    let key = VerifyingKey::parse_pem(cert.as_bytes()).unwrap();
    let is_signed = key.verify(text.as_bytes(), &decode(signature)).unwrap();
    is_signed.then(|| serde_json::from_slice(&decode(claims)).unwrap())
}

/// What Google answers an account of this certificate, whose tokens last this long.
fn google(cert: String, lasts: Value) -> impl Fn(&Seen) -> Reply {
    let logins = Cell::new(0);
    move |seen| {
        if seen.line == "POST /token" {
            let (grant, assertion) = seen.body.split_once("&assertion=").unwrap();
            assert_eq!(
                grant,
                "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer"
            );
            let Some(claims) = claims(assertion, &cert) else {
                let text = json!({"error": "invalid_grant", "error_description": "Invalid JWT"});
                return Reply::Json(400, text);
            };
            assert_eq!(claims["iss"], EMAIL);
            let host = seen.header("host");
            assert_eq!(claims["aud"], format!("http://{host}/token"));
            assert_eq!(
                claims["scope"],
                "https://www.googleapis.com/auth/cloud-platform"
            );
            let lived = claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap();
            assert_eq!(lived, 3600);
            logins.set(logins.get() + 1);
            let token = format!("hush-{}", logins.get());
            return Reply::Json(200, json!({"access_token": token, "expires_in": lasts}));
        }
        let token = seen.header("authorization").strip_prefix("Bearer hush-");
        let number = token.and_then(|token| token.parse().ok());
        if number.is_none_or(|number: u32| number > logins.get()) {
            return error(401, "Request had invalid credentials");
        }
        secret_manager(&seen.line)
    }
}

fn error(code: u16, message: &str) -> Reply {
    Reply::Json(code, json!({"error": {"code": code, "message": message}}))
}

fn payload(bytes: &[u8]) -> Reply {
    let name = "projects/1/secrets/x/versions/7";
    let payload = json!({"data": STANDARD.encode(bytes)});
    Reply::Json(200, json!({"name": name, "payload": payload}))
}

fn secret_manager(line: &str) -> Reply {
    let path = line
        .strip_prefix("GET /v1/projects/shop%3A1/secrets/")
        .unwrap();
    match path.strip_suffix("/versions/latest:access").unwrap() {
        "plain" => payload(b"hush plain"),
        "web" => payload(br#"{"cert": "hush c", "key": "hush k", "a/b": "hush ab"}"#),
        "binary" => payload(b"\xff\xfe"),
        "long" => payload(&[b'x'; 65_537]),
        "flood" => payload(&vec![b'x'; 5 << 20]),
        "page" => Reply::Text(200, "<hush>".to_owned()),
        "empty" => Reply::Json(200, json!({"payload": {}})),
        "wrong" => Reply::Json(200, json!({"payload": {"data": "hush!"}})),
        "moved" => Reply::Elsewhere("http://127.0.0.1:1/".to_owned()),
        "silent" => Reply::Silence,
        "denied" => error(403, "Permission denied on resource project shop"),
        "disabled" => error(400, "Secret Version is in DISABLED state"),
        "busy" => error(429, "Quota exceeded"),
        "broken" => Reply::Text(503, "hush".to_owned()),
        "odd" => Reply::Text(418, "hush".to_owned()),
        _ => error(404, "not found"),
    }
}

fn account(url: &str, key: &str) -> Value {
    json!({
        "client_email": EMAIL, "private_key": key, "project_id": "shop:1",
        "token_uri": format!("{url}/token"), "entries_uri": format!("{url}/v1"),
    })
}

fn try_open(secret: Value, ground: &Rc<Ground>) -> Result<Gcp, ReadFault> {
    Gcp::open(&Opened::new(Kind::Secret, document(secret)), ground)
}

fn open(account: &Value, settings: Settings) -> Gcp {
    try_open(json!({ "auth_config": account }), &ground(settings)).unwrap()
}

fn logins(server: &StandIn) -> usize {
    let seen = server.seen();
    seen.iter()
        .filter(|seen| seen.line == "POST /token")
        .count()
}

#[tokio::test]
async fn names_and_members_keep_the_contract_with_one_login() {
    local(async {
        let (cert, key) = pair();
        let server = StandIn::start(google(cert, json!(3600))).await;
        let known = Known {
            values: &[
                ("plain", "hush plain"),
                ("web/cert", "hush c"),
                ("web/key", "hush k"),
                ("web/a/b", "hush ab"),
            ],
            absent: "none/at/all",
            no_member: Some("web/other"),
            malformed: &["", "/m", "a/", "a b/c", "a.b/c", "ä", "a:access/c"],
        };
        let source = open(&account(&server.url, &key), Settings::default());
        contract::suite(&source, &known).await;
        let place = &source.places("plain").unwrap()[0];
        let answer = contract::read(&source, place, false).await.unwrap();
        assert_eq!(answer.version.as_deref(), Some("7"));
        assert_eq!(logins(&server), 1);
        let shown = format!("{source:?}");
        assert!(
            shown.contains(EMAIL) && !shown.contains("PRIVATE KEY"),
            "{shown}"
        );
    })
    .await;
}

#[tokio::test]
async fn answers_that_are_no_value_are_told_apart() {
    local(async {
        let (cert, key) = pair();
        let server = StandIn::start(google(cert, json!(3600))).await;
        let patient = open(&account(&server.url, &key), Settings::default());
        let secret = json!({"auth_config": account(&server.url, &key)});
        let hurried = try_open(secret, &impatient(Settings::default())).unwrap();
        let outages = BTreeMap::from([("silent", ()), ("busy", ()), ("broken", ())]);
        for (name, expected) in [
            ("binary", "what is there is not a text"),
            ("long", "longer than 65536 bytes"),
            ("flood", "longer than 65536 bytes"),
            ("page", "it is no JSON"),
            ("empty", "it has no `payload.data`"),
            ("wrong", "its `payload.data` is no base64"),
            ("moved", "not understood: 307"),
            ("silent", "did not answer within 100 ms"),
            ("denied", "refuses: 403 Permission denied on resource"),
            ("disabled", "refuses: 400 Secret Version is in DISABLED"),
            ("busy", "cannot answer: 429 Quota exceeded"),
            ("broken", "cannot answer: 503"),
            ("odd", "not understood: 418"),
        ] {
            let source = if name == "silent" { &hurried } else { &patient };
            let told = find(source, name).await.unwrap_err();
            assert_eq!(told.is_outage(), outages.contains_key(name), "{name}");
            let told = told.to_string();
            assert!(told.contains(expected), "{name}: {told}");
            assert!(!told.contains("hush") && !told.contains("xxx"), "{told}");
        }
    })
    .await;
}

#[tokio::test]
async fn token_is_kept_until_shortly_before_its_end_and_replaced_when_it_is_refused() {
    local(async {
        let (cert, key) = pair();
        for (lasts, count) in [(json!(3600), 1), (json!(30), 2), (Value::Null, 1)] {
            let server = StandIn::start(google(cert.clone(), lasts.clone())).await;
            let source = open(&account(&server.url, &key), Settings::default());
            for _ in 0..2 {
                assert_eq!(find(&source, "plain").await.unwrap(), "hush plain");
            }
            assert_eq!(logins(&server), count, "{lasts}");
            find(&source, "denied").await.unwrap_err();
            find(&source, "plain").await.unwrap();
            assert!(
                logins(&server) > count,
                "one that was refused is not used again"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn key_that_is_not_the_accounts_is_refused_and_one_that_cannot_sign_is_told() {
    local(async {
        let (cert, key) = pair();
        let server = StandIn::start(google(cert, json!(3600))).await;
        let ec = sample::ca("ec").key_pem;
        for (wrong, expected) in [
            (pair().1, "the manager refuses: 400 Invalid JWT"),
            (ec, "is no RSA key, which Google's are"),
            ("hush".to_owned(), "cannot sign: failed to parse key"),
        ] {
            let source = open(&account(&server.url, &wrong), Settings::default());
            let told = find(&source, "plain").await.unwrap_err().to_string();
            assert!(told.contains(expected), "{told}");
            assert!(
                !told.contains("hush") && !told.contains("PRIVATE"),
                "{told}"
            );
        }
        let mut nowhere = account(&server.url, &key);
        nowhere["token_uri"] = json!(format!("{}/v1/projects/shop%3A1/secrets/x", server.url));
        nowhere["entries_uri"] = json!("http://127.0.0.1:1");
        let refusing = StandIn::start(|_: &Seen| Reply::Text(404, String::new())).await;
        nowhere["token_uri"] = json!(format!("{}/token", refusing.url));
        let told = find(&open(&nowhere, Settings::default()), "plain").await;
        let expected = "there is nothing at `token_uri`".to_owned();
        assert_eq!(told, Err(ReadFault::Unusable(expected)));
        let source = open(&account(&server.url, &key), Settings::default());
        assert_eq!(find(&source, "plain").await.unwrap(), "hush plain");
    })
    .await;
}

#[tokio::test]
async fn account_of_a_file_is_read_beneath_a_root_and_shown_to_listed_origins_only() {
    local(async {
        let (cert, key) = pair();
        let server = StandIn::start(google(cert, json!(30))).await;
        let (folder, outside) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let path = folder.path().join("account.json");
        std::fs::write(&path, account(&server.url, &key).to_string()).unwrap();
        std::fs::write(outside.path().join("account.json"), "{}").unwrap();
        let settings = |origins: &[&str]| Settings {
            file_roots: vec![("keys".to_owned(), folder.path().to_owned())],
            gcp: Reach {
                origins: origins
                    .iter()
                    .map(|url| Origin::parse(url).unwrap())
                    .collect(),
                trust: None,
            },
            ..Settings::default()
        };
        let by_path = json!({"auth_file": path.to_str().unwrap()});
        let by_reference = json!({"auth_file": "$secret://file/keys/account.json"});
        for secret in [&by_path, &by_reference] {
            let source = try_open(secret.clone(), &ground(settings(&[]))).unwrap();
            let told = find(&source, "plain").await.unwrap_err();
            assert_eq!(told.reason().code(), "secret_origin_not_trusted");
            assert!(told.to_string().contains("`secrets.gcp.origins`"));
        }
        let mut kept = account(&server.url, &key);
        kept["private_key"] = json!("$env://TOKEN");
        let told = find(&open(&kept, settings(&[])), "plain")
            .await
            .unwrap_err();
        assert_eq!(told.reason().code(), "secret_origin_not_trusted");
        assert!(server.seen().is_empty(), "nothing was sent at all");
        let listed = ground(settings(&[&server.url]));
        for secret in [by_path, by_reference] {
            let source = try_open(secret, &listed).unwrap();
            assert_eq!(find(&source, "plain").await.unwrap(), "hush plain");
            // It is read again at each login.
            for wrong in ["hush", "[]", r#"{"client_email": "hush"}"#] {
                std::fs::write(&path, wrong).unwrap();
                let told = find(&source, "plain").await.unwrap_err().to_string();
                assert!(
                    told.contains("`auth_file` is not the key of a service"),
                    "{told}"
                );
                assert!(!told.contains("hush"));
            }
            std::fs::write(&path, account(&server.url, &key).to_string()).unwrap();
            assert_eq!(find(&source, "plain").await.unwrap(), "hush plain");
        }
        for file in [
            outside.path().join("account.json").to_str().unwrap(),
            &format!("{}/../x.json", folder.path().display()),
            "$secret://vault/1/a/b",
        ] {
            let told = try_open(json!({"auth_file": file}), &listed).unwrap_err();
            let is_fenced = matches!(
                told,
                ReadFault::Fenced(_) | ReadFault::Malformed(_) | ReadFault::Unusable(_)
            );
            assert!(is_fenced, "{file}: {told:?}");
        }
    })
    .await;
}
