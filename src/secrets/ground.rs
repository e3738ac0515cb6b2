//! What managers are opened with: settings, clients, credentials, and the fence around these.

use std::fmt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::aws::Aws;
use super::custody::Opened;
use super::env::Environment;
use super::file::Root;
use super::gcp::Gcp;
use super::kubernetes::Kubernetes;
use super::news::{News, Told};
use super::reference::{Reference, SourceKey};
use super::settings::{Bounds, Reach, Settings};
use super::source::{Ask, ReadFault, Source};
use super::vault::Vault;
use super::watch::Watcher;
use crate::net::dial::{Dialer, Forbidden};
use crate::net::http::{Client, Limits, Origin, Tls};
use crate::net::resolve::Resolver;
use crate::net::sweep::Sweep;
use crate::resource::Id;
use crate::resource::is_reference;
use crate::resource::secret::Manager;
use crate::telemetry::metrics::Metrics;
use crate::tls::material::KeyPair;
use crate::tls::policy::Offer;
use crate::tls::trust::CaStore;
use crate::tls::upstream::{Protocol, ServerName, UpstreamConnector, UpstreamSpec};

/// The largest answer of a manager, in bytes.
const ANSWER_BYTES: usize = 4 << 20;

/// What every source of this thread is opened with.
pub struct Ground {
    /// What the configuration says.
    pub settings: Settings,
    /// The environment that references and credentials may name.
    pub environment: Rc<Environment>,
    /// This thread's time.
    pub sweep: Rc<Sweep>,
    /// Addresses that are never dialled: the gateway's own.
    pub forbidden: Arc<Forbidden>,
    /// The process's view of names.
    pub resolver: Resolver,
    /// How long one attempt may take.
    pub bounds: Bounds,
    /// Where sources tell what changed.
    pub news: News,
    /// What watches the files that are referred to.
    pub files: Watcher<Told>,
    /// Where handshakes with managers are counted.
    pub metrics: Arc<Metrics>,
}

impl Ground {
    /// A client of an origin, with the CAs of its manager and `identity` to show, by way of
    /// [`Settings::proxy`].
    ///
    /// # Errors
    /// [`ReadFault::Unusable`]: no CA is known, or OpenSSL refuses the material.
    pub fn client(
        &self,
        origin: Origin,
        reach: &Reach,
        identity: Option<KeyPair>,
    ) -> Result<Client, ReadFault> {
        let client = self.direct_client(origin, reach, identity)?;
        Ok(client.by_way_of(self.settings.proxy.clone()))
    }

    /// The same, whatever proxy there is: for what nobody but this machine may be asked by.
    ///
    /// # Errors
    /// Those of [`Ground::client`].
    pub fn direct_client(
        &self,
        origin: Origin,
        reach: &Reach,
        identity: Option<KeyPair>,
    ) -> Result<Client, ReadFault> {
        let tls = if origin.is_tls {
            let trust = reach.trust.as_ref().ok_or_else(|| {
                ReadFault::Unusable(
                    "no CA is known that its certificate could come from; set `trust_file` of its \
                     manager in the configuration"
                        .to_owned(),
                )
            })?;
            let refused = |error| ReadFault::Unusable(format!("its TLS cannot be set up: {error}"));
            let connector = UpstreamConnector::build_wiping(&UpstreamSpec {
                identity,
                trust: Some(Arc::new(CaStore::new(trust).map_err(refused)?)),
                offer: Offer::default(),
                protocol: Protocol::Http1,
            });
            Some(Tls {
                connector: connector.map_err(refused)?,
                name: ServerName::new(&origin.host),
            })
        } else {
            None
        };
        let limits = Limits {
            connect: self.bounds.attempt,
            answer: self.bounds.attempt,
            body_bytes: ANSWER_BYTES,
        };
        let dialer = Dialer::new(
            Rc::clone(&self.sweep),
            Arc::clone(&self.forbidden),
            self.resolver.clone(),
        );
        let dialer = dialer.counting(Arc::clone(&self.metrics));
        let sweep = Rc::clone(&self.sweep);
        Ok(Client::new(origin, tls, limits, sweep, dialer))
    }

