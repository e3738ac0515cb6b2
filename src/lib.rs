//! Portcullis: an OpenSSL-backed API gateway for mutual TLS.
//!
//! This page is the map; `ARCHITECTURE.md` has the rooms' purposes and what may import what.
//!
//! # From accept to response
//!
//! [`net::listener`] accepts, [`net::handshake`] shakes hands a bounded step at a time, and inside
//! it [`tls::select`] asks [`snapshot::choose`] which name is meant. [`tls::peer`] checks the policy
//! after every accept. [`proxy::connection`] then serves requests: [`proxy::request`] reads the
//! [`proxy::authority`], has it judged by [`proxy::authorize`], finds the route in the
//! [`snapshot::Snapshot`], picks a node, and sends through [`proxy::exchange`] over a connection of
//! [`proxy::pool`] or one that [`net::dial`] opens. [`proxy::outcome`] makes the one record.
//!
//! # From PUT to live
//!
//! [`admin`] checks the key and reads the document, [`control::Control::put`] does the rest:
//! [`secrets::custody`] fills in kept keys, [`resource`] turns the document into a typed value or
//! all its faults, [`snapshot::compile`] compiles it, [`tls::proof`] shakes hands with it in memory,
//! [`store`] keeps it with its audit record, and [`snapshot::live`] publishes. Only then the reply.

pub mod admin;
pub mod cli;
pub mod config;
pub mod control;
pub mod crypto;
pub mod failure;
pub mod http2;
pub mod matching;
pub mod net;
pub mod plugins;
pub mod proxy;
pub mod resource;
pub mod secrets;
pub mod snapshot;
pub mod store;
pub mod telemetry;
pub mod tls;

/// What a secret went through is wiped when it is given back.
#[global_allocator]
static ALLOCATOR: crypto::memory::WipingAllocator = crypto::memory::WipingAllocator;
