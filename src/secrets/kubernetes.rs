//! Kubernetes Secrets: `$secret://kubernetes/<id>/<namespace>/<secret>/<data key>`, or without the
//! namespace for that of the gateway's own pod.
//!
//! Each secret that was read is watched from the version that was read on, by its name, so that a
//! rotation is there within a second and the role needs no more than `get` and `watch` on the
//! secrets it is for (Kubernetes, "Using RBAC Authorization", on `resourceNames`). Where watching
//! is not permitted, secrets are read again after `secrets.cache_time`. (Kubernetes API Reference,
//! "Secret v1"; "Efficient detection of changes".)

mod account;
mod watch;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use http::{HeaderValue, Request, StatusCode};
use serde_json::Value;
use zeroize::Zeroizing;

use self::account::Account;
use self::watch::{Watches, Wish};
use super::custody::Opened;
use super::ground::{Credential, Ground};
use super::news::Told;
use super::reference::SourceKey;
use super::settings::Reach;
use super::source::{Answer, Ask, Content, Place, ReadFault, Source};
use super::wire;
use crate::net::http::{self as net_http, Client, Origin};
use crate::resource::Id;
use crate::resource::secret::Manager;
use crate::tls::material::CaBundle;

/// How references are written.
const FORM: &str = "write $secret://kubernetes/<id>/<namespace>/<secret>/<data key>, or without \
                    the namespace for that of the gateway's pod";

/// The token of a pod's service account. (Kubernetes, "Accessing the Kubernetes API from a Pod")
const POD_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// An API server as one `secret` resource describes it.
pub struct Kubernetes {
    id: Id,
    ground: Rc<Ground>,
    origin: Origin,
    /// `None`: the token of the service account.
    token: Option<Credential>,
    client: RefCell<Option<Current>>,
    watches: Watches,
}

/// The client, and the CAs in the service account's folder that it was made with.
struct Current {
    client: Rc<Client>,
    ca: Option<String>,
}

/// What one request is sent with.
struct Means {
    client: Rc<Client>,
    authorization: HeaderValue,
    /// The secret, below the API server.
    namespace: String,
    name: String,
}

impl Kubernetes {
    /// The API server that a resource describes. Nothing is asked of it yet.
    ///
    /// # Defaults
    /// Where it is: the first of `secrets.kubernetes.origins`, in a pod that of its cluster; the
    /// token: that of the service account. A token in a file is read again for every request.
    ///
    /// # Errors
    /// [`ReadFault::Unusable`] with the member at fault.
    pub fn open(id: &Id, document: &Opened, ground: &Rc<Ground>) -> Result<Self, ReadFault> {
        let client = RefCell::new(None);
        let kubernetes = Self {
            id: id.clone(),
            ground: Rc::clone(ground),
            origin: origin_of(document, &ground.settings.kubernetes.origins)?,
            token: token_of(document, ground)?,
            client,
            watches: Watches::new(ground.news.clone()),
        };
        if !kubernetes.uses_cluster_ca() {
            kubernetes.client(None)?;
        }
        Ok(kubernetes)
    }

    /// Whether the `ca.crt` of the service account says whom to believe.
    fn uses_cluster_ca(&self) -> bool {
        let settings = &self.ground.settings;
        self.origin.is_tls && settings.uses_cluster_ca && settings.kubernetes.lists(&self.origin)
    }

    /// The client with these CAs of the service account's: the one at hand, or a new one where they
    /// were replaced.
    fn client(&self, ca: Option<String>) -> Result<Rc<Client>, ReadFault> {
        let mut current = self.client.borrow_mut();
        if let Some(current) = current.as_ref()
            && current.ca == ca
        {
            return Ok(Rc::clone(&current.client));
        }
        let settings = &self.ground.settings;
        let of_cluster = ca.as_deref().map(CaBundle::parse).transpose();
        let of_cluster = of_cluster.map_err(|error| {
            ReadFault::Unusable(format!("the service account's ca.crt: {error}"))
        })?;
        let reach = match of_cluster {
            Some(trust) => &Reach {
                origins: Vec::new(),
                trust: Some(trust),
            },
            None => &settings.kubernetes,
        };
        let client = Rc::new(self.ground.client(self.origin.clone(), reach, None)?);
        *current = Some(Current {
            client: Rc::clone(&client),
            ca,
        });
        Ok(client)
    }

