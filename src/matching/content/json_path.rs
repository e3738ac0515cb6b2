//! Where a variable of a body looks: `post_arg.model`, `post_arg.messages[*].role`.
//!
//! A text with `[`, `*` or `..` is a path of JSONPath (RFC 9535) behind an unwritten `$.`, and finds a
//! list; any other one names members, from one to the next, and finds one value (APISIX,
//! "router-radixtree"). Filters are not read.

use std::ops::Range;

use super::json::Json;

/// The most names, places and the like that a path has.
const PICKS_MAX: usize = 32;

/// Where in a JSON text a variable looks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum JsonPath {
    /// Names of members, the outermost first; one at least. It finds one value.
    Names(Box<[Box<str>]>),
    /// It finds a list.
    Steps(Box<[Step]>),
}

/// One step of a path, from each value that the steps before it found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Step {
    /// From the value itself, or from it and all that is in it (`..`).
    is_deep: bool,
    picks: Box<[Pick]>,
}

/// Which parts of a value a step goes to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Pick {
    /// The member of this name.
    Name(Box<str>),
    /// All members or items.
    All,
    /// The item at this place; from the end, if negative.
    Index(i32),
    /// Items from one place to before another one.
    Slice(Option<i32>, Option<i32>),
}

/// Why a path cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It has a filter, or an expression.
    #[error("filters `[?…]` and expressions `[(…)]` are not read")]
    Filter,
    /// It has a slice with a step.
    #[error("a slice has no step here: `[1:3]`")]
    SliceStep,
    /// It is cut short, or has a letter too many.
    #[error("it is no path: names with `.` between them, `[0]`, `[*]`, `['a name']`, `..name`")]
    Malformed,
    /// It looks through everything more than once.
    #[error("`..` may stand in it once")]
    TwiceDeep,
    /// It is too long.
    #[error("it has more than 32 names or places")]
    TooLong,
}

impl JsonPath {
    /// Reads a path.
    ///
    /// # Errors
    /// [`PathError`].
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let is_query = text.contains(['[', '*']) || text.contains("..");
        if !is_query {
            let names = text.split('.').filter(|name| !name.is_empty());
            let names: Box<[Box<str>]> = names.map(Box::from).collect();
            return match names.len() {
                0 => Err(PathError::Malformed),
                1..=PICKS_MAX => Ok(Self::Names(names)),
                _ => Err(PathError::TooLong),
            };
        }
        let mut steps = Vec::new();
        let mut rest = text;
        let mut is_first = true;
        while !rest.is_empty() {
            let (step, after) = Step::parse(rest, is_first)?;
            steps.push(step);
            rest = after;
            is_first = false;
        }
        // With each part of a value gone to once, these bound what a body can make of it: no value is
        // visited more often than there are names and places.
        if steps.iter().map(|step| step.picks.len()).sum::<usize>() > PICKS_MAX {
            return Err(PathError::TooLong);
        }
        if steps.iter().filter(|step| step.is_deep).count() > 1 {
            return Err(PathError::TwiceDeep);
        }
        Ok(Self::Steps(steps.into()))
    }

    /// The name that it consists of, if it has no more.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Names(names) => match names.as_ref() {
                [name] => Some(name),
                _ => None,
            },
            Self::Steps(_) => None,
        }
    }

    /// What it finds in a value.
    pub fn find<'a>(&self, root: Json<'a>) -> Found<'a> {
        match self {
            Self::Names(names) => {
                let found = names
                    .iter()
                    .try_fold(root, |value, name| value.member(name.as_bytes()));
                found.map_or(Found::Nothing, Found::One)
            }
            Self::Steps(steps) => {
                let mut found = Vec::new();
                walk(root, steps, &mut found);
                match found.is_empty() {
                    true => Found::Nothing,
                    false => Found::List(found),
                }
            }
        }
    }
}

