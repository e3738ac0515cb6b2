//! The next snapshot from this one and some changes: how objects meet.
//!
//! Persistent maps throughout: one change among 100,000 objects copies few of them, plus
//! those that depend on the object and are changed with it. Nothing here can fail; what is
//! missing or broken closes what needs it.

use std::ops::Bound;
use std::sync::Arc;

use crate::failure::Reason;
use crate::matching::host::HostPattern;
use crate::matching::path_prefix::PathPrefix;
use crate::matching::patterns::PathRegexes;
use crate::matching::route::{Entry, Rank};
use crate::matching::sni::SniPattern;
use crate::resource::ssl::Role;
use crate::resource::{Id, Kind, Revision};
use crate::snapshot::claims::Claim;
use crate::snapshot::compile::{Piece, RoutePiece, ServerPiece};
use crate::snapshot::reach::NamesByEnd;
use crate::snapshot::{Name, Rewrite, Route, Snapshot, UpstreamSource};
use crate::tls::material::Digest;

/// One change of one object.
#[derive(Clone, Debug)]
pub enum Change {
    /// It was created or replaced.
    Put {
        /// Its kind.
        kind: Kind,
        /// Its id.
        id: Id,
        /// The revision that created it; unique, it decides who was first.
        created: Revision,
        /// The revision that last changed it.
        modified: Revision,
        /// What it compiled to.
        piece: Piece,
    },
    /// It was removed.
    Delete {
        /// Its kind.
        kind: Kind,
        /// Its id.
        id: Id,
    },
}

impl Change {
    /// Which object it changes.
    #[must_use]
    pub fn place(&self) -> (Kind, &Id) {
        match self {
            Self::Put { kind, id, .. } | Self::Delete { kind, id } => (*kind, id),
        }
    }
}

/// What a snapshot remembers beyond what workers look up.
#[derive(Clone, Default)]
pub(super) struct Index {
    objects: imbl::OrdMap<(Kind, Id), Arc<Object>>,
    /// Names that several enabled ssls claim: all claims, the oldest first.
    pub(super) contested: imbl::HashMap<SniPattern, Arc<[Claim]>>,
    /// Names by what they end in.
    pub(super) ends: NamesByEnd,
    /// Objects that are or hold an upstream with checks.
    pub(super) checked: imbl::OrdSet<(Kind, Id)>,
    /// Who points to whom.
    edges: imbl::OrdSet<Edge>,
    pub(super) tally: Tally,
}

/// How many of what a snapshot holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Names that an enabled ssl claims and does not serve.
    pub names_closed: usize,
    /// Upstreams over TLS, inline ones too, whose certificate is not checked.
    pub upstreams_not_verified: usize,
    objects: [usize; Kind::ALL.len()],
}

impl Tally {
    /// Objects of a kind.
    #[must_use]
    pub fn objects(&self, kind: Kind) -> usize {
        let counts = Kind::ALL.iter().zip(&self.objects);
        counts
            .filter(|(own, _)| **own == kind)
            .map(|(_, count)| *count)
            .sum()
    }

    /// Counts a name that was, and is, closed for another reason than its object's.
    pub(super) fn count_closed(&mut self, was: bool, is: bool) {
        let closed = self.names_closed.saturating_add(usize::from(is));
        self.names_closed = closed.saturating_sub(usize::from(was));
    }

    /// Counts an object in or out.
    fn count(&mut self, kind: Kind, piece: &Piece, step: impl Fn(&mut usize, usize)) {
        let counts = Kind::ALL.iter().zip(&mut self.objects);
        counts
            .filter(|(own, _)| **own == kind)
            .for_each(|(_, count)| step(count, 1));
        match piece {
            Piece::Server(server) if server.serving.is_err() => {
                step(&mut self.names_closed, server.patterns.len());
            }
            Piece::Server(_)
            | Piece::Identity(_)
            | Piece::Idle(_)
            | Piece::Upstream(_)
            | Piece::Service(_)
            | Piece::Route(_)
            | Piece::Secret => {}
        }
        if piece.upstream().is_some_and(|piece| !piece.is_verified()) {
            step(&mut self.upstreams_not_verified, 1);
        }
    }
}

