//! What every store does, as one suite that runs against each implementation.

use std::sync::Arc;

use serde_json::json;

use super::audit::{self, Action, ChainKey, Origin, Record};
use super::{Change, Commit, Committed, Expect, Filter, Mutation, Order, Resealed, Selection};
use super::{Store, StoreError, Stored};
use crate::crypto::mac::MacKey;
use crate::resource::{Document, Id, Kind, Revision};

/// A way of making an empty store.
pub(super) type Make<'a> = &'a dyn Fn(ChainKey) -> Box<dyn Store>;

/// Runs all of it; `make` gives an empty store each time.
pub(super) fn suite(make: impl Fn(ChainKey) -> Box<dyn Store>) {
    let make: Make<'_> = &make;
    empty_store_is_at_revision_zero(make);
    documents_come_back_as_they_were_put(make);
    each_mutation_raises_the_one_revision(make);
    expectations_are_kept(make);
    batch_is_applied_whole_or_not_at_all(make);
    later_changes_of_a_batch_see_earlier_ones(make);
    commits_given_together_are_one(make);
    deleted_object_is_gone_and_returns_as_new(make);
    lists_are_in_order_of_ids(make);
    lists_have_what_is_asked_for(make);
    records_are_gap_free_and_chained(make);
    expiry_is_kept_until_it_is_put_anew(make);
    notes_are_kept_apart(make);
    refresh_writes_its_note_and_leaves_the_object(make);
    what_holds_a_text_is_found_in_order(make);
    what_was_changed_meanwhile_is_not_sealed_anew(make);
    chain_goes_on_under_another_key_and_what_was_retired_is_refused(make);
    concurrent_writers_lose_nothing(make);
    of_two_with_one_expectation_one_wins(make);
}

/// The chain key of the suite.
pub(super) fn chain_key() -> ChainKey {
    ChainKey::new(MacKey::from_bytes(&[7; 32]))
}

/// An id.
pub(super) fn id(text: &str) -> Id {
    text.parse().unwrap()
}

/// A document with one member.
pub(super) fn named(name: &str) -> Document {
    Document::from_iter([("name".to_owned(), json!(name))])
}

/// A put.
pub(super) fn put(kind: Kind, name: &str, document: Document, expect: Expect) -> Mutation {
    Mutation::Put {
        kind,
        id: id(name),
        document,
        expires: None,
        expect,
    }
}

/// A put of what expires.
fn put_until(name: &str, expires: u64) -> Mutation {
    Mutation::Put {
        kind: Kind::Route,
        id: id(name),
        document: named("x"),
        expires: Some(expires),
        expect: Expect::Any,
    }
}

/// Commits mutations as one batch.
pub(super) fn commit(store: &dyn Store, all: Vec<Mutation>) -> Result<Committed, StoreError> {
    let mut done = store.commit_all(vec![of_all(all)])?;
    Ok(done.remove(0))
}

fn of_one(mutation: Mutation) -> Commit {
    of_all(vec![mutation])
}

fn of_all(all: Vec<Mutation>) -> Commit {
    let changes = all.into_iter().map(|mutation| Change {
        mutation,
        changed: vec!["/name".to_owned()],
        weakens: vec![],
    });
    let origin = Origin {
        time_ms: 1_700_000_000_000,
        actor: "ops".to_owned(),
        request_id: "r".to_owned(),
    };
    Commit {
        origin,
        changes: changes.collect(),
    }
}

fn delete(kind: Kind, name: &str, expect: Expect) -> Mutation {
    Mutation::Delete {
        kind,
        id: id(name),
        expect,
    }
}

fn find(store: &dyn Store, kind: Kind, name: &str) -> Option<Stored> {
    store.find(kind, &id(name)).unwrap()
}

fn list(store: &dyn Store, kind: Kind) -> Vec<Stored> {
    let all = store.list(kind, &Selection::default()).unwrap();
    assert_eq!(all.total, all.objects.len());
    all.objects
}

fn is_conflict<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Conflict { .. }))
}

/// Everything a store shows, to compare before with after.
fn state(store: &dyn Store) -> (Vec<Stored>, Revision, Vec<Record>) {
    let loaded = store.load().unwrap();
    (
        loaded.objects,
        loaded.revision,
        store.audit_tail(usize::MAX).unwrap(),
    )
}

