//! Why the gateway does not run.

use std::io;

use crate::cli::server::keeping::KeepingError;
use crate::cli::server::secrets::SettingsError;
use crate::cli::server::standalone::StandaloneError;
use crate::control;
use crate::crypto;
use crate::net::listener::BindError;
use crate::telemetry::access::SinkError;
use crate::telemetry::metrics::MetricsError;
use crate::tls::material::MaterialError;

/// Why the gateway does not run.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("the stored resources cannot be served")]
    Control(#[from] control::StartError),
    #[error(transparent)]
    Keeping(#[from] KeepingError),
    #[error(transparent)]
    Standalone(#[from] StandaloneError),
    #[error("secret managers cannot be reached")]
    Secrets(#[from] SettingsError),
    #[error("the metrics cannot be set up")]
    Metrics(#[from] MetricsError),
    #[error("the access log cannot be opened")]
    Access(#[from] SinkError),
    #[error("{path}")]
    File { path: String, source: io::Error },
    #[error("{path}")]
    Material { path: String, source: MaterialError },
    #[error(
        "{path} can be read by others than its owner (mode {mode:04o}); run `chmod 600 {path}`, and \
         replace what is in it if others may have read it"
    )]
    Exposed { path: String, mode: u32 },
    #[error(
        "the private key in {path} is encrypted; set `{passphrase_at}` to `@file` or `$env://NAME` \
         of its passphrase"
    )]
    NoPassphrase {
        path: String,
        passphrase_at: &'static str,
    },
    #[error("`fips_report_key`: {path} cannot sign")]
    ReportKey {
        path: String,
        source: crypto::sign::SignError,
    },
    #[error("{path} is empty; remove it, and the next start makes another")]
    Empty { path: String },
    #[error("OpenSSL failed at start")]
    Crypto(#[from] crypto::error::CryptoError),
    #[error("the admin listener's TLS cannot be set up: {0}")]
    AdminTls(String),
    #[error("the TLS of `https.listen` cannot be set up: {0}")]
    ListenerTls(String),
    #[error("`https.fallback_sni` is not a server name: {0}")]
    Fallback(String),
    #[error("the operating system refused a thread or a runtime")]
    System(#[from] io::Error),
    #[error("a worker ended by itself; see the log above")]
    Worker,
}
