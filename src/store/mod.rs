//! The store: what was accepted, kept so that a restart brings it back.
//!
//! One trait, [`Store`], and its implementations; the suite in `contract` runs against each of
//! them. Documents are kept as they are given: private keys have been sealed before (room
//! `secrets`), nothing is validated, defaulted or understood here. Every change and its audit
//! record are written in one transaction, so that neither is ever without the other.

use std::path::PathBuf;

use crate::resource::{Document, Id, Kind, Revision};

pub mod audit;
#[cfg(test)]
mod contract;
pub mod file;
pub mod memory;
pub mod sqlite;
#[cfg(test)]
pub(crate) mod standin;

/// Where resources are kept.
///
/// All methods block: they are called on threads that may, never on a reactor. A value is shared
/// by all of them.
///
/// What holds for every implementation:
/// - commits given together are applied whole or not at all, and durable when
///   [`Store::commit_all`] returns;
/// - each mutation raises the one global revision by one, deletions too; no revision is used twice;
/// - a document is given back as it was put: same members, same order, same spelling of numbers;
/// - commits are serial: of two that expect the same revision, one gets [`StoreError::Conflict`];
/// - after a commit returned, every read sees it;
/// - each mutation has one audit record with its revision, in an unbroken sequence.
pub trait Store: Send + Sync {
    /// Everything, with the revision it is the state of.
    ///
    /// # Errors
    /// When the store cannot be read, or holds what it cannot have written.
    fn load(&self) -> Result<Loaded, StoreError>;

    /// The revision of the last mutation; 0 when there was none.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn revision(&self) -> Result<Revision, StoreError>;

    /// One object.
    ///
    /// # Errors
    /// As [`Store::load`].
    fn find(&self, kind: Kind, id: &Id) -> Result<Option<Stored>, StoreError>;

    /// Some objects of a kind. Of the others no more is read than tells that they are not asked for.
    ///
    /// # Errors
    /// As [`Store::load`].
    fn list(&self, kind: Kind, asked: &Selection) -> Result<Selected, StoreError>;

    /// Applies all changes of all commits, in order, and writes their audit records; or does
    /// nothing. What makes them durable is done once for all of them.
    ///
    /// A change sees what the ones before it did. Without changes nothing is written.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when an expectation does not hold, [`StoreError::Absent`] when
    /// there is nothing to delete, [`StoreError::Unsure`] when it may have been written;
    /// anything else is a failure of the store. In each case but that one nothing was written.
    fn commit_all(&self, commits: Vec<Commit>) -> Result<Vec<Committed>, StoreError>;

    /// Up to `limit` of the objects that expire, the soonest first. The store itself removes none:
    /// an expired one is there until it is deleted.
    ///
    /// # Errors
    /// As [`Store::load`].
    fn expiring(&self, limit: usize) -> Result<Vec<Expiring>, StoreError>;

    /// The last `limit` audit records, oldest first.
    ///
    /// # Errors
    /// As [`Store::load`].
    fn audit_tail(&self, limit: usize) -> Result<Vec<audit::Record>, StoreError>;

    /// Up to `limit` audit records from sequence number `first` on, oldest first.
    ///
    /// # Errors
    /// As [`Store::load`].
    fn audit_from(&self, first: u64, limit: usize) -> Result<Vec<audit::Record>, StoreError>;

    /// Length and last MAC of the audit chain.
    ///
    /// # Errors
    /// As [`Store::load`].
    fn audit_head(&self) -> Result<audit::Head, StoreError>;

    /// Verifies the whole audit chain, a piece at a time, and gives its head.
    ///
    /// # Errors
    /// [`audit::VerifyError::Broken`] names the first record that does not follow from those
    /// before it; else when the store cannot be read.
    fn audit_verify(&self) -> Result<audit::Head, audit::VerifyError>;

    /// A note about the store itself, such as the check value of its key.
    ///
    /// # Errors
    /// As [`Store::load`].
    fn meta_find(&self, name: &str) -> Result<Option<String>, StoreError>;

    /// Writes a note about the store itself. Durable on return; no revision, no audit record.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn meta_put(&self, name: &str, value: &str) -> Result<(), StoreError>;

    /// Removes a note; one that is not there is no error. Durable on return.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn meta_remove(&self, name: &str) -> Result<(), StoreError>;

