//! `a6 debug trace`: one request through the gateway by a route, and what became of it.

use std::time::Instant;

use bytes::Bytes;
use http::header::{HOST, HeaderName, HeaderValue};
use http::{Method, Request};
use serde_json::{Map, Value, json};

use super::api::{self, Network, Trust};
use super::args::{Globals, Trace};
use super::failed::Failed;
use super::format::{Format, Shape};
use super::handshake::{self, Verified};
use super::resources::control;
use super::settings::{Settings, environment};
use super::table::{self, text};
use super::usage::at_most_one;
use crate::net::http::{Answer, HttpError, Limits, Origin};
use crate::resource::{Kind, escaped};

/// How long the gateway has.
const LIMITS: Limits = Limits {
    connect: std::time::Duration::from_secs(15),
    answer: std::time::Duration::from_secs(15),
    body_bytes: 64 * 1024 * 1024,
};

/// Traces a route; the text is for standard output.
///
/// # Errors
/// No such route, no gateway; an answer of any status is none.
pub(super) fn run(trace: &Trace, globals: &Globals) -> Result<String, Failed> {
    let format = Format::choose(globals.output.as_deref(), Shape::List)?;
    let id = at_most_one(&trace.id)?
        .ok_or("id argument is required (or run interactively in a terminal)")?;
    let settings = Settings::resolve(globals)?;
    let report = api::run(async |network| {
        let api = network.api(&settings, globals.verbose)?;
        let route = api.get(Kind::Route, id).await?;
        let gateway = gateway(trace, api.origin())?;
        let control = control(&api, trace.control_url.as_deref())?;
        let priorities = priorities(network, control, &settings).await;
        let plan = Plan::new(trace, &route, &gateway)?;
        let trust = handshake::trust(&trace.identity, globals.insecure)?;
        let mut report = plan.send(network, &gateway, &trust).await?;
        let plugins = route.get("plugins").and_then(Value::as_object);
        let plugins: Value = plugins
            .into_iter()
            .flat_map(Map::keys)
            .map(|name| json!({"name": name, "priority": priority(&priorities, name)}))
            .collect();
        if let Value::Object(members) = &mut report {
            members.shift_insert(0, "route".to_owned(), described(&route));
            members.insert("configured_plugins".to_owned(), plugins);
        }
        Ok(report)
    })?;
    Ok(format.show(&report, || lines(&report)))
}

/// `--gateway-url`, else the environment, else port 9080 of the admin server.
fn gateway(trace: &Trace, admin: &Origin) -> Result<Origin, Failed> {
    let given = trace.gateway_url.clone();
    match given.or_else(|| environment("APISIX_GATEWAY_URL")) {
        Some(url) => api::origin(&url),
        None => Ok(Origin {
            is_tls: false,
            host: admin.host.clone(),
            port: 9080,
            path: String::new(),
        }),
    }
}

/// What the control API says of plugins; nothing where there is none.
async fn priorities(network: &Network, control: Origin, settings: &Settings) -> Value {
    let trust = Trust::of(settings);
    match trust.and_then(|trust| network.client(control, None, &trust, LIMITS)) {
        Ok(client) => api::fetch(&client, "/v1/schema").await.unwrap_or_default(),
        Err(_none) => Value::Null,
    }
}

fn priority(schema: &Value, plugin: &str) -> Value {
    let found = schema.get("plugins").and_then(|all| all.get(plugin));
    let found = found.and_then(|plugin| plugin.get("priority"));
    found.cloned().unwrap_or(Value::Null)
}

fn described(route: &Value) -> Value {
    let member = |name: &str| route.get(name).cloned();
    let list = |one: &str, many: &str| {
        member(many).or_else(|| member(one).map(|one| Value::Array(vec![one])))
    };
    let upstream = member("upstream_id")
        .or_else(|| member("service_id"))
        .or_else(|| route.get("upstream").map(|it| table::nodes(it).into()));
    let plugins = route.get("plugins").and_then(Value::as_object);
    let plugins: Vec<&String> = plugins.into_iter().flat_map(Map::keys).collect();
    json!({
        "id": member("id"),
        "uri": member("uri").or_else(|| member("uris")).or_else(|| member("paths")),
        "methods": member("methods").unwrap_or_else(|| json!([])),
        "hosts": list("host", "hosts").unwrap_or_else(|| json!([])),
        "upstream": upstream,
        "plugins": plugins,
    })
}

