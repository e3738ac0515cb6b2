//! The Admin API and the status pages, as warp filters.
//!
//! Two filters, [`admin`] and [`status`], each for `warp::service`; they open no socket and know no
//! TLS. Every request goes through one place: path and query are decoded, the key is checked
//! before anything else is said, then one of `apisix`, `api7` and `own` answers, and
//! `reply` words it. warp's rejections never reach a peer.

mod api7;
mod apisix;
pub mod attempts;
pub mod auth;
mod call;
pub mod configs;
mod health;
mod judge;
mod list;
mod own;
mod reply;
mod request;
mod status;
mod target;
#[cfg(test)]
mod testing;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use ipnet::IpNet;
use warp::Filter;
use warp::reply::Response;

use self::attempts::Attempts;
use self::auth::{AuthError, Certified, Keys};
use self::call::{Body, Call, boxed, refused, set};
use self::configs::Served;
use self::reply::{Answer, Refusal};
use self::request::Head;
use crate::control::evidence::Surroundings;
use crate::control::{Actor, Control, Flavour};
use crate::crypto::fips::{self, FipsError};
use crate::crypto::rand;
use crate::snapshot::live::Live;
use crate::telemetry::failures::Failures;
use crate::telemetry::metrics::Metrics;

pub use self::health::Naming;
pub use self::status::{Status, status};

/// What ADC takes the gateway's version from.
const SERVER: HeaderValue = HeaderValue::from_static("APISIX/3.18.0");
/// Our own version.
const VERSION: HeaderValue = HeaderValue::from_static(env!("CARGO_PKG_VERSION"));

/// Which listener a request came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// Plain HTTP on loopback: APISIX's flavour.
    Http9180,
    /// HTTPS: the flavour of [`Admin::https_flavour`].
    Https7443,
}

/// Where a connection comes from. Whoever serves the filter puts it into each request's
/// extensions; the audit record names it.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub addr: SocketAddr,
    /// Who its certificate says it is, where that has a role.
    pub certified: Option<Arc<Certified>>,
}

/// Networks that may call, by listener; `None`: whoever reaches it.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    /// `admin.allow_admin`, for [`Listener::Http9180`].
    pub http: Option<Vec<IpNet>>,
    /// `admin.https.allow_admin`, for [`Listener::Https7443`].
    pub https: Option<Vec<IpNet>>,
}

impl Allowed {
    /// Lets an address in. One that is not known is in no network.
    fn check(&self, listener: Listener, peer: Option<&Peer>) -> Result<(), Refusal> {
        let (nets, key) = match listener {
            Listener::Http9180 => (&self.http, "admin.allow_admin"),
            Listener::Https7443 => (&self.https, "admin.https.allow_admin"),
        };
        let Some(nets) = nets else {
            return Ok(());
        };
        let ip = peer.map(|peer| peer.addr.ip().to_canonical());
        if ip.is_some_and(|ip| nets.iter().any(|net| net.contains(&ip))) {
            return Ok(());
        }
        Err(Refusal::NotAllowed { ip, key })
    }
}

/// What the Admin API works with.
pub struct Admin {
    /// Where changes and reads go.
    pub control: Control,
    /// The snapshot that is served, to be counted.
    pub live: Arc<Live>,
    /// The last failures.
    pub failures: Arc<Failures>,
    /// Where writes are counted.
    pub metrics: Arc<Metrics>,
    /// The keys that are accepted.
    pub keys: Keys,
    /// `admin.https.flavour`.
    pub https_flavour: Flavour,
    /// `admin.cors`: origins that browsers may call from; empty: none.
    pub cors: Vec<String>,
    /// Who may call at all.
    pub allow_admin: Allowed,
    /// Who tried wrong keys.
    pub attempts: Attempts,
    /// What the report on FIPS mode says of the process.
    pub evidence: Arc<Surroundings>,
    /// The file that says what is served, where one does: then resources cannot be written one by one.
    pub served: Option<Arc<Served>>,
}

