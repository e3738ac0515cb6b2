//! An API server as its reference describes it, played by a stand-in.

use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;
use tokio::sync::Notify;

use super::super::contract::{self, Known, find};
use super::super::custody::samples::document;
use super::super::ground::samples::ground;
use super::super::news::News;
use super::super::reference::SourceKey;
use super::super::settings::Settings;
use super::super::standin::{Reply, Seen, StandIn, impatient, local};
use super::*;
use crate::resource::Kind;

/// A `Secret` whose data are these texts.
fn secret(version: &str, data: &[(&str, &[u8])]) -> Reply {
    let data = data.iter();
    let data: serde_json::Map<_, _> = data
        .map(|(name, bytes)| ((*name).to_owned(), json!(STANDARD.encode(bytes))))
        .collect();
    Reply::Json(
        200,
        json!({
            "kind": "Secret", "apiVersion": "v1", "type": "kubernetes.io/tls", "data": data,
            "metadata": {"name": "x", "resourceVersion": version}
        }),
    )
}

/// A failure as the API server says it.
fn status(code: u16, message: &str) -> Reply {
    let body = json!({"kind": "Status", "status": "Failure", "message": message, "code": code});
    Reply::Json(code, body)
}

fn api_server(seen: &Seen) -> Reply {
    let token = seen.header("authorization");
    if !["Bearer hush-token", "Bearer hush-own"].contains(&token) {
        return status(401, "Unauthorized");
    }
    if seen.line.contains("watch=true") {
        return status(403, "watching is not permitted");
    }
    let path = seen.line.strip_prefix("GET /api/v1/namespaces/").unwrap();
    match path {
        "shop/secrets/web" => secret(
            "17",
            &[
                ("tls.crt", b"hush c"),
                ("tls.key", b"hush k"),
                ("CA_1.pem", b"hush ca"),
                ("blob", b"\xff\xfe"),
            ],
        ),
        "own/secrets/web" => secret("3", &[("tls.crt", b"hush own")]),
        "shop/secrets/empty" => secret("1", &[]),
        "shop/secrets/long" => secret("1", &[("k", &[b'x'; 65_537])]),
        "shop/secrets/flood" => secret("1", &[("k", &vec![b'x'; 5 << 20])]),
        "shop/secrets/other" => Reply::Json(200, json!({"kind": "ConfigMap", "data": {}})),
        "shop/secrets/page" => Reply::Text(200, "<hush>".to_owned()),
        "shop/secrets/wrong" => Reply::Json(200, json!({"kind": "Secret", "data": {"k": "hush!"}})),
        "shop/secrets/moved" => Reply::Elsewhere("http://127.0.0.1:1/".to_owned()),
        "shop/secrets/silent" => Reply::Silence,
        "shop/secrets/forbidden" => status(403, "secrets \"forbidden\" is forbidden"),
        "shop/secrets/busy" => status(429, "too many"),
        "shop/secrets/broken" => Reply::Text(503, "hush".to_owned()),
        "shop/secrets/odd" => Reply::Text(418, "hush".to_owned()),
        _ => status(404, "not found"),
    }
}

/// A folder as the kubelet makes it.
fn account() -> TempDir {
    let folder = TempDir::new().unwrap();
    write(folder.path(), "token", "hush-own\n");
    write(folder.path(), "namespace", "own");
    folder
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).unwrap();
}

fn settings(folder: &TempDir, origins: &[&str]) -> Settings {
    let origins = origins.iter().map(|url| Origin::parse(url).unwrap());
    Settings {
        service_account: folder.path().to_owned(),
        uses_cluster_ca: true,
        kubernetes: Reach {
            origins: origins.collect(),
            trust: None,
        },
        ..Settings::default()
    }
}

fn try_open(document_of: Value, ground: &Rc<Ground>) -> Result<Kubernetes, ReadFault> {
    let opened = Opened::new(Kind::Secret, document(document_of));
    Kubernetes::open(&"kubernetes/1".parse().unwrap(), &opened, ground)
}

