//! A worker's view of upstreams whose nodes are found: the upstream as it is now.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::failure::Reason;
use crate::net::resolve::{Answer, Name};
use crate::proxy::error::Refusal;
use crate::proxy::worker::Worker;
use crate::snapshot::Upstream;
use crate::snapshot::discovery::{Discovery, FoundNode};

/// What a worker remembers of them, by the compiled upstream's identity.
#[derive(Default)]
pub struct Discovered {
    known: RefCell<BTreeMap<*const Upstream, Known>>,
}

struct Known {
    // Held so that the address that is its key stays its own.
    written: Arc<Upstream>,
    /// Held, so that it is kept up to date.
    name: Name,
    /// Of the last answer that was looked at.
    made: Option<(Arc<Answer>, Arc<Upstream>)>,
}

impl Discovered {
    /// The upstream with its nodes, in the time that a connection may take.
    ///
    /// # Errors
    /// `upstream_unresolvable`, `upstream_timeout`.
    pub async fn find(
        &self,
        worker: &Worker,
        upstream: &Arc<Upstream>,
        discovery: &Discovery,
    ) -> Result<Arc<Upstream>, Refusal> {
        let name = {
            let mut known = self.known.borrow_mut();
            let known = known.entry(Arc::as_ptr(upstream)).or_insert_with(|| Known {
                written: upstream.clone(),
                name: worker.dialer.resolver.service(&discovery.name),
                made: None,
            });
            if let Some(answer) = known.name.now() {
                return Ok(known.make(answer));
            }
            known.name.clone()
        };
        let until = worker.sweep.after(upstream.timeouts.connect);
        match worker.sweep.within(until, Box::pin(name.answer())).await {
            Ok(Ok(answer)) => {
                let mut known = self.known.borrow_mut();
                let known = known.get_mut(&Arc::as_ptr(upstream));
                Ok(known.ok_or(Reason::Internal)?.make(answer))
            }
            Ok(Err(error)) => Err(Refusal::new(
                Reason::UpstreamUnresolvable,
                error.to_string(),
            )),
            Err(_expired) => Err(Refusal::new(
                Reason::UpstreamTimeout,
                "its service was not resolved within `timeout.connect`",
            )),
        }
    }

    /// Forgets upstreams that no snapshot holds any more.
    pub fn sweep(&self) {
        self.known
            .borrow_mut()
            .retain(|_, known| Arc::strong_count(&known.written) > 1);
    }
}

impl Known {
    /// The upstream of an answer: the same one, as long as that is.
    fn make(&mut self, answer: Arc<Answer>) -> Arc<Upstream> {
        if let Some((last, made)) = &self.made
            && Arc::ptr_eq(last, &answer)
        {
            return made.clone();
        }
        let made = Arc::new(self.written.with_found(found(&answer)));
        self.made = Some((answer, made.clone()));
        made
    }
}

fn found(answer: &Answer) -> impl Iterator<Item = FoundNode> {
    answer.places().iter().map(|place| FoundNode {
        ip: place.ip,
        port: place.port,
        weight: place.weight,
        priority: place.priority,
    })
}
