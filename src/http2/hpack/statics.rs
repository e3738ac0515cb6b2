//! The fields that both sides know from the beginning (RFC 7541, Appendix A).

use std::sync::LazyLock;

use http::HeaderName;

use super::field::{Field, Name};

/// Their names and values, from index 1 on.
#[rustfmt::skip]
const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"),
    (":path", "/index.html"), (":scheme", "http"), (":scheme", "https"), (":status", "200"),
    (":status", "204"), (":status", "206"), (":status", "304"), (":status", "400"),
    (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""),
    ("accept", ""), ("access-control-allow-origin", ""), ("age", ""), ("allow", ""),
    ("authorization", ""), ("cache-control", ""), ("content-disposition", ""),
    ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""),
    ("date", ""), ("etag", ""), ("expect", ""), ("expires", ""), ("from", ""), ("host", ""),
    ("if-match", ""), ("if-modified-since", ""), ("if-none-match", ""), ("if-range", ""),
    ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""), ("location", ""),
    ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""),
    ("via", ""), ("www-authenticate", ""),
];

/// How many there are: an index above it is one of the dynamic table.
pub(super) const COUNT: usize = STATIC.len();

/// `:authority`, whose values differ.
pub(super) const AUTHORITY: usize = 1;
/// The first of `:method`.
pub(super) const METHOD: usize = 2;
/// The first of `:path`.
pub(super) const PATH: usize = 4;
/// The first of `:scheme`, and the second.
pub(super) const SCHEME_HTTP: usize = 6;
/// See [`SCHEME_HTTP`].
pub(super) const SCHEME_HTTPS: usize = 7;
/// The first of `:status`.
pub(super) const STATUS: usize = 8;

/// As a decoder hands them on, with what they count.
static FIELDS: LazyLock<Vec<(Name, Field, usize)>> = LazyLock::new(|| {
    let fields = STATIC.iter().map(|(name, value)| {
        let size = super::OVERHEAD + name.len() + value.len();
        let name = Name::read(name.as_bytes());
        let field = Field::read(&name, value.as_bytes(), false);
        (name, field, size)
    });
    fields.collect()
});

/// The field of an index, and what it counts in a list; `None` above [`COUNT`].
pub(super) fn field(index: usize) -> Option<(&'static Field, usize)> {
    let (_, field, size) = FIELDS.get(index.checked_sub(1)?)?;
    Some((field, *size))
}

/// The name of an index; `None` above [`COUNT`].
pub(super) fn name(index: usize) -> Option<&'static Name> {
    FIELDS.get(index.checked_sub(1)?).map(|(name, ..)| name)
}

/// Places for names, by what is cheap to know of them: four times as many as there are names.
const PLACES: usize = 256;

static NAMES: LazyLock<[u8; PLACES]> = LazyLock::new(|| {
    let mut places = [0; PLACES];
    for (index, (name, _)) in (1..).zip(STATIC) {
        let mut place = first_place(name);
        loop {
            match places.get_mut(place % PLACES) {
                Some(found) if *found == 0 => {
                    *found = index;
                    break;
                }
                Some(found) if is_named(*found, name) => break,
                Some(_) | None => place += 1,
            }
        }
    }
    places
});

fn first_place(name: &str) -> usize {
    let byte = |at: usize| usize::from(name.as_bytes().get(at).copied().unwrap_or_default());
    let last = byte(name.len().saturating_sub(1));
    name.len() * 7 + byte(0) * 3 + byte(name.len() / 2) * 11 + last * 29
}

fn is_named(index: u8, name: &str) -> bool {
    let entry = usize::from(index)
        .checked_sub(1)
        .and_then(|at| STATIC.get(at));
    entry.is_some_and(|(known, _)| *known == name)
}

/// The lowest index that has this name; `None`, if none has.
pub(super) fn index_of(name: &HeaderName) -> Option<usize> {
    let name = name.as_str();
    let places = &*NAMES;
    let mut place = first_place(name);
    loop {
        let index = places
            .get(place % PLACES)
            .copied()
            .filter(|index| *index > 0)?;
        if is_named(index, name) {
            return Some(usize::from(index));
        }
        place += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_by_its_lowest_index() {
        for (at, (name, _)) in STATIC.iter().enumerate() {
            if name.starts_with(':') {
                continue;
            }
            let name = HeaderName::from_static(name);
            assert_eq!(index_of(&name), Some(at + 1), "{name}");
        }
        assert_eq!(index_of(&HeaderName::from_static("x-none")), None);
        assert_eq!(index_of(&HeaderName::from_static("te")), None);
    }

    #[test]
    fn names_for_pseudo_header_fields_are_where_they_are_said_to_be() {
        let at = |index: usize| STATIC[index - 1];
        assert_eq!(at(AUTHORITY), (":authority", ""));
        assert_eq!(
            (at(METHOD).0, at(PATH), at(STATUS)),
            (":method", (":path", "/"), (":status", "200"))
        );
        assert_eq!((at(SCHEME_HTTP).1, at(SCHEME_HTTPS).1), ("http", "https"));
    }
}
