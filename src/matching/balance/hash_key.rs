//! What a request is hashed by, so that equal ones meet the same node. (APISIX, `hash_on` and `key`)

use crate::matching::balance::ketama::crc32;
use crate::matching::variable::{Fact, Variable, Variables};

/// What a request is hashed by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The client's address.
    Client,
    /// The value of a variable; the client's address where it has none, or an empty one.
    Variable(Variable),
    /// A text with variables in it; the client's address where none of them has a value.
    Combination(Vec<Part>),
}

/// A part of a combination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// As it stands.
    Text(Box<str>),
    /// A variable's value; `None`: nobody knows a variable of this name.
    Variable(Box<str>, Option<Variable>),
}

impl HashKey {
    /// Reads a combination: `$name` and `${name}` are variables, `\$` is a dollar sign.
    #[must_use]
    pub fn combination(text: &str) -> Self {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['$', '\\']) {
            let (before, from) = rest.split_at(at);
            plain.push_str(before);
            if let Some(after) = from.strip_prefix("\\$") {
                plain.push('$');
                rest = after;
                continue;
            }
            let Some((name, after)) = from.strip_prefix('$').and_then(split_name) else {
                let mut chars = from.chars();
                plain.extend(chars.next());
                rest = chars.as_str();
                continue;
            };
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain).into()));
            }
            // What a path's parameters stand for is not known any more when a node is picked, and
            // the body may not have been read.
            let variable = Variable::parse(name).filter(|variable| {
                !matches!(variable, Variable::Parameter(_)) && !variable.is_of_body()
            });
            parts.push(Part::Variable(name.into(), variable));
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain.into()));
        }
        Self::Combination(parts)
    }

    /// Names in a combination that nobody knows: they are always empty.
    pub fn unknown(&self) -> impl Iterator<Item = &str> {
        let parts = match self {
            Self::Combination(parts) => parts.as_slice(),
            Self::Client | Self::Variable(_) => &[],
        };
        parts.iter().filter_map(|part| match part {
            Part::Variable(name, None) => Some(&**name),
            Part::Variable(_, Some(_)) | Part::Text(_) => None,
        })
    }

    /// The hash of a request, as [`Ring::find`](super::Ring::find) takes it.
    #[must_use]
    pub fn hash(&self, request: &impl Variables) -> u32 {
        let value = |variable: &Variable| {
            let value = request.value(variable)?;
            let text = value.text().into_owned();
            (!text.is_empty()).then_some(text)
        };
        let key = match self {
            Self::Client => None,
            Self::Variable(variable) => value(variable),
            Self::Combination(parts) => {
                let mut key = Vec::new();
                let mut has_value = false;
                for part in parts {
                    match part {
                        Part::Text(text) => key.extend_from_slice(text.as_bytes()),
                        Part::Variable(_, variable) => {
                            if let Some(text) = variable.as_ref().and_then(value) {
                                has_value = true;
                                key.extend_from_slice(&text);
                            }
                        }
                    }
                }
                has_value.then_some(key)
            }
        };
        let client = || value(&Variable::Fact(Fact::RemoteAddr)).unwrap_or_default();
        crc32(&key.unwrap_or_else(client))
    }
}

/// A name after `$`, bare or in braces, and what follows it.
fn split_name(text: &str) -> Option<(&str, &str)> {
    let is_name = |name: &str| {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        !name.is_empty() && name.bytes().all(is_part)
    };
    if let Some(inner) = text.strip_prefix('{') {
        return inner.split_once('}').filter(|(name, _)| is_name(name));
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let (name, rest) = text.split_at(end.unwrap_or(text.len()));
    is_name(name).then_some((name, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matching::variable::Value;

    /// A request from 192.0.2.1 with an argument `a` and an empty header `x-empty`.
    struct Asked;

    impl Variables for Asked {
        fn value(&self, variable: &Variable) -> Option<Value<'_>> {
            match variable {
                Variable::Fact(Fact::RemoteAddr) => Some(Value::of("192.0.2.1")),
                Variable::Argument(name) if &**name == "a" => Some(Value::of("1")),
                Variable::Header(name) if &**name == "x-empty" => Some(Value::of("")),
                Variable::Fact(_)
                | Variable::Tls(_)
                | Variable::Client(_)
                | Variable::Argument(_)
                | Variable::Header(_)
                | Variable::Cookie(_)
                | Variable::FormArgument(_)
                | Variable::Body(_)
                | Variable::Graphql(_)
                | Variable::Parameter(_) => None,
            }
        }
    }

    #[test]
    fn a_request_is_hashed_by_what_it_has_else_by_its_client() {
        let named = |name: &str| HashKey::Variable(Variable::parse(name).unwrap());
        for (key, hashed) in [
            (HashKey::Client, "192.0.2.1"),
            (named("arg_a"), "1"),
            (named("arg_b"), "192.0.2.1"),
            (named("http_x_empty"), "192.0.2.1"),
            (HashKey::combination("$arg_a"), "1"),
            (
                HashKey::combination("x-${arg_a}-$remote_addr/$arg_b"),
                "x-1-192.0.2.1/",
            ),
            (HashKey::combination("$arg_b-$nobody"), "192.0.2.1"),
            (HashKey::combination("plain"), "192.0.2.1"),
            (HashKey::combination("\\$arg_a$arg_a"), "$arg_a1"),
            (HashKey::combination("$ ${ ${} $arg_a"), "$ ${ ${} 1"),
            (HashKey::combination("a\\b$arg_a"), "a\\b1"),
        ] {
            assert_eq!(key.hash(&Asked), crc32(hashed.as_bytes()), "{key:?}");
        }
    }

    #[test]
    fn names_that_nobody_knows_are_told() {
        let key = HashKey::combination("$uri$urj${arg_x}${hots}");
        assert_eq!(key.unknown().collect::<Vec<_>>(), ["urj", "hots"]);
        assert_eq!(HashKey::Client.unknown().count(), 0);
    }
}
