//! The `plugins` of routes and services: which are known, and what they ask for.
//!
//! One is: `proxy-rewrite`, of which `headers` is served. All else is refused, so that nothing
//! that an operator asked for is left undone.

use http::HeaderName;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use serde_json::Value;

use super::fault::Verdict;
use super::{Document, members, texts};
use crate::matching::template::Template;
use crate::matching::variable::{ClientFact, Variable};

/// The plugins of a route or a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plugins {
    /// `proxy-rewrite.headers`; `None` where the plugin is not there.
    pub headers: Option<HeaderRewrite>,
}

/// What a request's headers become on their way to an upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderRewrite {
    /// `add`: lines beside those that are there.
    pub add: Vec<(HeaderName, Template)>,
    /// `set`: in the place of those that are there. One that comes out empty is left out.
    pub set: Vec<(HeaderName, Template)>,
    /// `remove`.
    pub remove: Vec<HeaderName>,
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
        match name.as_str() {
            "proxy-rewrite" => plugins.headers = read_proxy_rewrite(config, &at, verdict),
            _ => verdict.refuse_as_apisix(at, format!("unknown plugin [{}]", texts::shown(name))),
        }
    }
    plugins
}

fn refuse(at: &str, reason: &str, verdict: &mut Verdict) {
    let text = format!("failed to check the configuration of plugin proxy-rewrite err: {reason}");
    verdict.refuse_as_apisix(at, text);
}

fn read_proxy_rewrite(config: &Value, at: &str, verdict: &mut Verdict) -> Option<HeaderRewrite> {
    let Some(config) = config.as_object() else {
        refuse(at, "wrong type: expected object", verdict);
        return None;
    };
    for member in config.keys().filter(|member| *member != "headers") {
        let at = texts::join(at, member);
        if MEMBERS.contains(&member.as_str()) || member == "_meta" {
            verdict.refuse_unsupported(at, &format!("proxy-rewrite.{member}"));
        } else {
            let shown = texts::shown(member);
            let known = texts::nearest(member, MEMBERS);
            let meant = known.map(|known| format!("; did you mean {known}?"));
            let meant = meant.unwrap_or_default();
            let reason = format!("additional properties forbidden, found {shown}{meant}");
            refuse(&at, &reason, verdict);
        }
    }
    let Some(headers) = config.get("headers") else {
        return Some(HeaderRewrite::default());
    };
    let at = texts::join(at, "headers");
    let Some(headers) = headers.as_object() else {
        refuse(&at, "headers is an object", verdict);
        return None;
    };
    let mut rewrite = HeaderRewrite::default();
    // Without one of the three words, all of it is set: APISIX's older form.
    let words = ["add", "set", "remove"];
    if !headers.keys().any(|key| words.contains(&key.as_str())) {
        rewrite.set = read_lines(headers, &at, verdict);
    } else {
        for (word, value) in headers {
            let at = texts::join(&at, word);
            match (word.as_str(), value) {
                ("add", Value::Object(lines)) => rewrite.add = read_lines(lines, &at, verdict),
                ("set", Value::Object(lines)) => rewrite.set = read_lines(lines, &at, verdict),
                ("remove", Value::Array(names)) => {
                    rewrite.remove = read_names(names, &at, verdict);
                }
                ("add" | "set", _) => refuse(&at, "an object is needed", verdict),
                ("remove", _) => refuse(&at, "a list of names is needed", verdict),
                _ => refuse(&at, "beside add, set and remove nothing can stand", verdict),
            }
        }
    }
    if rewrite.add.len() + rewrite.set.len() + rewrite.remove.len() > HEADERS_MAX {
        let reason = format!("more than {HEADERS_MAX} headers");
        refuse(&at, &reason, verdict);
    }
    Some(rewrite)
}

fn read_lines(lines: &Document, at: &str, verdict: &mut Verdict) -> Vec<(HeaderName, Template)> {
    let mut read = Vec::new();
    for (name, value) in lines {
        let at = texts::join(at, name);
        let name = read_name(name, &at, verdict);
        let value = read_value(value, &at, verdict);
        read.extend(name.zip(value));
    }
    read
}

fn read_names(names: &[Value], at: &str, verdict: &mut Verdict) -> Vec<HeaderName> {
    let mut read = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let at = format!("{at}/{index}");
        match name.as_str() {
            Some(name) => read.extend(read_name(name, &at, verdict)),
            None => refuse(&at, "a header's name is a text", verdict),
        }
    }
    read
}

fn read_name(name: &str, at: &str, verdict: &mut Verdict) -> Option<HeaderName> {
    let Ok(header) = name.parse::<HeaderName>() else {
        let reason = format!("{} is no header's name", texts::shown(name));
        refuse(at, &reason, verdict);
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

fn read_value(value: &Value, at: &str, verdict: &mut Verdict) -> Option<Template> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
            refuse(at, "a header's value is a text or a number", verdict);
            return None;
        }
    };
    if text
        .bytes()
        .any(|byte| byte.is_ascii_control() && byte != b'\t')
    {
        refuse(at, "a header's value has no line breaks", verdict);
        return None;
    }
    match Template::parse(&text) {
        Ok(template) => {
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
    use crate::resource::schema;

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
        let headers = plugins.headers.unwrap();
        assert_eq!((headers.set.len(), headers.add.len()), (2, 1));
        assert_eq!(headers.set[0].0, "x-dn");
        assert_eq!(headers.remove, ["x-gone"]);
        let (plugins, verdict) = judged(&json!({"headers": {"X-Old": "a"}}));
        assert!(verdict.faults.is_empty());
        assert_eq!(plugins.headers.unwrap().set[0].0, "x-old");
        assert_eq!(judged(&json!({})).0.headers, Some(HeaderRewrite::default()));
    }

    #[test]
    fn schema_that_is_shown_takes_what_is_read_and_refuses_what_is_not() {
        for (name, _) in PRIORITIES {
            assert!(schema::plugin(name).is_some(), "{name}");
        }
        let shown = jsonschema::draft7::new(schema::plugin("proxy-rewrite").unwrap()).unwrap();
        for (config, is_good) in [
            (json!({}), true),
            (json!({"headers": {"X-Old": "a", "X-N": 7}}), true),
            (
                json!({"headers": {"set": {"a": "b"}, "add": {}, "remove": ["c"]}}),
                true,
            ),
            (json!(1), false),
            (json!({"uri": "/a"}), false),
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
    fn what_cannot_be_done_is_refused_with_its_place() {
        for (config, at, part) in [
            (json!(1), "", "expected object"),
            (
                json!({"uri": "/a"}),
                "/uri",
                "proxy-rewrite.uri is not supported",
            ),
            (json!({"header": {}}), "/header", "did you mean headers?"),
            (json!({"headers": []}), "/headers", "an object"),
            (json!({"headers": {"set": []}}), "/headers/set", "an object"),
            (
                json!({"headers": {"remove": {}}}),
                "/headers/remove",
                "a list",
            ),
            (
                json!({"headers": {"set": {}, "X-A": "b"}}),
                "/headers/X-A",
                "nothing can stand",
            ),
            (
                json!({"headers": {"set": {"a b": "c"}}}),
                "/headers/set/a b",
                "no header's name",
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
                json!({"headers": {"X-A": true}}),
                "/headers/X-A",
                "a text or a number",
            ),
            (
                json!({"headers": {"X-A": "a\r\nb"}}),
                "/headers/X-A",
                "line breaks",
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
