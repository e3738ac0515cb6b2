//! What surrounds a document: id and times, and how its id agrees with the address it came to.
//!
//! Admin API, "id", "create_time", "update_time". The texts are APISIX's.

use serde_json::Value;

use super::fault::{Fault, Faults, Words};
use super::{Document, Id, Kind, members};

/// The members that only the gateway sets.
const TIMES: [&str; 2] = ["create_time", "update_time"];

/// The id of a document that is put, from its address and its `id` member, which must agree.
///
/// # Errors
/// No id at all, two that differ, one that is not an id of this kind, or a member that only the
/// gateway sets (`create_time`, `update_time`).
pub fn check_envelope(kind: Kind, url_id: Option<&str>, document: &Document) -> Result<Id, Faults> {
    let id = check_id(kind, url_id, document)?;
    refuse_times(document)?;
    Ok(id)
}

/// The id of a document from its address and its `id` member.
///
/// # Errors
/// No id at all, two that differ, or one that is not an id of this kind.
pub fn check_id(kind: Kind, url_id: Option<&str>, document: &Document) -> Result<Id, Faults> {
    let own = document.get("id");
    let text = match (url_id, own) {
        (None, None) => return Err(one("", &format!("missing {kind} id"), Words::Apisix)),
        (Some(url), None) => url.to_owned(),
        (Some(url), Some(own)) if as_text(own) != url => {
            return Err(one("/id", &format!("wrong {kind} id"), Words::Apisix));
        }
        (_, Some(own)) => as_text(own),
    };
    let is_of_kind = |id: &Id| id.as_str().contains('/') == (kind == Kind::Secret);
    text.parse().ok().filter(is_of_kind).ok_or_else(|| {
        let reason = "property \"id\" validation failed: object matches none of the required";
        one("/id", reason, Words::Schema)
    })
}

/// Refuses members that only the gateway sets.
///
/// # Errors
/// One fault that names all of them, with APISIX's two blanks.
pub fn refuse_times(document: &Document) -> Result<(), Faults> {
    let own = TIMES
        .iter()
        .filter(|time| document.contains_key(**time))
        .map(|time| time.to_string());
    let inner = ["upstream", "plugins"].into_iter().flat_map(|member| {
        let object = members::object(document, member);
        TIMES
            .iter()
            .filter(move |time| object.is_some_and(|object| object.contains_key(**time)))
            .map(move |time| format!("{member}.{time}"))
    });
    let found: Vec<String> = own.chain(inner).collect();
    let Some(first) = found.first() else {
        return Ok(());
    };
    let pointer = format!("/{}", first.replace('.', "/"));
    Err(one(
        &pointer,
        &format!("the property is forbidden:  {}", found.join(" ")),
        Words::Apisix,
    ))
}

/// Writes an `id` that the document has as its address does: as text.
pub fn address_id(document: &mut Document, id: &Id) {
    if let Some(own) = document.get_mut("id") {
        *own = Value::from(id.as_str());
    }
}

/// Refuses an id where the gateway makes it.
///
/// # Errors
/// One fault with APISIX's text.
pub fn refuse_id(kind: Kind, url_id: Option<&str>, document: &Document) -> Result<(), Faults> {
    if url_id.is_none() && !document.contains_key("id") {
        return Ok(());
    }
    let pointer = if url_id.is_some() { "" } else { "/id" };
    Err(one(
        pointer,
        &format!("wrong {kind} id, do not need it"),
        Words::Apisix,
    ))
}

/// A time that a document has: `create_time` or `update_time`, in epoch seconds.
#[must_use]
pub fn time(document: &Document, member: &str) -> Option<i64> {
    document.get(member).and_then(members::integer)
}

/// Sets `id`, as text unless the document has it as a number, and both times, in epoch seconds, as
/// the last members.
pub fn stamp(document: &mut Document, id: &Id, created: i64, updated: i64) {
    let is_there = document
        .get("id")
        .is_some_and(|own| as_text(own) == id.as_str());
    if !is_there {
        document.insert("id".to_owned(), Value::from(id.as_str()));
    }
    for (member, time) in TIMES.into_iter().zip([created, updated]) {
        document.shift_remove(member);
        document.insert(member.to_owned(), Value::from(time));
    }
}