    /// All that a request for a secret needs, as it is now.
    async fn means(&self, path: &str) -> Result<Means, ReadFault> {
        let is_supplied = self.token.as_ref().is_some_and(Credential::is_supplied);
        self.ground
            .check_origin(Manager::Kubernetes, &self.origin, is_supplied)?;
        let account = Account::at(&self.ground.settings.service_account);
        let token = match &self.token {
            Some(credential) => credential.read(&self.ground).await?,
            None => account.token().await?,
        };
        let authorization = Zeroizing::new(format!("Bearer {}", *token));
        let authorization = wire::sensitive("the token", &authorization)?;
        let ca = if self.uses_cluster_ca() {
            account.ca().await?
        } else {
            None
        };
        let (namespace, name) = match path.split_once('/') {
            Some((namespace, name)) => (namespace.to_owned(), name.to_owned()),
            None => (account.namespace().await?, path.to_owned()),
        };
        Ok(Means {
            client: self.client(ca)?,
            authorization,
            namespace,
            name,
        })
    }

    async fn find(&self, ask: Ask<'_>) -> Result<Answer, ReadFault> {
        let means = self.means(ask.path).await?;
        let path = format!(
            "/api/v1/namespaces/{}/secrets/{}",
            means.namespace, means.name
        );
        let request = Request::get(path)
            .header("accept", "application/json")
            .header("authorization", means.authorization.clone());
        let answer = wire::send(&means.client, request, Bytes::new()).await?;
        if !answer.status.is_success() {
            return Err(refused(&answer, &means.authorization));
        }
        let mut secret = wire::json(&answer.body)?;
        if secret.get("kind").and_then(Value::as_str) != Some("Secret") {
            return Err(ReadFault::Answer("it is no Secret".to_owned()));
        }
        let version = secret.pointer("/metadata/resourceVersion");
        let version = version.and_then(Value::as_str).map(str::to_owned);
        let members = decode(secret.get_mut("data").map(Value::take))?;
        if let Some(from) = version.clone().filter(|_| !ask.dry_run) {
            let item = Told {
                origin: SourceKey::Secret(self.id.clone()),
                path: ask.path.to_owned(),
            };
            self.watches.begin(item, Wish { means, from });
        }
        Ok(Answer {
            content: Content::Members(members),
            good_for: None,
            version,
        })
    }
}

impl Source for Kubernetes {
    fn places(&self, rest: &str) -> Result<Vec<Place>, ReadFault> {
        let segments: Vec<&str> = rest.split('/').collect();
        let (namespace, name, key) = match segments.as_slice() {
            [namespace, name, key] => (Some(*namespace), *name, *key),
            [name, key] => (None, *name, *key),
            _ => return Err(ReadFault::Malformed(FORM.to_owned())),
        };
        let is_written = |text: &str, longest: usize, also: &[char], upper: bool| {
            !text.is_empty()
                && text.len() <= longest
                && !matches!(text, "." | "..")
                && text.chars().all(|c| {
                    c.is_ascii_lowercase()
                        || c.is_ascii_digit()
                        || also.contains(&c)
                        || (upper && c.is_ascii_uppercase())
                })
        };
        // (Kubernetes, "Object Names and IDs"; "Secrets", on keys of `data`)
        let faults = [
            (
                namespace.is_some_and(|text| !is_written(text, 63, &['-'], false)),
                "a namespace has at most 63 lower-case letters, digits and `-`",
            ),
            (
                !is_written(name, 253, &['-', '.'], false),
                "a secret's name has at most 253 lower-case letters, digits, `-` and `.`",
            ),
            (
                !is_written(key, 253, &['-', '_', '.'], true),
                "a data key has at most 253 letters, digits, `-`, `_` and `.`",
            ),
        ];
        if let Some((_, text)) = faults.into_iter().find(|(is_fault, _)| *is_fault) {
            return Err(ReadFault::Malformed(format!("{text}; {FORM}")));
        }
        let path = match namespace {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name.to_owned(),
        };
        Ok(vec![Place {
            path,
            member: Some(key.to_owned()),
        }])
    }

    fn read<'a>(&'a self, ask: Ask<'a>) -> LocalBoxFuture<'a, Result<Answer, ReadFault>> {
        self.find(ask).boxed_local()
    }
}

impl fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubernetes")
            .field("origin", &self.origin)
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

