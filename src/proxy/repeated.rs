//! An answer's head that is, to the byte, the one before it over the same connection.
//!
//! Upstreams repeat themselves for as long as their Date stands still. What a head reads as follows
//! from its bytes and from whether HEAD was asked, so that what the last one read as is used again.

use std::mem;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

use crate::proxy::heads::{self, AnswerHead, Ends, HeadError};

/// The longest head that is remembered: it is kept for as long as its connection.
const HEAD_BYTES: usize = 1 << 10;

/// The last answer's head over a connection.
#[derive(Debug, Default)]
pub(super) struct LastHead {
    bytes: Bytes,
    /// What it read as; `None`, until it came twice.
    read: Option<Read>,
    /// It came again after it was read.
    was_repeated: bool,
}

/// What a head read as.
#[derive(Debug)]
struct Read {
    to_head: bool,
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    ends: Ends,
    is_last: bool,
}

impl LastHead {
    /// Takes an answer's head out of `input` as [`heads::read_answer`] does.
    ///
    /// # Errors
    /// As there.
    pub(super) fn read_answer(
        &mut self,
        input: &mut BytesMut,
        method: &Method,
        mut request_headers: Option<&mut HeaderMap>,
    ) -> Result<Option<AnswerHead>, HeadError> {
        if let Some(head) = self.recall(input, method, request_headers.as_deref_mut()) {
            return Ok(Some(head));
        }
        let head = heads::read_answer(input, method, request_headers)?;
        if let Some(head) = &head
            && !head.resp.status().is_informational()
        {
            self.remember(head, method);
        }
        Ok(head)
    }

    fn recall(
        &mut self,
        input: &mut BytesMut,
        method: &Method,
        request_headers: Option<&mut HeaderMap>,
    ) -> Option<AnswerHead> {
        let read = self.read.as_ref()?;
        if !input.starts_with(&self.bytes) || read.to_head != (method == Method::HEAD) {
            return None;
        }
        input.advance(self.bytes.len());
        self.was_repeated = true;
        let mut headers = request_headers.map(mem::take).unwrap_or_default();
        headers.clear();
        headers.reserve(read.headers.len());
        for (name, value) in &read.headers {
            headers.append(name.clone(), value.clone());
        }
        let mut resp = Response::new(());
        *resp.status_mut() = read.status;
        *resp.headers_mut() = headers;
        Some(AnswerHead {
            resp,
            ends: read.ends,
            is_last: read.is_last,
            bytes: self.bytes.clone(),
        })
    }

    fn remember(&mut self, head: &AnswerHead, method: &Method) {
        let resp = &head.resp;
        // A reason phrase of its own is an extension, as are announced trailers: they have no place here.
        if head.bytes.len() > HEAD_BYTES || !resp.extensions().is_empty() {
            *self = Self::default();
            return;
        }
        // What never comes twice is not prepared for.
        let repeats = mem::take(&mut self.was_repeated) || self.bytes == head.bytes;
        let headers = || resp.headers().iter();
        self.read = repeats.then(|| Read {
            to_head: method == Method::HEAD,
            status: resp.status(),
            headers: headers()
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            ends: head.ends,
            is_last: head.is_last,
        });
        self.bytes = head.bytes.clone();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a head reads as.
    fn facts(head: Result<Option<AnswerHead>, HeadError>) -> String {
        match head {
            Ok(Some(head)) => {
                // How it was stored is not what it says.
                let lines: Vec<_> = head.resp.headers().iter().collect();
                let reason = head.resp.extensions().get::<hyper::ext::ReasonPhrase>();
                let status = head.resp.status();
                format!(
                    "{status} {reason:?} {lines:?} {:?} {} {:?}",
                    head.ends, head.is_last, head.bytes
                )
            }
            other => format!("{other:?}"),
        }
    }

    const OK: &str =
        "HTTP/1.1 200 OK\r\nserver: a\r\ncontent-length: 3\r\nx-a: 1\r\nx-a: 2\r\n\r\n";

    /// Reads a head as the next one over a connection, and by itself; whether it was recalled.
    fn read_again(last: &mut LastHead, head: &str, method: &Method) -> bool {
        let mut request = HeaderMap::new();
        request.insert("host", HeaderValue::from_static("a.example"));
        let bytes = [head.as_bytes(), b"abc"].concat();
        let (mut input, mut same) = (BytesMut::from(&bytes[..]), BytesMut::from(&bytes[..]));
        let expected = facts(heads::read_answer(&mut same, method, None));
        let recalls = last.read.is_some();
        last.was_repeated = false;
        let found = facts(last.read_answer(&mut input, method, Some(&mut request)));
        assert_eq!(found, expected);
        assert_eq!(input, same);
        recalls && last.was_repeated
    }

    #[test]
    fn head_that_comes_again_is_not_read_again() {
        let mut last = LastHead::default();
        let read = |last: &mut LastHead, head: &str| read_again(last, head, &Method::GET);
        assert!(!read(&mut last, OK) && !read(&mut last, OK));
        assert!(read(&mut last, OK) && read(&mut last, OK));
        let other = OK.replace("server: a", "server: b");
        last.was_repeated = true;
        assert!(!read(&mut last, &other) && !read(&mut last, &other) && read(&mut last, &other));
        assert!(!read(&mut last, OK));
    }

    #[test]
    fn answer_to_head_has_no_content_though_its_head_is_that_of_a_get() {
        let mut last = LastHead::default();
        for method in [
            Method::GET,
            Method::GET,
            Method::GET,
            Method::HEAD,
            Method::GET,
        ] {
            let mut input = BytesMut::from(OK);
            let head = last
                .read_answer(&mut input, &method, None)
                .unwrap()
                .unwrap();
            let length = if method == Method::HEAD { 0 } else { 3 };
            assert_eq!(head.ends, Ends::Length(length), "{method}");
        }
    }

    proptest! {
        #[test]
        fn what_is_recalled_is_what_would_be_read(
            heads in proptest::collection::vec((0_usize..HEADS.len(), 1_usize..4, any::<bool>()), 1..30)
        ) {
            let mut last = LastHead::default();
            for (head, times, to_head) in heads {
                let method = if to_head { Method::HEAD } else { Method::GET };
                for _ in 0..times {
                    read_again(&mut last, HEADS[head], &method);
                }
            }
        }
    }

    const HEADS: [&str; 8] = [
        OK,
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.0 200 OK\r\ncontent-length: 3\r\nconnection: keep-alive\r\n\r\n",
        "HTTP/1.1 200 Fine\r\ncontent-length: 3\r\n\r\n",
        "HTTP/1.1 204 No Content\r\ncontent-length: 3\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close, x-b\r\nx-b: 1\r\nx-c: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n",
    ];
}
