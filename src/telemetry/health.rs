//! What is told when a node goes down or comes back.

use crate::telemetry::metrics::Metrics;

/// A node that turned.
#[derive(Clone, Copy, Debug)]
pub struct Turned<'a> {
    /// The kind of the resource that holds it, e.g. `upstream`.
    pub kind: &'a str,
    /// Its id.
    pub id: &'a str,
    /// `host:port`.
    pub node: &'a str,
    /// `active` or `passive`.
    pub by: &'a str,
    /// Whether it is sent to again.
    pub is_up: bool,
}

impl Turned<'_> {
    /// Logs and counts it.
    pub fn tell(&self, metrics: &Metrics) {
        let Self {
            kind, id, node, by, ..
        } = self;
        if self.is_up {
            metrics.nodes_up.inc();
            tracing::info!(kind, id, node, by, "node is healthy again");
        } else {
            metrics.nodes_down.inc();
            tracing::warn!(kind, id, node, by, "node is unhealthy: it is passed over");
        }
    }
}
