//! Frames: their heads, those that are short, and settings (RFC 9113 §4.1, §6).

use super::error::{Fault, Reason};

/// How long a frame's head is.
pub(super) const HEAD_BYTES: usize = 9;
/// The longest payload that either side may send here: what every peer takes (§4.2).
pub(super) const MAX_PAYLOAD: usize = 16 << 10;
/// The same, as settings have it.
const MAX_PAYLOAD_SETTING: u32 = 16 << 10;
/// The longest that a peer may say it takes.
const LARGEST_PAYLOAD_SETTING: u32 = (1 << 24) - 1;
/// The widest window (§6.9.1).
pub(super) const MAX_WINDOW: u32 = (1 << 31) - 1;
/// Every window's width at the beginning (§6.9.2).
pub(super) const FIRST_WINDOW: u32 = 65_535;
/// The highest number of a stream.
pub(super) const MAX_STREAM: u32 = (1 << 31) - 1;
/// What a client says first (§3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A kind of frame.
pub(super) mod kind {
    /// A part of a message's content (§6.1).
    pub(crate) const DATA: u8 = 0;
    /// Header fields (§6.2).
    pub(crate) const HEADERS: u8 = 1;
    /// What nobody heeds any more (§6.3).
    pub(crate) const PRIORITY: u8 = 2;
    /// The end of a stream, out of order (§6.4).
    pub(crate) const RST_STREAM: u8 = 3;
    /// What its sender takes (§6.5).
    pub(crate) const SETTINGS: u8 = 4;
    /// A request that nobody made (§6.6).
    pub(crate) const PUSH_PROMISE: u8 = 5;
    /// Asks whether a peer is there, or says so (§6.7).
    pub(crate) const PING: u8 = 6;
    /// The end of a connection (§6.8).
    pub(crate) const GOAWAY: u8 = 7;
    /// Room for more content (§6.9).
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    /// More header fields (§6.10).
    pub(crate) const CONTINUATION: u8 = 9;
}

/// A flag of a frame.
pub(super) mod flag {
    /// Of SETTINGS and PING: it is the answer to one.
    pub(crate) const ACK: u8 = 0x1;
    /// Of DATA and HEADERS: nothing follows on the stream.
    pub(crate) const END_STREAM: u8 = 0x1;
    /// Of HEADERS and CONTINUATION: no CONTINUATION follows.
    pub(crate) const END_HEADERS: u8 = 0x4;
    /// Of DATA and HEADERS: some bytes say nothing.
    pub(crate) const PADDED: u8 = 0x8;
    /// Of HEADERS: a priority comes first.
    pub(crate) const PRIORITY: u8 = 0x20;
}

/// A setting (§6.5.2).
mod setting {
    pub(super) const HEADER_TABLE_SIZE: u16 = 1;
    pub(super) const ENABLE_PUSH: u16 = 2;
    pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(super) const MAX_FRAME_SIZE: u16 = 5;
    pub(super) const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// A frame's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// How long its payload is, in bytes.
    pub length: usize,
    /// Its kind; others than those in [`kind`] are passed over.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 is the connection.
    pub stream: u32,
}

impl Head {
    /// Reads a head; `None`, if it is not all there.
    #[must_use]
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let [l1, l2, l3, kind, flags, s1, s2, s3, s4] = *bytes.first_chunk::<HEAD_BYTES>()?;
        Some(Self {
            length: usize::from(l1) << 16 | usize::from(l2) << 8 | usize::from(l3),
            kind,
            flags,
            stream: u32::from_be_bytes([s1, s2, s3, s4]) & MAX_STREAM,
        })
    }

    /// As it is written.
    #[must_use]
    pub(super) fn bytes(self) -> [u8; HEAD_BYTES] {
        let [.., l1, l2, l3] = self.length.to_be_bytes();
        let [s1, s2, s3, s4] = self.stream.to_be_bytes();
        [l1, l2, l3, self.kind, self.flags, s1, s2, s3, s4]
    }

    /// Whether it has a flag.
    #[must_use]
    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Writes a frame.
