//! The failure of an OpenSSL call, with what was being done.

use openssl::error::ErrorStack;

/// OpenSSL could not do what was asked, for a reason that is ours or its own, never a peer's.
///
/// The source is OpenSSL's error queue, drained at the call that failed.
#[derive(Debug, thiserror::Error)]
#[error("OpenSSL could not {action}")]
pub struct CryptoError {
    action: &'static str,
    #[source]
    source: ErrorStack,
}

impl CryptoError {
    /// An adapter for `map_err` at a failing call; `action` completes "OpenSSL could not …".
    pub fn during(action: &'static str) -> impl FnOnce(ErrorStack) -> Self {
        move |source| Self { action, source }
    }
}
