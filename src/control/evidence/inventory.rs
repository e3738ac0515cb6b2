//! What is stored, as far as TLS goes, in the words of the report.

use serde_json::{Value, json};

use super::version_names;
use crate::control::survey::{Role, Surveyed};
use crate::crypto::digest::Sha256;
use crate::telemetry::time::rfc3339_seconds;
use crate::tls::material::{CertificateFacts, KeyFacts};
use crate::tls::policy::ClientAuth;

/// Every key.
pub(super) fn keys(held: &[Surveyed]) -> Vec<Value> {
    let pairs = held
        .iter()
        .flat_map(|entry| entry.pairs.iter().map(move |(at, pair)| (entry, at, pair)));
    pairs
        .map(|(entry, at, pair)| match pair.facts() {
            Ok((key, certificate)) => key_json(&entry.object, at, &key, &certificate),
            Err(error) => {
                json!({ "object": entry.object, "member": at, "error": error.to_string() })
            }
        })
        .collect()
}

/// Who serves which names, on which versions.
pub(super) fn names(held: &[Surveyed]) -> Vec<Value> {
    let names = held.iter().filter_map(|entry| {
        let (names, mode) = match &entry.role {
            Role::Names { names, mode, .. } => (names.as_slice(), Some(*mode)),
            Role::Unreadable => (&[][..], None),
            Role::Identity | Role::Upstream { .. } | Role::Manager { .. } => return None,
        };
        Some(json!({
            "object": entry.object,
            "names": names,
            "versions": entry.versions.map(version_names),
            "client_certificate": mode.map(client_certificate),
            "state": state(entry),
        }))
    });
    names.collect()
}

const fn client_certificate(mode: ClientAuth) -> &'static str {
    match mode {
        ClientAuth::Off => "not asked for",
        ClientAuth::Required => "required",
        ClientAuth::Deferred => "required, by path",
        ClientAuth::Optional => "optional",
    }
}

/// Who is reached over TLS, on which versions.
pub(super) fn upstreams(held: &[Surveyed]) -> Vec<Value> {
    let upstreams = held.iter().filter_map(|entry| {
        let Role::Upstream { is_verified, .. } = &entry.role else {
            return None;
        };
        Some(json!({
            "object": entry.object,
            "versions": entry.versions.map(version_names),
            "verify": is_verified,
            "state": state(entry),
        }))
    });
    upstreams.collect()
}

fn state(entry: &Surveyed) -> String {
    match &entry.closed {
        None => "served".to_owned(),
        Some(why) => format!("closed: {why}"),
    }
}

/// A key with its certificate; `member` is empty where the object says all.
pub(super) fn key_json(
    object: &str,
    member: &str,
    key: &KeyFacts,
    certificate: &CertificateFacts,
) -> Value {
    let hex = |digest: &[u8; 32]| Sha256::from_bytes(*digest).to_string();
    json!({
        "object": object,
        "member": member,
        "algorithm": key.algorithm,
        "bits": key.bits,
        "curve": key.curve,
        "provider": key.provider,
        "public_key_sha256": hex(&key.public_sha256),
        "certificate": {
            "subject": certificate.subject,
            "issuer": certificate.issuer,
            "serial": certificate.serial,
            "sha256": hex(&certificate.sha256),
            "signature_algorithm": certificate.signature,
            "not_before": rfc3339_seconds(certificate.validity.0),
            "not_after": rfc3339_seconds(certificate.validity.1),
        },
    })
}
