//! The path patterns of routes: what comes before the first `*`, and what must follow.

use std::sync::Arc;

/// A route's `uri`: an exact path, a prefix (`/a/*`), or a prefix and more (`/a/*/b`).
///
/// Compared byte by byte with the normalised path; the pattern itself is not decoded, as in
/// APISIX. A `*` stands for any number of any bytes, slashes and none included: `/a/*` matches
/// `/a/` and `/a/x/y`, not `/a`. What else has a meaning is the [`Syntax`]'s to say.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PathPattern(Box<str>);

/// Why a text is no path pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathPatternError {
    /// Nothing was given.
    #[error("a path is needed")]
    Empty,
}

/// How patterns are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Syntax {
    /// `*` alone means something.
    #[default]
    Plain,
    /// Besides, a segment `:name` stands for one segment that is not empty, and a segment `*name`
    /// for anything; both can be asked for by name.
    Parameters,
}

/// A pattern cut in two, where what it stands for stops being certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut<'p> {
    /// What paths start with, or all of an exact one.
    pub(super) literal: &'p str,
    rest: Option<&'p str>,
    syntax: Syntax,
}

/// What a path must go on with after the literal; empty for what goes on in any way.
pub(super) type Tail = Arc<[Part]>;

/// A part of a pattern.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// `*`, or `*name`: anything.
    Any(Option<Box<str>>),
    /// `:name`: the rest of a segment, one byte at least. What follows it, if anything, is a `/`.
    Segment(Box<str>),
    /// This text.
    Text(Box<str>),
}

impl PathPattern {
    /// Reads a route's `uri`. A pattern without leading `/` is read; only `*…` can match then.
    ///
    /// # Errors
    /// [`PathPatternError::Empty`]; the length is the schema's to bound.
    pub fn parse(text: &str) -> Result<Self, PathPatternError> {
        if text.is_empty() {
            return Err(PathPatternError::Empty);
        }
        Ok(Self(text.into()))
    }

    /// The pattern as given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same behind a prefix without slash at its end.
    pub(super) fn behind(&self, prefix: &str) -> Self {
        let slash = if self.0.starts_with('/') { "" } else { "/" };
        Self(format!("{prefix}{slash}{}", self.0).into())
    }

    /// What certainly begins every path that is covered.
    pub fn start(&self, syntax: Syntax) -> &str {
        self.cut(syntax).literal
    }

    /// True when `path`, normalised, is covered.
    pub fn matches(&self, path: &[u8], syntax: Syntax) -> bool {
        let cut = self.cut(syntax);
        let Some(rest) = path.strip_prefix(cut.literal.as_bytes()) else {
            return false;
        };
        if cut.is_exact() {
            return rest.is_empty();
        }
        cut.tail().is_none_or(|tail| covers(&tail, rest))
    }

    pub(super) fn cut(&self, syntax: Syntax) -> Cut<'_> {
        let special = |(at, _): &(usize, char)| {
            let rest = self.0.get(*at..).unwrap_or_default();
            let starts_segment = self.0.get(..*at).is_some_and(|done| done.ends_with('/'));
            rest.starts_with('*')
                || syntax == Syntax::Parameters && starts_segment && segment(rest).is_some()
        };
        let at = self.0.char_indices().find(special).map(|(at, _)| at);
        let (literal, rest) = match at.and_then(|at| self.0.split_at_checked(at)) {
            Some((literal, rest)) => (literal, Some(rest)),
            None => (&*self.0, None),
        };
        Cut {
            literal,
            rest,
            syntax,
        }
    }
}

impl Cut<'_> {
    /// True for an exact path.
    pub(super) fn is_exact(&self) -> bool {
        self.rest.is_none()
    }

    /// What must follow the literal; `None` where anything may.
    pub(super) fn tail(&self) -> Option<Tail> {
        let rest = self.rest.filter(|rest| *rest != "*")?;
        Some(parts(rest, self.literal.ends_with('/'), self.syntax).into())
    }
}

/// The name of a segment `:name` that stands at the start of `text`, and what follows it.
fn segment(text: &str) -> Option<(&str, &str)> {
    named(text.strip_prefix(':')?)
}

/// A name up to the end of a segment: not empty, nothing in it that means something else.
fn named(text: &str) -> Option<(&str, &str)> {
    let end = text.find('/').unwrap_or(text.len());
    let (name, rest) = text.split_at_checked(end)?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (!name.is_empty() && name.bytes().all(is_name)).then_some((name, rest))
}

