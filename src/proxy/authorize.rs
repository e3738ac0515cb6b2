//! Whether a connection may carry a request for a name: decided again for each request.
//!
//! A connection pins the ssl, policy and chain of its handshake. The name of the request's
//! authority is compared with that; what it may demand beyond is never taken on trust.

use std::borrow::Cow;
use std::sync::Arc;

use http::Uri;
use http::uri::PathAndQuery;

use crate::failure::Reason;
use crate::matching::authority::Authority;
use crate::matching::path::{self, PathError};
use crate::proxy::conn::{Conn, Pinned};
use crate::proxy::error::Refusal;
use crate::proxy::settings::ClientAuthNames;
use crate::proxy::worker::Worker;
use crate::snapshot::live::Local;
use crate::snapshot::{Name, Snapshot};
use crate::tls::policy::{ClientAuth, ClientPolicy};
use crate::tls::server::ServerContext;

/// Whether the client of `conn` is let in for this target, by the present snapshot; gives that
/// snapshot and the path, normalised.
///
/// # Errors
/// The refusal: [`authorize`]'s, or 400 for a path that cannot be read.
pub async fn admit<'u>(
    worker: &Worker,
    conn: &Conn,
    uri: &'u Uri,
    authority: &Authority,
) -> Result<(Local, Cow<'u, [u8]>), Refusal> {
    let raw_path = uri.path();
    let path = if raw_path == "*" {
        Ok(raw_path.as_bytes().into())
    } else if uri.path_and_query().is_some_and(has_no_path) {
        Err(PathError::NotAbsolute)
    } else {
        path::normalise(raw_path)
    };
    let path = path.map_err(|error| Refusal::new(Reason::PathInvalid, error.to_string()))?;
    let asked = Asked {
        authority,
        raw_path,
        path: &path,
        target: uri.path_and_query().map_or("/", PathAndQuery::as_str),
    };
    let mut snapshot = worker.snapshot();
    while let Err(refusal) = authorize(worker, conn, &snapshot, &asked).await {
        let latest = worker.snapshot();
        // A policy that was replaced while the chain was judged refuses nobody.
        if refusal.reason != Reason::ClientPolicyChanged || latest.version == snapshot.version {
            return Err(refusal);
        }
        snapshot = latest;
    }
    Ok((snapshot, path))
}

/// Whether a target is a query alone, whose path [`Uri::path`] says is `/` and no upstream is told.
/// `:path` may not be so (RFC 9113 §8.3.1).
#[must_use]
pub fn has_no_path(target: &PathAndQuery) -> bool {
    target.as_str().starts_with('?')
}

/// What a request asks for.
#[derive(Debug)]
pub struct Asked<'a> {
    /// Its one authority.
    pub authority: &'a Authority,
    /// Its path as sent.
    pub raw_path: &'a str,
    /// Its path normalised.
    pub path: &'a [u8],
    /// Its target as sent, for a redirect.
    pub target: &'a str,
}

/// Whether `conn` may carry the request.
///
/// # Errors
/// The refusal: 421 for a name of another policy or a closed one, nginx's 400 for a deferred
/// policy that is not met, 308 where plain HTTP is redirected.
pub async fn authorize(
    worker: &Worker,
    conn: &Conn,
    snapshot: &Snapshot,
    asked: &Asked<'_>,
) -> Result<(), Refusal> {
    let Some(name) = conn.name_in(snapshot, asked.authority.host()) else {
        return Ok(());
    };
    if let Err(reason) = name.serving {
        return Err(Refusal::new(
            Reason::NameClosed,
            format!("{} is {}", name.ssl_id, reason),
        ));
    }
    if !name.policy.asks() {
        return Ok(());
    }
    let Some(pinned) = &conn.pinned else {
        return plain(worker, &name, asked);
    };
    let (same_policy, same_ssl) = {
        let pinned = pinned.borrow();
        let context = &pinned.context;
        (
            context.policy.digest == name.policy.digest,
            *context.ssl_id == *name.ssl_id.as_str(),
        )
    };
    if !same_policy {
        if !same_ssl {
            return Err(Reason::AuthorityPolicyMismatch.into());
        }
        Box::pin(rejudge(worker, conn, &name)).await?;
    }
    let verdict = pinned.borrow().verdict;
    match (skips(&name, asked)?, verdict) {
        (true, _) | (_, Ok(())) => Ok(()),
        (false, Err(reason)) => Err(reason.into()),
    }
}

