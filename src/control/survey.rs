//! What the store holds as far as TLS goes, each object compiled as at the start: for reports.
//!
//! Every key is loaded anew by that. Keys leave this room as parsed values only, never as text.

use serde_json::Value;

use crate::control::start::{Parts, StartError, assemble};
use crate::control::{Control, Finding, Inner};
use crate::resource::Resource;
use crate::resource::secret::{Manager, Secret};
use crate::resource::service::UpstreamRef;
use crate::resource::ssl::Ssl;
use crate::resource::upstream::Upstream;
use crate::secrets::custody::places;
use crate::secrets::reference::{Reference, SourceKey};
use crate::snapshot::compile::{Build, Compiled, Piece, compile};
use crate::snapshot::specs;
use crate::store::{StoreError, Stored};
use crate::tls::material::{CaBundle, KeyPair, PrivateKey};
use crate::tls::policy::{ClientAuth, Offer};

/// A stored object that has to do with TLS. Disabled ones are left out: they claim nothing.
#[derive(Debug)]
pub struct Surveyed {
    /// Kind and id, as in `ssls/1`.
    pub object: String,
    /// What it is.
    pub role: Role,
    /// Why it is not served, where it is not.
    pub closed: Option<String>,
    /// What it permits, or is offered; `None` where it is closed.
    pub offer: Option<Offer>,
    /// Its certificates with their keys, each with the member that holds the key.
    pub pairs: Vec<(&'static str, KeyPair)>,
    /// Its private keys that have no certificate, each with its member.
    pub keys: Vec<(&'static str, PrivateKey)>,
    /// Where its keys lie, of those that are files: the root of `secrets.file.roots`, and the path
    /// below it.
    pub key_files: Vec<(String, String)>,
}

/// What an object is to TLS.
#[derive(Debug)]
pub enum Role {
    /// It serves names.
    Names {
        /// As they are claimed.
        names: Vec<String>,
        /// What is asked of clients.
        mode: ClientAuth,
        /// Intermediates allowed; counts only where a certificate is asked for.
        depth: u32,
        /// Whom clients must come from.
        ca: Option<CaBundle>,
        /// Whether their certificates are held against revocation lists (`client.crl`).
        has_crl: bool,
    },
    /// It lends its certificate to upstreams.
    Identity,
    /// It is reached over TLS.
    Upstream {
        /// Whether its certificate is checked.
        is_verified: bool,
        /// Whom it must come from; `None` where nothing is checked, or it is closed.
        trust: Option<CaBundle>,
        /// Whether that is `upstream.trust_file`, for want of CAs of its own.
        is_trust_file: bool,
    },
    /// It is a secret manager.
    Manager {
        /// Which.
        manager: Manager,
        /// Whether it is reached over TLS, so that its certificate is checked.
        is_tls: bool,
    },
    /// It cannot be read any more.
    Unreadable,
}

/// Surveys what is stored, without serving it.
///
/// # Errors
/// The store cannot be read.
pub fn survey(parts: Parts) -> Result<Vec<Surveyed>, StartError> {
    Ok(assemble(parts).survey()?)
}

impl Control {
    /// Surveys what was declared: what was read of the file, and what of it is closed.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn survey(&self, findings: &[Finding]) -> Result<Vec<Surveyed>, StoreError> {
        let mut all = self.inner.survey()?;
        for Finding { kind, id, text, .. } in findings.iter().filter(|found| found.is_error) {
            let object = format!("{}/{id}", kind.plural());
            if !all.iter().any(|known| known.object == object) {
                all.push(Surveyed {
                    object,
                    role: Role::Unreadable,
                    closed: Some(text.clone()),
                    offer: None,
                    pairs: Vec::new(),
                    keys: Vec::new(),
                    key_files: Vec::new(),
                });
            }
        }
        Ok(all)
    }
}

impl Inner {
    /// Everything that has to do with TLS, in the store's order.
    pub(super) fn survey(&self) -> Result<Vec<Surveyed>, StoreError> {
        let loaded = self.load()?;
        let all = loaded.objects.iter();
        Ok(all.filter_map(|stored| self.survey_one(stored)).collect())
    }

    fn survey_one(&self, stored: &Stored) -> Option<Surveyed> {
        let Stored { kind, id, .. } = stored;
        let object = format!("{}/{id}", kind.plural());
        let parsed = match self.read(stored) {
            Ok(parsed) => parsed,
            Err(error) => {
                return Some(Surveyed {
                    object,
                    role: Role::Unreadable,
                    closed: Some(error.to_string()),
                    offer: None,
                    pairs: Vec::new(),
                    keys: Vec::new(),
                    key_files: key_files(stored),
                });
            }
        };
        let compiled = compile(*kind, id, &parsed.resource, &self.ground());
        let role = self.role(&parsed.resource, &compiled)?;
        let trouble = compiled.trouble.as_ref();
        let closed = trouble.map(|(pointer, error)| format!("{pointer}: {error}"));
        let offer = match (&compiled.build, &compiled.piece) {
            (Some(Build::Server(spec)), _) => Some(Offer::of(spec.versions)),
            (Some(Build::Upstream { spec, .. }), _) => Some(spec.offer.clone()),
            (None, _) => None,
        };
        Some(Surveyed {
            object,
            role,
            closed,
            offer,
            pairs: pairs(&parsed.resource, &compiled),
            keys: signing_key(&parsed.resource).into_iter().collect(),
            key_files: key_files(stored),
        })
    }

