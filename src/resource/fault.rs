//! Why a document was refused: the field, the reason, all of them at once.

use std::fmt;

use super::texts;

/// What APISIX says of a private key that is neither PEM nor one it can open.
pub const NOT_DECRYPTED: &str = "failed to decrypt previous encrypted key";

/// How many faults, and how many warnings, a verdict holds. A document with more has one cause.
pub(super) const FOUND_MAX: usize = 100;

/// One fault of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// JSON pointer to the member at fault, e.g. `/client/ca`; empty for the whole document.
    pub pointer: String,
    /// What is wrong, e.g. `property "uri" is required`. Quotes no withheld value.
    pub reason: String,
    /// Whose words the reason is in.
    pub words: Words,
    /// What may have been meant by a member that there is none of.
    pub guess: Option<Guess>,
}

/// A member that there is none of, and the known one whose name is nearest to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guess {
    /// Its name, as it may be quoted.
    pub found: String,
    /// The known one's.
    pub meant: String,
}

/// Whose words a reason is in, which says how a reply has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    /// Those of APISIX's JSON schema library; `invalid configuration: ` precedes them in `error_msg`.
    Schema,
    /// The same for a rule of ours, where APISIX takes members that it does not know: the
    /// [guess](Fault::guess) follows them in `error_msg`.
    Stricter,
    /// Those of APISIX for a check behind the schema; they stand alone in `error_msg`.
    Apisix,
    /// Ours, for what APISIX does not check: a whole sentence.
    Ours,
}

impl Words {
    /// Whether they come from the schema: then `invalid configuration: ` precedes them.
    #[must_use]
    pub const fn is_schema(self) -> bool {
        matches!(self, Self::Schema | Self::Stricter)
    }
}

impl Fault {
    /// The reason with what precedes it in `error_msg`.
    #[must_use]
    pub fn message(&self) -> String {
        match self.words {
            Words::Schema => format!("{PREFIX}{}", self.reason),
            Words::Stricter => format!("{PREFIX}{}", self.told()),
            Words::Apisix | Words::Ours => self.reason.clone(),
        }
    }

    /// The reason and what may have been meant: for lists of faults and for the log.
    #[must_use]
    pub fn told(&self) -> String {
        match &self.guess {
            Some(guess) => format!("{}{guess}", self.reason),
            None => self.reason.clone(),
        }
    }
}

/// What follows a reason.
impl fmt::Display for Guess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ", did you mean {}?", texts::quoted(&self.meant))
    }
}

/// What precedes the schema's reasons in a refused write.
const PREFIX: &str = "invalid configuration: ";

/// All faults of a document, in schema order; at least one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.sentence())]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    /// The sentence of `error_msg`: the first fault. Clients and APISIX's own cases compare its words,
    /// so that they stand alone where it has some; what they leave open is the [hint](Self::hint).
    #[must_use]
    pub fn message(&self) -> String {
        match self.0.first() {
            Some(first) if first.words.is_schema() => format!("{PREFIX}{}", self.reason()),
            Some(_) => self.reason(),
            None => "invalid configuration".to_owned(),
        }
    }

    /// The [message](Self::message) without what precedes the schema's reasons.
    #[must_use]
    pub fn reason(&self) -> String {
        match self.0.first() {
            Some(first) => match first.words {
                Words::Ours => self.sentence(),
                Words::Stricter => first.told(),
                Words::Schema | Words::Apisix => first.reason.clone(),
            },
            None => String::new(),
        }
    }

    /// What APISIX's words of the [message](Self::message) leave open: the member as a JSON pointer,
    /// what a clause asks for, what to do, and the word that was meant by a typo. `None` where they
    /// say it, and for sentences of ours, which have all of it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let first = self.0.first().filter(|first| first.words != Words::Ours)?;
        let mut parts = Vec::new();
        match self.left_open(first) {
            Some(Open::Clause(asked)) => parts.push(asked.to_owned()),
            Some(Open::Member) => parts.push(format!("at {}", first.pointer)),
            None => {}
        }
        parts.extend(remedy(first));
        let own = first
            .guess
            .as_ref()
            .filter(|_| first.words != Words::Stricter);
        let guess = own.or_else(|| self.guess_behind(first));
        parts.extend(guess.map(found));
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// The first fault and what its words leave open, as one sentence: for the log and for reports.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Some(first) = self.0.first() else {
            return String::new();
        };
        let mut text = first.told();
        match self.left_open(first) {
            Some(Open::Clause(asked)) => text.push_str(&format!(": {asked}")),
            Some(Open::Member) => text.push_str(&format!(" (at {})", first.pointer)),
            None => {}
        }
        let guess = self.guess_behind(first).map(found);
        for part in remedy(first).into_iter().chain(guess) {
            text.push_str(&format!("; {part}"));
        }
        text
    }

    fn left_open(&self, first: &Fault) -> Option<Open<'_>> {
        let is_meant = |other: &&Fault| {
            !other.says_nothing() && other.pointer.starts_with(first.pointer.as_str())
        };
        let meant = || self.0.iter().skip(1).find(is_meant);
        match first.says_nothing().then(meant).flatten() {
            Some(meant) => Some(Open::Clause(&meant.reason)),
            None => (!first.names_its_member()).then_some(Open::Member),
        }
    }

    /// The first guess behind a first fault that has none: a member that is lacking is often there,
    /// misspelt.
    fn guess_behind(&self, first: &Fault) -> Option<&Guess> {
        let mut others = self.0.iter().skip(1);
        let guess = others.find_map(|other| other.guess.as_ref());
        guess.filter(|_| first.guess.is_none())
    }
}

