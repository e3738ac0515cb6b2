//! A body as a stream of HTTP/2 carries it: what comes in, and what goes out.
//!
//! Both ways the windows are the limit: what came and was passed on makes room for more, and what
//! goes out is asked for when its peer takes it.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::sync::oneshot;

use crate::http2::{Error, Group, Piece, Reader, Reason, Trailers, Writer};
use crate::net::sweep::Sweep;
use crate::proxy::headers;

/// A body that comes in as a stream.
pub struct Inflow {
    stream: Reader,
    /// What is to come of the announced length.
    left: Option<u64>,
    group: Option<Rc<Group>>,
    ending: Option<Rc<Group>>,
}

impl Inflow {
    /// The body of a message whose head came over `stream`. A `group` of its fields goes with it.
    #[must_use]
    pub fn new(stream: Reader, group: Option<Rc<Group>>) -> Self {
        let announced = stream.announced();
        Self {
            // What has ended has no content, if no length was said.
            left: announced.or_else(|| stream.is_end_stream().then_some(0)),
            stream,
            group,
            ending: None,
        }
    }

    /// Fields that its message's head has beside its headers.
    #[must_use]
    pub fn group(&self) -> Option<&Rc<Group>> {
        self.group.as_ref()
    }

    /// Takes them.
    pub fn take_group(&mut self) -> Option<Rc<Group>> {
        self.group.take()
    }

    /// Takes the trailers that came with its end and before, to the letter: no frame has them.
    pub fn take_ending(&mut self) -> Option<Rc<Group>> {
        self.ending.take()
    }

    /// Whether nothing more comes.
    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    /// Whether nothing of it is passed on any more, though its end has not come.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        self.stream.is_bare()
    }

    /// Whether a part of the next frame came: what was read last of the connection is of it.
    #[must_use]
    pub fn is_coming(&self) -> bool {
        self.stream.is_coming()
    }

    /// How much content is to come, if that is known.
    #[must_use]
    pub fn left(&self) -> Option<u64> {
        self.left
    }

    /// The next part; `None` at its end, which may have an [ending](Self::take_ending), or when its peer
    /// resets the stream without an error, which may stop what is still sent to it (RFC 9113 §8.1).
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Poll::Ready(match ready!(self.stream.poll_piece(cx)) {
            Some(Ok(Piece::Data(data))) => {
                let count = u64::try_from(data.len()).unwrap_or(u64::MAX);
                self.left = self.left.map(|left| left.saturating_sub(count));
                Some(Ok(Frame::data(data)))
            }
            Some(Ok(Piece::Trailers(Trailers::Known(group))))
                if headers::passes_downstream_behind(&group) =>
            {
                self.ending = Some(group);
                None
            }
            Some(Ok(Piece::Trailers(trailers))) => Some(Ok(Frame::trailers(trailers.into()))),
            Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => None,
            Some(Err(error)) => Some(Err(error)),
            None => None,
        })
    }
}

/// A body that goes out as a stream.
pub trait Outgoing: Body {
    /// Takes trailers that its end has and no frame of it.
    fn take_ending(&mut self) -> Option<Rc<Group>> {
        None
    }
}

/// How an error of a body resets the stream that carries it.
pub trait ResetReason {
    /// What its peer is told.
    fn reset_reason(&self) -> Reason;
}

/// A body on its way out as a stream. Dropped before its end, with all else of the stream, it is
/// reset.
pub struct Outflow<B> {
    body: B,
    stream: Writer,
    /// Waits for the peer's window; and whether it is the last.
    part: Option<(Bytes, bool)>,
    /// Parts that did not have to wait any more.
    taken: u64,
}

impl<B> Outflow<B>
where
    B: Outgoing<Data = Bytes> + Unpin,
    B::Error: ResetReason,
{
    /// Sends `body` by `stream`, whose head was sent.
    #[must_use]
    pub fn new(body: B, stream: Writer) -> Self {
        Self {
            body,
            stream,
            part: None,
            taken: 0,
        }
    }

    /// The body.
    pub fn body(&mut self) -> &mut B {
        &mut self.body
    }

    /// If it waits for its peer to take something, how much was taken before that: another number is
    /// another wait.
    #[must_use]
    pub fn waits_for_peer(&self) -> Option<u64> {
        self.part.as_ref().map(|_waiting| self.taken)
    }

    /// The stream, without its body.
    #[must_use]
    pub fn into_stream(self) -> Writer {
        self.stream
    }

    /// Gives the stream up.
    pub fn cancel(&mut self) {
        self.stream.reset(Reason::CANCEL);
    }

    /// Sends what is left by a task of its own, beside the answer that came already: as long as that
    /// lasts, and for `more` after its end. The stream is reset then.
    #[must_use]
    pub fn send_rest(mut self, sweep: Rc<Sweep>, more: Duration) -> RestOfBody
    where
        B: 'static,
    {
        let (told, mut end) = oneshot::channel();
        tokio::task::spawn_local(async move {
            let end = poll_fn(|cx| match self.poll_sent(cx) {
                Poll::Ready(()) => Poll::Ready(None),
                Poll::Pending => Pin::new(&mut end).poll(cx).map(Some),
            });
            let is_sent = match end.await {
                None => true,
                Some(Ok(())) => {
                    let sent = poll_fn(|cx| self.poll_sent(cx));
                    sweep.within(sweep.after(more), sent).await.is_ok()
                }
                Some(Err(_given_up)) => false,
            };
            if !is_sent {
                self.cancel();
            }
        });
        RestOfBody(told)
    }

    /// Sends what can be sent. Ready when the body has ended, when it broke off, of which the peer is
    /// told, or when the peer wants no more of it.
    pub fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.poll_parts(cx).is_ready() {
            return Poll::Ready(());
        }
        // Whoever waits hears of a reset.
        self.stream.poll_over(cx)
    }

    fn poll_parts(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some((data, is_last)) = &mut self.part {
                let wanted = data.len();
                let Some(room) = ready!(self.stream.poll_room(wanted, cx)) else {
                    return Poll::Ready(());
                };
                let is_end = *is_last && room == wanted;
                let is_sent = self.stream.send(&data.split_to(room), is_end);
                self.taken = self.taken.wrapping_add(1);
                if data.is_empty() {
                    self.part = None;
                }
                if is_end || !is_sent {
                    return Poll::Ready(());
                }
                continue;
            }
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) else {
                match self.body.take_ending() {
                    Some(group) => self.stream.send_trailers(Trailers::Known(group)),
                    None => self.stream.send(&[], true),
                };
                return Poll::Ready(());
            };
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => {
                    self.stream.reset(error.reset_reason());
                    return Poll::Ready(());
                }
            };
            match frame.into_data() {
                Ok(data) if !data.is_empty() => self.part = Some((data, self.body.is_end_stream())),
                Ok(_nothing) => {}
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        self.stream.send_trailers(Trailers::Fields(trailers));
                        return Poll::Ready(());
                    }
                }
            }
        }
    }
}

