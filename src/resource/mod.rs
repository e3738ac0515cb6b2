//! Resources: what an operator configures, from document to typed value.
//!
//! Pure functions: no sockets, files or clock; the time is an argument. [`parse`] takes a complete
//! document in clear through three steps: its flavour's spelling (`flavour`), its schema
//! ([`schema`], with APISIX's sentences from `texts`), and what a schema cannot say (one file per
//! kind). What this version does not serve is refused, never accepted and dropped. Whether what a
//! resource refers to exists is asked elsewhere, with [`references()`].

use std::fmt;
use std::str::FromStr;

use serde_json::Value;
use zeroize::Zeroize;

use fault::{Faults, Verdict, Warning};
use secret::Secret;

mod balance;
mod envelope;
mod flavour;
mod members;
mod nodes;
mod pem;
mod references;
mod texts;
mod trust;
mod vars;

pub mod checks;
pub mod fault;
pub mod json;
pub mod patch;
pub mod plugins;
pub mod route;
pub mod schema;
pub mod secret;
pub mod service;
pub mod ssl;
pub mod upstream;

pub use envelope::{address_id, check_envelope, check_id, refuse_id, refuse_times, stamp, time};
pub use flavour::Flavour;
pub use members::integer;
pub use references::{missing_reference, references, still_used, wrong_ssl_type};
pub use texts::{escaped, shown};

/// A kind of resource of the Admin API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A server certificate with its names and client policy, or a client certificate.
    Ssl,
    /// Nodes with how to reach and trust them.
    Upstream,
    /// What several routes share.
    Service,
    /// A rule from request to upstream.
    Route,
    /// How to reach a secret manager.
    Secret,
}

impl Kind {
    /// Every kind, in the order in which references allow them to be created.
    pub const ALL: [Self; 5] = [
        Self::Secret,
        Self::Ssl,
        Self::Upstream,
        Self::Service,
        Self::Route,
    ];

    /// The word in paths, keys and file sections, e.g. `routes`.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Ssl => "ssls",
            Self::Upstream => "upstreams",
            Self::Service => "services",
            Self::Route => "routes",
            Self::Secret => "secrets",
        }
    }

    /// The word in messages, e.g. `route`.
    #[must_use]
    pub const fn singular(self) -> &'static str {
        match self {
            Self::Ssl => "ssl",
            Self::Upstream => "upstream",
            Self::Service => "service",
            Self::Route => "route",
            Self::Secret => "secret",
        }
    }

    /// The kind with this plural word.
    #[must_use]
    pub fn from_plural(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.plural() == word)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.singular())
    }
}

/// The id of a resource within its kind: 1–64 of `[a-zA-Z0-9-_.]`; a secret's has its manager in
/// front, `vault/1`. (APISIX Admin API, "id".)
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(std::sync::Arc<str>);

/// A text that is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id is 1 to 64 characters of a-z, A-Z, 0-9, '-', '_' and '.'")]
pub struct IdError;

impl Id {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id as shared text, for records that outlive the resource.
    #[must_use]
    pub fn shared(&self) -> std::sync::Arc<str> {
        self.0.clone()
    }
}

impl FromStr for Id {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let plain = |part: &str| {
            (1..=64).contains(&part.len())
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        let fits = match text.split_once('/') {
            None => plain(text),
            Some((manager, id)) => plain(manager) && plain(id),
        };
        if fits {
            Ok(Self(text.into()))
        } else {
            Err(IdError)
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A resource as the client wrote it: a JSON object with its order kept.
pub type Document = serde_json::Map<String, Value>;

/// A revision of the store: one global, increasing sequence, 1 for the first change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);
#[cfg(test)]
mod sample;

/// A typed resource.
#[derive(Clone, Debug)]
pub enum Resource {
    /// An ssl.
    Ssl(Box<ssl::Ssl>),
    /// A stand-alone upstream.
    Upstream(Box<upstream::Upstream>),
    /// A service.
    Service(service::Service),
    /// A route.
    Route(Box<route::Route>),
    /// A secret.
    Secret(Secret),
}

/// A resource with what its writer should know of.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The typed resource.
    pub resource: Resource,
    /// In the order of the checks; empty when there is nothing to say.
    pub warnings: Vec<Warning>,
}

/// Why a document is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// Someone writes it: what cannot work is refused.
    Write,
    /// It was accepted before: what only time has changed (an expired CA) is a warning, so that a
    /// restart serves what served before it.
    Load,
}

/// What a document is judged by, besides itself.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The spelling that is accepted.
    pub flavour: Flavour,
    /// Seconds since the epoch.
    pub now: i64,
    /// Whether the config names CAs for upstreams whose `tls` has none (`upstream.trust_file`).
    pub trust_file_configured: bool,
    /// Why it is judged.
    pub occasion: Occasion,
    /// Whether an ssl's own certificates and keys are read.
    pub pairs: Pairs,
}

