//! What FIPS mode must refuse, tried at the start: handshakes in memory with peers of all kinds.
//!
//! A fetch cannot show that X25519 is excluded, because modules of version 3.1 offer it though it
//! is not approved. So every kind of context that this process makes meets peers that have only
//! what it must refuse, and twins that it must serve. The peers take their algorithms from a
//! library context of their own; two of a kind must understand each other, or their refusal by us
//! would prove nothing.

use std::sync::{Arc, OnceLock};

use openssl::error::ErrorStack;
use openssl::lib_ctx::LibCtx;
use openssl::pkey::Id as KeyId;
use openssl::pkey_ctx::PkeyCtx;
use openssl::provider::Provider;
use openssl::ssl::{Ssl, SslContextBuilder, SslMethod, SslVerifyMode};

use crate::tls::context::{self, Stranger};
use crate::tls::material::{CaBundle, KeyPair, MaterialError};
use crate::tls::memory::{Side, shake};
use crate::tls::policy::{ClientAuth, ClientPolicy, Offer, TlsVersion, Versions};
use crate::tls::select::Always;
use crate::tls::selfsigned;
use crate::tls::server::{Alpn, ListenerAcceptor, ServerContext, ServerSpec, SessionCache};
use crate::tls::trust::CaStore;
use crate::tls::upstream::{Protocol, ServerName, UpstreamConnector, UpstreamSpec};

/// The name on the certificate of all probes.
const NAME: &str = "localhost";
/// Size of the RSA key of the probes.
const RSA_BITS: u32 = 2048;
/// An AEAD suite and a group that both profiles have.
const GOOD: Stranger = Stranger {
    version: TlsVersion::V1_3,
    ciphers: "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256",
    suites: "TLS_AES_128_GCM_SHA256",
    groups: "P-256",
    has_extended_master_secret: true,
};
/// Who knocks, and what must come of it.
const PEERS: [Peer; 7] = [
    Peer::unwanted(X25519, GOOD.with_groups("X25519")),
    Peer::unwanted(X25519, GOOD.with_groups("X25519").on_1_2()),
    Peer::unwanted(CHACHA20, GOOD.with_chacha20()),
    Peer::unwanted(CHACHA20, GOOD.with_chacha20().on_1_2()),
    Peer::unwanted(
        "no extended master secret",
        GOOD.without_extended_master_secret().on_1_2(),
    ),
    Peer::wanted(GOOD),
    Peer::wanted(GOOD.on_1_2()),
];
const X25519: &str = "X25519 only";
const CHACHA20: &str = "ChaCha20-Poly1305 only";

/// The results of the probes that this process made.
static RESULTS: OnceLock<Vec<HandshakeProbe>> = OnceLock::new();

/// Why what FIPS mode permits is not what the contexts of this process permit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// Something is accepted that must not be.
    #[error(
        "the {context} accepts a peer with {peer} ({version}), which FIPS mode excludes; {remedy}"
    )]
    Accepted {
        /// The kind of context.
        context: &'static str,
        /// What the peer had.
        peer: &'static str,
        /// The version spoken.
        version: &'static str,
        /// What the operator can do.
        remedy: &'static str,
    },
    /// Something is refused that must be served.
    #[error(
        "the {context} refuses a peer with {peer} ({version}), which FIPS mode permits: {reason}; \
         use module and libcrypto as their makers ship them"
    )]
    Refused {
        /// The kind of context.
        context: &'static str,
        /// What the peer had.
        peer: &'static str,
        /// The version spoken.
        version: &'static str,
        /// OpenSSL's words.
        reason: String,
    },
    /// Two peers of a kind do not understand each other.
    #[error(
        "the FIPS probe with {peer} ({version}) proves nothing, because two such peers do not \
         understand each other: {reason}; use a libcrypto with its default provider"
    )]
    Blunt {
        /// What the peers had.
        peer: &'static str,
        /// The version spoken.
        version: &'static str,
        /// OpenSSL's words.
        reason: String,
    },
    /// The key or certificate of the probes cannot be used.
    #[error("the certificate for the FIPS probes cannot be used")]
    Material(#[from] MaterialError),
    /// OpenSSL failed at something that does not depend on the peer.
    #[error("OpenSSL failed at the FIPS probes")]
    OpenSsl(#[from] ErrorStack),
}

/// One handshake with a peer of one kind; it ended as it must.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandshakeProbe {
    /// The kind of context on our side.
    pub context: &'static str,
    /// What the peer had.
    pub peer: &'static str,
    /// The version it spoke, e.g. `TLSv1.3`.
    pub version: &'static str,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A handshake with this suite.
    Accepted(String),
    /// No handshake, for this reason in OpenSSL's words.
    Refused(String),
}

