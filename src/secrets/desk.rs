//! The desk: references in, values out; every source is asked here and nowhere else.
//!
//! It lives on control's thread and takes orders from any. An order is one generation: each path is
//! read once, however many references name it, so that a certificate and its key always come from
//! one answer. Time is bounded for each attempt and for the order; a manager that does not answer
//! is tried again after a pause that chance varies, and is then taken to be out for the order.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use zeroize::Zeroizing;

use super::custody::Opened;
use super::file;
use super::ground::{Ground, open};
use super::news::{News, Told};
use super::reference::{Reference, SourceKey};
use super::settings::Bounds;
use super::source::{Answer, Ask, Place, ReadFault, Source};
use crate::crypto::{digest, rand};
use crate::resource::{Id, Revision};
use crate::telemetry::metrics::Metrics;

/// Orders that may wait for the desk.
const ORDERS: usize = 256;

/// Paths of one source that are read at the same time.
const AT_ONCE: usize = 8;

/// The pause before the second attempt; it doubles from then on.
const PAUSE: Duration = Duration::from_millis(100);

/// What is to be resolved, as one generation.
#[derive(Debug)]
pub struct Order {
    /// References as written; each once.
    pub references: Vec<String>,
    /// The `secret` resources that they name, as they are now; `None`: there is none.
    pub managers: HashMap<Id, Option<(Revision, Opened)>>,
    /// Time and attempts.
    pub bounds: Bounds,
    /// Nothing may be changed at a manager.
    pub dry_run: bool,
}

/// What an order came to, by reference.
pub type Outcome = BTreeMap<String, Result<Value, ReadFault>>;

/// A value with where it is from. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Value {
    /// The value.
    pub text: Zeroizing<String>,
    /// `sha256:` and the digest of the text, hexadecimal.
    pub digest: String,
    /// The manager's version of it.
    pub version: Option<String>,
    /// How long the manager says that it is good.
    pub good_for: Option<Duration>,
}

impl Value {
    /// A value of an answer.
    ///
    /// # Errors
    /// [`ReadFault::Internal`]: OpenSSL gives no digest.
    pub fn new(text: Zeroizing<String>) -> Result<Self, ReadFault> {
        let digest = digest::sha256(&[text.as_bytes()]).map_err(|error| {
            tracing::error!(%error, "no digest of a secret");
            ReadFault::Internal
        })?;
        Ok(Self {
            text,
            digest: format!("sha256:{digest}"),
            version: None,
            good_for: None,
        })
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Value")
            .field("digest", &self.digest)
            .field("version", &self.version)
            .field("good_for", &self.good_for)
            .finish_non_exhaustive()
    }
}

/// The way to the desk. Cheap to clone; usable from any thread.
#[derive(Clone, Debug)]
pub struct Desk {
    orders: mpsc::Sender<(Order, oneshot::Sender<Outcome>)>,
    news: News,
}

/// The desk's own end of it.
#[derive(Debug)]
pub struct Orders {
    orders: mpsc::Receiver<(Order, oneshot::Sender<Outcome>)>,
    /// What sources tell by themselves; theirs is a clone of it.
    pub news: News,
}

/// A desk, and what must be [served](serve) for it to answer.
#[must_use]
pub fn desk() -> (Desk, Orders) {
    let (sender, receiver) = mpsc::channel(ORDERS);
    let news = News::default();
    let desk = Desk {
        orders: sender,
        news: news.clone(),
    };
    let orders = Orders {
        orders: receiver,
        news,
    };
    (desk, orders)
}

impl Desk {
    /// Resolves an order. Every reference of it is in the outcome.
    ///
    /// Cancel safety: a dropped call is finished by the desk, and its outcome dropped.
    pub async fn resolve(&self, order: Order) -> Outcome {
        let references = order.references.clone();
        let (reply, outcome) = oneshot::channel();
        let refused = |fault: ReadFault| {
            let all = references.iter().cloned();
            all.map(|text| (text, Err(fault.clone()))).collect()
        };
        let total = order.bounds.total;
        match timeout(total, self.orders.send((order, reply))).await {
            Ok(Ok(())) => {}
            Ok(Err(_gone)) => return refused(ReadFault::Internal),
            Err(_elapsed) => return refused(ReadFault::Slow(total)),
        }
        outcome
            .await
            .unwrap_or_else(|_gone| refused(ReadFault::Internal))
    }