/// Whether a document's own certificates and keys are read when it is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// They are, and must belong together.
    Read,
    /// They are taken as they lie: they were read when the document was accepted, and are again
    /// before anything is served with them.
    Taken,
}

impl Terms {
    /// For a document that someone writes.
    #[must_use]
    pub const fn write(flavour: Flavour, now: i64, trust_file_configured: bool) -> Self {
        Self {
            flavour,
            now,
            trust_file_configured,
            occasion: Occasion::Write,
            pairs: Pairs::Read,
        }
    }

    /// For a document of the store or a file: both flavours' spellings, and milder on dates.
    #[must_use]
    pub const fn load(now: i64, trust_file_configured: bool) -> Self {
        Self {
            flavour: Flavour::Api7,
            now,
            trust_file_configured,
            occasion: Occasion::Load,
            pairs: Pairs::Read,
        }
    }
}

/// Reads a complete document in clear, its keys unsealed, as the resource it describes.
///
/// `id` is the resource's; a secret's names its manager. Ids and times in the document are not
/// judged against it here ([`check_envelope`]).
///
/// # Errors
/// All faults: those of the schema in schema order, or those of the checks after it.
pub fn parse(kind: Kind, id: &Id, document: &Document, terms: &Terms) -> Result<Parsed, Faults> {
    let mut verdict = Verdict::default();
    let manager = manager(kind, id)?;
    let shape = flavour::unify(kind, id, document, terms.flavour, &mut verdict);
    let members = shape.members();
    if kind == Kind::Route {
        route::refuse_doubles(members, &mut verdict);
    }
    let mut faults = schema::check(kind, manager, shape.value());
    verdict.faults.append(&mut faults);
    // The checks after the schema rely on it: with faults of its own only they are told.
    let resource = if verdict.faults.iter().any(|fault| fault.words.is_schema()) {
        None
    } else {
        match kind {
            Kind::Ssl => ssl::read(members, terms, &mut verdict)
                .map(Box::new)
                .map(Resource::Ssl),
            Kind::Upstream => upstream::read(members, "", &[], terms, &mut verdict)
                .map(Box::new)
                .map(Resource::Upstream),
            Kind::Service => {
                let prefix = shape.path_prefix.clone();
                service::read(members, prefix, terms, &mut verdict).map(Resource::Service)
            }
            Kind::Route => route::read(members, terms, &mut verdict)
                .map(Box::new)
                .map(Resource::Route),
            Kind::Secret => {
                secret::read(manager, members, terms, &mut verdict).map(Resource::Secret)
            }
        }
    };
    shape.respell(&mut verdict);
    match resource {
        Some(resource) if verdict.faults.is_empty() => Ok(Parsed {
            resource,
            warnings: verdict.warnings,
        }),
        _ => Err(Faults(verdict.faults)),
    }
}

/// Judges a document by its schema alone, as `POST /schema/validate` does.
///
/// # Errors
/// All faults, in schema order.
pub fn check_schema(
    kind: Kind,
    id: &Id,
    document: &Document,
    flavour: Flavour,
) -> Result<(), Faults> {
    let mut verdict = Verdict::default();
    let manager = manager(kind, id)?;
    let shape = flavour::unify(kind, id, document, flavour, &mut verdict);
    verdict
        .faults
        .append(&mut schema::check(kind, manager, shape.value()));
    shape.respell(&mut verdict);
    if verdict.faults.is_empty() {
        Ok(())
    } else {
        Err(Faults(verdict.faults))
    }
}

