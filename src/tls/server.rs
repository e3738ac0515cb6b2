//! Server side: the context of a name, and the one long-lived context of a listener.
//!
//! Of OpenSSL's own contexts there is one for all names that trust the same CAs, because each takes
//! 14 KB and a third of a millisecond, whatever is in it; certificates and keys are put on the
//! connection (decision record 22).
//!
//! The listener's context never serves a certificate. It parses the ClientHello, asks
//! [`Choose`] and is replaced by the name's context; it keeps the
//! session cache, which OpenSSL takes from it whatever the name (`SSL_set_SSL_CTX`).

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use openssl::error::ErrorStack;
use openssl::ssl::{
    AlpnError, Ssl, SslAlert, SslContext, SslContextBuilder, SslMethod, SslOptions, SslRef,
    SslSessionCacheMode, select_next_proto,
};

use crate::crypto::sys;
use crate::tls::context::{self, Plaintext};
use crate::tls::material::{self, Digest, KeyPair};
use crate::tls::policy::{self, ClientPolicy, Versions};
use crate::tls::select::{self, Choose};
use crate::tls::socket::Socket;
use crate::tls::stream::TlsStream;
use crate::tls::tickets::contents::Contents;
use crate::tls::tickets::{self, TicketKeys};
use crate::tls::trust::CaStore;

/// Protocols offered to clients by ALPN (RFC 7301).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Alpn {
    /// HTTP/2, else HTTP/1.1.
    #[default]
    Http2,
    /// HTTP/1.1 only.
    Http1,
}

impl Alpn {
    /// In wire form, best first.
    const fn wire(self) -> &'static [u8] {
        match self {
            Self::Http2 => b"\x02h2\x08http/1.1",
            Self::Http1 => b"\x08http/1.1",
        }
    }
}

/// What a name's context is built from.
#[derive(Debug)]
pub struct ServerSpec {
    /// The ssl's id; part of the session id context.
    pub ssl_id: Arc<str>,
    /// At least one pair; several for different key types.
    pub pairs: Vec<KeyPair>,
    /// What is asked of clients.
    pub policy: Arc<ClientPolicy>,
    /// The store of the policy's CA bundle; present exactly when the policy asks.
    pub ca: Option<Arc<CaStore>>,
    /// Permitted versions.
    pub versions: Versions,
    /// Protocols offered.
    pub alpn: Alpn,
}

impl ServerSpec {
    /// Key of the context in the cache: everything that goes into it.
    ///
    /// # Errors
    /// OpenSSL's own, from hashing.
    pub fn key(&self) -> Result<Digest, ErrorStack> {
        let chains = self.pairs.iter().map(KeyPair::digest);
        let chains = chains.collect::<Result<Vec<_>, _>>()?;
        context_key(&self.ssl_id, &self.policy, &chains, self.versions)
    }
}

/// Key of the context of an ssl in the cache, from the digests of its chains
/// ([`KeyPair::digest`], in order).
///
/// # Errors
/// OpenSSL's own, from hashing.
pub fn context_key(
    ssl_id: &str,
    policy: &ClientPolicy,
    chains: &[Digest],
    versions: Versions,
) -> Result<Digest, ErrorStack> {
    let mut text = policy::session_id_context(ssl_id, policy, None)?.to_vec();
    text.extend(chains.iter().flatten());
    text.extend_from_slice(format!("{versions:?}").as_bytes());
    material::sha256(&text)
}

/// The context of a name: what a switch to it puts on a connection, and the certificates that follow.
pub struct ServerContext {
    /// The ssl's id.
    pub ssl_id: Arc<str>,
    /// Its key in the cache.
    pub key: Digest,
    /// What is asked of clients.
    pub policy: Arc<ClientPolicy>,
    /// The trust store of `policy`.
    pub ca: Option<Arc<CaStore>>,
    /// Permitted versions.
    pub versions: Versions,
    pub(super) pairs: Vec<KeyPair>,
    /// What it has in common with other names.
    pub(super) common: SslContext,
}

