//! `a6`: the client's command line. This version has `version` and `explain`.
//!
//! Messages, formats and exit codes (0 or 1, nothing else) are those of the public `a6`.

mod args;
mod explain;
mod version;

use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

use crate::cli::client::args::{Args, Command, Format};
use crate::cli::print;

/// Runs `a6` with the process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(e) if is_help(e.kind()) => {
            print::out(e.render().to_string().trim_end());
            return ExitCode::SUCCESS;
        }
        Err(e) => return fail(&args::message(&e)),
    };
    match run(&args) {
        Ok(text) => {
            print::out(text.trim_end());
            ExitCode::SUCCESS
        }
        Err(message) => fail(&message),
    }
}

/// Asked for, or the public tool's answer to a bare command.
const fn is_help(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    )
}

/// The command's output, or the message of its failure.
fn run(args: &Args) -> Result<String, String> {
    let format = args.output.as_deref().map(Format::parse).transpose()?;
    match &args.command {
        Command::Version => version::run(format),
        Command::Explain { code } => explain::run(code.as_deref(), format),
    }
}

fn fail(message: &str) -> ExitCode {
    print::err(message);
    ExitCode::FAILURE
}

/// The platform in Go's words, which scripts know from the public `a6`: `linux/amd64`.
#[must_use]
pub fn platform() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{}/{arch}", std::env::consts::OS)
}
