//! What the variables of rules stand for in a request.
//!
//! Everything is read when it is asked for. What says who the client is comes from the certificate
//! that the connection is pinned to, never from a header: those that claim an identity are absent,
//! and the forwarded ones are what we observed.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::sync::OnceLock;

use http::header::{
    CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue,
};
use http::{Method, Version};

use crate::matching::content::Content;
use crate::matching::content::graphql::Operation;
use crate::matching::path::unescape;
use crate::matching::route::Parameters;
use crate::matching::variable::{
    ClientFact, Fact, GraphqlFact, Memo, TlsFact, Value, Variable, Variables,
};
use crate::proxy::authorize::has_own_policy;
use crate::proxy::conn::Conn;
use crate::proxy::forwarded;
use crate::proxy::headers;
use crate::proxy::outcome::Outcome;
use crate::proxy::worker::Worker;
use crate::snapshot::Snapshot;
use crate::tls::identity::Identity;

/// The variables of one request.
pub struct RequestVariables<'a> {
    /// Its worker.
    pub worker: &'a Worker,
    /// The state it is served by.
    pub snapshot: &'a Snapshot,
    /// What is known of it.
    pub outcome: &'a Outcome,
    /// Its headers, as sent or as prepared for the upstream.
    pub headers: &'a HeaderMap,
    /// What was taken out of them for the upstream.
    pub taken: &'a [(HeaderName, HeaderValue)],
    /// Its path, normalised.
    pub path: &'a [u8],
    /// Its content, as far as it was read.
    pub content: &'a Content<'a>,
    /// What was looked up in its content.
    pub of_body: Memo<'a>,
    /// The GraphQL operation that it asks for, once that was looked for.
    pub operation: OnceCell<Option<Operation>>,
}

/// The same for one route, whose path may have captured something.
pub struct RouteVariables<'a, 'r> {
    /// Those of the request.
    pub request: &'a RequestVariables<'r>,
    /// What the route's path captured.
    pub parameters: &'a Parameters<'a>,
}

impl Variables for RouteVariables<'_, '_> {
    fn value(&self, variable: &Variable) -> Option<Value<'_>> {
        match variable {
            Variable::Fact(fact) => self.request.fact(*fact),
            Variable::Tls(fact) => tls_fact(self.request.outcome.conn(), *fact),
            Variable::Client(ClientFact::Verify) => self.request.verdict(),
            Variable::Client(fact) => self.request.of_identity(*fact),
            Variable::Argument(name) => self.request.argument(name),
            Variable::Header(name) => self.request.header(name),
            Variable::Cookie(name) => self.request.cookie(name),
            Variable::FormArgument(name) => {
                let look = || self.request.content.argument(name);
                self.request.of_body.value(variable, look)
            }
            Variable::Body(path) => {
                let look = || self.request.content.at(path);
                self.request.of_body.value(variable, look)
            }
            Variable::Graphql(fact) => {
                let look = || self.request.graphql(*fact);
                self.request.of_body.value(variable, look)
            }
            Variable::Parameter(name) => self.parameters.find(name).map(Value::of),
        }
    }
}