/// The request to send.
struct Plan {
    request: Request<Bytes>,
    /// The server name of the handshake.
    name: String,
    shown: Value,
}

impl Plan {
    fn new(trace: &Trace, route: &Value, gateway: &Origin) -> Result<Self, Failed> {
        let first = |many: &str| {
            let list = route.get(many).and_then(Value::as_array);
            list.and_then(|list| list.first()).and_then(Value::as_str)
        };
        let method = trace.method.as_deref().or_else(|| first("methods"));
        let method: Method = method
            .unwrap_or("GET")
            .to_uppercase()
            .parse()
            .map_err(|_invalid| "the method is no HTTP method")?;
        let path = trace.path.as_deref().or_else(|| text(route, "uri"));
        let path = path.or_else(|| first("uris")).or_else(|| first("paths"));
        // What a pattern leaves open may be nothing.
        let path = path.unwrap_or("/").split('*').next().unwrap_or("/");
        let host = trace.host.as_deref().or_else(|| text(route, "host"));
        let host = host.or_else(|| first("hosts"));
        let mut request = Request::builder().method(method.clone()).uri(path);
        let mut headers = Map::new();
        if let Some(host) = host {
            request = request.header(HOST, host);
            headers.insert("Host".to_owned(), host.into());
        }
        for field in &trace.header {
            let (name, value) = field.split_once(':').ok_or_else(|| {
                Failed::new(format!("{field:?} is no header field: write 'K: V'"))
            })?;
            let (name, value) = (name.trim(), value.trim());
            let wrong = || Failed::new(format!("{field:?} is no header field"));
            let parsed: HeaderName = name.parse().map_err(|_invalid| wrong())?;
            let checked = HeaderValue::from_str(value).map_err(|_invalid| wrong())?;
            request = request.header(parsed, checked);
            headers.insert(name.to_owned(), value.into());
        }
        let body = trace.body.clone().unwrap_or_default();
        let request = request
            .body(body.into())
            .map_err(|error| Failed::new(format!("the request cannot be written: {error}")))?;
        Ok(Self {
            request,
            name: host.map_or_else(|| gateway.host.clone(), without_port),
            shown: json!({"method": method.as_str(), "url": format!("{gateway}{path}"), "headers": headers}),
        })
    }

    async fn send(
        self,
        network: &Network,
        gateway: &Origin,
        trust: &Trust<'_>,
    ) -> Result<Value, Failed> {
        let failed = |error: &HttpError| {
            let words = api::unreachable(gateway, error, api::GATEWAY);
            Failed::new(format!("failed to send test request to gateway: {words}"))
        };
        let began = Instant::now();
        let met = handshake::meet(network, gateway, &self.name, trust).await?;
        let met = met.map_err(|error| failed(&HttpError::Dial(error)))?;
        let tls = met.served.as_ref().map(|served| {
            let leaf = served.chain.first();
            json!({
                "version": served.version,
                "cipher": served.cipher,
                "sni": self.name,
                "certificate": leaf.map(|leaf| handshake::facts(leaf, api::now())),
                "verification": met.verified.words(),
            })
        });
        if let Verified::No(why) = &met.verified {
            let leaf = met.served.as_ref().and_then(|served| served.chain.first());
            let shown = leaf.map_or_else(String::new, |leaf| handshake::brief(leaf));
            return Err(Failed::new(format!(
                "failed to send test request to gateway: its certificate {shown} is not trusted \
                 ({why}), so nothing was sent; name its CA with --cacert, or use --insecure"
            )));
        }
        let answer = met.client.send_over(met.stream, self.request).await;
        let answer = answer.map_err(|error| failed(&error))?;
        let mut report = Map::new();
        report.insert("request".to_owned(), self.shown);
        report.extend(tls.map(|tls| ("tls".to_owned(), tls)));
        report.insert(
            "response".to_owned(),
            response(&answer, began.elapsed().as_millis()),
        );
        Ok(Value::Object(report))
    }
}

