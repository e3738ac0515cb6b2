//! The watch over the FIPS module: its state every few seconds, its self-tests now and then.
//!
//! A module that failed a self-test refuses all work until the process starts anew. Then nothing
//! new is accepted and readiness turns red; connections that are open are left to end by
//! themselves, for not all of them need the module.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};

use crate::control::Inner;
use crate::crypto::fips::{self, FipsError, Mode, Occasion};
use crate::failure::chain;
use crate::snapshot::link::Command;
use crate::store::{Store, StoreError};
use crate::telemetry::time::rfc3339;

/// Under which name the store notes that the module of the gateway which serves from it has failed:
/// that gateway can tell nobody any more.
pub(super) const FAILURE_NAME: &str = "fips_failure";

/// How often the module's state is read.
const STATE_INTERVAL: Duration = Duration::from_secs(10);

/// Watches until the module fails; returns at once where there is none.
pub(super) async fn watch(inner: &Arc<Inner>, self_test_interval: Duration) {
    on_the_store(inner, |store| {
        // Of the process before this one, whose module it was.
        match store.meta_find(FAILURE_NAME)? {
            Some(_) => store.meta_remove(FAILURE_NAME),
            None => Ok(()),
        }
    });
    if fips::mode() == Mode::Default {
        return;
    }
    let mut states = interval(STATE_INTERVAL);
    let mut tests = interval_at(Instant::now() + self_test_interval, self_test_interval);
    tests.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while inner.is_operational() {
        tokio::select! {
            _ = states.tick() => {
                let is_operational = fips::is_operational();
                inner.metrics.fips_operational.set(i64::from(is_operational));
                if !is_operational {
                    inner.lose_module(&FipsError::ErrorState);
                }
            }
            _ = tests.tick() => {
                // What it found is dealt with where it was found.
                let _ = self_test(inner, Occasion::Timer).await;
            }
        }
    }
}

/// Runs the module's self-tests off the reactor; about 7 ms.
pub(super) async fn self_test(inner: &Arc<Inner>, occasion: Occasion) -> Result<(), FipsError> {
    let tested = tokio::task::spawn_blocking(move || fips::self_test(occasion)).await;
    let tested = tested.unwrap_or_else(|error| {
        tracing::error!(%error, "a self-test of the FIPS module did not finish");
        Err(FipsError::ErrorState)
    });
    match &tested {
        Ok(()) => tracing::info!("the FIPS module passed its self-tests"),
        Err(FipsError::NotStarted) => {}
        Err(error) => inner.lose_module(error),
    }
    tested
}

impl Inner {
    /// Whether cryptography works, as far as is known.
    pub(super) fn is_operational(&self) -> bool {
        !self.module_is_lost.load(Ordering::Relaxed)
    }

    /// Stops accepting, for good, and says why.
    pub(super) fn lose_module(&self, error: &FipsError) {
        if self.module_is_lost.swap(true, Ordering::Relaxed) {
            return;
        }
        self.metrics.fips_operational.set(0);
        let cause = std::error::Error::source(error).map(ToString::to_string);
        let note = json!({
            "at": rfc3339((self.rules.clock)()),
            "reason": error.to_string(),
            "cause": cause,
        });
        tracing::error!(
            %error,
            cause = cause.unwrap_or_default(),
            "the FIPS module is out of order: no client is accepted any more; start anew"
        );
        self.command(&Command::Halt);
        on_the_store(self, move |store| {
            store.meta_put(FAILURE_NAME, &note.to_string())
        });
    }
}

/// Has a note written, off the reactor. One that is not is told; nothing else depends on it.
fn on_the_store(
    inner: &Inner,
    work: impl FnOnce(&dyn Store) -> Result<(), StoreError> + Send + 'static,
) {
    let store = Arc::clone(&inner.store);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = work(&*store) {
            let error = chain(&error);
            tracing::error!(
                error,
                "the state of the FIPS module is not noted in the store"
            );
        }
    });
}
