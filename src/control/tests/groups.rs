//! Many writers at once: what they share, and that none takes another with it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::resource::patch::Patch;
use crate::store::Stored;
use crate::store::sqlite::Database;
use crate::store::standin::{StandIn, Write};

/// A store that counts its transactions, and fails one that would store `bad`: knowing that
/// nothing of it was written, or unsure of it.
fn picky(is_unsure: bool) -> (Arc<StandIn>, Arc<AtomicUsize>) {
    let commits = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&commits);
    let before = move |write: Write<'_>| {
        let Write::Commits(commits) = write else {
            return Ok(());
        };
        seen.fetch_add(1, Ordering::Relaxed);
        let mut changes = commits.iter().flat_map(|commit| &commit.changes);
        if !changes.any(|change| change.mutation.id().as_str() == "bad") {
            return Ok(());
        }
        let (path, source) = ("/db".into(), rusqlite::Error::InvalidQuery);
        Err(if is_unsure {
            StoreError::Unsure { path, source }
        } else {
            StoreError::Full { path, source }
        })
    };
    let memory = Arc::new(Memory::new(chain_key()));
    (Arc::new(StandIn::new(memory, before)), commits)
}

fn control_on(store: Arc<dyn Store>) -> (Control, Arc<Live>) {
    let memory = Arc::new(Memory::new(chain_key()));
    let (parts, _commands) = parts(&memory, 7, Rules::default());
    let live = parts.live.clone();
    let control = Control::open(Parts { store, ..parts }).unwrap();
    (control, live)
}

fn small(name: &str) -> Value {
    route_body(&json!({ "uri": format!("/{name}") }))
}

type Asked = tokio::task::JoinHandle<Result<Written, WriteError>>;

/// Has all of these wait for the writer's lock in this order, then settled.
async fn together(control: &Control, puts: Vec<Put>) -> Vec<Result<Written, WriteError>> {
    let writer = control.inner.writer.clone().lock_owned().await;
    let mut asked: Vec<Asked> = Vec::new();
    for put in puts {
        let own = control.clone();
        asked.push(tokio::spawn(async move { own.put(put).await }));
        // One after the other, so that the order is theirs.
        while control.inner.queue.len() < asked.len() {
            tokio::task::yield_now().await;
        }
    }
    drop(writer);
    let asked = futures_util::future::join_all(asked).await;
    asked.into_iter().map(Result::unwrap).collect()
}

#[tokio::test]
async fn changes_that_wait_share_a_transaction_and_a_publish() {
    let (store, commits) = picky(false);
    let (control, live) = control_on(store.clone());
    let before = live.version();
    let puts = (0..50).map(|n| put_of(Kind::Route, &format!("r{n}"), small("x")));
    for written in together(&control, puts.collect()).await {
        assert!(written.unwrap().created);
    }
    assert_eq!(commits.load(Ordering::Relaxed), 1);
    let snapshot = live.load();
    assert_eq!(snapshot.version, before + 1);
    assert_eq!(snapshot.revision, Revision(50));
    assert_eq!(snapshot.tally().objects(Kind::Route), 50);
    assert!(store.audit_verify().is_ok());
}

#[tokio::test]
async fn one_that_is_refused_takes_no_other_with_it() {
    let (store, _) = picky(false);
    let (control, live) = control_on(store.clone());
    let referring = |service: &str| json!({"uri": "/s", "service_id": service});
    let puts = vec![
        put_of(Kind::Service, "s", json!({})),
        put_of(Kind::Route, "on-s", referring("s")),
        put_of(Kind::Route, "bad", small("bad")),
        put_of(Kind::Route, "on-none", referring("none")),
        put_of(Kind::Route, "good", small("good")),
    ];
    let results = together(&control, puts).await;
    let told: Vec<_> = results
        .iter()
        .map(|result| match result {
            Ok(_) => "made",
            Err(WriteError::Store(error)) if matches!(**error, StoreError::Full { .. }) => "full",
            Err(WriteError::Invalid(_)) => "invalid",
            Err(_) => "otherwise",
        })
        .collect();
    assert_eq!(told, ["made", "made", "full", "invalid", "made"]);
    let snapshot = live.load();
    let stored = store.load().unwrap();
    let kept: Vec<_> = stored.objects.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(kept, ["s", "good", "on-s"]);
    assert_eq!(snapshot.tally().objects(Kind::Route), 2);
    assert_eq!(snapshot.revision, stored.revision);
    for Stored {
        kind, id, modified, ..
    } in &stored.objects
    {
        assert_eq!(snapshot.modified(*kind, id), Some(*modified));
    }
}

