//! A name server in this process, on loopback: it knows what a test tells it, and counts.
//!
//! Its messages are written by hand (RFC 1035 §4.1), so that they do not come from the library that
//! reads them.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// Types (RFC 1035 §3.2.2, RFC 3596 §2.1, RFC 2782).
const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const SRV: u16 = 33;
/// The name does not exist, the server cannot say (RFC 1035 §4.1.1).
const NXDOMAIN: u8 = 3;
const SERVFAIL: u8 = 2;

/// The server; it ends when this is dropped.
pub(crate) struct NameServer {
    port: u16,
    known: Arc<Mutex<Known>>,
    is_stopped: Arc<AtomicBool>,
}

#[derive(Default)]
struct Known {
    /// By name: type, data and time to live of each record.
    records: HashMap<String, Vec<(u16, Vec<u8>, u32)>>,
    fails: bool,
    is_silent: bool,
    truncates: bool,
    /// Questions, by name and type.
    asked: HashMap<(String, u16), usize>,
    /// Questions by TCP.
    by_tcp: usize,
}

impl NameServer {
    pub(crate) fn start() -> Self {
        let (udp, tcp) = sockets();
        let server = Self {
            port: udp.local_addr().expect("a bound socket has one").port(),
            known: Arc::default(),
            is_stopped: Arc::default(),
        };
        let (known, is_stopped) = (Arc::clone(&server.known), Arc::clone(&server.is_stopped));
        thread::spawn(move || {
            let mut query = [0; 1024];
            while !is_stopped.load(Ordering::Acquire) {
                let Ok((length, from)) = udp.recv_from(&mut query) else {
                    continue;
                };
                let answer = lock(&known).answer(&query[..length], false);
                if let Some(answer) = answer {
                    drop(udp.send_to(&answer, from));
                }
            }
        });
        let known = Arc::clone(&server.known);
        let is_stopped = Arc::clone(&server.is_stopped);
        thread::spawn(move || {
            for conn in tcp.incoming().map_while(Result::ok) {
                if is_stopped.load(Ordering::Acquire) {
                    return;
                }
                answer_by_tcp(conn, &known);
            }
        });
        server
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// As `resolver.servers` has it.
    pub(crate) fn setting(&self) -> String {
        format!(r#"["{}"]"#, self.address())
    }

    /// From now on the name has these addresses, for so many seconds; none: it does not exist.
    pub(crate) fn set(&self, name: &str, addresses: &[&str], ttl: u32) {
        let records = addresses.iter().map(|it| match it.parse() {
            Ok(IpAddr::V4(ip)) => (A, ip.octets().to_vec(), ttl),
            Ok(IpAddr::V6(ip)) => (AAAA, ip.octets().to_vec(), ttl),
            Err(error) => panic!("{it}: {error}"),
        });
        let records = records.collect();
        lock(&self.known).records.insert(name.to_owned(), records);
    }

    /// From now on the service has these hosts: priority, weight, port, name.
    pub(crate) fn set_service(&self, name: &str, hosts: &[(u16, u16, u16, &str)], ttl: u32) {
        let records = hosts.iter().map(|(priority, weight, port, target)| {
            let numbers = [*priority, *weight, *port];
            let mut data: Vec<u8> = numbers.iter().flat_map(|it| it.to_be_bytes()).collect();
            data.extend(wire_name(target));
            (SRV, data, ttl)
        });
        let records = records.collect();
        lock(&self.known).records.insert(name.to_owned(), records);
    }

    /// From now on the name stands for another one.
    pub(crate) fn set_alias(&self, name: &str, other: &str, ttl: u32) {
        let records = vec![(CNAME, wire_name(other), ttl)];
        lock(&self.known).records.insert(name.to_owned(), records);
    }

    /// From now on nobody is answered.
    pub(crate) fn fall_silent(&self) {
        lock(&self.known).is_silent = true;
    }

    /// From now on who asks is answered again.
    pub(crate) fn speak(&self) {
        lock(&self.known).is_silent = false;
    }

    /// From now on every answer is that none can be given.
    pub(crate) fn fail(&self) {
        lock(&self.known).fails = true;
    }

    /// From now on answers are too long for UDP.
    pub(crate) fn truncate(&self) {
        lock(&self.known).truncates = true;
    }

    /// How often the IPv4 addresses of a name were asked for.
    pub(crate) fn asked(&self, name: &str) -> usize {
        let known = lock(&self.known);
        let asked = known.asked.get(&(name.to_owned(), A));
        asked.copied().unwrap_or_default()
    }

    /// How often it was asked by TCP.
    pub(crate) fn asked_by_tcp(&self) -> usize {
        lock(&self.known).by_tcp
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Release);
        // Wakes the one that accepts.
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().expect("no holder panics")
}

/// A socket of each kind, of one port.
fn sockets() -> (UdpSocket, TcpListener) {
    loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = tcp.local_addr().expect("a bound socket has one").port();
        if let Ok(udp) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) {
            let timeout = Some(Duration::from_millis(50));
            udp.set_read_timeout(timeout).expect("it takes its options");
            return (udp, tcp);
        }
    }
}

