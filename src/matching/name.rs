//! What counts as a host name, shared by the authority and the SNI: one rule, so that both agree.

use std::net::Ipv4Addr;

/// The longest host name in bytes, without trailing dot (RFC 1035, section 2.3.4).
pub const NAME_BYTES_MAX: usize = 253;

/// The longest label in bytes (RFC 1035, section 2.3.4).
pub const LABEL_BYTES_MAX: usize = 63;

/// Why a text is not a host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was left to be a name.
    #[error("the name is empty")]
    Empty,
    /// More than [`NAME_BYTES_MAX`] bytes.
    #[error("the name is longer than {NAME_BYTES_MAX} bytes")]
    TooLong,
    /// Two dots in a row, or a leading dot.
    #[error("the name has an empty label")]
    EmptyLabel,
    /// A label of more than [`LABEL_BYTES_MAX`] bytes.
    #[error("a label of the name is longer than {LABEL_BYTES_MAX} bytes")]
    LongLabel,
    /// A byte that is no letter, digit, `-`, `_` or `.`.
    #[error("the name contains byte {0:#04x}; letters, digits, '-', '_' and '.' are allowed")]
    Character(u8),
    /// The last label is a number, yet the whole is no IPv4 address (`127.1`, `1.2.3.04`, `0x7f`).
    #[error("the name ends in a number but is not an IPv4 address")]
    EndsInNumber,
}

/// Checks one host name without trailing dot, in any case.
///
/// The last label must not be a number, decimal or hexadecimal: an upstream's resolver would read
/// such a "name" as an address (WHATWG URL, "ends in a number checker").
///
/// # Errors
/// The first fault from left to right; the length comes before the labels.
pub fn check_name(name: &[u8]) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong);
    }
    let mut last = name;
    for label in name.split(|byte| *byte == b'.') {
        check_label(label)?;
        last = label;
    }
    if is_number(last) {
        return Err(NameError::EndsInNumber);
    }
    Ok(())
}

fn check_label(label: &[u8]) -> Result<(), NameError> {
    if label.is_empty() {
        return Err(NameError::EmptyLabel);
    }
    if label.len() > LABEL_BYTES_MAX {
        return Err(NameError::LongLabel);
    }
    let odd = label
        .iter()
        .find(|byte| !byte.is_ascii_alphanumeric() && !matches!(byte, b'-' | b'_'));
    odd.map_or(Ok(()), |byte| Err(NameError::Character(*byte)))
}

fn is_number(label: &[u8]) -> bool {
    let hex = label
        .strip_prefix(b"0x")
        .or_else(|| label.strip_prefix(b"0X"));
    match hex {
        Some(digits) => digits.iter().all(u8::is_ascii_hexdigit),
        None => label.iter().all(u8::is_ascii_digit),
    }
}

/// The text without its one trailing dot, if it has one.
pub(super) fn cut_dot(text: &[u8]) -> &[u8] {
    text.strip_suffix(b".").unwrap_or(text)
}

/// The IPv4 address in four decimal parts without leading zeros, if `host` is one.
pub(super) fn parse_ipv4(host: &[u8]) -> Option<Ipv4Addr> {
    if !host.first()?.is_ascii_digit() {
        return None;
    }
    std::str::from_utf8(host).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_letters_digits_hyphens_and_underscores_pass() {
        for name in [
            "a",
            "A.Example.COM",
            "_dmarc.x-y.z_1",
            "1.2.3.example",
            "0xyz",
            "a.0x1g",
            &format!("{}.com", "a".repeat(63)),
            &"a.".repeat(126),
        ] {
            let name = cut_dot(name.as_bytes());
            assert_eq!(check_name(name), Ok(()), "{}", name.escape_ascii());
        }
    }

    #[test]
    fn other_texts_are_refused_with_their_reason() {
        let long_label = format!("{}.com", "a".repeat(64));
        let long_name = "a.".repeat(127) + "a";
        for (name, error) in [
            ("", NameError::Empty),
            (".", NameError::EmptyLabel),
            ("a..b", NameError::EmptyLabel),
            (".a", NameError::EmptyLabel),
            ("a.", NameError::EmptyLabel),
            (long_label.as_str(), NameError::LongLabel),
            (long_name.as_str(), NameError::TooLong),
            ("a b", NameError::Character(b' ')),
            ("a%2e", NameError::Character(b'%')),
            ("a\0", NameError::Character(0)),
            ("bücher", NameError::Character(0xc3)),
            ("*.a", NameError::Character(b'*')),
            ("127.1", NameError::EndsInNumber),
            ("1.2.3.04", NameError::EndsInNumber),
            ("2130706433", NameError::EndsInNumber),
            ("a.0x7F", NameError::EndsInNumber),
            ("a.0X", NameError::EndsInNumber),
        ] {
            assert_eq!(check_name(name.as_bytes()), Err(error), "{name:?}");
        }
    }

    #[test]
    fn only_one_trailing_dot_is_cut() {
        assert_eq!(cut_dot(b"a.com."), b"a.com");
        assert_eq!(cut_dot(b"a.com.."), b"a.com.");
        assert_eq!(cut_dot(b"a.com"), b"a.com");
    }
}
