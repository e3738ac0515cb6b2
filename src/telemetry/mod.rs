//! What the gateway tells its operator: the process log, metrics, the one access record, the last
//! failures, panics.
//!
//! Decides nothing. Nothing here holds up the data plane: counters are resolved beforehand, lines
//! go through a bounded channel, a lock is taken on failure only.

pub mod access;
pub mod failures;
pub mod health;
pub mod log;
pub mod metrics;
pub mod negotiated;
pub mod notices;
pub mod panics;
pub mod time;
