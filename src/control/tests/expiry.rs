//! What has a `ttl`, on a clock that moves when it is told to.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Mutex, MutexGuard};

use super::*;
use crate::control::expiry::delete_due;
use crate::store::Store;

/// How far the clock went.
static NOW_MS: AtomicU64 = AtomicU64::new(0);
/// Whose clock it is: it is the process's, and tests run side by side.
static TURN: Mutex<()> = Mutex::const_new(());

fn moving() -> SystemTime {
    clock() + Duration::from_millis(NOW_MS.load(Ordering::Relaxed))
}

async fn turn() -> MutexGuard<'static, ()> {
    let turn = TURN.lock().await;
    set_clock(0);
    turn
}

fn set_clock(now_ms: u64) {
    NOW_MS.store(now_ms, Ordering::Relaxed);
}

fn rules() -> Rules {
    Rules {
        clock: moving,
        ..Rules::default()
    }
}

fn moving_bench(store: Arc<Memory>, rules: Rules) -> Bench {
    let (mut parts, commands) = parts(&store, 7, Rules::default());
    parts.rules = rules;
    let (live, contexts) = (parts.live.clone(), parts.contexts.clone());
    Bench {
        control: Control::open(parts).unwrap(),
        store,
        live,
        contexts,
        commands,
    }
}

fn memory() -> Arc<Memory> {
    Arc::new(Memory::new(chain_key()))
}

fn upstream_for(own: &str, seconds: Option<u64>) -> Put {
    Put {
        ttl: seconds.map(Duration::from_secs),
        ..put_of(Kind::Upstream, own, json!({"nodes": {"127.0.0.1:1": 1}}))
    }
}

impl Bench {
    fn has(&self, kind: Kind, own: &str) -> (bool, bool) {
        let stored = self.store.find(kind, &id(own)).unwrap().is_some();
        (stored, self.control.holds(kind, &id(own)))
    }

    /// Deletes what is due at this time, in ms: how many ms until the next is.
    async fn at(&self, now_ms: u64) -> Option<u128> {
        set_clock(now_ms);
        let next = delete_due(&self.control.inner).await.unwrap();
        next.map(|next| next.as_millis())
    }
}

#[tokio::test]
async fn what_expires_is_deleted_with_a_record_and_not_before() {
    let _turn = turn().await;
    let bench = moving_bench(memory(), rules());
    for (own, seconds) in [("a", 10), ("b", 20)] {
        let put = upstream_for(own, Some(seconds));
        bench.control.put(put).await.unwrap();
    }
    bench.control.put(upstream_for("c", None)).await.unwrap();
    let user = json!({"uri": "/", "upstream_id": "a"});
    bench
        .control
        .put(put_of(Kind::Route, "r", user))
        .await
        .unwrap();
    let before = bench.store.audit_head().unwrap().count;
    for _ in 0..2 {
        assert_eq!(bench.at(9_999).await, Some(1));
        assert_eq!(bench.has(Kind::Upstream, "a"), (true, true));
    }
    assert_eq!(bench.at(10_000).await, Some(10_000));
    assert_eq!(bench.has(Kind::Upstream, "a"), (false, false));
    assert_eq!(bench.has(Kind::Upstream, "b"), (true, true));
    assert_eq!(bench.has(Kind::Route, "r"), (true, true));
    let records = bench.store.audit_tail(9).unwrap();
    let last = records.last().unwrap();
    assert_eq!(bench.store.audit_head().unwrap().count, before + 1);
    assert_eq!((last.origin.actor.as_str(), last.id.as_str()), ("ttl", "a"));
    assert_eq!(last.action.as_str(), "delete");
    assert_eq!(bench.at(20_000).await, None);
    assert_eq!(bench.has(Kind::Upstream, "c"), (true, true));
}

#[tokio::test]
async fn later_write_sets_the_end_anew_or_takes_it_back() {
    let _turn = turn().await;
    let bench = moving_bench(memory(), rules());
    for own in ["put", "patch", "again"] {
        bench
            .control
            .put(upstream_for(own, Some(10)))
            .await
            .unwrap();
    }
    let cleared = bench.control.put(upstream_for("put", None)).await.unwrap();
    assert_eq!(cleared.shown.expires, None);
    let amend = |own: &str, ttl| Amend {
        kind: Kind::Upstream,
        id: id(own),
        patch: Patch::merge(object(json!({"desc": "x"}))),
        flavour: Flavour::Apisix,
        actor: actor(),
        if_match: None,
        allow_weaker: false,
        ttl,
    };
    bench.control.amend(amend("patch", None)).await.unwrap();
    let ttl = Some(Duration::from_secs(30));
    let later = bench.control.amend(amend("again", ttl)).await.unwrap();
    let start = u64::try_from(NOW).unwrap() * 1000;
    assert_eq!(later.shown.expires, Some(start + 30_000));
    assert_eq!(bench.at(10_000).await, Some(20_000));
    for own in ["put", "patch", "again"] {
        assert_eq!(bench.has(Kind::Upstream, own), (true, true), "{own}");
    }
    assert_eq!(bench.at(30_000).await, None);
    assert_eq!(bench.has(Kind::Upstream, "again"), (false, false));
}

#[tokio::test]
async fn all_that_is_due_goes_however_much_it_is() {
    let _turn = turn().await;
    let bench = moving_bench(memory(), rules());
    for own in 0..300 {
        let put = upstream_for(&own.to_string(), Some(10));
        bench.control.put(put).await.unwrap();
    }
    assert_eq!(bench.at(10_000).await, Some(0));
    assert_eq!(bench.at(10_000).await, None);
    assert!(bench.store.load().unwrap().objects.is_empty());
}

#[tokio::test]
async fn what_expired_between_two_runs_is_never_served() {
    let _turn = turn().await;
    let store = memory();
    let bench = moving_bench(store.clone(), rules());
    for (own, seconds) in [("a", 10), ("b", 20)] {
        let put = upstream_for(own, Some(seconds));
        bench.control.put(put).await.unwrap();
    }
    drop(bench);
    set_clock(15_000);
    let found = |store: &Arc<Memory>| {
        let (mut parts, _commands) = parts(store, 7, Rules::default());
        parts.rules = rules();
        check(parts).unwrap().len()
    };
    let count = found(&store);
    let bench = moving_bench(store.clone(), rules());
    assert_eq!(bench.has(Kind::Upstream, "a"), (false, false));
    assert_eq!(bench.has(Kind::Upstream, "b"), (true, true));
    let last = store.audit_tail(1).unwrap().remove(0);
    assert_eq!((last.origin.actor.as_str(), last.id.as_str()), ("ttl", "a"));
    assert_eq!(found(&store), count);
    assert_eq!(bench.at(20_000).await, None);
}

#[tokio::test]
async fn end_of_its_own_needs_a_word_where_weakening_is_refused() {
    let _turn = turn().await;
    let refuse_weakening = Rules {
        refuse_weakening: true,
        ..rules()
    };
    let bench = moving_bench(memory(), refuse_weakening);
    let mut put = upstream_for("a", Some(10));
    let refused = bench.control.put(put.clone()).await.unwrap_err();
    assert!(refused.to_string().contains("`ttl`"), "{refused}");
    put.allow_weaker = true;
    bench.control.put(put).await.unwrap();
    assert_eq!(bench.at(10_000).await, None);
    assert_eq!(bench.has(Kind::Upstream, "a"), (false, false));
    bench.control.put(upstream_for("b", None)).await.unwrap();
}
