//! The refresh: references are resolved again before their values are too old, and what changed is
//! proved, recorded and published as a write would be.
//!
//! Which objects have references is read from the store each time; what is remembered here is when
//! to look again, and what is told of each reference. A new value that does not work keeps the last
//! good one in force; a manager that does not answer is asked again every few seconds, so that
//! everything heals by itself soon after it is back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use tokio::time::{MissedTickBehavior, interval};

use crate::control::generations::references_of;
use crate::control::prove::Proved;
use crate::control::{Inner, WriteError};
use crate::failure::Reason;
use crate::resource::{Id, Kind, Occasion, Resource, Revision, Terms, parse};
use crate::secrets::custody::{CustodyError, Opened};
use crate::secrets::desk::{Desk, Order, Outcome, varied};
use crate::secrets::generation::Generation;
use crate::secrets::news::Told;
use crate::secrets::reference::{Reference, SourceKey};
use crate::snapshot::compile::Piece;
use crate::snapshot::{Change, Snapshot};
use crate::store::StoreError;

mod recorded;

/// How often is looked for what is due.
const TICK: Duration = Duration::from_millis(250);

/// The longest pause before a reference is tried again that could not be resolved. With one attempt
/// and the variation of chance, ten seconds are not exceeded.
const PAUSE: Duration = Duration::from_secs(3);

/// The shortest pause between two readings of what was read well.
const LEAST: Duration = Duration::from_secs(1);

/// Why an object cannot be looked at.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Custody(#[from] CustodyError),
}

/// Objects that are refreshed in one go.
const AT_ONCE: usize = 4096;

/// Goes that may be under way at the same time.
const GOES: usize = 16;

/// Objects with references, and how these fare.
#[derive(Debug, Default)]
pub(super) struct Tracker(Mutex<HashMap<(Kind, Id), Tracked>>);

#[derive(Debug)]
struct Tracked {
    /// When it is to be looked at; `None` while it is, unless there is news meanwhile.
    due: Option<Instant>,
    /// It is being looked at. Never twice at a time: who began first may end last, with what was
    /// read first.
    is_under_way: bool,
    /// Goes without success in a row.
    failures: u32,
    /// Who is asked for it; objects of one manager go together.
    lead: SourceKey,
    /// Digests of the values that are served, by reference.
    served: Option<BTreeMap<String, String>>,
    statuses: Vec<Status>,
}

/// How one reference fares.
#[derive(Clone, Debug)]
struct Status {
    pointer: String,
    reference: String,
    digest: Option<String>,
    version: Option<String>,
    /// When its manager last had this value, seconds since the epoch.
    read_at: Option<i64>,
    error: Option<(Reason, String)>,
}

impl Status {
    /// One word: `ok`, `stale` (served, not confirmed), `invalid` (served, the new one is not) or
    /// `unresolved` (what needs it is closed).
    const fn state(&self) -> &'static str {
        match (&self.digest, &self.error) {
            (None, _) => "unresolved",
            (Some(_), None) => "ok",
            (Some(_), Some((Reason::SecretInvalid, _))) => "invalid",
            (Some(_), Some(_)) => "stale",
        }
    }
}

impl Tracker {
    fn all(&self) -> MutexGuard<'_, HashMap<(Kind, Id), Tracked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what an object that was written refers to, and what is served of that; it is looked at
    /// soon. Called under the
    /// writer's lock, after the commit.
    pub(super) fn touch(
        &self,
        kind: Kind,
        id: &Id,
        references: &BTreeMap<String, String>,
        served: &Generation,
    ) {
        let mut all = self.all();
        let key = (kind, id.clone());
        if references.is_empty() && !all.contains_key(&key) {
            return;
        }
        let now = Instant::now();
        let lead = lead(references);
        let tracked = all.entry(key).or_insert_with(|| Tracked {
            due: None,
            is_under_way: false,
            failures: 0,
            lead: lead.clone(),
            served: None,
            statuses: Vec::new(),
        });
        tracked.failures = 0;
        tracked.due = Some(now);
        tracked.lead = lead;
        tracked.served = Some(digests(served));
        tracked.statuses = references
            .iter()
            .map(|(pointer, reference)| {
                let value = served.values.get(reference);
                Status {
                    pointer: pointer.clone(),
                    reference: reference.clone(),
                    digest: value.map(|value| value.digest.clone()),
                    version: value.and_then(|value| value.version.clone()),
                    read_at: value.map(|_| served.confirmed_at),
                    error: None,
                }
            })
            .collect();
    }

