//! The one trait of secret managers: what is asked, what is answered, why there is no answer.
//!
//! A source lives on one thread (its clients do); what is asked at the same time, how often, and
//! what becomes of an answer is not its business: the [`desk`](super::desk) bounds the time,
//! retries, and asks once per path where several references need it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::failure::Reason;

/// The longest value of a secret, as the Admin API has it for certificates.
pub const VALUE_BYTES: usize = 65_536;

/// What keeps secrets: one configured manager.
pub trait Source {
    /// What the part of a reference after the manager's id can mean, the likeliest first.
    ///
    /// Most managers give one place; one whose names may hold slashes gives several, which are
    /// tried in order for as long as the answer is [`ReadFault::NotFound`].
    ///
    /// # Errors
    /// [`ReadFault::Malformed`], in the words of this manager's grammar.
    fn places(&self, rest: &str) -> Result<Vec<Place>, ReadFault>;

    /// Reads one path. Cancel safe: it is dropped when its time is over.
    ///
    /// # Errors
    /// Any [`ReadFault`]; never with a value or credential in it.
    fn read<'a>(&'a self, ask: Ask<'a>) -> LocalBoxFuture<'a, Result<Answer, ReadFault>>;
}

/// Where a value is: what to read, and which part of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What is read at once; the references of a resource to one path come from one answer.
    pub path: String,
    /// The member of the answer; `None`: the whole of it.
    pub member: Option<String>,
}

/// What is asked of a source.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// As [`Source::places`] gave it.
    pub path: &'a str,
    /// The members that will be looked for; an answer may hold others.
    pub members: &'a [String],
    /// Nothing may be changed at the manager: no certificate issued, no lease taken.
    pub dry_run: bool,
}

/// What a source has at a path.
#[derive(Clone)]
pub struct Answer {
    /// What is there.
    pub content: Content,
    /// For how long it is good, where the manager says so: a lease, or what is left of an issued
    /// certificate. It is read again in time, at the latest after `secrets.cache_time`.
    pub good_for: Option<Duration>,
    /// The manager's version of it, e.g. `3`.
    pub version: Option<String>,
}

/// One text, or named ones.
#[derive(Clone)]
pub enum Content {
    /// A text; its members are those of the JSON object that it holds, if it does.
    Text(Zeroizing<String>),
    /// Members; `None` for one that is no text.
    Members(BTreeMap<String, Option<Zeroizing<String>>>),
}

impl Answer {
    /// An answer whose lease and version are not known.
    #[must_use]
    pub const fn of(content: Content) -> Self {
        Self {
            content,
            good_for: None,
            version: None,
        }
    }

    /// The whole (`None`) or one member.
    ///
    /// # Errors
    /// [`ReadFault::NoMember`], [`ReadFault::NotText`], [`ReadFault::TooLong`].
    pub fn value(&self, member: Option<&str>) -> Result<Zeroizing<String>, ReadFault> {
        let text = match (&self.content, member) {
            (Content::Text(text), None) => text.clone(),
            (Content::Text(text), Some(member)) => match Content::parse(text) {
                Some(Content::Members(members)) => find(&members, member)?,
                Some(Content::Text(_)) | None => {
                    return Err(ReadFault::NoMember(member.to_owned()));
                }
            },
            (Content::Members(_), None) => return Err(ReadFault::NotText),
            (Content::Members(members), Some(member)) => find(members, member)?,
        };
        if text.len() > VALUE_BYTES {
            return Err(ReadFault::TooLong);
        }
        Ok(text)
    }
}

fn find(
    members: &BTreeMap<String, Option<Zeroizing<String>>>,
    member: &str,
) -> Result<Zeroizing<String>, ReadFault> {
    match members.get(member) {
        None => Err(ReadFault::NoMember(member.to_owned())),
        Some(None) => Err(ReadFault::NotText),
        Some(Some(text)) => Ok(text.clone()),
    }
}

impl Content {
    /// The members of a JSON object; `None` where the text is none. The parser's words are not
    /// kept: they may quote the secret.
    #[must_use]
    pub fn parse(json: &str) -> Option<Self> {
        match serde_json::from_str(json).ok()? {
            Value::Object(members) => Some(Self::from_members(members)),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => None,
        }
    }

    /// The members of a JSON object: texts, and numbers and truth values as they are written.
    #[must_use]
    pub fn from_members(members: serde_json::Map<String, Value>) -> Self {
        let text = |value: Value| match value {
            Value::String(text) => Some(Zeroizing::new(text)),
            Value::Number(number) => Some(Zeroizing::new(number.to_string())),
            Value::Bool(flag) => Some(Zeroizing::new(flag.to_string())),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        };
        let members = members.into_iter();
        Self::Members(members.map(|(name, value)| (name, text(value))).collect())
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let content = match &self.content {
            Content::Text(text) => format!("[withheld, {} bytes]", text.len()),
            Content::Members(members) => format!("[withheld, {} members]", members.len()),
        };
        f.debug_struct("Answer")
            .field("content", &content)
            .field("good_for", &self.good_for)
            .field("version", &self.version)
            .finish()
    }
}

