//! OpenSSL at its barest: FIPS start, digests, MACs, AEAD, signatures, randomness, and every FFI call.
//!
//! With `tls`, the only room that names the `openssl` crate. It knows nothing of TLS policy,
//! resources or configuration, and it makes no choice: one digest, one MAC, one AEAD.
//!
//! Every operation goes through an OpenSSL provider, so that in FIPS mode the module does the work;
//! the low-level calls that bypass providers are banned by lint.
//!
//! | module | what it holds |
//! |---|---|
//! | [`fips`] | how OpenSSL is started, with or without the FIPS module, and what is proved about it |
//! | `offer` | what is there without the FIPS module |
//! | [`libraries`] | which libraries this process runs code of |
//! | [`dependencies`] | the cryptographic crates of this build |
//! | [`digest`] | SHA-256, and its framing for several fields |
//! | [`mac`] | HMAC-SHA256 |
//! | [`memory`] | the process's own memory: wiped when it is given back, locked |
//! | [`aead`] | AES-256-GCM for secrets at rest |
//! | [`cbc`] | AES-CBC, decryption only, for what APISIX has sealed |
//! | [`symmetric`] | what can be told of keys of these two |
//! | [`sign`] | signatures with SHA-256, for evidence |
//! | [`rand`] | random bytes and identifiers |
//! | [`compare`] | comparing secrets in constant time |
//! | [`error`] | the failure of an OpenSSL call |
//! | [`sys`] | all `unsafe` of the package |

pub mod aead;
pub mod cbc;
pub mod compare;
pub mod dependencies;
pub mod digest;
pub mod error;
pub mod fips;
pub mod libraries;
pub mod mac;
pub mod memory;
mod offer;
pub mod rand;
pub mod sign;
pub mod symmetric;
pub mod sys;

/// The full version line of the libcrypto in use, such as `OpenSSL 3.0.17 1 Jul 2025`.
///
/// Initialises nothing: may be called before the start of [`fips`].
#[must_use]
pub fn version() -> &'static str {
    openssl::version::version()
}