impl RequestVariables<'_> {
    fn fact(&self, fact: Fact) -> Option<Value<'_>> {
        let uri = &self.outcome.uri;
        let conn = self.outcome.conn();
        match fact {
            Fact::Uri => Some(Value::of(self.path)),
            Fact::RequestUri => Some(Value::of(
                uri.path_and_query().map_or("/", |target| target.as_str()),
            )),
            Fact::Args => uri.query().map(Value::of),
            Fact::IsArgs => Some(Value::of(if uri.query().is_some() { "?" } else { "" })),
            Fact::Host => {
                let authority = self.outcome.authority.as_ref();
                authority.map(|authority| Value::of(authority.host()))
            }
            Fact::Hostname => hostname().map(Value::of),
            Fact::RequestMethod => Some(Value::of(self.outcome.method.as_str())),
            Fact::ServerProtocol => self
                .version()
                .map(|version| Value::owned(format!("HTTP/{version}"))),
            Fact::HttpVersion => self.version().map(Value::of),
            Fact::Scheme => Some(Value::of(if conn.is_tls() { "https" } else { "http" })),
            Fact::Https => Some(Value::of(if conn.is_tls() { "on" } else { "" })),
            Fact::RemoteAddr => Some(Value::owned(conn.peer.ip().to_canonical().to_string())),
            Fact::RemotePort => Some(Value::owned(conn.peer.port().to_string())),
            Fact::ServerAddr => Some(Value::owned(conn.local.ip().to_canonical().to_string())),
            Fact::ServerPort => Some(Value::owned(conn.local.port().to_string())),
            Fact::ContentLength => self.headers.get(CONTENT_LENGTH).map(Value::of),
            Fact::ContentType => self.headers.get(CONTENT_TYPE).map(Value::of),
            Fact::RequestId => Some(Value::of(self.outcome.request_id())),
        }
    }

    fn version(&self) -> Option<&'static str> {
        match self.outcome.version {
            Version::HTTP_10 => Some("1.0"),
            Version::HTTP_11 => Some("1.1"),
            Version::HTTP_2 => Some("2.0"),
            _ => None,
        }
    }

    /// Whether the request's own name asks for client certificates. What the connection's name
    /// made of a certificate says nothing to one that never asked.
    fn asks(&self) -> bool {
        let authority = self.outcome.authority.as_ref();
        authority.is_some_and(|authority| has_own_policy(self.snapshot, authority.host()))
    }

    /// `$ssl_client_verify`.
    fn verdict(&self) -> Option<Value<'_>> {
        let pinned = self.outcome.conn().pinned.as_ref()?.borrow();
        if pinned.client.is_none() || !self.asks() {
            return Some(Value::of("NONE"));
        }
        Some(match pinned.verdict {
            Ok(()) => Value::of("SUCCESS"),
            Err(reason) => {
                let fault = pinned.fault.unwrap_or(reason.code());
                Value::owned(format!("FAILED:{fault}"))
            }
        })
    }

    /// A fact of the client's certificate. One that did not pass says nothing.
    fn of_identity(&self, fact: ClientFact) -> Option<Value<'_>> {
        let pinned = self.outcome.conn().pinned.as_ref()?.borrow();
        let client = pinned.client.as_ref()?;
        if pinned.verdict.is_err() || !self.asks() {
            return None;
        }
        let now = i64::try_from(self.worker.epoch_millis() / 1000).ok()?;
        shown(client.identity(), fact, now)
    }

    fn argument(&self, name: &str) -> Option<Value<'_>> {
        self.argument_text(name).map(Value::Text)
    }

    fn argument_text(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let pairs = self.outcome.uri.query()?.split('&');
        let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let (_, value) = pairs.find(|(key, _)| *unescape(key.as_bytes()) == *name.as_bytes())?;
        Some(unescape(value.as_bytes()))
    }

    /// A fact of the operation that a GET has as its argument `query`, a POST as its content.
    fn graphql(&self, fact: GraphqlFact) -> Option<Value<'static>> {
        let operation = self.operation.get_or_init(|| match self.outcome.method {
            Method::GET => Operation::read(&self.argument_text("query")?),
            Method::POST => self.content.operation(),
            _ => None,
        });
        let operation = operation.as_ref()?;
        Some(match fact {
            GraphqlFact::Operation => Value::owned(&operation.kind),
            GraphqlFact::Name => Value::owned(&operation.name),
            GraphqlFact::RootFields => {
                Value::Items(operation.root_fields.iter().map(Value::owned).collect())
            }
        })
    }

    /// The lines of a header, put together as nginx does. `name` is in lower case with `-`.
    fn header(&self, name: &str) -> Option<Value<'_>> {
        let authority = self.outcome.authority.as_ref()?;
        if name == HOST.as_str() {
            return Some(Value::of(authority.as_str()));
        }
        if headers::is_identity(name) {
            return None;
        }
        let via = &self.outcome.conn().via;
        if let Some(observed) = forwarded::observed(name, via, authority) {
            return Some(Value::Text(Cow::Owned(observed.as_bytes().to_vec())));
        }
        let mut lines = self.lines(name);
        let first = lines.next()?;
        let mut rest = lines.peekable();
        if rest.peek().is_none() {
            return Some(Value::of(forwarded::as_sent(
                name,
                first,
                via,
                self.is_prepared(),
            )));
        }
        let between: &[u8] = if name == COOKIE.as_str() {
            b"; "
        } else {
            b", "
        };
        let lines: Vec<&[u8]> = std::iter::once(first).chain(rest).collect();
        Some(Value::Text(Cow::Owned(lines.join(between))))
    }

    /// Lines whose name is this one, `_` read as `-`, as nginx compares them.
    fn lines<'s>(&'s self, name: &str) -> impl Iterator<Item = &'s [u8]> {
        let taken = self.taken.iter().map(|(own, value)| (own, value));
        let all = self.headers.iter().chain(taken);
        all.filter(move |(own, _)| headers::is_spelling_of(own.as_str(), name))
            .map(|(_, value)| value.as_bytes())
    }

    fn is_prepared(&self) -> bool {
        self.outcome.is_prepared
    }

    fn cookie(&self, name: &str) -> Option<Value<'_>> {
        self.lines(COOKIE.as_str())
            .flat_map(|line| line.split(|byte| *byte == b';'))
            .map(<[u8]>::trim_ascii)
            .find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
            .map(Value::of)
    }
}

