//! The one access and handshake record, as a line of JSON.
//!
//! What is refused before a request exists is recorded as a handshake; there is no second log
//! format. The record holds no query values, no header values, no key material.

use std::cell::OnceCell;
use std::net::SocketAddr;

use crate::failure::Reason;
use crate::telemetry::time::{date_time, rfc3339_millis};

mod sink;

pub use sink::{AccessSink, SinkError, Target};

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request, answered or not.
    Request,
    /// A handshake that brought no request: it failed.
    Handshake,
}

impl Kind {
    /// `request` or `handshake`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Handshake => "handshake",
        }
    }
}

/// What a record says of a client's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFacts {
    /// Subject, RFC 2253 form.
    pub subject: String,
    /// Issuer, RFC 2253 form.
    pub issuer: String,
    /// Serial, upper-case hexadecimal.
    pub serial: String,
    not_after: String,
}

impl ClientFacts {
    /// `not_after` is the end of validity in seconds since the epoch; it is formatted here, once.
    #[must_use]
    pub fn new(subject: String, issuer: String, serial: String, not_after: i64) -> Self {
        let millis = u64::try_from(not_after).unwrap_or(0).saturating_mul(1000);
        Self {
            subject,
            issuer,
            serial,
            not_after: rfc3339_millis(millis),
        }
    }
}

/// What the lines of one connection say of it, all alike: as text, made with the first of them.
///
/// It belongs to one connection, whose records name it and agree in `listener`, `peer`, `sni` and
/// what there is of TLS.
#[derive(Debug, Default)]
pub struct Kept(OnceCell<Box<[u8]>>);

/// Everything one line may say. Made by [`Record::new`], then filled in; what stays `None` is left
/// out of the line.
///
/// Names and paths are bytes as the peer sent them: any byte is safe here.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// What it is about.
    pub kind: Kind,
    /// When it began, milliseconds since the epoch.
    pub at_millis: u64,
    /// The request's id, as the peer got it.
    pub request_id: Option<&'a str>,
    /// The listener's name, e.g. `https`.
    pub listener: &'a str,
    /// The peer.
    pub peer: SocketAddr,
    /// Where the connection keeps its part of the line, if it has more than one.
    pub kept: Option<&'a Kept>,
    /// The name in the client's hello.
    pub sni: Option<&'a [u8]>,
    /// The name in the request.
    pub authority: Option<&'a [u8]>,
    /// The method.
    pub method: Option<&'a str>,
    /// The path; what follows a `?` is cut off.
    pub path: Option<&'a [u8]>,
    /// What the peer was answered.
    pub status: Option<u16>,
    /// The failure's name.
    pub reason: Option<Reason>,
    /// The failure's causes, outermost first. Never key material.
    pub detail: Option<&'a str>,
    /// Bytes of the request's body; a handshake has none, and its line does not say so.
    pub bytes_in: u64,
    /// Bytes of the answer's body, likewise.
    pub bytes_out: u64,
    /// From the first byte to the last, microseconds.
    pub duration_us: u64,
    /// The upstream's part of it, all tries, microseconds.
    pub upstream_duration_us: Option<u64>,
    /// E.g. `TLSv1.3`.
    pub tls_version: Option<&'a str>,
    /// OpenSSL's name of the suite.
    pub cipher: Option<&'a str>,
    /// Whether the client's session was resumed.
    pub resumed: Option<bool>,
    /// The client's certificate.
    pub client: Option<&'a ClientFacts>,
    /// The ssl that served the name.
    pub ssl_id: Option<&'a str>,
    /// The route that matched.
    pub route_id: Option<&'a str>,
    /// The route's service.
    pub service_id: Option<&'a str>,
    /// The upstream chosen.
    pub upstream_id: Option<&'a str>,
    /// The node chosen last, `host:port`.
    pub node: Option<&'a str>,
    /// The name sent to the upstream and checked.
    pub upstream_sni: Option<&'a str>,
}

impl<'a> Record<'a> {
    /// A record that says only what every record says.
    #[must_use]
    pub const fn new(kind: Kind, at_millis: u64, listener: &'a str, peer: SocketAddr) -> Self {
        Self {
            kind,
            at_millis,
            request_id: None,
            listener,
            peer,
            kept: None,
            sni: None,
            authority: None,
            method: None,
            path: None,
            status: None,
            reason: None,
            detail: None,
            bytes_in: 0,
            bytes_out: 0,
            duration_us: 0,
            upstream_duration_us: None,
            tls_version: None,
            cipher: None,
            resumed: None,
            client: None,
            ssl_id: None,
            route_id: None,
            service_id: None,
            upstream_id: None,
            node: None,
            upstream_sni: None,
        }
    }
}

