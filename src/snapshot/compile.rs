//! From one typed resource to the piece of a snapshot that it becomes.
//!
//! All that depends on the resource alone, and all that can be costly, is done here, outside of
//! any lock. What depends on other resources is done by [`Snapshot::apply`], which cannot fail.
//!
//! [`Snapshot::apply`]: crate::snapshot::Snapshot::apply

use std::sync::Arc;

use crate::failure::Reason;
use crate::matching::host::HostPattern;
use crate::matching::path_pattern::PathPattern;
use crate::matching::path_prefix::PathPrefix;
use crate::matching::sni::SniPattern;
use crate::resource::service::UpstreamRef;
use crate::resource::ssl::Role;
use crate::resource::upstream::{Identity, UpstreamTls};
use crate::resource::{self, Id, Kind, Resource, Revision};
use crate::snapshot::discovery::Discovery;
use crate::snapshot::nodes::NodeStates;
use crate::snapshot::specs::{self, SpecError};
use crate::snapshot::{Owner, Rewrite, Route, Service, Serving, Trust, Upstream, UpstreamSource};
use crate::tls::material::{CaBundle, Digest};
use crate::tls::policy::{ClientAuth, ClientPolicy, Offer};
use crate::tls::server::{self, ServerSpec};
use crate::tls::trust::{CaStore, CaStores};
use crate::tls::upstream::{self, Protocol, UpstreamSpec};

/// A digest that nothing has.
pub(super) const NO_DIGEST: Digest = [0xff; 32];

/// What compiling needs beside the resource.
#[derive(Clone, Copy, Debug)]
pub struct Ground<'a> {
    /// Where CA stores are shared.
    pub stores: &'a CaStores,
    /// `upstream.trust_file` of the configuration: whom `verify` without `ca_certs` trusts.
    pub trust_file: Option<&'a CaBundle>,
}

/// A compiled resource.
#[derive(Debug)]
pub struct Compiled {
    /// What a snapshot takes in.
    pub piece: Piece,
    /// What its context or connector is built from, where it has one and it is not closed.
    pub build: Option<Build>,
    /// Why it is closed, where it is, with the pointer to the member at fault.
    pub trouble: Option<(String, SpecError)>,
}

/// What `tls` builds from.
#[derive(Debug)]
pub enum Build {
    /// The context of a name.
    Server(ServerSpec),
    /// The connector of an upstream.
    Upstream {
        /// Without `identity` where that is borrowed.
        spec: UpstreamSpec,
        /// The ssl whose certificate is shown (`client_cert_id`).
        borrowed: Option<Id>,
    },
}

/// The part of a snapshot that one resource becomes, before it meets the others.
#[derive(Clone, Debug)]
pub enum Piece {
    /// An enabled ssl of type server.
    Server(ServerPiece),
    /// An enabled ssl of type client: the digest of what upstreams may borrow.
    Identity(Result<Digest, Reason>),
    /// An ssl with status 0: it claims nothing and lends nothing.
    Idle(Role),
    /// An upstream.
    Upstream(UpstreamPiece),
    /// A service.
    Service(ServicePiece),
    /// A route.
    Route(RoutePiece),
    /// A secret manager; nothing of it is served.
    Secret,
}

/// An enabled ssl of type server.
#[derive(Clone, Debug)]
pub struct ServerPiece {
    /// The names it claims.
    pub patterns: Vec<SniPattern>,
    /// What it asks of clients.
    pub policy: Arc<ClientPolicy>,
    /// How it is served, or why its names are closed.
    pub serving: Result<Serving, Reason>,
}

/// An upstream, stand-alone or inline.
#[derive(Clone, Debug)]
pub struct UpstreamPiece {
    /// As it is when nothing is borrowed.
    pub upstream: Arc<Upstream>,
    /// The certificate of another object that it shows.
    pub borrowed: Option<Box<Borrowed>>,
}

