//! The verbs of the five groups: create, update, get, list, delete, export, health.

use std::fs;

use http::Method;
use serde_json::{Map, Value};

use super::api::{self, Api, Network, Trust};
use super::args::{self, Delete, Export, Globals, Health, NamedList, Paging, Update};
use super::envelope::{Item, Page, id_text};
use super::failed::Failed;
use super::format::{Format, Shape};
use super::input::{self, Document};
use super::settings::Settings;
use super::usage::at_most_one;
use super::{table, terminal};
use crate::cli::print;
use crate::resource::Kind;

/// A verb with its arguments, whichever group it came from.
pub(super) enum Verb<'a> {
    /// `create [id] -f FILE`; only secrets take an id.
    Create(Option<&'a str>, &'a str),
    Update(&'a Update),
    Get(&'a [String]),
    List(List),
    Delete(Doomed<'a>),
    Export(&'a Export),
    Health(&'a Health),
}

/// What `list` narrows to.
#[derive(Default)]
pub(super) struct List {
    page: u64,
    page_size: u64,
    name: Option<String>,
    label: Option<String>,
    uri: Option<String>,
}

impl From<&Paging> for List {
    fn from(paging: &Paging) -> Self {
        Self {
            page: paging.page,
            page_size: paging.page_size,
            ..Self::default()
        }
    }
}

impl From<&NamedList> for List {
    fn from(named: &NamedList) -> Self {
        Self {
            name: named.name.clone(),
            label: named.label.clone(),
            ..Self::from(&named.paging)
        }
    }
}

impl From<&args::RouteList> for List {
    fn from(list: &args::RouteList) -> Self {
        Self {
            uri: list.uri.clone(),
            ..Self::from(&list.named)
        }
    }
}

/// What `delete` is to delete.
pub(super) struct Doomed<'a> {
    /// An id.
    pub(super) id: &'a [String],
    /// Everything.
    pub(super) all: bool,
    /// What has this label.
    pub(super) label: Option<&'a str>,
}

impl<'a> From<&'a Delete> for Doomed<'a> {
    fn from(delete: &'a Delete) -> Self {
        Self {
            id: &delete.id,
            all: delete.all,
            label: delete.label.as_deref(),
        }
    }
}

/// Runs a verb; the text is for standard output.
///
/// # Errors
/// What the server or the files said.
pub(super) async fn run(
    network: &Network,
    kind: Kind,
    verb: Verb<'_>,
    globals: &Globals,
) -> Result<String, Failed> {
    let settings = Settings::resolve(globals)?;
    let group = Group {
        kind,
        globals,
        network,
        settings: &settings,
        api: network.api(&settings, globals.verbose)?,
    };
    match verb {
        Verb::Create(id, file) => group.create(id, file).await,
        Verb::Update(update) => group.update(update).await,
        Verb::Get(ids) => group.get(ids).await,
        Verb::List(list) => group.list(&list).await,
        Verb::Delete(doomed) => group.delete(&doomed).await,
        Verb::Export(export) => group.export(export).await,
        Verb::Health(health) => group.health(health).await,
    }
}

/// One group at one server.
struct Group<'a> {
    kind: Kind,
    globals: &'a Globals,
    network: &'a Network,
    settings: &'a Settings,
    api: Api,
}

impl Group<'_> {
    fn format(&self, shape: Shape) -> Result<Format, Failed> {
        Format::choose(self.globals.output.as_deref(), shape)
    }

    async fn create(&self, id: Option<&str>, file: &str) -> Result<String, Failed> {
        let format = self.format(Shape::Value)?;
        let documents = objects(&input::read(file)?)?;
        if id.is_some() && documents.len() > 1 {
            return Err("an id was given, but the file has more than one document".into());
        }
        let mut written = Vec::new();
        for mut document in documents {
            let own = document.get("id").and_then(id_text);
            let id = id.map(str::to_owned).or(own);
            let (method, path) = match (&id, self.kind) {
                (Some(id), Kind::Secret) => {
                    // The path has it; APISIX refuses it in the body.
                    document.shift_remove("id");
                    (Method::PUT, Api::object_path(Kind::Secret, secret_id(id)?))
                }
                (None, Kind::Secret) => {
                    return Err(
                        "accepts 1 arg(s), received 0: name the secret as manager/id, or give \
                         its file an \"id\""
                            .into(),
                    );
                }
                (Some(id), _) => (Method::PUT, Api::object_path(self.kind, id)),
                (None, _) => (Method::POST, Api::path(&[self.kind.plural()])),
            };
            match self.write(method, &path, document, id).await {
                Ok(value) => written.push(value),
                Err(failed) => return Err(stopped(format, written, failed)),
            }
        }
        Ok(show(format, written))
    }

    async fn update(&self, update: &Update) -> Result<String, Failed> {
        let format = self.format(Shape::Value)?;
        let given = at_most_one(&update.id)?;
        let documents = objects(&input::read(&update.file)?)?;
        if given.is_some() && documents.len() > 1 {
            return Err("an id was given, but the file has more than one document".into());
        }
        let mut written = Vec::new();
        for mut document in documents {
            let own = document.shift_remove("id").as_ref().and_then(id_text);
            let id = match (given, own) {
                (Some(given), Some(own))
                    if own != given && !given.ends_with(&format!("/{own}")) =>
                {
                    return Err(Failed::new(format!(
                        "the id {given:?} was given, but the file is for {own:?}"
                    )));
                }
                (Some(given), _) => given.to_owned(),
                (None, Some(own)) => own,
                (None, None) => self.choose().await?,
            };
            if self.kind == Kind::Secret {
                secret_id(&id)?;
            }
            let path = Api::object_path(self.kind, &id);
            let method = if update.replace {
                Method::PUT
            } else {
                Method::PATCH
            };
            match self.write(method, &path, document, Some(id)).await {
                Ok(value) => written.push(value),
                Err(failed) => return Err(stopped(format, written, failed)),
            }
        }
        Ok(show(format, written))
    }

    /// Writes a document; with several, errors name the one that failed.
    async fn write(
        &self,
        method: Method,
        path: &str,
        document: Map<String, Value>,
        id: Option<String>,
    ) -> Result<Value, Failed> {
        let body = Value::Object(document);
        let written = self.api.write(method, path, &body).await;
        written.map_err(|failed| match (&failed.status, id) {
            (Some(404), _) | (None, _) | (_, None) => failed,
            (Some(_), Some(id)) => failed.at(format_args!("{} {id}", self.kind)),
        })
    }

    async fn get(&self, ids: &[String]) -> Result<String, Failed> {
        let format = self.format(Shape::Value)?;
        let id = self.one(ids).await?;
        let value = self.api.get(self.kind, &id).await?;
        Ok(format.show(&value, String::new))
    }

    async fn list(&self, list: &List) -> Result<String, Failed> {
        let format = self.format(Shape::List)?;
        let (page, size) = (list.page.to_string(), list.page_size.to_string());
        let mut query = vec![("page", page.as_str()), ("page_size", size.as_str())];
        query.extend(list.name.as_deref().map(|name| ("name", name)));
        let label = list.label.as_deref().map(split_label);
        query.extend(label.map(|(key, _)| ("label", key)));
        query.extend(list.uri.as_deref().map(|uri| ("uri", uri)));
        let Page { mut items, total } = self.api.page(self.kind, &query).await?;
        let total = u64::try_from(total).unwrap_or(u64::MAX);
        let pages = total.div_ceil(list.page_size.max(1));
        let page = list.page.max(1);
        if matches!(format, Format::Table) && page < pages {
            print::err(&format!(
                "note: page {page} of {pages}; --page {} shows the next one",
                page.saturating_add(1)
            ));
        }
        if let Some(label) = label {
            items.retain(|item| has_label(&item.value, label));
        }
        let values: Value = items.iter().map(|item| item.value.clone()).collect();
        Ok(format.show(&values, || table::of_items(self.kind, &items)))
    }

    async fn delete(&self, doomed: &Doomed<'_>) -> Result<String, Failed> {
        let is_named = !doomed.id.is_empty();
        match (doomed.all, doomed.label) {
            (true, Some(_)) => return Err("--all and --label are mutually exclusive".into()),
            (true, None) if is_named => {
                return Err("--all cannot be used with a specific ID".into());
            }
            (false, Some(_)) if is_named => {
                return Err("--label cannot be used with a specific ID".into());
            }
            (false, None) => return self.delete_one(doomed.id).await,
            (true, None) | (false, Some(_)) => {}
        }
        let label = doomed.label.map(split_label);
        let narrowed: Vec<(&str, &str)> = label.iter().map(|(key, _)| ("label", *key)).collect();
        let mut items = self.api.all(self.kind, &narrowed).await?;
        if let Some(label) = label {
            items.retain(|item| has_label(&item.value, label));
        }
        let plural = table::plural(self.kind);
        if items.is_empty() {
            print::err(&format!("No {plural} found."));
            return Ok(String::new());
        }
        let question = format!("Delete {} {plural}?", items.len());
        if self.is_declined(&question) {
            return Ok(String::new());
        }
        let mut progress = terminal::Progress::new("delete", items.len());
        for item in &items {
            let deleted = self.api.delete(self.kind, &item.id).await;
            deleted.map_err(|failed| failed.at(&item.id))?;
            progress.step();
        }
        Ok(format!("✓ {} {plural} deleted.", items.len()))
    }

    async fn delete_one(&self, ids: &[String]) -> Result<String, Failed> {
        let id = self.one(ids).await?;
        let title = title(self.kind);
        if self.is_declined(&format!("Delete {title} {id}?")) {
            return Ok(String::new());
        }
        self.api.delete(self.kind, &id).await?;
        Ok(format!("✓ {title} {id} deleted."))
    }

    /// Asks, where someone can answer; says so when the answer is no.
    fn is_declined(&self, question: &str) -> bool {
        let is_declined =
            !self.globals.force && terminal::is_asked() && !terminal::confirm(question);
        if is_declined {
            print::err("Aborted.");
        }
        is_declined
    }

    async fn export(&self, export: &Export) -> Result<String, Failed> {
        let format = self.format(Shape::File)?;
        let label = export.label.as_deref().map(split_label);
        let narrowed: Vec<(&str, &str)> = label.iter().map(|(key, _)| ("label", *key)).collect();
        let mut items = self.api.all(self.kind, &narrowed).await?;
        if let Some(label) = label {
            items.retain(|item| has_label(&item.value, label));
        }
        if items.is_empty() {
            print::err(&format!("No {} found.", table::plural(self.kind)));
            return Ok(String::new());
        }
        let values: Value = items
            .into_iter()
            .map(|mut item| {
                api::forget_times(&mut item.value);
                item.value
            })
            .collect();
        put(&format.show(&values, String::new), export.file.as_deref())
    }

    async fn health(&self, health: &Health) -> Result<String, Failed> {
        let format = self.format(Shape::List)?;
        let id = self.one(&health.id).await?;
        let control = control(&self.api, health.control_url.as_deref())?;
        let trust = Trust::of(self.settings)?;
        let client = self.network.client(control, None, &trust, api::LIMITS)?;
        let path = format!("/v1/healthcheck/upstreams/{}", api::escape(&id));
        let value = api::fetch(&client, &path).await?;
        let nodes = value.get("nodes").cloned().unwrap_or_else(|| value.clone());
        Ok(format.show(&value, || health_table(&nodes)))
    }

    /// The one id given, or the one chosen from a list.
    async fn one(&self, ids: &[String]) -> Result<String, Failed> {
        match at_most_one(ids)? {
            Some(id) if self.kind == Kind::Secret => secret_id(id).map(str::to_owned),
            Some(id) => Ok(id.to_owned()),
            None => self.choose().await,
        }
    }

    /// Has a person choose from what there is.
    async fn choose(&self) -> Result<String, Failed> {
        let missing = "id argument is required (or run interactively in a terminal)";
        if !terminal::is_asked() {
            return Err(missing.into());
        }
        let items = self.api.all(self.kind, &[]).await?;
        if items.is_empty() {
            return Err(Failed::new(format!(
                "No {} found.",
                table::plural(self.kind)
            )));
        }
        for (number, item) in items.iter().enumerate() {
            print::err(&format!("{:>4}  {}", number + 1, item.id));
        }
        let answer = terminal::ask("Number or id: ");
        chosen(&items, &answer).ok_or_else(|| Failed::new(format!("{answer:?} is none of these")))
    }
}

