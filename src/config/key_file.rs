//! A file with a private key, and the passphrase beside it.

use super::KeyFile;
use super::reader::{Reader, Section};
use super::secret::{self, Env, SecretText};

/// A private key's file and, in the key beside it, its passphrase.
pub(super) fn read_key_file(
    section: &Section<'_>,
    key: &'static str,
    passphrase: &'static str,
    reader: &Reader,
    env: Env<'_>,
    warnings: &mut Vec<String>,
) -> Option<KeyFile> {
    let path = section.path(key);
    let text = section.text(passphrase).map(SecretText::new);
    let passphrase_at = section.path_of(passphrase);
    let passphrase_file = text
        .as_ref()
        .and_then(|text| secret::file_of(text.expose()));
    let passphrase = text.and_then(|text| match secret::secret_text(text.expose(), env) {
        Ok((_, true)) if reader.is_on_command_line(&passphrase_at) => {
            let reason = "a passphrase itself is never written on a command line, where every user \
                          of the machine can read it";
            section.refuse(passphrase, reason, "write `@file` or `$env://NAME`");
            None
        }
        Ok((secret, is_literal)) => {
            if is_literal {
                warnings.push(format!(
                    "{passphrase_at}: the passphrase itself stands in the configuration; prefer \
                     `@file` or `$env://NAME`"
                ));
            }
            Some(secret)
        }
        Err((reason, remedy)) => {
            section.refuse(passphrase, reason, remedy);
            None
        }
    });
    if passphrase.is_some() && path.is_none() {
        let remedy = format!("set `{}` to the key's file", section.path_of(key));
        reader.refuse(&passphrase_at, "is given without a key", remedy);
    }
    path.map(|path| KeyFile {
        path,
        passphrase,
        passphrase_file,
    })
}
