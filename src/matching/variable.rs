//! The variables of a request: nginx's and APISIX's names, read once when a rule is compiled.
//!
//! What a name stands for in a request is the caller's to say, through [`Variables`]; nothing here
//! knows of connections or headers.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::content::json_path::JsonPath;

/// A variable by its name.
///
/// ```
/// use portcullis::matching::variable::{Fact, Variable};
///
/// assert_eq!(Variable::parse("request_method"), Some(Variable::Fact(Fact::RequestMethod)));
/// assert_eq!(Variable::parse("http_X_Api"), Some(Variable::Header("x-api".into())));
/// assert_eq!(Variable::parse("request_methd"), None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Variable {
    /// One of the request, with a name of its own.
    Fact(Fact),
    /// One of the handshake.
    Tls(TlsFact),
    /// One of the client's certificate.
    Client(ClientFact),
    /// `arg_NAME`: the first query argument of this name, decoded.
    Argument(Box<str>),
    /// `http_NAME`: the request header of this name; in lower case, `-` for `_`.
    Header(Box<str>),
    /// `cookie_NAME`: the cookie of this name.
    Cookie(Box<str>),
    /// `post_arg_NAME`: the first argument of this name of a form in the body, decoded.
    FormArgument(Box<str>),
    /// `post_arg.PATH`: what is there in the body.
    Body(JsonPath),
    /// One of the GraphQL operation that is asked for.
    Graphql(GraphqlFact),
    /// `uri_param_NAME`: what a `:NAME` or `*NAME` of the route's path stands for.
    Parameter(Box<str>),
}

/// Declares a set of facts and the table of their names together, so that they cannot drift apart.
macro_rules! facts {
    (
        #[doc = $about:literal] $set:ident;
        $($(#[doc = $doc:literal])+ $fact:ident = $($name:literal)|+;)+
    ) => {
        #[doc = $about]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $set { $($(#[doc = $doc])+ $fact,)+ }

        impl $set {
            const NAMES: &'static [(&'static str, Self)] = &[$($(($name, Self::$fact),)+)+];

            fn parse(name: &str) -> Option<Self> {
                let found = Self::NAMES.iter().find(|(own, _)| *own == name);
                found.map(|(_, fact)| *fact)
            }
        }
    };
}

