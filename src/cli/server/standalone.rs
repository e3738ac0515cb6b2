//! Standalone mode: a file says what is served, and is read again when it changes.
//!
//! It is [watched](crate::secrets::watch); where that cannot be, looked at every second, as APISIX
//! does. A file that cannot be read leaves what was read last.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::admin::configs::Served;
use crate::cli::server::keeping::{self, KeepingError};
use crate::config::Config;
use crate::control::{Actor, Adopted, Control, Declaring, Finding, StartError, WriteError};
use crate::failure::chain;
use crate::secrets::watch::Watcher;
use crate::store::file::{self, FileError, Note};
use crate::telemetry::metrics::Metrics;
use crate::tls::cache::Contexts;

/// How often a file is looked at that cannot be watched. (APISIX, standalone mode.)
const INTERVAL: Duration = Duration::from_secs(1);

/// How soon a file is read again that could not be served for no fault of its own.
const AGAIN: Duration = Duration::from_secs(10);

/// Why what a file declares is not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum StandaloneError {
    #[error("{}", .path.display())]
    File { path: PathBuf, source: FileError },
    #[error("{} is refused", .path.display())]
    Refused { path: PathBuf, source: WriteError },
    #[error(
        "{} makes something less strict ({}), and `security.refuse_weakening` is set; restart the \
         gateway if it is meant", .path.display(), .weakens.join("; ")
    )]
    Weaker { path: PathBuf, weakens: Vec<String> },
    #[error(transparent)]
    Keeping(#[from] KeepingError),
    #[error(transparent)]
    Control(#[from] StartError),
    #[error("{} was not read to its end", .path.display())]
    Unfinished { path: PathBuf },
}

impl StandaloneError {
    /// Whether another content of the file may be served where this is not.
    const fn is_of_file(&self) -> bool {
        match self {
            Self::Refused { source, .. } => {
                !matches!(source, WriteError::Store(_) | WriteError::Internal)
            }
            Self::Unfinished { .. } => false,
            Self::File { .. } | Self::Weaker { .. } | Self::Keeping(_) | Self::Control(_) => true,
        }
    }
}

/// A file that is served.
pub(super) struct Standalone {
    served: Arc<Served>,
    control: Control,
    /// How the file was when it was read last, whatever came of it.
    seen: Option<Trace>,
}

/// What changes with a file's content: times in nanoseconds, size and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Trace([i64; 4], u64, u64);

impl Trace {
    /// `None` where there is no file.
    fn of(path: &Path) -> Option<Self> {
        let found = std::fs::metadata(path).ok()?;
        let changed = [found.ctime(), found.ctime_nsec()];
        let [seconds, nanos] = changed;
        let times = [found.mtime(), found.mtime_nsec(), seconds, nanos];
        Some(Self(times, found.size(), found.ino()))
    }
}

impl Standalone {
    /// Reads the file, and has what it declares served. Blocks.
    pub(super) fn adopt(path: &Path, control: &Control) -> Result<Self, StandaloneError> {
        let served = Arc::new(Served::new(path));
        // Before it is read: what changes meanwhile is read again.
        let seen = Trace::of(path);
        adopt(&served, control)?;
        Ok(Self {
            served,
            control: control.clone(),
            seen,
        })
    }

    /// The file, as the Admin API shows it.
    pub(super) fn served(&self) -> Arc<Served> {
        Arc::clone(&self.served)
    }

    /// Reads the file again whenever it changed. Never returns.
    pub(super) async fn watch(mut self) {
        let files = Watcher::new(INTERVAL);
        loop {
            let (served, control) = (self.served.clone(), self.control.clone());
            let (own, seen) = (files.clone(), self.seen);
            let looking = tokio::task::spawn_blocking(move || {
                let look = own.watch(&(), served.path(), &[]);
                let trace = Trace::of(served.path());
                let read = (trace != seen).then(|| adopt(&served, &control));
                (look, trace, read.unwrap_or(Ok(())))
            });
            let path = self.served.path().to_owned();
            let (look, read) = match looking.await {
                // What the file says is no reason; it is tried again.
                Ok((look, _, Err(error))) if !error.is_of_file() => (look.min(AGAIN), Err(error)),
                Ok((look, trace, read)) => {
                    self.seen = trace;
                    (look, read)
                }
                Err(_ended) => (INTERVAL, Err(StandaloneError::Unfinished { path })),
            };
            if let Err(error) = read {
                let error = chain(&error);
                tracing::error!(error, "the file is not served; what was read before it is");
            }
            files.changed(look).await;
        }
    }
}

/// Reads the file, and has what it declares served, with a line for each object that is closed.
fn adopt(served: &Served, control: &Control) -> Result<(), StandaloneError> {
    // No client puts another one meanwhile.
    let mut now = served.take_turn();
    let path = served.path();
    let (note, adopted) = read_and_adopt(path, control)?;
    *now = note;
    for finding in &adopted.findings {
        let Finding {
            kind,
            id,
            pointer,
            text,
            ..
        } = finding;
        if finding.is_error {
            tracing::error!(%kind, %id, %pointer, error = text, "closed: it cannot be served");
        } else {
            tracing::warn!(%kind, %id, %pointer, "{text}");
        }
    }
    for weakens in &adopted.weakens {
        tracing::warn!(weakens, "less strict than before");
    }
    tracing::info!(
        path = %path.display(),
        changed = adopted.changed,
        revision = control.revision().0,
        "the file is served"
    );
    Ok(())
}

/// What a file declares, held as if it were served, and what there is to say about it. Serves
/// nothing.
pub(super) fn open(
    config: &Config,
    path: &Path,
) -> Result<(Control, Vec<Finding>), StandaloneError> {
    let metrics = Metrics::new().map_err(KeepingError::Metrics)?;
    let (live, contexts) = (Arc::default(), Arc::new(Contexts::new(1)));
    let keeping = keeping::in_memory()?;
    let parts = keeping::parts(config, keeping, live, contexts, Arc::new(metrics))?;
    let control = Control::open(parts)?;
    let (_, adopted) = read_and_adopt(path, &control)?;
    Ok((control, adopted.findings))
}

/// Reads the file, and has what it declares compiled and published.
pub(super) fn read_and_adopt(
    path: &Path,
    control: &Control,
) -> Result<(Note, Adopted), StandaloneError> {
    let env = |name: &str| std::env::var(name).ok();
    let declared = file::read(path, &env).map_err(|source| StandaloneError::File {
        path: path.to_owned(),
        source,
    })?;
    let actor = Actor {
        name: "standalone".to_owned(),
        request_id: String::new(),
        peer: None,
    };
    let path = path.to_owned();
    let declaring = Declaring {
        actor: &actor,
        allow_weaker: false,
        keep: None,
    };
    let note = declared.note();
    let adopted = control
        .adopt(declared.items, &declaring)
        .map_err(|source| {
            if let WriteError::Weaker(weakens) = source {
                StandaloneError::Weaker { path, weakens }
            } else {
                StandaloneError::Refused { path, source }
            }
        })?;
    Ok((note, adopted))
}
