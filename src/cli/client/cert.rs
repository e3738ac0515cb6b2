//! `a6 cert`: every certificate that the server's resources hold, and any other one.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use super::api;
use super::args::{CertVerb, Expiring, Globals, Inspect};
use super::envelope::{Item, id_text};
use super::failed::Failed;
use super::format::{Format, Shape};
use super::handshake::{self, days_left};
use super::settings::Settings;
use super::table::{self, day, snis, text};
use super::terminal::{Colour, paint};
use super::usage::exactly_one;
use crate::crypto::digest::Sha256;
use crate::net::http::Origin;
use crate::resource::{Kind, escaped, is_reference};
use crate::telemetry::time::parse_seconds;
use crate::tls::material::{self, CaBundle, PrivateKey};

/// Days left from which on a row is yellow.
const SOON: i64 = 30;

/// Runs a verb; the text is for standard output.
///
/// # Errors
/// What server, file or handshake said.
pub(super) fn run(verb: &CertVerb, globals: &Globals) -> Result<String, Failed> {
    match verb {
        CertVerb::List => {
            let format = Format::choose(globals.output.as_deref(), Shape::List)?;
            Ok(list(&Site::read(globals)?.certificates(api::now()), format))
        }
        CertVerb::Expiring(expiring) => expiring_before(expiring, globals),
        CertVerb::Inspect(inspect) => self::inspect(inspect, globals),
    }
}

/// All resources of a server that hold or use certificates.
struct Site(Vec<(Kind, Item)>);

/// A certificate of a resource.
#[derive(Clone, Debug)]
struct Held {
    /// E.g. `ssl/mtls-domain`.
    resource: String,
    /// E.g. `client.ca`.
    member: String,
    subject: String,
    not_after: i64,
    days_left: i64,
    /// What ends with it.
    breaks: String,
}

impl Site {
    fn read(globals: &Globals) -> Result<Self, Failed> {
        let settings = Settings::resolve(globals)?;
        api::run(async |network| {
            let api = network.api(&settings, globals.verbose)?;
            let mut all = Vec::new();
            for kind in [Kind::Ssl, Kind::Upstream, Kind::Service, Kind::Route] {
                let items = api.all(kind, &[]).await?;
                all.extend(items.into_iter().map(|item| (kind, item)));
            }
            Ok(Self(all))
        })
    }

    /// Every certificate, the one that ends first in front.
    fn certificates(&self, now: i64) -> Vec<Held> {
        let mut all = Vec::new();
        for (kind, item) in &self.0 {
            match kind {
                Kind::Ssl => self.of_ssl(item, now, &mut all),
                Kind::Upstream => self.of_tls(*kind, item, &item.value, now, &mut all),
                Kind::Service | Kind::Route => {
                    if let Some(upstream) = item.value.get("upstream") {
                        self.of_tls(*kind, item, upstream, now, &mut all);
                    }
                }
                Kind::Secret => {}
            }
        }
        all.sort_by(|a, b| (a.not_after, &a.resource).cmp(&(b.not_after, &b.resource)));
        all
    }

    fn of_ssl(&self, item: &Item, now: i64, all: &mut Vec<Held>) {
        let names = snis(&item.value).join(", ");
        let is_client = text(&item.value, "type") == Some("client");
        let own = if is_client {
            format!(
                "upstreams that ask for a certificate refuse {}",
                self.users_of(&item.id)
            )
        } else {
            format!("clients refuse {names}")
        };
        let resource = format!("ssl/{}", item.id);
        let mut add = |member: &str, pem: &str, breaks: &str| {
            hold(&resource, member, pem, breaks, now, all);
        };
        if let Some(pem) = text(&item.value, "cert") {
            add("cert", pem, &own);
        }
        let more = item.value.get("certs").and_then(Value::as_array);
        for (position, pem) in more.into_iter().flatten().enumerate() {
            add(
                &format!("certs[{position}]"),
                pem.as_str().unwrap_or_default(),
                &own,
            );
        }
        if let Some(pem) = item
            .value
            .get("client")
            .and_then(|client| text(client, "ca"))
        {
            let breaks = format!("clients of this CA are refused at {names}");
            add("client.ca", pem, &breaks);
        }
    }

