//! The network's edge: listeners and handshakes inbound, the one dialer outbound, a small HTTP
//! client with its tunnels through proxies, coarse time.
//!
//! No HTTP policy and no resources: addresses, streams and deadlines.

pub mod dial;
pub mod handshake;
pub mod http;
pub mod listener;
pub mod look;
pub mod resolve;
pub mod serve;
pub mod stream;
pub mod sweep;
pub mod tunnel;
