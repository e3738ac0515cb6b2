//! Contexts and connectors that workers ask for.

use tokio::sync::oneshot;

use super::*;
use crate::snapshot::Owner;
use crate::tls::material::Digest;

fn owner(own: &str) -> Owner {
    Owner {
        kind: Kind::Upstream,
        id: id(own),
    }
}

fn fingerprint(bench: &Bench, own: &str) -> Digest {
    let snapshot = bench.live.load();
    let trust = snapshot.upstreams[&id(own)].trust.as_ref();
    trust.unwrap().fingerprint
}

#[tokio::test]
async fn a_connector_of_another_trust_is_never_the_answer() {
    let first = bench();
    let ca = sample::ca("ca");
    let upstream =
        |tls: Value| json!({"scheme": "https", "nodes": {"127.0.0.1:443": 1}, "tls": tls});
    let strict = upstream(json!({"verify": true, "ca_certs": [ca.cert]}));
    for own in ["a", "b"] {
        first
            .put(Kind::Upstream, own, strict.clone())
            .await
            .unwrap();
    }
    let wanted = fingerprint(&first, "a");
    assert_eq!(wanted, fingerprint(&first, "b"));
    first
        .put(Kind::Upstream, "a", upstream(json!({"verify": false})))
        .await
        .unwrap();
    // A cold cache, and workers of which one still has the snapshot before.
    let bench = bench_on(first.store.clone(), Rules::default());
    let (asks, received) = mpsc::channel(8);
    let mut waiting = Vec::new();
    for own in ["a", "b", "a"] {
        let (reply, answer) = oneshot::channel();
        let ask = Ask::Upstream {
            key: wanted,
            owner: owner(own),
            reply,
        };
        asks.send(ask).await.unwrap();
        waiting.push((own, answer));
    }
    drop(asks);
    bench.control.serve_asks(received).await;
    for (own, answer) in waiting {
        match (own, answer.await.unwrap()) {
            ("a", Err(Reason::UpstreamNotReady)) => {}
            // Whoever came late finds what `b` has brought into the cache.
            (_, Ok(connector)) => assert_eq!(connector.fingerprint, wanted, "{own}"),
            (own, answer) => panic!("{own}: {answer:?}"),
        }
    }
    assert_eq!(
        bench.contexts.upstream(&wanted).unwrap().fingerprint,
        wanted
    );
}

#[tokio::test]
async fn who_asks_too_late_is_told_so_once_the_successor_is_published() {
    let bench = bench();
    let ca = sample::ca("ca");
    let upstream =
        |tls: Value| json!({"scheme": "https", "nodes": {"127.0.0.1:443": 1}, "tls": tls});
    let strict = upstream(json!({"verify": true, "ca_certs": [ca.cert]}));
    bench.put(Kind::Upstream, "u", strict).await.unwrap();
    let late = fingerprint(&bench, "u");
    let lax = upstream(json!({"verify": false}));
    bench.put(Kind::Upstream, "u", lax).await.unwrap();
    bench.contexts.forget(&late);
    // As if the writer had stored the change and not published it yet.
    let writer = bench.control.inner.writer.clone().lock_owned().await;
    let (asks, received) = mpsc::channel(8);
    let control = bench.control.clone();
    let serving = tokio::spawn(async move { control.serve_asks(received).await });
    let ask = |key: Digest| {
        let (reply, answer) = oneshot::channel();
        let owner = owner("u");
        let ask = Ask::Upstream { key, owner, reply };
        asks.try_send(ask).unwrap();
        answer
    };
    let current = fingerprint(&bench, "u");
    let answer = ask(current).await.unwrap().unwrap();
    assert_eq!(
        answer.fingerprint, current,
        "whoever is not late waits for nobody"
    );
    let mut answer = ask(late);
    let early = tokio::time::timeout(Duration::from_millis(200), &mut answer).await;
    assert!(early.is_err(), "{early:?}");
    drop(writer);
    assert_eq!(answer.await.unwrap().unwrap_err(), Reason::UpstreamNotReady);
    drop(asks);
    serving.await.unwrap();
}

