//! The resources under `/apisix/admin`, in both flavours.
//!
//! Paths, methods and statuses of APISIX's Admin API v3; what API7 adds to these paths is here,
//! where it shares them (its own paths are in `api7`). What a document means is control's affair.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::call::{self, Call};
use super::configs;
use super::judge;
use super::list;
use super::reply::{self, Answer, Refusal};
use super::request::Query;
use super::target::{Depth, Target};
use crate::control::{Amend, Delete, Flavour, Post, Put, Shown, WriteError, Written};
use crate::resource::patch::Patch;
use crate::resource::{self, Document, Id, Kind, Revision, plugins, schema};
use crate::secrets::custody::Opened;

/// The shortest `ttl`, in seconds: what the store counts in.
const TTL_LEAST: f64 = 0.001;
/// The longest `ttl`, in seconds. (etcd's `MaxLeaseTTL`.)
const TTL_MOST: f64 = 9_000_000_000.0;

/// Answers a request whose path under `/apisix/admin` is these words.
pub(super) async fn answer(call: &mut Call<'_>, words: &[&str]) -> Result<Answer, Refusal> {
    let method = &call.head.method;
    let target = Target::parse(words)?;
    if call.state.served.is_some() && target.is_resource() && method != Method::GET {
        return Err(Refusal::Standalone);
    }
    match (target, method) {
        (Target::Collection(kind), &Method::GET) => show_all(call, kind).await,
        (Target::Manager, &Method::GET) => show_all(call, Kind::Secret).await,
        (Target::Object(kind, id), &Method::GET) => show_one(call, kind, &id).await,
        (Target::Collection(kind), &Method::PUT) => put(call, kind, None).await,
        (Target::Object(kind, id), &Method::PUT) => put(call, kind, Some(&id)).await,
        (Target::Object(kind, id), &Method::DELETE) => delete(call, kind, &id).await,
        (Target::ServiceUpstreams(id), &Method::GET) => show_service_upstreams(call, id).await,
        (Target::Plugins, &Method::GET) => list_plugins(&call.head.query),
        (Target::PluginSchemas(name), &Method::GET) => plugin_schemas(&call.head.query, name),
        // They are parts of the program: those that run are the newest there are.
        (Target::PluginsReload, &Method::PUT) => Ok(Answer::text(
            StatusCode::OK,
            "text/plain",
            "done".to_owned(),
        )),
        (Target::PluginsReload, &(Method::GET | Method::POST | Method::DELETE | Method::PATCH)) => {
            Err(Refusal::ReloadIsPut(method.clone()))
        }
        (Target::Schema(word), &Method::GET) => judge::show_schema(word),
        (Target::SchemaCheck(word), &Method::POST) => judge::check_schema(call, word).await,
        (Target::Configuration, &Method::GET | &Method::HEAD | &Method::PUT) => {
            configs::answer(call).await
        }
        (Target::ConfigurationCheck, &Method::POST) => judge::check_configuration(call).await,
        (Target::NotOffered(word, depth), _) => not_offered(call, word, depth),
        (Target::Collection(Kind::Secret) | Target::Manager, &Method::PATCH) => {
            Err(Refusal::NoSecretId)
        }
        (Target::Collection(kind), &Method::DELETE | &Method::PATCH) => Err(Refusal::NoId(kind)),
        (Target::Manager, &Method::PUT | &Method::DELETE) => Err(Refusal::NoId(Kind::Secret)),
        (
            Target::Manager
            | Target::Collection(Kind::Secret)
            | Target::Object(Kind::Secret, _)
            | Target::Node(Kind::Secret, ..),
            &Method::POST,
        ) => Err(Refusal::PostSecret),
        (Target::Collection(kind), &Method::POST) => post(call, kind, None).await,
        (Target::Object(kind, id), &Method::POST) => post(call, kind, Some(&id)).await,
        (Target::Node(kind, id, _), &Method::POST) => post(call, kind, Some(&id)).await,
        (Target::Object(kind, id), &Method::PATCH) => amend(call, kind, &id, &[]).await,
        (Target::Node(kind, id, path), &Method::PATCH) => amend(call, kind, &id, path).await,
        (Target::ServiceUpstream, &Method::GET) => Err(Refusal::NoObject),
        (Target::ServiceUpstreams(_) | Target::ServiceUpstream, _) => Err(Refusal::NotOffered(
            "further upstreams of a service".to_owned(),
        )),
        (
            Target::Collection(_)
            | Target::Manager
            | Target::Object(..)
            | Target::Node(..)
            | Target::Plugins
            | Target::PluginsReload
            | Target::PluginSchemas(_)
            | Target::Schema(_)
            | Target::SchemaCheck(_)
            | Target::Configuration
            | Target::ConfigurationCheck
            | Target::Nowhere,
            _,
        ) => Err(Refusal::NoPath),
    }
}

