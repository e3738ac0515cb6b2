//! Puts the gateway together and runs it: sockets, store, control, workers, planes, the end.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::admin::attempts::Attempts;
use crate::admin::{Admin, Allowed, Naming, Status};
use crate::cli::server::access;
use crate::cli::server::error::ServeError;
use crate::cli::server::fips;
use crate::cli::server::keeping;
use crate::cli::server::planes::{Planes, Workers};
use crate::cli::server::process::raise_file_limit;
use crate::cli::server::secrets;
use crate::cli::server::sockets::Sockets;
use crate::cli::server::standalone::Standalone;
use crate::config::{self, Config};
use crate::control::Control;
use crate::control::evidence::Surroundings;
use crate::crypto::mac::MacKey;
use crate::crypto::{self, memory, rand};
use crate::matching::path_reading::PathReading;
use crate::matching::sni::SniName;
use crate::net::dial::Forbidden;
use crate::net::handshake::Turns;
use crate::net::resolve::Resolver;
use crate::net::sweep::Sweep;
use crate::proxy::loops::Mark;
use crate::proxy::settings::{ClientAuthNames, Nginx400, Settings};
use crate::proxy::worker::{self, Inbound};
use crate::resource::Flavour;
use crate::secrets::desk::{desk, serve as serve_desk};
use crate::snapshot::choose::Chooser;
use crate::snapshot::link::WorkerLink;
use crate::snapshot::live::Live;
use crate::telemetry::access::{AccessLog, AccessSink, Target};
use crate::telemetry::failures::Failures;
use crate::telemetry::metrics::Metrics;
use crate::tls::cache::Contexts;
use crate::tls::material::KeyPair;
use crate::tls::server::{ListenerAcceptor, SessionCache};
use crate::tls::tickets::{Origin, TicketKeys};

/// Asks of workers that may wait for control.
const ASKS: usize = 1024;
/// Idle upstream connections a worker keeps over all upstreams.
const POOLED: usize = 4096;
/// The port of `https` URLs that name none (RFC 9110 §4.2.2).
const HTTPS_PORT: u16 = 443;
/// Time for the last access records to be written.
const LAST_RECORDS: Duration = Duration::from_secs(2);

