//! A handshake made to be looked at: what a server shows, what it asks for, its last word.
//!
//! No request is sent. In TLS 1.3 a server judges a client's certificate after the client is done
//! (RFC 8446 §4.4.2.4), so its word is waited for: having heard our close_notify it answers with an
//! alert, or with an end.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::failure::Reason;
use crate::net::dial::{DialError, Dialer, Refused, Target, failed};
use crate::net::stream::Stream;
use crate::net::sweep::Sweep;
use crate::tls::peer::Served;
use crate::tls::stream::TlsStream;

/// How long a server has for its last word; one that keeps silent has nothing against us.
const LAST_WORD: Duration = Duration::from_secs(2);
/// How much of what a server says unasked is read.
const WASTE_BYTES: usize = 64 * 1024;

/// What a handshake came to.
#[derive(Debug)]
pub struct Look {
    /// Whether a request could be sent.
    pub outcome: Result<(), DialError>,
    /// What the server showed; `None` in the clear, and where it did not come to that.
    pub served: Option<Served>,
    /// Whether the server asked for a client certificate.
    pub was_asked: bool,
    /// How long it took, the last word included.
    pub took: Duration,
}

impl Dialer {
    /// Shakes hands with a target and takes leave; TCP and TLS may take `limit` each.
    pub async fn look(&self, target: &Target<'_>, limit: Duration) -> Look {
        let began = Instant::now();
        let mut look = Look {
            outcome: Ok(()),
            served: None,
            was_asked: false,
            took: Duration::ZERO,
        };
        look.outcome = self.look_into(target, limit, &mut look).await;
        look.took = began.elapsed();
        look
    }

    async fn look_into(
        &self,
        target: &Target<'_>,
        limit: Duration,
        look: &mut Look,
    ) -> Result<(), DialError> {
        let late = |what: &str| {
            let words = format!("{what} within {} ms", limit.as_millis());
            failed(Reason::UpstreamTimeout, &words)
        };
        let connecting = Box::pin(self.connect(target));
        let connected = self.sweep.within(self.sweep.after(limit), connecting).await;
        let socket = connected.map_err(|_expired| late("no connection came about"))??;
        let shaking = Box::pin(self.shake(target, socket));
        let shaken = self.sweep.within(self.sweep.after(limit), shaking).await;
        let shaken = shaken.map_err(|_expired| late("the TLS handshake did not end"))?;
        let (mut tls, error) = match shaken {
            Ok(Stream::Plain(_)) => return Ok(()),
            Ok(Stream::Tls(tls)) => (tls, None),
            Err(Refused {
                error,
                tls: Some(tls),
            }) => (tls, Some(error)),
            Err(Refused { error, tls: None }) => return Err(error),
        };
        look.served = Some(tls.served()).filter(|served| !served.chain.is_empty());
        look.was_asked = tls.certificate_was_asked();
        if let Some(error) = error {
            return Err(error);
        }
        let has_identity = target.tls.is_some_and(|(it, _)| it.has_identity);
        take_leave(&self.sweep, &mut tls, has_identity).await
    }
}

/// Ends a connection over which nothing was sent, and hears the server's last word: in TLS 1.3 that
/// is how it refuses a client certificate, or that there was none.
///
/// # Errors
/// The server's refusal; silence is none. `has_identity`: a certificate was there to be shown.
pub async fn take_leave(
    sweep: &Rc<Sweep>,
    tls: &mut TlsStream,
    has_identity: bool,
) -> Result<(), DialError> {
    let leaving = Box::pin(leave(tls));
    match sweep.within(sweep.after(LAST_WORD), leaving).await {
        Ok(Ok(())) | Err(_) => Ok(()),
        Ok(Err(error)) => Err(last_word(tls, &error, has_identity)),
    }
}

/// Says that nothing will come, and reads to the end.
async fn leave(tls: &mut TlsStream) -> io::Result<()> {
    tls.shutdown().await?;
    let mut waste = [0; 4096];
    let mut read_bytes = 0;
    while read_bytes < WASTE_BYTES {
        match tls.read(&mut waste).await {
            Ok(0) => break,
            Ok(count) => read_bytes += count,
            // An end without close_notify refuses nothing.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn last_word(tls: &TlsStream, error: &io::Error, has_identity: bool) -> DialError {
    match tls.fault().borrow().as_ref() {
        Some(fault) => {
            let reason = fault.upstream_reason(tls.certificate_was_asked(), has_identity);
            failed(reason, fault)
        }
        None => failed(Reason::UpstreamReset, error),
    }
}
