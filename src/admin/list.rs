//! Lists: which objects of a kind are shown, in which order, and which page of them.
//!
//! APISIX Admin API v3, "filters" and "paging"; API7's own parameters beside them.

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::request::Query;
use crate::control::Flavour;
use crate::resource::{Document, Kind};
use crate::store::{self, Order, Selection};

/// The members of documents that filters look at.
const MEMBERS: [&str; 7] = [
    "name",
    "labels",
    "uri",
    "uris",
    "paths",
    "service_id",
    "upstream_id",
];
/// The largest compiled pattern, in bytes.
const PATTERN_BYTES: usize = 1 << 20;

/// Why a list cannot be made as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ListError {
    /// `page_size` out of range; answered as plain text.
    #[error("page_size must be between 10 and 500")]
    PageSize,
    /// A parameter that is no regular expression.
    #[error("invalid argument {name}: not a regular expression that is supported")]
    Pattern {
        /// The parameter.
        name: &'static str,
    },
}

/// Which objects of a kind are shown, and in which order.
pub(super) fn select(kind: Kind, flavour: Flavour, query: &Query) -> Result<Selection, ListError> {
    let page = Page::parse(flavour, query)?;
    let filter = Filter::parse(kind, flavour, query)?;
    Ok(Selection {
        filter: filter.into_store(),
        order: order(flavour, query, page.is_some()),
        skipped: page.map_or(0, Page::skipped),
        limit: page.map(|page| page.size),
    })
}

/// By creation where there are pages, else as they lie. API7 shows the newest first.
fn order(flavour: Flavour, query: &Query, is_paged: bool) -> Order {
    match (flavour, query.find("direction"), is_paged) {
        (Flavour::Api7, Some("asc"), _) | (Flavour::Apisix, _, true) => Order::Oldest,
        (Flavour::Api7, Some("desc"), _) | (Flavour::Api7, _, true) => Order::Newest,
        (Flavour::Api7 | Flavour::Apisix, _, false) => Order::Id,
    }
}

/// A page: counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Page {
    number: usize,
    size: usize,
}

impl Page {
    /// The page asked for; `None` unless both parameters are numbers.
    fn parse(flavour: Flavour, query: &Query) -> Result<Option<Self>, ListError> {
        let number = |name| {
            query
                .find(name)
                .and_then(|text| text.trim().parse::<i64>().ok())
        };
        let (Some(page), Some(size)) = (number("page"), number("page_size")) else {
            return Ok(None);
        };
        let least = match flavour {
            Flavour::Apisix => 10,
            Flavour::Api7 => 1,
        };
        if !(least..=500).contains(&size) {
            return Err(ListError::PageSize);
        }
        let size = usize::try_from(size).map_err(|_out_of_range| ListError::PageSize)?;
        // Below 1 means 1; beyond what can be counted there is nothing.
        let number = usize::try_from(page.max(1)).unwrap_or(usize::MAX);
        Ok(Some(Self { number, size }))
    }

    fn skipped(self) -> usize {
        self.number.saturating_sub(1).saturating_mul(self.size)
    }
}

/// Which objects are shown; an absent condition holds.
#[derive(Debug, Default)]
struct Filter {
    name: Option<Regex>,
    uri: Option<Regex>,
    label: Option<String>,
    /// API7 `search`: part of the name.
    search: Option<String>,
    /// API7 `labels[k]=v`.
    labels: Vec<(String, String)>,
    /// Members that hold this id.
    references: Vec<(&'static str, String)>,
}

impl Filter {
    fn parse(kind: Kind, flavour: Flavour, query: &Query) -> Result<Self, ListError> {
        let mut filter = Self {
            name: pattern(query, "name")?,
            uri: pattern(query, "uri")?,
            // APISIX looks for the label of no name, too, which nothing has.
            label: match flavour {
                Flavour::Apisix => query.find("label"),
                Flavour::Api7 => given(query, "label"),
            }
            .map(str::to_owned),
            ..Self::default()
        };
        if kind == Kind::Route {
            // A query string inside the parameter; unknown members are ignored.
            let inner = Query::parse(query.find("filter").unwrap_or_default());
            filter.refer("service_id", &inner);
            filter.refer("upstream_id", &inner);
        }
        if flavour == Flavour::Api7 {
            filter.search = given(query, "search").map(str::to_lowercase);
            filter.labels = query
                .iter()
                .filter_map(|(name, value)| {
                    let label = name.strip_prefix("labels[")?.strip_suffix(']')?;
                    Some((label.to_owned(), value.to_owned()))
                })
                .collect();
            if kind == Kind::Route {
                filter.refer("service_id", query);
            }
        }
        Ok(filter)
    }

