//! Many ssls that ask for client certificates, each with a P-256 certificate and key of its own.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::admin::{Admin, fill};
use crate::figures::{Figures, millis};
use crate::gateway::Gateway;
use crate::pki::{Authority, Pair};
use crate::tls::{Client, Protocol};
use crate::{Failure, Plan, flood};

const PART: &str = "ssls";
/// Names that are asked for when they are cold.
const COLD: usize = 300;
/// Names that are warm; fewer than contexts are kept of.
const WARM: usize = 1000;
/// Handshakes of a round.
const HANDSHAKES: usize = 1000;
/// Rounds, of one name and of many in turn.
const ROUNDS: usize = 5;
/// Changes of one ssl among all.
const CHANGES: usize = 200;

/// Loads `count` ssls through the Admin API, then by a file, and measures what they cost.
pub(crate) fn measure(plan: &Plan, count: usize, figures: &mut Figures) -> Result<(), Failure> {
    let ca = Authority::new()?;
    let client = Client::new(&ca.issue("client.test")?, Protocol::Http1)?;
    let pairs = issue(&ca, count)?;
    let document = |index: usize| document(&ca, index, pairs.get(index));
    let mut gateway = Gateway::start(plan)?;
    let (empty, _) = gateway.memory()?;
    figures.add(PART, count, "RSS MB, empty", empty);

    let before = gateway.cpu()?;
    let object = |index: usize| (format!("ssls/{index}"), document(index).to_string());
    let took = fill(gateway.admin, count, &object)?;
    figures.add(PART, count, "load, s", took.as_secs_f64());
    let cpu = gateway.cpu()?.saturating_sub(before);
    figures.add(PART, count, "load, CPU s of the gateway", cpu.as_secs_f64());
    let (rss, peak) = gateway.memory()?;
    figures.add(PART, count, "RSS MB, loaded", rss);
    figures.add(PART, count, "peak MB, loading", peak);

    change(&gateway, &ca, &client, count, figures)?;

    figures.add(
        PART,
        count,
        "restart to serving, s",
        gateway.restart()?.as_secs_f64(),
    );
    let last = client.shown(gateway.https, &name(count - 1))?;
    if pairs.last().is_none_or(|pair| pair.cert != last) && count > CHANGES {
        // It may be one that was changed; another shows that the start was whole.
        client.shown(gateway.https, &name(0))?;
    }
    let (rss, peak) = gateway.memory()?;
    figures.add(PART, count, "RSS MB, restarted", rss);
    figures.add(PART, count, "peak MB, restarting", peak);
    cold(&gateway, &client, count, figures)?;
    warm(&gateway, &client, count, figures)?;
    flood::measure(&gateway, &client, (PART, count), figures, name)?;
    drop(gateway);

    let text = declared(&ca, &pairs);
    let (gateway, took) = Gateway::start_standalone(plan, "declared.json", &text)?;
    figures.add(
        PART,
        count,
        "standalone file to serving, s",
        took.as_secs_f64(),
    );
    client.shown(gateway.https, &name(count - 1))?;
    let (rss, peak) = gateway.memory()?;
    figures.add(PART, count, "RSS MB, standalone", rss);
    figures.add(PART, count, "peak MB, standalone", peak);
    Ok(())
}

/// Writes `count` certificates for others to serve: `N.crt` with its key in `N.crt.key` for each name,
/// the CA of all in `ca.crt`, a client's in `client.crt` and `client.crt.key`, and `declared.json`,
/// which declares them to a gateway.
pub(crate) fn write(folder: &Path, count: usize) -> Result<(), Failure> {
    std::fs::create_dir_all(folder)?;
    let ca = Authority::new()?;
    let pairs = issue(&ca, count)?;
    let write_pair = |name: &str, pair: &Pair| {
        std::fs::write(folder.join(format!("{name}.crt")), &pair.cert)?;
        std::fs::write(folder.join(format!("{name}.crt.key")), &pair.key)
    };
    for (index, pair) in pairs.iter().enumerate() {
        write_pair(&index.to_string(), pair)?;
    }
    write_pair("client", &ca.issue("client.test")?)?;
    std::fs::write(folder.join("ca.crt"), &ca.pem)?;
    std::fs::write(folder.join("declared.json"), declared(&ca, &pairs))?;
    Ok(())
}

/// The file that declares an ssl for each of these.
fn declared(ca: &Authority, pairs: &[Pair]) -> String {
    let all: Vec<Value> = pairs
        .iter()
        .enumerate()
        .map(|(index, pair)| document(ca, index, Some(pair)))
        .collect();
    json!({ "ssls": all }).to_string()
}

