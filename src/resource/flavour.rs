//! The two spellings of the Admin API, brought to one before the schema judges.
//!
//! `paths` is another name of a route's `uris` in both. API7 adds members to services and routes;
//! what they ask for and this version cannot do is refused. The document itself stays as it was
//! sent: only the copy that is judged changes.

use serde_json::Value;

use super::fault::Verdict;
use super::{Document, Id, Kind, Scratch, members};
use crate::matching::path_prefix::PathPrefix;

/// How a document is spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// Apache APISIX's Admin API v3.
    Apisix,
    /// API7 Gateway's. Accepts all that [`Flavour::Apisix`] accepts.
    Api7,
}

/// The members that only API7's services have.
const SERVICE_MEMBERS: [&str; 5] = [
    "service_id",
    "type",
    "path_prefix",
    "strip_path_prefix",
    "status",
];

/// The longest prefix of paths, as API7 has it.
const PREFIX_BYTES: usize = 4096;

impl Flavour {
    /// This flavour, or API7's where an accepted document has members that only API7 knows.
    ///
    /// Whoever changes a part of it need not speak the language it was written in.
    #[must_use]
    pub fn wide_enough_for(self, kind: Kind, document: &Document) -> Self {
        let own: &[&str] = match kind {
            Kind::Service => &SERVICE_MEMBERS,
            Kind::Route => &["route_id"],
            Kind::Ssl | Kind::Upstream | Kind::Secret => &[],
        };
        if own.iter().any(|member| document.contains_key(*member)) {
            Self::Api7
        } else {
            self
        }
    }
}

/// The copy that is judged, in APISIX's spelling.
pub(super) struct Shape {
    copy: Scratch,
    /// `uris` of the copy is `paths` of the document.
    has_paths: bool,
    /// `path_prefix` and `strip_path_prefix` of a service.
    pub(super) path_prefix: Option<PathPrefix>,
}

impl Shape {
    pub(super) fn value(&self) -> &Value {
        &self.copy.0
    }

    pub(super) fn members(&self) -> &Document {
        static NOTHING: std::sync::LazyLock<Document> = std::sync::LazyLock::new(Document::new);
        self.copy.0.as_object().unwrap_or(&NOTHING)
    }

    /// Puts the document's own spelling into what was found.
    pub(super) fn respell(&self, verdict: &mut Verdict) {
        if !self.has_paths {
            return;
        }
        let faults = verdict
            .faults
            .iter_mut()
            .map(|fault| (&mut fault.pointer, &mut fault.reason));
        let warnings = verdict
            .warnings
            .iter_mut()
            .map(|said| (&mut said.pointer, &mut said.text));
        for (pointer, reason) in faults.chain(warnings) {
            if let Some(rest) = pointer.strip_prefix("/uris") {
                *pointer = format!("/paths{rest}");
                *reason = reason.replacen("property \"uris\"", "property \"paths\"", 1);
            }
        }
    }
}

/// Copies a document into APISIX's spelling and judges what the schema does not know.
pub(super) fn unify(
    kind: Kind,
    id: &Id,
    document: &Document,
    flavour: Flavour,
    verdict: &mut Verdict,
) -> Shape {
    let mut copy = document.clone();
    let mut has_paths = false;
    let mut path_prefix = None;
    if kind == Kind::Route
        && let Some(paths) = copy.shift_remove("paths")
    {
        if copy.contains_key("uri") || copy.contains_key("uris") {
            verdict.refuse("/paths", "only one of uri, uris and paths is allowed");
        } else {
            has_paths = true;
            copy.insert("uris".to_owned(), paths);
        }
    }
    if flavour == Flavour::Api7 {
        match kind {
            Kind::Service => path_prefix = take_service_members(id, &mut copy, verdict),
            Kind::Route => take_own_id("route_id", id, &mut copy, verdict),
            Kind::Ssl | Kind::Upstream | Kind::Secret => {}
        }
    }
    Shape {
        copy: Scratch(Value::Object(copy)),
        has_paths,
        path_prefix,
    }
}

/// The members that API7's services have and APISIX's do not. Returns what they put before paths.
fn take_service_members(id: &Id, copy: &mut Document, verdict: &mut Verdict) -> Option<PathPrefix> {
    take_own_id("service_id", id, copy, verdict);
    match copy
        .shift_remove("type")
        .as_ref()
        .map(|value| value.as_str())
    {
        None | Some(Some("http")) => {}
        Some(Some("stream")) => verdict.refuse_unsupported("/type", "service type stream"),
        Some(_) => verdict.refuse_shape(
            "/type",
            "property \"type\" validation failed: matches none of the enum values",
        ),
    }
    let prefix = take_path_prefix(copy, verdict);
    match copy.shift_remove("status").as_ref().map(members::integer) {
        None | Some(Some(1)) => {}
        Some(Some(0)) => verdict.refuse_unsupported("/status", "a service with status 0"),
        Some(_) => verdict.refuse_shape(
            "/status",
            "property \"status\" validation failed: matches none of the enum values",
        ),
    }
    prefix
}

fn take_path_prefix(copy: &mut Document, verdict: &mut Verdict) -> Option<PathPrefix> {
    // Without a prefix there is nothing to strip, whatever it says.
    let is_stripped = match copy.shift_remove("strip_path_prefix") {
        None => true,
        Some(Value::Bool(is_stripped)) => is_stripped,
        Some(_) => {
            verdict.refuse_shape(
                "/strip_path_prefix",
                "property \"strip_path_prefix\" validation failed: wrong type: expected boolean",
            );
            return None;
        }
    };
    let prefix = copy.shift_remove("path_prefix")?;
    let Some(text) = prefix.as_str() else {
        verdict.refuse_shape(
            "/path_prefix",
            "property \"path_prefix\" validation failed: wrong type: expected string",
        );
        return None;
    };
    if text.len() > PREFIX_BYTES {
        let reason = format!(
            "property \"path_prefix\" validation failed: string too long, expected at most \
             {PREFIX_BYTES}, got {}",
            text.len()
        );
        verdict.refuse_shape("/path_prefix", reason);
        return None;
    }
    PathPrefix::parse(text, is_stripped).unwrap_or_else(|error| {
        verdict.refuse("/path_prefix", format!("invalid path_prefix: {error}"));
        None
    })
}

/// ADC repeats a resource's id under the name of its kind.
fn take_own_id(member: &str, id: &Id, copy: &mut Document, verdict: &mut Verdict) {
    let Some(own) = copy.shift_remove(member) else {
        return;
    };
    if members::id(&own).as_ref() != Some(id) {
        verdict.refuse(
            format!("/{member}"),
            format!("{member} is not the id of this resource"),
        );
    }
}