#[tokio::test]
async fn asks_are_built_from_the_store() {
    let first = bench();
    let leaf = sample::leaf(&sample::ca("ca"), "a", &["a.example"]);
    first
        .put(Kind::Ssl, "1", ssl_body(&leaf, "a.example"))
        .await
        .unwrap();
    let upstream = json!({"scheme": "https", "nodes": {"127.0.0.1:443": 1}});
    first.put(Kind::Upstream, "u", upstream).await.unwrap();
    let bench = bench_on(first.store.clone(), Rules::default());
    let (asks, received) = mpsc::channel(8);
    let control = bench.control.clone();
    let serving = tokio::spawn(async move { control.serve_asks(received).await });

    let Choice::Wait { key, .. } = bench.choose("a.example") else {
        panic!("in the cache")
    };
    let mut waiting = Vec::new();
    for ssl in ["1", "1"] {
        let (reply, answer) = oneshot::channel();
        asks.send(Ask::Server {
            key,
            ssl: id(ssl),
            reply,
        })
        .await
        .unwrap();
        waiting.push(answer);
    }
    for answer in waiting {
        assert_eq!(answer.await.unwrap().unwrap().key, key);
    }
    assert!(matches!(bench.choose("a.example"), Choice::Serve(_)));

    let (reply, answer) = oneshot::channel();
    asks.send(Ask::Server {
        key: [9; 32],
        ssl: id("gone"),
        reply,
    })
    .await
    .unwrap();
    assert_eq!(
        answer.await.unwrap().unwrap_err(),
        Reason::ContextUnavailable
    );

    let owner = Owner {
        kind: Kind::Upstream,
        id: id("u"),
    };
    let key = bench.live.load().upstreams[&id("u")]
        .trust
        .as_ref()
        .unwrap()
        .fingerprint;
    let (reply, answer) = oneshot::channel();
    asks.send(Ask::Upstream { key, owner, reply })
        .await
        .unwrap();
    assert_eq!(answer.await.unwrap().unwrap().fingerprint, key);
    drop(asks);
    serving.await.unwrap();
}

#[tokio::test]
async fn keys_that_nothing_uses_any_more_leave_the_cache() {
    let bench = bench();
    let ca = sample::ca("ca");
    let name = |text: &str| sample::leaf(&ca, text, &["a.example"]);
    let context = || {
        let snapshot = bench.live.load();
        snapshot
            .names
            .find("a.example")
            .unwrap()
            .serving
            .unwrap()
            .context
    };
    let lend =
        |sample: &Sample| json!({"type": "client", "cert": sample.cert, "key": sample.key_pem});
    let (one, two) = (name("one"), name("two"));
    let upstream = |identity: Value| json!({"scheme": "https", "nodes": {"127.0.0.1:443": 1}, "tls": identity});
    let inline = upstream(json!({"client_cert": one.cert, "client_key": one.key_pem}));
    bench
        .put(Kind::Ssl, "1", ssl_body(&one, "a.example"))
        .await
        .unwrap();
    bench.put(Kind::Ssl, "c", lend(&one)).await.unwrap();
    let borrowed = upstream(json!({"client_cert_id": "c"}));
    bench.put(Kind::Upstream, "u", borrowed).await.unwrap();
    bench
        .put(Kind::Upstream, "v", inline.clone())
        .await
        .unwrap();
    let old = (context(), fingerprint(&bench, "u"));
    assert_eq!(old.1, fingerprint(&bench, "v"));

    bench
        .put(Kind::Ssl, "1", ssl_body(&two, "a.example"))
        .await
        .unwrap();
    bench.put(Kind::Ssl, "c", lend(&two)).await.unwrap();
    let inner = &bench.control.inner;
    let later = || std::time::Instant::now() + Duration::from_secs(600);
    inner.forget_retired(std::time::Instant::now());
    assert!(
        bench.contexts.server(&old.0).is_some(),
        "requests may need it"
    );
    inner.forget_retired(later());
    assert!(bench.contexts.server(&old.0).is_none());
    assert!(bench.contexts.server(&context()).is_some());
    assert!(bench.contexts.upstream(&old.1).is_some(), "v has it still");

    bench
        .control
        .delete(delete_of(Kind::Upstream, "v"))
        .await
        .unwrap();
    inner.forget_retired(later());
    assert!(bench.contexts.upstream(&old.1).is_none());
    assert!(inner.retired.is_empty());
}
