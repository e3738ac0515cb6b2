//! Requests that nobody meant: methods, paths, headers and bodies made by chance from what is valid.
//!
//! Reproducible: chance is a number that is told when something goes wrong. As many as
//! `PORTCULLIS_TEST_FUZZ` says, from the seed that `PORTCULLIS_TEST_FUZZ_SEED` says.

use std::collections::BTreeMap;
use std::env;

use super::*;
use crate::support::eventually;
use crate::support::memory::{MIB, peak};
use crate::support::raw::RawClient;
use crate::support::tls::TlsClient;

/// How many requests are sent unless said otherwise: few, the suite has other work.
const REQUESTS: u64 = 500;
const SEED: u64 = 0x5eed;
/// How much more memory the gateway may hold after all than after the first tenth.
const ROOM: usize = 96 * MIB;

const METHODS: [&str; 9] = [
    "GET", "PUT", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "MKCOL",
];
const KINDS: [&str; 5] = ["ssls", "upstreams", "services", "routes", "secrets"];
const WORDS: [&str; 26] = [
    "ssls",
    "upstreams",
    "services",
    "routes",
    "secrets",
    "secret_providers",
    "vault",
    "aws",
    "consumers",
    "stream_routes",
    "plugin_metadata",
    "plugins",
    "list",
    "schema",
    "validate",
    "configs",
    "route",
    "upstream",
    "tls",
    "nodes",
    "api",
    "version",
    "gateway_groups",
    "portcullis",
    "failures",
    "snapshot",
];
const ROOTS: [&str; 9] = [
    "/apisix/admin",
    "/apisix/admin",
    "/apisix/admin/",
    "/api",
    "/portcullis/v1",
    "/portcullis/v1/audit",
    "/portcullis/v1/validate",
    "/portcullis/v1/failures",
    "",
];
const IDS: [&str; 16] = [
    "1",
    "2",
    "3",
    "a",
    "b.c_d-e",
    "00000000000000000001",
    "vault/1",
    "aws/2",
    "x%20y",
    "%2e%2e",
    "..",
    "%00",
    "%ff",
    "%zz",
    "é",
    "0",
];
const QUERIES: [&str; 28] = [
    "page=1&page_size=10",
    "page=0&page_size=500",
    "page=-1&page_size=9",
    "page=x",
    "page_size=11",
    "page=99999999999999999999&page_size=10",
    "name=(",
    "name=a*",
    "uri=%5E%2F",
    "uri=%",
    "label=a",
    "filter=service_id%3D1%26upstream_id%3D2",
    "filter=%25",
    "force=true",
    "force=maybe",
    "ttl=1",
    "ttl=1e999",
    "ttl=-1",
    "ttl=a",
    "gateway_group_id=default",
    "gateway_group_id=other",
    "service_id=1",
    "direction=asc&search=a&labels%5Ba%5D=b",
    "labels%5B",
    "limit=5&before=3",
    "limit=-1",
    "weakens=true&kind=routes&action=create",
    "api_key=x",
];
const HEADERS: [&str; 12] = [
    "If-Match: \"1\"",
    "If-Match: *",
    "If-Match: W/\"x\"",
    "X-Portcullis-Withheld: show",
    "X-Portcullis-Allow-Weaker: 1",
    "Content-Type: application/yaml",
    "Content-Type: text/plain",
    "X-API-KEY: another",
    "Accept: application/yaml",
    "Origin: https://x",
    "Cookie: x_api_key=1",
    "X-Digest: d",
];
const TEXTS: [&str; 24] = [
    "",
    "a",
    "*",
    "*.a.test",
    "$env://HOME",
    "$secret://vault/1/a/b",
    "$secret://",
    "$withheld:sha256:00",
    "pc1:x",
    "\u{0}",
    "\u{1f600}",
    "é.test",
    "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
    "127.0.0.1:1",
    "[::1]",
    "10.0.0.0/8",
    "/a/*",
    "/:name/*rest",
    "(((",
    "^(a+)+$",
    "roundrobin",
    "chash",
    "https",
    "rewrite",
];
const MEMBERS: [&str; 34] = [
    "id",
    "name",
    "desc",
    "labels",
    "uri",
    "uris",
    "paths",
    "host",
    "hosts",
    "methods",
    "vars",
    "priority",
    "status",
    "plugins",
    "upstream",
    "upstream_id",
    "service_id",
    "nodes",
    "tls",
    "verify",
    "ca_certs",
    "client_cert",
    "client_key",
    "client_cert_id",
    "checks",
    "timeout",
    "sni",
    "snis",
    "cert",
    "key",
    "client",
    "create_time",
    "path_prefix",
    "type",
];
const NUMBERS: [&str; 12] = [
    "0",
    "1",
    "-1",
    "2",
    "65536",
    "1e3",
    "-0",
    "0.5",
    "1e400",
    "18446744073709551616",
    "9007199254740993",
    "123456789012345678901234567890",
];

