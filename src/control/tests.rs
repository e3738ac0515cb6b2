//! The whole room at work, on the store in memory.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;
use crate::failure::Reason;
use crate::matching::sni::SniPattern;
use crate::net::dial::Forbidden;
use crate::secrets::custody::Kek;
use crate::snapshot::Snapshot;
use crate::snapshot::choose::Chooser;
use crate::store::audit::{CHAIN_LABEL, ChainKey};
use crate::store::memory::Memory;
use crate::store::standin::put_all;
use crate::tls::sample::{self, NOW, Sample};
use crate::tls::select::{Choice, Choose};

mod amends;
mod asks;
mod expiry;
mod groups;
mod strays;
mod strict;
mod taken;

/// Control on a store in memory, with one worker's ends.
struct Bench {
    control: Control,
    store: Arc<Memory>,
    live: Arc<Live>,
    contexts: Arc<Contexts>,
    commands: mpsc::UnboundedReceiver<Command>,
}

fn kek(seed: u8) -> Kek {
    Kek::from_bytes(&[seed; 32]).unwrap()
}

fn chain_key() -> ChainKey {
    ChainKey::new(kek(7).derive_mac_key(CHAIN_LABEL).unwrap())
}

fn clock() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW.unsigned_abs())
}

fn parts(store: &Arc<Memory>, seed: u8, rules: Rules) -> (Parts, mpsc::UnboundedReceiver<Command>) {
    let (worker, commands) = mpsc::unbounded_channel();
    let parts = Parts {
        store: store.clone(),
        custody: Custody::new(&kek(seed)).unwrap(),
        live: Arc::default(),
        contexts: Arc::new(Contexts::new(100)),
        metrics: Arc::new(Metrics::new().unwrap()),
        rules: Rules { clock, ..rules },
        workers: vec![worker],
        desk: None,
    };
    (parts, commands)
}

fn bench_on(store: Arc<Memory>, rules: Rules) -> Bench {
    let (parts, commands) = parts(&store, 7, rules);
    let (live, contexts) = (parts.live.clone(), parts.contexts.clone());
    Bench {
        control: Control::open(parts).unwrap(),
        store,
        live,
        contexts,
        commands,
    }
}

fn bench() -> Bench {
    bench_on(Arc::new(Memory::new(chain_key())), Rules::default())
}

#[tokio::test]
async fn lost_module_stops_accepting_once_and_for_good() {
    let mut bench = bench();
    assert!(bench.control.is_ready() && bench.control.is_operational());
    // In default mode there is nothing to watch, and nothing to lose.
    bench.control.watch_module(Duration::from_secs(1)).await;
    let refusal = bench.control.self_test().await.unwrap_err();
    assert!(matches!(refusal, FipsError::NotStarted));
    assert!(bench.control.is_ready() && bench.commands.try_recv().is_err());
    for _ in 0..2 {
        bench.control.inner.lose_module(&FipsError::ErrorState);
    }
    assert!(!bench.control.is_ready() && !bench.control.is_operational());
    assert!(matches!(bench.commands.try_recv(), Ok(Command::Halt)));
    bench.commands.try_recv().unwrap_err();
}

fn id(text: &str) -> Id {
    text.parse().unwrap()
}

fn object(value: Value) -> Document {
    serde_json::from_value(value).unwrap()
}

fn actor() -> Actor {
    Actor {
        name: "tester".into(),
        request_id: "r1".into(),
        peer: None,
    }
}

fn put_of(kind: Kind, own: &str, body: Value) -> Put {
    Put {
        kind,
        id: id(own),
        document: Opened::new(kind, object(body)),
        flavour: Flavour::Apisix,
        actor: actor(),
        if_match: None,
        allow_weaker: false,
        ttl: None,
    }
}

fn delete_of(kind: Kind, own: &str) -> Delete {
    Delete {
        kind,
        id: id(own),
        actor: actor(),
        force: false,
        cascade: false,
        if_match: None,
        allow_weaker: false,
    }
}

