//! What was sent of a request's body and may have to be sent again: where its method may be repeated
//! and a node broke off, or an upstream of HTTP/2 refused a stream that it did nothing with
//! (RFC 9113 §8.7), when a part of the body is on its way.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use smallvec::SmallVec;
use tokio::sync::Notify;

use crate::net::sweep::Sweep;
use crate::proxy::body::{RequestBody, Upload};

/// The most that is kept of a body, in bytes; of a longer one nothing is.
const KEPT: usize = 64 << 10;
/// The most that is sent at once of what is at hand: by its parts it shows how it is taken.
const AT_ONCE: usize = 16 << 10;
/// How long a body that was given up is waited for: it is held by a task of the same thread.
const RETURN: Duration = Duration::from_secs(1);

/// A part of a body.
#[derive(Clone)]
pub enum Part {
    /// Of its content.
    Data(Bytes),
    /// Its end.
    Trailers(HeaderMap),
}

impl Part {
    /// The same frame, to be kept.
    #[must_use]
    pub fn of(frame: &Frame<Bytes>) -> Option<Self> {
        if let Some(data) = frame.data_ref() {
            return Some(Self::Data(data.clone()));
        }
        frame.trailers_ref().cloned().map(Self::Trailers)
    }

    /// Its frame.
    #[must_use]
    pub fn into_frame(self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data),
            Self::Trailers(trailers) => Frame::trailers(trailers),
        }
    }

    /// Bytes of content.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Trailers(_) => 0,
        }
    }

    /// Whether it has no content.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Takes as much of the first of some parts as is sent at once.
pub fn next(parts: &mut VecDeque<Part>) -> Option<Part> {
    if let Some(Part::Data(data)) = parts.front_mut()
        && data.len() > AT_ONCE
    {
        return Some(Part::Data(data.split_to(AT_ONCE)));
    }
    parts.pop_front()
}

/// What was sent of a body so far, in this order; mostly it is one part.
pub type Parts = SmallVec<[Part; 1]>;

/// What was sent of a body, as long as it is short, and where the rest is put when it is given up.
pub struct Return {
    upload: Rc<Upload>,
    parts: RefCell<Parts>,
    bytes: Cell<usize>,
    left: RefCell<Left>,
    came: Notify,
}

/// What is left of a body that is kept.
enum Left {
    /// It is being sent, or will not come.
    Nothing,
    /// All of it was sent.
    End,
    /// There is more of it.
    Rest(Box<RequestBody>),
}

impl Return {
    /// Where a body is put that is known as `upload`.
    #[must_use]
    pub fn of(upload: Rc<Upload>) -> Self {
        Self {
            upload,
            parts: RefCell::default(),
            bytes: Cell::new(0),
            left: RefCell::new(Left::Nothing),
            came: Notify::new(),
        }
    }

    /// Keeps one more part that is sent; false when it is too much.
    pub fn keep(&self, part: Option<Part>) -> bool {
        let Some(part) = part else { return false };
        let bytes = self.bytes.get().saturating_add(part.len());
        self.bytes.set(bytes);
        self.parts.borrow_mut().push(part);
        bytes <= KEPT
    }

    /// It was given up; what was not sent of it is `rest`.
    pub fn put(&self, rest: Option<RequestBody>) {
        self.left
            .replace(rest.map_or(Left::End, |rest| Left::Rest(Box::new(rest))));
        self.came.notify_one();
    }

    /// Waits for it, as it was before anything was sent; `None` when none comes, because it was too long
    /// to be kept.
    pub async fn wait(&self, sweep: &Rc<Sweep>) -> Option<RequestBody> {
        let _late = sweep
            .within(sweep.after(RETURN), self.came.notified())
            .await;
        let rest = match self.left.replace(Left::Nothing) {
            Left::Nothing => return None,
            Left::End => RequestBody::at_hand(self.upload.clone(), sweep.clone()),
            Left::Rest(rest) => *rest,
        };
        Some(rest.behind(self.parts.take()))
    }

    /// It will not come.
    pub fn give_up(&self) {
        self.parts.take();
        self.came.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use http_body::Body;

    use super::*;

    #[test]
    fn what_is_at_hand_is_sent_by_and_by_and_counts_as_moving() {
        let sweep = Sweep::new();
        let content = [Bytes::from(vec![7; 40_000]), Bytes::from_static(b"end")];
        let mut body = RequestBody::of(&content, sweep.clone());
        let upload = body.upload();
        let mut cx = Context::from_waker(Waker::noop());
        for (now, length) in [
            (1, 16 << 10),
            (2, 16 << 10),
            (3, 40_000 - (32 << 10)),
            (4, 3),
        ] {
            sweep.clock().set(now);
            assert!(!body.is_end_stream());
            let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut cx) else {
                panic!("it is at hand");
            };
            assert_eq!(frame.into_data().unwrap().len(), length);
            assert_eq!(upload.moved_at.get(), now);
        }
        assert!(body.is_end_stream());
    }
}
