//! The record of changes, as it is read back: a page at a time, and verified as a whole.

use std::sync::Arc;

use crate::control::{Control, Inner, WriteError, on_blocking, store_failed};
use crate::resource::{Id, Kind};
use crate::store::audit::{Action, Head, Record, VerifyError};

/// The most records of one page.
pub const PAGE_RECORDS: usize = 1000;
/// The most records that one request looks at; a filter that finds less goes on with the next.
const LOOKED_AT: u64 = 100_000;
/// How many records are read at once.
const PIECE: u64 = 1000;

/// Which records are asked for; what is `None` is not asked about.
#[derive(Clone, Debug, Default)]
pub struct AuditQuery {
    /// Those before this sequence number.
    pub before: Option<u64>,
    /// How many, at most [`PAGE_RECORDS`].
    pub limit: usize,
    /// Of objects of this kind.
    pub kind: Option<Kind>,
    /// Of objects with this id.
    pub id: Option<Id>,
    /// Made by this one.
    pub actor: Option<String>,
    /// That did this.
    pub action: Option<Action>,
    /// Not before this time, in milliseconds since the epoch.
    pub since_ms: Option<u64>,
    /// Before this time.
    pub until_ms: Option<u64>,
    /// That made something less strict.
    pub weakens: bool,
}

impl AuditQuery {
    fn accepts(&self, record: &Record) -> bool {
        let origin = &record.origin;
        self.kind.is_none_or(|kind| record.kind == kind)
            && self.id.as_ref().is_none_or(|id| record.id == *id)
            && self.action.is_none_or(|action| record.action == action)
            && self
                .actor
                .as_ref()
                .is_none_or(|actor| origin.actor == *actor)
            && self.since_ms.is_none_or(|since| origin.time_ms >= since)
            && self.until_ms.is_none_or(|until| origin.time_ms < until)
            && (!self.weakens || !record.weakens.is_empty())
    }
}

/// What a query found.
#[derive(Clone, Debug)]
pub struct AuditPage {
    /// Newest first.
    pub records: Vec<Record>,
    /// How many records there are, of all kinds.
    pub total: u64,
    /// [`AuditQuery::before`] of the next page; `None` where everything was looked at.
    pub next: Option<u64>,
}

impl Control {
    /// A page of the record of changes, newest first.
    ///
    /// # Errors
    /// [`WriteError::Store`] and [`WriteError::Internal`].
    pub async fn audit(&self, query: AuditQuery) -> Result<AuditPage, WriteError> {
        on_blocking(&self.inner, move |inner| inner.audit_page(&query)).await
    }

    /// Verifies the chain of all records and gives its head. One at a time: it reads all of them.
    ///
    /// # Errors
    /// [`VerifyError::Broken`] where it was tampered with; else why that is not known.
    pub async fn verify_audit(&self) -> Result<Result<Head, VerifyError>, WriteError> {
        // Held by the work itself, which goes on when its caller is gone.
        let alone = Arc::clone(&self.inner.reports).acquire_owned().await;
        let alone = alone.map_err(|_closed| WriteError::Internal)?;
        on_blocking(&self.inner, move |inner| {
            let _alone = alone;
            Ok(inner.store.audit_verify())
        })
        .await
    }
}

impl Inner {
    fn audit_page(&self, query: &AuditQuery) -> Result<AuditPage, WriteError> {
        let total = self.store.audit_head().map_err(store_failed)?.count;
        let limit = query.limit.min(PAGE_RECORDS);
        // Sequence numbers have no gaps: a piece is where its numbers say.
        let mut end = query
            .before
            .unwrap_or(u64::MAX)
            .min(total.saturating_add(1));
        let last = end.saturating_sub(LOOKED_AT).max(1);
        let mut records = Vec::new();
        while end > last && records.len() < limit {
            let first = end.saturating_sub(PIECE).max(last);
            let count = usize::try_from(end - first).unwrap_or(usize::MAX);
            let piece = self.store.audit_from(first, count);
            let piece = piece.map_err(store_failed)?;
            for record in piece.into_iter().rev() {
                if records.len() == limit {
                    break;
                }
                end = record.seq;
                if query.accepts(&record) {
                    records.push(record);
                }
            }
            if records.len() < limit {
                end = first;
            }
        }
        Ok(AuditPage {
            records,
            total,
            next: (end > 1).then_some(end),
        })
    }
}
