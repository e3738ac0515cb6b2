//! Why a document was refused: the field, the reason, all of them at once.

use super::texts;

/// How many faults, and how many warnings, a verdict holds. A document with more has one cause.
pub(super) const FOUND_MAX: usize = 100;

/// One fault of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// JSON pointer to the member at fault, e.g. `/client/ca`; empty for the whole document.
    pub pointer: String,
    /// APISIX's text where it has one, e.g. `property "uri" is required`. Quotes no withheld value.
    pub reason: String,
    /// Whether `invalid configuration: ` precedes the reason in `error_msg`, as APISIX has it for
    /// schema faults.
    pub schema: bool,
}

impl Fault {
    /// The sentence of `error_msg`: the reason, behind APISIX's prefix where it has one.
    #[must_use]
    pub fn message(&self) -> String {
        if self.schema {
            format!("invalid configuration: {}", self.reason)
        } else {
            self.reason.clone()
        }
    }
}

/// All faults of a document, in schema order; at least one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.first().map_or("", |fault| fault.reason.as_str()))]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    /// The sentence of `error_msg`: the first fault, in APISIX's words where it has some, then what
    /// these do not say: which member is meant, and what to do.
    #[must_use]
    pub fn message(&self) -> String {
        match self.0.first() {
            Some(first) if first.schema => format!("invalid configuration: {}", self.reason()),
            Some(_) => self.reason(),
            None => "invalid configuration".to_owned(),
        }
    }

    /// The [message](Self::message) without APISIX's prefix.
    #[must_use]
    pub fn reason(&self) -> String {
        let Some(first) = self.0.first() else {
            return String::new();
        };
        let mut text = first.reason.clone();
        let mut others = self.0.iter().skip(1);
        let is_meant = |other: &&Fault| {
            !other.says_nothing() && other.pointer.starts_with(first.pointer.as_str())
        };
        if first.says_nothing()
            && let Some(meant) = others.clone().find(is_meant)
        {
            text.push_str(": ");
            text.push_str(&meant.reason);
        } else if !first.names_its_member() {
            text.push_str(&format!(" (at {})", first.pointer));
        }
        let mut remedies = REMEDIES.iter();
        if let Some((_, remedy)) = remedies.find(|(words, _)| first.reason.ends_with(words)) {
            text.push_str("; ");
            text.push_str(remedy);
        }
        // A member that is lacking is often there, misspelt.
        let guess = others.find_map(|other| {
            let (_, guess) = other.reason.split_once(UNKNOWN)?;
            guess.contains(GUESS).then_some(guess)
        });
        if let Some(guess) = guess {
            text.push_str(&format!("; found {guess}"));
        }
        text
    }
}

/// How a text about a member that there is none of begins, and one with the member that was meant.
const UNKNOWN: &str = "additional properties forbidden, found ";
const GUESS: &str = ", did you mean ";

/// Ends of texts that leave open what is wrong: a fault behind them says it.
const OPEN: [&str; 4] = [
    "then clause did not match",
    "else clause did not match",
    "value should match only one schema, but matches none",
    "object matches none of the required",
];

/// Ends of texts that leave open what to do, and what that is.
const REMEDIES: [(&str, &str); 4] = [
    (
        "the private key does not belong to the certificate",
        "give the key that the certificate was issued for",
    ),
    (
        "PEM_read_bio_X509_AUX() failed",
        "a certificate is PEM, from -----BEGIN CERTIFICATE----- to its END",
    ),
    (
        "PEM_read_bio_PrivateKey() failed",
        "a key is PEM, such as from -----BEGIN PRIVATE KEY----- to its END",
    ),
    ("got userdata", "userdata is null: leave the member out"),
];

/// Names of members that are words of the texts, too.
const COMMON: [&str; 5] = ["ca", "cert", "certs", "key", "keys"];

impl Fault {
    /// Whether it leaves open what is wrong.
    fn says_nothing(&self) -> bool {
        OPEN.iter().any(|open| self.reason.ends_with(open))
    }

    /// Whether its reason has the name of the member at fault, so that no other is meant.
    fn names_its_member(&self) -> bool {
        let mut segments = self.pointer.rsplit('/');
        // Items are counted in the texts.
        let is_name = |segment: &&str| segment.parse::<usize>().is_err();
        let Some(name) = segments.find(is_name).filter(|name| !name.is_empty()) else {
            return true;
        };
        let is_part = |char: char| char.is_alphanumeric() || char == '_';
        let mut words = self.reason.split(|char| !is_part(char));
        let dotted = self.pointer.trim_start_matches('/').replace('/', ".");
        let quoted = ['"', '`'].map(|quote| format!("{quote}{name}{quote}"));
        // An id is the path's, too. APISIX writes names of members as words.
        name == "id"
            || name.contains('_') && self.reason.contains(&name.replace('_', " "))
            || quoted.iter().any(|quoted| self.reason.contains(quoted))
            || dotted.contains('.') && self.reason.contains(&dotted)
            || !COMMON.contains(&name) && words.any(|word| word == name)
    }
}

