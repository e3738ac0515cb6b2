//! Managers that only a proxy reaches.

use std::fs;

use serde_json::json;
use tempfile::TempDir;

use super::{NAME, expect_state, setup, status};
use crate::support::bao::Bao;
use crate::support::client::shown_serial;
use crate::support::forward_proxy::ForwardProxy;
use crate::support::pki::{Ca, Leaf};
use crate::support::{SOON, TlsVersion, eventually};

const PASSWORD: &str = "hush-of-the-proxy";

#[test]
fn manager_is_reached_through_a_proxy_that_learns_no_token() {
    let bao = Bao::start();
    let ca = Ca::root("CA");
    let folder = TempDir::new().unwrap();
    let own = ca.issue(&Leaf {
        addresses: vec!["127.0.0.1".parse().unwrap()],
        ..Leaf::server("proxy.test")
    });
    let credentials = format!("gateway:{PASSWORD}");
    let token = bao.token("1h");
    let password = folder.path().join("password");
    for proxy in [
        ForwardProxy::plain(&credentials),
        ForwardProxy::tls(&credentials, &own),
    ] {
        let pair = ca.server(NAME);
        bao.write("mtls/web", &json!({"cert": pair.cert, "key": pair.key}));
        fs::write(&password, format!("{PASSWORD}\n")).unwrap();
        let setup = setup()
            .set("secrets.vault.trust_file", bao.ca_file().to_str().unwrap())
            .set("secrets.proxy.url", &proxy.url())
            .set("secrets.proxy.username", "gateway")
            .set(
                "secrets.proxy.password",
                &format!("@{}", password.display()),
            )
            .set(
                "secrets.proxy.trust_file",
                ca.write(folder.path(), "ca").to_str().unwrap(),
            )
            // Nobody is asked to read these.
            .env("HTTPS_PROXY", "http://127.0.0.1:1");
        let gateway = setup.clone().start();
        let manager = json!({"uri": bao.url_by_name(), "prefix": "secret/mtls",
                             "kv_version": "kv-v2", "token": token});
        gateway.configure("/secrets/vault/1", &manager);
        let ssl = json!({"cert": "$secret://vault/1/web/cert", "key": "$secret://vault/1/web/key",
                         "snis": [NAME]});
        let taken = gateway.admin_put("/ssls/web", &ssl).expect_status(201);
        assert_eq!(taken.header("x-portcullis-warning"), None, "{taken:?}");
        for version in TlsVersion::ALL {
            let shown = shown_serial(gateway.https_port(), NAME, version);
            assert_eq!(shown, Some(pair.serial()));
        }
        let new = ca.server(NAME);
        bao.write("mtls/web", &json!({"cert": new.cert, "key": new.key}));
        eventually(SOON, "a new value comes by the same way", || {
            let shown = shown_serial(gateway.https_port(), NAME, TlsVersion::V13);
            (shown == Some(new.serial())).then_some(())
        });
        let seen = proxy.seen();
        assert!(seen.contains("CONNECT bao.test:"), "{seen}");
        assert!(!seen.contains(&token) && !seen.contains("x-vault-token"));
        let stopped = gateway.stop();
        let said = format!("{:?}", stopped.logs);
        assert!(!said.contains(PASSWORD) && !said.contains(&token));
        // With a wrong password all that is left is the last good value, and the proxy is named.
        fs::write(&password, "wrong").unwrap();
        let gateway = setup.start();
        let shown = shown_serial(gateway.https_port(), NAME, TlsVersion::V13);
        assert_eq!(shown, Some(new.serial()));
        expect_state(&gateway, "ssls", "web", "/key", "stale");
        let row = status(&gateway, "ssls", "web", "/key").unwrap();
        let told = row["last_error"].as_str().unwrap();
        let expected = format!(
            "by way of the proxy {}: it wants other credentials",
            proxy.url()
        );
        assert!(told.contains(&expected), "{told}");
    }
}
