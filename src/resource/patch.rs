//! Patches: what a PATCH says, and what it makes of a document.
//!
//! Three forms, as clients send them: a merge of members (APISIX; RFC 7396), one node behind a
//! sub-path (APISIX), and a list of operations (API7; RFC 6902, in `operations`). Nothing here knows
//! kinds or schemas: whether the result is a resource is judged as for every write.

use std::fmt;

use serde_json::{Map, Value};

use self::operations::{Operation, Work};
use super::texts::shown_pointer;
use super::{Document, wipe};

mod operations;

/// How deep a patched document may be nested: as deep as a body is parsed.
const DEPTH_MAX: usize = 127;

/// A change of a part of a document.
///
/// Its values may be keys: they are wiped when it is dropped, and `Debug` shows none.
pub struct Patch(Form);

enum Form {
    Merge(Value),
    Node { path: Vec<String>, value: Value },
    Operations(Vec<Operation>),
}

/// Why a patch cannot be read, or does not fit the document. Quotes no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The sub-path leads through what has no members. (APISIX's text.)
    #[error("invalid sub-path: {0}")]
    SubPath(String),
    /// The sub-path leads into an array.
    #[error("invalid sub-path: {0}: it is an array, which is replaced as a whole")]
    SubPathArray(String),
    /// The document would be nested too deep.
    #[error("the document would be nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
    /// The operations copy more than a body may hold.
    #[error("the operations copy too much")]
    TooLarge,
    /// An operation is none (RFC 6902 §4).
    #[error("invalid JSON Patch: operation {index}: {reason}")]
    Malformed {
        /// Its place in the list, from 0.
        index: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// What an operation names is not there.
    #[error("JSON Patch does not apply: operation {index}: there is nothing at {pointer}")]
    Missing {
        /// Its place in the list, from 0.
        index: usize,
        /// What it names.
        pointer: String,
    },
    /// A `test` found another value.
    #[error("JSON Patch does not apply: operation {index}: the value at {pointer} is another")]
    Differs {
        /// Its place in the list, from 0.
        index: usize,
        /// What it names.
        pointer: String,
    },
}

impl PatchError {
    /// Whether the patch is sound and the document is not as it expects: 409 and not 400.
    /// (RFC 5789 §2.2.)
    #[must_use]
    pub const fn is_conflict(&self) -> bool {
        match self {
            Self::Missing { .. } | Self::Differs { .. } => true,
            Self::SubPath(_)
            | Self::SubPathArray(_)
            | Self::TooDeep
            | Self::TooLarge
            | Self::Malformed { .. } => false,
        }
    }
}

impl Patch {
    /// Merges members: objects recursively, `null` removes, anything else replaces. (RFC 7396.)
    #[must_use]
    pub const fn merge(members: Document) -> Self {
        Self(Form::Merge(Value::Object(members)))
    }

    /// Replaces the node at a sub-path of at least one name; objects on the way are made.
    #[must_use]
    pub const fn node(path: Vec<String>, value: Value) -> Self {
        Self(Form::Node { path, value })
    }

    /// Reads a JSON Patch.
    ///
    /// # Errors
    /// [`PatchError::Malformed`], for the first operation that is none.
    pub fn operations(list: Vec<Value>) -> Result<Self, PatchError> {
        let mut operations = Vec::with_capacity(list.len());
        for (index, mut value) in list.into_iter().enumerate() {
            let read = Operation::read(&mut value);
            wipe(&mut value);
            match read {
                Ok(operation) => operations.push(operation),
                Err(reason) => {
                    drop(Self(Form::Operations(operations)));
                    return Err(PatchError::Malformed { index, reason });
                }
            }
        }
        Ok(Self(Form::Operations(operations)))
    }

    /// Changes a document.
    ///
    /// # Errors
    /// Every [`PatchError`]. The document may have been changed in part.
    pub fn apply(&self, document: &mut Document) -> Result<(), PatchError> {
        match &self.0 {
            Form::Merge(Value::Object(members)) => {
                merge(document, members);
                Ok(())
            }
            Form::Merge(_) => Ok(()),
            Form::Node { path, value } => set_node(document, path, value),
            Form::Operations(list) => Work::on(document, list),
        }
    }

