//! Going over to another key-encryption key while everything is served.
//!
//! First the store notes which key is next; from then on everything is sealed with that one, and
//! both open. Then what the former one has sealed is sealed anew, a few things at a time. At the
//! end one transaction makes the next key the only one, and only if nothing is left of the former.
//! A process that is killed at any moment finds by the notes where it was.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::control::Inner;
use crate::crypto::error::CryptoError;
use crate::resource::{Id, Kind};
use crate::secrets::custody::kek::{CHECK_NAME, Kek};
use crate::secrets::custody::obtain::ObtainError;
use crate::secrets::custody::rotation::{CHAIN_NAME, NEXT_NAME, Rotation};
use crate::secrets::custody::seal::mark_of;
use crate::secrets::custody::{Custody, CustodyError, KeptIn, Opened, Reason};
use crate::secrets::generation::{Generation, GenerationError};
use crate::secrets::watch::Watcher;
use crate::store::audit::{CHAIN_LABEL, ChainKey, PastError};
use crate::store::{Resealed, Store, StoreError, Stored};

/// Things that are sealed anew in one transaction.
const AT_ONCE: usize = 32;

/// Times that everything is gone through, because something was written with the former key
/// meanwhile.
const ROUNDS: usize = 100;

/// How often is looked for a next key whose file cannot be watched.
const TICK: Duration = Duration::from_secs(1);

/// The longest pause after a rotation that failed.
const PAUSE: Duration = Duration::from_secs(10);

/// How long what was read before the end may still be opened.
const GRACE: Duration = Duration::from_secs(30);

