//! `a6 explain`: the catalogue of failures at the prompt.

use serde_json::Value;

use super::failed::Failed;
use super::format::{Format, Shape};
use crate::failure::Reason;

/// One reason, or the list of all.
///
/// # Errors
/// A reason that is not in the catalogue, a format that is not offered.
pub(super) fn run(code: Option<&str>, output: Option<&str>) -> Result<String, Failed> {
    let format = Format::choose(output, Shape::Text)?;
    let Some(code) = code else {
        let all: Value = Reason::ALL.into_iter().map(Reason::entry).collect();
        return Ok(format.show(&all, || Reason::ALL.map(Reason::code).join("\n")));
    };
    let reason = Reason::from_code(code).ok_or_else(|| unknown(code))?;
    Ok(format.show(&reason.entry(), || entry(reason)))
}

/// The entry of a reason for people.
pub(super) fn entry(reason: Reason) -> String {
    format!(
        "{reason} (blame: {})\n\n{}\n\nRemedy: {}",
        reason.blame(),
        reason.meaning(),
        reason.remedy()
    )
}

fn unknown(code: &str) -> String {
    let nearest = Reason::ALL
        .into_iter()
        .map(|reason| (strsim::damerau_levenshtein(code, reason.code()), reason))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= 6);
    match nearest {
        Some((_, reason)) => format!("unknown reason {code:?}; did you mean {reason}?"),
        None => format!("unknown reason {code:?}; `a6 explain` lists them all"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_is_explained() {
        let text = run(Some("sni_unknown"), None).unwrap();
        assert!(text.starts_with("sni_unknown (blame: client)\n"));
        assert!(text.contains(Reason::SniUnknown.remedy()));
        let json: Value =
            serde_json::from_str(&run(Some("sni_unknown"), Some("json")).unwrap()).unwrap();
        assert_eq!(json["meaning"], Reason::SniUnknown.meaning());
    }

    #[test]
    fn unknown_reason_is_refused_with_the_nearest() {
        let message = run(Some("sni_unknwon"), None).unwrap_err().to_string();
        assert_eq!(
            message,
            "unknown reason \"sni_unknwon\"; did you mean sni_unknown?"
        );
        assert!(
            run(Some("a\u{1b}[2J"), None)
                .unwrap_err()
                .to_string()
                .contains("\\u{1b}")
        );
    }

    #[test]
    fn without_a_reason_all_are_listed() {
        assert_eq!(run(None, None).unwrap().lines().count(), Reason::COUNT);
    }
}