/// An object as it was put.
struct Object {
    created: Revision,
    modified: Revision,
    piece: Piece,
}

/// `user` points to `target`. `None` sorts first, so that it starts a range.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    target: (Kind, Id),
    user: Option<(Kind, Id)>,
}

impl Snapshot {
    /// The snapshot after these changes, as of `revision`. Its version is set when published.
    #[must_use]
    pub fn apply(&self, changes: impl IntoIterator<Item = Change>, revision: Revision) -> Self {
        let mut next = self.clone();
        next.revision = revision;
        for change in changes {
            match change {
                Change::Put {
                    kind,
                    id,
                    created,
                    modified,
                    mut piece,
                } => {
                    piece.date(modified, next.piece(kind, &id));
                    piece.share_ids(|kind, id| next.held_id(kind, id));
                    next.replace(
                        kind,
                        &id,
                        Some(Arc::new(Object {
                            created,
                            modified,
                            piece,
                        })),
                    );
                }
                Change::Delete { kind, id } => next.replace(kind, &id, None),
            }
        }
        next
    }

    /// The revision that last changed an object; `None` when there is no such object.
    #[must_use]
    pub fn modified(&self, kind: Kind, id: &Id) -> Option<Revision> {
        self.object(kind, id).map(|object| object.modified)
    }

    /// The revision that created an object; `None` when there is no such object.
    pub(super) fn created(&self, kind: Kind, id: &Id) -> Option<Revision> {
        self.object(kind, id).map(|object| object.created)
    }

