//! What is held at paths: for one path by a hash of it, for all that begin with a text in a tree.
//!
//! Most routes of large tables are for one path. Its hash finds it in a few places of memory, where a
//! tree has several for each step of the way.

use super::hashed::Hashed;
use super::ranked::Ranked;
use super::tree::{Kept, Trail, Tree};

/// What is held at paths. Persistent: a clone is O(1), and a change among many copies few.
#[derive(Debug, Clone)]
pub(super) struct Paths<H> {
    /// By the path.
    exact: Hashed<Ranked<H>>,
    /// By the path's text up to its first `*`.
    prefix: Tree<Ranked<H>>,
}

/// What a literal text of a pattern stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Span {
    /// The path that is this text.
    Whole,
    /// All paths that begin with this text.
    Prefix,
}

impl<H> Paths<H> {
    /// True when nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefix.is_empty()
    }

    /// What is held for `path` alone.
    pub(super) fn exact(&self, path: &[u8]) -> Option<&Ranked<H>> {
        self.exact.get(path)
    }

    /// What is held for all paths that begin as `path` does.
    pub(super) fn prefixes(&self, path: &[u8]) -> Trail<'_, Ranked<H>> {
        self.prefix.prefixes(path.iter().copied())
    }
}

impl<H: Clone> Paths<H> {
    /// Applies `change` to what is held at a text, which is made if there is nothing.
    pub(super) fn edit<T>(
        &mut self,
        text: &[u8],
        span: Span,
        change: impl FnOnce(&mut Ranked<H>) -> T,
    ) -> T {
        match span {
            Span::Whole => self.exact.edit(text, change),
            Span::Prefix => self.prefix.edit(text, change),
        }
    }

    /// Applies `change` to what is held at a text, if there is something; it goes when it is empty
    /// then. Where there is nothing, nothing is copied.
    pub(super) fn edit_or_drop(
        &mut self,
        text: &[u8],
        span: Span,
        change: impl FnOnce(&mut Ranked<H>),
    ) {
        let change = |ranked: &mut Ranked<H>| {
            change(ranked);
            match ranked.is_empty() {
                true => Kept::No,
                false => Kept::Yes,
            }
        };
        match span {
            Span::Whole => self.exact.edit_or_drop(text, change),
            Span::Prefix => self.prefix.edit_or_drop(text, change),
        }
    }
}

impl<H> Default for Paths<H> {
    fn default() -> Self {
        Self {
            exact: Hashed::default(),
            prefix: Tree::default(),
        }
    }
}
