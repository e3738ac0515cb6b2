//! Evidence: the one report of what this process's cryptography is, and what it did.
//!
//! Facts and their sources: the module and OpenSSL say what they are, the kernel which libraries
//! are mapped, the build which crates it has, the store which keys there are (each is loaded anew
//! for the report), counters what was negotiated. Nothing here decides anything, and no key is
//! shown.

mod inventory;
mod signed;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use crate::control::module::FAILURE_NAME;
use crate::control::start::assemble;
use crate::control::{Control, Inner, Parts};
use crate::crypto::dependencies;
use crate::crypto::digest::Sha256;
use crate::crypto::error::CryptoError;
use crate::crypto::fips::{self, Expected, Occasion, Origin};
use crate::crypto::libraries::{self, Library};
use crate::crypto::memory;
use crate::crypto::sign::{SignError, SigningKey};
use crate::crypto::symmetric::CipherFacts;
use crate::store::StoreError;
use crate::telemetry::time::rfc3339;
use crate::tls;
use crate::tls::material::{CertificateFacts, KeyFacts};
use crate::tls::policy::{Offer, TlsVersion, Versions};
use crate::tls::probe::{self, Outcome};

pub use self::signed::{Signed, VerifyError, verify};

/// What a reader tells the kinds of report apart by.
pub const FORMAT: &str = "portcullis-fips-report/1";

/// What the report says of the process that control does not know.
pub struct Surroundings {
    /// Every listener.
    pub listeners: Vec<Listener>,
    /// SHA-256 of the effective configuration, as `portcullis check --print` lists it.
    pub configuration: Sha256,
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// The keys that the configuration names; those of resources are in the store.
    pub keys: Vec<OwnKey>,
    /// What signs reports (`fips_report_key`).
    pub signer: Option<SigningKey>,
    /// `fips_self_test_interval`.
    pub self_test_interval: Duration,
    /// When the process started.
    pub started_at: SystemTime,
    /// Whether this process serves, so that its counters mean something.
    pub is_serving: bool,
}

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its name in records, such as `https`.
    pub name: &'static str,
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it speaks TLS.
    pub is_tls: bool,
}

/// A key of the gateway itself, told without showing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnKey {
    /// The member of the configuration that it belongs to, such as `fips_report_key`.
    pub member: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// Where it comes from: a file, or in words.
    pub from: String,
    /// What it is.
    pub material: OwnMaterial,
}