fn empty_store_is_at_revision_zero(make: Make<'_>) {
    let store = make(chain_key());
    assert_eq!(state(&*store), (vec![], Revision(0), vec![]));
    assert_eq!(store.revision().unwrap(), Revision(0));
    assert_eq!(store.audit_head().unwrap(), audit::Head::default());
    assert_eq!(find(&*store, Kind::Route, "1"), None);
    let nothing = commit(&*store, vec![]).unwrap();
    assert_eq!(
        (nothing.outcomes, nothing.head),
        (vec![], audit::Head::default())
    );
    assert_eq!(store.revision().unwrap(), Revision(0));
}

fn documents_come_back_as_they_were_put(make: Make<'_>) {
    let text = r#"{"z":1.0,"a":1e3,"m":123456789012345678901234567890,"n":-0,"k":0.10,
        "nodes":{"b:1":1,"a:1":2},"text":"é\u0000\n\"","none":null,"list":[[],{}],"":""}"#;
    let document: Document = serde_json::from_str(text).unwrap();
    let store = make(chain_key());
    commit(
        &*store,
        vec![put(Kind::Route, "1", document.clone(), Expect::Any)],
    )
    .unwrap();
    let found = find(&*store, Kind::Route, "1").unwrap();
    assert_eq!(found, list(&*store, Kind::Route)[0]);
    assert_eq!(found, store.load().unwrap().objects[0]);
    let shown = serde_json::to_string(&found.document).unwrap();
    assert_eq!(shown, serde_json::to_string(&document).unwrap());
    for spelling in [
        r#"{"z":1.0,"a""#,
        "123456789012345678901234567890",
        r#""n":-0,"k":0.10"#,
    ] {
        assert!(shown.contains(spelling), "{spelling} in {shown}");
    }
}

fn each_mutation_raises_the_one_revision(make: Make<'_>) {
    let store = make(chain_key());
    let first = commit(
        &*store,
        vec![put(Kind::Route, "1", named("a"), Expect::Any)],
    )
    .unwrap();
    let (route, ssl) = (
        put(Kind::Route, "1", named("b"), Expect::Any),
        put(Kind::Ssl, "1", named("c"), Expect::Any),
    );
    let second = commit(&*store, vec![route, ssl]).unwrap();
    let third = commit(&*store, vec![delete(Kind::Ssl, "1", Expect::Any)]).unwrap();
    let shown: Vec<_> = [first, second, third]
        .into_iter()
        .flat_map(|committed| committed.outcomes)
        .map(|outcome| (outcome.action, outcome.created.0, outcome.modified.0))
        .collect();
    assert_eq!(
        shown,
        [
            (Action::Create, 1, 1),
            (Action::Update, 1, 2),
            (Action::Create, 3, 3),
            (Action::Delete, 3, 4),
        ]
    );
    assert_eq!(store.revision().unwrap(), Revision(4));
    let route = find(&*store, Kind::Route, "1").unwrap();
    assert_eq!((route.created, route.modified), (Revision(1), Revision(2)));
}

fn expectations_are_kept(make: Make<'_>) {
    let store = make(chain_key());
    let attempt = |expect| commit(&*store, vec![put(Kind::Route, "1", named("x"), expect)]);
    let remove = |expect| commit(&*store, vec![delete(Kind::Route, "1", expect)]);

    assert!(is_conflict(&attempt(Expect::Revision(Revision(1)))));
    assert!(is_conflict(&remove(Expect::Revision(Revision(1)))));
    assert!(matches!(
        remove(Expect::Any),
        Err(StoreError::Absent { .. })
    ));
    assert!(matches!(
        remove(Expect::Absent),
        Err(StoreError::Absent { .. })
    ));
    assert!(attempt(Expect::Absent).is_ok());

    assert!(is_conflict(&attempt(Expect::Absent)));
    assert!(is_conflict(&attempt(Expect::Revision(Revision(0)))));
    assert!(is_conflict(&attempt(Expect::Revision(Revision(2)))));
    assert!(is_conflict(&remove(Expect::Absent)));
    assert!(attempt(Expect::Revision(Revision(1))).is_ok());

    assert!(is_conflict(&remove(Expect::Revision(Revision(1)))));
    assert!(remove(Expect::Revision(Revision(2))).is_ok());
    assert_eq!(store.revision().unwrap(), Revision(3));
}

