//! `secrets`: how values are kept up to date that resources refer to, and what their managers are
//! trusted with.

use std::path::PathBuf;
use std::time::Duration;

use super::forward_proxy::read_forward_proxy;
use super::reader::{Reader, Section};
use super::secret::Env;
use super::{ForwardProxy, TrustFile};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Where a pod finds its service account. (Kubernetes, "Accessing the API from a Pod")
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// `secrets`.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// `secrets.cache_time`: when a value is read again whose manager names no time. Default 5 min
    /// (APISIX's).
    pub cache_time: Duration,
    /// `secrets.max_age`: how long a value is served that its manager does not confirm. Default 7
    /// days.
    pub max_age: Duration,
    /// `secrets.read_timeout`: for one attempt to read. Default 3 s.
    pub read_timeout: Duration,
    /// `secrets.write_timeout`: how long a write waits for what it refers to. Default 2 s.
    pub write_timeout: Duration,
    /// `secrets.vault`.
    pub vault: SecretManager,
    /// `secrets.vault.token_file`: the token of managers that hold none. Default: `VAULT_TOKEN`.
    pub vault_token_file: Option<PathBuf>,
    /// `secrets.aws`.
    pub aws: SecretManager,
    /// `secrets.aws.instance_role`: managers that hold no key use that of the instance's role,
    /// where the environment has none. Default: false.
    pub aws_instance_role: bool,
    /// `secrets.gcp`.
    pub gcp: SecretManager,
    /// `secrets.kubernetes`.
    pub kubernetes: SecretManager,
    /// `secrets.kubernetes.service_account`: the folder with `token`, `ca.crt` and `namespace`.
    /// Default: where a pod finds its own.
    pub service_account: PathBuf,
    /// `secrets.file.roots`: folders whose files may be referred to. Default: none.
    pub file_roots: Vec<FileRoot>,
    /// `secrets.proxy`: on the way to managers. Default: none, whatever the environment says.
    pub proxy: Option<ForwardProxy>,
}

/// `secrets.vault` and its like.
#[derive(Clone, Debug)]
pub struct SecretManager {
    /// `origins`: where credentials may go that a `secret` resource does not hold itself, e.g.
    /// `https://vault.example.com:8200`. Default: for vault `VAULT_ADDR`, for kubernetes the API
    /// server of the cluster, by its address and as `kubernetes.default.svc`, else none.
    pub origins: Vec<String>,
    /// `trust_file`: the CAs that the manager's certificate must come from. Default:
    /// [`TrustFile::System`], but for the cluster's own API server, which its pods have a CA for.
    pub trust_file: TrustFile,
    /// Whether that is the default.
    pub is_trust_default: bool,
}

/// One entry of `secrets.file.roots`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRoot {
    /// `name`: the part of a reference after `$secret://file/`. Unique.
    pub name: String,
    /// `path`: absolute.
    pub path: PathBuf,
}

/// Reads `secrets`.
pub(super) fn read_secrets(
    section: &Section<'_>,
    reader: &Reader,
    env: Env<'_>,
    warnings: &mut Vec<String>,
) -> Secrets {
    let vault = section.section("vault");
    let aws = section.section("aws");
    let gcp = section.section("gcp");
    let kubernetes = section.section("kubernetes");
    let file = section.section("file");
    let secrets = Secrets {
        cache_time: section.duration("cache_time", 300 * SECOND, SECOND..=DAY),
        max_age: section.duration("max_age", 7 * DAY, SECOND..=365 * DAY),
        read_timeout: section.duration("read_timeout", 3 * SECOND, SECOND / 10..=60 * SECOND),
        write_timeout: section.duration("write_timeout", 2 * SECOND, SECOND / 10..=60 * SECOND),
        vault_token_file: absolute(&vault, "token_file"),
        vault: read_manager(&vault, env("VAULT_ADDR")),
        aws: read_manager(&aws, None),
        aws_instance_role: aws.is_set("instance_role"),
        gcp: read_manager(&gcp, None),
        service_account: absolute(&kubernetes, "service_account")
            .unwrap_or_else(|| PathBuf::from(SERVICE_ACCOUNT)),
        kubernetes: read_manager(&kubernetes, api_servers(env)),
        file_roots: read_roots(&file),
        proxy: read_forward_proxy(&section.section("proxy"), reader, env, warnings),
    };
    for part in [&vault, &aws, &gcp, &kubernetes, &file, section] {
        part.close();
    }
    secrets
}

