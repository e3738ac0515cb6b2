//! JSON as people and clients send it: read whole, every member once.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::texts::shown;

/// Parses a text of JSON; order and spelling of numbers are kept, but that an exponent gets a sign and
/// a small e: `1E3` comes back as `1e+3`, which is the same number.
///
/// # Errors
/// Where the parser stopped, and why, without a word of the text. An object with the same member
/// twice is refused: which of the two counts would be a guess.
pub fn parse(text: &[u8]) -> serde_json::Result<Value> {
    let Distinct = serde_json::from_slice(text)?;
    serde_json::from_slice(text)
}

/// Parses a text of any number of JSON values, one after the other.
///
/// # Errors
/// As [`parse`], of the first value that is wrong.
pub fn parse_several(text: &[u8]) -> serde_json::Result<Vec<Value>> {
    for checked in serde_json::Deserializer::from_slice(text).into_iter() {
        let Distinct = checked?;
    }
    serde_json::Deserializer::from_slice(text)
        .into_iter()
        .collect()
}

/// Any JSON value whose objects have no member twice. Holds nothing.
#[derive(Debug)]
pub struct Distinct;

impl<'de> Deserialize<'de> for Distinct {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DistinctVisitor)
    }
}

struct DistinctVisitor;

impl<'de> Visitor<'de> for DistinctVisitor {
    type Value = Distinct;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Distinct, E> {
        // YAML's `.inf` and `.nan`, which would be read as null.
        if number.is_finite() {
            Ok(Distinct)
        } else {
            Err(E::custom("a number that is none in JSON"))
        }
    }

    fn visit_str<E>(self, _: &str) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Distinct, A::Error> {
        while let Some(Distinct) = seq.next_element()? {}
        Ok(Distinct)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Distinct, A::Error> {
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == NUMBER {
                let Number = map.next_value()?;
            } else {
                let Distinct = map.next_value()?;
            }
            if seen.contains(&name) {
                let name = shown(&name);
                return Err(serde::de::Error::custom(format_args!(
                    "duplicate member \"{name}\""
                )));
            }
            seen.insert(name);
        }
        Ok(Distinct)
    }
}

/// The member by which serde_json hands over a number whose spelling it keeps. A document that has
/// it would be read as a number.
const NUMBER: &str = "$serde_json::private::Number";

/// The text of a number that serde_json hands over: an owned text, which no JSON text is.
struct Number;

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberVisitor)
    }
}

struct NumberVisitor;

impl Visitor<'_> for NumberVisitor {
    type Value = Number;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no member named \"{NUMBER}\"")
    }

    fn visit_string<E>(self, _: String) -> Result<Number, E> {
        Ok(Number)
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Number, E> {
        Err(E::custom(format_args!(
            "a member cannot be named \"{NUMBER}\""
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    #[test]
    fn several_values_are_read_and_each_is_checked() {
        let read = parse_several(b" {\"a\":1}\n[2] {\"a\":1} ").unwrap();
        assert_eq!(read, [json!({"a": 1}), json!([2]), json!({"a": 1})]);
        assert_eq!(parse_several(b" ").unwrap(), Vec::<Value>::new());
        let error = parse_several(b"{} {\"a\":1,\"a\":2}").unwrap_err();
        assert!(error.to_string().contains("duplicate member"), "{error}");
        assert!(parse_several(b"{} {").is_err());
    }
}