fn batch_is_applied_whole_or_not_at_all(make: Make<'_>) {
    let store = make(chain_key());
    commit(
        &*store,
        vec![put(Kind::Route, "kept", named("old"), Expect::Any)],
    )
    .unwrap();
    let before = state(&*store);
    let batch = |last| {
        vec![
            put(Kind::Route, "new", named("new"), Expect::Absent),
            put(Kind::Route, "kept", named("new"), Expect::Any),
            last,
        ]
    };
    for refused in [
        put(
            Kind::Service,
            "1",
            named("s"),
            Expect::Revision(Revision(9)),
        ),
        delete(Kind::Service, "1", Expect::Any),
        delete(Kind::Route, "new", Expect::Absent),
    ] {
        assert!(commit(&*store, batch(refused)).is_err());
        assert_eq!(state(&*store), before);
    }
    let twin = commit(
        &*store,
        batch(put(Kind::Service, "1", named("s"), Expect::Absent)),
    )
    .unwrap();
    assert_eq!(twin.outcomes.len(), 3);
    assert_eq!(store.load().unwrap().objects.len(), 3);
}

fn later_changes_of_a_batch_see_earlier_ones(make: Make<'_>) {
    let store = make(chain_key());
    let committed = commit(
        &*store,
        vec![
            put(Kind::Route, "1", named("a"), Expect::Absent),
            put(Kind::Route, "1", named("b"), Expect::Revision(Revision(1))),
            delete(Kind::Route, "1", Expect::Revision(Revision(2))),
            put(Kind::Route, "1", named("c"), Expect::Absent),
        ],
    )
    .unwrap();
    let actions: Vec<_> = committed
        .outcomes
        .iter()
        .map(|outcome| outcome.action)
        .collect();
    assert_eq!(
        actions,
        [
            Action::Create,
            Action::Update,
            Action::Delete,
            Action::Create
        ]
    );
    let found = find(&*store, Kind::Route, "1").unwrap();
    assert_eq!(
        (found.document, found.created.0, found.modified.0),
        (named("c"), 4, 4)
    );
}

fn commits_given_together_are_one(make: Make<'_>) {
    let store = make(chain_key());
    let commits = |last| {
        [
            put(Kind::Route, "1", named("a"), Expect::Absent),
            put(Kind::Route, "1", named("b"), Expect::Revision(Revision(1))),
            last,
        ]
        .map(of_one)
        .to_vec()
    };
    let late = put(Kind::Route, "1", named("c"), Expect::Revision(Revision(1)));
    let refused = store.commit_all(commits(late));
    assert!(matches!(refused, Err(StoreError::Conflict { .. })));
    assert_eq!(state(&*store), (vec![], Revision(0), vec![]));

    let other = put(Kind::Service, "1", named("s"), Expect::Absent);
    let done = store.commit_all(commits(other)).unwrap();
    let revisions: Vec<_> = done
        .iter()
        .map(|done| done.outcomes[0].modified.0)
        .collect();
    assert_eq!(revisions, [1, 2, 3]);
    let heads: Vec<_> = done.iter().map(|done| done.head).collect();
    let records = store.audit_tail(usize::MAX).unwrap();
    let after: Vec<_> = records.iter().map(audit::Head::after).collect();
    assert_eq!(heads, after);
    assert!(audit::verify(&records, &chain_key()).is_ok());
    assert!(store.commit_all(vec![]).unwrap().is_empty());
}

fn deleted_object_is_gone_and_returns_as_new(make: Make<'_>) {
    let store = make(chain_key());
    let one = || put(Kind::Secret, "vault/1", named("x"), Expect::Any);
    commit(&*store, vec![one()]).unwrap();
    assert!(find(&*store, Kind::Secret, "vault/1").is_some());
    commit(&*store, vec![delete(Kind::Secret, "vault/1", Expect::Any)]).unwrap();
    assert_eq!(find(&*store, Kind::Secret, "vault/1"), None);
    assert!(list(&*store, Kind::Secret).is_empty());
    assert!(store.load().unwrap().objects.is_empty());
    let again = commit(&*store, vec![one()]).unwrap();
    assert_eq!(again.outcomes[0].created, Revision(3));
}

