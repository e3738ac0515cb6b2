//! The effective configuration as text, for `portcullis check`. Shows no secret.

use std::fmt;
use std::path::Path;

use ipnet::IpNet;

use super::{
    AccessLog, Claim, ClientAuthNames, Config, Flavour, ForwardProxy, InterimAnswers, Kek,
    KeyMaterial, KeySource, ListenAddr, LogFormat, LogLevel, Nginx400, NoProxy, Role, SecretText,
    Store, TrustFile, UpstreamStatus,
};

impl Config {
    /// Every key with its effective value, one `path.to.key = value` per line.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut lines = Lines(String::new());
        lines.add("data_dir", self.data_dir.display());
        lines.add("workers", self.worker_count());
        lines.add("http.listen", list(&self.http.listen));
        lines.add(
            "http.client_auth_names",
            match self.http.client_auth_names {
                ClientAuthNames::Refuse => "refuse",
                ClientAuthNames::Redirect => "redirect",
                ClientAuthNames::Allow => "allow",
            },
        );
        lines.add("http.http2", if self.http.http2 { "on" } else { "off" });
        lines.add("https.listen", list(&self.https.listen));
        lines.add(
            "https.fallback_sni",
            self.https.fallback_sni.as_deref().unwrap_or("none"),
        );
        let tickets = if self.https.session_tickets {
            "on"
        } else {
            "off"
        };
        lines.add("https.session_tickets", tickets);
        let ticket_secret = self.https.session_ticket_secret.as_ref();
        lines.add("https.session_ticket_secret", secret(ticket_secret));
        lines.add("https.session_cache.size", self.https.session_cache.size);
        lines.add(
            "https.session_cache.timeout",
            Shown(self.https.session_cache.timeout),
        );
        lines.add(
            "https.handshake_timeout",
            Shown(self.https.handshake_timeout),
        );
        self.describe_admin(&mut lines);
        lines.add("status.listen", list(&self.status.listen));
        lines.add(
            "store",
            match self.store {
                Store::Sqlite => "sqlite",
                Store::Memory => "memory",
            },
        );
        lines.add(
            "fips",
            if self.fips.is_required {
                "required"
            } else {
                "off"
            },
        );
        lines.add("fips_module_dir", path(self.fips.module_dir.as_deref()));
        lines.add("fips_version", &self.fips.version);
        lines.add(
            "fips_self_test_interval",
            Shown(self.fips.self_test_interval),
        );
        let report_key = self.fips.report_key.as_ref();
        lines.add(
            "fips_report_key",
            path(report_key.map(|key| key.path.as_path())),
        );
        lines.add(
            "fips_report_key_passphrase",
            secret(report_key.and_then(|key| key.passphrase.as_ref())),
        );
        match &self.kek {
            Kek::File(path) => lines.add("kek", path.display()),
            Kek::Search(_) => lines.add("kek", "not named: searched, or made at first start"),
            Kek::Value(_) => lines.add("kek", "from the environment"),
        }
        let keyring = match self.keyring.len() {
            0 => "none".to_owned(),
            count => format!("{count} set"),
        };
        lines.add("data_encryption.keyring", keyring);
        lines.add(
            "upstream.trust_file",
            match &self.upstream.trust_file {
                None => "none".to_owned(),
                Some(TrustFile::System) => "system".to_owned(),
                Some(TrustFile::Path(path)) => path.display().to_string(),
            },
        );
        let servers = self.resolver.servers.iter().map(ToString::to_string);
        let servers = servers.collect::<Vec<_>>();
        lines.add(
            "resolver.servers",
            if servers.is_empty() {
                "those of /etc/resolv.conf".to_owned()
            } else {
                servers.join(", ")
            },
        );
        lines.add("memory.lock", self.memory.lock.word());
        lines.add("security.refuse_weakening", self.security.refuse_weakening);
        lines.add(
            "security.require_upstream_verify",
            self.security.require_upstream_verify,
        );
        self.describe_secrets(&mut lines);
        lines.add(
            "proxy.nginx_400",
            match self.proxy.nginx_400 {
                Nginx400::BadGateway => "502",
                Nginx400::Pass => "pass",
            },
        );
        lines.add("proxy.router", self.proxy.router.name());
        for (key, is_set) in [
            ("delete_uri_tail_slash", self.proxy.delete_uri_tail_slash),
            (
                "normalize_uri_like_servlet",
                self.proxy.normalize_uri_like_servlet,
            ),
            (
                "match_uri_encoded_slash",
                self.proxy.match_uri_encoded_slash,
            ),
        ] {
            lines.add(&format!("proxy.{key}"), is_set);
        }
        lines.add(
            "proxy.upstream_status",
            match self.proxy.upstream_status {
                UpstreamStatus::Errors => "errors",
                UpstreamStatus::Always => "always",
            },
        );
        lines.add(
            "proxy.interim_answers",
            match self.proxy.interim_answers {
                InterimAnswers::All => "all",
                InterimAnswers::Http2 => "http2",
            },
        );
        self.describe_rest(&mut lines);
        lines.0
    }

    fn describe_secrets(&self, lines: &mut Lines) {
        let secrets = &self.secrets;
        for (key, time) in [
            ("secrets.cache_time", secrets.cache_time),
            ("secrets.max_age", secrets.max_age),
            ("secrets.read_timeout", secrets.read_timeout),
            ("secrets.write_timeout", secrets.write_timeout),
        ] {
            lines.add(key, Shown(time));
        }
        for (word, manager) in [
            ("vault", &secrets.vault),
            ("aws", &secrets.aws),
            ("gcp", &secrets.gcp),
            ("kubernetes", &secrets.kubernetes),
        ] {
            let origins = if manager.origins.is_empty() {
                "none".to_owned()
            } else {
                manager.origins.join(", ")
            };
            lines.add(&format!("secrets.{word}.origins"), origins);
            let trust = match &manager.trust_file {
                TrustFile::System if word == "kubernetes" && manager.is_trust_default => {
                    "ca.crt of the service account, else system".to_owned()
                }
                TrustFile::System => "system".to_owned(),
                TrustFile::Path(path) => path.display().to_string(),
            };
            lines.add(&format!("secrets.{word}.trust_file"), trust);
        }
        let token_file = secrets.vault_token_file.as_deref();
        lines.add("secrets.vault.token_file", path(token_file));
        lines.add("secrets.aws.instance_role", secrets.aws_instance_role);
        lines.add(
            "secrets.kubernetes.service_account",
            secrets.service_account.display(),
        );
        for root in &secrets.file_roots {
            let text = format_args!("{} = {}", root.name, root.path.display()).to_string();
            lines.add("secrets.file.roots", text);
        }
        if secrets.file_roots.is_empty() {
            lines.add("secrets.file.roots", "none");
        }
        describe_forward_proxy(secrets.proxy.as_ref(), lines);
    }

    fn describe_admin(&self, lines: &mut Lines) {
        let admin = &self.admin;
        lines.add("admin.listen", list(&admin.listen));
        lines.add("admin.allow_admin", nets(admin.allow_admin.as_deref()));
        lines.add("admin.https.listen", list(&admin.https.listen));
        let allowed = admin.https.allow_admin.as_deref();
        lines.add("admin.https.allow_admin", nets(allowed));
        lines.add(
            "admin.https.flavour",
            match admin.https.flavour {
                Flavour::Api7 => "api7",
                Flavour::Apisix => "apisix",
            },
        );
        let identity = admin.https.identity.as_ref();
        lines.add(
            "admin.https.cert",
            path(identity.map(|files| files.cert.as_path())),
        );
        lines.add(
            "admin.https.key",
            path(identity.map(|files| files.key.path.as_path())),
        );
        lines.add(
            "admin.https.key_passphrase",
            secret(identity.and_then(|files| files.key.passphrase.as_ref())),
        );
        lines.add(
            "admin.https.client_ca",
            path(admin.https.client_ca.as_deref()),
        );
        for entry in &admin.https.client_roles {
            let text = format_args!("{} ({})", entry.claim, role(entry.role)).to_string();
            lines.add("admin.https.client_roles", text);
        }
        for key in &admin.keys {
            let role = role(key.role);
            let form = match key.key {
                KeyMaterial::Plain(_) => "[secret]",
                KeyMaterial::Sha256(_) => "sha256:…",
            };
            lines.add("admin.keys", format_args!("{} ({role}) {form}", key.name));
        }
        let sources = admin.key_sources.iter().map(|source| match source {
            KeySource::Header => "header",
            KeySource::Query => "query",
            KeySource::Cookie => "cookie",
        });
        lines.add("admin.key_sources", sources.collect::<Vec<_>>().join(", "));
        let is_off = admin.cors.is_empty();
        lines.add(
            "admin.cors",
            if is_off {
                "off".to_owned()
            } else {
                admin.cors.join(", ")
            },
        );
    }

    fn describe_rest(&self, lines: &mut Lines) {
        lines.add(
            "log.level",
            match self.log.level {
                LogLevel::Error => "error",
                LogLevel::Warn => "warn",
                LogLevel::Info => "info",
                LogLevel::Debug => "debug",
                LogLevel::Trace => "trace",
            },
        );
        lines.add(
            "log.format",
            match self.log.format {
                LogFormat::Auto => "text on a terminal, else json",
                LogFormat::Json => "json",
                LogFormat::Text => "text",
            },
        );
        lines.add(
            "access_log",
            match &self.access_log {
                AccessLog::Stdout => "stdout".to_owned(),
                AccessLog::Off => "off".to_owned(),
                AccessLog::File(path) => path.display().to_string(),
            },
        );
        lines.add("limits.connections", self.limits.connections);
        lines.add("limits.header_bytes", self.limits.header_bytes);
        lines.add("limits.header_lines", self.limits.header_lines);
        lines.add("limits.routed_body_bytes", self.limits.routed_body_bytes);
        lines.add("limits.header_timeout", Shown(self.limits.header_timeout));
        lines.add("limits.idle_timeout", Shown(self.limits.idle_timeout));
        lines.add("limits.body_timeout", Shown(self.limits.body_timeout));
        lines.add("limits.handshakes", self.handshake_count());
        lines.add("limits.contexts", self.limits.contexts);
        lines.add("shutdown_timeout", Shown(self.shutdown_timeout));
    }
}