fn ssl_body(sample: &Sample, name: &str) -> Value {
    json!({"cert": sample.cert, "key": sample.key_pem, "sni": name})
}

fn route_body(extra: &Value) -> Value {
    let mut body = json!({"uri": "/a", "upstream": {"nodes": {"127.0.0.1:80": 1}}});
    let members = extra.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(members);
    body
}

/// A text that is nowhere but in this key.
fn canary(sample: &Sample) -> &str {
    sample.key_pem.lines().nth(1).unwrap()
}

impl Bench {
    async fn put(&self, kind: Kind, own: &str, body: Value) -> Result<Written, WriteError> {
        self.control.put(put_of(kind, own, body)).await
    }

    fn choose(&self, name: &str) -> Choice {
        Chooser::new(self.live.clone(), self.contexts.clone(), None).choose(Some(name.as_bytes()))
    }

    /// Stores a document past the room's writes.
    #[track_caller]
    fn store_past(&self, kind: Kind, own: &str, document: Document) {
        put_all(&*self.store, kind, [(id(own), document)]);
    }

    /// All that the store holds, as text.
    fn stored_text(&self) -> String {
        let objects = self.store.load().unwrap().objects;
        let documents: Vec<_> = objects.into_iter().map(|stored| stored.document).collect();
        let records = self.store.audit_from(1, 1000).unwrap();
        format!("{} {records:?}", serde_json::to_string(&documents).unwrap())
    }

    fn audit_is_whole(&self) {
        let head = self.store.audit_verify().unwrap();
        assert_eq!(Revision(head.count), self.store.revision().unwrap());
    }
}

fn reason(error: &WriteError) -> String {
    let WriteError::Invalid(faults) = error else {
        panic!("{error:?}");
    };
    faults.0[0].reason.clone()
}

#[tokio::test]
async fn a_written_name_is_served_and_its_key_seen_nowhere() {
    let bench = bench();
    let leaf = sample::leaf(&sample::ca("ca"), "a.example", &["a.example"]);
    let written = bench
        .put(Kind::Ssl, "1", ssl_body(&leaf, "a.example"))
        .await
        .unwrap();
    assert!(written.created);
    assert_eq!(
        (written.shown.created, written.shown.modified),
        (Revision(1), Revision(1))
    );
    assert!(matches!(bench.choose("A.example"), Choice::Serve(_)));
    assert!(matches!(
        bench.choose("b.example"),
        Choice::Refuse(Reason::SniUnknown)
    ));
    assert_eq!(bench.control.revision(), Revision(1));

    let placeholder = written.shown.document["key"].as_str().unwrap();
    assert!(
        placeholder.starts_with("$withheld:sha256:"),
        "{placeholder}"
    );
    assert_eq!(written.shown.document["id"], "1");
    assert_eq!(written.shown.document["create_time"], NOW);
    let found = bench
        .control
        .find(Kind::Ssl, &id("1"), Show::Omitted)
        .await
        .unwrap()
        .unwrap();
    assert!(!found.document.contains_key("key"));
    let listed = bench
        .control
        .list(Kind::Ssl, Show::Placeholders, Selection::default())
        .await
        .unwrap();
    let seen = format!("{written:?} {found:?} {listed:?} {}", bench.stored_text());
    assert!(!seen.contains(canary(&leaf)));
    assert!(bench.stored_text().contains("pc1:"));
    bench.audit_is_whole();
}

