//! Control: the one place where accepted documents become the state that is served.
//!
//! Every change passes through [`Control`]: read, keep withheld keys, parse, build, prove, check
//! references, store with its audit record, publish, tell the workers. Workers ask it for contexts
//! that are not in the cache. It knows nothing of HTTP; the Admin API calls it.

mod adopt;
pub mod audit;
mod build;
mod checks;
mod discovery;
mod documents;
pub mod evidence;
mod expiry;
mod generations;
mod group;
mod module;
mod own_nodes;
mod plan;
pub mod probe;
mod prove;
mod refresh;
pub mod rekey;
mod retire;
mod settle;
mod start;
pub mod survey;
mod taken;
#[cfg(test)]
mod tests;
mod tickets;
mod write;

pub use crate::resource::Flavour;
pub use crate::secrets::custody::Show;
pub use adopt::{Adopted, Declaring, Keep};
pub use checks::{Checked, CheckedNode};
pub use generations::SecretRules;
pub use start::{Finding, Parts, Rules, StartError, check, read_trust_file};

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::crypto::fips::{FipsError, Occasion};
use crate::resource::fault::{Faults, Warning};
use crate::resource::patch::{Patch, PatchError};
use crate::resource::{Document, Id, Kind, Revision};
use crate::secrets::custody::{Custody, Opened};
use crate::secrets::desk::Desk;
use crate::snapshot::compile::Ground;
use crate::snapshot::link::{Ask, Command};
use crate::snapshot::live::Live;
use crate::store::file::Item;
use crate::store::{Selection, Store, StoreError};
use crate::telemetry::metrics::Metrics;
use crate::tls::cache::Contexts;
use crate::tls::tickets::TicketKeys;
use crate::tls::trust::CaStores;

/// Who asks for a change; goes into the audit record and the process log.
#[derive(Clone, Debug)]
pub struct Actor {
    /// Name of the admin key, or subject of the client certificate.
    pub name: String,
    /// Id of the request.
    pub request_id: String,
    /// Where the request came from; `None` for the process itself.
    pub peer: Option<SocketAddr>,
}

/// Creates or replaces an object.
#[derive(Clone, Debug)]
pub struct Put {
    /// Its kind.
    pub kind: Kind,
    /// Its id.
    pub id: Id,
    /// The document as sent; `id` may be absent, times must be.
    pub document: Opened,
    /// Whose spelling it is in.
    pub flavour: Flavour,
    /// Who asks.
    pub actor: Actor,
    /// The revision that the object must have (`If-Match`).
    pub if_match: Option<Revision>,
    /// The writer knows that this makes something less strict (`X-Portcullis-Allow-Weaker`).
    /// Matters only with `security.refuse_weakening`.
    pub allow_weaker: bool,
    /// After what time it is deleted, unless it is written again (`?ttl=`); `None`: never.
    pub ttl: Option<Duration>,
}

/// Creates an object under an id that the store gives: the revision that creates it, as 20 digits.
#[derive(Clone, Debug)]
pub struct Post {
    /// Its kind; never a secret, whose id names its manager.
    pub kind: Kind,
    /// The document as sent; `id` and times must be absent.
    pub document: Opened,
    /// Whose spelling it is in.
    pub flavour: Flavour,
    /// Who asks.
    pub actor: Actor,
    /// As in [`Put::if_match`]; never holds, as there is no object yet.
    pub if_match: Option<Revision>,
    /// As in [`Put::allow_weaker`].
    pub allow_weaker: bool,
    /// As in [`Put::ttl`].
    pub ttl: Option<Duration>,
}

/// Changes a part of an object.
#[derive(Debug)]
pub struct Amend {
    /// Its kind.
    pub kind: Kind,
    /// Its id.
    pub id: Id,
    /// The change. It is made on the document as a reply to a write shows it: keys and credentials
    /// are placeholders there, and the stored ones are kept under the same rules as by a put.
    pub patch: Patch,
    /// Whose spelling it is in.
    pub flavour: Flavour,
    /// Who asks.
    pub actor: Actor,
    /// The revision that the object must have (`If-Match`).
    pub if_match: Option<Revision>,
    /// As in [`Put::allow_weaker`].
    pub allow_weaker: bool,
    /// As in [`Put::ttl`]: without it, an end that was set before is taken back.
    pub ttl: Option<Duration>,
}

