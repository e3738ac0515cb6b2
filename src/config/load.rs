//! The keys: from the merged document to a [`Config`], and the rules between keys.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::admin::read_admin;
use super::error::{ConfigError, Problem};
use super::key_file::read_key_file;
use super::keyring::read_keyring;
use super::listen::ListenAddr;
use super::reader::{Reader, Section};
use super::rules::judge;
use super::secret::{self, Env, Kek, SecretText, read_secret};
use super::secrets::read_secrets;
use super::source::Source;
use super::{
    AccessLog, ClientAuthNames, Config, Fips, Http, Https, InterimAnswers, Limits, Log, LogFormat,
    LogLevel, Memory, MemoryLock, Nginx400, Proxy, Resolver, Router, Security, SessionCache,
    Status, Store, TrustFile, UpstreamStatus, UpstreamTrust,
};

/// Read when no other file is named, if it exists.
const DEFAULT_FILE: &str = "/etc/portcullis/portcullis.yaml";

/// RFC 1035 §4.2.
const DNS_PORT: u16 = 53;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const INSTANT: Duration = Duration::from_millis(1);
/// What a secret has at least that keys of 256 bits are derived from.
const TICKET_SECRET_BYTES: usize = 32;

impl Config {
    /// Reads the configuration: the file, then `PORTCULLIS_SET`, then `sets` (`path.to.key=value`).
    ///
    /// Without `file`, `/etc/portcullis/portcullis.yaml` is read if it exists. `env` looks an
    /// environment variable up; nothing else of the environment is used.
    ///
    /// # Errors
    /// Every problem found, not only the first: a file that cannot be read, unknown keys, wrong
    /// types, values out of range, rules between keys.
    pub fn load(
        file: Option<&Path>,
        sets: &[String],
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let default = Path::new(DEFAULT_FILE);
        let file = file.or_else(|| default.exists().then_some(default));
        let Some(path) = file else {
            return Self::read("", None, sets, env);
        };
        let text = std::fs::read_to_string(path).map_err(|e| Problem {
            origin: path.display().to_string(),
            path: String::new(),
            reason: format!("the file cannot be read: {e}"),
            remedy: "name another one with `--config`".to_owned(),
        })?;
        Self::read(&text, Some(path), sets, env)
    }

    /// The same from a text instead of a file.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_text(
        text: &str,
        sets: &[String],
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        Self::read(text, None, sets, env)
    }

    fn read(
        text: &str,
        file: Option<&Path>,
        sets: &[String],
        env: Env<'_>,
    ) -> Result<Self, ConfigError> {
        let name = file.map_or_else(
            || "configuration".to_owned(),
            |path| path.display().to_string(),
        );
        let variables = RefCell::new(BTreeSet::new());
        let env = |name: &str| {
            variables.borrow_mut().insert(name.to_owned());
            env(name)
        };
        let source = Source::read(text, name, sets, env("PORTCULLIS_SET").as_deref())?;
        let reader = Reader::new(source);
        let mut config = read_root(&reader, &env);
        config.variables = variables.take();
        config.file = file.map(Path::to_path_buf);
        judge(&reader, &mut config);
        let problems = reader.into_problems();
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError { problems })
        }
    }
}

fn read_root(reader: &Reader, env: Env<'_>) -> Config {
    let root = reader.root();
    let mut warnings = Vec::new();
    let unit_dir = env("STATE_DIRECTORY").and_then(|dirs| first_absolute(&dirs));
    let data_dir = root.path("data_dir").or_else(|| unit_dir.clone());
    let data_dir = data_dir.unwrap_or_else(|| PathBuf::from("./portcullis-data"));
    let workers = root.count("workers", 0, 0..=1024);
    let http = read_http(&root.section("http"));
    let https = read_https(&root.section("https"), reader, env, &mut warnings);
    let admin = read_admin(&root.section("admin"), reader, env, &mut warnings);
    let status = read_status(&root.section("status"));
    let store = read_store(&root);
    let fips = read_fips(&root, reader, env, &mut warnings);
    let kek = read_kek(&root, env);
    let encryption = root.section("data_encryption");
    let keyring = read_keyring(&encryption, reader, env, &mut warnings);
    let upstream = read_upstream(&root.section("upstream"));
    let resolver = read_resolver(&root.section("resolver"));
    let memory = read_memory(&root.section("memory"));
    let security = read_security(&root.section("security"));
    let secrets = read_secrets(&root.section("secrets"), reader, env, &mut warnings);
    let proxy = read_proxy(&root.section("proxy"));
    let log = read_log(&root.section("log"));
    let access_log = match root.text_or_off("access_log").as_deref() {
        None | Some("stdout") => AccessLog::Stdout,
        Some("off") => AccessLog::Off,
        Some(path) => AccessLog::File(PathBuf::from(path)),
    };
    let limits = read_limits(&root.section("limits"));
    let shutdown_timeout = root.duration("shutdown_timeout", 30 * SECOND, Duration::ZERO..=DAY);
    root.close();
    Config {
        data_dir,
        workers,
        http,
        https,
        admin,
        status,
        store,
        fips,
        kek,
        keyring,
        upstream,
        resolver,
        memory,
        security,
        secrets,
        proxy,
        log,
        access_log,
        limits,
        shutdown_timeout,
        file: None,
        variables: BTreeSet::new(),
        warnings,
    }
}

