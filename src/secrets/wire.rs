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
use crate::resource::escaped;

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

/// How many bytes of a credential in a row give it away.
const PIECE: usize = 8;

/// What a manager says of a refusal, at most so many characters of it, and nothing at all where
/// that holds a piece of a credential that was sent, or of a private key: some services quote what
/// they do not accept, and viewers and logs are told what this gives.
pub(super) fn words(said: &str, limit: usize, credentials: &[&[u8]]) -> String {
    let told: String = said.chars().take(limit.saturating_add(PIECE)).collect();
    let gives_away = |credential: &&[u8]| {
        let piece = credential.len().clamp(1, PIECE);
        let mut pieces = credential.windows(piece);
        pieces.any(|piece| told.as_bytes().windows(piece.len()).any(|at| at == piece))
    };
    if credentials.iter().any(gives_away) || told.contains("-----BEGIN") {
        return String::new();
    }
    escaped(said, limit)
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
    fn words_are_told_unless_they_hold_a_piece_of_a_credential() {
        let credentials = [b"hush-0123456789".as_slice(), b"pin", b""];
        let told = |said: &str| words(said, 20, &credentials);
        for said in ["no such path", "hush-01 is fine", "", "a\nb", "0123456"] {
            assert_eq!(told(said), said.replace('\n', "\\n"));
        }
        for said in [
            "is hush-0123456789",
            "hush-012",
            "x 23456789",
            "-----BEGIN",
            "a pin",
        ] {
            assert_eq!(told(said), "", "{said}");
        }
        assert_eq!(
            told("a text that is longer than it is told"),
            "a text that is longe…"
        );
        assert_eq!(told("hush-012 at the end…"), "");
        assert_eq!(told("0123456789 0 hush-0123"), "", "cut within it");
    }

    #[test]
    fn paths_are_escaped_but_for_their_slashes() {
        assert_eq!(escape("a/b c?d%#é"), "a/b%20c%3Fd%25%23%C3%A9");
    }
}