/// Makes every probe, and keeps the results for [`results`].
///
/// For FIPS mode, after its start and before any thread. About 0.2 s, most of it for an RSA key.
///
/// # Errors
/// [`ProbeError`] of the first probe that does not end as it must.
pub fn run() -> Result<&'static [HandshakeProbe], ProbeError> {
    let pairs = Pairs::make()?;
    let strangers = Strangers::new(&pairs)?;
    let ours = Ours::new(&pairs)?;
    let mut results = Vec::new();
    for peer in &PEERS {
        strangers.understand_each_other(peer)?;
        for meeting in ours.meet(&strangers, peer)? {
            results.push(meeting.judge(peer)?);
        }
    }
    Ok(RESULTS.get_or_init(|| results))
}

/// The results of [`run`]; empty when it was not called or failed.
#[must_use]
pub fn results() -> &'static [HandshakeProbe] {
    RESULTS.get().map_or(&[], Vec::as_slice)
}

/// A peer, and whether it must be served.
struct Peer {
    name: &'static str,
    offer: Stranger,
    is_wanted: bool,
}

impl Peer {
    const fn wanted(offer: Stranger) -> Self {
        Self {
            name: "P-256 and AES-GCM",
            offer,
            is_wanted: true,
        }
    }

    const fn unwanted(name: &'static str, offer: Stranger) -> Self {
        Self {
            name,
            offer,
            is_wanted: false,
        }
    }

    const fn version(&self) -> &'static str {
        self.offer.version.name()
    }

    const fn remedy(&self) -> &'static str {
        if self.offer.has_extended_master_secret {
            "report it"
        } else {
            "make fipsmodule.cnf again with `openssl fipsinstall -pedantic` of the module's own \
             version, so that it has `tls1-prf-ems-check = 1`"
        }
    }
}

impl Stranger {
    const fn on_1_2(mut self) -> Self {
        self.version = TlsVersion::V1_2;
        self
    }

    const fn with_groups(mut self, groups: &'static str) -> Self {
        self.groups = groups;
        self
    }

    const fn with_chacha20(mut self) -> Self {
        self.ciphers = "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";
        self.suites = "TLS_CHACHA20_POLY1305_SHA256";
        self
    }

    const fn without_extended_master_secret(mut self) -> Self {
        self.has_extended_master_secret = false;
        self
    }
}

/// What both sides show. With an RSA key as well, because TLS 1.2 ties an EC key to the groups
/// (RFC 8422 section 5.1): without one, X25519 alone would never be tried.
struct Pairs {
    ec: KeyPair,
    rsa: KeyPair,
}

impl Pairs {
    fn make() -> Result<Self, ProbeError> {
        let ec = selfsigned::make()?;
        let mut generator = PkeyCtx::new_id(KeyId::RSA)?;
        generator.keygen_init()?;
        generator.set_rsa_keygen_bits(RSA_BITS)?;
        let rsa = selfsigned::certify(&generator.keygen()?)?;
        Ok(Self {
            ec: KeyPair::parse(&ec.cert, &ec.key)?,
            rsa: KeyPair::parse(&rsa.cert, &rsa.key)?,
        })
    }

    fn install(&self, ctx: &mut SslContextBuilder) -> Result<(), ErrorStack> {
        context::install(ctx, &self.ec)?;
        context::install(ctx, &self.rsa)
    }
}

/// Makes the other side of each probe.
struct Strangers<'a> {
    library: &'static LibCtx,
    /// Unloaded with this value: what is left of the library context then is a shell.
    _provider: Provider,
    pairs: &'a Pairs,
}

