//! Who calls: the admin key of a request, its name and what it may do.
//!
//! There is no "no keys, everything allowed": without keys every request is refused. Keys are
//! held as digests only.

use http::{HeaderMap, Method, header};

use super::request::{Head, Query};
use crate::crypto::compare;
use crate::crypto::digest::{Sha256, sha256};
use crate::crypto::error::CryptoError;

/// What the bearer of a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
    /// GET and HEAD only.
    Viewer,
}

/// A key that is accepted.
#[derive(Clone, Debug)]
pub struct Key {
    name: String,
    digest: Sha256,
    role: Role,
}

impl Key {
    /// A key from its text, which is not kept.
    ///
    /// # Errors
    /// When SHA-256 is not to be had.
    pub fn from_text(name: &str, text: &str, role: Role) -> Result<Self, CryptoError> {
        Ok(Self::from_digest(name, sha256(&[text.as_bytes()])?, role))
    }

    /// A key from the SHA-256 of its text (`sha256:<hex>` in the configuration).
    #[must_use]
    pub fn from_digest(name: &str, digest: Sha256, role: Role) -> Self {
        Self {
            name: name.to_owned(),
            digest,
            role,
        }
    }
}

/// Where a request may carry its key, beside the header `X-API-KEY`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// The header is looked at. Off only where `admin.key_sources` leaves it out.
    pub header: bool,
    /// `?api_key=`.
    pub query: bool,
    /// The cookie `x_api_key`.
    pub cookie: bool,
}

impl Sources {
    /// The default: the header only.
    pub const HEADER: Self = Self {
        header: true,
        query: false,
        cookie: false,
    };
}

/// The keys that are accepted, and where they are looked for.
#[derive(Clone, Debug)]
pub struct Keys {
    keys: Vec<Key>,
    sources: Sources,
}

/// Why a request is not let in: 401 with this text as `description`. (APISIX, `admin/init.lua`.)
#[derive(Debug, thiserror::Error)]
pub(super) enum AuthError {
    /// No key where one is looked for.
    #[error("missing apikey")]
    Missing,
    /// A key that is not ours.
    #[error("wrong apikey")]
    Wrong,
    /// A certificate that is over by now.
    #[error("client certificate expired")]
    Expired,
    /// A viewer that wants to write.
    #[error("invalid method for role viewer")]
    ViewerWrites,
    /// It could not be compared; treated as wrong.
    #[error("wrong apikey")]
    Crypto(#[from] CryptoError),
}

impl Keys {
    /// These keys, looked for in these places.
    #[must_use]
    pub fn new(keys: Vec<Key>, sources: Sources) -> Self {
        Self { keys, sources }
    }

    /// The digest of the key that the request carries; `None` without one.
    pub(super) fn find(&self, head: &Head) -> Result<Option<Sha256>, AuthError> {
        let given = self.sources.find(&head.query, &head.headers);
        given
            .map(|given| Ok(sha256(&[given.as_bytes()])?))
            .transpose()
    }

    /// The name of the key with this digest.
    pub(super) fn check(&self, head: &Head, digest: &Sha256) -> Result<&str, AuthError> {
        let mut found = None;
        // Every key is compared, so that the time taken does not tell which one was near.
        for key in &self.keys {
            if compare::is_equal(key.digest.as_bytes(), digest.as_bytes())? && found.is_none() {
                found = Some(key);
            }
        }
        let key = found.ok_or(AuthError::Wrong)?;
        key.role.check(head)?;
        Ok(&key.name)
    }
}

impl Role {
    /// Whether it permits what is asked.
    fn check(self, head: &Head) -> Result<(), AuthError> {
        match self {
            Self::Viewer if head.method != Method::GET && head.method != Method::HEAD => {
                Err(AuthError::ViewerWrites)
            }
            Self::Viewer | Self::Admin => Ok(()),
        }
    }
}

/// Who a client is by its certificate, which was verified in the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// Its subject, as the audit names it.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// The end of its validity, seconds since the epoch: a connection may outlive it.
    pub until: i64,
}

impl Certified {
    /// Its name, where it may do what is asked.
    pub(super) fn check(&self, head: &Head, now: i64) -> Result<&str, AuthError> {
        if now > self.until {
            return Err(AuthError::Expired);
        }
        self.role.check(head)?;
        Ok(&self.name)
    }
}

impl Sources {
    /// The key as given: query, then header, then cookie. An empty one counts as none.
    fn find<'r>(self, query: &'r Query, headers: &'r HeaderMap) -> Option<&'r str> {
        let query = || query.find("api_key").filter(|_| self.query);
        let header = || header_key(headers).filter(|_| self.header);
        let cookie = || cookie_key(headers).filter(|_| self.cookie);
        query()
            .or_else(header)
            .or_else(cookie)
            .filter(|key| !key.is_empty())
    }
}

