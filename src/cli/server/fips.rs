//! `portcullis fips`: the report on FIPS mode, as a page or as JSON, signed, and checked again.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;

use crate::cli::server::args::{Common, FipsArgs};
use crate::cli::server::error::ServeError;
use crate::cli::server::keeping::{self, KeepingError};
use crate::cli::server::standalone::{self, StandaloneError};
use crate::cli::server::{FAILURE, access, start};
use crate::cli::{fips_page, print};
use crate::config::Config;
use crate::control::Parts;
use crate::control::evidence::{self, EvidenceError, Listener, Surroundings, VerifyError};
use crate::crypto;
use crate::crypto::digest::sha256;
use crate::crypto::sign::{SignError, VerifyingKey};
use crate::failure::chain;
use crate::resource::json;
use crate::telemetry::metrics::Metrics;
use crate::tls::cache::Contexts;
use crate::tls::material::KeyPair;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
enum ReportError {
    #[error(transparent)]
    Keeping(#[from] KeepingError),
    #[error(transparent)]
    Serve(Box<ServeError>),
    #[error(transparent)]
    Standalone(#[from] StandaloneError),
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    #[error("the report cannot be written")]
    Json(#[from] serde_json::Error),
}

impl From<ServeError> for ReportError {
    fn from(error: ServeError) -> Self {
        Self::Serve(Box::new(error))
    }
}

/// Prints the report; fails where FIPS is not required, and where the gateway that serves has lost its
/// module, so that a script can rely on it.
pub(super) fn run(common: &Common, args: &FipsArgs) -> ExitCode {
    let config = match start(common, print::err) {
        Ok(started) => started.config,
        Err(code) => return code,
    };
    let report = report(&config, common.standalone.as_deref(), args.sign);
    let told = report.and_then(|report| {
        print::out(text(&report, args)?.trim_end());
        Ok(fips_page::failure(&report))
    });
    match told {
        Ok(None) if crypto::fips::facts().is_some() => ExitCode::SUCCESS,
        Ok(None) => ExitCode::from(FAILURE),
        Ok(Some(failure)) => {
            print::err(&format!("portcullis: {failure}"));
            ExitCode::from(FAILURE)
        }
        Err(error) => {
            print::err(&format!("portcullis: {}", chain(&error)));
            ExitCode::from(FAILURE)
        }
    }
}

fn text(report: &Value, args: &FipsArgs) -> Result<String, ReportError> {
    if args.is_json() {
        Ok(serde_json::to_string_pretty(report)?)
    } else {
        Ok(fips_page::page(report))
    }
}

fn report(
    config: &Config,
    standalone: Option<&Path>,
    is_signed: bool,
) -> Result<Value, ReportError> {
    let addresses = configured_listeners(config);
    let admin = access::admin_pair(config)?;
    let around = surroundings(config, addresses, admin.as_ref())?;
    match standalone {
        None => Ok(evidence::evidence(parts(config)?, &around, is_signed)?),
        Some(path) => {
            let (control, _) = standalone::open(config, path)?;
            Ok(control.report(&around, is_signed)?)
        }
    }
}

/// What is kept, where anything is.
fn parts(config: &Config) -> Result<Option<Parts>, KeepingError> {
    let Some(keeping) = keeping::open_to_read(config)? else {
        return Ok(None);
    };
    let metrics = Metrics::new().map_err(KeepingError::Metrics)?;
    let (live, contexts) = (Arc::default(), Arc::new(Contexts::new(1)));
    keeping::parts(config, keeping, live, contexts, Arc::new(metrics)).map(Some)
}

/// What a report says of a process with these listeners that does not serve; `admin` is what its
/// admin listener shows, where that is made already.
pub(super) fn surroundings(
    config: &Config,
    addresses: impl IntoIterator<Item = (&'static str, SocketAddr)>,
    admin: Option<&KeyPair>,
) -> Result<Surroundings, ServeError> {
    let listeners = addresses.into_iter().map(|(name, address)| Listener {
        name,
        address,
        is_tls: matches!(name, "https" | "admin_https"),
    });
    Ok(Surroundings {
        listeners: listeners.collect(),
        configuration: sha256(&[config.describe().as_bytes()])?,
        file: config.file.clone(),
        keys: access::own_keys(config, admin)?,
        signer: access::report_signer(config)?,
        self_test_interval: config.fips.self_test_interval,
        started_at: SystemTime::now(),
        is_serving: false,
    })
}

fn configured_listeners(config: &Config) -> Vec<(&'static str, SocketAddr)> {
    let all = [
        ("http", &config.http.listen),
        ("https", &config.https.listen),
        ("admin", &config.admin.listen),
        ("admin_https", &config.admin.https.listen),
        ("status", &config.status.listen),
    ];
    let all = all.into_iter().flat_map(|(name, addresses)| {
        let addresses = addresses.iter();
        addresses.map(move |address| (name, address.addr))
    });
    all.collect()
}

/// Why a report does not hold.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error("{path}")]
    File {
        path: String,
        source: std::io::Error,
    },
    #[error("{path} is no report: it is not one JSON text whose members are all there once")]
    NotJson {
        path: String,
        source: serde_json::Error,
    },
    #[error("{path}")]
    Key { path: String, source: SignError },
    #[error("{path}")]
    Wrong { path: String, source: VerifyError },
}

/// Checks the signature of a report that was kept; 0 if it holds.
pub(super) fn verify(common: &Common, path: &Path, key: &Path) -> ExitCode {
    if let Err(code) = start(common, print::err) {
        return code;
    }
    match check(path, key) {
        Ok(text) => {
            print::out(&text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            print::err(&format!("portcullis: {}", chain(&error)));
            ExitCode::from(FAILURE)
        }
    }
}

fn check(path: &Path, key: &Path) -> Result<String, CheckError> {
    let text = |path: &Path| path.display().to_string();
    let read = |path: &Path| {
        fs::read(path).map_err(|source| CheckError::File {
            path: text(path),
            source,
        })
    };
    // Of a member that is there twice, readers take the first or the last: one would be unsigned.
    let report = json::parse(&read(path)?).map_err(|source| CheckError::NotJson {
        path: text(path),
        source,
    })?;
    let key = VerifyingKey::parse_pem(&read(key)?).map_err(|source| CheckError::Key {
        path: text(key),
        source,
    })?;
    let signed = evidence::verify(&report, &key).map_err(|source| CheckError::Wrong {
        path: text(path),
        source,
    })?;
    let word = |name: &str| report.get(name).and_then(Value::as_str).unwrap_or("?");
    Ok(format!(
        "good signature: report of {}, sha256 {}: {}",
        word("made_at"),
        signed.report_sha256,
        word("statement")
    ))
}
