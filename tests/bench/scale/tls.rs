//! A client with a certificate: handshakes, and requests over them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use openssl::pkey::PKey;
use openssl::ssl::{SslConnector, SslMethod, SslStream, SslVerifyMode, SslVersion};
use openssl::x509::X509;

use crate::Failure;
use crate::pki::Pair;

/// What a client speaks.
#[derive(Clone, Copy)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// What it connects with.
pub(crate) struct Client(SslConnector);

impl Client {
    /// A client that shows this certificate. It does not resume.
    pub(crate) fn new(pair: &Pair, protocol: Protocol) -> Result<Self, Failure> {
        let mut tls = SslConnector::builder(SslMethod::tls_client())?;
        let cert = X509::from_pem(pair.cert.as_bytes())?;
        tls.set_certificate(&cert)?;
        tls.set_private_key(PKey::private_key_from_pem(pair.key.as_bytes())?.as_ref())?;
        tls.set_min_proto_version(Some(SslVersion::TLS1_3))?;
        tls.set_ciphersuites("TLS_AES_128_GCM_SHA256")?;
        // What is shown is compared, byte by byte, where it matters.
        tls.set_verify(SslVerifyMode::NONE);
        if let Protocol::Http2 = protocol {
            tls.set_alpn_protos(b"\x02h2")?;
        }
        Ok(Self(tls.build()))
    }

    /// A connection to a name.
    pub(crate) fn connect(
        &self,
        address: SocketAddr,
        name: &str,
    ) -> Result<SslStream<TcpStream>, Failure> {
        let tcp = TcpStream::connect(address)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(Duration::from_secs(30)))?;
        let connected = self.0.configure()?.connect(name, tcp);
        connected.map_err(|error| format!("{name}: {error}").into())
    }

    /// The certificate that a name shows, as PEM.
    pub(crate) fn shown(&self, address: SocketAddr, name: &str) -> Result<String, Failure> {
        let stream = self.connect(address, name)?;
        let shown = stream.ssl().peer_certificate().ok_or("no certificate")?;
        Ok(String::from_utf8(shown.to_pem()?)?)
    }
}

/// One request over a connection that is kept; its body, which must come with a 200.
pub(crate) fn request(
    stream: &mut (impl Read + Write),
    host: &str,
    path: &str,
) -> Result<Vec<u8>, Failure> {
    let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut answer = Vec::with_capacity(1024);
    let mut part = [0; 4096];
    loop {
        let count = stream.read(&mut part)?;
        if count == 0 {
            return Err("the connection ended before the answer did".into());
        }
        answer.extend_from_slice(part.get(..count).unwrap_or_default());
        let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(answer.get(..end).unwrap_or_default()).into_owned();
        if !head.starts_with("HTTP/1.1 200 ") {
            return Err(
                format!("{host}{path}: {}", head.lines().next().unwrap_or_default()).into(),
            );
        }
        let length = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .ok_or("an answer without Content-Length")?;
        if answer.len() >= end + 4 + length.1.trim().parse::<usize>()? {
            return Ok(answer.split_off(end + 4));
        }
    }
}

/// One GET of `/` over a fresh connection of HTTP/2 that is kept; its answer's status must be 200.
pub(crate) fn request_http2(
    stream: &mut (impl Read + Write),
    authority: &str,
) -> Result<(), Failure> {
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const END_STREAM: u8 = 1;
    // `:method` GET, `:scheme` https, `:path` / by their places in the static table, and `:authority`
    // written out (RFC 7541 appendix A).
    let mut block = vec![0x82, 0x87, 0x84, 0x41, u8::try_from(authority.len())?];
    block.extend_from_slice(authority.as_bytes());
    let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    said.extend_from_slice(&frame(SETTINGS, 0, 0, b"")?);
    // With END_HEADERS.
    said.extend_from_slice(&frame(HEADERS, 4 | END_STREAM, 1, &block)?);
    stream.write_all(&said)?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let [a, b, c, kind, flags, ..] = head;
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c]))?];
        stream.read_exact(&mut payload)?;
        match kind {
            // `:status` 200 is in the static table, too.
            HEADERS if payload.first() != Some(&0x88) => return Err("no 200 came".into()),
            SETTINGS if flags == 0 => stream.write_all(&frame(SETTINGS, 1, 0, b"")?)?,
            _ => {}
        }
        if kind <= HEADERS && flags & END_STREAM != 0 {
            return Ok(());
        }
    }
}

/// A frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<Vec<u8>, Failure> {
    let [_, a, b, c] = u32::try_from(payload.len())?.to_be_bytes();
    let mut frame = vec![a, b, c, kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    Ok(frame)
}
