//! What a client offers, read from its first message.

use std::io::Read;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use super::origin::TcpOrigin;
use super::{SOON, eventually};

/// A ClientHello (RFC 8446 §4.1.2), its lists in the client's order, by their numbers at IANA.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClientHello {
    pub(crate) suites: Vec<u16>,
    /// `supported_versions`.
    pub(crate) versions: Vec<u16>,
    /// `supported_groups`.
    pub(crate) groups: Vec<u16>,
    /// The groups that keys are sent for.
    pub(crate) shares: Vec<u16>,
    /// `signature_algorithms`.
    pub(crate) signatures: Vec<u16>,
    pub(crate) has_extended_master_secret: bool,
}

/// A peer that reads what clients offer, and hangs up.
pub(crate) struct Listening {
    pub(crate) origin: TcpOrigin,
    heard: Arc<Mutex<Vec<ClientHello>>>,
}

impl Listening {
    pub(crate) fn start() -> Self {
        let heard = Arc::<Mutex<Vec<ClientHello>>>::default();
        let hears = Arc::clone(&heard);
        let origin = TcpOrigin::serving(move |conn| {
            if let Some(hello) = ClientHello::read(conn) {
                hears.lock().expect("no holder panics").push(hello);
            }
        });
        Self { origin, heard }
    }

    /// The first of what was offered; waits for it.
    #[track_caller]
    pub(crate) fn first(&self, of_whom: &str) -> ClientHello {
        eventually(SOON, of_whom, || {
            let heard = self.heard.lock().expect("no holder panics");
            heard.first().cloned()
        })
    }
}

impl ClientHello {
    /// `None` where the first record holds none.
    fn read(mut conn: TcpStream) -> Option<Self> {
        conn.set_read_timeout(Some(SOON)).ok()?;
        let mut head = [0; 5];
        conn.read_exact(&mut head).ok()?;
        let mut record = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        conn.read_exact(&mut record).ok()?;
        // Type and length of the message, version, random.
        let mut rest = record.strip_prefix(&[1])?.get(3 + 2 + 32..)?;
        take(&mut rest, 1)?;
        let mut hello = Self {
            suites: numbers(take(&mut rest, 2)?),
            ..Self::default()
        };
        take(&mut rest, 1)?;
        let mut extensions = take(&mut rest, 2)?;
        while let Some((kind, tail)) = extensions.split_first_chunk() {
            extensions = tail;
            let mut body = take(&mut extensions, 2)?;
            match u16::from_be_bytes(*kind) {
                10 => hello.groups = numbers(take(&mut body, 2)?),
                13 => hello.signatures = numbers(take(&mut body, 2)?),
                23 => hello.has_extended_master_secret = true,
                43 => hello.versions = numbers(take(&mut body, 1)?),
                51 => hello.shares = shares(take(&mut body, 2)?)?,
                _ => {}
            }
        }
        Some(hello)
    }
}

/// A vector that begins with its length, in so many bytes (RFC 8446 §3.4).
fn take<'text>(rest: &mut &'text [u8], length_bytes: usize) -> Option<&'text [u8]> {
    let (length, tail) = rest.split_at_checked(length_bytes)?;
    let length = length
        .iter()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    let (vector, tail) = tail.split_at_checked(length)?;
    *rest = tail;
    Some(vector)
}

fn numbers(list: &[u8]) -> Vec<u16> {
    let pairs = list.chunks_exact(2);
    pairs
        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
        .collect()
}

fn shares(mut list: &[u8]) -> Option<Vec<u16>> {
    let mut groups = Vec::new();
    while let Some((group, tail)) = list.split_first_chunk() {
        groups.push(u16::from_be_bytes(*group));
        list = tail;
        take(&mut list, 2)?;
    }
    Some(groups)
}
