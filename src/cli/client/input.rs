//! What `-f` reads: a file, a folder or standard input; JSON or YAML, one document or several.
//!
//! Where a document holds PEM or a credential, `@path` stands for the file of that name, seen from
//! the folder of the document; `@@` is a plain `@`.

use std::borrow::Cow;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use zeroize::Zeroizing;

use super::failed::Failed;
use super::yaml;
use crate::resource::json;

/// The members where `@path` is followed; `*` stands for each element of a list.
const FROM_FILES: [&str; 21] = [
    "/cert",
    "/key",
    "/certs/*",
    "/keys/*",
    "/client/ca",
    "/client/crl",
    "/tls/client_cert",
    "/tls/client_key",
    "/tls/ca_certs/*",
    "/tls/crl",
    "/upstream/tls/client_cert",
    "/upstream/tls/client_key",
    "/upstream/tls/ca_certs/*",
    "/upstream/tls/crl",
    "/token",
    "/secret_access_key",
    "/session_token",
    "/auth_config/private_key",
    "/auth/secret_id",
    "/auth/cert",
    "/auth/key",
];

/// A text with where it came from.
pub(super) struct Source {
    /// As errors name it.
    name: String,
    text: Zeroizing<String>,
    /// What `@path` is relative to.
    folder: PathBuf,
}

/// A document with what `@path` in it is relative to.
#[derive(Clone, Debug)]
pub(super) struct Document {
    /// An object, or whatever else stood there.
    pub(super) value: Value,
    folder: PathBuf,
}

/// Reads all documents of a file, of every `.json`, `.yaml` and `.yml` file of a folder in the
/// order of their names, or of standard input (`-`).
///
/// # Errors
/// What cannot be read or parsed, by name.
pub(super) fn read(file: &str) -> Result<Vec<Document>, Failed> {
    let mut documents = Vec::new();
    for source in sources(file)? {
        documents.extend(source.parse()?);
    }
    if documents.is_empty() {
        return Err(Failed::new(format!("{}: no document in it", shown(file))));
    }
    Ok(documents)
}

/// Reads a text as it is, of a file or of standard input (`-`).
///
/// # Errors
/// What cannot be read, by name.
pub(super) fn pem(file: &str) -> Result<Zeroizing<String>, Failed> {
    let mut sources = sources(file)?.into_iter();
    match (sources.next(), sources.next()) {
        (Some(source), None) => Ok(source.text),
        _ => Err(Failed::new(format!("{file}: is a folder"))),
    }
}

fn shown(file: &str) -> &str {
    if file == "-" { "standard input" } else { file }
}

fn sources(file: &str) -> Result<Vec<Source>, Failed> {
    let failed = |error: &std::io::Error| {
        Failed::new(format!("failed to read file: {}: {error}", shown(file)))
    };
    if file == "-" {
        let mut text = Zeroizing::new(String::new());
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(|error| failed(&error))?;
        return Ok(vec![Source {
            name: shown(file).to_owned(),
            text,
            folder: PathBuf::from("."),
        }]);
    }
    let path = Path::new(file);
    if !path.is_dir() {
        return Ok(vec![Source::open(path)?]);
    }
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(path).map_err(|error| failed(&error))? {
        let path = entry.map_err(|error| failed(&error))?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("json" | "yaml" | "yml")) && path.is_file() {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(Failed::new(format!(
            "failed to read file: {file}: no .json, .yaml or .yml file in this folder"
        )));
    }
    files.sort();
    files.iter().map(|path| Source::open(path)).collect()
}

impl Source {
    fn open(path: &Path) -> Result<Self, Failed> {
        let name = path.display().to_string();
        let text = fs::read_to_string(path)
            .map_err(|error| Failed::new(format!("failed to read file: {name}: {error}")))?;
        Ok(Self {
            name,
            text: text.into(),
            folder: path.parent().unwrap_or(Path::new("")).to_owned(),
        })
    }

    /// The documents of a text: JSON where it begins as JSON does, else YAML.
    fn parse(&self) -> Result<Vec<Document>, Failed> {
        let text = self.text.trim_start_matches('\u{feff}');
        let values = if text.trim_start().starts_with(['{', '[']) {
            let mended = mend(text);
            json::parse_several(mended.as_bytes())
                .map_err(|error| self.told("JSON", &error.to_string()))?
        } else {
            yaml::read(text).map_err(|error| self.told("YAML", &error))?
        };
        let mut flat = Vec::with_capacity(values.len());
        for value in values {
            if let Value::Array(list) = value {
                flat.extend(list);
            } else {
                flat.push(value);
            }
        }
        Ok(flat
            .into_iter()
            .map(|value| Document {
                value,
                folder: self.folder.clone(),
            })
            .collect())
    }

    fn told(&self, language: &str, error: &str) -> Failed {
        Failed::new(format!(
            "failed to parse {language} file: {}: {error}",
            self.name
        ))
    }
}

impl Document {
    /// Follows every `@path` of a resource.
    ///
    /// # Errors
    /// The member whose file cannot be read, and why.
    pub(super) fn follow(&self, value: &mut Value) -> Result<(), Failed> {
        for pointer in FROM_FILES {
            if let Some(list) = pointer.strip_suffix("/*") {
                let Some(Value::Array(list)) = value.pointer_mut(list) else {
                    continue;
                };
                for element in list {
                    self.replace(pointer, element)?;
                }
            } else if let Some(member) = value.pointer_mut(pointer) {
                self.replace(pointer, member)?;
            }
        }
        Ok(())
    }

