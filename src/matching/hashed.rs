//! A persistent map from byte strings that finds a key by its hash, in few places of memory.
//!
//! Entries are in lists, sorted by hash. Hashes are spread evenly, so a hash says which list has its
//! key, and where in the list to within a few places: nothing is walked from node to node, which among
//! many entries means to wait for memory at each of them.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::tree::Kept;

/// Up to so many entries on average a list is short, however few lists there are.
const SHORT: usize = 8;

/// Among many, lists are so many times as many as each has entries: a change copies both.
const LISTS_PER_ENTRY: usize = 8;

/// A map from byte strings to `V`. A clone is O(1); a change copies O(√n) pointers, for the most
/// entries that there were since it was empty.
#[derive(Debug, Clone)]
pub(super) struct Hashed<V, S = RandomState> {
    hasher: S,
    /// Each has an equal share of all hashes, in their order; none where there is no entry.
    lists: Arc<[List<V>]>,
    len: usize,
}

/// Sorted by hash; entries of one hash are in any order.
type List<V> = Arc<Vec<Slot<V>>>;

#[derive(Debug, Clone)]
struct Slot<V> {
    hash: u64,
    entry: Arc<Entry<V>>,
}

#[derive(Debug, Clone)]
struct Entry<V> {
    key: Box<[u8]>,
    value: V,
}

/// Where a key is.
struct Spot {
    hash: u64,
    list: usize,
    /// Where in the list; `Err`: where it would be.
    at: Result<usize, usize>,
}

impl<V, S: BuildHasher> Hashed<V, S> {
    /// True when nothing is stored.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of `key`.
    pub(super) fn get(&self, key: &[u8]) -> Option<&V> {
        // Without a hash where there is nothing.
        if self.is_empty() {
            return None;
        }
        let spot = self.spot(key);
        let slot = self.lists.get(spot.list)?.get(spot.at.ok()?)?;
        Some(&slot.entry.value)
    }

    fn spot(&self, key: &[u8]) -> Spot {
        let hash = self.hasher.hash_one(key);
        let (list, rest) = share(hash, self.lists.len());
        let slots = self.lists.get(list).map_or(&[][..], |list| list);
        let first = first_of(slots, hash, share(rest, slots.len()).0);
        let same = slots.iter().skip(first);
        let mut same = same.take_while(|slot| slot.hash == hash);
        let at = match same.position(|slot| *slot.entry.key == *key) {
            Some(further) => Ok(first + further),
            None => Err(first),
        };
        Spot { hash, list, at }
    }
}

impl<V: Clone, S: BuildHasher> Hashed<V, S> {
    /// Applies `change` to the value of `key`, which is made if there is none.
    pub(super) fn edit<T>(&mut self, key: &[u8], change: impl FnOnce(&mut V) -> T) -> T
    where
        V: Default,
    {
        let mut spot = self.spot(key);
        let most = SHORT.max(self.lists.len() / LISTS_PER_ENTRY);
        if spot.at.is_err() && self.len >= self.lists.len() * most {
            self.spread();
            spot = self.spot(key);
        }
        let lists = Arc::make_mut(&mut self.lists);
        #[expect(clippy::indexing_slicing, reason = "each hash has a list")]
        let slots = Arc::make_mut(&mut lists[spot.list]);
        let at = spot.at.unwrap_or_else(|at| {
            let entry = Entry {
                key: key.into(),
                value: V::default(),
            };
            let slot = Slot {
                hash: spot.hash,
                entry: Arc::new(entry),
            };
            slots.insert(at, slot);
            self.len += 1;
            at
        });
        #[expect(clippy::indexing_slicing, reason = "`at` was found or inserted above")]
        let slot = &mut slots[at];
        change(&mut Arc::make_mut(&mut slot.entry).value)
    }

    /// Applies `change` to the value of `key`, if there is one, and drops the value when `change`
    /// answers [`Kept::No`]. An absent key copies nothing.
    pub(super) fn edit_or_drop(&mut self, key: &[u8], change: impl FnOnce(&mut V) -> Kept) {
        let Spot {
            list, at: Ok(at), ..
        } = self.spot(key)
        else {
            return;
        };
        let list = Arc::make_mut(&mut self.lists).get_mut(list);
        let Some(slots) = list.map(Arc::make_mut) else {
            return;
        };
        let Some(slot) = slots.get_mut(at) else {
            return;
        };
        if change(&mut Arc::make_mut(&mut slot.entry).value) == Kept::No {
            slots.remove(at);
            self.len -= 1;
        }
        if self.is_empty() {
            self.lists = Arc::default();
        }
    }

    /// Makes twice as many lists of what there is.
    fn spread(&mut self) {
        let count = (self.lists.len() * 2).max(1);
        let mut lists: Vec<_> = (0..count).map(|_| Vec::new()).collect();
        for slot in self.lists.iter().flat_map(|list| list.iter()) {
            let (list, _) = share(slot.hash, count);
            if let Some(list) = lists.get_mut(list) {
                list.push(slot.clone());
            }
        }
        self.lists = lists.into_iter().map(Arc::new).collect();
    }
}

