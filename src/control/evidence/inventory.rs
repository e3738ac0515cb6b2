//! What is stored, as far as TLS goes, in the words of the report.

use serde_json::{Value, json};

use super::{OwnKey, OwnMaterial, permits, version_names};
use crate::control::survey::{Role, Surveyed};
use crate::crypto::digest::Sha256;
use crate::crypto::error::CryptoError;
use crate::crypto::symmetric::{Cipher, CipherFacts};
use crate::secrets::custody::Custody;
use crate::telemetry::time::rfc3339_seconds;
use crate::tls::material::{CertificateFacts, KeyFacts, KeyPair, PrivateKey};
use crate::tls::policy::ClientAuth;

/// What the key-encryption key in use is for.
const SEALS: &str = "seals the private keys and credentials of the store; the keys (HMAC-SHA256) of \
                     the audit chain and of placeholders are derived from it (SP 800-108)";

/// What the one before is for, while a rotation goes on.
const OPENS: &str = "opens what is not yet sealed with the other one";

/// The keys that the configuration names or has made.
pub(super) fn own_keys(keys: &[OwnKey]) -> Vec<Value> {
    let rows = keys.iter().map(|own| {
        let about = json!({ "object": own.member, "member": "", "purpose": own.purpose,
                            "from": own.from });
        joined(
            about,
            match &own.material {
                OwnMaterial::Pair(key, certificate) => key_json(key, Some(certificate)),
                OwnMaterial::Private(key) => key_json(key, None),
                OwnMaterial::Secret(cipher) => cipher_json(cipher),
            },
        )
    });
    rows.collect()
}

/// What seals the private keys and credentials of the store.
pub(super) fn key_encryption_keys(custody: &Custody) -> Result<Vec<Value>, CryptoError> {
    let cipher = Cipher::Aes256Gcm.facts()?;
    let rows = custody.facts().into_iter().map(|kek| {
        let (member, purpose) = if kek.is_current {
            ("", SEALS)
        } else {
            ("former", OPENS)
        };
        let about = json!({ "object": "kek", "member": member, "purpose": purpose,
                            "from": kek.kept_in.to_string(), "key_id": kek.id });
        joined(about, cipher_json(&cipher))
    });
    Ok(rows.collect())
}

/// Every key of what is stored.
pub(super) fn keys(held: &[Surveyed]) -> Vec<Value> {
    let rows = held.iter().flat_map(|entry| {
        let pairs = entry.pairs.iter().map(|(at, pair)| (*at, told_pair(pair)));
        let alone = entry.keys.iter().map(|(at, key)| (*at, told_key(key)));
        pairs
            .chain(alone)
            .map(|(at, told)| joined(json!({ "object": entry.object, "member": at }), told))
    });
    rows.collect()
}

fn told_pair(pair: &KeyPair) -> Value {
    match pair.facts() {
        Ok((key, certificate)) => key_json(&key, Some(&certificate)),
        Err(error) => json!({ "error": error.to_string() }),
    }
}

fn told_key(key: &PrivateKey) -> Value {
    match key.facts() {
        Ok(facts) => key_json(&facts, None),
        Err(error) => json!({ "error": error.to_string() }),
    }
}

/// The members of both objects.
fn joined(mut about: Value, told: Value) -> Value {
    if let (Value::Object(row), Value::Object(told)) = (&mut about, told) {
        row.extend(told);
    }
    about
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
            "versions": versions(entry),
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

/// Who is reached over TLS, and what they are offered.
pub(super) fn upstreams(held: &[Surveyed]) -> Vec<Value> {
    let upstreams = held.iter().filter_map(|entry| {
        let Role::Upstream { is_verified, .. } = &entry.role else {
            return None;
        };
        let offered = entry.offer.as_ref().map(permits);
        Some(json!({
            "object": entry.object,
            "versions": versions(entry),
            "suites": offered.as_ref().map(|offered| &offered["suites"]),
            "groups": offered.as_ref().map(|offered| &offered["groups"]),
            "verify": is_verified,
            "state": state(entry),
        }))
    });
    upstreams.collect()
}

fn versions(entry: &Surveyed) -> Option<Vec<&'static str>> {
    let offer = entry.offer.as_ref()?;
    Some(version_names(offer.versions))
}

fn state(entry: &Surveyed) -> String {
    match &entry.closed {
        None => "served".to_owned(),
        Some(why) => format!("closed: {why}"),
    }
}

/// A private key, with its certificate where it has one.
fn key_json(key: &KeyFacts, certificate: Option<&CertificateFacts>) -> Value {
    let hex = |digest: &[u8; 32]| Sha256::from_bytes(*digest).to_string();
    json!({
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

/// A secret key, of which nothing is shown.
fn cipher_json(cipher: &CipherFacts) -> Value {
    json!({
        "algorithm": cipher.algorithm,
        "bits": cipher.bits,
        "curve": null,
        "provider": cipher.provider,
        "public_key_sha256": null,
        "certificate": null,
    })
}
