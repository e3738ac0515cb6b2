//! Clients that ask while something is rotated, and what they may see at each moment.
//!
//! In the suite they ask as fast as they are answered, so often before a rotation, while it is made
//! and after it; then they wait for the next one. So each has its share, and nothing depends on
//! time. `make rotation` has them ask by the clock: see [`Pace`].

use std::fmt;
use std::ops::{AddAssign, RangeInclusive};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::support::SOON;
use crate::support::h2::H2Conn;
use crate::support::tls::{Answer, Ended, Session, TlsClient, TlsConn};

/// The load that rotations are made under: requests over kept connections, and new connections, a
/// second.
const LOAD: Done = Done {
    kept: 200,
    opened: 50,
};
/// Rotations a second that the suite's counts stand for: so many requests and connections come with
/// each rotation as if it had that much time.
const ROTATIONS_A_SECOND: usize = 10;
/// How often a client asks in one phase, while a rotation is made or between two, unless said
/// otherwise; times [`Kind::weight`].
const SHARE: usize = 4;
/// Names the number of rotations, and has them made by the clock.
const VARIABLE: &str = "PORTCULLIS_TEST_ROTATIONS";

/// The rotations so far. Number 0 is the state that the load begins in.
#[derive(Default)]
pub(super) struct Turns {
    begun: AtomicUsize,
    told: AtomicUsize,
}

/// The rotations that may have been in force at some moment of an ask: those that were answered
/// before it began, the last one alone, and those that were begun before it ended.
pub(super) type Window = RangeInclusive<usize>;

impl Turns {
    /// A moment: from here on, nothing older than this rotation may be seen.
    pub(super) fn now(&self) -> usize {
        self.told.load(Ordering::SeqCst)
    }

    /// The window of what began at this moment and is over.
    pub(super) fn since(&self, moment: usize) -> Window {
        moment..=self.begun.load(Ordering::SeqCst)
    }
}

/// One ask of a client: what was done, or what went wrong.
pub(super) type Ask = Box<dyn FnMut(&Turns) -> Result<Done, String> + Send>;

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    /// Requests that were answered over a connection that was open before.
    pub(super) kept: usize,
    /// Connections that were opened and served.
    pub(super) opened: usize,
}

impl Done {
    /// A request over a kept connection.
    pub(super) const KEPT: Self = Self { kept: 1, opened: 0 };
    /// A new connection.
    pub(super) const OPENED: Self = Self { kept: 0, opened: 1 };
    /// Neither: a client that is not let in was not.
    pub(super) const NEITHER: Self = Self { kept: 0, opened: 0 };

    fn has_reached(self, least: Self) -> bool {
        self.kept >= least.kept && self.opened >= least.opened
    }
}

impl AddAssign for Done {
    fn add_assign(&mut self, more: Self) {
        self.kept += more.kept;
        self.opened += more.opened;
    }
}

/// What a client is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The requests over kept connections.
    Kept,
    /// The new connections.
    New,
    /// Both, not each time.
    Both,
    /// Something besides.
    Other,
}

impl Kind {
    /// How much more such clients ask than others, as [`LOAD`] has it.
    fn weight(self) -> usize {
        match self {
            Self::Kept | Self::Both => LOAD.kept / LOAD.opened,
            Self::New | Self::Other => 1,
        }
    }

    /// The time between two asks of one of `count` such clients; a little less than the load needs.
    fn interval(self, count: usize) -> Duration {
        let rate = match self {
            Self::Kept => LOAD.kept + LOAD.kept / 20,
            Self::New => LOAD.opened + LOAD.opened / 20,
            // An upstream connection carries four requests, and in one of five states there is none.
            Self::Both => (LOAD.opened + LOAD.opened / 20) * 5,
            Self::Other => 20 * count,
        };
        Duration::from_secs(count as u64) / rate as u32
    }
}

/// A client: its name, what it is for, and what it does.
pub(super) struct Client {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) ask: Ask,
}

/// When clients ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// As fast as they are answered, so often in each phase: any machine gets to the end.
    Shares,
    /// At the rates of [`LOAD`], and this many rotations; a machine that does not reach them fails.
    Clock(usize),
}

impl Pace {
    fn wanted() -> Self {
        match std::env::var(VARIABLE) {
            Ok(count) => Self::Clock(count.parse().expect("a number of rotations")),
            Err(_) => Self::Shares,
        }
    }
}

/// Clients at work, a thread each.
pub(super) struct Load {
    pace: Pace,
    /// By the clock, one in so many of the rotations is made.
    seldom: usize,
    turns: Arc<Turns>,
    board: Arc<Board>,
    clients: Vec<JoinHandle<()>>,
    started: Instant,
}

/// What the clients tell.
struct Board {
    pace: Pace,
    told: Mutex<Told>,
    changed: Condvar,
}

#[derive(Default)]
struct Told {
    is_over: bool,
    /// How often a client may ask in one phase.
    share: usize,
    /// Rises when a rotation is begun, and when it is answered.
    phase: usize,
    failures: Vec<String>,
    clients: Vec<Progress>,
}

