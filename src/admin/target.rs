//! What a path under `/apisix/admin` means, apart from its method.
//!
//! APISIX Admin API v3, with API7's spellings of the same resources.

use super::reply::Refusal;
use crate::resource::Kind;

/// Resources that APISIX has and this gateway does not; clients probe them.
pub(super) const NOT_OFFERED: [&str; 7] = [
    "consumer_groups",
    "consumers",
    "global_rules",
    "plugin_configs",
    "plugin_metadata",
    "protos",
    "stream_routes",
];

/// What a path under `/apisix/admin` means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target<'w, 'p> {
    /// All objects of a kind.
    Collection(Kind),
    /// `/secrets/{manager}`: shown as all secrets, writable only with an id. (As in APISIX.)
    Manager,
    /// One object.
    Object(Kind, String),
    /// A node inside an object, by the names on the way to it: PATCH only.
    Node(Kind, String, &'w [&'p str]),
    /// API7's further upstreams of a service.
    ServiceUpstreams(&'p str),
    /// One of them.
    ServiceUpstream,
    /// A resource of [`NOT_OFFERED`].
    NotOffered(&'p str, Depth),
    /// `/plugins/list`.
    Plugins,
    /// `/plugins/reload`.
    PluginsReload,
    /// `/plugins?all=true` and `/plugins/{name}`, both also behind `/schema`: what plugins there are
    /// look like.
    PluginSchemas(Option<&'p str>),
    /// `/schema/{kind}`.
    Schema(&'p str),
    /// `/schema/validate/{kinds}`.
    SchemaCheck(&'p str),
    /// `/configs`: all that a file declares.
    Configuration,
    /// `/configs/validate`.
    ConfigurationCheck,
    /// A word that is a resource in APISIX, with nothing behind it here.
    Nowhere,
}

/// How far a path goes into a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    Collection,
    Object,
}

impl<'w, 'p> Target<'w, 'p> {
    /// The meaning of a path, given as its words.
    pub(super) fn parse(words: &'w [&'p str]) -> Result<Self, Refusal> {
        match *words {
            [] => Ok(Self::Nowhere),
            ["secrets" | "secret_providers", ref rest @ ..] => Ok(match *rest {
                [] => Self::Collection(Kind::Secret),
                [_manager] => Self::Manager,
                [manager, id] => Self::Object(Kind::Secret, format!("{manager}/{id}")),
                [manager, id, ref path @ ..] => {
                    Self::Node(Kind::Secret, format!("{manager}/{id}"), path)
                }
            }),
            ["services", id, "upstreams"] => Ok(Self::ServiceUpstreams(id)),
            ["services", _, "upstreams", _] => Ok(Self::ServiceUpstream),
            ["plugins", "list"] => Ok(Self::Plugins),
            ["plugins", "reload"] => Ok(Self::PluginsReload),
            ["plugins"] | ["schema", "plugins"] => Ok(Self::PluginSchemas(None)),
            ["plugins", name] | ["schema", "plugins", name] => Ok(Self::PluginSchemas(Some(name))),
            ["schema", word] => Ok(Self::Schema(word)),
            ["schema", "validate", word] => Ok(Self::SchemaCheck(word)),
            ["configs"] => Ok(Self::Configuration),
            ["configs", "validate"] => Ok(Self::ConfigurationCheck),
            ["plugins" | "schema" | "configs", ..] => Ok(Self::Nowhere),
            [word, ref rest @ ..] => {
                if NOT_OFFERED.contains(&word) {
                    let depth = if rest.is_empty() {
                        Depth::Collection
                    } else {
                        Depth::Object
                    };
                    return Ok(Self::NotOffered(word, depth));
                }
                let kind = Kind::from_plural(word)
                    .ok_or_else(|| Refusal::UnknownResource(word.to_owned()))?;
                Ok(match *rest {
                    [] => Self::Collection(kind),
                    [id] => Self::Object(kind, id.to_owned()),
                    [id, ref path @ ..] => Self::Node(kind, id.to_owned(), path),
                })
            }
        }
    }
}

impl Target<'_, '_> {
    /// Whether it is a resource, or a part of one, and not a question about documents.
    pub(super) const fn is_resource(&self) -> bool {
        match self {
            Self::Collection(_)
            | Self::Manager
            | Self::Object(..)
            | Self::Node(..)
            | Self::ServiceUpstreams(_)
            | Self::ServiceUpstream
            | Self::NotOffered(..) => true,
            Self::Plugins
            | Self::PluginsReload
            | Self::PluginSchemas(_)
            | Self::Schema(_)
            | Self::SchemaCheck(_)
            | Self::Configuration
            | Self::ConfigurationCheck
            | Self::Nowhere => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_their_meaning() {
        for (path, expected) in [
            ("", Target::Nowhere),
            ("routes", Target::Collection(Kind::Route)),
            ("ssls/a.b", Target::Object(Kind::Ssl, "a.b".to_owned())),
            (
                "routes/1/upstream/nodes",
                Target::Node(Kind::Route, "1".to_owned(), &["upstream", "nodes"]),
            ),
            ("secrets", Target::Collection(Kind::Secret)),
            ("secret_providers/vault", Target::Manager),
            (
                "secrets/vault/1",
                Target::Object(Kind::Secret, "vault/1".to_owned()),
            ),
            (
                "secret_providers/aws/1/region",
                Target::Node(Kind::Secret, "aws/1".to_owned(), &["region"]),
            ),
            ("services/s/upstreams", Target::ServiceUpstreams("s")),
            ("services/s/upstreams/u", Target::ServiceUpstream),
            (
                "services/s/upstream/nodes",
                Target::Node(Kind::Service, "s".to_owned(), &["upstream", "nodes"]),
            ),
            (
                "consumers",
                Target::NotOffered("consumers", Depth::Collection),
            ),
            (
                "consumers/jack/credentials",
                Target::NotOffered("consumers", Depth::Object),
            ),
            ("plugins/list", Target::Plugins),
            ("plugins", Target::PluginSchemas(None)),
            (
                "plugins/limit-count",
                Target::PluginSchemas(Some("limit-count")),
            ),
            ("plugins/a/b", Target::Nowhere),
            ("schema/route", Target::Schema("route")),
            ("schema/validate/routes", Target::SchemaCheck("routes")),
            ("schema/plugins", Target::PluginSchemas(None)),
            (
                "schema/plugins/limit-count",
                Target::PluginSchemas(Some("limit-count")),
            ),
            ("schema/plugins/a/b", Target::Nowhere),
            ("configs/validate", Target::ConfigurationCheck),
            ("configs", Target::Configuration),
            ("configs/x", Target::Nowhere),
        ] {
            let words: Vec<&str> = path.split('/').filter(|word| !word.is_empty()).collect();
            assert_eq!(Target::parse(&words).unwrap(), expected, "{path}");
        }
    }

    #[test]
    fn word_that_is_no_resource_is_refused() {
        for word in ["routs", "route", "ssl", "Routes", ""] {
            assert!(
                matches!(Target::parse(&[word]), Err(Refusal::UnknownResource(_))),
                "{word}"
            );
        }
    }
}
