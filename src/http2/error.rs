//! Why streams and connections end (RFC 9113 §5.4, §7).

use std::fmt;
use std::io;
use std::rc::Rc;

/// An error code (RFC 9113 §7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason(u32);

impl Reason {
    /// Nothing went wrong.
    pub const NO_ERROR: Self = Self(0);
    /// What has no more specific code.
    pub const PROTOCOL_ERROR: Self = Self(1);
    /// The fault is the sender's.
    pub const INTERNAL_ERROR: Self = Self(2);
    /// More was sent than a window let.
    pub const FLOW_CONTROL_ERROR: Self = Self(3);
    /// Settings were not acknowledged in time.
    pub const SETTINGS_TIMEOUT: Self = Self(4);
    /// A frame came for a stream that had ended.
    pub const STREAM_CLOSED: Self = Self(5);
    /// A frame has a size that it may not have.
    pub const FRAME_SIZE_ERROR: Self = Self(6);
    /// Nothing was done for the stream.
    pub const REFUSED_STREAM: Self = Self(7);
    /// The stream is not needed any more.
    pub const CANCEL: Self = Self(8);
    /// What was said of header fields cannot be followed any more.
    pub const COMPRESSION_ERROR: Self = Self(9);
    /// The peer causes more work than it may.
    pub const ENHANCE_YOUR_CALM: Self = Self(11);

    /// The code as frames have it.
    #[must_use]
    pub fn code(self) -> u32 {
        self.0
    }

    fn words(self) -> &'static str {
        match self.0 {
            0 => "no error",
            1 => "protocol error",
            2 => "internal error",
            3 => "flow control error",
            4 => "settings timeout",
            5 => "stream closed",
            6 => "frame size error",
            7 => "refused stream",
            8 => "cancelled",
            9 => "compression error",
            10 => "connect error",
            11 => "enhance your calm",
            12 => "inadequate security",
            13 => "HTTP/1.1 required",
            _ => "an unknown error",
        }
    }
}

impl From<u32> for Reason {
    fn from(code: u32) -> Self {
        Self(code)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

/// Who ended something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The peer said so.
    Peer,
    /// We did, for what the peer did.
    Fault,
    /// We did, as it was asked for here.
    Us,
}

/// Why a stream, or a connection with its streams, ended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The stream was reset.
    #[error("{}", said("stream", *.0, *.1, ""))]
    Reset(Reason, By),
    /// The connection was ended; with a detail.
    #[error("{}", said("connection", *.0, *.1, .2))]
    GoAway(Reason, By, &'static str),
    /// The connection failed.
    #[error("{0}")]
    Io(Rc<io::Error>),
    /// The connection takes no stream any more.
    #[error("the connection takes no further stream")]
    Over,
}

fn said(what: &str, reason: Reason, by: By, detail: &str) -> String {
    let by = match by {
        By::Peer => "received",
        By::Fault => "detected",
        By::Us => "sent",
    };
    let colon = if detail.is_empty() { "" } else { ": " };
    format!("{what} error {by}: {reason}{colon}{detail}")
}

impl Error {
    /// The code that came, or was sent.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Reset(reason, _) | Self::GoAway(reason, ..) => Some(*reason),
            Self::Io(_) | Self::Over => None,
        }
    }

    /// Whether the peer did what HTTP/2 does not let it do.
    #[must_use]
    pub fn is_violation(&self) -> bool {
        matches!(
            self,
            Self::Reset(_, By::Fault) | Self::GoAway(_, By::Fault, _)
        )
    }

    /// Whether the peer says that it did nothing with the stream (RFC 9113 §8.7): it refused it, or the
    /// last one that its GOAWAY names came before it.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Reset(Reason::REFUSED_STREAM, _) | Self::GoAway(_, By::Peer, _)
        )
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(Rc::new(error))
    }
}

/// What a frame did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// To its stream.
    Stream(u32, Reason),
    /// To none that anything is done for: it is over, or begun by a peer that cannot know that there is no
    /// room for it (RFC 9113 §5.1, §5.1.2). Peers that do nothing wrong do so when much is under way.
    Unwanted(u32, Reason),
    /// To the connection; with a detail.
    Connection(Reason, &'static str),
}

impl Fault {
    /// Against the protocol.
    pub(super) const fn protocol(detail: &'static str) -> Self {
        Self::Connection(Reason::PROTOCOL_ERROR, detail)
    }

    /// By its size.
    pub(super) const fn size(detail: &'static str) -> Self {
        Self::Connection(Reason::FRAME_SIZE_ERROR, detail)
    }

    /// By its number.
    pub(super) const fn flood(detail: &'static str) -> Self {
        Self::Connection(Reason::ENHANCE_YOUR_CALM, detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_who_ended_what_and_why() {
        let told = |error: Error| error.to_string();
        let reset = Error::Reset(Reason::CANCEL, By::Peer);
        assert_eq!(told(reset), "stream error received: cancelled");
        let fault = Error::GoAway(Reason::PROTOCOL_ERROR, By::Fault, "no settings");
        assert!(fault.is_violation());
        assert_eq!(
            told(fault),
            "connection error detected: protocol error: no settings"
        );
        let broken = Error::from(io::Error::other("broken"));
        assert!(!broken.is_violation());
        assert_eq!(told(broken), "broken");
    }

    #[test]
    fn peer_refuses_by_a_reset_that_says_so_or_by_its_farewell() {
        let refused = Error::Reset(Reason::REFUSED_STREAM, By::Peer);
        let farewell = Error::GoAway(Reason::NO_ERROR, By::Peer, "");
        assert!(refused.is_refusal() && farewell.is_refusal());
        let cancelled = Error::Reset(Reason::CANCEL, By::Peer);
        let fault = Error::GoAway(Reason::NO_ERROR, By::Fault, "");
        assert!(!cancelled.is_refusal() && !fault.is_refusal());
    }
}
