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

/// What OpenSSL puts before an alert of the peer; from 3.2 on it has other words than before.
const ALERTS_OF: [&str; 4] = ["sslv3 ", "tlsv1 ", "tlsv13 ", "ssl/tls "];

/// Compares a record member by member, apart from [`VARYING`]; of an alert in `detail` the name is
/// enough.
#[track_caller]
fn expect_exactly(record: &Value, expected: &Value) {
    let mut members = record.as_object().expect("a record is an object").clone();
    for member in VARYING {
        members.shift_remove(member);
    }
    if let Some(Value::String(detail)) = members.get_mut("detail") {
        let mut prefixes = ALERTS_OF.iter();
        if let Some(bare) = prefixes.find_map(|prefix| detail.strip_prefix(prefix)) {
            *detail = bare.to_owned();
        }
    }
    assert_eq!(&Value::Object(members), expected);
}
