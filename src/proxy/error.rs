//! What a client is told: one map from reason to status, fixed sentences, no cause of ours.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, LOCATION, SERVER};
use http::{HeaderName, Response, StatusCode};

use crate::failure::Reason;

/// The header that carries the id under which the record names this request.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-portcullis-request-id");

/// The outcome of a gRPC call, and its words.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// See [`GRPC_STATUS`].
pub const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// What a 405 says beside it (RFC 9110 §15.5.6): it is told for CONNECT and TRACE alone, and what else
/// may be asked is the upstream's to say.
const ALLOWED: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// Exactly APISIX's.
const NO_ROUTE: &[u8] = b"{\"error_msg\":\"404 Route Not Found\"}\n";

/// A request that is answered here instead of upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// The cause in OpenSSL's or the system's words, for the record only.
    pub detail: String,
    /// Where to go instead (308).
    pub location: Option<String>,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self {
            reason,
            detail: String::new(),
            location: None,
        }
    }
}

impl Refusal {
    /// A refusal with the cause for the record.
    #[must_use]
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            location: None,
        }
    }

    /// The status the client gets.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        if self.location.is_some() {
            StatusCode::PERMANENT_REDIRECT
        } else {
            status(self.reason)
        }
    }

    /// The answer to a gRPC request: status and message as gRPC has them, in the head of an answer
    /// without a body ("Trailers-Only" of gRPC over HTTP/2). `request_id` is what the record
    /// carries.
    #[must_use]
    pub fn reply_to_grpc(&self, request_id: &str) -> Response<Bytes> {
        let status = self.status();
        let mut resp = self.reply(request_id);
        if status.is_redirection() {
            return resp;
        }
        resp.body_mut().clear();
        *resp.status_mut() = StatusCode::OK;
        let headers = resp.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from(grpc_status(status)));
        let message = format!("{}, request {request_id}", title(status, self.reason));
        if let Ok(message) = HeaderValue::from_str(&message) {
            headers.insert(GRPC_MESSAGE, message);
        }
        resp
    }

    /// The answer. `request_id` is what the record carries.
    #[must_use]
    pub fn reply(&self, request_id: &str) -> Response<Bytes> {
        let status = self.status();
        let (content_type, body) = if self.reason == Reason::RouteNotFound {
            ("text/plain; charset=utf-8", Bytes::from_static(NO_ROUTE))
        } else {
            (
                "text/html; charset=utf-8",
                Bytes::from(page(status, self.reason, request_id)),
            )
        };
        let mut resp = Response::new(body);
        *resp.status_mut() = status;
        let headers = resp.headers_mut();
        headers.insert(SERVER, HeaderValue::from_static("Portcullis"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(id) = HeaderValue::from_str(request_id) {
            headers.insert(REQUEST_ID, id);
        }
        if let Some(location) = self
            .location
            .as_deref()
            .and_then(|l| HeaderValue::from_str(l).ok())
        {
            headers.insert(LOCATION, location);
        }
        if self.reason == Reason::MethodRefused {
            headers.insert(ALLOW, ALLOWED);
        }
        if ends_connection(self.reason) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        resp
    }
}

/// Whether nothing more may come over the connection.
fn ends_connection(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::AuthorityInvalid
            | Reason::AuthorityPolicyMismatch
            | Reason::ClientPolicyChanged
            | Reason::NameClosed
            | Reason::ClientPlaintextOnTls
            | Reason::ClientTimeout
            | Reason::RequestInvalid
            | Reason::MethodRefused
            | Reason::ClientCertMissing
    ) || is_bad_certificate(reason)
}

/// Whether what ends a connection of HTTP/1.1 ends no more than its stream over HTTP/2, where requests
/// are told from each other whatever they say (RFC 9113 §5.4.2): nothing else that its client may ask
/// over the connection is refused for it.
#[must_use]
pub fn ends_stream_alone(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::AuthorityInvalid
            | Reason::ClientTimeout
            | Reason::RequestInvalid
            | Reason::MethodRefused
    )
}

/// Whether a certificate was shown and did not pass.
fn is_bad_certificate(reason: Reason) -> bool {
    reason != Reason::ClientCertMissing && reason.is_client_certificate()
}

