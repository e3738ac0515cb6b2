//! The code that HPACK's strings may be written in (RFC 7541 §5.2, Appendix B).
//!
//! It is canonical: codes of one length follow each other in the order of their symbols, and longer
//! codes follow shorter ones. Their lengths say all of it. It is read here and never written: what it
//! saves of bytes is paid in time by both sides, and a sender may do without.

use std::sync::LazyLock;

/// How many bits each byte's code has. The code that ends all, 30 bits of 1, is no byte's.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30,
    28, 28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5,
    7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22,
    22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23,
    22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22,
    21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26,
    26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20,
    24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27,
    27, 28, 27, 27, 27, 27, 27, 26,
];

/// The longest code, in bits.
const LONGEST: u32 = 30;
/// Codes of up to so many bits are found by one look, two at once where both are so short.
const LOOK: u32 = 12;

struct Code {
    /// By the next bits.
    looks: Vec<Look>,
    /// The codes of each length that is longer, in order.
    long: Vec<Length>,
    /// All bytes in the order of their codes.
    bytes: Vec<u8>,
}

/// What the next bits begin with.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    first: u8,
    /// The length of its code; 0, where that is longer than a look.
    first_bits: u8,
    second: u8,
    /// The length of both codes; 0, where the second one is not all there.
    both_bits: u8,
}

/// The codes of one length.
struct Length {
    bits: u32,
    /// The first code, and the first that is longer, both at the upper end of 32 bits.
    first: u32,
    end: u64,
    /// Where the first one's byte is found.
    at: usize,
}

static CODE: LazyLock<Code> = LazyLock::new(Code::new);

impl Code {
    fn new() -> Self {
        let mut code = Self {
            looks: vec![Look::default(); 1 << LOOK],
            long: Vec::new(),
            bytes: Vec::with_capacity(LENGTHS.len()),
        };
        let mut next: u64 = 0;
        for bits in 1..=LONGEST {
            let first = next << (32 - bits);
            let at = code.bytes.len();
            for (byte, length) in (0..=u8::MAX).zip(LENGTHS) {
                if u32::from(length) != bits {
                    continue;
                }
                if bits <= LOOK {
                    let from = usize::try_from(next << (LOOK - bits)).unwrap_or(usize::MAX);
                    let places = code.looks.iter_mut().skip(from).take(1 << (LOOK - bits));
                    places.for_each(|look| (look.first, look.first_bits) = (byte, length));
                }
                code.bytes.push(byte);
                next += 1;
            }
            if bits > LOOK && code.bytes.len() > at {
                code.long.push(Length {
                    bits,
                    first: u32::try_from(first).unwrap_or(u32::MAX),
                    end: next << (32 - bits),
                    at,
                });
            }
            next <<= 1;
        }
        code.pair();
        code
    }

    /// Finds what follows the first code in each look.
    fn pair(&mut self) {
        let mask = self.looks.len().saturating_sub(1);
        let singles = self.looks.clone();
        for (bits, look) in self.looks.iter_mut().enumerate() {
            let rest = bits << look.first_bits & mask;
            if let Some(second) = singles.get(rest)
                && look.first_bits > 0
                && second.first_bits > 0
                && u32::from(look.first_bits) + u32::from(second.first_bits) <= LOOK
            {
                look.second = second.first;
                look.both_bits = look.first_bits + second.first_bits;
            }
        }
    }

    /// What the upper end of `window` begins with.
    fn look(&self, window: u64) -> Look {
        let at = usize::try_from(window >> (64 - LOOK)).unwrap_or_default();
        self.looks.get(at).copied().unwrap_or_default()
    }

    /// The byte whose code the upper end of `window` begins with, and its length.
    fn long(&self, window: u64) -> Option<(u8, u32)> {
        let window = u32::try_from(window >> 32).ok()?;
        let length = self
            .long
            .iter()
            .find(|length| u64::from(window) < length.end)?;
        let number = window.checked_sub(length.first)? >> (32 - length.bits);
        let at = length.at.checked_add(usize::try_from(number).ok()?)?;
        Some((*self.bytes.get(at)?, length.bits))
    }
}

/// What was written in the code ends otherwise than with up to seven bits of 1, or has the code in it
/// that ends all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoCode;

