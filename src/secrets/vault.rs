//! HashiCorp Vault, OpenBao and what else speaks their API: KV versions 1 and 2, and certificates
//! that its PKI issues.
//!
//! `$secret://vault/<id>/<path>/<member>` reads `{uri}/v1/{prefix}/{path}`; where the resource has
//! no `prefix`, the path of `uri` itself is read, and what follows the id is the member. With
//! `issue`, what follows is a member of the current issuance: `certificate` (with its chain),
//! `private_key` or `ca_chain`. (Vault HTTP API; APISIX, "Secret", for the members.)

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use self::login::Login;
use super::custody::Opened;
use super::ground::Ground;
use super::source::{Answer, Ask, Content, Place, ReadFault, Source};
use super::wire;
use crate::net::http::{Client, Origin};
use crate::resource::secret::Manager;

mod login;

/// The members of an issuance.
const ISSUED: [&str; 3] = ["certificate", "private_key", "ca_chain"];

/// Members of a login's body that nobody else may learn.
const CREDENTIALS: [&str; 3] = ["role_id", "secret_id", "jwt"];

/// A Vault as one `secret` resource describes it.
pub struct Vault {
    api: Api,
    login: Login,
    layout: Layout,
    issued: RefCell<Option<Issued>>,
    /// Two references must not have two certificates issued.
    issuing: tokio::sync::Mutex<()>,
}

/// What a reference's path stands for.
enum Layout {
    /// Secrets below a prefix; `true`: of a KV version 2, whose paths have `data` after the mount.
    Below(String, bool),
    /// The path of `uri`, and what is below it.
    At(String),
    /// A certificate that a role of a PKI mount issues.
    Issue(Issue),
}

/// `issue`.
struct Issue {
    path: String,
    common_name: String,
    ttl: Option<String>,
}

/// The current issuance.
struct Issued {
    answer: Answer,
    at: Instant,
    lasts: Duration,
}

/// Vault's API at one origin, in one namespace.
struct Api {
    client: Client,
    namespace: Option<String>,
}

impl Vault {
    /// The Vault that a resource describes. Nothing is asked of it yet.
    ///
    /// # Errors
    /// [`ReadFault::Unusable`] with the member at fault, and those of [`Ground::client`].
    pub fn open(document: &Opened, ground: &Rc<Ground>) -> Result<Self, ReadFault> {
        let text = |member: &str| document.get(member).and_then(Value::as_str);
        let uri = text("uri").unwrap_or_default();
        let mut origin = Origin::parse(uri)
            .map_err(|error| ReadFault::Unusable(format!("`uri` cannot be used: {error}")))?;
        let prefix = text("prefix").map(|prefix| prefix.trim_matches('/').to_owned());
        let layout = match (prefix, document.get("issue").and_then(Value::as_object)) {
            (Some(mount), Some(issue)) => Layout::Issue(Issue::read(&mount, issue)?),
            (Some(prefix), None) => Layout::Below(prefix, text("kv_version") == Some("kv-v2")),
            (None, _) => {
                let path = std::mem::take(&mut origin.path);
                let path = path.strip_prefix("/v1/").ok_or_else(|| {
                    ReadFault::Unusable("`prefix` is missing, and `uri` has no /v1/".to_owned())
                })?;
                Layout::At(path.to_owned())
            }
        };
        let login = Login::read(document, ground, origin.clone())?;
        let reach = ground.settings.reach(Manager::Vault);
        let client = ground.client(origin, reach, login.identity()?)?;
        Ok(Self {
            api: Api {
                client,
                namespace: text("namespace").map(str::to_owned),
            },
            login,
            layout,
            issued: RefCell::new(None),
            issuing: tokio::sync::Mutex::new(()),
        })
    }