/// Chance that comes again: SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).unwrap();
        usize::try_from(self.next() % bound).unwrap()
    }

    /// Once in so many times.
    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    /// A value that may stand anywhere.
    fn value(&mut self, depth: usize) -> Value {
        match self.below(if depth > 3 { 5 } else { 7 }) {
            0 => Value::Null,
            1 => json!(self.once_in(2)),
            2 => serde_json::from_str(self.pick(&NUMBERS)).unwrap(),
            3 => json!(self.pick(&TEXTS)),
            4 => json!("x".repeat(self.below(5000))),
            5 => (0..self.below(4)).map(|_| self.value(depth + 1)).collect(),
            _ => {
                let members = (0..self.below(4))
                    .map(|_| (self.pick(&MEMBERS).to_owned(), self.value(depth + 1)));
                Value::Object(members.collect())
            }
        }
    }

    /// Changes something somewhere in a document.
    fn mutate(&mut self, value: &mut Value) {
        match value {
            Value::Object(members) if !members.is_empty() && !self.once_in(6) => {
                let names: Vec<String> = members.keys().cloned().collect();
                let name = &names[self.below(names.len())];
                match self.below(6) {
                    0 => drop(members.shift_remove(name)),
                    1 => {
                        let own = members[name].clone();
                        members.insert(self.pick(&MEMBERS).to_owned(), own);
                    }
                    2 => drop(members.insert(self.pick(&MEMBERS).to_owned(), self.value(0))),
                    _ => self.mutate(&mut members[name]),
                }
            }
            Value::Array(items) if !items.is_empty() && !self.once_in(6) => {
                let index = self.below(items.len());
                match self.below(4) {
                    0 => drop(items.remove(index)),
                    1 => items.push(items[index].clone()),
                    _ => self.mutate(&mut items[index]),
                }
            }
            Value::String(text) if !self.once_in(3) => {
                let at = self.below(text.len() + 1);
                if text.is_char_boundary(at) {
                    match self.below(3) {
                        0 => text.truncate(at),
                        1 => text.insert_str(at, self.pick(&TEXTS)),
                        _ => *text = text[at..].to_owned(),
                    }
                }
            }
            other @ (Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_)
            | Value::Object(_)) => *other = self.value(0),
        }
    }
}

