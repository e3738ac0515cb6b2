//! Regular expressions over paths and other values, in linear time and bounded memory.
//!
//! What a match means (a skipped client certificate, for one) is the caller's.

use regex::{Regex, RegexBuilder, bytes};

/// How large one compiled pattern may be.
const COMPILED_BYTES_MAX: usize = 256 * 1024;

/// How much one pattern's search may cache.
const CACHE_BYTES_MAX: usize = 1024 * 1024;

/// How many patterns one set may hold.
pub const PATTERN_COUNT_MAX: usize = 64;

/// A set of patterns, of which one must be found somewhere in the path.
///
/// Syntax of the `regex` crate: no look-around, no back references, `$` is the very end.
#[derive(Debug, Clone, Default)]
pub struct PathRegexes {
    patterns: Vec<Regex>,
}

/// Which pattern cannot be used, and why.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("pattern {index} cannot be used: {reason}")]
pub struct PatternError {
    /// Its place in the list, from 0.
    pub index: usize,
    /// Why.
    #[source]
    pub reason: PatternFault,
}

/// What is wrong with a pattern.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PatternFault {
    /// Not in the syntax, or too large once compiled.
    #[error("{0}")]
    Regex(#[from] regex::Error),
    /// It is number 65 or later.
    #[error("a list holds at most {PATTERN_COUNT_MAX} patterns")]
    TooMany,
}

impl PathRegexes {
    /// Compiles all patterns. An empty list matches nothing.
    ///
    /// # Errors
    /// [`PatternError`] for the first pattern that is malformed, or larger than 256 KiB when
    /// compiled, or beyond [`PATTERN_COUNT_MAX`].
    pub fn compile(patterns: &[String]) -> Result<Self, PatternError> {
        let compile = |(index, pattern): (usize, &String)| {
            let compiled = match index < PATTERN_COUNT_MAX {
                true => compile_one(pattern).map_err(PatternFault::from),
                false => Err(PatternFault::TooMany),
            };
            compiled.map_err(|reason| PatternError { index, reason })
        };
        let patterns = patterns.iter().enumerate().map(compile);
        Ok(Self {
            patterns: patterns.collect::<Result<_, _>>()?,
        })
    }

    /// True when a pattern is found anywhere in `path`: an anchor must be written to be meant.
    pub fn is_match(&self, path: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.is_match(path))
    }

    /// True when the list is empty.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }
}

/// One pattern over any bytes, found anywhere in them.
///
/// Syntax of the `regex` crate, read as PCRE reads bytes: `.` is one byte, `\w` and case are ASCII's.
#[derive(Debug, Clone)]
pub struct TextRegex {
    regex: bytes::Regex,
    folds_case: bool,
}

impl PartialEq for TextRegex {
    fn eq(&self, other: &Self) -> bool {
        self.regex.as_str() == other.regex.as_str() && self.folds_case == other.folds_case
    }
}

impl TextRegex {
    /// Compiles a pattern; with `folds_case` letters match in both cases.
    ///
    /// # Errors
    /// It is malformed, or larger than 256 KiB when compiled.
    pub fn compile(pattern: &str, folds_case: bool) -> Result<Self, regex::Error> {
        bytes::RegexBuilder::new(pattern)
            .unicode(false)
            .case_insensitive(folds_case)
            .size_limit(COMPILED_BYTES_MAX)
            .dfa_size_limit(CACHE_BYTES_MAX)
            .build()
            .map(|regex| Self { regex, folds_case })
    }

    /// True when it is found anywhere in `value`: an anchor must be written to be meant.
    pub fn is_match(&self, value: &[u8]) -> bool {
        self.regex.is_match(value)
    }
}

fn compile_one(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern)
        .size_limit(COMPILED_BYTES_MAX)
        .dfa_size_limit(CACHE_BYTES_MAX)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(patterns: &[&str]) -> Result<PathRegexes, PatternError> {
        let patterns: Vec<_> = patterns
            .iter()
            .map(|pattern| (*pattern).to_owned())
            .collect();
        PathRegexes::compile(&patterns)
    }

    #[test]
    fn any_pattern_anywhere_in_the_path_matches() {
        let set = compile(&["/health$", "^/public/", "a.c"]).unwrap();
        for path in ["/x/health", "/public/x", "/xabc"] {
            assert!(set.is_match(path), "{path}");
        }
        for path in ["/health/x", "/x/public/", "/health\n", "/"] {
            assert!(!set.is_match(path), "{path:?}");
        }
    }

    #[test]
    fn an_empty_list_matches_nothing() {
        let set = compile(&[]).unwrap();
        assert!(set.is_empty());
        assert!(!set.is_match("/"));
        assert!(compile(&[""]).unwrap().is_match("/"));
    }

    #[test]
    fn the_first_bad_pattern_is_named() {
        for (bad, part) in [
            ("(", "unclosed group"),
            ("(?=a)", "look-around"),
            (r"(a)\1", "backreferences"),
            (r"\w{1000}{10}", "size limit"),
        ] {
            let error = compile(&["a", bad, "["]).unwrap_err();
            assert_eq!(error.index, 1, "{bad}");
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn the_list_is_bounded() {
        assert!(compile(&["a"; PATTERN_COUNT_MAX]).is_ok());
        let error = compile(&["a"; PATTERN_COUNT_MAX + 1]).unwrap_err();
        assert_eq!(error.index, PATTERN_COUNT_MAX);
        assert_eq!(error.reason, PatternFault::TooMany);
    }

    #[test]
    fn a_pattern_over_bytes_reads_them_one_by_one() {
        let is_match = |pattern: &str, folds: bool, value: &[u8]| {
            TextRegex::compile(pattern, folds).unwrap().is_match(value)
        };
        assert!(is_match("^a.c$", false, b"a\xffc"));
        assert!(!is_match("^a.c$", false, "a\u{fc}c".as_bytes()));
        assert!(is_match("\u{fc}", false, "a\u{fc}c".as_bytes()));
        assert!(is_match("ABC", true, b"xabcx"));
        assert!(!is_match("ABC", false, b"xabcx"));
        assert!(TextRegex::compile("(?=a)", false).is_err());
        assert!(TextRegex::compile(r"[a-z]{1000}{1000}", false).is_err());
    }

    #[test]
    fn a_hostile_path_costs_linear_time() {
        let set = compile(&["^(a+)+$"]).unwrap();
        assert!(!set.is_match(&("a".repeat(100_000) + "b")));
        assert!(set.is_match(&"a".repeat(100_000)));
    }
}
