//! The command lines: `portcullis` (server) and `a6` (client).
//!
//! Arguments, texts for people and exit codes; what the verbs do lives in the rooms they call.

pub mod client;
mod fips_page;
#[cfg(test)]
mod man;
mod print;
pub mod server;