/// Why the store cannot go over to another key. What was done stays done; both keys are needed.
#[derive(Debug, thiserror::Error)]
pub enum RekeyError {
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object's value does not open.
    #[error("{0}; write that object again, or delete it, then the rotation goes on")]
    Custody(#[from] CustodyError),
    /// A note's value does not open.
    #[error("the note {name} of the store does not open")]
    Note {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: Reason,
    },
    /// The last good values of an object's references do not open.
    #[error("the values of references that {name} keeps do not open; write that object again")]
    Generation {
        /// The note's name.
        name: String,
        /// Why.
        #[source]
        source: GenerationError,
    },
    /// A note that no version of this program seals.
    #[error("the note {0} of the store is sealed, and not known to this version")]
    UnknownNote(String),
    /// An object speaks of the former key where nothing is sealed.
    #[error(
        "{kind} {id} has a text that looks sealed, outside of its keys; write it without that, then \
         the rotation goes on"
    )]
    Lookalike {
        /// Its kind.
        kind: Kind,
        /// Its id.
        id: Id,
    },
    /// OpenSSL failed.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    /// The audit chain's former keys cannot be read.
    #[error(transparent)]
    Past(#[from] PastError),
    /// It was written with the former key again and again.
    #[error("the store is written to faster than it can be sealed anew")]
    Busy,
    /// Key files cannot be read or moved.
    #[error(transparent)]
    Files(#[from] ObtainError),
}

/// The audit chain's key while the store is under `kek`; `custody` opens what is noted of its past.
///
/// # Errors
/// OpenSSL fails, or what is noted does not open.
pub fn chain_key(kek: &Kek, custody: &Custody, note: Option<&str>) -> Result<ChainKey, RekeyError> {
    let key = kek.derive_mac_key(CHAIN_LABEL)?;
    let Some(note) = note else {
        return Ok(ChainKey::new(key));
    };
    let past = custody.open_note(CHAIN_NAME, note).map_err(|source| {
        let name = CHAIN_NAME.to_owned();
        RekeyError::Note { name, source }
    })?;
    Ok(ChainKey::with_past(key, &past)?)
}

/// Has a store go over from one key to another, and gives how many things were sealed anew. Blocks
/// for as long as that takes; `lock` is held while the last step is made.
///
/// May be called again after any failure, with the same keys.
///
/// # Errors
/// [`RekeyError`]; everything can still be opened with both keys.
pub fn rekey<G>(
    store: &dyn Store,
    custody: &Custody,
    (from, to): (&Kek, &Kek),
    lock: impl Fn() -> G,
) -> Result<usize, RekeyError> {
    // Noted before anything is sealed with it.
    store.meta_put(NEXT_NAME, &to.check_value()?)?;
    custody.go_over(to)?;
    let former = mark_of(from.id());
    let mut count = 0;
    for _ in 0..ROUNDS {
        count += reseal_objects(store, custody, &former)?;
        count += reseal_notes(store, custody, &former)?;
        let _guard = lock();
        if finish(store, custody, from, to, &former)? {
            return Ok(count);
        }
    }
    Err(RekeyError::Busy)
}

fn reseal_objects(store: &dyn Store, custody: &Custody, former: &str) -> Result<usize, RekeyError> {
    let mut count = 0;
    let mut last: Option<(Kind, Id)> = None;
    loop {
        let after = last.as_ref().map(|(kind, id)| (*kind, id));
        let found = store.objects_with(former, after, AT_ONCE)?;
        let Some(end) = found.last() else {
            return Ok(count);
        };
        last = Some((end.kind, end.id.clone()));
        let resealed = found.into_iter().map(|stored| {
            let one = reseal_object(stored, custody, former)?;
            Ok(Resealed::Object(one))
        });
        let resealed = resealed.collect::<Result<Vec<_>, RekeyError>>()?;
        store.reseal(&resealed)?;
        count += resealed.len();
    }
}

fn reseal_object(stored: Stored, custody: &Custody, former: &str) -> Result<Stored, RekeyError> {
    let (kind, id) = (stored.kind, &stored.id);
    let mut document = Opened::new(kind, stored.document.clone());
    custody.open_document(kind, id, &mut document)?;
    custody.seal_document(kind, id, &mut document)?;
    let document = document.into_document();
    let is_left = serde_json::to_string(&document).is_ok_and(|text| text.contains(former));
    if is_left {
        let id = id.clone();
        return Err(RekeyError::Lookalike { kind, id });
    }
    Ok(Stored { document, ..stored })
}

fn reseal_notes(store: &dyn Store, custody: &Custody, former: &str) -> Result<usize, RekeyError> {
    let mut count = 0;
    let mut last: Option<String> = None;
    loop {
        let found = store.notes_with(former, last.as_deref(), AT_ONCE)?;
        let Some((end, _)) = found.last() else {
            return Ok(count);
        };
        last = Some(end.clone());
        let mut resealed = Vec::with_capacity(found.len());
        for (name, before) in found {
            let after = reseal_note(&name, &before, custody)?;
            resealed.push(Resealed::Note {
                name,
                before,
                after,
            });
        }
        store.reseal(&resealed)?;
        count += resealed.len();
    }
}

fn reseal_note(name: &str, sealed: &str, custody: &Custody) -> Result<String, RekeyError> {
    let failed = |source| RekeyError::Note {
        name: name.to_owned(),
        source,
    };
    if name == CHAIN_NAME {
        let text = custody.open_note(name, sealed).map_err(failed)?;
        return custody.seal_note(name, &text).map_err(failed);
    }
    let Some((kind, id)) = Generation::object_of_note(name) else {
        return Err(RekeyError::UnknownNote(name.to_owned()));
    };
    let generation = Generation::open(custody, kind, &id, sealed);
    let anew = generation.and_then(|generation| generation.seal(custody, kind, &id));
    anew.map_err(|source| RekeyError::Generation {
        name: name.to_owned(),
        source,
    })
}

/// Makes the next key the only one; `false` where something is still sealed with the former.
fn finish(
    store: &dyn Store,
    custody: &Custody,
    from: &Kek,
    to: &Kek,
    former: &str,
) -> Result<bool, RekeyError> {
    let note = store.meta_find(CHAIN_NAME)?;
    let chain = chain_key(from, custody, note.as_deref())?;
    let chain = chain.continued(&store.audit_head()?, to.derive_mac_key(CHAIN_LABEL)?);
    let past = custody.seal_note(CHAIN_NAME, &chain.past()?);
    let past = past.map_err(|source| RekeyError::Note {
        name: CHAIN_NAME.to_owned(),
        source,
    })?;
    let notes = [
        (CHAIN_NAME, Some(past)),
        (CHECK_NAME, Some(to.check_value()?)),
        (NEXT_NAME, None),
    ];
    Ok(store.change_key(chain, &notes, former)?)
}

/// The keys that a gateway started with, and their files.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The one that the store is under.
    pub current: Kek,
    /// The one that a rotation which was interrupted goes over to.
    pub next: Option<Kek>,
    /// Where the next one is looked for.
    pub files: Rotation,
}

