//! Answers: their envelopes, and the one map from every refusal to status and body.
//!
//! APISIX Admin API v3: compact JSON and one newline. Sentences are fixed; nothing here quotes a
//! body, a key, a path or an address of ours. The log, not the peer, gets causes.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG, HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Map, Value, json};

use super::attempts::TooMany;
use super::auth::AuthError;
use super::list::ListError;
use super::request::{BodyError, PathError};
use crate::control::WriteError;
use crate::resource::fault::{Faults, Warning};
use crate::resource::{Id, Kind, Revision, shown};
use crate::store::StoreError;

/// The header that carries warnings, one per field line: code, blank, sentence.
const WARNING: HeaderName = HeaderName::from_static("x-portcullis-warning");
/// The header that says when an object expires; APISIX tells nowhere.
const EXPIRES: HeaderName = HeaderName::from_static("x-portcullis-expires");
/// The member that says what APISIX's words in `error_msg` leave open.
pub(super) const HINT: &str = "hint";
/// The media type of most answers.
const JSON: &str = "application/json";
/// How many bytes of a warning go into its header.
const WARNING_BYTES: usize = 512;
/// How many warnings go into header fields and into one text.
const WARNINGS_MAX: usize = 16;
/// How many faults go into the log.
const LOGGED_FAULTS: usize = 20;

/// An answer before it is bytes.
#[derive(Debug)]
pub(super) struct Answer {
    /// Its status.
    pub(super) status: StatusCode,
    /// Its header fields beyond the content type.
    pub(super) headers: HeaderMap,
    /// What it says.
    pub(super) content: Content,
}

/// What an answer says.
#[derive(Debug, PartialEq)]
pub(super) enum Content {
    /// Nothing.
    Nothing,
    /// JSON, to be written compactly with a newline.
    Json(Value),
    /// Text as it is.
    Text {
        /// Its content type.
        media: &'static str,
        /// The text.
        text: String,
    },
}

impl Answer {
    fn new(status: StatusCode, content: Content) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            content,
        }
    }

    /// No body.
    pub(super) fn empty(status: StatusCode) -> Self {
        Self::new(status, Content::Nothing)
    }

    /// A JSON body.
    pub(super) fn json(status: StatusCode, value: Value) -> Self {
        Self::new(status, Content::Json(value))
    }

    /// A JSON body with status 200.
    pub(super) fn ok(value: Value) -> Self {
        Self::json(StatusCode::OK, value)
    }

    /// A text of this media type.
    pub(super) fn text(status: StatusCode, media: &'static str, text: String) -> Self {
        Self::new(status, Content::Text { media, text })
    }

    /// `{"error_msg": …}`.
    pub(super) fn error(status: StatusCode, text: &str) -> Self {
        Self::json(status, json!({ "error_msg": text }))
    }

    /// `{"error_msg": …}` for a document's faults, with what its words leave open as `hint`.
    pub(super) fn faulty(faults: &Faults) -> Self {
        Self::error(StatusCode::BAD_REQUEST, &faults.message()).with_hint(faults.hint())
    }

    /// With a `hint` behind the other members, where there is one.
    pub(super) fn with_hint(mut self, hint: Option<String>) -> Self {
        if let (Content::Json(Value::Object(members)), Some(hint)) = (&mut self.content, hint) {
            members.insert(HINT.to_owned(), hint.into());
        }
        self
    }

    /// With the revision as `ETag`, for a later `If-Match`.
    pub(super) fn with_revision(mut self, revision: Revision) -> Self {
        if let Ok(value) = HeaderValue::try_from(format!("\"{}\"", revision.0)) {
            self.headers.insert(ETAG, value);
        }
        self
    }

    /// With when the object expires, if it does: seconds since 1970-01-01 UTC, as times in documents,
    /// and like them no sooner than that.
    pub(super) fn with_expiry(mut self, expires_ms: Option<u64>) -> Self {
        if let Some(expires) = expires_ms {
            let seconds = expires.div_ceil(1000);
            self.headers.insert(EXPIRES, HeaderValue::from(seconds));
        }
        self
    }

    /// With its warnings, a header field each; a client refuses too many, so that the rest are
    /// counted. `value` is what was stored, so they are not in it.
    pub(super) fn with_warnings(mut self, warnings: &[Warning]) -> Self {
        let shown = warnings.iter().take(WARNINGS_MAX).map(header_text);
        let more = warnings.len().saturating_sub(WARNINGS_MAX);
        let more = (more > 0).then(|| format!("more_warnings / and {more} more"));
        for text in shown.chain(more) {
            if let Ok(value) = HeaderValue::try_from(text) {
                self.headers.append(WARNING, value);
            }
        }
        self
    }

    /// With its JSON as text: the work of writing a long one is done here.
    pub(super) fn written(mut self) -> Self {
        if let Content::Json(value) = &self.content {
            self.content = Content::Text {
                media: JSON,
                text: format!("{value}\n"),
            };
        }
        self
    }

    /// The answer as warp sends it.
    pub(super) fn into_response(self) -> warp::reply::Response {
        let (media, body) = match self.content {
            Content::Nothing => (None, Bytes::new()),
            Content::Json(value) => (Some(JSON), format!("{value}\n").into()),
            Content::Text { media, text } => (Some(media), text.into()),
        };
        let mut response = warp::reply::Response::new(body.into());
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        if let Some(media) = media {
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static(media));
        }
        response
    }
}