    /// Asks with a token, and once more with a new one where the token itself is refused.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, ReadFault> {
        let token = self.login.token(&self.api).await?;
        let first = self
            .api
            .send(method.clone(), path, Some(&token), body.as_ref())
            .await;
        match first {
            // A path that the token may not read is no reason for another login.
            Err(ReadFault::Denied(_))
                if self.login.can_begin_anew() && !self.api.knows(&token).await =>
            {
                self.login.forget(&token).await;
                let token = self.login.token(&self.api).await?;
                self.api
                    .send(method, path, Some(&token), body.as_ref())
                    .await
            }
            answer => answer,
        }
    }

    async fn read_kv(&self, path: &str) -> Result<Answer, ReadFault> {
        let mut answer = self.ask(Method::GET, path, None).await?;
        let lease = answer.get("lease_duration").and_then(Value::as_u64);
        let mut data = answer.get_mut("data").map(Value::take).unwrap_or_default();
        // Version 2 wraps what version 1 gives as it is.
        let version = data.pointer("/metadata/version").and_then(Value::as_u64);
        if let Some(inner) = data.get_mut("data").filter(|_| version.is_some()) {
            data = inner.take();
        }
        let Value::Object(members) = data else {
            return match version {
                // A version that was deleted has metadata alone.
                Some(_) => Err(ReadFault::NotFound),
                None => Err(ReadFault::Answer("it has no `data`".to_owned())),
            };
        };
        let lease = lease.filter(|seconds| *seconds > 0 && version.is_none());
        let leases = [lease.map(Duration::from_secs), self.login.remaining().await];
        Ok(Answer {
            content: Content::from_members(members),
            good_for: leases.into_iter().flatten().min(),
            version: version.map(|version| version.to_string()),
        })
    }

    /// The current issuance; a new one where half of its time is over.
    async fn read_issued(&self, issue: &Issue, dry_run: bool) -> Result<Answer, ReadFault> {
        let _turn = self.issuing.lock().await;
        if let Some(answer) = self.current(if dry_run { 1.0 } else { 0.5 }) {
            return Ok(answer);
        }
        if dry_run {
            return Err(ReadFault::Unusable(
                "a certificate is issued when this is written, not when it is only judged"
                    .to_owned(),
            ));
        }
        let body = match &issue.ttl {
            Some(ttl) => json!({ "common_name": issue.common_name, "ttl": ttl }),
            None => json!({ "common_name": issue.common_name }),
        };
        let asked = self.ask(Method::POST, &issue.path, Some(body)).await;
        let issued = match (asked, self.current(1.0)) {
            (Ok(answer), _) => Issued::read(&answer)?,
            // The one before is good still.
            (Err(_), Some(answer)) => return Ok(answer),
            (Err(fault), None) => return Err(fault),
        };
        tracing::info!(serial = issued.answer.version, "a certificate was issued");
        *self.issued.borrow_mut() = Some(issued);
        self.current(1.0).ok_or(ReadFault::Internal)
    }

    /// The issuance while less than this share of its time is over.
    fn current(&self, share: f64) -> Option<Answer> {
        let issued = self.issued.borrow();
        let issued = issued.as_ref()?;
        let age = issued.at.elapsed();
        if age >= issued.lasts.mul_f64(share) {
            return None;
        }
        Some(Answer {
            good_for: Some(issued.lasts.saturating_sub(age)),
            ..issued.answer.clone()
        })
    }
}

impl Source for Vault {
    fn places(&self, rest: &str) -> Result<Vec<Place>, ReadFault> {
        let split = rest.rsplit_once('/');
        let (path, member) = match (&self.layout, split) {
            (Layout::Issue(issue), None) if ISSUED.contains(&rest) => (issue.path.clone(), rest),
            (Layout::Issue(_), _) => {
                return Err(ReadFault::Malformed(format!(
                    "this manager issues a certificate; write one of {}",
                    ISSUED.join(", ")
                )));
            }
            (Layout::At(path), None) => (path.clone(), rest),
            (Layout::At(path), Some((below, member))) => (format!("{path}/{below}"), member),
            (Layout::Below(..), None) => {
                return Err(ReadFault::Malformed(
                    "write $secret://vault/<id>/<path>/<member>".to_owned(),
                ));
            }
            (Layout::Below(prefix, false), Some((path, member))) => {
                (format!("{prefix}/{path}"), member)
            }
            (Layout::Below(prefix, true), Some((path, member))) => {
                let (mount, below) = prefix.split_once('/').unwrap_or((prefix, ""));
                let parts = [mount, "data", below, path];
                let parts = parts.into_iter().filter(|part| !part.is_empty());
                (parts.collect::<Vec<_>>().join("/"), member)
            }
        };
        if path.is_empty() || member.is_empty() || path.split('/').any(str::is_empty) {
            return Err(ReadFault::Malformed(
                "write $secret://vault/<id>/<path>/<member>".to_owned(),
            ));
        }
        Ok(vec![Place {
            path,
            member: Some(member.to_owned()),
        }])
    }

    fn read<'a>(&'a self, ask: Ask<'a>) -> LocalBoxFuture<'a, Result<Answer, ReadFault>> {
        async move {
            match &self.layout {
                Layout::Issue(issue) => self.read_issued(issue, ask.dry_run).await,
                Layout::Below(..) | Layout::At(_) => self.read_kv(ask.path).await,
            }
        }
        .boxed_local()
    }
}

