//! Names to addresses: one view for the process, kept up to date in the background.
//!
//! An answer counts for its time to live. As long as somebody holds a [`Name`] it is asked for anew
//! when that is over, whether or not requests come; who looks meanwhile sees the last answer and
//! waits for nobody. Where no server answers, the last answer is used on for an hour; that a name is
//! no more, is an answer.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::net::dial::dns::{self, AskError, Found, Stub};
use crate::net::dial::literal;

pub use crate::net::dial::dns::{DrawId, Place};

/// How long an answer counts whose source has no time to live: the system's, `/etc/hosts`.
const UNTIMED: Duration = Duration::from_secs(10);
/// The least and the most that a time to live counts for.
const TTL_LEAST: Duration = Duration::from_secs(1);
const TTL_MOST: Duration = Duration::from_secs(24 * 60 * 60);
/// How long an answer is used on where asking again fails.
const STALE: Duration = Duration::from_secs(60 * 60);
/// How long after a failure it is asked again: at first, and at most.
const FAILED_LEAST: Duration = Duration::from_secs(1);
const FAILED_MOST: Duration = Duration::from_secs(10);

/// The process's view of names. Its clones are the same view.
#[derive(Clone, Debug)]
pub struct Resolver(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    source: Source,
    /// Where it is asked; `None`: on the runtime of who asks.
    runtime: Option<Handle>,
    /// The names that are kept up to date, and those that were asked for a moment ago.
    names: Mutex<HashMap<Question, Arc<Entry>>>,
}

#[derive(Debug)]
enum Source {
    /// getaddrinfo(3), on a blocking thread.
    System,
    /// The hosts file, then name servers.
    Dns(Stub),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Question {
    /// Where a host is.
    Host(Box<str>),
    /// Where a service is served.
    Service(Box<str>),
}

/// A name that is kept up to date as long as this is held.
#[derive(Clone, Debug)]
pub struct Name(Arc<Entry>);

#[derive(Debug)]
struct Entry {
    known: ArcSwap<Known>,
    /// Moves with every answer and failure.
    told: watch::Sender<()>,
}

/// What is known of a name.
#[derive(Clone, Debug)]
enum Known {
    /// It was not asked for yet.
    Nothing,
    /// Its answer, and the end of its use, even where asking again fails.
    Answer(Arc<Answer>, Instant),
    /// Why there is none.
    Failure(Arc<str>),
}

/// Where a name leads.
#[derive(Debug)]
pub struct Answer {
    places: Vec<Place>,
    /// How many addresses of the first kind there are: IPv4 comes before IPv6.
    first_count: usize,
    /// Whose turn it is to come first.
    turn: AtomicUsize,
}

/// A name that leads nowhere, in the words of who was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unresolved(Arc<str>);

impl Answer {
    fn new(mut places: Vec<Place>) -> Self {
        // In one order, so that an answer in another one is no change.
        places.sort_unstable_by(|one, other| {
            (one.ip.is_ipv6(), one).cmp(&(other.ip.is_ipv6(), other))
        });
        places.dedup();
        Self {
            first_count: places.iter().filter(|it| it.ip.is_ipv4()).count(),
            places,
            turn: AtomicUsize::new(0),
        }
    }

    /// All places, in an order that does not change as long as they do not.
    #[must_use]
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// The addresses, in the order to try them. Those of IPv4 take turns in coming first.
    pub fn in_turn(&self) -> impl Iterator<Item = IpAddr> {
        let (first, rest) = match self.first_count {
            0 => (self.places.as_slice(), &[][..]),
            count => self.places.split_at_checked(count).unwrap_or_default(),
        };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let begin = turn.checked_rem(first.len()).unwrap_or_default();
        let turned = first.iter().cycle().skip(begin).take(first.len());
        turned.chain(rest).map(|place| place.ip)
    }
}

impl Name {
    /// Where it leads, as far as that is known. Does not wait.
    #[must_use]
    pub fn now(&self) -> Option<Arc<Answer>> {
        match &**self.0.known.load() {
            Known::Answer(answer, until) if Instant::now() < *until => Some(answer.clone()),
            Known::Nothing | Known::Answer(..) | Known::Failure(_) => None,
        }
    }

