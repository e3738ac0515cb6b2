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
    /// Serves what this file declares (YAML ending in `#END`, or .json), reloaded when it changes
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
    /// Validates the configuration and the stored resources; exit code 0, 1 or 78
    Check {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        args: CheckArgs,
    },
    /// Seals everything stored with another key-encryption key, while the gateway serves or not
    ///
    /// The next key lies in `kek.next` beside the one in use until it is in its place; the one before
    /// is left in `kek.old`. May be interrupted at any moment and called again. Run it as the
    /// gateway's user, with the gateway's configuration.
    RotateKey {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        args: RotateArgs,
    },
    /// Writes everything stored into one file, while the gateway serves or not
    ///
    /// The file is new, with mode 0600, and as the store is at one moment. What is secret in it stays
    /// sealed, and the key-encryption key is not in it.
    Backup {
        #[command(flatten)]
        common: Common,
        /// The file to write; one that exists is not replaced
        file: PathBuf,
    },
    /// Puts what a backup holds into a data directory that has no store
    ///
    /// The key-encryption key that the backup was written with must be in its place. Run it as the
    /// gateway's user, with the gateway's configuration.
    Restore {
        #[command(flatten)]
        common: Common,
        /// The backup
        file: PathBuf,
    },
    /// Starts OpenSSL as configured and reports on FIPS mode; exit code 0, 1 or 78
    ///
    /// What was negotiated, only the process that serves knows: GET /portcullis/v1/fips.
    #[command(args_conflicts_with_subcommands = true)]
    Fips {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        args: FipsArgs,
        #[command(subcommand)]
        verb: Option<FipsVerb>,
    },
    /// Prints the versions of the gateway and of OpenSSL
    Version,
}

/// What is to be checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, ClapArgs)]
pub(super) struct CheckArgs {
    /// Also prints every configuration key with its effective value
    #[arg(long, conflicts_with = "profile")]
    pub(super) print: bool,
    /// Answers the points of a security guide instead; exit code 0 when none fails
    #[arg(long, value_enum, value_name = "PROFILE")]
    pub(super) profile: Option<Profile>,
    /// How the points are written
    #[arg(short, long, value_enum, value_name = "FORMAT", requires = "profile")]
    output: Option<Output>,
    /// The same as --output json
    #[arg(long, requires = "profile")]
    json: bool,
    /// The CAs that the site approves, PEM: all others that are trusted are a failure
    #[arg(long, value_name = "FILE", requires = "profile")]
    pub(super) approved_cas: Option<PathBuf>,
}

impl CheckArgs {
    /// Whether JSON is asked for.
    pub(super) fn is_json(&self) -> bool {
        self.json || self.output == Some(Output::Json)
    }
}

/// Which key is next.
#[derive(Clone, Debug, Default, PartialEq, Eq, ClapArgs)]
pub(super) struct RotateArgs {
    /// The next key: 32 random bytes, raw, as 64 hex digits or in base64 [default: a new one]
    #[arg(long, value_name = "FILE")]
    pub(super) to: Option<PathBuf>,
    /// For how long a gateway that runs is waited for, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub(super) wait: u64,
}

/// A security guide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Profile {
    /// What the STIGs ask of a TLS proxy
    Stig,
}

/// How a report on FIPS mode is to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq, ClapArgs)]
pub(super) struct FipsArgs {
    /// How the report is written
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,
    /// The same as --output json
    #[arg(long)]
    json: bool,
    /// Signs the report with `fips_report_key`; it is JSON then
    #[arg(long)]
    pub(super) sign: bool,
}

impl FipsArgs {
    /// Whether JSON is asked for: only that can be signed.
    pub(super) fn is_json(&self) -> bool {
        self.json || self.sign || self.output == Output::Json
    }
}

/// How something is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Output {
    /// For people
    #[default]
    Text,
    /// Indented by two
    Json,
}

