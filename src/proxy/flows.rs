//! A body as a stream of HTTP/2 carries it: what comes in, and what goes out.
//!
//! Both ways the windows are the limit: what came and was passed on makes room for more, and what
//! goes out is asked for when its peer takes it.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio::sync::oneshot;

use crate::net::sweep::Sweep;
use crate::proxy::heads;

/// What is sent behind a request's head without a word of its peer: so both go in one record.
const UNASKED: usize = 16 << 10;

/// A body that comes in as a stream.
pub struct Inflow {
    stream: RecvStream,
    /// What is to come of the announced length.
    left: Option<u64>,
    is_data_over: bool,
    leaves_rest: Option<Rc<Cell<bool>>>,
}

impl Inflow {
    /// The body of a message whose `headers` came over `stream`.
    #[must_use]
    pub fn new(stream: RecvStream, headers: &HeaderMap) -> Self {
        let left = heads::content_length(headers);
        Self {
            leaves_rest: None,
            // What has ended has no content, if no length was said.
            left: left.or_else(|| stream.is_end_stream().then_some(0)),
            stream,
            is_data_over: false,
        }
    }

    /// What will be true once it was given up before its end.
    pub fn leaves_rest(&mut self) -> Rc<Cell<bool>> {
        self.leaves_rest.get_or_insert_default().clone()
    }

    /// Whether nothing more comes.
    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    /// How much content is to come, if that is known.
    #[must_use]
    pub fn left(&self) -> Option<u64> {
        self.left
    }

    /// The next part; `None` at its end, or when its peer resets the stream without an error, which
    /// may stop what is still sent to it (RFC 9113 §8.1).
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.is_data_over {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Where the stream is over nobody waits for room.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    let count = u64::try_from(data.len()).unwrap_or(u64::MAX);
                    self.left = self.left.map(|left| left.saturating_sub(count));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(unless_stopped(error)),
                None => self.is_data_over = true,
            }
        }
        Poll::Ready(match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(Frame::trailers).map(Ok),
            Err(error) => unless_stopped(error),
        })
    }
}

impl Drop for Inflow {
    fn drop(&mut self) {
        if let Some(leaves_rest) = &self.leaves_rest {
            // What came already is no rest: with it the end may have come.
            let mut cx = Context::from_waker(Waker::noop());
            while let Poll::Ready(Some(Ok(data))) = self.stream.poll_data(&mut cx) {
                let _ = self.stream.flow_control().release_capacity(data.len());
            }
            leaves_rest.set(!self.stream.is_end_stream());
        }
    }
}

fn unless_stopped(error: h2::Error) -> Option<Result<Frame<Bytes>, h2::Error>> {
    (error.reason() != Some(Reason::NO_ERROR)).then_some(Err(error))
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
    stream: SendStream<Bytes>,
    /// Waits for the peer's window; and whether it is the last.
    part: Option<(Bytes, bool)>,
    /// Parts that did not have to wait any more.
    taken: u64,
    /// A first part may be sent unasked: nothing of the stream was sent yet.
    is_eager: bool,
    /// A task waits, or waited, for the stream's reset.
    is_waiting: bool,
}

impl<B> Outflow<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: ResetReason,
{
    /// Sends `body` by `stream`, whose head is on its way already.
    #[must_use]
    pub fn new(body: B, stream: SendStream<Bytes>) -> Self {
        Self {
            body,
            stream,
            part: None,
            taken: 0,
            is_eager: false,
            // Who has its head on its way may have waited until then.
            is_waiting: true,
        }
    }

