//! News: what managers tell by themselves, from the sources that listen to control, which reads
//! again what is told.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::reference::{Reference, SourceKey};
use crate::resource::Id;

/// Paths that may have changed and were not read since. Cheap to clone; bounded by what is listened
/// to, as a path is there once.
#[derive(Clone, Debug, Default)]
pub struct News(Arc<Mutex<BTreeSet<Told>>>);

/// A path of a manager at which something may have changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Told {
    /// The `secret` resource.
    pub manager: Id,
    /// As [`Source::places`](super::source::Source::places) gave it, a prefix of what references to
    /// it say.
    pub path: String,
}

impl Told {
    /// Whether a reference is to something at this path.
    #[must_use]
    pub fn concerns(&self, reference: &str) -> bool {
        Reference::parse(reference).is_ok_and(|read| {
            let below = read.rest.strip_prefix(self.path.as_str());
            read.origin == SourceKey::Secret(self.manager.clone())
                && below.is_some_and(|below| below.starts_with('/'))
        })
    }
}

impl News {
    /// Tells that something may have changed.
    pub fn tell(&self, item: Told) {
        self.all().insert(item);
    }

    /// What was told since the last time.
    #[must_use]
    pub fn take(&self) -> BTreeSet<Told> {
        std::mem::take(&mut *self.all())
    }

    fn all(&self) -> MutexGuard<'_, BTreeSet<Told>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_concern_what_is_at_their_path_only_and_are_taken_once() {
        let item = Told {
            manager: "kubernetes/1".parse().unwrap(),
            path: "shop/web".to_owned(),
        };
        for (reference, concerned) in [
            ("$secret://kubernetes/1/shop/web/tls.key", true),
            ("$secret://kubernetes/1/shop/web2/tls.key", false),
            ("$secret://kubernetes/1/shop/web", false),
            ("$secret://kubernetes/2/shop/web/tls.key", false),
            ("$secret://vault/1/shop/web/tls.key", false),
            ("$env://shop/web", false),
        ] {
            assert_eq!(item.concerns(reference), concerned, "{reference}");
        }
        let news = News::default();
        news.tell(item.clone());
        news.clone().tell(item.clone());
        assert_eq!(news.take(), BTreeSet::from([item]));
        assert_eq!(news.take(), BTreeSet::new());
    }
}
