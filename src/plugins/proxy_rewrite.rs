//! `proxy-rewrite`: the headers that an upstream gets.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::matching::template::Template;
use crate::matching::variable::Variables;
use crate::resource::plugins::HeaderRewrite;

/// What is to be done to a request's headers, its variables put in.
pub struct Rewritten {
    add: Vec<(HeaderName, HeaderValue)>,
    set: Vec<(HeaderName, Option<HeaderValue>)>,
    remove: Vec<HeaderName>,
}

impl Rewritten {
    /// Puts the variables of a request in.
    #[must_use]
    pub fn of(rewrite: &HeaderRewrite, variables: &impl Variables) -> Self {
        let value = |template: &Template| value(template, variables);
        Self {
            add: rewrite
                .add
                .iter()
                .filter_map(|(name, template)| Some((name.clone(), value(template)?)))
                .collect(),
            set: rewrite
                .set
                .iter()
                .map(|(name, template)| (name.clone(), value(template)))
                .collect(),
            remove: rewrite.remove.clone(),
        }
    }

    /// Does it: add, then set, then remove, as in APISIX.
    ///
    /// One that is set and has no value is taken out, so that no upstream takes a client's word for
    /// it (nginx's `proxy_set_header` does not send an empty one either). For the same reason what
    /// is set or removed goes in every spelling that an upstream may read as the same.
    pub fn apply(self, headers: &mut HeaderMap) {
        for (name, value) in self.add {
            headers.append(name, value);
        }
        let ours = self.set.iter().map(|(name, _)| name).chain(&self.remove);
        for other in other_spellings(headers, ours) {
            headers.remove(other);
        }
        for (name, value) in self.set {
            match value {
                Some(value) => drop(headers.insert(name, value)),
                None => drop(headers.remove(name)),
            }
        }
        for name in self.remove {
            headers.remove(name);
        }
    }
}

/// The names in `headers` that are one of `ours` but for `_` and `-`, which many upstreams take
/// for the same.
fn other_spellings<'n>(
    headers: &HeaderMap,
    ours: impl Iterator<Item = &'n HeaderName>,
) -> Vec<HeaderName> {
    let dashed = |name: &HeaderName| name.as_str().replace('_', "-");
    let ours: Vec<(&HeaderName, String)> = ours.map(|name| (name, dashed(name))).collect();
    let is_other = |name: &&HeaderName| {
        let plain = dashed(name);
        ours.iter()
            .any(|(own, dashed)| *own != *name && *dashed == plain)
            && !ours.iter().any(|(own, _)| *own == *name)
    };
    headers.keys().filter(is_other).cloned().collect()
}

/// `None` where nothing comes out, or what cannot stand in a header.
fn value(template: &Template, variables: &impl Variables) -> Option<HeaderValue> {
    let rendered = template.render(variables);
    let value = rendered.trim_ascii();
    if value.is_empty() {
        return None;
    }
    HeaderValue::from_bytes(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matching::variable::{Value, Variable};

    /// `arg_a` is `7`, `arg_bad` has a line break, all else is absent.
    struct Sample;

    impl Variables for Sample {
        fn value(&self, variable: &Variable) -> Option<Value<'_>> {
            match variable {
                Variable::Argument(name) if **name == *"a" => Some(Value::of("7")),
                Variable::Argument(name) if **name == *"bad" => Some(Value::of("x\r\nX-Own: 1")),
                Variable::Argument(_)
                | Variable::Fact(_)
                | Variable::Tls(_)
                | Variable::Client(_)
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
    fn headers_are_added_set_and_removed() {
        let line = |name: &'static str, text: &str| {
            (
                HeaderName::from_static(name),
                Template::parse(text).unwrap(),
            )
        };
        let rewrite = HeaderRewrite {
            add: vec![line("x-add", "new"), line("x-add", "$arg_none")],
            set: vec![
                line("x-set", "<$arg_a>"),
                line("x-forged", "$ssl_client_s_dn"),
                line("x-split", "$arg_bad"),
            ],
            remove: vec![HeaderName::from_static("x-gone")],
        };
        let mut headers = HeaderMap::new();
        for name in [
            "x-add", "x_add", "x-set", "x_set", "x-set", "x-forged", "x-split", "x-gone", "x_gone",
            "x-kept",
        ] {
            headers.append(name, HeaderValue::from_static("old"));
        }
        Rewritten::of(&rewrite, &Sample).apply(&mut headers);
        let all = |name: &str| -> Vec<&[u8]> {
            headers
                .get_all(name)
                .iter()
                .map(HeaderValue::as_bytes)
                .collect()
        };
        assert_eq!(all("x-add"), [b"old", b"new"]);
        assert_eq!(all("x-set"), [b"<7>"]);
        assert_eq!(
            (all("x-kept"), all("x_add")),
            (vec![&b"old"[..]], vec![&b"old"[..]])
        );
        for name in ["x_set", "x-forged", "x-split", "x-gone", "x_gone", "x-own"] {
            assert!(all(name).is_empty(), "{name}");
        }
    }
}
