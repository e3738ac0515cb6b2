//! Facts about a client, lifted out of OpenSSL once, and the check after every accept.
//!
//! The check does not trust the TLS layer to have asked: whatever libssl said, resumed or not, a
//! name that requires a certificate gets only connections that hold a good one.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::sync::Arc;

use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::ssl::SslRef;
use openssl::stack::Stack;
use openssl::x509::{X509, X509Ref, X509VerifyResult};

use crate::crypto::sys::{self, Purpose};
use crate::failure::Reason;
use crate::tls::identity::Identity;
use crate::tls::material;
use crate::tls::policy::{ClientAuth, ClientPolicy};
use crate::tls::select::{self, Choice};
use crate::tls::server::ServerContext;
use crate::tls::tickets::contents::Along;
use crate::tls::trust::CaStore;
use crate::tls::verdict::client_chain_reason;

/// What an accepted connection is pinned to.
#[derive(Debug)]
pub struct Accepted {
    /// The context that served it: ssl id, policy and trust at that time.
    pub context: Arc<ServerContext>,
    /// The server name as sent, lower case; `None` when none was sent.
    pub sni: Option<Box<str>>,
    /// The client's certificate, good or (deferred) not.
    pub client: Option<ClientCertificate>,
    /// Whether the policy is met. An error only under a deferred policy: the handshake ended, the
    /// request will be refused.
    pub verdict: Result<(), Reason>,
    /// What OpenSSL says of the chain, where it does not pass.
    pub fault: Option<&'static str>,
    /// E.g. `TLSv1.3`.
    pub version: &'static str,
    /// OpenSSL's name of the suite.
    pub cipher: &'static str,
    /// OpenSSL's name of the key exchange's group, where there was one; its number in
    /// hexadecimal where OpenSSL has none (nginx's `$ssl_curve`).
    pub group: Option<Cow<'static, str>>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// Whether HTTP/2 was agreed on.
    pub is_http2: bool,
    /// `h2` or `http/1.1`; `None` where the client offered nothing.
    pub alpn: Option<&'static str>,
}

/// A client's certificate with what it sent along.
#[derive(Debug)]
pub struct ClientCertificate {
    leaf: X509,
    sent: Sent,
    names: OnceCell<Names>,
    // Boxed: most connections are never asked for it.
    identity: OnceCell<Box<Identity>>,
}

/// How many of a certificate's names a sentence has, and how much of each.
const NAMES: usize = 8;
const NAME_CHARS: usize = 253;

/// What a client sent along with its certificate.
#[derive(Debug)]
enum Sent {
    /// In this handshake, or in that of the session in the cache.
    Chain(Vec<X509>),
    /// In the handshake that a ticket comes from.
    Ticket(Along),
    /// Nobody knows any more.
    Unknown,
}

impl Sent {
    fn with(ssl: &SslRef) -> Self {
        match ssl.peer_cert_chain() {
            Some(chain) => Self::Chain(chain.iter().map(ToOwned::to_owned).collect()),
            None => Along::of(ssl).map_or(Self::Unknown, Self::Ticket),
        }
    }

    fn certificates(&self) -> Result<&[X509], ErrorStack> {
        match self {
            Self::Chain(chain) => Ok(chain),
            Self::Ticket(along) => along.certificates(),
            Self::Unknown => Ok(&[]),
        }
    }
}

/// A certificate in words. Made on first use.
#[derive(Debug)]
pub struct Names {
    /// Subject, RFC 2253.
    pub subject: String,
    /// Issuer, RFC 2253.
    pub issuer: String,
    /// Serial number, upper-case hex.
    pub serial: String,
    /// End of validity, epoch seconds; 0 when unreadable.
    pub not_after: i64,
}

impl Names {
    /// Reads a certificate.
    #[must_use]
    pub fn of(certificate: &X509Ref) -> Self {
        Self {
            subject: material::subject(certificate),
            issuer: material::issuer(certificate),
            serial: material::serial(certificate),
            not_after: material::validity(certificate).map_or(0, |(_, end)| end),
        }
    }
}

/// What a server showed in a handshake of ours, checked or not.
#[derive(Clone, Debug)]
pub struct Served {
    /// E.g. `TLSv1.3`.
    pub version: &'static str,
    /// OpenSSL's name of the suite.
    pub cipher: &'static str,
    /// As it was sent, leaf first; empty where a session was resumed without it.
    pub chain: Vec<X509>,
}

impl Served {
    /// Reads a connection of ours.
    pub(super) fn of(ssl: &SslRef) -> Self {
        let chain = ssl.peer_cert_chain().into_iter().flatten();
        Self {
            version: version(ssl),
            cipher: ssl.current_cipher().map_or("", |cipher| cipher.name()),
            chain: chain.map(ToOwned::to_owned).collect(),
        }
    }

    /// Whom its certificate is for, for a sentence: bounded, as strangers write them.
    #[must_use]
    pub fn is_for(&self) -> String {
        let names = self.chain.first().map(|leaf| material::names(leaf));
        let names = names.unwrap_or_default();
        let shown = names.iter().take(NAMES);
        let shown: Vec<String> = shown
            .map(|name| name.chars().take(NAME_CHARS).collect())
            .collect();
        match names.len().saturating_sub(NAMES) {
            _ if shown.is_empty() => "nobody".to_owned(),
            0 => shown.join(", "),
            more => format!("{} and {more} more", shown.join(", ")),
        }
    }
}

