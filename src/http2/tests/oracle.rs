//! Exchanges made by chance, with the crate `h2` at the other end: each side is told what the other one
//! says.

use std::future::poll_fn;
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};

use super::super::{Connection, Incoming, Limits, Piece, RequestHead, Role, Stock, Trailers};
use super::wire::{next, send_all};

const LIMITS: Limits = Limits {
    streams: 100,
    stream_window: 70_000,
    connection_window: 100_000,
    header_list: 1 << 20,
    untouched: 100,
    faults: 100,
    remembered: 100,
};

/// One message: its fields, its content in parts, its trailers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Message {
    fields: Vec<(String, String)>,
    parts: Vec<usize>,
    trailers: Option<Vec<(String, String)>>,
}

#[derive(Clone, Debug)]
struct Exchange {
    path: String,
    request: Message,
    answer: Message,
}

fn fields() -> impl Strategy<Value = Vec<(String, String)>> {
    let name = prop_oneof![
        Just("content-type".to_owned()),
        Just("x-own".to_owned()),
        Just("cookie".to_owned()),
        "[a-z][a-z0-9-]{0,20}x",
    ];
    let value = prop_oneof![
        3 => Just("application/grpc".to_owned()),
        2 => "([!-~]([ -~]{0,40}[!-~])?)?",
        1 => "[!-~]{2000,9000}",
    ];
    vec((name, value), 0..8)
}

fn message() -> impl Strategy<Value = Message> {
    let part = prop_oneof![3 => 0..100_usize, 2 => 0..20_000_usize, 1 => 60_000..150_000_usize];
    (fields(), vec(part, 0..4), proptest::option::of(fields())).prop_map(
        |(fields, parts, trailers)| Message {
            fields,
            parts,
            trailers,
        },
    )
}

fn exchanges() -> impl Strategy<Value = Vec<Exchange>> {
    let one = ("/[a-z]{0,8}", message(), message());
    let one = one.prop_map(|(path, request, answer)| Exchange {
        path,
        request,
        answer,
    });
    vec(one, 1..12)
}

fn map(fields: &[(String, String)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        let name: HeaderName = name.parse().unwrap();
        map.append(name, HeaderValue::from_str(value).unwrap());
    }
    map
}

fn content(length: usize) -> Bytes {
    (0..length)
        .map(|at| u8::try_from(at % 251).unwrap())
        .collect::<Vec<u8>>()
        .into()
}

impl Message {
    fn length(&self) -> usize {
        self.parts.iter().sum()
    }

    /// All of its parts, one after the other.
    fn whole(&self) -> Vec<u8> {
        self.parts
            .iter()
            .flat_map(|length| content(*length))
            .collect()
    }

    fn assert_is(&self, headers: &HeaderMap, body: &[u8], trailers: Option<&HeaderMap>) {
        assert_eq!(*headers, map(&self.fields));
        assert_eq!(body.len(), self.length());
        assert!(body == self.whole());
        let own = self.trailers.as_ref().map(|fields| map(fields));
        // Trailers without a field are none for some.
        assert_eq!(
            trailers.filter(|map| !map.is_empty()),
            own.as_ref().filter(|map| !map.is_empty())
        );
    }
}

async fn send_by_h2(mut stream: h2::SendStream<Bytes>, message: &Message) {
    for length in &message.parts {
        let mut rest = content(*length);
        while !rest.is_empty() {
            stream.reserve_capacity(rest.len());
            let room = poll_fn(|cx| stream.poll_capacity(cx))
                .await
                .unwrap()
                .unwrap();
            stream.send_data(rest.split_to(room), false).unwrap();
        }
    }
    match &message.trailers {
        Some(trailers) => stream.send_trailers(map(trailers)).unwrap(),
        None => stream.send_data(Bytes::new(), true).unwrap(),
    }
}

async fn read_by_h2(mut stream: h2::RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut body = Vec::new();
    while let Some(part) = stream.data().await {
        let part = part.unwrap();
        stream.flow_control().release_capacity(part.len()).unwrap();
        body.extend_from_slice(&part);
    }
    (body, stream.trailers().await.unwrap())
}

async fn send_by_us(writer: &mut super::super::Writer, message: &Message) {
    for length in &message.parts {
        assert!(send_all(writer, &content(*length), false).await);
    }
    let is_sent = match &message.trailers {
        Some(trailers) => writer.send_trailers(Trailers::Fields(map(trailers))),
        None => writer.send(&[], true),
    };
    assert!(is_sent);
}

async fn read_by_us(reader: &mut super::super::Reader) -> (Vec<u8>, Option<HeaderMap>) {
    let mut body = Vec::new();
    loop {
        match next(reader).await {
            Some(Ok(Piece::Data(part))) => body.extend_from_slice(&part),
            Some(Ok(Piece::Trailers(trailers))) => return (body, Some(trailers.into())),
            Some(Err(error)) => panic!("{error}"),
            None => return (body, None),
        }
    }
}

fn number_of(headers: &mut HeaderMap) -> usize {
    headers
        .remove("number")
        .unwrap()
        .to_str()
        .unwrap()
        .parse()
        .unwrap()
}

