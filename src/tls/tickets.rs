//! The keys of stateless session tickets, which change with time.
//!
//! What keeps a ticket at its name and policy is the session id context, as for every session; it
//! is part of what libssl seals. What goes into a ticket beside the session: `contents`.

pub(super) mod contents;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use openssl::cipher::Cipher;
use openssl::cipher_ctx::CipherCtxRef;
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{Ssl, SslRef};
use zeroize::Zeroizing;

use crate::crypto::error::CryptoError;
use crate::crypto::fips::{self, Mode};
use crate::crypto::mac::MacKey;
use crate::crypto::rand;
use crate::crypto::sys::{self, Ticket, TicketMac};

/// Where keys come from.
#[derive(Debug)]
pub enum Origin {
    /// Each is drawn at random and known to this process alone.
    Drawn,
    /// Each is derived from this secret and the time, so that all who have both make the same.
    Shared(MacKey),
}

/// The keys of session tickets, shared by the listeners of the process.
///
/// Time is cut into periods as long as a session may be resumed. Each has a key of its own, which
/// is accepted for one period more: as long as the last ticket under it lives.
pub struct TicketKeys {
    origin: Origin,
    period: u64,
    held: ArcSwap<Held>,
    cipher: Cipher,
}

/// The keys of one period.
struct Held {
    /// Its number since the epoch.
    period: u64,
    /// What tickets are made with.
    current: Arc<Key>,
    /// What else opens tickets.
    accepted: Vec<Arc<Key>>,
}

/// A key: AES-256-CBC, then HMAC-SHA256, as libssl seals tickets (RFC 5077 §4).
struct Key {
    /// Stands in front of each ticket; tells nothing of the rest.
    name: [u8; 16],
    cipher: Zeroizing<[u8; 32]>,
    mac: Zeroizing<[u8; 32]>,
}

impl TicketKeys {
    /// Keys for tickets that live for `period`, as of `now` (since the epoch).
    ///
    /// # Errors
    /// No active provider offers AES-256-CBC or HMAC-SHA256, or there is no randomness.
    pub fn new(origin: Origin, period: Duration, now: Duration) -> Result<Self, CryptoError> {
        let period = period.as_secs().max(1);
        let cipher = Cipher::fetch(None, "AES-256-CBC", None)
            .map_err(CryptoError::during("find AES-256-CBC for session tickets"))?;
        let number = now.as_secs() / period;
        let held = Held::new(&origin, period, number, None)?;
        Ok(Self {
            origin,
            period,
            held: ArcSwap::from_pointee(held),
            cipher,
        })
    }

    /// Goes over to the keys of the period that `now` is in; whether that is another one.
    ///
    /// # Errors
    /// As [`TicketKeys::new`]; the keys stay as they are.
    pub fn turn(&self, now: Duration) -> Result<bool, CryptoError> {
        let held = self.held.load();
        let number = now.as_secs() / self.period;
        if number == held.period {
            return Ok(false);
        }
        let next = Held::new(&self.origin, self.period, number, Some(&held.current))?;
        self.held.store(Arc::new(next));
        Ok(true)
    }

    /// How long the period that `now` is in goes on.
    #[must_use]
    pub fn rest(&self, now: Duration) -> Duration {
        let number = now.as_secs() / self.period;
        let next = Duration::from_secs(number.saturating_add(1).saturating_mul(self.period));
        next.saturating_sub(now)
    }
}

impl Held {
    fn new(
        origin: &Origin,
        period: u64,
        number: u64,
        former: Option<&Arc<Key>>,
    ) -> Result<Self, CryptoError> {
        let (current, accepted) = match origin {
            Origin::Drawn => (Key::draw()?, former.into_iter().cloned().collect()),
            Origin::Shared(secret) => {
                let derive = |number| Key::derive(secret, fips::mode(), period, number);
                // The next one is in use where a clock is ahead of ours.
                let beside = [number.saturating_sub(1), number.saturating_add(1)];
                let beside = beside
                    .into_iter()
                    .map(|number| derive(number).map(Arc::new));
                (derive(number)?, beside.collect::<Result<_, _>>()?)
            }
        };
        Ok(Self {
            period: number,
            current: Arc::new(current),
            accepted,
        })
    }

    /// The key of this name, and whether it is the one in use.
    fn find(&self, name: &[u8; 16]) -> Option<(&Key, Ticket)> {
        if self.current.name == *name {
            return Some((&self.current, Ticket::Good));
        }
        let found = self.accepted.iter().find(|key| key.name == *name)?;
        Some((found, Ticket::Renew))
    }
}

