//! The sentences of a refusal: APISIX's own, made from what the schema validator found.
//!
//! APISIX's texts are those of its Lua JSON schema library; its black-box cases compare them
//! literally (Admin API, "invalid configuration: …"). Values are quoted cut and escaped, and never
//! from a field that may hold a certificate, key or credential.

use std::collections::HashMap;
use std::fmt::Write as _;

use jsonschema::ValidationError;
use jsonschema::error::ValidationErrorKind;
use serde_json::Value;

use super::fault::{FOUND_MAX, Fault, Guess, Words};
use super::is_reference;

/// How many characters of a value are quoted.
const QUOTED_CHARS: usize = 64;

/// How many characters of a pointer are told.
const POINTER_CHARS: usize = 256;

/// How many of several names a sentence lists.
const LISTED: usize = 8;

/// Set in a schema where APISIX takes members that it does not know: what is said of one there is ours
/// alone, and says the word that may have been meant.
const SUGGEST: &str = "x-suggest";

/// How many errors of the validator are looked at: enough to sort the first ones.
const ERRORS_MAX: usize = 1000;

/// The keywords in the order in which APISIX's library checks them; others come last.
const ORDER: [&[&str]; 21] = [
    &["type"],
    &["properties", "required", "dependencies"],
    &["patternProperties", "additionalProperties"],
    &["minProperties"],
    &["maxProperties"],
    &["minItems"],
    &["maxItems"],
    &["items"],
    &["uniqueItems"],
    &["minLength"],
    &["maxLength"],
    &["pattern"],
    &["minimum", "exclusiveMinimum"],
    &["maximum", "exclusiveMaximum"],
    &["enum"],
    &["allOf"],
    &["anyOf"],
    &["oneOf"],
    &["not"],
    &["then"],
    &["else"],
];

/// All faults in schema order: members in the order of `properties`, keywords in APISIX's order.
pub(super) fn faults<'a>(
    schema: &Value,
    errors: impl Iterator<Item = ValidationError<'a>>,
) -> Vec<Fault> {
    let mut findings = Vec::new();
    for error in errors.take(ERRORS_MAX) {
        collect(schema, &error, &mut findings);
    }
    findings.sort_by(|a, b| a.rank.cmp(&b.rank));
    findings.dedup();
    findings
        .into_iter()
        .take(FOUND_MAX)
        .map(|finding| Fault {
            pointer: shown_pointer(finding.pointer),
            reason: finding.reason,
            words: finding.words,
            guess: finding.guess,
        })
        .collect()
}

/// A value as it may be quoted: at most 64 characters, control characters escaped.
#[must_use]
pub fn shown(value: &str) -> String {
    escaped(value, QUOTED_CHARS)
}

/// A text of which at most so many characters are shown, control characters escaped.
#[must_use]
pub fn escaped(value: &str, limit: usize) -> String {
    let mut out = String::new();
    for (position, char) in value.chars().enumerate() {
        if position == limit {
            out.push('…');
            break;
        }
        if char.is_control() {
            out.extend(char.escape_default());
        } else {
            out.push(char);
        }
    }
    out
}

/// A pointer as it is told: names of members may be of any length.
pub(super) fn shown_pointer(pointer: String) -> String {
    let is_plain = pointer.len() <= POINTER_CHARS && !pointer.contains(char::is_control);
    if is_plain {
        pointer
    } else {
        escaped(&pointer, POINTER_CHARS)
    }
}

/// Some names for a sentence, the rest counted: `a, b and 3 more`.
pub(super) fn listed<T: AsRef<str>>(names: &[T]) -> String {
    let some: Vec<String> = names
        .iter()
        .take(LISTED)
        .map(|name| shown(name.as_ref()))
        .collect();
    let some = some.join(", ");
    match names.len().saturating_sub(LISTED) {
        0 => some,
        more => format!("{some} and {more} more"),
    }
}

/// A pointer with one more member (RFC 6901 §3).
pub(super) fn join(pointer: &str, segment: &str) -> String {
    format!(
        "{pointer}/{}",
        segment.replace('~', "~0").replace('/', "~1")
    )
}

