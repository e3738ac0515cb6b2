//! Where values come from: the file, then `PORTCULLIS_SET`, then `--set`, later ones winning.

use std::net::SocketAddr;

use serde_yaml_ng::{Mapping, Value};

use super::error::{ConfigError, Problem};

/// The merged document, and who wrote which part of it.
///
/// No `Debug`: it may hold an admin key.
pub(super) struct Source {
    /// All values.
    pub(super) root: Mapping,
    file: Mapping,
    file_name: String,
    sets: Vec<(Vec<String>, Origin)>,
}

/// Who wrote a value that is not in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The file, or nobody.
    File,
    /// `PORTCULLIS_SET`.
    Environment,
    /// `--set`: visible to everyone who may list processes.
    CommandLine,
}

impl Source {
    /// Parses the file's text and lays the settings over it.
    pub(super) fn read(
        text: &str,
        file_name: String,
        sets: &[String],
        env_sets: Option<&str>,
    ) -> Result<Self, ConfigError> {
        let file = parse_file(text, &file_name)?;
        let mut source = Self {
            root: file.clone(),
            file,
            file_name,
            sets: Vec::new(),
        };
        let mut problems = Vec::new();
        let lines = env_sets.unwrap_or_default().lines().map(str::trim);
        let from_env = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let from_env = from_env.map(|line| (line, Origin::Environment));
        let from_args = sets.iter().map(|set| (set.as_str(), Origin::CommandLine));
        for (set, origin) in from_env.chain(from_args) {
            if let Err((path, reason, remedy)) = source.set(set, origin) {
                let origin = source.origin_name(origin);
                problems.push(Problem {
                    origin,
                    path,
                    reason,
                    remedy,
                });
            }
        }
        if problems.is_empty() {
            Ok(source)
        } else {
            Err(ConfigError { problems })
        }
    }

    fn set(&mut self, set: &str, origin: Origin) -> Result<(), (String, String, String)> {
        let refuse = |path: &str, reason: &str| {
            let remedy = "write `path.to.key=value`, the value as in YAML".to_owned();
            Err((path.to_owned(), reason.to_owned(), remedy))
        };
        // A text without `=` is not quoted: it may be a secret.
        let Some((path, text)) = set.split_once('=') else {
            return refuse("", "a setting has no `=`");
        };
        let path = path.trim();
        let parts: Vec<String> = path.split('.').map(str::to_owned).collect();
        if parts.iter().any(String::is_empty) {
            return refuse(path, "the path has an empty part");
        }
        let Some(value) = parse_value(text.trim()) else {
            return refuse(path, "the value is no YAML");
        };
        if !insert(&mut self.root, &parts, value) {
            return refuse(path, "a part of the path is neither a section nor a list");
        }
        self.sets.push((parts, origin));
        Ok(())
    }

    /// Who wrote the value at this path.
    pub(super) fn origin(&self, path: &str) -> Origin {
        let parts: Vec<&str> = path.split('.').collect();
        let sets = || self.sets.iter().rev();
        let starts = |long: &[&str], short: &[&str]| long.starts_with(short);
        let above = sets()
            .find(|(set, _)| starts(&parts, &set.iter().map(String::as_str).collect::<Vec<_>>()));
        if let Some((_, origin)) = above {
            return *origin;
        }
        if self.is_in_file(&parts) {
            return Origin::File;
        }
        let below = sets()
            .find(|(set, _)| starts(&set.iter().map(String::as_str).collect::<Vec<_>>(), &parts));
        below.map_or(Origin::File, |(_, origin)| *origin)
    }

    /// How the origin is called in a problem.
    pub(super) fn origin_name(&self, origin: Origin) -> String {
        match origin {
            Origin::File => self.file_name.clone(),
            Origin::Environment => "PORTCULLIS_SET".to_owned(),
            Origin::CommandLine => "--set".to_owned(),
        }
    }

    fn is_in_file(&self, parts: &[&str]) -> bool {
        let mut parts = parts.iter();
        let mut value = parts.next().and_then(|part| self.file.get(*part));
        for part in parts {
            value = match value {
                Some(Value::Sequence(items)) => {
                    part.parse().ok().and_then(|index: usize| items.get(index))
                }
                Some(other) => other.get(*part),
                None => None,
            };
        }
        value.is_some()
    }
}

fn parse_file(text: &str, file_name: &str) -> Result<Mapping, ConfigError> {
    let refuse = |reason: String, remedy: &str| {
        Err(ConfigError::from(Problem {
            origin: file_name.to_owned(),
            path: String::new(),
            reason,
            remedy: remedy.to_owned(),
        }))
    };
    match serde_yaml_ng::from_str(text) {
        Ok(Value::Mapping(root)) => Ok(root),
        Ok(Value::Null) => Ok(Mapping::new()),
        Ok(_) => refuse(
            "the file holds no keys".to_owned(),
            "write `key: value` lines",
        ),
        Err(e) => refuse(
            format!("not YAML: {e}"),
            "values that begin with `@`, `*` or `[::]` need quotes",
        ),
    }
}

