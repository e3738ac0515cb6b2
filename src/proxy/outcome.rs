//! What became of a request: gathered along the way, told once at the end.
//!
//! An [`Outcome`] travels with the response's body and is recorded when it is dropped: after the
//! last byte, or when either side went away. One record per request, whatever happened.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderValue, Method, Request, StatusCode, Uri, Version};

use crate::failure::Reason;
use crate::matching::authority::Authority;
use crate::proxy::body::{RequestBody, Upload};
use crate::proxy::conn::{Conn, InFlight};
use crate::proxy::error::Refusal;
use crate::proxy::upstream::Endpoint;
use crate::proxy::worker::Worker;
use crate::snapshot::nodes::Busy;
use crate::snapshot::{Route, Upstream};

/// The most tries that a client is told of.
const TOLD_TRIES: usize = 32;

/// What became of one request.
pub struct Outcome {
    worker: Rc<Worker>,
    in_flight: InFlight,
    started: Instant,
    /// The method.
    pub method: Method,
    /// The target as the client sent it.
    pub uri: Uri,
    /// The version the client spoke.
    pub version: Version,
    /// Whether its headers are the upstream's by now.
    pub is_prepared: bool,
    /// The name it was for, once read.
    pub authority: Option<Rc<Authority>>,
    /// The route it matched.
    pub route: Option<Arc<Route>>,
    /// Where it went.
    pub upstream: Option<Arc<Upstream>>,
    /// The node it went to last.
    pub endpoint: Option<Rc<Endpoint>>,
    /// Its place among the node's requests in flight, where they are counted.
    pub busy: Option<Busy>,
    /// The statuses of the last tries that got no answer.
    failed_tries: Vec<StatusCode>,
    /// From sending to the upstream's head.
    pub upstream_started: Option<Instant>,
    upstream_micros: Option<u64>,
    status: Option<StatusCode>,
    refusal: Option<(Reason, String)>,
    request_id: OnceCell<String>,
    upload: Rc<Upload>,
    /// The answer's head is all of it: the outcome of a gRPC call ("Trailers-Only").
    pub is_trailers_only: bool,
    /// Body bytes to the client.
    pub bytes_out: u64,
}

impl Outcome {
    /// Begins with the request, before anything of it was looked at.
    #[must_use]
    pub fn begin(worker: Rc<Worker>, in_flight: InFlight, req: &Request<RequestBody>) -> Self {
        Self {
            worker,
            in_flight,
            started: Instant::now(),
            method: req.method().clone(),
            uri: req.uri().clone(),
            version: req.version(),
            is_prepared: false,
            authority: None,
            route: None,
            upstream: None,
            endpoint: None,
            busy: None,
            failed_tries: Vec::new(),
            upstream_started: None,
            upstream_micros: None,
            status: None,
            refusal: None,
            request_id: OnceCell::new(),
            upload: req.body().upload(),
            is_trailers_only: false,
            bytes_out: 0,
        }
    }

    /// A try got no answer: a 502 or a 504, as nginx counts it, unless the node is not the cause.
    pub fn failed_try(&mut self, refusal: &Refusal) {
        let status = refusal.status();
        if status != StatusCode::BAD_GATEWAY && status != StatusCode::GATEWAY_TIMEOUT {
            return;
        }
        if self.failed_tries.len() >= TOLD_TRIES {
            self.failed_tries.remove(0);
        }
        self.failed_tries.push(status);
    }

    /// What APISIX tells in `X-APISIX-Upstream-Status`: the status of each try, if the last one's is
    /// a 5xx or all are told. `answered` is what an upstream answered, if one did.
    #[must_use]
    pub fn upstream_status(&self, answered: Option<StatusCode>) -> Option<HeaderValue> {
        let last = answered.or(self.failed_tries.last().copied())?;
        if !last.is_server_error() && !self.worker.settings.tells_upstream_status {
            return None;
        }
        let tries: Vec<&str> = self
            .failed_tries
            .iter()
            .chain(&answered)
            .map(StatusCode::as_str)
            .collect();
        HeaderValue::from_str(&tries.join(", ")).ok()
    }

