//! `/apisix/admin/configs`: all that is served where a file says what is, read and put as a whole.
//!
//! APISIX, standalone mode by API (`admin/standalone.lua`). What is put is written to the file before
//! it is served, so that the next start has it; APISIX keeps it in memory. Keys are shown as
//! placeholders, which a PUT takes for what they stand for.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{HeaderName, HeaderValue};
use http::{Method, StatusCode};
use serde_json::{Map, Value};
use serde_yaml_ng::Value as Yaml;

use super::call::{self, Call};
use super::judge;
use super::reply::{Answer, Refusal};
use crate::control::{Declaring, Show, Shown, WriteError};
use crate::resource::{Id, Kind};
use crate::store::file::{self, About, Note};
use crate::store::{Selection, StoreError};

const X_DIGEST: HeaderName = HeaderName::from_static("x-digest");
const X_LAST_MODIFIED: HeaderName = HeaderName::from_static("x-last-modified");

/// A file that says what is served.
#[derive(Debug)]
pub struct Served {
    path: PathBuf,
    now: Mutex<Note>,
}

impl Served {
    /// This file; nothing of it is served yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            now: Mutex::default(),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is told of it, to be set by who has another one served; nobody else has meanwhile.
    /// Blocks until then.
    pub fn take_turn(&self) -> MutexGuard<'_, Note> {
        // Set in one step.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers GET, HEAD and PUT.
pub(super) async fn answer(call: &mut Call<'_>) -> Result<Answer, Refusal> {
    let served = call.state.served.clone().ok_or(Refusal::NoPath)?;
    match call.head.method {
        Method::PUT => put(call, served).await,
        Method::HEAD => {
            let about = call::compute(move || Ok(served.take_turn().about.clone())).await?;
            Ok(with_notes(Answer::empty(StatusCode::OK), &about))
        }
        _ => show(call, &served).await,
    }
}

async fn show(call: &Call<'_>, served: &Arc<Served>) -> Result<Answer, Refusal> {
    let mut items = Vec::new();
    for kind in Kind::ALL {
        items.push((kind, all(call, kind).await?));
    }
    let accept = call.head.header("accept").unwrap_or_default();
    let is_yaml = accept.starts_with("application/yaml");
    let served = Arc::clone(served);
    call::compute(move || {
        let note = served.take_turn().clone();
        let whole = whole(items, &note);
        let answer = if is_yaml {
            let text = serde_yaml_ng::to_string(&yaml(Value::Object(whole)));
            let text = text.map_err(|error| {
                tracing::error!(%error, "admin: the configuration could not be written as YAML");
                Refusal::Internal
            })?;
            Answer::text(StatusCode::OK, "application/yaml", text)
        } else {
            Answer::ok(Value::Object(whole)).written()
        };
        Ok(with_notes(answer, &note.about))
    })
    .await
}

/// All objects of a kind, with placeholders, by id.
async fn all(call: &Call<'_>, kind: Kind) -> Result<Vec<Shown>, Refusal> {
    let control = &call.state.control;
    let listed = control.list(kind, Show::Placeholders, Selection::default());
    Ok(listed.await?.items)
}

/// Everything, as APISIX words it: sections that are not empty, their versions, the notes.
fn whole(items: Vec<(Kind, Vec<Shown>)>, note: &Note) -> Map<String, Value> {
    let mut whole = Map::new();
    for (kind, mut all) in items {
        // As they were declared.
        all.sort_by_key(|shown| shown.created);
        let list = all.into_iter().map(|shown| {
            let mut document = shown.document;
            document.shift_remove("create_time");
            document.shift_remove("update_time");
            if let Some(index) = note.indexes.get(&(kind, shown.id)) {
                document.insert(file::MODIFIED_INDEX.to_owned(), (*index).into());
            }
            Value::Object(document)
        });
        let list: Vec<Value> = list.collect();
        if !list.is_empty() {
            whole.insert(kind.plural().to_owned(), list.into());
        }
    }
    for section in sections() {
        let version = note.about.version(section);
        whole.insert(file::version_of(section), version.into());
    }
    if let Some(digest) = &note.about.digest {
        whole.insert(file::DIGEST.to_owned(), digest.as_str().into());
    }
    if let Some(time) = note.about.last_modified {
        whole.insert(file::LAST_MODIFIED.to_owned(), time.into());
    }
    whole
}

/// Every section that has a version.
fn sections() -> impl Iterator<Item = &'static str> {
    let ours = Kind::ALL.into_iter().map(Kind::plural);
    ours.chain(file::NOT_OFFERED)
}