#[tokio::test]
async fn a_refused_write_leaves_no_trace() {
    let bench = bench();
    let ca = sample::ca("ca");
    let (one, two) = (
        sample::leaf(&ca, "a", &["a.example"]),
        sample::leaf(&ca, "b", &[]),
    );
    let body = json!({"cert": one.cert, "key": two.key_pem, "sni": "a.example"});
    let version = bench.live.version();
    let error = bench.put(Kind::Ssl, "1", body).await.unwrap_err();
    assert!(matches!(error, WriteError::Invalid(_)), "{error:?}");
    assert!(!format!("{error:?}").contains(canary(&two)));
    assert_eq!(bench.store.revision().unwrap(), Revision(0));
    assert_eq!(bench.live.version(), version);
    bench
        .put(Kind::Ssl, "1", ssl_body(&one, "a.example"))
        .await
        .unwrap();
    let broken = json!({"cert": "x".repeat(200), "key": one.key_pem, "sni": "a.example"});
    bench.put(Kind::Ssl, "1", broken).await.unwrap_err();
    assert!(
        matches!(bench.choose("a.example"), Choice::Serve(_)),
        "the former one still serves"
    );
}

#[tokio::test]
async fn concurrent_writers_of_one_object_all_get_their_turn() {
    let bench = bench();
    let writes = (0..12).map(|n| {
        let (control, body) = (
            bench.control.clone(),
            route_body(&json!({"desc": n.to_string()})),
        );
        tokio::spawn(async move { control.put(put_of(Kind::Route, "r", body)).await })
    });
    let mut revisions = Vec::new();
    let mut created = 0;
    for write in futures_util::future::join_all(writes).await {
        let written = write.unwrap().unwrap();
        created += u32::from(written.created);
        revisions.push(written.shown.modified.0);
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=12).collect::<Vec<_>>());
    assert_eq!(created, 1);
    bench.audit_is_whole();
    let stored = bench.store.find(Kind::Route, &id("r")).unwrap().unwrap();
    assert_eq!(
        (stored.created, stored.modified),
        (Revision(1), Revision(12))
    );
}

#[tokio::test]
async fn what_is_referred_to_must_be_there_and_stays() {
    let bench = bench();
    let route = json!({"uri": "/a", "upstream_id": "u", "service_id": "s"});
    let error = bench
        .put(Kind::Route, "1", route.clone())
        .await
        .unwrap_err();
    let text = "failed to fetch upstream info by upstream id [u], response code: 404";
    assert_eq!(reason(&error), text);
    bench
        .put(Kind::Upstream, "u", json!({"nodes": {"127.0.0.1:80": 1}}))
        .await
        .unwrap();
    let error = bench
        .put(Kind::Route, "1", route.clone())
        .await
        .unwrap_err();
    let text = "failed to fetch service info by service id [s], response code: 404";
    assert_eq!(reason(&error), text);
    bench
        .put(Kind::Service, "s", json!({"upstream_id": "u"}))
        .await
        .unwrap();
    bench.put(Kind::Route, "1", route).await.unwrap();

    for (kind, own, text) in [
        (
            Kind::Upstream,
            "u",
            "can not delete this upstream, route [1] is still using it now",
        ),
        (
            Kind::Service,
            "s",
            "can not delete this service directly, route [1] is still using it now",
        ),
    ] {
        let refused = bench.control.delete(delete_of(kind, own)).await;
        let error = refused.unwrap_err();
        assert!(matches!(error, WriteError::StillUsed { .. }));
        assert_eq!(error.to_string(), text);
    }
    let mut cascade = delete_of(Kind::Service, "s");
    cascade.cascade = true;
    let deleted = bench.control.delete(cascade.clone()).await.unwrap();
    assert_eq!(deleted.cascaded, [(Kind::Route, id("1"))]);
    assert!(bench.live.load().routes.is_empty());
    assert!(matches!(
        bench.control.delete(cascade).await,
        Err(WriteError::NotFound)
    ));
    bench
        .control
        .delete(delete_of(Kind::Upstream, "u"))
        .await
        .unwrap();
    assert!(bench.store.load().unwrap().objects.is_empty());
    bench.audit_is_whole();
}

