//! Heads of HTTP/1.1 towards upstreams: the request's, written, and the answer's, read (RFC 9112).
//!
//! Where a message ends is decided here and nowhere else.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use httparse::{EMPTY_HEADER, Header, ParserConfig, Status};
use hyper::ext::ReasonPhrase;

use crate::proxy::headers::{self, Going};

/// The largest head of an answer, and the most lines it may have.
const HEAD_BYTES: usize = 64 << 10;
const HEAD_LINES: usize = 1000;
/// Lines that are read without asking for memory; the most that trailers may have.
const FEW_LINES: usize = 100;
/// The most heads that only inform before an answer.
pub const INFORMING_HEADS: u32 = 100;

/// How a request's body is framed (RFC 9112 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Nothing,
    /// By its length.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// How an answer's content ends (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// After so many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    Connection,
}

/// An answer's head.
#[derive(Debug)]
pub struct AnswerHead {
    /// Status and headers, in the version that is spoken here: the one it came in is of its hop (RFC 9110
    /// §6.2). Only those of a 101 have some headers that are of one hop. What they announced of trailers
    /// behind chunks is an extension, [`headers::Announced`].
    pub resp: Response<()>,
    /// How its content ends.
    pub ends: Ends,
    /// Nothing follows it on its connection (RFC 9112 §9.3).
    pub is_last: bool,
    /// It, as it came.
    pub bytes: Bytes,
}

/// What is no head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// As HTTP's grammar has it.
    #[error("its answer is not HTTP/1.1")]
    Syntax(#[from] httparse::Error),
    /// No status, or a header that is none.
    #[error("its answer has a status or a header that is none")]
    Field,
    /// Too large.
    #[error("the head of its answer is larger than {HEAD_BYTES} bytes")]
    TooLarge,
    /// Too many that only inform.
    #[error("more than {INFORMING_HEADS} heads of 1xx came before its answer")]
    Informing,
    /// No length, or several.
    #[error("its answer has a Content-Length that is no number, or several that differ")]
    Length,
    /// Something else than `chunked` alone, in HTTP/1.0 at all, or with a length beside it.
    #[error(
        "its answer has a transfer coding that is not chunked alone, or a length or HTTP/1.0 beside it"
    )]
    Coding,
}

