//! The Admin API as `a6` speaks it: of Portcullis in either flavour, and of Apache APISIX.
//!
//! Envelopes are read tolerantly, errors told in the public tool's words.

use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use http::{HeaderMap, Method, Request, StatusCode};
use serde_json::Value;
use tokio::task::LocalSet;
use zeroize::Zeroizing;

use super::envelope::{self, Item, Page};
use super::failed::Failed;
use super::settings::Settings;
use crate::cli::print;
use crate::config::TrustFile;
use crate::failure::{Reason, chain};
use crate::net::dial::{DialError, Dialer, Forbidden};
use crate::net::http::{Answer, Client, HttpError, Limits, Origin, Tls};
use crate::net::look;
use crate::net::resolve::Resolver;
use crate::net::sweep::Sweep;
use crate::resource::{Kind, escaped, shown};
use crate::tls::material::{CaBundle, KeyPair};
use crate::tls::policy::Offer;
use crate::tls::stream::TlsStream;
use crate::tls::trust::CaStore;
use crate::tls::upstream::{Protocol, ServerName, UpstreamConnector, UpstreamSpec};

/// How long the server has.
pub(super) const LIMITS: Limits = Limits {
    connect: Duration::from_secs(10),
    answer: Duration::from_secs(60),
    body_bytes: 512 * 1024 * 1024,
};
/// The largest page that APISIX allows.
const PAGE_SIZE: usize = 500;
/// Asks our server to show what stands for withheld keys, so that they can be compared.
const WITHHELD: &str = "x-portcullis-withheld";
/// How many characters of a server's sentence are told.
const SAID_CHARS: usize = 2000;
/// The header that carries warnings of our server, a field each.
const WARNING: &str = "x-portcullis-warning";

/// Runs work that asks servers, on this thread.
///
/// # Errors
/// The work's own, or the system refused a runtime.
pub(super) fn run<T>(work: impl AsyncFnOnce(&Network) -> Result<T, Failed>) -> Result<T, Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failed::new(format!("the system refused a runtime: {error}")))?;
    LocalSet::new().block_on(&runtime, async {
        let sweep = Sweep::new();
        tokio::task::spawn_local(Rc::clone(&sweep).run(|| {}));
        Box::pin(work(&Network { sweep })).await
    })
}

/// Opens clients.
#[derive(Debug)]
pub(super) struct Network {
    sweep: Rc<Sweep>,
}

/// What a client shows and trusts.
#[derive(Debug, Default)]
pub(super) struct Trust<'a> {
    /// CAs instead of the system's.
    pub(super) ca_cert: Option<&'a Path>,
    /// Our certificate and its key.
    pub(super) identity: Option<(&'a Path, &'a Path)>,
    /// Check nothing.
    pub(super) insecure: bool,
}

impl Network {
    /// A client of an origin.
    ///
    /// # Errors
    /// Files of the trust that cannot be used.
    pub(super) fn client(
        &self,
        origin: Origin,
        name: Option<&str>,
        trust: &Trust<'_>,
        limits: Limits,
    ) -> Result<Client, Failed> {
        let tls = if origin.is_tls {
            Some(Tls {
                connector: trust.connector()?,
                name: ServerName::new(name.unwrap_or(&origin.host)),
            })
        } else {
            None
        };
        let dialer = Dialer::new(
            Rc::clone(&self.sweep),
            Arc::new(Forbidden::default()),
            // As every command on this machine sees names.
            Resolver::system(),
        );
        Ok(Client::new(
            origin,
            tls,
            limits,
            Rc::clone(&self.sweep),
            dialer,
        ))
    }

    /// Ends a connection over which nothing was sent, and hears the server's last word.
    ///
    /// # Errors
    /// The server's refusal.
    pub(super) async fn take_leave(
        &self,
        tls: &mut TlsStream,
        has_identity: bool,
    ) -> Result<(), DialError> {
        look::take_leave(&self.sweep, tls, has_identity).await
    }