fn supplied(url: &str) -> Value {
    json!({"apiserver_addr": url, "token": "hush-token"})
}

#[tokio::test]
async fn secrets_of_every_namespace_keep_the_contract() {
    local(async {
        let server = StandIn::start(api_server).await;
        let known = Known {
            values: &[
                ("shop/web/tls.crt", "hush c"),
                ("shop/web/tls.key", "hush k"),
                ("shop/web/CA_1.pem", "hush ca"),
                ("web/tls.crt", "hush own"),
            ],
            absent: "shop/none/tls.crt",
            no_member: Some("shop/empty/tls.crt"),
            malformed: &[
                "web",
                "a/b/c/d",
                "Shop/web/k",
                "sh.op/web/k",
                "shop/Web/k",
                "shop/web/k%2f",
                "shop/we b/k",
                "shop/../k",
                "shop//k",
            ],
        };
        let folder = account();
        let source = try_open(supplied(&server.url), &ground(settings(&folder, &[]))).unwrap();
        contract::suite(&source, &known).await;
        let place = &source.places("shop/web/tls.crt").unwrap()[0];
        let answer = contract::read(&source, place, false).await.unwrap();
        assert_eq!(answer.version.as_deref(), Some("17"));
        assert!(!format!("{source:?}").contains("hush"));
        // Behind a path, as Rancher has it.
        let below = supplied(&format!("{}/api/v1/namespaces/", server.url));
        let source = try_open(below, &ground(settings(&folder, &[]))).unwrap();
        let told = find(&source, "shop/web/tls.crt").await;
        assert_eq!(told, Err(ReadFault::NotFound), "it is part of the path");
    })
    .await;
}

#[tokio::test]
async fn answers_that_are_no_value_are_told_apart() {
    local(async {
        let server = StandIn::start(api_server).await;
        let folder = account();
        let patient = try_open(supplied(&server.url), &ground(settings(&folder, &[]))).unwrap();
        let hurried = impatient(settings(&folder, &[]));
        let hurried = try_open(supplied(&server.url), &hurried).unwrap();
        for (rest, expected) in [
            ("shop/web/blob", "what is there is not a text"),
            ("shop/long/k", "longer than 65536 bytes"),
            ("shop/flood/k", "longer than 65536 bytes"),
            ("shop/other/k", "it is no Secret"),
            ("shop/page/k", "it is no JSON"),
            ("shop/wrong/k", "its `data` are not texts in base64"),
            ("shop/moved/k", "not understood: 307"),
            ("shop/silent/k", "did not answer within 100 ms"),
            ("shop/forbidden/k", "refuses: 403 secrets \"forbidden\" is"),
            ("shop/busy/k", "cannot answer: 429 too many"),
            ("shop/broken/k", "cannot answer: 503"),
            ("shop/odd/k", "not understood: 418"),
        ] {
            let is_silent = rest.contains("silent");
            let source = if is_silent { &hurried } else { &patient };
            let told = find(source, rest).await.unwrap_err();
            let outages = ["shop/silent/k", "shop/busy/k", "shop/broken/k"];
            let is_outage = outages.contains(&rest);
            assert_eq!(told.is_outage(), is_outage, "{rest}");
            let told = told.to_string();
            assert!(told.contains(expected), "{rest}: {told}");
            assert!(!told.contains("hush") && !told.contains("xxx"), "{told}");
        }
        let wrong = json!({"apiserver_addr": server.url, "token": "hush-wrong"});
        let wrong = try_open(wrong, &ground(settings(&folder, &[]))).unwrap();
        let told = find(&wrong, "shop/web/tls.crt").await;
        assert_eq!(told, Err(ReadFault::Denied("401 Unauthorized".to_owned())));
    })
    .await;
}