/// A warning as visible ASCII, cut.
fn header_text(warning: &Warning) -> String {
    let pointer = if warning.pointer.is_empty() {
        "/"
    } else {
        &warning.pointer
    };
    format!("{} {pointer} {}", warning.code, warning.text)
        .chars()
        .map(|c| {
            if c == ' ' || c.is_ascii_graphic() {
                c
            } else {
                '?'
            }
        })
        .take(WARNING_BYTES)
        .collect()
}

/// The key of an object in replies, e.g. `/apisix/routes/1`.
pub(super) fn key(kind: Kind, id: &Id) -> String {
    format!("/apisix/{}/{id}", kind.plural())
}

/// A peer's text as it may be repeated ([`shown`]), in quotation marks.
pub(super) fn quote(text: &str) -> String {
    format!("\"{}\"", shown(text))
}

/// Why a request is not answered with what it asks for.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// Not let in.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// An address that is in no network of this key of the configuration.
    #[error("requests{} are not accepted here: that is in no network of `{key}`", of(.ip))]
    NotAllowed {
        /// Where the request came from, where that is known.
        ip: Option<IpAddr>,
        /// E.g. `admin.https.allow_admin`.
        key: &'static str,
    },
    /// Too many wrong keys.
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// The path cannot be read.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The body cannot be read.
    #[error("invalid request body: {0}")]
    Body(#[from] BodyError),
    /// The list cannot be made as asked.
    #[error(transparent)]
    List(#[from] ListError),
    /// Control refused.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The document's envelope has a fault.
    #[error(transparent)]
    Envelope(#[from] Faults),
    /// A write without a body.
    #[error("missing configurations")]
    NoConfiguration,
    /// A PATCH without a body.
    #[error("missing new configuration")]
    NoNewConfiguration,
    /// A PATCH of a whole object with what is no change of it.
    #[error("invalid configuration")]
    NotAPatch,
    /// A PATCH of a secret that says no id.
    #[error("no secret id")]
    NoSecretId,
    /// A body that is JSON, but no object.
    #[error("invalid configuration: wrong type: expected object, got {0}")]
    NotAnObject(&'static str),
    /// A write that needs an id and has none.
    #[error("missing {0} id")]
    NoId(Kind),
    /// There is no such object.
    #[error("Key not found")]
    NoObject,
    /// A path under the Admin API that leads nowhere.
    #[error("not found")]
    NoPath,
    /// No such resource.
    #[error("Unsupported resource type: {}", shown(.0))]
    UnknownResource(String),
    /// A gateway group other than ours.
    #[error("gateway group {} does not exist; this gateway has one, \"default\"", quote(.0))]
    UnknownGroup(String),
    /// POST of a secret.
    #[error("not supported `POST` method for secret")]
    PostSecret,
    /// A resource that APISIX has and this gateway does not.
    #[error("{0} are not available in this gateway; nothing was stored")]
    NotOffered(String),
    /// A kind that has no schema, as there is none.
    #[error("not found schema: {}", shown(.0))]
    NoSchema(String),
    /// A plugin that there is not, in this of APISIX's subsystems.
    #[error("plugin not found in subsystem {0}")]
    NoPlugin(String),
    /// A subsystem that APISIX does not have either.
    #[error("unsupported subsystem: {}", shown(.0))]
    NoSubsystem(String),
    /// The same, where the list of plugins is asked for.
    #[error("invalid subsystem passed")]
    NoListOfSubsystem,
    /// `/plugins/reload` by another method than PUT.
    #[error("please use PUT method to reload the plugins, {0} method is not allowed.")]
    ReloadIsPut(Method),
    /// `stream_routes`.
    #[error("stream mode is disabled, can not add stream routes")]
    NoStreams,
    /// A write of a resource where a file says what is served. APISIX has no such path then.
    #[error(
        "standalone mode: what is served stands in a file, which is read again when it changes, and \
         is written as a whole by PUT /apisix/admin/configs; nothing was stored"
    )]
    Standalone,
    /// A configuration as a whole that is not taken, in APISIX's words.
    #[error("{text}{}", behind(.hint))]
    Configuration {
        /// What is wrong.
        text: String,
        /// What the text leaves open.
        hint: Option<String>,
    },
    /// `ttl` that is no number.
    #[error("invalid argument ttl: should be a number")]
    TtlNotANumber,
    /// `ttl` that is no time to come, or too far away.
    #[error("invalid argument ttl: should be between 0.001 and 9000000000 seconds")]
    TtlOutOfRange,
    /// `ttl` of an ssl.
    #[error(
        "ttl is not supported for ssls: one that vanishes by itself would open or close its names; \
         delete it when it is no longer wanted"
    )]
    TtlOnSsl,
    /// `If-None-Match` at a write.
    #[error(
        "If-None-Match is not understood here and nothing was changed; POST makes a new object, and \
         If-Match with a revision guards one that is there"
    )]
    IfNoneMatch,
    /// `If-Match` that is no revision.
    #[error("If-Match must be one revision as GET gave it in ETag, such as \"12\"")]
    BadIfMatch,
    /// Something failed here; the log has the cause.
    #[error("internal error")]
    Internal,
}