/// Removes an object.
#[derive(Clone, Debug)]
pub struct Delete {
    /// Its kind.
    pub kind: Kind,
    /// Its id.
    pub id: Id,
    /// Who asks.
    pub actor: Actor,
    /// Also where others refer to it (`?force=true`).
    pub force: bool,
    /// With a service, its routes in the same transaction (API7).
    pub cascade: bool,
    /// The revision that the object must have (`If-Match`).
    pub if_match: Option<Revision>,
    /// As in [`Put::allow_weaker`].
    pub allow_weaker: bool,
}

/// An object as a client may see it.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Its kind.
    pub kind: Kind,
    /// Its id.
    pub id: Id,
    /// The document as sent, with `id`, `create_time` and `update_time`, keys withheld.
    pub document: Document,
    /// The revision that created it (`createdIndex`).
    pub created: Revision,
    /// The revision that last changed it (`modifiedIndex`).
    pub modified: Revision,
    /// When it expires, in milliseconds since 1970-01-01 UTC; `None`: never.
    pub expires: Option<u64>,
}

/// Objects of a kind as a client may see them.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Those that were asked for, in order.
    pub items: Vec<Shown>,
    /// How many fit the filter, shown or not.
    pub total: usize,
}

/// A change that was made: durable, published, proved.
#[derive(Clone, Debug)]
pub struct Written {
    /// Whether the object is new (201) or was replaced (200).
    pub created: bool,
    /// The object, with placeholders.
    pub shown: Shown,
    /// What its writer should know.
    pub warnings: Vec<Warning>,
}

/// A removal that was made.
#[derive(Clone, Debug)]
pub struct Deleted {
    /// What went with it, in the order of removal; empty without [`Delete::cascade`].
    pub cascaded: Vec<(Kind, Id)>,
    /// What its writer should know.
    pub warnings: Vec<Warning>,
}

/// Why a change or a read was not made. Nothing was stored, but for [`StoreError::Unsure`]; what was
/// served is served still.
///
/// Where one failure refuses several changes at once, each of them gets it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    /// The document has faults, or refers to what is not there: 400.
    #[error(transparent)]
    Invalid(#[from] Faults),
    /// The change of a part cannot be read, 400, or does not fit the object, 409.
    #[error(transparent)]
    Patch(#[from] PatchError),
    /// There is no such object to change or delete: 404.
    #[error("Key not found")]
    NotFound,
    /// Others changed the object each time it was tried: 503.
    #[error("value changed before overwritten")]
    Conflict,
    /// The object does not have the revision of `If-Match`: 412.
    #[error("the object was changed since it was read")]
    PreconditionFailed,
    /// Another object refers to it: 400 with APISIX's text.
    #[error("{text}")]
    StillUsed {
        /// APISIX's text, e.g. `can not delete this upstream, route [1] is still using it now`.
        text: String,
    },
    /// It makes something less strict, and `security.refuse_weakening` asks for a word on that: 400.
    #[error(
        "this change makes something less strict ({}); repeat it with \
         X-Portcullis-Allow-Weaker: 1 if it is meant", .0.join("; ")
    )]
    Weaker(Vec<String>),
    /// The store failed: 503.
    #[error("the store failed")]
    Store(#[source] Arc<StoreError>),
    /// The gateway failed; the process log says where: 500.
    #[error("internal error")]
    Internal,
}

/// The handle to control. Cheap to clone; usable from any tokio runtime of the process.
#[derive(Clone)]
pub struct Control {
    inner: Arc<Inner>,
}

/// What control holds. Its methods block: they run on threads that may.
struct Inner {
    store: Arc<dyn Store>,
    custody: Custody,
    live: Arc<Live>,
    contexts: Arc<Contexts>,
    stores: CaStores,
    metrics: Arc<Metrics>,
    rules: Rules,
    workers: Vec<mpsc::UnboundedSender<Command>>,
    retired: retire::Retired,
    /// Resolves references; `None` where nothing is served.
    desk: Option<Desk>,
    /// Objects with references, and how these fare.
    tracker: refresh::Tracker,
    /// Ssls whose certificates and keys are still to be read.
    taken: taken::Taken,
    /// What a file declared last.
    declared: adopt::Declared,
    /// Told when something is stored that expires.
    expiry: tokio::sync::Notify,
    /// Changes that wait to be settled.
    queue: group::Queue,
    /// Held from the last check of a group of changes to its publication: groups are serial.
    writer: Arc<tokio::sync::Mutex<()>>,
    /// Set, for good, when the FIPS module was found in its error state.
    module_is_lost: AtomicBool,
    /// How often upstreams are probed.
    probes: probe::Turns,
    /// One permit per core: judging is computing.
    drafts: Arc<tokio::sync::Semaphore>,
    /// One permit: a report loads every key, a verification reads every audit record.
    reports: Arc<tokio::sync::Semaphore>,
}

