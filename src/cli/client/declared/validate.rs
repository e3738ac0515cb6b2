//! What can be said of a declared configuration without a server.

use std::collections::{HashMap, HashSet};
use std::num::NonZero;
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::super::envelope::id_text;
use super::super::table::{day, snis, text};
use super::compare::is_withheld;
use super::file::{Declared, Entry};
use crate::crypto::digest::{Sha256, sha256_framed};
use crate::resource::{Id, Kind, is_reference, shown};
use crate::tls::material::{self, CaBundle, CertChain, KeyPair, PrivateKey};

/// Fewer pairs than this are judged by one thread.
const LEAST_SHARE: usize = 64;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// With one of them nothing is sent.
    pub(super) faults: Vec<String>,
    /// What may be meant as it is.
    pub(super) warnings: Vec<String>,
}

/// Checks every object; `now` is in epoch seconds.
pub(super) fn check(declared: &Declared, now: i64) -> Found {
    let mut check = Check {
        now,
        found: Found::default(),
        judged: judge_all(declared, now),
    };
    let mut seen = HashSet::new();
    for (kind, entry) in declared.all() {
        check.id(kind, entry, &mut seen);
        match kind {
            Kind::Route => check.route(entry),
            Kind::Ssl => check.ssl(entry),
            Kind::Upstream => check.upstream(entry, &entry.value),
            Kind::Service | Kind::Secret => {}
        }
        if let Some(upstream) = entry.value.get("upstream") {
            check.upstream(entry, upstream);
        }
        check.references(declared, entry);
    }
    check.found
}

struct Check {
    now: i64,
    found: Found,
    judged: HashMap<Sha256, Judged>,
}

/// A certificate and its key with their names, as far as they are given.
struct Pair<'d> {
    cert: (String, Option<&'d str>),
    key: (String, Option<&'d str>),
}

impl<'d> Pair<'d> {
    fn of_ssl(ssl: &'d Value) -> Self {
        Self {
            cert: ("cert".to_owned(), text(ssl, "cert")),
            key: ("key".to_owned(), text(ssl, "key")),
        }
    }

    fn of_tls(tls: &'d Value) -> Self {
        Self {
            cert: ("tls.client_cert".to_owned(), text(tls, "client_cert")),
            key: ("tls.client_key".to_owned(), text(tls, "client_key")),
        }
    }

    /// All pairs of an object.
    fn all(kind: Kind, value: &'d Value) -> Vec<Self> {
        let list = |name: &str| value.get(name).and_then(Value::as_array);
        if kind == Kind::Ssl {
            let (certs, keys) = (list("certs"), list("keys"));
            let further = certs.into_iter().flatten().enumerate();
            let further = further.map(|(position, cert)| {
                let key = keys.and_then(|keys| keys.get(position));
                Self {
                    cert: (format!("certs[{position}]"), cert.as_str()),
                    key: (format!("keys[{position}]"), key.and_then(Value::as_str)),
                }
            });
            let first = Self::of_ssl(value);
            return std::iter::once(first).chain(further).collect();
        }
        let own = Some(value).filter(|_| kind == Kind::Upstream);
        let upstreams = own.into_iter().chain(value.get("upstream"));
        let tls = upstreams.filter_map(|upstream| upstream.get("tls"));
        tls.map(Self::of_tls).collect()
    }

    /// Both as far as they are PEM: what is no reference, and not the server's or Apache APISIX's to
    /// read.
    fn pem(&self) -> Texts<'d> {
        let literal =
            |text: Option<&'d str>| text.filter(|text| !is_reference(text) && !is_withheld(text));
        let key = literal(self.key.1).filter(|key| !is_sealed(key));
        [literal(self.cert.1), key]
    }
}

/// The texts of a certificate and a key.
type Texts<'d> = [Option<&'d str>; 2];

fn digest([cert, key]: Texts<'_>) -> Option<Sha256> {
    let texts = [cert, key].map(|text| text.unwrap_or_default().as_bytes());
    sha256_framed(&texts).ok()
}