struct Lines(String);

impl Lines {
    fn add(&mut self, key: &str, value: impl fmt::Display) {
        self.0.push_str(&format!("{key} = {value}\n"));
    }
}

/// Shows what has only a `Debug` form.
struct Shown<T>(T);

impl<T: fmt::Debug> fmt::Display for Shown<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn list(addrs: &[ListenAddr]) -> String {
    if addrs.is_empty() {
        return "off".to_owned();
    }
    addrs
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Networks, parted by commas.
fn nets(nets: Option<&[IpNet]>) -> String {
    let Some(nets) = nets else {
        return "every address".to_owned();
    };
    let nets: Vec<String> = nets.iter().map(ToString::to_string).collect();
    nets.join(", ")
}

const fn role(role: Role) -> &'static str {
    match role {
        Role::Admin => "admin",
        Role::Viewer => "viewer",
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subject(attributes) => {
                let each = attributes.iter().map(|(kind, value)| {
                    let value = value.replace('\\', "\\\\").replace(',', "\\,");
                    format!("{kind}={value}")
                });
                f.write_str(&each.collect::<Vec<_>>().join(","))
            }
            Self::Dns(name) => write!(f, "dns:{name}"),
            Self::Uri(name) => write!(f, "uri:{name}"),
            Self::Email(name) => write!(f, "email:{name}"),
        }
    }
}

fn describe_forward_proxy(proxy: Option<&ForwardProxy>, lines: &mut Lines) {
    let Some(proxy) = proxy else {
        lines.add("secrets.proxy.url", "none");
        return;
    };
    lines.add("secrets.proxy.url", &proxy.url);
    if let Some(credentials) = &proxy.credentials {
        lines.add("secrets.proxy.username", &credentials.username);
        let password = secret(Some(&credentials.password));
        lines.add("secrets.proxy.password", password);
    }
    let trust = match &proxy.trust_file {
        TrustFile::System => "system".to_owned(),
        TrustFile::Path(path) => path.display().to_string(),
    };
    lines.add("secrets.proxy.trust_file", trust);
    let entries: Vec<&str> = proxy.no_proxy.iter().map(NoProxy::text).collect();
    let entries = if entries.is_empty() {
        "none".to_owned()
    } else {
        entries.join(", ")
    };
    lines.add("secrets.proxy.no_proxy", entries);
}

fn secret(text: Option<&SecretText>) -> &'static str {
    if text.is_some() { "[secret]" } else { "none" }
}

fn path(path: Option<&Path>) -> String {
    path.map_or_else(|| "none".to_owned(), |path| path.display().to_string())
}
