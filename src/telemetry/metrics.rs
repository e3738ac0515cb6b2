//! Every metric: its name, its meaning, and handles that need no look-up where it counts.
//!
//! Names begin with `portcullis_`; labels have bounded values only, never a peer's text.

use std::sync::OnceLock;

use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::failure::Reason;
use crate::telemetry::negotiated::Negotiated;

/// The registry refused a metric, or could not show one: a defect of this file.
#[derive(Debug, thiserror::Error)]
#[error("metrics")]
pub struct MetricsError(#[from] prometheus::Error);

/// Which of our sides a handshake was on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// With a client.
    Downstream,
    /// With an upstream.
    Upstream,
}

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeEnd {
    /// Established with a full handshake.
    Full,
    /// Established by resuming a session.
    Resumed,
    /// Not established.
    Failed,
}

/// The process's metrics. Counting is one atomic addition; handles that are public fields are
/// used as they are.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    failures: Vec<IntCounter>,
    requests: IntCounterVec,
    codes: [OnceLock<IntCounter>; CODE_COUNT],
    handshakes: [IntCounter; 6],
    connections: IntGaugeVec,
    writes: IntCounterVec,
    resources: IntGaugeVec,
    secret_references: IntGaugeVec,
    secret_age: IntGaugeVec,
    secret_reads: IntCounterVec,
    build_info: IntGaugeVec,
    /// `portcullis_upstream_connections{state="active"}`.
    pub upstream_active: IntGauge,
    /// `portcullis_upstream_connections{state="idle"}`.
    pub upstream_idle: IntGauge,
    /// `portcullis_node_transitions_total{to="healthy"}`.
    pub nodes_up: IntCounter,
    /// `portcullis_node_transitions_total{to="unhealthy"}`.
    pub nodes_down: IntCounter,
    /// `portcullis_upstream_retries_total`.
    pub upstream_retries: IntCounter,
    /// `portcullis_request_body_bytes_total`.
    pub body_bytes_in: IntCounter,
    /// `portcullis_response_body_bytes_total`.
    pub body_bytes_out: IntCounter,
    /// `portcullis_handshakes_in_flight`.
    pub handshakes_in_flight: IntGauge,
    /// `portcullis_session_ticket_keys_total`.
    pub ticket_keys: IntCounter,
    /// `portcullis_snapshot_version`.
    pub snapshot_version: IntGauge,
    /// `portcullis_names_closed`.
    pub names_closed: IntGauge,
    /// `portcullis_upstream_not_verified`.
    pub upstream_not_verified: IntGauge,
    /// `portcullis_tls_contexts`.
    pub contexts: IntGauge,
    /// `portcullis_tls_context_builds_total`.
    pub context_builds: IntCounter,
    /// `portcullis_fips`.
    pub fips: IntGauge,
    /// `portcullis_fips_operational`.
    pub fips_operational: IntGauge,
    /// `portcullis_access_records_dropped_total`.
    pub access_dropped: IntCounter,
    /// What handshakes agreed on. For evidence: it is not on the page of metrics.
    pub negotiated: Negotiated,
}

const FIRST_CODE: usize = 100;
const CODE_COUNT: usize = 500;

