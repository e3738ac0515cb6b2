//! AWS Signature Version 4, for requests without a query. (AWS IAM User Guide, "Create a signed AWS
//! API request")

use std::fmt;
use std::time::SystemTime;

use zeroize::Zeroizing;

use super::super::wire;
use crate::crypto::digest::{self, Sha256};
use crate::crypto::error::CryptoError;
use crate::crypto::mac::hmac_sha256;
use crate::telemetry::time::rfc3339;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// What requests are signed with. `Debug` shows the id alone.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct AccessKey {
    /// Who signs.
    pub(super) id: String,
    /// The secret access key.
    pub(super) secret: Zeroizing<String>,
    /// What belongs to a temporary pair.
    pub(super) session_token: Option<Zeroizing<String>>,
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// For what a signature is good.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    pub(super) region: &'a str,
    pub(super) service: &'a str,
}

/// What is signed of a request.
#[derive(Debug)]
pub(super) struct Signed<'a> {
    pub(super) method: &'a str,
    /// As it is sent; signed escaped once more, as all services but S3 have it.
    pub(super) path: &'a str,
    /// Names in lower case and values, sorted by name; `host` and `x-amz-date` among them.
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) body: &'a [u8],
}

/// A moment as `x-amz-date` has it: `20150830T123600Z`.
pub(super) fn timestamp(at: SystemTime) -> String {
    rfc3339(at).replace(['-', ':'], "")
}

/// The value of `Authorization`, for a request whose `x-amz-date` is `time`.
///
/// # Errors
/// OpenSSL gives no digest or MAC.
pub(super) fn authorization(
    request: &Signed<'_>,
    key: &AccessKey,
    scope: Scope<'_>,
    time: &str,
) -> Result<String, CryptoError> {
    debug_assert!(request.headers.is_sorted());
    let date = time.split('T').next().unwrap_or_default();
    let scope_text = format!("{date}/{}/{}/aws4_request", scope.region, scope.service);
    let names: Vec<&str> = request.headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let digest = digest::sha256(&[canonical(request, &names)?.as_bytes()])?;
    let text = format!("{ALGORITHM}\n{time}\n{scope_text}\n{digest}");
    let signature = hmac_sha256(&*signing_key(key, scope, date)?, &[text.as_bytes()])?;
    // Shown as a digest is: hexadecimal, in lower case.
    let signature = Sha256::from_bytes(signature);
    Ok(format!(
        "{ALGORITHM} Credential={}/{scope_text}, SignedHeaders={names}, Signature={signature}",
        key.id
    ))
}

/// "Create a canonical request".
fn canonical(request: &Signed<'_>, names: &str) -> Result<Zeroizing<String>, CryptoError> {
    let mut text = Zeroizing::new(format!(
        "{}\n{}\n\n",
        request.method,
        wire::escape(request.path)
    ));
    for (name, value) in request.headers {
        let words: Vec<&str> = value.split(' ').filter(|word| !word.is_empty()).collect();
        text.push_str(&format!("{name}:{}\n", words.join(" ")));
    }
    let body = digest::sha256(&[request.body])?;
    text.push_str(&format!("\n{names}\n{body}"));
    Ok(text)
}

/// "Derive a signing key".
fn signing_key(
    key: &AccessKey,
    scope: Scope<'_>,
    date: &str,
) -> Result<Zeroizing<[u8; 32]>, CryptoError> {
    let first = Zeroizing::new(format!("AWS4{}", key.secret.as_str()));
    let mut mac = Zeroizing::new(hmac_sha256(first.as_bytes(), &[date.as_bytes()])?);
    for part in [scope.region, scope.service, "aws4_request"] {
        mac = Zeroizing::new(hmac_sha256(&*mac, &[part.as_bytes()])?);
    }
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    /// Method, header fields, body, signature.
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [u8], &'a str);

    fn key() -> AccessKey {
        AccessKey {
            id: "AKIDEXAMPLE".to_owned(),
            secret: Zeroizing::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned()),
            session_token: None,
        }
    }

    fn signature(method: &str, headers: &[(&str, &str)], body: &[u8]) -> String {
        let request = Signed {
            method,
            path: "/",
            headers,
            body,
        };
        let scope = Scope {
            region: "us-east-1",
            service: "service",
        };
        let time = "20150830T123600Z";
        authorization(&request, &key(), scope, time).unwrap()
    }

    #[test]
    fn signatures_are_those_of_the_published_suite() {
        // "Signature Version 4 test suite": get-vanilla, post-vanilla, post-header-key-sort,
        // post-x-www-form-urlencoded.
        let host = ("host", "example.amazonaws.com");
        let date = ("x-amz-date", "20150830T123600Z");
        let form = ("content-type", "application/x-www-form-urlencoded");
        let cases: [Case<'_>; 4] = [
            (
                "GET",
                &[host, date],
                b"",
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
            (
                "POST",
                &[host, date],
                b"",
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
            (
                "POST",
                &[host, ("my-header1", "value1"), date],
                b"",
                "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
            ),
            (
                "POST",
                &[form, host, date],
                b"Param1=value1",
                "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
            ),
        ];
        for (method, headers, body, expected) in cases {
            let told = signature(method, headers, body);
            let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
            let expected = format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
                 SignedHeaders={}, Signature={expected}",
                names.join(";")
            );
            assert_eq!(told, expected);
        }
    }

    #[test]
    fn signing_key_is_that_of_the_guide() {
        // AWS General Reference, "Examples of how to derive a signing key".
        let scope = Scope {
            region: "us-east-1",
            service: "iam",
        };
        let told = signing_key(&key(), scope, "20150830").unwrap();
        assert_eq!(
            Sha256::from_bytes(*told).to_string(),
            "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"
        );
    }

    #[test]
    fn times_are_written_as_the_header_has_them() {
        let at = UNIX_EPOCH + Duration::from_secs(1_440_938_160);
        assert_eq!(timestamp(at), "20150830T123600Z");
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = AccessKey {
            session_token: Some(Zeroizing::new("hush".to_owned())),
            ..key()
        };
        let shown = format!("{key:?}");
        assert!(
            !shown.contains("wJalr") && !shown.contains("hush"),
            "{shown}"
        );
    }
}
