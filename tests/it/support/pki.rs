//! Certificates made at run time: roots, intermediates, leaves good and bad.
//!
//! P-256 unless asked otherwise, so that a whole PKI takes milliseconds. Nothing is kept in git and
//! nothing expires by surprise.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use openssl::asn1::{Asn1Object, Asn1OctetString, Asn1Time};
use openssl::bn::{BigNum, MsbOption};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName,
    SubjectKeyIdentifier,
};
use openssl::x509::{
    X509, X509Builder, X509CrlBuilder, X509Extension, X509Name, X509NameBuilder, X509RevokedBuilder,
};

/// A certificate authority, root or intermediate.
pub(crate) struct Ca {
    cert: X509,
    key: PKey<Private>,
    /// From this one's own certificate up to the one below the root; empty for a root.
    chain: Vec<X509>,
}

/// A certificate with its key, as PEM.
#[derive(Clone)]
pub(crate) struct Pair {
    /// The leaf, then its intermediates; no root.
    pub(crate) cert: String,
    pub(crate) key: String,
}

/// A [`Pair`] on disk, for programs that want files.
#[derive(Clone, Debug)]
pub(crate) struct PairFiles {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// What a leaf is to be; [`Leaf::server`] and [`Leaf::client`] are the usual starts.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) common_name: String,
    pub(crate) dns_names: Vec<String>,
    pub(crate) addresses: Vec<IpAddr>,
    /// Further subject alternative names.
    pub(crate) uris: Vec<String>,
    pub(crate) emails: Vec<String>,
    pub(crate) usage: Usage,
    pub(crate) validity: Validity,
    pub(crate) key: KeyKind,
}

/// What the extended key usage says a certificate is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usage {
    Server,
    Client,
    /// No such extension, as in the documents' certificates.
    Unsaid,
}

/// When a certificate is valid, seen from now.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Validity {
    Now,
    Expired,
    NotYet,
    /// From now on for so long, in whole seconds.
    For(Duration),
}

/// A key's algorithm and the PEM form it is written in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    /// P-256, `BEGIN PRIVATE KEY`.
    P256,
    /// P-256, `BEGIN EC PRIVATE KEY`.
    P256Sec1,
    /// P-384, `BEGIN PRIVATE KEY`.
    P384,
    /// RSA 2048, `BEGIN PRIVATE KEY`.
    Rsa,
    /// RSA 2048, `BEGIN RSA PRIVATE KEY`.
    RsaPkcs1,
    /// RSA 1024, which nobody should accept.
    WeakRsa,
    /// Ed25519, which FIPS mode refuses.
    Ed25519,
    /// EC on a curve that is none of NIST's.
    Secp256k1,
}

impl Ca {
    /// A self-signed root.
    pub(crate) fn root(common_name: &str) -> Self {
        Self::dated(common_name, Validity::Now)
    }

    /// A self-signed root that is valid then.
    pub(crate) fn dated(common_name: &str, validity: Validity) -> Self {
        let key = KeyKind::P256.generate();
        let name = name_of(common_name);
        let mut builder = start_certificate(&name, &name, &key, validity);
        make_authority(&mut builder, None);
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        Self {
            cert: builder.build(),
            key,
            chain: Vec::new(),
        }
    }

    /// An authority below this one; its leaves carry the intermediates with them.
    pub(crate) fn intermediate(&self, common_name: &str) -> Self {
        self.dated_intermediate(common_name, Validity::Now)
    }

    /// The same, valid then.
    pub(crate) fn dated_intermediate(&self, common_name: &str, validity: Validity) -> Self {
        let key = KeyKind::P256.generate();
        let name = name_of(common_name);
        let mut builder = start_certificate(&name, self.cert.subject_name(), &key, validity);
        make_authority(&mut builder, Some(&self.cert));
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        let cert = builder.build();
        let mut chain = vec![cert.clone()];
        chain.extend(self.chain.iter().cloned());
        Self { cert, key, chain }
    }

    /// This authority's certificate, PEM.
    pub(crate) fn pem(&self) -> String {
        pem_of(&self.cert)
    }

    /// Writes [`Ca::pem`] to `folder/stem.crt`.
    pub(crate) fn write(&self, folder: &Path, stem: &str) -> PathBuf {
        let path = folder.join(format!("{stem}.crt"));
        fs::write(&path, self.pem()).unwrap();
        path
    }

    /// A certificate for a server of this DNS name.
    pub(crate) fn server(&self, dns_name: &str) -> Pair {
        self.issue(&Leaf::server(dns_name))
    }

