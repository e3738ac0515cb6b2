//! Ssls that the start takes as they were accepted, and examines while they are served.

use tokio::sync::oneshot;

use super::*;

/// A certificate that requires clients' and has another one's key; and that key.
fn mismatched(name: &str) -> (Value, Sample) {
    let ca = sample::ca("ca");
    let (leaf, other) = (
        sample::leaf(&ca, "a", &[name]),
        sample::leaf(&ca, "b", &[name]),
    );
    let mut body = ssl_body(&leaf, name);
    body["key"] = json!(other.key_pem);
    body["client"] = json!({"ca": ca.cert});
    (body, leaf)
}

#[tokio::test]
async fn what_the_start_takes_is_served_as_its_write_had_it_served() {
    let bench = bench();
    let ca = sample::ca("ca");
    let leaf = sample::leaf(&ca, "a", &["a.example"]);
    let mut body = ssl_body(&leaf, "a.example");
    body["cert"] = json!(format!("{}{}", leaf.cert, ca.cert));
    body["certs"] = json!([leaf.cert]);
    body["keys"] = json!([leaf.key_pem]);
    body["client"] = json!({"ca": ca.cert, "depth": 2});
    body["ssl_protocols"] = json!(["TLSv1.3"]);
    bench.put(Kind::Ssl, "1", body).await.unwrap();
    let seen = |bench: &Bench| {
        let snapshot = bench.live.load();
        let server = snapshot.server(&id("1")).unwrap();
        let serving = server.serving.unwrap();
        (serving.context, serving.versions, server.policy.clone())
    };
    let after = bench_on(bench.store.clone(), Rules::default());
    assert_eq!(seen(&after), seen(&bench));
    let version = after.live.version();
    after.control.examine_taken().await;
    assert_eq!(after.live.version(), version);
    assert_eq!(seen(&after), seen(&bench));
}

#[tokio::test]
async fn ssl_whose_key_is_no_good_serves_nobody_and_is_closed_once_it_is_examined() {
    let bench = bench();
    let (spoilt, _) = mismatched("a.example");
    bench.store_past(Kind::Ssl, "spoilt", object(spoilt));
    let good = sample::leaf(&sample::ca("ca"), "b", &["b.example"]);
    bench.store_past(Kind::Ssl, "good", object(ssl_body(&good, "b.example")));

    let mut after = bench_on(bench.store.clone(), Rules::default());
    let (asks, received) = mpsc::channel(2);
    let mut answers = Vec::new();
    for name in ["a.example", "b.example"] {
        let Choice::Wait { key, ssl_id } = after.choose(name) else {
            panic!("{name} is not taken");
        };
        let (reply, answer) = oneshot::channel();
        let ssl = id(&ssl_id);
        asks.send(Ask::Server { key, ssl, reply }).await.unwrap();
        answers.push(answer);
    }
    drop(asks);
    after.control.serve_asks(received).await;
    let mut answers = answers.into_iter();
    let spoilt = answers.next().unwrap().await.unwrap();
    assert_eq!(spoilt.unwrap_err(), Reason::ContextUnavailable);
    assert!(answers.next().unwrap().await.unwrap().is_ok());

    after.control.examine_taken().await;
    assert!(matches!(
        after.choose("a.example"),
        Choice::Refuse(Reason::NameClosed)
    ));
    assert!(matches!(after.choose("b.example"), Choice::Serve(_)));
    let snapshot = after.live.load();
    assert_eq!(snapshot.tally().names_closed, 1);
    let Ok(Command::Judge(ids)) = after.commands.try_recv() else {
        panic!("no command")
    };
    assert_eq!(*ids, [id("spoilt")]);
}

#[tokio::test]
async fn what_is_written_after_the_start_is_left_as_it_is() {
    let bench = bench();
    let (spoilt, leaf) = mismatched("a.example");
    bench.store_past(Kind::Ssl, "1", object(spoilt.clone()));
    let after = bench_on(bench.store.clone(), Rules::default());
    let mut body = spoilt;
    body["key"] = json!(leaf.key_pem);
    after.put(Kind::Ssl, "1", body).await.unwrap();
    let version = after.live.version();
    after.control.examine_taken().await;
    assert_eq!(after.live.version(), version);
    assert!(matches!(after.choose("a.example"), Choice::Serve(_)));
}
