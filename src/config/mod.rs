//! The configuration: read once at start, from one file and the command line.
//!
//! Every field has a default, unknown keys are errors, and no rule is left for later: a `Config`
//! that exists has passed all of them. What changes while the gateway runs is a resource, not
//! here.

mod admin;
mod describe;
mod error;
mod forward_proxy;
mod key_file;
mod keyring;
mod listen;
mod load;
mod reader;
mod rules;
mod secret;
mod secrets;
mod source;

pub use error::{ConfigError, Problem};
pub use forward_proxy::{ForwardProxy, NoProxy, ProxyCredentials};
pub use listen::ListenAddr;
pub use secret::{Kek, KeyMaterial, SecretText};
pub use secrets::{FileRoot, SecretManager, Secrets};

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

/// Everything the gateway is told at start.
///
/// # Defaults
/// See each field; [`Config::from_text`] of an empty text gives all of them.
#[derive(Clone, Debug)]
pub struct Config {
    /// `data_dir`: where the store and what the gateway makes for itself live.
    ///
    /// Default: `$STATE_DIRECTORY` (`/var/lib/portcullis` for the unit), else `./portcullis-data`.
    pub data_dir: PathBuf,
    /// `workers`: data-plane threads; 0 (default) stands for one per core.
    pub workers: usize,
    /// `http`: the data plane in the clear.
    pub http: Http,
    /// `https`: the data plane over TLS.
    pub https: Https,
    /// `admin`: the Admin API.
    pub admin: Admin,
    /// `status`: metrics, health and readiness.
    pub status: Status,
    /// `store`: where resources are kept. Default: [`Store::Sqlite`].
    pub store: Store,
    /// `fips`, and the keys that begin with its name.
    pub fips: Fips,
    /// `kek`: the key that seals private keys at rest.
    ///
    /// Default: `$CREDENTIALS_DIRECTORY/kek` where it exists; for the unit
    /// `/etc/portcullis/kek`; else `<data_dir>/kek`, made at first start.
    pub kek: Kek,
    /// `data_encryption.keyring`: the keys of an APISIX whose sealed private keys are taken; 16 or 32
    /// bytes each, the first tried first. Default: none.
    pub keyring: Vec<SecretText>,
    /// `upstream`: trust towards upstreams.
    pub upstream: UpstreamTrust,
    /// `resolver`: who is asked for the names of nodes.
    pub resolver: Resolver,
    /// `memory`: the process's own.
    pub memory: Memory,
    /// `security`: what writers are not allowed to do.
    pub security: Security,
    /// `secrets`: what resources may refer to, and how it is kept up to date.
    pub secrets: Secrets,
    /// `proxy`: behaviour of the data plane.
    pub proxy: Proxy,
    /// `log`: the process log, on standard error.
    pub log: Log,
    /// `access_log`: where the record of each request goes. Default: [`AccessLog::Stdout`].
    pub access_log: AccessLog,
    /// `limits`: bounds on what peers may take.
    pub limits: Limits,
    /// `shutdown_timeout`: how long requests in flight may take after SIGTERM. Default 30 s.
    pub shutdown_timeout: Duration,
    /// The file that was read; `None` when there was none.
    pub file: Option<PathBuf>,
    /// Names of the environment variables that were looked for.
    pub variables: BTreeSet<String>,
    /// Sentences for the operator about what is accepted but unwise.
    pub warnings: Vec<String>,
}

/// `http`.
#[derive(Clone, Debug)]
pub struct Http {
    /// `http.listen`. Default `0.0.0.0:9080` and `[::]:9080`; empty: switched off.
    ///
    /// IPv6 sockets are to be opened v6only: the two defaults share the port.
    pub listen: Vec<ListenAddr>,
    /// `http.client_auth_names`: a request in the clear for a name that asks for client
    /// certificates. Default: [`ClientAuthNames::Refuse`].
    pub client_auth_names: ClientAuthNames,
    /// `http.http2`: `on` (default) or `off`; whether clients may speak HTTP/2 here by prior
    /// knowledge, as those of gRPC do (nginx: `http2`, APISIX: `enable_http2`).
    pub http2: bool,
}

