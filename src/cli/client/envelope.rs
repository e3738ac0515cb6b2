//! Envelopes of the Admin API, read tolerantly: Portcullis in either flavour, and Apache APISIX.

use serde_json::{Map, Value};

use super::failed::Failed;
use crate::resource::Kind;

/// One object with its id.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Item {
    /// A secret's has its manager in front.
    pub(super) id: String,
    /// The object itself.
    pub(super) value: Value,
}

/// A list as the server gave it.
#[derive(Debug)]
pub(super) struct Page {
    /// The objects of the page.
    pub(super) items: Vec<Item>,
    /// How many there are on all pages.
    pub(super) total: usize,
}

/// The object inside an envelope; API7's writes and APISIX's have the same. APISIX 2 puts it into
/// another one, `node`.
pub(super) fn value(answer: Value) -> Result<Value, Failed> {
    let Value::Object(mut envelope) = answer else {
        return Err("failed to parse response: it is no JSON object".into());
    };
    if let Some(Value::Object(node)) = envelope.get_mut("node") {
        envelope = std::mem::take(node);
    }
    match envelope.remove("value") {
        Some(value @ Value::Object(_)) => Ok(value),
        // An object that came without an envelope.
        None if envelope.contains_key("id") => Ok(Value::Object(envelope)),
        _ => Err("failed to parse response: there is no object in it".into()),
    }
}

/// A list: of envelopes (APISIX) or of objects (API7); an empty one may be `{}`. APISIX 2, which has
/// no pages, puts it into `node`, as `nodes`.
pub(super) fn page(kind: Kind, answer: Value) -> Result<Page, Failed> {
    let wrong = || Failed::new("failed to parse response: there is no list in it");
    let Value::Object(mut answer) = answer else {
        return Err(wrong());
    };
    let total = answer.get("total").and_then(whole);
    let list = match answer.remove("list").or_else(|| nodes(&mut answer)) {
        Some(Value::Array(list)) => list,
        Some(Value::Object(none)) if none.is_empty() => Vec::new(),
        _ => return Err(wrong()),
    };
    let items: Option<Vec<Item>> = list.into_iter().map(|entry| item(kind, entry)).collect();
    let items = items.ok_or("failed to parse response: an object of the list has no id")?;
    let total = total.and_then(|total| usize::try_from(total).ok());
    Ok(Page {
        total: total.unwrap_or(items.len()),
        items,
    })
}

/// The list in an envelope of APISIX 2, an etcd folder.
fn nodes(answer: &mut Map<String, Value>) -> Option<Value> {
    answer.get_mut("node")?.as_object_mut()?.remove("nodes")
}

/// A number, which may be written as text.
pub(super) fn whole(number: &Value) -> Option<i64> {
    let text = || number.as_str()?.parse().ok();
    number.as_i64().or_else(text)
}

fn item(kind: Kind, entry: Value) -> Option<Item> {
    let Value::Object(mut entry) = entry else {
        return None;
    };
    let key = entry.get("key").and_then(Value::as_str).map(str::to_owned);
    let is_envelope = entry.get("value").is_some_and(Value::is_object);
    let value = match key {
        Some(_) if is_envelope => entry.remove("value")?,
        _ => Value::Object(entry),
    };
    let own = value.get("id").and_then(id_text);
    let id = match (kind, key) {
        // The id of a secret's document may lack its manager.
        (Kind::Secret, Some(key)) => {
            let mut parts = key.rsplit('/');
            let (id, manager) = (parts.next()?, parts.next()?);
            format!("{manager}/{id}")
        }
        (_, Some(key)) => own.or_else(|| key.rsplit('/').next().map(str::to_owned))?,
        (_, None) => own?,
    };
    Some(Item { id, value })
}

/// An id as text; numbers are ids too.
pub(super) fn id_text(id: &Value) -> Option<String> {
    match id {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    #[test]
    fn envelopes_of_both_flavours_and_of_apisix_are_read() {
        let route = json!({"id": "1", "uri": "/a"});
        let item = Item {
            id: "1".to_owned(),
            value: route.clone(),
        };
        for answer in [
            json!({"total": 1, "list": [{"key": "/apisix/routes/1", "value": route,
                "createdIndex": 5, "modifiedIndex": 5}]}),
            json!({"total": 1, "list": [route]}),
            json!({"list": [{"key": "/apisix/routes/1", "value": route}]}),
            json!({"total": "1", "list": [{"key": "/apisix/routes/1", "value": {"uri": "/a", "id": "1"}}]}),
            json!({"action": "get", "count": "2", "node": {"dir": true, "key": "/apisix/routes",
                "nodes": [{"key": "/apisix/routes/1", "value": route, "createdIndex": "5"}]}}),
        ] {
            let page = page(Kind::Route, answer).unwrap();
            assert_eq!((page.items, page.total), (vec![item.clone()], 1));
        }
        for empty in [
            json!({"total": 0, "list": []}),
            json!({"total": 0, "list": {}}),
            json!({"count": "1", "node": {"dir": true, "key": "/apisix/routes", "nodes": {}}}),
        ] {
            assert!(page(Kind::Route, empty).unwrap().items.is_empty());
        }
        for wrong in [
            json!([]),
            json!({}),
            json!({"list": [1]}),
            json!({"list": [{}]}),
        ] {
            let told = page(Kind::Route, wrong).unwrap_err().to_string();
            assert!(told.starts_with("failed to parse response"), "{told}");
        }
        for answer in [
            json!({"key": "k", "value": route}),
            json!({"value": route}),
            json!({"action": "set", "node": {"key": "/apisix/routes/1", "value": route}}),
        ] {
            assert_eq!(value(answer).unwrap(), route);
        }
        assert!(value(json!({"key": "k"})).is_err());
        assert!(value(json!({"node": {}})).is_err());
        let folder = json!({"total": "600", "list": [{"key": "/apisix/routes/1", "value": route}]});
        assert_eq!(page(Kind::Route, folder).unwrap().total, 600);
    }

    #[test]
    fn secret_is_known_by_the_end_of_its_key() {
        let entry = json!({"key": "/apisix/secrets/vault/1", "value": {"uri": "x", "id": "1"}});
        assert_eq!(item(Kind::Secret, entry).unwrap().id, "vault/1");
        let entry = json!({"id": "vault/1", "uri": "x"});
        assert_eq!(item(Kind::Secret, entry).unwrap().id, "vault/1");
        let entry = json!({"key": "/apisix/ssls/7", "value": {"id": 7}});
        assert_eq!(item(Kind::Ssl, entry).unwrap().id, "7");
    }
}
