//! The terminal: whether there is one, colours, questions, progress.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use crate::cli::print;

/// A colour of the terminal's own palette.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Red,
    Green,
    Yellow,
}

/// Whether standard input is a person.
pub(super) fn is_asked() -> bool {
    io::stdin().is_terminal()
}

/// Whether standard output is a terminal.
pub(super) fn is_shown() -> bool {
    io::stdout().is_terminal()
}

/// A text for standard output in a colour, where it is a terminal and `NO_COLOR` is not set.
pub(super) fn paint(colour: Colour, text: &str) -> String {
    if is_shown() && has_colours(std::env::var_os("NO_COLOR").is_some_and(|it| !it.is_empty())) {
        painted(colour, text)
    } else {
        text.to_owned()
    }
}

/// no-color.org: any value that is not empty switches colours off.
fn has_colours(no_color: bool) -> bool {
    !no_color && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn painted(colour: Colour, text: &str) -> String {
    let code = match colour {
        Colour::Red => 31,
        Colour::Green => 32,
        Colour::Yellow => 33,
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}

/// Asks on standard error; only `y` and `yes` agree.
pub(super) fn confirm(question: &str) -> bool {
    agrees(&ask(&format!("{question} (y/N): ")))
}

/// Asks on standard error and reads a line; empty at the end of input.
pub(super) fn ask(question: &str) -> String {
    let mut stderr = io::stderr().lock();
    let _ = write!(stderr, "{question}");
    let _ = stderr.flush();
    let mut line = String::new();
    let _ = io::stdin().lock().read_line(&mut line);
    line.trim().to_owned()
}

fn agrees(answer: &str) -> bool {
    matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes")
}

/// How far long work is, in one line of standard error that is written over; silent where that is
/// no terminal or the work is short.
#[derive(Debug)]
pub(super) struct Progress {
    what: &'static str,
    total: usize,
    done: usize,
    is_shown: bool,
}

/// Work of fewer steps is over before it is read.
const LONG: usize = 50;
/// Characters of the bar.
const WIDTH: usize = 30;

impl Progress {
    /// Work of so many steps.
    pub(super) fn new(what: &'static str, total: usize) -> Self {
        Self {
            what,
            total,
            done: 0,
            is_shown: total >= LONG && io::stderr().is_terminal(),
        }
    }

    /// One step is done.
    pub(super) fn step(&mut self) {
        self.done = self.done.saturating_add(1);
        let is_due = self.done.is_multiple_of((self.total / 200).max(1)) || self.done == self.total;
        if self.is_shown && is_due {
            let _ = write!(io::stderr().lock(), "\r{}", self.line());
        }
    }

    /// Says a line on standard error, in the place of the bar until the next step.
    pub(super) fn tell(&self, line: &str) {
        self.clear();
        print::err(line);
    }

    fn clear(&self) {
        if self.is_shown {
            // Carriage return, erase the line (ECMA-48 EL).
            let _ = write!(io::stderr().lock(), "\r\u{1b}[K");
        }
    }

    fn line(&self) -> String {
        let filled = (self.done * WIDTH).checked_div(self.total).unwrap_or(0);
        let (bar, rest) = ("#".repeat(filled), "-".repeat(WIDTH - filled.min(WIDTH)));
        format!("{} [{bar}{rest}] {}/{}", self.what, self.done, self.total)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_yes_agrees() {
        for (answer, agreed) in [("y", true), ("YES", true), ("", false), ("yep", false)] {
            assert_eq!(agrees(answer), agreed, "{answer}");
        }
    }

    #[test]
    fn colours_are_codes_around_the_text() {
        assert_eq!(painted(Colour::Red, "x"), "\u{1b}[31mx\u{1b}[0m");
        assert!(!has_colours(true));
    }

    #[test]
    fn bar_fills_with_the_work() {
        let mut progress = Progress::new("sync", 3);
        progress.step();
        let line = format!("sync [{}{}] 1/3", "#".repeat(10), "-".repeat(20));
        assert_eq!(progress.line(), line);
    }
}
