//! What is told of upstreams with checks, in APISIX's words ("Control API"): JSON, or a page for people.

use http::header::ACCEPT;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::reply::Answer;
use crate::control::{Checked, CheckedNode};

/// The media type of the page, by which it is asked for, too.
const PAGE: &str = "text/html";

/// How the names of objects begin: by where they are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// In a store, as APISIX has them in etcd: `/apisix/upstreams/1`.
    Stored,
    /// In a file: `/upstreams/1`.
    Declared,
}

impl Naming {
    fn name(self, checked: &Checked) -> String {
        let owner = &checked.owner;
        let prefix = match self {
            Self::Stored => "/apisix",
            Self::Declared => "",
        };
        format!("{prefix}/{}/{}", owner.kind.plural(), owner.id)
    }
}

/// All that have checks; APISIX says `{}` where none has.
pub(super) fn every(checked: &[Checked], naming: Naming, headers: &HeaderMap) -> Answer {
    if wants_page(headers) {
        return page(checked, naming);
    }
    Answer::ok(match checked {
        [] => json!({}),
        _ => checked.iter().map(|one| shown(one, naming)).collect(),
    })
}

/// One of them.
pub(super) fn one(checked: &Checked, naming: Naming, headers: &HeaderMap) -> Answer {
    if wants_page(headers) {
        return page(std::slice::from_ref(checked), naming);
    }
    Answer::ok(shown(checked, naming))
}

/// Whether the page is asked for by its type, and JSON is not preferred by its own.
fn wants_page(headers: &HeaderMap) -> bool {
    let weight = |media: &str| {
        let lines = headers.get_all(ACCEPT).iter();
        let texts = lines.filter_map(|line| line.to_str().ok());
        let ranges = texts.flat_map(|text| text.split(','));
        let weights = ranges.filter_map(|range| weight_of(range, media));
        weights.max().unwrap_or(0)
    };
    let page = weight(PAGE);
    page > 0 && page >= weight("application/json")
}

/// What a media range weighs, in thousandths, if it is that type; nothing, where its weight is none
/// (RFC 9110 §12.4.2, §12.5.1).
fn weight_of(range: &str, media: &str) -> Option<u16> {
    let mut parts = range.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case(media) {
        return None;
    }
    let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
    let Some(weight) = weight else {
        return Some(1000);
    };
    let (whole, fraction) = weight.split_once('.').unwrap_or((weight, ""));
    let is_number = fraction.len() <= 3 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let thousandths = format!("{fraction:0<3}").parse().ok().filter(|_| is_number);
    Some(match (whole, thousandths) {
        ("0", Some(thousandths)) => thousandths,
        ("1", Some(0)) => 1000,
        _ => 0,
    })
}

fn shown(checked: &Checked, naming: Naming) -> Value {
    json!({
        "name": naming.name(checked),
        "type": checked.kind.name(),
        "nodes": checked.nodes.iter().map(node).collect::<Vec<_>>(),
    })
}

fn node(node: &CheckedNode) -> Value {
    let mut shown = json!({
        "ip": node.host,
        "port": node.port,
        "status": node.vitals.status(),
        "counter": {
            "success": node.vitals.successes,
            "http_failure": node.vitals.http_failures,
            "tcp_failure": node.vitals.tcp_failures,
            "timeout_failure": node.vitals.timeouts,
        },
    });
    if let (Some(name), Value::Object(members)) = (&node.name, &mut shown) {
        members.insert("hostname".to_owned(), name.as_str().into());
    }
    shown
}

/// A table with a row for each node; of those that are down it is red.
fn page(checked: &[Checked], naming: Naming) -> Answer {
    const TITLE: &str = "APISIX upstream check status";
    const HEADINGS: [&str; 9] = [
        "Index",
        "Upstream",
        "Check type",
        "Host",
        "Status",
        "Success counts",
        "TCP Failures",
        "HTTP Failures",
        "TIMEOUT Failures",
    ];
    let mut rows = String::new();
    let nodes = checked
        .iter()
        .flat_map(|one| one.nodes.iter().map(move |node| (one, node)));
    for (index, (one, node)) in nodes.enumerate() {
        let vitals = &node.vitals;
        rows.push_str(if vitals.is_down {
            "<tr style=\"background-color:#ff0000\">"
        } else {
            "<tr>"
        });
        for cell in [
            (index + 1).to_string(),
            naming.name(one),
            one.kind.name().to_owned(),
            format!("{}:{}", node.host, node.port),
            vitals.status().to_owned(),
            vitals.successes.to_string(),
            vitals.tcp_failures.to_string(),
            vitals.http_failures.to_string(),
            vitals.timeouts.to_string(),
        ] {
            rows.push_str(&format!("<td>{}</td>", escaped(&cell)));
        }
        rows.push_str("</tr>\n");
    }
    let headings = HEADINGS
        .map(|heading| format!("<th>{heading}</th>"))
        .concat();
    let text = format!(
        "<!DOCTYPE html>\n<html>\n<head><title>{TITLE}</title></head>\n<body>\n<h1>{TITLE}</h1>\n\
         <table border=\"1\">\n<tr>{headings}</tr>\n{rows}</table>\n</body>\n</html>\n"
    );
    Answer::text(StatusCode::OK, PAGE, text)
}

/// A text that stands for itself in HTML.
fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_is_markup() {
        assert_eq!(
            escaped("<a href=\"&\">"),
            "&lt;a href=&quot;&amp;&quot;&gt;"
        );
    }

    #[test]
    fn page_is_for_those_who_ask_for_it_and_do_not_prefer_json() {
        let wanted = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(ACCEPT, http::HeaderValue::from_static(line));
            }
            wants_page(&headers)
        };
        for lines in [
            &["text/html"][..],
            &["Text/HTML;level=1"],
            &["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"],
            &["application/json;q=0.5", "text/html; q=0.500"],
            &["application/json, text/html"],
            &["text/html;q=0.001"],
            &["text/html;q=1.000"],
        ] {
            assert!(wanted(lines), "{lines:?}");
        }
        for lines in [
            &[][..],
            &["*/*"],
            &["text/*"],
            &["application/json"],
            &["text/html;q=0"],
            &["text/html; q=0.000, application/json"],
            &["application/json, text/html;q=0.9"],
            &["x-text/html"],
            // No weights.
            &["text/html;q=2"],
            &["text/html;q=1.1"],
            &["text/html;q=0.0001"],
            &["text/html;q=0.+1"],
            &["text/html;q="],
        ] {
            assert!(!wanted(lines), "{lines:?}");
        }
    }
}
