//! Server side: the context of a name, and the one long-lived context of a listener.
//!
//! The listener's context never serves a certificate. It parses the ClientHello, asks
//! [`Choose`] and is replaced by the name's context; it keeps the
//! session cache, which OpenSSL takes from it whatever the name (`SSL_set_SSL_CTX`).

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use openssl::error::ErrorStack;
use openssl::ssl::{
    AlpnError, Ssl, SslAlert, SslContext, SslContextBuilder, SslMethod, SslOptions,
    SslSessionCacheMode, select_next_proto,
};

use crate::crypto::sys;
use crate::tls::material::{Digest, KeyPair};
use crate::tls::policy::{self, ClientPolicy, Versions};
use crate::tls::select::{self, Choose};
use crate::tls::socket::Socket;
use crate::tls::stream::TlsStream;
use crate::tls::tickets::contents::Contents;
use crate::tls::tickets::{self, TicketKeys};
use crate::tls::trust::CaStore;
use crate::tls::{context, material};

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

/// The context of a name, with what a switch to it must re-apply.
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
    pub(super) ctx: SslContext,
}

impl ServerContext {
    /// Builds the context of a name. About half a millisecond on OpenSSL 3.0.
    ///
    /// # Errors
    /// OpenSSL's own: a key or certificate that is too weak for security level 2, for instance.
    pub fn build(spec: ServerSpec) -> Result<Self, ErrorStack> {
        let key = spec.key()?;
        let mut ctx = context::base(SslMethod::tls_server(), spec.versions)?;
        serve(&mut ctx, spec.alpn);
        for pair in &spec.pairs {
            context::install(&mut ctx, pair)?;
        }
        let id_context = policy::session_id_context(&spec.ssl_id, &spec.policy, None)?;
        ctx.set_session_id_context(&id_context)?;
        if let Some(ca) = &spec.ca {
            ctx.set_cert_store(ca.share());
            ctx.set_client_ca_list(ca.names()?);
        }
        Ok(Self {
            ssl_id: spec.ssl_id,
            key,
            policy: spec.policy,
            ca: spec.ca,
            versions: spec.versions,
            ctx: ctx.build(),
        })
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
        let mut ctx = context::base(SslMethod::tls_server(), Versions::default())?;
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