/// What a fingerprint consists of beside the borrowed certificate.
#[derive(Clone, Debug)]
pub struct Borrowed {
    /// The ssl of type client.
    pub ssl: Id,
    /// Digest of the trusted bundle.
    pub trust: Option<Digest>,
    /// What its servers are offered.
    pub offer: Offer,
    /// What is spoken.
    pub protocol: Protocol,
}

/// A service.
#[derive(Clone, Debug)]
pub struct ServicePiece {
    /// Its hosts.
    pub hosts: Vec<HostPattern>,
    /// What it puts before the paths of its routes.
    pub path_prefix: Option<Arc<PathPrefix>>,
    /// What of its routes' requests an upstream gets otherwise.
    pub rewrite: Option<Arc<Rewrite>>,
    /// Where its routes go.
    pub upstream: Option<SourcePiece>,
    /// Whether upgrades pass where a route says nothing.
    pub upgrades: bool,
    /// Why its routes are closed.
    pub closed: Option<Reason>,
}

/// A route.
#[derive(Clone, Debug)]
pub struct RoutePiece {
    /// Its own hosts.
    pub hosts: Vec<HostPattern>,
    /// Its paths.
    pub paths: Vec<PathPattern>,
    /// Higher first among equal paths.
    pub priority: i64,
    /// Whether it takes part in matching (`status`).
    pub enabled: bool,
    /// As it is when neither its service nor a borrowed certificate changes it.
    pub route: Arc<Route>,
    /// Its own upstream, when inline.
    pub upstream: Option<UpstreamPiece>,
}

/// Where a service's routes go.
#[derive(Clone, Debug)]
pub enum SourcePiece {
    /// Written inside the service.
    Inline(UpstreamPiece),
    /// A stand-alone upstream.
    Id(Id),
}

/// Compiles a resource. What cannot be built is closed, never dropped.
#[must_use]
pub fn compile(kind: Kind, id: &Id, resource: &Resource, ground: &Ground<'_>) -> Compiled {
    match resource {
        Resource::Ssl(ssl) => compile_ssl(id, ssl, ground),
        Resource::Upstream(upstream) => {
            let owner = Owner {
                kind,
                id: id.clone(),
            };
            let (piece, build, trouble) = compile_upstream(owner, upstream, "/tls", ground);
            Compiled {
                piece: Piece::Upstream(piece),
                build,
                trouble,
            }
        }
        Resource::Service(service) => compile_service(id, service, ground),
        Resource::Route(route) => compile_route(id, route, ground),
        Resource::Secret(_) => Compiled {
            piece: Piece::Secret,
            build: None,
            trouble: None,
        },
    }
}

/// A policy that no client meets, for names whose own cannot be read.
pub(super) fn unmeetable_policy() -> ClientPolicy {
    ClientPolicy {
        mode: ClientAuth::Required,
        depth: 0,
        ca: Some(NO_DIGEST),
        crl: None,
        skip: Vec::new(),
        digest: NO_DIGEST,
    }
}

fn compile_ssl(id: &Id, ssl: &resource::ssl::Ssl, ground: &Ground<'_>) -> Compiled {
    if !ssl.enabled {
        return Compiled {
            piece: Piece::Idle(ssl.role),
            build: None,
            trouble: None,
        };
    }
    match ssl.role {
        Role::Client => {
            let digest = specs::identity(ssl).and_then(|pair| specs::digest(&pair));
            let (lent, trouble) = match digest {
                Ok(digest) => (Ok(digest), None),
                Err(error) => (Err(error.reason(Reason::UpstreamNotReady)), Some(error)),
            };
            let trouble = trouble.map(|error| (error.pointer().to_owned(), error));
            Compiled {
                piece: Piece::Identity(lent),
                build: None,
                trouble,
            }
        }
        Role::Server => compile_server(id, ssl, ground),
    }
}

