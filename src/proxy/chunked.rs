//! The chunked transfer coding of an upstream's answer (RFC 9112 §7.1), read strictly and in bounded
//! memory: what could be read in two ways ends the connection.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use crate::proxy::heads;

/// The longest line that begins a chunk.
const LINE_BYTES: usize = 4 << 10;
/// Bytes of extensions in all chunks of a body together.
const EXTENSION_BYTES: usize = 16 << 10;
/// Bytes of trailers.
const TRAILER_BYTES: usize = 16 << 10;

/// Where in a chunked body the next byte belongs.
#[derive(Debug, Default)]
pub struct Chunked {
    at: At,
    extension_bytes: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// The line with a chunk's size.
    #[default]
    Size,
    /// A chunk's data, of which so much is to come.
    Data(u64),
    /// The line end after the data.
    DataEnd,
    /// Behind the last chunk.
    Trailers,
    /// Behind all of it.
    End,
}

/// A part of a body.
#[derive(Debug, PartialEq)]
pub enum Piece {
    /// Content.
    Data(Bytes),
    /// Its trailers.
    Trailers(HeaderMap),
    /// It is complete.
    End,
}

/// What is no chunked coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// The line that begins a chunk.
    #[error("a chunk of its answer begins with no size")]
    Size,
    /// That line, or all of them.
    #[error("the chunks of its answer have extensions beyond {EXTENSION_BYTES} bytes")]
    Extensions,
    /// The end of the data.
    #[error("a chunk of its answer is longer than its size")]
    DataEnd,
    /// The trailers.
    #[error("the trailers of its answer are malformed, or longer than {TRAILER_BYTES} bytes")]
    Trailers,
}

impl Chunked {
    /// Takes the next part out of `input`; `None`, if more is needed for it.
    ///
    /// # Errors
    /// [`ChunkError`]: the rest of the connection cannot be read.
    pub fn read(&mut self, input: &mut BytesMut) -> Result<Option<Piece>, ChunkError> {
        loop {
            self.at = match self.at {
                At::Size => match self.read_size(input)? {
                    None => return Ok(None),
                    Some(0) => At::Trailers,
                    Some(size) => At::Data(size),
                },
                At::Data(_) if input.is_empty() => return Ok(None),
                At::Data(left) => {
                    let (data, left) = split(input, left);
                    self.at = if left == 0 {
                        At::DataEnd
                    } else {
                        At::Data(left)
                    };
                    return Ok(Some(Piece::Data(data)));
                }
                At::DataEnd => match input.as_ref() {
                    [b'\r', b'\n', ..] => {
                        input.advance(2);
                        At::Size
                    }
                    [] | [b'\r'] => return Ok(None),
                    _ => return Err(ChunkError::DataEnd),
                },
                At::Trailers if input.starts_with(b"\r\n") => {
                    input.advance(2);
                    At::End
                }
                At::Trailers => {
                    let Some(block) = find(input, b"\r\n\r\n", TRAILER_BYTES) else {
                        return if input.len() > TRAILER_BYTES {
                            Err(ChunkError::Trailers)
                        } else {
                            Ok(None)
                        };
                    };
                    let block = input.split_to(block);
                    self.at = At::End;
                    let trailers = heads::read_trailers(&block).ok_or(ChunkError::Trailers)?;
                    return Ok(Some(Piece::Trailers(trailers)));
                }
                At::End => return Ok(Some(Piece::End)),
            };
        }
    }

    fn read_size(&mut self, input: &mut BytesMut) -> Result<Option<u64>, ChunkError> {
        let Some(end) = find(input, b"\n", LINE_BYTES) else {
            return if input.len() > LINE_BYTES {
                Err(ChunkError::Extensions)
            } else {
                Ok(None)
            };
        };
        let line = input.get(..end).unwrap_or_default();
        let line = line.strip_suffix(b"\r\n").ok_or(ChunkError::Size)?;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit());
        let (digits, extension) = line.split_at(digits.count());
        let size = std::str::from_utf8(digits).ok();
        let size = size.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let size = size.ok_or(ChunkError::Size)?;
        // Some servers fill the line with spaces.
        let spaces = extension
            .iter()
            .take_while(|byte| matches!(byte, b' ' | b'\t'));
        let spaces = spaces.count();
        match extension.get(spaces) {
            None | Some(b';') if !extension.contains(&b'\r') => {}
            _ => return Err(ChunkError::Size),
        }
        self.extension_bytes = self.extension_bytes.saturating_add(extension.len());
        if self.extension_bytes > EXTENSION_BYTES {
            return Err(ChunkError::Extensions);
        }
        input.advance(end);
        Ok(Some(size))
    }
}

/// Takes at most `left` bytes out of `input`; says how many of them are to come.
pub fn split(input: &mut BytesMut, left: u64) -> (Bytes, u64) {
    let count = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
    let data = input.split_to(count).freeze();
    (
        data,
        left.saturating_sub(u64::try_from(count).unwrap_or(left)),
    )
}

