//! Routes on one and the same path, best first: the last step of the route table.

use std::cmp::Reverse;

use smallvec::SmallVec;

use super::path_pattern::{Part, PathPattern, Syntax, Tail, covers};
use super::route::Rank;

/// Routes on one path, best first. Few are a sorted list, which has one, as most paths do, in itself;
/// many a tree, so that a change copies few.
#[derive(Debug, Clone)]
pub(super) enum Ranked<R> {
    Few(SmallVec<[(Place, R); 1]>),
    Many(imbl::OrdMap<Place, R>),
}

/// How many routes on one path a list may hold.
const FEW_MAX: usize = 32;

/// The place of a route among those on the same path; the field order is the rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    priority: Reverse<i64>,
    path_bytes: Reverse<usize>,
    order: u64,
    /// What the path must go on with after its literal part.
    tail: Option<Tail>,
}

impl Place {
    /// The place of a route with this rank under this path.
    pub(super) fn new(rank: Rank, path: &PathPattern, syntax: Syntax) -> Self {
        Self {
            priority: Reverse(rank.priority),
            path_bytes: Reverse(path.as_str().len()),
            order: rank.order,
            tail: path.cut(syntax).tail(),
        }
    }

    /// True when `rest`, the path after its literal part, goes on as this place asks.
    pub(super) fn covers(&self, rest: &[u8]) -> bool {
        let tail = self.tail.as_deref();
        tail.is_none_or(|tail| covers(tail, rest))
    }

    /// What the path must go on with after its literal part.
    pub(super) fn tail(&self) -> &[Part] {
        self.tail.as_deref().unwrap_or_default()
    }

    fn is_of(&self, order: u64, tail: Option<&Tail>) -> bool {
        self.order == order && self.tail.as_ref() == tail
    }
}

impl<R> Ranked<R> {
    /// The first that `fits`, best first.
    pub(super) fn find(&self, mut fits: impl FnMut(&Place, &R) -> bool) -> Option<&R> {
        match self {
            Self::Few(list) => {
                let found = list.iter().find(|(place, value)| fits(place, value));
                found.map(|(_, value)| value)
            }
            Self::Many(map) => {
                let found = map.iter().find(|(place, value)| fits(place, value));
                found.map(|(_, value)| value)
            }
        }
    }

    /// True when no place is taken.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Few(list) => list.is_empty(),
            Self::Many(map) => map.is_empty(),
        }
    }
}

impl<R: Clone> Ranked<R> {
    /// Puts a route in; returns how many places were added: none when the place was taken and got a new value.
    pub(super) fn insert(&mut self, place: Place, value: R) -> usize {
        match self {
            Self::Few(list) => {
                match list.binary_search_by(|(own, _)| own.cmp(&place)) {
                    Ok(at) => {
                        list.remove(at);
                        list.insert(at, (place, value));
                        return 0;
                    }
                    Err(at) => {
                        list.reserve_exact(1);
                        list.insert(at, (place, value));
                    }
                }
                if list.len() > FEW_MAX {
                    *self = Self::Many(list.drain(..).collect());
                }
                1
            }
            Self::Many(map) => usize::from(map.insert(place, value).is_none()),
        }
    }

    /// Takes the route of this `order` and `tail` out; returns how many places were freed.
    pub(super) fn remove(&mut self, order: u64, tail: Option<&Tail>) -> usize {
        match self {
            Self::Few(list) => {
                let before = list.len();
                list.retain(|(place, _)| !place.is_of(order, tail));
                before - list.len()
            }
            // The priority is not known, so the place is looked for; only its removal copies.
            Self::Many(map) => {
                let place = map.keys().find(|place| place.is_of(order, tail)).cloned();
                usize::from(place.is_some_and(|place| map.remove(&place).is_some()))
            }
        }
    }
}

impl<R> Default for Ranked<R> {
    fn default() -> Self {
        Self::Few(SmallVec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(priority: i64, path: &str, order: u64) -> Place {
        let path = PathPattern::parse(path).unwrap();
        Place::new(Rank { priority, order }, &path, Syntax::Plain)
    }

    fn values(ranked: &Ranked<u64>) -> Vec<u64> {
        let mut values = Vec::new();
        let found = ranked.find(|_, value| {
            values.push(*value);
            false
        });
        assert_eq!(found, None);
        values
    }

    #[test]
    fn priority_goes_before_length_before_age() {
        let mut ranked = Ranked::default();
        for (value, place) in (0..).zip([
            place(0, "/*", 2),
            place(0, "/*", 1),
            place(0, "/*/b", 3),
            place(-1, "/*/b/c", 0),
            place(1, "/*", 9),
        ]) {
            assert_eq!(ranked.insert(place, value), 1);
        }
        assert_eq!(values(&ranked), [4, 2, 1, 0, 3]);
    }

    #[test]
    fn a_list_and_a_tree_behave_alike() {
        for count in [FEW_MAX, FEW_MAX + 1] {
            let orders = 0..u64::try_from(count).unwrap();
            let mut ranked = Ranked::default();
            for order in orders.clone().rev() {
                assert_eq!(ranked.insert(place(0, "/*", order), order), 1);
            }
            assert_eq!(matches!(ranked, Ranked::Many(_)), count > FEW_MAX);
            assert_eq!(values(&ranked), orders.clone().collect::<Vec<_>>());
            assert_eq!(
                ranked.insert(place(0, "/*", 7), 700),
                0,
                "the place is taken"
            );
            assert_eq!(ranked.find(|_, value| *value > 99), Some(&700));
            let other = PathPattern::parse("/*/b").unwrap();
            let other = other.cut(Syntax::Plain).tail();
            assert_eq!(ranked.remove(7, other.as_ref()), 0, "another tail");
            for order in orders {
                assert!(!ranked.is_empty());
                assert_eq!(ranked.remove(order, None), 1);
                assert_eq!(ranked.remove(order, None), 0);
            }
            assert!(ranked.is_empty());
        }
    }
}