    /// Where it leads. Waits where it was not asked for yet. Cancel safe.
    ///
    /// # Errors
    /// [`Unresolved`].
    pub async fn answer(&self) -> Result<Arc<Answer>, Unresolved> {
        let mut told = self.0.told.subscribe();
        loop {
            told.mark_unchanged();
            match &**self.0.known.load() {
                Known::Answer(answer, until) if Instant::now() < *until => {
                    return Ok(answer.clone());
                }
                Known::Failure(why) => return Err(Unresolved(why.clone())),
                Known::Nothing | Known::Answer(..) => {}
            }
            if told.changed().await.is_err() {
                return Err(Unresolved("the question was given up".into()));
            }
        }
    }
}

impl Resolver {
    /// What the system says, as every command on this machine sees it.
    #[must_use]
    pub fn system() -> Self {
        Self::new(Source::System, None)
    }

    /// `/etc/hosts`, then these name servers, or those of `/etc/resolv.conf` if there are none here.
    /// They are asked on `runtime`, by ids that `draw_id` gives.
    #[must_use]
    pub fn dns(servers: &[SocketAddr], draw_id: DrawId, runtime: Handle) -> Self {
        let stub = Stub::new(servers.to_vec(), draw_id);
        Self::new(Source::Dns(stub), Some(runtime))
    }

    fn new(source: Source, runtime: Option<Handle>) -> Self {
        Self(Arc::new(Shared {
            source,
            runtime,
            names: Mutex::default(),
        }))
    }

    /// The name of a host; `None`: it is an address itself. Locks: for setting up, not for requests.
    #[must_use]
    pub fn host(&self, host: &str) -> Option<Name> {
        match literal(host) {
            Some(_) => None,
            None => Some(self.name(Question::Host(host.into()))),
        }
    }

    /// The name of a service. Locks: for setting up, not for requests.
    #[must_use]
    pub fn service(&self, name: &str) -> Name {
        self.name(Question::Service(name.into()))
    }

    /// The addresses of a host, itself if it is one, in the order to try them.
    ///
    /// # Errors
    /// [`Unresolved`].
    pub async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, Unresolved> {
        if let Some(ip) = literal(host) {
            return Ok(vec![ip]);
        }
        let name = self.name(Question::Host(host.into()));
        Ok(name.answer().await?.in_turn().collect())
    }

