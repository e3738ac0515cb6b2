//! A persistent radix tree over bytes: the router's memory, for hosts and for paths.
//!
//! Nodes are shared between clones and copied on the way to a change, so a change copies at most
//! as many nodes as its key has bytes. All walks are loops: no key is too deep for the stack.

use std::sync::Arc;

#[cfg(test)]
thread_local! {
    /// Nodes that look-ups of this thread have visited.
    static VISITED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// How many nodes look-ups of this thread have visited so far.
#[cfg(test)]
pub(super) fn visited() -> usize {
    VISITED.with(std::cell::Cell::get)
}

/// A map from byte strings to `V` that finds every stored prefix of a key in one walk.
#[derive(Debug, Clone)]
pub(super) struct Tree<V> {
    root: Option<Arc<Node<V>>>,
}

/// Invariant: below the root a node has a value or at least two edges, and its label is not empty.
#[derive(Debug, Clone)]
struct Node<V> {
    /// The bytes between the parent and this node; empty at the root.
    label: Box<[u8]>,
    value: Option<V>,
    /// Sorted by `first`, no duplicates.
    edges: Vec<Edge<V>>,
}

/// `first` is the first byte of the child's label, here so that a search touches one node only.
#[derive(Debug, Clone)]
struct Edge<V> {
    first: u8,
    node: Arc<Node<V>>,
}

/// A stored prefix of a key: its length in bytes and its value.
pub(super) type Step<'t, V> = (usize, &'t V);

/// How many steps fit without an allocation.
const NEAR_STEPS: usize = 8;

/// The stored prefixes of one key, shortest first.
pub(super) struct Trail<'t, V> {
    near: [Option<Step<'t, V>>; NEAR_STEPS],
    near_count: usize,
    far: Vec<Step<'t, V>>,
}

impl<'t, V> Trail<'t, V> {
    fn push(&mut self, step: Step<'t, V>) {
        match self.near.get_mut(self.near_count) {
            Some(slot) => {
                *slot = Some(step);
                self.near_count += 1;
            }
            None => self.far.push(step),
        }
    }

    /// The prefixes, longest first.
    pub(super) fn longest_first(&self) -> impl Iterator<Item = Step<'t, V>> {
        let near = self.near.iter().rev().flatten();
        self.far.iter().rev().chain(near).copied()
    }
}

impl<V> Default for Tree<V> {
    fn default() -> Self {
        Self { root: None }
    }
}

impl<V> Tree<V> {
    /// True when nothing is stored.
    pub(super) fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// Finds all stored prefixes of `key`, the empty one and `key` itself included.
    pub(super) fn prefixes(&self, mut key: impl Iterator<Item = u8>) -> Trail<'_, V> {
        let mut trail = Trail {
            near: [None; NEAR_STEPS],
            near_count: 0,
            far: Vec::new(),
        };
        let mut used = 0;
        let mut next = self.root.as_ref();
        while let Some(node) = next {
            #[cfg(test)]
            VISITED.with(|visited| visited.set(visited.get() + 1));
            // The first byte of the label is the edge's, read below.
            for byte in node.label.iter().skip(1) {
                if key.next() != Some(*byte) {
                    return trail;
                }
            }
            used += node.label.len();
            if let Some(value) = &node.value {
                trail.push((used, value));
            }
            next = key.next().and_then(|byte| node.child(byte));
        }
        trail
    }
}

impl<V: Clone> Tree<V> {
    /// Applies `change` to the value of `key`, which is made if there is none.
    pub(super) fn edit<T>(&mut self, key: &[u8], change: impl FnOnce(&mut V) -> T) -> T
    where
        V: Default,
    {
        let mut node = Arc::make_mut(self.root.get_or_insert_with(|| Arc::new(Node::leaf(b""))));
        let mut rest = key;
        while let Some(first) = rest.first() {
            (node, rest) = node.grow(*first, rest);
        }
        change(node.value.get_or_insert_default())
    }

