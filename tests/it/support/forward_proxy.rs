//! A forward proxy that opens tunnels for who shows its credentials, to any name at all on the
//! loopback, and keeps what came from clients.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openssl::base64::encode_block;

use super::origin::{TcpOrigin, read_head_from};
use super::pki::Pair;

/// How long one side of a tunnel is listened to before it is the other's turn.
const TURN: Duration = Duration::from_millis(5);

/// A running proxy; its tunnels end with their clients.
pub(crate) struct ForwardProxy {
    origin: TcpOrigin,
    scheme: &'static str,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl ForwardProxy {
    /// One that is spoken to in the clear; `credentials` are `user:password`.
    pub(crate) fn plain(credentials: &str) -> Self {
        let (seen, wanted) = (Arc::default(), wanted(credentials));
        let kept = Arc::clone(&seen);
        let origin = TcpOrigin::serving(move |conn| {
            let own = conn.try_clone().expect("a second handle");
            serve(conn, &own, &wanted, &kept);
        });
        Self {
            origin,
            scheme: "http",
            seen,
        }
    }

    /// One that is spoken to over TLS.
    pub(crate) fn tls(credentials: &str, pair: &Pair) -> Self {
        let (seen, wanted) = (Arc::default(), wanted(credentials));
        let kept = Arc::clone(&seen);
        let origin = TcpOrigin::serving_tls(pair, move |conn| {
            let own = conn.get_ref().try_clone().expect("a second handle");
            serve(conn, &own, &wanted, &kept);
        });
        Self {
            origin,
            scheme: "https",
            seen,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.origin.port())
    }

    /// All that clients sent, tunnels' bytes as they came.
    pub(crate) fn seen(&self) -> String {
        let seen = self.seen.lock().expect("no holder panics");
        String::from_utf8_lossy(&seen).into_owned()
    }
}

fn wanted(credentials: &str) -> String {
    format!("Basic {}", encode_block(credentials.as_bytes()))
}

fn serve(mut conn: impl Read + Write, tcp: &TcpStream, wanted: &str, seen: &Mutex<Vec<u8>>) {
    let keep = |bytes: &[u8]| {
        seen.lock()
            .expect("no holder panics")
            .extend_from_slice(bytes);
    };
    let head = read_head_from(&mut conn);
    keep(head.as_bytes());
    let Some(port) = head
        .strip_prefix("CONNECT ")
        .and_then(|rest| rest.split_once(' ')?.0.rsplit_once(':')?.1.parse().ok())
    else {
        let _gone = conn.write_all(b"HTTP/1.1 405 Not here\r\ncontent-length: 0\r\n\r\n");
        return;
    };
    if !head.contains(wanted) {
        let _gone = conn.write_all(b"HTTP/1.1 407 No\r\ncontent-length: 0\r\n\r\n");
        return;
    }
    let Ok(mut there) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else {
        let _gone = conn.write_all(b"HTTP/1.1 502 No\r\ncontent-length: 0\r\n\r\n");
        return;
    };
    if conn.write_all(b"HTTP/1.1 200 OK\r\n\r\n").is_err() {
        return;
    }
    for side in [tcp, &there] {
        side.set_read_timeout(Some(TURN)).expect("a time-out");
    }
    loop {
        match pass(&mut conn, &mut there) {
            Some(bytes) => keep(&bytes),
            None => return,
        }
        if pass(&mut there, &mut conn).is_none() {
            return;
        }
    }
}

/// Passes on what one side says in its turn; `None` when a side is gone.
fn pass(from: &mut impl Read, into: &mut impl Write) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 16 * 1024];
    let count = match from.read(&mut bytes) {
        Ok(0) => return None,
        Ok(count) => count,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => 0,
        Err(_) => return None,
    };
    bytes.truncate(count);
    into.write_all(&bytes).ok()?;
    Some(bytes)
}
