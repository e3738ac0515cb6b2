//! Header fields that are written together, again and again.

use std::rc::Rc;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::super::digest::{digest, places_of};

/// Fields that many messages have, all of them and in this order: how they are written is remembered,
/// and found by who they are, not by what they say.
#[derive(Debug)]
pub struct Group(Box<[(HeaderName, HeaderValue)]>);

impl Group {
    /// A group of these fields.
    #[must_use]
    pub fn new(fields: impl IntoIterator<Item = (HeaderName, HeaderValue)>) -> Rc<Self> {
        Rc::new(Self(fields.into_iter().collect()))
    }

    /// Its fields.
    pub fn fields(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// Whether a field of it has this name.
    #[must_use]
    pub fn says(&self, name: &HeaderName) -> bool {
        self.0.iter().any(|(own, _)| own == name)
    }

    /// Puts its fields into a map, behind what is there.
    pub fn put_into(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.0 {
            headers.append(name, value.clone());
        }
    }
}

/// Places for groups: some are many clients', which share one connection to an upstream.
const PLACES: usize = 64;
/// The longest that is remembered, in bytes as it is written.
const LONGEST: usize = 512;

/// How groups were written while the table had one version: none comes again.
#[derive(Debug, Default)]
pub(super) struct Groups {
    version: u64,
    places: Vec<Option<Box<Written>>>,
    /// A group that is written first looks for a place from the other end than the one before it.
    is_turned: bool,
}

#[derive(Debug)]
struct Written {
    // As long as it is held its place in memory is no other's.
    group: Rc<Group>,
    bytes: Box<[u8]>,
    /// It was written again since another wanted its place.
    is_used: bool,
}

impl Groups {
    /// How a group is written while the table has this version, if that is known.
    pub(super) fn find(&mut self, group: &Rc<Group>, version: u64) -> Option<&[u8]> {
        if self.version != version {
            return None;
        }
        let is_it = |place: &Option<Box<Written>>| {
            let written = place.as_ref();
            written.is_some_and(|written| Rc::ptr_eq(&written.group, group))
        };
        let mut places = places_for(group).into_iter();
        let at = places.find(|at| self.places.get(*at).is_some_and(is_it))?;
        let written = self.places.get_mut(at)?.as_mut()?;
        written.is_used = true;
        Some(&written.bytes)
    }

    /// It is written so; what was written with another version is not held.
    pub(super) fn keep(&mut self, group: &Rc<Group>, version: u64, bytes: &[u8]) {
        if bytes.len() > LONGEST {
            return;
        }
        if self.version != version {
            self.version = version;
            self.places.clear();
        }
        if self.places.is_empty() {
            self.places.resize_with(PLACES, || None);
        }
        let mut places = places_for(group);
        self.is_turned = !self.is_turned;
        if self.is_turned {
            places.reverse();
        }
        let is_free = |at: &usize| self.places.get(*at).is_some_and(Option::is_none);
        let free = places.into_iter().find(is_free);
        let mut unused = places.into_iter();
        let Some(at) = free.or_else(|| unused.find(|at| !self.was_used(*at))) else {
            return;
        };
        if let Some(place) = self.places.get_mut(at) {
            *place = Some(Box::new(Written {
                group: group.clone(),
                bytes: bytes.into(),
                is_used: false,
            }));
        }
    }

    /// Whether what is there was written since this was asked last.
    fn was_used(&mut self, at: usize) -> bool {
        let place = self.places.get_mut(at);
        let written = place.and_then(Option::as_mut);
        written.is_some_and(|written| std::mem::take(&mut written.is_used))
    }
}

/// Where a group may be found.
fn places_for(group: &Rc<Group>) -> [usize; 2] {
    let place = Rc::as_ptr(group).addr();
    places_of::<PLACES>(digest(&place.to_le_bytes(), b""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_that_would_have_one_place_get_two() {
        let all: Vec<_> = (0..1000).map(|_| Group::new([])).collect();
        let first = places_for(&all[0]);
        let is_alike = |other: &&Rc<Group>| {
            let places = places_for(other);
            places[0] == first[0] && places[1] != first[1]
        };
        let mut alike = all[1..].iter().filter(is_alike).peekable();
        assert!(alike.peek().is_some());
        for other in alike {
            let mut groups = Groups::default();
            for _ in 0..4 {
                for group in [&all[0], other] {
                    if groups.find(group, 1).is_none() {
                        groups.keep(group, 1, b"written");
                    }
                }
            }
            assert!(groups.find(&all[0], 1).is_some() && groups.find(other, 1).is_some());
        }
    }

    #[test]
    fn group_that_is_written_once_does_not_take_the_place_of_one_that_repeats() {
        let all: Vec<_> = (0..1000).map(|_| Group::new([])).collect();
        let mut groups = Groups::default();
        groups.keep(&all[0], 1, b"written");
        for other in &all[1..] {
            assert_eq!(groups.find(&all[0], 1), Some(&b"written"[..]));
            groups.keep(other, 1, b"other");
        }
        // What is written no more gives its place to what is.
        for group in &all[900..] {
            for _ in 0..4 {
                if groups.find(group, 1).is_none() {
                    groups.keep(group, 1, b"written");
                }
            }
            assert!(groups.find(group, 1).is_some());
        }
    }
}
