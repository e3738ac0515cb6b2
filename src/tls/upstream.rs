//! Client side: one connector per distinct TLS configuration of an upstream.
//!
//! Own trust store (never the system's bundle unless asked for), own session cache, name checked
//! per connection. Nothing of it is shared across identities.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use openssl::asn1::Asn1Time;
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{
    Ssl, SslContext, SslMethod, SslRef, SslSession, SslSessionCacheMode, SslVerifyMode, SslVersion,
};
use openssl::x509::verify::X509CheckFlags;
use openssl::x509::{X509Ref, X509StoreContext, X509StoreContextRef};

use crate::crypto::sys;
use crate::tls::context::{self, Plaintext};
use crate::tls::material::{self, Digest, KeyPair};
use crate::tls::policy::{self, Offer};
use crate::tls::socket::Socket;
use crate::tls::stream::TlsStream;
use crate::tls::trust::CaStore;

/// Peers whose sessions are kept per connector.
const SESSION_PEERS: usize = 256;
/// Sessions kept per peer: a TLS 1.3 session is used once (RFC 8446 §C.4).
const SESSIONS_PER_PEER: usize = 8;
/// Seconds after a full handshake that sessions may be resumed which come from it.
const LIFE: i64 = 24 * 60 * 60;

/// `X509_V_ERR_HOSTNAME_MISMATCH` of `x509_vfy.h`.
const NAME_MISMATCH: i32 = 62;

/// `h2` in ALPN's wire form (RFC 7301 §3.1, RFC 9113 §3.2).
const H2: &[u8] = b"\x02h2";

/// What is spoken over a connection to an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1. Over TLS nothing is offered by ALPN.
    #[default]
    Http1,
    /// HTTP/2. Over TLS `h2` is offered by ALPN and must be agreed on.
    Http2,
}

/// What a connector is built from.
#[derive(Debug)]
pub struct UpstreamSpec {
    /// What we show when asked.
    pub identity: Option<KeyPair>,
    /// Trusted issuers. `None`: nothing is checked (`verify: false`).
    pub trust: Option<Arc<CaStore>>,
    /// What its servers are offered.
    pub offer: Offer,
    /// What is spoken over its connections.
    pub protocol: Protocol,
}

impl UpstreamSpec {
    /// Everything that decides trust, as one digest: key in the cache, part of each pool key.
    ///
    /// # Errors
    /// OpenSSL's own, from hashing.
    pub fn fingerprint(&self) -> Result<Digest, ErrorStack> {
        let identity = self.identity.as_ref().map(KeyPair::digest).transpose()?;
        fingerprint(
            identity,
            self.trust.as_ref().map(|store| store.digest),
            &self.offer,
            self.protocol,
        )
    }
}

/// [`UpstreamSpec::fingerprint`] from digests: of the key pair shown, of the trusted bundle.
///
/// # Errors
/// OpenSSL's own, from hashing.
pub fn fingerprint(
    identity: Option<Digest>,
    trust: Option<Digest>,
    offer: &Offer,
    protocol: Protocol,
) -> Result<Digest, ErrorStack> {
    let mut text = Vec::with_capacity(96);
    for part in [identity, trust] {
        text.push(u8::from(part.is_some()));
        text.extend_from_slice(&part.unwrap_or_default());
    }
    text.extend_from_slice(format!("{offer:?}{protocol:?}").as_bytes());
    material::sha256(&text)
}

/// The name a connection is opened for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ServerName {
    /// Sent as SNI and checked as a DNS name.
    Dns(Arc<str>),
    /// Checked as an IP; never sent (RFC 6066 §3).
    Ip(IpAddr),
}

impl ServerName {
    /// A name or IP literal, brackets of IPv6 tolerated.
    #[must_use]
    pub fn new(text: &str) -> Self {
        match text.trim_start_matches('[').trim_end_matches(']').parse() {
            Ok(ip) => Self::Ip(ip),
            Err(_) => Self::Dns(text.into()),
        }
    }

    /// What goes into SNI, if anything.
    #[must_use]
    pub fn sni(&self) -> Option<&str> {
        match self {
            Self::Dns(name) => Some(name),
            Self::Ip(_) => None,
        }
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(ip) => write!(f, "{ip}"),
        }
    }
}

/// Whose sessions may be offered: the address and the name together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SessionKey {
    peer: Arc<str>,
    name: ServerName,
}

/// A session with what its full handshake saw.
#[derive(Clone)]
struct Kept {
    session: SslSession,
    asked: bool,
    /// When what its full handshake checked no longer holds, epoch seconds.
    until: i64,
}

#[derive(Default)]
struct Sessions {
    by_peer: HashMap<SessionKey, VecDeque<Kept>>,
}

impl Sessions {
    /// The newest session of a peer that is good at `now`, epoch seconds. One of TLS 1.3 is used
    /// once; one of TLS 1.2 stays.
    fn take(&mut self, key: &SessionKey, now: i64) -> Option<Kept> {
        let sessions = self.by_peer.get_mut(key)?;
        sessions.retain(|kept| kept.until > now);
        let kept = sessions.pop_back()?;
        if kept.session.protocol_version() == SslVersion::TLS1_2 {
            sessions.push_back(kept.clone());
        }
        Some(kept)
    }

