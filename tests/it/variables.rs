//! Routes that ask for variables: those of the request, and those of the client's certificate in
//! exactly nginx's words.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::Curl;
use crate::support::origin::{Nginx, Origin, seen};
use crate::support::pki::{Ca, Leaf, Pair, PairFiles, Validity};
use crate::support::raw::{RawClient, request};
use crate::support::site::Site;
use crate::support::tls::TlsClient;
use crate::support::{TlsVersion, gateway::Gateway};

const NAME: &str = "api.example.com";
/// The CA's name at the site below; a stranger's has the same.
const CA_NAME: &str = "Client CA";

/// What curl offers both, so that they agree on the same.
const CHOSEN: [&str; 6] = [
    "--ciphers",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "--tls13-ciphers",
    "TLS_AES_128_GCM_SHA256",
    "--curves",
    "P-256",
];

/// Variables of a connection and its certificate that nginx has as well.
const OF_NGINX: [&str; 16] = [
    "ssl_client_verify",
    "ssl_client_s_dn",
    "ssl_client_i_dn",
    "ssl_client_serial",
    "ssl_client_fingerprint",
    "ssl_client_v_start",
    "ssl_client_v_end",
    "ssl_client_v_remain",
    "ssl_client_escaped_cert",
    "ssl_server_name",
    "ssl_protocol",
    "ssl_cipher",
    "ssl_curve",
    "ssl_session_reused",
    "ssl_alpn_protocol",
    "scheme",
];

/// A gateway with routes that ask, before an nginx that says which was taken.
struct Asking {
    gateway: Gateway,
    origin: Origin,
    client: RawClient,
}

impl Asking {
    #[track_caller]
    fn start() -> Self {
        let gateway = Gateway::start();
        Self {
            origin: Origin::nginx(&Nginx::default()),
            client: gateway.connect(),
            gateway,
        }
    }

    /// Puts a route that is told by its id. Returns the reply's head, with its warnings.
    #[track_caller]
    fn route(&self, id: &str, uri: &str, vars: &Value) -> String {
        put_route(&self.gateway, &self.origin, id, uri, vars)
    }

    /// The route that a request takes, else its status.
    #[track_caller]
    fn taken(&mut self, method: &str, target: &str, lines: &[&str]) -> String {
        self.client
            .send(request(method, "h.example", target, lines));
        let reply = self.client.read_reply();
        match reply.status {
            200 => seen(&reply.text(), "host").to_owned(),
            status => status.to_string(),
        }
    }
}

#[track_caller]
fn put_route(gateway: &Gateway, origin: &Origin, id: &str, uri: &str, vars: &Value) -> String {
    let upstream = json!({
        "pass_host": "rewrite", "upstream_host": id, "nodes": {origin.node(): 1},
    });
    let route = json!({"uri": uri, "vars": vars, "upstream": upstream});
    let reply = gateway.admin_put(&format!("/routes/{id}"), &route);
    assert!(matches!(reply.status, Some(200 | 201)), "{reply:?}");
    reply.head
}