fn without_port(host: &str) -> String {
    match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name.to_owned(),
        _ => host.to_owned(),
    }
}

fn response(answer: &Answer, millis: u128) -> Value {
    let field = |name: &str| {
        let value = answer.headers.get(name)?;
        value.to_str().ok().map(str::to_owned)
    };
    let status = answer.status;
    let executed = field("apisix-plugins").unwrap_or_default();
    let executed: Vec<&str> = executed
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    json!({
        "status": status.as_u16(),
        "status_text": status.canonical_reason().unwrap_or_default(),
        "duration_ms": u64::try_from(millis).unwrap_or(u64::MAX),
        "upstream_status": field("x-apisix-upstream-status"),
        "executed_plugins": executed,
    })
}

fn lines(report: &Value) -> String {
    let at = |pointer: &str| report.pointer(pointer).unwrap_or(&Value::Null);
    let words = |pointer: &str| match at(pointer) {
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            let texts = list.iter().filter_map(Value::as_str);
            texts.collect::<Vec<_>>().join(", ")
        }
        Value::Null => String::new(),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Object(_)) => other.to_string(),
    };
    let mut text = String::new();
    let mut add = |name: &str, value: &str| {
        let value = escaped(value, usize::MAX);
        text.push_str(&format!("{name:<10} {value}\n"));
    };
    add(
        "Route:",
        &format!("{} ({})", words("/route/id"), words("/route/uri")),
    );
    add("Methods:", &words("/route/methods"));
    add("Hosts:", &words("/route/hosts"));
    add("Upstream:", &words("/route/upstream"));
    add(
        "Request:",
        &format!("{} {}", words("/request/method"), words("/request/url")),
    );
    if report.get("tls").is_some() {
        add(
            "TLS:",
            &format!("{}, {}", words("/tls/version"), words("/tls/cipher")),
        );
        let served = format!(
            "{}, serial {}, until {}",
            words("/tls/certificate/subject"),
            words("/tls/certificate/serial"),
            words("/tls/certificate/not_after")
        );
        add("Served:", &served);
        add("Trust:", &words("/tls/verification"));
    }
    let status = format!(
        "{} {}",
        words("/response/status"),
        words("/response/status_text")
    );
    add("Status:", &status);
    add(
        "Duration:",
        &format!("{} ms", words("/response/duration_ms")),
    );
    let plugins = at("/configured_plugins").as_array();
    let executed = words("/response/executed_plugins");
    let rows: Vec<Vec<String>> = plugins
        .into_iter()
        .flatten()
        .map(|plugin| {
            let name = plugin
                .get("name")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let priority = plugin.get("priority").filter(|it| !it.is_null());
            let is_executed = executed.split(", ").any(|it| it == name);
            vec![
                name.to_owned(),
                priority.map_or_else(|| "-".to_owned(), Value::to_string),
                if is_executed { "yes" } else { "" }.to_owned(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        text.push('\n');
        text.push_str(&table::lay_out(&["PLUGIN", "PRIORITY", "EXECUTED"], &rows));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_server_do_nothing_to_a_terminal() {
        let report = json!({
            "route": {"id": "r", "uri": "/\u{1b}[2J", "hosts": ["a\u{9b}m"]},
            "tls": {"certificate": {"subject": "CN=\u{1b}]0;x\u{7}"}},
        });
        let text = lines(&report);
        assert!(!text.contains(['\u{1b}', '\u{9b}', '\u{7}']), "{text:?}");
        assert!(text.contains("Route:     r (/\\u{1b}[2J)\n"), "{text}");
    }
}