impl ServerContext {
    /// Builds the context of a name.
    ///
    /// # Errors
    /// OpenSSL's own: a key or certificate that is too weak for security level 2, for instance.
    pub fn build(spec: ServerSpec) -> Result<Self, ErrorStack> {
        static WITHOUT_CA: Common = Common::new();
        let key = spec.key()?;
        let common = match spec.ca.as_deref() {
            Some(ca) => ca.common.context(spec.alpn, Some(ca))?,
            None => WITHOUT_CA.context(spec.alpn, None)?,
        };
        let context = Self {
            ssl_id: spec.ssl_id,
            key,
            policy: spec.policy,
            ca: spec.ca,
            versions: spec.versions,
            pairs: spec.pairs,
            common,
        };
        // What OpenSSL refuses of a certificate or key is refused here, not in a handshake.
        let mut trial = Ssl::new(&context.common)?;
        context.bound(&mut trial)?;
        context.present(&mut trial)?;
        Ok(context)
    }

    /// Puts the name's certificates and their keys on a connection that has the common context.
    ///
    /// # Errors
    /// As [`ServerContext::build`].
    pub(super) fn present(&self, ssl: &mut SslRef) -> Result<(), ErrorStack> {
        let mut pairs = self.pairs.iter();
        pairs.try_for_each(|pair| context::present(ssl, pair))
    }

    /// Sets the name's versions.
    ///
    /// # Errors
    /// OpenSSL's own.
    pub(super) fn bound(&self, ssl: &mut SslRef) -> Result<(), ErrorStack> {
        ssl.set_min_proto_version(Some(self.versions.min.into()))?;
        ssl.set_max_proto_version(Some(self.versions.max.into()))
    }
}

/// OpenSSL's contexts of all names that trust the same CAs: one for each list of protocols, made
/// when it is first needed.
pub(super) struct Common {
    http2: OnceLock<SslContext>,
    http1: OnceLock<SslContext>,
}

impl Common {
    pub(super) const fn new() -> Self {
        Self {
            http2: OnceLock::new(),
            http1: OnceLock::new(),
        }
    }

    fn context(&self, alpn: Alpn, ca: Option<&CaStore>) -> Result<SslContext, ErrorStack> {
        let place = match alpn {
            Alpn::Http2 => &self.http2,
            Alpn::Http1 => &self.http1,
        };
        if let Some(made) = place.get() {
            return Ok(made.clone());
        }
        let mut ctx = context::base(SslMethod::tls_server(), Versions::default())?;
        serve(&mut ctx, alpn);
        sys::on_certificate_needed(&mut ctx, select::present);
        // Of a connection's first context, the listener's, are the sessions. This one must have the
        // mode all the same: without it OpenSSL gives no session of TLS 1.2 an id.
        ctx.set_session_cache_mode(SslSessionCacheMode::SERVER | SslSessionCacheMode::NO_INTERNAL);
        if let Some(ca) = ca {
            ctx.set_cert_store(ca.share());
            ctx.set_client_ca_list(ca.names()?);
        }
        Ok(place.get_or_init(|| ctx.build()).clone())
    }
}

impl fmt::Debug for ServerContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerContext({})", self.ssl_id)
    }
}

/// Bounds of a listener's session cache (stateful resumption, RFC 8446 §4.6.1 with a handle as
/// the ticket).
#[derive(Clone, Copy, Debug)]
pub struct SessionCache {
    /// Sessions kept; the oldest goes first. 0: no resumption.
    pub sessions: i32,
    /// How long a session may be resumed, in seconds.
    pub timeout_seconds: u32,
    /// How long after a full handshake the sessions may be resumed that come from it, in seconds;
    /// at least `timeout_seconds`. With TLS 1.3 each connection leaves another one.
    pub life_seconds: u32,
}

impl Default for SessionCache {
    fn default() -> Self {
        Self {
            sessions: 20_480,
            timeout_seconds: 600,
            life_seconds: 24 * 60 * 60,
        }
    }
}

/// Accepts the TLS connections of one listener, for all of its names.
///
/// Built once and never rebuilt: it owns the session cache. Shared by all workers.
pub struct ListenerAcceptor {
    ctx: SslContext,
    tickets: Option<Arc<TicketKeys>>,
}

impl ListenerAcceptor {
    /// An acceptor that asks `choose` for each ClientHello.
    ///
    /// With `tickets` clients get stateless tickets under these keys. The cache is then for those
    /// that know none, and 0 sessions switch it alone off.
    ///
    /// # Errors
    /// OpenSSL's own.
    pub fn new(
        choose: Arc<dyn Choose>,
        sessions: SessionCache,
        tickets: Option<Arc<TicketKeys>>,
    ) -> Result<Self, ErrorStack> {
        Self::make(choose, sessions, tickets, Plaintext::Left)
    }

