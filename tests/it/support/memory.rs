//! How much memory a gateway needs while much passes through it.

use std::fs;
use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::Duration;

use super::SOON;
use super::gateway::Gateway;
use super::tls::uninterrupted;

pub(crate) const MIB: usize = 1 << 20;
/// A body that no buffer on its way holds: the kernel's hold up to 20 MiB on two connections.
pub(crate) const BIG: usize = 64 * MIB;
/// The largest growth of the gateway for bodies of [`BIG`] bytes.
const ROOM: usize = 24 * MIB;
/// When nothing moves for so long, nothing will.
const STALL: Duration = Duration::from_millis(700);

/// The most memory a gateway has held so far, in bytes.
#[track_caller]
pub(crate) fn peak(gateway: &Gateway) -> usize {
    status(gateway, "VmHWM:")
}

/// The memory that a gateway holds now, in bytes.
#[track_caller]
pub(crate) fn resident(gateway: &Gateway) -> usize {
    status(gateway, "VmRSS:")
}

#[track_caller]
fn status(gateway: &Gateway, field: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.process_id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
    kib.parse::<usize>().unwrap() * 1024
}

#[track_caller]
pub(crate) fn expect_room(gateway: &Gateway, before: usize) {
    let grown = peak(gateway).saturating_sub(before);
    assert!(grown < ROOM, "the gateway grew by {} KiB", grown / 1024);
}

/// Writes [`BIG`] bytes, as fast as they are taken; tells once how many were when nobody took more.
pub(crate) fn pour(mut into: &TcpStream, stalled: &mpsc::Sender<usize>) {
    into.set_write_timeout(Some(STALL)).unwrap();
    let block = vec![b'x'; 64 * 1024];
    let mut poured = 0;
    while poured < BIG {
        let block = &block[..block.len().min(BIG - poured)];
        match uninterrupted(|| into.write(block)) {
            Ok(count) => poured += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                stalled.send(poured).ok();
                into.set_write_timeout(Some(SOON)).unwrap();
            }
            Err(_) => return,
        }
    }
}
