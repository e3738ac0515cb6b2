//! The process log: one line per event on standard error, JSON or text.
//!
//! The gateway's own events obey the level; libraries' are shown from `warn` up only, as their
//! debug output may hold headers. A stranger's text is recorded with `?`, never `%`, so that it
//! cannot begin a line.

use std::io;

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt};

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object: `timestamp` (RFC 3339), `level`, `target`, then the event's fields.
    Json,
    /// For people; colours on a terminal.
    Text,
}

/// The process has a log already.
#[derive(Debug, thiserror::Error)]
#[error("the process log cannot be started")]
pub struct LogError(#[source] tracing_subscriber::util::TryInitError);

/// Starts the process log; once, before any thread.
///
/// # Errors
/// [`LogError`] when it is called twice.
pub fn start(level: Level, format: Format) -> Result<(), LogError> {
    let filter = Targets::new()
        .with_default(LevelFilter::WARN.min(LevelFilter::from_level(level)))
        .with_target("portcullis", level);
    let layer = match format {
        Format::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(io::stderr)
            .boxed(),
        Format::Text => fmt::layer()
            .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
            .with_writer(io::stderr)
            .boxed(),
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()
        .map_err(LogError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_start_is_refused() {
        // Whichever test of this binary comes first may succeed; the next one may not.
        let _first = start(Level::ERROR, Format::Text);
        assert!(start(Level::ERROR, Format::Json).is_err());
    }

    #[test]
    fn quiet_level_quiets_libraries_too() {
        assert_eq!(
            LevelFilter::WARN.min(LevelFilter::ERROR),
            LevelFilter::ERROR
        );
        assert_eq!(LevelFilter::WARN.min(LevelFilter::TRACE), LevelFilter::WARN);
    }
}