/// Pairs for all names, on two threads.
fn issue(ca: &Authority, count: usize) -> Result<Vec<Pair>, Failure> {
    let half = |range: std::ops::Range<usize>| -> Result<Vec<Pair>, Failure> {
        range.map(|index| ca.issue(&name(index))).collect()
    };
    std::thread::scope(|scope| {
        let second = scope.spawn(|| half(count / 2..count));
        let mut pairs = half(0..count / 2)?;
        let second = second.join();
        pairs.extend(second.unwrap_or_else(|_panic| Err("issuing panicked".into()))?);
        Ok(pairs)
    })
}

fn name(index: usize) -> String {
    format!("name-{index}.scale.test")
}

fn document(ca: &Authority, index: usize, pair: Option<&Pair>) -> Value {
    json!({
        "id": index.to_string(),
        "cert": pair.map(|pair| &pair.cert),
        "key": pair.map(|pair| &pair.key),
        "snis": [name(index)],
        "client": { "ca": ca.pem },
    })
}

/// Rotates single certificates: until the reply, and until a handshake shows the new one.
fn change(
    gateway: &Gateway,
    ca: &Authority,
    client: &Client,
    count: usize,
    figures: &mut Figures,
) -> Result<(), Failure> {
    let mut admin = Admin::connect(gateway.admin)?;
    let (mut replies, mut live) = (Vec::new(), Vec::new());
    for round in 0..CHANGES {
        let index = scattered(round, count);
        let pair = ca.issue(&name(index))?;
        let body = document(ca, index, Some(&pair)).to_string();
        let began = Instant::now();
        admin.put(&format!("ssls/{index}"), &body)?;
        replies.push(began.elapsed());
        let shown = client.shown(gateway.https, &name(index))?;
        live.push(began.elapsed());
        if shown != pair.cert {
            return Err(format!("{} shows an old certificate after the reply", name(index)).into());
        }
    }
    figures.add_spread(PART, count, "one PUT to its reply", replies);
    figures.add_spread(PART, count, "one PUT to a handshake with it", live);
    Ok(())
}

/// The first handshake of a name against its second.
fn cold(
    gateway: &Gateway,
    client: &Client,
    count: usize,
    figures: &mut Figures,
) -> Result<(), Failure> {
    let asked = COLD.min(count);
    let indices: Vec<_> = (0..asked).map(|round| scattered(round, count)).collect();
    let mut cpu = Vec::new();
    let mut times = Vec::new();
    for _ in 0..2 {
        let before = gateway.cpu()?;
        let began = Instant::now();
        for index in &indices {
            client.shown(gateway.https, &name(*index))?;
        }
        times.push(began.elapsed());
        cpu.push(gateway.cpu()?.saturating_sub(before));
    }
    if let ([first, second], [cold, warm]) = (cpu.as_slice(), times.as_slice()) {
        let each = |time: Duration| millis(time) / f64::from(u32::try_from(asked).unwrap_or(1));
        let extra = each(*first) - each(*second);
        figures.add(
            PART,
            count,
            "first handshake of a name, extra CPU ms",
            extra,
        );
        figures.add(PART, count, "first handshake of a name, ms", each(*cold));
        figures.add(PART, count, "second handshake of a name, ms", each(*warm));
    }
    Ok(())
}

/// Handshakes with names at random against those with one name, all of them warm.
fn warm(
    gateway: &Gateway,
    client: &Client,
    count: usize,
    figures: &mut Figures,
) -> Result<(), Failure> {
    let names: Vec<_> = (0..WARM.min(count))
        .map(|round| name(scattered(round, count)))
        .collect();
    for name in &names {
        client.shown(gateway.https, name)?;
    }
    let one = names.first().cloned().into_iter().collect::<Vec<_>>();
    let (mut ratios, mut each) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let of = |names: &[String]| -> Result<Duration, Failure> {
            let before = gateway.cpu()?;
            for index in 0..HANDSHAKES {
                let at = scattered(index * ROUNDS + round, names.len());
                let name = names.get(at).ok_or("no name")?;
                client.shown(gateway.https, name)?;
            }
            Ok(gateway.cpu()?.saturating_sub(before))
        };
        let (one, many) = (of(&one)?, of(&names)?);
        ratios.push(many.as_secs_f64() / one.as_secs_f64());
        each.push(millis(one) / 1000.0);
    }
    ratios.sort_by(f64::total_cmp);
    each.sort_by(f64::total_cmp);
    let middle = |all: &[f64]| all.get(all.len() / 2).copied().unwrap_or_default();
    figures.add(PART, count, "warm handshake, CPU ms", middle(&each));
    figures.add(
        PART,
        count,
        "warm handshake, random name against one",
        middle(&ratios),
    );
    Ok(())
}

/// Numbers below `count` that follow no order, each once before one comes again where `count` has
/// no factor in common with the step.
pub(crate) fn scattered(round: usize, count: usize) -> usize {
    round.wrapping_mul(7919).wrapping_add(13) % count.max(1)
}
