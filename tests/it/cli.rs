//! The two programs at the prompt: what they print, and their exit codes.

use std::process::Command;

use serde_json::Value;

use crate::support::gateway::Setup;
use crate::support::{Finished, SOON, program, run_to_end};

fn portcullis(args: &[&str]) -> Finished {
    run(env!("CARGO_BIN_EXE_portcullis"), args)
}

fn a6(args: &[&str]) -> Finished {
    run(env!("CARGO_BIN_EXE_a6"), args)
}

fn run(binary: &str, args: &[&str]) -> Finished {
    let mut command = Command::new(binary);
    command.args(args).current_dir(std::env::temp_dir());
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PORTCULLIS_") {
            command.env_remove(name);
        }
    }
    run_to_end(command, b"", SOON)
}

#[test]
fn both_programs_tell_their_version_and_openssl_s() {
    let mut openssl = program("openssl");
    openssl.arg("version");
    let openssl = run_to_end(openssl, b"", SOON).stdout;
    let openssl: Vec<&str> = openssl.split(' ').take(2).collect();
    let version = env!("CARGO_PKG_VERSION");
    for (told, first) in [
        (portcullis(&["version"]), format!("portcullis {version}")),
        (a6(&["version"]), format!("a6 version {version}")),
    ] {
        assert_eq!(told.status.code(), Some(0), "{told:?}");
        assert_eq!(told.stdout.lines().next(), Some(first.as_str()));
        if cfg!(not(feature = "vendored")) {
            assert!(
                told.stdout.contains(&openssl.join(" ")),
                "{told:?} {openssl:?}"
            );
        }
    }
    let json = a6(&["version", "-o", "json"]);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["version"], version);
    assert_eq!(json["fips"], false);
    let yaml = a6(&["-o", "yaml", "version"]);
    assert!(
        yaml.stdout.contains(&format!("version: {version}")),
        "{yaml:?}"
    );
    let xml = a6(&["version", "-o", "xml"]);
    assert_eq!(
        (xml.status.code(), xml.stderr.trim()),
        (Some(1), "unsupported output format: xml")
    );
}

#[test]
fn reason_is_explained_and_an_unknown_one_refused_with_the_nearest() {
    let told = a6(&["explain", "upstream_name_mismatch"]);
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    assert!(
        told.stdout
            .starts_with("upstream_name_mismatch (blame: upstream)\n"),
        "{told:?}"
    );
    assert!(
        told.stdout.contains("Remedy: ") && told.stdout.contains("`tls.server_name`"),
        "{told:?}"
    );

    let near = a6(&["explain", "upstream_name_mismatched"]);
    assert_eq!(near.status.code(), Some(1));
    assert!(
        near.stderr.contains("did you mean upstream_name_mismatch?"),
        "{near:?}"
    );
    assert_eq!(near.stdout, "");
    let far = a6(&["explain", "weather"]);
    assert_eq!(far.status.code(), Some(1));
    assert!(
        far.stderr.contains("`a6 explain` lists them all"),
        "{far:?}"
    );

    let all = a6(&["explain"]);
    assert_eq!(all.status.code(), Some(0));
    assert!(all.stdout.lines().any(|line| line == "client_cert_missing"));
    let json: Value = serde_json::from_str(&a6(&["explain", "-o", "json"]).stdout).unwrap();
    assert_eq!(json.as_array().unwrap().len(), all.stdout.lines().count());
}

#[test]
fn wrong_usage_has_a_code_of_its_own() {
    for args in [
        &["servee"][..],
        &["--sett=a"],
        &["check", "--prnt"],
        &["serve", "extra"],
    ] {
        let refused = portcullis(args);
        assert_eq!(refused.status.code(), Some(2), "{args:?} {refused:?}");
        assert!(
            !refused.stderr.is_empty() && refused.stdout.is_empty(),
            "{refused:?}"
        );
    }
    for (args, words) in [
        (&["rout"][..], "unknown command \"rout\" for \"a6\""),
        (&["version", "--nope"], "unknown flag: --nope"),
    ] {
        let refused = a6(args);
        assert_eq!(
            (refused.status.code(), refused.stderr.trim()),
            (Some(1), words)
        );
    }
    for help in [portcullis(&["--help"]), a6(&["--help"])] {
        assert_eq!(help.status.code(), Some(0), "{help:?}");
        assert!(help.stdout.contains("version"), "{help:?}");
    }
}

#[test]
fn file_that_is_not_there_is_refused() {
    let missing = portcullis(&["serve", "--config", "/no/such/portcullis.yaml"]);
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
    assert!(
        missing.stderr.contains("/no/such/portcullis.yaml"),
        "{missing:?}"
    );
    let verify = ["fips", "verify", "report.json", "--key", "public.pem"];
    let standalone = portcullis(&[&verify[..], &["--standalone", "apisix.yaml"]].concat());
    assert_eq!(standalone.status.code(), Some(1), "{standalone:?}");
    let text = "--standalone goes with `serve`, `check` and `fips` only";
    assert!(standalone.stderr.contains(text), "{standalone:?}");
}

#[test]
fn required_fips_module_that_is_missing_ends_the_start_with_78() {
    let folder = tempfile::TempDir::new().unwrap();
    let required = Setup::default()
        .set("fips", "required")
        .set("fips_module_dir", &folder.path().display().to_string());
    let refused = required
        .clone()
        .try_start()
        .expect_err("there is no module");
    assert_eq!(refused.status.code(), Some(78), "{refused:?}");
    let said = format!("{:?}", refused.logs);
    assert!(
        said.contains("`fips: required` is not met") && said.contains("fips.so"),
        "{said}"
    );
    assert!(!required.data_path().exists(), "nothing was made before");
    for verb in ["check", "fips"] {
        let refused = required.run(&[verb]);
        assert_eq!(refused.status.code(), Some(78), "{refused:?}");
        let said = format!("{}{}", refused.stdout, refused.stderr);
        assert!(said.contains("is missing or not readable"), "{said}");
    }
    // A file of that name that is no module is no module.
    for name in ["fips.so", "fipsmodule.cnf"] {
        std::fs::write(folder.path().join(name), "not a module").unwrap();
    }
    let refused = required.try_start().expect_err("that is no module");
    assert_eq!(refused.status.code(), Some(78), "{refused:?}");

    // Without a folder the configuration itself is at fault; without the demand all is well.
    for folder in ["null", "fips/out"] {
        let nowhere = Setup::default()
            .set("fips", "required")
            .set("fips_module_dir", folder)
            .run(&["check"]);
        assert_eq!(nowhere.status.code(), Some(78), "{nowhere:?}");
        assert!(nowhere.stdout.contains("fips_module_dir"), "{nowhere:?}");
    }
    let other = Setup::default().set("workers", "none").run(&["check"]);
    assert_eq!(other.status.code(), Some(1), "{other:?}");
    let off = Setup::default().set("fips", "off").run(&["fips"]);
    let mut lines = off.stdout.lines();
    let says_off = lines.any(|line| line.starts_with("fips:") && line.ends_with(" off"));
    assert!(off.status.code() == Some(1) && says_off, "{off:?}");
}
