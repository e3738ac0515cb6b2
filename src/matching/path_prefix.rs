//! The prefix that a service puts before the paths of its routes, and the path without it.

use std::borrow::Cow;

use super::path::{escape, normalise};
use super::path_pattern::PathPattern;

/// A service's `path_prefix` and `strip_path_prefix` (API7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPrefix {
    /// As the normalised path has it, without a slash at its end. Never empty.
    text: Box<str>,
    is_stripped: bool,
}

/// Why a text is no prefix of paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathPrefixError {
    /// It does not start with `/`.
    #[error("it must begin with /")]
    NotAbsolute,
    /// It holds a `*`, or a segment that starts with `:`, which mean something in a route's path.
    #[error("it stands for itself alone: * and :name belong into the paths of routes")]
    Pattern,
    /// No request's path begins so once it is decoded and its dots and slashes are resolved.
    #[error("no path begins so: write it decoded, without //, . and ..")]
    NotNormal,
}

impl PathPrefix {
    /// Reads a prefix; `None` for `/` alone, which every path begins with.
    ///
    /// # Errors
    /// [`PathPrefixError`], for the first fault.
    pub fn parse(text: &str, is_stripped: bool) -> Result<Option<Self>, PathPrefixError> {
        if !text.starts_with('/') {
            return Err(PathPrefixError::NotAbsolute);
        }
        if text.contains('*') || text.contains("/:") {
            return Err(PathPrefixError::Pattern);
        }
        if !normalise(text).is_ok_and(|normal| *normal == *text.as_bytes()) {
            return Err(PathPrefixError::NotNormal);
        }
        let text = text.strip_suffix('/').unwrap_or(text);
        Ok((!text.is_empty()).then(|| Self {
            text: text.into(),
            is_stripped,
        }))
    }

    /// A route's path behind the prefix; one that begins with `*` stands below it.
    pub fn put_before(&self, pattern: &PathPattern) -> PathPattern {
        pattern.behind(&self.text)
    }

    /// The path that an upstream gets; `None` where that is the one that was sent.
    ///
    /// `raw` is the path as sent, `path` what it is once normalised. What follows the prefix is
    /// taken as it was sent where that is the same to everybody, else it is written anew.
    pub fn strip<'p>(&self, raw: &'p str, path: &[u8]) -> Option<Cow<'p, str>> {
        if !self.is_stripped {
            return None;
        }
        let rest = path.strip_prefix(self.text.as_bytes())?;
        let as_sent = raw.strip_prefix(&*self.text).filter(|sent| {
            // Two slashes in front could be read as a host.
            !sent.starts_with("//") && normalise(sent).is_ok_and(|normal| *normal == *rest)
        });
        Some(match as_sent {
            Some(sent) => Cow::Borrowed(sent),
            None => Cow::Owned(escape(rest)),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefix(text: &str) -> PathPrefix {
        PathPrefix::parse(text, true).unwrap().unwrap()
    }

    #[test]
    fn prefixes_are_read_or_refused() {
        assert_eq!(PathPrefix::parse("/", true), Ok(None));
        assert_eq!(prefix("/api/"), prefix("/api"));
        for (text, error) in [
            ("", PathPrefixError::NotAbsolute),
            ("api", PathPrefixError::NotAbsolute),
            ("/a*", PathPrefixError::Pattern),
            ("/a/:id", PathPrefixError::Pattern),
            ("/a//b", PathPrefixError::NotNormal),
            ("/a/../b", PathPrefixError::NotNormal),
            ("/%61", PathPrefixError::NotNormal),
            ("/a?b", PathPrefixError::NotNormal),
        ] {
            assert_eq!(PathPrefix::parse(text, true), Err(error), "{text}");
        }
    }

    #[test]
    fn paths_of_routes_stand_behind_the_prefix() {
        for (path, behind) in [
            ("/", "/api/"),
            ("/a", "/api/a"),
            ("/*", "/api/*"),
            ("*", "/api/*"),
            ("*.jpg", "/api/*.jpg"),
        ] {
            let pattern = PathPattern::parse(path).unwrap();
            assert_eq!(prefix("/api").put_before(&pattern).as_str(), behind);
        }
    }

    #[test]
    fn what_follows_the_prefix_is_sent_as_it_was_where_that_is_safe() {
        for (raw, stripped) in [
            ("/api/", "/"),
            ("/api/a/b", "/a/b"),
            ("/api/a%20b", "/a%20b"),
            ("/api/a%2Fb", "/a%2Fb"),
            ("/api/./a", "/./a"),
            ("/api//a", "/a"),
            ("/api/../api/a", "/a"),
            ("//api/a", "/a"),
            ("/%61pi/a%20b", "/a%20b"),
            ("/x/../api/%C3%BC", "/%C3%BC"),
            ("/%61pi/100%25", "/100%25"),
            ("/api/api/a", "/api/a"),
        ] {
            let path = normalise(raw).unwrap();
            assert_eq!(
                prefix("/api").strip(raw, &path).as_deref(),
                Some(stripped),
                "{raw}"
            );
        }
        let kept = PathPrefix::parse("/api", false).unwrap().unwrap();
        assert_eq!(kept.strip("/api/a", b"/api/a"), None);
    }

    proptest! {
        #[test]
        fn an_upstream_reads_what_was_matched_without_the_prefix(
            raw in "(/|api|[ab.]|%2[eEfF]|%41|%C3|\\.\\.){0,12}"
        ) {
            let raw = format!("/{raw}");
            let Ok(path) = normalise(&raw) else {
                return Ok(());
            };
            if !path.starts_with(b"/api/") {
                return Ok(());
            }
            let stripped = prefix("/api").strip(&raw, &path).unwrap();
            let again = normalise(&stripped).unwrap();
            prop_assert_eq!(&*again, &path[4..]);
        }
    }
}