/// What a person's answer names: an id, else a number of the list.
fn chosen(items: &[Item], answer: &str) -> Option<String> {
    let by_id = items.iter().find(|item| item.id == answer);
    let by_number = || items.get(answer.parse::<usize>().ok()?.checked_sub(1)?);
    by_id.or_else(by_number).map(|item| item.id.clone())
}

/// How one of a kind is called in sentences.
const fn title(kind: Kind) -> &'static str {
    match kind {
        Kind::Ssl => "SSL certificate",
        Kind::Upstream => "Upstream",
        Kind::Service => "Service",
        Kind::Route => "Route",
        Kind::Secret => "Secret",
    }
}

/// The control API: the URL given, or port 9091 of the admin server.
pub(super) fn control(api: &Api, given: Option<&str>) -> Result<crate::net::http::Origin, Failed> {
    match given {
        Some(url) => api::origin(url),
        None => Ok(crate::net::http::Origin {
            is_tls: false,
            host: api.origin().host.clone(),
            port: 9091,
            path: String::new(),
        }),
    }
}

/// The objects of documents, with what `@path` stands for.
fn objects(documents: &[Document]) -> Result<Vec<Map<String, Value>>, Failed> {
    let object = |document: &Document| {
        let mut value = document.value.clone();
        document.follow(&mut value)?;
        if let Value::Object(object) = value {
            Ok(object)
        } else {
            Err("a document of the file is not an object".into())
        }
    };
    documents.iter().map(object).collect()
}

