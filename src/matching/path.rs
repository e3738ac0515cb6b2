//! Request paths as the router sees them.
//!
//! The normalised path serves matching only: the upstream gets the original request line.

use std::borrow::Cow;

/// Why a path cannot be matched; the request is answered 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The path does not start with `/`.
    #[error("the path does not start with '/'")]
    NotAbsolute,
    /// A `?` or `#`: the caller left the query or a fragment on.
    #[error("the path contains '?' or '#'")]
    Delimiter,
    /// A `%` that two hexadecimal digits do not follow.
    #[error("the path contains an invalid percent escape")]
    Escape,
    /// `%00`.
    #[error("the path contains an encoded NUL")]
    Nul,
    /// More `..` than segments.
    #[error("the path leads above the root")]
    AboveRoot,
    /// `..;a`, `;a` and the like, where parameters are left out.
    #[error("a segment of the path is empty or dots before its parameters")]
    Parameters,
}

/// The path that routes are matched against: decoded once, `//` merged, `.` and `..` resolved.
///
/// nginx's rules (`merge_slashes on`): escapes are decoded first, so that `%2F` separates and
/// `%2e%2e` climbs; `%25`, `%3F` and `%23` become plain characters. The result may not be UTF-8.
/// `raw` is the path alone, without query. Borrowed, and thus free, when nothing is to be done.
///
/// # Errors
/// [`PathError`]; nothing is guessed.
///
/// ```
/// use portcullis::matching::path::normalise;
///
/// assert_eq!(*normalise("/a//b/../%63").unwrap(), *b"/a/c");
/// assert!(normalise("/..").is_err());
/// ```
pub fn normalise(raw: &str) -> Result<Cow<'_, [u8]>, PathError> {
    let bytes = raw.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(PathError::NotAbsolute);
    }
    if is_plain(bytes) {
        return Ok(Cow::Borrowed(bytes));
    }
    resolve(&decode(bytes)?).map(Cow::Owned)
}

/// True when normalising certainly changes nothing; `/.well-known` is looked at twice.
fn is_plain(path: &[u8]) -> bool {
    let mut previous = 0;
    path.iter().all(|byte| {
        let is_plain = match byte {
            b'%' | b'?' | b'#' => false,
            b'/' | b'.' => previous != b'/',
            _ => true,
        };
        previous = *byte;
        is_plain
    })
}

/// A path with its escapes decoded, and nothing else done.
pub(super) fn decode(path: &[u8]) -> Result<Vec<u8>, PathError> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'?' | b'#' => return Err(PathError::Delimiter),
            b'%' => {
                let digits = hex(bytes.next()).zip(hex(bytes.next()));
                let (high, low) = digits.ok_or(PathError::Escape)?;
                match high << 4 | low {
                    0 => return Err(PathError::Nul),
                    escaped => decoded.push(escaped),
                }
            }
            _ => decoded.push(byte),
        }
    }
    Ok(decoded)
}

