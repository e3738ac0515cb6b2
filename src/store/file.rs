//! A declarative file in place of a store: APISIX's standalone mode.
//!
//! What the file says is read whole or not at all: a section that is not known, an item that cannot
//! be named or a variable that is not set leaves nothing of it, so that nobody serves a half of what
//! was meant. Whether an item is any good is judged elsewhere: it has a name by then, and can be closed.

mod writing;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

pub use self::writing::write;
use crate::resource::{Document, Id, Kind, check_id, integer, json, shown};

/// What the last line of a YAML file says, so that one half written is not read.
const END: &str = "#END";

/// What a section's version is called behind its name.
const VERSION_SUFFIX: &str = "_conf_version";

/// What stands beside the sections: what a client calls the whole, and when it was put, in seconds
/// since the epoch. (APISIX, `/apisix/admin/configs`.)
pub const DIGEST: &str = "X-Digest";
/// See [`DIGEST`].
pub const LAST_MODIFIED: &str = "X-Last-Modified";

/// A number that clients give their items, to know them again. (APISIX, as above.)
pub const MODIFIED_INDEX: &str = "modifiedIndex";

/// Sections that APISIX has and this gateway does not; they may be there, empty.
pub const NOT_OFFERED: [&str; 9] = [
    "consumer_groups",
    "consumers",
    "credentials",
    "global_rules",
    "plugin_configs",
    "plugin_metadata",
    "plugins",
    "protos",
    "stream_routes",
];

/// Where the values of `${{NAME}}` come from.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// With `#END` as its last text.
    Yaml,
    /// A file whose name ends in `.json`.
    Json,
}

impl Form {
    /// The form that a file's name says.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let extension = path.extension().unwrap_or_default();
        if extension.eq_ignore_ascii_case("json") {
            Self::Json
        } else {
            Self::Yaml
        }
    }
}

/// An object that a file declares.
#[derive(Clone, PartialEq)]
pub struct Item {
    /// Its section.
    pub kind: Kind,
    /// Its `id`; `arr_` and its place from 1 on, where it has none. (APISIX, standalone mode.)
    pub id: Id,
    /// All that it says, keys in clear; but for [`MODIFIED_INDEX`].
    pub document: Document,
    /// Its [`MODIFIED_INDEX`].
    pub modified_index: Option<u64>,
}

/// All that a file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Declared {
    /// The items of all sections, in its order.
    pub items: Vec<Item>,
    /// What else it says.
    pub about: About,
}

/// What a file says beside its items.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// Versions of sections, by the section's name; one that is not there is at 0.
    pub versions: BTreeMap<String, u64>,
    /// [`DIGEST`], where it is known.
    pub digest: Option<String>,
    /// [`LAST_MODIFIED`], where it is known.
    pub last_modified: Option<i64>,
}

/// What is told of a file that is served, beside its items.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// As it says.
    pub about: About,
    /// [`Item::modified_index`] of each item that has one.
    pub indexes: HashMap<(Kind, Id), u64>,
}

impl Declared {
    /// What is told of it beside its items.
    #[must_use]
    pub fn note(&self) -> Note {
        let items = self.items.iter();
        let indexes = items.filter_map(|item| {
            let place = (item.kind, item.id.clone());
            item.modified_index.map(|index| (place, index))
        });
        Note {
            about: self.about.clone(),
            indexes: indexes.collect(),
        }
    }
}

impl About {
    /// The version of a section.
    #[must_use]
    pub fn version(&self, section: &str) -> u64 {
        self.versions.get(section).copied().unwrap_or_default()
    }
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.kind.plural(), self.id)
    }
}

