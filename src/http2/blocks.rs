//! Header blocks that came: requests, answers, trailers (RFC 9113 §4.3, §6.2, §6.10, §8.1).

use std::rc::Rc;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
};

use super::core::{Core, Farewell, Role};
use super::error::{By, Error, Fault, Reason};
use super::frame::{self, Head, MAX_PAYLOAD, flag};
use super::hpack::{Effect, Group, NoBlock, field};
use super::message::{Answer, BlockWriter, Fields, Malformed, Trailers};
use super::receive::{Done, depends_on, late_on};
use super::repeated::Repeated;
use super::stream::Half;

/// The most heads that only inform before an answer.
const INFORMING_HEADS: u8 = 100;
/// How many of them wait to be taken; those behind are dropped.
const UNTAKEN: usize = 8;
/// Lists of header fields that are so many times larger than what is taken end the connection.
const FAR_TOO_LARGE: usize = 4;
/// Frames that a header block may be divided into, if it would need fewer.
const PIECES: usize = 5;

/// A block of which more is to come.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) stream: u32,
    is_end: bool,
    bytes: Vec<u8>,
    /// Frames so far.
    pieces: usize,
}

/// Blocks of requests, and what they say: clients ask few things again and again.
pub(super) type Requests = Repeated<KnownRequest, 8, 256>;
/// Blocks of answers, and what they say: few kinds at a time, as most services answer alike.
pub(super) type Heads = Repeated<Known, 8, 512>;
/// Blocks of trailers behind answers, and what they say.
pub(super) type Tails = Repeated<KnownTrailers, 4, 256>;

/// The longest list of fields that is kept of a client, in bytes: a block of few bytes may say many.
const KEPT_OF_CLIENT: usize = 2048;

/// The head of a request that came before.
#[derive(Debug)]
pub(super) struct KnownRequest {
    /// Its block's.
    effect: Effect,
    method: Method,
    uri: Uri,
    length: Option<u64>,
    fields: Rc<Group>,
}

/// The trailers of an answer that came before.
#[derive(Debug)]
pub(super) struct KnownTrailers {
    /// Their block's.
    effect: Effect,
    fields: Rc<Group>,
}

/// The head of an answer that came before.
#[derive(Debug)]
pub(super) struct Known {
    /// Its block's.
    effect: Effect,
    status: StatusCode,
    length: Option<u64>,
    fields: Rc<Group>,
}

