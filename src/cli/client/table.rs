//! Tables: padded columns without borders, and one row per object of each kind.

use serde_json::Value;

use super::envelope::{Item, id_text, whole};
use crate::resource::{Kind, escaped};
use crate::telemetry::time::date_time;
use crate::tls::material::{self, CertChain};

/// Between columns.
const GAP: &str = "   ";
/// SNIs longer than this are cut.
const SNI_CHARS: usize = 50;

/// Makes an object's row.
type Row = fn(&Item) -> Vec<String>;

/// Lays out rows under an upper-case heading; the last column is not padded.
pub(super) fn lay_out(heading: &[&str], rows: &[Vec<String>]) -> String {
    let clean = |cell: &str| escaped(cell, usize::MAX);
    let heading = heading.iter().map(|cell| (*cell).to_owned()).collect();
    let cleaned = rows
        .iter()
        .map(|row| row.iter().map(|cell| clean(cell)).collect());
    let all: Vec<Vec<String>> = std::iter::once(heading).chain(cleaned).collect();
    let columns = all.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = all.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in &all {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            let missing = width.saturating_sub(cell.chars().count());
            line.extend(std::iter::repeat_n(' ', missing));
            line.push_str(GAP);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The table of a kind, or the sentence that there are none.
pub(super) fn of_items(kind: Kind, items: &[Item]) -> String {
    if items.is_empty() {
        return format!("No {} found.", plural(kind));
    }
    let (heading, row): (&[&str], Row) = match kind {
        Kind::Ssl => (
            &["ID", "SNI", "STATUS", "TYPE", "VALIDITY", "CREATED"],
            ssl_row,
        ),
        Kind::Upstream => (
            &["ID", "NAME", "TYPE", "NODES", "SCHEME", "STATUS"],
            upstream_row,
        ),
        Kind::Route => (
            &["ID", "NAME", "URI", "METHODS", "STATUS", "UPSTREAM"],
            route_row,
        ),
        Kind::Service => (
            &["ID", "NAME", "UPSTREAM", "PLUGINS", "STATUS"],
            service_row,
        ),
        Kind::Secret => (&["ID", "MANAGER", "URI/REGION", "CREATED"], secret_row),
    };
    let rows: Vec<Vec<String>> = items.iter().map(row).collect();
    lay_out(heading, &rows)
}

/// How a kind is called in sentences, in the plural.
pub(super) const fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Ssl => "SSL certificates",
        Kind::Upstream => "upstreams",
        Kind::Service => "services",
        Kind::Route => "routes",
        Kind::Secret => "secrets",
    }
}

fn ssl_row(item: &Item) -> Vec<String> {
    let value = &item.value;
    let kind = text(value, "type").unwrap_or("server");
    vec![
        item.id.clone(),
        cut(&snis(value).join(", ")),
        status(value),
        kind.to_owned(),
        text(value, "cert").map_or_else(dash, validity),
        created(value),
    ]
}

fn upstream_row(item: &Item) -> Vec<String> {
    let value = &item.value;
    let member = |name: &str| text(value, name).unwrap_or_default().to_owned();
    vec![
        item.id.clone(),
        member("name"),
        member("type"),
        nodes(value),
        member("scheme"),
        status(value),
    ]
}

fn route_row(item: &Item) -> Vec<String> {
    let value = &item.value;
    let uris = one_or_many(value, &["uri", "uris", "paths"]);
    let upstream = value.get("upstream_id").and_then(id_text);
    vec![
        item.id.clone(),
        text(value, "name").unwrap_or_default().to_owned(),
        uris.join(", "),
        texts(value, "methods").join(", "),
        status(value),
        upstream.unwrap_or_else(|| value.get("upstream").map(nodes).unwrap_or_default()),
    ]
}

fn service_row(item: &Item) -> Vec<String> {
    let value = &item.value;
    let upstream = value.get("upstream_id").and_then(id_text);
    let plugins = value
        .get("plugins")
        .and_then(Value::as_object)
        .map_or(0, serde_json::Map::len);
    vec![
        item.id.clone(),
        text(value, "name").unwrap_or_default().to_owned(),
        upstream.unwrap_or_else(|| value.get("upstream").map(nodes).unwrap_or_default()),
        match plugins {
            0 => String::new(),
            1 => "1 plugin".to_owned(),
            more => format!("{more} plugins"),
        },
        status(value),
    ]
}

fn secret_row(item: &Item) -> Vec<String> {
    let manager = item.id.split('/').next().unwrap_or_default();
    let place = match manager {
        "aws" => text(&item.value, "region"),
        "gcp" => Some("gcp"),
        _ => text(&item.value, "uri"),
    };
    vec![
        item.id.clone(),
        manager.to_owned(),
        place.unwrap_or_default().to_owned(),
        created(&item.value),
    ]
}

/// A member that is a text.
pub(super) fn text<'v>(value: &'v Value, name: &str) -> Option<&'v str> {
    value.get(name)?.as_str()
}

