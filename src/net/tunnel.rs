//! Tunnels through a forward proxy: it is asked by `CONNECT` (RFC 9110 §9.3.6) and carries what is
//! spoken within, over `https` unread.
//!
//! Knows HTTP proxies only, and no environment variables.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{copy, split};
use tokio::net::{TcpStream, UnixStream};

use crate::config::NoProxy;
use crate::failure::{Reason, chain};
use crate::net::dial::{self, DialError, Dialer, Target};
use crate::net::http::{Origin, Tls};
use crate::net::stream::Stream;
use crate::net::sweep::Until;
use crate::tls::socket::{Activity, Socket};
use crate::tls::stream::TlsStream;

/// A forward proxy, and what is reached without it.
pub struct Proxy {
    origin: Origin,
    peer: Arc<str>,
    tls: Option<Tls>,
    authorization: Option<HeaderValue>,
    bypasses: Vec<NoProxy>,
}

impl Proxy {
    /// A proxy, to which nothing is connected yet. `tls` is used where its origin is `https`;
    /// `authorization` is shown to it with every `CONNECT`, and to nobody else.
    #[must_use]
    pub fn new(
        origin: Origin,
        tls: Option<Tls>,
        authorization: Option<HeaderValue>,
        bypasses: Vec<NoProxy>,
    ) -> Self {
        Self {
            peer: origin.peer(),
            tls: tls.filter(|_| origin.is_tls),
            origin,
            authorization,
            bypasses,
        }
    }

    /// Whether it is on the way to this origin. Loopback and link-local addresses, where a machine
    /// has its own agents and metadata, are never reached through a proxy, nor is `localhost`.
    #[must_use]
    pub fn leads_to(&self, origin: &Origin) -> bool {
        let is_near = match dial::literal(&origin.host) {
            Some(address) => is_near(address),
            None => {
                let name = origin.host.trim_end_matches('.').to_ascii_lowercase();
                name == "localhost" || name.ends_with(".localhost")
            }
        };
        let mut bypasses = self.bypasses.iter();
        !is_near && !bypasses.any(|entry| entry.covers(&origin.host, origin.port))
    }

    /// Opens a connection to a target through it before `until`, handshakes with both included.
    ///
    /// Cancel safe: the connection is closed.
    ///
    /// # Errors
    /// [`DialError`]; its words name the proxy.
    pub(super) async fn dial(
        &self,
        dialer: &Dialer,
        target: &Target<'_>,
        until: Until,
    ) -> Result<Stream, DialError> {
        let opening = Box::pin(self.open(dialer, target));
        let opened = match dialer.sweep.within(until, opening).await {
            Ok(opened) => opened,
            Err(expired) => Err(dial::failed(Reason::UpstreamTimeout, &expired)),
        };
        opened.map_err(|error| DialError {
            detail: format!("by way of the proxy {}: {}", self.origin, error.detail),
            ..error
        })
    }

    async fn open(&self, dialer: &Dialer, target: &Target<'_>) -> Result<Stream, DialError> {
        dialer.check_literal(target.host, target.port)?;
        let own = self.origin.target(&self.peer, self.tls.as_ref());
        let stream = self.ask(dialer.open(&own).await?, target).await?;
        if target.tls.is_none() {
            return Ok(stream);
        }
        let socket = match stream {
            Stream::Plain(socket) => socket,
            Stream::Tls(outer) => {
                let bridged = bridge(outer, Activity::new(dialer.sweep.clock()));
                bridged.map_err(|error| dial::failed(Reason::UpstreamUnreachable, &error))?
            }
        };
        let shaken = dialer.shake(target, socket).await;
        shaken.map_err(|refused| refused.error)
    }

