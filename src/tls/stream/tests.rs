use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use openssl::ssl::{self, SslMethod, SslVerifyMode};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::tls::context;
use crate::tls::material::KeyPair;
use crate::tls::policy::{Offer, TlsVersion, Versions};
use crate::tls::sample;
use crate::tls::socket::{Activity, Clock};
use crate::tls::upstream::{Protocol, ServerName, UpstreamConnector, UpstreamSpec};

/// A handshake message that there is none of (RFC 8446 §4), in a record of its own.
const NONSENSE: [u8; 9] = [22, 3, 3, 0, 4, 24, 0, 0, 0];

fn only(version: TlsVersion) -> Versions {
    Versions {
        min: version,
        max: version,
    }
}

/// A server that asks for a certificate, shakes hands over what `wrap` makes of its connection,
/// fails, and resets the connection. It has reset it when the thread has ended.
fn refusing<S: Read + Write>(
    version: TlsVersion,
    wrap: impl FnOnce(TcpStream) -> S + Send + 'static,
) -> (SocketAddr, JoinHandle<()>) {
    let ca = sample::ca("CA");
    let leaf = sample::leaf(&ca, "up.test", &["up.test"]);
    let pair = KeyPair::parse(&leaf.cert, &leaf.key_pem).unwrap();
    let mut ctx = context::base(SslMethod::tls_server(), only(version)).unwrap();
    context::install(&mut ctx, &pair).unwrap();
    ctx.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    let ctx = ctx.build();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serving = thread::spawn(move || {
        let (tcp, _) = listener.accept().unwrap();
        let own = tcp.try_clone().unwrap();
        SockRef::from(&own)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        let mut stream = ssl::SslStream::new(Ssl::new(&ctx).unwrap(), wrap(tcp)).unwrap();
        assert!(stream.accept().is_err(), "nobody is let in");
    });
    (address, serving)
}

/// A connection that reads what it gets up to the first pause, if that, and then something else.
struct Interrupted {
    tcp: TcpStream,
    reads: bool,
    then: &'static [u8],
}

impl Read for Interrupted {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if std::mem::take(&mut self.reads) {
            return Read::read(&mut self.tcp, buf);
        }
        Read::read(&mut self.then, buf)
    }
}

impl Write for Interrupted {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.tcp.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tcp.flush()
    }
}

/// Our side of a connection to it, with no certificate to show.
async fn open(address: SocketAddr, version: TlsVersion) -> TlsStream {
    let connector = UpstreamConnector::build(&UpstreamSpec {
        identity: None,
        trust: None,
        offer: Offer::of(only(version)),
        protocol: Protocol::Http1,
    });
    let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let socket = Socket::new(tcp, Activity::new(Clock::default()));
    let peer: Arc<str> = address.to_string().into();
    let name = ServerName::new("up.test");
    connector.unwrap().open(&peer, &name, socket).unwrap()
}

/// Waits until the server has ended, and its reset has reached our system; of which tokio hears
/// nothing.
fn reset(serving: JoinHandle<()>, tcp: &TcpStream) {
    serving.join().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    // A connection that was reset has no peer (getpeername(2)).
    while tcp.peer_addr().is_ok() {
        assert!(Instant::now() < deadline, "no reset came");
        thread::yield_now();
    }
}

/// Another handle to a connection.
fn handle(stream: &TlsStream) -> TcpStream {
    let fd = stream.socket().tcp().as_fd();
    fd.try_clone_to_owned().unwrap().into()
}

/// Runs a future on a runtime that does nothing else, and not even that while it computes.
fn alone<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    runtime.block_on(tokio::task::unconstrained(future))
}

#[test]
fn write_that_meets_a_reset_tells_the_alert_before_it() {
    alone(async {
        let (address, serving) = refusing(TlsVersion::V1_3, |tcp| tcp);
        let mut stream = open(address, TlsVersion::V1_3).await;
        stream.connect().await.unwrap();
        reset(serving, &handle(&stream));
        let request = b"GET / HTTP/1.1\r\n\r\n";
        let sent = poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, request)).await;
        sent.unwrap_err();
        let fault = stream.fault.borrow().clone().expect("a fault");
        assert_eq!(fault.alert(), Some(116), "{fault}");
        let reason = fault.upstream_reason(stream.certificate_was_asked(), false);
        assert_eq!(reason, Reason::UpstreamWantsClientCert);
    });
}

