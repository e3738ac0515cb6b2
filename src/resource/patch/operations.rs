//! JSON Patch (RFC 6902): operations on a document, in order, until one does not apply.

use serde_json::{Map, Value};

use super::{PatchError, check_depth, put};
use crate::resource::texts::shown_pointer;
use crate::resource::{Document, wipe};

/// How many bytes `copy` may add, all operations together: as many as a body may have.
const COPIED_BYTES: usize = 1_572_864;

/// One operation.
pub(super) enum Operation {
    Add(Pointer, Value),
    Remove(Pointer),
    Replace(Pointer, Value),
    Move(Pointer, Pointer),
    Copy(Pointer, Pointer),
    Test(Pointer, Value),
}

/// A JSON Pointer (RFC 6901), its names unescaped.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Pointer(Vec<String>);

impl Pointer {
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self(Vec::new()));
        }
        let names = text.strip_prefix('/')?.split('/').map(unescape);
        names.collect::<Option<Vec<_>>>().map(Self)
    }

    /// As it may be told.
    fn told(&self) -> String {
        if self.0.is_empty() {
            return "the root".to_owned();
        }
        let escape = |name: &String| format!("/{}", name.replace('~', "~0").replace('/', "~1"));
        shown_pointer(self.0.iter().map(escape).collect())
    }
}

/// RFC 6901 §3: `~` is followed by `0` or `1`.
fn unescape(name: &str) -> Option<String> {
    let mut rest = name.split('~');
    let mut plain = rest.next().unwrap_or_default().to_owned();
    for part in rest {
        let (sign, tail) = match part.as_bytes().first()? {
            b'0' => ('~', part.get(1..)?),
            b'1' => ('/', part.get(1..)?),
            _ => return None,
        };
        plain.push(sign);
        plain.push_str(tail);
    }
    Some(plain)
}

impl Operation {
    /// Reads one; members that RFC 6902 does not name are ignored, as it says (§4).
    pub(super) fn read(value: &mut Value) -> Result<Self, &'static str> {
        let members = value.as_object_mut().ok_or("it is no object")?;
        let path = pointer(members, "path").ok_or("`path` is no JSON Pointer")?;
        let from = |members: &Map<String, Value>| {
            pointer(members, "from").ok_or("`from` is no JSON Pointer")
        };
        let value = |members: &mut Map<String, Value>| {
            members
                .get_mut("value")
                .map(Value::take)
                .ok_or("`value` is missing")
        };
        match members.get("op").and_then(Value::as_str) {
            Some("add") => Ok(Self::Add(path, value(members)?)),
            Some("remove") => Ok(Self::Remove(path)),
            Some("replace") => Ok(Self::Replace(path, value(members)?)),
            Some("move") => {
                let from = from(members)?;
                if path.0.len() > from.0.len() && path.0.starts_with(&from.0) {
                    return Err("a value cannot be moved into itself");
                }
                Ok(Self::Move(from, path))
            }
            Some("copy") => Ok(Self::Copy(from(members)?, path)),
            Some("test") => Ok(Self::Test(path, value(members)?)),
            _ => Err("`op` is none of add, remove, replace, move, copy and test"),
        }
    }

    /// Whether it gives a top-level member a value.
    pub(super) fn sets(&self, member: &str) -> bool {
        match self {
            Self::Add(path, _)
            | Self::Replace(path, _)
            | Self::Move(_, path)
            | Self::Copy(_, path) => path.0.len() == 1 && path.0.iter().any(|name| name == member),
            Self::Remove(_) | Self::Test(..) => false,
        }
    }

    /// Wipes its texts.
    pub(super) fn wipe(&mut self) {
        match self {
            Self::Add(_, value) | Self::Replace(_, value) | Self::Test(_, value) => wipe(value),
            Self::Remove(_) | Self::Move(..) | Self::Copy(..) => {}
        }
    }
}

fn pointer(members: &Map<String, Value>, name: &str) -> Option<Pointer> {
    members.get(name)?.as_str().and_then(Pointer::parse)
}

/// A document under operations.
pub(super) struct Work {
    root: Value,
    copied_bytes: usize,
    /// The operation at work, from 0.
    index: usize,
}

impl Drop for Work {
    fn drop(&mut self) {
        wipe(&mut self.root);
    }
}

