//! Trust stores: parsed once per CA bundle, however many names and upstreams use them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use openssl::asn1::Asn1TimeRef;
use openssl::error::ErrorStack;
use openssl::stack::{Stack, StackRef};
use openssl::x509::store::{X509Store, X509StoreBuilder};
use openssl::x509::verify::X509VerifyFlags;
use openssl::x509::{X509, X509Name, X509NameRef, X509StoreContext, X509VerifyResult};

use crate::crypto::sys::{self, Purpose};
use crate::tls::context::SECURITY_LEVEL;
use crate::tls::known::Known;
use crate::tls::material::{self, CaBundle, CertChain, Crls, Digest};
use crate::tls::server::Common;

/// More intermediates than any chain has.
const ANY_DEPTH: u32 = 100;

/// A CA bundle as OpenSSL uses it, with the revocation lists that chains to it are held against.
/// Only what it holds is trusted, never the system's bundle.
pub struct CaStore {
    /// Digest of the bundle and the lists.
    pub digest: Digest,
    store: X509Store,
    names: Vec<X509Name>,
    /// The one of its certificates that expires first.
    shortest: Option<X509>,
    crls: Option<Arc<Crls>>,
    /// The contexts of names that trust it.
    pub(super) common: Common,
}

impl CaStore {
    /// Makes the store of a bundle; nothing is held against revocation lists.
    ///
    /// # Errors
    /// OpenSSL's own.
    pub fn new(bundle: &CaBundle) -> Result<Self, ErrorStack> {
        Self::with_crls(bundle, None)
    }

    /// Makes the store of a bundle with its revocation lists.
    ///
    /// With them every certificate of a chain is checked, the root included: one whose issuer has
    /// no list here, or a stale one, does not pass (`X509_VERIFY_PARAM_set_flags(3)`; nginx's
    /// `ssl_crl` is the same).
    ///
    /// # Errors
    /// OpenSSL's own.
    pub fn with_crls(bundle: &CaBundle, crls: Option<Arc<Crls>>) -> Result<Self, ErrorStack> {
        let mut store = X509StoreBuilder::new()?;
        // The newest of two certificates of one CA counts, as in nginx.
        store.set_flags(X509VerifyFlags::TRUSTED_FIRST)?;
        sys::remember_chains::<Known>(&mut store)?;
        let mut names = Vec::with_capacity(bundle.certificates.len());
        let mut shortest: Option<&X509> = None;
        for certificate in &bundle.certificates {
            if shortest.is_none_or(|shortest| certificate.not_after() < shortest.not_after()) {
                shortest = Some(certificate);
            }
            store.add_cert(certificate.clone())?;
            names.push(certificate.subject_name().to_owned()?);
        }
        let shortest = shortest.cloned();
        if let Some(crls) = &crls {
            for list in crls.lists() {
                sys::add_crl(&mut store, list)?;
            }
            store.set_flags(X509VerifyFlags::CRL_CHECK | X509VerifyFlags::CRL_CHECK_ALL)?;
        }
        Ok(Self {
            digest: digest(bundle, crls.as_deref())?,
            store: store.build(),
            names,
            shortest,
            crls,
            common: Common::new(),
        })
    }

    /// Whether one of its certificates or lists is past its end, so that what it vouched for must
    /// be judged again.
    pub(super) fn is_outlived(&self, now: &Asn1TimeRef) -> bool {
        self.shortest
            .as_ref()
            .is_none_or(|certificate| certificate.not_after() < now)
            || self.is_stale(now)
    }

    /// Whether one of its revocation lists should have been replaced by now.
    pub(super) fn is_stale(&self, now: &Asn1TimeRef) -> bool {
        self.crls.as_ref().is_some_and(|crls| crls.is_stale(now))
    }

    /// Another handle to the store, for a context.
    pub(super) fn share(&self) -> X509Store {
        sys::share_store(&self.store)
    }

    /// The CA names that a server sends in its CertificateRequest.
    ///
    /// # Errors
    /// OpenSSL's own.
    pub(super) fn names(&self) -> Result<Stack<X509Name>, ErrorStack> {
        let mut names = Stack::new()?;
        for name in &self.names {
            names.push(X509NameRef::to_owned(name)?)?;
        }
        Ok(names)
    }