/// What a path finds.
#[derive(Debug, Clone)]
pub enum Found<'a> {
    /// Nothing.
    Nothing,
    /// The value that it names.
    One(Json<'a>),
    /// The values that it looks for, one at least.
    List(Vec<Json<'a>>),
}

impl Step {
    fn parse(text: &str, is_first: bool) -> Result<(Self, &str), PathError> {
        let (is_deep, rest) = match text.strip_prefix("..") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if let Some(rest) = rest.strip_prefix('[') {
            let (picks, rest) = picks(rest)?;
            return Ok((Self { is_deep, picks }, rest));
        }
        // Between names stands a dot; none before the first, as `$.` is not written.
        let rest = match (is_deep || is_first, rest.strip_prefix('.')) {
            (true, None) => rest,
            (false, Some(rest)) => rest,
            (true, Some(_)) | (false, None) => return Err(PathError::Malformed),
        };
        if let Some(rest) = rest.strip_prefix('*') {
            let picks = [Pick::All].into();
            return Ok((Self { is_deep, picks }, rest));
        }
        let end = rest.find(['.', '[', '*']).unwrap_or(rest.len());
        let (name, rest) = rest.split_at_checked(end).ok_or(PathError::Malformed)?;
        if name.is_empty() {
            return Err(PathError::Malformed);
        }
        let picks = [Pick::Name(name.into())].into();
        Ok((Self { is_deep, picks }, rest))
    }
}

/// What stands between brackets, the first of which was read.
fn picks(text: &str) -> Result<(Box<[Pick]>, &str), PathError> {
    let mut picks = Vec::new();
    let mut rest = text;
    loop {
        let (pick, after) = pick(rest.trim_start())?;
        picks.push(pick);
        let after = after.trim_start();
        if let Some(after) = after.strip_prefix(']') {
            return Ok((picks.into(), after));
        }
        rest = after.strip_prefix(',').ok_or(PathError::Malformed)?;
    }
}

fn pick(text: &str) -> Result<(Pick, &str), PathError> {
    if text.starts_with(['?', '(']) {
        return Err(PathError::Filter);
    }
    if let Some(rest) = text.strip_prefix('*') {
        return Ok((Pick::All, rest));
    }
    if let Some(quote) = text
        .chars()
        .next()
        .filter(|letter| matches!(letter, '\'' | '"'))
    {
        let quoted = text.get(1..).unwrap_or_default();
        let (name, rest) = quoted.split_once(quote).ok_or(PathError::Malformed)?;
        if name.contains('\\') {
            return Err(PathError::Malformed);
        }
        return Ok((Pick::Name(name.into()), rest));
    }
    let (from, rest) = place(text)?;
    let Some(rest) = rest.trim_start().strip_prefix(':') else {
        let index = from.ok_or(PathError::Malformed)?;
        return Ok((Pick::Index(index), rest));
    };
    let (to, rest) = place(rest.trim_start())?;
    if rest.trim_start().starts_with(':') {
        return Err(PathError::SliceStep);
    }
    Ok((Pick::Slice(from, to), rest))
}

/// A whole number, if the text begins with one.
fn place(text: &str) -> Result<(Option<i32>, &str), PathError> {
    let end = text
        .find(|letter: char| letter != '-' && !letter.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end).ok_or(PathError::Malformed)?;
    if digits.is_empty() {
        return Ok((None, rest));
    }
    let place = digits.parse().map_err(|_overlong| PathError::Malformed)?;
    Ok((Some(place), rest))
}

/// Goes the steps from a value; what is at their end is found.
fn walk<'a>(value: Json<'a>, steps: &[Step], found: &mut Vec<Json<'a>>) {
    let Some((step, rest)) = steps.split_first() else {
        found.push(value);
        return;
    };
    step.each(value, |part| walk(part, rest, found));
    if step.is_deep {
        // Each is looked through with the same step.
        for (_, part) in value.members() {
            walk(part, steps, found);
        }
        for part in value.items() {
            walk(part, steps, found);
        }
    }
}

impl Step {
    /// Goes to what its picks find in a value, to each part once, however many of them find it: else
    /// steps behind each other would multiply that.
    fn each<'a>(&self, value: Json<'a>, mut visit: impl FnMut(Json<'a>)) {
        if self.picks.contains(&Pick::All) {
            value.members().for_each(|(_, part)| visit(part));
            value.items().for_each(visit);
            return;
        }
        let mut places = Vec::new();
        for (at, pick) in self.picks.iter().enumerate() {
            match pick {
                Pick::Name(name) => {
                    let (before, _) = self.picks.split_at_checked(at).unwrap_or_default();
                    if !before.contains(pick)
                        && let Some(part) = value.member(name.as_bytes())
                    {
                        visit(part);
                    }
                }
                Pick::Index(_) | Pick::Slice(..) => places.extend(pick.places(value)),
                Pick::All => {}
            }
        }
        if !places.is_empty() {
            let items = value.items().enumerate();
            let found = items.filter(|(at, _)| places.iter().any(|range| range.contains(at)));
            found.for_each(|(_, part)| visit(part));
        }
    }
}

impl Pick {
    /// The places in a list that it finds.
    fn places(&self, list: Json<'_>) -> Option<Range<usize>> {
        match self {
            Self::Index(index) => {
                let at = from_start(*index, list)?;
                Some(at..at.saturating_add(1))
            }
            Self::Slice(from, to) => {
                let edge = |place: i32| from_start(place, list).unwrap_or_default();
                Some(from.map_or(0, edge)..to.map_or(usize::MAX, edge))
            }
            Self::Name(_) | Self::All => None,
        }
    }
}