async fn show_all(call: &Call<'_>, kind: Kind) -> Result<Answer, Refusal> {
    let flavour = call.flavour;
    let query = call.head.query.clone();
    // A pattern may be large.
    let asked = call::compute(move || Ok(list::select(kind, flavour, &query)?)).await?;
    let listed = call.state.control.list(kind, call.show(), asked).await?;
    call::compute(move || {
        let items = listed.items.into_iter().map(|shown| match flavour {
            Flavour::Apisix => Value::Object(with_indexes(shown, flavour)),
            Flavour::Api7 => Value::Object(value(shown, flavour)),
        });
        let list = json!({ "list": items.collect::<Value>(), "total": listed.total });
        Ok(Answer::ok(list).written())
    })
    .await
}

async fn show_one(call: &Call<'_>, kind: Kind, id: &str) -> Result<Answer, Refusal> {
    let id = existing(id)?;
    let shown = call.state.control.find(kind, &id, call.show()).await?;
    let shown = shown.ok_or(Refusal::NoObject)?;
    let (revision, expires) = (shown.modified, shown.expires);
    let answer = Answer::ok(Value::Object(with_indexes(shown, call.flavour)));
    Ok(answer.with_revision(revision).with_expiry(expires))
}

async fn put(call: &mut Call<'_>, kind: Kind, id: Option<&str>) -> Result<Answer, Refusal> {
    let body = call.read_body().await?;
    let ttl = ttl(call, kind)?;
    let mut document = Opened::new(kind, object(body.ok_or(Refusal::NoConfiguration)?)?);
    let is_addressed = id.is_some();
    let id = resource::check_envelope(kind, id, &document)?;
    if is_addressed {
        resource::address_id(&mut document, &id);
    }
    let put = call
        .state
        .control
        .put(Put {
            kind,
            id,
            document,
            flavour: call.flavour,
            actor: call.actor.clone(),
            if_match: if_match(call)?,
            allow_weaker: call.allows_weaker(),
            ttl,
        })
        .await;
    count(call, kind, &put);
    Ok(written_answer(put?, call.flavour))
}

async fn post(call: &mut Call<'_>, kind: Kind, id: Option<&str>) -> Result<Answer, Refusal> {
    let body = call.read_body().await?;
    let ttl = ttl(call, kind)?;
    let document = Opened::new(kind, object(body.ok_or(Refusal::NoConfiguration)?)?);
    resource::refuse_id(kind, id, &document)?;
    resource::refuse_times(&document)?;
    let post = call
        .state
        .control
        .post(Post {
            kind,
            document,
            flavour: call.flavour,
            actor: call.actor.clone(),
            if_match: if_match(call)?,
            allow_weaker: call.allows_weaker(),
            ttl,
        })
        .await;
    count(call, kind, &post);
    Ok(written_answer(post?, call.flavour))
}

async fn amend(
    call: &mut Call<'_>,
    kind: Kind,
    id: &str,
    path: &[&str],
) -> Result<Answer, Refusal> {
    let body = call.read_body().await?;
    let ttl = ttl(call, kind)?;
    let body = body.ok_or(Refusal::NoNewConfiguration)?;
    let patch = patch(call.flavour, path, body)?;
    let amend = call
        .state
        .control
        .amend(Amend {
            kind,
            id: existing(id)?,
            patch,
            flavour: call.flavour,
            actor: call.actor.clone(),
            if_match: if_match(call)?,
            allow_weaker: call.allows_weaker(),
            ttl,
        })
        .await;
    count(call, kind, &amend);
    Ok(written_answer(amend?, call.flavour))
}

