//! Texts with variables in them, as `proxy-rewrite` has them: `$name` and `${name}`.

use super::variable::{Variable, Variables};

/// A text with variables.
///
/// ```
/// use portcullis::matching::template::Template;
///
/// assert!(Template::parse("client ${ssl_client_s_dn}, $remote_addr").is_ok());
/// assert_eq!(Template::parse("$ssl_clint_s_dn").unwrap_err().0, "ssl_clint_s_dn");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

/// A name in a template that is no variable's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no request has a variable {0}")]
pub struct UnknownVariable(pub String);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    Variable(Variable),
}

impl Template {
    /// Reads a text. `\$` is a dollar; one that no name follows is itself. Variables of the body are
    /// none here.
    ///
    /// # Errors
    /// [`UnknownVariable`], for the first name that is none.
    pub fn parse(text: &str) -> Result<Self, UnknownVariable> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            if let Some(before) = before.strip_suffix('\\') {
                literal.push_str(before);
                literal.push('$');
                rest = after;
                continue;
            }
            literal.push_str(before);
            let Some((name, after)) = name(after) else {
                literal.push('$');
                rest = after;
                continue;
            };
            let variable = Variable::parse(name).filter(|variable| !variable.is_of_body());
            let variable = variable.ok_or_else(|| UnknownVariable(name.to_owned()))?;
            if !literal.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut literal).into()));
            }
            pieces.push(Piece::Variable(variable));
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal.into()));
        }
        Ok(Self(pieces))
    }

    /// The text for a request; `None` where it would have more than `limit` bytes. A variable that
    /// is absent leaves nothing.
    pub fn render(&self, variables: &impl Variables, limit: usize) -> Option<Vec<u8>> {
        let mut rendered = Vec::new();
        for piece in &self.0 {
            if rendered.len() > limit {
                return None;
            }
            match piece {
                Piece::Text(text) => rendered.extend_from_slice(text.as_bytes()),
                Piece::Variable(variable) => {
                    if let Some(value) = variables.value(variable) {
                        rendered.extend_from_slice(&value.text());
                    }
                }
            }
        }
        (rendered.len() <= limit).then_some(rendered)
    }

    /// The variables in it.
    pub fn variables(&self) -> impl Iterator<Item = &Variable> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Variable(variable) => Some(variable),
            Piece::Text(_) => None,
        })
    }
}

/// The name at the start of what follows a `$`, in braces or not, and what follows it.
fn name(text: &str) -> Option<(&str, &str)> {
    if let Some(braced) = text.strip_prefix('{') {
        return braced.split_once('}').filter(|(name, _)| is_name(name));
    }
    let end = text.find(|letter: char| !is_name_letter(letter));
    let (name, rest) = text.split_at_checked(end.unwrap_or(text.len()))?;
    is_name(name).then_some((name, rest))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_name_letter)
}

fn is_name_letter(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::matching::variable::Value;

    /// `arg_a` is `7`; all else is absent.
    struct Sample;

    impl Variables for Sample {
        fn value(&self, variable: &Variable) -> Option<Value<'_>> {
            (*variable == Variable::Argument("a".into())).then(|| Value::of("7"))
        }
    }

    #[test]
    fn variables_stand_for_their_values() {
        for (text, rendered) in [
            ("", ""),
            ("plain", "plain"),
            ("$arg_a", "7"),
            ("<$arg_a>", "<7>"),
            ("${arg_a}b", "7b"),
            ("$arg_a$arg_a", "77"),
            ("$arg_b.", "."),
            (r"\$arg_a", "$arg_a"),
            ("5$", "5$"),
            ("$ {", "$ {"),
            ("${}", "${}"),
            ("${arg_a", "${arg_a"),
        ] {
            let template = Template::parse(text).unwrap();
            let told = template.render(&Sample, 10).unwrap();
            assert_eq!(told, rendered.as_bytes(), "{text}");
        }
        let unknown = Template::parse("a $arg_a $nothing").unwrap_err();
        assert_eq!(unknown.to_string(), "no request has a variable nothing");
    }

    #[test]
    fn text_is_as_long_as_it_may_be_and_no_longer() {
        let template = Template::parse(&"$arg_a".repeat(10)).unwrap();
        assert_eq!(template.render(&Sample, 10).unwrap(), b"7777777777");
        assert_eq!(template.render(&Sample, 9), None);
        assert_eq!(Template::parse("plain").unwrap().render(&Sample, 4), None);
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text: String) {
            if let Ok(template) = Template::parse(&text) {
                let _ = template.render(&Sample, 100);
            }
        }
    }
}