impl ClientCertificate {
    /// Subject, issuer and serial.
    pub fn names(&self) -> &Names {
        self.names.get_or_init(|| Names::of(&self.leaf))
    }

    /// All that it says of its holder. Made on first use.
    pub fn identity(&self) -> &Identity {
        self.identity
            .get_or_init(|| Box::new(Identity::of(&self.leaf)))
    }

    /// The leaf.
    #[must_use]
    pub fn leaf(&self) -> &X509 {
        &self.leaf
    }

    /// Judges the chain as a handshake under `policy` with `ca` would judge it now.
    ///
    /// # Errors
    /// Why it does not pass.
    pub fn judge(&self, ca: &CaStore, policy: &ClientPolicy) -> Result<(), Reason> {
        let judge = || -> Result<X509VerifyResult, ErrorStack> {
            let mut sent = Stack::new()?;
            for certificate in self.sent.certificates()? {
                sent.push(certificate.clone())?;
            }
            ca.judge(&self.leaf, &sent, Purpose::Client, policy.depth)
        };
        match judge() {
            Ok(X509VerifyResult::OK) => Ok(()),
            Ok(result) => Err(client_chain_reason(result)),
            Err(_) => Err(Reason::Internal),
        }
    }

    /// Whether the leaf is within its dates.
    fn judge_dates(&self, now: &Asn1TimeRef) -> Result<(), Reason> {
        if self.leaf.not_after() < now {
            return Err(Reason::ClientCertExpired);
        }
        if self.leaf.not_before() > now {
            return Err(Reason::ClientCertNotYetValid);
        }
        Ok(())
    }

    /// Whether a certificate that was sent along is past its end, as far as is known. It may have
    /// no part in the verified chain, so this asks for a judgement and is none.
    fn is_outlived(&self, now: &Asn1TimeRef, seconds: i64) -> bool {
        match &self.sent {
            Sent::Chain(chain) => chain
                .iter()
                .any(|certificate| certificate.not_after() < now),
            Sent::Ticket(along) => along.end < seconds,
            Sent::Unknown => true,
        }
    }
}

/// Reads an accepted connection and checks its policy.
///
/// `now` is in epoch seconds; it counts on resumption, where libssl verifies nothing.
///
/// # Errors
/// Why the connection must be closed: its policy is not met and nothing defers that.
pub(super) fn identify(ssl: &SslRef, now: i64) -> Result<Accepted, Reason> {
    let selected = select::selected(ssl).ok_or(Reason::Internal)?;
    let Choice::Serve(context) = &selected.choice else {
        return Err(Reason::Internal);
    };
    let resumed = ssl.session_reused();
    let client = ssl.peer_certificate().map(|leaf| ClientCertificate {
        leaf,
        sent: Sent::with(ssl),
        names: OnceCell::new(),
        identity: OnceCell::new(),
    });
    let policy = &context.policy;
    let judged = || -> Result<(), Reason> {
        let Some(client) = &client else {
            return match policy.mode {
                ClientAuth::Off | ClientAuth::Optional => Ok(()),
                ClientAuth::Required | ClientAuth::Deferred => Err(Reason::ClientCertMissing),
            };
        };
        if !policy.asks() {
            return Ok(());
        }
        if let Some(error) = selected.verify_error() {
            return Err(client_chain_reason(error));
        }
        match ssl.verify_result() {
            X509VerifyResult::OK => {}
            error => return Err(client_chain_reason(error)),
        }
        if resumed {
            let time = Asn1Time::from_unix(now).map_err(|_openssl: ErrorStack| Reason::Internal)?;
            client.judge_dates(&time)?;
            if let Some(ca) = &context.ca
                && (ca.is_outlived(&time) || client.is_outlived(&time, now))
            {
                client.judge(ca, policy)?;
            }
        }
        Ok(())
    };
    let verdict = judged();
    let fault = verdict.err().and_then(|_| {
        let seen = Some(ssl.verify_result()).filter(|error| *error != X509VerifyResult::OK);
        let error = selected.verify_error().or(seen);
        error.map(|error| error.error_string())
    });
    if let Err(reason) = verdict
        && policy.mode != ClientAuth::Deferred
    {
        return Err(reason);
    }
    Ok(Accepted {
        context: context.clone(),
        sni: selected.sni.as_deref().map(|name| {
            String::from_utf8_lossy(name)
                .to_ascii_lowercase()
                .into_boxed_str()
        }),
        client,
        verdict,
        fault,
        version: version(ssl),
        cipher: ssl.current_cipher().map_or("", |cipher| cipher.name()),
        group: sys::negotiated_group(ssl).map(group_name),
        resumed,
        is_http2: ssl.selected_alpn_protocol() == Some(b"h2"),
        alpn: match ssl.selected_alpn_protocol() {
            Some(b"h2") => Some("h2"),
            Some(b"http/1.1") => Some("http/1.1"),
            Some(_) | None => None,
        },
    })
}

fn group_name(group: Nid) -> Cow<'static, str> {
    match group.short_name() {
        Ok(name) => Cow::Borrowed(name),
        // Above a mark for "no NID" stands the group's number of the TLS registry.
        Err(_) => Cow::Owned(format!("0x{:04x}", group.as_raw() & 0xffff)),
    }
}

fn version(ssl: &SslRef) -> &'static str {
    match ssl.version2() {
        Some(openssl::ssl::SslVersion::TLS1_3) => "TLSv1.3",
        Some(openssl::ssl::SslVersion::TLS1_2) => "TLSv1.2",
        _ => "",
    }
}
