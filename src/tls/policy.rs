//! What a name asks of its clients, and what every context permits.
//!
//! Plain values: nothing here touches a connection. `context` and `select` apply them.

mod offer;

use std::ffi::CStr;

use openssl::error::ErrorStack;
use openssl::ssl::SslVersion;

use crate::crypto::fips::{self, Mode};
use crate::tls::material::Digest;

pub use offer::{Offer, OfferError, unapproved};

/// What a name asks of a client's certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ClientAuth {
    /// Nothing is asked.
    #[default]
    Off,
    /// A good certificate, or the handshake is refused.
    Required,
    /// Asked for in the handshake, enforced on each request with nginx's 400, refusing by default.
    Deferred,
    /// A missing certificate passes, a bad one is refused in the handshake.
    Optional,
}

/// What one name asks of its clients: everything that decides whether a client is believed.
///
/// # Defaults
/// [`ClientPolicy::off`]: nothing is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientPolicy {
    /// What is asked.
    pub mode: ClientAuth,
    /// How many intermediates may stand between the client's certificate and the trusted CA.
    /// Counted as `SSL_CTX_set_verify_depth(3)` counts them: 0 = issued by the CA itself.
    pub depth: u32,
    /// Digest of the CA bundle (`CaBundle::digest`); `None` exactly when `mode` is `Off`.
    pub ca: Option<Digest>,
    /// Digest of the revocation lists that the whole chain is held against (`Crls::digest`).
    pub crl: Option<Digest>,
    /// Path patterns whose requests need no certificate (`skip_mtls_uri_regex`), as written.
    pub skip: Vec<String>,
    /// SHA-256 over all of the above. Equal digests mean equal demands, whatever the object.
    pub digest: Digest,
}

impl ClientPolicy {
    /// The policy that asks for nothing.
    #[must_use]
    pub fn off() -> Self {
        Self {
            mode: ClientAuth::Off,
            depth: 0,
            ca: None,
            crl: None,
            skip: Vec::new(),
            digest: [0; 32],
        }
    }

    /// A policy with its digest.
    ///
    /// # Errors
    /// OpenSSL's own, from hashing.
    pub fn new(
        mode: ClientAuth,
        depth: u32,
        ca: Digest,
        skip: Vec<String>,
    ) -> Result<Self, ErrorStack> {
        let mut text = vec![match mode {
            ClientAuth::Off => return Ok(Self::off()),
            ClientAuth::Required => 1,
            ClientAuth::Deferred => 2,
            ClientAuth::Optional => 3,
        }];
        text.extend_from_slice(&depth.to_be_bytes());
        text.extend_from_slice(&ca);
        for pattern in &skip {
            text.extend_from_slice(
                &u64::try_from(pattern.len())
                    .unwrap_or(u64::MAX)
                    .to_be_bytes(),
            );
            text.extend_from_slice(pattern.as_bytes());
        }
        let digest = super::material::sha256(&text)?;
        Ok(Self {
            mode,
            depth,
            ca: Some(ca),
            crl: None,
            skip,
            digest,
        })
    }

    /// The same policy with revocation lists: another one with each other text of theirs, so that
    /// what was established under the former is judged again.
    ///
    /// # Errors
    /// OpenSSL's own, from hashing.
    pub fn with_crl(self, crl: Digest) -> Result<Self, ErrorStack> {
        if !self.asks() {
            return Ok(self);
        }
        let digest = super::material::sha256(&[self.digest, crl].concat())?;
        Ok(Self {
            crl: Some(crl),
            digest,
            ..self
        })
    }

    /// Whether a client's certificate is asked for at all.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.mode != ClientAuth::Off
    }
}

/// The session id context of a connection: SHA-256(ssl id ‖ policy ‖ server name).
///
/// A session opened under another id, policy or name is never resumed: libssl compares the whole
/// (`SSL_CTX_set_session_id_context(3)`), and resumption does not verify again. What concerns the
/// name is RFC 6066 §3; `None` is the name of who sent none.
///
/// # Errors
/// OpenSSL's own, from hashing.
pub fn session_id_context(
    ssl_id: &str,
    policy: &ClientPolicy,
    name: Option<&[u8]>,
) -> Result<Digest, ErrorStack> {
    let mut text = Vec::with_capacity(ssl_id.len() + 34 + name.map_or(0, <[u8]>::len));
    text.extend_from_slice(ssl_id.as_bytes());
    text.push(0);
    text.extend_from_slice(&policy.digest);
    text.push(u8::from(name.is_some()));
    text.extend_from_slice(name.unwrap_or_default());
    super::material::sha256(&text)
}

