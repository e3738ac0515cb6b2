//! The ssl resource: certificates of a name, and what it asks of clients.

use std::collections::HashSet;

use serde_json::Value;
use zeroize::Zeroizing;

use super::fault::Verdict;
use super::pem::{self, Located};
use super::{Document, Terms, is_reference, members, texts};
use crate::matching::patterns::{PATTERN_COUNT_MAX, PathRegexes, PatternFault};
use crate::matching::sni::SniPattern;
use crate::tls::material::{self, CaBundle, CertChain, KeyPair};
use crate::tls::policy::{ClientAuth, TlsVersion, Versions};

/// A PEM text in a document, or a reference to where it is kept.
#[derive(Clone)]
pub enum Text {
    /// The text itself. Wiped when dropped: it may be a key.
    Literal(Zeroizing<String>),
    /// `$secret://…` or `$env://…`, as written.
    Reference(String),
}

impl Text {
    /// A text of a document: itself, or the reference that it is.
    #[must_use]
    pub fn read(text: &str) -> Self {
        if is_reference(text) {
            Self::Reference(text.to_owned())
        } else {
            Self::Literal(Zeroizing::new(text.to_owned()))
        }
    }
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Literal(text) => write!(f, "Literal([withheld, {} bytes])", text.len()),
            Self::Reference(reference) => write!(f, "Reference({reference})"),
        }
    }
}

/// A certificate with its key, in a document.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate, with what is sent with it.
    pub cert: Text,
    /// Its key.
    pub key: Text,
    /// Both as they were read; `None` where one of them is a reference, or has a fault.
    pub read: Option<KeyPair>,
}

/// What an ssl resource is for (`type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Serves the names of `sni`/`snis`.
    Server,
    /// Only usable as an upstream's `tls.client_cert_id`.
    Client,
}

/// A typed ssl resource.
#[derive(Clone, Debug)]
pub struct Ssl {
    /// Server or client.
    pub role: Role,
    /// The names served; empty for role client. As given, normalised, no duplicates.
    pub names: Vec<SniPattern>,
    /// `cert`/`key` first, then `certs`/`keys`.
    pub pairs: Vec<Pair>,
    /// What is asked of clients (`client`).
    pub client: Option<Client>,
    /// `status` is not 0.
    pub enabled: bool,
    /// `ssl_protocols`, or the default.
    pub versions: Versions,
}

/// What an ssl resource asks of clients (`client`).
#[derive(Clone, Debug)]
pub struct Client {
    /// `client.ca`: PEM of one or more CAs.
    pub ca: Text,
    /// `client.crl`: PEM of the revocation lists that the whole chain is held against.
    pub crl: Option<Text>,
    /// `client.depth`, default 1: intermediates allowed.
    pub depth: u32,
    /// `client.mode`, or what its absence means: `Deferred` with skip patterns, else `Required`.
    pub mode: ClientAuth,
    /// `client.skip_mtls_uri_regex`; each compiles.
    pub skip: Vec<String>,
}

/// Reads what the schema has accepted. `None` only with a fault.
pub(super) fn read(document: &Document, terms: &Terms, verdict: &mut Verdict) -> Option<Ssl> {
    let role = match members::text(document, "type") {
        Some("client") => Role::Client,
        _ => Role::Server,
    };
    let names = read_names(document, verdict);
    let (pairs, chains) = read_pairs(document, terms, verdict);
    let client =
        members::object(document, "client").and_then(|client| read_client(client, terms, verdict));
    let versions = read_protocols(document, verdict);
    let ssl = Ssl {
        role,
        names: if role == Role::Server {
            names
        } else {
            Vec::new()
        },
        pairs,
        client: client.filter(|_| role == Role::Server),
        enabled: members::is_enabled(document),
        versions,
    };
    match role {
        Role::Server => warn_of_uncovered(&ssl, &chains, verdict),
        Role::Client => warn_of_unused(document, verdict),
    }
    Some(ssl)
}

