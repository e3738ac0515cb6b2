//! The catalogue of failures: every refusal has one stable name, a culprit, a meaning, a remedy.
//!
//! The same name is in the access record, in the counter, in `GET /portcullis/v1/failures`, in
//! `a6 explain` and in `docs/failures.md`. Where a failure is detected, and what the peer is
//! told, is not decided here.

mod catalogue;

pub use catalogue::Reason;

use std::error::Error;
use std::fmt;
use std::fmt::Write as _;

/// Whose doing a failure is, and so who can end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    /// The client sent, or failed to send, something.
    Client,
    /// The service behind the gateway did.
    Upstream,
    /// The gateway, its configuration or its resources.
    Us,
}

impl Blame {
    /// The three, in the order of the catalogue.
    pub const ALL: [Self; 3] = [Self::Client, Self::Upstream, Self::Us];

    /// The name used in labels and records: `client`, `upstream`, `us`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Us => "us",
        }
    }
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Reason {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The position in [`Reason::ALL`], for tables indexed by reason.
    #[must_use]
    #[expect(
        clippy::as_conversions,
        reason = "a field-less enum's discriminant is its position"
    )]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The reason with this code; `None` where there is none.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// The first sentence of the [remedy](Self::remedy).
    #[must_use]
    pub fn remedy_in_short(self) -> &'static str {
        let remedy = self.remedy();
        let end = remedy.find(". ").map_or(remedy.len(), |end| end + 1);
        remedy.get(..end).unwrap_or(remedy)
    }

    /// Whether it says that a client's certificate is absent, or does not pass.
    #[must_use]
    pub const fn is_client_certificate(self) -> bool {
        matches!(
            self,
            Self::ClientCertMissing
                | Self::ClientCertUnknownCa
                | Self::ClientCertExpired
                | Self::ClientCertNotYetValid
                | Self::ClientCertInvalid
                | Self::ClientChainTooDeep
                | Self::ClientCertRevoked
                | Self::ClientCrlStale
                | Self::ClientCrlMissing
        )
    }

    /// Whether it says that we do not trust what a server showed us.
    #[must_use]
    pub const fn is_distrust(self) -> bool {
        matches!(
            self,
            Self::UpstreamCaUnknown
                | Self::UpstreamNameMismatch
                | Self::UpstreamCertExpired
                | Self::UpstreamCertNotYetValid
                | Self::UpstreamCertInvalid
                | Self::UpstreamCertRevoked
                | Self::UpstreamCrlStale
                | Self::UpstreamCrlMissing
        )
    }
}

impl Reason {
    /// Its entry in the catalogue, as the Admin API and `a6 explain` show it.
    #[must_use]
    pub fn entry(self) -> serde_json::Value {
        serde_json::json!({
            "reason": self.code(),
            "blame": self.blame().code(),
            "meaning": self.meaning(),
            "remedy": self.remedy(),
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// An error with its causes, outermost first: `this: that: the other`.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The catalogue as the text of `docs/failures.md`.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(HEAD);
    for blame in Blame::ALL {
        let heading = match blame {
            Blame::Client => "The client",
            Blame::Upstream => "The upstream",
            Blame::Us => "The gateway",
        };
        // Writing to a `String` cannot fail.
        let _ = write!(text, "\n## {heading} (`{blame}`)\n");
        for reason in Reason::ALL
            .into_iter()
            .filter(|reason| reason.blame() == blame)
        {
            let _ = write!(
                text,
                "\n### `{reason}`\n\n{}\n\n**Remedy:** {}\n",
                reason.meaning(),
                reason.remedy()
            );
        }
    }
    text
}

const HEAD: &str = "# Failures

Every refusal has one name. It is the `reason` of the access record, the `reason` label of
`portcullis_failures_total`, and what `GET /portcullis/v1/failures` lists; `a6 explain NAME` prints
its entry. Names are stable. Generated from the catalogue in `src/failure`; write it anew with
`PORTCULLIS_WRITE_DOCS=1 cargo test --lib failure::`.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn chain_has_every_cause_once() {
        let inner = std::io::Error::other("inner");
        assert_eq!(chain(&Outer(inner)), "outer: inner");
        assert_eq!(chain(&std::io::Error::other("alone")), "alone");
    }

    use std::collections::HashSet;

    #[test]
    fn codes_are_unique_snake_case_and_found_again() {
        let mut seen = HashSet::new();
        for reason in Reason::ALL {
            let code = reason.code();
            assert!(seen.insert(code), "{code} twice");
            assert!(
                code.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            );
            assert_eq!(Reason::from_code(code), Some(reason));
        }
        assert_eq!(Reason::from_code("no_such_reason"), None);
    }

    #[test]
    fn index_is_the_position_in_all() {
        for (position, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), position);
        }
    }

    #[test]
    fn code_is_the_snake_case_of_the_variant() {
        for reason in Reason::ALL {
            let mut expected = String::new();
            for c in format!("{reason:?}").chars() {
                if c.is_ascii_uppercase() && !expected.is_empty() {
                    expected.push('_');
                }
                expected.push(c.to_ascii_lowercase());
            }
            assert_eq!(reason.code(), expected);
        }
    }

    #[test]
    fn meaning_and_remedy_are_sentences() {
        for reason in Reason::ALL {
            for text in [reason.meaning(), reason.remedy()] {
                assert!(text.ends_with('.'), "{reason}: {text}");
                assert!(
                    text.starts_with(|c: char| c.is_uppercase() || c == '`'),
                    "{reason}: {text}"
                );
                assert!(text.split_whitespace().count() >= 5, "{reason}: {text}");
                assert!(
                    !text.contains("  ") && !text.contains('\n'),
                    "{reason}: {text}"
                );
            }
        }
    }

    #[test]
    fn committed_page_is_the_catalogue() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/failures.md");
        if std::env::var_os("PORTCULLIS_WRITE_DOCS").is_some() {
            std::fs::write(path, markdown()).unwrap();
        }
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            page == markdown(),
            "docs/failures.md is old: see its head for how to write it anew"
        );
    }
}