impl Issue {
    fn read(mount: &str, issue: &serde_json::Map<String, Value>) -> Result<Self, ReadFault> {
        let text = |member: &str| issue.get(member).and_then(Value::as_str);
        let (Some(role), Some(common_name)) = (text("role"), text("cn")) else {
            return Err(ReadFault::Unusable(
                "`issue` needs `role` and `cn`".to_owned(),
            ));
        };
        Ok(Self {
            path: format!("{mount}/issue/{role}"),
            common_name: common_name.to_owned(),
            ttl: text("ttl").map(str::to_owned),
        })
    }
}

impl Issued {
    fn read(answer: &Value) -> Result<Self, ReadFault> {
        let missing = |member: &str| ReadFault::Answer(format!("the issuance has no `{member}`"));
        let text = |member: &str| {
            let found = answer.pointer(&format!("/data/{member}"));
            found.and_then(Value::as_str).ok_or_else(|| missing(member))
        };
        let chain: Vec<&str> = match answer.pointer("/data/ca_chain").and_then(Value::as_array) {
            Some(chain) => chain.iter().filter_map(Value::as_str).collect(),
            None => vec![text("issuing_ca")?],
        };
        let certificate: Vec<&str> = [text("certificate")?]
            .into_iter()
            .chain(chain.clone())
            .collect();
        let expires = answer.pointer("/data/expiration").and_then(Value::as_u64);
        let expires = expires.ok_or_else(|| missing("expiration"))?;
        let now = std::time::UNIX_EPOCH
            .elapsed()
            .unwrap_or_default()
            .as_secs();
        let members = [
            ("certificate", certificate.join("\n")),
            ("private_key", text("private_key")?.to_owned()),
            ("ca_chain", chain.join("\n")),
        ];
        let members = members.map(|(name, text)| (name.to_owned(), Some(Zeroizing::new(text))));
        Ok(Self {
            answer: Answer {
                content: Content::Members(BTreeMap::from(members)),
                good_for: None,
                version: text("serial_number").ok().map(str::to_owned),
            },
            at: Instant::now(),
            lasts: Duration::from_secs(expires.saturating_sub(now)),
        })
    }
}

impl Api {
    /// Whether a token is one, whatever it may read.
    async fn knows(&self, token: &str) -> bool {
        let path = "auth/token/lookup-self";
        let asked = self.send(Method::GET, path, Some(token), None).await;
        !matches!(asked, Err(ReadFault::Denied(_)))
    }

    /// Asks for a path below `/v1/`.
    async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Value, ReadFault> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/v1/{}", wire::escape(path)))
            .header("x-vault-request", "true");
        if let Some(namespace) = &self.namespace {
            request = request.header("x-vault-namespace", namespace);
        }
        if let Some(token) = token {
            request = request.header("x-vault-token", wire::sensitive("the token", token)?);
        }
        let mut bytes = Bytes::new();
        if let Some(body) = body {
            request = request.header("content-type", "application/json");
            bytes = body.to_string().into();
        }
        let answer = wire::send(&self.client, request, bytes).await?;
        if answer.status.is_success() {
            if answer.body.is_empty() {
                return Ok(Value::Null);
            }
            return wire::json(&answer.body);
        }
        let in_body = |member: &&str| body.and_then(|body| body.get(member)?.as_str());
        let mut credentials: Vec<&[u8]> = token.map(str::as_bytes).into_iter().collect();
        let of_login = CREDENTIALS.iter().filter_map(in_body);
        credentials.extend(of_login.map(str::as_bytes));
        Err(refused(answer.status, &answer.body, &credentials))
    }
}

/// What a status other than success means, in Vault's words without what was sent to log in.
/// (Vault HTTP API, "HTTP Status Codes")
fn refused(status: StatusCode, body: &[u8], credentials: &[&[u8]]) -> ReadFault {
    let errors = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let error = errors.pointer("/errors/0").and_then(Value::as_str);
    let error = wire::words(error.unwrap_or_default(), 64, credentials);
    let said = format!("{} {error}", status.as_u16());
    let said = said.trim_end().to_owned();
    match status.as_u16() {
        404 => ReadFault::NotFound,
        400 | 401 | 403 | 405 | 412 => ReadFault::Denied(said),
        429 | 472 | 473 | 500..=599 => ReadFault::Unavailable(said),
        _ => ReadFault::Answer(said),
    }
}

#[cfg(test)]
mod tests;