facts! {
    /// A variable of the request.
    Fact;
    /// The path, decoded and normalised.
    Uri = "uri" | "document_uri";
    /// Path and query as sent.
    RequestUri = "request_uri";
    /// The query as sent.
    Args = "args" | "query_string";
    /// `?` where there is a query, else empty.
    IsArgs = "is_args";
    /// The authority's host: lower case, no port.
    Host = "host";
    /// The gateway's host name.
    Hostname = "hostname";
    /// The method.
    RequestMethod = "request_method";
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2.0`.
    ServerProtocol = "server_protocol";
    /// The same without `HTTP/`.
    HttpVersion = "http_version";
    /// `https` or `http`.
    Scheme = "scheme";
    /// `on` over TLS, else empty.
    Https = "https";
    /// The client's address.
    RemoteAddr = "remote_addr";
    /// The client's port.
    RemotePort = "remote_port";
    /// The address that the client reached.
    ServerAddr = "server_addr";
    /// The port that the client reached.
    ServerPort = "server_port";
    /// The `Content-Length` of the request.
    ContentLength = "content_length";
    /// The `Content-Type` of the request.
    ContentType = "content_type";
    /// The request's id, as in the access record.
    RequestId = "request_id";
}

facts! {
    /// A variable of the connection's handshake; absent in the clear.
    TlsFact;
    /// The server name in the client's hello.
    ServerName = "ssl_server_name";
    /// E.g. `TLSv1.3`.
    Protocol = "ssl_protocol";
    /// OpenSSL's name of the suite.
    Cipher = "ssl_cipher";
    /// OpenSSL's name of the key exchange's group.
    Curve = "ssl_curve";
    /// `r` where a session was resumed, else `.`.
    SessionReused = "ssl_session_reused";
    /// `h2` or `http/1.1`, where the client offered one.
    AlpnProtocol = "ssl_alpn_protocol";
}

facts! {
    /// A variable of the client's certificate.
    ClientFact;
    /// `SUCCESS`, `FAILED:reason`, or `NONE` without a certificate.
    Verify = "ssl_client_verify";
    /// The subject, RFC 2253.
    Subject = "ssl_client_s_dn";
    /// The issuer, RFC 2253.
    Issuer = "ssl_client_i_dn";
    /// The serial number, upper-case hexadecimal.
    Serial = "ssl_client_serial";
    /// SHA-1 of the certificate, lower-case hexadecimal.
    Fingerprint = "ssl_client_fingerprint";
    /// Valid from, e.g. `Nov 22 06:46:00 2026 GMT`.
    Start = "ssl_client_v_start";
    /// Valid until.
    End = "ssl_client_v_end";
    /// Whole days until then.
    Remain = "ssl_client_v_remain";
    /// The certificate, PEM, every line but the first behind a tab.
    Cert = "ssl_client_cert";
    /// The certificate, PEM.
    RawCert = "ssl_client_raw_cert";
    /// The certificate, PEM, URL-encoded.
    EscapedCert = "ssl_client_escaped_cert";
    /// A list: the DNS names of the certificate's alternative names.
    SanDns = "ssl_client_san_dns";
    /// A list: their URIs.
    SanUri = "ssl_client_san_uri";
    /// A list: their mail addresses.
    SanEmail = "ssl_client_san_email";
}

facts! {
    /// A variable of a GraphQL operation, in the body or, of a GET, in the argument `query`.
    GraphqlFact;
    /// `query`, `mutation` or `subscription`.
    Operation = "graphql_operation";
    /// Its name; empty where it has none.
    Name = "graphql_name";
    /// A list: the names of its fields.
    RootFields = "graphql_root_fields";
}

/// What is before the path of [`Variable::Body`].
pub const BODY: &str = "post_arg.";

impl Variable {
    /// The variable of this name; `None` where there is none, as for a misspelt one.
    pub fn parse(name: &str) -> Option<Self> {
        let alone = Fact::parse(name)
            .map(Self::Fact)
            .or_else(|| TlsFact::parse(name).map(Self::Tls))
            .or_else(|| ClientFact::parse(name).map(Self::Client))
            .or_else(|| GraphqlFact::parse(name).map(Self::Graphql));
        if alone.is_some() {
            return alone;
        }
        let rest = |prefix: &str| name.strip_prefix(prefix).filter(|rest| !rest.is_empty());
        if let Some(rest) = rest("arg_") {
            return Some(Self::Argument(rest.into()));
        }
        if let Some(rest) = rest("http_") {
            let header = rest.to_ascii_lowercase().replace('_', "-");
            return Some(Self::Header(header.into()));
        }
        if let Some(rest) = rest("cookie_") {
            return Some(Self::Cookie(rest.into()));
        }
        if let Some(rest) = rest("post_arg_") {
            return Some(Self::FormArgument(rest.into()));
        }
        if let Some(rest) = rest(BODY) {
            return JsonPath::parse(rest).ok().map(Self::Body);
        }
        rest("uri_param_").map(|rest| Self::Parameter(rest.into()))
    }

    /// Whether it may stand for a part of the body: only conditions of routes have that read.
    pub fn is_of_body(&self) -> bool {
        matches!(
            self,
            Self::FormArgument(_) | Self::Body(_) | Self::Graphql(_)
        )
    }

    /// The names that stand alone, for a suggestion.
    pub fn names() -> impl Iterator<Item = &'static str> {
        let request = Fact::NAMES.iter().map(|(name, _)| *name);
        let tls = TlsFact::NAMES.iter().map(|(name, _)| *name);
        let client = ClientFact::NAMES.iter().map(|(name, _)| *name);
        let graphql = GraphqlFact::NAMES.iter().map(|(name, _)| *name);
        request.chain(tls).chain(client).chain(graphql)
    }
}

/// The value of a variable in one request.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'v> {
    /// Any bytes.
    Text(Cow<'v, [u8]>),
    /// Several texts, as a certificate has names; see [`Value::text`].
    List(Vec<String>),
    /// A number of JSON.
    Number(f64),
    /// A truth value of JSON.
    Bool(bool),
    /// Several values, as a body has them: they have no common text.
    Items(Rc<[Self]>),
    /// An object of JSON, or a list within a list: nothing is told of it but that it is there.
    Structure,
}

impl<'v> Value<'v> {
    /// A value of bytes that live elsewhere.
    pub fn of(bytes: &'v (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self::Text(Cow::Borrowed(bytes.as_ref()))
    }

    /// A value of a text made for it.
    pub fn owned(text: impl Into<String>) -> Self {
        Self::Text(Cow::Owned(text.into().into_bytes()))
    }

    /// The value as one text; empty where it has none. A list is joined by commas; what is no visible ASCII character in
    /// its items, and a comma, is percent-encoded there, so that no item can pass for two.
    pub fn text(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::List(items) => {
                let items: Vec<String> = items.iter().map(|item| encode_item(item)).collect();
                Cow::Owned(items.join(",").into_bytes())
            }
            Self::Number(number) => Cow::Owned(number.to_string().into_bytes()),
            Self::Bool(true) => Cow::Borrowed(b"true"),
            Self::Bool(false) => Cow::Borrowed(b"false"),
            Self::Items(_) | Self::Structure => Cow::Borrowed(b""),
        }
    }
}

fn encode_item(item: &str) -> String {
    let mut encoded = String::with_capacity(item.len());
    for byte in item.bytes() {
        if byte.is_ascii_graphic() && byte != b',' {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Where the values of one request come from.
pub trait Variables {
    /// The value of a variable; `None` where the request has none, or it cannot be read.
    fn value(&self, variable: &Variable) -> Option<Value<'_>>;
}

/// What was looked up in one request: each variable once, however many routes ask for it, as a long
/// body takes its time.
#[derive(Debug, Default)]
pub struct Memo<'v>(RefCell<HashMap<Variable, Option<Value<'v>>>>);

impl<'v> Memo<'v> {
    /// The value of a variable; `look` finds it the first time.
    pub fn value(
        &self,
        variable: &Variable,
        look: impl FnOnce() -> Option<Value<'v>>,
    ) -> Option<Value<'v>> {
        if let Some(known) = self.0.borrow().get(variable) {
            return known.clone();
        }
        let value = look();
        self.0.borrow_mut().insert(variable.clone(), value.clone());
        value
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn variable_is_looked_up_once_whether_it_is_there_or_not() {
        let memo = Memo::default();
        let looks = Cell::new(0);
        for _ in 0..3 {
            for (name, value) in [
                ("post_arg_a", Some(Value::of("1"))),
                ("post_arg.a", Some(Value::Items([Value::Bool(true)].into()))),
                ("post_arg.b", None),
                ("graphql_name", Some(Value::of(""))),
            ] {
                let variable = Variable::parse(name).unwrap();
                let found = memo.value(&variable, || {
                    looks.set(looks.get() + 1);
                    value.clone()
                });
                assert_eq!(found, value, "{name}");
            }
        }
        assert_eq!(looks.get(), 4);
    }

    #[test]
    fn names_are_read_as_nginx_and_apisix_write_them() {
        for (name, variable) in [
            ("uri", Some(Variable::Fact(Fact::Uri))),
            ("query_string", Some(Variable::Fact(Fact::Args))),
            ("ssl_curve", Some(Variable::Tls(TlsFact::Curve))),
            (
                "ssl_client_s_dn",
                Some(Variable::Client(ClientFact::Subject)),
            ),
            ("http_version", Some(Variable::Fact(Fact::HttpVersion))),
            ("arg_a_B", Some(Variable::Argument("a_B".into()))),
            ("http_X_Api-Key", Some(Variable::Header("x-api-key".into()))),
            ("cookie_Sid", Some(Variable::Cookie("Sid".into()))),
            ("uri_param_id", Some(Variable::Parameter("id".into()))),
            ("post_arg_a_B", Some(Variable::FormArgument("a_B".into()))),
            (
                "post_arg.a[*].b",
                JsonPath::parse("a[*].b").ok().map(Variable::Body),
            ),
            (
                "graphql_root_fields",
                Some(Variable::Graphql(GraphqlFact::RootFields)),
            ),
            ("post_arg.", None),
            ("post_arg.a[?(@.b)]", None),
            ("graphql_fields", None),
            ("arg_", None),
            ("http_", None),
            ("Uri", None),
            ("", None),
            ("ssl_client_dn", None),
        ] {
            assert_eq!(Variable::parse(name), variable, "{name}");
        }
        let is_of_body = |name| Variable::parse(name).is_some_and(|one| one.is_of_body());
        assert!(is_of_body("post_arg.a") && is_of_body("post_arg_a"));
        assert!(is_of_body("graphql_name") && !is_of_body("arg_post"));
    }

    #[test]
    fn every_name_is_there_once() {
        let names: HashSet<_> = Variable::names().collect();
        assert_eq!(names.len(), Variable::names().count());
    }

    #[test]
    fn no_item_of_a_list_passes_for_two() {
        let list = |items: &[&str]| {
            let items = items.iter().map(|item| (*item).to_owned()).collect();
            String::from_utf8(Value::List(items).text().into_owned()).unwrap()
        };
        assert_eq!(list(&["a.test", "b.test"]), "a.test,b.test");
        assert_eq!(list(&["a.test,b.test"]), "a.test%2Cb.test");
        assert_eq!(list(&["ü x\r\n"]), "%C3%BC%20x%0D%0A");
        assert_eq!(list(&[]), "");
    }
}