    /// A certificate for a client of this common name.
    pub(crate) fn client(&self, common_name: &str) -> Pair {
        self.issue(&Leaf::client(common_name))
    }

    /// A certificate as ordered.
    pub(crate) fn issue(&self, leaf: &Leaf) -> Pair {
        self.sign(leaf, MessageDigest::sha256())
    }

    /// A certificate as ordered, with a signature that nobody should accept.
    pub(crate) fn issue_with_sha1(&self, leaf: &Leaf) -> Pair {
        self.sign(leaf, MessageDigest::sha1())
    }

    /// This authority's revocation list, PEM, that has these on it and ends as said.
    pub(crate) fn crl(&self, revoked: &[&Pair], validity: Validity) -> String {
        let serials = revoked.iter().map(|pair| {
            let leaf = X509::from_pem(pair.cert.as_bytes()).unwrap();
            leaf.serial_number().to_bn().unwrap()
        });
        self.crl_of(serials, validity)
    }

    /// The same of an authority below this one.
    pub(crate) fn crl_with_authority(&self, revoked: &Self) -> String {
        let serial = revoked.cert.serial_number().to_bn().unwrap();
        self.crl_of([serial], Validity::Now)
    }

    /// A list of serial numbers.
    pub(crate) fn crl_of(
        &self,
        serials: impl IntoIterator<Item = BigNum>,
        validity: Validity,
    ) -> String {
        let (made, until) = validity.span();
        let (made, until) = (
            Asn1Time::from_unix(made).unwrap(),
            Asn1Time::from_unix(until).unwrap(),
        );
        let mut list = X509CrlBuilder::new().unwrap();
        list.set_issuer_name(self.cert.subject_name()).unwrap();
        list.set_last_update(&made).unwrap();
        list.set_next_update(&until).unwrap();
        for serial in serials {
            let mut revoked = X509RevokedBuilder::new().unwrap();
            let serial = serial.to_asn1_integer().unwrap();
            revoked.set_serial_number(&serial).unwrap();
            revoked.set_revocation_date(&made).unwrap();
            list.add_revoked(revoked.build()).unwrap();
        }
        // RFC 5280 §5.2: both extensions are in every list.
        let any = X509::builder().unwrap();
        let context = any.x509v3_context(Some(&self.cert), None);
        let mut issuer = AuthorityKeyIdentifier::new();
        let issuer = issuer.keyid(true).build(&context).unwrap();
        list.append_extension(issuer).unwrap();
        let number = Asn1Object::from_str("2.5.29.20").unwrap();
        let one = Asn1OctetString::new_from_bytes(&[2, 1, 1]).unwrap();
        let number = X509Extension::new_from_der(&number, false, &one).unwrap();
        list.append_extension(number).unwrap();
        list.sign(&self.key, MessageDigest::sha256()).unwrap();
        String::from_utf8(list.build().unwrap().to_pem().unwrap()).unwrap()
    }

    fn sign(&self, leaf: &Leaf, digest: MessageDigest) -> Pair {
        let key = leaf.key.generate();
        let mut builder = start_certificate(
            &name_of(&leaf.common_name),
            self.cert.subject_name(),
            &key,
            leaf.validity,
        );
        leaf.extend(&mut builder, Some(&self.cert));
        builder.sign(&self.key, digest).unwrap();
        let mut cert = pem_of(&builder.build());
        cert.extend(self.chain.iter().map(pem_of));
        Pair {
            cert,
            key: leaf.key.write(&key),
        }
    }
}

impl Pair {
    /// Writes the pair to `folder/stem.crt` and `folder/stem.key`.
    pub(crate) fn write(&self, folder: &Path, stem: &str) -> PairFiles {
        let files = PairFiles {
            cert: folder.join(format!("{stem}.crt")),
            key: folder.join(format!("{stem}.key")),
        };
        fs::write(&files.cert, &self.cert).unwrap();
        fs::write(&files.key, &self.key).unwrap();
        files
    }
}

impl Pair {
    /// The same without its intermediates.
    pub(crate) fn leaf_alone(&self) -> Self {
        let leaf = X509::from_pem(self.cert.as_bytes()).unwrap();
        Self {
            cert: pem_of(&leaf),
            key: self.key.clone(),
        }
    }

    /// The leaf's serial, upper-case hexadecimal.
    pub(crate) fn serial(&self) -> String {
        serial(&X509::from_pem(self.cert.as_bytes()).unwrap())
    }

