//! Reading members of a document that its schema has already judged.
//!
//! Total: a member that is absent or of another type than asked for reads as `None` or empty.

use std::time::Duration;

use serde_json::Value;

use super::{Document, Id};

/// The longest time a document can ask for; more is as good as this: 365 days.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

pub(super) fn text<'d>(document: &'d Document, member: &str) -> Option<&'d str> {
    document.get(member).and_then(Value::as_str)
}

pub(super) fn flag(document: &Document, member: &str) -> Option<bool> {
    document.get(member).and_then(Value::as_bool)
}

pub(super) fn object<'d>(document: &'d Document, member: &str) -> Option<&'d Document> {
    document.get(member).and_then(Value::as_object)
}

/// The texts of an array, each with its 0-based place.
pub(super) fn texts<'d>(
    document: &'d Document,
    member: &str,
) -> impl Iterator<Item = (usize, &'d str)> {
    let items = document
        .get(member)
        .and_then(Value::as_array)
        .map(Vec::as_slice);
    items
        .unwrap_or_default()
        .iter()
        .enumerate()
        .filter_map(|(index, item)| item.as_str().map(|text| (index, text)))
}

/// `member` and the items of `members`, each with its pointer: APISIX's `uri`/`uris` pairs.
pub(super) fn one_or_many<'d>(
    document: &'d Document,
    member: &str,
    members: &str,
) -> Vec<(String, &'d str)> {
    let one = text(document, member).map(|text| (format!("/{member}"), text));
    let many = texts(document, members).map(|(index, text)| (format!("/{members}/{index}"), text));
    one.into_iter().chain(many).collect()
}

/// A JSON number without fraction (`1`, `1.0`, `1e3`) that fits.
#[must_use]
pub fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        let number = value.as_f64()?;
        let is_whole = number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0;
        // Whole and below 2^53: its decimal text is the integer.
        if is_whole {
            format!("{number:.0}").parse().ok()
        } else {
            None
        }
    })
}

/// A JSON number ≥ 0 without fraction, capped at `u32::MAX`.
pub(super) fn count(value: &Value) -> Option<u32> {
    match integer(value) {
        Some(number) if number < 0 => None,
        Some(number) => Some(u32::try_from(number).unwrap_or(u32::MAX)),
        None => value
            .as_f64()
            .filter(|number| *number >= 0.0)
            .map(|_| u32::MAX),
    }
}

/// A number of seconds, fractions allowed; at least a millisecond unless 0, at most 365 days.
pub(super) fn seconds(value: &Value) -> Option<Duration> {
    let number = value.as_f64().unwrap_or(f64::MAX);
    if number < 0.0 {
        return None;
    }
    let duration = Duration::try_from_secs_f64(number)
        .unwrap_or(LONGEST)
        .min(LONGEST);
    let least = if number > 0.0 {
        Duration::from_millis(1)
    } else {
        Duration::ZERO
    };
    Some(duration.max(least))
}

/// An id as documents hold it: a text, or an integer from 1.
pub(super) fn id(value: &Value) -> Option<Id> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(_) => integer(value)
            .filter(|number| *number >= 1)?
            .to_string()
            .parse()
            .ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Whether `status` is absent or not 0.
pub(super) fn is_enabled(document: &Document) -> bool {
    document.get("status").and_then(integer) != Some(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn whole_numbers_are_integers_however_they_are_written() {
        for (text, expected) in [
            ("1", Some(1)),
            ("1.0", Some(1)),
            ("1e3", Some(1000)),
            ("-2.0", Some(-2)),
            ("1.5", None),
            ("1e400", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(integer(&number(text)), expected, "{text}");
        }
    }

    #[test]
    fn counts_are_capped_and_never_negative() {
        for (text, expected) in [
            ("0", Some(0)),
            ("7", Some(7)),
            ("4294967296", Some(u32::MAX)),
            ("99999999999999999999", Some(u32::MAX)),
            ("-1", None),
        ] {
            assert_eq!(count(&number(text)), expected, "{text}");
        }
    }

    #[test]
    fn seconds_are_never_rounded_to_nothing_and_never_overflow() {
        for (text, expected) in [
            ("0", Duration::ZERO),
            ("0.5", Duration::from_millis(500)),
            ("1e-12", Duration::from_millis(1)),
            ("1e300", LONGEST),
            ("1e400", LONGEST),
        ] {
            assert_eq!(seconds(&number(text)), Some(expected), "{text}");
        }
    }

    #[test]
    fn ids_are_texts_or_positive_integers() {
        assert_eq!(id(&number("7")).unwrap().as_str(), "7");
        assert_eq!(id(&"a.b".into()).unwrap().as_str(), "a.b");
        assert_eq!(id(&number("0")), None);
        assert_eq!(id(&"a b".into()), None);
        assert_eq!(id(&Value::Null), None);
    }
}