/// One worker's access log: lines are gathered here and handed to the sink's thread, which alone
/// writes. When the sink cannot keep up, lines are dropped and counted; the worker never waits.
#[derive(Debug)]
pub struct AccessLog {
    outlet: Option<sink::Outlet>,
    buffer: Vec<u8>,
    line_count: u64,
    // The second of the last record as text: most records share it with their neighbours.
    second: Option<(u64, String)>,
}

/// A buffer longer than this is handed over at once.
const FLUSH_BYTES: usize = 32 * 1024;
/// A longer text is cut: a record is bounded whatever the peer sends.
const TEXT_BYTES: usize = 2048;

/// What is written last, when requests are cut off by the end of the process, is handed over as well.
impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

/// What comes before a member's value. The name is one of ours: nothing in it needs an escape.
macro_rules! member {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}

/// What comes before a member's text: its quotation mark as well.
macro_rules! text_member {
    ($name:literal) => {
        concat!(",\"", $name, "\":\"")
    };
}

impl AccessLog {
    /// A log that drops everything.
    #[must_use]
    pub const fn off() -> Self {
        Self {
            outlet: None,
            buffer: Vec::new(),
            line_count: 0,
            second: None,
        }
    }

    const fn to(outlet: sink::Outlet) -> Self {
        Self {
            outlet: Some(outlet),
            buffer: Vec::new(),
            line_count: 0,
            second: None,
        }
    }

    /// Appends the record's line; hands the buffer over when it is long.
    pub fn write(&mut self, record: &Record<'_>) {
        if self.outlet.is_none() {
            return;
        }
        self.append(record);
        self.line_count += 1;
        if self.buffer.len() > FLUSH_BYTES {
            self.flush();
        }
    }

    /// Hands the lines written so far to the sink. Does not wait.
    pub fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        if let Some(outlet) = &self.outlet {
            outlet.send(&mut self.buffer, self.line_count);
        }
        self.line_count = 0;
    }

    fn append(&mut self, record: &Record<'_>) {
        let second = record.at_millis / 1000;
        if self
            .second
            .as_ref()
            .is_none_or(|(cached, _)| *cached != second)
        {
            let seconds = i64::try_from(second).unwrap_or(i64::MAX / 2);
            self.second = Some((second, date_time(seconds)));
        }
        let mut line = Line(&mut self.buffer);
        line.raw(b"{\"time\":\"");
        if let Some((_, text)) = &self.second {
            line.raw(text.as_bytes());
        }
        line.millis(record.at_millis % 1000);
        line.raw(match record.kind {
            Kind::Request => b"\",\"kind\":\"request\"",
            Kind::Handshake => b"\",\"kind\":\"handshake\"",
        });
        match record.kept {
            Some(Kept(text)) => line.raw(text.get_or_init(|| {
                let mut text = Vec::new();
                Line(&mut text).connection(record);
                text.into()
            })),
            None => line.connection(record),
        }
        line.text(text_member!("request_id"), record.request_id);
        line.bytes(text_member!("authority"), record.authority);
        line.text(text_member!("method"), record.method);
        line.bytes(text_member!("path"), record.path.map(without_query));
        line.number(member!("status"), record.status.map(u64::from));
        line.text(text_member!("reason"), record.reason.map(Reason::code));
        let blame = record.reason.map(|reason| reason.blame().code());
        line.text(text_member!("blame"), blame);
        line.text(text_member!("detail"), record.detail);
        let body = |bytes| Some(bytes).filter(|_| record.kind == Kind::Request);
        line.number(member!("bytes_in"), body(record.bytes_in));
        line.number(member!("bytes_out"), body(record.bytes_out));
        line.number(member!("duration_us"), Some(record.duration_us));
        line.number(member!("upstream_duration_us"), record.upstream_duration_us);
        line.text(text_member!("route_id"), record.route_id);
        line.text(text_member!("service_id"), record.service_id);
        line.text(text_member!("upstream_id"), record.upstream_id);
        line.text(text_member!("node"), record.node);
        line.text(text_member!("upstream_sni"), record.upstream_sni);
        line.raw(b"}\n");
    }
}