fn read_names(document: &Document, verdict: &mut Verdict) -> Vec<SniPattern> {
    let mut names: Vec<SniPattern> = Vec::new();
    let mut seen = HashSet::new();
    let mut doubles: Vec<(String, String)> = Vec::new();
    for (at, text) in members::one_or_many(document, "sni", "snis") {
        match SniPattern::parse(text) {
            Ok(name) if !seen.insert(name.clone()) => doubles.push((at, name.to_string())),
            Ok(name) => names.push(name),
            Err(error) => verdict.refuse(at, format!("invalid server name: {error}")),
        }
    }
    if let Some((at, _)) = doubles.first() {
        let all: Vec<&str> = doubles.iter().map(|(_, name)| name.as_str()).collect();
        let text = format!(
            "listed more than once: {}; once counts",
            texts::listed(&all)
        );
        verdict.warn("duplicate_name", at, text);
    }
    names
}

/// All pairs, and the chains of those whose certificate is given as text.
fn read_pairs(
    document: &Document,
    terms: &Terms,
    verdict: &mut Verdict,
) -> (Vec<Pair>, Vec<CertChain>) {
    let mut pairs = Vec::new();
    let mut chains = Vec::new();
    let mut add = |cert: &Located<'_>, key: &Located<'_>, prefix: &str, verdict: &mut Verdict| {
        let (pair, chain) = pem::read_pair(cert, key, prefix, terms, verdict);
        pairs.push(pair);
        chains.extend(chain);
    };
    if let (Some(cert), Some(key)) = (
        members::text(document, "cert"),
        members::text(document, "key"),
    ) {
        add(
            &("/cert".to_owned(), cert),
            &("/key".to_owned(), key),
            "",
            verdict,
        );
    }
    let length = |member: &str| members::texts(document, member).count();
    if length("certs") != length("keys") {
        verdict.refuse_as_apisix("/keys", "mismatched number of certs and keys");
    } else {
        let both = members::texts(document, "certs").zip(members::texts(document, "keys"));
        for ((index, cert), (_, key)) in both {
            let prefix = format!("failed to handle cert-key pair[{}]: ", index + 1);
            let cert = (format!("/certs/{index}"), cert);
            add(&cert, &(format!("/keys/{index}"), key), &prefix, verdict);
        }
    }
    (pairs, chains)
}

fn read_client(client: &Document, terms: &Terms, verdict: &mut Verdict) -> Option<Client> {
    for member in ["ocsp", "allowed"] {
        if client.contains_key(member) {
            verdict.refuse_unsupported(format!("/client/{member}"), &format!("client.{member}"));
        }
    }
    let ca = ("/client/ca".to_owned(), members::text(client, "ca")?);
    let ca = pem::read_issuers(&ca, "failed to validate client_cert: ", terms, verdict);
    if let Text::Literal(pem) = &ca
        && CaBundle::parse(pem).is_ok_and(|bundle| !bundle.has_root())
    {
        let text = "no certificate in client.ca is self-signed: an intermediate without its root \
                    lets nobody in; add the root";
        verdict.warn("client_ca_without_root", "/client/ca", text);
    }
    let crl = members::text(client, "crl").map(|text| {
        let issuers = match &ca {
            Text::Literal(pem) => CaBundle::parse(pem).ok(),
            Text::Reference(_) => None,
        };
        let crl = ("/client/crl".to_owned(), text);
        pem::read_crls(&crl, "client.ca", issuers.as_ref(), terms, verdict)
    });
    let skip: Vec<String> = members::texts(client, "skip_mtls_uri_regex")
        .map(|(_, text)| text.to_owned())
        .collect();
    if let Err(error) = PathRegexes::compile(&skip) {
        // The crate's own words quote the whole pattern.
        let reason = match error.reason {
            PatternFault::Regex(regex::Error::CompiledTooBig(_)) => {
                "too large once it is compiled".to_owned()
            }
            PatternFault::Regex(_) => {
                "not a regular expression that is supported: there is no look-around and no back \
                 reference"
                    .to_owned()
            }
            PatternFault::TooMany => format!("beyond the {PATTERN_COUNT_MAX} that a list may have"),
        };
        let at = format!("/client/skip_mtls_uri_regex/{}", error.index);
        verdict.refuse(
            at,
            format!("skip_mtls_uri_regex[{}] is {reason}", error.index + 1),
        );
    }
    let mode = match (members::text(client, "mode"), skip.is_empty()) {
        (Some(mode @ ("required" | "optional")), false) => {
            verdict.refuse(
                "/client/mode",
                format!(
                    "client.mode {mode} leaves skip_mtls_uri_regex without effect; use deferred"
                ),
            );
            ClientAuth::Deferred
        }
        (Some("optional"), true) => ClientAuth::Optional,
        (Some("deferred"), _) | (None, false) => ClientAuth::Deferred,
        (_, _) => ClientAuth::Required,
    };
    let depth = client.get("depth").and_then(members::count).unwrap_or(1);
    Some(Client {
        ca,
        crl,
        depth,
        mode,
        skip,
    })
}

