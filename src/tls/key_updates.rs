//! KeyUpdates that a peer sends, counted: each has us derive keys anew and, if it asks, answer.
//!
//! OpenSSL takes as many as come, and reads on until there is nothing left to read.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use openssl::ex_data::Index;
use openssl::ssl::{Ssl, SslContextBuilder, SslRef};

use crate::crypto::sys;

/// `key_update` of RFC 8446 §4.
const KEY_UPDATE: u8 = 24;
/// How many a peer may send within [`WINDOW`]. Keys last for 2^24 records (RFC 8446 §5.5), so that
/// nobody needs more than a few in an hour; BoringSSL draws the line at as many in a row.
const LIMIT: u32 = 32;
/// In milliseconds.
const WINDOW: u64 = 60_000;

/// Has the KeyUpdates of a context's connections counted.
pub(super) fn count(ctx: &mut SslContextBuilder) {
    sys::on_handshake_message(ctx, |ssl, kind| {
        if kind == KEY_UPDATE
            && let Some(count) = index().and_then(|index| ssl.ex_data(index))
        {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// The KeyUpdates of one connection.
#[derive(Debug, Default)]
pub(super) struct KeyUpdates {
    count: Arc<AtomicU32>,
    /// When the window began, and the count at that time.
    window: Cell<(u64, u32)>,
}

impl KeyUpdates {
    /// Those that `ssl`, a connection of a context that counts them, is going to receive.
    pub(super) fn of(ssl: &mut SslRef) -> Self {
        let updates = Self::default();
        if let Some(index) = index() {
            ssl.set_ex_data(index, updates.count.clone());
        }
        updates
    }

    /// Whether there were too many, at the clock's `now`, in milliseconds. To be asked before each
    /// read: what a read brings counts as come since.
    pub(super) fn are_too_many(&self, now: u64) -> bool {
        let count = self.count.load(Ordering::Relaxed);
        let (since, before) = self.window.get();
        if now.saturating_sub(since) >= WINDOW {
            self.window.set((now, count));
            return false;
        }
        count.saturating_sub(before) > LIMIT
    }
}

fn index() -> Option<Index<Ssl, Arc<AtomicU32>>> {
    static INDEX: OnceLock<Option<Index<Ssl, Arc<AtomicU32>>>> = OnceLock::new();
    *INDEX.get_or_init(|| Ssl::new_ex_index().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_taken_in_each_minute_and_no_more() {
        let updates = KeyUpdates::default();
        let receive = |count| updates.count.fetch_add(count, Ordering::Relaxed);
        for minute in 0..3 {
            assert!(!updates.are_too_many(minute * WINDOW), "{minute}");
            receive(LIMIT);
            assert!(!updates.are_too_many(minute * WINDOW + WINDOW - 1));
        }
        receive(1);
        assert!(updates.are_too_many(3 * WINDOW - 1));
    }
}
