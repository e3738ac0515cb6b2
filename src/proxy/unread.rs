//! Heads of HTTP/1.1 that hyper cannot read: what their clients are told. hyper's own answer, a bare
//! status, is held back by [`watched`](crate::proxy::watched).

use std::time::SystemTime;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE};
use http::{HeaderValue, Response};
use tokio::io::AsyncWriteExt;

use crate::failure::Reason;
use crate::net::stream::Rewound;
use crate::proxy::conn::Conn;
use crate::proxy::error::Refusal;
use crate::proxy::heads;
use crate::proxy::settings::Settings;
use crate::proxy::worker::Worker;

/// The longest target that hyper takes, in bytes.
const TARGET_MAX: usize = 65_534;
/// hyper's words for a version that it does not know. It says so before it takes anything of the head:
/// with most other errors what there is follows a head, and is nobody's request.
const UNKNOWN_VERSION: &str = "invalid HTTP version parsed";
/// How many bytes a version has (RFC 9112 §2.3).
const VERSION: usize = 8;

/// What becomes of a head that hyper could not read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// It is read once more, so.
    Again(Bytes),
    /// It is refused.
    Refused(Refusal),
}

impl Unread {
    /// Why it is refused, as it is where it cannot be read again.
    pub(super) fn refusal(self, error: &hyper::Error) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            Self::Again(_) => Refusal::new(Reason::RequestInvalid, error.to_string()),
        }
    }
}

/// Judges by what hyper left of a head and of what follows it; `error` is hyper's.
pub(super) fn judge(head: &[u8], error: &hyper::Error, settings: &Settings) -> Unread {
    let line_end = memchr::memchr(b'\n', head).unwrap_or(head.len());
    if error.is_parse_too_large() {
        return Unread::Refused(too_large(head.len(), line_end, settings));
    }
    let words = error.to_string();
    let has_other_version = words == UNKNOWN_VERSION || error.is_parse_version_h2();
    let judged = has_other_version.then(|| versioned(head, line_end));
    judged
        .flatten()
        .unwrap_or_else(|| Unread::Refused(Refusal::new(Reason::RequestInvalid, words)))
}

/// What was too much: hyper says so alike of a line, of a head's bytes and of its lines.
fn too_large(length: usize, line_end: usize, settings: &Settings) -> Refusal {
    let most = settings.header_bytes;
    if line_end > TARGET_MAX {
        let detail = format!("its target has more than {TARGET_MAX} bytes");
        Refusal::new(Reason::RequestLineTooLong, detail)
    } else if line_end >= most {
        let detail = format!("its request line has {most} bytes or more");
        Refusal::new(Reason::RequestLineTooLong, detail)
    } else if length >= most {
        let detail = format!("its head has more than {most} bytes");
        Refusal::new(Reason::RequestHeadTooLarge, detail)
    } else {
        let most = settings.header_lines;
        let detail = format!("its head has more than {most} header lines");
        Refusal::new(Reason::RequestHeadTooLarge, detail)
    }
}

/// What a version that hyper does not know makes of a head; `None`, if it knows it or it is none.
///
/// A later one of HTTP/1 is read as the last one that is spoken here, and one of another major
/// version is refused by name (RFC 9110 §2.5, §15.5.6).
fn versioned(head: &[u8], line_end: usize) -> Option<Unread> {
    let line = head.get(..line_end)?.trim_ascii_end();
    let (start, version) = line.split_last_chunk::<VERSION>()?;
    let [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] = version else {
        return None;
    };
    match (start.last()?, major, minor) {
        (b' ', b'1', b'2'..=b'9') => {
            let rest = head.get(start.len().checked_add(VERSION)?..)?;
            Some(Unread::Again([start, b"HTTP/1.1", rest].concat().into()))
        }
        (b' ', b'2'..=b'9', b'0'..=b'9') => Some(Unread::Refused(Refusal::new(
            Reason::HttpVersionRefused,
            "its version is none of HTTP/1",
        ))),
        _ => None,
    }
}

/// Answers, which ends the connection, and records it.
pub(super) async fn answer(worker: &Worker, conn: &Conn, io: &mut Rewound, refusal: &Refusal) {
    let id = worker.ids.next();
    let reply = refusal.reply(&id);
    let length = u64::try_from(reply.body().len()).unwrap_or(u64::MAX);
    let text = as_text(worker, reply);
    let until = worker.sweep.after(worker.settings.handshake_timeout);
    let writing = async {
        let _gone = io.stream.write_all(&text).await;
        let _gone = io.stream.flush().await;
    };
    let _late = worker.sweep.within(until, writing).await;
    worker.metrics.request(refusal.status().as_u16());
    let mut record = conn.record(worker.epoch_millis());
    record.request_id = Some(&id);
    record.status = Some(refusal.status().as_u16());
    record.bytes_out = length;
    record.reason = Some(refusal.reason);
    record.detail = Some(refusal.detail.as_str()).filter(|detail| !detail.is_empty());
    worker.record(&record);
}

/// The answer as it is written to a client of which nothing more is read.
pub(super) fn as_text(worker: &Worker, mut reply: Response<Bytes>) -> Vec<u8> {
    let length = HeaderValue::from(reply.body().len());
    let headers = reply.headers_mut();
    headers.insert(CONTENT_LENGTH, length);
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if let Some(now) = worker.dates.at(SystemTime::now()) {
        headers.insert(DATE, now);
    }
    let mut text = format!("HTTP/1.1 {}\r\n", reply.status()).into_bytes();
    for (name, value) in reply.headers() {
        heads::write_line(&mut text, name.as_str().as_bytes(), value.as_bytes());
    }
    text.extend_from_slice(b"\r\n");
    text.extend_from_slice(reply.body());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versioned(head: &str) -> Option<Unread> {
        let line_end = head.find('\n').unwrap_or(head.len());
        super::versioned(head.as_bytes(), line_end)
    }

    #[test]
    fn later_versions_of_http_1_are_read_as_the_last_one_spoken() {
        for (head, again) in [
            (
                "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
                "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            ),
            ("GET / HTTP/1.9\nHost: a\n\n", "GET / HTTP/1.1\nHost: a\n\n"),
            ("GET / HTTP/1.2", "GET / HTTP/1.1"),
        ] {
            let again = Unread::Again(Bytes::from_static(again.as_bytes()));
            assert_eq!(versioned(head), Some(again), "{head:?}");
        }
    }

    #[test]
    fn other_major_versions_are_refused_by_name_and_what_is_none_is_not() {
        for head in [
            "GET / HTTP/2.0\r\n\r\n",
            "GET / HTTP/3.1\r\nHost: a\r\n\r\n",
        ] {
            let Some(Unread::Refused(refusal)) = versioned(head) else {
                panic!("{head:?} is let in");
            };
            assert_eq!(refusal.status(), 505, "{head:?}");
        }
        for head in [
            "",
            "HTTP/1.2",
            "GET /HTTP/1.2\r\n\r\n",
            "GET / HTTP/1.1\r\nX: HTTP/1.2\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/0.9\r\n\r\n",
            "GET / HTTP/1.10\r\n\r\n",
            "GET / HTTP/12\r\n\r\n",
            "GET / http/1.2\r\n\r\n",
        ] {
            assert_eq!(versioned(head), None, "{head:?}");
        }
    }
}
