//! Chains that were verified before: their signatures are not computed again.
//!
//! Whether one certificate was signed by another never changes, so that it is found once for a chain
//! that comes again and again: a third of what a new connection costs (decision record 32). The
//! connection's own proof, the signature with the key of the peer's certificate, is checked each
//! time, as are dates, revocation, and all that the name asks for.

use std::cell::RefCell;
use std::collections::HashSet;
use std::mem;

use openssl::stack::StackRef;
use openssl::x509::X509;

use crate::crypto::sys::KnownChains;
use crate::tls::material::{self, Digest};

/// Chains that a thread knows at most, twice: 64 bytes each.
const MOST: usize = 4096;

/// What each thread knows. Only chains to CAs that were trusted here get in.
#[derive(Debug, Default)]
pub(super) struct Known {
    recent: HashSet<Digest>,
    /// Goes when `recent` is full; what is asked for meanwhile is recent again.
    former: HashSet<Digest>,
}

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::default();
}

impl Known {
    fn has(&mut self, key: &Digest) -> bool {
        if self.recent.contains(key) {
            return true;
        }
        let is_former = self.former.contains(key);
        if is_former {
            self.add(*key);
        }
        is_former
    }

    fn add(&mut self, key: Digest) {
        if self.recent.len() >= MOST {
            self.former = mem::take(&mut self.recent);
        }
        self.recent.insert(key);
    }
}

impl KnownChains for Known {
    type Key = Digest;

    fn key(chain: &StackRef<X509>) -> Option<Digest> {
        material::digest_certificates(chain.iter()).ok()
    }

    fn knows(key: &Digest) -> bool {
        KNOWN.with_borrow_mut(|known| known.has(key))
    }

    fn learn(key: Digest) {
        KNOWN.with_borrow_mut(|known| known.add(key));
    }
}

#[cfg(test)]
mod tests {
    use openssl::stack::Stack;
    use openssl::x509::X509VerifyResult;

    use super::*;
    use crate::crypto::sys::Purpose;
    use crate::tls::material::{CaBundle, Crls};
    use crate::tls::sample::{self, NOW, Sample, Wish};
    use crate::tls::trust::CaStore;

    fn read(sample: &Sample) -> X509 {
        X509::from_pem(sample.cert.as_bytes()).unwrap()
    }

    fn key(chain: &[&Sample]) -> Digest {
        let mut stack = Stack::new().unwrap();
        for one in chain {
            stack.push(read(one)).unwrap();
        }
        Known::key(&stack).unwrap()
    }

    fn judge(store: &CaStore, leaf: &Sample) -> X509VerifyResult {
        let none = Stack::new().unwrap();
        let judged = store.judge(&read(leaf), &none, Purpose::Client, 1);
        judged.unwrap()
    }

    fn store(ca: &Sample) -> CaStore {
        CaStore::new(&CaBundle::parse(&ca.cert).unwrap()).unwrap()
    }

    fn of(ca: &Sample, valid: (i64, i64)) -> Sample {
        let wish = Wish {
            name: "client",
            dns: &[],
            valid,
        };
        sample::issue(&wish, Some(ca))
    }

    #[test]
    fn good_chain_is_learnt_and_a_bad_one_is_not() {
        let (ca, namesake) = (sample::ca("CA"), sample::ca("CA"));
        let store = store(&ca);
        let (good, bad) = (
            sample::leaf(&ca, "a", &[]),
            sample::leaf(&namesake, "a", &[]),
        );
        for _ in 0..2 {
            assert_eq!(judge(&store, &good), X509VerifyResult::OK);
            let refused = judge(&store, &bad).error_string();
            assert_eq!(refused, "certificate signature failure");
        }
        assert!(Known::knows(&key(&[&good, &ca])));
        assert!(!Known::knows(&key(&[&bad, &ca])));
        // Signed by a CA of that name, and trusted by others.
        assert!(!Known::knows(&key(&[&good, &namesake])));
    }

    #[test]
    fn of_a_known_chain_all_but_the_signatures_is_judged() {
        let (ca, namesake) = (sample::ca("CA"), sample::ca("CA"));
        let day = 86_400;
        let late = NOW + 19 * 365 * day;
        let wrong = |valid| {
            // Never learnt by itself.
            let leaf = of(&namesake, valid);
            Known::learn(key(&[&leaf, &ca]));
            leaf
        };
        let store = store(&ca);
        let passes = wrong((NOW - day, late));
        assert_eq!(judge(&store, &passes), X509VerifyResult::OK);
        let expired = judge(&store, &wrong((NOW - 2 * day, NOW - day)));
        assert_eq!(expired.error_string(), "certificate signature failure");
        let early = judge(&store, &wrong((late, late + day)));
        assert_eq!(early.error_string(), "certificate signature failure");
        let list = sample::crl(&ca, &[1], (NOW - 1, late));
        let list = Crls::parse(&list).unwrap();
        let bundle = CaBundle::parse(&ca.cert).unwrap();
        let strict = CaStore::with_crls(&bundle, Some(list)).unwrap();
        assert_eq!(
            judge(&strict, &passes).error_string(),
            "certificate revoked"
        );
        let purpose = store.judge(&read(&passes), &Stack::new().unwrap(), Purpose::Server, 1);
        assert_eq!(purpose.unwrap(), X509VerifyResult::OK);
        // Of a CA that is not trusted here.
        let others = judge(&self::store(&sample::ca("other")), &passes);
        assert_eq!(
            others.error_string(),
            "unable to get local issuer certificate"
        );
    }

    #[test]
    fn expired_chain_that_was_good_is_refused() {
        let ca = sample::ca("CA");
        let store = store(&ca);
        let leaf = of(&ca, (NOW - 86_400, NOW - 1));
        Known::learn(key(&[&leaf, &ca]));
        let refused = judge(&store, &leaf).error_string();
        assert_eq!(refused, "certificate has expired");
    }

    #[test]
    fn as_many_are_known_and_those_in_use_stay() {
        let mut known = Known::default();
        let number = |count: usize| {
            let mut key = Digest::default();
            key[..8].copy_from_slice(&count.to_be_bytes());
            key
        };
        known.add(number(0));
        for count in 1..3 * MOST {
            known.add(number(count));
            assert!(known.has(&number(0)), "{count}");
            assert!(known.recent.len() <= MOST && known.former.len() <= MOST);
        }
        assert!(!known.has(&number(1)));
        assert!(known.has(&number(3 * MOST - 1)));
    }
}