impl Work {
    /// Applies a list to a document; one that fails leaves it empty.
    pub(super) fn on(document: &mut Document, list: &[Operation]) -> Result<(), PatchError> {
        let mut work = Self {
            root: Value::Object(std::mem::take(document)),
            copied_bytes: 0,
            index: 0,
        };
        for (index, operation) in list.iter().enumerate() {
            work.index = index;
            work.apply(operation)?;
        }
        let Value::Object(patched) = &mut work.root else {
            return Err(work.malformed("what is left is no object"));
        };
        *document = std::mem::take(patched);
        Ok(())
    }

    fn apply(&mut self, operation: &Operation) -> Result<(), PatchError> {
        match operation {
            Operation::Add(path, value) => self.add(path, value.clone()),
            Operation::Remove(path) => {
                let mut removed = self.remove(path)?;
                wipe(&mut removed);
                Ok(())
            }
            Operation::Replace(path, value) => {
                check_depth(path.0.len(), value)?;
                match self.find_mut(path) {
                    Some(place) => {
                        put(place, value.clone());
                        Ok(())
                    }
                    None => Err(self.missing(path)),
                }
            }
            Operation::Move(from, path) => {
                let moved = self.remove(from)?;
                self.add(path, moved)
            }
            Operation::Copy(from, path) => {
                let found = self.find(from).ok_or_else(|| self.missing(from))?;
                let total = self.copied_bytes.saturating_add(weight(found));
                if total > COPIED_BYTES {
                    return Err(PatchError::TooLarge);
                }
                let copy = found.clone();
                self.copied_bytes = total;
                self.add(path, copy)
            }
            Operation::Test(path, value) => match self.find(path) {
                None => Err(self.missing(path)),
                Some(found) if is_equal(found, value) => Ok(()),
                Some(_) => Err(PatchError::Differs {
                    index: self.index,
                    pointer: path.told(),
                }),
            },
        }
    }

    /// RFC 6902 §4.1: sets a member, or inserts before an element; `-` is behind the last.
    fn add(&mut self, path: &Pointer, value: Value) -> Result<(), PatchError> {
        check_depth(path.0.len(), &value)?;
        let Some((last, parents)) = path.0.split_last() else {
            put(&mut self.root, value);
            return Ok(());
        };
        let is_added = match walk_mut(&mut self.root, parents) {
            Some(Value::Object(members)) => {
                put(members.entry(last.as_str()).or_insert(Value::Null), value);
                true
            }
            Some(Value::Array(items)) => {
                let at = if last == "-" {
                    Some(items.len())
                } else {
                    position(last).filter(|at| *at <= items.len())
                };
                if let Some(at) = at {
                    items.insert(at, value);
                }
                at.is_some()
            }
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) | None => {
                false
            }
        };
        if is_added {
            Ok(())
        } else {
            Err(self.missing(path))
        }
    }

    fn remove(&mut self, path: &Pointer) -> Result<Value, PatchError> {
        let Some((last, parents)) = path.0.split_last() else {
            return Ok(self.root.take());
        };
        let removed = match walk_mut(&mut self.root, parents) {
            // Not `remove`, which would change the order of the others.
            Some(Value::Object(members)) => members.shift_remove(last),
            Some(Value::Array(items)) => position(last)
                .filter(|at| *at < items.len())
                .map(|at| items.remove(at)),
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) | None => None,
        };
        removed.ok_or_else(|| self.missing(path))
    }

    fn find(&self, path: &Pointer) -> Option<&Value> {
        path.0.iter().try_fold(&self.root, |at, name| match at {
            Value::Object(members) => members.get(name),
            Value::Array(items) => items.get(position(name)?),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
        })
    }

    fn find_mut(&mut self, path: &Pointer) -> Option<&mut Value> {
        walk_mut(&mut self.root, &path.0)
    }

    fn missing(&self, path: &Pointer) -> PatchError {
        PatchError::Missing {
            index: self.index,
            pointer: path.told(),
        }
    }

    fn malformed(&self, reason: &'static str) -> PatchError {
        PatchError::Malformed {
            index: self.index,
            reason,
        }
    }
}

fn walk_mut<'v>(root: &'v mut Value, path: &[String]) -> Option<&'v mut Value> {
    path.iter().try_fold(root, |at, name| match at {
        Value::Object(members) => members.get_mut(name),
        Value::Array(items) => items.get_mut(position(name)?),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    })
}