/// A fact of a finished handshake.
fn tls_fact(conn: &Conn, fact: TlsFact) -> Option<Value<'_>> {
    let handshake = conn.handshake.as_ref()?;
    match fact {
        TlsFact::ServerName => conn.sni.as_deref().map(Value::of),
        TlsFact::Protocol => Some(Value::of(handshake.version)),
        TlsFact::Cipher => Some(Value::of(handshake.cipher)),
        TlsFact::Curve => handshake.group.as_deref().map(Value::of),
        TlsFact::SessionReused => Some(Value::of(if handshake.resumed { "r" } else { "." })),
        TlsFact::AlpnProtocol => handshake.alpn.map(Value::of),
    }
}

/// A fact of a certificate; what is empty is absent, as in nginx.
fn shown(identity: &Identity, fact: ClientFact, now: i64) -> Option<Value<'static>> {
    let list = |items: &Vec<String>| Some(items).filter(|items| !items.is_empty()).cloned();
    let text = match fact {
        ClientFact::Subject => Some(identity.subject.clone()),
        ClientFact::Issuer => Some(identity.issuer.clone()),
        ClientFact::Serial => Some(identity.serial.clone()),
        ClientFact::Fingerprint => identity.fingerprint.clone(),
        ClientFact::Start => Some(identity.start.clone()),
        ClientFact::End => Some(identity.end.clone()),
        ClientFact::Remain => identity.days_left(now).map(|days| days.to_string()),
        ClientFact::Cert => identity.folded_pem(),
        ClientFact::RawCert => identity.pem.clone(),
        ClientFact::EscapedCert => identity.escaped_pem(),
        ClientFact::SanDns => return list(&identity.san_dns).map(Value::List),
        ClientFact::SanUri => return list(&identity.san_uri).map(Value::List),
        ClientFact::SanEmail => return list(&identity.san_email).map(Value::List),
        // Whether it passed is not its own to say.
        ClientFact::Verify => None,
    };
    text.filter(|text| !text.is_empty()).map(Value::owned)
}

/// The name of this machine, read once.
fn hostname() -> Option<&'static str> {
    static NAME: OnceLock<Option<String>> = OnceLock::new();
    let name = NAME.get_or_init(|| {
        let system = rustix::system::uname();
        system.nodename().to_str().ok().map(str::to_owned)
    });
    name.as_deref()
}