    /// The connection it came over.
    #[must_use]
    pub fn conn(&self) -> &Conn {
        self.in_flight.conn()
    }

    /// The id of this request, as the client and the record get it. Made on first use.
    pub fn request_id(&self) -> &str {
        self.request_id.get_or_init(|| self.worker.ids.next())
    }

    /// Bytes came from the client that are no body's.
    pub fn received(&mut self, count: u64) {
        let received = self.upload.received.get().saturating_add(count);
        self.upload.received.set(received);
    }

    /// Bytes went to the client.
    pub fn sent(&mut self, count: u64) {
        self.bytes_out = self.bytes_out.saturating_add(count);
    }

    /// The upstream's head arrived.
    pub fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
        self.upstream_micros = self.upstream_started.map(micros);
    }

    /// The request is answered here.
    pub fn refused(&mut self, refusal: &Refusal) {
        self.status = Some(refusal.status());
        self.fail(refusal.reason, refusal.detail.clone());
    }

    /// Something failed. The first failure is the one that is told.
    pub fn fail(&mut self, reason: Reason, detail: String) {
        if self.refusal.is_none() {
            self.refusal = Some((reason, detail));
        }
    }

    /// The request ends before its answer did: the client left, or we did. `detail` is for the record.
    pub fn cut(&mut self, detail: &str) {
        let reason = if self.worker.is_over() {
            Reason::ShutDown
        } else {
            self.in_flight.conn().end_reason()
        };
        self.fail(reason, detail.to_owned());
    }

    fn record(&mut self) {
        let worker = self.worker.clone();
        if let Some(status) = self.status {
            worker.metrics.request(status.as_u16());
        }
        for (total, bytes) in [
            (&worker.metrics.body_bytes_in, self.upload.received.get()),
            (&worker.metrics.body_bytes_out, self.bytes_out),
        ] {
            if bytes > 0 {
                total.inc_by(bytes);
            }
        }
        let reason = self.refusal.as_ref().map(|(reason, _)| *reason);
        if reason.is_none() && !worker.logs_access() {
            return;
        }
        let conn = self.in_flight.conn().clone();
        let mut record = conn.record(worker.epoch_millis());
        record.request_id = Some(self.request_id());
        record.authority = self
            .authority
            .as_ref()
            .map(|authority| authority.as_str().as_bytes());
        record.method = Some(self.method.as_str());
        record.path = Some(self.uri.path().as_bytes());
        record.status = self.status.map(|status| status.as_u16());
        record.reason = reason;
        record.detail = self.refusal.as_ref().map(|(_, detail)| detail.as_str());
        record.detail = record.detail.filter(|detail| !detail.is_empty());
        record.bytes_in = self.upload.received.get();
        record.bytes_out = self.bytes_out;
        record.duration_us = micros(self.started);
        record.upstream_duration_us = self.upstream_micros;
        record.route_id = self.route.as_ref().map(|route| route.id.as_str());
        let service = self.route.as_ref().and_then(|route| route.service.as_ref());
        record.service_id = service.map(|service| service.as_str());
        record.upstream_id = self
            .upstream
            .as_ref()
            .map(|upstream| upstream.owner.id.as_str());
        record.node = self.endpoint.as_ref().map(|endpoint| &*endpoint.peer);
        let name = self
            .endpoint
            .as_ref()
            .and_then(|endpoint| endpoint.name.as_ref());
        record.upstream_sni = name.and_then(|name| name.sni());
        worker.record(&record);
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        if self.status.is_none() && self.refusal.is_none() {
            self.cut("before any answer");
        }
        self.record();
        self.in_flight.conn().end_answer();
    }
}

/// Microseconds since then.
#[must_use]
pub fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