fn compile_server(id: &Id, ssl: &resource::ssl::Ssl, ground: &Ground<'_>) -> Compiled {
    let patterns = ssl.names.clone();
    let spec = specs::server(id, ssl, ground.stores).and_then(|spec| {
        let key = spec.key().map_err(|error| SpecError::Material {
            pointer: "/cert".to_owned(),
            source: error.into(),
        })?;
        Ok((spec, key))
    });
    match spec {
        Ok((spec, context)) => {
            let serving = Ok(Serving {
                context,
                versions: spec.versions,
            });
            let piece = ServerPiece {
                patterns,
                policy: spec.policy.clone(),
                serving,
            };
            let build = Some(Build::Server(spec));
            Compiled {
                piece: Piece::Server(piece),
                build,
                trouble: None,
            }
        }
        Err(error) => {
            let policy = specs::policy(ssl.client.as_ref());
            let policy = policy.map_or_else(|_| unmeetable_policy(), |(policy, _)| policy);
            let serving = Err(error.reason(Reason::NameClosed));
            let piece = ServerPiece {
                patterns,
                policy: Arc::new(policy),
                serving,
            };
            let trouble = Some((error.pointer().to_owned(), error));
            Compiled {
                piece: Piece::Server(piece),
                build: None,
                trouble,
            }
        }
    }
}

/// Compiles an enabled server ssl whose pairs were taken as they lie: the piece that [`compile`]
/// makes of it if they are good, and its CA store. `None` where they must be read to tell.
///
/// All that it asks of clients is compiled as always.
#[must_use]
pub fn compile_taken(
    id: &Id,
    ssl: &resource::ssl::Ssl,
    ground: &Ground<'_>,
) -> Option<(Piece, Option<Arc<CaStore>>)> {
    if !ssl.enabled || ssl.role != Role::Server {
        return None;
    }
    let chains = specs::taken_chains(ssl)?;
    let (policy, ca) = specs::asked(ssl, ground.stores).ok()?;
    let context = server::context_key(id.as_str(), &policy, &chains, ssl.versions).ok()?;
    let serving = Ok(Serving {
        context,
        versions: ssl.versions,
    });
    let piece = ServerPiece {
        patterns: ssl.names.clone(),
        policy: Arc::new(policy),
        serving,
    };
    Some((Piece::Server(piece), ca))
}

type Trouble = Option<(String, SpecError)>;

/// Compiles an upstream; `at` is the pointer to its `tls` member.
fn compile_upstream(
    owner: Owner,
    upstream: &resource::upstream::Upstream,
    at: &str,
    ground: &Ground<'_>,
) -> (UpstreamPiece, Option<Build>, Trouble) {
    let further_nodes = u32::try_from(upstream.nodes.len().saturating_sub(1)).unwrap_or(u32::MAX);
    let discovery = upstream.discovery.as_ref();
    let mut compiled = Upstream {
        owner,
        revision: Revision::default(),
        scheme: upstream.scheme,
        nodes: upstream.nodes.clone(),
        discovery: discovery.map(|it| Arc::new(Discovery::new(it, upstream.retries))),
        states: NodeStates::default(),
        balance: upstream.balance.clone(),
        pass_host: upstream.pass_host.clone(),
        timeouts: upstream.timeouts,
        keepalive: upstream.keepalive,
        retries: upstream.retries.unwrap_or(further_nodes),
        retry_timeout: upstream.retry_timeout,
        checks: upstream.checks.clone().map(Arc::new),
        trust: None,
        closed: None,
    };
    if !upstream.scheme.is_tls() {
        let piece = UpstreamPiece {
            upstream: Arc::new(compiled),
            borrowed: None,
        };
        return (piece, None, None);
    }
    let none = UpstreamTls::default();
    let tls = upstream.tls.as_ref().unwrap_or(&none);
    let (fingerprint, build, trouble) =
        match compile_trust(tls, specs::protocol(upstream.scheme), ground) {
            Ok((fingerprint, build)) => (fingerprint, Some(build), None),
            Err(error) => (
                NO_DIGEST,
                None,
                Some((format!("{at}{}", error.pointer()), error)),
            ),
        };
    compiled.trust = Some(Trust {
        fingerprint,
        verify: tls.verify,
        server_name: tls.server_name.clone(),
    });
    compiled.closed = trouble
        .as_ref()
        .map(|(_, error)| error.reason(Reason::UpstreamNotReady));
    let borrowed = match (&tls.identity, &build) {
        (Identity::Ssl(ssl), Some(Build::Upstream { spec, .. })) => Some(Box::new(Borrowed {
            ssl: ssl.clone(),
            trust: spec.trust.as_ref().map(|store| store.digest),
            offer: spec.offer.clone(),
            protocol: spec.protocol,
        })),
        _ => None,
    };
    (
        UpstreamPiece {
            upstream: Arc::new(compiled),
            borrowed,
        },
        build,
        trouble,
    )
}

