//! The keys of session tickets are changed in time.

use std::time::{Duration, UNIX_EPOCH};

use crate::control::Inner;
use crate::tls::tickets::TicketKeys;

/// The clock is looked at this often at least: it may be set, and a machine may sleep.
const LOOK: Duration = Duration::from_secs(30);
/// When what failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Goes over to the keys of each period as it begins.
pub(super) async fn run(inner: &Inner, keys: &TicketKeys) {
    let now = || {
        let since = (inner.rules.clock)().duration_since(UNIX_EPOCH);
        since.unwrap_or_default()
    };
    loop {
        tokio::time::sleep(keys.rest(now()).min(LOOK)).await;
        match keys.turn(now()) {
            Ok(true) => inner.metrics.ticket_keys.inc(),
            Ok(false) => {}
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(
                    %error,
                    cause = cause.unwrap_or_default(),
                    "session tickets keep their former key"
                );
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}