/// Goes over to the next key whenever there is one, as long as it is polled.
pub(super) async fn watch(inner: &std::sync::Arc<Inner>, mut keys: Keys) {
    let mut told = String::new();
    let mut forget_at: Option<Instant> = None;
    let files = Watcher::new(TICK);
    loop {
        let (own, next) = (files.clone(), keys.files.next.clone());
        let watching = tokio::task::spawn_blocking(move || own.watch(&(), &next, &[]));
        let mut look = watching.await.unwrap_or(TICK);
        if forget_at.take_if(|at| *at <= Instant::now()).is_some() {
            inner.custody.forget_older();
        }
        let (own, asked) = (inner.clone(), keys.clone());
        let turn = tokio::task::spawn_blocking(move || own.take_turn(asked)).await;
        match turn {
            Ok(Ok(None)) => told.clear(),
            Ok(Ok(Some(next))) => {
                keys.current = next;
                keys.next = None;
                // Whatever was read before the end is dealt with by then.
                forget_at = Some(Instant::now() + GRACE);
            }
            Ok(Err(error)) => {
                let text = crate::failure::chain(&error);
                if text != told {
                    tracing::error!(error = text, "the key-encryption key is not replaced yet");
                    told = text;
                }
                look = look.min(PAUSE);
            }
            Err(error) => {
                tracing::error!(%error, "replacing the key did not finish");
                look = look.min(PAUSE);
            }
        }
        let left = forget_at.map(|at| at.saturating_duration_since(Instant::now()));
        files
            .changed(left.map_or(look, |left| left.min(look)))
            .await;
    }
}