/// The fingerprint, and what the connector is built from.
fn compile_trust(
    tls: &UpstreamTls,
    protocol: Protocol,
    ground: &Ground<'_>,
) -> Result<(Digest, Build), SpecError> {
    let (identity, borrowed) = match &tls.identity {
        Identity::None => (None, None),
        Identity::Inline(pair) => (Some(specs::inline_identity(pair)?), None),
        Identity::Ssl(id) => (None, Some(id.clone())),
    };
    let spec = specs::upstream(tls, protocol, identity, ground.trust_file, ground.stores)?;
    let fingerprint = spec.fingerprint().map_err(|error| SpecError::Material {
        pointer: String::new(),
        source: error.into(),
    })?;
    Ok((fingerprint, Build::Upstream { spec, borrowed }))
}

fn compile_service(id: &Id, service: &resource::service::Service, ground: &Ground<'_>) -> Compiled {
    let owner = Owner {
        kind: Kind::Service,
        id: id.clone(),
    };
    let (upstream, build, trouble) = compile_source(&owner, service.upstream.as_ref(), ground);
    let piece = ServicePiece {
        hosts: service.hosts.clone(),
        path_prefix: service.path_prefix.clone().map(Arc::new),
        rewrite: service.plugins.rewrite.clone().map(Arc::new),
        upstream,
        upgrades: service.upgrades,
        closed: None,
    };
    Compiled {
        piece: Piece::Service(piece),
        build,
        trouble,
    }
}

fn compile_route(id: &Id, route: &resource::route::Route, ground: &Ground<'_>) -> Compiled {
    let owner = Owner {
        kind: Kind::Route,
        id: id.clone(),
    };
    let (source, build, trouble) = compile_source(&owner, route.upstream.as_ref(), ground);
    let methods = route.methods.iter();
    let methods: Result<_, _> = methods
        .map(|method| http::Method::from_bytes(method.as_bytes()))
        .collect();
    // A method that is none would otherwise leave a list that is empty, which means all.
    let closed = methods.as_ref().err().map(|_| Reason::RouteClosed);
    let (source, upstream) = match source {
        None => (None, None),
        Some(SourcePiece::Id(id)) => (Some(UpstreamSource::Id(id)), None),
        Some(SourcePiece::Inline(piece)) => (
            Some(UpstreamSource::Inline(piece.upstream.clone())),
            Some(piece),
        ),
    };
    let compiled = Route {
        id: id.clone(),
        revision: Revision::default(),
        methods: methods.unwrap_or_default(),
        remote_addrs: route.remote_addrs.clone(),
        vars: route.vars.clone(),
        path_prefix: None,
        rewrite: route.plugins.rewrite.clone().map(Arc::new),
        service: route.service.clone(),
        upstream: source,
        timeouts: route.timeouts,
        upgrades: route.upgrades,
        closed,
    };
    let piece = RoutePiece {
        hosts: route.hosts.clone(),
        paths: route.paths.clone(),
        priority: route.priority,
        enabled: route.enabled,
        route: Arc::new(compiled),
        upstream,
    };
    Compiled {
        piece: Piece::Route(piece),
        build,
        trouble,
    }
}