#[tokio::test]
async fn a_forced_delete_leaves_its_users_matching() {
    let bench = bench();
    bench.put(Kind::Service, "s", json!({})).await.unwrap();
    let route = json!({"uri": "/a", "service_id": "s"});
    bench.put(Kind::Route, "1", route).await.unwrap();
    let mut delete = delete_of(Kind::Service, "s");
    delete.force = true;
    assert!(
        bench
            .control
            .delete(delete)
            .await
            .unwrap()
            .cascaded
            .is_empty()
    );
    assert!(
        bench
            .live
            .load()
            .routes
            .find("a.com", b"/a", |_| true)
            .is_some()
    );
}

#[tokio::test]
async fn upstreams_borrow_the_certificate_of_a_client_ssl() {
    let bench = bench();
    let ca = sample::ca("ca");
    let upstream = json!({"scheme": "https", "nodes": {"127.0.0.1:443": 1},
                          "tls": {"client_cert_id": "c"}});
    let error = bench
        .put(Kind::Upstream, "u", upstream.clone())
        .await
        .unwrap_err();
    assert_eq!(
        reason(&error),
        "failed to fetch ssl info by ssl id [c], response code: 404"
    );
    let lend =
        |sample: &Sample| json!({"type": "client", "cert": sample.cert, "key": sample.key_pem});
    let server = sample::leaf(&ca, "a", &["a.example"]);
    bench
        .put(Kind::Ssl, "c", ssl_body(&server, "a.example"))
        .await
        .unwrap();
    let error = bench
        .put(Kind::Upstream, "u", upstream.clone())
        .await
        .unwrap_err();
    assert_eq!(
        reason(&error),
        "failed to fetch ssl info by ssl id [c], wrong ssl type"
    );
    bench
        .control
        .delete(delete_of(Kind::Ssl, "c"))
        .await
        .unwrap();
    bench
        .put(Kind::Ssl, "c", lend(&sample::leaf(&ca, "one", &[])))
        .await
        .unwrap();
    bench.put(Kind::Upstream, "u", upstream).await.unwrap();

    let print = || {
        let snapshot = bench.live.load();
        let upstream = &snapshot.upstreams[&id("u")];
        (
            upstream.trust.as_ref().unwrap().fingerprint,
            upstream.closed,
        )
    };
    let (first, closed) = print();
    assert_eq!(closed, None);
    assert!(
        bench
            .contexts
            .upstream(&first)
            .is_some_and(|made| made.has_identity)
    );
    bench
        .put(Kind::Ssl, "c", lend(&sample::leaf(&ca, "two", &[])))
        .await
        .unwrap();
    assert_ne!(print().0, first);
    bench
        .control
        .delete(delete_of(Kind::Ssl, "c"))
        .await
        .unwrap();
    assert_eq!(print().1, Some(Reason::UpstreamNotReady));
}

#[tokio::test]
async fn an_unresolved_secret_is_accepted_and_closes_the_name() {
    let bench = bench();
    let wide = sample::leaf(&sample::ca("ca"), "w", &["*.example"]);
    bench
        .put(Kind::Ssl, "wide", ssl_body(&wide, "*.example"))
        .await
        .unwrap();
    let body = json!({"cert": "$secret://vault/1/p/cert", "key": "$secret://vault/1/p/key",
                      "sni": "a.example"});
    let written = bench.put(Kind::Ssl, "1", body).await.unwrap();
    assert!(
        written
            .warnings
            .iter()
            .any(|warning| warning.code == "secret_unresolved")
    );
    assert!(matches!(
        bench.choose("a.example"),
        Choice::Refuse(Reason::NameClosed)
    ));
    assert!(matches!(bench.choose("b.example"), Choice::Serve(_)));
    let snapshot = bench.live.load();
    let name = snapshot.names.find("a.example").unwrap();
    assert_eq!(name.serving.err(), Some(Reason::SecretUnresolved));
}