/// Where a resource says the API server is, in API7's words or in APISIX's.
///
/// # Defaults
/// `kubernetes_port`: that of the listed origin with this host, else 443.
fn origin_of(document: &Opened, listed: &[Origin]) -> Result<Origin, ReadFault> {
    let text = |member: &str| document.get(member).and_then(Value::as_str);
    let parse = |member: &str, url: &str| {
        let unusable = |error| ReadFault::Unusable(format!("`{member}` cannot be used: {error}"));
        Origin::parse(url).map_err(unusable)
    };
    for member in ["endpoint", "apiserver_addr"] {
        if let Some(url) = text(member) {
            return parse(member, url);
        }
    }
    let named =
        text("kubernetes_host").map(|host| parse("kubernetes_host", &format!("https://{host}")));
    let mut origin = match named.transpose()? {
        Some(named) => {
            let same =
                |origin: &&Origin| origin.is_tls && origin.host.eq_ignore_ascii_case(&named.host);
            let port = listed
                .iter()
                .find(same)
                .map_or(named.port, |origin| origin.port);
            Origin { port, ..named }
        }
        None => listed.first().cloned().ok_or_else(|| {
            ReadFault::Unusable(
                "it has no `apiserver_addr`, and `secrets.kubernetes.origins` lists none; in a pod \
                 KUBERNETES_SERVICE_HOST says it"
                    .to_owned(),
            )
        })?,
    };
    if let Some(port) = text("kubernetes_port") {
        let unusable =
            |error| ReadFault::Unusable(format!("`kubernetes_port` cannot be used: {error}"));
        origin.port = port.parse().map_err(unusable)?;
    }
    Ok(origin)
}

/// What a resource logs in with; `None`: the token of the service account, which
/// `service_account_file` is, too, where it has the place that every pod has it at.
fn token_of(document: &Opened, ground: &Ground) -> Result<Option<Credential>, ReadFault> {
    let text = |member: &str| document.get(member).and_then(Value::as_str);
    let own = ground.settings.service_account.join("token");
    match (text("token"), text("service_account_file")) {
        (Some(token), _) => Credential::parse(token).map(Some),
        (None, Some(file)) if Path::new(file) != Path::new(POD_TOKEN) && Path::new(file) != own => {
            ground.file("service_account_file", file).map(Some)
        }
        (None, _) => Ok(None),
    }
}

/// The members of `data`, decoded; bytes that are no UTF-8 are no text. A secret may have no data.
fn decode(data: Option<Value>) -> Result<BTreeMap<String, Option<Zeroizing<String>>>, ReadFault> {
    let wrong = || ReadFault::Answer("its `data` are not texts in base64".to_owned());
    let members = match data {
        Some(Value::Object(members)) => members,
        None | Some(Value::Null) => return Ok(BTreeMap::new()),
        Some(_) => return Err(wrong()),
    };
    let mut decoded = BTreeMap::new();
    for (name, value) in members {
        let Value::String(text) = value else {
            return Err(wrong());
        };
        let text = Zeroizing::new(text);
        let bytes = STANDARD.decode(text.as_bytes());
        let bytes = Zeroizing::new(bytes.map_err(|_not_base64| wrong())?);
        let text = std::str::from_utf8(&bytes).ok();
        decoded.insert(name, text.map(|text| Zeroizing::new(text.to_owned())));
    }
    Ok(decoded)
}

/// What a status other than success means, in the API server's words without the token. (Kubernetes
/// API conventions, "Response Status Kind")
fn refused(answer: &net_http::Answer, authorization: &HeaderValue) -> ReadFault {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let is_status = body.get("kind").and_then(Value::as_str) == Some("Status");
    let message = body.get("message").and_then(Value::as_str);
    let message = message.filter(|_| is_status).unwrap_or_default();
    let token = authorization.as_bytes();
    let token = token.strip_prefix(b"Bearer ").unwrap_or(token);
    let message = wire::words(message, 256, &[token]);
    let said = format!("{} {message}", answer.status.as_u16());
    let said = said.trim_end().to_owned();
    match answer.status {
        StatusCode::NOT_FOUND => ReadFault::NotFound,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ReadFault::Denied(said),
        StatusCode::TOO_MANY_REQUESTS => ReadFault::Unavailable(said),
        status if status.is_server_error() => ReadFault::Unavailable(said),
        _ => ReadFault::Answer(said),
    }
}

#[cfg(test)]
mod tests;
