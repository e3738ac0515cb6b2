//! AWS Secrets Manager: `$secret://aws/<id>/<name>[/<member>]`.
//!
//! `GetSecretValue` of its JSON protocol, signed (Secrets Manager API Reference). A name may hold
//! slashes: the whole is tried first, then one segment after the other goes to the member (APISIX,
//! "Secret").

use std::rc::Rc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use http::Request;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use self::keys::Keys;
use self::sigv4::{AccessKey, Scope, Signed};
use super::custody::Opened;
use super::ground::Ground;
use super::source::{Answer, Ask, Content, Place, ReadFault, Source};
use super::wire;
use crate::net::http::{self as net_http, Client, Origin};
use crate::resource::secret::Manager;

mod keys;
mod sigv4;

const SERVICE: &str = "secretsmanager";
const CONTENT_TYPE: &str = "application/x-amz-json-1.1";
const TARGET: &str = "secretsmanager.GetSecretValue";

/// APISIX's default.
const DEFAULT_REGION: &str = "us-east-1";

/// The most segments of a reference: each costs a request where the ones before are no name.
const MOST_SEGMENTS: usize = 16;

/// A Secrets Manager as one `secret` resource describes it.
#[derive(Debug)]
pub struct Aws {
    client: Client,
    region: String,
    keys: Keys,
}

impl Aws {
    /// The Secrets Manager that a resource describes. Nothing is asked of it yet.
    ///
    /// # Defaults
    /// `region`: `us-east-1`; `endpoint_url`: the one of AWS in that region.
    ///
    /// # Errors
    /// [`ReadFault::Unusable`] with the member at fault, and those of [`Ground::client`].
    pub fn open(document: &Opened, ground: &Rc<Ground>) -> Result<Self, ReadFault> {
        let text = |member: &str| document.get(member).and_then(Value::as_str);
        let region = text("region").unwrap_or(DEFAULT_REGION).to_owned();
        let url = text("endpoint_url").map_or_else(|| endpoint(&region), str::to_owned);
        let origin = Origin::parse(&url).map_err(|error| {
            ReadFault::Unusable(format!("`endpoint_url` cannot be used: {error}"))
        })?;
        let keys = Keys::read(document, ground, origin.clone())?;
        let client = ground.client(origin, ground.settings.reach(Manager::Aws), None)?;
        Ok(Self {
            client,
            region,
            keys,
        })
    }

    async fn find(&self, name: &str) -> Result<Answer, ReadFault> {
        let key = self.keys.key().await?;
        let answer = self.send(name, &key).await?;
        if !answer.status.is_success() {
            let fault = refused(&answer, &key);
            if matches!(fault, ReadFault::Denied(_)) {
                self.keys.forget(&key).await;
            }
            return Err(fault);
        }
        let mut answer = wire::json(&answer.body)?;
        let version = answer.get("VersionId").and_then(Value::as_str);
        let version = version.map(str::to_owned);
        match answer.get_mut("SecretString").map(Value::take) {
            Some(Value::String(text)) => Ok(Answer {
                content: Content::Text(Zeroizing::new(text)),
                good_for: None,
                version,
            }),
            _ if answer.get("SecretBinary").is_some() => Err(ReadFault::NotText),
            _ => Err(ReadFault::Answer("it has no `SecretString`".to_owned())),
        }
    }