    /// One whose connections wipe what they have handed on: for clients that write secrets. Nobody
    /// gets tickets.
    ///
    /// # Errors
    /// OpenSSL's own.
    pub fn new_wiping(choose: Arc<dyn Choose>, sessions: SessionCache) -> Result<Self, ErrorStack> {
        Self::make(choose, sessions, None, Plaintext::Wiped)
    }

    fn make(
        choose: Arc<dyn Choose>,
        sessions: SessionCache,
        tickets: Option<Arc<TicketKeys>>,
        plaintext: Plaintext,
    ) -> Result<Self, ErrorStack> {
        let mut ctx = context::base(SslMethod::tls_server(), Versions::default())?;
        // As with tickets: a connection has the options of its listener's context.
        plaintext.set(&mut ctx);
        // Never asked: the callback always switches to another context.
        serve(&mut ctx, Alpn::Http1);
        if tickets.is_some() {
            // A connection has the options that its listener's context had when it was opened.
            ctx.clear_options(SslOptions::NO_TICKET);
            sys::seal_tickets::<TicketKeys>(&mut ctx)?;
            // Each costs as much as many records; a client that comes back gets the next one.
            ctx.set_num_tickets(1)?;
        }
        if sessions.sessions > 0 {
            ctx.set_session_cache_mode(SslSessionCacheMode::SERVER);
            ctx.set_session_cache_size(sessions.sessions);
        } else {
            // To OpenSSL a size of 0 is no bound.
            ctx.set_session_cache_mode(SslSessionCacheMode::OFF);
            if tickets.is_none() {
                ctx.set_num_tickets(0)?;
            }
        }
        sys::set_session_timeout(&mut ctx, sessions.timeout_seconds);
        sys::fill_tickets::<Contents>(&mut ctx, sessions.life_seconds)?;
        // Any id: replaced together with the context. Without one, every resumption attempt
        // under SSL_VERIFY_PEER is a fatal alert.
        ctx.set_session_id_context(b"portcullis listener")?;
        ctx.set_client_hello_callback(move |ssl, alert| {
            // Across OpenSSL's frames a panic would end the process.
            let chosen = catch_unwind(AssertUnwindSafe(|| {
                select::on_client_hello(choose.as_ref(), ssl, alert)
            }));
            chosen.unwrap_or_else(|_panic| {
                *alert = SslAlert::INTERNAL_ERROR;
                Err(ErrorStack::get())
            })
        });
        Ok(Self {
            ctx: ctx.build(),
            tickets,
        })
    }

    /// A connection before its handshake.
    ///
    /// # Errors
    /// OpenSSL's own: out of memory.
    pub fn open(&self, socket: Socket) -> Result<TlsStream, ErrorStack> {
        let mut ssl = self.ssl()?;
        let handed = select::prepare(&mut ssl);
        TlsStream::accepting(ssl, socket, handed)
    }

    /// The state of a new connection.
    ///
    /// # Errors
    /// OpenSSL's own: out of memory.
    pub(super) fn ssl(&self) -> Result<Ssl, ErrorStack> {
        let mut ssl = Ssl::new(&self.ctx)?;
        if let Some(keys) = &self.tickets {
            tickets::equip(&mut ssl, keys);
        }
        Ok(ssl)
    }
}

impl fmt::Debug for ListenerAcceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ListenerAcceptor")
    }
}

/// What listener and name contexts have in common.
fn serve(ctx: &mut SslContextBuilder, alpn: Alpn) {
    // Stateful resumption: a stateless ticket of an mTLS session costs 1.7 M instructions on
    // libssl 3.0 and carries the leaf only.
    ctx.set_options(SslOptions::NO_TICKET);
    let ours = alpn.wire();
    ctx.set_alpn_select_callback(move |_, offered| {
        select_next_proto(ours, offered).ok_or(AlpnError::NOACK)
    });
}

#[cfg(test)]
mod tests {
    use foreign_types::ForeignTypeRef;
    use openssl::asn1::Asn1Time;
    use openssl::hash::MessageDigest;
    use openssl::pkey::PKey;
    use openssl::ssl::{HandshakeError, SslVerifyMode, SslVersion};
    use openssl::x509::{X509, X509Name};

    use super::*;
    use crate::tls::material::CaBundle;
    use crate::tls::memory::{Side, pipe, shake};
    use crate::tls::policy::ClientAuth;
    use crate::tls::sample::{self, Sample};
    use crate::tls::select::Always;

    fn context(id: &str, pairs: Vec<KeyPair>, ca: Option<&Arc<CaStore>>) -> Arc<ServerContext> {
        Arc::new(build(id, pairs, ca).unwrap())
    }