/// A place in a list, counted from its start; `None` where that is before it.
fn from_start(place: i32, list: Json<'_>) -> Option<usize> {
    match usize::try_from(place) {
        Ok(place) => Some(place),
        Err(_negative) => {
            let back = usize::try_from(place.unsigned_abs()).ok()?;
            list.items().count().checked_sub(back)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::json::{Document, Kind};
    use super::*;

    const TEXT: &str = r#"{"model": "m", "n": {"m": 1}, "a b": 7, "": 8, "list": [10, 11, 12, 13],
        "messages": [
            {"role": "system", "content": [{"type": "text"}, {"type": "image_url"}]},
            {"role": "user", "content": [{"type": "text"}]}
        ]}"#;

    #[track_caller]
    fn found(path: &str) -> Vec<String> {
        let document = Document::read(TEXT.as_bytes()).unwrap();
        let shown = |value: &Json<'_>| {
            if let Kind::Text(text) = value.kind() {
                return String::from_utf8_lossy(&text).into_owned();
            }
            if let Kind::Number(text) = value.kind() {
                return String::from_utf8_lossy(text).into_owned();
            }
            format!("{:?}", value.kind())
        };
        match JsonPath::parse(path).unwrap().find(document.root()) {
            Found::Nothing => Vec::new(),
            Found::One(value) => vec![format!("one {}", shown(&value))],
            Found::List(values) => values.iter().map(shown).collect(),
        }
    }

    #[test]
    fn names_find_one_value_and_queries_a_list() {
        for (path, wanted) in [
            ("model", &["one m"][..]),
            ("n.m", &["one 1"]),
            ("a b", &["one 7"]),
            ("n", &["one Object"]),
            ("list", &["one Array"]),
            ("n.m.o", &[]),
            ("none", &[]),
            ("list.0", &[]),
            ("list[0]", &["10"]),
            ("list[-1]", &["13"]),
            ("list[-5]", &[]),
            ("list[4]", &[]),
            ("list[1:3]", &["11", "12"]),
            ("list[-2:]", &["12", "13"]),
            ("list[:1]", &["10"]),
            ("list[0, 2]", &["10", "12"]),
            ("list[*]", &["10", "11", "12", "13"]),
            ("list.*", &["10", "11", "12", "13"]),
            ("['a b']", &["7"]),
            ("[\"\"]", &["8"]),
            ("n['m']", &["1"]),
            ("messages[*].role", &["system", "user"]),
            ("messages[1].role", &["user"]),
            (
                "messages[*].content[*].type",
                &["text", "image_url", "text"],
            ),
            ("..type", &["text", "image_url", "text"]),
            ("messages..type", &["text", "image_url", "text"]),
            ("n..m", &["1"]),
            ("..m", &["1"]),
            ("n..*", &["1"]),
            ("model[*]", &[]),
        ] {
            assert_eq!(found(path), wanted, "{path}");
        }
    }

    #[test]
    fn part_is_found_once_however_many_picks_find_it() {
        for (path, wanted) in [
            ("list[*,*]", &["10", "11", "12", "13"][..]),
            ("list[0,1:3,-2,0]", &["10", "11", "12"]),
            ("['model','model']", &["m"]),
            ("n['m',*]", &["1"]),
            ("..['m','m']", &["1"]),
        ] {
            assert_eq!(found(path), wanted, "{path}");
        }
        // Two of each would be 65536.
        let text = format!("{}1{}", "[".repeat(16), "]".repeat(16));
        let document = Document::read(text.as_bytes()).unwrap();
        let path = JsonPath::parse(&"[*,0]".repeat(16)).unwrap();
        match path.find(document.root()) {
            Found::List(values) => assert_eq!(values.len(), 1),
            other @ (Found::Nothing | Found::One(_)) => panic!("{other:?}"),
        }
    }

    #[test]
    fn path_that_cannot_be_read_is_refused() {
        for (path, error) in [
            ("", PathError::Malformed),
            (".", PathError::Malformed),
            ("a[", PathError::Malformed),
            ("a[]", PathError::Malformed),
            ("a[x]", PathError::Malformed),
            ("a['x]", PathError::Malformed),
            ("a[0]b", PathError::Malformed),
            ("..", PathError::Malformed),
            ("a...b", PathError::Malformed),
            ("a*", PathError::Malformed),
            ("a[99999999999]", PathError::Malformed),
            ("a[?(@.x)]", PathError::Filter),
            ("a[(@.length)]", PathError::Filter),
            ("a[0:3:2]", PathError::SliceStep),
            ("..a..b", PathError::TwiceDeep),
            (&"a.".repeat(PICKS_MAX + 1), PathError::TooLong),
            (&"[0]".repeat(PICKS_MAX + 1), PathError::TooLong),
            (
                &format!("[0{}]", ",0".repeat(PICKS_MAX)),
                PathError::TooLong,
            ),
        ] {
            assert_eq!(JsonPath::parse(path), Err(error), "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_path_has_an_answer(path in r"[a\[\]'*.,:?(0-9-]{0,20}") {
            let document = Document::read(TEXT.as_bytes()).unwrap();
            if let Ok(path) = JsonPath::parse(&path) {
                let _found = path.find(document.root());
            }
        }
    }
}
