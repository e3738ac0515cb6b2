//! Values in Kubernetes. No API server can be installed here: a stand-in is written after the API
//! reference ("Secret v1", and watching), over TLS, with a pod's service account.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::sync::{Arc, Condvar, Mutex};

use openssl::base64::encode_block;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{NAME, expect_state};
use crate::support::client::shown_serial;
use crate::support::gateway::{Gateway, Setup};
use crate::support::origin::{TcpOrigin, read_head_from};
use crate::support::pki::{Ca, Pair};
use crate::support::tls::accept;
use crate::support::{SOON, TlsVersion, eventually};

/// What the stand-in has.
struct Cluster {
    /// Its own certificate.
    pair: Pair,
    token: String,
    may_watch: bool,
    version: u32,
    /// By `namespace/name`: the version it is of, and its data.
    secrets: BTreeMap<String, (u32, Value)>,
    watches: usize,
}

/// A running stand-in.
struct ApiServer {
    cluster: Arc<(Mutex<Cluster>, Condvar)>,
    origin: TcpOrigin,
}

impl ApiServer {
    fn start(pair: Pair) -> Self {
        let cluster = Arc::new((
            Mutex::new(Cluster {
                pair,
                token: "hush-token-1".to_owned(),
                may_watch: true,
                version: 1,
                secrets: BTreeMap::new(),
                watches: 0,
            }),
            Condvar::new(),
        ));
        let own = Arc::clone(&cluster);
        let origin = TcpOrigin::serving(move |tcp| {
            let pair = own.0.lock().unwrap().pair.clone();
            if let Some(mut stream) = accept(tcp, &pair) {
                serve(&own, &mut stream);
            }
        });
        Self { cluster, origin }
    }

    fn change(&self, change: impl FnOnce(&mut Cluster)) {
        change(&mut self.cluster.0.lock().unwrap());
        self.cluster.1.notify_all();
    }

    fn write(&self, name: &str, pair: &Pair) {
        let encode = |text: &str| encode_block(text.as_bytes());
        let data = json!({"tls.crt": encode(&pair.cert), "tls.key": encode(&pair.key)});
        self.change(|cluster| {
            cluster.version += 1;
            let entry = (cluster.version, data);
            cluster.secrets.insert(name.to_owned(), entry);
        });
    }

    fn watches(&self) -> usize {
        self.cluster.0.lock().unwrap().watches
    }
}

/// One connection.
fn serve(own: &(Mutex<Cluster>, Condvar), stream: &mut (impl Read + Write)) {
    loop {
        let head = read_head_from(stream);
        let Some(target) = head.split(' ').nth(1) else {
            return;
        };
        let cluster = own.0.lock().unwrap();
        if !head.contains(&format!("authorization: Bearer {}\r\n", cluster.token)) {
            answer(
                stream,
                401,
                &json!({"kind": "Status", "message": "Unauthorized"}),
            );
            continue;
        }
        let path = target.strip_prefix("/api/v1/namespaces/").unwrap();
        if let Some((namespace, query)) = path.split_once("/secrets?") {
            if !cluster.may_watch {
                answer(
                    stream,
                    403,
                    &json!({"kind": "Status", "message": "no watch"}),
                );
                continue;
            }
            drop(cluster);
            watch(own, stream, namespace, query);
            return;
        }
        let name = path.replace("/secrets/", "/");
        match cluster.secrets.get(&name) {
            Some((version, data)) => answer(stream, 200, &secret(*version, data)),
            None => answer(
                stream,
                404,
                &json!({"kind": "Status", "message": "not found"}),
            ),
        }
    }
}

fn secret(version: u32, data: &Value) -> Value {
    let metadata = json!({"resourceVersion": version.to_string()});
    json!({"kind": "Secret", "apiVersion": "v1", "metadata": metadata, "data": data})
}

fn answer(stream: &mut impl Write, status: u16, body: &Value) {
    let body = body.to_string();
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n");
    let _gone = stream.write_all((head + &body).as_bytes());
}

/// Says what is newer than a version, as soon as there is something.
fn watch(own: &(Mutex<Cluster>, Condvar), stream: &mut impl Write, namespace: &str, query: &str) {
    let field = |name: &str| {
        let mut fields = query.split('&').filter_map(|field| field.split_once('='));
        fields.find(|(own, _)| *own == name).unwrap().1.to_owned()
    };
    assert_eq!(field("watch"), "true");
    let selector = field("fieldSelector");
    let name = selector.strip_prefix("metadata.name%3D").unwrap();
    let name = format!("{namespace}/{name}");
    let from: u32 = field("resourceVersion").parse().unwrap();
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let _gone = stream.write_all(head);
    let mut cluster = own.0.lock().unwrap();
    cluster.watches += 1;
    let is_news = |cluster: &mut Cluster| cluster.secrets[&name].0 <= from;
    let (cluster, late) = own
        .1
        .wait_timeout_while(cluster, SOON * 6, is_news)
        .unwrap();
    if late.timed_out() {
        return;
    }
    let (version, data) = &cluster.secrets[&name];
    let event = json!({"type": "MODIFIED", "object": secret(*version, data)}).to_string();
    let _gone = write!(stream, "{:x}\r\n{event}\r\n", event.len());
}