    /// Ends when managers have told something by themselves; for one caller. Cancel safe.
    pub async fn news_come(&self) {
        self.news.come().await;
    }

    /// What managers told by themselves since the last time.
    #[must_use]
    pub fn take_news(&self) -> BTreeSet<Told> {
        self.news.take()
    }
}

/// Serves orders until every [`Desk`] is gone. Runs in a `LocalSet`.
pub async fn serve(mut orders: Orders, ground: Rc<Ground>, metrics: Arc<Metrics>) {
    let listening = tokio::task::spawn_local(file::listen(Rc::clone(&ground)));
    let clerk = Rc::new(Clerk {
        ground,
        metrics,
        open: RefCell::default(),
    });
    while let Some((order, reply)) = orders.orders.recv().await {
        let clerk = clerk.clone();
        tokio::task::spawn_local(async move {
            // Nobody waits any more: what was read is dropped.
            let _ = reply.send(Box::pin(clerk.resolve(order)).await);
        });
    }
    listening.abort();
}

/// An opened manager, and the revision of what it was opened from.
type OpenManager = (Revision, Result<Rc<dyn Source>, ReadFault>);

struct Clerk {
    ground: Rc<Ground>,
    metrics: Arc<Metrics>,
    open: RefCell<HashMap<Id, OpenManager>>,
}

/// A reference on its way to a value.
struct Search {
    text: String,
    /// Places still to be tried, the next one first.
    places: std::vec::IntoIter<Place>,
}

impl Clerk {
    async fn resolve(&self, order: Order) -> Outcome {
        let until = Instant::now() + order.bounds.total;
        let mut outcome = Outcome::new();
        let mut by_source: BTreeMap<SourceKey, Vec<(String, String)>> = BTreeMap::new();
        for text in order.references {
            match Reference::parse(&text) {
                Ok(Reference { origin, rest }) => {
                    by_source.entry(origin).or_default().push((text, rest));
                }
                Err(fault) => {
                    outcome.insert(text, Err(fault));
                }
            }
        }
        let mut managers = order.managers;
        let mut asking = Vec::new();
        for (key, wanted) in by_source {
            match self.source(&key, &mut managers) {
                Ok(source) => asking.push(
                    Inquiry {
                        source,
                        count: self.counter(&key),
                        bounds: order.bounds,
                        until,
                        dry_run: order.dry_run,
                        answers: BTreeMap::new(),
                        outage: None,
                    }
                    .run(wanted),
                ),
                Err(fault) => {
                    let all = wanted.into_iter();
                    outcome.extend(all.map(|(text, _)| (text, Err(fault.clone()))));
                }
            }
        }
        for found in join_all(asking).await {
            outcome.extend(found);
        }
        outcome
    }

    /// Counts what a source answers.
    fn counter(&self, key: &SourceKey) -> Counter {
        let (metrics, manager) = (self.metrics.clone(), key.manager().to_owned());
        Box::new(move |answer| {
            let result = match answer {
                Ok(_) => "ok",
                Err(ReadFault::NotFound) => "absent",
                Err(ReadFault::Denied(_)) => "denied",
                Err(fault) if fault.is_outage() => "outage",
                Err(_) => "failed",
            };
            metrics.secret_read(&manager, result);
        })
    }