impl<'a> Strangers<'a> {
    fn new(pairs: &'a Pairs) -> Result<Self, ErrorStack> {
        let library: &'static LibCtx = Box::leak(Box::new(LibCtx::new()?));
        Ok(Self {
            library,
            _provider: Provider::load(Some(library), "default")?,
            pairs,
        })
    }

    fn server(&self, offer: &Stranger) -> Result<Ssl, ErrorStack> {
        let mut ctx = context::stranger(self.library, SslMethod::tls_server(), offer)?;
        self.pairs.install(&mut ctx)?;
        // Asks for a certificate, so that our key signs too, and takes any.
        ctx.set_verify_callback(SslVerifyMode::PEER, |_, _| true);
        Ssl::new(&ctx.build())
    }

    fn client(&self, offer: &Stranger) -> Result<Ssl, ErrorStack> {
        let mut ctx = context::stranger(self.library, SslMethod::tls_client(), offer)?;
        self.pairs.install(&mut ctx)?;
        ctx.set_verify(SslVerifyMode::NONE);
        let mut ssl = Ssl::new(&ctx.build())?;
        ssl.set_hostname(NAME)?;
        Ok(ssl)
    }

    /// Shows that a peer can do what it offers.
    fn understand_each_other(&self, peer: &Peer) -> Result<(), ProbeError> {
        let sides = shake(self.server(&peer.offer)?, self.client(&peer.offer)?);
        match sides {
            (Side::Done(_), Side::Done(_)) => Ok(()),
            (server, client) => Err(ProbeError::Blunt {
                peer: peer.name,
                version: peer.version(),
                reason: reason(&server, &client),
            }),
        }
    }
}

/// Every kind of context that this process makes.
struct Ours {
    /// Of names that ask for nothing, and of the admin listener.
    open: ListenerAcceptor,
    /// Of names that ask for a client certificate.
    mutual: ListenerAcceptor,
    /// To upstreams, with verification and a certificate of our own.
    connector: UpstreamConnector,
}

impl Ours {
    fn new(pairs: &Pairs) -> Result<Self, ProbeError> {
        let certificates = [&pairs.ec, &pairs.rsa].map(|pair| pair.chain.leaf.clone());
        let bundle = CaBundle::of(certificates.to_vec())?;
        let store = Arc::new(CaStore::new(&bundle)?);
        // Deferred, because the probes' certificate is not a client's: what is looked at here is
        // cryptography.
        let policy = ClientPolicy::new(ClientAuth::Deferred, 1, bundle.digest, Vec::new())?;
        Ok(Self {
            open: acceptor(pairs, ClientPolicy::off(), None)?,
            mutual: acceptor(pairs, policy, Some(store.clone()))?,
            connector: UpstreamConnector::build(&UpstreamSpec {
                identity: Some(pairs.rsa.clone()),
                trust: Some(store),
                offer: Offer::default(),
                protocol: Protocol::Http1,
            })?,
        })
    }

    /// Shakes hands with a peer, in each of our roles.
    fn meet(&self, strangers: &Strangers<'_>, peer: &Peer) -> Result<[Meeting; 3], ErrorStack> {
        // Another address for each probe: none is to resume the session of another.
        let address: Arc<str> = format!("{}, {}", peer.name, peer.version()).into();
        let name = ServerName::Dns(NAME.into());
        let listen = |context, acceptor: &ListenerAcceptor| {
            let (ours, theirs) = shake(acceptor.ssl()?, strangers.client(&peer.offer)?);
            Ok::<_, ErrorStack>(Meeting {
                context,
                ours,
                theirs,
            })
        };
        let server = strangers.server(&peer.offer)?;
        let (theirs, ours) = shake(server, self.connector.ssl(&address, &name)?);
        Ok([
            listen("listener", &self.open)?,
            listen("listener that asks for client certificates", &self.mutual)?,
            Meeting {
                context: "upstream connector",
                ours,
                theirs,
            },
        ])
    }
}

