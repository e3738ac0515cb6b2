//! What a change makes less strict, wherever the object is that does it.

use super::*;

/// A bench that refuses weakening.
fn strict() -> Bench {
    let rules = Rules {
        refuse_weakening: true,
        ..Rules::default()
    };
    bench_on(Arc::new(Memory::new(chain_key())), rules)
}

impl Bench {
    /// Puts an object that weakens nothing.
    #[track_caller]
    fn accepts(&self, kind: Kind, own: &str, body: Value) -> impl Future<Output = ()> {
        let control = self.control.clone();
        let put = put_of(kind, own, body);
        async move {
            let written = control.put(put).await.unwrap();
            let told = written.warnings.iter();
            assert_eq!(told.filter(|told| told.code == "weakens").count(), 0);
        }
    }

    /// Puts an object that weakens something: refused, then accepted with the word for it.
    async fn refuses(&self, kind: Kind, own: &str, body: Value) -> String {
        let mut put = put_of(kind, own, body);
        let Err(WriteError::Weaker(phrases)) = self.control.put(put.clone()).await else {
            panic!("{kind} {own} was not refused");
        };
        put.allow_weaker = true;
        self.control.put(put).await.unwrap();
        let recorded = self.store.audit_tail(1).unwrap().remove(0).weakens;
        assert_eq!(recorded, phrases);
        phrases.join("; ")
    }

    async fn refuses_delete(&self, delete: Delete) -> String {
        let mut delete = delete;
        let Err(WriteError::Weaker(phrases)) = self.control.delete(delete.clone()).await else {
            panic!("the delete was not refused");
        };
        delete.allow_weaker = true;
        self.control.delete(delete).await.unwrap();
        phrases.join("; ")
    }
}

struct Names {
    ca: Sample,
    leaf: Sample,
}

impl Names {
    fn new() -> Self {
        let ca = sample::ca("ca");
        let leaf = sample::leaf(&ca, "a", &["*.a.example", "a.example"]);
        Self { ca, leaf }
    }

    /// Asks for certificates of our CA.
    fn asking(&self, name: &str) -> Value {
        let mut body = ssl_body(&self.leaf, name);
        body["client"] = json!({"ca": self.ca.cert});
        body
    }

    fn open(&self, name: &str) -> Value {
        ssl_body(&self.leaf, name)
    }
}

#[tokio::test]
async fn a_new_name_under_a_strict_wildcard_weakens() {
    let (bench, names) = (strict(), Names::new());
    let wide = names.asking("*.a.example");
    bench.accepts(Kind::Ssl, "wide", wide).await;
    let told = bench
        .refuses(Kind::Ssl, "x", names.open("x.a.example"))
        .await;
    assert!(told.contains("x.a.example"), "{told}");
    bench
        .accepts(Kind::Ssl, "y", names.asking("y.a.example"))
        .await;
    bench
        .accepts(Kind::Ssl, "z", names.open("z.b.example"))
        .await;
    let other = sample::ca("other");
    let mut further = names.asking("w.a.example");
    further["client"] = json!({"ca": format!("{}{}", names.ca.cert, other.cert)});
    bench.refuses(Kind::Ssl, "w", further).await;
}

#[tokio::test]
async fn a_name_given_up_to_a_weaker_one_weakens() {
    let (bench, names) = (strict(), Names::new());
    bench
        .accepts(Kind::Ssl, "any", names.open("*.a.example"))
        .await;
    let closed = json!({"cert": "$secret://vault/1/p/cert", "key": "$secret://vault/1/p/key",
                        "sni": "x.a.example"});
    bench.accepts(Kind::Ssl, "x", closed.clone()).await;
    let told = bench.refuses_delete(delete_of(Kind::Ssl, "x")).await;
    assert!(told.contains("x.a.example"), "{told}");
    bench.accepts(Kind::Ssl, "x", closed).await;
    bench
        .refuses(Kind::Ssl, "x", names.open("z.b.example"))
        .await;
    // A closed name that is served again as it was meant to be gets no weaker.
    let mut unresolved = names.asking("v.a.example");
    unresolved["cert"] = json!("$secret://vault/1/p/cert");
    unresolved["key"] = json!("$secret://vault/1/p/key");
    bench.accepts(Kind::Ssl, "v", unresolved).await;
    bench
        .accepts(Kind::Ssl, "v", names.asking("v.a.example"))
        .await;
    bench
        .refuses(Kind::Ssl, "v", names.open("v.a.example"))
        .await;
}