/// What happens to a plain request for a name that asks for client certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuthNames {
    /// `refuse`: 421.
    Refuse,
    /// `redirect`: 308 to https, on the first port of `https.listen` unless 443 is one of them.
    Redirect,
    /// `allow`: forwarded, as APISIX does.
    Allow,
}

/// `https`.
#[derive(Clone, Debug)]
pub struct Https {
    /// `https.listen`. Default `0.0.0.0:9443` and `[::]:9443`; empty: switched off.
    pub listen: Vec<ListenAddr>,
    /// `https.fallback_sni`: the name that clients without SNI are treated as having sent; lower
    /// case, no trailing dot. Default: none, such clients get an alert.
    pub fallback_sni: Option<String>,
    /// `https.session_cache`.
    pub session_cache: SessionCache,
    /// `https.session_tickets`: `on` or `off` (default); whether clients keep their sessions
    /// themselves, sealed, instead of the gateway (nginx: `ssl_session_tickets`).
    pub session_tickets: bool,
    /// `https.session_ticket_secret`: what the tickets' keys are derived from, at least 32 bytes,
    /// the same for all gateways that are to resume each other's sessions. Default: none, keys are
    /// drawn at random and are this process's own.
    ///
    /// Invariant: only with `session_tickets`.
    pub session_ticket_secret: Option<SecretText>,
    /// `https.handshake_timeout`. Default 10 s.
    pub handshake_timeout: Duration,
}

/// `https.session_cache`: stateful resumption of one listener, shared by all workers.
#[derive(Clone, Copy, Debug)]
pub struct SessionCache {
    /// `https.session_cache.size`: sessions kept per listener; 0: no resumption. Default 20,480
    /// (OpenSSL's).
    pub size: u32,
    /// `https.session_cache.timeout`: how long a session may be resumed, also one in a ticket, and
    /// how often tickets' keys change; whole seconds, at most a day. Default 10 min (APISIX's).
    /// With TLS 1.3 each connection leaves another session; a day after the full handshake that
    /// they come from they end, too.
    pub timeout: Duration,
}

/// `admin`.
#[derive(Clone, Debug)]
pub struct Admin {
    /// `admin.listen`: plain HTTP, APISIX flavour. Default `127.0.0.1:9180` and `[::1]:9180`.
    ///
    /// Invariant: loopback only.
    pub listen: Vec<ListenAddr>,
    /// `admin.allow_admin`: who may call on `admin.listen`. Default: `None`, whoever reaches it.
    pub allow_admin: Option<Vec<IpNet>>,
    /// `admin.https`.
    pub https: AdminHttps,
    /// `admin.keys`, and `PORTCULLIS_ADMIN_KEY` under the name `environment`. Empty: the first
    /// start makes one in `<data_dir>/admin.key`. Never "no keys, everything allowed".
    pub keys: Vec<AdminKey>,
    /// `admin.key_sources`: where a request may carry its key. Default: the header only.
    pub key_sources: Vec<KeySource>,
    /// `admin.cors`: origins, e.g. `https://console.example`, that browsers may call from.
    /// Default: none (`off`).
    pub cors: Vec<String>,
}

/// `admin.https`.
///
/// Invariant: an address other than loopback has `identity` or `client_ca`.
#[derive(Clone, Debug)]
pub struct AdminHttps {
    /// `admin.https.listen`. Default `127.0.0.1:7443` and `[::1]:7443`.
    pub listen: Vec<ListenAddr>,
    /// `admin.https.flavour`. Default: [`Flavour::Api7`].
    pub flavour: Flavour,
    /// `admin.https.cert` and `admin.https.key`, always together, and `admin.https.key_passphrase`.
    /// Default: none, a self-signed certificate is made at first start.
    pub identity: Option<IdentityFiles>,
    /// `admin.https.client_ca`: PEM file; callers must present a certificate of these CAs.
    /// Default: none.
    pub client_ca: Option<PathBuf>,
    /// `admin.https.client_roles`: certificates that do in place of a key. Default: none, a key is
    /// always needed.
    ///
    /// Invariant: empty without `client_ca`.
    pub client_roles: Vec<ClientRole>,
    /// `admin.https.allow_admin`: who may call on `admin.https.listen`. Default: `None`, whoever
    /// reaches it. (APISIX, `deployment.admin.allow_admin`.)
    pub allow_admin: Option<Vec<IpNet>>,
}