/// The known word nearest to `found`, when it is near enough to have been meant.
pub(super) fn nearest<'a>(
    found: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let lower = shown(found).to_ascii_lowercase();
    known
        .into_iter()
        .map(|word| (strsim::osa_distance(&lower, word), word))
        .filter(|(distance, word)| *distance <= 1 + word.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// One thing found, with its place in the schema's order.
#[derive(PartialEq, Eq)]
struct Finding {
    rank: Vec<usize>,
    pointer: String,
    reason: String,
    words: Words,
    guess: Option<Guess>,
}

/// Where in the schema an error arose.
struct Place<'s> {
    /// The schema that holds the failing keyword.
    node: &'s Value,
    /// The failing keyword.
    keyword: String,
    /// What APISIX puts before the reason, e.g. `property "tls" validation failed: `.
    prefix: String,
    rank: Vec<usize>,
    /// The `then` or `else` passed on the way: its fault stands before the one inside it.
    clause: Option<Finding>,
}

fn collect(schema: &Value, error: &ValidationError<'_>, findings: &mut Vec<Finding>) {
    let place = locate(schema, error);
    if may_be_reference(&place, error) {
        return;
    }
    let at = error.instance_path().as_str();
    findings.extend(place.clause);
    let unknown = matches!(
        error.kind(),
        ValidationErrorKind::AdditionalProperties { .. }
    );
    let is_ours = unknown && place.node.get(SUGGEST).is_some();
    let words = if is_ours {
        Words::Stricter
    } else {
        Words::Schema
    };
    for (member, reason) in reasons(place.node, error) {
        let guess = member.as_deref().filter(|_| unknown);
        let guess = guess.and_then(|member| guess_of(place.node, member));
        let mut rank = place.rank.clone();
        rank.push(match place.keyword.as_str() {
            "required" => position(place.node, member.as_deref().unwrap_or_default()),
            _ => 0,
        });
        if place.keyword == "required" {
            rank.push(2);
        }
        let pointer = member.map_or_else(|| at.to_owned(), |member| join(at, &member));
        findings.push(Finding {
            rank,
            pointer,
            reason: format!("{}{reason}", place.prefix),
            words,
            guess,
        });
    }
    // What is lacking: not in APISIX's text, which stays first.
    if let ValidationErrorKind::OneOfNotValid { .. } = error.kind()
        && let Some(lacking) = lacking(place.node, error.instance())
    {
        let mut rank = place.rank.clone();
        rank.push(1);
        findings.push(Finding {
            rank,
            pointer: at.to_owned(),
            reason: lacking,
            words,
            guess: None,
        });
    }
    // What is wrong in the alternative that was meant: likewise.
    if let ValidationErrorKind::AnyOf { context } = error.kind() {
        let is_other_type = |errors: &&Vec<ValidationError<'_>>| {
            errors.iter().any(|inner| {
                inner.instance_path() == error.instance_path()
                    && matches!(
                        inner.kind(),
                        ValidationErrorKind::Type { .. } | ValidationErrorKind::Required { .. }
                    )
            })
        };
        let mut meant = context.iter().filter(|errors| !is_other_type(errors));
        if let (Some(errors), None) = (meant.next(), meant.next()) {
            for inner in errors {
                collect(schema, inner, findings);
            }
        }
    }
}

/// A reference stands for a text of any length (`$secret://…`, `$env://…`).
fn may_be_reference(place: &Place<'_>, error: &ValidationError<'_>) -> bool {
    let allowed = place
        .node
        .get("x-reference")
        .is_some_and(|flag| *flag == Value::Bool(true));
    allowed
        && matches!(
            place.keyword.as_str(),
            "minLength" | "maxLength" | "pattern" | "enum"
        )
        && error.instance().as_str().is_some_and(is_reference)
}

