//! `a6 context`: which server, with which key.

use serde_json::{Map, Value, json};

use super::args::{ContextVerb, Globals};
use super::failed::Failed;
use super::format::{Format, Shape};
use super::settings::Contexts;
use super::usage::exactly_one;
use super::{api, table, terminal};
use crate::cli::print;

/// Runs a verb; the text is for standard output.
///
/// # Errors
/// Names that are taken or not there, a file that cannot be read or written.
pub(super) fn run(verb: &ContextVerb, globals: &Globals) -> Result<String, Failed> {
    match verb {
        ContextVerb::Create(names) => create(exactly_one(&names.name)?, globals),
        ContextVerb::Use(names) => switch(exactly_one(&names.name)?),
        ContextVerb::List => list(globals),
        ContextVerb::Current => {
            let contexts = Contexts::load()?;
            let current = contexts
                .current()
                .ok_or("no current context configured; use \"a6 context create\" to add one")?;
            Ok(current.to_owned())
        }
        ContextVerb::Delete(names) => delete(exactly_one(&names.name)?, globals),
    }
}

fn create(name: &str, globals: &Globals) -> Result<String, Failed> {
    let server = globals
        .server
        .as_deref()
        .ok_or("required flag \"server\" not set")?;
    api::origin(server)?;
    let mut members = Map::new();
    members.insert("server".to_owned(), server.into());
    if let Some(key) = &globals.api_key {
        members.insert("api-key".to_owned(), key.as_str().into());
    }
    let files = [
        ("ca-cert", &globals.ca_cert),
        ("client-cert", &globals.client_cert),
        ("client-key", &globals.client_key),
    ];
    for (member, path) in files {
        if let Some(path) = path {
            // The context is used from other folders too.
            let path = std::path::absolute(path)
                .map_err(|error| Failed::new(format!("{}: {error}", path.display())))?;
            members.insert(member.to_owned(), path.display().to_string().into());
        }
    }
    if globals.insecure {
        members.insert("insecure".to_owned(), true.into());
    }
    let mut contexts = Contexts::load()?;
    let is_current = contexts.add(name, members)?;
    contexts.save()?;
    let mut text = format!("✓ Context {name:?} created and saved.");
    if is_current {
        text.push_str(&format!("\n✓ Context {name:?} set as current context."));
    }
    Ok(text)
}

fn switch(name: &str) -> Result<String, Failed> {
    let mut contexts = Contexts::load()?;
    contexts.choose(name)?;
    contexts.save()?;
    Ok(format!("✓ Switched to context {name:?}."))
}

fn list(globals: &Globals) -> Result<String, Failed> {
    let format = Format::choose(globals.output.as_deref(), Shape::List)?;
    let contexts = Contexts::load()?;
    let current = contexts.current();
    let all: Vec<(&str, &str, bool)> = contexts
        .all()
        .map(|(name, server)| (name, server, Some(name) == current))
        .collect();
    if all.is_empty() {
        return Ok("No contexts configured. Use \"a6 context create\" to add one.".to_owned());
    }
    let values: Value = all
        .iter()
        .map(|(name, server, current)| json!({"name": name, "server": server, "current": current}))
        .collect();
    Ok(format.show(&values, || {
        let rows: Vec<Vec<String>> = all
            .iter()
            .map(|(name, server, is_current)| {
                let mark = if *is_current { "*" } else { "" };
                vec![(*name).to_owned(), (*server).to_owned(), mark.to_owned()]
            })
            .collect();
        table::lay_out(&["NAME", "SERVER", "CURRENT"], &rows)
    }))
}

fn delete(name: &str, globals: &Globals) -> Result<String, Failed> {
    let mut contexts = Contexts::load()?;
    let is_current = contexts.current() == Some(name);
    if is_current && !globals.force && terminal::is_asked() {
        let question = format!("Delete the current context {name:?}?");
        if !terminal::confirm(&question) {
            print::err("Aborted.");
            return Ok(String::new());
        }
    }
    contexts.remove(name)?;
    contexts.save()?;
    Ok(format!("✓ Context {name:?} deleted."))
}
