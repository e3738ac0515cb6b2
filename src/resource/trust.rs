//! The `tls` of an upstream: what we show, what we believe, and what is told when less is checked.

use std::net::IpAddr;

use super::fault::Verdict;
use super::ssl::{self, Text};
use super::upstream::{Identity, PassHost, Scheme, UpstreamTls};
use super::{Document, Terms, members, pem, texts};
use crate::matching::host::HostPattern;
use crate::matching::sni::SniName;
use crate::tls::material::{CaBundle, is_approval_required};
use crate::tls::policy::{self, Offer, OfferError, Profile, Versions};

/// What of a refused list is told: a name of 64 characters and all that may be chosen.
const OFFER_CHARS: usize = 512;

/// `tls`, at `base` in its document.
pub(super) fn read(
    tls: &Document,
    base: &str,
    terms: &Terms,
    verdict: &mut Verdict,
) -> UpstreamTls {
    let verify = members::flag(tls, "verify").unwrap_or(false);
    let ca_certs = read_ca_certs(tls, base, verify, terms, verdict);
    UpstreamTls {
        identity: read_identity(tls, base, terms, verdict),
        verify,
        crl: read_crl(tls, base, verify, &ca_certs, terms, verdict),
        ca_certs,
        server_name: read_server_name(tls, base, verdict),
        offer: read_offer(tls, base, verdict),
    }
}

fn read_identity(tls: &Document, base: &str, terms: &Terms, verdict: &mut Verdict) -> Identity {
    if let Some(id) = tls.get("client_cert_id").and_then(members::id) {
        return Identity::Ssl(id);
    }
    let (Some(cert), Some(key)) = (
        members::text(tls, "client_cert"),
        members::text(tls, "client_key"),
    ) else {
        return Identity::None;
    };
    let cert = (format!("{base}/client_cert"), cert);
    let key = (format!("{base}/client_key"), key);
    Identity::Inline(Box::new(pem::read_pair(&cert, &key, "", terms, verdict).0))
}

fn read_ca_certs(
    tls: &Document,
    base: &str,
    verify: bool,
    terms: &Terms,
    verdict: &mut Verdict,
) -> Vec<Text> {
    let at = format!("{base}/ca_certs");
    let mut issuers = Vec::new();
    for (index, text) in members::texts(tls, "ca_certs") {
        let prefix = format!("failed to validate ca_certs[{}]: ", index + 1);
        issuers.push(pem::read_issuers(
            &(format!("{at}/{index}"), text),
            &prefix,
            terms,
            verdict,
        ));
    }
    if verify && lacks_root(&issuers) {
        let text = "no certificate in tls.ca_certs is self-signed: a leaf or an intermediate without \
                    its root is trusted by nobody; add the root";
        verdict.warn("ca_certs_without_root", &at, text);
    }
    if verify && issuers.is_empty() {
        if tls.contains_key("ca_certs") {
            let reason = "tls.verify is true and ca_certs is empty: nothing would be trusted; list \
                          the CA, or leave ca_certs out and set upstream.trust_file in the config";
            verdict.refuse(at, reason);
        } else if !terms.trust_file_configured {
            let reason = "tls.verify is true and no CA is known: set tls.ca_certs, or \
                          upstream.trust_file in the config";
            verdict.refuse(at, reason);
        }
    }
    issuers
}

/// Whether CAs that are all known here have no root among them.
fn lacks_root(issuers: &[Text]) -> bool {
    let bundle = |text: &Text| match text {
        Text::Literal(pem) => CaBundle::parse(pem).ok(),
        Text::Reference(_) => None,
    };
    let bundles: Option<Vec<CaBundle>> = issuers.iter().map(bundle).collect();
    bundles.is_some_and(|bundles| !bundles.is_empty() && !bundles.iter().any(CaBundle::has_root))
}

