//! YAML of JSON values: sequences indented, PEM as literal blocks, numbers as they were written.
//!
//! `serde_yaml_ng` would write a number that keeps its spelling as a mapping. Reading is its.

use std::fmt::Write as _;

use serde::Deserialize as _;
use serde_json::{Map, Number, Value};

/// Writes a value, with a final line end.
pub(super) fn write(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => write_map(map, 0, &mut text),
        Value::Array(list) if !list.is_empty() => write_list(list, 0, &mut text),
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => {
            // A block at the top must be indented too.
            text.push_str(&scalar(value, 2));
            text.push('\n');
        }
    }
    text
}

fn write_map(map: &Map<String, Value>, indent: usize, text: &mut String) {
    for (position, (key, value)) in map.iter().enumerate() {
        // The first member of a list's element stands behind its dash.
        if position > 0 || text.is_empty() || text.ends_with('\n') {
            push_blanks(indent, text);
        }
        // `a:1: 1` would be right, and misread.
        let key = if key.contains(':') {
            quoted(key)
        } else {
            inline(key)
        };
        text.push_str(&key);
        text.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                text.push('\n');
                write_map(inner, indent + 2, text);
            }
            Value::Array(inner) if !inner.is_empty() => {
                text.push('\n');
                write_list(inner, indent + 2, text);
            }
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_)
            | Value::Object(_) => {
                let _ = writeln!(text, " {}", scalar(value, indent + 2));
            }
        }
    }
}

fn write_list(list: &[Value], indent: usize, text: &mut String) {
    for (position, value) in list.iter().enumerate() {
        if position > 0 || text.is_empty() || text.ends_with('\n') {
            push_blanks(indent, text);
        }
        text.push_str("- ");
        match value {
            Value::Object(inner) if !inner.is_empty() => write_map(inner, indent + 2, text),
            Value::Array(inner) if !inner.is_empty() => write_list(inner, indent + 2, text),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_)
            | Value::Object(_) => {
                let _ = writeln!(text, "{}", scalar(value, indent + 2));
            }
        }
    }
}

fn push_blanks(count: usize, text: &mut String) {
    text.extend(std::iter::repeat_n(' ', count));
}

/// Anything without members, without a final line end; blocks are indented by `indent`.
fn scalar(value: &Value, indent: usize) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => block(text, indent).unwrap_or_else(|| inline(text)),
        Value::Array(_) => "[]".to_owned(),
        Value::Object(_) => "{}".to_owned(),
    }
}

/// A text of several lines as a literal block (YAML 1.2 §8.1.2), where it can be one.
fn block(text: &str, indent: usize) -> Option<String> {
    let body = text.trim_end_matches('\n');
    let is_plain = |c: char| c == '\n' || is_printable(c);
    if !body.contains('\n')
        || body.starts_with([' ', '\n', '\t'])
        || !text.chars().all(is_plain)
        || body.lines().any(|line| line.trim_end() != line)
    {
        return None;
    }
    let ends = text.len() - body.len();
    let mut block = match ends {
        0 => "|-".to_owned(),
        1 => "|".to_owned(),
        _ => "|+".to_owned(),
    };
    let more = "\n".repeat(ends.saturating_sub(1));
    for line in body.split('\n').chain(more.split_terminator('\n')) {
        block.push('\n');
        if !line.is_empty() {
            push_blanks(indent, &mut block);
            block.push_str(line);
        }
    }
    Some(block)
}

/// A text in one line: bare where nothing could take it for something else, else in quotes.
fn inline(text: &str) -> String {
    if is_bare(text) {
        text.to_owned()
    } else {
        quoted(text)
    }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if is_printable(c) => quoted.push(c),
            c => {
                let _ = write!(quoted, "\\U{:08X}", u32::from(c));
            }
        }
    }
    quoted.push('"');
    quoted
}

/// What may stand in a document as it is; a tab and a byte-order mark are left out on purpose.
fn is_printable(c: char) -> bool {
    matches!(c, ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}' | '\u{10000}'..)
        && !matches!(c, '\u{2028}' | '\u{2029}')
}

/// Words that YAML 1.1 or 1.2 reads as something else than text.
const WORDS: [&str; 11] = [
    "true", "false", "yes", "no", "on", "off", "y", "n", "null", ".nan", ".inf",
];

fn is_bare(text: &str) -> bool {
    let Some(first) = text.chars().next() else {
        return false;
    };
    let is_wordy = |c: char| c.is_ascii_alphanumeric() || "_-./$: ".contains(c);
    let starts_well = first.is_ascii_alphabetic() || matches!(first, '_' | '/' | '$');
    // A version or an address; with one dot it would be a number.
    let is_dotted = first.is_ascii_digit()
        && text.bytes().filter(|byte| *byte == b'.').count() > 1
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.');
    (starts_well || is_dotted)
        && text.chars().all(is_wordy)
        && !text.ends_with([':', ' '])
        && !text.contains(": ")
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
}

