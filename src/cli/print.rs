//! Writing to the standard streams.

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
