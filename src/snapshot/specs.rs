//! From typed resources to what `tls` builds from: material parsed, CA bundles interned.
//!
//! Pure but for the stores handed in. What a reference stands for is not known here: a text that
//! is one cannot be read.

use std::sync::Arc;

use crate::failure::Reason;
use crate::resource::Id;
use crate::resource::ssl::{Client, Pair, Ssl, Text};
use crate::resource::upstream::{Scheme, UpstreamTls};
use crate::tls::material::{CaBundle, CertChain, CrlError, Crls, Digest, KeyPair, MaterialError};
use crate::tls::policy::{ClientAuth, ClientPolicy};
use crate::tls::server::{Alpn, ServerSpec};
use crate::tls::trust::{CaStore, CaStores};
use crate::tls::upstream::{Protocol, UpstreamSpec};

/// Why a resource cannot be turned into a context.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// A reference whose value is not known.
    #[error("{reference} is not resolved")]
    Unresolved {
        /// JSON pointer to it within its object.
        pointer: String,
        /// As written.
        reference: String,
    },
    /// Text that is not the material it should be.
    #[error("{source}")]
    Material {
        /// JSON pointer to it within its object.
        pointer: String,
        /// What is wrong with it.
        source: MaterialError,
    },
    /// Text that is not the revocation lists it should be.
    #[error("{source}")]
    Crl {
        /// JSON pointer to it within its object.
        pointer: String,
        /// What is wrong with it.
        source: CrlError,
    },
    /// `verify: true`, no `ca_certs`, and no `upstream.trust_file` in the configuration.
    #[error("`verify` needs `ca_certs`, or `upstream.trust_file` in the configuration file")]
    NoTrust,
    /// The identity is another object's, which was not handed in.
    #[error("`client_cert_id` names no ssl of type client that can be used")]
    NoIdentity,
}

impl SpecError {
    /// The JSON pointer to the member at fault within its object.
    #[must_use]
    pub fn pointer(&self) -> &str {
        match self {
            Self::Unresolved { pointer, .. }
            | Self::Material { pointer, .. }
            | Self::Crl { pointer, .. } => pointer,
            Self::NoTrust => "/verify",
            Self::NoIdentity => "/client_cert_id",
        }
    }

    /// The reason that what needs it is closed with; `otherwise` unless it is a secret.
    #[must_use]
    pub fn reason(&self, otherwise: Reason) -> Reason {
        match self {
            Self::Unresolved { .. } => Reason::SecretUnresolved,
            Self::Material { .. } | Self::Crl { .. } | Self::NoTrust | Self::NoIdentity => {
                otherwise
            }
        }
    }
}

/// What the context of a server ssl is built from.
///
/// # Errors
/// Any [`SpecError`] but `NoTrust` and `NoIdentity`.
pub fn server(id: &Id, ssl: &Ssl, stores: &CaStores) -> Result<ServerSpec, SpecError> {
    let (policy, ca) = asked(ssl, stores)?;
    let pairs = ssl.pairs.iter().enumerate();
    let pairs = pairs
        .map(|(index, pair)| {
            let (cert, key) = pair_pointers(index);
            key_pair(pair, &cert, &key)
        })
        .collect::<Result<_, _>>()?;
    Ok(ServerSpec {
        ssl_id: id.shared(),
        pairs,
        policy: Arc::new(policy),
        ca,
        versions: ssl.versions,
        alpn: Alpn::default(),
    })
}

/// What an ssl asks of clients, with the store of whom it trusts.
///
/// # Errors
/// As [`policy`].
pub(super) fn asked(
    ssl: &Ssl,
    stores: &CaStores,
) -> Result<(ClientPolicy, Option<Arc<CaStore>>), SpecError> {
    let (policy, trusted) = policy(ssl.client.as_ref())?;
    let ca = trusted.map(|trusted| intern(stores, trusted, "/client/ca"));
    Ok((policy, ca.transpose()?))
}

/// The digests of the chains of a server ssl whose pairs were taken as they lie; `None` where they
/// must be read.
pub(super) fn taken_chains(ssl: &Ssl) -> Option<Vec<Digest>> {
    let pairs = ssl.pairs.iter().map(|pair| match (&pair.cert, &pair.key) {
        (Text::Literal(cert), Text::Literal(_)) => CertChain::digest_of(cert),
        (Text::Reference(_), _) | (_, Text::Reference(_)) => None,
    });
    let chains: Vec<_> = pairs.collect::<Option<_>>()?;
    (!chains.is_empty()).then_some(chains)
}

/// Whom chains must come from, and the revocation lists that they are held against.
#[derive(Clone, Debug)]
pub struct Trusted {
    /// The CAs.
    pub bundle: CaBundle,
    /// The lists, where there are any; each is of one of the CAs.
    pub crls: Option<Arc<Crls>>,
}

/// What an ssl asks of clients, with whom it trusts.
///
/// # Errors
/// `Unresolved`, `Material` and `Crl`, of `client.ca` and `client.crl`.
pub fn policy(client: Option<&Client>) -> Result<(ClientPolicy, Option<Trusted>), SpecError> {
    let Some(client) = client.filter(|client| client.mode != ClientAuth::Off) else {
        return Ok((ClientPolicy::off(), None));
    };
    let at = "/client/ca";
    let bundle = CaBundle::parse(literal(&client.ca, at)?).map_err(material(at))?;
    let policy = ClientPolicy::new(
        client.mode,
        client.depth,
        bundle.digest,
        client.skip.clone(),
    )
    .map_err(|error| material(at)(error.into()))?;
    let trusted = trusted(bundle, client.crl.as_ref(), "/client/crl")?;
    let policy = match &trusted.crls {
        Some(crls) => policy
            .with_crl(crls.digest)
            .map_err(|error| material("/client/crl")(error.into()))?,
        None => policy,
    };
    Ok((policy, Some(trusted)))
}