/// A stranger's bytes as a text that cannot forge a line or move a terminal's cursor.
///
/// As nginx's `escape=default`: control characters, invalid UTF-8, the backslash, and characters
/// that turn the direction of a text or break lines become `\xNN` for each byte. Cut after 2,048
/// bytes, with `…`.
#[must_use]
pub fn visible(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().min(TEXT_BYTES));
    'chunks: for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if text.len() >= TEXT_BYTES {
                break 'chunks;
            }
            if is_plain(c) {
                text.push(c);
            } else {
                push_hex(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        push_hex(&mut text, chunk.invalid());
        if text.len() >= TEXT_BYTES {
            break;
        }
    }
    if text.len() >= TEXT_BYTES {
        text.push('…');
    }
    text
}

fn is_plain(c: char) -> bool {
    let turns_or_breaks = matches!(c,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    c != '\\' && !c.is_control() && !turns_or_breaks
}

/// Whether a text of JSON may have all of these bytes as they are. Several are looked at in one step,
/// some of them twice.
fn needs_no_escape(bytes: &[u8]) -> bool {
    let all = |bytes: &[u8]| {
        let is_plain = |b: u8| (b' '..=b'~').contains(&b) & (b != b'"') & (b != b'\\');
        bytes.iter().fold(true, |all, byte| all & is_plain(*byte))
    };
    if let Some(last) = bytes.last_chunk::<16>() {
        let (chunks, _) = bytes.as_chunks::<16>();
        return all(last) && chunks.iter().all(|chunk| all(chunk));
    }
    match (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        (Some(first), Some(last)) => all(first) & all(last),
        _ => all(bytes),
    }
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        text.push_str(&format!("\\x{byte:02x}"));
    }
}

fn without_query(path: &[u8]) -> &[u8] {
    path.split(|byte| *byte == b'?').next().unwrap_or(path)
}

/// Appends members to a JSON object that has one already.
struct Line<'a>(&'a mut Vec<u8>);