    fn build(
        id: &str,
        pairs: Vec<KeyPair>,
        ca: Option<&Arc<CaStore>>,
    ) -> Result<ServerContext, ErrorStack> {
        let policy = match ca {
            Some(ca) => ClientPolicy::new(ClientAuth::Optional, 1, ca.digest, Vec::new()).unwrap(),
            None => ClientPolicy::off(),
        };
        ServerContext::build(ServerSpec {
            ssl_id: id.into(),
            pairs,
            policy: Arc::new(policy),
            ca: ca.cloned(),
            versions: Versions::default(),
            alpn: Alpn::Http1,
        })
    }

    fn store(ca: &Sample) -> Arc<CaStore> {
        Arc::new(CaStore::new(&CaBundle::parse(&ca.cert).unwrap()).unwrap())
    }

    /// The chain that a client of these algorithms is shown, as PEM.
    fn shown(context: &Arc<ServerContext>, version: SslVersion, sigalgs: &str) -> String {
        shown_to(context, version, |ctx| {
            ctx.set_sigalgs_list(sigalgs).unwrap();
        })
    }

    fn shown_to(
        context: &Arc<ServerContext>,
        version: SslVersion,
        prefer: impl FnOnce(&mut SslContextBuilder),
    ) -> String {
        let always = Arc::new(Always(context.clone()));
        let acceptor = ListenerAcceptor::new(always, SessionCache::default(), None).unwrap();
        let client = client(|ctx| {
            ctx.set_min_proto_version(Some(version)).unwrap();
            ctx.set_max_proto_version(Some(version)).unwrap();
            prefer(ctx);
        });
        let (Side::Done(_server), Side::Done(client)) = shake(acceptor.ssl().unwrap(), client)
        else {
            panic!("the handshake fails");
        };
        let chain = client.ssl().peer_cert_chain().unwrap().iter();
        let chain = chain.map(|one| String::from_utf8(one.to_pem().unwrap()).unwrap());
        chain.collect()
    }