/// The rest of a body, as its answer sees it. Dropped, the answer was given up, and its body is too.
pub struct RestOfBody(oneshot::Sender<()>);

impl RestOfBody {
    /// The answer was whole.
    pub fn finish(self) {
        // Nobody hears it who sent all.
        let _ = self.0.send(());
    }
}

#[cfg(test)]
pub(in crate::proxy) mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;

    use http::{HeaderMap, Method, Response};
    use http_body_util::Full;
    use tokio::io::DuplexStream;
    use tokio::task::LocalSet;

    use super::*;
    use crate::http2::{Connection, Limits, RequestHead, Role, Stock};

    impl Outgoing for Full<Bytes> {}

    impl Outgoing for Parts {}

    impl ResetReason for std::convert::Infallible {
        fn reset_reason(&self) -> Reason {
            match *self {}
        }
    }

    /// A connection to a peer that was sent nothing yet.
    pub(in crate::proxy) fn connection(near: DuplexStream) -> Connection<DuplexStream> {
        let limits = Limits {
            streams: 0,
            stream_window: 1 << 16,
            connection_window: 1 << 16,
            header_list: 1 << 16,
            untouched: 0,
            faults: 0,
            remembered: 8,
        };
        Connection::new(near, Role::Client, limits, Stock::new())
    }

    /// A request to a peer, with a body to come.
    fn request(near: DuplexStream) -> (Connection<DuplexStream>, Reader, Writer) {
        let conn = connection(near);
        let head = RequestHead {
            method: &Method::POST,
            is_tls: false,
            authority: b"up.test",
            path: "/",
            headers: &HeaderMap::new(),
            group: None,
        };
        let (reader, writer) = conn.handle().send(head, false).unwrap();
        (conn, reader, writer.unwrap())
    }

    /// Whether a body can be sent that is as long as that, before its connection moved.
    fn goes_with_its_head(length: usize) -> bool {
        let (near, _far) = tokio::io::duplex(1 << 10);
        let (_conn, _reader, writer) = request(near);
        let mut flow = Outflow::new(Full::new(Bytes::from(vec![0; length])), writer);
        let mut cx = Context::from_waker(Waker::noop());
        let is_sent = flow.poll_sent(&mut cx).is_ready();
        assert_eq!(flow.waits_for_peer().is_none(), is_sent);
        is_sent
    }

    #[test]
    fn short_body_goes_with_its_head_and_a_long_one_waits_for_its_peer() {
        assert!(goes_with_its_head(0));
        assert!(goes_with_its_head(16 << 10));
        assert!(!goes_with_its_head(1 << 17));
    }

    /// A body of parts that no window takes.
    struct Parts(VecDeque<Bytes>);

    impl Body for Parts {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Ready(self.0.pop_front().map(|part| Ok(Frame::data(part))))
        }
    }

    /// How a body that its peer does not read is reset, after its answer came.
    async fn reset_after(end: impl FnOnce(RestOfBody)) -> Option<h2::Reason> {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (mut conn, mut reader, writer) = request(near);
        tokio::task::spawn_local(poll_fn(move |cx| conn.poll_moved(cx)));
        let mut far = h2::server::handshake(far).await.unwrap();
        let part = Bytes::from(vec![0; 100_000]);
        let flow = Outflow::new(Parts([part.clone(), part].into()), writer);
        let sweep = Sweep::new();
        let rest = flow.send_rest(sweep.clone(), Duration::ZERO);
        let (_request, mut respond) = far.accept().await.unwrap().unwrap();
        let mut out = respond.send_response(Response::new(()), true).unwrap();
        tokio::task::spawn_local(async move { while far.accept().await.is_some() {} });
        poll_fn(|cx| reader.poll_answer(cx)).await.unwrap();
        end(rest);
        for _ in 0..1000 {
            sweep.tick();
            tokio::task::yield_now().await;
            let reset = poll_fn(|cx| Poll::Ready(out.poll_reset(cx))).await;
            if let Poll::Ready(reset) = reset {
                return reset.ok();
            }
        }
        None
    }

    #[tokio::test]
    async fn rest_of_a_body_ends_with_its_answer_or_some_time_after_it() {
        let local = LocalSet::new();
        let answered = local.run_until(reset_after(RestOfBody::finish)).await;
        assert_eq!(answered, Some(h2::Reason::CANCEL));
        let given_up = local.run_until(reset_after(drop)).await;
        assert_eq!(given_up, Some(h2::Reason::CANCEL));
    }
}
