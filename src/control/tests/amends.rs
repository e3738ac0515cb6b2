//! Changes of a part, and objects whose id the store gives.

use super::*;

use crate::resource::patch::Patch;

fn amend_of(kind: Kind, own: &str, patch: Patch) -> Amend {
    Amend {
        kind,
        id: id(own),
        patch,
        flavour: Flavour::Apisix,
        actor: actor(),
        if_match: None,
        allow_weaker: false,
        ttl: None,
    }
}

fn post_of(kind: Kind, body: Value) -> Post {
    Post {
        kind,
        document: Opened::new(kind, object(body)),
        flavour: Flavour::Apisix,
        actor: actor(),
        if_match: None,
        allow_weaker: false,
        ttl: None,
    }
}

impl Bench {
    async fn merge(&self, kind: Kind, own: &str, members: Value) -> Result<Written, WriteError> {
        let patch = Patch::merge(object(members));
        self.control.amend(amend_of(kind, own, patch)).await
    }

    fn stored(&self, kind: Kind, own: &str) -> Document {
        let stored = self.store.find(kind, &id(own)).unwrap().unwrap();
        let opened = self.control.inner.unseal(&stored).unwrap();
        (*opened).clone()
    }
}

#[tokio::test]
async fn of_many_patches_at_once_none_is_lost() {
    let bench = bench();
    bench
        .put(Kind::Route, "r", route_body(&json!({"labels": {}})))
        .await
        .unwrap();
    let patches = (0..12).map(|n| {
        let (control, name) = (bench.control.clone(), format!("l{n}"));
        let patch = Patch::merge(object(json!({"labels": {name: "x"}})));
        tokio::spawn(async move { control.amend(amend_of(Kind::Route, "r", patch)).await })
    });
    for patch in futures_util::future::join_all(patches).await {
        assert!(!patch.unwrap().unwrap().created);
    }
    let stored = bench.stored(Kind::Route, "r");
    assert_eq!(stored["labels"].as_object().unwrap().len(), 12);
    assert_eq!(bench.store.revision().unwrap(), Revision(13));
    bench.audit_is_whole();
}

#[tokio::test]
async fn patch_of_another_revision_or_of_nothing_is_refused() {
    let bench = bench();
    let absent = bench.merge(Kind::Route, "r", json!({"desc": "x"})).await;
    assert!(matches!(absent, Err(WriteError::NotFound)));
    bench
        .put(Kind::Route, "r", route_body(&json!({})))
        .await
        .unwrap();
    let with = |revision| Amend {
        if_match: Some(Revision(revision)),
        ..amend_of(Kind::Route, "r", Patch::merge(object(json!({"desc": "x"}))))
    };
    bench.control.amend(with(1)).await.unwrap();
    let stale = bench.control.amend(with(1)).await;
    assert!(matches!(stale, Err(WriteError::PreconditionFailed)));
}

#[tokio::test]
async fn times_are_kept_unless_the_patch_gives_them() {
    let bench = bench();
    bench
        .put(Kind::Route, "r", route_body(&json!({})))
        .await
        .unwrap();
    for (members, created, updated) in [
        (json!({"create_time": 5, "update_time": 6}), 5, 6),
        (json!({"desc": "x"}), 5, NOW),
        (json!({"update_time": 7}), 5, 7),
        (json!({"create_time": null, "update_time": null}), NOW, NOW),
    ] {
        let written = bench.merge(Kind::Route, "r", members.clone()).await;
        let shown = written.unwrap().shown.document;
        assert_eq!(
            (&shown["create_time"], &shown["update_time"]),
            (&json!(created), &json!(updated)),
            "{members}"
        );
    }
    let refused = bench.merge(Kind::Route, "r", json!({"create_time": "x"}));
    assert_eq!(
        reason(&refused.await.unwrap_err()),
        "property \"create_time\" validation failed: wrong type: expected integer, got string"
    );
}

#[tokio::test]
async fn key_follows_its_certificate_through_patches() {
    let bench = bench();
    let ca = sample::ca("ca");
    let [one, two] = ["a", "b"].map(|name| sample::leaf(&ca, name, &["a.example"]));
    let mut body = ssl_body(&one, "a.example");
    body["client"] = json!({"ca": ca.cert, "depth": 2});
    bench.put(Kind::Ssl, "1", body).await.unwrap();

    let written = bench.merge(Kind::Ssl, "1", json!({"desc": "x"})).await;
    assert!(!format!("{written:?}").contains(canary(&one)));
    assert_eq!(bench.stored(Kind::Ssl, "1")["key"], one.key_pem);

    for (members, text) in [
        (
            json!({"cert": two.cert}),
            "no key stored for this object belongs to the certificate in `/cert`",
        ),
        (
            json!({"key": two.key_pem}),
            "does not belong to the certificate",
        ),
        (json!({"key": null}), "a key is not removed"),
        (json!({"cert": null}), "send `/cert` too"),
        (
            json!({"snis": null, "sni": null}),
            "then clause did not match",
        ),
    ] {
        let error = bench.merge(Kind::Ssl, "1", members).await.unwrap_err();
        let told = reason(&error);
        assert!(told.contains(text), "{told}");
        assert!(!format!("{error:?}").contains(canary(&two)));
    }

    let rotation = json!({"cert": two.cert, "key": two.key_pem, "client": {"ca": ca.cert}});
    bench.merge(Kind::Ssl, "1", rotation).await.unwrap();
    let stored = bench.stored(Kind::Ssl, "1");
    assert_eq!(stored["key"], two.key_pem);
    assert_eq!(
        (&stored["sni"], &stored["client"]["depth"]),
        (&json!("a.example"), &json!(2))
    );
    assert!(!bench.stored_text().contains(canary(&two)));

    // As a put of the same: `client` goes with a warning only.
    let written = bench.merge(Kind::Ssl, "1", json!({"client": null})).await;
    let warnings = written.unwrap().warnings;
    assert!(
        warnings
            .iter()
            .any(|warning| warning.code == "client_removed")
    );
}

