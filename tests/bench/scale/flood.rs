//! Warm names' handshakes while others ask for names as fast as they can.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::Failure;
use crate::figures::{Figures, millis};
use crate::gateway::Gateway;
use crate::tls::Client;

/// Clients of the flood.
const CLIENTS: usize = 2;
/// Handshakes with warm names that are timed, in each round.
const HANDSHAKES: usize = 500;
/// Rounds, of each flood in turn.
const ROUNDS: usize = 5;

/// What the flood asks for.
#[derive(Clone, Copy)]
pub(crate) enum Asked {
    /// One name, warm: what the others are compared with.
    One,
    /// All names that exist, in no order: most of them cold.
    Existing,
    /// Names that nobody serves.
    Unknown,
}

/// Times handshakes with warm names during a flood of each kind; `name` and `scattered` give the
/// names that exist.
pub(crate) fn measure(
    gateway: &Gateway,
    client: &Client,
    (part, count): (&'static str, usize),
    figures: &mut Figures,
    name: impl Fn(usize) -> String + Sync,
) -> Result<(), Failure> {
    let floods = [
        (Asked::One, "one name"),
        (Asked::Existing, "all names at random"),
        (Asked::Unknown, "unknown names"),
    ];
    let mut p99 = [const { Vec::new() }; 3];
    let mut rates = [0_f64; 3];
    for round in 0..ROUNDS {
        for ((asked, _), (times, rate)) in floods.iter().zip(p99.iter_mut().zip(&mut rates)) {
            let (slow, per_second) = under(gateway, client, round, count, *asked, &name)?;
            times.push(millis(slow));
            *rate += per_second / f64::from(u32::try_from(ROUNDS)?);
        }
    }
    let base = middle(p99.first_mut().ok_or("no flood")?);
    for ((_, title), (times, rate)) in floods.iter().zip(p99.iter_mut().zip(rates)) {
        let measure = format!("warm handshakes, flood of {title}");
        let slow = middle(times);
        figures.add(part, count, &format!("{measure}, p99 ms"), slow);
        figures.add(
            part,
            count,
            &format!("{measure}, p99 against one name's"),
            slow / base,
        );
        figures.add(part, count, &format!("flood of {title}, 1/s"), rate);
    }
    Ok(())
}

/// The 99th percentile of warm handshakes, and what the flood made of a second.
fn under(
    gateway: &Gateway,
    client: &Client,
    round: usize,
    count: usize,
    asked: Asked,
    name: &(impl Fn(usize) -> String + Sync),
) -> Result<(Duration, f64), Failure> {
    let (over, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    let warm: Vec<_> = (0..20).map(name).collect();
    for name in &warm {
        client.shown(gateway.https, name)?;
    }
    std::thread::scope(|scope| {
        for flooder in 0..CLIENTS {
            let (over, made) = (&over, &made);
            scope.spawn(move || {
                let mut turn = (round * CLIENTS + flooder) * 1_000_003;
                while !over.load(Ordering::Relaxed) {
                    turn += 1;
                    let wanted = match asked {
                        Asked::One => name(0),
                        Asked::Existing => name(turn.wrapping_mul(7919) % count),
                        Asked::Unknown => format!("none-{turn}.scale.test"),
                    };
                    // Names that nobody serves are refused.
                    let _ = client.connect(gateway.https, &wanted);
                    made.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let began = Instant::now();
        let timed: Result<Vec<Duration>, Failure> = (0..HANDSHAKES)
            .map(|index| {
                let wanted = warm.get(index % warm.len()).ok_or("no name")?;
                let began = Instant::now();
                client.connect(gateway.https, wanted)?;
                Ok(began.elapsed())
            })
            .collect();
        let lasted = began.elapsed().as_secs_f64();
        over.store(true, Ordering::Relaxed);
        let mut times = timed?;
        times.sort_unstable();
        let slow = times.get(times.len() * 99 / 100).ok_or("no time")?;
        let made = u32::try_from(made.load(Ordering::Relaxed))?;
        Ok((*slow, f64::from(made) / lasted))
    })
}

fn middle(all: &mut [f64]) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}
