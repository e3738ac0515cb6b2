//! Walks the merged document: types, ranges, choices and unknown keys, every problem collected.
//!
//! Knows no key by name; those are in `load`.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde_yaml_ng::{Mapping, Value};

use super::error::Problem;
use super::listen::ListenAddr;
use super::source::{Origin, Source};

/// Collects the problems of one document.
pub(super) struct Reader {
    source: Source,
    problems: RefCell<Vec<Problem>>,
}

impl Reader {
    pub(super) const fn new(source: Source) -> Self {
        Self {
            source,
            problems: RefCell::new(Vec::new()),
        }
    }

    /// The document's top level.
    pub(super) fn root(&self) -> Section<'_> {
        Section::new(self, String::new(), Some(&self.source.root))
    }

    /// Notes a problem with the value at `path`.
    pub(super) fn refuse(&self, path: &str, reason: impl Into<String>, remedy: impl Into<String>) {
        let origin = self.source.origin_name(self.source.origin(path));
        let (path, reason, remedy) = (path.to_owned(), reason.into(), remedy.into());
        self.problems.borrow_mut().push(Problem {
            origin,
            path,
            reason,
            remedy,
        });
    }

    /// Whether the value at `path` was written on the command line.
    pub(super) fn is_on_command_line(&self, path: &str) -> bool {
        self.source.origin(path) == Origin::CommandLine
    }

    /// All problems noted.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }
}

