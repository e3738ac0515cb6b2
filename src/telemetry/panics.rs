//! What is said of a panic: where, and on which thread. Not what about.
//!
//! The words of a panic may quote what the program had in hand: a text that was cut inside a
//! character, an error that was not expected. Words that stand in the source as they are quote
//! nothing, and are told.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, Write};
use std::{panic, thread};

const WITHHELD: &str = "its words are withheld, as they may quote a value";

/// Has panics of this process told so from here on: in its log, and before there is one on standard
/// error. `RUST_BACKTRACE=1` adds how it came there, which quotes nothing either.
pub fn install() {
    panic::set_hook(Box::new(|info| {
        let place = info
            .location()
            .map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        let words = words(info.payload());
        let backtrace = Backtrace::capture();
        let is_captured = backtrace.status() == BacktraceStatus::Captured;
        let backtrace = is_captured.then(|| backtrace.to_string());
        if tracing::dispatcher::has_been_set() {
            let thread = thread::current();
            let thread = thread.name().unwrap_or("unnamed");
            tracing::error!(place, thread, backtrace, "panicked: {words}");
        } else {
            let way = backtrace.unwrap_or_default();
            let _nobody_reads = writeln!(io::stderr(), "panicked at {place}: {words}\n{way}");
        }
    }));
}

/// The words of a panic, where they are the source's own.
fn words(payload: &(dyn Any + Send)) -> &'static str {
    let own = payload.downcast_ref::<&'static str>();
    own.copied().unwrap_or(WITHHELD)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words_of(bug: impl FnOnce() + panic::UnwindSafe) -> &'static str {
        words(panic::catch_unwind(bug).unwrap_err().as_ref())
    }

    #[test]
    fn words_are_told_that_stand_in_the_source_alone() {
        let value = "hush".to_owned();
        assert_eq!(words_of(|| panic!("a bug")), "a bug");
        assert_eq!(words_of(move || panic!("{value}")), WITHHELD);
        let words = words_of(|| assert!(!"hush".parse::<bool>().unwrap()));
        assert_eq!(words, WITHHELD);
    }
}
