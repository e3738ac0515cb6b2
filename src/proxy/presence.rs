//! Whether the peer of an HTTP/2 connection is still there.
//!
//! One that is gone without a farewell, with its machine or the way to it, says nothing; one that
//! takes its time over a request says nothing either, but answers a PING (RFC 9113 §6.7). Who is
//! asked and silent gets no further request, until something comes. Requests that wait there have
//! time-outs of their own.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use crate::http2::Handle;
use crate::net::sweep::millis;
use crate::tls::socket::Activity;

/// How long a peer may say nothing to those that wait for it until it is asked, and how long it may
/// take to answer.
const PAUSE: Duration = Duration::from_secs(10);
/// How long it is not asked again, if no answer to a request came since: servers of gRPC end
/// connections on which they get PINGs more often (gRPC, "Keepalive").
const ASK_EVERY: Duration = Duration::from_secs(300);

/// How much was read of a connection at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard(u64);

/// What is known of a connection's peer.
pub struct Presence {
    activity: Rc<Activity>,
    conn: Handle,
    /// When it was asked, in the clock's milliseconds, and what had been heard of it by then; `None`
    /// where an answer began since. It is the connection's, as who asked may be gone before the
    /// silence is long enough.
    asked: Cell<Option<(u64, Heard)>>,
    /// What had been heard when it was silent for too long.
    missed_since: Cell<Option<Heard>>,
    silence: Silence,
}

/// How long requests waited for a peer while nothing came, one after the other: those that are given
/// up early have no time to tell alone.
struct Silence {
    /// Requests that wait now.
    waits: Cell<u32>,
    /// For how long they waited by `counted_at`, in milliseconds.
    waited: Cell<u64>,
    counted_at: Cell<u64>,
    /// What had been heard by then.
    heard: Cell<Heard>,
}

impl Silence {
    /// Counts up to `now`. What was heard ends it.
    fn count(&self, now: u64, heard: Heard) -> u64 {
        let since = self.counted_at.replace(now);
        if self.heard.replace(heard) != heard {
            self.waited.set(0);
        } else if self.waits.get() > 0 {
            let more = now.saturating_sub(since);
            self.waited.set(self.waited.get().saturating_add(more));
        }
        self.waited.get()
    }
}

impl Presence {
    /// Of the peer of `conn`, which moves bytes by `activity`.
    #[must_use]
    pub fn new(activity: Rc<Activity>, conn: Handle) -> Self {
        Self {
            activity,
            conn,
            asked: Cell::new(None),
            missed_since: Cell::new(None),
            silence: Silence {
                waits: Cell::new(0),
                waited: Cell::new(0),
                counted_at: Cell::new(0),
                heard: Cell::new(Heard(0)),
            },
        }
    }

    /// A request waits from now on. For how long others did before, in milliseconds.
    fn wait(&self, now: u64) -> u64 {
        let waited = self.silence.count(now, self.heard());
        self.silence
            .waits
            .set(self.silence.waits.get().saturating_add(1));
        waited
    }

    /// It waits no longer.
    fn end_wait(&self) {
        self.silence.count(self.activity.now(), self.heard());
        self.silence
            .waits
            .set(self.silence.waits.get().saturating_sub(1));
    }

    /// What was heard of it up to now.
    #[must_use]
    pub fn heard(&self) -> Heard {
        Heard(self.activity.read_bytes())
    }

    /// An answer to a request began.
    pub fn answered(&self) {
        self.asked.set(None);
    }

    /// It should have said something `since` then: it is missed, if it did not.
    pub fn miss(&self, since: Heard) {
        if since == self.heard() {
            self.missed_since.set(Some(since));
        }
    }

    /// Whether nothing came since it was missed.
    #[must_use]
    pub fn is_missed(&self) -> bool {
        self.missed_since.get() == Some(self.heard())
    }

    /// Whether it was asked `pause` ago or earlier, and said nothing since.
    fn is_silent(&self, now: u64, pause: u64) -> bool {
        self.asked
            .get()
            .is_some_and(|(at, heard)| heard == self.heard() && now.saturating_sub(at) >= pause)
    }

    /// Asks it, if it may be asked; whether it was.
    fn ask(&self, now: u64) -> bool {
        let is_early = self
            .asked
            .get()
            .is_some_and(|(at, _)| now.saturating_sub(at) < millis(ASK_EVERY));
        let is_asked = !is_early && self.conn.ask();
        if is_asked {
            self.asked.set(Some((now, self.heard())));
        }
        is_asked
    }
}

/// The eye that one waiting request has on its peer.
pub struct Vigil<'a> {
    presence: &'a Presence,
    pause: u64,
    began: Heard,
    look: Look,
}

/// What was seen at the last look, and what is to be seen at the next.
struct Look {
    next_at: u64,
    heard: Heard,
    is_asked: bool,
}

/// What a look led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// It is there, or was not to say anything yet.
    Nothing,
    /// It was silent.
    Silent,
    /// It was asked, and was silent.
    Missed,
}

impl<'a> Vigil<'a> {
    /// Of a request that is sent `now` and waits for as long as its `patience`; in milliseconds.
    #[must_use]
    pub fn begin(presence: &'a Presence, now: u64, patience: u64) -> Self {
        // By the time that the shortest wait is over it is known what its silence means.
        let pause = millis(PAUSE).min(patience / 2).max(1);
        let heard = presence.heard();
        if presence.is_silent(now, pause) {
            presence.miss(heard);
        }
        let waited = presence.wait(now);
        Self {
            presence,
            pause,
            began: heard,
            look: Look {
                next_at: now.saturating_add(pause.saturating_sub(waited)),
                heard,
                is_asked: false,
            },
        }
    }

