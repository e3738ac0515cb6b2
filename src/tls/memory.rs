//! Handshakes in memory: two ends and a pipe between them, no socket and no waiting.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use openssl::error::ErrorStack;
use openssl::ssl::{self, HandshakeError, MidHandshakeSslStream, Ssl, SslStream};

/// Turns each side may take; a full handshake needs three.
const TURNS: usize = 8;
/// Reasons above this are alerts that the peer sent (`sslerr.h`, `SSL_AD_REASON_OFFSET`).
const ALERTS: i32 = 1000;

/// How one side of a handshake ended.
pub(super) enum Side {
    /// The handshake is complete.
    Done(Box<SslStream<End>>),
    /// More is awaited from the other side.
    Mid(Box<MidHandshakeSslStream<End>>),
    /// The handshake is over.
    Failed(ssl::Error),
    /// It did not begin.
    Broken(ErrorStack),
}

/// Runs a handshake until neither side can go on.
pub(super) fn shake(server: Ssl, client: Ssl) -> (Side, Side) {
    let (ours, theirs) = pipe();
    let mut server = Side::of(server.accept(ours));
    let mut client = Side::of(client.connect(theirs));
    for _ in 0..TURNS {
        server = server.step();
        client = client.step();
        if !matches!((&server, &client), (Side::Mid(_), _) | (_, Side::Mid(_))) {
            break;
        }
    }
    (server, client)
}

impl Side {
    fn of(result: Result<SslStream<End>, HandshakeError<End>>) -> Self {
        match result {
            Ok(stream) => Self::Done(Box::new(stream)),
            Err(HandshakeError::WouldBlock(mid)) => Self::Mid(Box::new(mid)),
            Err(HandshakeError::Failure(mid)) => Self::Failed(mid.into_error()),
            Err(HandshakeError::SetupFailure(stack)) => Self::Broken(stack),
        }
    }

    fn step(self) -> Self {
        match self {
            Self::Mid(mid) => Self::of(mid.handshake()),
            ended @ (Self::Done(_) | Self::Failed(_) | Self::Broken(_)) => ended,
        }
    }

    /// Whether this side ended the handshake, rather than being told by an alert that it ended.
    pub(super) fn refused(&self) -> bool {
        match self {
            Self::Failed(error) => !is_alert(error),
            Self::Broken(_) => true,
            Self::Done(_) | Self::Mid(_) => false,
        }
    }
}

fn is_alert(error: &ssl::Error) -> bool {
    error
        .ssl_error()
        .and_then(|stack| stack.errors().first())
        .is_some_and(|error| error.reason_code() > ALERTS)
}

/// One end of a pipe that never blocks.
pub(super) struct End {
    incoming: Arc<Mutex<VecDeque<u8>>>,
    outgoing: Arc<Mutex<VecDeque<u8>>>,
}

pub(super) fn pipe() -> (End, End) {
    let (a, b) = (Arc::default(), Arc::default());
    (
        End {
            incoming: Arc::clone(&a),
            outgoing: Arc::clone(&b),
        },
        End {
            incoming: b,
            outgoing: a,
        },
    )
}

impl Read for End {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut queue = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        queue.read(buf)
    }
}

impl Write for End {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.outgoing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
