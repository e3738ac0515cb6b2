//! Secret values of the configuration: how they are written, read and kept from view.

use std::fmt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::reader::{Reader, Section};

/// A secret text. Shows as `[secret]`, is wiped when dropped.
#[derive(Clone)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Takes the text over.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself. For comparing and hashing, never for showing.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// What an admin key is compared with.
#[derive(Clone, Debug)]
pub enum KeyMaterial {
    /// The key itself: from `@file`, `$env://NAME` or the configuration file.
    Plain(SecretText),
    /// `sha256:<hex>`: the SHA-256 of the key.
    Sha256([u8; 32]),
}

/// Where the key that seals private keys at rest comes from.
#[derive(Clone, Debug)]
pub enum Kek {
    /// A file that must exist.
    File(PathBuf),
    /// The value of an environment variable (`$env://NAME`).
    Value(SecretText),
    /// None is named: it is searched where custody looks for it, first in this directory of
    /// systemd credentials.
    Search(Option<PathBuf>),
}

/// Looks an environment variable up.
pub(super) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Why a secret value could not be read: reason and remedy.
pub(super) type Refusal = (String, String);

/// Reads an admin key as written: `@file`, `$env://NAME`, `sha256:<hex>` or the key itself.
///
/// The flag says whether the key itself was written down.
pub(super) fn key_material(text: &str, env: Env<'_>) -> Result<(KeyMaterial, bool), Refusal> {
    if let Some(hex) = text.strip_prefix("sha256:") {
        let digest = parse_hex(hex).ok_or_else(|| {
            (
                "the part after `sha256:` is not 64 hexadecimal digits".to_owned(),
                "make it with `printf %s KEY | sha256sum`".to_owned(),
            )
        })?;
        return Ok((KeyMaterial::Sha256(digest), false));
    }
    let (secret, is_literal) = secret_text(text, env)?;
    Ok((KeyMaterial::Plain(secret), is_literal))
}

/// Reads a secret text as written: `@file`, `$env://NAME` or the text itself.
///
/// The flag says whether the text itself was written down.
pub(super) fn secret_text(text: &str, env: Env<'_>) -> Result<(SecretText, bool), Refusal> {
    if let Some(path) = text.strip_prefix('@') {
        Ok((read_file(Path::new(path))?, false))
    } else if let Some(reference) = text.strip_prefix("$env://") {
        Ok((read_env(reference, env)?, false))
    } else if text.starts_with("$secret://") {
        Err(no_manager())
    } else {
        Ok((SecretText::new(text.to_owned()), true))
    }
}

/// The file that a secret text is read from, where it is written as `@file`.
pub(super) fn file_of(text: &str) -> Option<PathBuf> {
    text.strip_prefix('@').map(PathBuf::from)
}

/// The secret of a key, as [`secret_text`] reads it, never from a command line; `what` names it in
/// sentences.
pub(super) fn read_secret(
    section: &Section<'_>,
    key: &'static str,
    what: &str,
    reader: &Reader,
    env: Env<'_>,
    warnings: &mut Vec<String>,
) -> Option<SecretText> {
    let text = section.text(key).map(SecretText::new)?;
    let path = section.path_of(key);
    match secret_text(text.expose(), env) {
        Ok((_, true)) if reader.is_on_command_line(&path) => {
            let reason = format!(
                "a {what} itself is never written on a command line, where every user of the \
                 machine can read it"
            );
            section.refuse(key, reason, "write `@file` or `$env://NAME`");
            None
        }
        Ok((secret, is_literal)) => {
            if is_literal {
                warnings.push(format!(
                    "{path}: the {what} itself stands in the configuration; prefer `@file` or \
                     `$env://NAME`"
                ));
            }
            Some(secret)
        }
        Err((reason, remedy)) => {
            section.refuse(key, reason, remedy);
            None
        }
    }
}

/// Reads `kek` as written: a path (also as `@path`), or `$env://NAME`.
pub(super) fn kek(text: &str, env: Env<'_>) -> Result<Kek, Refusal> {
    if let Some(reference) = text.strip_prefix("$env://") {
        return read_env(reference, env).map(Kek::Value);
    }
    if text.starts_with("$secret://") {
        return Err(no_manager());
    }
    Ok(Kek::File(PathBuf::from(
        text.strip_prefix('@').unwrap_or(text),
    )))
}

