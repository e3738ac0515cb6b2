//! A client that writes what it is told, byte for byte, and reads answer after answer from one
//! connection: for what `curl` puts right on its own.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::SOON;
use super::tls::{TlsClient, TlsConn, open, uninterrupted};

/// One connection to a port here.
pub(crate) struct RawClient {
    io: BufReader<Wire>,
}

enum Wire {
    Plain(TcpStream),
    Tls(TlsConn),
}

/// An answer as it came.
#[derive(Clone)]
pub(crate) struct RawReply {
    pub(crate) status: u16,
    /// Status line and headers, with the empty line.
    pub(crate) head: String,
    /// The content, chunks put together.
    pub(crate) body: Vec<u8>,
    /// The lines behind its chunks.
    pub(crate) trailers: String,
    /// Whether the body came to the end that its head announced.
    pub(crate) is_whole: bool,
}

impl RawClient {
    #[track_caller]
    pub(crate) fn connect(port: u16) -> Self {
        Self::over(Wire::Plain(open(port)))
    }

    /// Connects and shakes hands.
    #[track_caller]
    pub(crate) fn connect_tls(client: &TlsClient) -> Self {
        let conn = client.connect().expect("the handshake succeeds");
        Self::over(Wire::Tls(conn))
    }

    fn over(wire: Wire) -> Self {
        let client = Self {
            io: BufReader::new(wire),
        };
        let nodelay = client.tcp().set_nodelay(true);
        nodelay.expect("a socket takes its options");
        client
    }

    fn tcp(&self) -> &TcpStream {
        match self.io.get_ref() {
            Wire::Plain(tcp) => tcp,
            Wire::Tls(tls) => tls.tcp(),
        }
    }

    /// Writes bytes as they stand. What a peer that closed does to them is seen when reading.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        drop(self.io.get_mut().write_all(bytes.as_ref()));
    }

    /// Sends a GET of HTTP/1.1 and reads the answer; `more` are further header lines.
    #[track_caller]
    pub(crate) fn get(&mut self, host: &str, target: &str, more: &[&str]) -> RawReply {
        self.send(request("GET", host, target, more));
        self.read_reply()
    }

    /// Reads the answer to a request that asked for a body.
    #[track_caller]
    pub(crate) fn read_reply(&mut self) -> RawReply {
        let reply = self.read_bodiless();
        self.read_rest(reply)
    }

    /// Reads the body of an answer whose head was read.
    pub(crate) fn read_rest(&mut self, mut reply: RawReply) -> RawReply {
        reply.is_whole = self.read_body(&mut reply).is_ok();
        reply
    }

    /// Reads an answer that ends with its head: to HEAD, or 100, 204, 304.
    #[track_caller]
    pub(crate) fn read_bodiless(&mut self) -> RawReply {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            match self.io.read_line(&mut head) {
                Ok(count) if count > 0 => {}
                ended => panic!("no answer: {ended:?} after {head:?}"),
            }
        }
        RawReply {
            status: head
                .split(' ')
                .nth(1)
                .and_then(|s| s.parse().ok())
                .unwrap_or(0),
            head,
            body: Vec::new(),
            trailers: String::new(),
            is_whole: true,
        }
    }

    fn read_body(&mut self, reply: &mut RawReply) -> io::Result<()> {
        let RawReply { head, body, .. } = reply;
        if header(head, "transfer-encoding").is_some() {
            return self.read_chunks(body, &mut reply.trailers);
        }
        let Some(length) = header(head, "content-length") else {
            return self.io.read_to_end(body).map(drop);
        };
        let length = length.parse().map_err(io::Error::other)?;
        self.read_exactly(length, body)
    }

    fn read_chunks(&mut self, body: &mut Vec<u8>, trailers: &mut String) -> io::Result<()> {
        loop {
            let mut line = String::new();
            self.io.read_line(&mut line)?;
            let length = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            if length == 0 {
                return self.read_trailers(trailers);
            }
            self.read_exactly(length, body)?;
            self.read_exactly(2, &mut Vec::new())?;
        }
    }

    fn read_trailers(&mut self, trailers: &mut String) -> io::Result<()> {
        loop {
            let mut line = String::new();
            match self.io.read_line(&mut line)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                _ if line == "\r\n" => return Ok(()),
                _ => trailers.push_str(&line),
            }
        }
    }

    fn read_exactly(&mut self, length: u64, to: &mut Vec<u8>) -> io::Result<()> {
        let read = (&mut self.io).take(length).read_to_end(to)?;
        if u64::try_from(read).expect("a length") == length {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// Reads this many bytes, or what came before the end.
    pub(crate) fn read_text(&mut self, length: u64) -> String {
        let mut bytes = Vec::new();
        drop(self.read_exactly(length, &mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Says that it writes no more, and reads on.
    pub(crate) fn end_writing(&mut self) {
        if let Wire::Tls(tls) = self.io.get_mut() {
            tls.say_goodbye();
        }
        let ended = self.tcp().shutdown(Shutdown::Write);
        ended.expect("a socket can be shut down");
    }

    /// Breaks the connection off by a reset.
    pub(crate) fn vanish(self) {
        let linger = socket2::SockRef::from(self.tcp()).set_linger(Some(Duration::ZERO));
        linger.expect("a socket takes its options");
    }

    /// A second handle on its socket.
    pub(crate) fn socket(&self) -> TcpStream {
        self.tcp().try_clone().expect("a socket has two handles")
    }

    /// Waits for bytes for at most `within`; whether some came, or the end.
    pub(crate) fn read_some_within(&mut self, within: Duration) -> bool {
        self.limit_reads(within);
        let came = self.io.fill_buf().is_ok();
        self.limit_reads(SOON);
        came
    }

    fn limit_reads(&self, within: Duration) {
        let limited = self.tcp().set_read_timeout(Some(within));
        limited.expect("a socket takes its options");
    }

    /// Whether the peer ends the connection soon, with nothing more to say.
    pub(crate) fn is_ended(&mut self) -> bool {
        let mut rest = [0];
        match self.io.read(&mut rest) {
            Ok(count) => count == 0,
            Err(error) => !matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
            ),
        }
    }
}

impl RawReply {
    /// The first value of a header, names compared without case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The same reply, after making sure of its status and that it is whole.
    #[track_caller]
    pub(crate) fn expect_status(self, status: u16) -> Self {
        assert_eq!((self.status, self.is_whole), (status, true), "{self:?}");
        self
    }
}

/// A request of HTTP/1.1 without a body.
pub(crate) fn request(method: &str, host: &str, target: &str, more: &[&str]) -> String {
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n");
    for line in more {
        text.push_str(line);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    text
}

/// The first value of a header in a message's head, names compared without case.
pub(crate) fn header<'head>(head: &'head str, name: &str) -> Option<&'head str> {
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

impl fmt::Debug for RawReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text();
        let (shown, cut) = (text.chars().take(2000), text.len() > 2000);
        write!(f, "{}{}", self.head, shown.collect::<String>())?;
        let state = if self.is_whole { "whole" } else { "not whole" };
        write!(
            f,
            "{} ({} bytes, {state})",
            if cut { "…" } else { "" },
            text.len()
        )
    }
}

impl Read for RawClient {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.io.read(buf)
    }
}

impl Write for RawClient {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.io.get_mut().write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.io.get_mut().flush()
    }
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => uninterrupted(|| tcp.read(buf)),
            Self::Tls(tls) => tls.bytes().read(buf),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(buf),
            Self::Tls(tls) => tls.bytes().write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.flush(),
            Self::Tls(tls) => tls.bytes().flush(),
        }
    }
}
