//! The arguments of `a6`, and its words for wrong ones.

use clap::error::{ContextKind, ErrorKind};
use clap::{Parser, Subcommand};
use serde_json::Value;

/// Command line for the gateway's Admin API.
#[derive(Debug, Parser)]
#[command(name = "a6", disable_help_subcommand = true)]
pub(super) struct Args {
    /// Output format: json, yaml or text
    #[arg(short, long, global = true, value_name = "FORMAT")]
    pub(super) output: Option<String>,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// The groups.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Prints the version
    Version,
    /// Explains a failure reason; without one, lists them all
    Explain {
        /// The reason of an access record, e.g. client_cert_missing
        code: Option<String>,
    },
}

/// A machine-readable output format, or text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Indented by two.
    Json,
    /// Block style.
    Yaml,
    /// For people.
    Text,
}

impl Format {
    /// Parses `-o`.
    ///
    /// # Errors
    /// The public `a6`'s message for an unknown one.
    pub(super) fn parse(name: &str) -> Result<Self, String> {
        match name {
            "json" => Ok(Self::Json),
            "yaml" => Ok(Self::Yaml),
            "text" => Ok(Self::Text),
            other => Err(format!("unsupported output format: {other}")),
        }
    }

    /// Shows a value; `text` makes the form for people.
    pub(super) fn show(
        self,
        value: &Value,
        text: impl FnOnce() -> String,
    ) -> Result<String, String> {
        match self {
            Self::Json => serde_json::to_string_pretty(value).map_err(|e| e.to_string()),
            Self::Yaml => serde_yaml_ng::to_string(value).map_err(|e| e.to_string()),
            Self::Text => Ok(text()),
        }
    }
}

/// The public `a6`'s one line for wrong arguments, where it has one.
pub(super) fn message(error: &clap::Error) -> String {
    let context = |kind| error.get(kind).map(ToString::to_string).unwrap_or_default();
    if error.kind() == ErrorKind::InvalidSubcommand {
        return format!(
            "unknown command {:?} for \"a6\"",
            context(ContextKind::InvalidSubcommand)
        );
    }
    if error.kind() == ErrorKind::UnknownArgument {
        let arg = context(ContextKind::InvalidArg);
        return if arg.starts_with('-') {
            format!("unknown flag: {arg}")
        } else {
            format!("unexpected argument {arg:?}")
        };
    }
    error.render().to_string().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    use clap::CommandFactory as _;

    #[test]
    fn arguments_are_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn output_may_stand_before_and_after_the_verb() {
        for args in [
            ["a6", "-o", "json", "version"],
            ["a6", "version", "-o", "json"],
        ] {
            assert_eq!(
                Args::try_parse_from(args).unwrap().output.as_deref(),
                Some("json")
            );
        }
    }

    #[test]
    fn wrong_arguments_get_the_public_tools_words() {
        for (arg, expected) in [
            (&["a6", "nope"][..], "unknown command \"nope\" for \"a6\""),
            (&["a6", "version", "--nope"], "unknown flag: --nope"),
            (&["a6", "version", "x"], "unexpected argument \"x\""),
        ] {
            assert_eq!(message(&Args::try_parse_from(arg).unwrap_err()), expected);
        }
    }

    #[test]
    fn unknown_format_is_refused() {
        assert_eq!(
            Format::parse("xml").unwrap_err(),
            "unsupported output format: xml"
        );
        assert_eq!(Format::parse("yaml"), Ok(Format::Yaml));
    }
}
