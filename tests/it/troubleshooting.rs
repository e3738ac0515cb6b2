//! The troubleshooting tables of both mTLS documents, row by row: the symptom with its record, and
//! the fix that the row names, on TLS 1.2 and 1.3.

use serde_json::Value;

mod clients;
mod upstreams;

/// What differs from record to record: when, who, how long, how much.
const VARYING: [&str; 9] = [
    "time",
    "request_id",
    "peer",
    "duration_us",
    "upstream_duration_us",
    "cipher",
    "client_not_after",
    "bytes_in",
    "bytes_out",
];

/// Compares a record member by member, apart from [`VARYING`]; of `detail`, which has OpenSSL's
/// words, a part is enough.
#[track_caller]
fn expect_exactly(record: &Value, mut expected: Value) {
    let mut members = record.as_object().expect("a record is an object").clone();
    for member in VARYING {
        members.shift_remove(member);
    }
    let detail = members.shift_remove("detail").unwrap_or_default();
    let wanted = expected
        .as_object_mut()
        .and_then(|expected| expected.shift_remove("detail"))
        .unwrap_or_default();
    match (detail.as_str(), wanted.as_str()) {
        (None, None) => {}
        (Some(detail), Some(wanted)) if detail.contains(wanted) => {}
        other => panic!("detail {other:?} of {record}"),
    }
    assert_eq!(Value::Object(members), expected);
}
