//! Certificates and keys as documents hold them: parsed, matched, dated; references left alone.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::fault::{NOT_DECRYPTED, Verdict, Words};
use super::ssl::{Pair, Text};
use super::{Occasion, Pairs, Terms, texts};
use crate::tls::material::{
    self, CaBundle, CertChain, CrlDates, Crls, KeyPair, MaterialError, PrivateKey, Unapproved,
};

/// A text of a document with its pointer.
pub(super) type Located<'d> = (String, &'d str);

/// Reads a certificate with its key; `prefix` precedes the reasons (`failed to handle …: `).
///
/// When one of them is a reference only the other is read. The chain is returned when it is
/// known, for further checks.
pub(super) fn read_pair(
    (cert_at, cert): &Located<'_>,
    (key_at, key): &Located<'_>,
    prefix: &str,
    terms: &Terms,
    verdict: &mut Verdict,
) -> (Pair, Option<CertChain>) {
    let mut pair = Pair {
        cert: Text::read(cert),
        key: Text::read(key),
        read: None,
    };
    if terms.pairs == Pairs::Taken {
        return (pair, None);
    }
    let refuse = |at: &str, (words, reason): Told, verdict: &mut Verdict| {
        verdict.add(words, at.to_owned(), format!("{prefix}{reason}"));
    };
    let chain = match &pair.cert {
        Text::Reference(_) => None,
        Text::Literal(pem) => match CertChain::parse(pem) {
            Ok(chain) => {
                judge_blocks(cert_at, pem, prefix, terms, verdict);
                Some(chain)
            }
            Err(error) => {
                refuse(cert_at, reason(cert_at, &error), verdict);
                None
            }
        },
    };
    let private = match &pair.key {
        Text::Reference(_) => None,
        Text::Literal(pem) => match read_key(key_at, pem) {
            Ok(private) => Some(private),
            Err(reason) => {
                refuse(key_at, reason, verdict);
                None
            }
        },
    };
    // The key is the certificate's, so one word on both is enough.
    let unapproved = match (&chain, &private) {
        (Some(chain), _) => chain.approve().err().map(|flaw| (cert_at, flaw)),
        (None, Some(key)) => key.approve().err().map(|flaw| (key_at, flaw)),
        (None, None) => None,
    };
    if let (Some(chain), Some(private)) = (&chain, private) {
        match KeyPair::join(chain.clone(), private) {
            Ok(read) => pair.read = Some(read),
            Err(error) => refuse(key_at, reason(key_at, &error), verdict),
        }
    }
    if let Some((at, flaw)) = unapproved {
        warn_of_unapproved(at, &flaw, verdict);
    }
    if let Some(chain) = &chain {
        date_leaf(cert_at, chain, terms, verdict);
    }
    (pair, chain)
}

/// Reads trusted issuers; `prefix` precedes the reasons.
pub(super) fn read_issuers(
    (at, text): &Located<'_>,
    prefix: &str,
    terms: &Terms,
    verdict: &mut Verdict,
) -> Text {
    let text = Text::read(text);
    let Text::Literal(pem) = &text else {
        return text;
    };
    let bundle = match CaBundle::parse(pem) {
        Ok(bundle) => bundle,
        Err(error) => {
            let (words, reason) = reason(at, &error);
            verdict.add(words, at.clone(), format!("{prefix}{reason}"));
            return text;
        }
    };
    judge_blocks(at, pem, prefix, terms, verdict);
    if let Err(flaw) = bundle.approve() {
        warn_of_unapproved(at, &flaw, verdict);
    }
    for certificate in &bundle.certificates {
        let Ok((_, until)) = material::validity(certificate) else {
            continue;
        };
        if until >= terms.now {
            continue;
        }
        let subject = texts::shown(&material::subject(certificate));
        let reason = format!("the CA {subject} expired on {}", date(until));
        match terms.occasion {
            Occasion::Write => verdict.refuse(at, format!("{prefix}{reason}")),
            Occasion::Load => {
                verdict.warn(
                    "ca_expired",
                    at,
                    format!("{reason}; take it out or replace it"),
                );
            }
        }
    }
    text
}