impl Line<'_> {
    fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// What is the same in all lines of a connection.
    fn connection(&mut self, record: &Record<'_>) {
        self.text(text_member!("listener"), Some(record.listener));
        self.peer(record.peer);
        self.bytes(text_member!("sni"), record.sni);
        self.text(text_member!("tls_version"), record.tls_version);
        self.text(text_member!("cipher"), record.cipher);
        if let Some(resumed) = record.resumed {
            self.raw(member!("resumed").as_bytes());
            self.raw(if resumed { b"true" } else { b"false" });
        }
        if let Some(client) = record.client {
            self.text(text_member!("client_subject"), Some(&client.subject));
            self.text(text_member!("client_issuer"), Some(&client.issuer));
            self.text(text_member!("client_serial"), Some(&client.serial));
            self.text(text_member!("client_not_after"), Some(&client.not_after));
        }
        self.text(text_member!("ssl_id"), record.ssl_id);
    }

    fn text(&mut self, member: &str, text: Option<&str>) {
        self.bytes(member, text.map(str::as_bytes));
    }

    fn bytes(&mut self, member: &str, bytes: Option<&[u8]>) {
        let Some(bytes) = bytes else {
            return;
        };
        self.raw(member.as_bytes());
        if bytes.len() < TEXT_BYTES && needs_no_escape(bytes) {
            self.raw(bytes);
        } else {
            for byte in visible(bytes).bytes() {
                if byte == b'"' || byte == b'\\' {
                    self.0.push(b'\\');
                }
                self.0.push(byte);
            }
        }
        self.0.push(b'"');
    }

    fn number(&mut self, member: &str, number: Option<u64>) {
        if let Some(number) = number {
            self.raw(member.as_bytes());
            self.digits(number);
        }
    }

    fn peer(&mut self, peer: SocketAddr) {
        use std::io::Write as _;
        // Writing to a `Vec` cannot fail; an address needs no escape.
        let _ = write!(self.0, concat!(text_member!("peer"), "{}\""), peer);
    }

    fn digits(&mut self, number: u64) {
        self.raw(itoa::Buffer::new().format(number).as_bytes());
    }

    fn millis(&mut self, millis: u64) {
        self.raw(match millis {
            0..10 => b".00",
            10..100 => b".0",
            _ => b".",
        });
        self.digits(millis);
        self.raw(b"Z");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn peer() -> SocketAddr {
        "192.0.2.1:5000".parse().unwrap()
    }

    fn line(record: &Record<'_>) -> String {
        let mut log = AccessLog::off();
        log.append(record);
        String::from_utf8(log.buffer.clone()).unwrap()
    }

    #[test]
    fn short_record_has_what_every_record_has() {
        let record = Record::new(Kind::Handshake, 1_776_168_000_007, "https", peer());
        assert_eq!(
            line(&record),
            "{\"time\":\"2026-04-14T12:00:00.007Z\",\"kind\":\"handshake\",\"listener\":\"https\",\
             \"peer\":\"192.0.2.1:5000\",\"duration_us\":0}\n"
        );
    }

    #[test]
    fn full_record_is_json_with_every_fact() {
        let client = ClientFacts::new(
            "CN=a \"b\"".to_owned(),
            "CN=ca".to_owned(),
            "0A".to_owned(),
            0,
        );
        let record = Record {
            request_id: Some("id"),
            sni: Some(b"a.test"),
            authority: Some(b"a.test"),
            method: Some("GET"),
            path: Some(b"/p?token=hush"),
            status: Some(502),
            reason: Some(Reason::UpstreamCaUnknown),
            detail: Some("why"),
            bytes_in: 1,
            bytes_out: 2,
            duration_us: 3,
            upstream_duration_us: Some(4),
            tls_version: Some("TLSv1.3"),
            cipher: Some("TLS_AES_256_GCM_SHA384"),
            resumed: Some(true),
            client: Some(&client),
            ssl_id: Some("s"),
            route_id: Some("r"),
            service_id: Some("v"),
            upstream_id: Some("u"),
            node: Some("n:1"),
            upstream_sni: Some("n"),
            ..Record::new(Kind::Request, 0, "https", peer())
        };
        let text = line(&record);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["path"], "/p");
        assert_eq!(json["blame"], "upstream");
        assert_eq!(json["client_subject"], "CN=a \"b\"");
        assert_eq!(json["client_not_after"], "1970-01-01T00:00:00.000Z");
        assert_eq!(json["resumed"], true);
        assert_eq!(json.as_object().unwrap().len(), 30);
        assert!(!text.contains("hush"));
    }

    #[test]
    fn what_a_connection_keeps_reads_as_what_is_formatted_anew() {
        let client = ClientFacts::new("CN=a".into(), "CN=\"ca\"".into(), "0A".into(), 0);
        let kept = Kept::default();
        for path in [&b"/one"[..], b"/two"] {
            let anew = Record {
                sni: Some(b"a\n.test"),
                path: Some(path),
                tls_version: Some("TLSv1.3"),
                resumed: Some(false),
                client: Some(&client),
                ssl_id: Some("s"),
                ..Record::new(Kind::Request, 0, "https", peer())
            };
            let again = Record {
                kept: Some(&kept),
                ..anew
            };
            assert_eq!(line(&again), line(&anew));
        }
        let bare = Record::new(Kind::Request, 0, "http", peer());
        let of_another = Record {
            kept: Some(&kept),
            ..bare
        };
        assert!(line(&of_another).contains("\"client_subject\":\"CN=a\""));
        assert!(!line(&bare).contains("client_subject"));
    }

    #[test]
    fn strangers_bytes_cannot_forge_a_line() {
        for (bytes, expected) in [
            (&b"a\n{\"time\":1}\r"[..], "a\\x0a{\"time\":1}\\x0d"),
            (b"\xff\xc3(", "\\xff\\xc3("),
            (b"\x1b[2J\x7f", "\\x1b[2J\\x7f"),
            (
                "\u{202e}\u{2028}\u{85}".as_bytes(),
                "\\xe2\\x80\\xae\\xe2\\x80\\xa8\\xc2\\x85",
            ),
            (b"a\\n", "a\\x5cn"),
            ("größe".as_bytes(), "größe"),
        ] {
            assert_eq!(visible(bytes), expected);
            let record = Record {
                sni: Some(bytes),
                ..Record::new(Kind::Handshake, 0, "https", peer())
            };
            let text = line(&record);
            assert_eq!(text.lines().count(), 1);
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(json["sni"], expected);
        }
    }

    #[test]
    fn long_text_is_cut() {
        let long = vec![b'a'; 100_000];
        let text = visible(&long);
        assert_eq!(text.len(), TEXT_BYTES + '…'.len_utf8());
        let record = Record {
            path: Some(&long),
            ..Record::new(Kind::Request, 0, "http", peer())
        };
        assert!(line(&record).len() < 2 * TEXT_BYTES);
        assert!(visible(&[0xff; 100_000]).len() <= TEXT_BYTES + 20);
    }

    proptest! {
        #[test]
        fn any_bytes_give_one_line_of_json_that_reads_back(bytes: Vec<u8>) {
            let record = Record {
                authority: Some(&bytes),
                ..Record::new(Kind::Request, 0, "http", peer())
            };
            let text = line(&record);
            prop_assert_eq!(text.lines().count(), 1);
            prop_assert!(!text.trim_end().chars().any(char::is_control));
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(json["authority"].as_str().unwrap(), visible(&bytes));
        }
    }
}