    /// As the store takes it; `None` where every condition is absent.
    fn into_store(self) -> Option<store::Filter> {
        let Self {
            name,
            uri,
            label,
            search,
            labels,
            references,
        } = &self;
        let is_asked = name.is_some()
            || uri.is_some()
            || label.is_some()
            || search.is_some()
            || !labels.is_empty()
            || !references.is_empty();
        is_asked.then(|| store::Filter {
            members: &MEMBERS,
            accepts: Box::new(move |document| self.accepts(document)),
        })
    }

    fn refer(&mut self, member: &'static str, query: &Query) {
        if let Some(id) = query.find(member) {
            self.references.push((member, id.to_owned()));
        }
    }

    fn accepts(&self, document: &Document) -> bool {
        let text = |member: &str| document.get(member).and_then(Value::as_str);
        let name_fits = |fits: &dyn Fn(&str) -> bool| text("name").is_some_and(fits);
        let label = |name: &str| document.get("labels").and_then(|labels| labels.get(name));
        self.name
            .as_ref()
            .is_none_or(|pattern| name_fits(&|name| pattern.is_match(name)))
            && self
                .search
                .as_ref()
                .is_none_or(|part| name_fits(&|name| name.to_lowercase().contains(part)))
            && self
                .uri
                .as_ref()
                .is_none_or(|pattern| uris(document).any(|uri| pattern.is_match(uri)))
            && self.label.as_ref().is_none_or(|name| label(name).is_some())
            && self
                .labels
                .iter()
                .all(|(name, value)| label(name).and_then(Value::as_str) == Some(value.as_str()))
            && self
                .references
                .iter()
                .all(|(member, id)| document.get(*member).is_some_and(|held| is_id(held, id)))
    }
}

/// A parameter that is not empty.
fn given<'q>(query: &'q Query, name: &str) -> Option<&'q str> {
    query.find(name).filter(|text| !text.is_empty())
}

fn pattern(query: &Query, name: &'static str) -> Result<Option<Regex>, ListError> {
    given(query, name)
        .map(|text| RegexBuilder::new(text).size_limit(PATTERN_BYTES).build())
        .transpose()
        .map_err(|_not_supported| ListError::Pattern { name })
}

/// What a route calls its paths: `uri`, `uris`, or API7's `paths`.
fn uris(document: &Document) -> impl Iterator<Item = &str> {
    let single = document.get("uri").and_then(Value::as_str);
    let several = ["uris", "paths"]
        .into_iter()
        .filter_map(|member| document.get(member)?.as_array())
        .flatten()
        .filter_map(Value::as_str);
    single.into_iter().chain(several)
}

