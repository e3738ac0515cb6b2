//! The bounded caches of built contexts and connectors, shared by control and all workers.
//!
//! Admission is by frequency (TinyLFU), so that a flood of rarely used names does not push out
//! the ones in use. What is not here is built again on first use.

use std::fmt;
use std::sync::Arc;

use moka::sync::Cache;

use crate::crypto::memory;
use crate::tls::material::Digest;
use crate::tls::server::ServerContext;
use crate::tls::upstream::UpstreamConnector;

/// What one takes, in pieces, in bytes.
const CONTEXT: usize = 14 << 10;

/// Built contexts of names and connectors of upstreams, by what went into them.
pub struct Contexts {
    servers: Cache<Digest, Arc<ServerContext>>,
    upstreams: Cache<Digest, Arc<UpstreamConnector>>,
}

impl Contexts {
    /// Caches of at most `limit` entries each.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self {
            servers: Cache::new(limit),
            upstreams: Cache::new(limit),
        }
    }

    /// The context with this key.
    #[must_use]
    pub fn server(&self, key: &Digest) -> Option<Arc<ServerContext>> {
        self.servers.get(key)
    }

    /// Keeps a context under its own key.
    pub fn keep_server(&self, context: Arc<ServerContext>) {
        self.servers.insert(context.key, context);
    }

    /// The connector with this key.
    #[must_use]
    pub fn upstream(&self, key: &Digest) -> Option<Arc<UpstreamConnector>> {
        self.upstreams.get(key)
    }

    /// Takes out what has this key; whoever has it keeps it.
    pub fn forget(&self, key: &Digest) {
        let server = self.servers.remove(key).is_some();
        if self.upstreams.remove(key).is_some() || server {
            memory::note_freed_pieces(CONTEXT);
        }
    }

    /// Keeps a connector under its own key.
    pub fn keep_upstream(&self, connector: Arc<UpstreamConnector>) {
        self.upstreams.insert(connector.fingerprint, connector);
    }
}

impl fmt::Debug for Contexts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contexts")
            .field("servers", &self.servers.entry_count())
            .field("upstreams", &self.upstreams.entry_count())
            .finish()
    }
}
