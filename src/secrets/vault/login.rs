//! How a token is come by, kept alive and replaced. (Vault HTTP API, "Tokens" and the login of each
//! method)

use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::super::custody::Opened;
use super::super::ground::{Credential, Ground};
use super::super::settings::TokenFrom;
use super::super::source::ReadFault;
use super::super::wire;
use super::Api;
use crate::net::http::Origin;
use crate::resource::secret::Manager;
use crate::tls::material::KeyPair;

/// Logs in, and keeps the token.
pub(super) struct Login {
    ground: Rc<Ground>,
    origin: Origin,
    way: Way,
    token: Mutex<Option<Token>>,
}

/// How a token is come by.
enum Way {
    /// It is there: in the resource, or in the environment or a file that it names.
    Given(Credential),
    /// It is the operator's: `secrets.vault.token_file`, or `VAULT_TOKEN`.
    Operators,
    /// AppRole.
    AppRole {
        mount: String,
        role_id: Credential,
        secret_id: Credential,
    },
    /// The service account of a pod.
    Kubernetes { mount: String, role: String },
    /// A client certificate.
    Certificate {
        mount: String,
        name: Option<String>,
        cert: Credential,
        key: Credential,
    },
}

struct Token {
    value: Zeroizing<String>,
    at: Instant,
    /// `None`: it does not end.
    lasts: Option<Duration>,
    renewable: bool,
}

impl Login {
    /// The way that a resource says.
    ///
    /// # Errors
    /// [`ReadFault::Unusable`] with the member at fault.
    pub(super) fn read(
        document: &Opened,
        ground: &Rc<Ground>,
        origin: Origin,
    ) -> Result<Self, ReadFault> {
        let auth = document.get("auth");
        let text = |member: &str| auth.and_then(|auth| auth.get(member)?.as_str());
        let credential = |member: &str| {
            let text = text(member)
                .ok_or_else(|| ReadFault::Unusable(format!("`auth.{member}` is missing")))?;
            Credential::parse(text)
        };
        let mount = |default: &str| {
            text("mount")
                .unwrap_or(default)
                .trim_matches('/')
                .to_owned()
        };
        let token = document.get("token").and_then(Value::as_str);
        let way = match (token, text("method")) {
            (Some(token), _) => Way::Given(Credential::parse(token)?),
            (None, None) => Way::Operators,
            (None, Some("approle")) => Way::AppRole {
                mount: mount("approle"),
                role_id: credential("role_id")?,
                secret_id: credential("secret_id")?,
            },
            (None, Some("kubernetes")) => Way::Kubernetes {
                mount: mount("kubernetes"),
                role: text("role").unwrap_or_default().to_owned(),
            },
            (None, Some("cert")) => Way::Certificate {
                mount: mount("cert"),
                name: text("name").map(str::to_owned),
                cert: credential("cert")?,
                key: credential("key")?,
            },
            (None, Some(_)) => {
                return Err(ReadFault::Unusable("`auth.method` is none".to_owned()));
            }
        };
        Ok(Self {
            ground: Rc::clone(ground),
            origin,
            way,
            token: Mutex::new(None),
        })
    }

    /// What is shown in the handshake.
    ///
    /// # Errors
    /// [`ReadFault::Unusable`]: the pair cannot be used, or is kept elsewhere.
    pub(super) fn identity(&self) -> Result<Option<KeyPair>, ReadFault> {
        let Way::Certificate { cert, key, .. } = &self.way else {
            return Ok(None);
        };
        let (Credential::Supplied(cert), Credential::Supplied(key)) = (cert, key) else {
            return Err(ReadFault::Unusable(
                "`auth.cert` and `auth.key` must be in the secret itself".to_owned(),
            ));
        };
        KeyPair::parse(cert, key)
            .map(Some)
            .map_err(|error| ReadFault::Unusable(format!("`auth.cert`, `auth.key`: {error}")))
    }

    /// Whether a token that is refused can be replaced by another one.
    pub(super) const fn can_begin_anew(&self) -> bool {
        match &self.way {
            Way::Given(credential) => !credential.is_supplied(),
            Way::Operators | Way::AppRole { .. } | Way::Kubernetes { .. } => true,
            Way::Certificate { .. } => true,
        }
    }

    /// Forgets a token, unless it is another one already.
    pub(super) async fn forget(&self, token: &str) {
        let mut own = self.token.lock().await;
        if own.as_ref().is_some_and(|own| **own.value == *token) {
            *own = None;
        }
    }

    /// For how long the token is good as it is; `None`: it does not end.
    pub(super) async fn remaining(&self) -> Option<Duration> {
        let token = self.token.lock().await;
        let token = token.as_ref()?;
        Some(token.lasts?.saturating_sub(token.at.elapsed()))
    }

    /// A token that is good: the one at hand, renewed where half of its time is over, or a new one.
    ///
    /// # Errors
    /// Those of the credential, its fence, and the login.
    pub(super) async fn token(&self, api: &Api) -> Result<Zeroizing<String>, ReadFault> {
        // Held while logging in: many reads need one login.
        let mut own = self.token.lock().await;
        if let Some(token) = own.as_mut() {
            if !token.is_worn() {
                return Ok(token.value.clone());
            }
            if token.renewable && token.renew(api).await {
                return Ok(token.value.clone());
            }
        }
        let token = match self.begin(api).await {
            Ok(token) => token,
            // The one at hand may be good for a while.
            Err(fault) if fault.is_outage() => match own.as_ref() {
                Some(token) if !token.is_over() => return Ok(token.value.clone()),
                Some(_) | None => return Err(fault),
            },
            Err(fault) => return Err(fault),
        };
        let value = token.value.clone();
        *own = Some(token);
        Ok(value)
    }