fn parts(text: &str, starts_segment: bool, syntax: Syntax) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut starts_segment = starts_segment;
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let after = rest.get(letter.len_utf8()..).unwrap_or_default();
        let may_name = starts_segment && syntax == Syntax::Parameters;
        let (part, after) = match (letter, may_name.then(|| segment(rest)).flatten()) {
            (_, Some((name, after))) => (Some(Part::Segment(name.into())), after),
            ('*', None) => match may_name.then(|| named(after)).flatten() {
                Some((name, after)) => (Some(Part::Any(Some(name.into()))), after),
                None => (Some(Part::Any(None)), after),
            },
            (_, None) => (None, after),
        };
        match part {
            None => literal.push(letter),
            Some(part) => {
                if !literal.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut literal).into()));
                }
                parts.push(part);
            }
        }
        starts_segment = letter == '/';
        rest = after;
    }
    if !literal.is_empty() {
        parts.push(Part::Text(literal.into()));
    }
    parts
}

/// True when `rest`, the path after the literal, goes on as `tail` asks.
pub(super) fn covers(tail: &[Part], rest: &[u8]) -> bool {
    walk(tail, rest, &mut |_, _| {})
}

/// What the parameter of this name stands for, in a path that is covered.
pub(super) fn parameter<'r>(tail: &[Part], rest: &'r [u8], name: &str) -> Option<&'r [u8]> {
    let mut found = None;
    let is_covered = walk(tail, rest, &mut |own, value| {
        if own == name {
            found = Some(value);
        }
    });
    found.filter(|_| is_covered)
}

/// Holds a path against parts. `note` hears of each parameter, more than once where a try fails:
/// the last word counts.
fn walk<'r>(tail: &[Part], rest: &'r [u8], note: &mut impl FnMut(&str, &'r [u8])) -> bool {
    // Between two `*` there is a run of parts that is found, as a whole, at one place.
    let mut runs = tail.split(|part| matches!(part, Part::Any(_)));
    let mut stars = tail.iter().filter_map(|part| match part {
        Part::Any(name) => Some(name.as_deref()),
        Part::Segment(_) | Part::Text(_) => None,
    });
    let Some(mut body) = runs.next().and_then(|run| take(run, rest, note)) else {
        return false;
    };
    let mut runs = runs.peekable();
    while let Some(run) = runs.next() {
        let is_last = runs.peek().is_none();
        // Leftmost is enough but at the end: what a later run could match further left only grows
        // with it, as a segment ends at the next slash wherever it began.
        let mut starts = 0..=body.len();
        let found = starts.find_map(|start| {
            let (skipped, from) = body.split_at_checked(start)?;
            let after = if is_last && run.is_empty() {
                Some(&[][..]).filter(|_| from.is_empty())
            } else if is_last && !could_end(run, from) {
                None
            } else {
                take(run, from, note)
            };
            let after = after.filter(|after| !is_last || after.is_empty())?;
            Some((skipped, after))
        });
        let Some((skipped, after)) = found else {
            return false;
        };
        if let Some(Some(name)) = stars.next() {
            note(name, skipped);
        }
        body = after;
    }
    body.is_empty()
}

/// False where a run of one text cannot be the very end: it is of another length.
fn could_end(run: &[Part], from: &[u8]) -> bool {
    match run {
        [Part::Text(text)] => text.len() == from.len(),
        _ => true,
    }
}