struct Progress {
    name: String,
    kind: Kind,
    /// All asks that went well, and what was done by them.
    asks: usize,
    done: Done,
    /// The phase of the last ask, and how many began in it and went well.
    phase: usize,
    begun: usize,
    served: usize,
    /// By the clock: when to ask next, and how much later once more.
    next: Instant,
    interval: Duration,
}

impl Told {
    fn goes_on(&self) -> bool {
        !self.is_over && self.failures.is_empty()
    }

    fn done(&self) -> Done {
        let mut sum = Done::default();
        for client in &self.clients {
            sum += client.done;
        }
        sum
    }
}

impl Load {
    /// Starts a thread for each client.
    pub(super) fn start(clients: Vec<Client>) -> Self {
        Self::with_share(SHARE, clients)
    }

    /// The same, with this many asks of each client in each phase.
    pub(super) fn with_share(share: usize, clients: Vec<Client>) -> Self {
        let (pace, started) = (Pace::wanted(), Instant::now());
        let progress = |client: &Client| {
            let alike = clients.iter().filter(|other| other.kind == client.kind);
            Progress {
                name: client.name.clone(),
                kind: client.kind,
                asks: 0,
                done: Done::default(),
                phase: 0,
                begun: 0,
                served: 0,
                next: started,
                interval: client.kind.interval(alike.count()),
            }
        };
        let told = Mutex::new(Told {
            share,
            clients: clients.iter().map(progress).collect(),
            ..Told::default()
        });
        let board = Arc::new(Board {
            pace,
            told,
            changed: Condvar::new(),
        });
        let turns = Arc::<Turns>::default();
        let clients = clients.into_iter().enumerate();
        let clients = clients.map(|(index, mut client)| {
            let (turns, board) = (Arc::clone(&turns), Arc::clone(&board));
            thread::spawn(move || {
                while board.admit(index) {
                    let asked = catch_unwind(AssertUnwindSafe(|| (client.ask)(&turns)));
                    let asked = asked.unwrap_or_else(|panic| Err(said(panic.as_ref())));
                    board.note(index, asked);
                }
            })
        });
        Self {
            pace,
            seldom: 1,
            clients: clients.collect(),
            turns,
            board,
            started,
        }
    }

    /// The same load, for rotations that take long: by the clock one in so many is made.
    pub(super) fn seldom(self, seldom: usize) -> Self {
        Self { seldom, ..self }
    }

    /// Rotates at least so often, and until as many requests over kept connections were answered
    /// and as many connections opened as come with that by [`LOAD`]; each client is served so often
    /// between two rotations. By the clock, the load was really that.
    #[track_caller]
    pub(super) fn rotate_under_load(
        &self,
        rotations: usize,
        asks: usize,
        mut rotate: impl FnMut(usize),
    ) {
        let rotations = match self.pace {
            Pace::Shares => rotations,
            Pace::Clock(rotations) => rotations.div_ceil(self.seldom),
        };
        let least = Done {
            kept: LOAD.kept * rotations / ROTATIONS_A_SECOND,
            opened: LOAD.opened * rotations / ROTATIONS_A_SECOND,
        };
        self.expect_served(asks);
        while self.turns.now() < rotations || !self.done().has_reached(least) {
            let done = self.done();
            let made = self.turns.now();
            assert!(made < 4 * rotations, "{made} rotations, and but {done:?}");
            self.rotate(&mut rotate);
            self.expect_served(asks);
        }
        let (done, seconds) = (self.done(), self.started.elapsed().as_secs_f64());
        let is_slow = |count, wanted| (count as f64) < wanted as f64 * seconds;
        let too_slow = is_slow(done.kept, LOAD.kept) || is_slow(done.opened, LOAD.opened);
        let is_wanted = self.pace != Pace::Shares;
        assert!(
            !(is_wanted && too_slow),
            "this machine is too slow for {LOAD:?} a second: {done:?} in {seconds:.1} s"
        );
    }

    fn done(&self) -> Done {
        self.board.told.lock().unwrap().done()
    }

    /// Makes the next rotation; it is in force when `rotate` returns.
    pub(super) fn rotate(&self, rotate: impl FnOnce(usize)) {
        let turn = self.turns.begun.fetch_add(1, Ordering::SeqCst) + 1;
        self.board.next_phase();
        rotate(turn);
        self.turns.told.store(turn, Ordering::SeqCst);
        self.board.next_phase();
    }

    /// Tries what is refused: nothing changes.
    pub(super) fn refuse(&self, refuse: impl FnOnce()) {
        self.board.next_phase();
        refuse();
        self.board.next_phase();
    }

