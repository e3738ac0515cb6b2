use std::net::Ipv4Addr;

use h2::server;
use http::StatusCode;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::*;
use crate::proxy::pool::{Pool, PoolKey};
use crate::snapshot::Keepalive;
use crate::tls::socket::Socket;
use crate::tls::upstream::Protocol;

const LONG: Duration = Duration::from_secs(20);
/// What the upstream takes at a time, in bytes.
const WINDOW: u32 = 1000;
/// How long a request waits, in milliseconds.
const PATIENCE: u64 = 1000;

/// A connection to an upstream, by the clock of `sweep`, and the upstream's end of it.
async fn connection(
    sweep: &Rc<Sweep>,
) -> (Box<UpstreamConn>, server::Connection<TcpStream, Bytes>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let connecting = TcpStream::connect(listener.local_addr().unwrap());
    let (near, accepted) = tokio::join!(connecting, listener.accept());
    let (far, _) = accepted.unwrap();
    let key = PoolKey {
        peer: "a:1".into(),
        ip: None,
        trust: None,
        name: None,
        protocol: Protocol::Http2,
    };
    let keepalive = Keepalive {
        size: 1,
        idle: LONG,
        requests: 10,
    };
    let bucket = Pool::new(1).bucket(key, keepalive);
    let activity = Activity::new(sweep.clock());
    let near = Stream::Plain(Socket::new(near.unwrap(), activity));
    let stock = Stock::new();
    let opening = UpstreamConn::open_many(near, bucket, false, sweep, &stock);
    let mut hello = server::Builder::new();
    let hello = hello.initial_window_size(WINDOW).handshake(far);
    let (near, far) = tokio::join!(opening, hello);
    let Ok(near) = near else {
        panic!("it opens");
    };
    (near, far.unwrap())
}

/// What becomes of an upload of ten windows, of which the upstream takes `windows`, one each time the
/// clock has gone on by less than the request may wait; then it answers, if it took all.
async fn upload(windows: u64) -> Result<StatusCode, Broken> {
    let sweep = Sweep::new();
    let (mut near, mut far) = connection(&sweep).await;
    let body = vec![b'x'; 10 * usize::try_from(WINDOW).unwrap()];
    let body = RequestBody::of(&[body.into()], sweep.clone());
    let req = Request::post("/").header("host", "h").body(body);
    let mut req = Some(req.unwrap());
    let clock = sweep.clone();
    let exchange = tokio::task::spawn_local(async move {
        let terms = Terms {
            host: None,
            forwarded: None,
            patience: PATIENCE,
            interim: &Interim::Nobody,
        };
        let answer = near.exchange(&mut req, terms, &clock).await;
        answer.map_err(|error| error.why)
    });
    let (request, mut respond) = far.accept().await.unwrap().unwrap();
    tokio::task::spawn_local(async move { while far.accept().await.is_some() {} });
    let mut body = request.into_body();
    let mut now = 0;
    for window in 1..=10 {
        let mut came = 0;
        while came < usize::try_from(WINDOW).unwrap() {
            came += body.data().await.unwrap().unwrap().len();
        }
        if window > windows {
            break;
        }
        now += PATIENCE * 4 / 5;
        sweep.move_to(now);
        // Whoever waits has seen it.
        tokio::task::yield_now().await;
        body.flow_control().release_capacity(came).unwrap();
    }
    if windows < 10 {
        while !exchange.is_finished() {
            now += PATIENCE * 4 / 5;
            sweep.move_to(now);
            tokio::task::yield_now().await;
        }
    } else {
        let answer = Response::builder().status(StatusCode::CREATED).body(());
        respond.send_response(answer.unwrap(), true).unwrap();
    }
    exchange.await.unwrap()
}

#[test]
fn upload_that_its_upstream_takes_slowly_is_late_only_once_nothing_of_it_is_taken() {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let whole = timeout(LONG, upload(10)).await.expect("it is answered");
        assert!(matches!(whole, Ok(StatusCode::CREATED)));
        let stopped = timeout(LONG, upload(5)).await.expect("it is given up");
        assert!(matches!(stopped, Err(Broken::Late)));
    });
}