/// One entry of `admin.https.client_roles`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRole {
    /// What the certificate must say.
    pub claim: Claim,
    /// `role`: what its holder may do.
    pub role: Role,
}

/// What a client's certificate must say of its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// `subject`, e.g. `OU=gateway-admins,O=Example`: each of these attributes, by OpenSSL's short
    /// name in capitals and its value; the subject may have more.
    Subject(Vec<(String, String)>),
    /// `san: dns:…`: this DNS name, lower case, among its alternative names.
    Dns(String),
    /// `san: uri:…`: this URI.
    Uri(String),
    /// `san: email:…`: this mail address.
    Email(String),
}

/// A certificate chain and its private key, both PEM files.
#[derive(Clone, Debug)]
pub struct IdentityFiles {
    /// Leaf first, then intermediates.
    pub cert: PathBuf,
    /// The leaf's private key.
    pub key: KeyFile,
}

/// A file with a private key, PEM.
#[derive(Clone, Debug)]
pub struct KeyFile {
    /// Where it is.
    pub path: PathBuf,
    /// What decrypts it. Default: none, the key is not encrypted.
    pub passphrase: Option<SecretText>,
    /// The file that the passphrase came from, where it came from one.
    pub passphrase_file: Option<PathBuf>,
}

/// Whose Admin API a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// `api7`.
    Api7,
    /// `apisix`.
    Apisix,
}

/// One entry of `admin.keys`.
#[derive(Clone, Debug)]
pub struct AdminKey {
    /// `name`: who the audit says it was. Unique.
    pub name: String,
    /// `key`, read.
    pub key: KeyMaterial,
    /// The file that it came from, where it came from one.
    pub file: Option<PathBuf>,
    /// `role`. Default: [`Role::Admin`].
    pub role: Role,
}

/// What the bearer of an admin key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `admin`: everything.
    Admin,
    /// `viewer`: reading.
    Viewer,
}

/// Where a request to the Admin API may carry its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// `header`: `X-API-KEY`.
    Header,
    /// `query`: `?api_key=`.
    Query,
    /// `cookie`: `x_api_key`.
    Cookie,
}

/// `status`.
#[derive(Clone, Debug)]
pub struct Status {
    /// `status.listen`. Default `127.0.0.1:9091`; empty: switched off.
    pub listen: Vec<ListenAddr>,
}

/// `store`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// `sqlite`: a database in `data_dir`.
    Sqlite,
    /// `memory`: forgotten at the end of the process.
    Memory,
}

/// `fips` and the keys that begin with its name.
#[derive(Clone, Debug)]
pub struct Fips {
    /// `fips: required`. Default `off`.
    pub is_required: bool,
    /// `fips_module_dir`: absolute; holds `fips.so` and `fipsmodule.cnf`.
    ///
    /// Invariant: present when `is_required`.
    pub module_dir: Option<PathBuf>,
    /// `fips_version`: the version the module must report. Default `3.1.2`.
    pub version: String,
    /// `fips_self_test_interval`: between two self-tests of the module. Default 1 h.
    pub self_test_interval: Duration,
    /// `fips_report_key` and `fips_report_key_passphrase`: what signs reports on FIPS mode.
    /// Default: none, reports cannot be signed.
    pub report_key: Option<KeyFile>,
}

/// `upstream`.
#[derive(Clone, Debug)]
pub struct UpstreamTrust {
    /// `upstream.trust_file`: whom an upstream with `verify: true` and without `ca_certs` trusts.
    /// Default: nobody; such a resource is refused.
    pub trust_file: Option<TrustFile>,
}

/// A set of trusted CAs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustFile {
    /// `system`: what the operating system trusts.
    System,
    /// A PEM file.
    Path(PathBuf),
}

