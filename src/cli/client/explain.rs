//! `a6 explain`: the catalogue of failures at the prompt.

use http::Method;
use serde_json::{Value, json};

use super::args::Globals;
use super::failed::Failed;
use super::format::{Format, Shape};
use super::own;
use crate::failure::Reason;
use crate::resource::{escaped, shown};

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

/// The last failure that the gateway met, of one reason or of any, with its evidence.
///
/// # Errors
/// What the server said.
pub(super) fn last(code: Option<&str>, globals: &Globals) -> Result<String, Failed> {
    let format = Format::choose(globals.output.as_deref(), Shape::Text)?;
    if let Some(code) = code {
        Reason::from_code(code).ok_or_else(|| unknown(code))?;
    }
    let narrowed = code.map_or_else(String::new, |code| format!("&reason={code}"));
    let path = format!("/portcullis/v1/failures?limit=1{narrowed}");
    let answer = own::ask(globals, &Method::GET, &path)?;
    let failure = answer.get("list").and_then(|list| list.get(0));
    let Some(failure) = failure.and_then(Value::as_object) else {
        return Ok("No failure since the gateway started.".to_owned());
    };
    let told = failure.get("reason").and_then(Value::as_str);
    let reason = told.and_then(Reason::from_code);
    let mut value = reason.map_or_else(|| json!({ "reason": told }), Reason::entry);
    if let Value::Object(members) = &mut value {
        members.insert("evidence".to_owned(), Value::Object(failure.clone()));
    }
    Ok(format.show(&value, || {
        let words = match reason {
            Some(reason) => entry(reason),
            // A gateway that is newer than this program.
            None => shown(told.unwrap_or("a reason without a name")),
        };
        let evidence = failure.iter().map(|(name, value)| {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            format!("\n  {name}: {}", escaped(&text, usize::MAX))
        });
        format!("{words}\n\nEvidence:{}", evidence.collect::<String>())
    }))
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