    fn keep(&mut self, key: &SessionKey, kept: Kept) {
        if self.by_peer.len() >= SESSION_PEERS && !self.by_peer.contains_key(key) {
            // More peers than an upstream has nodes and names: any one goes.
            if let Some(any) = self.by_peer.keys().next().cloned() {
                self.by_peer.remove(&any);
            }
        }
        let sessions = self.by_peer.entry(key.clone()).or_default();
        if sessions.len() >= SESSIONS_PER_PEER {
            sessions.pop_front();
        }
        sessions.push_back(kept);
    }
}

/// What a client connection knows of itself, kept on the connection.
struct Attempt {
    key: SessionKey,
    /// A certificate is asked for in this handshake.
    asked_now: bool,
    /// One was asked for in the handshake that the offered session came from.
    asked_before: bool,
    /// [`Kept::until`] of the offered session.
    until_before: i64,
}

impl Attempt {
    fn was_asked(&self, resumed: bool) -> bool {
        self.asked_now || (resumed && self.asked_before)
    }

    /// Until when a session of this connection stands for a full handshake: as long as all of the
    /// chain is valid that was verified in it, and for [`LIFE`] at most, since with TLS 1.3 each
    /// connection brings another session (RFC 8446 §4.6.1).
    fn until(&self, ssl: &SslRef, verifies: bool) -> i64 {
        if ssl.session_reused() {
            return self.until_before;
        }
        let chain = ssl.verified_chain().filter(|_| verifies);
        let ends = chain
            .into_iter()
            .flatten()
            .map(|certificate| material::validity(certificate).map_or(0, |(_, end)| end));
        ends.fold(now().saturating_add(LIFE), i64::min)
    }
}

/// Epoch seconds; far away where the clock has none.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(i64::MAX, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

/// Opens TLS connections to upstreams of one TLS configuration.
pub struct UpstreamConnector {
    /// Everything that decides trust.
    pub fingerprint: Digest,
    /// Whether the server's chain and name are checked.
    pub verify: bool,
    /// Whether we have a certificate to show.
    pub has_identity: bool,
    /// What is spoken over its connections.
    pub protocol: Protocol,
    /// Whom its servers must come from; `None`: nothing is checked.
    trust: Option<Arc<CaStore>>,
    ctx: SslContext,
    sessions: Arc<Mutex<Sessions>>,
}

impl UpstreamConnector {
    /// Builds a connector.
    ///
    /// # Errors
    /// OpenSSL's own: a key or certificate that is too weak for security level 2, for instance.
    pub fn build(spec: &UpstreamSpec) -> Result<Self, ErrorStack> {
        Self::make(spec, Plaintext::Left)
    }

    /// One whose connections wipe what they have handed on: for those that answer with secrets.
    ///
    /// # Errors
    /// Those of [`UpstreamConnector::build`].
    pub fn build_wiping(spec: &UpstreamSpec) -> Result<Self, ErrorStack> {
        Self::make(spec, Plaintext::Wiped)
    }

    fn make(spec: &UpstreamSpec, plaintext: Plaintext) -> Result<Self, ErrorStack> {
        let mut ctx = context::base(SslMethod::tls_client(), spec.offer.versions)?;
        plaintext.set(&mut ctx);
        let profile = policy::profile();
        ctx.set_cipher_list(spec.offer.ciphers(profile))?;
        ctx.set_ciphersuites(spec.offer.suites(profile))?;
        ctx.set_groups_list(&spec.offer.groups(profile))?;
        if let Some(pair) = &spec.identity {
            context::install(&mut ctx, pair)?;
        }
        match &spec.trust {
            Some(store) => {
                ctx.set_cert_store(store.share());
                ctx.set_verify_callback(SslVerifyMode::PEER, heed_names);
            }
            None => ctx.set_verify(SslVerifyMode::NONE),
        }
        match spec.protocol {
            Protocol::Http1 => {}
            Protocol::Http2 => ctx.set_alpn_protos(H2)?,
        }
        let sessions = Arc::new(Mutex::new(Sessions::default()));
        ctx.set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
        let kept = sessions.clone();
        let verifies = spec.trust.is_some();
        ctx.set_new_session_callback(move |ssl, session| {
            if let Some(attempt) = attempt(ssl) {
                let new = Kept {
                    session,
                    asked: attempt.was_asked(ssl.session_reused()),
                    until: attempt.until(ssl, verifies),
                };
                let mut sessions = kept.lock().unwrap_or_else(PoisonError::into_inner);
                sessions.keep(&attempt.key, new);
            }
        });
        sys::on_certificate_needed(&mut ctx, |ssl| {
            if let Some(index) = index()
                && let Some(attempt) = ssl.ex_data_mut(index)
            {
                attempt.asked_now = true;
            }
            Ok(())
        });
        Ok(Self {
            fingerprint: spec.fingerprint()?,
            verify: spec.trust.is_some(),
            has_identity: spec.identity.is_some(),
            protocol: spec.protocol,
            trust: spec.trust.clone(),
            ctx: ctx.build(),
            sessions,
        })
    }