    /// The root of files with this name.
    ///
    /// # Errors
    /// [`ReadFault::NoManager`].
    pub fn root(&self, name: &str) -> Result<Root, ReadFault> {
        let roots = &mut self.settings.file_roots.iter();
        let found = roots.find(|(own, _)| own == name);
        let (_, path) = found.ok_or_else(|| {
            ReadFault::NoManager(format!("the root {name} of `secrets.file.roots`"))
        })?;
        let root = Root::new(path.clone(), self.settings.data_dir.clone());
        Ok(root.watched_as(name, self.files.clone()))
    }

    /// The file that a path or a reference in this member of a resource means: one beneath a root of
    /// the configuration.
    ///
    /// # Errors
    /// [`ReadFault::Fenced`] for a path outside of the roots, and those of [`Credential::parse`].
    pub fn file(&self, member: &str, text: &str) -> Result<Credential, ReadFault> {
        if is_reference(text) {
            return Credential::parse(text);
        }
        let mut roots = self.settings.file_roots.iter();
        let found = roots.find_map(|(name, root)| {
            let below = Path::new(text).strip_prefix(root).ok()?;
            Some(format!("$secret://file/{name}/{}", below.to_str()?))
        });
        match found {
            Some(reference) => Credential::parse(&reference),
            None => Err(ReadFault::Fenced(format!(
                "`{member}` lies beneath none of `secrets.file.roots`; list its folder there, so \
                 that no resource can have other files read"
            ))),
        }
    }

    /// Refuses a credential that its writer did not supply, unless the origin is listed.
    ///
    /// Whoever may write a `secret` must not learn by its address what only the operator of this
    /// process has.
    ///
    /// # Errors
    /// [`ReadFault::OriginNotTrusted`].
    pub fn check_origin(
        &self,
        manager: Manager,
        origin: &Origin,
        is_supplied: bool,
    ) -> Result<(), ReadFault> {
        if is_supplied || self.settings.reach(manager).lists(origin) {
            return Ok(());
        }
        let bare = Origin {
            path: String::new(),
            ..origin.clone()
        };
        Err(ReadFault::OriginNotTrusted {
            origin: bare.to_string(),
            manager: manager.word(),
        })
    }
}

/// A credential of a `secret` resource: written in it, or kept elsewhere.
#[derive(Clone)]
pub enum Credential {
    /// In the document.
    Supplied(Zeroizing<String>),
    /// In the environment or a file; read anew each time.
    Kept(Reference),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Supplied(_) => f.write_str("Supplied([withheld])"),
            Self::Kept(reference) => write!(f, "Kept({}/{})", reference.origin, reference.rest),
        }
    }
}

impl Credential {
    /// A member of the document as it stands there.
    ///
    /// # Errors
    /// [`ReadFault::Malformed`], and [`ReadFault::Unusable`] for a reference to another manager:
    /// one would have to answer before the other.
    pub fn parse(text: &str) -> Result<Self, ReadFault> {
        if !is_reference(text) {
            return Ok(Self::Supplied(Zeroizing::new(text.to_owned())));
        }
        let reference = Reference::parse(text)?;
        match reference.origin {
            SourceKey::Env | SourceKey::File(_) => Ok(Self::Kept(reference)),
            SourceKey::Secret(_) => Err(ReadFault::Unusable(
                "a manager's own credential cannot be kept by a manager; use $env://NAME or \
                 $secret://file/…"
                    .to_owned(),
            )),
        }
    }

    /// Whether whoever wrote the document had it.
    #[must_use]
    pub const fn is_supplied(&self) -> bool {
        matches!(self, Self::Supplied(_))
    }

    /// Its value, without the line end that editors add.
    ///
    /// # Errors
    /// Those of the environment and of files.
    pub async fn read(&self, ground: &Ground) -> Result<Zeroizing<String>, ReadFault> {
        let reference = match self {
            Self::Supplied(text) => return Ok(text.clone()),
            Self::Kept(reference) => reference,
        };
        let source: Rc<dyn Source> = match &reference.origin {
            SourceKey::Env => ground.environment.clone(),
            SourceKey::File(root) => Rc::new(ground.root(root)?),
            SourceKey::Secret(_) => return Err(ReadFault::Internal),
        };
        let places = source.places(&reference.rest)?;
        let place = places.first().ok_or(ReadFault::Internal)?;
        let members: Vec<String> = place.member.clone().into_iter().collect();
        let answer = source.read(Ask {
            path: &place.path,
            members: &members,
            dry_run: true,
        });
        let value = answer.await?.value(place.member.as_deref())?;
        Ok(Zeroizing::new(
            value.trim_end_matches(['\r', '\n']).to_owned(),
        ))
    }
}