/// The Admin API as a filter that answers every request.
pub fn admin(
    state: Arc<Admin>,
    listener: Listener,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static {
    request_head()
        .and(warp::ext::optional::<Peer>())
        .and(warp::body::stream().map(boxed))
        .then(move |head: Head, peer: Option<Peer>, body: Body| {
            let state = Arc::clone(&state);
            async move {
                state
                    .answer(listener, &head, peer, body)
                    .await
                    .into_response()
            }
        })
        .recover(|_rejection| async { Ok(Refusal::Internal.into_answer().into_response()) })
        .unify()
}

/// Method, path, query and header fields of any request.
fn request_head() -> impl Filter<Extract = (Head,), Error = Infallible> + Clone {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::method()
        .and(warp::path::full())
        .and(query)
        .and(warp::header::headers_cloned())
        .map(
            |method, path: warp::path::FullPath, query: String, headers| {
                Head::new(method, path.as_str(), &query, headers)
            },
        )
}

/// Seconds since the epoch.
fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}

impl Admin {
    async fn answer(
        &self,
        listener: Listener,
        head: &Head,
        peer: Option<Peer>,
        body: Body,
    ) -> Answer {
        let mut body = Some(body);
        let mut answer = match rand::hex_id(16) {
            Ok(id) => {
                let mut answer = self.answer_as(listener, head, peer, &mut body, &id).await;
                set(&mut answer, "x-request-id", &id);
                answer
            }
            // Without its module the gateway can tell no caller from another.
            Err(_) if !fips::is_operational() => {
                let text = FipsError::ErrorState.to_string();
                Answer::error(StatusCode::SERVICE_UNAVAILABLE, &text)
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "admin: no request id");
                Refusal::Internal.into_answer()
            }
        };
        self.decorate(head, &mut answer.headers);
        if let Some(body) = body
            && !request::is_done(head, body).await
        {
            let close = HeaderValue::from_static("close");
            answer.headers.insert(header::CONNECTION, close);
        }
        answer
    }

    async fn answer_as(
        &self,
        listener: Listener,
        head: &Head,
        peer: Option<Peer>,
        body: &mut Option<Body>,
        request_id: &str,
    ) -> Answer {
        let mut actor = Actor {
            name: String::new(),
            request_id: request_id.to_owned(),
            peer: peer.as_ref().map(|peer| peer.addr),
        };
        if let Err(refusal) = self.allow_admin.check(listener, peer.as_ref()) {
            return refused(refusal, head, &actor);
        }
        if let Some(answer) = self.answer_anyone(head) {
            return answer;
        }
        let call = match self.admit(listener, head, peer.as_ref(), &mut actor) {
            Ok(flavour) => Call {
                state: self,
                head,
                flavour,
                actor: &actor,
                body,
            },
            Err(refusal) => return refused(refusal, head, &actor),
        };
        call.answer().await
    }

    /// Lets a request in: sets who calls, and says which flavour is meant.
    fn admit(
        &self,
        listener: Listener,
        head: &Head,
        peer: Option<&Peer>,
        actor: &mut Actor,
    ) -> Result<Flavour, Refusal> {
        actor.name = self.authenticate(head, peer)?;
        self.flavour(listener, head)
    }

    /// Who calls: by the key, where there is one, else by the certificate. An address that tries
    /// one key after the other has to wait.
    fn authenticate(&self, head: &Head, peer: Option<&Peer>) -> Result<String, Refusal> {
        let Some(given) = self.keys.find(head)? else {
            let certified = peer.and_then(|peer| peer.certified.as_deref());
            let certified = certified.ok_or(AuthError::Missing)?;
            return Ok(certified.check(head, now())?.to_owned());
        };
        let Some(peer) = peer else {
            return Ok(self.keys.check(head, &given)?.to_owned());
        };
        let (ip, at) = (peer.addr.ip(), Instant::now());
        self.attempts.check(ip, &given, at)?;
        match self.keys.check(head, &given) {
            Ok(name) => Ok(name.to_owned()),
            Err(AuthError::Wrong) => {
                self.attempts.note(ip, &given, at)?;
                Err(AuthError::Wrong.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What is answered without a key: the liveness probe, a browser's preflight, and methods
    /// that the Admin API does not have.
    fn answer_anyone(&self, head: &Head) -> Option<Answer> {
        let is_root = || head.is_of(&["apisix", "admin"]);
        match head.method {
            Method::GET | Method::PUT | Method::POST | Method::PATCH | Method::DELETE => None,
            Method::HEAD if is_root() => Some(Answer::empty(StatusCode::OK)),
            Method::HEAD
                if self.served.is_some() && head.is_of(&["apisix", "admin", "configs"]) =>
            {
                None
            }
            Method::OPTIONS if self.origin(head).is_some() => {
                Some(Answer::empty(StatusCode::NO_CONTENT))
            }
            _ => Some(Refusal::NoPath.into_answer()),
        }
    }

    /// The listener's flavour, or API7's where a gateway group is named; there is one group.
    fn flavour(&self, listener: Listener, head: &Head) -> Result<Flavour, Refusal> {
        let group = head.query.find("gateway_group_id");
        match (group.filter(|group| !group.is_empty()), listener) {
            (Some("default"), _) => Ok(Flavour::Api7),
            (Some(other), _) => Err(Refusal::UnknownGroup(other.to_owned())),
            (None, Listener::Http9180) => Ok(Flavour::Apisix),
            (None, Listener::Https7443) => Ok(self.https_flavour),
        }
    }

    /// The origin of a browser's request, where it may call.
    fn origin<'h>(&self, head: &'h Head) -> Option<&'h str> {
        let origin = head.header(header::ORIGIN.as_str())?;
        self.cors
            .iter()
            .any(|allowed| allowed == origin)
            .then_some(origin)
    }

    /// Header fields that every answer has.
    fn decorate(&self, head: &Head, headers: &mut HeaderMap) {
        headers.insert(header::SERVER, SERVER);
        headers.insert(HeaderName::from_static("x-portcullis-version"), VERSION);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.cors.is_empty() {
            return;
        }
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        if let Some(Ok(origin)) = self.origin(head).map(HeaderValue::from_str) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            for (name, value) in CORS {
                headers.insert(name, HeaderValue::from_static(value));
            }
        }
    }
}

