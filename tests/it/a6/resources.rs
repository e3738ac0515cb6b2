//! The verbs of the five groups against the real gateway.

use serde_json::json;

use crate::support::a6::A6;
use crate::support::gateway::{ADMIN_KEY, Gateway};
use crate::support::pki::Ca;

const NODES: &str = r#"{"nodes":{"127.0.0.1:1":1}}"#;

#[test]
fn several_documents_of_each_kind_of_file_are_created() {
    let gateway = Gateway::start();
    let a6 = A6::at(&gateway);
    let yaml = "id: y1\nuri: /y1\nupstream: {nodes: {\"127.0.0.1:1\": 1}}\n---\n\
                id: y2\nuri: /y2\nupstream:\n  nodes:\n    - {host: 127.0.0.1, port: 1, weight: 1}\n";
    let created = a6
        .feed(&["route", "create", "-f", "-"], yaml)
        .expect_success();
    assert_eq!(
        created.json()[1]["upstream"]["nodes"][0]["host"],
        "127.0.0.1"
    );
    std::fs::create_dir(a6.folder().join("routes")).unwrap();
    a6.write(
        "routes/a.json",
        &format!(r#"{{"id":"j1","uri":"/j1","upstream":{NODES}}}"#),
    );
    a6.write(
        "routes/b.yml",
        "id: j2\nuri: /j2\nupstream: {nodes: {\"127.0.0.1:1\": 1}}\n",
    );
    a6.run(&["route", "create", "-f", "routes"])
        .expect_success();
    let ids: Vec<String> = a6
        .run(&["route", "list"])
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|route| route["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids, ["y1", "y2", "j1", "j2"]);

    let half = "{\"id\":\"ok\",\"uri\":\"/ok\",\"upstream\":{\"nodes\":{\"127.0.0.1:1\":1}}} {\"id\":\"bad\",\"uri\":1}";
    let refused = a6.feed(&["route", "create", "-f", "-"], half);
    assert!(
        refused
            .stderr
            .starts_with("route bad: API error (status 400)"),
        "{refused:?}"
    );
}

#[test]
fn pem_is_taken_from_files_and_keys_never_come_back() {
    let gateway = Gateway::start();
    let a6 = A6::at(&gateway);
    let ca = Ca::root("CA");
    let pair = ca.server("a.test");
    pair.write(a6.folder(), "server");
    ca.write(a6.folder(), "ca");
    let file = "id: a\ncert: \"@server.crt\"\nkey: \"@server.key\"\nsnis: [a.test]\nclient:\n  ca: \"@ca.crt\"\n";
    let created = a6
        .feed(&["ssl", "create", "-f", "-"], file)
        .expect_success();
    assert_eq!(created.json()["cert"], pair.cert);
    assert_eq!(created.json()["client"]["ca"], ca.pem());
    let told = format!("{created:?}{:?}", a6.run(&["ssl", "get", "a"]));
    for line in pair.key_lines() {
        assert!(!told.contains(line), "{told}");
    }
    let missing = a6.feed(
        &["ssl", "create", "-f", "-"],
        "{\"id\":\"b\",\"cert\":\"@no.crt\"}",
    );
    assert!(
        missing.stderr.starts_with("cert: failed to read ./no.crt"),
        "{missing:?}"
    );

    let table = a6.run(&["ssl", "list", "-o", "table"]).stdout;
    let row = table.lines().nth(1).unwrap();
    assert!(
        row.starts_with("a    a.test   enabled   server   2"),
        "{table}"
    );
}

#[test]
fn lines_of_pem_may_be_pasted_into_json() {
    let gateway = Gateway::start();
    let a6 = A6::at(&gateway);
    let pair = Ca::root("CA").server("a.test");
    let (cert, key) = (&pair.cert, &pair.key);
    let pasted = format!(
        "{{\"id\": \"a\",\n\"cert\": \"{cert}\",\n\"key\": \"{key}\",\n\"snis\": [\"a.test\"]}}"
    );
    let created = a6
        .feed(&["ssl", "create", "-f", "-"], &pasted)
        .expect_success();
    assert_eq!(created.json()["cert"], pair.cert);
}

#[test]
fn deletion_of_many_goes_by_label_or_takes_all() {
    let gateway = Gateway::start();
    let a6 = A6::at(&gateway);
    for (id, label) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let route = json!({"id": id, "uri": format!("/{id}"), "labels": {"env": label},
            "upstream": {"nodes": {"127.0.0.1:1": 1}}});
        a6.feed(&["route", "create", "-f", "-"], &route.to_string())
            .expect_success();
    }
    for (args, told) in [
        (
            &["--all", "--label", "a=b"][..],
            "--all and --label are mutually exclusive",
        ),
        (&["a", "--all"], "--all cannot be used with a specific ID"),
        (
            &["a", "--label", "a=b"],
            "--label cannot be used with a specific ID",
        ),
        (&["a", "b"], "accepts at most 1 arg(s), received 2"),
        (
            &[],
            "id argument is required (or run interactively in a terminal)",
        ),
    ] {
        a6.run(&[&["route", "delete"], args].concat())
            .expect_failure(told);
    }
    let listed = a6.run(&["route", "list", "--label", "env=x"]).json();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let deleted = a6
        .run(&["route", "delete", "--label", "env=x"])
        .expect_success();
    assert_eq!(deleted.stdout, "✓ 2 routes deleted.\n");
    let none = a6
        .run(&["route", "delete", "--label", "env=x"])
        .expect_success();
    assert_eq!(
        (none.stdout.as_str(), none.stderr.as_str()),
        ("", "No routes found.\n")
    );
    let rest = a6.run(&["route", "delete", "--all"]).expect_success();
    assert_eq!(rest.stdout, "✓ 1 routes deleted.\n");
}

#[test]
fn export_writes_all_pages_and_a_table_says_that_there_are_more() {
    let gateway = Gateway::start();
    let a6 = A6::at(&gateway);
    let empty = a6.run(&["upstream", "export"]).expect_success();
    assert_eq!(
        (empty.stdout.as_str(), empty.stderr.as_str()),
        ("", "No upstreams found.\n")
    );
    let many: Vec<String> = (0..25)
        .map(|n| format!("{{\"id\":\"u{n:02}\",\"nodes\":{{\"a:1\":1}}}}"))
        .collect();
    a6.feed(&["upstream", "create", "-f", "-"], &many.join("\n"))
        .expect_success();
    for (page, note) in [
        ("1", "note: page 1 of 2; --page 2 shows the next one\n"),
        ("2", ""),
    ] {
        let told = a6.run(&["upstream", "list", "-o", "table", "--page", page]);
        assert_eq!(told.expect_success().stderr, note);
    }
    let listed = a6.run(&["upstream", "list"]).expect_success();
    assert_eq!(listed.stderr, "");
    a6.run(&["upstream", "export", "-f", "out.yaml"])
        .expect_success();
    let written = std::fs::read_to_string(a6.folder().join("out.yaml")).unwrap();
    let start = "- id: u00\n  nodes:\n    \"a:1\": 1\n- id: u01\n";
    assert!(written.starts_with(start), "{written}");
    assert!(!written.contains("_time"), "{written}");
    let again = a6
        .run(&["upstream", "create", "-f", "out.yaml"])
        .expect_success();
    assert_eq!(again.json().as_array().unwrap().len(), 25);
}

#[test]
fn output_is_what_the_flag_says_and_json_in_a_pipe() {
    let gateway = Gateway::start();
    let a6 = A6::at(&gateway);
    let created = a6.feed(
        &["upstream", "create", "-f", "-"],
        r#"{"id":"u","nodes":{"a:1":1}}"#,
    );
    assert!(created.expect_success().stdout.starts_with("{\n  \""));
    let yaml = a6
        .run(&["upstream", "get", "u", "-o", "yaml"])
        .expect_success();
    assert!(yaml.stdout.contains("nodes:\n  \"a:1\": 1\n"), "{yaml:?}");
    a6.run(&["upstream", "get", "u", "-o", "table"])
        .expect_failure("unsupported output format: table");
    let table = a6
        .run(&["upstream", "list", "-o", "table"])
        .expect_success();
    let heading = table.stdout.lines().next().unwrap();
    assert_eq!(heading, "ID   NAME   TYPE   NODES   SCHEME   STATUS");
}

#[test]
fn bare_group_shows_its_help_and_strange_groups_get_a_sentence() {
    let a6 = A6::new();
    let help = a6.run(&["ssl"]).expect_success();
    for verb in ["create", "update", "get", "list", "delete", "export"] {
        assert!(help.stdout.contains(verb), "{help:?}");
    }
    a6.run(&["ssl", "bogus"])
        .expect_failure("unknown command \"bogus\" for \"a6 ssl\"");
    a6.run(&["bogus"])
        .expect_failure("unknown command \"bogus\" for \"a6\"");
    a6.run(&["consumer", "list", "--page", "1"]).expect_failure(
        "`a6 consumer` is not available: this a6 manages ssl, upstream, route, service and \
         secret, not consumers",
    );
    a6.run(&["ssl", "create"])
        .expect_failure("required flag \"file\" not set");
    a6.run(&[
        "ssl",
        "get",
        "a",
        "b",
        "--server",
        "http://127.0.0.1:9",
        "--api-key",
        "k",
    ])
    .expect_failure("accepts at most 1 arg(s), received 2");
}

#[test]
fn health_says_what_the_control_api_says() {
    let gateway = Gateway::start();
    let a6 = A6::at(&gateway);
    a6.feed(
        &["upstream", "create", "-f", "-"],
        r#"{"id":"u","nodes":{"a:1":1}}"#,
    )
    .expect_success();
    let control = gateway.status_url("");
    let told = a6.run(&["upstream", "health", "u", "--control-url", &control]);
    told.expect_failure("resource not found");
    let nodes = r#"{"name":"/upstreams/u","nodes":[{"ip":"10.0.0.1","port":80,"status":"healthy","counter":{"success":3,"http_failure":0,"tcp_failure":1,"timeout_failure":0}}]}"#;
    let fake =
        crate::support::origin::TcpOrigin::talking(move |_| crate::support::origin::ok(nodes));
    let control = format!("http://{}", fake.node());
    let told = a6.run(&[
        "upstream",
        "health",
        "u",
        "--control-url",
        &control,
        "-o",
        "table",
    ]);
    assert_eq!(
        told.expect_success().stdout,
        "NODE          STATUS    SUCCESS   HTTP_FAIL   TCP_FAIL   TIMEOUT\n\
         10.0.0.1:80   healthy   3         0           1          0\n"
    );
    assert!(fake.heads()[0].starts_with("GET /v1/healthcheck/upstreams/u "));
}

#[test]
fn documents_before_a_refused_one_are_shown() {
    let gateway = Gateway::start();
    let a6 = A6::at(&gateway);
    let documents = r#"{"id":"a","nodes":{"a:1":1}} {"id":"b","nodes":{"a:1":-1}} {"id":"c","nodes":{"a:1":1}}"#;
    for verb in ["create", "update"] {
        let told = a6.feed(&["upstream", verb, "-f", "-"], documents);
        assert_eq!(told.status.code(), Some(1), "{told:?}");
        assert_eq!(told.json()["id"], "a");
        if verb == "create" {
            assert!(told.stderr.starts_with("upstream b: API error"), "{told:?}");
        } else {
            assert_eq!(told.stderr.trim_end(), "resource not found");
        }
    }
    a6.run(&["upstream", "get", "c"])
        .expect_failure("resource not found");
}

/// What bash completes a line to, as its readline asks for it.
fn completed(a6: &A6, line: &str) -> Vec<String> {
    let script = format!(
        "source <(a6 completion bash); COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; \
         COMP_WORDBREAKS=$' \\t\\n\"\\'><=;|&(:'; _a6; \
         (( ${{#COMPREPLY[@]}} == 0 )) || printf '%s\\n' \"${{COMPREPLY[@]}}\""
    );
    let told = a6.bash(&script).expect_success().stdout;
    told.lines().map(str::to_owned).collect()
}

/// What zsh completes words to; its own functions for candidates and files are stood in for.
fn completed_by_zsh(a6: &A6, words: &str) -> String {
    let script = format!(
        "zsh -f <<'EOF'\n\
         compadd() {{ shift; print -rl -- \"$@\" }}; _files() {{ print files }}; compdef() {{ : }}\n\
         source <(a6 completion zsh); words=({words}); CURRENT=$#words; _a6\n\
         # As the function of a file, which is first read when it is called.\n\
         unfunction _a6; a6 completion zsh > _a6; fpath=($PWD); autoload _a6; _a6\nEOF"
    );
    a6.bash(&script).expect_success().stdout
}

/// What fish completes a line to.
fn completed_by_fish(a6: &A6, line: &str) -> String {
    let script = format!(
        "HOME=$PWD fish --no-config -c 'a6 completion fish | source; complete -C \"{line}\"'"
    );
    a6.bash(&script).expect_success().stdout
}

#[test]
fn zsh_and_fish_complete_verbs_ids_and_files() {
    let gateway = Gateway::start();
    let a6 = A6::at(&gateway);
    let upstreams = r#"{"id":"up-one","nodes":{"a:1":1}} {"id":"up-two","nodes":{"a:1":1}}"#;
    a6.feed(&["upstream", "create", "-f", "-"], upstreams)
        .expect_success();
    a6.write("up.yaml", "");
    for (line, by_zsh, by_fish) in [
        ("a6 upstr", "upstream\n", "upstream\n"),
        (
            "a6 upstream get up-",
            "up-one\nup-two\n",
            "up-one\nup-two\n",
        ),
        ("a6 route list -o t", "table\n", "table\n"),
        ("a6 upstream create -f up.", "files\n", "up.yaml\n"),
    ] {
        assert_eq!(completed_by_zsh(&a6, line), by_zsh.repeat(2), "{line}");
        assert_eq!(completed_by_fish(&a6, line), by_fish, "{line}");
    }
    let ids_alone = completed_by_fish(&a6, "a6 upstream get ");
    assert_eq!(ids_alone, "up-one\nup-two\n");
}

#[test]
fn completion_runs_nothing_that_a_server_says() {
    let list = |id: &str| {
        json!({"total": 1, "list": [{"key": "/apisix/routes/x",
            "value": {"id": id, "uri": "/", "upstream": {"nodes": {"a:1": 1}}}}]})
    };
    for (id, expected) in [
        ("plain", &["plain"][..]),
        ("$(touch ran)", &[]),
        ("`touch ran`", &[]),
        ("a;touch ran", &[]),
        ("a\u{1b}[2J", &[]),
    ] {
        let body = list(id).to_string();
        let server =
            crate::support::origin::TcpOrigin::talking(move |_| crate::support::origin::ok(&body));
        let a6 = A6::of(&format!("http://{}", server.node()));
        assert_eq!(completed(&a6, "a6 route get "), expected, "{id}");
        assert!(!server.heads().is_empty());
        assert!(!a6.folder().join("ran").exists(), "{id}");
    }
}

#[test]
fn shells_complete_verbs_and_the_servers_ids() {
    let gateway = Gateway::start();
    let a6 = A6::at(&gateway);
    for id in ["alpha", "beta"] {
        let upstream = json!({"id": id, "nodes": {"a:1": 1}}).to_string();
        a6.feed(&["upstream", "create", "-f", "-"], &upstream)
            .expect_success();
    }
    let complete = |line: &str| completed(&a6, line);
    assert_eq!(complete("a6 upst"), ["upstream"]);
    assert_eq!(complete("a6 upstream ge"), ["get"]);
    assert_eq!(complete("a6 upstream get "), ["alpha", "beta"]);
    assert_eq!(complete("a6 upstream delete b"), ["beta"]);
    let server = format!("http://127.0.0.1:{}", gateway.port("admin"));
    let elsewhere = A6::new();
    for (flag, quoted) in [("--server ", ""), ("--server=", ""), ("--server ", "\"")] {
        let line = format!("a6 upstream get {flag}{quoted}{server}{quoted} --api-key {ADMIN_KEY} ");
        assert_eq!(completed(&elsewhere, &line), ["alpha", "beta"], "{line}");
    }
    assert_eq!(complete("a6 upstream list --output=j"), ["json"]);
    a6.feed(&["service", "create", "-f", "-"], "{\"id\": \"shop\"}")
        .expect_success();
    let pair = Ca::root("CA").server("api.example.com");
    let snis = ["b.example.com", "*.example.com", "a.example.com"];
    let ssl = json!({"id": "s", "cert": pair.cert, "key": pair.key, "snis": snis});
    a6.feed(&["ssl", "create", "-f", "-"], &ssl.to_string())
        .expect_success();
    assert_eq!(complete("a6 probe service "), ["shop"]);
    let names = ["a.example.com", "b.example.com"];
    assert_eq!(complete("a6 probe listener "), names);
    assert_eq!(complete("a6 audit list --kind se"), ["secret", "service"]);
    a6.run(&["completion", "tcsh"])
        .expect_failure("invalid argument \"tcsh\" for \"a6 completion\"");
    a6.run(&["completion"])
        .expect_failure("accepts 1 arg(s), received 0");
}