fn read_crl(
    tls: &Document,
    base: &str,
    verify: bool,
    ca_certs: &[Text],
    terms: &Terms,
    verdict: &mut Verdict,
) -> Option<Text> {
    let text = members::text(tls, "crl")?;
    let at = format!("{base}/crl");
    if !verify {
        let reason = "tls.crl is checked only with tls.verify; set tls.verify to true with \
                      tls.ca_certs, or take tls.crl out";
        verdict.refuse(&at, reason);
    }
    let literal = |text: &'_ Text| match text {
        Text::Literal(pem) => Some(pem.to_string()),
        Text::Reference(_) => None,
    };
    // Of `upstream.trust_file` it is seen when the connector is made.
    let issuers: Option<Vec<String>> = ca_certs.iter().map(literal).collect();
    let issuers = issuers.filter(|pems| !pems.is_empty());
    let issuers =
        issuers.and_then(|pems| CaBundle::parse_all(pems.iter().map(String::as_str)).ok());
    let crl = (at, text);
    Some(pem::read_crls(
        &crl,
        "tls.ca_certs",
        issuers.as_ref(),
        terms,
        verdict,
    ))
}

fn read_server_name(tls: &Document, base: &str, verdict: &mut Verdict) -> Option<String> {
    let text = members::text(tls, "server_name")?;
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Some(address.to_string());
    }
    match SniName::parse(text.as_bytes()) {
        Ok(name) => Some(name.as_str().to_owned()),
        Err(error) => {
            verdict.refuse(
                format!("{base}/server_name"),
                format!("invalid server_name: {error}"),
            );
            None
        }
    }
}

fn read_versions(tls: &Document, base: &str, verdict: &mut Verdict) -> Versions {
    let default = Versions::default();
    let read = |member: &str| members::text(tls, member).and_then(ssl::read_version);
    let versions = Versions {
        min: read("min_version").unwrap_or(default.min),
        max: read("max_version").unwrap_or(default.max),
    };
    if versions.min > versions.max {
        verdict.refuse(
            format!("{base}/min_version"),
            "min_version is above max_version",
        );
    }
    versions
}

/// `ciphers` and `groups`: a choice from what the process permits.
fn read_offer(tls: &Document, base: &str, verdict: &mut Verdict) -> Offer {
    type Narrow = fn(Offer, &str, &Profile) -> Result<Offer, OfferError>;
    let members: [(&str, Narrow); 2] = [
        ("ciphers", Offer::with_ciphers),
        ("groups", Offer::with_groups),
    ];
    let mut offer = Offer::of(read_versions(tls, base, verdict));
    for (member, narrow) in members {
        let Some(list) = members::text(tls, member) else {
            continue;
        };
        let at = format!("{base}/{member}");
        match narrow(offer.clone(), list, policy::profile()) {
            Ok(narrowed) => offer = narrowed,
            Err(error) => {
                let told = texts::escaped(&error.to_string(), OFFER_CHARS);
                verdict.refuse(at, format!("tls.{member}: {told}"));
                continue;
            }
        }
        if let Some(name) = policy::unapproved(list)
            && !is_approval_required()
        {
            let text = format!("tls.{member}: `fips: required` refuses {name}");
            verdict.warn("fips_would_refuse", at, text);
        }
    }
    offer
}

/// Warns where less is checked than a reader of the document may think.
pub(super) fn warn(
    scheme: Scheme,
    pass_host: &PassHost,
    tls: Option<&UpstreamTls>,
    hosts: &[HostPattern],
    base: &str,
    verdict: &mut Verdict,
) {
    if !scheme.is_tls() {
        if tls.is_some() {
            let text = if scheme.is_http2() {
                "tls has no effect with scheme grpc; set scheme to grpcs"
            } else {
                "tls has no effect with scheme http; set scheme to https"
            };
            verdict.warn("tls_unused", format!("{base}/tls"), text);
        }
        return;
    }
    let verify = tls.is_some_and(|tls| tls.verify);
    if !verify {
        let at = format!("{base}/tls/verify");
        let text = match tls {
            Some(tls) if !tls.ca_certs.is_empty() => {
                "ca_certs has no effect: the upstream's certificate is not checked until tls.verify \
                 is true"
            }
            _ => "the upstream's certificate is not checked; set tls.verify with tls.ca_certs",
        };
        verdict.warn("upstream_not_verified", at, text);
    }
    let names_itself = tls.is_some_and(|tls| tls.server_name.is_some());
    if verify && *pass_host == PassHost::Pass && !names_itself && !are_listed(hosts) {
        let text = "the name checked is whatever host the client asks for; list hosts, set \
                    tls.server_name, or use pass_host node or rewrite";
        verdict.warn(
            "upstream_name_from_client",
            format!("{base}/pass_host"),
            text,
        );
    }
}