fn read_http(section: &Section<'_>) -> Http {
    let http = Http {
        listen: section.listen("listen", ListenAddr::everywhere(9080)),
        client_auth_names: section.choice(
            "client_auth_names",
            ClientAuthNames::Refuse,
            &[
                ("refuse", ClientAuthNames::Refuse),
                ("redirect", ClientAuthNames::Redirect),
                ("allow", ClientAuthNames::Allow),
            ],
        ),
        http2: section.choice("http2", true, &[("on", true), ("off", false)]),
    };
    section.close();
    http
}

fn read_https(
    section: &Section<'_>,
    reader: &Reader,
    env: Env<'_>,
    warnings: &mut Vec<String>,
) -> Https {
    let cache = section.section("session_cache");
    let session_cache = SessionCache {
        size: cache.count("size", 20_480, 0..=10_000_000),
        timeout: cache.duration("timeout", 10 * MINUTE, SECOND..=DAY),
    };
    if session_cache.timeout.subsec_nanos() != 0 {
        cache.refuse(
            "timeout",
            "is no whole number of seconds",
            "OpenSSL counts seconds",
        );
    }
    cache.close();
    let session_tickets = section.choice("session_tickets", false, &[("on", true), ("off", false)]);
    let https = Https {
        listen: section.listen("listen", ListenAddr::everywhere(9443)),
        fallback_sni: read_fallback_sni(section),
        session_cache,
        session_tickets,
        session_ticket_secret: read_ticket_secret(section, session_tickets, reader, env, warnings),
        handshake_timeout: section.duration(
            "handshake_timeout",
            10 * SECOND,
            INSTANT..=10 * MINUTE,
        ),
    };
    section.close();
    https
}

fn read_ticket_secret(
    section: &Section<'_>,
    session_tickets: bool,
    reader: &Reader,
    env: Env<'_>,
    warnings: &mut Vec<String>,
) -> Option<SecretText> {
    let key = "session_ticket_secret";
    let secret = read_secret(section, key, "secret", reader, env, warnings)?;
    if !session_tickets {
        section.refuse(
            key,
            "is given, and `https.session_tickets` is `off`",
            "write `https.session_tickets: on`, or take the secret out",
        );
    }
    if secret.expose().len() < TICKET_SECRET_BYTES {
        section.refuse(
            key,
            format!("has fewer than {TICKET_SECRET_BYTES} bytes"),
            "make one with `openssl rand -hex 32`",
        );
    }
    Some(secret)
}

fn read_fallback_sni(section: &Section<'_>) -> Option<String> {
    let text = section.text("fallback_sni")?;
    let name = text.strip_suffix('.').unwrap_or(&text).to_ascii_lowercase();
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if name.len() <= 253 && name.split('.').all(is_label) && name.parse::<IpAddr>().is_err() {
        return Some(name);
    }
    section.refuse(
        "fallback_sni",
        "is no host name",
        "write a name that an ssl has in its `snis`",
    );
    None
}

fn read_status(section: &Section<'_>) -> Status {
    let addr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9091);
    let default = vec![ListenAddr {
        addr,
        is_optional: false,
    }];
    let status = Status {
        listen: section.listen("listen", default),
    };
    section.close();
    status
}

