//! Where a request goes: its route, its upstream and what is asked of it there, by one snapshot.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::sync::Arc;

use http::header::CONTENT_TYPE;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};

use crate::failure::Reason;
use crate::matching::content::{Content, Text};
use crate::matching::route::{self, Parameters};
use crate::matching::variable::Memo;
use crate::plugins::proxy_rewrite::Rewritten;
use crate::proxy::ahead::Share;
use crate::proxy::authorize;
use crate::proxy::body::{RequestBody, Whole};
use crate::proxy::conn::Conn;
use crate::proxy::error::Refusal;
use crate::proxy::headers::Look;
use crate::proxy::outcome::Outcome;
use crate::proxy::variables::{RequestVariables, RouteVariables};
use crate::proxy::worker::Worker;
use crate::snapshot::{Balance, Route, Snapshot, Timeouts, Upstream, UpstreamSource};

/// Where a request goes, as of one snapshot.
pub(super) struct Place {
    version: u64,
    pub(super) upstream: Arc<Upstream>,
    pub(super) timeouts: Timeouts,
    /// Another protocol may be asked for.
    pub(super) upgrades: bool,
    /// What the request is hashed by, where its upstream asks for it.
    pub(super) hash: u32,
    // Both boxed, as all that is rare: a place is passed on from hand to hand.
    /// The target that the upstream gets, where it is not the client's.
    pub(super) target: Option<Box<Uri>>,
    /// What its route makes of the request that the upstream gets.
    rewritten: Option<Box<Rewritten>>,
}

impl Place {
    /// Rewrites the upstream's headers. Returns them as they were, where that is otherwise.
    pub(super) fn rewrite(&mut self, headers: &mut HeaderMap) -> Option<HeaderMap> {
        let rewritten = self.rewritten.take()?;
        let prepared = headers.clone();
        rewritten.apply(headers);
        Some(prepared)
    }

    /// Whether the forwarded headers may come as they are written in HTTP/1.1, or in HTTP/2: nothing
    /// else is done with them.
    pub(super) fn takes_forwarded(&self, is_http2: bool) -> bool {
        self.upstream.scheme.is_http2() == is_http2 && self.rewritten.is_none()
    }

    pub(super) fn is_outdated(&self, worker: &Worker) -> bool {
        worker.snapshot().version != self.version
    }
}

/// Reads the body that routes ask for. As its room is for all requests together, it has to come as a
/// whole in the time that it has between two parts.
async fn read_ahead(worker: &Worker, body: &mut RequestBody) -> Result<Whole, Refusal> {
    let limit = worker.settings.routed_body_bytes;
    let share = Share::new(&worker.ahead, limit);
    let until = worker.sweep.after(worker.settings.body_timeout);
    match worker
        .sweep
        .within(until, body.read_ahead(limit, share))
        .await
    {
        Ok(Ok(whole)) => Ok(whole),
        Ok(Err(reason)) => Err(Refusal::new(reason, "in the body that its route asks for")),
        Err(_expired) => Err(Refusal::new(
            Reason::ClientTimeout,
            "the body that its route asks for was not there within limits.body_timeout",
        )),
    }
}

/// Authorises a request and finds where it goes, all of it by the same snapshot. Its body is read ahead
/// where that depends on it.
pub(super) async fn find_place(
    worker: &Worker,
    conn: &Conn,
    req: &mut Request<RequestBody>,
    look: Look,
    taken: &[(HeaderName, HeaderValue)],
    outcome: &mut Outcome,
) -> Result<Place, Refusal> {
    let mut text = Text::Unread;
    loop {
        let found = look_up(worker, conn, req.headers(), look, taken, outcome, text);
        if let Some(place) = found.await? {
            return Ok(place);
        }
        // Boxed, as all that is rare.
        text = match Box::pin(read_ahead(worker, req.body_mut())).await? {
            Whole::Yes => Text::Read(req.body().first()),
            Whole::No => Text::Absent,
        };
    }
}