/// What a browser is told beside the origin. No credentials: the key is a header.
const CORS: [(HeaderName, &str); 4] = [
    (
        header::ACCESS_CONTROL_ALLOW_METHODS,
        "GET, PUT, POST, PATCH, DELETE",
    ),
    (
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        "Content-Type, If-Match, X-API-KEY, X-Portcullis-Allow-Weaker, X-Portcullis-Withheld",
    ),
    (
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        "ETag, X-Portcullis-Expires, X-Portcullis-Warning, X-Request-Id",
    ),
    (header::ACCESS_CONTROL_MAX_AGE, "600"),
];

#[cfg(test)]
mod tests {
    use super::*;

    use super::auth::Role;
    use super::testing::{KEY, Room, VIEWER, state};

    const ROUTES: &str = "/apisix/admin/routes";

    async fn status_with(headers: &[(&str, &str)], method: &str, path: &str) -> (u16, String) {
        let told = Room::new()
            .ask_with(Listener::Http9180, method, path, headers, "")
            .await;
        (told.status, told.text)
    }

    #[tokio::test]
    async fn without_a_key_nothing_is_said_but_401() {
        let missing =
            "{\"error_msg\":\"failed to check token\",\"description\":\"missing apikey\"}\n";
        for path in [
            ROUTES,
            "/apisix/admin/routs",
            "/apisix/admin/routes/%zz",
            "/apisix/admin/routes?gateway_group_id=none",
            "/api/version",
            "/portcullis/v1/failures",
            "/elsewhere",
            "/",
        ] {
            assert_eq!(
                status_with(&[], "GET", path).await,
                (401, missing.to_owned()),
                "{path}"
            );
        }
    }

    #[tokio::test]
    async fn wrong_key_and_viewers_write_are_401() {
        for (headers, method, description) in [
            ([("x-api-key", "nonsense")], "GET", "wrong apikey"),
            (
                [("x-api-key", VIEWER)],
                "PUT",
                "invalid method for role viewer",
            ),
            (
                [("x-api-key", VIEWER)],
                "DELETE",
                "invalid method for role viewer",
            ),
        ] {
            let (status, text) = status_with(&headers, method, ROUTES).await;
            assert_eq!(status, 401);
            assert!(text.contains(description), "{text}");
        }
        for headers in [[("x-api-key", VIEWER)], [("x_api_key", KEY)]] {
            assert_eq!(status_with(&headers, "GET", ROUTES).await.0, 200);
        }
    }