fn read_store(root: &Section<'_>) -> Store {
    match root.word("store").as_deref() {
        None | Some("sqlite") => Store::Sqlite,
        Some("memory") => Store::Memory,
        Some("etcd") => {
            root.refuse(
                "store",
                "`etcd` is not supported by this version",
                "write `sqlite` or `memory`",
            );
            Store::Sqlite
        }
        Some(_) => {
            root.refuse("store", "is no store", "write `sqlite` or `memory`");
            Store::Sqlite
        }
    }
}

fn read_fips(
    root: &Section<'_>,
    reader: &Reader,
    env: Env<'_>,
    warnings: &mut Vec<String>,
) -> Fips {
    let is_required = root.choice("fips", false, &[("off", false), ("required", true)]);
    let module_dir = root.path("fips_module_dir");
    match &module_dir {
        Some(dir) if !dir.is_absolute() => {
            root.refuse(
                "fips_module_dir",
                "is no absolute path",
                "begin it with `/`",
            );
        }
        None if is_required => root.refuse(
            "fips_module_dir",
            "is missing, and `fips` is `required`",
            "set it to the directory that holds `fips.so` and `fipsmodule.cnf`",
        ),
        Some(_) | None => {}
    }
    let version = root
        .text("fips_version")
        .unwrap_or_else(|| "3.1.2".to_owned());
    if !version.split('.').all(|part| part.parse::<u32>().is_ok()) {
        root.refuse(
            "fips_version",
            "is no version",
            "write what the module reports, e.g. \"3.1.2\"",
        );
    }
    Fips {
        is_required,
        module_dir,
        version,
        self_test_interval: root.duration("fips_self_test_interval", HOUR, SECOND..=7 * DAY),
        report_key: read_key_file(
            root,
            "fips_report_key",
            "fips_report_key_passphrase",
            reader,
            env,
            warnings,
        ),
    }
}