fn read_protocols(document: &Document, verdict: &mut Verdict) -> Versions {
    let at = "/ssl_protocols";
    if !document.contains_key("ssl_protocols") {
        return Versions::default();
    }
    let mut versions = Vec::new();
    for (index, name) in members::texts(document, "ssl_protocols") {
        match read_version(name) {
            Some(version) => versions.push(version),
            None => verdict.refuse(
                format!("{at}/{index}"),
                format!("{name} is not served (RFC 8996); the lowest version is TLSv1.2"),
            ),
        }
    }
    let (Some(min), Some(max)) = (versions.iter().min(), versions.iter().max()) else {
        if document
            .get("ssl_protocols")
            .and_then(Value::as_array)
            .is_some_and(Vec::is_empty)
        {
            verdict.refuse(at, "ssl_protocols is empty; name TLSv1.2, TLSv1.3 or both");
        }
        return Versions::default();
    };
    Versions {
        min: *min,
        max: *max,
    }
}

/// The version that APISIX's name means; `None` for one that is never served.
pub(super) fn read_version(name: &str) -> Option<TlsVersion> {
    match name {
        "TLSv1.2" => Some(TlsVersion::V1_2),
        "TLSv1.3" => Some(TlsVersion::V1_3),
        _ => None,
    }
}

/// Warns of names that no certificate was issued for, unless one is kept elsewhere.
fn warn_of_uncovered(ssl: &Ssl, chains: &[CertChain], verdict: &mut Verdict) {
    if chains.len() < ssl.pairs.len() {
        return;
    }
    let issued: HashSet<SniPattern> = chains
        .iter()
        .flat_map(|chain| material::dns_names(&chain.leaf))
        .filter_map(|name| SniPattern::parse(&name).ok())
        .collect();
    let by_wildcard = |name: &str| {
        name.split_once('.')
            .and_then(|(_, parent)| SniPattern::parse(&format!("*.{parent}")).ok())
            .is_some_and(|wildcard| issued.contains(&wildcard))
    };
    let is_covered = |name: &&SniPattern| match name {
        SniPattern::CatchAll => true,
        SniPattern::Wildcard(_) => issued.contains(*name),
        SniPattern::Exact(exact) => issued.contains(*name) || by_wildcard(exact.as_str()),
    };
    let uncovered = ssl.names.iter().filter(|name| !is_covered(name));
    let uncovered: Vec<String> = uncovered.map(ToString::to_string).collect();
    if !uncovered.is_empty() {
        let text = format!(
            "no certificate of this ssl was issued for {}; clients that check names refuse it",
            texts::listed(&uncovered)
        );
        verdict.warn("name_not_covered", "/cert", text);
    }
}