    /// The lines of the private key's base64: what must not be found anywhere.
    pub(crate) fn key_lines(&self) -> Vec<&str> {
        let lines = self.key.lines().filter(|line| !line.starts_with("-----"));
        lines.collect()
    }
}

impl Leaf {
    pub(crate) fn server(dns_name: &str) -> Self {
        Self {
            common_name: dns_name.to_owned(),
            dns_names: vec![dns_name.to_owned()],
            addresses: Vec::new(),
            uris: Vec::new(),
            emails: Vec::new(),
            usage: Usage::Server,
            validity: Validity::Now,
            key: KeyKind::P256,
        }
    }

    pub(crate) fn client(common_name: &str) -> Self {
        Self {
            dns_names: Vec::new(),
            usage: Usage::Client,
            ..Self::server(common_name)
        }
    }

    /// A certificate as ordered that nobody vouches for but itself.
    pub(crate) fn self_signed(&self) -> Pair {
        let key = self.key.generate();
        let name = name_of(&self.common_name);
        let mut builder = start_certificate(&name, &name, &key, self.validity);
        self.extend(&mut builder, None);
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        Pair {
            cert: pem_of(&builder.build()),
            key: self.key.write(&key),
        }
    }

    /// `issuer` is `None` for a self-signed one.
    fn extend(&self, builder: &mut X509Builder, issuer: Option<&X509>) {
        let context = builder.x509v3_context(issuer.map(|issuer| &**issuer), None);
        let mut extensions = vec![SubjectKeyIdentifier::new().build(&context).unwrap()];
        if issuer.is_some() {
            let mut key = AuthorityKeyIdentifier::new();
            extensions.push(key.keyid(true).build(&context).unwrap());
        }
        let mut names = SubjectAlternativeName::new();
        for name in &self.dns_names {
            names.dns(name);
        }
        for address in &self.addresses {
            names.ip(&address.to_string());
        }
        for uri in &self.uris {
            names.uri(uri);
        }
        for email in &self.emails {
            names.email(email);
        }
        let counts = [&self.dns_names, &self.uris, &self.emails].map(Vec::len);
        if counts.iter().sum::<usize>() + self.addresses.len() > 0 {
            extensions.push(names.build(&context).unwrap());
        }
        let mut usage = ExtendedKeyUsage::new();
        match self.usage {
            Usage::Server => extensions.push(usage.server_auth().build().unwrap()),
            Usage::Client => extensions.push(usage.client_auth().build().unwrap()),
            Usage::Unsaid => {}
        }
        for extension in extensions {
            builder.append_extension(extension).unwrap();
        }
    }
}

impl Validity {
    /// From when until when, epoch seconds.
    fn span(self) -> (i64, i64) {
        const DAY: i64 = 24 * 60 * 60;
        let now = i64::try_from(
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_secs(),
        )
        .unwrap();
        match self {
            Self::Now => (now - DAY, now + 30 * DAY),
            Self::Expired => (now - 30 * DAY, now - DAY),
            Self::NotYet => (now + DAY, now + 30 * DAY),
            Self::For(time) => (now - DAY, now + i64::try_from(time.as_secs()).unwrap()),
        }
    }
}

impl KeyKind {
    /// `RSA`, `EC` or `Ed25519`.
    pub(crate) fn algorithm(self) -> &'static str {
        match self {
            Self::Rsa | Self::RsaPkcs1 | Self::WeakRsa => "RSA",
            Self::P256 | Self::P256Sec1 | Self::P384 | Self::Secp256k1 => "EC",
            Self::Ed25519 => "Ed25519",
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a test's keys, of kinds that the FIPS module does not make"
    )]
    fn generate(self) -> PKey<Private> {
        match self {
            Self::P256 | Self::P256Sec1 => PKey::ec_gen("P-256").unwrap(),
            Self::Rsa | Self::RsaPkcs1 => PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap(),
            Self::P384 => PKey::ec_gen("P-384").unwrap(),
            Self::WeakRsa => PKey::from_rsa(Rsa::generate(1024).unwrap()).unwrap(),
            Self::Ed25519 => PKey::generate_ed25519().unwrap(),
            Self::Secp256k1 => PKey::ec_gen("secp256k1").unwrap(),
        }
    }

    fn write(self, key: &PKey<Private>) -> String {
        let pem = match self {
            Self::P256
            | Self::P384
            | Self::Rsa
            | Self::WeakRsa
            | Self::Ed25519
            | Self::Secp256k1 => key.private_key_to_pem_pkcs8(),
            Self::P256Sec1 => key.ec_key().unwrap().private_key_to_pem(),
            Self::RsaPkcs1 => key.rsa().unwrap().private_key_to_pem(),
        };
        String::from_utf8(pem.unwrap()).unwrap()
    }
}