/// What a body asks for: APISIX's merge, or its node behind a sub-path; for API7, whose PATCH is
/// JSON Patch, a list of operations too.
fn patch(flavour: Flavour, path: &[&str], body: Value) -> Result<Patch, Refusal> {
    match (path, flavour, body) {
        ([], _, Value::Object(members)) => Ok(Patch::merge(members)),
        ([], Flavour::Api7, Value::Array(list)) => {
            Patch::operations(list).map_err(|error| WriteError::from(error).into())
        }
        ([], ..) => Err(Refusal::NotAPatch),
        (path, _, value) => {
            let path = path.iter().map(|name| (*name).to_owned()).collect();
            Ok(Patch::node(path, value))
        }
    }
}

async fn delete(call: &Call<'_>, kind: Kind, id: &str) -> Result<Answer, Refusal> {
    let id = existing(id)?;
    let delete = call
        .state
        .control
        .delete(Delete {
            kind,
            id: id.clone(),
            actor: call.actor.clone(),
            force: call.head.query.find("force") == Some("true"),
            cascade: kind == Kind::Service && call.flavour == Flavour::Api7,
            if_match: if_match(call)?,
            allow_weaker: call.allows_weaker(),
        })
        .await;
    count(call, kind, &delete);
    let deleted = delete?;
    // Clients decode `deleted` as a string.
    let body = json!({ "key": reply::key(kind, &id), "deleted": "1" });
    Ok(Answer::ok(body).with_warnings(&deleted.warnings))
}

/// Counts what became of a write.
fn count<T>(call: &Call<'_>, kind: Kind, outcome: &Result<T, WriteError>) {
    let outcome = match outcome {
        Ok(_) => "accepted",
        Err(WriteError::Store(_) | WriteError::Internal) => "failed",
        Err(
            WriteError::Invalid(_)
            | WriteError::Patch(_)
            | WriteError::NotFound
            | WriteError::Conflict
            | WriteError::PreconditionFailed
            | WriteError::StillUsed { .. }
            | WriteError::Weaker(_),
        ) => "refused",
    };
    call.state.metrics.write(kind.plural(), outcome);
}

/// A service has the one upstream that it embeds, so the list is empty.
async fn show_service_upstreams(call: &Call<'_>, id: &str) -> Result<Answer, Refusal> {
    let id = existing(id)?;
    let service = call
        .state
        .control
        .find(Kind::Service, &id, call.show())
        .await?;
    service.map(|_| empty_list()).ok_or(Refusal::NoObject)
}

/// Reads find nothing; writes are refused, never accepted and dropped.
fn not_offered(call: &Call<'_>, word: &str, depth: Depth) -> Result<Answer, Refusal> {
    match (word, call.flavour, &call.head.method, depth) {
        ("stream_routes", Flavour::Apisix, ..) => Err(Refusal::NoStreams),
        ("plugin_metadata", Flavour::Api7, &Method::GET, Depth::Collection) => {
            Ok(Answer::ok(json!({ "value": {}, "list": [], "total": 0 })))
        }
        (_, _, &Method::GET, Depth::Collection) => Ok(empty_list()),
        (_, _, &Method::GET, Depth::Object) => Err(Refusal::NoObject),
        _ => Err(Refusal::NotOffered(word.to_owned())),
    }
}

/// The names of the plugins of a subsystem. (APISIX, `admin/init.lua`.)
fn list_plugins(query: &Query) -> Result<Answer, Refusal> {
    match query.find("subsystem").unwrap_or("http") {
        "http" => Ok(Answer::ok(json!(plugins::NAMES))),
        "stream" => Ok(Answer::ok(json!([]))),
        _ => Err(Refusal::NoListOfSubsystem),
    }
}

/// The schema of a plugin, or of all with what APISIX tells beside it. (APISIX, `admin/plugins.lua`.)
fn plugin_schemas(query: &Query, name: Option<&str>) -> Result<Answer, Refusal> {
    let subsystem = query.find("subsystem").unwrap_or("http");
    if !["http", "stream"].contains(&subsystem) {
        return Err(Refusal::NoSubsystem(subsystem.to_owned()));
    }
    // All are of the `http` subsystem.
    let is_http = subsystem == "http";
    let answer = match name {
        None if query.find("all") == Some("true") => {
            Some(if is_http { judge::plugins() } else { json!({}) })
        }
        None => None,
        Some(name) => schema::plugin(name).filter(|_| is_http).cloned(),
    };
    let unknown = || Refusal::NoPlugin(subsystem.to_owned());
    answer.map(Answer::ok).ok_or_else(unknown)
}

