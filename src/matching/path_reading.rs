//! How a path is read for routes where an operator asks for more than normalisation: APISIX's options
//! `delete_uri_tail_slash`, `normalize_uri_like_servlet` and `match_uri_encoded_slash`.
//!
//! Routes alone are found by it. What clients must show is judged by the path as it stands, and
//! upstreams get it as it was sent.

use std::borrow::Cow;

use super::path::{PathError, decode};

/// What is done to a path. By default nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PathReading {
    /// A slash at its end is left out (`delete_uri_tail_slash`); the root stays.
    pub drops_tail_slash: bool,
    /// What stands behind a `;` in a segment is left out (`normalize_uri_like_servlet`).
    pub drops_parameters: bool,
    /// `%2F` is no separator (`match_uri_encoded_slash`).
    pub keeps_encoded_slash: bool,
}

impl PathReading {
    /// The path that is `uri` to routes, from one that is normalised.
    ///
    /// # Errors
    /// [`PathError::Parameters`]: without its parameters a segment would be empty or dots, which a
    /// server behind could read otherwise.
    pub fn uri(self, normal: Cow<'_, [u8]>) -> Result<Cow<'_, [u8]>, PathError> {
        let mut path = normal;
        if self.drops_tail_slash && path.len() > 1 && path.ends_with(b"/") {
            path = match path {
                Cow::Borrowed(path) => Cow::Borrowed(path.strip_suffix(b"/").unwrap_or(path)),
                Cow::Owned(mut path) => {
                    path.pop();
                    Cow::Owned(path)
                }
            };
        }
        if self.drops_parameters && path.contains(&b';') {
            path = Cow::Owned(without_parameters(&path)?);
        }
        Ok(path)
    }

    /// What routes are looked for by: the `uri`, or the `raw` path with its `%2F`, upper case, if
    /// nothing but its escapes makes the difference.
    pub fn matched<'p>(self, raw: &str, uri: &'p [u8]) -> Cow<'p, [u8]> {
        let encodes = |raw: &str| raw.contains("%2F") || raw.contains("%2f");
        if !self.keeps_encoded_slash || !encodes(raw) {
            return Cow::Borrowed(uri);
        }
        let is_only_decoded = decode(raw.as_bytes()).is_ok_and(|decoded| decoded == uri);
        // Escaped once more, it is what decoding leaves.
        let kept = raw.replace("%2F", "%252F").replace("%2f", "%252F");
        match decode(kept.as_bytes()) {
            Ok(kept) if is_only_decoded => Cow::Owned(kept),
            Ok(_) | Err(_) => Cow::Borrowed(uri),
        }
    }
}

fn without_parameters(path: &[u8]) -> Result<Vec<u8>, PathError> {
    let mut read = Vec::with_capacity(path.len());
    let mut segments = path.split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let end = segment.iter().position(|byte| *byte == b';');
        let (name, parameters) = segment.split_at(end.unwrap_or(segment.len()));
        let is_dots = [&b"."[..], b"..", b"%2e", b"%2e%2e"]
            .iter()
            .any(|dots| name.eq_ignore_ascii_case(dots));
        let is_last = segments.peek().is_none();
        if !parameters.is_empty() && (is_dots || name.is_empty() && !is_last) {
            return Err(PathError::Parameters);
        }
        read.extend_from_slice(name);
        if !is_last {
            read.push(b'/');
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::path::normalise;
    use super::*;

    const TAIL: PathReading = PathReading {
        drops_tail_slash: true,
        drops_parameters: false,
        keeps_encoded_slash: false,
    };
    const SERVLET: PathReading = PathReading {
        drops_tail_slash: false,
        drops_parameters: true,
        keeps_encoded_slash: false,
    };
    const SLASH: PathReading = PathReading {
        drops_tail_slash: false,
        drops_parameters: false,
        keeps_encoded_slash: true,
    };

    fn read(reading: PathReading, raw: &str) -> Result<(String, String), PathError> {
        let uri = reading.uri(normalise(raw)?)?;
        let matched = reading.matched(raw, &uri);
        let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        Ok((text(&uri), text(&matched)))
    }

    #[test]
    fn each_option_does_what_apisix_does() {
        for (reading, raw, uri, matched) in [
            (PathReading::default(), "/a;x/%2F/", "/a;x/", "/a;x/"),
            (TAIL, "/a/", "/a", "/a"),
            (TAIL, "/a/%62/", "/a/b", "/a/b"),
            (TAIL, "/a", "/a", "/a"),
            (TAIL, "/", "/", "/"),
            (SERVLET, "/a;x=1/b;y", "/a/b", "/a/b"),
            (SERVLET, "/a%3bx/b", "/a/b", "/a/b"),
            (SERVLET, "/a/;x", "/a/", "/a/"),
            (SERVLET, "/a/b", "/a/b", "/a/b"),
            (SLASH, "/v/a%2Fb/%41", "/v/a/b/A", "/v/a%2Fb/A"),
            (SLASH, "/v/a%2fb/", "/v/a/b/", "/v/a%2Fb/"),
            (SLASH, "/a/b", "/a/b", "/a/b"),
            (SLASH, "/x%2Fy/../..", "/", "/"),
            (SLASH, "/a%2Fb/%2e%2e/%2e%2e", "/", "/"),
            (SLASH, "/a%2F%2Fb", "/a/b", "/a/b"),
        ] {
            let wanted = (uri.to_owned(), matched.to_owned());
            assert_eq!(read(reading, raw), Ok(wanted), "{raw}");
        }
    }

    #[test]
    fn segments_that_are_dots_or_nothing_without_their_parameters_are_refused() {
        for raw in ["/a/..;x/b", "/a/.;x", "/;x/b", "/a/%252e%252E;/b"] {
            assert_eq!(read(SERVLET, raw), Err(PathError::Parameters), "{raw}");
            assert!(read(TAIL, raw).is_ok(), "{raw}");
        }
    }

    proptest! {
        #[test]
        fn without_options_nothing_is_done(raw in "/[a;%2fF./]{0,12}") {
            if let Ok(normal) = normalise(&raw) {
                let reading = PathReading::default();
                prop_assert_eq!(&*reading.uri(normal.clone()).unwrap(), &*normal);
                prop_assert_eq!(&*reading.matched(&raw, &normal), &*normal);
            }
        }
    }
}