/// Why nothing of a file is served. Sentences are for the operator; none quotes a value.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("could not read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// It was not written to its end.
    #[error("missing valid end flag in file: the last line of a YAML file is `#END`")]
    Unfinished,
    /// It is not YAML, or says something twice.
    #[error("it is not YAML, or has a key twice{place}")]
    NotYaml {
        /// Where the parser stopped; its words would quote the file.
        place: String,
    },
    /// It is not JSON, or says something twice.
    #[error("it is not JSON")]
    NotJson(#[source] serde_json::Error),
    /// It is a list or a text.
    #[error("it must be a mapping of sections such as `routes` and `ssls`")]
    NoSections,
    /// A word that is no section.
    #[error(
        "`{}` is no section; write ssls, upstreams, services, routes or secrets", shown(.0)
    )]
    NoSuchSection(String),
    /// A section of APISIX's that asks for what there is not.
    #[error("`{0}` is not available in this gateway; leave it out, or empty")]
    NotOffered(&'static str),
    /// A section that is no list.
    #[error("`{0}` must be a list")]
    NotAList(&'static str),
    /// A version that is no number.
    #[error("`{}` must be a whole number that is not negative", shown(.0))]
    NoVersion(String),
    /// A digest that is no text, or a time that is no number.
    #[error("`{0}` is not what a gateway writes there; leave it out")]
    NoNote(&'static str),
    /// An item that cannot be named.
    #[error("`{section}` item {place}: {text}")]
    Item {
        /// Its section.
        section: &'static str,
        /// Its place, from 1 on.
        place: usize,
        /// What is wrong.
        text: String,
    },
    /// Two items of one name.
    #[error("`{section}` item {place}: found duplicate id {} in {section}", shown(.id.as_str()))]
    Duplicate {
        /// Their section.
        section: &'static str,
        /// The place of the later one, from 1 on.
        place: usize,
        /// Their id.
        id: Id,
    },
    /// A variable that is not set and has no default.
    #[error("`{}` is not set; set it, or write `${{{{{}:=default}}}}`", shown(.0), shown(.0))]
    Unset(String),
}

/// Reads what a file declares.
///
/// # Errors
/// Every [`FileError`]: nothing of the file is to be served then.
pub fn read(path: &Path, env: Env<'_>) -> Result<Declared, FileError> {
    let text = std::fs::read(path).map_err(|source| FileError::Read {
        path: path.to_owned(),
        source,
    })?;
    let text = zeroize::Zeroizing::new(text);
    parse(&text, Form::of(path), env)
}

/// Reads what a text declares.
///
/// # Errors
/// As [`read`], but for [`FileError::Read`].
pub fn parse(text: &[u8], form: Form, env: Env<'_>) -> Result<Declared, FileError> {
    let mut sections = sections(text, form)?;
    for (_, value) in &mut sections {
        substitute(value, env)?;
    }
    declared(sections)
}

/// Whether a value says anywhere what stands for a variable in a file.
#[must_use]
pub fn has_variable(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains(OPEN),
        Value::Array(list) => list.iter().any(has_variable),
        Value::Object(members) => members
            .iter()
            .any(|(name, member)| name.contains(OPEN) || has_variable(member)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// The sections of a text as they are written.
fn sections(text: &[u8], form: Form) -> Result<Map<String, Value>, FileError> {
    let value = match form {
        Form::Yaml => {
            if !text.trim_ascii_end().ends_with(END.as_bytes()) {
                return Err(FileError::Unfinished);
            }
            let not_yaml = |error: serde_yaml_ng::Error| FileError::NotYaml {
                place: error.location().map_or_else(String::new, |place| {
                    format!(", at line {} column {}", place.line(), place.column())
                }),
            };
            let _: Option<json::Distinct> = serde_yaml_ng::from_slice(text).map_err(not_yaml)?;
            serde_yaml_ng::from_slice(text).map_err(not_yaml)?
        }
        Form::Json => json::parse(text).map_err(FileError::NotJson)?,
    };
    match value {
        Value::Object(sections) => Ok(sections),
        Value::Null => Ok(Map::new()),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(FileError::NoSections)
        }
    }
}

/// What sections declare, in their order.
///
/// # Errors
/// Each [`FileError`] from [`FileError::NoSuchSection`] on, but for `Unset`.
pub fn declared(sections: Map<String, Value>) -> Result<Declared, FileError> {
    let mut declared = Declared::default();
    let Declared { items, about } = &mut declared;
    for (section, value) in sections {
        if let Some(kind) = Kind::from_plural(&section) {
            add_section(kind, value, items)?;
        } else if let Some(known) = NOT_OFFERED.into_iter().find(|known| *known == section) {
            if !is_empty(&value) {
                return Err(FileError::NotOffered(known));
            }
        } else if let Some(of) = versioned(&section) {
            let version = whole(&value);
            let version = version.ok_or_else(|| FileError::NoVersion(section.clone()))?;
            about.versions.insert(of.to_owned(), version);
        } else if section == DIGEST {
            let digest = value.as_str().map(str::to_owned);
            about.digest = Some(digest.ok_or(FileError::NoNote(DIGEST))?);
        } else if section == LAST_MODIFIED {
            let time = value.as_i64();
            about.last_modified = Some(time.ok_or(FileError::NoNote(LAST_MODIFIED))?);
        } else {
            return Err(FileError::NoSuchSection(section));
        }
    }
    Ok(declared)
}

/// The section whose version a member is.
#[must_use]
pub fn versioned(member: &str) -> Option<&str> {
    let of = member.strip_suffix(VERSION_SUFFIX)?;
    let is_section = Kind::from_plural(of).is_some() || NOT_OFFERED.contains(&of);
    is_section.then_some(of)
}

/// A version, however it is written: `3`, `3.0`.
#[must_use]
pub fn whole(version: &Value) -> Option<u64> {
    u64::try_from(integer(version)?).ok()
}

/// What the version of a section is called.
#[must_use]
pub fn version_of(section: &str) -> String {
    format!("{section}{VERSION_SUFFIX}")
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn add_section(kind: Kind, value: Value, items: &mut Vec<Item>) -> Result<(), FileError> {
    let section = kind.plural();
    let list = match value {
        Value::Array(list) => list,
        empty if is_empty(&empty) => return Ok(()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            return Err(FileError::NotAList(section));
        }
    };
    let mut ids = HashSet::new();
    for (index, item) in list.into_iter().enumerate() {
        let place = index.saturating_add(1);
        let refuse = |text: String| FileError::Item {
            section,
            place,
            text,
        };
        let Value::Object(mut document) = item else {
            return Err(refuse("it must be a mapping".to_owned()));
        };
        let modified_index = match document.shift_remove(MODIFIED_INDEX) {
            None => None,
            Some(index) => Some(index.as_u64().ok_or_else(|| {
                refuse(format!(
                    "`{MODIFIED_INDEX}` must be a whole number that is not negative"
                ))
            })?),
        };
        // A secret's id names its manager: it cannot be made up.
        let is_free = kind != Kind::Secret && !document.contains_key("id");
        let made = is_free.then(|| format!("arr_{place}"));
        let id = check_id(kind, made.as_deref(), &document);
        let id = id.map_err(|faults| refuse(faults.to_string()))?;
        if !ids.insert(id.clone()) {
            return Err(FileError::Duplicate { section, place, id });
        }
        items.push(Item {
            kind,
            id,
            document,
            modified_index,
        });
    }
    Ok(())
}

/// Puts in the values of variables, in every text and every name of a member.
fn substitute(value: &mut Value, env: Env<'_>) -> Result<(), FileError> {
    match value {
        Value::String(text) => {
            if let Some(new) = fill(text, env)? {
                *value = scalar(text, new);
            }
        }
        Value::Array(list) => {
            for item in list {
                substitute(item, env)?;
            }
        }
        Value::Object(members) => {
            if members.keys().any(|name| name.contains(OPEN)) {
                let all = std::mem::take(members);
                for (name, member) in all {
                    let name = fill(&name, env)?.unwrap_or(name);
                    members.insert(name, member);
                }
            }
            for (_, member) in members {
                substitute(member, env)?;
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
    Ok(())
}

const OPEN: &str = "${{";
const CLOSE: &str = "}}";

/// A text with its variables filled in; `None` where it has none.
fn fill(text: &str, env: Env<'_>) -> Result<Option<String>, FileError> {
    let mut filled = String::new();
    let mut rest = text;
    let mut is_filled = false;
    while let Some((before, after)) = rest.split_once(OPEN) {
        let Some((inner, behind)) = after.split_once(CLOSE) else {
            break;
        };
        let (name, default) = match inner.split_once(":=") {
            Some((name, default)) => (name.trim(), Some(default.trim())),
            None => (inner.trim(), None),
        };
        let value = env(name).or_else(|| default.map(str::to_owned));
        let value = value.ok_or_else(|| FileError::Unset(name.to_owned()))?;
        filled.push_str(before);
        filled.push_str(&value);
        (rest, is_filled) = (behind, true);
    }
    filled.push_str(rest);
    Ok(is_filled.then_some(filled))
}

/// What a variable that is the whole of a value makes of it: a number or a truth value as such, as
/// if it had been written there.
fn scalar(text: &str, new: String) -> Value {
    let trimmed = text.trim();
    let is_whole =
        trimmed.starts_with(OPEN) && trimmed.find(CLOSE) == trimmed.len().checked_sub(CLOSE.len());
    let written = is_whole.then(|| serde_json::from_str(&new).ok()).flatten();
    match written {
        Some(value @ (Value::Number(_) | Value::Bool(_))) => value,
        _ => Value::String(new),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "PORT" => Some("1980".to_owned()),
            "HOST" => Some("127.0.0.1".to_owned()),
            "CERT" => Some("-----BEGIN\nline: 2\n".to_owned()),
            _ => None,
        }
    }

    fn yaml(text: &str) -> Result<Vec<(String, Value)>, String> {
        told(parse(text.as_bytes(), Form::Yaml, &env))
    }

    fn told(read: Result<Declared, FileError>) -> Result<Vec<(String, Value)>, String> {
        let items = read.map_err(|error| error.to_string())?.items;
        let items = items.into_iter();
        Ok(items
            .map(|item| (format!("{item:?}"), Value::Object(item.document)))
            .collect())
    }

    #[test]
    fn sections_are_read_in_both_forms() {
        let text = "ssls:\n- id: 1\n  sni: a.test\nroutes:\n- uri: /a\n- id: r\n  uri: /b\n\
                    secrets:\n- id: vault/1\n  uri: http://v\nconsumers: []\nplugins:\n\
                    routes_conf_version: 3\n#END \n\n";
        let expected = [
            ("ssls/1", json!({"id": 1, "sni": "a.test"})),
            ("routes/arr_1", json!({"uri": "/a"})),
            ("routes/r", json!({"id": "r", "uri": "/b"})),
            (
                "secrets/vault/1",
                json!({"id": "vault/1", "uri": "http://v"}),
            ),
        ];
        let expected: Vec<_> = expected.map(|(id, item)| (id.to_owned(), item)).into();
        assert_eq!(yaml(text).unwrap(), expected);
        let text = r#"{"ssls":[{"id":1,"sni":"a.test"}],"routes":[{"uri":"/a"},{"id":"r","uri":"/b"}],
            "secrets":[{"id":"vault/1","uri":"http://v"}],"upstreams":{}}"#;
        let read = told(parse(text.as_bytes(), Form::Json, &env));
        assert_eq!(read.unwrap(), expected);
        for empty in ["#END", "routes:\n#END", "---\n{}\n#END\n"] {
            assert_eq!(yaml(empty).unwrap(), [], "{empty}");
        }
        assert_eq!(Form::of(Path::new("/a/x.JSON")), Form::Json);
        assert_eq!(Form::of(Path::new("/a/x.yml")), Form::Yaml);
    }

    #[test]
    fn what_cannot_be_meant_leaves_nothing_of_the_file() {
        for (text, reason) in [
            ("routes: []\n", "missing valid end flag"),
            ("routes: []\n#END\n# more", "missing valid end flag"),
            ("routes: [\n#END", "it is not YAML, or has a key twice"),
            ("routes: []\nroutes: []\n#END", "has a key twice"),
            ("- routes\n#END", "must be a mapping"),
            ("route: []\n#END", "`route` is no section; write ssls"),
            (
                "consumers: [{username: x}]\n#END",
                "`consumers` is not available",
            ),
            ("routes: {uri: /a}\n#END", "`routes` must be a list"),
            ("routes: [7]\n#END", "`routes` item 1: it must be a mapping"),
            ("routes: [{uri: /a}, {id: a b}]\n#END", "`routes` item 2: "),
            ("secrets: [{uri: x}]\n#END", "item 1: missing secret id"),
            (
                "routes: [{id: 1}, {id: '1'}]\n#END",
                "item 2: found duplicate id 1 in routes",
            ),
            ("routes_conf_version: x\n#END", "must be a whole number"),
            ("routes: .inf\n#END", "it is not YAML"),
            ("routes: .nan\n#END", "it is not YAML"),
            ("routes_conf_version: -1\n#END", "must be a whole number"),
            (
                "X-Digest: 1\n#END",
                "`X-Digest` is not what a gateway writes",
            ),
            (
                "routes: [{uri: /a, modifiedIndex: x}]\n#END",
                "item 1: `modifiedIndex` must be a whole number",
            ),
            ("rules_conf_version: 1\n#END", "is no section"),
            ("routes: [{desc: '${{NONE}}'}]\n#END", "`NONE` is not set"),
        ] {
            let refused = yaml(text).unwrap_err();
            assert!(refused.contains(reason), "{text}: {refused}");
            assert!(!refused.contains("SECRET"), "{refused}");
        }
        let refused = told(parse(b"{\"routes\":[SECRET", Form::Json, &env)).unwrap_err();
        assert_eq!(refused, "it is not JSON");
    }

    #[test]
    fn variables_are_put_in_after_the_file_was_read() {
        let text = "routes:\n- id: r\n  uri: /${{HOST}}/x\n  desc: ${{ CERT }}\n  \
                    priority: ${{PORT}}\n  name: \"${{NONE:=a: b}}\"\n  upstream:\n    nodes:\n      \
                    \"${{HOST}}:${{PORT}}\": ${{WEIGHT:=1}}\n  labels: {a: '${{', b: '${{PORT}}x'}\n#END";
        let item = json!({
            "id": "r", "uri": "/127.0.0.1/x", "desc": "-----BEGIN\nline: 2\n", "priority": 1980,
            "name": "a: b", "upstream": {"nodes": {"127.0.0.1:1980": 1}},
            "labels": {"a": "${{", "b": "1980x"},
        });
        assert_eq!(yaml(text).unwrap(), [("routes/r".to_owned(), item)]);
    }
}
