//! The proof made when a resource is written: a handshake in memory with what was just built.

use std::sync::OnceLock;

use openssl::error::ErrorStack;
use openssl::ssl::{Ssl, SslContext, SslMethod, SslVerifyMode};

use crate::tls::context;
use crate::tls::memory::{Side, shake};
use crate::tls::policy::Versions;
use crate::tls::server::ServerContext;

/// Why a context does not work.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// OpenSSL could not set the proof up.
    #[error("OpenSSL failed")]
    OpenSsl(#[from] ErrorStack),
    /// The server side ended the handshake.
    #[error("a handshake with this certificate and key does not succeed: {0}")]
    Server(openssl::ssl::Error),
    /// The client side ended the handshake.
    #[error("a client cannot complete a handshake with this certificate and key: {0}")]
    Client(openssl::ssl::Error),
    /// Neither side can go on.
    #[error("a handshake with this certificate and key does not end")]
    Stuck,
}

/// Shows that a name's context serves: a client that checks nothing reaches the end of a
/// handshake. What the name asks of clients is left out: it is the client's to meet.
///
/// # Errors
/// [`ProofError`], naming the side that failed.
pub fn prove_server(server: &ServerContext) -> Result<(), ProofError> {
    let mut accept = Ssl::new(&server.common)?;
    server.bound(&mut accept)?;
    server.present(&mut accept)?;
    // The certificate, key and chain are what is proved; the policy is the client's to meet.
    accept.set_verify(SslVerifyMode::NONE);
    // Nor is a session proved.
    accept.set_num_tickets(0)?;
    let mut connect = Ssl::new(client()?)?;
    connect.set_min_proto_version(Some(server.versions.min.into()))?;
    connect.set_max_proto_version(Some(server.versions.max.into()))?;
    let (server, client) = shake(accept, connect);
    let server_refused = server.refused();
    match (server, client) {
        (Side::Done(_), Side::Done(_)) => Ok(()),
        (Side::Broken(stack), _) | (_, Side::Broken(stack)) => Err(stack.into()),
        // Where both failed, one was only told so by the other's alert.
        (Side::Failed(_), Side::Failed(error)) if !server_refused => Err(ProofError::Client(error)),
        (Side::Failed(error), _) => Err(ProofError::Server(error)),
        (_, Side::Failed(error)) => Err(ProofError::Client(error)),
        (Side::Mid(_), _) | (_, Side::Mid(_)) => Err(ProofError::Stuck),
    }
}

/// The context of all clients of proofs; none is resumed.
fn client() -> Result<&'static SslContext, ErrorStack> {
    static CLIENT: OnceLock<SslContext> = OnceLock::new();
    if let Some(made) = CLIENT.get() {
        return Ok(made);
    }
    let mut ctx = context::base(SslMethod::tls_client(), Versions::default())?;
    ctx.set_verify(SslVerifyMode::NONE);
    Ok(CLIENT.get_or_init(|| ctx.build()))
}