    /// The Admin API that the settings name.
    ///
    /// # Errors
    /// No server, no key, or TLS files that cannot be used.
    pub(super) fn api(&self, settings: &Settings, verbose: bool) -> Result<Api, Failed> {
        let key = settings
            .api_key
            .as_ref()
            .ok_or("no API key configured; use 'a6 context create' or set A6_API_KEY")?;
        let server = settings
            .server
            .as_deref()
            .ok_or("no server configured; use 'a6 context create', --server or set A6_SERVER")?;
        let origin = origin(server)?;
        let trust = Trust::of(settings)?;
        let mut key = HeaderValue::from_str(key).map_err(|_invalid| {
            "the API key has characters that no header can carry; was a line end pasted with it?"
        })?;
        key.set_sensitive(true);
        Ok(Api {
            client: self.client(origin, None, &trust, LIMITS)?,
            key,
            verbose,
        })
    }
}

/// Reads a URL that was given.
///
/// # Errors
/// What is wrong with it.
pub(super) fn origin(url: &str) -> Result<Origin, Failed> {
    Origin::parse(url)
        .map_err(|error| Failed::new(format!("invalid URL {:?}: {error}", shown(url))))
}

impl<'a> Trust<'a> {
    /// By the settings for the server, which hold for all of its addresses.
    ///
    /// # Errors
    /// A key without its certificate.
    pub(super) fn of(settings: &'a Settings) -> Result<Self, Failed> {
        let identity = match (&settings.client_cert, &settings.client_key) {
            (Some(cert), Some(key)) => Some((cert.as_path(), key.as_path())),
            // One file may hold both.
            (Some(both), None) => Some((both.as_path(), both.as_path())),
            (None, Some(_)) => return Err("--client-key needs --client-cert".into()),
            (None, None) => None,
        };
        Ok(Self {
            ca_cert: settings.ca_cert.as_deref(),
            identity,
            insecure: settings.insecure,
        })
    }

    fn connector(&self) -> Result<UpstreamConnector, Failed> {
        let identity = match self.identity {
            None => None,
            Some((cert, key)) => {
                let pair = KeyPair::parse(&text(cert)?, &text(key)?)
                    .map_err(|error| Failed::new(format!("{}: {error}", cert.display())))?;
                Some(pair)
            }
        };
        let trust = if self.insecure {
            None
        } else {
            Some(Arc::new(self.store()?))
        };
        UpstreamConnector::build(&UpstreamSpec {
            identity,
            trust,
            offer: Offer::default(),
            protocol: Protocol::Http1,
        })
        .map_err(|error| Failed::new(format!("the TLS options cannot be used: {error}")))
    }

    /// The CAs that are trusted.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub(super) fn store(&self) -> Result<CaStore, Failed> {
        let bundle = match self.ca_cert {
            Some(path) => CaBundle::parse(&text(path)?)
                .map_err(|error| Failed::new(format!("{}: {error}", path.display())))?,
            None => {
                let path = TrustFile::System.path();
                let pem = text(&path).map_err(|failed| {
                    Failed::new(format!("{failed}; name the CAs to trust with --ca-cert"))
                })?;
                let read = CaBundle::parse_public_list(&pem);
                read.map_err(|error| Failed::new(format!("{}: {error}", path.display())))?
                    .0
            }
        };
        CaStore::new(&bundle).map_err(|error| Failed::new(format!("OpenSSL failed: {error}")))
    }
}

fn text(path: &Path) -> Result<Zeroizing<String>, Failed> {
    let read = fs::read_to_string(path).map(Zeroizing::new);
    read.map_err(|error| Failed::new(format!("failed to read {}: {error}", path.display())))
}

/// The Admin API of one server.
#[derive(Debug)]
pub(super) struct Api {
    client: Client,
    key: HeaderValue,
    verbose: bool,
}

impl Api {
    /// Where it is.
    pub(super) fn origin(&self) -> &Origin {
        self.client.origin()
    }

