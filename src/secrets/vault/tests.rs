//! Vault's API as its documents describe it, played by a few lines; the real thing is asked in the
//! integration tests.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use super::super::contract::{self, Known, find};
use super::super::custody::samples::document;
use super::super::ground::samples::ground;
use super::super::settings::{Settings, TokenFrom};
use super::*;
use crate::resource::Kind;

/// A request as it came: `METHOD path`, the token, the body, the namespace.
type Seen = (String, Option<String>, String, Option<String>);

/// Answers a request: status and JSON.
type Answers = fn(&Seen) -> (u16, Value);

/// A server of these answers, one connection per request. What it saw is kept.
async fn play(answers: Answers) -> (String, Arc<Mutex<Vec<Seen>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let all: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let kept = all.clone();
    tokio::task::spawn_local(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let kept = kept.clone();
            tokio::task::spawn_local(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = tcp.read_u8().await else {
                        return;
                    };
                    head.push(byte);
                }
                let head = String::from_utf8(head).unwrap();
                let field = |name: &str| {
                    head.lines()
                        .filter_map(|line| line.split_once(": "))
                        .find(|(own, _)| own.eq_ignore_ascii_case(name))
                        .map(|(_, value)| value.to_owned())
                };
                let length = field("content-length").map_or(0, |text| text.parse().unwrap());
                let mut body = vec![0; length];
                tcp.read_exact(&mut body).await.unwrap();
                let mut words = head.split(' ');
                let line = format!("{} {}", words.next().unwrap(), words.next().unwrap());
                let seen = (
                    line,
                    field("x-vault-token"),
                    String::from_utf8(body).unwrap(),
                    field("x-vault-namespace"),
                );
                let (status, answer) = answers(&seen);
                kept.lock().unwrap().push(seen);
                let answer = answer.to_string();
                let reply = format!(
                    "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{answer}",
                    answer.len()
                );
                tcp.write_all(reply.as_bytes()).await.unwrap();
            });
        }
    });
    (url, all)
}

fn settings(url: &str) -> Settings {
    let mut settings = Settings {
        vault_token: Some(TokenFrom::Value(Zeroizing::new("operators".to_owned()))),
        ..Settings::default()
    };
    settings.vault.origins = vec![Origin::parse(url).unwrap()];
    settings
}

fn open(secret: Value, settings: Settings) -> Result<Vault, ReadFault> {
    let opened = Opened::new(Kind::Secret, document(secret));
    Vault::open(&opened, &ground(settings))
}

async fn local<T>(work: impl Future<Output = T>) -> T {
    LocalSet::new().run_until(work).await
}

fn kv(seen: &Seen) -> (u16, Value) {
    let one = json!({"cert": "hush c", "key": "hush k"});
    let two = json!({"data": {"a": "hush a"}, "metadata": {"version": 7}});
    match seen.0.as_str() {
        "GET /v1/auth/token/lookup-self" => (200, json!({"data": {"ttl": 0}})),
        "GET /v1/kv/apisix/web" => (200, json!({"lease_duration": 60, "data": one})),
        "GET /v1/kv/data/apisix/web" | "GET /v1/secret/data/mtls" => (200, json!({"data": two})),
        "GET /v1/kv/apisix/gone" => (
            404,
            json!({"data": {"data": null, "metadata": {"version": 2}}}),
        ),
        "GET /v1/kv/apisix/odd%20name" => (200, json!({"data": {"m": "hush odd"}})),
        "GET /v1/kv/apisix/sealed" => (503, json!({"errors": ["Vault is sealed"]})),
        "GET /v1/kv/apisix/denied" => (403, json!({"errors": ["permission denied"]})),
        "GET /v1/kv/apisix/page" => (200, json!("hush")),
        _ => (404, json!({"errors": []})),
    }
}

#[tokio::test]
async fn both_versions_and_the_bare_form_keep_the_contract() {
    local(async {
        let (url, seen) = play(kv).await;
        let below = json!({"uri": url, "prefix": "/kv/apisix/", "token": "hush-token"});
        let known = Known {
            values: &[
                ("web/cert", "hush c"),
                ("web/key", "hush k"),
                ("odd name/m", "hush odd"),
            ],
            absent: "none/m",
            no_member: Some("web/other"),
            malformed: &["web", "/m", "a//m", "a/"],
        };
        let source = open(below.clone(), settings(&url)).unwrap();
        contract::suite(&source, &known).await;
        let place = &source.places("web/cert").unwrap()[0];
        let answer = contract::read(&source, place, false).await.unwrap();
        assert_eq!(answer.good_for, Some(Duration::from_secs(60)), "the lease");
        let mut second = below.clone();
        second["kv_version"] = json!("kv-v2");
        let source = open(second, settings(&url)).unwrap();
        assert_eq!(find(&source, "web/a").await.unwrap(), "hush a");
        let bare = json!({"uri": format!("{url}/v1/secret/data/mtls")});
        let source = open(bare, settings(&url)).unwrap();
        assert_eq!(find(&source, "a").await.unwrap(), "hush a");
        let place = &source.places("a").unwrap()[0];
        let answer = contract::read(&source, place, false).await.unwrap();
        assert_eq!(answer.version.as_deref(), Some("7"));
        let tokens: Vec<_> = seen
            .lock()
            .unwrap()
            .iter()
            .map(|seen| seen.1.clone())
            .collect();
        assert!(tokens.contains(&Some("hush-token".to_owned())));
        assert!(tokens.contains(&Some("operators".to_owned())));
    })
    .await;
}