    /// Up to `limit` objects after this one whose documents hold `text` as it stands, in the order
    /// of kinds' words and ids.
    ///
    /// # Errors
    /// As [`Store::load`].
    fn objects_with(
        &self,
        text: &str,
        after: Option<(Kind, &Id)>,
        limit: usize,
    ) -> Result<Vec<Stored>, StoreError>;

    /// Up to `limit` notes after this one whose values hold `text`, with their values, in the order
    /// of names.
    ///
    /// # Errors
    /// As [`Store::load`].
    fn notes_with(
        &self,
        text: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, String)>, StoreError>;

    /// Replaces what is sealed by the same sealed anew, where it is as it was read; what was changed
    /// meanwhile is left alone. Durable on return; no revision, no audit record.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn reseal(&self, resealed: &[Resealed]) -> Result<(), StoreError>;

    /// Goes over to another key of the chain and writes these notes (`None` removes one), at once;
    /// or does nothing and says `false`, where something still holds `retired` or the chain has
    /// grown since the end that this key goes on from. From then on nothing that holds `retired` is
    /// stored, and what was overwritten is not left in the files.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn change_key(
        &self,
        chain: audit::ChainKey,
        notes: &[(&str, Option<String>)],
        retired: &str,
    ) -> Result<bool, StoreError>;
}

/// The same content as before, sealed with another key.
#[derive(Clone, Debug, PartialEq)]
pub enum Resealed {
    /// An object, as its revision left it.
    Object(Stored),
    /// A note, as it was read.
    Note {
        /// Its name.
        name: String,
        /// What it was.
        before: String,
        /// What it is to be.
        after: String,
    },
}

/// Which objects of a kind are asked for.
///
/// # Defaults
/// All of them, by id.
#[derive(Default)]
pub struct Selection {
    /// Which of them count; `None`: each.
    pub filter: Option<Filter>,
    /// In which order they come.
    pub order: Order,
    /// How many of those that count are passed over.
    pub skipped: usize,
    /// How many are given at most; `None`: all.
    pub limit: Option<usize>,
}

/// What an object must be like to count.
pub struct Filter {
    /// The members of a document that `accepts` looks at.
    pub members: &'static [&'static str],
    /// Whether an object counts whose document has these members; it sees no others.
    pub accepts: Box<dyn Fn(&Document) -> bool + Send + Sync>,
}

/// In which order objects come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// By the bytes of their ids.
    #[default]
    Id,
    /// By their creation.
    Oldest,
    /// By their creation, backwards.
    Newest,
}

/// The objects that were asked for.
#[derive(Debug, Default, PartialEq)]
pub struct Selected {
    /// Those within the bounds, in order.
    pub objects: Vec<Stored>,
    /// How many count, whatever the bounds.
    pub total: usize,
}

impl Selection {
    /// Those of all that count, in the order of their ids, which are given; `created` is when one
    /// was.
    fn cut<T>(&self, mut all: Vec<T>, created: impl Fn(&T) -> Revision) -> Vec<T> {
        match self.order {
            Order::Id => {}
            Order::Oldest => all.sort_by_key(created),
            Order::Newest => all.sort_by_key(|one| std::cmp::Reverse(created(one))),
        }
        let limit = self.limit.unwrap_or(usize::MAX);
        all.into_iter().skip(self.skipped).take(limit).collect()
    }
}

impl std::fmt::Debug for Selection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Selection")
            .field("filter", &self.filter.as_ref().map(|filter| filter.members))
            .field("order", &self.order)
            .field("skipped", &self.skipped)
            .field("limit", &self.limit)
            .finish()
    }
}

/// An object as it is kept.
#[derive(Clone, PartialEq)]
pub struct Stored {
    /// Its kind.
    pub kind: Kind,
    /// Its id, unique within the kind.
    pub id: Id,
    /// The document as it was put, keys sealed.
    pub document: Document,
    /// The revision that created it (`createdIndex`); a deleted and re-created object has a new one.
    pub created: Revision,
    /// The revision that last changed it (`modifiedIndex`).
    pub modified: Revision,
    /// When it expires, in milliseconds since 1970-01-01 UTC; `None`: never.
    pub expires: Option<u64>,
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A document is long, and a caller may have opened its keys.
        f.debug_struct("Stored")
            .field("kind", &self.kind)
            .field("id", &self.id)
            .field("created", &self.created)
            .field("modified", &self.modified)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// An object that expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiring {
    /// Its kind.
    pub kind: Kind,
    /// Its id.
    pub id: Id,
    /// The revision that last changed it, and so said when it expires.
    pub modified: Revision,
    /// When, in milliseconds since 1970-01-01 UTC.
    pub expires: u64,
}