fn locate<'s>(schema: &'s Value, error: &ValidationError<'_>) -> Place<'s> {
    static NOTHING: Value = Value::Null;
    let child = |node: &'s Value, name: &str| match node {
        Value::Array(items) => name
            .parse::<usize>()
            .ok()
            .and_then(|index| items.get(index)),
        Value::Object(members) => members.get(name),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    };
    let mut place = Place {
        node: schema,
        keyword: String::new(),
        prefix: String::new(),
        rank: Vec::new(),
        clause: None,
    };
    let mut instance = error
        .instance_path()
        .segments()
        .map(|segment| segment.to_string());
    let mut pointer = String::new();
    let mut path = error
        .schema_path()
        .segments()
        .map(|segment| segment.to_string())
        .peekable();
    while let Some(keyword) = path.next() {
        place.rank.push(order(&keyword));
        let is_last = path.peek().is_none();
        if is_last {
            place.keyword = keyword;
            break;
        }
        let under = child(place.node, &keyword).unwrap_or(&NOTHING);
        let prefix = &mut place.prefix;
        // Writing to a String cannot fail.
        match keyword.as_str() {
            "properties" => {
                let name = path.next().unwrap_or_default();
                place.rank.extend([position(place.node, &name), 0]);
                let _ = write!(prefix, "property {} validation failed: ", quoted(&name));
                place.node = child(under, &name).unwrap_or(&NOTHING);
                pointer = join(&pointer, &instance.next().unwrap_or_default());
            }
            "dependencies" => {
                let name = path.next().unwrap_or_default();
                place.rank.extend([position(place.node, &name), 1]);
                let _ = write!(
                    prefix,
                    "failed to validate dependent schema for {}: ",
                    quoted(&name)
                );
                place.node = child(under, &name).unwrap_or(&NOTHING);
            }
            "patternProperties" => {
                let pattern = path.next().unwrap_or_default();
                let member = instance.next().unwrap_or_default();
                let _ = write!(
                    prefix,
                    "failed to validate {} (matching {}): ",
                    shown(&member),
                    quoted(&pattern)
                );
                place.node = child(under, &pattern).unwrap_or(&NOTHING);
                pointer = join(&pointer, &member);
            }
            "items" => {
                let index = instance.next().unwrap_or_default();
                let number = index.parse::<usize>().unwrap_or_default();
                place.rank.push(number);
                let _ = write!(prefix, "failed to validate item {}: ", number + 1);
                place.node = under;
                pointer = join(&pointer, &index);
            }
            "allOf" | "anyOf" | "oneOf" => {
                let index = path.next().unwrap_or_default();
                let number = index.parse::<usize>().unwrap_or_default() + 1;
                place.rank.push(number);
                if keyword == "allOf" {
                    let _ = write!(prefix, "allOf {number} failed: ");
                }
                place.node = child(under, &index).unwrap_or(&NOTHING);
            }
            "then" | "else" => {
                place.clause = Some(Finding {
                    rank: place.rank.clone(),
                    pointer: pointer.clone(),
                    reason: format!("{prefix}{keyword} clause did not match"),
                    words: Words::Schema,
                    guess: None,
                });
                place.node = under;
            }
            _ => place.node = under,
        }
    }
    place
}