fn as_text(id: &Value) -> String {
    match id {
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            members::id(id).map_or_else(String::new, |id| id.as_str().to_owned())
        }
    }
}

fn one(pointer: &str, reason: &str, words: Words) -> Faults {
    Faults(vec![Fault {
        pointer: pointer.to_owned(),
        reason: reason.to_owned(),
        words,
        guess: None,
    }])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn ids_of_address_and_body_must_agree() {
        for (kind, url, body, expected) in [
            (Kind::Route, Some("1"), "{}", Ok("1")),
            (Kind::Route, Some("1"), r#"{"id":"1"}"#, Ok("1")),
            (Kind::Route, Some("1"), r#"{"id":1}"#, Ok("1")),
            (Kind::Route, None, r#"{"id":1}"#, Ok("1")),
            (Kind::Secret, Some("vault/1"), "{}", Ok("vault/1")),
            (Kind::Secret, None, r#"{"id":"vault/1"}"#, Ok("vault/1")),
            (Kind::Route, None, "{}", Err("missing route id")),
            (Kind::Ssl, Some("1"), r#"{"id":"2"}"#, Err("wrong ssl id")),
            (Kind::Ssl, Some("1"), r#"{"id":null}"#, Err("wrong ssl id")),
            (
                Kind::Route,
                Some("a b"),
                "{}",
                Err("property \"id\" validation failed: object matches none of the required"),
            ),
            (
                Kind::Route,
                Some("a/b"),
                "{}",
                Err("property \"id\" validation failed: object matches none of the required"),
            ),
        ] {
            let found = check_envelope(kind, url, &document(body));
            match expected {
                Ok(id) => assert_eq!(found.unwrap().as_str(), id),
                Err(text) => assert_eq!(found.unwrap_err().0[0].reason, text),
            }
        }
    }

    #[test]
    fn times_are_refused_by_name_wherever_they_stand() {
        for (body, text) in [
            (
                r#"{"create_time":1}"#,
                "the property is forbidden:  create_time",
            ),
            (
                r#"{"update_time":1,"create_time":1}"#,
                "the property is forbidden:  create_time update_time",
            ),
            (
                r#"{"upstream":{"create_time":1}}"#,
                "the property is forbidden:  upstream.create_time",
            ),
            (
                r#"{"plugins":{"create_time":1}}"#,
                "the property is forbidden:  plugins.create_time",
            ),
        ] {
            let faults = check_envelope(Kind::Route, Some("1"), &document(body)).unwrap_err();
            assert_eq!(faults.to_string(), text);
        }
        assert_eq!(refuse_times(&document(r#"{"name":"create_time"}"#)), Ok(()));
    }

    #[test]
    fn an_id_that_the_gateway_makes_is_not_taken_from_anywhere_else() {
        assert_eq!(refuse_id(Kind::Route, None, &document("{}")), Ok(()));
        for (url, body) in [
            (Some("1"), "{}"),
            (None, r#"{"id":"1"}"#),
            (None, r#"{"id":null}"#),
        ] {
            let faults = refuse_id(Kind::Ssl, url, &document(body)).unwrap_err();
            assert_eq!(faults.to_string(), "wrong ssl id, do not need it");
        }
    }

    #[test]
    fn the_stamp_keeps_what_was_sent_and_adds_times_last() {
        for (body, stamped) in [
            (
                r#"{"update_time":9,"uri":"/a"}"#,
                r#"{"uri":"/a","id":"1","create_time":5,"update_time":6}"#,
            ),
            (
                r#"{"id":1,"uri":"/a"}"#,
                r#"{"id":1,"uri":"/a","create_time":5,"update_time":6}"#,
            ),
            (
                r#"{"id":null}"#,
                r#"{"id":"1","create_time":5,"update_time":6}"#,
            ),
        ] {
            let mut document = document(body);
            stamp(&mut document, &"1".parse().unwrap(), 5, 6);
            assert_eq!(serde_json::to_string(&document).unwrap(), stamped);
        }
    }
}
