//! What every source must do, whatever it asks: run by the tests of each of them.

use std::collections::BTreeMap;

use super::source::{Answer, Ask, Place, ReadFault, Source};

/// What a source under test holds.
pub(super) struct Known<'a> {
    /// References' rests with their values; those of one path must come from one answer.
    pub(super) values: &'a [(&'a str, &'a str)],
    /// A rest whose path does not exist.
    pub(super) absent: &'a str,
    /// A rest whose path exists and has no such member; `None` where there are no members.
    pub(super) no_member: Option<&'a str>,
    /// Rests that are not this manager's grammar.
    pub(super) malformed: &'a [&'a str],
}

/// Runs all of it.
pub(super) async fn suite(source: &dyn Source, known: &Known<'_>) {
    every_value_is_found_and_no_fault_or_debug_shows_one(source, known).await;
    assert_eq!(find(source, known.absent).await, Err(ReadFault::NotFound));
    if let Some(rest) = known.no_member {
        let told = find(source, rest).await.unwrap_err();
        assert!(
            matches!(told, ReadFault::NoMember(_) | ReadFault::NotFound),
            "{told:?}"
        );
    }
    for rest in known.malformed {
        let told = source.places(rest).expect_err(rest);
        assert!(matches!(told, ReadFault::Malformed(_)), "{rest}: {told:?}");
    }
    many_at_once_get_their_own_answer(source, known).await;
}

/// A value as the desk finds it: places in order, for as long as nothing is there.
pub(super) async fn find(source: &dyn Source, rest: &str) -> Result<String, ReadFault> {
    let mut last = ReadFault::NotFound;
    for place in source.places(rest)? {
        match read(source, &place, false).await {
            Err(ReadFault::NotFound) => last = ReadFault::NotFound,
            Err(fault) => return Err(fault),
            Ok(answer) => {
                return answer
                    .value(place.member.as_deref())
                    .map(|value| value.to_string());
            }
        }
    }
    Err(last)
}

pub(super) async fn read(
    source: &dyn Source,
    place: &Place,
    dry_run: bool,
) -> Result<Answer, ReadFault> {
    let members: Vec<String> = place.member.clone().into_iter().collect();
    let ask = Ask {
        path: &place.path,
        members: &members,
        dry_run,
    };
    source.read(ask).await
}

async fn every_value_is_found_and_no_fault_or_debug_shows_one(
    source: &dyn Source,
    known: &Known<'_>,
) {
    for (rest, value) in known.values {
        let found = find(source, rest).await;
        assert_eq!(found.as_deref(), Ok(*value), "{rest}");
        for place in source.places(rest).unwrap() {
            if let Ok(answer) = read(source, &place, true).await {
                let shown = format!("{answer:?}");
                assert!(!shown.contains(value), "{shown}");
                let told = answer.value(Some("no such member")).map(|_| ());
                let told = format!("{told:?}");
                assert!(!told.contains(value), "{told}");
            }
        }
    }
}

async fn many_at_once_get_their_own_answer(source: &dyn Source, known: &Known<'_>) {
    let expected: BTreeMap<&str, &str> = known.values.iter().copied().collect();
    let asks = expected.keys().map(|rest| find(source, rest));
    let found = futures_util::future::join_all(asks).await;
    for ((rest, value), found) in expected.iter().zip(found) {
        assert_eq!(found.as_deref(), Ok(*value), "{rest}");
    }
}