fn lists_are_in_order_of_ids(make: Make<'_>) {
    let store = make(chain_key());
    for name in ["b", "10", "a", "B", "9", "-", "_"] {
        commit(
            &*store,
            vec![put(Kind::Upstream, name, named(name), Expect::Any)],
        )
        .unwrap();
        commit(
            &*store,
            vec![put(Kind::Service, name, named(name), Expect::Any)],
        )
        .unwrap();
    }
    let ids = |all: Vec<Stored>| all.iter().map(|s| s.id.to_string()).collect::<Vec<_>>();
    let ordered = ["-", "10", "9", "B", "_", "a", "b"];
    assert_eq!(ids(list(&*store, Kind::Upstream)), ordered);
    assert!(list(&*store, Kind::Route).is_empty());
    let loaded = store.load().unwrap();
    assert_eq!(loaded.revision, Revision(14));
    let mut sorted = loaded.objects.clone();
    sorted.sort_by(|a, b| (a.kind, &a.id).cmp(&(b.kind, &b.id)));
    assert_eq!(loaded.objects, sorted);
}

fn lists_have_what_is_asked_for(make: Make<'_>) {
    let store = make(chain_key());
    // Created in another order than that of their ids; another kind is between them.
    for (name, team) in [("b", "x"), ("d", "y"), ("a", "x"), ("c", "x")] {
        let document = json!({"name": name, "team": team, "more": {"team": "z"}});
        let document = document.as_object().unwrap().clone();
        let other = put(Kind::Service, name, document.clone(), Expect::Any);
        let one = put(Kind::Route, name, document, Expect::Any);
        commit(&*store, vec![other, one]).unwrap();
    }
    let of_team = |team: &'static str| Filter {
        members: &["team", "none"],
        accepts: Box::new(move |seen| {
            assert_eq!(seen.keys().collect::<Vec<_>>(), ["team"]);
            seen.get("team").is_some_and(|own| own == team)
        }),
    };
    for (filter, order, skipped, limit, expected, total) in [
        (None, Order::Id, 0, None, "abcd", 4),
        (None, Order::Oldest, 0, None, "bdac", 4),
        (None, Order::Newest, 1, Some(2), "ad", 4),
        (None, Order::Id, 3, Some(9), "d", 4),
        (None, Order::Id, 4, Some(9), "", 4),
        (None, Order::Id, 0, Some(0), "", 4),
        (Some("x"), Order::Id, 0, None, "abc", 3),
        (Some("x"), Order::Newest, 0, Some(2), "ca", 3),
        (Some("x"), Order::Oldest, 2, None, "c", 3),
        (Some("z"), Order::Id, 0, None, "", 0),
    ] {
        let asked = Selection {
            filter: filter.map(of_team),
            order,
            skipped,
            limit,
        };
        let found = store.list(Kind::Route, &asked).unwrap();
        let names: String = found.objects.iter().map(|one| one.id.to_string()).collect();
        assert_eq!(
            (names.as_str(), found.total),
            (expected, total),
            "{asked:?} {filter:?}"
        );
        for one in found.objects {
            assert_eq!(store.find(Kind::Route, &one.id).unwrap(), Some(one));
        }
    }
}

fn records_are_gap_free_and_chained(make: Make<'_>) {
    let store = make(chain_key());
    let mut heads = Vec::new();
    for n in 0..10 {
        let name = format!("r{n}");
        let batch = vec![
            put(Kind::Route, &name, named("x"), Expect::Absent),
            delete(Kind::Route, &name, Expect::Any),
        ];
        heads.push(commit(&*store, batch).unwrap().head);
        // A refused commit leaves no gap.
        assert!(commit(&*store, vec![delete(Kind::Route, &name, Expect::Any)]).is_err());
    }
    let records = store.audit_tail(usize::MAX).unwrap();
    let sequence: Vec<u64> = records.iter().map(|record| record.seq).collect();
    assert_eq!(sequence, (1..=20).collect::<Vec<_>>());
    assert!(records.iter().all(|record| record.revision.0 == record.seq));
    let head = audit::verify(&records, &chain_key()).unwrap();
    assert_eq!(
        (Some(&head), head),
        (heads.last(), store.audit_head().unwrap())
    );
    assert_eq!(store.audit_verify().unwrap(), head);

    let first = &records[0];
    assert_eq!(
        (first.kind, first.id.as_str(), first.action),
        (Kind::Route, "r0", Action::Create)
    );
    assert_eq!(first.origin.actor, "ops");
    assert_eq!(
        (first.changed.as_slice(), first.weakens.len()),
        (["/name".to_owned()].as_slice(), 0)
    );

    let tail = store.audit_tail(3).unwrap();
    assert_eq!(tail, &records[17..]);
    assert_eq!(store.audit_from(5, 2).unwrap(), &records[4..6]);
    assert!(store.audit_from(21, 2).unwrap().is_empty());
    assert!(store.audit_tail(0).unwrap().is_empty());
}

