//! The health of a node: counters of what was seen of it, and whether it is up.
//!
//! As Kong and APISIX count (lua-resty-healthcheck): a success clears the failures, a failure
//! clears the successes, and a node turns when one counter reaches its limit.

use std::sync::atomic::{AtomicU64, Ordering};

/// What was seen of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It answered well, or took a connection.
    Success,
    /// It answered with a status that counts as a failure.
    HttpFailure,
    /// It refused a connection, broke it, or failed in TLS.
    TcpFailure,
    /// It did not answer in time.
    Timeout,
}

/// Counters and state, shared by control and all workers.
#[derive(Debug, Default)]
pub struct Health(AtomicU64);

/// What a [`Health`] is at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vitals {
    /// It is not to be sent to.
    pub is_down: bool,
    /// Successes in a row, of one that has failed.
    pub successes: u8,
    /// Answers that count as failures since the last success.
    pub http_failures: u8,
    /// The same of connections.
    pub tcp_failures: u8,
    /// The same of answers that did not come in time.
    pub timeouts: u8,
}

impl Health {
    /// Whether it may be sent to.
    #[must_use]
    pub fn is_up(&self) -> bool {
        !self.vitals().is_down
    }

    /// Counters and state.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        Vitals::unpack(self.0.load(Ordering::Relaxed))
    }

    /// Counts a sign that turns the node at `limit`; 0: it is not counted. `Some(is_up)` if it
    /// turned the node.
    pub fn report(&self, sign: Sign, limit: u8) -> Option<bool> {
        if limit == 0 {
            return None;
        }
        let mut turned = None;
        let update = |packed| {
            let old = Vitals::unpack(packed);
            let new = old.after(sign, limit);
            turned = (new.is_down != old.is_down).then_some(!new.is_down);
            (new != old).then(|| new.pack())
        };
        let _changed = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
        turned
    }
}

impl Vitals {
    /// APISIX's word for it: `healthy`, `mostly_healthy`, `mostly_unhealthy` or `unhealthy`.
    #[must_use]
    pub fn status(&self) -> &'static str {
        match (self.is_down, self.has_failures(), self.successes) {
            (true, _, 0) => "unhealthy",
            (true, ..) => "mostly_unhealthy",
            (false, true, _) => "mostly_healthy",
            (false, false, _) => "healthy",
        }
    }

    fn has_failures(&self) -> bool {
        self.http_failures > 0 || self.tcp_failures > 0 || self.timeouts > 0
    }

    fn after(self, sign: Sign, limit: u8) -> Self {
        let mut new = self;
        let counter = match sign {
            // A node in full health needs no count of it.
            Sign::Success if !self.is_down && !self.has_failures() => return self,
            Sign::Success => {
                new.http_failures = 0;
                new.tcp_failures = 0;
                new.timeouts = 0;
                &mut new.successes
            }
            // Nor does one that is down and shows no sign of life.
            Sign::HttpFailure | Sign::TcpFailure | Sign::Timeout
                if self.is_down && self.successes == 0 =>
            {
                return self;
            }
            Sign::HttpFailure => &mut new.http_failures,
            Sign::TcpFailure => &mut new.tcp_failures,
            Sign::Timeout => &mut new.timeouts,
        };
        *counter = counter.saturating_add(1);
        let is_enough = *counter >= limit;
        if sign == Sign::Success {
            new.is_down = self.is_down && !is_enough;
        } else {
            new.successes = 0;
            new.is_down = self.is_down || is_enough;
        }
        new
    }

    fn pack(self) -> u64 {
        u64::from_le_bytes([
            u8::from(self.is_down),
            self.successes,
            self.http_failures,
            self.tcp_failures,
            self.timeouts,
            0,
            0,
            0,
        ])
    }

    fn unpack(packed: u64) -> Self {
        let [
            is_down,
            successes,
            http_failures,
            tcp_failures,
            timeouts,
            ..,
        ] = packed.to_le_bytes();
        Self {
            is_down: is_down != 0,
            successes,
            http_failures,
            tcp_failures,
            timeouts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_turns_at_its_limits_and_only_then() {
        let health = Health::default();
        assert_eq!(health.vitals().status(), "healthy");
        for (sign, limit, turned, status) in [
            (Sign::Success, 2, None, "healthy"),
            (Sign::TcpFailure, 0, None, "healthy"),
            (Sign::TcpFailure, 2, None, "mostly_healthy"),
            // A success begins the count anew.
            (Sign::Success, 9, None, "healthy"),
            (Sign::TcpFailure, 2, None, "mostly_healthy"),
            // Each kind is counted by itself.
            (Sign::Timeout, 2, None, "mostly_healthy"),
            (Sign::HttpFailure, 2, None, "mostly_healthy"),
            (Sign::TcpFailure, 2, Some(false), "unhealthy"),
            (Sign::TcpFailure, 2, None, "unhealthy"),
            (Sign::Success, 2, None, "mostly_unhealthy"),
            // A failure begins the count anew.
            (Sign::HttpFailure, 5, None, "unhealthy"),
            (Sign::Success, 2, None, "mostly_unhealthy"),
            (Sign::Success, 2, Some(true), "healthy"),
        ] {
            assert_eq!(health.report(sign, limit), turned, "{sign:?} {status}");
            assert_eq!(health.vitals().status(), status, "{sign:?} {turned:?}");
        }
        assert!(health.is_up());
    }

    #[test]
    fn counters_show_what_turned_a_node_and_do_not_run_over() {
        let health = Health::default();
        for _ in 0..300 {
            health.report(Sign::Timeout, 255);
        }
        let vitals = health.vitals();
        assert_eq!((vitals.is_down, vitals.timeouts), (true, 255));
        assert_eq!(Vitals::unpack(vitals.pack()), vitals);
    }
}
