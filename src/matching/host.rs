//! Host patterns of routes and services, as the router reads them.
//!
//! Not the names of ssl resources: there a wildcard stands for one label, here for any number.

use super::authority::Authority;
use super::name::cut_dot;

/// One entry of `host` or `hosts`, in lower case and without trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This host alone.
    Exact(Box<str>),
    /// `*suffix`: every host that ends in the suffix; `.x.com` for `*.x.com`, any depth.
    ///
    /// The apex `x.com` does not end in `.x.com`, so `*.x.com` does not cover it. `*x.com`, which
    /// APISIX accepts too, covers `x.com`, `a.x.com` and `ax.com`.
    Suffix(Box<str>),
    /// `*`: every host. Weaker than any other pattern, stronger than no host at all.
    Any,
}

/// Why a text is no host pattern (APISIX's pattern for hosts).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostPatternError {
    /// Nothing was given.
    #[error("a host is needed")]
    Empty,
    /// A `*` that is not the first character.
    #[error("'*' may only be the first character of a host")]
    Star,
    /// A character that is no ASCII letter or digit and none of `-._[]:`.
    #[error("a host cannot contain {0:?}")]
    Character(char),
}

impl HostPattern {
    /// Reads `a.com`, `*.a.com`, `*a.com` or `*`; an IPv6 address stands in brackets.
    ///
    /// As permissive as APISIX's schema: `a.com:9080` and `a..com` are read, though nothing can
    /// ever match them; [`HostPattern::is_reachable`] tells.
    ///
    /// # Errors
    /// [`HostPatternError`], for the first fault.
    pub fn parse(text: &str) -> Result<Self, HostPatternError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let (host, is_suffix) = match text.strip_prefix('*') {
            Some(suffix) => (suffix, true),
            None => (text, false),
        };
        if host.is_empty() {
            return Err(HostPatternError::Empty);
        }
        if let Some(odd) = host.chars().find(|letter| !is_host_character(*letter)) {
            return Err(match odd {
                '*' => HostPatternError::Star,
                _ => HostPatternError::Character(odd),
            });
        }
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        if is_suffix {
            return Ok(Self::Suffix(host.into()));
        }
        // An address has several spellings; requests come in the canonical one.
        match Authority::parse(host.as_bytes()) {
            Ok(authority) => Ok(Self::Exact(authority.as_str().into())),
            Err(_) => Ok(Self::Exact(host.into())),
        }
    }

    /// True when `host`, spelled as [`Authority::host`] does, is covered.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(own) => **own == *host,
            Self::Suffix(suffix) => host.ends_with(&**suffix),
            Self::Any => true,
        }
    }

    /// False when certainly no request can match, as with a port; worth a warning on the write.
    pub fn is_reachable(&self) -> bool {
        match self {
            Self::Exact(own) => {
                Authority::parse(own.as_bytes()).is_ok_and(|authority| authority.host() == &**own)
            }
            Self::Suffix(suffix) => {
                let has_port = suffix.contains(':') && !suffix.ends_with(']');
                !has_port
                    && !suffix.contains("..")
                    && cut_dot(suffix.as_bytes()) == suffix.as_bytes()
            }
            Self::Any => true,
        }
    }
}

fn is_host_character(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.' | '_' | '[' | ']' | ':')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> HostPattern {
        HostPattern::parse(text).unwrap()
    }

    #[test]
    fn patterns_cover_the_hosts_they_name() {
        for (text, covered, not_covered) in [
            ("A.com.", &["a.com"][..], &["x.a.com", "b.com"][..]),
            ("*.x.com", &["a.x.com", "b.a.x.com"], &["x.com", "ax.com"]),
            ("*x.com", &["x.com", "a.x.com", "ax.com"], &["x.org"]),
            ("*", &["a.com", "localhost", "[::1]", ""], &[]),
            ("10.0.0.1", &["10.0.0.1"], &["10.0.0.2"]),
            ("[0:0::1]", &["[::1]"], &["[::2]"]),
            ("*.X.com", &["a.x.com"], &[]),
        ] {
            let pattern = parse(text);
            assert!(pattern.is_reachable(), "{text}");
            for host in covered {
                assert!(pattern.matches(host), "{text} covers {host}");
            }
            for host in not_covered {
                assert!(!pattern.matches(host), "{text} does not cover {host}");
            }
        }
    }

    #[test]
    fn texts_outside_the_schema_are_refused() {
        for (text, error) in [
            ("", HostPatternError::Empty),
            ("a*", HostPatternError::Star),
            ("**", HostPatternError::Star),
            ("a.*.com", HostPatternError::Star),
            ("a b", HostPatternError::Character(' ')),
            ("bücher.de", HostPatternError::Character('ü')),
            ("a/b", HostPatternError::Character('/')),
        ] {
            assert_eq!(HostPattern::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn hosts_no_request_can_carry_are_read_but_told() {
        for text in [
            "a.com:9080",
            "a..com",
            "*.a.com:80",
            "*..a",
            "::1",
            "[::1]:80",
            ".",
        ] {
            assert!(!parse(text).is_reachable(), "{text}");
        }
    }
}
