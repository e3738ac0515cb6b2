//! Clients that ask while something is rotated, and what they may see at each moment.
//!
//! They ask as fast as they are answered, so often before a rotation, while it is made and after it;
//! then they wait for the next one. So each has its share, and nothing depends on time.

use std::fmt;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::support::SOON;
use crate::support::h2::H2Conn;
use crate::support::tls::{Answer, Ended, Session, TlsClient, TlsConn};

/// How often a client asks in one phase, while a rotation is made or between two, unless said
/// otherwise.
const SHARE: usize = 4;

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

/// One ask of a client: what went wrong, if something did.
pub(super) type Ask = Box<dyn FnMut(&Turns) -> Result<(), String> + Send>;

/// Clients at work, a thread each.
pub(super) struct Load {
    turns: Arc<Turns>,
    board: Arc<Board>,
    clients: Vec<JoinHandle<()>>,
    started: Instant,
}

/// What the clients tell.
#[derive(Default)]
struct Board {
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

#[derive(Default)]
struct Progress {
    name: String,
    /// All asks that went well.
    asks: usize,
    /// The phase of the last ask, and how many began in it and went well.
    phase: usize,
    begun: usize,
    served: usize,
}

impl Load {
    /// Starts a thread for each client, by its name.
    pub(super) fn start(clients: Vec<(String, Ask)>) -> Self {
        Self::with_share(SHARE, clients)
    }

    /// The same, with this many asks of each client in each phase.
    pub(super) fn with_share(share: usize, clients: Vec<(String, Ask)>) -> Self {
        let (turns, board) = (Arc::<Turns>::default(), Arc::<Board>::default());
        let progress = |name: &String| Progress {
            name: name.clone(),
            ..Progress::default()
        };
        *board.told.lock().unwrap() = Told {
            share,
            clients: clients.iter().map(|(name, _)| progress(name)).collect(),
            ..Told::default()
        };
        let clients = clients.into_iter().enumerate();
        let clients = clients.map(|(index, (_, mut ask))| {
            let (turns, board) = (Arc::clone(&turns), Arc::clone(&board));
            thread::spawn(move || {
                while board.admit(index) {
                    let asked = catch_unwind(AssertUnwindSafe(|| ask(&turns)));
                    let asked = asked.unwrap_or_else(|panic| Err(said(panic.as_ref())));
                    board.note(index, asked);
                }
            })
        });
        Self {
            clients: clients.collect(),
            turns,
            board,
            started: Instant::now(),
        }
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

    /// Waits until each client was served so often for what it asked since the last answer to a
    /// rotation.
    #[track_caller]
    pub(super) fn expect_served(&self, asks: usize) {
        let turn = self.turns.now();
        let told = self.board.told.lock().unwrap();
        assert!(asks <= told.share);
        let lacks = |told: &mut Told| {
            let is_fed = |client: &Progress| client.phase == told.phase && client.served >= asks;
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
        let asks: usize = told.clients.iter().map(|client| client.asks).sum();
        eprintln!(
            "{what}: {} rotations in {seconds:.1} s, {asks} asks ({:.0}/s), none failed: {told:?}",
            self.turns.now(),
            asks as f64 / seconds,
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
        let has_had_its_share = |told: &mut Told| {
            let client = &told.clients[index];
            let goes_on = !told.is_over && told.failures.is_empty();
            goes_on && client.phase == told.phase && client.begun >= told.share
        };
        let told = self.told.lock().unwrap();
        let mut told = self.changed.wait_while(told, has_had_its_share).unwrap();
        if told.is_over || !told.failures.is_empty() {
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

    fn note(&self, index: usize, asked: Result<(), String>) {
        let mut told = self.told.lock().unwrap();
        let client = &mut told.clients[index];
        let failure = match asked {
            Ok(()) => {
                client.asks += 1;
                client.served += 1;
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