/// The manager that a secret's id names, which must be one of ours; nothing for other kinds.
fn manager(kind: Kind, id: &Id) -> Result<&str, Faults> {
    let manager = id
        .as_str()
        .split_once('/')
        .map_or("", |(manager, _)| manager);
    if kind == Kind::Secret && schema::document(kind, manager).is_none() {
        let mut verdict = Verdict::default();
        let manager = shown(manager);
        verdict.refuse_as_apisix("/id", format!("invalid secret manager: {manager}"));
        return Err(Faults(verdict.faults));
    }
    Ok(manager)
}

/// Whether a text of a document stands for one that is kept elsewhere: `$secret://…`, or
/// `$env://…` in any case (APISIX, "Secret").
#[must_use]
pub fn is_reference(text: &str) -> bool {
    text.starts_with("$secret://")
        || text
            .get(..7)
            .is_some_and(|start| start.eq_ignore_ascii_case("$env://"))
}

/// A copy of a document that may hold keys, wiped when dropped.
struct Scratch(Value);

impl Drop for Scratch {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(members) => members.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::sample::{TERMS, judge, judge_as};
    use super::*;
    use crate::tls::sample::{self as pki, NOW};

    #[test]
    fn the_bodies_of_the_upstream_mtls_page_are_accepted() {
        let ca = pki::ca("Test CA");
        let us = pki::leaf(&ca, "api7-gateway", &[]);
        let service = json!({
            "name": "upstream-mtls",
            "upstream": {
                "type": "roundrobin",
                "scheme": "https",
                "pass_host": "rewrite",
                "upstream_host": "upstream.test.local",
                "nodes": [{"host": "192.0.2.10", "port": 8443, "weight": 1}],
                "tls": {
                    "client_cert": us.cert, "client_key": us.key_pem,
                    "verify": true, "ca_certs": [ca.cert]
                }
            }
        });
        let route =
            json!({"name": "upstream-mtls", "service_id": "upstream-mtls", "paths": ["/*"]});
        let mut without_identity = service.clone();
        let tls = without_identity
            .pointer_mut("/upstream/tls")
            .unwrap()
            .as_object_mut()
            .unwrap();
        tls.shift_remove("client_cert");
        tls.shift_remove("client_key");
        let terms = Terms::write(Flavour::Api7, NOW, false);
        for (kind, body) in [
            (Kind::Service, &service),
            (Kind::Route, &route),
            (Kind::Service, &without_identity),
        ] {
            let parsed = judge_as(kind, "upstream-mtls", body, &terms).unwrap();
            assert!(parsed.warnings.is_empty(), "{:?}", parsed.warnings);
        }
    }

    #[test]
    fn the_bodies_of_the_mtls_recipe_are_accepted() {
        let ca = pki::ca("ca");
        let web = pki::leaf(&ca, "api.example.com", &["api.example.com"]);
        let us = pki::leaf(&ca, "apisix", &[]);
        let ssl = json!({
            "id": "mtls-domain", "cert": web.cert, "key": web.key_pem,
            "snis": ["api.example.com"], "client": {"ca": ca.cert}
        });
        let inline = json!({
            "id": "secure-api", "uri": "/api/*", "host": "api.example.com",
            "upstream": {"type": "roundrobin", "nodes": {"backend:8080": 1}}
        });
        let upstream = json!({
            "id": "mtls-backend", "type": "roundrobin", "scheme": "https",
            "nodes": {"secure-backend:443": 1},
            "tls": {"client_cert": us.cert, "client_key": us.key_pem}
        });
        let route = json!({"id": "api", "uri": "/api/*", "upstream_id": "mtls-backend"});
        let secret = json!({
            "id": "vault/mtls-certs", "uri": "https://vault.example.com/v1/secret/data/mtls"
        });
        for (kind, body, warnings) in [
            (Kind::Ssl, ssl, vec![]),
            (Kind::Route, inline, vec![]),
            (Kind::Upstream, upstream, vec!["upstream_not_verified"]),
            (Kind::Route, route, vec![]),
            (Kind::Secret, secret, vec![]),
        ] {
            let id = body["id"].as_str().unwrap();
            check_envelope(kind, Some(id), body.as_object().unwrap()).unwrap();
            let parsed = judge_as(kind, id, &body, &TERMS).unwrap();
            let found: Vec<_> = parsed.warnings.iter().map(|warning| warning.code).collect();
            assert_eq!(found, warnings);
        }
    }