/// One question of a connection.
fn answer_by_tcp(mut conn: TcpStream, known: &Mutex<Known>) {
    let mut length = [0; 2];
    if conn.read_exact(&mut length).is_err() {
        return;
    }
    let mut query = vec![0; u16::from_be_bytes(length).into()];
    if conn.read_exact(&mut query).is_err() {
        return;
    }
    let answer = lock(known).answer(&query, true);
    if let Some(answer) = answer {
        let length = u16::try_from(answer.len()).expect("short");
        let message = [&length.to_be_bytes()[..], &answer].concat();
        drop(conn.write_all(&message));
    }
}

fn wire_name(name: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split('.') {
        wire.push(u8::try_from(label.len()).expect("a short label"));
        wire.extend(label.as_bytes());
    }
    wire.push(0);
    wire
}

impl Known {
    /// The answer to a query of one question (RFC 1035 §4.1).
    fn answer(&mut self, query: &[u8], is_tcp: bool) -> Option<Vec<u8>> {
        let mut labels = Vec::new();
        let mut at = 12;
        loop {
            let length = usize::from(*query.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            let label = query.get(at..at + length)?;
            labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
            at += length;
        }
        let name = labels.join(".");
        let kind = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
        let question = query.get(12..at + 4)?;
        *self.asked.entry((name.clone(), kind)).or_default() += 1;
        self.by_tcp += usize::from(is_tcp);
        if self.is_silent {
            return None;
        }
        let records = self.records.get(&name).map_or(&[][..], Vec::as_slice);
        let fitting = records.iter().filter(|it| it.0 == kind || it.0 == CNAME);
        let fitting: Vec<_> = fitting.collect();
        let is_cut = self.truncates && !is_tcp;
        let code = match (self.fails, records.is_empty()) {
            (true, _) => SERVFAIL,
            (false, true) => NXDOMAIN,
            (false, false) => 0,
        };
        let shown = if is_cut || self.fails {
            &[]
        } else {
            &fitting[..]
        };
        let mut answer = query.get(..2)?.to_vec();
        // A response, recursion desired and available; cut or not.
        answer.extend([0x81 | u8::from(is_cut) << 1, 0x80 | code, 0, 1]);
        answer.extend(u16::try_from(shown.len()).expect("few").to_be_bytes());
        answer.extend([0; 4]);
        answer.extend(question);
        for (kind, data, ttl) in shown {
            // The name of the question, by pointer.
            answer.extend([0xc0, 12]);
            answer.extend(kind.to_be_bytes());
            answer.extend([0, 1]);
            answer.extend(ttl.to_be_bytes());
            answer.extend(u16::try_from(data.len()).expect("short").to_be_bytes());
            answer.extend(data);
        }
        Some(answer)
    }
}
