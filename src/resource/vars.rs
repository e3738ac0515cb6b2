//! A route's `vars`: from JSON to the expression that a request is held against.
//!
//! The grammar and its sentences are lua-resty-expr's, which APISIX uses. What it would accept and
//! silently never match (an operator without a number, a misspelt variable) is refused or told.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::fault::Verdict;
use super::texts;
use crate::matching::content::json_path::JsonPath;
use crate::matching::patterns::TextRegex;
use crate::matching::variable::{self, Variable};
use crate::matching::vars::{Comparison, Constant, Expression, Test, number};

/// How many conditions one expression may hold.
const CONDITIONS_MAX: usize = 256;
/// How many of them may search by a pattern.
const PATTERNS_MAX: usize = 64;
/// How deep groups may nest.
const DEPTH_MAX: usize = 16;

/// Reads `vars`, the value at `/vars`. `None` where nothing is asked, or with a fault.
pub(super) fn read(value: &Value, verdict: &mut Verdict) -> Option<Expression> {
    let items = value.as_array().filter(|items| !items.is_empty())?;
    let mut reader = Reader {
        condition_count: 0,
        pattern_count: 0,
        verdict,
    };
    match reader.whole(items) {
        Ok(expression) => Some(expression),
        Err(Fault { at, reason }) => {
            let text = format!("failed to validate the 'vars' expression: {reason}");
            verdict.refuse_as_apisix(at, text);
            None
        }
    }
}

/// What is wrong, and where.
struct Fault {
    at: String,
    reason: String,
}

impl Fault {
    fn new(at: &str, reason: impl Into<String>) -> Self {
        Self {
            at: at.to_owned(),
            reason: reason.into(),
        }
    }
}

/// A word that puts conditions together.
#[derive(Clone, Copy)]
enum Group {
    All,
    Any,
    NotAll,
    NotAny,
}

impl Group {
    fn parse(word: &str) -> Option<Self> {
        let words = [
            ("AND", Self::All),
            ("OR", Self::Any),
            ("!AND", Self::NotAll),
            ("!OR", Self::NotAny),
        ];
        let found = words.iter().find(|(own, _)| own.eq_ignore_ascii_case(word));
        found.map(|(_, group)| *group)
    }

    fn join(self, parts: Vec<Expression>) -> Expression {
        match self {
            Self::All => Expression::All(parts),
            Self::Any => Expression::Any(parts),
            Self::NotAll => Expression::Not(Box::new(Expression::All(parts))),
            Self::NotAny => Expression::Not(Box::new(Expression::Any(parts))),
        }
    }
}

struct Reader<'v> {
    condition_count: usize,
    pattern_count: usize,
    verdict: &'v mut Verdict,
}

