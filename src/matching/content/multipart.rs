//! Forms in parts (`multipart/form-data`, RFC 7578): the content of a named part.

/// The boundary that a `Content-Type` of several parts names (RFC 2046 §5.1.1).
pub fn boundary(content_type: &[u8]) -> Option<Vec<u8>> {
    let found = parameter(content_type, b"boundary")?;
    (1..=70).contains(&found.len()).then_some(found)
}

/// The content of the last part of this name, as APISIX takes it; `None` where the body has none, or
/// does not end as such a body must.
pub fn part<'a>(body: &'a [u8], boundary: &[u8], name: &str) -> Option<&'a [u8]> {
    let mut found = None;
    let (_preamble, mut rest) = next_delimiter(body, boundary, true)?;
    loop {
        let after = rest.strip_prefix(b"--");
        if after.is_some() {
            return found;
        }
        let rest_of_line = find(rest, b"\r\n")?;
        let (padding, after) = rest.split_at_checked(rest_of_line)?;
        if !padding.iter().all(|byte| matches!(byte, b' ' | b'\t')) {
            return None;
        }
        let (part, after) = next_delimiter(after, boundary, false)?;
        // A part without headers begins with the empty line.
        let (head, content) = match part.strip_prefix(b"\r\n\r\n") {
            Some(content) => (&b""[..], content),
            None => {
                let end = find(part, b"\r\n\r\n")?;
                let (head, content) = part.split_at_checked(end)?;
                (head, content.get(4..)?)
            }
        };
        if has_name(head, name.as_bytes()) {
            found = Some(content);
        }
        rest = after;
    }
}

/// What stands before the next delimiter and behind it. `may_begin`: the text may begin with it.
fn next_delimiter<'a>(
    text: &'a [u8],
    boundary: &[u8],
    may_begin: bool,
) -> Option<(&'a [u8], &'a [u8])> {
    let first = text.strip_prefix(b"--").filter(|_| may_begin);
    if let Some(after) = first.and_then(|text| text.strip_prefix(boundary)) {
        return Some((&[], after));
    }
    let mut from = 0;
    loop {
        let at = from + find(text.get(from..)?, b"\r\n--")?;
        let behind = text.get(at + 4..)?;
        if let Some(after) = behind.strip_prefix(boundary) {
            return Some((text.get(..at)?, after));
        }
        from = at + 2;
    }
}

/// Whether a part's head names it so in its `Content-Disposition` (RFC 7578 §4.2).
fn has_name(head: &[u8], wanted: &[u8]) -> bool {
    let lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let mut disposition = lines.filter_map(|line| {
        let at = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = line.split_at_checked(at)?;
        let is_meant = name
            .trim_ascii()
            .eq_ignore_ascii_case(b"content-disposition");
        is_meant.then(|| value.get(1..).unwrap_or_default())
    });
    let first = disposition.next();
    let only = first.filter(|_| disposition.next().is_none());
    let name = only.and_then(|only| parameter(only, b"name"));
    name.as_deref() == Some(wanted)
}

/// The parameter of this name behind a media type or a disposition (RFC 9110 §5.6.6). `None` where
/// it is not there, or twice, or the text is malformed: readers differ in what that says.
fn parameter(text: &[u8], wanted: &[u8]) -> Option<Vec<u8>> {
    let mut rest = text.get(until(text, b";")..)?;
    let mut found = None;
    while let Some(after) = rest.strip_prefix(b";") {
        let (name, after) = after.split_at_checked(until(after, b";="))?;
        if name.contains(&b'"') {
            return None;
        }
        let Some(after) = after.strip_prefix(b"=") else {
            rest = after;
            continue;
        };
        let (value, after) = value(after.trim_ascii_start())?;
        rest = after;
        let is_meant = name.trim_ascii().eq_ignore_ascii_case(wanted);
        if is_meant && found.replace(value).is_some() {
            return None;
        }
    }
    found
}

/// A parameter's value, a token or in quotes with their escapes (RFC 9110 §5.6.4), and what follows.
fn value(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let Some(mut rest) = text.strip_prefix(b"\"") else {
        let (token, rest) = text.split_at_checked(until(text, b";"))?;
        return (!token.contains(&b'"')).then(|| (token.trim_ascii().to_vec(), rest));
    };
    let mut read = Vec::new();
    loop {
        let (mut byte, mut after) = rest.split_first()?;
        if *byte == b'"' {
            let after = after.trim_ascii_start();
            let is_end = after.first().is_none_or(|byte| *byte == b';');
            return is_end.then_some((read, after));
        }
        if *byte == b'\\' {
            (byte, after) = after.split_first()?;
        }
        read.push(*byte);
        rest = after;
    }
}

