//! `a6 audit`: the record of changes that Portcullis keeps.

use http::Method;
use serde_json::Value;

use super::args::{AuditList, AuditVerb, Globals};
use super::failed::Failed;
use super::format::{Format, Shape};
use super::settings::Settings;
use super::table::{self, cut, text, texts};
use super::{api, own};
use crate::cli::print;

/// The most records that the server gives at once.
const PAGE_RECORDS: u64 = 1000;

/// Runs a verb; the text is for standard output.
///
/// # Errors
/// What the server said; a chain that is broken is one.
pub(super) fn run(verb: &AuditVerb, globals: &Globals) -> Result<String, Failed> {
    match verb {
        AuditVerb::List(asked) => list(asked, globals),
        AuditVerb::Verify => verify(globals),
    }
}

fn list(asked: &AuditList, globals: &Globals) -> Result<String, Failed> {
    let format = Format::choose(globals.output.as_deref(), Shape::List)?;
    let settings = Settings::resolve(globals)?;
    let narrowed = query(asked);
    let records: Value = api::run(async |network| {
        let api = network.api(&settings, globals.verbose)?;
        let mut records: Vec<Value> = Vec::new();
        let mut before = asked.before;
        loop {
            let read = u64::try_from(records.len()).unwrap_or(u64::MAX);
            let missing = u64::from(asked.limit).saturating_sub(read);
            if missing == 0 {
                break;
            }
            let mut path = format!(
                "/portcullis/v1/audit?limit={}{narrowed}",
                missing.min(PAGE_RECORDS)
            );
            if let Some(before) = before {
                path.push_str(&format!("&before={before}"));
            }
            let page = own::ask_over(&api, &Method::GET, &path).await?;
            let list = page.get("list").and_then(Value::as_array);
            records.extend(list.into_iter().flatten().cloned());
            // A page may hold less than was asked for: `next` alone says where the end is.
            let next = page.get("next").and_then(Value::as_u64);
            if next.is_none() || (before.is_some() && next >= before) {
                break;
            }
            before = next;
        }
        Ok(records.into())
    })?;
    Ok(format.show(&records, || tabulate(&records)))
}

/// The arguments as the rest of a query.
fn query(asked: &AuditList) -> String {
    let mut query = String::new();
    for (name, value) in [
        ("kind", &asked.kind),
        ("id", &asked.id),
        ("actor", &asked.actor),
        ("action", &asked.action),
        ("since", &asked.since),
        ("until", &asked.until),
    ] {
        if let Some(value) = value {
            query.push_str(&format!("&{name}={}", api::escape(value)));
        }
    }
    if asked.weakens {
        query.push_str("&weakens=true");
    }
    query
}

fn tabulate(records: &Value) -> String {
    let records = records.as_array().map_or(&[][..], Vec::as_slice);
    if records.is_empty() {
        return "No changes found.".to_owned();
    }
    let rows: Vec<Vec<String>> = records.iter().map(row).collect();
    let heading = [
        "SEQ", "TIME", "WHO", "ACTION", "OBJECT", "CHANGED", "WEAKENS",
    ];
    table::lay_out(&heading, &rows)
}

fn row(record: &Value) -> Vec<String> {
    let member = |name: &str| text(record, name).unwrap_or_default().to_owned();
    let changed = texts(record, "changed");
    // The empty pointer is the whole object (RFC 6901 §5).
    let changed = changed.iter().map(|pointer| match pointer.as_str() {
        "" => "all",
        pointer => pointer,
    });
    let changed: Vec<&str> = changed.collect();
    vec![
        record.get("seq").map(Value::to_string).unwrap_or_default(),
        member("time")
            .chars()
            .take(19)
            .collect::<String>()
            .replace('T', " "),
        member("actor"),
        member("action"),
        format!("{}/{}", member("kind"), member("id")),
        cut(&changed.join(", ")),
        texts(record, "weakens").join("; "),
    ]
}

fn verify(globals: &Globals) -> Result<String, Failed> {
    let format = Format::choose(globals.output.as_deref(), Shape::Text)?;
    let verdict = own::ask(globals, &Method::GET, "/portcullis/v1/audit/verify")?;
    let sentence = text(&verdict, "verdict").unwrap_or_default();
    if verdict.get("valid").and_then(Value::as_bool) == Some(true) {
        return Ok(format.show(&verdict, || own::flat(&verdict)));
    }
    if format == Format::Text {
        return Err(Failed::new(sentence));
    }
    print::out(format.show(&verdict, String::new).trim_end());
    Err(Failed::silent())
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    #[test]
    fn change_is_a_row() {
        let records = json!([
            {"seq": 12, "time": "2026-04-14T12:00:00.123Z", "actor": "admin", "action": "update",
             "kind": "ssl", "id": "a", "changed": ["/cert", "/key"], "weakens": ["no client check"]},
            {"seq": 1, "time": "2026-04-14T11:00:00.000Z", "actor": "ops", "action": "create",
             "kind": "route", "id": "r", "changed": [""], "weakens": []},
        ]);
        assert_eq!(
            tabulate(&records),
            "SEQ   TIME                  WHO     ACTION   OBJECT    CHANGED       WEAKENS\n\
             12    2026-04-14 12:00:00   admin   update   ssl/a     /cert, /key   no client check\n\
             1     2026-04-14 11:00:00   ops     create   route/r   all\n"
        );
        assert_eq!(tabulate(&json!([])), "No changes found.");
    }
}