pub(super) fn texts(value: &Value, name: &str) -> Vec<String> {
    let list = value.get(name).and_then(Value::as_array);
    let texts = list.into_iter().flatten().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

/// The names of an ssl.
pub(super) fn snis(ssl: &Value) -> Vec<String> {
    one_or_many(ssl, &["sni", "snis"])
}

/// Members of which the first is one text and the others are lists of them.
fn one_or_many(value: &Value, names: &[&str]) -> Vec<String> {
    names
        .iter()
        .flat_map(|name| match text(value, name) {
            Some(one) => vec![one.to_owned()],
            None => texts(value, name),
        })
        .collect()
}

/// `host:port` of each node, either form.
pub(super) fn nodes(upstream: &Value) -> String {
    let nodes: Vec<String> = match upstream.get("nodes") {
        Some(Value::Object(map)) => map.keys().cloned().collect(),
        Some(Value::Array(list)) => list
            .iter()
            .map(|node| {
                let host = text(node, "host").unwrap_or_default();
                match node.get("port") {
                    Some(port) => format!("{host}:{port}"),
                    None => host.to_owned(),
                }
            })
            .collect(),
        _ => Vec::new(),
    };
    nodes.join(", ")
}

/// Absent and 1 mean enabled.
fn status(value: &Value) -> String {
    let is_enabled = value
        .get("status")
        .is_none_or(|status| whole(status) == Some(1));
    if is_enabled { "enabled" } else { "disabled" }.to_owned()
}

/// The day on which a certificate ends.
fn validity(pem: &str) -> String {
    let end = CertChain::parse(pem)
        .ok()
        .and_then(|chain| material::validity(&chain.leaf).ok());
    end.map_or_else(dash, |(_, end)| day(end))
}

/// A day of UTC.
pub(super) fn day(seconds: i64) -> String {
    date_time(seconds).chars().take(10).collect()
}

fn created(value: &Value) -> String {
    value
        .get("create_time")
        .and_then(whole)
        .map_or_else(dash, |seconds| date_time(seconds).replace('T', " "))
}

fn dash() -> String {
    "-".to_owned()
}

pub(super) fn cut(text: &str) -> String {
    if text.chars().count() <= SNI_CHARS {
        return text.to_owned();
    }
    let start: String = text.chars().take(SNI_CHARS - 3).collect();
    format!("{start}...")
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    use crate::tls::sample;

    fn items(values: &[Value]) -> Vec<Item> {
        let item = |value: &Value| Item {
            id: value["id"].as_str().unwrap().to_owned(),
            value: value.clone(),
        };
        values.iter().map(item).collect()
    }

    #[test]
    fn ssl_rows_have_names_dates_and_defaults() {
        let pem = sample::leaf(&sample::ca("ca"), "a.test", &["a.test"]).cert;
        let names: Vec<String> = (0..9).map(|n| format!("name{n}.test")).collect();
        let table = of_items(
            Kind::Ssl,
            &items(&[
                json!({"id": "one", "cert": pem, "snis": ["a.test", "b.test"], "create_time": 0}),
                json!({"id": "two", "sni": "x", "status": 0, "type": "client", "snis": names}),
            ]),
        );
        let expected = "\
ID    SNI                                                  STATUS     TYPE     VALIDITY     CREATED
one   a.test, b.test                                       enabled    server   2045-12-27   1970-01-01 00:00:00
two   x, name0.test, name1.test, name2.test, name3.te...   disabled   client   -            -
";
        assert_eq!(table, expected);
    }

    #[test]
    fn rows_of_the_other_kinds_are_as_specified() {
        for (kind, value, row) in [
            (
                Kind::Upstream,
                json!({"id": "u", "type": "roundrobin", "scheme": "https",
                    "nodes": [{"host": "a", "port": 1}, {"host": "b", "port": 2}]}),
                "u           roundrobin   a:1, b:2   https    enabled",
            ),
            (
                Kind::Route,
                json!({"id": "r", "name": "n", "uris": ["/a", "/b"], "methods": ["GET"],
                    "upstream": {"nodes": {"a:1": 1}}}),
                "r    n      /a, /b   GET       enabled   a:1",
            ),
            (
                Kind::Service,
                json!({"id": "s", "upstream_id": "u", "plugins": {"a": {}, "b": {}}}),
                "s           u          2 plugins   enabled",
            ),
            (
                Kind::Secret,
                json!({"id": "vault/1", "uri": "http://v"}),
                "vault/1   vault     http://v     -",
            ),
        ] {
            let table = of_items(kind, &items(&[value]));
            assert_eq!(table.lines().nth(1), Some(row), "{table}");
        }
    }

    #[test]
    fn numbers_may_be_texts_and_ids_numbers() {
        let table = of_items(
            Kind::Ssl,
            &items(&[json!({"id": "s", "sni": "a", "status": "1", "create_time": "0"})]),
        );
        let row = "s    a     enabled   server   -          1970-01-01 00:00:00";
        assert_eq!(table.lines().nth(1), Some(row), "{table}");
        let table = of_items(
            Kind::Service,
            &items(&[json!({"id": "v", "upstream_id": 7})]),
        );
        let row = "v           7                    enabled";
        assert_eq!(table.lines().nth(1), Some(row), "{table}");
    }

    #[test]
    fn nothing_is_a_sentence_and_control_characters_are_escaped() {
        assert_eq!(of_items(Kind::Ssl, &[]), "No SSL certificates found.");
        let table = of_items(
            Kind::Route,
            &items(&[json!({"id": "r", "uri": "\u{1b}[2J"})]),
        );
        assert!(!table.contains('\u{1b}'), "{table}");
    }
}
