//! What tells texts apart, mostly, and where tables of a few places have them.

/// A digest of two texts: eight bytes at a time, multiplied into one another.
pub(super) fn digest(name: &[u8], value: &[u8]) -> u32 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut sum: u64 = 0;
    let mut add = |text: &[u8]| {
        let (words, rest) = text.as_chunks::<8>();
        for word in words {
            sum = (sum.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR);
        }
        let mut last = u64::try_from(rest.len()).unwrap_or(0);
        for byte in rest {
            last = last << 8 | u64::from(*byte);
        }
        sum = (sum.rotate_left(5) ^ last).wrapping_mul(FACTOR);
    };
    add(name);
    add(value);
    let folded = (sum >> 32) ^ sum >> 15;
    u32::try_from(folded & u64::from(u32::MAX)).unwrap_or(0)
}

/// Where something with this digest may be, of so many places: two different ones.
pub(super) fn places_of<const PLACES: usize>(digest: u32) -> [usize; 2] {
    let low = usize::try_from(digest).unwrap_or(0);
    let first = low % PLACES;
    let second = (low / PLACES) % PLACES;
    let is_same = usize::from(first == second);
    [first, (second + is_same) % PLACES]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_places_are_never_one() {
        for digest in (0..100_000).chain(u32::MAX - 100_000..=u32::MAX) {
            let [first, second] = places_of::<64>(digest);
            assert!(first != second && first < 64 && second < 64, "{digest}");
        }
    }
}
