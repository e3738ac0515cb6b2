//! Integration tests: they start the real binary against real peers.
//!
//! One binary, a module per capability. Needs `nginx`, `curl` and `openssl` on the machine, which
//! `make install` sees to.
#![allow(
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test that meets the unexpected ends there, with its message"
)]

mod a6;
mod admin_access;
mod admin_api;
mod backup;
mod balance;
mod canary;
mod claims;
mod cli;
mod client_mtls;
mod config;
mod custody;
mod dns;
mod early_answers;
mod faults;
mod fips;
mod fips_build;
mod fips_clients;
mod fips_environment;
mod fips_failure;
mod fips_report;
mod grpc;
mod handshakes;
mod headers;
mod health;
mod hostile_http2;
mod hot_reload;
mod http2;
mod interim;
mod layering;
mod leaving;
mod loops;
mod multiplexing;
mod nginx_differential;
mod persistence;
mod policy;
mod protocols;
mod proxy_rewrite;
mod residue;
mod resumption;
mod retries;
mod revocation;
mod rotate_key;
mod rotation;
mod routed_bodies;
mod routing;
mod scan;
mod secrets;
mod shutdown;
mod sni;
mod standalone;
mod status;
mod stig;
mod streaming;
#[allow(
    dead_code,
    reason = "the house's tools; not every one is in use at every time"
)]
mod support;
mod trailers;
mod troubleshooting;
mod truncation;
mod upgrades;
mod upstream_identities;
mod upstream_mtls;
mod upstream_names;
mod variables;