    /// Waits until each client was served so often, times its weight, for what it asked since the
    /// last answer to a rotation.
    #[track_caller]
    pub(super) fn expect_served(&self, asks: usize) {
        let turn = self.turns.now();
        let told = self.board.told.lock().unwrap();
        assert!(asks <= told.share);
        let lacks = |told: &mut Told| {
            let is_fed = |client: &Progress| {
                client.phase == told.phase && client.served >= asks * client.kind.weight()
            };
            told.failures.is_empty() && !told.clients.iter().all(is_fed)
        };
        let waited = self.board.changed.wait_timeout_while(told, 3 * SOON, lacks);
        let (told, timeout) = waited.unwrap();
        let what = match told.failures.first() {
            Some(failure) => failure.clone(),
            None if timeout.timed_out() => format!("somebody was not served: {told:?}"),
            None => return,
        };
        // The clients go on, and must find the board in order.
        drop(told);
        panic!("rotation {turn}: {what}");
    }

    /// Ends the load; no ask has failed. Prints what was done.
    #[track_caller]
    pub(super) fn end(self, what: &str) {
        self.board.told.lock().unwrap().is_over = true;
        self.board.changed.notify_all();
        for client in self.clients {
            client.join().expect("what goes wrong is caught");
        }
        let told = self.board.told.lock().unwrap();
        assert!(told.failures.is_empty(), "{:#?}", told.failures);
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = |count: usize| count as f64 / seconds;
        let done = told.done();
        eprintln!(
            "{what}: {} rotations in {seconds:.1} s, {} requests over kept connections ({:.0}/s), \
             {} new connections ({:.0}/s): 0 failed, 0 answered as before a rotation, 0 kept \
             connections closed; asks: {told:?}",
            self.turns.now(),
            done.kept,
            rate(done.kept),
            done.opened,
            rate(done.opened),
        );
    }
}

impl Board {
    fn next_phase(&self) {
        self.told.lock().unwrap().phase += 1;
        self.changed.notify_all();
    }

    /// Waits until a client may ask; `false` when the load is over.
    fn admit(&self, index: usize) -> bool {
        let told = self.told.lock().unwrap();
        let mut told = match self.pace {
            Pace::Shares => {
                let has_had_its_share = |told: &mut Told| {
                    let client = &told.clients[index];
                    let share = told.share * client.kind.weight();
                    told.goes_on() && client.phase == told.phase && client.begun >= share
                };
                self.changed.wait_while(told, has_had_its_share).unwrap()
            }
            Pace::Clock(_) => {
                let next = told.clients[index].next;
                let wait = next.saturating_duration_since(Instant::now());
                let goes_on = |told: &mut Told| told.goes_on();
                let waited = self.changed.wait_timeout_while(told, wait, goes_on);
                let (mut told, _) = waited.unwrap();
                let client = &mut told.clients[index];
                client.next += client.interval;
                told
            }
        };
        if !told.goes_on() {
            return false;
        }
        let phase = told.phase;
        let client = &mut told.clients[index];
        if client.phase != phase {
            (client.phase, client.begun, client.served) = (phase, 0, 0);
        }
        client.begun += 1;
        true
    }

    fn note(&self, index: usize, asked: Result<Done, String>) {
        let mut told = self.told.lock().unwrap();
        let client = &mut told.clients[index];
        let failure = match asked {
            Ok(done) => {
                client.asks += 1;
                client.served += 1;
                client.done += done;
                None
            }
            Err(why) => Some(format!("{}: {why}", client.name)),
        };
        told.failures.extend(failure);
        self.changed.notify_all();
    }
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clients = self.clients.iter();
        f.debug_map()
            .entries(clients.map(|client| (&client.name, client.asks)))
            .finish()
    }
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panicked: {}", text.unwrap_or("no text"))
}

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    pub(super) const ALL: [Self; 2] = [Self::Http1, Self::Http2];
}

/// A connection of either protocol.
pub(super) enum Conn {
    Http1(TlsConn),
    Http2(H2Conn),
}

impl Conn {
    #[track_caller]
    pub(super) fn open(client: &TlsClient, protocol: Protocol) -> Result<Self, Ended> {
        match protocol {
            Protocol::Http1 => client.connect().map(Self::Http1),
            Protocol::Http2 => H2Conn::connect(client).map(Self::Http2),
        }
    }

    #[track_caller]
    pub(super) fn get(&mut self, host: &str, path: &str) -> Result<Answer, Ended> {
        match self {
            Self::Http1(conn) => conn.get(host, path),
            Self::Http2(conn) => conn.get(host, path),
        }
    }

    pub(super) fn is_resumed(&self) -> bool {
        match self {
            Self::Http1(conn) => conn.is_resumed(),
            Self::Http2(conn) => conn.is_resumed(),
        }
    }

    /// The newest session that the server gave; with TLS 1.2 a resumed one goes on as it is.
    pub(super) fn session(&self) -> Option<Session> {
        match self {
            Self::Http1(conn) => conn.newest_session(),
            Self::Http2(conn) => conn.newest_session(),
        }
    }

    pub(super) fn peer_serial(&self) -> String {
        match self {
            Self::Http1(conn) => conn.peer_serial(),
            Self::Http2(conn) => conn.peer_serial(),
        }
    }
}
