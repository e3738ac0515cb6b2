//! `a6 config sync`: creates and updates in the order of references, deletes in the reverse.
//!
//! Every step is a whole object, so that what was interrupted is finished by running it again.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use serde_json::Value;

use super::super::api::Api;
use super::super::args::{Globals, Sync};
use super::super::envelope::Item;
use super::super::failed::Failed;
use super::super::terminal::{self, Progress};
use super::file::Declared;
use super::plan::{Plan, Section};
use super::{Remote, SECTIONS, note_credentials};
use crate::cli::print;
use crate::resource::Kind;

/// Requests on their way at once.
const CONCURRENT: usize = 8;
/// Where nobody can be asked, fewer deletions than this need no `--yes`.
const UNATTENDED: usize = 10;
/// How long a deletion waits for what refers to it to be gone.
const RETRIES: [Duration; 5] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Create,
    Update,
    Delete,
}

/// Reads the server, compares, and makes it the same; the text is for standard output.
///
/// # Errors
/// The first refusal; what was done until then is told, and stays.
pub(super) async fn run(
    api: &Api,
    declared: &Declared,
    sync: &Sync,
    globals: &Globals,
) -> Result<String, Failed> {
    let remote = Remote::read(api).await?;
    let plan = Plan::new(declared, &remote);
    note_credentials(&plan);
    if sync.dry_run {
        return Ok(plan.text(sync.delete));
    }
    let deleted = if sync.delete { plan.deleted() } else { 0 };
    if !sync.yes && !globals.force && !may_delete(deleted, remote.len())? {
        print::err("Aborted.");
        return Ok(String::new());
    }
    let work = Work {
        api,
        done: HashMap::new(),
        progress: Progress::new("sync", plan.steps(sync.delete)),
    };
    work.all(&plan, sync.delete).await
}

/// Asks before more than a third of what the server has is deleted.
fn may_delete(deleted: usize, total: usize) -> Result<bool, Failed> {
    if deleted.saturating_mul(3) <= total {
        return Ok(true);
    }
    if terminal::is_asked() {
        let question = format!(
            "Delete {deleted} of the {total} objects that the server has, as the file does not have them?"
        );
        return Ok(terminal::confirm(&question));
    }
    if deleted < UNATTENDED {
        return Ok(true);
    }
    Err(Failed::new(format!(
        "nothing was changed: this would delete {deleted} of the {total} objects that the server \
         has; is it the right file? --yes says so, --delete=false deletes nothing"
    )))
}

impl Plan {
    fn steps(&self, deletes: bool) -> usize {
        let count = |section: &Section| {
            let deleted = if deletes { section.delete.len() } else { 0 };
            section.create.len() + section.update.len() + deleted
        };
        let sections = Kind::ALL.into_iter().filter_map(|kind| self.of(kind));
        sections.map(count).sum()
    }
}

struct Work<'a> {
    api: &'a Api,
    done: HashMap<(Kind, Step), usize>,
    progress: Progress,
}

impl Work<'_> {
    async fn all(mut self, plan: &Plan, deletes: bool) -> Result<String, Failed> {
        let mut steps: Vec<(Kind, Step, &[Item])> = Vec::new();
        let sections = || {
            Kind::ALL
                .into_iter()
                .filter_map(|kind| Some((kind, plan.of(kind)?)))
        };
        steps.extend(sections().map(|(kind, it)| (kind, Step::Create, it.create.as_slice())));
        steps.extend(sections().map(|(kind, it)| (kind, Step::Update, it.update.as_slice())));
        if deletes {
            let doomed = sections().map(|(kind, it)| (kind, Step::Delete, it.delete.as_slice()));
            let doomed: Vec<_> = doomed.collect();
            steps.extend(doomed.into_iter().rev());
        }
        for (kind, step, items) in steps {
            if let Err(failed) = self.step(kind, step, items).await {
                drop(self.progress);
                print::err(summary("Sync stopped, done so far:", &self.done).trim_end());
                return Err(failed);
            }
        }
        Ok(summary("Sync completed:", &self.done))
    }

    /// Does the same to all these objects, several at once; after an error no new one is begun.
    async fn step(&mut self, kind: Kind, step: Step, items: &[Item]) -> Result<(), Failed> {
        let is_over = Cell::new(false);
        let api = self.api;
        let mut outcomes = stream::iter(items)
            .map(|item| {
                let is_over = &is_over;
                async move {
                    if is_over.get() {
                        return None;
                    }
                    let outcome = match step {
                        Step::Create | Step::Update => put(api, kind, item).await,
                        Step::Delete => delete(api, kind, item).await.map(|()| Vec::new()),
                    };
                    is_over.set(is_over.get() || outcome.is_err());
                    Some(outcome)
                }
            })
            .buffer_unordered(CONCURRENT);
        let mut first = None;
        while let Some(outcome) = outcomes.next().await {
            match outcome {
                Some(Ok(warnings)) => {
                    for warning in warnings {
                        self.progress.tell(&warning);
                    }
                    *self.done.entry((kind, step)).or_default() += 1;
                    self.progress.step();
                }
                Some(Err(failed)) => first = first.or(Some(failed)),
                None => {}
            }
        }
        first.map_or(Ok(()), Err)
    }
}

/// Writes an object; gives the warnings about it.
async fn put(api: &Api, kind: Kind, item: &Item) -> Result<Vec<String>, Failed> {
    let mut body = item.value.clone();
    if let (Kind::Secret, Value::Object(members)) = (kind, &mut body) {
        members.shift_remove("id");
    }
    let path = Api::object_path(kind, &item.id);
    let warnings = api.put_one_of_many(&path, &body).await;
    let warnings = warnings
        .map_err(|failed| at(kind, item, failed))?
        .into_iter();
    Ok(warnings
        .map(|warning| format!("warning: {kind} {}: {warning}", item.id))
        .collect())
}

async fn delete(api: &Api, kind: Kind, item: &Item) -> Result<(), Failed> {
    let mut pauses = RETRIES.into_iter();
    loop {
        match api.delete(kind, &item.id).await {
            Ok(()) => return Ok(()),
            // Someone else was faster.
            Err(failed) if failed.status == Some(404) => return Ok(()),
            Err(failed) => {
                let is_used =
                    failed.status == Some(400) && failed.to_string().contains("still using it");
                match pauses.next().filter(|_| is_used) {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return Err(at(kind, item, failed)),
                }
            }
        }
    }
}

fn at(kind: Kind, item: &Item, failed: Failed) -> Failed {
    failed.at(format_args!("{kind} {}", item.id))
}

fn summary(heading: &str, done: &HashMap<(Kind, Step), usize>) -> String {
    let mut text = format!("{heading}\n");
    for (kind, name) in SECTIONS {
        let count = |step| done.get(&(kind, step)).copied().unwrap_or(0);
        let _ = writeln!(
            text,
            "{name}: created={} updated={} deleted={}",
            count(Step::Create),
            count(Step::Update),
            count(Step::Delete)
        );
    }
    text
}