fn with_notes(mut answer: Answer, about: &About) -> Answer {
    let digest = about.digest.as_deref().map(HeaderValue::from_str);
    if let Some(Ok(digest)) = digest {
        answer.headers.insert(X_DIGEST, digest);
    }
    if let Some(time) = about.last_modified {
        answer
            .headers
            .insert(X_LAST_MODIFIED, HeaderValue::from(time));
    }
    answer
}

async fn put(call: &mut Call<'_>, served: Arc<Served>) -> Result<Answer, Refusal> {
    let digest = call.head.header(X_DIGEST.as_str());
    let digest = digest.filter(|digest| !digest.is_empty());
    let digest = digest
        .ok_or_else(|| refuse("missing digest header"))?
        .to_owned();
    let mut sections = judge::read_configuration(call).await?;
    let now = {
        let served = served.clone();
        call::compute(move || Ok(served.take_turn().clone())).await?
    };
    if now.about.digest.as_ref() == Some(&digest) {
        return Ok(with_notes(
            Answer::empty(StatusCode::NO_CONTENT),
            &now.about,
        ));
    }
    sections.shift_remove(file::DIGEST);
    sections.shift_remove(file::LAST_MODIFIED);
    let is_variable = |text: &str| text.contains("${{");
    if is_variable(&digest)
        || sections
            .iter()
            .any(|(name, value)| file::has_variable(value) || is_variable(name))
    {
        return Err(refuse(
            "`${{` stands for a variable of the gateway's environment in its file; write the value, or \
             a reference such as `$env://NAME`",
        ));
    }
    let about = next(&now.about, &sections, digest)?;
    keep_sections(call, &now, &about, &mut sections).await?;
    judge::refuse_faulty(call, &sections).await?;
    keep_items(call, &now, &mut sections).await?;
    let mut declared = file::declared(sections).map_err(|error| refuse(&error.to_string()))?;
    declared.about = about;
    let (control, actor) = (call.state.control.clone(), call.actor.clone());
    let (allow_weaker, is_now) = (call.allows_weaker(), now);
    call::compute(move || {
        let mut now = served.take_turn();
        if *now != is_now {
            // What it was judged by is not served any more.
            return Err(WriteError::Conflict.into());
        }
        let about = &declared.about;
        let keep = |items: &[file::Item]| {
            file::write(&served.path, about, items).map_err(|source| StoreError::Io {
                action: "write",
                path: served.path.clone(),
                source,
            })
        };
        let declaring = Declaring {
            actor: &actor,
            allow_weaker,
            keep: Some(&keep),
        };
        let (note, items) = (declared.note(), declared.items);
        let adopted = control.adopt(items, &declaring)?;
        *now = note;
        tracing::info!(
            path = %served.path.display(),
            changed = adopted.changed,
            revision = control.revision().0,
            actor = %actor.name,
            request_id = %actor.request_id,
            "a configuration was put, and is written to the file"
        );
        for finding in adopted.findings {
            tracing::warn!(
                kind = %finding.kind, id = %finding.id, pointer = %finding.pointer, "{}", finding.text
            );
        }
        Ok(with_notes(Answer::empty(StatusCode::ACCEPTED), &now.about))
    })
    .await
}

fn refuse(text: &str) -> Refusal {
    Refusal::Configuration {
        text: text.to_owned(),
        hint: None,
    }
}

/// What is told of a configuration that comes after this one: a section's version is the one that is
/// given, which must not be less, or the next.
fn next(now: &About, given: &Map<String, Value>, digest: String) -> Result<About, Refusal> {
    let mut next = About {
        digest: Some(digest),
        last_modified: Some(seconds()),
        ..About::default()
    };
    for section in sections() {
        let (name, before) = (file::version_of(section), now.version(section));
        let version = match given.get(&name) {
            None => before.saturating_add(1),
            Some(value @ Value::Number(number)) => match file::whole(value) {
                Some(version) if version >= before => version,
                None if number.as_f64().is_some_and(|number| number >= 0.0) => {
                    let text = format!("{name} must be a whole number below 9007199254740992");
                    return Err(refuse(&text));
                }
                // One below zero is none that was given before.
                Some(_) | None => {
                    let text = format!("{name} must be greater than or equal to ({before})");
                    return Err(refuse(&text));
                }
            },
            Some(_) => return Err(refuse(&format!("{name} must be a number"))),
        };
        next.versions.insert(section.to_owned(), version);
    }
    Ok(next)
}