/// A normalised path, written with escapes for all that may not stand in one (RFC 3986 §3.3).
#[must_use]
pub fn escape(path: &[u8]) -> String {
    let mut escaped = String::with_capacity(path.len() + 1);
    if path.first() != Some(&b'/') {
        escaped.push('/');
    }
    for byte in path {
        match byte {
            b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+'
            | b',' | b';' | b'=' | b':' | b'@' | b'/' => escaped.push(char::from(*byte)),
            _ if byte.is_ascii_alphanumeric() => escaped.push(char::from(*byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// A part of a query, decoded: `+` is a space; an invalid escape stays as it is (nginx and APISIX).
pub fn unescape(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        let digit = |at: usize| hex(after.get(at).copied());
        match (byte, digit(0).zip(digit(1))) {
            (b'%', Some((high, low))) => {
                decoded.push(high << 4 | low);
                rest = after.get(2..).unwrap_or_default();
            }
            (b'+', _) => decoded.push(b' '),
            (byte, _) => decoded.push(*byte),
        }
    }
    Cow::Owned(decoded)
}

/// The value of one hexadecimal digit.
fn hex(digit: Option<u8>) -> Option<u8> {
    match digit? {
        digit @ b'0'..=b'9' => Some(digit - b'0'),
        digit @ b'a'..=b'f' => Some(digit - b'a' + 10),
        digit @ b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Merges slashes and resolves dot segments. `path` starts with `/`.
fn resolve(path: &[u8]) -> Result<Vec<u8>, PathError> {
    // Invariant: ends in `/` before each segment.
    let mut resolved = Vec::with_capacity(path.len());
    resolved.push(b'/');
    let mut segments = path.split(|byte| *byte == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            b"" | b"." => {}
            b".." => {
                resolved.pop();
                let parent = resolved.iter().rposition(|byte| *byte == b'/');
                resolved.truncate(parent.ok_or(PathError::AboveRoot)? + 1);
            }
            _ => {
                resolved.extend_from_slice(segment);
                if segments.peek().is_some() {
                    resolved.push(b'/');
                }
            }
        }
    }
    Ok(resolved)
}

/// True when the gateway and an upstream could read the raw path differently.
///
/// Such a path never matches a pattern that skips client authentication: an encoded `/`, `\` or
/// `.`, a backslash, an encoded NUL, an escape that decodes to another escape, an invalid escape,
/// `//`, and dot segments, also with path parameters (`/..;a/`, which some servers resolve).
pub fn has_ambiguity(raw: &str) -> bool {
    let Some(path) = raw.as_bytes().strip_prefix(b"/") else {
        return true;
    };
    let mut segments = path.split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        if segment.is_empty() && !is_last || is_dot_segment(segment) || has_odd_bytes(segment) {
            return true;
        }
    }
    false
}

/// `.` or `..`, with or without path parameters, whose `;` may be encoded.
fn is_dot_segment(segment: &[u8]) -> bool {
    let Some(rest) = segment.strip_prefix(b".") else {
        return false;
    };
    let rest = rest.strip_prefix(b".").unwrap_or(rest);
    rest.is_empty()
        || rest.starts_with(b";")
        || rest.starts_with(b"%3b")
        || rest.starts_with(b"%3B")
}

fn has_odd_bytes(segment: &[u8]) -> bool {
    let mut rest = segment;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'\\' => return true,
            b'%' => {
                let digit = |at: usize| hex(after.get(at).copied());
                let Some((high, low)) = digit(0).zip(digit(1)) else {
                    return true;
                };
                match high << 4 | low {
                    0 | b'/' | b'\\' | b'.' => return true,
                    b'%' if digit(2).is_some() && digit(3).is_some() => return true,
                    _ => {}
                }
            }
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_normalised_as_nginx_does() {
        for (raw, path) in [
            ("/", "/"),
            ("/a", "/a"),
            ("/a/", "/a/"),
            ("//", "/"),
            ("//a///b//", "/a/b/"),
            ("/.", "/"),
            ("/./a", "/a"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/b/../c", "/a/c"),
            ("/a//../b", "/b"),
            ("/a/./b/./c", "/a/b/c"),
            ("/.a", "/.a"),
            ("/..a/b.", "/..a/b."),
            ("/...", "/..."),
            ("/a.b", "/a.b"),
            ("/%61%2Fb", "/a/b"),
            ("/a%2f%2Fb", "/a/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e", "/"),
            ("/a%20b", "/a b"),
            ("/%252e", "/%2e"),
            ("/a%3Fb%23", "/a?b#"),
            ("/%5c..", "/\\.."),
        ] {
            assert_eq!(normalise(raw).as_deref(), Ok(path.as_bytes()), "{raw}");
        }
        assert_eq!(normalise("/%ff").as_deref(), Ok(&b"/\xff"[..]));
    }

    #[test]
    fn paths_that_cannot_be_read_are_refused() {
        for (raw, error) in [
            ("", PathError::NotAbsolute),
            ("*", PathError::NotAbsolute),
            ("a", PathError::NotAbsolute),
            ("/..", PathError::AboveRoot),
            ("/../a", PathError::AboveRoot),
            ("/a/../..", PathError::AboveRoot),
            ("/a/%2e%2e/%2e%2e/b", PathError::AboveRoot),
            ("//..", PathError::AboveRoot),
            ("/%", PathError::Escape),
            ("/%4", PathError::Escape),
            ("/%4g", PathError::Escape),
            ("/%g4", PathError::Escape),
            ("/a%00", PathError::Nul),
            ("/a?b", PathError::Delimiter),
            ("/a#b", PathError::Delimiter),
        ] {
            assert_eq!(normalise(raw), Err(error), "{raw}");
        }
    }

    #[test]
    fn parts_of_a_query_are_decoded() {
        for (text, decoded) in [
            ("a-b", &b"a-b"[..]),
            ("a+b", b"a b"),
            ("%41%c3%BC", b"A\xc3\xbc"),
            ("%", b"%"),
            ("%4", b"%4"),
            ("%zz%41", b"%zzA"),
            ("%2525", b"%25"),
        ] {
            assert_eq!(*unescape(text.as_bytes()), *decoded, "{text}");
        }
    }

    #[test]
    fn a_plain_path_is_borrowed() {
        for raw in ["/", "/a/b.c/d", "/a/b/"] {
            assert!(matches!(normalise(raw), Ok(Cow::Borrowed(_))), "{raw}");
        }
    }

    #[test]
    fn ambiguous_paths_are_told() {
        for raw in [
            "",
            "a",
            "//",
            "/a//b",
            "/./a",
            "/a/.",
            "/a/..",
            "/../a",
            "/a%2fb",
            "/a%2Fb",
            "/%5c",
            "/a\\b",
            "/%2e",
            "/a%2Eb",
            "/%",
            "/%4",
            "/%zz",
            "/a%00",
            "/%252e",
            "/..;/a",
            "/.;x",
            "/..%3b/a",
            "/..%3Bv=1",
        ] {
            assert!(has_ambiguity(raw), "{raw}");
        }
        for raw in [
            "/",
            "/a",
            "/a/",
            "/a.b/c",
            "/.well-known/x",
            "/...",
            "/..a",
            "/a;b",
            "/a%20b",
            "/100%25",
            "/%25-",
            "/%C3%BC",
        ] {
            assert!(!has_ambiguity(raw), "{raw}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(raw: String) {
            let _ = normalise(&raw);
            let _ = has_ambiguity(&raw);
            let _ = unescape(raw.as_bytes());
        }

        #[test]
        fn a_normalised_path_is_clean_and_stays_as_it_is(raw in "(/|[ab.]|%2[eEfF]|%41|\\.\\.){0,12}") {
            if let Ok(path) = normalise(&format!("/{raw}")) {
                let text = std::str::from_utf8(&path).unwrap();
                prop_assert!(text.starts_with('/'));
                let has_odd_segment = text.split('/').any(|part| part == "." || part == "..");
                prop_assert!(!text.contains("//") && !has_odd_segment);
                let again = normalise(text).unwrap();
                prop_assert_eq!(&*again, &*path);
            }
        }

        #[test]
        fn an_unambiguous_path_differs_from_its_normal_form_in_escapes_only(
            raw in "(/|[ab.;]|%2[eEfF0]|%41|%3b|\\\\|\\.\\.){0,12}"
        ) {
            let raw = format!("/{raw}");
            if !has_ambiguity(&raw) {
                let decoded = decode(raw.as_bytes()).unwrap();
                prop_assert_eq!(&*normalise(&raw).unwrap(), &*decoded);
            }
        }
    }
}