impl Metrics {
    /// All metrics, at zero.
    ///
    /// # Errors
    /// Only a defect here: a name twice or malformed.
    pub fn new() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let make = Maker(&registry);
        let failures = make.counters(
            "failures_total",
            "Refusals and failures by reason; `a6 explain` has their meaning.",
            &["reason", "blame"],
        )?;
        let failures = Reason::ALL
            .into_iter()
            .map(|r| failures.get_metric_with_label_values(&[r.code(), r.blame().code()]))
            .collect::<Result<_, _>>()?;
        let handshakes = make.counters(
            "handshakes_total",
            "TLS handshakes ended, by side and result.",
            &["side", "result", "resumed"],
        )?;
        let end = |side, result, resumed| {
            handshakes.get_metric_with_label_values(&[side, result, resumed])
        };
        let upstream = make.gauges(
            "upstream_connections",
            "Connections to upstreams.",
            &["state"],
        )?;
        let nodes = make.counters(
            "node_transitions_total",
            "Nodes that health checks, active or passive, took out or brought back.",
            &["to"],
        )?;
        Ok(Self {
            failures,
            requests: make.counters(
                "requests_total",
                "Requests answered, by status.",
                &["code"],
            )?,
            codes: [const { OnceLock::new() }; CODE_COUNT],
            handshakes: [
                end("downstream", "ok", "false")?,
                end("downstream", "ok", "true")?,
                end("downstream", "failed", "false")?,
                end("upstream", "ok", "false")?,
                end("upstream", "ok", "true")?,
                end("upstream", "failed", "false")?,
            ],
            connections: make.gauges("connections", "Open client connections.", &["listener"])?,
            writes: make.counters(
                "writes_total",
                "Writes to the Admin API, by kind and outcome.",
                &["kind", "outcome"],
            )?,
            resources: make.gauges("resources", "Resources stored.", &["kind"])?,
            secret_references: make.gauges(
                "secret_references",
                "References to secrets by state; `a6 secret status` lists them.",
                &["state"],
            )?,
            secret_age: make.gauges(
                "secret_age_seconds",
                "How long ago a manager last had the value that is served, of the reference where \
                 that is longest.",
                &["manager"],
            )?,
            secret_reads: make.counters(
                "secret_reads_total",
                "Paths read at secret managers, by manager and result.",
                &["manager", "result"],
            )?,
            build_info: make.gauges("build_info", "Always 1.", &["version", "openssl"])?,
            upstream_active: upstream.get_metric_with_label_values(&["active"])?,
            upstream_idle: upstream.get_metric_with_label_values(&["idle"])?,
            nodes_up: nodes.get_metric_with_label_values(&["healthy"])?,
            nodes_down: nodes.get_metric_with_label_values(&["unhealthy"])?,
            upstream_retries: make
                .counter("upstream_retries_total", "Requests sent to a further node.")?,
            body_bytes_in: make
                .counter("request_body_bytes_total", "Bytes of requests' bodies.")?,
            body_bytes_out: make
                .counter("response_body_bytes_total", "Bytes of answers' bodies.")?,
            handshakes_in_flight: make
                .gauge("handshakes_in_flight", "Client handshakes being made.")?,
            ticket_keys: make.counter(
                "session_ticket_keys_total",
                "Changes of the key of session tickets.",
            )?,
            snapshot_version: make.gauge("snapshot_version", "Version of what is served.")?,
            names_closed: make
                .gauge("names_closed", "Names that an ssl claims but cannot serve.")?,
            upstream_not_verified: make.gauge(
                "upstream_not_verified",
                "TLS upstreams whose certificate is not checked (`tls.verify` is not true).",
            )?,
            contexts: make.gauge("tls_contexts", "Names whose TLS context is kept.")?,
            context_builds: make.counter("tls_context_builds_total", "TLS contexts built.")?,
            fips: make.gauge("fips", "1 when only the FIPS provider is in use.")?,
            fips_operational: make.gauge(
                "fips_operational",
                "1 while the FIPS module works; 0 in its error state, and without FIPS.",
            )?,
            access_dropped: make.counter(
                "access_records_dropped_total",
                "Access records lost because their target did not keep up.",
            )?,
            negotiated: Negotiated::default(),
            registry,
        })
    }

    /// Sets how many references to secrets are in a state.
    pub fn set_secret_references(&self, state: &str, count: i64) {
        self.secret_references
            .with_label_values(&[state])
            .set(count);
    }

    /// Sets by manager how long ago the value was confirmed that is unconfirmed for longest; no
    /// other manager has one.
    pub fn set_secret_ages<'a>(&self, ages: impl IntoIterator<Item = (&'a str, i64)>) {
        self.secret_age.reset();
        for (manager, seconds) in ages {
            self.secret_age.with_label_values(&[manager]).set(seconds);
        }
    }

    /// Counts a path that was read at a secret manager.
    pub fn secret_read(&self, manager: &str, result: &str) {
        self.secret_reads
            .with_label_values(&[manager, result])
            .inc();
    }

    /// Counts a failure.
    pub fn failure(&self, reason: Reason) {
        if let Some(counter) = self.failures.get(reason.index()) {
            counter.inc();
        }
    }

    /// Counts an answered request; a status out of HTTP's range is not counted.
    pub fn request(&self, status: u16) {
        let index = usize::from(status).checked_sub(FIRST_CODE);
        if let Some(slot) = index.and_then(|index| self.codes.get(index)) {
            // The first request of a status pays for the look-up.
            slot.get_or_init(|| self.requests.with_label_values(&[&status.to_string()]))
                .inc();
        }
    }

    /// Counts a handshake that ended.
    pub fn handshake(&self, side: Side, end: HandshakeEnd) {
        let index = match (side, end) {
            (Side::Downstream, HandshakeEnd::Full) => 0,
            (Side::Downstream, HandshakeEnd::Resumed) => 1,
            (Side::Downstream, HandshakeEnd::Failed) => 2,
            (Side::Upstream, HandshakeEnd::Full) => 3,
            (Side::Upstream, HandshakeEnd::Resumed) => 4,
            (Side::Upstream, HandshakeEnd::Failed) => 5,
        };
        if let Some(counter) = self.handshakes.get(index) {
            counter.inc();
        }
    }

    /// The gauge of one listener's open connections. Looks it up: keep the handle.
    #[must_use]
    pub fn connections(&self, listener: &str) -> IntGauge {
        self.connections.with_label_values(&[listener])
    }

    /// Counts a write to the Admin API; `outcome` is one of our words, e.g. `accepted`.
    pub fn write(&self, kind: &str, outcome: &str) {
        self.writes.with_label_values(&[kind, outcome]).inc();
    }

    /// Sets how many resources of a kind are stored.
    pub fn set_resources(&self, kind: &str, count: usize) {
        self.resources
            .with_label_values(&[kind])
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Says which versions run.
    pub fn set_build_info(&self, version: &str, openssl: &str) {
        self.build_info
            .with_label_values(&[version, openssl])
            .set(1);
    }

    /// All metrics in the text format of Prometheus, version 0.0.4
    /// (`text/plain; version=0.0.4`).
    ///
    /// # Errors
    /// Only a defect here.
    pub fn render(&self) -> Result<String, MetricsError> {
        Ok(TextEncoder::new().encode_to_string(&self.registry.gather())?)
    }
}