    /// When it is to look again.
    #[must_use]
    pub fn next_at(&self) -> u64 {
        self.look.next_at
    }

    /// Looks, when it is time to.
    pub fn look(&mut self, now: u64) {
        let heard = self.presence.heard();
        match self.look.see(now, self.pause, heard) {
            Seen::Nothing => {}
            Seen::Silent if self.presence.is_silent(now, self.pause) => self.presence.miss(heard),
            Seen::Silent => self.look.is_asked = self.presence.ask(now),
            Seen::Missed => self.presence.miss(heard),
        }
    }

    /// The wait is over, and no answer came. Without a word on its connection in all that time it is
    /// missed, asked or not: one that was asked minutes ago may be gone by now, and the price of a
    /// mistake is one more connection.
    pub fn give_up(&self) {
        self.presence.miss(self.began);
    }
}

impl Drop for Vigil<'_> {
    fn drop(&mut self) {
        self.presence.end_wait();
    }
}

impl Look {
    fn see(&mut self, now: u64, pause: u64, heard: Heard) -> Seen {
        if now < self.next_at {
            return Seen::Nothing;
        }
        self.next_at = now.saturating_add(pause);
        if heard != self.heard {
            self.heard = heard;
            self.is_asked = false;
            Seen::Nothing
        } else if self.is_asked {
            Seen::Missed
        } else {
            Seen::Silent
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::task::LocalSet;

    use super::*;
    use crate::proxy::flows::tests::connection;

    fn look() -> Look {
        Look {
            next_at: 10,
            heard: Heard(0),
            is_asked: false,
        }
    }

    #[test]
    fn peer_is_missed_that_is_silent_and_was_asked_in_vain() {
        let mut look = look();
        assert_eq!(look.see(9, 10, Heard(0)), Seen::Nothing);
        assert_eq!(look.see(10, 10, Heard(0)), Seen::Silent);
        look.is_asked = true;
        assert_eq!(look.see(19, 10, Heard(0)), Seen::Nothing);
        assert_eq!(look.see(20, 10, Heard(0)), Seen::Missed);
        // Whatever comes is an answer; from then on it may be silent as long again.
        assert_eq!(look.see(30, 10, Heard(17)), Seen::Nothing);
        assert_eq!(look.see(40, 10, Heard(17)), Seen::Silent);
    }

    #[test]
    fn peer_that_may_not_be_asked_is_not_missed_for_its_silence() {
        let mut look = look();
        for now in [10, 20, 30] {
            assert_eq!(look.see(now, 10, Heard(0)), Seen::Silent);
        }
    }

    #[test]
    fn silence_counts_for_who_comes_after_who_asked() {
        let (near, _far) = tokio::io::duplex(1 << 10);
        let conn = connection(near);
        let clock = Rc::<Cell<u64>>::default();
        let presence = Presence::new(Activity::new(clock), conn.handle());
        let mut first = Vigil::begin(&presence, 0, 100);
        first.look(50);
        let _early = Vigil::begin(&presence, 99, 100);
        assert!(!presence.is_missed());
        let _late = Vigil::begin(&presence, 100, 100);
        assert!(presence.is_missed());
        // Who was answered since is not silent.
        presence.answered();
        presence.missed_since.set(None);
        let _third = Vigil::begin(&presence, 200, 100);
        assert!(!presence.is_missed());
    }

    #[test]
    fn silence_adds_up_over_requests_that_are_given_up_early() {
        let (near, _far) = tokio::io::duplex(1 << 10);
        let conn = connection(near);
        let clock = Rc::<Cell<u64>>::default();
        let presence = Presence::new(Activity::new(clock.clone()), conn.handle());
        // The second begins while the first waits: their time counts once.
        let first = Vigil::begin(&presence, 0, 100);
        clock.set(20);
        let second = Vigil::begin(&presence, 20, 100);
        assert_eq!((first.next_at(), second.next_at()), (50, 50));
        drop(first);
        clock.set(40);
        drop(second);
        // When nobody waits it need not say anything.
        clock.set(1000);
        let mut third = Vigil::begin(&presence, 1000, 100);
        assert_eq!(third.next_at(), 1010);
        third.look(1010);
        assert!(presence.asked.get().is_some_and(|(at, _)| at == 1010));
        drop(third);
        // What was heard ends it.
        presence.silence.heard.set(Heard(17));
        assert_eq!(Vigil::begin(&presence, 1020, 100).next_at(), 1070);
    }

    #[tokio::test]
    async fn peer_is_asked_once_until_it_answers_a_request_or_minutes_have_passed() {
        LocalSet::new().run_until(ask_again_and_again()).await;
    }

    async fn ask_again_and_again() {
        let (near, far) = tokio::io::duplex(1 << 10);
        let mut conn = connection(near);
        let handle = conn.handle();
        tokio::task::spawn_local(poll_fn(move |cx| conn.poll_moved(cx)));
        let mut far = h2::server::handshake(far).await.unwrap();
        tokio::spawn(async move { while far.accept().await.is_some() {} });
        let clock = Rc::<Cell<u64>>::default();
        let presence = Presence::new(Activity::new(clock), handle);
        // As often as it may be asked, it can be.
        let ask = async |now| {
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            presence.ask(now)
        };
        assert!(ask(0).await);
        assert!(!ask(1).await);
        assert!(!ask(299_999).await);
        assert!(ask(300_000).await);
        assert!(!ask(300_001).await);
        presence.answered();
        assert!(ask(300_002).await);
    }
}
