//! `a6`: the client's command line, for Portcullis and for Apache APISIX.
//!
//! Verbs, messages, formats and exit codes (0 or 1, nothing else) are those of the public `a6`;
//! what goes beyond it is said where it is.

mod api;
mod args;
mod audit;
mod cert;
mod completion;
mod context;
mod declared;
mod envelope;
mod explain;
mod failed;
mod format;
mod handshake;
mod init_mtls;
mod input;
mod logs;
mod own;
mod probe;
mod resources;
mod settings;
mod table;
mod terminal;
mod trace;
mod usage;
mod version;
mod yaml;

use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

use self::args::{
    Args, Command, Common, DebugVerb, Globals, RouteVerb, SecretVerb, ServiceVerb, SslVerb,
    UpstreamVerb,
};
use self::failed::Failed;
use self::resources::{Doomed, Verb};
use crate::cli::{forbid_core_dumps, print};
use crate::crypto::memory;
use crate::resource::Kind;
use crate::telemetry::panics;

/// Runs `a6` with the process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    panics::install();
    forbid_core_dumps();
    // Where it is not permitted, the command is wanted all the same.
    let _not_permitted = memory::lock();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(e) if is_help(e.kind()) => {
            print::out(e.render().to_string().trim_end());
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            let words: Vec<String> = std::env::args().skip(1).collect();
            return fail(&Failed::new(usage::message(&e)), wants_json(&words));
        }
    };
    let globals = &args.globals;
    match run(&args.command, globals) {
        Ok(text) => {
            if !text.is_empty() {
                print::out(text.trim_end_matches('\n'));
            }
            ExitCode::SUCCESS
        }
        Err(failed) => fail(&failed, globals.output.as_deref() == Some("json")),
    }
}

/// What its arguments are, for the man pages.
#[cfg(test)]
pub(super) fn command() -> clap::Command {
    <Args as clap::CommandFactory>::command()
}

/// Asked for, or the public tool's answer to a bare group.
const fn is_help(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            | ErrorKind::MissingSubcommand
    )
}

/// Whether words that are no command line ask for JSON.
fn wants_json(words: &[String]) -> bool {
    let pair = |pair: &[String]| matches!(pair, [flag, format] if (flag == "-o" || flag == "--output") && format == "json");
    words.windows(2).any(pair)
        || words
            .iter()
            .any(|it| matches!(it.as_str(), "--output=json" | "-ojson" | "-o=json"))
}

/// The command's output, or the message of its failure.
fn run(command: &Command, globals: &Globals) -> Result<String, Failed> {
    let output = globals.output.as_deref();
    match command {
        Command::Ssl(verb) => at_server(Kind::Ssl, ssl(verb), globals),
        Command::Upstream(verb) => at_server(Kind::Upstream, upstream(verb), globals),
        Command::Route(verb) => at_server(Kind::Route, route(verb), globals),
        Command::Service(verb) => at_server(Kind::Service, service(verb), globals),
        Command::Secret(verb) => match secret(verb)? {
            Some(verb) => at_server(Kind::Secret, verb, globals),
            None => own::secrets(globals),
        },
        Command::Config(verb) => declared::run(verb, globals),
        Command::Context(verb) => context::run(verb, globals),
        Command::Cert(verb) => cert::run(verb, globals),
        Command::Probe(verb) => probe::run(verb, globals),
        Command::Debug(DebugVerb::Trace(trace)) => trace::run(trace, globals),
        Command::Debug(DebugVerb::Logs(logs)) => logs::run(logs),
        Command::Explain { last: true, code } => explain::last(code.as_deref(), globals),
        Command::Explain { code, .. } => explain::run(code.as_deref(), output),
        Command::Fips { sign } => own::fips(*sign, globals),
        Command::Audit(verb) => audit::run(verb, globals),
        Command::InitMtls(init) => init_mtls::run(init, globals),
        Command::Completion { shell } => completion::script(shell),
        Command::Version => version::run(output),
        Command::Complete { words } => Ok(completion::complete(words)),
        Command::Other(words) if words.first().is_some_and(|word| word == "help") => help(words),
        Command::Other(words) => Err(usage::no_group(words.first().map_or("", String::as_str))),
    }
}

