//! Frames of WebSocket (RFC 6455) and a server that sends back what it gets: as much of the protocol
//! as a peer needs that is to see whether every byte arrives.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};

use openssl::base64;
use openssl::hash::{MessageDigest, hash};

use super::origin::{TcpOrigin, read_head_from};
use super::pki::Pair;
use super::raw::header;

pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// What a client asks with, and the answer to its key (RFC 6455 §1.3).
pub(crate) const QUESTION: [&str; 4] = [
    "Connection: keep-alive, Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];
pub(crate) const ACCEPTED: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A frame: a message, or a part of one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    /// Whether it is the last of its message (FIN).
    pub(crate) is_last: bool,
    pub(crate) payload: Vec<u8>,
}

/// Writes a message in one frame; clients mask theirs.
pub(crate) fn write(to: &mut impl Write, kind: u8, payload: &[u8], masked: bool) -> io::Result<()> {
    write_part(to, kind, true, payload, masked)
}

/// Writes a frame.
pub(crate) fn write_part(
    to: &mut impl Write,
    kind: u8,
    is_last: bool,
    payload: &[u8],
    masked: bool,
) -> io::Result<()> {
    let mask_bit = if masked { 0x80 } else { 0 };
    let mut frame = vec![if is_last { 0x80 | kind } else { kind }];
    match payload.len() {
        short @ 0..=125 => frame.push(mask_bit | u8::try_from(short).unwrap()),
        medium @ 126..=0xffff => {
            frame.push(mask_bit | 126);
            frame.extend_from_slice(&u16::try_from(medium).unwrap().to_be_bytes());
        }
        long => {
            frame.push(mask_bit | 127);
            frame.extend_from_slice(&u64::try_from(long).unwrap().to_be_bytes());
        }
    }
    if masked {
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        frame.extend_from_slice(&mask);
        let masked = payload.iter().zip(mask.iter().cycle());
        frame.extend(masked.map(|(byte, mask)| byte ^ mask));
    } else {
        frame.extend_from_slice(payload);
    }
    to.write_all(&frame)
}

/// Reads a frame and takes its mask off.
pub(crate) fn read(from: &mut impl Read) -> io::Result<Frame> {
    let [first, second] = take(from)?;
    let length = match second & 0x7f {
        126 => u64::from(u16::from_be_bytes(take(from)?)),
        127 => u64::from_be_bytes(take(from)?),
        short => u64::from(short),
    };
    let mask: [u8; 4] = if second & 0x80 == 0 {
        [0; 4]
    } else {
        take(from)?
    };
    let mut payload = Vec::new();
    if from.take(length).read_to_end(&mut payload)? as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    Ok(Frame {
        kind: first & 0x0f,
        is_last: first & 0x80 != 0,
        payload,
    })
}

fn take<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A server that goes over to WebSocket when asked and sends every frame back. What does not ask
/// gets a 426 on a connection that stays.
pub(crate) struct EchoOrigin {
    origin: TcpOrigin,
    heads: Arc<Mutex<Vec<String>>>,
}

impl EchoOrigin {
    pub(crate) fn plain() -> Self {
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&heads);
        let origin = TcpOrigin::serving(move |conn| drop(talk(conn, &seen)));
        Self { origin, heads }
    }

    pub(crate) fn tls(pair: &Pair) -> Self {
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&heads);
        let origin = TcpOrigin::serving_tls(pair, move |conn| drop(talk(conn, &seen)));
        Self { origin, heads }
    }

    pub(crate) fn node(&self) -> String {
        self.origin.node()
    }

    /// The request heads it got, oldest first.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn talk(mut conn: impl Read + Write, heads: &Mutex<Vec<String>>) -> io::Result<()> {
    loop {
        let head = read_head_from(&mut conn);
        if !head.ends_with("\r\n\r\n") {
            return Ok(());
        }
        heads.lock().unwrap().push(head.clone());
        let asks = header(&head, "upgrade").is_some_and(|up| up.eq_ignore_ascii_case("websocket"));
        if let Some(key) = header(&head, "sec-websocket-key").filter(|_| asks) {
            let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
            let accept = hash(MessageDigest::sha1(), text.as_bytes()).unwrap();
            let accept = base64::encode_block(&accept);
            write!(
                conn,
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                 Connection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            )?;
            return echo(conn);
        }
        conn.write_all(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 4\r\n\r\nask\n")?;
    }
}

fn echo(mut conn: impl Read + Write) -> io::Result<()> {
    loop {
        let frame = read(&mut conn)?;
        let kind = if frame.kind == PING { PONG } else { frame.kind };
        write_part(&mut conn, kind, frame.is_last, &frame.payload, false)?;
        if kind == CLOSE {
            return Ok(());
        }
    }
}
