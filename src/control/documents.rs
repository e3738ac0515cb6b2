//! Documents between store, clear text and clients.

use crate::control::{Inner, Listed, Show, Shown, WriteError, store_failed};
use crate::resource::fault::Faults;
use crate::resource::{Id, Kind, Parsed, Terms, parse};
use crate::secrets::custody::stray::without_strays;
use crate::secrets::custody::{CustodyError, Opened};
use crate::store::{Filter, Loaded, Selection, StoreError, Stored};

/// How many objects are read at a time where all are.
const PART: usize = 512;

/// Whether it expired, at this time in milliseconds since the epoch.
fn is_over(stored: &Stored, now: u64) -> bool {
    stored.expires.is_some_and(|expires| expires <= now)
}

impl Inner {
    /// Everything that is stored, but for what expired and was not deleted yet.
    pub(super) fn load(&self) -> Result<Loaded, StoreError> {
        let now = self.now_ms();
        let mut loaded = self.store.load()?;
        loaded.objects.retain(|stored| !is_over(stored, now));
        Ok(loaded)
    }

    /// The same, `PART` objects at a time, in the order of kinds' words and ids: documents take
    /// several times the memory of what is made of them, and leave it in pieces.
    ///
    /// For who knows that nobody writes meanwhile.
    ///
    /// # Errors
    /// The store's, and those of `take`.
    pub(super) fn load_in_parts<E: From<StoreError>>(
        &self,
        mut take: impl FnMut(&[Stored]) -> Result<(), E>,
    ) -> Result<(), E> {
        let now = self.now_ms();
        let mut last: Option<(Kind, Id)> = None;
        loop {
            let after = last.as_ref().map(|(kind, id)| (*kind, id));
            // Every document holds the empty text.
            let mut part = self.store.objects_with("", after, PART)?;
            let Some(end) = part.last() else {
                return Ok(());
            };
            last = Some((end.kind, end.id.clone()));
            part.retain(|stored| !is_over(stored, now));
            take(&part)?;
        }
    }

    /// One object as a client may see it.
    pub(super) fn find(
        &self,
        kind: Kind,
        id: &Id,
        show: Show,
    ) -> Result<Option<Shown>, WriteError> {
        let stored = self.store.find(kind, id).map_err(store_failed)?;
        Ok(stored.map(|stored| self.show(stored, show)))
    }

    /// Some objects of a kind as a client may see them; a filter sees no more of any.
    pub(super) fn list(
        &self,
        kind: Kind,
        show: Show,
        mut asked: Selection,
    ) -> Result<Listed, WriteError> {
        asked.filter = asked.filter.map(|Filter { members, accepts }| Filter {
            members,
            accepts: Box::new(move |document| accepts(&without_strays(kind, document))),
        });
        let found = self.store.list(kind, &asked).map_err(store_failed)?;
        let shown = found.objects.into_iter();
        Ok(Listed {
            items: shown.map(|stored| self.show(stored, show)).collect(),
            total: found.total,
        })
    }

    /// A stored object as a client may see it.
    pub(super) fn show(&self, stored: Stored, show: Show) -> Shown {
        let Stored {
            kind,
            id,
            mut document,
            created,
            modified,
            expires,
        } = stored;
        self.custody.withhold(kind, &id, &mut document, show);
        Shown {
            kind,
            id,
            document,
            created,
            modified,
            expires,
        }
    }

    /// A stored document with its keys in the clear.
    pub(super) fn unseal(&self, stored: &Stored) -> Result<Opened, CustodyError> {
        let mut document = Opened::new(stored.kind, stored.document.clone());
        self.custody
            .open_document(stored.kind, &stored.id, &mut document)?;
        Ok(document)
    }

    /// A stored document as the resource it describes.
    ///
    /// # Errors
    /// [`Unreadable`]: what was accepted once is not any more, or its keys do not open.
    pub(super) fn read(&self, stored: &Stored) -> Result<Parsed, Unreadable> {
        let document = self.unseal(stored)?;
        Ok(self.parse_known(stored.kind, &stored.id, &document)?)
    }

    /// An accepted document in the clear as the resource it describes, with the last good values of
    /// its references.
    pub(super) fn parse_known(
        &self,
        kind: Kind,
        id: &Id,
        document: &Opened,
    ) -> Result<Parsed, Faults> {
        let terms = Terms::load(self.now_seconds(), self.rules.trust_file.is_some());
        match self.fill(kind, id, document) {
            None => parse(kind, id, document, &terms),
            // Values that do not work any more are as good as none: what needs them is closed.
            Some(filled) => parse(kind, id, &filled, &terms)
                .or_else(|_faults| parse(kind, id, document, &terms)),
        }
    }
}

/// Why a stored document is not what it was when it was accepted.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    /// Its keys do not open.
    #[error(transparent)]
    Custody(#[from] CustodyError),
    /// It has faults.
    #[error(transparent)]
    Faults(#[from] Faults),
}
