//! A stand-in for the Admin API of Apache APISIX 3: its envelopes, its PATCH, no keys in replies.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::a6::A6;
use crate::support::origin::{TcpOrigin, read_head};
use crate::support::raw::header;

/// The stand-in; it ends when this is dropped.
pub(crate) struct Apisix {
    origin: TcpOrigin,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    requests: Vec<String>,
    connections: usize,
    /// Lists without a page are cut to this many.
    cut: Option<usize>,
    /// Requests still answered before all are refused; `None`: no end.
    patience: Option<usize>,
}

impl Apisix {
    pub(crate) fn start() -> Self {
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        let origin = TcpOrigin::serving(move |conn| serve(conn, &shared));
        Self { origin, state }
    }

    /// Its administrator.
    pub(crate) fn a6(&self) -> A6 {
        A6::of(&format!("http://{}", self.origin.node()))
    }

    /// Method and path of each request, oldest first, and forgets them.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }

    /// How many connections there were.
    pub(crate) fn connections(&self) -> usize {
        self.state.lock().unwrap().connections
    }

    /// What is stored at a path such as `routes/1`.
    pub(crate) fn stored(&self, path: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(path).cloned()
    }

    /// Shows so many objects at most where no page is asked for.
    pub(crate) fn page_by_itself(&self, most: usize) {
        self.state.lock().unwrap().cut = Some(most);
    }

    /// Answers so many requests, and 500 from then on.
    pub(crate) fn fail_after(&self, requests: Option<usize>) {
        self.state.lock().unwrap().patience = requests;
    }
}

fn serve(mut conn: TcpStream, state: &Mutex<State>) {
    state.lock().unwrap().connections += 1;
    loop {
        let head = read_head(&mut conn);
        if !head.ends_with("\r\n\r\n") {
            return;
        }
        let length: usize = header(&head, "content-length").map_or(0, |it| it.parse().unwrap());
        let mut body = vec![0; length];
        if conn.read_exact(&mut body).is_err() {
            return;
        }
        let (status, answer) = answer(&head, &body, &mut state.lock().unwrap());
        let answer = format!("{answer}\n");
        let sent = write!(
            conn,
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{answer}",
            answer.len()
        );
        if sent.is_err() {
            return;
        }
    }
}

fn answer(head: &str, body: &[u8], state: &mut State) -> (u16, Value) {
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    state.requests.push(format!("{method} {target}"));
    if let Some(left) = &mut state.patience {
        if *left == 0 {
            return (500, json!({"error_msg": "etcd is away"}));
        }
        *left -= 1;
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let Some(path) = path.strip_prefix("/apisix/admin/") else {
        return (404, json!({"error_msg": "404 Route Not Found"}));
    };
    let key = |path: &str| format!("/apisix/{path}");
    let envelope = |path: &str, value: &Value| {
        let mut value = value.clone();
        if path.starts_with("ssls/") {
            value.as_object_mut().unwrap().remove("key");
        }
        json!({"key": key(path), "value": value, "createdIndex": 10, "modifiedIndex": 11})
    };
    let document: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let is_secret = path.starts_with("secrets/");
    let depth = path.split('/').count();
    match method {
        "GET" if depth == 1 => list(path, query, state, envelope),
        "GET" => match state.objects.get(path) {
            Some(value) => (200, envelope(path, value)),
            None => (404, json!({"message": "Key not found"})),
        },
        "PUT" => {
            let mut document = document;
            if is_secret && document.get("id").is_some() {
                return (400, json!({"error_msg": "wrong secret id"}));
            }
            let id = path.rsplit('/').next().unwrap();
            document["id"] = json!(id);
            document["create_time"] = json!(1_700_000_000);
            document["update_time"] = json!(1_700_000_000);
            let known = state.objects.insert(path.to_owned(), document.clone());
            let status = if known.is_some() { 200 } else { 201 };
            (status, json!({"key": key(path), "value": document}))
        }
        "POST" => {
            let mut document = document;
            let id = format!("{:020}", state.objects.len() + 1);
            document["id"] = json!(id);
            let path = format!("{path}/{id}");
            state.objects.insert(path.clone(), document.clone());
            (201, json!({"key": key(&path), "value": document}))
        }
        "PATCH" => match state.objects.get_mut(path) {
            Some(value) => {
                merge(value, &document);
                (200, json!({"key": key(path), "value": value}))
            }
            None => (404, json!({"message": "Key not found"})),
        },
        "DELETE" => match state.objects.remove(path) {
            Some(_) => (200, json!({"key": key(path), "deleted": "1"})),
            None => (404, json!({"message": "Key not found"})),
        },
        _ => (404, json!({"error_msg": "not found"})),
    }
}

fn list(
    kind: &str,
    query: &str,
    state: &State,
    envelope: impl Fn(&str, &Value) -> Value,
) -> (u16, Value) {
    let number = |name: &str| -> Option<usize> {
        let pair = query.split('&').find_map(|pair| pair.strip_prefix(name));
        pair.map(|text| text.parse().unwrap())
    };
    let (page, size) = (number("page="), number("page_size="));
    if size.is_some_and(|size| !(10..=500).contains(&size)) {
        return (400, json!("page_size must be between 10 and 500"));
    }
    if kind == "secrets" {
        // As where the section is not known.
        return (404, json!({"error_msg": "not found"}));
    }
    let prefix = format!("{kind}/");
    let all: Vec<Value> = state
        .objects
        .iter()
        .filter(|(path, _)| path.starts_with(&prefix))
        .map(|(path, value)| envelope(path, value))
        .collect();
    let total = all.len();
    let size = size.or(state.cut).unwrap_or(usize::MAX);
    let skipped = page.unwrap_or(1).saturating_sub(1).saturating_mul(size);
    let list: Vec<Value> = all.into_iter().skip(skipped).take(size).collect();
    // cjson writes an empty table as an object.
    let list = if list.is_empty() {
        json!({})
    } else {
        json!(list)
    };
    (200, json!({"total": total, "list": list}))
}

/// JSON Merge Patch (RFC 7396), as APISIX has it.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut target[name], value);
        }
    }
}

