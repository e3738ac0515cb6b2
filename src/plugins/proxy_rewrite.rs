//! `proxy-rewrite`: the target and the headers that an upstream gets.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::matching::path;
use crate::matching::template::Template;
use crate::matching::variable::Variables;
use crate::resource::plugins::{Rewrite, TargetRewrite};

/// The longest target that the gateway sends, in bytes, and the longest value of a header. A short
/// template names a long variable as often as it likes.
const MOST_BYTES: usize = 65_534;

/// Why there is no target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`uri` of proxy-rewrite makes a target of more than {MOST_BYTES} bytes of it")]
pub struct TooLong;

/// What is to be done to a request, its variables put in.
pub struct Rewritten {
    target: Option<Result<String, TooLong>>,
    add: Vec<(HeaderName, HeaderValue)>,
    set: Vec<(HeaderName, Option<HeaderValue>)>,
    remove: Vec<HeaderName>,
}

impl Rewritten {
    /// Puts the variables of a request in.
    #[must_use]
    pub fn of(rewrite: &Rewrite, variables: &impl Variables) -> Self {
        let value = |template: &Template| value(template, variables);
        let target = rewrite.target.as_ref();
        Self {
            target: target.map(|target| written(target, variables).ok_or(TooLong)),
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

    /// The target, if it is another one than the client's; `query` is the client's, which stays
    /// (APISIX).
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn target(&self, query: Option<&str>) -> Result<Option<String>, TooLong> {
        let Some(target) = &self.target else {
            return Ok(None);
        };
        let target = target.as_ref().map_err(|too_long| *too_long)?;
        let whole = match query {
            None => target.clone(),
            Some(query) if target.contains('?') => format!("{target}&{query}"),
            Some(query) => format!("{target}?{query}"),
        };
        if whole.len() > MOST_BYTES {
            return Err(TooLong);
        }
        Ok(Some(whole))
    }

    /// Whether headers are to be changed.
    #[must_use]
    pub fn has_headers(&self) -> bool {
        !(self.add.is_empty() && self.set.is_empty() && self.remove.is_empty())
    }

    /// Does it to headers: add, then set, then remove, as in APISIX.
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

/// A target with the values of its variables. What they have in a path stays in the path: a `?` or `%`
/// in it is escaped. In a query they stand as they are, but for what may stand in no target. `None`
/// where either is longer than a target may be.
fn written(target: &TargetRewrite, variables: &impl Variables) -> Option<String> {
    let mut written = path::escape(&target.path.render(variables, MOST_BYTES)?);
    if let Some(query) = &target.query {
        written.push('?');
        for byte in query.render(variables, MOST_BYTES)? {
            match byte {
                b'!'..=b'~' if !matches!(byte, b'"' | b'#' | b'<' | b'>') => {
                    written.push(char::from(byte));
                }
                _ => written.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    Some(written)
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
    let rendered = template.render(variables, MOST_BYTES)?;
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

    /// `arg_a` is `7`, `arg_odd` has what means something in a target, `arg_bad` a line break; all
    /// else is absent.
    struct Sample;

    impl Variables for Sample {
        fn value(&self, variable: &Variable) -> Option<Value<'_>> {
            match variable {
                Variable::Argument(name) if **name == *"a" => Some(Value::of("7")),
                Variable::Argument(name) if **name == *"odd" => Some(Value::of("a?b#% ü")),
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
    fn target_has_the_clients_query_behind_its_own() {
        for (path, query, asked, target) in [
            ("/hello", None, None, "/hello"),
            ("/hello", None, Some("b=%20"), "/hello?b=%20"),
            ("/hello", None, Some(""), "/hello?"),
            ("/hello", Some("a=1"), None, "/hello?a=1"),
            ("/hello", Some("a=1"), Some("b=2"), "/hello?a=1&b=2"),
            ("/x/$arg_a/$arg_none/y", None, None, "/x/7//y"),
            ("/$arg_odd", None, None, "/a%3Fb%23%25%20%C3%BC"),
            ("/", Some("q=$arg_odd"), None, "/?q=a?b%23%%20%C3%BC"),
            ("/a b", None, None, "/a%20b"),
            (
                "/$arg_bad",
                Some("$arg_bad"),
                None,
                "/x%0D%0AX-Own:%201?x%0D%0AX-Own:%201",
            ),
        ] {
            let template = |text| Template::parse(text).unwrap();
            let rewrite = Rewrite {
                target: Some(TargetRewrite {
                    path: template(path),
                    query: query.map(template),
                }),
                ..Rewrite::default()
            };
            let rewritten = Rewritten::of(&rewrite, &Sample);
            let told = rewritten.target(asked).unwrap();
            assert_eq!(told.as_deref(), Some(target), "{path}");
            assert!(!rewritten.has_headers());
        }
        let nothing = Rewritten::of(&Rewrite::default(), &Sample);
        assert_eq!(nothing.target(Some("a=1")), Ok(None));
    }

    #[test]
    fn target_and_headers_are_bounded_whatever_their_variables_hold() {
        let of = |path: &str, query: Option<&str>, header: &str| {
            let template = |text: &str| Template::parse(text).unwrap();
            let rewrite = Rewrite {
                target: Some(TargetRewrite {
                    path: template(path),
                    query: query.map(template),
                }),
                set: vec![(HeaderName::from_static("x-a"), template(header))],
                ..Rewrite::default()
            };
            Rewritten::of(&rewrite, &Sample)
        };
        let sevens = |count: usize| format!("/{}", "$arg_a".repeat(count));
        let longest = of(&sevens(65_533), None, "a");
        assert_eq!(longest.target(None).unwrap().unwrap().len(), 65_534);
        assert_eq!(longest.target(Some("b")), Err(TooLong));
        assert_eq!(of(&sevens(65_534), None, "a").target(None), Err(TooLong));
        let query = sevens(65_534);
        assert_eq!(of("/", Some(&query), "a").target(None), Err(TooLong));
        let escaped = "$arg_odd".repeat(8000);
        assert_eq!(
            of(&format!("/{escaped}"), None, "a").target(None),
            Err(TooLong)
        );
        for (count, is_sent) in [(65_533, true), (65_534, false)] {
            let mut headers = HeaderMap::new();
            headers.insert("x-a", HeaderValue::from_static("old"));
            of("/", None, &sevens(count)).apply(&mut headers);
            assert_eq!(headers.contains_key("x-a"), is_sent, "{count}");
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
        let rewrite = Rewrite {
            target: None,
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
