//! Upstreams as documents, and a gateway that asks each through a route of its own.

use serde_json::{Value, json};

use super::TlsVersion;
use super::gateway::{Gateway, field};
use super::pki::Pair;
use super::raw::RawReply;

/// The name of every upstream, unless a test is about names.
pub(crate) const NAME: &str = "up.example.com";

/// A gateway for a table of cases; each has a path of its own, under which its record is found.
pub(crate) struct Cases {
    pub(crate) gateway: Gateway,
    count: usize,
}

impl Cases {
    pub(crate) fn start() -> Self {
        Self::of(Gateway::start())
    }

    pub(crate) fn of(gateway: Gateway) -> Self {
        Self { gateway, count: 0 }
    }

    /// Sends a request through a route of its own to `upstream`.
    #[track_caller]
    pub(crate) fn ask(&mut self, upstream: &Value) -> (RawReply, String) {
        self.count += 1;
        let path = format!("/case-{}", self.count);
        let id = format!("case-{}", self.count);
        let route = json!({"uri": path, "upstream": upstream});
        self.gateway.configure(&format!("/routes/{id}"), &route);
        let reply = self.gateway.connect().get("api.example.com", &path, &[]);
        (reply, path)
    }

    #[track_caller]
    pub(crate) fn expect_served(&mut self, case: &str, upstream: &Value) -> String {
        let (reply, _) = self.ask(upstream);
        assert_eq!(reply.status, 200, "{case}: {reply:?}");
        reply.text()
    }

    #[track_caller]
    pub(crate) fn expect_refused(
        &mut self,
        case: &str,
        upstream: &Value,
        status: u16,
        reason: &str,
    ) {
        let (reply, path) = self.ask(upstream);
        let record = record_of(&self.gateway, &path);
        assert_eq!(reply.status, status, "{case}: {reply:?} {record}");
        assert_eq!(field(&record, "reason"), Some(reason), "{case}: {record}");
    }
}

/// The record of the first request for this path.
#[track_caller]
pub(crate) fn record_of(gateway: &Gateway, path: &str) -> Value {
    gateway.expect_record(path, |record| field(record, "path") == Some(path))
}

/// An https upstream of this one node, asked for [`NAME`].
pub(crate) fn upstream(node: &str, tls: &Value) -> Value {
    json!({
        "scheme": "https",
        "pass_host": "rewrite",
        "upstream_host": NAME,
        "nodes": {node: 1},
        "tls": tls,
    })
}

/// The `tls` that shows `pair` and speaks this version alone.
pub(crate) fn showing(pair: &Pair, version: TlsVersion) -> Value {
    let mut tls = speaking(version);
    tls["client_cert"] = pair.cert.clone().into();
    tls["client_key"] = pair.key.clone().into();
    tls
}

/// The `tls` that checks by `ca` and speaks this version alone.
pub(crate) fn checking(ca: &str, version: TlsVersion) -> Value {
    let mut tls = speaking(version);
    tls["verify"] = true.into();
    tls["ca_certs"] = json!([ca]);
    tls
}

/// The `tls` that speaks this version alone.
pub(crate) fn speaking(version: TlsVersion) -> Value {
    let version = match version {
        TlsVersion::V12 => "TLSv1.2",
        TlsVersion::V13 => "TLSv1.3",
    };
    json!({"min_version": version, "max_version": version})
}
