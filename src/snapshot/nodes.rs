//! What is known of nodes while they serve: atomics that a snapshot owns and all workers share.
//!
//! A node's state outlives the snapshots that it is in: a write of its upstream that keeps the node
//! keeps what is known of it, and two upstreams know nothing of each other.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::matching::balance::load::Latency;
use crate::snapshot::health::Health;

/// The states of one upstream's nodes, by address as configured.
///
/// Remembered as long as somebody holds them: a worker that sends to the node, or a check of it.
#[derive(Clone, Debug, Default)]
pub struct NodeStates(Arc<Mutex<ByAddress>>);

type ByAddress = HashMap<(Box<str>, u16), Weak<NodeState>>;

impl NodeStates {
    /// The state of a node, new where nothing is known of it. Locks: for setting up, not for requests.
    #[must_use]
    pub fn of(&self, host: &str, port: u16) -> Arc<NodeState> {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Box::from(host), port);
        if let Some(known) = states.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        states.retain(|_, state| state.strong_count() > 0);
        let fresh = Arc::new(NodeState::default());
        states.insert(key, Arc::downgrade(&fresh));
        fresh
    }
}

/// What is known of one node.
#[derive(Debug, Default)]
pub struct NodeState {
    /// Whether it is up.
    pub health: Health,
    in_flight: AtomicU32,
    /// Seconds as the bits of an `f32`, above the time of the last answer in milliseconds of the
    /// wall clock, modulo 2^32.
    latency: AtomicU64,
}

/// A request in flight, as long as this is held.
#[derive(Debug)]
pub struct Busy(Arc<NodeState>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl NodeState {
    /// Requests in flight, of all workers.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts a request until what is returned is dropped.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> Busy {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// How long it takes to answer, as of `now`; zero where it has not answered yet. `now` is in
    /// milliseconds of one clock for all workers.
    #[must_use]
    pub fn latency(&self, now: u64) -> Latency {
        let (latency, at) = unpack(self.latency.load(Ordering::Relaxed));
        latency.after(age(at, now))
    }

    /// It answered in this time.
    pub fn answered(&self, took: Duration, now: u64) {
        let update = |packed| {
            let (latency, at) = unpack(packed);
            Some(pack(latency.with(took, age(at, now)), now))
        };
        let _always = self
            .latency
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
    }
}

/// The lower half of a word.
fn low(word: u64) -> u32 {
    u32::try_from(word & u64::from(u32::MAX)).unwrap_or_default()
}

fn unpack(packed: u64) -> (Latency, u32) {
    let seconds = f32::from_bits(low(packed >> 32));
    (Latency { seconds }, low(packed))
}

fn pack(latency: Latency, now: u64) -> u64 {
    u64::from(latency.seconds.to_bits()) << 32 | u64::from(low(now))
}

/// Since then; a clock that went back counts as none.
fn age(at: u32, now: u64) -> Duration {
    let age = low(now).wrapping_sub(at);
    Duration::from_millis(if age > u32::MAX / 2 { 0 } else { age.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_shared_by_address_and_forgotten_when_nobody_holds_them() {
        let states = NodeStates::default();
        let held = states.of("a", 80);
        let busy = held.begin();
        assert_eq!(states.clone().of("a", 80).in_flight(), 1);
        assert_eq!(states.of("a", 81).in_flight(), 0);
        assert_eq!(states.of("b", 80).in_flight(), 0);
        drop(held);
        assert_eq!(states.of("a", 80).in_flight(), 1, "a request holds it too");
        drop(busy);
        assert_eq!(states.of("a", 80).in_flight(), 0);
        drop(states.of("c", 80));
        let _held = states.of("d", 80);
        assert_eq!(states.0.lock().unwrap().len(), 1);
    }

    #[test]
    fn answers_move_the_latency_and_time_lowers_it() {
        let state = NodeState::default();
        assert_eq!(state.latency(7), Latency::default());
        // Twice 49.7 days: the clock's lower half comes round.
        let now = 2 * u64::from(u32::MAX);
        state.answered(Duration::from_secs(1), now);
        let first = state.latency(now).seconds;
        state.answered(Duration::from_secs(2), now + 5_000);
        let second = state.latency(now + 5_000).seconds;
        assert!(second > first, "{first} {second}");
        assert!(state.latency(now + 15_000).seconds < second / 2.0);
        assert!((state.latency(now).seconds - second).abs() < f32::EPSILON);
    }
}