/// h2's client asks, we answer.
async fn serve(exchanges: Rc<Vec<Exchange>>, buffer: usize) {
    let (near, far) = duplex(buffer);
    let mut conn = Connection::new(near, Role::Server, LIMITS, Stock::new());
    let (done, mut all_done) = mpsc::unbounded_channel::<()>();
    let plan = exchanges.clone();
    let answering = spawn_local(async move {
        let ended = poll_fn(|cx| {
            conn.poll_served(cx, |mut incoming: Incoming| {
                let plan = plan.clone();
                let done = done.clone();
                spawn_local(async move {
                    let (mut head, ()) = incoming.request.into_parts();
                    let exchange = &plan[number_of(&mut head.headers)];
                    assert_eq!(
                        head.uri,
                        format!("https://h.test{}", exchange.path).as_str()
                    );
                    let (body, trailers) = read_by_us(&mut incoming.reader).await;
                    exchange
                        .request
                        .assert_is(&head.headers, &body, trailers.as_ref());
                    let mut answer = Response::new(None);
                    *answer.headers_mut() = map(&exchange.answer.fields);
                    assert!(incoming.writer.answer(answer, false));
                    send_by_us(&mut incoming.writer, &exchange.answer).await;
                    drop(done);
                });
            })
        });
        ended.await.unwrap();
    });
    let (client, conn) = h2::client::handshake(far).await.unwrap();
    let moving = spawn_local(conn);
    let mut asking = Vec::new();
    for (number, exchange) in exchanges.iter().cloned().enumerate() {
        let mut client = client.clone().ready().await.unwrap();
        asking.push(spawn_local(async move {
            let mut request = Request::post(format!("https://h.test{}", exchange.path))
                .body(())
                .unwrap();
            *request.headers_mut() = map(&exchange.request.fields);
            request
                .headers_mut()
                .insert("number", HeaderValue::from(number));
            let (answer, stream) = client.send_request(request, false).unwrap();
            send_by_h2(stream, &exchange.request).await;
            let (head, stream) = answer.await.unwrap().into_parts();
            let (body, trailers) = read_by_h2(stream).await;
            exchange
                .answer
                .assert_is(&head.headers, &body, trailers.as_ref());
        }));
    }
    for one in asking {
        one.await.unwrap();
    }
    drop(client);
    moving.await.unwrap().unwrap();
    answering.await.unwrap();
    assert!(all_done.recv().await.is_none());
}

/// We ask, h2's server answers.
async fn ask(exchanges: Rc<Vec<Exchange>>, buffer: usize) {
    let (near, far) = duplex(buffer);
    let plan = exchanges.clone();
    let answering = spawn_local(async move {
        let mut server = h2::server::handshake(far).await.unwrap();
        let mut answers = Vec::new();
        while let Some(asked) = server.accept().await {
            let (request, mut respond) = asked.unwrap();
            let plan = plan.clone();
            answers.push(spawn_local(async move {
                let (mut head, stream) = request.into_parts();
                let exchange = &plan[number_of(&mut head.headers)];
                assert_eq!(head.headers.remove("te").unwrap(), "trailers");
                assert_eq!(
                    head.uri,
                    format!("https://h.test{}", exchange.path).as_str()
                );
                let (body, trailers) = read_by_h2(stream).await;
                exchange
                    .request
                    .assert_is(&head.headers, &body, trailers.as_ref());
                let mut answer = Response::new(());
                *answer.headers_mut() = map(&exchange.answer.fields);
                let stream = respond.send_response(answer, false).unwrap();
                send_by_h2(stream, &exchange.answer).await;
            }));
        }
        for answer in answers {
            answer.await.unwrap();
        }
    });
    let mut conn: Connection<DuplexStream> =
        Connection::new(near, Role::Client, LIMITS, Stock::new());
    let handle = conn.handle();
    let (leave, mut told) = tokio::sync::oneshot::channel::<()>();
    let moving = spawn_local(poll_fn(move |cx| {
        if std::pin::Pin::new(&mut told).poll(cx).is_ready() {
            conn.leave();
        }
        conn.poll_moved(cx)
    }));
    let mut asking = Vec::new();
    for (number, exchange) in exchanges.iter().cloned().enumerate() {
        let handle = handle.clone();
        asking.push(spawn_local(async move {
            let mut headers = map(&exchange.request.fields);
            headers.insert("number", HeaderValue::from(number));
            let head = RequestHead {
                method: &Method::POST,
                is_tls: true,
                authority: b"h.test",
                path: &exchange.path,
                headers: &headers,
                group: None,
            };
            let (mut reader, writer) = handle.send(head, false).unwrap();
            reader.lend(headers);
            send_by_us(&mut writer.unwrap(), &exchange.request).await;
            let answer = poll_fn(|cx| reader.poll_answer(cx)).await.unwrap();
            let (mut answer, group) = answer.into_parts();
            if let Some(group) = group {
                group.put_into(&mut answer.headers);
            }
            let (body, trailers) = read_by_us(&mut reader).await;
            exchange
                .answer
                .assert_is(&answer.headers, &body, trailers.as_ref());
            assert!(reader.is_end_stream());
        }));
    }
    for one in asking {
        one.await.unwrap();
    }
    leave.send(()).unwrap();
    moving.await.unwrap().unwrap();
    answering.await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn both_sides_understand_the_crate_h2(
        exchanges in exchanges(),
        buffer in prop_oneof![Just(100_usize), Just(5_000), Just(1 << 20)],
    ) {
        let exchanges = Rc::new(exchanges);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let local = LocalSet::new();
        local.block_on(&runtime, serve(exchanges.clone(), buffer));
        local.block_on(&runtime, ask(exchanges, buffer));
    }
}
