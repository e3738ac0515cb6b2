//! What the managers that are asked over HTTP share: requests, paths, and what a failure means.

use std::path::PathBuf;

use bytes::Bytes;
use http::HeaderValue;
use http::request::Builder;
use serde_json::Value;
use zeroize::Zeroizing;

use super::source::ReadFault;
use crate::failure::chain;
use crate::net::http::{Answer, Client, HttpError};

/// Sends what was built, and waits for the whole answer, of any status.
pub(super) async fn send(
    client: &Client,
    request: Builder,
    body: Bytes,
) -> Result<Answer, ReadFault> {
    let request = request
        .body(body)
        .map_err(|error| ReadFault::Unusable(format!("the request cannot be written: {error}")))?;
    client.send(request).await.map_err(unreachable)
}

/// A credential as the value of a header field, which no log shows.
///
/// # Errors
/// [`ReadFault::Unusable`] names `what` cannot be sent.
pub(super) fn sensitive(what: &str, value: &str) -> Result<HeaderValue, ReadFault> {
    let mut value = HeaderValue::try_from(value).map_err(|_invalid| {
        ReadFault::Unusable(format!("{what} has characters that no header can carry"))
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// The JSON of an answer. The parser's own words are not kept: they may quote a value.
pub(super) fn json(body: &[u8]) -> Result<Value, ReadFault> {
    serde_json::from_slice(body).map_err(|_error| ReadFault::Answer("it is no JSON".to_owned()))
}

/// The token in a file, without the line end that editors add.
///
/// # Errors
/// [`ReadFault::Unavailable`]: it cannot be read now.
pub(super) async fn read_token(path: PathBuf) -> Result<Zeroizing<String>, ReadFault> {
    let shown = path.display().to_string();
    let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path));
    let text = read.await.map_err(|_ended| ReadFault::Internal)?;
    let text = Zeroizing::new(text.map_err(|error| {
        ReadFault::Unavailable(format!("the token in {shown} cannot be read: {error}"))
    })?);
    Ok(Zeroizing::new(text.trim().to_owned()))
}

/// Why an exchange came to nothing.
pub(super) fn unreachable(error: HttpError) -> ReadFault {
    match error {
        HttpError::Slow(limit) => ReadFault::Slow(limit),
        HttpError::TooLong(_) => ReadFault::TooLong,
        error @ (HttpError::Dial(_)
        | HttpError::Refused { .. }
        | HttpError::Http(_)
        | HttpError::Body(_)
        | HttpError::Request(_)) => ReadFault::Unavailable(chain(&error)),
    }
}

/// A path with everything escaped that is not plain. (RFC 3986 §2.3)
pub(super) fn escape(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                escaped.push(char::from(byte));
            }
            byte => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credential_is_not_shown_and_must_be_one_that_a_header_carries() {
        assert!(!format!("{:?}", sensitive("it", "hush").unwrap()).contains("hush"));
        let told = sensitive("`token`", "hush\nhush").unwrap_err().to_string();
        assert!(told.starts_with("`token` has") && !told.contains("hush"));
    }

    #[test]
    fn paths_are_escaped_but_for_their_slashes() {
        assert_eq!(escape("a/b c?d%#é"), "a/b%20c%3Fd%25%23%C3%A9");
    }
}
