//! Opens what the gateway keeps: the store, and the key that seals what is in it.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cli::print;
use crate::cli::server::secrets;
use crate::config::{self, Config, SecretText};
use crate::control::rekey::{Keys, RekeyError, chain_key};
use crate::control::{self, Rules};
use crate::crypto::error::CryptoError;
use crate::failure::chain;
use crate::matching::route::Router;
use crate::net::dial::Forbidden;
use crate::secrets::custody::kek::{CHECK_NAME, Kek};
use crate::secrets::custody::keyring::Keyring;
use crate::secrets::custody::obtain::{self, Configured, Found, Known, ObtainError, Sources};
use crate::secrets::custody::rotation::{CHAIN_NAME, NEXT_NAME, Rotation};
use crate::secrets::custody::{Custody, KeptIn, kek::KekError};
use crate::snapshot::live::Live;
use crate::store::audit::{CHAIN_LABEL, ChainKey};
use crate::store::memory::Memory;
use crate::store::sqlite::{self, Database};
use crate::store::{Store, StoreError};
use crate::telemetry::metrics::{Metrics, MetricsError};
use crate::tls::cache::Contexts;

/// What a stored document looks like when it holds a sealed value.
const SEALED: &str = "\"pc1:";

/// Where in the data directory what a file declares is kept while it is served.
const DECLARED: &str = "declared";