/// Makes metrics and registers them.
struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, MetricsError> {
        self.register(IntCounterVec::new(opts(name, help), labels)?)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, MetricsError> {
        self.register(IntCounter::with_opts(opts(name, help))?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, MetricsError> {
        self.register(IntGaugeVec::new(opts(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, MetricsError> {
        self.register(IntGauge::with_opts(opts(name, help))?)
    }

    fn register<M: Collector + Clone + 'static>(&self, metric: M) -> Result<M, MetricsError> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("portcullis")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_there_from_the_start() {
        let text = Metrics::new().unwrap().render().unwrap();
        for reason in Reason::ALL {
            let line = format!(
                "portcullis_failures_total{{blame=\"{}\",reason=\"{reason}\"}} 0\n",
                reason.blame()
            );
            assert!(text.contains(&line), "{line}");
        }
    }

    #[test]
    fn what_happens_is_counted() {
        let metrics = Metrics::new().unwrap();
        metrics.failure(Reason::SniUnknown);
        metrics.request(200);
        metrics.request(200);
        metrics.handshake(Side::Upstream, HandshakeEnd::Resumed);
        metrics.connections("https").inc();
        metrics.write("ssls", "accepted");
        metrics.set_resources("ssls", 3);
        metrics.set_build_info("0.1.0", "OpenSSL 3.0.0");
        metrics.upstream_not_verified.set(2);
        let text = metrics.render().unwrap();
        for line in [
            "portcullis_failures_total{blame=\"client\",reason=\"sni_unknown\"} 1",
            "portcullis_requests_total{code=\"200\"} 2",
            "portcullis_handshakes_total{result=\"ok\",resumed=\"true\",side=\"upstream\"} 1",
            "portcullis_connections{listener=\"https\"} 1",
            "portcullis_writes_total{kind=\"ssls\",outcome=\"accepted\"} 1",
            "portcullis_resources{kind=\"ssls\"} 3",
            "portcullis_build_info{openssl=\"OpenSSL 3.0.0\",version=\"0.1.0\"} 1",
            "portcullis_upstream_not_verified 2",
            "# TYPE portcullis_requests_total counter",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn status_out_of_range_is_not_counted() {
        let metrics = Metrics::new().unwrap();
        metrics.request(0);
        metrics.request(99);
        metrics.request(600);
        assert!(
            !metrics
                .render()
                .unwrap()
                .contains("portcullis_requests_total{")
        );
        metrics.request(100);
        metrics.request(599);
        assert!(
            metrics
                .render()
                .unwrap()
                .contains("portcullis_requests_total{code=\"599\"} 1")
        );
    }
}
