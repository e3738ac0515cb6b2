//! What a snapshot says of one object, once it has met the others. For control, not for workers.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use crate::failure::Reason;
use crate::matching::host::HostPattern;
use crate::matching::path_pattern::PathPattern;
use crate::matching::path_prefix::PathPrefix;
use crate::matching::sni::SniPattern;
use crate::resource::{Id, Kind};
use crate::snapshot::compile::{Piece, RoutePiece, ServicePiece};
use crate::snapshot::{Name, Rewrite, Route, Snapshot, Upstream, UpstreamSource};
use crate::tls::material::Digest;

impl Snapshot {
    /// Who serves the names that a pattern stands for, where nothing more exact claims them.
    #[must_use]
    pub fn holder(&self, pattern: &SniPattern) -> Option<&Arc<Name>> {
        match pattern {
            SniPattern::Exact(name) => self.names.find(name.as_str()),
            SniPattern::Wildcard(_) | SniPattern::CatchAll => self
                .names
                .get(pattern)
                .or_else(|| self.names.get(&SniPattern::CatchAll)),
        }
    }

    /// Where an upstream, service or route sends its requests.
    #[must_use]
    pub fn reached(&self, kind: Kind, id: &Id) -> Option<Arc<Upstream>> {
        match self.piece(kind, id)? {
            Piece::Upstream(_) => self.upstreams.get(id).cloned(),
            Piece::Service(_) => self.reached_by_service(id),
            Piece::Route(piece) => match (&piece.upstream, &piece.route.upstream) {
                (Some(inline), _) => Some(inline.upstream.clone()),
                (None, Some(source)) => self.resolve(source),
                (None, None) => self.reached_by_service(piece.route.service.as_ref()?),
            },
            Piece::Server(_) | Piece::Identity(_) | Piece::Idle(_) | Piece::Secret => None,
        }
    }

    /// Whether there is such an object.
    #[must_use]
    pub fn holds(&self, kind: Kind, id: &Id) -> bool {
        self.piece(kind, id).is_some()
    }

    /// Why requests of a route are refused, whatever its upstream; `None` of other kinds too.
    #[must_use]
    pub fn closed_route(&self, kind: Kind, id: &Id) -> Option<Reason> {
        let piece = Some(id).filter(|_| kind == Kind::Route);
        self.closed(self.route_piece(piece?)?)
    }

    /// A host that leads to a route and stands for itself alone; `None` of other kinds too.
    #[must_use]
    pub fn exact_host(&self, kind: Kind, id: &Id) -> Option<String> {
        let piece = Some(id).filter(|_| kind == Kind::Route);
        let hosts = self.hosts_of(self.route_piece(piece?)?);
        hosts.into_iter().find_map(|host| match host {
            HostPattern::Exact(host) => Some(host.into()),
            HostPattern::Suffix(_) | HostPattern::Any => None,
        })
    }

    /// The keys of the context and connectors that exist because of this object.
    #[must_use]
    pub fn keys_of(&self, kind: Kind, id: &Id) -> Vec<Digest> {
        let own = self.piece(kind, id).and_then(|piece| self.key_of(piece));
        let lent = match self.piece(kind, id) {
            Some(Piece::Identity(_)) => self.users(kind, id),
            Some(_) | None => Vec::new(),
        };
        let users = lent.iter().filter_map(|(kind, id)| self.piece(*kind, id));
        own.into_iter()
            .chain(users.filter_map(|piece| self.key_of(piece)))
            .collect()
    }

    /// Those of these keys that no object needs. Looks at every object.
    #[must_use]
    pub fn unused(&self, mut keys: HashSet<Digest>) -> HashSet<Digest> {
        for piece in self.pieces() {
            if let Some(key) = self.key_of(piece) {
                keys.remove(&key);
            }
        }
        keys
    }

    /// Every upstream with checks, stand-alone or inline, as workers see it.
    pub fn checked(&self) -> impl Iterator<Item = Arc<Upstream>> {
        let checked = self.index.checked.iter();
        checked.filter_map(|(kind, id)| {
            let piece = self.piece(*kind, id)?.upstream()?;
            Some(piece.resolve(|ssl| self.lent(ssl)))
        })
    }