#[tokio::test]
async fn what_may_be_stored_is_not_tried_again() {
    let (store, commits) = picky(true);
    let (control, live) = control_on(store.clone());
    let before = live.version();
    let puts = ["a", "bad", "c"].map(|own| put_of(Kind::Route, own, small(own)));
    for refused in together(&control, puts.to_vec()).await {
        let Err(WriteError::Store(error)) = refused else {
            panic!("{refused:?}");
        };
        assert!(matches!(*error, StoreError::Unsure { .. }));
    }
    assert_eq!(commits.load(Ordering::Relaxed), 1);
    assert_eq!(live.version(), before);
}

#[tokio::test]
async fn a_change_of_what_the_group_changes_comes_again() {
    let (store, _) = picky(false);
    let (control, _) = control_on(store.clone());
    let puts = (0..5).map(|n| put_of(Kind::Route, "r", small(&format!("v{n}"))));
    let results = together(&control, puts.collect()).await;
    let revisions = results.iter().map(|result| result.as_ref().unwrap());
    let mut revisions: Vec<_> = revisions.map(|made| made.shown.modified.0).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, [1, 2, 3, 4, 5]);
    let created = results.iter().filter(|made| made.as_ref().unwrap().created);
    assert_eq!(created.count(), 1);
}

/// What one of the thousand did, as acknowledged.
enum Did {
    Put(String, Revision),
    Deleted(String),
    Counted,
    Refused,
}

async fn write_one(control: Control, number: usize) -> Did {
    let own = format!("o{number}");
    match number % 5 {
        0 => {
            let post = Post {
                kind: Kind::Route,
                document: Opened::new(Kind::Route, object(small(&own))),
                flavour: Flavour::Apisix,
                actor: actor(),
                if_match: None,
                allow_weaker: false,
                ttl: None,
            };
            let made = control.post(post).await.unwrap().shown;
            Did::Put(made.id.to_string(), made.modified)
        }
        1 => {
            let label = json!({"labels": { own: "1" }});
            let Value::Object(members) = label else {
                unreachable!();
            };
            let amend = Amend {
                kind: Kind::Route,
                id: id("counted"),
                patch: Patch::merge(members),
                flavour: Flavour::Apisix,
                actor: actor(),
                if_match: None,
                allow_weaker: false,
                ttl: None,
            };
            control.amend(amend).await.unwrap();
            Did::Counted
        }
        2 => {
            let put = put_of(Kind::Route, &own, small(&own));
            control.put(put).await.unwrap();
            control.delete(delete_of(Kind::Route, &own)).await.unwrap();
            Did::Deleted(own)
        }
        3 => {
            let put = put_of(
                Kind::Route,
                &own,
                json!({"uri": "/x", "service_id": "none"}),
            );
            assert!(matches!(
                control.put(put).await,
                Err(WriteError::Invalid(_))
            ));
            Did::Refused
        }
        _ => {
            let put = put_of(Kind::Route, &own, small(&own));
            let made = control.put(put).await.unwrap().shown;
            Did::Put(own, made.modified)
        }
    }
}

#[tokio::test]
async fn a_thousand_writers_leave_exactly_what_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let store = Database::open(dir.path()).unwrap().into_store(chain_key());
    let store = Arc::new(store);
    let (control, live) = control_on(store.clone());
    let counted = put_of(Kind::Route, "counted", small("counted"));
    control.put(counted).await.unwrap();
    let writers = (0..1000).map(|number| tokio::spawn(write_one(control.clone(), number)));
    let mut kept = BTreeMap::new();
    let mut count = 0;
    for did in futures_util::future::join_all(writers).await {
        match did.unwrap() {
            Did::Put(own, revision) => assert!(kept.insert(own, revision).is_none()),
            Did::Deleted(own) => assert!(!kept.contains_key(&own)),
            Did::Counted => count += 1,
            Did::Refused => {}
        }
    }
    let stored = store.list(Kind::Route, &Selection::default()).unwrap();
    let (counted, others): (Vec<_>, Vec<_>) = stored
        .objects
        .into_iter()
        .partition(|one| one.id.as_str() == "counted");
    let labels = counted[0].document["labels"].as_object().unwrap();
    assert_eq!((labels.len(), count), (200, 200));
    let others: BTreeMap<_, _> = others
        .into_iter()
        .map(|one| (one.id.to_string(), one.modified))
        .collect();
    assert_eq!(others, kept);
    // Served is what is stored, and the chain has a record for each.
    let snapshot = live.load();
    assert_eq!(snapshot.revision, store.revision().unwrap());
    assert_eq!(snapshot.tally().objects(Kind::Route), kept.len() + 1);
    for (own, revision) in &kept {
        assert_eq!(snapshot.modified(Kind::Route, &id(own)), Some(*revision));
    }
    let head = store.audit_verify().unwrap();
    assert_eq!(head.count, snapshot.revision.0);
    assert_eq!(head.count, 1 + 200 + 200 + 400 + 200);
}
