//! What the configuration says about secrets, as this room needs it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::net::http::Origin;
use crate::net::tunnel::Proxy;
use crate::resource::secret::Manager;
use crate::tls::material::CaBundle;

/// What the configuration says about secrets (`secrets`).
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `secrets.vault`.
    pub vault: Reach,
    /// `secrets.aws`.
    pub aws: Reach,
    /// `secrets.gcp`.
    pub gcp: Reach,
    /// `secrets.kubernetes`.
    pub kubernetes: Reach,
    /// `VAULT_TOKEN`, or the file of `secrets.vault.token_file`.
    pub vault_token: Option<TokenFrom>,
    /// `AWS_ACCESS_KEY_ID` with what belongs to it.
    pub aws_key: Option<AwsKey>,
    /// The metadata service of the instance, where `secrets.aws.instance_role` is set.
    pub aws_metadata: Option<Origin>,
    /// `secrets.kubernetes.service_account`: the folder with `token`, `ca.crt` and `namespace`.
    pub service_account: PathBuf,
    /// Listed API servers are believed by the `ca.crt` of that folder, if there is one: no
    /// `secrets.kubernetes.trust_file` says otherwise.
    pub uses_cluster_ca: bool,
    /// `secrets.proxy`: on the way to every manager but the metadata service.
    pub proxy: Option<Arc<Proxy>>,
    /// `secrets.file.roots`, by name.
    pub file_roots: Vec<(String, PathBuf)>,
    /// `data_dir`: no file of it is ever a secret's value.
    pub data_dir: PathBuf,
    /// Environment variables that the configuration has read.
    pub own_variables: BTreeSet<String>,
}

/// How the managers of one word are reached.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// `origins`: where a credential may go that a `secret` resource does not hold itself.
    pub origins: Vec<Origin>,
    /// `trust_file`: the CAs that the manager's certificate must come from. `None`: it cannot be
    /// reached over `https`.
    pub trust: Option<CaBundle>,
}

impl Reach {
    /// Whether an origin is one of those listed; paths do not matter.
    #[must_use]
    pub fn lists(&self, origin: &Origin) -> bool {
        self.origins.iter().any(|listed| {
            listed.is_tls == origin.is_tls
                && listed.host.eq_ignore_ascii_case(&origin.host)
                && listed.port == origin.port
        })
    }
}

/// Where the token of managers comes from that hold none.
#[derive(Clone)]
pub enum TokenFrom {
    /// A file, read again at each login.
    File(PathBuf),
    /// The environment.
    Value(Zeroizing<String>),
}

impl std::fmt::Debug for TokenFrom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Value(_) => f.write_str("Value([withheld])"),
        }
    }
}

/// The key of the environment that requests to AWS are signed with.
#[derive(Clone)]
pub struct AwsKey {
    /// `AWS_ACCESS_KEY_ID`.
    pub id: String,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret: Zeroizing<String>,
    /// `AWS_SESSION_TOKEN`.
    pub session_token: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for AwsKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AwsKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// How a manager is reached.
    #[must_use]
    pub const fn reach(&self, manager: Manager) -> &Reach {
        match manager {
            Manager::Vault => &self.vault,
            Manager::Aws => &self.aws,
            Manager::Gcp => &self.gcp,
            Manager::Kubernetes => &self.kubernetes,
        }
    }
}

/// How long and how often is asked.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// For one attempt.
    pub attempt: Duration,
    /// Attempts at most, while the manager as a whole does not answer.
    pub attempts: u32,
    /// For all of an order. What was not read by then is [`ReadFault::Slow`].
    ///
    /// [`ReadFault::Slow`]: super::source::ReadFault::Slow
    pub total: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_listed_by_scheme_host_and_port() {
        let origin = |url: &str| Origin::parse(url).unwrap();
        let reach = Reach {
            origins: vec![origin("https://Vault.example.com:8200/base")],
            trust: None,
        };
        for (url, listed) in [
            ("https://vault.example.com:8200", true),
            ("https://VAULT.example.com:8200/v1/x", true),
            ("http://vault.example.com:8200", false),
            ("https://vault.example.com", false),
            ("https://vault.example.com.evil.test:8200", false),
            ("https://evil.test:8200/vault.example.com", false),
        ] {
            assert_eq!(reach.lists(&origin(url)), listed, "{url}");
        }
    }

    #[test]
    fn debug_shows_no_token() {
        let hush = Zeroizing::new("hush".to_owned());
        let key = AwsKey {
            id: "id".to_owned(),
            secret: hush.clone(),
            session_token: Some(hush.clone()),
        };
        let token = TokenFrom::Value(hush);
        assert!(!format!("{token:?}{key:?}").contains("hush"));
    }
}
