//! `a6 probe`: handshakes that carry no request, and the verdict in a sentence.

use http::Method;
use serde_json::{Value, json};

use super::api::{self, Network};
use super::args::{Globals, Listener, ProbeVerb, Probed};
use super::failed::Failed;
use super::format::{Format, Shape};
use super::handshake::{self, Meeting, Verified};
use super::own;
use super::settings::{Settings, environment};
use super::usage::exactly_one;
use crate::cli::print;
use crate::failure::Reason;
use crate::net::dial::DialError;
use crate::net::http::Origin;
use crate::net::stream::Stream;
use crate::resource::{Kind, escaped};

/// Runs a verb; the text is for standard output.
///
/// # Errors
/// What server or handshake said; a verdict of refusal is one.
pub(super) fn run(verb: &ProbeVerb, globals: &Globals) -> Result<String, Failed> {
    match verb {
        ProbeVerb::Upstream(probed) => resource(Kind::Upstream, probed, globals),
        ProbeVerb::Service(probed) => resource(Kind::Service, probed, globals),
        ProbeVerb::Route(probed) => resource(Kind::Route, probed, globals),
        ProbeVerb::Listener(probe) => listener(probe, globals),
    }
}

/// The gateway shakes hands; this program may not reach what it reaches.
fn resource(kind: Kind, probed: &Probed, globals: &Globals) -> Result<String, Failed> {
    let format = Format::choose(globals.output.as_deref(), Shape::Text)?;
    let id = exactly_one(&probed.id)?;
    let mut path = format!("/portcullis/v1/probe/{}/{}", kind.plural(), api::escape(id));
    if let Some(host) = &probed.host {
        path.push_str(&format!("?host={}", api::escape(host)));
    }
    let settings = Settings::resolve(globals)?;
    let told = api::run(async |network| {
        let api = network.api(&settings, globals.verbose)?;
        // An object that is not there is told from a server that cannot probe.
        api.get(kind, id).await?;
        own::ask_over(&api, &Method::POST, &path).await
    })?;
    if told.get("good").and_then(Value::as_bool) == Some(true) {
        return Ok(format.show(&told, || sentences(&told)));
    }
    if format == Format::Text {
        return Err(sentences(&told).into());
    }
    print::out(format.show(&told, String::new).trim_end());
    Err(Failed::silent())
}

/// The verdict, and where there are several nodes, each one's.
fn sentences(told: &Value) -> String {
    let verdict = |value: &Value| {
        let text = value.get("verdict").and_then(Value::as_str);
        escaped(text.unwrap_or_default(), usize::MAX)
    };
    let nodes = told.get("nodes").and_then(Value::as_array);
    let nodes = nodes.map_or(&[][..], Vec::as_slice);
    let mut text = verdict(told);
    if nodes.len() > 1 {
        for node in nodes {
            text.push_str(&format!("\n- {}", verdict(node)));
        }
    }
    text
}

fn listener(probe: &Listener, globals: &Globals) -> Result<String, Failed> {
    let format = Format::choose(globals.output.as_deref(), Shape::Text)?;
    let name = exactly_one(&probe.sni)?;
    let origin = gateway(probe.gateway_url.as_deref(), globals)?;
    let trust = handshake::trust(&probe.identity, globals.insecure)?;
    let has_identity = trust.identity.is_some();
    let verdict =
        api::run(
            async |network| match handshake::meet(network, &origin, name, &trust).await? {
                Ok(met) => Ok(finish(network, met, name, has_identity).await),
                Err(error) => match refusal(error.reason, name) {
                    Some(sentence) => Ok(Verdict::refused(error.reason, &sentence)),
                    None => Err(handshake::failed(&origin, error)),
                },
            },
        )?;
    if verdict.is_served {
        return Ok(format.show(&verdict.to_json(), || verdict.sentence.clone()));
    }
    if format == Format::Text {
        return Err(verdict.sentence.into());
    }
    print::out(format.show(&verdict.to_json(), String::new).trim_end());
    Err(Failed::silent())
}