/// Why a reference has no value. Shown to operators: holds paths and names, never a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadFault {
    /// The reference is not written as its manager needs it.
    #[error("the reference cannot be read: {0}")]
    Malformed(String),
    /// No `secret` resource, or no root, has this name.
    #[error("{0} is not configured")]
    NoManager(String),
    /// The resource that describes the manager cannot be used.
    #[error("{0}")]
    Unusable(String),
    /// A fence of the configuration: reason and remedy.
    #[error("{0}")]
    Fenced(String),
    /// A credential that its writer did not supply would go to an origin that is not listed.
    #[error(
        "a credential that the secret does not hold itself would be sent to {origin}, which \
         `secrets.{manager}.origins` of the configuration does not list"
    )]
    OriginNotTrusted {
        /// Where it would go.
        origin: String,
        /// The manager's word.
        manager: &'static str,
    },
    /// The manager has nothing at this path.
    #[error("the manager has nothing there")]
    NotFound,
    /// What is there has no such member.
    #[error("what is there has no member `{0}`")]
    NoMember(String),
    /// What is there is no text.
    #[error("what is there is not a text")]
    NotText,
    /// A value is longer than [`VALUE_BYTES`].
    #[error("the value is longer than 65536 bytes")]
    TooLong,
    /// The manager refuses: a token that is wrong, expired or not permitted to read this.
    #[error("the manager refuses: {0}")]
    Denied(String),
    /// The manager cannot be reached, is sealed, or fails.
    #[error("the manager cannot answer: {0}")]
    Unavailable(String),
    /// It did not answer in time.
    #[error("the manager did not answer within {} ms", .0.as_millis())]
    Slow(Duration),
    /// What it answered is not what its API says.
    #[error("the manager's answer is not understood: {0}")]
    Answer(String),
    /// The gateway itself failed; the log says where.
    #[error("the gateway could not ask")]
    Internal,
}

impl ReadFault {
    /// The manager as a whole does not answer: no other path would do better now.
    #[must_use]
    pub const fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Slow(_))
    }

    /// The catalogue's name for it.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::OriginNotTrusted { .. } => Reason::SecretOriginNotTrusted,
            Self::Malformed(_)
            | Self::NoManager(_)
            | Self::Unusable(_)
            | Self::Fenced(_)
            | Self::NotFound
            | Self::NoMember(_)
            | Self::NotText
            | Self::TooLong
            | Self::Denied(_)
            | Self::Unavailable(_)
            | Self::Slow(_)
            | Self::Answer(_)
            | Self::Internal => Reason::SecretUnresolved,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn members(value: Value) -> Answer {
        let Value::Object(members) = value else {
            panic!("no object")
        };
        Answer::of(Content::from_members(members))
    }

    fn text(text: &str) -> Answer {
        Answer::of(Content::Text(Zeroizing::new(text.to_owned())))
    }

    #[test]
    fn member_or_whole_is_found() {
        let answer = members(json!({"a": "text", "n": 17, "b": true, "o": {}, "z": null}));
        for (member, value) in [("a", "text"), ("n", "17"), ("b", "true")] {
            assert_eq!(**answer.value(Some(member)).unwrap(), *value);
        }
        assert_eq!(answer.value(Some("o")), Err(ReadFault::NotText));
        assert_eq!(answer.value(Some("z")), Err(ReadFault::NotText));
        assert_eq!(answer.value(None), Err(ReadFault::NotText));
        let absent = answer.value(Some("x"));
        assert_eq!(absent, Err(ReadFault::NoMember("x".to_owned())));
        assert_eq!(**text("hush").value(None).unwrap(), *"hush");
        let inner = text(r#"{"cert":"c"}"#).value(Some("cert")).unwrap();
        assert_eq!(**inner, *"c");
    }

    #[test]
    fn text_that_is_no_object_has_no_members_and_is_not_quoted() {
        for answer in [text("hush"), text(r#""hush""#), text(r#"{"hush": "#)] {
            let fault = answer.value(Some("m")).unwrap_err();
            assert_eq!(fault, ReadFault::NoMember("m".to_owned()));
            assert!(!format!("{fault} {fault:?}").contains("hush"));
        }
    }

    #[test]
    fn value_is_bounded() {
        let most = "a".repeat(VALUE_BYTES);
        assert!(text(&most).value(None).is_ok());
        assert_eq!(text(&(most + "a")).value(None), Err(ReadFault::TooLong));
    }

    #[test]
    fn debug_shows_no_value() {
        let shown = format!("{:?} {:?}", text("hush"), members(json!({"a": "hush"})));
        assert!(!shown.contains("hush"), "{shown}");
    }
}