    /// Asks for a tunnel over a connection to the proxy, which is then what the tunnel carries.
    async fn ask(&self, stream: Stream, target: &Target<'_>) -> Result<Stream, DialError> {
        let request = self.request(target).map_err(|error| DialError {
            reason: Reason::UpstreamUnreachable,
            detail: format!("it cannot be asked for {}: {error}", target.peer),
        })?;
        let broken = |error: hyper::Error| DialError {
            reason: Reason::UpstreamUnreachable,
            detail: format!("it does not answer as a proxy: {}", chain(&error)),
        };
        let (mut sender, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let asked = async move {
            let answer = sender.send_request(request).await;
            // The sender and the answer's body end here: what follows is the tunnel's.
            answer.map(|answer| answer.status())
        };
        let driving = driver.without_shutdown();
        tokio::pin!(asked, driving);
        let mut left = None;
        let status = loop {
            tokio::select! {
                biased;
                status = &mut asked => break status,
                ended = &mut driving, if left.is_none() => left = Some(ended),
            }
        };
        let status = status.map_err(broken)?;
        if !status.is_success() {
            return Err(refused(status, target));
        }
        let left = match left {
            Some(left) => left,
            None => driving.await,
        };
        let left = left.map_err(broken)?;
        if left.read_buf.is_empty() {
            Ok(left.io.into_inner())
        } else {
            // Neither TLS nor HTTP begins with the server.
            Err(DialError {
                reason: Reason::UpstreamUnreachable,
                detail: "it spoke where only the manager may".to_owned(),
            })
        }
    }

    fn request(&self, target: &Target<'_>) -> Result<Request<Empty<Bytes>>, http::Error> {
        let authority = &**target.peer;
        let mut request = Request::builder()
            .method(Method::CONNECT)
            .uri(Uri::builder().authority(authority).build()?)
            .header(header::HOST, authority);
        if let Some(authorization) = &self.authorization {
            request = request.header(header::PROXY_AUTHORIZATION, authorization);
        }
        request.body(Empty::new())
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// Loopback, link-local and unspecified addresses, IPv4 ones also in IPv6's clothes.
fn is_near(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4 == Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified(),
    }
}

/// What a proxy means that does not open a tunnel. (RFC 9110 §15.5, §15.6)
fn refused(status: StatusCode, target: &Target<'_>) -> DialError {
    let (reason, what) = match status {
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => (
            Reason::UpstreamRefused,
            "wants other credentials than `secrets.proxy.username` and `secrets.proxy.password`",
        ),
        StatusCode::GATEWAY_TIMEOUT => (Reason::UpstreamTimeout, "got no answer of"),
        status if status.is_server_error() => (Reason::UpstreamUnreachable, "cannot reach"),
        _ => (Reason::UpstreamRefused, "does not connect to"),
    };
    let whom = match status {
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => String::new(),
        _ => format!(" {}", target.peer),
    };
    DialError {
        reason,
        detail: format!("it {what}{whom}: {}", status.as_u16()),
    }
}

/// A socket whose bytes travel over a TLS connection, as a second one is spoken within: a pair of
/// connected sockets of which no other process knows, and a task between one of them and the
/// connection, for as long as both live.
fn bridge(outer: Box<TlsStream>, activity: Rc<Activity>) -> io::Result<Socket> {
    let (near, far) = StdUnixStream::pair()?;
    near.set_nonblocking(true)?;
    far.set_nonblocking(true)?;
    let far = UnixStream::from_std(far)?;
    // It is read, written and ended as any stream of bytes; that it has no port matters to nobody.
    let near = std::net::TcpStream::from(OwnedFd::from(near));
    let near = TcpStream::from_std(near)?;
    tokio::task::spawn_local(async move {
        let (mut outer_in, mut outer_out) = split(*outer);
        let (mut near_in, mut near_out) = far.into_split();
        // What either side's end leaves unsaid is nobody's: an answer that is not whole is told
        // where it is read.
        tokio::select! {
            _ended = copy(&mut outer_in, &mut near_out) => {}
            _ended = copy(&mut near_in, &mut outer_out) => {}
        }
    });
    Ok(Socket::new(near, activity))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::pending;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::LocalSet;

    use super::*;
    use crate::net::dial::Forbidden;
    use crate::net::http::{Answer, Client, HttpError, Limits};
    use crate::net::resolve::Resolver;
    use crate::net::sweep::Sweep;

    fn origin(url: &str) -> Origin {
        Origin::parse(url).unwrap()
    }

    fn proxy(bypasses: &[&str]) -> Proxy {
        let bypasses = bypasses.iter().map(|text| NoProxy::parse(text).unwrap());
        Proxy::new(origin("http://proxy.test"), None, None, bypasses.collect())
    }

    #[test]
    fn what_is_near_or_listed_is_reached_without_it() {
        let proxy = proxy(&["internal.test", "10.0.0.0/8", "a.test:8200"]);
        for (url, is_led) in [
            ("https://vault.test:8200", true),
            ("https://192.0.2.1", true),
            ("https://a.test", true),
            ("https://[2001:db8::1]", true),
            ("https://localhost.test", true),
            ("https://a.test:8200", false),
            ("https://vault.internal.test", false),
            ("https://10.1.2.3:8200", false),
            ("https://127.0.0.1:8200", false),
            ("https://127.1:8200", false),
            ("https://localhost:8200", false),
            ("https://vault.LOCALHOST.", false),
            ("https://[::1]:8200", false),
            ("https://[::ffff:127.0.0.1]:8200", false),
            ("http://169.254.169.254", false),
            ("http://[fe80::1]", false),
            ("http://[::ffff:169.254.169.254]", false),
            ("http://0.0.0.0", false),
        ] {
            assert_eq!(proxy.leads_to(&origin(url)), is_led, "{url}");
        }
    }

    /// What comes of asking `manager` by way of a proxy that gives these answers, one after each head
    /// of a request, and what it saw.
    async fn ask(manager: &str, answers: &[&str]) -> (Result<Answer, HttpError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = RefCell::new(Vec::new());
        let serving = async {
            let (mut tcp, _) = listener.accept().await.unwrap();
            for answer in answers {
                while !seen.borrow().ends_with(b"\r\n\r\n") {
                    let byte = tcp.read_u8().await.unwrap();
                    seen.borrow_mut().push(byte);
                }
                tcp.write_all(answer.as_bytes()).await.unwrap();
                seen.borrow_mut().push(b'|');
            }
            pending().await
        };
        let asking = async {
            let sweep = Sweep::new();
            let ticking = tokio::task::spawn_local(sweep.clone().run(|| {}));
            let dialer = Dialer::new(sweep.clone(), Arc::default(), Resolver::system());
            let limits = Limits {
                connect: Duration::from_millis(if answers.is_empty() { 50 } else { 5000 }),
                answer: Duration::from_secs(5),
                body_bytes: 64,
            };
            let basic = HeaderValue::from_static("Basic aHVzaDpodXNo");
            let proxy = Proxy::new(origin(&url), None, Some(basic), Vec::new());
            let client = Client::new(origin(manager), None, limits, sweep, dialer);
            let client = client.by_way_of(Some(Arc::new(proxy)));
            let request = Request::get("/v1/x").header("x-vault-token", "hush-token");
            let told = client.send(request.body(Bytes::new()).unwrap()).await;
            ticking.abort();
            told
        };
        let told = LocalSet::new()
            .run_until(async {
                tokio::select! {
                    told = asking => told,
                    never = serving => never,
                }
            })
            .await;
        (told, String::from_utf8(seen.into_inner()).unwrap())
    }

    const OPEN: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

    #[tokio::test]
    async fn manager_is_asked_through_the_tunnel_and_credentials_stay_with_the_proxy() {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        let (told, seen) = ask("http://manager.test:8200", &[OPEN, answer]).await;
        assert_eq!(told.unwrap().body, "ok");
        let (connect, inner) = seen.split_once('|').unwrap();
        assert!(
            connect.starts_with("CONNECT manager.test:8200 HTTP/1.1\r\n"),
            "{connect}"
        );
        assert!(
            connect.contains("\r\nhost: manager.test:8200\r\n"),
            "{connect}"
        );
        assert!(connect.contains("\r\nproxy-authorization: Basic aHVzaDpodXNo\r\n"));
        assert!(!connect.contains("hush-token"), "{connect}");
        assert!(inner.starts_with("GET /v1/x HTTP/1.1\r\n"), "{inner}");
        assert!(!inner.contains("proxy-authorization"), "{inner}");
        // An IPv6 address keeps its brackets.
        let (_, seen) = ask("http://[2001:db8::1]:8200", &[OPEN, answer]).await;
        assert!(
            seen.starts_with("CONNECT [2001:db8::1]:8200 HTTP/1.1\r\n"),
            "{seen}"
        );
    }

    #[tokio::test]
    async fn proxy_that_opens_no_tunnel_is_named_with_what_it_says() {
        const MANAGER: &str = "http://manager.test:8200";
        for (answers, reason, words) in [
            (
                &["HTTP/1.1 407 No\r\ncontent-length: 4\r\n\r\nhush"][..],
                Reason::UpstreamRefused,
                "`secrets.proxy.password`: 407",
            ),
            (
                &["HTTP/1.1 403 No\r\ncontent-length: 900\r\n\r\nhush"],
                Reason::UpstreamRefused,
                "it does not connect to manager.test:8200: 403",
            ),
            (
                &["HTTP/1.1 502 No\r\n\r\nhush"],
                Reason::UpstreamUnreachable,
                "it cannot reach manager.test:8200: 502",
            ),
            (
                &["HTTP/1.1 504 No\r\ncontent-length: 0\r\n\r\n"],
                Reason::UpstreamTimeout,
                "it got no answer of manager.test:8200: 504",
            ),
            (
                &["SSH-2.0-proxy\r\n\r\n"],
                Reason::UpstreamUnreachable,
                "it does not answer as a proxy: ",
            ),
            (
                &["HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"],
                Reason::UpstreamUnreachable,
                "it spoke where only the manager may",
            ),
            (&[], Reason::UpstreamTimeout, "the time limit has passed"),
        ] {
            let (told, _) = ask(MANAGER, answers).await;
            let Err(HttpError::Dial(error)) = told else {
                panic!("{answers:?}: {told:?}");
            };
            assert_eq!(error.reason, reason, "{error}");
            let text = error.to_string();
            assert!(
                text.starts_with("by way of the proxy http://127.0.0.1:"),
                "{text}"
            );
            assert!(text.contains(words) && !text.contains("hush"), "{text}");
        }
    }

    #[tokio::test]
    async fn address_of_ours_is_not_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let own = ["192.0.2.1:9180".parse().unwrap()];
        let work = async {
            let sweep = Sweep::new();
            let forbidden = Arc::new(Forbidden::new(own));
            let dialer = Dialer::new(sweep.clone(), forbidden, Resolver::system());
            let proxy = Proxy::new(origin(&url), None, None, Vec::new());
            for host in ["192.0.2.1", "0xc0000201", "::ffff:192.0.2.1"] {
                let peer: Arc<str> = format!("{host}:9180").into();
                let target = Target {
                    host,
                    port: 9180,
                    ip: None,
                    peer: &peer,
                    object: &peer,
                    tls: None,
                };
                let until = sweep.after(Duration::from_secs(5));
                let told = proxy.dial(&dialer, &target, until).await.unwrap_err();
                assert_eq!(told.reason, Reason::UpstreamIsSelf, "{host}");
            }
        };
        LocalSet::new().run_until(work).await;
    }

    #[test]
    fn debug_shows_no_credentials() {
        let hush = HeaderValue::from_static("Basic aHVzaA==");
        let proxy = Proxy::new(origin("http://proxy.test"), None, Some(hush), Vec::new());
        assert!(!format!("{proxy:?}").contains("aHVzaA"));
    }
}
