//! A connection against sockets, and against hyper's client: both are given the same answers.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::*;
use crate::net::sweep::Sweep;
use crate::proxy::headers;
use crate::proxy::pool::{Pool, PoolKey};
use crate::snapshot::Keepalive;
use crate::tls::socket::{Activity, Socket};
use crate::tls::upstream::Protocol;

const PATIENCE: Duration = Duration::from_secs(20);

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    let test = async { timeout(PATIENCE, test).await.expect("it takes too long") };
    LocalSet::new().block_on(&runtime, test)
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// A connection, and its upstream's end of it.
async fn connection() -> (Rc<Single>, TcpStream) {
    let (near, far) = sockets().await;
    let key = PoolKey {
        peer: "a:1".into(),
        ip: None,
        trust: None,
        name: None,
        protocol: Protocol::Http1,
    };
    let keepalive = Keepalive {
        size: 1,
        idle: PATIENCE,
        requests: 10,
    };
    let open = Pool::new(1).bucket(key, keepalive).count_open();
    let activity = Activity::new(Sweep::new().clock());
    (
        Single::new(Stream::Plain(Socket::new(near, activity)), open),
        far,
    )
}

fn request(method: Method, body: &[Bytes]) -> Option<Request<RequestBody>> {
    let body = if body.is_empty() {
        RequestBody::empty(Sweep::new())
    } else {
        RequestBody::of(body, Sweep::new())
    };
    let mut req = Request::new(body);
    *req.method_mut() = method;
    Some(req)
}

/// The answer, without what comes before it.
async fn answer(conn: &Rc<Single>) -> Result<Response<()>, Error> {
    loop {
        let head = poll_fn(|cx| conn.poll_answer(cx, None)).await?;
        if heads::is_final(head.status()) {
            return Ok(head);
        }
    }
}

