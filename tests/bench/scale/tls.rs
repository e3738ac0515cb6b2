//! A client with a certificate: handshakes, and requests over them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use openssl::pkey::PKey;
use openssl::ssl::{SslConnector, SslMethod, SslStream, SslVerifyMode, SslVersion};
use openssl::x509::X509;

use crate::Failure;
use crate::pki::Pair;

/// What it connects with.
pub(crate) struct Client(SslConnector);

impl Client {
    /// A client that shows this certificate. It does not resume.
    pub(crate) fn new(pair: &Pair) -> Result<Self, Failure> {
        let mut tls = SslConnector::builder(SslMethod::tls_client())?;
        let cert = X509::from_pem(pair.cert.as_bytes())?;
        tls.set_certificate(&cert)?;
        tls.set_private_key(PKey::private_key_from_pem(pair.key.as_bytes())?.as_ref())?;
        tls.set_min_proto_version(Some(SslVersion::TLS1_3))?;
        tls.set_ciphersuites("TLS_AES_128_GCM_SHA256")?;
        // What is shown is compared, byte by byte, where it matters.
        tls.set_verify(SslVerifyMode::NONE);
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