    fn name(&self, question: Question) -> Name {
        let entry = {
            let mut names = self.0.lock();
            if let Some(entry) = names.get(&question) {
                return Name(entry.clone());
            }
            let entry = Arc::new(Entry {
                known: ArcSwap::from_pointee(Known::Nothing),
                told: watch::Sender::default(),
            });
            names.insert(question.clone(), entry.clone());
            entry
        };
        // Unlocked: a runtime that has ended drops it here.
        let keeping = Keeping {
            shared: self.0.clone(),
            question,
            entry: entry.clone(),
        };
        let work = keeping.run();
        match &self.0.runtime {
            Some(runtime) => drop(runtime.spawn(work)),
            None => drop(tokio::spawn(work)),
        }
        Name(entry)
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Question, Arc<Entry>>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn find(&self, question: &Question) -> Result<Found, Lost> {
        let found = match (&self.source, question) {
            (_, Question::Service(name)) if literal(name).is_some() => untimed(literal(name)),
            (Source::Dns(stub), Question::Host(host)) => stub.host(host).await?,
            (Source::Dns(stub), Question::Service(name)) => stub.service(name).await?,
            (Source::System, Question::Host(name) | Question::Service(name)) => {
                let found = tokio::net::lookup_host((&**name, 0)).await;
                let found = found.map_err(|error| Lost {
                    is_answer: false,
                    why: error.to_string(),
                })?;
                untimed(found.map(|address| address.ip()))
            }
        };
        if found.places.is_empty() {
            return Err(Lost {
                is_answer: true,
                why: "no address".to_owned(),
            });
        }
        Ok(found)
    }
}

fn untimed(ips: impl IntoIterator<Item = IpAddr>) -> Found {
    Found {
        places: dns::plain(&ips.into_iter().collect::<Vec<_>>()),
        ttl: None,
    }
}

/// A question without an answer.
struct Lost {
    /// That there is none is the answer.
    is_answer: bool,
    why: String,
}

impl From<AskError> for Lost {
    fn from(error: AskError) -> Self {
        Self {
            is_answer: error.is_answer(),
            why: crate::failure::chain(&error),
        }
    }
}

/// Keeps one name up to date for as long as somebody holds it.
struct Keeping {
    shared: Arc<Shared>,
    question: Question,
    entry: Arc<Entry>,
}

impl Drop for Keeping {
    /// Where its runtime ends, nobody waits for it for ever, and the next who asks begins anew.
    fn drop(&mut self) {
        let mut names = self.shared.lock();
        let own = names.get(&self.question);
        if own.is_some_and(|own| Arc::ptr_eq(own, &self.entry)) {
            names.remove(&self.question);
            let given_up = Known::Failure("the question was given up".into());
            self.entry.known.store(Arc::new(given_up));
            self.entry.told.send_replace(());
        }
    }
}

impl Keeping {
    async fn run(self) {
        let mut failures = 0_u32;
        loop {
            let found = self.shared.find(&self.question).await;
            let wait = match &found {
                Ok(found) => {
                    failures = 0;
                    found.ttl.unwrap_or(UNTIMED).clamp(TTL_LEAST, TTL_MOST)
                }
                Err(_) => {
                    failures = failures.saturating_add(1);
                    let doubled = 1_u32 << (failures - 1).min(8);
                    FAILED_LEAST.saturating_mul(doubled).min(FAILED_MOST)
                }
            };
            self.settle(found, Instant::now(), wait, failures);
            tokio::time::sleep(wait).await;
            if self.is_unused() {
                return;
            }
        }
    }

    /// Keeps what came of a question; `failures`: how many in a row, this one counted.
    fn settle(&self, found: Result<Found, Lost>, now: Instant, fresh: Duration, failures: u32) {
        let old = self.entry.known.load_full();
        let new = match (found, &*old) {
            (Ok(found), Known::Answer(answer, _)) => {
                let new = Answer::new(found.places);
                let is_same = new.places == answer.places;
                let answer = if is_same {
                    answer.clone()
                } else {
                    Arc::new(new)
                };
                Known::Answer(answer, now + fresh + STALE)
            }
            (Ok(found), Known::Nothing | Known::Failure(_)) => {
                Known::Answer(Arc::new(Answer::new(found.places)), now + fresh + STALE)
            }
            (Err(lost), Known::Answer(answer, until)) if !lost.is_answer && now < *until => {
                if failures == 1 {
                    let why = lost.why;
                    tracing::warn!(
                        name = self.question.text(),
                        why,
                        "a name cannot be asked for: its last answer is used on"
                    );
                }
                Known::Answer(answer.clone(), *until)
            }
            (Err(lost), known) => {
                if matches!(known, Known::Answer(..)) {
                    tracing::warn!(
                        name = self.question.text(),
                        why = lost.why,
                        "a name leads nowhere any more"
                    );
                }
                Known::Failure(lost.why.into())
            }
        };
        self.entry.known.store(Arc::new(new));
        self.entry.told.send_replace(());
    }

