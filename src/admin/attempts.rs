//! Wrong keys, counted by where they come from, so that guessing is slow.
//!
//! Only different keys count: a program that repeats the one it was given is answered 401 each time,
//! and locks nobody out. An address that tried too many waits, and no key of it is looked at until
//! then. On loopback all clients look alike, and one must not keep the others out: there a right key
//! is always accepted, and only wrong ones are told to wait.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::crypto::digest::Sha256;

/// How many different keys an address may try at once.
const BURST: u32 = 20;
/// After how long it may try another one.
const INTERVAL: Duration = Duration::from_secs(6);
/// How many addresses are told apart; those that come then share what is counted.
const SOURCES: usize = 4096;
/// How many of its last keys are known again.
const KNOWN: usize = 8;
/// How many bytes of a key's digest tell it from another one.
const PREFIX: usize = 8;

/// Too many wrong keys: the next one may be tried after this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many wrong keys from this address, try again in {} s", .0.as_secs())]
pub(super) struct TooMany(pub(super) Duration);

/// Who tried wrong keys.
#[derive(Debug, Default)]
pub struct Attempts(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    by_source: HashMap<IpAddr, Tried>,
    /// For those that found no place.
    others: Tried,
}

/// What one source tried.
#[derive(Debug, Default)]
struct Tried {
    /// When all that it tried is forgiven: each key adds an interval. (The generic cell rate
    /// algorithm of ITU-T I.371.)
    forgiven: Option<Instant>,
    known: VecDeque<[u8; PREFIX]>,
}

impl Attempts {
    /// Whether a key of this address is looked at.
    pub(super) fn check(&self, ip: IpAddr, key: &Sha256, now: Instant) -> Result<(), TooMany> {
        if ip.is_loopback() {
            return Ok(());
        }
        let table = self.table();
        let tried = match table.by_source.get(&source(ip)) {
            Some(tried) => tried,
            None if table.by_source.len() < SOURCES => return Ok(()),
            None => &table.others,
        };
        if tried.knows(key) {
            return Ok(());
        }
        tried.wait(now).map_or(Ok(()), Err)
    }

    /// Notes a key of this address that was wrong.
    ///
    /// # Errors
    /// There were too many before it.
    pub(super) fn note(&self, ip: IpAddr, key: &Sha256, now: Instant) -> Result<(), TooMany> {
        let mut table = self.table();
        table.make_room(now);
        let tried = table.of(source(ip));
        if tried.knows(key) {
            return Ok(());
        }
        if let Some(too_many) = tried.wait(now) {
            return Err(too_many);
        }
        tried.known.truncate(KNOWN - 1);
        tried.known.push_front(prefix(key));
        let since = tried.forgiven.filter(|forgiven| *forgiven > now);
        tried.forgiven = since.unwrap_or(now).checked_add(INTERVAL);
        if tried.wait(now).is_some() {
            tracing::warn!(peer = %ip, "many wrong admin keys: this address has to wait");
        }
        Ok(())
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Whatever a panic left there is only counted.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// What this source tried, or those that found no place.
    fn of(&mut self, source: IpAddr) -> &mut Tried {
        if self.by_source.len() < SOURCES || self.by_source.contains_key(&source) {
            return self.by_source.entry(source).or_default();
        }
        &mut self.others
    }

    /// Forgets those that are forgiven, where there are too many.
    fn make_room(&mut self, now: Instant) {
        if self.by_source.len() >= SOURCES {
            let is_open = |tried: &Tried| tried.forgiven.is_some_and(|forgiven| forgiven > now);
            self.by_source.retain(|_, tried| is_open(tried));
        }
    }
}

impl Tried {
    fn knows(&self, key: &Sha256) -> bool {
        self.known.contains(&prefix(key))
    }

