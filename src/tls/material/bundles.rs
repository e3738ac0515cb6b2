//! CA bundles that were read lately, by their text: as a rule many objects have the same.
//!
//! They hold nothing secret. A text that cannot be read is read again each time: it is rare, and
//! its error is not to be kept.

use std::sync::LazyLock;

use moka::sync::Cache;

use super::{CaBundle, Digest, MaterialError, sha256};

/// How many bytes of certificates are remembered, as DER, all bundles together.
const BYTES: u64 = 4 << 20;

static BUNDLES: LazyLock<Cache<Digest, CaBundle>> = LazyLock::new(|| cache(BYTES));

fn cache(bytes: u64) -> Cache<Digest, CaBundle> {
    let weigh = |_: &Digest, bundle: &CaBundle| {
        let sizes = bundle.certificates.iter();
        let sizes = sizes.map(|one| one.to_der().map_or(0, |der| der.len()));
        u32::try_from(sizes.sum::<usize>()).unwrap_or(u32::MAX)
    };
    Cache::builder().max_capacity(bytes).weigher(weigh).build()
}

/// The bundle of a text: the one that was read before, which shares its certificates, or what
/// `parse` makes of it.
pub(super) fn read(
    pem: &str,
    parse: impl FnOnce() -> Result<CaBundle, MaterialError>,
) -> Result<CaBundle, MaterialError> {
    read_from(&BUNDLES, pem, parse)
}

fn read_from(
    known: &Cache<Digest, CaBundle>,
    pem: &str,
    parse: impl FnOnce() -> Result<CaBundle, MaterialError>,
) -> Result<CaBundle, MaterialError> {
    let text = sha256(pem.as_bytes())?;
    if let Some(bundle) = known.get(&text) {
        return Ok(bundle);
    }
    let bundle = parse()?;
    known.insert(text, bundle.clone());
    Ok(bundle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::sample;
    use std::cell::Cell;

    #[test]
    fn text_that_was_read_is_not_read_again() {
        let known = cache(BYTES);
        let (one, other) = (sample::ca("one").cert, sample::ca("other").cert);
        let count = Cell::new(0);
        let read = |pem: &str| {
            read_from(&known, pem, || {
                count.set(count.get() + 1);
                CaBundle::parse_all([pem])
            })
        };
        let first = read(&one).unwrap();
        assert_eq!(read(&one).unwrap().digest, first.digest);
        assert_eq!(count.get(), 1);
        assert_ne!(read(&other).unwrap().digest, first.digest);
        assert_eq!(count.get(), 2);
        for _ in 0..2 {
            assert!(read("no certificate").is_err());
        }
        assert_eq!(count.get(), 4);
    }

    #[test]
    fn memory_of_texts_is_bounded() {
        let known = cache(2000);
        for n in 0..50 {
            let pem = sample::ca(&format!("ca {n}")).cert;
            read_from(&known, &pem, || CaBundle::parse_all([pem.as_str()])).unwrap();
        }
        known.run_pending_tasks();
        assert!(known.weighted_size() <= 2000, "{}", known.weighted_size());
        assert!(known.entry_count() > 0);
    }
}
