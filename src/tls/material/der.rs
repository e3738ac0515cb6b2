//! Reading and writing DER (X.690), as far as the forms of keys and certificates need it.

/// The tags of the types (X.690 section 8).
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BITS: u8 = 0x03;
pub(super) const OCTETS: u8 = 0x04;
pub(super) const NULL: u8 = 0x05;
pub(super) const IDENTIFIER: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;

/// The content of the element that `der` begins with, which must have this tag, and what follows.
pub(super) fn take(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (_, content, rest) = next(der).filter(|(found, ..)| *found == tag)?;
    Some((content, rest))
}

/// Tag and content of the element that `der` begins with, and what follows.
pub(super) fn next(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            (usize::try_from(number(length)).ok()?, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// A number without sign; what does not fit is as large as can be.
pub(super) fn number(bytes: &[u8]) -> u64 {
    let bytes = bytes.iter().skip_while(|byte| **byte == 0);
    bytes
        .clone()
        .try_fold(0_u64, |sum, byte| {
            sum.checked_mul(256)?.checked_add(u64::from(*byte))
        })
        .unwrap_or(u64::MAX)
}

/// An element, its length in the one form that DER allows (X.690 section 10.1).
pub(super) fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut whole = vec![tag];
    match u8::try_from(length) {
        Ok(short @ 0..=0x7f) => whole.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let bytes: Vec<u8> = bytes.into_iter().skip_while(|byte| *byte == 0).collect();
            // At most the eight bytes of a `usize`.
            whole.push(0x80 | u8::try_from(bytes.len()).unwrap_or(0));
            whole.extend(bytes);
        }
    }
    whole.extend(parts.concat());
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn element_is_read_as_it_was_written() {
        for length in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0x1_0000] {
            let content = vec![7; length];
            let (one, other) = content.split_at(length / 2);
            let written = element(OCTETS, &[one, other]);
            let whole = Some((content.as_slice(), [].as_slice()));
            assert_eq!(take(&written, OCTETS), whole, "{length}");
            assert_eq!(take(&written, INTEGER), None, "{length}");
            let cut = &written[..written.len() - 1];
            assert_eq!(take(cut, OCTETS), None, "{length}");
        }
        assert_eq!(element(NULL, &[]), [5, 0]);
        assert_eq!(element(OCTETS, &[&[7; 0x7f]])[..2], [4, 0x7f]);
        assert_eq!(element(OCTETS, &[&[7; 0x80]])[..3], [4, 0x81, 0x80]);
    }
}
