//! `portcullis rotate-key`: puts the next key-encryption key where a gateway that runs finds it, and
//! waits until everything is sealed with that; or does it itself where none runs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::cli::print;
use crate::cli::server::args::{Common, RotateArgs};
use crate::cli::server::keeping::{self, KeepingError};
use crate::cli::server::{FAILURE, start};
use crate::config::{self, Config};
use crate::control::rekey::{Keys, RekeyError, rekey};
use crate::crypto::error::CryptoError;
use crate::failure::chain;
use crate::secrets::custody::kek::{CHECK_NAME, Kek, KekError};
use crate::secrets::custody::obtain::{self, ObtainError};
use crate::secrets::custody::rotation::{NEXT_NAME, Rotation};
use crate::store::StoreError;
use crate::store::sqlite::Database;

/// How often is looked whether the gateway is done.
const LOOK: Duration = Duration::from_millis(100);

/// How long a gateway that is done may take to move the files.
const SETTLE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
enum RotateError {
    #[error("the store is memory: nothing is kept that a key could seal")]
    Memory,
    #[error("there is no store in {0} yet; the first start makes it, with its key")]
    Nothing(PathBuf),
    #[error("`--to` is the key in use; give another one, or leave it out to have one made")]
    Same,
    #[error(
        "a rotation to the key {0} is under way; leave `--to` out to finish it, then rotate again"
    )]
    UnderWay(String),
    #[error("there is no file {0}")]
    NoFile(PathBuf),
    #[error(
        "the gateway that has the store has not finished within {wait} s: its log says why. The \
         rotation goes on; call this again to wait for it. A gateway of another `kek` or `data_dir` \
         never finds {next}"
    )]
    Late { wait: u64, next: PathBuf },
    #[error(transparent)]
    Obtain(#[from] ObtainError),
    #[error(transparent)]
    Made(#[from] KekError),
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Keeping(#[from] KeepingError),
    #[error("not everything is sealed anew yet; both keys are needed until it is")]
    Rekey(#[from] RekeyError),
}

/// Prints which key is in use afterwards, and what is left to do.
pub(super) fn run(common: &Common, args: &RotateArgs) -> ExitCode {
    let config = match start(common, print::err) {
        Ok(started) => started.config,
        Err(code) => return code,
    };
    match rotate(&config, args) {
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

fn rotate(config: &Config, args: &RotateArgs) -> Result<String, RotateError> {
    if config.store == config::Store::Memory {
        return Err(RotateError::Memory);
    }
    let files = keeping::sources(config).rotation();
    let (from, to) = keys(config, args, &files)?;
    match Database::open(&config.data_dir) {
        Ok(database) => reseal(config, database)?,
        Err(StoreError::InUse { .. }) => {
            wait(config, &to, &files, args.wait)?;
            wait_for_files(&files);
        }
        Err(error) => return Err(error.into()),
    }
    let is_settled = files.settle(&to)?;
    let mut told = format!(
        "everything is sealed with the key-encryption key {}; {} opens nothing any more",
        to.id(),
        from.id()
    );
    match &files.place {
        Some(place) if is_settled => told.push_str(&format!(
            "\nthe key is in {}: keep it elsewhere too; the former one is in {}: remove it when no \
             backup needs it",
            place.display(),
            files.old.display()
        )),
        Some(_) | None => {
            told.push('\n');
            told.push_str(&files.out_of_place(&files.next));
        }
    }
    Ok(told)
}

/// The key in use and the next one, which lies where it belongs on return.
fn keys(config: &Config, args: &RotateArgs, files: &Rotation) -> Result<(Kek, Kek), RotateError> {
    let database = Database::open_to_read(&config.data_dir)?;
    let database = database.ok_or_else(|| RotateError::Nothing(config.data_dir.clone()))?;
    let known = keeping::known(&database)?;
    let found = obtain::find(&keeping::sources(config), &known)?;
    let found = found.ok_or_else(|| RotateError::Nothing(config.data_dir.clone()))?;
    let given = args.to.as_deref().map(read).transpose()?;
    let staged = match found.next {
        Some(next) => Some(next),
        None => files
            .read_next()?
            .filter(|next| next.id() != found.kek.id()),
    };
    if let Some(next) = staged {
        return match given {
            Some(given) if given.id() != next.id() => {
                Err(RotateError::UnderWay(next.id().to_owned()))
            }
            Some(_) | None => Ok((found.kek, next)),
        };
    }
    let next = match given {
        Some(given) if given.id() == found.kek.id() => return Err(RotateError::Same),
        Some(given) => given,
        None => Kek::random()?,
    };
    files.stage(&next)?;
    keeping::give_to_owner(&files.next, &config.data_dir);
    Ok((found.kek, next))
}

fn read(path: &Path) -> Result<Kek, RotateError> {
    let found = Rotation::read(path)?;
    found.ok_or_else(|| RotateError::NoFile(path.to_owned()))
}

/// No gateway runs: the work is done here.
fn reseal(config: &Config, database: Database) -> Result<(), RotateError> {
    let files = keeping::sources(config).rotation();
    let known = keeping::known(&database)?;
    let found = obtain::find(&keeping::sources(config), &known)?;
    let found = found.ok_or_else(|| RotateError::Nothing(config.data_dir.clone()))?;
    let kept = keeping::keep(database, found, files)?;
    let Some(Keys {
        current,
        next,
        files,
    }) = kept.keys
    else {
        return Ok(());
    };
    let staged = files.read_next()?.filter(|next| next.id() != current.id());
    // A gateway that has ended since may have done it.
    if let Some(next) = next.or(staged) {
        rekey(&*kept.store, &kept.custody, (&current, &next), || ())?;
    }
    Ok(())
}

/// Waits until the store is under the next key alone.
fn wait(config: &Config, to: &Kek, files: &Rotation, wait: u64) -> Result<(), RotateError> {
    let until = Instant::now() + Duration::from_secs(wait);
    let check = to.check_value()?;
    loop {
        if let Some(database) = Database::open_to_read(&config.data_dir)? {
            let is_under_it = database.meta_find(CHECK_NAME)?.as_ref() == Some(&check);
            if is_under_it && database.meta_find(NEXT_NAME)?.is_none() {
                return Ok(());
            }
        }
        if Instant::now() >= until {
            let next = files.next.clone();
            return Err(RotateError::Late { wait, next });
        }
        std::thread::sleep(LOOK);
    }
}

/// Gives the gateway the time to put the key into its place, where it may.
fn wait_for_files(files: &Rotation) {
    let until = Instant::now() + SETTLE;
    while files.place.is_some() && files.next.exists() && Instant::now() < until {
        std::thread::sleep(LOOK);
    }
}
