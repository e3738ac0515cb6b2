//! `data_encryption`: the keys of an APISIX whose sealed private keys are taken.

use super::reader::{Reader, Section};
use super::secret::{self, Env, SecretText};

/// The keys that every APISIX has which was not given others: they are in its sources, so that they
/// hide nothing.
const PUBLISHED: [&str; 2] = ["qeddd145sfvddff3", "edd1c9f0985e76a2"];

/// Keys at most: each is tried.
const MOST: usize = 16;

/// Reads `data_encryption.keyring`.
pub(super) fn read_keyring(
    section: &Section<'_>,
    reader: &Reader,
    env: Env<'_>,
    warnings: &mut Vec<String>,
) -> Vec<SecretText> {
    let texts = section.texts("keyring").unwrap_or_default();
    let texts: Vec<SecretText> = texts.into_iter().map(SecretText::new).collect();
    section.close();
    if texts.len() > MOST {
        section.refuse("keyring", "has more than 16 keys", "keep those in use");
    }
    let on_command_line = reader.is_on_command_line(&section.path_of("keyring"));
    let mut keys = Vec::new();
    let mut is_literal = false;
    for text in texts {
        match secret::secret_text(text.expose(), env) {
            Ok((_, true)) if on_command_line => section.refuse(
                "keyring",
                "a key itself is never written on a command line, where every user of the machine \
                 can read it",
                "write `@file` or `$env://NAME`",
            ),
            Ok((key, literal)) => {
                is_literal |= literal;
                keys.extend(judge(section, key));
            }
            Err((reason, remedy)) => section.refuse("keyring", reason, remedy),
        }
    }
    if is_literal {
        warnings.push(format!(
            "{}: a key itself stands in the configuration; prefer `@file` or `$env://NAME`",
            section.path_of("keyring")
        ));
    }
    keys
}

/// A key as APISIX takes it, but none that everybody has.
fn judge(section: &Section<'_>, key: SecretText) -> Option<SecretText> {
    if PUBLISHED.contains(&key.expose()) {
        section.refuse(
            "keyring",
            "has a key that APISIX publishes as its default: whatever it sealed, anybody can read",
            "give APISIX a key of your own as the first of its keyring, write its objects again, and \
             replace private keys that others may have seen",
        );
        return None;
    }
    if !matches!(key.expose().len(), 16 | 32) {
        section.refuse(
            "keyring",
            "has a key that is neither 16 nor 32 bytes long",
            "copy `data_encryption.keyring` of the APISIX whose keys are to be taken",
        );
        return None;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::super::{Config, ConfigError};

    fn read(text: &str, sets: &[&str]) -> Result<Config, ConfigError> {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        let env = |name: &str| (name == "RING").then(|| "fedcba9876543210".to_owned());
        Config::from_text(text, &sets, &env)
    }

    #[test]
    fn keys_are_read_in_their_order_and_kept_from_view() {
        let text = "data_encryption: {keyring: ['0123456789abcdef', $env://RING]}";
        let config = read(text, &[]).unwrap();
        let keys: Vec<_> = config.keyring.iter().map(|key| key.expose()).collect();
        assert_eq!(keys, ["0123456789abcdef", "fedcba9876543210"]);
        assert_eq!(config.warnings.len(), 1, "one stands in the file");
        let shown = format!("{config:?} {}", config.describe());
        assert!(!shown.contains("0123456789abcdef") && !shown.contains("fedcba"));
        assert!(shown.contains("data_encryption.keyring"));
        assert!(read("", &[]).unwrap().keyring.is_empty());
        let set = "data_encryption.keyring=[$env://RING]";
        assert!(read("", &[set]).unwrap().warnings.is_empty());
    }

    #[test]
    fn keys_that_hide_nothing_or_are_none_are_refused_with_the_remedy() {
        for (entry, reason, remedy) in [
            (
                "edd1c9f0985e76a2",
                "publishes as its default",
                "a key of your own",
            ),
            (
                "qeddd145sfvddff3",
                "publishes as its default",
                "a key of your own",
            ),
            (
                "hunter2",
                "neither 16 nor 32 bytes",
                "copy `data_encryption.keyring`",
            ),
            ("$env://NOBODY", "the environment has no NOBODY", "set it"),
        ] {
            let text = format!("data_encryption: {{keyring: [{entry}]}}");
            let error = read(&text, &[]).unwrap_err();
            assert_eq!(error.problems[0].path, "data_encryption.keyring");
            let told = error.to_string();
            assert!(told.contains(reason) && told.contains(remedy), "{told}");
            assert!(
                !told.contains("hunter2") && !told.contains("qeddd"),
                "{told}"
            );
        }
        let set = "data_encryption.keyring=[0123456789abcdef]";
        let told = read("", &[set]).unwrap_err().to_string();
        assert!(told.contains("never written on a command line"), "{told}");
        assert!(!told.contains("0123456789abcdef"));
        let many = format!(
            "data_encryption: {{keyring: [{}]}}",
            vec!["$env://RING"; 17].join(", ")
        );
        assert!(
            read(&many, &[])
                .unwrap_err()
                .to_string()
                .contains("more than 16")
        );
    }
}