fn read_manager(
    section: &Section<'_>,
    defaults: impl IntoIterator<Item = String>,
) -> SecretManager {
    let origins = section.texts("origins");
    for origin in origins.iter().flatten() {
        let rest = origin
            .strip_prefix("https://")
            .or_else(|| origin.strip_prefix("http://"));
        let is_origin = rest
            .is_some_and(|rest| !rest.is_empty() && !rest.contains(['/', '?', '#', '@', '*', ' ']));
        if !is_origin {
            section.refuse(
                "origins",
                "has an entry that is no origin",
                "write scheme, host and port, such as `https://vault.example.com:8200`",
            );
        }
    }
    let trust_text = section.text("trust_file");
    let trust_file = match trust_text.as_deref() {
        None | Some("system") => TrustFile::System,
        Some(path) => TrustFile::Path(PathBuf::from(path)),
    };
    SecretManager {
        origins: origins.unwrap_or_else(|| defaults.into_iter().collect()),
        trust_file,
        is_trust_default: trust_text.is_none(),
    }
}

/// The API server as the cluster tells a pod, and by its name there; none outside of one.
/// (Kubernetes, "Accessing the Kubernetes API from a Pod")
fn api_servers(env: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let Some(host) = env("KUBERNETES_SERVICE_HOST") else {
        return Vec::new();
    };
    let port = env("KUBERNETES_SERVICE_PORT").unwrap_or_else(|| "443".to_owned());
    let told = if host.contains(':') {
        format!("https://[{host}]:{port}")
    } else {
        format!("https://{host}:{port}")
    };
    vec![told, format!("https://kubernetes.default.svc:{port}")]
}

fn absolute(section: &Section<'_>, key: &'static str) -> Option<PathBuf> {
    let path = section.path(key)?;
    if !path.is_absolute() {
        section.refuse(key, "is no absolute path", "begin it with `/`");
    }
    Some(path)
}