impl Reader<'_> {
    /// The whole of `vars`: a group, or conditions and groups that must all hold.
    fn whole(&mut self, items: &[Value]) -> Result<Expression, Fault> {
        let at = "/vars";
        if let Some(group) = group_of(items) {
            return self.group(group, items, at, 1);
        }
        self.all(items, at, 0)
    }

    /// A condition or a group within another.
    fn part(&mut self, value: &Value, at: &str, depth: usize) -> Result<Expression, Fault> {
        if depth > DEPTH_MAX {
            let reason = format!("groups nest at most {DEPTH_MAX} deep; take some apart");
            return Err(Fault::new(at, reason));
        }
        let Some(items) = value.as_array() else {
            return Err(Fault::new(at, "rule should be wrapped inside brackets"));
        };
        match group_of(items) {
            Some(group) => self.group(group, items, at, depth),
            // A list within a list, whose parts must all hold. (lua-resty-expr.)
            None if items.first().is_some_and(Value::is_array) => self.all(items, at, depth),
            None => self.condition(items, at),
        }
    }

    /// Conditions and groups that must all hold.
    fn all(&mut self, items: &[Value], at: &str, depth: usize) -> Result<Expression, Fault> {
        let parts = items.iter().enumerate();
        let parts = parts.map(|(index, item)| self.part(item, &format!("{at}/{index}"), depth + 1));
        Ok(Expression::All(parts.collect::<Result<_, _>>()?))
    }

    fn group(
        &mut self,
        group: Group,
        items: &[Value],
        at: &str,
        depth: usize,
    ) -> Result<Expression, Fault> {
        // The word, and two at least.
        if items.len() < 3 {
            return Err(Fault::new(at, "rule too short"));
        }
        let parts = items.iter().enumerate().skip(1);
        let parts = parts.map(|(index, item)| self.part(item, &format!("{at}/{index}"), depth + 1));
        Ok(group.join(parts.collect::<Result<_, _>>()?))
    }

    /// `[name, op, value]`, `[name, "!", op, value]` or `[name, value]`.
    fn condition(&mut self, items: &[Value], at: &str) -> Result<Expression, Fault> {
        self.condition_count += 1;
        if self.condition_count > CONDITIONS_MAX {
            let reason = format!("more than {CONDITIONS_MAX} conditions; use `in` or a pattern");
            return Err(Fault::new(at, reason));
        }
        let equals = Value::from("==");
        let (name, operator, right, is_negated) = match items {
            [] | [_] => return Err(Fault::new(at, "rule too short")),
            [name, right] => (name, &equals, right, false),
            [name, operator, right] => (name, operator, right, false),
            [name, not, operator, right] if not == "!" => (name, operator, right, true),
            [_, _, _, _] => return Err(Fault::new(at, "bad 'not' expression")),
            _ => return Err(Fault::new(at, "invalid expression")),
        };
        let place = |index: usize| format!("{at}/{index}");
        let Some(name) = name.as_str() else {
            return Err(Fault::new(&place(0), "invalid expression"));
        };
        let variable = self.variable(name, place(0))?;
        let operator_at = if is_negated { 2 } else { 1 };
        let Some(operator) = operator.as_str() else {
            let shown = texts::shown(&operator.to_string());
            let reason = format!("invalid operator '{shown}'");
            return Err(Fault::new(&place(operator_at), reason));
        };
        let test = self.test(operator, right).map_err(|fault| {
            let (index, reason) = match fault {
                TestFault::Operator(reason) => (operator_at, reason),
                TestFault::Value(reason) => (items.len() - 1, reason),
            };
            Fault::new(&place(index), reason)
        })?;
        let condition = Expression::Is { variable, test };
        Ok(if is_negated {
            Expression::Not(Box::new(condition))
        } else {
            condition
        })
    }

    fn variable(&mut self, name: &str, at: String) -> Result<Option<Variable>, Fault> {
        if let Some(path) = name.strip_prefix(variable::BODY)
            && let Err(error) = JsonPath::parse(path)
        {
            let reason = format!("{} cannot be used: {error}", texts::shown(name));
            return Err(Fault::new(&at, reason));
        }
        let variable = Variable::parse(name);
        if variable.is_none() {
            let remedy = match texts::nearest(name, Variable::names()) {
                Some(known) => format!("did you mean {known}?"),
                None => "its name is none that nginx or APISIX know here".to_owned(),
            };
            let shown = texts::shown(name);
            let text = format!("no request has a variable {shown}, it is always absent: {remedy}");
            self.verdict.warn("variable_unknown", at, text);
        }
        Ok(variable)
    }

    fn test(&mut self, operator: &str, right: &Value) -> Result<Test, TestFault> {
        let compares = |comparison| match right_number(right) {
            Some(right) => Ok(Test::Compares(comparison, Some(right))),
            None => {
                let reason = format!("{operator} compares numbers: give one");
                Err(TestFault::Value(reason))
            }
        };
        match operator.to_ascii_lowercase().as_str() {
            "==" => Ok(Test::Equals(constant(right))),
            "~=" => Ok(Test::Differs(constant(right))),
            ">" => compares(Comparison::Greater),
            ">=" => compares(Comparison::AtLeast),
            "<" => compares(Comparison::Less),
            "<=" => compares(Comparison::AtMost),
            "~~" => self.pattern(right, false),
            "~*" => self.pattern(right, true),
            "in" => match right.as_array() {
                Some(items) => Ok(Test::In(items.iter().map(constant).collect())),
                None => Err(TestFault::Value("in needs a list of values".to_owned())),
            },
            "has" => Ok(Test::Has(constant(right))),
            "ipmatch" => Ok(Test::Within(networks(right)?)),
            _ => {
                let reason = format!("invalid operator '{}'", texts::shown(operator));
                Err(TestFault::Operator(reason))
            }
        }
    }

    fn pattern(&mut self, right: &Value, folds_case: bool) -> Result<Test, TestFault> {
        self.pattern_count += 1;
        if self.pattern_count > PATTERNS_MAX {
            let reason = format!("more than {PATTERNS_MAX} patterns; put some together with |");
            return Err(TestFault::Value(reason));
        }
        let Some(pattern) = right.as_str() else {
            return Err(TestFault::Value("a pattern is a text".to_owned()));
        };
        match TextRegex::compile(pattern, folds_case) {
            Ok(regex) => Ok(Test::Finds(regex)),
            Err(error) => Err(TestFault::Value(format!(
                "the pattern cannot be used: {error}"
            ))),
        }
    }
}