/// The permitted TLS versions of one name or upstream.
///
/// # Defaults
/// TLS 1.2 to TLS 1.3. Older versions are never permitted (RFC 8996).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Versions {
    /// The lowest.
    pub min: TlsVersion,
    /// The highest.
    pub max: TlsVersion,
}

impl Default for Versions {
    fn default() -> Self {
        Self {
            min: TlsVersion::V1_2,
            max: TlsVersion::V1_3,
        }
    }
}

/// A TLS version that may be permitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsVersion {
    /// TLS 1.2, RFC 5246.
    V1_2,
    /// TLS 1.3, RFC 8446.
    V1_3,
}

impl TlsVersion {
    /// OpenSSL's name, as in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1_2 => "TLSv1.2",
            Self::V1_3 => "TLSv1.3",
        }
    }
}

impl From<TlsVersion> for SslVersion {
    fn from(version: TlsVersion) -> Self {
        match version {
            TlsVersion::V1_2 => Self::TLS1_2,
            TlsVersion::V1_3 => Self::TLS1_3,
        }
    }
}

/// Suites, groups and signature algorithms that a context permits.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// TLS 1.2 ciphers, OpenSSL's names.
    pub ciphers: &'static str,
    /// TLS 1.3 suites.
    pub suites: &'static str,
    /// Key-exchange groups.
    pub groups: &'static CStr,
    /// Signature algorithms.
    pub sigalgs: &'static str,
}

/// What this process permits: the FIPS profile in FIPS mode.
#[must_use]
pub fn profile() -> &'static Profile {
    Profile::of(fips::mode())
}

impl Profile {
    /// What a process in this mode permits.
    #[must_use]
    pub const fn of(mode: Mode) -> &'static Self {
        match mode {
            Mode::Default => &DEFAULT_PROFILE,
            Mode::Fips => &FIPS_PROFILE,
        }
    }
}

/// Forward secrecy and AEAD only; the order is the server's preference.
pub const DEFAULT_PROFILE: Profile = Profile {
    ciphers: "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:\
              ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:\
              ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305",
    suites: "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256",
    groups: c"X25519:P-256:P-384:P-521",
    sigalgs: "ECDSA+SHA256:ECDSA+SHA384:ECDSA+SHA512:ed25519:RSA-PSS+SHA256:RSA-PSS+SHA384:\
              RSA-PSS+SHA512:RSA+SHA256:RSA+SHA384:RSA+SHA512",
};

/// What the FIPS provider 3.1.2 approves. X25519 is left out although that provider offers it.
pub const FIPS_PROFILE: Profile = Profile {
    ciphers: "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:\
              ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256",
    suites: "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256",
    groups: c"P-256:P-384:P-521",
    sigalgs: "ECDSA+SHA256:ECDSA+SHA384:ECDSA+SHA512:RSA-PSS+SHA256:RSA-PSS+SHA384:RSA-PSS+SHA512:\
              RSA+SHA256:RSA+SHA384:RSA+SHA512",
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Every name of a profile.
    fn names(mode: Mode) -> Vec<&'static str> {
        let profile = Profile::of(mode);
        let groups = profile.groups.to_str().unwrap();
        let lists = [profile.ciphers, profile.suites, groups, profile.sigalgs];
        lists.iter().flat_map(|list| list.split(':')).collect()
    }

    #[test]
    fn fips_profile_is_the_default_one_without_what_is_not_approved() {
        let (all, fips) = (names(Mode::Default), names(Mode::Fips));
        let excluded: Vec<_> = all.iter().filter(|name| !fips.contains(name)).collect();
        assert_eq!(
            excluded,
            [
                &"ECDHE-ECDSA-CHACHA20-POLY1305",
                &"ECDHE-RSA-CHACHA20-POLY1305",
                &"TLS_CHACHA20_POLY1305_SHA256",
                &"X25519",
                &"ed25519",
            ]
        );
        assert!(fips.iter().all(|name| all.contains(name)), "{fips:?}");
    }
}
