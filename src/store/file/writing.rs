//! A declared configuration as the text of its file, and how it gets there.

use std::collections::HashSet;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use serde::ser::{Serialize, SerializeMap as _, Serializer};

use super::{About, DIGEST, END, Form, Item, LAST_MODIFIED, MODIFIED_INDEX, parse, version_of};
use crate::resource::Kind;

/// Writes what is declared, so that after a crash there is all of it or what was there before. A new
/// file is for its owner only: it holds keys in clear.
///
/// # Errors
/// The system's; or that it would not be read again as it is.
pub fn write(path: &Path, about: &About, items: &[Item]) -> std::io::Result<()> {
    let form = Form::of(path);
    let text = zeroize::Zeroizing::new(text(about, items, form)?);
    let names = |items: &[Item]| {
        let named = items.iter().map(|item| (item.kind, item.id.clone()));
        named.collect::<HashSet<_>>()
    };
    let read = parse(&text, form, &|_| None).map_err(std::io::Error::other)?;
    if read.about != *about || names(&read.items) != names(items) {
        return Err(std::io::Error::other("it would not be read again as it is"));
    }
    // A link stays one: what it leads to is written.
    let path = std::fs::canonicalize(path).unwrap_or_else(|_no_file| path.to_owned());
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let mode = std::fs::metadata(&path).map_or(0o600, |found| found.permissions().mode() & 0o777);
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&draft)?;
    file.write_all(&text)?;
    file.sync_all()?;
    std::fs::rename(&draft, &path)?;
    std::fs::File::open(folder)?.sync_all()
}

/// The text of a file. JSON is YAML too.
fn text(about: &About, items: &[Item], form: Form) -> serde_json::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(&Whole { about, items })?;
    text.push(b'\n');
    if form == Form::Yaml {
        text = escape(text);
        text.extend_from_slice(END.as_bytes());
        text.push(b'\n');
    }
    Ok(text)
}

/// Escapes what JSON has as it is in its texts and YAML does not, or takes for the end of a line.
/// (YAML 1.2, "Character Set".)
fn escape(json: Vec<u8>) -> Vec<u8> {
    let odd = ['\u{2028}', '\u{2029}', '\u{feff}', '\u{fffe}', '\u{ffff}'];
    let is_odd = |c: char| matches!(c, '\u{7f}'..='\u{9f}') || odd.contains(&c);
    match std::str::from_utf8(&json) {
        Ok(text) if text.contains(is_odd) => {
            let mut escaped = String::with_capacity(json.len() * 2);
            for c in text.chars() {
                if is_odd(c) {
                    escaped.push_str(&format!("\\u{:04x}", u32::from(c)));
                } else {
                    escaped.push(c);
                }
            }
            escaped.into_bytes()
        }
        Ok(_) | Err(_) => json,
    }
}

/// A file as it is written.
struct Whole<'a> {
    about: &'a About,
    items: &'a [Item],
}

/// A section of it.
struct Section<'a> {
    kind: Kind,
    items: &'a [Item],
}

impl Serialize for Whole<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Self { about, items } = self;
        let mut map = to.serialize_map(None)?;
        for kind in Kind::ALL {
            if items.iter().any(|item| item.kind == kind) {
                map.serialize_entry(kind.plural(), &Section { kind, items })?;
            }
        }
        for (section, version) in &about.versions {
            map.serialize_entry(&version_of(section), version)?;
        }
        if let Some(digest) = &about.digest {
            map.serialize_entry(DIGEST, digest)?;
        }
        if let Some(time) = about.last_modified {
            map.serialize_entry(LAST_MODIFIED, &time)?;
        }
        map.end()
    }
}

impl Serialize for Section<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.items.iter().filter(|item| item.kind == self.kind))
    }
}

impl Serialize for Item {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        for (name, value) in &self.document {
            map.serialize_entry(name, value)?;
        }
        if let Some(index) = self.modified_index {
            map.serialize_entry(MODIFIED_INDEX, &index)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::super::{has_variable, read};
    use super::*;

    #[test]
    fn what_is_written_is_read_again_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let item = |id: &str, document: Value, modified_index| Item {
            kind: Kind::Route,
            id: id.parse().unwrap(),
            document: serde_json::from_value(document).unwrap(),
            modified_index,
        };
        let odd = "- a: b # c\n\u{7f}\u{85}\u{feff}\u{1f600}\"\\\t{}'";
        let items = [
            item(
                "1",
                json!({"id": "1", "uri": "/a", "desc": odd, "priority": 5}),
                Some(7),
            ),
            item(
                "b",
                json!({"id": "b", "uri": "/b", "timeout": {"read": 0.5}}),
                None,
            ),
        ];
        let about = About {
            versions: BTreeMap::from([("routes".to_owned(), 3), ("consumers".to_owned(), 1)]),
            digest: Some("d: #1".to_owned()),
            last_modified: Some(1_700_000_000),
        };
        for name in ["f.yaml", "f.json"] {
            let path = dir.path().join(name);
            write(&path, &about, &items).unwrap();
            let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&path), 0o600);
            let declared = read(&path, &|_| None).unwrap();
            assert_eq!(
                (&declared.items[..], &declared.about),
                (&items[..], &about),
                "{name}"
            );
            // Who may read it is who might before.
            let group = std::fs::Permissions::from_mode(0o640);
            std::fs::set_permissions(&path, group).unwrap();
            write(&path, &about, &[]).unwrap();
            assert_eq!(
                (mode(&path), read(&path, &|_| None).unwrap().items.len()),
                (0o640, 0)
            );
            assert_eq!(dir.path().read_dir().unwrap().count(), 1);
            std::fs::remove_file(&path).unwrap();
        }
        let (real, link) = (dir.path().join("real"), dir.path().join("link.json"));
        std::os::unix::fs::symlink(&real, &link).unwrap();
        std::fs::write(&real, "").unwrap();
        write(&link, &about, &items).unwrap();
        assert!(link.is_symlink() && !real.is_symlink());
        assert_eq!(read(&link, &|_| None).unwrap().items, items);
        std::fs::remove_file(&link).unwrap();
        std::fs::remove_file(&real).unwrap();
        let twice = [items[1].clone(), items[1].clone()];
        assert!(write(&dir.path().join("f.yaml"), &about, &twice).is_err());
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
        assert!(has_variable(&json!({"a": ["${{X}}"]})) && has_variable(&json!({"${{": 1})));
        assert!(!has_variable(&json!({"a": ["${X}"]})));
    }
}