/// The index of an element: digits without a leading zero (RFC 6901 §4).
fn position(name: &str) -> Option<usize> {
    let is_index =
        name.bytes().all(|byte| byte.is_ascii_digit()) && (name == "0" || !name.starts_with('0'));
    is_index.then(|| name.parse().ok()).flatten()
}

/// RFC 6902 §4.6: numbers by value, objects whatever the order of their members.
fn is_equal(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::Number(one), Value::Number(other)) => {
            one == other
                || one
                    .as_f64()
                    .zip(other.as_f64())
                    .is_some_and(|(one, other)| one.total_cmp(&other).is_eq())
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other)
                    .all(|(one, other)| is_equal(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(name, value)| {
                    other.get(name).is_some_and(|other| is_equal(value, other))
                })
        }
        (one, other) => one == other,
    }
}

/// About how many bytes a value takes.
fn weight(value: &Value) -> usize {
    let below = match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(weight).fold(0, usize::saturating_add),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| name.len().saturating_add(weight(value)))
            .fold(0, usize::saturating_add),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    };
    below.saturating_add(size_of::<Value>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::patched;
    use super::super::{Patch, PatchError};
    use super::*;

    fn apply(list: &Value, document: &Value) -> Result<Value, PatchError> {
        let list = list.as_array().unwrap().clone();
        patched(&Patch::operations(list)?, document)
    }

    #[test]
    fn operations_of_the_rfc_s_examples_apply() {
        // RFC 6902, appendix A.
        for (document, list, expected) in [
            (
                json!({"foo": "bar"}),
                json!([{"op": "add", "path": "/baz", "value": "qux"}]),
                json!({"foo": "bar", "baz": "qux"}),
            ),
            (
                json!({"foo": ["bar", "baz"]}),
                json!([{"op": "add", "path": "/foo/1", "value": "qux"}]),
                json!({"foo": ["bar", "qux", "baz"]}),
            ),
            (
                json!({"baz": "qux", "foo": "bar"}),
                json!([{"op": "remove", "path": "/baz"}]),
                json!({"foo": "bar"}),
            ),
            (
                json!({"foo": ["bar", "qux", "baz"]}),
                json!([{"op": "remove", "path": "/foo/1"}]),
                json!({"foo": ["bar", "baz"]}),
            ),
            (
                json!({"baz": "qux", "foo": "bar"}),
                json!([{"op": "replace", "path": "/baz", "value": "boo"}]),
                json!({"baz": "boo", "foo": "bar"}),
            ),
            (
                json!({"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}}),
                json!([{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}]),
                json!({"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}}),
            ),
            (
                json!({"foo": ["all", "grass", "cows", "eat"]}),
                json!([{"op": "move", "from": "/foo/1", "path": "/foo/3"}]),
                json!({"foo": ["all", "cows", "eat", "grass"]}),
            ),
            (
                json!({"baz": "qux", "foo": ["a", 2, "c"]}),
                json!([{"op": "test", "path": "/baz", "value": "qux"},
                       {"op": "test", "path": "/foo/1", "value": 2.0}]),
                json!({"baz": "qux", "foo": ["a", 2, "c"]}),
            ),
            (
                json!({"foo": "bar"}),
                json!([{"op": "add", "path": "/child", "value": {"grandchild": {}}}]),
                json!({"foo": "bar", "child": {"grandchild": {}}}),
            ),
            (
                json!({"foo": "bar"}),
                json!([{"op": "add", "path": "/baz", "value": "qux", "xyz": 123}]),
                json!({"foo": "bar", "baz": "qux"}),
            ),
            (
                json!({"/": 9, "~1": 10}),
                json!([{"op": "test", "path": "/~01", "value": 10},
                       {"op": "replace", "path": "/~1", "value": 1}]),
                json!({"/": 1, "~1": 10}),
            ),
            (
                json!({"foo": ["bar"]}),
                json!([{"op": "add", "path": "/foo/-", "value": ["abc", "def"]}]),
                json!({"foo": ["bar", ["abc", "def"]]}),
            ),
            (
                json!({"a": {"b": 1}}),
                json!([{"op": "copy", "from": "/a", "path": "/c"},
                       {"op": "replace", "path": "", "value": {"d": null}},
                       {"op": "test", "path": "/d", "value": null}]),
                json!({"d": null}),
            ),
        ] {
            assert_eq!(apply(&list, &document).unwrap(), expected, "{list}");
        }
    }

    #[test]
    fn what_does_not_apply_is_a_conflict_that_names_operation_and_place() {
        let document = json!({"foo": ["bar"], "baz": "qux", "n": {"a/b": 1}});
        for (list, text) in [
            (
                json!([{"op": "add", "path": "/x/y", "value": 1}]),
                "operation 0: there is nothing at /x/y",
            ),
            (
                json!([{"op": "remove", "path": "/baz"}, {"op": "remove", "path": "/baz"}]),
                "operation 1: there is nothing at /baz",
            ),
            (
                json!([{"op": "replace", "path": "/n/c~1d", "value": 1}]),
                "operation 0: there is nothing at /n/c~1d",
            ),
            (
                json!([{"op": "add", "path": "/foo/2", "value": 1}]),
                "operation 0: there is nothing at /foo/2",
            ),
            (
                json!([{"op": "remove", "path": "/foo/-"}]),
                "operation 0: there is nothing at /foo/-",
            ),
            (
                json!([{"op": "test", "path": "/foo/00", "value": "bar"}]),
                "operation 0: there is nothing at /foo/00",
            ),
            (
                json!([{"op": "test", "path": "/baz", "value": "CANARY"}]),
                "operation 0: the value at /baz is another",
            ),
            (
                json!([{"op": "test", "path": "", "value": {}}]),
                "operation 0: the value at the root is another",
            ),
            (
                json!([{"op": "copy", "from": "/none", "path": "/a"}]),
                "operation 0: there is nothing at /none",
            ),
        ] {
            let error = apply(&list, &document).unwrap_err();
            assert!(error.is_conflict(), "{list}");
            assert_eq!(
                error.to_string(),
                format!("JSON Patch does not apply: {text}")
            );
        }
    }

    #[test]
    fn what_is_no_operation_is_refused() {
        for (operation, reason) in [
            (json!("add"), "it is no object"),
            (
                json!({"op": "add", "value": 1}),
                "`path` is no JSON Pointer",
            ),
            (
                json!({"op": "add", "path": "a", "value": 1}),
                "`path` is no JSON Pointer",
            ),
            (
                json!({"op": "remove", "path": "/a~2"}),
                "`path` is no JSON Pointer",
            ),
            (
                json!({"op": "remove", "path": "/a~"}),
                "`path` is no JSON Pointer",
            ),
            (json!({"op": "add", "path": "/a"}), "`value` is missing"),
            (
                json!({"op": "move", "path": "/a"}),
                "`from` is no JSON Pointer",
            ),
            (
                json!({"op": "move", "from": "/a", "path": "/a/b"}),
                "a value cannot be moved into itself",
            ),
            (
                json!({"op": "set", "path": "/a", "value": 1}),
                "`op` is none of add, remove, replace, move, copy and test",
            ),
        ] {
            let good = json!({"op": "remove", "path": "/a"});
            let error = apply(&json!([good, operation]), &json!({"a": 1})).unwrap_err();
            let text = format!("invalid JSON Patch: operation 1: {reason}");
            assert_eq!(error.to_string(), text);
            assert!(!error.is_conflict());
        }
        for list in [
            json!([{"op": "remove", "path": ""}]),
            json!([{"op": "replace", "path": "", "value": []}]),
        ] {
            let error = apply(&list, &json!({})).unwrap_err().to_string();
            assert!(error.ends_with("what is left is no object"), "{error}");
        }
    }

    #[test]
    fn neighbours_of_a_name_are_not_below_it() {
        let list = json!([{"op": "move", "from": "/a", "path": "/ab"}]);
        assert_eq!(apply(&list, &json!({"a": 1})).unwrap(), json!({"ab": 1}));
    }

    #[test]
    fn copies_are_bounded_in_size_and_depth() {
        let doubling = |count: usize| {
            let one = json!({"op": "copy", "from": "/a", "path": "/a/-"});
            json!(vec![one; count])
        };
        apply(&doubling(10), &json!({"a": []})).unwrap();
        assert_eq!(
            apply(&doubling(60), &json!({"a": []})),
            Err(PatchError::TooLarge)
        );
        let nesting = |count: usize| {
            json!(
                (0..count)
                    .map(|depth| json!({"op": "add", "path": "/a".repeat(depth + 1), "value": {}}))
                    .collect::<Vec<_>>()
            )
        };
        apply(&nesting(126), &json!({})).unwrap();
        assert_eq!(apply(&nesting(127), &json!({})), Err(PatchError::TooDeep));
    }
}