#[test]
fn route_takes_the_requests_that_its_vars_hold_for_and_leaves_the_rest() {
    let mut asking = Asking::start();
    asking.route("all", "/*", &json!([]));
    for (id, vars) in [
        ("arg", json!([["arg_a", "==", "x y"]])),
        ("number", json!([["arg_n", ">", 5], ["arg_n", "<=", "10"]])),
        ("header", json!([["http_x_api_version", "~~", "^v[12]$"]])),
        ("cookie", json!([["cookie_sid", "in", ["s1", "s2"]]])),
        ("method", json!([["request_method", "PURGE"]])),
        (
            "either",
            json!([
                "OR",
                ["arg_e", "1"],
                ["AND", ["arg_f", "1"], ["arg_g", "1"]]
            ]),
        ),
        (
            "neither",
            json!([["arg_h", "1"], ["!OR", ["arg_i", "1"], ["arg_j", "1"]]]),
        ),
        (
            "address",
            json!([
                ["arg_k", "1"],
                ["remote_addr", "ipmatch", ["127.0.0.0/8", "::1"]]
            ]),
        ),
        (
            "elsewhere",
            json!([["arg_k", "1"], ["remote_addr", "ipmatch", "192.0.2.0/24"]]),
        ),
        (
            "absent",
            json!([["arg_l", "1"], ["http_x_none", "==", null]]),
        ),
    ] {
        asking.route(id, &format!("/{id}"), &vars);
    }
    for (method, target, lines, wanted) in [
        ("GET", "/arg?a=x%20y", &[][..], "arg"),
        ("GET", "/arg?b=1&%61=x+y&a=z", &[], "arg"),
        ("GET", "/arg?a=z&a=x+y", &[], "all"),
        ("GET", "/arg?A=x+y", &[], "all"),
        ("GET", "/arg", &[], "all"),
        ("GET", "/number?n=10", &[], "number"),
        ("GET", "/number?n=5", &[], "all"),
        ("GET", "/number?n=x", &[], "all"),
        ("GET", "/header", &["X-Api-Version: v2"], "header"),
        ("GET", "/header", &["X_Api_Version: v2"], "header"),
        ("GET", "/header", &["X-Api-Version: v3"], "all"),
        (
            "GET",
            "/header",
            &["X-Api-Version: v1", "X-Api-Version: v2"],
            "all",
        ),
        ("GET", "/cookie", &["Cookie: a=b; sid=s2"], "cookie"),
        ("GET", "/cookie", &["Cookie: a=sid=s2"], "all"),
        ("PURGE", "/method", &[], "method"),
        ("GET", "/method", &[], "all"),
        ("GET", "/either?e=1", &[], "either"),
        ("GET", "/either?f=1&g=1", &[], "either"),
        ("GET", "/either?f=1", &[], "all"),
        ("GET", "/neither?h=1", &[], "neither"),
        ("GET", "/neither?h=1&j=1", &[], "all"),
        ("GET", "/address?k=1", &[], "address"),
        ("GET", "/elsewhere?k=1", &[], "all"),
        ("GET", "/absent?l=1", &[], "absent"),
        ("GET", "/absent?l=1", &["X-None: "], "all"),
    ] {
        let taken = asking.taken(method, target, lines);
        assert_eq!(taken, wanted, "{method} {target} {lines:?}");
    }
}

#[test]
fn variables_of_a_request_are_what_was_sent_and_observed() {
    let mut asking = Asking::start();
    asking.route("all", "/*", &json!([]));
    let port = asking.gateway.port("http").to_string();
    let target = "/x//%79/../%7A?q=1&r=%20";
    for (variable, value) in [
        ("uri", "/x/z"),
        ("document_uri", "/x/z"),
        ("request_uri", target),
        ("args", "q=1&r=%20"),
        ("query_string", "q=1&r=%20"),
        ("is_args", "?"),
        ("host", "h.example"),
        ("http_host", "h.example"),
        ("server_protocol", "HTTP/1.1"),
        ("http_version", "1.1"),
        ("scheme", "http"),
        ("https", ""),
        ("remote_addr", "127.0.0.1"),
        ("server_addr", "127.0.0.1"),
        ("server_port", &port),
        ("content_type", "text/plain"),
        ("content_length", "0"),
        ("http_connection", "x-own"),
        ("http_x_forwarded_for", "192.0.2.1, 192.0.2.2"),
        // What a client could claim of its connection is what was observed of it.
        ("http_x_real_ip", "127.0.0.1"),
        ("http_x_forwarded_proto", "http"),
        ("http_x_forwarded_host", "h.example"),
        ("http_x_forwarded_port", &port),
    ] {
        asking.route("asks", "/x/z", &json!([[variable, "==", value]]));
        let lines = [
            "Content-Type: text/plain",
            "Content-Length: 0",
            "Connection: x-own",
            "X-Forwarded-For: 192.0.2.1",
            "X-Forwarded-For: 192.0.2.2",
            "X-Real-IP: 192.0.2.1",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: other.example",
            "X-Forwarded-Port: 443",
        ];
        assert_eq!(asking.taken("GET", target, &lines), "asks", "{variable}");
        asking.route("asks", "/x/z", &json!([[variable, "~=", value]]));
        assert_eq!(asking.taken("GET", target, &lines), "all", "{variable}");
    }
    for vars in [
        json!([["hostname", "~~", "."], ["remote_port", ">", 0]]),
        json!([["request_id", "~~", "^[0-9a-f-]{8,}$"]]),
        // Nothing of TLS in the clear.
        json!([
            ["ssl_client_verify", "==", null],
            ["ssl_protocol", "==", null]
        ]),
        json!([
            ["ssl_client_s_dn", "==", null],
            ["ssl_session_reused", "==", null]
        ]),
    ] {
        asking.route("asks", "/x/z", &vars);
        assert_eq!(asking.taken("GET", target, &[]), "asks", "{vars}");
    }
}