/// All objects at one revision.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// Ordered by kind, then by the bytes of the id.
    pub objects: Vec<Stored>,
    /// The revision of the last mutation; 0 when there was none.
    pub revision: Revision,
}

/// What must be so for a mutation to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// There is no such object.
    Absent,
    /// The object is there, last changed by this revision.
    Revision(Revision),
}

/// One change to one object.
#[derive(Clone, PartialEq)]
pub enum Mutation {
    /// Creates or replaces.
    Put {
        /// Kind of the object.
        kind: Kind,
        /// Its id.
        id: Id,
        /// What to keep, keys sealed.
        document: Document,
        /// When it expires, as [`Stored::expires`]; what it was before does not count.
        expires: Option<u64>,
        /// What must be so.
        expect: Expect,
    },
    /// Removes.
    Delete {
        /// Kind of the object.
        kind: Kind,
        /// Its id.
        id: Id,
        /// What must be so; with [`Expect::Absent`] there is never anything to delete.
        expect: Expect,
    },
    /// Writes a note of what is served in the place of an object's references. The object stays as
    /// it is, with its revision.
    Refresh {
        /// Kind of the object.
        kind: Kind,
        /// Its id.
        id: Id,
        /// The note's name.
        note: String,
        /// What it is to say, values sealed; `None` removes it.
        value: Option<String>,
        /// The revision that the object must have.
        expect: Revision,
    },
}

impl Mutation {
    /// The kind of the object meant.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Put { kind, .. } | Self::Delete { kind, .. } | Self::Refresh { kind, .. } => {
                *kind
            }
        }
    }

    /// The id of the object meant.
    #[must_use]
    pub const fn id(&self) -> &Id {
        match self {
            Self::Put { id, .. } | Self::Delete { id, .. } | Self::Refresh { id, .. } => id,
        }
    }

    const fn expect(&self) -> Expect {
        match self {
            Self::Put { expect, .. } | Self::Delete { expect, .. } => *expect,
            Self::Refresh { expect, .. } => Expect::Revision(*expect),
        }
    }

    /// What the mutation does to an object last changed by `current`, or to none.
    fn judge(&self, current: Option<Revision>) -> Result<audit::Action, StoreError> {
        let (kind, id) = (self.kind(), self.id());
        let holds = match self.expect() {
            Expect::Any => true,
            Expect::Absent => current.is_none(),
            Expect::Revision(expected) => current == Some(expected),
        };
        if !holds {
            return Err(StoreError::Conflict {
                kind,
                id: id.clone(),
            });
        }
        match (self, current) {
            (Self::Put { .. }, None) => Ok(audit::Action::Create),
            (Self::Put { .. }, Some(_)) => Ok(audit::Action::Update),
            (Self::Delete { .. }, Some(_)) => Ok(audit::Action::Delete),
            (Self::Refresh { .. }, Some(_)) => Ok(audit::Action::Refresh),
            (Self::Delete { .. } | Self::Refresh { .. }, None) => Err(StoreError::Absent {
                kind,
                id: id.clone(),
            }),
        }
    }
}

impl std::fmt::Debug for Mutation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verb = match self {
            Self::Put { .. } => "Put",
            Self::Delete { .. } => "Delete",
            Self::Refresh { .. } => "Refresh",
        };
        let expect = self.expect();
        write!(
            f,
            "{verb}({}/{}, {expect:?})",
            self.kind().plural(),
            self.id()
        )
    }
}

/// A mutation with what its audit record says beyond it.
#[derive(Clone, Debug)]
pub struct Change {
    /// What is done.
    pub mutation: Mutation,
    /// JSON pointers to what differs, from [`audit::changed_paths`] on documents with open keys.
    pub changed: Vec<String>,
    /// What the change makes less strict, a phrase each; mostly empty.
    pub weakens: Vec<String>,
}