/// One mapping of the document; an absent one gives defaults.
pub(super) struct Section<'a> {
    reader: &'a Reader,
    path: String,
    map: Option<&'a Mapping>,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    fn new(reader: &'a Reader, path: String, map: Option<&'a Mapping>) -> Self {
        Self {
            reader,
            path,
            map,
            known: RefCell::new(Vec::new()),
        }
    }

    /// The dotted path of one of its keys.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Notes a problem with the value of `key`.
    pub(super) fn refuse(&self, key: &str, reason: impl Into<String>, remedy: impl Into<String>) {
        self.reader.refuse(&self.path_of(key), reason, remedy);
    }

    /// Whether the key is given at all.
    pub(super) fn has(&self, key: &str) -> bool {
        self.map.is_some_and(|map| map.contains_key(key))
    }

    fn value(&self, key: &'static str) -> Option<&'a Value> {
        self.known.borrow_mut().push(key);
        let value = self.map?.get(key)?;
        if value.is_null() {
            // A template that filled nothing in must not switch a check off in silence.
            self.refuse(
                key,
                "has no value",
                "give it one, or remove the line to have the default",
            );
            return None;
        }
        Some(value)
    }

    /// The section under `key`; an empty one is an absent one.
    pub(super) fn section(&self, key: &'static str) -> Self {
        self.known.borrow_mut().push(key);
        let value = self
            .map
            .and_then(|map| map.get(key))
            .filter(|value| !value.is_null());
        let map = value.and_then(Value::as_mapping);
        if let (Some(value), None) = (value, map) {
            let reason = format!("is {}, not a section", kind(value));
            self.refuse(key, reason, "write its keys on indented lines below it");
        }
        Section::new(self.reader, self.path_of(key), map)
    }

    /// A list of sections.
    pub(super) fn sections(&self, key: &'static str) -> Vec<Self> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let Value::Sequence(items) = value else {
            let reason = format!("is {}, not a list", kind(value));
            self.refuse(key, reason, "begin each entry with `- `");
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = format!("{}.{index}", self.path_of(key));
            if let Value::Mapping(map) = item {
                sections.push(Self::new(self.reader, path, Some(map)));
            } else {
                let reason = format!("is {}, not a section", kind(item));
                let remedy = "write `key: value` lines in each entry";
                self.reader.refuse(&path, reason, remedy);
            }
        }
        sections
    }

    /// A text that is not empty.
    pub(super) fn text(&self, key: &'static str) -> Option<String> {
        let value = self.value(key)?;
        let Value::String(text) = value else {
            self.refuse(
                key,
                format!("is {}, not a text", kind(value)),
                "put it in quotes",
            );
            return None;
        };
        if text.is_empty() {
            self.refuse(
                key,
                "is empty",
                "give it a value, or remove it to have the default",
            );
            return None;
        }
        Some(text.clone())
    }

    /// A path.
    pub(super) fn path(&self, key: &'static str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    /// True or false; absent is false.
    pub(super) fn is_set(&self, key: &'static str) -> bool {
        match self.value(key) {
            None => false,
            Some(Value::Bool(flag)) => *flag,
            Some(other) => {
                self.refuse(
                    key,
                    format!("is {}", shown(other)),
                    "write `true` or `false`",
                );
                false
            }
        }
    }

    /// One of several words. YAML's `false` and `true` stand for `off` and `on`.
    pub(super) fn choice<T: Copy>(
        &self,
        key: &'static str,
        default: T,
        choices: &[(&str, T)],
    ) -> T {
        let Some(value) = self.value(key) else {
            return default;
        };
        let word = word(value);
        match choices
            .iter()
            .find(|(name, _)| Some(*name) == word.as_deref())
        {
            Some((_, choice)) => *choice,
            None => {
                let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
                self.refuse(key, format!("is {}", shown(value)), one_of(&names));
                default
            }
        }
    }

    /// A text, with YAML's `false` standing for `off`.
    pub(super) fn text_or_off(&self, key: &'static str) -> Option<String> {
        if self.map.and_then(|map| map.get(key)) == Some(&Value::Bool(false)) {
            self.known.borrow_mut().push(key);
            return Some("off".to_owned());
        }
        self.text(key)
    }

    /// Whether the value is a list.
    pub(super) fn is_list(&self, key: &str) -> bool {
        self.map
            .and_then(|map| map.get(key))
            .is_some_and(Value::is_sequence)
    }

    /// The word under `key`, for choices whose refusals differ; `None` also where it is no word.
    pub(super) fn word(&self, key: &'static str) -> Option<String> {
        let value = self.value(key)?;
        let word = word(value);
        if word.is_none() {
            self.refuse(
                key,
                format!("is {}, not a word", kind(value)),
                "write one word",
            );
        }
        word
    }

    /// A whole number within the range.
    pub(super) fn count<N>(&self, key: &'static str, default: N, range: RangeInclusive<N>) -> N
    where
        N: Copy + PartialOrd + TryFrom<u64> + std::fmt::Display,
    {
        let Some(value) = self.value(key) else {
            return default;
        };
        let number = value.as_u64().and_then(|number| N::try_from(number).ok());
        match number.filter(|number| range.contains(number)) {
            Some(number) => number,
            None => {
                let remedy = format!(
                    "write a whole number from {} to {}",
                    range.start(),
                    range.end()
                );
                self.refuse(key, format!("is {}", shown(value)), remedy);
                default
            }
        }
    }

    /// A duration: `30s`, `500ms`, `2m`, `1h`, or a number of seconds.
    pub(super) fn duration(
        &self,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(value) = self.value(key) else {
            return default;
        };
        match parse_duration(value).filter(|duration| range.contains(duration)) {
            Some(duration) => duration,
            None => {
                let remedy = format!(
                    "write a duration such as `30s`, `500ms` or `2m`, from {:?} to {:?}",
                    range.start(),
                    range.end()
                );
                self.refuse(key, format!("is {}", shown(value)), remedy);
                default
            }
        }
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &'static str) -> Option<Vec<String>> {
        let value = self.value(key)?;
        let Value::Sequence(items) = value else {
            self.refuse(
                key,
                format!("is {}, not a list", kind(value)),
                "write `[a, b]`",
            );
            return None;
        };
        let texts: Option<Vec<String>> = items
            .iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect();
        if texts.is_none() {
            self.refuse(key, "has an entry that is no text", "put it in quotes");
        }
        texts
    }

    /// Addresses to listen on: a list, one text, or a port.
    pub(super) fn listen(&self, key: &'static str, default: Vec<ListenAddr>) -> Vec<ListenAddr> {
        let Some(value) = self.value(key) else {
            return default;
        };
        let one = std::slice::from_ref(value);
        let items = if let Value::Sequence(items) = value {
            items.as_slice()
        } else {
            one
        };
        let mut addrs = Vec::new();
        for item in items {
            match word(item).and_then(|text| ListenAddr::parse(&text)) {
                Some(parsed) => addrs.extend(parsed),
                None => self.refuse(
                    key,
                    format!("{} is no address", shown(item)),
                    "write `address:port` with an IP address (IPv6 as \"[::1]:9080\"), `*:port` or a port; `[]` switches it off",
                ),
            }
        }
        addrs
    }

    /// Ends the section: keys that nobody asked for are unknown.
    pub(super) fn close(&self) {
        let known = self.known.borrow();
        for key in self.map.into_iter().flat_map(Mapping::keys) {
            let Some(name) = key.as_str() else {
                let reason = format!("{} is no key", shown(key));
                self.reader.refuse(&self.path, reason, "keys are texts");
                continue;
            };
            if !known.contains(&name) {
                self.refuse(name, "unknown key", suggestion(name, &known));
            }
        }
    }
}

fn suggestion(name: &str, known: &[&str]) -> String {
    if let Some((section, rest)) = name.split_once('.') {
        return format!("write `{section}:` and `{rest}:` indented on the next line");
    }
    let near = known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 2.max(candidate.len() / 3))
        .min_by_key(|(distance, _)| *distance);
    match near {
        Some((_, candidate)) => format!("did you mean `{candidate}`?"),
        None => format!("the keys here are {}", known.join(", ")),
    }
}