/// A gateway in a pod of this cluster, which reads by itself once an hour.
fn pod(server: &ApiServer, account: &TempDir) -> Setup {
    let origin = format!("[\"https://localhost:{}\"]", server.origin.port());
    Setup::default()
        .set("secrets.cache_time", "1h")
        .set("secrets.kubernetes.origins", &origin)
        .set(
            "secrets.kubernetes.service_account",
            &account.path().display().to_string(),
        )
}

fn service_account(ca: &Ca) -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("token"), "hush-token-1").unwrap();
    fs::write(folder.path().join("namespace"), "shop").unwrap();
    fs::write(folder.path().join("ca.crt"), ca.pem()).unwrap();
    folder
}

fn ssl(path: &str) -> Value {
    let reference = |key: &str| format!("$secret://kubernetes/pod/{path}/{key}");
    json!({"cert": reference("tls.crt"), "key": reference("tls.key"), "snis": [NAME]})
}

#[track_caller]
fn expect_serial(gateway: &Gateway, pair: &Pair) {
    for version in TlsVersion::ALL {
        eventually(SOON, "the certificate is shown", || {
            let shown = shown_serial(gateway.https_port(), NAME, version);
            (shown == Some(pair.serial())).then_some(())
        });
    }
}

#[test]
fn rotation_is_followed_by_a_watch_through_new_tokens_and_a_new_ca() {
    let (cluster_ca, ca) = (Ca::root("Cluster"), Ca::root("CA"));
    let server = ApiServer::start(cluster_ca.server("localhost"));
    let account = service_account(&cluster_ca);
    let gateway = pod(&server, &account).start();
    gateway.configure("/secrets/kubernetes/pod", &json!({}));
    for path in ["shop/web", "web"] {
        let pairs = [ca.server(NAME), ca.server(NAME)];
        server.write("shop/web", &pairs[0]);
        let before = server.watches();
        gateway.configure("/ssls/web", &ssl(path));
        expect_serial(&gateway, &pairs[0]);
        eventually(SOON, "it is watched", || {
            (server.watches() > before).then_some(())
        });
        server.write("shop/web", &pairs[1]);
        expect_serial(&gateway, &pairs[1]);
        let row = expect_state(&gateway, "ssls", "web", "/key", "ok");
        assert_eq!(row["manager"], "kubernetes/pod");
    }
    // The kubelet replaces the token; the old one is worth nothing.
    fs::write(account.path().join("token"), "hush-token-2\n").unwrap();
    server.change(|cluster| cluster.token = "hush-token-2".to_owned());
    let third = ca.server(NAME);
    server.write("shop/web", &third);
    expect_serial(&gateway, &third);
    // The cluster gets another CA; what does not come from the one in the folder is not believed.
    let other_ca = Ca::root("Other cluster");
    server.change(|cluster| {
        cluster.pair = other_ca.server("localhost");
        cluster.token = "hush-token-3".to_owned();
    });
    fs::write(account.path().join("token"), "hush-token-3").unwrap();
    let fourth = ca.server(NAME);
    server.write("shop/web", &fourth);
    // Connections that are open still speak for the old CA, but their token is refused.
    let row = eventually(SOON, "it is told", || {
        let row = super::status(&gateway, "ssls", "web", "/key")?;
        (row["state"] == "stale" || row["digest"] != Value::Null).then_some(row)
    });
    assert!(!row.to_string().contains("hush"));
    fs::write(account.path().join("ca.crt"), other_ca.pem()).unwrap();
    expect_serial(&gateway, &fourth);
    let said = gateway
        .logs()
        .iter()
        .map(Value::to_string)
        .collect::<String>();
    assert!(!said.contains("hush") && !said.contains(fourth.key_lines()[1]));
}

#[test]
fn token_goes_to_the_cluster_alone_and_without_watching_values_still_come() {
    let ca = Ca::root("Cluster");
    let server = ApiServer::start(ca.server("localhost"));
    server.change(|cluster| cluster.may_watch = false);
    let account = service_account(&ca);
    let gateway = pod(&server, &account)
        .set("secrets.cache_time", "1s")
        .start();
    let trap = TcpOrigin::echoing();
    let elsewhere = json!({"apiserver_addr": format!("http://{}", trap.node())});
    gateway.configure("/secrets/kubernetes/pod", &elsewhere);
    let (old, new) = (ca.server(NAME), ca.server(NAME));
    server.write("shop/web", &old);
    let taken = gateway.admin_put("/ssls/web", &ssl("shop/web"));
    let taken = taken.expect_status(201);
    let warning = taken.header("x-portcullis-warning").unwrap_or_default();
    assert!(
        warning.starts_with("secret_origin_not_trusted "),
        "{taken:?}"
    );
    assert!(trap.heads().is_empty(), "nobody came");
    gateway.configure("/secrets/kubernetes/pod", &json!({}));
    expect_serial(&gateway, &old);
    server.write("shop/web", &new);
    expect_serial(&gateway, &new);
    assert_eq!(server.watches(), 0);
}
