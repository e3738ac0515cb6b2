//! One request that was let in: what answers it, its body, and what becomes of a refusal.

use std::error::Error as _;
use std::pin::Pin;

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt};
use http::header::{HeaderName, HeaderValue};
use serde_json::Value;
use zeroize::Zeroizing;

use super::reply::{self, Answer, Refusal};
use super::request::{self, Head};
use super::{Admin, api7, apisix, own};
use crate::control::{Actor, Flavour, Show, WriteError};
use crate::resource::{escaped, shown};

/// The longest body that is parsed on the reactor: about a millisecond.
const INLINE_BYTES: usize = 64 * 1024;
/// How many characters of a refusal go into the log.
const LOGGED_CHARS: usize = 1024;

/// A body that was not read yet.
pub(super) type Body = Pin<Box<dyn Stream<Item = Result<Bytes, warp::Error>> + Send + Sync>>;

/// Hides what kind of stream it is.
pub(super) fn boxed<B: Buf>(
    stream: impl Stream<Item = Result<B, warp::Error>> + Send + Sync + 'static,
) -> Body {
    Box::pin(stream.map(|part| part.map(|mut part| part.copy_to_bytes(part.remaining()))))
}

/// A request that was let in.
pub(super) struct Call<'r> {
    /// What the Admin API works with.
    pub(super) state: &'r Admin,
    /// The request.
    pub(super) head: &'r Head,
    /// Whose spelling and envelopes are meant.
    pub(super) flavour: Flavour,
    /// Who calls.
    pub(super) actor: &'r Actor,
    /// The body, until it is read to its end.
    pub(super) body: &'r mut Option<Body>,
}

impl Call<'_> {
    /// Finds who answers, and words a refusal.
    pub(super) async fn answer(mut self) -> Answer {
        let (head, actor) = (self.head, self.actor);
        let segments = match &head.segments {
            Ok(segments) => segments,
            Err(error) => return refused((*error).into(), head, actor),
        };
        let words: Vec<&str> = segments.iter().map(String::as_str).collect();
        let answered = |answer: Result<Answer, Refusal>| match answer {
            Ok(answer) => answer,
            Err(refusal) => refused(refusal, head, actor),
        };
        match words.as_slice() {
            ["apisix", "admin", rest @ ..] => {
                let mut answer = answered(apisix::answer(&mut self, rest).await);
                set(&mut answer, "x-api-version", "v3");
                answer
            }
            ["api", rest @ ..] => answered(api7::answer(&self, rest)),
            ["portcullis", "v1", rest @ ..] => answered(own::answer(&mut self, rest).await),
            _ => answered(Err(Refusal::NoPath)),
        }
    }

    /// Reads the body as JSON; `None` when there is none, or it was read before.
    pub(super) async fn read_body(&mut self) -> Result<Option<Value>, Refusal> {
        let body = self.read_bytes().await?;
        if body.len() <= INLINE_BYTES {
            return Ok(request::parse_body(&body)?);
        }
        compute(move || Ok(request::parse_body(&body)?)).await
    }

    /// Reads the body as it is; empty when there is none, or it was read before.
    pub(super) async fn read_bytes(&mut self) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let head = self.head;
        let Some(stream) = self.body.as_mut() else {
            return Ok(Zeroizing::default());
        };
        let body = request::read_body(head.content_length(), head.body_limit(), stream).await?;
        *self.body = None;
        Ok(body)
    }

    /// How withheld fields are shown on reads.
    pub(super) fn show(&self) -> Show {
        match self.head.header("x-portcullis-withheld") {
            Some("show") => Show::Placeholders,
            _ => Show::Omitted,
        }
    }

    /// Whether the writer knows that the change makes something less strict.
    pub(super) fn allows_weaker(&self) -> bool {
        self.head.header("x-portcullis-allow-weaker") == Some("1")
    }
}

/// Does work that takes long off the reactor.
pub(super) async fn compute<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => {
            tracing::error!(%error, "admin: work did not finish");
            Err(Refusal::Internal)
        }
    }
}

/// Sets a header field of ours.
pub(super) fn set(answer: &mut Answer, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers.insert(HeaderName::from_static(name), value);
    }
}

/// The answer to a refused request, with a line in the log: ours at error, with the cause, the
/// caller's at info.
pub(super) fn refused(refusal: Refusal, head: &Head, actor: &Actor) -> Answer {
    let peer = actor.peer.map(tracing::field::display);
    let (caller, request_id) = (actor.name.as_str(), actor.request_id.as_str());
    let method = head.method.as_str();
    let path = shown(&head.segments.as_deref().unwrap_or_default().join("/"));
    if let Refusal::Write(error @ (WriteError::Store(_) | WriteError::Internal)) = &refusal {
        let cause = error.source();
        tracing::error!(
            error = cause,
            peer,
            caller,
            request_id,
            method,
            path,
            "admin: {error}"
        );
    } else {
        let faults = refusal.faults().map(reply::all_faults);
        // One line, whatever a peer's text in it holds.
        let text = escaped(&refusal.to_string(), LOGGED_CHARS);
        tracing::info!(
            peer,
            caller,
            request_id,
            method,
            path,
            faults,
            "admin: refused: {text}"
        );
    }
    refusal.into_answer()
}