pub(super) fn write(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let head = Head {
        length: payload.len(),
        kind,
        flags,
        stream,
    };
    out.reserve(HEAD_BYTES + payload.len());
    out.extend_from_slice(&head.bytes());
    out.extend_from_slice(payload);
}

/// Takes padding off, of which the first byte says how long it is (§6.1).
pub(super) fn unpadded(head: Head, payload: &[u8]) -> Result<&[u8], Fault> {
    if !head.has(flag::PADDED) {
        return Ok(payload);
    }
    let (&padding, rest) = payload.split_first().ok_or(Fault::size(
        "a padded frame without a length of its padding",
    ))?;
    let length = rest.len().checked_sub(usize::from(padding));
    length
        .and_then(|length| rest.get(..length))
        .ok_or(Fault::protocol("more padding than its frame has bytes"))
}

/// A number of four bytes.
pub(super) fn number(payload: &[u8]) -> Option<u32> {
    <[u8; 4]>::try_from(payload).ok().map(u32::from_be_bytes)
}

/// What a peer takes, as far as it said so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    /// The size of its table of header fields, in bytes.
    pub table: Option<u32>,
    /// The smallest size of it on the way there (RFC 7541 §4.2); only read.
    pub least_table: Option<u32>,
    /// How many streams at a time.
    pub streams: Option<u32>,
    /// How much of each stream's content it takes unasked, in bytes.
    pub window: Option<u32>,
    /// Whether it may be sent what it did not ask for.
    pub push: Option<bool>,
    /// How large a list of header fields may be, in bytes; for its peer to heed or not.
    pub list: Option<u32>,
}

impl Settings {
    /// Reads a payload. What it says twice counts as said last.
    pub(super) fn read(payload: &[u8]) -> Result<Self, Fault> {
        let (settings, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(Fault::size("settings of which one is cut off"));
        }
        let mut read = Self::default();
        for [i1, i2, v1, v2, v3, v4] in settings {
            let value = u32::from_be_bytes([*v1, *v2, *v3, *v4]);
            match u16::from_be_bytes([*i1, *i2]) {
                setting::HEADER_TABLE_SIZE => {
                    read.table = Some(value);
                    read.least_table =
                        Some(read.least_table.map_or(value, |least| least.min(value)));
                }
                setting::ENABLE_PUSH if value > 1 => {
                    return Err(Fault::protocol("a setting that is neither 0 nor 1"));
                }
                setting::ENABLE_PUSH => read.push = Some(value == 1),
                setting::MAX_CONCURRENT_STREAMS => read.streams = Some(value),
                setting::INITIAL_WINDOW_SIZE if value > MAX_WINDOW => {
                    let detail = "an initial window that is too wide";
                    return Err(Fault::Connection(Reason::FLOW_CONTROL_ERROR, detail));
                }
                setting::INITIAL_WINDOW_SIZE => read.window = Some(value),
                setting::MAX_FRAME_SIZE
                    if !(MAX_PAYLOAD_SETTING..=LARGEST_PAYLOAD_SETTING).contains(&value) =>
                {
                    return Err(Fault::protocol("a largest frame that is none"));
                }
                setting::MAX_HEADER_LIST_SIZE => read.list = Some(value),
                // Frames are never larger than every peer takes.
                _ => {}
            }
        }
        Ok(read)
    }