fn start_certificate(
    subject: &X509Name,
    issuer: &openssl::x509::X509NameRef,
    key: &PKey<Private>,
    validity: Validity,
) -> X509Builder {
    let (from, until) = validity.span();
    let mut serial = BigNum::new().unwrap();
    serial.rand(127, MsbOption::MAYBE_ZERO, false).unwrap();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder
        .set_serial_number(&serial.to_asn1_integer().unwrap())
        .unwrap();
    builder.set_subject_name(subject).unwrap();
    builder.set_issuer_name(issuer).unwrap();
    builder.set_pubkey(key).unwrap();
    builder
        .set_not_before(&Asn1Time::from_unix(from).unwrap())
        .unwrap();
    builder
        .set_not_after(&Asn1Time::from_unix(until).unwrap())
        .unwrap();
    builder
}

fn make_authority(builder: &mut X509Builder, issuer: Option<&X509>) {
    let context = builder.x509v3_context(issuer.map(|issuer| &**issuer), None);
    let mut extensions = vec![
        BasicConstraints::new().critical().ca().build().unwrap(),
        KeyUsage::new()
            .critical()
            .key_cert_sign()
            .crl_sign()
            .build()
            .unwrap(),
        SubjectKeyIdentifier::new().build(&context).unwrap(),
    ];
    if issuer.is_some() {
        extensions.push(
            AuthorityKeyIdentifier::new()
                .keyid(true)
                .build(&context)
                .unwrap(),
        );
    }
    for extension in extensions {
        builder.append_extension(extension).unwrap();
    }
}

fn name_of(common_name: &str) -> X509Name {
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_nid(Nid::COMMONNAME, common_name)
        .unwrap();
    name.build()
}

/// A certificate's serial, upper-case hexadecimal.
pub(crate) fn serial(cert: &X509) -> String {
    let serial = cert.serial_number().to_bn().unwrap();
    serial.to_hex_str().unwrap().to_string()
}

fn pem_of(cert: &X509) -> String {
    String::from_utf8(cert.to_pem().unwrap()).unwrap()
}

#[test]
fn leaf_below_an_intermediate_verifies_and_a_strangers_does_not() {
    let folder = tempfile::TempDir::new().unwrap();
    let root = Ca::root("Root");
    let below = root.intermediate("Below");
    let trusted = root.write(folder.path(), "root");
    let chain = below.client("alice").write(folder.path(), "alice");
    let verify = |leaf: &Path| {
        let mut command = super::program("openssl");
        command
            .args(["verify", "-purpose", "sslclient", "-CAfile"])
            .arg(&trusted);
        command.arg("-untrusted").arg(&chain.cert).arg(leaf);
        super::run_to_end(command, b"", super::SOON)
            .status
            .success()
    };
    assert!(verify(&chain.cert));

    let order = Leaf::client("mallory");
    for (stem, pair) in [
        ("stranger", Ca::root("Root").issue(&order)),
        (
            "expired",
            root.issue(&Leaf {
                validity: Validity::Expired,
                ..order.clone()
            }),
        ),
        (
            "early",
            root.issue(&Leaf {
                validity: Validity::NotYet,
                ..order.clone()
            }),
        ),
        ("server", root.server("alice")),
        ("self-signed", order.self_signed()),
    ] {
        assert!(!verify(&pair.write(folder.path(), stem).cert), "{stem}");
    }
}

#[test]
fn keys_come_in_each_pem_form() {
    let ca = Ca::root("Root");
    for (kind, label) in [
        (KeyKind::P256, "-----BEGIN PRIVATE KEY-----"),
        (KeyKind::P256Sec1, "-----BEGIN EC PRIVATE KEY-----"),
        (KeyKind::Rsa, "-----BEGIN PRIVATE KEY-----"),
        (KeyKind::RsaPkcs1, "-----BEGIN RSA PRIVATE KEY-----"),
    ] {
        let pair = ca.issue(&Leaf {
            key: kind,
            ..Leaf::server("api.example.com")
        });
        assert!(pair.key.starts_with(label), "{}", pair.key);
        PKey::private_key_from_pem(pair.key.as_bytes()).unwrap();
    }
}