fn compile_source(
    owner: &Owner,
    source: Option<&UpstreamRef>,
    ground: &Ground<'_>,
) -> (Option<SourcePiece>, Option<Build>, Trouble) {
    match source {
        None => (None, None, None),
        Some(UpstreamRef::Id(id)) => (Some(SourcePiece::Id(id.clone())), None, None),
        Some(UpstreamRef::Inline(inline)) => {
            let at = "/upstream/tls";
            let (piece, build, trouble) = compile_upstream(owner.clone(), inline, at, ground);
            (Some(SourcePiece::Inline(piece)), build, trouble)
        }
    }
}

impl UpstreamPiece {
    /// False for TLS whose certificate is not checked.
    pub(super) fn is_verified(&self) -> bool {
        self.upstream
            .trust
            .as_ref()
            .is_none_or(|trust| trust.verify)
    }

    /// The upstream, as `lent` (what the ssl of type client lends, if it is there) makes it.
    pub(super) fn resolve(
        &self,
        lent: impl FnOnce(&Id) -> Option<Result<Digest, Reason>>,
    ) -> Arc<Upstream> {
        let Some(borrowed) = &self.borrowed else {
            return self.upstream.clone();
        };
        let mut resolved = Upstream::clone(&self.upstream);
        let lent = lent(&borrowed.ssl).unwrap_or(Err(Reason::UpstreamNotReady));
        let fingerprint = lent.and_then(|identity| {
            upstream::fingerprint(
                Some(identity),
                borrowed.trust,
                &borrowed.offer,
                borrowed.protocol,
            )
            .or(Err(Reason::Internal))
        });
        if let Err(reason) = fingerprint {
            resolved.closed = resolved.closed.or(Some(reason));
        }
        if let Some(trust) = &mut resolved.trust {
            trust.fingerprint = fingerprint.unwrap_or(NO_DIGEST);
        }
        Arc::new(resolved)
    }

    /// Sets the revision of the object that holds it, and what is known of its nodes; nothing, where
    /// it was not there before.
    fn date(&mut self, revision: Revision, known: Option<&NodeStates>) {
        let upstream = Arc::make_mut(&mut self.upstream);
        upstream.revision = revision;
        // Not what it was compiled with: among pieces that many threads made of many objects, it would
        // be the one thing to stay of each, on pages of theirs that could not be given back.
        upstream.states = known.cloned().unwrap_or_default();
    }
}

impl Piece {
    /// Sets the revision of the object, and gives its nodes what was known of them when it was
    /// `old`.
    pub(super) fn date(&mut self, revision: Revision, old: Option<&Self>) {
        let known = old.and_then(Self::upstream);
        let known = known.map(|piece| &piece.upstream.states);
        match self {
            Self::Upstream(piece) => piece.date(revision, known),
            Self::Service(ServicePiece {
                upstream: Some(SourcePiece::Inline(piece)),
                ..
            }) => {
                piece.date(revision, known);
            }
            Self::Route(piece) => {
                let route = Arc::make_mut(&mut piece.route);
                route.revision = revision;
                if let Some(inline) = &mut piece.upstream {
                    route.upstream = None;
                    inline.date(revision, known);
                    route.upstream = Some(UpstreamSource::Inline(inline.upstream.clone()));
                }
            }
            Self::Server(_)
            | Self::Identity(_)
            | Self::Idle(_)
            | Self::Service(_)
            | Self::Secret => {}
        }
    }

    /// Whether it is or holds an upstream whose nodes are checked.
    pub(super) fn is_checked(&self) -> bool {
        self.upstream()
            .is_some_and(|piece| piece.upstream.checks.is_some())
    }

