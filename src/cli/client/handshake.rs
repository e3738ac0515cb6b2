//! Handshakes made to be looked at: what a server shows, and whether it would be trusted.

use serde_json::{Value, json};

use super::api::{self, LIMITS, Network, Trust};
use super::args::Identity;
use super::failed::Failed;
use super::table::day;
use crate::crypto::digest::Sha256;
use crate::net::dial::DialError;
use crate::net::http::{Client, HttpError, Origin};
use crate::net::stream::Stream;
use crate::resource::escaped;
use crate::tls::material::{self, Certificate};
use crate::tls::peer::Served;

/// A handshake that ended well, whoever the server is.
pub(super) struct Meeting {
    /// Whom it was with.
    pub(super) client: Client,
    /// The connection.
    pub(super) stream: Stream,
    /// What the server showed.
    pub(super) served: Option<Served>,
    /// Whether it would be trusted.
    pub(super) verified: Verified,
}

/// Whether a server's certificate is trusted for the name asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verified {
    /// It is.
    Yes,
    /// It is not, for this reason in OpenSSL's words.
    No(String),
    /// Nobody looked.
    NotAsked,
}

impl Verified {
    /// In a sentence's part.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Yes => "verified".to_owned(),
            Self::No(why) => format!("not trusted: {why}"),
            Self::NotAsked => "not checked".to_owned(),
        }
    }
}

/// Shakes hands with `origin`, sending `name`. A server that is not trusted is looked at all the
/// same, and nothing is sent to it.
///
/// # Errors
/// No connection, or a handshake that the server ended.
pub(super) async fn meet(
    network: &Network,
    origin: &Origin,
    name: &str,
    trust: &Trust<'_>,
) -> Result<Result<Meeting, DialError>, Failed> {
    let client = network.client(origin.clone(), Some(name), trust, LIMITS)?;
    let verified = if trust.insecure {
        Verified::NotAsked
    } else {
        Verified::Yes
    };
    match client.connect().await {
        Ok(stream) => Ok(Ok(Meeting::new(client, stream, verified))),
        Err(error) if error.reason.is_distrust() => {
            let blind = Trust {
                insecure: true,
                ..*trust
            };
            let client = network.client(origin.clone(), Some(name), &blind, LIMITS)?;
            let met = client.connect().await;
            Ok(met.map(|stream| Meeting::new(client, stream, Verified::No(error.detail))))
        }
        Err(error) => Ok(Err(error)),
    }
}

impl Meeting {
    fn new(client: Client, stream: Stream, verified: Verified) -> Self {
        let served = match &stream {
            Stream::Plain(_) => None,
            Stream::Tls(tls) => Some(tls.served()),
        };
        Self {
            client,
            stream,
            served,
            verified,
        }
    }
}

/// What a handshake shows and trusts by the flags of a command.
///
/// # Errors
/// A key without its certificate.
pub(super) fn trust(identity: &Identity, insecure: bool) -> Result<Trust<'_>, Failed> {
    let shown = match (identity.cert.as_deref(), identity.key.as_deref()) {
        (Some(cert), key) => Some((cert, key.unwrap_or(cert))),
        (None, Some(_)) => return Err("--key needs --cert".into()),
        (None, None) => None,
    };
    Ok(Trust {
        ca_cert: identity.cacert.as_deref(),
        identity: shown,
        insecure,
    })
}

/// Why a connection could not be opened, and what to do.
pub(super) fn failed(origin: &Origin, error: DialError) -> Failed {
    api::unreachable(origin, &HttpError::Dial(error), api::GATEWAY)
}

/// A certificate in words.
pub(super) fn facts(certificate: &Certificate, now: i64) -> Value {
    let (from, until) = material::validity(certificate).unwrap_or_default();
    let fingerprint = material::fingerprint(certificate).map(Sha256::from_bytes);
    json!({
        "subject": material::subject(certificate),
        "issuer": material::issuer(certificate),
        "serial": material::serial(certificate),
        "not_before": day(from),
        "not_after": day(until),
        "days_left": days_left(until, now),
        "names": material::dns_names(certificate),
        "sha256": fingerprint.map(|it| it.to_string()).unwrap_or_default(),
    })
}

/// A certificate in part of a sentence.
pub(super) fn brief(certificate: &Certificate) -> String {
    let (_, until) = material::validity(certificate).unwrap_or_default();
    format!(
        "{} of {}, until {},",
        escaped(&material::subject(certificate), usize::MAX),
        escaped(&material::issuer(certificate), usize::MAX),
        day(until)
    )
}

/// Whole days until an end; negative where it has passed.
pub(super) const fn days_left(until: i64, now: i64) -> i64 {
    until.saturating_sub(now).div_euclid(86_400)
}

/// A certificate's facts, a line each.
pub(super) fn lines(facts: &Value) -> String {
    let text = |name: &str| {
        let text = facts.get(name).and_then(Value::as_str);
        escaped(text.unwrap_or_default(), usize::MAX)
    };
    let names = facts.get("names").and_then(Value::as_array);
    let names = names.into_iter().flatten().filter_map(Value::as_str);
    let days = facts.get("days_left").and_then(Value::as_i64).unwrap_or(0);
    let left = match days {
        days if days < 0 => "expired".to_owned(),
        1 => "1 day left".to_owned(),
        days => format!("{days} days left"),
    };
    format!(
        "Subject:  {}\nIssuer:   {}\nSerial:   {}\nValid:    {} to {} ({left})\nNames:    {}\nSHA-256:  {}\n",
        text("subject"),
        text("issuer"),
        text("serial"),
        text("not_before"),
        text("not_after"),
        escaped(&names.collect::<Vec<_>>().join(", "), usize::MAX),
        text("sha256"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_a_certificate_do_nothing_to_a_terminal() {
        let text = lines(&json!({"subject": "CN=\u{1b}[2J", "names": ["a\u{9b}m", "b"]}));
        assert!(!text.contains(['\u{1b}', '\u{9b}']), "{text:?}");
        assert!(text.contains("Names:    a\\u{9b}m, b\n"), "{text}");
    }
}