    /// How many of what it holds.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.index.tally
    }

    /// What an enabled ssl of type server claims, and how it is served.
    #[must_use]
    pub fn server(&self, id: &Id) -> Option<&ServerPiece> {
        if let Piece::Server(server) = &self.object(Kind::Ssl, id)?.piece {
            return Some(server);
        }
        None
    }

    /// What an ssl is for; `None` when there is no such ssl.
    #[must_use]
    pub fn ssl_role(&self, id: &Id) -> Option<Role> {
        match &self.object(Kind::Ssl, id)?.piece {
            Piece::Server(_) => Some(Role::Server),
            Piece::Identity(_) => Some(Role::Client),
            Piece::Idle(role) => Some(*role),
            Piece::Upstream(_) | Piece::Service(_) | Piece::Route(_) | Piece::Secret => None,
        }
    }

    /// The objects that point to this one, ordered by kind and id.
    #[must_use]
    pub fn users(&self, kind: Kind, id: &Id) -> Vec<(Kind, Id)> {
        let target = (kind, id.clone());
        let edges = self.index.edges.range(edges_to(target.clone()));
        let users = edges.take_while(|edge| edge.target == target);
        users.filter_map(|edge| edge.user.clone()).collect()
    }

    /// The id of an object as those have it that point to it, else as itself has it.
    fn held_id(&self, kind: Kind, id: &Id) -> Option<Id> {
        let key = (kind, id.clone());
        let mut edges = self.index.edges.range(edges_to(key.clone()));
        match edges.next() {
            Some(edge) if edge.target == key => Some(edge.target.1.clone()),
            _ => {
                let (own, _) = self.index.objects.get_key_value(&key)?;
                Some(own.1.clone())
            }
        }
    }

    /// Which objects there are, by kind and id.
    pub fn places(&self) -> impl Iterator<Item = &(Kind, Id)> {
        self.index.objects.keys()
    }

    /// What an object compiled to, before it met the others.
    pub(super) fn piece(&self, kind: Kind, id: &Id) -> Option<&Piece> {
        self.object(kind, id).map(|object| &object.piece)
    }

    /// What every object compiled to.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.index.objects.values().map(|object| &object.piece)
    }

    fn object(&self, kind: Kind, id: &Id) -> Option<&Arc<Object>> {
        self.index.objects.get(&(kind, id.clone()))
    }

    /// Replaces one object by another or by none, and redoes what depends on it.
    fn replace(&mut self, kind: Kind, id: &Id, new: Option<Arc<Object>>) {
        let key = (kind, id.clone());
        let old = self.index.objects.get(&key).cloned();
        let dependants = self.dependants(kind, id, old.as_deref(), new.as_deref());
        for (kind, id, object) in &dependants {
            self.withdraw(*kind, id, object);
        }
        if let Some(old) = &old {
            self.index.tally.count(kind, &old.piece, |count, by| {
                *count = count.saturating_sub(by);
            });
            self.withdraw(kind, id, old);
            for target in old.piece.references() {
                self.index.edges.remove(&Edge {
                    target,
                    user: Some(key.clone()),
                });
            }
        }
        match new {
            None => {
                self.index.objects.remove(&key);
                self.index.checked.remove(&key);
            }
            Some(new) => {
                self.index
                    .tally
                    .count(kind, &new.piece, |count, by| *count += by);
                for target in new.piece.references() {
                    self.index.edges.insert(Edge {
                        target,
                        user: Some(key.clone()),
                    });
                }
                if new.piece.is_checked() {
                    self.index.checked.insert(key.clone());
                } else {
                    self.index.checked.remove(&key);
                }
                self.index.objects.insert(key, new.clone());
                self.place(kind, id, &new);
            }
        }
        for (kind, id, object) in &dependants {
            self.place(*kind, id, object);
        }
    }

    /// The objects that come out differently when `old` becomes `new`.
    fn dependants(
        &self,
        kind: Kind,
        id: &Id,
        old: Option<&Object>,
        new: Option<&Object>,
    ) -> Vec<(Kind, Id, Arc<Object>)> {
        let changes_others = match kind {
            Kind::Ssl => lent(old) != lent(new),
            Kind::Service => shared(old) != shared(new),
            Kind::Upstream | Kind::Route | Kind::Secret => false,
        };
        if !changes_others {
            return Vec::new();
        }
        let users = self.users(kind, id).into_iter();
        users
            .filter_map(|(kind, id)| {
                let object = self.object(kind, &id)?.clone();
                Some((kind, id, object))
            })
            .collect()
    }

    /// Puts an object where workers find it.
    fn place(&mut self, kind: Kind, id: &Id, object: &Object) {
        debug_assert!(
            self.object(kind, id).is_some(),
            "an object is known before it is placed"
        );
        match &object.piece {
            Piece::Server(server) => self.place_server(id, server, object),
            Piece::Upstream(piece) => {
                let upstream = piece.resolve(|ssl| self.lent(ssl));
                self.upstreams.insert(id.clone(), upstream);
            }
            Piece::Service(piece) => {
                let service = piece.resolve(id, |ssl| self.lent(ssl));
                self.services.insert(id.clone(), service);
            }
            Piece::Route(piece) => self.place_route(piece, object.created),
            Piece::Identity(_) | Piece::Idle(_) | Piece::Secret => {}
        }
    }

    /// Takes an object from where workers find it.
    fn withdraw(&mut self, kind: Kind, id: &Id, object: &Object) {
        debug_assert!(
            self.object(kind, id).is_some(),
            "an object is known until it is withdrawn"
        );
        match &object.piece {
            Piece::Server(server) => {
                for pattern in &server.patterns {
                    self.release(pattern, id);
                }
            }
            Piece::Upstream(_) => {
                self.upstreams.remove(id);
            }
            Piece::Service(_) => {
                self.services.remove(id);
            }
            Piece::Route(piece) => {
                if piece.enabled {
                    let hosts = self.hosts_of(piece);
                    let paths = self.paths_of(piece);
                    self.routes.remove(&hosts, &paths, object.created.0);
                }
            }
            Piece::Identity(_) | Piece::Idle(_) | Piece::Secret => {}
        }
    }

    fn place_server(&mut self, id: &Id, server: &ServerPiece, object: &Object) {
        let name = Arc::new(Name {
            ssl_id: id.clone(),
            revision: object.modified,
            policy: server.policy.clone(),
            // A pattern that does not compile exempts nothing.
            skip: PathRegexes::compile(&server.policy.skip).unwrap_or_default(),
            serving: server.serving,
        });
        for pattern in &server.patterns {
            self.claim(
                pattern,
                &Claim {
                    created: object.created,
                    name: name.clone(),
                },
            );
        }
    }

    fn place_route(&mut self, piece: &RoutePiece, created: Revision) {
        if !piece.enabled {
            return;
        }
        let hosts = self.hosts_of(piece);
        let closed = self.closed(piece);
        let is_borrowing = piece
            .upstream
            .as_ref()
            .is_some_and(|upstream| upstream.borrowed.is_some());
        let path_prefix = self.prefix_of(piece).cloned();
        let rewrite = self.rewrite_of(piece).cloned();
        let is_own =
            closed == piece.route.closed && path_prefix.is_none() && rewrite == piece.route.rewrite;
        let route = if is_borrowing || !is_own {
            let mut route = Route::clone(&piece.route);
            route.closed = closed;
            route.path_prefix = path_prefix;
            route.rewrite = rewrite;
            if let Some(inline) = &piece.upstream {
                let upstream = inline.resolve(|ssl| self.lent(ssl));
                route.upstream = Some(UpstreamSource::Inline(upstream));
            }
            Arc::new(route)
        } else {
            piece.route.clone()
        };
        let rank = Rank {
            priority: piece.priority,
            order: created.0,
        };
        let paths = self.paths_of(piece);
        self.routes
            .insert(&hosts, &paths, Entry { rank, value: route });
    }

    /// What an ssl lends to upstreams; `None` when there is none or it lends nothing.
    pub(super) fn lent(&self, ssl: &Id) -> Option<Result<Digest, Reason>> {
        lent(self.object(Kind::Ssl, ssl).map(Arc::as_ref))
    }
}

