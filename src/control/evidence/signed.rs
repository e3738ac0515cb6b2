//! A signed report: what is signed, and how a signature is checked.
//!
//! Signed are the bytes of the report without its member `signature`, as JSON without blanks, its
//! members in their order. So a report may be indented and copied, and still be checked, with
//! `openssl dgst` as well: decision 9.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::EvidenceError;
use crate::crypto::digest::{Sha256, sha256};
use crate::crypto::error::CryptoError;
use crate::crypto::sign::{SignError, SigningKey, VerifyingKey};

/// The member that holds the signature.
const MEMBER: &str = "signature";

/// What a signature was found to be good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// SHA-256 of the report that it covers, as signed.
    pub report_sha256: Sha256,
}

/// Why a report is not what its signer signed.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It is no report.
    #[error("this is no report: it is not a JSON object")]
    NoReport,
    /// It carries no signature.
    #[error("the report is not signed; ask for one with `--sign`")]
    Unsigned,
    /// It is another's signature, or the report was changed.
    #[error(
        "the signature is not this key's over this report: it was changed, or signed by another"
    )]
    Wrong,
    /// OpenSSL failed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// OpenSSL failed.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    /// The report cannot be written as it was signed.
    #[error("the report cannot be written")]
    Json(#[from] serde_json::Error),
}

/// Adds the signature as the last member.
pub(super) fn sign(
    mut report: Map<String, Value>,
    key: &SigningKey,
) -> Result<Value, EvidenceError> {
    let signature = key.sign(&serde_json::to_vec(&report)?)?;
    let public = sha256(&[&key.public_der()?])?;
    report.insert(
        MEMBER.to_owned(),
        json!({
            "algorithm": key.algorithm(),
            "public_key_sha256": public.to_string(),
            "value": STANDARD.encode(signature),
        }),
    );
    Ok(Value::Object(report))
}

/// Checks a report against the key that it should be signed with.
///
/// # Errors
/// [`VerifyError`].
pub fn verify(report: &Value, key: &VerifyingKey) -> Result<Signed, VerifyError> {
    let mut report = report.as_object().ok_or(VerifyError::NoReport)?.clone();
    let signature = report.shift_remove(MEMBER).ok_or(VerifyError::Unsigned)?;
    let value = signature.get("value").and_then(Value::as_str);
    let Some(Ok(value)) = value.map(|text| STANDARD.decode(text)) else {
        return Err(VerifyError::Wrong);
    };
    let text = serde_json::to_vec(&report)?;
    if !key.verify(&text, &value)? {
        return Err(VerifyError::Wrong);
    }
    Ok(Signed {
        report_sha256: sha256(&[&text])?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::tls::sample;

    fn keys() -> (SigningKey, VerifyingKey) {
        let ca = sample::ca("signer");
        let key = SigningKey::parse_pem(ca.key_pem.as_bytes()).unwrap();
        let public = VerifyingKey::parse_pem(&key.public_pem().unwrap()).unwrap();
        (key, public)
    }

    fn report() -> Value {
        json!({"format": "x", "list": [1, {"b": "\u{e9}\"\\\u{7f}", "a": null}], "n": 12})
    }

    fn signed(key: &SigningKey) -> Value {
        let Value::Object(report) = report() else {
            unreachable!()
        };
        sign(report, key).unwrap()
    }

    #[test]
    fn signature_holds_however_the_report_is_indented() {
        let (key, public) = keys();
        let signed = signed(&key);
        verify(&signed, &public).unwrap();
        let indented = serde_json::to_string_pretty(&signed).unwrap();
        let read: Value = serde_json::from_str(&indented).unwrap();
        verify(&read, &public).unwrap();
        assert_eq!(signed["signature"]["algorithm"], "ECDSA-SHA256");
    }

    #[test]
    fn changed_report_and_another_key_are_found_out() {
        let (key, public) = keys();
        let good = signed(&key);
        let (_, another) = keys();
        assert!(matches!(verify(&good, &another), Err(VerifyError::Wrong)));
        for (pointer, value) in [
            ("/n", json!(13)),
            ("/list/1/a", json!(false)),
            ("/signature/value", json!("")),
            ("/signature/value", json!("*")),
            ("/signature", json!([])),
        ] {
            let mut changed = good.clone();
            *changed.pointer_mut(pointer).unwrap() = value;
            let refusal = verify(&changed, &public).unwrap_err();
            assert!(
                matches!(refusal, VerifyError::Wrong),
                "{pointer}: {refusal}"
            );
        }
        let mut more = good.clone();
        more["more"] = json!(1);
        assert!(matches!(verify(&more, &public), Err(VerifyError::Wrong)));
        assert!(matches!(
            verify(&report(), &public),
            Err(VerifyError::Unsigned)
        ));
        assert!(matches!(
            verify(&json!([]), &public),
            Err(VerifyError::NoReport)
        ));
    }
}
