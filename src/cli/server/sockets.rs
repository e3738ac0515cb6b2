//! Binds every socket of the process, before anything is opened or served.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};

use crate::cli::server::error::ServeError;
use crate::config::{Config, ListenAddr};
use crate::net::listener::{self, BindError};

/// A plane's listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plane {
    Admin,
    AdminHttps,
    Status,
}

impl Plane {
    /// Its listeners' name in the log.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::AdminHttps => "admin_https",
            Self::Status => "status",
        }
    }
}

/// Every socket, bound before anything is served.
pub(super) struct Sockets {
    /// Per data listener: name, address, one socket per worker.
    pub(super) data: Vec<(&'static str, SocketAddr, Vec<StdListener>)>,
    /// Per plane listener its socket.
    pub(super) planes: Vec<(Plane, StdListener)>,
    /// Admin and status addresses: no node may be one of them.
    pub(super) own: Vec<SocketAddr>,
}

impl Sockets {
    pub(super) fn bind(config: &Config) -> Result<Self, ServeError> {
        let workers = config.worker_count();
        let mut data = Vec::new();
        for (name, addresses) in [
            ("http", &config.http.listen),
            ("https", &config.https.listen),
        ] {
            for address in addresses {
                let Some(sockets) = bind(address, workers)? else {
                    continue;
                };
                let Some(local) = local(&sockets)? else {
                    continue;
                };
                tracing::info!(listener = name, address = %local, "listening");
                data.push((name, local, sockets));
            }
        }
        let (mut planes, mut own) = (Vec::new(), Vec::new());
        for (plane, addresses) in [
            (Plane::Admin, &config.admin.listen),
            (Plane::AdminHttps, &config.admin.https.listen),
            (Plane::Status, &config.status.listen),
        ] {
            let name = plane.name();
            for address in addresses {
                let Some(sockets) = bind(address, 1)? else {
                    continue;
                };
                let Some(local) = local(&sockets)? else {
                    continue;
                };
                tracing::info!(listener = name, address = %local, "listening");
                own.push(local);
                planes.extend(sockets.into_iter().map(|socket| (plane, socket)));
            }
        }
        Ok(Self { data, planes, own })
    }
}

/// Binds an address; `None` where it is optional and the machine does not have it.
fn bind(address: &ListenAddr, count: usize) -> Result<Option<Vec<StdListener>>, BindError> {
    match listener::bind(address.addr, count) {
        Ok(sockets) => Ok(Some(sockets)),
        Err(error)
            if address.is_optional
                && matches!(
                    error.source.kind(),
                    io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported
                ) =>
        {
            tracing::info!(address = %address.addr, "not available on this machine, left out");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn local(sockets: &[StdListener]) -> io::Result<Option<SocketAddr>> {
    sockets.first().map(StdListener::local_addr).transpose()
}
