//! References: how a document says that a text is kept elsewhere.
//!
//! `$secret://<manager>/<id>/<rest>` and `$env://NAME[/member]` (APISIX, "Secret"). Taken apart
//! here; what `<rest>` means is each manager's own ([`Source::places`](super::source::Source)).

use std::fmt;

use super::source::ReadFault;
use crate::resource::Id;

/// The longest reference; longer ones are none that a manager could answer.
const LONGEST_BYTES: usize = 2048;

/// A reference, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Whom to ask.
    pub origin: SourceKey,
    /// What to ask for: for a manager the path with the key at its end, for the environment the
    /// name with the member after it.
    pub rest: String,
}

/// Who keeps a value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceKey {
    /// The manager that the `secret` resource with this id describes, e.g. `vault/1`.
    Secret(Id),
    /// The root with this name in `secrets.file.roots`.
    File(String),
    /// The environment of the process.
    Env,
}

impl SourceKey {
    /// The manager's word, as in references and metrics.
    #[must_use]
    pub fn manager(&self) -> &str {
        match self {
            Self::Secret(id) => id.as_str().split('/').next().unwrap_or_default(),
            Self::File(_) => "file",
            Self::Env => "env",
        }
    }
}

impl fmt::Display for SourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(id) => write!(f, "{id}"),
            Self::File(root) => write!(f, "file/{root}"),
            Self::Env => f.write_str("env"),
        }
    }
}

impl Reference {
    /// Takes a text apart that begins as a reference does.
    ///
    /// # Errors
    /// [`ReadFault::Malformed`] with what is missing or not permitted. Empty segments, `.` and `..`
    /// are not: nobody may leave the path that a manager is confined to.
    pub fn parse(text: &str) -> Result<Self, ReadFault> {
        if text.len() > LONGEST_BYTES {
            return Err(malformed("it is longer than 2048 bytes"));
        }
        if text.chars().any(char::is_control) {
            return Err(malformed("it has a control character"));
        }
        let prefix = "$env://".len();
        if let (Some(scheme), Some(rest)) = (text.get(..prefix), text.get(prefix..))
            && scheme.eq_ignore_ascii_case("$env://")
        {
            let name = rest.split('/').next().unwrap_or_default();
            if name.is_empty() {
                return Err(malformed("it names no variable; write $env://NAME"));
            }
            return Ok(Self {
                origin: SourceKey::Env,
                rest: rest.to_owned(),
            });
        }
        let rest = text
            .strip_prefix("$secret://")
            .ok_or_else(|| malformed("it begins with neither $secret:// nor $env://"))?;
        let mut parts = rest.splitn(3, '/');
        let (manager, id) = (parts.next().unwrap_or_default(), parts.next());
        let origin = match (manager, id.filter(|id| !id.is_empty())) {
            ("", _) => return Err(malformed("no secret manager")),
            (_, None) => return Err(malformed("no secret conf id")),
            ("file", Some(root)) => SourceKey::File(root.to_owned()),
            ("vault" | "aws" | "gcp" | "kubernetes", Some(id)) => {
                let id = format!("{manager}/{id}").parse();
                SourceKey::Secret(id.map_err(|_not_an_id| malformed("its id is none"))?)
            }
            (_, Some(_)) => {
                return Err(malformed(
                    "its manager is none of vault, aws, gcp, kubernetes and file",
                ));
            }
        };
        let rest = parts.next().filter(|rest| !rest.is_empty());
        let rest = rest.ok_or_else(|| malformed("no secret key id"))?;
        if rest.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(malformed("its path has an empty segment, `.` or `..`"));
        }
        Ok(Self {
            origin,
            rest: rest.to_owned(),
        })
    }
}

fn malformed(what: &str) -> ReadFault {
    ReadFault::Malformed(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<(String, String), String> {
        Reference::parse(text)
            .map(|reference| (reference.origin.to_string(), reference.rest))
            .map_err(|fault| fault.to_string())
    }

    #[test]
    fn references_are_taken_apart() {
        for (text, origin, rest) in [
            ("$secret://vault/1/a/b", "vault/1", "a/b"),
            (
                "$secret://vault/mtls-certs/cert",
                "vault/mtls-certs",
                "cert",
            ),
            ("$secret://aws/prod/app/tls/key", "aws/prod", "app/tls/key"),
            (
                "$secret://file/certs/api/tls.crt",
                "file/certs",
                "api/tls.crt",
            ),
            (
                "$secret://kubernetes/k/ns/tls/tls.key",
                "kubernetes/k",
                "ns/tls/tls.key",
            ),
            ("$env://NAME", "env", "NAME"),
            ("$ENV://NAME/cert", "env", "NAME/cert"),
        ] {
            let expected = (origin.to_owned(), rest.to_owned());
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        for (text, part) in [
            ("$secret://", "no secret manager"),
            ("$secret://vault", "no secret conf id"),
            ("$secret://vault//a", "no secret conf id"),
            ("$secret://vault/1", "no secret key id"),
            ("$secret://vault/1/", "no secret key id"),
            ("$secret://azure/1/a", "none of vault"),
            ("$secret://Vault/1/a", "none of vault"),
            ("$secret://vault/a b/c", "its id is none"),
            ("$env://", "names no variable"),
            ("$env:///a", "names no variable"),
            ("$SECRET://vault/1/a", "begins with neither"),
        ] {
            let told = parse(text).expect_err(text);
            assert!(told.contains(part), "{text}: {told}");
        }
    }

    #[test]
    fn paths_cannot_leave_where_they_are_confined() {
        for text in [
            "$secret://vault/1/../sys/a",
            "$secret://vault/1/a/./b",
            "$secret://vault/1/a//b",
            "$secret://vault/1//a",
            "$secret://file/root/..",
            "$secret://vault/1/a\n/b",
        ] {
            parse(text).expect_err(text);
        }
        let long = format!("$secret://vault/1/{}", "a".repeat(2048));
        parse(&long).expect_err("long");
        parse("$secret://vault/1/..a/b..").unwrap();
    }

    proptest! {
        #[test]
        fn any_text_has_an_answer(text in "(\\$secret://|\\$env://|)\\PC{0,64}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert!(text.ends_with(&reference.rest));
            }
        }
    }
}