/// [`find_place`] by what was read of the body; `None` if that is nothing, and a route asks for it.
async fn look_up(
    worker: &Worker,
    conn: &Conn,
    headers: &HeaderMap,
    look: Look,
    taken: &[(HeaderName, HeaderValue)],
    outcome: &mut Outcome,
    text: Text<'_>,
) -> Result<Option<Place>, Refusal> {
    let authority = outcome.authority.clone().ok_or(Reason::Internal)?;
    let uri = &outcome.uri;
    let raw_path = uri.path();
    let (snapshot, path) = authorize::admit(worker, conn, uri, &authority).await?;
    let reading = worker.settings.paths;
    let read_uri = reading.uri(Cow::Borrowed(&path));
    let read_uri = read_uri.map_err(|error| {
        let detail = error.to_string();
        Refusal::new(Reason::PathInvalid, detail)
    })?;
    let matched = reading.matched(raw_path, &read_uri);
    let content_type = look.has_type.then(|| headers.get(CONTENT_TYPE)).flatten();
    // Addresses may be long in coming: what is made of the body does not wait for them.
    let (route, rewritten, upstream, hash) = {
        let content = Content::new(text, content_type.map_or(b"", HeaderValue::as_bytes));
        let variables = RequestVariables {
            worker,
            snapshot: &snapshot,
            outcome,
            headers,
            taken,
            path: &read_uri,
            content: &content,
            of_body: Memo::default(),
            operation: OnceCell::new(),
        };
        let Some((route, rewritten)) = find_route(&variables, &matched)? else {
            return Ok(None);
        };
        let upstream = find_upstream(&snapshot, &route);
        let hash = match upstream.as_ref().map(|upstream| &upstream.balance) {
            Ok(Balance::Hash(key)) => key.hash(&RouteVariables {
                request: &variables,
                parameters: &Parameters::NONE,
            }),
            Ok(Balance::RoundRobin | Balance::LeastBusy | Balance::Quicker) | Err(_) => 0,
        };
        (route, rewritten, upstream, hash)
    };
    let stripped = route
        .path_prefix
        .as_ref()
        .and_then(|prefix| prefix.strip(raw_path, &path));
    let written = match &rewritten {
        Some(rewritten) => rewritten.target(uri.query()).map_err(|error| {
            let detail = error.to_string();
            Refusal::new(Reason::PathInvalid, detail)
        })?,
        None => None,
    };
    let rewritten = rewritten.filter(|rewritten| rewritten.has_headers());
    let target = match (written, stripped) {
        (Some(target), _) => Some(parse_target(&target)?),
        (None, Some(path)) => Some(with_path(uri, &path)?),
        (None, None) => origin_form(uri),
    };
    outcome.route = Some(route.clone());
    let mut upstream = upstream?;
    outcome.upstream = Some(upstream.clone());
    if let Some(discovery) = upstream.discovery.clone() {
        let found = worker.discovered.find(worker, &upstream, &discovery);
        let found = Box::pin(found).await?;
        upstream = found;
        outcome.upstream = Some(upstream.clone());
    }
    Ok(Some(Place {
        version: snapshot.version,
        timeouts: route.timeouts.unwrap_or(upstream.timeouts),
        // HTTP/2 has no upgrade (RFC 9113 §8.6).
        upgrades: !upstream.scheme.is_http2() && passes_upgrades(&snapshot, &route),
        upstream,
        hash,
        target: target.map(Box::new),
        rewritten,
    }))
}

/// A route, and what it makes of the request.
type Matched = (Arc<Route>, Option<Box<Rewritten>>);