/// What a key of the gateway itself is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnMaterial {
    /// A private key with its certificate.
    Pair(KeyFacts, CertificateFacts),
    /// A private key alone.
    Private(KeyFacts),
    /// A secret key.
    Secret(CipherFacts),
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// A signature is asked for, and no key is configured.
    #[error("there is no key to sign reports with; set `fips_report_key` in the configuration")]
    NoSigner,
    /// The key does not sign.
    #[error("the report cannot be signed")]
    Sign(#[from] SignError),
    /// The store cannot be read.
    #[error("the store cannot be read")]
    Store(#[from] StoreError),
    /// The process's map of memory cannot be read.
    #[error("the libraries of the process cannot be told")]
    Libraries(#[source] std::io::Error),
    /// OpenSSL failed.
    #[error("OpenSSL failed")]
    Crypto(#[from] CryptoError),
    /// The report could not be written as JSON.
    #[error("the report cannot be written")]
    Json(#[from] serde_json::Error),
    /// The work was broken off.
    #[error("the report was not finished")]
    Unfinished,
}

#[cfg(test)]
impl Surroundings {
    /// Those of a process without listeners, for tests.
    pub(crate) fn of_nothing() -> Self {
        Self {
            listeners: Vec::new(),
            configuration: Sha256::from_bytes([0; 32]),
            file: None,
            keys: Vec::new(),
            signer: None,
            self_test_interval: Duration::from_secs(3600),
            started_at: SystemTime::UNIX_EPOCH,
            is_serving: false,
        }
    }
}

impl Control {
    /// The report on this process, signed if asked for.
    ///
    /// Loads every key anew, so it takes about a millisecond for each; one report at a time.
    ///
    /// # Errors
    /// [`EvidenceError`].
    pub async fn evidence(
        &self,
        around: Arc<Surroundings>,
        is_signed: bool,
    ) -> Result<Value, EvidenceError> {
        let inner = self.inner.clone();
        let _alone = self
            .inner
            .reports
            .acquire()
            .await
            .map_err(|_closed| EvidenceError::Unfinished)?;
        let work = move || report(Some(&inner), &around, is_signed);
        match tokio::task::spawn_blocking(work).await {
            Ok(made) => made,
            Err(error) => {
                tracing::error!(%error, "a report on FIPS mode was not finished");
                Err(EvidenceError::Unfinished)
            }
        }
    }
}

impl Control {
    /// The report of a process that does not serve, on what was declared to it. Blocks.
    ///
    /// # Errors
    /// [`EvidenceError`].
    pub fn report(&self, around: &Surroundings, is_signed: bool) -> Result<Value, EvidenceError> {
        report(Some(&self.inner), around, is_signed)
    }
}

/// The report of a process that does not serve, on what is stored, if anything is.
///
/// # Errors
/// [`EvidenceError`].
pub fn evidence(
    parts: Option<Parts>,
    around: &Surroundings,
    is_signed: bool,
) -> Result<Value, EvidenceError> {
    report(parts.map(assemble).as_ref(), around, is_signed)
}

fn report(
    inner: Option<&Inner>,
    around: &Surroundings,
    is_signed: bool,
) -> Result<Value, EvidenceError> {
    let signer = match (is_signed, &around.signer) {
        (false, _) => None,
        (true, Some(signer)) => Some(signer),
        (true, None) => return Err(EvidenceError::NoSigner),
    };
    let held = inner.map(Inner::survey).transpose()?.unwrap_or_default();
    let mut keys = inventory::own_keys(&around.keys);
    if let Some(inner) = inner {
        keys.extend(inventory::key_encryption_keys(&inner.custody)?);
    }
    keys.extend(inventory::keys(&held));
    let mut report = Map::new();
    let mut add = |name: &str, value: Value| report.insert(name.to_owned(), value);
    add("format", json!(FORMAT));
    add("made_at", json!(rfc3339(SystemTime::now())));
    add("statement", json!(statement()));
    add("gateway", gateway(around));
    add(
        "fips",
        json!(if fips::facts().is_some() {
            "required"
        } else {
            "off"
        }),
    );
    add("module", module(around));
    add("failure", failure(inner, around)?);
    add("openssl", openssl()?);
    add(
        "tls",
        json!({
            "profile": permits(&Offer::default()),
            "listeners": listeners(around),
            "names": inventory::names(&held),
            "upstreams": inventory::upstreams(&held),
        }),
    );
    add("negotiated", negotiated(inner, around));
    add("keys", keys.into());
    add("probes", probes());
    add("cryptographic_crates", crates());
    add(
        "configuration",
        json!({
            "sha256": around.configuration.to_string(),
            "file": around.file,
            "resources": inner.map(audit_head).transpose()?,
        }),
    );
    match signer {
        Some(signer) => signed::sign(report, signer),
        None => Ok(Value::Object(report)),
    }
}

/// What may be said of the process, and no more.
fn statement() -> String {
    match fips::facts() {
        Some(facts) => format!(
            "uses the OpenSSL FIPS provider {}, {}",
            facts.version,
            origin(facts.origin)
        ),
        None => "does not use a FIPS provider".to_owned(),
    }
}

const fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::FunctionalBuild => "functional build",
        Origin::Site => "supplied by the site",
    }
}

/// Up to which change of resources the report speaks.
fn audit_head(inner: &Inner) -> Result<Value, EvidenceError> {
    let head = inner.store.audit_head()?;
    Ok(json!({ "audit_count": head.count, "audit_mac": head.mac.to_string() }))
}

fn gateway(around: &Surroundings) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "process": if around.is_serving { "serving" } else { "started for this report" },
        "started_at": rfc3339(around.started_at),
        "memory_locked": around.is_serving.then(memory::is_locked),
    })
}

fn module(around: &Surroundings) -> Value {
    let (Some(facts), Some(tests)) = (fips::facts(), fips::self_tests()) else {
        return Value::Null;
    };
    json!({
        "name": facts.name,
        "version": facts.version,
        "buildinfo": facts.buildinfo,
        "path": facts.module_path,
        "sha256": facts.module_sha256.to_string(),
        "origin": origin(facts.origin),
        "state": if fips::is_operational() { "operational" } else { "error" },
        "security_checks": true,
        // A module without it is not started.
        "conditional_errors": true,
        "tls1_prf_ems_check": facts.is_ems_required,
        "drbg_no_trunc_md": facts.is_drbg_digest_whole,
        "self_tests": {
            "at_start": rfc3339(facts.started_at),
            "how": "integrity check and known-answer tests, by the module itself: when it is \
                    loaded, and by OSSL_PROVIDER_self_test at the start, on a timer and on demand",
            "count": tests.count,
            "last_at": rfc3339(tests.last_at),
            "last_occasion": match tests.last_occasion {
                Occasion::Start => "start",
                Occasion::Timer => "timer",
                Occasion::Demand => "demand",
            },
            "last_result": if tests.last_passed { "passed" } else { "failed" },
            "interval_seconds": around.self_test_interval.as_secs(),
        },
    })
}

/// Why the gateway that serves from this store, which is another process, has lost its module; null
/// where it has not, as far as is known.
fn failure(inner: Option<&Inner>, around: &Surroundings) -> Result<Value, StoreError> {
    let Some(inner) = inner.filter(|_| !around.is_serving) else {
        return Ok(Value::Null);
    };
    let note = inner.store.meta_find(FAILURE_NAME)?;
    Ok(note.map_or(Value::Null, |note| {
        serde_json::from_str(&note).unwrap_or(Value::String(note))
    }))
}