    fn of_tls(&self, kind: Kind, item: &Item, upstream: &Value, now: i64, all: &mut Vec<Held>) {
        let Some(tls) = upstream.get("tls") else {
            return;
        };
        let routes = self.routes_through(kind, &item.id);
        let resource = format!("{kind}/{}", item.id);
        if let Some(pem) = text(tls, "client_cert") {
            let breaks = format!("the upstream refuses the gateway: 502 on {routes}");
            hold(&resource, "tls.client_cert", pem, &breaks, now, all);
        }
        let trusted = tls.get("ca_certs").and_then(Value::as_array);
        for (position, pem) in trusted.into_iter().flatten().enumerate() {
            let member = format!("tls.ca_certs[{position}]");
            let breaks = format!("the gateway refuses the upstream: 502 on {routes}");
            hold(
                &resource,
                &member,
                pem.as_str().unwrap_or_default(),
                &breaks,
                now,
                all,
            );
        }
    }

    /// The routes that a resource serves, in words.
    fn routes_through(&self, kind: Kind, id: &str) -> String {
        let refers = |item: &Item, member: &str, id: &str| {
            item.value.get(member).and_then(id_text).as_deref() == Some(id)
        };
        let of = |wanted: Kind| self.0.iter().filter(move |(kind, _)| *kind == wanted);
        let mut routes = BTreeSet::new();
        match kind {
            Kind::Route => {
                routes.insert(id.to_owned());
            }
            Kind::Service => {
                let using = of(Kind::Route).filter(|(_, route)| refers(route, "service_id", id));
                routes.extend(using.map(|(_, route)| route.id.clone()));
            }
            Kind::Upstream => {
                let services: Vec<&str> = of(Kind::Service)
                    .filter(|(_, service)| refers(service, "upstream_id", id))
                    .map(|(_, service)| service.id.as_str())
                    .collect();
                let using = of(Kind::Route).filter(|(_, route)| {
                    refers(route, "upstream_id", id)
                        || services
                            .iter()
                            .any(|service| refers(route, "service_id", service))
                });
                routes.extend(using.map(|(_, route)| route.id.clone()));
            }
            Kind::Ssl | Kind::Secret => {}
        }
        listed("route", routes)
    }

    /// The upstreams that show an ssl of type client, in words.
    fn users_of(&self, id: &str) -> String {
        let mut users = BTreeSet::new();
        for (kind, item) in &self.0 {
            let upstream = match kind {
                Kind::Upstream => Some(&item.value),
                Kind::Service | Kind::Route => item.value.get("upstream"),
                Kind::Ssl | Kind::Secret => None,
            };
            let used = upstream.and_then(|it| it.get("tls")?.get("client_cert_id"));
            if used.and_then(id_text).as_deref() == Some(id) {
                users.insert(format!("{kind}/{}", item.id));
            }
        }
        listed("the gateway's", users)
    }
}

fn listed(what: &str, names: BTreeSet<String>) -> String {
    if names.is_empty() {
        return format!("no {what}");
    }
    let names: Vec<String> = names.into_iter().collect();
    format!("{what} {}", names.join(", "))
}

/// Adds each certificate of a PEM text; a reference's are not known here.
fn hold(resource: &str, member: &str, pem: &str, breaks: &str, now: i64, all: &mut Vec<Held>) {
    if is_reference(pem) {
        return;
    }
    let Ok(bundle) = CaBundle::parse(pem) else {
        return;
    };
    for (position, certificate) in bundle.certificates.iter().enumerate() {
        let Ok((_, not_after)) = material::validity(certificate) else {
            continue;
        };
        let member = if position == 0 {
            member.to_owned()
        } else {
            format!("{member} #{}", position + 1)
        };
        all.push(Held {
            resource: resource.to_owned(),
            member,
            subject: material::subject(certificate),
            not_after,
            days_left: days_left(not_after, now),
            breaks: breaks.to_owned(),
        });
    }
}