/// The first route in order that also fits method, peer and variables; `None` once that depends on
/// content that was not read.
fn find_route(request: &RequestVariables<'_>, path: &[u8]) -> Result<Option<Matched>, Refusal> {
    let outcome = request.outcome;
    let authority = outcome.authority.as_ref().ok_or(Reason::Internal)?;
    let peer = outcome.conn().peer.ip().to_canonical();
    let mut rewritten = None;
    let fits = |route: &Arc<Route>, parameters: &Parameters<'_>| {
        let variables = RouteVariables {
            request,
            parameters,
        };
        let is_meant = (route.methods.is_empty() || route.methods.contains(&outcome.method))
            && (route.remote_addrs.is_empty()
                || route.remote_addrs.iter().any(|net| net.contains(&peer)))
            && route
                .vars
                .as_ref()
                .is_none_or(|vars| vars.holds(&variables));
        if request.content.is_wanted() {
            return true;
        }
        if is_meant {
            let rewrite = route.rewrite.as_ref();
            rewritten = rewrite.map(|rewrite| Box::new(Rewritten::of(rewrite, &variables)));
        }
        is_meant
    };
    let asked = route::Request {
        host: authority.host(),
        authority: authority.as_str(),
        path,
    };
    let routes = &request.snapshot.routes;
    let found = routes.find_for(&asked, fits);
    if request.content.is_wanted() {
        return Ok(None);
    }
    let route = found.ok_or(Reason::RouteNotFound)?;
    match route.closed {
        Some(Reason::ServiceMissing) => {
            let service = route.service.as_ref().map(ToString::to_string);
            Err(Refusal::new(
                Reason::ServiceMissing,
                service.unwrap_or_default(),
            ))
        }
        Some(reason) => Err(Refusal::new(
            Reason::RouteClosed,
            format!("{}: {}", route.id, reason.code()),
        )),
        None => Ok(Some((route.clone(), rewritten))),
    }
}

/// The route's own upstream, else its service's (APISIX §4.2).
fn find_upstream(snapshot: &Snapshot, route: &Route) -> Result<Arc<Upstream>, Refusal> {
    let source = match (&route.upstream, &route.service) {
        (Some(source), _) => source,
        (None, Some(id)) => {
            let service = snapshot
                .services
                .get(id)
                .ok_or_else(|| Refusal::new(Reason::ServiceMissing, id.to_string()))?;
            service.upstream.as_ref().ok_or(Reason::NoUpstream)?
        }
        (None, None) => return Err(Reason::NoUpstream.into()),
    };
    let upstream = match source {
        UpstreamSource::Inline(upstream) => upstream,
        UpstreamSource::Id(id) => snapshot
            .upstreams
            .get(id)
            .ok_or_else(|| Refusal::new(Reason::UpstreamMissing, id.to_string()))?,
    };
    match upstream.closed {
        Some(reason) => Err(Refusal::new(
            reason,
            format!("{} {}", upstream.owner.kind, upstream.owner.id),
        )),
        None => Ok(upstream.clone()),
    }
}

/// Whether upgrades pass: as the route says, else as its service does (APISIX §4.2).
fn passes_upgrades(snapshot: &Snapshot, route: &Route) -> bool {
    let service = route.service.as_ref();
    let service = service.and_then(|id| snapshot.services.get(id));
    route
        .upgrades
        .unwrap_or_else(|| service.is_some_and(|service| service.upgrades))
}

/// The request target for an upstream, where it is not the client's: path and query as sent.
fn origin_form(uri: &Uri) -> Option<Uri> {
    uri.authority()?;
    let target = uri
        .path_and_query()
        .cloned()
        .unwrap_or_else(|| PathAndQuery::from_static("/"));
    Some(Uri::from(target))
}

/// Another path with the query as sent.
fn with_path(uri: &Uri, path: &str) -> Result<Uri, Refusal> {
    match uri.query() {
        Some(query) => parse_target(&format!("{path}?{query}")),
        None => parse_target(path),
    }
}

fn parse_target(target: &str) -> Result<Uri, Refusal> {
    target
        .parse::<PathAndQuery>()
        .map(Uri::from)
        .map_err(|error| Refusal::new(Reason::PathInvalid, error.to_string()))
}
