//! Names in the client hello, the patterns of ssl resources, and the table between them.
//!
//! What a name holds (policy, certificates, closed or not) is the snapshot's `T`.

use std::fmt;
use std::net::Ipv6Addr;
use std::sync::Arc;

use super::name::{NameError, check_name, cut_dot, parse_ipv4};

/// A server name as sent in a client hello: lower case, without trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SniName(Arc<str>);

/// Why the bytes of a `server_name` extension are refused; the handshake ends with an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SniError {
    /// Present, but without a byte.
    #[error("the server name is empty")]
    Empty,
    /// An IPv4 or IPv6 address, which RFC 6066, section 3, does not permit.
    #[error("the server name is an IP address")]
    IpLiteral,
    /// No host name.
    #[error("the server name is malformed")]
    Malformed(#[from] NameError),
}

impl SniName {
    /// Reads the host name of a `server_name` extension (RFC 6066, section 3).
    ///
    /// One trailing dot is cut, though the RFC has none: APISIX accepts it.
    ///
    /// # Errors
    /// [`SniError`], by which the handshake record tells the cases apart.
    pub fn parse(raw: &[u8]) -> Result<Self, SniError> {
        if raw.is_empty() {
            return Err(SniError::Empty);
        }
        let name = cut_dot(raw);
        if is_ip(name) {
            return Err(SniError::IpLiteral);
        }
        check_name(name)?;
        let mut text = String::from_utf8_lossy(name).into_owned();
        text.make_ascii_lowercase();
        Ok(Self(text.into()))
    }

    /// The canonical name, as [`NameTable::find`] and the authority's host spell it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SniName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_ip(name: &[u8]) -> bool {
    let inner = name
        .strip_prefix(b"[")
        .and_then(|rest| rest.strip_suffix(b"]"))
        .unwrap_or(name);
    let is_v6 = std::str::from_utf8(inner).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok());
    is_v6 || parse_ipv4(name).is_some()
}

/// One entry of an ssl resource's `sni` or `snis`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SniPattern {
    /// This name alone.
    Exact(SniName),
    /// `*.parent`: exactly one label before `parent`; the field is the parent.
    Wildcard(SniName),
    /// `*`: every name that nothing else claims.
    CatchAll,
}

/// Why a text is no name that a client could ask for.
///
/// APISIX's schema accepts more (`*foo.com`, ports, brackets, addresses), but no client hello
/// can carry it, so such a resource would never serve: refusing it at the write says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SniPatternError {
    /// Nothing was given.
    #[error("a name is needed")]
    Empty,
    /// A `*` that is neither the whole text nor the whole first label.
    #[error("'*' must stand alone or be the whole first label, as in '*.example.com'")]
    Star,
    /// An address: clients do not send one as server name.
    #[error("an IP address is never sent as server name; set https.fallback_sni for such clients")]
    IpLiteral,
    /// A `:`, as in `example.com:443`.
    #[error("a server name has no port")]
    Port,
    /// The name, or the part after `*.`, is no host name.
    #[error("{0}")]
    Name(#[from] NameError),
}

impl SniPattern {
    /// Reads an ssl resource's name: `a.com`, `*.a.com` or `*`, in any case, a trailing dot cut.
    ///
    /// # Errors
    /// [`SniPatternError`], whose text is fit for the 400 of the write.
    pub fn parse(text: &str) -> Result<Self, SniPatternError> {
        if text == "*" {
            return Ok(Self::CatchAll);
        }
        let (name, is_wildcard) = match text.strip_prefix("*.") {
            Some(parent) => (parent, true),
            None => (text, false),
        };
        if name.contains('*') {
            return Err(SniPatternError::Star);
        }
        match SniName::parse(name.as_bytes()) {
            Ok(parent) if is_wildcard => Ok(Self::Wildcard(parent)),
            Ok(name) => Ok(Self::Exact(name)),
            Err(SniError::Empty) => Err(SniPatternError::Empty),
            Err(SniError::IpLiteral) => Err(SniPatternError::IpLiteral),
            Err(SniError::Malformed(NameError::Character(b':'))) => Err(SniPatternError::Port),
            Err(SniError::Malformed(error)) => Err(error.into()),
        }
    }

    /// True when a client that asks for `name` is meant, whatever other patterns say.
    ///
    /// `name` in canonical spelling, as everywhere in this file.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(own) => own.as_str() == name,
            Self::Wildcard(parent) => parent_of(name) == Some(parent.as_str()),
            Self::CatchAll => true,
        }
    }
}

