//! A file with a private key, and the passphrase beside it.

use super::reader::{Reader, Section};
use super::secret::{Env, file_of, read_secret};
use super::{KeyFile, SecretText};

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
    let passphrase_at = section.path_of(passphrase);
    let secret = read_secret(section, passphrase, "passphrase", reader, env, warnings);
    // What was refused is not asked for again: it would be refused twice.
    let text = secret.as_ref().and_then(|_read| section.text(passphrase));
    let passphrase_file = text
        .map(SecretText::new)
        .and_then(|text| file_of(text.expose()));
    if secret.is_some() && path.is_none() {
        let remedy = format!("set `{}` to the key's file", section.path_of(key));
        reader.refuse(&passphrase_at, "is given without a key", remedy);
    }
    path.map(|path| KeyFile {
        path,
        passphrase: secret,
        passphrase_file,
    })
}
