//! The command lines: `portcullis` (server) and `a6` (client).
//!
//! Arguments, texts for people and exit codes; what the verbs do lives in the rooms they call.

use crate::crypto::memory;
use crate::failure::chain;

pub mod client;
mod fips_page;
#[cfg(test)]
mod man;
mod print;
pub mod server;

/// The first of all: nothing that a process reads of keys is in a core dump.
fn forbid_core_dumps() {
    if let Err(error) = memory::forbid_core_dumps() {
        let cause = chain(&error);
        print::err(&format!("core dumps cannot be switched off: {cause}"));
    }
}