fn expiry_is_kept_until_it_is_put_anew(make: Make<'_>) {
    let store = make(chain_key());
    let all = [("b", 2), ("c", 3), ("a", 1), ("d", 4)].map(|(name, at)| put_until(name, at));
    commit(&*store, all.into()).unwrap();
    assert_eq!(find(&*store, Kind::Route, "c").unwrap().expires, Some(3));
    assert_eq!(store.load().unwrap().objects[2].expires, Some(3));
    assert_eq!(list(&*store, Kind::Route)[2].expires, Some(3));
    let expiring = |limit| {
        let found = store.expiring(limit).unwrap();
        let found = found.into_iter();
        found
            .map(|one| (one.id.to_string(), one.modified.0, one.expires))
            .collect::<Vec<_>>()
    };
    let (a, b) = (("a".to_owned(), 3, 1), ("b".to_owned(), 1, 2));
    assert_eq!(expiring(2), [a, b.clone()]);
    let never = put(Kind::Route, "a", named("x"), Expect::Any);
    let gone = delete(Kind::Route, "c", Expect::Any);
    commit(&*store, vec![never, gone, put_until("d", 1)]).unwrap();
    assert_eq!(expiring(9), [("d".to_owned(), 7, 1), b]);
    assert_eq!(find(&*store, Kind::Route, "a").unwrap().expires, None);
}

fn notes_are_kept_apart(make: Make<'_>) {
    let store = make(chain_key());
    assert_eq!(store.meta_find("kek_check").unwrap(), None);
    store.meta_put("kek_check", "a").unwrap();
    store.meta_put("kek_check", "b").unwrap();
    assert_eq!(store.meta_find("kek_check").unwrap().as_deref(), Some("b"));
    assert_eq!(store.meta_find("other").unwrap(), None);
    store.meta_put("other", "c").unwrap();
    for _ in 0..2 {
        store.meta_remove("other").unwrap();
        assert_eq!(store.meta_find("other").unwrap(), None);
    }
    assert_eq!(store.meta_find("kek_check").unwrap().as_deref(), Some("b"));
    assert_eq!(state(&*store), (vec![], Revision(0), vec![]));
}

fn refresh_writes_its_note_and_leaves_the_object(make: Make<'_>) {
    let store = make(chain_key());
    let refresh = |name: &str, value: Option<&str>, expect: u64| Mutation::Refresh {
        kind: Kind::Route,
        id: id(name),
        note: "note".to_owned(),
        value: value.map(str::to_owned),
        expect: Revision(expect),
    };
    for (name, expect) in [("a", Expect::Absent), ("b", Expect::Absent)] {
        commit(&*store, vec![put(Kind::Route, name, named(name), expect)]).unwrap();
    }
    let (objects, ..) = state(&*store);
    let done = commit(&*store, vec![refresh("a", Some("sealed"), 1)]).unwrap();
    let (action, own) = (Action::Refresh, Revision(1));
    let outcomes = [(action, own, own)];
    let told = done.outcomes.iter();
    let told: Vec<_> = told
        .map(|told| (told.action, told.created, told.modified))
        .collect();
    assert_eq!(told, outcomes);
    assert_eq!(store.meta_find("note").unwrap().as_deref(), Some("sealed"));
    let (after, revision, records) = state(&*store);
    assert_eq!((after, revision), (objects.clone(), Revision(2)));
    let last = records.last().unwrap();
    assert_eq!((last.seq, last.action, last.revision), (3, action, own));
    assert_eq!(store.audit_verify().unwrap(), done.head);
    // Another object, or none, is not refreshed; nothing of such a batch is written.
    for wrong in [refresh("a", Some("x"), 2), refresh("c", Some("x"), 1)] {
        let batch = vec![refresh("a", None, 1), wrong];
        assert!(is_conflict(&commit(&*store, batch)));
    }
    assert_eq!(store.meta_find("note").unwrap().as_deref(), Some("sealed"));
    // The revision goes on where it was.
    let batch = vec![
        refresh("b", None, 2),
        put(Kind::Route, "b", named("c"), Expect::Revision(Revision(2))),
    ];
    let done = commit(&*store, batch).unwrap();
    assert_eq!(done.outcomes[1].modified, Revision(3));
    assert_eq!(store.meta_find("note").unwrap(), None);
    let (.., revision, records) = state(&*store);
    assert_eq!((revision, records.len()), (Revision(3), 5));
    assert_eq!(store.audit_verify().unwrap(), done.head);
}