/// A hint as a part of a sentence.
fn behind(hint: &Option<String>) -> String {
    let hint = hint.as_ref();
    hint.map_or_else(String::new, |hint| format!(" ({hint})"))
}

/// An address as a part of a sentence.
fn of(ip: &Option<IpAddr>) -> String {
    ip.map_or_else(String::new, |ip| format!(" from {ip}"))
}

impl Refusal {
    /// The document's faults, where that is the reason.
    pub(super) fn faults(&self) -> Option<&Faults> {
        if let Self::Envelope(faults) | Self::Write(WriteError::Invalid(faults)) = self {
            Some(faults)
        } else {
            None
        }
    }

    /// The status and body that the peer gets. The only such map.
    pub(super) fn into_answer(self) -> Answer {
        let text = self.to_string();
        let bad = StatusCode::BAD_REQUEST;
        match self {
            Self::Auth(_) => Answer::json(
                StatusCode::UNAUTHORIZED,
                json!({ "error_msg": "failed to check token", "description": text }),
            ),
            Self::NotAllowed { .. } => Answer::error(StatusCode::FORBIDDEN, &text),
            Self::TooMany(TooMany(wait)) => {
                let mut answer = Answer::error(StatusCode::TOO_MANY_REQUESTS, &text);
                let wait = HeaderValue::from(wait.as_secs());
                answer.headers.insert(RETRY_AFTER, wait);
                answer
            }
            Self::Body(BodyError::NotJson { bytes, .. }) => Answer::json(
                bad,
                json!({ "error_msg": text, "req_body": format!("[withheld, {bytes} bytes]") }),
            ),
            Self::Body(BodyError::Slow) => Answer::error(StatusCode::REQUEST_TIMEOUT, &text),
            Self::Configuration { text, hint } => Answer::error(bad, &text).with_hint(hint),
            Self::List(ListError::PageSize) | Self::NoListOfSubsystem => {
                Answer::text(bad, "text/plain", text)
            }
            Self::NoObject | Self::Write(WriteError::NotFound) => {
                Answer::json(StatusCode::NOT_FOUND, json!({ "message": text }))
            }
            Self::Envelope(faults) | Self::Write(WriteError::Invalid(faults)) => {
                Answer::faulty(&faults)
            }
            Self::Write(WriteError::Conflict) => {
                Answer::error(StatusCode::SERVICE_UNAVAILABLE, &text)
            }
            Self::Write(WriteError::Store(error))
                if matches!(*error, StoreError::Unsure { .. }) =>
            {
                Answer::error(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the store failed while it made the change durable: a restart may bring the change \
                 back or not; write the object again",
                )
            }
            Self::Write(WriteError::Store(error)) if matches!(*error, StoreError::KeyReplaced) => {
                Answer::error(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the key-encryption key was replaced meanwhile; nothing was changed, send it again",
                )
            }
            Self::Write(WriteError::Store(_)) => Answer::error(
                StatusCode::SERVICE_UNAVAILABLE,
                "the store failed; nothing was changed",
            ),
            Self::Write(WriteError::PreconditionFailed) => {
                Answer::error(StatusCode::PRECONDITION_FAILED, &text)
            }
            Self::Write(WriteError::Internal) | Self::Internal => {
                Answer::error(StatusCode::INTERNAL_SERVER_ERROR, &text)
            }
            Self::NoPath
            | Self::NoPlugin(_)
            | Self::Standalone
            | Self::UnknownResource(_)
            | Self::UnknownGroup(_) => Answer::error(StatusCode::NOT_FOUND, &text),
            Self::PostSecret | Self::ReloadIsPut(_) => {
                Answer::error(StatusCode::METHOD_NOT_ALLOWED, &text)
            }
            Self::Write(WriteError::Patch(error)) => {
                let status = if error.is_conflict() {
                    StatusCode::CONFLICT
                } else {
                    bad
                };
                Answer::error(status, &text)
            }
            Self::Path(_)
            | Self::Body(
                BodyError::TooLarge { .. }
                | BodyError::Broken(_)
                | BodyError::Empty
                | BodyError::NotYaml { .. },
            )
            | Self::List(ListError::Pattern { .. })
            | Self::Write(WriteError::StillUsed { .. } | WriteError::Weaker(_))
            | Self::NoConfiguration
            | Self::NoNewConfiguration
            | Self::NotAPatch
            | Self::NoSecretId
            | Self::NotAnObject(_)
            | Self::NoId(_)
            | Self::NotOffered(_)
            | Self::NoStreams
            | Self::NoSchema(_)
            | Self::NoSubsystem(_)
            | Self::TtlNotANumber
            | Self::TtlOutOfRange
            | Self::TtlOnSsl
            | Self::IfNoneMatch
            | Self::BadIfMatch => Answer::error(bad, &text),
        }
    }
}