    /// Asks for the current version of a secret.
    async fn send(&self, name: &str, key: &AccessKey) -> Result<net_http::Answer, ReadFault> {
        let body = json!({ "SecretId": name, "VersionStage": "AWSCURRENT" }).to_string();
        let time = sigv4::timestamp(SystemTime::now());
        let (origin, token) = (self.client.origin(), key.session_token.as_ref());
        let host = origin.authority();
        let mut headers = vec![
            ("content-type", CONTENT_TYPE),
            ("host", host.as_str()),
            ("x-amz-date", time.as_str()),
        ];
        headers.extend(token.map(|token| ("x-amz-security-token", token.as_str())));
        headers.push(("x-amz-target", TARGET));
        let path = format!("{}/", origin.path);
        let signed = Signed {
            method: "POST",
            path: &path,
            headers: &headers,
            body: body.as_bytes(),
        };
        let scope = Scope {
            region: &self.region,
            service: SERVICE,
        };
        let authorization = sigv4::authorization(&signed, key, scope, &time).map_err(|error| {
            tracing::error!(%error, "a request cannot be signed");
            ReadFault::Internal
        })?;
        let mut request = Request::post("/")
            .header(
                "authorization",
                wire::sensitive("`access_key_id`", &authorization)?,
            )
            .header("content-type", CONTENT_TYPE)
            .header("host", &host)
            .header("x-amz-date", &time)
            .header("x-amz-target", TARGET);
        if let Some(token) = token {
            let token = wire::sensitive("`session_token`", token)?;
            request = request.header("x-amz-security-token", token);
        }
        wire::send(&self.client, request, Bytes::from(body)).await
    }
}

impl Source for Aws {
    fn places(&self, rest: &str) -> Result<Vec<Place>, ReadFault> {
        let segments = rest.split('/').count();
        if segments > MOST_SEGMENTS || rest.split('/').any(str::is_empty) {
            return Err(ReadFault::Malformed(format!(
                "write $secret://aws/<id>/<name> or $secret://aws/<id>/<name>/<member>, with at \
                 most {MOST_SEGMENTS} segments after the id"
            )));
        }
        let whole = Place {
            path: rest.to_owned(),
            member: None,
        };
        let slashes = rest.rmatch_indices('/');
        let splits = slashes.filter_map(|(at, _)| rest.split_at_checked(at));
        let splits = splits.map(|(name, member)| Place {
            path: name.to_owned(),
            member: Some(member.trim_start_matches('/').to_owned()),
        });
        Ok([whole].into_iter().chain(splits).collect())
    }

    fn read<'a>(&'a self, ask: Ask<'a>) -> LocalBoxFuture<'a, Result<Answer, ReadFault>> {
        self.find(ask.path).boxed_local()
    }
}

/// AWS's own endpoint in a region. (AWS General Reference, "AWS Secrets Manager endpoints")
fn endpoint(region: &str) -> String {
    let suffix = if region.starts_with("cn-") { ".cn" } else { "" };
    format!("https://{SERVICE}.{region}.amazonaws.com{suffix}")
}

/// What a status other than success means. (Secrets Manager API Reference, "GetSecretValue" and
/// "Common Errors")
fn refused(answer: &net_http::Answer, key: &AccessKey) -> ReadFault {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = |member: &str| body.get(member).and_then(Value::as_str).unwrap_or_default();
    // Some services write a namespace before it: `com.amazon.coral.service#…`.
    let kind = text("__type").rsplit('#').next().unwrap_or_default();
    let message = ["message", "Message"].map(text).concat();
    // A signature that is wrong is answered with all that was signed, the session's token too.
    let secrets = [Some(&key.secret), key.session_token.as_ref()];
    let secrets = secrets.into_iter().flatten();
    let secrets: Vec<&[u8]> = secrets.map(|text| text.as_bytes()).collect();
    let message = message.lines().next().unwrap_or_default();
    let said = format!(
        "{} {} {}",
        answer.status.as_u16(),
        wire::words(kind, 64, &secrets),
        wire::words(message, 256, &secrets)
    );
    let said = said.trim_end().to_owned();
    let status = answer.status.as_u16();
    match (status, kind) {
        (_, "ResourceNotFoundException") => ReadFault::NotFound,
        (429 | 500..=599, _)
        | (
            _,
            "ThrottlingException"
            | "Throttling"
            | "InternalServiceError"
            | "InternalFailure"
            | "ServiceUnavailable",
        ) => ReadFault::Unavailable(said),
        (400 | 401 | 403, kind) if !kind.is_empty() => ReadFault::Denied(said),
        (401 | 403, _) => ReadFault::Denied(said),
        (_, _) => ReadFault::Answer(said),
    }
}

#[cfg(test)]
mod moto;
#[cfg(test)]
mod tests;
