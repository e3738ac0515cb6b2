//! A real OpenBao, which speaks Vault's API: over TLS, initialised and unsealed, in a process of its
//! own that a test may kill, start again, seal and stop.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::{Curl, CurlOutcome};
use super::origin::ClosedPort;
use super::pki::{Ca, Leaf};
use super::{eventually, program};

/// How long it has to start: its storage elects a leader first.
const START: Duration = Duration::from_secs(60);

/// A name that its certificate has, beside its address, and no resolver.
const NAME: &str = "bao.test";

/// A running or stopped OpenBao; what runs of it is killed when this is dropped.
pub(crate) struct Bao {
    child: Option<Child>,
    /// Where it listens whenever it runs: for clients, and for others of its kind.
    places: [ClosedPort; 2],
    folder: TempDir,
    ca_file: PathBuf,
    unseal_key: String,
    root_token: String,
}

impl Bao {
    /// Starts one with a KV version 2 at `secret` and a KV version 1 at `kv`.
    #[track_caller]
    pub(crate) fn start() -> Self {
        let folder = TempDir::new().expect("a folder");
        let ca = Ca::root("Bao CA");
        let pair = ca.issue(&Leaf {
            dns_names: vec![NAME.to_owned()],
            addresses: vec!["127.0.0.1".parse().expect("an address")],
            ..Leaf::server("bao")
        });
        pair.write(folder.path(), "bao");
        let ca_file = ca.write(folder.path(), "bao-ca");
        let mut bao = Self {
            child: None,
            places: [ClosedPort::new(), ClosedPort::new()],
            folder,
            ca_file,
            unseal_key: String::new(),
            root_token: String::new(),
        };
        bao.start_again();
        let asked = bao.ask(
            "PUT",
            "sys/init",
            &json!({"secret_shares": 1, "secret_threshold": 1}),
        );
        let keys = asked.expect_status(200).json();
        bao.unseal_key = keys["keys"][0].as_str().expect("a key").to_owned();
        bao.root_token = keys["root_token"].as_str().expect("a token").to_owned();
        bao.unseal();
        for (mount, version) in [("secret", "2"), ("kv", "1")] {
            let kind = json!({"type": "kv", "options": {"version": version}});
            bao.must("POST", &format!("sys/mounts/{mount}"), &kind);
        }
        eventually(START, "the mount is ready", || {
            let asked = bao.ask("POST", "secret/data/ready", &json!({"data": {"a": "b"}}));
            (asked.status == Some(200)).then_some(())
        });
        bao
    }

    /// Starts it, again where it was.
    #[track_caller]
    pub(crate) fn start_again(&mut self) {
        let path = |name: &str| self.folder.path().join(name);
        fs::create_dir_all(path("data")).expect("a folder");
        let [port, cluster] = [0, 1].map(|place| self.places[place].port());
        let config = format!(
            "storage \"raft\" {{ path = {:?}\n node_id = \"1\" }}\n\
             listener \"tcp\" {{ address = \"127.0.0.1:{port}\"\n\
             cluster_address = \"127.0.0.1:{cluster}\"\n\
             tls_cert_file = {:?}\n tls_key_file = {:?} }}\n\
             api_addr = \"https://127.0.0.1:{port}\"\n\
             cluster_addr = \"https://127.0.0.1:{cluster}\"\n",
            path("data"),
            path("bao.crt"),
            path("bao.key"),
        );
        fs::write(path("bao.hcl"), config).expect("the folder takes a file");
        let said = fs::File::create(path("said")).expect("a file for what it says");
        let also = said.try_clone().expect("a second handle");
        let child = bao()
            .args(["server", "-config"])
            .arg(path("bao.hcl"))
            .stdin(Stdio::null())
            .stdout(said)
            .stderr(also)
            .spawn()
            .expect("bao can be started: `make managers` installs it");
        self.child = Some(child);
        eventually(START, "OpenBao answers", || {
            let child = self.child.as_mut().expect("it was started");
            let ended = child.try_wait().expect("a child can be waited for");
            assert!(ended.is_none(), "it did not start: {}", self.said());
            let asked = self.ask("GET", "sys/seal-status", &Value::Null);
            (asked.status == Some(200)).then_some(())
        });
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("said")).unwrap_or_default()
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone = child.kill();
            let _gone = child.wait();
        }
    }

    /// Unseals it and waits until it is active.
    #[track_caller]
    pub(crate) fn unseal(&self) {
        self.ask("PUT", "sys/unseal", &json!({"key": self.unseal_key}))
            .expect_status(200);
        eventually(START, "OpenBao is active", || {
            let asked = self.ask("GET", "sys/health", &Value::Null);
            (asked.status == Some(200)).then_some(())
        });
    }

    /// Seals it: it runs, and answers nothing.
    #[track_caller]
    pub(crate) fn seal(&self) {
        self.ask("PUT", "sys/seal", &Value::Null).expect_status(204);
    }

    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port())
    }

    /// The same by a name that nobody can resolve but a proxy that is told of it.
    pub(crate) fn url_by_name(&self) -> String {
        format!("https://{NAME}:{}", self.port())
    }

    fn port(&self) -> u16 {
        self.places[0].port()
    }

    pub(crate) fn ca_file(&self) -> &Path {
        &self.ca_file
    }

    pub(crate) fn root_token(&self) -> &str {
        &self.root_token
    }

    /// A request below `/v1/`, as root; `Null` is no body.
    #[track_caller]
    pub(crate) fn ask(&self, method: &str, path: &str, body: &Value) -> CurlOutcome {
        let mut curl = Curl::new(&format!("{}/v1/{path}", self.url()))
            .cacert(&self.ca_file)
            .method(method)
            .header(&format!("X-Vault-Token: {}", self.root_token));
        if !body.is_null() {
            curl = curl.body(body.to_string());
        }
        curl.send()
    }

    /// The same, which must go well.
    #[track_caller]
    pub(crate) fn must(&self, method: &str, path: &str, body: &Value) -> CurlOutcome {
        let asked = self.ask(method, path, body);
        assert!(matches!(asked.status, Some(200 | 204)), "{path}: {asked:?}");
        asked
    }

    /// Writes members to a path of the KV version 2.
    #[track_caller]
    pub(crate) fn write(&self, path: &str, members: &Value) {
        self.must(
            "POST",
            &format!("secret/data/{path}"),
            &json!({"data": members}),
        );
    }

    /// A token that may read all that is here, for this long.
    #[track_caller]
    pub(crate) fn token(&self, ttl: &str) -> String {
        self.allow_reading();
        let wish = json!({"policies": ["reader"], "ttl": ttl, "renewable": true});
        let told = self.must("POST", "auth/token/create", &wish).json();
        told["auth"]["client_token"]
            .as_str()
            .expect("a token")
            .to_owned()
    }

    /// Makes the policy `reader`.
    #[track_caller]
    pub(crate) fn allow_reading(&self) {
        let policy = r#"path "secret/*" { capabilities = ["read"] }
                        path "kv/*" { capabilities = ["read"] }
                        path "pki/issue/*" { capabilities = ["create", "update"] }"#;
        self.must("PUT", "sys/policies/acl/reader", &json!({"policy": policy}));
    }
}

impl Drop for Bao {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The program: on the path, or where `make managers` has put it.
fn bao() -> Command {
    let home = std::env::var_os("HOME")
        .map(PathBuf::from)
        .unwrap_or_default();
    let installed = home.join(".cache/portcullis/managers/bin/bao");
    if installed.exists() {
        Command::new(installed)
    } else {
        program("bao")
    }
}