    /// Applies `change` to the value of `key`, if there is one, and drops the value when `change`
    /// answers [`Kept::No`]. An absent key copies nothing.
    pub(super) fn edit_or_drop(&mut self, key: &[u8], change: impl FnOnce(&mut V) -> Kept) {
        let Some(depth) = self.depth_of(key) else {
            return;
        };
        let Some(root) = &mut self.root else {
            return;
        };
        let Some((node, _)) = follow(root, key, depth) else {
            return;
        };
        if node.value.as_mut().map(change) != Some(Kept::No) {
            return;
        }
        node.value = None;
        if let Some(parent_depth) = depth.checked_sub(1) {
            if node.edges.is_empty() {
                if let Some((parent, rest)) = follow(root, key, parent_depth) {
                    parent
                        .edges
                        .retain(|edge| rest.first() != Some(&edge.first));
                    // The root stays as it is: its label is empty.
                    if parent_depth > 0 {
                        parent.merge_only_child();
                    }
                }
            } else {
                node.merge_only_child();
            }
        }
        if root.value.is_none() && root.edges.is_empty() {
            self.root = None;
        }
    }

    /// How many edges lead to the value of `key`, if there is one.
    fn depth_of(&self, key: &[u8]) -> Option<usize> {
        let mut node = self.root.as_ref()?;
        let mut rest = key;
        let mut depth = 0;
        while let Some(first) = rest.first() {
            node = node.child(*first)?;
            rest = rest.strip_prefix(&*node.label)?;
            depth += 1;
        }
        node.value.is_some().then_some(depth)
    }
}

/// Whether a value edited in place stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// It holds something still.
    Yes,
    /// It is empty: drop it.
    No,
}

/// Goes `depth` edges towards `key`, making each node this tree's own. Returns the rest of the key.
fn follow<'n, 'k, V: Clone>(
    root: &'n mut Arc<Node<V>>,
    key: &'k [u8],
    depth: usize,
) -> Option<(&'n mut Node<V>, &'k [u8])> {
    let mut node = Arc::make_mut(root);
    let mut rest = key;
    for _ in 0..depth {
        let at = node.edge_at(*rest.first()?).ok()?;
        node = Arc::make_mut(&mut node.edges.get_mut(at)?.node);
        rest = rest.strip_prefix(&*node.label)?;
    }
    Some((node, rest))
}

impl<V> Node<V> {
    fn leaf(label: &[u8]) -> Self {
        Self {
            label: label.into(),
            value: None,
            edges: Vec::new(),
        }
    }

    /// Where the edge for `first` is, or where it would be.
    fn edge_at(&self, first: u8) -> Result<usize, usize> {
        self.edges.binary_search_by_key(&first, |edge| edge.first)
    }

    fn child(&self, first: u8) -> Option<&Arc<Self>> {
        let at = self.edge_at(first).ok()?;
        self.edges.get(at).map(|edge| &edge.node)
    }
}

impl<V: Clone> Node<V> {
    /// Goes one node towards `rest`, which starts with `first`; adds or splits that node if need be.
    fn grow<'n, 'k>(&'n mut self, first: u8, rest: &'k [u8]) -> (&'n mut Self, &'k [u8]) {
        let at = self.edge_at(first).unwrap_or_else(|at| {
            let node = Arc::new(Self::leaf(rest));
            self.edges.insert(at, Edge { first, node });
            at
        });
        #[expect(clippy::indexing_slicing, reason = "`at` was found or inserted above")]
        let child = Arc::make_mut(&mut self.edges[at].node);
        let common = child.label.iter().zip(rest).take_while(|(a, b)| a == b);
        let common = common.count();
        if common < child.label.len() {
            child.split(common);
        }
        (child, rest.split_at(common).1)
    }

    /// Cuts the label at `at` and moves all that was here to a new only child.
    fn split(&mut self, at: usize) {
        let (upper, lower) = self.label.split_at(at);
        let (upper, lower) = (upper.into(), Box::<[u8]>::from(lower));
        let first = lower.first().copied();
        let child = Self {
            label: lower,
            value: self.value.take(),
            edges: std::mem::take(&mut self.edges),
        };
        let node = Arc::new(child);
        self.edges.extend(first.map(|first| Edge { first, node }));
        self.label = upper;
    }

