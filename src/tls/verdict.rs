//! From OpenSSL's error numbers to a named reason, for both sides.
//!
//! Numbers, not texts: texts differ between 3.0 and 3.5 (`sslerr.h`, `x509_vfy.h`). A TLS alert
//! from the peer is 1000 + its number (RFC 8446 §6).

use std::fmt;
use std::io;

use openssl::ssl::{self, ErrorCode, SslRef};
use openssl::x509::X509VerifyResult;

use crate::failure::Reason;

/// `ERR_LIB_SSL`.
const LIB_SSL: i32 = 20;
/// `SSL_R_WRONG_VERSION_NUMBER` and `SSL_R_PACKET_LENGTH_TOO_LONG` of `sslerr.h`.
const WRONG_VERSION_NUMBER: i32 = 267;
const PACKET_LENGTH_TOO_LONG: i32 = 198;
/// `SSL_R_CERTIFICATE_VERIFY_FAILED`.
const CERTIFICATE_VERIFY_FAILED: i32 = 134;
/// `ERR_LIB_PROV`, and `PROV_R_EMS_NOT_ENABLED` of modules that ask for it (`proverr.h` of 3.1),
/// which an older libcrypto has no words for.
const EMS_NOT_ENABLED: (i32, i32) = (57, 233);

/// The alert `no_application_protocol`.
const NO_APPLICATION_PROTOCOL: i32 = 1120;

/// The first TLS error of a connection, lifted out of OpenSSL once.
#[derive(Clone, Debug)]
pub struct Fault {
    /// `SSL_R_…` of `sslerr.h`, 0 when libssl gave none.
    reason: i32,
    /// The peer closed, or the socket failed, without a TLS word.
    gone: bool,
    /// What verification of the peer's chain ended with.
    verify: X509VerifyResult,
    /// OpenSSL's words, for the log.
    text: String,
}

impl Fault {
    /// Reads an error and the connection it happened on.
    #[must_use]
    pub fn of(error: &ssl::Error, ssl: &SslRef) -> Self {
        let first = error.ssl_error().and_then(|stack| {
            stack
                .errors()
                .iter()
                .find(|e| e.library_code() == LIB_SSL)
                .or(stack.errors().first())
        });
        let verify = ssl.verify_result();
        let is_no_tls = first.is_some_and(|e| e.reason_code() == PACKET_LENGTH_TOO_LONG)
            && !ssl.is_server()
            && !has_heard_a_server(ssl);
        let has_no_ems = error.ssl_error().is_some_and(|stack| {
            let mut all = stack.errors().iter();
            all.any(|e| (e.library_code(), e.reason_code()) == EMS_NOT_ENABLED)
        });
        let mut text = match (first, error.io_error()) {
            (Some(_), _) if has_no_ems => {
                "no extended master secret (RFC 7627), which the FIPS module requires on TLS 1.2"
                    .to_owned()
            }
            (Some(_), _) if is_no_tls => "wrong version number".to_owned(),
            (Some(error), _) => error.reason().unwrap_or("unnamed TLS error").to_owned(),
            (None, Some(error)) => error.to_string(),
            (None, None) => "the connection was closed".to_owned(),
        };
        let reason = match first {
            Some(_) if is_no_tls => WRONG_VERSION_NUMBER,
            Some(error) => error.reason_code(),
            None => 0,
        };
        // OpenSSL has a result for every chain, whether anybody asked for it or not.
        if reason == CERTIFICATE_VERIFY_FAILED {
            text.push_str(": ");
            text.push_str(verify.error_string());
        }
        Self {
            reason,
            gone: first.is_none()
                && matches!(error.code(), ErrorCode::SYSCALL | ErrorCode::ZERO_RETURN),
            verify,
            text,
        }
    }

    /// The TLS error inside an I/O error of the bridge, if there is one.
    #[must_use]
    pub fn of_io(error: &io::Error, ssl: &SslRef) -> Option<Self> {
        let error = error.get_ref()?.downcast_ref::<ssl::Error>()?;
        Some(Self::of(error, ssl))
    }

    /// The alert the peer sent, if it sent one.
    #[must_use]
    pub fn alert(&self) -> Option<i32> {
        (1000..1256)
            .contains(&self.reason)
            .then(|| self.reason - 1000)
    }

    /// Whether the peer closed, or the socket failed, without a word of TLS.
    #[must_use]
    pub const fn is_gone(&self) -> bool {
        self.gone
    }

    /// Why a client's handshake failed.
    #[must_use]
    pub fn client_reason(&self) -> Reason {
        match self.reason {
            // SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE
            199 => Reason::ClientCertMissing,
            CERTIFICATE_VERIFY_FAILED => client_chain_reason(self.verify),
            // NO_SHARED_CIPHER, NO_SUITABLE_KEY_SHARE, _SIGNATURE_ALGORITHM, _GROUPS
            193 | 101 | 118 | 295 => Reason::ClientNoSharedCipher,
            // UNSUPPORTED_PROTOCOL, WRONG_VERSION_NUMBER, VERSION_TOO_LOW
            258 | 267 | 396 => Reason::ClientTlsVersion,
            // HTTP_REQUEST, HTTPS_PROXY_REQUEST
            156 | 155 => Reason::ClientPlaintextOnTls,
            _ if self.gone => Reason::ClientGone,
            _ => Reason::ClientHandshakeFailed,
        }
    }