/// Judges all pairs of a configuration, by the digest of both texts: one certificate may serve many
/// objects. To read one takes a quarter of a millisecond, so that all processors do.
fn judge_all(declared: &Declared, now: i64) -> HashMap<Sha256, Judged> {
    let mut texts = HashMap::new();
    for (kind, entry) in declared.all() {
        for pair in Pair::all(kind, &entry.value) {
            let pem = pair.pem();
            texts.extend(digest(pem).map(|digest| (digest, pem)));
        }
    }
    let texts: Vec<(Sha256, Texts<'_>)> = texts.into_iter().collect();
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let share = texts.len().div_ceil(threads).max(LEAST_SHARE);
    thread::scope(|scope| {
        let judge_share = |share: &[(Sha256, Texts<'_>)]| -> Vec<(Sha256, Judged)> {
            let judged = share.iter();
            judged
                .map(|(digest, pem)| (*digest, judge(*pem, now)))
                .collect()
        };
        let workers: Vec<_> = texts
            .chunks(share)
            .map(|share| scope.spawn(move || judge_share(share)))
            .collect();
        let shares = workers.into_iter().map(|worker| {
            let judged = worker.join();
            judged.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        shares.flatten().collect()
    })
}

/// What was found of a certificate and its key.
#[derive(Clone, Debug, Default)]
struct Judged {
    key: Option<String>,
    cert: Option<String>,
    /// Subject and end of the certificate, where it has ended.
    ended: Option<(String, i64)>,
}

impl Check {
    fn fault(&mut self, entry: &Entry, text: &str) {
        self.found.faults.push(format!("{}: {text}", entry.place));
    }

    fn warn(&mut self, entry: &Entry, text: &str) {
        self.found.warnings.push(format!("{}: {text}", entry.place));
    }

    fn id<'d>(&mut self, kind: Kind, entry: &'d Entry, seen: &mut HashSet<(Kind, &'d str)>) {
        if entry.id.is_empty() {
            let text = match entry.value.get("id") {
                None => "missing \"id\" field".to_owned(),
                Some(id) => format!("invalid id {}", shown(&id.to_string())),
            };
            return self.fault(entry, &text);
        }
        let is_id = entry.id.parse::<Id>().is_ok();
        if !is_id || entry.id.contains('/') != (kind == Kind::Secret) {
            self.fault(entry, &format!("invalid id \"{}\"", shown(&entry.id)));
        } else if !seen.insert((kind, &entry.id)) {
            self.fault(entry, &format!("duplicate id \"{}\"", entry.id));
        }
    }

    fn route(&mut self, entry: &Entry) {
        let members = ["uri", "uris", "paths"];
        if !members.iter().any(|name| entry.value.get(name).is_some()) {
            self.fault(entry, "either uri or uris is required");
        }
    }

    fn ssl(&mut self, entry: &Entry) {
        let value = &entry.value;
        if text(value, "type") != Some("client") && snis(value).is_empty() {
            self.fault(entry, "either sni or snis is required");
        }
        for pair in Pair::all(Kind::Ssl, value) {
            self.pair(entry, &pair);
        }
        if let Some(ca) = value.get("client").and_then(|client| text(client, "ca")) {
            self.issuers(entry, "client.ca", ca);
        }
    }

    fn upstream(&mut self, entry: &Entry, upstream: &Value) {
        let Some(tls) = upstream.get("tls") else {
            return;
        };
        self.pair(entry, &Pair::of_tls(tls));
        let trusted = tls.get("ca_certs").and_then(Value::as_array);
        for ca in trusted.into_iter().flatten().filter_map(Value::as_str) {
            self.issuers(entry, "tls.ca_certs", ca);
        }
    }

    fn pair(&mut self, entry: &Entry, pair: &Pair<'_>) {
        let pem = pair.pem();
        let judged = digest(pem).and_then(|digest| self.judged.get(&digest).cloned());
        let judged = judged.unwrap_or_else(|| judge(pem, self.now));
        if let Some(text) = &judged.key {
            self.fault(entry, &format!("{}: {text}", pair.key.0));
        }
        if let Some(text) = &judged.cert {
            self.fault(entry, &format!("{}: {text}", pair.cert.0));
        }
        if let Some((subject, end)) = &judged.ended {
            self.warn_of_end(entry, &pair.cert.0, subject, *end);
        }
    }

    fn issuers(&mut self, entry: &Entry, name: &str, pem: &str) {
        if is_reference(pem) {
            return;
        }
        match CaBundle::parse(pem) {
            Ok(bundle) => {
                for ca in &bundle.certificates {
                    self.dates(entry, name, ca);
                }
            }
            Err(error) => self.fault(entry, &format!("{name}: {error}")),
        }
    }

    fn dates(&mut self, entry: &Entry, name: &str, certificate: &material::Certificate) {
        if let Some((subject, end)) = ended(certificate, self.now) {
            self.warn_of_end(entry, name, &subject, end);
        }
    }

    fn warn_of_end(&mut self, entry: &Entry, name: &str, subject: &str, end: i64) {
        let text = format!("{name}: the certificate {subject} expired on {}", day(end));
        self.warn(entry, &text);
    }

    fn references(&mut self, declared: &Declared, entry: &Entry) {
        for (member, kind) in [
            ("upstream_id", Kind::Upstream),
            ("service_id", Kind::Service),
        ] {
            let Some(id) = entry.value.get(member).and_then(id_text) else {
                continue;
            };
            if !declared.of_kind(kind).any(|other| other.id == id) {
                let text = format!(
                    "{member} \"{}\" is not in this file; the server must have it",
                    shown(&id)
                );
                self.warn(entry, &text);
            }
        }
    }
}

/// Whether a text is a key as Apache APISIX shows it, encrypted with a key of its own: base64 of
/// whole AES blocks. It takes what it shows.
fn is_sealed(text: &str) -> bool {
    let decoded = STANDARD.decode(text);
    decoded.is_ok_and(|bytes| !bytes.is_empty() && bytes.len().is_multiple_of(16))
}

fn judge([cert, key]: Texts<'_>, now: i64) -> Judged {
    let mut judged = Judged::default();
    let chain = cert.map(CertChain::parse);
    // Not read where it fits at sight: that takes longer than all else.
    let key = key.filter(|key| !cert.is_some_and(|cert| KeyPair::is_plainly_one(cert, key)));
    match (&chain, key.map(PrivateKey::parse)) {
        (Some(Ok(chain)), Some(Ok(private))) => {
            let joined = KeyPair::join(chain.clone(), private);
            judged.key = joined.err().map(|error| error.to_string());
        }
        (_, Some(Err(error))) => judged.key = Some(error.to_string()),
        _ => {}
    }
    match chain {
        Some(Ok(chain)) => judged.ended = ended(&chain.leaf, now),
        Some(Err(error)) => judged.cert = Some(error.to_string()),
        None => {}
    }
    judged
}

/// Subject and end of a certificate that has ended.
fn ended(certificate: &material::Certificate, now: i64) -> Option<(String, i64)> {
    let (_, end) = material::validity(certificate).ok()?;
    (end < now).then(|| (shown(&material::subject(certificate)), end))
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    use crate::tls::sample;

    fn found(document: &Value) -> Found {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("config.json");
        std::fs::write(&file, document.to_string()).unwrap();
        let (declared, faults) = Declared::read(file.to_str().unwrap()).unwrap();
        assert_eq!(faults, Vec::<String>::new());
        check(&declared, sample::NOW)
    }

    #[test]
    fn faults_of_objects_are_all_told() {
        let ca = sample::ca("ca");
        let (one, other) = (
            sample::leaf(&ca, "a", &["a"]),
            sample::leaf(&ca, "b", &["b"]),
        );
        let found = found(&json!({
            "version": "1",
            "routes": [
                {"id": "x y", "uri": "/a"}, {"id": "a", "uri": "/a"}, {"id": "a", "uris": ["/a"]},
                {"id": "b"}, {"uri": "/c"}, {"id": [], "uri": "/c"},
            ],
            "secrets": [{"id": "x"}, {"id": "vault/x"}],
            "ssls": [
                {"id": "a", "cert": one.cert, "key": other.key_pem, "snis": ["a"]},
                {"id": "b", "cert": "x", "key": "y", "snis": ["a"]},
                {"id": "c", "cert": one.cert, "key": one.key_pem},
                {"id": "d", "cert": one.cert, "key": "$env://K", "snis": ["a"],
                    "client": {"ca": "x"}},
            ],
            "upstreams": [{"id": "u", "tls": {"client_cert": one.cert, "client_key": "y"}}],
        }));
        let parse = "failed to parse cert: PEM_read_bio_X509_AUX() failed";
        let parse_key = "failed to parse key: PEM_read_bio_PrivateKey() failed";
        assert_eq!(
            found.faults,
            [
                "routes[0]: invalid id \"x y\"".to_owned(),
                "routes[2]: duplicate id \"a\"".to_owned(),
                "routes[3]: either uri or uris is required".to_owned(),
                "routes[4]: missing \"id\" field".to_owned(),
                "routes[5]: invalid id []".to_owned(),
                "secrets[0]: invalid id \"x\"".to_owned(),
                "ssls[0]: key: the private key does not belong to the certificate".to_owned(),
                format!("ssls[1]: key: {parse_key}"),
                format!("ssls[1]: cert: {parse}"),
                "ssls[2]: either sni or snis is required".to_owned(),
                format!("ssls[3]: client.ca: {parse}"),
                format!("upstreams[0]: tls.client_key: {parse_key}"),
            ]
        );
        assert_eq!(found.warnings, Vec::<String>::new());
    }

    #[test]
    fn each_of_many_pairs_is_judged_by_itself() {
        let ca = sample::ca("ca");
        let pairs: Vec<_> = (0..2).map(|_| sample::leaf(&ca, "a", &["a"])).collect();
        let count = 3 * LEAST_SHARE;
        // A comment makes each text another one.
        let ssl = |position: usize| {
            let (cert, key) = (&pairs[0], &pairs[usize::from(position == 100)]);
            let cert = format!("{position}\n{}", cert.cert);
            json!({"id": position, "snis": ["a"], "cert": cert, "key": key.key_pem})
        };
        let ssls: Vec<_> = (0..count).map(ssl).collect();
        assert_eq!(
            found(&json!({"version": "1", "ssls": ssls})).faults,
            ["ssls[100]: key: the private key does not belong to the certificate"]
        );
    }

    #[test]
    fn key_that_apisix_encrypted_is_taken_as_it_is() {
        let ca = sample::ca("ca");
        let one = sample::leaf(&ca, "a", &["a"]);
        let with = |key: &str| {
            let tls = json!({"client_cert": one.cert, "client_key": key});
            found(&json!({"version": "1", "upstreams": [{"id": "u", "tls": tls}]})).faults
        };
        assert_eq!(with(&STANDARD.encode([7; 240])), Vec::<String>::new());
        for key in [
            "",
            "y",
            &STANDARD.encode([7; 15]),
            "-----BEGIN PRIVATE KEY-----",
        ] {
            assert_eq!(with(key).len(), 1, "{key}");
        }
    }

    #[test]
    fn what_may_be_meant_is_a_warning() {
        let ca = sample::ca("ca");
        let wish = sample::Wish {
            name: "old",
            dns: &["a"],
            valid: (0, sample::NOW - 1),
        };
        let old = sample::issue(&wish, Some(&ca));
        let found = found(&json!({
            "version": 1,
            "ssls": [{"id": "a", "cert": old.cert, "key": "$withheld:sha256:00", "snis": ["a"]}],
            "routes": [{"id": "a", "uri": "/", "upstream_id": 7}, {"id": "b", "uri": "/", "service_id": "s"}],
            "services": [{"id": "s"}],
        }));
        assert_eq!(found.faults, Vec::<String>::new());
        assert_eq!(
            found.warnings,
            [
                "ssls[0]: cert: the certificate CN=old expired on 2025-12-31",
                "routes[0]: upstream_id \"7\" is not in this file; the server must have it",
            ]
        );
    }
}
