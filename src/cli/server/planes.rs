//! The admin and status planes on control's thread, and the signals that end the process.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use http::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::service::TowerToHyperService;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use warp::Filter;
use warp::reply::Response;

use crate::admin::{self, Admin, Listener, Peer, Status};
use crate::cli::server::clients::certified;
use crate::cli::server::error::ServeError;
use crate::cli::server::sockets::Plane;
use crate::config::ClientRole;
use crate::net::handshake::Turns;
use crate::net::serve;
use crate::snapshot::link::Command;
use crate::telemetry::access::AccessSink;
use crate::tls::peer::Accepted;
use crate::tls::server::ListenerAcceptor;

/// The workers' threads.
pub(super) type Workers = Vec<JoinHandle<io::Result<()>>>;

/// The admin and status planes, served on control's thread.
pub(super) struct Planes {
    /// What the Admin API works with.
    pub(super) state: Arc<Admin>,
    /// What the status pages show.
    pub(super) status: Arc<Status>,
    /// The planes' sockets.
    pub(super) sockets: Vec<(Plane, StdListener)>,
    /// TLS of the admin listener.
    pub(super) tls: Arc<ListenerAcceptor>,
    /// `admin.https.client_roles`.
    pub(super) client_roles: Arc<[ClientRole]>,
}

impl Planes {
    /// Serves until a signal, then drains the workers and waits for them.
    pub(super) async fn run(
        self,
        workers: Workers,
        commands: Vec<mpsc::UnboundedSender<Command>>,
        sink: Option<&AccessSink>,
    ) -> Result<(), ServeError> {
        let (stop, stopped) = watch::channel(false);
        let turns = Turns::new(2);
        let mut serving = Vec::new();
        for (plane, socket) in self.sockets {
            let stopped = stopped.clone();
            serving.push(match plane {
                Plane::Status => {
                    let filter = admin::status(self.status.clone());
                    let service =
                        move |_, _: Option<&Accepted>| plane_service(filter.clone(), None);
                    tokio::task::spawn_local(serve::serve(socket, None, service, stopped))
                }
                Plane::Admin => {
                    let filter = admin::admin(self.state.clone(), Listener::Http9180);
                    let service = move |addr, _: Option<&Accepted>| {
                        let peer = Peer {
                            addr,
                            certified: None,
                        };
                        plane_service(filter.clone(), Some(peer))
                    };
                    tokio::task::spawn_local(serve::serve(socket, None, service, stopped))
                }
                Plane::AdminHttps => {
                    let filter = admin::admin(self.state.clone(), Listener::Https7443);
                    let roles = self.client_roles.clone();
                    let service = move |addr, accepted: Option<&Accepted>| {
                        let client = accepted.and_then(|accepted| accepted.client.as_ref());
                        let certified = client.and_then(|client| certified(client, &roles));
                        let peer = Peer {
                            addr,
                            certified: certified.map(Arc::new),
                        };
                        plane_service(filter.clone(), Some(peer))
                    };
                    let tls = Some(serve::Tls {
                        acceptor: self.tls.clone(),
                        turns: turns.clone(),
                        agreed: self.state.metrics.negotiated.counts("admin_https"),
                        to_plain_http: to_plain_http(),
                    });
                    tokio::task::spawn_local(serve::serve(socket, tls, service, stopped))
                }
            });
        }
        let mut ended = tokio::task::spawn_blocking(move || join(workers));
        let early = wait_for_end(&mut ended, sink).await?;
        let result = match early {
            Some(result) => result,
            None => {
                tracing::info!("draining: nothing new is accepted, what is in flight is finished");
                for worker in &commands {
                    let _gone = worker.send(Command::Drain);
                }
                ended.await.unwrap_or(Err(ServeError::Worker))
            }
        };
        let _ = stop.send(true);
        for plane in serving {
            let _ = plane.await;
        }
        result
    }
}

/// nginx's page for plain HTTP on a TLS port.
fn to_plain_http() -> Bytes {
    let said = "The plain HTTP request was sent to HTTPS port";
    let page = format!(
        "<html>\r\n<head><title>400 {said}</title></head>\r\n<body>\r\n\
         <center><h1>400 Bad Request</h1></center>\r\n<center>{said}</center>\r\n\
         <hr><center>Portcullis</center>\r\n</body>\r\n</html>\r\n"
    );
    let length = page.len();
    let head = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/html\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n"
    );
    (head + &page).into()
}

/// A hyper service that hands each request to a warp filter, with the client's address.
fn plane_service<F>(
    filter: F,
    peer: Option<Peer>,
) -> impl Service<Request<Incoming>, Response = Response, Error = Infallible>
where
    F: Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static,
{
    let service = TowerToHyperService::new(warp::service(filter));
    service_fn(move |mut req: Request<Incoming>| {
        if let Some(peer) = peer.clone() {
            req.extensions_mut().insert(peer);
        }
        service.call(req)
    })
}

/// Waits for SIGTERM or SIGINT, or for a worker that ends by itself. SIGUSR1 reopens the access
/// log's file.
async fn wait_for_end(
    ended: &mut tokio::task::JoinHandle<Result<(), ServeError>>,
    sink: Option<&AccessSink>,
) -> io::Result<Option<Result<(), ServeError>>> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut usr1 = signal(SignalKind::user_defined1())?;
    loop {
        tokio::select! {
            _ = term.recv() => return Ok(None),
            _ = int.recv() => return Ok(None),
            _ = usr1.recv() => if let Some(sink) = sink { sink.reopen(); },
            result = &mut *ended => return Ok(Some(result.unwrap_or(Err(ServeError::Worker)))),
        }
    }
}

/// Waits for every worker's thread.
fn join(workers: Workers) -> Result<(), ServeError> {
    let mut result = Ok(());
    for worker in workers {
        match worker.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => result = Err(ServeError::System(error)),
            Err(_panic) => result = Err(ServeError::Worker),
        }
    }
    result
}