    #[test]
    fn names_that_trust_alike_share_a_context_and_show_what_is_their_own() {
        let (ca, other_ca) = (sample::ca("ca"), sample::ca("other"));
        let (trust, other_trust) = (store(&ca), store(&other_ca));
        let (a, b) = (
            sample::leaf(&ca, "a", &["a.test"]),
            sample::leaf(&ca, "b", &["b.test"]),
        );
        let rsa = sample::rsa_leaf(&ca, "b", &["b.test"]);
        let with_issuer = format!("{}{}", a.cert, ca.cert);
        let pair = |cert: &str, of: &Sample| KeyPair::parse(cert, &of.key_pem).unwrap();
        let first = context("1", vec![pair(&with_issuer, &a)], Some(&trust));
        let both = vec![pair(&rsa.cert, &rsa), pair(&b.cert, &b)];
        let second = context("2", both, Some(&trust));
        let third = context("3", vec![pair(&a.cert, &a)], Some(&other_trust));
        let open = context("4", vec![pair(&b.cert, &b)], None);
        assert_eq!(first.common.as_ptr(), second.common.as_ptr());
        assert_ne!(first.common.as_ptr(), third.common.as_ptr());
        assert_ne!(first.common.as_ptr(), open.common.as_ptr());
        for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
            for (context, sigalgs, chain) in [
                (&first, "ECDSA+SHA256", &with_issuer),
                (&second, "ECDSA+SHA256", &b.cert),
                (&second, "RSA-PSS+SHA256", &rsa.cert),
                (&first, "ECDSA+SHA256:RSA-PSS+SHA256", &with_issuer),
                (&third, "ECDSA+SHA256", &a.cert),
                (&open, "ECDSA+SHA256", &b.cert),
            ] {
                let seen = shown(context, version, sigalgs);
                assert_eq!(seen, *chain, "{} {version:?}", context.ssl_id);
            }
        }
    }

    /// The second ClientHello is of a connection that has its name's context already.
    #[test]
    fn hello_that_is_asked_for_again_leaves_one_chain() {
        let ca = sample::ca("ca");
        let leaf = sample::leaf(&ca, "a", &["a.test"]);
        let chain = format!("{}{}", leaf.cert, ca.cert);
        let pair = KeyPair::parse(&chain, &leaf.key_pem).unwrap();
        let context = context("1", vec![pair], None);
        // A client brings a key share for its first group alone.
        for groups in ["P-256", "ffdhe2048:P-256"] {
            let seen = shown_to(&context, SslVersion::TLS1_3, |ctx| {
                ctx.set_groups_list(groups).unwrap();
            });
            assert_eq!(seen, chain, "{groups}");
        }
    }

    #[test]
    fn certificate_that_is_too_weak_is_refused_before_any_handshake() {
        let (key, signer) = (
            PKey::ec_gen("P-256").unwrap(),
            PKey::ec_gen("P-256").unwrap(),
        );
        let name = |text: &str| {
            let mut name = X509Name::builder().unwrap();
            name.append_entry_by_text("CN", text).unwrap();
            name.build()
        };
        let signed_with = |digest| {
            let mut made = X509::builder().unwrap();
            made.set_subject_name(&name("weak")).unwrap();
            made.set_issuer_name(&name("ca")).unwrap();
            let (from, until) = (
                Asn1Time::from_unix(0),
                Asn1Time::from_unix(i64::from(i32::MAX)),
            );
            made.set_not_before(&from.unwrap()).unwrap();
            made.set_not_after(&until.unwrap()).unwrap();
            made.set_pubkey(&key).unwrap();
            made.sign(&signer, digest).unwrap();
            let cert = String::from_utf8(made.build().to_pem().unwrap()).unwrap();
            let key = String::from_utf8(key.private_key_to_pem_pkcs8().unwrap()).unwrap();
            build("weak", vec![KeyPair::parse(&cert, &key).unwrap()], None)
        };
        signed_with(MessageDigest::sha256()).unwrap();
        let refused = signed_with(MessageDigest::sha1()).unwrap_err();
        assert_eq!(refused.errors()[0].reason(), Some("ca md too weak"));
    }

    /// A listener with one name.
    fn acceptor() -> ListenerAcceptor {
        let ca = sample::ca("ca");
        let leaf = sample::leaf(&ca, "a", &["a.test"]);
        let pair = KeyPair::parse(&leaf.cert, &leaf.key_pem).unwrap();
        let always = Arc::new(Always(context("a", vec![pair], None)));
        ListenerAcceptor::new(always, SessionCache::default(), None).unwrap()
    }

    /// A client that believes everybody.
    fn client(prefer: impl FnOnce(&mut SslContextBuilder)) -> Ssl {
        let mut ctx = context::base(SslMethod::tls_client(), Versions::default()).unwrap();
        ctx.set_verify(SslVerifyMode::NONE);
        prefer(&mut ctx);
        Ssl::new(&ctx.build()).unwrap()
    }

    #[test]
    fn only_a_server_of_tls_1_3_has_a_time_between_the_flights() {
        let acceptor = acceptor();
        for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
            let client = client(|ctx| ctx.set_max_proto_version(Some(version)).unwrap());
            let server = acceptor.ssl().unwrap();
            assert!(!sys::is_between_flights(&server));
            let (ours, theirs) = pipe();
            let client = client.connect(theirs);
            let server = server.accept(ours);
            let Err(HandshakeError::WouldBlock(server)) = server else {
                panic!("the server waits for the client");
            };
            let is_between = version == SslVersion::TLS1_3;
            assert_eq!(sys::is_between_flights(server.ssl()), is_between);
            let Err(HandshakeError::WouldBlock(client)) = client else {
                panic!("the client waits for the server");
            };
            drop(client.handshake());
            let Ok(server) = server.handshake() else {
                panic!("the handshake fails");
            };
            assert!(!sys::is_between_flights(server.ssl()));
        }
    }

    #[test]
    fn server_that_asks_for_another_hello_is_not_between_the_flights() {
        let acceptor = acceptor();
        let client = client(|ctx| ctx.set_groups_list("ffdhe2048:P-256").unwrap());
        let (ours, theirs) = pipe();
        let Err(HandshakeError::WouldBlock(client)) = client.connect(theirs) else {
            panic!("the client waits for the server");
        };
        let Err(HandshakeError::WouldBlock(server)) = acceptor.ssl().unwrap().accept(ours) else {
            panic!("the server asks for another hello");
        };
        assert!(!sys::is_between_flights(server.ssl()));
        let Err(HandshakeError::WouldBlock(_client)) = client.handshake() else {
            panic!("the client says hello again");
        };
        let Err(HandshakeError::WouldBlock(server)) = server.handshake() else {
            panic!("the server waits for the client");
        };
        assert!(sys::is_between_flights(server.ssl()));
    }
}