#[tokio::test]
async fn words_with_a_piece_of_the_token_or_a_key_are_not_told() {
    local(async {
        let server = StandIn::start(|seen: &Seen| {
            let token = seen.header("authorization");
            let (_, name) = seen.line.rsplit_once('/').unwrap();
            let (_, end) = token.split_at(token.len() - 8);
            match name {
                "whole" => status(403, &format!("bad {token}")),
                "piece" => status(500, &format!("bad …{end}")),
                "key" => status(418, "it has -----BEGIN PRIVATE KEY-----"),
                _ => status(403, "bad Bearer token of …-token"),
            }
        })
        .await;
        let folder = account();
        let source = try_open(supplied(&server.url), &ground(settings(&folder, &[]))).unwrap();
        for (name, told) in [
            ("whole", ReadFault::Denied("403".to_owned())),
            ("piece", ReadFault::Unavailable("500".to_owned())),
            ("key", ReadFault::Answer("418".to_owned())),
            (
                "plain",
                ReadFault::Denied("403 bad Bearer token of …-token".to_owned()),
            ),
        ] {
            assert_eq!(find(&source, &format!("shop/{name}/k")).await, Err(told));
        }
    })
    .await;
}

#[tokio::test]
async fn token_of_the_pod_is_read_each_time_and_goes_to_listed_origins_only() {
    local(async {
        let server = StandIn::start(api_server).await;
        let folder = account();
        let fenced = ground(settings(&folder, &["https://other.test"]));
        for document in [
            json!({"apiserver_addr": server.url}),
            json!({"apiserver_addr": server.url, "token": "$env://TOKEN"}),
        ] {
            let source = try_open(document, &fenced).unwrap();
            let told = find(&source, "shop/web/tls.crt").await.unwrap_err();
            assert_eq!(told.reason().code(), "secret_origin_not_trusted");
            assert!(told.to_string().contains("`secrets.kubernetes.origins`"));
        }
        assert!(server.seen().is_empty(), "nothing was sent at all");
        // The first that is listed is the server that is meant.
        let listed = ground(settings(&folder, &[&server.url]));
        let source = try_open(json!({}), &listed).unwrap();
        assert_eq!(find(&source, "web/tls.crt").await.unwrap(), "hush own");
        let kept = json!({"apiserver_addr": server.url, "token": "$env://TOKEN"});
        let kept = try_open(kept, &listed).unwrap();
        assert_eq!(find(&kept, "shop/web/tls.crt").await.unwrap(), "hush c");
        write(folder.path(), "token", "hush-ended");
        let told = find(&source, "web/tls.crt").await;
        assert_eq!(told, Err(ReadFault::Denied("401 Unauthorized".to_owned())));
        write(folder.path(), "token", "hush-token");
        assert_eq!(find(&source, "web/tls.crt").await.unwrap(), "hush own");
    })
    .await;
}

#[tokio::test]
async fn what_a_pod_would_have_and_is_missing_is_told_by_its_file_or_key() {
    local(async {
        let (server, folder) = (StandIn::start(api_server).await, TempDir::new().unwrap());
        let told = try_open(json!({}), &ground(settings(&folder, &[]))).unwrap_err();
        let told = told.to_string();
        assert!(
            told.contains("`secrets.kubernetes.origins` lists none"),
            "{told}"
        );
        let bare = ground(settings(&folder, &[&server.url]));
        let source = try_open(json!({}), &bare).unwrap();
        let told = find(&source, "shop/web/tls.crt").await.unwrap_err();
        assert!(told.is_outage() && told.to_string().contains("/token cannot be read"));
        write(folder.path(), "token", "\n");
        let told = find(&source, "shop/web/tls.crt").await.unwrap_err();
        assert!(told.to_string().contains("/token is empty"), "{told}");
        write(folder.path(), "token", "hush-token");
        assert_eq!(find(&source, "shop/web/tls.crt").await.unwrap(), "hush c");
        for namespace in ["", "sh/op", "Shop"] {
            write(folder.path(), "namespace", namespace);
            let told = find(&source, "web/tls.crt").await.unwrap_err().to_string();
            assert!(told.contains("write it before the secret's name"), "{told}");
        }
        // Over TLS somebody must be believed.
        let tls = ground(settings(&folder, &["https://127.0.0.1:1"]));
        let source = try_open(json!({}), &tls).unwrap();
        let told = find(&source, "shop/web/tls.crt").await.unwrap_err();
        assert!(told.to_string().contains("set `trust_file`"), "{told}");
        write(folder.path(), "ca.crt", "no certificate");
        let told = find(&source, "shop/web/tls.crt").await.unwrap_err();
        assert!(told.to_string().contains("ca.crt: "), "{told}");
    })
    .await;
}

