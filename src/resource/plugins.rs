//! The `plugins` of routes and services: which are known, and what they ask for.
//!
//! One is: `proxy-rewrite`, of which `uri` and `headers` are served. All else is refused, so that
//! nothing that an operator asked for is left undone.

use http::HeaderName;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use serde_json::Value;

use super::fault::{Guess, Verdict};
use super::{Document, is_reference, members, schema, texts};
use crate::matching::template::Template;
use crate::matching::variable::{ClientFact, Variable};

/// The plugins of a route or a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plugins {
    /// `proxy-rewrite`; `None` where the plugin is not there.
    pub rewrite: Option<Rewrite>,
}

/// What a request becomes on its way to an upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// `uri`: the target, in the place of the client's.
    pub target: Option<TargetRewrite>,
    /// `add`: lines beside those that are there.
    pub add: Vec<(HeaderName, Template)>,
    /// `set`: in the place of those that are there. One that comes out empty is left out.
    pub set: Vec<(HeaderName, Template)>,
    /// `remove`.
    pub remove: Vec<HeaderName>,
}

/// A target for the upstream. The client's query stands behind its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetRewrite {
    /// What is before the first `?`; it begins with `/`.
    pub path: Template,
    /// What is behind it.
    pub query: Option<Template>,
}

/// The plugins that are known.
pub const NAMES: [&str; 1] = ["proxy-rewrite"];

/// Which of them goes first: the greater. (APISIX, `conf/config.yaml`.)
pub const PRIORITIES: [(&str, u32); 1] = [("proxy-rewrite", 1008)];

/// How many headers one rewrite may name.
const HEADERS_MAX: usize = 64;

/// The members of `proxy-rewrite` in APISIX.
const MEMBERS: [&str; 7] = [
    "headers",
    "uri",
    "regex_uri",
    "host",
    "method",
    "scheme",
    "use_real_request_uri_unsafe",
];

/// What requests that go round in circles are told by (RFC 8586).
const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