fn read_roots(section: &Section<'_>) -> Vec<FileRoot> {
    let mut roots: Vec<FileRoot> = Vec::new();
    for entry in section.sections("roots") {
        let (name, path) = (entry.text("name"), absolute(&entry, "path"));
        entry.close();
        let (Some(name), Some(path)) = (name, path) else {
            entry.refuse(
                "name",
                "an entry of `roots` needs `name` and `path`",
                "write `- {name: certs, path: /etc/certs}`",
            );
            continue;
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if !name.chars().all(is_plain) {
            entry.refuse(
                "name",
                "is no name for a reference",
                "use letters, digits, `-` and `_`",
            );
        }
        if roots.iter().any(|root| root.name == name) {
            entry.refuse("name", "is taken by another entry", "give each its own");
        }
        roots.push(FileRoot { name, path });
    }
    roots
}

#[cfg(test)]
mod tests {
    use super::super::{Config, ConfigError};
    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        Config::from_text(text, &[], &|name| match name {
            "VAULT_ADDR" => Some("https://v.test:8200".to_owned()),
            "KUBERNETES_SERVICE_HOST" => Some("fd00::1".to_owned()),
            _ => None,
        })
    }

    #[test]
    fn every_key_is_read() {
        let config = read(
            "secrets: {cache_time: 1m, max_age: 2h, read_timeout: 1s, write_timeout: 500ms,\n\
             \x20 vault: {origins: ['https://a.test'], trust_file: /ca, token_file: /t},\n\
             \x20 aws: {origins: ['http://[::1]:1'], instance_role: true}, gcp: {origins: []},\n\
             \x20 kubernetes: {service_account: /sa},\n\
             \x20 file: {roots: [{name: certs, path: /etc/certs}]}}",
        );
        let secrets = config.unwrap().secrets;
        assert_eq!(secrets.cache_time, Duration::from_secs(60));
        assert_eq!(secrets.max_age, Duration::from_secs(7200));
        assert_eq!(secrets.write_timeout, Duration::from_millis(500));
        assert_eq!(secrets.vault.origins, ["https://a.test"]);
        assert_eq!(secrets.vault.trust_file, TrustFile::Path("/ca".into()));
        assert_eq!(secrets.vault_token_file, Some("/t".into()));
        assert_eq!(secrets.aws.origins, ["http://[::1]:1"]);
        assert!(secrets.aws_instance_role);
        assert_eq!(secrets.service_account, PathBuf::from("/sa"));
        assert!(secrets.kubernetes.is_trust_default && !secrets.vault.is_trust_default);
        let named = read("secrets: {kubernetes: {trust_file: system}}").unwrap();
        assert!(!named.secrets.kubernetes.is_trust_default);
        let root = FileRoot {
            name: "certs".to_owned(),
            path: "/etc/certs".into(),
        };
        assert_eq!(secrets.file_roots, [root]);
    }

    #[test]
    fn only_what_the_environment_names_is_trusted_by_default() {
        let secrets = read("").unwrap().secrets;
        assert_eq!(secrets.vault.origins, ["https://v.test:8200"]);
        assert_eq!(
            secrets.kubernetes.origins,
            [
                "https://[fd00::1]:443",
                "https://kubernetes.default.svc:443"
            ]
        );
        assert!(!secrets.aws_instance_role);
        assert!(secrets.aws.origins.is_empty() && secrets.gcp.origins.is_empty());
        assert!(secrets.file_roots.is_empty());
        let none = Config::from_text("", &[], &|_| None).unwrap().secrets;
        assert!(none.vault.origins.is_empty() && none.kubernetes.origins.is_empty());
    }

    #[test]
    fn names_that_the_configuration_reads_are_remembered() {
        let text = "{kek: '$env://MY_KEK', admin: {keys: [{name: a, key: '$env://MY_KEY'}]}}";
        let env = |name: &str| name.starts_with("MY_").then(|| "value".to_owned());
        let config = Config::from_text(text, &[], &env);
        let names = config.unwrap().variables;
        assert!(
            names.contains("MY_KEK") && names.contains("MY_KEY"),
            "{names:?}"
        );
    }

    #[test]
    fn what_is_no_origin_or_root_is_refused_by_its_key() {
        for (text, path) in [
            ("vault: {origins: ['vault.test']}", "secrets.vault.origins"),
            ("vault: {origins: ['https://']}", "secrets.vault.origins"),
            (
                "vault: {origins: ['https://*.test']}",
                "secrets.vault.origins",
            ),
            ("aws: {origins: ['https://a@b']}", "secrets.aws.origins"),
            ("gcp: {origins: ['https://a/b']}", "secrets.gcp.origins"),
            ("vault: {token_file: t}", "secrets.vault.token_file"),
            ("file: {roots: [{name: a}]}", "secrets.file.roots.0.name"),
            (
                "file: {roots: [{name: a, path: b}]}",
                "secrets.file.roots.0.path",
            ),
            (
                "file: {roots: [{name: a/b, path: /b}]}",
                "secrets.file.roots.0.name",
            ),
            (
                "file: {roots: [{name: a, path: /a}, {name: a, path: /b}]}",
                "secrets.file.roots.1.name",
            ),
            ("cache_time: 0s", "secrets.cache_time"),
        ] {
            let error = read(&format!("secrets: {{{text}}}")).expect_err(text);
            let found = error.problems.iter().any(|problem| problem.path == path);
            assert!(found, "{text}: {error}");
        }
    }
}