/// Where distributions keep the CAs that the system trusts, most common first.
const SYSTEM_TRUST: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

impl TrustFile {
    /// The file: of the system's, the first that is there, or the most common one.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Path(path) => path.clone(),
            Self::System => {
                let [common, ..] = SYSTEM_TRUST;
                let known = SYSTEM_TRUST.into_iter();
                let found = known.map(PathBuf::from).find(|path| path.exists());
                found.unwrap_or_else(|| PathBuf::from(common))
            }
        }
    }
}

/// `resolver`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    /// `resolver.servers`: name servers, asked by UDP, and by TCP where an answer is long. Default:
    /// those of `/etc/resolv.conf`. Its search list and options count in either case, and
    /// `/etc/hosts` comes first, as in APISIX.
    pub servers: Vec<SocketAddr>,
}

/// `memory`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// `memory.lock`: whether memory is kept from the swap space.
    pub lock: MemoryLock,
}

/// `memory.lock`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryLock {
    /// `auto`, the default: where the system permits it.
    #[default]
    Auto,
    /// `required`: else the start is refused.
    Required,
    /// `off`.
    Off,
}

impl MemoryLock {
    /// Each with its word.
    pub(crate) const ALL: [(&'static str, Self); 3] = [
        ("auto", Self::Auto),
        ("required", Self::Required),
        ("off", Self::Off),
    ];

    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Required => "required",
            Self::Off => "off",
        }
    }
}

/// `security`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Security {
    /// `security.refuse_weakening`: a write that widens what a name accepts needs
    /// `X-Portcullis-Allow-Weaker: 1`. Default false.
    pub refuse_weakening: bool,
    /// `security.require_upstream_verify`: resources whose upstream's certificate is not checked
    /// are refused. Default false.
    pub require_upstream_verify: bool,
}

/// `proxy`.
#[derive(Clone, Copy, Debug)]
pub struct Proxy {
    /// `proxy.nginx_400`. Default: [`Nginx400::BadGateway`].
    pub nginx_400: Nginx400,
    /// `proxy.router`: APISIX's `apisix.router.http`. Default: [`Router::HostUri`].
    pub router: Router,
    /// `proxy.upstream_status`. Default: [`UpstreamStatus::Errors`].
    pub upstream_status: UpstreamStatus,
    /// `proxy.interim_answers`. Default: [`InterimAnswers::Http2`].
    pub interim_answers: InterimAnswers,
    /// `proxy.delete_uri_tail_slash`: `/a/` is `/a` to routes. Default: false.
    pub delete_uri_tail_slash: bool,
    /// `proxy.normalize_uri_like_servlet`: `/a;x/b` is `/a/b` to routes. Default: false.
    pub normalize_uri_like_servlet: bool,
    /// `proxy.match_uri_encoded_slash`: `%2F` separates no segments for routes. Default: false.
    pub match_uri_encoded_slash: bool,
}

/// Which answers have `X-APISIX-Upstream-Status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamStatus {
    /// `errors`: those whose last upstream said 5xx, or failed.
    #[default]
    Errors,
    /// `always`: all for which an upstream was asked; APISIX's
    /// `show_upstream_status_in_response_header`.
    Always,
}