/// The reasons of one error, each with the member it is about when that is a member of the value.
fn reasons(node: &Value, error: &ValidationError<'_>) -> Vec<(Option<String>, String)> {
    let value = error.instance();
    let one = |reason: String| vec![(None, reason)];
    match error.kind() {
        ValidationErrorKind::Type { .. } => one(wrong_type(node, value)),
        ValidationErrorKind::Required { property } => {
            let property = property.as_str().unwrap_or_default();
            vec![(
                Some(property.to_owned()),
                format!("property {} is required", quoted(property)),
            )]
        }
        ValidationErrorKind::AdditionalProperties { unexpected } => unexpected
            .iter()
            .take(FOUND_MAX)
            .map(|member| (Some(member.clone()), unknown_member(member)))
            .collect(),
        ValidationErrorKind::MinLength { limit } => one(format!(
            "string too short, expected at least {limit}, got {}",
            char_count(value)
        )),
        ValidationErrorKind::MaxLength { limit } => one(format!(
            "string too long, expected at most {limit}, got {}",
            char_count(value)
        )),
        ValidationErrorKind::Pattern { pattern } => {
            let value = value.as_str().unwrap_or_default();
            // What has an `@` may be a URL with a password in it.
            let value = if node.get("x-reference").is_some() || value.contains('@') {
                "[withheld]".to_owned()
            } else {
                shown(value)
            };
            one(format!(
                "failed to match pattern {} with {}",
                quoted(pattern),
                quoted(&value)
            ))
        }
        ValidationErrorKind::Minimum { limit } => one(bound(value, "at least", limit)),
        ValidationErrorKind::Maximum { limit } => one(bound(value, "at most", limit)),
        ValidationErrorKind::ExclusiveMinimum { limit } => one(bound(value, "greater than", limit)),
        ValidationErrorKind::ExclusiveMaximum { limit } => one(bound(value, "smaller than", limit)),
        ValidationErrorKind::Enum { .. } => one("matches none of the enum values".to_owned()),
        ValidationErrorKind::MinItems { limit } => {
            one(format!("expect array to have at least {limit} items"))
        }
        ValidationErrorKind::MaxItems { limit } => {
            one(format!("expect array to have at most {limit} items"))
        }
        ValidationErrorKind::MinProperties { limit } => {
            one(format!("expect object to have at least {limit} properties"))
        }
        ValidationErrorKind::MaxProperties { limit } => {
            one(format!("expect object to have at most {limit} properties"))
        }
        ValidationErrorKind::UniqueItems => one(repeated(value)),
        ValidationErrorKind::AnyOf { .. } => one(none_of_the_required(node)),
        ValidationErrorKind::OneOfNotValid { .. } => {
            one("value should match only one schema, but matches none".to_owned())
        }
        ValidationErrorKind::OneOfMultipleValid { context } => one(matches_both(context)),
        ValidationErrorKind::Not { .. } => one("value wasn't supposed to match schema".to_owned()),
        ValidationErrorKind::Format { format } => {
            let value = shown(value.as_str().unwrap_or_default());
            one(format!("expect valid {format} format but got: {value}"))
        }
        ValidationErrorKind::Constant { .. } => one("failed to check const value".to_owned()),
        ValidationErrorKind::FalseSchema => one("expect false always".to_owned()),
        other @ (ValidationErrorKind::AdditionalItems { .. }
        | ValidationErrorKind::BacktrackLimitExceeded { .. }
        | ValidationErrorKind::RegexEngineFailure { .. }
        | ValidationErrorKind::Contains
        | ValidationErrorKind::ContentEncoding { .. }
        | ValidationErrorKind::ContentMediaType { .. }
        | ValidationErrorKind::Custom { .. }
        | ValidationErrorKind::FromUtf8 { .. }
        | ValidationErrorKind::MultipleOf { .. }
        | ValidationErrorKind::PropertyNames { .. }
        | ValidationErrorKind::UnevaluatedItems { .. }
        | ValidationErrorKind::UnevaluatedProperties { .. }
        | ValidationErrorKind::Referencing(_)) => {
            one(format!("failed to check {}", other.keyword()))
        }
    }
}

/// The place of a keyword among those of its schema.
fn order(keyword: &str) -> usize {
    ORDER
        .iter()
        .position(|group| group.contains(&keyword))
        .unwrap_or(ORDER.len())
}

/// The place of a member in `properties`; after the last for one that is not there.
fn position(node: &Value, name: &str) -> usize {
    let Some(properties) = node.get("properties").and_then(Value::as_object) else {
        let required = node.get("required").and_then(Value::as_array);
        let listed = |names: &Vec<Value>| names.iter().position(|other| other == name);
        return required.and_then(listed).unwrap_or_default();
    };
    properties
        .keys()
        .position(|known| known == name)
        .unwrap_or(properties.len())
}

fn wrong_type(node: &Value, value: &Value) -> String {
    let got = match value {
        Value::Null => "userdata",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) | Value::Object(_) => "table",
    };
    let expected = match node.get("type") {
        Some(Value::Array(types)) => {
            let names: Vec<_> = types.iter().filter_map(Value::as_str).collect();
            format!("one of {}", names.join(", "))
        }
        other => other.and_then(Value::as_str).unwrap_or_default().to_owned(),
    };
    format!("wrong type: expected {expected}, got {got}")
}

fn unknown_member(member: &str) -> String {
    format!("additional properties forbidden, found {}", shown(member))
}

/// The member of a schema that a misspelt one may stand for.
fn guess_of(node: &Value, member: &str) -> Option<Guess> {
    let properties = node.get("properties").and_then(Value::as_object)?;
    let meant = nearest(member, properties.keys().map(String::as_str))?;
    Some(Guess {
        found: shown(member),
        meant: meant.to_owned(),
    })
}

fn char_count(value: &Value) -> usize {
    value.as_str().map_or(0, |text| text.chars().count())
}

fn bound(value: &Value, relation: &str, limit: &Value) -> String {
    format!(
        "expected {} to be {relation} {limit}",
        shown(&value.to_string())
    )
}

fn repeated(value: &Value) -> String {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut places = HashMap::new();
    let pair = items.iter().enumerate().find_map(|(at, item)| {
        // Numbers are equal by value: 1 and 1.0.
        let text = item
            .as_f64()
            .map_or_else(|| item.to_string(), |number| number.to_string());
        places.insert(text, at + 1).map(|first| (first, at + 1))
    });
    let (first, second) = pair.unwrap_or_default();
    format!("expected unique items but items {first} and {second} are equal")
}