    /// Notes that an object is served with these values.
    pub(super) fn serve(&self, kind: Kind, id: &Id, generation: &Generation) {
        if let Some(tracked) = self.all().get_mut(&(kind, id.clone())) {
            tracked.served = Some(digests(generation));
        }
    }

    /// Notes that a manager is another one now: all that refers to it is looked at soon.
    pub(super) fn touch_users(&self, manager: &Id) {
        let now = Instant::now();
        for tracked in self.all().values_mut() {
            if tracked.uses(manager) {
                tracked.due = Some(now);
                tracked.failures = 0;
            }
        }
    }

    /// Notes that managers told of changes: what refers to these paths is looked at now.
    fn touch_told(&self, news: &BTreeSet<Told>) {
        if news.is_empty() {
            return;
        }
        let now = Instant::now();
        for tracked in self.all().values_mut() {
            let told = |status: &Status| {
                let read = Reference::parse(&status.reference);
                read.is_ok_and(|read| news.iter().any(|item| item.concerns(&read)))
            };
            if tracked.statuses.iter().any(told) {
                tracked.due = Some(now);
                tracked.failures = 0;
            }
        }
    }

    /// An object that refers to a manager.
    pub(super) fn user_of(&self, manager: &Id) -> Option<(Kind, Id)> {
        let all = self.all();
        let mut users = all.iter().filter(|(_, tracked)| tracked.uses(manager));
        users.next().map(|(key, _)| key.clone())
    }

    /// What is due, by who is asked for it; it is under way from here on.
    fn take_due(&self, now: Instant) -> BTreeMap<SourceKey, Vec<(Kind, Id)>> {
        let mut due: BTreeMap<SourceKey, Vec<(Kind, Id)>> = BTreeMap::new();
        let mut all = self.all();
        let ready = all.iter_mut().filter(|(_, tracked)| {
            !tracked.is_under_way && tracked.due.is_some_and(|due| due <= now)
        });
        for (key, tracked) in ready {
            let group = due.entry(tracked.lead.clone()).or_default();
            if group.len() < AT_ONCE {
                tracked.due = None;
                tracked.is_under_way = true;
                group.push(key.clone());
            }
        }
        due
    }

    /// Ends what [`Tracker::take_due`] began. Whatever became of them, they are looked at again.
    fn end(&self, keys: Vec<(Kind, Id)>) {
        let mut all = self.all();
        for key in keys {
            if let Some(tracked) = all.get_mut(&key) {
                tracked.is_under_way = false;
                tracked
                    .due
                    .get_or_insert_with(|| Instant::now() + varied(PAUSE));
            }
        }
    }

    /// The list of every reference, for operators.
    fn list(&self, now: Instant, now_seconds: i64) -> Vec<Json> {
        let all = self.all();
        let mut objects: Vec<_> = all.iter().collect();
        objects.sort_by(|a, b| a.0.cmp(b.0));
        let mut rows = Vec::new();
        for ((kind, id), tracked) in objects {
            let next = tracked
                .due
                .map(|due| due.saturating_duration_since(now).as_secs());
            for status in &tracked.statuses {
                let manager = Reference::parse(&status.reference)
                    .map_or_else(|_malformed| String::new(), |read| read.origin.to_string());
                let age = status
                    .read_at
                    .map(|at| now_seconds.saturating_sub(at).max(0));
                rows.push(json!({
                    "kind": kind.plural(),
                    "id": id.as_str(),
                    "pointer": status.pointer,
                    "manager": manager,
                    "reference": status.reference,
                    "state": status.state(),
                    "digest": status.digest,
                    "version": status.version,
                    "age_seconds": age,
                    "next_refresh_seconds": next,
                    "reason": status.error.as_ref().map(|(reason, _)| reason.code()),
                    "last_error": status.error.as_ref().map(|(_, text)| text),
                }));
            }
        }
        rows
    }