    /// Whether the peer refused all that was offered by ALPN (RFC 7301 §3.2).
    #[must_use]
    pub const fn is_about_alpn(&self) -> bool {
        self.reason == NO_APPLICATION_PROTOCOL
    }

    /// Why an upstream's TLS refused us, or we it.
    ///
    /// `asked`: the upstream asked for a certificate; `shown`: we had one to show.
    #[must_use]
    pub fn upstream_reason(&self, asked: bool, shown: bool) -> Reason {
        let ours = |asked: bool| match (asked, shown) {
            (true, false) => Reason::UpstreamWantsClientCert,
            _ => Reason::UpstreamRejectedOurCert,
        };
        match self.reason {
            CERTIFICATE_VERIFY_FAILED => upstream_chain_reason(self.verify),
            // WRONG_VERSION_NUMBER, HTTP_REQUEST: what answers is no TLS
            267 | 156 => Reason::UpstreamSpeaksPlaintext,
            // certificate_required
            1116 => ours(true),
            // bad_, unsupported_, revoked, expired, unknown certificate; unknown_ca;
            // access_denied; decrypt_error
            1042..=1046 | 1048 | 1049 | 1051 => ours(asked),
            // handshake_failure: in TLS 1.2 also how a missing certificate is refused
            1040 if asked => ours(true),
            1040 | 193 => Reason::UpstreamNoSharedCipher,
            // protocol_version, UNSUPPORTED_PROTOCOL, TLSV1_ALERT_PROTOCOL_VERSION
            1070 | 258 => Reason::UpstreamTlsVersion,
            // unrecognized_name
            1112 => Reason::UpstreamSniRefused,
            _ if self.gone => Reason::UpstreamReset,
            _ => Reason::UpstreamHandshakeFailed,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether a client has read a ServerHello.
///
/// A peer that answers in the clear has no length that is one: of `HTTP/1.1` OpenSSL 3.0 minds the
/// version first, 3.5 the length.
fn has_heard_a_server(ssl: &SslRef) -> bool {
    let mut random = [0; 32];
    ssl.server_random(&mut random);
    random != [0; 32]
}

/// What a verification result says of a chain, whoever's it is.
enum Chain {
    UnknownCa,
    Expired,
    NotYetValid,
    TooDeep,
    Revoked,
    CrlStale,
    CrlMissing,
    Name,
    Invalid,
}

/// `X509_STORE_CTX_get_error(3)`.
fn chain(result: X509VerifyResult) -> Chain {
    match result.as_raw() {
        // UNABLE_TO_GET_ISSUER_CERT, CERT_SIGNATURE_FAILURE, DEPTH_ZERO_SELF_SIGNED_CERT,
        // SELF_SIGNED_CERT_IN_CHAIN, UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
        // UNABLE_TO_VERIFY_LEAF_SIGNATURE, CERT_UNTRUSTED, SUBJECT_ISSUER_MISMATCH
        2 | 7 | 18 | 19 | 20 | 21 | 27 | 29 => Chain::UnknownCa,
        10 => Chain::Expired,
        9 => Chain::NotYetValid,
        22 => Chain::TooDeep,
        23 => Chain::Revoked,
        12 => Chain::CrlStale,
        // UNABLE_TO_GET_CRL, UNABLE_TO_DECRYPT_CRL_SIGNATURE, CRL_SIGNATURE_FAILURE,
        // CRL_NOT_YET_VALID, ERROR_IN_CRL_LAST_ and _NEXT_UPDATE_FIELD, UNABLE_TO_GET_CRL_ISSUER,
        // KEYUSAGE_NO_CRL_SIGN, UNHANDLED_CRITICAL_CRL_EXTENSION, DIFFERENT_CRL_SCOPE,
        // CRL_PATH_VALIDATION_ERROR: whatever there is says nothing of the certificate
        3 | 5 | 8 | 11 | 15 | 16 | 33 | 35 | 36 | 44 | 54 => Chain::CrlMissing,
        // HOSTNAME_MISMATCH, IP_ADDRESS_MISMATCH
        62 | 64 => Chain::Name,
        _ => Chain::Invalid,
    }
}

/// Why a client's chain did not pass.
#[must_use]
pub fn client_chain_reason(result: X509VerifyResult) -> Reason {
    match chain(result) {
        Chain::UnknownCa => Reason::ClientCertUnknownCa,
        Chain::Expired => Reason::ClientCertExpired,
        Chain::NotYetValid => Reason::ClientCertNotYetValid,
        Chain::TooDeep => Reason::ClientChainTooDeep,
        Chain::Revoked => Reason::ClientCertRevoked,
        Chain::CrlStale => Reason::ClientCrlStale,
        Chain::CrlMissing => Reason::ClientCrlMissing,
        Chain::Name | Chain::Invalid => Reason::ClientCertInvalid,
    }
}

/// Why an upstream's chain did not pass.
#[must_use]
pub fn upstream_chain_reason(result: X509VerifyResult) -> Reason {
    match chain(result) {
        Chain::UnknownCa => Reason::UpstreamCaUnknown,
        Chain::Expired => Reason::UpstreamCertExpired,
        Chain::NotYetValid => Reason::UpstreamCertNotYetValid,
        Chain::Name => Reason::UpstreamNameMismatch,
        Chain::Revoked => Reason::UpstreamCertRevoked,
        Chain::CrlStale => Reason::UpstreamCrlStale,
        Chain::CrlMissing => Reason::UpstreamCrlMissing,
        Chain::TooDeep | Chain::Invalid => Reason::UpstreamCertInvalid,
    }
}
