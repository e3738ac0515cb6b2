//! An upstream's answer, looked at before it is passed on: what it goes over to, and what nginx says
//! in place of a TLS alert.

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Body;

use crate::failure::Reason;
use crate::net::sweep::Until;
use crate::proxy::error::Refusal;
use crate::proxy::exchange::{AnswerBody, AnswerError, UpstreamConn};
use crate::proxy::headers;
use crate::proxy::settings::Nginx400;
use crate::proxy::tries::Tries;
use crate::proxy::upgrade::{self, Switched};
use crate::proxy::upstream::Endpoint;
use crate::snapshot::Timeouts;

/// The longest answer that can be nginx's own page.
const NGINX_PAGE_BYTES: u64 = 1024;

/// An upstream's answer, ready for the client.
pub(super) enum Answer {
    /// To be streamed from what it came over, with its status and the longest wait between two reads.
    Streamed(StatusCode, Box<UpstreamConn>, u64),
    /// Read whole to be looked at.
    Whole(Box<Response<Bytes>>),
    /// The upstream goes over to another protocol; with its time-outs.
    Switched(Box<(Response<()>, Switched, Timeouts)>),
}

impl Answer {
    pub(super) fn status(&self) -> u16 {
        match self {
            Self::Streamed(status, ..) => status.as_u16(),
            Self::Whole(resp) => resp.status().as_u16(),
            Self::Switched(switched) => switched.0.status().as_u16(),
        }
    }
}

impl Tries<'_> {
    /// Looks at an answer's head: what nginx says instead of a TLS alert is named here.
    pub(super) async fn answer(
        &self,
        mut upstream: Box<UpstreamConn>,
        status: StatusCode,
        endpoint: &Endpoint,
        patience: u64,
    ) -> Result<Answer, Refusal> {
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return self.switch(upstream);
        }
        let suspect = status == StatusCode::BAD_REQUEST
            && self.worker.settings.nginx_400 == Nginx400::Refuse
            && may_be_nginx_page(&upstream, self.upstream.trust.is_none());
        if !suspect {
            return Ok(Answer::Streamed(status, upstream, patience));
        }
        let (head, incoming) = upstream.take_answer().into_parts();
        let bytes = Box::pin(self.collect_page(incoming, patience)).await?;
        match nginx_verdict(&bytes, self.upstream.trust.is_some()) {
            None => Ok(Answer::Whole(Box::new(Response::from_parts(head, bytes)))),
            Some((reason, title)) => {
                if let (Some(trust), Some(name)) = (&self.upstream.trust, &endpoint.name)
                    && let Some(connector) = self.worker.contexts.upstream(&trust.fingerprint)
                {
                    connector.forget(&endpoint.peer, name);
                }
                Err(Refusal::new(reason, format!("nginx answered: {title}")))
            }
        }
    }

    /// The upstream's consent to another protocol, if that is one it was asked for.
    fn switch(&self, mut upstream: Box<UpstreamConn>) -> Result<Answer, Refusal> {
        let mut resp = upstream.take_answer();
        let agreed = self.protocols;
        let agreed = agreed.and_then(|asked| upgrade::agreed(resp.headers(), asked));
        let Some(agreed) = agreed else {
            return Err(Refusal::new(
                Reason::UpstreamProtocolError,
                "its 101 is for a protocol that it was not asked for",
            ));
        };
        let Some(switched) = upstream.into_switched() else {
            return Err(Refusal::new(
                Reason::UpstreamReset,
                "it ended the connection with its 101",
            ));
        };
        headers::to_downstream(resp.headers_mut());
        upgrade::ask(resp.headers_mut(), Some(&agreed));
        let resp = resp.map(drop);
        let switched = (resp, switched, self.timeouts);
        Ok(Answer::Switched(Box::new(switched)))
    }

    /// Reads an answer of at most [`NGINX_PAGE_BYTES`], which its head announced.
    async fn collect_page(&self, incoming: AnswerBody, patience: u64) -> Result<Bytes, Refusal> {
        let sweep = &self.worker.sweep;
        let until = Until::At(sweep.now().saturating_add(patience));
        let mut incoming = incoming;
        let read = async {
            let mut page = BytesMut::new();
            while let Some(frame) = incoming.frame().await {
                if let Ok(data) = frame?.into_data() {
                    page.extend_from_slice(&data);
                }
            }
            Ok::<_, AnswerError>(page.freeze())
        };
        match sweep.within(until, read).await {
            Ok(Ok(page)) => Ok(page),
            Ok(Err(error)) => Err(Refusal::new(Reason::UpstreamReset, error.to_string())),
            Err(_) => Err(Reason::UpstreamTimeout.into()),
        }
    }
}

/// Whether the 400 that came over `upstream` can be nginx's own page for a TLS problem: closing, HTML,
/// short, not compressed.
fn may_be_nginx_page(upstream: &UpstreamConn, is_plain: bool) -> bool {
    let Some(resp) = upstream.answer() else {
        return false;
    };
    let is = |name: HeaderName, wanted: &str| {
        resp.headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.to_ascii_lowercase().starts_with(wanted))
    };
    (is_plain || upstream.asked)
        // In HTTP/2 no answer says so (RFC 9113 §8.2.2).
        && (upstream.is_stream() || upstream.ends)
        && is(CONTENT_TYPE, "text/html")
        && !resp.headers().contains_key(CONTENT_ENCODING)
        // HEAD has no page to tell by, and is passed on.
        && resp.body().size_hint().exact().is_some_and(|len| (1..=NGINX_PAGE_BYTES).contains(&len))
}

/// Which of nginx's pages it is (`ngx_http_special_response.c`: 494 to 497), if one, and its title.
fn nginx_verdict(page: &[u8], tls: bool) -> Option<(Reason, &'static str)> {
    let page = std::str::from_utf8(page).ok()?;
    let mut pages = NGINX_PAGES.iter();
    let (_, reason, title) = pages.find(|(of_tls, _, title)| {
        *of_tls == tls && page.contains(&format!("<title>{title}</title>"))
    })?;
    Some((*reason, title))
}

/// nginx's pages for TLS: whether they come over TLS, what they mean, their titles.
const NGINX_PAGES: [(bool, Reason, &str); 3] = [
    (
        true,
        Reason::UpstreamWantsClientCert,
        "400 No required SSL certificate was sent",
    ),
    (
        true,
        Reason::UpstreamRejectedOurCert,
        "400 The SSL certificate error",
    ),
    (
        false,
        Reason::UpstreamExpectsTls,
        "400 The plain HTTP request was sent to HTTPS port",
    ),
];
