//! News: what managers tell by themselves, from the sources that listen to control, which reads
//! again what is told.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::reference::{Reference, SourceKey};

/// Paths that may have changed and were not read since. Cheap to clone; bounded by what is listened
/// to, as a path is there once.
#[derive(Clone, Debug, Default)]
pub struct News(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    told: Mutex<BTreeSet<Told>>,
    come: Notify,
}

/// A path of a manager at which something may have changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Told {
    /// Who keeps it.
    pub origin: SourceKey,
    /// What references to it say after the manager's id, or begin with.
    pub path: String,
}

impl Told {
    /// Whether a reference is to what is at this path, or to something below it.
    #[must_use]
    pub fn concerns(&self, reference: &Reference) -> bool {
        let below = reference.rest.strip_prefix(self.path.as_str());
        reference.origin == self.origin
            && below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
    }
}

impl News {
    /// Tells that something may have changed.
    pub fn tell(&self, item: Told) {
        self.all().insert(item);
        self.0.come.notify_one();
    }

    /// Ends when something was told since the last time; for one caller.
    ///
    /// Cancel safe.
    pub async fn come(&self) {
        self.0.come.notified().await;
    }

    /// What was told since the last time.
    #[must_use]
    pub fn take(&self) -> BTreeSet<Told> {
        std::mem::take(&mut *self.all())
    }

    fn all(&self) -> MutexGuard<'_, BTreeSet<Told>> {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn news_concern_what_is_at_their_path_only_and_are_taken_once() {
        let item = Told {
            origin: SourceKey::Secret("kubernetes/1".parse().unwrap()),
            path: "shop/web".to_owned(),
        };
        for (reference, concerned) in [
            ("$secret://kubernetes/1/shop/web/tls.key", true),
            ("$secret://kubernetes/1/shop/web2/tls.key", false),
            ("$secret://kubernetes/1/shop/web", true),
            ("$secret://kubernetes/2/shop/web/tls.key", false),
            ("$secret://vault/1/shop/web/tls.key", false),
            ("$env://shop/web", false),
        ] {
            let read = Reference::parse(reference).unwrap();
            assert_eq!(item.concerns(&read), concerned, "{reference}");
        }
        let news = News::default();
        news.tell(item.clone());
        news.clone().tell(item.clone());
        news.come().await;
        assert_eq!(news.take(), BTreeSet::from([item]));
        assert_eq!(news.take(), BTreeSet::new());
    }
}
