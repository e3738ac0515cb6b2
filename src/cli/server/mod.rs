//! The verbs of `portcullis`, and the order in which a process starts.
//!
//! Arguments, configuration, OpenSSL, log, and only then threads: OpenSSL's FIPS start must come
//! before any other use of OpenSSL and before any thread.

mod access;
mod args;
mod backup;
mod check;
mod clients;
mod error;
mod fips;
mod keeping;
mod planes;
mod process;
mod rotate;
mod secrets;
mod serve;
mod sockets;
mod standalone;
mod stig;

use std::error::Error;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use clap::Parser as _;
use tracing::Level;

use crate::cli::server::args::{Args, Common, Profile, Verb};
use crate::cli::server::process::Kept;
use crate::cli::{forbid_core_dumps, print};
use crate::config::{Config, LogFormat, LogLevel};
use crate::crypto;
use crate::crypto::error::CryptoError;
use crate::crypto::fips::{FipsError, FipsRequest, Mode};
use crate::failure::chain;
use crate::telemetry::{log, panics};
use crate::tls::material::{self, MaterialError};
use crate::tls::probe::{self, ProbeError};

/// Something is wrong: the configuration, the store, an address in use.
const FAILURE: u8 = 1;
/// FIPS mode is asked for, and not met (`EX_CONFIG` of `sysexits.h`).
const FIPS_FAILURE: u8 = 78;

/// Runs `portcullis` with the process's arguments.
///
/// Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 78 what `fips: required` asks for is
/// not met.
#[must_use]
pub fn main() -> ExitCode {
    panics::install();
    forbid_core_dumps();
    let (verb, common) = Args::parse().resolve();
    if common.standalone.is_some() && !verb.takes_file() {
        print::err(
            "portcullis: --standalone goes with `serve`, `check` and `fips` only: leave it out here",
        );
        return ExitCode::from(FAILURE);
    }
    match verb {
        Verb::Serve => serve(&common),
        Verb::Check(args) => match args.profile {
            None => check::run(&common, args.print),
            Some(Profile::Stig) => stig::run(&common, &args),
        },
        Verb::RotateKey(args) => rotate::run(&common, &args),
        Verb::Backup(to) => backup::back_up(&common, &to),
        Verb::Restore(from) => backup::restore(&common, &from),
        Verb::Fips(args) => fips::run(&common, &args),
        Verb::FipsVerify { report, key } => fips::verify(&common, &report, &key),
        Verb::Version => {
            print::out(&version());
            ExitCode::SUCCESS
        }
    }
}

/// What its arguments are, for the man pages.
#[cfg(test)]
pub(super) fn command() -> clap::Command {
    <Args as clap::CommandFactory>::command()
}

fn serve(common: &Common) -> ExitCode {
    crypto::sys::give_back_large_blocks();
    let Started { config, memory } = match start(common, print::err) {
        Ok(started) => started,
        Err(code) => return code,
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        openssl = crypto::version(),
        fips = crypto::fips::mode() == Mode::Fips,
        workers = config.worker_count(),
        "portcullis starts"
    );
    memory.tell();
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    match serve::run(&config, common.standalone.as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{}", chain(&e));
            ExitCode::from(if is_refused_by_fips(&e) {
                FIPS_FAILURE
            } else {
                FAILURE
            })
        }
    }
}

/// Whether a start failed on what only `fips: required` refuses.
fn is_refused_by_fips(error: &(dyn Error + 'static)) -> bool {
    let mut cause = material::is_approval_required().then_some(error);
    while let Some(error) = cause {
        let material = error.downcast_ref::<MaterialError>();
        if material.is_some_and(MaterialError::is_about_approval) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// What every verb begins with that opens keys.
struct Started {
    config: Config,
    memory: Kept,
}

/// Everything before the first thread: configuration, OpenSSL, log, memory.
///
/// What fails is told through `say`; the exit code is the error.
fn start(common: &Common, say: fn(&str)) -> Result<Started, ExitCode> {
    let config = load(common, say)?;
    start_openssl(&config).map_err(|e| {
        say(&format!("portcullis: {}", chain(&e)));
        ExitCode::from(match e {
            OpensslError::Fips(_) | OpensslError::Probe(_) => FIPS_FAILURE,
            OpensslError::Default(_) => FAILURE,
        })
    })?;
    log::start(level(config.log.level), format(config.log.format)).map_err(|e| {
        say(&format!("portcullis: {}", chain(&e)));
        ExitCode::from(FAILURE)
    })?;
    let memory = process::lock_memory(config.memory.lock).map_err(|e| {
        say(&format!("portcullis: {}", chain(&e)));
        ExitCode::from(FAILURE)
    })?;
    Ok(Started { config, memory })
}

fn load(common: &Common, say: fn(&str)) -> Result<Config, ExitCode> {
    let env = |name: &str| std::env::var(name).ok();
    Config::load(common.config.as_deref(), &common.sets, &env).map_err(|e| {
        say(&e.to_string());
        ExitCode::from(if e.is_about_fips() {
            FIPS_FAILURE
        } else {
            FAILURE
        })
    })
}

/// OpenSSL did not start as configured.
#[derive(Debug, thiserror::Error)]
enum OpensslError {
    #[error("`fips: required` is not met")]
    Fips(#[source] FipsError),
    #[error("`fips: required` is not met")]
    Probe(#[source] ProbeError),
    #[error("OpenSSL cannot be started")]
    Default(#[source] CryptoError),
}

fn start_openssl(config: &Config) -> Result<(), OpensslError> {
    // The directory is present whenever the mode is required: a rule of the configuration.
    let required = config
        .fips
        .module_dir
        .as_ref()
        .filter(|_| config.fips.is_required);
    match required {
        Some(dir) => {
            let expected_version = config.fips.version.clone();
            let request = FipsRequest {
                module_dir: dir.clone(),
                expected_version,
            };
            crypto::fips::start(&request).map_err(OpensslError::Fips)?;
            probe::run().map(drop).map_err(OpensslError::Probe)
        }
        None => crypto::fips::start_default().map_err(OpensslError::Default),
    }
}

/// What `portcullis version` prints.
fn version() -> String {
    let libssl = if cfg!(feature = "vendored") {
        "vendored"
    } else {
        "system"
    };
    format!(
        "portcullis {}\n  openssl:  {}\n  libssl:   {libssl}\n  platform: {}",
        env!("CARGO_PKG_VERSION"),
        crypto::version(),
        crate::cli::client::platform(),
    )
}

const fn level(level: LogLevel) -> Level {
    match level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    }
}

fn format(format: LogFormat) -> log::Format {
    match format {
        LogFormat::Json => log::Format::Json,
        LogFormat::Text => log::Format::Text,
        LogFormat::Auto if io::stderr().is_terminal() => log::Format::Text,
        LogFormat::Auto => log::Format::Json,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_names_the_package_and_openssl() {
        let text = version();
        assert!(text.starts_with(concat!("portcullis ", env!("CARGO_PKG_VERSION"), "\n")));
        assert!(text.contains("openssl:  OpenSSL 3."), "{text}");
    }
}