    /// By manager, the greatest age of a value that is served, in seconds.
    fn ages(&self, now_seconds: i64) -> BTreeMap<String, i64> {
        let mut ages = BTreeMap::new();
        for status in self.all().values().flat_map(|tracked| &tracked.statuses) {
            let Some(read_at) = status.read_at else {
                continue;
            };
            if let Ok(read) = Reference::parse(&status.reference) {
                let age = now_seconds.saturating_sub(read_at).max(0);
                let oldest = ages.entry(read.origin.to_string()).or_insert(age);
                *oldest = age.max(*oldest);
            }
        }
        ages
    }

    /// How many references are in each state.
    fn count(&self) -> [(&'static str, i64); 4] {
        let mut counts = [("ok", 0), ("stale", 0), ("invalid", 0), ("unresolved", 0)];
        for status in self.all().values().flat_map(|tracked| &tracked.statuses) {
            for (state, count) in &mut counts {
                *count += i64::from(*state == status.state());
            }
        }
        counts
    }
}

impl Tracked {
    fn uses(&self, manager: &Id) -> bool {
        self.statuses.iter().any(|status| {
            let read = Reference::parse(&status.reference);
            read.is_ok_and(|read| read.origin == SourceKey::Secret(manager.clone()))
        })
    }
}

/// Who is asked for an object's references: the first of them.
fn lead(references: &BTreeMap<String, String>) -> SourceKey {
    let mut read = references
        .values()
        .filter_map(|text| Reference::parse(text).ok());
    read.next().map_or(SourceKey::Env, |read| read.origin)
}

/// An object on its way through a go.
struct Item {
    kind: Kind,
    id: Id,
    created: Revision,
    modified: Revision,
    document: Opened,
    references: BTreeMap<String, String>,
    last: Option<Generation>,
}

/// A new generation that was proved.
struct Ready {
    item: Item,
    generation: Generation,
    resource: Resource,
    piece: Piece,
    proved: Proved,
}

/// Refreshes until the runtime ends. Runs in control's `LocalSet`.
pub(super) async fn run(inner: &Arc<Inner>) {
    let Some(desk) = inner.desk.clone() else {
        return;
    };
    let goes = Arc::new(tokio::sync::Semaphore::new(GOES));
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                for (state, count) in inner.tracker.count() {
                    inner.metrics.set_secret_references(state, count);
                }
                let ages = inner.tracker.ages(inner.now_seconds());
                let ages = ages.iter().map(|(manager, age)| (manager.as_str(), *age));
                inner.metrics.set_secret_ages(ages);
            }
            () = desk.news_come() => {}
        }
        inner.tracker.touch_told(&desk.take_news());
        if goes.available_permits() == 0 {
            continue;
        }
        for (_, keys) in inner.tracker.take_due(Instant::now()) {
            let (inner, desk, goes) = (inner.clone(), desk.clone(), goes.clone());
            tokio::task::spawn_local(async move {
                let turn = goes.acquire().await;
                go(&inner, &desk, keys).await;
                drop(turn);
            });
        }
    }
}