    fn source(
        &self,
        key: &SourceKey,
        managers: &mut HashMap<Id, Option<(Revision, Opened)>>,
    ) -> Result<Rc<dyn Source>, ReadFault> {
        let id = match key {
            SourceKey::Env => return Ok(self.ground.environment.clone()),
            SourceKey::File(root) => return Ok(Rc::new(self.ground.root(root)?)),
            SourceKey::Secret(id) => id,
        };
        let mut opened = self.open.borrow_mut();
        let Some((revision, document)) = managers.remove(id).flatten() else {
            opened.remove(id);
            return Err(ReadFault::NoManager(format!("the secret {id}")));
        };
        if let Some((own, source)) = opened.get(id)
            && *own == revision
        {
            return source.clone();
        }
        let source = open(id, &document, &self.ground);
        opened.insert(id.clone(), (revision, source.clone()));
        source
    }
}

/// Counts what a source answered.
type Counter = Box<dyn Fn(&Result<Answer, ReadFault>)>;

/// One source within one order.
struct Inquiry {
    source: Rc<dyn Source>,
    count: Counter,
    bounds: Bounds,
    until: Instant,
    dry_run: bool,
    /// Each path is read once.
    answers: BTreeMap<String, Result<Answer, ReadFault>>,
    /// Set when the source as a whole did not answer: nothing more is asked of it.
    outage: Option<ReadFault>,
}

impl Inquiry {
    /// The values of all references to this source: text and rest each.
    async fn run(mut self, wanted: Vec<(String, String)>) -> Outcome {
        let mut outcome = Outcome::new();
        let mut searches = Vec::new();
        for (text, rest) in wanted {
            match self.source.places(&rest) {
                Ok(places) => searches.push(Search {
                    text,
                    places: places.into_iter(),
                }),
                Err(fault) => {
                    outcome.insert(text, Err(fault));
                }
            }
        }
        // Level by level: what is not found at its likeliest place is looked for at the next.
        while !searches.is_empty() {
            let mut level = Vec::new();
            for mut search in searches {
                match search.places.next() {
                    Some(place) => level.push((search, place)),
                    None => {
                        outcome.insert(search.text, Err(ReadFault::NotFound));
                    }
                }
            }
            self.read_all(&level).await;
            searches = Vec::new();
            for (search, place) in level {
                match self.answers.get(&place.path) {
                    Some(Ok(answer)) => {
                        outcome.insert(search.text, value(answer, &place));
                    }
                    Some(Err(ReadFault::NotFound)) => searches.push(search),
                    Some(Err(fault)) => {
                        outcome.insert(search.text, Err(fault.clone()));
                    }
                    None => {
                        outcome.insert(search.text, Err(ReadFault::Internal));
                    }
                }
            }
        }
        outcome
    }

    /// Reads the paths of a level that were not read before, a few at a time.
    async fn read_all(&mut self, level: &[(Search, Place)]) {
        let mut members: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (_, place) in level {
            if self.answers.contains_key(&place.path) {
                continue;
            }
            let asked = members.entry(&place.path).or_default();
            if let Some(member) = &place.member
                && !asked.contains(member)
            {
                asked.push(member.clone());
            }
        }
        let paths: Vec<_> = members.into_iter().collect();
        for some in paths.chunks(AT_ONCE) {
            let reads = some.iter().map(|(path, members)| {
                let inquiry = &*self;
                async move { (*path, inquiry.read(path, members).await) }
            });
            let answers: Vec<_> = stream::iter(reads)
                .buffer_unordered(AT_ONCE)
                .collect()
                .await;
            for (path, answer) in answers {
                if let Err(fault) = &answer
                    && fault.is_outage()
                {
                    self.outage = Some(fault.clone());
                }
                self.answers.insert(path.to_owned(), answer);
            }
        }
    }