#[test]
fn header_that_claims_an_identity_is_absent() {
    let mut asking = Asking::start();
    asking.route("all", "/*", &json!([]));
    for (variable, line) in [
        ("http_x_ssl_client_verify", "X-SSL-Client-Verify: SUCCESS"),
        ("http_x_ssl_client_verify", "x_ssl_client_verify: SUCCESS"),
        ("http_ssl_client_s_dn", "SSL-Client-S-DN: SUCCESS"),
        (
            "http_x_forwarded_client_cert",
            "X-Forwarded-Client-Cert: SUCCESS",
        ),
        ("http_client_cert", "Client-Cert: SUCCESS"),
    ] {
        asking.route("asks", "/x", &json!([[variable, "==", "SUCCESS"]]));
        assert_eq!(asking.taken("GET", "/x", &[line]), "all", "{line}");
    }
    // An ordinary one is not.
    asking.route("asks", "/x", &json!([["http_x_role", "==", "SUCCESS"]]));
    assert_eq!(asking.taken("GET", "/x", &["X-Role: SUCCESS"]), "asks");
}

#[test]
fn expression_that_cannot_be_meant_is_refused_and_a_misspelt_name_told() {
    let mut asking = Asking::start();
    let put = |vars: Value| {
        let route = json!({"uri": "/*", "vars": vars, "upstream": {"nodes": {"127.0.0.1:1": 1}}});
        asking.gateway.admin_put("/routes/bad", &route)
    };
    for (vars, reason) in [
        (json!([["arg_a"]]), "rule too short"),
        (json!([["arg_a", "=", "1"]]), "invalid operator '='"),
        (
            json!(["arg_a", "==", "1"]),
            "rule should be wrapped inside brackets",
        ),
        (
            json!([["remote_addr", "ipmatch", "10.0.0.0/33"]]),
            "invalid ip address",
        ),
    ] {
        let said = put(vars).expect_status(400).json();
        let wanted = format!("failed to validate the 'vars' expression: {reason}");
        assert_eq!(said["error_msg"], json!(wanted));
    }
    asking.gateway.admin_get("/routes/bad").expect_status(404);
    let vars = json!([["ssl_client_verfy", "==", "SUCCESS"]]);
    let warnings = asking.route("typo", "/typo", &vars);
    assert!(
        warnings.contains("did you mean ssl_client_verify?"),
        "{warnings}"
    );
    assert_eq!(asking.taken("GET", "/typo", &[]), "404");
    // Whoever takes conditions away is told as well.
    asking.route("typo", "/typo", &json!([["arg_a", "1"]]));
    let warnings = asking.route("typo", "/typo", &json!([]));
    assert!(warnings.contains("`vars` is gone"), "{warnings}");
    assert_eq!(asking.taken("GET", "/typo", &[]), "typo");
}

/// A site whose name asks for certificates of a CA, an nginx that asks for the same, and a client.
struct Compared {
    site: Site,
    nginx: Origin,
    origin: Origin,
    alice: Pair,
    good: PairFiles,
    expired: PairFiles,
    stranger: PairFiles,
}

impl Compared {
    #[track_caller]
    fn start(mode: &str, skip: &Value, nginx_verify: &str) -> Self {
        Self::at(Site::start(), mode, skip, nginx_verify)
    }