/// A setting's value. What YAML would refuse or misread but every operator means as a text
/// (`@file`, `*:9080`, `[::]:9080`) is a text.
fn parse_value(text: &str) -> Option<Value> {
    if text.starts_with(['@', '*']) || text.parse::<SocketAddr>().is_ok() {
        return Some(Value::String(text.to_owned()));
    }
    serde_yaml_ng::from_str(text).ok()
}

/// Puts the value in its place, making sections on the way. A number addresses an item of a list;
/// the number after the last one appends. False where the path leads through a plain value.
fn insert(root: &mut Mapping, parts: &[String], value: Value) -> bool {
    let Some((first, rest)) = parts.split_first() else {
        return false;
    };
    insert_into(
        root.entry(Value::String(first.clone()))
            .or_insert(Value::Null),
        rest,
        value,
    )
}

fn insert_into(slot: &mut Value, parts: &[String], value: Value) -> bool {
    let Some((first, rest)) = parts.split_first() else {
        *slot = value;
        return true;
    };
    let index: Option<usize> = first.parse().ok();
    if slot.is_null() {
        let list = index == Some(0);
        *slot = if list {
            Value::Sequence(Vec::new())
        } else {
            Value::Mapping(Mapping::new())
        };
    }
    if let Value::Mapping(section) = slot {
        return insert(section, parts, value);
    }
    let (Value::Sequence(items), Some(index)) = (slot, index) else {
        return false;
    };
    if index == items.len() {
        items.push(Value::Null);
    }
    items
        .get_mut(index)
        .is_some_and(|item| insert_into(item, rest, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, sets: &[&str], env: Option<&str>) -> Result<Source, ConfigError> {
        let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
        Source::read(text, "file".to_owned(), &sets, env)
    }

    fn shown(source: &Source) -> String {
        serde_yaml_ng::to_string(&source.root)
            .unwrap()
            .trim_end()
            .replace('\n', "|")
    }

    #[test]
    fn command_line_wins_over_environment_and_environment_over_file() {
        let source = read(
            "a: 1\nb: 1\nc: 1",
            &["a=3"],
            Some("a=2\n\n# note\n b = 2 \n"),
        )
        .unwrap();
        assert_eq!(shown(&source), "a: 3|b: 2|c: 1");
        assert_eq!(source.origin("a"), Origin::CommandLine);
        assert_eq!(source.origin("b"), Origin::Environment);
        assert_eq!(source.origin("c"), Origin::File);
    }

    #[test]
    fn setting_reaches_into_sections_and_lists() {
        let source = read(
            "l: [{n: 1}]",
            &["a.b.c=[1, x]", "l.0.n=2", "l.1.n=3", "m.0=y"],
            None,
        );
        assert_eq!(
            shown(&source.unwrap()),
            "l:|- n: 2|- n: 3|a:|  b:|    c:|    - 1|    - x|m:|- y"
        );
    }

    #[test]
    fn text_that_yaml_misreads_is_a_text_in_a_setting() {
        for text in ["@/run/key", "*:9080", "[::]:9080", "127.0.0.1:0"] {
            assert_eq!(parse_value(text), Some(Value::String(text.to_owned())));
        }
        assert_eq!(parse_value("{a"), None);
    }

    #[test]
    fn setting_that_leads_nowhere_is_refused() {
        for set in ["a", "=1", "a..b=1", "a={", "x.y=1", "l.5=1", "l.y=1"] {
            let error = read("x: 1\nl: []", &[set], None).err().unwrap();
            assert_eq!(error.problems.len(), 1, "{set}");
            assert_eq!(error.problems[0].origin, "--set");
        }
        assert!(read("x: 1\nl: []", &["l.0=1", "x=2"], None).is_ok());
    }

    #[test]
    fn file_that_is_no_mapping_is_refused() {
        for text in ["- a", "text", "a: {", "a: 1\na: 2", "key: @file"] {
            assert_eq!(
                read(text, &[], None).err().unwrap().problems[0].origin,
                "file",
                "{text}"
            );
        }
        for text in ["", "# nothing\n", "a: 1"] {
            assert!(read(text, &[], None).is_ok(), "{text}");
        }
    }

    #[test]
    fn origin_of_a_part_is_that_of_the_setting_above_or_below() {
        let source = read("f: {g: 1}", &["a.b=[{c: 1}]"], None).unwrap();
        assert_eq!(source.origin("a.b.0.c"), Origin::CommandLine);
        assert_eq!(source.origin("a"), Origin::CommandLine);
        assert_eq!(source.origin("f.g"), Origin::File);
        assert_eq!(source.origin("nowhere"), Origin::File);
    }
}