/// The one map from reason to status (APISIX §4.2, §5.4; nginx's 400s; RFC 9110 §15.5.20 for 421).
#[must_use]
pub fn status(reason: Reason) -> StatusCode {
    match reason {
        Reason::ClientCertMissing
        | Reason::ClientCertUnknownCa
        | Reason::ClientCertExpired
        | Reason::ClientCertNotYetValid
        | Reason::ClientCertInvalid
        | Reason::ClientChainTooDeep
        | Reason::ClientCertRevoked
        | Reason::ClientCrlStale
        | Reason::ClientCrlMissing
        | Reason::AuthorityInvalid
        | Reason::PathInvalid
        | Reason::RequestInvalid
        | Reason::ClientPlaintextOnTls
        | Reason::ClientTlsVersion
        | Reason::ClientNoSharedCipher
        | Reason::ClientHandshakeFailed
        | Reason::SniMissing
        | Reason::SniMalformed
        | Reason::SniUnknown
        | Reason::HandshakeTimeout
        | Reason::HandshakeOverload
        | Reason::ClientKeyUpdateFlood
        | Reason::Http2Violation
        | Reason::ClientGone => StatusCode::BAD_REQUEST,
        Reason::MethodRefused => StatusCode::METHOD_NOT_ALLOWED,
        Reason::RequestHeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Reason::RequestLineTooLong => StatusCode::URI_TOO_LONG,
        Reason::HttpVersionRefused => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
        Reason::ClientTimeout => StatusCode::REQUEST_TIMEOUT,
        Reason::NameClosed | Reason::AuthorityPolicyMismatch | Reason::ClientPolicyChanged => {
            StatusCode::MISDIRECTED_REQUEST
        }
        Reason::RouteNotFound | Reason::ServiceMissing => StatusCode::NOT_FOUND,
        Reason::RouteClosed
        | Reason::NoUpstream
        | Reason::NoNode
        | Reason::UpstreamUnresolvable
        | Reason::UpstreamNotReady
        | Reason::ContextUnavailable
        | Reason::ReadAheadOverload
        | Reason::ShutDown
        | Reason::SecretUnresolved
        | Reason::SecretInvalid
        | Reason::SecretOriginNotTrusted => StatusCode::SERVICE_UNAVAILABLE,
        Reason::UpstreamTimeout | Reason::TunnelIdle => StatusCode::GATEWAY_TIMEOUT,
        Reason::UpstreamMissing
        | Reason::NoWeight
        | Reason::UpstreamCaUnknown
        | Reason::UpstreamNameMismatch
        | Reason::UpstreamCertExpired
        | Reason::UpstreamCertNotYetValid
        | Reason::UpstreamCertInvalid
        | Reason::UpstreamCertRevoked
        | Reason::UpstreamCrlStale
        | Reason::UpstreamCrlMissing
        | Reason::UpstreamRejectedOurCert
        | Reason::UpstreamWantsClientCert
        | Reason::UpstreamSpeaksPlaintext
        | Reason::UpstreamExpectsTls
        | Reason::UpstreamRefused
        | Reason::UpstreamUnreachable
        | Reason::UpstreamReset
        | Reason::UpstreamRetriesOver
        | Reason::UpstreamTlsVersion
        | Reason::UpstreamNoSharedCipher
        | Reason::UpstreamSniRefused
        | Reason::UpstreamHandshakeFailed
        | Reason::UpstreamProtocolError
        | Reason::UpstreamIsSelf => StatusCode::BAD_GATEWAY,
        Reason::LoopDetected => StatusCode::LOOP_DETECTED,
        Reason::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// What a client of gRPC makes of a status ("HTTP to gRPC Status Code Mapping"). 504 is UNAVAILABLE
/// there: DEADLINE_EXCEEDED is for the deadline of the call itself, which is its client's to know.
/// What is too large is what gRPC's own servers call it.
fn grpc_status(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 => 13,                   // INTERNAL
        401 => 16,                   // UNAUTHENTICATED
        403 => 7,                    // PERMISSION_DENIED
        404 | 405 => 12,             // UNIMPLEMENTED
        413 | 414 | 431 => 8,        // RESOURCE_EXHAUSTED
        429 | 502 | 503 | 504 => 14, // UNAVAILABLE
        _ => 2,                      // UNKNOWN
    }
}

/// nginx's words for a status where it has its own.
fn title(status: StatusCode, reason: Reason) -> &'static str {
    if reason == Reason::ClientPlaintextOnTls {
        return "400 The plain HTTP request was sent to HTTPS port";
    }
    if reason == Reason::ClientCertMissing {
        return "400 No required SSL certificate was sent";
    }
    if is_bad_certificate(reason) {
        return "400 The SSL certificate error";
    }
    match status.as_u16() {
        308 => "308 Permanent Redirect",
        400 => "400 Bad Request",
        404 => "404 Not Found",
        405 => "405 Not Allowed",
        408 => "408 Request Time-out",
        414 => "414 Request-URI Too Large",
        421 => "421 Misdirected Request",
        431 => "431 Request Header Fields Too Large",
        500 => "500 Internal Server Error",
        502 => "502 Bad Gateway",
        503 => "503 Service Temporarily Unavailable",
        504 => "504 Gateway Time-out",
        505 => "505 HTTP Version Not Supported",
        508 => "508 Loop Detected",
        _ => "Error",
    }
}