/// Headers that say how a message is framed or routed; they are the gateway's own to write.
const OURS: [HeaderName; 9] = [
    CDN_LOOP,
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    HOST,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Reads `plugins`.
pub(super) fn read(document: &Document, verdict: &mut Verdict) -> Plugins {
    let mut plugins = Plugins::default();
    for (name, config) in members::object(document, "plugins").into_iter().flatten() {
        let at = texts::join("/plugins", name);
        let shown = texts::shown(name);
        match (name.as_str(), config) {
            (_, Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => {
                let config = texts::shown(&config.to_string());
                let text = format!("invalid plugin conf {config} for plugin [{shown}]");
                verdict.refuse_as_apisix(at, text);
            }
            ("proxy-rewrite", _) => plugins.rewrite = read_proxy_rewrite(config, &at, verdict),
            _ => verdict.refuse_as_apisix(at, format!("unknown plugin [{shown}]")),
        }
    }
    plugins
}

/// What precedes the reasons of a plugin.
const REFUSED: &str = "failed to check the configuration of plugin proxy-rewrite err: ";

/// Refuses in APISIX's words. (APISIX, `plugins/proxy-rewrite.lua`.)
fn refuse(at: &str, reason: &str, verdict: &mut Verdict) {
    verdict.refuse_as_apisix(at, format!("{REFUSED}{reason}"));
}

/// Refuses what the schema finds.
fn refuse_shape(config: &Value, at: &str, verdict: &mut Verdict) {
    for fault in schema::check_plugin("proxy-rewrite", config) {
        refuse(&format!("{at}{}", fault.pointer), &fault.reason, verdict);
    }
}

fn read_proxy_rewrite(config: &Value, at: &str, verdict: &mut Verdict) -> Option<Rewrite> {
    let Some(members) = config.as_object().filter(|members| !members.is_empty()) else {
        refuse_shape(config, at, verdict);
        return None;
    };
    let is_served = |member: &str| {
        let schema = schema::plugin("proxy-rewrite");
        let properties = schema.and_then(|schema| schema.get("properties"));
        properties.is_some_and(|served| served.get(member).is_some())
    };
    let mut served = Document::new();
    for (member, value) in members {
        let at = texts::join(at, member);
        if is_served(member) {
            served.insert(member.clone(), value.clone());
            continue;
        }
        if MEMBERS.contains(&member.as_str()) || member == "_meta" {
            verdict.refuse_unsupported(at, &format!("proxy-rewrite.{member}"));
        } else {
            let found = texts::shown(member);
            let reason = format!("{REFUSED}additional properties forbidden, found {found}");
            let meant = texts::nearest(member, MEMBERS).map(str::to_owned);
            verdict.refuse_unknown(at, reason, meant.map(|meant| Guess { found, meant }));
        }
    }
    if !served.is_empty() {
        refuse_shape(&Value::Object(served), at, verdict);
    }
    let mut rewrite = Rewrite::default();
    if let Some(target) = members.get("uri") {
        rewrite.target = read_target(target, &texts::join(at, "uri"), verdict);
    }
    if let Some(headers) = members.get("headers") {
        read_headers(headers, &texts::join(at, "headers"), &mut rewrite, verdict);
    }
    Some(rewrite)
}

/// Reads `headers`, and says what is wrong where the schema's words leave it open.
fn read_headers(headers: &Value, at: &str, rewrite: &mut Rewrite, verdict: &mut Verdict) {
    let Some(headers) = headers.as_object().filter(|headers| !headers.is_empty()) else {
        verdict.refuse(at, "headers is an object with at least one header");
        return;
    };
    // Without one of the three words, all of it is set: APISIX's older form, in which they are
    // names like any other.
    let words = ["add", "set", "remove"];
    let is_older = !headers.iter().any(|(name, value)| {
        words.contains(&name.as_str()) && (value.is_object() || value.is_array())
    });
    if is_older {
        rewrite.set = read_lines(headers, at, verdict);
    } else {
        for (word, value) in headers {
            let at = texts::join(at, word);
            match (word.as_str(), value) {
                ("add" | "set" | "remove", Value::Object(none)) if none.is_empty() => {
                    verdict.refuse(at, format!("headers.{word} is empty; leave it out"));
                }
                ("add", Value::Object(lines)) => rewrite.add = read_lines(lines, &at, verdict),
                ("set", Value::Object(lines)) => rewrite.set = read_lines(lines, &at, verdict),
                ("remove", Value::Array(names)) => {
                    rewrite.remove = read_names(names, &at, verdict);
                }
                ("add" | "set", _) => {
                    verdict.refuse(
                        at,
                        format!("headers.{word} is an object of names and values"),
                    );
                }
                ("remove", _) => verdict.refuse(at, "headers.remove is a list of names"),
                _ => {
                    let word = texts::shown(word);
                    let reason = format!(
                        "headers.{word} cannot stand beside add, set and remove; put it into one of \
                         them"
                    );
                    verdict.refuse(at, reason);
                }
            }
        }
    }
    if rewrite.add.len() + rewrite.set.len() + rewrite.remove.len() > HEADERS_MAX {
        let reason = format!("more than {HEADERS_MAX} headers");
        refuse(at, &reason, verdict);
    }
}

/// Reads `uri`; what its schema refuses was told.
fn read_target(value: &Value, at: &str, verdict: &mut Verdict) -> Option<TargetRewrite> {
    let text = value.as_str().filter(|text| text.starts_with('/'))?;
    if text.bytes().any(|byte| byte.is_ascii_control()) {
        let reason = "property \"uri\" validation failed: a target has no control characters";
        refuse(at, reason, verdict);
        return None;
    }
    let (path, query) = match text.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (text, None),
    };
    Some(TargetRewrite {
        path: read_template(path, at, verdict)?,
        query: match query {
            Some(query) => Some(read_template(query, at, verdict)?),
            None => None,
        },
    })
}

fn read_lines(lines: &Document, at: &str, verdict: &mut Verdict) -> Vec<(HeaderName, Template)> {
    let mut read = Vec::new();
    for (name, value) in lines {
        let at = texts::join(at, name);
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            // What the schema takes for no name may have any value there.
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)
                if name.is_empty() || name.contains(':') =>
            {
                refuse(&at, "invalid type as header value", verdict);
                continue;
            }
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
                let name = texts::shown(name);
                verdict.refuse(
                    at,
                    format!("the value of header {name} is a text or a number"),
                );
                continue;
            }
        };
        let name = read_name(name, &at, verdict);
        let value = read_value(&text, &at, verdict);
        read.extend(name.zip(value));
    }
    read
}

