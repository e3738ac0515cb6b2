//! The environment of the process as a source: `$env://NAME`, `$env://NAME/member`.
//!
//! What the gateway itself is told through its environment is never given out: the writer of a
//! resource is not the one who started the process.

use std::collections::BTreeSet;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use zeroize::Zeroizing;

use super::source::{Answer, Ask, Content, Place, ReadFault, Source};

/// Prefixes of names that the gateway, its libraries or its managers read.
const OWN_PREFIXES: [&str; 7] = [
    "PORTCULLIS_",
    "VAULT_",
    "BAO_",
    "AWS_",
    "GOOGLE_",
    "KUBERNETES_",
    "OPENSSL_",
];

/// Looks an environment variable up.
pub type Lookup = Box<dyn Fn(&str) -> Option<String>>;

/// The environment, without what is the gateway's own.
pub struct Environment {
    lookup: Lookup,
    own: BTreeSet<String>,
}

impl Environment {
    /// The environment behind `lookup`; `own` are the names that the configuration has read.
    #[must_use]
    pub fn new(lookup: Lookup, own: BTreeSet<String>) -> Self {
        Self { lookup, own }
    }

    fn find(&self, name: &str) -> Result<Answer, ReadFault> {
        let is_own = |prefix: &str| {
            name.get(..prefix.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        };
        if self.own.contains(name) || OWN_PREFIXES.into_iter().any(is_own) {
            return Err(ReadFault::Fenced(format!(
                "{name} is a variable that the gateway itself reads, which no reference may; put \
                 the value into one of another name"
            )));
        }
        let value = (self.lookup)(name).ok_or(ReadFault::NotFound)?;
        Ok(Answer::of(Content::Text(Zeroizing::new(value))))
    }
}

impl Source for Environment {
    fn places(&self, rest: &str) -> Result<Vec<Place>, ReadFault> {
        let (name, member) = match rest.split_once('/') {
            None => (rest, None),
            Some((name, member)) => (name, Some(member.to_owned())),
        };
        if name.is_empty() || member.as_deref() == Some("") {
            return Err(ReadFault::Malformed(
                "write $env://NAME, or $env://NAME/member of a JSON object".to_owned(),
            ));
        }
        Ok(vec![Place {
            path: name.to_owned(),
            member,
        }])
    }

    fn read<'a>(&'a self, ask: Ask<'a>) -> LocalBoxFuture<'a, Result<Answer, ReadFault>> {
        std::future::ready(self.find(ask.path)).boxed_local()
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract::{self, Known, find};
    use super::*;

    fn environment() -> Environment {
        let lookup = |name: &str| match name {
            "CERT" => Some("hush cert".to_owned()),
            "PAIR" => Some(r#"{"cert": "hush c", "key": "hush k"}"#.to_owned()),
            "EMPTY" => Some(String::new()),
            "MY_KEK" | "VAULT_TOKEN" | "vault_token" | "PORTCULLIS_ADMIN_KEY" => {
                Some("own".to_owned())
            }
            _ => None,
        };
        Environment::new(Box::new(lookup), BTreeSet::from(["MY_KEK".to_owned()]))
    }

    #[tokio::test]
    async fn environment_keeps_the_contract() {
        let known = Known {
            values: &[
                ("CERT", "hush cert"),
                ("PAIR/cert", "hush c"),
                ("PAIR/key", "hush k"),
            ],
            absent: "NOBODY",
            no_member: Some("PAIR/other"),
            malformed: &["CERT/", "/a"],
        };
        contract::suite(&environment(), &known).await;
    }

    #[tokio::test]
    async fn names_that_the_gateway_reads_are_never_given_out() {
        for name in [
            "VAULT_TOKEN",
            "vault_token",
            "AWS_SECRET_ACCESS_KEY",
            "GOOGLE_X",
            "KUBERNETES_SERVICE_HOST",
            "OPENSSL_CONF",
            "PORTCULLIS_ADMIN_KEY",
            "BAO_TOKEN",
            "MY_KEK",
        ] {
            let told = find(&environment(), name).await.unwrap_err();
            assert!(matches!(told, ReadFault::Fenced(_)), "{name}: {told:?}");
        }
        assert!(find(&environment(), "CERT").await.is_ok());
    }
}
