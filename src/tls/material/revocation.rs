//! Revocation lists (CRLs, RFC 5280 §5): read, told of, and parsed once per text.
//!
//! A list of 100,000 entries takes about 30 MB once OpenSSL has parsed it, so that however many
//! documents and trust stores have the same text, the process has it parsed once.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use openssl::asn1::Asn1TimeRef;
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::x509::{X509Crl, X509CrlRef, X509Ref};

use super::{CaBundle, Digest, der, epoch_seconds, sha256};
use crate::crypto::{memory, sys};

/// How a list begins in PEM (`PEM_read_bio_X509_CRL(3)`).
const LABEL: &str = "X509 CRL";
const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END X509 CRL-----";

/// Why revocation lists were refused. The texts follow the name of the member.
#[derive(Debug, thiserror::Error)]
pub enum CrlError {
    /// There is none, or one that OpenSSL cannot read.
    #[error(
        "no revocation list that can be read: give PEM, `-----BEGIN X509 CRL-----`; \
         `openssl crl -inform DER -in ca.crl` makes it of DER"
    )]
    Unreadable(#[source] ErrorStack),
    /// A block of something else, which nobody would read.
    #[error("only revocation lists belong here, not a block of {0}; take it out")]
    Foreign(String),
    /// Signed by nobody who is trusted here, so that nothing would come of it.
    #[error(
        "the revocation list of {0} is signed by none of the CAs that are trusted here; add the \
         certificate of its CA to them, or take the list out"
    )]
    Issuer(String),
    /// One that OpenSSL would pass over, or take for the whole.
    #[error(
        "the revocation list of {issuer} is {what}, which is not supported; put the CA's complete \
         list there"
    )]
    Partial {
        /// Whose it is, RFC 2253.
        issuer: String,
        /// What it is instead of complete.
        what: &'static str,
    },
    /// OpenSSL failed at something that does not depend on the input.
    #[error("OpenSSL failed")]
    OpenSsl(#[from] ErrorStack),
}

/// How one list stands to the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrlDates {
    /// The CA it is of, RFC 2253.
    pub issuer: String,
    /// When it was made, epoch seconds.
    pub made: i64,
    /// By when it is to be replaced; `None` where it does not say.
    pub until: Option<i64>,
}

/// One or more revocation lists, of as many CAs.
pub struct Crls {
    /// SHA-256 of the text.
    pub digest: Digest,
    /// At least one, in the order of the text.
    lists: Vec<X509Crl>,
    /// Of the text.
    bytes: usize,
}

/// What a list takes for each byte of its text, in pieces.
const PARSED_BYTES: usize = 10;

impl Drop for Crls {
    fn drop(&mut self) {
        memory::note_freed_pieces(self.bytes.saturating_mul(PARSED_BYTES));
    }
}

/// What is parsed and in use, by the digest of its text.
static PARSED: LazyLock<Mutex<HashMap<Digest, Weak<Crls>>>> = LazyLock::new(Mutex::default);

impl Crls {
    /// Reads all lists of a PEM text. Text around the blocks is ignored. The same text is parsed
    /// once as long as somebody has what came of it.
    ///
    /// # Errors
    /// [`CrlError::Unreadable`], [`CrlError::Foreign`], [`CrlError::Partial`] and OpenSSL's own.
    pub fn parse(pem: &str) -> Result<Arc<Self>, CrlError> {
        let digest = sha256(pem.as_bytes())?;
        let parsed = || PARSED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(crls) = parsed().get(&digest).and_then(Weak::upgrade) {
            return Ok(crls);
        }
        let lists = read(pem)?;
        let crls = Arc::new(Self {
            digest,
            lists,
            bytes: pem.len(),
        });
        let mut parsed = parsed();
        // Two that read the same at once: the first one's stays.
        if let Some(first) = parsed.get(&digest).and_then(Weak::upgrade) {
            return Ok(first);
        }
        parsed.retain(|_, crls| crls.strong_count() > 0);
        parsed.insert(digest, Arc::downgrade(&crls));
        Ok(crls)
    }

    /// Whether each list is signed by one of these CAs (RFC 5280 §6.3.3).
    ///
    /// # Errors
    /// [`CrlError::Issuer`] with the first that is not.
    pub fn judge_issuers(&self, bundle: &CaBundle) -> Result<(), CrlError> {
        for list in &self.lists {
            let mut cas = bundle.certificates.iter();
            if !cas.any(|ca| is_signed_by(list, ca)) {
                return Err(CrlError::Issuer(issuer(list)));
            }
        }
        Ok(())
    }

