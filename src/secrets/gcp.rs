//! Google Cloud Secret Manager: `$secret://gcp/<id>/<name>[/<member>]`.
//!
//! The newest enabled version of a secret, with the access token of a service account. The name
//! ends at the first slash, as in APISIX ("Secret"). (Secret Manager API,
//! "projects.secrets.versions.access".)

mod account;

use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use http::Request;
use serde_json::Value;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use self::account::{AccountFrom, Login};
use super::custody::Opened;
use super::ground::Ground;
use super::source::{Answer, Ask, Content, Place, ReadFault, Source};
use super::wire;
use crate::net::http::{self as net_http, Client};

/// How long before its end an access token is replaced.
const EARLY: Duration = Duration::from_secs(60);

/// The longest name of a secret. (Secret Manager API, "projects.secrets.create")
const NAME_BYTES: usize = 255;

/// A Secret Manager as one `secret` resource describes it.
pub struct Gcp {
    ground: Rc<Ground>,
    from: AccountFrom,
    session: Mutex<Option<Rc<Session>>>,
}

/// What a login gave.
struct Session {
    /// Asks below `entries_uri`.
    entries: Client,
    project: String,
    token: Zeroizing<String>,
    until: Instant,
}

impl Gcp {
    /// The Secret Manager that a resource describes. Nothing is asked of it yet.
    ///
    /// # Errors
    /// [`ReadFault::Unusable`] and [`ReadFault::Fenced`] with the member at fault.
    pub fn open(document: &Opened, ground: &Rc<Ground>) -> Result<Self, ReadFault> {
        if document.get("ssl_verify") == Some(&Value::Bool(false)) {
            return Err(ReadFault::Unusable(
                "`ssl_verify` is false; leave it out, and set `secrets.gcp.trust_file` if need be"
                    .to_owned(),
            ));
        }
        Ok(Self {
            ground: Rc::clone(ground),
            from: AccountFrom::read(document, ground)?,
            session: Mutex::new(None),
        })
    }

    /// A session whose token is good: the one at hand, or a new one shortly before that ends.
    async fn session(&self) -> Result<Rc<Session>, ReadFault> {
        // Held while logging in: many reads need one login.
        let mut own = self.session.lock().await;
        let now = Instant::now();
        if let Some(session) = own.as_ref()
            && now + EARLY < session.until
        {
            return Ok(Rc::clone(session));
        }
        match self.begin().await {
            Ok(session) => {
                let session = Rc::new(session);
                *own = Some(Rc::clone(&session));
                Ok(session)
            }
            // The one at hand may be good for a while.
            Err(fault) => match own.as_ref() {
                Some(session) if fault.is_outage() && now < session.until => Ok(Rc::clone(session)),
                Some(_) | None => Err(fault),
            },
        }
    }

    async fn begin(&self) -> Result<Session, ReadFault> {
        let account = self.from.account(&self.ground).await?;
        let entries = account.entries_client(&self.ground)?;
        let Login { token, lasts } = account.log_in(&self.ground).await?;
        Ok(Session {
            entries,
            project: account.project,
            token,
            until: Instant::now() + lasts,
        })
    }

    /// A token that was refused is not used again.
    async fn forget(&self, session: &Rc<Session>) {
        let mut own = self.session.lock().await;
        if own.as_ref().is_some_and(|own| Rc::ptr_eq(own, session)) {
            *own = None;
        }
    }

    async fn find(&self, name: &str) -> Result<Answer, ReadFault> {
        let session = self.session().await?;
        let path = format!(
            "/projects/{}/secrets/{name}/versions/latest:access",
            wire::escape(&session.project)
        );
        let bearer = Zeroizing::new(format!("Bearer {}", *session.token));
        let request = Request::get(path)
            .header("accept", "application/json")
            .header(
                "authorization",
                wire::sensitive("the access token", &bearer)?,
            );
        let answer = wire::send(&session.entries, request, Bytes::new()).await?;
        if !answer.status.is_success() {
            let fault = refused(&answer, &session.token);
            if matches!(fault, ReadFault::Denied(_)) {
                self.forget(&session).await;
            }
            return Err(fault);
        }
        read(&wire::json(&answer.body)?)
    }
}

impl Source for Gcp {
    fn places(&self, rest: &str) -> Result<Vec<Place>, ReadFault> {
        let (name, member) = match rest.split_once('/') {
            Some((name, member)) => (name, Some(member)),
            None => (rest, None),
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let is_name = !name.is_empty() && name.len() <= NAME_BYTES && name.chars().all(is_plain);
        if !is_name || member.is_some_and(str::is_empty) {
            return Err(ReadFault::Malformed(
                "write $secret://gcp/<id>/<name> or $secret://gcp/<id>/<name>/<member>; a name has \
                 at most 255 letters, digits, `-` and `_`"
                    .to_owned(),
            ));
        }
        Ok(vec![Place {
            path: name.to_owned(),
            member: member.map(str::to_owned),
        }])
    }

    fn read<'a>(&'a self, ask: Ask<'a>) -> LocalBoxFuture<'a, Result<Answer, ReadFault>> {
        self.find(ask.path).boxed_local()
    }
}

impl fmt::Debug for Gcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gcp")
            .field("from", &self.from)
            .finish_non_exhaustive()
    }
}

/// The payload of a version, and its number.
fn read(answer: &Value) -> Result<Answer, ReadFault> {
    let data = answer.pointer("/payload/data").and_then(Value::as_str);
    let data = data.ok_or_else(|| ReadFault::Answer("it has no `payload.data`".to_owned()))?;
    let bytes = STANDARD.decode(data.as_bytes());
    let bytes = bytes
        .map_err(|_not_base64| ReadFault::Answer("its `payload.data` is no base64".to_owned()))?;
    let bytes = Zeroizing::new(bytes);
    let text = std::str::from_utf8(&bytes).map_err(|_not_utf8| ReadFault::NotText)?;
    let name = answer.get("name").and_then(Value::as_str);
    let version = name.and_then(|name| name.rsplit('/').next());
    Ok(Answer {
        content: Content::Text(Zeroizing::new(text.to_owned())),
        good_for: None,
        version: version.map(str::to_owned),
    })
}

/// What a status other than success means, in Google's words without the token. (Google Cloud,
/// "Errors"; RFC 6749 §5.2 for those of the login)
fn refused(answer: &net_http::Answer, token: &str) -> ReadFault {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = |at: &str| body.pointer(at).and_then(Value::as_str);
    let message = text("/error/message").or_else(|| text("/error_description"));
    let message = message.or_else(|| text("/error")).unwrap_or_default();
    let message = wire::words(message, 256, &[token.as_bytes()]);
    let said = format!("{} {message}", answer.status.as_u16());
    let said = said.trim_end().to_owned();
    match answer.status.as_u16() {
        404 => ReadFault::NotFound,
        400 | 401 | 403 => ReadFault::Denied(said),
        429 | 500..=599 => ReadFault::Unavailable(said),
        _ => ReadFault::Answer(said),
    }
}

#[cfg(test)]
mod tests;
