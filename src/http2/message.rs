//! Heads and trailers as header blocks: what is read is judged, what is written is right (RFC 9113
//! §8.1 to §8.3).

use std::rc::Rc;

use http::uri::{self, Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};

use super::frame::{self, HEAD_BYTES, Head, MAX_PAYLOAD, flag, kind};
use super::hpack::{Encoder, Field, Group};

/// The fields of one block, as they are read. What is too large or malformed is read to its end, as the
/// table changes with it, and not kept.
#[derive(Debug)]
pub(super) struct Fields {
    map: HeaderMap,
    pseudo: Pseudo,
    /// What they count so far, and may count, in bytes (RFC 9113 §6.5.2).
    size: usize,
    most: usize,
    is_malformed: bool,
    /// The announced length of the content.
    length: Option<u64>,
}

#[derive(Debug, Default)]
struct Pseudo {
    authority: Option<Authority>,
    method: Option<Method>,
    path: Option<PathAndQuery>,
    scheme: Option<Scheme>,
    status: Option<StatusCode>,
}

impl Pseudo {
    fn is_empty(&self) -> bool {
        self.authority.is_none()
            && self.method.is_none()
            && self.path.is_none()
            && self.scheme.is_none()
            && self.status.is_none()
    }
}

/// A message that is none (RFC 9113 §8.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// A head, and the length of its content as announced.
pub(super) type Announced<T> = (T, Option<u64>);

impl Fields {
    /// None yet: they are put into `map`, which is empty, as long as they count no more than `most`.
    pub(super) fn new(map: HeaderMap, most: usize) -> Self {
        Self {
            map,
            pseudo: Pseudo::default(),
            size: 0,
            most,
            is_malformed: false,
            length: None,
        }
    }

    /// Takes the next one, which counts `size`.
    pub(super) fn take(&mut self, field: Field, size: usize) {
        self.size = self.size.saturating_add(size);
        if self.size > self.most || self.is_malformed {
            return;
        }
        let is_said_twice = match field {
            Field::Header(name, value) => {
                if name == header::CONTENT_LENGTH {
                    let is_said = self.length.is_some();
                    self.is_malformed |= !self.announces(&value);
                    if is_said {
                        // One line says it (RFC 9110 §8.6).
                        return;
                    }
                }
                // A map has room for more fields than any list that is taken.
                self.is_malformed |= self.map.try_append(name, value).is_err();
                return;
            }
            Field::Authority(authority) => self.pseudo.authority.replace(authority).is_some(),
            Field::Method(method) => self.pseudo.method.replace(method).is_some(),
            Field::Path(path) => self.pseudo.path.replace(path).is_some(),
            Field::Scheme(scheme) => self.pseudo.scheme.replace(scheme).is_some(),
            Field::Status(status) => self.pseudo.status.replace(status).is_some(),
            Field::Malformed(_) => true,
        };
        // Pseudo-header fields come first (§8.3).
        self.is_malformed |= is_said_twice || !self.map.is_empty();
    }

    /// Takes an announced length; false, if it is none, or another than before.
    fn announces(&mut self, value: &HeaderValue) -> bool {
        let digits = value.as_bytes();
        // 18 digits do not overflow.
        if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
            return false;
        }
        let add = |sum: u64, digit: &u8| sum * 10 + u64::from(digit - b'0');
        let length = digits.iter().fold(0, add);
        self.length
            .replace(length)
            .is_none_or(|before| before == length)
    }

    /// What they count, in bytes.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Whether they count more than they may.
    pub(super) fn is_too_large(&self) -> bool {
        self.size > self.most
    }

    /// The map, where the rest is of no use.
    pub(super) fn into_map(self) -> HeaderMap {
        self.map
    }

    /// As a request's head.
    pub(super) fn into_request(self) -> Result<Announced<Request<()>>, Malformed> {
        let pseudo = self.pseudo;
        if self.is_malformed || pseudo.status.is_some() {
            return Err(Malformed);
        }
        let method = pseudo.method.ok_or(Malformed)?;
        let mut parts = uri::Parts::default();
        if method == Method::CONNECT {
            // It has neither (§8.5).
            if pseudo.scheme.is_some() || pseudo.path.is_some() {
                return Err(Malformed);
            }
        } else {
            let scheme = pseudo.scheme.ok_or(Malformed)?;
            parts.path_and_query = Some(pseudo.path.ok_or(Malformed)?);
            // The type has no scheme without an authority.
            parts.scheme = pseudo.authority.is_some().then_some(scheme);
        }
        parts.authority = pseudo.authority;
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = Uri::from_parts(parts).map_err(|_no_uri| Malformed)?;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.map;
        Ok((request, self.length))
    }

    /// As a response's head.
    pub(super) fn into_response(self) -> Result<Announced<Response<()>>, Malformed> {
        let pseudo = self.pseudo;
        let has_more = pseudo.method.is_some()
            || pseudo.path.is_some()
            || pseudo.scheme.is_some()
            || pseudo.authority.is_some();
        let status = pseudo.status.ok_or(Malformed)?;
        // Nothing switches protocols here (§8.6).
        if self.is_malformed || has_more || status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Malformed);
        }
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.version_mut() = Version::HTTP_2;
        *response.headers_mut() = self.map;
        Ok((response, self.length))
    }

    /// As trailers.
    pub(super) fn into_trailers(self) -> Result<HeaderMap, Malformed> {
        if self.is_malformed || !self.pseudo.is_empty() {
            return Err(Malformed);
        }
        Ok(self.map)
    }
}