    /// Whether it gives a top-level member a value.
    #[must_use]
    pub fn sets(&self, member: &str) -> bool {
        match &self.0 {
            Form::Merge(members) => members.get(member).is_some_and(|value| !value.is_null()),
            Form::Node { path, .. } => path.len() == 1 && path.iter().any(|name| name == member),
            Form::Operations(list) => list.iter().any(|operation| operation.sets(member)),
        }
    }
}

impl Drop for Patch {
    fn drop(&mut self) {
        match &mut self.0 {
            Form::Merge(value) | Form::Node { value, .. } => wipe(value),
            Form::Operations(list) => list.iter_mut().for_each(Operation::wipe),
        }
    }
}

impl fmt::Debug for Patch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = match &self.0 {
            Form::Merge(_) => "merge",
            Form::Node { .. } => "node",
            Form::Operations(_) => "operations",
        };
        write!(f, "Patch({form})")
    }
}

/// As deep as the patch, which was parsed: the recursion is bounded.
fn merge(target: &mut Document, members: &Map<String, Value>) {
    for (name, value) in members {
        match value {
            Value::Null => {
                // Not `remove`, which would change the order of the others.
                if let Some(mut old) = target.shift_remove(name) {
                    wipe(&mut old);
                }
            }
            Value::Object(inner) => {
                let place = target.entry(name.as_str()).or_insert(Value::Null);
                if !place.is_object() {
                    put(place, Value::Object(Map::new()));
                }
                if let Value::Object(place) = place {
                    merge(place, inner);
                }
            }
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                let place = target.entry(name.as_str()).or_insert(Value::Null);
                put(place, value.clone());
            }
        }
    }
}

fn set_node(document: &mut Document, path: &[String], value: &Value) -> Result<(), PatchError> {
    check_depth(path.len(), value)?;
    let Some((last, parents)) = path.split_last() else {
        return Ok(());
    };
    let mut at = document;
    for (depth, name) in parents.iter().enumerate() {
        let next = at
            .entry(name.as_str())
            .or_insert_with(|| Value::Object(Map::new()));
        at = match next {
            Value::Object(members) => members,
            Value::Array(_) => return Err(PatchError::SubPathArray(sub_path(path, depth))),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                return Err(PatchError::SubPath(sub_path(path, depth)));
            }
        };
    }
    let place = at.entry(last.as_str()).or_insert(Value::Null);
    put(place, value.clone());
    Ok(())
}

/// The sub-path down to a depth, as it may be told.
fn sub_path(path: &[String], depth: usize) -> String {
    let names = path.iter().take(depth.saturating_add(1));
    shown_pointer(names.map(|name| format!("/{name}")).collect())
}

/// Puts a value into its place and wipes what was there.
fn put(place: &mut Value, value: Value) {
    let mut old = std::mem::replace(place, value);
    wipe(&mut old);
}

/// Refuses a value that, so many levels down, would make a document too deep to walk through.
fn check_depth(above: usize, value: &Value) -> Result<(), PatchError> {
    if above.saturating_add(depth(value)) > DEPTH_MAX {
        return Err(PatchError::TooDeep);
    }
    Ok(())
}