/// What is wrong with a test, and on which side of it.
enum TestFault {
    Operator(String),
    Value(String),
}

/// The group that a list is: its first item is such a word, and what follows is no value of a
/// condition on a variable of that name.
fn group_of(items: &[Value]) -> Option<Group> {
    let word = items.first()?.as_str()?;
    Group::parse(word).filter(|_| items.get(1).is_none_or(Value::is_array))
}

fn constant(value: &Value) -> Constant {
    match value {
        Value::Null => Constant::Null,
        Value::String(text) => Constant::Text(text.as_str().into()),
        Value::Number(_) => match right_number(value) {
            Some(number) => Constant::Number(number),
            None => Constant::Never,
        },
        Value::Bool(is) => Constant::Bool(*is),
        Value::Array(_) | Value::Object(_) => Constant::Never,
    }
}

/// A number, written as one or as a text.
fn right_number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(written) => written.as_f64().filter(|number| number.is_finite()),
        Value::String(text) => number(text.as_bytes()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// One address or network, or a list of them.
fn networks(value: &Value) -> Result<Vec<IpNet>, TestFault> {
    let one = std::slice::from_ref(value);
    let items = value.as_array().map_or(one, Vec::as_slice);
    let read = |item: &Value| item.as_str().and_then(network);
    let nets: Option<Vec<IpNet>> = items.iter().map(read).collect();
    nets.filter(|nets| !nets.is_empty())
        .ok_or_else(|| TestFault::Value("invalid ip address".to_owned()))
}

/// An address or a network; bits behind the prefix are cut, as APISIX does.
pub(super) fn network(text: &str) -> Option<IpNet> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address
        .or_else(|_| text.parse::<IpNet>())
        .map(|net| net.trunc())
        .ok()
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use serde_json::json;

    use super::*;
    use crate::matching::variable::Variables;

    fn judged(vars: &Value) -> (Option<Expression>, Verdict) {
        let mut verdict = Verdict::default();
        (read(vars, &mut verdict), verdict)
    }

    #[track_caller]
    fn refused(vars: &Value) -> (String, String) {
        let (expression, verdict) = judged(vars);
        assert!(expression.is_none(), "accepted: {vars}");
        let fault = &verdict.faults[0];
        let prefix = "failed to validate the 'vars' expression: ";
        let reason = fault.reason.strip_prefix(prefix).unwrap();
        (fault.pointer.clone(), reason.to_owned())
    }

    /// Every query argument is `7`, all else is absent.
    struct Seven;

    impl Variables for Seven {
        fn value(&self, variable: &Variable) -> Option<variable::Value<'_>> {
            matches!(variable, Variable::Argument(_))
                .then_some(variable::Value::Text(Cow::Borrowed(b"7")))
        }
    }

    #[test]
    fn what_apisix_writes_is_read_as_it_means_it() {
        let yes = json!(["arg_a", "==", "7"]);
        let no = json!(["arg_a", "==", "8"]);
        for (vars, holds) in [
            (json!([yes]), true),
            (json!([yes, no]), false),
            (json!([[yes]]), true),
            (json!([[yes, no]]), false),
            (json!(["OR", [no, yes], [yes, [yes]]]), true),
            (json!([["arg_a", "7"]]), true),
            (json!([["arg_a", "==", 7]]), true),
            (json!([["arg_a", "!", "==", 7]]), false),
            (json!([["arg_a", "~=", "8"]]), true),
            (json!([["arg_a", ">", "6"], ["arg_a", "<=", 7]]), true),
            (json!([["arg_a", "IN", ["6", "7"]]]), true),
            (json!([["arg_a", "!", "in", ["6", "7"]]]), false),
            (json!([["arg_a", "~~", "^[0-9]$"]]), true),
            (json!([["arg_a", "~*", "^[a-z]$"]]), false),
            (json!([["http_x", "==", null]]), true),
            (json!([["arg_a", "==", true]]), false),
            (json!(["OR", no, yes]), true),
            (json!(["AND", no, yes]), false),
            (json!(["!OR", no, no]), true),
            (json!(["!AND", yes, no]), true),
            (json!(["and", yes, ["or", no, yes]]), true),
            (json!([yes, ["OR", no, ["!AND", yes, no]]]), true),
            (
                json!([["remote_addr", "ipmatch", ["10.0.0.0/8", "::1"]]]),
                false,
            ),
        ] {
            let (expression, verdict) = judged(&vars);
            let faults = verdict.faults;
            let Some(expression) = expression else {
                panic!("{vars}: {faults:?}");
            };
            assert_eq!(expression.holds(&Seven), holds, "{vars}");
            assert!(verdict.warnings.is_empty(), "{vars}");
        }
        assert!(judged(&json!([])).0.is_none());
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_place() {
        for (vars, at, reason) in [
            (json!([["arg_a"]]), "/vars/0", "rule too short"),
            (json!([[]]), "/vars/0", "rule too short"),
            (json!(["OR"]), "/vars", "rule too short"),
            (json!(["OR", ["arg_a", "1"]]), "/vars", "rule too short"),
            (
                json!(["arg_a", "==", "1"]),
                "/vars/0",
                "rule should be wrapped inside brackets",
            ),
            (
                json!(["OR", ["arg_a", "1"], "x"]),
                "/vars/2",
                "rule should be wrapped inside brackets",
            ),
            (
                json!([["arg_a", "not", "==", "1"]]),
                "/vars/0",
                "bad 'not' expression",
            ),
            (
                json!([["arg_a", "!", "==", "1", "2"]]),
                "/vars/0",
                "invalid expression",
            ),
            (
                json!([[["arg_a"], "==", "1"]]),
                "/vars/0/0",
                "rule too short",
            ),
            (
                json!([["arg_a", "===", "1"]]),
                "/vars/0/1",
                "invalid operator '==='",
            ),
            (
                json!([["arg_a", "!", "x", "1"]]),
                "/vars/0/2",
                "invalid operator 'x'",
            ),
            (
                json!([["arg_a", 1, "1"]]),
                "/vars/0/1",
                "invalid operator '1'",
            ),
            (
                json!([["remote_addr", "ipmatch", ["10.0.0.256"]]]),
                "/vars/0/2",
                "invalid ip address",
            ),
            (
                json!([["remote_addr", "ipmatch", []]]),
                "/vars/0/2",
                "invalid ip address",
            ),
            (
                json!([["arg_a", ">", "x"]]),
                "/vars/0/2",
                "> compares numbers: give one",
            ),
            (
                json!([["arg_a", "in", "x"]]),
                "/vars/0/2",
                "in needs a list of values",
            ),
            (
                json!([["arg_a", "~~", 1]]),
                "/vars/0/2",
                "a pattern is a text",
            ),
            (
                json!([["post_arg.a[?(@.b)]", "==", "1"]]),
                "/vars/0/0",
                "post_arg.a[?(@.b)] cannot be used: filters `[?…]` and expressions `[(…)]` are not read",
            ),
        ] {
            let (pointer, text) = refused(&vars);
            assert_eq!((pointer.as_str(), text.as_str()), (at, reason), "{vars}");
        }
        let (at, text) = refused(&json!([["arg_a", "!", "~~", "(?=a)"]]));
        assert_eq!(at, "/vars/0/3");
        assert!(text.contains("look-around"), "{text}");
    }

    #[test]
    fn size_is_bounded() {
        let many = |item: Value, count: usize| Value::from(vec![item; count]);
        let plain = json!(["arg_a", "1"]);
        assert!(judged(&many(plain.clone(), CONDITIONS_MAX)).0.is_some());
        assert!(
            refused(&many(plain.clone(), CONDITIONS_MAX + 1))
                .1
                .contains("256 conditions")
        );
        let pattern = json!(["arg_a", "~~", "a"]);
        assert!(judged(&many(pattern.clone(), PATTERNS_MAX)).0.is_some());
        assert!(
            refused(&many(pattern, PATTERNS_MAX + 1))
                .1
                .contains("64 patterns")
        );
        let nested =
            |depth: usize| (0..depth).fold(plain.clone(), |inner, _| json!(["OR", inner, plain]));
        assert!(judged(&nested(DEPTH_MAX - 1)).0.is_some());
        assert!(refused(&nested(DEPTH_MAX + 1)).1.contains("16 deep"));
    }

    #[test]
    fn a_name_that_stands_for_nothing_is_told() {
        let (expression, verdict) = judged(&json!([["ssl_client_verfy", "~=", "SUCCESS"]]));
        assert!(expression.unwrap().holds(&Seven));
        let told = &verdict.warnings[0];
        assert_eq!(
            (told.code, &*told.pointer),
            ("variable_unknown", "/vars/0/0")
        );
        assert!(told.text.contains("did you mean ssl_client_verify?"));
        let (_, verdict) = judged(&json!([["something_else_altogether", "==", "1"]]));
        assert!(verdict.warnings[0].text.contains("always absent"));
    }
}