/// A request's head, as it is to be written. Its Host and what headers say of a connection are left
/// out, and it says that trailers are understood.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// `:method`.
    pub method: &'a Method,
    /// `:scheme`: `https` or `http`.
    pub is_tls: bool,
    /// `:authority`.
    pub authority: &'a [u8],
    /// `:path`.
    pub path: &'a str,
    /// The fields.
    pub headers: &'a HeaderMap,
    /// Fields that other requests have as well, written behind them.
    pub group: Option<&'a Rc<Group>>,
}

/// An answer's head. It may have a group of fields beside its map: where it came before, to the letter,
/// those are all that it has.
pub type Answer = Response<Option<Rc<Group>>>;

/// What ends a message behind its content.
#[derive(Debug)]
pub enum Trailers {
    /// These fields.
    Fields(HeaderMap),
    /// Those that came before, to the letter.
    Known(Rc<Group>),
}

impl From<Trailers> for HeaderMap {
    fn from(trailers: Trailers) -> Self {
        match trailers {
            Trailers::Fields(fields) => fields,
            Trailers::Known(group) => {
                let mut fields = Self::new();
                group.put_into(&mut fields);
                fields
            }
        }
    }
}

/// An answer's fields: those that others have as well, and those behind them.
pub(super) type AnswerFields<'a> = (Option<&'a Rc<Group>>, &'a HeaderMap);

/// Where blocks are written, and with what table.
pub(super) struct BlockWriter<'a> {
    pub(super) encoder: &'a mut Encoder,
    pub(super) out: &'a mut Vec<u8>,
}

impl BlockWriter<'_> {
    /// A request's head.
    pub(super) fn request(&mut self, stream: u32, head: RequestHead<'_>, is_end: bool) {
        let begun = self.begin();
        let Self { encoder, out } = self;
        encoder.method(out, head.method.as_str());
        encoder.scheme(out, head.is_tls);
        encoder.path(out, head.path);
        encoder.authority(out, head.authority);
        for (name, value) in head.headers {
            if *name != header::HOST && *name != header::TE {
                encoder.header(out, name, value);
            }
        }
        if let Some(group) = head.group {
            encoder.group(out, group);
        }
        encoder.header(out, &header::TE, &TRAILERS);
        self.end(begun, stream, is_end);
    }

    /// A response's head.
    pub(super) fn response(
        &mut self,
        stream: u32,
        status: StatusCode,
        (group, headers): AnswerFields<'_>,
        is_end: bool,
    ) {
        let begun = self.begin();
        self.encoder.status(self.out, status);
        if let Some(group) = group {
            self.encoder.group(self.out, group);
        }
        self.fields(headers);
        self.end(begun, stream, is_end);
    }

    /// Trailers.
    pub(super) fn trailers(&mut self, stream: u32, trailers: &Trailers) {
        let begun = self.begin();
        match trailers {
            Trailers::Fields(fields) => self.fields(fields),
            Trailers::Known(group) => self.encoder.group(self.out, group),
        }
        self.end(begun, stream, true);
    }

    fn fields(&mut self, headers: &HeaderMap) {
        for (name, value) in headers {
            self.encoder.header(self.out, name, value);
        }
    }

    /// Room for a frame's head; where it is.
    fn begin(&mut self) -> usize {
        let begun = self.out.len();
        self.out.extend_from_slice(&[0; HEAD_BYTES]);
        self.encoder.begin(self.out);
        begun
    }

    /// Writes the head of the frame that began there, and divides it, if it is too long (§4.3).
    fn end(&mut self, begun: usize, stream: u32, is_end: bool) {
        let end_stream = if is_end { flag::END_STREAM } else { 0 };
        let length = self.out.len().saturating_sub(begun + HEAD_BYTES);
        if length > MAX_PAYLOAD {
            let block = self.out.split_off(begun);
            let block = block.get(HEAD_BYTES..).unwrap_or_default();
            let mut pieces = block.chunks(MAX_PAYLOAD).peekable();
            let mut next = (kind::HEADERS, end_stream);
            while let Some(piece) = pieces.next() {
                let (kind, flags) = next;
                let end = if pieces.peek().is_none() {
                    flag::END_HEADERS
                } else {
                    0
                };
                frame::write(self.out, kind, flags | end, stream, piece);
                next = (kind::CONTINUATION, 0);
            }
            return;
        }
        let head = Head {
            length,
            kind: kind::HEADERS,
            flags: end_stream | flag::END_HEADERS,
            stream,
        };
        if let Some(room) = self.out.get_mut(begun..).and_then(<[u8]>::first_chunk_mut) {
            *room = head.bytes();
        }
    }
}