#[test]
fn farewell_that_meets_a_reset_tells_the_alert_before_it() {
    alone(async {
        let (address, serving) = refusing(TlsVersion::V1_3, |tcp| tcp);
        let mut stream = open(address, TlsVersion::V1_3).await;
        stream.connect().await.unwrap();
        reset(serving, &handle(&stream));
        let sent = poll_fn(|cx| Pin::new(&mut stream).poll_shutdown(cx)).await;
        sent.unwrap_err();
        let fault = stream.fault.borrow().clone().expect("a fault");
        assert_eq!(fault.alert(), Some(116), "{fault}");
    });
}

#[test]
fn handshake_that_meets_a_reset_tells_the_alert_before_it() {
    for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
        alone(async {
            let wrap = |tcp| Interrupted {
                tcp,
                reads: true,
                then: &NONSENSE,
            };
            let (address, serving) = refusing(version, wrap);
            let mut stream = open(address, version).await;
            let tcp = handle(&stream);
            {
                let mut connecting = pin!(stream.connect());
                let begun = poll_fn(|cx| Poll::Ready(connecting.as_mut().poll(cx))).await;
                assert!(begun.is_pending(), "it waits for the server");
                reset(serving, &tcp);
                let fault = connecting.await.unwrap_err();
                assert_eq!(fault.alert(), Some(10), "{version:?}: {fault}");
            }
            let fault = stream.fault.borrow().clone().expect("a fault");
            assert_eq!(fault.alert(), Some(10), "{version:?}: {fault}");
        });
    }
}

/// Bytes that tell their place.
fn content(length: usize) -> Vec<u8> {
    (0_u8..=250).cycle().take(length).collect()
}

/// A server that serves one connection.
fn serving<T: Send + 'static>(
    serve: impl FnOnce(ssl::SslStream<TcpStream>) -> T + Send + 'static,
) -> (SocketAddr, JoinHandle<T>) {
    let ca = sample::ca("CA");
    let leaf = sample::leaf(&ca, "up.test", &["up.test"]);
    let pair = KeyPair::parse(&leaf.cert, &leaf.key_pem).unwrap();
    let versions = Versions {
        min: TlsVersion::V1_2,
        max: TlsVersion::V1_3,
    };
    let mut ctx = context::base(SslMethod::tls_server(), versions).unwrap();
    context::install(&mut ctx, &pair).unwrap();
    // Nothing is said but what is asked for.
    ctx.set_num_tickets(0).unwrap();
    let ctx = ctx.build();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serving = thread::spawn(move || {
        let (tcp, _) = listener.accept().unwrap();
        let mut stream = ssl::SslStream::new(Ssl::new(&ctx).unwrap(), tcp).unwrap();
        stream.accept().unwrap();
        serve(stream)
    });
    (address, serving)
}

/// A server that gives back what it read until the end.
fn reading() -> (SocketAddr, JoinHandle<Vec<u8>>) {
    serving(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    })
}

#[test]
fn content_of_several_records_is_written_at_once_and_in_order() {
    alone(async {
        let (address, reading) = reading();
        let mut stream = open(address, TlsVersion::V1_3).await;
        stream.connect().await.unwrap();
        // More than sockets hold: the server takes it meanwhile.
        let content = content(8 << 20);
        let (first, rest) = content.split_at(3 * RECORD + 5);
        let written = poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, first)).await;
        assert_eq!(written.unwrap(), first.len());
        stream.write_all(rest).await.unwrap();
        stream.shutdown().await.unwrap();
        assert!(reading.join().unwrap() == content);
    });
}

/// Waits until so many bytes can be read from a socket.
fn received(tcp: &TcpStream, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut buf = vec![0; count];
    while !matches!(tcp.peek(&mut buf), Ok(there) if there == count) {
        assert!(Instant::now() < deadline, "it did not come");
        thread::yield_now();
    }
}

/// What a record of TLS 1.3 adds to its content.
const WRAPPED: usize = 22;

#[test]
fn what_came_of_long_content_is_read_at_once_and_in_order() {
    alone(async {
        let all = content(8 << 20);
        let said = all.clone();
        let (go_on, goes_on) = mpsc::channel();
        let (address, serving) = serving(move |mut stream| {
            let (first, rest) = said.split_at(3 * RECORD);
            stream.write_all(first).unwrap();
            goes_on.recv().unwrap();
            stream.write_all(rest).unwrap();
            stream.shutdown().unwrap();
        });
        let mut stream = open(address, TlsVersion::V1_3).await;
        stream.connect().await.unwrap();
        received(&handle(&stream), 3 * (RECORD + WRAPPED));
        let mut read = Vec::with_capacity(all.len());
        let mut room = vec![0; 4 * RECORD];
        loop {
            let mut buf = ReadBuf::new(&mut room);
            let done = poll_fn(|cx| Pin::new(&mut stream).poll_read(cx, &mut buf)).await;
            done.unwrap();
            // The first one tells that the content is long.
            match read.len() {
                0 => assert_eq!(buf.filled().len(), RECORD),
                RECORD => {
                    assert_eq!(buf.filled().len(), 2 * RECORD);
                    go_on.send(()).unwrap();
                }
                _ => {}
            }
            if buf.filled().is_empty() {
                break;
            }
            read.extend_from_slice(buf.filled());
        }
        assert!(read == all);
        serving.join().unwrap();
    });
}