fn what_holds_a_text_is_found_in_order(make: Make<'_>) {
    let store = make(chain_key());
    for (kind, name, text) in [
        (Kind::Upstream, "b", "mark:1"),
        (Kind::Route, "c", "mark:1"),
        (Kind::Upstream, "a", "mark:1"),
        (Kind::Route, "d", "mark:2"),
    ] {
        commit(&*store, vec![put(kind, name, named(text), Expect::Any)]).unwrap();
    }
    let ids = |after: Option<(Kind, &Id)>, limit| {
        let found = store.objects_with("mark:1", after, limit).unwrap();
        let ids = found.iter().map(|stored| stored.id.to_string());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(ids(None, 9), ["c", "a", "b"]);
    assert_eq!(ids(None, 2), ["c", "a"]);
    assert_eq!(ids(Some((Kind::Upstream, &id("a"))), 9), ["b"]);
    for (name, value) in [("n/2", "mark:1"), ("n/1", "mark:1"), ("n/3", "other")] {
        store.meta_put(name, value).unwrap();
    }
    let note = |name: &str| (name.to_owned(), "mark:1".to_owned());
    let found = store.notes_with("mark:1", None, 9).unwrap();
    assert_eq!(found, [note("n/1"), note("n/2")]);
    assert_eq!(store.notes_with("mark:1", None, 1).unwrap(), [note("n/1")]);
    let later = store.notes_with("mark:1", Some("n/1"), 9).unwrap();
    assert_eq!(later, [note("n/2")]);
}

fn what_was_changed_meanwhile_is_not_sealed_anew(make: Make<'_>) {
    let store = make(chain_key());
    for name in ["1", "2"] {
        let change = put(Kind::Route, name, named("before"), Expect::Any);
        commit(&*store, vec![change]).unwrap();
        store.meta_put(name, "before").unwrap();
    }
    let mut resealed: Vec<Resealed> = Vec::new();
    for mut stored in store
        .list(Kind::Route, &Selection::default())
        .unwrap()
        .objects
    {
        stored.document = named("anew");
        resealed.push(Resealed::Object(stored));
    }
    for name in ["1", "2"] {
        resealed.push(Resealed::Note {
            name: name.to_owned(),
            before: "before".to_owned(),
            after: "anew".to_owned(),
        });
    }
    let change = put(Kind::Route, "2", named("meanwhile"), Expect::Any);
    commit(&*store, vec![change]).unwrap();
    store.meta_put("2", "meanwhile").unwrap();
    let (revision, head) = (store.revision().unwrap(), store.audit_head().unwrap());
    store.reseal(&resealed).unwrap();
    for (name, text) in [("1", "anew"), ("2", "meanwhile")] {
        let stored = store.find(Kind::Route, &id(name)).unwrap().unwrap();
        assert_eq!(stored.document, named(text));
        assert_eq!(store.meta_find(name).unwrap().unwrap(), text);
    }
    assert_eq!(store.revision().unwrap(), revision, "it is no change");
    assert_eq!(store.audit_head().unwrap(), head);
}

fn chain_goes_on_under_another_key_and_what_was_retired_is_refused(make: Make<'_>) {
    let store = make(chain_key());
    let change = |name: &str, text: &str| put(Kind::Route, name, named(text), Expect::Any);
    for name in ["1", "2"] {
        commit(&*store, vec![change(name, "old:x")]).unwrap();
    }
    let head = store.audit_head().unwrap();
    let next = chain_key().continued(&head, MacKey::from_bytes(&[8; 32]));
    let notes = [("check", Some("new".to_owned())), ("next", None)];
    store.meta_put("next", "there").unwrap();
    // Something is left of it; and the chain is longer than the key knows.
    assert!(!store.change_key(next.clone(), &notes, "old:").unwrap());
    commit(&*store, vec![change("1", "new:x"), change("2", "new:x")]).unwrap();
    assert!(!store.change_key(next, &notes, "old:").unwrap());
    assert_eq!(store.meta_find("check").unwrap(), None);
    assert_eq!(store.meta_find("next").unwrap().unwrap(), "there");
    store.audit_verify().unwrap();

    let head = store.audit_head().unwrap();
    let next = chain_key().continued(&head, MacKey::from_bytes(&[8; 32]));
    assert!(store.change_key(next.clone(), &notes, "old:").unwrap());
    assert_eq!(store.meta_find("check").unwrap().unwrap(), "new");
    assert_eq!(store.meta_find("next").unwrap(), None);
    commit(&*store, vec![change("3", "new:x")]).unwrap();
    let refused = commit(&*store, vec![change("4", "old:x")]).unwrap_err();
    assert!(matches!(refused, StoreError::KeyReplaced), "{refused}");
    assert!(store.meta_put("note", "old:x").is_err());
    assert!(store.find(Kind::Route, &id("4")).unwrap().is_none());
    assert_eq!(store.audit_verify().unwrap().count, 5);
    // The past is written down with the key, and neither alone verifies.
    let records = store.audit_tail(9).unwrap();
    let text = next.past().unwrap();
    let read = ChainKey::with_past(MacKey::from_bytes(&[8; 32]), &text).unwrap();
    assert!(audit::verify(&records, &read).is_ok());
    for wrong in [chain_key(), ChainKey::new(MacKey::from_bytes(&[8; 32]))] {
        assert!(audit::verify(&records, &wrong).is_err());
    }
    // Whoever has the former key makes another past with it: its end is not the one written down.
    let other = make(chain_key());
    for name in ["1", "2", "3", "4"] {
        commit(&*other, vec![change(name, "forged")]).unwrap();
    }
    let forged = other.audit_tail(9).unwrap();
    let told = audit::verify(&forged, &read).unwrap_err();
    let last = matches!(told, audit::VerifyError::Broken(broken) if broken.seq == 4);
    assert!(last, "{told}");
    assert!(
        audit::verify(&forged[..3], &read).is_ok(),
        "by its end only"
    );
    assert!(!format!("{read:?}").contains("8, 8"));
}

fn concurrent_writers_lose_nothing(make: Make<'_>) {
    let store: Arc<dyn Store> = Arc::from(make(chain_key()));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let store = Arc::clone(&store);
            std::thread::spawn(move || {
                for n in 0..10 {
                    let name = format!("{writer}-{n}");
                    commit(
                        &*store,
                        vec![put(Kind::Route, &name, named("x"), Expect::Absent)],
                    )
                    .unwrap();
                    assert!(find(&*store, Kind::Route, &name).is_some());
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    let (objects, revision, records) = state(&*store);
    assert_eq!(
        (objects.len(), revision, records.len()),
        (40, Revision(40), 40)
    );
    assert!(audit::verify(&records, &chain_key()).is_ok());
    let mut revisions: Vec<u64> = objects.iter().map(|stored| stored.created.0).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=40).collect::<Vec<_>>());
}

fn of_two_with_one_expectation_one_wins(make: Make<'_>) {
    let store: Arc<dyn Store> = Arc::from(make(chain_key()));
    commit(
        &*store,
        vec![put(Kind::Route, "1", named("0"), Expect::Absent)],
    )
    .unwrap();
    let attempts: Vec<_> = (0..4)
        .map(|_| {
            let store = Arc::clone(&store);
            std::thread::spawn(move || {
                let expect = Expect::Revision(Revision(1));
                commit(&*store, vec![put(Kind::Route, "1", named("1"), expect)])
            })
        })
        .collect();
    let results: Vec<_> = attempts
        .into_iter()
        .map(|attempt| attempt.join().unwrap())
        .collect();
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert_eq!(
        results.iter().filter(|result| is_conflict(result)).count(),
        3
    );
    assert_eq!(store.revision().unwrap(), Revision(2));
}