/// Whether the hosts are a closed list, so that a client cannot choose the name at will.
fn are_listed(hosts: &[HostPattern]) -> bool {
    !hosts.is_empty() && !hosts.contains(&HostPattern::Any)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::resource::Kind;
    use crate::resource::sample::{TERMS, accepted, judge, refusal, warnings};
    use crate::resource::upstream::tests::{read, read_as};
    use crate::tls::policy::TlsVersion;
    use crate::tls::sample::{self, NOW, Wish};

    /// An https upstream with this `tls`.
    fn with_tls(tls: &Value) -> Value {
        json!({"scheme": "https", "pass_host": "node", "nodes": {"a:1": 1}, "tls": tls})
    }

    #[test]
    fn our_identity_is_a_pair_that_fits_or_an_id() {
        let ca = sample::ca("ca");
        let (ours, other) = (sample::leaf(&ca, "us", &[]), sample::leaf(&ca, "them", &[]));
        let prefix = "invalid configuration: property \"tls\" validation failed: failed to \
                      validate dependent schema for ";
        for (tls, text) in [
            (
                json!({"client_cert": ours.cert}),
                format!("{prefix}\"client_cert\": property \"client_key\" is required"),
            ),
            (
                json!({"client_key": ours.key_pem}),
                format!("{prefix}\"client_key\": property \"client_cert\" is required"),
            ),
            (
                json!({"client_cert": ours.cert, "client_key": ours.key_pem, "client_cert_id": 1}),
                format!("{prefix}\"client_cert_id\": value wasn't supposed to match schema"),
            ),
            (
                json!({"client_cert": ours.cert, "client_key": other.key_pem}),
                "the private key does not belong to the certificate".to_owned(),
            ),
            (
                json!({"client_cert": "x".repeat(128), "client_key": ours.key_pem}),
                "failed to parse cert: PEM_read_bio_X509_AUX() failed".to_owned(),
            ),
            (
                json!({"verfy": true}),
                "invalid configuration: property \"tls\" validation failed: additional properties \
                 forbidden, found verfy, did you mean \"verify\"?"
                    .to_owned(),
            ),
        ] {
            assert_eq!(refusal(Kind::Upstream, &with_tls(&tls)), text);
        }
        let identity = |tls: Value| read(&with_tls(&tls)).tls.unwrap().identity;
        let pair = json!({"client_cert": ours.cert, "client_key": ours.key_pem});
        assert!(matches!(identity(pair), Identity::Inline(_)));
        let kept =
            json!({"client_cert": "$secret://vault/1/a/c", "client_key": "$secret://vault/1/a/k"});
        assert!(matches!(identity(kept), Identity::Inline(_)));
        let id = identity(json!({"client_cert_id": "c"}));
        assert!(matches!(id, Identity::Ssl(id) if id.as_str() == "c"));
        assert!(matches!(identity(json!({})), Identity::None));
    }

    #[test]
    fn verification_needs_something_to_trust() {
        let ca = sample::ca("ca").cert;
        let trusting = Terms {
            trust_file_configured: true,
            ..TERMS
        };
        let bare = with_tls(&json!({"verify": true}));
        let text = "tls.verify is true and no CA is known: set tls.ca_certs, or \
                    upstream.trust_file in the config";
        assert_eq!(refusal(Kind::Upstream, &bare), text);
        assert!(read_as(&bare, &trusting).tls.unwrap().verify);
        let listed = read(&with_tls(
            &json!({"verify": true, "ca_certs": [ca, "$env://CA"]}),
        ));
        assert_eq!(listed.tls.unwrap().ca_certs.len(), 2);
        let empty = with_tls(&json!({"verify": true, "ca_certs": []}));
        assert!(refusal(Kind::Upstream, &empty).contains("ca_certs is empty"));
        judge(Kind::Upstream, &empty, &trusting).unwrap_err();
        accepted(
            Kind::Upstream,
            &with_tls(&json!({"verify": false, "ca_certs": []})),
        );
        let junk = with_tls(&json!({"ca_certs": [ca, "x".repeat(128)]}));
        let text = "failed to validate ca_certs[2]: failed to parse cert: \
                    PEM_read_bio_X509_AUX() failed";
        assert_eq!(refusal(Kind::Upstream, &junk), text);
        let old = sample::issue(
            &Wish {
                name: "old",
                dns: &[],
                valid: (0, NOW - 1),
            },
            None,
        )
        .cert;
        let expired = with_tls(&json!({"ca_certs": [old]}));
        let text = refusal(Kind::Upstream, &expired);
        assert!(
            text.starts_with("failed to validate ca_certs[1]: the CA CN=old expired"),
            "{text}"
        );
    }

    #[test]
    fn cas_without_a_root_are_told_where_the_certificate_is_checked() {
        let ca = sample::ca("ca");
        let leaf = sample::leaf(&ca, "a.com", &["a.com"]).cert;
        let code = "ca_certs_without_root";
        for (tls, is_told) in [
            (json!({"verify": true, "ca_certs": [leaf]}), true),
            (json!({"verify": true, "ca_certs": [leaf, ca.cert]}), false),
            (
                json!({"verify": true, "ca_certs": [leaf.clone() + &ca.cert]}),
                false,
            ),
            (
                json!({"verify": true, "ca_certs": [leaf, "$env://CA"]}),
                false,
            ),
            (json!({"ca_certs": [leaf]}), false),
        ] {
            let warned = warnings(Kind::Upstream, &with_tls(&tls));
            assert_eq!(warned.contains(&code), is_told, "{tls}");
        }
    }

    #[test]
    fn revocation_lists_are_read_where_the_certificate_is_checked() {
        let (ca, other) = (sample::ca("ca"), sample::ca("other"));
        let list = sample::crl(&ca, &[], (NOW - 1, NOW + 1));
        let good = with_tls(&json!({"verify": true, "ca_certs": [ca.cert], "crl": list}));
        assert!(read(&good).tls.unwrap().crl.is_some());
        let unchecked = with_tls(&json!({"ca_certs": [ca.cert], "crl": list}));
        let text = "tls.crl is checked only with tls.verify";
        assert!(refusal(Kind::Upstream, &unchecked).starts_with(text));
        let foreign = with_tls(&json!({"verify": true, "ca_certs": [other.cert], "crl": list}));
        let told = refusal(Kind::Upstream, &foreign);
        assert!(
            told.starts_with("tls.crl: the revocation list of CN=ca is signed by"),
            "{told}"
        );
    }

    #[test]
    fn names_and_versions_of_tls_are_read() {
        let tls = |tls: Value| read(&with_tls(&tls)).tls.unwrap();
        for (text, name) in [
            ("Up.Test.", "up.test"),
            ("10.0.0.1", "10.0.0.1"),
            ("[::1]", "::1"),
            ("::1", "::1"),
        ] {
            assert_eq!(tls(json!({"server_name": text})).server_name.unwrap(), name);
        }
        let bad = with_tls(&json!({"server_name": "a b"}));
        assert!(refusal(Kind::Upstream, &bad).starts_with("invalid server_name: "));
        let versions = tls(json!({"min_version": "TLSv1.3"})).offer.versions;
        assert_eq!(
            (versions.min, versions.max),
            (TlsVersion::V1_3, TlsVersion::V1_3)
        );
        assert_eq!(tls(json!({})).offer, Offer::default());
        let crossed = with_tls(&json!({"min_version": "TLSv1.3", "max_version": "TLSv1.2"}));
        assert_eq!(
            refusal(Kind::Upstream, &crossed),
            "min_version is above max_version"
        );
    }

    #[test]
    fn ciphers_and_groups_are_chosen_from_what_is_permitted() {
        let tls = json!({
            "ciphers": "ECDHE-RSA-AES256-GCM-SHA384:TLS_AES_256_GCM_SHA384",
            "groups": "secp384r1",
        });
        let offer = read(&with_tls(&tls)).tls.unwrap().offer;
        let profile = policy::profile();
        assert_eq!(offer.ciphers(profile), "ECDHE-RSA-AES256-GCM-SHA384");
        assert_eq!(offer.suites(profile), "TLS_AES_256_GCM_SHA384");
        assert_eq!(offer.groups(profile), "P-384");
        for (tls, text) in [
            (
                json!({"ciphers": "HIGH:!aNULL"}),
                "tls.ciphers: `HIGH` is nothing that this gateway offers; choose from TLS_AES_128",
            ),
            (
                json!({"ciphers": "ECDHE-RSA-AES256-GCM-SHA384"}),
                "tls.ciphers: names no cipher of TLSv1.3; add one, or set max_version to TLSv1.2",
            ),
            (
                json!({"groups": "P-224"}),
                "tls.groups: `P-224` is nothing that this gateway offers; choose from X25519, P-256, P-384, P-521",
            ),
            (
                json!({"groups": 5}),
                "invalid configuration: property \"tls\" validation failed: property \"groups\" validation failed",
            ),
        ] {
            let told = refusal(Kind::Upstream, &with_tls(&tls));
            assert!(told.starts_with(text), "{told}");
        }
        let long = json!({"ciphers": "x".repeat(900)});
        let told = refusal(Kind::Upstream, &with_tls(&long));
        assert!(told.len() < 600 && told.contains("choose from"), "{told}");
        let only = json!({"ciphers": "ECDHE-RSA-AES256-GCM-SHA384", "max_version": "TLSv1.2"});
        accepted(Kind::Upstream, &with_tls(&only));
        let chacha = json!({"ciphers": "TLS_CHACHA20_POLY1305_SHA256", "min_version": "TLSv1.3", "groups": "X25519"});
        let told = warnings(Kind::Upstream, &with_tls(&chacha));
        assert_eq!(
            told.iter()
                .filter(|code| **code == "fips_would_refuse")
                .count(),
            2
        );
    }

    #[test]
    fn what_is_not_checked_is_told() {
        let ca = sample::ca("ca").cert;
        let pass = |tls: Value| json!({"scheme": "https", "nodes": {}, "tls": tls});
        let checked = json!({"verify": true, "ca_certs": [ca]});
        let named = json!({"verify": true, "ca_certs": [ca], "server_name": "a"});
        for (body, expected) in [
            (
                json!({"scheme": "https", "nodes": {}}),
                vec!["upstream_not_verified"],
            ),
            (
                pass(json!({"verify": false})),
                vec!["upstream_not_verified"],
            ),
            (
                with_tls(&json!({"ca_certs": [ca]})),
                vec!["upstream_not_verified"],
            ),
            (pass(checked.clone()), vec!["upstream_name_from_client"]),
            (pass(named), vec![]),
            (with_tls(&checked), vec![]),
            (
                json!({"nodes": {}, "tls": {"verify": false}}),
                vec!["tls_unused"],
            ),
            (json!({"nodes": {}}), vec![]),
        ] {
            assert_eq!(warnings(Kind::Upstream, &body), expected, "{body}");
        }
    }
}
