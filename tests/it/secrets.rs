//! References to secrets: resolved on write, refreshed in the background, their last good values
//! kept.

mod files;
mod kubernetes;
mod proxies;
mod vault;

use serde_json::{Value, json};

use crate::support::client::Curl;
use crate::support::gateway::{ADMIN_KEY, Gateway, Setup};
use crate::support::{SOON, eventually};

const NAME: &str = "api.example.com";

/// A setup whose values are looked at often, so that no test waits long, and whose managers have all the
/// time they need to answer.
fn setup() -> Setup {
    Setup::default()
        .set("secrets.cache_time", "1s")
        .set("secrets.read_timeout", "10s")
        .set("secrets.write_timeout", "15s")
}

/// How a reference of an object fares.
#[track_caller]
fn status(gateway: &Gateway, kind: &str, id: &str, pointer: &str) -> Option<Value> {
    let port = gateway.port("admin");
    let all = Curl::new(&format!("http://127.0.0.1:{port}/portcullis/v1/secrets"))
        .header(&format!("X-API-KEY: {ADMIN_KEY}"))
        .send()
        .expect_status(200)
        .json();
    let list = all["list"].as_array().unwrap().clone();
    let wanted = (json!(kind), json!(id), json!(pointer));
    list.into_iter().find(|row| {
        (
            row["kind"].clone(),
            row["id"].clone(),
            row["pointer"].clone(),
        ) == wanted
    })
}

/// Waits until a reference of an object is in a state.
#[track_caller]
fn expect_state(gateway: &Gateway, kind: &str, id: &str, pointer: &str, state: &str) -> Value {
    let what = format!("{kind} {id}{pointer} is {state}");
    eventually(SOON, &what, || {
        status(gateway, kind, id, pointer).filter(|row| row["state"] == state)
    })
}