fn no_manager() -> Refusal {
    (
        "a secret manager cannot be asked before the gateway has started".to_owned(),
        "use a file or `$env://NAME`".to_owned(),
    )
}

/// The file's text without the line end that editors add.
fn read_file(path: &Path) -> Result<SecretText, Refusal> {
    let text = std::fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|e| {
            (
                format!("{} cannot be read: {e}", path.display()),
                "the file holds the key and nothing else".to_owned(),
            )
        })?;
    non_empty(
        text.trim_end_matches(['\r', '\n']),
        &path.display().to_string(),
    )
}

/// `NAME`, or `NAME/key` for a member of a JSON object.
fn read_env(reference: &str, env: Env<'_>) -> Result<SecretText, Refusal> {
    let (name, member) = match reference.split_once('/') {
        Some((name, member)) => (name, Some(member)),
        None => (reference, None),
    };
    let value = env(name).map(Zeroizing::new).ok_or_else(|| {
        (
            format!("the environment has no {name}"),
            "set it for the process, or use `@file`".to_owned(),
        )
    })?;
    let Some(member) = member else {
        return non_empty(&value, name);
    };
    // The parser's own message is not kept: it may quote the secret.
    let object: Option<serde_json::Value> = serde_json::from_str(&value).ok();
    let text = object
        .as_ref()
        .and_then(|object| object.get(member)?.as_str());
    match text {
        Some(text) => non_empty(text, reference),
        None => Err((
            format!("{name} is no JSON object with a text `{member}`"),
            "correct the reference".to_owned(),
        )),
    }
}

fn non_empty(text: &str, place: &str) -> Result<SecretText, Refusal> {
    if text.is_empty() {
        return Err((
            format!("{place} is empty"),
            "an empty key opens nothing".to_owned(),
        ));
    }
    Ok(SecretText::new(text.to_owned()))
}

fn parse_hex(hex: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = hex
        .chars()
        .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(high << 4 | low),
            _ => None,
        })
        .collect::<Option<_>>()?;
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "KEY" => Some("from-env".to_owned()),
            "OBJECT" => Some(r#"{"key":"from-object"}"#.to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    fn plain(text: &str) -> Result<String, String> {
        match key_material(text, &env) {
            Ok((KeyMaterial::Plain(secret), _)) => Ok(secret.expose().to_owned()),
            Ok((KeyMaterial::Sha256(_), _)) => Err("a digest".to_owned()),
            Err((reason, _)) => Err(reason),
        }
    }

    #[test]
    fn key_is_read_from_each_place() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        std::fs::write(&file, "from-file\n").unwrap();
        assert_eq!(plain(&format!("@{}", file.display())).unwrap(), "from-file");
        assert_eq!(plain("$env://KEY").unwrap(), "from-env");
        assert_eq!(plain("$env://OBJECT/key").unwrap(), "from-object");
        assert_eq!(plain("itself").unwrap(), "itself");
        let hex = "00ff".repeat(16);
        let (material, is_literal) = key_material(&format!("sha256:{hex}"), &env).unwrap();
        assert!(matches!(material, KeyMaterial::Sha256([0, 255, ..])) && !is_literal);
    }

    #[test]
    fn key_that_cannot_be_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("key");
        std::fs::write(&empty, "\n").unwrap();
        for text in [
            "@/no/such/file".to_owned(),
            format!("@{}", empty.display()),
            "$env://NOBODY".to_owned(),
            "$env://EMPTY".to_owned(),
            "$env://KEY/member".to_owned(),
            "$env://OBJECT/other".to_owned(),
            "$secret://vault/a/b".to_owned(),
        ] {
            let reason = plain(&text).unwrap_err();
            assert!(!reason.contains("from-"), "{reason}");
        }
        assert!(key_material("sha256:00", &env).is_err());
        assert!(key_material(&format!("sha256:{}", "zz".repeat(32)), &env).is_err());
    }

    #[test]
    fn debug_shows_no_secret() {
        let material = KeyMaterial::Plain(SecretText::new("hunter2".to_owned()));
        assert_eq!(format!("{material:?}"), "Plain([secret])");
    }
}