#[tokio::test]
async fn pairs_are_removed_by_their_certificates() {
    let bench = bench();
    let ca = sample::ca("ca");
    let [main, one, two] = ["m", "a", "b"].map(|name| sample::leaf(&ca, name, &["a.example"]));
    let mut body = ssl_body(&main, "a.example");
    body["certs"] = json!([one.cert, two.cert]);
    body["keys"] = json!([one.key_pem, two.key_pem]);
    bench.put(Kind::Ssl, "1", body).await.unwrap();
    let only_two = json!({"certs": [two.cert]});
    bench.merge(Kind::Ssl, "1", only_two).await.unwrap();
    assert_eq!(bench.stored(Kind::Ssl, "1")["keys"], json!([two.key_pem]));
    let none = json!({"certs": null, "keys": null});
    bench.merge(Kind::Ssl, "1", none).await.unwrap();
    assert!(!bench.stored(Kind::Ssl, "1").contains_key("keys"));
}

#[tokio::test]
async fn credential_does_not_follow_a_patched_address() {
    let bench = bench();
    let vault = json!({"uri": "https://v", "prefix": "p", "token": "canary-token"});
    bench.put(Kind::Secret, "vault/1", vault).await.unwrap();
    let merge = |members| bench.merge(Kind::Secret, "vault/1", members);
    merge(json!({"prefix": "q"})).await.unwrap();
    assert_eq!(
        bench.stored(Kind::Secret, "vault/1")["token"],
        "canary-token"
    );
    let refused = merge(json!({"uri": "https://evil"})).await.unwrap_err();
    assert!(reason(&refused).contains("`uri` changed"), "{refused:?}");
    merge(json!({"uri": "https://w", "token": "new"}))
        .await
        .unwrap();
    assert_eq!(bench.stored(Kind::Secret, "vault/1")["token"], "new");
}

#[tokio::test]
async fn object_that_does_not_open_is_repaired_by_what_replaces_its_key() {
    let bench = bench();
    let leaf = sample::leaf(&sample::ca("ca"), "a", &["a.example"]);
    let document = object(json!({
        "cert": leaf.cert, "key": "pc1:00000000:AAAA", "sni": "a.example", "create_time": 5,
    }));
    bench.store_past(Kind::Ssl, "1", document);
    let refused = bench.merge(Kind::Ssl, "1", json!({"desc": "x"})).await;
    let told = reason(&refused.unwrap_err());
    assert!(told.contains("names no key stored"), "{told}");
    let key = json!({"key": leaf.key_pem});
    bench.merge(Kind::Ssl, "1", key).await.unwrap();
    assert!(matches!(bench.choose("a.example"), Choice::Serve(_)));
    assert_eq!(bench.stored(Kind::Ssl, "1")["create_time"], 5);
}

#[tokio::test]
async fn what_was_written_in_one_flavour_is_patched_in_the_other() {
    let bench = bench();
    let put = Put {
        flavour: Flavour::Api7,
        ..put_of(Kind::Service, "s", json!({"type": "http", "name": "s"}))
    };
    bench.control.put(put).await.unwrap();
    let written = bench.merge(Kind::Service, "s", json!({"name": "t"})).await;
    assert_eq!(written.unwrap().shown.document["type"], "http");
    // Nobody gets members that way which the flavour does not have.
    bench.put(Kind::Service, "u", json!({})).await.unwrap();
    let refused = bench.merge(Kind::Service, "u", json!({"type": "http"}));
    let text = "additional properties forbidden, found type";
    assert_eq!(reason(&refused.await.unwrap_err()), text);
}

#[tokio::test]
async fn posted_objects_have_the_revision_that_made_them_as_id() {
    let bench = bench();
    let posts = (0..6).map(|_| {
        let control = bench.control.clone();
        let post = post_of(Kind::Route, route_body(&json!({})));
        tokio::spawn(async move { control.post(post).await })
    });
    for post in futures_util::future::join_all(posts).await {
        let written = post.unwrap().unwrap();
        let own = format!("{:020}", written.shown.created.0);
        assert!(written.created);
        assert_eq!(written.shown.id.as_str(), own);
        assert_eq!(written.shown.document["id"], own);
    }
    // Taken by somebody who chose it.
    let taken = format!("{:020}", 8);
    bench
        .put(Kind::Route, &taken, route_body(&json!({})))
        .await
        .unwrap();
    let post = post_of(Kind::Route, route_body(&json!({})));
    let written = bench.control.post(post).await.unwrap();
    assert_eq!(written.shown.id.as_str(), format!("{:020}", 9));

    let broken = post_of(Kind::Route, json!({"uri": 1}));
    bench.control.post(broken).await.unwrap_err();
    let guarded = Post {
        if_match: Some(Revision(8)),
        ..post_of(Kind::Route, route_body(&json!({})))
    };
    let refused = bench.control.post(guarded).await;
    assert!(matches!(refused, Err(WriteError::PreconditionFailed)));
    assert_eq!(bench.store.revision().unwrap(), Revision(8));
    bench.audit_is_whole();
}
