//! The service account: in the resource, or in a file as Google gives it; and how it logs in: a
//! token that it signs, for an access token (RFC 7523 §2.1; Google Identity, "Using OAuth 2.0 for
//! Server to Server Applications").

use std::fmt;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::super::custody::Opened;
use super::super::ground::{Credential, Ground};
use super::super::source::ReadFault;
use super::super::wire;
use crate::net::http::{Client, Origin};
use crate::resource::secret::Manager;
use crate::tls::material::PrivateKey;

/// Where an account logs in that does not say where. (APISIX's default)
const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";

/// Where its secrets are.
const ENTRIES_URI: &str = "https://secretmanager.googleapis.com/v1";

/// What it asks to be permitted.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// What kind of login it is.
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// How long what is signed is good; the most that Google takes.
const SIGNED_SECONDS: u64 = 3600;

/// For how long an access token is taken to be good whose answer does not say.
const LASTS: Duration = Duration::from_secs(300);

/// Where the account is.
pub(super) enum AccountFrom {
    /// `auth_config`.
    Config(Box<Config>),
    /// `auth_file`: the reference to a file that Google made; read again at each login.
    File(Credential),
}

/// `auth_config`.
pub(super) struct Config {
    members: serde_json::Map<String, Value>,
    private_key: Credential,
}

/// An account as it is now.
pub(super) struct Account {
    email: String,
    private_key: Zeroizing<String>,
    scope: String,
    token_uri: String,
    entries_uri: String,
    pub(super) project: String,
    /// Whoever wrote the resource had all of it.
    is_supplied: bool,
}

/// What a login gives.
pub(super) struct Login {
    pub(super) token: Zeroizing<String>,
    pub(super) lasts: Duration,
}

impl AccountFrom {
    /// What a resource says.
    ///
    /// # Errors
    /// [`ReadFault::Unusable`], [`ReadFault::Fenced`] for a file outside of the roots.
    pub(super) fn read(document: &Opened, ground: &Ground) -> Result<Self, ReadFault> {
        if let Some(file) = document.get("auth_file").and_then(Value::as_str) {
            return Ok(Self::File(ground.file("auth_file", file)?));
        }
        let config = document.get("auth_config").and_then(Value::as_object);
        let mut members = config.cloned().ok_or_else(|| {
            ReadFault::Unusable("it has neither `auth_config` nor `auth_file`".to_owned())
        })?;
        let private_key = match members.remove("private_key") {
            Some(Value::String(text)) => Credential::parse(&Zeroizing::new(text))?,
            Some(_) | None => {
                return Err(ReadFault::Unusable(
                    "`auth_config.private_key` is missing".to_owned(),
                ));
            }
        };
        Ok(Self::Config(Box::new(Config {
            members,
            private_key,
        })))
    }

    /// The account as it is now.
    ///
    /// # Errors
    /// Those of the credential; [`ReadFault::Unusable`] for a file that is none of Google's.
    pub(super) async fn account(&self, ground: &Ground) -> Result<Account, ReadFault> {
        match self {
            Self::Config(config) => {
                let key = config.private_key.read(ground).await?;
                let is_supplied = config.private_key.is_supplied();
                Account::of(&config.members, key, is_supplied, "auth_config")
            }
            Self::File(file) => {
                let text = file.read(ground).await?;
                let wrong = || {
                    ReadFault::Unusable(
                        "`auth_file` is not the key of a service account, in JSON, as Google \
                         gives it"
                            .to_owned(),
                    )
                };
                let read = serde_json::from_str(&text).map_err(|_may_quote_it| wrong())?;
                let Value::Object(mut members) = read else {
                    return Err(wrong());
                };
                let Some(Value::String(key)) = members.remove("private_key") else {
                    return Err(wrong());
                };
                Account::of(&members, Zeroizing::new(key), false, "auth_file")
            }
        }
    }
}

impl fmt::Debug for AccountFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(config) => {
                let email = config.members.get("client_email").and_then(Value::as_str);
                write!(f, "Config({})", email.unwrap_or_default())
            }
            Self::File(file) => write!(f, "File({file:?})"),
        }
    }
}