/// Where `end` ends in the first `limit` bytes of `input`.
fn find(input: &[u8], end: &[u8], limit: usize) -> Option<usize> {
    let within = input.get(..limit).unwrap_or(input);
    let at = within.windows(end.len()).position(|bytes| bytes == end)?;
    Some(at + end.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What comes out of a body that arrives in pieces of `step` bytes: content, trailers, and what
    /// is left behind its end; `None` where more is needed.
    type Whole = Option<(Vec<u8>, Option<HeaderMap>, Vec<u8>)>;

    fn read(body: &[u8], step: usize) -> Result<Whole, ChunkError> {
        let (mut chunked, mut input) = (Chunked::default(), BytesMut::new());
        let (mut content, mut trailers) = (Vec::new(), None);
        let mut rest = body.chunks(step.max(1));
        loop {
            match chunked.read(&mut input)? {
                Some(Piece::Data(data)) => content.extend_from_slice(&data),
                Some(Piece::Trailers(found)) => trailers = Some(found),
                Some(Piece::End) => {
                    let mut left = input.to_vec();
                    left.extend(rest.flatten());
                    return Ok(Some((content, trailers, left)));
                }
                None => match rest.next() {
                    Some(more) => input.extend_from_slice(more),
                    None => return Ok(None),
                },
            }
        }
    }

    #[test]
    fn a_body_is_put_together_however_it_arrives() {
        let body = b"4\r\nWiki\r\n5 \r\npedia\r\nE;name=\"value\"\r\n in\r\n\r\nchunks.\r\n0\r\n\r\nHTTP/1.1";
        for step in 1..body.len() {
            let (content, trailers, rest) = read(body, step).unwrap().unwrap();
            assert_eq!(content, b"Wikipedia in\r\n\r\nchunks.", "{step}");
            assert_eq!(trailers, None);
            assert_eq!(rest, b"HTTP/1.1");
        }
    }

    #[test]
    fn trailers_come_behind_the_content() {
        let body = b"1\r\na\r\n0\r\nx-sum: 7\r\nX-Sum: 8\r\n\r\n";
        for step in 1..body.len() {
            let (content, trailers, rest) = read(body, step).unwrap().unwrap();
            assert_eq!((content.as_slice(), rest.len()), (&b"a"[..], 0));
            let trailers = trailers.unwrap();
            let sums: Vec<_> = trailers.get_all("x-sum").iter().collect();
            assert_eq!(sums, ["7", "8"]);
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let long = format!("1;{}\r\n", "x".repeat(LINE_BYTES));
        let many = format!("1;{}\r\na\r\n", "x".repeat(LINE_BYTES / 2)).repeat(9);
        let trailers = format!("0\r\nx: {}\r\n\r\n", "y".repeat(TRAILER_BYTES));
        for (body, error) in [
            ("\r\n", ChunkError::Size),
            ("-1\r\n", ChunkError::Size),
            ("+1\r\n", ChunkError::Size),
            ("0x1\r\n", ChunkError::Size),
            (" 1\r\n", ChunkError::Size),
            ("1 1\r\na\r\n", ChunkError::Size),
            ("1\na\n", ChunkError::Size),
            ("1\r\r\na\r\n", ChunkError::Size),
            ("1;a\rb\r\na\r\n", ChunkError::Size),
            ("10000000000000000\r\n", ChunkError::Size),
            ("1\r\nab\r\n", ChunkError::DataEnd),
            ("1\r\na\n1\r\nb\r\n", ChunkError::DataEnd),
            ("1\r\na\r0\r\n\r\n", ChunkError::DataEnd),
            ("0\r\nno colon\r\n\r\n", ChunkError::Trailers),
            ("0\r\n folded: 1\r\n\r\n", ChunkError::Trailers),
            ("0\r\na: 1\n\nb: 2\r\n\r\n", ChunkError::Trailers),
            (&long, ChunkError::Extensions),
            (&many, ChunkError::Extensions),
            (&trailers, ChunkError::Trailers),
        ] {
            for step in [1, body.len()] {
                assert_eq!(read(body.as_bytes(), step), Err(error), "{body:.40?}");
            }
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body: Vec<u8>, step in 1_usize..9) {
            let _ = read(&body, step);
        }

        #[test]
        fn what_was_coded_is_decoded(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
            step in 1_usize..50,
        ) {
            let mut body = Vec::new();
            for part in &parts {
                body.extend_from_slice(format!("{:X}\r\n", part.len()).as_bytes());
                body.extend_from_slice(part);
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(b"000\r\n\r\n");
            prop_assert_eq!(read(&body[..body.len() - 1], step), Ok(None));
            let whole = Some((parts.concat(), None, Vec::new()));
            prop_assert_eq!(read(&body, step), Ok(whole));
        }
    }
}