    /// Comes by a token.
    async fn begin(&self, api: &Api) -> Result<Token, ReadFault> {
        self.ground
            .check_origin(Manager::Vault, &self.origin, self.is_supplied())?;
        let (path, body) = match &self.way {
            Way::Given(credential) => {
                let value = credential.read(&self.ground).await?;
                return Ok(Token::given(value, api).await);
            }
            Way::Operators => return Ok(Token::given(self.operators().await?, api).await),
            Way::AppRole {
                mount,
                role_id,
                secret_id,
            } => {
                let role_id = role_id.read(&self.ground).await?;
                let secret_id = secret_id.read(&self.ground).await?;
                (
                    mount,
                    json!({ "role_id": *role_id, "secret_id": *secret_id }),
                )
            }
            Way::Kubernetes { mount, role } => {
                let file = self.ground.settings.service_account.join("token");
                let jwt = wire::read_token(file).await?;
                (mount, json!({ "role": role, "jwt": *jwt }))
            }
            Way::Certificate { mount, name, .. } => match name {
                Some(name) => (mount, json!({ "name": name })),
                None => (mount, json!({})),
            },
        };
        let path = format!("auth/{path}/login");
        let answer = api.send(Method::POST, &path, None, Some(&body)).await?;
        Token::read(&answer).ok_or_else(|| ReadFault::Answer("the login has no token".to_owned()))
    }

    /// Whether whoever wrote the resource had all that is sent to log in.
    const fn is_supplied(&self) -> bool {
        match &self.way {
            Way::Given(token) => token.is_supplied(),
            Way::AppRole {
                role_id, secret_id, ..
            } => role_id.is_supplied() && secret_id.is_supplied(),
            Way::Certificate { cert, key, .. } => cert.is_supplied() && key.is_supplied(),
            Way::Operators | Way::Kubernetes { .. } => false,
        }
    }

    async fn operators(&self) -> Result<Zeroizing<String>, ReadFault> {
        match &self.ground.settings.vault_token {
            Some(TokenFrom::Value(value)) => Ok(value.clone()),
            Some(TokenFrom::File(path)) => wire::read_token(path.clone()).await,
            None => Err(ReadFault::Unusable(
                "it holds no token: give it `token` or `auth`, or the gateway VAULT_TOKEN or \
                 `secrets.vault.token_file`"
                    .to_owned(),
            )),
        }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

impl Token {
    /// A token that was there; how long it lasts is asked for, and is not where that is refused.
    async fn given(value: Zeroizing<String>, api: &Api) -> Self {
        let mut token = Self {
            value,
            at: Instant::now(),
            lasts: None,
            renewable: false,
        };
        let asked = api
            .send(
                Method::GET,
                "auth/token/lookup-self",
                Some(&token.value),
                None,
            )
            .await;
        if let Ok(answer) = asked {
            let ttl = answer.pointer("/data/ttl").and_then(Value::as_u64);
            token.lasts = ttl.filter(|ttl| *ttl > 0).map(Duration::from_secs);
            let renewable = answer.pointer("/data/renewable").and_then(Value::as_bool);
            token.renewable = renewable == Some(true);
        }
        token
    }

    /// The token of a login or a renewal.
    fn read(answer: &Value) -> Option<Self> {
        let auth = answer.get("auth")?;
        let lasts = auth.get("lease_duration").and_then(Value::as_u64);
        Some(Self {
            value: Zeroizing::new(auth.get("client_token")?.as_str()?.to_owned()),
            at: Instant::now(),
            lasts: lasts
                .filter(|seconds| *seconds > 0)
                .map(Duration::from_secs),
            renewable: auth.get("renewable").and_then(Value::as_bool) == Some(true),
        })
    }

    /// Whether half of its time is over.
    fn is_worn(&self) -> bool {
        self.lasts
            .is_some_and(|lasts| self.at.elapsed() >= lasts / 2)
    }

    fn is_over(&self) -> bool {
        self.lasts.is_some_and(|lasts| self.at.elapsed() >= lasts)
    }

    /// Renews it; false where that gives it no longer life, as at the end of its greatest one.
    async fn renew(&mut self, api: &Api) -> bool {
        let path = "auth/token/renew-self";
        let asked = api
            .send(Method::POST, path, Some(&self.value), Some(&json!({})))
            .await;
        let Some(renewed) = asked.ok().as_ref().and_then(Self::read) else {
            return false;
        };
        let left = |token: &Self| {
            token
                .lasts
                .map(|lasts| lasts.saturating_sub(token.at.elapsed()))
        };
        let gained = match (left(self), left(&renewed)) {
            (Some(before), Some(after)) => after > before + Duration::from_secs(1),
            (_, None) => true,
            (None, Some(_)) => false,
        };
        // A token of the same name goes on.
        if gained {
            (self.at, self.lasts) = (renewed.at, renewed.lasts);
            self.renewable = renewed.renewable;
        }
        gained
    }
}