/// Reads revocation lists; `issuers` are the CAs that `from` names, where they are known here.
pub(super) fn read_crls(
    (at, text): &Located<'_>,
    from: &str,
    issuers: Option<&CaBundle>,
    terms: &Terms,
    verdict: &mut Verdict,
) -> Text {
    let text = Text::read(text);
    let Text::Literal(pem) = &text else {
        return text;
    };
    let member = dotted(at);
    let crls = match Crls::parse(pem) {
        Ok(crls) => crls,
        Err(error) => {
            verdict.refuse(at, format!("{member}: {error}"));
            return text;
        }
    };
    if let Some(issuers) = issuers {
        if let Err(error) = crls.judge_issuers(issuers) {
            verdict.refuse(at, format!("{member}: {error} ({from})"));
        }
        let lacking = crls.without_list(issuers);
        if !lacking.is_empty() {
            let text = format!(
                "{member} has no list of {}: whoever comes from there is refused; add the CA's list",
                texts::listed(&lacking)
            );
            verdict.warn("crl_missing", at, text);
        }
    }
    for dates in crls.dates().unwrap_or_default() {
        date_crl(at, &dates, terms, verdict);
    }
    text
}

/// Says what a list's dates come to: one that is out of date lets nobody in.
fn date_crl(at: &str, dates: &CrlDates, terms: &Terms, verdict: &mut Verdict) {
    let member = dotted(at);
    let issuer = texts::shown(&dates.issuer);
    let fault = match dates.until {
        _ if dates.made > terms.now => format!(
            "the revocation list of {issuer} is not valid before {}; check the clocks, or write it \
             then",
            date(dates.made)
        ),
        Some(until) if until < terms.now => format!(
            "the revocation list of {issuer} ended on {}, and lets nobody in; put the CA's present \
             list there",
            date(until)
        ),
        // One that does not say when it ends is good for ever (`X509_verify_cert(3)`, nginx).
        Some(_) | None => return,
    };
    match terms.occasion {
        Occasion::Write => verdict.refuse(at, format!("{member}: {fault}")),
        Occasion::Load => verdict.warn("crl_stale", at, format!("{member}: {fault}")),
    }
}

/// A pointer as the texts name a member.
fn dotted(at: &str) -> String {
    at.trim_start_matches('/').replace('/', ".")
}

/// The labels of certificates (OpenSSL, `PEM_read_bio_X509(3)`).
const LABELS: [&str; 3] = ["CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"];

/// Refuses blocks that are no certificates: nobody would read them, and a key would be shown.
fn judge_blocks(at: &str, pem: &str, prefix: &str, terms: &Terms, verdict: &mut Verdict) {
    let labels = pem.split("-----BEGIN ").skip(1);
    let mut labels = labels.map(|rest| rest.split("-----").next().unwrap_or_default());
    let Some(label) = labels.find(|label| !LABELS.contains(label)) else {
        return;
    };
    let label = texts::shown(label.lines().next().unwrap_or_default());
    let reason = format!("only certificates belong here, not a block of {label}");
    match terms.occasion {
        Occasion::Write => verdict.refuse(at, format!("{prefix}{reason}")),
        Occasion::Load => verdict.warn("not_a_certificate", at, format!("{reason}; take it out")),
    }
}

/// Says when the certificate that will be shown is not valid now.
fn date_leaf(at: &str, chain: &CertChain, terms: &Terms, verdict: &mut Verdict) {
    let Ok((from, until)) = material::validity(&chain.leaf) else {
        return;
    };
    let subject = texts::shown(&material::subject(&chain.leaf));
    if until < terms.now {
        let text = format!(
            "the certificate {subject} expired on {}; peers that check it refuse it, so \
                     replace it",
            date(until)
        );
        verdict.warn("certificate_expired", at, text);
    } else if from > terms.now {
        let text = format!(
            "the certificate {subject} is not valid before {}; check the clocks, or \
                            write it then",
            date(from)
        );
        verdict.warn("certificate_not_yet_valid", at, text);
    }
}

