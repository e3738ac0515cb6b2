//! Wrong arguments in the public tool's words.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::failed::Failed;

/// Exactly one of what was given, in the public tool's words.
///
/// # Errors
/// None or several.
pub(super) fn exactly_one(given: &[String]) -> Result<&str, Failed> {
    match given {
        [one] => Ok(one),
        more => Err(Failed::new(format!(
            "accepts 1 arg(s), received {}",
            more.len()
        ))),
    }
}

/// At most one of what was given, in the public tool's words.
///
/// # Errors
/// Several.
pub(super) fn at_most_one(given: &[String]) -> Result<Option<&str>, Failed> {
    match given {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        more => Err(Failed::new(format!(
            "accepts at most 1 arg(s), received {}",
            more.len()
        ))),
    }
}

/// What the public tool has and this one leaves out.
const OUT_OF_SCOPE: [(&str, &str); 9] = [
    ("consumer", "consumers"),
    ("consumer-group", "consumer groups"),
    ("credential", "credentials of consumers"),
    ("global-rule", "global rules"),
    ("plugin", "plugins"),
    ("plugin-config", "plugin configs"),
    ("plugin-metadata", "plugin metadata"),
    ("proto", "protos"),
    ("stream-route", "stream routes"),
];

/// The sentence for a first word that is none of the groups.
pub(super) fn no_group(word: &str) -> Failed {
    if let Some((_, what)) = OUT_OF_SCOPE.iter().find(|(group, _)| *group == word) {
        return Failed::new(format!(
            "`a6 {word}` is not available: this a6 manages ssl, upstream, route, service and \
             secret, not {what}"
        ));
    }
    match word {
        "update" | "extension" => Failed::new(format!(
            "`a6 {word}` is not available: this a6 never downloads anything; install a newer \
             version the way this one was installed"
        )),
        _ => Failed::new(format!("unknown command {word:?} for \"a6\"")),
    }
}

/// The public `a6`'s one line for wrong arguments, where it has one.
pub(super) fn message(error: &clap::Error) -> String {
    let context = |kind| error.get(kind).map(ToString::to_string).unwrap_or_default();
    // `--file <FILE>` without what follows the flag.
    let flag = |text: &str| text.split(['=', ' ']).next().unwrap_or_default().to_owned();
    let kind = error.kind();
    if kind == ErrorKind::InvalidSubcommand {
        // `Usage: a6 ssl [OPTIONS] <COMMAND>`
        let usage = context(ContextKind::Usage);
        let words = usage.split_whitespace().skip(1);
        let group: Vec<&str> = words.take_while(|it| !it.starts_with(['[', '<'])).collect();
        let group = group.join(" ");
        let word = context(ContextKind::InvalidSubcommand);
        return format!("unknown command {word:?} for \"{group}\"");
    }
    if kind == ErrorKind::UnknownArgument {
        let arg = context(ContextKind::InvalidArg);
        return if arg.starts_with('-') {
            format!("unknown flag: {arg}")
        } else {
            format!("unexpected argument {arg:?}")
        };
    }
    if kind == ErrorKind::MissingRequiredArgument
        && let Some(ContextValue::Strings(missing)) = error.get(ContextKind::InvalidArg)
        && let Some(first) = missing.first()
    {
        let name = flag(first);
        return format!("required flag {:?} not set", name.trim_start_matches('-'));
    }
    if kind == ErrorKind::InvalidValue && context(ContextKind::InvalidValue).is_empty() {
        let arg = flag(&context(ContextKind::InvalidArg));
        return format!("flag needs an argument: {arg}");
    }
    let text = error.render().to_string();
    let first = text.lines().next().unwrap_or_default();
    first.trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    use clap::Parser as _;

    use super::super::args::Args;

    fn told(words: &[&str]) -> String {
        message(&Args::try_parse_from(words).unwrap_err())
    }

    #[test]
    fn wrong_arguments_get_the_public_tools_words() {
        for (words, expected) in [
            (&["a6", "version", "--nope"][..], "unknown flag: --nope"),
            (&["a6", "version", "x"], "unexpected argument \"x\""),
            (
                &["a6", "ssl", "bogus"],
                "unknown command \"bogus\" for \"a6 ssl\"",
            ),
            (
                &["a6", "-o", "json", "ssl", "--server", "x", "bogus"],
                "unknown command \"bogus\" for \"a6 ssl\"",
            ),
            (&["a6", "ssl", "create"], "required flag \"file\" not set"),
            (
                &["a6", "ssl", "create", "-f"],
                "flag needs an argument: --file",
            ),
            (&["a6", "ssl", "list", "--uri", "x"], "unknown flag: --uri"),
        ] {
            assert_eq!(told(words), expected);
        }
    }

    #[test]
    fn what_is_no_group_gets_one_sentence() {
        assert_eq!(
            no_group("x").to_string(),
            "unknown command \"x\" for \"a6\""
        );
        for (group, what) in OUT_OF_SCOPE {
            let sentence = no_group(group).to_string();
            assert!(sentence.ends_with(&format!("not {what}")), "{sentence}");
        }
        assert!(no_group("extension").to_string().contains("downloads"));
    }

    #[test]
    fn arguments_are_counted() {
        let given = |count: usize| vec!["x".to_owned(); count];
        assert_eq!(at_most_one(&given(0)), Ok(None));
        assert_eq!(at_most_one(&given(1)), Ok(Some("x")));
        assert_eq!(
            at_most_one(&given(2)).unwrap_err().to_string(),
            "accepts at most 1 arg(s), received 2"
        );
        assert_eq!(
            exactly_one(&given(0)).unwrap_err().to_string(),
            "accepts 1 arg(s), received 0"
        );
    }
}
