//! FIPS mode and a module that fails while it runs: who is served no more, and who is told.

use serde_json::Value;

use crate::support::client::{Curl, CurlOutcome};
use crate::support::fips::{EX_CONFIG, Module};
use crate::support::gateway::{ADMIN_KEY, Gateway};
use crate::support::{SOON, eventually};

#[test]
fn module_that_fails_its_self_test_stops_the_gateway_from_accepting() {
    let Some(module) = Module::copy() else { return };
    let whole = std::fs::read(module.file("fips.so")).unwrap();
    let gateway = module.setup().set("fips_self_test_interval", "1s").start();
    let ready = || Curl::new(&gateway.status_url("/status/ready")).send();
    let gauge = || {
        let page = Curl::new(&gateway.status_url("/apisix/prometheus/metrics")).send();
        page.body.contains("\nportcullis_fips_operational 1\n")
    };
    gateway.expect_log("a self-test of the timer", |line| {
        line.to_string().contains("passed its self-tests")
    });
    self_test(&gateway).expect_status(200);
    ready().expect_status(200);
    assert!(gauge());
    Curl::new(&gateway.http_url("/")).send().expect_status(404);

    module.flip_a_bit();
    eventually(SOON, "readiness turns red", || {
        (ready().status == Some(503)).then_some(())
    });
    assert!(
        ready()
            .body
            .contains("the FIPS module is in its error state")
    );
    assert!(!gauge());
    gateway.expect_log("the reason", |line| {
        let line = line.to_string();
        line.contains("no client is accepted any more") && line.contains("integrity failure")
    });
    // Without the module no key can be compared: the Admin API says that, and the status what is.
    let report = format!(
        "http://127.0.0.1:{}/portcullis/v1/fips",
        gateway.port("admin")
    );
    for told in [
        self_test(&gateway),
        gateway.admin_get("/routes"),
        Curl::new(&report).send(),
    ] {
        let told = told.expect_status(503);
        assert!(
            told.body.contains("the FIPS module is in its error state"),
            "{told:?}"
        );
    }
    for listener in ["http", "https"] {
        let url = format!("http://127.0.0.1:{}/", gateway.port(listener));
        eventually(SOON, "nobody listens", || {
            (Curl::new(&url).send().exit_code == 7).then_some(())
        });
    }
    // Who asks on the machine meets the module's own refusal as long as its file is damaged ...
    let setup = module.setup().data(&gateway.data());
    let told = setup.run(&["fips"]);
    assert_eq!(told.status.code(), Some(EX_CONFIG), "{told:?}");
    assert!(
        told.stderr
            .contains("the FIPS module failed its integrity check"),
        "{told:?}"
    );
    // ... and then what the gateway has left in its store, which is out of order all the same.
    std::fs::write(module.file("fips.so"), whole).unwrap();
    let reported = |failed: bool| {
        eventually(SOON, "the report tells", || {
            let told = setup.run(&["fips", "--json"]);
            let report: Value = serde_json::from_str(&told.stdout).unwrap();
            (report["failure"].is_null() != failed).then_some((report, told))
        })
    };
    let (report, told) = reported(true);
    let failure = report["failure"].as_object().unwrap();
    assert!(
        failure["cause"]
            .as_str()
            .unwrap()
            .contains("integrity failure")
    );
    assert_eq!(report["module"]["state"], "operational");
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    let words = "lost its FIPS module at ";
    assert!(told.stderr.contains(words), "{told:?}");
    let page = setup.run(&["fips"]);
    assert_eq!(page.status.code(), Some(1), "{page:?}");
    let mut lines = page.stdout.lines();
    assert!(
        lines.any(|line| line.starts_with("FAILED: ") && line.contains(words)),
        "{page:?}"
    );
    assert!(gateway.stop().status.success());
    let _anew = setup.clone().start();
    let (_, told) = reported(false);
    assert!(told.status.success(), "{told:?}");
}

/// Has the module test itself now.
fn self_test(gateway: &Gateway) -> CurlOutcome {
    let port = gateway.port("admin");
    Curl::new(&format!(
        "http://127.0.0.1:{port}/portcullis/v1/fips/self-test"
    ))
    .method("POST")
    .header(&format!("X-API-KEY: {}", ADMIN_KEY))
    .send()
}