    /// Writes a frame of them.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let push = self.push.map(u32::from);
        let all = [
            (setting::HEADER_TABLE_SIZE, self.table),
            (setting::ENABLE_PUSH, push),
            (setting::MAX_CONCURRENT_STREAMS, self.streams),
            (setting::INITIAL_WINDOW_SIZE, self.window),
            (setting::MAX_HEADER_LIST_SIZE, self.list),
        ];
        let mut payload = Vec::with_capacity(6 * all.len());
        for (id, value) in all {
            if let Some(value) = value {
                payload.extend_from_slice(&id.to_be_bytes());
                payload.extend_from_slice(&value.to_be_bytes());
            }
        }
        write(out, kind::SETTINGS, 0, 0, &payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_come_back_and_the_reserved_bit_says_nothing() {
        let head = Head {
            length: 0x01_02_03,
            kind: kind::HEADERS,
            flags: flag::END_HEADERS,
            stream: MAX_STREAM,
        };
        assert_eq!(Head::read(&head.bytes()), Some(head));
        let mut reserved = head.bytes();
        reserved[5] |= 0x80;
        assert_eq!(Head::read(&reserved), Some(head));
        assert_eq!(Head::read(&head.bytes()[..8]), None);
        assert!(head.has(flag::END_HEADERS) && !head.has(flag::PADDED));
    }

    #[test]
    fn padding_is_taken_off_and_may_not_be_longer_than_its_frame() {
        let head = |flags| Head {
            length: 0,
            kind: kind::DATA,
            flags,
            stream: 1,
        };
        assert_eq!(unpadded(head(0), b"\x02ab"), Ok(&b"\x02ab"[..]));
        let padded = |payload| unpadded(head(flag::PADDED), payload);
        assert_eq!(padded(b"\x02abcd"), Ok(&b"ab"[..]));
        assert_eq!(padded(b"\x04abcd"), Ok(&b""[..]));
        assert!(matches!(
            padded(b"\x05abcd"),
            Err(Fault::Connection(Reason::PROTOCOL_ERROR, _))
        ));
        assert!(matches!(
            padded(b""),
            Err(Fault::Connection(Reason::FRAME_SIZE_ERROR, _))
        ));
    }

    #[test]
    fn settings_come_back() {
        let settings = Settings {
            table: Some(0),
            least_table: Some(0),
            streams: Some(128),
            window: Some(1 << 20),
            push: Some(false),
            list: Some(1 << 16),
        };
        let mut out = Vec::new();
        settings.write(&mut out);
        let head = Head::read(&out).unwrap();
        assert_eq!(
            (head.kind, head.stream, head.length),
            (kind::SETTINGS, 0, 30)
        );
        assert_eq!(Settings::read(&out[9..]), Ok(settings));
        // One that is not known is passed over, and the last word counts.
        let twice = [0, 9, 0, 0, 0, 1, 0, 3, 0, 0, 0, 7, 0, 3, 0, 0, 0, 8];
        let read = Settings::read(&twice).unwrap();
        assert_eq!(read.streams, Some(8));
    }

    #[test]
    fn settings_that_may_not_be_are_refused_by_their_own_codes() {
        for (payload, reason) in [
            (vec![0, 2, 0, 0, 0, 2], Reason::PROTOCOL_ERROR),
            (vec![0, 4, 0x80, 0, 0, 0], Reason::FLOW_CONTROL_ERROR),
            (vec![0, 5, 0, 0, 0x3f, 0xff], Reason::PROTOCOL_ERROR),
            (vec![0, 5, 1, 0, 0, 0], Reason::PROTOCOL_ERROR),
            (vec![0, 1, 0], Reason::FRAME_SIZE_ERROR),
        ] {
            let refused = Settings::read(&payload);
            assert!(
                matches!(refused, Err(Fault::Connection(why, _)) if why == reason),
                "{payload:?}: {refused:?}"
            );
        }
        for payload in [
            vec![0, 2, 0, 0, 0, 1],
            vec![0, 4, 0x7f, 0xff, 0xff, 0xff],
            vec![0, 5, 0, 0, 0x40, 0],
            vec![0, 5, 0, 0xff, 0xff, 0xff],
            vec![],
        ] {
            assert!(Settings::read(&payload).is_ok(), "{payload:?}");
        }
    }
}