fn secret_id(id: &str) -> Result<&str, Failed> {
    match id.split_once('/') {
        Some((manager, name)) if !manager.is_empty() && !name.is_empty() => Ok(id),
        _ => Err(Failed::new(format!(
            "invalid secret id {id:?}: write manager/id, such as vault/{id}"
        ))),
    }
}

/// The same failure, after what was written before it is shown: it stays.
fn stopped(format: Format, written: Vec<Value>, failed: Failed) -> Failed {
    if !written.is_empty() {
        print::out(show(format, written).trim_end());
    }
    failed
}

/// One value as it is, several as a list.
fn show(format: Format, mut values: Vec<Value>) -> String {
    let value = if values.len() == 1 {
        values.remove(0)
    } else {
        Value::Array(values)
    };
    format.show(&value, String::new)
}

/// Writes to a file, or gives back the text for standard output.
pub(super) fn put(text: &str, file: Option<&str>) -> Result<String, Failed> {
    match file {
        None | Some("-") => Ok(text.to_owned()),
        Some(path) => {
            let text = format!("{}\n", text.trim_end_matches('\n'));
            fs::write(path, text)
                .map_err(|error| Failed::new(format!("failed to write {path}: {error}")))?;
            Ok(String::new())
        }
    }
}

/// `key=value`, or a key alone.
fn split_label(label: &str) -> (&str, Option<&str>) {
    match label.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (label, None),
    }
}