/// What follows a run without `*` that stands at the start of `body`.
fn take<'r>(
    run: &[Part],
    body: &'r [u8],
    note: &mut impl FnMut(&str, &'r [u8]),
) -> Option<&'r [u8]> {
    run.iter().try_fold(body, |body, part| match part {
        Part::Text(text) => body.strip_prefix(text.as_bytes()),
        Part::Segment(name) => {
            let end = body.iter().position(|byte| *byte == b'/');
            let (value, after) = body.split_at_checked(end.unwrap_or(body.len()))?;
            note(name, value);
            (!value.is_empty()).then_some(after)
        }
        Part::Any(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn expect(syntax: Syntax, cases: &[(&str, &[&str], &[&str])]) {
        for (text, covered, not_covered) in cases {
            let pattern = PathPattern::parse(text).unwrap();
            assert_eq!(pattern.as_str(), *text);
            for path in *covered {
                assert!(
                    pattern.matches(path.as_bytes(), syntax),
                    "{text} covers {path}"
                );
            }
            for path in *not_covered {
                assert!(
                    !pattern.matches(path.as_bytes(), syntax),
                    "{text} and {path}"
                );
            }
        }
    }

    #[test]
    fn patterns_cover_the_paths_they_name() {
        let cases: [(&str, &[&str], &[&str]); 10] = [
            ("/a", &["/a"], &["/a/", "/", "/ab"]),
            ("/a/*", &["/a/", "/a/x", "/a/x/y"], &["/a", "/b"]),
            ("/foo*", &["/foo", "/foobar", "/foo/x"], &["/fo"]),
            ("/*", &["/", "/x"], &[]),
            ("*", &["/", "/x"], &[]),
            (
                "/a/*/b",
                &["/a/x/b", "/a/x/y/b", "/a//b"],
                &["/a/b", "/a/x/c", "/a/x/b/"],
            ),
            ("/a/*/b/*", &["/a/x/b/", "/a/x/b/b/y"], &["/a/b/", "/a/x/b"]),
            (
                "/a*b*c",
                &["/abc", "/a1b2c", "/abcbc"],
                &["/ab", "/acb", "/a-c"],
            ),
            ("/a**b", &["/ab", "/axb"], &["/ax"]),
            ("a", &[], &["/a"]),
        ];
        expect(Syntax::Plain, &cases);
        expect(Syntax::Parameters, &cases);
        assert_eq!(PathPattern::parse(""), Err(PathPatternError::Empty));
    }

    #[test]
    fn parameters_mean_something_where_they_are_asked_for() {
        expect(
            Syntax::Parameters,
            &[
                (
                    "/u/:id",
                    &["/u/7", "/u/a.b"],
                    &["/u/", "/u", "/u/7/", "/u/7/x"],
                ),
                ("/u/:id/p", &["/u/7/p"], &["/u//p", "/u/7/8/p", "/u/7/px"]),
                ("/:a/:b/*", &["/x/y/", "/x/y/z/w"], &["/x/y", "/x//z"]),
                ("/f/*path", &["/f/", "/f/a/b"], &["/f"]),
                ("/f/*.jpg", &["/f/x.jpg", "/f/a/b.jpg"], &["/f/x.png"]),
                (
                    "/f/*mid/:id/end",
                    &["/f/a/7/end", "/f/a/b/7/end"],
                    &["/f/7/end", "/f/a//end"],
                ),
                ("/v/a:b", &["/v/a:b"], &["/v/ax"]),
                ("/v/:", &["/v/:"], &["/v/x"]),
                ("/v/:a*", &["/v/:a", "/v/:ax"], &["/v/x"]),
            ],
        );
        expect(
            Syntax::Plain,
            &[
                ("/u/:id", &["/u/:id"], &["/u/7"]),
                ("/f/*path", &["/f/path", "/f/x-path"], &["/f/a"]),
            ],
        );
    }

    #[test]
    fn parameters_are_found_by_name() {
        for (text, path, name, value) in [
            ("/u/:id", "/u/7", "id", Some("7")),
            ("/u/:id/:id", "/u/7/8", "id", Some("8")),
            ("/u/:a/x/:b-c", "/u/1/x/2", "b-c", Some("2")),
            ("/u/:id/*rest", "/u/7/a/b", "rest", Some("a/b")),
            ("/u/*rest", "/u/", "rest", Some("")),
            ("/f/*mid/:id/end", "/f/a/b/7/end", "mid", Some("a/b")),
            ("/f/*mid/:id/end", "/f/a/b/7/end", "id", Some("7")),
            ("/u/:id", "/u/7", "none", None),
            ("/u/:id/x", "/u/7/y", "id", None),
        ] {
            let pattern = PathPattern::parse(text).unwrap();
            let cut = pattern.cut(Syntax::Parameters);
            let rest = path.strip_prefix(cut.literal).unwrap();
            let found = parameter(&cut.tail().unwrap(), rest.as_bytes(), name);
            assert_eq!(found, value.map(str::as_bytes), "{text} {path} {name}");
        }
    }

    /// By trying every length for every `*`: slow, and plainly right.
    fn scan(parts: &[Part], rest: &[u8]) -> bool {
        let Some((part, parts)) = parts.split_first() else {
            return rest.is_empty();
        };
        match part {
            Part::Any(_) => (0..=rest.len()).any(|start| scan(parts, &rest[start..])),
            Part::Text(text) => rest
                .strip_prefix(text.as_bytes())
                .is_some_and(|rest| scan(parts, rest)),
            Part::Segment(_) => {
                let end = rest.iter().position(|byte| *byte == b'/');
                let end = end.unwrap_or(rest.len());
                end > 0 && scan(parts, &rest[end..])
            }
        }
    }

    proptest! {
        #[test]
        fn a_pattern_covers_what_trying_everything_covers(
            text in r"/((\*|\*n|:n|a|b|ab)/?){0,6}",
            path in r"/([ab]{0,2}/?){0,6}",
        ) {
            for syntax in [Syntax::Plain, Syntax::Parameters] {
                let pattern = PathPattern::parse(&text).unwrap();
                let parts = parts(&text, false, syntax);
                let expected = scan(&parts, path.as_bytes());
                prop_assert_eq!(pattern.matches(path.as_bytes(), syntax), expected);
            }
        }

        #[test]
        fn arbitrary_text_never_panics(pattern: String, path: Vec<u8>) {
            if let Ok(pattern) = PathPattern::parse(&pattern) {
                let _ = pattern.matches(&path, Syntax::Plain);
                let _ = pattern.matches(&path, Syntax::Parameters);
            }
        }
    }
}