/// Puts in what is served of each section whose version stays: what is given of it does not count.
async fn keep_sections(
    call: &Call<'_>,
    now: &Note,
    next: &About,
    sections: &mut Map<String, Value>,
) -> Result<(), Refusal> {
    for kind in Kind::ALL {
        let section = kind.plural();
        let is_given = sections.contains_key(&file::version_of(section));
        if !is_given || next.version(section) != now.about.version(section) {
            continue;
        }
        let all = all(call, kind).await?;
        let kept = whole(vec![(kind, all)], now).shift_remove(section);
        match kept {
            Some(kept) => sections.insert(section.to_owned(), kept),
            None => sections.shift_remove(section),
        };
    }
    Ok(())
}

/// Puts in what is served of each item whose `modifiedIndex` stays: it says that nothing changed, and
/// what else is given does not count. (APISIX, `core/config_yaml.lua`.)
async fn keep_items(
    call: &Call<'_>,
    now: &Note,
    sections: &mut Map<String, Value>,
) -> Result<(), Refusal> {
    for kind in Kind::ALL {
        let Some(Value::Array(items)) = sections.get_mut(kind.plural()) else {
            continue;
        };
        let stays = |item: &Value| {
            let index = item.get(file::MODIFIED_INDEX)?.as_u64()?;
            let id = id_of(item)?;
            (now.indexes.get(&(kind, id.clone())) == Some(&index)).then_some(id)
        };
        if !items.iter().any(|item| stays(item).is_some()) {
            continue;
        }
        let all = all(call, kind).await?;
        let served = whole(vec![(kind, all)], now).shift_remove(kind.plural());
        let Some(Value::Array(served)) = served else {
            continue;
        };
        let served = served.into_iter();
        let mut served: HashMap<Id, Value> = served
            .filter_map(|item| Some((id_of(&item)?, item)))
            .collect();
        for item in items {
            if let Some(kept) = stays(item).and_then(|id| served.remove(&id)) {
                *item = kept;
            }
        }
    }
    Ok(())
}

/// The id that an item says.
fn id_of(item: &Value) -> Option<Id> {
    let id = item.get("id")?;
    let text = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
    text.parse().ok()
}

fn seconds() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}

/// The same as YAML has it.
fn yaml(value: Value) -> Yaml {
    match value {
        Value::Null => Yaml::Null,
        Value::Bool(truth) => Yaml::Bool(truth),
        Value::Number(number) => {
            let whole = number
                .as_u64()
                .map(Yaml::from)
                .or_else(|| number.as_i64().map(Yaml::from));
            let number = whole.or_else(|| number.as_f64().map(Yaml::from));
            number.unwrap_or(Yaml::Null)
        }
        Value::String(text) => Yaml::String(text),
        Value::Array(list) => list.into_iter().map(yaml).collect(),
        Value::Object(members) => members
            .into_iter()
            .map(|(name, member)| (Yaml::String(name), yaml(member)))
            .collect::<serde_yaml_ng::Mapping>()
            .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::admin::testing::{KEY, Room, state};
    use crate::admin::{Admin, Listener};

    #[tokio::test]
    async fn digest_and_versions_that_no_file_can_say_are_refused_as_the_clients_fault() {
        let folder = tempfile::tempdir().unwrap();
        let served = Served::new(&folder.path().join("apisix.yaml"));
        let room = Room(Arc::new(Admin {
            served: Some(Arc::new(served)),
            ..state()
        }));
        let whole = "routes_conf_version must be a whole number below 9007199254740992";
        let less = "routes_conf_version must be greater than or equal to (3)";
        let variable = "`${{` stands for a variable";
        for (digest, version, status, text) in [
            ("${{HOME}}", "3", 400, variable),
            ("{{}}$", "3", 202, ""),
            ("b", "3.0", 202, ""),
            ("c", "1e30", 400, whole),
            ("c", "3.5", 400, whole),
            ("c", "2.0", 400, less),
            ("c", "-0.5", 400, less),
            ("c", "4e0", 202, ""),
        ] {
            let headers = [("x-api-key", KEY), ("x-digest", digest)];
            let body = format!("{{\"routes_conf_version\": {version}}}");
            let path = "/apisix/admin/configs";
            let told = room
                .ask_with(Listener::Http9180, "PUT", path, &headers, &body)
                .await;
            assert_eq!(told.status, status, "{digest} {version}: {}", told.text);
            assert!(told.text.contains(text), "{}", told.text);
        }
    }
}