fn to_json(held: &Held) -> Value {
    json!({
        "resource": held.resource,
        "member": held.member,
        "subject": held.subject,
        "not_after": day(held.not_after),
        "days_left": held.days_left,
        "breaks": held.breaks,
    })
}

fn list(all: &[Held], format: Format) -> String {
    let values: Value = all.iter().map(to_json).collect();
    format.show(&values, || {
        if all.is_empty() {
            return "No certificates found.".to_owned();
        }
        let rows: Vec<Vec<String>> = all
            .iter()
            .map(|held| {
                vec![
                    held.resource.clone(),
                    held.member.clone(),
                    held.subject.clone(),
                    day(held.not_after),
                    held.days_left.to_string(),
                ]
            })
            .collect();
        let table = table::lay_out(&["RESOURCE", "MEMBER", "SUBJECT", "EXPIRES", "DAYS"], &rows);
        colour(&table, all)
    })
}

/// The rows of a table, by the days that each has left.
fn colour(table: &str, all: &[Held]) -> String {
    let mut lines = table.lines();
    let heading = lines.next().unwrap_or_default().to_owned();
    let rows = lines.zip(all).map(|(line, held)| match held.days_left {
        ..0 => paint(Colour::Red, line),
        days if days < SOON => paint(Colour::Yellow, line),
        _ => line.to_owned(),
    });
    let all: Vec<String> = std::iter::once(heading).chain(rows).collect();
    all.join("\n")
}

fn expiring_before(expiring: &Expiring, globals: &Globals) -> Result<String, Failed> {
    let format = Format::choose(globals.output.as_deref(), Shape::List)?;
    let now = api::now();
    let limit = match &expiring.before {
        None => now + i64::from(expiring.days) * 86_400,
        Some(date) => parse_seconds(date)
            .filter(|_| !date.contains('T'))
            .ok_or_else(|| Failed::new(format!("{date:?} is no date; write it as YYYY-MM-DD")))?,
    };
    let mut all = Site::read(globals)?.certificates(now);
    all.retain(|held| held.not_after < limit);
    let values: Value = all.iter().map(to_json).collect();
    Ok(format.show(&values, || {
        if all.is_empty() {
            return format!("No certificate ends before {}.", day(limit));
        }
        let lines = all.iter().map(|held| {
            let (word, colour) = if held.days_left < 0 {
                ("ended", Colour::Red)
            } else {
                ("ends", Colour::Yellow)
            };
            format!(
                "{} {} ({}) {word} on {}: {}",
                paint(colour, &escaped(&held.resource, usize::MAX)),
                held.member,
                escaped(&held.subject, usize::MAX),
                day(held.not_after),
                escaped(&held.breaks, usize::MAX)
            )
        });
        lines.collect::<Vec<_>>().join("\n")
    }))
}

fn inspect(inspect: &Inspect, globals: &Globals) -> Result<String, Failed> {
    let format = Format::choose(globals.output.as_deref(), Shape::Text)?;
    let target = exactly_one(&inspect.target)?;
    let value = if target == "-" || Path::new(target).exists() {
        of_text(&super::input::pem(target)?, target)?
    } else {
        let origin = server(target)?;
        api::run(async |network| {
            let trust = handshake::trust(&inspect.identity, globals.insecure)?;
            let name = inspect.sni.as_deref().unwrap_or(&origin.host);
            let met = handshake::meet(network, &origin, name, &trust).await?;
            let met = met.map_err(|error| handshake::failed(&origin, error))?;
            let served = met.served.ok_or("it does not speak TLS")?;
            let now = api::now();
            let chain = served.chain.iter().map(|cert| handshake::facts(cert, now));
            Ok(json!({
                "version": served.version,
                "cipher": served.cipher,
                "verification": met.verified.words(),
                "certificates": chain.collect::<Value>(),
            }))
        })?
    };
    Ok(format.show(&value, || described(&value)))
}

