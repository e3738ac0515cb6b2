//! What every context of this process has in common, server or client.
//!
//! The only caller of `SslContext::builder`. `SslAcceptor` and `SslConnector` are not used: the
//! first sets `RELEASE_BUFFERS`, the second loads the system's CA bundle. What they set for safety
//! is set here again (decision record 1).

use openssl::error::ErrorStack;
use openssl::lib_ctx::LibCtx;
use openssl::ssl::{SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions, SslRef};

use crate::crypto::sys;
use crate::tls::key_updates;
use crate::tls::material::KeyPair;
use crate::tls::policy::{self, TlsVersion, Versions};

/// OpenSSL's security level: at least 112 bits, no SHA-1 signatures
/// (`SSL_CTX_set_security_level(3)`).
pub(super) const SECURITY_LEVEL: u32 = 2;
/// `SSL_OP_NO_EXTENDED_MASTER_SECRET` of `ssl.h`, which the crate does not name.
const NO_EXTENDED_MASTER_SECRET: SslOptions = SslOptions::from_bits_retain(1);
/// `SSL_OP_CLEANSE_PLAINTEXT` of `ssl.h`, which the crate does not name.
const CLEANSE_PLAINTEXT: SslOptions = SslOptions::from_bits_retain(1 << 1);

/// What becomes of what was read once it is handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plaintext {
    /// It stays in the connection's buffer until more is read, and in freed memory after that.
    Left,
    /// It is wiped there: who speaks over these connections says what is secret.
    /// (`SSL_CTX_set_options(3)`)
    Wiped,
}

impl Plaintext {
    /// Has the connections of a context do so.
    pub(super) fn set(self, ctx: &mut SslContextBuilder) {
        match self {
            Self::Left => {}
            Self::Wiped => {
                ctx.set_options(CLEANSE_PLAINTEXT);
            }
        }
    }
}

/// A context with everything set that does not depend on its use.
///
/// # Defaults
/// Security level 2; the process's profile; no renegotiation, compression or early data; no chain
/// built for our own certificate; read-ahead; buffers kept while a connection is busy; KeyUpdates
/// counted.
///
/// # Errors
/// OpenSSL's own.
pub(super) fn base(method: SslMethod, versions: Versions) -> Result<SslContextBuilder, ErrorStack> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where contexts are made"
    )]
    let mut ctx = SslContext::builder(method)?;
    let profile = policy::profile();
    ctx.set_security_level(SECURITY_LEVEL);
    ctx.set_options(
        SslOptions::NO_COMPRESSION
            | SslOptions::NO_RENEGOTIATION
            | SslOptions::CIPHER_SERVER_PREFERENCE,
    );
    ctx.set_mode(
        SslMode::AUTO_RETRY
            | SslMode::ACCEPT_MOVING_WRITE_BUFFER
            | SslMode::ENABLE_PARTIAL_WRITE
            | SslMode::NO_AUTO_CHAIN,
    );
    ctx.set_read_ahead(true);
    ctx.set_min_proto_version(Some(versions.min.into()))?;
    ctx.set_max_proto_version(Some(versions.max.into()))?;
    ctx.set_cipher_list(profile.ciphers)?;
    ctx.set_ciphersuites(profile.suites)?;
    ctx.set_groups_list(&profile.groups.to_string_lossy())?;
    ctx.set_sigalgs_list(profile.sigalgs)?;
    key_updates::count(&mut ctx);
    Ok(ctx)
}

/// The other side of a probe: a peer that has just what is named here, wanted or not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stranger {
    /// The only version it speaks.
    pub(super) version: TlsVersion,
    /// TLS 1.2 ciphers, OpenSSL's names.
    pub(super) ciphers: &'static str,
    /// TLS 1.3 suites.
    pub(super) suites: &'static str,
    /// Key-exchange groups.
    pub(super) groups: &'static str,
    /// Whether it knows extended master secret (RFC 7627).
    pub(super) has_extended_master_secret: bool,
}

/// A context that is not ours: for the peers of [`probe`](crate::tls::probe), never for a
/// connection.
///
/// It has what ours must refuse, so it takes its algorithms from a library context of its own.
///
/// # Errors
/// OpenSSL's own.
pub(super) fn stranger(
    library: &'static LibCtx,
    method: SslMethod,
    offer: &Stranger,
) -> Result<SslContextBuilder, ErrorStack> {
    let mut ctx = sys::context_within(library, method)?;
    ctx.set_min_proto_version(Some(offer.version.into()))?;
    ctx.set_max_proto_version(Some(offer.version.into()))?;
    ctx.set_cipher_list(offer.ciphers)?;
    ctx.set_ciphersuites(offer.suites)?;
    ctx.set_groups_list(offer.groups)?;
    if !offer.has_extended_master_secret {
        ctx.set_options(NO_EXTENDED_MASTER_SECRET);
    }
    Ok(ctx)
}

/// Puts a certificate, its intermediates and its key into a context.
///
/// # Errors
/// OpenSSL's own: a key that is too weak for the security level, for instance.
pub(super) fn install(ctx: &mut SslContextBuilder, pair: &KeyPair) -> Result<(), ErrorStack> {
    ctx.set_certificate(&pair.chain.leaf)?;
    ctx.set_private_key(pair.key.as_pkey())?;
    // The chain belongs to the certificate set last, so several pairs keep their own
    // (`SSL_CTX_add1_chain_cert(3)`).
    for intermediate in &pair.chain.intermediates {
        sys::add_chain_certificate(ctx, intermediate)?;
    }
    ctx.check_private_key()
}

/// Puts a certificate, its intermediates and its key on one connection, for which its context has
/// none.
///
/// # Errors
/// As [`install`].
pub(super) fn present(ssl: &mut SslRef, pair: &KeyPair) -> Result<(), ErrorStack> {
    ssl.set_certificate(&pair.chain.leaf)?;
    for intermediate in &pair.chain.intermediates {
        ssl.add_chain_cert(intermediate.clone())?;
    }
    // Checked against the certificate, which comes first (`SSL_use_PrivateKey(3)`).
    ssl.set_private_key(pair.key.as_pkey())
}
