//! Conditions over a request's variables: APISIX's `vars`, compiled.
//!
//! Total: whatever a request holds, an expression has an answer, in time linear in the values.
//! What cannot be read compares as absent. Documents are read elsewhere.

use std::net::IpAddr;

use ipnet::IpNet;

use super::patterns::TextRegex;
use super::variable::{Value, Variable, Variables};

/// A condition, or several put together.
#[derive(Debug, Clone, PartialEq)]
pub enum Expression {
    /// All must hold; none at all hold.
    All(Vec<Self>),
    /// One must hold.
    Any(Vec<Self>),
    /// The other must not hold.
    Not(Box<Self>),
    /// One variable's value passes a test.
    Is {
        /// `None` for a name that stands for nothing: it is always absent.
        variable: Option<Variable>,
        /// What it must be like.
        test: Test,
    },
}

/// What a value must be like (lua-resty-expr, "Operator List").
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// `==`.
    Equals(Constant),
    /// `~=`.
    Differs(Constant),
    /// `>`, `>=`, `<`, `<=`: both sides are numbers, else it fails.
    Compares(Comparison, Option<f64>),
    /// `~~` and `~*`: found anywhere in the value.
    Finds(TextRegex),
    /// `in`: equals one of these.
    In(Vec<Constant>),
    /// `has`: the value is a list, and one of its items equals this.
    Has(Constant),
    /// `ipmatch`: the value is an address in one of these.
    Within(Vec<IpNet>),
}

/// How two numbers compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `>`.
    Greater,
    /// `>=`.
    AtLeast,
    /// `<`.
    Less,
    /// `<=`.
    AtMost,
}

/// The right side of a test.
#[derive(Debug, Clone, PartialEq)]
pub enum Constant {
    /// Compared byte by byte.
    Text(Box<str>),
    /// Compared as a number; a value that is none differs.
    Number(f64),
    /// Equal to what is absent.
    Null,
    /// Equal to a truth value of JSON.
    Bool(bool),
    /// A JSON value that no variable equals: a list, an object.
    Never,
}

impl Expression {
    /// Whether it holds for a request.
    pub fn holds(&self, variables: &impl Variables) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.holds(variables)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(variables)),
            Self::Not(part) => !part.holds(variables),
            Self::Is { variable, test } => {
                let value = variable
                    .as_ref()
                    .and_then(|variable| variables.value(variable));
                test.passes(value.as_ref())
            }
        }
    }
}

impl Expression {
    /// Whether it plainly asks all that `other` asks: they are equal, or it asks more beside.
    ///
    /// False also where it is stricter in a way that cannot be seen so.
    pub fn asks_all_of(&self, other: &Self) -> bool {
        let parts = |of: &'_ Self| match of {
            Self::All(parts) => parts.clone(),
            Self::Any(_) | Self::Not(_) | Self::Is { .. } => vec![of.clone()],
        };
        let own = parts(self);
        parts(other).iter().all(|part| own.contains(part))
    }
}

impl Test {
    fn passes(&self, value: Option<&Value<'_>>) -> bool {
        match (self, value) {
            (Self::Equals(constant), value) => constant.equals(value),
            (Self::Differs(constant), value) => !constant.equals(value),
            (Self::In(constants), value) => constants.iter().any(|own| own.equals(value)),
            (Self::Has(constant), Some(Value::List(items))) => items
                .iter()
                .any(|item| constant.equals_text(item.as_bytes())),
            (Self::Has(constant), Some(Value::Items(items))) => {
                items.iter().any(|item| constant.equals(Some(item)))
            }
            (
                Self::Compares(..) | Self::Finds(_) | Self::Within(_),
                Some(Value::Items(_) | Value::Structure),
            ) => false,
            (Self::Compares(comparison, Some(right)), Some(value)) => {
                value_number(value).is_some_and(|left| comparison.holds(left, *right))
            }
            (Self::Finds(regex), Some(value)) => regex.is_match(&value.text()),
            (Self::Within(nets), Some(value)) => address(&value.text())
                .is_some_and(|addr| nets.iter().any(|net| net.contains(&addr))),
            (Self::Has(_) | Self::Compares(_, None), Some(_))
            | (Self::Has(_) | Self::Compares(..) | Self::Finds(_) | Self::Within(_), None) => false,
        }
    }
}