    /// Asks for a path below the server's URL; gives the answer's JSON, `Null` where it is empty.
    ///
    /// # Errors
    /// No answer, one of 400 and above, or one that is not JSON.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Failed> {
        let answer = self.exchange(method, path, body).await?;
        for warning in warnings(&answer.headers) {
            print::err(&format!("warning: {warning}"));
        }
        self.value_of(&answer)
    }

    /// As [`Api::ask`], of one request among many: gives the server's warnings in place of the
    /// answer, so that they can be told with what they are about.
    ///
    /// # Errors
    /// As [`Api::ask`].
    pub(super) async fn put_one_of_many(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<Vec<String>, Failed> {
        let answer = self.exchange(Method::PUT, path, Some(body)).await?;
        self.value_of(&answer)?;
        Ok(warnings(&answer.headers))
    }

    fn value_of(&self, answer: &Answer) -> Result<Value, Failed> {
        if answer.body.is_empty() && answer.status.is_success() {
            return Ok(Value::Null);
        }
        read(self.origin(), answer)
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, Failed> {
        let mut request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header("x-api-key", self.key.clone())
            .header(WITHHELD, "show");
        let mut bytes = Bytes::new();
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json");
            bytes = body.to_string().into();
        }
        let request = request
            .body(bytes)
            .map_err(|error| Failed::new(format!("invalid path {:?}: {error}", shown(path))))?;
        let answer = self.client.send(request).await;
        let answer = answer.map_err(|error| unreachable(self.origin(), &error, ADMIN))?;
        if self.verbose {
            let line = format!(
                "{method} {}{path} {}",
                self.origin(),
                answer.status.as_u16()
            );
            print::err(&line);
        }
        Ok(answer)
    }

    /// A path of the resources: `/apisix/admin/{words}`, each word escaped.
    pub(super) fn path(words: &[&str]) -> String {
        let escaped = words.iter().map(|word| escape(word));
        format!("/apisix/admin/{}", escaped.collect::<Vec<_>>().join("/"))
    }

    /// The path of an object; a secret's id brings its manager.
    pub(super) fn object_path(kind: Kind, id: &str) -> String {
        match (kind, id.split_once('/')) {
            (Kind::Secret, Some((manager, id))) => Self::path(&[kind.plural(), manager, id]),
            _ => Self::path(&[kind.plural(), id]),
        }
    }

    /// One object, without its envelope.
    ///
    /// # Errors
    /// As [`Api::ask`].
    pub(super) async fn get(&self, kind: Kind, id: &str) -> Result<Value, Failed> {
        let path = Self::object_path(kind, id);
        envelope::value(self.ask(Method::GET, &path, None).await?)
    }

    /// Writes an object and gives it back as the server has it.
    ///
    /// # Errors
    /// As [`Api::ask`].
    pub(super) async fn write(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<Value, Failed> {
        envelope::value(self.ask(method, path, Some(body)).await?)
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// As [`Api::ask`].
    pub(super) async fn delete(&self, kind: Kind, id: &str) -> Result<(), Failed> {
        let path = Self::object_path(kind, id);
        self.ask(Method::DELETE, &path, None).await.map(|_| ())
    }

    /// A list; `query` is what narrows it, and `page=…` where a page of it is wanted.
    ///
    /// # Errors
    /// As [`Api::ask`].
    pub(super) async fn page(&self, kind: Kind, query: &[(&str, &str)]) -> Result<Page, Failed> {
        let query = query
            .iter()
            .map(|(name, value)| format!("{name}={}", escape(value)));
        let mut path = Self::path(&[kind.plural()]);
        let query = query.collect::<Vec<_>>().join("&");
        if !query.is_empty() {
            path = format!("{path}?{query}");
        }
        envelope::page(kind, self.ask(Method::GET, &path, None).await?)
    }

    /// All objects of a kind, ordered by id.
    ///
    /// They are asked for at once, which is one moment's view; where the server pages by itself,
    /// page by page.
    ///
    /// # Errors
    /// As [`Api::ask`].
    pub(super) async fn all(
        &self,
        kind: Kind,
        narrowed: &[(&str, &str)],
    ) -> Result<Vec<Item>, Failed> {
        let mut items = match self.page(kind, narrowed).await? {
            page if page.items.len() >= page.total => page.items,
            _ => self.all_pages(kind, narrowed).await?,
        };
        items.sort_by(|a, b| a.id.cmp(&b.id));
        // An object that moved to the next page while we read is there twice.
        items.dedup_by(|a, b| a.id == b.id);
        Ok(items)
    }

    async fn all_pages(&self, kind: Kind, narrowed: &[(&str, &str)]) -> Result<Vec<Item>, Failed> {
        let mut items: Vec<Item> = Vec::new();
        let size = PAGE_SIZE.to_string();
        for number in 1_usize.. {
            let number = number.to_string();
            let mut query = vec![("page", number.as_str()), ("page_size", size.as_str())];
            query.extend_from_slice(narrowed);
            let page = self.page(kind, &query).await?;
            let is_last = page.items.is_empty();
            items.extend(page.items);
            if is_last || items.len() >= page.total {
                break;
            }
        }
        Ok(items)
    }
}

/// Asks a service that wants no key for JSON.
///
/// # Errors
/// As [`Api::ask`].
pub(super) async fn fetch(client: &Client, path: &str) -> Result<Value, Failed> {
    let request = Request::get(path)
        .body(Bytes::new())
        .map_err(|error| Failed::new(format!("invalid path {:?}: {error}", shown(path))))?;
    let answer = client.send(request).await;
    let answer = answer.map_err(|error| unreachable(client.origin(), &error, ADMIN))?;
    read(client.origin(), &answer)
}

/// The JSON of an answer.
fn read(origin: &Origin, answer: &Answer) -> Result<Value, Failed> {
    if answer.status.as_u16() >= 400 {
        return Err(refused(answer.status, &answer.body));
    }
    if answer.status.is_redirection() {
        return Err(moved(answer));
    }
    serde_json::from_slice(&answer.body).map_err(|error| {
        Failed::new(format!(
            "failed to parse response: {error}; is {origin} the right server?"
        ))
    })
}

/// Nothing is sent after a redirection: whom the key may go to, its owner says.
fn moved(answer: &Answer) -> Failed {
    let code = answer.status.as_u16();
    let place = answer.headers.get(LOCATION);
    let place = place.map_or_else(String::new, |place| {
        let place = String::from_utf8_lossy(place.as_bytes());
        format!(", to {}", escaped(&place, SAID_CHARS))
    });
    Failed::answered(
        code,
        format!(
            "API error (status {code}): the server sends elsewhere{place}; if that is right, \
             name it as the server"
        ),
    )
}

/// Seconds since the epoch.
pub(super) fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

/// Takes `create_time` and `update_time` away, at any depth.
pub(super) fn forget_times(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.shift_remove("create_time");
            members.shift_remove("update_time");
            members.values_mut().for_each(forget_times);
        }
        Value::Array(list) => list.iter_mut().for_each(forget_times),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The warnings of our server.
fn warnings(headers: &HeaderMap) -> Vec<String> {
    let fields = headers.get_all(WARNING).iter();
    let texts = fields.map(|field| {
        let text = String::from_utf8_lossy(field.as_bytes());
        escaped(&text, SAID_CHARS)
    });
    texts.collect()
}

/// What nginx, and so Apache APISIX and this gateway, answer where nothing but TLS is served.
const PLAIN_HTTP: &str = "The plain HTTP request was sent to HTTPS port";

/// The public tool's sentence for an answer of 400 and above.
fn refused(status: StatusCode, body: &[u8]) -> Failed {
    let parsed: Option<Value> = serde_json::from_slice(body).ok();
    let member = |name: &str| parsed.as_ref()?.get(name)?.as_str();
    let whole = String::from_utf8_lossy(body);
    // A body of any length from anywhere: cut, and without what a terminal would obey.
    let said = member("error_msg").unwrap_or(whole.trim());
    let mut said = escaped(said, SAID_CHARS);
    // Our server's, beside APISIX's words.
    if let Some(hint) = member("hint") {
        said.push_str(&format!(" ({})", escaped(hint, SAID_CHARS)));
    }
    let text = match status.as_u16() {
        401 => "authentication failed: check your API key".to_owned(),
        403 => format!("permission denied: {said}"),
        404 => "resource not found".to_owned(),
        409 => format!("conflict: {said}"),
        400 if whole.contains(PLAIN_HTTP) => {
            format!("API error (status 400): {PLAIN_HTTP}; use https://")
        }
        code => format!("API error (status {code}): {said}"),
    };
    Failed::answered(status.as_u16(), text)
}

/// The flags that say what is shown to a server and trusted of it, as remedies name them.
#[derive(Clone, Copy, Debug)]
pub(super) struct TlsFlags {
    ca: &'static str,
    cert: &'static str,
    key: &'static str,
}

/// Those for the Admin API.
pub(super) const ADMIN: TlsFlags = TlsFlags {
    ca: "--ca-cert",
    cert: "--client-cert",
    key: "--client-key",
};
/// Those for the gateway, and any other server that is looked at.
pub(super) const GATEWAY: TlsFlags = TlsFlags {
    ca: "--cacert",
    cert: "--cert",
    key: "--key",
};

/// Why there is no answer, and what to do.
pub(super) fn unreachable(origin: &Origin, error: &HttpError, flags: TlsFlags) -> Failed {
    let words = chain(error);
    let TlsFlags { ca, cert, key } = flags;
    let remedy = match error.reason() {
        Some(Reason::UpstreamRefused) => "is the server running, and is the URL right?".to_owned(),
        Some(Reason::UpstreamUnresolvable) => "is the host's name right?".to_owned(),
        Some(Reason::UpstreamCaUnknown) => format!(
            "name the CA that issued its certificate with {ca} (a self-signed certificate is its \
             own CA)"
        ),
        Some(Reason::UpstreamNameMismatch) => {
            "use a host name that its certificate was issued for".to_owned()
        }
        Some(Reason::UpstreamWantsClientCert) => {
            format!("it asks for a certificate: {cert} and {key}")
        }
        Some(Reason::UpstreamRejectedOurCert) => {
            format!("it does not accept our certificate: is {cert} from a CA that it trusts?")
        }
        Some(Reason::UpstreamSpeaksPlaintext) => "it does not speak TLS: use http://".to_owned(),
        Some(Reason::UpstreamTimeout) => "is something in between dropping packets?".to_owned(),
        _ if !origin.is_tls => "if it speaks TLS, use https://".to_owned(),
        _ => return Failed::new(format!("{origin}: {words}")),
    };
    Failed::new(format!("{origin}: {words}; {remedy}"))
}

/// Escapes what is not unreserved (RFC 3986 §2.3).
pub(super) fn escape(word: &str) -> String {
    let mut escaped = String::with_capacity(word.len());
    for byte in word.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_the_public_tools_sentences() {
        for (status, body, expected) in [
            (401, "{}", "authentication failed: check your API key"),
            (403, r#"{"error_msg":"no"}"#, "permission denied: no"),
            (404, r#"{"message":"Key not found"}"#, "resource not found"),
            (409, r#"{"error_msg":"x"}"#, "conflict: x"),
            (
                400,
                r#"{"error_msg":"bad\u001b[2J"}"#,
                "API error (status 400): bad\\u{1b}[2J",
            ),
            (
                400,
                r#"{"error_msg":"missing key","hint":"at /key"}"#,
                "API error (status 400): missing key (at /key)",
            ),
            (502, " gone \n", "API error (status 502): gone"),
            (
                400,
                "<title>400 The plain HTTP request was sent to HTTPS port</title>",
                "API error (status 400): The plain HTTP request was sent to HTTPS port; use https://",
            ),
        ] {
            let failed = refused(StatusCode::from_u16(status).unwrap(), body.as_bytes());
            assert_eq!(failed.to_string(), expected);
            assert_eq!(failed.status, Some(status));
        }
    }

    #[test]
    fn paths_are_escaped() {
        assert_eq!(
            Api::object_path(Kind::Route, "a b/../c"),
            "/apisix/admin/routes/a%20b%2F..%2Fc"
        );
        assert_eq!(
            Api::object_path(Kind::Secret, "vault/a"),
            "/apisix/admin/secrets/vault/a"
        );
    }
}
