//! What a client's certificate says of its holder, in the spelling of nginx's variables.
//!
//! Whether it may be believed is decided elsewhere: nothing here looks at chains.

use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::x509::X509Ref;

use crate::tls::material;

/// A certificate as nginx's `$ssl_client_…` show it (ngx_http_ssl_module, "Embedded Variables").
///
/// A text that cannot be made is `None`, so that nothing compares with half of it.
#[derive(Debug)]
pub struct Identity {
    /// Subject, RFC 2253.
    pub subject: String,
    /// Issuer, RFC 2253.
    pub issuer: String,
    /// Serial number, upper-case hexadecimal.
    pub serial: String,
    /// SHA-1 of the DER, lower-case hexadecimal.
    pub fingerprint: Option<String>,
    /// Valid from, as `ASN1_TIME_print(3)` prints it.
    pub start: String,
    /// Valid until, likewise.
    pub end: String,
    /// Valid until, seconds since the epoch.
    pub end_seconds: Option<i64>,
    /// PEM, with its last line feed.
    pub pem: Option<String>,
    /// DER.
    pub der: Option<Vec<u8>>,
    /// The DNS names of its alternative names, as written.
    pub san_dns: Vec<String>,
    /// Their URIs.
    pub san_uri: Vec<String>,
    /// Their mail addresses.
    pub san_email: Vec<String>,
}

impl Identity {
    /// Reads a certificate.
    #[must_use]
    pub fn of(certificate: &X509Ref) -> Self {
        let names = certificate.subject_alt_names();
        let names = || names.iter().flatten();
        let listed = |texts: Vec<&str>| texts.into_iter().map(str::to_owned).collect();
        Self {
            subject: material::subject(certificate),
            issuer: material::issuer(certificate),
            serial: material::serial(certificate),
            fingerprint: fingerprint(certificate).ok(),
            start: certificate.not_before().to_string(),
            end: certificate.not_after().to_string(),
            end_seconds: material::validity(certificate).ok().map(|(_, end)| end),
            pem: certificate
                .to_pem()
                .ok()
                .and_then(|pem| String::from_utf8(pem).ok()),
            der: certificate.to_der().ok(),
            san_dns: listed(names().filter_map(|name| name.dnsname()).collect()),
            san_uri: listed(names().filter_map(|name| name.uri()).collect()),
            san_email: listed(names().filter_map(|name| name.email()).collect()),
        }
    }

    /// Whole days from `now` (seconds since the epoch) to its end, 0 once that is past.
    #[must_use]
    pub fn days_left(&self, now: i64) -> Option<i64> {
        Some(self.end_seconds?.saturating_sub(now).max(0) / 86_400)
    }

    /// The PEM as `$ssl_client_cert` has it: a tab before every line but the first, no last line
    /// feed, so that it fits into a header.
    #[must_use]
    pub fn folded_pem(&self) -> Option<String> {
        let pem = self.pem.as_deref()?;
        Some(pem.trim_end_matches('\n').replace('\n', "\n\t"))
    }

    /// The PEM as `$ssl_client_escaped_cert` has it: percent-encoded but for RFC 3986's unreserved
    /// characters.
    #[must_use]
    pub fn escaped_pem(&self) -> Option<String> {
        let pem = self.pem.as_deref()?;
        let mut escaped = String::with_capacity(pem.len() + pem.len() / 8);
        for byte in pem.bytes() {
            match byte {
                b'-' | b'.' | b'_' | b'~' => escaped.push(char::from(byte)),
                _ if byte.is_ascii_alphanumeric() => escaped.push(char::from(byte)),
                _ => escaped.push_str(&format!("%{byte:02X}")),
            }
        }
        Some(escaped)
    }
}

/// The attributes of a certificate's subject, in its order: OpenSSL's short name of each in capitals,
/// and its value. One that has no short name, cannot be read as it is or holds a NUL is left
/// out, so that it equals nothing.
#[must_use]
pub fn attributes(certificate: &X509Ref) -> Vec<(String, String)> {
    let entries = certificate.subject_name().entries();
    let read = entries.filter_map(|entry| {
        let kind = entry.object().nid().short_name().ok()?;
        let value = entry.data().to_string().ok()?;
        // U+FFFD stands for what is not UTF-8.
        let is_whole = !value.contains(['\0', '\u{fffd}']);
        is_whole.then(|| (kind.to_ascii_uppercase(), value))
    });
    read.collect()
}

/// SHA-1 identifies here as it does in nginx; nothing is signed or verified with it.
fn fingerprint(certificate: &X509Ref) -> Result<String, ErrorStack> {
    let digest = certificate.digest(MessageDigest::sha1())?;
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use openssl::x509::X509;

    use super::*;
    use crate::tls::sample::{self, NOW};

    fn identity() -> (X509, Identity) {
        let ca = sample::ca("Test CA");
        let leaf = sample::leaf(&ca, "client", &["a.test", "b.test"]);
        let certificate = X509::from_pem(leaf.cert.as_bytes()).unwrap();
        let identity = Identity::of(&certificate);
        (certificate, identity)
    }

    #[test]
    fn a_certificate_reads_as_nginx_shows_it() {
        let (certificate, identity) = identity();
        assert_eq!(identity.subject, "CN=client");
        assert_eq!(identity.issuer, "CN=Test CA");
        assert_eq!(identity.san_dns, ["a.test", "b.test"]);
        assert!(identity.san_uri.is_empty() && identity.san_email.is_empty());
        assert_eq!(identity.fingerprint.as_ref().unwrap().len(), 40);
        assert!(identity.end.ends_with(" GMT"), "{}", identity.end);
        let folded = identity.folded_pem().unwrap();
        assert!(folded.lines().skip(1).all(|line| line.starts_with('\t')));
        assert!(folded.ends_with("\n\t-----END CERTIFICATE-----"));
        let escaped = identity.escaped_pem().unwrap();
        assert!(escaped.starts_with("-----BEGIN%20CERTIFICATE-----%0A"));
        assert!(escaped.ends_with("-----END%20CERTIFICATE-----%0A"));
        assert_eq!(identity.der.unwrap(), certificate.to_der().unwrap());
    }

    #[test]
    fn subject_is_taken_apart_and_what_cannot_be_read_equals_nothing() {
        let mut name = openssl::x509::X509Name::builder().unwrap();
        for (kind, value) in [("CN", "a,b=c"), ("OU", "x\0y"), ("OU", "café"), ("O", "E")] {
            let string = openssl::asn1::Asn1Type::UTF8STRING;
            name.append_entry_by_text_with_type(kind, value, string)
                .unwrap();
        }
        let mut certificate = X509::builder().unwrap();
        certificate.set_subject_name(&name.build()).unwrap();
        let own = |kind: &str, value: &str| (kind.to_owned(), value.to_owned());
        let expected = [own("CN", "a,b=c"), own("OU", "café"), own("O", "E")];
        assert_eq!(attributes(&certificate.build()), expected);
    }

    #[test]
    fn days_left_are_whole_and_end_at_none() {
        let (_, identity) = identity();
        let end = identity.end_seconds.unwrap();
        assert!(end > NOW);
        for (before_end, days) in [(0, 0), (86_399, 0), (86_400, 1), (-1, 0), (-999_999, 0)] {
            assert_eq!(
                identity.days_left(end - before_end),
                Some(days),
                "{before_end}"
            );
        }
    }
}
