//! Listening sockets: bound once at start, one per worker and address, and the accept loop.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

/// Connections the kernel queues per socket; it caps this at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// How long accepting rests when the process is out of descriptors or memory.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct BindError {
    /// The address meant.
    pub address: SocketAddr,
    /// The system's reason.
    pub source: io::Error,
}

/// Binds `count` sockets to one address, among which the kernel spreads connections
/// (`SO_REUSEPORT`, `socket(7)`). Port 0 becomes the same free port for all.
///
/// # Errors
/// [`BindError`]: in use, not permitted, or no such address.
pub fn bind(address: SocketAddr, count: usize) -> Result<Vec<StdListener>, BindError> {
    let fail = |source| BindError { address, source };
    // Whether another process listens there: with SO_REUSEPORT two gateways of one user would
    // otherwise silently share the port.
    if address.port() != 0 {
        open(address, false).map_err(fail)?;
    }
    let mut sockets = Vec::with_capacity(count);
    let mut actual = address;
    for _ in 0..count.max(1) {
        let socket = open(actual, true).map_err(fail)?;
        actual = socket.local_addr().map_err(fail)?;
        sockets.push(socket);
    }
    Ok(sockets)
}

fn open(address: SocketAddr, shared: bool) -> io::Result<StdListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    // Small answers must not wait for more (Nagle). Linux hands it on to what is accepted.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The next connection. Waits out errors of single connections and exhausted resources.
pub async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if is_connection_error(&error) => {}
            Err(error) => {
                tracing::error!(error = %error, "cannot accept connections");
                tokio::time::sleep(EXHAUSTED).await;
            }
        }
    }
}

/// Errors of the one connection that was being accepted (`accept(2)`).
fn is_connection_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_one_address_share_a_port_and_keep_others_out() {
        let sockets = bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let address = sockets[0].local_addr().unwrap();
        assert_eq!(address, sockets[1].local_addr().unwrap());
        let error = bind(address, 1).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn what_is_accepted_waits_for_nothing_to_send() {
        let socket = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        let listener = TcpListener::from_std(socket).unwrap();
        let address = listener.local_addr().unwrap();
        let (client, (served, peer)) = tokio::join!(TcpStream::connect(address), accept(&listener));
        assert_eq!(client.unwrap().local_addr().unwrap(), peer);
        assert!(served.nodelay().unwrap());
    }
}
