//! What the data plane needs of the configuration, as plain values.

use std::time::Duration;

use crate::matching::path_reading::PathReading;
use crate::matching::sni::SniName;
use crate::proxy::loops::Mark;

/// What a plain-HTTP request to a name that asks for client certificates gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuthNames {
    /// 421.
    #[default]
    Refuse,
    /// 308 to https.
    Redirect,
    /// Served, as APISIX does.
    Allow,
}

/// What nginx's own 400 for a missing or bad client certificate becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Nginx400 {
    /// 502, named.
    #[default]
    Refuse,
    /// Passed on as it is.
    Pass,
}

/// Settings of every worker.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names that ask for client certificates, over plain HTTP.
    pub client_auth_names: ClientAuthNames,
    /// Whether clients in the clear may speak HTTP/2.
    pub http2: bool,
    /// Where plain HTTP is redirected to; `None` stands for 443.
    pub https_port: Option<u16>,
    /// nginx's own 400.
    pub nginx_400: Nginx400,
    /// Whether every client is told what its upstreams said, not only of failures.
    pub tells_upstream_status: bool,
    /// Whether clients of HTTP/1.1 are told what comes before an answer.
    pub tells_http1_more: bool,
    /// How routes read paths.
    pub paths: PathReading,
    /// What tells requests that come back.
    pub mark: Mark,
    /// The name that stands for clients that send none.
    pub fallback_sni: Option<SniName>,
    /// For a whole handshake, from accept on.
    pub handshake_timeout: Duration,
    /// For a request's head, from its first byte on.
    pub header_timeout: Duration,
    /// Between two reads of a request's body, and between two writes of a response.
    pub body_timeout: Duration,
    /// For the next request on a connection.
    pub idle_timeout: Duration,
    /// The largest request head, in bytes.
    pub header_bytes: usize,
    /// The most header lines of a request over HTTP/1.1.
    pub header_lines: usize,
    /// The largest body that is read to find its request's route, in bytes.
    pub routed_body_bytes: usize,
    /// Connections a worker holds; further ones wait in the kernel.
    pub connections: usize,
    /// Idle upstream connections a worker keeps, over all upstreams.
    pub pooled: usize,
    /// How long requests in flight may go on once draining.
    pub drain: Duration,
}