/// Changes that belong together, and who makes them.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Who, when, in which request.
    pub origin: audit::Origin,
    /// What, in this order.
    pub changes: Vec<Change>,
}

/// What a commit did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// One for each change, in order.
    pub outcomes: Vec<Outcome>,
    /// The audit chain after it; for the process log.
    pub head: audit::Head,
}

/// What one change did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What was done to the object.
    pub action: audit::Action,
    /// The revision that created the object.
    pub created: Revision,
    /// The revision of this change; of a refresh, which has none, the object's.
    pub modified: Revision,
}

/// Why the store did not do what was asked. Sentences are for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The object was changed, created or deleted by someone else in between.
    #[error("{kind} {id} was changed in between")]
    Conflict {
        /// Kind of the object.
        kind: Kind,
        /// Its id.
        id: Id,
    },
    /// There is no such object to delete.
    #[error("there is no {kind} {id}")]
    Absent {
        /// Kind of the object.
        kind: Kind,
        /// Its id.
        id: Id,
    },
    /// Another process has the data directory.
    #[error(
        "the data directory {} is in use by another process{}; stop it, or set another data_dir",
        .path.display(), .holder.map_or_else(String::new, |pid| format!(" (pid {pid})"))
    )]
    InUse {
        /// The data directory.
        path: PathBuf,
        /// The other process, where it is known.
        holder: Option<u32>,
    },
    /// There is a database where one was to be put.
    #[error(
        "there is {} already, which is not replaced; move it away, or set another data_dir",
        .path.display()
    )]
    Occupied {
        /// The database, or what is left of one.
        path: PathBuf,
    },
    /// The file was written by a later version.
    #[error(
        "{} has schema version {found}, this program knows up to {known}; run the version that \
         wrote it, or a later one", .path.display()
    )]
    Newer {
        /// The database file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest that is known here.
        known: i64,
    },
    /// The file is a database, but not one of ours.
    #[error("{} is an SQLite database of another program; set another data_dir", .path.display())]
    Foreign {
        /// The database file.
        path: PathBuf,
    },
    /// The store holds what it cannot have written.
    #[error("{} is damaged: {detail}; restore it from a backup", .path.display())]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// What was found.
        detail: String,
        /// SQLite's own words, where it was it that noticed.
        #[source]
        source: Option<rusqlite::Error>,
    },
    /// No space left.
    #[error("no space left for {}; the change was not stored", .path.display())]
    Full {
        /// The database file.
        path: PathBuf,
        /// SQLite's own words.
        #[source]
        source: rusqlite::Error,
    },
    /// The change may be there after a restart, or not: it was not confirmed to be on disk.
    #[error(
        "{} may or may not hold the change after a restart: it was not confirmed to be on disk",
        .path.display()
    )]
    Unsure {
        /// The database file.
        path: PathBuf,
        /// SQLite's own words.
        #[source]
        source: rusqlite::Error,
    },
    /// It is sealed with a key that was replaced meanwhile.
    #[error("the key-encryption key was replaced meanwhile; nothing was stored, send it again")]
    KeyReplaced,
    /// The store was opened for reading only.
    #[error("the store was opened for reading only")]
    ReadOnly,
    /// The operating system refused something.
    #[error("could not {action} {}", .path.display())]
    Io {
        /// What was tried, e.g. `create the directory`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Its answer.
        #[source]
        source: std::io::Error,
    },
    /// SQLite failed otherwise.
    #[error("SQLite could not {action} {}", .path.display())]
    Sqlite {
        /// What was tried, e.g. `read`.
        action: &'static str,
        /// The database file.
        path: PathBuf,
        /// Its answer.
        #[source]
        source: rusqlite::Error,
    },
    /// The audit record could not be authenticated, so nothing was stored.
    #[error("the audit record could not be made")]
    Audit(#[from] crate::crypto::error::CryptoError),
    /// A document could not be written as text.
    #[error("{kind} {id} could not be written as JSON")]
    Encode {
        /// Kind of the object.
        kind: Kind,
        /// Its id.
        id: Id,
        /// The encoder's answer.
        #[source]
        source: serde_json::Error,
    },
}