/// Opens the manager that a `secret` resource describes. Nothing is asked of it yet.
///
/// # Errors
/// [`ReadFault::Unusable`] with the member at fault, and those of [`Ground::client`].
pub fn open(id: &Id, document: &Opened, ground: &Rc<Ground>) -> Result<Rc<dyn Source>, ReadFault> {
    let word = id.as_str().split('/').next().unwrap_or_default();
    match Manager::from_word(word) {
        Some(Manager::Vault) => Ok(Rc::new(Vault::open(document, ground)?)),
        Some(Manager::Aws) => Ok(Rc::new(Aws::open(document, ground)?)),
        Some(Manager::Kubernetes) => Ok(Rc::new(Kubernetes::open(id, document, ground)?)),
        Some(Manager::Gcp) => Ok(Rc::new(Gcp::open(document, ground)?)),
        None => Err(ReadFault::NoManager(id.to_string())),
    }
}

#[cfg(test)]
pub(super) mod samples {
    //! A ground for the tests of this room.

    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::super::file::LOOK;
    use super::*;

    /// Bounds that a test never meets by accident.
    pub(in crate::secrets) const BOUNDS: Bounds = Bounds {
        attempt: Duration::from_secs(5),
        attempts: 2,
        total: Duration::from_secs(20),
    };

    /// A ground with these settings, whose environment has `TOKEN`.
    pub(in crate::secrets) fn ground(settings: Settings) -> Rc<Ground> {
        let sweep = Sweep::new();
        tokio::task::spawn_local(Rc::clone(&sweep).run(|| {}));
        let lookup = |name: &str| (name == "TOKEN").then(|| "hush-token\n".to_owned());
        Rc::new(Ground {
            settings,
            environment: Rc::new(Environment::new(Box::new(lookup), BTreeSet::new())),
            sweep,
            forbidden: Arc::default(),
            resolver: Resolver::system(),
            bounds: BOUNDS,
            news: News::default(),
            files: Watcher::new(LOOK),
            metrics: Arc::new(Metrics::new().unwrap()),
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::samples::ground;
    use super::*;

    #[tokio::test]
    async fn credential_is_read_where_it_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "hush-file\n").unwrap();
        let settings = Settings {
            file_roots: vec![("r".to_owned(), dir.path().to_owned())],
            ..Settings::default()
        };
        let work = async {
            let ground = ground(settings);
            for (text, value, is_supplied) in [
                ("itself", "itself", true),
                ("$env://TOKEN", "hush-token", false),
                ("$ENV://TOKEN", "hush-token", false),
                ("$secret://file/r/token", "hush-file", false),
            ] {
                let credential = Credential::parse(text).unwrap();
                assert_eq!(credential.is_supplied(), is_supplied, "{text}");
                assert_eq!(**credential.read(&ground).await.unwrap(), *value);
                assert!(!format!("{credential:?}").contains("itself"));
            }
            for text in [
                "$env://VAULT_TOKEN",
                "$env://NOBODY",
                "$secret://file/x/token",
            ] {
                let credential = Credential::parse(text).unwrap();
                assert!(credential.read(&ground).await.is_err(), "{text}");
            }
            assert!(Credential::parse("$secret://vault/1/a/token").is_err());
        };
        LocalSet::new().run_until(work).await;
    }

    #[tokio::test]
    async fn credential_of_others_goes_to_listed_origins_only() {
        let origin = |url: &str| Origin::parse(url).unwrap();
        let mut settings = Settings::default();
        settings.vault.origins = vec![origin("https://vault.test")];
        let work = async {
            let ground = ground(settings);
            let check =
                |url, is_supplied| ground.check_origin(Manager::Vault, &origin(url), is_supplied);
            check("https://vault.test/v1/x", false).unwrap();
            check("https://evil.test", true).unwrap();
            let told = check("https://evil.test/v1/x", false).unwrap_err();
            assert_eq!(told.reason().code(), "secret_origin_not_trusted");
            let text = told.to_string();
            assert!(
                text.contains("https://evil.test,") && text.contains("`secrets.vault.origins`"),
                "{text}"
            );
            let aws = ground.check_origin(Manager::Aws, &origin("https://vault.test"), false);
            assert!(aws.is_err(), "origins are listed for each manager");
        };
        LocalSet::new().run_until(work).await;
    }
}
