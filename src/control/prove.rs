//! The proof of a write: what was compiled is built, and a handshake is made with it in memory.

use std::sync::Arc;

use crate::control::build::lent_by;
use crate::control::{Inner, WriteError, store_failed};
use crate::resource::fault::{Fault, Words};
use crate::resource::ssl::Role;
use crate::resource::{Kind, Resource};
use crate::snapshot::compile::Build;
use crate::snapshot::specs;
use crate::tls::material::MaterialError;
use crate::tls::policy::Offer;
use crate::tls::proof::prove_server;
use crate::tls::server::ServerContext;
use crate::tls::upstream::{Protocol, UpstreamConnector, UpstreamSpec};

/// What was built and works.
#[derive(Default)]
pub(super) struct Proved {
    pub(super) context: Option<Arc<ServerContext>>,
    pub(super) connector: Option<Arc<UpstreamConnector>>,
}

impl Inner {
    /// Builds what a resource compiled to, and shows that it works.
    ///
    /// Nothing to build is no fault here: what is closed was reported when it was compiled.
    ///
    /// # Errors
    /// [`WriteError::Invalid`] with the pointer to what does not work, [`WriteError::Store`].
    pub(super) fn prove(
        &self,
        kind: Kind,
        resource: &Resource,
        build: Option<Build>,
    ) -> Result<Proved, WriteError> {
        let mut proved = Proved::default();
        match build {
            Some(Build::Server(spec)) => {
                let context =
                    ServerContext::build(spec).map_err(|error| refusal("/cert", error))?;
                prove_server(&context).map_err(|error| fault("/cert", error.to_string()))?;
                proved.context = Some(Arc::new(context));
            }
            Some(Build::Upstream { mut spec, borrowed }) => {
                if let Some(lender) = borrowed {
                    let stored = self.store.find(Kind::Ssl, &lender).map_err(store_failed)?;
                    let read = stored.and_then(|stored| self.read(&stored).ok());
                    // A lender that is not there is refused with the other references; one that
                    // lends nothing closes this upstream until it does.
                    match read.and_then(|parsed| lent_by(&parsed.resource).ok()) {
                        Some(pair) => spec.identity = Some(pair),
                        None => return Ok(proved),
                    }
                }
                let at = if kind == Kind::Upstream {
                    "/tls"
                } else {
                    "/upstream/tls"
                };
                let connector =
                    UpstreamConnector::build(&spec).map_err(|error| refusal(at, error))?;
                proved.connector = Some(Arc::new(connector));
            }
            None => prove_lender(resource)?,
        }
        Ok(proved)
    }
}

/// Shows that a certificate for upstreams can be used as one.
fn prove_lender(resource: &Resource) -> Result<(), WriteError> {
    let Resource::Ssl(ssl) = resource else {
        return Ok(());
    };
    if ssl.role != Role::Client {
        return Ok(());
    }
    // Without a pair there is nothing to prove: it is a reference, and closed.
    let Ok(pair) = specs::identity(ssl) else {
        return Ok(());
    };
    let spec = UpstreamSpec {
        identity: Some(pair),
        trust: None,
        offer: Offer::default(),
        protocol: Protocol::Http1,
    };
    UpstreamConnector::build(&spec)
        .map(|_| ())
        .map_err(|error| refusal("/cert", error))
}

fn refusal(at: &str, error: impl Into<MaterialError>) -> WriteError {
    let error: MaterialError = error.into();
    let cause = match &error {
        MaterialError::OpenSsl(stack) => {
            let reasons: Vec<_> = stack
                .errors()
                .iter()
                .filter_map(|error| error.reason())
                .collect();
            reasons.join("; ")
        }
        MaterialError::Certificate(_)
        | MaterialError::Key(_)
        | MaterialError::Encrypted
        | MaterialError::WeakEncryption(_)
        | MaterialError::Passphrase(_)
        | MaterialError::Unapproved(_)
        | MaterialError::Mismatch
        | MaterialError::KeyType(_)
        | MaterialError::TooShort { .. } => error.to_string(),
    };
    fault(
        at,
        format!("OpenSSL refuses this certificate or key: {cause}"),
    )
}

fn fault(at: &str, reason: String) -> WriteError {
    let fault = Fault {
        pointer: at.to_owned(),
        reason,
        words: Words::Ours,
        guess: None,
    };
    WriteError::Invalid(crate::resource::fault::Faults(vec![fault]))
}
