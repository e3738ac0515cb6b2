//! What only Portcullis has, under `/portcullis/v1`: its FIPS report, the state of secrets, and how
//! all of it is asked for.

use http::Method;
use serde_json::Value;

use super::api::{self, Api};
use super::args::Globals;
use super::failed::Failed;
use super::format::{Format, Shape};
use super::settings::Settings;
use super::table;
use crate::resource::escaped;

/// Asks for a path that only Portcullis has.
///
/// # Errors
/// What the server said; a path that it does not have is told in a sentence.
pub(super) fn ask(globals: &Globals, method: &Method, path: &str) -> Result<Value, Failed> {
    let settings = Settings::resolve(globals)?;
    api::run(async |network| {
        let api = network.api(&settings, globals.verbose)?;
        ask_over(&api, method, path).await
    })
}

/// As [`ask`], of a server that is asked for more.
///
/// # Errors
/// As [`ask`].
pub(super) async fn ask_over(api: &Api, method: &Method, path: &str) -> Result<Value, Failed> {
    let told = api.ask(method.clone(), path, None).await;
    told.map_err(|failed| match failed.status {
        Some(404) => absent(method, path),
        _ => failed,
    })
}

fn absent(method: &Method, path: &str) -> Failed {
    let path = path.split('?').next().unwrap_or(path);
    Failed::answered(
        404,
        format!("this server has no {method} {path}, which this command asks"),
    )
}

/// `a6 fips`.
///
/// # Errors
/// What the server said.
pub(super) fn fips(sign: bool, globals: &Globals) -> Result<String, Failed> {
    let format = Format::choose(globals.output.as_deref(), Shape::Text)?;
    let query = if sign { "?sign=true" } else { "" };
    let report = ask(
        globals,
        &Method::GET,
        &format!("/portcullis/v1/fips{query}"),
    )?;
    Ok(format.show(&report, || flat(&report)))
}

/// `a6 secret status`.
///
/// # Errors
/// What the server said.
pub(super) fn secrets(globals: &Globals) -> Result<String, Failed> {
    rows(globals, "/portcullis/v1/secrets", "No references found.")
}

/// A list of objects as a table of all their members.
fn rows(globals: &Globals, path: &str, none: &str) -> Result<String, Failed> {
    let format = Format::choose(globals.output.as_deref(), Shape::List)?;
    let answer = ask(globals, &Method::GET, path)?;
    let list = answer.get("list").cloned().unwrap_or(answer);
    Ok(format.show(&list, || tabulate(&list).unwrap_or_else(|| none.to_owned())))
}

/// `None` where there is no row.
fn tabulate(list: &Value) -> Option<String> {
    let list = list.as_array()?;
    let mut names: Vec<&str> = Vec::new();
    for members in list.iter().filter_map(Value::as_object) {
        for name in members.keys() {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
    }
    if names.is_empty() {
        return None;
    }
    let cell = |value: Option<&Value>| value.map(words).unwrap_or_default();
    let rows: Vec<Vec<String>> = list
        .iter()
        .map(|row| names.iter().map(|name| cell(row.get(name))).collect())
        .collect();
    let heading: Vec<String> = names.iter().map(|name| name.to_uppercase()).collect();
    let heading: Vec<&str> = heading.iter().map(String::as_str).collect();
    Some(table::lay_out(&heading, &rows))
}

fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Array(list) => list.iter().map(words).collect::<Vec<_>>().join(", "),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

/// Each leaf of an object on a line, by its path.
pub(super) fn flat(value: &Value) -> String {
    let mut text = String::new();
    flatten("", value, &mut text);
    text
}

fn flatten(path: &str, value: &Value, text: &mut String) {
    let below = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                flatten(&below(name), value, text);
            }
        }
        Value::Array(list) if list.iter().any(Value::is_object) => {
            for (position, value) in list.iter().enumerate() {
                flatten(&below(&position.to_string()), value, text);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            text.push_str(&format!("{path}: {}\n", escaped(&words(value), usize::MAX)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    #[test]
    fn report_is_a_line_for_each_fact() {
        let report = json!({"fips": "required", "module": {"version": "3.1.2", "probes": [{"a": 1}]},
            "providers": ["fips", "base"], "none": null});
        assert_eq!(
            flat(&report),
            "fips: required\nmodule.version: 3.1.2\nmodule.probes.0.a: 1\nproviders: fips, base\nnone: \n"
        );
    }

    #[test]
    fn list_is_a_table_of_all_members() {
        let list = json!([{"seq": 1, "who": "admin"}, {"seq": 2, "paths": ["/a", "/b"]}]);
        assert_eq!(
            tabulate(&list).unwrap(),
            "SEQ   WHO     PATHS\n1     admin\n2             /a, /b\n"
        );
        assert_eq!(tabulate(&json!([])), None);
    }

    #[test]
    fn what_a_server_does_not_have_is_named() {
        let told = absent(&Method::GET, "/portcullis/v1/audit?limit=1").to_string();
        assert!(told.starts_with("this server has no GET /portcullis/v1/audit, "));
    }
}