impl Comparison {
    fn holds(self, left: f64, right: f64) -> bool {
        match self {
            Self::Greater => left > right,
            Self::AtLeast => left >= right,
            Self::Less => left < right,
            Self::AtMost => left <= right,
        }
    }
}

impl Constant {
    /// Whether a value is this one. What JSON has a type for is compared by it: the number 7 is not
    /// the text `7`.
    fn equals(&self, value: Option<&Value<'_>>) -> bool {
        match value {
            None => *self == Self::Null,
            Some(value @ (Value::Text(_) | Value::List(_))) => self.equals_text(&value.text()),
            Some(Value::Number(number)) => *self == Self::Number(*number),
            Some(Value::Bool(is)) => *self == Self::Bool(*is),
            Some(Value::Items(_) | Value::Structure) => false,
        }
    }

    fn equals_text(&self, value: &[u8]) -> bool {
        match self {
            Self::Text(text) => text.as_bytes() == value,
            #[expect(clippy::float_cmp, reason = "the same decimal text is the same number")]
            Self::Number(right) => number(value).is_some_and(|left| left == *right),
            Self::Null | Self::Bool(_) | Self::Never => false,
        }
    }
}

/// A value as a number, if it is one.
fn value_number(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Number(number) => Some(*number),
        Value::Text(_) | Value::List(_) => number(&value.text()),
        Value::Bool(_) | Value::Items(_) | Value::Structure => None,
    }
}

/// A number as Lua's `tonumber` reads it: decimal, with fraction and exponent, or hexadecimal
/// after `0x`; blanks around it do not count. Neither infinite nor "not a number".
pub fn number(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?.trim_ascii();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    let hexadecimal = digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"));
    let size = match hexadecimal {
        Some("") => None,
        Some(digits) => digits.chars().try_fold(0.0, |sum: f64, digit| {
            digit
                .to_digit(16)
                .map(|digit| sum * 16.0 + f64::from(digit))
        }),
        None if digits.starts_with(|first: char| first.is_ascii_digit() || first == '.') => {
            digits.parse().ok()
        }
        None => None,
    };
    size.map(|size| sign * size).filter(|size| size.is_finite())
}