#[tokio::test]
async fn a_document_read_and_written_back_keeps_its_key() {
    let bench = bench();
    let leaf = sample::leaf(&sample::ca("ca"), "a", &["a.example"]);
    let first = bench
        .put(Kind::Ssl, "1", ssl_body(&leaf, "a.example"))
        .await
        .unwrap();
    let mut again = first.shown.document;
    for member in ["create_time", "update_time"] {
        again.shift_remove(member);
    }
    again.insert("snis".into(), json!(["a.example", "c.example"]));
    again.shift_remove("sni");
    let second = bench
        .put(Kind::Ssl, "1", Value::Object(again))
        .await
        .unwrap();
    assert!(!second.created);
    assert_eq!(second.shown.created, Revision(1));
    assert!(matches!(bench.choose("c.example"), Choice::Serve(_)));
    let record = bench.store.audit_tail(1).unwrap().remove(0);
    assert!(
        record.changed.contains(&"/snis".to_owned()),
        "{:?}",
        record.changed
    );
    assert!(
        !record
            .changed
            .iter()
            .any(|path| path == "/key" || path == "/update_time")
    );
}

#[tokio::test]
async fn a_restart_brings_back_what_was_served() {
    let before = bench();
    let ca = sample::ca("ca");
    let leaf = sample::leaf(&ca, "a", &["a.example"]);
    let mut body = ssl_body(&leaf, "a.example");
    body["client"] = json!({"ca": ca.cert, "depth": 2});
    before.put(Kind::Ssl, "1", body).await.unwrap();
    before
        .put(Kind::Service, "s", json!({"hosts": ["a.example"]}))
        .await
        .unwrap();
    before
        .put(Kind::Route, "r", route_body(&json!({"service_id": "s"})))
        .await
        .unwrap();
    let after = bench_on(before.store.clone(), Rules::default());
    assert!(after.control.is_ready());
    let (old, new) = (before.live.load(), after.live.load());
    assert_eq!(old.revision, new.revision);
    let name = |snapshot: &Snapshot| {
        let name = snapshot.names.find("a.example").unwrap().clone();
        (
            name.policy.digest,
            name.serving.unwrap().context,
            name.revision,
        )
    };
    assert_eq!(name(&old), name(&new));
    let route =
        |snapshot: &Snapshot| format!("{:?}", snapshot.routes.find("a.example", b"/a", |_| true));
    assert_eq!(route(&old), route(&new));
    assert!(route(&new).contains("Some"));
    // Nothing is built at the start: the first handshake asks for it.
    assert!(matches!(after.choose("a.example"), Choice::Wait { .. }));
}

#[tokio::test]
async fn a_stored_document_that_cannot_be_read_closes_its_names() {
    let bench = bench();
    let leaf = sample::leaf(&sample::ca("ca"), "a", &["*.example"]);
    bench
        .put(Kind::Ssl, "wide", ssl_body(&leaf, "*.example"))
        .await
        .unwrap();
    let broken = object(json!({"snis": ["a.example"], "cert": 7}));
    bench.store_past(Kind::Ssl, "broken", broken);
    let after = bench_on(bench.store.clone(), Rules::default());
    assert!(matches!(
        after.choose("a.example"),
        Choice::Refuse(Reason::NameClosed)
    ));
    assert!(matches!(after.choose("b.example"), Choice::Wait { .. }));

    let (parts, _commands) = parts(&bench.store, 7, Rules::default());
    let findings = check(parts).unwrap();
    assert!(
        findings
            .iter()
            .any(|finding| finding.is_error && finding.id == id("broken"))
    );
    assert!(
        !findings
            .iter()
            .any(|finding| finding.is_error && finding.id == id("wide"))
    );
}

