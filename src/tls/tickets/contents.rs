//! What a session takes along beside what libssl keeps of it: until when it and all that is made
//! of it may be resumed, and, in a ticket, what the client sent along with its certificate, of
//! which a ticket has the leaf alone.

use std::cell::OnceCell;

use openssl::error::ErrorStack;
use openssl::ssl::{SslRef, SslSessionRef};
use openssl::x509::{X509, X509Ref};

use crate::crypto::sys;
use crate::tls::material;
use crate::tls::tickets::keys;

/// The forms of what is attached, its first byte. What has another one, as gateways of former
/// versions made it, is followed by a full handshake.
mod form {
    /// Nothing more: no certificate was shown, or the session that stays with us has them all.
    pub(super) const ALONE: u8 = 3;
    /// With what was sent along.
    pub(super) const WHOLE: u8 = 4;
    /// What was sent along did not fit.
    pub(super) const UNREAD: u8 = 5;
    /// The client's certificate does not fit by itself: no ticket is made of it.
    pub(super) const TOO_LONG: u8 = 6;
}

/// Bytes of certificates that a ticket takes, the leaf among them. A client reads no ticket of
/// 16 KiB and more (`SSL3_RT_MAX_PLAIN_LENGTH`), and breaks off instead.
pub(super) const CERTIFICATE_BYTES: usize = 12 * 1024;

/// What libssl asks of tickets, stateless ones and handles to the session cache.
pub(in crate::tls) struct Contents;

impl sys::TicketContents for Contents {
    /// TLS 1.3 gives each connection that is resumed a session of its own, as young as if it came
    /// from a full handshake, so that a client could go on for ever without its private key (RFC
    /// 8446 §4.6.1). Here each ends when the first one must, `life` seconds after its full
    /// handshake; a session of TLS 1.2 keeps its age by itself.
    fn attach(ssl: &mut SslRef, life: u32) -> Result<(), ErrorStack> {
        let Some(session) = ssl.session() else {
            return Ok(());
        };
        let made = sys::session_time(session);
        let attached = Attached::read(sys::attached_to_ticket(session));
        let until = attached.as_ref().map(|attached| attached.until);
        let until = until.unwrap_or_else(|| made.saturating_add(i64::from(life)));
        let rest = until.saturating_sub(made);
        let is_too_long = session.timeout() > rest;
        // What was resumed by a ticket has what the ticket before it had; what was resumed from the
        // cache may never have been in any.
        let has_all = attached.is_some_and(|attached| attached.form != form::ALONE);
        if is_too_long {
            sys::limit_session(ssl, u32::try_from(rest).unwrap_or(0))?;
        }
        if has_all {
            return Ok(());
        }
        let leaf = ssl.peer_certificate().filter(|_| keys(ssl).is_some());
        let packed = match leaf {
            Some(leaf) => Along::pack(until, &leaf, ssl.peer_cert_chain().into_iter().flatten())?,
            None => head(form::ALONE, until),
        };
        sys::attach_to_ticket(ssl, &packed)
    }

    fn admit(session: &SslSessionRef) -> bool {
        let Some(attached) = Attached::read(sys::attached_to_ticket(session)) else {
            return false;
        };
        attached.form == form::ALONE || Along::unpack(&attached).is_some()
    }
}

/// Whether a connection's session has a certificate that no ticket can hold.
pub(super) fn are_too_long(ssl: &SslRef) -> bool {
    let attached = ssl.session().map(sys::attached_to_ticket);
    let attached = attached.and_then(Attached::read);
    attached.is_some_and(|attached| attached.form == form::TOO_LONG)
}

/// What is attached to a session. In bytes: the form, `until`, and the rest.
struct Attached<'a> {
    form: u8,
    /// When the last session ends that comes from the same full handshake, epoch seconds.
    until: i64,
    rest: &'a [u8],
}

impl<'a> Attached<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (form, rest) = bytes.split_first()?;
        let (until, rest) = rest.split_first_chunk()?;
        let is_known = matches!(
            *form,
            form::ALONE | form::WHOLE | form::UNREAD | form::TOO_LONG
        );
        is_known.then_some(Self {
            form: *form,
            until: i64::from_be_bytes(*until),
            rest,
        })
    }
}

