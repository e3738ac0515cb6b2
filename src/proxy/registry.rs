//! A worker's connections: what each is doing, and what it is told to do.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use prometheus::IntGauge;
use slab::Slab;

use crate::net::sweep::{TICK, millis};
use crate::proxy::conn::{Conn, Phase, Signal};
use crate::proxy::settings::Settings;

/// Every open connection of one worker.
#[derive(Default)]
pub struct Registry {
    conns: RefCell<Slab<Rc<Conn>>>,
    accepted: Cell<usize>,
}

/// A connection's place in the registry; leaves it when dropped.
pub struct Place {
    registry: Rc<Registry>,
    key: usize,
}

/// An accepted connection, counted from accept to close.
pub struct Counted {
    registry: Rc<Registry>,
    gauge: IntGauge,
}

impl Registry {
    /// Counts a connection that was just accepted, here and in its listener's gauge.
    pub fn count(self: &Rc<Self>, gauge: IntGauge) -> Counted {
        gauge.inc();
        self.accepted.set(self.accepted.get().saturating_add(1));
        Counted {
            registry: self.clone(),
            gauge,
        }
    }

    /// Enters a connection that was greeted.
    pub fn enter(self: &Rc<Self>, conn: Rc<Conn>) -> Place {
        let key = self.conns.borrow_mut().insert(conn);
        Place {
            registry: self.clone(),
            key,
        }
    }

    /// How many connections are open, those that are still being greeted included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.accepted.get()
    }

    /// Whether none is left that was greeted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.conns.borrow().is_empty()
    }

    /// The connections that `wanted` says yes to.
    pub fn matching(&self, wanted: impl Fn(&Conn) -> bool) -> Vec<Rc<Conn>> {
        self.conns
            .borrow()
            .iter()
            .map(|(_, conn)| conn)
            .filter(|conn| wanted(conn))
            .cloned()
            .collect()
    }

    /// Applies the time limits of connections and parks the idle ones.
    pub fn sweep(&self, now: u64, settings: &Settings) {
        // Signals wake tasks, which run later: the borrow is not held across them.
        for (_, conn) in self.conns.borrow().iter() {
            let waited = now.saturating_sub(conn.since());
            match conn.phase() {
                Phase::Idle | Phase::Parked if conn.is_blocked() => {
                    if conn.stalls(now, millis(settings.body_timeout)) {
                        conn.tell(Signal::TimeOut);
                    }
                }
                Phase::Idle | Phase::Parked if waited > millis(settings.idle_timeout) => {
                    conn.tell(Signal::Close);
                }
                // Other bytes than requests come on an idle HTTP/2 connection.
                Phase::Idle if !conn.is_http2() && conn.began_to_read() => conn.enter(Phase::Head),
                Phase::Idle if waited >= millis(TICK) && conn.may_park() => {
                    conn.tell(Signal::Park);
                }
                Phase::Head if waited > millis(settings.header_timeout) => {
                    conn.tell(Signal::TimeOut);
                }
                Phase::Busy if conn.stalls(now, millis(settings.body_timeout)) => {
                    conn.tell(Signal::TimeOut);
                }
                // A tunnel keeps limits of its own.
                Phase::Idle | Phase::Parked | Phase::Head | Phase::Busy | Phase::Tunnel => {}
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.registry.conns.borrow_mut().try_remove(self.key);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let left = self.registry.accepted.get().saturating_sub(1);
        self.registry.accepted.set(left);
        self.gauge.dec();
    }
}