impl fmt::Display for SniPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name.as_str()),
            Self::Wildcard(parent) => write!(f, "*.{parent}"),
            Self::CatchAll => f.write_str("*"),
        }
    }
}

/// What follows the first label, if the name has more than one.
fn parent_of(name: &str) -> Option<&str> {
    let dot = name.bytes().position(|byte| byte == b'.')?;
    name.get(dot + 1..)
}

/// Which `T` serves a name: exact, else one-label wildcard, else catch-all.
///
/// Persistent: a clone is O(1), a change copies O(log n) and leaves clones as they were. One
/// value per pattern; two resources with the same name are settled by the caller.
///
/// ```
/// use portcullis::matching::sni::{NameTable, SniPattern};
///
/// let mut table = NameTable::default();
/// table.insert(&SniPattern::parse("*.a.com").unwrap(), 1);
/// assert_eq!(table.find("x.a.com"), Some(&1));
/// assert_eq!(table.find("y.x.a.com"), None);
/// ```
#[derive(Debug, Clone)]
pub struct NameTable<T: Clone> {
    exact: imbl::HashMap<Arc<str>, T>,
    /// By parent: `a.com` for `*.a.com`.
    wildcard: imbl::HashMap<Arc<str>, T>,
    catch_all: Option<T>,
}

impl<T: Clone> Default for NameTable<T> {
    fn default() -> Self {
        Self {
            exact: imbl::HashMap::new(),
            wildcard: imbl::HashMap::new(),
            catch_all: None,
        }
    }
}

impl<T: Clone> NameTable<T> {
    /// Puts `value` under `pattern` and returns what was there.
    pub fn insert(&mut self, pattern: &SniPattern, value: T) -> Option<T> {
        match pattern {
            SniPattern::Exact(name) => self.exact.insert(Arc::clone(&name.0), value),
            SniPattern::Wildcard(parent) => self.wildcard.insert(Arc::clone(&parent.0), value),
            SniPattern::CatchAll => self.catch_all.replace(value),
        }
    }

    /// Takes out what is under exactly this pattern.
    pub fn remove(&mut self, pattern: &SniPattern) -> Option<T> {
        match pattern {
            SniPattern::Exact(name) => self.exact.remove(name.as_str()),
            SniPattern::Wildcard(parent) => self.wildcard.remove(parent.as_str()),
            SniPattern::CatchAll => self.catch_all.take(),
        }
    }

    /// What is under exactly this pattern.
    pub fn get(&self, pattern: &SniPattern) -> Option<&T> {
        match pattern {
            SniPattern::Exact(name) => self.exact.get(name.as_str()),
            SniPattern::Wildcard(parent) => self.wildcard.get(parent.as_str()),
            SniPattern::CatchAll => self.catch_all.as_ref(),
        }
    }

    /// What serves `name`, given in canonical spelling ([`SniName`], or an authority's host).
    ///
    /// A wildcard stands for exactly one label (RFC 6125, section 6.4.3); a longer name goes to
    /// the catch-all, never to the wildcard of a grandparent.
    pub fn find(&self, name: &str) -> Option<&T> {
        self.exact
            .get(name)
            .or_else(|| {
                if self.wildcard.is_empty() {
                    return None;
                }
                self.wildcard.get(parent_of(name)?)
            })
            .or(self.catch_all.as_ref())
    }

    /// How many patterns are in the table.
    pub fn len(&self) -> usize {
        self.exact.len() + self.wildcard.len() + usize::from(self.catch_all.is_some())
    }

