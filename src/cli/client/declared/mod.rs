//! `a6 config`: the configuration as one file.
//!
//! Objects are free-form: no member is known here but those that hold ids, names, certificates and
//! keys, and none is dropped. A private key is compared by the digest of its public part, which is
//! what the server shows of it.

mod compare;
mod file;
mod plan;
mod sync;
mod validate;

use futures_util::future::try_join_all;
use serde_json::{Map, Value};

use self::file::Declared;
use self::plan::Plan;
use super::api::{self, Api};
use super::args::{ConfigVerb, Dump, Globals};
use super::envelope::Item;
use super::failed::Failed;
use super::format::{Format, Shape};
use super::resources::put;
use super::settings::Settings;
use crate::cli::print;
use crate::resource::Kind;

/// The sections in the order of reports, with their names there.
const SECTIONS: [(Kind, &str); 5] = [
    (Kind::Upstream, "upstreams"),
    (Kind::Service, "services"),
    (Kind::Ssl, "ssl"),
    (Kind::Secret, "secrets"),
    (Kind::Route, "routes"),
];
/// The sections in the order of a dump.
const DUMPED: [Kind; 5] = [
    Kind::Route,
    Kind::Service,
    Kind::Upstream,
    Kind::Ssl,
    Kind::Secret,
];

/// What a server has, per kind, ordered by id.
struct Remote(Vec<(Kind, Vec<Item>)>);

impl Remote {
    /// A section that the server does not have is empty, as in the public tool; but a server that
    /// has none of them is no Admin API, and a dump of it would pass for a backup.
    async fn read(api: &Api) -> Result<Self, Failed> {
        let kinds = Kind::ALL.into_iter().map(async |kind| {
            let read = match api.all(kind, &[]).await {
                Err(failed) if !matches!(failed.status, Some(400 | 404)) => return Err(failed),
                read => read,
            };
            Ok((kind, read))
        });
        let mut sections = Vec::new();
        let mut absent = Vec::new();
        for (kind, read) in try_join_all(kinds).await? {
            match read {
                Ok(mut items) => {
                    items.iter_mut().for_each(|item| tidy(kind, item));
                    sections.push((kind, items));
                }
                Err(failed) => absent.push(failed),
            }
        }
        match absent.pop().filter(|_| sections.is_empty()) {
            Some(failed) if failed.status == Some(404) => Err(Failed::new(format!(
                "{} has none of the sections; is it an Admin API, and the URL what stands before \
                 /apisix/admin?",
                api.origin()
            ))),
            Some(failed) => Err(failed),
            None => Ok(Self(sections)),
        }
    }

    fn of(&self, kind: Kind) -> &[Item] {
        let found = self.0.iter().find(|(of, _)| *of == kind);
        found.map_or(&[], |(_, items)| items)
    }

    fn len(&self) -> usize {
        self.0.iter().map(|(_, items)| items.len()).sum()
    }
}

/// An object as a file has it: without times, with its whole id, without what API7's envelope adds.
fn tidy(kind: Kind, item: &mut Item) {
    api::forget_times(&mut item.value);
    if let Value::Object(members) = &mut item.value {
        if kind == Kind::Service && members.get("type").and_then(Value::as_str) == Some("http") {
            members.shift_remove("type");
        }
        members.insert("id".to_owned(), item.id.as_str().into());
    }
}

/// Runs a verb; the text is for standard output.
///
/// # Errors
/// What files and server said; silent where the output of `diff` says it all.
pub(super) fn run(verb: &ConfigVerb, globals: &Globals) -> Result<String, Failed> {
    match verb {
        ConfigVerb::Validate(declaration) => {
            checked(&declaration.file)?;
            Ok("Config is valid".to_owned())
        }
        ConfigVerb::Diff(declaration) => {
            let format = Format::choose(globals.output.as_deref(), Shape::Text)?;
            let declared = checked(&declaration.file)?;
            let plan = at_server(globals, async |api| {
                Ok(Plan::new(&declared, &Remote::read(api).await?))
            })?;
            note_credentials(&plan);
            let text = format.show(&plan.to_json(), || plan.text(true));
            if plan.is_empty() {
                return Ok(text);
            }
            print::out(text.trim_end());
            Err(Failed::silent())
        }
        ConfigVerb::Sync(sync) => {
            let declared = checked(&sync.declaration.file)?;
            at_server(globals, async |api| {
                sync::run(api, &declared, sync, globals).await
            })
        }
        ConfigVerb::Dump(dump) => {
            let format = Format::choose(globals.output.as_deref(), Shape::File)?;
            let remote = at_server(globals, Remote::read)?;
            write_dump(remote, dump, format)
        }
    }
}

fn at_server<T>(
    globals: &Globals,
    work: impl AsyncFnOnce(&Api) -> Result<T, Failed>,
) -> Result<T, Failed> {
    let settings = Settings::resolve(globals)?;
    api::run(async |network| work(&network.api(&settings, globals.verbose)?).await)
}

/// Reads and validates a file; warnings go to standard error.
fn checked(file: &str) -> Result<Declared, Failed> {
    let (declared, mut faults) = Declared::read(file)?;
    let found = validate::check(&declared, api::now());
    faults.extend(found.faults);
    if !faults.is_empty() {
        let lines = faults.iter().map(|fault| format!("\n- {fault}"));
        return Err(Failed::new(format!(
            "config validation failed:{}",
            lines.collect::<String>()
        )));
    }
    for warning in found.warnings {
        print::err(&format!("warning: {warning}"));
    }
    Ok(declared)
}

/// Says why an object that nobody changed is an update all the same.
fn note_credentials(plan: &Plan) {
    let count = plan.not_comparable();
    if count > 0 {
        print::err(&format!(
            "note: {count} of the updates hold credentials in clear, which cannot be compared with what \
             the server keeps to itself: they are sent each time, unless the file has a reference \
             ($env://…) or what `config dump` writes in their place"
        ));
    }
}

fn write_dump(remote: Remote, dump: &Dump, format: Format) -> Result<String, Failed> {
    let mut withheld = 0;
    let mut root = Map::new();
    root.insert("version".to_owned(), "1".into());
    let mut sections = remote.0;
    for kind in DUMPED {
        let found = sections.iter_mut().find(|(of, _)| *of == kind);
        let items = found.map(|(_, items)| std::mem::take(items));
        let items = items.unwrap_or_default();
        if items.is_empty() {
            continue;
        }
        let name = if kind == Kind::Ssl && dump.compat {
            "ssl"
        } else {
            kind.plural()
        };
        let values: Vec<Value> = items.into_iter().map(|item| item.value).collect();
        let counts = values.iter().map(|it| compare::count_withheld(kind, it));
        withheld += counts.sum::<usize>();
        root.insert(name.to_owned(), values.into());
    }
    if withheld > 0 {
        print::err(&format!(
            "note: {withheld} private keys and credentials are withheld; the file restores them \
             only where they are stored"
        ));
    }
    put(
        &format.show(&Value::Object(root), String::new),
        dump.file.as_deref(),
    )
}