/// Why what is kept cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeepingError {
    #[error("the store cannot be opened")]
    Store(#[from] StoreError),
    #[error("the key-encryption key cannot be used")]
    Kek(#[from] ObtainError),
    #[error("no key can be made")]
    Made(#[from] KekError),
    #[error("OpenSSL failed")]
    Crypto(#[from] CryptoError),
    #[error("the metrics cannot be set up")]
    Metrics(#[source] MetricsError),
    #[error(transparent)]
    Trust(#[from] control::StartError),
    #[error("the audit chain's keys cannot be opened")]
    Chain(#[source] RekeyError),
}

/// The store with the custody of what is in it.
pub(super) struct Keeping {
    /// The store.
    pub(super) store: Arc<dyn Store>,
    /// What seals its keys.
    pub(super) custody: Custody,
    /// The file that the key was read from; `None` where it came from the configuration.
    pub(super) kek_file: Option<PathBuf>,
    /// What the operator should know of the key.
    pub(super) warning: Option<String>,
    /// The keys, where the next one can be put beside the one in use; `None` where nothing lasts.
    pub(super) keys: Option<Keys>,
}

/// Opens the store for serving, under its lock; the first start makes what is missing.
pub(super) fn open(config: &Config) -> Result<Keeping, KeepingError> {
    if config.store == config::Store::Memory {
        // What the gateway makes for itself, such as the admin listener's certificate, lies there.
        sqlite::make_directory(&config.data_dir)?;
        return in_memory();
    }
    let database = Database::open(&config.data_dir)?;
    let known = known(&database)?;
    let found = obtain::obtain(&sources(config), &known)?;
    if known.check.is_none() {
        database.meta_put(CHECK_NAME, &found.kek.check_value()?)?;
    }
    let files = sources(config).rotation();
    keep(database, settled(found, &files), files)
}

/// Ends a rotation whose last step was interrupted: the key in use comes to its place.
fn settled(found: Found, files: &Rotation) -> Found {
    if found.next.is_some() || found.path != Some(files.next.clone()) {
        return found;
    }
    match files.settle(&found.kek) {
        Ok(true) => Found {
            path: files.place.clone(),
            warning: None,
            ..found
        },
        Ok(false) => found,
        Err(error) => {
            tracing::warn!(error = chain(&error), "the key's file cannot be moved");
            found
        }
    }
}

/// An empty store for what a file declares, which is read again at the next start: on disk, as
/// memory would hold every document of it, sealed with a key that nobody has but this process.
pub(super) fn open_declared(config: &Config) -> Result<Keeping, KeepingError> {
    // What the gateway makes for itself lies beside it.
    sqlite::make_directory(&config.data_dir)?;
    let database = Database::open_empty(&config.data_dir.join(DECLARED))?;
    let kek = Kek::random()?;
    let chain = ChainKey::new(kek.derive_mac_key(CHAIN_LABEL)?);
    Ok(Keeping {
        store: Arc::new(database.into_store(chain)),
        custody: Custody::new(&kek)?,
        kek_file: None,
        keys: None,
        warning: None,
    })
}

/// Opens the store for looking, beside a gateway that may be running; makes nothing. `None` when
/// there is nothing to look at, which is refused all the same where [`open`] would refuse its key.
pub(super) fn open_to_read(config: &Config) -> Result<Option<Keeping>, KeepingError> {
    if config.store == config::Store::Memory {
        return Ok(None);
    }
    let database = Database::open_to_read(&config.data_dir)?;
    let known = database.as_ref().map(known).transpose()?;
    let found = obtain::foresee(&sources(config), &known.unwrap_or_default())?;
    match (database, found) {
        (Some(database), Some(found)) => {
            keep(database, found, sources(config).rotation()).map(Some)
        }
        (None, _) | (_, None) => Ok(None),
    }
}

/// What the configuration says about writes. A port that the system is to choose is not known yet.
pub(super) fn rules(config: &Config) -> Result<Rules, KeepingError> {
    let own = [
        &config.admin.listen,
        &config.admin.https.listen,
        &config.status.listen,
    ];
    let own = own.into_iter().flatten().map(|address| address.addr);
    let trust_file = config.upstream.trust_file.as_ref();
    Ok(Rules {
        trust_file: trust_file
            .map(|file| control::read_trust_file("upstream.trust_file", file))
            .transpose()?,
        refuse_weakening: config.security.refuse_weakening,
        require_upstream_verify: config.security.require_upstream_verify,
        router: match config.proxy.router {
            config::Router::HostUri => Router::HostUri,
            config::Router::Uri => Router::Uri,
            config::Router::UriWithParameter => Router::UriWithParameter,
        },
        secrets: secrets::rules(config),
        keyring: Keyring::new(config.keyring.iter().map(SecretText::expose)),
        own: Arc::new(Forbidden::new(own.filter(|address| address.port() != 0))),
        ..Rules::default()
    })
}

/// What control works with, from what is kept and what is configured.
pub(super) fn parts(
    config: &Config,
    keeping: Keeping,
    live: Arc<Live>,
    contexts: Arc<Contexts>,
    metrics: Arc<Metrics>,
) -> Result<control::Parts, KeepingError> {
    Ok(control::Parts {
        store: keeping.store,
        custody: keeping.custody,
        live,
        contexts,
        metrics,
        rules: rules(config)?,
        workers: Vec::new(),
        desk: None,
    })
}

pub(super) fn known(database: &Database) -> Result<Known, StoreError> {
    Ok(Known {
        next: database.meta_find(NEXT_NAME)?,
        check: database.meta_find(CHECK_NAME)?,
        sealed_values: database.contains_text(SEALED)?,
    })
}

pub(super) fn sources(config: &Config) -> Sources {
    let (configured, credentials): (_, Option<PathBuf>) = match &config.kek {
        config::Kek::File(path) => (Some(Configured::Path(path.clone())), None),
        config::Kek::Value(text) => (
            Some(Configured::Value(text.expose().to_owned().into())),
            None,
        ),
        config::Kek::Search(credentials) => (None, credentials.clone()),
    };
    Sources::new(configured, credentials, config.data_dir.clone())
}

pub(super) fn keep(
    database: Database,
    found: Found,
    files: Rotation,
) -> Result<Keeping, KeepingError> {
    let custody = Custody::new(&found.kek)?;
    let kept_in = found.path.clone();
    let kept_in = kept_in.map_or(KeptIn::Configuration, KeptIn::File);
    custody.locate(found.kek.id(), &kept_in);
    if let Some(next) = &found.next {
        custody.go_over(next)?;
        let settled = files.place.clone().filter(|_| !files.next.exists());
        let file = settled.unwrap_or_else(|| files.next.clone());
        custody.locate(next.id(), &KeptIn::File(file));
    }
    let past = database.meta_find(CHAIN_NAME)?;
    let key = chain_key(&found.kek, &custody, past.as_deref()).map_err(KeepingError::Chain)?;
    Ok(Keeping {
        store: Arc::new(database.into_store(key)),
        custody,
        kek_file: found.path,
        warning: found.warning,
        keys: Some(Keys {
            current: found.kek,
            next: found.next,
            files,
        }),
    })
}

/// A file that root has made is for the gateway's user. Whoever is not root is that user.
pub(super) fn give_to_owner(path: &Path, data_dir: &Path) {
    let owner = std::fs::metadata(data_dir).map(|data| (data.uid(), data.gid()));
    let own = std::fs::metadata(path).map(|file| (file.uid(), file.gid()));
    if let (Ok((uid, gid)), Ok(own)) = (owner, own)
        && own != (uid, gid)
        && let Err(error) = chown(path, Some(uid), Some(gid))
    {
        print::err(&format!(
            "portcullis: {} cannot be given to the gateway's user: {error}",
            path.display()
        ));
    }
}

/// A store that is gone with the process.
pub(super) fn in_memory() -> Result<Keeping, KeepingError> {
    let kek = Kek::random()?;
    let chain = ChainKey::new(kek.derive_mac_key(CHAIN_LABEL)?);
    Ok(Keeping {
        store: Arc::new(Memory::new(chain)),
        custody: Custody::new(&kek)?,
        kek_file: None,
        keys: None,
        warning: Some("the store is memory: everything is gone with the process".to_owned()),
    })
}