/// Warns of members that an ssl of type client does not use.
fn warn_of_unused(document: &Document, verdict: &mut Verdict) {
    for member in ["sni", "snis", "client", "ssl_protocols"] {
        if document.contains_key(member) {
            let text = format!("{member} has no effect on an ssl of type client");
            verdict.warn_unused(format!("/{member}"), text);
        }
    }
    if members::texts(document, "certs").next().is_some() {
        let text = "upstreams are shown cert and key; certs and keys have no effect";
        verdict.warn_unused("/certs", text);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::resource::fault::{Faults, Words};
    use crate::resource::sample::{TERMS, accepted, judge, refusal, warnings};
    use crate::resource::{Kind, Occasion, Resource, Terms};
    use crate::tls::sample::{self, NOW, Wish};

    /// A good ssl for `a.com`, with the given members put over it; null takes one out.
    fn with(members: &Value) -> Value {
        let leaf = sample::leaf(&sample::ca("ca"), "a.com", &["a.com", "*.b.com"]);
        let mut body = json!({"cert": leaf.cert, "key": leaf.key_pem, "snis": ["a.com"]});
        for (name, value) in members.as_object().unwrap() {
            let body = body.as_object_mut().unwrap();
            if value.is_null() {
                body.shift_remove(name);
            } else {
                body.insert(name.clone(), value.clone());
            }
        }
        body
    }

    fn read_as(body: &Value, terms: &Terms) -> Result<Ssl, Faults> {
        let Resource::Ssl(ssl) = judge(Kind::Ssl, body, terms)?.resource else {
            panic!("of another kind")
        };
        Ok(*ssl)
    }

    fn read(body: &Value) -> Ssl {
        read_as(body, &TERMS).unwrap()
    }

    #[test]
    fn a_good_ssl_is_read_whole() {
        let ca = sample::ca("client ca").cert;
        let ssl = read(&with(&json!({
            "snis": ["A.com.", "x.b.com"],
            "client": {"ca": ca, "depth": 2.0, "skip_mtls_uri_regex": ["^/open"]},
            "ssl_protocols": ["TLSv1.3"],
            "status": 0,
            "labels": {"env": "prod"},
            "desc": "x"
        })));
        assert_eq!(ssl.role, Role::Server);
        let names: Vec<String> = ssl.names.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["a.com", "x.b.com"]);
        assert_eq!(ssl.pairs.len(), 1);
        let client = ssl.client.unwrap();
        assert_eq!((client.depth, client.mode), (2, ClientAuth::Deferred));
        assert_eq!(client.skip, ["^/open"]);
        assert!(!ssl.enabled);
        assert_eq!(
            ssl.versions,
            Versions {
                min: TlsVersion::V1_3,
                max: TlsVersion::V1_3
            }
        );
    }

    #[test]
    fn what_the_schema_refuses_has_apisix_s_text() {
        let clause = "invalid configuration: then clause did not match";
        for (members, text) in [
            (json!({"snis": null}), clause),
            (json!({"sni": "a.com"}), clause),
            (json!({"cert": null}), clause),
            (
                json!({"type": "client", "key": null}),
                "invalid configuration: else clause did not match",
            ),
            (
                json!({"validity_end": 1}),
                "invalid configuration: additional properties forbidden, found validity_end",
            ),
            (
                json!({"cert": "short"}),
                "invalid configuration: property \"cert\" validation failed: string too short, \
                 expected at least 128, got 5",
            ),
            (
                json!({"snis": ["a.com", "b c"]}),
                "invalid configuration: property \"snis\" validation failed: failed to validate \
                 item 2: failed to match pattern \"^\\\\*$|^\\\\*?[0-9a-zA-Z-._\\\\[\\\\]:]+$\" with \
                 \"b c\"",
            ),
            (
                json!({"snis": []}),
                "invalid configuration: property \"snis\" validation failed: expect array to have \
                 at least 1 items",
            ),
            (
                json!({"client": {}}),
                "invalid configuration: property \"client\" validation failed: property \"ca\" is \
                 required",
            ),
            (
                json!({"client": {"ca": "x".repeat(128), "dept": 1}}),
                "invalid configuration: property \"client\" validation failed: additional \
                 properties forbidden, found dept, did you mean \"depth\"?",
            ),
            (
                json!({"status": 2}),
                "invalid configuration: property \"status\" validation failed: matches none of \
                 the enum values",
            ),
            (
                json!({"labels": {"env": 1}}),
                "invalid configuration: property \"labels\" validation failed: failed to validate \
                 env (matching \".*\"): wrong type: expected string, got number",
            ),
            (
                json!({"name": "x"}),
                "invalid configuration: additional properties forbidden, found name",
            ),
        ] {
            assert_eq!(refusal(Kind::Ssl, &with(&members)), text);
        }
        accepted(Kind::Ssl, &with(&json!({"sni": "a.com", "snis": null})));
        accepted(Kind::Ssl, &with(&json!({"type": "client", "snis": null})));
    }

    #[test]
    fn blocks_that_are_no_certificates_are_refused() {
        let good = sample::leaf(&sample::ca("ca"), "a.com", &["a.com"]);
        let ca = sample::ca("ca").cert;
        let crl = "-----BEGIN X509 CRL-----\nAA==\n-----END X509 CRL-----\n";
        for (members, at, prefix) in [
            (
                json!({"cert": format!("{}{crl}", good.cert), "key": good.key_pem}),
                "/cert",
                "",
            ),
            (
                json!({"client": {"ca": format!("{ca}{crl}")}}),
                "/client/ca",
                "failed to validate client_cert: ",
            ),
        ] {
            let body = with(&members);
            let faults = judge(Kind::Ssl, &body, &TERMS).unwrap_err().0;
            let text = format!("{prefix}only certificates belong here, not a block of X509 CRL");
            assert_eq!((faults[0].pointer.as_str(), &faults[0].reason), (at, &text));
            let loaded = judge(Kind::Ssl, &body, &Terms::load(NOW, false)).unwrap();
            assert_eq!(loaded.warnings[0].code, "not_a_certificate");
        }
        let commented = format!("Certificate:\n  Data: x\n{}", good.cert);
        let trusted = ca.replace("CERTIFICATE-----", "X509 CERTIFICATE-----");
        accepted(
            Kind::Ssl,
            &with(&json!({
                "cert": commented, "key": good.key_pem, "client": {"ca": trusted}
            })),
        );
    }

    #[test]
    fn pem_that_cannot_be_read_is_refused_without_being_quoted() {
        let junk = "x".repeat(200);
        let bad_key = format!("-----BEGIN PRIVATE KEY-----\n{junk}\n-----END PRIVATE KEY-----\n");
        let good = sample::leaf(&sample::ca("ca"), "a.com", &["a.com"]);
        for (members, at, text) in [
            (
                json!({"cert": junk}),
                "/cert",
                "failed to parse cert: PEM_read_bio_X509_AUX() failed",
            ),
            (
                json!({"key": bad_key}),
                "/key",
                "failed to parse key: PEM_read_bio_PrivateKey() failed",
            ),
            (
                json!({"key": junk}),
                "/key",
                "failed to decrypt previous encrypted key",
            ),
            (
                json!({"key": "MIIJ0QIBAzCCCY8GCSqGSIb3DQEHAaCCCYAEggl8MIIJeDCCBe8GCSqGSIb3DQEHAaCCBeAEggXc"}),
                "/key",
                "key: PKCS #12 is not read, PEM only; take key and certificate out with `openssl \
                 pkcs12 -in FILE -nodes -out FILE.pem`",
            ),
            (
                json!({"key": good.key_pem}),
                "/key",
                "the private key does not belong to the certificate",
            ),
            (
                json!({"certs": [good.cert]}),
                "/keys",
                "mismatched number of certs and keys",
            ),
            (
                json!({"certs": [junk], "keys": [good.key_pem]}),
                "/certs/0",
                "failed to handle cert-key pair[1]: failed to parse cert: PEM_read_bio_X509_AUX() \
                 failed",
            ),
            (
                json!({"client": {"ca": junk}}),
                "/client/ca",
                "failed to validate client_cert: failed to parse cert: PEM_read_bio_X509_AUX() \
                 failed",
            ),
        ] {
            let faults = judge(Kind::Ssl, &with(&members), &TERMS).unwrap_err().0;
            assert_eq!(
                (faults[0].pointer.as_str(), faults[0].reason.as_str()),
                (at, text)
            );
            let is_ours = text.starts_with("key: PKCS #12") || text.ends_with("the certificate");
            assert_eq!(faults[0].words == Words::Ours, is_ours, "{text}");
            assert_ne!(faults[0].words, Words::Schema);
            assert!(!format!("{faults:?}").contains("xxxx"));
        }
        let two = read(&with(
            &json!({"certs": [good.cert], "keys": [good.key_pem]}),
        ));
        assert_eq!(two.pairs.len(), 2);
    }

    #[test]
    fn what_fips_would_refuse_is_told_without_it() {
        let ca = sample::ca("ca");
        let other = sample::ed25519_leaf(&ca, "a.com", &["a.com"]);
        let bundle = format!("{}{}", ca.cert, other.cert);
        for (members, at, text) in [
            (
                json!({"cert": other.cert, "key": other.key_pem}),
                "/cert",
                "certificate 1 has the algorithm Ed25519",
            ),
            (
                json!({"cert": "$env://CERT", "key": other.key_pem}),
                "/key",
                "the private key has the algorithm Ed25519",
            ),
            (
                json!({"certs": [other.cert], "keys": [other.key_pem]}),
                "/certs/0",
                "certificate 1 has the algorithm Ed25519",
            ),
            (
                json!({"client": {"ca": bundle}}),
                "/client/ca",
                "certificate 2 has the algorithm Ed25519",
            ),
        ] {
            let told = accepted(Kind::Ssl, &with(&members)).warnings;
            assert_eq!(
                (told[0].code, told[0].pointer.as_str(), told.len()),
                ("fips_would_refuse", at, 1)
            );
            assert!(told[0].text.starts_with(text), "{told:?}");
        }
        assert!(warnings(Kind::Ssl, &with(&json!({"client": {"ca": ca.cert}}))).is_empty());
    }

    #[test]
    fn intermediate_without_its_root_is_told() {
        let root = sample::ca("root");
        let below = sample::leaf(&root, "below", &[]).cert;
        let both = format!("{below}{}", root.cert);
        for (ca, told) in [(below, &["client_ca_without_root"][..]), (both, &[])] {
            let document = with(&json!({"client": {"ca": ca}}));
            assert_eq!(warnings(Kind::Ssl, &document), told);
        }
    }

    #[test]
    fn references_stand_for_what_they_name() {
        let ssl = read(&with(&json!({
            "cert": "$secret://vault/1/web/cert",
            "key": "$ENV://KEY",
            "client": {"ca": "$env://CA"}
        })));
        assert!(matches!(&ssl.pairs[0].cert, Text::Reference(text) if text.starts_with("$secret")));
        assert!(matches!(&ssl.pairs[0].key, Text::Reference(text) if text == "$ENV://KEY"));
        assert!(matches!(&ssl.client.unwrap().ca, Text::Reference(_)));
        // One half as text: it is read, and not held against the other.
        accepted(Kind::Ssl, &with(&json!({"key": "$env://KEY"})));
        let half = with(&json!({"cert": "x".repeat(128), "key": "$env://KEY"}));
        assert!(refusal(Kind::Ssl, &half).starts_with("failed to parse cert"));
        let text = refusal(Kind::Ssl, &with(&json!({"snis": ["$env://NAME"]})));
        assert!(text.contains("failed to match pattern"), "{text}");
    }

    #[test]
    fn client_mode_says_what_its_absence_means() {
        let ca = sample::ca("ca").cert;
        let skip = json!(["^/open"]);
        for (client, mode) in [
            (json!({"ca": ca}), ClientAuth::Required),
            (json!({"ca": ca, "mode": "required"}), ClientAuth::Required),
            (json!({"ca": ca, "mode": "optional"}), ClientAuth::Optional),
            (json!({"ca": ca, "mode": "deferred"}), ClientAuth::Deferred),
            (
                json!({"ca": ca, "mode": "deferred", "skip_mtls_uri_regex": skip}),
                ClientAuth::Deferred,
            ),
            (
                json!({"ca": ca, "skip_mtls_uri_regex": skip}),
                ClientAuth::Deferred,
            ),
        ] {
            let client = read(&with(&json!({"client": client}))).client.unwrap();
            assert_eq!((client.mode, client.depth), (mode, 1));
        }
        for mode in ["required", "optional"] {
            let client = json!({"ca": ca, "mode": mode, "skip_mtls_uri_regex": skip});
            let text = format!(
                "client.mode {mode} leaves skip_mtls_uri_regex without effect; use deferred"
            );
            assert_eq!(refusal(Kind::Ssl, &with(&json!({"client": client}))), text);
        }
        for (pattern, text) in [
            (
                "hush(\n",
                "skip_mtls_uri_regex[2] is not a regular expression that is supported",
            ),
            (
                "a{9999}{99}",
                "skip_mtls_uri_regex[2] is too large once it is compiled",
            ),
        ] {
            let bad = json!({"ca": ca, "skip_mtls_uri_regex": ["^/a", pattern]});
            let faults = judge(Kind::Ssl, &with(&json!({"client": bad})), &TERMS).unwrap_err();
            assert_eq!(faults.0[0].pointer, "/client/skip_mtls_uri_regex/1");
            assert!(faults.0[0].reason.starts_with(text), "{faults:?}");
            assert!(!format!("{faults:?}").contains("hush"));
        }
    }

    #[test]
    fn revocation_lists_are_of_the_listed_cas_and_in_their_dates() {
        const DAY: i64 = 86_400;
        let (ca, below) = (sample::ca("ca"), sample::ca("below"));
        let good = (NOW - DAY, NOW + DAY);
        let list = sample::crl(&ca, &[1], good);
        let body = |crl: &str| with(&json!({"client": {"ca": ca.cert, "crl": crl}}));
        let crl = read(&body(&list)).client.unwrap().crl;
        assert!(matches!(crl, Some(Text::Literal(text)) if *text == list));
        assert!(!warnings(Kind::Ssl, &body(&list)).contains(&"crl_missing"));
        let both = json!({"ca": format!("{}{}", ca.cert, below.cert), "crl": list});
        let both = with(&json!({"client": both}));
        assert!(warnings(Kind::Ssl, &both).contains(&"crl_missing"));
        let kept = read(&body("$secret://vault/1/a/crl")).client.unwrap().crl;
        assert!(matches!(kept, Some(Text::Reference(_))));
        let stale = sample::crl(&ca, &[], (NOW - 2 * DAY, NOW - DAY));
        for (crl, text) in [
            (
                "x".repeat(128),
                "client.crl: no revocation list that can be read",
            ),
            (
                ca.cert.clone(),
                "client.crl: only revocation lists belong here, not a block of CERT",
            ),
            (
                sample::crl(&below, &[], good),
                "client.crl: the revocation list of CN=below is signed by none of the CAs",
            ),
            (
                stale.clone(),
                "client.crl: the revocation list of CN=ca ended on ",
            ),
            (
                sample::crl(&ca, &[], (NOW + DAY, NOW + 2 * DAY)),
                "client.crl: the revocation list of CN=ca is not valid before ",
            ),
        ] {
            let told = refusal(Kind::Ssl, &body(&crl));
            assert!(told.starts_with(text), "{told}");
        }
        // What was written in time is kept, and refuses whoever comes: see `tls::trust`.
        let loading = Terms {
            occasion: Occasion::Load,
            ..TERMS
        };
        assert!(read_as(&body(&stale), &loading).unwrap().client.is_some());
    }

    #[test]
    fn what_is_not_served_yet_is_refused() {
        let ca = sample::ca("ca").cert;
        for member in ["ocsp", "allowed"] {
            let client = json!({"ca": ca, member: ["x"]});
            let text = format!("client.{member} is not supported by this version");
            assert_eq!(refusal(Kind::Ssl, &with(&json!({"client": client}))), text);
        }
        for (protocols, text) in [
            (
                json!(["TLSv1.1", "TLSv1.2"]),
                "TLSv1.1 is not served (RFC 8996); the lowest version is TLSv1.2",
            ),
            (
                json!([]),
                "ssl_protocols is empty; name TLSv1.2, TLSv1.3 or both",
            ),
        ] {
            assert_eq!(
                refusal(Kind::Ssl, &with(&json!({"ssl_protocols": protocols}))),
                text
            );
        }
        let both = read(&with(&json!({"ssl_protocols": ["TLSv1.3", "TLSv1.2"]})));
        assert_eq!(both.versions, Versions::default());
    }

    #[test]
    fn names_no_client_can_send_are_refused() {
        for (name, text) in [
            ("*foo.com", "invalid server name: '*' must stand alone"),
            (
                "127.0.0.1",
                "invalid server name: an IP address is never sent",
            ),
            (
                "a.com:443",
                "invalid server name: a server name has no port",
            ),
        ] {
            let found = refusal(Kind::Ssl, &with(&json!({"snis": [name]})));
            assert!(found.starts_with(text), "{found}");
        }
        assert_eq!(
            read(&with(&json!({"snis": ["*"]}))).names,
            [SniPattern::CatchAll]
        );
    }

    #[test]
    fn an_expired_ca_is_refused_when_written_and_told_when_loaded() {
        let old = sample::issue(
            &Wish {
                name: "old",
                dns: &[],
                valid: (0, NOW - 1),
            },
            None,
        )
        .cert;
        let both = format!("{}{old}", sample::ca("new").cert);
        let body = with(&json!({"client": {"ca": both}}));
        let text = "failed to validate client_cert: the CA CN=old expired on Wed, 31 Dec 2025 \
                    23:59:59 GMT";
        assert_eq!(refusal(Kind::Ssl, &body), text);
        let loaded = judge(Kind::Ssl, &body, &Terms::load(NOW, false)).unwrap();
        assert_eq!(loaded.warnings[0].code, "ca_expired");
    }

    #[test]
    fn what_clients_will_not_like_is_told() {
        let ca = sample::ca("ca");
        let dated = |valid| {
            let leaf = sample::issue(
                &Wish {
                    name: "a.com",
                    dns: &[],
                    valid,
                },
                Some(&ca),
            );
            with(&json!({"cert": leaf.cert, "key": leaf.key_pem}))
        };
        for (body, expected) in [
            (with(&json!({})), vec![]),
            (with(&json!({"snis": ["x.b.com"]})), vec![]),
            (with(&json!({"snis": ["*.b.com"]})), vec![]),
            (with(&json!({"snis": ["*"]})), vec![]),
            (dated((0, NOW)), vec![]),
            (dated((0, NOW - 1)), vec!["certificate_expired"]),
            (dated((NOW + 1, NOW + 2)), vec!["certificate_not_yet_valid"]),
            (with(&json!({"snis": ["b.com"]})), vec!["name_not_covered"]),
            (
                with(&json!({"snis": ["y.x.b.com"]})),
                vec!["name_not_covered"],
            ),
            (
                with(&json!({"snis": ["*.a.com"]})),
                vec!["name_not_covered"],
            ),
            (
                with(&json!({"snis": ["a.com", "A.com"]})),
                vec!["duplicate_name"],
            ),
            (with(&json!({"type": "client"})), vec!["member_unused"]),
            (
                with(&json!({"type": "client", "snis": null, "ssl_protocols": ["TLSv1.3"]})),
                vec!["member_unused"],
            ),
            (
                with(
                    &json!({"type": "client", "snis": null, "certs": ["$env://C"], "keys": ["$env://K"]}),
                ),
                vec!["member_unused"],
            ),
            (
                with(&json!({"snis": ["b.com", "c.com", "b.com", "c.com"]})),
                vec!["duplicate_name", "name_not_covered"],
            ),
        ] {
            assert_eq!(warnings(Kind::Ssl, &body), expected);
        }
    }

    #[test]
    fn a_client_ssl_serves_no_name() {
        let ssl = read(&with(&json!({"type": "client"})));
        assert_eq!((ssl.role, ssl.names.len()), (Role::Client, 0));
    }
}
