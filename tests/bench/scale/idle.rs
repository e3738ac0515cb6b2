//! Many idle connections, each with a client certificate, each after one request of HTTP/1.1 or HTTP/2.

use std::time::Duration;

use serde_json::json;

use crate::admin::Admin;
use crate::figures::Figures;
use crate::gateway::Gateway;
use crate::pki::Authority;
use crate::tls::{Client, Protocol, request, request_http2};
use crate::{Failure, Plan, upstream};

const NAME: &str = "idle.scale.test";

/// Opens `count` connections and measures what they keep.
pub(crate) fn measure(
    plan: &Plan,
    protocol: Protocol,
    count: usize,
    figures: &mut Figures,
) -> Result<(), Failure> {
    let part = match protocol {
        Protocol::Http1 => "idle mTLS connections",
        Protocol::Http2 => "idle mTLS connections, HTTP/2",
    };
    let ca = Authority::new()?;
    let client = Client::new(&ca.issue("client.test")?, protocol)?;
    let gateway = Gateway::start(plan)?;
    let node = upstream::start("one")?.to_string();
    let mut admin = Admin::connect(gateway.admin)?;
    let pair = ca.issue(NAME)?;
    let ssl =
        json!({ "cert": pair.cert, "key": pair.key, "snis": [NAME], "client": { "ca": ca.pem } });
    admin.put("ssls/1", &ssl.to_string())?;
    let nodes = json!({ "type": "roundrobin", "nodes": { node.as_str(): 1 } });
    let route = json!({ "uri": "/*", "upstream": nodes });
    admin.put("routes/1", &route.to_string())?;
    let mut kept = Vec::with_capacity(count);
    let (empty, _) = gateway.memory()?;
    for _ in 0..count {
        let mut stream = client.connect(gateway.https, NAME)?;
        match protocol {
            Protocol::Http1 => drop(request(&mut stream, NAME, "/")?),
            Protocol::Http2 => request_http2(&mut stream, NAME)?,
        }
        kept.push(stream);
    }
    // Connections are put to rest by a sweep.
    std::thread::sleep(Duration::from_secs(3));
    let (rss, peak) = gateway.memory()?;
    figures.add(part, count, "RSS MB", rss);
    figures.add(part, count, "peak MB", peak);
    let each = (rss - empty) * 1024.0 / f64::from(u32::try_from(count)?);
    figures.add(part, count, "each, KiB", each);
    Ok(())
}