    /// Whether nobody holds the name; then it is forgotten.
    fn is_unused(&self) -> bool {
        let mut names = self.shared.lock();
        // The map's and this one.
        let is_unused = Arc::strong_count(&self.entry) <= 2;
        if is_unused {
            names.remove(&self.question);
        }
        is_unused
    }
}

impl Question {
    fn text(&self) -> &str {
        match self {
            Self::Host(name) | Self::Service(name) => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeping() -> Keeping {
        let resolver = Resolver::system();
        Keeping {
            shared: resolver.0,
            question: Question::Host("a.test".into()),
            entry: Arc::new(Entry {
                known: ArcSwap::from_pointee(Known::Nothing),
                told: watch::Sender::default(),
            }),
        }
    }

    fn found(ips: &[&str]) -> Result<Found, Lost> {
        Ok(untimed(ips.iter().map(|ip| ip.parse().unwrap())))
    }

    fn lost(is_answer: bool) -> Result<Found, Lost> {
        Err(Lost {
            is_answer,
            why: "because".to_owned(),
        })
    }

    fn shown(name: &Name) -> Vec<String> {
        let answer = name.now().into_iter();
        let ips = answer.flat_map(|it| it.in_turn().collect::<Vec<_>>());
        ips.map(|ip| ip.to_string()).collect()
    }

    #[test]
    fn ipv4_takes_turns_and_ipv6_comes_after_it() {
        let keeping = keeping();
        let name = Name(keeping.entry.clone());
        let all = found(&["::1", "10.0.0.2", "10.0.0.1"]);
        keeping.settle(all, Instant::now(), UNTIMED, 1);
        assert_eq!(shown(&name), ["10.0.0.1", "10.0.0.2", "::1"]);
        assert_eq!(shown(&name), ["10.0.0.2", "10.0.0.1", "::1"]);
        assert_eq!(shown(&name), ["10.0.0.1", "10.0.0.2", "::1"]);
        keeping.settle(found(&["::2", "::1"]), Instant::now(), UNTIMED, 1);
        assert_eq!(shown(&name).len(), 2);
    }

    #[test]
    fn answer_in_another_order_is_the_same_one() {
        let keeping = keeping();
        let name = Name(keeping.entry.clone());
        keeping.settle(found(&["10.0.0.1", "10.0.0.2"]), Instant::now(), UNTIMED, 1);
        let first = name.now().unwrap();
        keeping.settle(found(&["10.0.0.2", "10.0.0.1"]), Instant::now(), UNTIMED, 1);
        assert!(Arc::ptr_eq(&first, &name.now().unwrap()));
        keeping.settle(found(&["10.0.0.2"]), Instant::now(), UNTIMED, 1);
        assert!(!Arc::ptr_eq(&first, &name.now().unwrap()));
    }

    #[test]
    fn failure_leaves_the_last_answer_for_a_while_and_denial_does_not() {
        let keeping = keeping();
        let name = Name(keeping.entry.clone());
        let now = Instant::now();
        keeping.settle(lost(false), now, FAILED_LEAST, 1);
        assert!(name.now().is_none());
        keeping.settle(found(&["10.0.0.1"]), now, UNTIMED, 1);
        keeping.settle(lost(false), now + UNTIMED, FAILED_LEAST, 1);
        assert_eq!(shown(&name), ["10.0.0.1"]);
        keeping.settle(lost(false), now + UNTIMED + STALE, FAILED_LEAST, 1);
        assert!(name.now().is_none(), "not for ever");
        keeping.settle(found(&["10.0.0.1"]), now, UNTIMED, 1);
        keeping.settle(lost(true), now, FAILED_LEAST, 1);
        assert!(name.now().is_none(), "that it is no more is an answer");
    }

    #[tokio::test]
    async fn addresses_are_themselves_and_this_machine_is_found() {
        let resolver = Resolver::system();
        for literal in ["127.0.0.1", "[::1]", "127.1"] {
            assert!(resolver.host(literal).is_none(), "{literal}");
            assert_eq!(resolver.resolve(literal).await.unwrap().len(), 1);
        }
        let found = resolver.resolve("localhost").await.unwrap();
        assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
        let service = resolver.service("127.0.0.9").answer().await.unwrap();
        assert_eq!(service.places()[0].ip, IpAddr::from([127, 0, 0, 9]));
    }

    #[tokio::test]
    async fn name_is_asked_for_once_by_all_who_hold_it() {
        let resolver = Resolver::system();
        let (one, other) = (
            resolver.host("localhost"),
            resolver.clone().host("localhost"),
        );
        assert!(Arc::ptr_eq(&one.unwrap().0, &other.unwrap().0));
        assert_eq!(resolver.0.lock().len(), 1);
    }
}