    fn peer(addr: &str, certified: Option<Certified>) -> Peer {
        Peer {
            addr: addr.parse().unwrap(),
            certified: certified.map(Arc::new),
        }
    }

    #[tokio::test]
    async fn address_that_guesses_waits_and_others_do_not() {
        let room = Room::new();
        let ask = async |addr: &str, key: &str| {
            let headers = [("x-api-key", key)];
            let peer = peer(addr, None);
            room.ask_from(Listener::Https7443, peer, &headers, "GET")
                .await
        };
        for guess in 0..20 {
            let told = ask("192.0.2.1:1", &guess.to_string()).await;
            assert_eq!(told.status, 401);
        }
        for key in [KEY, VIEWER, "another"] {
            let told = ask("192.0.2.1:2", key).await;
            assert_eq!(told.status, 429);
            let wait = told.header("retry-after").unwrap().parse().unwrap();
            assert!((1..=6_u32).contains(&wait), "{wait}");
            assert!(told.text.contains("too many wrong keys"), "{}", told.text);
        }
        // One of its last, repeated, is no guess.
        assert_eq!(ask("192.0.2.1:3", "19").await.status, 401);
        assert_eq!(ask("192.0.2.2:1", KEY).await.status, 200);
    }

    #[tokio::test]
    async fn address_outside_the_networks_is_403_before_its_key_is_looked_at() {
        let allow_admin = Allowed {
            http: None,
            https: Some(vec!["192.0.2.0/24".parse().unwrap()]),
        };
        let room = Room(Arc::new(Admin {
            allow_admin,
            ..state()
        }));
        for (addr, key, listener, status) in [
            ("192.0.2.9:1", KEY, Listener::Https7443, 200),
            ("[::ffff:192.0.2.9]:1", KEY, Listener::Https7443, 200),
            ("192.0.2.9:1", "wrong", Listener::Https7443, 401),
            ("192.0.3.9:1", KEY, Listener::Https7443, 403),
            ("192.0.3.9:1", "wrong", Listener::Https7443, 403),
            ("[2001:db8::1]:1", KEY, Listener::Https7443, 403),
            ("192.0.3.9:1", KEY, Listener::Http9180, 200),
        ] {
            let headers = [("x-api-key", key)];
            let told = room
                .ask_from(listener, peer(addr, None), &headers, "GET")
                .await;
            assert_eq!(told.status, status, "{addr}: {}", told.text);
        }
        // Who is not known to come from there does not.
        room.ask_on(Listener::Https7443, "GET", ROUTES, "", 403)
            .await;
    }

    #[tokio::test]
    async fn certificate_with_a_role_stands_for_a_key_that_is_not_given() {
        let room = Room::new();
        let certified = |role| Certified {
            name: "CN=ops".to_owned(),
            role,
            until: i64::MAX,
        };
        for (role, headers, method, status) in [
            (Role::Admin, &[][..], "GET", 200),
            (Role::Admin, &[], "DELETE", 400),
            (Role::Viewer, &[], "GET", 200),
            (Role::Viewer, &[], "DELETE", 401),
            (Role::Viewer, &[("x-api-key", KEY)], "DELETE", 400),
            (Role::Admin, &[("x-api-key", "wrong")], "GET", 401),
            (Role::Admin, &[("x-api-key", VIEWER)], "DELETE", 401),
        ] {
            let peer = peer("127.0.0.1:1", Some(certified(role)));
            let told = room
                .ask_from(Listener::Https7443, peer, headers, method)
                .await;
            assert_eq!(told.status, status, "{role:?} {method}: {}", told.text);
        }
    }

    #[tokio::test]
    async fn liveness_probe_needs_no_key() {
        for path in ["/apisix/admin", "/apisix/admin/"] {
            assert_eq!(status_with(&[], "HEAD", path).await, (200, String::new()));
        }
        assert_eq!(status_with(&[], "HEAD", ROUTES).await.0, 404);
    }