/// Where the edges to an object begin; behind them come those to others.
fn edges_to(target: (Kind, Id)) -> (Bound<Edge>, Bound<Edge>) {
    let none = Edge { target, user: None };
    (Bound::Excluded(none), Bound::Unbounded)
}

fn lent(object: Option<&Object>) -> Option<Result<Digest, Reason>> {
    if let Piece::Identity(lent) = &object?.piece {
        return Some(*lent);
    }
    None
}

/// What of a service its routes take over.
fn shared(object: Option<&Object>) -> Option<Shared<'_>> {
    if let Piece::Service(service) = &object?.piece {
        return Some(Shared {
            hosts: &service.hosts,
            path_prefix: service.path_prefix.as_deref(),
            rewrite: service.rewrite.as_deref(),
            closed: service.closed,
        });
    }
    None
}

#[derive(PartialEq)]
struct Shared<'a> {
    hosts: &'a [HostPattern],
    path_prefix: Option<&'a PathPrefix>,
    rewrite: Option<&'a Rewrite>,
    closed: Option<Reason>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::matching::path_pattern::PathPattern;
    use crate::resource::upstream::{Keepalive, PassHost, Scheme, Timeouts};
    use crate::snapshot::compile::{Borrowed, ServicePiece, SourcePiece, UpstreamPiece};
    use crate::snapshot::{Owner, Serving, Trust, Upstream};
    use crate::tls::policy::{ClientPolicy, Offer, Versions};
    use crate::tls::upstream::Protocol;

    fn id(text: &str) -> Id {
        text.parse().unwrap()
    }

    fn server(names: &[&str], serving: Result<Digest, Reason>) -> Piece {
        Piece::Server(ServerPiece {
            patterns: names
                .iter()
                .map(|name| SniPattern::parse(name).unwrap())
                .collect(),
            policy: Arc::new(ClientPolicy::off()),
            serving: serving.map(|context| Serving {
                context,
                versions: Versions::default(),
            }),
        })
    }

    fn upstream(owner: (Kind, &str), borrowed: Option<&str>) -> UpstreamPiece {
        let upstream = Upstream {
            owner: Owner {
                kind: owner.0,
                id: id(owner.1),
            },
            revision: Revision::default(),
            scheme: Scheme::Https,
            nodes: Vec::new(),
            discovery: None,
            states: Default::default(),
            balance: Default::default(),
            pass_host: PassHost::Pass,
            timeouts: Timeouts::default(),
            keepalive: Keepalive::default(),
            retries: 0,
            retry_timeout: None,
            checks: None,
            trust: Some(Trust {
                fingerprint: [1; 32],
                verify: false,
                server_name: None,
            }),
            closed: None,
        };
        let borrowed = borrowed.map(|ssl| {
            Box::new(Borrowed {
                ssl: id(ssl),
                trust: None,
                offer: Offer::default(),
                protocol: Protocol::Http1,
            })
        });
        UpstreamPiece {
            upstream: Arc::new(upstream),
            borrowed,
        }
    }

    fn service(hosts: &[&str], upstream: Option<SourcePiece>) -> Piece {
        Piece::Service(ServicePiece {
            hosts: hosts
                .iter()
                .map(|host| HostPattern::parse(host).unwrap())
                .collect(),
            path_prefix: None,
            rewrite: None,
            upstream,
            upgrades: false,
            closed: None,
        })
    }

    fn route(own: &str, hosts: &[&str], path: &str, service: Option<&str>) -> RoutePiece {
        RoutePiece {
            hosts: hosts
                .iter()
                .map(|host| HostPattern::parse(host).unwrap())
                .collect(),
            paths: vec![PathPattern::parse(path).unwrap()],
            priority: 0,
            enabled: true,
            route: Arc::new(Route {
                id: id(own),
                revision: Revision::default(),
                methods: Vec::new(),
                remote_addrs: Vec::new(),
                vars: None,
                path_prefix: None,
                rewrite: None,
                service: service.map(id),
                upstream: None,
                timeouts: None,
                upgrades: None,
                closed: None,
            }),
            upstream: None,
        }
    }

    fn put(kind: Kind, own: &str, created: u64, modified: u64, piece: Piece) -> Change {
        let (created, modified) = (Revision(created), Revision(modified));
        Change::Put {
            kind,
            id: id(own),
            created,
            modified,
            piece,
        }
    }

    fn delete(kind: Kind, own: &str) -> Change {
        Change::Delete { kind, id: id(own) }
    }

    fn apply(changes: impl IntoIterator<Item = Change>) -> Snapshot {
        Snapshot::default().apply(changes, Revision(99))
    }

    fn owner<'s>(snapshot: &'s Snapshot, name: &str) -> Option<&'s str> {
        snapshot.names.find(name).map(|name| name.ssl_id.as_str())
    }

    fn routed<'s>(snapshot: &'s Snapshot, host: &str, path: &str) -> Option<&'s Arc<Route>> {
        snapshot.routes.find(host, path.as_bytes(), |_| true)
    }

    #[test]
    fn a_closed_name_is_found_before_any_wildcard() {
        let snapshot = apply([
            put(
                Kind::Ssl,
                "wide",
                1,
                1,
                server(&["*.a.com", "*"], Ok([1; 32])),
            ),
            put(
                Kind::Ssl,
                "shut",
                2,
                2,
                server(&["x.a.com"], Err(Reason::SecretUnresolved)),
            ),
        ]);
        let name = snapshot.names.find("x.a.com").unwrap();
        assert_eq!(name.ssl_id, id("shut"));
        assert_eq!(name.serving.err(), Some(Reason::SecretUnresolved));
        assert_eq!(owner(&snapshot, "y.a.com"), Some("wide"));
        let without = snapshot.apply([delete(Kind::Ssl, "shut")], Revision(3));
        assert_eq!(owner(&without, "x.a.com"), Some("wide"));
    }

    #[test]
    fn a_disabled_ssl_claims_nothing() {
        let served = apply([put(Kind::Ssl, "s", 1, 1, server(&["a.com"], Ok([1; 32])))]);
        let off = put(Kind::Ssl, "s", 1, 2, Piece::Idle(Role::Server));
        let snapshot = served.apply([off], Revision(2));
        assert_eq!(owner(&snapshot, "a.com"), None);
        assert_eq!(snapshot.ssl_role(&id("s")), Some(Role::Server));
        assert_eq!(
            owner(&served, "a.com"),
            Some("s"),
            "the snapshot before is as it was"
        );
    }

    #[test]
    fn all_that_point_to_an_object_share_the_text_of_its_id() {
        let leads = |own: &str, path: &str| {
            let mut piece = route(own, &[], path, Some("s"));
            Arc::make_mut(&mut piece.route).upstream = Some(UpstreamSource::Id(id("u")));
            Piece::Route(piece)
        };
        let snapshot = apply([
            put(
                Kind::Upstream,
                "u",
                1,
                1,
                Piece::Upstream(upstream((Kind::Upstream, "u"), None)),
            ),
            put(Kind::Route, "a", 2, 2, leads("a", "/a")),
            put(Kind::Route, "b", 3, 3, leads("b", "/b")),
            put(Kind::Service, "s", 4, 4, service(&[], None)),
            put(Kind::Route, "c", 5, 5, leads("c", "/c")),
        ]);
        let texts = |path: &str| {
            let route = routed(&snapshot, "x.com", path).unwrap();
            let Some(UpstreamSource::Id(upstream)) = &route.upstream else {
                panic!("{path} leads to an upstream");
            };
            let service = route.service.as_ref().unwrap();
            assert_eq!((upstream.as_str(), service.as_str()), ("u", "s"));
            [upstream.shared(), service.shared()]
        };
        let [upstream, service] = texts("/a");
        for path in ["/b", "/c"] {
            let [own_upstream, own_service] = texts(path);
            assert!(Arc::ptr_eq(&upstream, &own_upstream), "{path}");
            assert!(Arc::ptr_eq(&service, &own_service), "{path}");
        }
        let (key, _) = snapshot.upstreams.get_key_value(&id("u")).unwrap();
        assert!(Arc::ptr_eq(&upstream, &key.shared()));
    }

    #[test]
    fn routes_without_hosts_follow_the_hosts_of_their_service() {
        let before = apply([
            put(Kind::Service, "s", 1, 1, service(&["a.com"], None)),
            put(
                Kind::Route,
                "follows",
                2,
                2,
                Piece::Route(route("follows", &[], "/", Some("s"))),
            ),
            put(
                Kind::Route,
                "own",
                3,
                3,
                Piece::Route(route("own", &["o.com"], "/", Some("s"))),
            ),
        ]);
        assert_eq!(routed(&before, "a.com", "/").unwrap().id, id("follows"));
        assert!(routed(&before, "b.com", "/").is_none());
        let moved = put(Kind::Service, "s", 1, 4, service(&["b.com"], None));
        let after = before.apply([moved], Revision(4));
        assert!(routed(&after, "a.com", "/").is_none());
        assert_eq!(routed(&after, "b.com", "/").unwrap().id, id("follows"));
        assert_eq!(routed(&after, "o.com", "/").unwrap().id, id("own"));
        assert_eq!(after.users(Kind::Service, &id("s")).len(), 2);
    }

    #[test]
    fn routes_of_a_closed_service_keep_their_match_closed() {
        let mut closed = service(&["a.com"], None);
        if let Piece::Service(piece) = &mut closed {
            piece.closed = Some(Reason::RouteClosed);
        }
        let snapshot = apply([
            put(
                Kind::Route,
                "r",
                1,
                1,
                Piece::Route(route("r", &[], "/", Some("s"))),
            ),
            put(Kind::Service, "s", 2, 2, closed),
        ]);
        let found = routed(&snapshot, "a.com", "/").unwrap();
        assert_eq!(found.closed, Some(Reason::RouteClosed));
        let open = snapshot.apply(
            [put(Kind::Service, "s", 2, 3, service(&["a.com"], None))],
            Revision(3),
        );
        assert_eq!(routed(&open, "a.com", "/").unwrap().closed, None);
    }

    #[test]
    fn a_route_whose_service_is_missing_is_closed_whatever_it_has_of_its_own() {
        let mut own = route("own", &["o.com"], "/", Some("s"));
        own.upstream = Some(upstream((Kind::Route, "own"), None));
        let without = apply([
            put(
                Kind::Route,
                "r",
                1,
                1,
                Piece::Route(route("r", &[], "/", Some("s"))),
            ),
            put(Kind::Route, "own", 2, 2, Piece::Route(own)),
        ]);
        for host in ["a.com", "o.com"] {
            let found = routed(&without, host, "/").unwrap();
            assert_eq!(found.closed, Some(Reason::ServiceMissing), "{host}");
        }
        let there = without.apply(
            [put(Kind::Service, "s", 3, 3, service(&["a.com"], None))],
            Revision(3),
        );
        assert_eq!(routed(&there, "a.com", "/").unwrap().closed, None);
        assert_eq!(routed(&there, "o.com", "/").unwrap().closed, None);
        assert!(routed(&there, "b.com", "/").is_none());
    }

    #[test]
    fn borrowed_certificates_are_followed_and_their_absence_closes() {
        let lend = |modified, digest| put(Kind::Ssl, "c", 1, modified, Piece::Identity(digest));
        let holder = |kind| upstream((kind, "u"), Some("c"));
        let mut inline = route("u", &[], "/", None);
        inline.upstream = Some(holder(Kind::Route));
        let without = apply([
            put(
                Kind::Upstream,
                "u",
                2,
                2,
                Piece::Upstream(holder(Kind::Upstream)),
            ),
            put(
                Kind::Service,
                "u",
                3,
                3,
                service(&[], Some(SourcePiece::Inline(holder(Kind::Service)))),
            ),
            put(Kind::Route, "u", 4, 4, Piece::Route(inline)),
        ]);
        let all = |snapshot: &Snapshot| {
            let inline = |source: &Option<UpstreamSource>| match source {
                Some(UpstreamSource::Inline(upstream)) => upstream.clone(),
                _ => panic!("not inline"),
            };
            [
                snapshot.upstreams[&id("u")].clone(),
                inline(&snapshot.services[&id("u")].upstream),
                inline(&routed(snapshot, "", "/").unwrap().upstream),
            ]
        };
        for upstream in all(&without) {
            assert_eq!(
                upstream.closed,
                Some(Reason::UpstreamNotReady),
                "{:?}",
                upstream.owner
            );
        }
        let first = without.apply([lend(5, Ok([5; 32]))], Revision(5));
        let second = first.apply([lend(6, Ok([6; 32]))], Revision(6));
        for (first, second) in all(&first).iter().zip(all(&second)) {
            assert_eq!((first.closed, second.closed), (None, None));
            let print = |upstream: &Upstream| upstream.trust.as_ref().unwrap().fingerprint;
            assert_ne!(print(first), print(&second));
            let own = crate::tls::upstream::fingerprint(
                Some([5; 32]),
                None,
                &Offer::default(),
                Protocol::Http1,
            )
            .unwrap();
            assert_eq!(print(first), own);
        }
        let unresolved = second.apply([lend(7, Err(Reason::SecretUnresolved))], Revision(7));
        assert!(
            all(&unresolved)
                .iter()
                .all(|u| u.closed == Some(Reason::SecretUnresolved))
        );
        let gone = unresolved.apply([delete(Kind::Ssl, "c")], Revision(8));
        assert!(
            all(&gone)
                .iter()
                .all(|u| u.closed == Some(Reason::UpstreamNotReady))
        );
        assert_eq!(gone.users(Kind::Ssl, &id("c")).len(), 3);
    }

    #[test]
    fn one_change_among_many_shares_the_rest() {
        let many = (1..=2000_u64).map(|n| {
            let name = format!("n{n}.com");
            put(
                Kind::Ssl,
                &n.to_string(),
                n,
                n,
                server(&[name.as_str()], Ok([1; 32])),
            )
        });
        let before = apply(many);
        let change = put(Kind::Ssl, "7", 7, 3000, server(&["n7.com"], Ok([2; 32])));
        let after = before.apply([change], Revision(3000));
        for n in 1..=2000 {
            let name = format!("n{n}.com");
            let same = Arc::ptr_eq(
                before.names.find(&name).unwrap(),
                after.names.find(&name).unwrap(),
            );
            assert_eq!(same, n != 7, "{name}");
        }
    }

    /// All that workers and control can see, as text.
    fn seen(snapshot: &Snapshot) -> Vec<String> {
        let mut all = Vec::new();
        for name in ["a.com", "b.com", "x.a.com", "y.x.a.com"] {
            let found = snapshot.names.find(name);
            all.push(format!(
                "{name} {:?}",
                found.map(|n| (&n.ssl_id, n.revision, n.serving.err()))
            ));
        }
        for host in ["a.com", "x.a.com", "z.com"] {
            for path in ["/", "/p", "/p/q"] {
                let mut order = Vec::new();
                snapshot.routes.find(host, path.as_bytes(), |route| {
                    order.push(format!("{route:?}"));
                    false
                });
                all.push(format!("{host}{path} {order:?}"));
            }
        }
        for own in ["1", "2", "3"] {
            let own = id(own);
            all.push(format!("{:?}", snapshot.services.get(&own)));
            all.push(format!("{:?}", snapshot.upstreams.get(&own)));
            for kind in Kind::ALL {
                all.push(format!(
                    "{:?} {:?}",
                    snapshot.modified(kind, &own),
                    snapshot.users(kind, &own)
                ));
            }
            all.push(format!("{:?}", snapshot.lost_names(&own)));
            all.push(format!("{:?}", snapshot.disputed_names(&own)));
        }
        all.push(format!("{:?}", snapshot.tally()));
        all
    }

    fn any_piece() -> impl Strategy<Value = (Kind, &'static str, Option<Piece>)> {
        let own = prop::sample::select(vec!["1", "2", "3"]);
        let names = prop::sample::subsequence(vec!["a.com", "b.com", "*.a.com", "*"], 0..=3);
        let hosts = prop::sample::subsequence(vec!["a.com", "*.a.com"], 0..=2);
        let path = prop::sample::select(vec!["/", "/p", "/p/*", "/*"]);
        let other = prop::option::of(prop::sample::select(vec!["1", "2", "3"]));
        (own, 0..12_u8, names, hosts, path, other).prop_map(
            |(own, which, names, hosts, path, other)| match which {
                0 => (Kind::Ssl, own, None),
                1 => (
                    Kind::Ssl,
                    own,
                    Some(server(&names, Err(Reason::NameClosed))),
                ),
                2 => (Kind::Ssl, own, Some(server(&names, Ok([1; 32])))),
                3 => {
                    let mut piece = server(&names, Ok([1; 32]));
                    if let Piece::Server(server) = &mut piece {
                        Arc::make_mut(&mut server.policy).digest = [7; 32];
                    }
                    (Kind::Ssl, own, Some(piece))
                }
                4 => (
                    Kind::Ssl,
                    own,
                    Some(Piece::Identity(Ok([own.as_bytes()[0]; 32]))),
                ),
                5 => (Kind::Upstream, own, None),
                6 => {
                    let piece = upstream((Kind::Upstream, own), other);
                    (Kind::Upstream, own, Some(Piece::Upstream(piece)))
                }
                7 => (Kind::Service, own, None),
                8 | 9 => {
                    let source = match (which, other) {
                        (8, Some(other)) => Some(SourcePiece::Id(id(other))),
                        (9, lender) => {
                            Some(SourcePiece::Inline(upstream((Kind::Service, own), lender)))
                        }
                        _ => None,
                    };
                    (Kind::Service, own, Some(service(&hosts, source)))
                }
                10 => (Kind::Route, own, None),
                _ => (
                    Kind::Route,
                    own,
                    Some(Piece::Route(route(own, &hosts, path, other))),
                ),
            },
        )
    }

    proptest! {
        #[test]
        fn changes_one_by_one_equal_the_final_set_from_scratch(
            changes in prop::collection::vec(any_piece(), 0..40),
        ) {
            let mut stepwise = Snapshot::default();
            let mut last: BTreeMap<(Kind, &str), (u64, u64, Piece)> = BTreeMap::new();
            for (revision, (kind, own, piece)) in (1..).zip(changes) {
                let change = match piece {
                    Some(piece) => {
                        let created = last.get(&(kind, own)).map_or(revision, |known| known.0);
                        last.insert((kind, own), (created, revision, piece.clone()));
                        put(kind, own, created, revision, piece)
                    }
                    None => {
                        last.remove(&(kind, own));
                        delete(kind, own)
                    }
                };
                stepwise = stepwise.apply([change], Revision(revision));
            }
            let at_once = apply(last.into_iter().map(|((kind, own), (created, modified, piece))| {
                put(kind, own, created, modified, piece)
            }));
            prop_assert_eq!(seen(&stepwise), seen(&at_once));
        }
    }
}