/// Appends to `out` what `coded` says.
///
/// # Errors
/// [`NoCode`]; what came before it was appended.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), NoCode> {
    let code = &*CODE;
    // No code is shorter than five bits.
    out.reserve(coded.len().saturating_mul(8) / 5);
    // What was taken and not understood yet lies at the upper end.
    let mut taken: u64 = 0;
    let mut bits: u32 = 0;
    let mut rest = coded;
    loop {
        // The longest code is all there, as long as there are bytes.
        if bits <= 32 {
            if let Some((word, more)) = rest.split_first_chunk::<4>() {
                taken |= u64::from(u32::from_be_bytes(*word)) << (32 - bits);
                (bits, rest) = (bits + 32, more);
            } else {
                for byte in std::mem::take(&mut rest) {
                    bits += 8;
                    taken |= u64::from(*byte) << (64 - bits);
                }
            }
        }
        if bits < LOOK {
            break;
        }
        let look = code.look(taken);
        let used = if look.both_bits > 0 {
            out.push(look.first);
            out.push(look.second);
            u32::from(look.both_bits)
        } else if look.first_bits > 0 {
            out.push(look.first);
            u32::from(look.first_bits)
        } else {
            // Bits of 1 up to the end are none of a byte, and are too many.
            let (byte, used) = code.long(taken).ok_or(NoCode)?;
            if used > bits {
                return Err(NoCode);
            }
            out.push(byte);
            used
        };
        taken <<= used;
        bits -= used;
    }
    // Less than a look is left: short codes, and what fills the last byte up.
    while bits > 0 {
        // The missing bits are 1, so that no code is found that is not all there.
        let filled = taken | (u64::MAX >> bits);
        let look = code.look(filled);
        let used = u32::from(look.first_bits);
        if used > 0 && used <= bits {
            out.push(look.first);
            taken <<= used;
            bits -= used;
        } else if filled == u64::MAX && bits < 8 {
            break;
        } else {
            return Err(NoCode);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(coded: &[u8]) -> Result<Vec<u8>, NoCode> {
        let mut out = Vec::new();
        decode(coded, &mut out).map(|()| out)
    }

    #[test]
    fn examples_of_the_standard_are_read() {
        // RFC 7541, Appendix C.4 and C.6.
        let examples: [(&[u8], &str); 4] = [
            (
                &[
                    0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
                ],
                "www.example.com",
            ),
            (&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], "no-cache"),
            (&[0x64, 0x02], "302"),
            (&[0xae, 0xc3, 0x77, 0x1a, 0x4b], "private"),
        ];
        for (coded, text) in examples {
            assert_eq!(decoded(coded).unwrap(), text.as_bytes());
        }
        assert_eq!(decoded(&[]).unwrap(), b"");
    }

    /// A writer of the code, bit by bit.
    pub(crate) fn encode(text: &[u8]) -> Vec<u8> {
        let mut codes = vec![(0_u64, 0_u32); 256];
        let mut next = 0_u64;
        for bits in 1..=30_u32 {
            for (byte, code) in codes.iter_mut().enumerate() {
                if u32::from(LENGTHS[byte]) == bits {
                    *code = (next, bits);
                    next += 1;
                }
            }
            next <<= 1;
        }
        let mut text_bits = Vec::new();
        for &byte in text {
            let (code, bits) = codes[usize::from(byte)];
            text_bits.extend((0..bits).rev().map(|bit| (code >> bit) & 1 == 1));
        }
        text_bits
            .chunks(8)
            .map(|bits| {
                (0..8).fold(0, |byte, at| {
                    byte << 1 | u8::from(*bits.get(at).unwrap_or(&true))
                })
            })
            .collect()
    }

    #[test]
    fn every_byte_comes_back() {
        let all: Vec<u8> = (0..=u8::MAX).collect();
        assert_eq!(decoded(&encode(&all)).unwrap(), all);
        for byte in 0..=u8::MAX {
            for count in 1..9 {
                let text = vec![byte; count];
                assert_eq!(decoded(&encode(&text)).unwrap(), text);
            }
        }
    }

    #[test]
    fn what_fills_the_last_byte_is_less_than_one_and_all_ones() {
        // "a" is 00011: three bits of 1 fill it up.
        assert_eq!(decoded(&[0b0001_1111]).unwrap(), b"a");
        assert_eq!(decoded(&[0b0001_1000]), Ok(b"a".to_vec()).and(Err(NoCode)));
        assert_eq!(decoded(&[0b0001_1110]), Err(NoCode));
        // A whole byte of it, and the code that ends all.
        assert_eq!(decoded(&[0b0001_1111, 0xff]), Err(NoCode));
        assert_eq!(decoded(&[0xff]), Err(NoCode));
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff]), Err(NoCode));
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xfc]), Err(NoCode));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(coded: Vec<u8>) {
            // What is read is written in that way and no other.
            if let Ok(text) = decoded(&coded) {
                assert_eq!(encode(&text), coded);
            }
        }
    }
}