    /// `None` for what has nothing to do with TLS, or is disabled.
    fn role(&self, resource: &Resource, compiled: &Compiled) -> Option<Role> {
        if let Resource::Secret(secret) = resource {
            let address = ["uri", "endpoint_url"].map(|member| secret.document.get(member));
            let address = address.into_iter().flatten().find_map(Value::as_str);
            return Some(Role::Manager {
                manager: secret.manager,
                // Only AWS's own address is not written down.
                is_tls: address.map_or(secret.manager == Manager::Aws, |address| {
                    address.starts_with("https://")
                }),
            });
        }
        if let Piece::Identity(_) = &compiled.piece {
            return Some(Role::Identity);
        }
        if let (Piece::Server(server), Resource::Ssl(ssl)) = (&compiled.piece, resource) {
            return Some(Role::Names {
                names: server.patterns.iter().map(ToString::to_string).collect(),
                mode: server.policy.mode,
                depth: server.policy.depth,
                ca: trusted_of_clients(ssl),
                has_crl: server.policy.crl.is_some(),
            });
        }
        let trust = compiled.piece.upstream()?.upstream.trust.as_ref()?;
        let tls = upstream_of(resource).and_then(|upstream| upstream.tls.as_ref());
        let trusted = tls.and_then(|tls| specs::trust(tls, self.rules.trust_file.as_ref()).ok()?);
        let bundle = trusted.map(|trusted| trusted.bundle);
        Some(Role::Upstream {
            is_verified: trust.verify,
            is_trust_file: bundle.is_some() && tls.is_some_and(|tls| tls.ca_certs.is_empty()),
            trust: bundle,
        })
    }
}

/// The upstream that a resource is or holds.
fn upstream_of(resource: &Resource) -> Option<&Upstream> {
    let held = match resource {
        Resource::Upstream(upstream) => return Some(upstream),
        Resource::Service(service) => service.upstream.as_ref(),
        Resource::Route(route) => route.upstream.as_ref(),
        Resource::Ssl(_) | Resource::Secret(_) => None,
    };
    match held? {
        UpstreamRef::Inline(upstream) => Some(upstream),
        UpstreamRef::Id(_) => None,
    }
}

fn trusted_of_clients(ssl: &Ssl) -> Option<CaBundle> {
    let (_, trusted) = specs::policy(ssl.client.as_ref()).ok()?;
    trusted.map(|trusted| trusted.bundle)
}

/// The files that an object's keys are in.
fn key_files(stored: &Stored) -> Vec<(String, String)> {
    let references = places::references(stored.kind, &stored.document);
    let of_keys = references.into_iter().filter(|(pointer, _)| {
        let mut words = pointer.split('/');
        words.any(|word| matches!(word, "key" | "keys" | "client_key"))
    });
    let parsed = of_keys.filter_map(|(_, text)| Reference::parse(&text).ok());
    let files = parsed.filter_map(|reference| match reference.origin {
        SourceKey::File(root) => Some((root, reference.rest)),
        SourceKey::Secret(_) | SourceKey::Env => None,
    });
    files.collect()
}

/// What a manager is logged in to with.
fn login(secret: &Secret) -> Option<KeyPair> {
    let auth = secret.document.get("auth")?;
    let text = |member| auth.get(member).and_then(Value::as_str);
    KeyPair::parse(text("cert")?, text("key")?).ok()
}

/// What a manager's logins are signed with, unless it lies elsewhere.
fn signing_key(resource: &Resource) -> Option<(&'static str, PrivateKey)> {
    let Resource::Secret(secret) = resource else {
        return None;
    };
    let text = secret.document.get("auth_config")?.get("private_key")?;
    let key = PrivateKey::parse(text.as_str()?).ok()?;
    Some(("auth_config.private_key", key))
}

/// The pairs that an object was compiled with.
fn pairs(resource: &Resource, compiled: &Compiled) -> Vec<(&'static str, KeyPair)> {
    match (&compiled.build, &compiled.piece, resource) {
        (Some(Build::Server(spec)), _, _) => {
            let members = std::iter::once("key").chain(std::iter::repeat("keys"));
            members.zip(spec.pairs.iter().cloned()).collect()
        }
        (Some(Build::Upstream { spec, .. }), _, _) => {
            let own = spec.identity.iter().cloned();
            own.map(|pair| ("tls.client_key", pair)).collect()
        }
        (None, Piece::Identity(Ok(_)), Resource::Ssl(ssl)) => {
            let lent = specs::identity(ssl).ok();
            lent.map(|pair| ("key", pair)).into_iter().collect()
        }
        (None, _, Resource::Secret(secret)) => {
            let login = login(secret);
            login.map(|pair| ("auth.key", pair)).into_iter().collect()
        }
        (None, _, _) => Vec::new(),
    }
}
