//! Peers that speak HTTP/2 frame by frame (RFC 9113 §4.1), to do what no library does.

use std::io::{self, Read, Write};
use std::net::TcpStream;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;

/// A flag of DATA and HEADERS.
pub(crate) const END_STREAM: u8 = 1;
/// A flag of HEADERS.
pub(crate) const END_HEADERS: u8 = 4;
/// A flag of SETTINGS and PING.
pub(crate) const ACK: u8 = 1;

/// The client's preface, and settings that say nothing.
pub(crate) const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// `:status: 200` (RFC 7541 §6.1).
pub(crate) const OK: u8 = 0x88;
/// `:status: 400`.
pub(crate) const BAD_REQUEST: u8 = 0x8c;

/// A frame, without its flags.
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// Reads a frame.
pub(crate) fn read_frame(from: &mut impl Read) -> io::Result<Frame> {
    let mut head = [0; 9];
    from.read_exact(&mut head)?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    from.read_exact(&mut payload)?;
    Ok(Frame {
        kind: head[3],
        stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
        payload,
    })
}

/// A frame as it is sent.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An upstream's end of a connection.
pub(crate) struct Server(TcpStream);

impl Server {
    /// Says hello with these settings.
    pub(crate) fn greet(tcp: TcpStream, settings: &[(u8, u32)]) -> io::Result<Self> {
        let mut server = Self(tcp);
        let mut preface = [0; 24];
        server.0.read_exact(&mut preface)?;
        server.set(settings)?;
        server.send(SETTINGS, ACK, 0, &[])?;
        Ok(server)
    }

    /// Changes settings.
    pub(crate) fn set(&mut self, settings: &[(u8, u32)]) -> io::Result<()> {
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend([0, *name]);
            payload.extend(value.to_be_bytes());
        }
        self.send(SETTINGS, 0, 0, &payload)
    }

    pub(crate) fn send(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> io::Result<()> {
        self.0.write_all(&frame(kind, flags, stream, payload))
    }

    /// Sends bytes as they stand.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    /// Answers a request by a head alone, of status 200.
    pub(crate) fn answer(&mut self, stream: u32) -> io::Result<()> {
        self.send(HEADERS, END_HEADERS | END_STREAM, stream, &[OK])
    }

    /// The next frame that the gateway sends.
    pub(crate) fn any(&mut self) -> io::Result<Frame> {
        read_frame(&mut self.0)
    }

    /// The next frame of a kind; an error at the connection's end.
    pub(crate) fn next(&mut self, kind: u8) -> io::Result<Frame> {
        loop {
            let frame = self.any()?;
            if frame.kind == kind {
                return Ok(frame);
            }
        }
    }
}

/// A field of a header block, literal and without Huffman code (RFC 7541 §6.2.2).
pub(crate) fn line(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).unwrap();
    let mut line = vec![0, length(name)];
    line.extend(name.as_bytes());
    line.push(length(value));
    line.extend(value.as_bytes());
    line
}