fn acceptor(
    pairs: &Pairs,
    policy: ClientPolicy,
    ca: Option<Arc<CaStore>>,
) -> Result<ListenerAcceptor, ErrorStack> {
    let context = ServerContext::build(ServerSpec {
        ssl_id: "probe".into(),
        pairs: vec![pairs.ec.clone(), pairs.rsa.clone()],
        policy: Arc::new(policy),
        ca,
        versions: Versions::default(),
        alpn: Alpn::Http1,
    })?;
    let always = Arc::new(Always(Arc::new(context)));
    ListenerAcceptor::new(always, SessionCache::default(), None)
}

/// How both sides of one probe ended.
struct Meeting {
    context: &'static str,
    ours: Side,
    theirs: Side,
}

impl Meeting {
    fn judge(&self, peer: &Peer) -> Result<HandshakeProbe, ProbeError> {
        let (context, version, peer_name) = (self.context, peer.version(), peer.name);
        let outcome = match (&self.ours, peer.is_wanted) {
            (Side::Done(stream), true) => {
                let suite = stream.ssl().current_cipher();
                Outcome::Accepted(suite.map_or_else(String::new, |suite| suite.name().to_owned()))
            }
            (Side::Done(_), false) => {
                return Err(ProbeError::Accepted {
                    context,
                    peer: peer_name,
                    version,
                    remedy: peer.remedy(),
                });
            }
            (Side::Failed(_), false) => Outcome::Refused(reason(&self.ours, &self.theirs)),
            // A refusal that was not pronounced is none either.
            (Side::Failed(_) | Side::Mid(_) | Side::Broken(_), _) => {
                return Err(ProbeError::Refused {
                    context,
                    peer: peer_name,
                    version,
                    reason: reason(&self.ours, &self.theirs),
                });
            }
        };
        Ok(HandshakeProbe {
            context,
            peer: peer_name,
            version,
            outcome,
        })
    }
}

/// Why there was no handshake, in the words of the side that refused.
fn reason(one: &Side, other: &Side) -> String {
    let refusing = [one, other].into_iter().find(|side| side.refused());
    let stack = match refusing {
        Some(Side::Failed(error)) => error.ssl_error(),
        Some(Side::Broken(stack)) => Some(stack),
        Some(Side::Done(_) | Side::Mid(_)) | None => None,
    };
    let Some(first) = stack.and_then(|stack| stack.errors().first()) else {
        return "the handshake does not end".to_owned();
    };
    // A module may have reasons that this libcrypto has no words for.
    match first.reason() {
        Some(words) => words.to_owned(),
        None => format!(
            "{}, reason {}",
            first.library().unwrap_or("unnamed library"),
            first.reason_code()
        ),
    }
}

#[cfg(test)]
mod tests {
    // FIPS mode is the process's, so what it refuses is tested with the binary.
    use super::*;

    #[test]
    fn contexts_of_default_mode_do_not_pass() {
        let refusal = run().unwrap_err();
        assert!(
            matches!(
                refusal,
                ProbeError::Accepted {
                    context: "listener",
                    peer: X25519,
                    ..
                }
            ),
            "{refusal}"
        );
        assert!(results().is_empty());
    }

    #[test]
    fn peers_can_do_what_they_offer_and_wanted_ones_are_served() {
        let pairs = Pairs::make().unwrap();
        let (strangers, ours) = (Strangers::new(&pairs).unwrap(), Ours::new(&pairs).unwrap());
        for peer in &PEERS {
            strangers.understand_each_other(peer).unwrap();
            for meeting in ours.meet(&strangers, peer).unwrap() {
                let judged = meeting.judge(peer);
                // Default mode serves all of them.
                assert_eq!(judged.is_ok(), peer.is_wanted, "{judged:?}");
            }
        }
    }

    #[test]
    fn peers_that_have_nothing_in_common_are_blunt() {
        let pairs = Pairs::make().unwrap();
        let strangers = Strangers::new(&pairs).unwrap();
        let good = strangers.server(&GOOD).unwrap();
        let other = strangers.client(&GOOD.with_chacha20()).unwrap();
        let (server, client) = shake(good, other);
        assert!(server.refused() && !client.refused());
        assert_eq!(reason(&server, &client), "no shared cipher");
    }
}