    #[test]
    fn the_schema_alone_asks_for_no_pem() {
        let junk = "x".repeat(128);
        let body = json!({"cert": junk, "key": junk, "sni": "a"});
        let id = "1".parse().unwrap();
        let document = body.as_object().unwrap();
        check_schema(Kind::Ssl, &id, document, Flavour::Apisix).unwrap();
        judge(Kind::Ssl, &body, &TERMS).unwrap_err();
        let paths = json!({"paths": ["/a"]});
        let faults = check_schema(
            Kind::Route,
            &id,
            paths.as_object().unwrap(),
            Flavour::Apisix,
        )
        .unwrap_err();
        assert!(
            faults
                .to_string()
                .starts_with("object matches none of the required")
        );
    }

    #[test]
    fn a_loaded_document_may_be_of_either_flavour() {
        let terms = Terms::load(NOW, false);
        judge(
            Kind::Service,
            &json!({"type": "http", "service_id": "1"}),
            &terms,
        )
        .unwrap();
        judge(Kind::Service, &json!({}), &terms).unwrap();
    }

    #[test]
    fn references_are_told_from_texts() {
        for (text, expected) in [
            ("$secret://vault/1/a/b", true),
            ("$env://X", true),
            ("$ENV://X", true),
            ("$SECRET://x", false),
            ("$env:/X", false),
            ("é$env://", false),
            ("$envé://", false),
        ] {
            assert_eq!(is_reference(text), expected, "{text}");
        }
    }

    /// Any JSON, with numbers no machine type holds.
    fn any_json() -> impl Strategy<Value = Value> {
        let number = r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,20})?(e[+-]?[0-9]{1,4})?";
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            number.prop_map(|text| serde_json::from_str(&text).unwrap_or(Value::Null)),
            any::<String>().prop_map(Value::from),
            r"(\$secret://|\$env://|\[|\*|/)?[a-z:.*\]]{0,140}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            let member = prop_oneof![any::<String>(), r"[a-z:.\[\]]{0,9}(:[0-9]{0,6})?"];
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::vec((member, inner), 0..5)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// Members of the kind's schema, each with any JSON or with a value that fits.
    fn any_document(kind: Kind) -> impl Strategy<Value = Value> {
        let schema = schema::document(kind, "vault").unwrap();
        let mut names: Vec<String> = schema["properties"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        names.extend([
            "paths".to_owned(),
            "service_id".to_owned(),
            "path_prefix".to_owned(),
            "strip_path_prefix".to_owned(),
        ]);
        let good = json!({
            "uri": "/a", "nodes": {"a:1": 1}, "upstream": {"nodes": []}, "service_id": "1",
            "cert": "$env://C", "key": "$env://K", "snis": ["a.com"], "scheme": "https",
            "tls": {"verify": true, "ca_certs": ["$env://C"]}, "pass_host": "rewrite"
        });
        let member = (proptest::sample::select(names), any::<bool>(), any_json()).prop_map(
            move |(name, fits, any)| {
                let value = good.get(&name).filter(|_| fits).cloned().unwrap_or(any);
                (name, value)
            },
        );
        proptest::collection::vec(member, 0..8)
            .prop_map(|members| Value::Object(members.into_iter().collect()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_document_makes_parsing_panic(
            documents in Kind::ALL.map(any_document),
            any in proptest::collection::vec((any::<String>(), any_json()), 0..4),
        ) {
            let any = Value::Object(any.into_iter().collect());
            for (kind, document) in Kind::ALL.into_iter().zip(&documents) {
                for body in [document, &any] {
                    for terms in [TERMS, Terms::load(NOW, true)] {
                        let _ = check_envelope(kind, None, body.as_object().unwrap());
                        match judge(kind, body, &terms) {
                            Ok(parsed) => {
                                let _ = references(&parsed.resource);
                            }
                            Err(faults) => {
                                prop_assert!(!faults.0.is_empty());
                                for fault in &faults.0 {
                                    prop_assert!(!fault.reason.chars().any(char::is_control));
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