fn read_names(names: &[Value], at: &str, verdict: &mut Verdict) -> Vec<HeaderName> {
    let mut read = Vec::new();
    if names.is_empty() {
        verdict.refuse(at, "headers.remove is empty; leave it out");
    }
    for (index, name) in names.iter().enumerate() {
        let at = format!("{at}/{index}");
        match name.as_str() {
            Some(name) => read.extend(read_name(name, &at, verdict)),
            None => verdict.refuse(at, "headers.remove is a list of names"),
        }
    }
    read
}

fn read_name(name: &str, at: &str, verdict: &mut Verdict) -> Option<HeaderName> {
    if name.is_empty() {
        refuse(at, "invalid field length in header", verdict);
        return None;
    }
    let Ok(header) = name.parse::<HeaderName>() else {
        refuse(at, "invalid field character in header", verdict);
        return None;
    };
    if OURS.contains(&header) {
        let remedy = if header == HOST {
            "use pass_host of the upstream"
        } else if header == CDN_LOOP {
            "requests that go round in circles are told by it"
        } else {
            "it says how the message is framed"
        };
        let reason = format!("{header} is not a route's to write: {remedy}");
        refuse(at, &reason, verdict);
        return None;
    }
    Some(header)
}

fn read_value(text: &str, at: &str, verdict: &mut Verdict) -> Option<Template> {
    if text
        .bytes()
        .any(|byte| byte.is_ascii_control() && byte != b'\t')
    {
        refuse(at, "invalid value character in header", verdict);
        return None;
    }
    if is_reference(text) {
        let reason = "a reference cannot stand in a header: what it refers to is a certificate, a \
                      key or a credential, which no upstream is told";
        refuse(at, reason, verdict);
        return None;
    }
    let template = read_template(text, at, verdict)?;
    let folded = [ClientFact::Cert, ClientFact::RawCert].map(Variable::Client);
    if template
        .variables()
        .any(|variable| folded.contains(variable))
    {
        let reason = "ssl_client_cert and ssl_client_raw_cert have line breaks: use \
                      ssl_client_escaped_cert";
        refuse(at, reason, verdict);
        return None;
    }
    Some(template)
}