    /// Sends `body` by `stream`, whose head waits to be sent: a short first part goes with it. It is
    /// held here as long as the peer has no window for it.
    #[must_use]
    pub fn with_head(body: B, stream: SendStream<Bytes>) -> Self {
        let mut flow = Self::new(body, stream);
        (flow.is_eager, flow.is_waiting) = (true, false);
        flow
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
    pub fn into_stream(self) -> SendStream<Bytes> {
        self.stream
    }

    /// Gives the stream up.
    pub fn cancel(&mut self) {
        self.stream.send_reset(Reason::CANCEL);
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
        self.stop_waiting();
        let polled = self.poll_parts(cx);
        if polled.is_pending() {
            self.is_waiting = true;
            // Whoever waits hears of a reset.
            return self.stream.poll_reset(cx).map(drop);
        }
        polled
    }

    /// Whoever waited for a reset would be woken by the room that is made for what it sends now itself.
    fn stop_waiting(&mut self) {
        if mem::take(&mut self.is_waiting) {
            let mut cx = Context::from_waker(Waker::noop());
            // What there is to hear is heard when it waits again.
            let _ = self.stream.poll_reset(&mut cx);
        }
    }

    fn poll_parts(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.part.is_some() {
                let Some(room) = ready!(self.poll_room(cx)) else {
                    return Poll::Ready(());
                };
                self.is_eager = false;
                if let Some((mut data, is_last)) = self.part.take() {
                    self.taken = self.taken.wrapping_add(1);
                    let rest = data.split_off(room.min(data.len()));
                    let is_end = is_last && rest.is_empty();
                    let sent = self.stream.send_data(data, is_end);
                    if is_end || sent.is_err() {
                        return Poll::Ready(());
                    }
                    if !rest.is_empty() {
                        self.part = Some((rest, is_last));
                        continue;
                    }
                }
            }
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) else {
                // What fails here has nobody to tell.
                let _ = self.stream.send_data(Bytes::new(), true);
                return Poll::Ready(());
            };
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => {
                    self.stream.send_reset(error.reset_reason());
                    return Poll::Ready(());
                }
            };
            match frame.into_data() {
                Ok(data) => self.part = Some((data, self.body.is_end_stream())),
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        let _ = self.stream.send_trailers(trailers);
                        return Poll::Ready(());
                    }
                }
            }
        }
    }

    /// Waits for room for something of the part, and says for how much; `None` when there will be
    /// none. More is not handed over: what its peer has no window for is under way, not sent.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Option<usize>> {
        let length = self.part.as_ref().map_or(0, |(data, _)| data.len());
        if length == 0 || self.is_eager && length <= UNASKED {
            return Poll::Ready(Some(length));
        }
        // Asked for only now that there is something to send: room that one stream holds and does
        // not use is room that others of its connection lack.
        self.stream.reserve_capacity(length);
        while self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_room)) => {}
                Some(Err(_)) | None => return Poll::Ready(None),
            }
        }
        Poll::Ready(Some(self.stream.capacity()))
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
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use http::{Request, Response};
    use http_body_util::Full;
    use tokio::task::LocalSet;

    use super::*;

    impl ResetReason for std::convert::Infallible {
        fn reset_reason(&self) -> Reason {
            match *self {}
        }
    }

    /// Whether a body can be sent that is as long as that, before its connection moved.
    async fn goes_with_its_head(length: usize) -> bool {
        let (near, _far) = tokio::io::duplex(1 << 10);
        let (mut sender, _conn) = h2::client::handshake(near).await.unwrap();
        let request = Request::get("http://up.test/").body(()).unwrap();
        let (_answer, stream) = sender.send_request(request, false).unwrap();
        let mut flow = Outflow::with_head(Full::new(Bytes::from(vec![0; length])), stream);
        let mut cx = Context::from_waker(Waker::noop());
        let is_sent = flow.poll_sent(&mut cx).is_ready();
        assert_eq!(flow.waits_for_peer().is_none(), is_sent);
        is_sent
    }

    #[tokio::test]
    async fn short_body_goes_with_its_head_and_a_long_one_waits_for_its_peer() {
        assert!(goes_with_its_head(0).await);
        assert!(goes_with_its_head(UNASKED).await);
        assert!(!goes_with_its_head(UNASKED + 1).await);
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
    async fn reset_after(end: impl FnOnce(RestOfBody)) -> Option<Reason> {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (near, far) = tokio::join!(h2::client::handshake(near), h2::server::handshake(far));
        let ((mut sender, conn), mut far) = (near.unwrap(), far.unwrap());
        tokio::task::spawn_local(conn);
        let request = Request::post("http://up.test/").body(()).unwrap();
        let (answer, stream) = sender.send_request(request, false).unwrap();
        let part = Bytes::from(vec![0; 100_000]);
        let flow = Outflow::with_head(Parts([part.clone(), part].into()), stream);
        let sweep = Sweep::new();
        let rest = flow.send_rest(sweep.clone(), Duration::ZERO);
        let (_request, mut respond) = far.accept().await.unwrap().unwrap();
        let mut out = respond.send_response(Response::new(()), true).unwrap();
        tokio::task::spawn_local(async move { while far.accept().await.is_some() {} });
        answer.await.unwrap();
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
        assert_eq!(answered, Some(Reason::CANCEL));
        let given_up = local.run_until(reset_after(drop)).await;
        assert_eq!(given_up, Some(Reason::CANCEL));
    }

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn who_waited_for_a_reset_is_not_woken_by_what_it_sends_itself() {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (near, far) = tokio::join!(h2::client::handshake(near), h2::server::handshake(far));
        let ((mut sender, conn), mut far) = (near.unwrap(), far.unwrap());
        tokio::spawn(conn);
        let request = Request::get("http://up.test/").body(()).unwrap();
        let (answer, _stream) = sender.send_request(request, true).unwrap();
        let (_request, mut respond) = far.accept().await.unwrap().unwrap();

        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut cx = Context::from_waker(&waker);
        assert!(respond.poll_reset(&mut cx).is_pending());
        let stream = respond.send_response(Response::new(()), false).unwrap();
        let body = Parts([Bytes::from_static(b"one"), Bytes::from_static(b"two")].into());
        let mut flow = Outflow::new(body, stream);
        assert!(flow.poll_sent(&mut cx).is_ready());
        tokio::spawn(async move { while far.accept().await.is_some() {} });
        let mut content = answer.await.unwrap().into_body();
        while content.data().await.is_some() {}
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
    }
}
