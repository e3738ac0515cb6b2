//! The start: everything stored is read, compiled and published; or, for `check`, judged only.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use tokio::sync::mpsc;

use crate::config::TrustFile;
use crate::control::adopt::Declared;
use crate::control::documents::Unreadable;
use crate::control::generations::{SecretRules, references_of};
use crate::control::group::Queue;
use crate::control::own_nodes::own_nodes;
use crate::control::plan::{disputed_name, names_member};
use crate::control::probe;
use crate::control::refresh::Tracker;
use crate::control::retire::Retired;
use crate::control::settle::weaker_names;
use crate::control::taken::Taken;
use crate::control::{Inner, WriteError};
use crate::matching::route::Router;
use crate::net::dial::Forbidden;
use crate::net::resolve::Resolver;
use crate::resource::fault::Warning;
use crate::resource::ssl::Role;
use crate::resource::{Id, Kind};
use crate::resource::{missing_reference, references, wrong_ssl_type};
use crate::secrets::custody::Opened;
use crate::secrets::custody::keyring::Keyring;
use crate::secrets::custody::stray::stray_keys;
use crate::secrets::custody::{Custody, CustodyError, Reason as CustodyReason};
use crate::secrets::desk::Desk;
use crate::secrets::generation::Generation;
use crate::snapshot::closed::close;
use crate::snapshot::compile::{Build, Piece, compile};
use crate::snapshot::link::Command;
use crate::snapshot::live::Live;
use crate::snapshot::{Change, Snapshot};
use crate::store::{Store, StoreError, Stored};
use crate::telemetry::metrics::Metrics;
use crate::tls::cache::Contexts;
use crate::tls::material::{CaBundle, MaterialError};
use crate::tls::trust::{CaStore, CaStores};

/// What control works with.
pub struct Parts {
    /// Where resources are kept.
    pub store: Arc<dyn Store>,
    /// What seals their keys; its key-encryption key fits the store.
    pub custody: Custody,
    /// Where snapshots are published.
    pub live: Arc<Live>,
    /// Where contexts are kept.
    pub contexts: Arc<Contexts>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What the configuration says about writes.
    pub rules: Rules,
    /// To every worker.
    pub workers: Vec<mpsc::UnboundedSender<Command>>,
    /// What resolves references; without it, the last good values are all there is.
    pub desk: Option<Desk>,
}

/// What the configuration says about writes.
#[derive(Clone, Debug)]
pub struct Rules {
    /// `upstream.trust_file`, read.
    pub trust_file: Option<CaBundle>,
    /// `security.refuse_weakening`.
    pub refuse_weakening: bool,
    /// `security.require_upstream_verify`.
    pub require_upstream_verify: bool,
    /// `proxy.router`.
    pub router: Router,
    /// The gateway's own admin and status addresses: no node may be one of them.
    pub own: Arc<Forbidden>,
    /// The process's view of names, for checks and probes of nodes.
    pub resolver: Resolver,
    /// How values are kept up to date that documents refer to.
    pub secrets: SecretRules,
    /// `data_encryption.keyring`: opens private keys that APISIX has sealed.
    pub keyring: Keyring,
    /// The clock: [`SystemTime::now`], except in tests.
    pub clock: fn() -> SystemTime,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            trust_file: None,
            refuse_weakening: false,
            require_upstream_verify: false,
            router: Router::default(),
            own: Arc::default(),
            resolver: Resolver::system(),
            secrets: SecretRules::default(),
            keyring: Keyring::default(),
            clock: SystemTime::now,
        }
    }
}