/// Something accepted that its writer should know of; also in the reply's `warnings`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Stable name, e.g. `upstream_not_verified`.
    pub code: &'static str,
    /// JSON pointer to the member meant.
    pub pointer: String,
    /// A sentence for the operator, with the remedy.
    pub text: String,
}

/// What judging one document has found so far. Used inside this room.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) faults: Vec<Fault>,
    pub(super) warnings: Vec<Warning>,
}

impl Verdict {
    /// Refuses with a reason that stands alone.
    pub(super) fn refuse(&mut self, pointer: impl Into<String>, reason: impl Into<String>) {
        self.add(pointer.into(), reason.into(), false);
    }

    /// Refuses with a reason that APISIX puts behind `invalid configuration: `.
    pub(super) fn refuse_shape(&mut self, pointer: impl Into<String>, reason: impl Into<String>) {
        self.add(pointer.into(), reason.into(), true);
    }

    fn add(&mut self, pointer: String, reason: String, schema: bool) {
        if self.faults.len() < FOUND_MAX {
            self.faults.push(Fault {
                pointer: texts::shown_pointer(pointer),
                reason,
                schema,
            });
        }
    }

    /// Refuses what is known and not served yet: it is never accepted and dropped.
    pub(super) fn refuse_unsupported(&mut self, pointer: impl Into<String>, what: &str) {
        self.refuse(pointer, format!("{what} is not supported by this version"));
    }

    /// Accepts, and tells the writer.
    pub(super) fn warn(
        &mut self,
        code: &'static str,
        pointer: impl Into<String>,
        text: impl Into<String>,
    ) {
        if self.warnings.len() < FOUND_MAX {
            self.warnings.push(Warning {
                code,
                pointer: texts::shown_pointer(pointer.into()),
                text: text.into(),
            });
        }
    }

    /// Accepts what nothing reads, and tells the writer.
    pub(super) fn warn_unused(&mut self, pointer: impl Into<String>, why: impl Into<String>) {
        self.warn("member_unused", pointer, why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn message(faults: &[(&str, &str)]) -> String {
        let fault = |(pointer, reason): &(&str, &str)| Fault {
            pointer: (*pointer).to_owned(),
            reason: (*reason).to_owned(),
            schema: false,
        };
        Faults(faults.iter().map(fault).collect()).message()
    }

    #[test]
    fn message_has_the_member_that_the_words_leave_open() {
        let mismatch = "the private key does not belong to the certificate";
        for (pointer, reason, told) in [
            ("/uri", "property \"uri\" is required", ""),
            ("/tls/verify", "tls.verify is true and no CA is known", ""),
            ("/cert", "`cert` holds a private key", ""),
            ("/foo", "additional properties forbidden, found foo", ""),
            ("/snis/0", "property \"snis\" validation failed: x", ""),
            ("", "only one of host or hosts is allowed", ""),
            ("/keys", "the CA expired on a day", " (at /keys)"),
            ("/client/ca", "the CA expired on a day", " (at /client/ca)"),
            ("/upstream/tls/server_name", "invalid server_name: x", ""),
            ("/id", "invalid secret manager: foo", ""),
            (
                "/upstream_id",
                "failed to fetch upstream info by upstream id [x]",
                "",
            ),
            ("/type", "it is invalid", " (at /type)"),
        ] {
            assert_eq!(message(&[(pointer, reason)]), format!("{reason}{told}"));
        }
        for pointer in ["/key", "/tls/client_key", "/upstream/tls/client_key"] {
            let told = message(&[(pointer, mismatch)]);
            let remedy = "give the key that the certificate was issued for";
            assert_eq!(told, format!("{mismatch} (at {pointer}); {remedy}"));
        }
    }

    #[test]
    fn message_says_what_a_clause_asks_for_and_what_may_have_been_meant() {
        let clause = ("", "then clause did not match");
        let none = ("", "value should match only one schema, but matches none");
        let lacking = ("", "one of these is required: \"sni\", \"snis\"");
        assert_eq!(
            message(&[clause, none, lacking]),
            "then clause did not match: one of these is required: \"sni\", \"snis\""
        );
        assert_eq!(message(&[clause]), "then clause did not match");
        let required = (
            "/tls/client_cert",
            "failed to validate dependent schema for \"client_key\": property \"client_cert\" is \
             required",
        );
        let unknown = (
            "/tls/client_crt",
            "additional properties forbidden, found client_crt, did you mean \"client_cert\"?",
        );
        assert_eq!(
            message(&[required, unknown]),
            format!(
                "{}; found client_crt, did you mean \"client_cert\"?",
                required.1
            )
        );
        let foreign = ("/x", "additional properties forbidden, found x");
        assert_eq!(message(&[required, foreign]), required.1);
    }
}
