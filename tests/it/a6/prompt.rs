//! A terminal: questions, tables and formats where someone reads them.

use crate::support::a6::A6;
use crate::support::gateway::Gateway;

fn with_upstream(gateway: &Gateway) -> A6 {
    let a6 = A6::at(gateway);
    a6.feed(
        &["upstream", "create", "-f", "-"],
        r#"{"id":"u","nodes":{"a:1":1}}"#,
    )
    .expect_success();
    a6
}

#[test]
fn deletion_is_asked_for_and_only_a_yes_deletes() {
    let gateway = Gateway::start();
    let a6 = with_upstream(&gateway);
    for answer in ["\n", "n\n"] {
        let asked = a6.on_terminal("upstream delete u", answer).expect_success();
        assert!(
            asked.stdout.contains("Delete Upstream u? (y/N): "),
            "{asked:?}"
        );
        assert!(asked.stdout.contains("Aborted."), "{asked:?}");
        a6.run(&["upstream", "get", "u"]).expect_success();
    }
    let asked = a6.on_terminal("upstream delete u", "y\n").expect_success();
    assert!(asked.stdout.contains("✓ Upstream u deleted."), "{asked:?}");
    a6.run(&["upstream", "get", "u"])
        .expect_failure("resource not found");
}

#[test]
fn nobody_is_asked_with_force() {
    let gateway = Gateway::start();
    let a6 = with_upstream(&gateway);
    let told = a6
        .on_terminal("upstream delete u --force", "")
        .expect_success();
    assert!(!told.stdout.contains("(y/N)"), "{told:?}");
    a6.run(&["upstream", "get", "u"])
        .expect_failure("resource not found");
}

#[test]
fn people_get_tables_and_yaml() {
    let gateway = Gateway::start();
    let a6 = with_upstream(&gateway);
    let listed = a6.on_terminal("upstream list", "").expect_success();
    assert!(
        listed.stdout.contains("ID   NAME   TYPE   NODES"),
        "{listed:?}"
    );
    let shown = a6.on_terminal("upstream get u", "").expect_success();
    assert!(
        shown.stdout.contains("nodes:\r\n  \"a:1\": 1\r\n"),
        "{shown:?}"
    );
}

#[test]
fn object_without_an_id_is_chosen_from_a_list() {
    let gateway = Gateway::start();
    let a6 = with_upstream(&gateway);
    let shown = a6.on_terminal("upstream get", "1\n").expect_success();
    assert!(shown.stdout.contains("1  u\r\n"), "{shown:?}");
    assert!(shown.stdout.contains("id: u\r\n"), "{shown:?}");
    let wrong = a6.on_terminal("upstream get", "9\n");
    assert_eq!(wrong.status.code(), Some(1), "{wrong:?}");
}