    /// Reads one path, again after a pause while the source as a whole does not answer.
    async fn read(&self, path: &str, members: &[String]) -> Result<Answer, ReadFault> {
        if let Some(fault) = &self.outage {
            return Err(fault.clone());
        }
        let ask = Ask {
            path,
            members,
            dry_run: self.dry_run,
        };
        let mut pause = PAUSE;
        let mut tries_left = self.bounds.attempts;
        loop {
            let left = self.until.saturating_duration_since(Instant::now());
            let limit = left.min(self.bounds.attempt);
            let answer = match timeout(limit, self.source.read(ask)).await {
                Ok(answer) => answer,
                Err(_elapsed) => Err(ReadFault::Slow(limit)),
            };
            (self.count)(&answer);
            tries_left = tries_left.saturating_sub(1);
            let left = self.until.saturating_duration_since(Instant::now());
            let wait = varied(pause);
            match answer {
                Err(fault) if fault.is_outage() && tries_left > 0 && wait < left => {
                    sleep(wait).await;
                    pause = pause.saturating_mul(2);
                }
                answer => return answer,
            }
        }
    }
}

fn value(answer: &Answer, place: &Place) -> Result<Value, ReadFault> {
    let value = Value::new(answer.value(place.member.as_deref())?)?;
    Ok(Value {
        version: answer.version.clone(),
        good_for: answer.good_for,
        ..value
    })
}

