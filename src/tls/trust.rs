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
use crate::tls::material::{CaBundle, CertChain, Digest};

/// More intermediates than any chain has.
const ANY_DEPTH: u32 = 100;

/// A CA bundle as OpenSSL uses it. Only what it holds is trusted, never the system's bundle.
pub struct CaStore {
    /// Digest of the bundle.
    pub digest: Digest,
    store: X509Store,
    names: Vec<X509Name>,
    /// The one of its certificates that expires first.
    shortest: Option<X509>,
}

impl CaStore {
    /// Makes the store of a bundle.
    ///
    /// # Errors
    /// OpenSSL's own.
    pub fn new(bundle: &CaBundle) -> Result<Self, ErrorStack> {
        let mut store = X509StoreBuilder::new()?;
        // The newest of two certificates of one CA counts, as in nginx.
        store.set_flags(X509VerifyFlags::TRUSTED_FIRST)?;
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
        Ok(Self {
            digest: bundle.digest,
            store: store.build(),
            names,
            shortest,
        })
    }

    /// Whether one of its certificates is past its end, so that what it vouched for must be judged
    /// again.
    pub(super) fn is_outlived(&self, now: &Asn1TimeRef) -> bool {
        self.shortest
            .as_ref()
            .is_none_or(|certificate| certificate.not_after() < now)
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

/// The stores in use, one per digest. A store goes when its last user goes.
#[derive(Debug, Default)]
pub struct CaStores(Mutex<HashMap<Digest, Weak<CaStore>>>);

impl CaStores {
    /// The store of `bundle`, made when no one uses it yet.
    ///
    /// # Errors
    /// OpenSSL's own.
    pub fn intern(&self, bundle: &CaBundle) -> Result<Arc<CaStore>, ErrorStack> {
        let mut stores = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = stores.get(&bundle.digest).and_then(Weak::upgrade) {
            return Ok(store);
        }
        let store = Arc::new(CaStore::new(bundle)?);
        if stores.len() >= 64 && stores.len().is_power_of_two() {
            stores.retain(|_, store| store.strong_count() > 0);
        }
        stores.insert(bundle.digest, Arc::downgrade(&store));
        Ok(store)
    }
}