/// `host:port`.
fn server(target: &str) -> Result<Origin, Failed> {
    let is_address = target.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if !is_address || target.contains('/') {
        return Err(Failed::new(format!(
            "{target:?} is neither a file here nor host:port"
        )));
    }
    api::origin(&format!("https://{target}"))
}

/// The certificates of a PEM text, and whether the keys in it belong to the first.
fn of_text(pem: &str, name: &str) -> Result<Value, Failed> {
    let wrong = |error: &dyn std::fmt::Display| Failed::new(format!("{name}: {error}"));
    let now = api::now();
    if !pem.contains("CERTIFICATE-----") && pem.contains("PRIVATE KEY-----") {
        let key = PrivateKey::parse(pem).map_err(|error| wrong(&error))?;
        let digest = key.public_digest().map_err(|error| wrong(&error))?;
        return Ok(json!({
            "key": format!("{key:?}"),
            "public_sha256": Sha256::from_bytes(digest).to_string(),
        }));
    }
    let bundle = CaBundle::parse(pem).map_err(|error| wrong(&error))?;
    let chain = bundle.certificates.iter();
    let chain: Value = chain.map(|cert| handshake::facts(cert, now)).collect();
    Ok(json!({ "certificates": chain }))
}

fn described(value: &Value) -> String {
    let mut text = String::new();
    let member = |name: &str| value.get(name).and_then(Value::as_str);
    for (name, title) in [
        ("version", "TLS:      "),
        ("verification", "Trust:    "),
        ("key", "Key:      "),
        ("public_sha256", "Public:   "),
    ] {
        if let Some(found) = member(name) {
            let cipher = member("cipher").filter(|_| name == "version");
            let cipher = cipher.map_or_else(String::new, |cipher| format!(", {cipher}"));
            text.push_str(&format!("{title}{found}{cipher}\n"));
        }
    }
    let chain = value.get("certificates").and_then(Value::as_array);
    for facts in chain.into_iter().flatten() {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&handshake::lines(facts));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::tls::sample;

    #[test]
    fn what_ends_with_a_certificate_is_named() {
        let ca = sample::ca("ca");
        let pem = sample::leaf(&ca, "leaf", &["a.test"]).cert;
        let item = |kind: Kind, id: &str, value: Value| {
            let id = id.to_owned();
            (kind, Item { id, value })
        };
        let site = Site(vec![
            item(
                Kind::Ssl,
                "s",
                json!({"cert": pem, "snis": ["a.test"], "client": {"ca": format!("{}{}", ca.cert, pem)}}),
            ),
            item(
                Kind::Upstream,
                "u",
                json!({"tls": {"client_cert": pem, "ca_certs": [ca.cert]}}),
            ),
            item(Kind::Service, "v", json!({"upstream_id": "u"})),
            item(Kind::Route, "r1", json!({"service_id": "v"})),
            item(Kind::Route, "r2", json!({"upstream_id": "u"})),
            item(
                Kind::Route,
                "r3",
                json!({"upstream": {"tls": {"client_cert": "$secret://vault/1/a"}}}),
            ),
        ]);
        let all = site.certificates(sample::NOW);
        let told: Vec<String> = all
            .iter()
            .map(|held| format!("{} {}: {}", held.resource, held.member, held.breaks))
            .collect();
        assert_eq!(
            told,
            [
                "ssl/s cert: clients refuse a.test",
                "ssl/s client.ca: clients of this CA are refused at a.test",
                "ssl/s client.ca #2: clients of this CA are refused at a.test",
                "upstream/u tls.client_cert: the upstream refuses the gateway: 502 on route r1, r2",
                "upstream/u tls.ca_certs[0]: the gateway refuses the upstream: 502 on route r1, r2",
            ]
        );
        assert!(all.iter().all(|held| held.days_left == 20 * 365));
    }

    #[test]
    fn targets_are_host_and_port() {
        assert_eq!(server("a.test:443").unwrap().port, 443);
        assert_eq!(server("[::1]:7443").unwrap().host, "::1");
        for target in ["a.test", "no.pem", ":443", "http://a:1", "a:0"] {
            assert!(server(target).is_err(), "{target}");
        }
    }
}
