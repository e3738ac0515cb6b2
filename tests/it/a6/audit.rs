//! `a6 audit`: the record of changes, as it is read and as it is verified.

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::support::a6::A6;
use crate::support::gateway::{Gateway, Setup};
use crate::support::origin::{TcpOrigin, ok};
use crate::support::pki::Ca;

/// A gateway with three changes of a route and one of an upstream, the last one a deletion.
fn stage() -> (Gateway, A6) {
    let gateway = Gateway::start();
    let a6 = A6::at(&gateway);
    let upstream = json!({"id": "u", "nodes": {"127.0.0.1:1": 1}});
    let route = json!({"id": "r", "uri": "/a", "upstream_id": "u"});
    for (group, document) in [("upstream", upstream), ("route", route)] {
        a6.feed(&[group, "create", "-f", "-"], &document.to_string())
            .expect_success();
    }
    a6.feed(&["route", "update", "r", "-f", "-"], r#"{"uri":"/b"}"#)
        .expect_success();
    a6.run(&["route", "delete", "r"]).expect_success();
    (gateway, a6)
}

fn numbers(records: &Value) -> Vec<u64> {
    let records = records.as_array().expect("a list").iter();
    records
        .map(|record| record["seq"].as_u64().unwrap())
        .collect()
}

#[test]
fn changes_are_listed_newest_first_and_narrowed() {
    let (_gateway, a6) = stage();
    let listed = |more: &[&str]| {
        let told = a6.run(&[&["audit", "list"], more].concat());
        numbers(&told.expect_success().json())
    };
    assert_eq!(listed(&[]), [4, 3, 2, 1]);
    for (more, expected) in [
        (&["-n", "2"][..], &[4, 3][..]),
        (&["--before", "3"], &[2, 1]),
        (&["--kind", "upstream"], &[1]),
        (&["--id", "r", "--action", "update"], &[3]),
        (&["--actor", "nobody"], &[]),
        (&["--since", "2020-01-01"], &[4, 3, 2, 1]),
        (&["--until", "2020-01-01"], &[]),
        (&["--weakens"], &[]),
    ] {
        assert_eq!(listed(more), expected, "{more:?}");
    }
    let table = a6
        .run(&["audit", "ls", "-o", "table"])
        .expect_success()
        .stdout;
    let lines: Vec<&str> = table.lines().collect();
    let heading = [
        "SEQ", "TIME", "WHO", "ACTION", "OBJECT", "CHANGED", "WEAKENS",
    ];
    assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), heading);
    assert!(lines[1].ends_with("delete   route/r      all"), "{table}");
    assert!(lines[2].ends_with("update   route/r      /uri"), "{table}");
    let none = a6.run(&["audit", "list", "--kind", "ssl", "-o", "table"]);
    assert_eq!(none.expect_success().stdout, "No changes found.\n");
    a6.run(&["audit", "list", "--kind", "consumer"]).expect_failure(
        "API error (status 400): invalid argument kind: it must be ssl, upstream, service, route \
         or secret",
    );
}

#[test]
fn what_a_change_makes_less_strict_is_in_its_record() {
    let gateway = Gateway::start();
    let a6 = A6::at(&gateway);
    let ca = Ca::root("Upstream CA");
    let mut upstream = json!({"id": "u", "scheme": "https", "pass_host": "node",
        "nodes": {"up.example.com:443": 1}, "tls": {"verify": true, "ca_certs": [ca.pem()]}});
    for verify in [true, false] {
        upstream["tls"]["verify"] = verify.into();
        a6.feed(&["upstream", "create", "-f", "-"], &upstream.to_string())
            .expect_success();
    }
    let told = a6
        .run(&["audit", "list", "--weakens"])
        .expect_success()
        .json();
    assert_eq!(numbers(&told), [2]);
    assert_eq!(told[0]["changed"], json!(["/tls/verify"]));
    assert_eq!(told[0]["weakens"].as_array().unwrap().len(), 1);
}

/// A server may give less than was asked for, as where a filter looks at very many records.
#[test]
fn record_is_read_page_by_page_as_far_as_was_asked() {
    let server = TcpOrigin::talking(|head| {
        let (_, rest) = head.split_once("before=").unwrap_or(("", "8 "));
        let before: u64 = rest.split(['&', ' ']).next().unwrap().parse().unwrap();
        let list: Vec<Value> = (1..before)
            .rev()
            .take(3)
            .map(|seq| json!({"seq": seq}))
            .collect();
        let next = before.checked_sub(3).filter(|next| *next > 1);
        ok(&json!({"total": 7, "list": list, "next": next}).to_string())
    });
    let a6 = A6::of(&format!("http://{}", server.node()));
    let listed = |limit: &str| {
        let told = a6.run(&["audit", "list", "--verbose", "-n", limit]);
        let told = told.expect_success();
        (numbers(&told.json()), told.stderr)
    };
    let path = format!("GET http://{}/portcullis/v1/audit?limit=", server.node());
    let (all, said) = listed("9");
    assert_eq!(all, [7, 6, 5, 4, 3, 2, 1]);
    let asked = ["9", "6&before=5", "3&before=2"].map(|rest| format!("{path}{rest} 200\n"));
    assert_eq!(said, asked.concat());
    let (some, said) = listed("3");
    assert_eq!(
        (some.as_slice(), said),
        (&[7, 6, 5][..], format!("{path}3 200\n"))
    );
}

#[test]
fn record_that_was_tampered_with_is_told_by_its_number() {
    let (gateway, a6) = stage();
    let verified = a6.run(&["audit", "verify"]).expect_success().stdout;
    assert!(
        verified.starts_with("valid: true\naudit_count: 4\n"),
        "{verified}"
    );
    let head = a6.run(&["audit", "verify", "-o", "json"]).json()["audit_mac"].clone();

    let setup = Setup::default().data(&gateway.data());
    let path = setup.data_path();
    // What the process log noted is what is verified.
    let stopped = gateway.stop();
    let noted = stopped.logs.iter().rfind(|line| line["audit_count"] == 4);
    assert_eq!(noted.expect("a line with the head")["audit_mac"], head);
    Connection::open(path.join("portcullis.db"))
        .unwrap()
        .execute("UPDATE audit SET actor = 'nobody' WHERE seq = 2", [])
        .unwrap();

    let gateway = setup.start();
    let a6 = A6::at(&gateway);
    let sentence = "the audit chain is broken at record 2: it was altered, or a record before it \
                    is gone";
    a6.run(&["audit", "verify"]).expect_failure(sentence);
    let told = a6.run(&["audit", "verify", "-o", "json"]);
    assert_eq!(told.status.code(), Some(1));
    let told = told.json();
    assert_eq!(
        (&told["valid"], &told["broken_at"]),
        (&json!(false), &json!(2))
    );
}