/// What is valid, by kind; references between them are to ids of [`IDS`].
fn corpus() -> BTreeMap<&'static str, Vec<Value>> {
    let ca = Ca::root("CA");
    let pair = ca.server("a.test");
    let tls = json!({"client_cert": pair.cert, "client_key": pair.key, "verify": true, "ca_certs": [ca.pem()]});
    let nodes = json!([{"host": "127.0.0.1", "port": 1, "weight": 1, "priority": -1}]);
    let checked = json!({"active": {"http_path": "/x", "healthy": {"interval": 60}, "unhealthy": {"interval": 60}},
        "passive": {"unhealthy": {"http_statuses": [500], "http_failures": 3}}});
    let inline = json!({"nodes": nodes, "scheme": "https", "pass_host": "rewrite", "upstream_host": "a.test", "tls": tls});
    BTreeMap::from([
        (
            "ssls",
            vec![
                json!({"cert": pair.cert, "key": pair.key, "snis": ["a.test", "*.a.test"], "client": {"ca": ca.pem(), "depth": 2}}),
                json!({"cert": pair.cert, "key": pair.key, "sni": "b.test", "ssl_protocols": ["TLSv1.3"], "status": 0}),
                json!({"cert": pair.cert, "key": pair.key, "type": "client", "labels": {"a": "b"}}),
                json!({"cert": "$env://NO_CERT", "key": "$env://NO_KEY", "snis": ["ref.test"]}),
                json!({"cert": pair.cert, "key": "$withheld:sha256:00", "snis": ["a.test"],
                "client": {"ca": ca.pem(), "skip_mtls_uri_regex": ["^/open/"]}}),
            ],
        ),
        (
            "upstreams",
            vec![
                json!({"name": "u", "type": "roundrobin", "nodes": {"127.0.0.1:1": 1, "127.0.0.1:2": 0}}),
                json!({"nodes": nodes, "type": "chash", "hash_on": "header", "key": "x", "retries": 1, "retry_timeout": 0.5}),
                json!({"nodes": nodes, "scheme": "grpcs", "tls": {"client_cert_id": "3"}, "timeout": {"connect": 1, "send": 1, "read": 0.5}}),
                json!({"nodes": [], "checks": checked, "keepalive_pool": {"size": 1, "idle_timeout": 0, "requests": 1}}),
                inline.clone(),
            ],
        ),
        (
            "services",
            vec![
                json!({}),
                json!({"name": "s", "upstream": inline, "hosts": ["a.test", "*.b.test"], "enable_websocket": true}),
                json!({"upstream_id": "1", "plugins": {}}),
                json!({"name": "s", "type": "http", "path_prefix": "/p", "strip_path_prefix": false,
                "upstream": {"nodes": nodes}, "status": 1}),
            ],
        ),
        (
            "routes",
            vec![
                json!({"uri": "/a/*", "upstream_id": "1", "methods": ["GET", "PUT"], "priority": 3}),
                json!({"uris": ["/a", "/b"], "service_id": "2", "hosts": ["a.test"], "remote_addrs": ["10.0.0.0/8", "::1"]}),
                json!({"uri": "/v", "upstream": {"nodes": nodes}, "vars": [["OR", ["arg_a", "==", "1"], ["http_x", "~~", "^b"]]]}),
                json!({"name": "r", "paths": ["/*"], "service_id": "1", "timeout": {"connect": 1, "send": 1, "read": 1}}),
                json!({"uri": "/p", "plugins": {}, "status": 0, "enable_websocket": true, "desc": "d"}),
            ],
        ),
        (
            "secrets",
            vec![
                json!({"uri": "http://127.0.0.1:1", "prefix": "kv/a", "token": "t", "kv_version": "kv-v2"}),
                json!({"uri": "https://127.0.0.1:1/v1/secret/data/mtls"}),
                json!({"access_key_id": "a", "secret_access_key": "b", "region": "eu-1"}),
            ],
        ),
    ])
}

struct Fuzz {
    dice: Dice,
    corpus: BTreeMap<&'static str, Vec<Value>>,
}

impl Fuzz {
    fn document(&mut self, kind: &str) -> Value {
        let all = self.corpus.get(kind).or_else(|| self.corpus.get("routes"));
        let all = all.unwrap();
        let index = self.dice.below(all.len());
        let mut document = all[index].clone();
        for _ in 0..self.dice.below(4) {
            self.dice.mutate(&mut document);
        }
        document
    }