const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

#[cfg(test)]
mod tests {
    use super::super::hpack::Decoder;
    use super::super::hpack::field::Name;
    use super::*;

    fn fields(lines: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::new(HeaderMap::new(), 1 << 16);
        for (name, value) in lines {
            let size = name.len() + value.len() + 32;
            let name = Name::read(name.as_bytes());
            fields.take(Field::read(&name, value.as_bytes(), false), size);
        }
        fields
    }

    const GET: [(&str, &str); 4] = [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/a?b"),
        (":authority", "h:1"),
    ];

    #[test]
    fn request_has_its_pseudo_header_fields_once_and_first() {
        let (head, length) = fields(&GET).into_request().unwrap();
        assert_eq!(head.uri(), "https://h:1/a?b");
        assert_eq!(
            (head.method(), head.version()),
            (&Method::GET, Version::HTTP_2)
        );
        assert_eq!(length, None);
        // An authority may be left out, nothing else.
        let (head, _) = fields(&GET[..3]).into_request().unwrap();
        assert_eq!(head.uri(), "/a?b");
        for missing in 0..3 {
            let mut lines = GET.to_vec();
            lines.remove(missing);
            assert_eq!(fields(&lines).into_request().err(), Some(Malformed));
        }
        for line in GET {
            let twice = [&GET[..], &[line]].concat();
            assert_eq!(fields(&twice).into_request().err(), Some(Malformed));
        }
        let late = [&GET[..3], &[("a", "b")], &GET[3..]].concat();
        assert_eq!(fields(&late).into_request().err(), Some(Malformed));
        let other = [&GET[..], &[(":status", "200")]].concat();
        assert_eq!(fields(&other).into_request().err(), Some(Malformed));
    }

    #[test]
    fn connect_has_an_authority_alone() {
        let connect = [(":method", "CONNECT"), (":authority", "h:1")];
        assert!(fields(&connect).into_request().is_ok());
        for more in [
            (":path", "/"),
            (":scheme", "https"),
            (":protocol", "websocket"),
        ] {
            let lines = [&connect[..], &[more]].concat();
            assert_eq!(fields(&lines).into_request().err(), Some(Malformed));
        }
    }

