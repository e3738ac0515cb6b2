//! Header fields that are written together, again and again.

use std::rc::Rc;

use http::{HeaderMap, HeaderName, HeaderValue};

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
}

#[derive(Debug)]
struct Written {
    // As long as it is held its place in memory is no other's.
    group: Rc<Group>,
    bytes: Box<[u8]>,
}

impl Groups {
    /// How a group is written while the table has this version, if that is known.
    pub(super) fn find(&self, group: &Rc<Group>, version: u64) -> Option<&[u8]> {
        if self.version != version {
            return None;
        }
        let written = self.places.get(place_of(group))?.as_ref()?;
        Rc::ptr_eq(&written.group, group).then_some(&*written.bytes)
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
        if let Some(place) = self.places.get_mut(place_of(group)) {
            *place = Some(Box::new(Written {
                group: group.clone(),
                bytes: bytes.into(),
            }));
        }
    }
}

/// Where a group may be found.
fn place_of(group: &Rc<Group>) -> usize {
    // What is allocated lies some 16 bytes apart.
    let number = Rc::as_ptr(group).addr() / 16;
    (number ^ (number / PLACES)) % PLACES
}
