//! The arguments of `portcullis`. The common ones may stand before or after the verb.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};

/// An API gateway for mutual TLS.
#[derive(Debug, Parser)]
#[command(name = "portcullis", disable_help_subcommand = true)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    verb: Option<VerbArgs>,
}

/// Arguments of every verb.
#[derive(Clone, Debug, Default, ClapArgs)]
pub(super) struct Common {
    /// Configuration file [default: /etc/portcullis/portcullis.yaml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Sets a configuration key, the value as in YAML; may be repeated
    #[arg(long = "set", value_name = "PATH.TO.KEY=VALUE")]
    pub(super) sets: Vec<String>,
    /// Serves the resources of a file instead of a store (not in this version)
    #[arg(long, value_name = "FILE")]
    pub(super) standalone: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum VerbArgs {
    /// Runs the gateway (the default)
    Serve {
        #[command(flatten)]
        common: Common,
    },
    /// Validates the configuration and the stored resources; exit code 0 or 1
    Check {
        #[command(flatten)]
        common: Common,
        /// Also prints every configuration key with its effective value
        #[arg(long)]
        print: bool,
    },
    /// Starts OpenSSL as configured and reports on the FIPS module; exit code 0, 1 or 78
    Fips {
        #[command(flatten)]
        common: Common,
    },
    /// Prints the versions of the gateway and of OpenSSL
    Version,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    /// `serve`, or nothing.
    Serve,
    /// `check`.
    Check {
        /// `--print`.
        print: bool,
    },
    /// `fips`.
    Fips,
    /// `version`.
    Version,
}

impl Args {
    /// The verb, and its arguments joined with those before it: settings in the order typed, of
    /// the others the later one.
    pub(super) fn resolve(self) -> (Verb, Common) {
        let (verb, later) = match self.verb {
            None => (Verb::Serve, Common::default()),
            Some(VerbArgs::Serve { common }) => (Verb::Serve, common),
            Some(VerbArgs::Check { common, print }) => (Verb::Check { print }, common),
            Some(VerbArgs::Fips { common }) => (Verb::Fips, common),
            Some(VerbArgs::Version) => (Verb::Version, Common::default()),
        };
        let mut sets = self.common.sets;
        sets.extend(later.sets);
        let config = later.config.or(self.common.config);
        let standalone = later.standalone.or(self.common.standalone);
        (
            verb,
            Common {
                config,
                sets,
                standalone,
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::path::Path;

    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    fn resolve(args: &[&str]) -> (Verb, Common) {
        Args::try_parse_from([&["portcullis"], args].concat())
            .unwrap()
            .resolve()
    }

    #[test]
    fn arguments_are_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn nothing_means_serve() {
        assert_eq!(resolve(&[]).0, Verb::Serve);
        assert_eq!(resolve(&["serve"]).0, Verb::Serve);
        assert_eq!(
            resolve(&["check", "--print"]).0,
            Verb::Check { print: true }
        );
    }

    #[test]
    fn settings_before_and_after_the_verb_are_joined_in_order() {
        let (_, common) = resolve(&["--set", "a=1", "--config", "x", "check", "--set", "b=2"]);
        assert_eq!(common.sets, ["a=1", "b=2"]);
        assert_eq!(common.config.as_deref(), Some(Path::new("x")));
        let (_, common) = resolve(&["--config", "x", "serve", "--config", "y"]);
        assert_eq!(common.config.as_deref(), Some(Path::new("y")));
    }

    #[test]
    fn unknown_verb_and_flag_are_refused_with_code_2() {
        for (arg, kind) in [
            ("servee", ErrorKind::InvalidSubcommand),
            ("--sett=a", ErrorKind::UnknownArgument),
        ] {
            let error = Args::try_parse_from(["portcullis", arg]).unwrap_err();
            assert_eq!((error.kind(), error.exit_code()), (kind, 2));
        }
    }
}