/// Whether a member holds this id, as text or as a number.
fn is_id(held: &Value, id: &str) -> bool {
    match held {
        Value::String(text) => text == id,
        Value::Number(number) => number.to_string() == id,
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::crypto::mac::MacKey;
    use crate::resource::Id;
    use crate::store::Store;
    use crate::store::audit::ChainKey;
    use crate::store::memory::Memory;
    use crate::store::standin::put_all;
    use serde_json::json;

    /// Routes r01..r30, created in the opposite order of their ids.
    fn routes() -> Memory {
        let documents = (1..=30_u64).rev().map(|number| {
            let mut document = json!({
                "id": format!("r{number:02}"),
                "uri": format!("/api/{number}"),
                "service_id": number % 3,
            });
            if number != 7 {
                document["name"] = json!(format!("Route {number}"));
            }
            if number % 2 == 0 {
                document["labels"] = json!({"even": "yes", "n": number.to_string()});
            }
            let id = format!("r{number:02}").parse::<Id>().unwrap();
            (id, document.as_object().unwrap().clone())
        });
        let store = Memory::new(ChainKey::new(MacKey::from_bytes(&[7; 32])));
        put_all(&store, Kind::Route, documents);
        store
    }

    fn ids(flavour: Flavour, query: &str) -> Result<(Vec<String>, usize), ListError> {
        let asked = select(Kind::Route, flavour, &Query::parse(query))?;
        let found = routes().list(Kind::Route, &asked).unwrap();
        let ids = found.objects.iter().map(|stored| stored.id.to_string());
        Ok((ids.collect(), found.total))
    }

    fn count(flavour: Flavour, query: &str) -> usize {
        ids(flavour, query).unwrap().1
    }

    #[test]
    fn without_both_numbers_everything_comes_in_the_order_of_keys() {
        for query in [
            "",
            "page=1",
            "page_size=10",
            "page=x&page_size=10",
            "page=1&page_size=",
        ] {
            let (ids, total) = ids(Flavour::Apisix, query).unwrap();
            assert_eq!(
                (ids.len(), total, ids[0].as_str()),
                (30, 30, "r01"),
                "{query}"
            );
        }
    }

    #[test]
    fn page_is_cut_from_the_oldest_on() {
        let (page, total) = ids(Flavour::Apisix, "page=2&page_size=12").unwrap();
        assert_eq!((page.len(), total, page[0].as_str()), (12, 30, "r18"));
        let (page, _) = ids(Flavour::Apisix, "page=3&page_size=12").unwrap();
        assert_eq!(page, ["r06", "r05", "r04", "r03", "r02", "r01"]);
        let (page, total) = ids(Flavour::Apisix, "page=9223372036854775807&page_size=12").unwrap();
        assert_eq!((page.len(), total), (0, 30));
        let (page, _) = ids(Flavour::Apisix, "page=-3&page_size=12").unwrap();
        assert_eq!(page[0], "r30");
    }

    #[test]
    fn page_size_out_of_range_is_refused() {
        for size in ["9", "501", "0", "-1"] {
            let query = format!("page=1&page_size={size}");
            assert_eq!(
                ids(Flavour::Apisix, &query),
                Err(ListError::PageSize),
                "{size}"
            );
        }
        for size in ["10", "500"] {
            assert!(
                ids(Flavour::Apisix, &format!("page=1&page_size={size}")).is_ok(),
                "{size}"
            );
        }
    }

    #[test]
    fn api7_shows_the_newest_first_unless_told() {
        assert_eq!(
            ids(Flavour::Api7, "page=1&page_size=2").unwrap().0,
            ["r01", "r02"]
        );
        assert_eq!(
            ids(Flavour::Api7, "page=1&page_size=2&direction=asc")
                .unwrap()
                .0,
            ["r30", "r29"]
        );
    }

    #[test]
    fn filters_count_before_the_page_is_cut() {
        for (query, expected) in [
            ("name=1", 12),
            ("name=^Route%201$", 1),
            ("name=Route", 29),
            ("label=even", 15),
            ("label=yes", 0),
            ("label=", 0),
            ("name=&uri=", 30),
            ("uri=/api/3", 2),
            ("filter=service_id%3D1", 10),
            ("filter=service_id%3D1%26upstream_id%3D2", 0),
            ("filter=unknown%3D1", 30),
            ("service_id=1&search=route&labels[even]=yes", 30),
        ] {
            assert_eq!(count(Flavour::Apisix, query), expected, "{query}");
        }
        assert_eq!(
            ids(Flavour::Apisix, "page=1&page_size=10&label=even")
                .unwrap()
                .1,
            15
        );
    }

    #[test]
    fn api7_has_filters_of_its_own() {
        for (query, expected) in [
            ("service_id=1", 10),
            ("search=route+2", 11),
            ("labels[even]=yes", 15),
            ("labels[n]=4", 1),
            ("labels[even]=no", 0),
        ] {
            assert_eq!(count(Flavour::Api7, query), expected, "{query}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for query in ["name=(", "name=a{1000}{1000}"] {
            assert_eq!(
                ids(Flavour::Apisix, query),
                Err(ListError::Pattern { name: "name" }),
                "{query}"
            );
        }
    }
}