    #[tokio::test]
    async fn methods_beyond_the_five_are_404() {
        for method in ["OPTIONS", "TRACE", "PURGE", "HEAD"] {
            let key = [("x-api-key", KEY)];
            assert_eq!(status_with(&key, method, ROUTES).await.0, 404, "{method}");
        }
    }

    #[tokio::test]
    async fn every_answer_says_who_speaks() {
        let room = Room::new();
        for (path, headers, version) in [
            (ROUTES, &[("x-api-key", KEY)][..], Some("v3")),
            (
                "/apisix/admin/routes/absent",
                &[("x-api-key", KEY)],
                Some("v3"),
            ),
            (ROUTES, &[], None),
        ] {
            let told = room
                .ask_with(Listener::Http9180, "GET", path, headers, "")
                .await;
            assert_eq!(told.header("server"), Some("APISIX/3.18.0"));
            assert_eq!(
                told.header("x-portcullis-version"),
                Some(env!("CARGO_PKG_VERSION"))
            );
            assert_eq!(told.header("x-api-version"), version);
            assert_eq!(told.header("content-type"), Some("application/json"));
            assert_eq!(told.header("x-request-id").map(str::len), Some(32));
            assert_eq!(told.header("access-control-allow-origin"), None);
            assert!(told.text.ends_with("}\n"), "{}", told.text);
        }
    }

    #[tokio::test]
    async fn answer_that_leaves_a_long_body_unread_says_that_the_connection_ends() {
        let room = Room::new();
        let (short, long) = ("x".repeat(1000), "x".repeat(100_000));
        for (method, path, key, status, is_read) in [
            ("PUT", "/apisix/admin/routes/1", "wrong", 401, false),
            ("PUT", "/apisix/admin/nothing/1", KEY, 404, false),
            ("POST", "/apisix/admin/secrets/vault/1", KEY, 405, false),
            ("PUT", "/apisix/admin/routes/1", KEY, 400, true),
        ] {
            for (body, is_long) in [(&short, false), (&long, true)] {
                let length = body.len().to_string();
                let headers = [("x-api-key", key), ("content-length", length.as_str())];
                let told = room
                    .ask_with(Listener::Http9180, method, path, &headers, body)
                    .await;
                assert_eq!(told.status, status, "{method} {path}: {}", told.text);
                let expected = (is_long && !is_read).then_some("close");
                assert_eq!(told.header("connection"), expected, "{method} {path}");
            }
        }
    }

    #[tokio::test]
    async fn unknown_gateway_group_is_404_and_default_is_served() {
        let room = Room::new();
        for path in [ROUTES, "/api/version", "/apisix/admin/ssls/1"] {
            let asked = format!("{path}?gateway_group_id=other");
            let told = room.ask("GET", &asked, "", 404).await;
            assert!(
                told.text
                    .contains("gateway group \\\"other\\\" does not exist"),
                "{told:?}"
            );
        }
        for group in ["default", ""] {
            let asked = format!("{ROUTES}?gateway_group_id={group}");
            room.ask("GET", &asked, "", 200).await;
        }
    }

    #[tokio::test]
    async fn broken_path_is_400() {
        let told = Room::new()
            .ask("GET", "/apisix/admin/routes/%zz", "", 400)
            .await;
        assert!(told.text.contains("broken percent escape"), "{told:?}");
    }

    #[tokio::test]
    async fn browsers_may_call_from_configured_origins_only() {
        let cors = vec!["https://console.example".to_owned()];
        let room = Room(Arc::new(Admin { cors, ..state() }));
        for (origin, status, allowed) in [
            (
                "https://console.example",
                204,
                Some("https://console.example"),
            ),
            ("https://evil.example", 404, None),
        ] {
            let headers = [("origin", origin), ("access-control-request-method", "PUT")];
            let told = room
                .ask_with(Listener::Http9180, "OPTIONS", ROUTES, &headers, "")
                .await;
            assert_eq!(told.status, status);
            assert_eq!(told.header("access-control-allow-origin"), allowed);
            assert_eq!(told.header("vary"), Some("Origin"));
        }
    }
}
