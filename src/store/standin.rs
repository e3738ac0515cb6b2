//! A store for tests that stands before another one and has a say in its writes, and what tests
//! put into a store past the room that writes.

use std::sync::Arc;

use super::audit::{ChainKey, Head, Origin, Record, VerifyError};
use super::{Change, Commit, Committed, Expect, Expiring, Loaded, Mutation, Resealed};
use super::{Selected, Selection, Store, StoreError, Stored};
use crate::resource::{Document, Id, Kind, Revision};

/// A write that is about to be done.
pub(crate) enum Write<'a> {
    /// [`Store::commit_all`].
    Commits(&'a [Commit]),
    /// Any other.
    Other,
}

/// Agrees to a write, or says how it fails.
type Before = dyn Fn(Write<'_>) -> Result<(), StoreError> + Send + Sync;

/// Passes everything on, once `before` has agreed to a write.
pub(crate) struct StandIn {
    store: Arc<dyn Store>,
    before: Box<Before>,
}

impl StandIn {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        before: impl Fn(Write<'_>) -> Result<(), StoreError> + Send + Sync + 'static,
    ) -> Self {
        let before = Box::new(before);
        Self { store, before }
    }
}

impl Store for StandIn {
    fn load(&self) -> Result<Loaded, StoreError> {
        self.store.load()
    }
    fn revision(&self) -> Result<Revision, StoreError> {
        self.store.revision()
    }
    fn find(&self, kind: Kind, id: &Id) -> Result<Option<Stored>, StoreError> {
        self.store.find(kind, id)
    }
    fn list(&self, kind: Kind, asked: &Selection) -> Result<Selected, StoreError> {
        self.store.list(kind, asked)
    }
    fn commit_all(&self, commits: Vec<Commit>) -> Result<Vec<Committed>, StoreError> {
        (self.before)(Write::Commits(&commits))?;
        self.store.commit_all(commits)
    }
    fn expiring(&self, limit: usize) -> Result<Vec<Expiring>, StoreError> {
        self.store.expiring(limit)
    }
    fn audit_tail(&self, limit: usize) -> Result<Vec<Record>, StoreError> {
        self.store.audit_tail(limit)
    }
    fn audit_from(&self, first: u64, limit: usize) -> Result<Vec<Record>, StoreError> {
        self.store.audit_from(first, limit)
    }
    fn audit_head(&self) -> Result<Head, StoreError> {
        self.store.audit_head()
    }
    fn audit_verify(&self) -> Result<Head, VerifyError> {
        self.store.audit_verify()
    }
    fn meta_find(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.store.meta_find(name)
    }
    fn meta_put(&self, name: &str, value: &str) -> Result<(), StoreError> {
        (self.before)(Write::Other)?;
        self.store.meta_put(name, value)
    }
    fn meta_remove(&self, name: &str) -> Result<(), StoreError> {
        (self.before)(Write::Other)?;
        self.store.meta_remove(name)
    }
    fn objects_with(
        &self,
        text: &str,
        after: Option<(Kind, &Id)>,
        limit: usize,
    ) -> Result<Vec<Stored>, StoreError> {
        self.store.objects_with(text, after, limit)
    }
    fn notes_with(
        &self,
        text: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, String)>, StoreError> {
        self.store.notes_with(text, after, limit)
    }
    fn reseal(&self, resealed: &[Resealed]) -> Result<(), StoreError> {
        (self.before)(Write::Other)?;
        self.store.reseal(resealed)
    }
    fn change_key(
        &self,
        chain: ChainKey,
        notes: &[(&str, Option<String>)],
        retired: &str,
    ) -> Result<bool, StoreError> {
        (self.before)(Write::Other)?;
        self.store.change_key(chain, notes, retired)
    }
}

/// Stores these, whatever was there; one commit by `test`.
#[track_caller]
pub(crate) fn put_all(
    store: &dyn Store,
    kind: Kind,
    documents: impl IntoIterator<Item = (Id, Document)>,
) {
    let changes = documents.into_iter().map(|(id, document)| Change {
        mutation: Mutation::Put {
            kind,
            id,
            document,
            expires: None,
            expect: Expect::Any,
        },
        changed: Vec::new(),
        weakens: Vec::new(),
    });
    let changes = changes.collect();
    let origin = Origin {
        time_ms: 1,
        actor: "test".to_owned(),
        request_id: "r".to_owned(),
    };
    store.commit_all(vec![Commit { origin, changes }]).unwrap();
}
