//! `portcullis check`: the configuration, the files that it names, then the stored resources.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use crate::cli::print;
use crate::cli::server::access;
use crate::cli::server::args::Common;
use crate::cli::server::keeping::{self, Keeping, KeepingError};
use crate::cli::server::standalone::{self, StandaloneError};
use crate::cli::server::{FAILURE, start};
use crate::config::Config;
use crate::control::{self, Finding};
use crate::failure::chain;
use crate::telemetry::metrics::Metrics;
use crate::tls::cache::Contexts;
use crate::tls::material;

/// Prints what is wrong (`error: …`) and what is unwise (`warning: …`), one finding per line.
pub(super) fn run(common: &Common, print_config: bool) -> ExitCode {
    let config = match start(common, print::out) {
        Ok(started) => started.config,
        Err(code) => return code,
    };
    if print_config {
        print::out(config.describe().trim_end());
    }
    for warning in &config.warnings {
        print::out(&format!("warning: {warning}"));
    }
    if !material::is_approval_required() {
        for flaw in access::would_be_refused(&config) {
            print::out(&format!("warning: {flaw}"));
        }
    }
    if let Some(path) = made_key(&config) {
        print::out(&format!(
            "warning: {} holds the admin key that the first start made; name it in `admin.keys`, \
             keep it elsewhere, and remove the file",
            path.display()
        ));
    }
    let tell = |error: &dyn std::error::Error| {
        print::out(&format!("error: {}", chain(error)));
    };
    let troubles = access::troubles(&config);
    troubles.iter().for_each(|trouble| tell(trouble));
    let found = match &common.standalone {
        Some(path) => declared(&config, path).map_err(CheckError::from),
        None => findings(&config),
    };
    let findings = match found {
        Ok(findings) => findings,
        Err(e) => {
            tell(&e);
            return ExitCode::from(FAILURE);
        }
    };
    let mut is_good = troubles.is_empty();
    for finding in &findings {
        is_good &= !finding.is_error;
        let level = if finding.is_error { "error" } else { "warning" };
        let Finding {
            kind,
            id,
            pointer,
            text,
            ..
        } = finding;
        print::out(&format!("{level}: {kind} {id} {pointer}: {text}"));
    }
    if is_good {
        print::out("ok");
        return ExitCode::SUCCESS;
    }
    ExitCode::from(FAILURE)
}

/// What there is to say about the stored resources; nothing where nothing is stored yet.
fn findings(config: &Config) -> Result<Vec<Finding>, CheckError> {
    let Some(keeping) = keeping::open_to_read(config)? else {
        // Read for the writes to come: whether it can be is known now.
        keeping::rules(config)?;
        return Ok(Vec::new());
    };
    Ok(control::check(parts(config, keeping)?)?)
}

fn parts(config: &Config, keeping: Keeping) -> Result<control::Parts, KeepingError> {
    let metrics = Metrics::new().map_err(KeepingError::Metrics)?;
    let (live, contexts) = (Arc::default(), Arc::new(Contexts::new(1)));
    keeping::parts(config, keeping, live, contexts, Arc::new(metrics))
}

/// What there is to say about what a file declares.
fn declared(config: &Config, path: &Path) -> Result<Vec<Finding>, StandaloneError> {
    standalone::open(config, path).map(|(_, findings)| findings)
}

/// Why there is nothing to be said about resources.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error(transparent)]
    Keeping(#[from] KeepingError),
    #[error(transparent)]
    Control(#[from] control::StartError),
    #[error(transparent)]
    Standalone(#[from] StandaloneError),
}

/// The file of the admin key that the first start made, while it is there.
fn made_key(config: &Config) -> Option<PathBuf> {
    let path = config.data_dir.join("admin.key");
    path.exists().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_key_is_found_while_its_file_exists() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("data_dir: {}", dir.path().display());
        let config = Config::from_text(&text, &[], &|_| None).unwrap();
        assert_eq!(made_key(&config), None);
        let path = dir.path().join("admin.key");
        std::fs::write(&path, "k").unwrap();
        assert_eq!(made_key(&config), Some(path));
    }
}
