//! Who is to be told of what: watches of the kernel's, the names that matter in each, and for whom.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use rustix::fs::inotify;

use super::{FORGOTTEN, REASONS, SWEEP, Unwatched};

/// Paths that are watched at most: each takes a watch of the kernel's for every folder on it that no
/// other leads through.
pub(super) const MOST: usize = 16_384;

/// A watch of the kernel's, and the name that matters in it; the empty one is that of a file itself.
pub(super) type Place = (i32, OsString);

/// One key of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ear(u64);

/// All that is watched.
#[derive(Debug)]
pub(super) struct Table<K> {
    ears: BTreeMap<K, Ear>,
    entries: HashMap<Ear, Entry<K>>,
    /// By watch and name. Invariant: none of the maps and sets in it is empty.
    watches: HashMap<i32, HashMap<OsString, HashSet<Ear>>>,
    /// What the watches are of.
    inotify: Option<Arc<OwnedFd>>,
    next: u64,
    swept: Option<Instant>,
    told: BTreeSet<String>,
}

#[derive(Debug)]
struct Entry<K> {
    key: K,
    places: HashSet<Place>,
    renewed: Instant,
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self {
            ears: BTreeMap::new(),
            entries: HashMap::new(),
            watches: HashMap::new(),
            inotify: None,
            next: 0,
            swept: None,
            told: BTreeSet::new(),
        }
    }
}

impl<K> Table<K> {
    /// Notes a place before it is known whether the walk comes to its end.
    pub(super) fn note(&mut self, place: &Place, ear: Ear) {
        let names = self.watches.entry(place.0).or_default();
        names.entry(place.1.clone()).or_default().insert(ear);
    }

    /// Whether a reason was not told before. Only so many are remembered; what is more is not told.
    pub(super) fn is_news(&mut self, reason: &str) -> bool {
        self.told.len() < REASONS && self.told.insert(reason.to_owned())
    }

    /// A watch that the kernel has given up: of what is deleted or unmounted.
    pub(super) fn lose(&mut self, watch: i32) {
        self.watches.remove(&watch);
    }

    /// Ends a walk that did not come to its end: what it has noted is not watched for it.
    pub(super) fn give_up(&mut self, ear: Ear, places: &HashSet<Place>) {
        let kept = self.entries.get(&ear).map(|entry| &entry.places);
        let gone = places
            .iter()
            .filter(|place| !kept.is_some_and(|kept| kept.contains(place)));
        let gone: Vec<Place> = gone.cloned().collect();
        self.release(ear, gone.iter());
    }

    /// Ends a walk: what it has noted is what is watched. What another walk of the same key found
    /// meanwhile counts no more: if that was something else, a place both have has heard of it.
    pub(super) fn keep(&mut self, ear: Ear, places: HashSet<Place>) {
        let Some(entry) = self.entries.get_mut(&ear) else {
            return self.release(ear, places.iter());
        };
        entry.renewed = Instant::now();
        let before = std::mem::replace(&mut entry.places, places);
        let now = entry.places.clone();
        self.release(ear, before.difference(&now));
    }

    fn release<'a>(&mut self, ear: Ear, places: impl Iterator<Item = &'a Place>) {
        for (watch, name) in places {
            let Some(names) = self.watches.get_mut(watch) else {
                continue;
            };
            if let Some(ears) = names.get_mut(name) {
                ears.remove(&ear);
                if ears.is_empty() {
                    names.remove(name);
                }
            }
            if names.is_empty() {
                self.watches.remove(watch);
                if let Some(inotify) = &self.inotify {
                    // One that the kernel has given up meanwhile is gone all the same.
                    let _gone = inotify::remove_watch(inotify, *watch);
                }
            }
        }
    }
}

impl<K: Clone + Ord> Table<K> {
    /// Begins a walk for a key.
    pub(super) fn begin(&mut self, inotify: &Arc<OwnedFd>, key: &K) -> Result<Ear, Unwatched> {
        self.inotify.get_or_insert_with(|| Arc::clone(inotify));
        if let Some(ear) = self.ears.get(key) {
            return Ok(*ear);
        }
        if self.entries.len() >= MOST {
            return Err(Unwatched::Many { limit: MOST });
        }
        let ear = Ear(self.next);
        self.next = self.next.wrapping_add(1);
        let entry = Entry {
            key: key.clone(),
            places: HashSet::new(),
            renewed: Instant::now(),
        };
        self.entries.insert(ear, entry);
        self.ears.insert(key.clone(), ear);
        Ok(ear)
    }

    /// All keys.
    pub(super) fn keys(&self) -> BTreeSet<K> {
        self.ears.keys().cloned().collect()
    }

    /// The keys that something which happened to a name concerns, or to the watched itself.
    pub(super) fn concerned(&self, watch: i32, name: Option<&OsStr>) -> BTreeSet<K> {
        let Some(names) = self.watches.get(&watch) else {
            return BTreeSet::new();
        };
        let ears: Vec<&HashSet<Ear>> = match name {
            Some(name) => names.get(name).into_iter().collect(),
            None => names.values().collect(),
        };
        let entries = ears
            .into_iter()
            .flatten()
            .filter_map(|ear| self.entries.get(ear));
        entries.map(|entry| entry.key.clone()).collect()
    }

    /// Forgets the keys that nobody has watched again for long.
    pub(super) fn forget(&mut self, now: Instant) {
        let swept = self.swept.get_or_insert(now);
        if now.saturating_duration_since(*swept) < SWEEP {
            return;
        }
        *swept = now;
        let is_old = |entry: &Entry<K>| now.saturating_duration_since(entry.renewed) > FORGOTTEN;
        let old = self.entries.iter().filter(|(_, entry)| is_old(entry));
        let old: Vec<Ear> = old.map(|(ear, _)| *ear).collect();
        for ear in old {
            if let Some(entry) = self.entries.remove(&ear) {
                self.ears.remove(&entry.key);
                self.release(ear, entry.places.iter());
            }
        }
    }
}
