//! What clients ask before they write: schemas, and documents judged without being stored.

use serde_json::{Value, json};

use super::{Door, error_msg, ssl, upstream};
use crate::support::client::CurlOutcome;
use crate::support::gateway::Gateway;
use crate::support::pki::Ca;

fn post(door: Door, gateway: &Gateway, path: &str, body: &str) -> CurlOutcome {
    door.ask(gateway, "POST", path).body(body).send()
}

#[test]
fn schema_of_each_kind_accepts_what_the_gateway_accepts() {
    let gateway = Gateway::start();
    let pair = Ca::root("CA").server("api.example.com");
    for door in Door::ALL {
        for (singular, plural, good, bad) in [
            (
                "route",
                "routes",
                json!({"uri": "/a", "upstream": upstream()}),
                json!({"uri": "/a"}),
            ),
            ("service", "services", json!({}), json!({"hosts": []})),
            ("upstream", "upstreams", upstream(), json!({"nodes": 1})),
            (
                "ssl",
                "ssls",
                ssl(&pair, "api.example.com"),
                json!({"sni": "a"}),
            ),
        ] {
            let path = format!("/schema/{singular}");
            let shown = door.ask(&gateway, "GET", &path).send().expect_status(200);
            assert_eq!(shown.json()["type"], "object");
            let path = format!("/schema/validate/{plural}");
            let fits = post(door, &gateway, &path, &good.to_string()).expect_status(200);
            assert_eq!(fits.body, "");
            let refused = post(door, &gateway, &path, &bad.to_string()).expect_status(400);
            let text = error_msg(&refused);
            // The refusal of a write says the same behind a prefix.
            let written = door.put(&gateway, &format!("/{plural}/1"), &bad);
            let told = error_msg(&written.expect_status(400));
            assert_eq!(told, format!("invalid configuration: {text}"));
            let stored = gateway.admin_get(&format!("/{plural}"));
            assert_eq!(stored.json()["total"], 0);
        }
        let unknown = door.ask(&gateway, "GET", "/schema/routes").send();
        let text = error_msg(&unknown.expect_status(400));
        assert_eq!(text, "not found schema: routes");
        post(door, &gateway, "/schema/validate/route", "{}").expect_status(404);
    }
}

#[test]
fn whole_configuration_is_judged_and_not_stored() {
    let gateway = Gateway::start();
    let ca = Ca::root("CA");
    let (one, two) = (ca.server("api.example.com"), ca.server("api.example.com"));
    let configuration = |key: &str| {
        json!({
            "routes": [{"id": "r", "uri": "/a", "service_id": "s"}],
            "services": [{"id": "s", "upstream_id": "u"}],
            "upstreams": [{"id": "u", "nodes": {"127.0.0.1:1980": 1}}],
            "ssls": [{"id": "1", "cert": one.cert, "key": key, "snis": ["api.example.com"]}],
        })
    };
    for door in Door::ALL {
        let check = |body: &Value| post(door, &gateway, "/configs/validate", &body.to_string());
        let fits = check(&configuration(&one.key)).expect_status(200);
        assert_eq!(fits.body, "{}\n");
        let refused = check(&configuration(&two.key)).expect_status(400);
        let errors = refused.json()["errors"].clone();
        assert_eq!(errors.as_array().unwrap().len(), 1, "{errors}");
        assert_eq!(
            (
                &errors[0]["resource_type"],
                &errors[0]["resource_id"],
                &errors[0]["index"]
            ),
            (&json!("ssls"), &json!("1"), &json!(0))
        );
        for line in two.key_lines() {
            assert!(!refused.body.contains(line));
        }
        let yaml = "routes:\n- uri: /a\n  upstream_id: 1\n- uri: [1]\n#END\n";
        let refused = door
            .ask(&gateway, "POST", "/configs/validate")
            .header("Content-Type: application/yaml")
            .body(yaml)
            .send()
            .expect_status(400);
        assert_eq!(refused.json()["errors"][0]["index"], 1, "{refused:?}");
        for kind in ["routes", "services", "upstreams", "ssls"] {
            let stored = gateway.admin_get(&format!("/{kind}"));
            assert_eq!(stored.json()["total"], 0);
        }
    }
}