fn one_of(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => format!("write {last}"),
        Some((last, rest)) => format!("write {} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

/// A plain value as the word it was written as.
fn word(value: &Value) -> Option<String> {
    match value {
        Value::Bool(true) => Some("on".to_owned()),
        Value::Bool(false) => Some("off".to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        Value::Null | Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => None,
    }
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) => "a section",
        Value::Tagged(_) => "a tagged value",
    }
}

/// A value for a message: escaped, cut to 64 characters. Never used for a secret.
fn shown(value: &Value) -> String {
    match word(value) {
        Some(text) if text.chars().count() > 64 => {
            format!("{:?}…", text.chars().take(64).collect::<String>())
        }
        Some(text) => format!("{text:?}"),
        None => kind(value).to_owned(),
    }
}

fn parse_duration(value: &Value) -> Option<Duration> {
    if let Some(seconds) = value.as_f64() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let text = value.as_str()?;
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at_checked(digits)?;
    let number: f64 = number.parse().ok()?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_is_parsed_in_each_form() {
        for (text, expected) in [
            ("30", 30_000),
            ("0.5", 500),
            ("30s", 30_000),
            ("500ms", 500),
            ("2m", 120_000),
            ("1.5h", 5_400_000),
        ] {
            let value: Value = serde_yaml_ng::from_str(text).unwrap();
            assert_eq!(
                parse_duration(&value),
                Some(Duration::from_millis(expected)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "-1",
            "s",
            "1x",
            "1 s",
            "1.2.3s",
            "[]",
            ".inf",
            "'30'",
            "99999999999999999999h",
        ] {
            let value: Value = serde_yaml_ng::from_str(text).unwrap();
            assert_eq!(parse_duration(&value), None, "{text}");
        }
    }

    #[test]
    fn near_key_is_suggested_and_a_far_one_lists_the_keys() {
        let known = ["listen", "client_auth_names"];
        assert_eq!(suggestion("lisen", &known), "did you mean `listen`?");
        assert_eq!(
            suggestion("client_auth_name", &known),
            "did you mean `client_auth_names`?"
        );
        assert_eq!(
            suggestion("zzz", &known),
            "the keys here are listen, client_auth_names"
        );
        assert!(suggestion("http.listen", &known).contains("`http:`"));
    }
}