/// One go: what is due of one manager.
async fn go(inner: &Arc<Inner>, desk: &Desk, keys: Vec<(Kind, Id)>) {
    let (own, asked) = (inner.clone(), keys.clone());
    let gathered = tokio::task::spawn_blocking(move || own.gather(&asked)).await;
    let result = match gathered {
        Ok((items, order)) => {
            let outcome = desk.resolve(order).await;
            let own = inner.clone();
            tokio::task::spawn_blocking(move || own.refresh(items, &outcome)).await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        tracing::error!(%error, "a refresh of secrets did not finish");
    }
    inner.tracker.end(keys);
}

impl Inner {
    /// The references and how they fare.
    pub(super) fn list_references(&self) -> Vec<Json> {
        self.tracker.list(Instant::now(), self.now_seconds())
    }

    /// What is to be refreshed, and the order for it. Blocks.
    fn gather(&self, keys: &[(Kind, Id)]) -> (Vec<Item>, Order) {
        let mut items = Vec::new();
        for (kind, id) in keys {
            match self.gather_one(*kind, id) {
                Ok(Some(item)) => items.push(item),
                Ok(None) => self.lose_track(*kind, id),
                // What cannot be read now is looked at again.
                Err(error) => tracing::error!(%kind, %id, %error, "not refreshed"),
            }
        }
        let mut wanted: Vec<String> = items
            .iter()
            .flat_map(|item| item.references.values().cloned())
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        let order = self.order(wanted, self.rules.secrets.in_background(), false);
        (items, order)
    }

    /// `None`: there is no such object, or it has no references.
    fn gather_one(&self, kind: Kind, id: &Id) -> Result<Option<Item>, Unreadable> {
        let Some(stored) = self.store.find(kind, id)? else {
            return Ok(None);
        };
        let document = self.unseal(&stored)?;
        let references = references_of(kind, &document);
        if references.is_empty() {
            return Ok(None);
        }
        Ok(Some(Item {
            kind,
            id: id.clone(),
            created: stored.created,
            modified: stored.modified,
            document,
            references,
            last: self.last_generation(kind, id),
        }))
    }

    /// Forgets an object that has no references any more, unless it was written just now.
    fn lose_track(&self, kind: Kind, id: &Id) {
        let _guard = self.writer.blocking_lock();
        let key = (kind, id.clone());
        let is_idle = |tracked: &Tracked| tracked.due.is_none();
        if self.tracker.all().get(&key).is_some_and(is_idle) {
            self.tracker.all().remove(&key);
            self.keep_generation(kind, id, &Generation::default());
        }
    }

    /// Brings what was read into force, where it differs and works. Blocks.
    fn refresh(&self, items: Vec<Item>, outcome: &Outcome) {
        let mut ready = Vec::new();
        for item in items {
            let generation = self.next_generation(&item.references, outcome, item.last.as_ref());
            let is_same = match &item.last {
                Some(last) => last.agrees_with(&generation),
                None => generation.values.is_empty(),
            };
            if is_same && self.serves(&item, &generation) {
                self.confirm(&item, &generation);
                self.note(&item, outcome, &generation, None);
                continue;
            }
            match self.attempt(&item, &generation) {
                Ok((resource, piece, proved)) => ready.push(Ready {
                    item,
                    generation,
                    resource,
                    piece,
                    proved,
                }),
                Err(error) => self.reject(&item, outcome, &error),
            }
        }
        self.bring_into_force(ready, outcome);
    }

    /// Whether what is served of an object is this generation.
    fn serves(&self, item: &Item, generation: &Generation) -> bool {
        let all = self.tracker.all();
        let tracked = all.get(&(item.kind, item.id.clone()));
        tracked
            .and_then(|tracked| tracked.served.as_ref())
            .is_some_and(|served| *served == digests(generation))
    }

    /// Notes that the managers still have the same, if that was noted long ago: a note is a write
    /// to disk.
    fn confirm(&self, item: &Item, generation: &Generation) {
        let due = i64::try_from(self.rules.secrets.max_age.as_secs() / 16).unwrap_or(i64::MAX);
        let noted = item.last.as_ref().map_or(0, |last| last.confirmed_at);
        let is_due = generation.confirmed_at.saturating_sub(noted) > due;
        if is_due && !generation.values.is_empty() {
            self.keep_generation(item.kind, &item.id, generation);
        }
    }

    /// Judges an object with new values as a write would be judged.
    fn attempt(
        &self,
        item: &Item,
        generation: &Generation,
    ) -> Result<(Resource, Piece, Proved), WriteError> {
        let Item { kind, id, .. } = item;
        let filled = generation.fill(&item.document);
        let terms = Terms {
            occasion: Occasion::Write,
            ..Terms::load(self.now_seconds(), self.rules.trust_file.is_some())
        };
        let resource: Resource = parse(*kind, id, &filled, &terms)?.resource;
        let (piece, proved) = self.compile_proved(*kind, id, &resource)?;
        Ok((resource, piece, proved))
    }

    /// Stores and publishes new generations together, so that names which share a policy change it
    /// at the same moment.
    fn bring_into_force(&self, mut ready: Vec<Ready>, outcome: &Outcome) {
        if ready.is_empty() {
            return;
        }
        let guard = self.writer.blocking_lock();
        // A write that came meanwhile has looked at its references itself.
        ready.retain(|one| {
            let stored = self.store.find(one.item.kind, &one.item.id).ok().flatten();
            stored.is_some_and(|stored| stored.modified == one.item.modified)
        });
        let before = self.live.load();
        let after = loop {
            let after = before.apply(ready.iter().map(change), before.revision);
            let Some(index) = ready
                .iter()
                .position(|one| is_disputed(&before, &after, one))
            else {
                break after;
            };
            let one = ready.swap_remove(index);
            let error = WriteError::StillUsed {
                text: "another ssl has one of its names and asks otherwise of clients".to_owned(),
            };
            self.reject(&one.item, outcome, &error);
        };
        if let Err(error) = self.keep_refreshed(&ready, &before, &after) {
            // As with a write: what cannot be recorded is not made. It is tried again soon.
            for Item { kind, id, .. } in ready.iter().map(|one| &one.item) {
                tracing::error!(%kind, %id, %error, "new values of its references cannot be kept, so they are not served");
            }
            return;
        }
        for one in &mut ready {
            let Proved { context, connector } = std::mem::take(&mut one.proved);
            context
                .into_iter()
                .for_each(|context| self.contexts.keep_server(context));
            connector
                .into_iter()
                .for_each(|made| self.contexts.keep_upstream(made));
        }
        let after = self.publish(after);
        for one in &ready {
            let (kind, id) = (one.item.kind, &one.item.id);
            self.tell_workers(&before, &after, kind, id);
        }
        let changed = ready.iter().map(|one| (one.item.kind, &one.item.id));
        self.retire(&before, &after, changed, Instant::now());
        drop(guard);
        for one in &ready {
            let (kind, id) = (one.item.kind, &one.item.id);
            let is_whole = one.generation.covers(one.item.references.values());
            if is_whole {
                tracing::info!(%kind, %id, "new values of its references are served");
            } else {
                tracing::error!(%kind, %id, "closed: references of it have no value");
            }
            self.note(&one.item, outcome, &one.generation, None);
        }
    }

    /// Notes that new values do not work; the last good ones stay.
    fn reject(&self, item: &Item, outcome: &Outcome, error: &WriteError) {
        let (kind, id) = (item.kind, &item.id);
        self.metrics.failure(Reason::SecretInvalid);
        tracing::error!(%kind, %id, %error, "new values of its references do not work");
        let last = item.last.clone().unwrap_or_default();
        self.note(item, outcome, &last, Some(error));
    }

    /// Writes down how the references of an object fare, and when to look again.
    fn note(
        &self,
        item: &Item,
        outcome: &Outcome,
        served: &Generation,
        invalid: Option<&WriteError>,
    ) {
        let now_seconds = self.now_seconds();
        let mut soonest = self.rules.secrets.cache_time;
        let mut is_well = invalid.is_none();
        let mut all = self.tracker.all();
        let Some(tracked) = all.get_mut(&(item.kind, item.id.clone())) else {
            return;
        };
        let before = std::mem::take(&mut tracked.statuses);
        for (pointer, reference) in &item.references {
            let value = served.values.get(reference);
            let found = outcome.get(reference);
            let known = before.iter().find(|status| status.reference == *reference);
            let mut read_at = known
                .and_then(|status| status.read_at)
                .or(value.map(|_| served.confirmed_at));
            let error = match (found, invalid) {
                (Some(Ok(value)), invalid) => {
                    if let Some(good_for) = value.good_for {
                        soonest = soonest.min(good_for.mul_f64(2.0 / 3.0));
                    }
                    if invalid.is_none() {
                        read_at = Some(now_seconds);
                    }
                    invalid.map(|error| (Reason::SecretInvalid, error.to_string()))
                }
                (Some(Err(fault)), _) => Some((fault.reason(), fault.to_string())),
                (None, _) => Some((Reason::SecretUnresolved, "it was not asked for".to_owned())),
            };
            is_well &= error.is_none();
            let known_error = known.and_then(|status| status.error.as_ref());
            if let Some((reason, text)) = &error
                && invalid.is_none()
                && known_error != error.as_ref()
            {
                self.metrics.failure(*reason);
                let (kind, id) = (item.kind, &item.id);
                tracing::warn!(%kind, %id, %pointer, %reference, error = text, "not resolved");
            }
            tracked.statuses.push(Status {
                pointer: pointer.clone(),
                reference: reference.clone(),
                digest: value.map(|value| value.digest.clone()),
                version: value.and_then(|value| value.version.clone()),
                read_at,
                error,
            });
        }
        tracked.served = Some(digests(served));
        let pause = if is_well {
            tracked.failures = 0;
            varied(soonest.max(LEAST))
        } else {
            let doubled = Duration::from_millis(500).saturating_mul(1 << tracked.failures.min(8));
            tracked.failures = tracked.failures.saturating_add(1);
            varied(doubled.min(PAUSE))
        };
        // A write that came meanwhile wants it looked at sooner.
        tracked.due.get_or_insert(Instant::now() + pause);
    }
}

fn digests(generation: &Generation) -> BTreeMap<String, String> {
    let values = generation.values.iter();
    values
        .map(|(reference, value)| (reference.clone(), value.digest.clone()))
        .collect()
}

fn change(one: &Ready) -> Change {
    Change::Put {
        kind: one.item.kind,
        id: one.item.id.clone(),
        created: one.item.created,
        modified: one.item.modified,
        piece: one.piece.clone(),
    }
}

/// Whether new values would close names over what several ssls ask of their clients.
fn is_disputed(before: &Snapshot, after: &Snapshot, one: &Ready) -> bool {
    one.item.kind == Kind::Ssl
        && before.disputed_names(&one.item.id).is_empty()
        && !after.disputed_names(&one.item.id).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_is_in_one_go_at_a_time_and_in_another_for_news_meanwhile() {
        let tracker = Tracker::default();
        let id = "1".parse::<Id>().unwrap();
        let references = BTreeMap::from([("/cert".to_owned(), "$env://A".to_owned())]);
        let soon = Instant::now() + TICK;
        let taken = || {
            let due = tracker.take_due(soon);
            due.into_values().flatten().collect::<Vec<_>>()
        };
        tracker.touch(Kind::Ssl, &id, &references, &Generation::default());
        let under_way = taken();
        assert_eq!(under_way, [(Kind::Ssl, id.clone())]);
        tracker.touch(Kind::Ssl, &id, &references, &Generation::default());
        assert_eq!(taken(), [], "the first go may end last");
        tracker.end(under_way.clone());
        assert_eq!(taken(), under_way, "what came meanwhile is not forgotten");
        tracker.end(under_way);
        assert_eq!(taken(), [], "without news there is a pause");
    }
}