/// The first faults with where they are, the rest counted, for the log.
pub(super) fn all_faults(faults: &Faults) -> String {
    let all = faults.0.iter().take(LOGGED_FAULTS);
    let texts = all.map(|fault| format!("{}: {}", fault.pointer, fault.told()));
    and_more(
        texts.collect(),
        faults.0.len().saturating_sub(LOGGED_FAULTS),
    )
}

/// The first warnings as one text, the rest counted.
pub(super) fn warning_msg(warnings: &[Warning]) -> String {
    let texts = warnings.iter().take(WARNINGS_MAX);
    let texts = texts.map(|warning| warning.text.clone()).collect();
    and_more(texts, warnings.len().saturating_sub(WARNINGS_MAX))
}

fn and_more(mut texts: Vec<String>, more: usize) -> String {
    if more > 0 {
        texts.push(format!("and {more} more"));
    }
    texts.join("; ")
}

/// The Lua name of a value's type, which APISIX's texts use.
pub(super) fn lua_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "userdata",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) | Value::Object(_) => "table",
    }
}

/// Warnings as JSON.
pub(super) fn warnings_json(warnings: &[Warning]) -> Value {
    warnings
        .iter()
        .map(|warning| {
            json!({ "code": warning.code, "pointer": warning.pointer, "text": warning.text })
        })
        .collect()
}