fn empty_list() -> Answer {
    Answer::ok(json!({ "list": [], "total": 0 }))
}

/// The id of an object that may exist: there is nothing at what is no id.
fn existing(id: &str) -> Result<Id, Refusal> {
    id.parse().map_err(|_no_id| Refusal::NoObject)
}

/// A document must be an object.
pub(super) fn object(body: Value) -> Result<Document, Refusal> {
    let name = reply::lua_type(&body);
    if let Value::Object(document) = body {
        Ok(document)
    } else {
        Err(Refusal::NotAnObject(name))
    }
}

/// `?ttl=`: after how many seconds the object is deleted. Never on an ssl: one that vanishes would
/// open its names or close them, unasked.
fn ttl(call: &Call<'_>, kind: Kind) -> Result<Option<Duration>, Refusal> {
    let Some(text) = call.head.query.find("ttl") else {
        return Ok(None);
    };
    let seconds: f64 = text
        .trim()
        .parse()
        .map_err(|_no_number| Refusal::TtlNotANumber)?;
    if kind == Kind::Ssl {
        return Err(Refusal::TtlOnSsl);
    }
    let ttl = Some(seconds).filter(|seconds| (TTL_LEAST..=TTL_MOST).contains(seconds));
    let ttl = ttl.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    ttl.map(Some).ok_or(Refusal::TtlOutOfRange)
}

/// The revision of `If-Match`, an addition of ours. `If-None-Match` is no condition that is left
/// out without a word. (RFC 9110 §13.1)
fn if_match(call: &Call<'_>) -> Result<Option<Revision>, Refusal> {
    if call.head.headers.contains_key(http::header::IF_NONE_MATCH) {
        return Err(Refusal::IfNoneMatch);
    }
    if !call.head.headers.contains_key(http::header::IF_MATCH) {
        return Ok(None);
    }
    let tag = call
        .head
        .header("if-match")
        .ok_or(Refusal::BadIfMatch)?
        .trim();
    let number = tag
        .strip_prefix('"')
        .and_then(|tag| tag.strip_suffix('"'))
        .unwrap_or(tag);
    number
        .parse()
        .map(|number| Some(Revision(number)))
        .map_err(|_no_revision| Refusal::BadIfMatch)
}

fn written_answer(written: Written, flavour: Flavour) -> Answer {
    let Written {
        created,
        shown,
        warnings,
    } = written;
    let status = if created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let (revision, expires) = (shown.modified, shown.expires);
    let mut body = reply::object([("key", reply::key(shown.kind, &shown.id).into())]);
    body.insert("value".to_owned(), Value::Object(value(shown, flavour)));
    if flavour == Flavour::Api7 && !warnings.is_empty() {
        body.insert(
            "warning_msg".to_owned(),
            reply::warning_msg(&warnings).into(),
        );
    }
    Answer::json(status, Value::Object(body))
        .with_revision(revision)
        .with_expiry(expires)
        .with_warnings(&warnings)
}

/// An object in its envelope.
fn with_indexes(shown: Shown, flavour: Flavour) -> Map<String, Value> {
    let (created, modified) = (shown.created.0, shown.modified.0);
    reply::object([
        ("key", reply::key(shown.kind, &shown.id).into()),
        ("value", Value::Object(value(shown, flavour))),
        ("createdIndex", created.into()),
        ("modifiedIndex", modified.into()),
    ])
}

/// An object as it was sent. API7's services say their type: ADC attaches no routes otherwise.
fn value(shown: Shown, flavour: Flavour) -> Document {
    let mut document = shown.document;
    if shown.kind == Kind::Service && flavour == Flavour::Api7 && !document.contains_key("type") {
        document.insert("type".to_owned(), "http".into());
    }
    document
}

#[cfg(test)]
mod tests;