impl Core {
    pub(super) fn headers(&mut self, head: Head, payload: &[u8]) -> Done {
        let id = head.stream;
        if id.is_multiple_of(2) {
            return Err(Fault::protocol("header fields of no stream of a client"));
        }
        let mut block = frame::unpadded(head, payload)?;
        if head.has(flag::PRIORITY) {
            let (priority, rest) = block
                .split_at_checked(5)
                .ok_or(Fault::size("a priority that is cut off"))?;
            if depends_on(priority) == Some(id) {
                return Err(Fault::protocol("a stream that depends on itself"));
            }
            block = rest;
        }
        let is_end = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.block(id, is_end, block);
        }
        self.reading.block = Some(Block {
            stream: id,
            is_end,
            bytes: block.to_vec(),
            pieces: 1,
        });
        Ok(())
    }

    pub(super) fn continuation(&mut self, head: Head, payload: &[u8]) -> Done {
        let Some(block) = &mut self.reading.block else {
            return Err(Fault::protocol("a CONTINUATION of nothing"));
        };
        block.pieces += 1;
        block.bytes.extend_from_slice(payload);
        // A list counts no less than its block has bytes, unless most of it is in the tables or in rare
        // letters: one that may be taken is not longer.
        let most = self.limits.header_list;
        // A quarter more than full frames would take.
        let pieces = most / MAX_PAYLOAD;
        if block.bytes.len() > most || block.pieces > PIECES.max(pieces + pieces / 4) {
            return Err(Fault::flood("a header block that does not end"));
        }
        if !head.has(flag::END_HEADERS) {
            return Ok(());
        }
        match self.reading.block.take() {
            Some(block) => self.block(block.stream, block.is_end, &block.bytes),
            None => Ok(()),
        }
    }

    /// A whole block came.
    fn block(&mut self, id: u32, is_end: bool, block: &[u8]) -> Done {
        let key = self.streams.find(id);
        if let Some(key) = key.filter(|key| self.awaits_answer(*key))
            && let Some(known) = self.heads.find(block)
            && self.decoder.repeat(&known.effect)
        {
            let mut answer = Response::new(Some(known.fields.clone()));
            *answer.status_mut() = known.status;
            *answer.version_mut() = Version::HTTP_2;
            let length = known.length;
            return self.answered(key, is_end, answer, length);
        }
        if let Some(key) = key.filter(|key| self.awaits_trailers(*key))
            && let Some(known) = self.tails.find(block)
            && self.decoder.repeat(&known.effect)
        {
            let trailers = Trailers::Known(known.fields.clone());
            return self.trailers(key, id, is_end, trailers);
        }
        if key.is_none()
            && self.role == Role::Server
            && id > self.highest
            && let Some(known) = self.asks.find(block)
            && self.decoder.repeat(&known.effect)
        {
            let (request, length) = (known.request(self.stock.take_map()), known.length);
            if self.admits(id)? {
                return self.begun(id, is_end, request, length);
            }
            self.stock.give_map(request.into_parts().0.headers);
            return Ok(());
        }
        let spare = key
            .and_then(|key| self.streams.get_mut(key))
            .and_then(|stream| stream.spare.take());
        let map = spare.unwrap_or_else(|| self.stock.take_map());
        let mut fields = Fields::new(map, self.limits.header_list);
        self.decoder
            .decode(block, |field, size| fields.take(field, size))
            .map_err(|NoBlock| no_block())?;
        if fields.size() > self.limits.header_list.saturating_mul(FAR_TOO_LARGE) {
            return Err(Fault::flood(
                "a list of header fields that is far too large",
            ));
        }
        let Some(key) = key else {
            return match self.role {
                Role::Server if id > self.highest => self.request(id, is_end, fields, block),
                Role::Client if self.is_idle(id) => {
                    Err(Fault::protocol("an answer to what nobody asked"))
                }
                Role::Server if !self.is_passed_over(id) && id > self.forgotten => {
                    let detail = "header fields of a stream that is over";
                    Err(Fault::Connection(Reason::STREAM_CLOSED, detail))
                }
                Role::Client | Role::Server => {
                    self.stock.give_map(fields.into_map());
                    self.late(id)
                }
            };
        };
        let Some(stream) = self.streams.get(key) else {
            return Ok(());
        };
        if let Some(error) = &stream.broken {
            let is_ours = !matches!(error, Error::Reset(_, By::Peer)) || self.reset.contains(&id);
            self.stock.give_map(fields.into_map());
            return late_on(id, is_ours);
        }
        match stream.incoming {
            Half::Head => self.answer(key, is_end, fields, block),
            Half::Content => self.read_trailers(key, id, is_end, fields, block),
            Half::Whole => Err(Fault::Stream(id, Reason::STREAM_CLOSED)),
        }
    }

    /// A client begins a stream by this block.
    fn request(&mut self, id: u32, is_end: bool, fields: Fields, block: &[u8]) -> Done {
        if !self.admits(id)? {
            self.stock.give_map(fields.into_map());
            return Ok(());
        }
        if fields.is_too_large() {
            let map = fields.into_map();
            self.refuse_head(id, is_end);
            self.stock.give_map(map);
            return Ok(());
        }
        let is_short = fields.size() <= KEPT_OF_CLIENT;
        let (request, length) = fields
            .into_request()
            .map_err(|error| malformed(id, error))?;
        if is_short {
            self.asks.keep(block, || {
                Some(KnownRequest {
                    fields: group_of(request.headers())?,
                    effect: self.decoder.effect()?,
                    method: request.method().clone(),
                    uri: request.uri().clone(),
                    length,
                })
            });
        }
        self.begun(id, is_end, request, length)
    }

    /// Whether a stream that a client begins is looked at; an error, if it is refused.
    fn admits(&mut self, id: u32) -> Result<bool, Fault> {
        if matches!(self.farewell, Farewell::Said(last) if id > last) {
            // It will ask elsewhere. What it sends on is passed over.
            self.highest = id;
            return Ok(false);
        }
        self.highest = id;
        let most = self.limits.streams;
        if self.open < most {
            // Those that are over count as well, as long as somebody works on them, up to four times as
            // many. No client can know of that.
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            if self.streams.len() >= most.saturating_mul(4) {
                return Err(Fault::Unwanted(id, Reason::REFUSED_STREAM));
            }
            return Ok(true);
        }
        if !self.peer.has_acknowledged && self.early < self.limits.remembered {
            self.early += 1;
            return Err(Fault::Unwanted(id, Reason::REFUSED_STREAM));
        }
        Err(Fault::Stream(id, Reason::REFUSED_STREAM))
    }

    /// A stream begins with this request, which announces that length.
    fn begun(&mut self, id: u32, is_end: bool, request: Request<()>, length: Option<u64>) -> Done {
        // What has ended has no content (§8.1.1).
        if is_end && length.is_some_and(|length| length > 0) {
            return Err(Fault::Stream(id, Reason::PROTOCOL_ERROR));
        }
        let key = self.new_stream(id);
        if let Some(stream) = self.streams.get_mut(key) {
            stream.incoming = if is_end { Half::Whole } else { Half::Content };
            (stream.announced, stream.left) = (length, length);
        }
        self.open += 1;
        self.requests.push_back((request, key));
        Ok(())
    }

    /// Answers a head that is too large, by 431 and nothing else (RFC 6585 §5).
    fn refuse_head(&mut self, id: u32, is_end: bool) {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        let mut writer = BlockWriter {
            encoder: &mut self.encoder,
            out: &mut self.out,
        };
        writer.response(id, status, (None, &HeaderMap::new()), true);
        if !is_end {
            self.say_reset(id, Reason::NO_ERROR);
        }
        self.stir();
    }

    /// Whether a stream is one of ours that has no answer yet.
    fn awaits_answer(&self, key: usize) -> bool {
        let stream = self.streams.get(key);
        self.role == Role::Client
            && stream.is_some_and(|stream| stream.incoming == Half::Head && stream.broken.is_none())
    }

    /// Whether a stream is one of ours whose answer has begun and not ended.
    fn awaits_trailers(&self, key: usize) -> bool {
        let stream = self.streams.get(key);
        self.role == Role::Client
            && stream
                .is_some_and(|stream| stream.incoming == Half::Content && stream.broken.is_none())
    }

    /// The head of an answer came, or one that only informs, by this block.
    fn answer(&mut self, key: usize, is_end: bool, fields: Fields, block: &[u8]) -> Done {
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(());
        };
        let id = stream.id;
        if fields.is_too_large() {
            return Err(Fault::Stream(id, Reason::PROTOCOL_ERROR));
        }
        let (answer, length) = fields
            .into_response()
            .map_err(|error| malformed(id, error))?;
        let status = answer.status();
        if status.is_informational() {
            stream.informed = stream.informed.saturating_add(1);
            let reason = if is_end {
                Reason::PROTOCOL_ERROR
            } else if stream.informed > INFORMING_HEADS {
                Reason::ENHANCE_YOUR_CALM
            } else {
                if stream.has_reader && stream.informing.len() < UNTAKEN {
                    stream.informing.push_back(answer.map(|()| None));
                    stream.reader.wake();
                } else {
                    self.stock.give_map(answer.into_parts().0.headers);
                }
                return Ok(());
            };
            return Err(Fault::Stream(id, reason));
        }
        self.heads.keep(block, || {
            Some(Known {
                fields: group_of(answer.headers())?,
                effect: self.decoder.effect()?,
                status,
                length,
            })
        });
        self.answered(key, is_end, answer.map(|()| None), length)
    }

    /// An answer's head came, and announces that length.
    fn answered(&mut self, key: usize, is_end: bool, answer: Answer, length: Option<u64>) -> Done {
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(());
        };
        let status = answer.status();
        stream.is_bare |= status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
        let has_content = !stream.is_bare;
        if has_content && is_end && length.is_some_and(|length| length > 0) {
            return Err(Fault::Stream(stream.id, Reason::PROTOCOL_ERROR));
        }
        (stream.announced, stream.left) = (length, length.filter(|_| has_content));
        stream.incoming = if is_end { Half::Whole } else { Half::Content };
        if stream.has_reader {
            stream.answer = Some(answer);
        } else {
            self.stock.give_map(answer.into_parts().0.headers);
        }
        self.heard(key, is_end);
        Ok(())
    }

    /// Trailers came by this block.
    fn read_trailers(
        &mut self,
        key: usize,
        id: u32,
        is_end: bool,
        fields: Fields,
        block: &[u8],
    ) -> Done {
        if fields.is_too_large() {
            return Err(Fault::Stream(id, Reason::PROTOCOL_ERROR));
        }
        let trailers = fields
            .into_trailers()
            .map_err(|error| malformed(id, error))?;
        if self.role == Role::Client {
            self.tails.keep(block, || {
                Some(KnownTrailers {
                    fields: group_of(&trailers)?,
                    effect: self.decoder.effect()?,
                })
            });
        }
        self.trailers(key, id, is_end, Trailers::Fields(trailers))
    }

    fn trailers(&mut self, key: usize, id: u32, is_end: bool, trailers: Trailers) -> Done {
        if !is_end {
            return Err(Fault::Stream(id, Reason::PROTOCOL_ERROR));
        }
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(());
        };
        if stream.left.is_some_and(|left| left > 0) {
            return Err(Fault::Stream(id, Reason::PROTOCOL_ERROR));
        }
        stream.incoming = Half::Whole;
        // Nothing comes behind an answer without content (RFC 9110 §6.5).
        if stream.has_reader && !stream.is_bare {
            stream.trailers = Some(trailers);
        } else if let Trailers::Fields(map) = trailers {
            self.stock.give_map(map);
        }
        self.heard(key, true);
        Ok(())
    }
}

impl KnownRequest {
    /// It comes again; its fields are put into `map`, which is empty.
    fn request(&self, map: HeaderMap) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = map;
        self.fields.put_into(request.headers_mut());
        request
    }
}

/// All fields as a group; `None`, if there is a secret among them.
fn group_of(headers: &HeaderMap) -> Option<Rc<Group>> {
    if headers.iter().any(is_secret) {
        return None;
    }
    let fields = headers.iter();
    Some(Group::new(
        fields.map(|(name, value)| (name.clone(), value.clone())),
    ))
}

/// Whether nobody may remember it (RFC 7541 §7.1.3).
fn is_secret((name, value): (&HeaderName, &HeaderValue)) -> bool {
    value.is_sensitive() || field::is_secret(name)
}

fn no_block() -> Fault {
    let detail = "a header block that is none";
    Fault::Connection(Reason::COMPRESSION_ERROR, detail)
}

fn malformed(id: u32, Malformed: Malformed) -> Fault {
    Fault::Stream(id, Reason::PROTOCOL_ERROR)
}