    /// The CAs of a bundle that have no list here, RFC 2253: their clients are refused.
    #[must_use]
    pub fn without_list(&self, bundle: &CaBundle) -> Vec<String> {
        let has_list = |ca: &X509Ref| self.lists.iter().any(|list| is_signed_by(list, ca));
        let lacking = bundle.certificates.iter().filter(|ca| !has_list(ca));
        lacking.map(|ca| super::subject(ca)).collect()
    }

    /// When each list was made and ends.
    ///
    /// # Errors
    /// OpenSSL's own: a time that is none.
    pub fn dates(&self) -> Result<Vec<CrlDates>, ErrorStack> {
        let each = self.lists.iter().map(|list| {
            Ok(CrlDates {
                issuer: issuer(list),
                made: epoch_seconds(list.last_update())?,
                until: list.next_update().map(epoch_seconds).transpose()?,
            })
        });
        each.collect()
    }

    /// Whether a list should have been replaced by now.
    #[must_use]
    pub fn is_stale(&self, now: &Asn1TimeRef) -> bool {
        let mut ends = self.lists.iter().filter_map(|list| list.next_update());
        ends.any(|until| until < now)
    }

    /// The lists, for trust stores.
    pub(in crate::tls) fn lists(&self) -> &[X509Crl] {
        &self.lists
    }
}

impl fmt::Debug for Crls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.lists.iter().map(|list| issuer(list)))
            .finish()
    }
}

fn read(pem: &str) -> Result<Vec<X509Crl>, CrlError> {
    let mut lists = Vec::new();
    for block in pem.split(BEGIN).skip(1) {
        let label = block.split("-----").next().unwrap_or_default();
        if label != LABEL {
            let label = label.lines().next().unwrap_or_default();
            return Err(CrlError::Foreign(label.chars().take(64).collect()));
        }
        let Some(end) = block.find(END) else {
            return Err(CrlError::Unreadable(ErrorStack::get()));
        };
        let body = block.get(..end).unwrap_or_default();
        let whole = format!("{BEGIN}{body}{END}\n");
        let list = X509Crl::from_pem(whole.as_bytes()).map_err(CrlError::Unreadable)?;
        if let Some(what) = partial(&list) {
            let issuer = issuer(&list);
            return Err(CrlError::Partial { issuer, what });
        }
        lists.push(list);
    }
    if lists.is_empty() {
        return Err(CrlError::Unreadable(ErrorStack::get()));
    }
    Ok(lists)
}

/// What a list is that says less than which certificates of its CA are revoked; `None` if it says
/// all. Of such lists libcrypto uses what it should not, or nothing: without
/// `X509_V_FLAG_EXTENDED_CRL_SUPPORT` a delta list takes the complete one's place, so that who is on
/// that one alone passes, and the others are as if they were not there.
fn partial(list: &X509CrlRef) -> Option<&'static str> {
    if sys::crl_extension(list, Nid::DELTA_CRL).is_some() {
        return Some("a delta list (RFC 5280 §5.2.4)");
    }
    let scope = sys::crl_extension(list, Nid::ISSUING_DISTRIBUTION_POINT)?;
    for tag in members(scope) {
        match tag {
            ONLY_SOME_REASONS => return Some("for some reasons only (RFC 5280 §5.2.5)"),
            INDIRECT => return Some("an indirect one (RFC 5280 §5.2.5)"),
            ONLY_ATTRIBUTES => return Some("for attribute certificates only (RFC 5280 §5.2.5)"),
            _ => {}
        }
    }
    None
}

/// Members of an issuing distribution point that default to absence (RFC 5280 §5.2.5), by their
/// tags: `[3]`, `[4]` and `[5]`.
const ONLY_SOME_REASONS: u8 = 0x83;
const INDIRECT: u8 = 0x84;
const ONLY_ATTRIBUTES: u8 = 0x85;

/// The tags of a DER sequence's members, as far as it can be read.
fn members(sequence: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = der::take(sequence, der::SEQUENCE).map_or(&[][..], |(body, _)| body);
    std::iter::from_fn(move || {
        let (tag, _, after) = der::next(rest)?;
        rest = after;
        Some(tag)
    })
}

fn issuer(list: &X509CrlRef) -> String {
    sys::name_rfc2253(list.issuer_name())
}