/// `a6 help GROUP VERB`, as the public tool has it beside `a6 GROUP VERB --help`.
fn help(words: &[String]) -> Result<String, Failed> {
    let asked = words.iter().skip(1).map(String::as_str);
    let line = ["a6"].into_iter().chain(asked).chain(["--help"]);
    match Args::try_parse_from(line) {
        Err(e) if is_help(e.kind()) => Ok(e.render().to_string()),
        Err(e) => Err(Failed::new(usage::message(&e))),
        Ok(_) => Err(usage::no_group(words.get(1).map_or("", String::as_str))),
    }
}

fn at_server(kind: Kind, verb: Verb<'_>, globals: &Globals) -> Result<String, Failed> {
    api::run(async |network| resources::run(network, kind, verb, globals).await)
}

fn common(verb: &Common) -> Verb<'_> {
    match verb {
        Common::Create(file) => Verb::Create(None, &file.file),
        Common::Update(update) => Verb::Update(update),
        Common::Get(ids) => Verb::Get(&ids.id),
        Common::Export(export) => Verb::Export(export),
    }
}

fn ssl(verb: &SslVerb) -> Verb<'_> {
    match verb {
        SslVerb::Common(verb) => common(verb),
        SslVerb::List(paging) => Verb::List(paging.into()),
        SslVerb::Delete(delete) => Verb::Delete(delete.into()),
    }
}

fn upstream(verb: &UpstreamVerb) -> Verb<'_> {
    match verb {
        UpstreamVerb::Common(verb) => common(verb),
        UpstreamVerb::List(list) => Verb::List(list.into()),
        UpstreamVerb::Delete(delete) => Verb::Delete(delete.into()),
        UpstreamVerb::Health(health) => Verb::Health(health),
    }
}

fn route(verb: &RouteVerb) -> Verb<'_> {
    match verb {
        RouteVerb::Common(verb) => common(verb),
        RouteVerb::List(list) => Verb::List(list.into()),
        RouteVerb::Delete(delete) => Verb::Delete(delete.into()),
    }
}

fn service(verb: &ServiceVerb) -> Verb<'_> {
    match verb {
        ServiceVerb::Common(verb) => common(verb),
        ServiceVerb::List(list) => Verb::List(list.into()),
        ServiceVerb::Delete(delete) => Verb::Delete(delete.into()),
    }
}

/// `None`: its status, which is no object's.
fn secret(verb: &SecretVerb) -> Result<Option<Verb<'_>>, Failed> {
    Ok(Some(match verb {
        SecretVerb::Create(file) => Verb::Create(usage::at_most_one(&file.id)?, &file.file),
        SecretVerb::Update(update) => Verb::Update(update),
        SecretVerb::Get(ids) => Verb::Get(&ids.id),
        SecretVerb::List(paging) => Verb::List(paging.into()),
        SecretVerb::Delete(ids) => Verb::Delete(Doomed {
            id: &ids.id,
            all: false,
            label: None,
        }),
        SecretVerb::Status => return Ok(None),
    }))
}

fn fail(failed: &Failed, as_json: bool) -> ExitCode {
    if let Some(line) = failed.line(as_json) {
        print::err(&line);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_is_that_of_the_words_behind_it() {
        let help = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            help(&words)
        };
        for (line, usage) in [
            ("help", "Usage: a6 [OPTIONS] <COMMAND>"),
            ("help ssl", "Usage: a6 ssl [OPTIONS] <COMMAND>"),
            ("help ssl ls", "Usage: a6 ssl list [OPTIONS]"),
        ] {
            let told = help(line).unwrap();
            assert!(told.contains(usage), "{told}");
        }
        for (line, refusal) in [
            ("help nope", "unknown command \"nope\" for \"a6\""),
            ("help ssl nope", "unknown command \"nope\" for \"a6 ssl\""),
        ] {
            assert_eq!(help(line).unwrap_err().to_string(), refusal);
        }
        assert!(
            help("help consumer")
                .unwrap_err()
                .to_string()
                .contains("not consumers")
        );
    }
}
