//! From the configuration to what the room `secrets` works with.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use http::header::InvalidHeaderValue;
use zeroize::Zeroizing;

use crate::config::{self, Config, ForwardProxy, SecretManager, TrustFile};
use crate::control::{self, SecretRules};
use crate::net::dial::Forbidden;
use crate::net::http::{Origin, OriginError, Tls};
use crate::net::resolve::Resolver;
use crate::net::sweep::Sweep;
use crate::net::tunnel::Proxy;
use crate::secrets::env::Environment;
use crate::secrets::file;
use crate::secrets::ground::Ground;
use crate::secrets::news::News;
use crate::secrets::settings::{AwsKey, Bounds, Reach, Settings, TokenFrom};
use crate::secrets::watch::Watcher;
use crate::telemetry::metrics::Metrics;
use crate::tls::material::CaBundle;
use crate::tls::policy::Offer;
use crate::tls::trust::CaStore;
use crate::tls::upstream::{Protocol, ServerName, UpstreamConnector, UpstreamSpec};

/// The metadata service of an instance of EC2: link-local, and nowhere else. (EC2 User Guide,
/// "Access instance metadata for an EC2 instance")
const METADATA: &str = "http://169.254.169.254";

/// What keeps managers from being reached. Sentences are for the operator.
#[derive(Debug, thiserror::Error)]
pub(super) enum SettingsError {
    /// A `trust_file`.
    #[error(transparent)]
    Trust(#[from] control::StartError),
    /// The proxy's URL, which the configuration has taken.
    #[error("`secrets.proxy.url`: {0}")]
    Proxy(#[from] OriginError),
    /// OpenSSL does not take what an `https` proxy is believed by.
    #[error("`secrets.proxy`: its TLS cannot be set up: {0}")]
    ProxyTls(String),
    /// Its credentials are no header field.
    #[error("`secrets.proxy`: its credentials cannot be sent")]
    Credentials(#[from] InvalidHeaderValue),
}

/// How values are kept up to date.
pub(super) const fn rules(config: &Config) -> SecretRules {
    let secrets = &config.secrets;
    SecretRules {
        cache_time: secrets.cache_time,
        max_age: secrets.max_age,
        read_timeout: secrets.read_timeout,
        write_timeout: secrets.write_timeout,
    }
}

/// What managers are reached with.
///
/// # Errors
/// A `trust_file` that was named and cannot be used, or a proxy.
pub(super) fn settings(config: &Config) -> Result<Settings, SettingsError> {
    let secrets = &config.secrets;
    let system = system_trust(secrets);
    let reach = |word: &str, manager: &SecretManager| {
        let trust = match &manager.trust_file {
            TrustFile::System => system.clone(),
            path @ TrustFile::Path(_) => {
                let key = format!("secrets.{word}.trust_file");
                Some(control::read_trust_file(&key, path)?)
            }
        };
        let origins = manager.origins.iter().filter_map(|text| {
            let origin = Origin::parse(text);
            let origin =
                origin.inspect_err(|error| tracing::warn!(%error, "not an origin: {text}"));
            origin.ok()
        });
        Ok::<_, SettingsError>(Reach {
            origins: origins.collect(),
            trust,
        })
    };
    let from_file = secrets.vault_token_file.clone().map(TokenFrom::File);
    let from_env = || std::env::var("VAULT_TOKEN").ok().map(Zeroizing::new);
    Ok(Settings {
        vault: reach("vault", &secrets.vault)?,
        aws: reach("aws", &secrets.aws)?,
        gcp: reach("gcp", &secrets.gcp)?,
        kubernetes: reach("kubernetes", &secrets.kubernetes)?,
        vault_token: from_file.or_else(|| from_env().map(TokenFrom::Value)),
        aws_key: aws_key(),
        aws_metadata: (secrets.aws_instance_role)
            .then(|| Origin::parse(METADATA).ok())
            .flatten(),
        proxy: match &secrets.proxy {
            Some(own) => Some(Arc::new(proxy(own)?)),
            None => None,
        },
        service_account: secrets.service_account.clone(),
        uses_cluster_ca: secrets.kubernetes.is_trust_default,
        file_roots: roots(secrets),
        data_dir: config.data_dir.clone(),
        own_variables: config.variables.clone(),
    })
}

/// The proxy on the way to managers. One that cannot be used is never left out.
fn proxy(own: &ForwardProxy) -> Result<Proxy, SettingsError> {
    let origin = Origin::parse(&own.url)?;
    let tls = if origin.is_tls {
        let trust = control::read_trust_file("secrets.proxy.trust_file", &own.trust_file)?;
        let refused = |error| SettingsError::ProxyTls(format!("{error}"));
        let connector = UpstreamConnector::build(&UpstreamSpec {
            identity: None,
            trust: Some(Arc::new(CaStore::new(&trust).map_err(refused)?)),
            offer: Offer::default(),
            protocol: Protocol::Http1,
        });
        let connector = connector.map_err(refused)?;
        let name = ServerName::new(&origin.host);
        Some(Tls { connector, name })
    } else {
        None
    };
    let authorization = own.credentials.as_ref().map(|own| {
        let both = Zeroizing::new(format!("{}:{}", own.username, own.password.expose()));
        let text = Zeroizing::new(format!("Basic {}", STANDARD.encode(both.as_bytes())));
        let mut value = HeaderValue::try_from(text.as_str())?;
        value.set_sensitive(true);
        Ok::<_, SettingsError>(value)
    });
    let bypasses = own.no_proxy.clone();
    Ok(Proxy::new(
        origin,
        tls,
        authorization.transpose()?,
        bypasses,
    ))
}

/// The key for AWS in the environment, whole or not at all.
fn aws_key() -> Option<AwsKey> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    Some(AwsKey {
        id: variable("AWS_ACCESS_KEY_ID")?,
        secret: Zeroizing::new(variable("AWS_SECRET_ACCESS_KEY")?),
        session_token: variable("AWS_SESSION_TOKEN").map(Zeroizing::new),
    })
}

fn roots(secrets: &config::Secrets) -> Vec<(String, PathBuf)> {
    let roots = secrets.file_roots.iter();
    roots
        .map(|root| (root.name.clone(), root.path.clone()))
        .collect()
}

/// The system's CAs, if some manager goes by them; a system without any is one whose managers need
/// a `trust_file`.
fn system_trust(secrets: &config::Secrets) -> Option<CaBundle> {
    let managers = [
        &secrets.vault,
        &secrets.aws,
        &secrets.gcp,
        &secrets.kubernetes,
    ];
    if managers
        .iter()
        .all(|manager| manager.trust_file != TrustFile::System)
    {
        return None;
    }
    control::read_trust_file("secrets", &TrustFile::System)
        .inspect_err(|error| tracing::debug!(%error, "no CAs of the system's"))
        .ok()
}

/// What sources are opened with, on this thread, whose time `sweep` is.
pub(super) fn ground(
    settings: Settings,
    rules: SecretRules,
    sweep: Rc<Sweep>,
    forbidden: Arc<Forbidden>,
    resolver: Resolver,
    news: News,
    metrics: Arc<Metrics>,
) -> Rc<Ground> {
    let lookup = Box::new(|name: &str| std::env::var(name).ok());
    let environment = Environment::new(lookup, settings.own_variables.clone());
    Rc::new(Ground {
        settings,
        environment: Rc::new(environment),
        sweep,
        forbidden,
        resolver,
        bounds: Bounds {
            attempt: rules.read_timeout,
            attempts: 1,
            total: rules.read_timeout,
        },
        news,
        files: Watcher::new(file::LOOK),
        metrics,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_file_that_cannot_be_read_is_named_by_its_key() {
        for (text, key) in [
            ("{aws: {trust_file: /no/such}}", "`secrets.aws.trust_file`"),
            ("{gcp: {trust_file: /dev/null}}", "`secrets.gcp.trust_file`"),
        ] {
            let config = Config::from_text(&format!("secrets: {text}"), &[], &|_| None).unwrap();
            let told = settings(&config).unwrap_err().to_string();
            assert!(told.starts_with(key), "{told}");
        }
    }
}