/// A server whose watches say this when it is time.
async fn watchable(time: &Rc<Notify>, event: &'static str) -> StandIn {
    let time = Rc::clone(time);
    StandIn::start(move |seen: &Seen| match seen.line.contains("watch=true") {
        true => Reply::Later(Rc::clone(&time), event.to_owned()),
        false => api_server(seen),
    })
    .await
}

/// How many watches a server saw.
fn watches(server: &StandIn) -> usize {
    let seen = server.seen();
    let watches = seen.iter().filter(|seen| seen.line.contains("watch=true"));
    watches.count()
}

/// Lets others work until it is so.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn secret_that_was_read_is_watched_and_its_change_is_told() {
    local(async {
        for event in ["{\"type\":\"MODIFIED\",\"object\":{}}\n", ""] {
            let time = Rc::new(Notify::new());
            let server = watchable(&time, event).await;
            let folder = account();
            let ground = ground(settings(&folder, &[]));
            let source = try_open(supplied(&server.url), &ground).unwrap();
            let place = &source.places("shop/web/tls.crt").unwrap()[0];
            contract::read(&source, place, true).await.unwrap();
            for _ in 0..3 {
                find(&source, "shop/web/tls.crt").await.unwrap();
            }
            until("it is watched", || watches(&server) > 0).await;
            assert_eq!(watches(&server), 1, "once, and not by a dry run");
            let seen = server.seen();
            let mut lines = seen.iter().map(|seen| seen.line.as_str());
            let line = lines.find(|line| line.contains("watch=true")).unwrap();
            let expected = "GET /api/v1/namespaces/shop/secrets?watch=true\
                            &fieldSelector=metadata.name%3Dweb&resourceVersion=17&timeoutSeconds=";
            assert!(line.starts_with(expected), "{line}");
            assert!(ground.news.take().is_empty(), "nothing happened");
            time.notify_one();
            let told = Cell::new(None);
            until("it is told", || {
                let news = ground.news.take();
                let first = news.into_iter().next();
                let is_told = first.is_some();
                told.set(first);
                is_told
            })
            .await;
            assert_eq!(told.take().unwrap().path, "shop/web");
            // Whoever reads it again watches it again.
            find(&source, "shop/web/tls.crt").await.unwrap();
            until("it is watched", || watches(&server) == 2).await;
        }
    })
    .await;
}

#[tokio::test]
async fn refusal_to_watch_is_accepted_and_watches_end_with_their_manager() {
    local(async {
        let (server, folder) = (StandIn::start(api_server).await, account());
        let ground = ground(settings(&folder, &[]));
        let source = try_open(supplied(&server.url), &ground).unwrap();
        find(&source, "shop/web/tls.crt").await.unwrap();
        let is_refused = || {
            let state = source.watches.state.borrow();
            matches!(state.get("shop/web"), Some(watch::State::Refused(_)))
        };
        until("it is refused", is_refused).await;
        find(&source, "shop/web/tls.crt").await.unwrap();
        assert_eq!(watches(&server), 1, "and is not asked again at once");
        assert!(ground.news.take().is_empty());

        let time = Rc::new(Notify::new());
        let server = watchable(&time, "{}").await;
        let source = try_open(supplied(&server.url), &ground).unwrap();
        find(&source, "shop/web/tls.crt").await.unwrap();
        until("it is watched", || watches(&server) == 1).await;
        let states = Rc::clone(&source.watches.state);
        drop(source);
        until("the watch has ended", || Rc::strong_count(&states) == 1).await;
        assert!(ground.news.take().is_empty(), "nobody is left to tell");
    })
    .await;
}