#[tokio::test]
async fn an_older_version_of_tls_weakens_without_client_too() {
    let (bench, names) = (strict(), Names::new());
    let mut new = names.open("a.example");
    new["ssl_protocols"] = json!(["TLSv1.3"]);
    bench.accepts(Kind::Ssl, "1", new).await;
    bench.refuses(Kind::Ssl, "1", names.open("a.example")).await;
}

#[tokio::test]
async fn an_upstream_exchanged_for_a_less_checked_one_weakens() {
    let (bench, ca) = (strict(), sample::ca("ca"));
    let https = |tls: Value| json!({"scheme": "https", "pass_host": "node", "nodes": {"127.0.0.1:443": 1}, "tls": tls});
    let checked = https(json!({"verify": true, "ca_certs": [ca.cert]}));
    let both = https(json!({"verify": true, "ca_certs": [ca.cert, sample::ca("other").cert]}));
    let plain = json!({"nodes": {"127.0.0.1:80": 1}});
    for (own, body) in [
        ("checked", &checked),
        ("same", &checked),
        ("both", &both),
        ("lax", &https(json!({"verify": false}))),
        ("plain", &plain),
    ] {
        bench.accepts(Kind::Upstream, own, body.clone()).await;
    }
    let strict_service = json!({"upstream_id": "checked"});
    for weaker in [
        json!({"upstream_id": "lax"}),
        json!({"upstream_id": "plain"}),
        json!({"upstream_id": "both"}),
        json!({"upstream": plain}),
    ] {
        bench
            .accepts(Kind::Service, "s", strict_service.clone())
            .await;
        bench.refuses(Kind::Service, "s", weaker.clone()).await;
        let mut route = json!({"uri": "/a"});
        let merged = route.as_object_mut().unwrap();
        merged.extend(strict_service.as_object().unwrap().clone());
        bench.accepts(Kind::Route, "r", route).await;
        let mut route = json!({"uri": "/a"});
        let merged = route.as_object_mut().unwrap();
        merged.extend(weaker.as_object().unwrap().clone());
        bench.refuses(Kind::Route, "r", route).await;
    }
    bench.accepts(Kind::Service, "s", strict_service).await;
    bench
        .accepts(Kind::Service, "s", json!({"upstream_id": "same"}))
        .await;
    // A route that has its upstream from another service now.
    bench
        .accepts(Kind::Service, "lax", json!({"upstream_id": "lax"}))
        .await;
    let via = |service: &str| json!({"uri": "/b", "service_id": service});
    bench.accepts(Kind::Route, "via", via("s")).await;
    bench.refuses(Kind::Route, "via", via("lax")).await;
}