/// `--gateway-url`, else the environment, else port 9443 of the admin server.
fn gateway(given: Option<&str>, globals: &Globals) -> Result<Origin, Failed> {
    let given = given.map(str::to_owned);
    let origin = match given.or_else(|| environment("APISIX_GATEWAY_URL")) {
        Some(url) => api::origin(&url)?,
        None => {
            let server = Settings::resolve(globals)?.server.ok_or(
                "no gateway known; use --gateway-url, or a context whose server is on its host",
            )?;
            Origin {
                is_tls: true,
                port: 9443,
                path: String::new(),
                ..api::origin(&server)?
            }
        }
    };
    if origin.is_tls {
        Ok(origin)
    } else {
        Err("--gateway-url must be https:// here: a handshake is asked for".into())
    }
}

/// What came of a handshake.
struct Verdict {
    is_served: bool,
    sentence: String,
    reason: Option<Reason>,
    facts: Value,
}

impl Verdict {
    fn refused(reason: Reason, sentence: &str) -> Self {
        Self {
            is_served: false,
            sentence: sentence.to_owned(),
            reason: Some(reason),
            facts: Value::Null,
        }
    }

    fn to_json(&self) -> Value {
        json!({
            "served": self.is_served,
            "verdict": self.sentence,
            "reason": self.reason.map(Reason::code),
            "certificate": self.facts,
        })
    }
}

/// Waits for the server's last word, which in TLS 1.3 comes after the handshake (RFC 8446 §4.4.2.4).
async fn finish(network: &Network, met: Meeting, name: &str, has_identity: bool) -> Verdict {
    let Meeting {
        stream,
        served,
        verified,
        ..
    } = met;
    let facts = served.as_ref().and_then(|served| served.chain.first());
    let facts = facts.map_or(Value::Null, |leaf| handshake::facts(leaf, api::now()));
    let (asked, left) = match stream {
        Stream::Plain(_) => (false, Ok(())),
        Stream::Tls(mut tls) => {
            let left = network.take_leave(&mut tls, has_identity).await;
            (tls.certificate_was_asked(), left)
        }
    };
    if let Err(DialError { reason, detail }) = left {
        let sentence = refusal(reason, name);
        let sentence = sentence.unwrap_or_else(|| format!("{name} is refused: {detail}."));
        return Verdict {
            facts,
            ..Verdict::refused(reason, &sentence)
        };
    }
    let subject = facts.get("subject").and_then(Value::as_str);
    let until = facts.get("not_after").and_then(Value::as_str);
    let (version, cipher) = served.map_or(("", ""), |served| (served.version, served.cipher));
    let client = match (asked, has_identity) {
        (false, _) => "no client certificate is asked for",
        (true, true) => "the client certificate is accepted",
        (true, false) => "a client certificate is asked for, and not demanded in the handshake",
    };
    let sentence = format!(
        "{name} is served with {} until {} ({version}, {cipher}), {}; {client}.",
        subject.unwrap_or("a certificate that was not sent"),
        until.unwrap_or("-"),
        verified.words()
    );
    Verdict {
        is_served: !matches!(verified, Verified::No(_)),
        sentence,
        reason: None,
        facts,
    }
}

/// The sentence for a handshake that the gateway ended.
fn refusal(reason: Reason, name: &str) -> Option<String> {
    let why = if reason == Reason::UpstreamWantsClientCert {
        "it asks for a client certificate, and none was shown: --cert and --key"
    } else if reason == Reason::UpstreamRejectedOurCert {
        "the client certificate is not accepted: is it from the CA of the ssl's client.ca, and \
         valid now?"
    } else if reason == Reason::UpstreamSniRefused {
        "no ssl has this name, or the one that has it is closed"
    } else if reason == Reason::UpstreamTlsVersion || reason == Reason::UpstreamNoSharedCipher {
        "there is no TLS version or cipher that both sides speak"
    } else if reason == Reason::UpstreamSpeaksPlaintext {
        "what answers there does not speak TLS"
    } else {
        return None;
    };
    let end = if why.ends_with('?') { "" } else { "." };
    Some(format!("{name} is refused: {why}{end}"))
}