    /// How long until another key may be tried; `None`: now.
    fn wait(&self, now: Instant) -> Option<TooMany> {
        let owed = self.forgiven?.saturating_duration_since(now);
        let wait = owed.checked_sub(INTERVAL.saturating_mul(BURST - 1))?;
        // Whole seconds, as `Retry-After` has them, and never too few.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        (seconds > 0).then(|| TooMany(Duration::from_secs(seconds)))
    }
}

fn prefix(key: &Sha256) -> [u8; PREFIX] {
    let mut prefix = [0; PREFIX];
    prefix
        .iter_mut()
        .zip(key.as_bytes())
        .for_each(|(to, from)| *to = *from);
    prefix
}

/// An address, or of IPv6 the network that one site has: 64 bits.
fn source(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64))),
        ip @ IpAddr::V4(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::digest::sha256;

    fn key(number: usize) -> Sha256 {
        sha256(&[number.to_string().as_bytes()]).unwrap()
    }

    /// Tries so many different keys: how many were looked at.
    fn guess(attempts: &Attempts, ip: &str, from: usize, count: usize, now: Instant) -> usize {
        let ip = ip.parse().unwrap();
        let looked_at = |number: &usize| {
            let key = key(*number);
            let checked = attempts.check(ip, &key, now);
            checked.and_then(|()| attempts.note(ip, &key, now)).is_ok()
        };
        (from..from + count).filter(looked_at).count()
    }

    #[test]
    fn guesses_are_few_and_their_address_alone_waits() {
        let (attempts, start) = (Attempts::default(), Instant::now());
        assert_eq!(guess(&attempts, "192.0.2.1", 0, 1000, start), 20);
        let ip = "192.0.2.1".parse().unwrap();
        let right = key(5000);
        assert_eq!(
            attempts.check(ip, &right, start),
            Err(TooMany(Duration::from_secs(6)))
        );
        assert_eq!(guess(&attempts, "192.0.2.2", 0, 1000, start), 20);
        for (seconds, more) in [(5, 0), (7, 1), (19, 2), (60 * 60, 20)] {
            let later = start + Duration::from_secs(seconds);
            let from = usize::try_from(seconds).unwrap() * 1000;
            assert_eq!(
                guess(&attempts, "192.0.2.1", from, 100, later),
                more,
                "{seconds}"
            );
        }
        assert_eq!(
            attempts.check(ip, &right, start + Duration::from_secs(7200)),
            Ok(())
        );
    }

    #[test]
    fn repeated_key_locks_nobody_out() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        let ip = "192.0.2.1".parse().unwrap();
        for number in (0..19).chain(std::iter::repeat_n(18, 1000)) {
            attempts.check(ip, &key(number), now).unwrap();
            attempts.note(ip, &key(number), now).unwrap();
        }
        attempts.check(ip, &key(77), now).unwrap();
    }

    #[test]
    fn right_key_is_always_looked_at_on_loopback() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        assert_eq!(guess(&attempts, "127.0.0.1", 0, 1000, now), 20);
        let ip = "127.0.0.1".parse().unwrap();
        attempts.check(ip, &key(5000), now).unwrap();
        attempts.note(ip, &key(5000), now).unwrap_err();
    }

    #[test]
    fn site_is_one_source_and_their_number_is_bounded() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        assert_eq!(guess(&attempts, "2001:db8::1", 0, 10, now), 10);
        assert_eq!(guess(&attempts, "2001:db8::ffff:2", 10, 100, now), 10);
        assert_eq!(guess(&attempts, "::ffff:192.0.2.9", 0, 100, now), 20);
        assert_eq!(guess(&attempts, "192.0.2.9", 100, 100, now), 0);
        let sites =
            |first: u16| (0..5000).map(move |site| format!("2001:db8:{first:x}:{site:x}::1"));
        let all = sites(1).enumerate();
        let all: usize = all
            .map(|(from, ip)| guess(&attempts, &ip, from, 1, now))
            .sum();
        assert_eq!(attempts.table().by_source.len(), SOURCES);
        // Those without a place share one; together they guess no more than another.
        assert_eq!(all, SOURCES - 2 + 20);
        let shared: usize = sites(2).map(|ip| guess(&attempts, &ip, 6000, 1, now)).sum();
        assert_eq!(shared, 0);
        let later = now + Duration::from_secs(3600);
        assert_eq!(guess(&attempts, "192.0.2.77", 0, 100, later), 20);
        assert!(attempts.table().by_source.len() < 10);
    }
}