/// The beginning of what is attached; all of it in most forms.
fn head(form: u8, until: i64) -> Vec<u8> {
    let mut head = vec![form];
    head.extend_from_slice(&until.to_be_bytes());
    head
}

/// What a client sent along with its certificate, as a ticket keeps it.
#[derive(Debug)]
pub(in crate::tls) struct Along {
    /// When the first of it expires, epoch seconds; `i64::MAX` when there is nothing.
    pub(in crate::tls) end: i64,
    certificates: Vec<Vec<u8>>,
    parsed: OnceCell<Vec<X509>>,
}

impl Along {
    /// What came in the ticket that a connection was resumed from; `None` when nothing can be known.
    pub(in crate::tls) fn of(ssl: &SslRef) -> Option<Self> {
        Self::unpack(&Attached::read(sys::attached_to_ticket(ssl.session()?))?)
    }

    /// The certificates.
    ///
    /// # Errors
    /// OpenSSL's own.
    pub(in crate::tls) fn certificates(&self) -> Result<&[X509], ErrorStack> {
        if let Some(parsed) = self.parsed.get() {
            return Ok(parsed);
        }
        let all = self.certificates.iter();
        let parsed = all
            .map(|der| X509::from_der(der))
            .collect::<Result<_, _>>()?;
        Ok(self.parsed.get_or_init(|| parsed))
    }

    /// In bytes, behind the head: the end, each certificate behind its length. What does not fit is
    /// left out, and such a ticket is never resumed.
    fn pack<'a>(
        until: i64,
        leaf: &X509Ref,
        sent: impl Iterator<Item = &'a X509Ref>,
    ) -> Result<Vec<u8>, ErrorStack> {
        let Some(room) = CERTIFICATE_BYTES.checked_sub(leaf.to_der()?.len()) else {
            return Ok(head(form::TOO_LONG, until));
        };
        let mut room = Some(room);
        let mut end = i64::MAX;
        let mut certificates = Vec::new();
        for certificate in sent {
            let der = certificate.to_der()?;
            room = room.and_then(|room| room.checked_sub(der.len()));
            end = end.min(material::validity(certificate)?.1);
            certificates.extend_from_slice(&u32::try_from(der.len()).unwrap_or(0).to_be_bytes());
            certificates.extend_from_slice(&der);
        }
        if room.is_none() {
            return Ok(head(form::UNREAD, until));
        }
        let mut packed = head(form::WHOLE, until);
        packed.extend_from_slice(&end.to_be_bytes());
        packed.extend_from_slice(&certificates);
        Ok(packed)
    }

    fn unpack(attached: &Attached<'_>) -> Option<Self> {
        if attached.form != form::WHOLE {
            return None;
        }
        let (end, mut rest) = attached.rest.split_first_chunk()?;
        let mut certificates = Vec::new();
        while !rest.is_empty() {
            let (len, after) = rest.split_first_chunk()?;
            let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
            let (der, after) = after.split_at_checked(len)?;
            certificates.push(der.to_vec());
            rest = after;
        }
        Some(Self {
            end: i64::from_be_bytes(*end),
            certificates,
            parsed: OnceCell::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_attachments_are_not_read() {
        let unpack = |bytes: &[u8]| Along::unpack(&Attached::read(bytes)?);
        let good = [&head(form::WHOLE, 7)[..], &[0; 8], &[0, 0, 0, 1], b"x"].concat();
        assert_eq!(unpack(&good).unwrap().certificates.len(), 1);
        for length in 0..good.len() {
            let is_whole = unpack(&good[..length]).is_some();
            // Without any certificate it ends behind the time.
            assert_eq!(is_whole, length == 17, "{length}");
        }
        assert!(unpack(&[&[form::UNREAD], &good[1..]].concat()).is_none());
        assert_eq!(Attached::read(&good).unwrap().until, 7);
        // As former versions wrote it.
        assert!(Attached::read(&[&[1], &good[1..]].concat()).is_none());
    }
}