impl Key {
    fn draw() -> Result<Self, CryptoError> {
        Ok(Self {
            name: rand::array()?,
            cipher: Zeroizing::new(rand::array()?),
            mac: Zeroizing::new(rand::array()?),
        })
    }

    /// The key of a period, from a secret. In FIPS mode it is another one than without: a session
    /// that came about by what is not approved there is not resumed there.
    fn derive(secret: &MacKey, mode: Mode, period: u64, number: u64) -> Result<Self, CryptoError> {
        let mode = match mode {
            Mode::Default => 0,
            Mode::Fips => 1,
        };
        let context = [&[mode][..], &period.to_be_bytes(), &number.to_be_bytes()].concat();
        let mut key = Self {
            name: [0; 16],
            cipher: Zeroizing::new([0; 32]),
            mac: Zeroizing::new([0; 32]),
        };
        let parts: [(&[u8], &mut [u8]); 3] = [
            (b"name", &mut key.name),
            (b"cipher", &mut *key.cipher),
            (b"mac", &mut *key.mac),
        ];
        for (part, bytes) in parts {
            let label = [b"portcullis session ticket ", part].concat();
            sys::derive_by_counter(secret.expose(), &label, &context, bytes)
                .map_err(CryptoError::during("derive a key of session tickets"))?;
        }
        Ok(key)
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys")
            .field("period", &self.period)
            .finish_non_exhaustive()
    }
}

/// Gives a connection the keys of its tickets.
pub(super) fn equip(ssl: &mut SslRef, keys: &Arc<TicketKeys>) {
    if let Some(index) = index() {
        ssl.set_ex_data(index, keys.clone());
    }
}

/// The keys of a connection's tickets; `None` where sessions stay with us.
fn keys(ssl: &SslRef) -> Option<&TicketKeys> {
    index()
        .and_then(|index| ssl.ex_data(index))
        .map(AsRef::as_ref)
}

fn index() -> Option<Index<Ssl, Arc<TicketKeys>>> {
    static INDEX: OnceLock<Option<Index<Ssl, Arc<TicketKeys>>>> = OnceLock::new();
    *INDEX.get_or_init(|| Ssl::new_ex_index().ok())
}

impl sys::TicketKeys for TicketKeys {
    fn seal(
        ssl: &SslRef,
        name: &mut [u8; 16],
        iv: &mut [u8; 16],
        cipher: &mut CipherCtxRef,
        mac: &mut TicketMac,
    ) -> Result<bool, ErrorStack> {
        if contents::are_too_long(ssl) {
            return Ok(false);
        }
        let keys = keys(ssl).ok_or_else(ErrorStack::get)?;
        let held = keys.held.load();
        let key = &held.current;
        *name = key.name;
        openssl::rand::rand_bytes(iv)?;
        cipher.encrypt_init(Some(&keys.cipher), Some(&*key.cipher), Some(iv))?;
        mac.set_hmac_sha256(&*key.mac)?;
        Ok(true)
    }