impl Control {
    /// Opens control on what the store holds: everything is compiled and published on return.
    ///
    /// A document that cannot be read any more closes its names and matches, with a line in the
    /// process log; it is never dropped. Blocks for as long as that takes, so not on a reactor.
    ///
    /// # Errors
    /// The store cannot be read, or what it holds was sealed with another key.
    pub fn open(parts: Parts) -> Result<Self, StartError> {
        start::open(parts).map(|inner| Self {
            inner: Arc::new(inner),
        })
    }

    /// Creates or replaces an object. When it returns, the change is durable and served.
    ///
    /// Cancel safety: a dropped call either changes everything or nothing.
    ///
    /// # Errors
    /// Every [`WriteError`] but `NotFound`, `Patch` and `StillUsed`.
    pub async fn put(&self, put: Put) -> Result<Written, WriteError> {
        write::put(&self.inner, put).await
    }

    /// Creates an object under a new id. When it returns, it is durable and served.
    ///
    /// Cancel safety: as [`Control::put`].
    ///
    /// # Errors
    /// As [`Control::put`].
    pub async fn post(&self, post: Post) -> Result<Written, WriteError> {
        write::post(&self.inner, post).await
    }

    /// Changes a part of an object. When it returns, the change is durable and served.
    ///
    /// Where another change of the object comes first, the patch is applied to what that one left:
    /// none of two is lost.
    ///
    /// Cancel safety: as [`Control::put`].
    ///
    /// # Errors
    /// Every [`WriteError`] but `StillUsed`.
    pub async fn amend(&self, amend: Amend) -> Result<Written, WriteError> {
        write::amend(&self.inner, amend).await
    }

    /// Removes an object. When it returns, the removal is durable and nothing serves it any more.
    ///
    /// Cancel safety: as [`Control::put`].
    ///
    /// # Errors
    /// Every [`WriteError`] but `Invalid` and `Patch`.
    pub async fn delete(&self, delete: Delete) -> Result<Deleted, WriteError> {
        write::delete(&self.inner, delete).await
    }

    /// One object; `None` when there is none.
    ///
    /// # Errors
    /// [`WriteError::Store`] and [`WriteError::Internal`].
    pub async fn find(&self, kind: Kind, id: &Id, show: Show) -> Result<Option<Shown>, WriteError> {
        let id = id.clone();
        on_blocking(&self.inner, move |inner| inner.find(kind, &id, show)).await
    }

    /// Some objects of a kind. Only those that are given are read whole.
    ///
    /// # Errors
    /// As [`Control::find`].
    pub async fn list(
        &self,
        kind: Kind,
        show: Show,
        asked: Selection,
    ) -> Result<Listed, WriteError> {
        on_blocking(&self.inner, move |inner| inner.list(kind, show, asked)).await
    }

    /// Does all of [`Control::put`] that can be done without storing anything: the warnings that
    /// it would give, or why it would be refused.
    ///
    /// # Errors
    /// As [`Control::put`], but for `Conflict`.
    pub async fn validate(&self, put: Put) -> Result<Vec<Warning>, WriteError> {
        write::validate(&self.inner, put).await
    }

    /// Does all of [`Control::put`] that asks for no other object: what the document refers to is not
    /// looked for, and nothing is stored. The warnings that it has by itself, or its faults.
    ///
    /// # Errors
    /// As [`Control::validate`], but for `Weaker`.
    pub async fn judge(&self, put: Put) -> Result<Vec<Warning>, WriteError> {
        write::judge(&self.inner, put).await
    }

    /// Makes what a file declares all that there is, in one publish. An object that is refused
    /// where a write of it would be is closed, and told. Blocks, so not on a reactor.
    ///
    /// # Errors
    /// [`WriteError::Weaker`] with `security.refuse_weakening`, where something is served already;
    /// [`WriteError::Store`] and [`WriteError::Internal`]. What was served is served still.
    pub fn adopt(
        &self,
        items: Vec<Item>,
        declaring: &Declaring<'_>,
    ) -> Result<Adopted, WriteError> {
        self.inner.adopt(items, declaring)
    }

    /// Builds what workers ask for, until all of them are gone. Runs on control's runtime.
    pub async fn serve_asks(&self, asks: mpsc::Receiver<Ask>) {
        build::serve(&self.inner, asks).await;
    }