#[tokio::test]
async fn what_a_route_accepts_is_compared_switched_off_or_not() {
    let bench = strict();
    let put = |extra: Value| route_body(&extra);
    for (narrow, wide) in [
        (
            json!({"hosts": ["a.com"]}),
            json!({"hosts": ["a.com", "b.com"]}),
        ),
        (json!({"methods": ["GET"]}), json!({})),
        (
            json!({"methods": ["GET"]}),
            json!({"methods": ["GET", "POST"]}),
        ),
        (json!({"remote_addr": "10.0.0.0/8"}), json!({})),
    ] {
        let off = |body: &Value| {
            let mut body = put(body.clone());
            body["status"] = json!(0);
            body
        };
        bench.accepts(Kind::Route, "r", put(narrow.clone())).await;
        bench.accepts(Kind::Route, "r", off(&narrow)).await;
        bench.refuses(Kind::Route, "r", off(&wide)).await;
        bench.accepts(Kind::Route, "r", put(wide.clone())).await;
        bench.accepts(Kind::Route, "r", put(narrow.clone())).await;
        bench.refuses(Kind::Route, "r", put(wide)).await;
        bench
            .control
            .delete(delete_of(Kind::Route, "r"))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn hosts_that_come_from_another_service_are_compared() {
    let bench = strict();
    for (own, host) in [("a", "a.com"), ("b", "b.com")] {
        let service = json!({"hosts": [host], "upstream": {"nodes": {"127.0.0.1:80": 1}}});
        bench.accepts(Kind::Service, own, service).await;
    }
    let route = |service: &str| json!({"uri": "/a", "service_id": service});
    bench.accepts(Kind::Route, "r", route("a")).await;
    let told = bench.refuses(Kind::Route, "r", route("b")).await;
    assert!(told.contains("hosts"), "{told}");
}

#[tokio::test]
async fn a_service_taken_away_closes_and_its_return_is_told() {
    let bench = strict();
    let service = json!({"hosts": ["a.com"], "upstream": {"nodes": {"127.0.0.1:80": 1}}});
    bench.accepts(Kind::Service, "s", service.clone()).await;
    let route = json!({"uri": "/a", "service_id": "s", "upstream": {"nodes": {"127.0.0.1:80": 1}}});
    bench.accepts(Kind::Route, "r", route).await;
    let mut delete = delete_of(Kind::Service, "s");
    delete.force = true;
    bench.control.delete(delete).await.unwrap();
    let snapshot = bench.live.load();
    for host in ["a.com", "b.com"] {
        let found = snapshot.routes.find(host, b"/a", |_| true).unwrap();
        assert_eq!(found.closed, Some(Reason::ServiceMissing), "{host}");
    }
    bench.refuses(Kind::Service, "s", service).await;
    let snapshot = bench.live.load();
    let found = snapshot.routes.find("a.com", b"/a", |_| true).unwrap();
    assert_eq!(found.closed, None);
    assert!(snapshot.routes.find("b.com", b"/a", |_| true).is_none());
}

#[tokio::test]
async fn validating_refuses_and_warns_as_a_write_would() {
    let (bench, names) = (strict(), Names::new());
    bench
        .accepts(Kind::Ssl, "1", names.asking("a.example"))
        .await;
    let mut put = put_of(Kind::Ssl, "1", names.open("a.example"));
    let refused = bench.control.validate(put.clone()).await;
    assert!(matches!(refused, Err(WriteError::Weaker(_))), "{refused:?}");
    put.allow_weaker = true;
    bench.control.validate(put).await.unwrap();
    let second = put_of(Kind::Ssl, "2", names.asking("a.example"));
    let warnings = bench.control.validate(second).await.unwrap();
    assert!(warnings.iter().any(|told| told.code == "name_taken"));
    assert_eq!(bench.store.revision().unwrap(), Revision(1));
}

#[tokio::test]
async fn a_closed_route_given_up_to_an_open_one_weakens() {
    let bench = strict();
    let upstream = json!({"nodes": {"127.0.0.1:80": 1}});
    bench
        .accepts(Kind::Service, "s", json!({"upstream": upstream}))
        .await;
    let route = json!({"uri": "/a", "service_id": "s"});
    bench.accepts(Kind::Route, "r", route).await;
    let wide = json!({"uri": "/*", "upstream": upstream});
    bench.accepts(Kind::Route, "wide", wide).await;
    let mut delete = delete_of(Kind::Service, "s");
    delete.force = true;
    bench.control.delete(delete).await.unwrap();
    // Closed since then: without it the wider route answers.
    let told = bench.refuses_delete(delete_of(Kind::Route, "r")).await;
    assert!(told.contains("route wide answers now"), "{told}");
}