#[tokio::test]
async fn another_key_encryption_key_stops_the_start() {
    let bench = bench();
    let leaf = sample::leaf(&sample::ca("ca"), "a", &["a.example"]);
    bench
        .put(Kind::Ssl, "1", ssl_body(&leaf, "a.example"))
        .await
        .unwrap();
    let (other, _commands) = parts(&bench.store, 8, Rules::default());
    assert!(matches!(Control::open(other), Err(StartError::Key(_))));
    let (own, _commands) = parts(&bench.store, 7, Rules::default());
    assert!(Control::open(own).is_ok());
}

#[tokio::test]
async fn workers_judge_when_a_policy_changes_and_close_when_a_name_goes() {
    let mut bench = bench();
    let ca = sample::ca("ca");
    let body = |policy: Option<u32>| {
        let mut body = ssl_body(&sample::leaf(&ca, "a", &["*.example"]), "*.example");
        if let Some(depth) = policy {
            body["client"] = json!({"ca": ca.cert, "depth": depth});
        }
        body
    };
    bench.put(Kind::Ssl, "1", body(Some(1))).await.unwrap();
    bench.put(Kind::Ssl, "1", body(Some(1))).await.unwrap();
    assert!(
        bench.commands.try_recv().is_err(),
        "a new certificate changes no policy"
    );
    bench.put(Kind::Ssl, "1", body(Some(2))).await.unwrap();
    let Ok(Command::Judge(ids)) = bench.commands.try_recv() else {
        panic!("no command")
    };
    assert_eq!(*ids, [id("1")]);
    let exact = ssl_body(&sample::leaf(&ca, "x", &["x.example"]), "x.example");
    bench.put(Kind::Ssl, "2", exact).await.unwrap();
    let Ok(Command::Judge(ids)) = bench.commands.try_recv() else {
        panic!("no command")
    };
    assert_eq!(*ids, [id("1")], "who served the name before");
    bench
        .control
        .delete(delete_of(Kind::Ssl, "1"))
        .await
        .unwrap();
    let Ok(Command::Close(closed)) = bench.commands.try_recv() else {
        panic!("no command")
    };
    assert_eq!(closed, id("1"));
}

#[tokio::test]
async fn weakening_is_told_recorded_and_refused_where_that_is_asked_for() {
    let ca = sample::ca("ca");
    let leaf = sample::leaf(&ca, "a", &["a.example"]);
    let mut strict = ssl_body(&leaf, "a.example");
    strict["client"] = json!({"ca": ca.cert});
    let weak = ssl_body(&leaf, "a.example");

    let open = bench();
    open.put(Kind::Ssl, "1", strict.clone()).await.unwrap();
    let written = open.put(Kind::Ssl, "1", weak.clone()).await.unwrap();
    assert_eq!(
        written
            .warnings
            .iter()
            .filter(|w| w.pointer == "/client")
            .count(),
        1
    );
    assert_eq!(open.store.audit_tail(1).unwrap()[0].weakens.len(), 1);

    let rules = Rules {
        refuse_weakening: true,
        ..Rules::default()
    };
    let closed = bench_on(Arc::new(Memory::new(chain_key())), rules);
    closed.put(Kind::Ssl, "1", strict).await.unwrap();
    let mut put = put_of(Kind::Ssl, "1", weak);
    assert!(matches!(
        closed.control.put(put.clone()).await,
        Err(WriteError::Weaker(_))
    ));
    let delete = closed.control.delete(delete_of(Kind::Ssl, "1")).await;
    assert!(matches!(delete, Err(WriteError::Weaker(_))));
    put.allow_weaker = true;
    closed.control.put(put).await.unwrap();
}