#[derive(Debug, Subcommand)]
enum FipsVerb {
    /// Checks the signature of a report
    Verify {
        #[command(flatten)]
        common: Common,
        /// The report, JSON
        report: PathBuf,
        /// The signer's public key or certificate, PEM
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    /// `serve`, or nothing.
    Serve,
    /// `check`.
    Check(CheckArgs),
    /// `rotate-key`.
    RotateKey(RotateArgs),
    /// `backup`, into this file.
    Backup(PathBuf),
    /// `restore`, from this file.
    Restore(PathBuf),
    /// `fips`.
    Fips(FipsArgs),
    /// `fips verify`.
    FipsVerify {
        /// The report.
        report: PathBuf,
        /// `--key`.
        key: PathBuf,
    },
    /// `version`.
    Version,
}

impl Verb {
    /// Whether `--standalone` means something to it.
    pub(super) const fn takes_file(&self) -> bool {
        match self {
            Self::Serve | Self::Version | Self::Check(_) | Self::Fips(_) => true,
            Self::RotateKey(_) | Self::Backup(_) | Self::Restore(_) => false,
            Self::FipsVerify { .. } => false,
        }
    }
}

impl Args {
    /// The verb, and its arguments joined with those before it: settings in the order typed, of
    /// the others the later one.
    pub(super) fn resolve(self) -> (Verb, Common) {
        let (verb, later) = match self.verb {
            None => (Verb::Serve, Common::default()),
            Some(VerbArgs::Serve { common }) => (Verb::Serve, common),
            Some(VerbArgs::Check { common, args }) => (Verb::Check(args), common),
            Some(VerbArgs::RotateKey { common, args }) => (Verb::RotateKey(args), common),
            Some(VerbArgs::Backup { common, file }) => (Verb::Backup(file), common),
            Some(VerbArgs::Restore { common, file }) => (Verb::Restore(file), common),
            Some(VerbArgs::Fips { common, args, verb }) => match verb {
                None => (Verb::Fips(args), common),
                Some(FipsVerb::Verify {
                    common: later,
                    report,
                    key,
                }) => (Verb::FipsVerify { report, key }, common.and(later)),
            },
            Some(VerbArgs::Version) => (Verb::Version, Common::default()),
        };
        (verb, self.common.and(later))
    }
}

impl Common {
    /// These, and those typed after them.
    fn and(mut self, later: Self) -> Self {
        self.sets.extend(later.sets);
        Self {
            config: later.config.or(self.config),
            sets: self.sets,
            standalone: later.standalone.or(self.standalone),
        }
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
        let (Verb::Check(args), _) = resolve(&["check", "--print"]) else {
            panic!("another verb");
        };
        assert!(args.print && args.profile.is_none());
    }

    #[test]
    fn report_is_json_where_it_is_asked_for_or_signed() {
        for (args, is_json) in [
            (&["fips"][..], false),
            (&["fips", "--output", "text"], false),
            (&["fips", "--output", "json"], true),
            (&["fips", "--json", "--set", "fips=required"], true),
            (&["fips", "--sign"], true),
        ] {
            let (Verb::Fips(args), _) = resolve(args) else {
                panic!("{args:?}");
            };
            assert_eq!(args.is_json(), is_json, "{args:?}");
        }
        let args = ["fips", "verify", "r.json", "--key", "k.pem", "--set", "a=1"];
        let (verb, common) = resolve(&args);
        assert_eq!(common.sets, ["a=1"]);
        let (report, key) = ("r.json".into(), "k.pem".into());
        assert_eq!(verb, Verb::FipsVerify { report, key });
    }

    #[test]
    fn next_key_is_a_new_one_unless_a_file_has_it() {
        let (Verb::RotateKey(args), _) = resolve(&["rotate-key"]) else {
            panic!("another verb");
        };
        assert_eq!((args.to, args.wait), (None, 600));
        let (verb, common) = resolve(&["rotate-key", "--to", "k", "--wait", "5", "--set", "a=1"]);
        let (to, wait) = (Some("k".into()), 5);
        assert_eq!(verb, Verb::RotateKey(RotateArgs { to, wait }));
        assert_eq!(common.sets, ["a=1"]);
    }

    #[test]
    fn arguments_of_a_profile_need_one() {
        let profile = ["portcullis", "check", "--profile", "stig"];
        for more in [
            &["--json"][..],
            &["-o", "json"],
            &["--approved-cas", "ca.pem"],
        ] {
            let with = [&profile, more].concat();
            Args::try_parse_from(with).unwrap();
            let without = [&["portcullis", "check"], more].concat();
            let error = Args::try_parse_from(without).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::MissingRequiredArgument);
        }
        let both = [&profile[..], &["--print"]].concat();
        let error = Args::try_parse_from(both).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ArgumentConflict);
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
