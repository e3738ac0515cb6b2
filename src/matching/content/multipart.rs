//! Forms in parts (`multipart/form-data`, RFC 7578): the content of a named part.

/// The boundary that a `Content-Type` of several parts names (RFC 2046 §5.1.1).
pub fn boundary(content_type: &[u8]) -> Option<&[u8]> {
    let mut parameters = content_type.split(|byte| *byte == b';').skip(1);
    let found = parameters.find_map(|parameter| {
        let parameter = parameter.trim_ascii();
        let at = parameter.iter().position(|byte| *byte == b'=')?;
        let (name, value) = parameter.split_at_checked(at)?;
        let is_meant = name.trim_ascii().eq_ignore_ascii_case(b"boundary");
        is_meant.then(|| unquoted(value.get(1..).unwrap_or_default().trim_ascii()))
    })?;
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
    disposition.next().and_then(name_of) == Some(wanted)
}

/// The `name` of a disposition; what is in quotes ends no parameter.
fn name_of(disposition: &[u8]) -> Option<&[u8]> {
    let mut is_quoted = false;
    let parameters = disposition.split(|byte| {
        is_quoted ^= *byte == b'"';
        !is_quoted && *byte == b';'
    });
    let mut parameters = parameters.skip(1).map(<[u8]>::trim_ascii);
    parameters.find_map(|parameter| {
        let (name, value) = parameter.split_at_checked(4)?;
        let value = value.trim_ascii_start().strip_prefix(b"=")?;
        name.eq_ignore_ascii_case(b"name")
            .then(|| unquoted(value.trim_ascii()))
    })
}

fn unquoted(value: &[u8]) -> &[u8] {
    let inner = value.strip_prefix(b"\"");
    inner
        .and_then(|inner| inner.strip_suffix(b"\""))
        .unwrap_or(value)
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
        ] {
            let found = boundary(content_type.as_bytes());
            assert_eq!(found, wanted.map(str::as_bytes), "{content_type}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_have_an_answer(body in "(--b|\r\n|-|:|name=\"a\"|; |Content-Disposition|.){0,30}") {
            let _found = part(body.as_bytes(), b"b", "a");
        }
    }
}