    #[test]
    fn response_has_a_status_alone() {
        let (head, _) = fields(&[(":status", "204"), ("a", "b")])
            .into_response()
            .unwrap();
        assert_eq!(
            (head.status(), head.headers().len()),
            (StatusCode::NO_CONTENT, 1)
        );
        for lines in [
            &[("a", "b")][..],
            &[(":status", "101")],
            &[(":status", "200"), (":status", "200")],
            &[(":status", "200"), (":path", "/")],
            &[("a", "b"), (":status", "200")],
        ] {
            assert_eq!(
                fields(lines).into_response().err(),
                Some(Malformed),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn trailers_have_no_pseudo_header_fields() {
        assert!(fields(&[("grpc-status", "0")]).into_trailers().is_ok());
        for line in [(":status", "200"), (":path", "/"), ("Upper", "a")] {
            assert_eq!(fields(&[line]).into_trailers().err(), Some(Malformed));
        }
    }

    #[test]
    fn lengths_are_numbers_and_agree() {
        let announced = |values: &[&str]| {
            let mut lines = GET.to_vec();
            lines.extend(values.iter().map(|value| ("content-length", *value)));
            fields(&lines).into_request().map(|(_, length)| length)
        };
        assert_eq!(announced(&["0"]), Ok(Some(0)));
        assert_eq!(announced(&["17", "17"]), Ok(Some(17)));
        assert_eq!(
            announced(&["999999999999999999"]),
            Ok(Some(999_999_999_999_999_999))
        );
        for values in [
            &[""][..],
            &["+1"],
            &["1, 1"],
            &["1x"],
            &["1", "2"],
            &["1", "01", "2"],
            &["1000000000000000000"],
        ] {
            assert_eq!(announced(values), Err(Malformed), "{values:?}");
        }
    }

    #[test]
    fn length_that_is_said_again_is_one_line() {
        let length = |value| ("content-length", value);
        let lines = [(":status", "200"), length("17"), ("a", "b"), length("17")];
        let (head, announced) = fields(&lines).into_response().unwrap();
        let lengths: Vec<_> = head.headers().get_all("content-length").iter().collect();
        assert_eq!(lengths, ["17"]);
        assert_eq!((head.headers().len(), announced), (2, Some(17)));
    }

    #[test]
    fn fields_beyond_the_limit_are_counted_and_not_kept() {
        let mut fields = Fields::new(HeaderMap::new(), 100);
        for _ in 0..10 {
            let name = Name::read(b"a");
            fields.take(Field::read(&name, b"b", false), 34);
        }
        assert!(fields.is_too_large());
        assert_eq!((fields.size(), fields.into_map().len()), (340, 2));
    }

    /// Reads what was written: the frames, and the lines of their block.
    fn read(out: &[u8]) -> (Vec<Head>, Vec<String>) {
        let (mut heads, mut block, mut rest) = (Vec::new(), Vec::new(), out);
        while let Some(head) = Head::read(rest) {
            block.extend_from_slice(&rest[9..9 + head.length]);
            rest = &rest[9 + head.length..];
            heads.push(head);
        }
        let mut lines = Vec::new();
        let take = |field: Field, _| lines.push(format!("{field:?}"));
        Decoder::default().decode(&block, take).unwrap();
        (heads, lines)
    }

    #[test]
    fn long_blocks_are_divided_and_what_is_of_a_connection_left_out() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close".to_owned()),
            ("keep-alive", "5".to_owned()),
            ("te", "gzip".to_owned()),
            ("host", "h".to_owned()),
            ("x-long", "a".repeat(40_000)),
        ] {
            let name: http::HeaderName = name.parse().unwrap();
            headers.insert(name, value.parse().unwrap());
        }
        let head = RequestHead {
            method: &Method::PUT,
            is_tls: true,
            authority: b"h",
            path: "/",
            headers: &headers,
            group: None,
        };
        let (mut encoder, mut out) = (Encoder::default(), Vec::new());
        let mut writer = BlockWriter {
            encoder: &mut encoder,
            out: &mut out,
        };
        writer.request(5, head, true);
        let (heads, lines) = read(&out);
        let said: Vec<_> = heads
            .iter()
            .map(|head| (head.kind, head.flags, head.length))
            .collect();
        assert_eq!(
            said[..2],
            [
                (kind::HEADERS, flag::END_STREAM, 16384),
                (kind::CONTINUATION, 0, 16384)
            ]
        );
        assert_eq!((said.len(), said[2].1), (3, flag::END_HEADERS));
        assert_eq!(lines.len(), 6, "{lines:?}");
        assert!(lines[5].contains("trailers"), "{lines:?}");

        out.clear();
        headers.remove("x-long");
        let mut writer = BlockWriter {
            encoder: &mut encoder,
            out: &mut out,
        };
        writer.response(7, StatusCode::OK, (None, &headers), false);
        let (heads, lines) = read(&out);
        assert_eq!(
            (heads.len(), heads[0].flags, heads[0].stream),
            (1, flag::END_HEADERS, 7)
        );
        // `te` and `host` are no fields of a connection.
        assert_eq!(lines.len(), 3, "{lines:?}");
    }
}