    #[track_caller]
    fn at(site: Site, mode: &str, skip: &Value, nginx_verify: &str) -> Self {
        let ca = Ca::root(CA_NAME);
        let mut client = json!({"ca": ca.pem(), "mode": mode});
        if !skip.is_null() {
            client["skip_mtls_uri_regex"] = skip.clone();
        }
        site.put_ssl("mtls", NAME, &json!({"client": client}));
        let told: String = OF_NGINX
            .iter()
            .map(|name| format!("{name}=${name}\n"))
            .collect();
        let nginx = Origin::nginx(&Nginx {
            tls: Some(site.ca.server(NAME)),
            directives: format!(
                "ssl_client_certificate client.crt; ssl_verify_client {nginx_verify};
                 location /facts {{ default_type text/plain; return 200 \"{told}\"; }}"
            ),
            files: vec![("client.crt".to_owned(), ca.pem())],
            ..Nginx::default()
        });
        let leaf = Leaf {
            dns_names: vec!["one.example".to_owned(), "two.example".to_owned()],
            uris: vec!["spiffe://example/one".to_owned()],
            emails: vec!["a@one.example".to_owned(), "b@one.example".to_owned()],
            // Half a day more than whole ones, for what is told in days.
            validity: Validity::For(Duration::from_secs(20 * 86_400 + 43_200)),
            ..Leaf::client("Zoë, \"the\" client + more")
        };
        let alice = ca.issue(&leaf);
        Self {
            good: site.write(&alice, "good"),
            alice,
            expired: site.write(
                &ca.issue(&Leaf {
                    validity: Validity::Expired,
                    ..Leaf::client("late")
                }),
                "expired",
            ),
            stranger: site.write(&Ca::root(CA_NAME).client("stranger"), "stranger"),
            origin: Origin::nginx(&Nginx::default()),
            nginx,
            site,
        }
    }

    /// What nginx calls a connection of this client.
    #[track_caller]
    fn told(&self, version: TlsVersion, files: &PairFiles) -> String {
        let url = format!("https://{NAME}:{}/facts", self.nginx.port());
        Curl::new(&url)
            .args(&["-k"])
            .args(&CHOSEN)
            .resolve(NAME, self.nginx.port())
            .tls(version)
            .cert(files)
            .send()
            .expect_status(200)
            .body
    }

    /// Whether the gateway takes a route that asks for these, for this client.
    #[track_caller]
    fn holds(&self, version: TlsVersion, files: &PairFiles, vars: &Value) -> bool {
        put_route(&self.site.gateway, &self.origin, "asks", "/facts", vars);
        let curl = self.site.ask(NAME, "/facts").tls(version).args(&CHOSEN);
        let reply = curl.cert(files).send();
        seen(&reply.expect_status(200).body, "host") == "asks"
    }
}

#[test]
fn variables_of_a_certificate_are_spelled_as_nginx_spells_them() {
    let compared = Compared::start("required", &Value::Null, "on");
    for version in TlsVersion::ALL {
        let told = compared.told(version, &compared.good);
        for variable in OF_NGINX {
            let value = seen(&told, variable);
            assert!(!value.is_empty(), "{variable} in {told}");
            let vars = json!([[variable, "==", value]]);
            let holds = compared.holds(version, &compared.good, &vars);
            assert!(holds, "{variable} is not {value} on {version:?}");
        }
        for (vars, wanted) in [
            (json!([["ssl_client_san_dns", "has", "two.example"]]), true),
            (
                json!([["ssl_client_san_dns", "has", "three.example"]]),
                false,
            ),
            (
                json!([["ssl_client_san_dns", "==", "one.example,two.example"]]),
                true,
            ),
            (
                json!([["ssl_client_san_uri", "==", "spiffe://example/one"]]),
                true,
            ),
            (
                json!([["ssl_client_san_uri", "has", "spiffe://example/two"]]),
                false,
            ),
            (
                json!([["ssl_client_san_email", "has", "b@one.example"]]),
                true,
            ),
            (
                json!([["ssl_client_san_email", "has", "one.example"]]),
                false,
            ),
            (
                json!([["ssl_client_cert", "~~", "^-----BEGIN CERT.*\n\t"]]),
                true,
            ),
            (json!([["ssl_client_raw_cert", "~~", "-----\n$"]]), true),
            (json!([["ssl_client_s_dn", "~~", "CN=client$"]]), false),
        ] {
            let holds = compared.holds(version, &compared.good, &vars);
            assert_eq!(holds, wanted, "{vars} on {version:?}");
        }
    }
}

#[test]
fn variables_of_a_resumed_connection_are_as_in_nginx() {
    for site in Site::each_way() {
        let compared = Compared::at(site, "required", &Value::Null, "on");
        for version in TlsVersion::ALL {
            let [theirs, ours] = [
                TlsClient::new(compared.nginx.port()).sni(NAME),
                compared.site.client(NAME),
            ]
            .map(|client| {
                let client = client.tls(version).cert(&compared.alice);
                let mut conn = client.connect().unwrap();
                assert_eq!(conn.get(NAME, "/facts").unwrap().status, 200);
                client.session(&conn.session())
            });
            let resumed = |client: &TlsClient| {
                let mut conn = client.connect().unwrap();
                assert!(conn.is_resumed(), "{version:?}");
                conn.get(NAME, "/facts").unwrap().body
            };
            let told = resumed(&theirs);
            assert_eq!(seen(&told, "ssl_session_reused"), "r");
            for variable in [
                "ssl_session_reused",
                "ssl_client_verify",
                "ssl_client_s_dn",
                "ssl_client_i_dn",
                "ssl_client_serial",
                "ssl_client_fingerprint",
                "ssl_client_escaped_cert",
                "ssl_server_name",
                "ssl_protocol",
            ] {
                let vars = json!([[variable, "==", seen(&told, variable)]]);
                let (gateway, origin) = (&compared.site.gateway, &compared.origin);
                put_route(gateway, origin, "asks", "/facts", &vars);
                assert_eq!(seen(&resumed(&ours), "host"), "asks", "{vars} {version:?}");
            }
        }
    }
}

#[test]
fn certificate_that_does_not_pass_is_told_as_nginx_tells_it_and_says_nothing_else() {
    let nginx = "optional; error_page 495 =200 /facts";
    let compared = Compared::start("deferred", &json!(["^/facts"]), nginx);
    for version in TlsVersion::ALL {
        let told = compared.told(version, &compared.expired);
        let verdict = seen(&told, "ssl_client_verify");
        assert_eq!(verdict, "FAILED:certificate has expired", "{told}");
        let says = |variable: &str, value: Value| json!([[variable, "==", value]]);
        let failed = json!([[
            "ssl_client_verify",
            "~~",
            "^FAILED:unable to get local issuer"
        ]]);
        for (files, vars, wanted) in [
            (
                &compared.expired,
                says("ssl_client_verify", verdict.into()),
                true,
            ),
            (
                &compared.expired,
                says("ssl_client_s_dn", Value::Null),
                true,
            ),
            (&compared.stranger, failed, true),
            (
                &compared.stranger,
                says("ssl_client_s_dn", Value::Null),
                true,
            ),
            (
                &compared.stranger,
                says("ssl_client_serial", Value::Null),
                true,
            ),
            (
                &compared.stranger,
                says("ssl_client_escaped_cert", Value::Null),
                true,
            ),
            (
                &compared.good,
                says("ssl_client_verify", "SUCCESS".into()),
                true,
            ),
            (&compared.good, says("ssl_client_s_dn", Value::Null), false),
        ] {
            let holds = compared.holds(version, files, &vars);
            assert_eq!(holds, wanted, "{vars} on {version:?}");
        }
        let vars = json!([
            ["ssl_client_verify", "==", "NONE"],
            ["ssl_client_s_dn", "==", null]
        ]);
        put_route(
            &compared.site.gateway,
            &compared.origin,
            "asks",
            "/facts",
            &vars,
        );
        let reply = compared.site.ask(NAME, "/facts").tls(version).send();
        assert_eq!(seen(&reply.expect_status(200).body, "host"), "asks");
    }
}

#[test]
fn name_that_asks_for_no_certificate_does_not_hear_of_one() {
    let compared = Compared::start("required", &Value::Null, "on");
    let site = &compared.site;
    let vars = json!([["ssl_client_verify", "==", "SUCCESS"]]);
    put_route(&site.gateway, &compared.origin, "asks", "/facts", &vars);
    for version in TlsVersion::ALL {
        let ask = |host: &str| {
            let curl = site.ask(NAME, "/facts").tls(version).cert(&compared.good);
            let reply = curl
                .header(&format!("Host: {host}"))
                .send()
                .expect_status(200);
            seen(&reply.body, "host").to_owned()
        };
        assert_eq!(ask(NAME), "asks");
        // The connection's certificate was judged for another name, by its CA.
        assert_eq!(ask("open.example.com"), "open.example.com");
    }
}

#[test]
fn http_2_has_the_same_variables() {
    let compared = Compared::start("required", &Value::Null, "on");
    let site = &compared.site;
    for (variable, value) in [
        ("server_protocol", "HTTP/2.0"),
        ("ssl_alpn_protocol", "h2"),
        ("host", NAME),
        ("ssl_client_verify", "SUCCESS"),
        ("request_uri", "/facts?x=1"),
        ("cookie_b", "2"),
        ("http_cookie", "a=1; b=2"),
    ] {
        let vars = json!([[variable, "==", value]]);
        put_route(&site.gateway, &compared.origin, "asks", "/facts", &vars);
        let curl = site.ask(NAME, "/facts?x=1").http2().cert(&compared.good);
        let reply = curl.header("Cookie: a=1; b=2").send().expect_status(200);
        assert_eq!(seen(&reply.body, "host"), "asks", "{variable}");
    }
}