impl UpstreamStatus {
    /// Each with its word.
    pub const ALL: [(&'static str, Self); 2] = [("errors", Self::Errors), ("always", Self::Always)];
}

/// Which clients are told what upstreams say before they answer: 1xx but 100.
///
/// RFC 9110 §15.2 has a proxy pass them on. A client of HTTP/1.1 that knows none takes one for the
/// answer itself, and the answer for the next one's (RFC 8297 §3): Python's `http.client` does, and
/// all that is built on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InterimAnswers {
    /// `all`: those of HTTP/1.1 and HTTP/2.
    All,
    /// `http2`: those of HTTP/2 alone, where a client cannot take one for the other.
    #[default]
    Http2,
}

impl InterimAnswers {
    /// Each with its word.
    pub const ALL: [(&'static str, Self); 2] = [("all", Self::All), ("http2", Self::Http2)];
}

/// In which order routes are looked for, and how their paths are read; APISIX's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Router {
    /// `radixtree_host_uri`: hosts first, then paths.
    HostUri,
    /// `radixtree_uri`: paths alone; a host is one more condition, and may have a port.
    Uri,
    /// `radixtree_uri_with_parameter`: the same, with `:name` and `*name` in paths.
    UriWithParameter,
}

impl Router {
    /// Every router by its name.
    pub const ALL: [(&'static str, Self); 3] = [
        ("radixtree_host_uri", Self::HostUri),
        ("radixtree_uri", Self::Uri),
        ("radixtree_uri_with_parameter", Self::UriWithParameter),
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        let found = Self::ALL.into_iter().find(|(_, router)| *router == self);
        found.map_or("", |(name, _)| name)
    }
}

/// What becomes of nginx's own 400 for a missing or bad client certificate, sent to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nginx400 {
    /// `502`: it is our fault, not the client's.
    BadGateway,
    /// `pass`: sent on as it is.
    Pass,
}

/// `log`.
#[derive(Clone, Copy, Debug)]
pub struct Log {
    /// `log.level`. Default: [`LogLevel::Info`].
    pub level: LogLevel,
    /// `log.format`. Default: [`LogFormat::Auto`].
    pub format: LogFormat,
}

/// `log.level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// `error`.
    Error,
    /// `warn`.
    Warn,
    /// `info`.
    Info,
    /// `debug`.
    Debug,
    /// `trace`.
    Trace,
}

/// `log.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Not given: text where standard error is a terminal, else JSON.
    Auto,
    /// `json`.
    Json,
    /// `text`.
    Text,
}

/// `access_log`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// `stdout`.
    Stdout,
    /// `off`.
    Off,
    /// A file, opened anew on SIGUSR1.
    File(PathBuf),
}

/// `limits`.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `limits.connections`: client connections per worker. Default 16,384.
    pub connections: usize,
    /// `limits.header_bytes`: bytes of a request's head. Default 32,768 (nginx); 8,192 at least
    /// (hyper's least buffer), 1 MiB at most. Over HTTP/2 each field counts 32 more (RFC 9113
    /// §6.5.2), and clients are told four times as much there (SETTINGS_MAX_HEADER_LIST_SIZE), so that
    /// what is too large is refused with its reason.
    pub header_bytes: usize,
    /// `limits.header_lines`: header lines of a request over HTTP/1.1. Default and least 100, 4,096 at
    /// most; more than 100 take a large allocation for each request.
    pub header_lines: usize,
    /// `limits.routed_body_bytes`: bytes of a body that is read to find its request's route, where
    /// routes ask for it (`post_arg.…`, `graphql_…`). Default 1 MiB (`graphql.max_size` of APISIX);
    /// 64 MiB at most.
    pub routed_body_bytes: usize,
    /// `limits.header_timeout`: for a request's head to arrive. Default 60 s.
    pub header_timeout: Duration,
    /// `limits.idle_timeout`: how long a client's connection may wait for its next request.
    /// Default 60 s.
    pub idle_timeout: Duration,
    /// `limits.body_timeout`: between two reads of a request's body. Default 60 s.
    pub body_timeout: Duration,
    /// `limits.handshakes`: handshakes in flight in the process; 0 (default): as many as there are cores, two at
    /// least.
    pub handshakes: usize,
    /// `limits.contexts`: names whose TLS context is kept. Default 20,000.
    pub contexts: usize,
}

impl Config {
    /// The number of data-plane threads: `workers`, or one per core.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        if self.workers == 0 {
            core_count()
        } else {
            self.workers
        }
    }

    /// The number of handshakes in flight: `limits.handshakes`, or as many as there are cores, two at
    /// least.
    #[must_use]
    pub fn handshake_count(&self) -> usize {
        if self.limits.handshakes == 0 {
            core_count().max(2)
        } else {
            self.limits.handshakes
        }
    }
}

/// What the process may use at once: affinity and cgroup quota counted; 1 where unknown.
fn core_count() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