/// `X-API-KEY`, or `x_api_key`: nginx folds the two, and APISIX's own cases use both.
fn header_key(headers: &HeaderMap) -> Option<&str> {
    let value = headers
        .get("x-api-key")
        .or_else(|| headers.get("x_api_key"))?;
    value.to_str().ok()
}

fn cookie_key(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(name, value)| (name == "x_api_key").then_some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Sources = Sources {
        header: true,
        query: true,
        cookie: true,
    };

    fn keys(sources: Sources) -> Keys {
        let viewer = sha256(&[b"look"]).unwrap();
        Keys::new(
            vec![
                Key::from_text("ops", "secret-1", Role::Admin).unwrap(),
                Key::from_digest("dashboard", viewer, Role::Viewer),
                Key::from_text("spare", "secret-2", Role::Admin).unwrap(),
            ],
            sources,
        )
    }

    fn head(method: Method, query: &str, headers: &[(&'static str, &'static str)]) -> Head {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        Head::new(method, "/apisix/admin/routes", query, map)
    }

    fn check(sources: Sources, head: &Head) -> Result<String, String> {
        let keys = keys(sources);
        let given = keys.find(head).unwrap();
        let name = given
            .ok_or(AuthError::Missing)
            .and_then(|given| keys.check(head, &given).map(str::to_owned));
        name.map_err(|error| error.to_string())
    }

    #[test]
    fn key_is_found_in_the_header_however_it_is_spelled() {
        for name in ["x-api-key", "x_api_key"] {
            let head = head(Method::PUT, "", &[(name, "secret-2")]);
            assert_eq!(check(Sources::HEADER, &head).as_deref(), Ok("spare"));
        }
    }

    #[test]
    fn absent_key_is_missing_and_a_foreign_one_is_wrong() {
        let missing = Err("missing apikey".to_owned());
        let wrong = Err("wrong apikey".to_owned());
        for (headers, expected) in [
            (vec![], &missing),
            (vec![("x-api-key", "")], &missing),
            (vec![("x-api-key", "secret")], &wrong),
            (vec![("x-api-key", "secret-11")], &wrong),
            (vec![("x-api-key", "SECRET-1")], &wrong),
        ] {
            assert_eq!(
                &check(Sources::HEADER, &head(Method::GET, "", &headers)),
                expected
            );
        }
    }

    #[test]
    fn viewer_reads_and_does_not_write() {
        let headers = [("x-api-key", "look")];
        assert_eq!(
            check(ALL, &head(Method::GET, "", &headers)).as_deref(),
            Ok("dashboard")
        );
        for method in [Method::PUT, Method::POST, Method::PATCH, Method::DELETE] {
            let refused = check(ALL, &head(method, "", &headers));
            assert_eq!(refused, Err("invalid method for role viewer".to_owned()));
        }
    }

    #[test]
    fn query_and_cookie_count_only_where_configured() {
        let query = head(Method::GET, "a=b&api_key=secret-1", &[]);
        let cookie = head(Method::GET, "", &[("cookie", "a=b; x_api_key=secret-1")]);
        for request in [&query, &cookie] {
            assert_eq!(check(ALL, request).as_deref(), Ok("ops"));
            assert_eq!(
                check(Sources::HEADER, request),
                Err("missing apikey".to_owned())
            );
        }
        let header = head(Method::GET, "", &[("x-api-key", "secret-1")]);
        let query_only = Sources {
            header: false,
            query: true,
            cookie: false,
        };
        assert_eq!(check(query_only, &header), Err("missing apikey".to_owned()));
    }

    #[test]
    fn without_keys_nobody_is_let_in() {
        let nobody = Keys::new(Vec::new(), ALL);
        let head = head(Method::GET, "", &[("x-api-key", "anything")]);
        let given = nobody.find(&head).unwrap().unwrap();
        assert!(matches!(nobody.check(&head, &given), Err(AuthError::Wrong)));
    }

    #[test]
    fn certificate_counts_with_its_role_until_it_ends() {
        let certified = |role| Certified {
            name: "CN=ops".to_owned(),
            role,
            until: 100,
        };
        let (get, put) = (head(Method::GET, "", &[]), head(Method::PUT, "", &[]));
        let (admin, viewer) = (certified(Role::Admin), certified(Role::Viewer));
        assert_eq!(admin.check(&put, 100).unwrap(), "CN=ops");
        assert_eq!(viewer.check(&get, 100).unwrap(), "CN=ops");
        assert!(matches!(
            viewer.check(&put, 100),
            Err(AuthError::ViewerWrites)
        ));
        assert!(matches!(admin.check(&get, 101), Err(AuthError::Expired)));
    }

    #[test]
    fn keys_show_no_text() {
        assert!(!format!("{:?}", keys(ALL)).contains("secret-1"));
    }
}
