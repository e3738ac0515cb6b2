//! Contexts, and the order in which flags, environment and contexts count.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use super::apisix::Apisix;
use crate::support::a6::A6;

#[test]
fn contexts_are_made_used_listed_and_deleted() {
    let a6 = A6::new();
    let create = |name: &str| {
        a6.run(&[
            "context",
            "create",
            name,
            "--server",
            "http://a.test:1",
            "--api-key",
            "hush",
        ])
    };
    a6.run(&["context", "current"])
        .expect_failure("no current context configured; use \"a6 context create\" to add one");
    let none = a6.run(&["context", "list"]).expect_success();
    assert_eq!(
        none.stdout,
        "No contexts configured. Use \"a6 context create\" to add one.\n"
    );
    assert_eq!(
        create("one").expect_success().stdout,
        "✓ Context \"one\" created and saved.\n✓ Context \"one\" set as current context.\n"
    );
    assert_eq!(
        create("two").expect_success().stdout,
        "✓ Context \"two\" created and saved.\n"
    );
    create("two").expect_failure("context \"two\" already exists");
    assert_eq!(
        a6.run(&["context", "use", "two"]).expect_success().stdout,
        "✓ Switched to context \"two\".\n"
    );
    a6.run(&["context", "use", "no"])
        .expect_failure("context \"no\" not found");
    assert_eq!(a6.run(&["context", "current"]).stdout, "two\n");
    let listed = a6.run(&["context", "ls"]).expect_success();
    assert_eq!(
        listed.json(),
        json!([
            {"name": "one", "server": "http://a.test:1", "current": false},
            {"name": "two", "server": "http://a.test:1", "current": true},
        ])
    );
    let table = a6.run(&["context", "list", "-o", "table"]).stdout;
    assert_eq!(
        table,
        "NAME   SERVER            CURRENT\none    http://a.test:1\ntwo    http://a.test:1   *\n"
    );
    assert_eq!(
        a6.run(&["context", "rm", "two"]).expect_success().stdout,
        "✓ Context \"two\" deleted.\n"
    );
    assert_eq!(a6.run(&["context", "current"]).stdout, "one\n");
}

#[test]
fn configuration_file_is_for_its_owner_alone() {
    let a6 = A6::new();
    a6.run(&[
        "context",
        "create",
        "one",
        "--server",
        "http://a",
        "--api-key",
        "hush",
    ])
    .expect_success();
    let file = a6.folder().join(".config/a6/config.yaml");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        "current-context: one\ncontexts:\n  - name: one\n    server: http://a\n    api-key: hush\n"
    );
    let elsewhere = A6::new();
    let folder = elsewhere.folder().join("here").display().to_string();
    let elsewhere = elsewhere.env("A6_CONFIG_DIR", &folder);
    elsewhere
        .run(&["context", "create", "one", "--server", "http://a"])
        .expect_success();
    assert!(elsewhere.folder().join("here/config.yaml").exists());
}

#[test]
fn flag_counts_before_environment_and_that_before_the_context() {
    let (of_flag, of_variable, of_context) = (Apisix::start(), Apisix::start(), Apisix::start());
    let url = |apisix: &Apisix| {
        let told = apisix.a6().bash("echo $A6_SERVER").stdout;
        told.trim().to_owned()
    };
    let a6 = A6::new();
    for (name, server) in [("other", "http://127.0.0.1:9"), ("mine", &url(&of_context))] {
        a6.run(&[
            "context",
            "create",
            name,
            "--server",
            server,
            "--api-key",
            "k",
        ])
        .expect_success();
    }
    a6.run(&["context", "use", "mine"]).expect_success();
    let asked = |apisix: &Apisix| apisix.requests().len();
    a6.run(&["route", "list"]).expect_success();
    assert_eq!(asked(&of_context), 1);
    a6.run(&["context", "use", "other"]).expect_success();
    a6.run(&["route", "list", "--context", "mine"])
        .expect_success();
    assert_eq!(asked(&of_context), 1);
    a6.run(&["--context", "no", "route", "list"])
        .expect_failure("context \"no\" not found");

    let a6 = a6.env("A6_SERVER", &url(&of_variable));
    a6.run(&["route", "list"]).expect_success();
    assert_eq!(asked(&of_variable), 1);
    a6.run(&["route", "list", "--server", &url(&of_flag)])
        .expect_success();
    assert_eq!((asked(&of_flag), asked(&of_variable)), (1, 0));
}

#[test]
fn without_key_or_server_the_remedy_is_named() {
    let a6 = A6::new();
    a6.run(&["ssl", "list"])
        .expect_failure("no API key configured; use 'a6 context create' or set A6_API_KEY");
    a6.run(&["ssl", "list", "--api-key", "k"])
        .expect_failure("no server configured; use 'a6 context create', --server or set A6_SERVER");
    let wrong = a6.run(&[
        "ssl",
        "list",
        "--api-key",
        "k",
        "--server",
        "127.0.0.1:9180",
    ]);
    assert!(wrong.stderr.starts_with("invalid URL"), "{wrong:?}");
    a6.run(&["context", "create", "x"])
        .expect_failure("required flag \"server\" not set");
    a6.run(&["context", "create", "--server", "http://a"])
        .expect_failure("accepts 1 arg(s), received 0");
}