    fn body(&mut self, kind: &str, method: &str, target: &str) -> Vec<u8> {
        let value = match method {
            _ if target.contains("configs") => {
                let mut sections = serde_json::Map::new();
                for _ in 0..self.dice.below(4) {
                    let kind = self.dice.pick(&KINDS);
                    let items = (0..self.dice.below(3)).map(|_| self.document(kind));
                    sections.insert(kind.to_owned(), items.collect());
                }
                Value::Object(sections)
            }
            "PATCH" if self.dice.once_in(3) => {
                let pointer = format!("/{}", self.dice.pick(&MEMBERS));
                let verbs = ["add", "remove", "replace", "move", "copy", "test", "x"];
                let verb = self.dice.pick(&verbs);
                let value = self.dice.value(0);
                json!([{"op": verb, "path": pointer, "from": "/desc", "value": value}])
            }
            "PATCH" => {
                let mut document = self.document(kind);
                if let Some(members) = document.as_object_mut() {
                    let keep = self.dice.below(3);
                    while members.len() > keep {
                        let last = members.keys().next_back().cloned().unwrap();
                        members.shift_remove(&last);
                    }
                }
                document
            }
            _ => self.document(kind),
        };
        let mut bytes = value.to_string().into_bytes();
        match self.dice.below(24) {
            0 => bytes.truncate(self.dice.below(bytes.len() + 1)),
            1 => {
                for _ in 0..=self.dice.below(4) {
                    let at = self.dice.below(bytes.len());
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = self.dice.next().to_be_bytes()[0];
                    }
                }
            }
            2 => bytes = Vec::new(),
            3 => {
                let depth = 1 << self.dice.below(16);
                bytes = [b"[".repeat(depth), b"]".repeat(depth)].concat();
            }
            4 => bytes.extend_from_within(..),
            _ => {}
        }
        bytes
    }

    fn target(&mut self, kind: &str) -> String {
        let root = self.dice.pick(&ROOTS);
        let mut target = match self.dice.below(8) {
            0 => format!("{root}/{}", self.dice.pick(&WORDS)),
            1 => format!(
                "{root}/{}/{}",
                self.dice.pick(&WORDS),
                self.dice.pick(&WORDS)
            ),
            2 => format!("/apisix/admin/{kind}"),
            3 => format!(
                "/apisix/admin/configs{}",
                self.dice.pick(&["", "/validate", "/x"])
            ),
            _ => format!("/apisix/admin/{kind}/{}", self.dice.pick(&IDS)),
        };
        while self.dice.once_in(6) {
            let more = if self.dice.once_in(2) {
                self.dice.pick(&WORDS)
            } else {
                self.dice.pick(&MEMBERS)
            };
            target = format!("{target}/{more}");
        }
        for separator in ["?", "&"] {
            if self.dice.once_in(3) {
                target = format!("{target}{separator}{}", self.dice.pick(&QUERIES));
            }
        }
        let visible = |byte: u8| match byte {
            b'!'..=b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        };
        let target: String = target.bytes().map(visible).collect();
        if target.is_empty() {
            "/".to_owned()
        } else {
            target
        }
    }

    /// The next request, and its method.
    fn request(&mut self) -> (Vec<u8>, &'static str) {
        let kind = self.dice.pick(&KINDS);
        // Half are writes that may well be accepted.
        let method = if self.dice.once_in(2) {
            "PUT"
        } else {
            self.dice.pick(&METHODS)
        };
        let target = self.target(kind);
        let body = self.body(kind, method, &target);
        let mut head = format!(
            "{method} {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n",
            body.len()
        );
        if !self.dice.once_in(50) {
            head.push_str(&format!("X-API-KEY: {ADMIN_KEY}\r\n"));
        }
        while self.dice.once_in(4) {
            head.push_str(&format!("{}\r\n", self.dice.pick(&HEADERS)));
        }
        head.push_str("\r\n");
        ([head.into_bytes(), body].concat(), method)
    }
}

fn number(name: &str, default: u64) -> u64 {
    let set = env::var(name).ok();
    set.map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number"))
    })
}

/// Whether the other side has not ended a connection.
fn is_open(client: &RawClient) -> bool {
    let tcp = client.socket();
    tcp.set_nonblocking(true).unwrap();
    let peeked = tcp.peek(&mut [0]);
    tcp.set_nonblocking(false).unwrap();
    match peeked {
        Ok(count) => count > 0,
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
    }
}