    /// Reads the certificates and keys that the start took as they lie, and closes the names of an
    /// ssl whose are no good; returns when all are read. Runs on control's runtime.
    pub async fn examine_taken(&self) {
        taken::run(&self.inner).await;
    }

    /// Keeps the values of references up to date, until the runtime ends. Runs in control's
    /// `LocalSet`.
    pub async fn refresh_secrets(&self) {
        refresh::run(&self.inner).await;
    }

    /// Deletes what expires, when it does, until the runtime ends. Runs on control's runtime, in its
    /// `LocalSet`.
    pub async fn delete_expired(&self) {
        expiry::run(&self.inner).await;
    }

    /// Goes over to the next key-encryption key whenever one is put beside the one in use, as long as
    /// it is polled.
    pub async fn watch_key(&self, keys: rekey::Keys) {
        rekey::watch(&self.inner, keys).await;
    }

    /// How each reference fares: an object with `kind`, `id`, `pointer`, `manager`, `reference`,
    /// `state`, `digest`, `version`, `age_seconds`, `next_refresh_seconds`, `reason` and
    /// `last_error`; never a value.
    #[must_use]
    pub fn references(&self) -> Vec<serde_json::Value> {
        self.inner.list_references()
    }

    /// Checks the nodes of every upstream that has `checks`, as long as it is polled. Runs on
    /// control's runtime, in its `LocalSet`.
    pub async fn check_nodes(&self) {
        checks::run(&self.inner).await;
    }

    /// Every upstream that has `checks`, and what is known of its nodes; by kind, then id.
    #[must_use]
    pub fn checked(&self) -> Vec<Checked> {
        self.inner.checked()
    }

    /// Whether there is an object of this kind and id.
    #[must_use]
    pub fn holds(&self, kind: Kind, id: &Id) -> bool {
        self.inner.live.load().modified(kind, id).is_some()
    }

    /// Watches the FIPS module until it fails: its state every 10 s, its self-tests every
    /// `self_test_interval`. Returns at once where there is none. Runs on control's runtime.
    pub async fn watch_module(&self, self_test_interval: Duration) {
        module::watch(&self.inner, self_test_interval).await;
    }

    /// Changes the keys of session tickets in time, until the runtime ends. Runs on control's runtime.
    pub async fn turn_ticket_keys(&self, keys: &TicketKeys) {
        tickets::run(&self.inner, keys).await;
    }

    /// Runs the FIPS module's self-tests now. One that fails is dealt with as by the watch.
    ///
    /// # Errors
    /// [`FipsError::NotStarted`] where there is no module, else what is wrong with it.
    pub async fn self_test(&self) -> Result<(), FipsError> {
        module::self_test(&self.inner, Occasion::Demand).await
    }

    /// Whether everything stored is compiled and published: always, once this handle exists; and
    /// cryptography works.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.inner.live.version() > 0 && self.is_operational()
    }

    /// Whether cryptography works: false once the FIPS module failed.
    #[must_use]
    pub fn is_operational(&self) -> bool {
        self.inner.is_operational()
    }

    /// The revision that is served.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.inner.live.load().revision
    }
}

impl Inner {
    /// What compiling needs.
    fn ground(&self) -> Ground<'_> {
        Ground {
            stores: &self.stores,
            trust_file: self.rules.trust_file.as_ref(),
        }
    }

    /// Time since the epoch.
    fn now(&self) -> Duration {
        (self.rules.clock)()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default()
    }

    /// Seconds since the epoch, as documents have it.
    fn now_seconds(&self) -> i64 {
        i64::try_from(self.now().as_secs()).unwrap_or(i64::MAX)
    }

    /// The same, as the store has it.
    fn now_ms(&self) -> u64 {
        millis(self.now())
    }

    /// Sends a command to every worker; one that is gone needs none.
    fn command(&self, command: &Command) {
        for worker in &self.workers {
            let _gone = worker.send(command.clone());
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The store failed, and whoever asked is told.
fn store_failed(error: StoreError) -> WriteError {
    WriteError::Store(Arc::new(error))
}

/// Runs work that blocks, or computes for long, off the reactor.
async fn on_blocking<T: Send + 'static>(
    inner: &Arc<Inner>,
    work: impl FnOnce(&Inner) -> Result<T, WriteError> + Send + 'static,
) -> Result<T, WriteError> {
    let inner = inner.clone();
    match tokio::task::spawn_blocking(move || work(&inner)).await {
        Ok(result) => result,
        Err(error) => {
            tracing::error!(%error, "a task of control did not finish");
            Err(WriteError::Internal)
        }
    }
}