    /// A connection to `peer` for `name`, before its handshake.
    ///
    /// # Errors
    /// OpenSSL's own: a name that cannot be one.
    pub fn open(
        &self,
        peer: &Arc<str>,
        name: &ServerName,
        socket: Socket,
    ) -> Result<TlsStream, ErrorStack> {
        TlsStream::connecting(self.ssl(peer, name)?, socket)
    }

    /// The state of a new connection to `peer` (host:port, part of the session key) for `name`.
    ///
    /// With verification the name is always checked: DNS names without partial wildcards, the
    /// subject's CN only where the certificate has no SAN at all ([`heed_names`]).
    ///
    /// # Errors
    /// OpenSSL's own: a name that cannot be one.
    pub(super) fn ssl(&self, peer: &Arc<str>, name: &ServerName) -> Result<Ssl, ErrorStack> {
        let mut ssl = Ssl::new(&self.ctx)?;
        if let Some(sni) = name.sni() {
            ssl.set_hostname(sni)?;
        }
        if self.verify {
            let param = ssl.param_mut();
            param.set_hostflags(X509CheckFlags::NO_PARTIAL_WILDCARDS);
            match name {
                // To OpenSSL an empty name is no check, and a leading dot matches every subdomain.
                ServerName::Dns(dns) if dns.is_empty() || dns.starts_with('.') => {
                    return Err(ErrorStack::get());
                }
                ServerName::Dns(dns) => param.set_host(dns)?,
                ServerName::Ip(ip) => param.set_ip(*ip)?,
            }
        }
        let key = SessionKey {
            peer: peer.clone(),
            name: name.clone(),
        };
        let kept = if self.may_resume()? {
            let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            sessions.take(&key, now())
        } else {
            None
        };
        let (mut asked_before, mut until_before) = (false, 0);
        if let Some(kept) = kept
            && sys::offer_session(&mut ssl, &kept.session).is_ok()
        {
            (asked_before, until_before) = (kept.asked, kept.until);
        }
        if let Some(index) = index() {
            ssl.set_ex_data(
                index,
                Attempt {
                    key,
                    asked_now: false,
                    asked_before,
                    until_before,
                },
            );
        }
        Ok(ssl)
    }

    /// Whether sessions stand for what was checked when they were made: once a revocation list is
    /// past its end a full handshake has the say, because a resumed one verifies nothing.
    fn may_resume(&self) -> Result<bool, ErrorStack> {
        let Some(trust) = &self.trust else {
            return Ok(true);
        };
        let now = Asn1Time::days_from_now(0)?;
        Ok(!trust.is_stale(&now))
    }

    /// Forgets the sessions of one peer: the next connection makes a full handshake.
    pub fn forget(&self, peer: &Arc<str>, name: &ServerName) {
        let key = SessionKey {
            peer: peer.clone(),
            name: name.clone(),
        };
        self.sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .by_peer
            .remove(&key);
    }
}

impl fmt::Debug for UpstreamConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamConnector")
            .field("verify", &self.verify)
            .field("has_identity", &self.has_identity)
            .finish_non_exhaustive()
    }
}

/// Refuses a common name beside a SAN. `X509_check_host(3)` looks at it wherever no DNS name is among
/// the alternative ones, so that a workload's certificate, say, whose one name is a URI, would be
/// good for what its subject was called.
fn heed_names(passed: bool, ctx: &mut X509StoreContextRef) -> bool {
    if !passed || ctx.error_depth() != 0 {
        return passed;
    }
    let has_other_names_only = |leaf: &X509Ref| {
        let names = leaf.subject_alt_names();
        names.is_some_and(|names| names.iter().all(|name| name.dnsname().is_none()))
    };
    let asks_for_dns_name = X509StoreContext::ssl_idx()
        .ok()
        .and_then(|ssl| ctx.ex_data(ssl))
        .and_then(attempt)
        .is_none_or(|attempt| matches!(attempt.key.name, ServerName::Dns(_)));
    let is_refused = asks_for_dns_name && ctx.current_cert().is_some_and(has_other_names_only);
    if is_refused {
        ctx.set_error(sys::verify_result(NAME_MISMATCH));
    }
    !is_refused
}

/// Whether the upstream asked for a certificate on this connection's full handshake.
#[must_use]
pub fn certificate_was_asked(ssl: &SslRef) -> bool {
    attempt(ssl).is_some_and(|attempt| attempt.was_asked(ssl.session_reused()))
}

fn attempt(ssl: &SslRef) -> Option<&Attempt> {
    ssl.ex_data(index()?)
}

fn index() -> Option<Index<Ssl, Attempt>> {
    static INDEX: OnceLock<Option<Index<Ssl, Attempt>>> = OnceLock::new();
    *INDEX.get_or_init(|| Ssl::new_ex_index().ok())
}