fn openssl() -> Result<Value, EvidenceError> {
    let libraries = libraries::mapped().map_err(EvidenceError::Libraries)?;
    let library = |library: &Library, version: Option<&str>| {
        json!({
            "version": version,
            "path": library.path,
            "sha256": library.sha256.map(|digest| digest.to_string()),
            "linked": if library.is_static { "statically" } else { "shared" },
        })
    };
    // libssl has no function that tells its version; both come from one source (`SSL_version` is
    // the protocol's), and a shared one is told by its digest.
    let version = crate::crypto::version();
    let libssl_version = libraries.libssl.is_static.then_some(version);
    let facts = fips::facts();
    Ok(json!({
        "libcrypto": library(&libraries.libcrypto, Some(version)),
        "libssl": library(&libraries.libssl, libssl_version),
        "property_query": fips::property_query(),
        "providers": facts.map(|facts| &facts.providers),
        "other_cryptographic_libraries": libraries.others,
        "mapped": libraries.mapped,
    }))
}

/// What a context permits: of the profile of the process, what its object chose.
fn permits(offer: &Offer) -> Value {
    let profile = tls::profile();
    let list = |text: &str| -> Vec<String> { text.split(':').map(str::to_owned).collect() };
    let mut suites = Vec::new();
    if offer.versions.max >= TlsVersion::V1_3 {
        suites.extend(list(offer.suites(profile)));
    }
    if offer.versions.min <= TlsVersion::V1_2 {
        suites.extend(list(offer.ciphers(profile)));
    }
    json!({
        "versions": version_names(offer.versions),
        "suites": suites,
        "groups": list(&offer.groups(profile)),
        "signature_algorithms": list(profile.sigalgs),
    })
}

fn version_names(versions: Versions) -> Vec<&'static str> {
    [TlsVersion::V1_2, TlsVersion::V1_3]
        .into_iter()
        .filter(|version| (versions.min..=versions.max).contains(version))
        .map(TlsVersion::name)
        .collect()
}

fn listeners(around: &Surroundings) -> Vec<Value> {
    let all = around.listeners.iter();
    all.map(|listener| {
        json!({
            "name": listener.name,
            "address": listener.address.to_string(),
            "permits": listener.is_tls.then(|| permits(&Offer::default())),
        })
    })
    .collect()
}

fn negotiated(inner: Option<&Inner>, around: &Surroundings) -> Value {
    match inner.filter(|_| around.is_serving) {
        Some(inner) => json!({
            "since": rfc3339(around.started_at),
            "places": inner.metrics.negotiated.to_json(),
        }),
        None => Value::Null,
    }
}

fn probes() -> Value {
    let algorithms = fips::facts().map_or(&[][..], |facts| &facts.probes);
    let algorithms = algorithms.iter().map(|probe| {
        let result = match probe.expected {
            Expected::FromModule => "from the module",
            Expected::Refused => "refused",
        };
        json!({ "algorithm": probe.name, "result": result, "reason": probe.reason })
    });
    let handshakes = probe::results().iter().map(|probe| {
        let (result, detail) = match &probe.outcome {
            Outcome::Accepted(suite) => ("accepted", suite),
            Outcome::Refused(reason) => ("refused", reason),
        };
        json!({
            "context": probe.context, "peer": probe.peer, "version": probe.version,
            "result": result, "detail": detail,
        })
    });
    json!({
        "algorithms": algorithms.collect::<Vec<_>>(),
        "handshakes": handshakes.collect::<Vec<_>>(),
    })
}

fn crates() -> Value {
    let all = dependencies::cryptographic().into_iter().map(|package| {
        json!({
            "name": package.name,
            "version": package.version,
            "purpose": package.purpose.unwrap_or("NOT EXPECTED: `make deny` refuses it"),
            "needed_by": package.needed_by,
        })
    });
    all.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_those_of_the_permitted_versions() {
        let only = |version| {
            let told = permits(&Offer::of(Versions {
                min: version,
                max: version,
            }));
            let suites = told["suites"].as_array().unwrap().clone();
            let is_1_3 = |suite: &Value| suite.as_str().unwrap().starts_with("TLS_");
            (
                told["versions"].clone(),
                suites.iter().all(is_1_3),
                suites.iter().any(is_1_3),
            )
        };
        assert_eq!(only(TlsVersion::V1_3), (json!(["TLSv1.3"]), true, true));
        assert_eq!(only(TlsVersion::V1_2), (json!(["TLSv1.2"]), false, false));
    }

    #[test]
    fn report_is_not_signed_without_a_key() {
        let around = Surroundings::of_nothing();
        let refusal = evidence(None, &around, true).unwrap_err();
        assert!(matches!(refusal, EvidenceError::NoSigner), "{refusal}");
        let report = evidence(None, &around, false).unwrap();
        assert_eq!(report["format"], FORMAT);
        assert_eq!(report["statement"], "does not use a FIPS provider");
        assert_eq!(
            (&report["module"], &report["negotiated"]),
            (&Value::Null, &Value::Null)
        );
        assert!(report.get("signature").is_none());
    }
}
