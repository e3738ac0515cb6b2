//! Requests that come back: each takes this gateway's mark along, and one with too many is refused.
//!
//! The mark is an entry of `CDN-Loop` (RFC 8586), which every intermediary hands on. `Via` would say
//! the same, but origins answer differently to it: nginx does not compress for what has one.

use std::io;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::failure::Reason;
use crate::proxy::error::Refusal;

/// Where the marks are.
pub(super) const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

/// How often a request may have been here before. A route may lead to another one of the same
/// gateway on purpose; one that leads to itself comes back for ever.
const PASSES: usize = 4;

/// What this gateway's requests are marked with: this process's own, so that gateways in a row do
/// not take one another for themselves.
#[derive(Clone, Debug)]
pub struct Mark(HeaderValue);

impl Mark {
    /// The mark of a process; `id` is of letters and digits, and nobody else's.
    ///
    /// # Errors
    /// `id` can be in no header.
    pub fn new(id: &str) -> io::Result<Self> {
        // It lasts as long as the process, so that no request counts its uses across cores.
        let mark: &'static str = format!("portcullis-{id}").leak();
        let mark = HeaderValue::from_maybe_shared(Bytes::from_static(mark.as_bytes()));
        mark.map(Self).map_err(io::Error::other)
    }

    /// The mark itself.
    #[must_use]
    pub fn value(&self) -> &HeaderValue {
        &self.0
    }

    /// Marks a request that is sent on.
    pub fn put(&self, headers: &mut HeaderMap) {
        headers.append(CDN_LOOP, self.0.clone());
    }

    /// Refuses a request that was here too often.
    ///
    /// # Errors
    /// `loop_detected`.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let lines = headers.get_all(CDN_LOOP).iter();
        let entries = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
        let own = entries.filter(|entry| {
            // Others may put parameters behind it.
            let id = entry.split(|byte| *byte == b';').next();
            id.is_some_and(|id| id.trim_ascii() == self.0.as_bytes())
        });
        let count = own.count();
        if count > PASSES {
            let detail = format!("it was here {count} times before");
            return Err(Refusal::new(Reason::LoopDetected, detail));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_may_come_back_so_often_and_no_oftener() {
        let mark = Mark::new("0a1b").unwrap();
        let mut headers = HeaderMap::new();
        for _ in 0..=PASSES {
            mark.check(&headers).unwrap();
            mark.put(&mut headers);
        }
        let refusal = mark.check(&headers).unwrap_err();
        assert_eq!(refusal.reason, Reason::LoopDetected);
        // Another gateway knows nothing of it.
        Mark::new("0a1c").unwrap().check(&headers).unwrap();
    }

    #[test]
    fn entries_are_counted_however_they_are_written() {
        let mark = Mark::new("0a1b").unwrap();
        let mut headers = HeaderMap::new();
        let line = "cdn.example, portcullis-0a1b;v=1 ,portcullis-0a1b";
        headers.append(CDN_LOOP, HeaderValue::from_static(line));
        mark.check(&headers).unwrap();
        let line = "portcullis-0a1b, portcullis-0a1b ; v=2, portcullis-0a1b";
        headers.append(CDN_LOOP, HeaderValue::from_static(line));
        assert!(mark.check(&headers).is_err());
        let others = "portcullis, portcullis-0a1bc, a;portcullis-0a1b, ,";
        let mut headers = HeaderMap::new();
        for _ in 0..9 {
            headers.append(CDN_LOOP, HeaderValue::from_static(others));
        }
        mark.check(&headers).unwrap();
    }
}