/// Writes a request's head. Its framing is `framing`, whatever its headers say; behind them come
/// `lines`, which are headers as they are written.
pub fn write_request<B>(out: &mut Vec<u8>, req: &Request<B>, lines: &[u8], framing: Framing) {
    let target = req.uri().path_and_query();
    let target = target.map_or("/", PathAndQuery::as_str);
    for part in [req.method().as_str(), " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    let mut had_length = false;
    for (name, value) in req.headers() {
        if name == CONTENT_LENGTH {
            had_length = true;
        } else if name != TRANSFER_ENCODING {
            write_line(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    out.extend_from_slice(lines);
    match framing {
        Framing::Nothing if had_length => write_line(out, b"content-length", b"0"),
        Framing::Nothing => {}
        Framing::Length(length) => {
            let mut digits = itoa::Buffer::new();
            write_line(out, b"content-length", digits.format(length).as_bytes());
        }
        Framing::Chunked => write_line(out, b"transfer-encoding", b"chunked"),
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a line of a head.
pub fn write_line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Takes an answer's head out of `input`; `None`, if it is not all there.
///
/// `method` is the request's, `request_headers` are its headers if they are still here: a final
/// answer's are put in their place, as nobody needs them any more.
///
/// # Errors
/// [`HeadError`]: the rest of the connection cannot be read, and `request_headers` are lost.
pub fn read_answer(
    input: &mut BytesMut,
    method: &Method,
    request_headers: Option<&mut HeaderMap>,
) -> Result<Option<AnswerHead>, HeadError> {
    let mut lines = [const { MaybeUninit::uninit() }; FEW_LINES];
    let mut more = Vec::new();
    let mut parsed = httparse::Response::new(&mut []);
    let config = ParserConfig::default();
    let mut status = config.parse_response_with_uninit_headers(&mut parsed, input, &mut lines);
    if status == Err(httparse::Error::TooManyHeaders) {
        more.resize_with(HEAD_LINES, MaybeUninit::uninit);
        status = config.parse_response_with_uninit_headers(&mut parsed, input, &mut more);
    }
    let length = match status? {
        Status::Complete(length) if length <= HEAD_BYTES => length,
        Status::Partial if input.len() < HEAD_BYTES => return Ok(None),
        Status::Complete(_) | Status::Partial => return Err(HeadError::TooLarge),
    };
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(HeadError::Field)?;
    let version = match parsed.version {
        Some(1) => Version::HTTP_11,
        Some(_) | None => Version::HTTP_10,
    };
    let mut framing = Lines::default();
    let room = request_headers.filter(|_| is_final(status));
    let mut headers = room.map(std::mem::take).unwrap_or_default();
    headers.clear();
    let bytes = take_headers(input, length, parsed.headers, &mut framing, &mut headers)?;
    let reason = parsed
        .reason
        .filter(|reason| Some(*reason) != status.canonical_reason())
        .and_then(|reason| ReasonPhrase::try_from(reason.as_bytes()).ok());
    input.advance(length);

    let mut resp = Response::new(());
    *resp.status_mut() = status;
    *resp.headers_mut() = headers;
    if let Some(reason) = reason {
        resp.extensions_mut().insert(reason);
    }
    let ends = framing.ends(&mut resp, version, method)?;
    if framing.has_hops
        && status != StatusCode::SWITCHING_PROTOCOLS
        && let Some(announced) = headers::to_downstream(resp.headers_mut())
        && ends == Ends::Chunked
    {
        resp.extensions_mut().insert(announced);
    }
    let is_last =
        ends == Ends::Connection || framing.is_last(version) || framing.contradicts(status);
    Ok(Some(AnswerHead {
        resp,
        ends,
        is_last,
        bytes,
    }))
}

/// Whether no other answer follows (RFC 9110 §15.2); behind a 101 it is another protocol's bytes.
pub fn is_final(status: StatusCode) -> bool {
    !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS
}

/// The headers of a head of `length` bytes. They share one copy of it, which is handed back: a slice
/// of what was read would keep the whole buffer alive.
fn take_headers(
    input: &[u8],
    length: usize,
    lines: &[Header<'_>],
    framing: &mut Lines,
    headers: &mut HeaderMap,
) -> Result<Bytes, HeadError> {
    let head = Bytes::copy_from_slice(input.get(..length).unwrap_or_default());
    let begin = input.as_ptr().addr();
    headers.reserve(lines.len());
    for line in lines {
        if framing.note_going(line) {
            continue;
        }
        let name = HeaderName::from_bytes(line.name.as_bytes());
        let name = name.map_err(|_invalid| HeadError::Field)?;
        let from = line.value.as_ptr().addr().saturating_sub(begin);
        let value = if line.value.is_empty() {
            Bytes::new()
        } else {
            head.slice(from..from + line.value.len())
        };
        let value = HeaderValue::from_maybe_shared(value);
        let value = value.map_err(|_invalid| HeadError::Field)?;
        framing.note(&name, &value);
        headers.append(name, value);
    }
    Ok(head)
}

/// What a head's lines say of framing, noted on the way.
#[derive(Default)]
struct Lines {
    length: Option<Result<u64, HeadError>>,
    length_lines: u32,
    is_coded: bool,
    closes: bool,
    keeps: bool,
    /// Some of them are of this hop only.
    has_hops: bool,
}

impl Lines {
    /// Notes a line of Connection that says no more than whether the connection goes on: whoever
    /// reads it here needs it no longer.
    fn note_going(&mut self, line: &Header<'_>) -> bool {
        if !line.name.eq_ignore_ascii_case(CONNECTION.as_str()) {
            return false;
        }
        let going = headers::says_only(line.value);
        self.keeps |= going == Some(Going::On);
        self.closes |= going == Some(Going::Ends);
        going.is_some()
    }

    fn note(&mut self, name: &HeaderName, value: &HeaderValue) {
        if name == CONTENT_LENGTH {
            // Equal ones count as one (RFC 9110 §8.6).
            for number in value.as_bytes().split(|byte| *byte == b',') {
                let number = digits(number.trim_ascii()).ok_or(HeadError::Length);
                self.length = match self.length {
                    None => Some(number),
                    Some(known) if known == number => Some(known),
                    Some(_) => Some(Err(HeadError::Length)),
                };
                self.length_lines = self.length_lines.saturating_add(1);
            }
            return;
        }
        self.has_hops |= headers::is_hop_by_hop(name.as_str());
        if name == TRANSFER_ENCODING {
            self.is_coded = true;
        } else if name == CONNECTION {
            for option in value.as_bytes().split(|byte| *byte == b',') {
                let option = option.trim_ascii();
                self.closes |= option.eq_ignore_ascii_case(b"close");
                self.keeps |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        }
    }

    fn ends(
        &self,
        resp: &mut Response<()>,
        version: Version,
        method: &Method,
    ) -> Result<Ends, HeadError> {
        let length = self.length.transpose()?;
        if self.length_lines > 1
            && let Some(length) = length
        {
            resp.headers_mut().insert(CONTENT_LENGTH, length.into());
        }
        let status = resp.status();
        if never_has_content(status) {
            // Nor does it say a length (RFC 9110 §8.6).
            resp.headers_mut().remove(CONTENT_LENGTH);
            return Ok(Ends::Length(0));
        }
        if status == StatusCode::NOT_MODIFIED || method == Method::HEAD {
            return Ok(Ends::Length(0));
        }
        if self.is_coded {
            return if version == Version::HTTP_11
                && length.is_none()
                && headers::is_plainly_framed(resp.headers())
            {
                Ok(Ends::Chunked)
            } else {
                Err(HeadError::Coding)
            };
        }
        Ok(length.map_or(Ends::Connection, Ends::Length))
    }

    /// Whether it announces content where there is none: who wrote that may send some.
    fn contradicts(&self, status: StatusCode) -> bool {
        never_has_content(status) && (self.is_coded || self.length.is_some_and(|it| it != Ok(0)))
    }

    fn is_last(&self, version: Version) -> bool {
        self.closes || version == Version::HTTP_10 && !self.keeps
    }
}

/// Whether answers of this status have no content, whatever was asked (RFC 9112 §6.3).
fn never_has_content(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT
}

/// A number of digits alone: no sign, no space.
fn digits(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

/// Reads a block of trailers, with the empty line behind it; `None`, if it is none.
pub fn read_trailers(block: &[u8]) -> Option<HeaderMap> {
    let mut lines = [EMPTY_HEADER; FEW_LINES];
    let Ok(Status::Complete((length, lines))) = httparse::parse_headers(block, &mut lines) else {
        return None;
    };
    if length != block.len() {
        return None;
    }
    let mut trailers = HeaderMap::with_capacity(lines.len());
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
        trailers.append(name, HeaderValue::from_bytes(line.value).ok()?);
    }
    Some(trailers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(head: &str) -> Result<Option<AnswerHead>, HeadError> {
        read_answer(&mut BytesMut::from(head.as_bytes()), &Method::GET, None)
    }

    fn end(lines: &str) -> Result<(Ends, bool), HeadError> {
        let head = read(&format!("HTTP/1.1 200 OK\r\n{lines}\r\n"))?.unwrap();
        Ok((head.ends, head.is_last))
    }

    #[test]
    fn where_an_answer_ends_is_what_its_head_says() {
        for (lines, expected) in [
            ("content-length: 5\r\n", (Ends::Length(5), false)),
            ("Content-Length: 0\r\n", (Ends::Length(0), false)),
            (
                "content-length: 5\r\ncontent-length: 5\r\n",
                (Ends::Length(5), false),
            ),
            ("content-length: 5, 5\r\n", (Ends::Length(5), false)),
            ("transfer-encoding: Chunked\r\n", (Ends::Chunked, false)),
            (
                "transfer-encoding: chunked\r\nconnection: x, Close\r\n",
                (Ends::Chunked, true),
            ),
            (
                "connection: close\r\nconnection: keep-alive\r\ncontent-length: 1\r\n",
                (Ends::Length(1), true),
            ),
            ("", (Ends::Connection, true)),
        ] {
            assert_eq!(end(lines), Ok(expected), "{lines:?}");
        }
        let twice = read("HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\n")
            .unwrap()
            .unwrap();
        assert_eq!(twice.resp.headers()[CONTENT_LENGTH], "5");
    }

    #[test]
    fn what_could_end_in_two_places_is_refused() {
        for (lines, error) in [
            (
                "content-length: 5\r\ncontent-length: 6\r\n",
                HeadError::Length,
            ),
            ("content-length: 5, 6\r\n", HeadError::Length),
            ("content-length: +5\r\n", HeadError::Length),
            ("content-length: -5\r\n", HeadError::Length),
            ("content-length: 5 5\r\n", HeadError::Length),
            ("content-length: 0x5\r\n", HeadError::Length),
            ("content-length:\r\n", HeadError::Length),
            (
                "content-length: 18446744073709551616\r\n",
                HeadError::Length,
            ),
            ("transfer-encoding: gzip, chunked\r\n", HeadError::Coding),
            ("transfer-encoding: identity\r\n", HeadError::Coding),
            (
                "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
                HeadError::Coding,
            ),
            (
                "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
                HeadError::Coding,
            ),
            (
                "content-length: 5\r\ntransfer-encoding: chunked\r\n",
                HeadError::Coding,
            ),
        ] {
            assert_eq!(end(lines), Err(error), "{lines:?}");
        }
        // What a client makes of it is not known where no content follows, either.
        for lines in ["content-length: 5, 6", "content-length: x"] {
            for (method, status) in [(Method::HEAD, 200), (Method::GET, 304), (Method::GET, 204)] {
                let head = format!("HTTP/1.1 {status} x\r\n{lines}\r\n\r\n");
                let error = read_answer(&mut BytesMut::from(&head[..]), &method, None).unwrap_err();
                assert_eq!(error, HeadError::Length, "{method} {head:?}");
            }
        }
        let old = "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(read(old).unwrap_err(), HeadError::Coding);
    }

    #[test]
    fn head_of_many_lines_is_read_and_of_too_many_is_none() {
        let head = |count| {
            format!(
                "HTTP/1.1 200 OK\r\n{}\r\n",
                "set-cookie: a=1\r\n".repeat(count)
            )
        };
        for count in [0, 100, 101, 1000] {
            let answer = read(&head(count)).unwrap().unwrap();
            assert_eq!(
                answer.resp.headers().get_all("set-cookie").iter().count(),
                count
            );
        }
        let many = read(&head(1001)).unwrap_err();
        assert_eq!(many, HeadError::Syntax(httparse::Error::TooManyHeaders));
    }

    #[test]
    fn what_has_no_content_ends_with_its_head() {
        for status in ["100", "101", "103", "204", "304"] {
            let head = format!("HTTP/1.1 {status} x\r\ncontent-length: 7\r\n\r\n");
            assert_eq!(read(&head).unwrap().unwrap().ends, Ends::Length(0));
        }
        for (status, length, is_last) in
            [("204", "7", true), ("204", "0", false), ("304", "7", false)]
        {
            let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n\r\n");
            let answer = read(&head).unwrap().unwrap();
            // Content may follow what says that it has some.
            assert_eq!(answer.is_last, is_last, "{head:?}");
            let is_told = answer.resp.headers().contains_key(CONTENT_LENGTH);
            assert_eq!(is_told, status == "304", "{head:?}");
        }
        let coded = "HTTP/1.1 204 x\r\ntransfer-encoding: chunked\r\n\r\n";
        assert!(read(coded).unwrap().unwrap().is_last);
        assert!(!read("HTTP/1.1 204 x\r\n\r\n").unwrap().unwrap().is_last);
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n";
        assert_eq!(read(head).unwrap().unwrap().ends, Ends::Length(7));
        let mut input = BytesMut::from(head);
        let answer = read_answer(&mut input, &Method::HEAD, None)
            .unwrap()
            .unwrap();
        assert_eq!(answer.ends, Ends::Length(0));
        assert_eq!(answer.resp.headers()[CONTENT_LENGTH], "7");
    }

    #[test]
    fn final_answer_takes_the_place_of_the_requests_headers_and_has_none_of_them() {
        let mut asked = HeaderMap::new();
        for name in ["host", "x-asked", "cookie"] {
            asked.append(name, HeaderValue::from_static("asked"));
        }
        asked.append("cookie", HeaderValue::from_static("twice"));
        let mut read = |head: &str| {
            let mut input = BytesMut::from(head);
            let answer = read_answer(&mut input, &Method::GET, Some(&mut asked)).unwrap();
            (answer.map(|answer| answer.resp), asked.len())
        };
        // Who only informs, or is not all here, may be followed by the end of the connection.
        let hints = "HTTP/1.1 103 Hints\r\nlink: x\r\n\r\n";
        assert_eq!(read(hints).1, 4);
        let last = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\ncookie: told\r\n";
        assert_eq!(read(last).1, 4);
        let (resp, left) = read(&format!("{last}\r\n"));
        let resp = resp.unwrap();
        assert_eq!((resp.headers().len(), left), (2, 0));
        assert_eq!(resp.headers()["cookie"], "told");
        assert_eq!(resp.headers()[CONTENT_LENGTH], "0");
    }

    #[test]
    fn what_is_of_this_hop_is_read_and_not_passed_on() {
        let names = |head: &str| {
            let head = read(&format!("{head}content-length: 0\r\n\r\n"));
            let head = head.unwrap().unwrap();
            let names = head.resp.headers().keys().map(ToString::to_string);
            (names.collect::<Vec<_>>().join(" "), head.is_last)
        };
        let ok = "HTTP/1.1 200 OK\r\nx-a: 1\r\n";
        for (line, is_last) in [
            ("Connection: keep-alive\r\n", false),
            ("connection: Close\r\n", true),
            ("connection: close, x-b\r\nx-b: 1\r\n", true),
            (
                "connection: x-b\r\nX-B: 1\r\nkeep-alive: timeout=5\r\n",
                false,
            ),
            (
                "upgrade: h2c\r\ntrailer: x\r\nproxy-connection: close\r\n",
                false,
            ),
        ] {
            let told = names(&format!("{ok}{line}"));
            assert_eq!(told, ("x-a content-length".to_owned(), is_last), "{line:?}");
        }
        // Who asked for a 101 compares what it says.
        let switched = "HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: websocket\r\n";
        assert_eq!(names(switched).0, "connection upgrade");
    }

    #[test]
    fn a_connection_of_http_1_0_is_kept_only_if_that_is_said() {
        let old = |line: &str| {
            let head = format!("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n{line}\r\n");
            read(&head).unwrap().unwrap().is_last
        };
        assert!(old(""));
        assert!(!old("connection: Keep-Alive\r\n"));
        assert!(old("connection: keep-alive, close\r\n"));
    }

    #[test]
    fn status_reason_and_headers_are_as_they_were_sent() {
        let head = "HTTP/1.1 299 All\tis well\r\nX-A: 1\r\nx-empty:\r\nx-a:  two \r\n\r\nrest";
        let mut input = BytesMut::from(head);
        let answer = read_answer(&mut input, &Method::GET, None)
            .unwrap()
            .unwrap();
        assert_eq!(&input[..], b"rest");
        assert_eq!(answer.resp.status().as_u16(), 299);
        let reason = answer.resp.extensions().get::<ReasonPhrase>().unwrap();
        assert_eq!(reason.as_bytes(), b"All\tis well");
        let all: Vec<_> = answer.resp.headers().get_all("x-a").iter().collect();
        assert_eq!(all, ["1", "two"]);
        assert_eq!(answer.resp.headers()["x-empty"], "");
        for partial in 0..head.len() - 4 {
            assert!(read(&head[..partial]).unwrap().is_none(), "{partial}");
        }
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let large = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(HEAD_BYTES));
        assert_eq!(read(&large).unwrap_err(), HeadError::TooLarge);
        let whole = format!("{large}\r\n\r\n");
        assert_eq!(read(&whole).unwrap_err(), HeadError::TooLarge);
        for head in [
            "SSH-2.0-OpenSSH\r\n\r\n".to_owned(),
            "HTTP/2.0 200 OK\r\n\r\n".to_owned(),
            "HTTP/1.1 099 x\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\nspace : 1\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\na: 1\r\n folded\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\na: \0\r\n\r\n".to_owned(),
            format!(
                "HTTP/1.1 200 OK\r\n{}\r\n",
                "a: 1\r\n".repeat(HEAD_LINES + 1)
            ),
        ] {
            let error = read(&head).unwrap_err();
            assert!(
                matches!(error, HeadError::Syntax(_) | HeadError::Field),
                "{head:.40?}: {error}"
            );
        }
    }

    #[test]
    fn a_request_is_framed_as_its_body_is_whatever_its_headers_say() {
        let written = |lines: &[(&str, &str)], framing| {
            let mut req = Request::builder().method(Method::POST).uri("/a?b=c");
            for (name, value) in lines {
                req = req.header(*name, *value);
            }
            let mut out = Vec::new();
            write_request(&mut out, &req.body(()).unwrap(), b"x-b: 2\r\n", framing);
            String::from_utf8(out).unwrap()
        };
        let lying = [
            ("content-length", "9"),
            ("transfer-encoding", "gzip"),
            ("x-a", "1"),
        ];
        for (lines, framing, rest) in [
            (&lying[2..], Framing::Nothing, "x-a: 1\r\nx-b: 2\r\n"),
            (
                &lying[..],
                Framing::Nothing,
                "x-a: 1\r\nx-b: 2\r\ncontent-length: 0\r\n",
            ),
            (
                &lying[..],
                Framing::Length(7),
                "x-a: 1\r\nx-b: 2\r\ncontent-length: 7\r\n",
            ),
            (
                &lying[..],
                Framing::Chunked,
                "x-a: 1\r\nx-b: 2\r\ntransfer-encoding: chunked\r\n",
            ),
        ] {
            let head = format!("POST /a?b=c HTTP/1.1\r\n{rest}\r\n");
            assert_eq!(written(lines, framing), head);
        }
        let mut req = Request::new(());
        (*req.method_mut(), *req.uri_mut()) = (Method::OPTIONS, "*".parse().unwrap());
        let mut out = Vec::new();
        write_request(&mut out, &req, b"", Framing::Nothing);
        assert_eq!(out, b"OPTIONS * HTTP/1.1\r\n\r\n");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let mut input = BytesMut::from(&b"HTTP/1.1 200 OK\r\n"[..]);
            input.extend_from_slice(&bytes);
            let _ = read_answer(&mut input, &Method::GET, None);
            let _ = read_trailers(&bytes);
        }
    }
}