/// Whether this CA has the list's name and made its signature.
fn is_signed_by(list: &X509CrlRef, ca: &X509Ref) -> bool {
    let is_namesake = list
        .issuer_name()
        .try_cmp(ca.subject_name())
        .is_ok_and(std::cmp::Ordering::is_eq);
    is_namesake
        && ca
            .public_key()
            .and_then(|key| list.verify(&key))
            .unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use openssl::asn1::Asn1Time;

    use super::*;
    use crate::tls::sample::{self, NOW};

    const DAY: i64 = 86_400;

    #[test]
    fn lists_of_several_cas_are_read_and_dated() {
        let (a, b) = (sample::ca("a"), sample::ca("b"));
        let dates = (NOW - DAY, NOW + DAY);
        let lists = [sample::crl(&a, &[], dates), sample::crl(&b, &[7], dates)].concat();
        let crls = Crls::parse(&format!("# both\n{lists}\n# end")).unwrap();
        assert_eq!(format!("{crls:?}"), r#"["CN=a", "CN=b"]"#);
        let first = crls.dates().unwrap().remove(0);
        let (made, until) = dates;
        let issuer = "CN=a".to_owned();
        let until = Some(until);
        assert_eq!(
            first,
            CrlDates {
                issuer,
                made,
                until
            }
        );
        for (now, is_stale) in [(NOW, false), (NOW + 2 * DAY, true)] {
            let now = Asn1Time::from_unix(now).unwrap();
            assert_eq!(crls.is_stale(&now), is_stale);
        }
        let bundle = |pems: &[&str]| CaBundle::parse_all(pems.iter().copied()).unwrap();
        crls.judge_issuers(&bundle(&[&a.cert, &b.cert])).unwrap();
        let refused = crls.judge_issuers(&bundle(&[&a.cert])).unwrap_err();
        assert!(matches!(&refused, CrlError::Issuer(issuer) if issuer == "CN=b"));
        // A namesake did not sign it.
        let namesake = sample::ca("b");
        let refused = crls.judge_issuers(&bundle(&[&a.cert, &namesake.cert]));
        assert!(matches!(refused, Err(CrlError::Issuer(_))));
        let c = sample::ca("c");
        let all = bundle(&[&a.cert, &c.cert, &b.cert]);
        assert_eq!(crls.without_list(&all), ["CN=c"]);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let ca = sample::ca("a");
        let list = sample::crl(&ca, &[], (NOW, NOW + DAY));
        let cut = list.replace(END, "");
        for text in ["", "junk", &cut, &list.replace("MI", "AA")] {
            let refused = Crls::parse(text).unwrap_err();
            assert!(matches!(refused, CrlError::Unreadable(_)), "{text}");
        }
        let refused = Crls::parse(&format!("{list}{}", ca.cert)).unwrap_err();
        assert!(refused.to_string().contains("a block of CERTIFICATE"));
        Crls::parse(&list).unwrap();
    }

    #[test]
    fn list_that_does_not_say_all_is_refused() {
        const DELTA: &str = "2.5.29.27";
        const SCOPE: &str = "2.5.29.28";
        let ca = sample::ca("a");
        // Of a name of 126 bytes, whose length takes two.
        let name = [&[0x86, 126][..], &[b'x'; 126]].concat();
        let names = [&[0xa0, 0x81, 128][..], &name].concat();
        let point = [&[0xa0, 0x81, 131][..], &names].concat();
        let of_name = |rest: &[u8]| {
            let len = u8::try_from(point.len() + rest.len()).unwrap();
            [&[0x30, 0x81, len][..], &point, rest].concat()
        };
        let of = |oid, der: &[u8]| {
            let list = sample::crl_with(&ca, &[7], (NOW, NOW + DAY), &[(oid, der)]);
            Crls::parse(&list).map_err(|error| error.to_string())
        };
        for (oid, der, what) in [
            (DELTA, vec![2, 1, 1], "a delta list"),
            (SCOPE, vec![0x30, 3, 0x84, 1, 0xff], "an indirect one"),
            (SCOPE, of_name(&[0x84, 1, 0xff]), "an indirect one"),
            (SCOPE, vec![0x30, 4, 0x83, 2, 6, 0x40], "for some reasons"),
            (
                SCOPE,
                vec![0x30, 3, 0x85, 1, 0xff],
                "for attribute certificates",
            ),
        ] {
            let refused = of(oid, &der).unwrap_err();
            assert!(refused.contains(what), "{what}: {refused}");
            assert!(refused.contains("the revocation list of CN=a is"));
        }
        // Whose scope is all certificates of users, or those that name the list's place.
        for der in [vec![0x30, 3, 0x81, 1, 0xff], of_name(&[])] {
            of(SCOPE, &der).unwrap();
        }
    }

    #[test]
    fn same_text_is_parsed_once_while_it_is_in_use() {
        let list = sample::crl(&sample::ca("once"), &[1, 2], (NOW, NOW + DAY));
        let first = Crls::parse(&list).unwrap();
        assert!(Arc::ptr_eq(&first, &Crls::parse(&list).unwrap()));
        let weak = Arc::downgrade(&first);
        drop(first);
        assert!(weak.upgrade().is_none());
        Crls::parse(&list).unwrap();
    }
}
