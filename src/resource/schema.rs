//! The structural rules: one JSON Schema per kind, compiled once, and the check against it.
//!
//! The files under `schema/` are the single source; `$ref` in them names another of the files and
//! is replaced when they are read, so that every schema stands alone and a place in it is a path.
//! What a schema cannot say (PEM, ports, what this version serves) is judged by the kinds' files.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::{Map, Value};

use super::fault::Fault;
use super::{Kind, texts};

/// The secret managers a secret resource can describe, in the order of their schemas.
pub const MANAGERS: [&str; 4] = ["vault", "aws", "gcp", "kubernetes"];

/// A schema with what was compiled from it.
struct Compiled {
    document: Value,
    validator: Validator,
}

static SSL: LazyLock<Compiled> = LazyLock::new(|| compile(read("ssl.json")));
static UPSTREAM: LazyLock<Compiled> = LazyLock::new(|| compile(read("upstream.json")));
static SERVICE: LazyLock<Compiled> = LazyLock::new(|| compile(read("service.json")));
static ROUTE: LazyLock<Compiled> = LazyLock::new(|| compile(read("route.json")));
static SECRETS: LazyLock<[Compiled; 4]> = LazyLock::new(|| {
    let mut all = read("secret.json");
    MANAGERS.map(|manager| compile(all.get_mut(manager).map(Value::take).unwrap_or_default()))
});

static PLUGINS: LazyLock<BTreeMap<String, Compiled>> =
    LazyLock::new(|| match read("plugins.json") {
        Value::Object(all) => all
            .into_iter()
            .map(|(name, schema)| (name, compile(schema)))
            .collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            BTreeMap::new()
        }
    });

/// The schema of a kind, self-contained; `manager` is asked for secrets only.
///
/// `None` for a secret of an unknown manager.
#[must_use]
pub fn document(kind: Kind, manager: &str) -> Option<&'static Value> {
    compiled(kind, manager).map(|compiled| &compiled.document)
}

/// The schema of a plugin that is known.
#[must_use]
pub fn plugin(name: &str) -> Option<&'static Value> {
    PLUGINS.get(name).map(|compiled| &compiled.document)
}

/// Judges a document by the schema of its kind alone, as `POST /schema/validate` does.
///
/// All faults, in schema order; none when the document fits.
pub(super) fn check(kind: Kind, manager: &str, document: &Value) -> Vec<Fault> {
    compiled(kind, manager).map_or_else(Vec::new, |compiled| faults(compiled, document))
}

/// Judges what a plugin is asked for by its schema alone, as [`check`] does.
pub(super) fn check_plugin(name: &str, config: &Value) -> Vec<Fault> {
    let compiled = PLUGINS.get(name);
    compiled.map_or_else(Vec::new, |compiled| faults(compiled, config))
}

fn faults(compiled: &Compiled, document: &Value) -> Vec<Fault> {
    if compiled.validator.is_valid(document) {
        return Vec::new();
    }
    texts::faults(&compiled.document, compiled.validator.iter_errors(document))
}

fn compiled(kind: Kind, manager: &str) -> Option<&'static Compiled> {
    match kind {
        Kind::Ssl => Some(&SSL),
        Kind::Upstream => Some(&UPSTREAM),
        Kind::Service => Some(&SERVICE),
        Kind::Route => Some(&ROUTE),
        Kind::Secret => {
            let position = MANAGERS.iter().position(|known| *known == manager)?;
            SECRETS.get(position)
        }
    }
}

#[expect(
    clippy::expect_used,
    reason = "the schemas are part of the binary; a test compiles all"
)]
fn compile(document: Value) -> Compiled {
    let validator = jsonschema::options()
        .with_draft(Draft::Draft7)
        .with_pattern_options(PatternOptions::regex())
        .should_validate_formats(true)
        .build(&document)
        .expect("the schemas compile");
    Compiled {
        document,
        validator,
    }
}

#[expect(
    clippy::expect_used,
    reason = "the schemas are part of the binary; a test reads all"
)]
fn read(file: &str) -> Value {
    let text = match file {
        "common.json" => include_str!("schema/common.json"),
        "ssl.json" => include_str!("schema/ssl.json"),
        "upstream.json" => include_str!("schema/upstream.json"),
        "service.json" => include_str!("schema/service.json"),
        "route.json" => include_str!("schema/route.json"),
        "secret.json" => include_str!("schema/secret.json"),
        "plugins.json" => include_str!("schema/plugins.json"),
        _ => "",
    };
    inline(serde_json::from_str(text).expect("the schemas are JSON"))
}

/// Puts what a `$ref` names in its place, at every depth.
fn inline(value: Value) -> Value {
    match value {
        Value::Object(object) => match object.get("$ref").and_then(Value::as_str) {
            Some(target) => {
                let (file, part) = target.split_once('#').unwrap_or((target, ""));
                read(file).pointer(part).cloned().unwrap_or_default()
            }
            None => Value::Object(
                object
                    .into_iter()
                    .map(|(name, value)| (name, inline(value)))
                    .collect::<Map<_, _>>(),
            ),
        },
        Value::Array(items) => Value::Array(items.into_iter().map(inline).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<&'static Value> {
        let kinds = [Kind::Ssl, Kind::Upstream, Kind::Service, Kind::Route];
        let plain = kinds.into_iter().map(|kind| document(kind, "").unwrap());
        plain
            .chain(MANAGERS.map(|manager| document(Kind::Secret, manager).unwrap()))
            .collect()
    }

    #[test]
    fn every_schema_compiles_and_stands_alone() {
        for schema in all() {
            assert_eq!(schema["type"], "object");
            assert!(!schema.to_string().contains("$ref"));
            assert!(!schema.to_string().contains("null"));
        }
    }

    #[test]
    fn no_field_that_may_hold_a_secret_has_a_rule_that_quotes_it() {
        fn walk(node: &Value) {
            if node.get("x-reference").is_some() {
                assert!(node.get("pattern").is_none() && node.get("format").is_none());
            }
            match node {
                Value::Object(object) => object.values().for_each(walk),
                Value::Array(items) => items.iter().for_each(walk),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
        all().into_iter().for_each(walk);
    }

    #[test]
    fn a_secret_of_an_unknown_manager_has_no_schema() {
        assert!(document(Kind::Secret, "foo").is_none());
        assert!(document(Kind::Secret, "vault").is_some());
    }
}
