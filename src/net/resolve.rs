//! Names to addresses, off the worker: the system's resolver on a blocking thread, briefly cached.
//!
//! The system's resolver gives no time to live; an answer counts for ten seconds and is used for
//! a minute longer when asking again fails.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use crate::net::sweep::Sweep;

/// How long an answer counts, in milliseconds.
const FRESH: u64 = 10_000;
/// How long an answer is used when asking again fails, in milliseconds.
const STALE: u64 = 70_000;
/// Names kept; more start over.
const NAMES: usize = 4096;

/// A thread's view of names.
#[derive(Debug)]
pub struct Resolver {
    sweep: Rc<Sweep>,
    known: RefCell<HashMap<Box<str>, Known>>,
}

#[derive(Clone, Debug)]
struct Known {
    addresses: Rc<[IpAddr]>,
    at: u64,
}

impl Resolver {
    /// A resolver that knows nothing yet.
    #[must_use]
    pub fn new(sweep: Rc<Sweep>) -> Self {
        Self {
            sweep,
            known: RefCell::default(),
        }
    }

    /// The addresses of a host: itself when it is an IP literal, else what the system says.
    ///
    /// # Errors
    /// The system's; also when it knows no address.
    pub async fn resolve(&self, host: &str, port: u16) -> io::Result<Rc<[IpAddr]>> {
        if let Ok(ip) = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>()
        {
            return Ok(Rc::new([ip]));
        }
        let now = self.sweep.now();
        let known = self.known.borrow().get(host).cloned();
        if let Some(known) = &known
            && now < known.at.saturating_add(FRESH)
        {
            return Ok(known.addresses.clone());
        }
        match tokio::net::lookup_host((host, port)).await {
            Ok(found) => {
                let addresses: Rc<[IpAddr]> =
                    found.map(|address: SocketAddr| address.ip()).collect();
                if addresses.is_empty() {
                    return Err(io::Error::new(io::ErrorKind::NotFound, "no address"));
                }
                let mut known = self.known.borrow_mut();
                if known.len() >= NAMES {
                    known.clear();
                }
                known.insert(
                    host.into(),
                    Known {
                        addresses: addresses.clone(),
                        at: now,
                    },
                );
                Ok(addresses)
            }
            Err(error) => match known {
                Some(known) if now < known.at.saturating_add(STALE) => Ok(known.addresses),
                _ => Err(error),
            },
        }
    }
}
