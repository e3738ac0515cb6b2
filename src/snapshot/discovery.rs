//! Upstreams whose nodes are found, not written: what is found makes the upstream that is served.

use std::net::IpAddr;

use crate::resource::upstream;
use crate::snapshot::{Node, Upstream};

/// A service whose nodes DNS knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// Its name.
    pub name: Box<str>,
    /// The port of all nodes, where the upstream has one.
    pub port: Option<u16>,
    /// `retries` of the upstream; `None`: one try per further node, as many as there are then.
    retries: Option<u32>,
}

/// A node that was found.
#[derive(Clone, Copy, Debug)]
pub struct FoundNode {
    /// Its address.
    pub ip: IpAddr,
    /// Its port, where the answer has one.
    pub port: Option<u16>,
    /// Its share.
    pub weight: u32,
    /// Lower first, as SRV records count (RFC 2782).
    pub priority: u16,
}

impl Discovery {
    pub(super) fn new(discovery: &upstream::Discovery, retries: Option<u32>) -> Self {
        Self {
            name: discovery.name.as_str().into(),
            port: discovery.port,
            retries,
        }
    }
}

impl Upstream {
    /// This upstream with the nodes that were found for it; what is known of nodes stays with their
    /// addresses. (APISIX, "DNS": the port of `service_name`, else the answer's, else the scheme's)
    #[must_use]
    pub fn with_found(&self, found: impl IntoIterator<Item = FoundNode>) -> Self {
        let port = self.discovery.as_ref().and_then(|it| it.port);
        let retries = self.discovery.as_ref().and_then(|it| it.retries);
        let mut nodes: Vec<Node> = Vec::new();
        for found in found {
            let node = Node {
                host: found.ip.to_string(),
                port: port
                    .or(found.port)
                    .unwrap_or_else(|| self.scheme.default_port()),
                weight: found.weight,
                priority: -i64::from(found.priority),
            };
            let is_same = |old: &&mut Node| old.host == node.host && old.port == node.port;
            match nodes.iter_mut().find(is_same) {
                // As of a node that is written twice.
                Some(old) => old.weight = old.weight.saturating_add(node.weight),
                None => nodes.push(node),
            }
        }
        let further = u32::try_from(nodes.len().saturating_sub(1)).unwrap_or(u32::MAX);
        Self {
            nodes,
            retries: retries.unwrap_or(further),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::resource::{Kind, Revision};
    use crate::snapshot::{Owner, PassHost, Scheme};

    fn upstream(port: Option<u16>, retries: Option<u32>) -> Upstream {
        let discovery = upstream::Discovery {
            name: "a.test".to_owned(),
            port,
        };
        Upstream {
            owner: Owner {
                kind: Kind::Upstream,
                id: "u".parse().unwrap(),
            },
            revision: Revision::default(),
            scheme: Scheme::Https,
            nodes: Vec::new(),
            discovery: Some(Arc::new(Discovery::new(&discovery, retries))),
            states: Default::default(),
            balance: Default::default(),
            pass_host: PassHost::Pass,
            timeouts: Default::default(),
            keepalive: Default::default(),
            retries: 0,
            retry_timeout: None,
            checks: None,
            trust: None,
            closed: None,
        }
    }

    fn found(last: u8, port: Option<u16>, weight: u32, priority: u16) -> FoundNode {
        FoundNode {
            ip: [192, 0, 2, last].into(),
            port,
            weight,
            priority,
        }
    }

    #[test]
    fn port_is_the_service_s_own_then_the_answer_s_then_the_scheme_s() {
        for (own, answered, port) in [(Some(8), Some(9), 8), (None, Some(9), 9), (None, None, 443)]
        {
            let made = upstream(own, None).with_found([found(1, answered, 1, 0)]);
            assert_eq!(made.nodes[0].port, port);
        }
    }

    #[test]
    fn lower_priorities_of_srv_are_higher_ones_of_nodes() {
        let all = [
            found(1, Some(9), 60, 10),
            found(2, Some(9), 1, 20),
            found(2, Some(9), 4, 20),
        ];
        let made = upstream(None, None).with_found(all);
        let shown: Vec<_> = made
            .nodes
            .iter()
            .map(|node| (node.address(), node.weight, node.priority))
            .collect();
        assert_eq!(
            shown,
            [
                ("192.0.2.1:9".to_owned(), 60, -10),
                ("192.0.2.2:9".to_owned(), 5, -20),
            ]
        );
    }

    #[test]
    fn one_try_per_further_node_unless_the_upstream_says_how_many() {
        let all = [1, 2, 3].map(|last| found(last, None, 1, 0));
        assert_eq!(upstream(None, None).with_found(all).retries, 2);
        assert_eq!(upstream(None, Some(7)).with_found(all).retries, 7);
        assert_eq!(upstream(None, None).with_found([]).retries, 0);
    }
}
