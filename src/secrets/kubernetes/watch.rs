//! Watching secrets: a request each that stays open until its secret changes, then the news, and
//! whoever reads the secret again begins anew. Nothing of an event is read: the news are enough.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use tokio::task::AbortHandle;

use super::super::desk::varied;
use super::super::news::{News, Told};
use super::super::wire;
use super::Means;
use crate::failure::chain;
use crate::net::http::{HttpError, Watched};

/// How many secrets of one manager are watched: each needs a connection. What is beyond is read
/// again after `secrets.cache_time`.
pub(super) const MOST: usize = 256;

/// For how long one watch is asked; the API server ends it then.
const LASTS: Duration = Duration::from_secs(240);

/// How long after that the answer's end is waited for.
const GRACE: Duration = Duration::from_secs(30);

/// The shortest time from one watch of a secret to the next.
const LEAST: Duration = Duration::from_secs(1);

/// The pause after a watch that failed.
const PAUSE: Duration = Duration::from_secs(5);

/// How long a refusal to watch is taken to stand.
const REFUSED: Duration = Duration::from_secs(600);

/// What a watch is begun with.
pub(super) struct Wish {
    pub(super) means: Means,
    /// The version that was read; what is newer is news.
    pub(super) from: String,
}

/// The watches of one manager; they end with it.
pub(super) struct Watches {
    news: News,
    pub(super) state: Rc<RefCell<HashMap<String, State>>>,
}

pub(super) enum State {
    Running(AbortHandle),
    /// Since then.
    Refused(Instant),
}

impl Watches {
    pub(super) fn new(news: News) -> Self {
        Self {
            news,
            state: Rc::default(),
        }
    }

    /// Begins to watch a secret, unless it is watched.
    pub(super) fn begin(&self, item: Told, wish: Wish) {
        let mut state = self.state.borrow_mut();
        match state.get(&item.path) {
            Some(State::Running(_)) => return,
            Some(State::Refused(since)) if since.elapsed() < REFUSED => return,
            Some(State::Refused(_)) => {}
            None if state.len() >= MOST => {
                tracing::debug!(manager = %item.origin, path = item.path, "not watched: too many");
                return;
            }
            None => {}
        }
        let path = item.path.clone();
        let (news, states) = (self.news.clone(), Rc::clone(&self.state));
        let task = tokio::task::spawn_local(async move {
            let next = follow(&item, wish).await;
            if let Some(refused) = next {
                states.borrow_mut().insert(item.path, refused);
            } else {
                states.borrow_mut().remove(&item.path);
                news.tell(item);
            }
        });
        state.insert(path, State::Running(task.abort_handle()));
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        for state in self.state.borrow().values() {
            if let State::Running(task) = state {
                task.abort();
            }
        }
    }
}

/// Watches until there is reason to read again, at most once a second; or says that it may not.
async fn follow(item: &Told, wish: Wish) -> Option<State> {
    let begun = Instant::now();
    let told = ask(wish).await;
    let (manager, path) = (&item.origin, &item.path);
    let pause = match told {
        Ok(Watched::Said | Watched::Ended) => LEAST.saturating_sub(begun.elapsed()),
        Ok(Watched::Refused(status @ (StatusCode::FORBIDDEN | StatusCode::METHOD_NOT_ALLOWED))) => {
            tracing::info!(
                %manager, path, status = status.as_u16(),
                "not watched: permit `watch` on the secret, or its rotations wait for \
                 `secrets.cache_time`"
            );
            return Some(State::Refused(Instant::now()));
        }
        Ok(Watched::Refused(status)) => {
            tracing::debug!(%manager, path, status = status.as_u16(), "a watch is refused");
            varied(PAUSE)
        }
        Err(error) => {
            tracing::debug!(%manager, path, error = chain(&error), "a watch ended");
            varied(PAUSE)
        }
    };
    tokio::time::sleep(pause).await;
    None
}

async fn ask(wish: Wish) -> Result<Watched, HttpError> {
    let Wish { means, from } = wish;
    let lasts = varied(LASTS);
    let uri = format!(
        "/api/v1/namespaces/{}/secrets?watch=true&fieldSelector={}&resourceVersion={}\
         &timeoutSeconds={}",
        means.namespace,
        wire::escape(&format!("metadata.name={}", means.name)),
        wire::escape(&from).replace('/', "%2F"),
        lasts.as_secs(),
    );
    let request = Request::get(uri)
        .header("accept", "application/json")
        .header("authorization", means.authorization)
        .body(Bytes::new())?;
    means
        .client
        .watch(request, lasts.saturating_add(GRACE))
        .await
}
