//! Which resources point to which, and what is said when one is missing or still needed.
//!
//! Whether the target exists is asked of the store; this file only reads and phrases. (Admin API;
//! the texts are APISIX's.)

use super::fault::{Fault, Words};
use super::service::UpstreamRef;
use super::upstream::{Identity, Upstream};
use super::{Id, Kind, Resource};

/// What a resource points to: kind, id, and the pointer of the member that says so.
#[must_use]
pub fn references(resource: &Resource) -> Vec<(Kind, Id, &'static str)> {
    match resource {
        Resource::Ssl(_) | Resource::Secret(_) => Vec::new(),
        Resource::Upstream(upstream) => of_upstream(upstream, "/tls/client_cert_id")
            .into_iter()
            .collect(),
        Resource::Service(service) => of_choice(service.upstream.as_ref()).into_iter().collect(),
        Resource::Route(route) => {
            let service = route
                .service
                .clone()
                .map(|id| (Kind::Service, id, "/service_id"));
            of_choice(route.upstream.as_ref())
                .into_iter()
                .chain(service)
                .collect()
        }
    }
}

/// The fault of a reference to something that is not there; `at` as [`references`] gave it.
#[must_use]
pub fn missing_reference(kind: Kind, id: &Id, at: &str) -> Fault {
    fault(
        at,
        format!("failed to fetch {kind} info by {kind} id [{id}], response code: 404"),
    )
}

/// The fault of a `client_cert_id` that names an ssl not of type client.
#[must_use]
pub fn wrong_ssl_type(id: &Id, at: &str) -> Fault {
    fault(
        at,
        format!("failed to fetch ssl info by ssl id [{id}], wrong ssl type"),
    )
}

/// Why a resource that another points to cannot be deleted.
#[must_use]
pub fn still_used(kind: Kind, by_kind: Kind, by_id: &Id) -> String {
    let directly = if kind == Kind::Service {
        " directly"
    } else {
        ""
    };
    format!("can not delete this {kind}{directly}, {by_kind} [{by_id}] is still using it now")
}

fn of_choice(choice: Option<&UpstreamRef>) -> Option<(Kind, Id, &'static str)> {
    match choice? {
        UpstreamRef::Id(id) => Some((Kind::Upstream, id.clone(), "/upstream_id")),
        UpstreamRef::Inline(upstream) => of_upstream(upstream, "/upstream/tls/client_cert_id"),
    }
}

fn of_upstream(upstream: &Upstream, at: &'static str) -> Option<(Kind, Id, &'static str)> {
    match &upstream.tls.as_ref()?.identity {
        Identity::Ssl(id) => Some((Kind::Ssl, id.clone(), at)),
        Identity::None | Identity::Inline(_) => None,
    }
}

fn fault(at: &str, reason: String) -> Fault {
    Fault {
        pointer: at.to_owned(),
        reason,
        words: Words::Apisix,
        guess: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::sample::accepted;

    fn of(kind: Kind, body: &str) -> Vec<(Kind, String, &'static str)> {
        let parsed = accepted(kind, &serde_json::from_str(body).unwrap());
        let all = references(&parsed.resource).into_iter();
        all.map(|(kind, id, at)| (kind, id.to_string(), at))
            .collect()
    }

    #[test]
    fn every_pointer_of_a_resource_is_listed() {
        assert_eq!(
            of(
                Kind::Route,
                r#"{"uri":"/a","upstream_id":7,"service_id":"s"}"#
            ),
            [
                (Kind::Upstream, "7".to_owned(), "/upstream_id"),
                (Kind::Service, "s".to_owned(), "/service_id")
            ]
        );
        let tls = r#"{"scheme":"https","nodes":{},"tls":{"client_cert_id":"c"}}"#;
        assert_eq!(
            of(Kind::Upstream, tls),
            [(Kind::Ssl, "c".to_owned(), "/tls/client_cert_id")]
        );
        assert_eq!(
            of(Kind::Service, &format!(r#"{{"upstream":{tls}}}"#)),
            [(Kind::Ssl, "c".to_owned(), "/upstream/tls/client_cert_id")]
        );
        assert!(of(Kind::Service, "{}").is_empty());
    }

    #[test]
    fn the_sentences_are_apisix_s() {
        let id: Id = "1".parse().unwrap();
        for (kind, text) in [
            (
                Kind::Upstream,
                "failed to fetch upstream info by upstream id [1], response code: 404",
            ),
            (
                Kind::Service,
                "failed to fetch service info by service id [1], response code: 404",
            ),
            (
                Kind::Ssl,
                "failed to fetch ssl info by ssl id [1], response code: 404",
            ),
        ] {
            assert_eq!(missing_reference(kind, &id, "/x").reason, text);
        }
        let wrong = wrong_ssl_type(&id, "/x");
        assert_eq!(
            wrong.reason,
            "failed to fetch ssl info by ssl id [1], wrong ssl type"
        );
        assert_eq!(
            still_used(Kind::Upstream, Kind::Route, &id),
            "can not delete this upstream, route [1] is still using it now"
        );
        assert_eq!(
            still_used(Kind::Service, Kind::Route, &id),
            "can not delete this service directly, route [1] is still using it now"
        );
    }
}