    /// True when no name is served.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> SniPattern {
        SniPattern::parse(text).unwrap()
    }

    fn table(patterns: &[&'static str]) -> NameTable<&'static str> {
        let mut table = NameTable::default();
        for text in patterns {
            table.insert(&pattern(text), *text);
        }
        table
    }

    #[test]
    fn names_are_lower_cased_and_lose_one_trailing_dot() {
        for (raw, name) in [
            ("a.com", "a.com"),
            ("A.Com.", "a.com"),
            ("localhost", "localhost"),
            ("_x.a-b", "_x.a-b"),
        ] {
            assert_eq!(SniName::parse(raw.as_bytes()).unwrap().as_str(), name);
        }
    }

    #[test]
    fn refused_names_are_told_apart() {
        for (raw, error) in [
            ("", SniError::Empty),
            ("10.0.0.1", SniError::IpLiteral),
            ("10.0.0.1.", SniError::IpLiteral),
            ("::1", SniError::IpLiteral),
            ("[::1]", SniError::IpLiteral),
            (".", NameError::Empty.into()),
            ("a..com", NameError::EmptyLabel.into()),
            ("a.com:443", NameError::Character(b':').into()),
            ("*.a.com", NameError::Character(b'*').into()),
            ("a\0b", NameError::Character(0).into()),
            ("127.1", NameError::EndsInNumber.into()),
        ] {
            assert_eq!(SniName::parse(raw.as_bytes()), Err(error), "{raw:?}");
        }
    }

    #[test]
    fn patterns_are_read_and_shown_in_canonical_spelling() {
        for (text, shown) in [
            ("*", "*"),
            ("*.A.com.", "*.a.com"),
            ("*.com", "*.com"),
            ("Test.com", "test.com"),
        ] {
            assert_eq!(pattern(text).to_string(), shown);
        }
    }

    #[test]
    fn patterns_no_client_can_ask_for_are_refused() {
        for (text, error) in [
            ("", SniPatternError::Empty),
            ("*.", SniPatternError::Empty),
            ("*foo.com", SniPatternError::Star),
            ("a.*.com", SniPatternError::Star),
            ("**", SniPatternError::Star),
            ("*.*.com", SniPatternError::Star),
            ("a.com:443", SniPatternError::Port),
            ("[::1]", SniPatternError::IpLiteral),
            ("127.0.0.1", SniPatternError::IpLiteral),
            ("a b", NameError::Character(b' ').into()),
            ("*.1", NameError::EndsInNumber.into()),
        ] {
            assert_eq!(SniPattern::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn exact_name_beats_wildcard_beats_catch_all() {
        let table = table(&["a.com", "*.a.com", "x.a.com", "*"]);
        for (name, found) in [
            ("a.com", "a.com"),
            ("x.a.com", "x.a.com"),
            ("y.a.com", "*.a.com"),
            ("z.y.a.com", "*"),
            ("b.com", "*"),
            ("localhost", "*"),
        ] {
            assert_eq!(table.find(name), Some(&found), "{name}");
        }
    }

    #[test]
    fn a_wildcard_covers_neither_its_parent_nor_deeper_names() {
        let table = table(&["*.a.com"]);
        assert_eq!(table.find("x.a.com"), Some(&"*.a.com"));
        assert_eq!(table.find("a.com"), None);
        assert_eq!(table.find("y.x.a.com"), None);
        assert_eq!(table.find("xa.com"), None);
    }

    #[test]
    fn a_removed_pattern_is_gone_and_no_other() {
        let mut table = table(&["a.com", "*.a.com", "*"]);
        for text in ["*.a.com", "*", "a.com"] {
            assert_eq!(table.get(&pattern(text)), Some(&text));
            assert_eq!(table.remove(&pattern(text)), Some(text));
            assert_eq!(table.get(&pattern(text)), None);
            assert_eq!(table.remove(&pattern(text)), None);
        }
        assert!(table.is_empty());
    }

    #[test]
    fn a_change_leaves_clones_as_they_were() {
        let before = table(&["a.com", "*"]);
        let mut after = before.clone();
        after.remove(&pattern("*"));
        after.insert(&pattern("a.com"), "other");
        assert_eq!((before.len(), after.len()), (2, 1));
        assert_eq!(before.find("a.com"), Some(&"a.com"));
        assert_eq!(after.find("a.com"), Some(&"other"));
        assert_eq!(before.find("b.com"), Some(&"*"));
        assert_eq!(after.find("b.com"), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(raw: Vec<u8>, text: String) {
            let _ = SniName::parse(&raw);
            let _ = SniPattern::parse(&text);
        }

        #[test]
        fn the_table_finds_what_a_scan_finds(
            patterns in proptest::collection::vec(r"\*|(\*\.)?([ab]\.){0,2}[ab]", 0..8),
            name in r"([ab]\.){0,3}[ab]",
        ) {
            let mut table = NameTable::default();
            for text in &patterns {
                table.insert(&pattern(text), text.clone());
            }
            let strength = |text: &&String| match pattern(text) {
                SniPattern::Exact(_) => 2,
                SniPattern::Wildcard(_) => 1,
                SniPattern::CatchAll => 0,
            };
            let scanned = patterns.iter().filter(|text| pattern(text).matches(&name));
            prop_assert_eq!(table.find(&name), scanned.max_by_key(strength));
        }
    }
}