fn has_label(value: &Value, (key, wanted): (&str, Option<&str>)) -> bool {
    let found = value.get("labels").and_then(|labels| labels.get(key));
    match wanted {
        None => found.is_some(),
        Some(wanted) => found.and_then(Value::as_str) == Some(wanted),
    }
}

fn health_table(nodes: &Value) -> String {
    let rows: Vec<Vec<String>> = nodes
        .as_array()
        .into_iter()
        .flatten()
        .map(|node| {
            let host = table::text(node, "ip").or(table::text(node, "host"));
            let port = node.get("port").map(Value::to_string).unwrap_or_default();
            let counter = |name: &str| {
                let count = node.get("counter").and_then(|counter| counter.get(name));
                count.map_or_else(|| "0".to_owned(), Value::to_string)
            };
            vec![
                format!("{}:{port}", host.unwrap_or_default()),
                table::text(node, "status").unwrap_or("-").to_owned(),
                counter("success"),
                counter("http_failure"),
                counter("tcp_failure"),
                counter("timeout_failure"),
            ]
        })
        .collect();
    if rows.is_empty() {
        return "No health checks found.".to_owned();
    }
    let heading = [
        "NODE",
        "STATUS",
        "SUCCESS",
        "HTTP_FAIL",
        "TCP_FAIL",
        "TIMEOUT",
    ];
    table::lay_out(&heading, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    #[test]
    fn labels_are_compared_by_value_where_one_is_given() {
        let value = json!({"labels": {"env": "test"}});
        for (label, fits) in [
            ("env", true),
            ("env=test", true),
            ("env=prod", false),
            ("other", false),
            ("env=", false),
        ] {
            assert_eq!(has_label(&value, split_label(label)), fits, "{label}");
        }
    }

    #[test]
    fn secrets_are_named_with_their_manager() {
        assert_eq!(secret_id("vault/a"), Ok("vault/a"));
        for id in ["a", "/a", "vault/"] {
            let told = secret_id(id).unwrap_err().to_string();
            assert!(told.contains("manager/id"), "{told}");
        }
    }

    #[test]
    fn choice_is_an_id_or_a_number() {
        let item = |id: &str| Item {
            id: id.to_owned(),
            value: Value::Null,
        };
        let items = [item("a"), item("1")];
        for (answer, expected) in [
            ("a", Some("a")),
            ("1", Some("1")),
            ("2", Some("1")),
            ("0", None),
            ("9", None),
            ("", None),
        ] {
            assert_eq!(chosen(&items, answer).as_deref(), expected, "{answer}");
        }
    }

    #[test]
    fn health_of_nodes_is_a_table() {
        let nodes = json!([{"ip": "10.0.0.1", "port": 80, "status": "healthy",
            "counter": {"success": 3, "tcp_failure": 1}}]);
        let row = "10.0.0.1:80   healthy   3         0           1          0";
        assert_eq!(health_table(&nodes).lines().nth(1), Some(row));
    }
}