fn depth(value: &Value) -> usize {
    let below = match value {
        Value::Array(items) => items.iter().map(depth).max(),
        Value::Object(members) => members.values().map(depth).max(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return 0,
    };
    below.unwrap_or(0).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What becomes of a document.
    pub(super) fn patched(patch: &Patch, document: &Value) -> Result<Value, PatchError> {
        let mut document = document.as_object().unwrap().clone();
        patch.apply(&mut document)?;
        Ok(Value::Object(document))
    }

    fn merged(patch: &Value, document: &Value) -> Value {
        patched(&Patch::merge(patch.as_object().unwrap().clone()), document).unwrap()
    }

    fn with_node(path: &str, value: Value, document: &Value) -> Result<Value, PatchError> {
        let path = path.split('/').map(str::to_owned).collect();
        patched(&Patch::node(path, value), document)
    }

    #[test]
    fn members_are_merged_removed_and_replaced() {
        for (document, patch, expected) in [
            (json!({"a": 1}), json!({"b": 2}), json!({"a": 1, "b": 2})),
            (json!({"a": 1}), json!({"a": null}), json!({})),
            (json!({"a": 1}), json!({"b": null}), json!({"a": 1})),
            (
                json!({"nodes": {"a:1": 1, "b:1": 1}}),
                json!({"nodes": {"b:1": null, "c:1": 2}}),
                json!({"nodes": {"a:1": 1, "c:1": 2}}),
            ),
            (json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]})),
            (json!({"a": {"b": 1}}), json!({"a": [3]}), json!({"a": [3]})),
            (
                json!({"a": [1]}),
                json!({"a": {"b": 1}}),
                json!({"a": {"b": 1}}),
            ),
            (json!({"a": {"b": 1}}), json!({"a": "x"}), json!({"a": "x"})),
            // What says that something is to go is no value of what comes.
            (
                json!({}),
                json!({"a": {"b": {"c": null}}}),
                json!({"a": {"b": {}}}),
            ),
            (json!({"a": 1}), json!({}), json!({"a": 1})),
        ] {
            assert_eq!(merged(&patch, &document), expected, "{patch}");
        }
    }

    #[test]
    fn merge_keeps_the_order_and_the_spelling_of_numbers() {
        let document: Value = serde_json::from_str(r#"{"z":1.0,"b":1,"a":2}"#).unwrap();
        let patch: Value = serde_json::from_str(r#"{"c":1.50,"b":null}"#).unwrap();
        assert_eq!(
            merged(&patch, &document).to_string(),
            r#"{"z":1.0,"a":2,"c":1.50}"#
        );
    }

    #[test]
    fn node_is_replaced_and_objects_on_the_way_are_made() {
        for (path, value, expected) in [
            ("a", json!(5), json!({"a": 5, "d": {"e": 1}})),
            ("d", json!({"f": 1}), json!({"a": [1], "d": {"f": 1}})),
            ("d/e", json!(null), json!({"a": [1], "d": {"e": null}})),
            (
                "x/y/z",
                json!([1]),
                json!({"a": [1], "d": {"e": 1}, "x": {"y": {"z": [1]}}}),
            ),
        ] {
            let document = json!({"a": [1], "d": {"e": 1}});
            assert_eq!(
                with_node(path, value, &document).unwrap(),
                expected,
                "{path}"
            );
        }
    }

    #[test]
    fn sub_path_through_what_has_no_members_is_refused() {
        let document = json!({"a": {"b": "text", "list": [{"x": 1}]}});
        for (path, text) in [
            ("a/b/c", "invalid sub-path: /a/b"),
            ("a/b/c/d", "invalid sub-path: /a/b"),
            (
                "a/list/0/x",
                "invalid sub-path: /a/list: it is an array, which is replaced as a whole",
            ),
            (
                "a/list/1",
                "invalid sub-path: /a/list: it is an array, which is replaced as a whole",
            ),
        ] {
            let error = with_node(path, json!(1), &document).unwrap_err();
            assert_eq!(error.to_string(), text);
            assert!(!error.is_conflict());
        }
    }

    #[test]
    fn document_does_not_become_deeper_than_a_body_may_be() {
        let path = |length| vec!["a".to_owned(); length];
        let at = |length, value| patched(&Patch::node(path(length), value), &json!({}));
        at(127, json!(1)).unwrap();
        assert_eq!(at(128, json!(1)), Err(PatchError::TooDeep));
        at(126, json!({})).unwrap();
        assert_eq!(at(127, json!([])), Err(PatchError::TooDeep));
        assert_eq!(at(50_000, json!(1)), Err(PatchError::TooDeep));
    }

    #[test]
    fn what_gives_update_time_a_value_says_so() {
        let merge = |value: Value| Patch::merge(value.as_object().unwrap().clone());
        let operation = |op: &str| {
            let list = vec![json!({"op": op, "path": "/update_time", "value": 1})];
            Patch::operations(list).unwrap()
        };
        let node = |path: &[&str]| {
            Patch::node(
                path.iter().map(|name| (*name).to_owned()).collect(),
                json!(1),
            )
        };
        for (patch, expected) in [
            (merge(json!({"update_time": 1})), true),
            (merge(json!({"update_time": null})), false),
            (merge(json!({"upstream": {"update_time": 1}})), false),
            (node(&["update_time"]), true),
            (node(&["upstream", "update_time"]), false),
            (operation("replace"), true),
            (operation("test"), false),
        ] {
            assert_eq!(patch.sets("update_time"), expected, "{patch:?}");
        }
    }

    #[test]
    fn debug_shows_no_value() {
        let patch = Patch::merge(json!({"key": "CANARY"}).as_object().unwrap().clone());
        assert_eq!(format!("{patch:?}"), "Patch(merge)");
    }
}