/// Reads every document of a YAML text; empty ones are left out.
///
/// # Errors
/// Where and why it is no YAML, or what JSON has no form for.
pub(super) fn read(text: &str) -> Result<Vec<Value>, String> {
    let mut documents = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let mut value =
            serde_yaml_ng::Value::deserialize(document).map_err(|error| error.to_string())?;
        value.apply_merge().map_err(|error| error.to_string())?;
        if !value.is_null() {
            documents.push(to_json(value)?);
        }
    }
    Ok(documents)
}

fn to_json(value: serde_yaml_ng::Value) -> Result<Value, String> {
    use serde_yaml_ng::Value as Yaml;
    Ok(match value {
        Yaml::Null => Value::Null,
        Yaml::Bool(flag) => flag.into(),
        Yaml::Number(number) => Value::Number(number_to_json(&number)?),
        Yaml::String(text) => text.into(),
        Yaml::Sequence(list) => list
            .into_iter()
            .map(to_json)
            .collect::<Result<Vec<_>, _>>()?
            .into(),
        Yaml::Mapping(map) => {
            let mut object = Map::new();
            for (key, value) in map {
                let key = key_to_json(key)?;
                let value = to_json(value).map_err(|error| format!("{key}: {error}"))?;
                if object.insert(key.clone(), value).is_some() {
                    return Err(format!("duplicate key {key:?}"));
                }
            }
            Value::Object(object)
        }
        Yaml::Tagged(tagged) => return Err(format!("the tag {} is not supported", tagged.tag)),
    })
}

fn number_to_json(number: &serde_yaml_ng::Number) -> Result<Number, String> {
    if let Some(number) = number.as_i64() {
        return Ok(number.into());
    }
    if let Some(number) = number.as_u64() {
        return Ok(number.into());
    }
    number
        .as_f64()
        .and_then(Number::from_f64)
        .ok_or_else(|| format!("{number} is no number of JSON"))
}

fn key_to_json(key: serde_yaml_ng::Value) -> Result<String, String> {
    use serde_yaml_ng::Value as Yaml;
    match key {
        Yaml::String(text) => Ok(text),
        Yaml::Number(number) => Ok(number.to_string()),
        Yaml::Bool(flag) => Ok(flag.to_string()),
        Yaml::Null | Yaml::Sequence(_) | Yaml::Mapping(_) | Yaml::Tagged(_) => {
            Err("a key that is no text; put it in quotation marks".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn value_is_written_as_people_write_it() {
        let value = json!({
            "id": "mtls-domain",
            "cert": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
            "snis": ["api.example.com", "*.test"],
            "client": {"ca": "a\nb", "depth": 1},
            "nodes": {"127.0.0.1:80": 1},
            "list": [{"host": "a", "port": 80}, [1, 2]],
            "empty": {}, "none": [], "null": null, "version": "1", "ip": "127.0.0.1", "on": "yes",
        });
        let expected = "\
id: mtls-domain
cert: |
  -----BEGIN CERTIFICATE-----
  MIIB
  -----END CERTIFICATE-----
snis:
  - api.example.com
  - \"*.test\"
client:
  ca: |-
    a
    b
  depth: 1
nodes:
  \"127.0.0.1:80\": 1
list:
  - host: a
    port: 80
  - - 1
    - 2
empty: {}
none: []
\"null\": null
version: \"1\"
ip: 127.0.0.1
\"on\": \"yes\"
";
        assert_eq!(write(&value), expected);
        assert_eq!(read(expected).unwrap(), [value]);
    }

    #[test]
    fn several_documents_are_read_and_bad_ones_told() {
        let text = "---\na: 1\n---\n---\nb: 2\n";
        assert_eq!(read(text).unwrap(), [json!({"a": 1}), json!({"b": 2})]);
        for (text, told) in [
            ("a: 1\na: 2\n", "duplicate"),
            ("1: a\n\"1\": b\n", "duplicate key"),
            ("a: !x 1\n", "tag"),
            ("a: .nan\n", "no number"),
            ("a: [\n", "did not find"),
            ("? [a]\n: 1\n", "no text"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(told), "{text:?}: {error}");
        }
    }

    #[test]
    fn anchors_and_merges_are_followed() {
        let text = "a: &a {x: 1}\nb:\n  <<: *a\n  y: 2\n";
        let expected = json!({"a": {"x": 1}, "b": {"x": 1, "y": 2}});
        let read = read(text).unwrap();
        assert_eq!(read, [expected]);
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let text = prop_oneof![
            "[a-z0-9:.*&! #'\"\\\\\n\t-]{0,12}",
            any::<String>(),
            "([a-zA-Z+/=-]{1,8}\n){1,4}",
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            text.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((text.clone(), inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(value in any_value().prop_filter(
            "an empty document is left out", |value| !value.is_null())) {
            prop_assert_eq!(read(&write(&value)).unwrap(), vec![value]);
        }
    }
}