/// An address in any spelling; IPv4 within IPv6 counts as IPv4.
fn address(text: &[u8]) -> Option<IpAddr> {
    let address: IpAddr = std::str::from_utf8(text).ok()?.parse().ok()?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Query arguments, and one list, `uri_param_list`.
    struct Sample(BTreeMap<&'static str, &'static str>);

    impl Variables for Sample {
        fn value(&self, variable: &Variable) -> Option<Value<'_>> {
            match variable {
                Variable::Argument(name) => self.0.get(&**name).copied().map(Value::of),
                Variable::Parameter(_) => Some(Value::List(vec!["a".to_owned(), "7".to_owned()])),
                Variable::Body(path) => match path.name()? {
                    "number" => Some(Value::Number(7.0)),
                    "yes" => Some(Value::Bool(true)),
                    "items" => Some(Value::Items([Value::of("a"), Value::Number(7.0)].into())),
                    "object" => Some(Value::Structure),
                    _ => None,
                },
                Variable::Fact(_)
                | Variable::Tls(_)
                | Variable::Client(_)
                | Variable::Header(_)
                | Variable::FormArgument(_)
                | Variable::Graphql(_)
                | Variable::Cookie(_) => None,
            }
        }
    }

    fn is(name: &str, test: Test) -> Expression {
        let variable = Variable::parse(name);
        Expression::Is { variable, test }
    }

    fn text(text: &str) -> Constant {
        Constant::Text(text.into())
    }

    fn sample() -> Sample {
        Sample(BTreeMap::from([
            ("s", "abc"),
            ("n", "7"),
            ("f", "7.0"),
            ("h", "0x1F"),
            ("ip", "10.1.2.3"),
            ("six", "::ffff:10.1.2.3"),
            ("empty", ""),
        ]))
    }

    fn expect(cases: Vec<(&str, Test, bool)>) {
        for (name, test, holds) in cases {
            let shown = format!("{name} {test:?}");
            let expression = is(name, test);
            assert_eq!(expression.holds(&sample()), holds, "{shown}");
            let negated = Expression::Not(Box::new(expression));
            assert_eq!(negated.holds(&sample()), !holds, "not {shown}");
        }
    }

    #[test]
    fn equality_follows_the_type_on_the_right() {
        use Test::{Differs, Equals};
        expect(vec![
            ("arg_s", Equals(text("abc")), true),
            ("arg_s", Equals(text("ABC")), false),
            ("arg_n", Equals(text("7.0")), false),
            ("arg_n", Equals(Constant::Number(7.0)), true),
            ("arg_f", Equals(Constant::Number(7.0)), true),
            ("arg_s", Equals(Constant::Number(7.0)), false),
            ("arg_s", Differs(Constant::Number(7.0)), true),
            ("arg_s", Differs(text("abc")), false),
            ("arg_empty", Equals(text("")), true),
            ("arg_s", Equals(Constant::Never), false),
        ]);
    }

    #[test]
    fn what_is_absent_equals_null_alone() {
        use Test::{Compares, Differs, Equals, Finds, Has, In, Within};
        let any = TextRegex::compile("", false).unwrap();
        for absent in ["arg_none", "no_such_variable"] {
            expect(vec![
                (absent, Equals(Constant::Null), true),
                (absent, Differs(Constant::Null), false),
                (absent, Equals(text("")), false),
                (absent, Differs(text("")), true),
                (absent, In(vec![text(""), Constant::Never]), false),
                (absent, In(vec![Constant::Null]), true),
                (absent, Finds(any.clone()), false),
                (absent, Has(text("")), false),
                (absent, Has(Constant::Null), false),
                (absent, Compares(Comparison::Less, Some(1.0)), false),
                (absent, Within(vec!["0.0.0.0/0".parse().unwrap()]), false),
            ]);
        }
        expect(vec![
            ("arg_empty", Equals(Constant::Null), false),
            ("arg_s", Differs(Constant::Null), true),
        ]);
    }

    #[test]
    fn values_of_json_keep_their_types() {
        use Test::{Compares, Differs, Equals, Finds, Has, In, Within};
        let any = TextRegex::compile("", false).unwrap();
        let seven = Constant::Number(7.0);
        expect(vec![
            ("post_arg.number", Equals(seven.clone()), true),
            ("post_arg.number", Equals(text("7")), false),
            ("post_arg.number", In(vec![text("7")]), false),
            ("post_arg.number", In(vec![seven.clone()]), true),
            (
                "post_arg.number",
                Compares(Comparison::Less, Some(8.0)),
                true,
            ),
            (
                "post_arg.number",
                Finds(TextRegex::compile("^7$", false).unwrap()),
                true,
            ),
            ("post_arg.yes", Equals(Constant::Bool(true)), true),
            ("post_arg.yes", Equals(Constant::Bool(false)), false),
            ("post_arg.yes", Equals(text("true")), false),
            (
                "post_arg.yes",
                Compares(Comparison::Greater, Some(0.0)),
                false,
            ),
            ("post_arg.items", Has(text("a")), true),
            ("post_arg.items", Has(seven), true),
            ("post_arg.items", Has(text("7")), false),
            ("post_arg.items", Equals(text("a")), false),
            ("post_arg.items", Finds(any.clone()), false),
            ("post_arg.object", Finds(any), false),
            ("post_arg.object", Has(text("")), false),
            ("post_arg.object", Equals(Constant::Null), false),
            ("post_arg.object", Differs(text("a")), true),
            (
                "post_arg.object",
                Within(vec!["0.0.0.0/0".parse().unwrap()]),
                false,
            ),
            ("post_arg.none", Equals(Constant::Null), true),
        ]);
    }

    #[test]
    fn order_is_that_of_numbers() {
        use Comparison::{AtLeast, AtMost, Greater, Less};
        let than = |comparison, right| Test::Compares(comparison, Some(right));
        expect(vec![
            ("arg_n", than(Greater, 6.5), true),
            ("arg_n", than(Greater, 7.0), false),
            ("arg_n", than(AtLeast, 7.0), true),
            ("arg_n", than(Less, 10.0), true),
            ("arg_n", than(AtMost, 7.0), true),
            ("arg_n", than(AtMost, 6.9), false),
            ("arg_h", than(Greater, 30.0), true),
            ("arg_s", than(Less, 10.0), false),
            ("arg_s", than(AtLeast, 0.0), false),
            ("arg_n", Test::Compares(Less, None), false),
        ]);
    }

    #[test]
    fn sets_lists_patterns_and_networks() {
        use Test::{Finds, Has, In, Within};
        let regex = |pattern, folds| Finds(TextRegex::compile(pattern, folds).unwrap());
        let nets = |nets: &[&str]| Within(nets.iter().map(|net| net.parse().unwrap()).collect());
        expect(vec![
            ("arg_s", In(vec![text("x"), text("abc")]), true),
            ("arg_s", In(vec![text("x")]), false),
            ("arg_n", In(vec![Constant::Number(7.0)]), true),
            ("arg_s", In(vec![]), false),
            ("uri_param_list", Has(text("a")), true),
            ("uri_param_list", Has(Constant::Number(7.0)), true),
            ("uri_param_list", Has(text("a,7")), false),
            ("uri_param_list", Test::Equals(text("a,7")), true),
            ("arg_s", Has(text("abc")), false),
            ("arg_s", regex("^ab", false), true),
            ("arg_s", regex("B", false), false),
            ("arg_s", regex("B", true), true),
            ("arg_ip", nets(&["10.0.0.0/8"]), true),
            ("arg_ip", nets(&["192.168.0.0/16", "10.1.2.3/32"]), true),
            ("arg_ip", nets(&["::/0"]), false),
            ("arg_six", nets(&["10.0.0.0/8"]), true),
            ("arg_s", nets(&["0.0.0.0/0", "::/0"]), false),
        ]);
    }

    #[test]
    fn groups_nest() {
        let yes = || is("arg_s", Test::Equals(text("abc")));
        let no = || is("arg_s", Test::Equals(text("x")));
        for (expression, holds) in [
            (Expression::All(vec![]), true),
            (Expression::Any(vec![]), false),
            (Expression::All(vec![yes(), yes()]), true),
            (Expression::All(vec![yes(), no()]), false),
            (Expression::Any(vec![no(), yes()]), true),
            (Expression::Any(vec![no(), no()]), false),
            (
                Expression::Not(Box::new(Expression::Any(vec![
                    no(),
                    Expression::All(vec![yes(), no()]),
                ]))),
                true,
            ),
        ] {
            assert_eq!(expression.holds(&sample()), holds, "{expression:?}");
        }
    }

    #[test]
    fn an_expression_asks_what_another_asks_and_more() {
        let first = || is("arg_s", Test::Equals(text("abc")));
        let second = || is("arg_n", Test::Equals(text("7")));
        let all = |parts| Expression::All(parts);
        assert!(all(vec![first(), second()]).asks_all_of(&all(vec![second()])));
        assert!(all(vec![first()]).asks_all_of(&first()));
        assert!(!all(vec![first()]).asks_all_of(&all(vec![first(), second()])));
        assert!(!Expression::Any(vec![first(), second()]).asks_all_of(&first()));
        let pattern = |folds| {
            is(
                "arg_s",
                Test::Finds(TextRegex::compile("a", folds).unwrap()),
            )
        };
        assert!(pattern(true).asks_all_of(&pattern(true)));
        assert!(!pattern(true).asks_all_of(&pattern(false)));
    }

    #[test]
    fn numbers_are_read_as_lua_reads_them() {
        for (text, expected) in [
            ("7", Some(7.0)),
            (" -7.5 ", Some(-7.5)),
            ("+1e3", Some(1000.0)),
            (".5", Some(0.5)),
            ("0x10", Some(16.0)),
            ("-0XfF", Some(-255.0)),
            ("0x", None),
            ("0xg", None),
            ("", None),
            ("-", None),
            ("7a", None),
            ("1 2", None),
            ("inf", None),
            ("nan", None),
            ("1e999", None),
        ] {
            assert_eq!(number(text.as_bytes()), expected, "{text:?}");
        }
        assert_eq!(number(b"\xff"), None);
    }

    proptest! {
        #[test]
        fn arbitrary_values_never_panic(value: Vec<u8>, right: String) {
            struct One(Vec<u8>);
            impl Variables for One {
                fn value(&self, _: &Variable) -> Option<Value<'_>> {
                    Some(Value::of(&self.0))
                }
            }
            let constant = Constant::Text(right.as_str().into());
            for test in [
                Test::Equals(constant.clone()),
                Test::Has(constant),
                Test::Compares(Comparison::Less, number(right.as_bytes())),
                Test::Within(vec!["::/0".parse().unwrap()]),
            ] {
                is("uri", test).holds(&One(value.clone()));
            }
        }
    }
}