    fn key_of(&self, piece: &Piece) -> Option<Digest> {
        if let Piece::Server(server) = piece {
            return server.serving.ok().map(|serving| serving.context);
        }
        let upstream = piece.upstream()?.resolve(|ssl| self.lent(ssl));
        upstream.trust.as_ref().map(|trust| trust.fingerprint)
    }

    fn reached_by_service(&self, id: &Id) -> Option<Arc<Upstream>> {
        self.resolve(self.services.get(id)?.upstream.as_ref()?)
    }

    fn resolve(&self, source: &UpstreamSource) -> Option<Arc<Upstream>> {
        match source {
            UpstreamSource::Inline(upstream) => Some(upstream.clone()),
            UpstreamSource::Id(id) => self.upstreams.get(id).cloned(),
        }
    }

    pub(super) fn route_piece(&self, id: &Id) -> Option<&RoutePiece> {
        if let Piece::Route(piece) = self.piece(Kind::Route, id)? {
            return Some(piece);
        }
        None
    }

    pub(super) fn service_piece(&self, id: &Id) -> Option<&ServicePiece> {
        if let Piece::Service(piece) = self.piece(Kind::Service, id)? {
            return Some(piece);
        }
        None
    }

    /// The hosts a route is found by, none for every host: its own, else its service's.
    pub(super) fn hosts_of(&self, piece: &RoutePiece) -> Vec<HostPattern> {
        let service = piece.route.service.as_ref();
        match service.and_then(|id| self.service_piece(id)) {
            Some(service) if piece.hosts.is_empty() => service.hosts.clone(),
            _ => piece.hosts.clone(),
        }
    }

    /// What the service of a route puts before its paths.
    pub(super) fn prefix_of(&self, piece: &RoutePiece) -> Option<&Arc<PathPrefix>> {
        let service = self.service_piece(piece.route.service.as_ref()?)?;
        service.path_prefix.as_ref()
    }

    /// What becomes of a route's requests: by its own plugins, else its service's.
    pub(super) fn rewrite_of<'s>(&'s self, piece: &'s RoutePiece) -> Option<&'s Arc<Rewrite>> {
        let by_service = || {
            let service = self.service_piece(piece.route.service.as_ref()?)?;
            service.rewrite.as_ref()
        };
        piece.route.rewrite.as_ref().or_else(by_service)
    }

    /// The paths a route is found by: its own, behind its service's prefix.
    pub(super) fn paths_of<'p>(&self, piece: &'p RoutePiece) -> Cow<'p, [PathPattern]> {
        match self.prefix_of(piece) {
            None => Cow::Borrowed(&piece.paths),
            Some(prefix) => {
                let paths = piece.paths.iter();
                Cow::Owned(paths.map(|path| prefix.put_before(path)).collect())
            }
        }
    }

    /// Why a route is closed: by itself, or because its service is, or is not there.
    pub(super) fn closed(&self, piece: &RoutePiece) -> Option<Reason> {
        let by_service = match &piece.route.service {
            None => None,
            Some(id) => match self.service_piece(id) {
                None => Some(Reason::ServiceMissing),
                Some(service) => service.closed,
            },
        };
        piece.route.closed.or(by_service)
    }

    /// An open route that answers some request that this piece's hosts and paths stand for.
    pub(super) fn answers_for(&self, hosts: &[HostPattern], piece: &RoutePiece) -> Option<&Route> {
        let every = [HostPattern::Any];
        let hosts = if hosts.is_empty() { &every } else { hosts };
        let (paths, syntax) = (self.paths_of(piece), self.routes.router().syntax());
        let found = hosts.iter().find_map(|host| {
            let host = match host {
                HostPattern::Exact(host) => host.to_string(),
                HostPattern::Suffix(suffix) => format!("any{suffix}"),
                HostPattern::Any => String::new(),
            };
            paths.iter().find_map(|path| {
                let start = path.start(syntax);
                let is_open = |route: &Arc<Route>| route.closed.is_none();
                self.routes.find(&host, start.as_bytes(), is_open)
            })
        });
        found.map(Arc::as_ref)
    }
}
