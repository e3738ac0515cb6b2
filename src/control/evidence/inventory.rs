//! What is stored, as far as cryptography goes: names, upstreams, and every key, loaded anew.

use serde_json::{Value, json};

use super::{EvidenceError, version_names};
use crate::control::Inner;
use crate::crypto::digest::Sha256;
use crate::resource::Resource;
use crate::snapshot::compile::{Build, Compiled, Piece, compile};
use crate::snapshot::specs;
use crate::store::Stored;
use crate::telemetry::time::rfc3339_seconds;
use crate::tls::material::{CertificateFacts, KeyFacts, KeyPair};
use crate::tls::policy::ClientAuth;

/// What the store holds.
#[derive(Debug, Default)]
pub(super) struct Held(Vec<Entry>);

/// A stored object that has to do with TLS.
#[derive(Debug)]
struct Entry {
    /// What is said of it, beside its keys.
    shown: Shown,
    keys: Vec<Value>,
}

#[derive(Debug)]
enum Shown {
    Name(Value),
    Upstream(Value),
    /// It lends its key, or has none.
    Nothing,
}

impl Held {
    /// Every key.
    pub(super) fn keys(&self) -> impl Iterator<Item = Value> {
        self.0.iter().flat_map(|entry| entry.keys.clone())
    }

    /// Who serves which names, on which versions.
    pub(super) fn names(&self) -> Vec<&Value> {
        let all = self.0.iter();
        all.filter_map(|entry| match &entry.shown {
            Shown::Name(value) => Some(value),
            Shown::Upstream(_) | Shown::Nothing => None,
        })
        .collect()
    }

    /// Who is reached over TLS, on which versions.
    pub(super) fn upstreams(&self) -> Vec<&Value> {
        let all = self.0.iter();
        all.filter_map(|entry| match &entry.shown {
            Shown::Upstream(value) => Some(value),
            Shown::Name(_) | Shown::Nothing => None,
        })
        .collect()
    }
}

impl Inner {
    /// What the store holds.
    pub(super) fn held(&self) -> Result<Held, EvidenceError> {
        let loaded = self.store.load()?;
        let entries = loaded
            .objects
            .iter()
            .filter_map(|stored| self.entry(stored));
        Ok(Held(entries.collect()))
    }

    /// Up to which change of resources the report speaks.
    pub(super) fn audit_head(&self) -> Result<Value, EvidenceError> {
        let head = self.store.audit_head()?;
        Ok(json!({ "audit_count": head.count, "audit_mac": head.mac.to_string() }))
    }

    fn entry(&self, stored: &Stored) -> Option<Entry> {
        let Stored { kind, id, .. } = stored;
        let place = format!("{}/{id}", kind.plural());
        let parsed = match self.read(stored) {
            Ok(parsed) => parsed,
            Err(error) => {
                let name = json!({ "object": place, "state": format!("closed: {error}") });
                return Some(Entry {
                    shown: Shown::Name(name),
                    keys: Vec::new(),
                });
            }
        };
        let compiled = compile(*kind, id, &parsed.resource, &self.ground());
        let pairs = pairs(&parsed.resource, &compiled);
        let pairs = pairs.into_iter().map(|(at, pair)| match pair.facts() {
            Ok((key, certificate)) => key_json(&place, at, &key, Some(&certificate)),
            Err(error) => json!({ "object": place, "member": at, "error": error.to_string() }),
        });
        let keys = pairs.collect();
        let shown = shown(&place, &compiled);
        match (&shown, Vec::is_empty(&keys)) {
            (Shown::Nothing, true) => None,
            _ => Some(Entry { shown, keys }),
        }
    }
}

/// The pairs that an object was compiled with, with the member that holds each key.
fn pairs(resource: &Resource, compiled: &Compiled) -> Vec<(&'static str, KeyPair)> {
    match (&compiled.build, &compiled.piece, resource) {
        (Some(Build::Server(spec)), _, _) => {
            let members = std::iter::once("key").chain(std::iter::repeat("keys"));
            members.zip(spec.pairs.iter().cloned()).collect()
        }
        (Some(Build::Upstream { spec, .. }), _, _) => {
            let own = spec.identity.iter().cloned();
            own.map(|pair| ("tls.client_key", pair)).collect()
        }
        (None, Piece::Identity(Ok(_)), Resource::Ssl(ssl)) => {
            let lent = specs::identity(ssl).ok();
            lent.map(|pair| ("key", pair)).into_iter().collect()
        }
        (None, _, _) => Vec::new(),
    }
}

fn shown(place: &str, compiled: &Compiled) -> Shown {
    let state = match &compiled.trouble {
        None => "served".to_owned(),
        Some((pointer, error)) => format!("closed: {pointer}: {error}"),
    };
    if let Piece::Server(server) = &compiled.piece {
        let names: Vec<String> = server.patterns.iter().map(ToString::to_string).collect();
        let versions = server
            .serving
            .ok()
            .map(|serving| version_names(serving.versions));
        return Shown::Name(json!({
            "object": place,
            "names": names,
            "versions": versions,
            "client_certificate": match server.policy.mode {
                ClientAuth::Off => "not asked for",
                ClientAuth::Required => "required",
                ClientAuth::Deferred => "required, by path",
                ClientAuth::Optional => "optional",
            },
            "state": state,
        }));
    }
    let upstream = compiled.piece.upstream();
    let Some(trust) = upstream.and_then(|piece| piece.upstream.trust.as_ref()) else {
        return Shown::Nothing;
    };
    let versions = match &compiled.build {
        Some(Build::Upstream { spec, .. }) => Some(version_names(spec.versions)),
        Some(Build::Server(_)) | None => None,
    };
    Shown::Upstream(json!({
        "object": place,
        "versions": versions,
        "verify": trust.verify,
        "state": state,
    }))
}

/// A key with its certificate; `member` is empty where the place says all.
pub(super) fn key_json(
    place: &str,
    member: &str,
    key: &KeyFacts,
    certificate: Option<&CertificateFacts>,
) -> Value {
    let hex = |digest: &[u8; 32]| Sha256::from_bytes(*digest).to_string();
    json!({
        "object": place,
        "member": member,
        "algorithm": key.algorithm,
        "bits": key.bits,
        "curve": key.curve,
        "provider": key.provider,
        "public_key_sha256": hex(&key.public_sha256),
        "certificate": certificate.map(|certificate| json!({
            "subject": certificate.subject,
            "issuer": certificate.issuer,
            "serial": certificate.serial,
            "sha256": hex(&certificate.sha256),
            "signature_algorithm": certificate.signature,
            "not_before": rfc3339_seconds(certificate.validity.0),
            "not_after": rfc3339_seconds(certificate.validity.1),
        })),
    })
}
