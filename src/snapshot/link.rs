//! What control and a worker say to each other: asks one way, commands the other.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::failure::Reason;
use crate::resource::Id;
use crate::snapshot::Owner;
use crate::tls::material::Digest;
use crate::tls::server::ServerContext;
use crate::tls::upstream::UpstreamConnector;

/// What a worker asks of control. Bounded: a full channel is a refusal, never a wait.
#[derive(Debug)]
pub enum Ask {
    /// Build the context of a name that is not in the cache.
    Server {
        /// Its key. When the store is ahead of the asker's snapshot, the answer is the newer context
        /// of the same ssl, with the newer policy.
        key: Digest,
        /// The ssl to build it from.
        ssl: Id,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Arc<ServerContext>, Reason>>,
    },
    /// Build the connector of an upstream that is not in the cache.
    Upstream {
        /// Its key. The answer is a connector with this fingerprint, or a reason: when the store is
        /// ahead of the asker's snapshot there may be none any more. The published snapshot then has
        /// its successor.
        key: Digest,
        /// The resource that holds the upstream.
        owner: Owner,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Arc<UpstreamConnector>, Reason>>,
    },
}

/// What control tells a worker.
#[derive(Clone, Debug)]
pub enum Command {
    /// Judge every connection of these ssls against the current snapshot: idle ones that no
    /// longer pass are closed at once.
    Judge(Arc<[Id]>),
    /// The same for an ssl that is gone; those whose names nobody serves now are closed after the
    /// request in flight.
    Close(Id),
    /// Stop accepting; what is open goes on.
    Halt,
    /// Stop accepting and finish what is in flight.
    Drain,
}

/// A worker's ends of its two channels.
#[derive(Debug)]
pub struct WorkerLink {
    /// To control.
    pub asks: mpsc::Sender<Ask>,
    /// From control.
    pub commands: mpsc::UnboundedReceiver<Command>,
}