/// Runs until SIGTERM or SIGINT; then no connection is accepted, what is in flight is finished
/// within `shutdown_timeout`, and the call returns. With a file, it is what is served.
pub(super) fn run(config: &Config, file: Option<&Path>) -> Result<(), ServeError> {
    let started_at = SystemTime::now();
    raise_file_limit();
    let sockets = Sockets::bind(config)?;
    let metrics = Arc::new(Metrics::new()?);
    metrics.set_build_info(env!("CARGO_PKG_VERSION"), crypto::version());
    metrics.fips.set(i64::from(config.fips.is_required));
    metrics.fips_operational.set(i64::from(
        config.fips.is_required && crypto::fips::is_operational(),
    ));
    let failures = Arc::new(Failures::default());
    let sink = match target(&config.access_log) {
        Some(target) => Some(AccessSink::start(target, metrics.access_dropped.clone())?),
        None => None,
    };
    let live = Arc::new(Live::default());
    let contexts = Arc::new(Contexts::new(
        u64::try_from(config.limits.contexts).unwrap_or(u64::MAX),
    ));
    let (asks_in, asks) = mpsc::channel(ASKS);
    let mut commands = Vec::new();
    let mut links = Vec::new();
    for _ in 0..config.worker_count() {
        let (sender, receiver) = mpsc::unbounded_channel();
        commands.push(sender);
        links.push(WorkerLink {
            asks: asks_in.clone(),
            commands: receiver,
        });
    }
    drop(asks_in);
    let keeping = match file {
        Some(_) => keeping::open_declared(config)?,
        None => keeping::open(config)?,
    };
    if let Some(warning) = &keeping.warning {
        tracing::warn!("{warning}");
    }
    let kek = keeping.keys.clone();
    let mut parts = keeping::parts(
        config,
        keeping,
        live.clone(),
        contexts.clone(),
        metrics.clone(),
    )?;
    parts.workers.clone_from(&commands);
    let (desk, orders) = desk();
    parts.desk = Some(desk);
    let secret_rules = parts.rules.secrets;
    let secret_settings = secrets::settings(config)?;
    let forbidden = Arc::new(Forbidden::new(sockets.own.iter().copied()));
    parts.rules.own = forbidden.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let servers = &config.resolver.servers;
    let resolver = Resolver::dns(servers, draw_id, runtime.handle().clone());
    parts.rules.resolver = resolver.clone();
    let control = Control::open(parts)?;
    let standalone = match file {
        Some(path) => Some(Standalone::adopt(path, &control)?),
        None => None,
    };
    let keys = access::keys(config)?;
    let admin_pair = access::obtain_admin_pair(config)?;
    let evidence = Arc::new(surroundings(config, &sockets, &admin_pair, started_at)?);
    let admin_tls = access::acceptor(config, admin_pair)?;
    let tickets = ticket_keys(config)?;
    let own = Own {
        config,
        tickets: tickets.as_ref(),
        live: &live,
        contexts: &contexts,
        metrics: &metrics,
        resolver: &resolver,
    };
    let workers = own.spawn(links, sockets.data, &forbidden, &failures, sink.as_ref())?;

    let state = Arc::new(Admin {
        control: control.clone(),
        live,
        failures,
        metrics: metrics.clone(),
        keys,
        https_flavour: match config.admin.https.flavour {
            config::Flavour::Api7 => Flavour::Api7,
            config::Flavour::Apisix => Flavour::Apisix,
        },
        cors: config.admin.cors.clone(),
        allow_admin: Allowed {
            http: config.admin.allow_admin.clone(),
            https: config.admin.https.allow_admin.clone(),
        },
        attempts: Attempts::default(),
        evidence,
        served: standalone.as_ref().map(Standalone::served),
    });
    let status = Arc::new(Status {
        control: control.clone(),
        metrics: metrics.clone(),
        naming: match standalone {
            Some(_) => Naming::Declared,
            None => Naming::Stored,
        },
    });
    let planes = Planes {
        state,
        status,
        sockets: sockets.planes,
        tls: admin_tls,
        client_roles: config.admin.https.client_roles.clone().into(),
    };
    let ended = LocalSet::new().block_on(&runtime, async {
        if let Some(standalone) = standalone {
            tokio::task::spawn_local(standalone.watch());
        }
        let watching = control.clone();
        let interval = config.fips.self_test_interval;
        tokio::task::spawn_local(async move { watching.watch_module(interval).await });
        let sweep = Sweep::new();
        tokio::task::spawn_local(Rc::clone(&sweep).run(|| {}));
        let news = orders.news.clone();
        let counted = Arc::clone(&metrics);
        let ground = secrets::ground(
            secret_settings,
            secret_rules,
            sweep,
            forbidden,
            resolver,
            news,
            counted,
        );
        tokio::task::spawn_local(serve_desk(orders, ground, metrics));
        if let Some(kek) = kek {
            let rekeying = control.clone();
            tokio::task::spawn_local(async move { rekeying.watch_key(kek).await });
        }
        let examining = control.clone();
        tokio::task::spawn_local(async move { examining.examine_taken().await });
        if let Some(tickets) = tickets {
            let turning = control.clone();
            tokio::task::spawn_local(async move { turning.turn_ticket_keys(&tickets).await });
        }
        let refreshing = control.clone();
        tokio::task::spawn_local(async move { refreshing.refresh_secrets().await });
        let expiring = control.clone();
        tokio::task::spawn_local(async move { expiring.delete_expired().await });
        let checking = control.clone();
        tokio::task::spawn_local(async move { checking.check_nodes().await });
        tokio::task::spawn_local(async move { control.serve_asks(asks).await });
        planes.run(workers, commands, sink.as_ref()).await
    });
    // Blocking work of control may still be writing: it is waited for.
    runtime.shutdown_timeout(config.shutdown_timeout);
    if let Some(sink) = sink {
        sink.close(LAST_RECORDS);
    }
    tracing::info!("portcullis ends");
    ended
}

/// What the report on FIPS mode says of this process.
fn surroundings(
    config: &Config,
    sockets: &Sockets,
    admin_pair: &KeyPair,
    started_at: SystemTime,
) -> Result<Surroundings, ServeError> {
    let data = sockets.data.iter();
    let data = data.map(|(name, address, _)| (*name, *address));
    let planes = sockets.planes.iter().map(|(plane, socket)| {
        let address = socket.local_addr()?;
        Ok::<_, io::Error>((plane.name(), address))
    });
    let planes = planes.collect::<Result<Vec<_>, _>>()?;
    Ok(Surroundings {
        is_serving: true,
        started_at,
        ..fips::surroundings(config, data.chain(planes), Some(admin_pair))?
    })
}

/// Ids of DNS questions, from OpenSSL's generator.
fn draw_id() -> io::Result<u16> {
    let bytes = rand::array().map_err(io::Error::other)?;
    Ok(u16::from_be_bytes(bytes))
}

/// The keys of session tickets, where clients get any.
fn ticket_keys(config: &Config) -> Result<Option<Arc<TicketKeys>>, ServeError> {
    if !config.https.session_tickets {
        return Ok(None);
    }
    let origin = match &config.https.session_ticket_secret {
        Some(secret) => Origin::Shared(MacKey::from_bytes(secret.expose().as_bytes())),
        None => Origin::Drawn,
    };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let keys = TicketKeys::new(origin, config.https.session_cache.timeout, now)?;
    Ok(Some(Arc::new(keys)))
}

fn target(log: &config::AccessLog) -> Option<Target> {
    match log {
        config::AccessLog::Off => None,
        config::AccessLog::Stdout => Some(Target::Stdout),
        config::AccessLog::File(path) => Some(Target::File(path.clone())),
    }
}

/// What the workers share.
struct Own<'a> {
    config: &'a Config,
    tickets: Option<&'a Arc<TicketKeys>>,
    live: &'a Arc<Live>,
    contexts: &'a Arc<Contexts>,
    metrics: &'a Arc<Metrics>,
    resolver: &'a Resolver,
}

