//! Matching: which name, which route, which node. Pure and total functions over borrowed bytes.
//!
//! Everything here runs on the request path or inside a handshake: no sockets, no clock, no
//! async, no serde, and no other room is imported. The tables are persistent: a clone is O(1)
//! and one change among 100,000 entries copies few of them.

pub mod authority;
pub mod balance;
pub mod content;
pub mod host;
pub mod name;
pub mod path;
pub mod path_pattern;
pub mod path_prefix;
pub mod path_reading;
pub mod patterns;
pub mod route;
pub mod sni;
pub mod template;
pub mod variable;
pub mod vars;

mod hashed;
mod paths;
mod ranked;
mod tree;