#[test]
fn short_records_that_came_are_read_at_once() {
    alone(async {
        let all = content(40 * 500);
        let said = all.clone();
        let (address, serving) = serving(move |mut stream| {
            for record in said.chunks(500) {
                stream.write_all(record).unwrap();
            }
        });
        let mut stream = open(address, TlsVersion::V1_3).await;
        stream.connect().await.unwrap();
        // What libssl asks for, and more.
        received(&handle(&stream), 40 * (500 + WRAPPED));
        let mut room = vec![0; 4 * RECORD];
        let mut buf = ReadBuf::new(&mut room);
        for count in [31 * 500, 40 * 500] {
            let read = poll_fn(|cx| Pin::new(&mut stream).poll_read(cx, &mut buf)).await;
            read.unwrap();
            assert!(buf.filled().len() >= count, "{}", buf.filled().len());
        }
        assert!(buf.filled() == all);
        serving.join().unwrap();
    });
}

#[test]
fn what_was_read_ahead_holds_no_room_when_nobody_reads_on() {
    alone(async {
        let all = content(12 * RECORD);
        let said = all.clone();
        let (address, serving) = serving(move |mut stream| {
            stream.write_all(&said).unwrap();
            stream.shutdown().unwrap();
        });
        let mut stream = open(address, TlsVersion::V1_3).await;
        stream.connect().await.unwrap();
        // All that is waited for fits.
        let tcp = handle(&stream);
        SockRef::from(&tcp).set_recv_buffer_size(200_000).unwrap();
        let mut read = Vec::new();
        // Room that ends with a record, and within one.
        for (records, more) in [(1, 0), (3, 0), (3, 7), (2, 0)] {
            received(&tcp, records * (RECORD + WRAPPED));
            let mut room = vec![0; records * RECORD + more];
            let mut buf = ReadBuf::new(&mut room);
            let done = poll_fn(|cx| Pin::new(&mut stream).poll_read(cx, &mut buf)).await;
            done.unwrap();
            assert!(buf.filled().len() >= records * RECORD);
            read.extend_from_slice(buf.filled());
            let held = stream.socket().held_ahead();
            assert!(held < 1024, "{held} bytes behind {} of content", read.len());
        }
        stream.read_to_end(&mut read).await.unwrap();
        assert!(read == all);
        serving.join().unwrap();
    });
}

#[test]
fn an_end_is_told_once_and_behind_what_came_before_it() {
    use TlsVersion::{V1_2, V1_3};
    for (version, ends_in_order) in [(V1_2, true), (V1_2, false), (V1_3, true), (V1_3, false)] {
        alone(async {
            let (address, serving) = serving(move |mut stream| {
                stream.write_all(&content(2 * RECORD + 9)).unwrap();
                if ends_in_order {
                    stream.shutdown().unwrap();
                }
            });
            let mut stream = open(address, version).await;
            stream.connect().await.unwrap();
            serving.join().unwrap();
            let mut room = vec![0; 6 * RECORD];
            let mut count = 0;
            let end = loop {
                let mut buf = ReadBuf::new(&mut room);
                match poll_fn(|cx| Pin::new(&mut stream).poll_read(cx, &mut buf)).await {
                    Ok(()) if buf.filled().is_empty() => break None,
                    Ok(()) => count += buf.filled().len(),
                    Err(error) => break Some(error.kind()),
                }
            };
            assert_eq!(count, 2 * RECORD + 9);
            let cut = (!ends_in_order).then_some(io::ErrorKind::UnexpectedEof);
            assert_eq!(end, cut);
        });
    }
}

#[test]
fn reset_without_an_alert_is_no_word_of_tls() {
    alone(async {
        let wrap = |tcp: TcpStream| {
            // A reset that came sooner would be one of the call that connects.
            tcp.peek(&mut [0]).unwrap();
            Interrupted {
                tcp,
                reads: false,
                then: &[],
            }
        };
        let (address, serving) = refusing(TlsVersion::V1_3, wrap);
        let mut stream = open(address, TlsVersion::V1_3).await;
        let fault = stream.connect().await.unwrap_err();
        serving.join().unwrap();
        assert!(fault.is_gone(), "{fault}");
        assert_eq!(fault.upstream_reason(false, false), Reason::UpstreamReset);
    });
}