#[tokio::test]
async fn an_object_that_was_changed_since_fails_its_precondition() {
    let bench = bench();
    bench
        .put(Kind::Route, "r", route_body(&json!({})))
        .await
        .unwrap();
    let mut put = put_of(Kind::Route, "r", route_body(&json!({"desc": "x"})));
    put.if_match = Some(Revision(7));
    let refused = bench.control.put(put.clone()).await;
    assert!(matches!(refused, Err(WriteError::PreconditionFailed)));
    put.if_match = Some(Revision(1));
    bench.control.put(put).await.unwrap();
    let mut delete = delete_of(Kind::Route, "r");
    delete.if_match = Some(Revision(1));
    let refused = bench.control.delete(delete.clone()).await;
    assert!(matches!(refused, Err(WriteError::PreconditionFailed)));
    delete.if_match = Some(Revision(2));
    bench.control.delete(delete).await.unwrap();
}

#[tokio::test]
async fn validating_stores_nothing_and_finds_what_a_write_would() {
    let bench = bench();
    let body = json!({"uri": "/a", "upstream_id": "u"});
    let validate = |body| bench.control.validate(put_of(Kind::Route, "1", body));
    let error = validate(body.clone()).await.unwrap_err();
    assert!(reason(&error).contains("[u]"));
    bench
        .put(Kind::Upstream, "u", json!({"nodes": {"127.0.0.1:80": 1}}))
        .await
        .unwrap();
    assert!(validate(body).await.unwrap().is_empty());
    assert_eq!(bench.store.revision().unwrap(), Revision(1));
}

#[tokio::test]
async fn unverified_upstreams_are_refused_where_that_is_asked_for() {
    let rules = Rules {
        require_upstream_verify: true,
        ..Rules::default()
    };
    let bench = bench_on(Arc::new(Memory::new(chain_key())), rules);
    let mut upstream = json!({"scheme": "https", "nodes": {"127.0.0.1:443": 1}});
    bench
        .put(Kind::Upstream, "u", upstream.clone())
        .await
        .unwrap_err();
    upstream["tls"] = json!({"verify": true, "ca_certs": [sample::ca("ca").cert]});
    bench.put(Kind::Upstream, "u", upstream).await.unwrap();
}

#[tokio::test]
async fn a_node_that_is_our_own_is_refused_and_a_stored_one_told() {
    let bench = bench();
    let upstream = |port: u16| json!({"nodes": {format!("127.0.0.1:{port}"): 1}});
    for (own, port) in [("admin", 9180), ("other", 9181)] {
        let put = bench.put(Kind::Upstream, own, upstream(port));
        put.await.unwrap();
    }
    // From the next start on, the gateway listens there.
    let own = Arc::new(Forbidden::new(["127.0.0.1:9180".parse().unwrap()]));
    let rules = Rules {
        own,
        ..Rules::default()
    };
    let bench = bench_on(bench.store.clone(), rules.clone());
    let put = bench.put(Kind::Upstream, "admin", upstream(9180));
    assert!(reason(&put.await.unwrap_err()).contains("127.0.0.1:9180 is an admin"));
    let put = bench.put(Kind::Upstream, "other", upstream(9181));
    put.await.unwrap();
    let (parts, _commands) = parts(&bench.store, 7, rules);
    let findings = check(parts).unwrap().into_iter();
    let errors = findings.filter(|finding| finding.is_error);
    let errors: Vec<_> = errors.map(|it| (it.id, it.pointer)).collect();
    assert_eq!(errors, [(id("admin"), "/nodes".to_owned())]);
}

#[tokio::test]
async fn of_two_ssls_with_one_name_the_older_serves_and_the_writer_is_told() {
    let bench = bench();
    let ca = sample::ca("ca");
    for (own, warned) in [("1", false), ("2", true)] {
        let leaf = sample::leaf(&ca, own, &["a.example"]);
        let written = bench
            .put(Kind::Ssl, own, ssl_body(&leaf, "a.example"))
            .await
            .unwrap();
        assert_eq!(
            written.warnings.iter().any(|w| w.code == "name_taken"),
            warned
        );
    }
    let snapshot = bench.live.load();
    let pattern = SniPattern::parse("a.example").unwrap();
    assert_eq!(snapshot.names.get(&pattern).unwrap().ssl_id, id("1"));
}