/// Why control cannot be opened. Sentences are for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be read.
    #[error("the store cannot be read")]
    Store(#[from] StoreError),
    /// What is stored was sealed with another key.
    #[error("what is stored cannot be opened")]
    Key(#[source] Box<CustodyError>),
    /// A `trust_file` cannot be read.
    #[error("`{key}`: could not read {}", .path.display())]
    TrustFile {
        /// The key of the configuration that names it.
        key: String,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A `trust_file` holds no CA that can be read.
    #[error("`{key}`: {} holds no CA certificate that can be read", .path.display())]
    TrustText {
        /// The key of the configuration that names it.
        key: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: MaterialError,
    },
    /// A thread of the start ended early.
    #[error("reading the stored resources did not finish")]
    Unfinished,
}

/// Something [`check`] found about a stored object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its kind.
    pub kind: Kind,
    /// Its id.
    pub id: Id,
    /// Whether it keeps something from being served (else it is a warning).
    pub is_error: bool,
    /// JSON pointer to the member meant.
    pub pointer: String,
    /// A sentence for the operator.
    pub text: String,
}

/// Reads the `trust_file` that a key of the configuration names.
///
/// # Errors
/// [`StartError::TrustFile`] and [`StartError::TrustText`].
pub fn read_trust_file(key: &str, file: &TrustFile) -> Result<CaBundle, StartError> {
    let path = file.path();
    let pem = std::fs::read_to_string(&path).map_err(|source| StartError::TrustFile {
        key: key.to_owned(),
        path: path.clone(),
        source,
    })?;
    match CaBundle::parse_public_list(&pem) {
        Ok((bundle, left_out)) => {
            if left_out > 0 {
                tracing::warn!(
                    path = %path.display(),
                    left_out,
                    "CAs of `{key}` that `fips: required` refuses are left out"
                );
            }
            Ok(bundle)
        }
        Err(source) => Err(StartError::TrustText {
            key: key.to_owned(),
            path,
            source,
        }),
    }
}

/// Loads, compiles and publishes everything.
pub(super) fn open(parts: Parts) -> Result<Inner, StartError> {
    let inner = assemble(parts);
    inner.delete_overdue()?;
    let revision = inner.store.revision()?;
    // Held until the end, so that one CA bundle is parsed once for all that use it.
    let mut stores = HashMap::new();
    let mut changes = Vec::new();
    inner.load_in_parts(|part| {
        for compiled in in_parallel(part, |stored| inner.compile_at_start(stored)) {
            for compiled in compiled? {
                let (change, store) = compiled?;
                changes.push(change);
                stores.extend(store.map(|store| (store.digest, store)));
            }
        }
        Ok::<_, StartError>(())
    })?;
    // What others point to comes before them.
    changes.sort_unstable_by(|a, b| a.place().cmp(&b.place()));
    let ssls = changes.iter().map(Change::place);
    let ssls = ssls.filter(|(kind, _)| *kind == Kind::Ssl);
    let ssls: Vec<Id> = ssls.map(|(_, id)| id.clone()).collect();
    let objects = changes.len();
    let snapshot = Snapshot::new(inner.rules.router).apply(changes, revision);
    let head = inner.store.audit_head()?;
    tracing::info!(
        revision = revision.0,
        objects,
        audit_count = head.count,
        audit_mac = %head.mac,
        "stored resources compiled"
    );
    for id in &ssls {
        inner.log_lost_names(&snapshot, id);
        for (pattern, other) in snapshot.disputed_names(id) {
            let error = disputed_name(&pattern, &other);
            tracing::error!(ssl = %id, name = %pattern, %other, error, "closed: it is disputed");
        }
    }
    inner.publish(snapshot);
    Ok(inner)
}

/// Judges everything stored as if it were written now, and publishes nothing.
///
/// # Errors
/// As [`Control::open`](crate::control::Control::open).
pub fn check(parts: Parts) -> Result<Vec<Finding>, StartError> {
    let inner = assemble(parts);
    let loaded = inner.load()?;
    let mut changes = Vec::with_capacity(loaded.objects.len());
    for stored in &loaded.objects {
        changes.push(inner.compile_at_start(stored)?.0);
    }
    let snapshot = Snapshot::new(inner.rules.router).apply(changes, loaded.revision);
    let mut findings = Vec::new();
    for part in in_parallel(&loaded.objects, |stored| inner.check_one(&snapshot, stored)) {
        findings.extend(part?.into_iter().flatten());
    }
    Ok(findings)
}

pub(super) fn assemble(parts: Parts) -> Inner {
    let Parts {
        store,
        custody,
        live,
        contexts,
        metrics,
        rules,
        workers,
        desk,
    } = parts;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Inner {
        store,
        custody,
        live,
        contexts,
        stores: CaStores::default(),
        metrics,
        rules,
        workers,
        retired: Retired::default(),
        desk,
        tracker: Tracker::default(),
        taken: Taken::default(),
        declared: Declared::default(),
        expiry: tokio::sync::Notify::new(),
        queue: Queue::default(),
        writer: Arc::default(),
        module_is_lost: AtomicBool::new(false),
        drafts: Arc::new(tokio::sync::Semaphore::new(cores)),
        probes: probe::Turns::default(),
        reports: Arc::new(tokio::sync::Semaphore::new(1)),
    }
}

impl Inner {
    /// The change that brings a stored object into a snapshot, and the CA store it uses.
    fn compile_at_start(
        &self,
        stored: &Stored,
    ) -> Result<(Change, Option<Arc<CaStore>>), StartError> {
        let Stored { kind, id, .. } = stored;
        let references = references_of(*kind, &Opened::new(*kind, stored.document.clone()));
        self.tracker
            .touch(*kind, id, &references, &Generation::default());
        if references.is_empty()
            && let Some((piece, store)) = self.take(stored)
        {
            return Ok((stored_change(stored, piece), store));
        }
        let (piece, store) = match self.read(stored) {
            Ok(parsed) => {
                let compiled = compile(*kind, id, &parsed.resource, &self.ground());
                if let Some((pointer, error)) = &compiled.trouble {
                    tracing::error!(%kind, %id, %pointer, %error, "closed: it cannot be served");
                }
                if !references.is_empty()
                    && compiled.trouble.is_none()
                    && let Some(generation) = self.last_generation(*kind, id)
                {
                    self.tracker.serve(*kind, id, &generation);
                }
                let store = match compiled.build {
                    Some(Build::Server(spec)) => spec.ca,
                    Some(Build::Upstream { spec, .. }) => spec.trust,
                    None => None,
                };
                (compiled.piece, store)
            }
            Err(Unreadable::Custody(error))
                if matches!(error.reason, CustodyReason::OtherKey { .. }) =>
            {
                return Err(StartError::Key(Box::new(error)));
            }
            Err(error) => {
                tracing::error!(%kind, %id, %error, "closed: what is stored cannot be read");
                (close(*kind, id, &stored.document), None)
            }
        };
        Ok((stored_change(stored, piece), store))
    }

    /// What there is to say about one stored object.
    fn check_one(&self, snapshot: &Snapshot, stored: &Stored) -> Vec<Finding> {
        let finding = |is_error, pointer: &str, text: String| Finding {
            kind: stored.kind,
            id: stored.id.clone(),
            is_error,
            pointer: pointer.to_owned(),
            text,
        };
        let strays = stray_keys(stored.kind, &stored.document).into_iter();
        let mut found: Vec<_> = strays
            .map(|fault| finding(true, &fault.pointer, fault.told()))
            .collect();
        let parsed = match self.read(stored) {
            Ok(parsed) => parsed,
            Err(Unreadable::Faults(faults)) => {
                let all = faults.0.into_iter();
                found.extend(all.map(|fault| finding(true, &fault.pointer, fault.told())));
                return found;
            }
            Err(Unreadable::Custody(error)) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                let text = format!("{error}: {}", cause.unwrap_or_default());
                found.push(finding(true, &error.pointer, text));
                return found;
            }
        };
        let warnings = parsed.warnings.iter();
        found.extend(
            warnings.map(|Warning { pointer, text, .. }| finding(false, pointer, text.clone())),
        );
        let ours = own_nodes(&parsed.resource, &self.rules.own).into_iter();
        found.extend(ours.map(|fault| finding(true, &fault.pointer, fault.told())));
        for (kind, id, at) in references(&parsed.resource) {
            let fault = match (snapshot.modified(kind, &id), kind) {
                (None, _) => missing_reference(kind, &id, at),
                (_, Kind::Ssl) if snapshot.ssl_role(&id) != Some(Role::Client) => {
                    wrong_ssl_type(&id, at)
                }
                _ => continue,
            };
            found.push(finding(true, &fault.pointer, fault.told()));
        }
        if stored.kind == Kind::Ssl {
            let at = format!("/{}", names_member(&stored.document));
            for (pattern, winner) in snapshot.lost_names(&stored.id) {
                let text = format!("{pattern} is served by the older ssl {winner}");
                found.push(finding(false, &at, text));
            }
            for (pattern, other) in snapshot.disputed_names(&stored.id) {
                let text = format!("closed: {}", disputed_name(&pattern, &other));
                found.push(finding(true, &at, text));
            }
        }
        for Warning { pointer, text, .. } in weaker_names(snapshot, stored.kind, &stored.id) {
            found.push(finding(false, &pointer, text));
        }
        let compiled = compile(stored.kind, &stored.id, &parsed.resource, &self.ground());
        if let Some((pointer, error)) = &compiled.trouble {
            found.push(finding(true, pointer, error.to_string()));
        }
        match self.prove(stored.kind, &parsed.resource, compiled.build) {
            Ok(_) => {}
            Err(WriteError::Invalid(faults)) => {
                let all = faults.0.into_iter();
                found.extend(all.map(|fault| finding(true, &fault.pointer, fault.told())));
            }
            Err(error) => found.push(finding(true, "", error.to_string())),
        }
        found
    }

    /// Says which names of an ssl another one has.
    pub(super) fn log_lost_names(&self, snapshot: &Snapshot, id: &Id) {
        for (pattern, winner) in snapshot.lost_names(id) {
            tracing::warn!(ssl = %id, name = %pattern, %winner, "an older ssl has this name too");
        }
    }
}

/// The change that brings a stored object into a snapshot as this piece.
pub(super) fn stored_change(stored: &Stored, piece: Piece) -> Change {
    Change::Put {
        kind: stored.kind,
        id: stored.id.clone(),
        created: stored.created,
        modified: stored.modified,
        piece,
    }
}

/// Does `work` for each of `all` on as many threads as there are cores, in order.
pub(super) fn in_parallel<T: Sync, R: Send>(
    all: &[T],
    work: impl Fn(&T) -> R + Sync,
) -> Vec<Result<Vec<R>, StartError>> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let chunk = all.len().div_ceil(threads).max(1);
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = all
            .chunks(chunk)
            .map(|part| scope.spawn(move || part.iter().map(work).collect::<Vec<R>>()))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_panic| StartError::Unfinished))
            .collect()
    })
}