impl Inner {
    /// One look for a next key, and the rotation if there is one: the key that is in use then.
    fn take_turn(&self, keys: Keys) -> Result<Option<Kek>, RekeyError> {
        let Keys {
            current,
            next,
            files,
        } = keys;
        let next = match next {
            Some(next) => Some(next),
            None => files.read_next()?.filter(|next| next.id() != current.id()),
        };
        let Some(next) = next else {
            return Ok(None);
        };
        let (from, to) = (current.id(), next.id());
        tracing::info!(from, to, "the key-encryption key is being replaced");
        let lock = || self.writer.blocking_lock();
        let tell = |kek: &Kek, file: &Path| {
            self.custody
                .locate(kek.id(), &KeptIn::File(file.to_path_buf()));
        };
        self.custody.go_over(&next)?;
        tell(&next, &files.next);
        let count = rekey(&*self.store, &self.custody, (&current, &next), lock)?;
        tracing::info!(from, to, count, "the key-encryption key was replaced");
        match files.settle(&next) {
            Ok(true) => {
                tell(&current, &files.old);
                tell(&next, files.place.as_deref().unwrap_or(&files.next));
            }
            Ok(false) => tracing::warn!("{}", files.out_of_place(&files.next)),
            Err(error) => {
                let error = crate::failure::chain(&error);
                tracing::warn!(error, "{}", files.out_of_place(&files.next));
            }
        }
        Ok(Some(next))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;
    use tempfile::TempDir;
    use zeroize::Zeroizing;

    use super::*;
    use crate::resource::Document;
    use crate::secrets::desk::Value;
    use crate::store::sqlite::Database;
    use crate::store::standin::{StandIn, Write, put_all};

    /// A store whose process dies after so many of its writes that no commit is.
    fn mortal(store: Arc<dyn Store>, writes: usize) -> StandIn {
        let left = AtomicUsize::new(writes);
        StandIn::new(store, move |write| {
            let take = |left: usize| left.checked_sub(1);
            match write {
                Write::Commits(_) => Ok(()),
                Write::Other => left
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
                    .map(drop)
                    .map_err(|_none| StoreError::ReadOnly),
            }
        })
    }

    const COUNT: usize = 150;

    fn kek(seed: u8) -> Kek {
        Kek::from_bytes(&[seed; 32]).unwrap()
    }

    fn id(index: usize) -> Id {
        format!("vault/{index}").parse().unwrap()
    }

    fn put(store: &dyn Store, id: Id, document: Document) {
        put_all(store, Kind::Secret, [(id, document)]);
    }

    fn sealed(custody: &Custody, index: usize) -> Document {
        let mut document: Document =
            serde_json::from_value(json!({"uri": "u", "token": format!("hush {index}")})).unwrap();
        let id = id(index);
        custody
            .seal_document(Kind::Secret, &id, &mut document)
            .unwrap();
        document
    }

    fn generation(index: usize) -> Generation {
        let text = Zeroizing::new(format!("hush {index}"));
        let value = Value::new(text).unwrap();
        Generation {
            confirmed_at: 7,
            values: [(format!("$env://V{index}"), value)].into(),
        }
    }

    /// A data directory whose store is under the key 1.
    fn filled() -> TempDir {
        let dir = TempDir::new().unwrap();
        let custody = Custody::new(&kek(1)).unwrap();
        let database = Database::open(dir.path()).unwrap();
        let check = kek(1).check_value().unwrap();
        database.meta_put(CHECK_NAME, &check).unwrap();
        let store = database.into_store(chain_key(&kek(1), &custody, None).unwrap());
        for index in 0..COUNT {
            put(&store, id(index), sealed(&custody, index));
        }
        for index in 0..3 {
            let name = Generation::note_name(Kind::Secret, &id(index));
            let note = generation(index).seal(&custody, Kind::Secret, &id(index));
            store.meta_put(&name, &note.unwrap()).unwrap();
        }
        dir
    }

    /// What a start finds: the store and its custody, under this key, on the way to the next or not.
    fn open(dir: &TempDir, current: &Kek) -> (Arc<dyn Store>, Custody, bool) {
        let database = Database::open(dir.path()).unwrap();
        let check = database.meta_find(CHECK_NAME).unwrap();
        assert_eq!(check, Some(current.check_value().unwrap()));
        let custody = Custody::new(current).unwrap();
        let next = database.meta_find(NEXT_NAME).unwrap();
        if let Some(next) = &next {
            assert_eq!(*next, kek(2).check_value().unwrap());
            custody.go_over(&kek(2)).unwrap();
        }
        let past = database.meta_find(CHAIN_NAME).unwrap();
        let chain = chain_key(current, &custody, past.as_deref()).unwrap();
        (
            Arc::new(database.into_store(chain)),
            custody,
            next.is_some(),
        )
    }

    #[track_caller]
    fn expect_all(store: &dyn Store, custody: &Custody) {
        for index in 0..COUNT {
            let stored = store.find(Kind::Secret, &id(index)).unwrap().unwrap();
            let mut document = stored.document;
            custody
                .open_document(Kind::Secret, &id(index), &mut document)
                .unwrap();
            assert_eq!(document["token"], format!("hush {index}"));
        }
        for index in 0..3 {
            let name = Generation::note_name(Kind::Secret, &id(index));
            let note = store.meta_find(&name).unwrap().unwrap();
            let opened = Generation::open(custody, Kind::Secret, &id(index), &note).unwrap();
            assert_eq!(opened, generation(index));
        }
        store.audit_verify().unwrap();
    }

    /// Whether any file of the directory holds a text.
    fn files_hold(dir: &TempDir, text: &str) -> bool {
        let mut files = std::fs::read_dir(dir.path()).unwrap();
        files.any(|file| {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            bytes
                .windows(text.len())
                .any(|part| part == text.as_bytes())
        })
    }

    #[test]
    fn process_that_dies_before_any_write_loses_nothing_and_the_rest_is_done_later() {
        let (one, two) = (kek(1), kek(2));
        let mut deaths = 0;
        loop {
            let dir = filled();
            let (store, custody, _) = open(&dir, &one);
            let mortal = mortal(store, deaths);
            let first = rekey(&mortal, &custody, (&one, &two), || ());
            // Everything opens in the process that goes on, too.
            expect_all(&mortal, &custody);
            drop(mortal);
            if first.is_err() {
                let (store, custody, is_under_way) = open(&dir, &one);
                assert_eq!(is_under_way, deaths > 0);
                expect_all(&*store, &custody);
                // What is written in between is sealed with the next key.
                put(&*store, id(0), sealed(&custody, 0));
                rekey(&*store, &custody, (&one, &two), || ()).unwrap();
            }
            let (store, custody, is_under_way) = open(&dir, &two);
            assert!(!is_under_way);
            expect_all(&*store, &custody);
            drop(store);
            assert!(
                !files_hold(&dir, &mark_of(one.id())),
                "after {deaths} writes"
            );
            assert!(files_hold(&dir, &mark_of(two.id())));
            if first.is_ok() {
                break;
            }
            deaths += 1;
        }
        assert!(deaths > 4, "noted, objects, notes and the end: {deaths}");
    }

    #[test]
    fn second_rotation_keeps_the_chain_of_the_first() {
        let dir = filled();
        let (store, custody, _) = open(&dir, &kek(1));
        rekey(&*store, &custody, (&kek(1), &kek(2)), || ()).unwrap();
        custody.forget_older();
        put(&*store, id(0), sealed(&custody, 0));
        rekey(&*store, &custody, (&kek(2), &kek(3)), || ()).unwrap();
        custody.forget_older();
        expect_all(&*store, &custody);
        put(&*store, id(1), sealed(&custody, 1));
        drop(store);
        let (store, custody, _) = open(&dir, &kek(3));
        expect_all(&*store, &custody);
        assert_eq!(store.audit_verify().unwrap().count, 152);
    }

    #[test]
    fn write_that_was_sealed_with_the_former_key_does_not_come_too_late() {
        let dir = filled();
        let (store, custody, _) = open(&dir, &kek(1));
        let (early, late) = (sealed(&custody, 1), sealed(&custody, 2));
        // It comes between the last look and the lock: there is another round.
        let is_first = AtomicUsize::new(0);
        let lock = || {
            if is_first.fetch_add(1, Ordering::SeqCst) == 0 {
                put(&*store, id(1), early.clone());
            }
        };
        let count = rekey(&*store, &custody, (&kek(1), &kek(2)), lock).unwrap();
        assert_eq!(count, COUNT + 3 + 1);
        assert_eq!(is_first.load(Ordering::SeqCst), 2);
        let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            put(&*store, id(2), late.clone());
        }));
        assert!(refused.is_err(), "after the end it is refused");
        custody.forget_older();
        expect_all(&*store, &custody);
    }

    #[test]
    fn what_does_not_open_stops_the_rotation_and_is_told_with_the_remedy() {
        let dir = filled();
        let (store, custody, _) = open(&dir, &kek(1));
        let whole = sealed(&custody, 5);
        for (document, expected) in [
            (sealed(&custody, 6), "write that object again, or delete it"),
            (
                serde_json::from_value(
                    json!({"uri": "u", "desc": format!("{}x", mark_of(kek(1).id()))}),
                )
                .unwrap(),
                "looks sealed, outside of its keys",
            ),
        ] {
            put(&*store, id(5), document);
            let told = rekey(&*store, &custody, (&kek(1), &kek(2)), || ()).unwrap_err();
            let told = told.to_string();
            assert!(
                told.contains("vault/5") && told.contains(expected),
                "{told}"
            );
            put(&*store, id(5), whole.clone());
        }
        let name = "generation/secrets/vault/9";
        store
            .meta_put(name, &format!("{}x", mark_of(kek(1).id())))
            .unwrap();
        let told = rekey(&*store, &custody, (&kek(1), &kek(2)), || ()).unwrap_err();
        assert!(told.to_string().contains(name), "{told}");
        store.meta_remove(name).unwrap();
        rekey(&*store, &custody, (&kek(1), &kek(2)), || ()).unwrap();
        expect_all(&*store, &custody);
    }
}
