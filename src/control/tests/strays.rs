//! Keys where no key belongs.

use super::*;
use crate::store::Filter;

/// Every way to put a key beside a certificate, with the member it is in.
fn doubled(sample: &Sample) -> [(&'static str, String); 3] {
    let (cert, key) = (&sample.cert, &sample.key_pem);
    [
        ("cert first", format!("{cert}{key}")),
        ("key first", format!("{key}{cert}")),
        ("indented", format!("{cert}text\n  {key}")),
    ]
}

#[tokio::test]
async fn a_key_beside_a_certificate_is_refused_and_seen_nowhere() {
    let bench = bench();
    let ca = sample::ca("ca");
    let (leaf, us) = (
        sample::leaf(&ca, "a", &["a.example"]),
        sample::leaf(&ca, "us", &[]),
    );
    let upstream =
        |tls: Value| json!({"scheme": "https", "nodes": {"127.0.0.1:443": 1}, "tls": tls});
    let mut cases = Vec::new();
    for (_, text) in doubled(&leaf) {
        let mut body = ssl_body(&leaf, "a.example");
        body["cert"] = json!(text);
        cases.push((Kind::Ssl, body, "`cert`"));
        let mut body = ssl_body(&leaf, "a.example");
        body["certs"] = json!([text]);
        body["keys"] = json!([leaf.key_pem]);
        cases.push((Kind::Ssl, body, "`certs.0`"));
        let mut body = ssl_body(&leaf, "a.example");
        body["desc"] = json!(leaf.key_pem.lines().take(3).collect::<String>());
        cases.push((Kind::Ssl, body, "`desc`"));
        let tls = json!({"client_cert": text, "client_key": leaf.key_pem});
        cases.push((Kind::Upstream, upstream(tls.clone()), "`tls.client_cert`"));
        let service = json!({"upstream": upstream(tls)});
        cases.push((Kind::Service, service, "`upstream.tls.client_cert`"));
    }
    for (_, text) in doubled(&ca) {
        let mut body = ssl_body(&leaf, "a.example");
        body["client"] = json!({"ca": text});
        cases.push((Kind::Ssl, body, "`client.ca`"));
        let tls = json!({"verify": true, "ca_certs": [text]});
        cases.push((Kind::Upstream, upstream(tls), "`tls.ca_certs.0`"));
    }
    let labels =
        json!({"uri": "/a", "upstream": {"nodes": {}}, "labels": {us.key_pem.clone(): "x"}});
    cases.push((Kind::Route, labels, "`labels`"));
    for (kind, body, member) in cases {
        let error = bench.put(kind, "1", body.clone()).await.unwrap_err();
        let told = format!("{error:?} {}", reason(&error));
        assert!(
            told.contains(&format!("{member} holds a private key")),
            "{told}"
        );
        for sample in [&leaf, &ca, &us] {
            assert!(!told.contains(canary(sample)), "{told}");
        }
        bench
            .control
            .validate(put_of(kind, "1", body))
            .await
            .unwrap_err();
    }
    assert_eq!(bench.store.revision().unwrap(), Revision(0));
    bench
        .put(Kind::Ssl, "1", ssl_body(&leaf, "a.example"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_stored_key_where_none_belongs_is_not_shown() {
    let bench = bench();
    let ca = sample::ca("ca");
    let leaf = sample::leaf(&ca, "a", &["a.example"]);
    let client = json!({"ca": format!("{}{}", ca.cert, ca.key_pem)});
    let labels = json!({"key": ca.key_pem});
    let document = object(json!({
        "sni": "a.example", "cert": leaf.cert, "client": client, "labels": labels,
    }));
    bench.store_past(Kind::Ssl, "old", document);
    let found = bench
        .control
        .find(Kind::Ssl, &id("old"), Show::Placeholders)
        .await
        .unwrap()
        .unwrap();
    let shown = serde_json::to_string(&found.document).unwrap();
    assert!(!shown.contains(canary(&ca)), "{shown}");
    let pem = found.document["client"]["ca"].as_str().unwrap();
    assert!(
        pem.contains(&ca.cert) && pem.contains("[withheld]"),
        "{pem}"
    );
    // A filter could ask for it piece by piece.
    for (part, total) in [(canary(&ca), 0), ("[withheld]", 1)] {
        let part = part.to_owned();
        let holds = move |seen: &Document| seen["labels"]["key"].as_str().unwrap().contains(&part);
        let asked = Selection {
            filter: Some(Filter {
                members: &["labels"],
                accepts: Box::new(holds),
            }),
            ..Selection::default()
        };
        let listed = bench.control.list(Kind::Ssl, Show::Omitted, asked).await;
        assert_eq!(listed.unwrap().total, total);
    }
    let (parts, _commands) = parts(&bench.store, 7, Rules::default());
    let findings = check(parts).unwrap();
    assert!(findings.iter().any(|found| found.pointer == "/client/ca"));
}

#[test]
fn a_write_shows_no_key_when_it_is_debugged() {
    let leaf = sample::leaf(&sample::ca("ca"), "a", &["a.example"]);
    let put = put_of(Kind::Ssl, "1", ssl_body(&leaf, "a.example"));
    assert!(!format!("{put:?}").contains(canary(&leaf)));
}
