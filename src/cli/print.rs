//! Writing to the standard streams, and errors as one line.

use std::error::Error;
use std::io::{self, Write as _};

/// Writes a text and a line end to standard output.
///
/// A reader that went away (`| head`) is no error; `println!` would panic.
pub(super) fn out(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Writes a text and a line end to standard error.
pub(super) fn err(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// An error with its causes, outermost first: `this: that: the other`.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[test]
    fn chain_has_every_cause_once() {
        assert_eq!(chain(&Outer(io::Error::other("inner"))), "outer: inner");
        assert_eq!(chain(&io::Error::other("alone")), "alone");
    }
}