    fn replace(&self, pointer: &str, member: &mut Value) -> Result<(), Failed> {
        let Value::String(text) = member else {
            return Ok(());
        };
        let Some(path) = text.strip_prefix('@') else {
            return Ok(());
        };
        if path.starts_with('@') {
            *text = path.to_owned();
            return Ok(());
        }
        let path = self.folder.join(path);
        let read = fs::read_to_string(&path).map_err(|error| {
            let member = pointer.trim_start_matches('/').replace('/', ".");
            let path = path.display();
            Failed::new(format!(
                "{member}: failed to read {path}: {error}; write @@ for a value that begins with @"
            ))
        })?;
        // A credential is a line; the end of PEM does not matter to anyone.
        let is_pem = read.contains("-----BEGIN ");
        *text = if is_pem {
            read
        } else {
            read.trim_end().to_owned()
        };
        Ok(())
    }
}

/// Line ends and tabs inside the texts of a JSON document, as JSON writes them: who replaces a
/// placeholder by PEM pastes lines.
fn mend(text: &str) -> Cow<'_, str> {
    let is_raw = |byte: u8| matches!(byte, b'\n' | b'\r' | b'\t');
    let mut mended = String::new();
    let mut copied = 0;
    let (mut is_inside, mut is_escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'"' => is_inside = !is_inside,
            b'\\' => is_escaped = is_inside,
            byte if is_inside && is_raw(byte) => {
                mended.push_str(text.get(copied..at).unwrap_or_default());
                copied = at + 1;
                mended.push_str(match byte {
                    b'\n' => "\\n",
                    b'\t' => "\\t",
                    _ => "\\r",
                });
            }
            _ => {}
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    mended.push_str(text.get(copied..).unwrap_or_default());
    Cow::Owned(mended)
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;
    use tempfile::TempDir;

    fn values(file: &Path) -> Result<Vec<Value>, String> {
        let documents = read(file.to_str().unwrap()).map_err(|failed| failed.to_string())?;
        Ok(documents.into_iter().map(|it| it.value).collect())
    }

    #[test]
    fn json_and_yaml_are_told_apart_and_several_documents_read() {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("x");
        let expected = vec![json!({"a": 1}), json!({"b": [1]})];
        for text in [
            "  {\"a\":1}\n{\"b\":[1]}",
            "[{\"a\":1},{\"b\":[1]}]",
            "a: 1\n---\nb: [1]\n",
            "- a: 1\n- b: [1]\n",
            "\u{feff}{\"a\":1} {\"b\":[1]}",
        ] {
            fs::write(&file, text).unwrap();
            assert_eq!(values(&file).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn folder_is_read_in_the_order_of_names() {
        let folder = TempDir::new().unwrap();
        for (name, text) in [
            ("b.yaml", "n: 2"),
            ("a.json", "{\"n\":1}"),
            ("c.txt", "n: 3"),
        ] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        assert_eq!(
            values(folder.path()).unwrap(),
            [json!({"n": 1}), json!({"n": 2})]
        );
        let empty = TempDir::new().unwrap();
        assert!(values(empty.path()).unwrap_err().contains("no .json"));
    }

    #[test]
    fn what_cannot_be_read_or_parsed_has_the_public_tools_words() {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("x");
        let missing = values(&file).unwrap_err();
        assert!(missing.starts_with("failed to read file: "), "{missing}");
        for (text, told) in [
            ("{\"a\":", "failed to parse JSON file: "),
            ("{\"a\":1,\"a\":2}", "failed to parse JSON file: "),
            ("a: [", "failed to parse YAML file: "),
            ("", "no document"),
        ] {
            fs::write(&file, text).unwrap();
            let error = values(&file).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn lines_pasted_into_a_text_of_json_are_kept() {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("x");
        fs::write(&file, "{\n\t\"cert\": \"-----BEGIN\nx\ty\\\"\\\\\n\"\n}\n").unwrap();
        assert_eq!(
            values(&file).unwrap(),
            [json!({"cert": "-----BEGIN\nx\ty\"\\\n"})]
        );
    }

    #[test]
    fn files_are_followed_where_pem_belongs_and_nowhere_else() {
        let folder = TempDir::new().unwrap();
        let pem = "-----BEGIN CERTIFICATE-----\n\n";
        fs::write(folder.path().join("c.pem"), pem).unwrap();
        fs::write(folder.path().join("token"), "s.123\n").unwrap();
        let document = Document {
            value: Value::Null,
            folder: folder.path().to_owned(),
        };
        let mut value = json!({
            "cert": "@c.pem", "key": "@@c.pem", "keys": ["@c.pem", "x"], "desc": "@c.pem",
            "client": {"ca": "@c.pem"}, "upstream": {"tls": {"ca_certs": ["@c.pem"]}},
            "token": "@token",
        });
        document.follow(&mut value).unwrap();
        assert_eq!(
            value,
            json!({
                "cert": pem, "key": "@c.pem", "keys": [pem, "x"], "desc": "@c.pem",
                "client": {"ca": pem}, "upstream": {"tls": {"ca_certs": [pem]}},
                "token": "s.123",
            })
        );
        let mut value = json!({"client": {"ca": "@missing.pem"}});
        let told = document.follow(&mut value).unwrap_err().to_string();
        assert!(told.starts_with("client.ca: failed to read ") && told.contains("@@"));
    }
}