#[test]
fn watches_are_bounded() {
    let work = local(async {
        let server = watchable(&Rc::default(), "").await;
        let folder = account();
        let source = try_open(supplied(&server.url), &ground(settings(&folder, &[]))).unwrap();
        let watches = Watches::new(News::default());
        for index in 0..watch::MOST + 5 {
            let item = Told {
                origin: SourceKey::Secret("kubernetes/1".parse().unwrap()),
                path: format!("shop/web{index}"),
            };
            let means = source.means("shop/web").await.unwrap();
            watches.begin(
                item,
                Wish {
                    means,
                    from: "1".to_owned(),
                },
            );
        }
        assert_eq!(watches.state.borrow().len(), watch::MOST);
    });
    let runtime = tokio::runtime::Builder::new_current_thread();
    { runtime }.enable_all().build().unwrap().block_on(work);
}

#[tokio::test]
async fn server_is_found_by_the_words_of_apisix() {
    local(async {
        let server = StandIn::start(api_server).await;
        let files = TempDir::new().unwrap();
        write(files.path(), "token", "hush-token\n");
        let folder = account();
        let mut settings = settings(&folder, &[&server.url]);
        settings.file_roots = vec![("files".to_owned(), files.path().to_owned())];
        let ground = ground(settings);
        let own = folder.path().join("token");
        let other = files.path().join("token");
        for file in [POD_TOKEN, own.to_str().unwrap(), other.to_str().unwrap()] {
            let written = json!({"endpoint": server.url, "service_account_file": file});
            let source = try_open(written, &ground).unwrap();
            let value = find(&source, "shop/web/tls.crt").await.unwrap();
            assert_eq!(value, "hush c", "{file}");
        }
        let outside = json!({"endpoint": server.url, "service_account_file": "/etc/hostname"});
        let told = try_open(outside, &ground).unwrap_err().to_string();
        assert!(
            told.contains("`service_account_file` lies beneath none of"),
            "{told}"
        );
        let unlisted = json!({"endpoint": "http://127.0.0.1:1"});
        let source = try_open(unlisted, &ground).unwrap();
        let told = find(&source, "shop/web/tls.crt").await.unwrap_err();
        assert_eq!(told.reason().code(), "secret_origin_not_trusted");
    })
    .await;
}

#[test]
fn address_is_put_together_from_host_and_port() {
    let listed = ["https://10.0.0.1:6443", "https://k.test:8443"];
    let listed = listed.map(|url| Origin::parse(url).unwrap());
    for (written, address) in [
        (json!({}), "https://10.0.0.1:6443"),
        (json!({"kubernetes_port": "1234"}), "https://10.0.0.1:1234"),
        (json!({"kubernetes_host": "K.test"}), "https://K.test:8443"),
        (json!({"kubernetes_host": "x.test"}), "https://x.test"),
        (
            json!({"kubernetes_host": "[fd00::1]", "kubernetes_port": "6443"}),
            "https://[fd00::1]:6443",
        ),
        (
            json!({"endpoint": "http://e.test:1", "kubernetes_host": "x", "kubernetes_port": "2"}),
            "http://e.test:1",
        ),
        (
            json!({"apiserver_addr": "https://a.test"}),
            "https://a.test",
        ),
    ] {
        let opened = Opened::new(Kind::Secret, document(written));
        assert_eq!(origin_of(&opened, &listed).unwrap().to_string(), address);
    }
    let opened = Opened::new(Kind::Secret, document(json!({"kubernetes_port": "1"})));
    assert!(origin_of(&opened, &[]).is_err());
}
