//! As many objects of each kind: pages of lists, with filters too, and changes while they are served.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::admin::{Admin, fill};
use crate::figures::{Figures, millis};
use crate::gateway::Gateway;
use crate::pki::{Authority, Pair};
use crate::ssls::scattered;
use crate::tls::{Client, Protocol, request};
use crate::{Failure, Plan, upstream};

const PART: &str = "objects of each kind";
/// Changes of one object of a kind.
const CHANGES: usize = 200;
/// How often a page is asked for; the slowest counts.
const READS: usize = 5;

/// What documents are made of.
struct Stock {
    ca: Authority,
    pair: Pair,
    nodes: [String; 2],
    words: [&'static str; 2],
}

/// Loads `count` objects of each kind, and reads and changes them.
pub(crate) fn measure(plan: &Plan, count: usize, figures: &mut Figures) -> Result<(), Failure> {
    let ca = Authority::new()?;
    let words = ["one", "two"];
    let stock = Stock {
        pair: ca.issue("*.scale.test")?,
        ca,
        nodes: [
            upstream::start(words[0])?.to_string(),
            upstream::start(words[1])?.to_string(),
        ],
        words,
    };
    let gateway = Gateway::start(plan)?;
    for kind in ["secrets/vault", "ssls", "upstreams", "services", "routes"] {
        let object = |index: usize| {
            let document = stock.document(kind, index, 0, &stock.pair);
            (format!("{kind}/{index}"), document.to_string())
        };
        fill(gateway.admin, count, &object)?;
    }
    let (rss, _) = gateway.memory()?;
    figures.add(PART, count, "RSS MB, loaded", rss);
    read(&gateway, count, figures)?;
    change(&gateway, &stock, count, figures)
}

impl Stock {
    /// A document; `turn` says which upstream it leads to.
    fn document(&self, kind: &str, index: usize, turn: usize, pair: &Pair) -> Value {
        let node = self
            .nodes
            .get(turn % 2)
            .map(String::as_str)
            .unwrap_or_default();
        let upstream = json!({ "type": "roundrobin", "nodes": { node: 1 } });
        let (name, labels) = (format!("name-{index}"), json!({ "team": "scale" }));
        match kind {
            "ssls" => json!({ "snis": [sni(index)], "cert": pair.cert, "key": pair.key,
                "labels": labels, "client": { "ca": self.ca.pem } }),
            "upstreams" => json!({ "name": name, "labels": labels, "type": "roundrobin",
                "nodes": { node: 1 } }),
            "services" => json!({ "name": name, "labels": labels, "upstream": upstream }),
            "routes" => {
                // A third each leads by itself, by its upstream and by its service.
                let (by, value) = match index % 3 {
                    0 => ("upstream", upstream),
                    1 => ("upstream_id", json!(index.to_string())),
                    _ => ("service_id", json!(index.to_string())),
                };
                json!({ "name": name, "labels": labels, "host": "plain.test",
                    "uri": uri(index), by: value })
            }
            _ => json!({ "uri": "https://vault.test", "prefix": format!("kv/{index}"),
                "token": format!("token-{index}-{turn}") }),
        }
    }
}

fn sni(index: usize) -> String {
    format!("name-{index}.scale.test")
}

fn uri(index: usize) -> String {
    format!("/objects/{index}")
}

/// The slowest page of each kind, in APISIX's lists and in API7's.
fn read(gateway: &Gateway, count: usize, figures: &mut Figures) -> Result<(), Failure> {
    let mut admin = Admin::connect(gateway.admin)?;
    let pages = [
        ("first page", "page=1&page_size=500".to_owned()),
        (
            "last page",
            format!("page={}&page_size=500", count.div_ceil(500)),
        ),
        (
            "page by label",
            "page=1&page_size=500&label=team".to_owned(),
        ),
        (
            "page by name",
            "page=1&page_size=500&name=name-1.*".to_owned(),
        ),
        (
            "first page, API7",
            "gateway_group_id=default&page=1&page_size=500".to_owned(),
        ),
        (
            "page by search, API7",
            "gateway_group_id=default&page=2&page_size=500&search=ME-1".to_owned(),
        ),
    ];
    for kind in ["ssls", "upstreams", "services", "routes", "secrets"] {
        for (title, query) in &pages {
            let path = match (kind, title.ends_with("API7")) {
                ("secrets", true) => format!("secret_providers?{query}"),
                _ => format!("{kind}?{query}"),
            };
            let mut slowest = Duration::ZERO;
            for _ in 0..READS {
                slowest = slowest.max(admin.list(&path)?.0);
            }
            figures.add(
                PART,
                count,
                &format!("{kind}, {title}, ms"),
                millis(slowest),
            );
        }
    }
    Ok(())
}

/// Changes of single objects, until their reply and until they are seen to be served.
fn change(
    gateway: &Gateway,
    stock: &Stock,
    count: usize,
    figures: &mut Figures,
) -> Result<(), Failure> {
    let mut admin = Admin::connect(gateway.admin)?;
    let client = Client::new(&stock.ca.issue("client.test")?, Protocol::Http1)?;
    let mut plain = TcpStream::connect(gateway.http)?;
    plain.set_nodelay(true)?;
    for kind in ["ssls", "upstreams", "services", "routes", "secrets/vault"] {
        let (mut replies, mut live) = (Vec::new(), Vec::new());
        for round in 1..=CHANGES {
            // A route that leads to the object: see `document`.
            let offset = match kind {
                "upstreams" => 1,
                "services" => 2,
                _ => 0,
            };
            let index = (scattered(round, count / 3) * 3 + offset) % count;
            let pair = match kind {
                "ssls" => stock.ca.issue(&sni(index))?,
                _ => stock.pair.clone(),
            };
            let body = stock.document(kind, index, 1, &pair).to_string();
            let began = Instant::now();
            admin.put(&format!("{kind}/{index}"), &body)?;
            replies.push(began.elapsed());
            let is_seen = match kind {
                "ssls" => client.shown(gateway.https, &sni(index))? == pair.cert,
                "secrets/vault" => true,
                _ => {
                    let word = request(&mut plain, "plain.test", &uri(index))?;
                    word == stock.words[1].as_bytes()
                }
            };
            live.push(began.elapsed());
            if !is_seen {
                return Err(format!("{kind}/{index} is served as it was before the reply").into());
            }
        }
        figures.add_spread(PART, count, &format!("{kind}, PUT to its reply"), replies);
        figures.add_spread(PART, count, &format!("{kind}, PUT to served"), live);
    }
    Ok(())
}