/// What to do about a fault whose words leave it open.
fn remedy(fault: &Fault) -> Option<String> {
    let mut remedies = REMEDIES.iter();
    let remedy = remedies.find(|(words, _)| fault.reason.ends_with(words));
    remedy.map(|(_, remedy)| (*remedy).to_owned())
}

/// A guess where its fault is not told.
fn found(guess: &Guess) -> String {
    format!("found {}{guess}", guess.found)
}

/// What a reason leaves open.
enum Open<'f> {
    /// What a clause asks for.
    Clause(&'f str),
    /// Which member is meant.
    Member,
}

/// Ends of texts that leave open what is wrong: a fault behind them says it.
const OPEN: [&str; 4] = [
    "then clause did not match",
    "else clause did not match",
    "value should match only one schema, but matches none",
    "object matches none of the required",
];

/// Ends of texts that leave open what to do, and what that is.
const REMEDIES: [(&str, &str); 6] = [
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
    (
        NOT_DECRYPTED,
        "send the key as PEM; one that an APISIX has sealed needs that APISIX's key in \
         `data_encryption.keyring` of the configuration",
    ),
    (
        "property \"id\" validation failed: object matches none of the required",
        "an id is 1 to 64 letters, digits, hyphens, dots and underscores, or an integer from 1",
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
        let is_part = |char: char| char.is_alphanumeric() || "_-".contains(char);
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
    /// Refuses with a sentence of ours, for what APISIX does not check.
    pub(super) fn refuse(&mut self, pointer: impl Into<String>, reason: impl Into<String>) {
        self.add(Words::Ours, pointer.into(), reason.into());
    }

    /// Refuses with APISIX's words for what it checks behind the schema.
    pub(super) fn refuse_as_apisix(
        &mut self,
        pointer: impl Into<String>,
        reason: impl Into<String>,
    ) {
        self.add(Words::Apisix, pointer.into(), reason.into());
    }

    /// Refuses a member that there is none of, in APISIX's words, with what may have been meant.
    pub(super) fn refuse_unknown(
        &mut self,
        pointer: impl Into<String>,
        reason: impl Into<String>,
        guess: Option<Guess>,
    ) {
        let place = self.faults.len();
        self.refuse_as_apisix(pointer, reason);
        if let Some(fault) = self.faults.get_mut(place) {
            fault.guess = guess;
        }
    }

    /// Refuses with a reason that APISIX puts behind `invalid configuration: `.
    pub(super) fn refuse_shape(&mut self, pointer: impl Into<String>, reason: impl Into<String>) {
        self.add(Words::Schema, pointer.into(), reason.into());
    }

    pub(super) fn add(&mut self, words: Words, pointer: String, reason: String) {
        if self.faults.len() < FOUND_MAX {
            self.faults.push(Fault {
                pointer: texts::shown_pointer(pointer),
                reason,
                words,
                guess: None,
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

    fn faults(words: Words, faults: &[(&str, &str)]) -> Faults {
        let fault = |(pointer, reason): &(&str, &str)| Fault {
            pointer: (*pointer).to_owned(),
            reason: (*reason).to_owned(),
            words,
            guess: None,
        };
        Faults(faults.iter().map(fault).collect())
    }

    /// What a reply says: that APISIX's words stand alone in it is part of it.
    #[track_caller]
    fn hint(all: &[(&str, &str)]) -> Option<String> {
        let theirs = faults(Words::Apisix, all);
        assert_eq!(
            (theirs.message(), theirs.reason()),
            (all[0].1.to_owned(), all[0].1.to_owned())
        );
        let ours = faults(Words::Ours, all);
        assert_eq!((ours.message(), ours.hint()), (theirs.sentence(), None));
        let schema = faults(Words::Schema, all);
        assert_eq!(
            schema.message(),
            format!("invalid configuration: {}", all[0].1)
        );
        assert_eq!(schema.hint(), theirs.hint());
        theirs.hint()
    }

    const MISMATCH: &str = "the private key does not belong to the certificate";

    #[test]
    fn hint_has_the_member_that_the_words_leave_open() {
        for (pointer, reason, told) in [
            ("/uri", "property \"uri\" is required", None),
            ("/tls/verify", "tls.verify is true and no CA is known", None),
            ("/cert", "`cert` holds a private key", None),
            ("/foo", "additional properties forbidden, found foo", None),
            ("/plugins/limit-count", "unknown plugin [limit-count]", None),
            ("/snis/0", "property \"snis\" validation failed: x", None),
            ("", "only one of host or hosts is allowed", None),
            ("/keys", "the CA expired on a day", Some("at /keys")),
            (
                "/client/ca",
                "the CA expired on a day",
                Some("at /client/ca"),
            ),
            ("/upstream/tls/server_name", "invalid server_name: x", None),
            ("/id", "invalid secret manager: foo", None),
            (
                "/upstream_id",
                "failed to fetch upstream info by upstream id [x]",
                None,
            ),
            ("/type", "it is invalid", Some("at /type")),
        ] {
            assert_eq!(hint(&[(pointer, reason)]).as_deref(), told, "{reason}");
        }
        for pointer in ["/key", "/tls/client_key", "/upstream/tls/client_key"] {
            let remedy = "give the key that the certificate was issued for";
            let told = format!("at {pointer}; {remedy}");
            assert_eq!(hint(&[(pointer, MISMATCH)]), Some(told));
            let sentence = format!("{MISMATCH} (at {pointer}); {remedy}");
            assert_eq!(
                faults(Words::Ours, &[(pointer, MISMATCH)]).message(),
                sentence
            );
        }
    }

    #[test]
    fn hint_says_what_a_clause_asks_for_and_what_may_have_been_meant() {
        let clause = ("", "then clause did not match");
        let none = ("", "value should match only one schema, but matches none");
        let lacking = ("", "one of these is required: \"sni\", \"snis\"");
        assert_eq!(hint(&[clause, none, lacking]).as_deref(), Some(lacking.1));
        let sentence = faults(Words::Schema, &[clause, none, lacking]).sentence();
        assert_eq!(sentence, format!("{}: {}", clause.1, lacking.1));
        assert_eq!(hint(&[clause]), None);
        let required = (
            "/tls/client_cert",
            "failed to validate dependent schema for \"client_key\": property \"client_cert\" is \
             required",
        );
        let unknown = (
            "/tls/client_crt",
            "additional properties forbidden, found client_crt",
        );
        assert_eq!(hint(&[required, unknown]), None);
        let guess = Guess {
            found: "client_crt".to_owned(),
            meant: "client_cert".to_owned(),
        };
        let guessed = "found client_crt, did you mean \"client_cert\"?";
        let forbidden = "additional properties forbidden";
        for (words, all, message, hint, sentence) in [
            (
                Words::Schema,
                &[required, unknown][..],
                format!("{PREFIX}{}", required.1),
                Some(guessed),
                format!("{}; {guessed}", required.1),
            ),
            (
                Words::Schema,
                &[unknown],
                format!("{PREFIX}{}", unknown.1),
                Some(guessed),
                format!("{forbidden}, {guessed}"),
            ),
            (
                Words::Stricter,
                &[unknown],
                format!("{PREFIX}{forbidden}, {guessed}"),
                None,
                format!("{forbidden}, {guessed}"),
            ),
        ] {
            let mut faults = faults(words, all);
            faults.0[all.len() - 1].guess = Some(guess.clone());
            assert_eq!(faults.message(), message);
            assert_eq!(faults.hint().as_deref(), hint);
            assert_eq!(faults.sentence(), sentence);
        }
    }
}