fn read_kek(root: &Section<'_>, env: Env<'_>) -> Kek {
    if let Some(text) = root.text("kek") {
        match secret::kek(&text, env) {
            Ok(kek) => return kek,
            Err((reason, remedy)) => root.refuse("kek", reason, remedy),
        }
    }
    let credentials = env("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    Kek::Search(credentials.filter(|path| path.is_absolute()))
}

fn read_upstream(section: &Section<'_>) -> UpstreamTrust {
    let trust_file = section.text("trust_file").map(|text| {
        if text == "system" {
            TrustFile::System
        } else {
            TrustFile::Path(PathBuf::from(text))
        }
    });
    section.close();
    UpstreamTrust { trust_file }
}

fn read_resolver(section: &Section<'_>) -> Resolver {
    let mut servers = Vec::new();
    for text in section.texts("servers").unwrap_or_default() {
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        let with_port = text.parse::<SocketAddr>().ok();
        let server = with_port.or_else(|| Some(SocketAddr::new(bare.parse().ok()?, DNS_PORT)));
        match server {
            Some(server) if server.port() > 0 && !server.ip().is_unspecified() => {
                servers.push(server);
            }
            _ => section.refuse(
                "servers",
                format!("{text:?} is no address of a name server"),
                "write an IP address, with a port if it is not 53, e.g. \"192.0.2.53\" or \
                 \"[2001:db8::53]:5353\"",
            ),
        }
    }
    section.close();
    Resolver { servers }
}

fn read_memory(section: &Section<'_>) -> Memory {
    let lock = section.choice("lock", MemoryLock::default(), &MemoryLock::ALL);
    section.close();
    Memory { lock }
}

fn read_security(section: &Section<'_>) -> Security {
    let security = Security {
        refuse_weakening: section.is_set("refuse_weakening"),
        require_upstream_verify: section.is_set("require_upstream_verify"),
    };
    section.close();
    security
}

fn read_proxy(section: &Section<'_>) -> Proxy {
    let nginx_400 = section.choice(
        "nginx_400",
        Nginx400::BadGateway,
        &[("502", Nginx400::BadGateway), ("pass", Nginx400::Pass)],
    );
    let router = section.choice("router", Router::HostUri, &Router::ALL);
    let upstream_status = section.choice(
        "upstream_status",
        UpstreamStatus::default(),
        &UpstreamStatus::ALL,
    );
    let interim_answers = section.choice(
        "interim_answers",
        InterimAnswers::default(),
        &InterimAnswers::ALL,
    );
    let delete_uri_tail_slash = section.is_set("delete_uri_tail_slash");
    let normalize_uri_like_servlet = section.is_set("normalize_uri_like_servlet");
    let match_uri_encoded_slash = section.is_set("match_uri_encoded_slash");
    section.close();
    Proxy {
        delete_uri_tail_slash,
        normalize_uri_like_servlet,
        match_uri_encoded_slash,
        nginx_400,
        router,
        upstream_status,
        interim_answers,
    }
}

fn read_log(section: &Section<'_>) -> Log {
    let log = Log {
        level: section.choice(
            "level",
            LogLevel::Info,
            &[
                ("error", LogLevel::Error),
                ("warn", LogLevel::Warn),
                ("info", LogLevel::Info),
                ("debug", LogLevel::Debug),
                ("trace", LogLevel::Trace),
            ],
        ),
        format: section.choice(
            "format",
            LogFormat::Auto,
            &[("json", LogFormat::Json), ("text", LogFormat::Text)],
        ),
    };
    section.close();
    log
}

fn read_limits(section: &Section<'_>) -> Limits {
    let limits = Limits {
        connections: section.count("connections", 16_384, 1..=10_000_000),
        header_bytes: section.count("header_bytes", 32_768, 8192..=1 << 20),
        header_lines: section.count("header_lines", 100, 100..=4096),
        routed_body_bytes: section.count("routed_body_bytes", 1 << 20, 0..=64 << 20),
        header_timeout: section.duration("header_timeout", MINUTE, INSTANT..=DAY),
        idle_timeout: section.duration("idle_timeout", MINUTE, INSTANT..=DAY),
        body_timeout: section.duration("body_timeout", MINUTE, INSTANT..=DAY),
        handshakes: section.count("handshakes", 0, 0..=1_000_000),
        contexts: section.count("contexts", 20_000, 1..=100_000_000),
    };
    section.close();
    limits
}

/// systemd separates several state directories by colons.
fn first_absolute(dirs: &str) -> Option<PathBuf> {
    dirs.split(':')
        .map(PathBuf::from)
        .find(|dir| dir.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_env(_: &str) -> Option<String> {
        None
    }

    fn read(text: &str) -> Result<Config, ConfigError> {
        Config::from_text(text, &[], &no_env)
    }

    #[test]
    fn empty_text_gives_the_defaults() {
        let config = read("").unwrap();
        let shown = |listen: &[ListenAddr]| -> Vec<String> {
            listen.iter().map(ToString::to_string).collect()
        };
        assert_eq!(shown(&config.http.listen), ["0.0.0.0:9080", "[::]:9080"]);
        assert!(config.http.http2 && !config.https.session_tickets);
        assert_eq!(shown(&config.https.listen), ["0.0.0.0:9443", "[::]:9443"]);
        assert_eq!(
            shown(&config.admin.listen),
            ["127.0.0.1:9180", "[::1]:9180"]
        );
        assert_eq!(
            shown(&config.admin.https.listen),
            ["127.0.0.1:7443", "[::1]:7443"]
        );
        assert_eq!(shown(&config.status.listen), ["127.0.0.1:9091"]);
        assert_eq!(config.data_dir, Path::new("./portcullis-data"));
        assert_eq!(config.store, Store::Sqlite);
        assert_eq!(config.access_log, AccessLog::Stdout);
        assert_eq!(config.admin.key_sources, [super::super::KeySource::Header]);
        assert_eq!(config.shutdown_timeout, Duration::from_secs(30));
        assert_eq!(config.limits.contexts, 20_000);
        assert!(!config.fips.is_required && config.fips.version == "3.1.2");
        assert!(config.admin.keys.is_empty() && config.warnings.is_empty());
        assert!(config.worker_count() >= 1 && config.handshake_count() >= 2);
        assert!(matches!(&config.kek, Kek::Search(None)));
    }

    #[test]
    fn every_key_is_read() {
        let config = read(
            "data_dir: /d\nworkers: 3\nstore: memory\nfips: required\nfips_module_dir: /m\n\
             fips_version: 3.1.3\nfips_self_test_interval: 5m\nkek: /k\naccess_log: /a.log\nshutdown_timeout: 2m\n\
             http: {listen: [], client_auth_names: allow, http2: off}\n\
             https: {listen: 1, fallback_sni: A.Test., session_tickets: on, handshake_timeout: 500ms,\n\
             \x20       session_cache: {size: 5, timeout: 7}}\n\
             admin: {listen: [], key_sources: [query, cookie], cors: ['https://a.test'], https: {listen: [],\n\
             \x20       flavour: apisix, cert: /c, key: /k, client_ca: /ca}}\n\
             status: {listen: []}\n\
             upstream: {trust_file: system}\n\
             security: {refuse_weakening: true, require_upstream_verify: true}\n\
             proxy: {nginx_400: pass, router: radixtree_uri, upstream_status: always, interim_answers: all,\n\
             \x20       delete_uri_tail_slash: true, normalize_uri_like_servlet: true, match_uri_encoded_slash: true}\n\
             log: {level: debug, format: json}\n\
             limits: {connections: 1, header_bytes: 8192, header_lines: 200, routed_body_bytes: 6, header_timeout: 1, idle_timeout: 2,\n\
             \x20        body_timeout: 3, handshakes: 4, contexts: 5}\n",
        )
        .unwrap();
        assert_eq!(config.worker_count(), 3);
        assert!(config.fips.is_required);
        assert_eq!(config.fips.self_test_interval, 5 * MINUTE);
        assert_eq!(config.https.fallback_sni.as_deref(), Some("a.test"));
        assert_eq!(config.https.handshake_timeout, Duration::from_millis(500));
        assert_eq!(config.https.session_cache.timeout, Duration::from_secs(7));
        assert!(config.https.session_tickets && config.https.session_ticket_secret.is_none());
        assert_eq!(config.access_log, AccessLog::File("/a.log".into()));
        assert_eq!(config.upstream.trust_file, Some(TrustFile::System));
        assert_eq!(config.proxy.nginx_400, Nginx400::Pass);
        assert_eq!(config.proxy.router, Router::Uri);
        assert!(config.proxy.delete_uri_tail_slash && config.proxy.match_uri_encoded_slash);
        assert!(config.proxy.normalize_uri_like_servlet);
        assert_eq!(config.proxy.upstream_status, UpstreamStatus::Always);
        assert_eq!(config.proxy.interim_answers, InterimAnswers::All);
        assert_eq!(config.log.level, LogLevel::Debug);
        assert_eq!(config.handshake_count(), 4);
        assert_eq!(config.admin.https.client_ca, Some("/ca".into()));
        let described = config.describe();
        assert!(
            described.contains("https.handshake_timeout = 500ms\n"),
            "{described}"
        );
        assert!(described.contains("http.listen = off\n"));
        assert!(!config.http.http2 && described.contains("http.http2 = off\n"));
    }

    #[test]
    fn refused_value_names_its_key_and_its_twin_is_accepted() {
        for (path, refused, twin) in [
            ("data_dir", "data_dir: 5", "data_dir: '5'"),
            ("data_dir", "data_dir: ''", "data_dir: d"),
            ("data_dir", "data_dir:", "data_dir: d"),
            ("workers", "workers: -1", "workers: 0"),
            ("workers", "workers: many", "workers: 2"),
            ("store", "store: etcd", "store: sqlite"),
            ("store", "store: redis", "store: memory"),
            ("fips", "fips: on", "fips: off"),
            (
                "fips_module_dir",
                "fips: required",
                "fips: required\nfips_module_dir: /m",
            ),
            (
                "fips_module_dir",
                "fips_module_dir: m",
                "fips_module_dir: /m",
            ),
            (
                "fips_version",
                "fips_version: latest",
                "fips_version: 3.1.2",
            ),
            ("fips_version", "fips_version: 3.1", "fips_version: '3.1'"),
            (
                "fips_self_test_interval",
                "fips_self_test_interval: 0",
                "fips_self_test_interval: 1s",
            ),
            ("kek", "kek: $env://NOBODY", "kek: /k"),
            ("kek", "kek: $secret://vault/a/b", "kek: '@/k'"),
            ("access_log", "access_log: {}", "access_log: off"),
            (
                "shutdown_timeout",
                "shutdown_timeout: 30 s",
                "shutdown_timeout: 30s",
            ),
            ("http", "http: 9080", "http: {listen: 9080}"),
            ("http.http2", "http: {http2: maybe}", "http: {http2: on}"),
            (
                "http.listen",
                "http: {listen: [a.test:80]}",
                "http: {listen: ['*:80']}",
            ),
            ("http.lisen", "http: {lisen: 1}", "http: {listen: 1}"),
            (
                "http.client_auth_names",
                "http: {client_auth_names: no}",
                "http: {client_auth_names: refuse}",
            ),
            (
                "https.session_tickets",
                "https: {session_tickets: x}",
                "https: {session_tickets: on}",
            ),
            (
                "https.session_ticket_secret",
                "https: {session_tickets: on, session_ticket_secret: 0123456789012345678901234567890}",
                "https: {session_tickets: on, session_ticket_secret: 01234567890123456789012345678901}",
            ),
            (
                "https.session_ticket_secret",
                "https: {session_ticket_secret: 01234567890123456789012345678901}",
                "https: {session_tickets: off}",
            ),
            (
                "https.fallback_sni",
                "https: {fallback_sni: 10.0.0.1}",
                "https: {fallback_sni: a.test}",
            ),
            (
                "https.fallback_sni",
                "https: {fallback_sni: a..b}",
                "https: {fallback_sni: a.b.}",
            ),
            (
                "https.session_cache.timeout",
                "https: {session_cache: {timeout: 1.5}}",
                "https: {session_cache: {timeout: 1}}",
            ),
            (
                "https.handshake_timeout",
                "https: {handshake_timeout: 0}",
                "https: {handshake_timeout: 1}",
            ),
            ("admin.keys", "admin: {keys: k}", "admin: {keys: []}"),
            (
                "admin.keys.0",
                "admin: {keys: [k]}",
                "admin: {keys: [{name: n, key: k}]}",
            ),
            (
                "admin.keys.0.name",
                "admin: {keys: [{key: k}]}",
                "admin: {keys: [{name: n, key: k}]}",
            ),
            (
                "admin.keys.0.key",
                "admin: {keys: [{name: n}]}",
                "admin: {keys: [{name: n, key: k}]}",
            ),
            (
                "admin.keys.0.key",
                "admin: {keys: [{name: n, key: 5}]}",
                "admin: {keys: [{name: n, key: '5'}]}",
            ),
            (
                "admin.keys.0.role",
                "admin: {keys: [{name: n, key: k, role: root}]}",
                "admin: {keys: [{name: n, key: k, role: viewer}]}",
            ),
            (
                "admin.keys.1.name",
                "admin: {keys: [{name: n, key: k}, {name: n, key: l}]}",
                "admin: {keys: [{name: n, key: k}, {name: m, key: l}]}",
            ),
            (
                "admin.key_sources",
                "admin: {key_sources: []}",
                "admin: {key_sources: [header]}",
            ),
            (
                "admin.key_sources",
                "admin: {key_sources: header}",
                "admin: {key_sources: [header]}",
            ),
            (
                "admin.key_sources",
                "admin: {key_sources: [body]}",
                "admin: {key_sources: [cookie]}",
            ),
            (
                "admin.cors",
                "admin: {cors: ['*']}",
                "admin: {cors: ['https://a.test:1']}",
            ),
            ("admin.cors", "admin: {cors: on}", "admin: {cors: off}"),
            (
                "admin.https.flavour",
                "admin: {https: {flavour: kong}}",
                "admin: {https: {flavour: apisix}}",
            ),
            (
                "admin.https.cert",
                "admin: {https: {cert: /c}}",
                "admin: {https: {cert: /c, key: /k}}",
            ),
            (
                "admin.https.key",
                "admin: {https: {key: /k}}",
                "admin: {https: {cert: /c, key: /k}}",
            ),
            (
                "security.refuse_weakening",
                "security: {refuse_weakening: 1}",
                "security: {refuse_weakening: true}",
            ),
            (
                "proxy.router",
                "proxy: {router: radixtree}",
                "proxy: {router: radixtree_uri_with_parameter}",
            ),
            (
                "proxy.nginx_400",
                "proxy: {nginx_400: 400}",
                "proxy: {nginx_400: 502}",
            ),
            (
                "proxy.upstream_status",
                "proxy: {upstream_status: true}",
                "proxy: {upstream_status: errors}",
            ),
            (
                "proxy.interim_answers",
                "proxy: {interim_answers: http1}",
                "proxy: {interim_answers: all}",
            ),
            ("log.level", "log: {level: loud}", "log: {level: warn}"),
            ("log.format", "log: {format: xml}", "log: {format: text}"),
            (
                "limits.header_bytes",
                "limits: {header_bytes: 100}",
                "limits: {header_bytes: 8192}",
            ),
            (
                "limits.contexts",
                "limits: {contexts: 0}",
                "limits: {contexts: 1}",
            ),
            ("standalone", "standalone: x", "status: {listen: 1}"),
        ] {
            let error = read(refused).expect_err(refused);
            assert_eq!(error.problems.len(), 1, "{refused}: {error}");
            assert_eq!(error.problems[0].path, path, "{refused}: {error}");
            assert!(!error.problems[0].remedy.is_empty(), "{refused}: {error}");
            if let Err(error) = read(twin) {
                panic!("{twin}: {error}");
            }
        }
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let error = read("worker: 1\nhttp: {listen: x}\nlog: {level: loud}").unwrap_err();
        assert_eq!(
            error.to_string().lines().collect::<Vec<_>>(),
            [
                "configuration: http.listen: \"x\" is no address; write `address:port` with an IP address (IPv6 as \"[::1]:9080\"), `*:port` or a port; `[]` switches it off",
                "configuration: log.level: is \"loud\"; write `error`, `warn`, `info`, `debug` or `trace`",
                "configuration: worker: unknown key; did you mean `workers`?",
            ]
        );
    }

    #[test]
    fn setting_is_named_as_the_place_of_its_problem() {
        let sets = ["log.level=loud".to_owned()];
        let error = Config::from_text("workers: 1", &sets, &no_env).unwrap_err();
        assert_eq!(error.problems[0].origin, "--set");
        let env = |name: &str| (name == "PORTCULLIS_SET").then(|| "log.level=loud".to_owned());
        let error = Config::from_text("workers: 1", &[], &env).unwrap_err();
        assert_eq!(error.problems[0].origin, "PORTCULLIS_SET");
    }

    #[test]
    fn name_servers_are_addresses_with_and_without_a_port() {
        let config = read("resolver: {servers: [192.0.2.1, '[2001:db8::1]:54', '2001:db8::2']}");
        let servers = config.unwrap().resolver.servers;
        let shown: Vec<String> = servers.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            ["192.0.2.1:53", "[2001:db8::1]:54", "[2001:db8::2]:53"]
        );
        assert!(read("").unwrap().resolver.servers.is_empty());
        for server in ["dns.test", "192.0.2.1:0", "0.0.0.0", "192.0.2.1:x", ""] {
            let text = format!("resolver: {{servers: ['{server}']}}");
            let told = read(&text).unwrap_err().to_string();
            assert!(told.contains("resolver.servers"), "{server}: {told}");
        }
    }

    #[test]
    fn file_that_is_named_must_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("portcullis.yaml");
        let error = Config::load(Some(&path), &[], &no_env).unwrap_err();
        assert!(error.to_string().contains("cannot be read"));
        std::fs::write(&path, "workers: 2\n").unwrap();
        let config = Config::load(Some(&path), &[], &no_env).unwrap();
        assert_eq!((config.workers, config.file), (2, Some(path)));
    }

    #[test]
    fn unit_keeps_its_data_where_systemd_says() {
        let env =
            |name: &str| (name == "STATE_DIRECTORY").then(|| "/var/lib/portcullis".to_owned());
        let config = Config::from_text("", &[], &env).unwrap();
        assert_eq!(config.data_dir, Path::new("/var/lib/portcullis"));
        let given = Config::from_text("data_dir: /d", &[], &env).unwrap();
        assert_eq!(given.data_dir, Path::new("/d"));
    }

    #[test]
    fn kek_is_searched_where_systemd_puts_credentials_unless_one_is_named() {
        let env = |name: &str| (name == "CREDENTIALS_DIRECTORY").then(|| "/run/c".to_owned());
        let kek = Config::from_text("", &[], &env).unwrap().kek;
        assert!(matches!(kek, Kek::Search(Some(path)) if path == Path::new("/run/c")));
        let kek = Config::from_text("kek: /k", &[], &env).unwrap().kek;
        assert!(matches!(kek, Kek::File(path) if path == Path::new("/k")));
    }
}
