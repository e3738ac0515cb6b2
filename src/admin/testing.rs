//! An Admin API over a memory store, asked without sockets; for this room's tests.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt, Full};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::x509::{X509, X509Name};
use serde_json::Value;
use warp::Filter;
use warp::reply::Response;

use super::attempts::Attempts;
use super::auth::{Key, Keys, Role, Sources};
use super::{Admin, Allowed, Listener, Peer};
use crate::control::evidence::Surroundings;
use crate::control::{Control, Flavour, Parts, Rules};
use crate::secrets::custody::{Custody, Kek};
use crate::snapshot::live::Live;
use crate::store::audit::{CHAIN_LABEL, ChainKey};
use crate::store::memory::Memory;
use crate::telemetry::metrics::Metrics;
use crate::tls::cache::Contexts;

/// The admin's key.
pub(super) const KEY: &str = "edd1c9f034335f136f87ad84b625c8f1";
/// The viewer's key.
pub(super) const VIEWER: &str = "4054f7cf07e344346cd3f287985e76a2";

/// The state of a gateway without resources.
pub(super) fn state() -> Admin {
    let keys = vec![
        Key::from_text("admin", KEY, Role::Admin).unwrap(),
        Key::from_text("viewer", VIEWER, Role::Viewer).unwrap(),
    ];
    let live = Arc::<Live>::default();
    Admin {
        control: control(&live),
        live,
        failures: Arc::default(),
        metrics: Arc::new(Metrics::new().unwrap()),
        keys: Keys::new(keys, Sources::HEADER),
        https_flavour: Flavour::Api7,
        cors: Vec::new(),
        allow_admin: Allowed::default(),
        attempts: Attempts::default(),
        evidence: Arc::new(Surroundings::of_nothing()),
        served: None,
    }
}

/// A control over a memory store, without workers.
pub(super) fn control(live: &Arc<Live>) -> Control {
    let kek = Kek::random().unwrap();
    let chain = ChainKey::new(kek.derive_mac_key(CHAIN_LABEL).unwrap());
    Control::open(Parts {
        store: Arc::new(Memory::new(chain)),
        custody: Custody::new(&kek).unwrap(),
        live: Arc::clone(live),
        contexts: Arc::new(Contexts::new(100)),
        metrics: Arc::new(Metrics::new().unwrap()),
        rules: Rules::default(),
        workers: Vec::new(),
        desk: None,
    })
    .unwrap()
}

/// A self-signed certificate for `api.test` and its key, both PEM.
pub(super) fn pair() -> (String, String) {
    let key = PKey::ec_gen("P-256").unwrap();
    let mut name = X509Name::builder().unwrap();
    name.append_entry_by_text("CN", "api.test").unwrap();
    let name = name.build();
    let mut cert = X509::builder().unwrap();
    cert.set_version(2).unwrap();
    cert.set_serial_number(&BigNum::from_u32(1).unwrap().to_asn1_integer().unwrap())
        .unwrap();
    cert.set_subject_name(&name).unwrap();
    cert.set_issuer_name(&name).unwrap();
    cert.set_not_before(&Asn1Time::days_from_now(0).unwrap())
        .unwrap();
    cert.set_not_after(&Asn1Time::days_from_now(30).unwrap())
        .unwrap();
    cert.set_pubkey(&key).unwrap();
    cert.sign(&key, MessageDigest::sha256()).unwrap();
    let text = |pem: Vec<u8>| String::from_utf8(pem).unwrap();
    (
        text(cert.build().to_pem().unwrap()),
        text(key.private_key_to_pem_pkcs8().unwrap()),
    )
}

/// What was answered.
#[derive(Debug)]
pub(super) struct Told {
    /// The status.
    pub(super) status: u16,
    /// The header fields.
    pub(super) headers: HeaderMap,
    /// The body.
    pub(super) text: String,
}

impl Told {
    /// The body as JSON, whose times are checked and left out.
    pub(super) fn json(&self) -> Value {
        let mut value = serde_json::from_str(&self.text).unwrap();
        drop_times(&mut value);
        value
    }

    /// A header field.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

fn drop_times(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for time in ["create_time", "update_time"] {
                assert!(members.shift_remove(time).is_none_or(|time| time.is_u64()));
            }
            members.values_mut().for_each(drop_times);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_times),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// An Admin API that can be asked.
pub(super) struct Room(pub(super) Arc<Admin>);

impl Room {
    /// One without resources.
    pub(super) fn new() -> Self {
        Self(Arc::new(state()))
    }

    /// Asks as admin on 9180; fails the test unless the status is this one.
    pub(super) async fn ask(&self, method: &str, path: &str, body: &str, status: u16) -> Told {
        self.ask_on(Listener::Http9180, method, path, body, status)
            .await
    }

    /// Asks as admin on a listener.
    pub(super) async fn ask_on(
        &self,
        listener: Listener,
        method: &str,
        path: &str,
        body: &str,
        status: u16,
    ) -> Told {
        let told = self
            .ask_with(listener, method, path, &[("x-api-key", KEY)], body)
            .await;
        assert_eq!(told.status, status, "{method} {path}: {}", told.text);
        told
    }

    /// Asks with these header fields only.
    pub(super) async fn ask_with(
        &self,
        listener: Listener,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Told {
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        tell(super::admin(Arc::clone(&self.0), listener), request, body).await
    }

    /// Asks for the routes as this peer, with these header fields only.
    pub(super) async fn ask_from(
        &self,
        listener: Listener,
        peer: Peer,
        headers: &[(&str, &str)],
        method: &str,
    ) -> Told {
        let mut request = http::Request::builder()
            .method(method)
            .uri("/apisix/admin/routes")
            .extension(peer);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        tell(super::admin(Arc::clone(&self.0), listener), request, "").await
    }
}

/// Asks a filter as hyper's connection does.
pub(super) async fn tell<F>(filter: F, request: http::request::Builder, body: &str) -> Told
where
    F: Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static,
{
    let body = Full::new(Bytes::from(body.to_owned()));
    let service = TowerToHyperService::new(warp::service(filter));
    let (parts, body) = service
        .call(request.body(body).unwrap())
        .await
        .unwrap()
        .into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Told {
        status: parts.status.as_u16(),
        headers: parts.headers,
        text: String::from_utf8(body.to_vec()).unwrap(),
    }
}
