//! Many routes: of a thousand hosts, all to one upstream, in the clear.

use std::net::TcpStream;
use std::time::Instant;

use serde_json::json;

use crate::admin::{Admin, fill};
use crate::figures::{Figures, millis};
use crate::gateway::Gateway;
use crate::ssls::scattered;
use crate::tls::request;
use crate::{Failure, Plan, upstream};

const PART: &str = "routes";
/// Hosts that routes are spread over.
const HOSTS: usize = 1000;
/// Requests whose cost is taken.
const REQUESTS: usize = 20_000;
/// How often it is taken; the median counts.
const ROUNDS: usize = 5;
/// Changes of one route among all.
const CHANGES: usize = 200;

/// Loads `count` routes and measures what they and requests cost.
pub(crate) fn measure(plan: &Plan, count: usize, figures: &mut Figures) -> Result<(), Failure> {
    let mut gateway = Gateway::start(plan)?;
    let node = upstream::start("one")?.to_string();
    let mut admin = Admin::connect(gateway.admin)?;
    let shared = json!({ "type": "roundrobin", "nodes": { node.as_str(): 1 },
        "keepalive_pool": { "size": 64, "idle_timeout": 60, "requests": 1_000_000_000 } });
    admin.put("upstreams/shared", &shared.to_string())?;
    let object = |index: usize| {
        let route = json!({ "uri": path(index), "host": host(index), "upstream_id": "shared" });
        (format!("routes/{index}"), route.to_string())
    };
    let took = fill(gateway.admin, count, &object)?;
    figures.add(PART, count, "load, s", took.as_secs_f64());
    let (rss, peak) = gateway.memory()?;
    figures.add(PART, count, "RSS MB, loaded", rss);
    figures.add(PART, count, "peak MB, loading", peak);
    change(&gateway, count, figures)?;
    figures.add(
        PART,
        count,
        "restart to serving, s",
        gateway.restart()?.as_secs_f64(),
    );
    let (rss, peak) = gateway.memory()?;
    figures.add(PART, count, "RSS MB, restarted", rss);
    figures.add(PART, count, "peak MB, restarting", peak);

    let mut stream = TcpStream::connect(gateway.http)?;
    stream.set_nodelay(true)?;
    let mut costs = Vec::new();
    for round in 0..=ROUNDS {
        let before = gateway.cpu()?;
        for index in 0..REQUESTS {
            let index = scattered(index * ROUNDS + round, count);
            request(&mut stream, &host(index), &path(index))?;
        }
        let cpu = gateway.cpu()?.saturating_sub(before);
        // The first round warms up.
        if round > 0 {
            costs.push(millis(cpu) / 20.0);
        }
    }
    costs.sort_by(f64::total_cmp);
    let cost = costs.get(ROUNDS / 2).copied().unwrap_or_default();
    figures.add(
        PART,
        count,
        "1,000 requests over one connection, CPU ms",
        cost,
    );
    Ok(())
}

fn host(index: usize) -> String {
    format!("host-{}.scale.test", index % HOSTS)
}

fn path(index: usize) -> String {
    format!("/api/v1/route-{index}/items")
}

/// Gives single routes another path: until the reply, and until a request there is answered.
fn change(gateway: &Gateway, count: usize, figures: &mut Figures) -> Result<(), Failure> {
    let mut admin = Admin::connect(gateway.admin)?;
    let mut stream = TcpStream::connect(gateway.http)?;
    stream.set_nodelay(true)?;
    let (mut replies, mut live) = (Vec::new(), Vec::new());
    for round in 0..CHANGES {
        let index = scattered(round, count);
        let path = format!("/changed/{round}");
        let uris = [path.clone(), self::path(index)];
        let route = json!({ "uris": uris, "host": host(index), "upstream_id": "shared" });
        let body = route.to_string();
        let began = Instant::now();
        admin.put(&format!("routes/{index}"), &body)?;
        replies.push(began.elapsed());
        request(&mut stream, &host(index), &path)?;
        live.push(began.elapsed());
    }
    figures.add_spread(PART, count, "one PUT to its reply", replies);
    figures.add_spread(PART, count, "one PUT to a request by it", live);
    Ok(())
}
