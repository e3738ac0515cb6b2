//! TLS, both sides: policy, material, contexts, the ClientHello choice, streams, verdicts, proof.
//!
//! With `crypto`, the only room that names the `openssl` crate. It knows nothing of resources,
//! HTTP or the store: names and policies reach it as values, and what a name needs is asked
//! through the [`select::Choose`] trait.

mod agreed;
mod ahead;
pub mod cache;
mod context;
pub mod identity;
mod key_updates;
mod known;
pub mod material;
mod memory;
pub mod peer;
pub mod policy;
pub mod probe;
pub mod proof;
pub mod select;
pub mod selfsigned;
pub mod server;
pub mod socket;
pub mod stream;
pub mod tickets;
pub mod trust;
pub mod tryout;
mod turn;
pub mod upstream;
pub mod verdict;

pub use policy::profile;

#[cfg(test)]
pub(crate) mod sample;