    fn open(
        ssl: &SslRef,
        name: &[u8; 16],
        iv: &[u8; 16],
        cipher: &mut CipherCtxRef,
        mac: &mut TicketMac,
    ) -> Result<Ticket, ErrorStack> {
        let keys = keys(ssl).ok_or_else(ErrorStack::get)?;
        let held = keys.held.load();
        let Some((key, found)) = held.find(name) else {
            return Ok(Ticket::Unknown);
        };
        cipher.decrypt_init(Some(&keys.cipher), Some(&*key.cipher), Some(iv))?;
        mac.set_hmac_sha256(&*key.mac)?;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Instant;

    use openssl::ssl::{ShutdownState, SslMethod, SslOptions, SslSession, SslSessionCacheMode};

    use super::contents::{Along, CERTIFICATE_BYTES};
    use super::*;
    use crate::tls::context;
    use crate::tls::material::{CaBundle, KeyPair};
    use crate::tls::memory::{Side, shake};
    use crate::tls::policy::{ClientAuth, ClientPolicy, TlsVersion, Versions};
    use crate::tls::sample;
    use crate::tls::select::Always;
    use crate::tls::server::{Alpn, ListenerAcceptor, ServerContext, ServerSpec, SessionCache};
    use crate::tls::trust::CaStore;

    const VERSIONS: [TlsVersion; 2] = [TlsVersion::V1_2, TlsVersion::V1_3];
    const PERIOD: Duration = Duration::from_secs(600);

    /// The beginning of the period with this number.
    fn time(period: u32) -> Duration {
        PERIOD * period
    }

    fn drawn() -> Arc<TicketKeys> {
        Arc::new(TicketKeys::new(Origin::Drawn, PERIOD, time(7)).unwrap())
    }

    fn shared(secret: &[u8], now: Duration) -> Arc<TicketKeys> {
        let origin = Origin::Shared(MacKey::from_bytes(secret));
        Arc::new(TicketKeys::new(origin, PERIOD, now).unwrap())
    }

    /// A name that requires certificates of a CA, and a client that has one.
    struct Stage {
        store: Arc<CaStore>,
        server: KeyPair,
        client: KeyPair,
        /// Sessions in the gateway's cache.
        cached: i32,
        /// Whether the client knows tickets.
        knows_tickets: bool,
        /// Seconds that a session may be resumed, and that all may that come from one handshake.
        timeout: u32,
        life: u32,
    }

    impl Stage {
        fn new() -> Self {
            Self::of_client(&[])
        }

        /// The same, of a client whose certificate has these names.
        fn of_client(names: &[&str]) -> Self {
            let ca = sample::ca("Client CA");
            let pair =
                |sample: &sample::Sample| KeyPair::parse(&sample.cert, &sample.key_pem).unwrap();
            let mut client = pair(&sample::leaf(&ca, "client", names));
            // Sent along, for nothing but being kept.
            let other = pair(&sample::ca("Beside"));
            client.chain.intermediates.push(other.chain.leaf);
            Self {
                store: Arc::new(CaStore::new(&CaBundle::parse(&ca.cert).unwrap()).unwrap()),
                server: pair(&sample::leaf(&sample::ca("CA"), "a.test", &["a.test"])),
                client,
                cached: 0,
                knows_tickets: true,
                timeout: 600,
                life: 86_400,
            }
        }

        fn acceptor(&self, ssl_id: &str, keys: &Arc<TicketKeys>) -> ListenerAcceptor {
            self.acceptor_with(ssl_id, Some(keys.clone()))
        }

        fn acceptor_with(&self, ssl_id: &str, keys: Option<Arc<TicketKeys>>) -> ListenerAcceptor {
            let policy =
                ClientPolicy::new(ClientAuth::Required, 1, self.store.digest, Vec::new()).unwrap();
            let context = ServerContext::build(ServerSpec {
                ssl_id: ssl_id.into(),
                pairs: vec![self.server.clone()],
                policy: Arc::new(policy),
                ca: Some(self.store.clone()),
                versions: Versions::default(),
                alpn: Alpn::Http1,
            })
            .unwrap();
            let cache = SessionCache {
                sessions: self.cached,
                timeout_seconds: self.timeout,
                life_seconds: self.life,
            };
            let always = Arc::new(Always(Arc::new(context)));
            ListenerAcceptor::new(always, cache, keys).unwrap()
        }

        /// Whether a handshake resumed `offered`, what came along, and the newest session.
        fn meet(
            &self,
            acceptor: &ListenerAcceptor,
            version: TlsVersion,
            offered: Option<&Vec<u8>>,
        ) -> (bool, Option<usize>, Vec<u8>) {
            let versions = Versions {
                min: version,
                max: version,
            };
            let mut ctx = context::base(SslMethod::tls_client(), versions).unwrap();
            context::install(&mut ctx, &self.client).unwrap();
            if !self.knows_tickets {
                ctx.set_options(SslOptions::NO_TICKET);
            }
            ctx.set_session_cache_mode(SslSessionCacheMode::CLIENT);
            let newest = Arc::new(Mutex::new(None));
            let kept = newest.clone();
            ctx.set_new_session_callback(move |_, session| {
                // A copy: libssl spoils the original when a connection breaks off.
                *kept.lock().unwrap() = Some(session.to_der().unwrap());
            });
            let mut client = Ssl::new(&ctx.build()).unwrap();
            if let Some(session) = offered {
                let session = SslSession::from_der(session).unwrap();
                sys::offer_session(&mut client, &session).unwrap();
            }
            let (server, client) = shake(acceptor.ssl().unwrap(), client);
            let (Side::Done(mut server), Side::Done(mut client)) = (server, client) else {
                panic!("the handshake fails");
            };
            // With TLS 1.3 the ticket comes before the first bytes.
            server.ssl_write(b"x").unwrap();
            client.ssl_read(&mut [0]).unwrap();
            let is_resumed = server.ssl().session_reused();
            assert_eq!(is_resumed, client.ssl().session_reused());
            let along = Along::of(server.ssl());
            let along = along.map(|along| along.certificates().unwrap().len());
            let newest = newest.lock().unwrap().take();
            // A ticket of TLS 1.2 that renews another one is told to nobody.
            let held = || client.ssl().session().map(|held| held.to_der().unwrap());
            let newest = newest.or_else(held);
            // Or libssl throws its session away (`SSL_set_shutdown(3)`), as for what broke off.
            server.set_shutdown(ShutdownState::SENT | ShutdownState::RECEIVED);
            (is_resumed, along, newest.unwrap())
        }
    }

    #[test]
    fn ticket_brings_back_who_the_client_is_and_all_that_it_sent() {
        let (stage, keys) = (Stage::new(), drawn());
        let acceptor = stage.acceptor("a", &keys);
        for version in VERSIONS {
            let (is_resumed, _, mut session) = stage.meet(&acceptor, version, None);
            assert!(!is_resumed);
            for _ in 0..3 {
                let (is_resumed, along, next) = stage.meet(&acceptor, version, Some(&session));
                assert!(is_resumed && along == Some(1), "{version:?} {along:?}");
                session = next;
            }
        }
    }

    #[test]
    fn ticket_is_good_for_its_ssl_alone() {
        let (stage, keys) = (Stage::new(), drawn());
        let (here, there) = (stage.acceptor("a", &keys), stage.acceptor("b", &keys));
        for version in VERSIONS {
            let (_, _, session) = stage.meet(&here, version, None);
            assert!(!stage.meet(&there, version, Some(&session)).0);
            assert!(stage.meet(&here, version, Some(&session)).0);
        }
    }

    #[test]
    fn key_is_accepted_for_one_period_more_than_it_is_used() {
        let (stage, keys) = (Stage::new(), drawn());
        let acceptor = stage.acceptor("a", &keys);
        let resumes = |version, session: &Vec<u8>| {
            let (is_resumed, _, _) = stage.meet(&acceptor, version, Some(session));
            is_resumed
        };
        for (version, start) in VERSIONS.into_iter().zip([7, 17]) {
            keys.turn(time(start)).unwrap();
            let (_, _, old) = stage.meet(&acceptor, version, None);
            assert!(!keys.turn(time(start) + PERIOD / 2).unwrap());
            assert!(keys.turn(time(start + 1)).unwrap());
            let (is_resumed, _, renewed) = stage.meet(&acceptor, version, Some(&old));
            assert!(is_resumed, "{version:?}");
            assert!(keys.turn(time(start + 2)).unwrap());
            assert!(!resumes(version, &old), "{version:?}");
            // What the old one was exchanged for is under the next key.
            assert!(resumes(version, &renewed), "{version:?}");
        }
    }

    #[test]
    fn gateways_with_one_secret_resume_each_others_sessions() {
        let stage = Stage::new();
        let here = stage.acceptor("a", &shared(b"secret", time(7)));
        for (secret, now, is_resumed) in [
            (&b"secret"[..], time(7), true),
            // Their clocks differ by less than a period.
            (b"secret", time(6), true),
            (b"secret", time(8), true),
            (b"secret", time(9), false),
            (b"another", time(7), false),
        ] {
            let there = stage.acceptor("a", &shared(secret, now));
            for version in VERSIONS {
                let (_, _, session) = stage.meet(&here, version, None);
                let met = stage.meet(&there, version, Some(&session));
                assert_eq!(met.0, is_resumed, "{version:?} at {now:?}");
            }
        }
    }

    /// Whether the session of a first connection is resumed by a second one, on TLS 1.2 and 1.3.
    fn resumes(stage: &Stage) -> [bool; 2] {
        let acceptor = stage.acceptor("a", &drawn());
        VERSIONS.map(|version| {
            let (_, _, session) = stage.meet(&acceptor, version, None);
            let (is_resumed, _, next) = stage.meet(&acceptor, version, Some(&session));
            let (is_again, ..) = stage.meet(&acceptor, version, Some(&next));
            assert_eq!(is_resumed, is_again, "{version:?}");
            is_resumed
        })
    }

    #[test]
    fn what_does_not_fit_into_a_ticket_is_asked_for_again() {
        let mut stage = Stage::new();
        let beside = stage.client.chain.intermediates[0].clone();
        for (count, is_resumed) in [(2, true), (80, false)] {
            stage.client.chain.intermediates = vec![beside.clone(); count];
            assert_eq!(resumes(&stage), [is_resumed; 2], "{count}");
        }
    }

    #[test]
    fn client_whose_certificate_does_not_fit_into_a_ticket_gets_none_and_is_served() {
        let names: Vec<String> = (0..300)
            .map(|number| format!("{number}.{}.test", "x".repeat(60)))
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let stage = Stage::of_client(&names);
        let leaf = &stage.client.chain.leaf;
        assert!(leaf.to_der().unwrap().len() > 16 * 1024);
        assert_eq!(resumes(&stage), [false; 2]);
        let acceptor = stage.acceptor("a", &drawn());
        for version in VERSIONS {
            // What the client keeps has no ticket that could hold its certificate.
            let (_, _, session) = stage.meet(&acceptor, version, None);
            assert!(session.len() < CERTIFICATE_BYTES, "{version:?}");
        }
    }

    #[test]
    fn session_that_goes_from_the_cache_into_a_ticket_takes_all_along() {
        let mut stage = Stage::new();
        stage.cached = 10;
        let acceptor = stage.acceptor("a", &drawn());
        let version = TlsVersion::V1_2;
        stage.knows_tickets = false;
        let (_, _, session) = stage.meet(&acceptor, version, None);
        stage.knows_tickets = true;
        let (is_resumed, _, session) = stage.meet(&acceptor, version, Some(&session));
        assert!(is_resumed);
        let (is_resumed, along, _) = stage.meet(&acceptor, version, Some(&session));
        assert_eq!((is_resumed, along), (true, Some(1)));
    }

    #[test]
    fn client_that_always_comes_back_shows_its_certificate_again_in_time() {
        let version = TlsVersion::V1_3;
        let stage = Stage {
            cached: 10,
            timeout: 1,
            life: 1,
            ..Stage::new()
        };
        // One has its sessions in the gateway's cache, one in tickets.
        let mut visitors: Vec<_> = [None, Some(drawn())]
            .into_iter()
            .map(|keys| {
                let acceptor = stage.acceptor_with("a", keys);
                let (_, _, session) = stage.meet(&acceptor, version, None);
                (acceptor, session)
            })
            .collect();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !visitors.is_empty() {
            assert!(Instant::now() < deadline, "{} for ever", visitors.len());
            visitors.retain_mut(|(acceptor, session)| {
                // Each visit brings the next session, which lives for another second.
                let (is_resumed, _, next) = stage.meet(acceptor, version, Some(session));
                *session = next;
                is_resumed
            });
        }
    }

    #[test]
    fn keys_differ_in_every_part_and_rest_until_their_period_ends() {
        let secret = MacKey::from_bytes(b"secret");
        let all = [
            (Mode::Default, 600, 1),
            (Mode::Default, 600, 2),
            (Mode::Default, 60, 1),
            (Mode::Fips, 600, 1),
        ];
        let all =
            all.map(|(mode, period, number)| Key::derive(&secret, mode, period, number).unwrap());
        let parts: std::collections::HashSet<Vec<u8>> = all
            .iter()
            .flat_map(|key| [key.name.to_vec(), key.cipher.to_vec(), key.mac.to_vec()])
            .collect();
        assert_eq!(parts.len(), 12);
        let keys = drawn();
        assert_eq!(keys.rest(time(7)), PERIOD);
        assert_eq!(
            keys.rest(time(8) - Duration::from_secs(1)),
            Duration::from_secs(1)
        );
        assert!(!format!("{keys:?}").contains("cipher"));
    }

    #[test]
    fn derived_keys_are_those_of_sp_800_108() {
        let secret = MacKey::from_bytes(b"a secret of more than 32 characters");
        let key = Key::derive(&secret, Mode::Fips, 600, 7).unwrap();
        // §4.1: one block of HMAC over counter, label, zero, context, and the bits asked for.
        let block = |part: &[u8], bits: u32| {
            secret
                .mac(&[
                    &1_u32.to_be_bytes(),
                    b"portcullis session ticket ",
                    part,
                    &[0],
                    &[1],
                    &600_u64.to_be_bytes(),
                    &7_u64.to_be_bytes(),
                    &bits.to_be_bytes(),
                ])
                .unwrap()
        };
        assert_eq!(key.name, block(b"name", 128)[..16]);
        assert_eq!(*key.cipher, block(b"cipher", 256));
        assert_eq!(*key.mac, block(b"mac", 256));
    }
}