impl Own<'_> {
    fn spawn(
        &self,
        links: Vec<WorkerLink>,
        data: Vec<(&'static str, SocketAddr, Vec<StdListener>)>,
        forbidden: &Arc<Forbidden>,
        failures: &Arc<Failures>,
        sink: Option<&AccessSink>,
    ) -> Result<Workers, ServeError> {
        let config = self.config;
        let fallback = match &config.https.fallback_sni {
            Some(name) => Some(
                SniName::parse(name.as_bytes())
                    .map_err(|error| ServeError::Fallback(error.to_string()))?,
            ),
            None => None,
        };
        let https_port = https_port(&data);
        let start = rand::hex_id(6)?;
        let mark = Mark::new(&start)?;
        let settings = Arc::new(settings(config, mark, fallback.clone(), https_port));
        let turns = Turns::new(config.handshake_count());
        let sessions = SessionCache {
            sessions: i32::try_from(config.https.session_cache.size).unwrap_or(i32::MAX),
            timeout_seconds: u32::try_from(config.https.session_cache.timeout.as_secs())
                .unwrap_or(u32::MAX),
            ..SessionCache::default()
        };
        let mut shares: Vec<Vec<(Inbound, StdListener)>> = Vec::new();
        shares.resize_with(links.len(), Vec::new);
        for (name, local, sockets) in data {
            let acceptor = if name == "https" {
                let chooser =
                    Chooser::new(self.live.clone(), self.contexts.clone(), fallback.clone());
                let tickets = self.tickets.cloned();
                let acceptor = ListenerAcceptor::new(Arc::new(chooser), sessions, tickets)
                    .map_err(|error| ServeError::ListenerTls(error.to_string()))?;
                Some(Arc::new(acceptor))
            } else {
                None
            };
            for (share, socket) in shares.iter_mut().zip(sockets) {
                let gauge = self.metrics.connections(name);
                share.push((
                    Inbound {
                        name,
                        local,
                        acceptor: acceptor.clone(),
                        gauge,
                    },
                    socket,
                ));
            }
        }
        let mut workers = Vec::new();
        for (index, (link, listeners)) in links.into_iter().zip(shares).enumerate() {
            workers.push(worker::spawn(worker::Parts {
                index,
                settings: settings.clone(),
                live: self.live.clone(),
                contexts: self.contexts.clone(),
                link,
                turns: turns.clone(),
                forbidden: forbidden.clone(),
                resolver: self.resolver.clone(),
                listeners,
                access: sink.map_or_else(AccessLog::off, AccessSink::log),
                logs_access: sink.is_some(),
                failures: failures.clone(),
                metrics: self.metrics.clone(),
                id_prefix: format!("{start}{index:02x}"),
                begins: memory::spare_this_thread,
            })?);
        }
        Ok(workers)
    }
}

/// The port that clients find the names on, unless it is the one they would try: the first of
/// `https.listen`.
fn https_port(data: &[(&'static str, SocketAddr, Vec<StdListener>)]) -> Option<u16> {
    let https = data.iter().filter(|(name, ..)| *name == "https");
    let mut ports = https.map(|(_, local, _)| local.port()).peekable();
    let first = ports.peek().copied();
    first.filter(|_| !ports.any(|port| port == HTTPS_PORT))
}

fn settings(
    config: &Config,
    mark: Mark,
    fallback_sni: Option<SniName>,
    https_port: Option<u16>,
) -> Settings {
    Settings {
        mark,
        http2: config.http.http2,
        https_port,
        client_auth_names: match config.http.client_auth_names {
            config::ClientAuthNames::Refuse => ClientAuthNames::Refuse,
            config::ClientAuthNames::Redirect => ClientAuthNames::Redirect,
            config::ClientAuthNames::Allow => ClientAuthNames::Allow,
        },
        nginx_400: match config.proxy.nginx_400 {
            config::Nginx400::BadGateway => Nginx400::Refuse,
            config::Nginx400::Pass => Nginx400::Pass,
        },
        paths: PathReading {
            drops_tail_slash: config.proxy.delete_uri_tail_slash,
            drops_parameters: config.proxy.normalize_uri_like_servlet,
            keeps_encoded_slash: config.proxy.match_uri_encoded_slash,
        },
        tells_upstream_status: config.proxy.upstream_status == config::UpstreamStatus::Always,
        tells_http1_more: config.proxy.interim_answers == config::InterimAnswers::All,
        fallback_sni,
        handshake_timeout: config.https.handshake_timeout,
        header_timeout: config.limits.header_timeout,
        body_timeout: config.limits.body_timeout,
        idle_timeout: config.limits.idle_timeout,
        header_bytes: config.limits.header_bytes,
        header_lines: config.limits.header_lines,
        routed_body_bytes: config.limits.routed_body_bytes,
        connections: config.limits.connections,
        pooled: POOLED,
        drain: config.shutdown_timeout,
    }
}