fn totals(gateway: &Gateway) -> Vec<Value> {
    let total = |kind| {
        gateway
            .admin_get(&format!("/{kind}"))
            .expect_status(200)
            .json()["total"]
            .clone()
    };
    KINDS.map(total).into()
}

#[test]
fn no_request_brings_a_5xx_a_panic_or_growth_and_the_store_stays_readable() {
    let (count, seed) = (
        number("PORTCULLIS_TEST_FUZZ", REQUESTS),
        number("PORTCULLIS_TEST_FUZZ_SEED", SEED),
    );
    let gateway = Setup::default().set("access_log", "off").start();
    let mut fuzz = Fuzz {
        dice: Dice(seed),
        corpus: corpus(),
    };
    let open = |is_tls: bool| match is_tls {
        false => RawClient::connect(gateway.port("admin")),
        true => RawClient::connect_tls(&TlsClient::new(gateway.port("admin_https"))),
    };
    let mut doors = [open(false), open(true)];
    let mut statuses: BTreeMap<u16, u64> = BTreeMap::new();
    let mut warm = 0;
    for turn in 0..count {
        let (request, method) = fuzz.request();
        let door = usize::from(fuzz.dice.once_in(3));
        let shown = || {
            format!(
                "seed {seed}, request {turn}: {}",
                String::from_utf8_lossy(&request)
            )
        };
        doors[door].send(&request);
        let reply = match method {
            "HEAD" => doors[door].read_bodiless(),
            _ => doors[door].read_reply(),
        };
        assert!(reply.is_whole, "{}\n{reply:?}", shown());
        assert!((200..500).contains(&reply.status), "{}\n{reply:?}", shown());
        *statuses.entry(reply.status).or_default() += 1;
        // A body that was refused unread may be the end of its connection.
        let is_read = request.len() < 4096 && METHODS[..5].contains(&method);
        if !is_read || reply.header("connection") == Some("close") || !is_open(&doors[door]) {
            doors[door] = open(door == 1);
        }
        // What it named itself would only pile up.
        let made: Option<Value> = serde_json::from_slice(&reply.body)
            .ok()
            .filter(|_| reply.status == 201);
        let key = made.as_ref().and_then(|made| made["key"].as_str());
        if let Some(key) = key.filter(|key| key.contains("/0000000000")) {
            let path = key.trim_start_matches("/apisix");
            gateway
                .admin("DELETE", &format!("{path}?force=true"))
                .send();
        }
        if turn == count / 10 {
            warm = peak(&gateway);
        }
    }
    drop(doors);
    let grown = peak(&gateway).saturating_sub(warm);
    eprintln!(
        "{count} requests, seed {seed}: {statuses:?}, {} MiB, grown by {} MiB",
        peak(&gateway) / MIB,
        grown / MIB
    );
    assert!(grown < ROOM, "grown by {} MiB", grown / MIB);
    assert!(
        [200, 201, 400, 401, 404]
            .iter()
            .all(|status| statuses.contains_key(status)),
        "{statuses:?}"
    );
    // What has a `ttl` is waited for, so that the numbers stay: it is gone when the last one is.
    gateway
        .admin_put("/upstreams/the-last-to-expire?ttl=1", &upstream())
        .expect_status(201);
    eventually(6 * SOON, "what expires is gone", || {
        let last = gateway.admin_get("/upstreams/the-last-to-expire");
        (last.status == Some(404)).then_some(())
    });
    let before = totals(&gateway);
    let data = gateway.data();
    let stopped = gateway.stop();
    assert!(stopped.status.success(), "{:?}", stopped.status);
    let text = format!("{:?}", stopped.logs);
    assert!(!text.contains("panicked at"), "{text}");
    let again = Setup::default().data(&data).start();
    assert_eq!(totals(&again), before);
    let url = format!(
        "http://127.0.0.1:{}/portcullis/v1/audit/verify",
        again.port("admin")
    );
    let audit = Curl::new(&url)
        .header(&format!("X-API-KEY: {ADMIN_KEY}"))
        .send();
    audit.expect_status(200);
}