fn page(status: StatusCode, reason: Reason, request_id: &str) -> String {
    let title = title(status, reason);
    let heading = if status == StatusCode::BAD_REQUEST {
        "400 Bad Request"
    } else {
        title
    };
    let more = title
        .strip_prefix("400 ")
        .filter(|more| *more != "Bad Request");
    let more = more
        .map(|more| format!("<center>{more}</center>\r\n"))
        .unwrap_or_default();
    format!(
        "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n\
         <center><h1>{heading}</h1></center>\r\n{more}\
         <hr><center>Portcullis &middot; request {request_id}</center>\r\n</body>\r\n</html>\r\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_tells_the_status_and_the_id_and_nothing_else() {
        let refusal = Refusal::new(Reason::UpstreamRefused, "10.1.2.3:8443: refused");
        let resp = refusal.reply("abc-1");
        assert_eq!(resp.status(), 502);
        let body = String::from_utf8(resp.body().to_vec()).unwrap();
        assert!(
            body.contains("502 Bad Gateway") && body.contains("abc-1"),
            "{body}"
        );
        assert!(!body.contains("10.1.2.3"), "{body}");
    }

    #[test]
    fn a_grpc_request_is_told_as_grpc_tells() {
        for (reason, status) in [
            (Reason::RequestInvalid, "13"),
            (Reason::RouteNotFound, "12"),
            (Reason::RequestHeadTooLarge, "8"),
            (Reason::AuthorityPolicyMismatch, "2"),
            (Reason::UpstreamRefused, "14"),
            (Reason::NoNode, "14"),
            (Reason::UpstreamTimeout, "14"),
        ] {
            let resp = Refusal::new(reason, "10.1.2.3: secret").reply_to_grpc("abc-1");
            assert_eq!(resp.status(), 200, "{reason:?}");
            assert_eq!(resp.headers()[GRPC_STATUS], status, "{reason:?}");
            assert_eq!(resp.headers()[CONTENT_TYPE], "application/grpc");
            let message = resp.headers()[GRPC_MESSAGE].to_str().unwrap();
            assert!(
                message.contains("abc-1") && !message.contains("10.1"),
                "{message}"
            );
            assert!(resp.body().is_empty());
        }
        let mut refusal = Refusal::from(Reason::AuthorityPolicyMismatch);
        refusal.location = Some("https://a.example/".to_owned());
        assert_eq!(refusal.reply_to_grpc("abc-1").status(), 308);
    }

    #[test]
    fn no_route_answers_exactly_as_apisix() {
        let resp = Refusal::from(Reason::RouteNotFound).reply("abc-1");
        assert_eq!(resp.status(), 404);
        assert_eq!(
            &resp.body()[..],
            b"{\"error_msg\":\"404 Route Not Found\"}\n"
        );
    }

    #[test]
    fn a_missing_certificate_answers_with_the_words_of_nginx() {
        let resp = Refusal::from(Reason::ClientCertMissing).reply("abc-1");
        assert_eq!(resp.status(), 400);
        let body = String::from_utf8(resp.body().to_vec()).unwrap();
        assert!(
            body.contains("<title>400 No required SSL certificate was sent</title>"),
            "{body}"
        );
        assert_eq!(resp.headers()[CONNECTION], "close");
    }
}
