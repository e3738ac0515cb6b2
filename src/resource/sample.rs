//! What the tests of this room share: parse a JSON text, look at what was said.

use serde_json::Value;

use super::fault::Faults;
use super::{Flavour, Id, Kind, Parsed, Terms, parse};
use crate::tls::sample::NOW;

/// How the tests judge unless they say otherwise.
pub(super) const TERMS: Terms = Terms::write(Flavour::Apisix, NOW, false);

/// Parses as id `1` (`vault/1` for secrets).
pub(super) fn judge(kind: Kind, body: &Value, terms: &Terms) -> Result<Parsed, Faults> {
    let id = if kind == Kind::Secret { "vault/1" } else { "1" };
    judge_as(kind, id, body, terms)
}

pub(super) fn judge_as(
    kind: Kind,
    id: &str,
    body: &Value,
    terms: &Terms,
) -> Result<Parsed, Faults> {
    let id: Id = id.parse().unwrap();
    parse(kind, &id, body.as_object().unwrap(), terms)
}

/// The first fault's reason, as `error_msg` shows it.
#[track_caller]
pub(super) fn refusal(kind: Kind, body: &Value) -> String {
    let Err(faults) = judge(kind, body, &TERMS) else {
        panic!("accepted: {body}");
    };
    faults.0[0].message()
}

#[track_caller]
pub(super) fn accepted(kind: Kind, body: &Value) -> Parsed {
    judge(kind, body, &TERMS).unwrap_or_else(|faults| panic!("{body}: {faults:?}"))
}

/// The codes of the warnings.
#[track_caller]
pub(super) fn warnings(kind: Kind, body: &Value) -> Vec<&'static str> {
    accepted(kind, body)
        .warnings
        .into_iter()
        .map(|warning| warning.code)
        .collect()
}
