//! Why a command failed, as the prompt tells it: one line on standard error, exit code 1.

use std::fmt;

use serde_json::{Map, Value};

/// A failed command. The text is the server's words or ours; never a key, never a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failed {
    text: String,
    /// The server's status, where it answered.
    pub(super) status: Option<u16>,
}

impl Failed {
    /// With this sentence.
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            status: None,
        }
    }

    /// Without a word: the output has said it all.
    pub(super) fn silent() -> Self {
        Self::new("")
    }

    /// As the server answered.
    pub(super) fn answered(status: u16, text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            status: Some(status),
        }
    }

    /// The line for standard error; `None` where nothing is to be said.
    pub(super) fn line(&self, as_json: bool) -> Option<String> {
        if self.text.is_empty() {
            return None;
        }
        if !as_json {
            return Some(self.text.clone());
        }
        let mut object = Map::new();
        object.insert("error_msg".to_owned(), self.text.clone().into());
        if let Some(status) = self.status {
            object.insert("status".to_owned(), status.into());
        }
        Some(Value::Object(object).to_string())
    }

    /// The same failure, saying first where it happened.
    pub(super) fn at(self, place: impl fmt::Display) -> Self {
        Self {
            text: format!("{place}: {}", self.text),
            ..self
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<String> for Failed {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<&str> for Failed {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_is_bare_or_json_and_silence_stays_silent() {
        let failed = Failed::answered(404, "resource not found");
        assert_eq!(failed.line(false).as_deref(), Some("resource not found"));
        assert_eq!(
            failed.line(true).as_deref(),
            Some(r#"{"error_msg":"resource not found","status":404}"#)
        );
        assert_eq!(Failed::silent().line(true), None);
    }
}