/// Judges a connection's pinned chain against the present policy of its ssl, once, and pins it
/// anew when it passes.
///
/// # Errors
/// `ClientPolicyChanged`, when the chain does not pass or cannot be judged.
pub async fn rejudge(worker: &Worker, conn: &Conn, name: &Arc<Name>) -> Result<(), Refusal> {
    let refused = |detail: &str| Refusal::new(Reason::ClientPolicyChanged, detail);
    let Some(pinned) = &conn.pinned else {
        return Err(refused("no TLS"));
    };
    let Ok(serving) = &name.serving else {
        return Err(refused("the name is closed"));
    };
    let context = worker
        .server_context(&serving.context, &name.ssl_id)
        .await
        .map_err(|reason| refused(reason.code()))?;
    let verdict = judge(&pinned.borrow(), &context);
    let asked = pinned.borrow().context.policy.asks();
    match (context.policy.mode, verdict) {
        (_, Ok(())) => {
            pinned.borrow_mut().pin(context, Ok(()));
            Ok(())
        }
        // A client that was asked and did not comply is told so, request by request. One that was
        // never asked must come again, and be asked then.
        (ClientAuth::Deferred, Err(reason)) => {
            let reason = if asked {
                reason
            } else {
                Reason::ClientPolicyChanged
            };
            pinned.borrow_mut().pin(context, Err(reason));
            Ok(())
        }
        (_, Err(reason)) => Err(refused(reason.code())),
    }
}

/// Whether a name itself asks for client certificates, now.
#[must_use]
pub fn has_own_policy(snapshot: &Snapshot, host: &str) -> bool {
    let name = snapshot.names.find(host);
    name.is_some_and(|name| name.policy.asks())
}

fn judge(pinned: &Pinned, context: &ServerContext) -> Result<(), Reason> {
    let policy: &ClientPolicy = &context.policy;
    match (&pinned.client, policy.mode, &context.ca) {
        (_, ClientAuth::Off, _) | (None, ClientAuth::Optional, _) => Ok(()),
        (None, ClientAuth::Required | ClientAuth::Deferred, _) => Err(Reason::ClientCertMissing),
        (Some(client), _, Some(ca)) => client.judge(ca, policy),
        (Some(_), _, None) => Err(Reason::Internal),
    }
}

/// A plain connection has the policy "none".
fn plain(worker: &Worker, name: &Name, asked: &Asked<'_>) -> Result<(), Refusal> {
    match worker.settings.client_auth_names {
        ClientAuthNames::Allow => Ok(()),
        ClientAuthNames::Refuse => Err(Refusal::new(
            Reason::AuthorityPolicyMismatch,
            format!(
                "{} asks for client certificates, the request came in the clear",
                name.ssl_id
            ),
        )),
        ClientAuthNames::Redirect => {
            let port = worker.settings.https_port;
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            let (host, target) = (asked.authority.host(), asked.target);
            Err(Refusal {
                location: Some(format!("https://{host}{port}{target}")),
                ..Refusal::from(Reason::AuthorityPolicyMismatch)
            })
        }
    }
}

/// Whether the request's path needs no certificate. A pattern counts only when it matches the path
/// as sent and as normalised; a path that could be read in two ways is refused.
fn skips(name: &Name, asked: &Asked<'_>) -> Result<bool, Refusal> {
    if name.skip.is_empty() {
        return Ok(false);
    }
    if path::has_ambiguity(asked.raw_path) {
        return Err(Reason::PathInvalid.into());
    }
    let normalised = std::str::from_utf8(asked.path).ok();
    Ok(name.skip.is_match(asked.raw_path)
        && normalised.is_some_and(|normalised| name.skip.is_match(normalised)))
}
