//! A gateway with one route, from everything to one plain upstream: a stage for tests of TLS.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::SOON;
use super::client::{Curl, CurlOutcome};
use super::eventually;
use super::gateway::{Gateway, Setup};
use super::origin::{Nginx, Origin};
use super::pki::{Ca, Pair, PairFiles};
use super::tls::TlsClient;

/// The gateway, its upstream, and the CA of the certificates that it serves.
pub(crate) struct Site {
    pub(crate) gateway: Gateway,
    pub(crate) ca: Ca,
    /// Where tests keep files.
    pub(crate) folder: TempDir,
    ca_file: PathBuf,
    setup: Setup,
    _origin: Origin,
}

impl Site {
    /// With the defaults for tests.
    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::with(Setup::default())
    }

    #[track_caller]
    pub(crate) fn with(setup: Setup) -> Self {
        let folder = TempDir::new().expect("a folder");
        let ca = Ca::root("Site CA");
        let ca_file = ca.write(folder.path(), "site-ca");
        let origin = Origin::nginx(&Nginx::default());
        let gateway = setup.clone().start();
        let upstream = json!({"type": "roundrobin", "nodes": {origin.node(): 1}});
        gateway
            .admin_put("/routes/all", &json!({"uri": "/*", "upstream": upstream}))
            .expect_status(201);
        Self {
            gateway,
            ca,
            folder,
            ca_file,
            setup,
            _origin: origin,
        }
    }

    /// One after the other, gateways that keep sessions in their cache and in tickets that clients
    /// keep.
    pub(crate) fn each_way() -> impl Iterator<Item = Self> {
        Self::each_way_with(Setup::default)
    }

    /// The same, set up otherwise.
    pub(crate) fn each_way_with(setup: impl Fn() -> Setup) -> impl Iterator<Item = Self> {
        let ways = ["off", "on"].into_iter();
        ways.map(move |tickets| Self::with(setup().set("https.session_tickets", tickets)))
    }

    /// Stops the gateway, does something to its data folder, and starts it again.
    #[track_caller]
    pub(crate) fn restart(self, meanwhile: impl FnOnce(&Path)) -> Self {
        let (data, path) = (self.gateway.data(), self.gateway.data_path());
        let stopped = self.gateway.stop();
        assert!(stopped.status.success(), "{stopped:#?}");
        meanwhile(&path);
        Self {
            gateway: self.setup.clone().data(&data).start(),
            ..self
        }
    }

    /// PUT of an ssl that serves `name` with a certificate of the site's CA, with `more` members.
    #[track_caller]
    pub(crate) fn put_ssl(&self, id: &str, name: &str, more: &Value) -> CurlOutcome {
        self.put_ssl_with(id, name, &self.ca.server(name), more)
    }

    /// The same with this certificate.
    #[track_caller]
    pub(crate) fn put_ssl_with(
        &self,
        id: &str,
        name: &str,
        pair: &Pair,
        more: &Value,
    ) -> CurlOutcome {
        let mut document = json!({"cert": pair.cert, "key": pair.key, "snis": [name]});
        for (member, value) in more.as_object().expect("members") {
            document[member] = value.clone();
        }
        let outcome = self.gateway.admin_put(&format!("/ssls/{id}"), &document);
        let is_done = matches!(outcome.status, Some(200 | 201));
        assert!(is_done, "{outcome:?}");
        outcome
    }

    /// A request by curl that trusts the site's CA.
    #[track_caller]
    pub(crate) fn ask(&self, host: &str, path: &str) -> Curl {
        self.gateway.https(host, path).cacert(&self.ca_file)
    }

    /// A client in this process that sends `name`.
    #[track_caller]
    pub(crate) fn client(&self, name: &str) -> TlsClient {
        self.nameless_client().sni(name)
    }

    /// A client in this process that sends no name.
    #[track_caller]
    pub(crate) fn nameless_client(&self) -> TlsClient {
        TlsClient::new(self.gateway.https_port())
    }

    /// Writes a pair to the site's folder.
    pub(crate) fn write(&self, pair: &Pair, stem: &str) -> PairFiles {
        pair.write(self.folder.path(), stem)
    }

    /// The value of the metric that a line of this beginning has, labels and all; 0 without one.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let url = self.gateway.status_url("/apisix/prometheus/metrics");
        let page = Curl::new(&url).send().expect_status(200).body;
        page.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .map_or(0, |value| value.parse().expect("a whole number"))
    }

    /// How often this reason was counted.
    #[track_caller]
    pub(crate) fn failures(&self, reason: &str) -> u64 {
        self.metric(&format!(
            "portcullis_failures_total{{blame=\"client\",reason=\"{reason}\"}}"
        ))
    }

    /// Waits until no connection to the TLS listener is open.
    #[track_caller]
    pub(crate) fn wait_until_empty(&self) {
        eventually(SOON, "all connections are closed", || {
            let open = self.metric("portcullis_connections{listener=\"https\"}");
            (open == 0).then_some(())
        });
    }
}