    /// Whether a peer that trusts these CAs takes a chain of ours as it is: complete, in its
    /// dates, signed well. The error says why not.
    ///
    /// # Errors
    /// OpenSSL's own.
    pub fn completes(
        &self,
        chain: &CertChain,
        purpose: Purpose,
    ) -> Result<Result<(), &'static str>, ErrorStack> {
        let mut sent = Stack::new()?;
        for certificate in &chain.intermediates {
            sent.push(certificate.clone())?;
        }
        let judged = self.judge(&chain.leaf, &sent, purpose, ANY_DEPTH)?;
        Ok(match judged {
            X509VerifyResult::OK => Ok(()),
            refused => Err(refused.error_string()),
        })
    }

    /// Judges a chain that was received earlier, as a handshake would judge it now.
    ///
    /// `leaf` with `sent` (what the peer sent with it), at most `depth` intermediates.
    ///
    /// # Errors
    /// OpenSSL's own; a chain that does not pass is an `Ok` with the result that says why.
    pub fn judge(
        &self,
        leaf: &X509,
        sent: &StackRef<X509>,
        purpose: Purpose,
        depth: u32,
    ) -> Result<X509VerifyResult, ErrorStack> {
        X509StoreContext::new()?.init(&self.store, leaf, sent, |ctx| {
            sys::prepare_verification(ctx, purpose, depth, SECURITY_LEVEL)?;
            let passed = ctx.verify_cert()?;
            let result = ctx.error();
            Ok(if passed || result != X509VerifyResult::OK {
                result
            } else {
                X509VerifyResult::APPLICATION_VERIFICATION
            })
        })
    }
}

impl fmt::Debug for CaStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CaStore({} CAs)", self.names.len())
    }
}

/// What tells one store from another.
fn digest(bundle: &CaBundle, crls: Option<&Crls>) -> Result<Digest, ErrorStack> {
    match crls {
        None => Ok(bundle.digest),
        Some(crls) => material::sha256(&[bundle.digest, crls.digest].concat()),
    }
}

/// The stores in use, one per digest. A store goes when its last user goes.
#[derive(Debug, Default)]
pub struct CaStores(Mutex<HashMap<Digest, Weak<CaStore>>>);

impl CaStores {
    /// The store of `bundle` with these revocation lists, made when no one uses it yet.
    ///
    /// # Errors
    /// OpenSSL's own.
    pub fn intern(
        &self,
        bundle: &CaBundle,
        crls: Option<Arc<Crls>>,
    ) -> Result<Arc<CaStore>, ErrorStack> {
        let digest = digest(bundle, crls.as_deref())?;
        let mut stores = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = stores.get(&digest).and_then(Weak::upgrade) {
            return Ok(store);
        }
        let store = Arc::new(CaStore::with_crls(bundle, crls)?);
        if stores.len() >= 64 && stores.len().is_power_of_two() {
            stores.retain(|_, store| store.strong_count() > 0);
        }
        stores.insert(digest, Arc::downgrade(&store));
        Ok(store)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::sample::{self, NOW, Sample};

    fn list(ca: &Sample, revoked: &[u32]) -> Arc<Crls> {
        Crls::parse(&sample::crl(ca, revoked, (NOW - 1, NOW + 1))).unwrap()
    }

    #[test]
    fn one_store_is_made_for_all_that_trust_alike_and_goes_with_the_last_of_them() {
        let ca = sample::ca("shared");
        let (stores, bundle) = (CaStores::default(), CaBundle::parse(&ca.cert).unwrap());
        let of = |crls: &Arc<Crls>| stores.intern(&bundle, Some(crls.clone())).unwrap();
        let (first, next) = (list(&ca, &[1]), list(&ca, &[1, 2]));
        let used: Vec<_> = (0..50).map(|_| of(&first)).collect();
        assert!(used.iter().all(|store| Arc::ptr_eq(store, &used[0])));
        let others = [of(&next), stores.intern(&bundle, None).unwrap()];
        assert!(others.iter().all(|store| !Arc::ptr_eq(store, &used[0])));
        // All have gone over to the next list: nobody holds the former one any more.
        let (store, crls) = (Arc::downgrade(&used[0]), Arc::downgrade(&first));
        drop((used, first));
        assert!(store.upgrade().is_none() && crls.upgrade().is_none());
        assert!(Arc::ptr_eq(&of(&next), &others[0]));
    }
}