impl Account {
    fn of(
        members: &serde_json::Map<String, Value>,
        private_key: Zeroizing<String>,
        is_supplied: bool,
        place: &str,
    ) -> Result<Self, ReadFault> {
        let text = |member: &str| members.get(member).and_then(Value::as_str);
        let needed = |member: &str| {
            let found = text(member).map(str::to_owned);
            found.ok_or_else(|| ReadFault::Unusable(format!("`{place}` has no `{member}`")))
        };
        let scope = match members.get("scope") {
            Some(Value::Array(scopes)) => {
                let scopes: Vec<&str> = scopes.iter().filter_map(Value::as_str).collect();
                scopes.join(" ")
            }
            Some(Value::String(scope)) => scope.clone(),
            Some(_) | None => SCOPE.to_owned(),
        };
        let project = needed("project_id")?;
        if project.is_empty() || project.contains('/') {
            return Err(ReadFault::Unusable(format!(
                "`project_id` of `{place}` is no project"
            )));
        }
        Ok(Self {
            email: needed("client_email")?,
            private_key,
            scope,
            token_uri: text("token_uri").unwrap_or(TOKEN_URI).to_owned(),
            entries_uri: text("entries_uri").unwrap_or(ENTRIES_URI).to_owned(),
            project,
            is_supplied,
        })
    }

    /// What asks below `entries_uri`.
    ///
    /// # Errors
    /// As [`Account::client`].
    pub(super) fn entries_client(&self, ground: &Rc<Ground>) -> Result<Client, ReadFault> {
        self.client(ground, origin("entries_uri", &self.entries_uri)?)
    }

    /// A client of an origin that this account may be shown to.
    fn client(&self, ground: &Rc<Ground>, origin: Origin) -> Result<Client, ReadFault> {
        ground.check_origin(Manager::Gcp, &origin, self.is_supplied)?;
        ground.client(origin, ground.settings.reach(Manager::Gcp), None)
    }

    /// Asks for an access token.
    ///
    /// # Errors
    /// The key signs nothing, its fence, and the refusals of `token_uri`.
    pub(super) async fn log_in(&self, ground: &Rc<Ground>) -> Result<Login, ReadFault> {
        let mut at = origin("token_uri", &self.token_uri)?;
        let path = match std::mem::take(&mut at.path) {
            root if root.is_empty() => "/".to_owned(),
            path => path,
        };
        let client = self.client(ground, at)?;
        let signed = self.sign(SystemTime::now())?;
        let body = Zeroizing::new(format!(
            "grant_type={}&assertion={}",
            wire::escape(GRANT),
            *signed
        ));
        let request = Request::post(path)
            .header("accept", "application/json")
            .header("content-type", "application/x-www-form-urlencoded");
        let answer = wire::send(&client, request, Bytes::copy_from_slice(body.as_bytes())).await?;
        if !answer.status.is_success() {
            let fault = super::refused(&answer, &signed);
            return Err(if fault == ReadFault::NotFound {
                ReadFault::Unusable("there is nothing at `token_uri`".to_owned())
            } else {
                fault
            });
        }
        let answer = wire::json(&answer.body)?;
        let token = answer.get("access_token").and_then(Value::as_str);
        let token =
            token.ok_or_else(|| ReadFault::Answer("the login has no `access_token`".to_owned()))?;
        let lasts = answer.get("expires_in").and_then(Value::as_u64);
        Ok(Login {
            token: Zeroizing::new(token.to_owned()),
            lasts: lasts.map_or(LASTS, Duration::from_secs),
        })
    }

    /// A JSON web token that says who asks for what, signed with RS256. (RFC 7515 §3.1, RFC 7518
    /// §3.3)
    fn sign(&self, now: SystemTime) -> Result<Zeroizing<String>, ReadFault> {
        // The key of a file was not judged by any write.
        let cannot = |error: &dyn fmt::Display| {
            ReadFault::Unusable(format!("`private_key` of the account cannot sign: {error}"))
        };
        let key = PrivateKey::parse(&self.private_key).map_err(|error| cannot(&error))?;
        let key = key.signing_key().map_err(|error| cannot(&error))?;
        if key.algorithm() != "RSA-SHA256" {
            return Err(ReadFault::Unusable(
                "`private_key` of the account is no RSA key, which Google's are".to_owned(),
            ));
        }
        let now = now.duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs());
        let claims = json!({
            "iss": self.email,
            "scope": self.scope,
            "aud": self.token_uri,
            "iat": now,
            "exp": now.saturating_add(SIGNED_SECONDS),
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let head = part(&json!({"alg": "RS256", "typ": "JWT"}));
        let text = format!("{head}.{}", part(&claims));
        let signature = key.sign(text.as_bytes()).map_err(|error| {
            tracing::error!(%error, "a login cannot be signed");
            ReadFault::Internal
        })?;
        let signature = URL_SAFE_NO_PAD.encode(signature);
        Ok(Zeroizing::new(format!("{text}.{signature}")))
    }
}

fn origin(member: &str, url: &str) -> Result<Origin, ReadFault> {
    Origin::parse(url)
        .map_err(|error| ReadFault::Unusable(format!("`{member}` cannot be used: {error}")))
}