async fn content(conn: &Rc<Single>) -> Result<(Vec<u8>, Option<HeaderMap>), Error> {
    let (mut content, mut trailers) = (conn.take_content().unwrap_or_default().to_vec(), None);
    while let Some(frame) = poll_fn(|cx| conn.poll_content(cx)).await {
        match frame?.into_data() {
            Ok(data) => content.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok((content, trailers))
}

#[test]
fn request_that_may_be_repeated_keeps_its_headers_until_it_is_answered() {
    run(async {
        for (told, is_answered) in [
            (
                "HTTP/1.1 103 Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\nx",
                false,
            ),
            ("HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", true),
        ] {
            let (conn, mut far) = connection().await;
            let mut req = request(Method::GET, &[]).unwrap();
            req.headers_mut()
                .insert("x-asked", http::HeaderValue::from_static("yes"));
            let mut req = Some(req);
            conn.begin(&mut req, b"");
            far.write_all(told.as_bytes()).await.unwrap();
            drop(far);
            let headers = req.as_mut().unwrap().headers_mut();
            let hints = poll_fn(|cx| conn.poll_answer(cx, Some(&mut *headers))).await;
            assert_eq!(hints.unwrap().status(), 103);
            let answer = poll_fn(|cx| conn.poll_answer(cx, Some(&mut *headers))).await;
            assert_eq!(answer.is_ok(), is_answered, "{told:?}");
            assert_eq!(headers.contains_key("x-asked"), !is_answered, "{told:?}");
        }
    });
}

/// As when the upstream resets what it does not read.
fn stop_writing(conn: &Rc<Single>) {
    let state = &*conn.0.borrow();
    let Some(Stream::Plain(socket)) = &state.stream else {
        panic!("it is in the clear");
    };
    let tcp = socket2::SockRef::from(socket.tcp());
    tcp.shutdown(std::net::Shutdown::Write).unwrap();
}

async fn read_until(far: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut read = Vec::new();
    while !read.ends_with(end) {
        assert_ne!(far.read_buf(&mut read).await.unwrap(), 0, "it ended early");
    }
    read
}

#[test]
fn one_request_follows_the_other() {
    run(async {
        let (conn, mut far) = connection().await;
        for text in ["one", "two"] {
            let mut req = request(Method::GET, &[]);
            conn.begin(&mut req, b"");
            assert!(req.is_some(), "without a body it stays to be repeated");
            let upstream = async {
                assert_eq!(
                    read_until(&mut far, b"\r\n\r\n").await,
                    b"GET / HTTP/1.1\r\n\r\n"
                );
                let head = "HTTP/1.1 103 Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n";
                far.write_all(head.as_bytes()).await.unwrap();
                far.write_all(text.as_bytes()).await.unwrap();
            };
            let (resp, ()) = tokio::join!(answer(&conn), upstream);
            assert_eq!(resp.unwrap().status(), StatusCode::OK);
            assert_eq!(content(&conn).await.unwrap().0, text.as_bytes());
            assert_eq!(conn.rest(), Rest::Ready);
            assert!(!conn.is_closed());
        }
    });
}

#[test]
fn an_idle_connection_that_ended_or_speaks_is_closed() {
    run(async {
        for said in [&b"HTTP/1.1 408 Late\r\n\r\n"[..], b""] {
            let (conn, mut far) = connection().await;
            assert!(!conn.is_closed());
            far.write_all(said).await.unwrap();
            far.shutdown().await.unwrap();
            while !conn.is_closed() {
                tokio::task::yield_now().await;
            }
            assert_eq!(conn.rest(), Rest::Over);
        }
    });
}

#[test]
fn what_the_upstream_says_last_ends_the_connection() {
    run(async {
        for (said, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na", Rest::Ready),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab", Rest::Over),
            ("HTTP/1.1 204 No\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Rest::Over),
            (
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\na",
                Rest::Over,
            ),
            ("HTTP/1.1 204 No\r\ncontent-length: 1\r\n\r\n", Rest::Over),
            (
                "HTTP/1.1 304 Same\r\ncontent-length: 1\r\n\r\n",
                Rest::Ready,
            ),
            (
                "HTTP/1.1 304 Same\r\ncontent-length: 1\r\n\r\na",
                Rest::Over,
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n\r\n",
                Rest::Over,
            ),
            ("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na", Rest::Over),
            (
                "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\na",
                Rest::Ready,
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\nHTTP/1.1 200",
                Rest::Over,
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
                Rest::Ready,
            ),
        ] {
            let (conn, mut far) = connection().await;
            conn.begin(&mut request(Method::GET, &[]), b"");
            far.write_all(said.as_bytes()).await.unwrap();
            answer(&conn).await.unwrap();
            content(&conn).await.unwrap();
            assert_eq!(conn.rest(), expected, "{said:?}");
        }
    });
}

#[test]
fn content_that_comes_where_none_may_ends_the_connection() {
    run(async {
        for (content, expected) in [("", Rest::Ready), ("a", Rest::Over)] {
            let (conn, mut far) = connection().await;
            conn.begin(&mut request(Method::HEAD, &[]), b"");
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{content}");
            far.write_all(head.as_bytes()).await.unwrap();
            assert_eq!(answer(&conn).await.unwrap().status(), StatusCode::OK);
            assert!(conn.is_end_of_content());
            assert_eq!(conn.rest(), expected, "{content:?}");
        }
    });
}

#[test]
fn heads_that_only_inform_end_some_time() {
    run(async {
        let (conn, mut far) = connection().await;
        for (count, is_answered) in [(INFORMING_HEADS, true), (INFORMING_HEADS + 1, false)] {
            conn.begin(&mut request(Method::GET, &[]), b"");
            for _ in 0..count {
                far.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n")
                    .await
                    .unwrap();
            }
            let last = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            far.write_all(last).await.unwrap();
            match answer(&conn).await {
                Ok(resp) => assert_eq!((resp.status(), is_answered), (StatusCode::OK, true)),
                Err(error) => {
                    assert!(matches!(error, Error::Head(HeadError::Informing)) && !is_answered);
                    assert!(error.is_violation() && conn.is_over());
                }
            }
        }
    });
}

#[test]
fn an_upstream_that_ends_its_side_after_an_answer_gets_no_other_request() {
    run(async {
        let (conn, mut far) = connection().await;
        conn.begin(&mut request(Method::GET, &[]), b"");
        let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na";
        far.write_all(whole).await.unwrap();
        far.shutdown().await.unwrap();
        answer(&conn).await.unwrap();
        assert_eq!(content(&conn).await.unwrap().0, b"a");
        conn.rest();
        while !conn.is_closed() {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn no_more_of_an_answer_is_held_than_was_asked_for() {
    run(async {
        let (conn, mut far) = connection().await;
        conn.begin(&mut request(Method::GET, &[]), b"");
        let upstream = tokio::task::spawn_local(async move {
            let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            far.write_all(head).await.unwrap();
            for _ in 0..512 {
                far.write_all(b"10000\r\n").await.unwrap();
                far.write_all(&[b'x'; 0x10000]).await.unwrap();
                far.write_all(b"\r\n").await.unwrap();
            }
            far.write_all(b"0\r\n\r\n").await.unwrap();
            far
        });
        answer(&conn).await.unwrap();
        // As much as comes while nobody asks: what the sockets hold.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert!(!upstream.is_finished(), "32 MiB wait for who reads them");
        let mut count = 0;
        while let Some(frame) = poll_fn(|cx| conn.poll_content(cx)).await {
            let data = frame.unwrap().into_data().unwrap();
            count += data.len();
            // What is left of a chunk's first line may have doubled it, once.
            assert!(data.len() <= 3 * CONTENT_ROOM);
            assert!(conn.0.borrow().input.capacity() <= 3 * CONTENT_ROOM);
        }
        assert_eq!(count, 32 << 20);
        let _far = upstream.await.unwrap();
        assert_eq!(conn.rest(), Rest::Ready);
        assert_eq!(
            conn.0.borrow().input.capacity(),
            0,
            "an idle one holds nothing"
        );
    });
}

#[test]
fn what_came_before_a_cut_is_told_before_it() {
    run(async {
        for said in [
            "content-length: 90000\r\n\r\n",
            "transfer-encoding: chunked\r\n\r\n15f90\r\n",
        ] {
            let (conn, mut far) = connection().await;
            conn.begin(&mut request(Method::GET, &[]), b"");
            let head = format!("HTTP/1.1 200 OK\r\n{said}");
            far.write_all(head.as_bytes()).await.unwrap();
            answer(&conn).await.unwrap();
            far.write_all(&[b'x'; 20_000]).await.unwrap();
            far.shutdown().await.unwrap();
            let mut count = 0;
            let cut = loop {
                match poll_fn(|cx| conn.poll_content(cx)).await.unwrap() {
                    Ok(frame) => count += frame.into_data().unwrap().len(),
                    Err(error) => break error,
                }
            };
            assert_eq!(count, 20_000, "{said:?}");
            assert!(matches!(cut, Error::Cut), "{said:?}: {cut:?}");
        }
    });
}

#[test]
fn a_request_that_is_given_up_halfway_never_looks_whole() {
    run(async {
        let body = vec![Bytes::from(vec![7; 1 << 20]); 32];
        let (conn, mut far) = connection().await;
        conn.begin(&mut request(Method::POST, &body), b"");
        assert!(poll_fn(|cx| Poll::Ready(conn.poll_answer(cx, None).is_pending())).await);
        drop(conn);
        let mut read = Vec::new();
        let _reset_or_end = far.read_to_end(&mut read).await;
        assert!(read.starts_with(b"POST / HTTP/1.1\r\ncontent-length: 33554432\r\n"));
        assert!(read.len() < 32 << 20);
    });
}

#[test]
fn a_body_that_was_sent_is_held_no_longer() {
    struct Owner(Arc<Vec<u8>>);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    let held = Arc::new(vec![b'x'; 30_000]);
    let body = Bytes::from_owner(Owner(held.clone()));
    run(async {
        let (conn, mut far) = connection().await;
        conn.begin(&mut request(Method::POST, &[body]), b"");
        far.write_all(b"HTTP/1.1 204 Done\r\n\r\n").await.unwrap();
        let upstream = read_until(&mut far, b"xxx");
        let (answer, _) = tokio::join!(answer(&conn), upstream);
        assert_eq!(answer.unwrap().status(), StatusCode::NO_CONTENT);
        poll_fn(|cx| conn.poll_sent(cx)).await;
        assert_eq!(conn.rest(), Rest::Ready);
        assert_eq!(Arc::strong_count(&held), 1);
    });
}

#[test]
fn a_body_is_as_long_as_was_said() {
    let sending = |framing| Sending {
        body: RequestBody::empty(Sweep::new()),
        framing,
    };
    let frame = |framing, data: &'static [u8]| {
        let (mut output, mut part) = (Vec::new(), Bytes::new());
        let mut sending = sending(framing);
        let framed = sending.frame(Bytes::from_static(data), &mut output, &mut part);
        let ended = framed.and_then(|()| sending.end(&mut output));
        output.extend_from_slice(&part);
        ended.map(|()| String::from_utf8(output).unwrap())
    };
    assert_eq!(frame(Framing::Length(3), b"abc").unwrap(), "abc");
    assert_eq!(frame(Framing::Length(0), b"").unwrap(), "");
    assert_eq!(frame(Framing::Nothing, b"").unwrap(), "");
    let chunks = frame(Framing::Chunked, b"0123456789abcdef").unwrap();
    assert_eq!(chunks, "10\r\n0123456789abcdef\r\n0\r\n\r\n");
    // An empty part is no last chunk.
    assert_eq!(frame(Framing::Chunked, b"").unwrap(), "0\r\n\r\n");
    for (framing, data) in [
        (Framing::Length(3), &b"abcd"[..]),
        (Framing::Length(3), b"ab"),
        (Framing::Length(1), b""),
        (Framing::Nothing, b"a"),
    ] {
        let error = frame(framing, data).unwrap_err();
        assert!(matches!(error, Error::Length), "{framing:?}: {error}");
    }
}

#[test]
fn an_answer_that_breaks_off_is_never_taken_for_a_whole_one() {
    run(async {
        for said in [
            "",
            "HTTP/1.1 200",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\na",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx: y\r\n",
        ] {
            let (conn, mut far) = connection().await;
            conn.begin(&mut request(Method::GET, &[]), b"");
            far.write_all(said.as_bytes()).await.unwrap();
            far.shutdown().await.unwrap();
            let cut = match answer(&conn).await {
                Ok(_) => content(&conn).await.map(drop),
                Err(error) => Err(error),
            };
            assert!(matches!(cut, Err(Error::Cut)), "{said:?}: {cut:?}");
            assert!(conn.has_sent());
            assert_eq!(conn.rest(), Rest::Over);
        }
    });
}

#[test]
fn an_early_answer_leaves_the_body_on_its_way() {
    run(async {
        // More than both sockets hold.
        let body = vec![Bytes::from(vec![7; 1 << 20]); 32];
        let (conn, mut far) = connection().await;
        let mut req = request(Method::POST, &body);
        conn.begin(&mut req, b"");
        assert!(req.is_none());
        let early = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n";
        far.write_all(early).await.unwrap();
        assert_eq!(answer(&conn).await.unwrap().status(), StatusCode::OK);
        conn.carry();
        // The answer goes on when the body was taken.
        let upstream = async {
            let head = b"POST / HTTP/1.1\r\ncontent-length: 33554432\r\n\r\n";
            let mut left = head.len() + (32 << 20);
            let mut read = vec![0; 1 << 20];
            while left > 0 {
                left -= far.read(&mut read).await.unwrap();
            }
            far.write_all(b"ok").await.unwrap();
        };
        let (whole, ()) = tokio::join!(content(&conn), upstream);
        assert_eq!(whole.unwrap().0, b"ok");
        assert_eq!(conn.rest(), Rest::Ready);
    });
}

#[test]
fn a_connection_serves_on_when_the_rest_of_a_body_was_sent() {
    run(async {
        let body = vec![Bytes::from(vec![7; 1 << 20]); 32];
        let (conn, mut far) = connection().await;
        conn.begin(&mut request(Method::PUT, &body), b"");
        far.write_all(b"HTTP/1.1 201 Made\r\ncontent-length: 0\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(answer(&conn).await.unwrap().status(), StatusCode::CREATED);
        assert_eq!(conn.rest(), Rest::Sending);
        let upstream = async {
            let mut left = b"PUT / HTTP/1.1\r\ncontent-length: 33554432\r\n\r\n".len() + (32 << 20);
            let mut read = vec![0; 1 << 20];
            while left > 0 {
                left -= far.read(&mut read).await.unwrap();
            }
        };
        tokio::join!(poll_fn(|cx| conn.poll_sent(cx)), upstream);
        assert_eq!(conn.rest(), Rest::Ready);
    });
}

#[test]
fn an_answer_counts_though_the_request_cannot_be_written() {
    run(async {
        let body = vec![Bytes::from(vec![7; 1 << 20]); 32];
        let (conn, mut far) = connection().await;
        conn.begin(&mut request(Method::POST, &body), b"");
        assert!(poll_fn(|cx| Poll::Ready(conn.poll_answer(cx, None).is_pending())).await);
        far.write_all(b"HTTP/1.1 413 Large\r\ncontent-length: 0\r\n\r\n")
            .await
            .unwrap();
        stop_writing(&conn);
        assert_eq!(
            answer(&conn).await.unwrap().status(),
            StatusCode::PAYLOAD_TOO_LARGE
        );
        assert!(conn.is_over());
        assert_eq!(conn.rest(), Rest::Over);
    });
}

#[test]
fn what_comes_where_nothing_could_be_asked_is_no_answer() {
    run(async {
        let (conn, mut far) = connection().await;
        let early = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        far.write_all(early).await.unwrap();
        stop_writing(&conn);
        let mut req = request(Method::GET, &[]);
        conn.begin(&mut req, b"");
        assert!(matches!(answer(&conn).await, Err(Error::Io(_))));
        assert!(!conn.has_sent() && req.is_some());
    });
}

#[test]
fn a_switched_connection_gives_its_bytes_away() {
    run(async {
        let (conn, mut far) = connection().await;
        conn.begin(&mut request(Method::GET, &[]), b"");
        far.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\nfirst")
            .await
            .unwrap();
        let resp = answer(&conn).await.unwrap();
        assert_eq!(resp.status(), StatusCode::SWITCHING_PROTOCOLS);
        let mut switched = conn.take_switched().unwrap();
        drop(conn);
        far.write_all(b" then").await.unwrap();
        far.shutdown().await.unwrap();
        let mut read = Vec::new();
        switched.io.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"first then");
    });
}

/// What a client made of an answer: its status, headers, content and trailers.
type Read = (u16, Vec<(String, Vec<u8>)>, Vec<u8>, Option<HeaderMap>);

async fn say(mut far: TcpStream, answer: &[u8], step: usize) {
    for part in answer.chunks(step) {
        if far.write_all(part).await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
    let _ = far.shutdown().await;
    let _ = far.read_to_end(&mut Vec::new()).await;
}

fn lines(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let lines = headers.iter();
    lines
        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
        .collect()
}

async fn ours(method: Method, said: &[u8], step: usize) -> Result<Read, Error> {
    let (conn, far) = connection().await;
    conn.begin(&mut request(method, &[]), b"");
    let said = tokio::task::spawn_local({
        let said = said.to_vec();
        async move { say(far, &said, step).await }
    });
    let resp = answer(&conn).await?;
    let (whole, trailers) = content(&conn).await?;
    drop(conn);
    said.await.unwrap();
    Ok((
        resp.status().as_u16(),
        lines(resp.headers()),
        whole,
        trailers,
    ))
}

async fn hyper_s(method: Method, said: &[u8], step: usize) -> Result<Read, hyper::Error> {
    let (near, far) = sockets().await;
    let (mut sender, conn) = http1::handshake(TokioIo::new(near)).await?;
    let driver = tokio::task::spawn_local(conn.with_upgrades());
    let said = tokio::task::spawn_local({
        let said = said.to_vec();
        async move { say(far, &said, step).await }
    });
    let mut req = Request::new(Empty::<Bytes>::new());
    *req.method_mut() = method;
    let (mut head, body) = sender.send_request(req).await?.into_parts();
    // Ours has none that end here; where the answer ends was read of them before.
    headers::to_downstream(&mut head.headers);
    let whole = body.collect().await?;
    let trailers = whole.trailers().cloned();
    drop((sender, driver));
    let _ = said.await;
    Ok((
        head.status.as_u16(),
        lines(&head.headers),
        whole.to_bytes().to_vec(),
        trailers,
    ))
}

/// Answers that are nearly right.
fn answers() -> impl Strategy<Value = String> {
    let version = prop::sample::select(vec![
        "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0",
    ]);
    let status = prop::sample::select(vec![
        "200 OK",
        "200",
        "404 Not Found",
        "204 No Content",
        "304 x",
        "100 Continue\r\n\r\nHTTP/1.1 200 OK",
        "20 x",
        "999 ",
    ]);
    let line = prop::sample::select(vec![
        "content-length: 5\r\n",
        "content-length: 5\r\n",
        "content-length: 0\r\n",
        "content-length: 6, 6\r\n",
        "content-length: +5\r\n",
        "content-length: 7\r\n",
        "transfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\n",
        "transfer-encoding: gzip\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "connection: close\r\n",
        "x: y\r\n",
        "x:\r\n",
        "x : y\r\n",
        " x: y\r\n",
        "x: y\n",
        "x\r\n",
    ]);
    let body = prop::sample::select(vec![
        "5\r\n",
        "hello",
        "\r\n",
        "0\r\n\r\n",
        "0\r\nx: y\r\n\r\n",
        "0\r\n",
        "1;a=b\r\na\r\n",
        "a \r\n0123456789\r\n",
        "2\r\nab\r\n",
        "3\nabc\r\n",
        "2\r\nabc",
        "g\r\n",
        "\n",
        "00\r\n\r\n",
        "5\r\nhello\r\n",
    ]);
    let (lines, body) = (
        prop::collection::vec(line, 0..4),
        prop::collection::vec(body, 0..5),
    );
    (version, status, lines, body).prop_map(|(version, status, lines, body)| {
        format!(
            "{version} {status}\r\n{}\r\n{}",
            lines.concat(),
            body.concat()
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn an_answer_is_read_as_hyper_reads_it_or_refused(
        said in answers(),
        head in any::<bool>(),
        step in prop::sample::select(vec![1_usize, 3, 7, 1000]),
    ) {
        let method = if head { Method::HEAD } else { Method::GET };
        let (ours, theirs) = run(async {
            (ours(method.clone(), said.as_bytes(), step).await, hyper_s(method, said.as_bytes(), step).await)
        });
        match (ours, theirs) {
            (Ok(mut ours), Ok(mut theirs)) => {
                // Equal lengths are said once here, and none where there is no content.
                for read in [&mut ours, &mut theirs] {
                    read.1.retain(|(name, _)| name != "content-length");
                    read.1.sort_by(|(one, _), (other, _)| one.cmp(other));
                }
                prop_assert_eq!(ours, theirs);
            }
            (Err(_), Err(_)) => {}
            // What a length or another coding stands beside is refused, and so are lengths that
            // differ where no content follows.
            (Err(Error::Head(HeadError::Coding | HeadError::Length)), Ok(_)) => {}
            (ours, theirs) => prop_assert!(false, "{ours:?} {theirs:?}"),
        }
    }
}

#[test]
fn a_body_is_asked_for_more_when_what_came_was_written() {
    run(async {
        let (conn, mut far) = connection().await;
        let parts: Vec<_> = std::iter::repeat_n(Bytes::from(vec![b'x'; 10_000]), 4_000).collect();
        let all = 4_000 * 10_000;
        conn.begin(&mut request(Method::POST, &parts), b"");
        // Until sockets take no more; its upstream does not read.
        let stalled = || poll_fn(|cx| Poll::Ready(conn.poll_answer(cx, None).is_pending()));
        let left = || {
            let state = conn.0.borrow();
            state
                .sending
                .as_ref()
                .and_then(|sending| sending.body.size_hint().exact())
        };
        let mut before = None;
        while before != left() {
            before = left();
            assert!(stalled().await);
            tokio::task::yield_now().await;
        }
        let taken = all - usize::try_from(left().expect("the rest of a body")).unwrap();
        drop(conn);
        let mut read = Vec::new();
        far.read_to_end(&mut read).await.unwrap();
        let written = read.iter().filter(|byte| **byte == b'x').count();
        assert!(
            (1..=10_000).contains(&(taken - written)),
            "{taken} taken, {written} written"
        );
    });
}