/// A bundle with its revocation lists. Lists of other CAs would be checked by nobody.
fn trusted(bundle: CaBundle, crl: Option<&Text>, at: &str) -> Result<Trusted, SpecError> {
    let refused = |source| SpecError::Crl {
        pointer: at.to_owned(),
        source,
    };
    let crls = match crl {
        Some(text) => {
            let crls = Crls::parse(literal(text, at)?).map_err(refused)?;
            crls.judge_issuers(&bundle).map_err(refused)?;
            Some(crls)
        }
        None => None,
    };
    Ok(Trusted { bundle, crls })
}

/// The pair that an ssl of type client shows to upstreams: its first.
///
/// # Errors
/// `Unresolved` and `Material`; `NoIdentity` when it has no pair.
pub fn identity(ssl: &Ssl) -> Result<KeyPair, SpecError> {
    let pair = ssl.pairs.first().ok_or(SpecError::NoIdentity)?;
    key_pair(pair, "/cert", "/key")
}

/// What the connector of an upstream is built from.
///
/// `protocol` is what its scheme speaks; `identity` is what it shows, from [`inline_identity`] or
/// [`identity`]; `trust_file` is whom `verify` without `ca_certs` trusts.
///
/// # Errors
/// `Unresolved`, `Material`, `Crl` and `NoTrust`, with pointers within the `tls` member.
pub fn upstream(
    tls: &UpstreamTls,
    protocol: Protocol,
    identity: Option<KeyPair>,
    trust_file: Option<&CaBundle>,
    stores: &CaStores,
) -> Result<UpstreamSpec, SpecError> {
    let trust = match trust(tls, trust_file)? {
        Some(trusted) => Some(intern(stores, trusted, "/ca_certs")?),
        None => None,
    };
    Ok(UpstreamSpec {
        identity,
        trust,
        offer: tls.offer.clone(),
        protocol,
    })
}

/// What a scheme speaks.
#[must_use]
pub const fn protocol(scheme: Scheme) -> Protocol {
    if scheme.is_http2() {
        Protocol::Http2
    } else {
        Protocol::Http1
    }
}

/// The pair written inside an upstream's `tls`.
///
/// # Errors
/// `Unresolved` and `Material`.
pub fn inline_identity(pair: &Pair) -> Result<KeyPair, SpecError> {
    key_pair(pair, "/client_cert", "/client_key")
}

/// What an upstream's certificate is checked against; `None` when nothing is checked.
///
/// # Errors
/// `Unresolved`, `Material`, `Crl` and `NoTrust`.
pub fn trust(
    tls: &UpstreamTls,
    trust_file: Option<&CaBundle>,
) -> Result<Option<Trusted>, SpecError> {
    if !tls.verify {
        return Ok(None);
    }
    let bundle = if tls.ca_certs.is_empty() {
        trust_file.cloned().ok_or(SpecError::NoTrust)?
    } else {
        let mut texts = Vec::with_capacity(tls.ca_certs.len());
        for (index, text) in tls.ca_certs.iter().enumerate() {
            texts.push(literal(text, &format!("/ca_certs/{index}"))?);
        }
        CaBundle::parse_all(texts).map_err(material("/ca_certs"))?
    };
    trusted(bundle, tls.crl.as_ref(), "/crl").map(Some)
}

/// The digest of a pair, as [`KeyPair::digest`] has it.
///
/// # Errors
/// `Material`: OpenSSL's own.
pub fn digest(pair: &KeyPair) -> Result<Digest, SpecError> {
    pair.digest().map_err(|error| material("")(error.into()))
}

fn intern(stores: &CaStores, trusted: Trusted, at: &str) -> Result<Arc<CaStore>, SpecError> {
    stores
        .intern(&trusted.bundle, trusted.crls)
        .map_err(|error| material(at)(error.into()))
}

/// Pointers of the certificate and key of the pair with this index: `cert`, then `certs`.
fn pair_pointers(index: usize) -> (String, String) {
    match index.checked_sub(1) {
        None => ("/cert".to_owned(), "/key".to_owned()),
        Some(rest) => (format!("/certs/{rest}"), format!("/keys/{rest}")),
    }
}

fn key_pair(pair: &Pair, cert_at: &str, key_at: &str) -> Result<KeyPair, SpecError> {
    if let Some(read) = &pair.read {
        return Ok(read.clone());
    }
    let (cert, key) = (literal(&pair.cert, cert_at)?, literal(&pair.key, key_at)?);
    KeyPair::parse(cert, key).map_err(|error| {
        let at = if error.is_about_a_certificate() {
            cert_at
        } else {
            key_at
        };
        material(at)(error)
    })
}

fn literal<'a>(text: &'a Text, at: &str) -> Result<&'a str, SpecError> {
    match text {
        Text::Literal(text) => Ok(text),
        Text::Reference(reference) => Err(SpecError::Unresolved {
            pointer: at.to_owned(),
            reference: reference.clone(),
        }),
    }
}

fn material(at: &str) -> impl FnOnce(MaterialError) -> SpecError + use<> {
    let pointer = at.to_owned();
    move |source| SpecError::Material { pointer, source }
}