    /// The upstream that it is or holds.
    #[must_use]
    pub fn upstream(&self) -> Option<&UpstreamPiece> {
        match self {
            Self::Upstream(piece) => Some(piece),
            Self::Service(ServicePiece {
                upstream: Some(SourcePiece::Inline(piece)),
                ..
            }) => Some(piece),
            Self::Route(piece) => piece.upstream.as_ref(),
            Self::Server(_)
            | Self::Identity(_)
            | Self::Idle(_)
            | Self::Service(_)
            | Self::Secret => None,
        }
    }

    /// Has ids of what the object points to be those that others have for it, as `held` says: then
    /// they are one text for all.
    pub(super) fn share_ids(&mut self, held: impl Fn(Kind, &Id) -> Option<Id>) {
        let share = |kind, id: &mut Id| {
            if let Some(held) = held(kind, id) {
                *id = held;
            }
        };
        let share_lent = |piece: &mut UpstreamPiece| {
            if let Some(borrowed) = &mut piece.borrowed {
                share(Kind::Ssl, &mut borrowed.ssl);
            }
        };
        match self {
            Self::Server(_) | Self::Identity(_) | Self::Idle(_) | Self::Secret => {}
            Self::Upstream(piece) => share_lent(piece),
            Self::Service(piece) => match &mut piece.upstream {
                None => {}
                Some(SourcePiece::Id(id)) => share(Kind::Upstream, id),
                Some(SourcePiece::Inline(piece)) => share_lent(piece),
            },
            Self::Route(piece) => {
                let route = Arc::make_mut(&mut piece.route);
                if let Some(id) = &mut route.service {
                    share(Kind::Service, id);
                }
                if let Some(UpstreamSource::Id(id)) = &mut route.upstream {
                    share(Kind::Upstream, id);
                }
                if let Some(inline) = &mut piece.upstream {
                    share_lent(inline);
                }
            }
        }
    }

    /// What the object points to.
    pub(super) fn references(&self) -> Vec<(Kind, Id)> {
        let borrowed = |piece: &UpstreamPiece| {
            piece
                .borrowed
                .as_ref()
                .map(|borrowed| (Kind::Ssl, borrowed.ssl.clone()))
        };
        match self {
            Self::Server(_) | Self::Identity(_) | Self::Idle(_) | Self::Secret => Vec::new(),
            Self::Upstream(piece) => borrowed(piece).into_iter().collect(),
            Self::Service(piece) => match &piece.upstream {
                None => Vec::new(),
                Some(SourcePiece::Id(id)) => vec![(Kind::Upstream, id.clone())],
                Some(SourcePiece::Inline(piece)) => borrowed(piece).into_iter().collect(),
            },
            Self::Route(piece) => {
                let service = piece.route.service.clone().map(|id| (Kind::Service, id));
                let upstream = match &piece.route.upstream {
                    Some(UpstreamSource::Id(id)) => Some((Kind::Upstream, id.clone())),
                    Some(UpstreamSource::Inline(_)) | None => None,
                };
                let lent = piece.upstream.as_ref().and_then(borrowed);
                service.into_iter().chain(upstream).chain(lent).collect()
            }
        }
    }
}

impl ServicePiece {
    /// The service, as what is lent makes it.
    pub(super) fn resolve(
        &self,
        id: &Id,
        lent: impl FnOnce(&Id) -> Option<Result<Digest, Reason>>,
    ) -> Arc<Service> {
        let upstream = self.upstream.as_ref().map(|source| match source {
            SourcePiece::Id(id) => UpstreamSource::Id(id.clone()),
            SourcePiece::Inline(piece) => UpstreamSource::Inline(piece.resolve(lent)),
        });
        Arc::new(Service {
            id: id.clone(),
            hosts: self.hosts.clone(),
            upstream,
            upgrades: self.upgrades,
        })
    }
}