/// A JSON object of these members, in this order.
pub(super) fn object<const N: usize>(members: [(&str, Value); N]) -> Map<String, Value> {
    members
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::resource::fault::{Fault, Words};
    use crate::resource::patch::PatchError;

    fn told(refusal: Refusal) -> (u16, String) {
        let answer = refusal.into_answer();
        let text = match answer.content {
            Content::Json(value) => value.to_string(),
            Content::Text { text, .. } => text,
            Content::Nothing => String::new(),
        };
        (answer.status.as_u16(), text)
    }

    fn fault(at: &str, words: Words) -> Faults {
        let fault = |pointer: &str, reason: &str, words| Fault {
            pointer: pointer.to_owned(),
            reason: reason.to_owned(),
            words,
            guess: None,
        };
        Faults(vec![
            fault(at, "first", words),
            fault("/a", "second", Words::Schema),
        ])
    }

    #[test]
    fn many_warnings_and_faults_are_counted_not_listed() {
        let warnings: Vec<_> = (0..100)
            .map(|n| Warning {
                code: "c",
                pointer: String::new(),
                text: format!("text {n}"),
            })
            .collect();
        let answer = Answer::empty(StatusCode::OK).with_warnings(&warnings);
        let lines: Vec<_> = answer.headers.get_all(WARNING).iter().collect();
        assert_eq!(lines.len(), 17);
        assert_eq!(lines[0], "c / text 0");
        assert_eq!(lines[16], "more_warnings / and 84 more");
        assert!(warning_msg(&warnings).ends_with("text 15; and 84 more"));
        let fault = fault("", Words::Schema).0.remove(0);
        let logged = all_faults(&Faults(vec![fault; 100]));
        assert_eq!(logged.matches("first").count(), 20);
        assert!(logged.ends_with("and 80 more"), "{logged}");
    }

    #[test]
    fn refusals_have_the_texts_of_the_admin_api() {
        for (refusal, status, body) in [
            (
                Refusal::Auth(AuthError::Missing),
                401,
                r#"{"error_msg":"failed to check token","description":"missing apikey"}"#,
            ),
            (
                Refusal::Body(BodyError::NotJson {
                    bytes: 1,
                    text: "a text".to_owned(),
                }),
                400,
                r#"{"error_msg":"invalid request body: a text","req_body":"[withheld, 1 bytes]"}"#,
            ),
            (
                Refusal::Body(BodyError::TooLarge {
                    length: 1_572_865,
                    limit: 1_572_864,
                }),
                400,
                r#"{"error_msg":"invalid request body: request size 1572865 is greater than the maximum size 1572864 allowed"}"#,
            ),
            (Refusal::NoObject, 404, r#"{"message":"Key not found"}"#),
            (
                Refusal::Write(WriteError::NotFound),
                404,
                r#"{"message":"Key not found"}"#,
            ),
            (Refusal::NoPath, 404, r#"{"error_msg":"not found"}"#),
            (
                Refusal::UnknownResource("routs".to_owned()),
                404,
                r#"{"error_msg":"Unsupported resource type: routs"}"#,
            ),
            (
                Refusal::PostSecret,
                405,
                r#"{"error_msg":"not supported `POST` method for secret"}"#,
            ),
            (
                Refusal::Envelope(fault("", Words::Apisix)),
                400,
                r#"{"error_msg":"first"}"#,
            ),
            (
                Refusal::Write(WriteError::Invalid(fault("/b", Words::Apisix))),
                400,
                r#"{"error_msg":"first","hint":"at /b"}"#,
            ),
            (
                Refusal::Write(WriteError::Invalid(fault("/b", Words::Ours))),
                400,
                r#"{"error_msg":"first (at /b)"}"#,
            ),
            (
                Refusal::Write(WriteError::Invalid(fault("/b", Words::Schema))),
                400,
                r#"{"error_msg":"invalid configuration: first","hint":"at /b"}"#,
            ),
            (
                Refusal::Write(WriteError::Conflict),
                503,
                r#"{"error_msg":"value changed before overwritten"}"#,
            ),
            (
                Refusal::List(ListError::PageSize),
                400,
                "page_size must be between 10 and 500",
            ),
            (
                Refusal::NoConfiguration,
                400,
                r#"{"error_msg":"missing configurations"}"#,
            ),
            (
                Refusal::NoNewConfiguration,
                400,
                r#"{"error_msg":"missing new configuration"}"#,
            ),
            (
                Refusal::NotAPatch,
                400,
                r#"{"error_msg":"invalid configuration"}"#,
            ),
            (
                Refusal::Write(WriteError::Patch(PatchError::SubPath("/a/b".to_owned()))),
                400,
                r#"{"error_msg":"invalid sub-path: /a/b"}"#,
            ),
            (
                Refusal::Write(WriteError::Patch(PatchError::Differs {
                    index: 0,
                    pointer: "/a".to_owned(),
                })),
                409,
                r#"{"error_msg":"JSON Patch does not apply: operation 0: the value at /a is another"}"#,
            ),
            (
                Refusal::NoId(Kind::Ssl),
                400,
                r#"{"error_msg":"missing ssl id"}"#,
            ),
            (
                Refusal::TtlNotANumber,
                400,
                r#"{"error_msg":"invalid argument ttl: should be a number"}"#,
            ),
        ] {
            assert_eq!(told(refusal), (status, body.to_owned()));
        }
    }

    #[test]
    fn failed_store_tells_no_path() {
        let error = StoreError::Foreign {
            path: "/var/lib/canary".into(),
        };
        let (status, body) = told(Refusal::Write(WriteError::Store(error.into())));
        assert_eq!(status, 503);
        assert_eq!(
            body,
            r#"{"error_msg":"the store failed; nothing was changed"}"#
        );
    }

    #[test]
    fn quoted_text_is_cut_and_escaped() {
        assert_eq!(quote("a\nb"), "\"a\\nb\"");
        assert_eq!(quote(&"x".repeat(65)), format!("\"{}…\"", "x".repeat(64)));
        assert_eq!(quote(&"x".repeat(64)), format!("\"{}\"", "x".repeat(64)));
    }

    #[test]
    fn warning_fits_into_a_header_whatever_it_says() {
        let warning = Warning {
            code: "upstream_not_verified",
            pointer: "/tls/verify".to_owned(),
            text: "sät\r\nInjected: 1".to_owned() + &"x".repeat(1000),
        };
        let answer = Answer::ok(json!({})).with_warnings(&[warning.clone(), warning]);
        let values: Vec<_> = answer.headers.get_all(WARNING).iter().collect();
        assert_eq!(values.len(), 2);
        let text = values[0].to_str().unwrap();
        assert!(
            text.starts_with("upstream_not_verified /tls/verify s?t??Injected: 1x"),
            "{text}"
        );
        assert_eq!(text.len(), WARNING_BYTES);
    }
}