/// How long a text is until one of these bytes.
fn until(text: &[u8], ends: &[u8]) -> usize {
    text.iter().take_while(|byte| !ends.contains(byte)).count()
}

/// Where a text first has another one.
fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    let first = wanted.first()?;
    let mut from = 0;
    loop {
        let rest = text.get(from..)?;
        let at = from + rest.iter().position(|byte| byte == first)?;
        if text.get(at..)?.starts_with(wanted) {
            return Some(at);
        }
        from = at + 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BODY: &[u8] = b"--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\ngpt-4\r\n\
        --b \r\ncontent-disposition: form-data; filename=\"x; name=fake\"; name=file\r\n\
        Content-Type: text/plain\r\n\r\na\r\n--bx\r\n\r\nb\r\n\
        --b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n\r\n\
        --b\r\n\r\nno name\r\n--b--\r\n";

    #[test]
    fn last_part_of_a_name_is_found_with_all_its_lines() {
        // What begins with the delimiter and goes on is neither it nor content.
        assert_eq!(part(BODY, b"b", "model"), None);
        let body = String::from_utf8(BODY.to_vec())
            .unwrap()
            .replace("--bx", "--c");
        let found = |name| part(body.as_bytes(), b"b", name);
        assert_eq!(found("file"), Some(&b"a\r\n--c\r\n\r\nb"[..]));
        assert_eq!(found("model"), Some(&b""[..]));
        assert_eq!(found("fake"), None);
        assert_eq!(found("none"), None);
    }

    #[test]
    fn part_has_the_name_that_all_readers_see() {
        for (lines, is_of_name) in [
            ("form-data; name=\"a\"", true),
            ("form-data; name=\"\\a\"; filename=\"x\"", true),
            (
                "form-data; filename=\"\\\"; name=a; x=\\\"\"; name=\"b\"",
                false,
            ),
            (
                "form-data; filename=\"\\\"; name=b; x=\\\"\"; name=\"a\"",
                true,
            ),
            ("form-data; name=b; name=a", false),
            ("form-data; name=a; name=a", false),
            (
                "form-data; name=a\r\nContent-Disposition: form-data; name=b",
                false,
            ),
            ("form-data; name=a; x=\"", false),
        ] {
            let body = format!("--b\r\nContent-Disposition: {lines}\r\n\r\n1\r\n--b--");
            let found = part(body.as_bytes(), b"b", "a");
            assert_eq!(found.is_some(), is_of_name, "{lines}");
        }
    }

    #[test]
    fn body_that_is_cut_short_has_no_parts() {
        let whole = b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--b--";
        assert_eq!(part(whole, b"b", "a"), Some(&b"1"[..]));
        for end in 0..whole.len() {
            assert_eq!(part(&whole[..end], b"b", "a"), None, "{end}");
        }
        let preamble = [b"preamble\r\n", &whole[..]].concat();
        assert_eq!(part(&preamble, b"b", "a"), Some(&b"1"[..]));
        assert_eq!(part(whole, b"c", "a"), None);
    }

    #[test]
    fn boundary_is_read_quoted_or_not() {
        for (content_type, wanted) in [
            ("multipart/form-data; boundary=abc", Some("abc")),
            (
                "multipart/form-data;charset=utf-8; Boundary=\"a b\"",
                Some("a b"),
            ),
            ("multipart/form-data", None),
            ("multipart/form-data; boundary=", None),
            ("multipart/form-data; boundary", None),
            ("multipart/form-data; boundary=\"b;c\"; x", Some("b;c")),
            (
                "multipart/form-data; ; boundary=\"b\\\"\\c\" ",
                Some("b\"c"),
            ),
            (
                "multipart/form-data; x=\"; boundary=evil; y\"; boundary=b",
                Some("b"),
            ),
            (
                "multipart/form-data; x=\"\\\"; boundary=evil; y=\\\"\"; boundary=b",
                Some("b"),
            ),
            // Readers differ in what these say.
            ("multipart/form-data; boundary=a; Boundary=b", None),
            ("multipart/form-data; boundary=a; x=\"b", None),
            ("multipart/form-data; boundary=a; x=\"b\"c", None),
            ("multipart/form-data; boundary=a; x=b\"c", None),
        ] {
            let found = boundary(content_type.as_bytes());
            assert_eq!(
                found.as_deref(),
                wanted.map(str::as_bytes),
                "{content_type}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_have_an_answer(body in "(--b|\r\n|-|:|name=\"a\"|; |Content-Disposition|.){0,30}") {
            let _found = part(body.as_bytes(), b"b", "a");
        }
    }
}