/// A duration between three quarters and five quarters of this one: many gateways that lost their
/// manager at once do not come back to it at once.
#[must_use]
pub fn varied(duration: Duration) -> Duration {
    // Without chance the pause is what it is: nothing depends on it for safety.
    let chance = rand::array::<1>().map_or(128, |[byte]| byte);
    let share = 0.75 + f64::from(chance) / 512.0;
    duration.mul_f64(share)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::FutureExt;
    use futures_util::future::LocalBoxFuture;
    use tokio::task::LocalSet;

    use super::super::ground::samples::{BOUNDS, ground};
    use super::super::settings::Settings;
    use super::super::source::Content;
    use super::*;

    /// A source of scripted answers, which counts what it is asked.
    #[derive(Default)]
    struct Script {
        asked: RefCell<Vec<String>>,
        /// How often it is out before it answers.
        outages: Cell<u32>,
        /// Never answers.
        hangs: bool,
    }

    impl Source for Script {
        fn places(&self, rest: &str) -> Result<Vec<Place>, ReadFault> {
            let whole = Place {
                path: rest.to_owned(),
                member: None,
            };
            let split = rest.rsplit_once('/').map(|(path, member)| Place {
                path: path.to_owned(),
                member: Some(member.to_owned()),
            });
            Ok([whole].into_iter().chain(split).collect())
        }

        fn read<'a>(&'a self, ask: Ask<'a>) -> LocalBoxFuture<'a, Result<Answer, ReadFault>> {
            self.asked.borrow_mut().push(ask.path.to_owned());
            let number = self.asked.borrow().len();
            async move {
                if self.hangs {
                    std::future::pending::<()>().await;
                }
                if self.outages.get() > 0 {
                    self.outages.set(self.outages.get() - 1);
                    return Err(ReadFault::Unavailable("sealed".to_owned()));
                }
                match ask.path {
                    "pair" => {
                        let json = format!(r#"{{"cert": "c{number}", "key": "k{number}"}}"#);
                        Ok(Answer::of(Content::Text(Zeroizing::new(json))))
                    }
                    "denied/x" => Err(ReadFault::Denied("403".to_owned())),
                    _ => Err(ReadFault::NotFound),
                }
            }
            .boxed_local()
        }
    }

    async fn run(script: Script, rests: &[&str], bounds: Bounds) -> (Outcome, Vec<String>) {
        let source = Rc::new(script);
        let inquiry = Inquiry {
            source: source.clone(),
            count: Box::new(|_answer| {}),
            bounds,
            until: Instant::now() + bounds.total,
            dry_run: false,
            answers: BTreeMap::new(),
            outage: None,
        };
        let wanted = rests
            .iter()
            .map(|rest| ((*rest).to_owned(), (*rest).to_owned()));
        let outcome = inquiry.run(wanted.collect()).await;
        let asked = source.asked.borrow().clone();
        (outcome, asked)
    }

    fn text(outcome: &Outcome, rest: &str) -> String {
        outcome[rest].as_ref().unwrap().text.to_string()
    }

    #[tokio::test]
    async fn references_to_one_path_get_one_answer() {
        let (outcome, asked) = run(Script::default(), &["pair/cert", "pair/key"], BOUNDS).await;
        let (cert, key) = (text(&outcome, "pair/cert"), text(&outcome, "pair/key"));
        assert_eq!(cert.strip_prefix('c'), key.strip_prefix('k'));
        let pairs = asked.iter().filter(|path| *path == "pair").count();
        assert_eq!(pairs, 1, "{asked:?}");
    }

    #[tokio::test]
    async fn places_are_tried_while_nothing_is_there_and_no_longer() {
        let rests = ["pair/cert", "denied/x", "no/where"];
        let (outcome, asked) = run(Script::default(), &rests, BOUNDS).await;
        assert!(outcome["pair/cert"].is_ok());
        let told = outcome["denied/x"].as_ref().unwrap_err();
        assert!(matches!(told, ReadFault::Denied(_)));
        assert!(!asked.contains(&"denied".to_owned()), "{asked:?}");
        assert_eq!(outcome["no/where"], Err(ReadFault::NotFound));
    }

    #[tokio::test]
    async fn outage_is_tried_again_a_bounded_number_of_times() {
        let script = Script {
            outages: Cell::new(1),
            ..Script::default()
        };
        let (outcome, _) = run(script, &["pair"], BOUNDS).await;
        assert!(outcome["pair"].is_ok(), "{outcome:?}");
        let script = Script {
            outages: Cell::new(100),
            ..Script::default()
        };
        let rests: Vec<String> = (0..100).map(|number| format!("path{number:03}")).collect();
        let rests: Vec<&str> = rests.iter().map(String::as_str).collect();
        let (outcome, asked) = run(script, &rests, BOUNDS).await;
        assert_eq!(outcome.len(), 100);
        assert!(outcome.values().all(|found| found.is_err()));
        let most = AT_ONCE * usize::try_from(BOUNDS.attempts).unwrap();
        assert_eq!(asked.len(), most, "a manager that is out is left alone");
    }

    #[tokio::test]
    async fn time_is_bounded_for_each_attempt_and_for_all() {
        let bounds = |attempt, total| Bounds {
            attempt: Duration::from_millis(attempt),
            total: Duration::from_millis(total),
            ..BOUNDS
        };
        // Neither of the others could end it within the half minute that a test may take.
        for bounds in [bounds(50, 600_000), bounds(600_000, 50)] {
            let script = Script {
                hangs: true,
                ..Script::default()
            };
            let asking = run(script, &["pair"], bounds);
            let (outcome, _) = timeout(Duration::from_secs(30), asking).await.unwrap();
            let told = outcome["pair"].as_ref().unwrap_err();
            assert!(matches!(told, ReadFault::Slow(_)), "{told:?}");
        }
    }

    #[tokio::test]
    async fn orders_from_other_threads_are_answered_whole() {
        let work = async {
            let (desk, orders) = desk();
            tokio::task::spawn_local(serve(
                orders,
                ground(Settings::default()),
                Arc::new(Metrics::new().unwrap()),
            ));
            let references = [
                "$env://TOKEN",
                "$env://NOBODY",
                "$secret://vault/1/a/b",
                "$secret://file/none/a",
                "$secret://nonsense",
            ];
            let order = Order {
                references: references.map(str::to_owned).to_vec(),
                managers: HashMap::new(),
                bounds: BOUNDS,
                dry_run: false,
            };
            let handle = desk.clone();
            let asking = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(handle.resolve(order))
            });
            while !asking.is_finished() {
                tokio::task::yield_now().await;
            }
            let outcome = asking.join().unwrap();
            assert_eq!(outcome.len(), references.len());
            assert_eq!(text(&outcome, "$env://TOKEN"), "hush-token\n");
            assert!(!format!("{outcome:?}").contains("hush"));
            for reference in &references[1..] {
                assert!(outcome[*reference].is_err(), "{reference}");
            }
        };
        LocalSet::new().run_until(work).await;
    }
}