fn none_of_the_required(node: &Value) -> String {
    let alternatives = node.get("anyOf").and_then(Value::as_array);
    let lists: Vec<String> = alternatives
        .map(Vec::as_slice)
        .unwrap_or_default()
        .iter()
        .filter_map(|schema| schema.get("required").map(Value::to_string))
        .collect();
    match lists.as_slice() {
        [] => "object matches none of the required".to_owned(),
        _ => format!(
            "object matches none of the required: {}",
            lists.join(" or ")
        ),
    }
}

/// What would make a value one of the alternatives that `oneOf` has, where these differ in what they
/// require: the fewest members, whichever they are.
fn lacking(node: &Value, value: &Value) -> Option<String> {
    let value = value.as_object()?;
    let absent = |schema: &Value| -> Option<Vec<String>> {
        let names = schema.get("required")?.as_array()?.iter();
        let names = names.filter_map(Value::as_str);
        let absent = names.filter(|name| !value.contains_key(*name));
        Some(absent.map(quoted).collect())
    };
    let alternatives = node.get("oneOf")?.as_array()?.iter();
    let all: Vec<Vec<String>> = alternatives.map(absent).collect::<Option<_>>()?;
    let fewest = all.iter().map(Vec::len).min().filter(|count| *count > 0)?;
    let nearest = all.iter().filter(|names| names.len() == fewest);
    let nearest: Vec<String> = nearest.map(|names| names.join(" and ")).collect();
    Some(match nearest.as_slice() {
        [only] if fewest == 1 => format!("property {only} is required"),
        [only] => format!("properties {only} are required"),
        several => format!("one of these is required: {}", several.join(", ")),
    })
}

