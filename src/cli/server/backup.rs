//! `portcullis backup` and `portcullis restore`: the store as one file, and that file as the store.
//!
//! What is secret in a backup is sealed as it is in the store, and the key is not in it: who has the
//! one has nothing without the other.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cli::print;
use crate::cli::server::args::Common;
use crate::cli::server::keeping::{self, KeepingError};
use crate::cli::server::{FAILURE, start};
use crate::config::{self, Config};
use crate::failure::chain;
use crate::secrets::custody::obtain::{self, Known, ObtainError, id_of_check};
use crate::store::StoreError;
use crate::store::sqlite::copy::{Summary, restore as restore_copy};
use crate::store::sqlite::{Database, FILE_NAME};

#[derive(Debug, thiserror::Error)]
enum BackupError {
    #[error("the store is memory: nothing is kept that could be backed up or restored")]
    Memory,
    #[error("there is no store in {0} yet: nothing to back up")]
    Nothing(PathBuf),
    #[error("{0} exists, and is not replaced; give another name, or remove it")]
    Exists(PathBuf),
    #[error("the backup was written with a key that is not here; nothing was restored")]
    Kek(#[from] ObtainError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("what was restored does not open")]
    Keeping(#[from] KeepingError),
}

/// Writes a backup, and prints what is needed to read it.
pub(super) fn back_up(common: &Common, to: &Path) -> ExitCode {
    run(common, |config| {
        let database = Database::open_to_read(&config.data_dir)?;
        let database = database.ok_or_else(|| BackupError::Nothing(config.data_dir.clone()))?;
        if to.symlink_metadata().is_ok() {
            return Err(BackupError::Exists(to.to_owned()));
        }
        let summary = database.copy(to)?;
        // Of the copy: the store may be somewhere else by now.
        let known = keeping::known(&Database::open_copy(to)?)?;
        Ok(format!(
            "{}: {}\n{}",
            to.display(),
            numbers(&summary),
            keys(&known)
        ))
    })
}

/// Puts a backup into a data directory without a store, and prints what is left to do.
pub(super) fn restore(common: &Common, from: &Path) -> ExitCode {
    run(common, |config| {
        let copy = Database::open_copy(from)?;
        let known = keeping::known(&copy)?;
        obtain::find(&keeping::sources(config), &known)?;
        let summary = restore_copy(&copy, &config.data_dir)?;
        for name in [FILE_NAME, "lock"] {
            let path = config.data_dir.join(name);
            keeping::give_to_owner(&path, &config.data_dir);
        }
        Ok(format!(
            "{}: {}\nsee what `portcullis check` says before the gateway is started",
            config.data_dir.display(),
            numbers(&summary)
        ))
    })
}

fn run(common: &Common, verb: impl FnOnce(&Config) -> Result<String, BackupError>) -> ExitCode {
    let config = match start(common, print::err) {
        Ok(started) => started.config,
        Err(code) => return code,
    };
    let told = match config.store {
        config::Store::Memory => Err(BackupError::Memory),
        config::Store::Sqlite => verb(&config),
    };
    match told {
        Ok(told) => {
            print::out(&told);
            ExitCode::SUCCESS
        }
        Err(error) => {
            print::err(&format!("portcullis: {}", chain(&error)));
            ExitCode::from(FAILURE)
        }
    }
}

fn numbers(summary: &Summary) -> String {
    format!(
        "{} objects, {} audit records, up to revision {}",
        summary.objects, summary.records, summary.revision.0
    )
}

/// Which keys a backup is worth nothing without.
fn keys(known: &Known) -> String {
    let Some(check) = &known.check else {
        return "nothing in it is sealed".to_owned();
    };
    let mut ids = format!("the key-encryption key {}", id_of_check(check));
    if let Some(next) = &known.next {
        ids.push_str(&format!(
            ", and in part with {}, which is being gone over to",
            id_of_check(next)
        ));
    }
    format!(
        "what is secret in it is sealed with {ids}: not in the backup, and needed to restore it; \
         keep it, and keep it elsewhere"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_that_a_backup_needs_is_named() {
        let known = |check: Option<&str>, next: Option<&str>| Known {
            check: check.map(str::to_owned),
            next: next.map(str::to_owned),
            sealed_values: true,
        };
        assert_eq!(keys(&known(None, None)), "nothing in it is sealed");
        let one = keys(&known(Some("aa:x"), None));
        assert!(one.contains("the key-encryption key aa: not in"), "{one}");
        let both = keys(&known(Some("aa:x"), Some("bb:y")));
        assert!(both.contains("key aa, and in part with bb,"), "{both}");
    }
}