impl<V, S: Default> Default for Hashed<V, S> {
    fn default() -> Self {
        Self {
            hasher: S::default(),
            lists: Arc::default(),
            len: 0,
        }
    }
}

/// In which of `count` equal shares of all hashes this one is, and where in that share: as a hash is
/// among all.
fn share(hash: u64, count: usize) -> (usize, u64) {
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    let (rest, share) = hash.carrying_mul(count, 0);
    (usize::try_from(share).unwrap_or(usize::MAX), rest)
}

/// Where the first slot is whose hash is not below this one, looked for from `guess` on.
fn first_of<V>(slots: &[Slot<V>], hash: u64, guess: usize) -> usize {
    let (before, after) = slots.split_at_checked(guess).unwrap_or((slots, &[]));
    // One of the two is none.
    let back = before.iter().rev().take_while(|slot| slot.hash >= hash);
    let on = after.iter().take_while(|slot| slot.hash < hash);
    before.len() - back.count() + on.count()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::hash::{BuildHasherDefault, Hasher};

    use proptest::prelude::*;

    use super::*;

    /// Few hashes for all keys, at both ends of all that there are.
    #[derive(Default)]
    struct Poor(u64);

    impl Hasher for Poor {
        fn write(&mut self, bytes: &[u8]) {
            let sum: u64 = bytes.iter().copied().map(u64::from).sum();
            self.0 = [0, 1, 1 << 63, u64::MAX][usize::try_from(sum % 4).unwrap()];
        }

        fn finish(&self) -> u64 {
            self.0
        }
    }

    fn number(map: &mut Hashed<usize>, numbers: impl Iterator<Item = usize>) {
        for number in numbers {
            map.edit(format!("/{number}").as_bytes(), |own| *own = number);
        }
    }

    fn agrees<S: BuildHasher + Default>(
        changes: &[(String, bool, u32)],
    ) -> Result<(), TestCaseError> {
        let mut map = Hashed::<u32, S>::default();
        let mut expected = BTreeMap::new();
        for (key, is_kept, value) in changes {
            let before = map.len;
            match is_kept {
                true => {
                    map.edit(key.as_bytes(), |own| *own = *value);
                    expected.insert(key.as_str(), *value);
                }
                false => {
                    map.edit_or_drop(key.as_bytes(), |_| Kept::No);
                    expected.remove(key.as_str());
                }
            }
            prop_assert_eq!(map.len, expected.len(), "{} before", before);
            prop_assert_eq!(map.is_empty(), expected.is_empty());
            for (key, ..) in changes {
                let found = map.get(key.as_bytes()).copied();
                prop_assert_eq!(found, expected.get(key.as_str()).copied());
            }
            for list in map.lists.iter() {
                prop_assert!(list.is_sorted_by_key(|slot| slot.hash));
            }
        }
        Ok(())
    }

    #[test]
    fn among_many_a_key_is_close_to_where_its_hash_says() {
        const COUNT: usize = 20_000;
        let mut map = Hashed::default();
        number(&mut map, 0..COUNT);
        let lists = map.lists.len();
        let mut steps = 0;
        for number in 0..COUNT {
            let key = format!("/{number}");
            assert_eq!(map.get(key.as_bytes()), Some(&number));
            let spot = map.spot(key.as_bytes());
            let (list, rest) = share(spot.hash, lists);
            let (guess, _) = share(rest, map.lists[list].len());
            steps += guess.abs_diff(spot.at.unwrap());
        }
        assert!(steps < 4 * COUNT, "{steps} steps for {COUNT} keys");
        let longest = map.lists.iter().map(|list| list.len()).max();
        assert!(
            lists < 1000 && longest < Some(200),
            "{lists} lists, {longest:?} entries in one"
        );
    }

    #[test]
    fn a_change_shares_all_but_its_list() {
        let mut before = Hashed::default();
        number(&mut before, 0..1000);
        let shared = |one: &Hashed<usize>, other: &Hashed<usize>| {
            let lists = one.lists.iter().zip(other.lists.iter());
            lists.filter(|(one, other)| Arc::ptr_eq(one, other)).count()
        };
        let mut after = before.clone();
        after.edit(b"/7", |own| *own = 70);
        assert_eq!(shared(&before, &after), before.lists.len() - 1);
        assert_eq!((before.get(b"/7"), after.get(b"/7")), (Some(&7), Some(&70)));
        let mut same = after.clone();
        same.edit_or_drop(b"/none", |_| panic!("nothing is stored here"));
        assert!(Arc::ptr_eq(&after.lists, &same.lists));
        same.edit_or_drop(b"/7", |_| Kept::Yes);
        assert_eq!(same.get(b"/7"), Some(&70));
        same.edit_or_drop(b"/7", |_| Kept::No);
        assert_eq!((same.get(b"/7"), same.len), (None, 999));
        assert_eq!(after.get(b"/7"), Some(&70));
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_map_after_every_change(
            changes in proptest::collection::vec(("[ab]{0,6}", any::<bool>(), 0_u32..9), 0..60),
        ) {
            agrees::<RandomState>(&changes)?;
            agrees::<BuildHasherDefault<Poor>>(&changes)?;
        }
    }
}