#[test]
fn objects_of_apisix_are_written_shown_changed_and_deleted() {
    let apisix = Apisix::start();
    let a6 = apisix.a6();
    let route = json!({"id": 7, "uri": "/a", "upstream": {"nodes": {"a:1": 1, "b:1": 1}}});
    let created = a6.feed(&["route", "create", "-f", "-"], &route.to_string());
    assert_eq!(created.expect_success().json()["id"], "7");
    let change = json!({"upstream": {"nodes": {"b:1": null, "c:1": 2}}}).to_string();
    let changed = a6.feed(&["route", "update", "7", "-f", "-"], &change);
    let nodes = changed.expect_success().json()["upstream"]["nodes"].clone();
    assert_eq!(nodes, json!({"a:1": 1, "c:1": 2}));
    let shown = a6.run(&["route", "get", "7"]).expect_success().json();
    assert_eq!(shown["uri"], "/a");
    let listed = a6.run(&["route", "list"]).expect_success().json();
    assert_eq!(listed[0]["id"], "7");
    let deleted = a6.run(&["route", "delete", "7"]).expect_success();
    assert_eq!(deleted.stdout, "✓ Route 7 deleted.\n");
    assert_eq!(
        a6.run(&["route", "list", "-o", "table"])
            .expect_success()
            .stdout,
        "No routes found.\n"
    );
    assert_eq!(
        apisix.requests(),
        [
            "PUT /apisix/admin/routes/7",
            "PATCH /apisix/admin/routes/7",
            "GET /apisix/admin/routes/7",
            "GET /apisix/admin/routes?page=1&page_size=20",
            "DELETE /apisix/admin/routes/7",
            "GET /apisix/admin/routes?page=1&page_size=20",
        ]
    );
}

#[test]
fn update_merges_unless_it_is_told_to_replace() {
    let apisix = Apisix::start();
    let a6 = apisix.a6();
    let name = json!({"id": "n", "snis": ["a.test"], "cert": "C", "key": "K"}).to_string();
    a6.feed(&["ssl", "create", "-f", "-"], &name)
        .expect_success();
    let new = json!({"cert": "D", "key": "L"}).to_string();
    a6.feed(&["ssl", "update", "n", "-f", "-"], &new)
        .expect_success();
    let merged = apisix.stored("ssls/n").unwrap();
    assert_eq!(
        (&merged["snis"], &merged["cert"]),
        (&json!(["a.test"]), &json!("D"))
    );
    a6.feed(&["ssl", "update", "n", "-f", "-", "--replace"], &new)
        .expect_success();
    assert_eq!(apisix.stored("ssls/n").unwrap().get("snis"), None);
    assert_eq!(
        apisix.requests(),
        [
            "PUT /apisix/admin/ssls/n",
            "PATCH /apisix/admin/ssls/n",
            "PUT /apisix/admin/ssls/n",
        ]
    );
}

#[test]
fn secret_takes_its_id_from_the_argument_or_the_file_and_never_sends_it() {
    let apisix = Apisix::start();
    let a6 = apisix.a6();
    for (args, body) in [
        (
            &["secret", "create", "vault/a", "-f", "-"][..],
            json!({"uri": "http://v"}),
        ),
        (
            &["secret", "create", "-f", "-"],
            json!({"id": "vault/b", "uri": "http://v"}),
        ),
    ] {
        a6.feed(args, &body.to_string()).expect_success();
    }
    a6.feed(
        &["secret", "update", "vault/b", "-f", "-"],
        r#"{"prefix":"p"}"#,
    )
    .expect_success();
    assert_eq!(apisix.stored("secrets/vault/b").unwrap()["prefix"], "p");
    let refused = a6.feed(&["secret", "create", "-f", "-"], r#"{"uri":"http://v"}"#);
    assert!(
        refused.stderr.starts_with("accepts 1 arg(s), received 0"),
        "{refused:?}"
    );
    let refused = a6.feed(&["secret", "create", "-f", "-"], r#"{"id":"b"}"#);
    assert!(refused.stderr.contains("manager/id"), "{refused:?}");
    assert_eq!(
        apisix.requests(),
        [
            "PUT /apisix/admin/secrets/vault/a",
            "PUT /apisix/admin/secrets/vault/b",
            "PATCH /apisix/admin/secrets/vault/b",
        ]
    );
}

#[test]
fn object_without_an_id_is_posted() {
    let apisix = Apisix::start();
    let created = apisix
        .a6()
        .feed(&["route", "create", "-f", "-"], r#"{"uri":"/a"}"#);
    assert!(created.expect_success().json()["id"].is_string());
    assert_eq!(apisix.requests(), ["POST /apisix/admin/routes"]);
}
