//! `portcullis check --profile stig`: the points of a security guide that apply to a TLS gateway,
//! answered from the configuration, the stored resources and the machine.
//!
//! A point passes only where that was seen. What this cannot see, such as which CAs the site
//! approves, has to be told, or the point fails.

mod machine;
mod points;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};

use self::points::{Facts, Outcome, Point};
use crate::cli::print;
use crate::cli::server::args::{CheckArgs, Common};
use crate::cli::server::error::ServeError;
use crate::cli::server::keeping::{self, KeepingError};
use crate::cli::server::standalone::{self, StandaloneError};
use crate::cli::server::{FAILURE, access, start};
use crate::config::{Config, TrustFile};
use crate::control::survey::{self, Surveyed};
use crate::control::{self, StartError};
use crate::failure::chain;
use crate::resource::secret::Manager;
use crate::telemetry::metrics::Metrics;
use crate::tls::cache::Contexts;
use crate::tls::material::{CaBundle, MaterialError};
use crate::tls::trust::CaStore;

/// Why the points cannot be answered.
#[derive(Debug, thiserror::Error)]
enum StigError {
    #[error(transparent)]
    Keeping(#[from] KeepingError),
    #[error(transparent)]
    Standalone(#[from] StandaloneError),
    #[error(transparent)]
    Survey(#[from] StartError),
    #[error(transparent)]
    Serve(Box<ServeError>),
    #[error("--approved-cas: {path} cannot be read")]
    File {
        path: String,
        source: std::io::Error,
    },
    #[error("--approved-cas: {path}")]
    Cas { path: String, source: MaterialError },
}

impl From<ServeError> for StigError {
    fn from(error: ServeError) -> Self {
        Self::Serve(Box::new(error))
    }
}

/// Answers every point; 0 when none fails.
pub(super) fn run(common: &Common, args: &CheckArgs) -> ExitCode {
    let config = match start(common, print::err) {
        Ok(started) => started.config,
        Err(code) => return code,
    };
    let standalone = common.standalone.as_deref();
    let points = match answer(&config, standalone, args.approved_cas.as_deref()) {
        Ok(points) => points,
        Err(error) => {
            print::err(&format!("portcullis: {}", chain(&error)));
            return ExitCode::from(FAILURE);
        }
    };
    if args.is_json() {
        print::out(&format!("{:#}", json(&points)));
    } else {
        print::out(page(&points).trim_end());
    }
    let fails = points.iter().any(|point| point.outcome == Outcome::Fail);
    if fails {
        ExitCode::from(FAILURE)
    } else {
        ExitCode::SUCCESS
    }
}

fn answer(
    config: &Config,
    standalone: Option<&Path>,
    approved_cas: Option<&Path>,
) -> Result<Vec<Point>, StigError> {
    let approved = approved_cas.map(read_cas).transpose()?;
    let (objects, kek_file) = match standalone {
        None => stored(config)?,
        Some(path) => {
            let (control, findings) = standalone::open(config, path)?;
            // Its keys are in it.
            let objects = control.survey(&findings).map_err(KeepingError::from)?;
            (objects, Some(path.to_owned()))
        }
    };
    let facts = Facts {
        config,
        is_declared: standalone.is_some(),
        secret_files: machine::secret_files(config, &objects, kek_file),
        objects,
        manager_cas: manager_cas(config)?,
        admin: access::admin_pair(config)?,
        admin_ca: access::admin_client_ca(config)?,
        approved,
        account: machine::account(&config.data_dir),
        shippers: machine::log_shippers(Path::new("/etc")),
    };
    Ok(points::all(&facts))
}

/// What is stored, and the file of what seals it.
fn stored(config: &Config) -> Result<(Vec<Surveyed>, Option<PathBuf>), StigError> {
    let Some(keeping) = keeping::open_to_read(config)? else {
        return Ok((Vec::new(), None));
    };
    let kek_file = keeping.kek_file.clone();
    let metrics = Metrics::new().map_err(KeepingError::Metrics)?;
    let (live, contexts) = (Arc::default(), Arc::new(Contexts::new(1)));
    let parts = keeping::parts(config, keeping, live, contexts, Arc::new(metrics))?;
    Ok((survey::survey(parts)?, kek_file))
}

/// Whom secret managers must come from, where a file says so.
fn manager_cas(config: &Config) -> Result<Vec<(Manager, CaBundle)>, KeepingError> {
    let secrets = &config.secrets;
    let all = [
        (Manager::Vault, &secrets.vault.trust_file),
        (Manager::Aws, &secrets.aws.trust_file),
    ];
    let named = all
        .into_iter()
        .filter(|(_, file)| matches!(file, TrustFile::Path(_)));
    named
        .map(|(manager, file)| {
            let key = format!("secrets.{}.trust_file", manager.word());
            Ok((manager, control::read_trust_file(&key, file)?))
        })
        .collect()
}

fn read_cas(path: &Path) -> Result<(CaBundle, CaStore), StigError> {
    let name = || path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| StigError::File {
        path: name(),
        source,
    })?;
    let cas = |source| StigError::Cas {
        path: name(),
        source,
    };
    let bundle = CaBundle::parse(&text).map_err(cas)?;
    let store = CaStore::new(&bundle).map_err(|error| cas(error.into()))?;
    Ok((bundle, store))
}

/// How many points came out so, in the order pass, fail, not applicable.
fn tally(points: &[Point]) -> [usize; 3] {
    [Outcome::Pass, Outcome::Fail, Outcome::NotApplicable].map(|outcome| {
        let all = points.iter();
        all.filter(|point| point.outcome == outcome).count()
    })
}

fn json(points: &[Point]) -> Value {
    let [passed, failed, not_applicable] = tally(points);
    let all = points.iter().map(|point| {
        json!({
            "id": point.id,
            "title": point.title,
            "outcome": point.outcome.word(),
            "looked_at": point.looked_at,
            "found": point.found,
            "remedy": point.remedy(),
        })
    });
    json!({
        "profile": "stig",
        "passed": passed,
        "failed": failed,
        "not_applicable": not_applicable,
        "points": all.collect::<Vec<_>>(),
    })
}

fn page(points: &[Point]) -> String {
    let mut text = String::new();
    let mut add = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    for point in points {
        add(&format!(
            "{:<14} {}: {}",
            point.outcome.word(),
            point.id,
            point.title
        ));
        for place in &point.looked_at {
            add(&format!("{:<14} looked at: {place}", ""));
        }
        for finding in &point.found {
            add(&format!("{:<14} found: {finding}", ""));
        }
        if let Some(remedy) = point.remedy() {
            add(&format!("{:<14} remedy: {remedy}", ""));
        }
    }
    let [passed, failed, not_applicable] = tally(points);
    add(&format!(
        "\n{} points: {passed} passed, {failed} failed, {not_applicable} not applicable",
        points.len()
    ));
    text
}