    /// Undoes a split that nothing needs any more.
    fn merge_only_child(&mut self) {
        if self.value.is_some() || self.edges.len() > 1 {
            return;
        }
        let Some(edge) = self.edges.pop() else {
            return;
        };
        let child = Arc::unwrap_or_clone(edge.node);
        self.label = [&*self.label, &*child.label].concat().into();
        self.value = child.value;
        self.edges = child.edges;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn drop_key(tree: &mut Tree<u32>, key: &[u8]) {
        tree.edit_or_drop(key, |_| Kept::No);
    }

    fn found(tree: &Tree<u32>, key: &[u8]) -> Vec<(usize, u32)> {
        let trail = tree.prefixes(key.iter().copied());
        trail
            .longest_first()
            .map(|(used, value)| (used, *value))
            .collect()
    }

    fn check_shape<V>(node: &Node<V>, is_root: bool) {
        assert_eq!(node.label.is_empty(), is_root);
        assert!(node.value.is_some() || node.edges.len() > usize::from(!is_root));
        assert!(node.edges.is_sorted_by(|a, b| a.first < b.first));
        for edge in &node.edges {
            assert_eq!(edge.node.label.first(), Some(&edge.first));
            check_shape(&edge.node, false);
        }
    }

    #[test]
    fn prefixes_come_longest_first() {
        let mut tree = Tree::default();
        for (value, key) in ["", "/", "/api", "/api/v1", "/apple", "/b"]
            .iter()
            .enumerate()
        {
            tree.edit(key.as_bytes(), |own| *own = u32::try_from(value).unwrap());
        }
        assert_eq!(found(&tree, b"/api/v1/x"), [(7, 3), (4, 2), (1, 1), (0, 0)]);
        assert_eq!(found(&tree, b"/ap"), [(1, 1), (0, 0)]);
        assert_eq!(found(&tree, b"/apple"), [(6, 4), (1, 1), (0, 0)]);
        assert_eq!(found(&tree, b"x"), [(0, 0)]);
    }

    #[test]
    fn more_prefixes_than_fit_beside_are_kept_in_order() {
        let mut tree = Tree::default();
        let key = [b'a'; 3 * NEAR_STEPS];
        for end in 1..=key.len() {
            tree.edit(&key[..end], |own| *own = 1);
        }
        let lengths: Vec<_> = found(&tree, &key).iter().map(|step| step.0).collect();
        assert_eq!(lengths, (1..=key.len()).rev().collect::<Vec<_>>());
    }

    #[test]
    fn a_value_edited_but_kept_stays() {
        let mut tree = Tree::default();
        tree.edit(b"ab", |own| *own = 1);
        tree.edit_or_drop(b"ab", |own| {
            *own = 2;
            Kept::Yes
        });
        tree.edit_or_drop(b"a", |_| panic!("nothing is stored here"));
        assert_eq!(found(&tree, b"abc"), [(2, 2)]);
    }

    #[test]
    fn a_change_shares_all_but_its_way() {
        let mut before = Tree::default();
        for key in [b"aa", b"ab", b"ba", b"bb"] {
            before.edit(key, |own| *own = 1);
        }
        let mut after = before.clone();
        after.edit(b"ab", |own| *own = 2);
        assert_eq!(found(&before, b"ab"), [(2, 1)]);
        assert_eq!(found(&after, b"ab"), [(2, 2)]);
        let child = |tree: &Tree<u32>, way: &[u8]| {
            let root = tree.root.clone().unwrap();
            way.iter()
                .fold(root, |node, byte| Arc::clone(node.child(*byte).unwrap()))
        };
        assert!(Arc::ptr_eq(&child(&before, b"b"), &child(&after, b"b")));
        assert!(Arc::ptr_eq(&child(&before, b"aa"), &child(&after, b"aa")));
        assert!(!Arc::ptr_eq(&child(&before, b"a"), &child(&after, b"a")));
    }

    proptest! {
        #[test]
        fn the_tree_agrees_with_a_map_after_every_change(
            changes in proptest::collection::vec(("[ab]{0,5}", any::<bool>(), 0_u32..9), 0..60),
            key in "[ab]{0,7}",
        ) {
            let mut tree = Tree::default();
            let mut map = BTreeMap::new();
            for (changed, is_insert, value) in changes {
                let (snapshot, known) = (tree.clone(), map.clone());
                if is_insert {
                    tree.edit(changed.as_bytes(), |own| *own = value);
                    map.insert(changed, value);
                } else {
                    drop_key(&mut tree, changed.as_bytes());
                    map.remove(&changed);
                }
                for (tree, map) in [(&tree, &map), (&snapshot, &known)] {
                    let prefixes = map.iter().rev().filter(|(own, _)| key.starts_with(own.as_str()));
                    let expected: Vec<_> = prefixes.map(|(own, value)| (own.len(), *value)).collect();
                    prop_assert_eq!(found(tree, key.as_bytes()), expected);
                }
                prop_assert_eq!(tree.is_empty(), map.is_empty());
                tree.root.iter().for_each(|root| check_shape(root, true));
            }
        }
    }
}
