//! The data plane: connections, the request spine, authorisation, pools, the upstream exchange.
//!
//! One worker per core, each on its own thread with its own listeners, connections and pools; the
//! request path takes no lock and wakes no other thread. It reads the snapshot and never the store.

pub mod again;
pub mod ahead;
mod answer;
pub mod authority;
pub mod authorize;
pub mod body;
pub mod chunked;
pub mod conn;
pub mod connection;
pub mod date;
pub mod discovery;
pub mod error;
pub mod exchange;
pub mod flows;
pub mod forwarded;
pub mod headers;
pub mod heads;
pub mod http2;
pub mod interim;
pub mod loops;
pub mod multiplex;
pub mod outcome;
mod place;
pub mod pool;
pub mod presence;
pub mod registry;
mod repeated;
pub mod request;
pub mod settings;
pub mod single;
pub mod slot;
pub mod streams;
mod tries;
pub mod tunnel;
mod unread;
pub mod upgrade;
pub mod upstream;
pub mod variables;
mod watched;
pub mod worker;