#[tokio::test]
async fn every_request_names_the_namespace_the_login_too() {
    fn answers(seen: &Seen) -> (u16, Value) {
        match seen.0.as_str() {
            "POST /v1/auth/approle/login" => (
                200,
                json!({"auth": {"client_token": "hush-token", "lease_duration": 0}}),
            ),
            _ => kv(seen),
        }
    }
    local(async {
        let (url, seen) = play(answers).await;
        let auth = json!({"method": "approle", "role_id": "r", "secret_id": "s"});
        let secret = json!({"uri": url, "prefix": "kv/apisix", "auth": auth});
        for namespace in [Some("bank/payments"), None] {
            let mut secret = secret.clone();
            if let Some(namespace) = namespace {
                secret["namespace"] = json!(namespace);
            }
            let source = open(secret, settings(&url)).unwrap();
            assert_eq!(find(&source, "web/cert").await.unwrap(), "hush c");
            let all = std::mem::take(&mut *seen.lock().unwrap());
            assert!(all.iter().any(|seen| seen.0.ends_with("/login")), "{all:?}");
            for request in &all {
                assert_eq!(request.3.as_deref(), namespace, "{request:?}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn statuses_are_told_apart() {
    local(async {
        let (url, _) = play(kv).await;
        let secret = json!({"uri": url, "prefix": "kv/apisix", "token": "hush-token"});
        let source = open(secret, settings(&url)).unwrap();
        assert_eq!(find(&source, "gone/m").await, Err(ReadFault::NotFound));
        let sealed = find(&source, "sealed/m").await.unwrap_err();
        assert!(sealed.is_outage() && sealed.to_string().contains("Vault is sealed"));
        let denied = find(&source, "denied/m").await.unwrap_err();
        assert_eq!(
            denied,
            ReadFault::Denied("403 permission denied".to_owned())
        );
        let odd = find(&source, "page/m").await.unwrap_err();
        assert!(matches!(odd, ReadFault::Answer(_)), "{odd:?}");
        assert!(!odd.to_string().contains("hush"));
    })
    .await;
}

#[tokio::test]
async fn words_with_a_credential_are_not_told() {
    fn answers(seen: &Seen) -> (u16, Value) {
        let told = match seen.0.as_str() {
            "POST /v1/auth/approle/login" => seen.2.clone(),
            "GET /v1/kv/echo" => seen.1.clone().unwrap_or_default(),
            _ => "permission denied".to_owned(),
        };
        (403, json!({ "errors": [told] }))
    }
    local(async {
        let (url, _) = play(answers).await;
        let given = json!({"uri": url, "prefix": "kv", "token": "hush-token"});
        let given = open(given, settings(&url)).unwrap();
        let bare = Err(ReadFault::Denied("403".to_owned()));
        assert_eq!(find(&given, "echo/m").await, bare);
        let plain = Err(ReadFault::Denied("403 permission denied".to_owned()));
        assert_eq!(find(&given, "plain/m").await, plain);
        for auth in [
            json!({"method": "approle", "role_id": "r", "secret_id": "hush-secret"}),
            json!({"method": "approle", "role_id": "hush-role", "secret_id": "s"}),
        ] {
            let secret = json!({"uri": url, "prefix": "kv", "auth": auth});
            let source = open(secret, settings(&url)).unwrap();
            assert_eq!(find(&source, "echo/m").await, bare);
        }
    })
    .await;
}

#[tokio::test]
async fn operators_token_is_sent_to_listed_origins_only() {
    local(async {
        let (url, seen) = play(kv).await;
        let bare = json!({"uri": format!("{url}/v1/secret/data/mtls")});
        for credentials in [
            json!({}),
            json!({"token": "$env://TOKEN"}),
            json!({"auth": {"method": "kubernetes", "role": "r"}}),
            json!({"auth": {"method": "approle", "role_id": "r", "secret_id": "$env://TOKEN"}}),
        ] {
            let mut secret = bare.clone();
            let members = credentials.as_object().unwrap().clone();
            secret.as_object_mut().unwrap().extend(members);
            let fenced = Settings {
                vault: super::super::settings::Reach::default(),
                ..settings(&url)
            };
            let told = find(&open(secret, fenced).unwrap(), "a").await.unwrap_err();
            assert!(
                matches!(told, ReadFault::OriginNotTrusted { .. }),
                "{told:?}"
            );
        }
        assert!(seen.lock().unwrap().is_empty(), "nothing was sent at all");
        assert_eq!(
            find(&open(bare, settings(&url)).unwrap(), "a")
                .await
                .unwrap(),
            "hush a"
        );
    })
    .await;
}

#[tokio::test]
async fn pod_logs_in_with_its_service_account_as_it_is_then() {
    fn answers(seen: &Seen) -> (u16, Value) {
        match seen.0.as_str() {
            "POST /v1/auth/k8s/login" => {
                let body: Value = serde_json::from_str(&seen.2).unwrap();
                assert_eq!(body["role"], "gateway");
                let token = format!("from-{}", body["jwt"].as_str().unwrap());
                (
                    200,
                    json!({"auth": {"client_token": token, "lease_duration": 0}}),
                )
            }
            // The first token is revoked once it was used.
            "GET /v1/auth/token/lookup-self" if seen.1.as_deref() == Some("from-jwt-2") => {
                (200, json!({"data": {"ttl": 0}}))
            }
            "GET /v1/secret/data/mtls" if seen.1.as_deref() == Some("from-jwt-2") => {
                (200, json!({"data": {"a": "hush a"}}))
            }
            _ => (403, json!({"errors": ["permission denied"]})),
        }
    }
    let account = tempfile::tempdir().unwrap();
    std::fs::write(account.path().join("token"), "jwt-1\n").unwrap();
    local(async {
        let (url, seen) = play(answers).await;
        let secret = json!({
            "uri": format!("{url}/v1/secret/data/mtls"),
            "auth": {"method": "kubernetes", "mount": "k8s", "role": "gateway"}
        });
        let settings = Settings {
            service_account: account.path().to_owned(),
            ..settings(&url)
        };
        let source = open(secret, settings).unwrap();
        let told = find(&source, "a").await.unwrap_err();
        assert!(matches!(told, ReadFault::Denied(_)));
        std::fs::write(account.path().join("token"), "jwt-2").unwrap();
        assert_eq!(find(&source, "a").await.unwrap(), "hush a");
        let logins = |seen: &[Seen]| seen.iter().filter(|seen| seen.2.contains("jwt")).count();
        let count = logins(&seen.lock().unwrap());
        assert_eq!(find(&source, "a").await.unwrap(), "hush a");
        assert!(find(&source, "other/b").await.is_err());
        assert_eq!(logins(&seen.lock().unwrap()), count, "a good token is kept");
    })
    .await;
}

#[tokio::test]
async fn certificate_is_issued_once_and_never_in_a_dry_run() {
    fn answers(seen: &Seen) -> (u16, Value) {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        match seen.0.as_str() {
            "GET /v1/auth/token/lookup-self" => (200, json!({"data": {"ttl": 0}})),
            "POST /v1/pki/issue/web" => {
                let body: Value = serde_json::from_str(&seen.2).unwrap();
                assert_eq!(body, json!({"common_name": "a.test", "ttl": "1h"}));
                let data = json!({
                    "certificate": "leaf", "private_key": "hush key", "ca_chain": ["mid", "root"],
                    "expiration": now + 3600, "serial_number": "01:02"
                });
                (200, json!({ "data": data }))
            }
            _ => (404, json!({"errors": []})),
        }
    }
    local(async {
        let (url, seen) = play(answers).await;
        let secret = json!({
            "uri": url, "prefix": "pki", "token": "t",
            "issue": {"role": "web", "cn": "a.test", "ttl": "1h"}
        });
        let source = open(secret, settings(&url)).unwrap();
        let place = &source.places("private_key").unwrap()[0];
        contract::read(&source, place, true).await.unwrap_err();
        assert!(
            seen.lock().unwrap().is_empty(),
            "a dry run asks for nothing"
        );
        for (member, value) in [
            ("certificate", "leaf\nmid\nroot"),
            ("private_key", "hush key"),
            ("ca_chain", "mid\nroot"),
        ] {
            assert_eq!(find(&source, member).await.unwrap(), value);
        }
        contract::read(&source, place, true).await.unwrap();
        let issued = seen
            .lock()
            .unwrap()
            .iter()
            .filter(|seen| seen.0.contains("issue"))
            .count();
        assert_eq!(issued, 1);
        let answer = contract::read(&source, place, false).await.unwrap();
        let left = answer.good_for.unwrap();
        assert!(left <= Duration::from_secs(3600) && left > Duration::from_secs(3000));
        assert!(source.places("web/cert").is_err());
    })
    .await;
}