fn read_template(text: &str, at: &str, verdict: &mut Verdict) -> Option<Template> {
    match Template::parse(text) {
        Ok(template) => Some(template),
        Err(error) if Variable::parse(&error.0).is_some() => {
            let shown = texts::shown(&error.0);
            let reason =
                format!("{shown} is of the request's body, which `vars` alone can ask for");
            refuse(at, &reason, verdict);
            None
        }
        Err(error) => {
            let known = texts::nearest(&error.0, Variable::names());
            let meant = known.map(|known| format!("; did you mean {known}?"));
            let shown = texts::shown(&error.0);
            let meant = meant.unwrap_or_default();
            let reason = format!("no request has a variable {shown}{meant}");
            refuse(at, &reason, verdict);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resource::fault::Faults;

    fn judged(config: &Value) -> (Plugins, Verdict) {
        let mut verdict = Verdict::default();
        let document = json!({"plugins": {"proxy-rewrite": config}});
        let plugins = read(document.as_object().unwrap(), &mut verdict);
        (plugins, verdict)
    }

    #[test]
    fn headers_are_read_in_both_forms() {
        let new = json!({"headers": {
            "set": {"X-DN": "$ssl_client_s_dn", "X-N": 7},
            "add": {"X-More": "a"},
            "remove": ["X-Gone"]
        }});
        let (plugins, verdict) = judged(&new);
        assert!(verdict.faults.is_empty(), "{:?}", verdict.faults);
        let headers = plugins.rewrite.unwrap();
        assert_eq!((headers.set.len(), headers.add.len()), (2, 1));
        assert_eq!(headers.set[0].0, "x-dn");
        assert_eq!(headers.remove, ["x-gone"]);
        let (plugins, verdict) = judged(&json!({"headers": {"X-Old": "a"}}));
        assert!(verdict.faults.is_empty());
        assert_eq!(plugins.rewrite.unwrap().set[0].0, "x-old");
        // Words of the newer form are names in the older one.
        let (plugins, verdict) = judged(&json!({"headers": {"set": "a", "X-Old": "b"}}));
        assert!(verdict.faults.is_empty(), "{:?}", verdict.faults);
        assert_eq!(plugins.rewrite.unwrap().set.len(), 2);
    }

    #[test]
    fn typo_is_told_in_the_words_of_apisix_with_what_was_meant_beside_them() {
        let (_, verdict) = judged(&json!({"header": {}}));
        let faults = Faults(verdict.faults);
        let words = "failed to check the configuration of plugin proxy-rewrite err: additional \
                     properties forbidden, found header";
        assert_eq!(faults.message(), words);
        let hint = faults.hint().unwrap();
        assert_eq!(hint, "found header, did you mean \"headers\"?");
        let (_, verdict) = judged(&json!({"quite": {}}));
        assert_eq!(Faults(verdict.faults).hint(), None);
    }

    #[test]
    fn schema_that_is_shown_takes_what_is_read_and_refuses_what_is_not() {
        for (name, _) in PRIORITIES {
            assert!(schema::plugin(name).is_some(), "{name}");
        }
        let shown = jsonschema::draft7::new(schema::plugin("proxy-rewrite").unwrap()).unwrap();
        for (config, is_good) in [
            (json!({}), false),
            (json!([]), false),
            (json!({"headers": {}}), false),
            (json!({"headers": {"X-Old": "a", "X-N": 7}}), true),
            (
                json!({"headers": {"set": {"a": "b"}, "remove": ["c"]}}),
                true,
            ),
            (json!({"headers": {"set": {"a": "b"}, "add": {}}}), false),
            (json!({"headers": {"remove": []}}), false),
            (json!(1), false),
            (json!({"uri": "/a", "headers": {}}), false),
            (json!({"uri": "/a", "headers": {"X-Old": "a"}}), true),
            (json!({"uri": "/a/$arg_b?c=${remote_addr}"}), true),
            (json!({"uri": ""}), false),
            (json!({"uri": "a"}), false),
            (json!({"uri": 1}), false),
            (json!({"uri": format!("/{}", "a".repeat(4095))}), true),
            (json!({"uri": format!("/{}", "a".repeat(4096))}), false),
            (json!({"method": "GET"}), false),
            (json!({"headers": []}), false),
            (json!({"headers": {"set": []}}), false),
            (json!({"headers": {"remove": {}}}), false),
            (json!({"headers": {"remove": [1]}}), false),
            (json!({"headers": {"set": {}, "X-A": "b"}}), false),
            (json!({"headers": {"X-A": true}}), false),
        ] {
            let is_read = judged(&config).1.faults.is_empty();
            assert_eq!(
                (shown.is_valid(&config), is_read),
                (is_good, is_good),
                "{config}"
            );
        }
    }

    #[test]
    fn what_apisix_refuses_is_refused_in_its_words() {
        const SHAPE: &str = "property \"headers\" validation failed: value should match only one \
                             schema, but matches none";
        for (config, reason, hint) in [
            (json!([]), "wrong type: expected object, got table", None),
            (
                json!({}),
                "expect object to have at least 1 properties",
                None,
            ),
            (
                json!({"headers": []}),
                SHAPE,
                Some("headers is an object with at least one header"),
            ),
            (
                json!({"headers": {}}),
                SHAPE,
                Some("headers is an object with at least one header"),
            ),
            (
                json!({"headers": {"set": []}}),
                SHAPE,
                Some("headers.set is an object of names and values"),
            ),
            (
                json!({"headers": {"set": {"a": "b"}, "add": {}}}),
                SHAPE,
                Some("headers.add is empty; leave it out"),
            ),
            (
                json!({"headers": {"remove": {"a": "b"}}}),
                SHAPE,
                Some("headers.remove is a list of names"),
            ),
            (
                json!({"headers": {"remove": []}}),
                SHAPE,
                Some("headers.remove is empty; leave it out"),
            ),
            (
                json!({"headers": {"set": {"a": "b"}, "X-A": "b"}}),
                SHAPE,
                Some(
                    "headers.X-A cannot stand beside add, set and remove; put it into one of them",
                ),
            ),
            (
                json!({"headers": {"X-A": true}}),
                SHAPE,
                Some("the value of header X-A is a text or a number"),
            ),
            (
                json!({"headers": {"X:A": true}}),
                "invalid type as header value",
                Some("at /plugins/proxy-rewrite/headers/X:A"),
            ),
            (
                json!({"headers": {"": "a"}}),
                "invalid field length in header",
                None,
            ),
            (
                json!({"headers": {"X:A": "a"}}),
                "invalid field character in header",
                Some("at /plugins/proxy-rewrite/headers/X:A"),
            ),
            (
                json!({"headers": {"set": {"X A": "a"}}}),
                "invalid field character in header",
                Some("at /plugins/proxy-rewrite/headers/set/X A"),
            ),
            (
                json!({"headers": {"X-A": "a\r\nb"}}),
                "invalid value character in header",
                Some("at /plugins/proxy-rewrite/headers/X-A"),
            ),
        ] {
            let faults = Faults(judged(&config).1.faults);
            let told = "failed to check the configuration of plugin proxy-rewrite err:";
            assert_eq!(faults.message(), format!("{told} {reason}"), "{config}");
            assert_eq!(faults.hint().as_deref(), hint, "{config}");
        }
        for (config, text) in [
            (
                json!("x"),
                "invalid plugin conf \"x\" for plugin [proxy-rewrite]",
            ),
            (json!(1), "invalid plugin conf 1 for plugin [proxy-rewrite]"),
            (
                json!(null),
                "invalid plugin conf null for plugin [proxy-rewrite]",
            ),
        ] {
            assert_eq!(Faults(judged(&config).1.faults).message(), text);
        }
        let long = judged(&json!("x".repeat(1000))).1.faults.remove(0);
        assert!(long.reason.len() < 200, "{}", long.reason);
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_its_place() {
        for (config, at, part) in [
            (
                json!({"method": "GET"}),
                "/method",
                "proxy-rewrite.method is not supported",
            ),
            (
                json!({"uri": "home"}),
                "/uri",
                r#"err: property "uri" validation failed: failed to match pattern "^\\/.*" with "home""#,
            ),
            (json!({"uri": "/a\r\nb"}), "/uri", "no control characters"),
            (json!({"uri": "/$arg"}), "/uri", "no request has a variable"),
            (
                json!({"uri": "/a?$argz"}),
                "/uri",
                "no request has a variable",
            ),
            (
                json!({"uri": "/$graphql_name"}),
                "/uri",
                "err: graphql_name is of the request's body, which `vars` alone can ask for",
            ),
            (
                json!({"headers": {"set": {"Host": "c"}}}),
                "/headers/set/Host",
                "pass_host",
            ),
            (
                json!({"headers": {"remove": ["CDN-Loop"]}}),
                "/headers/remove/0",
                "in circles",
            ),
            (
                json!({"headers": {"remove": ["Content-Length"]}}),
                "/headers/remove/0",
                "framed",
            ),
            (
                json!({"headers": {"X-A": "$env://TOKEN"}}),
                "/headers/X-A",
                "a reference cannot stand in a header",
            ),
            (
                json!({"headers": {"add": {"X-A": "$secret://vault/1/a/b"}}}),
                "/headers/add/X-A",
                "a reference cannot stand in a header",
            ),
            (
                json!({"headers": {"X-A": "$ssl_client_sdn"}}),
                "/headers/X-A",
                "did you mean ssl_client_s_dn?",
            ),
            (
                json!({"headers": {"X-A": "$ssl_client_cert"}}),
                "/headers/X-A",
                "use ssl_client_escaped_cert",
            ),
        ] {
            let (_, verdict) = judged(&config);
            assert_eq!(verdict.faults.len(), 1, "{config}: {:?}", verdict.faults);
            let fault = &verdict.faults[0];
            let place = fault.pointer.strip_prefix("/plugins/proxy-rewrite");
            assert_eq!(place, Some(at), "{config}");
            assert!(fault.reason.contains(part), "{}", fault.reason);
        }
        let many: Document = (0..=HEADERS_MAX)
            .map(|index| (format!("X-{index}"), json!("a")))
            .collect();
        let (_, verdict) = judged(&json!({"headers": many}));
        assert!(verdict.faults[0].reason.contains("more than 64 headers"));
    }
}