/// Judges a private key that signs logins, and has no certificate. What is no PEM is a reference, or
/// told when it is used.
pub(super) fn judge_signing_key((at, text): &Located<'_>, verdict: &mut Verdict) {
    if !text.trim_start().starts_with("---") {
        return;
    }
    let key = match PrivateKey::parse(text) {
        Ok(key) => key,
        Err(error) => return verdict.refuse(at, format!("{}: {error}", dotted(at))),
    };
    if let Err(error) = key.signing_key() {
        verdict.refuse(at, format!("{}: {error}", dotted(at)));
    } else if let Err(flaw) = key.approve() {
        warn_of_unapproved(at, &flaw, verdict);
    }
}

/// Says what `fips: required` would refuse. Where it is in force, reading has refused it.
fn warn_of_unapproved(at: &str, flaw: &Unapproved, verdict: &mut Verdict) {
    if !material::is_approval_required() {
        verdict.warn("fips_would_refuse", at, flaw.to_string());
    }
}

/// What is wrong with material, and in whose words.
type Told = (Words, String);

/// Why material was refused.
fn reason(at: &str, error: &MaterialError) -> Told {
    match error {
        MaterialError::Unapproved(_)
        | MaterialError::KeyType(_)
        | MaterialError::Encrypted
        | MaterialError::WeakEncryption(_)
        | MaterialError::Passphrase(_) => (Words::Ours, format!("{}: {error}", dotted(at))),
        MaterialError::Mismatch | MaterialError::TooShort { .. } | MaterialError::OpenSsl(_) => {
            (Words::Ours, error.to_string())
        }
        MaterialError::Certificate(_) | MaterialError::Key(_) => (Words::Apisix, error.to_string()),
    }
}

fn read_key(at: &str, pem: &str) -> Result<PrivateKey, Told> {
    let text = pem.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']);
    if !text.starts_with("---") {
        if is_pkcs12(text) {
            let text = format!(
                "{}: PKCS #12 is not read, PEM only; take key and certificate out with `openssl \
                 pkcs12 -in FILE -nodes -out FILE.pem`",
                dotted(at)
            );
            return Err((Words::Ours, text));
        }
        // APISIX takes what is not PEM for a key it encrypted itself. It has no keys of logins.
        return Err(if at.starts_with("/auth/") {
            let text = format!("{}: the private key is not PEM", dotted(at));
            (Words::Ours, text)
        } else {
            (Words::Apisix, NOT_DECRYPTED.to_owned())
        });
    }
    PrivateKey::parse(pem).map_err(|error| reason(at, &error))
}

/// Whether a text is PKCS #12 in Base64: a sequence that begins with version 3 (RFC 7292 section 4).
fn is_pkcs12(text: &str) -> bool {
    let begin: String = text.split_ascii_whitespace().collect::<String>();
    let begin = begin.get(..12).map(|begin| STANDARD.decode(begin));
    let Some(Ok(begin)) = begin else { return false };
    let content = match begin.as_slice() {
        [0x30, 0x82, _, _, content @ ..] | [0x30, 0x81, _, content @ ..] => content,
        [0x30, 0x83, _, _, _, content @ ..] | [0x30, 0x80, content @ ..] => content,
        _ => return false,
    };
    content.starts_with(&[0x02, 0x01, 0x03])
}

/// A moment as HTTP writes dates (RFC 9110 §5.6.7).
fn date(seconds: i64) -> String {
    match u64::try_from(seconds).map(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
    {
        // httpdate knows years up to 9999.
        Ok(Some(time)) if seconds < 253_402_300_800 => httpdate::fmt_http_date(time),
        _ => format!("second {seconds} of the epoch"),
    }
}