fn matches_both(context: &[Vec<ValidationError<'_>>]) -> String {
    let mut matching = context
        .iter()
        .enumerate()
        .filter(|(_, errors)| errors.is_empty())
        .map(|(at, _)| at + 1);
    let (first, second) = (
        matching.next().unwrap_or_default(),
        matching.next().unwrap_or_default(),
    );
    format!("value should match only one schema, but matches both schemas {first} and {second}")
}

/// A text in quotes as Lua's `%q` writes it: backslash and quote get a backslash.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use jsonschema::Draft;
    use serde_json::json;

    use super::*;

    /// The reasons of `value` under `schema`, first fault first.
    #[track_caller]
    fn reasons_of(schema: &Value, value: &Value) -> Vec<(String, String)> {
        let validator = jsonschema::options()
            .with_draft(Draft::Draft7)
            .should_validate_formats(true)
            .build(schema)
            .unwrap();
        let all = faults(schema, validator.iter_errors(value)).into_iter();
        all.map(|fault| (fault.told(), fault.pointer))
            .map(|(told, pointer)| (pointer, told))
            .collect()
    }

    #[test]
    fn every_check_has_apisix_s_text() {
        let long = "x".repeat(257);
        for (schema, value, text) in [
            (
                json!({"type": "string"}),
                json!(1),
                "wrong type: expected string, got number",
            ),
            (
                json!({"type": "string"}),
                json!({}),
                "wrong type: expected string, got table",
            ),
            (
                json!({"type": "string"}),
                json!([]),
                "wrong type: expected string, got table",
            ),
            (
                json!({"type": "string"}),
                json!(null),
                "wrong type: expected string, got userdata",
            ),
            (
                json!({"type": "object"}),
                json!(true),
                "wrong type: expected object, got boolean",
            ),
            (
                json!({"type": "array"}),
                json!("a"),
                "wrong type: expected array, got string",
            ),
            (
                json!({"type": "integer"}),
                json!(1.5),
                "wrong type: expected integer, got number",
            ),
            (
                json!({"type": ["string", "integer"]}),
                json!(null),
                "wrong type: expected one of string, integer, got userdata",
            ),
            (
                json!({"properties": {"upstream": {"properties": {"key": {"type": "string"}}}}}),
                json!({"upstream": {"key": 1}}),
                "property \"upstream\" validation failed: property \"key\" validation failed: \
                 wrong type: expected string, got number",
            ),
            (
                json!({"items": {"type": "string"}}),
                json!(["a", 1]),
                "failed to validate item 2: wrong type: expected string, got number",
            ),
            (
                json!({"required": ["uri"]}),
                json!({}),
                "property \"uri\" is required",
            ),
            (
                json!({"dependencies": {"client_cert": {"required": ["client_key"]}}}),
                json!({"client_cert": ""}),
                "failed to validate dependent schema for \"client_cert\": property \"client_key\" \
                 is required",
            ),
            (
                json!({"patternProperties": {".*": {"type": "string"}}}),
                json!({"env": 1}),
                "failed to validate env (matching \".*\"): wrong type: expected string, got number",
            ),
            (
                json!({"properties": {"a": true}, "additionalProperties": false}),
                json!({"foo": 1}),
                "additional properties forbidden, found foo",
            ),
            (
                json!({"minLength": 1}),
                json!(""),
                "string too short, expected at least 1, got 0",
            ),
            (
                json!({"maxLength": 256}),
                json!(long),
                "string too long, expected at most 256, got 257",
            ),
            (
                json!({"pattern": "^\\*?[a-z]+$"}),
                json!("a.*.foo"),
                "failed to match pattern \"^\\\\*?[a-z]+$\" with \"a.*.foo\"",
            ),
            (
                json!({"minimum": 1}),
                json!(0),
                "expected 0 to be at least 1",
            ),
            (
                json!({"maximum": 65535}),
                json!(65536),
                "expected 65536 to be at most 65535",
            ),
            (
                json!({"exclusiveMinimum": 0}),
                json!(0),
                "expected 0 to be greater than 0",
            ),
            (
                json!({"exclusiveMaximum": 9}),
                json!(9),
                "expected 9 to be smaller than 9",
            ),
            (
                json!({"enum": ["a"]}),
                json!("b"),
                "matches none of the enum values",
            ),
            (
                json!({"minItems": 1}),
                json!([]),
                "expect array to have at least 1 items",
            ),
            (
                json!({"maxItems": 1}),
                json!([1, 2]),
                "expect array to have at most 1 items",
            ),
            (
                json!({"uniqueItems": true}),
                json!(["a", "b", "a"]),
                "expected unique items but items 1 and 3 are equal",
            ),
            (
                json!({"anyOf": [{"required": ["plugins", "uri"]}, {"required": ["upstream"]}]}),
                json!({}),
                "object matches none of the required: [\"plugins\",\"uri\"] or [\"upstream\"]",
            ),
            (
                json!({"anyOf": [{"type": "string"}, {"minimum": 1}]}),
                json!(0),
                "object matches none of the required",
            ),
            (
                json!({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}),
                json!({}),
                "value should match only one schema, but matches none",
            ),
            (
                json!({"oneOf": [{"required": ["x"]}, {"required": ["a"]}, {"required": ["b"]}]}),
                json!({"a": 1, "b": 1}),
                "value should match only one schema, but matches both schemas 2 and 3",
            ),
            (
                json!({"allOf": [{"required": ["a"]}]}),
                json!({}),
                "allOf 1 failed: property \"a\" is required",
            ),
            (
                json!({"if": true, "then": {"required": ["a"]}}),
                json!({}),
                "then clause did not match",
            ),
            (
                json!({"if": false, "then": {}, "else": {"required": ["a"]}}),
                json!({}),
                "else clause did not match",
            ),
            (
                json!({"not": {"required": ["a"]}}),
                json!({"a": 1}),
                "value wasn't supposed to match schema",
            ),
            (
                json!({"format": "ipv4"}),
                json!("x"),
                "expect valid ipv4 format but got: x",
            ),
        ] {
            let found = reasons_of(&schema, &value);
            assert_eq!(
                found.first().map(|(_, reason)| reason.as_str()),
                Some(text),
                "{schema}"
            );
        }
    }

    #[test]
    fn faults_come_in_schema_order_whatever_the_order_of_the_document() {
        let schema = json!({
            "properties": {
                "a": {"type": "string"},
                "b": {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["y"]},
                "c": {}
            },
            "dependencies": {"a": {"required": ["d"]}},
            "required": ["c"],
            "additionalProperties": false,
            "oneOf": [{"required": ["e"]}]
        });
        let found = reasons_of(&schema, &json!({"z": 1, "b": {"x": 1}, "a": 1}));
        let pointers: Vec<_> = found.iter().map(|(pointer, _)| pointer.as_str()).collect();
        // What `oneOf` lacks is told behind them. Each is there once.
        assert_eq!(pointers, ["/a", "/d", "/b/x", "/b/y", "/c", "/z", "", ""]);
        let unknown = "additional properties forbidden, found z, did you mean \"a\"?";
        assert_eq!(found[5].1, unknown);
    }

    #[test]
    fn a_clause_is_followed_by_what_failed_in_it() {
        let schema = json!({"if": true, "then": {"required": ["a", "b"]}});
        let found = reasons_of(&schema, &json!({}));
        let reasons: Vec<_> = found.iter().map(|(_, reason)| reason.as_str()).collect();
        assert_eq!(
            reasons,
            [
                "then clause did not match",
                "property \"a\" is required",
                "property \"b\" is required"
            ]
        );
    }

    #[test]
    fn the_alternative_that_was_meant_is_explained_behind_the_first_fault() {
        let schema = json!({
            "anyOf": [{"type": "object"}, {"type": "array", "items": {"required": ["host"]}}]
        });
        let found = reasons_of(&schema, &json!([{}]));
        assert_eq!(
            found,
            [
                (
                    String::new(),
                    "object matches none of the required".to_owned()
                ),
                (
                    "/0/host".to_owned(),
                    "failed to validate item 1: property \"host\" is required".to_owned()
                )
            ]
        );
    }

    #[test]
    fn only_flagged_fields_take_references_of_any_length() {
        let flagged = json!({"minLength": 128, "x-reference": true});
        let plain = json!({"minLength": 128});
        for reference in ["$secret://vault/1/a/b", "$env://X", "$ENV://X"] {
            assert!(
                reasons_of(&flagged, &json!(reference)).is_empty(),
                "{reference}"
            );
            assert!(
                !reasons_of(&plain, &json!(reference)).is_empty(),
                "{reference}"
            );
        }
        for text in ["$SECRET://vault/1/a/b", "secret://x", "x"] {
            assert!(!reasons_of(&flagged, &json!(text)).is_empty(), "{text}");
        }
        assert!(
            !reasons_of(
                &json!({"type": "object", "x-reference": true}),
                &json!("$env://X")
            )
            .is_empty()
        );
    }

    #[test]
    fn a_typo_is_answered_with_the_word_meant() {
        let schema = json!({
            "properties": {"verify": true, "ca_certs": true},
            "additionalProperties": false,
            "x-suggest": true
        });
        for (member, text) in [
            (
                "verfy",
                "additional properties forbidden, found verfy, did you mean \"verify\"?",
            ),
            (
                "CA_CERT",
                "additional properties forbidden, found CA_CERT, did you mean \"ca_certs\"?",
            ),
            ("foo", "additional properties forbidden, found foo"),
        ] {
            assert_eq!(reasons_of(&schema, &json!({member: 1}))[0].1, text);
        }
    }

    #[test]
    fn faults_and_what_they_quote_are_bounded() {
        let members = (0..5000).map(|n| (format!("{n}\n{}", "x".repeat(1000)), json!(1)));
        let value = Value::Object(members.collect());
        let schema = json!({"properties": {"verify": true}, "additionalProperties": false,
                            "x-suggest": true});
        let each = json!({"patternProperties": {".*": {"type": "string"}}});
        for schema in [schema, each] {
            let found = reasons_of(&schema, &value);
            assert_eq!(found.len(), FOUND_MAX, "{schema}");
            for (pointer, reason) in found {
                assert!(pointer.chars().count() <= POINTER_CHARS + 8, "{pointer}");
                assert!(reason.len() < 256 && !reason.contains('\n'), "{reason}");
            }
        }
        assert_eq!(listed(&["a", "b"]), "a, b");
        assert_eq!(listed(&["n"; 10]), "n, n, n, n, n, n, n, n and 2 more");
    }

    #[test]
    fn values_are_cut_and_escaped() {
        assert_eq!(shown("a\n\u{1b}b"), "a\\n\\u{1b}b");
        assert_eq!(shown(&"é".repeat(65)), format!("{}…", "é".repeat(64)));
        assert_eq!(shown(&"é".repeat(64)), "é".repeat(64));
        let withheld = reasons_of(
            &json!({"pattern": "^a", "x-reference": true}),
            &json!("key"),
        );
        assert_eq!(
            withheld[0].1,
            "failed to match pattern \"^a\" with \"[withheld]\""
        );
    }
}
